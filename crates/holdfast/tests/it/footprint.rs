//! What holdfast itself costs while nothing happens: twenty instances behind a balancer, probes at their default periods.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::proof::{Evidence, proving, size};
use crate::site::{Site, free_port};
use crate::tiny;

const INSTANCES: usize = 20;
/// After the last change, before it counts as quiet.
const SETTLE: Duration = Duration::from_secs(3);

const SHIM_KB: u64 = 2 << 10;
const AGENT_KB: u64 = 40 << 10;
const AGENT_PERCENT: f64 = 1.0;
/// Outside the proving lane other tests run beside this one, and a tick more or less must not matter.
const AGENT_PERCENT_LOOSE: f64 = 5.0;

#[test]
fn a_quiet_holdfast_costs_next_to_nothing() {
    let site = Site::new(&format!(
        r#"
[service.web]
command  = ["{}", "{{port}}"]
replicas = {INSTANCES}
ready    = {{ http = "/" }}
live     = {{ tcp = true }}

[balancer.public]
listen  = "127.0.0.1:{}"
service = "web"
"#,
        tiny::path().display(),
        free_port()
    ));
    site.up();
    hold_still(SETTLE);
    let before = processes(&site);
    let began = Instant::now();
    hold_still(Duration::from_secs(size(10, 60)));
    let elapsed = began.elapsed();
    let after = processes(&site);
    let pids = |all: &BTreeMap<u32, Seen>| all.keys().copied().collect::<Vec<_>>();
    assert_eq!(pids(&before), pids(&after), "something was restarted while nothing happened");

    let percent = |role: &dyn Fn(Role) -> bool| -> f64 {
        let ours = after.iter().filter(|(_, seen)| role(seen.role));
        let used: u64 = ours.map(|(pid, seen)| seen.cpu_ns.saturating_sub(before[pid].cpu_ns)).sum();
        Duration::from_nanos(used).as_secs_f64() * 100.0 / elapsed.as_secs_f64()
    };
    let shims: Vec<&Seen> = after.values().filter(|seen| seen.role == Role::Shim).collect();
    let shim_kb = shims.iter().map(|seen| seen.private_kb).max().expect("shims");
    let agent = after.values().find(|seen| seen.role == Role::Agent).expect("an agent");
    // One for each instance, both balancer processes and the agent.
    assert_eq!(shims.len(), INSTANCES + 3);
    let (agent_percent, all_percent) = (percent(&|role| role == Role::Agent), percent(&|_| true));

    let mut evidence = Evidence::new("footprint", "a_quiet_holdfast_costs_next_to_nothing");
    evidence.condition("seconds", elapsed.as_secs());
    evidence.condition("profile", if cfg!(debug_assertions) { "dev" } else { "release" });
    evidence.figure("shim, unshared, the largest of 23: kB", format!("< {SHIM_KB}"), shim_kb);
    evidence.figure("agent with 20 instances, resident: kB", format!("< {AGENT_KB}"), agent.resident_kb);
    evidence.figure("of that its own (proportional): kB", "-", agent.proportional_kb);
    evidence.figure("agent, nothing happens: % of a core", format!("< {AGENT_PERCENT}"), format!("{agent_percent:.2}"));
    evidence.figure("all 26 processes of holdfast: % of a core", "-", format!("{all_percent:.2}"));
    evidence.tell();
    assert!(shim_kb < SHIM_KB, "a shim has {shim_kb} kB of its own");
    assert!(agent.resident_kb < AGENT_KB, "the agent has {} kB", agent.resident_kb);
    let limit = if proving() { AGENT_PERCENT } else { AGENT_PERCENT_LOOSE };
    assert!(agent_percent < limit, "the agent uses {agent_percent:.2} % of a core");
}

fn hold_still(time: Duration) {
    std::thread::sleep(time);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Agent,
    Shim,
    Balancer,
}

#[derive(Debug)]
struct Seen {
    role: Role,
    cpu_ns: u64,
    /// Pages that no other process maps.
    private_kb: u64,
    resident_kb: u64,
    proportional_kb: u64,
}

/// Every process of holdfast on this site; the instances are not ours to answer for.
fn processes(site: &Site) -> BTreeMap<u32, Seen> {
    let pids = site.living().into_iter().map(|(pid, _)| pid);
    pids.filter_map(|pid| Some((pid, seen(pid)?))).collect()
}

fn seen(pid: u32) -> Option<Seen> {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let cmdline = read("cmdline");
    let has = |word: &str| cmdline.split('\0').any(|arg| arg == word);
    let role = match () {
        () if !cmdline.starts_with(env!("CARGO_BIN_EXE_holdfast")) => return None,
        () if has("__shim") => Role::Shim,
        () if has("agent") => Role::Agent,
        () if has("balancer") => Role::Balancer,
        () => return None,
    };
    let rollup = read("smaps_rollup");
    let kb = |name: &str| -> u64 {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
            .unwrap_or_else(|| panic!("{name} of {pid}: {rollup}"))
    };
    // Of each thread exactly; the times in `stat` are guessed from what runs when a tick comes.
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
    let used = threads.filter_map(|thread| {
        let times = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        times.split(' ').next()?.parse::<u64>().ok()
    });
    Some(Seen {
        role,
        cpu_ns: used.sum(),
        private_kb: kb("Private_Clean") + kb("Private_Dirty"),
        resident_kb: kb("Rss"),
        proportional_kb: kb("Pss"),
    })
}
