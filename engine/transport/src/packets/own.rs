//! Keys of our own kernel for QUIC's packets, as rustls wants them (RFC 9001, sections 5.3 and 5.4).

use std::time::{Duration, Instant};

use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384;
use rustls::crypto::cipher::{AeadKey, Iv, Nonce};
use rustls::quic::{Algorithm, HeaderProtectionKey, PacketKey, Tag};
use rustls::{CipherSuiteCommon, Error, SupportedCipherSuite, Tls13CipherSuite};
use strand_codec::{HeaderKey, PACKET_TAG_BYTES, PacketKey as Key, Vaes};

/// Packets of one turn of the race, and turns of each side.
const RACE_PACKETS: u64 = 64;
const RACE_TURNS: usize = 5;

/// Bytes of a packet of the race: what a datagram of 1,452 holds beside its header.
const RACE_BYTES: usize = 1_420;

/// After so many packets a key is to be replaced, and after so many forged ones the connection given up (RFC 9001, section 6.6).
const CONFIDENTIALITY_LIMIT: u64 = 1 << 23;
const INTEGRITY_LIMIT: u64 = 1 << 52;

/// A suite with packets of our own. It stays for good: one for each suite and process.
pub(super) fn suite(vaes: Vaes, theirs: SupportedCipherSuite) -> SupportedCipherSuite {
    let Some(suite) = theirs.tls13() else {
        return theirs;
    };
    let Some(quic) = suite.quic else {
        return theirs;
    };
    let own = Own {
        vaes,
        key_len: quic.aead_key_len(),
    };
    let common = CipherSuiteCommon {
        suite: suite.common.suite,
        hash_provider: suite.common.hash_provider,
        confidentiality_limit: suite.common.confidentiality_limit,
    };
    SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite {
        common,
        hkdf_provider: suite.hkdf_provider,
        aead_alg: suite.aead_alg,
        quic: Some(Box::leak(Box::new(own))),
    })))
}

/// Whether our kernel protects packets in less time than aws-lc.
pub(super) fn wins(vaes: Vaes) -> bool {
    let suite = TLS13_AES_256_GCM_SHA384.tls13();
    let Some(theirs) = suite.and_then(|suite| suite.quic) else {
        return false;
    };
    let key = || (AeadKey::from([7; 32]), Iv::from([9; 12]));
    let of = |algorithm: &dyn Algorithm| {
        let (key, iv) = key();
        algorithm.packet_key(key, iv)
    };
    let ours = of(&Own { vaes, key_len: 32 });
    let theirs = of(theirs);
    let mut best = [Duration::MAX; 2];
    for _ in 0..RACE_TURNS {
        for (best, key) in best.iter_mut().zip([&ours, &theirs]) {
            *best = turn(key.as_ref()).min(*best);
        }
    }
    best[0] < best[1]
}

/// The time in which a key seals and opens the packets of a turn.
fn turn(key: &dyn PacketKey) -> Duration {
    let mut packet = [0; RACE_BYTES + PACKET_TAG_BYTES];
    let header = [0x40; 13];
    let started = Instant::now();
    for number in 0..RACE_PACKETS {
        let (payload, tag) = packet.split_at_mut(RACE_BYTES);
        if let Ok(made) = key.encrypt_in_place(number, &header, payload) {
            tag.copy_from_slice(made.as_ref());
        }
        let opened = key.decrypt_in_place(number, &header, &mut packet);
        std::hint::black_box(opened.is_ok());
    }
    started.elapsed()
}

/// Makes keys of ours for a suite with keys of so many bytes.
struct Own {
    vaes: Vaes,
    key_len: usize,
}

struct OwnPacketKey {
    key: Key,
    iv: Iv,
}

struct OwnHeaderKey(HeaderKey);

impl Algorithm for Own {
    fn packet_key(&self, key: AeadKey, iv: Iv) -> Box<dyn PacketKey> {
        let key = Key::new(self.vaes, key.as_ref());
        let key = key.expect("a suite's keys have its length");
        Box::new(OwnPacketKey { key, iv })
    }

    fn header_protection_key(&self, key: AeadKey) -> Box<dyn HeaderProtectionKey> {
        let key = HeaderKey::new(self.vaes, key.as_ref());
        Box::new(OwnHeaderKey(key.expect("a suite's keys have its length")))
    }

    fn aead_key_len(&self) -> usize {
        self.key_len
    }
}

impl PacketKey for OwnPacketKey {
    fn encrypt_in_place(
        &self,
        packet_number: u64,
        header: &[u8],
        payload: &mut [u8],
    ) -> Result<Tag, Error> {
        let nonce = Nonce::new(&self.iv, packet_number).0;
        let tag = self.key.seal(&nonce, header, payload);
        Ok(Tag::from(&tag[..]))
    }

    fn decrypt_in_place<'a>(
        &self,
        packet_number: u64,
        header: &[u8],
        payload: &'a mut [u8],
    ) -> Result<&'a [u8], Error> {
        let nonce = Nonce::new(&self.iv, packet_number).0;
        match self.key.open(&nonce, header, payload) {
            Some(opened) => Ok(opened),
            None => Err(Error::DecryptError),
        }
    }

    fn tag_len(&self) -> usize {
        PACKET_TAG_BYTES
    }

    fn confidentiality_limit(&self) -> u64 {
        CONFIDENTIALITY_LIMIT
    }

    fn integrity_limit(&self) -> u64 {
        INTEGRITY_LIMIT
    }
}

