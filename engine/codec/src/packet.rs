//! The protection of QUIC's packets, where our kernel for AES-GCM does it in less time than a library's: payloads and headers.
//!
//! A packet is fourteen hundred bytes, so what a call costs before its first byte counts as much as the bytes. Keys are those of the
//! TLS suites AES_128_GCM and AES_256_GCM; what the nonce is, when keys change and how many packets one may protect are QUIC's to know.
//!
//! **Source:** RFC 9001, sections 5.3 (payload) and 5.4.3 (header).

use subtle::ConstantTimeEq;

use crate::kernels::vaes::{Key, ROUND_KEYS_128, ROUND_KEYS_256, Rounds};
use crate::seal::Vaes;

/// Bytes of the tag at the end of a packet.
pub const PACKET_TAG_BYTES: usize = 16;

/// Protects payloads in one direction. The key is wiped when it is dropped.
pub struct PacketKey(BySize<Key<ROUND_KEYS_128>, Key<ROUND_KEYS_256>>);

/// Protects headers in one direction. The key is wiped when it is dropped.
pub struct HeaderKey(BySize<Rounds<ROUND_KEYS_128>, Rounds<ROUND_KEYS_256>>);

/// A key of 128 bits or of 256.
enum BySize<Short, Long> {
    Short(Box<Short>),
    Long(Box<Long>),
}

impl PacketKey {
    /// The key of these bytes; `None` unless there are 16 or 32 of them.
    pub fn new(vaes: Vaes, key: &[u8]) -> Option<Self> {
        Some(Self(match BySize::expand(vaes, key)? {
            BySize::Short(rounds) => BySize::Short(Box::new(Key::new(*rounds))),
            BySize::Long(rounds) => BySize::Long(Box::new(Key::new(*rounds))),
        }))
    }

    /// Enciphers a payload in place and returns the tag of header and payload.
    pub fn seal(
        &self,
        nonce: &[u8; 12],
        header: &[u8],
        payload: &mut [u8],
    ) -> [u8; PACKET_TAG_BYTES] {
        match &self.0 {
            BySize::Short(key) => key.seal_in_place(nonce, header, payload),
            BySize::Long(key) => key.seal_in_place(nonce, header, payload),
        }
    }

    /// Checks the tag at the end of `packet` and deciphers what is before it in place; `None`, and nothing of use in `packet`, if it does not fit.
    pub fn open<'a>(
        &self,
        nonce: &[u8; 12],
        header: &[u8],
        packet: &'a mut [u8],
    ) -> Option<&'a mut [u8]> {
        let payload_len = packet.len().checked_sub(PACKET_TAG_BYTES)?;
        let (payload, tag) = packet.split_at_mut(payload_len);
        let wanted = match &self.0 {
            BySize::Short(key) => key.open_in_place(nonce, header, payload),
            BySize::Long(key) => key.open_in_place(nonce, header, payload),
        };
        if bool::from(wanted[..].ct_eq(tag)) {
            return Some(payload);
        }
        payload.fill(0);
        None
    }
}

impl HeaderKey {
    /// The key of these bytes; `None` unless there are 16 or 32 of them.
    pub fn new(vaes: Vaes, key: &[u8]) -> Option<Self> {
        BySize::expand(vaes, key).map(Self)
    }

    /// What is added to a header, for a sample of the payload: the first byte is for the header's first, the others are for the packet's number.
    pub fn mask(&self, sample: &[u8; 16]) -> [u8; 5] {
        let [a, b, c, d, e, ..] = match &self.0 {
            BySize::Short(rounds) => rounds.encipher(sample),
            BySize::Long(rounds) => rounds.encipher(sample),
        };
        [a, b, c, d, e]
    }
}

