//! Builds the error pages of docs/errors into the library.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, fs};

fn main() {
    let pages = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("../../docs/errors");
    println!("cargo:rerun-if-changed={}", pages.display());
    let mut files: Vec<PathBuf> = fs::read_dir(&pages)
        .map(|entries| {
            entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "md")).collect()
        })
        .unwrap_or_default();
    files.sort();
    let mut table = String::from("pub(crate) static PAGES: &[(&str, &str)] = &[\n");
    for file in files {
        let code = file.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        let path = file.canonicalize().unwrap_or(file);
        println!("cargo:rerun-if-changed={}", path.display());
        writeln!(table, "    ({code:?}, include_str!({path:?})),").expect("a string takes everything");
    }
    table.push_str("];\n");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("pages.rs");
    fs::write(out, table).expect("the build directory can be written");
}
