//! `standby`.

use std::time::Duration;

use holdfast_policy::lease::Timings;
use holdfast_policy::standby::Tier;

use crate::keys::{MOUNT, STANDBY};
use crate::model::{Failback, Mount, Standby, Warm};
use crate::reader::{Findings, Reader};

/// Between two runs of `sync` where nothing limits the age of the data.
const SYNC_EVERY: Duration = Duration::from_secs(60);

pub(super) fn read(out: &mut Findings, service: &Reader<'_>) -> Option<Standby> {
    let table = service.inner(out, "standby", &STANDBY)?;
    if !table.has("tier") {
        let span = out.spans.key(&table.path);
        table.missing(out, "tier", span);
    }
    let word = |name: Option<&'static str>| name.and_then(|w| Tier::ALL.iter().find(|(n, _)| *n == w).map(|(_, t)| *t));
    let profile = |name: Option<&'static str>| Timings::PROFILES.into_iter().find(|(n, _)| Some(*n) == name);
    let max_staleness = table.opt_duration(out, "max_staleness");
    let tier = word(table.choice(out, "tier")).unwrap_or_default();
    Some(Standby {
        tier,
        count: table.u32(out, "count"),
        warm: if table.choice(out, "warm") == Some("stopped") { Warm::Stopped } else { Warm::Paused },
        promote: table.argv(out, "promote"),
        demote: table.argv(out, "demote"),
        fence: table.argv(out, "fence"),
        sync: table.argv(out, "sync"),
        restore: table.argv(out, "restore"),
        mount: mount(out, &table),
        max_staleness,
        sync_every: table.opt_duration(out, "sync_every").unwrap_or(max_staleness.map_or(SYNC_EVERY, |d| d / 2)),
        dry_start: table.opt_duration(out, "dry_start"),
        failback: match table.choice(out, "failback") {
            Some("preferred") => Failback::Preferred,
            _ => Failback::Sticky,
        },
        stable_for: table.duration(out, "stable_for"),
        rto: table.opt_duration(out, "rto"),
        rpo: table.opt_duration(out, "rpo"),
        lease: profile(table.choice(out, "lease")).map_or("default", |(name, _)| name),
        timeout: table.duration(out, "timeout"),
        restore_timeout: table.duration(out, "restore_timeout"),
    })
}

fn mount(out: &mut Findings, standby: &Reader<'_>) -> Option<Mount> {
    let table = standby.inner(out, "mount", &MOUNT)?;
    for name in ["source", "target"] {
        if !table.has(name) {
            let span = out.spans.key(&table.path);
            table.missing(out, name, span);
        }
    }
    let kind = table.text(out, "type");
    let options = table.texts(out, "options").unwrap_or_default();
    let (source, target) = (table.text(out, "source")?, table.text(out, "target")?);
    Some(Mount { source, target: target.into(), kind, options })
}