impl OwnHeaderKey {
    /// Adds the mask or takes it away, which is the same but for where the length of the packet's number is read: in the clear first byte.
    fn mask(
        &self,
        sample: &[u8],
        first: &mut u8,
        packet_number: &mut [u8],
        is_masked: bool,
    ) -> Result<(), Error> {
        let sample = sample.try_into();
        let sample = sample.map_err(|_| Error::General("a sample of another length".into()))?;
        if packet_number.len() > 4 {
            return Err(Error::General(
                "a packet number of more than 4 bytes".into(),
            ));
        }
        let [first_mask, number_mask @ ..] = self.0.mask(sample);
        // The form of the header is never masked.
        let bits = if *first & 0x80 == 0 { 0x1f } else { 0x0f };
        let masked = *first ^ (first_mask & bits);
        let clear = if is_masked { masked } else { *first };
        *first = masked;
        let number_len = usize::from(clear & 0x03) + 1;
        let number = packet_number.iter_mut().take(number_len);
        for (byte, mask) in number.zip(number_mask) {
            *byte ^= mask;
        }
        Ok(())
    }
}

impl HeaderProtectionKey for OwnHeaderKey {
    fn encrypt_in_place(
        &self,
        sample: &[u8],
        first: &mut u8,
        packet_number: &mut [u8],
    ) -> Result<(), Error> {
        self.mask(sample, first, packet_number, false)
    }

    fn decrypt_in_place(
        &self,
        sample: &[u8],
        first: &mut u8,
        packet_number: &mut [u8],
    ) -> Result<(), Error> {
        self.mask(sample, first, packet_number, true)
    }

    fn sample_len(&self) -> usize {
        16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn theirs() -> &'static dyn Algorithm {
        TLS13_AES_256_GCM_SHA384.tls13().unwrap().quic.unwrap()
    }

    #[test]
    fn our_packets_are_theirs() {
        let Some(vaes) = Vaes::of_process() else {
            return;
        };
        let own = Own {
            vaes,
            key_len: theirs().aead_key_len(),
        };
        let key = |algorithm: &dyn Algorithm| {
            algorithm.packet_key(AeadKey::from([3; 32]), Iv::from([5; 12]))
        };
        let (ours, theirs) = (key(&own), key(theirs()));
        assert_eq!(ours.tag_len(), theirs.tag_len());
        assert_eq!(ours.confidentiality_limit(), theirs.confidentiality_limit());
        assert_eq!(ours.integrity_limit(), theirs.integrity_limit());
        for (number, len) in [(0, 0), (1, 1), (1 << 40, 1_420), (u64::MAX >> 2, 777)] {
            let mut sealed = vec![0x5a; len];
            let tag = ours
                .encrypt_in_place(number, b"header", &mut sealed)
                .unwrap();
            let mut expected = vec![0x5a; len];
            let expected_tag = theirs
                .encrypt_in_place(number, b"header", &mut expected)
                .unwrap();
            assert_eq!(sealed, expected);
            assert_eq!(tag.as_ref(), expected_tag.as_ref());
            sealed.extend_from_slice(tag.as_ref());
            let mut forged = sealed.clone();
            let opened = theirs
                .decrypt_in_place(number, b"header", &mut sealed.clone())
                .map(<[u8]>::to_vec);
            assert_eq!(opened.unwrap(), vec![0x5a; len]);
            assert_eq!(
                ours.decrypt_in_place(number, b"header", &mut sealed)
                    .unwrap(),
                vec![0x5a; len]
            );
            forged[len] ^= 1;
            assert!(
                ours.decrypt_in_place(number, b"header", &mut forged)
                    .is_err()
            );
        }
    }

    #[test]
    fn our_headers_are_theirs() {
        let Some(vaes) = Vaes::of_process() else {
            return;
        };
        let own = Own { vaes, key_len: 32 };
        let ours = own.header_protection_key(AeadKey::from([3; 32]));
        let theirs = theirs().header_protection_key(AeadKey::from([3; 32]));
        assert_eq!(ours.sample_len(), theirs.sample_len());
        for first in 0..=255_u8 {
            let sample = [first; 16];
            let clear = (first, [1, 2, 3, 4]);
            let (mut a, mut b) = (clear, clear);
            ours.encrypt_in_place(&sample, &mut a.0, &mut a.1).unwrap();
            theirs
                .encrypt_in_place(&sample, &mut b.0, &mut b.1)
                .unwrap();
            assert_eq!(a, b);
            ours.decrypt_in_place(&sample, &mut a.0, &mut a.1).unwrap();
            theirs
                .decrypt_in_place(&sample, &mut b.0, &mut b.1)
                .unwrap();
            assert_eq!((a, b), (clear, clear));
        }
        let (mut first, mut number) = (0, [0; 5]);
        assert!(
            ours.encrypt_in_place(&[0; 16], &mut first, &mut number)
                .is_err()
        );
        assert!(
            ours.encrypt_in_place(&[0; 15], &mut first, &mut number[..4])
                .is_err()
        );
    }
}
