//! The sockets: how they are opened, what the kernel is asked to do for us, and what its errors mean.
//!
//! Answers come through the socket, ICMP errors through its error queue: there the kernel has checked them, and says
//! who sent them and which destination they speak of. With the queue comes a nuisance: an error that waits in it makes
//! the next send fail, wherever that goes, so a failure to send counts only when the queue was empty before.

mod drops;

use crate::packet::{self, Family};
use crate::{Aim, Rig, SocketKind, clock};
use drops::Drops;
pub use drops::Ledger;
use muster_proto::ping::{FailureKind, Probes};
use nix::errno::Errno;
use nix::net::if_::if_nameindex;
use nix::sys::socket::{
    self, AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6,
    SockaddrStorage, sockopt,
};
use nix::{setsockopt_impl, sockopt_impl};
use std::io::IoSliceMut;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Some 170,000 answers: more than come while this process is kept from running. Requests that wait, for seconds, for
/// the hardware address of a host that is not there are held in as much.
const BUFFER: usize = 64 << 20;

// From linux/icmp.h and linux/icmpv6.h.
const ICMP_FILTER: libc::c_int = 1;
const ICMPV6_FILTER: libc::c_int = 1;
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
    /// Where in its packets a raw socket has the kernel write and check a checksum; -1 is nowhere.
    ChecksumAt,
    SetOnly,
    libc::SOL_RAW,
    libc::IPV6_CHECKSUM,
    libc::c_int
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
    /// What sends in place of `fd`, where that does not have the kernel look at checksums. Nothing comes in here.
    sender: Option<OwnedFd>,
    family: Family,
    /// What it is.
    pub kind: SocketKind,
    drops: Drops,
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
    opened.map(|(_, kind)| kind).map_err(|unsent| match unsent {
        Unsent::Impossible(_) => FailureKind::NoSocket,
        Unsent::NoRoom | Unsent::Failed(_) => FailureKind::Exhausted,
    })
}

fn open(family: Family, only: Option<SocketKind>) -> Result<(OwnedFd, SocketKind), Unsent> {
    let mut denied = Unsent::Impossible(FailureKind::NoSocket);
    for kind in [SocketKind::Raw, SocketKind::Datagram].into_iter().filter(|kind| only.is_none_or(|only| only == *kind))
    {
        match open_one(family, kind) {
            Ok(fd) => return Ok((fd, kind)),
            Err(errno) => denied = denial(errno),
        }
        if !matches!(denied, Unsent::Impossible(_)) {
            break;
        }
    }
    Err(denied)
}

