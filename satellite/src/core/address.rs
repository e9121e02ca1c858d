//! What an address says about a node: which others may fail with it, and whether we may dial it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Nodes that may fail together: those of one /24 (IPv4) or /64 (IPv6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Domain {
    V4([u8; 3]),
    V6([u8; 8]),
}

impl Domain {
    pub(crate) fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => {
                let [a, b, c, _] = ip.octets();
                Self::V4([a, b, c])
            }
            IpAddr::V6(ip) => {
                let [a, b, c, d, e, f, g, h, ..] = ip.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }

    /// As stored: the family's number, then the prefix.
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        match self {
            Self::V4(prefix) => [&[4], &prefix[..]].concat(),
            Self::V6(prefix) => [&[6], &prefix[..]].concat(),
        }
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first()? {
            (4, prefix) => Some(Self::V4(prefix.try_into().ok()?)),
            (6, prefix) => Some(Self::V6(prefix.try_into().ok()?)),
            _ => None,
        }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4([a, b, c]) => write!(f, "{}/24", Ipv4Addr::new(*a, *b, *c, 0)),
            Self::V6(prefix) => {
                let mut octets = [0; 16];
                octets[..8].copy_from_slice(prefix);
                write!(f, "{}/64", Ipv6Addr::from(octets))
            }
        }
    }
}

/// Which advertised addresses the satellite dials back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Only addresses of the public internet: nobody may point us at our own network.
    Public,
    /// Loopback and private ones as well, since the satellite itself lives there.
    Local,
}

impl Reach {
    /// What a satellite that listens at and is advertised under these addresses may dial.
    pub(crate) fn of_satellite(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let is_local = |ip: IpAddr| !ip.is_unspecified() && is_dialable(ip) && !is_public(ip);
        if addresses.into_iter().any(is_local) {
            Self::Local
        } else {
            Self::Public
        }
    }

    pub(crate) fn allows(self, ip: IpAddr) -> bool {
        match self {
            Self::Public => is_public(ip),
            Self::Local => is_dialable(ip),
        }
    }
}

/// Whether one host can live there at all.
fn is_dialable(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    let is_broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !ip.is_unspecified() && !ip.is_multicast() && !is_broadcast
}

/// Whether an address is of the public internet (the registries of RFC 6890 and its successors).
fn is_public(ip: IpAddr) -> bool {
    if !is_dialable(ip) {
        return false;
    }
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            let is_special = a == 0
                || a >= 240
                || (a == 100 && b & 0xc0 == 64)
                || (a == 192 && b == 0 && c == 0)
                || (a == 192 && b == 88 && c == 99)
                || (a == 198 && b & 0xfe == 18);
            !(is_special
                || ip.is_loopback()
                || ip.is_private()
                || ip.is_link_local()
                || ip.is_documentation())
        }
        // Global unicast is 2000::/3; inside it, documentation, benchmarking, Teredo and 6to4
        // (which could carry a private IPv4 address) are not for nodes.
        IpAddr::V6(ip) => {
            let [a, b, ..] = ip.segments();
            a & 0xe000 == 0x2000
                && !(a == 0x2001 && (b < 0x200 || b == 0xdb8))
                && a != 0x2002
                && !(a == 0x3fff && b < 0x1000)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn domains_are_networks() {
        assert_eq!(Domain::of(ip("127.1.2.1")), Domain::of(ip("127.1.2.200")));
        assert_ne!(Domain::of(ip("127.1.2.1")), Domain::of(ip("127.1.3.1")));
        assert_eq!(
            Domain::of(ip("::ffff:127.1.2.1")),
            Domain::of(ip("127.1.2.1"))
        );
        assert_eq!(
            Domain::of(ip("2a01:4f8:1:2:3::1")),
            Domain::of(ip("2a01:4f8:1:2::9"))
        );
        assert_ne!(
            Domain::of(ip("2a01:4f8:1:2::1")),
            Domain::of(ip("2a01:4f8:1:3::1"))
        );
        assert_eq!(Domain::of(ip("127.1.2.1")).to_string(), "127.1.2.0/24");
        assert_eq!(
            Domain::of(ip("2a01:4f8:1:2::1")).to_string(),
            "2a01:4f8:1:2::/64"
        );
    }

    #[test]
    fn domains_survive_their_bytes() {
        for text in ["127.1.2.1", "2a01:4f8:1:2::1"] {
            let domain = Domain::of(ip(text));
            assert_eq!(Domain::from_bytes(&domain.to_bytes()), Some(domain));
        }
        for bytes in [
            &[][..],
            &[4, 1, 2],
            &[4, 1, 2, 3, 4],
            &[6, 1],
            &[5, 1, 2, 3],
        ] {
            assert_eq!(Domain::from_bytes(bytes), None);
        }
    }

    #[test]
    fn a_public_satellite_dials_no_private_address() {
        let reach = Reach::of_satellite([ip("0.0.0.0"), ip("95.216.1.2")]);
        assert_eq!(reach, Reach::Public);
        for text in [
            "127.0.0.1",
            "10.1.2.3",
            "192.168.1.1",
            "172.16.0.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "::1",
            "fe80::1",
            "fc00::1",
            "::ffff:10.0.0.1",
            "2002:a00:1::1",
            "2001:db8::1",
            "ff02::1",
            "64:ff9b::a00:1",
        ] {
            assert!(!reach.allows(ip(text)), "{text}");
        }
        for text in ["95.216.1.3", "2a01:4f8::1", "8.8.8.8", "2001:200::1"] {
            assert!(reach.allows(ip(text)), "{text}");
        }
    }

    #[test]
    fn a_local_satellite_dials_its_own_network() {
        for own in ["127.0.0.1", "192.168.1.5", "fd00::1"] {
            let reach = Reach::of_satellite([ip(own)]);
            assert_eq!(reach, Reach::Local, "{own}");
            assert!(reach.allows(ip("127.3.4.1")) && reach.allows(ip("192.168.1.9")));
            assert!(!reach.allows(ip("0.0.0.0")) && !reach.allows(ip("224.0.0.1")));
        }
        assert_eq!(Reach::of_satellite([ip("0.0.0.0")]), Reach::Public);
    }
}
