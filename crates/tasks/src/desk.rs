//! Where clients come: receives that wait, rates, and the work that goes on behind them.

mod attempts;
mod bells;
mod chores;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use self::attempts::Attempts;
use self::bells::{Bells, Woken};
use crate::clock::until;
use crate::error::Result;
use crate::queue::{Acknowledged, Delivery, New, Sent, Settled, Spec};
use crate::store::Store;

pub use bells::{Bell, Counters};

/// A handle; clones share everything.
#[derive(Clone)]
pub struct Desk {
    pub(crate) store: Arc<dyn Store>,
    bells: Arc<Bells>,
    attempts: Arc<Attempts>,
    /// Handles of moves that go on here.
    moving: Arc<Mutex<BTreeSet<String>>>,
    closing: watch::Sender<bool>,
}

/// One receive, as the client asks for it.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    pub many: u32,
    pub visibility_ms: Option<u64>,
    /// `None` is the queue's.
    pub wait: Option<Duration>,
    /// FIFO: the same id again within five minutes gets the same messages.
    pub attempt: Option<String>,
}

impl Desk {
    pub(crate) fn open(store: Arc<dyn Store>) -> Desk {
        let desk = Desk {
            store,
            bells: Arc::default(),
            attempts: Arc::default(),
            moving: Arc::default(),
            closing: watch::Sender::new(false),
        };
        desk.begin_chores();
        desk
    }

    /// Receives that wait are answered with nothing; the next ones do not wait.
    pub fn close(&self) {
        self.closing.send_replace(true);
    }

    pub async fn send(&self, queue: &str, messages: Vec<New>) -> Result<Vec<Result<Sent>>> {
        let delays: Vec<Option<u64>> = messages.iter().map(|m| m.delay_ms).collect();
        let answers = self.store.send(queue, messages).await?;
        let bell = self.bells.get(queue);
        let sent = answers.iter().zip(delays).filter(|(answer, _)| answer.as_ref().is_ok_and(|sent| !sent.duplicate));
        let mut many = 0;
        for (_, delay) in sent {
            match delay {
                // The queue's own delay is not known here: whoever wakes for nothing learns when to look again.
                None | Some(0) => many += 1,
                Some(ms) => bell.note_due(self.due_in(ms)),
            }
        }
        bell.count(|c| &c.sent, answers.iter().filter(|a| a.is_ok()).count());
        bell.ring(many);
        Ok(answers)
    }

    pub async fn receive(&self, queue: &str, ask: Ask) -> Result<Vec<Delivery>> {
        if let Some(attempt) = &ask.attempt
            && let Some(again) = self.attempts.again(&*self.store, queue, attempt, ask.visibility_ms).await
        {
            return Ok(again);
        }
        let spec = self.store.spec(queue).await?;
        let deadline = Instant::now() + ask.wait.unwrap_or(Duration::from_millis(spec.wait_ms));
        let bell = self.bells.get(queue);
        let deliveries = self.receive_until(queue, &spec, &bell, &ask, deadline).await?;
        bell.count(|c| &c.received, deliveries.len());
        if !deliveries.is_empty() {
            bell.note_due(self.due_in(ask.visibility_ms.unwrap_or(spec.visibility_ms)));
            if let Some(attempt) = ask.attempt.filter(|_| spec.fifo) {
                self.attempts.remember(queue, attempt, &deliveries);
            }
        }
        Ok(deliveries)
    }

    async fn receive_until(
        &self,
        queue: &str,
        spec: &Spec,
        bell: &Bell,
        ask: &Ask,
        deadline: Instant,
    ) -> Result<Vec<Delivery>> {
        let mut closing = self.closing.subscribe();
        let _waiting = bell.waiting();
        loop {
            // Asked for before looking, so that no message comes between the look and the wait.
            let woken = bell.listen();
            let allowed = bell.allow(spec.rate_max, ask.many);
            let mut next = match allowed.many {
                0 => None,
                many => {
                    let received = self.store.receive(queue, many, ask.visibility_ms).await?;
                    received.buried_in.iter().for_each(|name| self.bells.get(name).ring(1));
                    bell.count(|c| &c.buried, received.buried_in.len());
                    allowed.give_back(many - u32::try_from(received.deliveries.len()).unwrap_or(many));
                    if !received.deliveries.is_empty() {
                        return Ok(received.deliveries);
                    }
                    received.next_due
                }
            };
            if let Some(wait) = allowed.wait {
                next = Some(self.due_in(wait.as_millis().try_into().unwrap_or(u64::MAX)));
            }
            if let Some(due) = next {
                bell.note_due(due);
            }
            if *closing.borrow_and_update() || Instant::now() >= deadline {
                return Ok(Vec::new());
            }
            let wait = woken.wait(|due| until(self.store.clock().now(), due));
            tokio::select! {
                woken = timeout_at(deadline, wait) => if let Ok(Woken::Due(due)) = woken { bell.passed(due) },
                _ = closing.changed() => {}
            }
        }
    }

    pub async fn acknowledge(
        &self,
        queue: &str,
        receipts: Vec<String>,
        strict: bool,
    ) -> Result<Vec<Result<Acknowledged>>> {
        let answers = self.store.acknowledge(queue, receipts, strict).await?;
        let bell = self.bells.get(queue);
        let of = |kind| answers.iter().filter(|a| matches!(a, Ok(done) if *done == kind)).count();
        bell.count(|c| &c.deleted, of(Acknowledged::Deleted));
        bell.count(|c| &c.stale, of(Acknowledged::Stale));
        // Of a group the next message may be free now.
        bell.ring(of(Acknowledged::Deleted));
        Ok(answers)
    }

    pub async fn change_visibility(&self, queue: &str, changes: Vec<(String, u64)>) -> Result<Vec<Result<()>>> {
        let times: Vec<u64> = changes.iter().map(|(_, ms)| *ms).collect();
        let answers = self.store.change_visibility(queue, changes).await?;
        let bell = self.bells.get(queue);
        for ms in times {
            bell.note_due(self.due_in(ms));
        }
        self.attempts.forget(queue);
        Ok(answers)
    }

    /// See [`Store::hand_back`].
    pub async fn hand_back(&self, queue: &str, receipt: &str) -> Result<()> {
        self.store.hand_back(queue, receipt).await?;
        self.bells.get(queue).ring(1);
        Ok(())
    }

    /// See [`Store::report`].
    pub async fn report(
        &self,
        queue: &str,
        receipt: &str,
        report: holdfast_policy::queue::Report,
        words: &str,
    ) -> Result<Settled> {
        let settled = self.store.report(queue, receipt, report, words).await?;
        let bell = self.bells.get(queue);
        bell.count(|c| &c.failed, 1);
        match &settled {
            Settled::Again { due } => bell.note_due(*due),
            Settled::Buried { queue: into } => {
                bell.count(|c| &c.buried, 1);
                self.bells.get(into).ring(1);
            }
            Settled::Quarantined => {}
        }
        // Of a group the next message may be free now.
        bell.ring(1);
        Ok(settled)
    }

    /// What happened at each queue since the plane began.
    pub fn counters(&self) -> BTreeMap<String, Arc<Bell>> {
        self.bells.all()
    }

    fn due_in(&self, ms: u64) -> crate::clock::Millis {
        self.store.clock().now().saturating_add(i64::try_from(ms).unwrap_or(i64::MAX / 2))
    }
}
