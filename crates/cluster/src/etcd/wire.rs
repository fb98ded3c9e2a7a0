//! etcd's JSON: bytes are base64, 64-bit numbers are texts, and what is zero or empty is left out.

use base64::Engine as _;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use crate::{Change, Guard, KeyValue, LeaseId, Op, Order, Outcome, Response, Txn};

/// Go writes padding, and reads it; others may not write it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &ALPHABET,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What all keys of this store begin with on the server.
#[derive(Clone, Debug)]
pub(super) struct Namespace(pub String);

impl Namespace {
    pub(super) fn key(&self, key: &str) -> String {
        encode(format!("{}{key}", self.0).as_bytes())
    }

    /// `key` and `range_end` for all keys that begin with `prefix`.
    pub(super) fn range(&self, prefix: &str) -> (String, String) {
        let start = format!("{}{prefix}", self.0).into_bytes();
        match start.is_empty() {
            true => (encode(&[0]), encode(&[0])),
            false => (encode(&start), encode(&after(&start))),
        }
    }

    /// `None` for what cannot be ours: keys here are text under the namespace.
    fn strip(&self, key: &[u8]) -> Option<String> {
        std::str::from_utf8(key).ok()?.strip_prefix(self.0.as_str()).map(str::to_owned)
    }

    pub(super) fn key_value(&self, kv: RawKeyValue) -> Option<KeyValue> {
        Some(KeyValue {
            key: self.strip(&kv.key.0)?,
            value: kv.value.0,
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
            version: kv.version,
            lease: (kv.lease != 0).then_some(LeaseId(kv.lease)),
        })
    }

    pub(super) fn key_values(&self, kvs: Vec<RawKeyValue>) -> Vec<KeyValue> {
        kvs.into_iter().filter_map(|kv| self.key_value(kv)).collect()
    }

    pub(super) fn change(&self, event: RawEvent) -> Option<Change> {
        match event.kind.as_deref() {
            Some("DELETE") => Some(Change::Delete { key: self.strip(&event.kv.key.0)? }),
            _ => self.key_value(event.kv).map(Change::Put),
        }
    }

    pub(super) fn txn(&self, txn: &Txn) -> Value {
        json!({
            "compare": txn.guards.iter().map(|g| self.compare(g)).collect::<Vec<_>>(),
            "success": txn.then.iter().map(|op| self.op(op)).collect::<Vec<_>>(),
            "failure": txn.otherwise.iter().map(|op| self.op(op)).collect::<Vec<_>>(),
        })
    }

    fn compare(&self, guard: &Guard) -> Value {
        let key = self.key(guard.key());
        match guard {
            Guard::Value { order, value, .. } => {
                json!({"key": key, "result": result(*order), "target": "VALUE", "value": encode(value)})
            }
            Guard::CreateRevision { order, revision, .. } => {
                json!({"key": key, "result": result(*order), "target": "CREATE", "create_revision": revision.to_string()})
            }
            Guard::ModRevision { order, revision, .. } => {
                json!({"key": key, "result": result(*order), "target": "MOD", "mod_revision": revision.to_string()})
            }
            Guard::Version { order, version, .. } => {
                json!({"key": key, "result": result(*order), "target": "VERSION", "version": version.to_string()})
            }
        }
    }

    fn op(&self, op: &Op) -> Value {
        match op {
            Op::Get { key } => json!({"request_range": {"key": self.key(key)}}),
            Op::List { prefix } => {
                let (key, range_end) = self.range(prefix);
                json!({"request_range": {"key": key, "range_end": range_end}})
            }
            Op::Put { key, value, lease } => {
                let lease = lease.map_or(0, |l| l.0).to_string();
                json!({"request_put": {"key": self.key(key), "value": encode(value), "lease": lease}})
            }
            Op::Delete { key } => json!({"request_delete_range": {"key": self.key(key)}}),
            Op::DeletePrefix { prefix } => {
                let (key, range_end) = self.range(prefix);
                json!({"request_delete_range": {"key": key, "range_end": range_end}})
            }
        }
    }

