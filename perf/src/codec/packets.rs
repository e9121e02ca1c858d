//! Packets of QUIC, sealed and opened in place, against `aws-lc-rs` called without anything of ours.
//!
//! A level that does not run our kernel protects packets by aws-lc, and so does this row there.

use anyhow::{Context, Result, anyhow, ensure};
use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use strand_codec::Level;

use super::row::Contest;
use super::shares::Shares;

/// What a datagram of 1,452 bytes holds beside header and tag.
const PACKET_BYTES: usize = 1_420;
const TAG_BYTES: usize = 16;

/// Packets of a repetition: they stay in a core's own cache.
const PACKET_COUNT: usize = 45;

const KEY: [u8; 16] = [11; 16];
const HEADER: [u8; 13] = [0x41; 13];

/// Packets to sealed packets and back.
pub(super) fn packets(level: Level) -> Result<Box<dyn Contest>> {
    let plain = || Shares::random(21, PACKET_COUNT, PACKET_BYTES + TAG_BYTES);
    Ok(Box::new(Packets {
        packets: [plain(), plain()],
        own: own(level)?,
        key: library_key()?,
    }))
}

struct Packets {
    /// Ours and the peer's, each with room for its tag: in the clear where the last repetition ended, with the tags that it made.
    packets: [Shares; 2],
    own: Key,
    key: LessSafeKey,
}

/// What protects packets at a level.
enum Key {
    #[cfg(target_arch = "x86_64")]
    Own(strand_codec::PacketKey),
    Library(LessSafeKey),
}

#[cfg(target_arch = "x86_64")]
fn own(level: Level) -> Result<Key> {
    let Some(vaes) = strand_codec::Vaes::at(level) else {
        return Ok(Key::Library(library_key()?));
    };
    let key = strand_codec::PacketKey::new(vaes, &KEY);
    Ok(Key::Own(key.context("no key of 16 bytes")?))
}

#[cfg(not(target_arch = "x86_64"))]
fn own(_level: Level) -> Result<Key> {
    Ok(Key::Library(library_key()?))
}

fn library_key() -> Result<LessSafeKey> {
    let key = UnboundKey::new(&AES_128_GCM, &KEY);
    let key = key.map_err(|_| anyhow!("aws-lc-rs did not take a key"))?;
    Ok(LessSafeKey::new(key))
}

impl Contest for Packets {
    fn user_bytes(&self) -> usize {
        PACKET_COUNT * PACKET_BYTES
    }

    fn ours(&mut self, repeats: u32) -> Result<()> {
        let [packets, _] = &mut self.packets;
        for _ in 0..repeats {
            for (number, packet) in (0..).zip(packets.slices_mut()) {
                match &self.own {
                    #[cfg(target_arch = "x86_64")]
                    Key::Own(key) => {
                        let (payload, tag) = packet.split_at_mut(PACKET_BYTES);
                        tag.copy_from_slice(&key.seal(&nonce(number), &HEADER, payload));
                        ensure!(key.open(&nonce(number), &HEADER, packet).is_some());
                    }
                    Key::Library(key) => by_library(key, number, packet)?,
                }
            }
        }
        Ok(())
    }

    fn peer(&mut self, repeats: u32) -> Result<()> {
        let [_, packets] = &mut self.packets;
        for _ in 0..repeats {
            for (number, packet) in (0..).zip(packets.slices_mut()) {
                by_library(&self.key, number, packet)?;
            }
        }
        Ok(())
    }

    fn outputs(&self) -> [blake3::Hash; 2] {
        self.packets.each_ref().map(Shares::hash)
    }
}

fn by_library(key: &LessSafeKey, number: u64, packet: &mut [u8]) -> Result<()> {
    let nonce = || Nonce::assume_unique_for_key(nonce(number));
    let (payload, tag) = packet.split_at_mut(PACKET_BYTES);
    let made = key.seal_in_place_separate_tag(nonce(), Aad::from(HEADER), payload);
    let made = made.map_err(|_| anyhow!("aws-lc-rs did not seal a packet"))?;
    tag.copy_from_slice(made.as_ref());
    key.open_in_place(nonce(), Aad::from(HEADER), packet)
        .map_err(|_| anyhow!("aws-lc-rs did not open its own packet"))?;
    Ok(())
}

fn nonce(number: u64) -> [u8; 12] {
    let mut bytes = [5; 12];
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    bytes
}
