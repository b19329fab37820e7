//! The one door for offers. It decides from what it is given, and touches nothing: whatever the controller says, only
//! what an operator of this cluster signed for this agent, for now, and in the signed order, passes.

mod past;

use muster_proto::command::Command;
use muster_proto::id::{AgentId, Attempt};
use muster_proto::job::JobSpec;
use muster_proto::limits::CLOCK_SKEW_MAX;
use muster_proto::link::{Offer, RejectKind};
use muster_proto::merkle;
use muster_proto::name::HostName;
use muster_proto::seal::OperatorTrust;
use muster_proto::time::Timestamp;
pub use past::{Past, Stand};
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
    pub fn admit(&self, offer: &Offer, past: &Past, now: Timestamp) -> Result<Admission, Refusal> {
        let payload: [u8; 32] = Sha256::digest(&offer.job.payload).into();
        let known = past.tasks.contains_key(&offer.task.attempt);
        // The same bytes were verified when they first came.
        if known && past.payload == Some(payload) {
            return Ok(Admission::Known);
        }
        let spec = self.operators.open(&offer.job).map_err(|error| refused(error.to_string()))?;
        if past.payload.is_some_and(|known| known != payload) {
            return Err(refused("conflict: this job is known with another payload; submit a new job".to_owned()));
        }
        if known {
            return Ok(Admission::Known);
        }
        self.check(&spec, offer, past, now)?;
        Ok(Admission::Run { spec: Box::new(spec), payload })
    }

    /// All that is this agent's own to check in an offer whose signature is good, and which it does not know: that it is a
    /// command, as it was signed, for this agent, for now, in its turn. Returns the command.
    pub fn check<'a>(
        &self,
        spec: &'a JobSpec,
        offer: &Offer,
        past: &Past,
        now: Timestamp,
    ) -> Result<&'a Command, Refusal> {
        let attempt = offer.task.attempt;
        let Some(command) = spec.command_of(attempt) else {
            let what = if attempt == Attempt::GATE { "the job has no gate" } else { "the job is no command" };
            return Err(refused(format!("not as signed: {what}")));
        };
        if offer.task.job != spec.job {
            return Err(refused("not as signed: the offer names another job".to_owned()));
        }
        let most = spec.rollout.attempts_max();
        if attempt > Attempt(most) {
            return Err(refused(format!("not as signed: attempt {attempt} of at most {most} attempts")));
        }
        let leaf = merkle::leaf(self.agent, &self.name);
        if !merkle::verify(&spec.targets.root, spec.targets.count, offer.task.target, leaf, &offer.proof) {
            return Err(refused(format!("{} is not in the list of targets that was signed", self.name)));
        }
        past.allows(&spec.rollout, attempt)
            .map_err(|error| refused(error.to_string()))
            .and_then(|()| self.check_times(spec, offer, now))
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

