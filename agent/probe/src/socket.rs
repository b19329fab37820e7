//! The sockets: how they are opened, what the kernel is asked to do for us, and what its errors mean.
//!
//! Answers come through the socket, ICMP errors through its error queue: there the kernel has checked them, and says
//! who sent them and which destination they speak of. With the queue comes a nuisance: an error that waits in it makes
//! the next send fail, wherever that goes, so a failure to send counts only when the queue was empty before.

use crate::packet::Family;
use crate::{Aim, SocketKind, clock};
use muster_proto::ping::{FailureKind, Probes};
use nix::errno::Errno;
use nix::net::if_::if_nameindex;
use nix::sys::socket::{
    self, AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6,
    SockaddrStorage, sockopt,
};
use nix::{getsockopt_impl, setsockopt_impl, sockopt_impl};
use std::io::IoSliceMut;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Some 170,000 answers: more than come while this process is kept from running. Requests that wait, for seconds, for
/// the hardware address of a host that is not there are held in as much.
const BUFFER: usize = 64 << 20;

// From linux/icmp.h, linux/icmpv6.h, linux/socket.h and linux/sock_diag.h.
const ICMP_FILTER: libc::c_int = 1;
const ICMPV6_FILTER: libc::c_int = 1;
const SO_MEMINFO: libc::c_int = 55;
const MEMINFO_DROPS: usize = 8;
const ECHO_REPLY_V4: u32 = 0;
const ECHO_REPLY_V6: usize = 129;

sockopt_impl!(
    /// ICMP types that are kept back, a bit each.
    IcmpFilter,
    SetOnly,
    libc::SOL_RAW,
    ICMP_FILTER,
    u32
);
sockopt_impl!(
    /// `ICMPv6` types that are kept back, a bit each.
    Icmpv6Filter,
    SetOnly,
    libc::SOL_ICMPV6,
    ICMPV6_FILTER,
    [u32; 8]
);
sockopt_impl!(
    /// A program that decides which packets get in.
    AttachFilter,
    SetOnly,
    libc::SOL_SOCKET,
    libc::SO_ATTACH_FILTER,
    libc::sock_fprog
);
sockopt_impl!(
    /// What a socket uses of its memory, and how many packets it dropped for want of it.
    MemInfo,
    GetOnly,
    libc::SOL_SOCKET,
    SO_MEMINFO,
    [u32; 9]
);
sockopt_impl!(
    /// Whether routers must not cut packets.
    MtuDiscover,
    SetOnly,
    libc::IPPROTO_IP,
    libc::IP_MTU_DISCOVER,
    libc::c_int
);

/// An open socket.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    family: Family,
    /// What it is.
    pub kind: SocketKind,
}

/// Which of a socket's queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// Answers.
    Answers,
    /// ICMP errors.
    Errors,
}

/// What came through a socket.
#[derive(Debug)]
pub struct Arrival<'a> {
    /// Who sent the answer, or who the packet was for that the error speaks of; with the interface, if it is known.
    pub peer: (IpAddr, u32),
    /// The answer, or the quoted packet from its ICMP header on.
    pub bytes: &'a [u8],
    /// When it came, on the wall clock.
    pub stamp: Option<u64>,
    /// Of an error: its type, its code, and who sent it.
    pub error: Option<(u8, u8, Option<IpAddr>)>,
}

/// Why a packet was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsent {
    /// The kernel has no room for it now.
    NoRoom,
    /// The try has failed.
    Failed(FailureKind),
    /// No packet can be sent there.
    Impossible(FailureKind),
}

/// Which sockets this process may open.
pub fn can_probe() -> Result<SocketKind, FailureKind> {
    let opened = open(Family::V4, None).or_else(|_| open(Family::V6, None));
    opened.map(|(_, kind)| kind).map_err(|_| FailureKind::NoSocket)
}

