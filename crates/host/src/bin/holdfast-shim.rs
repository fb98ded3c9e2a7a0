//! A shim and nothing else: what `holdfast __shim` does, in an executable small enough for tests to drive.

use std::path::Path;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    match args.as_slice() {
        [_, command, dir, generation] if command == "__shim" => match generation.parse() {
            Ok(generation) => holdfast_host::shim::run(Path::new(dir), generation),
            Err(_) => eprintln!("not a generation: {generation}"),
        },
        _ => eprintln!("usage: holdfast-shim __shim DIR GENERATION"),
    }
    std::process::exit(2);
}
