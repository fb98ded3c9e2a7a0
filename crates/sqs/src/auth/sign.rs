//! Signs requests as a client does, for holdfast's own clients.

use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderName, HeaderValue};
use ring::hmac;

use super::claim::{ALGORITHM, SERVICE, TERMINATOR};
use super::keys::Secret;
use super::verify::{derive, sha256, string_to_sign};
use super::{canonical, date};
use crate::digest::Hex;

const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const SIGNED: &str = "host;x-amz-date;x-amz-target";
/// Of a date in the basic form.
const DAY_CHARS: usize = 8;

/// One access key as its owner has it.
#[derive(Debug)]
pub struct Signer {
    pub id: String,
    pub secret: Secret,
    pub region: String,
}

impl Signer {
    /// Adds date and signature. The request must have `host` and `x-amz-target`; it is unchanged without them.
    pub fn sign(&self, head: &mut Parts, body: &[u8], now_s: u64) {
        let time = date::write(now_s);
        let Ok(value) = HeaderValue::from_str(&time) else { return };
        head.headers.insert(DATE, value);
        let Some(canonical) = canonical::request(head, SIGNED, None, &sha256(body)) else { return };
        let day = time.get(..DAY_CHARS).unwrap_or_default();
        let text = string_to_sign(&time, day, &self.region, SERVICE, &canonical);
        let key = derive(&self.secret, day, &self.region, SERVICE);
        let signature = Hex::<64>::new(hmac::sign(&key, text.as_bytes()).as_ref());
        let scope = format!("{}/{day}/{}/{SERVICE}/{TERMINATOR}", self.id, self.region);
        let value = format!("{ALGORITHM} Credential={scope}, SignedHeaders={SIGNED}, Signature={}", signature.as_str());
        if let Ok(value) = HeaderValue::from_str(&value) {
            head.headers.insert(AUTHORIZATION, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Key, Keyring, Keys};
    use super::*;

    const NOW: u64 = 1_764_187_000;

    fn verified(signed_body: &[u8], sent_body: &[u8], secret: &str) -> bool {
        let known = Key {
            id: "SHOPKEY".into(),
            secret: Secret::new("right"),
            queues: vec!["*".into()],
            send: true,
            receive: true,
            manage: true,
        };
        let request = http::Request::post("/").header("host", "127.0.0.1:9324");
        let request = request.header("x-amz-target", "AmazonSQS.SendMessage").body(()).unwrap();
        let mut head = request.into_parts().0;
        let signer = Signer { id: "SHOPKEY".into(), secret: Secret::new(secret), region: "eu-central-1".into() };
        signer.sign(&mut head, signed_body, NOW);
        Keyring::new(Keys::Known(vec![known])).verify(&head, sent_body, NOW).is_ok()
    }

    #[test]
    fn what_is_signed_is_verified_and_nothing_else() {
        assert!(verified(b"{}", b"{}", "right"));
        assert!(!verified(b"{}", b"{ }", "right"));
        assert!(!verified(b"{}", b"{}", "wrong"));
    }
}
