//! Limits, each run into on purpose: silent and slow connections, no descriptors left, abuse of HTTP/2, followers and
//! hosts that hold everything up. Only who causes it is delayed, and it is counted.

#![expect(clippy::print_stdout, reason = "what was measured is shown with the test's output")]

use muster_proto::event::EventKind;
use muster_proto::id::JobId;
use muster_proto::limits;
use muster_proto::wire;
use muster_tests::peer::{
    ACK, Call, Credentials, END_HEADERS, END_STREAM, Gone, Http2, Kind, SESSION, Tls, request_head,
};
use muster_tests::{Fleet, PATIENCE, cpu_time, descriptors, enrol, finish, peak_memory, signal, until};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use End::{Borne, Closed};

/// A debug build with a small fleet needs a fifth of this.
const MEMORY_ENOUGH: u64 = 192 << 20;

/// The identity of an agent that is enrolled and does not run.
fn enrolled(fleet: &Fleet) -> Credentials {
    let token = fleet.muster(["token", "create"]).out();
    let state = fleet.dir().join("evil");
    let run = enrol(&fleet.enrolment_address(), &state, "evil", token.trim());
    assert_eq!(run.status, 0, "{run}");
    Credentials::of_agent(&state)
}

#[track_caller]
fn assert_well(fleet: &Fleet) {
    let run = fleet.muster(["run", "-w", "dev-*", "--", "echo", "well"]);
    assert_eq!(run.status, 0, "{run}");
    let peak = peak_memory(fleet.controller_pid());
    assert!(peak < MEMORY_ENOUGH, "the controller had {} MiB", peak >> 20);
}

/// Waits until the other end closes a connection on which nothing more is said.
#[track_caller]
fn assert_closed(what: &str, mut stream: &TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
    let mut bytes = [0; 1024];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return,
            Err(error) => panic!("{what}: it is held: {error}"),
        }
    }
}

