//! Two job queues on PostgreSQL: pg-boss and graphile-worker, each by a script on Node that does what the Rust clients do.

use std::fs;
use std::io::Write;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::case::{BATCH, BODY_BYTES, Case, Count, Work};
use super::server::{Folder, Server};
use super::{Place, Program};
use crate::bench::machine::Cores;
use crate::{install, process, steps};

/// Debian has a directory for each version.
const VERSIONS: &str = "/usr/lib/postgresql";

/// Made by Debian's package; PostgreSQL refuses to run as root.
const USER: &str = "postgres";

/// Only names the socket.
const PORT: u16 = 5432;

/// As one would run it for a queue on a machine like this: durable as by default, no checkpoint within a measurement.
const SETTINGS: [&str; 7] = [
    "listen_addresses=",
    "fsync=on",
    "synchronous_commit=on",
    "full_page_writes=on",
    "shared_buffers=512MB",
    "max_wal_size=8GB",
    "max_connections=1000",
];

/// On one CPU, in short trials: better than 32, whose processes wait for each other, and than 4, which share fewer syncs.
const CONNECTIONS_PER_CPU: usize = 8;

const INITDB_LIMIT: Duration = Duration::from_secs(60);

/// Schema and first connections.
const OPEN_LIMIT: Duration = Duration::from_secs(60);

/// Beyond the length of a measurement: what was begun is brought to its end.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

const LOOK_EVERY: Duration = Duration::from_millis(50);

pub(super) struct Postgres {
    client: Client,
    _server: Server,
    folder: Folder,
}

impl Postgres {
    /// `script` is a peer's file; with `batched` it sends, fetches and completes ten at a time where its interface has that.
    pub(super) fn start(place: &Place<'_>, script: &str, batched: bool) -> Result<Postgres> {
        let folder = Folder::create(place.base, "postgres")?;
        let dir = folder.path();
        let bin = binaries()?;
        let owner = install::is_root().then(|| ids(USER)).transpose()?;
        if let Some((user, group)) = owner {
            chown(dir, Some(user), Some(group)).with_context(|| format!("cannot give {} to {USER}", dir.display()))?;
        }
        let program = |name: &str| {
            let mut command = Cores::command(&place.cores.proxies, &bin.join(name));
            command.current_dir(dir);
            if let Some((user, group)) = owner {
                command.uid(user).gid(group);
            }
            command
        };
        let mut command = program("initdb");
        command.args(["-D", "data", "-U", "bench", "-A", "trust", "-E", "UTF8", "--no-locale"]).stdout(Stdio::null());
        process::run(command, INITDB_LIMIT, place.stop)?;
        let mut command = program("postgres");
        command.arg("-D").arg(dir.join("data")).arg("-k").arg(dir).args(["-p", &PORT.to_string()]);
        command.args(SETTINGS.iter().flat_map(|setting| ["-c", setting]));
        let mut server = Server::start(command, dir, "INT")?;
        server.wait_for(place.stop, || accepts(&bin, dir))?;
        let client = Client::start(place, dir, script, batched)?;
        Ok(Postgres { client, _server: server, folder })
    }
}

impl Program for Postgres {
    fn drive(&mut self, case: Case, length: Duration, stop: &AtomicBool) -> Result<Count> {
        let work = match case.work {
            Work::Sends => "sends",
            Work::Life => "life",
        };
        let ask = json!({"work": work, "in_flight": case.in_flight, "seconds": length.as_secs_f64()});
        let answer = self.client.ask(&ask, length + ANSWER_LIMIT, stop)?;
        let messages = answer["messages"].as_u64().with_context(|| format!("no count in {answer}"))?;
        let seconds = answer["seconds"].as_f64().with_context(|| format!("no time in {answer}"))?;
        Ok(Count { messages, took: Duration::from_secs_f64(seconds) })
    }

    fn dir(&self) -> &Path {
        self.folder.path()
    }

