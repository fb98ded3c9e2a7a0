//! A step that is a message: sent once, and where it says so, done when a worker is done with it.

use std::time::Duration;

use holdfast_policy::flow::{Event, Outcome, Value};

use super::{Case, Ended};
use crate::error::Error;
use crate::flow::stored::Found;
use crate::queue::{Buried, New, Sent, Spec};

/// First look at the message, and the longest time between two.
const LOOK_FIRST: Duration = Duration::from_millis(50);
const LOOK_MAX: Duration = Duration::from_secs(1);
const SEND_AGAIN: Duration = Duration::from_millis(500);

pub(super) async fn run(case: &Case<'_>, queue: &str, body: &str, group: Option<String>, waits: bool) -> Ended {
    // Of a message that is waited for, another attempt means another message; else a repetition is the same one.
    let key = if waits { case.key.to_string() } else { case.key.barrier() };
    let new = New {
        body: body.to_owned(),
        sender: format!("run/{}", case.key.run),
        deduplication: queue.ends_with(".fifo").then(|| key.clone()),
        group,
        idempotency: Some(key.clone()),
        ..New::default()
    };
    let sent = match send(case, queue, new).await {
        Ok(sent) => sent,
        Err(outcome) => return Ended::of(outcome),
    };
    let id = sent.message.to_string();
    if !waits {
        return Ended::of(Outcome::Success { output: Value::Text(id) });
    }
    let spec = match case.flows.0.ground.desk.store.spec(queue).await {
        Ok(spec) => spec,
        Err(error) => return Ended::of(Outcome::Unknown { error: error.to_string() }),
    };
    tokio::select! {
        outcome = done(case, queue, &sent, &spec) => Ended::of(outcome),
        () = case.until_stopped() => Ended::of(Outcome::Unknown { error: format!("message {id} is not waited for") }),
    }
}

/// Until it is known whether it was sent.
async fn send(case: &Case<'_>, queue: &str, new: New) -> Result<Sent, Outcome> {
    loop {
        let sent = case.flows.0.ground.desk.send(queue, vec![new.clone()]).await;
        let sent =
            sent.and_then(|mut all| all.pop().unwrap_or_else(|| Err(Error::Throttled { reason: "none".into() })));
        match sent {
            Ok(sent) => return Ok(sent),
            Err(error @ (Error::Throttled { .. } | Error::Store(_))) => {
                tracing::debug!(queue, %error, "a message of a run is sent again");
                if case.is_stopped() {
                    return Err(Outcome::Unknown { error: error.to_string() });
                }
                tokio::time::sleep(SEND_AGAIN).await;
            }
            Err(error @ Error::NoQueue { .. }) => return Err(Outcome::Retryable { error: error.to_string() }),
            Err(error) => return Err(Outcome::Terminal { error: error.to_string() }),
        }
    }
}

/// Until its worker has deleted it, or it is among the dead letters.
async fn done(case: &Case<'_>, queue: &str, sent: &Sent, spec: &Spec) -> Outcome {
    let (mut wait, mut started) = (LOOK_FIRST, false);
    let began = tokio::time::Instant::now();
    loop {
        match case.flows.0.ground.desk.store.find_sent(queue, sent).await {
            Ok(Some(Found::Waits { receives })) => {
                if receives > 0 && !started {
                    started = true;
                    case.tell(Event::Started { key: case.key.clone() });
                }
            }
            Ok(Some(Found::Dead { story })) => return dead(&story),
            Ok(Some(Found::Purged)) => return Outcome::Retryable { error: "the queue was purged or deleted".into() },
            // It grew too old: nobody has done what it asks for.
            Ok(None) if began.elapsed() >= Duration::from_millis(spec.retention_ms) => {
                return Outcome::Retryable { error: "no worker took the message before it was too old".into() };
            }
            Ok(None) => return Outcome::Success { output: Value::Null },
            Err(error) => tracing::debug!(queue, %error, "a message is looked for again"),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 3 / 2).min(LOOK_MAX);
    }
}

fn dead(story: &str) -> Outcome {
    let Ok(Buried { reason, error, .. }) = serde_json::from_str(story) else {
        return Outcome::Terminal { error: "the message is among the dead letters".into() };
    };
    let error = format!("the message is among the dead letters ({reason}): {}", error.unwrap_or_default());
    match reason.as_str() {
        "refused" => Outcome::Business { error },
        _ => Outcome::Retryable { error },
    }
}
