//! A node's settings: the file `node.toml` of its directory (docs/format.md section 6).
//!
//! The file is a flat list of `key = value`, a subset of TOML that this module reads and writes itself: text in double
//! quotes, whole numbers, comments after `#`. Unknown keys are refused, because a misspelt one would otherwise be
//! silently ignored; so is a newer version.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use strand_protocol::NodeId;

/// The version of directory that this program writes and reads.
pub const VERSION: u64 = 1;

/// The file's name in a node's directory.
pub const FILE_NAME: &str = "node.toml";

/// The least capacity a node may offer: two of the default blobs.
const CAPACITY_BYTES_MIN: u64 = 64 << 20;

/// Everything `node.toml` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Whose directory it is.
    pub node_id: NodeId,
    /// Whom the node works for.
    pub satellite: SatelliteAddress,
    /// Disk space the node may use, everything counted.
    pub capacity: Capacity,
    /// Where the node's UDP socket is bound.
    pub listen: SocketAddr,
    /// `host:port` under which others reach it; none: as the satellite sees it.
    pub advertise: Option<HostPort>,
    /// Whether its disk spins; none: as the kernel says.
    pub spinning: Option<bool>,
}

/// `NODEID@HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SatelliteAddress {
    /// Who answers there.
    pub id: NodeId,
    /// Where.
    pub address: HostPort,
}

/// `host:port`, the host a name or an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort(String);

/// A number of bytes, written as people do: `2TB`, `1.5TiB`, `500000000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity(u64);

/// Why settings are refused. Each message is whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// There is no `node.toml`.
    #[error(
        "{0} is not a node's directory: it has no {FILE_NAME}; if its disk is not mounted, mount it, else `piecestore setup --dir {0}` makes one"
    )]
    Missing(PathBuf),
    /// The file cannot be read or written.
    #[error("cannot {what} {path}: {error}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// How it failed.
        error: io::Error,
    },
    /// Written by a newer release.
    #[error(
        "{path} has version {version}, this program knows versions up to {VERSION}: update piecestore"
    )]
    NewerVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u64,
    },
    /// A line that is none.
    #[error("{path}, line {line}: {problem}")]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// A setting that must be there.
    #[error("{path}: `{key}` is missing")]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// The setting.
        key: &'static str,
    },
}

/// Why a value is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ValueError {
    /// Not `NODEID@HOST:PORT`.
    #[error("{0:?} is not NODEID@HOST:PORT, which `satellite status` prints")]
    Satellite(String),
    /// Not a node id.
    #[error("{0:?} is not a node id: 56 letters and digits, the last ones a checksum")]
    NodeId(String),
    /// Not `HOST:PORT`.
    #[error("{0:?} is not HOST:PORT")]
    HostPort(String),
    /// Not a size.
    #[error("{0:?} is not a size: write it like 2TB, 1.5TiB or 500GB")]
    Capacity(String),
    /// Too small.
    #[error("{0} is too small: a node needs at least 64MiB")]
    CapacityTooSmall(Capacity),
    /// Not `IP:PORT`.
    #[error("{0:?} is not IP:PORT, such as 0.0.0.0:7778 or [::]:7778")]
    Listen(String),
}

