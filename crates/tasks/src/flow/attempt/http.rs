//! A step that is a call: one request with the key that makes a repetition harmless, and what the answer means.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use holdfast_policy::flow::{Outcome, Value};
use http::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use http_body_util::Full;
use tokio::net::TcpStream;

use super::{Case, Ended, operation, outputs};
use crate::definition::{EnvValue, Secret};
use crate::exchange::Connection;
use crate::flow::declared::Work;

/// Of an answer that is kept; what is longer than an output goes to a file.
const ANSWER_BYTES_MAX: usize = 8 << 20;
/// Nothing was asked yet when this passes.
const CONNECT_TIME: Duration = Duration::from_secs(10);
const WORDS_MAX: usize = 500;

pub(super) struct Request<'a> {
    pub(super) url: &'a str,
    pub(super) method: &'a str,
    pub(super) headers: &'a BTreeMap<String, String>,
    pub(super) body: Option<&'a str>,
}

/// Why there is no answer.
enum Failed {
    /// Nothing was sent.
    Before(String),
    /// It may have been understood.
    After(String),
}

pub(super) async fn run(case: &Case<'_>, request: &Request<'_>) -> Ended {
    let answer = tokio::select! {
        answer = ask(case, request) => answer,
        () = case.until_stopped() => Err(Failed::After("the call was cut off".into())),
    };
    match answer {
        Ok((status, body)) => {
            let text: String = String::from_utf8_lossy(&body).chars().take(WORDS_MAX).collect();
            let output = Some(format!("{status}\n{text}"));
            let value = match (200..300).contains(&status) {
                true => outputs::of_answer(&case.flows.0.ground, case.key, &body),
                false => Value::Text(text),
            };
            Ended { outcome: Outcome::of_status(status, value), output }
        }
        Err(Failed::Before(error)) => Ended::of(Outcome::Retryable { error }),
        Err(Failed::After(error)) => Ended::of(Outcome::Unknown { error }),
    }
}

async fn ask(case: &Case<'_>, request: &Request<'_>) -> Result<(u16, Bytes), Failed> {
    let before = |what: String| Failed::Before(format!("{}: {what}", request.url));
    let uri: http::Uri = request.url.parse().map_err(|e: http::uri::InvalidUri| before(e.to_string()))?;
    if uri.scheme_str() != Some("http") {
        return Err(before("only http is spoken".into()));
    }
    let authority = uri.authority().ok_or_else(|| before("there is no host".into()))?.clone();
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let built = build(case, request, authority.as_str(), path).map_err(before)?;
    let host = authority.host().trim_matches(['[', ']']);
    let connect = TcpStream::connect((host, authority.port_u16().unwrap_or(80)));
    let stream = match tokio::time::timeout(CONNECT_TIME, connect).await {
        Ok(connected) => connected.map_err(|e| before(e.to_string()))?,
        Err(_) => return Err(before(format!("no connection within {} s", CONNECT_TIME.as_secs()))),
    };
    let connection = Connection::open(stream).await.map_err(|e| before(e.to_string()))?;
    let after = |e: &dyn std::fmt::Display| Failed::After(format!("{}: {e}", request.url));
    let (status, body) = connection.ask(built, ANSWER_BYTES_MAX).await.map_err(|e| after(&e))?;
    Ok((status.as_u16(), body.map_err(|e| after(&e))?))
}

fn build(case: &Case<'_>, request: &Request<'_>, host: &str, path: &str) -> Result<http::Request<Full<Bytes>>, String> {
    let key = case.key;
    let body = Bytes::from(request.body.unwrap_or_default().to_owned());
    let mut built =
        http::Request::builder().method(request.method).uri(path).body(Full::new(body)).map_err(|e| e.to_string())?;
    let headers = built.headers_mut();
    let mut put = |name: &str, value: &str| -> Result<(), String> {
        let header = HeaderName::try_from(name).map_err(|e| format!("header {name}: {e}"))?;
        headers.insert(header, HeaderValue::try_from(value).map_err(|e| format!("header {name}: {e}"))?);
        Ok(())
    };
    if request.body.is_some() {
        put(CONTENT_TYPE.as_str(), "application/json")?;
    }
    for (name, value) in request.headers {
        put(name, value)?;
    }
    if let Some(Work::Http(call)) = case.work() {
        for (name, value) in &call.headers {
            let secret = match value {
                EnvValue::Plain(_) => continue,
                EnvValue::File(path) => Secret::File(path.clone()),
                EnvValue::Env(name) => Secret::Env(name.clone()),
            };
            put(name, &secret.read().map_err(|e| e.to_string())?)?;
        }
    }
    put(HOST.as_str(), host)?;
    put("idempotency-key", &key.barrier())?;
    put("x-holdfast-run", &key.run)?;
    put("x-holdfast-workflow", &case.pinned.declared.name)?;
    put("x-holdfast-step", &key.step)?;
    put("x-holdfast-item", &key.item.to_string())?;
    put("x-holdfast-attempt", &key.attempt.to_string())?;
    put("x-holdfast-round", &key.round.to_string())?;
    put("x-holdfast-operation", operation(key))?;
    Ok(built)
}
