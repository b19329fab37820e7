//! Who may come in, for how long, and that the wrong ones hear one clear line.

#![expect(clippy::print_stdout, reason = "what was measured is shown with the test's output")]

use muster_proto::context::{Config, Context};
use muster_proto::id::JobId;
use muster_proto::link::ToAgent;
use muster_proto::token::Token;
use muster_proto::wire;
use muster_tests::peer::{AgentPeer, Call, Credentials, Http2};
use muster_tests::{Contact, Controller, Fleet, PATIENCE, Program, Run, enrol, signal, until};
use rustix::process::Signal;
use rustls::HandshakeKind;
use rustls::client::Resumption;
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One line that has the hint, this exit status, and nothing on stdout.
#[track_caller]
fn assert_refused(run: &Run, status: i32, hint: &str) {
    assert_eq!((run.status, run.out().as_str()), (status, ""), "{hint}: {run}");
    assert_eq!(run.err().lines().count(), 1, "one clear line: {run}");
    assert!(run.err().contains(hint), "{hint:?} is not said: {run}");
}

fn config_of(path: &Path) -> Config {
    Config::from_toml(&fs::read_to_string(path).expect("a configuration")).expect("a configuration")
}

/// `muster jobs` with a context that was changed a little.
fn with_context(config: &Path, change: impl FnOnce(&mut Context)) -> Run {
    let mut config = config_of(config);
    change(config.contexts.get_mut("dev").expect("the fleet's context"));
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("config.toml");
    fs::write(&path, config.to_toml().expect("TOML")).expect("written");
    Program::new("muster").args(["jobs", "--context", "dev"]).env("MUSTER_CONFIG", path).run()
}

fn agents(run: impl Fn(&[&str]) -> Run) -> Vec<Value> {
    run(&["agents", "-o", "json"]).json().as_array().expect("a list").clone()
}

/// Waits until a moment is behind us, by the clock.
fn until_passed(span: Duration) {
    let end = Instant::now() + span;
    until(span + PATIENCE, "time passes", || Instant::now() > end);
}

#[test]
fn a_join_token_is_good_for_what_it_says_and_no_more() {
    let (controller, other) = (Controller::start([]), Controller::start([]));
    let token = controller.token(["--labels", "role=db,env=prod"]);
    let short = controller.token(["--ttl", "1s", "--uses", "9"]);
    let made = Instant::now();

    // What cannot be right uses nothing up.
    assert_refused(&controller.enrol("n1", &token[..token.len() - 1]), 2, "copy the whole word");
    assert_refused(&controller.enrol("n1", ""), 2, "copy the whole word");
    assert_refused(&controller.enrol("N1", &token), 2, "is no host name: use 1 to 253 of a-z");
    assert_refused(&controller.enrol("n1", &other.token([])), 1, "is not the one that the token or pin is for");
    assert_refused(&enrol(&other.address("enrolment"), &controller.path("n1"), "n1", &token), 1, "is not the one that");
    assert_refused(
        &enrol("127.0.0.1:1", &controller.path("n1"), "n1", &token),
        1,
        "cannot reach the controller at 127",
    );
    let code = controller.muster(["operator", "add", "eve"]).out();
    assert_refused(&controller.enrol("n1", &code), 2, "`muster login`");

    let enrolled = controller.enrol("n1", &token);
    assert_eq!((enrolled.status, enrolled.err().as_str()), (0, ""), "{enrolled}");
    assert!(enrolled.out().starts_with("enrolled as n1 in "), "{enrolled}");
    assert_refused(&controller.enrol("n2", &token), 1, "the join token is not valid");
    assert_refused(&controller.enrol("n1", &token), 1, "is enrolled as n1; use another --state");
    let taken = enrol(&controller.address("enrolment"), &controller.path("twin"), "n1", &controller.token([]));
    assert_refused(&taken, 1, "an agent has this name");
    until_passed(Duration::from_millis(1_100).saturating_sub(made.elapsed()));
    assert_refused(&controller.enrol("n3", &short), 1, "the join token is not valid");

    let agents = agents(|args| controller.muster(args));
    assert_eq!(agents.len(), 1, "only one came in: {agents:?}");
    assert_eq!(agents[0]["labels"], json!({"role": "db", "env": "prod"}), "the token's labels");
    assert_eq!((&agents[0]["connected"], &agents[0]["facts"]), (&json!(false), &Value::Null));
}

