//! Which machines' addresses a name in the DNS has, for several balancers at once: decided by the leader, which writes the whole
//! set each time, so that a write that comes twice or late is put right by the next.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use crate::backoff::Backoff;
use crate::rng::Rng;
use crate::{NodeId, Timestamp};

/// Between tries of a server that does not take it.
const AGAIN: Backoff = Backoff { base: Duration::from_secs(1), factor: 2.0, max: Duration::from_secs(60), jitter: 0.2 };
/// A leader of before may have had a write under way when it lost the lead; its write arrives within this time.
const SECOND_WRITE: Duration = Duration::from_secs(15);
/// Somebody else may have written to the name.
const WRITE_AGAIN: Duration = Duration::from_secs(3600);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It is trusted, and its balancer serves.
    Well,
    /// Nobody knows: it stays as it is.
    Doubtful,
    /// It is lost, is being emptied, or its balancer is not to run there.
    Gone,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub name: NodeId,
    pub addresses: Vec<IpAddr>,
    pub health: Health,
}

/// What is to be written, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    pub addresses: BTreeSet<IpAddr>,
    pub added: BTreeSet<IpAddr>,
    pub removed: BTreeSet<IpAddr>,
}

#[derive(Debug)]
pub struct Keeper {
    /// A machine must have been well for so long before it is listed again.
    stable: Duration,
    listed: Option<BTreeMap<NodeId, Vec<IpAddr>>>,
    well_since: BTreeMap<NodeId, Timestamp>,
    written: Option<BTreeSet<IpAddr>>,
    writing: Option<BTreeSet<IpAddr>>,
    /// From then on no leader of before writes any more.
    alone: Option<Timestamp>,
    failures: u32,
    /// No write before; one without a change then.
    next: Timestamp,
    again: Timestamp,
}

impl Keeper {
    pub fn new(stable: Duration) -> Keeper {
        Keeper {
            stable,
            listed: None,
            well_since: BTreeMap::new(),
            written: None,
            writing: None,
            alone: None,
            failures: 0,
            next: Timestamp::ZERO,
            again: Timestamp::NEVER,
        }
    }

    /// `hold`: the evidence is void or the brake is on, so nothing is taken away or added.
    pub fn look(&mut self, now: Timestamp, nodes: &[Node], hold: bool) -> Option<Write> {
        for node in nodes {
            match node.health {
                Health::Well => _ = self.well_since.entry(node.name.clone()).or_insert(now),
                _ => _ = self.well_since.remove(&node.name),
            }
        }
        self.well_since.retain(|name, _| nodes.iter().any(|node| node.name == *name));
        self.choose(now, nodes, hold);
        let wanted: BTreeSet<IpAddr> = self.listed.iter().flatten().flat_map(|(_, all)| all.iter().copied()).collect();
        let due = self.written.as_ref() != Some(&wanted) || now >= self.again;
        if wanted.is_empty() || self.writing.is_some() || !due || now < self.next {
            return None;
        }
        let before = self.written.clone().unwrap_or_default();
        self.writing = Some(wanted.clone());
        Some(Write {
            added: wanted.difference(&before).copied().collect(),
            removed: before.difference(&wanted).copied().collect(),
            addresses: wanted,
        })
    }

    /// The last one is never taken away: a name without an address helps nobody.
    fn choose(&mut self, now: Timestamp, nodes: &[Node], hold: bool) {
        let Some(listed) = &self.listed else {
            // What the leader of before had written is not known: whoever is not gone may be used.
            let usable = nodes.iter().filter(|node| node.health != Health::Gone);
            let usable: BTreeMap<_, _> = usable.map(|n| (n.name.clone(), n.addresses.clone())).collect();
            if !hold && !usable.is_empty() {
                self.listed = Some(usable);
            }
            return;
        };
        if hold {
            return;
        }
        let stays = |node: &&Node| match node.health {
            Health::Gone => false,
            Health::Doubtful => listed.contains_key(&node.name),
            Health::Well => {
                let since = self.well_since.get(&node.name).copied().unwrap_or(now);
                listed.contains_key(&node.name) || now >= since + self.stable
            }
        };
        let next: BTreeMap<_, _> =
            nodes.iter().filter(stays).map(|node| (node.name.clone(), node.addresses.clone())).collect();
        if !next.is_empty() {
            self.listed = Some(next);
        }
    }

    /// What became of the write that was asked for.
    pub fn done(&mut self, now: Timestamp, ok: bool, rng: &mut Rng) {
        let Some(writing) = self.writing.take() else { return };
        if !ok {
            self.next = now + AGAIN.delay(self.failures, rng);
            self.failures = self.failures.saturating_add(1);
            return;
        }
        (self.written, self.failures, self.next) = (Some(writing), 0, now);
        let alone = *self.alone.get_or_insert(now + SECOND_WRITE);
        self.again = if now < alone { alone } else { now + WRITE_AGAIN };
    }

