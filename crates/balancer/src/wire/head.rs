//! Message heads: split by httparse, then held to a stricter rule, because what this program reads one way and a
//! server behind it another is how requests are smuggled. The head that goes on is written anew.

use std::mem::MaybeUninit;
use std::net::IpAddr;

use httparse::{Header, Status};

use crate::wire::answer::Refusal;
use crate::wire::body::Body;

mod fields;
pub(crate) mod request;
pub(crate) mod response;

pub(crate) use request::{Request, read_request};

/// Upper bound of the declared limit on headers: the array for them lives on the stack.
pub(crate) const HEADERS_MAX: usize = 256;

/// What a request head is read and rewritten with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules<'a> {
    pub(crate) header_bytes: usize,
    pub(crate) headers: usize,
    pub(crate) client: &'a str,
    /// The client is a proxy whose forwarding headers are believed.
    pub(crate) trusted: bool,
}

pub(crate) fn trusts(list: &[IpAddr], client: IpAddr) -> bool {
    !list.is_empty() && list.contains(&client.to_canonical())
}

/// RFC 9110 section 5.6.2.
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Where the head ends, if it does within `bytes`. Every line must end with CR LF.
fn end_of_head(bytes: &[u8]) -> Result<Option<usize>, Refusal> {
    let mut line = 0;
    for lf in memchr::memchr_iter(b'\n', bytes) {
        if lf == 0 || bytes[lf - 1] != b'\r' {
            return Err(Refusal::Malformed("a line ends without CR"));
        }
        if lf == line + 1 && line > 0 {
            return Ok(Some(lf + 1));
        }
        line = lf + 1;
    }
    Ok(None)
}
