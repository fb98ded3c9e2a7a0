//! The store through its handle, and what it keeps when it is hurt.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use holdfast_store::rusqlite::{self, Connection};
use holdfast_store::{Error, Options, SQLITE_VERSION_MIN, Store};

const MIGRATIONS: &[&str] = &["CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)"];
const LONGER: &[&str] = &[MIGRATIONS[0], "ALTER TABLE t ADD COLUMN more TEXT DEFAULT 'new'"];
const BROKEN: &[&str] = &[LONGER[0], LONGER[1], "CREATE TABLE u(id); CREATE TABLE u(id)"];

fn options() -> Options {
    Options::new("test", MIGRATIONS)
}

fn open(path: &Path) -> Store {
    Store::open(path, options()).unwrap()
}

fn insert(id: i64) -> impl FnMut(&Connection) -> holdfast_store::Result<()> + Send + 'static {
    move |c| Ok(c.execute("INSERT INTO t(id, v) VALUES (?1, 'x')", [id]).map(drop)?)
}

fn ids(store: &Store) -> Vec<i64> {
    store
        .read_blocking(|c| {
            let mut statement = c.prepare("SELECT id FROM t ORDER BY id")?;
            Ok(statement.query_map([], |r| r.get(0))?.collect::<rusqlite::Result<_>>()?)
        })
        .unwrap()
}

fn prove(small: u32, large: u32) -> u32 {
    if std::env::var_os("HOLDFAST_PROVE").is_some() { large } else { small }
}

#[test]
fn the_bundled_sqlite_is_new_enough() {
    assert!(rusqlite::version_number() >= SQLITE_VERSION_MIN, "{}", rusqlite::version());
}