/// Nothing of the offer is good enough to be remembered.
const fn refused(reason: String) -> Refusal {
    Refusal { kind: RejectKind::Refused, reason, start_before: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::command::{OutputLimit, Program};
    use muster_proto::id::{ClusterId, JobId, TaskId};
    use muster_proto::job::{SignedJob, Target, TargetsDigest, Work, target_tree};
    use muster_proto::name::{Peer, PeerName};
    use muster_proto::outcome::State;
    use muster_proto::ping::{Detail, Family, PingSpec, Probes, Way};
    use muster_proto::rollout::Rollout;
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
            rollout: Rollout::default(),
            rerun_of: None,
            work: Work::Command(Command::new(Program::Argv(vec![b"true".to_vec()]))),
        }
    }

    /// An offer to target 3.
    fn offer(job: SignedJob) -> Offer {
        let targets: Vec<_> = (0..5).map(target).collect();
        let proof = target_tree(&targets).and_then(|tree| tree.proof(3)).expect("a proof");
        let task = TaskId { job: JobId::from_bytes([7; 16]), target: 3, attempt: Attempt::FIRST };
        Offer { task, job, proof, ttl: Duration::from_secs(30) }
    }

    fn door(operators: &Operators) -> Door {
        let Target { agent, name } = target(3);
        let trust = OperatorTrust::new(CLUSTER, operators.ca.der().clone()).expect("a CA");
        Door { operators: trust, agent, name, born_at: NOW, users: Users::Own("ann".to_owned()) }
    }

    fn refusal(door: &Door, offer: &Offer) -> Refusal {
        door.admit(offer, &Past::default(), NOW).expect_err("a refusal")
    }

    #[test]
    fn what_an_operator_signed_for_this_agent_runs_once() {
        let operators = operators(CLUSTER);
        let door = door(&operators);
        let offer = offer(operators.signer.sign(&spec()));
        let Ok(Admission::Run { spec: admitted, payload }) = door.admit(&offer, &Past::default(), NOW) else {
            panic!("a good offer");
        };
        assert_eq!(*admitted, spec());
        let past = |payload, known: &[Attempt]| Past {
            payload,
            tasks: known.iter().map(|attempt| (*attempt, Stand::Open)).collect(),
        };
        let task = [Attempt::FIRST];
        assert!(matches!(door.admit(&offer, &past(Some(payload), &task), NOW), Ok(Admission::Known)));
        assert!(matches!(door.admit(&offer, &past(None, &task), NOW), Ok(Admission::Known)));
        for known in [&task[..], &[]] {
            let conflict = door.admit(&offer, &past(Some([0; 32]), known), NOW).expect_err("a conflict");
            assert!(conflict.reason.starts_with("conflict"), "{conflict:?}");
        }
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
        for (attempt, told) in [(Attempt::GATE, "no gate"), (Attempt(2), "attempt 2 of at most 1")] {
            let task = TaskId { attempt, ..good.task };
            let refusal = refusal(&door, &Offer { task, ..good.clone() });
            assert!(refusal.reason.contains(told) && refusal.start_before.is_none(), "{refusal:?}");
        }
    }

    #[test]
    fn an_attempt_and_a_gate_come_in_their_turn_or_are_refused_for_good() {
        let operators = operators(CLUSTER);
        let door = door(&operators);
        let gate = Command { output: OutputLimit::GATE, ..Command::new(Program::Shell(b"exit 0".to_vec())) };
        let rollout = Rollout { retry_failed: 1, waves: vec![1], gate: Some(gate.clone()), ..Rollout::default() };
        let spec = JobSpec { rollout, ..spec() };
        let good = offer(operators.signer.sign(&spec));
        let past = |stand| Past { tasks: [(Attempt::FIRST, stand)].into(), ..Past::default() };
        let at = |attempt| Offer { task: TaskId { attempt, ..good.task }, ..good.clone() };
        let check = |attempt, past: &Past| door.check(&spec, &at(attempt), past, NOW).cloned();
        let failed = past(Stand::Over(State::Failed));
        assert_eq!(check(Attempt::GATE, &failed), Ok(gate));
        assert_eq!(check(Attempt(2), &failed).as_ref(), Ok(spec.work.command().expect("a command")));
        for attempt in [Attempt::GATE, Attempt(2)] {
            let early = check(attempt, &past(Stand::Open)).expect_err("too early");
            assert!(early.reason.starts_with("not as signed: attempt 1 has not ended"), "{early:?}");
            assert_eq!((early.kind, early.start_before), (RejectKind::Refused, Some(spec.start_before)));
        }
    }

    #[test]
    fn a_ping_is_no_task_however_well_it_is_signed() {
        let operators = operators(CLUSTER);
        let ping = PingSpec { way: Way::Both, family: Family::Any, detail: Detail::Ends, probes: Probes::default() };
        let offer = offer(operators.signer.sign(&JobSpec { work: Work::Ping(ping), ..spec() }));
        let refusal = refusal(&door(&operators), &offer);
        assert_eq!(refusal.kind, RejectKind::Refused);
        assert_eq!(refusal.reason, "not as signed: the job is no command");
    }

    #[test]
    fn times_are_measured_by_this_host() {
        let operators = operators(CLUSTER);
        let door = door(&operators);
        let good = offer(operators.signer.sign(&spec()));
        let at = |now| door.admit(&good, &Past::default(), now);
        let deadline = spec().start_before + CLOCK_SKEW_MAX;
        assert!(at(deadline).is_ok());
        let late = at(deadline + Duration::from_millis(1)).expect_err("late");
        assert_eq!((late.kind, late.start_before), (RejectKind::Expired, Some(spec().start_before)));

        let behind = at(Timestamp::from_millis(NOW.as_millis() - 121_000)).expect_err("a clock behind");
        assert!(behind.reason.contains("121 s behind"), "{behind:?}");
        assert!(at(Timestamp::from_millis(NOW.as_millis() - 120_000)).is_ok());

        let none =
            door.admit(&Offer { ttl: Duration::ZERO, ..good.clone() }, &Past::default(), NOW).expect_err("no window");
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
        assert!(bob.admit(&offer, &Past::default(), NOW).is_ok(), "it is what it is");
        let root = Door { users: Users::All, ..door(&operators) };
        assert!(root.admit(&offer, &Past::default(), NOW).is_ok());
    }
}
