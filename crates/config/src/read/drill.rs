//! `[drill.NAME]`.

use crate::model::{Drill, Fault, Targets};
use crate::reader::{Findings, Reader};

use super::probe::http_path;

pub(super) fn read(out: &mut Findings, table: &Reader<'_>, name: &str) -> Drill {
    if !table.has("fault") {
        let span = out.spans.key(&table.path);
        table.missing(out, "fault", span);
    }
    let fault = table.choice(out, "fault");
    let fault = Fault::ALL.iter().find(|(word, _)| Some(*word) == fault).map_or(Fault::Kill, |(_, f)| *f);
    Drill {
        name: name.to_owned(),
        fault,
        target: table.text(out, "target"),
        hold: table.duration(out, "hold"),
        rate: table.u32(out, "rate"),
        balancer: table.text(out, "balancer"),
        path: table.form(out, "path", http_path).expect("the catalogue gives a default"),
        targets: Targets {
            detect: table.opt_duration(out, "detect"),
            recover: table.opt_duration(out, "recover"),
            failed: table.opt_u32(out, "failed").map(u64::from),
            p99: table.opt_duration(out, "p99"),
            lost: table.opt_u32(out, "lost").map(u64::from),
            twice: table.opt_u32(out, "twice").map(u64::from),
            done: table.opt_duration(out, "done"),
        },
        latency: table.duration(out, "latency"),
        share: table.opt_share(out, "share").expect("the catalogue gives a default"),
        busy_path: table.form(out, "busy_path", http_path),
        count: table.u32(out, "count"),
    }
}
