//! The `uplink` command: see `uplink --help`.

fn main() {
    // The library's exit, not a return: a thread that waits on a pipe must not hold up the end.
    std::process::exit(uplink::cli_main(std::env::args_os()));
}
