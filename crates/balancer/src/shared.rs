//! The table that all balancer processes of a node and the agent see: one opinion about each endpoint.
//!
//! A file of atomic words. Counters and what is in flight are kept per process, so that they survive a killed
//! process exactly; ejection is one state for all, so that what one process learnt the others obey at once.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use holdfast_host::lock::Lock;
use holdfast_host::shared::SharedWords;
use holdfast_policy::balance::{Ejection, Verdict};
use holdfast_policy::{Incarnation, Timestamp};

use crate::error::Error;

/// Two run normally, two more during an upgrade; beyond that it is a fault.
pub const PROCESSES_MAX: usize = 8;
pub const ENDPOINTS_MAX: usize = 1024;
pub const BALANCERS_MAX: usize = 256;

/// A verdict counts only while the agent renews its heartbeat: without an agent nobody would take it back.
pub const HEARTBEAT_MAX: Duration = Duration::from_secs(1);

const LAYOUT: u64 = 0x4846_7461_626c_0001;

const HEADER_WORDS: usize = 64;
const W_LAYOUT: usize = 0;
const W_HEARTBEAT: usize = 1;
/// Process slots ever taken: what lies above is not read.
const W_PROCESSES: usize = 2;

/// Per endpoint: 16 shared words, then 8 (one cache line) per process.
const ENDPOINT_WORDS: usize = 16 + 8 * PROCESSES_MAX;
const E_TAG: usize = 0;
const E_UNTIL: usize = 1;
/// Low half count, high half passed probes.
const E_COUNT: usize = 2;
/// Low half transport failures, high half gateway errors in a row.
const E_FAILURES: usize = 3;
const E_RETURNED: usize = 4;
const E_FAILING: usize = 5;
const E_ANSWERED: usize = 6;
const E_VERDICT: usize = 8;
const E_PROCESS: usize = 16;
const P_IN_FLIGHT: usize = 0;
const P_WAITING: usize = 1;

/// Per balancer: 8 shared words, then 8 per process.
const BALANCER_WORDS: usize = 8 + 8 * PROCESSES_MAX;
const B_TAG: usize = 0;
const B_PROCESS: usize = 8;

const ENDPOINTS: usize = HEADER_WORDS;
const BALANCERS: usize = ENDPOINTS + ENDPOINT_WORDS * ENDPOINTS_MAX;
const WORDS: usize = BALANCERS + BALANCER_WORDS * BALANCERS_MAX;

#[derive(Debug)]
pub struct Table {
    words: SharedWords,
    path: PathBuf,
}

/// Final outcomes of requests at one balancer, ever since the balancer exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Counters {
    pub good: u64,
    pub failed: u64,
    pub degraded: u64,
    pub retried: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Count {
    Good = 0,
    Failed = 1,
    Degraded = 2,
    Retried = 3,
}

/// A place in the table, held until dropped; the kernel frees it when the process dies.
#[derive(Debug)]
pub struct ProcessSlot {
    pub index: usize,
    _lock: Lock,
}

impl Table {
    pub fn open(path: &Path) -> Result<Table, Error> {
        let wrap = |source| Error::Table { operation: "map", path: path.to_owned(), source };
        let words = SharedWords::open(path, WORDS).map_err(wrap)?;
        let found = words.get(W_LAYOUT).load(Relaxed);
        if found != 0 && found != LAYOUT {
            return Err(wrap(io::Error::new(io::ErrorKind::InvalidData, "made by another release")));
        }
        words.get(W_LAYOUT).store(LAYOUT, Relaxed);
        Ok(Table { words, path: path.to_owned() })
    }

