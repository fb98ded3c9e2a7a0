//! Writes the reference from the catalogue: `cargo run -p holdfast-config --example reference`.

fn main() -> std::io::Result<()> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/configuration.md");
    std::fs::write(path, holdfast_config::reference())?;
    println!("docs/reference/configuration.md is fresh");
    Ok(())
}
