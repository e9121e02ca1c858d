//! How a connection behaves: windows, streams, time-outs, datagram sizes.
//!
//! quinn's defaults let a peer pin 100 MB and more (its connection window is unlimited), so
//! every bound is set here, per role, from `strand_protocol::limits`.

use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::CubicConfig;
use quinn::{AckFrequencyConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use strand_protocol::limits;

/// Which end of which connection a configuration is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A storage node answering clients and satellites: few large bodies.
    NodeServer,
    /// A satellite answering clients and nodes: many small requests.
    SatelliteServer,
    /// Whoever dials.
    Client,
    /// The same in a network that may carry jumbo frames. Where it does not, finding that out costs
    /// some probes.
    JumboClient,
}

/// Has an endpoint of `role` say how long datagrams it takes. Peers probe for no more, so it is the
/// dialler who decides: servers take any.
pub fn announce_datagrams(config: &mut quinn::EndpointConfig, role: Role) {
    config
        .max_udp_payload_size(Bounds::of(role).datagram_bytes_max)
        .expect("longer than QUIC's least");
}

/// The transport parameters of `role`. The type is quinn-proto's, so both drivers take it.
pub fn transport_config(role: Role) -> TransportConfig {
    let bounds = Bounds::of(role);
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(bounds.datagram_bytes_max)
        .black_hole_cooldown(MTU_DISTRUST);
    let idle = IdleTimeout::try_from(limits::IDLE_TIMEOUT).expect("30 s fit a VarInt");
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(ACK_AFTER_DATAGRAMS))
        .max_ack_delay(Some(MAX_ACK_DELAY));
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(bounds.stream_count))
        .max_concurrent_uni_streams(VarInt::from_u32(limits::UNI_STREAMS_MAX))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(window(bounds.stream_window_bytes))
        .receive_window(window(bounds.connection_window_bytes))
        .send_window(bounds.send_window_bytes as u64)
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(bounds.keeps_alive.then_some(limits::KEEP_ALIVE))
        .initial_rtt(INITIAL_RTT)
        .initial_mtu(limits::DATAGRAM_BYTES_INITIAL)
        .mtu_discovery_config(Some(mtu))
        .ack_frequency_config(Some(acks))
        .congestion_controller_factory(Arc::new(CubicConfig::default()));
    config
}

fn window(bytes: usize) -> VarInt {
    VarInt::try_from(bytes as u64).expect("windows are megabytes")
}

/// Assumed before the first measurement: the handshake's first retransmission comes after three
/// of these. RFC 9002's 333 ms would cost a lossy path a second; much less would send a second
/// copy to peers that are merely busy with a hundred handshakes.
const INITIAL_RTT: Duration = Duration::from_millis(100);

/// How long datagrams stay at their least after several bursts of losses, which may have been a path
/// that swallows the longer ones. A full queue looks the same; and where it was the path, probes
/// find what it carries now. quinn's minute would cost a busy connection a fifth of its datagrams.
const MTU_DISTRUST: Duration = Duration::from_secs(1);

/// Datagrams that a peer may take in without acknowledging them (draft-ietf-quic-ack-frequency).
/// Every other one, as RFC 9000 has it, costs both ends a datagram each time. Fewer than the first
/// congestion window holds, so that a new connection does not begin with [`MAX_ACK_DELAY`].
const ACK_AFTER_DATAGRAMS: u32 = 10;

/// How long a peer may keep an acknowledgement back that is due for fewer datagrams.
const MAX_ACK_DELAY: Duration = Duration::from_millis(10);

struct Bounds {
    /// Requests the peer may have open at once.
    stream_count: u32,
    /// Bytes the peer may send on a stream, and on the connection, before we have read them.
    stream_window_bytes: usize,
    connection_window_bytes: usize,
    /// Bytes of ours that may wait for the peer's acknowledgement.
    send_window_bytes: usize,
    keeps_alive: bool,
    /// Datagrams to send at most, and to take.
    datagram_bytes_max: u16,
}

impl Bounds {
    fn of(role: Role) -> Self {
        match role {
            Role::NodeServer => Self {
                stream_count: limits::NODE_STREAMS_MAX,
                stream_window_bytes: limits::NODE_STREAM_WINDOW_BYTES,
                connection_window_bytes: limits::NODE_CONNECTION_WINDOW_BYTES,
                send_window_bytes: limits::NODE_SEND_WINDOW_BYTES,
                keeps_alive: false,
                datagram_bytes_max: limits::DATAGRAM_BYTES_JUMBO,
            },
            Role::SatelliteServer => Self {
                stream_count: limits::SATELLITE_STREAMS_MAX,
                stream_window_bytes: limits::SATELLITE_STREAM_WINDOW_BYTES,
                connection_window_bytes: limits::SATELLITE_CONNECTION_WINDOW_BYTES,
                send_window_bytes: limits::SATELLITE_SEND_WINDOW_BYTES,
                keeps_alive: false,
                datagram_bytes_max: limits::DATAGRAM_BYTES_MAX,
            },
            Role::Client | Role::JumboClient => Self {
                // Nobody opens streams towards a dialler.
                stream_count: 0,
                stream_window_bytes: limits::CLIENT_STREAM_WINDOW_BYTES,
                connection_window_bytes: limits::CLIENT_CONNECTION_WINDOW_BYTES,
                send_window_bytes: limits::CLIENT_SEND_WINDOW_BYTES,
                keeps_alive: true,
                datagram_bytes_max: match role {
                    Role::JumboClient => limits::DATAGRAM_BYTES_JUMBO,
                    _ => limits::DATAGRAM_BYTES_MAX,
                },
            },
        }
    }
}
