//! When an incident opens, what folds into it, and when it closes.
//!
//! One subject has at most one open incident; more faults of it meanwhile fold in. When every instance of a service
//! fails within [`COMMON_CAUSE_WINDOW`], their incidents are one with a common cause, kept under the service's name.
//!
//! Events come from rings that are copied one after the other, and one fault is seen by several sources: shim, agent, balancer. So an
//! event counts by its own time, and one that arrives late finds the closed incident it belongs to.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::time::Timestamp;

/// Failures of all instances this close together are taken for one cause.
pub const COMMON_CAUSE_WINDOW: Duration = Duration::from_secs(10);

/// A fault is told by its sources within this time of each other, and counts once.
pub const SAME_FAULT: Duration = Duration::from_millis(100);

/// A late event belongs to an incident that was detected at most this much later by somebody else.
const LATE: Duration = Duration::from_secs(1);

/// Closed incidents remembered for late events, for each subject, and subjects.
const CLOSED_MAX: usize = 8;
const SUBJECTS_MAX: usize = 2000;

/// Open incidents kept; the oldest one is given up as `unresolved` beyond it.
pub const OPEN_MAX: usize = 1000;

/// Identity of the event that opened it: the same on every node.
pub type Key = Arc<str>;

/// What an event is to an incident of its subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Something is wrong.
    Detected,
    /// What to do about it was decided.
    Decided,
    /// It was done.
    Acted,
    /// The subject serves again.
    Ready,
    /// The subject ended on purpose (stopped, scaled away): nothing is left to recover.
    Gone,
    /// Says nothing about failures.
    Neutral,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    pub moment: Moment,
    pub key: Key,
    /// `instance/web-2`, `balancer/public`, `agent`.
    pub subject: Arc<str>,
    /// The service that the subject is an instance of, and how many instances that should have.
    pub service: Option<(Arc<str>, u32)>,
    pub stage: Stage,
    pub reason: String,
}

/// On both clocks: durations come from boot time, or from wall time across a reboot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    pub at: Timestamp,
    pub wall_ms: u64,
    /// Boot id that `at` counts in.
    pub boot: Arc<str>,
}

impl Moment {
    pub fn until(&self, later: &Moment) -> Duration {
        match self.boot == later.boot {
            true => later.at.since(self.at),
            false => Duration::from_millis(later.wall_ms.saturating_sub(self.wall_ms)),
        }
    }

    fn apart(&self, other: &Moment) -> Duration {
        self.until(other).max(other.until(self))
    }

    /// Rings are copied one after the other, so an event may arrive after later ones.
    fn is_before(&self, other: &Moment) -> bool {
        self.boot == other.boot && self.at < other.at
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incident {
    pub id: Key,
    pub subject: Arc<str>,
    pub cause: String,
    pub detected: Moment,
    pub decided: Option<Moment>,
    pub acted: Option<Moment>,
    pub ready: Option<Moment>,
    /// What was done, in order, without repeats.
    pub actions: Vec<String>,
    /// Faults seen while it was open, the first included.
    pub faults: u32,
    pub last_fault: Moment,
    pub failed_requests: u64,
    /// Subjects that failed with it; more than one only for a common cause.
    pub subjects: Vec<Arc<str>>,
    pub common_cause: bool,
    /// Of `subjects`, those that are not ready again yet.
    pub waiting: Vec<Arc<str>>,
    pub outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Open,
    Recovered,
    /// The subject was stopped on purpose before it recovered.
    Ended,
    /// Folded into the incident of the common cause.
    Merged,
}

impl Outcome {
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Open => "open",
            Outcome::Recovered => "recovered",
            Outcome::Ended => "ended",
            Outcome::Merged => "merged",
        }
    }
}

/// Actions listed in one incident; a crash loop repeats itself.
const ACTIONS_MAX: usize = 16;

impl Incident {
    fn open(seen: &Sighting) -> Incident {
        Incident {
            id: seen.key.clone(),
            subject: seen.subject.clone(),
            cause: seen.reason.clone(),
            detected: seen.moment.clone(),
            decided: None,
            acted: None,
            ready: None,
            actions: Vec::new(),
            faults: 1,
            last_fault: seen.moment.clone(),
            failed_requests: 0,
            subjects: vec![seen.subject.clone()],
            common_cause: false,
            waiting: vec![seen.subject.clone()],
            outcome: Outcome::Open,
        }
    }

