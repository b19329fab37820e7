//! What a job tells is on disk before anybody is told.

use crate::stats::Stats;
use muster_store::{Append, Store, StoreError};
use std::time::Duration;
use tracing::error;

/// Between two tries to write. A full disk is the usual cause, and people mend it.
const RETRY: Duration = Duration::from_secs(1);

/// Stores what happened in a job, however long it takes. An error means that the job cannot go on.
pub(super) async fn commit(store: &Store, stats: &Stats, append: Append) -> Result<(), StoreError> {
    if append.events.is_empty() && append.audit.is_empty() && append.late.is_empty() {
        return Ok(());
    }
    let (job, last) = (append.job, append.events.last().map(|event| event.seq));
    loop {
        match store.append(append.clone()).await {
            Ok(()) => {
                stats.committed(&append.events);
                return Ok(());
            }
            // A commit that seemed to fail may have been made: then the job stands where it should.
            Err(error @ StoreError::Conflict(_)) => {
                let stored = store.job(job).await?.map(|stored| stored.last_seq);
                return if stored == last { Ok(()) } else { Err(error) };
            }
            Err(error @ StoreError::Closed) => return Err(error),
            Err(error) => {
                error!(%job, %error, "the store cannot write; trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}