    fn client(&self) -> u32 {
        self.client.child.id()
    }
}

fn accepts(bin: &Path, dir: &Path) -> bool {
    let mut ask = Command::new(bin.join("pg_isready"));
    ask.arg("-h").arg(dir).args(["-p", &PORT.to_string(), "-q"]);
    ask.status().is_ok_and(|status| status.success())
}

/// The newest version that is installed.
pub(super) fn binaries() -> Result<PathBuf> {
    let entries = fs::read_dir(VERSIONS).with_context(|| format!("cannot list {VERSIONS}"))?;
    let version = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
    let installed = entries.flatten().map(|entry| entry.path()).filter(|path| path.join("bin/postgres").is_file());
    let newest = installed.max_by_key(version).with_context(|| format!("no server in {VERSIONS}"))?;
    Ok(newest.join("bin"))
}

/// User and group.
fn ids(name: &str) -> Result<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    let found = users.lines().find_map(|line| parse_ids(line, name));
    found.with_context(|| format!("there is no user {name}"))
}

/// `postgres:x:103:109:…`
fn parse_ids(line: &str, name: &str) -> Option<(u32, u32)> {
    let mut fields = line.split(':');
    let user = (fields.next()? == name).then(|| fields.nth(1))??.parse().ok()?;
    Some((user, fields.next()?.parse().ok()?))
}

/// A script on the CPUs of the load: a line of JSON in is a measurement, a line out its count.
struct Client {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    script: String,
}

impl Client {
    fn start(place: &Place<'_>, socket: &Path, script: &str, batched: bool) -> Result<Client> {
        let peers = place.peers;
        let mut command = Cores::command(&place.cores.load, &peers.node);
        command.arg(script).current_dir(&peers.dir).process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        command
            .env("PGHOST", socket)
            .env("PGPORT", PORT.to_string())
            .env("PGUSER", "bench")
            .env("PGDATABASE", "postgres");
        let connections = CONNECTIONS_PER_CPU * place.cores.proxy_count;
        command.env("CONNECTIONS", connections.to_string());
        command.env("BATCH", if batched { BATCH } else { 1 }.to_string()).env("BODY_BYTES", BODY_BYTES.to_string());
        let mut child = command.spawn().with_context(|| format!("cannot start {script}"))?;
        let input = child.stdin.take().context("no stdin")?;
        let lines = steps::read_lines(child.stdout.take().context("no stdout")?);
        let mut client = Client { child, input, lines, script: script.to_owned() };
        client.wait_for_answer(OPEN_LIMIT, place.stop)?;
        Ok(client)
    }

    fn ask(&mut self, ask: &Value, limit: Duration, stop: &AtomicBool) -> Result<Value> {
        writeln!(self.input, "{ask}").with_context(|| format!("{} does not listen", self.script))?;
        self.wait_for_answer(limit, stop)
    }

    fn wait_for_answer(&mut self, limit: Duration, stop: &AtomicBool) -> Result<Value> {
        let until = Instant::now() + limit;
        loop {
            match self.lines.recv_timeout(LOOK_EVERY) {
                Ok(line) => {
                    return serde_json::from_str(&line).with_context(|| format!("{} says: {line}", self.script));
                }
                Err(RecvTimeoutError::Disconnected) => bail!("{} ended: {:?}", self.script, self.child.wait()),
                Err(RecvTimeoutError::Timeout) if stop.load(Ordering::Relaxed) => bail!("interrupted"),
                Err(RecvTimeoutError::Timeout) if Instant::now() > until => {
                    bail!("{} says nothing for {} s", self.script, limit.as_secs())
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_have_numbers() {
        assert_eq!(parse_ids("postgres:x:103:109:PostgreSQL,,,:/var/lib/postgresql:/bin/bash", USER), Some((103, 109)));
        assert_eq!(parse_ids("postgres2:x:1:2:::", USER), None);
        assert_eq!(ids("root").expect("every machine has it"), (0, 0));
    }
}
