//! One request of either protocol on its way in, and what it is answered with on its way out.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use serde::{Deserialize, Serialize};

use super::form::Form;
use super::xml;
use crate::action::Action;
use crate::fault::{Fault, MALFORMED, MISSING_ACTION, Result, UNKNOWN_ACTION, quoted};

const TARGET: &str = "x-amz-target";
const TARGET_PREFIX: &str = "AmazonSQS.";
const JSON: &str = "application/x-amz-json-1.0";
const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");
const QUERY_ERROR: HeaderName = HeaderName::from_static("x-amzn-query-error");
/// What most answers fit in; longer ones grow it.
const ANSWER_BYTES: usize = 1_024;

/// A body that is ready to be sent with status 200.
pub(crate) type Answer = Vec<u8>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Json,
    Query,
}

#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) action: Action,
    /// Path of the request, which names the queue in the query protocol.
    pub(crate) path: &'a str,
    input: Input<'a>,
    request: &'a str,
}

#[derive(Debug)]
enum Input<'a> {
    Json(&'a [u8]),
    Query(Form<'a>),
}

impl Protocol {
    pub(crate) fn of(head: &Parts) -> Protocol {
        let json = |value: &HeaderValue| value.as_bytes().starts_with(JSON.as_bytes());
        if head.headers.contains_key(TARGET) || head.headers.get(CONTENT_TYPE).is_some_and(json) {
            Protocol::Json
        } else {
            Protocol::Query
        }
    }

    pub(crate) fn respond(self, outcome: Result<Answer>, request: &str) -> Response<Bytes> {
        let (status, body, code) = match outcome {
            Ok(answer) => (StatusCode::OK, answer, None),
            Err(fault) => (fault.kind.status, self.fault(&fault, request), Some(fault.kind)),
        };
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(if self == Protocol::Json { JSON } else { "text/xml" }));
        if let Ok(id) = HeaderValue::from_str(request) {
            headers.insert(REQUEST_ID, id);
        }
        if let (Protocol::Json, Some(kind)) = (self, code)
            && let Ok(value) = HeaderValue::try_from(format!("{};{}", kind.code, kind.side()))
        {
            headers.insert(QUERY_ERROR, value);
        }
        response
    }

    fn fault(self, fault: &Fault, request: &str) -> Vec<u8> {
        match self {
            Protocol::Json => {
                let shape = format!("{}#{}", fault.kind.model, fault.kind.shape);
                serde_json::json!({ "__type": shape, "message": fault.message }).to_string().into_bytes()
            }
            Protocol::Query => {
                let mut out = String::new();
                xml::write_fault(&mut out, fault, request);
                out.into_bytes()
            }
        }
    }
}

