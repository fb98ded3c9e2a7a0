//! Incidents as they are stored and shown, and what an event means for one.
//!
//! An event may say its stage itself (input `stage`: `detected`, `decided`, `acted`, `ready`, `gone`, `neutral`);
//! otherwise it is read from the state that its subject came to.

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_host::event::Event;
use holdfast_policy::incident::{Incident, Moment, Outcome, Sighting, Stage};
use holdfast_policy::{InstanceId, Timestamp};
use holdfast_store::rusqlite::{self, Connection};
use serde::{Deserialize, Serialize};

/// Name of the input by which an event says its stage.
pub const STAGE: &str = "stage";

/// What coming to a state means, for the subjects that incidents are about.
const STAGES: &[(&str, Stage)] = &[
    ("suspect", Stage::Detected),
    ("unready", Stage::Detected),
    ("exited", Stage::Detected),
    ("crashed", Stage::Detected),
    ("failed", Stage::Detected),
    ("ejected", Stage::Detected),
    ("hung", Stage::Detected),
    ("lost", Stage::Detected),
    ("backoff", Stage::Decided),
    ("restarting", Stage::Decided),
    ("starting", Stage::Acted),
    ("running", Stage::Acted),
    ("ready", Stage::Ready),
    ("in", Stage::Ready),
    ("returned", Stage::Ready),
    ("completed", Stage::Ready),
    ("stopped", Stage::Gone),
    ("removed", Stage::Gone),
];

/// States that are only a failure for somebody who was past starting.
const FROM_SERVICE: &[&str] = &["unready", "suspect"];
const NOT_YET_SERVING: &[&str] = &["", "pending", "starting", "running", "startup"];

/// States with a child, which ends when the next one is `backoff`.
const ALIVE: &[&str] = &["starting", "running", "ready", "unready", "suspect"];

const SUBJECTS: &[&str] = &["instance/", "balancer/", "service/", "agent", "shim/"];

/// In order; more than one where a shim tells of an end and of what follows in one event.
pub(crate) fn stages(event: &Event) -> &'static [Stage] {
    if let Some((_, said)) = event.inputs.iter().find(|(name, _)| name == STAGE) {
        return match said.as_str() {
            "detected" => &[Stage::Detected],
            "decided" => &[Stage::Decided],
            "acted" => &[Stage::Acted],
            "ready" => &[Stage::Ready],
            "gone" => &[Stage::Gone],
            _ => &[],
        };
    }
    let (from, to) = (event.from.as_str(), event.to.as_str());
    let expected = FROM_SERVICE.contains(&to) && NOT_YET_SERVING.contains(&from);
    // A child that ends because it was told to is no fault.
    let told_to = from == "stopping" && matches!(to, "exited" | "failed" | "crashed" | "backoff");
    if expected || told_to || !SUBJECTS.iter().any(|s| event.subject.starts_with(s)) {
        return &[];
    }
    if to == "backoff" && ALIVE.contains(&from) {
        return &[Stage::Detected, Stage::Decided];
    }
    STAGES.iter().find(|(state, _)| *state == to).map_or(&[], |(_, stage)| std::slice::from_ref(stage))
}

/// None when it says nothing about failures. `services` are the declared instances of each service.
pub(crate) fn sightings(event: &Event, services: &BTreeMap<String, u32>) -> Vec<Sighting> {
    let instance = event.subject.strip_prefix("instance/").and_then(|id| id.parse::<InstanceId>().ok());
    let service = instance.and_then(|id| services.get(&*id.service).map(|n| (id.service.clone(), *n)));
    let sighting = |stage: &Stage| Sighting {
        moment: Moment {
            at: Timestamp::from_nanos(event.boot_ns),
            wall_ms: event.wall_ms,
            boot: event.boot_id.as_str().into(),
        },
        key: event.key().into(),
        subject: event.subject.as_str().into(),
        service: service.clone(),
        stage: *stage,
        reason: event.reason.clone(),
    };
    stages(event).iter().map(sighting).collect()
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Instant {
    pub boot_ns: u64,
    pub wall_ms: u64,
    pub boot_id: String,
}

impl From<&Moment> for Instant {
    fn from(m: &Moment) -> Self {
        Instant { boot_ns: m.at.as_nanos(), wall_ms: m.wall_ms, boot_id: m.boot.to_string() }
    }
}

impl From<&Instant> for Moment {
    fn from(i: &Instant) -> Self {
        Moment { at: Timestamp::from_nanos(i.boot_ns), wall_ms: i.wall_ms, boot: i.boot_id.as_str().into() }
    }
}

/// An incident in the journal and in `incidents --json`. Only grows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    pub version: u32,
    /// Given by this node's journal; 0 before it is stored.
    pub number: u64,
    /// Key of its first event: the same on every node.
    pub key: String,
    pub subject: String,
    pub cause: String,
    pub detected: Instant,
    pub decided: Option<Instant>,
    pub acted: Option<Instant>,
    pub ready: Option<Instant>,
    pub actions: Vec<String>,
    pub faults: u32,
    pub last_fault: Instant,
    pub failed_requests: u64,
    pub subjects: Vec<String>,
    pub waiting: Vec<String>,
    pub common_cause: bool,
    /// `open`, `recovered`, `ended` (stopped on purpose) or `merged` (into a common cause).
    pub outcome: String,
}

