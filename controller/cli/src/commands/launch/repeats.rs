//! The hosts at which a job is repeated: nobody is added to them, whatever the controller resolves.

use crate::client::ClientError;
use crate::show::summary;
use muster_proto::id::JobId;
use muster_proto::job::{JobHost, Target, TargetsDigest, target_tree};
use muster_proto::name::HostName;
use muster_proto::names;
use std::collections::HashMap;

/// A job that is repeated.
#[derive(Debug, Clone)]
pub struct Repeats {
    /// Which.
    pub job: JobId,
    /// Those of its hosts that were chosen, from the list that was signed.
    pub hosts: Vec<Target>,
}

impl Repeats {
    /// Refuses a plan with anybody who was not chosen; else says who is left out, as one line, if somebody is.
    pub fn check<'a>(&self, planned: impl Iterator<Item = &'a Target>) -> Result<Option<String>, ClientError> {
        let mut left: HashMap<&HostName, &Target> = self.hosts.iter().map(|host| (&host.name, host)).collect();
        let (mut strangers, mut anew) = (Vec::new(), Vec::new());
        for target in planned {
            match left.remove(&target.name) {
                Some(host) if host == target => {}
                Some(_) => anew.push(target.name.as_str()),
                None => strangers.push(target.name.as_str()),
            }
        }
        if !strangers.is_empty() {
            let (hosts, names) = (summary::hosts(strangers.len()), summary::folded(&strangers));
            return Err(ClientError::Refused(format!(
                "the controller's plan has {hosts} that nobody asked for: {names}; nothing was signed"
            )));
        }
        if !anew.is_empty() {
            let names = names::fold(anew);
            return Err(ClientError::Usage(format!(
                "enrolled anew since job {}, perhaps on another machine: {names}; leave out with -x '{names}'",
                self.job
            )));
        }
        let gone: Vec<&str> = self
            .hosts
            .iter()
            .map(|host| &host.name)
            .filter(|name| left.contains_key(name))
            .map(HostName::as_str)
            .collect();
        let note = || {
            format!(
                "left out, since no agent is called so any more: {} {}",
                summary::hosts(gone.len()),
                summary::folded(&gone)
            )
        };
        Ok((!gone.is_empty()).then(note))
    }
}

/// The frozen list of a job, from what the controller says of its hosts; `None` if that is not the list that was signed.
pub fn frozen(signed: TargetsDigest, hosts: &[JobHost]) -> Option<Vec<Target>> {
    let target = |host: &JobHost| Some(Target { agent: host.agent?, name: host.name.to_string().parse().ok()? });
    let targets = hosts.iter().map(target).collect::<Option<Vec<_>>>()?;
    let fits = targets.len() == signed.count as usize && target_tree(&targets)?.root() == signed.root;
    fits.then_some(targets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::id::{AgentId, Attempt};
    use muster_proto::job::Phase;

    fn target(name: &str, id: u8) -> Target {
        Target { agent: AgentId::from_bytes([id; 16]), name: name.parse().expect("a name") }
    }

    fn told(target: &Target) -> JobHost {
        JobHost {
            name: target.name.clone().into(),
            agent: Some(target.agent),
            phase: Phase::Planned,
            attempt: Attempt::FIRST,
            queued_until: None,
            outcome: None,
            connected: true,
            late: None,
        }
    }

    #[test]
    fn hosts_that_were_not_signed_are_not_believed() {
        let list = [target("n1", 1), target("n2", 2)];
        let signed = TargetsDigest { root: target_tree(&list).expect("a tree").root(), count: 2 };
        let frozen = |list: &[Target]| frozen(signed, &list.iter().map(told).collect::<Vec<_>>());
        assert_eq!(frozen(&list).as_deref(), Some(&list[..]));
        for altered in [
            &[target("n1", 1), target("n2", 2), target("n3", 3)][..],
            &[target("n1", 1)],
            &[target("n2", 2), target("n1", 1)],
            &[target("n1", 1), target("n3", 2)],
            &[target("n1", 1), target("n2", 3)],
            &[],
        ] {
            assert_eq!(frozen(altered), None, "{altered:?}");
        }
        let nobody = JobHost { agent: None, ..told(&list[1]) };
        assert_eq!(super::frozen(signed, &[told(&list[0]), nobody]), None);
    }

    #[test]
    fn nobody_is_added_to_those_who_were_chosen() {
        let hosts = [1, 2, 3].map(|id| target(&format!("n{id}"), id));
        let repeats = Repeats { job: JobId::from_bytes([0; 16]), hosts: hosts.to_vec() };
        let check = |planned: &[&Target]| repeats.check(planned.iter().copied());
        let [n1, n2, n3] = &hosts;
        assert_eq!(check(&[n3, n1, n2]), Ok(None));
        let note = "left out, since no agent is called so any more: 2 hosts n[2-3]";
        assert_eq!(check(&[n1]), Ok(Some(note.to_owned())));
        for (planned, told) in [
            (&[n1, n2, n3, &target("n4", 4)][..], "1 host that nobody asked for: n4;"),
            (&[n1, &target("db", 2)], "nobody asked for: db;"),
            (&[n1, n1], "nobody asked for: n1;"),
            (&[n1, &target("n2", 9)], "another machine: n2; leave out with -x 'n2'"),
        ] {
            let refused = check(planned).expect_err(told);
            assert!(refused.to_string().contains(told), "{refused}");
        }
    }
}
