//! Commands that are dangerous however few hosts they are for: nothing of them runs that nobody has confirmed, whatever the
//! client does.

use muster_proto::command::{Command, OutputLimit, Program};
use muster_proto::context::Config;
use muster_proto::id::JobId;
use muster_proto::job::{JobSpec, Target, TargetsDigest, Work, target_tree};
use muster_proto::limits;
use muster_proto::rollout::Rollout;
use muster_proto::seal::Signer;
use muster_proto::time::Timestamp;
use muster_proto::wire;
use muster_tests::peer::{Call, Credentials};
use muster_tests::{Controller, Fleet, Program as Started};
use serde_json::Value;
use std::fs;
use std::time::{Duration, SystemTime};

#[test]
fn a_dangerous_command_needs_the_count_for_one_host_too() {
    let fleet = Fleet::start(2);
    let danger = fleet.dir().join("controller/danger.conf");
    let defaults = fs::read_to_string(&danger).expect("init has written it");
    assert!(defaults.contains("^(reboot|"), "{defaults}");
    // Nothing of this may run on the machine of a test: a word of our own stands for the worst.
    fs::write(&danger, format!("{defaults}\n# ends the test\n^true end-of-the-test\n")).expect("writable");
    let run = |words: &[&str]| fleet.program(["run", "-w", "dev-1"]).args(words).run();
    let reason = "`true end-of-the-test` matches the danger pattern \"ends the test\"";
    for words in [
        &["--", "true", "end-of-the-test"][..],
        &["--", "sudo", "true", "end-of-the-test"],
        &["--sh", "--", "cd / && /bin/true  end-of-the-test"],
    ] {
        run(words).assert_usage(reason);
        run(&[&["--yes"], words].concat()).assert_usage("--yes=1");
        run(&[&["--yes=2"], words].concat()).assert_usage("the plan has 1 host");
    }
    let gate = ["--waves", "1", "--gate", "true end-of-the-test", "--", "true"];
    fleet.program(["run", "-w", "all"]).args(gate).run().assert_usage(reason);
    let script = fleet.dir().join("script");
    fs::write(&script, "#!/bin/sh\n# don't\necho before\ntrue end-of-the-test\n").expect("writable");
    run(&["--script", script.to_str().expect("text")]).assert_usage(reason);
    run(&["--", "reboot"]).assert_usage("restarts or stops the host");
    assert_eq!(fleet.muster(["jobs", "-o", "json"]).json(), Value::Array(Vec::new()), "something was submitted");

    let dry = run(&["--dry-run", "--", "true", "end-of-the-test"]);
    assert!(dry.status == 0 && dry.out().contains(reason), "{dry}");
    let agreed = run(&["--yes=1", "--", "true", "end-of-the-test"]);
    assert_eq!(agreed.status, 0, "{agreed}");
    let agreed = run(&["--yes=1", "--script", script.to_str().expect("text")]);
    assert!(agreed.status == 0 && agreed.out().contains("before"), "{agreed}");
    assert!(fleet.muster(["audit"]).out().contains("on 1 targets, confirmed 1: true end-of-the-test"));
    for harmless in
        [&["--", "echo", "true end-of-the-test"][..], &["--sh", "--", "echo 'a; true end-of-the-test' reboot"]]
    {
        let run = run(harmless);
        assert_eq!(run.status, 0, "{run}");
    }

    // A line that is no pattern leaves those from before.
    fs::write(&danger, "# nothing\n^(true\n").expect("writable");
    run(&["--", "true", "end-of-the-test"]).assert_usage(reason);
    let status = fleet.muster(["status"]);
    assert!(status.err().contains("danger.conf, line 2"), "{status}");
    fs::write(&danger, "# nothing\n").expect("writable");
    assert_eq!(run(&["--", "true", "end-of-the-test"]).status, 0);
    assert!(!fleet.muster(["status"]).err().contains("danger.conf"));
}

#[test]
fn who_repeats_a_dangerous_script_is_asked_again() {
    let fleet = Fleet::start(1);
    let danger = fleet.dir().join("controller/danger.conf");
    fs::write(&danger, "# ends the test\n^true end-of-the-test\n").expect("writable");
    let script = fleet.dir().join("script");
    fs::write(&script, "#!/bin/sh\ntrue end-of-the-test\nexit 1\n").expect("writable");
    let first = fleet.program(["run", "-w", "all", "--yes=1", "--script", script.to_str().expect("text")]).run();
    assert!(first.closing().starts_with("run: 1 failed"), "{first}");
    // The controller has the script; whoever repeats it need not.
    fs::remove_file(&script).expect("it is there");
    let rerun = |options: &[&str]| fleet.program(["rerun", "last", "--failed"]).args(options).run();
    let reason = "`true end-of-the-test` matches the danger pattern \"ends the test\"";
    let asked = rerun(&[]);
    asked.assert_usage(reason);
    assert!(!asked.err().contains("was not confirmed"), "it is asked before anything is signed: {asked}");
    let dry = rerun(&["--dry-run"]);
    assert!(dry.status == 0 && dry.out().contains(reason), "{dry}");
    rerun(&["--yes=2"]).assert_usage("the plan has 1 host");
    let count = || fleet.muster(["jobs", "-o", "json"]).json().as_array().map(Vec::len);
    assert_eq!(count(), Some(1), "nothing was submitted");
    let agreed = rerun(&["--yes=1"]);
    assert!(agreed.closing().contains("1 failed"), "{agreed}");
    assert_eq!(count(), Some(2));
}

