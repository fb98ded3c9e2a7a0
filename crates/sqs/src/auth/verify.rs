//! Checks signatures. The reference is AWS's "Create a signed AWS API request"; tests hold its published values.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use http::header::ORIGIN;
use http::request::Parts;
use ring::{digest, hmac};

use super::claim::{ALGORITHM, Claim, Place, SERVICE, TERMINATOR, incomplete};
use super::keys::{Key, Keys, Secret};
use super::{canonical, date};
use crate::action::Class;
use crate::digest::Hex;
use crate::fault::{ACCESS_DENIED, Fault, Result, UNKNOWN_KEY, WRONG_SIGNATURE};
use crate::limits::CLOCK_SKEW_MAX_S;

const PAYLOAD_HASH: &str = "x-amz-content-sha256";
const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";
/// What would change the meaning of a request and must therefore be signed where it is present.
const MUST_BE_SIGNED: &[&str] = &["x-amz-target", "x-amz-date"];
/// `SenderId` of who did not sign.
const ANONYMOUS: &str = "anonymous";

/// Keys by their id, each with the signing key it used last.
pub(crate) struct Keyring(Option<HashMap<String, Held>>);

struct Held {
    key: Key,
    derived: Mutex<Option<Derived>>,
}

/// A signing key is good for one day and region; deriving it costs four HMACs.
struct Derived {
    day: String,
    region: String,
    key: hmac::Key,
}

/// Who signed a request.
pub(crate) struct Principal<'k> {
    /// Id of the access key.
    pub(crate) id: String,
    /// `None`: may do everything.
    key: Option<&'k Key>,
}

impl Keyring {
    pub(crate) fn new(keys: Keys) -> Keyring {
        let held = |key: Key| (key.id.clone(), Held { key, derived: Mutex::new(None) });
        Keyring(match keys {
            Keys::Any => None,
            Keys::Known(keys) => Some(keys.into_iter().map(held).collect()),
        })
    }

    /// `now_s`: seconds since 1970.
    pub(crate) fn verify(&self, head: &Parts, body: &[u8], now_s: u64) -> Result<Principal<'_>> {
        let Some(keys) = &self.0 else {
            refuse_pages(head)?;
            let claimed = Claim::find(head).ok().flatten().map(|claim| claim.key_id);
            return Ok(Principal { id: claimed.unwrap_or_else(|| ANONYMOUS.to_owned()), key: None });
        };
        let Some(claim) = Claim::find(head)? else {
            return Err(Fault::new(ACCESS_DENIED, "Access is denied: the request is not signed."));
        };
        let Some(held) = keys.get(&claim.key_id) else {
            return Err(Fault::new(UNKNOWN_KEY, "The security token included in the request is invalid."));
        };
        check_headers(head, &claim)?;
        check_time(&claim, now_s)?;
        let payload = payload_hash(head, body, claim.place)?;
        if !held.signed(head, &claim, &payload) {
            return Err(mismatch("the signature is not the one that this secret key makes of this request"));
        }
        Ok(Principal { id: claim.key_id, key: Some(&held.key) })
    }
}

impl Held {
    fn signed(&self, head: &Parts, claim: &Claim, payload: &str) -> bool {
        let without = matches!(claim.place, Place::Query { .. }).then_some("X-Amz-Signature");
        let Some(canonical) = canonical::request(head, &claim.signed, without, payload) else { return false };
        let text = string_to_sign(&claim.time, &claim.day, &claim.region, SERVICE, &canonical);
        let (key, is_new) = self.signing_key(&claim.day, &claim.region);
        // Compares in constant time.
        let good = hmac::verify(&key, text.as_bytes(), &claim.signature).is_ok();
        if good && is_new {
            // Only after a good signature: a stranger cannot make the key be derived anew for others.
            let derived = Derived { day: claim.day.clone(), region: claim.region.clone(), key };
            *self.derived.lock().unwrap_or_else(PoisonError::into_inner) = Some(derived);
        }
        good
    }

