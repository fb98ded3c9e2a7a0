//! Names in the DNS, kept by the leader: what `policy::dns` decides is written by RFC 2136 or by a command.

mod rfc2136;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use holdfast_config::{Balancer, Config, Dns, DnsBy};
use holdfast_host::clock;
use holdfast_host::job::Job;
use holdfast_host::shim::Value;
use holdfast_policy::Timestamp;
use holdfast_policy::dns::{Health, Keeper, Node, Write};
use holdfast_policy::rng::Rng;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::super::{Member, Seen, fits, labels, reference};
use super::{Core, tell};

/// For a write, by whatever way: well within the time that a leader of before may still believe that it leads.
const SERVER_TIME: Duration = Duration::from_secs(5);
const COMMAND_TIME: Duration = Duration::from_secs(30);
const OUTPUT_BYTES_MAX: u64 = 16 * 1024;

/// The names of this leader. Writes that are under way end with it.
pub(super) struct Names {
    all: BTreeMap<String, Name>,
    rng: Rng,
    written: Arc<Notify>,
}

struct Name {
    dns: Dns,
    keeper: Keeper,
    writing: Option<(Write, JoinHandle<Result<(), String>>)>,
    failed: Option<String>,
}

impl Drop for Name {
    fn drop(&mut self) {
        if let Some((_, task)) = &self.writing {
            task.abort();
        }
    }
}

impl Names {
    pub(super) fn new() -> Names {
        Names { all: BTreeMap::new(), rng: Rng::from_seed(clock::now().as_nanos()), written: Arc::default() }
    }

    /// Until a write has ended.
    pub(super) async fn changed(&self) {
        self.written.notified().await;
    }

    pub(super) fn next_deadline(&self, now: Timestamp) -> Timestamp {
        self.all.values().map(|name| name.keeper.next_deadline(now)).min().unwrap_or(Timestamp::NEVER)
    }

    /// `hold`: nothing is known for sure.
    pub(super) fn look(
        &mut self,
        now: Timestamp,
        member: &Member,
        core: &Core,
        seen: &Seen,
        config: &Config,
        hold: bool,
    ) {
        let wanted = config.balancers.values().filter_map(|balancer| Some((balancer, balancer.dns.as_ref()?)));
        let wanted: Vec<(&Balancer, &Dns)> = wanted.collect();
        self.all.retain(|balancer, name| wanted.iter().any(|(b, dns)| b.name == *balancer && **dns == name.dns));
        for (balancer, dns) in wanted {
            let name = self.all.entry(balancer.name.clone()).or_insert_with(|| Name {
                dns: dns.clone(),
                keeper: Keeper::new(dns.stable),
                writing: None,
                failed: None,
            });
            name.settle(now, core, &mut self.rng);
            let nodes = nodes(member, seen, config, balancer);
            if let Some(write) = name.keeper.look(now, &nodes, hold) {
                name.begin(write, core, self.written.clone());
            }
        }
        let failed = |name: &Name| name.failed.as_ref().map(|why| format!("{}: {why}", name.dns.name));
        member.set_unnamed(self.all.values().filter_map(failed).collect());
    }
}

impl Name {
    fn begin(&mut self, write: Write, core: &Core, written: Arc<Notify>) {
        let (dns, wanted, node) = (self.dns.clone(), write.clone(), core.node.0.clone());
        let task = tokio::spawn(async move {
            let done = match &dns.by {
                DnsBy::Server { servers, zone, key } => {
                    // Read each time: a secret that was replaced is used without a restart.
                    let key = key.as_ref().map(|(name, secret)| Ok((name.clone(), reference(secret)?))).transpose();
                    match key {
                        Ok(key) => {
                            rfc2136::write(servers, zone, &dns, &wanted.addresses, key.as_ref(), SERVER_TIME).await
                        }
                        Err(why) => Err(why),
                    }
                }
                DnsBy::Command(argv) => run(&job(argv, &dns, &wanted, &node)).await,
            };
            written.notify_one();
            done
        });
        self.writing = Some((write, task));
    }

    /// Takes up how a write ended.
    fn settle(&mut self, now: Timestamp, core: &Core, rng: &mut Rng) {
        let Some((write, task)) = self.writing.take_if(|(_, task)| task.is_finished()) else { return };
        let done = futures_util::FutureExt::now_or_never(task).unwrap_or(Ok(Err("it did not end".to_owned())));
        let done = done.unwrap_or_else(|panic| Err(panic.to_string()));
        self.keeper.done(now, done.is_ok(), rng);
        let subject = format!("dns/{}", self.dns.name);
        match done {
            Ok(()) => {
                let changed = !write.added.is_empty() || !write.removed.is_empty();
                if changed || self.failed.is_some() {
                    let mut words = vec![format!("its addresses are {}", joined(&write.addresses))];
                    if !write.removed.is_empty() {
                        words.push(format!("withdrawn: {}", joined(&write.removed)));
                    }
                    tell(core, &subject, "", "written", words.join("; "));
                }
                self.failed = None;
            }
            Err(why) => {
                if self.failed.as_ref() != Some(&why) {
                    tell(core, &subject, "", "not_written", format!("HF0435: {why}"));
                }
                self.failed = Some(why);
            }
        }
    }
}

fn joined(addresses: &BTreeSet<IpAddr>) -> String {
    addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",")
}

/// Machines on which the balancer is to run, with how they are.
fn nodes(member: &Member, seen: &Seen, config: &Config, balancer: &Balancer) -> Vec<Node> {
    let carries = |name: &str| fits(&labels(config, &name.into()), &balancer.on);
    let health = |name: &str| {
        let leaves = seen.view.admin.get(name).is_some_and(|admin| admin.draining || admin.removing);
        let serves = seen.view.states.get(name).is_some_and(|state| state.planes > 0);
        match member.standing(name) {
            "lost" => Health::Gone,
            _ if leaves => Health::Gone,
            "ready" if serves => Health::Well,
            _ => Health::Doubtful,
        }
    };
    let nodes = seen.view.nodes.values().filter(|node| carries(&node.name));
    nodes
        .map(|node| {
            let public = config.nodes.get(&node.name).map(|machine| machine.public_addresses.clone());
            Node {
                name: node.name.as_str().into(),
                addresses: public.filter(|all| !all.is_empty()).unwrap_or_else(|| vec![node.address]),
                health: health(&node.name),
            }
        })
        .collect()
}

fn job(argv: &[String], dns: &Dns, write: &Write, node: &str) -> Job {
    let put = |name: &str, value: String| (name.to_owned(), Value::Plain(value));
    Job {
        argv: argv.to_vec(),
        env: vec![
            put("HOLDFAST_DNS_NAME", dns.name.clone()),
            put("HOLDFAST_DNS_TTL", dns.ttl.as_secs().to_string()),
            put("HOLDFAST_DNS_ADDRESSES", joined(&write.addresses)),
            put("HOLDFAST_DNS_ADDED", joined(&write.added)),
            put("HOLDFAST_DNS_REMOVED", joined(&write.removed)),
        ],
        deadline: COMMAND_TIME,
        output_bytes_max: OUTPUT_BYTES_MAX,
        owner: format!("dns/{}", dns.name),
        token: format!("dns-{node}"),
        ..Job::default()
    }
}

async fn run(job: &Job) -> Result<(), String> {
    let outcome = job.run().await.map_err(|error| error.to_string())?;
    if outcome.success() { Ok(()) } else { Err(outcome.words()) }
}
