//! Services that wait for each other.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::code;
use crate::diagnostic::{Diagnostic, Severity};
use crate::model::Config;
use crate::reader::Findings;

/// Tells of every service that is in a circle, and of each only once: by a shortest circle through it.
pub(super) fn check(out: &mut Findings, config: &Config) {
    let mut told = BTreeSet::new();
    for (name, service) in &config.services {
        if service.after.contains_key(name) {
            tell(out, &[name]);
        }
        if told.contains(name.as_str()) {
            continue;
        }
        if let Some(circle) = shortest(config, name) {
            told.extend(circle.iter().copied());
            tell(out, &circle);
        }
    }
}

/// Breadth first from `start` back to itself, by way of at least one other service.
fn shortest<'a>(config: &'a Config, start: &'a str) -> Option<Vec<&'a str>> {
    let mut came_from: BTreeMap<&str, &str> = BTreeMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(name) = queue.pop_front() {
        for other in config.services.get(name).into_iter().flat_map(|s| s.after.keys()) {
            if other == start && name != start {
                return Some(way_back(&came_from, start, name));
            }
            if other != start && !came_from.contains_key(other.as_str()) {
                came_from.insert(other, name);
                queue.push_back(other);
            }
        }
    }
    None
}

fn way_back<'a>(came_from: &BTreeMap<&str, &'a str>, start: &'a str, end: &'a str) -> Vec<&'a str> {
    let mut circle = vec![end];
    let mut at = end;
    while let Some(before) = came_from.get(at).copied().filter(|_| at != start) {
        circle.push(before);
        at = before;
    }
    circle.reverse();
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