#[test]
fn who_connects_and_does_not_speak_is_gone_at_the_deadline() {
    const SILENT: usize = 500;
    let fleet = Fleet::start(1);
    let (evil, address) = (enrolled(&fleet), fleet.address("agents"));
    let connect = || TcpStream::connect(&address).expect("a connection");
    // TLS and then nothing, or less than a preface: they come before the others have taken all places.
    let mut polite: Vec<Tls> = (0..3).map(|_| evil.dial(&address).expect("it is let in")).collect();
    for (tls, said) in polite.iter_mut().zip(["", "PRI * HTTP", "GET / HTTP/1.1\r\nHost: controller\r\n\r\n"]) {
        tls.write_all(said.as_bytes()).expect("it is heard");
    }
    let mut dripping = connect();
    let silent: Vec<TcpStream> = (0..SILENT).map(|_| connect()).collect();

    let turned = |result| fleet.counted("muster_connections_total", &["agents", result]);
    // The fleet and its operators do not notice.
    assert_well(&fleet);
    let drip = std::thread::spawn(move || {
        // A ClientHello, at a pace that would take hours.
        let mut hello = [22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3].into_iter().chain(std::iter::repeat(0));
        while dripping.write_all(&[hello.next().expect("endless")]).is_ok() {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    silent.iter().for_each(|stream| assert_closed("silent", stream));
    polite.iter().for_each(|tls| assert_closed("nothing after TLS", &tls.sock));
    drip.join().expect("the dripping one is closed");
    until(PATIENCE, "they are counted", || turned("silent") >= SILENT as u64 + 2 && turned("failed") >= 1);
    assert_well(&fleet);
    drop(Http2::open(evil.dial(&address).expect("it is let in")).expect("there is room again"));
}

#[test]
fn without_descriptors_the_controller_waits_and_comes_back() {
    let fleet = Fleet::start(2);
    let (controller, gate) = (fleet.controller_pid(), fleet.gate("work"));
    let line = format!("echo begun; {}; echo over", gate.wait());
    let mut running = fleet.program(["run", "-w", "all", &line]).spawn();
    let mut stdout = BufReader::new(running.stdout.take().expect("piped"));
    for _ in 0..2 {
        let mut begun = String::new();
        stdout.read_line(&mut begun).expect("readable");
        assert!(begun.ends_with(": begun\n"), "{begun}");
    }
    let pid = Pid::from_raw(i32::try_from(controller).expect("a pid"));
    // Ours is the controller's as well.
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = |current: u64| Rlimit { current: Some(current), maximum };
    let few = descriptors(controller) as u64 + 40;
    let before = prlimit(pid, Resource::Nofile, limit(few)).expect("a limit");
    let silent: Vec<TcpStream> =
        (0..200).map(|_| TcpStream::connect(fleet.address("agents")).expect("the kernel takes it")).collect();
    until(PATIENCE, "it has none left", || descriptors(controller) as u64 >= few);

    let (cpu, start) = (cpu_time(controller), Instant::now());
    gate.open();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("text");
    let status = running.wait().expect("our child");
    // What the run gave back goes to the next silent one; where none waits any more, the test came too late.
    until(PATIENCE, "silent ones still wait for descriptors", || descriptors(controller) as u64 >= few);
    assert_eq!(status.code(), Some(0), "{rest}");
    assert!(rest.contains("dev-1: over\n") && rest.contains("dev-2: over\n"), "sessions go on: {rest:?}");
    until(PATIENCE, "a while passes", || start.elapsed() > Duration::from_secs(1));
    let (spent, passed) = (cpu_time(controller).saturating_sub(cpu), start.elapsed());
    println!("without descriptors: {spent:?} of processor time in {passed:?}");
    assert!(spent < passed / 2, "it spins: {spent:?} in {passed:?}");

    drop(silent);
    assert_well(&fleet);
    assert!(fleet.counted("muster_connections_total", &["agents", "accept_errors"]) > 0, "it is counted");
    prlimit(pid, Resource::Nofile, before).expect("a limit");
}

/// What may become of a connection that is abused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It is closed.
    Closed,
    /// It goes on, because it costs no more than lawful frames.
    Borne,
}

/// Abuses a connection of its own.
#[track_caller]
fn attack(door: (&Credentials, &str), name: &str, end: End, with: impl FnOnce(&mut Http2) -> Result<(), Gone>) {
    let (evil, address) = door;
    let mut http = Http2::open(evil.dial(address).expect("it is let in")).expect("it is let in");
    let cut = with(&mut http).is_err();
    let left = match end {
        Closed if cut => true,
        Closed => matches!(http.until_gone(name), Gone(_)),
        // Whoever is there answers.
        Borne => cut || http.frame(Kind::Ping, 0, 0, &[7; 8]).is_err() || http.next(Duration::from_millis(50)).is_err(),
    };
    println!("{name}: {end:?}, GOAWAY {:?}", http.goaway());
    assert_eq!(left, end == Closed, "{name}");
}

#[test]
fn abuse_of_http2_ends_its_own_connection_or_is_borne() {
    const MANY: u32 = 10_000;
    let fleet = Fleet::start(1);
    let (evil, address, controller) = (enrolled(&fleet), fleet.address("agents"), fleet.controller_pid());
    let (door, cpu) = ((&evil, &*address), cpu_time(controller));
    let streams = || (0..MANY).map(|number| 2 * number + 1);
    let head = request_head(SESSION, &[]);
    attack(door, "rapid reset", Closed, |http| {
        streams().try_for_each(|stream| {
            http.frame(Kind::Headers, END_HEADERS, stream, &head)?;
            http.frame(Kind::Reset, 0, stream, &8_u32.to_be_bytes())
        })
    });
    attack(door, "streams without end", Closed, |http| {
        streams().try_for_each(|stream| http.frame(Kind::Headers, END_HEADERS, stream, &head))
    });
    attack(door, "continuations without end", Closed, |http| {
        http.frame(Kind::Headers, 0, 1, &head)?;
        let more = request_head(SESSION, &[("x", &"y".repeat(1_000))]);
        (0..MANY).try_for_each(|_| http.frame(Kind::Continuation, 0, 1, &more))
    });
    attack(door, "empty continuations", Closed, |http| {
        http.frame(Kind::Headers, 0, 1, &head)?;
        (0..MANY).try_for_each(|_| http.frame(Kind::Continuation, 0, 1, &[]))
    });
    attack(door, "a huge head", Borne, |http| {
        http.frame(Kind::Headers, END_HEADERS, 1, &request_head(SESSION, &[("x", &"y".repeat(16_000))]))
    });
    attack(door, "pings", Borne, |http| (0..MANY).try_for_each(|_| http.frame(Kind::Ping, 0, 0, &[0; 8])));
    attack(door, "settings", Borne, |http| {
        (0..MANY).try_for_each(|_| http.frame(Kind::Settings, 0, 0, &[0, 4, 0, 0, 0, 1]))
    });
    attack(door, "answers that nobody asked for", Closed, |http| {
        (0..MANY).try_for_each(|_| http.frame(Kind::Settings, ACK, 0, &[]))
    });
    attack(door, "empty data", Closed, |http| {
        let stream = http.call(SESSION)?;
        (0..MANY).try_for_each(|_| http.frame(Kind::Data, 0, stream, &[]))
    });
    attack(door, "data on a stream that ended", Closed, |http| {
        let stream = http.call(SESSION)?;
        http.frame(Kind::Data, END_STREAM, stream, &[])?;
        (0..MANY).try_for_each(|_| http.frame(Kind::Data, 0, stream, &[0; 100]))
    });
    attack(door, "a window that overflows", Closed, |http| {
        http.frame(Kind::WindowUpdate, 0, 0, &0x7fff_ffff_u32.to_be_bytes())?;
        http.frame(Kind::WindowUpdate, 0, 0, &0x7fff_ffff_u32.to_be_bytes())
    });
    attack(door, "a frame larger than may be", Closed, |http| http.frame(Kind::Data, 0, 1, &[0; 1 << 20]));
    attack(door, "a call of operators", Borne, |http| http.call("/muster.v1.Operator/ListAgents").map(drop));
    let spent = cpu_time(controller).saturating_sub(cpu);
    println!("all of it: {spent:?} of processor time");
    assert!(spent < Duration::from_secs(30), "{spent:?}");
    assert_well(&fleet);
}

#[test]
fn an_operator_who_says_too_much_is_not_heard() {
    let fleet = Fleet::start(1);
    let operator = Credentials::of_operator(&fleet.dir().join("config.toml"));
    let address = fleet.address("operators");
    let plan = |bytes: usize| {
        let mut call = Call::open(operator.dial(&address).expect("TLS"), "/muster.v1.Operator/Plan").expect("let in");
        let targets = format!("dev-1{}", " ".repeat(bytes));
        let selection = wire::Selection { targets, ..wire::Selection::default() };
        // What is too large may be refused before all of it is sent.
        let _ = call
            .send(&wire::PlanRequest { selection: Some(selection), ..wire::PlanRequest::default() })
            .and_then(|()| call.finish());
        call.receive::<wire::PlanReply>()
    };
    assert_eq!(plan(0).expect("a plan").targets.len(), 1);
    assert_eq!(plan(limits::OPERATOR_MESSAGE_BYTES_MAX), None, "more than 4 MiB");
    assert_eq!(plan(64 << 20), None, "64 MiB");
    assert_well(&fleet);
}

/// Output of each target as a follower gets it, from the first event to the last, however often it has to begin again.
fn follow(fleet: &Fleet, job: &str, mut call: Call) -> BTreeMap<u32, Vec<u8>> {
    let operator = Credentials::of_operator(&fleet.dir().join("config.toml"));
    let (mut outputs, mut last) = (BTreeMap::<u32, Vec<u8>>::new(), 0);
    loop {
        while let Some(block) = call.receive::<wire::EventBlock>() {
            for event in block.events {
                let event = muster_proto::event::Event::try_from(event).expect("an event");
                assert_eq!(event.seq, last + 1, "without holes, each once");
                last = event.seq;
                match event.kind {
                    EventKind::Output { target, data, .. } => outputs.entry(target).or_default().extend(data),
                    EventKind::Done { .. } => return outputs,
                    _ => {}
                }
            }
        }
        call = follower(&operator, fleet, job, last);
    }
}

/// Asks for the events of a job after one, and reads nothing.
fn follower(operator: &Credentials, fleet: &Fleet, job: &str, after_seq: u64) -> Call {
    let tls = operator.dial(&fleet.address("operators")).expect("it is let in");
    let mut call = Call::open(tls, "/muster.v1.Operator/Follow").expect("it is let in");
    let job = job.parse::<JobId>().expect("an id").as_bytes().to_vec().into();
    call.send(&wire::FollowRequest { job, after_seq, ..wire::FollowRequest::default() }).expect("it is heard");
    call.finish().expect("it is heard");
    call
}

#[test]
fn p10_a_follower_that_does_not_read_delays_nobody_and_misses_nothing() {
    const BYTES: usize = 16 << 20;
    let fleet = Fleet::start(4);
    let gate = fleet.gate("work");
    let line = format!("{}; yes $MUSTER_HOST | head -c {BYTES}", gate.wait());
    let job = fleet.submit(["-w", "all", "--sh", "--", &line]);
    let operator = Credentials::of_operator(&fleet.dir().join("config.toml"));
    let deaf: Vec<Call> = (0..4).map(|_| follower(&operator, &fleet, &job, 0)).collect();
    gate.open();
    let done = fleet.until_done(&job);
    assert_eq!(done["counts"]["succeeded"], 4, "{done}");
    let attach = fleet.muster(["attach", &job, "--names"]);
    assert_eq!(attach.status, 0, "{attach}");
    assert_well(&fleet);

    for call in deaf {
        let outputs = follow(&fleet, &job, call);
        assert_eq!(outputs.len(), 4);
        for (target, output) in outputs {
            let line = format!("dev-{}\n", target + 1);
            assert_eq!(output.len(), BYTES);
            assert!(output.chunks(line.len()).all(|chunk| line.as_bytes().starts_with(chunk)), "dev-{}", target + 1);
        }
    }
    assert_well(&fleet);
}

#[test]
fn p10_a_flood_a_stopped_agent_and_a_stopped_follower_delay_only_themselves() {
    let fleet = Fleet::start(5);
    let flood = fleet.submit(["-w", "dev-1", "-u", "10m", "--grace", "100ms", "--sh", "--", "yes; sleep 600"]);
    until(PATIENCE, "it floods", || fleet.muster(["logs", &flood]).stdout.len() > 100_000);
    let mut watching = fleet.program(["attach", &flood]).spawn();
    let mut byte = [0];
    watching.stdout.as_mut().expect("piped").read_exact(&mut byte).expect("it follows");
    signal(watching.id(), Signal::STOP);
    let stopped = fleet.agent_pid(2);
    signal(stopped, Signal::STOP);
    let stuck = fleet.submit(["-w", "dev-2", "-t", "10m", "--", "true"]);

    for round in 1..=5 {
        let run = fleet.muster(["run", "-w", "dev-[3-5]", "--", "echo", &round.to_string()]);
        run.assert_ended(0, "3 succeeded: 3 targeted");
    }
    assert_eq!(fleet.state(&flood, "dev-1"), "started", "the flood goes on");
    assert_eq!(fleet.job(&stuck)["state"], "active", "who is stopped does not answer");

    signal(stopped, Signal::CONT);
    assert_eq!(fleet.until_done(&stuck)["counts"]["succeeded"], 1);
    let cancel = fleet.muster(["cancel", &flood]);
    cancel.assert_ended(0, "1 cancelled dev-1: 1 targeted");
    signal(watching.id(), Signal::CONT);
    let run = finish(watching);
    assert_eq!(run.status, 1, "the follower gets to the end");
    assert!(run.closing().starts_with("attach: 1 cancelled dev-1: 1 targeted"), "{}", run.closing());
    assert_well(&fleet);
}
