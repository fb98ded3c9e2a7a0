//! HTTP/1.1 on the wire: the only place that knows its syntax.
//!
//! A codec of our own on httparse instead of hyper's, for what hyper hides or decides itself: it drops
//! Content-Length beside Transfer-Encoding and merges equal lengths instead of showing them, accepts bare line feeds,
//! answers Expect before the endpoint could refuse, swallows 103, and does not say whether a byte was written. It
//! also spares two task switches and a header map per request.

pub(crate) mod answer;
pub(crate) mod body;
pub(crate) mod buffer;
mod exchange;
pub(crate) mod head;
mod io;
mod kept;
mod pump;
pub(crate) mod queue;
mod relay;
pub(crate) mod session;
pub(crate) mod upstream;
