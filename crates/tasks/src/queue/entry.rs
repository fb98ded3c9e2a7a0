//! A queue as engines know it, and the numbers of its messages.

use std::sync::Arc;

use crate::error::Result;
use crate::queue::{MessageId, Spec};

/// Places in one queue: enough for 30,000 messages a second over a year.
pub(crate) const PLACE_BITS: u32 = 40;

/// A queue as operations need it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) number: i64,
    pub(crate) name: String,
    pub(crate) spec: Arc<Spec>,
    /// Messages up to here are gone: purged, and their rows swept later.
    pub(crate) floor: i64,
}

impl Entry {
    pub(crate) fn low(&self) -> i64 {
        (self.number << PLACE_BITS) + self.floor
    }

    pub(crate) fn high(&self) -> i64 {
        ((self.number + 1) << PLACE_BITS) - 1
    }

    pub(crate) fn id(&self, place: i64) -> i64 {
        (self.number << PLACE_BITS) + place
    }

    /// Of this queue, and not purged.
    pub(crate) fn holds(&self, id: i64) -> bool {
        id > self.low() && id <= self.high()
    }
}

pub(crate) fn place(id: i64) -> u64 {
    (id & ((1 << PLACE_BITS) - 1)).unsigned_abs()
}

pub(crate) fn message_id(bytes: Vec<u8>) -> MessageId {
    let mut id = [0; 16];
    let length = bytes.len().min(16);
    id[..length].copy_from_slice(&bytes[..length]);
    MessageId(id)
}

/// A random UUID, version 4 (RFC 9562).
pub(crate) fn random() -> Result<MessageId> {
    let mut bytes: [u8; 16] = crate::random("a message id")?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Ok(MessageId(bytes))
}
