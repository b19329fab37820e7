//! The one door for offers. It decides from what it is given, and touches nothing: whatever the controller says, only
//! what an operator of this cluster signed for this agent, for now, passes.

use muster_proto::command::Command;
use muster_proto::id::AgentId;
use muster_proto::job::JobSpec;
use muster_proto::limits::CLOCK_SKEW_MAX;
use muster_proto::link::{Offer, RejectKind};
use muster_proto::merkle;
use muster_proto::name::HostName;
use muster_proto::seal::OperatorTrust;
use muster_proto::time::Timestamp;
use sha2::{Digest as _, Sha256};

/// What an offer is measured by.
pub struct Door {
    /// Whose signatures count.
    pub operators: OperatorTrust,
    /// This agent.
    pub agent: AgentId,
    /// The name it enrolled with.
    pub name: HostName,
    /// When its memory of tasks began.
    pub born_at: Timestamp,
    /// Which users its programs can run as.
    pub users: Users,
}

/// Which users an agent can become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Users {
    /// It runs as root.
    All,
    /// It runs as this ordinary user.
    Own(String),
}

/// What the journal knows of an offered task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// Nothing.
    None,
    /// It came with this payload (SHA-256).
    Offered([u8; 32]),
    /// It never came, and was refused for ever.
    Tombstone,
}

/// The offer may go on.
#[derive(Debug)]
pub enum Admission {
    /// It is new and passed every check.
    Run {
        /// What was signed.
        spec: Box<JobSpec>,
        /// SHA-256 of the signed bytes.
        payload: [u8; 32],
    },
    /// It came before: the answer is the task's state, and nothing else happens.
    Known,
}

/// The offer stops here.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Which terminal state it means.
    pub kind: RejectKind,
    /// One line for people, with what to do.
    pub reason: String,
    /// The signed deadline, if the signature is good: until then the refusal has to be remembered.
    pub start_before: Option<Timestamp>,
}

impl Door {
    /// Lets an offer in, or says why not.
    pub fn admit(&self, offer: &Offer, memory: Memory, now: Timestamp) -> Result<Admission, Refusal> {
        let payload: [u8; 32] = Sha256::digest(&offer.job.payload).into();
        // The same bytes were verified when they first came.
        if memory == Memory::Offered(payload) {
            return Ok(Admission::Known);
        }
        let refused = |reason: String| Refusal { kind: RejectKind::Refused, reason, start_before: None };
        let spec = self.operators.open(&offer.job).map_err(|error| refused(error.to_string()))?;
        match memory {
            Memory::None => {}
            Memory::Tombstone => return Ok(Admission::Known),
            Memory::Offered(_) => {
                return Err(refused("conflict: this task is known with another payload; submit a new job".to_owned()));
            }
        }
        self.check(&spec, offer, now)?;
        Ok(Admission::Run { spec: Box::new(spec), payload })
    }