#[test]
fn a_token_for_three_makes_three_agents_however_many_try_at_once() {
    let controller = Controller::start([]);
    let token = controller.token(["--uses", "3"]);
    let runs: Vec<Run> = std::thread::scope(|scope| {
        let (controller, token) = (&controller, &token);
        let tries: Vec<_> =
            (0..8).map(|number| scope.spawn(move || controller.enrol(&format!("n{number}"), token))).collect();
        tries.into_iter().map(|one| one.join().expect("no panic")).collect()
    });
    let (good, bad): (Vec<_>, Vec<_>) = runs.iter().partition(|run| run.status == 0);
    assert_eq!((good.len(), bad.len()), (3, 5));
    bad.iter().for_each(|run| assert_refused(run, 1, "the join token is not valid"));
    assert_eq!(agents(|args| controller.muster(args)).len(), 3);
}

#[test]
fn without_a_token_a_machine_waits_for_approval_by_fingerprint() {
    let (controller, other) = (Controller::start([]), Controller::start([]));
    let ask = |pin: &str| {
        Program::new("muster-agent")
            .args(["enroll", "--controller", &controller.address("enrolment"), "--name", "n1", "--pin", pin, "--state"])
            .args([controller.path("n1")])
    };
    assert_refused(&ask(other.pin()).run(), 1, "is not the one that the token or pin is for");
    assert_refused(&ask("abc").run(), 2, "CLUSTER:SHA256HEX");

    let mut asking = ask(controller.pin()).spawn();
    let mut stderr = BufReader::new(asking.stderr.take().expect("piped"));
    let mut said = String::new();
    stderr.read_line(&mut said).expect("readable");
    stderr.read_line(&mut said).expect("readable");
    let typed = said.lines().last().expect("two lines");
    let fingerprint = typed.trim().strip_prefix("muster agents approve ").expect("what to type").to_owned();
    let pending = controller.muster(["agents", "approve"]);
    assert!(pending.status == 0 && pending.out().contains(&fingerprint), "{pending}");
    assert!(agents(|args| controller.muster(args)).is_empty(), "nobody comes in by asking");
    let wrong = "0".repeat(64);
    assert_refused(&controller.muster(["agents", "approve", &wrong]), 2, "no machine with this fingerprint");
    assert_eq!(controller.muster(["agents", "approve", &fingerprint[..63]]).status, 2);
    assert!(agents(|args| controller.muster(args)).is_empty(), "a wrong fingerprint lets nobody in");

    let approved = controller.muster(["agents", "approve", &fingerprint, "--labels", "role=web"]);
    assert_eq!((approved.status, approved.err().as_str()), (0, "n1 may come in\n"), "{approved}");
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).expect("text");
    assert_eq!((asking.wait().expect("our child").code(), rest.as_str()), (Some(0), ""));
    let _agent = controller.run_agent("n1");
    let mut known = Vec::new();
    until(PATIENCE, "the approved agent is connected", || {
        known = agents(|args| controller.muster(args));
        known[0]["connected"] == json!(true)
    });
    assert_eq!((&known[0]["host"], &known[0]["labels"]), (&json!("n1"), &json!({"role": "web"})));
}

#[test]
fn only_the_right_controller_is_talked_to_and_only_by_operators() {
    let (fleet, other) = (Fleet::start(1), Controller::start([]));
    let config = fleet.dir().join("config.toml");
    assert_eq!(with_context(&config, |_| ()).status, 0);
    let stranger = config_of(&other.path("config.toml")).contexts.remove("dev").expect("a context");
    let refused = |hint: &str, change: &dyn Fn(&mut Context)| {
        let run = with_context(&config, change);
        assert_refused(&run, 6, hint);
        assert!(run.err().starts_with("muster: "), "{run}");
    };
    refused("cannot reach the controller at 127.0.0.1:1", &|context| context.controller = "127.0.0.1:1".to_owned());
    // Another cluster's controller, or a CA that is not this one's.
    refused("is not a controller of this cluster", &|context| context.controller = stranger.controller.clone());
    refused("is not a controller of this cluster", &|context| context.controller_ca = stranger.controller_ca.clone());
    refused("does not accept your certificate", &|context| {
        (context.certificate, context.key) = (stranger.certificate.clone(), stranger.key.clone());
    });
    // An agent is no operator, and an operator is no agent: each listener takes its own kind only.
    let identity = fleet.agent_state(1).join("identity");
    let read = |file: &str| fs::read_to_string(identity.join(file)).expect("the agent's identity");
    refused("does not accept your certificate", &|context| {
        (context.certificate, context.key) = (read("agent.crt"), read("key.pem"));
    });
    let [agents, _, enrolment] = ["agents", "operators", "enrolment"].map(|listener| fleet.address(listener));
    refused("does not accept your certificate", &|context| context.controller = agents.clone());
    refused("does not know this request", &|context| context.controller = enrolment.clone());

    let run = fleet.muster(["run", "-w", "all", "--context", "nowhere", "--", "true"]);
    assert_refused(&run, 2, "there is no context \"nowhere\"");
    assert_eq!(fleet.muster(["jobs", "-o", "json"]).json(), json!([]), "nothing was submitted");
}