    /// Takes a place that no living process has, and forgets what its last owner had in flight.
    pub fn take_slot(&self) -> Result<ProcessSlot, Error> {
        for index in 0..PROCESSES_MAX {
            let path = self.path.with_extension(format!("slot-{index}"));
            let taken = Lock::try_take(&path).map_err(|source| Error::Table { operation: "lock", path, source })?;
            let Some(lock) = taken else { continue };
            self.words.get(W_PROCESSES).fetch_max(index as u64 + 1, Relaxed);
            for endpoint in 0..ENDPOINTS_MAX as u16 {
                self.of_process(endpoint, index, P_IN_FLIGHT).store(0, Relaxed);
                self.of_process(endpoint, index, P_WAITING).store(0, Relaxed);
            }
            return Ok(ProcessSlot { index, _lock: lock });
        }
        Err(Error::SlotsTaken { path: self.path.clone(), count: PROCESSES_MAX })
    }

    /// Gives `slot` to an incarnation; state of an earlier one is forgotten. Idempotent, and safe from every process.
    pub fn claim_endpoint(&self, slot: u16, instance: &str, incarnation: Incarnation) {
        if self.claim(self.endpoint(slot, E_TAG), endpoint_tag(instance, incarnation)) {
            for word in [E_UNTIL, E_COUNT, E_FAILURES, E_RETURNED, E_FAILING, E_ANSWERED, E_VERDICT] {
                self.endpoint(slot, word).store(0, Relaxed);
            }
        }
    }

    /// Whether `slot` still belongs to the incarnation of this [`endpoint_tag`]. A process that has not taken in the newest
    /// snapshot must not charge the failures of the dead to the one that came after.
    pub(crate) fn is_of(&self, slot: u16, tag: u64) -> bool {
        self.endpoint(slot, E_TAG).load(Relaxed) == tag
    }

    /// Gives `slot` to a balancer; counters of another one are forgotten.
    pub fn claim_balancer(&self, slot: u16, name: &str) {
        if self.claim(self.balancer(slot, B_TAG), tag(name)) {
            for word in B_PROCESS..BALANCER_WORDS {
                self.balancer(slot, word).store(0, Relaxed);
            }
        }
    }

    fn claim(&self, word: &AtomicU64, tag: u64) -> bool {
        let old = word.load(Relaxed);
        old != tag && word.compare_exchange(old, tag, Relaxed, Relaxed).is_ok()
    }

    /// The agent lives: its verdicts count.
    pub fn beat(&self, now: Timestamp) {
        self.words.get(W_HEARTBEAT).store(now.as_nanos(), Relaxed);
    }

    pub fn set_verdict(&self, slot: u16, verdict: Verdict) {
        let word = match verdict {
            Verdict::Ok => 0,
            Verdict::Stopped => 1,
            Verdict::NoProgress => 2,
            Verdict::Busy => 3,
        };
        self.endpoint(slot, E_VERDICT).store(word, Relaxed);
    }

    pub fn verdict(&self, slot: u16, now: Timestamp) -> Verdict {
        let verdict = match self.endpoint(slot, E_VERDICT).load(Relaxed) {
            1 => Verdict::Stopped,
            2 => Verdict::NoProgress,
            3 => Verdict::Busy,
            _ => return Verdict::Ok,
        };
        let beat = Timestamp::from_nanos(self.words.get(W_HEARTBEAT).load(Relaxed));
        if now.since(beat) > HEARTBEAT_MAX { Verdict::Ok } else { verdict }
    }

    /// Since when the oldest request waits for its first byte, over all processes.
    pub fn waiting_since(&self, slot: u16) -> Option<Timestamp> {
        self.load(slot).1
    }

    /// Over all processes: requests in flight, and since when the oldest waits for its first byte.
    pub(crate) fn load(&self, slot: u16) -> (u32, Option<Timestamp>) {
        let (mut in_flight, mut oldest) = (0, u64::MAX);
        for process in self.processes() {
            in_flight += self.of_process(slot, process, P_IN_FLIGHT).load(Relaxed) as u32;
            let since = self.of_process(slot, process, P_WAITING).load(Relaxed);
            oldest = if since > 0 { since.min(oldest) } else { oldest };
        }
        (in_flight, (oldest < u64::MAX).then_some(Timestamp::from_nanos(oldest)))
    }

