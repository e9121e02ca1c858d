//! What can be said on the command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::download::ByteRange;
use crate::location::Place;

const EXIT_CODES: &str = "\
Exit codes:
    0  done
    1  failed otherwise
    2  wrong arguments: bad name, key too long, range past the end, damaged grant, weak passphrase
    3  no such bucket, object, access or file
    4  denied, or the wrong passphrase
    5  the satellite cannot be reached
    6  too few nodes
    7  the local disk or pipe failed
    8  what is stored is damaged or was altered
  130  interrupted

Environment:
  STRAND_CONFIG_DIR   where accesses are kept (default: ~/.config/strand)
  STRAND_PASSPHRASE   passphrase for 'access create'
  STRAND_LEVEL        kernels to use instead of the best this CPU runs, for example 'avx2' or 'scalar'
  STRAND_LOG          what to log to standard error, for example 'uplink=debug'";

/// Stores files encrypted and spread over independent nodes, and fetches them back.
#[derive(Debug, Parser)]
#[command(name = "uplink", version, about, after_help = EXIT_CODES)]
pub(super) struct Args {
    /// Use this saved access instead of the current one.
    #[arg(long, global = true, value_name = "NAME")]
    access: Option<String>,
    /// Print one JSON object to standard output.
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// No progress, no notes.
    #[arg(long, short, global = true)]
    quiet: bool,
    /// Look for paths that carry datagrams of 8,900 bytes: less work for both ends where every switch on the way to the nodes is set to an
    /// MTU of 9,000, some lost packets at the beginning where not.
    #[arg(long, global = true)]
    jumbo: bool,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// What holds for all commands.
pub(super) struct Options {
    pub(super) access: Option<String>,
    pub(super) is_json: bool,
    pub(super) is_quiet: bool,
    pub(super) is_jumbo: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make, import and choose accesses.
    #[command(subcommand)]
    Access(AccessCommand),
    /// Make a bucket.
    Mb {
        /// st://BUCKET
        bucket: Place,
        /// Let the satellite see the names of objects (S3 listing order) instead of sealing them.
        #[arg(long)]
        plain_names: bool,
    },
    /// Remove an empty bucket.
    Rb {
        /// st://BUCKET
        bucket: Place,
    },
    /// List buckets, or what lies under a prefix.
    Ls {
        /// st://BUCKET[/PREFIX]; without it, the buckets.
        place: Option<Place>,
        /// Everything below, not only one level.
        #[arg(long, short)]
        recursive: bool,
    },
    /// Copy a file into the store, or an object out of it.
    Cp(CpArgs),
    /// Remove an object.
    Rm {
        /// st://BUCKET/KEY
        place: Place,
        /// Remove every object whose key begins with KEY/ (or all of the bucket).
        #[arg(long, short)]
        recursive: bool,
    },
    /// Show an object or a bucket.
    Stat {
        /// st://BUCKET[/KEY]
        place: Place,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct CpArgs {
    /// A file, '-' for standard input, or st://BUCKET/KEY.
    pub(super) source: String,
    /// A file, a directory, '-' for standard output, or st://BUCKET/KEY; after a '/' the source's
    /// name is added.
    pub(super) target: String,
    /// Only these bytes of an object: A-B (both included), A- or -N.
    #[arg(long, value_name = "RANGE", allow_hyphen_values = true)]
    pub(super) range: Option<ByteRange>,
}

#[derive(Debug, Subcommand)]
pub(super) enum AccessCommand {
    /// Turn an invitation and a passphrase into an access.
    Create {
        /// The invitation, as 'satellite project create' prints it.
        invitation: String,
        /// Save it under this name.
        #[arg(long, default_value = "default")]
        name: String,
        /// Read the passphrase from this file (its first line).
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
        /// Accept a passphrase that differs from that of the project's first grant.
        #[arg(long)]
        new_passphrase: bool,
        /// Replace a saved access of the same name.
        #[arg(long)]
        replace: bool,
    },
    /// Save a grant that somebody gave you.
    Import {
        /// The grant, or '-' to read it from standard input.
        grant: String,
        /// Save it under this name.
        #[arg(long, default_value = "default")]
        name: String,
        /// Replace a saved access of the same name.
        #[arg(long)]
        replace: bool,
    },
    /// Show the saved accesses.
    List,
    /// Make a saved access the current one.
    Use {
        /// Its name.
        name: String,
    },
    /// Print a saved grant. Whoever has it has your access.
    Export {
        /// Its name; without it, the current one.
        name: Option<String>,
    },
}

impl Args {
    pub(super) fn options(&self) -> Options {
        Options {
            access: self.access.clone(),
            is_json: self.json,
            is_quiet: self.quiet,
            is_jumbo: self.jumbo,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn ranges_and_pipes_are_understood() {
        let args = Args::try_parse_from([
            "uplink",
            "cp",
            "st://photos/a",
            "-",
            "--range",
            "-100",
            "--json",
        ])
        .unwrap();
        assert!(args.json);
        let Command::Cp(cp) = args.command else {
            panic!("cp")
        };
        assert_eq!(
            (cp.target.as_str(), cp.range),
            ("-", Some(ByteRange::Last(100)))
        );
    }

    #[test]
    fn every_exit_code_is_documented() {
        use crate::error::Exit;
        for exit in [
            Exit::Ok,
            Exit::Failure,
            Exit::Usage,
            Exit::NotFound,
            Exit::Denied,
            Exit::Network,
            Exit::Nodes,
            Exit::Disk,
            Exit::Damaged,
            Exit::Interrupted,
        ] {
            let code = format!("{:>5}  ", exit as i32);
            assert!(
                EXIT_CODES.lines().any(|line| line.starts_with(&code)),
                "{exit:?}"
            );
        }
    }
}
