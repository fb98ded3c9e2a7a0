//! For tests of this crate and of others: a real server of its own on an address of its own, gone when dropped.
//!
//! Everything panics with what is wrong, as a test would.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use holdfast_host::process;

/// Debian keeps the programs of each version here.
const VERSIONS: &str = "/usr/lib/postgresql";
/// The server refuses to run as root.
const USER: &str = "postgres";
/// A server is ready in a second; this is for machines on which everything else runs too.
const READY_MAX: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);

const PORT: u16 = 5_432;
/// Held as long as the address is in use.
const LOCK_PORT: u16 = 23_789;

const SIGINT: i32 = 2;
const SIGQUIT: i32 = 3;

static SERVERS: AtomicU32 = AtomicU32::new(0);
static DATABASES: AtomicU32 = AtomicU32::new(0);
static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());

/// Nothing is worth a sync in most tests: the process is not killed with the machine.
pub const FAST: &[&str] = &["fsync=off", "full_page_writes=off", "max_connections=300"];
/// As people run it; a standby that lost its primary looks for it at once.
pub const DURABLE: &[&str] = &["max_connections=100", "wal_retrieve_retry_interval=500ms"];

pub struct Server {
    pub address: Ipv4Addr,
    dir: PathBuf,
    settings: Vec<String>,
    running: Mutex<Option<Running>>,
    _lock: TcpListener,
}

/// The kernel ends it with the thread that started it, so that thread does nothing else.
struct Running {
    stop: mpsc::Sender<i32>,
    keeper: JoinHandle<()>,
}

impl Server {
    pub fn start(settings: &[&str]) -> Server {
        let server = Server::new(settings);
        server.program("initdb", &["-D", "data", "-U", USER, "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]);
        server.resume();
        server
    }

    /// One for all tests of this process that run at the same time.
    pub fn shared() -> Arc<Server> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = shared.upgrade() {
            return server;
        }
        let server = Arc::new(Server::start(FAST));
        *shared = Arc::downgrade(&server);
        server
    }

    /// A second one that follows this one; what is confirmed here is there.
    pub fn standby(&self) -> Server {
        let standby = Server::new(&self.settings.iter().map(String::as_str).collect::<Vec<_>>());
        let from = format!("host={} port={PORT} user={USER} application_name=standby", self.address);
        standby.program("pg_basebackup", &["-D", "data", "-R", "-X", "stream", "-c", "fast", "-d", &from]);
        standby.resume();
        self.sql("postgres", "ALTER SYSTEM SET synchronous_standby_names = 'standby'");
        self.sql("postgres", "SELECT pg_reload_conf()");
        let until = Instant::now() + READY_MAX;
        while self.sql("postgres", "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'") != "1" {
            assert!(Instant::now() < until, "the standby does not follow: {}", standby.log());
            wait_a_moment();
        }
        standby
    }

    /// It takes writes from now on.
    pub fn promote(&self) {
        // What it copied tells it to wait for a standby, and there is none.
        self.sql("postgres", "ALTER SYSTEM SET synchronous_standby_names = ''");
        self.sql("postgres", "SELECT pg_promote(true, 30)");
    }

    fn new(settings: &[&str]) -> Server {
        for _ in 0..1000 {
            let n = SERVERS.fetch_add(1, Ordering::Relaxed);
            let mixed = std::process::id().wrapping_mul(2_654_435_761).wrapping_add(n.wrapping_mul(40_503)) >> 8;
            let [_, a, b, c] = mixed.to_be_bytes();
            let address = Ipv4Addr::new(127, a.max(1), b, c.clamp(1, 254));
            let Ok(lock) = TcpListener::bind((address, LOCK_PORT)) else { continue };
            let dir = std::env::temp_dir().join(format!("holdfast-postgres-{}-{n}", std::process::id()));
            fs::create_dir_all(&dir).expect("a directory for PostgreSQL");
            if let Some((user, group)) = owner() {
                std::os::unix::fs::chown(&dir, Some(user), Some(group)).expect("the directory is given away");
            }
            let settings = settings.iter().map(|s| (*s).to_owned()).collect();
            return Server { address, dir, settings, running: Mutex::new(None), _lock: lock };
        }
        panic!("no loopback address is free");
    }

    /// Of a database that is new.
    pub fn database(&self) -> String {
        let name = format!("t{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE {name}"));
        name
    }

