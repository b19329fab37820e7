//! Choices of a fault test that can be made again: all of them come from one seed.

use std::time::{Duration, SystemTime};

/// xorshift64*: enough to choose whom to hit.
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// Those of `MUSTER_SEED`, which repeats the choices of a run (the moments at which they fall are the machine's), or new
    /// ones. The seed is printed: the harness shows it when the test fails.
    #[expect(clippy::print_stdout, reason = "the harness keeps what a test prints, and shows it when the test fails")]
    pub fn new() -> Self {
        let given = std::env::var("MUSTER_SEED").ok().map(|text| text.parse::<u64>().expect("MUSTER_SEED is a number"));
        let seed = given.unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
            u64::from(now.subsec_nanos()) + 1
        });
        println!("MUSTER_SEED={seed}");
        Self(seed.max(1))
    }

    /// A number from 0 to `sides` - 1.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % sides
    }

    /// A place in a list of this length.
    ///
    /// # Panics
    /// When the list is empty.
    pub fn pick(&mut self, length: usize) -> usize {
        usize::try_from(self.roll(length as u64)).expect("less than a length")
    }

    /// A time from 0 to just below `most`.
    pub fn pause(&mut self, most: Duration) -> Duration {
        Duration::from_micros(self.roll(u64::try_from(most.as_micros()).expect("a short time")))
    }

    /// Puts a list into any order.
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            list.swap(last, self.pick(last + 1));
        }
    }
}

impl Default for Dice {
    fn default() -> Self {
        Self::new()
    }
}

/// How much of a fault test is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// What everybody waits for: `make test`.
    Short,
    /// `make chaos`, which sets `MUSTER_CHAOS=long`.
    Long,
}

impl Length {
    /// What the environment says.
    pub fn wanted() -> Self {
        if std::env::var_os("MUSTER_CHAOS").is_some_and(|text| text == "long") { Self::Long } else { Self::Short }
    }

    /// One of two values.
    pub fn of<T>(self, short: T, long: T) -> T {
        if self == Self::Long { long } else { short }
    }
}