    /// The earliest who tells of a stage gives its time.
    fn refine(&mut self, seen: &Sighting) {
        let slot = match seen.stage {
            Stage::Detected if seen.moment.is_before(&self.detected) => {
                self.detected = seen.moment.clone();
                return;
            }
            Stage::Decided => &mut self.decided,
            Stage::Acted => &mut self.acted,
            _ => return,
        };
        if slot.as_ref().is_none_or(|known| seen.moment.is_before(known)) && !seen.moment.is_before(&self.detected) {
            *slot = Some(seen.moment.clone());
        }
    }

    fn note_action(&mut self, text: &str) {
        if self.actions.len() < ACTIONS_MAX && self.actions.last().is_none_or(|last| last != text) {
            self.actions.push(text.into());
        }
    }
}

/// The open incidents. Feed it every event in order; store what it returns.
#[derive(Clone, Debug, Default)]
pub struct Incidents {
    /// By subject; an incident of a common cause has the service as its subject.
    open: BTreeMap<Arc<str>, Incident>,
    past: BTreeMap<Arc<str>, Past>,
}

/// What late events of a subject are held against.
#[derive(Clone, Debug, Default)]
struct Past {
    closed: VecDeque<Incident>,
    /// When it last came to be ready.
    ready: Option<Moment>,
}

pub fn service_subject(service: &str) -> String {
    format!("service/{service}")
}

fn is_instance_of(subject: &str, service: &str) -> bool {
    let instance = subject.strip_prefix("instance/").and_then(|rest| rest.rsplit_once('-'));
    instance.is_some_and(|(name, n)| name == service && n.parse::<u32>().is_ok())
}

impl Incidents {
    /// From what was stored as open before a restart.
    pub fn restore(open: impl IntoIterator<Item = Incident>) -> Self {
        Incidents { open: open.into_iter().map(|i| (i.subject.clone(), i)).collect(), past: BTreeMap::new() }
    }

    pub fn open(&self) -> impl Iterator<Item = &Incident> {
        self.open.values()
    }

    /// The open incident that `subject` is part of.
    pub fn of(&self, subject: &str) -> Option<&Incident> {
        self.open.get(subject).or_else(|| self.open.values().find(|i| i.waiting.iter().any(|s| &**s == subject)))
    }

    /// Returns every incident that changed, in its new state.
    pub fn handle(&mut self, seen: &Sighting) -> Vec<Incident> {
        if seen.stage == Stage::Neutral {
            return Vec::new();
        }
        if let Some(changed) = self.handle_late(seen) {
            return changed;
        }
        let subject = self.of(&seen.subject).map(|i| i.subject.clone());
        let changed = match (seen.stage, subject) {
            (Stage::Detected, subject) => {
                let mut changed = match subject {
                    Some(subject) => self.fold(&subject, seen),
                    None => self.start(seen),
                };
                changed.extend(self.join_common_cause(seen));
                changed
            }
            (Stage::Decided | Stage::Acted, Some(subject)) => self.step(&subject, seen),
            (Stage::Ready | Stage::Gone, Some(subject)) => self.close(&subject, seen),
            (Stage::Neutral, _) | (_, None) => Vec::new(),
        };
        self.remember(seen, &changed);
        changed
    }

    /// `Some` when the event is older than the last time that its subject became ready.
    fn handle_late(&mut self, seen: &Sighting) -> Option<Vec<Incident>> {
        let past = self.past.get_mut(&seen.subject)?;
        let ready = past.ready.clone().filter(|ready| seen.moment.is_before(ready))?;
        let belongs = |i: &&mut Incident| {
            let ends_after = i.ready.as_ref().is_some_and(|ready| !ready.is_before(&seen.moment));
            let begins_before = !seen.moment.is_before(&i.detected) || seen.moment.until(&i.detected) <= LATE;
            ends_after && begins_before
        };
        if let Some(incident) = past.closed.iter_mut().find(belongs) {
            let before = incident.clone();
            incident.refine(seen);
            return Some(if *incident == before { Vec::new() } else { vec![incident.clone()] });
        }
        if seen.stage != Stage::Detected || self.of(&seen.subject).is_some() {
            return Some(Vec::new());
        }
        // It failed and came back while nobody who tells of it was there.
        let mut incident = Incident::open(seen);
        incident.waiting.clear();
        incident.ready = Some(ready);
        incident.outcome = Outcome::Recovered;
        self.keep_closed(&seen.subject, incident.clone());
        Some(vec![incident])
    }