    /// For how long requests have waited without any answer. One that answers others makes progress, however long one of its
    /// requests takes.
    pub fn silent_for(&self, slot: u16, now: Timestamp) -> Option<Duration> {
        self.waiting_since(slot).map(|since| self.silence(slot, since, now))
    }

    pub(crate) fn silence(&self, slot: u16, waiting_since: Timestamp, now: Timestamp) -> Duration {
        let answered = Timestamp::from_nanos(self.endpoint(slot, E_ANSWERED).load(Relaxed));
        now.since(waiting_since.max(answered))
    }

    pub fn in_flight(&self, slot: u16) -> u32 {
        self.load(slot).0
    }

    pub fn ejection(&self, slot: u16) -> Ejection {
        let load = |word| self.endpoint(slot, word).load(Relaxed);
        let (count, failures) = (load(E_COUNT), load(E_FAILURES));
        Ejection {
            failures: failures as u32,
            gateway_errors: (failures >> 32) as u32,
            count: count as u32,
            passed: (count >> 32) as u32,
            until: Timestamp::from_nanos(load(E_UNTIL)),
            returned: Timestamp::from_nanos(load(E_RETURNED)),
            failing_since: Timestamp::from_nanos(load(E_FAILING)),
        }
    }

    /// Sum over all processes, dead ones included.
    pub fn counters(&self, slot: u16) -> Counters {
        let sum = |word| self.processes().map(|p| self.balancer(slot, B_PROCESS + 8 * p + word).load(Relaxed)).sum();
        Counters { good: sum(0), failed: sum(1), degraded: sum(2), retried: sum(3) }
    }

    pub(crate) fn count(&self, slot: u16, process: usize, what: Count) {
        self.balancer(slot, B_PROCESS + 8 * process + what as usize).fetch_add(1, Relaxed);
    }

    /// Nothing failed lately and nothing is on trial: a success changes nothing.
    pub(crate) fn is_calm(&self, slot: u16) -> bool {
        self.endpoint(slot, E_FAILURES).load(Relaxed) == 0 && self.endpoint(slot, E_COUNT).load(Relaxed) == 0
    }

    pub(crate) fn store_ejection(&self, slot: u16, before: &Ejection, after: &Ejection) {
        let pack = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let put = |word, old: u64, new: u64| {
            if old != new {
                self.endpoint(slot, word).store(new, Relaxed);
            }
        };
        put(E_FAILURES, pack(before.failures, before.gateway_errors), pack(after.failures, after.gateway_errors));
        put(E_COUNT, pack(before.count, before.passed), pack(after.count, after.passed));
        put(E_UNTIL, before.until.as_nanos(), after.until.as_nanos());
        put(E_RETURNED, before.returned.as_nanos(), after.returned.as_nanos());
        put(E_FAILING, before.failing_since.as_nanos(), after.failing_since.as_nanos());
    }

    pub(crate) fn answered(&self, slot: u16, now: Timestamp) {
        self.endpoint(slot, E_ANSWERED).store(now.as_nanos(), Relaxed);
    }

    pub(crate) fn enter(&self, slot: u16, process: usize) {
        self.of_process(slot, process, P_IN_FLIGHT).fetch_add(1, Relaxed);
    }

    pub(crate) fn leave(&self, slot: u16, process: usize) {
        self.of_process(slot, process, P_IN_FLIGHT).fetch_sub(1, Relaxed);
    }

    pub(crate) fn set_waiting(&self, slot: u16, process: usize, since: u64) {
        self.of_process(slot, process, P_WAITING).store(since, Relaxed);
    }

    fn processes(&self) -> std::ops::Range<usize> {
        0..(self.words.get(W_PROCESSES).load(Relaxed) as usize).min(PROCESSES_MAX)
    }

