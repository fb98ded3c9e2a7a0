//! Real database servers for one test: PostgreSQL and MariaDB on a free port, as an unprivileged user, in a directory that goes with
//! them. User `test` needs no password.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::site::{PATIENCE, free_port, kill, wait_a_moment};

/// Debian has a directory for each version.
const POSTGRESQL: &str = "/usr/lib/postgresql";

const END_WITHIN: Duration = Duration::from_secs(5);

pub(crate) struct Database {
    pub(crate) port: u16,
    server: Child,
    dir: tempfile::TempDir,
}

impl Database {
    pub(crate) fn postgresql() -> Database {
        let (bin, dir, port) = (newest(Path::new(POSTGRESQL)), directory("postgres"), free_port());
        let initdb = ["-D", "data", "-U", "test", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"];
        succeed(unprivileged("postgres", &bin.join("initdb"), dir.path()).args(initdb));
        let mut server = unprivileged("postgres", &bin.join("postgres"), dir.path());
        // What is tested is who dies beside the server; the server itself lives on.
        server.args(["-D", "data", "-k", ".", "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]);
        server.args(["-p", &port.to_string()]);
        let mut database = Database { port, server: start(&mut server, dir.path()), dir };
        database.wait_until(|| {
            let mut ask = Command::new(bin.join("pg_isready"));
            ask.args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()]);
            ask.status().is_ok_and(|status| status.success())
        });
        database
    }

    pub(crate) fn mariadb() -> Database {
        let (dir, port) = (directory("mysql"), free_port());
        let data = format!("--datadir={}", dir.path().join("data").display());
        let install = ["--no-defaults", &data, "--auth-root-authentication-method=normal", "--skip-test-db"];
        succeed(unprivileged("mysql", Path::new("mariadb-install-db"), dir.path()).args(install));
        // Each on a line of its own, as the server reads this file.
        let users = "CREATE DATABASE test;\nCREATE USER test@'127.0.0.1';\nGRANT ALL ON test.* TO test@'127.0.0.1';\n";
        std::fs::write(dir.path().join("users.sql"), users).expect("written");
        let mut server = unprivileged("mysql", Path::new("/usr/sbin/mariadbd"), dir.path());
        server.args(["--no-defaults", "--skip-name-resolve", "--bind-address=127.0.0.1", "--skip-log-bin"]);
        server.args([data, format!("--port={port}")]);
        server.arg(format!("--socket={}", dir.path().join("socket").display()));
        server.arg(format!("--pid-file={}", dir.path().join("pid").display()));
        server.arg(format!("--init-file={}", dir.path().join("users.sql").display()));
        let mut database = Database { port, server: start(&mut server, dir.path()), dir };
        // It listens when the file was carried out.
        database.wait_until(|| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        database
    }

    fn wait_until(&mut self, ready: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !ready() {
            let ended = self.server.try_wait().expect("our child");
            let log = || std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            assert!(ended.is_none() && Instant::now() < deadline, "the database is not ready: {ended:?}\n{}", log());
            wait_a_moment();
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // Asked to end first: PostgreSQL gives its shared memory back only then.
        kill(self.server.id(), "QUIT");
        let deadline = Instant::now() + END_WITHIN;
        while matches!(self.server.try_wait(), Ok(None)) && Instant::now() < deadline {
            wait_a_moment();
        }
        drop(self.server.kill());
        drop(self.server.wait());
    }
}

fn newest(versions: &Path) -> PathBuf {
    let entries = std::fs::read_dir(versions).expect("the lane installs postgresql").flatten().map(|e| e.path());
    let version = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
    let installed = entries.filter(|path| path.join("bin/initdb").is_file());
    installed.max_by_key(version).expect("a server of PostgreSQL").join("bin")
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A directory that this user may use.
fn directory(user: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::create_dir(dir.path().join("data")).expect("created");
    let mode = |mode| std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(dir.path().join("data"), mode(0o700)).expect("ours");
    if is_root() {
        succeed(Command::new("chown").args(["-R", user]).arg(dir.path()));
    }
    dir
}

/// Both servers refuse to run as root. The server goes when the test dies.
fn unprivileged(user: &str, program: &Path, dir: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if is_root() {
        command.args(["--reuid", user, "--regid", user, "--clear-groups"]);
    }
    command.arg(program).current_dir(dir).stdin(Stdio::null());
    command
}

fn start(command: &mut Command, dir: &Path) -> Child {
    let log = std::fs::File::create(dir.join("log")).expect("written");
    command.stdout(log.try_clone().expect("a second handle")).stderr(log).spawn().expect("the server starts")
}

fn succeed(command: &mut Command) {
    let output = command.output().expect("it starts");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}\n{out}{err}");
}
