//! Prints what is wrong with a file: `cargo run -p holdfast-config --example check FILE`.

use holdfast_config::{Config, render, summary};

fn main() {
    let path = std::env::args().nth(1).unwrap_or_else(|| "holdfast.toml".into());
    let (found, source) = match Config::load(path.as_ref()) {
        Ok(loaded) => (loaded.warnings, loaded.source),
        Err(failed) => (failed.diagnostics, failed.source),
    };
    print!("{}", render(&found, &source, false, 80));
    println!("{}", summary(&found));
}
