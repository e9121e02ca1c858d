//! Why an operation failed: one enum per operation, and the exit code each failure maps to.
//!
//! A message names what failed, with which input, and what to do about it where we know. Programs
//! look at [`Exit`], people read the text.

use std::io;

use strand_protocol::{Code, NodeId};

/// Exit codes of the `uplink` command. `--help` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Failed otherwise.
    Failure = 1,
    /// The command line or an argument is wrong.
    Usage = 2,
    /// No such bucket, object, access or file.
    NotFound = 3,
    /// The grant does not allow it, or the passphrase is not the project's.
    Denied = 4,
    /// The satellite cannot be reached.
    Network = 5,
    /// Too few nodes can be reached or have room.
    Nodes = 6,
    /// The local disk or pipe failed.
    Disk = 7,
    /// What is stored is damaged beyond repair, or was tampered with.
    Damaged = 8,
    /// Interrupted by a signal.
    Interrupted = 130,
}

/// A call to the satellite failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// No connection.
    #[error(
        "cannot reach the satellite at {address}: {reason}; check that it runs and that UDP \
         gets through"
    )]
    Unreachable {
        /// As the grant names it.
        address: String,
        /// What the last attempt said.
        reason: String,
    },
    /// The connection broke or the answer took too long.
    #[error("the satellite at {address} did not answer {verb}: {reason}")]
    NoAnswer {
        /// As the grant names it.
        address: String,
        /// What was asked.
        verb: &'static str,
        /// What happened.
        reason: String,
    },
    /// The satellite said no.
    #[error("the satellite refused {verb}: {message} ({code})")]
    Refused {
        /// What was asked.
        verb: &'static str,
        /// The code of docs/wire.md section 3.
        code: Code,
        /// The satellite's words.
        message: String,
    },
    /// The answer makes no sense: the satellite is of another version, or broken.
    #[error("the satellite's answer to {verb} is unusable: {what}")]
    BadAnswer {
        /// What was asked.
        verb: &'static str,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The machine gives no UDP socket.
    #[error("cannot open a network socket: {0}")]
    Socket(String),
}

impl CallError {
    /// The satellite's code, if it answered with one.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Unreachable { .. } | Self::NoAnswer { .. } | Self::Socket(_) => Exit::Network,
            Self::BadAnswer { .. } => Exit::Failure,
            Self::Refused { code, .. } => match code {
                Code::NotFound => Exit::NotFound,
                Code::Denied => Exit::Denied,
                Code::NoNodes => Exit::Nodes,
                Code::Busy | Code::Shutdown | Code::Timeout => Exit::Network,
                _ => Exit::Failure,
            },
        }
    }
}

/// Reading, making or choosing an access failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// The text is not an invitation.
    #[error("this is not a usable invitation: {0}; copy it whole, it begins with strand-invite1-")]
    Invitation(String),
    /// The text is not a grant.
    #[error("this is not a usable access grant: {0}; copy it whole, it begins with strand-grant1-")]
    Grant(String),
    /// A passphrase that protects nothing.
    #[error(
        "the passphrase is {0}; choose at least {min} characters, not all alike",
        min = crate::limits::PASSPHRASE_CHARS_MIN
    )]
    Weak(&'static str),
    /// No key could be derived from it.
    #[error("no key can be derived from the passphrase: {0}")]
    Derivation(String),
    /// It is not the one that the project's first grant was made with.
    #[error(
        "this is not the passphrase of project '{project}': its first grant was made with \
         another one; check it for typing errors, \
         or pass --new-passphrase to store new objects under a new one (what is there stays \
         unreadable without the old)"
    )]
    WrongPassphrase {
        /// The project's name.
        project: String,
    },
    /// The satellite answers for another project or with another salt.
    #[error(
        "the satellite does not know this grant's project: the grant is of another network or \
         was replaced"
    )]
    Foreign,
    /// A name for a saved access that cannot be a file name.
    #[error(
        "'{0}' cannot name an access: use 1 to 64 of a-z, A-Z, 0-9, '-', '_' and '.', not \
         beginning with '.'"
    )]
    BadName(String),
    /// There is none of that name.
    #[error("no access named '{name}' in {directory}; 'uplink access list' shows what there is")]
    NoSuchName {
        /// As given.
        name: String,
        /// Where it was looked for.
        directory: String,
    },
    /// There is none at all, or none is chosen.
    #[error("no access is set up in {directory}; make one with 'uplink access create INVITATION'")]
    None {
        /// Where it was looked for.
        directory: String,
    },
    /// An access of that name exists and differs.
    #[error(
        "an access named '{0}' exists already; choose another name with --name, or remove it first"
    )]
    Taken(String),
    /// No place for saved accesses.
    #[error(
        "neither STRAND_CONFIG_DIR nor XDG_CONFIG_HOME nor HOME is set: nowhere to keep the access"
    )]
    NoDirectory,
    /// No passphrase was given and nobody can be asked.
    #[error(
        "no passphrase: pass --passphrase-file FILE or set STRAND_PASSPHRASE where there is no \
         terminal to ask on"
    )]
    NoPassphrase,
    /// The two entries differ.
    #[error("the two passphrases differ")]
    Mistyped,
    /// A file could not be read or written.
    #[error("cannot {doing} {path}: {source}")]
    File {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// A saved grant that others can read.
    #[error(
        "{path} can be read by others (mode {mode:o}); make it private with 'chmod 600 {path}'"
    )]
    Exposed {
        /// The file.
        path: String,
        /// Its mode.
        mode: u32,
    },
    /// The satellite.
    #[error(transparent)]
    Call(#[from] CallError),
}

