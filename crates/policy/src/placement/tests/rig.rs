//! Topologies in text form, and a cluster that carries plans out.

use super::super::*;

pub(crate) struct Rig {
    pub(crate) now: Timestamp,
    pub(crate) nodes: Vec<Node>,
    pub(crate) services: Vec<Service>,
    pub(crate) assigned: Vec<Assigned>,
    pub(crate) hold: Hold,
    pub(crate) planner: Planner,
}

/// Seeds of the test lane, of the prove lane, and where they begin.
pub(crate) fn seeds() -> std::ops::Range<u64> {
    let set = |name| std::env::var(name).ok();
    let first = set("HOLDFAST_SEED").and_then(|text| text.parse().ok()).unwrap_or(0);
    let count = if set("HOLDFAST_PROVE").is_some() { 2_000 } else { 150 };
    first..first + count
}

/// What follows `KEY=` in a word.
fn value<'t>(word: &'t str, key: &str) -> Option<&'t str> {
    word.strip_prefix(key)?.strip_prefix('=')
}

impl Rig {
    /// Lines of `node NAME [LABEL=VALUE | slots=N | cpu=N | memory=N | fresh | closed | suspect | draining | lost]…`,
    /// `service NAME REPLICAS [min=N | max=N | cpu=N | memory=N | only=LABEL:VALUE | not=LABEL:VALUE | apart=SERVICE | pin=NODE |
    /// distinct | crowd | fixed | stopfirst]…` and `on NODE INSTANCE[! (not ready) | * (failing) | > (newer)]…`.
    pub(crate) fn read(text: &str) -> Rig {
        let now = Timestamp::from_millis(10_000_000);
        let mut rig = Rig {
            now,
            nodes: Vec::new(),
            services: Vec::new(),
            assigned: Vec::new(),
            hold: Hold::No,
            planner: Planner::default(),
        };
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["node", name, rest @ ..] => rig.nodes.push(node(name, rest, now)),
                ["service", name, replicas, rest @ ..] => {
                    rig.services.push(service(name, replicas.parse().expect("a number"), rest));
                }
                ["on", node, rest @ ..] => rig.assigned.extend(rest.iter().map(|word| assigned(node, word, now))),
                ["brake"] => rig.hold = Hold::Brake { why: "brake".into() },
                ["void"] => rig.hold = Hold::Void { why: "void".into(), until: now },
                _ => panic!("cannot read `{line}`"),
            }
        }
        rig
    }

    pub(crate) fn plan(&mut self) -> Plan {
        let cluster =
            Cluster { nodes: &self.nodes, services: &self.services, assigned: &self.assigned, hold: self.hold.clone() };
        self.planner.plan(self.now, &cluster)
    }

    /// Carries a plan out; what is new is not ready yet.
    pub(crate) fn apply(&mut self, plan: &Plan) {
        for planned in &plan.steps {
            match &planned.step {
                Step::Place { instance, node } | Step::Move { instance, to: node, .. } => {
                    let ready = false;
                    self.assigned.push(Assigned { ready, ..Assigned::new(instance.clone(), &node.0, self.now) });
                }
                Step::Remove { instance, node } => {
                    self.assigned.retain(|a| !(a.instance == *instance && a.node == *node));
                }
            }
        }
    }

    /// Time passes and what can be ready is.
    pub(crate) fn settle(&mut self, duration: Duration) {
        self.now = self.now + duration;
        let lost: Vec<NodeId> =
            self.nodes.iter().filter(|n| n.standing == Standing::Lost).map(|n| n.name.clone()).collect();
        for assigned in self.assigned.iter_mut().filter(|a| !lost.contains(&a.node)) {
            (assigned.ready, assigned.failures) = (true, 0);
        }
    }
}

fn node(name: &str, words: &[&str], now: Timestamp) -> Node {
    let mut node = Node::new(name);
    for word in words {
        let number = |key| value(word, key).map(|v| v.parse().expect("a number"));
        match *word {
            "closed" => node.standing = Standing::Closed,
            "suspect" => node.standing = Standing::Suspect,
            "draining" => node.standing = Standing::Draining,
            "lost" => node.standing = Standing::Lost,
            "fresh" => node.stable_since = now,
            _ if number_key(word) => {
                node.capacity.cpu_millis = number("cpu").or(node.capacity.cpu_millis);
                node.capacity.memory_bytes = number("memory").or(node.capacity.memory_bytes);
                let slots = number("slots").and_then(|n| u32::try_from(n).ok());
                node.capacity.slots = slots.or(node.capacity.slots);
            }
            _ => {
                let (label, value) = word.split_once('=').expect("LABEL=VALUE");
                node.labels.insert(label.into(), value.into());
            }
        }
    }
    node
}

fn number_key(word: &str) -> bool {
    ["cpu", "memory", "slots"].iter().any(|key| value(word, key).is_some())
}

fn service(name: &str, replicas: u32, words: &[&str]) -> Service {
    let mut service = Service::new(name, replicas);
    for word in words {
        match *word {
            "distinct" => service.distinct = true,
            "crowd" => service.crowd_alone = true,
            "fixed" => service.movable = false,
            "stopfirst" => service.surge = false,
            _ => {
                let (key, value) = word.split_once('=').expect("KEY=VALUE");
                let number = || value.parse::<u64>().expect("a number");
                let small = || value.parse::<u32>().expect("a number");
                let pair = || value.split_once(':').map(|(l, v)| (l.into(), v.into())).expect("LABEL:VALUE");
                match key {
                    "min" => service.min_available = small(),
                    "max" => service.max_unavailable = small(),
                    "cpu" => service.each.cpu_millis = number(),
                    "memory" => service.each.memory_bytes = number(),
                    "apart" => service.anti_affinity.push(value.into()),
                    "pin" => service.pinned.push(value.into()),
                    "only" => service.constraints.push(Constraint::Is(pair().0, pair().1)),
                    "not" => service.constraints.push(Constraint::IsNot(pair().0, pair().1)),
                    _ => panic!("cannot read `{word}`"),
                }
            }
        }
    }
    service
}

fn assigned(node: &str, word: &str, now: Timestamp) -> Assigned {
    let name = word.trim_end_matches(['!', '*', '>', 'A', 'S']);
    let marks = &word[name.len()..];
    let since = if marks.contains('>') { now - Duration::from_secs(5) } else { now - Duration::from_secs(5000) };
    let mut assigned = Assigned::new(name.parse().expect("an instance"), node, since);
    assigned.ready = !marks.contains(['!', '*']);
    assigned.failures = if marks.contains('*') { LOCAL_FAILURES_MAX } else { 0 };
    assigned.duty = match (marks.contains('A'), marks.contains('S')) {
        (true, _) => Duty::Active,
        (_, true) => Duty::Standby { eligible: assigned.ready },
        _ => Duty::Replica,
    };
    assigned
}