    fn remember(&mut self, seen: &Sighting, changed: &[Incident]) {
        if !matches!(seen.stage, Stage::Ready | Stage::Gone) {
            return;
        }
        if self.past.len() >= SUBJECTS_MAX && !self.past.contains_key(&seen.subject) {
            self.past.pop_first();
        }
        let past = self.past.entry(seen.subject.clone()).or_default();
        if past.ready.as_ref().is_none_or(|ready| !seen.moment.is_before(ready)) {
            past.ready = Some(seen.moment.clone());
        }
        for incident in changed.iter().filter(|i| i.outcome != Outcome::Open) {
            for subject in &incident.subjects {
                self.keep_closed(subject, incident.clone());
            }
        }
    }

    fn keep_closed(&mut self, subject: &Arc<str>, incident: Incident) {
        let Some(past) = self.past.get_mut(subject) else { return };
        past.closed.push_back(incident);
        if past.closed.len() > CLOSED_MAX {
            past.closed.pop_front();
        }
    }

    /// Requests that failed meanwhile, attributed to the open incidents of `service` and its instances.
    pub fn failed_requests(&mut self, service: &str, failed: u64) -> Vec<Incident> {
        let whole = service_subject(service);
        let mine = |subject: &str| subject == whole || is_instance_of(subject, service);
        let mut changed = Vec::new();
        for (_, incident) in self.open.iter_mut().filter(|(subject, _)| failed > 0 && mine(subject)) {
            incident.failed_requests += failed;
            changed.push(incident.clone());
        }
        changed
    }

    fn start(&mut self, seen: &Sighting) -> Vec<Incident> {
        let mut changed = Vec::new();
        if self.open.len() >= OPEN_MAX {
            let oldest = self.open.values().min_by_key(|i| i.detected.wall_ms).map(|i| i.subject.clone());
            if let Some(mut given_up) = oldest.and_then(|subject| self.open.remove(&subject)) {
                given_up.outcome = Outcome::Ended;
                given_up.note_action("given up: too many open incidents");
                changed.push(given_up);
            }
        }
        let incident = Incident::open(seen);
        self.open.insert(seen.subject.clone(), incident.clone());
        changed.push(incident);
        changed
    }

    fn fold(&mut self, subject: &Arc<str>, seen: &Sighting) -> Vec<Incident> {
        let Some(incident) = self.open.get_mut(subject) else { return Vec::new() };
        if incident.last_fault.apart(&seen.moment) > SAME_FAULT {
            incident.faults += 1;
        }
        if incident.last_fault.is_before(&seen.moment) {
            incident.last_fault = seen.moment.clone();
        }
        incident.refine(seen);
        vec![incident.clone()]
    }

    fn step(&mut self, subject: &Arc<str>, seen: &Sighting) -> Vec<Incident> {
        let Some(incident) = self.open.get_mut(subject) else { return Vec::new() };
        if seen.moment.is_before(&incident.detected) {
            return Vec::new();
        }
        incident.refine(seen);
        incident.note_action(&seen.reason);
        vec![incident.clone()]
    }

    fn close(&mut self, subject: &Arc<str>, seen: &Sighting) -> Vec<Incident> {
        let Some(incident) = self.open.get_mut(subject) else { return Vec::new() };
        if seen.moment.is_before(&incident.detected) {
            return Vec::new();
        }
        incident.waiting.retain(|s| *s != seen.subject);
        if !incident.waiting.is_empty() && *subject != seen.subject {
            return vec![incident.clone()];
        }
        let Some(mut incident) = self.open.remove(subject) else { return Vec::new() };
        incident.waiting.clear();
        incident.outcome = match seen.stage {
            Stage::Ready => Outcome::Recovered,
            _ => Outcome::Ended,
        };
        incident.ready = (seen.stage == Stage::Ready).then(|| seen.moment.clone());
        vec![incident]
    }