#[test]
fn a_login_code_makes_one_operator_who_is_out_when_disabled() {
    let controller = Controller::start([]);
    let add =
        |name: &str, ttl: &str| controller.muster(["operator", "add", name, "--ttl", ttl]).out().trim().to_owned();
    let config = |name: &str| controller.path(&format!("{name}.toml"));
    let log_in =
        |name: &str, code: &str| Program::new("muster").args(["login", code]).env("MUSTER_CONFIG", config(name)).run();
    let bob = |args: &[&str]| Program::new("muster").args(args).env("MUSTER_CONFIG", config("bob")).run();

    let (late, made) = (add("late", "1s"), Instant::now());
    let code = add("bob", "1h");
    assert_eq!(log_in("bob", &code[..code.len() - 30]).status, 2);
    assert_refused(&log_in("bob", &controller.token([])), 2, "`muster-agent enroll`");
    assert_eq!(log_in("bob", &code).status, 0);
    assert_refused(&log_in("eve", &code), 6, "code");
    assert!(!config("eve").exists(), "no identity is written for nothing");
    until_passed(Duration::from_millis(1_100).saturating_sub(made.elapsed()));
    assert_refused(&log_in("late", &late), 6, "code");
    let elsewhere = Token { address: "127.0.0.1:1".to_owned(), ..code.parse().expect("a code") };
    assert_refused(&log_in("eve", &elsewhere.to_string()), 6, "cannot reach the controller at 127.0.0.1:1");

    // Bob is an operator like others, until he is not.
    controller.enrol("n1", &controller.token([]));
    assert_eq!(bob(&["jobs"]).status, 0);
    let run = bob(&["run", "-w", "all", "-t", "1s", "--", "true"]);
    assert_eq!(run.status, 3, "{run}");
    assert_eq!(controller.muster(["jobs", "-o", "json"]).json()[0]["operator"], "bob");
    // A second login, as after a lost laptop: from then on the new key is the only one.
    assert_eq!(log_in("new", &add("bob", "1h")).status, 0);
    assert_refused(&bob(&["jobs"]), 6, "logged in with a newer key");
    assert_eq!(log_in("bob", &add("bob", "1h")).status, 0);
    assert_eq!(bob(&["jobs"]).status, 0);
    assert_eq!(controller.muster(["operator", "disable", "bob"]).status, 0);
    assert_refused(&bob(&["jobs"]), 6, "the operator bob is disabled");
    assert_refused(&bob(&["run", "-w", "all", "--", "true"]), 6, "the operator bob is disabled");
    let list = controller.muster(["operator", "list"]).out();
    let bob_is = list.lines().find(|line| line.starts_with("bob ")).expect("bob is listed");
    assert!(bob_is.contains("disabled"), "{list}");
    assert_refused(&controller.muster(["operator", "disable", "ada"]), 2, "ada is the last operator who can sign");
    assert_eq!(controller.muster(["jobs", "-o", "json"]).json().as_array().map(Vec::len), Some(1));
}

#[test]
fn nobody_stays_longer_than_the_certificate() {
    let controller = Controller::start(["--agent-validity", "6s", "--operator-validity", "2s"]);
    let code = controller.muster(["operator", "add", "bob"]).out();
    let bob = |args: &[&str]| Program::new("muster").args(args).env("MUSTER_CONFIG", controller.path("bob.toml")).run();
    assert_eq!(bob(&["login", code.trim()]).status, 0);
    assert_eq!(controller.enrol("n1", &controller.token([])).status, 0);
    let agent = controller.run_agent("n1");
    let look = || agents(|args| controller.muster(args))[0].clone();
    until(PATIENCE, "the agent has a session", || look()["connected"] == json!(true));
    // Who is stopped renews nothing.
    signal(agent.pid(), Signal::STOP);
    until(PATIENCE, "the session is closed", || look()["connected"] == json!(false));
    let said = fs::read_to_string(controller.path("controller.log")).expect("the controller's log");
    assert!(said.contains("the agent's certificate expired, session closed"), "{said}");
    signal(agent.pid(), Signal::CONT);
    let log = || fs::read_to_string(controller.path("n1.log")).expect("the agent's log");
    until(PATIENCE, "it is not let in again and says why", || log().contains("it expired before it could be renewed"));
    let run = controller.muster(["run", "-w", "all", "-t", "1s", "--", "true"]);
    assert_eq!(run.status, 3, "{run}");
    assert!(run.closing().starts_with("run: 1 unreachable n1: 1 targeted in "), "{run}");

    let mut last = bob(&["jobs"]);
    until(PATIENCE, "bob's certificate has expired", || {
        last = bob(&["jobs"]);
        last.status != 0
    });
    assert_refused(&last, 6, "has expired: log in again");
}

