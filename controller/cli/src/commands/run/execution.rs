//! What is executed: the words and the options of execution, as a command and the blobs that travel with it.

use crate::args;
use crate::exit::Usage;
use bytes::Bytes;
use muster_proto::command::{BlobRef, Command, EnvVar, OutputLimit, Program};
use muster_proto::limits;
use sha2::{Digest as _, Sha256};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

/// The options.
#[derive(Debug, Default, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Execution")]
pub struct Execution {
    /// User to become on the host
    #[arg(long, value_name = "USER")]
    run_as: Option<String>,
    /// Variable for the program; may be repeated
    #[arg(short = 'e', long = "env", value_name = "NAME=VALUE")]
    env: Vec<OsString>,
    /// Absolute directory to start in
    #[arg(long, value_name = "DIR")]
    cwd: Option<OsString>,
    /// Read all of our stdin and give it to the program on each host
    #[arg(long)]
    stdin: bool,
    /// The words, joined by spaces, are a shell line
    #[arg(long, conflicts_with = "script")]
    sh: bool,
    /// Carry this file along and execute it; the words are its arguments
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
    /// Output kept of each host, as 1M: four fifths from its beginning, the rest from its end [default: 16M and 4M];
    /// none keeps all, and a program that is faster than the link waits
    #[arg(long, value_name = "SIZE|none", value_parser = args::output_limit)]
    output_limit: Option<OutputLimit>,
}

impl Execution {
    /// What the program gets on its stdin comes from ours.
    pub const fn reads_stdin(&self) -> bool {
        self.stdin
    }
}

/// What is to be run, but for its times; reads the script and stdin, whose content is added to the blobs.
pub fn command(
    words: Vec<OsString>,
    execution: Execution,
    blobs: &mut Vec<(BlobRef, Bytes)>,
) -> Result<Command, Usage> {
    let words: Vec<Vec<u8>> = words.into_iter().map(OsString::into_vec).collect();
    let program = match execution.script {
        Some(path) => {
            let content = read_file(&path)
                .map_err(|error| Usage(format!("cannot read the script {}: {error}", path.display())))?;
            Program::Script { content: carry(content, blobs), args: words }
        }
        None if execution.sh => Program::Shell(words.join(&b' ')),
        None => program(words),
    };
    let mut command = Command::new(program);
    command.output = execution.output_limit.unwrap_or_default();
    command.run_as = execution.run_as;
    command.cwd = execution.cwd.map(OsString::into_vec);
    command.env = execution.env.iter().map(|pair| variable(pair)).collect::<Result<_, _>>()?;
    // Before a stdin that may have to be typed.
    command.check().map_err(|error| Usage(error.to_string()))?;
    if execution.stdin {
        let content =
            read_whole(io::stdin().lock()).map_err(|error| Usage(format!("cannot read stdin for --stdin: {error}")))?;
        command.stdin = Some(carry(content, blobs));
    }
    Ok(command)
}

/// One word that only a shell could make sense of is a shell line; all else is an argv.
pub fn program(mut words: Vec<Vec<u8>>) -> Program {
    // The characters that POSIX (Shell Command Language, 2.2) has quoted, braces and white space; not '=' and '%',
    // which programs have in their names.
    let special = |byte: &u8| byte.is_ascii_whitespace() || b"|&;<>()$`\\\"'*?[]#~{}!".contains(byte);
    match words.as_mut_slice() {
        [line] if line.iter().any(special) => Program::Shell(std::mem::take(line)),
        _ => Program::Argv(words),
    }
}

fn variable(pair: &OsStr) -> Result<EnvVar, Usage> {
    let bytes = pair.as_bytes();
    let usage = || Usage(format!("-e {} has no value: write -e NAME=VALUE", pair.display()));
    let (name, value) = bytes.iter().position(|byte| *byte == b'=').map(|at| bytes.split_at(at)).ok_or_else(usage)?;
    // A name that is no UTF-8 is refused with all other bad names.
    Ok(EnvVar { name: String::from_utf8_lossy(name).into_owned(), value: value[1..].to_vec() })
}

fn carry(content: Vec<u8>, blobs: &mut Vec<(BlobRef, Bytes)>) -> BlobRef {
    let blob = BlobRef { digest: Sha256::digest(&content).into(), size: content.len() as u64 };
    if blobs.iter().all(|(known, _)| *known != blob) {
        blobs.push((blob, content.into()));
    }
    blob
}

/// All of a file, or an error if that is more than a job carries.
pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    read_whole(File::open(path)?)
}

/// All of it, or an error if that is more than a job carries.
pub fn read_whole(from: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(limits::BLOB_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limits::BLOB_BYTES_MAX {
        let text = format!("it has more than {} MiB; copy it to the hosts another way", limits::BLOB_BYTES_MAX >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_bytes_are_carried_once() {
        let mut blobs = Vec::new();
        let (script, stdin) = (carry(b"same".to_vec(), &mut blobs), carry(b"same".to_vec(), &mut blobs));
        assert_eq!((script, blobs.len(), script.size), (stdin, 1, 4));
        assert_eq!(script.digest[..], Sha256::digest(b"same")[..]);
    }
}
