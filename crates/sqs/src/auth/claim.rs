//! What a request says about its signature, in the `Authorization` header or in the query of a presigned one.

use std::borrow::Cow;

use http::header::AUTHORIZATION;
use http::request::Parts;

use crate::digest::unhex;
use crate::fault::{Fault, INCOMPLETE_SIGNATURE, Result};
use crate::limits::{ACCESS_KEY_ID_MAX, PRESIGNED_MAX_S, SIGNED_HEADERS_MAX};

pub(super) const ALGORITHM: &str = "AWS4-HMAC-SHA256";
pub(super) const SERVICE: &str = "sqs";
pub(super) const TERMINATOR: &str = "aws4_request";

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Claim<'a> {
    pub(super) key_id: String,
    /// `YYYYMMDD` and region of the credential scope.
    pub(super) day: String,
    pub(super) region: String,
    /// `X-Amz-Date`, not checked yet.
    pub(super) time: Cow<'a, str>,
    pub(super) signed: Cow<'a, str>,
    pub(super) signature: [u8; 32],
    pub(super) place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Header,
    /// In the query; good for so many seconds.
    Query {
        expires_s: u64,
    },
}

impl<'a> Claim<'a> {
    /// `None` if the request is not signed at all.
    pub(super) fn find(head: &'a Parts) -> Result<Option<Claim<'a>>> {
        if let Some(value) = head.headers.get(AUTHORIZATION) {
            let text = value.to_str().map_err(|_| incomplete("the Authorization header is not text"))?;
            return Claim::from_header(head, text).map(Some);
        }
        let query = head.uri.query().unwrap_or_default();
        if !query.contains("X-Amz-Signature=") {
            return Ok(None);
        }
        Claim::from_query(query).map(Some)
    }

    fn from_header(head: &'a Parts, text: &'a str) -> Result<Claim<'a>> {
        let Some(fields) = text.trim().strip_prefix(ALGORITHM).filter(|rest| rest.starts_with(' ')) else {
            return Err(incomplete("the algorithm is not AWS4-HMAC-SHA256"));
        };
        let field = |name: &str| {
            let mut pairs = fields.split(',').filter_map(|field| field.trim().split_once('='));
            pairs.find_map(|(key, value)| (key == name).then_some(value)).ok_or_else(|| absent(name))
        };
        let time = head.headers.get("x-amz-date").and_then(|value| value.to_str().ok());
        let time = time.ok_or_else(|| absent("X-Amz-Date"))?;
        let [key_id, day, region] = scope(field("Credential")?)?;
        let signed = Cow::Borrowed(field("SignedHeaders")?);
        let signature = signature(field("Signature")?)?;
        Claim { key_id, day, region, time: time.into(), signed, signature, place: Place::Header }.checked()
    }

    fn from_query(query: &'a str) -> Result<Claim<'a>> {
        let field = |name: &str| {
            let mut pairs = form_urlencoded::parse(query.as_bytes());
            pairs.find_map(|(key, value)| (key == name).then_some(value)).ok_or_else(|| absent(name))
        };
        if field("X-Amz-Algorithm")? != ALGORITHM {
            return Err(incomplete("the algorithm is not AWS4-HMAC-SHA256"));
        }
        let [key_id, day, region] = scope(&field("X-Amz-Credential")?)?;
        let expires_s = field("X-Amz-Expires")?.parse().ok().filter(|s| (1..=PRESIGNED_MAX_S).contains(s));
        let expires_s = expires_s.ok_or_else(|| incomplete("X-Amz-Expires is not between 1 and 604800 seconds"))?;
        let signature = signature(&field("X-Amz-Signature")?)?;
        let (time, signed) = (field("X-Amz-Date")?, field("X-Amz-SignedHeaders")?);
        Claim { key_id, day, region, time, signed, signature, place: Place::Query { expires_s } }.checked()
    }

    fn checked(self) -> Result<Claim<'a>> {
        if !self.time.starts_with(&self.day) {
            return Err(incomplete("the date of the credential is not that of X-Amz-Date"));
        }
        if self.signed_headers().count() > SIGNED_HEADERS_MAX {
            return Err(incomplete("too many signed headers"));
        }
        Ok(self)
    }

