//! Numbers that only rise, and are on the disk before they are used.

use super::{GENERATION, PLANE, Records, TRIES, codec};
use crate::{Error, Guard, Op, Result, Txn};

impl Records {
    /// The next generation of `instance` (`web-2`): above every one handed out and above `found`, the highest one seen
    /// in its run directory, so that a lost store hands none out twice.
    pub async fn next_generation(&self, instance: &str, found: u64) -> Result<u64> {
        self.next(format!("{GENERATION}{instance}"), found).await
    }

    /// The next epoch of snapshots for `plane` (`agent` for the agent's own): above all earlier ones and `found`.
    pub async fn next_plane_epoch(&self, plane: &str, found: u64) -> Result<u64> {
        self.next(format!("{PLANE}{plane}"), found).await
    }

    async fn next(&self, key: String, found: u64) -> Result<u64> {
        for _ in 0..TRIES {
            let stored = self.store.get(key.clone()).await?;
            let (current, mod_revision) = match &stored {
                Some(kv) => (codec::decode::<codec::Number>(&key, &kv.value)?.value, kv.mod_revision),
                None => (0, 0),
            };
            let value = current.max(found) + 1;
            let record = codec::encode(&key, &codec::Number { version: 1, value })?;
            let txn = Txn::when([Guard::unchanged(&key, mod_revision)]).then([Op::put(&key, record)]);
            if self.store.txn(txn).await?.succeeded {
                return Ok(value);
            }
        }
        Err(Error::Contended { key, tries: TRIES })
    }
}