fn open_one(family: Family, kind: SocketKind) -> nix::Result<OwnedFd> {
    let (domain, protocol) = match family {
        Family::V4 => (AddressFamily::Inet, SockProtocol::Icmp),
        Family::V6 => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    let form = match kind {
        SocketKind::Raw => SockType::Raw,
        SocketKind::Datagram => SockType::Datagram,
    };
    socket::socket(domain, form, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, protocol)
}

/// What it means that a socket cannot be had: never, or only now, as without a descriptor or memory.
const fn denial(errno: Errno) -> Unsent {
    match errno {
        Errno::EAFNOSUPPORT => Unsent::Impossible(FailureKind::NoFamily),
        Errno::EPERM | Errno::EACCES | Errno::EPROTONOSUPPORT => Unsent::Impossible(FailureKind::NoSocket),
        _ => Unsent::Failed(FailureKind::Exhausted),
    }
}

impl Socket {
    /// Opens a raw socket, or a datagram socket where that is not allowed. A raw one lets in identifiers with this
    /// upper byte alone. What has [`Unsent::Failed`] may be tried again.
    pub fn open(family: Family, rig: Rig, probes: &Probes, prefix: u8) -> Result<Self, Unsent> {
        let (fd, kind) = open(family, rig.kind)?;
        let prepared = || {
            // A packet of whomever with a wrong checksum would count as dropped before the filter sees it: no dead host
            // could be told from an overflow. Where the kernel insists to look, so be it.
            let checks =
                (family, kind) != (Family::V6, SocketKind::Raw) || socket::setsockopt(&fd, ChecksumAt, &-1).is_err();
            let sender = if checks { None } else { Some(open_one(family, kind)?) };
            let drops = Drops::of(&fd, family, kind, rig.ledger);
            let socket = Self { fd, sender, family, kind, drops };
            socket.prepare_answers(prefix, rig.receive_buffer)?;
            socket.prepare_requests(probes)?;
            Ok(socket)
        };
        prepared().map_err(denial)
    }

    fn sender(&self) -> &OwnedFd {
        self.sender.as_ref().unwrap_or(&self.fd)
    }

    fn prepare_answers(&self, prefix: u8, buffer: Option<usize>) -> nix::Result<()> {
        let fd = &self.fd;
        match buffer {
            Some(bytes) => socket::setsockopt(fd, sockopt::RcvBuf, &bytes)?,
            None => socket::setsockopt(fd, sockopt::RcvBufForce, &BUFFER)
                .or_else(|_| socket::setsockopt(fd, sockopt::RcvBuf, &BUFFER))?,
        }
        socket::setsockopt(fd, sockopt::ReceiveTimestampns, &true)?;
        match self.family {
            Family::V4 => socket::setsockopt(fd, sockopt::Ipv4RecvErr, &true)?,
            Family::V6 => socket::setsockopt(fd, sockopt::Ipv6RecvErr, &true)?,
        }
        if self.sender.is_some() {
            socket::setsockopt(fd, sockopt::Ipv6RecvPacketInfo, &true)?;
        }
        match self.kind {
            SocketKind::Raw => self.keep_out_others(prefix),
            SocketKind::Datagram => Ok(()),
        }
    }

    fn prepare_requests(&self, probes: &Probes) -> nix::Result<()> {
        let fd = self.sender();
        socket::setsockopt(fd, sockopt::SndBufForce, &BUFFER)
            .or_else(|_| socket::setsockopt(fd, sockopt::SndBuf, &BUFFER))?;
        let ttl = probes.ttl.map(|ttl| libc::c_int::from(ttl.get()));
        let tos = libc::c_int::from(probes.tos);
        match self.family {
            Family::V4 => {
                socket::setsockopt(fd, MtuDiscover, &libc::IP_PMTUDISC_DONT)?;
                socket::setsockopt(fd, sockopt::Ipv4Tos, &tos)?;
                ttl.map_or(Ok(()), |ttl| socket::setsockopt(fd, sockopt::Ipv4Ttl, &ttl))
            }
            Family::V6 => {
                socket::setsockopt(fd, sockopt::Ipv6TClass, &tos)?;
                ttl.map_or(Ok(()), |ttl| socket::setsockopt(fd, sockopt::Ipv6Ttl, &ttl))
            }
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
                self.sender.as_ref().map_or(Ok(()), |sender| socket::setsockopt(sender, Icmpv6Filter, &kept_back))?;
                kept_back[ECHO_REPLY_V6 / 32] &= !(1 << (ECHO_REPLY_V6 % 32));
                socket::setsockopt(&self.fd, Icmpv6Filter, &kept_back)
            }
        }
    }

    /// Hands a packet to the kernel.
    pub fn send(&self, packet: &[u8], aim: Aim) -> Result<(), Unsent> {
        let fd = self.sender().as_raw_fd();
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
    /// for somebody else, or stands for a packet with a wrong checksum, and the next call goes on.
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
        let (mut stamp, mut error, mut here) = (None, None, None);
        for control in message.cmsgs()? {
            match control {
                ControlMessageOwned::ScmTimestampns(time) => stamp = Some(clock::of(time)),
                ControlMessageOwned::Ipv6PacketInfo(info) => here = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr)),
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
        let cut = message.flags.contains(MsgFlags::MSG_TRUNC);
        let (length, address) = (message.bytes, message.address);
        let v4 = address.as_ref().and_then(SockaddrStorage::as_sockaddr_in).map(|peer| (peer.ip().into(), 0));
        let v6 = address.as_ref().and_then(SockaddrStorage::as_sockaddr_in6);
        let v6 = v6.map(|peer| (IpAddr::from(peer.ip()), peer.scope_id()));
        let peer = v4.or(v6).unwrap_or((Ipv4Addr::UNSPECIFIED.into(), 0));
        let bytes = space.packet.get(..length).unwrap_or_default();
        // Of what is too long there is no sum; it is no answer anyway. `here` is known where the kernel does not look.
        if let (IpAddr::V6(from), Some(to)) = (peer.0, here)
            && error.is_none()
            && !cut
            && !packet::is_sound(from, to, bytes)
        {
            return Err(Errno::EBADMSG);
        }
        Ok(Some(Arrival { peer, bytes, stamp, error }))
    }

    /// How many packets the kernel dropped because the queue was full, since the socket was opened; `None` where it
    /// does not tell.
    pub fn drops(&self) -> Option<u32> {
        self.drops.count(&self.fd)
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
        let packet = vec![0; usize::from(size) + 60 + packet::HEADER + 1];
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
    fn only_what_is_not_allowed_or_not_there_is_so_for_ever() {
        for (errno, meaning) in [
            (Errno::EPERM, Unsent::Impossible(FailureKind::NoSocket)),
            (Errno::EACCES, Unsent::Impossible(FailureKind::NoSocket)),
            (Errno::EPROTONOSUPPORT, Unsent::Impossible(FailureKind::NoSocket)),
            (Errno::EAFNOSUPPORT, Unsent::Impossible(FailureKind::NoFamily)),
            (Errno::EMFILE, Unsent::Failed(FailureKind::Exhausted)),
            (Errno::ENFILE, Unsent::Failed(FailureKind::Exhausted)),
            (Errno::ENOBUFS, Unsent::Failed(FailureKind::Exhausted)),
            (Errno::ENOMEM, Unsent::Failed(FailureKind::Exhausted)),
        ] {
            assert_eq!(denial(errno), meaning, "{errno}");
        }
    }

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
