//! Handshakes and packet protection in which every byte follows from a seed, for tests.
//!
//! Real TLS draws keys from the operating system, so no two runs of it are the same. Here a handshake carries the two node ids and
//! transport parameters as they are, in as many flights and at the same levels as TLS 1.3 does, and a packet is protected by a keyed
//! checksum: a damaged packet is noticed and dropped, as with the real thing. Nothing is secret and nobody proves anything.
//!
//! ```text
//! client                              server
//! Initial:   Hello (id, alpn, params) ->
//!                                  <- Initial: Hello (nonce)
//!                                  <- Handshake: Finished (id, params)
//! Handshake: Finished                 ->
//! ```

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use quinn_proto::crypto::{
    AeadKey, ClientConfig as ClientCrypto, CryptoError, ExportKeyingMaterialError,
    HandshakeTokenKey, HeaderKey, HmacKey, KeyPair, Keys, PacketKey, ServerConfig as ServerCrypto,
    Session, UnsupportedVersion,
};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{
    ClientConfig, ConnectError, ConnectionId, ConnectionIdGenerator, EndpointConfig, ServerConfig,
    Side, TimeSource, TransportError, TransportErrorCode,
};
use strand_protocol::NodeId;
use strand_transport::TlsError;

use super::security::Security;

/// Bytes of a packet's checksum, as many as AES-GCM's.
const TAG_BYTES: usize = 16;

/// Alerts of TLS, by which a handshake fails.
const DECODE_ERROR: u8 = 50;
const BAD_CERTIFICATE: u8 = 42;
const NO_APPLICATION_PROTOCOL: u8 = 120;

/// Kinds of handshake messages.
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
const SERVER_FINISHED: u8 = 3;
const CLIENT_FINISHED: u8 = 4;

/// Someone who says who they are, and is believed. Clones are the same one.
#[derive(Clone, Debug)]
pub struct SimIdentity {
    node_id: NodeId,
    draws: Arc<Draws>,
    /// The protocol that it serves, whatever the endpoint asks for.
    served: Option<&'static [u8]>,
}

/// Numbers that follow from a seed.
#[derive(Debug)]
struct Draws(AtomicU64);

impl Draws {
    fn next(&self) -> u64 {
        mix(self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed))
    }
}

impl SimIdentity {
    /// An end called `node_id`, whose random choices follow from `seed`.
    #[must_use]
    pub fn new(node_id: NodeId, seed: u64) -> Self {
        Self {
            node_id,
            draws: Arc::new(Draws(AtomicU64::new(seed))),
            served: None,
        }
    }

    /// The same, serving another protocol than a node's: for a satellite.
    #[must_use]
    pub fn serving(self, alpn: &'static [u8]) -> Self {
        Self {
            served: Some(alpn),
            ..self
        }
    }
}

impl Security for SimIdentity {
    fn node_id(&self) -> NodeId {
        self.node_id
    }

    fn endpoint_config(&self) -> EndpointConfig {
        let mut config = EndpointConfig::new(Arc::new(Key(self.draws.next())));
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.draws.next().to_le_bytes());
        let draws = Arc::clone(&self.draws);
        config
            .rng_seed(Some(seed))
            .cid_generator(move || Box::new(Cids(Arc::clone(&draws))));
        config
    }

    fn server_config(&self, alpn: &'static [u8]) -> Result<ServerConfig, TlsError> {
        let token_key = Arc::new(Key(self.draws.next()));
        let mut config = ServerConfig::new(
            Arc::new(self.end(self.served.unwrap_or(alpn), None)),
            token_key,
        );
        config.time_source(Arc::new(StillTime));
        Ok(config)
    }

    fn client_config(
        &self,
        alpn: &'static [u8],
        expected: NodeId,
    ) -> Result<ClientConfig, TlsError> {
        let mut config = ClientConfig::new(Arc::new(self.end(alpn, Some(expected))));
        let draws = Arc::clone(&self.draws);
        config.initial_dst_cid_provider(Arc::new(move || Cids(Arc::clone(&draws)).generate_cid()));
        Ok(config)
    }

    fn peer_node_id(&self, identity: Option<Box<dyn Any>>) -> Option<NodeId> {
        identity?.downcast().ok().map(|id: Box<NodeId>| *id)
    }
}

impl SimIdentity {
    fn end(&self, alpn: &'static [u8], expected: Option<NodeId>) -> End {
        End {
            node_id: self.node_id,
            draws: Arc::clone(&self.draws),
            alpn,
            expected,
        }
    }
}

