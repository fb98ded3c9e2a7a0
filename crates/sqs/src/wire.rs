//! The two protocols. Both are formats of serde, so that each action has one request and one answer.
//!
//! JSON is serde_json. The query protocol reads forms ([`form`]) and writes XML ([`xml`]); how its elements are called
//! is in one table ([`names`]).

mod call;
mod form;
mod names;
mod xml;

pub(crate) use call::{Answer, Call, Protocol};
