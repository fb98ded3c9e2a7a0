//! A compiled file of the tz database (RFC 9636) becomes a [`Zone`].

use std::fmt;

use super::posix::Rule;
use super::zone::{Change, Zone};

/// The largest file of the database has 4 KiB; the format itself sets no limit.
pub const TZIF_BYTES_MAX: usize = 64 * 1024;

const MAGIC: &[u8] = b"TZif";
const HEADER_BYTES: usize = 44;

/// Why bytes are not a time zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TzifError {
    TooLong {
        bytes: usize,
    },
    NoMagic,
    Short,
    /// A type of local time that is not there, or none at all.
    Type,
    /// The `right/` files count leap seconds; schedules are in UTC as everybody's clock shows it.
    LeapSeconds,
    Footer {
        text: String,
    },
}

impl fmt::Display for TzifError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TzifError::TooLong { bytes } => write!(f, "the time zone has {bytes} bytes, at most {TZIF_BYTES_MAX}"),
            TzifError::NoMagic => f.write_str("the time zone does not begin with `TZif`"),
            TzifError::Short => f.write_str("the time zone ends before its data does"),
            TzifError::Type => f.write_str("the time zone names a type of local time that it does not have"),
            TzifError::LeapSeconds => f.write_str("the time zone counts leap seconds, which schedules do not"),
            TzifError::Footer { text } => write!(f, "the time zone's rule `{text}` is not a POSIX TZ string"),
        }
    }
}

impl std::error::Error for TzifError {}

/// The counts of a header, in the order of the file.
struct Header {
    version: u8,
    ut: usize,
    standard: usize,
    leaps: usize,
    times: usize,
    types: usize,
    chars: usize,
}

impl Zone {
    /// Reads versions 1 to 4. From version 2 on the 64-bit data and the rule after them are what counts.
    pub fn from_tzif(bytes: &[u8]) -> Result<Zone, TzifError> {
        if bytes.len() > TZIF_BYTES_MAX {
            return Err(TzifError::TooLong { bytes: bytes.len() });
        }
        let mut left = Reader(bytes);
        let header = left.header()?;
        if header.version == 0 {
            let (first, changes) = left.block(&header, 4)?;
            return Ok(Zone::new(first, changes, None));
        }
        left.take(header.bytes(4)?)?;
        let header = left.header()?;
        let (first, changes) = left.block(&header, 8)?;
        Ok(Zone::new(first, changes, footer(left.0)?))
    }
}

impl Header {
    /// Of the data after it, with times of `width` bytes. Each count is below 2^32, so that the sum cannot overflow.
    fn bytes(&self, width: usize) -> Result<usize, TzifError> {
        let sum = self.times * (width + 1) + self.types * 6 + self.chars + self.leaps * (width + 4);
        Ok(sum + self.standard + self.ut)
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], TzifError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(TzifError::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn header(&mut self) -> Result<Header, TzifError> {
        let bytes = self.take(HEADER_BYTES)?;
        if !bytes.starts_with(MAGIC) {
            return Err(TzifError::NoMagic);
        }
        let count = |n: usize| big_endian(&bytes[20 + 4 * n..24 + 4 * n]) as usize;
        let (ut, standard, leaps) = (count(0), count(1), count(2));
        Ok(Header { version: bytes[4], ut, standard, leaps, times: count(3), types: count(4), chars: count(5) })
    }

    /// The offset before the first change, and the changes.
    fn block(&mut self, header: &Header, width: usize) -> Result<(i32, Vec<Change>), TzifError> {
        if header.leaps > 0 {
            return Err(TzifError::LeapSeconds);
        }
        let mut block = Reader(self.take(header.bytes(width)?)?);
        let times = block.take(header.times * width)?;
        let kinds = block.take(header.times)?;
        let types = block.take(header.types * 6)?;
        let offset = |kind: usize| {
            let bytes = types.get(kind * 6..kind * 6 + 4).ok_or(TzifError::Type)?;
            Ok(big_endian(bytes) as i32)
        };
        let changes = times.chunks_exact(width).zip(kinds).map(|(time, kind)| {
            let utc_from_s = if width == 4 { i64::from(big_endian(time) as i32) } else { big_endian(time) as i64 };
            Ok(Change { utc_from_s, offset_s: offset(usize::from(*kind))? })
        });
        Ok((offset(0)?, changes.collect::<Result<_, TzifError>>()?))
    }
}

/// Of at most eight bytes.
fn big_endian(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// The rule between two line feeds; an empty one says that nothing is known.
fn footer(bytes: &[u8]) -> Result<Option<Rule>, TzifError> {
    let inner = bytes.strip_prefix(b"\n").and_then(|b| b.strip_suffix(b"\n")).ok_or(TzifError::Short)?;
    let text = String::from_utf8_lossy(inner).into_owned();
    if text.is_empty() {
        return Ok(None);
    }
    Rule::parse(&text).map(Some).ok_or(TzifError::Footer { text })
}
