//! Faults of the network: rules on the bridge, invisible to the machines, in an nftables table that belongs to a process
//! we hold. When that process ends, by whatever, the kernel removes the table.

use std::io::Write;
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::enclosure::{Enclosure, STEP_LIMIT};
use crate::running::{path, wait_until};
use crate::{Error, Result};

/// Seen from the machine that is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Both,
    /// Nothing reaches it; what it sends arrives.
    In,
    /// Nothing it sends arrives; it hears the others.
    Out,
}

/// Lasts until it is dropped.
pub struct Fault {
    holder: Child,
    pipe: Option<ChildStdin>,
}

impl Fault {
    /// The same as dropping it.
    pub fn heal(self) {}
}

impl Drop for Fault {
    fn drop(&mut self) {
        self.pipe = None;
        if wait_until(STEP_LIMIT, || self.holder.try_wait().ok().flatten()).is_none() {
            eprintln!("warning: a fault of the lab does not end");
        }
    }
}

/// Rules for what passes between `me` and `peers` (all when `None`), both as nftables writes names or sets of them.
pub(crate) fn between(me: &str, peers: Option<&str>, direction: Direction, verdict: &str) -> Vec<String> {
    let to = peers.map(|p| format!("oifname {p} ")).unwrap_or_default();
    let from = peers.map(|p| format!("iifname {p} ")).unwrap_or_default();
    let mut rules = Vec::new();
    if direction != Direction::In {
        rules.push(format!("iifname {me} {to}{verdict}"));
    }
    if direction != Direction::Out {
        rules.push(format!("oifname {me} {from}{verdict}"));
    }
    rules
}

/// Chances are counted in steps of a hundredth of a percent.
const STEPS: f64 = 10_000.0;

/// Matches with a probability.
pub(crate) fn by_chance(percent: f64) -> Result<String> {
    if !(0.0..=100.0).contains(&percent) {
        return Err(Error::failed("lose packets", format!("{percent} is no percentage")));
    }
    Ok(format!("numgen random mod {STEPS} < {}", (percent / 100.0 * STEPS).round()))
}

/// Returns when the rules are in force.
pub(crate) fn inject(enclosure: &Enclosure, rules: &[String]) -> Result<Fault> {
    let table = format!("fault_{}", enclosure.number());
    let io = |e| Error::io("inject a fault", e);
    let mut command = Command::new("nsenter");
    command.args(["--target", &enclosure.init.to_string(), "--net", "--mount", "--pid", "--", "nft", "-i"]);
    let log = std::fs::File::create(enclosure.dir.join(format!("logs/{table}"))).map_err(io)?;
    // It keeps a history of what was typed at home.
    command.env("PATH", path()).env("HOME", &enclosure.dir);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
    let mut holder = command.spawn().map_err(io)?;
    let mut pipe = holder.stdin.take();
    let mut line = format!("add table bridge {table} {{ flags owner; }}; ");
    line += &format!("add chain bridge {table} forward {{ type filter hook forward priority 0; }}; ");
    let rules: Vec<String> = rules.iter().map(|rule| format!("add rule bridge {table} forward {rule}")).collect();
    line += &format!("{}\n", rules.join("; "));
    if let Some(pipe) = pipe.as_mut() {
        pipe.write_all(line.as_bytes()).map_err(io)?;
    }
    // One line is one transaction: where the table is, the rules are.
    let mut fault = Fault { holder, pipe };
    let seen = wait_until(STEP_LIMIT, || {
        let there = enclosure.tool(&["nft", "list", "table", "bridge", &table], "").is_ok();
        let complained = std::fs::metadata(enclosure.dir.join(format!("logs/{table}"))).is_ok_and(|m| m.len() > 0);
        (there || complained || fault.holder.try_wait().ok().flatten().is_some()).then_some(there)
    });
    if seen != Some(true) {
        let why = std::fs::read_to_string(enclosure.dir.join(format!("logs/{table}"))).unwrap_or_default();
        return Err(Error::failed(format!("inject a fault by `{}`", line.trim()), why.trim()));
    }
    Ok(fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_name_both_ends() {
        assert_eq!(between("\"a\"", None, Direction::Both, "drop"), ["iifname \"a\" drop", "oifname \"a\" drop"]);
        assert_eq!(
            between("\"a\"", Some("{ \"b\" }"), Direction::In, "drop"),
            ["oifname \"a\" iifname { \"b\" } drop"]
        );
        assert_eq!(between("\"a\"", None, Direction::Out, "drop"), ["iifname \"a\" drop"]);
        assert_eq!(by_chance(1.5).expect("a percentage"), "numgen random mod 10000 < 150");
        assert!(by_chance(101.0).is_err() && by_chance(f64::NAN).is_err());
    }
}
