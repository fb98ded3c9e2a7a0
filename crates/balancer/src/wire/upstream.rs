//! A try at one endpoint: connect or take from the pool, send, wait for the head of the answer.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use holdfast_host::clock;
use holdfast_policy::Timestamp;
use holdfast_policy::balance::{Failure, Verdict};
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::core::Core;
use crate::core::route::{InFlight, Lane, Route};
use crate::core::sweep::Watch;
use crate::wire::answer::Refusal;
use crate::wire::body::Body;
use crate::wire::buffer::{Lease, SIZE_BYTES};
use crate::wire::head::response::{Asked, Response, read_response};
use crate::wire::io::{self, End};

/// Interim answers before the final one; more is an endpoint gone astray.
const INTERIM_MAX: u32 = 16;

/// Largest head of an answer.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// An answer with a length that fits here, head and body, is held until it is whole: when its endpoint dies in the middle of
/// it, nothing has reached the client, and the request can still go elsewhere.
const HELD_BYTES_MAX: usize = SIZE_BYTES;

/// Read at once from endpoints with much to say.
pub(crate) const LARGE_BYTES: usize = 64 << 10;

#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) stream: TcpStream,
    pub(crate) buffer: Lease,
    pub(crate) pooled: bool,
    pub(crate) sent_at: Timestamp,
    /// Between two pieces of a held answer.
    idle: Duration,
    core: Rc<Core>,
    _in_flight: InFlight,
}

/// A head that was read, and whether the client's connection survives it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    pub(crate) response: Response,
    pub(crate) keep: bool,
}

/// What was received so far, read as an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Head {
    Partial,
    /// The head is there; the rest of a small body is not, and nothing was taken from the buffer.
    Held,
    Interim(Response),
    Final(Answer),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failed {
    Try {
        failure: Failure,
        refused: bool,
    },
    /// The agent says that the endpoint hangs; the connection is still open.
    Hung(Verdict),
    /// Not HTTP, or heads without end.
    NotHttp,
    /// The client's body cannot be passed on; the endpoint is not to blame.
    Client(Refusal),
}

impl Failed {
    fn of(failure: Failure) -> Failed {
        Failed::Try { failure, refused: false }
    }
}

/// How a connection is chosen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Want {
    /// Not from the pool.
    pub(crate) fresh: bool,
    /// Must not be sent twice.
    pub(crate) careful: bool,
}

/// Connects, or takes a pooled connection.
pub(crate) async fn open(
    core: &Rc<Core>,
    watch: &Watch,
    route: &Route,
    lane: &Lane,
    want: Want,
) -> Result<Upstream, Failed> {
    let in_flight = InFlight::enter(core, lane.slot);
    let now = clock::now();
    let pooled = if want.fresh { None } else { lane.memory.pool.borrow_mut().take(now, want.careful) };
    let (stream, pooled) = match pooled {
        Some(stream) => (stream, true),
        None => (connect(watch, route, lane, now).await?, false),
    };
    let buffer = Lease::take(core);
    let idle = route.timeouts.idle;
    Ok(Upstream { stream, buffer, pooled, sent_at: now, idle, core: core.clone(), _in_flight: in_flight })
}

async fn connect(watch: &Watch, route: &Route, lane: &Lane, now: Timestamp) -> Result<TcpStream, Failed> {
    watch.arm(now + route.timeouts.connect);
    let mut connecting = std::pin::pin!(TcpStream::connect(lane.addr));
    let connected = poll_fn(|cx| match connecting.as_mut().poll(cx) {
        Poll::Ready(result) => Poll::Ready(Some(result)),
        Poll::Pending if watch.is_expired() => Poll::Ready(None),
        Poll::Pending => {
            watch.park(cx);
            Poll::Pending
        }
    })
    .await;
    match connected {
        Some(Ok(stream)) => {
            let _ = SockRef::from(&stream).set_tcp_nodelay(true);
            Ok(stream)
        }
        Some(Err(e)) => {
            Err(Failed::Try { failure: Failure::NotConnected, refused: e.kind() == ErrorKind::ConnectionRefused })
        }
        None => Err(Failed::of(Failure::NotConnected)),
    }
}

