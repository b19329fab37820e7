//! A job together with those that repeat it: what they mean for each host of the first.

use crate::client::Client;
use crate::show::{self, summary};
use muster_proto::id::JobId;
use muster_proto::job::JobHost;
use muster_proto::outcome::Counts;
use std::collections::HashMap;

/// The hosts of the first job of a family, each as it was left by the last job that it was a target of.
pub struct Family {
    /// The jobs, the first first.
    pub runs: Vec<JobId>,
    /// In the order of the first job's list, with the place of the job among the runs.
    pub hosts: Vec<(usize, JobHost)>,
    /// What is known of the first job.
    pub first: First,
}

/// The first job of a family says whom all of it was about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First {
    /// It is the first of the runs.
    Here,
    /// It was removed: hosts that it alone had are not known.
    Removed,
}

impl Family {
    /// Asks for all jobs of the family of one.
    pub async fn of(client: &Client, job: JobId) -> anyhow::Result<Self> {
        let lineage = client.job(job).await?.lineage;
        let removed = lineage.first().is_some_and(|oldest| oldest.rerun_of.is_some());
        let mut family = Self::new(if removed { First::Removed } else { First::Here });
        for run in lineage {
            family.add(run.job, client.job(run.job).await?.hosts);
        }
        Ok(family)
    }

    const fn new(first: First) -> Self {
        Self { runs: Vec::new(), hosts: Vec::new(), first }
    }

    /// Adds the next job, in the order in which they were accepted. A host that was no target of the first is left out:
    /// it was not asked for.
    fn add(&mut self, job: JobId, hosts: Vec<JobHost>) {
        let run = self.runs.len();
        self.runs.push(job);
        // By name: a machine that was set up anew is the same host to those who run things on it.
        let places = self.hosts.iter().enumerate().map(|(place, (_, host))| (host.name.clone(), place));
        let places: HashMap<_, _> = places.collect();
        for host in hosts {
            match places.get(&host.name) {
                Some(place) => self.hosts[*place] = (run, host),
                None if run == 0 || self.first == First::Removed => self.hosts.push((run, host)),
                None => {}
            }
        }
    }

    /// How many ended how.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        self.hosts.iter().filter_map(|(_, host)| host.outcome.as_ref()).for_each(|end| counts.add(end.state));
        counts
    }

    /// The line that adds up; `None` if there is no job.
    pub fn closing(&self) -> Option<String> {
        let ends = self.hosts.iter().map(|(_, host)| (&host.name, host.outcome.as_ref().map(|outcome| outcome.state)));
        let first = *self.runs.first()?;
        Some(summary::closing_of_all(ends, self.runs.len(), Some(first).filter(|_| self.first == First::Here)))
    }
}

/// Says what a job and all that it repeats mean together, or why that cannot be said: the job itself was judged before.
pub async fn say(client: &Client, job: JobId) {
    match Family::of(client, job).await {
        Ok(family) => family.closing().iter().for_each(|line| show::note(line)),
        Err(error) => show::note(&format!(
            "{error}; what it means together with the jobs that it repeats: `muster job {job} --all-runs`"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::id::Attempt;
    use muster_proto::job::Phase;
    use muster_proto::name::HostName;
    use muster_proto::outcome::{Outcome, State};

    fn host(name: &str, state: Option<State>) -> JobHost {
        JobHost {
            name: name.parse::<HostName>().expect("a name").into(),
            agent: None,
            phase: Phase::Planned,
            attempt: Attempt::FIRST,
            queued_until: None,
            outcome: state.map(|state| Outcome::without_run(state, "")),
            connected: true,
            late: None,
        }
    }

    #[test]
    fn the_last_job_that_had_a_host_says_how_it_is() {
        use State::{Failed, Succeeded, Unreachable};
        let mut family = Family::new(First::Here);
        let hosts =
            |ends: &[(&str, Option<State>)]| ends.iter().map(|(name, state)| host(name, *state)).collect::<Vec<_>>();
        let id = |n| JobId::from_bytes([n; 16]);
        family.add(
            id(0),
            hosts(&[("n3", Some(Succeeded)), ("n1", Some(Failed)), ("n2", Some(Unreachable)), ("n4", Some(Failed))]),
        );
        family.add(id(1), hosts(&[("n1", Some(Failed)), ("n2", Some(Succeeded)), ("n9", Some(Failed))]));
        family.add(id(2), hosts(&[("n1", None)]));
        let left: Vec<_> = family
            .hosts
            .iter()
            .map(|(run, host)| (*run, host.name.to_string(), host.outcome.as_ref().map(|end| end.state)))
            .collect();
        let expected =
            [(0, "n3", Some(Succeeded)), (2, "n1", None), (1, "n2", Some(Succeeded)), (0, "n4", Some(Failed))];
        assert_eq!(left, expected.map(|(run, name, state)| (run, name.to_owned(), state)));
        let zeros = "0".repeat(26);
        let line = format!("all: 2 succeeded, 1 failed n4, 1 pending n1: 4 targeted over 3 runs of job {zeros}");
        assert_eq!(family.closing(), Some(line));
        assert_eq!((family.counts().get(Succeeded), family.counts().total()), (2, 3));
    }

    #[test]
    fn a_part_of_a_family_is_not_taken_for_all_of_it() {
        let mut family = Family::new(First::Removed);
        family.add(JobId::from_bytes([1; 16]), vec![host("n1", Some(State::Failed))]);
        family.add(
            JobId::from_bytes([2; 16]),
            vec![host("n2", Some(State::Succeeded)), host("n1", Some(State::Succeeded))],
        );
        let line =
            "left: 2 succeeded: 2 hosts in 2 runs; the first run of these was removed, and who was in that alone";
        assert_eq!(family.closing().as_deref(), Some(line));
    }
}
