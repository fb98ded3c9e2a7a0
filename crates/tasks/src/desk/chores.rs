//! What goes on behind the desk: sweeping, expiry, moves of dead letters.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_policy::backoff::Backoff;
use holdfast_policy::rng::Rng;

use super::Desk;
use crate::error::Result;
use crate::queue::{Move, MoveState};

const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Between two steps of a sweep that has more to do: everybody else's operations go in between.
const SWEEP_PAUSE: Duration = Duration::from_millis(20);
const EXPIRE_EVERY: Duration = Duration::from_secs(5);
/// How far the clock came is written down, so that it does not go back over a boot with a wrong wall clock.
const CLOCK_EVERY: Duration = Duration::from_secs(60);

/// A step of a move at full speed, and how many there are in a second with a rate.
const MOVE_STEP: u32 = 100;
const MOVE_STEPS_PER_S: u32 = 10;
/// Without a rate; SQS moves at most 500 a second too.
const MOVE_RATE: u32 = 500;
/// Moves that go on at once: one for each source.
const MOVES_MAX: usize = 1_000;
/// Between two looks for moves whose plane has died.
const MOVES_EVERY: Duration = Duration::from_secs(5);
/// Between two looks for messages of other planes: after one that found some, and at most.
const OTHERS_LOOK: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(250));
/// After a step that could not be done, such as on a full disk.
const AGAIN: Backoff =
    Backoff { base: Duration::from_millis(200), factor: 2.0, max: Duration::from_secs(10), jitter: 0.2 };

impl Desk {
    pub(super) fn begin_chores(&self) {
        let (desk, sweeper) = (self.clone(), self.clone());
        tokio::spawn(async move { sweeper.until_closing(sweeper.sweep()).await });
        tokio::spawn(async move { desk.until_closing(desk.expire()).await });
        let mover = self.clone();
        tokio::spawn(async move { mover.until_closing(mover.resume_moves()).await });
        if self.store.is_shared() {
            let looker = self.clone();
            tokio::spawn(async move { looker.until_closing(looker.look_for_others()).await });
        }
    }

    async fn until_closing(&self, chore: impl Future<Output = ()>) {
        let mut closing = self.closing.subscribe();
        tokio::select! {
            () = chore => {}
            _ = closing.wait_for(|closing| *closing) => {}
        }
    }

    async fn sweep(&self) {
        let mut clock_kept = std::time::Instant::now();
        loop {
            match self.store.sweep().await {
                Ok(true) => tokio::time::sleep(SWEEP_PAUSE).await,
                Ok(false) => tokio::time::sleep(SWEEP_EVERY).await,
                Err(error) => {
                    tracing::debug!(%error, "nothing is swept now");
                    tokio::time::sleep(SWEEP_EVERY).await;
                }
            }
            if clock_kept.elapsed() >= CLOCK_EVERY {
                clock_kept = std::time::Instant::now();
                if let Err(error) = self.store.keep_clock().await {
                    tracing::debug!(%error, "the time was not written down");
                }
            }
        }
    }

    async fn expire(&self) {
        let mut from: BTreeMap<String, i64> = BTreeMap::new();
        loop {
            tokio::time::sleep(EXPIRE_EVERY).await;
            let queues = match self.store.list("", None, crate::queue::QUEUES_MAX).await {
                Ok(queues) => queues,
                Err(error) => {
                    tracing::debug!(%error, "no queue is looked at for expired messages now");
                    continue;
                }
            };
            let mut next = BTreeMap::new();
            for queue in queues {
                let start = from.get(&queue.name).copied().unwrap_or(0);
                if let Ok(Some(at)) = self.store.expire(&queue.name, start).await {
                    next.insert(queue.name, at);
                }
            }
            from = next;
        }
    }

    /// Those that a plane has left: the one before this, and of a store that is shared any other, now or later.
    async fn resume_moves(&self) {
        loop {
            match self.store.running_moves(MOVES_MAX).await {
                Ok(moves) => moves.into_iter().for_each(|task| self.go_on_moving(task)),
                Err(error) => tracing::warn!(%error, "moves of dead letters are not resumed"),
            }
            if !self.store.is_shared() {
                return;
            }
            tokio::time::sleep(MOVES_EVERY).await;
        }
    }

    /// Messages that came by way of other planes ring no bell here: one look for all queues at which somebody waits.
    async fn look_for_others(&self) {
        let mut pause = OTHERS_LOOK.0;
        loop {
            tokio::time::sleep(pause).await;
            let waited_for = self.bells.waited_for();
            if waited_for.is_empty() {
                continue;
            }
            pause = match self.store.ready(waited_for).await {
                Ok(ready) => {
                    for (queue, many) in &ready {
                        self.bells.get(queue).ring(usize::try_from(*many).unwrap_or(usize::MAX));
                    }
                    if ready.is_empty() { (pause * 3 / 2).min(OTHERS_LOOK.1) } else { OTHERS_LOOK.0 }
                }
                Err(error) => {
                    tracing::debug!(%error, "nobody looks for messages of other planes now");
                    OTHERS_LOOK.1
                }
            };
        }
    }

    pub async fn start_move(&self, source: &str, destination: Option<&str>, rate_max: Option<u32>) -> Result<Move> {
        let task = self.store.start_move(source, destination, rate_max).await?;
        self.go_on_moving(task.clone());
        Ok(task)
    }

    fn go_on_moving(&self, task: Move) {
        let desk = self.clone();
        if !lock(&desk.moving).insert(task.handle.clone()) {
            return;
        }
        tokio::spawn(async move {
            desk.until_closing(desk.moving(&task)).await;
            lock(&desk.moving).remove(&task.handle);
        });
    }

    async fn moving(&self, task: &Move) {
        let rate = task.rate_max.unwrap_or(MOVE_RATE).max(1);
        let step = (rate / MOVE_STEPS_PER_S).clamp(1, MOVE_STEP);
        let pause = Duration::from_secs_f64(f64::from(step) / f64::from(rate));
        let (mut failed, mut rng) = (0, Rng::from_seed(crate::seed()));
        loop {
            match self.store.step_move(&task.handle, step).await {
                Ok(moved) => {
                    failed = 0;
                    for queue in &moved.into {
                        self.bells.get(queue).ring(moved.many as usize);
                    }
                    if moved.state != MoveState::Running {
                        tracing::info!(source = task.source, state = moved.state.word(), "a move of messages ended");
                        return;
                    }
                    tokio::time::sleep(pause).await;
                }
                Err(crate::Error::NoMove { .. } | crate::Error::NoQueue { .. }) => return,
                Err(error) => {
                    tracing::debug!(%error, source = task.source, "a step of a move is tried again");
                    tokio::time::sleep(AGAIN.delay(failed, &mut rng)).await;
                    failed = failed.saturating_add(1);
                }
            }
        }
    }
}

fn lock(moving: &Mutex<BTreeSet<String>>) -> MutexGuard<'_, BTreeSet<String>> {
    moving.lock().unwrap_or_else(PoisonError::into_inner)
}
