//! What `strand-perf node` is asked for.

use std::path::PathBuf;

use super::trial::Size;

/// `strand-perf node`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Measure these rows only, by the beginnings of their names
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub row: Vec<String>,
    /// Turns of each side; figures are of the median one
    #[arg(long, default_value = "7", value_parser = clap::value_parser!(u32).range(1..=99))]
    pub rounds: u32,
    /// Requests of a turn, in place of what each row has for its own: fewer make a run shorter and its figures worse
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub requests: Option<u64>,
    /// Ten thousand idle connections rather than two
    #[arg(long)]
    pub long: bool,
    /// An existing folder on the disk that pieces go to; it is used through a fresh folder in it
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

impl Options {
    /// How large the crowds are: small ones where turns were made short.
    pub(super) fn size(&self) -> Size {
        match (self.requests, self.long) {
            (Some(_), _) => Size::SHORT,
            (None, true) => Size::LONG,
            (None, false) => Size::FULL,
        }
    }

    pub(super) fn has(&self, row: &str) -> bool {
        self.row.is_empty() || self.row.iter().any(|name| row.starts_with(name.as_str()))
    }
}