impl AccessError {
    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::WrongPassphrase { .. } | Self::Foreign | Self::Exposed { .. } => Exit::Denied,
            Self::NoSuchName { .. } | Self::None { .. } => Exit::NotFound,
            Self::File { .. } => Exit::Disk,
            Self::Call(error) => error.exit(),
            _ => Exit::Usage,
        }
    }
}

/// A path in the store could not be turned into an encrypted key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Not `st://bucket/key`.
    #[error("'{0}' is not a place in the store: write st://BUCKET or st://BUCKET/KEY")]
    Location(String),
    /// A key where only a bucket can be, or the other way round.
    #[error("'{location}' {what}")]
    Kind {
        /// As given.
        location: String,
        /// What is wrong.
        what: &'static str,
    },
    /// A bucket name or a key that breaks a rule.
    #[error("'{name}' cannot be used: {reason}")]
    Refused {
        /// Shortened if long.
        name: String,
        /// The rule.
        reason: String,
    },
    /// The grant holds no key for this path.
    #[error("this access holds no key for st://{path}: {reason}")]
    NoKey {
        /// Bucket and key.
        path: String,
        /// What the grant said.
        reason: String,
    },
    /// The bucket does not exist.
    #[error("no bucket '{bucket}' in this project; 'uplink mb st://{bucket}' makes it")]
    NoBucket {
        /// Its name.
        bucket: String,
    },
    /// The satellite.
    #[error(transparent)]
    Call(#[from] CallError),
}

impl NameError {
    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Location(_) | Self::Kind { .. } | Self::Refused { .. } => Exit::Usage,
            Self::NoKey { .. } => Exit::Denied,
            Self::NoBucket { .. } => Exit::NotFound,
            Self::Call(error) => error.exit(),
        }
    }
}

/// Listing, making or removing buckets and objects failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManageError {
    /// The place.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The satellite.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The bucket exists.
    #[error("bucket '{bucket}' exists already")]
    BucketExists {
        /// Its name.
        bucket: String,
    },
    /// It is not empty.
    #[error("bucket '{bucket}' is not empty; 'uplink rm --recursive st://{bucket}' empties it")]
    BucketNotEmpty {
        /// Its name.
        bucket: String,
    },
    /// No such object.
    #[error("no object st://{bucket}/{key}")]
    NoObject {
        /// Its bucket.
        bucket: String,
        /// Its key.
        key: String,
    },
    /// The header does not open.
    #[error("{0}")]
    Header(HeaderError),
}

impl ManageError {
    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Name(error) => error.exit(),
            Self::Call(error) => error.exit(),
            Self::NoObject { .. } => Exit::NotFound,
            Self::Header(error) => error.exit(),
            Self::BucketExists { .. } | Self::BucketNotEmpty { .. } => Exit::Failure,
        }
    }
}

/// An object's header is not what was uploaded, or not for us.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// The key derived for this path does not open it.
    #[error(
        "st://{path} cannot be opened with this access: it was stored under another passphrase, \
         or its header was altered or moved"
    )]
    WrongKey {
        /// Bucket and key.
        path: String,
    },
    /// The satellite's list of segments is not the one in the header.
    #[error("st://{path} is damaged: {what} differs from the object's sealed header")]
    Altered {
        /// Bucket and key.
        path: String,
        /// What differs.
        what: &'static str,
    },
}

impl HeaderError {
    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::WrongKey { .. } => Exit::Denied,
            Self::Altered { .. } => Exit::Damaged,
        }
    }
}