    /// `None` when the answer does not fit the question.
    pub(super) fn outcome(&self, txn: &Txn, answer: TxnAnswer) -> Option<Outcome> {
        let ops = if answer.succeeded { &txn.then } else { &txn.otherwise };
        if ops.len() != answer.responses.len() {
            return None;
        }
        let responses =
            ops.iter().zip(answer.responses).map(|(op, raw)| self.response(op, raw)).collect::<Option<_>>()?;
        Some(Outcome { succeeded: answer.succeeded, revision: answer.header.revision, responses })
    }

    fn response(&self, op: &Op, raw: RawResponse) -> Option<Response> {
        match op {
            Op::Get { .. } => {
                let kvs = self.key_values(raw.response_range?.kvs);
                (kvs.len() <= 1).then(|| Response::Get(kvs.into_iter().next()))
            }
            Op::List { .. } => Some(Response::List(self.key_values(raw.response_range?.kvs))),
            Op::Put { .. } => raw.response_put.map(|_| Response::Put),
            Op::Delete { .. } | Op::DeletePrefix { .. } => Some(Response::Deleted(raw.response_delete_range?.deleted)),
        }
    }
}

pub(super) fn encode(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

fn result(order: Order) -> &'static str {
    match order {
        Order::Equal => "EQUAL",
        Order::NotEqual => "NOT_EQUAL",
        Order::Less => "LESS",
        Order::Greater => "GREATER",
    }
}

/// The first key after all that begin with `prefix`; "\0" means the end of everything.
fn after(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Bytes(pub Vec<u8>);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(from)?;
        BASE64.decode(text.as_bytes()).map(Bytes).map_err(serde::de::Error::custom)
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Text(String),
    Unsigned(u64),
    Signed(i64),
}

pub(super) fn unsigned<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    match Number::deserialize(from)? {
        Number::Text(text) => text.parse().map_err(serde::de::Error::custom),
        Number::Unsigned(n) => Ok(n),
        Number::Signed(_) => Err(serde::de::Error::custom("a negative number")),
    }
}

