//! Faults that only the writer itself can be made to meet.

use std::sync::Mutex;

use rusqlite::ffi;

use crate::{Error, Options, Store};

/// (store name, SQLite code) of the next commit that fails.
static FAULT: Mutex<Vec<(&str, i32)>> = Mutex::new(Vec::new());

pub(super) fn take_fault(store: &str) -> Option<i32> {
    let mut faults = FAULT.lock().unwrap();
    let at = faults.iter().position(|(name, _)| *name == store)?;
    Some(faults.remove(at).1)
}

const MIGRATIONS: &[&str] = &["CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)"];

fn insert(store: &Store, id: i64) -> crate::Result<()> {
    store.write_blocking(move |c| Ok(c.execute("INSERT INTO t VALUES (?1, 'x')", [id]).map(drop)?))
}

fn count(store: &Store) -> i64 {
    store.read_blocking(|c| Ok(c.query_row("SELECT count(*) FROM t", [], |r| r.get(0))?)).unwrap()
}

#[test]
fn a_failed_sync_ends_the_store_and_keeps_what_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("a.db"), Options::new("fsync-fails", MIGRATIONS)).unwrap();
    insert(&store, 1).unwrap();
    FAULT.lock().unwrap().push(("fsync-fails", ffi::SQLITE_IOERR_FSYNC));
    assert!(matches!(insert(&store, 2), Err(Error::Failed { .. })));
    let refused = insert(&store, 3).unwrap_err();
    assert_eq!(refused.code(), "HF0405");
    assert!(store.failure().is_some());
    assert_eq!(count(&store), 1, "reading goes on");
}

#[test]
fn a_full_disk_fails_operations_and_passes() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("a.db"), Options::new("gets-full", MIGRATIONS)).unwrap();
    insert(&store, 1).unwrap();
    // Once for the batch, once for the operation alone.
    FAULT.lock().unwrap().extend([("gets-full", ffi::SQLITE_FULL); 2]);
    assert!(insert(&store, 2).unwrap_err().is_full());
    insert(&store, 3).unwrap();
    assert_eq!((count(&store), store.failure()), (2, None));
}

#[test]
fn a_batch_undone_by_a_full_disk_is_run_again_one_by_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("a.db"), Options::new("full-once", MIGRATIONS)).unwrap();
    FAULT.lock().unwrap().push(("full-once", ffi::SQLITE_FULL));
    insert(&store, 1).unwrap();
    assert_eq!(count(&store), 1, "exactly once");
}

#[test]
fn a_disk_that_is_said_to_be_full_refuses_what_can_wait_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("a.db"), Options::new("pretended", MIGRATIONS)).unwrap();
    let submit = |id: i64| {
        let (told, answer) = std::sync::mpsc::channel();
        let op = move |c: &rusqlite::Connection| Ok(c.execute("INSERT INTO t VALUES (?1, 'x')", [id]).map(drop)?);
        store.submit_if_room(op, move |outcome| drop(told.send(outcome)))?;
        answer.recv().unwrap()
    };
    let soon = (holdfast_host::clock::now() + std::time::Duration::from_secs(60)).as_nanos();
    store.pretend_full(Some(soon));
    assert!(store.is_full());
    assert!(submit(1).unwrap_err().is_full());
    insert(&store, 2).unwrap();
    store.pretend_full(None);
    submit(3).unwrap();
    store.pretend_full(Some(holdfast_host::clock::now().as_nanos()));
    submit(4).unwrap();
    assert_eq!(count(&store), 3);
}
