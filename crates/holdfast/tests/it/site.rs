//! A directory with a holdfast file of its own, and everything that a test needs to drive and to check it from outside.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Long enough for a loaded two-core machine; a test that waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);

pub(crate) struct Site {
    dir: tempfile::TempDir,
    /// Of a machine of a cluster: its name, and the file that all share.
    member: Option<(String, PathBuf)>,
    /// Words before the binary: `ip netns exec NAME`.
    through: Vec<String>,
}

impl Site {
    /// `{origin}` and `{dir}` in the text become the test service and the site's directory.
    pub(crate) fn new(text: &str) -> Self {
        Site::through(&[], text)
    }

    /// Every command of the site is run by another one.
    pub(crate) fn through(words: &[&str], text: &str) -> Self {
        let through = words.iter().map(|w| (*w).to_owned()).collect();
        let site = Site { dir: tempfile::tempdir().expect("a temporary directory"), member: None, through };
        site.write(text);
        site
    }

    pub(crate) fn write(&self, text: &str) {
        let text =
            text.replace("{origin}", &origin().to_string_lossy()).replace("{dir}", &self.path().to_string_lossy());
        std::fs::write(self.path().join("holdfast.toml"), text).expect("the site's directory is writable");
    }

    /// One machine of a cluster, with a data directory of its own.
    pub(crate) fn member(name: &str, file: &Path) -> Self {
        Site::member_through(&[], name, file)
    }

    pub(crate) fn member_through(words: &[&str], name: &str, file: &Path) -> Self {
        let through = words.iter().map(|w| (*w).to_owned()).collect();
        let dir = tempfile::tempdir().expect("a temporary directory");
        Site { dir, member: Some((name.to_owned(), file.to_owned())), through }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path().join(".holdfast")
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let binary = env!("CARGO_BIN_EXE_holdfast").to_owned();
        let words: Vec<String> = self.through.iter().cloned().chain([binary]).collect();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        if let Some((name, file)) = &self.member {
            command.args(["--node", name]).arg("--file").arg(file).arg("--data-dir").arg(self.data());
        }
        command.args(args).current_dir(self.path()).env("NO_COLOR", "1").stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args).output().expect("the binary runs"))
    }

    /// Runs a command that must succeed.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let ran = self.run(args);
        assert_eq!(ran.code, 0, "holdfast {args:?}\n{}{}\n{}", ran.stdout, ran.stderr, self.agent_log());
        ran.stdout
    }

    pub(crate) fn up(&self) {
        self.ok(&["up", "-d"]);
    }

    pub(crate) fn status(&self) -> Value {
        let ran = self.run(&["status", "--json"]);
        serde_json::from_str(&ran.stdout).unwrap_or(Value::Null)
    }

    pub(crate) fn instance(&self, id: &str) -> Value {
        instances(&self.status()).into_iter().find(|i| i["id"] == id).unwrap_or(Value::Null)
    }

    pub(crate) fn pid(&self, id: &str) -> u32 {
        self.instance(id)["pid"].as_u64().unwrap_or_else(|| panic!("{id} has no pid: {}", self.status())) as u32
    }

    pub(crate) fn wait_ready(&self, id: &str) {
        self.wait_for(&format!("{id} ready"), || self.instance(id)["state"] == "ready");
    }

    /// Waits for a condition; says what it waited for, the status and the agent's log when it never comes.
    pub(crate) fn wait_for(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition() {
            assert!(
                Instant::now() < deadline,
                "waited {PATIENCE:?} for {what}\n{:#}\n{}",
                self.status(),
                self.agent_log()
            );
            std::thread::sleep(LOOK_EVERY);
        }
    }

    pub(crate) fn agent_log(&self) -> String {
        std::fs::read_to_string(self.data().join("run/_agent-1/log/current")).unwrap_or_default()
    }

    pub(crate) fn plane_log(&self) -> String {
        let log = |n| std::fs::read_to_string(self.data().join(format!("run/_balancer-{n}/log/current")));
        (1..=2).map(|n| log(n).unwrap_or_default()).collect()
    }

    /// Processes that were started for this data directory and still live, seen in `/proc`, not through holdfast.
    pub(crate) fn living(&self) -> Vec<(u32, String)> {
        let mark = self.path().to_string_lossy().into_owned();
        processes().into_iter().filter(|(_, text)| text.contains(&mark)).collect()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.run(&["down", "--timeout", "20s"]);
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            let left = self.living();
            if left.is_empty() {
                return;
            }
            for (pid, _) in left {
                kill(pid, "KILL");
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

pub(crate) fn instances(status: &Value) -> Vec<Value> {
    let services = status["services"].as_object().cloned().unwrap_or_default();
    services.values().flat_map(|s| s["instances"].as_array().cloned().unwrap_or_default()).collect()
}

/// Built by cargo beside the binary, as every example is.
pub(crate) fn origin() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_holdfast")).parent().expect("target/PROFILE").join("examples/origin")
}

/// A port that nothing listens on now. Outside the ephemeral range, so that no connection takes it meanwhile.
pub(crate) fn free_port() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = 10_000 + (std::process::id() % 9_000) as u16;
    loop {
        let port = 10_000 + (start - 10_000 + NEXT.fetch_add(1, Ordering::Relaxed)) % 9_900;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Between two looks of a loop with a deadline of its own.
pub(crate) fn wait_a_moment() {
    std::thread::sleep(Duration::from_millis(2));
}

/// The shell's own `kill`: a bare machine has no other.
pub(crate) fn kill(pid: u32, signal: &str) {
    let line = format!("kill -s {signal} {pid}");
    let _ = Command::new("/bin/sh").args(["-c", &line]).stderr(Stdio::null()).status();
}

pub(crate) fn alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with('Z')))
}

