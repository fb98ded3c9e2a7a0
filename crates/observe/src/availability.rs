//! Availability of a service over a window, from the journal's minute rows.

use holdfast_policy::availability::{self, Tally};
use holdfast_store::rusqlite::{self, Connection, params};
use serde::{Deserialize, Serialize};

use crate::journal::{Journal, Result};

/// The windows that `status` shows, with their length in minutes.
pub const WINDOWS: [(&str, u64); 3] = [("1h", 60), ("24h", 24 * 60), ("30d", 30 * 24 * 60)];

/// One window in `status --json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Window {
    pub window: String,
    /// 0..=1; absent when nothing was observed.
    pub ratio: Option<f64>,
    /// `requests` or `ready_seconds`.
    pub basis: String,
    pub requests: u64,
    pub failed: u64,
    /// Share of requests answered by a fallback.
    pub degraded: f64,
    pub unknown_seconds: u64,
    pub target: Option<f64>,
    /// Share of the error budget that is left; negative when overspent.
    pub budget_left: Option<f64>,
}

impl Journal {
    /// Over 1 h, 24 h and 30 d up to `now_wall_ms`. `balanced`: a balancer counts the service's requests.
    pub async fn availability(
        &self,
        service: &str,
        now_wall_ms: u64,
        balanced: bool,
        target: Option<f64>,
    ) -> Result<Vec<Window>> {
        let service = service.to_owned();
        self.read(move |db| {
            let windows = WINDOWS.iter().map(|w| window(db, &service, now_wall_ms / 60_000, *w, balanced, target));
            Ok(windows.collect::<rusqlite::Result<Vec<Window>>>()?)
        })
        .await
    }
}

fn window(
    db: &Connection,
    service: &str,
    now_minute: u64,
    (name, minutes): (&str, u64),
    balanced: bool,
    target: Option<f64>,
) -> rusqlite::Result<Window> {
    let from = now_minute.saturating_sub(minutes);
    let tally = sum(db, service, from, now_minute)?;
    let oldest: Option<i64> =
        db.prepare_cached("SELECT min(minute) FROM minutes WHERE service = ?1")?.query_row([service], |r| r.get(0))?;
    // The present minute is not complete, so it is not expected.
    let known_minutes = oldest.map_or(0, |oldest| now_minute.saturating_sub(oldest as u64));
    let judged = availability::judge(&tally, minutes * 60, known_minutes * 60, balanced, target);
    Ok(Window {
        window: name.into(),
        ratio: judged.ratio,
        basis: match judged.basis {
            availability::Basis::Requests => "requests".into(),
            availability::Basis::ReadySeconds => "ready_seconds".into(),
        },
        requests: tally.requests(),
        failed: tally.failed,
        degraded: judged.degraded,
        unknown_seconds: judged.unknown_seconds,
        target,
        budget_left: judged.budget.map(|b| b.left),
    })
}

fn sum(db: &Connection, service: &str, from: u64, until: u64) -> rusqlite::Result<Tally> {
    db.prepare_cached(
        "SELECT total(good), total(failed), total(degraded), total(ready_seconds), total(down_seconds), total(unknown_seconds)
         FROM minutes WHERE service = ?1 AND minute > ?2 AND minute <= ?3",
    )?
    .query_row(params![service, from as i64, until as i64], |r| {
        let at = |n| r.get::<_, f64>(n).map(|v| v as u64);
        Ok(Tally {
            good: at(0)?,
            failed: at(1)?,
            degraded: at(2)?,
            ready_seconds: at(3)?,
            down_seconds: at(4)?,
            unknown_seconds: at(5)?,
        })
    })
}
