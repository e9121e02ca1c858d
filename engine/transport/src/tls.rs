//! TLS 1.3 with raw Ed25519 public keys (RFC 7250) in both directions.
//!
//! No certificate, name or clock is involved: a peer proves that it holds a key, and the key's
//! hash is its [`NodeId`]. A client refuses any server but the one it asked for; a server refuses
//! a client that shows no key. Sessions are neither resumed nor ticketed and 0-RTT is off, so
//! every connection proves its keys anew. The results serve quinn and quinn-proto alike: quinn
//! re-exports quinn-proto's types. What is offered is listed in docs/wire.md, section 1.

use std::any::Any;
use std::sync::{Arc, OnceLock};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, PeerIncompatible, SignatureScheme,
};
use strand_protocol::NodeId;

use crate::identity::Identity;
use crate::packets::PacketProtection;

/// The protocol spoken to a storage node.
pub const NODE_ALPN: &[u8] = b"strand-node/1";
/// The protocol spoken to a satellite.
pub const SATELLITE_ALPN: &[u8] = b"strand-satellite/1";

/// DER before the 32 key bytes of an Ed25519 SubjectPublicKeyInfo (RFC 8410, section 4).
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// A TLS configuration that could not be made: a fault in this program or its libraries.
#[derive(Debug, thiserror::Error)]
#[error("TLS setup failed: {0}")]
pub struct TlsError(String);

/// What a client presents and checks when it dials the node `expected` for the protocol `alpn`.
///
/// # Errors
///
/// Only if the crypto library lacks what we ask of it.
pub fn client_crypto(
    identity: &Identity,
    alpn: &[u8],
    expected: NodeId,
) -> Result<Arc<dyn quinn::crypto::ClientConfig>, TlsError> {
    client_crypto_witnessed(identity, alpn, expected, Arc::default())
}

/// As [`client_crypto`]; `seen` is filled with the node id of a server that showed another key.
pub(crate) fn client_crypto_witnessed(
    identity: &Identity,
    alpn: &[u8],
    expected: NodeId,
    seen: Arc<OnceLock<NodeId>>,
) -> Result<Arc<dyn quinn::crypto::ClientConfig>, TlsError> {
    let resolver = AlwaysResolvesClientRawPublicKeys::new(identity.certified());
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| TlsError(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ExpectServer { expected, seen }))
        .with_client_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    let config = QuicClientConfig::try_from(config).map_err(|error| TlsError(error.to_string()))?;
    Ok(Arc::new(config))
}

/// What a server presents and demands for the protocol `alpn`: any Ed25519 key will do.
///
/// # Errors
///
/// Only if the crypto library lacks what we ask of it.
pub fn server_crypto(
    identity: &Identity,
    alpn: &[u8],
) -> Result<Arc<dyn quinn::crypto::ServerConfig>, TlsError> {
    server_crypto_by(provider(), identity, alpn)
}

/// As [`server_crypto`], with packets protected by aws-lc whoever is faster: what a measurement compares with.
///
/// # Errors
///
/// As [`server_crypto`].
pub fn server_crypto_by_aws_lc(
    identity: &Identity,
    alpn: &[u8],
) -> Result<Arc<dyn quinn::crypto::ServerConfig>, TlsError> {
    server_crypto_by(provider_with(PacketProtection::AwsLc), identity, alpn)
}

fn server_crypto_by(
    provider: Arc<CryptoProvider>,
    identity: &Identity,
    alpn: &[u8],
) -> Result<Arc<dyn quinn::crypto::ServerConfig>, TlsError> {
    let resolver = AlwaysResolvesServerRawPublicKeys::new(identity.certified());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| TlsError(error.to_string()))?
        .with_client_cert_verifier(Arc::new(AnyKey))
        .with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![alpn.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    let config = QuicServerConfig::try_from(config).map_err(|error| TlsError(error.to_string()))?;
    Ok(Arc::new(config))
}

/// The peer's node id, from `peer_identity()` of a quinn connection or a quinn-proto session.
///
/// `None` before the handshake has shown the peer's key.
pub fn peer_node_id(identity: Option<Box<dyn Any>>) -> Option<NodeId> {
    let keys = identity?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    let [spki] = keys.as_slice() else { return None };
    node_id_of_spki(spki)
}

/// The whole SubjectPublicKeyInfo of an Ed25519 key.
pub(crate) fn spki_of_public_key(public_key: &[u8; 32]) -> [u8; 44] {
    let mut spki = [0; 44];
    let (prefix, key) = spki.split_at_mut(SPKI_PREFIX.len());
    prefix.copy_from_slice(&SPKI_PREFIX);
    key.copy_from_slice(public_key);
    spki
}

