//! When an incident opens, what folds into it, and when it closes.
//!
//! One subject has at most one open incident; more faults of it meanwhile fold in. When every instance of a service
//! fails within [`COMMON_CAUSE_WINDOW`], their incidents are one with a common cause, kept under the service's name.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::time::Timestamp;

/// Failures of all instances this close together are taken for one cause.
pub const COMMON_CAUSE_WINDOW: Duration = Duration::from_secs(10);

/// Open incidents kept; the oldest one is given up as `unresolved` beyond it.
pub const OPEN_MAX: usize = 1000;

/// Identity of the event that opened it: the same on every node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub node: Arc<str>,
    pub source: Arc<str>,
    pub incarnation: (u64, u32),
    pub seq: u64,
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}.{}/{}", self.node, self.source, self.incarnation.0, self.incarnation.1, self.seq)
    }
}

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
    pub at: Timestamp,
    pub wall_ms: i64,
    pub key: Key,
    pub subject: Arc<str>,
    /// The service that the subject belongs to, and how many instances it should have.
    pub service: Option<(Arc<str>, u32)>,
    pub stage: Stage,
    pub reason: String,
}

/// A moment on both clocks: durations come from boot time, calendars from wall time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    pub at: Timestamp,
    pub wall_ms: i64,
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
    pub failed_requests: u64,
    /// Subjects that failed with it; more than one only for a common cause.
    pub subjects: Vec<Arc<str>>,
    pub common_cause: bool,
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
            detected: Moment { at: seen.at, wall_ms: seen.wall_ms },
            decided: None,
            acted: None,
            ready: None,
            actions: Vec::new(),
            faults: 1,
            failed_requests: 0,
            subjects: vec![seen.subject.clone()],
            common_cause: false,
            outcome: Outcome::Open,
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
    open: BTreeMap<Arc<str>, Incident>,
    /// Subjects of an open common-cause incident that are not ready again yet.
    missing: BTreeMap<Arc<str>, Vec<Arc<str>>>,
}

impl Incidents {
    /// From what was stored as open before a restart.
    pub fn restore(open: impl IntoIterator<Item = Incident>) -> Self {
        let mut incidents = Incidents::default();
        for incident in open {
            if incident.common_cause {
                incidents.missing.insert(incident.subject.clone(), incident.subjects.clone());
            }
            incidents.open.insert(incident.subject.clone(), incident);
        }
        incidents
    }

    pub fn open(&self) -> impl Iterator<Item = &Incident> {
        self.open.values()
    }

    /// Returns every incident that changed, in its new state.
    pub fn handle(&mut self, seen: &Sighting) -> Vec<Incident> {
        match self.group_of(seen) {
            Some(group) => self.handle_in_group(group, seen),
            None => self.handle_alone(seen),
        }
    }

    /// Requests that failed meanwhile, attributed to the open incidents of `service` and its instances.
    pub fn failed_requests(&mut self, service: &str, failed: u64) -> Vec<Incident> {
        let mine = |subject: &str| {
            subject == service || subject.rsplit_once('-').is_some_and(|(name, n)| name == service && n.parse::<u32>().is_ok())
        };
        let mut changed = Vec::new();
        for (_, incident) in self.open.iter_mut().filter(|(subject, _)| failed > 0 && mine(subject)) {
            incident.failed_requests += failed;
            changed.push(incident.clone());
        }
        changed
    }

    fn group_of(&self, seen: &Sighting) -> Option<Arc<str>> {
        let (service, _) = seen.service.as_ref()?;
        self.missing.get(service)?.contains(&seen.subject).then(|| service.clone())
    }

    fn handle_alone(&mut self, seen: &Sighting) -> Vec<Incident> {
        let mut changed = Vec::new();
        match seen.stage {
            Stage::Neutral => {}
            Stage::Detected => {
                match self.open.get_mut(&seen.subject) {
                    Some(incident) => {
                        incident.faults += 1;
                        changed.push(incident.clone());
                    }
                    None => changed.extend(self.start(seen)),
                }
                changed.extend(self.join_common_cause(seen));
            }
            Stage::Decided | Stage::Acted => {
                if let Some(incident) = self.open.get_mut(&seen.subject) {
                    step(incident, seen);
                    changed.push(incident.clone());
                }
            }
            Stage::Ready | Stage::Gone => changed.extend(self.close(&seen.subject.clone(), seen)),
        }
        changed
    }