impl<'a> Call<'a> {
    /// `request` is the id that the answer carries.
    pub(crate) fn new(protocol: Protocol, head: &'a Parts, body: &'a [u8], request: &'a str) -> Result<Call<'a>> {
        let is_allowed = head.method == Method::POST || (head.method == Method::GET && protocol == Protocol::Query);
        if !is_allowed {
            return Err(Fault::new(UNKNOWN_ACTION, format!("The method {} is not allowed here.", head.method)));
        }
        let (action, input) = match protocol {
            Protocol::Json => (json_action(head)?, Input::Json(if body.is_empty() { b"{}" } else { body })),
            Protocol::Query => {
                let body: &[u8] = if head.method == Method::GET { &[] } else { body };
                let form = Form::parse(head.uri.query().unwrap_or_default().as_bytes(), body).map_err(malformed)?;
                let name =
                    form.get("Action").ok_or_else(|| Fault::new(MISSING_ACTION, "The request names no action."))?;
                (known(name)?, Input::Query(form))
            }
        };
        Ok(Call { action, path: head.uri.path(), input, request })
    }

    pub(crate) fn read<'s, T: Deserialize<'s>>(&'s self) -> Result<T> {
        match &self.input {
            Input::Json(body) => serde_json::from_slice(body).map_err(malformed),
            Input::Query(form) => form.read(self.action).map_err(malformed),
        }
    }

    pub(crate) fn write(&self, answer: &impl Serialize) -> Result<Answer> {
        match &self.input {
            Input::Json(_) => {
                let mut out = Vec::with_capacity(ANSWER_BYTES);
                serde_json::to_writer(&mut out, answer).map_err(|e| Fault::internal(&e.to_string()))?;
                Ok(out)
            }
            Input::Query(_) => {
                let mut out = String::with_capacity(ANSWER_BYTES);
                xml::write(&mut out, self.action, answer, self.request).map_err(|e| Fault::internal(&e.to_string()))?;
                Ok(out.into_bytes())
            }
        }
    }

    /// `/ACCOUNT/NAME` of the request itself stands for a `QueueUrl` only here.
    pub(crate) fn names_queue_by_path(&self) -> bool {
        matches!(self.input, Input::Query(_)) && self.path != "/"
    }
}

fn json_action(head: &Parts) -> Result<Action> {
    let Some(target) = head.headers.get(TARGET).and_then(|value| value.to_str().ok()) else {
        return Err(Fault::new(MISSING_ACTION, "The request has no X-Amz-Target."));
    };
    known(target.strip_prefix(TARGET_PREFIX).unwrap_or(target))
}

fn known(name: &str) -> Result<Action> {
    let unknown = || Fault::new(UNKNOWN_ACTION, format!("The action {} is not valid for this endpoint.", quoted(name)));
    Action::parse(name).ok_or_else(unknown)
}

fn malformed(error: impl std::fmt::Display) -> Fault {
    Fault::new(MALFORMED, format!("The request cannot be read: {}.", quoted(&error.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::{NO_QUEUE, UNAVAILABLE};
    use crate::shapes::{Done, ListQueues, SendMessage};

    fn head(method: &str, uri: &str, target: Option<&str>) -> Parts {
        let request = http::Request::builder().method(method).uri(uri);
        let request = target.into_iter().fold(request, |r, target| r.header("X-Amz-Target", target));
        request.body(()).unwrap().into_parts().0
    }

    fn error(method: &str, uri: &str, target: Option<&str>) -> &'static str {
        let head = head(method, uri, target);
        Call::new(Protocol::of(&head), &head, b"", "r").unwrap_err().kind.code
    }

    #[test]
    fn the_action_is_found() {
        let json = head("POST", "/", Some("AmazonSQS.ListQueues"));
        let call = Call::new(Protocol::of(&json), &json, b"", "r").unwrap();
        assert_eq!(call.action, Action::ListQueues);
        assert!(call.read::<ListQueues>().unwrap().max_results.is_none());
        let query = head("GET", "/1/q?Action=SendMessage&MessageBody=a%26b", None);
        let call = Call::new(Protocol::of(&query), &query, b"MessageBody=ignored", "r").unwrap();
        assert_eq!(call.read::<SendMessage>().unwrap().message_body.as_deref(), Some("a&b"));
        assert!(call.names_queue_by_path());
    }

    #[test]
    fn what_names_no_action_is_refused() {
        assert_eq!(error("POST", "/", Some("AmazonSQS.Nothing")), "InvalidAction");
        assert_eq!(error("GET", "/", Some("AmazonSQS.ListQueues")), "InvalidAction");
        assert_eq!(error("GET", "/?Action=Nothing", None), "InvalidAction");
        assert_eq!(error("DELETE", "/?Action=ListQueues", None), "InvalidAction");
        assert_eq!(error("GET", "/", None), "MissingAction");
    }

    #[test]
    fn json_that_does_not_fit_is_refused() {
        let head = head("POST", "/", Some("AmazonSQS.ListQueues"));
        for body in [&b"{"[..], b"[]7", b"{\"MaxResults\":\"x\"}", b"{\"QueueNamePrefix\":\"\xff\"}"] {
            let call = Call::new(Protocol::Json, &head, body, "r").unwrap();
            assert_eq!(call.read::<ListQueues>().unwrap_err().kind.code, "MalformedInput", "{body:?}");
        }
    }

    #[test]
    fn faults_in_both_protocols() {
        let fault = Fault::new(NO_QUEUE, "no");
        let json = Protocol::Json.respond(Err(fault.clone()), "r-1");
        assert_eq!(json.status(), StatusCode::BAD_REQUEST);
        assert_eq!(json.headers()["x-amzn-query-error"], "AWS.SimpleQueueService.NonExistentQueue;Sender");
        assert_eq!(json.headers()["x-amzn-requestid"], "r-1");
        assert_eq!(&json.body()[..], br#"{"__type":"com.amazonaws.sqs#QueueDoesNotExist","message":"no"}"#);
        let query = Protocol::Query.respond(Err(fault), "r-1");
        assert_eq!(query.headers()[CONTENT_TYPE], "text/xml");
        assert!(query.body().ends_with(b"<RequestId>r-1</RequestId></ErrorResponse>"));
        let lost = Protocol::Json.respond(Err(Fault::new(UNAVAILABLE, "no disk")), "r");
        assert_eq!(lost.headers()["x-amzn-query-error"], "ServiceUnavailable;Receiver");
        assert_eq!(lost.status(), StatusCode::SERVICE_UNAVAILABLE);
    }

    #[test]
    fn a_silent_answer_is_an_empty_object() {
        let head = head("POST", "/", Some("AmazonSQS.DeleteQueue"));
        assert_eq!(Call::new(Protocol::Json, &head, b"", "r").unwrap().write(&Done {}).unwrap(), b"{}");
    }
}
