//! What `strand-perf codec` is asked for.

use strand_codec::Level;

/// `strand-perf codec`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Work as on a CPU of this level: scalar, ssse3, avx2, avx512, avx2-gfni or avx512-gfni; without this the level
    /// of the process
    #[arg(long)]
    pub level: Option<Level>,
    /// Measure these rows only, by the beginnings of their names
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<String>,
    /// Seconds for each row; 300 in all at most
    #[arg(long, default_value = "6", value_parser = parse_seconds)]
    pub seconds: f64,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

impl Options {
    pub(super) fn has(&self, row: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| row.starts_with(name.as_str()))
    }
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok();
    let allowed = |seconds: &f64| (0.0..=60.0).contains(seconds);
    seconds
        .filter(allowed)
        .ok_or_else(|| format!("`{text}` is not a number of seconds from 0 to 60"))
}