    pub(super) fn signed_headers(&self) -> impl Iterator<Item = &str> {
        self.signed.split(';')
    }
}

/// Access key, day and region of `KEY/DAY/REGION/sqs/aws4_request`.
fn scope(credential: &str) -> Result<[String; 3]> {
    let mut parts = credential.rsplitn(5, '/');
    let mut next = || parts.next().unwrap_or_default();
    let (terminator, service, region, day, key) = (next(), next(), next(), next(), next());
    if terminator != TERMINATOR || key.is_empty() || region.is_empty() {
        return Err(incomplete("the credential is not KEY/DATE/REGION/sqs/aws4_request"));
    }
    if service != SERVICE {
        return Err(incomplete("the credential is scoped to another service than sqs"));
    }
    if day.len() != 8 || key.len() > ACCESS_KEY_ID_MAX || region.len() > ACCESS_KEY_ID_MAX {
        return Err(incomplete("the credential's key, date or region has no valid length"));
    }
    Ok([key, day, region].map(str::to_owned))
}

fn signature(text: &str) -> Result<[u8; 32]> {
    unhex(text).ok_or_else(|| incomplete("the signature is not 64 hexadecimal digits"))
}

fn absent(name: &str) -> Fault {
    incomplete(&format!("{name} is missing"))
}

pub(super) fn incomplete(reason: &str) -> Fault {
    Fault::new(INCOMPLETE_SIGNATURE, format!("The request is not signed as it must be: {reason}."))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNATURE: &str = "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7";

    fn find(authorization: &str) -> Result<Claim<'static>> {
        let request = http::Request::builder().uri("/").header("x-amz-date", "20150830T123600Z");
        let head = request.header("authorization", authorization).body(()).unwrap().into_parts().0;
        let claim = Claim::find(Box::leak(Box::new(head)));
        claim.map(|claim| claim.expect("an Authorization header is a claim"))
    }

    #[test]
    fn a_header_with_and_without_blanks() {
        for comma in [", ", ","] {
            let text = format!(
                "AWS4-HMAC-SHA256 Credential=A/B/20150830/eu-west-1/sqs/aws4_request{comma}\
                 SignedHeaders=host;x-amz-date{comma}Signature={SIGNATURE}"
            );
            let claim = find(&text).unwrap();
            assert_eq!((&*claim.key_id, &*claim.day, &*claim.region), ("A/B", "20150830", "eu-west-1"));
            assert_eq!(claim.signed_headers().collect::<Vec<_>>(), ["host", "x-amz-date"]);
        }
    }

    #[test]
    fn what_is_incomplete_is_refused_and_says_why() {
        let scope = "Credential=A/20150830/r/sqs/aws4_request";
        for (text, reason) in [
            (format!("AWS4-HMAC-SHA256 {scope}, Signature={SIGNATURE}"), "SignedHeaders is missing"),
            (format!("AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=1"), "64 hexadecimal digits"),
            ("Bearer token".to_owned(), "algorithm"),
            ("AWS4-HMAC-SHA256 Credential=A/20150830/r/s3/aws4_request".to_owned(), "another service"),
            ("AWS4-HMAC-SHA256 Credential=A/r/sqs/aws4_request".to_owned(), "KEY/DATE/REGION"),
            ("AWS4-HMAC-SHA256 Credential=A/1/r/sqs/aws4_request".to_owned(), "valid length"),
            (
                format!(
                    "AWS4-HMAC-SHA256 Credential=A/20150831/r/sqs/aws4_request, SignedHeaders=host, \
                     Signature={SIGNATURE}"
                ),
                "not that of X-Amz-Date",
            ),
        ] {
            let fault = find(&text).unwrap_err();
            assert_eq!(fault.kind, INCOMPLETE_SIGNATURE);
            assert!(fault.message.contains(reason), "{}", fault.message);
        }
    }
}