/// `None` unless `spki` is exactly the one encoding of an Ed25519 key.
fn node_id_of_spki(spki: &[u8]) -> Option<NodeId> {
    let public_key = spki.strip_prefix(&SPKI_PREFIX)?;
    Some(NodeId::of_public_key(public_key.try_into().ok()?))
}

/// Our suites and key exchanges, in order of preference, on aws-lc-rs; packets are protected by whoever does it faster.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    let make = || provider_with(PacketProtection::fastest());
    PROVIDER.get_or_init(make).clone()
}

fn provider_with(protection: PacketProtection) -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: protection.suites(),
        kx_groups: vec![
            aws_lc_rs::kx_group::X25519MLKEM768,
            aws_lc_rs::kx_group::X25519,
        ],
        ..aws_lc_rs::default_provider()
    })
}

/// The one check of a peer's key: raw, Ed25519, alone.
fn check_key(
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> Result<NodeId, rustls::Error> {
    match node_id_of_spki(end_entity) {
        Some(node_id) if intermediates.is_empty() => Ok(node_id),
        _ => Err(rustls::Error::InvalidCertificate(
            CertificateError::BadEncoding,
        )),
    }
}

fn check_signature(
    message: &[u8],
    key: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    if signature.scheme != SignatureScheme::ED25519 {
        return Err(rustls::Error::InvalidCertificate(
            CertificateError::BadSignature,
        ));
    }
    verify_tls13_signature_with_raw_key(
        message,
        &SubjectPublicKeyInfoDer::from(key.as_ref()),
        signature,
        &provider().signature_verification_algorithms,
    )
}

/// A client's view of the server: the key of one node, or nothing.
#[derive(Debug)]
struct ExpectServer {
    expected: NodeId,
    seen: Arc<OnceLock<NodeId>>,
}

impl ServerCertVerifier for ExpectServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found = check_key(end_entity, intermediates)?;
        if found != self.expected {
            let _ = self.seen.set(found);
            return Err(rustls::Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            ));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _key: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        check_signature(message, key, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// A server's view of a client: some Ed25519 key, which names it.
#[derive(Debug)]
struct AnyKey;

impl ClientCertVerifier for AnyKey {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        check_key(end_entity, intermediates)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _key: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        check_signature(message, key, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// Speaks of raw keys and then shows none.
#[cfg(test)]
#[derive(Debug)]
struct NoKey;

#[cfg(test)]
impl rustls::client::ResolvesClientCert for NoKey {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn only_raw_public_keys(&self) -> bool {
        true
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// For tests of what a server does with a client that shows no key.
#[cfg(test)]
pub(crate) fn keyless_client_crypto(
    alpn: &[u8],
    expected: NodeId,
) -> Arc<dyn quinn::crypto::ClientConfig> {
    let verifier = ExpectServer {
        expected,
        seen: Arc::default(),
    };
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(NoKey));
    config.alpn_protocols = vec![alpn.to_vec()];
    Arc::new(QuicClientConfig::try_from(config).unwrap())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_encoding_of_an_ed25519_key_has_a_node_id() {
        let spki = spki_of_public_key(&[9; 32]);
        assert_eq!(
            node_id_of_spki(&spki),
            Some(NodeId::of_public_key(&[9; 32]))
        );
        assert_eq!(node_id_of_spki(&spki[..43]), None);
        assert_eq!(node_id_of_spki(&[&spki[..], &[0]].concat()), None);
        // X25519 (1.3.101.110) in place of Ed25519 (1.3.101.112).
        let mut other = spki;
        other[8] = 0x6e;
        assert_eq!(node_id_of_spki(&other), None);
    }

    #[test]
    fn suites_and_key_exchanges_are_offered_in_the_documented_order() {
        let provider = provider();
        let suites: Vec<_> = provider
            .cipher_suites
            .iter()
            .map(|suite| suite.suite())
            .collect();
        assert_eq!(
            suites,
            [
                rustls::CipherSuite::TLS13_AES_128_GCM_SHA256,
                rustls::CipherSuite::TLS13_AES_256_GCM_SHA384,
                rustls::CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
            ]
        );
        let groups: Vec<_> = provider
            .kx_groups
            .iter()
            .map(|group| group.name())
            .collect();
        assert_eq!(
            groups,
            [
                rustls::NamedGroup::X25519MLKEM768,
                rustls::NamedGroup::X25519
            ]
        );
    }
}
