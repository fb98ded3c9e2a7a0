//! The machine's own limit: the same work in one SQLite file, by `crates/store/examples/group_commit.rs`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::case::{CASES, Case, Work};
use super::server::Folder;
use super::{Place, machine};
use crate::process;

/// Of crate `store`.
pub(super) const EXAMPLE: &str = "group_commit";

/// Beyond three measurements: opening, closing.
const LIMIT_MARGIN: Duration = Duration::from_secs(60);

/// Messages a second for each case, and for files that are only appended to and synced.
pub(super) struct Limit {
    pub(super) rates: BTreeMap<Case, f64>,
    pub(super) append: BTreeMap<u32, f64>,
}

/// On the CPUs that the servers have.
pub(super) fn measure(place: &Place<'_>, program: &Path, length: Duration) -> Result<Limit> {
    let mut limit = Limit { rates: BTreeMap::new(), append: BTreeMap::new() };
    for in_flight in CASES.iter().filter(|case| case.work == Work::Life).map(|case| case.in_flight) {
        let folder = Folder::create(place.base, "limit")?;
        let mut command = machine::Cores::command(&place.cores.proxies, program);
        command
            .arg(folder.path())
            .arg(in_flight.to_string())
            .arg(length.as_secs_f64().to_string())
            .stdout(Stdio::piped());
        let mut said = String::new();
        process::run_reading(command, length * 3 + LIMIT_MARGIN, place.stop, |line| said += line)?;
        let value: Value = serde_json::from_str(&said).with_context(|| format!("{EXAMPLE} says {said}"))?;
        let rate = |name: &str| value[name].as_f64().with_context(|| format!("{EXAMPLE} says {said}"));
        limit.rates.insert(Case { work: Work::Life, in_flight }, rate("life")?);
        limit.rates.insert(Case { work: Work::Sends, in_flight }, rate("sends")?);
        limit.append.insert(in_flight, rate("append")?);
    }
    Ok(limit)
}
