//! The API for clients elsewhere: the same as on the Unix socket, for who has a key, as far as its role goes.

use std::sync::{Arc, PoisonError};

use axum::Extension;
use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use holdfast_cluster::keys::{Key, Role};
use holdfast_host::clock;

use super::server::{Caller, Site};
use crate::agent::agent_event;
use crate::failure::{Exit, Failure};

pub(super) async fn gate(
    State(site): State<Arc<Site>>,
    Extension(caller): Extension<Caller>,
    request: Request,
    next: Next,
) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let looks_only = method == Method::GET;
    let name = match admit(&site, &caller, request.headers(), Role::needed(looks_only, &path)) {
        Ok(name) => name,
        Err((status, failure)) => {
            audit(&site, &caller, &failure.what, &path, status);
            return (status, Json(failure)).into_response();
        }
    };
    let answer = next.run(request).await;
    if !looks_only {
        audit(&site, &caller, &format!("key {name}"), &path, answer.status());
    }
    answer
}

fn admit(site: &Site, caller: &Caller, headers: &HeaderMap, needed: Role) -> Result<String, (StatusCode, Failure)> {
    let refused =
        |status, what: String, hint: &str| Err((status, Failure::new("HF0389", what).hint(hint).exit(Exit::Refused)));
    let mut throttle = site.throttle.lock().unwrap_or_else(PoisonError::into_inner);
    if !throttle.may_try(clock::now(), caller.addr) {
        return refused(StatusCode::TOO_MANY_REQUESTS, "too many keys were wrong".into(), "wait a minute");
    }
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let key = bearer.and_then(|text| text.parse::<Key>().ok());
    let seen = site.member.seen();
    let known = key.as_ref().and_then(|key| seen.view.keys.get(&key.name).filter(|record| record.knows(key)));
    match (key, known) {
        (Some(key), Some(record)) if record.role >= needed => Ok(key.name),
        (Some(key), Some(record)) => {
            let what = format!("the key {} may {}, and this needs {needed}", key.name, record.role);
            refused(StatusCode::FORBIDDEN, what, "holdfast key add NAME --role ROLE, on a machine of the cluster")
        }
        _ => {
            throttle.failed(clock::now(), caller.addr);
            let hint = "holdfast key list, on a machine of the cluster";
            refused(StatusCode::UNAUTHORIZED, "no key that is known here was shown".into(), hint)
        }
    }
}

/// Who, what, when, and how it went.
fn audit(site: &Site, caller: &Caller, who: &str, path: &str, status: StatusCode) {
    tracing::info!(who, path, from = %caller.addr, status = status.as_u16(), "asked over the link");
    let event = agent_event(&site.core, "agent/api").change("", "asked", format!("{who}: {path}"));
    site.core.journal.append(event.with("from", caller.addr).with("status", status.as_u16()).with("stage", "neutral"));
}
