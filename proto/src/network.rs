//! Networks: addresses that begin with the same bits, as policies, pings and target expressions name them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Addresses that begin with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// The first of them.
    address: IpAddr,
    prefix: u32,
}

impl Network {
    /// All addresses there are.
    pub const EVERYWHERE: [Self; 2] = [
        Self { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), prefix: 0 },
        Self { address: IpAddr::V6(Ipv6Addr::UNSPECIFIED), prefix: 0 },
    ];

    /// The network around an address: as [`Self::from_str`], but any address of it names it.
    pub fn around(text: &str) -> Result<Self, ParseNetworkError> {
        let (address, prefix) = split(text)?;
        let (width, value) = bits(address);
        Ok(Self { address: address_of(width, value & mask(width, prefix)), prefix })
    }

    /// The address lies in it. An IPv4 address that is written as IPv6 is the IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (own, other) = (bits(self.address), bits(address.to_canonical()));
        own.0 == other.0 && (own.1 ^ other.1) & mask(own.0, self.prefix) == 0
    }

    /// How many hosts it has; as many as a number holds if there are more.
    pub fn count(&self) -> u128 {
        let all = 1_u128.checked_shl(self.host_bits()).unwrap_or(u128::MAX);
        if self.own().is_some() { all - 2 } else { all }
    }

    /// The network's address and its broadcast address, where hosts may not have them (RFC 3021 leaves /31 alone).
    pub fn own(&self) -> Option<(IpAddr, IpAddr)> {
        let (width, first) = bits(self.address);
        let last = first + (1_u128.checked_shl(self.host_bits())? - 1);
        (self.address.is_ipv4() && self.host_bits() >= 2).then(|| (self.address, address_of(width, last)))
    }

    /// The addresses that hosts may have, in order.
    pub fn hosts(self) -> impl Iterator<Item = IpAddr> {
        let (width, first) = bits(self.address);
        let first = first + u128::from(self.own().is_some());
        (0..self.count()).map(move |number| address_of(width, first + number))
    }

    fn host_bits(&self) -> u32 {
        bits(self.address).0 - self.prefix
    }
}

/// An address and the length of its prefix, the whole address if none is given.
fn split(text: &str) -> Result<(IpAddr, u32), ParseNetworkError> {
    let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
    let address: IpAddr = address.parse().map_err(|_| ParseNetworkError::Form)?;
    let width = bits(address).0;
    let digits = |prefix: &str| prefix.bytes().all(|byte| byte.is_ascii_digit()).then(|| prefix.parse().ok());
    let prefix = prefix.map_or(Some(width), |prefix| digits(prefix).flatten());
    prefix.filter(|&prefix| prefix <= width).map(|prefix| (address, prefix)).ok_or(ParseNetworkError::Form)
}

/// How many bits an address has, and which.
fn bits(address: IpAddr) -> (u32, u128) {
    match address {
        IpAddr::V4(address) => (32, address.to_bits().into()),
        IpAddr::V6(address) => (128, address.to_bits()),
    }
}

fn address_of(width: u32, bits: u128) -> IpAddr {
    match u32::try_from(bits) {
        Ok(bits) if width == 32 => Ipv4Addr::from_bits(bits).into(),
        _ => Ipv6Addr::from_bits(bits).into(),
    }
}

/// The bits that addresses of a network have in common.
fn mask(width: u32, prefix: u32) -> u128 {
    let all = u128::MAX >> (128 - width);
    all ^ all.checked_shr(prefix).unwrap_or(0)
}

impl FromStr for Network {
    type Err = ParseNetworkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let network = Self::around(text)?;
        let (address, _) = split(text)?;
        if network.address != address {
            return Err(ParseNetworkError::HostBits);
        }
        if address.to_canonical() != address {
            return Err(ParseNetworkError::Mapped);
        }
        Ok(network)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// It is no network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseNetworkError {
    /// Not an address, or no such length.
    #[error("use a network as 10.0.0.0/8 or 2001:db8::/32, or an address")]
    Form,
    /// It names an address within the network.
    #[error("bits behind the prefix are set: name the network by its first address")]
    HostBits,
    /// It would match nothing.
    #[error("it is IPv4 written as IPv6: name the IPv4 network")]
    Mapped,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_network_is_refused_with_what_to_do() {
        for (text, error) in [
            ("", ParseNetworkError::Form),
            ("10.0.0.0/33", ParseNetworkError::Form),
            ("::/129", ParseNetworkError::Form),
            ("10.0.0.0/", ParseNetworkError::Form),
            ("10.0.0.0/+8", ParseNetworkError::Form),
            ("10.0.0/8", ParseNetworkError::Form),
            ("10.0.0.0/8/8", ParseNetworkError::Form),
            ("web01", ParseNetworkError::Form),
            ("fe80::%eth0/10", ParseNetworkError::Form),
            ("10.0.0.1/8", ParseNetworkError::HostBits),
            ("2001:db8::1/32", ParseNetworkError::HostBits),
            ("::ffff:10.0.0.0/104", ParseNetworkError::Mapped),
        ] {
            assert_eq!(text.parse::<Network>(), Err(error), "{text:?}");
        }
    }

    #[test]
    fn any_address_of_a_network_is_around_it() {
        for (text, network) in [
            ("10.0.0.6/30", "10.0.0.4/30"),
            ("10.0.0.6", "10.0.0.6/32"),
            ("fd00::7/126", "fd00::4/126"),
            ("::1/0", "::/0"),
        ] {
            assert_eq!(Network::around(text).map(|it| it.to_string()), Ok(network.to_owned()));
        }
        assert_eq!(Network::around("10.0.0.6/-1"), Err(ParseNetworkError::Form));
    }

    #[test]
    fn hosts_are_those_that_may_have_their_address() {
        for (text, count, first) in [
            ("10.0.0.4/30", 2, "10.0.0.5"),
            ("10.0.0.0/31", 2, "10.0.0.0"),
            ("10.0.0.9/32", 1, "10.0.0.9"),
            ("fd00::/126", 4, "fd00::"),
            ("0.0.0.0/0", (1 << 32) - 2, "0.0.0.1"),
            ("::/0", u128::MAX, "::"),
        ] {
            let network: Network = text.parse().expect(text);
            assert_eq!((network.count(), network.hosts().next()), (count, first.parse().ok()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_network_holds_those_addresses_that_share_its_prefix(
            base in any::<u32>(), other in any::<u32>(), prefix in 0_u32..=32, high in any::<u64>(), six in 0_u32..=128
        ) {
            let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
            let v4 = |bits: u32| IpAddr::V4(bits.into());
            let network: Network = format!("{}/{prefix}", v4(base & mask)).parse().expect("a network");
            prop_assert_eq!(network.contains(v4(other)), (base ^ other) & mask == 0);
            prop_assert!(network.contains(v4(base)));

            let bits = (u128::from(high | 1 << 63) << 64) | u128::from(base);
            let mask = u128::MAX.checked_shl(128 - six).unwrap_or(0);
            let v6 = |bits: u128| IpAddr::V6(bits.into());
            let network: Network = format!("{}/{six}", v6(bits & mask)).parse().expect("a network");
            let near = bits ^ (u128::from(other) << 40);
            prop_assert_eq!(network.contains(v6(near)), (bits ^ near) & mask == 0);
            prop_assert!(network.contains(v6(bits)) && !network.contains(v4(base)));
        }
    }
}
