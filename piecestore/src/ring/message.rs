//! Socket addresses and control messages as the kernel lays them out, in safe code.
//!
//! Layouts are Linux's on 64-bit machines: a control message is `len: u64, level: i32,
//! type: i32, data`, padded to 8 bytes; a multishot receive puts `namelen, controllen,
//! payloadlen, flags` (u32 each), the address, the control messages and the payload into its
//! buffer, each but the last at a fixed place.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Room for an address in a receive buffer: `sockaddr_in6` has 28 bytes; 32 keeps what follows aligned.
pub(super) const NAME_BYTES: usize = 32;
/// Room for control messages in a receive buffer: TOS or class, packet info, GRO size.
pub(super) const CONTROL_BYTES: usize = 128;
/// What precedes the payload in a receive buffer.
pub(super) const RECEIVE_HEADER_BYTES: usize = HEAD_BYTES + NAME_BYTES + CONTROL_BYTES;
/// Room for control messages of a send: class (24), segment size (24), IPv6 packet info (40).
pub(super) const SEND_CONTROL_BYTES: usize = 24 + 24 + 40;

const HEAD_BYTES: usize = 16;
const CONTROL_HEAD_BYTES: usize = 16;

/// What a receive buffer says about its train.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReceivedHead {
    pub(super) remote: SocketAddr,
    pub(super) local_ip: Option<IpAddr>,
    /// The two ECN bits.
    pub(super) ecn: u8,
    /// Length of every datagram of the train but the last; `None` for a single one.
    pub(super) segment_bytes: Option<usize>,
    pub(super) payload_bytes: usize,
    pub(super) is_truncated: bool,
}

/// Reads the fixed part of a receive buffer. `None` if the bytes make no sense.
pub(super) fn parse_received(buffer: &[u8]) -> Option<ReceivedHead> {
    let name_bytes = read_u32(buffer, 0)? as usize;
    let control_bytes = read_u32(buffer, 4)? as usize;
    let payload_bytes = read_u32(buffer, 8)? as usize;
    let flags = read_u32(buffer, 12)?;
    let name = buffer.get(HEAD_BYTES..HEAD_BYTES + name_bytes.min(NAME_BYTES))?;
    let control_start = HEAD_BYTES + NAME_BYTES;
    let control = buffer.get(control_start..control_start + control_bytes.min(CONTROL_BYTES))?;
    let mut head = ReceivedHead {
        remote: parse_address(name)?,
        local_ip: None,
        ecn: 0,
        segment_bytes: None,
        payload_bytes,
        is_truncated: flags & (libc::MSG_TRUNC as u32) != 0
            || buffer.len() < RECEIVE_HEADER_BYTES + payload_bytes,
    };
    for (level, kind, data) in ControlMessages(control) {
        match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_TOS) => head.ecn = data.first()? & 3,
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => head.ecn = data.first()? & 3,
            (libc::SOL_UDP, libc::UDP_GRO) => {
                head.segment_bytes = Some(read_u32(data, 0)? as usize).filter(|&bytes| bytes > 0);
            }
            // struct in_pktinfo: interface, local address (what to answer from), destination.
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let address: [u8; 4] = data.get(8..12)?.try_into().ok()?;
                head.local_ip = Some(IpAddr::V4(Ipv4Addr::from(address)));
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let address: [u8; 16] = data.get(..16)?.try_into().ok()?;
                head.local_ip = Some(IpAddr::V6(Ipv6Addr::from(address)));
            }
            _ => {}
        }
    }
    Some(head)
}