    fn signing_key(&self, day: &str, region: &str) -> (hmac::Key, bool) {
        let slot = self.derived.lock().unwrap_or_else(PoisonError::into_inner);
        match &*slot {
            Some(derived) if derived.day == day && derived.region == region => (derived.key.clone(), false),
            _ => (derive(&self.key.secret, day, region, SERVICE), true),
        }
    }
}

impl Principal<'_> {
    /// Some queues are not this one's business.
    pub(crate) fn is_limited(&self) -> bool {
        self.key.is_some()
    }

    pub(crate) fn permits(&self, queue: &str, class: Class) -> bool {
        self.key.is_none_or(|key| key.permits(queue, class))
    }
}

/// Where nobody signs, a page in somebody's browser could ask as well as a program on the same machine. Browsers say
/// so, and no SDK outside of them does.
fn refuse_pages(head: &Parts) -> Result<()> {
    let site = head.headers.get("sec-fetch-site").map(|value| value.as_bytes());
    if head.headers.contains_key(ORIGIN) || site.is_some_and(|site| site != b"none") {
        return Err(Fault::new(ACCESS_DENIED, "Access is denied: a web page needs an access key."));
    }
    Ok(())
}

fn check_headers(head: &Parts, claim: &Claim) -> Result<()> {
    let is_signed = |name: &str| claim.signed_headers().any(|signed| signed == name);
    if !is_signed("host") {
        return Err(incomplete("the host header is not among the signed headers"));
    }
    match MUST_BE_SIGNED.iter().find(|name| head.headers.contains_key(**name) && !is_signed(name)) {
        Some(name) => Err(incomplete(&format!("the header {name} is not among the signed headers"))),
        None => Ok(()),
    }
}

fn check_time(claim: &Claim, now_s: u64) -> Result<()> {
    let made = date::parse(&claim.time).ok_or_else(|| incomplete("X-Amz-Date is not of the form YYYYMMDDThhmmssZ"))?;
    if made > now_s + CLOCK_SKEW_MAX_S {
        return Err(mismatch("it is dated more than 15 minutes ahead; compare the clocks"));
    }
    match claim.place {
        Place::Header if made + CLOCK_SKEW_MAX_S < now_s => {
            Err(mismatch("it is dated more than 15 minutes ago; compare the clocks"))
        }
        Place::Query { expires_s } if made + expires_s < now_s => Err(mismatch("the presigned request has expired")),
        _ => Ok(()),
    }
}

/// Hash of the body as the canonical request holds it. Only who presigns may leave the body open.
fn payload_hash(head: &Parts, body: &[u8], place: Place) -> Result<String> {
    let told = head.headers.get(PAYLOAD_HASH).map(|value| value.as_bytes());
    if told == Some(UNSIGNED_PAYLOAD.as_bytes()) && place != Place::Header {
        return Ok(UNSIGNED_PAYLOAD.to_owned());
    }
    let hash = sha256(body);
    if told.is_some_and(|told| !told.eq_ignore_ascii_case(hash.as_bytes())) {
        return Err(mismatch("X-Amz-Content-Sha256 is not the hash of the body"));
    }
    Ok(hash)
}

pub(super) fn string_to_sign(time: &str, day: &str, region: &str, service: &str, canonical: &str) -> String {
    let hash = sha256(canonical.as_bytes());
    format!("{ALGORITHM}\n{time}\n{day}/{region}/{service}/{TERMINATOR}\n{hash}")
}

pub(super) fn derive(secret: &Secret, day: &str, region: &str, service: &str) -> hmac::Key {
    let mut first = b"AWS4".to_vec();
    first.extend_from_slice(secret.bytes());
    let mut key = hmac::Key::new(hmac::HMAC_SHA256, &first);
    first.fill(0);
    std::hint::black_box(&first);
    for part in [day, region, service, TERMINATOR] {
        key = hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, part.as_bytes()).as_ref());
    }
    key
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    Hex::<64>::new(digest::digest(&digest::SHA256, bytes).as_ref()).as_str().to_owned()
}

fn mismatch(reason: &str) -> Fault {
    Fault::new(WRONG_SIGNATURE, format!("The request signature cannot be accepted: {reason}."))
}

#[cfg(test)]
mod tests;
