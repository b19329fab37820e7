//! Networks as a policy names them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Addresses that begin with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u32,
}

impl Network {
    /// All addresses there are.
    pub const EVERYWHERE: [Self; 2] = [
        Self { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), prefix: 0 },
        Self { address: IpAddr::V6(Ipv6Addr::UNSPECIFIED), prefix: 0 },
    ];

    /// The address lies in it. An IPv4 address that is written as IPv6 is the IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (own, other) = (bits(self.address), bits(address.to_canonical()));
        own.0 == other.0 && (own.1 ^ other.1) & mask(own.0, self.prefix) == 0
    }
}

/// How many bits an address has, and which.
fn bits(address: IpAddr) -> (u32, u128) {
    match address {
        IpAddr::V4(address) => (32, address.to_bits().into()),
        IpAddr::V6(address) => (128, address.to_bits()),
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
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| ParseNetworkError::Form)?;
        let (width, value) = bits(address);
        let digits = |prefix: &str| prefix.bytes().all(|byte| byte.is_ascii_digit()).then(|| prefix.parse().ok());
        let prefix: u32 = match prefix {
            Some(prefix) => digits(prefix).flatten().ok_or(ParseNetworkError::Form)?,
            None => width,
        };
        if prefix > width {
            return Err(ParseNetworkError::Form);
        }
        if value & !mask(width, prefix) != 0 {
            return Err(ParseNetworkError::HostBits);
        }
        if address.to_canonical() != address {
            return Err(ParseNetworkError::Mapped);
        }
        Ok(Self { address, prefix })
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
