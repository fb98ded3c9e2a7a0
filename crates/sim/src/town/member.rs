//! What makes an agent a member: its lease, its view of the store, its looks at the others, its share. Mirrors
//! `holdfast::agent::member`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use holdfast_cluster::members::{
    ALIVE, InstanceState, LEADER, LINKS, Links, NODE, NodeState, Registration, STATE, View, put,
};
use holdfast_cluster::{Change, Event as Told, Guard, LeaseId, Txn, epoch};
use holdfast_observe::status::{self, State as Shown};
use holdfast_policy::Timestamp;
use holdfast_policy::lease::{Action as Renewal, FencingToken, Keeper, Timings};
use holdfast_policy::membership::Link;
use holdfast_services::supervisor::{EndpointState, Event, Placement, Word, share};

use super::address;
use super::calls::{Call, Reply, concerns_holders, holders};
use super::lead::Leader;
use super::world::{Note, Town};

const TIMINGS: Timings = Timings::DEFAULT;
pub(super) const TTL: Duration = TIMINGS.ttl;
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Between two tries for a role.
const AGAIN: Duration = Duration::from_millis(500);
/// A watch that says nothing is asked.
const FETCH_EVERY: Duration = Duration::from_secs(2);
const GATHER: Duration = Duration::from_millis(20);
/// What has no signal of its own is looked at this often.
const REPORT_EVERY: Duration = Duration::from_secs(2);
const HOLDERS_EVERY: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) link: Link,
    pub(super) at: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    Presence,
    Lead,
    Address,
}

/// A key under a lease, kept by the real keeper.
pub(super) struct Role {
    key: String,
    node: String,
    resume: bool,
    pub(super) keeper: Option<Keeper>,
    lease: LeaseId,
    pub(super) revision: u64,
    pending: Option<(u64, Timestamp)>,
    pub(super) again: Timestamp,
}

impl Role {
    pub(super) fn new(key: &str, node: &str, resume: bool) -> Role {
        Role {
            key: key.into(),
            node: node.into(),
            resume,
            keeper: None,
            lease: LeaseId(0),
            revision: 0,
            pending: None,
            again: Timestamp::ZERO,
        }
    }

    pub(super) fn set_node(&mut self, node: &str) {
        if self.node.is_empty() {
            self.node = node.to_owned();
        }
    }

    /// The lease that is not wanted any more.
    pub(super) fn let_go(&mut self) -> LeaseId {
        (self.keeper, self.pending) = (None, None);
        self.lease
    }

    pub(super) fn holds(&self, local: Timestamp) -> bool {
        self.keeper.as_ref().is_some_and(|keeper| keeper.holds(local))
    }

    pub(super) fn next_deadline(&self, wanted: bool) -> Timestamp {
        match &self.keeper {
            Some(keeper) => keeper.next_deadline(),
            None if wanted && self.pending.is_none() => self.again,
            None => Timestamp::NEVER,
        }
    }
}

/// Where the watch of the store stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Follow {
    Idle(Timestamp),
    Listing(u64),
    Watching,
}

pub(super) struct Member {
    name: String,
    pub(super) view: View,
    pub(super) fresh: bool,
    next: u64,
    pub(super) cluster: u64,
    token: FencingToken,
    contact: Timestamp,
    admitted: bool,
    pub(super) heard: BTreeMap<String, Heard>,
    look_at: Timestamp,
    /// What was heard is not told yet.
    links_told: Option<Links>,
    links_sent: Option<(u64, Links)>,
    follow: Follow,
    fetch: Option<u64>,
    fetch_at: Timestamp,
    presence: Role,
    pub(super) lead: Role,
    registered: bool,
    registering: Option<u64>,
    state_told: Option<NodeState>,
    state_sent: Option<(u64, NodeState)>,
    report_at: Timestamp,
    placement: Option<Placement>,
    /// The view or what was heard is new.
    changed: bool,
    holders: Option<u64>,
    holders_at: Timestamp,
    pub(super) leader: Option<Leader>,
    /// Whether leases may be claimed.
    pub(super) current: epoch::Current,
}

