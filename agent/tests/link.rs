//! The whole agent in this process, with real supervisors, against a controller that is moved by hand.

#[path = "link/again.rs"]
mod again;
mod fixture;
#[path = "link/harm.rs"]
mod harm;
#[path = "link/order.rs"]
mod order;
#[path = "link/probe.rs"]
mod probe;
#[path = "link/renew.rs"]
mod renew;
#[path = "link/standing.rs"]
mod standing;

use fixture::{CLUSTER, Ca, Controller, PATIENCE, Running, World, chunks, eventually, welcome};
use muster_agent::enrol::enrol;
use muster_agent::identity::Identity;
use muster_agent::settings::{Credential, Enroll};
use muster_proto::command::{BlobRef, Command, Program};
use muster_proto::link::{FrameBody, FromAgent, RejectKind, TaskReport, ToAgent, Welcome};
use muster_proto::outcome::{End, EndKind};
use muster_proto::tls;
use muster_proto::token::{Token, TokenKind};
use muster_proto::wire::enrolment_server::{Enrolment, EnrolmentServer};
use muster_proto::wire::{self, enrol_agent_reply};
use sha2::{Digest as _, Sha256};
use std::fs;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::timeout;
use tonic::{Request, Response, Status};

fn sh(line: &str) -> Command {
    Command::new(Program::Shell(line.as_bytes().to_vec()))
}

fn end_of(reports: &[TaskReport]) -> &EndKind {
    match reports.last() {
        Some(TaskReport::Exited { end: End { kind, .. }, .. }) => kind,
        other => panic!("{other:?} is no end"),
    }
}

fn spooled(world: &World) -> usize {
    fs::read_dir(world.state().join("spool")).expect("a spool").count()
}

#[tokio::test]
async fn a_signed_job_runs_once_and_everything_is_told() {
    let world = World::new();
    let mut controller = Controller::new(&world).await;
    let agent = Running::start(world.agent(&controller));
    let (hello, mut session) = controller.session().await;
    assert!(hello.unfinished.is_empty() && hello.facts_digest.len() == 32);
    session.send([ToAgent::Welcome(Welcome { want_facts: true, ..welcome() })]).await;
    let FromAgent::Facts(facts) = session.next().await else { panic!("facts were asked for") };
    assert!(facts.cpus > 0);

    let offer = world.offer(sh("echo hi; echo there >&2; exit 3"));
    session.send([ToAgent::Offer(offer.clone()), ToAgent::Offer(offer.clone())]).await;
    let (reports, output) = session.finish(offer.task).await;
    assert_eq!(reports[..2], [TaskReport::Accepted, TaskReport::Started]);
    assert_eq!(end_of(&reports), &EndKind::Exit(3));
    assert!(matches!(reports.last(), Some(TaskReport::Exited { frames: 2, .. })), "{reports:?}");
    assert_eq!(output.len(), "hi\nthere\n".len());

    session.send([ToAgent::Offer(offer.clone())]).await;
    assert_eq!(session.report().await, (offer.task, TaskReport::Accepted), "its state, and nothing else");
    session.send([ToAgent::Committed(offer.task)]).await;
    eventually("the spool is free", || spooled(&world) == 0).await;
    session.send([ToAgent::Offer(offer.clone())]).await;
    let (_, again) = session.report().await;
    assert!(matches!(again, TaskReport::Exited { end: End { kind: EndKind::Lost(_), .. }, .. }), "{again:?}");
    assert_eq!(spooled(&world), 0, "it does not run again");
    agent.stop().await;
}

