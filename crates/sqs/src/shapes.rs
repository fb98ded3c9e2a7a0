//! What requests and answers are made of, the same for both protocols.
//!
//! The members are those of AWS's model (2012-11-05). Everything is optional on the way in, because what is missing
//! has an error of its own (`MissingParameter`); what is unknown is passed over, so that newer SDKs work.

mod answer;
mod bounded;
mod request;

pub(crate) use answer::*;
pub(crate) use bounded::{Blob, List, Map, Text};
pub(crate) use request::*;
