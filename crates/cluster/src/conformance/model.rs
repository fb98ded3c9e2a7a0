//! Random histories, compared with a model that is simple enough to be believed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_policy::rng::Rng;

use super::{Bench, next};
use crate::{Change, Event, Guard, KeyValue, LeaseId, Op, Order, Response, Store, Txn};

/// Keys are few, so that histories meet.
const KEYS: [&str; 5] = ["a", "a/1", "a/2", "b", "ba"];
const STEPS: u64 = 60;
/// Long enough not to expire.
const TTL: Duration = Duration::from_secs(3600);

/// A store without time: a map, a revision, and what happened.
#[derive(Default)]
struct Model {
    revision: u64,
    map: BTreeMap<String, KeyValue>,
    history: Vec<(u64, Vec<Change>)>,
}

impl Model {
    fn txn(&mut self, txn: &Txn) -> (bool, u64, Vec<Response>) {
        let succeeded = txn.guards.iter().all(|g| g.holds(self.map.get(g.key())));
        let ops = if succeeded { &txn.then } else { &txn.otherwise };
        let mut changes = Vec::new();
        let responses = ops.iter().map(|op| self.apply(op, &mut changes)).collect();
        self.commit(changes);
        (succeeded, self.revision, responses)
    }

    fn commit(&mut self, changes: Vec<Change>) {
        if !changes.is_empty() {
            self.revision += 1;
            self.history.push((self.revision, changes));
        }
    }

    fn under(&self, prefix: &str) -> Vec<KeyValue> {
        self.map.values().filter(|kv| kv.key.starts_with(prefix)).cloned().collect()
    }

    fn apply(&mut self, op: &Op, changes: &mut Vec<Change>) -> Response {
        match op {
            Op::Get { key } => Response::Get(self.map.get(key).cloned()),
            Op::List { prefix } => Response::List(self.under(prefix)),
            Op::Put { key, value, lease } => {
                let now = self.revision + 1;
                let old = self.map.get(key);
                let kv = KeyValue {
                    key: key.clone(),
                    value: value.clone(),
                    create_revision: old.map_or(now, |kv| kv.create_revision),
                    mod_revision: now,
                    version: old.map_or(1, |kv| kv.version + 1),
                    lease: *lease,
                };
                self.map.insert(key.clone(), kv.clone());
                changes.push(Change::Put(kv));
                Response::Put
            }
            Op::Delete { key } => Response::Deleted(self.delete(vec![key.clone()], changes)),
            Op::DeletePrefix { prefix } => {
                let keys = self.under(prefix).into_iter().map(|kv| kv.key).collect();
                Response::Deleted(self.delete(keys, changes))
            }
        }
    }

    fn delete(&mut self, keys: Vec<String>, changes: &mut Vec<Change>) -> u64 {
        let before = changes.len();
        for key in keys {
            if self.map.remove(&key).is_some() {
                changes.push(Change::Delete { key });
            }
        }
        (changes.len() - before) as u64
    }

    fn revoke(&mut self, lease: LeaseId) {
        let keys = self.map.values().filter(|kv| kv.lease == Some(lease)).map(|kv| kv.key.clone()).collect();
        let mut changes = Vec::new();
        self.delete(keys, &mut changes);
        self.commit(changes);
    }
}

/// `seeds` histories of random transactions, leases and revocations against `store`, which nobody else may write to
/// meanwhile. Answers, final content and the watched history must be the model's.
pub async fn random_histories(store: Arc<dyn Store>, name: &str, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let prefix = format!("/conformance/{name}/seed-{seed}/");
        let bench = Bench { store: store.clone(), prefix, ttl_min: TTL };
        one_history(&bench, seed).await;
    }
}

