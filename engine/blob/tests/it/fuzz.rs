//! What the fuzz targets of the store do, done here with their seeds and with what is near to them: bytes changed, lengths cut.

use strand_blob::testing::Random;

#[path = "../../../../fuzz/bodies/store.rs"]
mod store;

const RECORD: &[u8] = include_bytes!("../../../../fuzz/seeds/store_record/piece");
const TOMBSTONE: &[u8] = include_bytes!("../../../../fuzz/seeds/store_record/tombstone");
const FOOTER: &[u8] = include_bytes!("../../../../fuzz/seeds/store_footer/three_records");
const CHECKPOINT: &[u8] = include_bytes!("../../../../fuzz/seeds/store_checkpoint/one_blob");
const SEALED: &[u8] = include_bytes!("../../../../fuzz/seeds/store_blob/sealed");
const GROWING: &[u8] = include_bytes!("../../../../fuzz/seeds/store_blob/growing");
const DIRECTORY: &[u8] = include_bytes!("../../../../fuzz/seeds/store_directory/two_blobs");

/// The seed, every byte of it changed (or as many as `most`), and cut at as many lengths.
fn near(seed: &[u8], most: u64, run: fn(&[u8])) {
    run(seed);
    let len = seed.len() as u64;
    let mut random = Random::new(len);
    for nth in 0..most.min(len) {
        let at = if most >= len { nth } else { random.below(len) };
        let mut changed = seed.to_vec();
        changed[at as usize] ^= [1, 0x80, 0xff][nth as usize % 3];
        run(&changed);
        run(&seed[..at as usize]);
    }
}

#[test]
fn records_and_footers_near_the_seeds_are_taken_only_if_they_are_right() {
    near(RECORD, 2_000, store::record);
    near(TOMBSTONE, 2_000, store::record);
    near(FOOTER, 3_000, store::footer);
}

#[test]
fn blobs_near_the_seeds_open_and_serve_nothing_wrong() {
    near(SEALED, 400, store::blob);
    near(GROWING, 400, store::blob);
    near(DIRECTORY, 300, store::directory);
}

#[test]
fn checkpoints_near_the_seed_prevent_no_opening() {
    near(CHECKPOINT, 400, store::checkpoint);
}
