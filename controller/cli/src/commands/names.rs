//! Hosts by name, as people write them into files: one reader for all verbs, which says where in the file a mistake is.

use super::run::{read_file, read_whole};
use crate::exit::Usage;
use std::io;
use std::path::Path;

/// What some editors put before a text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The words of a file, `-` is stdin; # begins a comment. `read` says how a word is meant, or what is wrong with it.
pub fn from_file(path: &Path, read: impl Fn(&str) -> Result<String, String>) -> Result<Vec<String>, Usage> {
    let stdin = path == Path::new("-");
    let called = if stdin { "stdin".to_owned() } else { path.display().to_string() };
    let bytes = if stdin { read_whole(io::stdin().lock()) } else { read_file(path) };
    let bytes = bytes.map_err(|error| Usage(format!("cannot read names of hosts from {called}: {error}")))?;
    let mut names = Vec::new();
    let lines = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes).split(|byte| *byte == b'\n');
    for (number, line) in (1..).zip(lines) {
        let wrong = |what: String| Usage(format!("{called} line {number}: {what}"));
        let line = std::str::from_utf8(line).map_err(|_| wrong("this is no text".to_owned()))?;
        for word in line.split('#').next().unwrap_or_default().split_whitespace() {
            names.push(read(word).map_err(wrong)?);
        }
    }
    if names.is_empty() { Err(Usage(format!("{called} names no host: write one a line"))) } else { Ok(names) }
}

/// Refuses what is an expression over agents where a host is meant: one may be called so, but hardly is, and nobody
/// means that one.
pub fn no_expression(word: &str) -> Result<(), String> {
    match word == "all" || word.contains(['=', '*', '?', '!', '~', '<', '>', '@', '&', '^', '(']) {
        true => Err(format!("{word} is an expression over agents: say -w '{word}'")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn read(content: &[u8]) -> Result<Vec<String>, String> {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(content).expect("written");
        let known = |word: &str| no_expression(word).map(|()| word.to_owned());
        let path = file.path().display().to_string();
        from_file(file.path(), known).map_err(|error| error.0.replace(&path, "FILE"))
    }

    #[test]
    fn names_come_from_a_file() {
        let names = ["web01", "web[02-03]", "db1"].map(str::to_owned).to_vec();
        assert_eq!(read(b"# web\nweb01 web[02-03]  # more\n\n\tdb1\n"), Ok(names.clone()));
        assert_eq!(read(b"\xef\xbb\xbfweb01\r\nweb[02-03]\r\ndb1"), Ok(names));
    }

    #[test]
    fn a_mistake_in_a_file_is_told_with_its_place() {
        for (content, told) in [
            (&b"a\n\nb web*\n"[..], "FILE line 3: web* is an expression over agents: say -w 'web*'"),
            (b"a\n\xff\n", "FILE line 2: this is no text"),
            (b"# all\n", "FILE names no host: write one a line"),
        ] {
            assert_eq!(read(content), Err(told.to_owned()));
        }
        let missing = from_file(Path::new("/nonexistent/hosts"), |_| Ok(String::new())).expect_err("no file");
        assert!(missing.0.contains("/nonexistent/hosts"), "{missing}");
    }
}
