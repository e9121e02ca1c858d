//! Files of every interesting size go through real processes and come back.

use crate::support::{BUCKET, TestNetwork};

/// Around every boundary of format.md section 3 that a small scheme can show quickly: inline, first piece, one share,
/// segment (16 MiB for k = 4).
const SIZES: &[u64] = &[
    0,
    1,
    16_384,
    16_385,
    100_000,
    (4 * 16_384) - 64,
    3_000_001,
    16 << 20,
    (16 << 20) + 1,
    (40 << 20) + 12_345,
];

#[test]
fn every_size_comes_back_byte_for_byte() {
    let test = TestNetwork::start(10);
    for (seed, &len) in SIZES.iter().enumerate() {
        let file = test.file(&format!("file-{len}"), seed as u64, len);
        let place = test.upload(&file);
        test.download_equals(&place, &file);
        std::fs::remove_file(file).unwrap();
    }
}

#[test]
fn pipes_and_ranges_carry_the_same_bytes() {
    let test = TestNetwork::start(5);
    let file = test.file("piped", 3, 9_000_001);
    let bytes = std::fs::read(&file).unwrap();

    let mut upload = test.client(&["cp", "-", &format!("st://{BUCKET}/piped")]);
    upload.stdin(std::fs::File::open(&file).unwrap());
    let uploaded = strand_perf::part::Running::start("uplink cp", upload)
        .unwrap()
        .finish()
        .unwrap();
    assert!(uploaded.is_success(), "{}", uploaded.stderr);

    let downloaded = test.client_ok(&["cp", &format!("st://{BUCKET}/piped"), "-"]);
    assert!(
        downloaded == bytes,
        "{} bytes came back, not the {} that went",
        downloaded.len(),
        bytes.len()
    );

    for (first, last) in [
        (0_usize, 0_usize),
        (16_383, 16_384),
        (5_000_000, 5_000_999),
        (8_999_000, 9_000_000),
    ] {
        let range = format!("{first}-{last}");
        let part = test.client_ok(&[
            "cp",
            "--range",
            &range,
            &format!("st://{BUCKET}/piped"),
            "-",
        ]);
        assert!(
            part == bytes[first..=last],
            "range {range} has {} bytes",
            part.len()
        );
    }
}