#[tokio::test]
async fn output_goes_on_where_the_controller_is() {
    let world = World::new();
    let mut controller = Controller::new(&world).await;
    let agent = Running::start(world.agent(&controller));
    let (_, mut session) = controller.live().await;
    let go = world.root.path().join("go");
    let line = format!("echo one; while [ ! -e {go} ]; do sleep 0.01; done; echo two", go = go.display());
    let offer = world.offer(sh(&line));
    session.send([ToAgent::Offer(offer.clone())]).await;
    while !matches!(session.report().await, (_, TaskReport::Frame(frame)) if frame.number == 0) {}
    drop(session);

    let (hello, mut session) = controller.session().await;
    let held = hello.unfinished[0];
    assert_eq!((held.task, held.next_frame, held.started), (offer.task, 1, true));
    session.send([ToAgent::Welcome(Welcome { resume: vec![(offer.task, 1)], ..welcome() })]).await;
    fs::write(go, "").expect("written");
    let (reports, output) = session.finish(offer.task).await;
    assert_eq!((end_of(&reports), &output[..]), (&EndKind::Exit(0), &b"two\n"[..]));

    // What was told and not committed is told again.
    drop(session);
    let (hello, mut session) = controller.live().await;
    assert_eq!(hello.unfinished[0].next_frame, 2);
    let (_, output) = session.finish(offer.task).await;
    assert_eq!(output, b"one\ntwo\n");
    agent.stop().await;
}

#[tokio::test]
async fn an_agent_that_comes_back_adopts_its_tasks() {
    let world = World::new();
    let mut controller = Controller::new(&world).await;
    let agent = Running::start(world.agent(&controller));
    let (first, mut session) = controller.live().await;
    let go = world.root.path().join("go");
    let line = format!("echo one; while [ ! -e {go} ]; do sleep 0.01; done; exit 7", go = go.display());
    let (offer, ended) = (world.offer(sh(&line)), world.offer(sh("exit 8")));
    session.send([ToAgent::Offer(offer.clone())]).await;
    while !matches!(session.report().await, (_, TaskReport::Frame(_))) {}
    session.send([ToAgent::Offer(ended.clone())]).await;
    session.finish(ended.task).await;
    agent.stop().await;

    let agent = Running::start(world.agent(&controller));
    let (hello, mut session) = controller.session().await;
    assert_ne!(hello.start, first.start);
    assert_eq!(hello.boot, first.boot);
    assert_eq!(hello.unfinished.len(), 2, "{hello:?}");
    session.send([ToAgent::Welcome(Welcome { resume: vec![(ended.task, 0)], ..welcome() })]).await;
    let (reports, _) = session.finish(ended.task).await;
    assert_eq!(end_of(&reports), &EndKind::Exit(8));
    drop(session);

    let (_, mut session) = controller.session().await;
    session.send([ToAgent::Welcome(Welcome { resume: vec![(offer.task, 1)], ..welcome() })]).await;
    fs::write(go, "").expect("written");
    let (reports, output) = session.finish(offer.task).await;
    assert_eq!((end_of(&reports), output.len()), (&EndKind::Exit(7), 0));
    session.send([ToAgent::Committed(offer.task), ToAgent::Committed(ended.task)]).await;
    eventually("the spool is free", || spooled(&world) == 0).await;
    agent.stop().await;

    let agent = Running::start(world.agent(&controller));
    let (hello, _session) = controller.session().await;
    assert!(hello.unfinished.is_empty());
    agent.stop().await;
}

#[tokio::test]
async fn a_cancel_ends_a_task_or_keeps_it_from_ever_starting() {
    let world = World::new();
    let mut controller = Controller::new(&world).await;
    let agent = Running::start(world.agent(&controller));
    let (_, mut session) = controller.live().await;
    let running = world.offer(sh("sleep 100"));
    session.send([ToAgent::Offer(running.clone())]).await;
    while session.report().await.1 != TaskReport::Started {}
    session.send([ToAgent::Cancel(running.task)]).await;
    let (reports, _) = session.finish(running.task).await;
    assert_eq!(end_of(&reports), &EndKind::Cancelled);

    let overtaken = world.offer(sh("echo never"));
    session.send([ToAgent::Cancel(overtaken.task), ToAgent::Offer(overtaken.clone())]).await;
    for _ in 0..2 {
        let (task, report) = session.report().await;
        assert_eq!(task, overtaken.task);
        assert!(matches!(report, TaskReport::Rejected { kind: RejectKind::Cancelled, .. }), "{report:?}");
    }
    agent.stop().await;
}

