//! How many packets the kernel dropped because a socket's queue was full. Who cannot know that cannot tell a dead host
//! from an answer that was lost here, so there are two ways to learn it, and a third case that is never mistaken for none.

use crate::SocketKind;
use crate::packet::Family;
use nix::sys::socket::getsockopt;
use nix::{getsockopt_impl, sockopt_impl};
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

// From linux/socket.h and linux/sock_diag.h.
const SO_MEMINFO: libc::c_int = 55;
const MEMINFO_DROPS: usize = 8;
// Columns of the kernel's tables of sockets.
const INODE: usize = 9;
const DROPS: usize = 12;

sockopt_impl!(
    /// What a socket uses of its memory, and how many packets it dropped for want of it.
    MemInfo,
    GetOnly,
    libc::SOL_SOCKET,
    SO_MEMINFO,
    [u32; 9]
);

/// Where drops may be counted; for tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Ledger {
    /// Nowhere.
    Nowhere,
    /// In the kernel's tables of sockets.
    Table,
    /// There, and by the socket itself.
    #[default]
    Socket,
}

/// Where the drops of a socket are counted.
#[derive(Debug)]
pub enum Drops {
    /// The socket tells.
    Socket,
    /// The line of this inode in this table tells: for Linux before 4.12, and sandboxes that are like it.
    Table(File, u64),
    /// Nobody tells.
    Nowhere,
}

impl Drops {
    /// Finds out who tells, no better than `best`. The socket must belong to this thread's network.
    pub fn of(socket: &OwnedFd, family: Family, kind: SocketKind, best: Ledger) -> Self {
        let table = || {
            let inode = File::from(socket.try_clone().ok()?).metadata().ok()?.ino();
            Some(Self::Table(File::open(table_of(family, kind)).ok()?, inode))
        };
        let itself = Some(Self::Socket).filter(|itself| best >= Ledger::Socket && itself.count(socket).is_some());
        // A datagram socket has no line there before its first packet.
        itself.or_else(|| table().filter(|_| best >= Ledger::Table)).unwrap_or(Self::Nowhere)
    }

    /// How many there were since the socket was opened, if anybody tells.
    pub fn count(&self, socket: &OwnedFd) -> Option<u32> {
        match self {
            Self::Socket => getsockopt(socket, MemInfo).ok().map(|info| info[MEMINFO_DROPS]),
            Self::Table(file, inode) => read(file, *inode),
            Self::Nowhere => None,
        }
    }
}

fn table_of(family: Family, kind: SocketKind) -> String {
    let name = match (kind, family) {
        (SocketKind::Raw, Family::V4) => "raw",
        (SocketKind::Raw, Family::V6) => "raw6",
        (SocketKind::Datagram, Family::V4) => "icmp",
        (SocketKind::Datagram, Family::V6) => "icmp6",
    };
    format!("/proc/self/task/{}/net/{name}", nix::unistd::gettid())
}

fn read(mut file: &File, inode: u64) -> Option<u32> {
    let mut table = String::new();
    file.rewind().ok()?;
    file.read_to_string(&mut table).ok()?;
    drops_in(&table, inode)
}

fn drops_in(table: &str, inode: u64) -> Option<u32> {
    let inode = inode.to_string();
    let mut lines = table.lines().map(|line| line.split_ascii_whitespace());
    lines.find(|columns| columns.clone().nth(INODE) == Some(&inode))?.nth(DROPS)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_found_by_its_inode_in_tables_of_either_family() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
            \x20  1: 00000000:0001 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 42 2 000000000b1a57ed 17\n\
            \x20 58: 00000000000000000000000000000000:003A 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     7        0 43 2 000000000b1a57ed 4294967295\n";
        assert_eq!([42, 43, 7, 2].map(|inode| drops_in(table, inode)), [Some(17), Some(u32::MAX), None, None]);
        assert_eq!(drops_in("inode drops\n 1: 2 3", 2), None);
    }
}
