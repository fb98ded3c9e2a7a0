//! The configuration in force, every default spelled out, as TOML that reads back; secrets hidden.

use crate::effective::{Setting, tables};
use crate::model::Config;

pub fn show(config: &Config) -> String {
    let mut out = String::new();
    for (header, settings) in tables(config) {
        table(&mut out, &header, settings);
    }
    out
}

fn table(out: &mut String, header: &str, settings: Vec<Setting>) {
    if !out.is_empty() {
        out.push('\n');
    }
    out.push_str(&format!("[{header}]\n"));
    for setting in settings {
        out.push_str(&format!("{} = {}\n", setting.key, setting.shown()));
    }
}
