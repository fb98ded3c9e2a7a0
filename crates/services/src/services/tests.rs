//! The shell with real shims and real programs.
