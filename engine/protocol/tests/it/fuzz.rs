//! What the fuzz targets do, done here with their seeds and with what is near to them: each byte changed, each length cut.

use std::path::Path;

#[path = "../../../../fuzz/bodies/piece_filter.rs"]
mod piece_filter;

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds");
    let entries = std::fs::read_dir(folder.join(target)).unwrap();
    entries
        .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
        .collect()
}

#[test]
fn piece_filters_near_the_seeds_are_taken_only_if_they_are_canonical() {
    let seeds = seeds("piece_filter");
    assert!(seeds.len() >= 4, "{}", seeds.len());
    for seed in seeds {
        piece_filter::run(&seed);
        // Without the check, which the body makes anew.
        let fields = &seed[..seed.len().saturating_sub(16)];
        for len in 0..=fields.len() {
            piece_filter::run(&fields[..len]);
        }
        for at in 0..fields.len() {
            for change in [1, 0x80, 0xff] {
                let mut changed = fields.to_vec();
                changed[at] ^= change;
                piece_filter::run(&changed);
            }
        }
    }
}
