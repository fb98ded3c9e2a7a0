//! A prober at a fixed rate: every GET has its intended time, and its latency counts from there, so that a stalled server
//! cannot hide by slowing the prober down. Each is tried once, on a connection of its own: what fails is a failure.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::{Error, Result};

/// An answer that takes longer has failed.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// Most requests in flight: enough for a second of 500 a second, more would measure this machine.
const IN_FLIGHT_MAX: u64 = 512;

/// Failures listed one by one.
const FAILURES_LISTED_MAX: usize = 1_000;

/// An answer that is read to its end is no longer than this.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// A thread waits for its turn in naps no longer than this, so that it sees the end.
const NAP_MAX: Duration = Duration::from_millis(50);

#[derive(Clone, Debug)]
pub struct Plan {
    /// `http://ADDRESS:PORT/PATH`
    pub url: String,
    pub rate_per_s: u64,
    pub length: Duration,
    pub timeout: Duration,
}

/// One request that failed, or was answered by something other than 2xx or 3xx.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Since the first request.
    pub at: Duration,
    pub why: String,
}

#[derive(Clone, Debug)]
pub struct Summary {
    pub sent: u64,
    pub failed: u64,
    /// The first ones, by the time they were to be sent.
    pub failures: Vec<Failure>,
    /// The longest time in which no request that was sent succeeded: from the last success before it to the next one, by
    /// when they were to be sent.
    pub longest_gap: Duration,
    /// Of successes, sorted.
    pub latencies: Vec<Duration>,
    /// Milliseconds since 1970 of the first request.
    pub began_ms: u128,
}

struct Sample {
    at: Duration,
    result: std::result::Result<Duration, String>,
}

struct Target {
    address: SocketAddr,
    request: String,
}

fn target(url: &str) -> Result<Target> {
    let what = || format!("probe {url}");
    let rest = url.strip_prefix("http://").ok_or_else(|| Error::failed(what(), "only http:// is spoken here"))?;
    let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let mut addresses = host.to_socket_addrs().map_err(|e| Error::io(what(), e))?;
    let address = addresses.next().ok_or_else(|| Error::failed(what(), "no address"))?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: lab-probe\r\nconnection: close\r\n\r\n");
    Ok(Target { address, request })
}

/// Sends until the time is over or `stop` is raised; returns when every answer has come or is too late.
pub fn drive(plan: &Plan, stop: &AtomicBool) -> Result<Summary> {
    let target = target(&plan.url)?;
    if plan.rate_per_s == 0 {
        return Err(Error::failed(format!("probe {}", plan.url), "the rate is 0"));
    }
    let samples = Mutex::new(Vec::new());
    let next = AtomicU64::new(0);
    let total = u64::try_from(u128::from(plan.rate_per_s) * plan.length.as_millis() / 1000).unwrap_or(u64::MAX);
    // As many as are in flight when every answer takes as long as it may, and no more threads than that.
    let senders = (plan.rate_per_s * plan.timeout.as_secs().max(1)).min(IN_FLIGHT_MAX).min(total);
    let began = Instant::now();
    let began_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    thread::scope(|scope| {
        for _ in 0..senders {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let at = Duration::from_secs_f64(number as f64 / plan.rate_per_s as f64);
                    if number >= total || !pace(began + at, stop) {
                        return;
                    }
                    let result = get(&target, plan.timeout).map(|()| (began + at).elapsed());
                    let sample = Sample { at, result: result.map_err(|e| e.to_string()) };
                    samples.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
                }
            });
        }
    });
    Ok(summary(samples.into_inner().unwrap_or_else(PoisonError::into_inner), began_ms))
}

/// Waits for the time; false when it is not to come.
fn pace(at: Instant, stop: &AtomicBool) -> bool {
    loop {
        if stop.load(Ordering::Relaxed) {
            return false;
        }
        let left = at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        thread::sleep(left.min(NAP_MAX));
    }
}

fn get(target: &Target, timeout: Duration) -> io::Result<()> {
    let deadline = Instant::now() + timeout;
    let mut stream = TcpStream::connect_timeout(&target.address, timeout)?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(timeout))?;
    stream.write_all(target.request.as_bytes())?;
    let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
    while (answer.len() as u64) < ANSWER_BYTES_MAX {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece)? {
            0 => break,
            n => answer.extend_from_slice(&piece[..n]),
        }
    }
    judge(&answer)
}