/// What sessions of one configuration share.
struct End {
    node_id: NodeId,
    draws: Arc<Draws>,
    alpn: &'static [u8],
    /// The server that a client wants.
    expected: Option<NodeId>,
}

impl End {
    fn session(&self, side: Side, params: &TransportParameters) -> Box<Handshake> {
        let mut params_bytes = Vec::new();
        params.write(&mut params_bytes);
        Box::new(Handshake {
            side,
            node_id: self.node_id,
            alpn: self.alpn,
            expected: self.expected,
            params: params_bytes,
            nonce: self.draws.next(),
            incoming: Vec::new(),
            step: Step::Start,
            shared: 0,
            generation: 0,
            peer: None,
            peer_params: None,
        })
    }
}

impl ClientCrypto for End {
    fn start_session(
        self: Arc<Self>,
        _version: u32,
        _server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        Ok(self.session(Side::Client, params))
    }
}

impl ServerCrypto for End {
    fn initial_keys(
        &self,
        _version: u32,
        dst_cid: &ConnectionId,
    ) -> Result<Keys, UnsupportedVersion> {
        Ok(keys(sum(0, dst_cid), Side::Server))
    }

    fn retry_tag(&self, _version: u32, orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        tag(sum(sum(0, orig_dst_cid), packet))
    }

    fn start_session(
        self: Arc<Self>,
        _version: u32,
        params: &TransportParameters,
    ) -> Box<dyn Session> {
        self.session(Side::Server, params)
    }
}

/// How far a handshake is. Each side writes in one step and reads in the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The client has its hello to write, the server to read it.
    Start,
    /// The hello was written or read.
    Hello,
    /// What both need to make keys is known.
    Shared,
    /// The keys of the handshake were handed over.
    Keyed,
    /// The client knows the server's id and has its last message to write.
    Proven,
    /// The server waits for the client's last message.
    Finishing,
    /// Done.
    Done,
}

struct Handshake {
    side: Side,
    node_id: NodeId,
    alpn: &'static [u8],
    expected: Option<NodeId>,
    params: Vec<u8>,
    nonce: u64,
    incoming: Vec<u8>,
    step: Step,
    /// What keys are made from.
    shared: u64,
    /// Keys handed out since the handshake.
    generation: u64,
    peer: Option<NodeId>,
    peer_params: Option<Vec<u8>>,
}

impl Handshake {
    fn handle(&mut self, kind: u8, message: &[u8]) -> Result<(), TransportError> {
        match (self.side, self.step, kind) {
            (Side::Server, Step::Start, CLIENT_HELLO) => {
                self.learn(message)?;
                self.shared ^= self.nonce;
                self.step = Step::Shared;
            }
            (Side::Client, Step::Hello, SERVER_HELLO) => {
                self.shared = self.nonce ^ nonce_of(message)?;
                self.step = Step::Shared;
            }
            (Side::Client, Step::Keyed, SERVER_FINISHED) => {
                self.learn(message)?;
                // Only the hello's nonce is part of the keys.
                self.shared = mix(self.shared);
                if self.peer != self.expected {
                    return Err(alert(BAD_CERTIFICATE, "another node than expected"));
                }
                self.step = Step::Proven;
            }
            (Side::Server, Step::Finishing, CLIENT_FINISHED) => self.step = Step::Done,
            _ => return Err(alert(DECODE_ERROR, "a message out of turn")),
        }
        Ok(())
    }

    /// Takes in nonce, id, protocol and parameters of the other end.
    fn learn(&mut self, message: &[u8]) -> Result<(), TransportError> {
        let nonce = nonce_of(message)?;
        let (Some(id), Some((&alpn_len, rest))) = (
            message
                .get(8..40)
                .and_then(|id| <[u8; 32]>::try_from(id).ok()),
            message.get(40..).and_then(<[u8]>::split_first),
        ) else {
            return Err(alert(DECODE_ERROR, "a short message"));
        };
        let Some((alpn, params)) = rest.split_at_checked(usize::from(alpn_len)) else {
            return Err(alert(DECODE_ERROR, "a short message"));
        };
        if alpn != self.alpn {
            return Err(alert(NO_APPLICATION_PROTOCOL, "another protocol"));
        }
        if self.side == Side::Server {
            self.shared = nonce;
        }
        self.peer = Some(NodeId::from(id));
        self.peer_params = Some(params.to_vec());
        Ok(())
    }