/// Pid and "command line, environment" of every process that can be looked into.
fn processes() -> Vec<(u32, String)> {
    let own = std::process::id();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let read = |name: &str| std::fs::read(entry.path().join(name)).unwrap_or_default();
        let mut text = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
        text.push_str(&String::from_utf8_lossy(&read("environ")).replace('\0', " "));
        if pid != own && alive(pid) {
            found.push((pid, text));
        }
    }
    found
}

/// One GET on a connection of its own: status and body.
pub(crate) fn get(port: u16, path: &str) -> std::io::Result<(u16, String)> {
    get_within(port, path, Duration::from_secs(30))
}

pub(crate) fn get_within(port: u16, path: &str, limit: Duration) -> std::io::Result<(u16, String)> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(limit))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let status = text.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    Ok((status, body))
}

impl Site {
    pub(crate) fn pid_of_agent(&self) -> u32 {
        let mut found = self.named("agent");
        found.pop().unwrap_or(0)
    }

    /// Balancer processes, lowest pid first.
    pub(crate) fn planes(&self) -> Vec<u32> {
        self.named("balancer")
    }

    /// Port a balancer of the file listens on.
    pub(crate) fn listen(&self, balancer: &str) -> u16 {
        let status = self.status();
        let listen = status["balancers"][balancer]["listen"].as_str().unwrap_or_default().to_owned();
        listen.rsplit(':').next().and_then(|p| p.parse().ok()).expect("a listen address")
    }

    /// Processes of the binary itself that run this subcommand for this directory.
    fn named(&self, subcommand: &str) -> Vec<u32> {
        let data = self.data().to_string_lossy().into_owned();
        let mut pids: Vec<u32> = self
            .living()
            .into_iter()
            .filter(|(pid, _)| {
                let cmdline = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let args: Vec<String> =
                    cmdline.split(|b| *b == 0).map(|a| String::from_utf8_lossy(a).into_owned()).collect();
                args.iter().any(|a| a == subcommand) && args.iter().any(|a| a.starts_with(&data))
            })
            .map(|(pid, _)| pid)
            .collect();
        pids.sort_unstable();
        pids
    }
}

impl Site {
    /// An answer of the agent's API, without a process of the binary for each look.
    pub(crate) fn api(&self, path: &str) -> Value {
        use std::io::{Read, Write};
        let ask = || -> std::io::Result<String> {
            let mut stream = std::os::unix::net::UnixStream::connect(self.data().join("agent.sock"))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        let text = ask().unwrap_or_default();
        let body = text.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
        serde_json::from_str(body).unwrap_or(Value::Null)
    }

    /// As the API tells it; `Null` while no agent answers.
    pub(crate) fn seen(&self, id: &str) -> Value {
        instances(&self.api("/v1/status")).into_iter().find(|i| i["id"] == id).unwrap_or(Value::Null)
    }

    pub(crate) fn port_of(&self, id: &str) -> u16 {
        let endpoint = self.seen(id)["endpoint"].as_str().unwrap_or_default().to_owned();
        endpoint.rsplit(':').next().and_then(|p| p.parse().ok()).unwrap_or_else(|| panic!("{id} has no endpoint"))
    }

    /// Every instance of the service is ready, and there are this many.
    pub(crate) fn all_ready(&self, service: &str, count: usize) -> bool {
        let status = self.api("/v1/status");
        let all = status["services"][service]["instances"].as_array().cloned().unwrap_or_default();
        all.len() == count && all.iter().all(|i| i["state"] == "ready")
    }

    /// Kills the child of an instance and waits until another one is ready.
    pub(crate) fn kill_and_wait(&self, id: &str) {
        let pid = self.seen(id)["pid"].as_u64().unwrap_or_else(|| panic!("{id} has no pid"));
        kill(pid as u32, "KILL");
        self.wait_for(&format!("{id} ready again"), || {
            let now = self.seen(id);
            now["state"] == "ready" && now["pid"].as_u64() != Some(pid)
        });
    }

    /// What runs as this instance, seen in `/proc`.
    pub(crate) fn child_of(&self, id: &str) -> Option<u32> {
        let mark = format!("HOLDFAST_INSTANCE={id} ");
        self.living().into_iter().find(|(_, text)| text.contains(&mark)).map(|(pid, _)| pid)
    }
}
