//! The link to the controller, and the only file that knows gRPC.
//!
//! ```text
//! Dialed ──hello──▶ Live ──run──▶ ended: wait, dial again
//! ```
//!
//! Each step consumes the one before, so that a message before Hello cannot be written. [`Link::keep`] does this for
//! ever and tells the agent through one channel, in order. HTTP/2 keepalive finds dead connections; nothing else here
//! is periodic.

mod error;

use error::chain;
pub use error::{LinkError, is_alert, status_text};
use futures_util::{Stream, StreamExt as _, stream};
use hyper_util::rt::TokioIo;
use muster_proto::fleet::Facts;
use muster_proto::id::ClusterId;
use muster_proto::limits;
use muster_proto::link::{FromAgent, Hello, TaskReport, ToAgent, Welcome};
use muster_proto::tls;
use muster_proto::wire::agent_link_client::AgentLinkClient;
use muster_proto::wire::{self, WireError};
use prost::Message as _;
use rustls::ClientConfig;
use sha2::{Digest as _, Sha256};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};
use tracing::{debug, info, warn};

/// TCP, TLS and the first answer: each may take this long.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// Messages on their way out: with full frames 4 MiB. When it is full the agent stops reading spools.
const OUTBOUND_MESSAGES: usize = 64;
/// Answers to echoes on their way out, ahead of all else. When it is full the newest are left out: a link that stands
/// still has no round trip to tell.
const OUTBOUND_ECHOES: usize = 64;
/// Bytes the controller may send ahead of the agent.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// How long `Accepted` and `Started` wait for what follows, so that a task that ends at once costs one message.
const COALESCE: Duration = Duration::from_millis(2);
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// The longest that a controller can make an agent wait: it may have been mistaken.
const TOLD_MAX: Duration = Duration::from_hours(1);
/// A session that lasted this long was a good one: the next retry is quick again.
const SETTLED: Duration = Duration::from_secs(10);

/// Where the controller is, and as whom to go there.
#[derive(Clone)]
pub struct Link {
    /// `HOST:PORT` of the listener for agents.
    pub controller: String,
    /// The installation: which name its controllers bear.
    pub cluster: ClusterId,
    /// The agent's identity and whom it trusts.
    pub tls: Arc<ClientConfig>,
    /// Sent when the controller has others.
    pub facts: Facts,
}

/// What the agent hears of its link, in order.
#[derive(Debug)]
pub enum Event {
    /// A controller listens: what does the agent still hold? `facts_digest` is filled in here.
    Dialed(oneshot::Sender<Hello>),
    /// A session began. Dropping the sender ends it.
    Live(Welcome, mpsc::Sender<FromAgent>),
    /// What the controller says, one stream message at a time, without echoes: the link answers those by itself.
    /// [`ToAgent::Refused`] comes outside of sessions, and also when the certificate was refused before a session could
    /// begin.
    Messages(Vec<ToAgent>),
    /// The session is over. What was sent may or may not have arrived.
    Down,
}

impl Link {
    /// Keeps a session open until nobody listens to `events`. When `events` is full nothing is read from the
    /// controller, whose HTTP/2 window then closes.
    pub async fn keep(self, events: mpsc::Sender<Event>) {
        let mut attempts: u32 = 0;
        let mut said = String::new();
        while !events.is_closed() {
            let begun = Instant::now();
            let ended = self.session(&events, &mut said).await;
            if begun.elapsed() >= SETTLED {
                attempts = 0;
            }
            ended.log(&self.controller, &mut said);
            let pause = match ended {
                Ended::Drained(after) => after.min(TOLD_MAX) + jitter(RETRY_FIRST),
                Ended::Failed(error) => match error.refusal() {
                    Some((reason, retry_after)) => {
                        let retry_after = retry_after.min(TOLD_MAX);
                        // Nobody listens any more when this fails, and then nobody needs to know.
                        let _ = events.send(Event::Messages(vec![ToAgent::Refused { reason, retry_after }])).await;
                        retry_after + jitter(retry_after.min(RETRY_MAX))
                    }
                    None => jitter(RETRY_MAX.min(RETRY_FIRST * 2_u32.saturating_pow(attempts))),
                },
            };
            attempts = (attempts + 1).min(16);
            tokio::select! {
                () = sleep(pause) => {}
                () = events.closed() => {}
            }
        }
    }

