//! `[node]`.

use crate::keys::NODE;
use crate::model::Node;

use super::{Setting, Settings, size, text};

pub(crate) fn node(node: &Node) -> Vec<Setting> {
    let mut out = Settings::new(&NODE);
    out.put("name", text(&node.name));
    out.put_some("zone", node.zone.as_ref(), text);
    out.put("ports", text(format!("{}-{}", node.ports.start(), node.ports.end())));
    out.put_some("metrics", node.metrics, |addr| text(addr.to_string()));
    out.put("balancer_processes", node.balancer_processes.to_string());
    out.put_some("balancer_threads", node.balancer_threads, |n| n.to_string());
    out.put("journal_days", node.journal_days.to_string());
    out.put("journal_size", size(node.journal_size_bytes));
    out.finish()
}
