//! A host that answers pings as no host should. What it does depends on the last number of the address that is asked.

use crate::lab::Host;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, bind, recvfrom, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Where it lives.
pub const NET: [u8; 3] = [10, 66, 0];
/// Answers twice.
pub const TWICE: u8 = 11;
/// Answers [`DELAY`] after it was asked.
pub const LATE: u8 = 12;
/// Answers with another payload.
pub const WRONG_PAYLOAD: u8 = 13;
/// Answers with another identifier, then another sequence number.
pub const WRONG_NUMBER: u8 = 14;
/// Answers from the address of [`TWICE`].
pub const WRONG_SOURCE: u8 = 15;
/// Answers with less than was sent.
pub const SHORT: u8 = 16;
/// Answers with a checksum that is wrong.
pub const WRONG_CHECKSUM: u8 = 17;
/// Sends an error that quotes another packet than it got, then one that quotes too little to know.
pub const WRONG_ERROR: u8 = 18;
/// Says that the host is unreachable, and then answers.
pub const ERROR_AND_ANSWER: u8 = 19;
/// Answers as it should.
pub const HONEST: u8 = 20;

/// What [`LATE`] waits.
pub const DELAY: Duration = Duration::from_millis(900);

/// It answers until this is dropped.
pub struct Responder {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the responder did not panic");
        }
    }
}

/// An address of the responder.
pub fn address(last: u8) -> Ipv4Addr {
    let [a, b, c] = NET;
    Ipv4Addr::new(a, b, c, last)
}

/// Starts one on a host, which must have the addresses and not answer by itself.
pub fn start(host: &Host) -> Responder {
    let ended = Arc::new(AtomicBool::new(false));
    let end = Arc::clone(&ended);
    let thread = host.run(move || {
        let requests = open(None);
        let replies: HashMap<u8, OwnedFd> = (TWICE..=HONEST).map(|last| (last, open(Some(address(last))))).collect();
        std::thread::spawn(move || answer_all(&requests, &replies, &end))
    });
    Responder { ended, thread: Some(thread) }
}

fn open(bound: Option<Ipv4Addr>) -> OwnedFd {
    let fd = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Icmp).expect("a socket");
    setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::milliseconds(10)).expect("a timeout");
    if let Some(address) = bound {
        bind(fd.as_raw_fd(), &to(address)).expect("our address");
    }
    fd
}

fn to(address: Ipv4Addr) -> SockaddrIn {
    SockaddrIn::from(std::net::SocketAddrV4::new(address, 0))
}

fn answer_all(requests: &OwnedFd, replies: &HashMap<u8, OwnedFd>, ended: &AtomicBool) {
    let mut late: Vec<(Instant, Ipv4Addr, Vec<u8>)> = Vec::new();
    let mut packet = [0; 2_048];
    while !ended.load(Ordering::Relaxed) {
        for (_, asker, message) in late.extract_if(.., |(due, ..)| *due <= Instant::now()) {
            send(&replies[&LATE], asker, message);
        }
        let length = match recvfrom::<SockaddrIn>(requests.as_raw_fd(), &mut packet) {
            Ok((length, _)) => length,
            Err(Errno::EAGAIN | Errno::EINTR) => continue,
            Err(error) => panic!("{error}"),
        };
        let (ip, request) = packet[..length].split_at(20);
        if request[0] != 8 {
            continue;
        }
        let asker = Ipv4Addr::new(ip[12], ip[13], ip[14], ip[15]);
        let last = ip[19];
        if last == LATE {
            late.push((Instant::now() + DELAY, asker, reply(request)));
        } else if let Some(socket) = replies.get(&last) {
            let socket = if last == WRONG_SOURCE { &replies[&TWICE] } else { socket };
            messages(last, ip, request).into_iter().for_each(|message| send(socket, asker, message));
        }
    }
}

/// What an address answers to a request.
fn messages(last: u8, ip: &[u8], request: &[u8]) -> Vec<Vec<u8>> {
    let changed = |at: usize| {
        let mut reply = reply(request);
        reply[at] ^= 1;
        reply
    };
    match last {
        TWICE => vec![reply(request), reply(request)],
        WRONG_PAYLOAD => vec![changed(8), changed(20), changed(request.len() - 1)],
        WRONG_NUMBER => vec![changed(4), changed(7), changed(6)],
        SHORT => vec![reply(&request[..request.len() - 1]), reply(&request[..8])],
        WRONG_ERROR => {
            let mut other = request.to_vec();
            other[7] ^= 1;
            let mut forged = request.to_vec();
            forged[8] ^= 1;
            let mut elsewhere = ip.to_vec();
            elsewhere[19] = HONEST;
            vec![error(ip, &other), error(ip, &forged), error(&elsewhere, request), error(ip, &request[..4])]
        }
        ERROR_AND_ANSWER => vec![error(ip, request), reply(request)],
        _ => vec![reply(request)],
    }
}

fn reply(request: &[u8]) -> Vec<u8> {
    let mut reply = request.to_vec();
    reply[0] = 0;
    reply
}

/// "Host unreachable", with this quote.
fn error(ip: &[u8], request: &[u8]) -> Vec<u8> {
    [&[3, 1, 0, 0, 0, 0, 0, 0], ip, request].concat()
}

fn send(socket: &OwnedFd, asker: Ipv4Addr, mut message: Vec<u8>) {
    let wrong = u16::from(message[0] == 0 && is_bound_to(socket, WRONG_CHECKSUM));
    message[2..4].fill(0);
    let words = message.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let checksum = !u16::try_from(sum).expect("folded") ^ wrong;
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    // The asker may be gone.
    let _ = sendto(socket.as_raw_fd(), &message, &to(asker), MsgFlags::empty());
}

fn is_bound_to(socket: &OwnedFd, last: u8) -> bool {
    nix::sys::socket::getsockname::<SockaddrIn>(socket.as_raw_fd()).is_ok_and(|name| name.ip() == address(last))
}
