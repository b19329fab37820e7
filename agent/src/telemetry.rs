//! Log lines on stderr: for people, or one JSON object a line (`time`, `level`, `message`, and the event's fields).
//! Written by hand because a serialiser would be the largest part of a small agent.

use crate::settings::{Log, LogFormat};
use std::fmt::{self, Write as _};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Installs the log for the whole process. Called once.
pub fn install(log: Log) {
    let builder = tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(log.level);
    match log.format {
        LogFormat::Text => builder.with_target(false).with_ansi(false).init(),
        LogFormat::Json => builder.event_format(Json).init(),
    }
}

struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        writer.write_str("{\"time\":\"")?;
        SystemTime.format_time(&mut writer)?;
        write!(writer, "\",\"level\":\"{}\"", event.metadata().level())?;
        let mut fields = Fields { line: String::new() };
        event.record(&mut fields);
        writer.write_str(&fields.line)?;
        writer.write_str("}\n")
    }
}

/// `,"name":value` for each field.
struct Fields {
    line: String,
}

impl Fields {
    fn name(&mut self, field: &Field) {
        self.line.push(',');
        self.text(field.name());
        self.line.push(':');
    }

    /// RFC 8259, section 7.
    fn text(&mut self, text: &str) {
        self.line.push('"');
        for character in text.chars() {
            match character {
                '"' | '\\' => self.line.extend(['\\', character]),
                '\0'..='\x1f' | '\x7f' => {
                    // Writing to a String does not fail.
                    let _ = write!(self.line, "\\u{:04x}", u32::from(character));
                }
                other => self.line.push(other),
            }
        }
        self.line.push('"');
    }

    fn bare(&mut self, field: &Field, value: impl fmt::Display) {
        self.name(field);
        let _ = write!(self.line, "{value}");
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.name(field);
        self.text(&format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.name(field);
        self.text(value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.bare(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.bare(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.bare(field, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("one thread").extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn whatever_is_logged_stays_one_line_and_one_object() {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = tracing_subscriber::fmt().event_format(Json).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(task = %"a\"b\\c\n\x1b", count = 3_u64, yes = true, "said");
        });
        let line = String::from_utf8(sink.0.lock().expect("one thread").clone()).expect("UTF-8");
        assert!(line.starts_with("{\"time\":\"2") && line.ends_with("}\n"), "{line}");
        let fields = r#""level":"INFO","message":"said","task":"a\"b\\c\u000a\u001b","count":3,"yes":true}"#;
        assert!(line.contains(fields), "{line}");
        assert_eq!(line.lines().count(), 1);
    }
}
