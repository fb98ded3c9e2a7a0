//! What a request led to when it led to no answer, and whether it may be sent again.

use serde_json::Value;

use crate::Error;

/// gRPC's numbers for what went wrong, as the gateway passes them on.
mod grpc {
    pub(super) const INVALID_ARGUMENT: u64 = 3;
    pub(super) const NOT_FOUND: u64 = 5;
    pub(super) const PERMISSION_DENIED: u64 = 7;
    pub(super) const RESOURCE_EXHAUSTED: u64 = 8;
    pub(super) const FAILED_PRECONDITION: u64 = 9;
    pub(super) const OUT_OF_RANGE: u64 = 11;
    pub(super) const UNIMPLEMENTED: u64 = 12;
    pub(super) const UNAUTHENTICATED: u64 = 16;
}

/// A text from a server, cut to what a log line can bear.
const REASON_CHARS_MAX: usize = 300;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// No byte of the request left: another member may be asked, whatever it is.
    NotSent(String),
    /// As `NotSent`, because of certificates.
    Tls(String),
    /// The member did not do it and may do it later: no leader, too much to do.
    NotNow(String),
    /// Log in (again) and repeat.
    LoggedOut(String),
    /// A definite no.
    Refused { code: u64, message: String },
    /// Nobody knows whether it happened.
    Unknown(String),
    /// What was answered is not etcd's language.
    Garbage(String),
}

impl Failure {
    /// Whether it is certain that nothing was done, so that even a write may be sent again.
    pub(super) fn nothing_done(&self) -> bool {
        matches!(self, Failure::NotSent(_) | Failure::Tls(_) | Failure::NotNow(_) | Failure::LoggedOut(_))
    }

    pub(super) fn reason(&self) -> &str {
        match self {
            Failure::NotSent(reason)
            | Failure::Tls(reason)
            | Failure::NotNow(reason)
            | Failure::LoggedOut(reason)
            | Failure::Unknown(reason)
            | Failure::Garbage(reason) => reason,
            Failure::Refused { message, .. } => message,
        }
    }

    /// From the body of an answer that is not 200, or from the `error` of a stream.
    pub(super) fn from_body(status: u16, body: &[u8]) -> Failure {
        match serde_json::from_slice::<Value>(body) {
            Ok(value) => Failure::from_json(status, &value),
            Err(_) if status == 404 => Failure::Refused {
                code: grpc::UNIMPLEMENTED,
                message: "it has no JSON gateway (etcd's --enable-grpc-gateway)".into(),
            },
            Err(_) => Failure::Garbage(format!("HTTP {status}: {}", shorten(&String::from_utf8_lossy(body)))),
        }
    }

    /// `{"error": text, "code": n, "message": text}` of 3.4, the same without `error` of 3.6, and
    /// `{"error": {"grpc_code" or "code": n, "message": text}}` inside streams.
    pub(super) fn from_json(status: u16, value: &Value) -> Failure {
        let inner = value.get("error").filter(|e| e.is_object()).unwrap_or(value);
        let code = inner.get("grpc_code").or_else(|| inner.get("code")).and_then(Value::as_u64);
        let message = inner.get("message").or_else(|| inner.get("error")).and_then(Value::as_str);
        match (code, message) {
            (Some(code), Some(message)) => Failure::classify(code, message),
            _ => Failure::Garbage(format!("HTTP {status}: {}", shorten(&value.to_string()))),
        }
    }

    /// Texts are those of etcd's `rpctypes`; the code alone does not tell what was done.
    pub(super) fn classify(code: u64, message: &str) -> Failure {
        let has = |text: &str| message.contains(text);
        let short = shorten(message);
        if has("invalid auth token") || has("user name is empty") || has("revision of auth store is old") {
            return Failure::LoggedOut(short);
        }
        if has("raft proposal dropped") || has("too many requests") || message.ends_with("etcdserver: no leader") {
            return Failure::NotNow(short);
        }
        let definite = [
            grpc::INVALID_ARGUMENT,
            grpc::NOT_FOUND,
            grpc::PERMISSION_DENIED,
            grpc::RESOURCE_EXHAUSTED,
            grpc::FAILED_PRECONDITION,
            grpc::OUT_OF_RANGE,
            grpc::UNIMPLEMENTED,
            grpc::UNAUTHENTICATED,
        ];
        // "Not leader" is said with a code that sounds definite by members that are about to know better.
        match definite.contains(&code) && !has("not leader") {
            true => Failure::Refused { code, message: short },
            false => Failure::Unknown(short),
        }
    }

    pub(super) fn is_lease_not_found(&self) -> bool {
        matches!(self, Failure::Refused { message, .. } if message.contains("requested lease not found"))
    }

    pub(super) fn is_compacted(&self) -> bool {
        matches!(self, Failure::Refused { message, .. } if message.contains("has been compacted"))
    }