impl Member {
    pub(super) fn new(local: Timestamp, name: &str, token: FencingToken, set_back: Option<Timestamp>) -> Member {
        Member {
            name: name.into(),
            view: View::default(),
            fresh: false,
            next: 0,
            cluster: 0,
            token,
            contact: Timestamp::ZERO,
            admitted: false,
            heard: BTreeMap::new(),
            look_at: local,
            links_told: None,
            links_sent: None,
            follow: Follow::Idle(local),
            fetch: None,
            fetch_at: local,
            presence: Role::new(&format!("{ALIVE}{name}"), name, false),
            lead: Role::new(LEADER, name, false),
            registered: false,
            registering: None,
            state_told: None,
            state_sent: None,
            report_at: local,
            placement: None,
            changed: false,
            holders: None,
            holders_at: local,
            leader: None,
            current: epoch::Current::resumed(set_back),
        }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.token.epoch
    }

    pub(super) fn in_touch(&self, local: Timestamp) -> bool {
        local.since(self.contact) < TIMINGS.renew + TIMINGS.ttl / 5
    }

    pub(super) fn changed_here(&mut self) {
        self.report_at = self.report_at.min(self.report_at - REPORT_EVERY + GATHER);
    }

    fn wants_lead(&self) -> bool {
        let free = self.view.leader.as_ref().is_none_or(|holder| holder.node == self.name);
        self.fresh && self.view.alive.contains_key(&self.name) && free
    }

    pub(super) fn next_deadline(&self, _: Timestamp) -> Timestamp {
        let follow = match self.follow {
            Follow::Idle(at) => at,
            Follow::Listing(_) => Timestamp::NEVER,
            Follow::Watching if self.fetch.is_none() => self.fetch_at,
            Follow::Watching => Timestamp::NEVER,
        };
        let holders = if self.holders.is_none() { self.holders_at } else { Timestamp::NEVER };
        let leader =
            self.leader.as_ref().filter(|l| l.writing.is_none()).map_or(Timestamp::NEVER, |l| l.next_deadline());
        [
            self.look_at,
            follow,
            holders,
            leader,
            self.report_at,
            self.presence.next_deadline(true),
            self.lead.next_deadline(self.wants_lead()),
        ]
        .into_iter()
        .min()
        .unwrap_or(Timestamp::NEVER)
    }
}

impl Town {
    fn member(&mut self, m: usize) -> Option<&mut Member> {
        self.machines[m].agent.as_mut().map(|agent| &mut agent.member)
    }

    pub(super) fn role(&mut self, m: usize, which: Which) -> Option<&mut Role> {
        let agent = self.machines[m].agent.as_mut()?;
        Some(match which {
            Which::Presence => &mut agent.member.presence,
            Which::Lead => &mut agent.member.lead,
            Which::Address => &mut agent.address.role,
        })
    }

    /// Everything of an agent that is due.
    pub(super) fn run_agent(&mut self, m: usize) {
        let local = self.machines[m].local(self.now);
        let supervisor = self.machines[m].agent.as_ref().and_then(|agent| agent.supervisor.next_deadline());
        if supervisor.is_some_and(|at| at <= local) {
            self.feed(m, Event::Tick);
        }
        self.look_around(m, local);
        self.follow(m, local);
        self.drive(m, Which::Presence, true);
        let wants = self.member(m).is_some_and(|member| member.wants_lead());
        self.drive(m, Which::Lead, wants);
        self.register(m, local);
        self.report(m, local);
        let changed = self.member(m).is_some_and(|member| std::mem::take(&mut member.changed));
        if changed {
            self.place(m);
        }
        self.ask_holders(m, local);
        self.lead(m, changed);
        self.run_address(m);
    }

