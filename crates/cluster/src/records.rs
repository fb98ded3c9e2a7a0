//! What the agent keeps in the store: small versioned JSON values, one prefix for each kind.

pub(crate) mod codec;
mod counters;
mod desired;
mod ports;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use desired::{Desired, JobDone, Pause};

use crate::{Op, Result, Store, Txn};

pub(crate) const DESIRED: &str = "/desired";
pub(crate) const SCALE: &str = "/scale/";
pub(crate) const PAUSE: &str = "/pause/";
const PORT: &str = "/port/";
const PORT_OWNER: &str = "/port-owner/";
const GENERATION: &str = "/generation/";
const PLANE: &str = "/plane/";
const JOB: &str = "/job/";

/// Name under which a pause of everything is stored; no service can have it.
const ALL: &str = "*";

/// Attempts against others who change the same record at the same time.
const TRIES: u32 = 32;

/// Typed access; cheap to clone.
#[derive(Clone)]
pub struct Records {
    store: Arc<dyn Store>,
}

impl Records {
    pub fn new(store: Arc<dyn Store>) -> Records {
        Records { store }
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// `None` takes the override back.
    pub async fn set_scale(&self, service: &str, replicas: Option<u32>) -> Result<()> {
        let key = format!("{SCALE}{service}");
        let op = match replicas {
            Some(replicas) => {
                Op::put(&key, codec::encode(&key, &codec::Number { version: 1, value: replicas.into() })?)
            }
            None => Op::delete(key),
        };
        self.store.txn(Txn::always([op])).await.map(drop)
    }

    pub async fn scales(&self) -> Result<BTreeMap<String, u32>> {
        let mut scales = BTreeMap::new();
        for kv in self.store.list(SCALE.into()).await?.items {
            let number: codec::Number = codec::decode(&kv.key, &kv.value)?;
            scales.insert(kv.key[SCALE.len()..].to_owned(), u32::try_from(number.value).unwrap_or(u32::MAX));
        }
        Ok(scales)
    }
}
