//! The page for when holdfast and etcd are off: every block of it is run on a machine where they are.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use crate::town::{MACHINES, REPLICAS, Town, binary, name, none_failed};

const PAGE: &str = include_str!("../../../../docs/how-to/break-glass.md");

/// From here on etcd is there again.
const NORMAL: &str = "## Back to normal";

/// A free address of the lab.
const ADDRESS: &str = "10.77.0.210";

/// What is between the fences of `sh`.
fn blocks(page: &str) -> Vec<&str> {
    page.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

/// Of a shim that is started by hand.
const LIMIT: Duration = Duration::from_secs(20);

impl Town {
    /// As its shim on the first machine wrote it last.
    fn state(&self, id: &str) -> Value {
        let text = fs::read_to_string(self.data(0).join(format!("run/{id}/state.json"))).expect("a state");
        serde_json::from_str(text.trim()).expect("JSON and blanks")
    }

    /// The names that the first block of the page sets, and then this.
    fn by_hand(&self, n: usize, script: &str) -> Result<String, String> {
        let (data, file, exe) = (self.data(n), self.file.display(), binary().display());
        let names = format!("set -eu\nDATA={}\nNODE={}\nFILE={file}\nEXE={exe}\n", data.display(), name(n));
        let script = script.replace("\"$program\"", "\"$EXE\"");
        self.lab.machine(n).run(&["sh", "-c", &format!("{names}{script}")]).map_err(|e| e.to_string())
    }
}

#[test]
fn the_page_works_with_holdfast_and_etcd_off() {
    let Some(town) = Town::ready() else { return };
    let lab = &town.lab;
    let (off, on) = PAGE.split_once(NORMAL).expect("the page has that heading");
    let (off, on) = (blocks(off), blocks(on));
    assert!(off.len() >= 12 && on.len() == 1, "{} and {} blocks", off.len(), on.len());
    let snapshot = lab.etcd_snapshot().expect("a snapshot");
    let before = town.instances(0);
    let loads = [town.probe(0), town.probe(1)];
    lab.members().iter().for_each(|member| member.kill().expect("kill"));
    for n in 0..MACHINES {
        town.by_hand(n, off[1]).unwrap_or_else(|why| panic!("{why}"));
        town.wait_for("the agent to be off", LIMIT, || town.agent_pid(n).is_none());
    }
    // Each in the shell of the one before, as they are typed; the first sets names, the second was run on all machines.
    let typed: Vec<String> = off[2..].iter().enumerate().map(|(n, b)| format!("echo '=== {n}' >&2\n{b}")).collect();
    let script =
        typed.concat().replace("10.0.0.100", ADDRESS).replace("/var/backups/etcd.db", &snapshot.display().to_string());
    let said = town.by_hand(0, &script).unwrap_or_else(|why| panic!("{why}"));
    for instance in before.iter().filter(|i| i.node == name(0)) {
        assert!(said.contains(&format!("{}\trunning\t", instance.id)), "{said}");
    }
    assert!(said.contains("public\tweb-2@node2\t10.77.0.2:") && said.contains("instance/web-1|ready|"), "{said}");
    let file = town.applied();
    for rescued in ["holdfast.toml.rescued", "holdfast.toml.from-etcd"] {
        let text = fs::read_to_string(lab.machine(0).dir().join(rescued)).expect("it was written");
        assert_eq!(text.trim_end(), file.trim_end(), "{rescued}");
    }
    let addresses = lab.machine(0).run(&["ip", "-4", "-o", "address"]).expect("ip");
    assert!(!addresses.contains(ADDRESS), "{addresses}");
    town.wait_for("what was stopped by hand to run again", LIMIT, || town.origins(0) == REPLICAS / MACHINES);
    let by_hand = town.state("web-1");
    assert_eq!(by_hand["incarnation"], "2.1");

    lab.members().iter().for_each(|member| member.start().expect("start"));
    lab.wait_for_etcd(holdfast_lab::ETCD_READY_LIMIT).expect("etcd is back");
    for n in 0..MACHINES {
        let rescued = lab.machine(0).dir().join("holdfast.toml.rescued").display().to_string();
        let script = on[0].replace("holdfast.toml.rescued", &rescued);
        town.by_hand(n, &script).unwrap_or_else(|why| panic!("{why}"));
    }
    town.wait_settled(REPLICAS);
    for (n, load) in loads.into_iter().enumerate() {
        none_failed(&format!("the page for emergencies, balancer {}", n + 1), load);
    }
    assert_eq!(town.state("web-1")["child"], by_hand["child"], "what was started by hand is adopted");
    assert_eq!((0..MACHINES).map(|n| town.origins(n)).sum::<usize>(), REPLICAS, "each runs once");
    let kept = town.instances(0).into_iter().filter(|now| before.iter().any(|was| was == now)).count();
    assert_eq!(kept, REPLICAS - 1, "only what was stopped by hand is another process");
}
