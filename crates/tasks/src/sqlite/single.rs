//! One plane has the file for itself: it leads, and nobody leaves it requests.

#![expect(clippy::unused_async, reason = "planes that share a database need more")]

use super::Sqlite;
use crate::error::{Error, Result};

impl Sqlite {
    /// Whoever waits is woken by who sends.
    pub(crate) async fn ready(&self, _queues: Vec<String>) -> Result<Vec<(String, u64)>> {
        Ok(Vec::new())
    }

    pub(crate) async fn queued_runs(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    pub(crate) async fn lead(&self, _for_ms: u64) -> Result<bool> {
        Ok(true)
    }

    pub(crate) async fn post(&self, _request: String) -> Result<i64> {
        Err(Error::Throttled { reason: "this plane leads, nobody else does".into() })
    }

    pub(crate) async fn posted(&self) -> Result<Vec<(i64, String)>> {
        Ok(Vec::new())
    }

    pub(crate) async fn reply(&self, _number: i64, _reply: String) -> Result<()> {
        Ok(())
    }

    pub(crate) async fn replied(&self, _number: i64) -> Result<Option<String>> {
        Ok(None)
    }
}
