//! A host that sends answers with wrong checksums that nobody asked for, to every sweep there might be.

use crate::lab::Host;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, SockaddrLike, sendto,
    setsockopt, socket,
};
use nix::{setsockopt_impl, sockopt_impl};
use std::net::{IpAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

sockopt_impl!(
    /// Where the kernel writes a checksum; -1 is nowhere.
    ChecksumAt,
    SetOnly,
    libc::SOL_RAW,
    libc::IPV6_CHECKSUM,
    libc::c_int
);

/// It forges until this is dropped.
pub struct Forger {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    ended: AtomicBool,
    count: AtomicUsize,
}

impl Forger {
    /// How many it has sent.
    pub fn count(&self) -> usize {
        self.shared.count.load(Ordering::Relaxed)
    }
}

impl Drop for Forger {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the forger did not panic");
        }
    }
}

/// Starts one on a host that knows the way to this address.
pub fn start(host: &Host, to: IpAddr) -> Forger {
    let shared = Arc::<Shared>::default();
    let told = Arc::clone(&shared);
    let thread = host.run(move || match to {
        IpAddr::V4(to) => {
            let fd = open(AddressFamily::Inet, SockProtocol::Icmp);
            std::thread::spawn(move || forge(&fd, &SockaddrIn::from(SocketAddrV4::new(to, 0)), 0, &told))
        }
        IpAddr::V6(to) => {
            let fd = open(AddressFamily::Inet6, SockProtocol::IcmpV6);
            setsockopt(&fd, ChecksumAt, &-1).expect("an option");
            std::thread::spawn(move || forge(&fd, &SockaddrIn6::from(SocketAddrV6::new(to, 0, 0, 0)), 129, &told))
        }
    });
    Forger { shared, thread: Some(thread) }
}

fn open(family: AddressFamily, protocol: SockProtocol) -> OwnedFd {
    socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).expect("a socket")
}

fn forge(fd: &OwnedFd, to: &dyn SockaddrLike, reply: u8, shared: &Shared) {
    while !shared.ended.load(Ordering::Relaxed) {
        for prefix in 0..=u8::MAX {
            // The right checksum of this is another.
            let message = [&[reply, 0, 0x12, 0x34, prefix, 0, 0, 1][..], &[7; 56]].concat();
            let sent = sendto(fd.as_raw_fd(), &message, to, MsgFlags::empty());
            shared.count.fetch_add(usize::from(sent.is_ok()), Ordering::Relaxed);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
