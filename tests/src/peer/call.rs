//! One gRPC call over a connection of its own, message by message.

use super::http2::{END_STREAM, PATIENCE, ends};
use super::{Gone, Http2, Kind, Tls};
use prost::Message;
use std::time::{Duration, Instant};

/// A call that was begun.
pub struct Call {
    http: Http2,
    stream: u32,
    bytes: Vec<u8>,
    ended: bool,
}

impl Call {
    /// Begins a call on a new connection.
    pub fn open(tls: Tls, path: &str) -> Result<Self, Gone> {
        Self::on(Http2::open(tls)?, path)
    }

    /// Begins a call on a connection that was made before.
    pub fn on(mut http: Http2, path: &str) -> Result<Self, Gone> {
        let stream = http.call(path)?;
        Ok(Self { http, stream, bytes: Vec::new(), ended: false })
    }

    /// Lets go of the call; the connection may bear another.
    pub fn into_http(self) -> Http2 {
        self.http
    }

    /// Sends a message.
    pub fn send(&mut self, message: &impl Message) -> Result<(), Gone> {
        self.send_encoded(&message.encode_to_vec())
    }

    /// Sends what may be no message at all.
    pub fn send_encoded(&mut self, encoded: &[u8]) -> Result<(), Gone> {
        let length = u32::try_from(encoded.len()).expect("a test's message").to_be_bytes();
        self.http.data(self.stream, &[&[0], &length[..], encoded].concat())
    }

    /// Says that nothing follows.
    pub fn finish(&mut self) -> Result<(), Gone> {
        self.http.frame(Kind::Data, END_STREAM, self.stream, &[])
    }

    /// The next message; `None` when the other end ended the call or the connection.
    ///
    /// # Panics
    /// When neither happens within a long time.
    pub fn receive<M: Message + Default>(&mut self) -> Option<M> {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.poll(Duration::from_millis(100)) {
                Ok(Some(message)) => return Some(message),
                Ok(None) => assert!(Instant::now() < end, "neither a message nor an end came"),
                Err(_) => return None,
            }
        }
    }

    /// The next message if one comes within the limit.
    pub fn poll<M: Message + Default>(&mut self, limit: Duration) -> Result<Option<M>, Gone> {
        loop {
            if let Some(message) = self.whole() {
                return Ok(Some(M::decode(&message[..]).expect("what the controller says can be read")));
            }
            if self.ended {
                return Err(Gone("the call was ended".to_owned()));
            }
            let Some(frame) = self.http.next(limit)? else { return Ok(None) };
            if frame.kind == Kind::Data && frame.stream == self.stream {
                self.bytes.extend_from_slice(&frame.payload);
            }
            self.ended |= ends(&frame, self.stream);
        }
    }

    /// The connection below.
    pub fn http(&mut self) -> &mut Http2 {
        &mut self.http
    }

    /// The stream it is on.
    pub fn stream(&self) -> u32 {
        self.stream
    }

    fn whole(&mut self) -> Option<Vec<u8>> {
        let length: [u8; 4] = self.bytes.get(1..5)?.try_into().ok()?;
        let end = 5 + u32::from_be_bytes(length) as usize;
        let message = self.bytes.get(5..end)?.to_vec();
        self.bytes.drain(..end);
        Some(message)
    }
}
