//! Sizes as people write and read them: `kB` counts in thousands, `KiB` in 1,024s.

/// Suffixes and what they multiply by, in the order in which they are tried.
const UNITS: &[(&str, u64)] = &[
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
    ("", 1),
];

/// Why a size was not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// Neither a number nor a number with a unit this module knows.
    #[error("`{0}` is not a size: write bytes or a number with kB, MB, GB, KiB, MiB or GiB")]
    NotASize(String),
    /// More than 2^64 - 1 bytes.
    #[error("`{0}` does not fit into 64 bits")]
    TooLarge(String),
}

/// Reads `0`, `500kB`, `1.5 GiB`; a fraction is rounded down to whole bytes.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let trimmed = text.trim();
    let digits_end = trimmed
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits_end);
    let factor = UNITS
        .iter()
        .find(|(name, _)| *name == unit.trim())
        .map(|(_, factor)| *factor)
        .ok_or_else(|| SizeError::NotASize(text.to_owned()))?;
    let too_large = || SizeError::TooLarge(text.to_owned());
    if let Some((whole, fraction)) = number.split_once('.') {
        // Nine digits of fraction are nine more than anyone types; the product stays in 128 bits.
        if whole.is_empty() || fraction.is_empty() || fraction.len() > 9 || fraction.contains('.') {
            return Err(SizeError::NotASize(text.to_owned()));
        }
        let whole: u64 = whole.parse().map_err(|_| too_large())?;
        let digits: u64 = fraction
            .parse()
            .map_err(|_| SizeError::NotASize(text.to_owned()))?;
        let scale = 10_u128.pow(fraction.len() as u32);
        let bytes = u128::from(whole) * u128::from(factor)
            + u128::from(digits) * u128::from(factor) / scale;
        return u64::try_from(bytes).map_err(|_| too_large());
    }
    if number.is_empty() {
        return Err(SizeError::NotASize(text.to_owned()));
    }
    let number: u64 = number.parse().map_err(|_| too_large())?;
    number.checked_mul(factor).ok_or_else(too_large)
}

/// `256 MiB` where that is exact, else `17.3 MB`; below 1,000 plain bytes.
pub fn human_bytes(bytes: u64) -> String {
    for (name, factor) in [("GiB", 1_u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes.is_multiple_of(factor) && (1..1_024).contains(&(bytes / factor)) {
            return format!("{} {name}", bytes / factor);
        }
    }
    for (name, factor) in [
        ("TB", 1_000_000_000_000_u64),
        ("GB", 1_000_000_000),
        ("MB", 1_000_000),
        ("kB", 1_000),
    ] {
        if bytes >= factor {
            return format!("{:.1} {name}", bytes as f64 / factor as f64);
        }
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_the_issue_are_read() {
        assert_eq!(parse_size("0"), Ok(0));
        assert_eq!(parse_size("1"), Ok(1));
        assert_eq!(parse_size("500kB"), Ok(500_000));
        assert_eq!(parse_size("1MiB"), Ok(1 << 20));
        assert_eq!(parse_size("5MB"), Ok(5_000_000));
        assert_eq!(parse_size("256MiB"), Ok(256 << 20));
        assert_eq!(parse_size("1.5 GiB"), Ok(3 << 29));
        assert_eq!(parse_size("64 B"), Ok(64));
    }

    #[test]
    fn what_is_not_a_size_is_refused() {
        for bad in ["", "MiB", "-1", "1 mib", "1.MB", ".5MB", "1.2.3MB", "0x10"] {
            assert_eq!(
                parse_size(bad),
                Err(SizeError::NotASize(bad.into())),
                "{bad}"
            );
        }
        for large in ["18446744073709551616", "16777216TiB", "99999999.5TB"] {
            assert_eq!(
                parse_size(large),
                Err(SizeError::TooLarge(large.into())),
                "{large}"
            );
        }
    }

    #[test]
    fn exact_binary_sizes_keep_their_unit() {
        assert_eq!(human_bytes(0), "0 B");
        assert_eq!(human_bytes(999), "999 B");
        assert_eq!(human_bytes(1_024), "1 KiB");
        assert_eq!(human_bytes(500_000), "500.0 kB");
        assert_eq!(human_bytes(256 << 20), "256 MiB");
        assert_eq!(human_bytes((64 << 20) + 1), "67.1 MB");
        assert_eq!(human_bytes(36_324 << 10), "37.2 MB");
    }
}
