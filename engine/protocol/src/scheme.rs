//! The four counts that say how a segment is spread: required, repair, optimal, total.
//!
//! Chosen by the satellite from the number of *failure domains* among its nodes, carried with every
//! segment, never guessed.

use std::fmt;
use std::str::FromStr;

use crate::limits::SCHEME_REQUIRED_MAX;
use crate::pb;

/// How many pieces a segment has, and how many it needs.
///
/// `1 <= required <= repair <= optimal <= total`, `required <= 64`: checked by [`Scheme::new`],
/// which every reader uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scheme {
    /// k: any so many pieces give the segment back.
    pub required: u8,
    /// At so many pieces or fewer a segment is repaired.
    pub repair: u8,
    /// An upload is done with so many.
    pub optimal: u8,
    /// n: an upload starts so many.
    pub total: u8,
}

/// Why four counts are not a scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SchemeError {
    /// The counts do not rise, or one is 0 or over its maximum.
    #[error(
        "scheme {required}/{repair}/{optimal}/{total} breaks \
         1 <= required <= repair <= optimal <= total <= 255 or required <= 64"
    )]
    Order {
        /// k.
        required: u32,
        /// Repair count.
        repair: u32,
        /// Optimal count.
        optimal: u32,
        /// n.
        total: u32,
    },
    /// Not four numbers with slashes between them.
    #[error("a scheme is written required/repair/optimal/total, as 29/52/80/93")]
    Text,
}

/// Least number of failure domains, and the scheme from there on. Descending.
const BY_DOMAINS: [(usize, Scheme); 7] = [
    (93, Scheme::DEFAULT),
    (
        30,
        Scheme {
            required: 16,
            repair: 20,
            optimal: 26,
            total: 30,
        },
    ),
    (
        10,
        Scheme {
            required: 4,
            repair: 6,
            optimal: 8,
            total: 10,
        },
    ),
    (
        5,
        Scheme {
            required: 2,
            repair: 3,
            optimal: 4,
            total: 5,
        },
    ),
    (
        3,
        Scheme {
            required: 1,
            repair: 2,
            optimal: 3,
            total: 3,
        },
    ),
    (
        2,
        Scheme {
            required: 1,
            repair: 1,
            optimal: 2,
            total: 2,
        },
    ),
    (
        1,
        Scheme {
            required: 1,
            repair: 1,
            optimal: 1,
            total: 1,
        },
    ),
];

impl Scheme {
    /// From 93 failure domains on. 64 recovery rows are exactly two 32-wide transforms, and 93 - 80
    /// = 13 spares absorb the slow tail.
    pub const DEFAULT: Self = Self {
        required: 29,
        repair: 52,
        optimal: 80,
        total: 93,
    };

    /// Checks the order of the four counts.
    ///
    /// # Errors
    ///
    /// [`SchemeError::Order`].
    pub fn new(required: u8, repair: u8, optimal: u8, total: u8) -> Result<Self, SchemeError> {
        let rising = 1 <= required && required <= repair && repair <= optimal && optimal <= total;
        if rising && required <= SCHEME_REQUIRED_MAX {
            Ok(Self {
                required,
                repair,
                optimal,
                total,
            })
        } else {
            Err(SchemeError::Order {
                required: required.into(),
                repair: repair.into(),
                optimal: optimal.into(),
                total: total.into(),
            })
        }
    }

    /// The scheme for so many failure domains; `None` for 0.
    pub fn for_domains(domains: usize) -> Option<Self> {
        BY_DOMAINS
            .iter()
            .find(|(least, _)| domains >= *least)
            .map(|(_, scheme)| *scheme)
    }
}

impl Default for Scheme {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{}/{}/{}",
            self.required, self.repair, self.optimal, self.total
        )
    }
}

impl FromStr for Scheme {
    type Err = SchemeError;

    fn from_str(text: &str) -> Result<Self, SchemeError> {
        let mut counts = [0; 4];
        let mut parts = text.split('/');
        for count in &mut counts {
            let part = parts.next().ok_or(SchemeError::Text)?;
            if part.is_empty() || part.len() > 3 || !part.bytes().all(|byte| byte.is_ascii_digit())
            {
                return Err(SchemeError::Text);
            }
            *count = part.parse().map_err(|_| SchemeError::Text)?;
        }
        if parts.next().is_some() {
            return Err(SchemeError::Text);
        }
        Self::of_counts(counts)
    }
}

impl Scheme {
    fn of_counts([required, repair, optimal, total]: [u32; 4]) -> Result<Self, SchemeError> {
        let error = SchemeError::Order {
            required,
            repair,
            optimal,
            total,
        };
        let byte = |count: u32| u8::try_from(count).map_err(|_| error);
        Self::new(byte(required)?, byte(repair)?, byte(optimal)?, byte(total)?)
    }
}

impl From<Scheme> for pb::Scheme {
    fn from(scheme: Scheme) -> Self {
        Self {
            required: scheme.required.into(),
            repair: scheme.repair.into(),
            optimal: scheme.optimal.into(),
            total: scheme.total.into(),
        }
    }
}

impl TryFrom<&pb::Scheme> for Scheme {
    type Error = SchemeError;

    fn try_from(scheme: &pb::Scheme) -> Result<Self, SchemeError> {
        Self::of_counts([scheme.required, scheme.repair, scheme.optimal, scheme.total])
    }
}

impl TryFrom<pb::Scheme> for Scheme {
    type Error = SchemeError;

    fn try_from(scheme: pb::Scheme) -> Result<Self, SchemeError> {
        Self::try_from(&scheme)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_by_domains_are_those_of_the_format() {
        let cases = [
            (1, "1/1/1/1"),
            (2, "1/1/2/2"),
            (3, "1/2/3/3"),
            (4, "1/2/3/3"),
            (5, "2/3/4/5"),
            (9, "2/3/4/5"),
            (10, "4/6/8/10"),
            (29, "4/6/8/10"),
            (30, "16/20/26/30"),
            (92, "16/20/26/30"),
            (93, "29/52/80/93"),
            (100_000, "29/52/80/93"),
        ];
        for (domains, text) in cases {
            let scheme = Scheme::for_domains(domains).unwrap();
            assert_eq!(scheme.to_string(), text, "{domains} domains");
            assert!(usize::from(scheme.total) <= domains);
            let Scheme {
                required,
                repair,
                optimal,
                total,
            } = scheme;
            assert_eq!(Scheme::new(required, repair, optimal, total), Ok(scheme));
            assert_eq!(text.parse(), Ok(scheme));
            assert_eq!(Scheme::try_from(pb::Scheme::from(scheme)), Ok(scheme));
        }
        assert_eq!(Scheme::for_domains(0), None);
    }

    #[test]
    fn counts_out_of_order_are_refused() {
        for text in [
            "0/1/1/1",
            "2/1/2/2",
            "1/2/1/2",
            "1/1/2/1",
            "65/70/80/90",
            "1/1/1/256",
            "29/52/80/999",
        ] {
            assert!(
                matches!(text.parse::<Scheme>(), Err(SchemeError::Order { .. })),
                "{text}"
            );
        }
        for text in [
            "",
            "29",
            "29/52/80",
            "29/52/80/93/",
            "a/b/c/d",
            "+1/1/1/1",
            " 1/1/1/1",
            "1//1/1",
            "1/1/1/0001",
        ] {
            assert_eq!(text.parse::<Scheme>(), Err(SchemeError::Text), "{text}");
        }
    }
}