    fn look_around(&mut self, m: usize, local: Timestamp) {
        let Some(member) = self.member(m).filter(|member| member.look_at <= local) else { return };
        member.look_at = local + LOOK_EVERY;
        for other in (0..self.machines.len()).filter(|other| *other != m) {
            let link = self.link(m, other);
            let name = self.machines[other].name.clone();
            let Some(member) = self.member(m).filter(|member| member.view.nodes.contains_key(&name)) else { continue };
            let before = member.heard.insert(name, Heard { link, at: local });
            let same = before.is_some_and(|known| known.link == link);
            member.changed |= !same;
        }
        let Some(member) = self.member(m) else { return };
        let renewed = member.leader.is_some();
        if member.links_sent.is_none() {
            let of = |link: Link| -> BTreeSet<String> {
                member.heard.iter().filter(|(_, h)| h.link == link).map(|(name, _)| name.clone()).collect()
            };
            let links = Links {
                version: 1,
                under: member.view.under(&member.name),
                silent: of(Link::Silent),
                refused: of(Link::Refused),
                answers: of(Link::Answers),
            };
            let stored = !member.fresh || member.view.links.contains_key(&member.name);
            if member.links_told.as_ref() != Some(&links) || !stored {
                let Ok(op) = put(LINKS, &member.name, &links) else { return };
                let id = self.ask(m, Call::Txn(Txn::always([op])));
                if let Some(member) = self.member(m) {
                    member.links_sent = Some((id, links));
                }
            }
        }
        if renewed {
            self.lead(m, false);
        }
    }

    fn link(&mut self, m: usize, other: usize) -> Link {
        let now = self.now;
        let there = self.net.send(now, &mut self.rng, m, other).zip(self.net.send(now, &mut self.rng, other, m));
        let machine = &self.machines[other];
        match there {
            Some((to, from)) if machine.up && !machine.frozen && to + from < Duration::from_millis(450) => {
                match (&machine.agent, machine.agent_runs(now)) {
                    (_, true) => Link::Answers,
                    (None, _) => Link::Refused,
                    _ => Link::Silent,
                }
            }
            _ => Link::Silent,
        }
    }

    fn follow(&mut self, m: usize, local: Timestamp) {
        let Some(member) = self.member(m) else { return };
        match member.follow {
            Follow::Idle(at) if at <= local => {
                let known = member.token;
                let id = self.ask(m, Call::List { known });
                self.member(m).into_iter().for_each(|member| member.follow = Follow::Listing(id));
            }
            Follow::Watching if member.fetch.is_none() && member.fetch_at <= local => {
                let call = Call::Fetch { cluster: member.cluster, next: member.next };
                let id = self.ask(m, call);
                self.member(m).into_iter().for_each(|member| member.fetch = Some(id));
            }
            _ => {}
        }
    }

    fn take(&mut self, m: usize, told: Vec<Told>) {
        let (local, relist) = (self.machines[m].local(self.now), self.rules.relist);
        let mut holders = false;
        let mut address = None;
        let Some(member) = self.member(m) else { return };
        (member.contact, member.fetch_at) = (local, local + FETCH_EVERY);
        for event in told {
            if let Told::Changes { revision, changes } = &event {
                if *revision < member.next {
                    continue;
                }
                member.next = revision + 1;
                holders |= changes.iter().any(|c| concerns_holders(c.key()));
                for change in changes.iter().filter(|c| c.key() == address::KEY) {
                    address = Some(matches!(change, Change::Put(_)));
                }
            }
            if !member.view.apply(&event) {
                match event {
                    Told::Compacted { compacted } if !relist => member.next = compacted + 1,
                    _ => {
                        // A copy older than what was seen is told by it.
                        let seen = FencingToken { create_revision: member.view.revision, ..member.token };
                        member.token = member.token.max(seen);
                        member.fresh = false;
                        member.follow = Follow::Idle(local + Duration::from_millis(100));
                        (member.fetch, member.changed) = (None, true);
                        break;
                    }
                }
            }
            member.changed = true;
        }
        if holders {
            member.holders_at = local;
        }
        self.machines[m].token = self.machines[m].agent.as_ref().map_or(FencingToken::default(), |a| a.member.token);
        if let Some(held) = address {
            self.address_held(m, held);
        }
    }

