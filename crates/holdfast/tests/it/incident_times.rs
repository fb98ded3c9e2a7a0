//! The times in holdfast's incidents against those of a prober that knows nothing of holdfast: every 2 ms a connection and a
//! GET, at the instance's own port and through the balancer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::proof::{Evidence, proving, size};
use crate::site::{PATIENCE, Site, free_port};
use crate::tiny;

const STEP: Duration = Duration::from_millis(2);
/// An attempt that waits so long has failed since it began; its answer, when it comes, is the end of the failure.
const SLOW_NS: u64 = 250_000_000;
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// Attempts that wait at a hung process. More would stand in the way of holdfast's own when it goes on.
const WAITING_MAX: usize = 8;
const HANG: Duration = Duration::from_millis(1300);
/// Ready for so long, the next death counts as the first.
const FORGETS: Duration = Duration::from_secs(1);

const AGREE_MS: f64 = 50.0;
/// Outside the proving lane other tests take the processor away from both.
const AGREE_MS_LOOSE: f64 = 1000.0;

#[test]
fn incident_times_agree_with_the_outside() {
    let port = free_port();
    let site = Site::new(&format!(
        r#"
[service.web]
command = ["{}", "{{port}}"]
env     = {{ TINY_START_MS = "100" }}
restart = {{ when = "always", reset = "{}s" }}
ready   = {{ http = "/" }}

[balancer.public]
listen  = "127.0.0.1:{port}"
service = "web"
"#,
        tiny::path().display(),
        FORGETS.as_secs()
    ));
    site.up();
    let mut evidence = Evidence::new("incident-times", "incident_times_agree_with_the_outside");
    let rounds = size(2, 20);
    let probers =
        [("at its port", Prober::start(site.port_of("web-1"))), ("through the balancer", Prober::start(port))];
    let mut worst = 0.0f64;
    for (fault, signal) in [("kill -9", Signal::KILL), ("SIGSTOP for 1.3 s", Signal::STOP)] {
        let mut off: Vec<(String, f64)> = Vec::new();
        for _ in 0..rounds {
            site.wait_ready("web-1");
            pace_forgetting();
            let (told, seen) = strike(&site, signal, &probers);
            for ((from, _), seen) in probers.iter().zip(seen) {
                off.push((format!("failed, {from}"), signed_ms(told.0, seen.0)));
                off.push((format!("answers again, {from}"), signed_ms(told.1, seen.1)));
            }
        }
        for (from, _) in &probers {
            for what in [format!("failed, {from}"), format!("answers again, {from}")] {
                let all: Vec<f64> = off.iter().filter(|(w, _)| *w == what).map(|(_, ms)| *ms).collect();
                let (low, high) =
                    (all.iter().copied().fold(f64::MAX, f64::min), all.iter().copied().fold(f64::MIN, f64::max));
                worst = worst.max(high).max(-low);
                let row = format!("{rounds} x {fault}, {what}: incident later by ms, least and most");
                evidence.figure(&row, format!("within {AGREE_MS:.0}"), format!("{low:.1}, {high:.1}"));
            }
        }
    }
    evidence.tell();
    let limit = if proving() { AGREE_MS } else { AGREE_MS_LOOSE };
    assert!(worst <= limit, "an incident's time is {worst:.1} ms away from what was seen outside");
}

/// Boot times at which it failed and at which it answered again: as the incident tells, and as each prober saw.
fn strike(site: &Site, signal: Signal, probers: &[(&str, Prober); 2]) -> ((u64, u64), Vec<(u64, u64)>) {
    let pid = site.pid("web-1");
    probers.iter().for_each(|(_, prober)| prober.forget());
    let struck = tiny::signal(pid, signal);
    if signal == Signal::STOP {
        hold_still(HANG);
        tiny::signal(pid, Signal::CONT);
    }
    let seen = probers.iter().map(|(from, prober)| prober.wait_back(struck, from)).collect();
    let mut told = None;
    site.wait_for("the incident to be over", || {
        let found = site.api(&format!("/v1/incidents?subject=web-1&since_boot_ns={}", struck - LEEWAY_NS));
        told = found.as_array().and_then(|all| all.last()).and_then(times);
        told.is_some()
    });
    (told.expect("waited for"), seen)
}

/// What is told a little too early is told all the same.
const LEEWAY_NS: u64 = 50_000_000;

fn times(incident: &Value) -> Option<(u64, u64)> {
    Some((incident["detected_boot_ns"].as_u64()?, incident["ready_boot_ns"].as_u64()?))
}

fn signed_ms(told: u64, seen: u64) -> f64 {
    (told as f64 - seen as f64) / 1e6
}

fn pace_forgetting() {
    std::thread::sleep(FORGETS + FORGETS / 10);
}

fn hold_still(time: Duration) {
    std::thread::sleep(time);
}

/// Attempts begin every 2 ms whatever became of those before.
struct Prober {
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

struct Shared {
    port: u16,
    stop: AtomicBool,
    attempts: Mutex<Vec<Attempt>>,
}

#[derive(Clone, Copy)]
struct Attempt {
    began: u64,
    ended: u64,
    good: bool,
}

impl Attempt {
    fn is_slow(&self) -> bool {
        self.ended - self.began > SLOW_NS
    }
}

impl Prober {
    fn start(port: u16) -> Prober {
        let shared = Arc::new(Shared { port, stop: AtomicBool::new(false), attempts: Mutex::default() });
        let own = shared.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(pace_attempts(&own));
        });
        Prober { shared, thread: Some(thread) }
    }

    fn forget(&self) {
        self.shared.attempts.lock().expect("no panic").clear();
    }

    /// When the first failed attempt since `struck` began, and when the first answer after it came. One that was under way
    /// at the blow failed at the blow.
    fn wait_back(&self, struck: u64, from: &str) -> (u64, u64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = self.back(struck) {
                return found;
            }
            assert!(Instant::now() < deadline, "{from}: not seen to fail and to answer again");
            std::thread::sleep(STEP);
        }
    }

    fn back(&self, struck: u64) -> Option<(u64, u64)> {
        let attempts = self.shared.attempts.lock().expect("no panic").clone();
        let bad = attempts.iter().filter(|a| a.ended >= struck && (!a.good || a.is_slow()));
        let failed = bad.map(|a| a.began).min()?.max(struck);
        let good = attempts.iter().filter(|a| a.good && a.ended > failed && (a.began > failed || a.is_slow()));
        Some((failed, good.map(|a| a.ended).min()?))
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn pace_attempts(shared: &Arc<Shared>) {
    let waiting = Arc::new(tokio::sync::Semaphore::new(WAITING_MAX));
    let mut ticks = tokio::time::interval(STEP);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    while !shared.stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        let Ok(place) = waiting.clone().try_acquire_owned() else { continue };
        let shared = shared.clone();
        tokio::spawn(async move {
            let began = tiny::boot_ns();
            let good =
                tokio::time::timeout(ANSWER_MAX, ask(shared.port)).await.is_ok_and(|answer| answer.unwrap_or(false));
            let attempt = Attempt { began, ended: tiny::boot_ns(), good };
            shared.attempts.lock().expect("no panic").push(attempt);
            drop(place);
        });
    }
}

async fn ask(port: u16) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer.starts_with(b"HTTP/1.1 200"))
}
