//! What is kept, and for how long: old jobs are removed from time to time, and the disk with the state is watched.
//!
//! `--keep` is a promise: nothing that it keeps is ever removed. So a disk that is nearly full makes the rule be applied
//! at once, and is otherwise for people to see to: the log and `muster status` say so.

use crate::clock;
use crate::engine::Engine;
use crate::stats::{Limit, Stats};
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

/// Removes what `keep` does not keep, now and every ten minutes, for as long as it is polled.
pub async fn run(engine: Engine, keep: Retention, state: PathBuf) {
    let stats = engine.stats();
    let mut ticks = tokio::time::interval(DISK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut prune_at = Instant::now();
    let mut was_low = false;
    loop {
        ticks.tick().await;
        let low = look_at_disk(&state, stats);
        if low && !was_low {
            stats.limits.add(Limit::Disk);
            tracing::error!(
                free_mib = stats.disk_free.get() >> 20,
                "the disk with the state is nearly full: make room, or keep less with --keep"
            );
        }
        if Instant::now() >= prune_at || low && !was_low {
            prune(engine.store(), keep, stats).await;
            prune_at = Instant::now() + PRUNE_EVERY;
        }
        was_low = low;
    }
}

async fn prune(store: &Store, keep: Retention, stats: &Stats) {
    match store.prune(keep, clock::now()).await {
        Ok(pruned) => {
            stats.pruned_jobs.add(pruned.jobs);
            stats.pruned_bytes.add(pruned.bytes);
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
