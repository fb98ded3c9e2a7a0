//! A cluster whose sources say what the test wants; all members look at all nodes once a second.

use super::super::*;

/// Of the leases.
pub(crate) const TTL: Duration = Duration::from_secs(10);
const START_MILLIS: u64 = 1_000_000;
const LOOK_EVERY_MILLIS: u64 = 1000;

pub(crate) struct Rig {
    pub(crate) now: Timestamp,
    pub(crate) membership: Membership,
    pub(crate) changes: Vec<Change>,
    names: Vec<NodeId>,
    /// What `by` hears of `node`.
    said: BTreeMap<(NodeId, NodeId), Link>,
    mute: Vec<NodeId>,
    next_look: Timestamp,
}

pub(crate) fn name(text: &str) -> NodeId {
    text.into()
}

impl Rig {
    /// All are ready.
    pub(crate) fn ready(nodes: usize) -> Rig {
        let mut rig = Rig::new(nodes);
        rig.run(5_000);
        rig.changes.clear();
        rig
    }

    pub(crate) fn new(nodes: usize) -> Rig {
        let now = Timestamp::from_millis(START_MILLIS);
        let names: Vec<NodeId> = (1..=nodes).map(|n| name(&format!("n{n}"))).collect();
        let membership = Membership::new(now, name("n1"), 7, TTL, Rules::ALL);
        let mut rig = Rig {
            now,
            membership,
            changes: Vec::new(),
            names,
            said: BTreeMap::new(),
            mute: Vec::new(),
            next_look: now,
        };
        for node in rig.names.clone() {
            rig.known(&node.0, "boot-1", 7, Admin::Open);
            rig.lease(&node.0, Lease::Present);
        }
        rig
    }

    pub(crate) fn handle(&mut self, event: Event) {
        let changes = self.membership.handle(self.now, event);
        self.changes.extend(changes);
    }

    pub(crate) fn known(&mut self, node: &str, boot: &str, release: u32, admin: Admin) {
        self.handle(Event::Known { node: name(node), boot: boot.into(), release, admin });
    }

    pub(crate) fn lease(&mut self, node: &str, lease: Lease) {
        self.handle(Event::Lease { node: name(node), lease });
    }

    /// What everybody hears of the node from the next look on.
    pub(crate) fn links(&mut self, node: &str, link: Link) {
        for by in self.names.clone() {
            self.said.insert((by, name(node)), link);
        }
    }

    pub(crate) fn hears(&mut self, by: &str, node: &str, link: Link) {
        self.said.insert((name(by), name(node)), link);
    }

    /// Both sources lose the node, and the decision falls.
    pub(crate) fn lose(&mut self, node: &str) {
        self.links(node, Link::Silent);
        self.run(4_000);
        self.lease(node, Lease::Gone);
        self.run(1_000);
        assert_eq!(self.state(node), "lost");
    }

    /// Both sources have it again.
    pub(crate) fn find(&mut self, node: &str) {
        self.links(node, Link::Answers);
        self.lease(node, Lease::Present);
        self.run(1_500);
    }

    pub(crate) fn start(&self) -> Timestamp {
        Timestamp::from_millis(START_MILLIS)
    }

    /// A member whose word does not arrive.
    pub(crate) fn mute(&mut self, by: &str) {
        self.mute.push(name(by));
    }

    /// Looks and ticks for so many milliseconds.
    pub(crate) fn run(&mut self, millis: u64) {
        for _ in 0..millis / 100 {
            self.now = self.now + Duration::from_millis(100);
            if self.now >= self.next_look {
                self.next_look = self.now + Duration::from_millis(LOOK_EVERY_MILLIS);
                self.look();
            }
            let changes = self.membership.tick(self.now);
            self.changes.extend(changes);
        }
    }

    /// Nobody looks meanwhile.
    pub(crate) fn tick_only(&mut self, millis: u64) {
        self.next_look = self.now + Duration::from_millis(millis + 100);
        self.run(millis);
    }

    /// The whole process stood still.
    pub(crate) fn pause(&mut self, millis: u64) {
        self.now = self.now + Duration::from_millis(millis);
    }

    fn look(&mut self) {
        let speak: Vec<NodeId> = self.names.iter().filter(|by| !self.mute.contains(by)).cloned().collect();
        for by in speak {
            for node in self.names.clone().into_iter().filter(|node| *node != by) {
                let link = *self.said.get(&(by.clone(), node.clone())).unwrap_or(&Link::Answers);
                self.handle(Event::Link { node, by: by.clone(), link, at: self.now });
            }
        }
    }

    pub(crate) fn state(&self, node: &str) -> &'static str {
        self.membership.state(&name(node)).map_or("unknown", State::name)
    }

    pub(crate) fn view(&self, node: &str) -> View {
        let views = self.membership.views();
        views.into_iter().find(|v| v.node == name(node)).expect("a known node")
    }

    pub(crate) fn hold(&self) -> &'static str {
        match self.membership.hold(self.now) {
            Hold::No => "",
            Hold::Brake { .. } => "brake",
            Hold::Void { .. } => "void",
        }
    }
}
