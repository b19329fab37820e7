//! `muster-controller check`: whether everything in the store is as it was written, and the issuers are there.

use crate::issuers::Issuers;
use crate::server::{BuildError, read_cluster, take};
use crate::settings::StateDir;
use muster_store::{OpenError, Report};

/// Looks at the store of a controller that is stopped: one process has it open.
pub async fn run(state: &StateDir) -> Result<Report, CheckError> {
    let cluster = read_cluster(state)?;
    let _lock = take(state)?;
    let mut report = muster_store::check(state.path()).await?;
    if let Err(error) = Issuers::load(&state.ca(), cluster) {
        report.findings.push(error.to_string());
    }
    Ok(report)
}

/// What there is to print: what is wrong first, then what a crash left, then how much was looked at.
pub fn lines(report: &Report) -> impl Iterator<Item = String> {
    let Report { findings, notes, jobs, events, audit } = report;
    let wrong = findings.iter().map(|finding| format!("damaged: {finding}"));
    let left = notes.iter().map(|note| format!("left over: {note}; it goes by itself when old jobs are removed"));
    let verdict = match findings.len() {
        0 => "nothing is wrong".to_owned(),
        count => {
            format!("{count} wrong; restore the state directory from a backup, or keep it for somebody who can look")
        }
    };
    let last = format!("{jobs} jobs with {events} events and {audit} audit records: {verdict}");
    wrong.chain(left).chain([last])
}

/// Nothing could be looked at.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The state is not there, not ours, or a controller runs on it.
    #[error(transparent)]
    State(#[from] BuildError),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::Init;
    use std::time::Duration;

    #[tokio::test]
    async fn a_new_cluster_is_clean_and_a_running_one_is_not_looked_at() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = StateDir::new(dir.path().join("state"));
        assert!(matches!(run(&state).await, Err(CheckError::State(BuildError::NotInitialised(_)))));
        let init = Init {
            state: state.clone(),
            operator: "ada".parse().expect("a name"),
            operator_validity: Duration::from_hours(1),
            config: dir.path().join("config.toml"),
            context: "default".to_owned(),
            address: "127.0.0.1:7444".to_owned(),
        };
        init.run().await.expect("a cluster");
        let report = run(&state).await.expect("a report");
        assert_eq!(lines(&report).collect::<Vec<_>>(), ["0 jobs with 0 events and 1 audit records: nothing is wrong"]);
        let key = state.ca().join("operators.key");
        let bytes = std::fs::read(&key).expect("it is there");
        std::fs::remove_file(&key).expect("removed");
        let report = run(&state).await.expect("a report");
        assert!(report.findings.iter().any(|found| found.contains("operators")), "{report:?}");
        std::fs::write(&key, bytes).expect("put back");
        let _lock = take(&state).expect("nobody has it");
        assert!(matches!(run(&state).await, Err(CheckError::State(BuildError::Running(_)))));
    }

    #[test]
    fn what_is_wrong_comes_first() {
        let report = Report { findings: vec!["a".into()], notes: vec!["b".into()], ..Report::default() };
        let lines: Vec<_> = lines(&report).collect();
        assert!(lines[0] == "damaged: a" && lines[1].starts_with("left over: b") && lines[2].contains("1 wrong"));
    }
}