/// An upload failed; nothing of it is visible.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UploadError {
    /// The target.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The satellite.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The input could not be read.
    #[error("cannot read {input}: {source}")]
    Input {
        /// Path, or "standard input".
        input: String,
        /// Why not.
        source: io::Error,
    },
    /// Too few nodes took their piece.
    #[error(
        "not enough nodes for segment {segment}: {needed_count} pieces must be stored (of \
         {optimal_count} aimed for), \
         only {found_count} nodes took one{last}; start more nodes or try again later"
    )]
    NotEnoughNodes {
        /// Number of the segment.
        segment: u32,
        /// repair + 1.
        needed_count: usize,
        /// Optimal.
        optimal_count: usize,
        /// Nodes that took theirs.
        found_count: usize,
        /// What one that did not said, or nothing.
        last: String,
    },
    /// The commit's answer did not arrive: the object may or may not be there.
    #[error(
        "the upload was sent to be committed, but the answer was lost ({0}); look with 'uplink \
         stat' whether it is there"
    )]
    Unsure(CallError),
    /// Our own parts do not fit each other.
    #[error("the satellite's scheme or limits cannot be used: {0}")]
    Unusable(String),
    /// A signal.
    #[error("interrupted; nothing was stored")]
    Interrupted,
}

impl UploadError {
    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Name(error) => error.exit(),
            Self::Call(error) | Self::Unsure(error) => error.exit(),
            Self::Input { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Exit::NotFound
            }
            Self::Input { .. } => Exit::Disk,
            Self::NotEnoughNodes { .. } => Exit::Nodes,
            Self::Unusable(_) => Exit::Failure,
            Self::Interrupted => Exit::Interrupted,
        }
    }
}

/// A download failed; no file appeared under the target's name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DownloadError {
    /// The source.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The satellite.
    #[error(transparent)]
    Call(#[from] CallError),
    /// No such object.
    #[error("no object st://{bucket}/{key}")]
    NoObject {
        /// Its bucket.
        bucket: String,
        /// Its key.
        key: String,
    },
    /// The header.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// A range that is not within the object.
    #[error("range {range} is past the end: st://{path} has {object_bytes} bytes")]
    RangePastEnd {
        /// As given.
        range: String,
        /// Bucket and key.
        path: String,
        /// Its length.
        object_bytes: u64,
    },
    /// Too few good pieces.
    #[error(
        "segment {segment} cannot be restored: {required_count} pieces are needed, {good_count} \
         of the {stored_count} stored came whole and true \
         ({gone_count} nodes unreachable or silent, {missing_count} pieces lost or damaged, \
         {liar_count} altered, {pending_count} no longer waited for)"
    )]
    NotEnoughPieces {
        /// Number of the segment.
        segment: u32,
        /// k.
        required_count: usize,
        /// Good ones.
        good_count: usize,
        /// Those the satellite knows of.
        stored_count: usize,
        /// Nodes that did not answer or broke off.
        gone_count: usize,
        /// Pieces their nodes no longer have.
        missing_count: usize,
        /// Pieces that did not fit the commitment.
        liar_count: usize,
        /// Pieces that were on their way when it was clear that they would not be enough.
        pending_count: usize,
    },
    /// All pieces fit the commitment, and yet they do not open: the uploader stored this.
    #[error(
        "segment {segment} is damaged: its pieces are those that were uploaded, but they do not \
         open ({reason})"
    )]
    Unopenable {
        /// Number of the segment.
        segment: u32,
        /// What the codec said.
        reason: String,
    },
    /// The object was replaced or removed while it was read.
    #[error(
        "the object of {object_bytes} bytes was replaced or removed while it was read; try again"
    )]
    Changed {
        /// Length of the object that was begun.
        object_bytes: u64,
    },
    /// The target could not be written.
    #[error("cannot write {output}: {source}")]
    Output {
        /// Path, or "standard output".
        output: String,
        /// Why not.
        source: io::Error,
    },
    /// A signal.
    #[error("interrupted; nothing was left behind")]
    Interrupted,
}

impl DownloadError {
    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Name(error) => error.exit(),
            Self::Call(error) => error.exit(),
            Self::NoObject { .. } => Exit::NotFound,
            Self::Header(error) => error.exit(),
            Self::RangePastEnd { .. } => Exit::Usage,
            // With all its nodes back it would do: that is a matter of nodes, not of data.
            Self::NotEnoughPieces {
                required_count,
                good_count,
                gone_count,
                pending_count,
                ..
            } => {
                if good_count + gone_count + pending_count >= *required_count {
                    Exit::Nodes
                } else {
                    Exit::Damaged
                }
            }
            Self::Unopenable { .. } => Exit::Damaged,
            Self::Changed { .. } => Exit::Failure,
            Self::Output { .. } => Exit::Disk,
            Self::Interrupted => Exit::Interrupted,
        }
    }
}

/// A node could not be talked to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("node {node} at {address}: {reason}")]
pub struct NodeError {
    /// Which.
    pub node: NodeId,
    /// Where.
    pub address: String,
    /// What happened.
    pub reason: String,
}
