//! Event rings of processes that write on their own (planes, drills), copied to the journal.

use std::path::PathBuf;

use holdfast_host::ring::RingReader;
use holdfast_observe::journal::Batch;

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
        let after = match self.copied {
            Some(seq) => seq,
            None => stored(&reader, core).await,
        };
        let Ok(read) = reader.events_after(after) else { return };
        // A ring that was made anew counts from 1 again.
        if reader.events_after(0).is_ok_and(|all| all.last < after) {
            self.copied = Some(0);
            return;
        }
        if read.events.is_empty() {
            return;
        }
        match core.journal.append_batch(Batch { events: read.events, after, lost: read.lost }).await {
            Ok(()) => self.copied = Some(read.last),
            Err(error) => tracing::debug!(%error, "events were not stored"),
        }
    }
}

/// Up to where an earlier agent copied it.
async fn stored(reader: &RingReader, core: &Core) -> u64 {
    let Ok(all) = reader.events_after(0) else { return 0 };
    let Some(first) = all.events.first() else { return 0 };
    core.journal.acked(&first.node, &first.source).await.unwrap_or(0)
}
