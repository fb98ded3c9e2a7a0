//! TOML text to a validated [`Config`], or every error at once.

pub mod code;

mod check;
mod diagnostic;
mod keys;
mod load;
mod model;
mod nearest;
pub mod quantity;
mod read;
mod reader;
mod render;
mod secret;
mod syntax;

pub use check::Environment;
pub use diagnostic::{Diagnostic, Label, Severity, Source, Span};
pub use load::{Failed, Loaded, parse};
pub use model::*;
pub use render::{render, summary, to_json};

#[cfg(test)]
mod tests;
