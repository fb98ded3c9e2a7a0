//! `holdfast plan`: what applying the file would change on the running agent.

use holdfast_config::{Change, Environment, parse, render_plan};
use serde_json::{Value, json};

use super::{Common, check, print_json, print_text};
use crate::api::Desired;
use crate::failure::{Exit, Failure};
use crate::terminal::Style;

pub(super) async fn plan(common: &Common) -> Result<Exit, Failure> {
    let new = check::load(common)?;
    let client = common.client()?;
    let running: Option<Desired> = if client.alive().await { client.get("/v1/desired").await? } else { None };
    let applied = |desired: &Desired| parse(&desired.text, desired.path.as_ref(), &Environment::here()).ok();
    let old = running.as_ref().and_then(applied).map(|loaded| loaded.config);
    let plan = holdfast_config::plan(old.as_ref(), &new.config);
    if common.json {
        let changes: Vec<Value> = plan.changes.iter().map(change).collect();
        print_json(&json!({ "revision": running.map(|r| r.revision), "changes": changes }))?;
    } else {
        print_text(&render_plan(&plan, Style::stdout().is_colored()));
    }
    Ok(if plan.changes.is_empty() { Exit::Ok } else { Exit::Changes })
}

fn change(change: &Change) -> Value {
    let keys: Vec<Value> = change.keys.iter().map(|k| json!({ "key": k.key, "old": k.old, "new": k.new })).collect();
    json!({ "subject": change.subject, "action": change.action.name(), "instances": change.instances, "keys": keys })
}
