//! How long a plan takes: `cargo run --release -p holdfast-policy --example plan [NODES SERVICES REPLICAS]`, by default
//! 50 nodes and 2,000 instances. A whole pass of the leader may take 200 ms.

use std::time::{Duration, Instant};

use holdfast_policy::membership::{Hold, Standing};
use holdfast_policy::placement::{Assigned, Capacity, Cluster, Node, Plan, Planner, Resources, Service, Step};
use holdfast_policy::{InstanceId, NodeId, Timestamp};

/// The least of this many runs is what it takes; the rest is what the machine did beside it.
const RUNS: usize = 10;

struct Site {
    nodes: Vec<Node>,
    services: Vec<Service>,
    assigned: Vec<Assigned>,
    now: Timestamp,
}

impl Site {
    fn new(nodes: u32, services: u32, replicas: u32) -> Site {
        let node = |n: u32| {
            let mut node = Node::new(&format!("node-{n}"));
            node.labels.insert("zone".into(), format!("z{}", n % 3).into());
            node.labels.insert("rack".into(), format!("r{}", n % 12).into());
            node.capacity = Capacity { cpu_millis: Some(64_000), memory_bytes: Some(256 << 30), slots: None };
            node
        };
        let service = |s: u32| {
            let mut service = Service::new(&format!("service-{s}"), replicas);
            service.each = Resources { cpu_millis: 100 + u64::from(s % 7) * 50, memory_bytes: 256 << 20 };
            service.distinct = s.is_multiple_of(5) && replicas <= nodes;
            service
        };
        Site {
            nodes: (0..nodes).map(node).collect(),
            services: (0..services).map(service).collect(),
            assigned: Vec::new(),
            now: Timestamp::from_millis(10_000_000),
        }
    }

    /// The plan, and the least time that it took.
    fn plan(&self) -> (Plan, Duration) {
        let (nodes, services, assigned) = (&self.nodes, &self.services, &self.assigned);
        let cluster = Cluster { nodes, services, assigned, hold: Hold::No };
        let mut least = Duration::MAX;
        let mut last = Plan::default();
        for _ in 0..RUNS {
            let mut planner = Planner::default();
            let started = Instant::now();
            last = planner.plan(self.now, &cluster);
            least = least.min(started.elapsed());
        }
        (last, least)
    }

    fn apply(&mut self, plan: &Plan) {
        let gone: Vec<(&InstanceId, &NodeId)> = plan
            .steps
            .iter()
            .filter_map(|p| match &p.step {
                Step::Remove { instance, node } => Some((instance, node)),
                _ => None,
            })
            .collect();
        self.assigned.retain(|a| !gone.contains(&(&a.instance, &a.node)));
        for planned in &plan.steps {
            if let Step::Place { instance, node } | Step::Move { instance, to: node, .. } = &planned.step {
                self.assigned.push(Assigned::new(instance.clone(), &node.0, self.now));
            }
        }
    }

    fn show(&self, what: &str) -> Plan {
        let (plan, least) = self.plan();
        println!(
            "{what:<28} {:>6.2} ms  {:>5} steps {:>5} held",
            least.as_secs_f64() * 1e3,
            plan.steps.len(),
            plan.held.len()
        );
        plan
    }
}

fn main() {
    let mut numbers = std::env::args().skip(1).map(|a| a.parse().expect("a number"));
    let mut next = |default| numbers.next().unwrap_or(default);
    let mut site = Site::new(next(50), next(200), next(10));
    let plan = site.show("everything is new");
    site.apply(&plan);
    // Until nothing is to be gained any more.
    loop {
        let (plan, _) = site.plan();
        if plan.is_idle() {
            break;
        }
        site.apply(&plan);
        site.now = site.now + Duration::from_secs(30);
    }
    site.show("nothing to do");
    site.nodes[7].standing = Standing::Lost;
    site.show("a node is lost");
    site.nodes[7].standing = Standing::Draining;
    site.show("a node is drained");
    site.nodes[7].standing = Standing::Open;
    for service in &mut site.services {
        service.replicas *= 2;
    }
    site.show("twice as many replicas");
}