    pub(super) fn notice(&mut self, m: usize, note: Note) {
        match note {
            Note::Event(event) => self.feed(m, *event),
            Note::Pushed => {
                let Some(member) = self.member(m).filter(|member| member.follow == Follow::Watching) else { return };
                let (next, cluster) = (member.next, member.cluster);
                let told = if cluster == self.store.cluster { self.store.since(next) } else { vec![Told::Lost] };
                self.take(m, told);
            }
            Note::Answer(id, reply) => self.answered(m, id, reply),
            Note::Probed(_) | Note::Peers(..) => self.address_told(m, note),
        }
    }

    fn answered(&mut self, m: usize, id: u64, reply: Reply) {
        let local = self.machines[m].local(self.now);
        if self.lease_answered(m, id, &reply) {
            return;
        }
        for which in [Which::Presence, Which::Lead, Which::Address] {
            if self.role(m, which).is_some_and(|role| role.pending.is_some_and(|(asked, _)| asked == id)) {
                return self.role_answered(m, which, reply);
            }
        }
        let Some(member) = self.member(m) else { return };
        let done = matches!(reply, Reply::Done(true));
        if member.follow == Follow::Listing(id) {
            return self.listed(m, local, reply);
        }
        if member.fetch == Some(id) {
            member.fetch = None;
            member.fetch_at = local + FETCH_EVERY;
            if let Reply::Fetched(told) = reply {
                self.take(m, told);
            }
        } else if let Some((_, links)) = member.links_sent.take_if(|(asked, _)| *asked == id) {
            member.links_told = done.then_some(links);
        } else if let Some((_, state)) = member.state_sent.take_if(|(asked, _)| *asked == id) {
            member.state_told = done.then_some(state);
        } else if member.registering == Some(id) {
            (member.registering, member.registered) = (None, done);
        } else if member.holders == Some(id) {
            member.holders = None;
            member.holders_at = local + if matches!(reply, Reply::Unavailable) { AGAIN } else { HOLDERS_EVERY };
            if let Reply::Holders { keys } = reply {
                let event = holders(member.token.epoch, &keys);
                self.feed(m, event);
            }
        } else if let Some(leader) = member.leader.as_mut().filter(|leader| leader.writing == Some(id)) {
            leader.writing = None;
            self.lead(m, true);
        }
    }

    fn listed(&mut self, m: usize, local: Timestamp, reply: Reply) {
        let again = local + Duration::from_millis(100 + self.rng.below(400));
        let Some(member) = self.member(m) else { return };
        let Reply::Listed { listing, epoch, cluster } = reply else {
            member.follow = Follow::Idle(again);
            return;
        };
        let token = FencingToken { epoch, create_revision: listing.revision };
        let restored = epoch::is_copy(member.token.epoch, epoch);
        member.current.learn(epoch, restored.then_some(local));
        member.token = member.token.max(token);
        member.view = View::of(&listing);
        (member.next, member.cluster, member.fresh) = (listing.revision + 1, cluster, true);
        (member.follow, member.changed, member.contact) = (Follow::Watching, true, local);
        (member.fetch_at, member.holders_at) = (local + FETCH_EVERY, local);
        let token = member.token;
        let name = member.name.clone();
        self.machines[m].token = token;
        if restored {
            self.machines[m].set_back = Some(local);
        }
        let held = listing.items.iter().any(|kv| kv.key == address::KEY);
        self.address_held(m, held);
        if restored {
            self.note(format!("{name}: the store is an older copy, epoch {epoch}"));
        }
    }