    /// What [`learn`](Self::learn) takes in.
    fn introduction(&self) -> Vec<u8> {
        let mut message = self.nonce.to_le_bytes().to_vec();
        message.extend_from_slice(self.node_id.as_bytes());
        message.push(self.alpn.len() as u8);
        message.extend_from_slice(self.alpn);
        message.extend_from_slice(&self.params);
        message
    }
}

impl Session for Handshake {
    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        keys(sum(0, dst_cid), side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.peer.map(|_| Box::new(()) as Box<dyn Any>)
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.peer.map(|id| Box::new(id) as Box<dyn Any>)
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        None
    }

    fn early_data_accepted(&self) -> Option<bool> {
        None
    }

    fn is_handshaking(&self) -> bool {
        match self.side {
            Side::Client => !matches!(self.step, Step::Proven | Step::Done),
            Side::Server => self.step != Step::Done,
        }
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        let was_known = self.peer.is_some();
        self.incoming.extend_from_slice(buf);
        while let [kind, low, high, rest @ ..] = &self.incoming[..] {
            let len = usize::from(u16::from_le_bytes([*low, *high]));
            let Some(message) = rest.get(..len) else {
                break;
            };
            let (kind, message) = (*kind, message.to_vec());
            self.incoming.drain(..3 + len);
            self.handle(kind, &message)?;
        }
        Ok(!was_known && self.peer.is_some())
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        let Some(params) = &self.peer_params else {
            return Ok(None);
        };
        let params = TransportParameters::read(self.side, &mut &params[..]);
        params.map(Some).map_err(Into::into)
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        match (self.side, self.step) {
            (Side::Client, Step::Start) => {
                say(buf, CLIENT_HELLO, &self.introduction());
                self.step = Step::Hello;
                None
            }
            (Side::Client, Step::Shared) => {
                self.step = Step::Keyed;
                Some(keys(self.shared, self.side))
            }
            (Side::Client, Step::Proven) => {
                say(buf, CLIENT_FINISHED, &[]);
                self.step = Step::Done;
                Some(keys(self.shared, self.side))
            }
            (Side::Server, Step::Shared) => {
                say(buf, SERVER_HELLO, &self.nonce.to_le_bytes());
                self.step = Step::Keyed;
                Some(keys(self.shared, self.side))
            }
            (Side::Server, Step::Keyed) => {
                say(buf, SERVER_FINISHED, &self.introduction());
                self.step = Step::Finishing;
                self.shared = mix(self.shared);
                Some(keys(self.shared, self.side))
            }
            _ => None,
        }
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.generation += 1;
        Some(keys(self.shared ^ mix(self.generation), self.side).packet)
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        let Some((token, found)) = payload.split_last_chunk::<TAG_BYTES>() else {
            return false;
        };
        let packet = [header, token].concat();
        *found == tag(sum(sum(0, orig_dst_cid), &packet))
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        Key(self.shared).fill(&[label, context].concat(), output);
        Ok(())
    }
}

fn say(buf: &mut Vec<u8>, kind: u8, message: &[u8]) {
    let len = u16::try_from(message.len()).unwrap_or(u16::MAX);
    buf.push(kind);
    buf.extend_from_slice(&len.to_le_bytes());
    buf.extend_from_slice(message);
}

fn nonce_of(message: &[u8]) -> Result<u64, TransportError> {
    let nonce = message.first_chunk().copied();
    let nonce = nonce.ok_or_else(|| alert(DECODE_ERROR, "a short message"))?;
    Ok(u64::from_le_bytes(nonce))
}

fn alert(code: u8, reason: &str) -> TransportError {
    TransportError {
        code: TransportErrorCode::crypto(code),
        frame: None,
        reason: reason.to_owned(),
    }
}

/// Checks whatever QUIC protects.
#[derive(Clone, Copy)]
struct Key(u64);

/// Headers stay readable.
struct PlainHeader;

fn keys(secret: u64, side: Side) -> Keys {
    let (client, server) = (Key(mix(secret ^ 1)), Key(mix(secret ^ 2)));
    let (local, remote) = match side {
        Side::Client => (client, server),
        Side::Server => (server, client),
    };
    Keys {
        header: KeyPair {
            local: Box::new(PlainHeader),
            remote: Box::new(PlainHeader),
        },
        packet: KeyPair {
            local: Box::new(local),
            remote: Box::new(remote),
        },
    }
}

impl Key {
    fn tag_of(self, packet: u64, header: &[u8], payload: &[u8]) -> [u8; TAG_BYTES] {
        tag(sum(sum(self.0 ^ mix(packet), header), payload))
    }

