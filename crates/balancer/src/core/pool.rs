//! Idle connections to one endpoint, per core.
//!
//! The fault that all proxies are reported for: a request written to a connection that the server has just closed.
//! So: short idle times, the freshest first, a look at the socket before use, and what must not be sent twice goes only
//! where the race is all but impossible.

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::time::Duration;

use holdfast_policy::Timestamp;
use socket2::SockRef;
use tokio::net::TcpStream;

/// A request that must not be sent twice uses only a connection idle for less than this.
const FRESH_ENOUGH: Duration = Duration::from_secs(1);

/// Closed this much before the time the server announced.
const KEEP_ALIVE_MARGIN: Duration = Duration::from_secs(1);

/// Idle connections per endpoint and core; more are closed.
const IDLE_MAX: usize = 256;

#[derive(Debug)]
struct Idle {
    stream: TcpStream,
    since: Timestamp,
    until: Timestamp,
}

#[derive(Debug, Default)]
pub(crate) struct Pool {
    /// Freshest at the back.
    idle: VecDeque<Idle>,
}

impl Pool {
    /// A connection that was open a moment ago. `careful`: the request must not be sent twice.
    pub(crate) fn take(&mut self, now: Timestamp, careful: bool) -> Option<TcpStream> {
        while let Some(idle) = self.idle.pop_back() {
            if now >= idle.until {
                // What is older expired earlier.
                self.idle.clear();
                return None;
            }
            if careful && now.since(idle.since) >= FRESH_ENOUGH {
                self.idle.push_back(idle);
                return None;
            }
            if is_quiet(&idle.stream, careful) {
                return Some(idle.stream);
            }
        }
        None
    }

    pub(crate) fn give(&mut self, stream: TcpStream, now: Timestamp, limit: Duration, keep_alive_s: Option<u32>) {
        let announced = keep_alive_s.map(|s| Duration::from_secs(u64::from(s)).saturating_sub(KEEP_ALIVE_MARGIN));
        let idle = limit.min(announced.unwrap_or(Duration::MAX));
        if idle.is_zero() {
            return;
        }
        if self.idle.len() >= IDLE_MAX {
            self.idle.pop_front();
        }
        self.idle.push_back(Idle { stream, since: now, until: now + idle });
    }

    pub(crate) fn purge(&mut self, now: Timestamp) {
        self.idle.retain(|i| now < i.until && is_quiet(&i.stream, false));
    }

    pub(crate) fn len(&self) -> usize {
        self.idle.len()
    }
}

/// Neither closed nor with bytes that nobody asked for. `ask_kernel` costs a system call; otherwise the readiness that
/// the event loop saw last decides.
fn is_quiet(stream: &TcpStream, ask_kernel: bool) -> bool {
    let would_block = |e: std::io::Error| e.kind() == std::io::ErrorKind::WouldBlock;
    if ask_kernel {
        let mut byte = [MaybeUninit::uninit()];
        return SockRef::from(stream).peek(&mut byte).is_err_and(would_block);
    }
    stream.try_read(&mut [0]).is_err_and(would_block)
}
