//! How long a job lasts: long enough for its last wave to begin, and for hosts that are away.

use crate::exit::Usage;
use crate::show::{moment, rollout};
use muster_proto::limits;
use muster_proto::rollout::{Offline, Rollout};
use std::time::Duration;

/// From the signature to the end of all starts. What was said stands, if the rollout over so many targets fits; else it
/// is the usual time on top of pauses and splay, and no less than what hosts that are away have.
pub fn job_timeout(said: Option<Duration>, rollout: &Rollout, targets: u32) -> Result<Duration, Usage> {
    let waves = u32::try_from(rollout::waves(rollout, targets).len()).unwrap_or(u32::MAX).max(1);
    // What passes although nothing is done, until the last host of the last wave has its turn.
    let idle = rollout.wave_pause.saturating_mul(waves - 1) + rollout.splay.saturating_mul(waves);
    let (what, away) = match rollout.offline {
        Offline::Window | Offline::Skip => ("", Duration::ZERO),
        Offline::Wait(span) => ("--offline wait", span),
        Offline::Queue(span) => ("--offline queue", span),
    };
    let longest = limits::START_BEFORE_MAX;
    let timeout = said.unwrap_or_else(|| (limits::START_BEFORE_DEFAULT + idle).max(away).min(longest));
    if timeout <= idle {
        let (idle, timeout) = (moment::exact(idle), moment::exact(timeout));
        let over = match waves {
            1 => format!("the splay of {idle} does"),
            _ => format!("the last of {waves} waves can begin: pauses and splay take {idle}"),
        };
        return Err(Usage(format!(
            "--job-timeout {timeout} ends before {over}; say more (at most {}) or leave it out, or have less to wait for",
            moment::exact(longest)
        )));
    }
    if timeout < away {
        return Err(Usage(format!(
            "--job-timeout {} ends before {what} does: say at least {}, or leave it out",
            moment::exact(timeout),
            moment::exact(away)
        )));
    }
    Ok(timeout)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);
    const MINUTE: Duration = Duration::from_mins(1);

    fn paused(minutes: u32) -> Rollout {
        Rollout { waves: vec![1], wave_pause: MINUTE * minutes, ..Rollout::default() }
    }

    #[test]
    fn the_last_wave_begins_before_the_end() {
        assert_eq!(job_timeout(None, &Rollout::default(), 3), Ok(HOUR));
        assert_eq!(job_timeout(None, &paused(40), 3), Ok(HOUR + MINUTE * 80));
        assert_eq!(job_timeout(Some(MINUTE * 81), &paused(40), 3), Ok(MINUTE * 81));
        assert_eq!(job_timeout(None, &Rollout { splay: MINUTE * 10, ..paused(40) }, 3), Ok(HOUR + MINUTE * 110));
        assert_eq!(job_timeout(None, &paused(60), 24), Ok(HOUR * 24));
        let refused = |said, rollout, targets| job_timeout(said, &rollout, targets).expect_err("it ends first").0;
        assert_eq!(
            refused(Some(MINUTE * 80), paused(40), 3),
            "--job-timeout 80m ends before the last of 3 waves can begin: pauses and splay take 80m; say more (at most \
             24h) or leave it out, or have less to wait for"
        );
        assert!(refused(None, paused(60), 25).contains("the last of 25 waves"));
        let splay = Rollout { splay: HOUR, ..Rollout::default() };
        assert!(refused(Some(HOUR), splay, 3).contains("ends before the splay of 1h does;"));
    }

    #[test]
    fn the_job_lasts_as_long_as_its_queue() {
        let queue = |hours: u32| Rollout { offline: Offline::Queue(HOUR * hours), ..Rollout::default() };
        assert_eq!(job_timeout(None, &queue(24), 3), Ok(HOUR * 24));
        assert_eq!(job_timeout(None, &Rollout { offline: Offline::Wait(MINUTE), ..paused(0) }, 3), Ok(HOUR));
        assert_eq!(job_timeout(Some(HOUR * 24), &queue(24), 3), Ok(HOUR * 24));
        let refused = job_timeout(Some(HOUR * 2), &queue(24), 3).expect_err("it ends first");
        assert_eq!(refused.0, "--job-timeout 2h ends before --offline queue does: say at least 24h, or leave it out");
    }
}
