//! Writes the reference from the catalogue: `cargo run -p holdfast-config --example reference`.

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    // As this run's cargo says; a build may have come here from another checkout.
    let crate_dir = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    std::fs::write(crate_dir.join("../../docs/reference/configuration.md"), holdfast_config::reference())?;
    println!("docs/reference/configuration.md is fresh");
    Ok(())
}
