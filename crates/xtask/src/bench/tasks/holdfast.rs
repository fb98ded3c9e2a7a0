//! holdfast as `holdfast up -d` runs it, with queues and nothing else: agent, shims and the process that keeps the queues.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::case::{Case, Count};
use super::server::{Folder, free_ports, kill_all};
use super::sqs::{self, Client};
use super::{Place, Program, cost};
use crate::bench::machine::Cores;
use crate::{process, steps};

const UP_LIMIT: Duration = Duration::from_secs(60);

/// Two seconds are promised; more than this is no restart.
const RESTART_LIMIT: Duration = Duration::from_secs(60);

const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The queue that the file declares; measurements make their own beside it.
const DECLARED: &str = "bench";

pub(super) struct Holdfast {
    binary: PathBuf,
    pub(super) port: u16,
    queues: u32,
    folder: Folder,
}

impl Holdfast {
    pub(super) fn start(place: &Place<'_>) -> Result<Holdfast> {
        let folder = Folder::create(place.base, "holdfast")?;
        let [port] = free_ports()?;
        let file = format!("[tasks]\nlisten = \"127.0.0.1:{port}\"\n\n[queue.{DECLARED}]\n");
        fs::write(folder.path().join("holdfast.toml"), file)?;
        let holdfast = Holdfast { binary: place.binary.clone(), port, queues: 0, folder };
        // Agent, shims and the queues' process inherit the CPUs of this command.
        let mut up = Cores::command(&place.cores.proxies, &holdfast.binary);
        up.args(["up", "-d"]).args(holdfast.arguments()).stdout(Stdio::null());
        process::run(up, UP_LIMIT, place.stop)?;
        holdfast.wait_for_queues(place.stop)?;
        Ok(holdfast)
    }

    /// `up` waits for services; the queues' process may still be opening its file.
    fn wait_for_queues(&self, stop: &AtomicBool) -> Result<()> {
        let until = Instant::now() + UP_LIMIT;
        while let Err(error) = Client::connect(self.port).and_then(|mut client| client.create(DECLARED)) {
            if stop.load(Ordering::Relaxed) || Instant::now() > until {
                return Err(error.context("holdfast keeps no queues"));
            }
            thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    fn arguments(&self) -> [String; 4] {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        ["-f".into(), path("holdfast.toml"), "--data-dir".into(), path("state")]
    }

    /// The URL of a queue that holds nothing.
    pub(super) fn new_queue(&mut self) -> Result<String> {
        self.queues += 1;
        Client::connect(self.port)?.create(&format!("{DECLARED}-{}", self.queues))
    }

    /// The process that keeps the queues, and nothing beside it.
    pub(super) fn plane(&self) -> Result<u32> {
        let is_plane = |pid: &u32| {
            let line = process::command_line(*pid);
            line.split(' ').any(|word| word == "tasks") && !line.contains("__shim")
        };
        let found = cost::processes(self.folder.path()).into_iter().find(is_plane);
        found.context("no process `holdfast tasks`")
    }

    /// From its end by SIGKILL to the first message from its successor.
    pub(super) fn restart(&self, url: &str) -> Result<Duration> {
        let killed = self.plane()?;
        let began = Instant::now();
        steps::signal("KILL", &killed.to_string());
        loop {
            let received = Client::connect(self.port).and_then(|mut client| client.receive(url, 1));
            if received.is_ok_and(|receipts| !receipts.is_empty()) {
                break;
            }
            if began.elapsed() > RESTART_LIMIT {
                bail!("no message {} s after the end of process {killed}", RESTART_LIMIT.as_secs());
            }
        }
        let took = began.elapsed();
        if self.plane()? == killed {
            bail!("process {killed} did not end");
        }
        Ok(took)
    }
}

impl Program for Holdfast {
    fn drive(&mut self, case: Case, length: Duration, stop: &AtomicBool) -> Result<Count> {
        let url = self.new_queue()?;
        sqs::drive(self.port, &url, case, length, stop)
    }

    fn dir(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Holdfast {
    fn drop(&mut self) {
        let mut down = Command::new(&self.binary);
        down.arg("down").args(self.arguments()).stdout(Stdio::null());
        if let Err(error) = process::run(down, UP_LIMIT, &AtomicBool::new(false)) {
            eprintln!("warning: {error:#}");
        }
        kill_all(self.folder.path());
    }
}