#[test]
fn an_expired_certificate_is_worth_nothing_with_a_ticket_or_an_old_connection_either() {
    let controller = Controller::start(["--agent-validity", "3s"]);
    assert_eq!(controller.enrol("n1", &controller.token([])).status, 0);
    let (agent, address) = (Credentials::of_agent(&controller.path("n1")), controller.address("agents"));
    // rustls does not verify a client again when it resumes: there must be nothing to resume.
    let mut config = agent.config();
    config.resumption = Resumption::in_memory_sessions(8);
    let config = Arc::new(config);
    let open = || Http2::open(agent.dial_with(&address, &config)?);
    let early = open().expect("it is valid");
    for http in [&early, &open().expect("it is valid")] {
        let tls = &http.tls().conn;
        assert_eq!((tls.handshake_kind(), tls.tls13_tickets_received()), (Some(HandshakeKind::Full), 0));
    }
    let mut session = AgentPeer::live(&agent, &address, []);
    session.until_closed();
    let counted =
        || controller.muster(["status", "-o", "json"]).json()["metrics"]["muster_sessions_closed_total"].clone();
    until(PATIENCE, "it is counted", || counted()["expired"] == json!(1));

    until(PATIENCE, "the certificate has expired", || open().is_err());
    assert!(Http2::open(agent.dial(&address).expect("half a handshake")).is_err(), "a full handshake");
    // The stream was ended, and the connections that bear no stream bear no new one.
    for (what, http) in [("that had none", early), ("that had one", session.into_http())] {
        if let Ok(mut late) = AgentPeer::on(http, &agent) {
            let _ = late.hello([]);
            assert!(!matches!(late.receive(), Some(ToAgent::Welcome(_))), "a session on a connection {what}");
        }
    }
}

#[test]
fn p3_who_is_revoked_or_disabled_is_out_at_once_in_the_middle_of_a_stream() {
    let controller = Controller::start([]);
    assert_eq!(controller.enrol("n1", &controller.token([])).status, 0);
    let (agent, address) = (Credentials::of_agent(&controller.path("n1")), controller.address("agents"));
    let (early, mut session) = (Http2::open(agent.dial(&address).expect("TLS")), AgentPeer::live(&agent, &address, []));
    let submit = |args: &[&str]| {
        let run = controller.program(["run", "-d", "-w", "all"]).args(args).run();
        assert_eq!(run.status, 0, "{run}");
        run.out().trim().to_owned()
    };
    let job = submit(&["--", "true"]);
    assert_eq!(session.offer().job.to_string(), job);

    // Bob follows the job when he is disabled.
    let code = controller.muster(["operator", "add", "bob"]).out();
    let config = controller.path("bob.toml");
    let login = Program::new("muster").args(["login", code.trim()]).env("MUSTER_CONFIG", &config).run();
    assert_eq!(login.status, 0, "{login}");
    let (bob, operators) = (Credentials::of_operator(&config), controller.address("operators"));
    let request = wire::FollowRequest {
        job: job.parse::<JobId>().expect("an id").as_bytes().to_vec().into(),
        ..wire::FollowRequest::default()
    };
    let mut follower = Call::open(bob.dial(&operators).expect("TLS"), "/muster.v1.Operator/Follow").expect("let in");
    follower.send(&request).expect("heard");
    follower.finish().expect("heard");
    assert!(follower.receive::<wire::EventBlock>().is_some(), "he follows");
    assert_eq!(controller.muster(["operator", "disable", "bob"]).status, 0);
    let disabled = Instant::now();
    while follower.receive::<wire::EventBlock>().is_some() {}
    println!("the stream of a disabled operator ended after {:?}", disabled.elapsed());
    let mut again = Call::on(follower.into_http(), "/muster.v1.Operator/Follow").expect("the connection is there");
    let _ = again.send(&request).and_then(|()| again.finish());
    assert!(again.receive::<wire::EventBlock>().is_none(), "he is told nothing any more");

    assert_eq!(controller.muster(["agents", "revoke", "n1"]).status, 0);
    let revoked = Instant::now();
    session.until_closed();
    println!("the stream of a revoked agent ended after {:?}", revoked.elapsed());
    let attach = controller.muster(["attach", &job]);
    assert_eq!(attach.status, 4, "{attach}");
    assert!(attach.closing().starts_with("attach: 1 indeterminate n1: 1 targeted in "), "{attach}");
    for http in [early, Ok(session.into_http()), Http2::open(agent.dial(&address).expect("TLS"))].into_iter().flatten()
    {
        if let Ok(mut late) = AgentPeer::on(http, &agent) {
            let _ = late.hello([]);
            assert!(!matches!(late.receive(), Some(ToAgent::Welcome(_))), "it is not welcome any more");
        }
    }
}

