//! Receipt handles: proof of which receive of which message somebody answers for.
//!
//! A handle is (message, receive, epoch of the plane, MAC). The message's number holds that of its queue, so a handle of
//! one queue is nothing in another; nobody can make one up, and one from before a restored backup does not fit.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;

const PLAIN_BYTES: usize = 20;
const MAC_BYTES: usize = 32;

/// What a handle names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Number of the message: its queue and its place in it.
    pub id: i64,
    /// Which receive of the message it was, from 1.
    pub receive: u32,
    pub epoch: i64,
}

/// Makes and checks handles; the key is random and lives in the store.
#[derive(Clone)]
pub struct Sealer {
    key: hmac::Key,
}

impl Sealer {
    pub fn new(secret: &[u8]) -> Sealer {
        Sealer { key: hmac::Key::new(hmac::HMAC_SHA256, secret) }
    }

    pub fn seal(&self, receipt: Receipt) -> String {
        let mut all = [0; PLAIN_BYTES + MAC_BYTES];
        let (plain, mac) = all.split_at_mut(PLAIN_BYTES);
        plain[..8].copy_from_slice(&receipt.id.to_be_bytes());
        plain[8..12].copy_from_slice(&receipt.receive.to_be_bytes());
        plain[12..].copy_from_slice(&receipt.epoch.to_be_bytes());
        mac.copy_from_slice(hmac::sign(&self.key, plain).as_ref());
        URL_SAFE_NO_PAD.encode(all)
    }

    /// `None` for whatever this plane did not make.
    pub fn open(&self, handle: &str) -> Option<Receipt> {
        let mut all = [0; PLAIN_BYTES + MAC_BYTES];
        let length = URL_SAFE_NO_PAD.decode_slice(handle, &mut all).ok()?;
        if length != all.len() {
            return None;
        }
        let (plain, mac) = all.split_at(PLAIN_BYTES);
        hmac::verify(&self.key, plain, mac).ok()?;
        Some(Receipt {
            id: i64::from_be_bytes(plain[..8].try_into().ok()?),
            receive: u32::from_be_bytes(plain[8..12].try_into().ok()?),
            epoch: i64::from_be_bytes(plain[12..].try_into().ok()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_sealed_opens() {
        let sealer = Sealer::new(b"secret");
        let receipt = Receipt { id: (7 << 40) | 42, receive: 3, epoch: 9 };
        let handle = sealer.seal(receipt);
        assert_eq!(sealer.open(&handle), Some(receipt));
        assert_eq!(Sealer::new(b"other").open(&handle), None, "another plane's");
        for at in 0..handle.len() {
            let mut forged = handle.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(forged).expect("ASCII");
            assert_eq!(sealer.open(&forged), None, "{forged}");
        }
        for nonsense in ["", "AAAA", "not base64!", &handle[1..], &format!("{handle}AA")] {
            assert_eq!(sealer.open(nonsense), None, "{nonsense}");
        }
    }
}
