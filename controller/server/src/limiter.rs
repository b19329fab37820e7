//! How often strangers may ask: a token bucket for each source address, in bounded memory.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use tokio::time::Instant;

/// Sources remembered at a time. When there are more, new ones are refused until old ones have been quiet.
const SOURCES_MAX: usize = 10_000;

/// How often one source may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Requests a second, in the long run.
    pub per_second: u32,
    /// Requests at once.
    pub burst: u32,
}

impl Default for Rate {
    fn default() -> Self {
        Self { per_second: 20, burst: 100 }
    }
}

/// Counts requests by source. Loopback is never limited: whoever is there has better ways.
pub struct Limiter {
    rate: Rate,
    buckets: Mutex<HashMap<IpAddr, Bucket>>,
}

struct Bucket {
    left: f64,
    at: Instant,
}

impl Limiter {
    /// Everybody begins with a full burst.
    pub fn new(rate: Rate) -> Self {
        Self { rate, buckets: Mutex::default() }
    }

    /// Takes one request of this source from its allowance; false if there is none left.
    pub fn allows(&self, source: IpAddr, now: Instant) -> bool {
        if source.is_loopback() {
            return true;
        }
        let burst = f64::from(self.rate.burst);
        let left = |bucket: &Bucket| {
            let gained = now.saturating_duration_since(bucket.at).as_secs_f64() * f64::from(self.rate.per_second);
            (bucket.left + gained).min(burst)
        };
        let source = network(source);
        // A panic elsewhere cannot leave the map half changed.
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= SOURCES_MAX && !buckets.contains_key(&source) {
            buckets.retain(|_, bucket| left(bucket) < burst);
            if buckets.len() >= SOURCES_MAX {
                return false;
            }
        }
        let bucket = buckets.entry(source).or_insert(Bucket { left: burst, at: now });
        *bucket = Bucket { left: left(bucket), at: now };
        let allowed = bucket.left >= 1.0;
        if allowed {
            bucket.left -= 1.0;
        }
        allowed
    }
}

/// Whoever has one IPv6 address has the 2^64 beside it.
fn network(source: IpAddr) -> IpAddr {
    match source {
        IpAddr::V4(_) => source,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_source_has_its_burst_and_then_its_rate() {
        let limiter = Limiter::new(Rate { per_second: 2, burst: 3 });
        let (one, other, start) = (address("192.0.2.1"), address("192.0.2.2"), Instant::now());
        let taken = |source, at| (0..10).filter(|_| limiter.allows(source, at)).count();
        assert_eq!(taken(one, start), 3);
        assert_eq!(taken(other, start), 3, "sources do not share");
        assert_eq!(taken(one, start + Duration::from_secs(1)), 2);
        assert_eq!(taken(one, start + Duration::from_secs(100)), 3, "no more than a burst is saved up");
        assert_eq!(taken(address("2001:db8::1"), start) + taken(address("2001:db8::2"), start), 3, "one network");
        assert_eq!(taken(address("127.0.0.9"), start), 10);
    }

    #[test]
    fn memory_is_bounded_and_comes_back() {
        let limiter = Limiter::new(Rate { per_second: 1, burst: 1 });
        let start = Instant::now();
        let source = |n: usize| IpAddr::V4(Ipv4Addr::from_bits(0xc000_0000 + u32::try_from(n).expect("small")));
        assert!((0..SOURCES_MAX).all(|n| limiter.allows(source(n), start)));
        assert!(!limiter.allows(source(SOURCES_MAX), start));
        assert!(limiter.allows(source(SOURCES_MAX), start + Duration::from_secs(2)));
        assert!(limiter.buckets.lock().expect("no panic").len() <= SOURCES_MAX);
    }
}