#[test]
fn a_revoked_agent_is_out_at_once() {
    let fleet = Fleet::start(2);
    let gate = fleet.gate("work");
    let line = format!("test $MUSTER_HOST != dev-1 || exit 0; echo begun; {}", gate.wait());
    let mut running = fleet.program(["run", "-w", "all", &line]).spawn();
    let mut begun = String::new();
    let mut stdout = BufReader::new(running.stdout.take().expect("piped"));
    stdout.read_line(&mut begun).expect("readable");
    assert_eq!(begun, "dev-2: begun\n");
    let state = fleet.agent_state(2);
    assert_eq!(fleet.muster(["agents", "revoke", "dev-2"]).err().lines().count(), 1);
    let is_connected = || {
        let agents = agents(|args| fleet.muster(args));
        agents.iter().any(|agent| agent["host"] == "dev-2" && agent["connected"] == json!(true))
    };
    assert!(!is_connected(), "it is out when the revocation is confirmed");
    running.stdout = None;
    let status = running.wait().expect("our child");
    let mut said = String::new();
    running.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
    assert_eq!(status.code(), Some(4), "what became of its task cannot be known: {said}");
    let closing = said.lines().last().unwrap_or_default();
    assert!(closing.starts_with("run: 1 succeeded, 1 indeterminate dev-2: 2 targeted in "), "{said}");
    assert!(said.contains("dev-2: indeterminate: ") && said.contains("revoked"), "{said}");

    // It knows why, and it is nobody's target any more; its name is free.
    let log = || fs::read_to_string(state.with_extension("log")).expect("the agent's log");
    until(PATIENCE, "the agent says that it was revoked", || log().contains("revoked"));
    let run = fleet.muster(["run", "-w", "dev-2", "--", "true"]);
    assert_refused(&run, 2, "no agent is called dev-2");
    assert_eq!(fleet.muster(["agents", "revoke", "dev-2"]).status, 2);
    fleet.until_contact(1, Contact::There);
    let token = fleet.muster(["token", "create"]).out();
    let again = enrol(&fleet.enrolment_address(), &fleet.dir().join("second"), "dev-2", &token);
    assert_eq!(again.status, 0, "{again}");
}

#[test]
fn labels_choose_hosts_and_can_be_changed() {
    let fleet = Fleet::start(3);
    let label = |expression: &str, changes: &[&str]| fleet.program(["agents", "label", expression]).args(changes).run();
    let names =
        |expression: &str| fleet.muster(["run", "-w", expression, "--names", "--order", "target", "--", "true"]);
    let labelled = label("dev-[1-2]", &["role=web", "tier=front"]);
    assert_eq!((labelled.status, labelled.err().as_str()), (0, "2 hosts labelled: dev-[1-2]\n"), "{labelled}");
    assert_eq!(names("role=web").out(), "dev-1\ndev-2\n");
    assert_eq!(names("role=w*,slot=3").out(), "dev-1\ndev-2\ndev-3\n");
    assert_eq!(label("dev-2", &["role=db", "tier-"]).status, 0);
    assert_eq!(names("tier=*").out(), "dev-1\n");
    assert_eq!(names("role=db").out(), "dev-2\n");
    assert_refused(&names("role=mail"), 2, "no agent matches role=mail");
    for changes in [&["Role=web"][..], &["role="], &["role=web", "role-"]] {
        assert_eq!(label("all", changes).status, 2, "{changes:?}");
    }
    let listed = fleet.muster(["agents", "role=db", "-o", "json"]).json();
    assert_eq!(listed[0]["labels"], json!({"env": "dev", "role": "db", "slot": "2"}));
    assert_eq!(listed.as_array().map(Vec::len), Some(1));
}
