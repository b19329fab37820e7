//! Which job is meant: an id, the beginning of one, or `last`; and what to say of one that is not there.

use super::OperatorDoor;
use crate::engine::EngineError;
use crate::reply::Reply as _;
use muster_proto::id::JobId;
use muster_proto::name::OperatorName;
use muster_proto::{text, wire};
use muster_store::{Store, StoredJob};
use tonic::Status;

/// Ids that an error lists before it stops.
const LISTED_MAX: u32 = 5;
/// Characters of a whole id.
const ID_LEN: usize = 26;

/// The one job that is meant. `last` is the newest of the operator's own: what somebody else has begun meanwhile is never
/// taken for it.
pub(super) async fn find(
    door: &OperatorDoor,
    operator: &OperatorName,
    request: wire::FindJobRequest,
) -> Result<wire::FindJobReply, Status> {
    let store = door.engine.store();
    let found = if request.text == "last" {
        let newest = store.newest_job_of(operator).await.map_err(|error| error.reply())?;
        newest
            .ok_or_else(|| Status::not_found("you have not submitted a job yet: `muster jobs` lists those of others"))?
    } else {
        let word = text::line(&request.text);
        let unknown = || Status::not_found(format!("no job's id begins with {word}: `muster jobs` lists them"));
        let (first, last) = ids_beginning_with(&request.text).ok_or_else(unknown)?;
        let ids = store.jobs_between(first, last, LISTED_MAX + 1).await.map_err(|error| error.reply())?;
        match ids[..] {
            [only] => only,
            [] => return Err(unknown()),
            ref several => return Err(Status::invalid_argument(ambiguous(&word, several))),
        }
    };
    Ok(wire::FindJobReply { job: found.as_bytes().to_vec().into() })
}

fn ambiguous(word: &str, ids: &[JobId]) -> String {
    let listed: Vec<_> = ids.iter().take(LISTED_MAX as usize).map(ToString::to_string).collect();
    let more = if ids.len() > LISTED_MAX as usize { " and others" } else { "" };
    format!("the ids of several jobs begin with {word}: {}{more}: type more of it", listed.join(" "))
}

/// The first and the last id that can begin so.
fn ids_beginning_with(prefix: &str) -> Option<(JobId, JobId)> {
    let rest = ID_LEN.checked_sub(prefix.len()).filter(|rest| *rest < ID_LEN)?;
    let filled = |character: &str| format!("{prefix}{}", character.repeat(rest)).parse().ok();
    Some((filled("0")?, filled("z")?))
}

/// The job, or why there is none.
pub(super) async fn stored(store: &Store, job: JobId) -> Result<StoredJob, Status> {
    match store.job(job).await.map_err(|error| error.reply())? {
        Some(stored) => Ok(stored),
        None => Err(missing(store, job).await),
    }
}

/// What to say of a job that is not in the store.
pub(super) async fn missing(store: &Store, job: JobId) -> Status {
    match store.was_pruned(job).await {
        Ok(true) => removed(job),
        Ok(false) => EngineError::NoSuchJob(job).reply(),
        Err(error) => error.reply(),
    }
}

/// What to say of a job whose record was removed.
pub(super) fn removed(job: JobId) -> Status {
    Status::not_found(format!(
        "job {job} is done and its record was removed, as the controller's --keep says: the audit log still names it"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_means_the_ids_that_begin_so_and_no_others() {
        let id: JobId = "06ay1234567890abcdefghjkmn".parse().expect("an id");
        for len in 1..=ID_LEN {
            let (first, last) = ids_beginning_with(&id.to_string()[..len]).expect("a prefix");
            assert!(first <= id && id <= last, "{len}");
        }
        let (first, last) = ids_beginning_with("06AY").expect("either case");
        assert!("06b00000000000000000000000".parse().is_ok_and(|next: JobId| last < next));
        assert!("06axzzzzzzzzzzzzzzzzzzzzzz".parse().is_ok_and(|before: JobId| before < first));
        for bad in ["", "nope", "z", "06ay1234567890abcdefghjkmnp", "06-"] {
            assert_eq!(ids_beginning_with(bad), None, "{bad}");
        }
    }
}