#[tokio::test]
async fn concurrent_writers_share_commits_and_read_what_they_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let commits = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counted = commits.clone();
    let on_commit = move || {
        counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    };
    let options = Options { on_commit: Some(std::sync::Arc::new(on_commit)), ..options() };
    let store = Store::open(dir.path().join("a.db"), options).unwrap();
    let writers: Vec<_> = (0..200i64)
        .map(|id| {
            let store = store.clone();
            tokio::spawn(async move {
                store.write(insert(id)).await.unwrap();
                let found = store.read(move |c| {
                    Ok(c.query_row("SELECT count(*) FROM t WHERE id = ?1", [id], |r| r.get::<_, i64>(0))?)
                });
                assert_eq!(found.await.unwrap(), 1);
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let commits = commits.load(std::sync::atomic::Ordering::SeqCst);
    assert!((1..200).contains(&commits), "{commits} commits for 200 operations");
}

#[derive(Debug, thiserror::Error)]
#[error("no")]
struct No;

/// What an operation does to its batch must not depend on what it is.
#[tokio::test]
async fn one_bad_operation_never_rolls_back_its_batch_mates() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("a.db"));
    store.write(insert(0)).await.unwrap();
    let (gate, opened) = std::sync::mpsc::channel::<()>();
    let opened = std::sync::Mutex::new(opened);
    // The writer stands in this operation until all others wait behind it: they become one batch.
    store.submit(move |_| Ok(opened.lock().unwrap().recv_timeout(Duration::from_secs(20)).is_ok()), drop).unwrap();
    let mut answers = Vec::new();
    for id in 1..=200i64 {
        let (reply, answer) = tokio::sync::oneshot::channel();
        let op = move |c: &Connection| {
            c.execute("INSERT INTO t(id, v) VALUES (?1, 'x')", [id])?;
            match id % 5 {
                1 => Ok(c.execute("INSERT INTO t(id, v) VALUES (0, 'again')", []).map(drop)?),
                2 => Ok(c.execute("INSERT INTO nowhere VALUES (0)", []).map(drop)?),
                3 => Err(Error::refused(No)),
                4 if id < 100 => panic!("operation {id} panics on purpose"),
                _ => Ok(()),
            }
        };
        store.submit(op, move |result| drop(reply.send(result))).unwrap();
        answers.push((id, answer));
    }
    gate.send(()).unwrap();
    let mut good = vec![0];
    for (id, answer) in answers {
        let result = answer.await.unwrap();
        match id % 5 {
            0 => result.unwrap(),
            4 if id >= 100 => result.unwrap(),
            4 => assert!(matches!(result, Err(Error::Panicked))),
            3 => assert!(matches!(result, Err(Error::Refused(_)))),
            _ => assert!(matches!(result, Err(Error::Sql(_)))),
        }
        if id % 5 == 0 || (id % 5 == 4 && id >= 100) {
            good.push(id);
        }
    }
    assert_eq!(ids(&store), good);
}

/// The writing child of the next test: acknowledges each row on its output.
#[test]
fn child_writes_until_killed() {
    let Some(path) = std::env::var_os("HOLDFAST_TEST_CHILD_DB") else { return };
    let store = open(Path::new(&path));
    let first = ids(&store).last().map_or(1, |last| last + 1);
    let writers: Vec<_> = (0..4i64)
        .map(|n| {
            let store = store.clone();
            std::thread::spawn(move || {
                for id in (first + n..).step_by(4) {
                    store.write_blocking(insert(id)).unwrap();
                    // One write call a line, so that a kill tears none.
                    std::io::stdout().lock().write_all(format!("ack {id}\n").as_bytes()).unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.join().unwrap();
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn kill_nine_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let mut acknowledged: Vec<i64> = Vec::new();
    for round in 0..prove(4, 20) {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_writes_until_killed", "--nocapture", "--test-threads=1"])
            .env("HOLDFAST_TEST_CHILD_DB", &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut child = Killed(child);
        let mut output = BufReader::new(child.0.stdout.take().unwrap()).lines();
        let enough = 40 + 37 * round as usize;
        let mut got = 0;
        let mut take = |line: String, list: &mut Vec<i64>| {
            if let Some(id) = line.rsplit_once("ack ").and_then(|(_, id)| id.trim().parse().ok()) {
                list.push(id);
                got += 1;
            }
            got
        };
        for line in output.by_ref() {
            if take(line.unwrap(), &mut acknowledged) >= enough {
                break;
            }
        }
        child.0.kill().unwrap();
        for line in output.map_while(Result::ok) {
            take(line, &mut acknowledged);
        }
        child.0.wait().unwrap();
        let there = ids(&open(&path));
        let lost: Vec<&i64> = acknowledged.iter().filter(|id| there.binary_search(id).is_err()).collect();
        assert!(lost.is_empty(), "round {round}: acknowledged and gone: {lost:?}");
    }
    assert!(acknowledged.len() > 100);
}

#[test]
fn a_newer_file_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let store = Store::open(&path, Options::new("test", LONGER)).unwrap();
    store.write_blocking(insert(1)).unwrap();
    store.close();
    let before = std::fs::read(&path).unwrap();
    let refused = Store::open(&path, options()).err().unwrap();
    assert!(matches!(refused, Error::Newer { found: 2, known: 1, .. }), "{refused}");
    assert_eq!(refused.code(), "HF0402");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn migrations_are_additive_and_run_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let store = open(&path);
    store.write_blocking(insert(1)).unwrap();
    store.close();
    for _ in 0..2 {
        let store = Store::open(&path, Options::new("test", LONGER)).unwrap();
        let more: String = store.read_blocking(|c| Ok(c.query_row("SELECT more FROM t", [], |r| r.get(0))?)).unwrap();
        assert_eq!(more, "new");
        store.close();
    }
    let failed = Store::open(&path, Options::new("test", BROKEN)).err().unwrap();
    assert!(matches!(failed, Error::Migrate { version: 3, .. }), "{failed}");
    assert_eq!(ids(&Store::open(&path, Options::new("test", LONGER)).unwrap()), [1], "nothing of it stayed");
}

#[test]
fn a_damaged_file_is_named_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let store = open(&path);
    for id in 0..500 {
        store
            .write_blocking(move |c| {
                Ok(c.execute("INSERT INTO t(id, v) VALUES (?1, zeroblob(200))", [id]).map(drop)?)
            })
            .unwrap();
    }
    store.close();
    let sound = std::fs::read(&path).unwrap();
    let mut torn = sound.clone();
    torn[8192..16_384].fill(0x5a);
    for (what, bytes) in [("not a database", vec![b'x'; 5000]), ("torn pages", torn)] {
        std::fs::write(&path, &bytes).unwrap();
        let refused = Store::open(&path, options()).err().unwrap();
        assert_eq!(refused.code(), "HF0403", "{what}: {refused}");
        assert!(refused.hint().unwrap().contains("left as it is"));
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "{what}");
    }
    std::fs::write(&path, &sound).unwrap();
    assert_eq!(ids(&open(&path)).len(), 500);
}

#[test]
fn a_full_queue_refuses_and_a_closed_store_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("a.db"), Options { queue_max: 3, ..options() }).unwrap();
    let (gate, opened) = std::sync::mpsc::channel::<()>();
    let opened = std::sync::Mutex::new(opened);
    let (entered, inside) = std::sync::mpsc::channel();
    let wait = move |_: &Connection| {
        let _ = entered.send(());
        Ok(opened.lock().unwrap().recv_timeout(Duration::from_secs(20)).is_ok())
    };
    store.submit(wait, drop).unwrap();
    inside.recv_timeout(Duration::from_secs(20)).unwrap();
    for id in 0..3 {
        store.submit(insert(id), drop).unwrap();
    }
    assert!(matches!(store.submit(insert(9), drop), Err(Error::QueueFull { limit: 3 })));
    gate.send(()).unwrap();
    store.close();
    assert!(matches!(store.write_blocking(insert(5)), Err(Error::Closed)));
    assert!(matches!(store.read_blocking(|_| Ok(())), Err(Error::Closed)));
    assert_eq!(ids(&open(&dir.path().join("a.db"))), [0, 1, 2], "what was queued was written");
}

#[test]
fn the_wal_is_cut_back_and_an_old_read_does_not_stop_that() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let limits = Options { wal_bytes_max: 1 << 20, reader_age_max: Duration::from_millis(50), ..options() };
    let store = Store::open(&path, limits).unwrap();
    store.write_blocking(insert(0)).unwrap();
    let reader = store.clone();
    let (begun, began) = std::sync::mpsc::channel();
    let old = std::thread::spawn(move || {
        reader.read_blocking(|c| {
            c.query_row("SELECT count(*) FROM t", [], |r| r.get::<_, i64>(0))?;
            begun.send(()).unwrap();
            let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
            Ok(c.query_row(endless, [], |r| r.get::<_, i64>(0))?)
        })
    });
    began.recv_timeout(Duration::from_secs(20)).unwrap();
    let wal = PathBuf::from(format!("{}-wal", path.display()));
    let size = || std::fs::metadata(&wal).map_or(0, |m| m.len());
    let deadline = Instant::now() + Duration::from_secs(30);
    let (mut id, mut grew) = (1i64, false);
    while !old.is_finished() || !grew || size() > 2 << 20 {
        assert!(Instant::now() < deadline, "WAL at {} bytes, reader done: {}", size(), old.is_finished());
        let op =
            move |c: &Connection| Ok(c.execute("INSERT INTO t(id, v) VALUES (?1, zeroblob(50000))", [id]).map(drop)?);
        store.write_blocking(op).unwrap();
        grew |= size() > 1 << 20;
        id += 1;
    }
    assert!(matches!(old.join().unwrap(), Err(Error::ReadTooLong { limit_ms: 50 })));
    assert_eq!(ids(&store).len(), id as usize);
}

/// A file system of `bytes` that is gone when the test is.
struct Small(PathBuf, #[expect(dead_code)] tempfile::TempDir);

impl Small {
    fn mount(bytes: u64) -> Option<Small> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_path_buf();
        let size = format!("size={bytes}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&path).stderr(Stdio::null()).status();
        mounted.is_ok_and(|s| s.success()).then_some(Small(path, dir))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

/// A store with one row and a reserve; `None`, with the reason printed, where no file system may be mounted.
fn on_small_disk() -> Option<(Small, Store)> {
    let Some(disk) = Small::mount(6 << 20) else {
        eprintln!("skipped: cannot mount a small tmpfs here (needs root)");
        return None;
    };
    let limits = Options { reserve_bytes: 512 << 10, ..options() };
    let store = Store::open(disk.0.join("a.db"), limits).unwrap();
    store.write_blocking(insert(0)).unwrap();
    Some((disk, store))
}

#[test]
fn a_full_disk_fails_operations_loses_nothing_and_passes() {
    let Some((disk, store)) = on_small_disk() else { return };
    assert!(disk.0.join("a.db.reserve").exists());
    let hog = disk.0.join("hog");
    fill(&hog);
    let big = |id: i64| {
        move |c: &Connection| Ok(c.execute("INSERT INTO t(id, v) VALUES (?1, zeroblob(3000000))", [id]).map(drop)?)
    };
    let full = store.write_blocking(big(1)).unwrap_err();
    assert!(full.is_full(), "{full}");
    assert!(!disk.0.join("a.db.reserve").exists(), "given up");
    for id in 10..20 {
        store.write_blocking(insert(id)).unwrap_or_else(|e| panic!("small operations still work: {id}: {e}"));
    }
    // Until even the reserve is used up; every answer is honest.
    let mut last = 20;
    while last < 5000 {
        let id = last;
        let op =
            move |c: &Connection| Ok(c.execute("INSERT INTO t(id, v) VALUES (?1, zeroblob(8000))", [id]).map(drop)?);
        match store.write_blocking(op) {
            Ok(()) => last += 1,
            Err(e) => {
                assert!(e.is_full(), "{e}");
                break;
            }
        }
    }
    assert!(last < 5000);
    assert_eq!(store.failure(), None, "full is not fatal");
    std::fs::remove_file(&hog).unwrap();
    store.write_blocking(insert(9000)).expect("resumes by itself");
    let deadline = Instant::now() + Duration::from_secs(20);
    wait_reserve(&store, &disk.0.join("a.db.reserve"), deadline);
    store.close();
    let there = ids(&open(&disk.0.join("a.db")));
    let want: Vec<i64> = std::iter::once(0).chain(10..last).chain([9000]).collect();
    assert!(want.iter().all(|id| there.binary_search(id).is_ok()) && !there.contains(&1) && !there.contains(&last));
}

/// Somebody else takes the reserve as soon as it is given up.
#[test]
fn small_operations_go_on_without_any_space() {
    let Some((disk, store)) = on_small_disk() else { return };
    fill(&disk.0.join("hog"));
    let big = |c: &Connection| Ok(c.execute("INSERT INTO t(id, v) VALUES (1, zeroblob(3000000))", []).map(drop)?);
    assert!(store.write_blocking(big).unwrap_err().is_full());
    fill(&disk.0.join("another"));
    for round in 0..2000 {
        let update = |c: &Connection| Ok(c.execute("UPDATE t SET v = randomblob(200) WHERE id = 0", []).map(drop)?);
        store.write_blocking(update).unwrap_or_else(|e| panic!("round {round}: {e}"));
    }
    assert_eq!(store.failure(), None);
}

/// Takes all the space there is.
fn fill(path: &Path) {
    let mut file = std::fs::File::create(path).unwrap();
    for size in [65_536, 4096, 1] {
        while file.write_all(&vec![1u8; size]).is_ok() {}
    }
}

fn wait_reserve(store: &Store, path: &Path, deadline: Instant) {
    let mut id = 10_000;
    while !path.exists() {
        assert!(Instant::now() < deadline, "the reserve comes back");
        store.write_blocking(insert(id)).unwrap();
        id += 1;
        std::thread::sleep(Duration::from_millis(50));
    }
}