    /// When it is to be looked at again, whatever happens.
    pub fn next_deadline(&self, now: Timestamp) -> Timestamp {
        let waiting = self.well_since.iter().filter(|(name, _)| self.listed.iter().all(|l| !l.contains_key(*name)));
        let stable = waiting.map(|(_, since)| *since + self.stable).filter(|at| *at > now).min();
        let failed = Some(self.next).filter(|at| *at > now);
        [stable, failed, Some(self.again)].into_iter().flatten().min().unwrap_or(Timestamp::NEVER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STABLE: Duration = Duration::from_secs(10);

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    fn ip(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    fn nodes(text: &str) -> Vec<Node> {
        let health = |c| match c {
            'w' => Health::Well,
            'd' => Health::Doubtful,
            _ => Health::Gone,
        };
        let node = |(n, c): (usize, char)| Node {
            name: format!("n{}", n + 1).as_str().into(),
            addresses: vec![ip(n as u8 + 1)],
            health: health(c),
        };
        text.chars().enumerate().map(node).collect()
    }

    struct Rig(Keeper, Rng);

    impl Rig {
        fn new() -> Rig {
            Rig(Keeper::new(STABLE), Rng::from_seed(1))
        }

        /// Last bytes of the addresses that are written then; nothing is `-`.
        fn look(&mut self, ms: u64, text: &str, hold: bool) -> String {
            let Some(write) = self.0.look(at(ms), &nodes(text), hold) else { return "-".into() };
            self.0.done(at(ms), true, &mut self.1);
            write.addresses.iter().map(|a| a.to_string().rsplit('.').next().unwrap_or_default().to_owned()).collect()
        }
    }

    #[test]
    fn a_dead_machine_is_withdrawn_at_once_and_listed_again_when_it_is_stable() {
        let mut rig = Rig::new();
        assert_eq!(rig.look(0, "www", false), "123");
        assert_eq!(rig.look(100, "www", false), "-");
        assert_eq!(rig.look(1000, "wdw", false), "-", "doubt changes nothing");
        assert_eq!(rig.look(2000, "wgw", false), "13");
        assert_eq!(rig.look(3000, "www", false), "-");
        assert_eq!(rig.look(9000, "wdw", false), "-");
        assert_eq!(rig.look(10_000, "www", false), "-", "counted anew after a doubt");
        assert_eq!(rig.0.next_deadline(at(10_000)), at(15_000), "the second write of a new leader comes first");
        assert_eq!(rig.look(15_000, "www", false), "13");
        assert_eq!(rig.look(20_000, "www", false), "123");
        assert_eq!(rig.look(20_000 + 3_600_000, "www", false), "123", "somebody else may have written to the name");
    }

    #[test]
    fn nothing_changes_without_evidence_and_the_last_address_stays() {
        let mut rig = Rig::new();
        assert_eq!(rig.look(0, "www", true), "-", "a new leader does not know yet");
        assert_eq!(rig.look(10, "gww", false), "23");
        assert_eq!(rig.look(20, "ggg", true), "-");
        assert_eq!(rig.look(30, "ggw", false), "3");
        assert_eq!(rig.look(40, "ggg", false), "-");
        assert_eq!(rig.look(50, "dgg", false), "-", "a doubtful one is not added");
    }

    #[test]
    fn a_failed_write_is_tried_again_with_back_off_and_one_at_a_time() {
        let mut rig = Rig::new();
        assert!(rig.0.look(at(0), &nodes("ww"), false).is_some());
        assert!(rig.0.look(at(1), &nodes("wg"), false).is_none(), "one is under way");
        rig.0.done(at(5), false, &mut rig.1);
        assert!(rig.0.look(at(6), &nodes("wg"), false).is_none());
        let again = rig.0.next_deadline(at(6));
        assert!(again > at(700) && again < at(1300), "{again:?}");
        let write = rig.0.look(again, &nodes("wg"), false).unwrap();
        assert_eq!((write.addresses, write.added), ([ip(1)].into(), [ip(1)].into()), "as things are then");
    }

    proptest::proptest! {
        /// Whatever is told: never empty, never an address of a machine that is gone while another is well.
        #[test]
        fn what_is_written_is_never_empty_nor_dead(steps in proptest::collection::vec("[wdg]{3}", 1..40)) {
            let mut rig = Rig::new();
            let mut listed = String::new();
            for (n, text) in steps.iter().enumerate() {
                let wrote = rig.look(n as u64 * 5000, text, false);
                if wrote != "-" {
                    assert!(!wrote.is_empty());
                    listed = wrote;
                }
                for (i, c) in text.chars().enumerate() {
                    let has = listed.contains(&(i + 1).to_string());
                    let gone = |d: char| text.chars().nth(d as usize - '1' as usize) == Some('g');
                    let other = listed.chars().any(|d| !gone(d));
                    assert!(!(c == 'g' && has && other), "{listed} of {i} after {text}");
                }
            }
        }
    }
}