pub(super) fn signed<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
    match Number::deserialize(from)? {
        Number::Text(text) => text.parse().map_err(serde::de::Error::custom),
        Number::Unsigned(n) => i64::try_from(n).map_err(serde::de::Error::custom),
        Number::Signed(n) => Ok(n),
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Header {
    #[serde(deserialize_with = "unsigned")]
    pub cluster_id: u64,
    #[serde(deserialize_with = "unsigned")]
    pub member_id: u64,
    #[serde(deserialize_with = "unsigned")]
    pub revision: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawKeyValue {
    pub key: Bytes,
    pub value: Bytes,
    #[serde(deserialize_with = "unsigned")]
    pub create_revision: u64,
    #[serde(deserialize_with = "unsigned")]
    pub mod_revision: u64,
    #[serde(deserialize_with = "unsigned")]
    pub version: u64,
    #[serde(deserialize_with = "signed")]
    pub lease: i64,
}

/// The header is what makes an answer one: `{}` is none.
#[derive(Debug, Deserialize)]
pub(super) struct RangeAnswer {
    pub header: Header,
    #[serde(default)]
    pub kvs: Vec<RawKeyValue>,
}

#[derive(Debug, Deserialize)]
pub(super) struct TxnAnswer {
    pub header: Header,
    #[serde(default)]
    pub succeeded: bool,
    #[serde(default)]
    pub responses: Vec<RawResponse>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawResponse {
    pub response_range: Option<RawRange>,
    pub response_put: Option<serde::de::IgnoredAny>,
    pub response_delete_range: Option<RawDeleted>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawRange {
    pub kvs: Vec<RawKeyValue>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawDeleted {
    #[serde(deserialize_with = "unsigned")]
    pub deleted: u64,
}

/// For answers of which only the header counts.
#[derive(Debug, Deserialize)]
pub(super) struct Done {
    #[serde(rename = "header")]
    pub _header: Header,
}

#[derive(Debug, Deserialize)]
pub(super) struct LeaseAnswer {
    pub header: Header,
    #[serde(rename = "ID", deserialize_with = "signed", default)]
    pub id: i64,
    /// Seconds; nothing or less when the lease is over.
    #[serde(rename = "TTL", deserialize_with = "signed", default)]
    pub ttl: i64,
}

/// One message of a stream.
#[derive(Debug, Deserialize)]
pub(super) struct Streamed<T> {
    pub result: Option<T>,
    pub error: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct WatchAnswer {
    pub header: Header,
    pub created: bool,
    pub canceled: bool,
    #[serde(deserialize_with = "unsigned")]
    pub compact_revision: u64,
    pub cancel_reason: String,
    /// More of the same revision may follow in the next message.
    pub fragment: bool,
    pub events: Vec<RawEvent>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawEvent {
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub kv: RawKeyValue,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_key_that_has_it_not() {
        let table: [(&[u8], &[u8]); 5] =
            [(b"a", b"b"), (b"a/", b"a0"), (b"a\xff", b"b"), (b"\xff\xff", b"\0"), (b"", b"\0")];
        for (prefix, want) in table {
            assert_eq!(after(prefix), want, "{prefix:?}");
        }
        let all = Namespace(String::new()).range("");
        assert_eq!(all, ("AA==".to_owned(), "AA==".to_owned()));
        let ours = Namespace("/n".into()).range("");
        assert_eq!(ours, (encode(b"/n"), encode(b"/o")));
    }

    #[test]
    fn numbers_are_read_as_text_or_number_and_missing_is_zero() {
        let kv: RawKeyValue =
            serde_json::from_str(r#"{"key":"YQ","mod_revision":"18446744073709551615","lease":-7,"new":[]}"#).unwrap();
        assert_eq!((kv.key.0.as_slice(), kv.mod_revision, kv.lease, kv.version), (&b"a"[..], u64::MAX, -7, 0));
        for bad in
            [r#"{"mod_revision":-1}"#, r#"{"mod_revision":"x"}"#, r#"{"key":"%"}"#, r#"{"lease":99999999999999999999}"#]
        {
            assert!(serde_json::from_str::<RawKeyValue>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_of_others_are_left_out() {
        let ours = Namespace("/n/".into());
        let kv = |key: &[u8]| RawKeyValue { key: Bytes(key.to_vec()), ..RawKeyValue::default() };
        let kvs = ours.key_values(vec![kv(b"/n/a"), kv(b"/n/\xff"), kv(b"/m/a"), kv(b"/n/")]);
        let keys: Vec<&str> = kvs.iter().map(|kv| kv.key.as_str()).collect();
        assert_eq!(keys, ["a", ""]);
    }

    #[test]
    fn an_answer_that_does_not_fit_the_question_is_none() {
        let ours = Namespace(String::new());
        let txn = Txn::always([Op::put("a", "1"), Op::get("a")]);
        let read = |text: &str| ours.outcome(&txn, serde_json::from_str(text).unwrap());
        let put = r#"{"response_put":{}}"#;
        for bad in ["", put, &format!("{put},{put}"), &format!("{put},{{}}"), &format!("{put},{put},{put}")] {
            let text = format!(r#"{{"header":{{"revision":"9"}},"succeeded":true,"responses":[{bad}]}}"#);
            assert_eq!(read(&text), None, "{text}");
        }
        let good = format!(
            r#"{{"header":{{"revision":"9"}},"succeeded":true,"responses":[{put},{{"response_range":{{}}}}]}}"#
        );
        let outcome = read(&good).unwrap();
        assert_eq!((outcome.revision, outcome.responses), (9, vec![Response::Put, Response::Get(None)]));
    }
}
