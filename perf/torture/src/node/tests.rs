use super::*;

/// Short enough for a debug build, long enough for some ends of the process.
fn short() -> NodeOptions {
    NodeOptions {
        safety: Duration::from_secs(60),
        life: Duration::from_secs(15),
        ..NodeOptions::default()
    }
}

#[test]
fn twenty_seeds_lose_nothing_and_heal() {
    let mut all = Tally::default();
    for seed in 0..20 {
        let (tally, _) = run(seed, &short());
        all.merge(tally);
    }
    println!("{:?}", all.counts);
    assert!(all.violations.is_empty(), "{:#?}", all.violations);
    assert!(all.counts["verbs"] >= 10 * 60 * 20 / 2, "{:?}", all.counts);
    assert!(all.counts["crashes"] >= 20, "{:?}", all.counts);
    assert!(
        all.counts["acked_pieces_checked"] >= 5_000,
        "{:?}",
        all.counts
    );
}