    pub(super) fn drive(&mut self, m: usize, which: Which, wants: bool) {
        let local = self.machines[m].local(self.now);
        let claims = self.member(m).is_some_and(|member| member.current.may_claim(local, TIMINGS.ttl));
        let wants = wants && (which != Which::Address || claims);
        let Some(role) = self.role(m, which) else { return };
        if let Some(keeper) = &mut role.keeper {
            match keeper.poll(local) {
                Some(Renewal::Renew) => {
                    keeper.sent(local);
                    let call = Call::Renew { lease: role.lease, key: role.key.clone(), revision: role.revision };
                    let id = self.ask(m, call);
                    self.role(m, which).into_iter().for_each(|role| role.pending = Some((id, local)));
                }
                Some(Renewal::Stop(lost)) => {
                    (role.keeper, role.pending, role.again) = (None, None, local + AGAIN);
                    self.role_lost(m, which, lost);
                }
                None => {}
            }
        } else if wants && role.pending.is_none() && role.again <= local {
            let call =
                Call::Claim { key: role.key.clone(), node: role.node.clone(), ttl: TIMINGS.ttl, resume: role.resume };
            let id = self.ask(m, call);
            self.role(m, which).into_iter().for_each(|role| role.pending = Some((id, local)));
        }
    }

    fn role_answered(&mut self, m: usize, which: Which, reply: Reply) {
        let local = self.machines[m].local(self.now);
        let Some(role) = self.role(m, which) else { return };
        let Some((_, sent)) = role.pending.take() else { return };
        match (reply, &mut role.keeper) {
            (Reply::Won { lease, revision }, None) => {
                (role.keeper, role.lease, role.revision) = (Some(Keeper::new(TIMINGS, sent)), lease, revision);
                self.role_won(m, which, local);
            }
            (Reply::Renewed(true), Some(keeper)) => keeper.acknowledged(local),
            (Reply::Renewed(false), Some(keeper)) => keeper.revoked(),
            (_, Some(keeper)) => keeper.failed(local),
            (_, None) => role.again = local + AGAIN,
        }
        match which {
            Which::Address => self.address_renewed(m),
            Which::Presence => {
                if let Some(member) = self.member(m).filter(|member| {
                    member
                        .presence
                        .keeper
                        .as_ref()
                        .is_some_and(|k| k.deadline() > local + TIMINGS.give_up - TIMINGS.renew * 2)
                }) {
                    member.contact = local;
                }
            }
            Which::Lead => {}
        }
    }

    fn role_won(&mut self, m: usize, which: Which, local: Timestamp) {
        let rules = self.rules;
        let Some(member) = self.member(m) else { return };
        match which {
            Which::Presence => (member.admitted, member.registered, member.changed) = (true, false, true),
            Which::Lead => {
                let token = FencingToken { epoch: member.token.epoch, create_revision: member.lead.revision };
                member.token = member.token.max(token);
                member.leader = Some(Leader::new(local, &member.name.clone(), rules));
                let (name, token) = (member.name.clone(), member.token);
                self.machines[m].token = token;
                self.note(format!("{name} leads"));
            }
            Which::Address => {}
        }
    }

    fn role_lost(&mut self, m: usize, which: Which, lost: holdfast_policy::lease::Lost) {
        match which {
            Which::Lead => self.member(m).into_iter().for_each(|member| member.leader = None),
            Which::Presence => self.member(m).into_iter().for_each(|member| member.registered = false),
            Which::Address => self.address_lost(m, lost),
        }
        let name = &self.machines[m].name;
        let text = format!("{name}: {which:?} is lost: {lost:?}");
        self.note(text);
    }

    fn register(&mut self, m: usize, local: Timestamp) {
        let boot = self.machines[m].boot;
        let Some(member) = self.member(m) else { return };
        if member.registered || member.registering.is_some() || !member.presence.holds(local) {
            return;
        }
        let record = Registration {
            version: 1,
            name: member.name.clone(),
            address: std::net::Ipv4Addr::LOCALHOST.into(),
            link: None,
            labels: BTreeMap::new(),
            cpu_millis: None,
            memory_bytes: None,
            program: "0.1.0".into(),
            boot: boot.to_string(),
            secured: false,
            authority: false,
        };
        let guard = Guard::created_at(format!("{ALIVE}{}", member.name), member.presence.revision);
        let Ok(op) = put(NODE, &member.name, &record) else { return };
        let id = self.ask(m, Call::Txn(Txn::when([guard]).then([op])));
        self.member(m).into_iter().for_each(|member| member.registering = Some(id));
    }