    /// All instances of the service down at about the same time: their incidents become one.
    fn join_common_cause(&mut self, seen: &Sighting) -> Vec<Incident> {
        let Some((service, instances)) = &seen.service else { return Vec::new() };
        let subject: Arc<str> = service_subject(service).into();
        if *instances < 2 || self.open.contains_key(&subject) {
            return Vec::new();
        }
        let down: Vec<Incident> = self
            .open
            .values()
            .filter(|i| is_instance_of(&i.subject, service))
            .filter(|i| i.detected.until(&seen.moment) <= COMMON_CAUSE_WINDOW)
            .cloned()
            .collect();
        let Some(first) = down.iter().min_by_key(|i| (i.detected.at, i.id.clone())) else { return Vec::new() };
        if down.len() < *instances as usize {
            return Vec::new();
        }
        let mut joint = first.clone();
        joint.subject = subject.clone();
        joint.common_cause = true;
        joint.cause = format!("all {instances} instances failed together: {}", first.cause);
        joint.subjects = down.iter().map(|i| i.subject.clone()).collect();
        joint.waiting = joint.subjects.clone();
        joint.faults = down.iter().map(|i| i.faults).sum();
        joint.failed_requests = down.iter().map(|i| i.failed_requests).max().unwrap_or(0);
        let mut changed: Vec<Incident> = Vec::new();
        for mut merged in down {
            self.open.remove(&merged.subject);
            if merged.id != joint.id {
                merged.outcome = Outcome::Merged;
                changed.push(merged);
            }
        }
        self.open.insert(subject, joint.clone());
        changed.push(joint);
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Feed {
        machine: Incidents,
        seq: u64,
    }

    impl Feed {
        fn new() -> Feed {
            Feed { machine: Incidents::default(), seq: 0 }
        }

        fn see(&mut self, ms: u64, subject: &str, stage: Stage, reason: &str) -> Vec<Incident> {
            self.seq += 1;
            let service = subject.rsplit_once('-').map(|(name, _)| (Arc::from(name), 2));
            self.machine.handle(&Sighting {
                moment: Moment { at: Timestamp::from_millis(ms), wall_ms: ms, boot: "b".into() },
                key: format!("n1:shim/{subject}:1.1:{}", self.seq).into(),
                subject: format!("instance/{subject}").into(),
                service,
                stage,
                reason: reason.into(),
            })
        }
    }

    #[test]
    fn a_kill_goes_through_its_four_times() {
        let mut feed = Feed::new();
        let opened = feed.see(1000, "web-1", Stage::Detected, "killed by signal 9");
        assert_eq!(opened[0].outcome, Outcome::Open);
        feed.see(1001, "web-1", Stage::Decided, "restart at once");
        feed.see(1005, "web-1", Stage::Acted, "spawned 1.2");
        feed.see(1006, "web-1", Stage::Neutral, "log rotated");
        let closed = feed.see(1200, "web-1", Stage::Ready, "ready").remove(0);
        let ms = |m: Option<Moment>| m.map(|m| m.at.as_millis());
        assert_eq!((ms(closed.decided), ms(closed.acted), ms(closed.ready)), (Some(1001), Some(1005), Some(1200)));
        assert_eq!(closed.outcome, Outcome::Recovered);
        assert_eq!(closed.actions, ["restart at once", "spawned 1.2"]);
        assert_eq!(closed.id, opened[0].id);
        assert_eq!(feed.machine.open().count(), 0);
    }

    #[test]
    fn more_faults_of_an_open_subject_fold_in() {
        let mut feed = Feed::new();
        for n in 0..5 {
            feed.see(n * 1000, "db-1", Stage::Detected, "exit 1");
            feed.see(n * 1000 + 1, "db-1", Stage::Acted, "spawned");
        }
        let closed = feed.see(9000, "db-1", Stage::Ready, "").remove(0);
        assert_eq!((closed.faults, closed.actions.len()), (5, 1), "{closed:?}");
        assert_eq!(closed.acted.unwrap().at.as_millis(), 1, "the first act counts");
    }

    #[test]
    fn ready_without_an_incident_and_steps_without_one_change_nothing() {
        let mut feed = Feed::new();
        assert!(feed.see(1, "web-1", Stage::Ready, "").is_empty());
        assert!(feed.see(2, "web-1", Stage::Acted, "spawned").is_empty());
    }

    #[test]
    fn all_instances_failing_together_are_one_incident_that_closes_when_all_are_back() {
        let mut feed = Feed::new();
        feed.see(1000, "web-1", Stage::Detected, "probe timed out");
        let changed = feed.see(1400, "web-2", Stage::Detected, "probe timed out");
        let joint = changed.last().unwrap();
        assert!(joint.common_cause && &*joint.subject == "service/web" && joint.faults == 2, "{joint:?}");
        assert_eq!(changed.iter().filter(|i| i.outcome == Outcome::Merged).count(), 1);
        assert_eq!(feed.machine.open().count(), 1);
        assert_eq!(feed.see(2000, "web-2", Stage::Ready, "")[0].outcome, Outcome::Open, "web-1 is still missing");
        assert_eq!(feed.machine.failed_requests("web", 7).len(), 1);
        let closed = feed.see(2500, "web-1", Stage::Ready, "").remove(0);
        assert_eq!((closed.outcome, closed.failed_requests), (Outcome::Recovered, 7));
        assert_eq!(feed.machine.open().count(), 0);
    }

    #[test]
    fn failures_far_apart_have_their_own_incidents() {
        let mut feed = Feed::new();
        feed.see(1000, "web-1", Stage::Detected, "x");
        feed.see(12_000, "web-2", Stage::Detected, "x");
        assert!(feed.machine.open().all(|i| !i.common_cause));
        assert_eq!(feed.machine.open().count(), 2);
    }

    #[test]
    fn a_restored_group_closes_like_one_that_was_never_stored() {
        let mut feed = Feed::new();
        feed.see(1000, "web-1", Stage::Detected, "x");
        feed.see(1100, "web-2", Stage::Detected, "x");
        feed.see(1500, "web-1", Stage::Ready, "");
        let stored: Vec<Incident> = feed.machine.open().cloned().collect();
        feed.machine = Incidents::restore(stored);
        assert_eq!(feed.see(1600, "web-2", Stage::Gone, "scaled down")[0].outcome, Outcome::Ended);
    }

    #[test]
    fn events_that_arrive_late_count_by_their_own_time() {
        let mut feed = Feed::new();
        feed.see(1020, "web-1", Stage::Detected, "connect refused");
        assert_eq!(feed.see(1000, "web-1", Stage::Detected, "killed by signal 9")[0].faults, 1, "the same fault");
        assert!(feed.see(990, "web-1", Stage::Ready, "an old one").is_empty());
        let closed = feed.see(1200, "web-1", Stage::Ready, "").remove(0);
        assert_eq!(closed.detected.until(closed.ready.as_ref().unwrap()).as_millis(), 200);
    }

    #[test]
    fn a_late_teller_of_a_closed_incident_opens_no_new_one() {
        let mut feed = Feed::new();
        for start in [1000, 5000] {
            feed.see(start + 10, "web-1", Stage::Detected, "exited");
            feed.see(start + 20, "web-1", Stage::Acted, "spawned");
            feed.see(start + 250, "web-1", Stage::Ready, "ready");
        }
        // The shim's ring is copied only now.
        for (start, recovered) in [(1000, 250), (5000, 250)] {
            let refined = feed.see(start, "web-1", Stage::Detected, "killed by signal 9");
            assert_eq!(refined.len(), 1);
            let first = &refined[0];
            assert_eq!(first.detected.until(first.ready.as_ref().unwrap()).as_millis(), recovered);
            assert_eq!(
                feed.see(start + 15, "web-1", Stage::Acted, "started")[0].acted.as_ref().unwrap().wall_ms,
                start + 15
            );
        }
        assert_eq!(feed.machine.open().count(), 0);
        let next = feed.see(6000, "web-1", Stage::Detected, "exited");
        assert_eq!(next[0].outcome, Outcome::Open, "a later fault is a new one");
    }

    #[test]
    fn a_fault_that_healed_before_anybody_told_of_it_is_an_incident_all_the_same() {
        let mut feed = Feed::new();
        feed.see(9000, "web-1", Stage::Ready, "adopted");
        let told = feed.see(4000, "web-1", Stage::Detected, "killed while the agent was away").remove(0);
        assert_eq!(
            (told.outcome, told.detected.until(told.ready.as_ref().unwrap()).as_secs()),
            (Outcome::Recovered, 5)
        );
        assert_eq!(feed.machine.open().count(), 0);
    }

    #[test]
    fn across_a_reboot_wall_time_measures() {
        let before = Moment { at: Timestamp::from_millis(900_000), wall_ms: 5_000, boot: "a".into() };
        let after = Moment { at: Timestamp::from_millis(20_000), wall_ms: 65_000, boot: "b".into() };
        assert_eq!(before.until(&after).as_secs(), 60);
    }

    #[test]
    fn the_number_of_open_incidents_is_bounded() {
        let mut feed = Feed::new();
        for n in 0..OPEN_MAX as u64 + 5 {
            feed.see(n, &format!("s{n}"), Stage::Detected, "x");
        }
        assert_eq!(feed.machine.open().count(), OPEN_MAX);
    }
}
