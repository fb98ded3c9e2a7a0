//! Balancers that keep requests in a queue: the worker that makes those requests when their service is back.

use holdfast_config::{Balancer, Config};
use holdfast_policy::time::millis;
use holdfast_tasks::definition::{How, Worker};

/// Requests that are made at once. From a FIFO queue one: what a receive hands out of one group is made in its order.
const AT_ONCE: u32 = 4;
const LEASE_MS: u64 = 30_000;
/// Above the time that one answer may take, which is the balancer's own.
const SPARE_MS: u64 = 10_000;

/// None for a queue that has a worker in the file: who works on it was said there.
pub(super) fn workers(config: &Config) -> impl Iterator<Item = (String, Worker)> + '_ {
    let is_first = |balancer: &&Balancer| {
        let queue = |b: &Balancer| b.fallback.as_ref().map(|f| f.queue.clone());
        config.balancers.values().find(|b| queue(b) == queue(balancer)).is_some_and(|b| b.name == balancer.name)
    };
    config.balancers.values().filter(is_first).filter_map(|balancer| Some((name(balancer), worker(config, balancer)?)))
}

/// No name in the file begins like this.
fn name(balancer: &Balancer) -> String {
    format!("_fallback-{}", balancer.name)
}

fn worker(config: &Config, balancer: &Balancer) -> Option<Worker> {
    let fallback = balancer.fallback.as_ref()?;
    let queue = config.queues.get(&fallback.queue)?;
    if config.workers.values().any(|worker| worker.queue == fallback.queue) {
        return None;
    }
    let at_once = if queue.fifo { 1 } else { AT_ONCE };
    let timeout_ms = millis(balancer.timeouts.first_byte);
    Some(Worker {
        queue: queue.sqs_name(),
        how: How::Replay { service: balancer.service.clone(), timeout_ms },
        min: at_once,
        max: at_once,
        backlog: 1,
        age_ms: 1_000,
        lease_ms: LEASE_MS,
        timeout_ms: timeout_ms.saturating_add(SPARE_MS),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
[queue.orders]
fifo = true
[queue.mail]
[service.shop]
command = ["shop"]
[balancer.public]
listen = "127.0.0.1:8080"
service = "shop"
fallback = { queue = "orders", key = "X-Customer" }
timeouts = { first_byte = "7s" }
[balancer.inside]
listen = "127.0.0.1:8081"
service = "shop"
fallback = { queue = "mail" }
[balancer.more]
listen = "127.0.0.1:8082"
service = "shop"
fallback = { queue = "mail" }
"#;

    fn of(text: &str) -> Vec<(String, Worker)> {
        let path = std::path::Path::new("holdfast.toml");
        let loaded = holdfast_config::parse(text, path, &holdfast_config::Environment::here());
        workers(&loaded.expect("a good file").config).collect()
    }

    #[test]
    fn each_queue_has_one_worker_and_a_fifo_queue_one_request_at_once() {
        let all = of(FILE);
        let told: Vec<_> = all.iter().map(|(name, w)| (name.as_str(), w.queue.as_str(), w.max)).collect();
        assert_eq!(told, [("_fallback-inside", "mail", AT_ONCE), ("_fallback-public", "orders.fifo", 1)]);
        assert_eq!(all[1].1.how, How::Replay { service: "shop".into(), timeout_ms: 7_000 });
    }

    #[test]
    fn a_worker_of_the_file_has_its_queue_for_itself() {
        let own = format!("{FILE}[worker.own]\nqueue = \"orders\"\ncommand = [\"handle\"]\n");
        assert_eq!(of(&own).iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["_fallback-inside"]);
    }
}
