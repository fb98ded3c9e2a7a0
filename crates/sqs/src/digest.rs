//! MD5 of what was sent, in hexadecimal: SDKs compare it with what they meant to send. No security rests on it.

use md5::{Digest, Md5};
use serde::{Serialize, Serializer};

/// A digest of `N / 2` bytes in lower-case hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hex<const N: usize>([u8; N]);

impl<const N: usize> Hex<N> {
    pub(crate) fn new(digest: &[u8]) -> Hex<N> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [b'0'; N];
        for (pair, byte) in text.chunks_exact_mut(2).zip(digest) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        Hex(text)
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("hexadecimal digits are ASCII")
    }
}

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

pub(crate) fn md5(bytes: &[u8]) -> Hex<32> {
    Hex::new(&Md5::digest(bytes))
}

/// Of several pieces, as if they were one.
pub(crate) fn md5_of<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Hex<32> {
    let mut state = Md5::new();
    pieces.into_iter().for_each(|piece| state.update(piece));
    Hex::new(&state.finalize())
}

/// Bytes of hexadecimal text of exactly `N` bytes, in either case.
pub(crate) fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn md5_of_known_texts() {
        // RFC 1321, appendix A.5.
        assert_eq!(md5(b"").as_str(), "d41d8cd98f00b204e9800998ecf8427e");
        assert_eq!(md5(b"message digest").as_str(), "f96b697d7cb7938d525a2f31aaf161d0");
        assert_eq!(md5_of([&b"message "[..], b"", b"digest"]), md5(b"message digest"));
    }

    #[test]
    fn hexadecimal_comes_back() {
        assert_eq!(unhex::<3>("00fFa1"), Some([0, 255, 0xa1]));
        assert_eq!(unhex::<3>("00ffa"), None);
        assert_eq!(unhex::<1>("+1"), None);
        assert_eq!(unhex::<1>("é"), None);
    }
}
