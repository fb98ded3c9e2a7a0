//! Receives of FIFO queues whose answer may have been lost: the same attempt id gets the same messages again.
//!
//! Kept in memory only: after a restart of the plane the messages wait for their visibility timeout, as without an id.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use crate::clock::{Millis, boot as now};
use crate::queue::{DEDUPLICATION_MS, Delivery};
use crate::store::Store;

/// Bodies of receives that are remembered; the oldest are forgotten first.
const BYTES_MAX: usize = 16 << 20;

#[derive(Default)]
pub(super) struct Attempts {
    known: Mutex<VecDeque<Known>>,
}

struct Known {
    queue: String,
    attempt: String,
    deliveries: Vec<Delivery>,
    /// On the boot clock.
    at: Millis,
}

impl Known {
    fn bytes(&self) -> usize {
        self.deliveries.iter().map(|d| d.body.len() + d.attributes.len() + 256).sum()
    }
}

impl Attempts {
    pub(super) fn remember(&self, queue: &str, attempt: String, deliveries: &[Delivery]) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.push_back(Known { queue: queue.to_owned(), attempt, deliveries: deliveries.to_vec(), at: now() });
        let mut bytes: usize = known.iter().map(Known::bytes).sum();
        while bytes > BYTES_MAX || known.front().is_some_and(|k| k.at + DEDUPLICATION_MS < now()) {
            let Some(oldest) = known.pop_front() else { return };
            bytes -= oldest.bytes();
        }
    }

    /// The messages of an earlier receive, held anew; `None` when one of them was deleted, given back or changed.
    pub(super) async fn again(
        &self,
        store: &dyn Store,
        queue: &str,
        attempt: &str,
        visibility_ms: Option<u64>,
    ) -> Option<Vec<Delivery>> {
        let deliveries = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let at = known.iter().position(|k| k.queue == queue && k.attempt == attempt)?;
            known.remove(at).filter(|k| k.at + DEDUPLICATION_MS >= now())?.deliveries
        };
        let visibility = match visibility_ms {
            Some(ms) => ms,
            None => store.spec(queue).await.ok()?.visibility_ms,
        };
        let changes = deliveries.iter().map(|d| (d.receipt.clone(), visibility)).collect();
        let held = store.change_visibility(queue, changes).await.ok()?;
        if held.iter().any(Result::is_err) {
            return None;
        }
        self.remember(queue, attempt.to_owned(), &deliveries);
        Some(deliveries)
    }

    /// Somebody changed what is in flight of this queue.
    pub(super) fn forget(&self, queue: &str) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).retain(|k| k.queue != queue);
    }
}
