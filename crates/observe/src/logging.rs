//! Logs of the agent and the planes: standard error, which their shim writes to a rotated file.
//!
//! One line an event: time in UTC, level, module, message, fields. `HOLDFAST_LOG` filters like `RUST_LOG` (`info` by default).

use std::fmt;
use std::io::IsTerminal;

use holdfast_host::clock;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

pub const FILTER_VARIABLE: &str = "HOLDFAST_LOG";

/// Milliseconds: what people compare with other logs.
struct Utc;

impl FormatTime for Utc {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        let text = clock::utc_text(clock::wall_ms());
        w.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

/// Call once, first thing in the process; a second call changes nothing. A filter that cannot be read is told and replaced
/// by `info`.
pub fn start(default: &str) {
    let wanted = std::env::var(FILTER_VARIABLE).ok();
    let parsed = wanted.as_deref().map(EnvFilter::try_new).transpose();
    let refused = parsed.as_ref().err().map(ToString::to_string);
    let filter = parsed.ok().flatten().unwrap_or_else(|| EnvFilter::new(default));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    // A shim begins each line with the time itself.
    let under_shim = std::env::var_os(holdfast_host::shim::MARK).is_some();
    let started = if under_shim { lines.without_time().try_init() } else { lines.with_timer(Utc).try_init() };
    if let (Ok(()), Some(reason)) = (started, refused) {
        tracing::warn!(variable = FILTER_VARIABLE, %reason, "the log filter cannot be read; using `{default}`");
    }
}
