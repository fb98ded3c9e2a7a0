//! `[worker.NAME]`.

use std::time::Duration;

use toml::de::{DeTable, DeValue};

use crate::keys::{CONCURRENCY, WORKER_HTTP};
use crate::model::{Autoscale, Command, Concurrency, HttpWork, Input, Program, Work, Worker};
use crate::reader::{Fault, Findings, Reader, integer};

use super::one_of::one_of;
use super::probe::http_path;
use super::service::env;

/// Keys that say how a program is run.
const OF_PROGRAMS: [&str; 6] = ["env", "workdir", "user", "input", "done", "dead"];
const DONE: i32 = 0;
/// `EX_DATAERR` of sysexits: the input is wrong, so another try would be in vain.
const DEAD: i32 = 65;
const CONCURRENCY_MAX: u32 = 1000;

pub(super) fn read(out: &mut Findings, table: &Reader<'_>, name: &str) -> Worker {
    table.require(out, &["queue"]);
    let timeout = table.duration(out, "timeout");
    Worker {
        name: name.to_owned(),
        queue: table.text(out, "queue").unwrap_or_default(),
        work: work(out, table, timeout),
        concurrency: concurrency(out, table),
        lease: table.duration(out, "lease"),
        timeout,
    }
}

fn work(out: &mut Findings, table: &Reader<'_>, timeout: Duration) -> Work {
    let example = "for example: command = [\"./handle\"]";
    match one_of(out, table, &["command", "shell", "http"], "what to do", example) {
        Some("http") => {
            table.need_beside(out, &OF_PROGRAMS, "command");
            Work::Http(http(out, table, timeout))
        }
        Some("shell") => {
            let line = table.text(out, "shell").unwrap_or_default();
            Work::Program(program(out, table, Command::Shell(line)))
        }
        _ => {
            let argv = table.argv(out, "command").unwrap_or_default();
            Work::Program(program(out, table, Command::Argv(argv)))
        }
    }
}

fn program(out: &mut Findings, table: &Reader<'_>, command: Command) -> Program {
    let base = out.base.clone();
    let (done, dead) = (codes(out, table, "done", DONE), codes(out, table, "dead", DEAD));
    if done.is_empty() {
        table.wrong(out, "done", Fault::value("no exit code would mean done").hint("done = [0] is the default"));
    }
    both_ways(out, table, &done, &dead);
    Program {
        command,
        env: env::read(out, table),
        workdir: table.path_value(out, "workdir").unwrap_or(base),
        user: table.text(out, "user"),
        input: if table.choice(out, "input") == Some("env") { Input::Env } else { Input::Stdin },
        done,
        dead,
    }
}

fn codes(out: &mut Findings, table: &Reader<'_>, name: &str, default: i32) -> Vec<i32> {
    if !table.has(name) {
        return vec![default];
    }
    let given = table.integers(out, name).into_iter().filter_map(|n| i32::try_from(n).ok()).collect();
    if out.is_good(&table.at(name)) { given } else { vec![default] }
}

fn both_ways(out: &mut Findings, table: &Reader<'_>, done: &[i32], dead: &[i32]) {
    let Some(code) = done.iter().find(|code| dead.contains(code)) else { return };
    let (a, b) = (out.spans.value(&table.at("done")), out.spans.value(&table.at("dead")));
    let found = out.conflict(&table.path, format!("exit code {code} of `{}` means two things", table.path));
    out.push(
        found.at(b, "dead letter").at(a, "done").hint("name the code in one of the lists; `dead` is [65] by itself"),
    );
}

fn http(out: &mut Findings, worker: &Reader<'_>, timeout: Duration) -> HttpWork {
    let empty = DeTable::new();
    let table = worker.inner_or_empty(out, "http", &WORKER_HTTP, &empty);
    table.require(out, &["service"]);
    let own = table.opt_duration(out, "timeout");
    if own.is_some_and(|own| own > timeout) && out.is_good(&worker.at("timeout")) {
        let hint = "raise the `timeout` of the worker";
        table.wrong(out, "timeout", Fault::value("longer than the whole attempt may take").hint(hint));
    }
    HttpWork {
        service: table.text(out, "service").unwrap_or_default(),
        path: table.form(out, "path", http_path).expect("the catalogue gives a default"),
        timeout: own.unwrap_or(timeout),
    }
}

fn concurrency(out: &mut Findings, worker: &Reader<'_>) -> Concurrency {
    let is_table = worker.raw("concurrency").is_some_and(|v| v.get_ref().is_table());
    if !is_table {
        return Concurrency::Fixed(worker.form(out, "concurrency", fixed).unwrap_or(1));
    }
    let empty = DeTable::new();
    let table = worker.inner_or_empty(out, "concurrency", &CONCURRENCY, &empty);
    table.require(out, &["max"]);
    let min = table.u32(out, "min");
    let max = table.opt_u32(out, "max").unwrap_or(min.max(1));
    if min > max {
        table.wrong(out, "min", Fault::value("more than `max`").hint("raise `max`, or lower `min`"));
    }
    let (backlog, age) = (table.u32(out, "backlog"), table.duration(out, "age"));
    Concurrency::Scaled(Autoscale { min, max, backlog, age })
}

fn fixed(value: &DeValue<'_>) -> Result<u32, Fault> {
    let DeValue::Integer(number) = value else { return Err(Fault::kind("a whole number or a table", value)) };
    match integer(number).and_then(|n| u32::try_from(n).ok()) {
        Some(n) if (1..=CONCURRENCY_MAX).contains(&n) => Ok(n),
        _ => Err(Fault::value("must be 1 to 1000").hint("for a number that follows the work: { min = 0, max = 20 }")),
    }
}
