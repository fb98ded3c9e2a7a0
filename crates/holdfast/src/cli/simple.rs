//! Commands that are one request to the agent: restart, scale, switchover, pause, resume.

use super::{Common, duration, print_json, print_text};
use crate::api::{Done, Pause, Restart, Resume, Scale, Switchover};
use crate::failure::{Exit, Failure};

pub(super) async fn restart(common: &Common, target: String) -> Result<Exit, Failure> {
    let done: Done = common.client()?.post("/v1/restart", &Restart { target }).await?;
    say(common, &done)
}

pub(super) async fn scale(common: &Common, what: &str) -> Result<Exit, Failure> {
    let (service, replicas) =
        what.split_once('=').and_then(|(service, n)| Some((service.to_owned(), n.parse().ok()?))).ok_or_else(|| {
            Failure::new("HF0705", format!("`{what}` is not SERVICE=REPLICAS"))
                .hint("for example: holdfast scale web=5")
                .exit(Exit::Usage)
        })?;
    let done: Done = common.client()?.post("/v1/scale", &Scale { service, replicas }).await?;
    say(common, &done)
}

pub(super) async fn switch_over(
    common: &Common,
    service: String,
    to: Option<String>,
    force: bool,
) -> Result<Exit, Failure> {
    let done: Done = common.client()?.post("/v1/switchover", &Switchover { service, to, force }).await?;
    say(common, &done)
}

pub(super) async fn pause(
    common: &Common,
    name: Option<String>,
    how_long: &str,
    reason: String,
) -> Result<Exit, Failure> {
    let for_ms = u64::try_from(duration(how_long)?.as_millis()).unwrap_or(u64::MAX);
    let who = own_name();
    let done: Done = common.client()?.post("/v1/pause", &Pause { name, for_ms, reason, who }).await?;
    say(common, &done)
}

/// Who asks. Services and containers have no `USER`.
pub(super) fn own_name() -> String {
    if let Ok(name) = std::env::var("SUDO_USER").or_else(|_| std::env::var("USER")) {
        return name;
    }
    let uid = rustix::process::geteuid().as_raw();
    let account = holdfast_host::user::resolve(&uid.to_string(), None, None).ok();
    account.and_then(|account| account.name).unwrap_or_else(|| format!("uid {uid}"))
}

pub(super) async fn resume(common: &Common, name: Option<String>) -> Result<Exit, Failure> {
    let done: Done = common.client()?.post("/v1/resume", &Resume { name }).await?;
    say(common, &done)
}

pub(super) fn say(common: &Common, done: &Done) -> Result<Exit, Failure> {
    if common.json {
        print_json(done)?;
    } else {
        print_text(&format!("{}\n", done.message));
    }
    Ok(Exit::Ok)
}
