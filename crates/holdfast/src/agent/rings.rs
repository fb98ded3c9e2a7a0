//! Event rings of processes that write on their own (planes, drills), copied to the journal.

use std::path::PathBuf;

use holdfast_host::ring::RingReader;

use super::core::Core;

pub(super) struct Ring {
    path: PathBuf,
    /// Copied up to here; `None` until the journal was asked.
    copied: Option<u64>,
}

impl Ring {
    pub(super) fn new(path: PathBuf) -> Self {
        Ring { path, copied: None }
    }

    /// What is new since the last call. Copying twice does no harm: the journal knows each event by its key.
    pub(super) async fn copy(&mut self, core: &Core) {
        let Ok(reader) = RingReader::open(&self.path) else { return };
        let Ok(all) = reader.events_after(self.copied.unwrap_or(0)) else { return };
        // A ring that was made anew counts from 1 again.
        if self.copied.is_some_and(|copied| all.last < copied) {
            self.copied = None;
            return;
        }
        if let Some(lost) = Some(all.lost).filter(|lost| *lost > 0 && self.copied.is_some()) {
            tracing::warn!(ring = %self.path.display(), lost, "events were overwritten before they were copied");
        }
        if all.events.is_empty() {
            return;
        }
        match core.journal.append_batch(all.events).await {
            Ok(()) => self.copied = Some(all.last),
            Err(error) => tracing::debug!(%error, "events were not stored"),
        }
    }
}
