//! What agents ask of the store. Each call is done at one moment when it arrives; its answer may be lost, and then nobody
//! knows. Mirrors `cluster::election`, `cluster::epoch` and `services::services::leases`, which are asynchronous.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_cluster::{Event as Told, Guard, KeyValue, LeaseId, Listing, Op, Txn, epoch};
use holdfast_policy::lease::FencingToken;
use holdfast_policy::{InstanceId, Timestamp};
use holdfast_services::supervisor::{Event, Holder};

use super::world::Town;

const FENCED: &str = "/fenced/";
const STANDBY: &str = "/standby/";

#[derive(Clone, Debug)]
pub(super) enum Call {
    /// `policy::lease` by way of `election::Campaign`.
    Claim {
        key: String,
        node: String,
        ttl: Duration,
        resume: bool,
    },
    Renew {
        lease: LeaseId,
        key: String,
        revision: u64,
    },
    Revoke(LeaseId),
    Txn(Txn),
    /// List everything, settle the epoch, watch from there.
    List {
        known: FencingToken,
    },
    /// The watch, asked whether there is more.
    Fetch {
        cluster: u64,
        next: u64,
    },
    Hold {
        instance: InstanceId,
        shared: bool,
        ttl: Duration,
        held: Option<(LeaseId, u64)>,
        /// Also when nobody has it.
        claims: bool,
    },
    Release {
        instance: InstanceId,
        shared: bool,
    },
    Fenced(InstanceId),
    Holders,
}

#[derive(Clone, Debug)]
pub(super) enum Reply {
    Unavailable,
    Won { lease: LeaseId, revision: u64 },
    Taken,
    Renewed(bool),
    Done(bool),
    Listed { listing: Listing, epoch: u64, cluster: u64 },
    Fetched(Vec<Told>),
    Held { lease: LeaseId, revision: u64, owed: Vec<String> },
    Holders { keys: Vec<KeyValue> },
}

/// Members that owe the lease, and who held it last.
#[derive(Clone, Debug, Default)]
struct Owed {
    last: Option<String>,
    members: Vec<String>,
}

impl Owed {
    fn read(kv: Option<&KeyValue>) -> (Owed, u64) {
        let Some(kv) = kv else { return (Owed::default(), 0) };
        let text = String::from_utf8_lossy(&kv.value).into_owned();
        let (last, rest) = text.split_once('|').unwrap_or(("", ""));
        let members = rest.split(',').filter(|m| !m.is_empty()).map(str::to_owned).collect();
        (Owed { last: (!last.is_empty()).then(|| last.to_owned()), members }, kv.mod_revision)
    }

    fn text(&self) -> String {
        format!("{}|{}", self.last.clone().unwrap_or_default(), self.members.join(","))
    }
}

fn key(instance: &InstanceId, shared: bool) -> String {
    if shared { format!("{FENCED}{}", instance.service) } else { format!("{FENCED}{instance}") }
}

fn owed_key(instance: &InstanceId) -> String {
    format!("{STANDBY}{}/owed", instance.service)
}

fn node_of(kv: &KeyValue) -> String {
    let text = String::from_utf8_lossy(&kv.value).into_owned();
    text.split('"').nth(5).unwrap_or_default().to_owned()
}

impl Town {
    pub(super) fn serve(&mut self, m: usize, call: Call) -> Reply {
        let now = self.now;
        self.store.expire(now);
        match call {
            Call::Claim { key, node, ttl, resume } => self.claim(now, &key, &node, ttl, resume),
            Call::Renew { lease, key, revision } => {
                let kept = self.store.keep_alive(now, lease);
                Reply::Renewed(kept && self.store.get(&key).is_some_and(|kv| kv.create_revision == revision))
            }
            Call::Revoke(lease) => {
                self.store.revoke(lease);
                Reply::Done(true)
            }
            Call::Txn(txn) => Reply::Done(self.store.txn(&txn).succeeded),
            Call::List { known } => {
                let epoch = self.settle_epoch(known);
                Reply::Listed { listing: self.store.list(""), epoch, cluster: self.store.cluster }
            }
            Call::Fetch { cluster, .. } if cluster != self.store.cluster => Reply::Fetched(vec![Told::Lost]),
            Call::Fetch { next, .. } => Reply::Fetched(self.store.since(next)),
            // An answer of another store than the one that is followed says nothing about tokens.
            Call::Hold { .. } if self.rules.new_epoch && !self.is_followed(m) => Reply::Unavailable,
            Call::Hold { instance, shared, ttl, held, claims } => self.hold(m, &instance, shared, (ttl, claims), held),
            Call::Release { instance, shared } => self.release(m, &instance, shared),
            Call::Fenced(instance) => {
                let (mut owed, _) = Owed::read(self.store.get(&owed_key(&instance)));
                let own = self.own_name(m, &instance);
                owed.members.retain(|member| *member == own);
                self.store.txn(&Txn::always([Op::put(owed_key(&instance), owed.text())]));
                Reply::Done(true)
            }
            Call::Holders => {
                let mut keys = self.store.list(FENCED).items;
                keys.extend(self.store.list(STANDBY).items);
                Reply::Holders { keys }
            }
        }
    }

    /// A new one starts when the agent has seen a higher token than this state can have handed out, and when the state was
    /// kept by another store than this: then it is an older copy, whoever knows of it.
    fn settle_epoch(&mut self, known: FencingToken) -> u64 {
        let stored = self.store.get(epoch::KEY).and_then(|kv| epoch::Record::read(&kv.value).ok());
        let of = self.rules.new_epoch.then(|| epoch::name_of(self.store.cluster));
        let Some(next) = epoch::Record::after(stored.as_ref(), self.store.revision(), of.as_deref(), known) else {
            return stored.map_or(0, |record| record.epoch);
        };
        let Ok(value) = next.bytes() else { return 0 };
        self.store.txn(&Txn::always([Op::put(epoch::KEY, value)]));
        next.epoch
    }

