//! What is kept, and for how long: old jobs are removed from time to time, and the disk with the state is watched.
//!
//! `--keep` is a promise: nothing that it keeps is ever removed. So a disk that is nearly full makes the rule be applied
//! at once, and is otherwise for people to see to: the log and `muster status` say so.
//!
//! A clock that was set wrong would make everything old. So nothing is removed for its age while the clock is in doubt.

use crate::clock;
use crate::engine::Engine;
use crate::stats::{Limit, Stats};
use muster_proto::time::Timestamp;
use muster_store::{Retention, Store};
use rustix::fs::statvfs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior};

/// How often old jobs are looked for.
const PRUNE_EVERY: Duration = Duration::from_mins(10);
/// How often the disk is looked at.
const DISK_EVERY: Duration = Duration::from_secs(30);
/// With less than this the store soon cannot commit.
const FREE_BYTES_MIN: u64 = 64 << 20;
/// On a large disk a twentieth is plenty: this much is enough.
const FREE_BYTES_ENOUGH: u64 = 1 << 30;

/// At a start the clock may be so far ahead of the newest record; most installations say something every day.
const AHEAD_MAX: Duration = Duration::from_hours(48);
/// Between two looks the clock may go so much faster or slower than time.
const DRIFT_MAX: Duration = Duration::from_mins(1);
/// A clock that was in doubt is believed after it went right for this long.
const STEADY_FOR: Duration = Duration::from_hours(1);

/// Removes what `keep` does not keep, now and every ten minutes, for as long as it is polled.
pub async fn run(engine: Engine, keep: Retention, state: PathBuf) {
    let stats = engine.stats();
    let mut ticks = tokio::time::interval(DISK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut prune_at = Instant::now();
    let mut was_low = false;
    // Every job is noted in the audit log.
    let newest = engine.store().audit_newest().await.unwrap_or_else(|error| {
        tracing::error!(%error, "how old the newest record is could not be read");
        None
    });
    let mut trust = Trust::new(newest.map(|record| record.entry.at), clock::now(), Instant::now());
    let mut was_trusted = true;
    loop {
        ticks.tick().await;
        let trusted = trust.look(clock::now(), Instant::now()) || keep.age.is_none();
        if !trusted && was_trusted {
            stats.limits.add(Limit::Clock);
            tracing::warn!(
                "the clock was set, or is far ahead of the newest record: for an hour no job is removed for its age"
            );
        }
        was_trusted = trusted;
        let low = look_at_disk(&state, stats);
        if low && !was_low {
            stats.limits.add(Limit::Disk);
            tracing::error!(
                free_mib = stats.disk_free.get() >> 20,
                "the disk with the state is nearly full: make room, or keep less with --keep"
            );
        }
        if Instant::now() >= prune_at || low && !was_low {
            prune(engine.store(), Retention { age: keep.age.filter(|_| trusted), ..keep }, stats).await;
            prune_at = Instant::now() + PRUNE_EVERY;
        }
        was_low = low;
    }
}

async fn prune(store: &Store, keep: Retention, stats: &Stats) {
    match store.prune(keep, clock::now()).await {
        Ok(pruned) => {
            stats.pruned_jobs.add(pruned.jobs);
            stats.pruned_at.set(clock::now().as_millis().unsigned_abs() / 1_000);
            if pruned.jobs > 0 {
                tracing::info!(
                    jobs = pruned.jobs,
                    bytes = pruned.bytes,
                    "records of old jobs were removed, as --keep says"
                );
            }
        }
        Err(error) => tracing::error!(%error, "the records of old jobs could not be removed"),
    }
}

/// Whether the clock can be believed when it says how old something is.
struct Trust {
    /// The last look: by the clock, and by what cannot be set.
    seen: (Timestamp, Instant),
    from: Instant,
}

impl Trust {
    fn new(newest: Option<Timestamp>, wall: Timestamp, now: Instant) -> Self {
        let ahead = newest.is_some_and(|newest| newest.until(wall) > AHEAD_MAX);
        Self { seen: (wall, now), from: if ahead { now + STEADY_FOR } else { now } }
    }

    fn look(&mut self, wall: Timestamp, now: Instant) -> bool {
        let (wall_before, before) = std::mem::replace(&mut self.seen, (wall, now));
        let right = wall_before + now.duration_since(before);
        if right.until(wall).max(wall.until(right)) > DRIFT_MAX {
            self.from = now + STEADY_FOR;
        }
        now >= self.from
    }
}

/// Notes how much room there is; whether it is too little.
fn look_at_disk(state: &Path, stats: &Stats) -> bool {
    // A disk that cannot be asked shows where it is written to.
    let Ok(disk) = statvfs(state) else { return false };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    stats.disk_free.set(free);
    let low = is_low(free, disk.f_blocks.saturating_mul(disk.f_frsize));
    stats.disk_low.set(low.into());
    low
}

fn is_low(free: u64, total: u64) -> bool {
    free < (total / 20).clamp(FREE_BYTES_MIN, FREE_BYTES_ENOUGH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_jumped_or_began_far_ahead_makes_nothing_old_for_an_hour() {
        const MINUTE: Duration = Duration::from_mins(1);
        let (start, day) = (Timestamp::from_millis(1_000_000_000_000), Duration::from_hours(24));
        let now = Instant::now();
        let trusted = |newest| Trust::new(newest, start + day * 3, now).look(start + day * 3, now);
        assert!(trusted(None) && trusted(Some(start + day)) && trusted(Some(start + day * 9)));
        assert!(!trusted(Some(start)), "the newest record is three days old");

        let mut trust = Trust::new(Some(start), start, now);
        assert!(trust.look(start + MINUTE, now + MINUTE));
        let jump = day * 365;
        assert!(!trust.look(start + jump + MINUTE * 2, now + MINUTE * 2), "a year in a minute");
        assert!(!trust.look(start + jump + MINUTE * 61, now + MINUTE * 61));
        assert!(trust.look(start + jump + MINUTE * 62, now + MINUTE * 62), "it went right for an hour");
        assert!(!trust.look(start + MINUTE * 63, now + MINUTE * 63), "set back is set as well");
    }

    #[test]
    fn a_disk_is_low_below_a_twentieth_within_bounds() {
        const GIB: u64 = 1 << 30;
        for (free, total, low) in [
            (63 << 20, 100 << 20, true),
            (65 << 20, 100 << 20, false),
            (GIB / 2 - 1, 10 * GIB, true),
            (GIB / 2, 10 * GIB, false),
            (GIB, 4_096 * GIB, false),
            (GIB - 1, 4_096 * GIB, true),
        ] {
            assert_eq!(is_low(free, total), low, "{free} of {total}");
        }
    }
}
