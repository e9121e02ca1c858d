//! The storage node's program; all of it is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    piecestore::cli_main(std::env::args_os().skip(1))
}
