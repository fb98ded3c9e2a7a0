//! The epoch of the coordination state: the first half of every fencing token.

use holdfast_policy::lease::FencingToken;
use serde::{Deserialize, Serialize};

use crate::{Error, Guard, Op, Result, Store, Txn};

const KEY: &str = "/epoch";

/// Attempts against others who raise it at the same time.
const TRIES: u32 = 16;

#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    epoch: u64,
}

/// The epoch to act under. `found` are the tokens lying about (run directories, token files, plane snapshots): when one
/// is higher than anything this state can have handed out, the state was recreated or is an old copy, and a new
/// epoch above all of them starts.
pub async fn settle(store: &dyn Store, found: impl IntoIterator<Item = FencingToken>) -> Result<u64> {
    let highest = found.into_iter().max().unwrap_or_default();
    for _ in 0..TRIES {
        let listing = store.list(KEY.into()).await?;
        let stored = listing.items.into_iter().find(|kv| kv.key == KEY);
        let (epoch, mod_revision) = match &stored {
            Some(kv) => (parse(&kv.value)?.epoch, kv.mod_revision),
            None => (0, 0),
        };
        let ours = FencingToken { epoch, create_revision: listing.revision };
        if stored.is_some() && highest <= ours {
            return Ok(epoch);
        }
        let next = epoch.max(highest.epoch) + 1;
        let value = serde_json::to_vec(&Record { version: 1, epoch: next })
            .map_err(|e| Error::Record { key: KEY.into(), reason: e.to_string() })?;
        let txn = Txn::when([Guard::unchanged(KEY, mod_revision)]).then([Op::put(KEY, value)]);
        if store.txn(txn).await?.succeeded {
            return Ok(next);
        }
    }
    Err(Error::Contended { key: KEY.into(), tries: TRIES })
}

fn parse(value: &[u8]) -> Result<Record> {
    let record: Record =
        serde_json::from_slice(value).map_err(|e| Error::Record { key: KEY.into(), reason: e.to_string() })?;
    match record.version {
        1 => Ok(record),
        found => Err(Error::NewerRecord { key: KEY.into(), found, known: 1 }),
    }
}
