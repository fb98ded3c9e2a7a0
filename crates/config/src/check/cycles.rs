//! Services that wait for each other.

use std::collections::BTreeSet;

use crate::code;
use crate::diagnostic::{Diagnostic, Severity};
use crate::model::Config;
use crate::reader::Findings;

pub(super) fn check(out: &mut Findings, config: &Config) {
    let mut done = BTreeSet::new();
    let mut told: BTreeSet<BTreeSet<&str>> = BTreeSet::new();
    for start in config.services.keys() {
        let mut path = Vec::new();
        if let Some(circle) = find(config, start, &mut path, &mut done)
            && told.insert(circle.iter().copied().collect())
        {
            tell(out, &circle);
        }
    }
}

/// Depth first. What is `done` leads into no circle that has not been told.
fn find<'a>(
    config: &'a Config,
    name: &'a str,
    path: &mut Vec<&'a str>,
    done: &mut BTreeSet<&'a str>,
) -> Option<Vec<&'a str>> {
    if let Some(at) = path.iter().position(|p| *p == name) {
        return Some(path[at..].to_vec());
    }
    if done.contains(name) {
        return None;
    }
    path.push(name);
    let after = config.services.get(name).map(|s| s.after.keys()).into_iter().flatten();
    let mut circle = None;
    for other in after {
        circle = circle.or(find(config, other, path, done));
    }
    path.pop();
    done.insert(name);
    circle
}

fn tell(out: &mut Findings, circle: &[&str]) {
    let ring: Vec<String> = circle.iter().chain(circle.first()).map(|name| format!("`{name}`")).collect();
    let message = match circle {
        [only] => format!("`{only}` waits for itself"),
        _ => format!("services wait for each other: {}", ring.join(" -> ")),
    };
    let mut found = Diagnostic::new(Severity::Error, code::CYCLE, message);
    for (n, name) in circle.iter().enumerate() {
        let other = circle[(n + 1) % circle.len()];
        let span = out.spans.value(&format!("service.{name}.after.{other}"));
        found = found.at(span, format!("`{name}` waits for `{other}`"));
    }
    out.push(
        found.hint("none of them could ever start; remove one of these, or let a program retry its connection instead"),
    );
}
