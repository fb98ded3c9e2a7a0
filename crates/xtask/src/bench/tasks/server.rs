//! A server for the time of a few measurements: its directory, its processes, and their end whatever happens.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::cost;
use crate::steps;

/// Ports below those that holdfast assigns and below the ephemeral range.
const PORTS: std::ops::Range<u16> = 17_200..17_900;

/// RabbitMQ takes some seconds on one core.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// From the signal to SIGKILL: what it would still write is removed anyway.
const END_WITHIN: Duration = Duration::from_secs(10);

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A directory that ends with the value.
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn create(parent: &Path, name: &str) -> Result<Folder> {
        let dir = parent.join(name);
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        Ok(Folder(dir))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("warning: cannot remove {}: {error}", self.0.display());
        }
    }
}

/// A process in the foreground, in a group of its own: Ctrl-C comes to us, and we end it.
pub(super) struct Server {
    child: Child,
    shown: String,
    signal: &'static str,
    dir: PathBuf,
}

impl Server {
    /// `signal` ends it in order. Everything that works in `dir` or names it belongs to it.
    pub(super) fn start(mut command: Command, dir: &Path, signal: &'static str) -> Result<Server> {
        let shown = steps::typed(&command);
        let log = dir.join("output");
        let out = fs::File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        command.process_group(0).stdin(Stdio::null()).stderr(out.try_clone()?).stdout(out);
        let child = command.spawn().with_context(|| format!("cannot start `{shown}`"))?;
        Ok(Server { child, shown, signal, dir: dir.to_owned() })
    }

    /// Until `ready` says so.
    pub(super) fn wait_for(&mut self, stop: &AtomicBool, mut ready: impl FnMut() -> bool) -> Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        while !ready() {
            if let Some(status) = self.child.try_wait()? {
                bail!("`{}` ended with {status}: {}", self.shown, self.last_words());
            }
            if stop.load(Ordering::Relaxed) {
                bail!("interrupted");
            }
            if Instant::now() > deadline {
                bail!("`{}` is not ready after {} s: {}", self.shown, READY_WITHIN.as_secs(), self.last_words());
            }
            thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let text = fs::read_to_string(self.dir.join("output")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("; ")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        steps::signal(self.signal, &self.child.id().to_string());
        let deadline = Instant::now() + END_WITHIN;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(LOOK_EVERY);
        }
        let _ = self.child.kill();
        kill_all(&self.dir);
        let _ = self.child.wait();
    }
}

/// SIGKILL for everything that works in `dir` or names it, until nothing does.
pub(super) fn kill_all(dir: &Path) {
    let deadline = Instant::now() + END_WITHIN;
    loop {
        let left = cost::processes(dir);
        if left.is_empty() {
            return;
        }
        if Instant::now() > deadline {
            eprintln!("warning: these processes do not end: {left:?}");
            return;
        }
        for pid in left {
            steps::signal("KILL", &pid.to_string());
        }
        thread::sleep(LOOK_EVERY);
    }
}

pub(super) fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut found = PORTS.filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    let mut ports = [0; N];
    for port in &mut ports {
        *port = found.next().with_context(|| format!("no {N} free ports in {PORTS:?}"))?;
    }
    Ok(ports)
}

pub(super) fn listens(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> Folder {
        Folder::create(&std::env::temp_dir(), &format!("holdfast-xtask-{name}-{}", std::process::id()))
            .expect("temp dir")
    }

    #[test]
    fn a_server_ends_with_its_children_and_its_directory() {
        let folder = folder("server");
        let dir = folder.path().to_owned();
        let mut command = Command::new("/bin/sh");
        // Neither the shell nor its child ends by the signal.
        command.args(["-c", "trap '' HUP; sleep 60 & touch ready; wait; sleep 60"]).current_dir(&dir);
        let mut server = Server::start(command, &dir, "HUP").expect("sh");
        server.wait_for(&AtomicBool::new(false), || dir.join("ready").exists()).expect("ready");
        assert!(cost::processes(&dir).len() >= 2, "{:?}", cost::processes(&dir));
        kill_all(&dir);
        drop(server);
        assert_eq!(cost::processes(&dir), Vec::<u32>::new());
        drop(folder);
        assert!(!dir.exists());
    }

    #[test]
    fn one_that_ends_says_why() {
        let folder = folder("ended");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo no such database; exit 3"]).current_dir(folder.path());
        let mut server = Server::start(command, folder.path(), "TERM").expect("sh");
        let error = server.wait_for(&AtomicBool::new(false), || false).expect_err("it ends").to_string();
        assert!(error.contains("no such database") && error.contains('3'), "{error}");
    }

    #[test]
    fn ports_are_different() {
        let [a, b, c] = free_ports().expect("free ports");
        assert!(a != b && b != c && !listens(a));
    }
}
