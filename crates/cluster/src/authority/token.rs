//! Join tokens: who has one may join once, and knows by it whom it talks to.

use std::fmt;
use std::str::FromStr;

use ring::rand::{SecureRandom, SystemRandom};

use super::{Error, Fingerprint, Result};

const VERSION: &str = "hf1";
const ID_BYTES: usize = 6;
/// 128 bits: not to be guessed, so that a plain hash of it may be stored.
const SECRET_BYTES: usize = 16;

/// `hf1.ID.SECRET.FINGERPRINT`.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    pub id: String,
    pub secret: String,
    /// Of the authority.
    pub fingerprint: Fingerprint,
}

impl JoinToken {
    pub fn new(fingerprint: Fingerprint) -> Result<JoinToken> {
        Ok(JoinToken { id: random(ID_BYTES)?, secret: random(SECRET_BYTES)?, fingerprint })
    }

    pub fn digest(secret: &str) -> Fingerprint {
        Fingerprint::of(secret.as_bytes())
    }
}

/// In a time that does not depend on where they differ.
pub(crate) fn is_same(one: &Fingerprint, other: &Fingerprint) -> bool {
    let different = one.bytes().iter().zip(other.bytes()).fold(0u8, |all, (a, b)| all | (a ^ b));
    std::hint::black_box(different) == 0
}

/// In hexadecimal digits.
pub(crate) fn random(bytes: usize) -> Result<String> {
    let mut all = vec![0; bytes];
    SystemRandom::new().fill(&mut all).map_err(|_| Error::Make("no random numbers".into()))?;
    Ok(all.iter().map(|byte| format!("{byte:02x}")).collect())
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{VERSION}.{}.{}.{}", self.id, self.secret, self.fingerprint)
    }
}

/// Without the secret.
impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({})", self.id)
    }
}

impl FromStr for JoinToken {
    type Err = Error;

    fn from_str(text: &str) -> Result<JoinToken> {
        let bad = Error::Token { reason: "it is not whole; a token is hf1.ID.SECRET.FINGERPRINT" };
        let hex = |text: &str, bytes: usize| text.len() == 2 * bytes && text.bytes().all(|b| b.is_ascii_hexdigit());
        match text.trim().split('.').collect::<Vec<_>>()[..] {
            [VERSION, id, secret, fingerprint] if hex(id, ID_BYTES) && hex(secret, SECRET_BYTES) => {
                let fingerprint = fingerprint.parse().map_err(|()| bad)?;
                Ok(JoinToken { id: id.to_owned(), secret: secret.to_owned(), fingerprint })
            }
            _ => Err(bad),
        }
    }
}