    fn handle_in_group(&mut self, group: Arc<str>, seen: &Sighting) -> Vec<Incident> {
        if matches!(seen.stage, Stage::Ready | Stage::Gone) {
            if let Some(missing) = self.missing.get_mut(&group) {
                missing.retain(|s| *s != seen.subject);
                if missing.is_empty() {
                    self.missing.remove(&group);
                    return self.close(&group, seen).into_iter().collect();
                }
            }
            return Vec::new();
        }
        let Some(incident) = self.open.get_mut(&group) else { return Vec::new() };
        match seen.stage {
            Stage::Detected => incident.faults += 1,
            Stage::Decided | Stage::Acted => step(incident, seen),
            _ => return Vec::new(),
        }
        vec![incident.clone()]
    }

    fn start(&mut self, seen: &Sighting) -> Vec<Incident> {
        let mut changed = Vec::new();
        if self.open.len() >= OPEN_MAX {
            let oldest = self.open.values().min_by_key(|i| i.detected.at).map(|i| i.subject.clone());
            if let Some(mut given_up) = oldest.and_then(|subject| self.open.remove(&subject)) {
                self.missing.remove(&given_up.subject);
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

    /// All instances of the service down at about the same time: their incidents become one.
    fn join_common_cause(&mut self, seen: &Sighting) -> Vec<Incident> {
        let Some((service, instances)) = &seen.service else { return Vec::new() };
        if *instances < 2 || self.open.contains_key(service) {
            return Vec::new();
        }
        let prefix = format!("{service}-");
        let down: Vec<Incident> = self
            .open
            .values()
            .filter(|i| i.subject.strip_prefix(&prefix).is_some_and(|n| n.parse::<u32>().is_ok()))
            .filter(|i| seen.at.since(i.detected.at) <= COMMON_CAUSE_WINDOW)
            .cloned()
            .collect();
        if down.len() < *instances as usize {
            return Vec::new();
        }
        let Some(first) = down.iter().min_by_key(|i| (i.detected.at, i.id.clone())) else { return Vec::new() };
        let mut joint = first.clone();
        joint.subject = service.clone();
        joint.common_cause = true;
        joint.cause = format!("all {instances} instances failed together: {}", first.cause);
        joint.subjects = down.iter().map(|i| i.subject.clone()).collect();
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
        self.missing.insert(service.clone(), joint.subjects.clone());
        self.open.insert(service.clone(), joint.clone());
        changed.push(joint);
        changed
    }

    fn close(&mut self, subject: &Arc<str>, seen: &Sighting) -> Option<Incident> {
        let mut incident = self.open.remove(subject)?;
        match seen.stage {
            Stage::Ready => {
                incident.ready = Some(Moment { at: seen.at, wall_ms: seen.wall_ms });
                incident.outcome = Outcome::Recovered;
            }
            _ => incident.outcome = Outcome::Ended,
        }
        Some(incident)
    }
}

fn step(incident: &mut Incident, seen: &Sighting) {
    let moment = Moment { at: seen.at, wall_ms: seen.wall_ms };
    let slot = match seen.stage {
        Stage::Decided => &mut incident.decided,
        _ => &mut incident.acted,
    };
    slot.get_or_insert(moment);
    incident.note_action(&seen.reason);
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
                at: Timestamp::from_millis(ms),
                wall_ms: ms as i64,
                key: Key { node: "n1".into(), source: "shim".into(), incarnation: (1, 1), seq: self.seq },
                subject: subject.into(),
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
        assert!(joint.common_cause && &*joint.subject == "web" && joint.faults == 2, "{joint:?}");
        assert_eq!(changed.iter().filter(|i| i.outcome == Outcome::Merged).count(), 1);
        assert_eq!(feed.machine.open().count(), 1);
        assert!(feed.see(2000, "web-2", Stage::Ready, "").is_empty(), "web-1 is still missing");
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
        let stored: Vec<Incident> = feed.machine.open().cloned().collect();
        feed.machine = Incidents::restore(stored);
        feed.see(1500, "web-1", Stage::Ready, "");
        assert_eq!(feed.see(1600, "web-2", Stage::Gone, "scaled down")[0].outcome, Outcome::Ended);
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