fn open(family: Family, only: Option<SocketKind>) -> Result<(OwnedFd, SocketKind), FailureKind> {
    let (domain, protocol) = match family {
        Family::V4 => (AddressFamily::Inet, SockProtocol::Icmp),
        Family::V6 => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let mut failure = FailureKind::NoSocket;
    for (kind, form) in [(SocketKind::Raw, SockType::Raw), (SocketKind::Datagram, SockType::Datagram)] {
        if only.is_none_or(|only| only == kind) {
            match socket::socket(domain, form, flags, protocol) {
                Ok(fd) => return Ok((fd, kind)),
                Err(Errno::EAFNOSUPPORT) => failure = FailureKind::NoFamily,
                Err(_) => {}
            }
        }
    }
    Err(failure)
}

impl Socket {
    /// Opens a raw socket, or a datagram socket where that is not allowed, or `only` one of the two. A raw one lets
    /// in identifiers with this upper byte alone. `buffer` is for tests.
    pub fn open(
        family: Family,
        only: Option<SocketKind>,
        probes: &Probes,
        prefix: u8,
        buffer: Option<usize>,
    ) -> Result<Self, FailureKind> {
        let (fd, kind) = open(family, only)?;
        let socket = Self { fd, family, kind };
        socket.prepare(probes, prefix, buffer).map_err(|_| FailureKind::NoSocket)?;
        Ok(socket)
    }

    fn prepare(&self, probes: &Probes, prefix: u8, buffer: Option<usize>) -> nix::Result<()> {
        let fd = &self.fd;
        match buffer {
            Some(bytes) => socket::setsockopt(fd, sockopt::RcvBuf, &bytes)?,
            None => socket::setsockopt(fd, sockopt::RcvBufForce, &BUFFER)
                .or_else(|_| socket::setsockopt(fd, sockopt::RcvBuf, &BUFFER))?,
        }
        socket::setsockopt(fd, sockopt::SndBufForce, &BUFFER)
            .or_else(|_| socket::setsockopt(fd, sockopt::SndBuf, &BUFFER))?;
        socket::setsockopt(fd, sockopt::ReceiveTimestampns, &true)?;
        let ttl = probes.ttl.map(|ttl| libc::c_int::from(ttl.get()));
        let tos = libc::c_int::from(probes.tos);
        match self.family {
            Family::V4 => {
                socket::setsockopt(fd, sockopt::Ipv4RecvErr, &true)?;
                socket::setsockopt(fd, MtuDiscover, &libc::IP_PMTUDISC_DONT)?;
                socket::setsockopt(fd, sockopt::Ipv4Tos, &tos)?;
                ttl.map_or(Ok(()), |ttl| socket::setsockopt(fd, sockopt::Ipv4Ttl, &ttl))?;
            }
            Family::V6 => {
                socket::setsockopt(fd, sockopt::Ipv6RecvErr, &true)?;
                socket::setsockopt(fd, sockopt::Ipv6TClass, &tos)?;
                ttl.map_or(Ok(()), |ttl| socket::setsockopt(fd, sockopt::Ipv6Ttl, &ttl))?;
            }
        }
        match self.kind {
            SocketKind::Raw => self.keep_out_others(prefix),
            SocketKind::Datagram => Ok(()),
        }
    }

    /// A raw socket gets a copy of every ICMP packet that reaches this machine, on loopback even of our requests.
    fn keep_out_others(&self, prefix: u8) -> nix::Result<()> {
        let step = |code, k, if_not| libc::sock_filter { code, jt: 0, jf: if_not, k };
        let load_identifier = match self.family {
            // Behind an IP header, whose length goes to the index register.
            Family::V4 => vec![step(0xb1, 0, 0), step(0x50, 4, 0)],
            Family::V6 => vec![step(0x30, 4, 0)],
        };
        let decide = [step(0x15, prefix.into(), 1), step(0x06, u32::MAX, 0), step(0x06, 0, 0)];
        let mut program = [load_identifier, decide.to_vec()].concat();
        let length = u16::try_from(program.len()).map_err(|_| Errno::EINVAL)?;
        socket::setsockopt(&self.fd, AttachFilter, &libc::sock_fprog { len: length, filter: program.as_mut_ptr() })?;
        match self.family {
            Family::V4 => socket::setsockopt(&self.fd, IcmpFilter, &!(1 << ECHO_REPLY_V4)),
            Family::V6 => {
                let mut kept_back = [u32::MAX; 8];
                kept_back[ECHO_REPLY_V6 / 32] &= !(1 << (ECHO_REPLY_V6 % 32));
                socket::setsockopt(&self.fd, Icmpv6Filter, &kept_back)
            }
        }
    }

    /// Hands a packet to the kernel.
    pub fn send(&self, packet: &[u8], aim: Aim) -> Result<(), Unsent> {
        let fd = self.fd.as_raw_fd();
        let sent = match aim.address {
            IpAddr::V4(address) => socket::sendto(fd, packet, &v4(address), MsgFlags::empty()),
            IpAddr::V6(address) => {
                let to = SockaddrIn6::from(SocketAddrV6::new(address, 0, 0, aim.scope));
                socket::sendto(fd, packet, &to, MsgFlags::empty())
            }
        };
        sent.map(drop).map_err(|errno| meaning(errno, aim))
    }

    /// Takes what came first from a queue; `None` where there is nothing. An error that comes out of here was meant
    /// for somebody else, and the next call goes on.
    pub fn receive<'a>(&self, queue: Queue, space: &'a mut Space) -> nix::Result<Option<Arrival<'a>>> {
        let flags = match queue {
            Queue::Answers => MsgFlags::empty(),
            Queue::Errors => MsgFlags::MSG_ERRQUEUE,
        };
        let mut slices = [IoSliceMut::new(&mut space.packet)];
        let fd = self.fd.as_raw_fd();
        let message = match socket::recvmsg::<SockaddrStorage>(fd, &mut slices, Some(&mut space.control), flags) {
            Err(Errno::EAGAIN) => return Ok(None),
            message => message?,
        };
        let (mut stamp, mut error) = (None, None);
        for control in message.cmsgs()? {
            match control {
                ControlMessageOwned::ScmTimestampns(time) => stamp = Some(clock::of(time)),
                ControlMessageOwned::Ipv4RecvErr(said, from) if said.ee_origin == libc::SO_EE_ORIGIN_ICMP => {
                    let from = from.map(|from| IpAddr::from(SockaddrIn::from(from).ip()));
                    error = Some((said.ee_type, said.ee_code, from));
                }
                ControlMessageOwned::Ipv6RecvErr(said, from) if said.ee_origin == libc::SO_EE_ORIGIN_ICMP6 => {
                    let from = from.map(|from| IpAddr::from(SockaddrIn6::from(from).ip()));
                    error = Some((said.ee_type, said.ee_code, from));
                }
                _ => {}
            }
        }
        let (length, address) = (message.bytes, message.address);
        let v4 = address.as_ref().and_then(SockaddrStorage::as_sockaddr_in).map(|peer| (peer.ip().into(), 0));
        let v6 = address.as_ref().and_then(SockaddrStorage::as_sockaddr_in6);
        let v6 = v6.map(|peer| (IpAddr::from(peer.ip()), peer.scope_id()));
        let peer = v4.or(v6).unwrap_or((Ipv4Addr::UNSPECIFIED.into(), 0));
        Ok(Some(Arrival { peer, bytes: space.packet.get(..length).unwrap_or_default(), stamp, error }))
    }

    /// How many packets the kernel dropped because the queue was full, since the socket was opened.
    pub fn drops(&self) -> u32 {
        socket::getsockopt(&self.fd, MemInfo).map_or(0, |info| info[MEMINFO_DROPS])
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Room for one arrival.
#[derive(Debug)]
pub struct Space {
    packet: Vec<u8>,
    control: Vec<u8>,
}

impl Space {
    /// For packets with this much payload; of larger ones the end is lost.
    pub fn new(size: u16) -> Self {
        // An IP header with options, that of ICMP, and one byte to tell what is too long.
        let packet = vec![0; usize::from(size) + 60 + crate::packet::HEADER + 1];
        Self { packet, control: nix::cmsg_space!([u8; 64], [u8; 64]) }
    }
}

fn v4(address: Ipv4Addr) -> SockaddrIn {
    let [a, b, c, d] = address.octets();
    SockaddrIn::new(a, b, c, d, 0)
}

/// Addresses that no packet may go to, or that would be answered by many or by nobody one can name.
pub fn unfit(aim: Aim) -> Option<FailureKind> {
    let many = match aim.address {
        IpAddr::V4(address) => address.is_broadcast(),
        IpAddr::V6(_) => false,
    };
    if many || aim.address.is_multicast() || aim.address.is_unspecified() {
        return Some(FailureKind::Broadcast);
    }
    (is_link_local(aim.address) && aim.scope == 0).then_some(FailureKind::NoZone)
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

fn has_zone(scope: u32) -> bool {
    if_nameindex().is_ok_and(|interfaces| interfaces.iter().any(|interface| interface.index() == scope))
}

/// What the kernel's refusal of a packet means.
fn meaning(errno: Errno, aim: Aim) -> Unsent {
    use FailureKind as Kind;
    match errno {
        Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM | Errno::EINTR => Unsent::NoRoom,
        Errno::EACCES if is_broadcast(aim.address) => Unsent::Impossible(Kind::Broadcast),
        _ if is_link_local(aim.address) && !has_zone(aim.scope) => Unsent::Impossible(Kind::NoZone),
        Errno::EACCES | Errno::EPERM => Unsent::Failed(Kind::Forbidden),
        Errno::ENETUNREACH | Errno::ENETDOWN | Errno::ENODEV | Errno::ENXIO => Unsent::Failed(Kind::NetworkUnreachable),
        Errno::EHOSTUNREACH | Errno::EHOSTDOWN => Unsent::Failed(Kind::HostUnreachable),
        Errno::EINVAL => Unsent::Failed(Kind::Discarded),
        Errno::EMSGSIZE => Unsent::Failed(Kind::TooBig),
        // Where IPv6 is switched off, or has no address yet.
        Errno::EADDRNOTAVAIL if aim.address.is_ipv6() => Unsent::Failed(Kind::NoFamily),
        _ => Unsent::Failed(Kind::OtherError),
    }
}

/// Whether an address that may not be sent to is a broadcast address of a network here: with the permission to
/// broadcast, connecting a UDP socket succeeds, which sends nothing; where a route prohibits it, it does not.
fn is_broadcast(address: IpAddr) -> bool {
    let IpAddr::V4(address) = address else { return false };
    let allowed = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket.set_broadcast(true)?;
        socket.connect((address, 9))
    });
    allowed.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_many_and_without_zone_are_refused_without_a_packet() {
        for (address, failure) in [
            ("224.0.0.1", Some(FailureKind::Broadcast)),
            ("255.255.255.255", Some(FailureKind::Broadcast)),
            ("0.0.0.0", Some(FailureKind::Broadcast)),
            ("ff02::1", Some(FailureKind::Broadcast)),
            ("::", Some(FailureKind::Broadcast)),
            ("fe80::1", Some(FailureKind::NoZone)),
            ("10.0.0.255", None),
            ("2001:db8::1", None),
        ] {
            let address: IpAddr = address.parse().expect("an address");
            assert_eq!(unfit(address.into()), failure, "{address}");
        }
        assert_eq!(unfit(Aim { address: "fe80::1".parse().expect("an address"), scope: 2 }), None);
    }
}
