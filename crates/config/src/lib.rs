//! TOML text to a validated [`Config`], or every error at once.

pub mod code;

mod check;
mod definition;
mod diagnostic;
mod effective;
mod keys;
mod load;
mod model;
mod nearest;
mod plan;
pub mod quantity;
mod read;
mod reader;
mod reference;
mod render;
mod secret;
mod show;
mod syntax;

pub use check::Environment;
pub use definition::definition_hash;
pub use diagnostic::{Diagnostic, Label, Severity, Source, Span};
pub use load::{Failed, Loaded, parse};
pub use model::*;
pub use plan::{Action, Change, KeyChange, Plan, plan, render_plan};
pub use reference::reference;
pub use render::{render, summary, to_json};
pub use show::show;

#[cfg(test)]
mod tests;