    fn fill(self, what: &[u8], output: &mut [u8]) {
        let start = sum(self.0, what);
        for (index, chunk) in output.chunks_mut(8).enumerate() {
            let word = mix(start ^ index as u64).to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

impl HeaderKey for PlainHeader {
    fn decrypt(&self, _pn_offset: usize, _packet: &mut [u8]) {}

    fn encrypt(&self, _pn_offset: usize, _packet: &mut [u8]) {}

    fn sample_size(&self) -> usize {
        16
    }
}

impl PacketKey for Key {
    fn encrypt(&self, packet: u64, buf: &mut [u8], header_len: usize) {
        let (header, payload) = buf.split_at_mut(header_len);
        let Some((payload, end)) = payload.split_last_chunk_mut::<TAG_BYTES>() else {
            return;
        };
        *end = self.tag_of(packet, header, payload);
    }

    fn decrypt(
        &self,
        packet: u64,
        header: &[u8],
        payload: &mut BytesMut,
    ) -> Result<(), CryptoError> {
        let (sealed, found) = payload.split_last_chunk::<TAG_BYTES>().ok_or(CryptoError)?;
        if *found != self.tag_of(packet, header, sealed) {
            return Err(CryptoError);
        }
        payload.truncate(payload.len() - TAG_BYTES);
        Ok(())
    }

    fn tag_len(&self) -> usize {
        TAG_BYTES
    }

    fn confidentiality_limit(&self) -> u64 {
        u64::MAX
    }

    fn integrity_limit(&self) -> u64 {
        u64::MAX
    }
}

impl HmacKey for Key {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        self.fill(data, signature_out);
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let mut right = vec![0; signature.len()];
        self.fill(data, &mut right);
        if right == signature {
            Ok(())
        } else {
            Err(CryptoError)
        }
    }
}

impl HandshakeTokenKey for Key {
    fn aead_from_hkdf(&self, random_bytes: &[u8]) -> Box<dyn AeadKey> {
        Box::new(Self(sum(self.0, random_bytes)))
    }
}

impl AeadKey for Key {
    fn seal(&self, data: &mut Vec<u8>, additional_data: &[u8]) -> Result<(), CryptoError> {
        let end = self.tag_of(0, additional_data, data);
        data.extend_from_slice(&end);
        Ok(())
    }

    fn open<'a>(
        &self,
        data: &'a mut [u8],
        additional_data: &[u8],
    ) -> Result<&'a mut [u8], CryptoError> {
        let (sealed, found) = data
            .split_last_chunk_mut::<TAG_BYTES>()
            .ok_or(CryptoError)?;
        if *found != self.tag_of(0, additional_data, sealed) {
            return Err(CryptoError);
        }
        Ok(sealed)
    }
}

/// Connection ids of 8 bytes.
struct Cids(Arc<Draws>);

impl ConnectionIdGenerator for Cids {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&self.0.next().to_le_bytes())
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}

/// Only the age of retry tokens is asked of it.
struct StillTime;

impl TimeSource for StillTime {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH
    }
}

/// Spreads a word over all bits (SplitMix64's end).
fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A checksum of `bytes` under a key; no two lengths are alike.
fn sum(key: u64, bytes: &[u8]) -> u64 {
    let step = |sum: u64, word: u64| {
        let mixed = (sum ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
        mixed ^ (mixed >> 32)
    };
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let words = words.iter().map(|word| u64::from_le_bytes(*word));
    let end = [u64::from_le_bytes(last), bytes.len() as u64];
    words.chain(end).fold(key, step)
}

fn tag(sum: u64) -> [u8; TAG_BYTES] {
    (u128::from(mix(sum)) << 64 | u128::from(sum)).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_of_a_packet_is_noticed_and_so_is_another_number() {
        let key = Key(7);
        let mut packet = (0..60).collect::<Vec<u8>>();
        packet.resize(60 + TAG_BYTES, 0);
        key.encrypt(3, &mut packet, 20);
        let open = |packet: &[u8], number| {
            let (header, payload) = packet.split_at(20);
            let mut payload = BytesMut::from(payload);
            key.decrypt(number, header, &mut payload).map(|()| payload)
        };
        assert_eq!(open(&packet, 3).unwrap(), &packet[20..60]);
        assert!(open(&packet, 4).is_err());
        for bit in 0..packet.len() * 8 {
            let mut damaged = packet.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&damaged, 3).is_err(), "bit {bit}");
        }
    }
}
