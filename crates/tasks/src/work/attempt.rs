//! One attempt at one message: begun, kept alive, ended, and what that means for the message.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use holdfast_host::job::{Job, Outcome, Status};
use holdfast_host::shim::Value;
use holdfast_policy::queue::Report;
use tokio::time::Instant;

use super::history::{Attempt, Begun};
use super::{Ground, call, replay};
use crate::clock::Millis;
use crate::definition::{EnvValue, How, Program, Worker};
use crate::error::Error;
use crate::queue::Delivery;

/// First look at a program's result, and the longest time between two.
const LOOK_FIRST: Duration = Duration::from_millis(3);
const LOOK_MAX: Duration = Duration::from_millis(100);
/// The end of what a program prints is kept with its attempt.
const OUTPUT_BYTES_MAX: u64 = 64 * 1024;
const OUTPUT_KEPT: usize = 4 * 1024;
/// A result is offered to the store until it takes it, as long as the lease lasts.
const SETTLE_AGAIN: Duration = Duration::from_millis(500);

/// How an attempt ended.
#[derive(Debug)]
pub(super) enum Ended {
    Done,
    Failed(Report),
    /// Nobody was there to be asked: as if it had never been taken.
    Unasked,
    /// The lease ran out: somebody else may have the message, so nothing is said about it.
    Lost,
}

pub(super) struct Result {
    pub(super) ended: Ended,
    pub(super) words: String,
}

impl Result {
    pub(super) fn failed(report: Report, words: impl Into<String>) -> Result {
        Result { ended: Ended::Failed(report), words: words.into() }
    }
}

/// The message that an attempt is for.
struct Subject {
    worker: String,
    queue: String,
    receipt: String,
    message: String,
    receive: u32,
    began: Millis,
    lease: Duration,
}

pub(super) async fn begin(ground: &Ground, name: &str, worker: &Worker, delivery: Delivery) {
    let subject = Subject {
        worker: name.to_owned(),
        queue: worker.queue.clone(),
        receipt: delivery.receipt.clone(),
        message: delivery.message.to_string(),
        receive: delivery.receives,
        began: ground.desk.store.clock().now(),
        lease: Duration::from_millis(worker.lease_ms),
    };
    match &worker.how {
        How::Http { service, path, timeout_ms } => {
            let target = call::choose(ground.definition.borrow().targets.get(service));
            let called = call::call(target, path, &delivery, Duration::from_millis(*timeout_ms));
            let result = held(ground, &subject, called).await;
            finish(ground, &subject, None, result).await;
        }
        How::Replay { service, timeout_ms } => {
            let targets = ground.definition.borrow().targets.get(service).cloned().unwrap_or_default();
            let replayed = replay::replay(&targets, &delivery, Duration::from_millis(*timeout_ms));
            let result = held(ground, &subject, replayed).await;
            finish(ground, &subject, None, result).await;
        }
        How::Command(program) => {
            let token = format!("{name}-{}-{}", subject.message, subject.receive);
            let work = Begun {
                token: token.clone(),
                worker: subject.worker.clone(),
                queue: subject.queue.clone(),
                receipt: subject.receipt.clone(),
                message: subject.message.clone(),
                receive: subject.receive,
                began: subject.began,
            };
            // Before the program: a process after this one must know of it.
            if let Err(error) = ground.desk.store.begin_work(work).await {
                let result = Result::failed(Report::Retry, format!("it could not be begun: {error}"));
                return finish(ground, &subject, None, result).await;
            }
            let job = job(program, &subject, &delivery, &token, Duration::from_millis(worker.timeout_ms));
            if let Err(error) = job.start(&ground.exe, &ground.root).await {
                let result = Result::failed(Report::Retry, error.to_string());
                return finish(ground, &subject, Some(token), result).await;
            }
            watch(ground, &subject, &token, program).await;
        }
    }
}

/// What a process before this one has begun: its program is under a shim of its own.
pub(super) async fn go_on(ground: &Ground, work: Begun) {
    let worker = ground.definition.borrow().workers.get(&work.worker).cloned();
    let subject = Subject {
        worker: work.worker,
        queue: work.queue,
        receipt: work.receipt,
        message: work.message,
        receive: work.receive,
        began: work.began,
        lease: Duration::from_millis(worker.as_ref().map_or(30_000, |w| w.lease_ms)),
    };
    let program = match worker.map(|w| w.how) {
        Some(How::Command(program)) => program,
        // Taken out of the file meanwhile: the usual meaning of exit codes.
        _ => Program { done: vec![0], dead: vec![65], ..Program::default() },
    };
    if let Err(error) = Job::abandon(&ground.root, &work.token).await {
        tracing::warn!(token = work.token, %error, "a program that was never given its message waits for it");
    }
    watch(ground, &subject, &work.token, &program).await;
}

