//! Opening: look first without touching, then migrate.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::error::is_corrupt;
use crate::{Error, Options, Result, SQLITE_VERSION_MIN, Sync, wal};

/// Somebody with the sqlite3 shell may hold the file for a moment.
const BUSY_WAIT: Duration = Duration::from_secs(2);

/// Files up to this size are checked page by page at every start (about 10 ms each 4 MiB).
const CHECK_BYTES_MAX: u64 = 16 << 20;

/// Some hundred small records.
const ROOM_BYTES_MAX: u64 = 512 << 10;

pub(crate) fn writer(path: &Path, options: &Options) -> Result<Connection> {
    let found = rusqlite::version_number();
    if found < SQLITE_VERSION_MIN {
        return Err(Error::OldSqlite { found });
    }
    let size = std::fs::metadata(path).map_or(0, |m| m.len());
    if size > 0 {
        inspect(path, size, options)?;
    }
    let connection = open_with(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
    configure(&connection, options).map_err(|e| classify(path, e))?;
    migrate(&connection, path, options)?;
    keep_room(&connection, path, options);
    Ok(connection)
}

/// Free pages in the file and length in its WAL, so that small operations go on when the disk is full: a reserve beside the
/// file, once given up, is anybody's. It is made again after a checkpoint.
pub(crate) fn keep_room(connection: &Connection, path: &Path, options: &Options) {
    let bytes = options.reserve_bytes.min(ROOM_BYTES_MAX);
    let number = |pragma: &str| connection.query_row(&format!("PRAGMA {pragma}"), [], |r| r.get::<_, i64>(0));
    let free = || -> rusqlite::Result<i64> { Ok(number("freelist_count")? * number("page_size")?) };
    let wal_bytes = std::fs::metadata(format!("{}-wal", path.display())).map_or(0, |m| m.len());
    if wal_bytes >= bytes && free().is_ok_and(|free| free >= bytes as i64) {
        return;
    }
    // In two transactions: pages that come and go in one are not written.
    let take = format!("CREATE TABLE room (bytes); INSERT INTO room VALUES (zeroblob({bytes}))");
    let both = [take.as_str(), "DROP TABLE room"].map(|sql| format!("BEGIN IMMEDIATE; {sql}; COMMIT"));
    for sql in both {
        if let Err(error) = connection.execute_batch(&sql) {
            drop(connection.execute_batch("ROLLBACK"));
            drop(connection.execute_batch("DROP TABLE IF EXISTS room"));
            tracing::warn!(path = %path.display(), %error, "no room is kept in it for a full disk");
            return;
        }
    }
    // Into the file itself; from then on the WAL begins anew in the length that it has.
    drop(connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())));
}

pub(crate) fn reader(path: &Path) -> Result<Connection> {
    let connection = open_with(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.pragma_update(None, "query_only", true).map_err(|e| classify(path, e))?;
    Ok(connection)
}

fn open_with(path: &Path, mode: OpenFlags) -> Result<Connection> {
    let flags = mode | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(|e| classify(path, e))?;
    connection.busy_timeout(BUSY_WAIT).map_err(|e| classify(path, e))?;
    connection.set_prepared_statement_cache_capacity(64);
    // Without it SQLite, built with STAT4, plans a statement anew whenever a value is bound that might have led to another plan.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map_err(|e| classify(path, e))?;
    Ok(connection)
}

/// Refuses what must not be written to, through a connection that cannot write.
fn inspect(path: &Path, size: u64, options: &Options) -> Result<()> {
    // Without a sync after each commit a power cut may take one and leave a later one.
    let damage = match options.sync {
        Sync::Full => wal::damage(path).map_err(|source| Error::Read { path: wal::path_of(path), source })?,
        Sync::Normal => None,
    };
    if let Some(damage) = damage {
        let detail = format!("commits follow behind byte {} that cannot be read", damage.at_byte);
        return Err(Error::Corrupt { path: wal::path_of(path), detail });
    }
    let connection = open_with(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let found = version(&connection).map_err(|e| classify(path, e))?;
    let known = options.migrations.len() as i64;
    if found > known {
        return Err(Error::Newer { path: path.into(), found, known });
    }
    if size <= CHECK_BYTES_MAX {
        let verdict: String =
            connection.query_row("PRAGMA quick_check(1)", [], |r| r.get(0)).map_err(|e| classify(path, e))?;
        if verdict != "ok" {
            return Err(Error::Corrupt { path: path.into(), detail: verdict });
        }
    }
    Ok(())
}

fn configure(connection: &Connection, options: &Options) -> rusqlite::Result<()> {
    // Left to itself SQLite checkpoints inside a commit, which would make an operation wait for it.
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "journal_size_limit", options.wal_bytes_max as i64)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    let sync = match options.sync {
        Sync::Full => "FULL",
        Sync::Normal => "NORMAL",
    };
    connection.pragma_update(None, "synchronous", sync)
}

fn migrate(connection: &Connection, path: &Path, options: &Options) -> Result<()> {
    let mut current = version(connection).map_err(|e| classify(path, e))?;
    for (sql, number) in options.migrations.iter().zip(1i64..) {
        if number <= current {
            continue;
        }
        let step = format!("BEGIN IMMEDIATE; {sql}; PRAGMA user_version = {number}; COMMIT");
        connection.execute_batch(&step).map_err(|source| {
            if !connection.is_autocommit() {
                drop(connection.execute_batch("ROLLBACK"));
            }
            match crate::error::verdict(&source) {
                crate::error::Verdict::Full => Error::Full { path: path.into() },
                _ => Error::Migrate { path: path.into(), version: number, source },
            }
        })?;
        current = number;
    }
    Ok(())
}

fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |r| r.get(0))
}

fn classify(path: &Path, source: rusqlite::Error) -> Error {
    match is_corrupt(&source) {
        true => Error::Corrupt { path: path.into(), detail: source.to_string() },
        false => match crate::error::verdict(&source) {
            crate::error::Verdict::Full => Error::Full { path: path.into() },
            _ => Error::Open { path: path.into(), source },
        },
    }
}
