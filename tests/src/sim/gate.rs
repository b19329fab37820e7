//! The agents' door, with the part that is the same for all of them done once: a signed job is verified when it first
//! comes; that it is meant for the agent at hand is checked for each offer.

use muster_agent::admit::{Door, Past, Refusal};
use muster_proto::command::Command;
use muster_proto::job::JobSpec;
use muster_proto::link::{Offer, RejectKind};
use muster_proto::seal::OperatorTrust;
use muster_proto::time::Timestamp;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// Jobs that were verified and are remembered. When there are more, all are forgotten and verified anew.
const JOBS_MAX: usize = 4096;

/// Jobs that were verified, by the SHA-256 of their payload.
pub(super) struct Verified {
    operators: OperatorTrust,
    jobs: Mutex<HashMap<[u8; 32], Arc<JobSpec>>>,
}

impl Verified {
    /// Those signed by these operators.
    pub(super) fn new(operators: OperatorTrust) -> Self {
        Self { operators, jobs: Mutex::default() }
    }

    /// Lets an offer that the agent does not know pass its door to what starts it, or says why not.
    pub(super) fn admit<T>(
        &self,
        door: &Door,
        offer: &Offer,
        payload: [u8; 32],
        past: &Past,
        now: Timestamp,
        start: impl FnOnce(&Command) -> T,
    ) -> Result<T, Refusal> {
        let known = self.jobs.lock().ok().and_then(|jobs| jobs.get(&payload).cloned());
        let spec = match known {
            Some(spec) => spec,
            None => self.open(offer, payload)?,
        };
        door.check(&spec, offer, past, now).map(start)
    }

    fn open(&self, offer: &Offer, payload: [u8; 32]) -> Result<Arc<JobSpec>, Refusal> {
        let spec = self.operators.open(&offer.job).map_err(|error| Refusal {
            kind: RejectKind::Refused,
            reason: error.to_string(),
            start_before: None,
        })?;
        let spec = Arc::new(spec);
        if let Ok(mut jobs) = self.jobs.lock() {
            if jobs.len() >= JOBS_MAX {
                jobs.clear();
            }
            jobs.insert(payload, Arc::clone(&spec));
        }
        Ok(spec)
    }
}