    fn report(&mut self, m: usize, local: Timestamp) {
        let Some(member) = self.member(m).filter(|member| member.report_at <= local) else { return };
        member.report_at = local + REPORT_EVERY;
        if !member.fresh || !member.view.alive.contains_key(&member.name) || member.state_sent.is_some() {
            return;
        }
        let (name, stored) = (member.name.clone(), member.view.states.contains_key(&member.name));
        let state = self.state(m, local);
        let told = self.member(m).and_then(|member| member.state_told.clone());
        if told.as_ref() != Some(&state) || !stored {
            let Ok(op) = put(STATE, &name, &state) else { return };
            let id = self.ask(m, Call::Txn(Txn::always([op])));
            if let Some(member) = self.member(m) {
                member.state_sent = Some((id, state));
            }
        }
    }

    fn state(&mut self, m: usize, local: Timestamp) -> NodeState {
        let machine = &self.machines[m];
        let Some(agent) = &machine.agent else { return NodeState::default() };
        let mut instances = Vec::new();
        for (name, service) in &agent.supervisor.status(local).services {
            for seen in &service.instances {
                let endpoint = agent.published.get(&seen.id).map(|(_, state)| *state);
                instances.push(InstanceState {
                    shown: status::Instance {
                        id: seen.id.to_string(),
                        state: shown(seen.state),
                        incarnation: Some(seen.incarnation.to_string()),
                        role: seen.role.map(str::to_owned),
                        node: Some(machine.name.clone()),
                        ..status::Instance::default()
                    },
                    since_wall_ms: 0,
                    service: name.to_string(),
                    ordinal: seen.id.ordinal,
                    addr: None,
                    endpoint: endpoint.filter(|e| *e != EndpointState::Gone).map(|e| e.name().to_owned()),
                    failures: seen.failures,
                    outdated: seen.outdated,
                    acting: seen.acting,
                    due: seen.due,
                    able: seen.role == Some("standby") && matches!(seen.able, Some(Ok(_))),
                });
            }
        }
        let under = agent.member.view.under(&machine.name);
        NodeState { version: 1, under, revision: 1, instances, ..NodeState::default() }
    }

    /// This machine's share, with what is known of the rest.
    fn place(&mut self, m: usize) {
        let services = self.services.clone();
        let Some(member) = self.member(m).filter(|m| m.view.revision > 0 && m.admitted) else { return };
        let own = member.view.assigned.get(&member.name).map(|own| (**own).clone()).unwrap_or_default();
        let placement = share(services.keys().map(|name| &**name), &member.name, &member.view, |node| {
            let answers = member.heard.get(node).is_some_and(|h| h.link == Link::Answers);
            match (answers, member.view.alive.contains_key(node)) {
                (true, true) => Word::Good,
                (false, false) if member.fresh => Word::Void,
                _ => Word::Doubtful,
            }
        });
        let new = member.placement.as_ref() != Some(&placement);
        member.placement = Some(placement.clone());
        if self.machines[m].kept.instances != own.instances {
            self.machines[m].kept = own;
        }
        if new {
            self.feed(m, Event::Placement(Some(placement)));
        }
    }

    fn ask_holders(&mut self, m: usize, local: Timestamp) {
        let due = |member: &&mut Member| member.holders.is_none() && member.holders_at <= local && member.fresh;
        if self.member(m).filter(due).is_some() {
            let id = self.ask(m, Call::Holders);
            self.member(m).into_iter().for_each(|member| member.holders = Some(id));
        } else if let Some(member) = self.member(m).filter(|member| member.holders_at <= local) {
            member.holders_at = local + AGAIN;
        }
    }
}

fn shown(name: &str) -> Shown {
    match name {
        "launching" | "unknown" | "promoting" | "dry" => Shown::Starting,
        "not_ready" => Shown::Unready,
        "waiting" | "absent" => Shown::Pending,
        "restarting" | "finishing" => Shown::Stopping,
        "lost" | "orphaned" => Shown::Suspect,
        other => Shown::from_name(other),
    }
}