impl Record {
    /// As people call it: `I-000123`.
    pub fn short_id(&self) -> String {
        format!("I-{:06}", self.number)
    }

    pub fn is_open(&self) -> bool {
        self.outcome == Outcome::Open.name()
    }

    /// Milliseconds from detection to being ready again, with parts of a millisecond.
    pub fn recovered_ms(&self) -> Option<f64> {
        self.after(self.ready.as_ref())
    }

    pub fn decided_ms(&self) -> Option<f64> {
        self.after(self.decided.as_ref())
    }

    pub fn acted_ms(&self) -> Option<f64> {
        self.after(self.acted.as_ref())
    }

    fn after(&self, later: Option<&Instant>) -> Option<f64> {
        let elapsed = Moment::from(&self.detected).until(&later?.into());
        Some(elapsed.as_secs_f64() * 1000.0)
    }
}

impl From<&Incident> for Record {
    fn from(i: &Incident) -> Self {
        Record {
            version: 1,
            number: 0,
            key: i.id.to_string(),
            subject: i.subject.to_string(),
            cause: i.cause.clone(),
            detected: (&i.detected).into(),
            decided: i.decided.as_ref().map(Into::into),
            acted: i.acted.as_ref().map(Into::into),
            ready: i.ready.as_ref().map(Into::into),
            actions: i.actions.clone(),
            faults: i.faults,
            last_fault: (&i.last_fault).into(),
            failed_requests: i.failed_requests,
            subjects: i.subjects.iter().map(ToString::to_string).collect(),
            waiting: i.waiting.iter().map(ToString::to_string).collect(),
            common_cause: i.common_cause,
            outcome: i.outcome.name().into(),
        }
    }
}

impl Record {
    fn to_open(&self) -> Incident {
        let names = |list: &[String]| list.iter().map(|s| Arc::from(s.as_str())).collect();
        Incident {
            id: self.key.as_str().into(),
            subject: self.subject.as_str().into(),
            cause: self.cause.clone(),
            detected: (&self.detected).into(),
            decided: self.decided.as_ref().map(Into::into),
            acted: self.acted.as_ref().map(Into::into),
            ready: self.ready.as_ref().map(Into::into),
            actions: self.actions.clone(),
            faults: self.faults,
            last_fault: (&self.last_fault).into(),
            failed_requests: self.failed_requests,
            subjects: names(&self.subjects),
            common_cause: self.common_cause,
            waiting: names(&self.waiting),
            outcome: Outcome::Open,
        }
    }
}

pub(crate) fn open_ones(db: &Connection) -> rusqlite::Result<Vec<Incident>> {
    let mut statement = db.prepare("SELECT body FROM incidents WHERE outcome = 'open'")?;
    let bodies: Vec<String> = statement.query_map([], |r| r.get(0))?.collect::<rusqlite::Result<_>>()?;
    let records = bodies.iter().filter_map(|body| serde_json::from_str::<Record>(body).ok());
    Ok(records.map(|r| r.to_open()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(subject: &str, from: &str, to: &str) -> Event {
        Event::now("n", "test", "1.1", subject).change(from, to, "x")
    }

    #[test]
    fn states_say_what_they_mean_for_an_incident() {
        use Stage::{Acted, Decided, Detected, Gone, Ready};
        let cases: [(&str, &str, &str, &[Stage]); 12] = [
            ("instance/web-1", "running", "exited", &[Detected]),
            ("instance/web-1", "ready", "unready", &[Detected]),
            ("instance/web-1", "starting", "unready", &[]),
            ("instance/web-1", "stopping", "exited", &[]),
            ("instance/web-1", "stopping", "backoff", &[]),
            ("instance/web-1", "running", "backoff", &[Detected, Decided]),
            ("instance/web-1", "exited", "backoff", &[Decided]),
            ("instance/web-1", "backoff", "starting", &[Acted]),
            ("instance/web-1", "starting", "ready", &[Ready]),
            ("instance/web-1", "stopping", "stopped", &[Gone]),
            ("instance/web-1", "", "", &[]),
            ("drill/kill", "running", "failed", &[]),
        ];
        for (subject, from, to, want) in cases {
            assert_eq!(stages(&event(subject, from, to)), want, "{subject} {from} -> {to}");
        }
        assert_eq!(stages(&event("drill/kill", "", "").with(STAGE, "detected")), [Detected]);
        assert!(stages(&event("instance/web-1", "running", "exited").with(STAGE, "neutral")).is_empty());
    }

    #[test]
    fn a_record_keeps_what_the_machine_needs_after_a_restart() {
        let seen =
            sightings(&event("instance/web-1", "ready", "exited"), &BTreeMap::from([("web".into(), 3)])).remove(0);
        assert_eq!(seen.service, Some(("web".into(), 3)));
        let mut machine = holdfast_policy::incident::Incidents::default();
        let incident = machine.handle(&seen).remove(0);
        let text = serde_json::to_string(&Record::from(&incident)).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap().to_open(), incident);
    }
}
