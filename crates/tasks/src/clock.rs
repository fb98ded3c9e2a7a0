//! Engine time: milliseconds since 1970 that never jump. It begins at the wall clock and follows boot time, also over
//! restarts within one boot; a wall clock that is set moves no deadline.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use holdfast_host::clock;
use rusqlite::{Connection, OptionalExtension, params};

/// Milliseconds of engine time.
pub type Millis = i64;

/// Milliseconds since boot; tests bring their own.
pub type Ticks = fn() -> Millis;

/// Clones show the same time.
#[derive(Clone, Debug)]
pub struct Clock {
    /// Engine time when `ticks` was 0.
    origin: Arc<AtomicI64>,
    /// What tests have made pass.
    ahead: Arc<AtomicI64>,
    ticks: Ticks,
}

impl Clock {
    /// Of this boot: as an earlier process of it counted. After another boot: the wall clock, but never below what was stored.
    pub(crate) fn open(connection: &Connection, ticks: Ticks) -> rusqlite::Result<Clock> {
        let stored = connection
            .query_row("SELECT boot_id, origin_ms, seen_ms FROM clock", [], |r| {
                Ok((r.get::<_, String>(0)?, r.get::<_, Millis>(1)?, r.get::<_, Millis>(2)?))
            })
            .optional()?;
        let origin = match stored {
            Some((boot_id, origin, _)) if clock::same_boot(&boot_id) => origin,
            Some((_, _, seen)) => wall().max(seen) - ticks(),
            None => wall() - ticks(),
        };
        let clock = Clock::new(origin, ticks);
        clock.keep(connection)?;
        Ok(clock)
    }

    pub(crate) fn new(origin: Millis, ticks: Ticks) -> Clock {
        Clock { origin: Arc::new(origin.into()), ahead: Arc::default(), ticks }
    }

    /// A server shows `now`: its time is ours.
    pub(crate) fn follow(&self, now: Millis) {
        self.origin.store(now - (self.ticks)(), Ordering::Relaxed);
    }

    pub fn now(&self) -> Millis {
        self.origin.load(Ordering::Relaxed) + self.ahead.load(Ordering::Relaxed) + (self.ticks)()
    }

    /// Time passes at once: for tests of what takes hours.
    #[cfg(test)]
    pub(crate) fn advance(&self, by: Millis) {
        self.ahead.fetch_add(by, Ordering::Relaxed);
    }

    /// What the wall clock shows, or showed, at an engine time of this boot: for people.
    pub fn wall(&self, engine: Millis) -> u64 {
        u64::try_from(engine + wall() - self.now()).unwrap_or(0)
    }

    /// Writes down how far time has come, for the next boot.
    pub(crate) fn keep(&self, connection: &Connection) -> rusqlite::Result<()> {
        connection
            .prepare_cached(
                "INSERT INTO clock (one, boot_id, origin_ms, seen_ms) VALUES (1, ?1, ?2, ?3)
                 ON CONFLICT (one) DO UPDATE SET boot_id = ?1, origin_ms = ?2, seen_ms = ?3",
            )?
            .execute(params![clock::boot_id(), self.origin.load(Ordering::Relaxed), self.now()])?;
        Ok(())
    }
}

/// CLOCK_BOOTTIME.
pub fn boot() -> Millis {
    Millis::try_from(clock::now().since(holdfast_policy::Timestamp::ZERO).as_millis()).unwrap_or(Millis::MAX)
}

fn wall() -> Millis {
    Millis::try_from(clock::wall_ms()).unwrap_or(Millis::MAX)
}

/// How long until `due`; zero when it has passed.
pub(crate) fn until(now: Millis, due: Millis) -> Duration {
    Duration::from_millis(u64::try_from(due - now).unwrap_or(0))
}
