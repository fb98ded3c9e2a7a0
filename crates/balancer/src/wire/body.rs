//! Where a message ends: counted, chunked or with the connection (RFC 9112 sections 6 and 7).
//!
//! Chunked bodies are checked byte for byte and forwarded as they came; whatever two readers could understand
//! differently (bare line feeds, extensions with control characters, framing fields in trailers) is refused.

/// Extension bytes in one size line; real ones have a few dozen.
const EXTENSION_BYTES_MAX: u32 = 256;

/// All trailer fields together.
const TRAILER_BYTES_MAX: u32 = 8 << 10;

/// Trailer fields that would change framing, routing or trust (RFC 9110 section 6.5.1).
const FORBIDDEN: [&[u8]; 10] = [
    b"transfer-encoding",
    b"content-length",
    b"host",
    b"connection",
    b"trailer",
    b"te",
    b"upgrade",
    b"authorization",
    b"content-encoding",
    b"content-type",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Empty,
    Length(u64),
    Chunked(Chunks),
    /// Until the end of the stream: answers of old servers, and tunnels.
    Close,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

impl Body {
    pub(crate) fn chunked() -> Body {
        Body::Chunked(Chunks { state: State::Size, value: 0, digits: 0, count: 0, name: [0; NAME_BYTES], name_len: 0 })
    }

    pub(crate) fn is_done(&self) -> bool {
        match self {
            Body::Empty | Body::Length(0) => true,
            Body::Chunked(c) => c.state == State::Done,
            Body::Length(_) | Body::Close => false,
        }
    }

    /// How many bytes of `input` belong to this body. `data` gets the content without framing.
    pub(crate) fn take(&mut self, input: &[u8], data: Option<&mut Vec<u8>>) -> Result<usize, Malformed> {
        let count = match self {
            Body::Empty => 0,
            Body::Close => input.len(),
            Body::Length(left) => {
                let count = input.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= count as u64;
                count
            }
            Body::Chunked(chunks) => return chunks.take(input, data),
        };
        if let Some(data) = data {
            data.extend_from_slice(&input[..count]);
        }
        Ok(count)
    }
}

/// Longest forbidden trailer name.
const NAME_BYTES: usize = 17;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunks {
    state: State,
    value: u64,
    digits: u8,
    /// Bytes of the present extension, or of all trailers.
    count: u32,
    name: [u8; NAME_BYTES],
    name_len: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    Done,
}

impl Chunks {
    fn take(&mut self, input: &[u8], mut data: Option<&mut Vec<u8>>) -> Result<usize, Malformed> {
        let mut at = 0;
        while at < input.len() && self.state != State::Done {
            if self.state == State::Data {
                let count = (input.len() - at).min(usize::try_from(self.value).unwrap_or(usize::MAX));
                if let Some(data) = data.as_deref_mut() {
                    data.extend_from_slice(&input[at..at + count]);
                }
                at += count;
                self.value -= count as u64;
                if self.value == 0 {
                    self.state = State::DataCr;
                }
                continue;
            }
            self.state = self.step(input[at])?;
            at += 1;
        }
        Ok(at)
    }

    fn step(&mut self, byte: u8) -> Result<State, Malformed> {
        match (self.state, byte) {
            (State::Size, _) => self.size(byte),
            (State::Extension, b'\r') => Ok(State::SizeLf),
            (State::Extension, b'\t' | b' '..=b'~' | 0x80..) => self.counted(EXTENSION_BYTES_MAX, State::Extension),
            (State::SizeLf, b'\n') => Ok(self.begin_data()),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => {
                (self.value, self.digits, self.count) = (0, 0, 0);
                Ok(State::Size)
            }
            (State::TrailerStart, b'\r') => Ok(State::EndLf),
            (State::EndLf, b'\n') => Ok(State::Done),
            (State::TrailerStart, _) => {
                self.name_len = 0;
                self.trailer_name(byte)
            }
            (State::TrailerName, b':') => {
                let name = &self.name[..usize::from(self.name_len).min(NAME_BYTES)];
                let forbidden = usize::from(self.name_len) <= NAME_BYTES && FORBIDDEN.contains(&name);
                if forbidden { Err(Malformed) } else { self.counted(TRAILER_BYTES_MAX, State::TrailerValue) }
            }
            (State::TrailerName, _) => self.trailer_name(byte),
            (State::TrailerValue, b'\r') => Ok(State::TrailerLf),
            (State::TrailerValue, b'\t' | b' '..=b'~' | 0x80..) => self.counted(TRAILER_BYTES_MAX, State::TrailerValue),
            (State::TrailerLf, b'\n') => Ok(State::TrailerStart),
            _ => Err(Malformed),
        }
    }

    fn size(&mut self, byte: u8) -> Result<State, Malformed> {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            b';' if self.digits > 0 => return Ok(State::Extension),
            b'\r' if self.digits > 0 => return Ok(State::SizeLf),
            _ => return Err(Malformed),
        };
        // 15 digits: no size that any reader's 64-bit arithmetic could wrap.
        if self.digits == 15 {
            return Err(Malformed);
        }
        self.digits += 1;
        self.value = self.value * 16 + u64::from(digit);
        Ok(State::Size)
    }

    fn begin_data(&mut self) -> State {
        self.count = 0;
        if self.value == 0 { State::TrailerStart } else { State::Data }
    }

    fn counted(&mut self, max: u32, next: State) -> Result<State, Malformed> {
        self.count += 1;
        if self.count > max { Err(Malformed) } else { Ok(next) }
    }

    fn trailer_name(&mut self, byte: u8) -> Result<State, Malformed> {
        if !super::head::is_token(byte) {
            return Err(Malformed);
        }
        if let Some(slot) = self.name.get_mut(usize::from(self.name_len)) {
            *slot = byte.to_ascii_lowercase();
        }
        self.name_len = self.name_len.saturating_add(1);
        self.counted(TRAILER_BYTES_MAX, State::TrailerName)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(input: &[u8]) -> Result<(usize, Vec<u8>, bool), Malformed> {
        let (mut body, mut data) = (Body::chunked(), Vec::new());
        let count = body.take(input, Some(&mut data))?;
        Ok((count, data, body.is_done()))
    }

    #[test]
    fn chunks_are_followed_to_their_end_and_not_beyond() {
        let text = b"5\r\nhello\r\n6;a=b\r\n world\r\n0\r\nX-Sum: 1\r\n\r\nGET /";
        assert_eq!(whole(text).unwrap(), (text.len() - 5, b"hello world".to_vec(), true));
    }

    #[test]
    fn any_cut_gives_the_same_result() {
        let text = b"a\r\n0123456789\r\n0\r\nA: b\r\n\r\n";
        for cut in 0..text.len() {
            let (mut body, mut data) = (Body::chunked(), Vec::new());
            assert_eq!(body.take(&text[..cut], Some(&mut data)), Ok(cut));
            assert!(!body.is_done());
            assert_eq!(body.take(&text[cut..], Some(&mut data)), Ok(text.len() - cut));
            assert!(body.is_done() && data == b"0123456789", "cut at {cut}");
        }
    }

    #[test]
    fn what_two_readers_could_understand_differently_is_refused() {
        for text in [
            &b"5\nhello\r\n"[..],
            b"\r\n",
            b" 5\r\n",
            b"5 \r\nhello",
            b"0x5\r\n",
            b"+5\r\n",
            b"5\r\nhelloX",
            b"5\r\nhello\nX",
            b"5;a\nb\r\n",
            b"fffffffffffffffff\r\n",
            b"0\r\nContent-Length: 5\r\n\r\n",
            b"0\r\nTransfer-Encoding: x\r\n\r\n",
            b"0\r\nA : b\r\n\r\n",
            b"0\r\n A: b\r\n\r\n",
            b"0\r\nA: b\n\r\n",
            b"0\r\n\n",
            b"-1\r\n",
            b"5;\x00\r\n",
        ] {
            assert_eq!(whole(text), Err(Malformed), "{:?}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn a_counted_body_takes_its_bytes_only() {
        let mut body = Body::Length(3);
        assert_eq!((body.take(b"ab", None), body.is_done()), (Ok(2), false));
        assert_eq!((body.take(b"cde", None), body.is_done()), (Ok(1), true));
    }
}
