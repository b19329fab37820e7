//! One connection of HTTP/2 (RFC 9113), by hand: any frame at any time, lawful or not.
//!
//! What keeps a connection alive is answered while we read: settings, pings. Windows of the other end are counted, so
//! that a test which sends much is not cut off for the wrong reason; ours is as wide as it can be.

use super::Tls;
use std::collections::{HashMap, VecDeque};
use std::io::{self, Read as _, Write as _};
use std::time::{Duration, Instant};

/// Anything that a peer waits for happens sooner.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// How long one read waits before the clock is looked at.
const LOOK: Duration = Duration::from_millis(20);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The longest frame that anybody has to take.
const FRAME_BYTES_MAX: usize = 16_384;
/// RFC 9113, 6.9.2.
const WINDOW_AT_FIRST: i64 = 65_535;
const WINDOW_MAX: u32 = (1 << 31) - 1;

/// Types of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of RFC 9113")]
pub enum Kind {
    Data = 0,
    Headers = 1,
    Reset = 3,
    Settings = 4,
    Ping = 6,
    GoAway = 7,
    WindowUpdate = 8,
    Continuation = 9,
    Other = 255,
}

/// The last of a stream, in [`Kind::Data`] and [`Kind::Headers`].
pub const END_STREAM: u8 = 1;
/// An answer, in [`Kind::Settings`] and [`Kind::Ping`].
pub const ACK: u8 = 1;
/// Nothing continues them, in [`Kind::Headers`] and [`Kind::Continuation`].
pub const END_HEADERS: u8 = 4;

/// A frame that was received.
#[derive(Debug, Clone)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// As the kind defines them.
    pub flags: u8,
    /// 0 is the connection.
    pub stream: u32,
    /// The rest.
    pub payload: Vec<u8>,
}

/// The other end closed the connection, or lets nothing through any more.
#[derive(Debug)]
pub struct Gone(pub String);

impl From<io::Error> for Gone {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

/// A connection that has exchanged settings.
pub struct Http2 {
    tls: Tls,
    unread: Vec<u8>,
    frames: VecDeque<Frame>,
    /// What we may send, of the connection and of each stream.
    window: i64,
    windows: HashMap<u32, i64>,
    stream_window: i64,
    next_stream: u32,
    /// Their SETTINGS came.
    greeted: bool,
    /// The code of their GOAWAY.
    goaway: Option<u32>,
}

impl Http2 {
    /// Says the preface and waits for the other end's settings: after that it has let us in.
    pub fn open(tls: Tls) -> Result<Self, Gone> {
        let mut http = Self {
            tls,
            unread: Vec::new(),
            frames: VecDeque::new(),
            window: WINDOW_AT_FIRST,
            windows: HashMap::new(),
            stream_window: WINDOW_AT_FIRST,
            next_stream: 1,
            greeted: false,
            goaway: None,
        };
        http.tls.sock.set_read_timeout(Some(LOOK))?;
        http.tls.write_all(PREFACE)?;
        let wide = [&[0, 4][..], &WINDOW_MAX.to_be_bytes()].concat();
        http.frame(Kind::Settings, 0, 0, &wide)?;
        http.frame(Kind::WindowUpdate, 0, 0, &(WINDOW_MAX - 65_535).to_be_bytes())?;
        let end = Instant::now() + PATIENCE;
        while !http.greeted {
            http.pump(end)?;
        }
        Ok(http)
    }

    /// The connection below.
    pub fn tls(&self) -> &Tls {
        &self.tls
    }

    /// Their GOAWAY's code, once it was read. 11 is ENHANCE_YOUR_CALM.
    pub fn goaway(&self) -> Option<u32> {
        self.goaway
    }

    /// Writes a frame as it is.
    pub fn frame(&mut self, kind: Kind, flags: u8, stream: u32, payload: &[u8]) -> Result<(), Gone> {
        let length = u32::try_from(payload.len()).expect("a test's frame").to_be_bytes();
        let head = [&length[1..], &[kind as u8, flags], &stream.to_be_bytes()].concat();
        self.tls.write_all(&[&head, payload].concat())?;
        Ok(())
    }

    /// Writes bytes as they are: many frames at once.
    pub fn raw(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        Ok(self.tls.write_all(bytes)?)
    }

    /// Begins a gRPC call; the stream's number.
    pub fn call(&mut self, path: &str) -> Result<u32, Gone> {
        let stream = self.next_stream;
        self.next_stream += 2;
        self.windows.insert(stream, self.stream_window);
        self.frame(Kind::Headers, END_HEADERS, stream, &request_head(path, &[]))?;
        Ok(stream)
    }

