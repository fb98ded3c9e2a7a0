//! The three backends, and HAProxy and nginx in front of them, each with its best settings for small
//! keep-alive requests: access log on, health checks on where the program has them.

use std::fs::{self, File};
use std::io;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::machine::Cores;
use crate::{install, steps};

/// The body of each answer: small, so that the proxy is measured and not the copying.
const BODY: &str =
    "The quick brown fox jumps over the lazy dog; 128 bytes of an answer are enough to measure what a proxy does.\\n";

/// How long a started program may take to listen.
const LISTEN_WITHIN: Duration = Duration::from_secs(10);

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A program that ends when this value does.
pub(crate) struct Running {
    child: Child,
}

impl Running {
    fn start(mut command: Command, port: u16) -> Result<Running> {
        let shown = steps::typed(&command);
        let child = command.stdin(Stdio::null()).spawn().with_context(|| format!("cannot start `{shown}`"))?;
        let mut running = Running { child };
        let deadline = Instant::now() + LISTEN_WITHIN;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if let Some(status) = running.child.try_wait()? {
                bail!("`{shown}` ended with {status}");
            }
            if Instant::now() > deadline {
                bail!("`{shown}` does not listen on port {port}");
            }
            thread::sleep(LOOK_EVERY);
        }
        Ok(running)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        steps::signal("TERM", &self.child.id().to_string());
        let deadline = Instant::now() + LISTEN_WITHIN;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.child.kill();
            }
            thread::sleep(LOOK_EVERY);
        }
    }
}

/// A configuration for nginx as a backend; `port` may be holdfast's placeholder.
pub(crate) fn backend_conf(run: &str, port: &str) -> String {
    format!(
        "{}\nhttp {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 1h; {}\n\
         server {{ listen 127.0.0.1:{port}; location / {{ default_type text/plain; return 200 \"{BODY}\"; }} }} }}\n",
        nginx_main(run, 1),
        temp_paths(run),
    )
}

pub(crate) fn haproxy(dir: &Path, cores: &Cores, listen: u16, backends: &[u16]) -> Result<Running> {
    let servers: String = backends
        .iter()
        .map(|port| format!("    server b{port} 127.0.0.1:{port} check inter 1s fall 3 rise 2\n"))
        .collect();
    let conf = format!(
        "global\n    nbthread {}\n    maxconn 4096\n    log stdout format raw local0\n\
         defaults\n    mode http\n    log global\n    option httplog\n    option httpchk GET /\n    option redispatch 1\n    retries 3\n    http-reuse always\n\
         \x20   timeout connect 1s\n    timeout client 1m\n    timeout server 1m\n    timeout http-keep-alive 1m\n\
         frontend f\n    bind 127.0.0.1:{listen}\n    default_backend b\nbackend b\n    balance random(2)\n{servers}",
        cores.proxy_count
    );
    let file = dir.join("haproxy.cfg");
    fs::write(&file, conf).with_context(|| format!("cannot write {}", file.display()))?;
    let log = create(&dir.join("haproxy.log"))?;
    let mut command = Cores::command(&cores.proxies, &install::path("haproxy")?);
    command.arg("-db").arg("-f").arg(&file).stdout(log);
    Running::start(command, listen)
}

pub(crate) fn nginx(dir: &Path, cores: &Cores, listen: u16, backends: &[u16]) -> Result<Running> {
    let run = dir.join("nginx");
    fs::create_dir_all(&run)?;
    let run = run.display().to_string();
    let servers: String = backends.iter().map(|port| format!("server 127.0.0.1:{port}; ")).collect();
    let conf = format!(
        "{}\nhttp {{ access_log {run}/access.log combined; keepalive_requests 1000000000; {}\n\
         upstream b {{ least_conn; {servers} keepalive 64; keepalive_requests 1000000000; }}\n\
         server {{ listen 127.0.0.1:{listen}; location / {{ proxy_pass http://b; proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }} }}\n",
        nginx_main(&run, cores.proxy_count),
        temp_paths(&run),
    );
    let file = dir.join("nginx.conf");
    fs::write(&file, conf).with_context(|| format!("cannot write {}", file.display()))?;
    let mut command = Cores::command(&cores.proxies, &install::path("nginx")?);
    command.args(["-p", &run, "-e", "stderr", "-c"]).arg(&file).stderr(create(&dir.join("nginx.err"))?);
    Running::start(command, listen)
}

fn nginx_main(run: &str, workers: usize) -> String {
    let user = if install::is_root() { "user root;" } else { "" };
    format!(
        "{user} daemon off; worker_processes {workers}; pid {run}/nginx.pid; error_log stderr error; events {{ worker_connections 4096; }}"
    )
}

fn temp_paths(run: &str) -> String {
    ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|name| format!("{name}_temp_path {run}/{name}; ")).concat()
}

fn create(file: &Path) -> Result<File> {
    File::create(file).map_err(|error: io::Error| error).with_context(|| format!("cannot create {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load;
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    fn free_port() -> u16 {
        TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("port 0").port()
    }

    fn backend(dir: &Path, port: u16) -> Running {
        let run = dir.join(format!("b{port}"));
        fs::create_dir_all(&run).expect("temp dir");
        let run = run.display().to_string();
        let conf = format!("{run}/nginx.conf");
        fs::write(&conf, backend_conf(&run, &port.to_string())).expect("temp dir");
        let mut command = Command::new(install::path("nginx").expect("the test lane installs it"));
        command.args(["-p", &run, "-e", "stderr", "-c", &conf]);
        Running::start(command, port).expect("nginx as a backend")
    }

    #[test]
    fn both_rivals_pass_requests_on() {
        let dir = std::env::temp_dir().join(format!("holdfast-xtask-rivals-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("temp dir");
        let cores = Cores { proxies: "0".into(), load: "0".into(), proxy_count: 1 };
        let backends = [free_port(), free_port()];
        let _backends = backends.map(|port| backend(&dir, port));
        let listen = [free_port(), free_port()];
        let _haproxy = haproxy(&dir, &cores, listen[0], &backends).expect("haproxy");
        let _nginx = nginx(&dir, &cores, listen[1], &backends).expect("nginx");
        for port in listen {
            let options = load::Options {
                rate: 100,
                seconds: 1,
                connections: 4,
                ..load::Options::get(format!("http://127.0.0.1:{port}/"))
            };
            let summary = load::drive(options, &Arc::new(AtomicBool::new(false))).expect("load");
            assert_eq!((summary.requests(), summary.failed()), (100, 0), "{}", summary.json());
        }
        assert!(fs::read_to_string(dir.join("haproxy.log")).expect("log").lines().count() >= 100, "access log is on");
        assert!(
            fs::read_to_string(dir.join("nginx/access.log")).expect("log").lines().count() >= 100,
            "access log is on"
        );
        fs::remove_dir_all(&dir).expect("temp dir");
    }
}