/// Complete, as far as a length was promised, and of a good status.
fn judge(answer: &[u8]) -> io::Result<()> {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Err(io::Error::other("the answer ends in its head"));
    };
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let status = head.split(' ').nth(1).unwrap_or_default();
    if !status.starts_with(['2', '3']) {
        return Err(io::Error::other(format!("status {status}")));
    }
    let promised = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    match promised {
        Some(length) if answer.len() - end - 4 < length => Err(io::Error::other("the answer ends in its body")),
        _ => Ok(()),
    }
}

fn summary(mut samples: Vec<Sample>, began_ms: u128) -> Summary {
    samples.sort_by_key(|sample| sample.at);
    let mut done = Summary {
        sent: samples.len() as u64,
        failed: 0,
        failures: Vec::new(),
        longest_gap: Duration::ZERO,
        latencies: Vec::new(),
        began_ms,
    };
    let (mut last_good, end) = (Duration::ZERO, samples.last().map_or(Duration::ZERO, |last| last.at));
    for Sample { at, result } in samples {
        match result {
            Ok(latency) => {
                done.longest_gap = done.longest_gap.max(at - last_good);
                last_good = at;
                done.latencies.push(latency);
            }
            Err(why) => {
                done.failed += 1;
                if done.failures.len() < FAILURES_LISTED_MAX {
                    done.failures.push(Failure { at, why });
                }
            }
        }
    }
    done.longest_gap = done.longest_gap.max(end - last_good);
    done.latencies.sort();
    done
}

impl Summary {
    /// The least latency that a share `q` of the successes does not exceed.
    pub fn quantile(&self, q: f64) -> Duration {
        let rank = (self.latencies.len() as f64 * q).ceil() as usize;
        self.latencies.get(rank.max(1) - 1).copied().unwrap_or_default()
    }

    pub fn json(&self) -> Value {
        let ms = |d: Duration| (d.as_secs_f64() * 1e6).round() / 1e3;
        let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
        for failure in &self.failures {
            *reasons.entry(&failure.why).or_default() += 1;
        }
        let failures: Vec<Value> = self.failures.iter().map(|f| json!({ "at_ms": ms(f.at), "why": f.why })).collect();
        json!({
            "began_ms": u64::try_from(self.began_ms).unwrap_or(u64::MAX),
            "sent": self.sent,
            "failed": self.failed,
            "failed_as": reasons,
            "failures": failures,
            "longest_gap_ms": ms(self.longest_gap),
            "latency_ms": {
                "p50": ms(self.quantile(0.5)),
                "p90": ms(self.quantile(0.9)),
                "p99": ms(self.quantile(0.99)),
                "max": ms(self.quantile(1.0)),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn the_longest_gap_lies_between_successes() {
        let good = |at| Sample { at: ms(at), result: Ok(ms(2)) };
        let bad = |at| Sample { at: ms(at), result: Err("refused".into()) };
        let done = summary(vec![good(0), bad(30), good(10), bad(20), good(40), good(50)], 0);
        assert_eq!((done.sent, done.failed, done.longest_gap), (6, 2, ms(30)));
        assert_eq!(done.failures.iter().map(|f| f.at).collect::<Vec<_>>(), [ms(20), ms(30)]);
        assert_eq!(summary(vec![good(0), bad(70)], 0).longest_gap, ms(70), "open at the end");
        assert_eq!(summary(vec![bad(0), good(60)], 0).longest_gap, ms(60), "open at the beginning");
        assert_eq!(summary(Vec::new(), 0).quantile(0.99), Duration::ZERO);
    }

    #[test]
    fn only_complete_good_answers_count() {
        for (answer, good) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", true),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", false),
            ("HTTP/1.1 200 OK\r\n\r\nwhatever", true),
            ("HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\ncontent-le", false),
            ("", false),
        ] {
            assert_eq!(judge(answer.as_bytes()).is_ok(), good, "{answer:?}");
        }
    }
}
