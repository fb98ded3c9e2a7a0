//! holdfast: one binary and one TOML file that keep services up, and prove it.

mod agent;
mod api;
mod cli;
mod client;
mod failure;
mod layout;
mod terminal;

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    // The shim is what outlives everything else, so it is dispatched before anything is initialised.
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|first| first == "__shim") {
        return shim(args);
    }
    cli::main()
}

/// `__shim DIR GENERATION`.
fn shim(mut args: impl Iterator<Item = std::ffi::OsString>) -> ExitCode {
    let dir = args.next();
    let generation = args.next().and_then(|text| text.to_str()?.parse().ok());
    match (dir, generation) {
        (Some(dir), Some(generation)) => holdfast_host::shim::run(Path::new(&dir), generation),
        _ => ExitCode::from(failure::Exit::Usage.code()),
    }
}