    pub(super) fn is_future(&self) -> bool {
        matches!(self, Failure::Refused { message, .. } if message.contains("is a future revision"))
    }

    pub(super) fn is_auth_off(&self) -> bool {
        matches!(self, Failure::Refused { message, .. } if message.contains("authentication is not enabled"))
    }

    /// For who asked. `endpoint` is where the last try went.
    pub(super) fn into_error(self, endpoint: &str) -> Error {
        let at = |reason: String| format!("{endpoint}: {reason}");
        match self {
            Failure::Tls(reason) => Error::Tls { subject: endpoint.to_owned(), reason },
            Failure::Refused { code, message } => match code {
                grpc::PERMISSION_DENIED | grpc::UNAUTHENTICATED => {
                    Error::Credentials { endpoint: endpoint.to_owned(), reason: message }
                }
                _ if message.contains("authentication failed") => {
                    Error::Credentials { endpoint: endpoint.to_owned(), reason: message }
                }
                grpc::RESOURCE_EXHAUSTED if message.contains("space exceeded") => Error::Full { reason: at(message) },
                _ => Error::Refused { reason: at(message) },
            },
            Failure::LoggedOut(reason) => Error::Credentials { endpoint: endpoint.to_owned(), reason },
            Failure::NotSent(reason)
            | Failure::NotNow(reason)
            | Failure::Unknown(reason)
            | Failure::Garbage(reason) => Error::Unavailable { reason: at(reason) },
        }
    }
}

pub(super) fn shorten(text: &str) -> String {
    let mut line: String = text.chars().take(REASON_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(REASON_CHARS_MAX).is_some() {
        line.push('…');
    }
    line.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_read_in_every_shape_that_etcd_gives_them() {
        let lease = "etcdserver: requested lease not found";
        let shapes = [
            format!(r#"{{"error":"{lease}","code":5,"message":"{lease}"}}"#),
            format!(r#"{{"error":"{lease}","message":"{lease}","code":5,"details":[]}}"#),
            format!(r#"{{"code":5,"message":"{lease}","details":[]}}"#),
            format!(r#"{{"error":{{"grpc_code":5,"http_code":404,"message":"{lease}","http_status":"Not Found"}}}}"#),
            format!(r#"{{"error":{{"code":5,"message":"{lease}","details":[]}}}}"#),
            format!(r#"{{"error":"{lease}","code":5}}"#),
        ];
        for shape in shapes {
            assert!(Failure::from_body(404, shape.as_bytes()).is_lease_not_found(), "{shape}");
        }
    }

    #[test]
    fn only_what_was_certainly_not_done_may_be_sent_again() {
        let table = [
            (14, "etcdserver: request timed out", false),
            (14, "etcdserver: request timed out, possibly due to previous leader failure", false),
            (14, "etcdserver: leader changed", false),
            (14, "etcdserver: no leader", true),
            (14, "transport is closing", false),
            (2, "raft proposal dropped", true),
            (8, "etcdserver: too many requests", true),
            (8, "etcdserver: mvcc: database space exceeded", false),
            (16, "etcdserver: invalid auth token", true),
            (3, "etcdserver: user name is empty", true),
            (3, "etcdserver: revision of auth store is old", true),
            (9, "etcdserver: not leader", false),
            (4, "context deadline exceeded", false),
        ];
        for (code, message, again) in table {
            assert_eq!(Failure::classify(code, message).nothing_done(), again, "{message}");
        }
    }

    #[test]
    fn each_refusal_becomes_the_error_that_says_what_to_do() {
        let table = [
            (3, "etcdserver: authentication failed, invalid user ID or password", "HF0421"),
            (7, "etcdserver: permission denied", "HF0421"),
            (8, "etcdserver: mvcc: database space exceeded", "HF0423"),
            (3, "etcdserver: request is too large", "HF0424"),
            (14, "etcdserver: request timed out", "HF0410"),
            (9, "etcdserver: not leader", "HF0410"),
        ];
        for (code, message, want) in table {
            assert_eq!(Failure::classify(code, message).into_error("http://a:1").code(), want, "{message}");
        }
    }

    #[test]
    fn nonsense_is_cut_to_a_line() {
        let long = "x\n".repeat(10_000);
        let failure = Failure::from_body(500, long.as_bytes());
        assert!(matches!(&failure, Failure::Garbage(_)) && failure.reason().len() < 400, "{failure:?}");
        assert!(!failure.reason().contains('\n'));
        for odd in ["[]", "null", "{}", "7", r#"{"error":{}}"#, r#"{"code":"x","message":7}"#] {
            assert!(matches!(Failure::from_body(500, odd.as_bytes()), Failure::Garbage(_)), "{odd}");
        }
    }
}