async fn one_history(bench: &Bench, seed: u64) {
    let mut rng = Rng::from_seed(seed);
    let start = bench.list().await.revision;
    let mut model = Model { revision: start, ..Model::default() };
    let mut live = bench.watch(start + 1).await;
    let mut leases: Vec<LeaseId> = Vec::new();
    for step in 0..STEPS {
        match rng.below(10) {
            0 => leases.push(bench.store.grant(TTL).await.expect("it is granted").id),
            1 if !leases.is_empty() => {
                let lease = leases.swap_remove(rng.below(leases.len() as u64) as usize);
                bench.store.revoke(lease).await.expect("it is revoked");
                model.revoke(lease);
            }
            _ => {
                let txn = random_txn(bench, &model, &leases, &mut rng);
                let want = model.txn(&txn);
                let got = bench.txn(txn.clone()).await;
                assert_eq!((got.succeeded, got.revision, got.responses), want, "seed {seed} step {step}: {txn:?}");
            }
        }
    }
    let listing = bench.list().await;
    assert_eq!((listing.revision, listing.items), (model.revision, model.under(&bench.prefix)), "seed {seed}");
    let mut replayed = bench.watch(start + 1).await;
    for watch in [&mut live, &mut replayed] {
        for (revision, changes) in &model.history {
            let got = sorted(next(watch).await);
            let want = sorted(Event::Changes { revision: *revision, changes: changes.clone() });
            assert_eq!(got, want, "seed {seed}");
        }
    }
    for lease in leases {
        bench.store.revoke(lease).await.expect("it is revoked");
    }
}

/// Within one revision engines may order deletions differently.
fn sorted(event: Event) -> Event {
    match event {
        Event::Changes { revision, mut changes } => {
            changes.sort_by(|a, b| a.key().cmp(b.key()));
            Event::Changes { revision, changes }
        }
        other => other,
    }
}

fn random_txn(bench: &Bench, model: &Model, leases: &[LeaseId], rng: &mut Rng) -> Txn {
    loop {
        let guards = (0..rng.below(3)).map(|_| random_guard(bench, model, rng)).collect();
        let then = (0..1 + rng.below(4)).map(|_| random_op(bench, leases, rng)).collect();
        let otherwise = (0..rng.below(3)).map(|_| random_op(bench, leases, rng)).collect();
        let txn = Txn { guards, then, otherwise };
        if txn.validate().is_ok() {
            return txn;
        }
    }
}

fn random_key(bench: &Bench, rng: &mut Rng) -> String {
    bench.key(KEYS[rng.below(KEYS.len() as u64) as usize])
}

fn random_guard(bench: &Bench, model: &Model, rng: &mut Rng) -> Guard {
    let key = random_key(bench, rng);
    let order = [Order::Equal, Order::NotEqual, Order::Less, Order::Greater][rng.below(4) as usize];
    // Near what is there, so that both outcomes are common.
    let near = |found: u64, rng: &mut Rng| (found + rng.below(3)).saturating_sub(1);
    let found = model.map.get(&key);
    match rng.below(4) {
        0 => Guard::Value { key, order, value: vec![rng.below(3) as u8] },
        1 => Guard::CreateRevision { revision: near(found.map_or(0, |kv| kv.create_revision), rng), key, order },
        2 => Guard::ModRevision { revision: near(found.map_or(0, |kv| kv.mod_revision), rng), key, order },
        _ => Guard::Version { version: near(found.map_or(0, |kv| kv.version), rng), key, order },
    }
}

fn random_op(bench: &Bench, leases: &[LeaseId], rng: &mut Rng) -> Op {
    let key = random_key(bench, rng);
    match rng.below(10) {
        0 => Op::Get { key },
        1 => Op::List { prefix: key },
        2 | 3 => Op::Delete { key },
        4 => Op::DeletePrefix { prefix: key },
        n => {
            let lease = (n > 7 && !leases.is_empty()).then(|| leases[rng.below(leases.len() as u64) as usize]);
            Op::Put { key, value: vec![rng.below(3) as u8], lease }
        }
    }
}
