//! What a shim offers its child: listeners, notify socket, environment, limits.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;

use holdfast_host::shim::{Body, Phase, Spec, Value};
use holdfast_host::{listen, process};

use crate::bed::{Bed, LIMIT, ask, eventually, read, sh, until};

/// Answers each connection on descriptor 3 with its pid, from a Python that knows nothing of holdfast.
const SERVER: &str = "import os, socket
assert os.environ['LISTEN_PID'] == str(os.getpid()) and os.environ['LISTEN_FDS'] == '2'
assert os.environ['LISTEN_FDNAMES'] == 'public:admin'
s = socket.socket(fileno=3); s.setblocking(True)
while True:
    c, _ = s.accept(); c.sendall(str(os.getpid()).encode()); c.close()
";

#[tokio::test]
async fn held_listeners_outlive_the_child_and_lose_no_connection() {
    let spec = Spec {
        argv: vec!["python3".into(), "-c".into(), SERVER.into()],
        fds: vec!["public".into(), "admin".into()],
        ..Spec::default()
    };
    let (_bed, mut client) = Bed::start(spec).await;
    assert_eq!(client.state().phase, Phase::Waiting, "not before the listeners are there");
    let sockets = listen::bind("127.0.0.1:0".parse().unwrap(), 2).unwrap();
    let addr = sockets[0].local_addr().unwrap();
    client
        .hold_fds(&[("admin".into(), sockets[1].as_fd()), ("public".into(), sockets[0].as_fd())], LIMIT)
        .await
        .unwrap();
    drop(sockets);
    let state = until(&mut client, "started", |s| s.child.is_some()).await;
    assert_eq!(state.held, ["admin", "public"]);
    let given = client.give_fds(LIMIT).await.unwrap();
    let same: Vec<_> = given.into_iter().map(|(n, fd)| (n, TcpListener::from(fd).local_addr().unwrap())).collect();
    assert_eq!(same, [("admin".to_owned(), addr), ("public".to_owned(), addr)]);
    // Only one of the two sockets is served: keep asking until the kernel picks that one.
    let ask_pid = || {
        let mut connection = TcpStream::connect(addr).ok()?;
        connection.set_read_timeout(Some(std::time::Duration::from_millis(300))).ok()?;
        let mut text = String::new();
        connection.read_to_string(&mut text).ok()?;
        text.parse::<i32>().ok()
    };
    eventually("an answer of the first", || ask_pid() == Some(state.child.unwrap().pid));
    process::signal(state.child.unwrap(), libc::SIGKILL).unwrap();
    assert!(TcpStream::connect(addr).is_ok(), "the port stays open between two children");
    let second = until(&mut client, "the second child", |s| s.incarnation.run == 2 && s.child.is_some()).await;
    eventually("an answer of the second", || ask_pid() == Some(second.child.unwrap().pid));
}

const NOTIFIER: &str = "import os, socket, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect('\\0' + os.environ['NOTIFY_SOCKET'][1:])
s.send(b'STATUS=warming up')
while not os.path.exists('go'): time.sleep(0.01)
s.send(b'READY=1\\nSTATUS=serving')
while True:
    s.send(b'WATCHDOG=1'); time.sleep(0.02)
";

#[tokio::test]
async fn the_notify_protocol_tells_readiness_status_and_watchdog() {
    let mut bed = Bed::new();
    let argv = vec!["python3".into(), "-c".into(), NOTIFIER.into()];
    bed.launch(Spec { argv, notify: true, workdir: Some(bed.root.path().into()), ..Spec::default() });
    let mut client = bed.client().await;
    let state = until(&mut client, "a status", |s| s.status == "warming up").await;
    assert!(state.phase == Phase::Starting && !state.notified_ready, "{state:?}");
    std::fs::write(bed.path("go"), "").unwrap();
    let state = until(&mut client, "ready", |s| s.phase == Phase::Running).await;
    assert!(state.notified_ready && state.ready_boot_ns.is_some(), "{state:?}");
    let first = until(&mut client, "a watchdog", |s| s.watchdog_boot_ns.is_some()).await.watchdog_boot_ns;
    until(&mut client, "another watchdog", |s| s.watchdog_boot_ns > first).await;
    let stopped = Body::Signal { incarnation: state.incarnation, signo: libc::SIGSTOP };
    ask(&client, stopped).await.unwrap();
    eventually("it is stopped", || process::stat(state.child.unwrap().pid).is_some_and(|s| s.state == 'T'));
}