/// An address as `sockaddr_in` or `sockaddr_in6`; gives the bytes used.
pub(super) fn write_address(address: SocketAddr, target: &mut [u8; NAME_BYTES]) -> usize {
    target.fill(0);
    match address {
        SocketAddr::V4(address) => {
            target[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            target[2..4].copy_from_slice(&address.port().to_be_bytes());
            target[4..8].copy_from_slice(&address.ip().octets());
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(address) => {
            target[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
            target[2..4].copy_from_slice(&address.port().to_be_bytes());
            target[4..8].copy_from_slice(&address.flowinfo().to_ne_bytes());
            target[8..24].copy_from_slice(&address.ip().octets());
            target[24..28].copy_from_slice(&address.scope_id().to_ne_bytes());
            size_of::<libc::sockaddr_in6>()
        }
    }
}

/// The inverse of [`write_address`].
pub(super) fn parse_address(name: &[u8]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes(name.get(..2)?.try_into().ok()?));
    let port = u16::from_be_bytes(name.get(2..4)?.try_into().ok()?);
    match family {
        libc::AF_INET => {
            let ip: [u8; 4] = name.get(4..8)?.try_into().ok()?;
            Some(SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::from(ip), port)))
        }
        libc::AF_INET6 => {
            let flow = read_u32(name, 4)?;
            let ip: [u8; 16] = name.get(8..24)?.try_into().ok()?;
            let scope = read_u32(name, 24)?;
            Some(SocketAddr::V6(SocketAddrV6::new(
                Ipv6Addr::from(ip),
                port,
                flow,
                scope,
            )))
        }
        _ => None,
    }
}

/// The control messages of a send; gives the bytes used.
pub(super) fn write_send_control(
    destination: SocketAddr,
    source_ip: Option<IpAddr>,
    ecn: u8,
    segment_bytes: Option<u16>,
    target: &mut [u8; SEND_CONTROL_BYTES],
) -> usize {
    let mut writer = ControlWriter { target, used: 0 };
    let is_ipv4 = match destination {
        SocketAddr::V4(_) => true,
        SocketAddr::V6(address) => address.ip().to_ipv4_mapped().is_some(),
    };
    if ecn != 0 {
        let class = i32::from(ecn).to_ne_bytes();
        if is_ipv4 {
            writer.push(libc::IPPROTO_IP, libc::IP_TOS, &class);
        } else {
            writer.push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &class);
        }
    }
    if let Some(segment_bytes) = segment_bytes {
        writer.push(
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            &segment_bytes.to_ne_bytes(),
        );
    }
    match source_ip {
        Some(IpAddr::V4(ip)) => {
            let mut info = [0; 12];
            info[4..8].copy_from_slice(&ip.octets());
            writer.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
        }
        Some(IpAddr::V6(ip)) => {
            let mut info = [0; 20];
            info[..16].copy_from_slice(&ip.octets());
            writer.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
        }
        None => {}
    }
    writer.used
}

struct ControlWriter<'a> {
    target: &'a mut [u8; SEND_CONTROL_BYTES],
    used: usize,
}

impl ControlWriter<'_> {
    fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        let len = CONTROL_HEAD_BYTES + data.len();
        let target = &mut self.target[self.used..self.used + len.next_multiple_of(8)];
        target.fill(0);
        target[..8].copy_from_slice(&len.to_ne_bytes());
        target[8..12].copy_from_slice(&level.to_ne_bytes());
        target[12..16].copy_from_slice(&kind.to_ne_bytes());
        target[16..len].copy_from_slice(data);
        self.used += target.len();
    }
}

/// Walks control messages; stops at the first that does not fit.
struct ControlMessages<'a>(&'a [u8]);

impl<'a> Iterator for ControlMessages<'a> {
    type Item = (i32, i32, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let len = usize::from_ne_bytes(self.0.get(..8)?.try_into().ok()?);
        let level = read_u32(self.0, 8)? as i32;
        let kind = read_u32(self.0, 12)? as i32;
        let data = self.0.get(CONTROL_HEAD_BYTES..len)?;
        self.0 = self
            .0
            .get(len.checked_next_multiple_of(8)?..)
            .unwrap_or_default();
        Some((level, kind, data))
    }
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_round_trip() {
        for text in [
            "127.3.2.1:443",
            "[2001:db8::7]:65535",
            "[::ffff:10.0.0.1]:1",
            "0.0.0.0:0",
        ] {
            let address: SocketAddr = text.parse().unwrap();
            let mut bytes = [0xff; NAME_BYTES];
            let len = write_address(address, &mut bytes);
            assert_eq!(parse_address(&bytes[..len]), Some(address));
            assert_eq!(parse_address(&bytes[..7]), None);
        }
    }

