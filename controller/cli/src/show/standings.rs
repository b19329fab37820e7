//! How the hosts of schedules were, as people ([`text`]) and programs ([`json`], [`programs`]) read it.

pub mod json;
pub mod programs;
pub mod text;

use muster_proto::ping::{Standing, TargetName};

/// The word for it.
const fn word(up: Option<bool>) -> &'static str {
    match up {
        Some(true) => "up",
        Some(false) => "down",
        None => "unknown",
    }
}

/// The part of the time known in which it was up; `None` where none is known.
fn availability(standing: &Standing) -> Option<f64> {
    let known = standing.known_time.as_secs_f64();
    (known > 0.0).then(|| (standing.up_time.as_secs_f64() / known).clamp(0.0, 1.0))
}

/// The part of the probes that was lost in the worst 10 minutes; `None` where none was sent.
fn worst_loss(standing: &Standing) -> Option<f64> {
    (standing.sent > 0).then(|| f64::from(standing.worst_loss_permille) / 1_000.0)
}

/// The pair.
fn name(standing: &Standing) -> TargetName {
    TargetName { from: standing.from.clone(), host: standing.host.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::ping::Change;
    use muster_proto::time::Timestamp;
    use std::time::{Duration, SystemTime};

    /// A host that was up for so many of 100 s, and is now as that says.
    pub fn standing(name: &str, up: Option<bool>, up_time: u64, worst_loss_permille: u32) -> Standing {
        let (from, host) = name.split_once('>').map_or((None, name), |(from, host)| (Some(from), host));
        Standing {
            schedule: "core".parse().expect("a name"),
            from: from.map(|from| from.parse().expect("a name")),
            host: host.parse().expect("a name"),
            up,
            since: Timestamp::from(SystemTime::now() - Duration::from_secs(300)),
            reason: (up != Some(true)).then(|| "no reply".to_owned()),
            sent: 100,
            received: up_time,
            worst_loss_permille,
            flaps: u32::from(up_time < 100),
            up_time: Duration::from_secs(up_time),
            known_time: Duration::from_secs(100),
            rtt: (up_time > 0).then_some((Duration::from_micros(310), Duration::from_micros(12_500))),
        }
    }

    pub fn change(host: &str, seconds: i64, up: bool) -> Change {
        Change {
            schedule: "core".parse().expect("a name"),
            from: None,
            host: host.parse().expect("a name"),
            at: Timestamp::from_millis(1_795_341_600_000 + seconds * 1_000),
            up,
            reason: (!up).then(|| "no reply".to_owned()),
        }
    }

    #[test]
    fn availability_is_of_the_time_that_is_known() {
        let mut standing = standing("a", None, 25, 0);
        assert_eq!(availability(&standing), Some(0.25));
        assert_eq!(worst_loss(&standing), Some(0.0));
        (standing.known_time, standing.sent) = (Duration::ZERO, 0);
        assert_eq!((availability(&standing), worst_loss(&standing)), (None, None));
    }
}
