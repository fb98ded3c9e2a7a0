//! The plane of tasks alone, as its shim would start it, with a layer under its files that can let the disk fail.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Instant;

use holdfast_tasks::definition::Definition;

use super::*;
use crate::site::PATIENCE;

mod media;

pub(super) use media::{Media, Record};

/// A file of the plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum On {
    Wal = 0,
    Main = 1,
}

/// Where the plane dies: before or after a write or a sync.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    pub(super) on: On,
    pub(super) is_sync: bool,
    pub(super) is_done: bool,
}

pub(super) struct Plane {
    pub(super) port: u16,
    dir: tempfile::TempDir,
    control: File,
    process: Option<Child>,
}

impl Plane {
    /// Not started yet.
    pub(super) fn new() -> Plane {
        Plane::of(tempfile::tempdir().expect("a temporary directory"))
    }

    /// Of a machine that lost its power: these are what its disk holds.
    pub(super) fn with_files(main: &[u8], wal: &[u8]) -> Plane {
        let plane = Plane::new();
        std::fs::write(plane.file(On::Main), main).expect("written");
        std::fs::write(plane.file(On::Wal), wal).expect("written");
        plane
    }

    fn of(dir: tempfile::TempDir) -> Plane {
        let port = free_port();
        let run = dir.path().join("run/_tasks-1");
        std::fs::create_dir_all(&run).expect("made");
        let listen = format!("127.0.0.1:{port}").parse().expect("an address");
        let definition = Definition {
            listen: Some(listen),
            region: "us-east-1".into(),
            account: "000000000000".into(),
            ..Definition::default()
        };
        definition.save(&run).expect("saved");
        let control = File::options().create(true).truncate(true).write(true).read(true).open(dir.path().join("layer"));
        let control = control.expect("made");
        control.set_len(4096).expect("it grows");
        Plane { port, dir, control, process: None }
    }

    pub(super) fn file(&self, on: On) -> PathBuf {
        self.dir.path().join(match on {
            On::Wal => "tasks.db-wal",
            On::Main => "tasks.db",
        })
    }

    pub(super) fn start(&mut self) {
        assert!(self.process.is_none(), "one at a time");
        let output = File::options().create(true).append(true).open(self.dir.path().join("output")).expect("a file");
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(env!("CARGO_BIN_EXE_holdfast"))
            .arg("--data-dir")
            .arg(self.dir.path())
            .arg("tasks")
            .current_dir(self.dir.path())
            .env("HOLDFAST_INSTANCE", "_tasks-1")
            .env("HOLDFAST_LAYER", self.dir.path().join("layer"))
            .env("LD_PRELOAD", layer())
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a descriptor"))
            .stderr(output)
            .spawn();
        self.process = Some(process.expect("setpriv runs"));
    }

    /// Until it answers, or says why it does not.
    pub(super) fn start_and_wait(&mut self) {
        self.start();
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(self.ended().is_none(), "the plane ended:\n{}", self.said());
            assert!(Instant::now() < deadline, "the plane does not answer:\n{}", self.said());
            wait_a_moment();
        }
    }

    /// How it ended, once it has.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        let ended = self.process.as_mut()?.try_wait().expect("it is a child")?;
        self.process = None;
        Some(ended)
    }

    pub(super) fn wait_for_its_end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(ended) = self.ended() {
                return ended;
            }
            assert!(Instant::now() < deadline, "the plane does not end:\n{}", self.said());
            wait_a_moment();
        }
    }

    pub(super) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    pub(super) fn ask_to_end(&self) {
        kill(self.process.as_ref().expect("it runs").id(), "TERM");
    }

    /// In good order.
    pub(super) fn stop(&mut self) {
        self.ask_to_end();
        let ended = self.wait_for_its_end();
        assert!(ended.success(), "{ended}: {}", self.said());
    }

    pub(super) fn said(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("output")).unwrap_or_default()
    }

    /// From now on every sync fails, or none.
    pub(super) fn let_syncs_fail(&self, fail: bool) {
        self.set(0, i64::from(fail));
    }

    /// It dies at the so many-th time that it comes to this point.
    pub(super) fn kill_at(&self, point: Point, times: i64) {
        self.set(2, point.on as i64 * 4 + i64::from(point.is_sync) * 2 + i64::from(point.is_done));
        self.set(1, times);
    }

    pub(super) fn disarm(&self) {
        self.set(1, 0);
    }

    pub(super) fn record(&self) {
        self.set(3, 1);
    }

    /// What was written and synced, in order, since [`Plane::record`].
    pub(super) fn recorded(&self) -> PathBuf {
        self.dir.path().join("layer.record")
    }

    /// When the first sync failed, in boot time; 0 before.
    pub(super) fn failed_at(&self) -> u64 {
        let mut bytes = [0; 8];
        self.control.read_exact_at(&mut bytes, 4 * 8).expect("readable");
        u64::from_ne_bytes(bytes)
    }

    fn set(&self, word: u64, value: i64) {
        self.control.write_all_at(&value.to_ne_bytes(), word * 8).expect("written");
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Built once in each test process, with the compiler that Rust links with.
fn layer() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        // Other test processes build the same one, so each puts its own in place in one step.
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let own = dir.join(format!("layer-{}", std::process::id()));
        let (source, built) = (own.with_extension("c"), dir.join("layer.so"));
        std::fs::write(&source, include_str!("plane/layer.c")).expect("the folder for tests is writable");
        let cc = Command::new("cc").args(["-shared", "-fPIC", "-O2", "-o"]).args([&own, &source]).output();
        let cc = cc.expect("cc runs");
        assert!(cc.status.success(), "{}", String::from_utf8_lossy(&cc.stderr));
        std::fs::rename(&own, &built).expect("the folder for tests is writable");
        let _ = std::fs::remove_file(&source);
        built
    })
}

/// Everything that is in the queue, by body. It must be quiet, with every message visible.
pub(super) fn drain(sqs: &mut Sqs, queue: &str) -> Vec<String> {
    let url = sqs.url(queue);
    let ask = json!({ "QueueUrl": url, "MaxNumberOfMessages": 10, "VisibilityTimeout": 600, "WaitTimeSeconds": 0 });
    let mut found = Vec::new();
    loop {
        let received = sqs.ok("ReceiveMessage", &ask);
        let messages = received["Messages"].as_array().cloned().unwrap_or_default();
        if messages.is_empty() {
            return found;
        }
        found.extend(messages.iter().filter_map(|m| m["Body"].as_str()).map(str::to_owned));
    }
}
