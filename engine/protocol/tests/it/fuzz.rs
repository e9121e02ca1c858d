//! What the fuzz targets do, done here with their seeds and with what is near to them: each byte changed, each length cut.

#[path = "../../../../fuzz/bodies/piece_filter.rs"]
mod piece_filter;

const PIECE_FILTER_SEEDS: [&[u8]; 5] = [
    include_bytes!("../../../../fuzz/seeds/piece_filter/claims_much"),
    include_bytes!("../../../../fuzz/seeds/piece_filter/empty"),
    include_bytes!("../../../../fuzz/seeds/piece_filter/golden"),
    include_bytes!("../../../../fuzz/seeds/piece_filter/ids"),
    include_bytes!("../../../../fuzz/seeds/piece_filter/one_segment"),
];

#[test]
fn piece_filters_near_the_seeds_are_taken_only_if_they_are_canonical() {
    for seed in PIECE_FILTER_SEEDS {
        piece_filter::run(seed);
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
