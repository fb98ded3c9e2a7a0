//! Lanes: connections that each put what waits into one transaction, and answer after its commit.

use std::sync::Arc;
use std::time::Instant;

use holdfast_policy::rng::Rng;
use tokio::sync::{Mutex, mpsc, oneshot};

use super::batch::{Act, Ask, Said};
use super::session::{Broken, Session};
use super::{AGAIN, COLLISIONS_MAX, CONNECT_AGAIN, LANES, Shared};
use crate::error::{Error, Result};

/// Operations of one transaction.
const BATCH_MAX: usize = 256;

/// One operation, and who waits for it.
pub(super) struct Waiting {
    pub(super) ask: Ask,
    pub(super) reply: oneshot::Sender<Result<Said>>,
    /// Nobody listens any more then.
    pub(super) until: Instant,
}

type Queue = Arc<Mutex<mpsc::Receiver<Waiting>>>;

pub(super) fn begin(shared: &Arc<Shared>, waiting: mpsc::Receiver<Waiting>) {
    let queue: Queue = Arc::new(Mutex::new(waiting));
    for n in 0..LANES {
        let lane = Lane {
            shared: shared.clone(),
            queue: queue.clone(),
            session: None,
            rng: Rng::from_seed(crate::seed() ^ n as u64),
        };
        let mut closing = shared.closing.subscribe();
        tokio::spawn(async move {
            tokio::select! {
                () = lane.run() => {}
                _ = closing.wait_for(|closing| *closing) => {}
            }
        });
    }
}

struct Lane {
    shared: Arc<Shared>,
    queue: Queue,
    session: Option<Session>,
    rng: Rng,
}

impl Lane {
    async fn run(mut self) {
        loop {
            // Before anything is taken: another lane may have a connection.
            self.connect().await;
            let mut batch = Vec::new();
            {
                let mut queue = self.queue.lock().await;
                if queue.recv_many(&mut batch, BATCH_MAX).await == 0 {
                    return;
                }
            }
            batch.retain(|waiting| !waiting.reply.is_closed() && waiting.until > Instant::now());
            if !batch.is_empty() {
                self.carry(batch).await;
            }
        }
    }

    async fn connect(&mut self) {
        let mut failed = 0;
        while self.session.as_ref().is_none_or(|session| session.client.is_closed()) {
            self.session = None;
            match self.shared.target.connect().await {
                Ok(session) => self.session = Some(session),
                Err(broken) => {
                    if failed == 0 {
                        tracing::warn!(reason = ?broken, "the database is not reached: operations wait or are put off");
                    }
                    tokio::time::sleep(CONNECT_AGAIN.delay(failed, &mut self.rng)).await;
                    failed = failed.saturating_add(1);
                }
            }
        }
    }

    /// Until everybody in it has an answer.
    async fn carry(&mut self, mut batch: Vec<Waiting>) {
        let mut failed = 0;
        loop {
            self.connect().await;
            batch.retain(|waiting| !waiting.reply.is_closed() && waiting.until > Instant::now());
            if batch.is_empty() {
                return;
            }
            match self.attempt(&batch).await {
                Ok(said) => return self.answer(batch, said),
                Err(Failed::Unknown(reason)) => return refuse(batch, &reason),
                Err(Failed::Undone(broken)) => match broken {
                    Broken::Collided(reason) if failed >= COLLISIONS_MAX => return refuse(batch, &reason),
                    Broken::NotNow(reason) => return refuse(batch, &reason),
                    Broken::Collided(_) | Broken::Lost(_) => {
                        tokio::time::sleep(AGAIN.delay(failed, &mut self.rng)).await;
                        failed = failed.saturating_add(1);
                    }
                    // One of them is at fault, and must not take the others with it.
                    Broken::Refused(_) | Broken::Server(_) if batch.len() > 1 => {
                        for waiting in batch {
                            Box::pin(self.carry(vec![waiting])).await;
                        }
                        return;
                    }
                    broken => {
                        if let Some(waiting) = batch.pop() {
                            let error = broken.into_error();
                            tracing::warn!(%error, "an operation is not possible");
                            drop(waiting.reply.send(Err(error)));
                        }
                        return;
                    }
                },
            }
        }
    }

    async fn attempt(&mut self, batch: &[Waiting]) -> std::result::Result<Vec<Result<Said>>, Failed> {
        let Some(session) = &self.session else {
            return Err(Failed::Undone(Broken::Lost("there is no connection".into())));
        };
        let done = async {
            let mut tx = session.begin(&self.shared).await?;
            let asks: Vec<&Ask> = batch.iter().map(|waiting| &waiting.ask).collect();
            let said = tx.batch(&asks).await?;
            Ok((tx, said))
        };
        let broken = match done.await {
            Ok((tx, said)) => match tx.commit().await {
                Ok(()) => return Ok(said),
                // The commit may have been done, and nobody can say.
                Err(Broken::Lost(reason)) => {
                    self.session = None;
                    return Err(Failed::Unknown(reason));
                }
                Err(broken) => broken,
            },
            Err(broken) => broken,
        };
        let useless = matches!(broken, Broken::Lost(_));
        if useless || session.rollback().await.is_err() {
            self.session = None;
        }
        Err(Failed::Undone(broken))
    }

    fn answer(&self, batch: Vec<Waiting>, said: Vec<Result<Said>>) {
        for (waiting, said) in batch.into_iter().zip(said) {
            if let Err(Ok(Said::Received(received))) = waiting.reply.send(said) {
                // Nobody has these messages, so nobody need wait for their timeout, and none is charged.
                let Ask::Receive { queue, .. } = waiting.ask else { continue };
                let acts = received.deliveries.iter().map(|d| (self.shared.sealer.open(&d.receipt), Act::HandBack));
                let ask = Ask::Settle { queue, acts: acts.collect() };
                let (reply, unheard) = oneshot::channel();
                let waiting = Waiting { ask, reply, until: Instant::now() + super::ANSWER_MAX };
                // It is not carried out when nobody waits for it.
                tokio::spawn(unheard);
                if self.shared.asking.try_send(waiting).is_err() {
                    tracing::debug!("messages that nobody took wait for their timeout");
                }
            }
        }
    }
}

enum Failed {
    /// Nothing of it was done.
    Undone(Broken),
    Unknown(String),
}

fn refuse(batch: Vec<Waiting>, reason: &str) {
    for waiting in batch {
        drop(waiting.reply.send(Err(Error::Throttled { reason: reason.to_owned() })));
    }
}