    pub fn url(&self, database: &str) -> String {
        format!("postgres://{USER}@{}:{PORT}/{database}", self.address)
    }

    /// What `psql` prints for it.
    pub fn sql(&self, database: &str, text: &str) -> String {
        let address = self.address.to_string();
        let port = PORT.to_string();
        self.program("psql", &["-XAtq", "-h", &address, "-p", &port, "-U", USER, "-d", database, "-c", text])
    }

    /// Ends every session at once, as a crash of the server does.
    pub fn kill(&self) {
        self.end(SIGQUIT);
    }

    /// As its service does it: sessions are broken off, then it ends.
    pub fn restart(&self) {
        self.end(SIGINT);
        self.resume();
    }

    pub fn resume(&self) {
        let (stop, told) = mpsc::channel::<i32>();
        let mut command = self.command("postgres");
        command.args(["-D", "data", "-k", ""]).arg("-h").arg(self.address.to_string());
        command.args(["-p", &PORT.to_string()]);
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        let log = File::options().create(true).append(true).open(self.dir.join("log")).expect("a log for PostgreSQL");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a descriptor")).stderr(log);
        let keeper = std::thread::spawn(move || {
            let mut child = command.spawn().expect("setpriv (Debian package util-linux) runs postgres");
            let signal = told.recv().unwrap_or(SIGQUIT);
            if let Some(who) = process::identity(child.id() as i32) {
                drop(process::signal(who, signal));
            }
            drop(child.wait());
        });
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(Running { stop, keeper });
        let until = Instant::now() + READY_MAX;
        while !self.accepts() {
            assert!(Instant::now() < until, "PostgreSQL does not begin: {}", self.log());
            wait_a_moment();
        }
    }

    fn accepts(&self) -> bool {
        let mut ask = self.command("pg_isready");
        ask.args(["-q", "-h", &self.address.to_string(), "-p", &PORT.to_string()]);
        TcpStream::connect((self.address, PORT)).is_ok() && ask.status().is_ok_and(|status| status.success())
    }

    fn end(&self, signal: i32) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(running) = running {
            let _ = running.stop.send(signal);
            drop(running.keeper.join());
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if let Some((user, group)) = owner() {
            command.args(["--reuid", &user.to_string(), "--regid", &group.to_string(), "--clear-groups"]);
        }
        command.arg("--").arg(binaries().join(name)).current_dir(&self.dir);
        command
    }

    fn program(&self, name: &str, arguments: &[&str]) -> String {
        let output = self.command(name).args(arguments).stdin(Stdio::null()).output().expect("setpriv runs it");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name} {arguments:?}: {said}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end(SIGQUIT);
        drop(fs::remove_dir_all(&self.dir));
    }
}

fn wait_a_moment() {
    std::thread::sleep(LOOK);
}

/// The newest version that is installed.
fn binaries() -> PathBuf {
    let entries = fs::read_dir(VERSIONS).into_iter().flatten().flatten().map(|entry| entry.path());
    let version = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
    let newest = entries.filter(|path| path.join("bin/postgres").is_file()).max_by_key(version);
    newest
        .expect("PostgreSQL is not on this machine: sudo apt-get install -y --no-install-recommends postgresql")
        .join("bin")
}

/// User and group of the server, when we are root.
fn owner() -> Option<(u32, u32)> {
    use std::os::unix::fs::MetadataExt;
    let root = fs::metadata(Path::new("/proc/self")).expect("there is /proc").uid() == 0;
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let found = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let user = (fields.next()? == USER).then(|| fields.nth(1))??.parse().ok()?;
        Some((user, fields.next()?.parse().ok()?))
    });
    root.then(|| found.expect("Debian's package postgresql makes the user"))
}
