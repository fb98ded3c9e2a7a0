//! holdfast with messages that wait: whether figures fall, how soon it delivers after a restart, what memory it takes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::case::{BODY_BYTES, CASES, Case, grouped};
use super::holdfast::Holdfast;
use super::spread::Spread;
use super::sqs::{self, Client};
use super::{Place, cost};

const WAITING: u64 = 1_000_000;

/// Kills of the queues' process with them.
const RESTARTS: usize = 5;

/// For memory: five times as many, each four times as large.
const LARGE_WAITING: u64 = 5_000_000;
const LARGE_BYTES: usize = 1_024;
const LARGE_LIVES: Case = CASES[0];

const FALL_MAX: f64 = 0.2;
const RESTART_MAX_MS: f64 = 2_000.0;
const RESIDENT_MAX: u64 = 256 << 20;

/// One line of the result: figure, wanted, measured.
pub(super) type Row = [String; 3];

/// Every case without and with [`WAITING`] messages, in turn, on one process.
pub(super) fn many(place: &Place<'_>, rounds: usize, length: Duration) -> Result<Vec<Row>> {
    let mut holdfast = Holdfast::start(place)?;
    let full = holdfast.new_queue()?;
    println!("sending {} messages of {BODY_BYTES} bytes that stay", grouped(WAITING));
    sqs::fill(holdfast.port, &full, WAITING, BODY_BYTES, place.stop)?;
    let mut rows = Vec::new();
    for case in CASES {
        let mut shares = Vec::new();
        for _ in 0..rounds {
            let empty = holdfast.new_queue()?;
            let rate = |url: &str| -> Result<f64> {
                let count = sqs::drive(holdfast.port, url, case, length, place.stop)?;
                check(place.stop)?;
                Ok(count.messages as f64 / count.took.as_secs_f64())
            };
            let alone = rate(&empty)?;
            shares.push(rate(&full)? / alone);
        }
        let share = Spread::of(&shares).text(2);
        println!("{:<32} with {} waiting: {share} of the rate without", case.text(), grouped(WAITING));
        let figure = format!("{}: share of the rate with {} waiting", case.text(), grouped(WAITING));
        rows.push([figure, format!(">= {:.1}", 1.0 - FALL_MAX), share]);
    }
    let mut times = Vec::new();
    for _ in 0..RESTARTS {
        times.push(holdfast.restart(&full)?.as_secs_f64() * 1_000.0);
        check(place.stop)?;
    }
    let times = Spread::of(&times).text(0);
    println!("kill -9 with them waiting, until the next message is received: {times} ms");
    let figure = format!("kill -9 with {} waiting, until the next message is received: ms", grouped(WAITING));
    rows.push([figure, format!("<= {RESTART_MAX_MS}"), times]);
    Ok(rows)
}

/// Resident memory of the queues' process with [`LARGE_WAITING`] messages, also while others go through.
pub(super) fn large(place: &Place<'_>, length: Duration) -> Result<Vec<Row>> {
    let mut holdfast = Holdfast::start(place)?;
    let url = holdfast.new_queue()?;
    println!("sending {} messages of {LARGE_BYTES} bytes that stay", grouped(LARGE_WAITING));
    let began = Instant::now();
    sqs::fill(holdfast.port, &url, LARGE_WAITING, LARGE_BYTES, place.stop)?;
    check(place.stop)?;
    let rate = LARGE_WAITING as f64 / began.elapsed().as_secs_f64();
    sqs::drive(holdfast.port, &url, LARGE_LIVES, length, place.stop)?;
    let (_, most) = cost::resident_bytes(holdfast.plane()?);
    let restart = holdfast.restart(&url)?;
    Client::connect(holdfast.port)?.receive(&url, 1)?;
    let (after, _) = cost::resident_bytes(holdfast.plane()?);
    let mib = |bytes: u64| (bytes >> 20).to_string();
    let of = format!("{} waiting of {LARGE_BYTES} bytes", grouped(LARGE_WAITING));
    println!("{of}: at most {} MiB resident, {} MiB after a restart of {restart:?}", mib(most), mib(after));
    Ok(vec![
        [format!("{of}: resident at most, MiB"), format!("<= {}", mib(RESIDENT_MAX)), mib(most)],
        [format!("{of}: resident after a restart, MiB"), format!("<= {}", mib(RESIDENT_MAX)), mib(after)],
        [format!("{of}: kill -9 until the next message is received, ms"), "-".into(), restart.as_millis().to_string()],
        [format!("{of}: sent, messages/s"), "-".into(), grouped(rate as u64)],
    ])
}

fn check(stop: &AtomicBool) -> Result<()> {
    if stop.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}