impl BySize<Rounds<ROUND_KEYS_128>, Rounds<ROUND_KEYS_256>> {
    fn expand(vaes: Vaes, key: &[u8]) -> Option<Self> {
        if let Ok(key) = key.try_into() {
            return Some(Self::Short(Box::new(Rounds::of_128(vaes, key))));
        }
        let key = key.try_into().ok()?;
        Some(Self::Long(Box::new(Rounds::of_256(vaes, key))))
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::aead::quic;
    use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

    use super::*;
    use crate::level::Level;

    /// This CPU may have none.
    fn vaes() -> Option<Vaes> {
        Level::available().into_iter().rev().find_map(Vaes::at)
    }

    fn bytes(len: usize, seed: usize) -> Vec<u8> {
        (0..len)
            .map(|at| (at * 37 + seed * 101 + at / 256) as u8)
            .collect()
    }

    #[test]
    fn packets_are_as_a_library_makes_them() {
        let Some(vaes) = vaes() else { return };
        for (algorithm, key) in [(&AES_128_GCM, bytes(16, 1)), (&AES_256_GCM, bytes(32, 2))] {
            let ours = PacketKey::new(vaes, &key).unwrap();
            let theirs = LessSafeKey::new(UnboundKey::new(algorithm, &key).unwrap());
            // Every length of a last batch behind none, one and some whole ones, and headers of every length.
            for len in (0..=800).chain(1_180..1_480) {
                let nonce: [u8; 12] = bytes(12, len).try_into().unwrap();
                let header = bytes(len % 40, 3);
                let payload = bytes(len, 4);
                let mut sealed = payload.clone();
                let tag = ours.seal(&nonce, &header, &mut sealed);
                sealed.extend_from_slice(&tag);

                let mut expected = payload.clone();
                let nonce_of_theirs = Nonce::assume_unique_for_key(nonce);
                theirs
                    .seal_in_place_append_tag(nonce_of_theirs, Aad::from(&header), &mut expected)
                    .unwrap();
                assert!(sealed == expected, "{len} bytes");
                assert_eq!(ours.open(&nonce, &header, &mut sealed).unwrap(), payload);
            }
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_is_noticed_and_leaves_nothing() {
        let Some(vaes) = vaes() else { return };
        let key = PacketKey::new(vaes, &bytes(16, 5)).unwrap();
        let (nonce, header) = ([7; 12], bytes(11, 6));
        let mut sealed = bytes(300, 7);
        let tag = key.seal(&nonce, &header, &mut sealed);
        sealed.extend_from_slice(&tag);
        for bit in 0..sealed.len() * 8 {
            let mut packet = sealed.clone();
            packet[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.open(&nonce, &header, &mut packet), None);
            assert_eq!(packet[..300], [0; 300]);
        }
        for bit in 0..header.len() * 8 {
            let mut header = header.clone();
            header[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.open(&nonce, &header, &mut sealed.clone()), None);
        }
        assert_eq!(key.open(&nonce, &header, &mut [0; 15]), None);
    }

    #[test]
    fn header_masks_are_as_a_library_makes_them() {
        let Some(vaes) = vaes() else { return };
        for (algorithm, key) in [
            (&quic::AES_128, bytes(16, 8)),
            (&quic::AES_256, bytes(32, 9)),
        ] {
            let ours = HeaderKey::new(vaes, &key).unwrap();
            let theirs = quic::HeaderProtectionKey::new(algorithm, &key).unwrap();
            for seed in 0..64 {
                let sample: [u8; 16] = bytes(16, seed).try_into().unwrap();
                assert_eq!(ours.mask(&sample), theirs.new_mask(&sample).unwrap());
            }
        }
    }

    #[test]
    fn a_key_of_another_length_is_none() {
        let Some(vaes) = vaes() else { return };
        for len in [0, 15, 17, 24, 31, 33] {
            assert!(PacketKey::new(vaes, &bytes(len, 1)).is_none());
            assert!(HeaderKey::new(vaes, &bytes(len, 1)).is_none());
        }
    }
}