    fn is_followed(&self, m: usize) -> bool {
        self.machines[m].agent.as_ref().is_some_and(|agent| agent.member.cluster == self.store.cluster)
    }

    fn new_lease(&mut self, ttl: Duration) -> LeaseId {
        let id = LeaseId((self.rng.next_u64() >> 1) as i64);
        self.store.grant(self.now, id, ttl);
        id
    }

    fn claim(&mut self, now: Timestamp, key: &str, node: &str, ttl: Duration, resume: bool) -> Reply {
        if let Some(found) = self.store.get(key).cloned() {
            let own = node_of(&found) == node;
            if let Some(lease) = found.lease.filter(|_| own) {
                if resume && self.store.keep_alive(now, lease) {
                    return Reply::Won { lease, revision: found.create_revision };
                }
                self.store.revoke(lease);
            }
            return Reply::Taken;
        }
        let lease = self.new_lease(ttl);
        let value = format!(r#"{{"version":1,"node":"{node}","nonce":"{}"}}"#, lease.0);
        let put = Op::Put { key: key.into(), value: value.into_bytes(), lease: Some(lease) };
        let revision = self.store.txn(&Txn::when([Guard::absent(key)]).then([put])).revision;
        Reply::Won { lease, revision }
    }

    fn own_name(&self, m: usize, instance: &InstanceId) -> String {
        format!("{instance}@{}", self.machines[m].name)
    }

    fn hold(
        &mut self,
        m: usize,
        instance: &InstanceId,
        shared: bool,
        (ttl, claims): (Duration, bool),
        held: Option<(LeaseId, u64)>,
    ) -> Reply {
        let now = self.now;
        let own = self.own_name(m, instance);
        let owed = |town: &Town| -> Vec<String> {
            let (owed, _) = Owed::read(town.store.get(&owed_key(instance)));
            owed.members.into_iter().filter(|member| *member != own).collect()
        };
        if let Some((lease, revision)) = held
            && self.store.keep_alive(now, lease)
        {
            self.judge_renewal(m, instance);
            return Reply::Held { lease, revision, owed: owed(self) };
        }
        let key = key(instance, shared);
        if let Some(found) = self.store.get(&key).cloned() {
            let is_own = String::from_utf8_lossy(&found.value) == *own;
            let Some(lease) = found.lease.filter(|_| is_own) else { return Reply::Taken };
            if !claims {
                return Reply::Unavailable;
            }
            if self.store.keep_alive(now, lease) {
                return Reply::Held { lease, revision: found.create_revision, owed: owed(self) };
            }
            return Reply::Unavailable;
        }
        if !claims {
            return Reply::Unavailable;
        }
        let lease = self.new_lease(ttl);
        let mut ops = vec![Op::Put { key: key.clone(), value: own.clone().into_bytes(), lease: Some(lease) }];
        if shared {
            let (mut debt, _) = Owed::read(self.store.get(&owed_key(instance)));
            debt.members.retain(|member| *member != own);
            debt.members.push(own.clone());
            debt.last = Some(instance.to_string());
            ops.push(Op::put(owed_key(instance), debt.text()));
        }
        let revision = self.store.txn(&Txn::when([Guard::absent(&key)]).then(ops)).revision;
        Reply::Held { lease, revision, owed: owed(self) }
    }

    fn release(&mut self, m: usize, instance: &InstanceId, shared: bool) -> Reply {
        let own = self.own_name(m, instance);
        let key = key(instance, shared);
        let found = self.store.get(&key).cloned().filter(|kv| String::from_utf8_lossy(&kv.value) == *own);
        let Some(found) = found else { return Reply::Done(true) };
        if shared {
            let (mut owed, _) = Owed::read(self.store.get(&owed_key(instance)));
            owed.members.retain(|member| *member != own);
            let guard = Guard::created_at(&key, found.create_revision);
            let ops = [Op::delete(&key), Op::put(owed_key(instance), owed.text())];
            self.store.txn(&Txn::when([guard]).then(ops));
        }
        if let Some(lease) = found.lease {
            self.store.revoke(lease);
        }
        Reply::Done(true)
    }
}

/// As `services::leases::watch` tells the Supervisor.
pub(super) fn holders(epoch: u64, keys: &[KeyValue]) -> Event {
    let mut holders: BTreeMap<Arc<str>, Holder> = BTreeMap::new();
    let mut last: BTreeMap<Arc<str>, InstanceId> = BTreeMap::new();
    for kv in keys {
        let text = String::from_utf8_lossy(&kv.value).into_owned();
        if let Some(name) = kv.key.strip_prefix(FENCED) {
            let Some((member, node)) = text.split_once('@') else { continue };
            let Ok(member) = member.parse::<InstanceId>() else { continue };
            if *member.service == *name {
                let token = FencingToken { epoch, create_revision: kv.create_revision };
                holders.insert(name.into(), Holder { member, node: node.to_owned(), token });
            }
        } else if let Some(name) = kv.key.strip_prefix(STANDBY).and_then(|k| k.strip_suffix("/owed"))
            && let Some(member) = Owed::read(Some(kv)).0.last.and_then(|member| member.parse().ok())
        {
            last.insert(name.into(), member);
        }
    }
    Event::Holders { holders, last, wishes: BTreeMap::new() }
}

/// Whether a change is about leases of services.
pub(super) fn concerns_holders(key: &str) -> bool {
    key.starts_with(FENCED) || key.starts_with(STANDBY)
}