#[tokio::test]
async fn the_agent_may_tell_readiness_of_this_incarnation() {
    let (_bed, mut client) = Bed::start(sh("exec sleep 600")).await;
    let state = until(&mut client, "started", |s| s.phase == Phase::Starting).await;
    ask(&client, Body::Ready { incarnation: state.incarnation }).await.unwrap();
    until(&mut client, "running", |s| s.phase == Phase::Running).await;
}

#[tokio::test]
async fn secrets_reach_the_child_and_nothing_else() {
    const SECRET: &str = "s3cr3t-planted-in-a-file";
    let mut bed = Bed::new();
    let file = bed.path("secret");
    std::fs::write(&file, format!("{SECRET}\n")).unwrap();
    let env_file = bed.path("env");
    std::fs::write(&env_file, format!("OTHER={SECRET}\nMODE=file\n")).unwrap();
    let env = vec![("TOKEN".into(), Value::File(file.clone())), ("MODE".into(), Value::Plain("spec".into()))];
    let script = format!(
        "test $TOKEN = {} || exit 5; echo mode $MODE $HOLDFAST_INSTANCE $HOLDFAST_INCARNATION; sleep 600",
        "$OTHER"
    );
    bed.launch(Spec { env, env_files: vec![env_file.clone()], ..sh(&script) });
    let mut client = bed.client().await;
    until(&mut client, "started", |s| s.child.is_some()).await;
    eventually("it has both", || read(&bed.dir.log()).contains(" mode spec web-1 1.1"));
    let mut looked = 0;
    let mut dirs = vec![bed.dir.path().to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap().map(|e| e.unwrap()) {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                dirs.push(entry.path());
            } else if kind.is_file() {
                looked += 1;
                let bytes = std::fs::read(entry.path()).unwrap();
                let found = bytes.windows(SECRET.len()).any(|w| w == SECRET.as_bytes());
                assert!(!found, "{} holds the secret", entry.path().display());
            }
        }
    }
    assert!(looked >= 6, "{looked} files");
    for process in process::Table::read().iter() {
        let line = std::fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
        assert!(!line.windows(SECRET.len()).any(|w| w == SECRET.as_bytes()), "{process:?}");
    }
}

#[tokio::test]
async fn user_umask_limit_and_signals_are_as_declared() {
    let mut bed = Bed::new();
    let root = rustix::process::geteuid().is_root();
    let user = root.then(|| "nobody".to_owned());
    let script = "id -u; umask; ulimit -n; cat /proc/self/oom_score_adj; grep -E 'SigBlk|SigIgn' /proc/self/status; pwd; ls /proc/self/fd | tr '\\n' ' '; echo; echo x > /dev/stdout; sleep 600";
    bed.launch(Spec { user, umask: Some(0o027), open_files: Some(321), workdir: Some("/tmp".into()), ..sh(script) });
    let mut client = bed.client().await;
    until(&mut client, "started", |s| s.child.is_some()).await;
    eventually("it has said all", || read(&bed.dir.log()).lines().count() == 9);
    let text = read(&bed.dir.log());
    let lines: Vec<&str> = text.lines().map(|l| &l[25..]).collect();
    let own_score = read("/proc/self/oom_score_adj".as_ref());
    let uid = if root { "65534".to_owned() } else { rustix::process::geteuid().as_raw().to_string() };
    assert_eq!((lines[0], lines[1], lines[2], lines[3]), (uid.as_str(), "0027", "321", own_score.trim()));
    // 32 and 33 belong to the C library, which lets nobody reset what was inherited.
    let set = |line: &str| u64::from_str_radix(&line[8..], 16).unwrap() & !(3 << 31);
    assert_eq!((set(lines[4]), set(lines[5])), (0, 0), "{lines:?}");
    assert_eq!((lines[6], lines[7], lines[8]), ("/tmp", "0 1 2 3 ", "x"), "3 is the directory that ls reads");
}

#[test]
fn a_client_that_does_not_read_harms_nobody() {
    let mut bed = Bed::new();
    bed.launch(sh("exec sleep 600"));
    let deaf = holdfast_host::seqpacket::Connection::connect(&bed.dir.socket()).unwrap();
    let garbage = [b"not json".as_slice(), b"{}", b"{\"id\":3,\"do\":{\"fly\":{}}}"];
    let mut sent = 0u32;
    for packet in garbage.iter().cycle().take(30_000) {
        match deaf.send(packet, &[]) {
            Ok(()) => sent += 1,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(_) => break,
        }
    }
    println!("{sent} packets until it was dropped");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = bed.client().await;
        assert_eq!(ask(&client, Body::Grant { restart: true }).await.unwrap().deadline_boot_ns, None);
    });
    let _ = std::io::stdout().flush();
}
