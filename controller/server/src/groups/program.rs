//! Runs a program that knows groups: the only place where the controller starts one.
//!
//! It gets one word, an empty standard input, a clean environment and a process group of its own; it is killed with that
//! group when it takes too long, prints too much, or nobody waits for it any more.

use super::source::SOURCE_BYTES_MAX;
use muster_proto::text;
use rustix::process::{Pid, Signal, kill_process_group};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};

/// How long it may take.
const TIME_MAX: Duration = Duration::from_secs(10);
/// What is kept of the end of its standard error.
const ERRORS_KEPT: usize = 4 << 10;
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What it prints; otherwise what is wrong with it, as one line.
pub(super) async fn run(program: &Path, argument: &str) -> Result<String, String> {
    let mut child = Command::new(program)
        .arg(argument)
        .env_clear()
        .envs([("PATH", PATH), ("LANG", "C.UTF-8")])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot be started ({error})"))?;
    let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) else {
        return Err("has no output".into());
    };
    // Whatever ends this before the program does ends the program.
    let mut running = Running(child);
    let ended = async {
        let (printed, errors) = tokio::try_join!(all(out), last(err))?;
        // It is reaped here and not before: until then its number is nobody else's.
        let status = running.0.wait().await.map_err(|error| format!("cannot be waited for ({error})"))?;
        Ok((printed, errors, status))
    };
    let (printed, errors, status) = tokio::time::timeout(TIME_MAX, ended)
        .await
        .unwrap_or_else(|_| Err(format!("did not end within {} s and was killed", TIME_MAX.as_secs())))?;
    if !status.success() {
        let said = errors.lines().rfind(|line| !line.trim().is_empty()).map(text::line);
        return Err(format!("ended with {status}{}", said.map(|said| format!(": {said}")).unwrap_or_default()));
    }
    String::from_utf8(printed).map_err(|_| "printed what is no text".to_owned())
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // `id` is none once it was reaped.
        let group = self.0.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        if let Some(group) = group {
            // They are gone, or about to be.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

async fn all(out: impl AsyncRead + Unpin) -> Result<Vec<u8>, String> {
    let mut printed = Vec::new();
    let read = out.take(SOURCE_BYTES_MAX as u64 + 1).read_to_end(&mut printed).await;
    read.map_err(|error| format!("cannot be read ({error})"))?;
    if printed.len() > SOURCE_BYTES_MAX {
        return Err(format!("printed more than {} MiB and was killed", SOURCE_BYTES_MAX >> 20));
    }
    Ok(printed)
}

async fn last(mut err: impl AsyncRead + Unpin) -> Result<String, String> {
    let (mut kept, mut piece) = (Vec::new(), [0; ERRORS_KEPT]);
    loop {
        match err.read(&mut piece).await {
            Ok(0) => return Ok(String::from_utf8_lossy(&kept).into_owned()),
            Ok(read) => {
                kept.extend_from_slice(&piece[..read]);
                let old = kept.len().saturating_sub(ERRORS_KEPT);
                kept.drain(..old);
            }
            Err(error) => return Err(format!("cannot be read ({error})")),
        }
    }
}
