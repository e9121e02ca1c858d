//! What the fuzz targets of the codec do, done here with their seeds and with what is near to them: bytes changed, lengths cut.

use std::path::Path;

#[path = "../../../../fuzz/bodies/codec.rs"]
mod codec;

/// Runs all seeds of a target, and of each some that differ in a byte or in length; so many of both kinds at most.
#[expect(
    clippy::disallowed_methods,
    reason = "seeds are files, and as many as there are"
)]
fn near_the_seeds(target: &str, most: usize, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds");
    let mut seed_count = 0;
    for entry in folder.join(target).read_dir().unwrap() {
        let seed = std::fs::read(entry.unwrap().path()).unwrap();
        seed_count += 1;
        run(&seed);
        // What the first bytes say changes most.
        let step = seed.len().div_ceil(most).max(1);
        for at in (0..seed.len().min(most / 2)).chain((0..seed.len()).step_by(2 * step)) {
            let mut changed = seed.clone();
            changed[at] ^= [1, 0x80, 0xff][at % 3];
            run(&changed);
            run(&seed[..at]);
        }
    }
    assert!(seed_count >= 5, "{target}: only {seed_count} seeds");
}

#[test]
fn shapes_near_the_seeds_add_up() {
    near_the_seeds("codec_shape", 100, codec::shape);
}

#[test]
fn sealed_messages_near_the_seeds_open_only_if_they_are_honest() {
    near_the_seeds("codec_sealed", 40, codec::sealed);
}

#[test]
fn sealed_parts_near_the_seeds_open_as_the_whole_does() {
    near_the_seeds("codec_parts", 60, codec::parts);
}

#[test]
fn proofs_near_the_seeds_prove_nothing_else() {
    near_the_seeds("codec_proofs", 100, codec::proofs);
}

#[test]
fn codes_near_the_seeds_are_the_stock_crates_at_every_level() {
    near_the_seeds("codec_code", 60, codec::code);
}

#[test]
fn segments_near_the_seeds_go_there_and_back_at_every_level() {
    near_the_seeds("codec_segment", 16, codec::segment);
}