impl Config {
    /// Reads a node directory's settings.
    pub fn load(directory: &Path) -> Result<Self, ConfigError> {
        let path = directory.join(FILE_NAME);
        let text = std::fs::read_to_string(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ConfigError::Missing(directory.to_owned()),
            _ => ConfigError::Io {
                what: "read",
                path: path.clone(),
                error,
            },
        })?;
        Self::parse(&path, &text)
    }

    /// Writes a new directory's settings: whole or not at all, and never over others.
    pub fn create(&self, directory: &Path) -> Result<(), ConfigError> {
        let path = directory.join(FILE_NAME);
        let failed = |what| {
            let path = path.clone();
            move |error| ConfigError::Io { what, path, error }
        };
        let draft = directory.join("node.toml.draft");
        let mut file = File::create(&draft).map_err(failed("write"))?;
        file.write_all(self.to_string().as_bytes())
            .map_err(failed("write"))?;
        file.sync_all().map_err(failed("write"))?;
        // A link, unlike a rename, fails where something is.
        std::fs::hard_link(&draft, &path).map_err(failed("create"))?;
        std::fs::remove_file(&draft).map_err(failed("finish"))?;
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(failed("sync"))
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let mut version = None;
        let mut node_id = None;
        let mut satellite = None;
        let mut capacity = None;
        let mut listen = None;
        let mut advertise = None;
        let mut spinning = None;
        for (index, line) in text.lines().enumerate() {
            let problem = |problem: String| ConfigError::Line {
                path: path.to_owned(),
                line: index + 1,
                problem,
            };
            let Some((key, value)) =
                key_and_value(line).map_err(|what| problem(what.to_owned()))?
            else {
                continue;
            };
            let is_new = match key {
                "version" => {
                    let number = value
                        .parse()
                        .map_err(|_| problem("version is not a number".to_owned()))?;
                    // Before anything else of a newer file is judged.
                    if number > VERSION {
                        return Err(ConfigError::NewerVersion {
                            path: path.to_owned(),
                            version: number,
                        });
                    }
                    version.replace(number).is_none()
                }
                "node_id" => node_id
                    .replace(parse_node_id(value).map_err(|e| problem(e.to_string()))?)
                    .is_none(),
                "satellite" => satellite
                    .replace(
                        value
                            .parse()
                            .map_err(|e: ValueError| problem(e.to_string()))?,
                    )
                    .is_none(),
                "capacity" => capacity
                    .replace(
                        value
                            .parse()
                            .map_err(|e: ValueError| problem(e.to_string()))?,
                    )
                    .is_none(),
                "listen" => listen
                    .replace(parse_listen(value).map_err(|e| problem(e.to_string()))?)
                    .is_none(),
                "advertise" => advertise
                    .replace(
                        value
                            .parse()
                            .map_err(|e: ValueError| problem(e.to_string()))?,
                    )
                    .is_none(),
                "spinning" => spinning
                    .replace(
                        value
                            .parse()
                            .map_err(|_| problem("spinning is true or false".to_owned()))?,
                    )
                    .is_none(),
                _ => return Err(problem(format!("unknown setting `{key}`"))),
            };
            if !is_new {
                return Err(problem(format!("`{key}` is set twice")));
            }
        }
        let missing = |key| ConfigError::MissingKey {
            path: path.to_owned(),
            key,
        };
        version.ok_or_else(|| missing("version"))?;
        Ok(Self {
            node_id: node_id.ok_or_else(|| missing("node_id"))?,
            satellite: satellite.ok_or_else(|| missing("satellite"))?,
            capacity: capacity.ok_or_else(|| missing("capacity"))?,
            listen: listen.ok_or_else(|| missing("listen"))?,
            advertise,
            spinning,
        })
    }
}

/// The file's text.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "# Settings of one storage node. Changes count from its next start."
        )?;
        writeln!(f, "version = {VERSION}")?;
        writeln!(
            f,
            "# The identity that this directory belongs to (identity.key). Do not change it."
        )?;
        writeln!(f, "node_id = \"{}\"", self.node_id)?;
        writeln!(f, "satellite = \"{}\"", self.satellite)?;
        writeln!(f, "capacity = \"{}\"", self.capacity)?;
        writeln!(f, "listen = \"{}\"", self.listen)?;
        if let Some(spinning) = self.spinning {
            writeln!(f, "spinning = {spinning}")?;
        }
        match &self.advertise {
            Some(advertise) => writeln!(f, "advertise = \"{advertise}\""),
            None => writeln!(
                f,
                "# advertise = \"host:port\"    under which others reach this node, if it is not the address it calls from"
            ),
        }
    }
}