#[test]
fn patterns_that_cannot_be_read_keep_a_controller_from_starting() {
    let mut controller = Controller::start([]);
    controller.end();
    let serve = |options: &[&str]| {
        let state = controller.state().to_owned();
        Started::new("muster-controller").args(["serve", "--state"]).args([&state]).args(options).run()
    };
    let danger = controller.state().join("danger.conf");
    fs::write(&danger, "# mine\n^fine\n^(broken\n").expect("writable");
    let refused = serve(&[]);
    assert!(refused.status == 1 && refused.err().contains("danger.conf, line 3: ^(broken is no"), "{refused}");
    let refused = serve(&["--danger", "/nonexistent/danger.conf"]);
    assert!(refused.status == 1 && refused.err().contains("/nonexistent/danger.conf"), "{refused}");
}

/// A job for one host, signed by the operator himself: with a client of his own he may leave out what ours asks for.
struct Smuggler {
    controller: Controller,
    target: Target,
}

impl Smuggler {
    fn new() -> Self {
        let controller = Controller::start([]);
        let token = controller.token(["--ttl", "10m"]);
        let run = controller.enrol("n1", &token);
        assert_eq!(run.status, 0, "{run}");
        let host = controller.muster(["targets", "n1", "--json"]).json()[0].clone();
        let text = |key: &str| host[key].as_str().expect("text").to_owned();
        let target = Target { agent: text("id").parse().expect("an id"), name: text("host").parse().expect("a name") };
        Self { controller, target }
    }

    /// Whether it is accepted.
    fn submit(&self, command: &str, gate: Option<&str>, confirmed: u32, number: u8) -> bool {
        self.submit_rerun(command, gate, confirmed, number, None)
    }

    fn submit_rerun(&self, command: &str, gate: Option<&str>, confirmed: u32, number: u8, of: Option<u8>) -> bool {
        let config = self.controller.path("config.toml");
        let context =
            Config::from_toml(&fs::read_to_string(&config).expect("a file")).expect("ours").contexts["dev"].clone();
        let shell = |line: &str| Command::new(Program::Shell(line.as_bytes().to_vec()));
        let waves = if gate.is_some() { vec![1] } else { Vec::new() };
        let now = Timestamp::from(SystemTime::now());
        let spec = JobSpec {
            cluster: context.cluster.parse().expect("an id"),
            job: JobId::from_bytes([number; 16]),
            operator: "ada".parse().expect("a name"),
            created_at: now,
            start_before: now + Duration::from_mins(10),
            deliver: limits::DELIVER_DEFAULT,
            targets: TargetsDigest {
                root: target_tree(std::slice::from_ref(&self.target)).expect("a tree").root(),
                count: 1,
            },
            rollout: Rollout {
                waves,
                gate: gate.map(|line| Command { output: OutputLimit::GATE, ..shell(line) }),
                ..Rollout::default()
            },
            rerun_of: of.map(|number| JobId::from_bytes([number; 16])),
            work: Work::Command(shell(command)),
        };
        let signed = Signer::from_pem(&context.key, &context.certificate).expect("a signer").sign(&spec);
        let agents = self.target.agent.as_bytes().to_vec().into();
        let job = wire::SubmitJob { job: Some(signed.into()), agents, pings: None, confirmed };
        let part = wire::SubmitPart { kind: Some(wire::submit_part::Kind::Job(job)) };
        let tls = Credentials::of_operator(&config).dial(&self.controller.address("operators")).expect("TLS");
        let mut call = Call::open(tls, "/muster.v1.Operator/Submit").expect("let in");
        call.send(&part).and_then(|()| call.finish()).expect("sent");
        call.receive::<wire::SubmitReply>().is_some()
    }
}

#[test]
fn a_client_that_does_not_ask_is_refused() {
    let smuggler = Smuggler::new();
    assert!(!smuggler.submit("sudo reboot", None, 0, 1), "not confirmed");
    assert!(!smuggler.submit("sudo reboot", None, 2, 1), "another number");
    assert!(!smuggler.submit("true", Some("reboot"), 0, 2), "the gate");
    let jobs = || smuggler.controller.muster(["jobs", "-o", "json"]).json();
    assert_eq!(jobs(), Value::Array(Vec::new()));
    // The agent is not there, and it ends before it could be.
    assert!(smuggler.submit("sudo reboot", None, 1, 3), "the number of its hosts");
    assert!(smuggler.submit("echo reboot", None, 0, 4), "harmless");
    assert_eq!(jobs().as_array().map(Vec::len), Some(2));
}

#[test]
fn a_job_repeats_only_one_that_was_here() {
    let smuggler = Smuggler::new();
    assert!(!smuggler.submit_rerun("true", None, 0, 2, Some(1)), "nobody knows it");
    assert!(smuggler.submit("true", None, 0, 1));
    assert!(smuggler.submit_rerun("true", None, 0, 2, Some(1)), "by now somebody does");
    assert!(!smuggler.submit_rerun("true", None, 0, 3, Some(3)), "itself");
}
