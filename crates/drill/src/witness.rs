//! Whoever sees from outside what a drill costs: a client of a balancer, or of a queue.

use std::time::Duration;

use holdfast_policy::Timestamp;

use crate::prober::queue::{Kept, QueueProber};
use crate::prober::{Counts, Prober, Record};

#[derive(Debug)]
pub(crate) enum Witness {
    Balancer(Prober),
    Queue(QueueProber),
}

impl Witness {
    pub(crate) fn counts(&self) -> Counts {
        match self {
            Witness::Balancer(prober) => prober.counts(),
            Witness::Queue(prober) => prober.counts(),
        }
    }

    /// What came through to its end.
    pub(crate) fn answered(&self) -> u64 {
        match self {
            Witness::Balancer(prober) => prober.counts().finished,
            Witness::Queue(prober) => prober.done(),
        }
    }

    /// Nothing that is older than `slack` is still to be done.
    pub(crate) fn is_calm(&self, now: Timestamp, slack: Duration) -> bool {
        match self {
            Witness::Balancer(_) => true,
            Witness::Queue(prober) => prober.is_calm(now, slack),
        }
    }

    pub(crate) fn queue(&self) -> Option<&QueueProber> {
        match self {
            Witness::Balancer(_) => None,
            Witness::Queue(prober) => Some(prober),
        }
    }

    /// In the order in which requests were due.
    pub(crate) fn finish(self) -> (Vec<Record>, Option<Kept>) {
        match self {
            Witness::Balancer(prober) => (prober.finish(), None),
            Witness::Queue(prober) => {
                let (records, kept) = prober.finish();
                (records, Some(kept))
            }
        }
    }
}