    /// Sends bytes on a stream, as the other end's windows allow.
    pub fn data(&mut self, stream: u32, bytes: &[u8]) -> Result<(), Gone> {
        let end = Instant::now() + PATIENCE;
        for piece in bytes.chunks(FRAME_BYTES_MAX) {
            let length = i64::try_from(piece.len()).expect("small");
            while self.window.min(self.windows[&stream]) < length {
                if self.goaway.is_some() || self.frames.iter().any(|frame| ends(frame, stream)) {
                    return Err(Gone("the stream was ended".to_owned()));
                }
                self.pump(end)?;
            }
            self.window -= length;
            *self.windows.entry(stream).or_default() -= length;
            self.frame(Kind::Data, 0, stream, piece)?;
        }
        Ok(())
    }

    /// The next frame for us; `None` when there is none within the limit.
    pub fn next(&mut self, limit: Duration) -> Result<Option<Frame>, Gone> {
        let end = Instant::now() + limit;
        loop {
            if let Some(frame) = self.frames.pop_front() {
                return Ok(Some(frame));
            }
            if Instant::now() >= end {
                return Ok(None);
            }
            match self.pump(end) {
                Ok(()) => {}
                Err(Gone(why)) if why == STILL => return Ok(None),
                Err(gone) => return Err(gone),
            }
        }
    }

    /// Reads until the other end closes; what it said before is dropped.
    ///
    /// # Panics
    /// When it does not within a long time.
    pub fn until_gone(&mut self, what: &str) -> Gone {
        let end = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < end, "{what}: the connection is not closed");
            match self.next(LOOK) {
                Ok(_) => {}
                Err(gone) => return gone,
            }
        }
    }

    /// Takes what arrives, and one look longer.
    fn pump(&mut self, end: Instant) -> Result<(), Gone> {
        let mut bytes = [0; 64 << 10];
        match self.tls.read(&mut bytes) {
            Ok(0) => return Err(Gone("closed".to_owned())),
            Ok(count) => self.unread.extend_from_slice(&bytes[..count]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return if Instant::now() < end { Ok(()) } else { Err(Gone(STILL.to_owned())) };
            }
            Err(error) => return Err(error.into()),
        }
        let mut at = 0;
        while let Some(head) = self.unread.get(at..at + 9) {
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let (kind, flags) = (kind_of(head[3]), head[4]);
            let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
            let Some(payload) = self.unread.get(at + 9..at + 9 + length).map(<[u8]>::to_vec) else { break };
            at += 9 + length;
            self.take(Frame { kind, flags, stream, payload })?;
        }
        self.unread.drain(..at);
        Ok(())
    }

    fn take(&mut self, frame: Frame) -> Result<(), Gone> {
        let number = |at: usize| {
            let bytes = frame.payload.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u32::from_be_bytes)
        };
        match frame.kind {
            Kind::Settings if frame.flags & ACK == 0 => {
                for setting in frame.payload.chunks_exact(6).filter(|setting| setting[..2] == [0, 4]) {
                    let value = u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]);
                    self.stream_window = value.into();
                }
                self.greeted = true;
                self.frame(Kind::Settings, ACK, 0, &[])?;
            }
            Kind::Ping if frame.flags & ACK == 0 => self.frame(Kind::Ping, ACK, 0, &frame.payload)?,
            Kind::WindowUpdate if frame.stream == 0 => self.window += i64::from(number(0)),
            Kind::WindowUpdate => *self.windows.entry(frame.stream).or_default() += i64::from(number(0)),
            Kind::GoAway => {
                self.goaway = Some(number(4));
                self.frames.push_back(frame);
            }
            Kind::Settings | Kind::Ping => {}
            _ => self.frames.push_back(frame),
        }
        Ok(())
    }
}

/// Why a wait without a result ended.
const STILL: &str = "nothing came";

/// Whether a frame is the last that a stream will ever receive.
pub(super) fn ends(frame: &Frame, stream: u32) -> bool {
    let last = matches!(frame.kind, Kind::Data | Kind::Headers) && frame.flags & END_STREAM != 0;
    frame.kind == Kind::GoAway || frame.stream == stream && (frame.kind == Kind::Reset || last)
}

fn kind_of(byte: u8) -> Kind {
    let kinds = [Kind::Data, Kind::Headers, Kind::Reset, Kind::Settings, Kind::Ping, Kind::GoAway, Kind::WindowUpdate];
    kinds.into_iter().find(|kind| *kind as u8 == byte).unwrap_or(Kind::Other)
}

/// The head of a gRPC request, and further fields: each a literal that nobody remembers (RFC 7541, 6.2.2).
pub fn request_head(path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "controller"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let mut head = Vec::new();
    for (name, value) in fields.iter().chain(more) {
        head.push(0);
        for text in [name, value] {
            length_of(text.len(), &mut head);
            head.extend_from_slice(text.as_bytes());
        }
    }
    head
}

/// An integer with a prefix of seven bits (RFC 7541, 5.1).
fn length_of(length: usize, head: &mut Vec<u8>) {
    let byte = |value: usize| u8::try_from(value).expect("masked");
    if length < 127 {
        return head.push(byte(length));
    }
    head.push(127);
    let mut rest = length - 127;
    while rest >= 128 {
        head.push(byte(rest & 127) | 128);
        rest >>= 7;
    }
    head.push(byte(rest));
}
