//! The house rules that a compiler does not check: arrows between crates, fences around packages, and what no crate may enable.
//!
//! Each test reads the tree itself, so a rule broken by any crate fails here with the file and line.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Who may import whom among our own crates. A new arrow is its own commit, with a line in ARCHITECTURE.md.
const ARROWS: &[(&str, &[&str])] = &[
    ("strand-codec", &[]),
    ("strand-blob", &[]),
    ("strand-protocol", &[]),
    ("strand-transport", &["strand-codec", "strand-protocol"]),
    (
        "piecestore",
        &[
            "strand-codec",
            "strand-blob",
            "strand-protocol",
            "strand-transport",
        ],
    ),
    (
        "satellite",
        &["strand-codec", "strand-protocol", "strand-transport"],
    ),
    (
        "uplink",
        &["strand-codec", "strand-protocol", "strand-transport"],
    ),
    ("strand-benches", &["strand-codec"]),
    (
        "strand-perf",
        &[
            "strand-codec",
            "strand-blob",
            "strand-protocol",
            "strand-transport",
            "piecestore",
            "satellite",
            "uplink",
            "strand-torture",
        ],
    ),
    (
        "strand-torture",
        &[
            "strand-codec",
            "strand-blob",
            "strand-protocol",
            "strand-transport",
            "piecestore",
        ],
    ),
];

/// A package that one module only may name: everything else sees our traits.
const FENCES: &[(&str, &str)] = &[
    ("glommio", "piecestore/src/core/glommio.rs"),
    ("io_uring", "piecestore/src/ring/"),
    ("redb", "satellite/src/store/redb"),
    ("fuser", "perf/src/torture/fused"),
];

/// Crates without I/O, clock or global randomness. Each bans them in a `clippy.toml` of its own.
const PURE: &[&str] = &["engine/codec", "engine/blob", "engine/protocol"];

/// A source file longer than this wants its second noun found.
const FILE_LINES_MAX: usize = 800;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("perf/ lies in the workspace")
        .to_path_buf()
}

fn metadata() -> serde_json::Value {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ])
        .current_dir(root())
        .output()
        .expect("cargo metadata runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

fn rust_files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = [
        "engine",
        "piecestore",
        "satellite",
        "uplink",
        "benches",
        "perf",
        "fuzz",
    ]
    .iter()
    .map(|folder| root().join(folder))
    .filter(|folder| folder.is_dir())
    .collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a source folder is readable") {
            let path = entry.expect("a folder entry is readable").path();
            if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    assert!(
        found.len() > 50,
        "only {} source files found: is the tree where it should be?",
        found.len()
    );
    found.sort();
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root())
        .expect("below the root")
        .to_string_lossy()
        .into_owned()
}

#[test]
fn arrows_between_crates_are_the_listed_ones() {
    let allowed: BTreeMap<&str, BTreeSet<&str>> = ARROWS
        .iter()
        .map(|(from, to)| (*from, to.iter().copied().collect()))
        .collect();
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("packages");
    let ours: BTreeSet<&str> = packages
        .iter()
        .filter_map(|package| package["name"].as_str())
        .collect();
    assert_eq!(
        ours,
        allowed.keys().copied().collect(),
        "a crate came or went: list it in ARROWS"
    );
    for package in packages {
        let name = package["name"].as_str().expect("name");
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let to = dependency["name"].as_str().expect("name");
            // A crate's own tests may reach for its testing feature or for a sibling as a peer.
            let is_normal = dependency["kind"].is_null();
            if is_normal && ours.contains(to) {
                assert!(
                    allowed[name].contains(to),
                    "{name} -> {to} is not an allowed arrow"
                );
            }
        }
    }
}

#[test]
fn no_crate_enables_planted_bugs() {
    let metadata = metadata();
    for package in metadata["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("name");
        let features = package["features"].as_object().expect("features");
        for (feature, enables) in features {
            if feature == "planted-bugs" {
                continue;
            }
            let enables = enables.to_string();
            assert!(
                !enables.contains("planted-bugs"),
                "{name}: feature {feature} enables planted bugs"
            );
        }
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let features = dependency["features"].to_string();
            assert!(
                !features.contains("planted-bugs"),
                "{name} enables planted bugs in {}",
                dependency["name"]
            );
        }
    }
}

#[test]
fn fenced_packages_are_named_in_one_module_each() {
    for path in rust_files() {
        let name = relative(&path);
        // The peers' crate is there to name what Strand does not: it is no part of it.
        let is_outside = name.contains("/tests/") || name.starts_with("perf/peers/");
        let text = std::fs::read_to_string(&path).expect("source is UTF-8");
        for (package, fence) in FENCES {
            if is_outside || name.starts_with(fence) {
                continue;
            }
            for (number, line) in text.lines().enumerate() {
                let code = line.split("//").next().unwrap_or_default();
                let names_it = code.contains(&format!("{package}::"))
                    || code.contains(&format!("use {package}"));
                // `core::glommio::` or `super::redb::` is our own module of that name.
                let is_own = ["core::", "store::", "super::", "self::", "crate::"]
                    .iter()
                    .any(|prefix| code.contains(&format!("{prefix}{package}")));
                assert!(
                    !names_it || is_own,
                    "{name}:{}: {package} belongs in {fence}",
                    number + 1
                );
            }
        }
    }
}

#[test]
fn pure_crates_ban_clocks_and_files() {
    for folder in PURE {
        let path = root().join(folder).join("clippy.toml");
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|_| panic!("{folder}/clippy.toml is missing"));
        for banned in [
            "std::time::Instant::now",
            "std::time::SystemTime::now",
            "std::fs::",
        ] {
            assert!(
                text.contains(banned),
                "{folder}/clippy.toml does not ban {banned}"
            );
        }
    }
}

#[test]
fn every_unsafe_block_says_why_it_is_sound() {
    for path in rust_files() {
        let text = std::fs::read_to_string(&path).expect("source is UTF-8");
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let opens =
                code.contains(concat!("unsafe", " {")) || code.contains(concat!("unsafe", " impl"));
            if opens {
                let above = &lines[number.saturating_sub(6)..=number];
                assert!(
                    above.iter().any(|line| line.contains("SAFETY")),
                    "{}:{}: unsafe without a SAFETY line",
                    relative(&path),
                    number + 1
                );
            }
        }
    }
}

#[test]
fn no_source_file_outgrows_its_noun() {
    for path in rust_files() {
        let lines = std::fs::read_to_string(&path)
            .expect("source is UTF-8")
            .lines()
            .count();
        assert!(
            lines <= FILE_LINES_MAX,
            "{} has {lines} lines: look for the second noun",
            relative(&path)
        );
    }
}

#[test]
fn every_crate_takes_the_workspace_lints_and_says_what_it_is() {
    let metadata = metadata();
    for package in metadata["packages"].as_array().expect("packages") {
        let manifest = package["manifest_path"].as_str().expect("manifest path");
        let text = std::fs::read_to_string(manifest).expect("manifest is readable");
        assert!(
            text.contains("[lints]\nworkspace = true"),
            "{manifest}: workspace lints are off"
        );
        let description = package["description"].as_str().unwrap_or_default();
        assert!(description.len() > 20, "{manifest}: no description");
    }
}