    /// All that is this agent's own to check in an offer whose signature is good: that it is a command, as it was signed,
    /// for this agent, for now. Returns the command.
    pub fn check<'a>(&self, spec: &'a JobSpec, offer: &Offer, now: Timestamp) -> Result<&'a Command, Refusal> {
        let refused = |reason: String| Refusal { kind: RejectKind::Refused, reason, start_before: None };
        let Some(command) = spec.work.command() else {
            return Err(refused("this agent runs commands only; a ping is not offered as a task".to_owned()));
        };
        if offer.task.job != spec.job {
            return Err(refused("the offer names another job than the one that was signed".to_owned()));
        }
        if offer.task.attempt == 0 || offer.task.attempt > spec.attempts_max {
            return Err(refused("the operator signed fewer attempts than this".to_owned()));
        }
        let leaf = merkle::leaf(self.agent, &self.name);
        if !merkle::verify(&spec.targets.root, spec.targets.count, offer.task.target, leaf, &offer.proof) {
            return Err(refused(format!("{} is not in the list of targets that was signed", self.name)));
        }
        self.check_times(spec, offer, now)
            .and_then(|()| self.check_user(command))
            .map(|()| command)
            .map_err(|refusal| Refusal { start_before: Some(spec.start_before), ..refusal })
    }

    fn check_times(&self, spec: &JobSpec, offer: &Offer, now: Timestamp) -> Result<(), Refusal> {
        let refusal = |kind, reason| Err(Refusal { kind, reason, start_before: None });
        if spec.created_at > now + CLOCK_SKEW_MAX {
            let seconds = now.until(spec.created_at).as_secs();
            return refusal(
                RejectKind::Refused,
                format!("clock_skew: this host's clock is {seconds} s behind the operator's; set it and run again"),
            );
        }
        if spec.created_at < self.born_at {
            return refusal(
                RejectKind::Refused,
                "journal_reset: the job is older than this agent's journal and may have run before; run it anew"
                    .to_owned(),
            );
        }
        if now > spec.start_before + CLOCK_SKEW_MAX {
            let seconds = spec.start_before.until(now).as_secs();
            return refusal(
                RejectKind::Expired,
                format!("the job's deadline passed {seconds} s ago by this host's clock"),
            );
        }
        if offer.ttl.is_zero() {
            return refusal(RejectKind::Expired, "the target's delivery window has passed".to_owned());
        }
        Ok(())
    }

    fn check_user(&self, command: &Command) -> Result<(), Refusal> {
        match (&command.run_as, &self.users) {
            (Some(user), Users::Own(own)) if user != own => Err(Refusal {
                kind: RejectKind::Refused,
                reason: format!(
                    "cannot become {user:?}: this agent does not run as root but as {own:?}; leave out --run-as, or \
                     run the agent as root"
                ),
                start_before: None,
            }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::command::Program;
    use muster_proto::id::{ClusterId, JobId, TaskId};
    use muster_proto::job::{SignedJob, Target, TargetsDigest, Work, target_tree};
    use muster_proto::name::{Peer, PeerName};
    use muster_proto::ping::{Detail, Family, PingSpec, Probes, Way};
    use muster_proto::seal::Signer;
    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
    use std::time::Duration;

    const CLUSTER: ClusterId = ClusterId::from_bytes([1; 16]);
    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    /// An operator CA and an operator whom it issued.
    struct Operators {
        ca: rcgen::Certificate,
        signer: Signer,
    }

    fn key() -> KeyPair {
        KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key")
    }

    fn operators(cluster: ClusterId) -> Operators {
        let (ca_key, key) = (key(), key());
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let ca = params.self_signed(&ca_key).expect("a CA");
        let mut leaf = CertificateParams::default();
        let name = PeerName { cluster, peer: Peer::Operator("ada".parse().expect("a name")) };
        leaf.subject_alt_names = vec![SanType::URI(name.to_string().try_into().expect("ASCII"))];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = leaf.signed_by(&key, &Issuer::new(params, ca_key)).expect("issued");
        let signer = Signer::from_pem(&key.serialize_pem(), &certificate.pem()).expect("a signer");
        Operators { ca, signer }
    }

    fn target(number: u8) -> Target {
        Target { agent: AgentId::from_bytes([number; 16]), name: format!("n{number}").parse().expect("a name") }
    }

    fn spec() -> JobSpec {
        let targets: Vec<_> = (0..5).map(target).collect();
        let root = target_tree(&targets).expect("targets").root();
        JobSpec {
            cluster: CLUSTER,
            job: JobId::from_bytes([7; 16]),
            operator: "ada".parse().expect("a name"),
            created_at: NOW,
            start_before: NOW + Duration::from_hours(1),
            deliver: Duration::from_secs(30),
            targets: TargetsDigest { root, count: 5 },
            attempts_max: 1,
            concurrency: None,
            work: Work::Command(Command::new(Program::Argv(vec![b"true".to_vec()]))),
        }
    }

    /// An offer to target 3.
    fn offer(job: SignedJob) -> Offer {
        let targets: Vec<_> = (0..5).map(target).collect();
        let proof = target_tree(&targets).and_then(|tree| tree.proof(3)).expect("a proof");
        let task = TaskId { job: JobId::from_bytes([7; 16]), target: 3, attempt: 1 };
        Offer { task, job, proof, ttl: Duration::from_secs(30) }
    }

    fn door(operators: &Operators) -> Door {
        let Target { agent, name } = target(3);
        let trust = OperatorTrust::new(CLUSTER, operators.ca.der().clone()).expect("a CA");
        Door { operators: trust, agent, name, born_at: NOW, users: Users::Own("ann".to_owned()) }
    }

    fn refusal(door: &Door, offer: &Offer) -> Refusal {
        door.admit(offer, Memory::None, NOW).expect_err("a refusal")
    }

    #[test]
    fn what_an_operator_signed_for_this_agent_runs_once() {
        let operators = operators(CLUSTER);
        let door = door(&operators);
        let offer = offer(operators.signer.sign(&spec()));
        let Ok(Admission::Run { spec: admitted, payload }) = door.admit(&offer, Memory::None, NOW) else {
            panic!("a good offer");
        };
        assert_eq!(*admitted, spec());
        assert!(matches!(door.admit(&offer, Memory::Offered(payload), NOW), Ok(Admission::Known)));
        assert!(matches!(door.admit(&offer, Memory::Tombstone, NOW), Ok(Admission::Known)));
        let conflict = door.admit(&offer, Memory::Offered([0; 32]), NOW).expect_err("a conflict");
        assert!(conflict.reason.starts_with("conflict"), "{conflict:?}");
    }

    #[test]
    fn strangers_and_alterations_are_refused() {
        let operators_here = operators(CLUSTER);
        let door = door(&operators_here);
        let good = operators_here.signer.sign(&spec());
        let expect = |offer: &Offer, part: &str| {
            let refusal = refusal(&door, offer);
            assert!(refusal.kind == RejectKind::Refused && refusal.reason.contains(part), "{part}: {refusal:?}");
        };

        for place in [0, good.payload.len() / 2, good.payload.len() - 1] {
            let mut payload = good.payload.to_vec();
            payload[place] ^= 1;
            expect(&offer(SignedJob { payload: payload.into(), ..good.clone() }), "signature");
        }
        expect(&offer(operators(CLUSTER).signer.sign(&spec())), "not valid when the job was signed");
        expect(
            &offer(operators_here.signer.sign(&JobSpec { cluster: ClusterId::from_bytes([9; 16]), ..spec() })),
            "cluster",
        );
        let elsewhere = operators(ClusterId::from_bytes([9; 16]));
        let foreign = Door {
            operators: OperatorTrust::new(CLUSTER, elsewhere.ca.der().clone()).expect("a CA"),
            ..self::door(&elsewhere)
        };
        assert!(refusal(&foreign, &offer(elsewhere.signer.sign(&spec()))).reason.contains("certificate"));
        let other = JobSpec { operator: "bob".parse().expect("a name"), ..spec() };
        expect(&offer(operators_here.signer.sign(&other)), "does not name the operator");
    }

    #[test]
    fn membership_is_proved_and_not_claimed() {
        let operators = operators(CLUSTER);
        let door = door(&operators);
        let good = offer(operators.signer.sign(&spec()));
        for index in [0, 2, 4, 5, u32::MAX] {
            let task = TaskId { target: index, ..good.task };
            assert!(refusal(&door, &Offer { task, ..good.clone() }).reason.contains("n3 is not in the list"));
        }
        let targets: Vec<_> = (0..5).map(target).collect();
        let proof = target_tree(&targets).and_then(|tree| tree.proof(2)).expect("a proof");
        let task = TaskId { target: 2, ..good.task };
        assert!(refusal(&door, &Offer { task, proof, ..good.clone() }).reason.contains("n3 is not in the list"));
        let renamed = Door { name: "n4".parse().expect("a name"), ..self::door(&operators) };
        assert!(refusal(&renamed, &good).reason.contains("n4 is not in the list"));
    }

    #[test]
    fn the_offer_agrees_with_what_was_signed() {
        let operators = operators(CLUSTER);
        let door = door(&operators);
        let good = offer(operators.signer.sign(&spec()));
        let job = TaskId { job: JobId::from_bytes([8; 16]), ..good.task };
        assert!(refusal(&door, &Offer { task: job, ..good.clone() }).reason.contains("another job"));
        for attempt in [0, 2] {
            let task = TaskId { attempt, ..good.task };
            assert!(refusal(&door, &Offer { task, ..good.clone() }).reason.contains("attempts"));
        }
    }

    #[test]
    fn a_ping_is_no_task_however_well_it_is_signed() {
        let operators = operators(CLUSTER);
        let ping = PingSpec { way: Way::Both, family: Family::Any, detail: Detail::Ends, probes: Probes::default() };
        let offer = offer(operators.signer.sign(&JobSpec { work: Work::Ping(ping), ..spec() }));
        let refusal = refusal(&door(&operators), &offer);
        assert_eq!(refusal.kind, RejectKind::Refused);
        assert_eq!(refusal.reason, "this agent runs commands only; a ping is not offered as a task");
    }

    #[test]
    fn times_are_measured_by_this_host() {
        let operators = operators(CLUSTER);
        let door = door(&operators);
        let good = offer(operators.signer.sign(&spec()));
        let at = |now| door.admit(&good, Memory::None, now);
        let deadline = spec().start_before + CLOCK_SKEW_MAX;
        assert!(at(deadline).is_ok());
        let late = at(deadline + Duration::from_millis(1)).expect_err("late");
        assert_eq!((late.kind, late.start_before), (RejectKind::Expired, Some(spec().start_before)));

        let behind = at(Timestamp::from_millis(NOW.as_millis() - 121_000)).expect_err("a clock behind");
        assert!(behind.reason.contains("121 s behind"), "{behind:?}");
        assert!(at(Timestamp::from_millis(NOW.as_millis() - 120_000)).is_ok());

        let none =
            door.admit(&Offer { ttl: Duration::ZERO, ..good.clone() }, Memory::None, NOW).expect_err("no window");
        assert_eq!(none.kind, RejectKind::Expired);
        let younger = Door { born_at: NOW + Duration::from_millis(1), ..self::door(&operators) };
        assert!(refusal(&younger, &good).reason.starts_with("journal_reset"));
    }

    #[test]
    fn other_users_need_root() {
        let operators = operators(CLUSTER);
        let mut command = Command::new(Program::Argv(vec![b"true".to_vec()]));
        command.run_as = Some("bob".to_owned());
        let offer = offer(operators.signer.sign(&JobSpec { work: Work::Command(command), ..spec() }));
        let reason = refusal(&door(&operators), &offer).reason;
        assert!(reason.starts_with("cannot become \"bob\": this agent does not run as root"), "{reason}");
        assert!(reason.contains("leave out --run-as"), "{reason}");
        let bob = Door { users: Users::Own("bob".to_owned()), ..door(&operators) };
        assert!(bob.admit(&offer, Memory::None, NOW).is_ok(), "it is what it is");
        let root = Door { users: Users::All, ..door(&operators) };
        assert!(root.admit(&offer, Memory::None, NOW).is_ok());
    }
}
