//! `[drill.NAME]`.

use crate::keys::DRILL;
use crate::model::Drill;

use super::{Setting, Settings, duration, share, text};

pub(crate) fn drill(drill: &Drill) -> Vec<Setting> {
    let mut out = Settings::new(&DRILL);
    out.put("fault", text(drill.fault.name()));
    out.put_some("target", drill.target.as_ref(), text);
    out.put("hold", duration(drill.hold));
    out.put("rate", drill.rate.to_string());
    out.put_some("balancer", drill.balancer.as_ref(), text);
    out.put("path", text(&drill.path));
    out.put_some("detect", drill.targets.detect, duration);
    out.put_some("recover", drill.targets.recover, duration);
    out.put_some("failed", drill.targets.failed, |n| n.to_string());
    out.put_some("p99", drill.targets.p99, duration);
    out.put("latency", duration(drill.latency));
    out.put("share", share(drill.share));
    out.put_some("busy_path", drill.busy_path.as_ref(), text);
    out.put("count", drill.count.to_string());
    out.put_some("lost", drill.targets.lost, |n| n.to_string());
    out.put_some("twice", drill.targets.twice, |n| n.to_string());
    out.put_some("done", drill.targets.done, duration);
    out.finish()
}
