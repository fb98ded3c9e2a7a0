//! Encoding of records. Unknown fields are ignored; a higher version is refused, because it means something else.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
pub(crate) struct Number {
    pub version: u32,
    pub value: u64,
}

#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    version: u32,
}

pub(crate) fn encode<T: Serialize>(key: &str, record: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(record).map_err(|e| unreadable(key, &e))
}

pub(crate) fn decode<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T> {
    let head: Head = serde_json::from_slice(value).map_err(|e| unreadable(key, &e))?;
    if head.version > VERSION {
        return Err(Error::NewerRecord { key: key.into(), found: head.version, known: VERSION });
    }
    serde_json::from_slice(value).map_err(|e| unreadable(key, &e))
}

fn unreadable(key: &str, e: &serde_json::Error) -> Error {
    Error::Record { key: key.into(), reason: e.to_string() }
}
