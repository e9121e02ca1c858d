//! The level of a process, asked of real processes.

use std::process::Command;

use strand_codec::{CodeError, Encoder, LEVEL_VARIABLE, Level, RowPlan};

const EXPECTED: &str = "STRAND_TEST_EXPECTED_LEVEL";

/// Starts itself once for each value of the variable; such a child finds the level that its
/// parent expects, or the error's text, in its environment.
#[test]
fn a_process_works_at_the_level_of_its_environment() {
    #[expect(clippy::disallowed_methods, reason = "the test's own environment")]
    let expected = std::env::var(EXPECTED);
    if let Ok(expected) = expected {
        let plan = RowPlan::new(2, 4, &[1, 3], &[0]);
        let level = Level::of_process();
        let refusal = level.map_err(CodeError::Level);
        assert_eq!(plan.map(|plan| plan.level()), refusal);
        assert_eq!(Encoder::new(2, 4).map(|encoder| encoder.level()), refusal);
        let found = level.map_or_else(|error| error.to_string(), |level| level.to_string());
        assert_eq!(found, expected);
        return;
    }
    check_child(None, Level::best().name());
    for level in Level::available() {
        check_child(Some(level.name()), level.name());
    }
    for name in ["avx512-gfni", "AVX2", ""] {
        if let Err(error) = name.parse::<Level>() {
            check_child(Some(name), &error.to_string());
        }
    }
}

fn check_child(variable: Option<&str>, expected: &str) {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .args([
            "--exact",
            "level::a_process_works_at_the_level_of_its_environment",
        ])
        .env_remove(LEVEL_VARIABLE)
        .env(EXPECTED, expected);
    if let Some(name) = variable {
        child.env(LEVEL_VARIABLE, name);
    }
    let output = child.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{variable:?}: {text}");
    assert!(text.contains("1 passed"), "{variable:?}: {text}");
}
