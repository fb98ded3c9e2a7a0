//! Requests about runs that come to a plane that does not lead them: left in the store, answered by the plane that does.

use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::control::Refusal;
use crate::control::routes::REQUEST_BYTES_MAX;
use crate::error::{Error, Result};
use crate::plane::Plane;
use crate::store::{decode, encode};

/// The agent gives a plane 8 s.
const ANSWER_MAX: Duration = Duration::from_secs(7);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
const TAKE_EVERY: Duration = Duration::from_millis(100);

#[derive(Serialize, Deserialize)]
struct Asked {
    method: String,
    path: String,
    body: String,
}

#[derive(Serialize, Deserialize)]
struct Replied {
    status: u16,
    body: String,
}

/// What is only read, and what is only stored, any plane does.
pub(super) async fn forward(State(plane): State<Plane>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let anywhere = match *request.method() {
        Method::GET => path.starts_with("/v1/runs"),
        _ => path == "/v1/runs",
    };
    if anywhere || plane.flows.leads() || !plane.desk.store.is_shared() {
        return next.run(request).await;
    }
    match pass_on(&plane, request).await {
        Ok(response) => response,
        Err(error) => Refusal::from(error).into_response(),
    }
}

async fn pass_on(plane: &Plane, request: Request) -> Result<Response> {
    let (head, body) = request.into_parts();
    let broken = |e: axum::Error| Error::Throttled { reason: e.to_string() };
    let body = to_bytes(body, REQUEST_BYTES_MAX).await.map_err(broken)?;
    let asked = Asked {
        method: head.method.to_string(),
        path: head.uri.to_string(),
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    let number = plane.desk.store.post(encode(&asked)?).await?;
    let until = Instant::now() + ANSWER_MAX;
    loop {
        if let Some(text) = plane.desk.store.replied(number).await? {
            let replied: Replied = decode(&text, "answer of the plane that leads")?;
            let status = StatusCode::from_u16(replied.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            return Ok((status, [("content-type", "application/json")], replied.body).into_response());
        }
        if Instant::now() >= until {
            let reason = "the plane that leads the runs did not answer; it may still do what was asked".into();
            return Err(Error::Throttled { reason });
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Answers what other planes were asked, while this one leads.
pub(crate) async fn take_requests(plane: Plane, routes: Router, mut closing: watch::Receiver<bool>) {
    let take = async {
        loop {
            tokio::time::sleep(TAKE_EVERY).await;
            if !plane.flows.leads() {
                continue;
            }
            for (number, text) in plane.desk.store.posted().await.unwrap_or_default() {
                let replied = answer(&routes, &text).await;
                let kept = match encode(&replied) {
                    Ok(text) => plane.desk.store.reply(number, text).await,
                    Err(error) => Err(error),
                };
                if let Err(error) = kept {
                    tracing::warn!(%error, "the answer for another plane is not stored");
                }
            }
        }
    };
    tokio::select! {
        () = take => {}
        _ = closing.wait_for(|closing| *closing) => {}
    }
}

async fn answer(routes: &Router, text: &str) -> Replied {
    let refused = |error: Error| Replied {
        status: StatusCode::INTERNAL_SERVER_ERROR.as_u16(),
        body: encode(&Refusal::from(error)).unwrap_or_default(),
    };
    let asked: Asked = match decode(text, "request of another plane") {
        Ok(asked) => asked,
        Err(error) => return refused(error),
    };
    let request = axum::http::Request::builder()
        .method(asked.method.as_str())
        .uri(asked.path)
        .header("content-type", "application/json")
        .body(Body::from(asked.body));
    let request = match request {
        Ok(request) => request,
        Err(error) => return refused(Error::Throttled { reason: error.to_string() }),
    };
    let Ok(response) = TowerToHyperService::new(routes.clone()).call(request).await;
    let status = response.status().as_u16();
    match to_bytes(response.into_body(), REQUEST_BYTES_MAX).await {
        Ok(body) => Replied { status, body: String::from_utf8_lossy(&body).into_owned() },
        Err(error) => refused(Error::Throttled { reason: error.to_string() }),
    }
}