async fn watch(ground: &Ground, subject: &Subject, token: &str, program: &Program) {
    let result = held(ground, subject, ended(&ground.root, token, program)).await;
    if matches!(result.ended, Ended::Lost)
        && let Err(error) = Job::cancel(&ground.root, token).await
    {
        tracing::warn!(token, %error, "a program whose lease ran out could not be ended");
    }
    finish(ground, subject, Some(token.to_owned()), result).await;
}

/// Renews the lease while `work` goes on; gives it up when the lease is lost.
async fn held(ground: &Ground, subject: &Subject, work: impl Future<Output = Result>) -> Result {
    let mut work = std::pin::pin!(work);
    let every = subject.lease / 3;
    let mut until = Instant::now() + subject.lease;
    loop {
        tokio::select! {
            result = work.as_mut() => return result,
            () = tokio::time::sleep(every.min(until.saturating_duration_since(Instant::now()))) => {}
        }
        let asked = Instant::now();
        let lease_ms = holdfast_policy::time::millis(subject.lease);
        let renewed = ground.desk.store.change_visibility(&subject.queue, vec![(subject.receipt.clone(), lease_ms)]);
        match renewed.await.map(|mut answers| answers.pop()) {
            Ok(Some(Ok(()))) => until = asked + subject.lease,
            Ok(Some(Err(Error::NotInFlight | Error::Receipt { .. } | Error::Invalid { .. }))) => return lost(),
            // Not known: the lease that there is holds until its end.
            Ok(_) | Err(_) if Instant::now() < until => {}
            Ok(_) | Err(_) => return lost(),
        }
    }
}

fn lost() -> Result {
    Result { ended: Ended::Lost, words: "its lease ran out".into() }
}

fn job(program: &Program, subject: &Subject, delivery: &Delivery, token: &str, deadline: Duration) -> Job {
    let mut env: Vec<(String, Value)> = program
        .env
        .iter()
        .map(|(name, value)| {
            let value = match value {
                EnvValue::Plain(text) => Value::Plain(text.clone()),
                EnvValue::File(path) => Value::File(path.clone()),
                EnvValue::Env(name) => Value::Env(name.clone()),
            };
            (name.clone(), value)
        })
        .collect();
    let mut put = |name: &str, value: String| env.push((name.to_owned(), Value::Plain(value)));
    put("HOLDFAST_QUEUE", subject.queue.clone());
    put("HOLDFAST_WORKER", subject.worker.clone());
    put("HOLDFAST_MESSAGE_ID", subject.message.clone());
    put("HOLDFAST_RECEIVES", subject.receive.to_string());
    put("HOLDFAST_FAILURES", delivery.failures.to_string());
    if let Some(group) = &delivery.group {
        put("HOLDFAST_GROUP", group.clone());
    }
    if program.body_in_env {
        put("HOLDFAST_MESSAGE", delivery.body.clone());
    }
    Job {
        argv: program.argv.clone(),
        env,
        stdin: if program.body_in_env { Vec::new() } else { delivery.body.clone().into_bytes() },
        workdir: program.workdir.clone(),
        user: program.user.clone(),
        deadline,
        output_bytes_max: OUTPUT_BYTES_MAX,
        owner: format!("worker/{}", subject.worker),
        token: token.to_owned(),
    }
}

/// Until the program is over.
async fn ended(root: &Arc<std::path::PathBuf>, token: &str, program: &Program) -> Result {
    let mut wait = LOOK_FIRST;
    loop {
        let (dir, name) = (root.clone(), token.to_owned());
        match tokio::task::spawn_blocking(move || Job::collect(&dir, &name)).await {
            Ok(Ok(Status::Running)) => {}
            Ok(Ok(Status::Done(outcome))) => return judged(&outcome, program),
            Ok(Ok(Status::NotStarted(failure))) => return Result::failed(Report::Retry, failure.text),
            Ok(Ok(Status::Lost)) => return unseen(root.clone(), token.to_owned()).await,
            // Written down, and then its process died before the program was started.
            Ok(Ok(Status::Unknown)) => return Result::failed(Report::Retry, "it was not started"),
            Ok(Err(error)) => return Result::failed(Report::Retry, error.to_string()),
            Err(error) => return Result::failed(Report::Retry, error.to_string()),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 3 / 2).min(LOOK_MAX);
    }
}

