//! The story so far: every change as one entry, for the journal and, the last of them, for `why`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use holdfast_policy::{Incarnation, Timestamp, Transition};

use super::Supervisor;
use super::action::{Action, Entry, Phase};
use super::instance::Instance;

/// Entries kept per instance; the journal has the rest.
const KEPT: usize = 64;
/// Subjects remembered, gone ones included.
const SUBJECTS_MAX: usize = 4096;

#[derive(Debug, Default)]
pub(crate) struct History {
    seq: u64,
    by_subject: BTreeMap<Arc<str>, VecDeque<Entry>>,
}

impl History {
    pub(crate) fn of(&self, subject: &str) -> Vec<Entry> {
        self.by_subject.get(subject).into_iter().flatten().cloned().collect()
    }

    pub(crate) fn last(&self, subject: &str) -> Option<&Entry> {
        self.by_subject.get(subject)?.back()
    }

    fn keep(&mut self, entry: Entry) {
        if self.by_subject.len() >= SUBJECTS_MAX && !self.by_subject.contains_key(&entry.subject) {
            self.by_subject.pop_first();
        }
        let entries = self.by_subject.entry(entry.subject.clone()).or_default();
        if entries.len() >= KEPT {
            entries.pop_front();
        }
        entries.push_back(entry);
    }
}

/// What an entry is beside its transition.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mark {
    /// When the fact happened, if not now.
    pub(crate) at: Option<Timestamp>,
    pub(crate) phase: Option<Phase>,
}

impl Mark {
    pub(crate) const NONE: Mark = Mark { at: None, phase: None };

    pub(crate) fn phase(phase: Phase) -> Mark {
        Mark { at: None, phase: Some(phase) }
    }

    pub(crate) fn at(self, at: Timestamp) -> Mark {
        Mark { at: Some(at), ..self }
    }
}

impl Supervisor {
    pub(crate) fn journal(
        &mut self,
        now: Timestamp,
        subject: &str,
        incarnation: Option<Incarnation>,
        transition: Transition,
        cause: Option<u64>,
    ) -> u64 {
        self.write(Entry { seq: 0, at: now, subject: subject.into(), incarnation, transition, cause, incident: None })
    }

    /// About an instance: its last entry is the cause, and an incident is opened, marked or closed.
    pub(crate) fn tell(&mut self, now: Timestamp, i: &mut Instance, transition: Transition, mark: Mark) -> u64 {
        let seq = self.history.seq + 1;
        if mark.phase == Some(Phase::Detected) && i.incident.is_none() {
            i.incident = Some(seq);
        }
        let incident = mark.phase.and_then(|phase| i.incident.map(|id| (id, phase)));
        if mark.phase == Some(Phase::Ready) {
            i.incident = None;
        }
        let incarnation = (i.life.incarnation.generation > 0).then_some(i.life.incarnation);
        let entry = Entry {
            seq,
            at: mark.at.unwrap_or(now),
            subject: i.id.to_string().into(),
            incarnation,
            transition,
            cause: i.last_entry,
            incident,
        };
        i.last_entry = Some(seq);
        self.write(entry)
    }

    /// Journals the state that people see, if it changed.
    pub(crate) fn settle(&mut self, now: Timestamp, i: &mut Instance, why: Transition, mark: Mark) {
        let job = i.running.as_ref().is_some_and(|d| d.is_job());
        let to = i.state_name(job);
        if to != i.shown {
            let transition = Transition { from: i.shown, to, ..why };
            i.shown = to;
            i.shown_since = mark.at.unwrap_or(now);
            self.tell(now, i, transition, mark);
        }
    }

    fn write(&mut self, mut entry: Entry) -> u64 {
        self.history.seq += 1;
        entry.seq = self.history.seq;
        self.history.keep(entry.clone());
        self.act(Action::Journal(entry));
        self.history.seq
    }
}

/// A reason whose states [`Supervisor::settle`] fills in.
pub(crate) fn because(reason: impl Into<std::borrow::Cow<'static, str>>) -> Transition {
    Transition::new("", "", reason)
}
