//! An agent's side of the link, moved by hand.

use super::{Call, Credentials, Gone, Http2};
use muster_proto::id::TaskId;
use muster_proto::limits;
use muster_proto::link::{FromAgent, Nonce, TaskReport, ToAgent};
use muster_proto::wire;
use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

/// The agents' only call.
pub const SESSION: &str = "/muster.v1.AgentLink/Session";

/// One session, or what tries to be one.
pub struct AgentPeer {
    credentials: Credentials,
    call: Call,
    inbox: VecDeque<ToAgent>,
}

impl AgentPeer {
    /// Dials and begins a session, and has said nothing.
    pub fn dial(credentials: &Credentials, address: &str) -> Result<Self, Gone> {
        Self::on(Http2::open(credentials.dial(address)?)?, credentials)
    }

    /// Begins a session on a connection that was made before.
    pub fn on(http: Http2, credentials: &Credentials) -> Result<Self, Gone> {
        Ok(Self { credentials: credentials.clone(), call: Call::on(http, SESSION)?, inbox: VecDeque::new() })
    }

    /// Lets go of the session; the connection may bear another.
    pub fn into_http(self) -> Http2 {
        self.call.into_http()
    }

    /// As an agent that holds these tasks: dials, says hello, and is welcome.
    ///
    /// # Panics
    /// When it is not.
    pub fn live(credentials: &Credentials, address: &str, unfinished: impl IntoIterator<Item = TaskId>) -> Self {
        let mut peer = Self::dial(credentials, address).expect("it is let in");
        peer.hello(unfinished).expect("it is heard");
        match peer.receive() {
            Some(ToAgent::Welcome(welcome)) => {
                credentials.keep(welcome.nonce);
                peer.send([FromAgent::NonceStored(welcome.nonce.epoch)]).expect("it is heard");
            }
            other => panic!("it is not welcome: {other:?}"),
        }
        peer
    }

    /// Says hello, and that these tasks are not finished.
    pub fn hello(&mut self, unfinished: impl IntoIterator<Item = TaskId>) -> Result<(), Gone> {
        self.send([hello(unfinished, self.credentials.nonce())])
    }

    /// Sends messages as one.
    pub fn send<M: Into<wire::AgentMessage>>(&mut self, messages: impl IntoIterator<Item = M>) -> Result<(), Gone> {
        self.call.send(&wire::FromAgent { messages: messages.into_iter().map(Into::into).collect() })
    }

    /// Says these things of a task.
    pub fn report(&mut self, task: TaskId, reports: impl IntoIterator<Item = TaskReport>) -> Result<(), Gone> {
        self.send(reports.into_iter().map(|report| FromAgent::Task(task, report)))
    }

    /// What the controller says next; `None` when it ended the session.
    ///
    /// # Panics
    /// When it does neither within a long time.
    pub fn receive(&mut self) -> Option<ToAgent> {
        while self.inbox.is_empty() {
            let batch: wire::ToAgent = self.call.receive()?;
            let messages = batch.messages.into_iter().map(ToAgent::try_from);
            self.inbox.extend(messages.map(|message| message.expect("what the controller says is valid")));
        }
        self.inbox.pop_front()
    }

    /// Waits for the next offer.
    ///
    /// # Panics
    /// When the session ends before.
    pub fn offer(&mut self) -> TaskId {
        loop {
            if let ToAgent::Offer(offer) = self.receive().expect("the session goes on") {
                return offer.task;
            }
        }
    }

    /// What the controller makes of what was said of a task: its next acknowledgement, or the end of the session.
    ///
    /// # Panics
    /// When it does neither within a long time.
    pub fn answer(&mut self, task: TaskId) -> Answer {
        loop {
            match self.receive() {
                None => return Answer::Closed,
                Some(ToAgent::Ack { task: about, next_frame }) if about == task => return Answer::Ack(next_frame),
                Some(ToAgent::Committed(about)) if about == task => return Answer::Committed,
                Some(_) => {}
            }
        }
    }

    /// Reads until the controller ends the session.
    ///
    /// # Panics
    /// When it does not within a long time.
    pub fn until_closed(&mut self) {
        while self.receive().is_some() {}
    }

    /// Whether the session is there, as far as can be seen within a moment. What comes meanwhile is dropped.
    pub fn is_open(&mut self) -> bool {
        self.call.poll::<wire::ToAgent>(Duration::from_millis(50)).is_ok()
    }

    /// The call below.
    pub fn call(&mut self) -> &mut Call {
        &mut self.call
    }
}

/// What the controller makes of a report.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// It ended the session.
    Closed,
    /// Everything before this frame is durable.
    Ack(u64),
    /// The task's end is durable.
    Committed,
}

/// A hello that is in order, and says that these tasks are not finished.
pub fn hello(unfinished: impl IntoIterator<Item = TaskId>, nonce: Option<Nonce>) -> wire::AgentMessage {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    let held = |task: TaskId| wire::Unfinished { task: Some(task.into()), next_frame: 0, started: true };
    let hello = wire::Hello {
        protocol_min: *limits::PROTOCOL.start(),
        protocol_max: *limits::PROTOCOL.end(),
        boot: vec![1; 16].into(),
        start: vec![2; 16].into(),
        clock_ms: i64::try_from(now.as_millis()).expect("before the year 292 million"),
        unfinished: unfinished.into_iter().map(held).collect(),
        nonce: nonce.map(Into::into),
        ..wire::Hello::default()
    };
    wire::AgentMessage { kind: Some(wire::agent_message::Kind::Hello(hello)) }
}
