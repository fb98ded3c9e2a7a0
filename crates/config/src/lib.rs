//! TOML text to a validated [`Config`], or every error at once.

mod model;

pub use model::*;