/// Its shim died with it; what it printed until then is there.
async fn unseen(root: Arc<std::path::PathBuf>, token: String) -> Result {
    let output = tokio::task::spawn_blocking(move || Job::output(&root, &token)).await.unwrap_or_default();
    let words = "nobody saw its end";
    let text = String::from_utf8_lossy(&output);
    Result::failed(Report::Retry, if text.is_empty() { words.to_owned() } else { tail(&text, words) })
}

fn judged(outcome: &Outcome, program: &Program) -> Result {
    let output = String::from_utf8_lossy(&outcome.output);
    let words = outcome.words();
    let ended = match outcome.code {
        _ if outcome.timed_out => Ended::Failed(Report::Retry),
        Some(code) if program.done.contains(&code) => Ended::Done,
        Some(code) if program.dead.contains(&code) => Ended::Failed(Report::Dead),
        Some(_) => Ended::Failed(Report::Retry),
        // A signal that we did not send: the program died of something.
        None => Ended::Failed(Report::Crashed),
    };
    Result { ended, words: if output.len() > words.len() { tail(&output, &words) } else { words } }
}

/// What happened, then the end of the output.
fn tail(output: &str, words: &str) -> String {
    let mut from = output.len().saturating_sub(OUTPUT_KEPT);
    while !output.is_char_boundary(from) {
        from += 1;
    }
    format!("{words}\n{}", &output[from..])
}

/// Tells the queue, then forgets the attempt; in this order, so that whoever dies in between is repeated, not skipped.
async fn finish(ground: &Ground, subject: &Subject, token: Option<String>, result: Result) {
    let outcome = settle(ground, subject, &result).await;
    if matches!(result.ended, Ended::Unasked) {
        return;
    }
    let attempt = Attempt {
        worker: subject.worker.clone(),
        queue: subject.queue.clone(),
        message: subject.message.clone(),
        receive: subject.receive,
        began: subject.began,
        ended: ground.desk.store.clock().now(),
        outcome: outcome.to_owned(),
        output: result.words,
    };
    if let Err(error) = ground.desk.store.end_work(token.clone(), attempt).await {
        // The next process finds it again, and is told that its receipt is void.
        return tracing::warn!(worker = subject.worker, %error, "the end of an attempt could not be written down");
    }
    if let Some(token) = token {
        forget(&ground.root, token).await;
    }
}

async fn forget(root: &Arc<std::path::PathBuf>, token: String) {
    let (root, name) = (root.clone(), token.clone());
    let forgotten = tokio::task::spawn_blocking(move || Job::forget(Path::new(&*root), &name)).await;
    if let Ok(Err(error)) = forgotten {
        tracing::debug!(token, %error, "what is left of an attempt stays");
    }
}

/// One word for the history.
async fn settle(ground: &Ground, subject: &Subject, result: &Result) -> &'static str {
    let until = Instant::now() + subject.lease;
    loop {
        let told = match &result.ended {
            Ended::Lost => return "lost its lease",
            Ended::Unasked => {
                let handed = ground.desk.hand_back(&subject.queue, &subject.receipt).await;
                handed.map(|()| "not asked")
            }
            Ended::Done => {
                let answers = ground.desk.acknowledge(&subject.queue, vec![subject.receipt.clone()], true).await;
                answers.and_then(|mut all| all.pop().unwrap_or(Err(Error::NotInFlight)).map(|_| "done"))
            }
            Ended::Failed(report) => {
                let told = ground.desk.report(&subject.queue, &subject.receipt, *report, &result.words).await;
                told.map(|_| match report {
                    Report::Retry => "retry",
                    Report::Dead => "dead",
                    Report::Crashed => "crashed",
                })
            }
        };
        match told {
            Ok(word) => return word,
            Err(Error::NotInFlight | Error::Receipt { .. } | Error::NoQueue { .. }) => return "too late",
            Err(error) if Instant::now() >= until => {
                tracing::warn!(worker = subject.worker, %error, "the result of an attempt was not taken");
                return "not taken";
            }
            Err(_) => tokio::time::sleep(SETTLE_AGAIN).await,
        }
    }
}