#[tokio::test]
async fn what_never_came_may_be_offered_again_and_a_refusal_is_remembered() {
    let world = World::new();
    let mut controller = Controller::new(&world).await;
    let agent = Running::start(world.agent(&controller));
    let (_, mut session) = controller.session().await;
    let late = world.offer(sh("exit 4"));
    session.send([ToAgent::Welcome(Welcome { outstanding: vec![late.task], ..welcome() })]).await;
    assert_eq!(session.report().await, (late.task, TaskReport::Never));
    session.send([ToAgent::Offer(late.clone())]).await;
    let (reports, _) = session.finish(late.task).await;
    assert_eq!(end_of(&reports), &EndKind::Exit(4));

    let mut closed = world.offer(sh("echo never"));
    closed.ttl = Duration::ZERO;
    session.send([ToAgent::Offer(closed.clone())]).await;
    let refused = session.report().await;
    assert!(matches!(refused.1, TaskReport::Rejected { kind: RejectKind::Expired, .. }), "{refused:?}");
    drop(session);

    let (_, mut session) = controller.session().await;
    session.send([ToAgent::Welcome(Welcome { outstanding: vec![closed.task], ..welcome() })]).await;
    assert_eq!(session.report().await, refused);
    closed.ttl = Duration::from_secs(30);
    session.send([ToAgent::Offer(closed.clone())]).await;
    assert_eq!(session.report().await, refused, "no copy of it starts");
    agent.stop().await;
}

#[tokio::test]
async fn stdin_is_what_was_signed_or_nothing_runs() {
    let world = World::new();
    let mut controller = Controller::new(&world).await;
    let agent = Running::start(world.agent(&controller));
    let (_, mut session) = controller.live().await;
    let content: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    let digest: [u8; 32] = Sha256::digest(&content).into();
    let command = Command { stdin: Some(BlobRef { digest, size: content.len() as u64 }), ..sh("cat") };

    let offer = world.offer(command.clone());
    for chunk in chunks(digest, &content) {
        session.send([chunk]).await;
    }
    session.send([ToAgent::Offer(offer.clone())]).await;
    let (reports, output) = session.finish(offer.task).await;
    assert_eq!(end_of(&reports), &EndKind::Exit(0));
    assert!(output == content, "{} bytes of {}", output.len(), content.len());

    let mut altered = content.clone();
    altered[70_000] ^= 1;
    let offer = world.offer(command);
    for chunk in chunks(digest, &altered) {
        session.send([chunk]).await;
    }
    session.send([ToAgent::Offer(offer.clone())]).await;
    let (reports, _) = session.finish(offer.task).await;
    let [TaskReport::Rejected { kind: RejectKind::Refused, reason }] = &reports[..] else { panic!("{reports:?}") };
    assert!(reason.contains("not what was signed"), "{reason}");
    agent.stop().await;
}

