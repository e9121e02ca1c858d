//! The `satellite` binary: the library's command line and nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    satellite::cli_main(std::env::args_os().skip(1))
}
