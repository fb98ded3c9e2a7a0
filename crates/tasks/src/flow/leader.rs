//! The task that leads one run: events in, state stored, actions out, in this order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_policy::Transition;
use holdfast_policy::flow::{Action, Event, Halt, Key, Run, Start};
use holdfast_policy::rng::Rng;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::{oneshot, watch};

use super::attempt::{self, Attempt};
use super::stored::{AttemptNote, Keep};
use super::{AGAIN, Flows, Pinned, Told, state, time, value};
use crate::error::{Error, Result};

/// A deadline far away is looked at again: the clock of timers stands still while the machine sleeps, engine time does not.
const SLEEP_MAX: Duration = Duration::from_secs(60);

/// Of what came while a state was being stored.
const HEARD_MAX: usize = 200;

/// What a leader begins with.
pub(super) enum First {
    /// Goes on with what was stored; told when its actions are done.
    Recover(oneshot::Sender<()>),
    Told(Told),
    /// A run that is new: it waits for its beginning.
    Nothing,
}

pub(super) struct Leader {
    flows: Flows,
    pinned: Arc<Pinned>,
    run: Run,
    /// Version in the store.
    stored: u64,
    inbox: UnboundedSender<Told>,
    told: UnboundedReceiver<Told>,
    rng: Rng,
    /// Tells an attempt that goes on here to end.
    attempts: BTreeMap<Key, watch::Sender<bool>>,
}

/// One event, and what the machine said to it.
struct Heard {
    notes: Vec<Transition>,
    reply: Option<oneshot::Sender<Result<()>>>,
    ended: Option<(Key, Option<String>)>,
}

/// Whether there is more to do.
#[derive(PartialEq)]
enum Next {
    Wait,
    Over,
}

impl Leader {
    pub(super) fn new(
        flows: Flows,
        pinned: Arc<Pinned>,
        run: Run,
        stored: u64,
        inbox: UnboundedSender<Told>,
        told: UnboundedReceiver<Told>,
    ) -> Leader {
        let rng = Rng::from_seed(crate::seed());
        Leader { flows, pinned, run, stored, inbox, told, rng, attempts: BTreeMap::new() }
    }

    /// Until the run is over, or the plane ends.
    pub(super) async fn lead(mut self, first: First) {
        let mut closing = self.flows.0.ground.closing.clone();
        let mut next = match first {
            First::Recover(done) => {
                self.run.recover(time(self.flows.0.ground.desk.store.clock().now()));
                let notes = self.run.take_notes();
                let next = self.turn(vec![Heard { notes, reply: None, ended: None }]).await;
                let _ = done.send(());
                next
            }
            First::Told(told) => self.hear(told).await,
            First::Nothing => Next::Wait,
        };
        while next == Next::Wait {
            let sleep = self.sleep();
            let told = tokio::select! {
                told = self.told.recv() => told,
                () = tokio::time::sleep(sleep) => Some(Told::of(Event::Time)),
                _ = closing.wait_for(|closing| *closing) => return,
            };
            let Some(told) = told else { return };
            next = self.hear(told).await;
        }
    }

    fn sleep(&self) -> Duration {
        let Some(at) = self.run.next_deadline() else { return SLEEP_MAX };
        // Up to whole milliseconds, which is what the clock counts: else it would be told too early.
        let at = i64::try_from(at.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX);
        crate::clock::until(self.flows.0.ground.desk.store.clock().now(), at).min(SLEEP_MAX)
    }

    /// What came meanwhile is stored with it: a wide fan-out would else store its state once for each child.
    async fn hear(&mut self, told: Told) -> Next {
        let mut heard = Vec::new();
        let mut next = Some(told);
        while let Some(told) = next.take() {
            heard.push(self.handle(told));
            if heard.len() < HEARD_MAX && !self.run.state().phase.is_over() {
                next = self.told.try_recv().ok();
            }
        }
        self.turn(heard).await
    }

    fn handle(&mut self, told: Told) -> Heard {
        let Told { event, output, reply } = told;
        let ended = match &event {
            Event::Ended { key, .. } => Some((key.clone(), output)),
            _ => None,
        };
        // It was answered before, and the answer may have been lost.
        let known = matches!(&event, Event::Signal { id, .. } if self.run.state().signals_seen.contains(id));
        if !known {
            let now = time(self.flows.0.ground.desk.store.clock().now());
            self.run.handle(now, event, &mut self.rng);
        }
        if let Some((key, _)) = &ended {
            self.attempts.remove(key);
        }
        Heard { notes: self.run.take_notes(), reply, ended }
    }

    /// Stores what became of it, then does what is asked for.
    async fn turn(&mut self, heard: Vec<Heard>) -> Next {
        let actions: Vec<Action> = std::iter::from_fn(|| self.run.poll_action()).collect();
        let run = self.run.state().run.clone();
        for note in heard.iter().flat_map(|heard| &heard.notes) {
            tracing::debug!(run, from = note.from, to = note.to, reason = %note.reason, inputs = ?note.inputs);
        }
        let kept = self.keep(&heard, &actions).await;
        if let Err(error) = &kept {
            tracing::error!(code = error.code(), %error, run, "a run is not led any more");
        }
        for Heard { notes, reply, ended } in heard {
            if let Some(reply) = reply {
                let refused = match &kept {
                    Ok(()) => refusal(&notes),
                    Err(error) => Some(error.to_string()),
                };
                drop(reply.send(refused.map_or(Ok(()), |reason| Err(Error::RunRefuses { run: run.clone(), reason }))));
            }
            if let (Ok(()), Some((key, _))) = (&kept, ended) {
                attempt::forget(&self.flows.0.ground, &key);
            }
        }
        if kept.is_err() {
            return Next::Over;
        }
        let over = self.run.state().phase.is_over();
        for action in actions {
            self.perform(action);
        }
        if over { Next::Over } else { Next::Wait }
    }