/// `key = value` of a line; `None` for an empty line or a comment. Quotes are taken off.
fn key_and_value(line: &str) -> Result<Option<(&str, &str)>, &'static str> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (key, rest) = line.split_once('=').ok_or("not `key = value`")?;
    let rest = rest.trim();
    let (value, after) = match rest.strip_prefix('"') {
        Some(quoted) => quoted.split_once('"').ok_or("a quote is not closed")?,
        None => rest.split_at(rest.find('#').unwrap_or(rest.len())),
    };
    let after = after.trim();
    if !after.is_empty() && !after.starts_with('#') {
        return Err("something follows the value");
    }
    if value.contains('\\') {
        return Err("a backslash has no meaning here");
    }
    Ok(Some((key.trim(), value.trim())))
}

fn parse_node_id(text: &str) -> Result<NodeId, ValueError> {
    text.parse()
        .map_err(|_| ValueError::NodeId(text.to_owned()))
}

/// `IP:PORT`.
pub fn parse_listen(text: &str) -> Result<SocketAddr, ValueError> {
    text.parse()
        .map_err(|_| ValueError::Listen(text.to_owned()))
}

impl FromStr for SatelliteAddress {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (id, address) = text
            .split_once('@')
            .ok_or_else(|| ValueError::Satellite(text.to_owned()))?;
        Ok(Self {
            id: parse_node_id(id)?,
            address: address.parse()?,
        })
    }
}

impl fmt::Display for SatelliteAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.id, self.address)
    }
}

impl HostPort {
    /// `host:port`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostPort {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let refused = || ValueError::HostPort(text.to_owned());
        if text
            .parse::<SocketAddr>()
            .is_ok_and(|address| address.port() != 0)
        {
            return Ok(Self(text.to_owned()));
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(refused)?;
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        let port_is_good = port.parse::<u16>().is_ok_and(|port| port != 0);
        if host.is_empty() || host.len() > 253 || !host.bytes().all(is_name) || !port_is_good {
            return Err(refused());
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Powers of 1000 with their letter, then of 1024; the longer names first.
const UNITS: [(&str, u64); 12] = [
    ("KIB", 1 << 10),
    ("MIB", 1 << 20),
    ("GIB", 1 << 30),
    ("TIB", 1 << 40),
    ("PIB", 1 << 50),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("PB", 1_000_000_000_000_000),
    ("B", 1),
    ("", 1),
];

/// A size as people write it: a number, perhaps with a fraction, and a unit of either kind in either case.
pub fn parse_size(text: &str) -> Option<u64> {
    let upper = text.trim().to_ascii_uppercase();
    let (number, scale) = UNITS
        .iter()
        .find_map(|(unit, scale)| Some((upper.strip_suffix(unit)?.trim(), *scale)))?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty()
        || !is_digits(whole)
        || !is_digits(fraction)
        || fraction.len() > 9
        || number.ends_with('.')
    {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(scale)?;
    let fraction = if fraction.is_empty() {
        0
    } else {
        let part = u128::from(fraction.parse::<u64>().ok()?) * u128::from(scale)
            / 10_u128.pow(fraction.len() as u32);
        u64::try_from(part).ok()?
    };
    whole.checked_add(fraction)
}

impl Capacity {
    /// In bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Capacity {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let capacity = Self(parse_size(text).ok_or_else(|| ValueError::Capacity(text.to_owned()))?);
        if capacity.0 < CAPACITY_BYTES_MIN {
            return Err(ValueError::CapacityTooSmall(capacity));
        }
        Ok(capacity)
    }
}

/// Exact: the largest unit that divides it.
impl fmt::Display for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [(&str, u64); 8] = [
            ("TB", 1_000_000_000_000),
            ("TiB", 1 << 40),
            ("GB", 1_000_000_000),
            ("GiB", 1 << 30),
            ("MB", 1_000_000),
            ("MiB", 1 << 20),
            ("KB", 1_000),
            ("KiB", 1 << 10),
        ];
        match NAMES
            .iter()
            .find(|(_, scale)| self.0 > 0 && self.0.is_multiple_of(*scale))
        {
            Some((name, scale)) => write!(f, "{}{name}", self.0 / scale),
            None => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests;