    async fn session(&self, events: &mpsc::Sender<Event>, said: &mut String) -> Ended {
        let begin = async {
            let dialed = Dialed::new(dial(&self.controller, self.cluster, Arc::clone(&self.tls)).await?);
            let (ask, answer) = oneshot::channel();
            events.send(Event::Dialed(ask)).await.map_err(|_| LinkError::Closed)?;
            let hello = answer.await.map_err(|_| LinkError::Closed)?;
            dialed.hello(hello, &self.facts).await
        };
        match begin.await {
            Ok((welcome, live)) => {
                info!(controller = %self.controller, epoch = welcome.nonce.epoch, "connected");
                said.clear();
                let ended = live.run(welcome, events).await;
                // Nobody listens any more when this fails, and then nobody needs to know.
                let _ = events.send(Event::Down).await;
                ended
            }
            Err(error) => Ended::Failed(error),
        }
    }
}

/// Connects to a controller and makes sure that it is one of this cluster. Used for the link and for enrolment.
pub async fn dial(address: &str, cluster: ClusterId, tls: Arc<ClientConfig>) -> Result<Channel, LinkError> {
    let mut first = Some(connect(address, cluster, Arc::clone(&tls)).await?);
    let address = address.to_owned();
    // In TLS 1.3 a server judges our certificate when we believe to be connected already, and only a request is told
    // what it thinks of it. So a connection that is gone before the request comes is made once more, with the request
    // right behind it. The scheme is http because TLS is done here already.
    let connector = tower::service_fn(move |_| {
        let (first, address, tls) = (first.take(), address.clone(), Arc::clone(&tls));
        async move {
            match first {
                Some(stream) => Ok(TokioIo::new(stream)),
                None => connect(&address, cluster, tls).await.map(TokioIo::new).map_err(io::Error::other),
            }
        }
    });
    Endpoint::from_static("http://controller")
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .http2_keep_alive_interval(limits::AGENT_KEEPALIVE_INTERVAL)
        .keep_alive_timeout(limits::KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await
        .map_err(|error| LinkError::Lost(chain(&error)))
}

async fn connect(address: &str, cluster: ClusterId, tls: Arc<ClientConfig>) -> Result<TlsStream<TcpStream>, LinkError> {
    let timed_out = |_| io::Error::from(io::ErrorKind::TimedOut);
    let unreachable = |source| LinkError::Unreachable { address: address.to_owned(), source };
    let tcp = timeout(STEP_TIMEOUT, TcpStream::connect(address)).await.map_err(timed_out).and_then(|r| r);
    let tcp = tcp.map_err(unreachable)?;
    tcp.set_nodelay(true).map_err(unreachable)?;
    let handshake = TlsConnector::from(tls).connect(tls::controller_server_name(cluster), tcp);
    let stream = timeout(STEP_TIMEOUT, handshake).await.map_err(timed_out).and_then(|r| r);
    stream.map_err(LinkError::of_handshake)
}

/// A connection on which nothing was said yet.
struct Dialed {
    client: AgentLinkClient<Channel>,
}

impl Dialed {
    fn new(channel: Channel) -> Self {
        let client = AgentLinkClient::new(channel)
            .max_decoding_message_size(limits::CONTROLLER_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(limits::AGENT_MESSAGE_BYTES_MAX);
        Self { client }
    }

    async fn hello(mut self, hello: Hello, facts: &Facts) -> Result<(Welcome, Live), LinkError> {
        let encoded = wire::Facts::from(facts.clone()).encode_to_vec();
        let digest: [u8; 32] = Sha256::digest(encoded).into();
        let hello = Hello { facts_digest: digest.to_vec().into(), ..hello };
        let (outbound, queue) = mpsc::channel(OUTBOUND_MESSAGES);
        let (echoes, echoed) = mpsc::channel(OUTBOUND_ECHOES);
        let first = wire::FromAgent { messages: vec![FromAgent::Hello(hello).into()] };
        let requests = stream::once(std::future::ready(first)).chain(batches(Outbound { echoes: echoed, queue }));

        let first = async {
            let mut inbound = self.client.session(requests).await?.into_inner();
            let batch = inbound.message().await?;
            Ok((inbound, batch))
        };
        let (inbound, batch) = timeout(STEP_TIMEOUT, first)
            .await
            .map_err(|_| LinkError::Lost("it does not answer".to_owned()))?
            .map_err(|status| LinkError::of_status(&status))?;
        let mut messages = vocabulary(batch.unwrap_or_default()).into_iter();
        let welcome = match messages.next() {
            Some(ToAgent::Welcome(welcome)) => welcome,
            Some(ToAgent::Refused { reason, retry_after }) => return Err(LinkError::Declined { reason, retry_after }),
            _ => return Err(LinkError::Lost("it closed the session without a welcome".to_owned())),
        };
        if !limits::PROTOCOL.contains(&welcome.protocol) {
            return Err(LinkError::Protocol(welcome.protocol));
        }
        if welcome.want_facts {
            // The queue is empty: there is room.
            outbound.send(FromAgent::Facts(facts.clone())).await.map_err(|_| LinkError::Closed)?;
        }
        Ok((welcome, Live { inbound, rest: messages.collect(), outbound, echoes }))
    }
}

/// A session in which everything may be said.
struct Live {
    inbound: Streaming<wire::ToAgent>,
    /// What came together with the welcome.
    rest: Vec<ToAgent>,
    outbound: mpsc::Sender<FromAgent>,
    echoes: mpsc::Sender<u64>,
}

impl Live {
    async fn run(self, welcome: Welcome, events: &mpsc::Sender<Event>) -> Ended {
        let Self { mut inbound, rest, outbound, echoes } = self;
        if events.send(Event::Live(welcome, outbound)).await.is_err() {
            return Ended::Failed(LinkError::Closed);
        }
        let mut messages = rest;
        loop {
            messages.retain(|message| !is_echo(message, &echoes));
            for message in &messages {
                match message {
                    ToAgent::Drain(after) => return Ended::Drained(*after),
                    ToAgent::Refused { reason, retry_after } => {
                        let (reason, retry_after) = (reason.clone(), *retry_after);
                        return Ended::Failed(LinkError::Declined { reason, retry_after });
                    }
                    _ => {}
                }
            }
            if !messages.is_empty() && events.send(Event::Messages(messages)).await.is_err() {
                return Ended::Failed(LinkError::Closed);
            }
            let batch = tokio::select! {
                batch = inbound.message() => batch,
                () = events.closed() => return Ended::Failed(LinkError::Closed),
            };
            messages = match batch {
                Ok(Some(batch)) => vocabulary(batch),
                Ok(None) => return Ended::Failed(LinkError::Lost("it closed the session".to_owned())),
                Err(status) => return Ended::Failed(LinkError::of_status(&status)),
            };
        }
    }
}

/// Answers an echo; false of any other message.
fn is_echo(message: &ToAgent, echoes: &mpsc::Sender<u64>) -> bool {
    let ToAgent::Echo(token) = message else { return false };
    // Full is said above; closed, the session is about to end.
    let _ = echoes.try_send(*token);
    true
}

/// What has a meaning; the rest is logged and left out, so that a newer controller's additions do no harm.
fn vocabulary(batch: wire::ToAgent) -> Vec<ToAgent> {
    let messages = batch.messages.into_iter().map(ToAgent::try_from);
    messages
        .filter_map(|message| message.inspect_err(|error: &WireError| warn!(%error, "message not understood")).ok())
        .collect()
}

/// What waits to go out.
struct Outbound {
    echoes: mpsc::Receiver<u64>,
    queue: mpsc::Receiver<FromAgent>,
}

impl Outbound {
    fn try_next(&mut self) -> Option<FromAgent> {
        self.echoes.try_recv().map(FromAgent::Echo).or_else(|_| self.queue.try_recv()).ok()
    }

    /// `None` when the agent gave up the session.
    async fn next(&mut self) -> Option<FromAgent> {
        tokio::select! {
            biased;
            Some(token) = self.echoes.recv() => Some(FromAgent::Echo(token)),
            message = self.queue.recv() => message,
        }
    }
}

/// Whatever is ready behind a message under way travels together.
fn batches(queue: Outbound) -> impl Stream<Item = wire::FromAgent> {
    stream::unfold(queue, |mut queue| async move {
        let messages = batch(&mut queue).await;
        (!messages.is_empty()).then_some((wire::FromAgent { messages }, queue))
    })
}

/// The next stream message; empty when the queue is closed.
async fn batch(queue: &mut Outbound) -> Vec<wire::AgentMessage> {
    let (mut messages, mut bytes, mut urgent) = (Vec::new(), 0, false);
    let mut deadline = None;
    while messages.len() < limits::MESSAGES_PER_BATCH_MAX && bytes < limits::BATCH_BYTES_FULL {
        let next = match (queue.try_next(), deadline) {
            (Some(message), _) => Some(message),
            (None, None) => queue.next().await,
            (None, Some(_)) if urgent => None,
            (None, Some(deadline)) => timeout_at(deadline, queue.next()).await.ok().flatten(),
        };
        let Some(message) = next else { break };
        deadline.get_or_insert_with(|| Instant::now() + COALESCE);
        urgent |= !matches!(message, FromAgent::Task(_, TaskReport::Accepted | TaskReport::Started));
        let message = wire::AgentMessage::from(message);
        bytes += message.encoded_len();
        messages.push(message);
    }
    messages
}

/// Why a session ended.
enum Ended {
    /// The controller asked to come back after this long.
    Drained(Duration),
    /// Anything else.
    Failed(LinkError),
}

impl Ended {
    /// One line a change of reason, so that an outage of a week is no flood.
    fn log(&self, controller: &str, said: &mut String) {
        let reason = match self {
            Self::Drained(after) => {
                info!(%controller, seconds = after.as_secs_f32(), "the controller asks to come back later");
                return;
            }
            Self::Failed(LinkError::Closed) => return,
            Self::Failed(error) => chain(error),
        };
        if *said == reason {
            debug!(%controller, %reason, "no session");
        } else {
            warn!(%controller, %reason, "no session; trying on");
            *said = reason;
        }
    }
}

/// Uniform between nothing and `most`: agents that lost a controller together do not come back together.
fn jitter(most: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or(u32::MAX / 2);
    most.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use muster_proto::event::Stream as OutputStream;
    use muster_proto::id::{Attempt, JobId, TaskId};
    use muster_proto::link::{Frame, FrameBody};
    use muster_proto::outcome::{End, EndKind};

    const TASK: TaskId = TaskId { job: JobId::from_bytes([1; 16]), target: 0, attempt: Attempt::FIRST };

    fn report(report: TaskReport) -> FromAgent {
        FromAgent::Task(TASK, report)
    }

    fn outbound() -> (mpsc::Sender<FromAgent>, mpsc::Sender<u64>, Outbound) {
        let (sender, queue) = mpsc::channel(8);
        let (echo, echoes) = mpsc::channel(OUTBOUND_ECHOES);
        (sender, echo, Outbound { echoes, queue })
    }

    fn frame(number: u64) -> FromAgent {
        let body = FrameBody::Data { offset: 0, data: Bytes::from(vec![b'x'; limits::OUTPUT_FRAME_BYTES_MAX]) };
        report(TaskReport::Frame(Frame { number, stream: OutputStream::Stdout, body }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ends_at_once_costs_one_message() {
        let (sender, _echo, mut queue) = outbound();
        let sending = tokio::spawn(async move {
            sender.send(report(TaskReport::Accepted)).await.expect("open");
            sleep(Duration::from_millis(1)).await;
            sender.send(report(TaskReport::Started)).await.expect("open");
            let end = End { kind: EndKind::Exit(0), duration: Duration::ZERO };
            sender.send(report(TaskReport::Exited { frames: 0, end })).await.expect("open");
            sleep(Duration::from_secs(1)).await;
        });
        let begun = Instant::now();
        assert_eq!(batch(&mut queue).await.len(), 3);
        assert!(begun.elapsed() <= Duration::from_millis(1), "an end waits for nothing");
        assert!(batch(&mut queue).await.is_empty(), "the queue is closed");
        sending.await.expect("sent");
    }

    #[tokio::test(start_paused = true)]
    async fn an_acceptance_alone_waits_no_longer_than_it_must() {
        let (sender, _echo, mut queue) = outbound();
        sender.send(report(TaskReport::Accepted)).await.expect("open");
        let begun = Instant::now();
        assert_eq!(batch(&mut queue).await.len(), 1);
        assert_eq!(begun.elapsed(), COALESCE);
    }

    #[tokio::test]
    async fn an_echo_overtakes_output_and_is_heard_by_nobody_else() {
        let (sender, echoes, mut queue) = outbound();
        for number in 0..8 {
            sender.send(frame(number)).await.expect("open");
        }
        assert!(is_echo(&ToAgent::Echo(7), &echoes) && !is_echo(&ToAgent::ProbeStop(7), &echoes));
        let first = batch(&mut queue).await.swap_remove(0);
        assert_eq!(FromAgent::try_from(first).expect("valid"), FromAgent::Echo(7));

        // Of more than there is room for the newest are left out, and nobody waits.
        (0..1000).for_each(|token| assert!(is_echo(&ToAgent::Echo(token), &echoes)));
        drop(sender);
        let mut told = Vec::new();
        while let Some(message) = queue.try_next() {
            told.extend(matches!(message, FromAgent::Echo(_)).then_some(message));
        }
        assert_eq!(told, (0..OUTBOUND_ECHOES as u64).map(FromAgent::Echo).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn batches_stay_below_the_limit_of_a_message() {
        let (sender, _echo, mut queue) = outbound();
        for number in 0..8 {
            sender.send(frame(number)).await.expect("open");
        }
        drop(sender);
        let mut total = 0;
        loop {
            let messages = batch(&mut queue).await;
            if messages.is_empty() {
                break;
            }
            total += messages.len();
            assert!(wire::FromAgent { messages }.encoded_len() < limits::AGENT_MESSAGE_BYTES_MAX);
        }
        assert_eq!(total, 8);
    }

    #[test]
    fn jitter_stays_within_its_bound() {
        for _ in 0..1000 {
            assert!(jitter(RETRY_FIRST) <= RETRY_FIRST);
        }
    }
}