    /// A receive buffer as the kernel would fill it.
    fn received(control: &[u8], payload: &[u8], flags: i32) -> Vec<u8> {
        let mut name = [0; NAME_BYTES];
        let name_len = write_address("10.1.2.3:99".parse().unwrap(), &mut name);
        let mut buffer = Vec::new();
        for word in [name_len, control.len(), payload.len(), flags as usize] {
            buffer.extend_from_slice(&(word as u32).to_ne_bytes());
        }
        buffer.extend_from_slice(&name);
        buffer.extend_from_slice(control);
        buffer.resize(RECEIVE_HEADER_BYTES, 0);
        buffer.extend_from_slice(payload);
        buffer
    }

    fn control(messages: &[(i32, i32, &[u8])]) -> Vec<u8> {
        let mut bytes = [0; SEND_CONTROL_BYTES];
        let mut writer = ControlWriter {
            target: &mut bytes,
            used: 0,
        };
        for (level, kind, data) in messages {
            writer.push(*level, *kind, data);
        }
        let used = writer.used;
        bytes[..used].to_vec()
    }

    #[test]
    fn a_received_train_gives_address_segment_and_class() {
        let mut info = [0; 12];
        info[8..].copy_from_slice(&[127, 9, 8, 7]);
        let control = control(&[
            (libc::SOL_UDP, libc::UDP_GRO, &1452i32.to_ne_bytes()),
            (libc::IPPROTO_IP, libc::IP_TOS, &[0b1010_1110]),
            (libc::IPPROTO_IP, libc::IP_PKTINFO, &info),
        ]);
        let head = parse_received(&received(&control, &[1; 3000], 0)).unwrap();
        assert_eq!(
            head,
            ReceivedHead {
                remote: "10.1.2.3:99".parse().unwrap(),
                local_ip: Some("127.9.8.7".parse().unwrap()),
                ecn: 2,
                segment_bytes: Some(1452),
                payload_bytes: 3000,
                is_truncated: false,
            }
        );
    }

    #[test]
    fn truncation_shows_by_flag_or_by_length() {
        assert!(
            parse_received(&received(&[], &[1; 9], libc::MSG_TRUNC))
                .unwrap()
                .is_truncated
        );
        let mut short = received(&[], &[1; 9], 0);
        short.pop();
        assert!(parse_received(&short).unwrap().is_truncated);
        assert_eq!(parse_received(&short[..20]), None);
    }

    #[test]
    fn control_messages_with_odd_lengths_end_the_walk() {
        for len in [0usize, 15, 16, 17, 64, usize::MAX] {
            let mut bytes = control(&[(libc::SOL_UDP, libc::UDP_GRO, &7i32.to_ne_bytes())]);
            bytes[..8].copy_from_slice(&len.to_ne_bytes());
            assert!(ControlMessages(&bytes).count() <= 1, "{len}");
        }
    }

    #[test]
    fn a_send_carries_class_segment_and_source_as_the_destination_demands() {
        let mut bytes = [0; SEND_CONTROL_BYTES];
        let check = |bytes: &[u8], level, kind| {
            ControlMessages(bytes).any(|(at, what, _)| (at, what) == (level, kind))
        };
        let v4 = "10.0.0.1:5".parse().unwrap();
        let used = write_send_control(v4, Some([1, 2, 3, 4].into()), 2, Some(1452), &mut bytes);
        assert!(check(&bytes[..used], libc::IPPROTO_IP, libc::IP_TOS));
        assert!(check(&bytes[..used], libc::SOL_UDP, libc::UDP_SEGMENT));
        assert!(check(&bytes[..used], libc::IPPROTO_IP, libc::IP_PKTINFO));
        let v6 = "[2001:db8::1]:5".parse().unwrap();
        let source = "2001:db8::2".parse().unwrap();
        let used = write_send_control(v6, Some(source), 1, Some(1200), &mut bytes);
        assert_eq!(used, SEND_CONTROL_BYTES);
        assert!(check(&bytes[..used], libc::IPPROTO_IPV6, libc::IPV6_TCLASS));
        assert_eq!(write_send_control(v4, None, 0, None, &mut bytes), 0);
    }
}
