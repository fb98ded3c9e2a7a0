//! A step that is another run: begun once for each attempt, and waited for.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_policy::flow::{Event, Outcome, Value};

use super::{Case, Ended};
use crate::error::Error;
use crate::flow::stored::RunRow;
use crate::flow::value::from_json;

/// Besides the word that some run is over.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(super) async fn run(case: &Case<'_>, workflow: &str, parameters: BTreeMap<String, Value>) -> Ended {
    match case.flows.submit_below(case.key, workflow, parameters).await {
        Ok(submitted) => wait(case, &submitted.id).await,
        Err(error @ (Error::NoWorkflow { .. } | Error::Workflow { .. } | Error::Parameters { .. })) => {
            Ended::of(Outcome::Terminal { error: error.to_string() })
        }
        Err(error) => Ended::of(Outcome::Retryable { error: error.to_string() }),
    }
}

/// Of an attempt that an earlier process has handed over.
pub(super) async fn go_on(case: &Case<'_>, workflow: &str, parameters: BTreeMap<String, Value>) -> Ended {
    match case.flows.below(case.key).await {
        Ok(Some(id)) => wait(case, &id).await,
        _ => run(case, workflow, parameters).await,
    }
}

/// Of an attempt that an earlier process began, and that is to end.
pub(super) async fn end(case: &Case<'_>) -> Ended {
    match case.flows.below(case.key).await {
        Ok(Some(id)) => wait(case, &id).await,
        Ok(None) => Ended::of(Outcome::Retryable { error: "it was not begun".into() }),
        Err(error) => Ended::of(Outcome::Unknown { error: error.to_string() }),
    }
}

async fn wait(case: &Case<'_>, id: &str) -> Ended {
    let mut told = false;
    loop {
        let changed = case.flows.0.ended.notified();
        if !case.flows.is_led(id) {
            match case.flows.0.ground.desk.store.flow_run(id).await {
                Ok(row) if row.over => return Ended::of(judged(&row)),
                Ok(_) => {}
                Err(error @ Error::NoRun { .. }) => return Ended::of(Outcome::Unknown { error: error.to_string() }),
                Err(error) => tracing::debug!(run = id, %error, "a run below is looked at again"),
            }
        }
        if case.is_stopped() && !told {
            told = true;
            // Refused after a pivot: then its end is waited for.
            drop(case.flows.tell(id, Event::Cancel { by: format!("run {}", case.key.run) }).await);
        }
        tokio::select! {
            () = changed => {}
            () = case.until_stopped(), if !told => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

fn judged(row: &RunRow) -> Outcome {
    let error = || {
        let why = row.error.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
        format!("run {} is {}{why}", row.id, row.status)
    };
    match row.status.as_str() {
        "succeeded" => {
            let json = row.output.as_deref().and_then(|text| serde_json::from_str(text).ok());
            Outcome::Success { output: json.map_or(Value::Null, from_json) }
        }
        "failed" => Outcome::Retryable { error: error() },
        // It is known to be undone.
        "rolled-back" => Outcome::Business { error: error() },
        _ => Outcome::Terminal { error: error() },
    }
}