impl Upstream {
    /// Sends `bytes` whole.
    pub(crate) async fn send(&mut self, watch: &Watch, route: &Route, bytes: &[u8]) -> Result<(), Failed> {
        watch.arm(self.core.coarse_now() + route.timeouts.first_byte);
        let mut written = 0;
        match io::write_all(watch, &mut self.stream, bytes, &mut written).await {
            Ok(()) => Ok(()),
            Err(End::Expired) => Err(Failed::of(Failure::TimedOut)),
            Err(_) if written == 0 => Err(Failed::of(Failure::Unsent)),
            // It may have answered before it closed: an early refusal of a large body.
            Err(_) => Ok(()),
        }
    }

    /// Waits for the head of the final answer; `out` gets what the client is to see of it. With `movable`, a verdict
    /// against the endpoint ends the wait.
    pub(crate) async fn answer(
        &mut self,
        watch: &Watch,
        asked: Asked,
        movable: bool,
        out: &mut Vec<u8>,
    ) -> Result<Answer, Failed> {
        let mut interim = 0;
        loop {
            while !self.buffer.is_empty() {
                match self.head(asked, out)? {
                    Head::Final(answer) => {
                        watch.answered();
                        return Ok(answer);
                    }
                    Head::Interim(_) if interim == INTERIM_MAX => return Err(Failed::NotHttp),
                    Head::Interim(_) => interim += 1,
                    Head::Held => {
                        watch.arm(self.core.coarse_now() + self.idle);
                        break;
                    }
                    Head::Partial => break,
                }
            }
            self.more(watch, movable).await?;
        }
    }

    /// One head from what was received; an interim one is passed on as it is.
    pub(crate) fn head(&mut self, asked: Asked, out: &mut Vec<u8>) -> Result<Head, Failed> {
        let (bytes, before) = (self.buffer.filled(), out.len());
        let Some((response, keep)) = read_response(bytes, asked, out).map_err(|_| Failed::NotHttp)? else {
            if self.buffer.is_full() {
                if self.buffer.len() >= HEAD_BYTES_MAX {
                    return Err(Failed::NotHttp);
                }
                self.buffer.grow(HEAD_BYTES_MAX);
            }
            return Ok(Head::Partial);
        };
        let is_final = response.status >= 200 || response.status == 101;
        if is_final && is_held(&response, bytes.len()) {
            out.truncate(before);
            return Ok(Head::Held);
        }
        if !is_final && response.status != 100 && asked.minor == 1 {
            out.extend_from_slice(&bytes[..response.len]);
        }
        self.buffer.consume(response.len);
        Ok(if is_final { Head::Final(Answer { response, keep }) } else { Head::Interim(response) })
    }

    async fn more(&mut self, watch: &Watch, movable: bool) -> Result<(), Failed> {
        let nothing_yet = self.buffer.is_empty();
        let (stream, buffer) = (&mut self.stream, &mut self.buffer);
        let got = poll_fn(|cx| {
            let got = io::poll_fill(cx, watch, stream, buffer);
            match (&got, movable.then(|| watch.take_hung()).flatten()) {
                (Poll::Pending, Some(verdict)) => Poll::Ready(Err(Failed::Hung(verdict))),
                _ => got.map(|result| {
                    result.map(|_| ()).map_err(|end| match end {
                        End::Expired => Failed::of(Failure::TimedOut),
                        _ => Failed::of(Failure::NoAnswer { pooled: false }),
                    })
                }),
            }
        })
        .await;
        got.map_err(|failed| match failed {
            // Half an answer is the beginning of one, but nothing of it reached the client.
            Failed::Try { failure: Failure::NoAnswer { .. }, .. } => {
                Failed::of(Failure::NoAnswer { pooled: self.pooled && nothing_yet })
            }
            other => other,
        })
    }

    /// Back to the pool, when the whole answer was read and nothing is left over.
    pub(crate) fn release(self, route: &Route, lane: &Lane, response: &Response, now: Timestamp) {
        if response.reusable && self.buffer.is_empty() {
            lane.memory.pool.borrow_mut().give(self.stream, now, route.timeouts.pool_idle, response.keep_alive_s);
        }
    }
}

fn is_held(response: &Response, received: usize) -> bool {
    let Body::Length(length) = response.body else { return false };
    let whole = (response.len as u64).saturating_add(length);
    whole <= HELD_BYTES_MAX as u64 && (received as u64) < whole
}
