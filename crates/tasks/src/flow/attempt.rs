//! One attempt at a step, from the moment its run has stored that it is handed over until its end is told.

mod child;
mod command;
mod http;
mod orphans;
mod outputs;
mod scope;
mod send;

use std::sync::Arc;

use holdfast_policy::flow::{Event, Job, Key, Operation, Outcome, Start};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;

use super::declared::{Step, Work};
use super::{Flows, Ground, Pinned, Told};

pub(super) use self::orphans::{Owner, end_orphans};
pub(super) use self::outputs::forget_files;
pub(crate) use self::outputs::read_log;
pub(super) use self::scope::group;

pub(super) struct Attempt {
    pub(super) key: Key,
    /// `None`: a process before this one handed it over, and it is to end.
    pub(super) start: Option<Start>,
    /// Message group of a send.
    pub(super) group: Option<String>,
    pub(super) stopped: watch::Receiver<bool>,
}

/// How it ended, and what it printed.
pub(super) struct Ended {
    outcome: Outcome,
    output: Option<String>,
}

impl Ended {
    fn of(outcome: Outcome) -> Ended {
        Ended { outcome, output: None }
    }
}

/// What every kind of work needs.
struct Case<'a> {
    flows: &'a Flows,
    pinned: &'a Pinned,
    key: &'a Key,
    step: &'a Step,
    inbox: &'a UnboundedSender<Told>,
    stopped: watch::Receiver<bool>,
}

impl Case<'_> {
    fn work(&self) -> Option<&Work> {
        match self.key.operation {
            Operation::Do => Some(&self.step.work),
            Operation::Undo => self.step.undo.as_ref(),
        }
    }

    fn tell(&self, event: Event) {
        drop(self.inbox.send(Told::of(event)));
    }

    fn is_stopped(&self) -> bool {
        *self.stopped.borrow()
    }

    /// Never, when nobody asks for its end.
    async fn until_stopped(&self) {
        let mut stopped = self.stopped.clone();
        if stopped.wait_for(|stopped| *stopped).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// As a program and a participant are told it.
fn operation(key: &Key) -> &'static str {
    match key.operation {
        Operation::Do => "action",
        Operation::Undo => "undo",
    }
}

impl Attempt {
    pub(super) async fn run(self, flows: &Flows, pinned: &Arc<Pinned>, inbox: &UnboundedSender<Told>) {
        let Some(step) = pinned.declared.step(&self.key.step) else { return };
        let case = Case { flows, pinned, key: &self.key, step, inbox, stopped: self.stopped.clone() };
        let ended = match &self.start {
            Some(start) => match &start.job {
                Job::Command { argv, env, workdir, user } => {
                    let program = command::Program { argv, env, workdir: workdir.as_deref(), user: user.as_deref() };
                    command::run(&case, start, &program).await
                }
                Job::Http { url, method, headers, body } => {
                    let request = http::Request { url, method, headers, body: body.as_deref() };
                    http::run(&case, &request).await
                }
                Job::Send { queue, body, wait_for_worker } => {
                    send::run(&case, queue, body, self.group.clone(), *wait_for_worker).await
                }
                Job::Run { workflow, parameters } if !start.again => {
                    child::run(&case, workflow, parameters.clone()).await
                }
                // The file may have another workflow of this name by now, or none.
                Job::Run { workflow, parameters } => child::go_on(&case, workflow, parameters.clone()).await,
            },
            None => match case.work() {
                Some(Work::Command(_)) => command::collect(&case, None).await,
                Some(Work::Run { .. }) => child::end(&case).await,
                _ => Ended::of(Outcome::Unknown { error: "it was cut off".into() }),
            },
        };
        let Ended { outcome, output } = ended;
        drop(inbox.send(Told { event: Event::Ended { key: self.key, outcome }, output, reply: None }));
    }
}

/// What is left of an attempt whose end is stored.
pub(super) fn forget(ground: &Ground, key: &Key) {
    let (work, token) = (ground.work.clone(), command::token(key));
    tokio::task::spawn_blocking(move || {
        if let Err(error) = holdfast_host::job::Job::forget(&work, &token) {
            tracing::debug!(token, %error, "what is left of an attempt stays");
        }
    });
}