    fn endpoint(&self, slot: u16, word: usize) -> &AtomicU64 {
        self.words.get(ENDPOINTS + ENDPOINT_WORDS * usize::from(slot).min(ENDPOINTS_MAX - 1) + word)
    }

    fn of_process(&self, slot: u16, process: usize, word: usize) -> &AtomicU64 {
        self.endpoint(slot, E_PROCESS + 8 * process + word)
    }

    fn balancer(&self, slot: u16, word: usize) -> &AtomicU64 {
        self.words.get(BALANCERS + BALANCER_WORDS * usize::from(slot).min(BALANCERS_MAX - 1) + word)
    }
}

/// FNV-1a, never 0.
pub(crate) fn endpoint_tag(instance: &str, incarnation: Incarnation) -> u64 {
    tag(&format!("{instance}/{incarnation}"))
}

fn tag(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)) | 1
}

#[cfg(test)]
mod tests {
    use holdfast_policy::balance::{Signal, eject::Rules};
    use holdfast_policy::rng::Rng;

    use super::*;

    #[test]
    fn an_ejection_is_seen_through_another_mapping_and_ends_with_its_incarnation() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) =
            (Table::open(&dir.path().join("shared")).unwrap(), Table::open(&dir.path().join("shared")).unwrap());
        a.claim_endpoint(3, "web-1", Incarnation { generation: 1, run: 1 });
        let before = a.ejection(3);
        let mut after = before;
        after.observe(Timestamp::from_millis(5), Signal::Refused, &Rules::default(), 1, &mut Rng::from_seed(1));
        a.store_ejection(3, &before, &after);
        assert_eq!(b.ejection(3), after);
        b.claim_endpoint(3, "web-1", Incarnation { generation: 1, run: 1 });
        assert_eq!(b.ejection(3), after, "the same incarnation keeps its state");
        b.claim_endpoint(3, "web-1", Incarnation { generation: 1, run: 2 });
        assert_eq!(a.ejection(3), Ejection::default());
    }

    #[test]
    fn a_dead_process_leaves_its_counts_and_not_its_requests() {
        let dir = tempfile::tempdir().unwrap();
        let table = Table::open(&dir.path().join("shared")).unwrap();
        let (first, second) = (table.take_slot().unwrap(), table.take_slot().unwrap());
        assert_eq!((first.index, second.index), (0, 1));
        table.enter(0, first.index);
        table.enter(0, second.index);
        table.count(0, first.index, Count::Good);
        table.set_waiting(0, first.index, 77);
        assert_eq!((table.in_flight(0), table.waiting_since(0)), (2, Some(Timestamp::from_nanos(77))));
        drop(first);
        assert_eq!(table.take_slot().unwrap().index, 0);
        assert_eq!((table.in_flight(0), table.waiting_since(0), table.counters(0).good), (1, None, 1));
    }

    #[test]
    fn a_verdict_counts_while_the_agent_lives() {
        let dir = tempfile::tempdir().unwrap();
        let table = Table::open(&dir.path().join("shared")).unwrap();
        table.set_verdict(1, Verdict::Stopped);
        table.beat(Timestamp::from_millis(10_000));
        assert_eq!(table.verdict(1, Timestamp::from_millis(10_900)), Verdict::Stopped);
        assert_eq!(table.verdict(1, Timestamp::from_millis(11_100)), Verdict::Ok);
    }

    #[test]
    fn a_late_teller_of_an_earlier_life_does_not_own_the_slot() {
        let dir = tempfile::tempdir().unwrap();
        let table = Table::open(&dir.path().join("shared")).unwrap();
        let life = |run| Incarnation { generation: 1, run };
        table.claim_endpoint(3, "web-1", life(1));
        let dead = endpoint_tag("web-1", life(1));
        assert!(table.is_of(3, dead));
        table.claim_endpoint(3, "web-1", life(2));
        assert!(!table.is_of(3, dead), "its failures would eject the one that came after");
    }
}
