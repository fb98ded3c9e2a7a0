//! The barrier of the how-to page, as SQL of that page in real databases: duplicate, empty and hanging calls do nothing, whoever
//! calls at the same time and wherever the participant dies.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::*;
use crate::database::Database;
use crate::environment::Environment;
use crate::site::{PATIENCE, wait_a_moment};

/// At the same time.
const CALLERS: usize = 50;
/// Each caller calls for all of them, beginning with another one.
const ORDERS: usize = 12;
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

#[test]
fn the_barrier_of_the_page_on_postgresql() {
    play("postgresql", &Database::postgresql());
}

#[test]
fn the_barrier_of_the_page_on_mariadb() {
    play("mariadb", &Database::mariadb());
}

fn play(kind: &'static str, database: &Database) {
    let python = match Environment::of_python(&["psycopg2-binary==2.9.13", "pymysql==1.2.4"]) {
        Ok(environment) => environment.path("bin/python"),
        Err(reason) => return eprintln!("skipped: there are no drivers: {reason}"),
    };
    let mut participant = Participant::start(python, kind, database.port);
    repeated_empty_and_late_calls(&participant);
    many_at_once(&participant);
    a_participant_that_dies(&mut participant);
    the_saga_of_the_page(&participant);
}

fn repeated_empty_and_late_calls(participant: &Participant) {
    let check = |branch: &str, calls: &[(&str, i64)]| {
        let before = participant.reserved();
        for (n, (operation, wanted)) in calls.iter().enumerate() {
            assert_eq!(participant.call(branch, operation, "").expect("answered"), 200);
            assert_eq!(participant.reserved() - before, *wanted, "{branch}, call {n}, {operation}");
        }
    };
    check("a-1/1/reserve/0", &[("do", 1), ("do", 1), ("undo", 0), ("undo", 0), ("do", 0)]);
    check("b-1/1/reserve/0", &[("undo", 0), ("undo", 0), ("do", 0), ("undo", 0), ("do", 0)]);
    // A new round, another item and another step are other branches.
    check("c-1/1/reserve/0", &[("undo", 0)]);
    check("c-1/2/reserve/0", &[("do", 1)]);
    check("c-1/2/reserve/1", &[("do", 1)]);
    check("c-1/2/order/0", &[("do", 1)]);
    // So are steps whose names differ in case alone.
    check("c-1/2/Order/0", &[("do", 1)]);
}

/// Every order is asked for again and again by all callers at once; every second one is undone as well.
fn many_at_once(participant: &Participant) {
    let before = participant.reserved();
    let again = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| {
                scope.spawn(move || {
                    (0..ORDERS).map(|n| (n + caller) % ORDERS).fold(0, |again, order| {
                        let undone = order % 2 == 1 && (caller + order / 2) % 2 == 1;
                        let operation = if undone { "undo" } else { "do" };
                        again + participant.wait_until_done(&format!("many-{order}/1/reserve/0"), operation)
                    })
                })
            })
            .collect();
        callers.into_iter().map(|caller| caller.join().expect("no panic")).sum::<usize>()
    });
    println!("{} calls by {CALLERS} callers, {again} of them again after an error", CALLERS * ORDERS);
    assert_eq!(participant.reserved() - before, (ORDERS / 2) as i64, "once for each that was not undone");
}

/// Killed before the first statement, after each one, and after the commit; then the same call comes again.
fn a_participant_that_dies(participant: &mut Participant) {
    let points = |operation| {
        if operation == "do" { &["begin", "1", "2", "commit"][..] } else { &["begin", "1", "2", "3", "commit"] }
    };
    for operation in ["do", "undo"] {
        for point in points(operation) {
            let branch = format!("dies-{operation}-{point}/1/reserve/0");
            let before = participant.reserved();
            if operation == "undo" {
                participant.wait_until_done(&branch, "do");
            }
            assert!(participant.call(&branch, operation, point).is_err(), "killed at {point}");
            participant.restart();
            participant.wait_until_done(&branch, operation);
            let wanted = i64::from(operation == "do");
            assert_eq!(participant.reserved() - before, wanted, "{operation}, killed at {point}");
        }
    }
}

/// The workflow of the page, with this participant on all its ports: one order succeeds, one has no money.
fn the_saga_of_the_page(participant: &Participant) {
    let before = participant.reserved();
    let text = crate::documented::block("workflows.md", "[workflow.order]");
    let port = participant.port.to_string();
    let text = ["8001", "8002", "8003"].iter().fold(text, |text, old| text.replace(old, &port));
    let site = site(&text.replace("\"5m\"", "\"1s\""));
    let sold = site.ok(&["run", "order", "--param", "order=lamp", "--wait"]);
    assert!(sold.contains("succeeded"), "{sold}");
    assert_eq!(participant.reserved() - before, 1);
    let refused = site.run(&["run", "order", "--param", "order=refused", "--wait"]);
    assert!(refused.code == 1 && refused.stdout.contains("rolled-back"), "{}{}", refused.stdout, refused.stderr);
    assert_eq!(participant.reserved() - before, 1, "reserved and released");
}

struct Participant {
    port: u16,
    command: Command,
    child: Child,
}

impl Participant {
    fn start(python: PathBuf, kind: &str, database: u16) -> Participant {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let port = free_port();
        // It goes when the test dies.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(python).arg(root.join("tests/it/flows/barrier/participant.py"));
        command.args([kind, &database.to_string()]).arg(root.join("../../docs/how-to/workflows.md"));
        command.arg(port.to_string()).stdin(Stdio::null()).env_clear().env("PREPARE", "yes");
        let child = command.spawn().expect("python starts");
        command.env_remove("PREPARE");
        let mut participant = Participant { port, command, child };
        participant.wait_until_it_answers();
        participant
    }

    fn restart(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        self.child = self.command.spawn().expect("python starts");
        self.wait_until_it_answers();
    }

    fn wait_until_it_answers(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.exchange("GET / HTTP/1.1\r\n", "").is_ok_and(|(status, _)| status == 200) {
            let ended = self.child.try_wait().expect("our child");
            assert!(ended.is_none() && Instant::now() < deadline, "the participant does not answer: {ended:?}");
            wait_a_moment();
        }
    }

    /// The status, or no answer.
    fn call(&self, branch: &str, operation: &str, die_after: &str) -> std::io::Result<u16> {
        let head = format!(
            "POST /reserve HTTP/1.1\r\nIdempotency-Key: {branch}/{operation}\r\nX-Die-After: {die_after}\r\nContent-Length: 4\r\n"
        );
        Ok(self.exchange(&head, "lamp")?.0)
    }

    /// As a saga does it: again until there is 200. How often it was asked again.
    fn wait_until_done(&self, branch: &str, operation: &str) -> usize {
        let deadline = Instant::now() + PATIENCE;
        let mut again = 0;
        while self.call(branch, operation, "").expect("answered") != 200 {
            assert!(Instant::now() < deadline, "{branch}/{operation} is never done");
            again += 1;
            wait_a_moment();
        }
        again
    }

    fn reserved(&self) -> i64 {
        let (status, body) = self.exchange("GET / HTTP/1.1\r\n", "").expect("answered");
        assert_eq!(status, 200, "{body}");
        body.parse().expect("a number")
    }

    fn exchange(&self, head: &str, body: &str) -> std::io::Result<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        write!(stream, "{head}Host: test\r\nConnection: close\r\n\r\n{body}")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or(std::io::ErrorKind::UnexpectedEof)?;
        Ok((status, text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()))
    }
}

impl Drop for Participant {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