#[tokio::test]
async fn tasks_beyond_the_limit_wait_and_expire() {
    let world = World::new();
    let mut controller = Controller::new(&world).await;
    let agent = Running::start(world.agent(&controller));
    let (_, mut session) = controller.live().await;
    let go = world.root.path().join("go");
    let line = format!("while [ ! -e {go} ]; do sleep 0.05; done", go = go.display());
    let mut offers: Vec<_> = (0..66).map(|_| world.offer(sh(&line))).collect();
    offers[64].ttl = Duration::from_millis(700);
    let (short, last) = (offers[64].task, offers[65].task);
    session.send(offers.into_iter().map(ToAgent::Offer)).await;

    let (mut accepted, mut started) = (0, 0);
    let expired = loop {
        match session.report().await {
            (_, TaskReport::Accepted) => accepted += 1,
            (task, TaskReport::Started) => {
                assert!(task != short && task != last);
                started += 1;
            }
            (task, TaskReport::Rejected { kind: RejectKind::Expired, reason }) => {
                assert!(reason.contains("its window closed while it waited on the host: raise -t"), "{reason}");
                break task;
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((expired, accepted), (short, 66));
    while started < 64 {
        assert!(matches!(session.report().await, (task, TaskReport::Started) if task != last));
        started += 1;
    }
    fs::write(go, "").expect("written");
    let mut ended = 0;
    while ended < 65 {
        match session.report().await {
            (task, TaskReport::Started) => assert_eq!(task, last),
            (_, TaskReport::Exited { end, .. }) => {
                assert_eq!(end.kind, EndKind::Exit(0));
                ended += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    agent.stop().await;
}

#[tokio::test]
async fn a_supervisor_that_is_killed_is_reported_at_once() {
    let world = World::new();
    let mut controller = Controller::new(&world).await;
    let agent = Running::start(world.agent(&controller));
    let (_, mut session) = controller.live().await;
    // The shell's parent is the supervisor.
    let offer = world.offer(sh("echo $PPID; sleep 100"));
    session.send([ToAgent::Offer(offer.clone())]).await;
    let parent = loop {
        if let (_, TaskReport::Frame(frame)) = session.report().await
            && let FrameBody::Data { data, .. } = frame.body
        {
            break String::from_utf8(data.to_vec()).expect("digits").trim().parse().expect("a number");
        }
    };
    let begun = std::time::Instant::now();
    let parent = rustix::process::Pid::from_raw(parent).expect("a process");
    rustix::process::kill_process(parent, rustix::process::Signal::KILL).expect("killed");
    let (reports, _) = session.finish(offer.task).await;
    assert!(matches!(end_of(&reports), EndKind::Lost(_)), "{reports:?}");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    agent.stop().await;
}

#[tokio::test]
async fn a_flood_waits_for_acknowledgements() {
    let world = World::new();
    let mut controller = Controller::new(&world).await;
    let agent = Running::start(world.agent(&controller));
    let (_, mut session) = controller.live().await;
    let flood = world.offer(sh("head -c 5000000 /dev/zero"));
    session.send([ToAgent::Offer(flood.clone())]).await;
    let (mut bytes, mut next_frame) = (0, 0);
    while bytes < 4 << 20 {
        if let (_, TaskReport::Frame(frame)) = session.report().await
            && let FrameBody::Data { data, .. } = frame.body
        {
            (bytes, next_frame) = (bytes + data.len(), frame.number + 1);
        }
    }
    let other = world.offer(sh("exit 1"));
    session.send([ToAgent::Offer(other.clone())]).await;
    let (reports, _) = session.finish(other.task).await;
    assert_eq!(end_of(&reports), &EndKind::Exit(1), "no frame of the flood came in between");
    session.send([ToAgent::Ack { task: flood.task, next_frame }]).await;
    let (reports, rest) = session.finish(flood.task).await;
    assert_eq!(end_of(&reports), &EndKind::Exit(0));
    assert_eq!(bytes + rest.len(), 5_000_000);
    agent.stop().await;
}

/// What an agent logs while `during` is awaited. Everything runs on this thread.
async fn logged(during: impl Future<Output = ()>, until: &str) -> String {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&lines);
    let writer = move || Sink(Arc::clone(&sink));
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(writer).finish();
    let guard = tracing::subscriber::set_default(subscriber);
    let text = || String::from_utf8_lossy(&lines.lock().expect("one thread")).into_owned();
    let said = async {
        while !text().contains(until) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let ended = tokio::select! {
        () = during => Ok(()),
        ended = timeout(PATIENCE, said) => ended,
    };
    drop(guard);
    assert!(ended.is_ok(), "nothing says {until:?}:\n{}", text());
    text()
}

struct Sink(Arc<Mutex<Vec<u8>>>);

impl io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("one thread").extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_controller_that_is_not_ours_or_not_there_is_named() {
    let (world, other) = (World::new(), World::new());
    let run = async |controller: &Controller, until: &str| {
        let agent = world.agent(controller);
        logged(async { agent.run(std::future::pending()).await.expect("a good end") }, until).await
    };
    // Each case has a state directory of its own, because the address is part of the identity.
    let clear = || fs::remove_dir_all(world.state()).expect("removed");

    let foreign = Controller::new(&other).await;
    run(&foreign, "was not issued by the CA this agent trusts").await;
    clear();
    let refusing = Controller::trusting(&world, &other.agents).await;
    run(&refusing, "refuses this agent's identity").await;
    clear();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let nobody = Controller::at(listener.local_addr().expect("bound").to_string());
    drop(listener);
    let log = run(&nobody, "cannot reach the controller at 127.0.0.1").await;
    assert!(log.contains("Connection refused"), "{log}");
}

struct Desk {
    agents: Ca,
    reply: wire::AgentIdentity,
    asked: Mutex<Vec<wire::EnrolAgentRequest>>,
}

#[tonic::async_trait]
impl Enrolment for Desk {
    async fn enrol_agent(
        &self,
        request: Request<wire::EnrolAgentRequest>,
    ) -> Result<Response<wire::EnrolAgentReply>, Status> {
        let request = request.into_inner();
        let mut asked = self.asked.lock().expect("one thread");
        asked.push(request.clone());
        let result = match (&request.token[..], asked.len()) {
            ([], 1) => enrol_agent_reply::Result::Pending(wire::Pending::default()),
            ([9, ..], _) => return Err(Status::unauthenticated("the token is unknown, used or expired")),
            _ => enrol_agent_reply::Result::Issued(wire::AgentIdentity {
                name: request.name,
                certificate: self.agents.certify(&request.csr).into(),
                ..self.reply.clone()
            }),
        };
        Ok(Response::new(wire::EnrolAgentReply { result: Some(result) }))
    }

    async fn login(&self, _: Request<wire::LoginRequest>) -> Result<Response<wire::LoginReply>, Status> {
        Err(Status::unimplemented("agents do not log in"))
    }
}

#[tokio::test]
async fn enrolment_believes_the_pin_and_nothing_else() {
    let world = World::new();
    let der = |ca: &Ca| ca.certificate.der().to_vec();
    let reply = wire::AgentIdentity {
        cluster: CLUSTER.as_bytes().to_vec().into(),
        agent: vec![2; 16].into(),
        agent_ca: der(&world.agents).into(),
        controller_ca: der(&world.controllers).into(),
        operator_ca: der(&world.operators).into(),
        agent_port: 7443,
        ..wire::AgentIdentity::default()
    };
    let desk = Desk { agents: Ca::new(), reply, asked: Mutex::default() };
    let router = tonic::transport::Server::builder().add_service(EnrolmentServer::new(desk));
    let controller = fixture::listen(&world, None, router).await;
    let pin = tls::pin_of(&der(&world.controllers));
    let token = |first: u8, pin| {
        let token = Token { kind: TokenKind::Join, cluster: CLUSTER, pin, secret: [first; 32], address: String::new() };
        Credential::Token(token)
    };
    let request = |credential, state: &str| Enroll {
        controller: controller.clone(),
        name: Some("web01".parse().expect("a name")),
        state: world.root.path().join(state),
        credential,
    };

    // Without a token: the first answer is "wait".
    let mut fingerprint = String::new();
    let approval = request(Credential::Approval { cluster: CLUSTER, pin }, "a");
    let identity = enrol(&approval, |text| fingerprint = text.to_owned()).await.expect("approved");
    assert_eq!(fingerprint.len(), 64);
    assert_eq!((identity.name.as_str(), identity.controller.as_str()), ("web01", "127.0.0.1:7443"));
    let again = enrol(&approval, |_| ()).await.err().expect("enrolled already").to_string();
    assert!(again.contains("is enrolled as web01"), "{again}");

    enrol(&request(token(1, pin), "b"), |_| ()).await.expect("a good token");
    assert!(Identity::load(&world.root.path().join("b")).expect("readable").is_some());
    let used = enrol(&request(token(9, pin), "c"), |_| ()).await.err().expect("refused").to_string();
    assert_eq!(used, "the controller refused: the token is unknown, used or expired");
    let stranger = enrol(&request(token(1, [0; 32]), "d"), |_| ()).await.err().expect("refused").to_string();
    assert!(stranger.contains("is not the one that the token or pin is for"), "{stranger}");
    assert!(Identity::load(&world.root.path().join("d")).expect("readable").is_none());
}
