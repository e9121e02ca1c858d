//! What this CPU can run: the one choice that kernels depend on, and never their bytes.
//!
//! A [`Level`] is made only here, after asking the CPU, so *holding one is the safety argument*
//! of every dispatch in `kernels`. Every level gives the same bytes; only the speed differs.
//!
//! Tests and benchmarks pass a level; everything else uses that of the process,
//! [`Level::of_process`]: the best one, or the one named by `STRAND_LEVEL`. A name that is
//! unknown or not supported is an error and never a silent fallback: every program asks once at
//! its start, shows the error and ends; one that did not would get the same error from the first
//! encoder or plan that it makes.
//!
//! `Encoder` and `RowPlan` obey it. At `scalar` an encoder is the stock crate's: its portable
//! engine on x86-64, elsewhere the one that it chooses (NEON). The stock crates below sealing and
//! hashing make their own choice.

use std::ffi::OsStr;
use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

/// The environment variable that names the level of a process.
pub const LEVEL_VARIABLE: &str = "STRAND_LEVEL";

/// Proof that this CPU runs a tier of kernels.
///
/// Its name, as in `STRAND_LEVEL` and on command lines, is one of `scalar`, `ssse3`, `avx2`,
/// `avx512`, `avx2-gfni` and `avx512-gfni`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(Tier);

/// The tiers, slowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tier {
    /// Portable code; what the compiler makes of it.
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Ssse3,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// The foundation and its byte instructions (F and BW).
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2Gfni,
    #[cfg(target_arch = "x86_64")]
    Avx512Gfni,
}

/// Why there is no level of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LevelError {
    /// No level has that name, on any CPU.
    #[error(
        "no level has that name; there are scalar, ssse3, avx2, avx512, avx2-gfni, avx512-gfni"
    )]
    Unknown,
    /// This CPU (or this build's architecture) lacks the instructions.
    #[error("this CPU does not run the level {wanted}; the best that it runs is {best}")]
    Unsupported {
        /// The name asked for.
        wanted: &'static str,
        /// The level that would be chosen without asking.
        best: Level,
    },
}

/// Every name, whether this architecture has the level or not.
const NAMES: [&str; 6] = [
    "scalar",
    "ssse3",
    "avx2",
    "avx512",
    "avx2-gfni",
    "avx512-gfni",
];

impl Level {
    /// Levels this CPU runs, slowest first; the first is always `scalar`.
    pub fn available() -> Vec<Self> {
        #[cfg(target_arch = "x86_64")]
        let (ssse3, avx2, avx512, gfni) = (
            is_x86_feature_detected!("ssse3"),
            is_x86_feature_detected!("avx2"),
            is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw"),
            is_x86_feature_detected!("gfni"),
        );
        let tiers = [
            (true, Tier::Scalar),
            #[cfg(target_arch = "x86_64")]
            (ssse3, Tier::Ssse3),
            #[cfg(target_arch = "x86_64")]
            (avx2, Tier::Avx2),
            #[cfg(target_arch = "x86_64")]
            (avx2 && avx512, Tier::Avx512),
            #[cfg(target_arch = "x86_64")]
            (avx2 && gfni, Tier::Avx2Gfni),
            #[cfg(target_arch = "x86_64")]
            (avx2 && avx512 && gfni, Tier::Avx512Gfni),
        ];
        let runs = tiers.into_iter().filter(|(runs, _)| *runs);
        runs.map(|(_, tier)| Self(tier)).collect()
    }

    /// The fastest level this CPU runs.
    pub fn best() -> Self {
        Self::available().pop().unwrap_or(Self(Tier::Scalar))
    }

    /// The level of this process: what `STRAND_LEVEL` names, or else the best. Asked once.
    ///
    /// # Errors
    ///
    /// [`LevelError`] if the variable is set and names no level that this CPU runs. The answer
    /// stays the same for the life of the process.
    pub fn of_process() -> Result<Self, LevelError> {
        static LEVEL: OnceLock<Result<Level, LevelError>> = OnceLock::new();
        #[expect(
            clippy::disallowed_methods,
            reason = "no output depends on this one setting"
        )]
        let ask = || named(std::env::var_os(LEVEL_VARIABLE).as_deref());
        *LEVEL.get_or_init(ask)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self.0 {
            Tier::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Tier::Ssse3 => "ssse3",
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2Gfni => "avx2-gfni",
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512Gfni => "avx512-gfni",
        }
    }

    pub(crate) fn tier(self) -> Tier {
        self.0
    }
}

fn named(name: Option<&OsStr>) -> Result<Level, LevelError> {
    match name {
        None => Ok(Level::best()),
        Some(name) => name.to_str().ok_or(LevelError::Unknown)?.parse(),
    }
}

impl FromStr for Level {
    type Err = LevelError;

    fn from_str(name: &str) -> Result<Self, LevelError> {
        let wanted = NAMES
            .into_iter()
            .find(|known| *known == name)
            .ok_or(LevelError::Unknown)?;
        let best = Self::best();
        Self::available()
            .into_iter()
            .find(|level| level.name() == wanted)
            .ok_or(LevelError::Unsupported { wanted, best })
    }
}

impl fmt::Display for Level {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel says of the CPU, not what the standard library does: a level skipped by
    /// mistake is a failure, not a pass.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    #[test]
    fn every_level_of_this_cpu_is_available() {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let line = cpuinfo.lines().find(|line| line.starts_with("flags"));
        let flags: Vec<&str> = line.unwrap().split_whitespace().collect();
        let has = |needed: &[&str]| needed.iter().all(|flag| flags.contains(flag));
        let expected = NAMES.into_iter().filter(|name| match *name {
            "scalar" => true,
            "ssse3" => has(&["ssse3"]),
            "avx2" => has(&["avx2"]),
            "avx512" => has(&["avx2", "avx512f", "avx512bw"]),
            "avx2-gfni" => has(&["avx2", "gfni"]),
            "avx512-gfni" => has(&["avx2", "avx512f", "avx512bw", "gfni"]),
            _ => unreachable!("all names are above"),
        });
        let available: Vec<&str> = Level::available().into_iter().map(Level::name).collect();
        assert_eq!(available, expected.collect::<Vec<&str>>());
    }

    #[test]
    fn a_level_is_found_by_its_name() {
        for level in Level::available() {
            assert_eq!(level.to_string().parse(), Ok(level));
            assert_eq!(named(Some(OsStr::new(level.name()))), Ok(level));
        }
        assert_eq!(named(None), Ok(Level::best()));
    }

    #[test]
    fn a_name_without_a_level_is_refused() {
        for name in ["", "AVX2", "avx2 ", "neon", "best"] {
            assert_eq!(named(Some(OsStr::new(name))), Err(LevelError::Unknown));
        }
        for wanted in NAMES {
            let runs = Level::available()
                .iter()
                .any(|level| level.name() == wanted);
            let best = Level::best();
            let refused = Err(LevelError::Unsupported { wanted, best });
            assert_eq!(wanted.parse::<Level>().is_ok(), runs);
            assert!(runs || wanted.parse::<Level>() == refused);
        }
    }
}
