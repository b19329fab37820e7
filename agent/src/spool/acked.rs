//! `acked`: how far the controller has a task's output, so that the supervisor may give the space back.
//!
//! ```text
//! next frame | place in `out` | place in stdout | in stderr | nobody wants more | sum       six u64, little endian
//! ```
//!
//! It is made with the task and written over in place: that needs no space, and so it also works on a full disk. A
//! reader that comes in between sees that the sum does not fit; the writer rings once it is done.

use super::out::Mark;
use super::{TaskDir, read_if_there, write};
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt as _;

const WORD: usize = size_of::<u64>();
const WORDS: usize = 6;
/// A file of zeros is not valid.
const SUM_OF_NOTHING: u64 = 0x6d75_7374_6572;

/// How far the controller has a task's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Acked {
    /// All before this place.
    pub before: Mark,
    /// Nobody will ever ask for the rest.
    pub abandoned: bool,
}

impl TaskDir {
    /// How far the controller has the output; `None` for a task whose output has a limit. An error of kind
    /// [`io::ErrorKind::InvalidData`] while it is being written.
    pub fn acked(&self) -> io::Result<Option<Acked>> {
        read_if_there(&self.path.join("acked"))?.map(|bytes| decode(&bytes)).transpose()
    }

    /// Tells the supervisor how far the controller has the output. Does nothing for a task whose output has a limit.
    pub fn acknowledge(&self, acked: Acked) -> io::Result<()> {
        match OpenOptions::new().write(true).open(self.path.join("acked")) {
            Ok(file) => file.write_all_at(&encode(acked), 0),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Tells the supervisor that nobody will ask for more output, so that the program need not wait. Does nothing for a
    /// task whose output has a limit.
    pub fn abandon_output(&self) -> io::Result<()> {
        let acked = self.acked()?.unwrap_or_default();
        self.acknowledge(Acked { abandoned: true, ..acked })
    }

    /// Makes the file, for a task whose output has no limit.
    pub(super) fn make_acked(&self) -> io::Result<()> {
        write(&self.path.join("acked"), &encode(Acked::default())).map(drop)
    }
}

fn encode(Acked { before, abandoned }: Acked) -> [u8; WORDS * WORD] {
    let [stdout, stderr] = before.offsets;
    let words = [before.frame, before.position, stdout, stderr, abandoned.into()];
    let sum = words.iter().fold(SUM_OF_NOTHING, |sum, word| sum.rotate_left(1) ^ word);
    let mut bytes = [0; WORDS * WORD];
    for (place, word) in bytes.chunks_exact_mut(WORD).zip(words.into_iter().chain([sum])) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

fn decode(bytes: &[u8]) -> io::Result<Acked> {
    let mut words = [0; WORDS];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    let [frame, position, stdout, stderr, abandoned, _] = words;
    let acked = Acked { before: Mark { frame, position, offsets: [stdout, stderr] }, abandoned: abandoned != 0 };
    if encode(acked) == bytes { Ok(acked) } else { Err(super::stored::damaged("acked")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_half_written_is_not_believed() {
        let temp = tempfile::tempdir().expect("a directory");
        let dir = TaskDir::at(temp.path());
        dir.acknowledge(Acked::default()).expect("nothing to do");
        assert_eq!(dir.acked().expect("nothing is there"), None);
        dir.make_acked().expect("made");
        assert_eq!(dir.acked().expect("whole"), Some(Acked::default()));
        let before = Mark { frame: 3, position: 1 << 40, offsets: [7, 9] };
        dir.acknowledge(Acked { before, abandoned: false }).expect("written");
        dir.abandon_output().expect("written");
        assert_eq!(dir.acked().expect("whole"), Some(Acked { before, abandoned: true }));
        let (old, new) = (encode(Acked::default()), encode(Acked { before, abandoned: true }));
        for cut in 1..old.len() {
            let torn = [&new[..cut], &old[cut..]].concat();
            assert!(torn == old || torn == new || decode(&torn).is_err(), "{cut}");
        }
        assert!(decode(&[0; WORDS * WORD]).is_err() && decode(b"").is_err());
    }
}