    /// Until it is stored; an error when it never can be by this leader.
    async fn keep(&mut self, heard: &[Heard], actions: &[Action]) -> Result<()> {
        let state = self.run.state();
        let over = actions.iter().find_map(|action| match action {
            Action::Ended { output, error, .. } => Some((output, error)),
            _ => None,
        });
        let keep = Keep {
            id: state.run.clone(),
            was: self.stored,
            version: state.version,
            state: state::encode(state)?,
            status: self.run.status().name(),
            over_ms: state.phase.is_over().then_some(self.pinned.declared.keep_ms),
            output: over.map(|(output, _)| value::to_json(output).to_string()),
            error: over.and_then(|(_, error)| error.clone()).or_else(|| state.cause.clone()),
            notes: heard.iter().flat_map(attempt_notes).collect(),
        };
        loop {
            match self.flows.0.ground.desk.store.keep_run(keep.clone()).await {
                Ok(true) => {
                    self.stored = keep.version;
                    return Ok(());
                }
                Ok(false) => {
                    let reason = "its state was replaced by somebody else".into();
                    return Err(Error::RunRefuses { run: keep.id, reason });
                }
                Err(Error::Throttled { reason }) => {
                    tracing::warn!(run = keep.id, reason, "the state of a run is not stored yet");
                    tokio::time::sleep(AGAIN).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn perform(&mut self, action: Action) {
        let pools = &self.flows.0.pools;
        match action {
            Action::AcquireSlot { key, pool, priority } => self.flows.grant(pools.acquire(key, &pool, priority)),
            Action::HoldSlot { key, pool } => pools.hold(key, &pool),
            Action::ReleaseSlot { key, pool } => self.flows.grant(pools.release(&key, &pool)),
            Action::Start(start) => self.start(*start),
            Action::Stop { key, why } => self.stop(key, why),
            Action::Page { key, why } => {
                let key = key.map(|key| key.to_string());
                tracing::error!(code = "HF0828", run = self.run.state().run, key, why, "somebody must look at a run");
            }
            Action::Ended { status, error, .. } => {
                tracing::info!(run = self.run.state().run, status = status.name(), error, "a run is over");
            }
        }
    }

    fn start(&mut self, start: Start) {
        let key = start.key.clone();
        let (stop, stopped) = watch::channel(false);
        self.attempts.insert(key.clone(), stop);
        let group = self.group(&key);
        self.spawn(Attempt { key, start: Some(start), group, stopped });
    }

    /// What a process before this one handed over has nobody here who could be told: it is looked for.
    fn stop(&mut self, key: Key, why: Halt) {
        tracing::debug!(%key, why = why.reason(), "an attempt is told to end");
        if let Some(stop) = self.attempts.get(&key) {
            stop.send_replace(true);
            return;
        }
        let (stop, stopped) = watch::channel(true);
        self.attempts.insert(key.clone(), stop);
        self.spawn(Attempt { key, start: None, group: None, stopped });
    }

    fn spawn(&self, attempt: Attempt) {
        let (flows, pinned, inbox) = (self.flows.clone(), self.pinned.clone(), self.inbox.clone());
        let closing = self.flows.0.ground.closing.clone();
        tokio::spawn(async move {
            let mut closing = closing;
            tokio::select! {
                () = attempt.run(&flows, &pinned, &inbox) => {}
                // Its result waits under its shim, or it is asked for again.
                _ = closing.wait_for(|closing| *closing) => {}
            }
        });
    }

    /// Message group of a send, which the machine does not know.
    fn group(&self, key: &Key) -> Option<String> {
        attempt::group(&self.pinned.declared, self.run.state(), key)
    }
}

/// Why what somebody asked for was not done.
fn refusal(notes: &[Transition]) -> Option<String> {
    let refused = |note: &&Transition| {
        (note.from == "command" && note.to == "refused") || (note.from == "signal" && note.to == "ignored")
    };
    notes.iter().find(refused).map(|note| note.reason.to_string())
}

/// Beginnings and ends of attempts, as the machine noted them.
fn attempt_notes(heard: &Heard) -> Vec<AttemptNote> {
    let mut found = Vec::new();
    for note in &heard.notes {
        let key = note.inputs.iter().find(|(name, _)| *name == "key").and_then(|(_, text)| text.parse::<Key>().ok());
        let Some(key) = key else { continue };
        let (began, over) = (note.to == "running", note.from == "running");
        if !began && !over {
            continue;
        }
        let of_it = heard.ended.as_ref().filter(|(of, _)| over && *of == key);
        let output = of_it.and_then(|(_, output)| output.clone());
        found.push(AttemptNote {
            barrier: key.barrier(),
            attempt: key.attempt,
            outcome: over.then(|| note.to.to_owned()),
            words: note.reason.to_string(),
            output,
        });
    }
    found
}
