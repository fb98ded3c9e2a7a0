//! What stays of a drill: events in a ring that the agent copies into its journal, so that `why` can tell a blow
//! from a real fault, and one line per report.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use holdfast_host::clock;
use holdfast_host::event::Event;
use holdfast_host::ring::EventRing;

use crate::aim::Aim;
use crate::report::Report;

const EVENTS: &str = "events";
const RESULTS: &str = "results.jsonl";
const RESULTS_OLD: &str = "results.1.jsonl";
/// Some 1,500 reports; then the file becomes the old one and the old one goes.
const RESULTS_BYTES_MAX: u64 = 1024 * 1024;

/// Writes nothing that a drill depends on: a failure is told and the drill goes on.
pub(crate) struct Record {
    dir: PathBuf,
    ring: Option<EventRing>,
    node: String,
    source: String,
    /// Each run of a drill is a life of its own.
    incarnation: String,
    subject: String,
}

impl Record {
    pub(crate) fn open(dir: &Path, node: &str, drill: &str, aim: &Aim) -> Record {
        let opened = EventRing::open(&dir.join(EVENTS));
        if let Err(e) = &opened {
            tracing::warn!(error = %e, "the drill leaves no events in the journal");
        }
        Record {
            dir: dir.to_path_buf(),
            ring: opened.ok(),
            node: node.to_owned(),
            source: format!("drill/{drill}"),
            incarnation: format!("{}.1", clock::wall_ms()),
            subject: aim.subject(),
        }
    }

    pub(crate) fn note(&mut self, from: &str, to: &str, reason: &str) {
        let Some(ring) = &mut self.ring else { return };
        // What a drill did or missed is no fault of what it struck.
        let event = Event::now(&self.node, &self.source, &self.incarnation, &self.subject)
            .change(from, to, reason)
            .with(holdfast_observe::incident::STAGE, "neutral");
        if let Err(e) = ring.append(event).and_then(|_| ring.sync()) {
            tracing::warn!(error = %e, "an event of the drill is lost");
        }
    }

    pub(crate) fn keep(&self, report: &Report) {
        if let Err(e) = append(&self.dir, report) {
            tracing::warn!(error = %e, "the drill's report is not kept in the data directory");
        }
    }
}

fn append(dir: &Path, report: &Report) -> io::Result<()> {
    let path = dir.join(RESULTS);
    if fs::metadata(&path).is_ok_and(|m| m.len() >= RESULTS_BYTES_MAX) {
        fs::rename(&path, dir.join(RESULTS_OLD))?;
    }
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    OpenOptions::new().create(true).append(true).open(&path)?.write_all(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_never_grow_beyond_two_files() {
        let dir = tempfile::tempdir().unwrap();
        let report = Report { name: "n".repeat(100_000), ..Report::default() };
        for _ in 0..25 {
            append(dir.path(), &report).unwrap();
        }
        let size = |name: &str| fs::metadata(dir.path().join(name)).unwrap().len();
        assert!(size(RESULTS) < RESULTS_BYTES_MAX && size(RESULTS_OLD) < RESULTS_BYTES_MAX + 200_000);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
