//! The applied configuration, pauses, and which jobs are done.

use serde::{Deserialize, Serialize};

use super::{ALL, DESIRED, JOB, PAUSE, Records, codec};
use crate::{Error, Guard, Op, Order, Result, Txn};

/// The configuration as it was applied: its text, with secrets still references.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    #[serde(default)]
    pub version: u32,
    pub toml: String,
    /// Where it was read from; relative paths in it count from there.
    pub source: String,
    #[serde(default)]
    pub node: String,
    pub applied_wall_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    #[serde(default)]
    pub version: u32,
    /// A service or balancer; `None` pauses everything.
    pub name: Option<String>,
    pub since_wall_ms: u64,
    /// `None` lasts until it is resumed.
    pub until_wall_ms: Option<u64>,
    #[serde(default)]
    pub reason: String,
    #[serde(default)]
    pub by: String,
}

impl Pause {
    pub fn covers(&self, name: &str, wall_ms: u64) -> bool {
        self.until_wall_ms.is_none_or(|until| wall_ms < until) && self.name.as_deref().is_none_or(|n| n == name)
    }
}

/// A one-shot job that succeeded, and for which definition of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobDone {
    #[serde(default)]
    pub version: u32,
    /// Digest of the definition; a changed one runs again.
    pub definition: String,
    pub finished_wall_ms: u64,
}

impl Records {
    /// With the revision that it was applied at.
    pub async fn desired(&self) -> Result<Option<(Desired, u64)>> {
        let Some(kv) = self.store.get(DESIRED.into()).await? else { return Ok(None) };
        Ok(Some((codec::decode(DESIRED, &kv.value)?, kv.mod_revision)))
    }

    /// Returns the new revision. With `expected`, only if the present one is still that (0: none yet).
    pub async fn set_desired(&self, desired: &Desired, expected: Option<u64>) -> Result<u64> {
        let record = codec::encode(DESIRED, &Desired { version: 1, ..desired.clone() })?;
        let guards = expected.map(|revision| Guard::unchanged(DESIRED, revision));
        let txn = Txn::when(guards).then([Op::put(DESIRED, record)]);
        let outcome = self.store.txn(txn).await?;
        match (outcome.succeeded, expected) {
            (false, Some(expected)) => {
                let found = self.store.get(DESIRED.into()).await?.map_or(0, |kv| kv.mod_revision);
                Err(Error::Changed { key: DESIRED.into(), expected, found })
            }
            _ => Ok(outcome.revision),
        }
    }

    /// After `down`: nothing is wanted any more.
    pub async fn clear_desired(&self) -> Result<()> {
        self.store.txn(Txn::always([Op::delete(DESIRED)])).await.map(drop)
    }

    pub async fn pause(&self, pause: &Pause) -> Result<()> {
        let key = pause_key(pause.name.as_deref());
        let record = codec::encode(&key, &Pause { version: 1, ..pause.clone() })?;
        self.store.txn(Txn::always([Op::put(key, record)])).await.map(drop)
    }

    /// False when it was not paused.
    pub async fn resume(&self, name: Option<&str>) -> Result<bool> {
        let key = pause_key(name);
        let guard = Guard::Version { key: key.clone(), order: Order::Greater, version: 0 };
        Ok(self.store.txn(Txn::when([guard]).then([Op::delete(key)])).await?.succeeded)
    }

    /// Also those that have run out; see [`Pause::covers`].
    pub async fn pauses(&self) -> Result<Vec<Pause>> {
        let items = self.store.list(PAUSE.into()).await?.items;
        items.iter().map(|kv| codec::decode(&kv.key, &kv.value)).collect()
    }

    pub async fn job_done(&self, service: &str) -> Result<Option<JobDone>> {
        let key = format!("{JOB}{service}");
        let found = self.store.get(key.clone()).await?;
        found.map(|kv| codec::decode(&key, &kv.value)).transpose()
    }

    pub async fn set_job_done(&self, service: &str, done: &JobDone) -> Result<()> {
        let key = format!("{JOB}{service}");
        let record = codec::encode(&key, &JobDone { version: 1, ..done.clone() })?;
        self.store.txn(Txn::always([Op::put(key, record)])).await.map(drop)
    }
}

fn pause_key(name: Option<&str>) -> String {
    format!("{PAUSE}{}", name.unwrap_or(ALL))
}
