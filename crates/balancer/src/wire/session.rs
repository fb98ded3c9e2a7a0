//! A client's connection: one request after the other until either side has enough.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;

use holdfast_host::clock;
use holdfast_policy::Timestamp;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::access_log::Line;
use crate::core::route::Route;
use crate::core::sweep::Watched;
use crate::core::{Balancer, Core};
use crate::shared::Count;
use crate::wire::answer::Refusal;
use crate::wire::buffer::Lease;
use crate::wire::head::{Request, Rules, read_request, trusts};
use crate::wire::io::{self, End};

/// After a last answer the client gets so long to read it before the socket goes.
const LINGER: Duration = Duration::from_secs(1);

/// Bytes of an unwanted body that are read away meanwhile.
const LINGER_BYTES_MAX: usize = 1 << 20;

/// Idle connections are closed so long after a drain began: a request that is on its way still gets its answer.
pub(crate) const DRAIN_IDLE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) core: Rc<Core>,
    pub(crate) balancer: Rc<Balancer>,
    pub(crate) stream: TcpStream,
    peer: SocketAddr,
    peer_text: String,
    pub(crate) watch: Watched,
    pub(crate) buffer: Option<Lease>,
    /// The request head for the endpoint, and a small body behind it.
    pub(crate) head: Vec<u8>,
    /// What goes to the client next.
    pub(crate) out: Vec<u8>,
    line: Vec<u8>,
}

enum Next {
    Request(Request),
    Refused(Refusal),
    Closed,
}

/// How a request ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Done {
    pub(crate) status: u16,
    /// Bytes of the answer's body, framing included.
    pub(crate) bytes: u64,
    pub(crate) keep: bool,
    pub(crate) lane: Option<usize>,
    pub(crate) tries: u32,
    pub(crate) end: Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Whole,
    /// The answer broke off on the endpoint's side.
    Broken,
    /// Not answered by an instance: kept in a queue for later.
    Kept,
    /// The client went away.
    Client,
}

impl Session {
    pub(crate) fn new(core: &Rc<Core>, balancer: Rc<Balancer>, stream: TcpStream, peer: SocketAddr) -> Session {
        Session {
            core: core.clone(),
            balancer,
            stream,
            peer,
            peer_text: peer.ip().to_canonical().to_string(),
            watch: core.sweep.watch(),
            buffer: None,
            head: Vec::new(),
            out: Vec::new(),
            line: Vec::new(),
        }
    }

    pub(crate) async fn run(mut self) {
        let mut first = true;
        loop {
            match self.next_request(first).await {
                Next::Request(request) => {
                    if !self.handle(&request).await {
                        break;
                    }
                }
                Next::Refused(refusal) => {
                    self.refuse_unread(refusal).await;
                    break;
                }
                Next::Closed => break,
            }
            first = false;
        }
    }

    async fn next_request(&mut self, first: bool) -> Next {
        let Some(route) = self.balancer.route() else { return Next::Closed };
        if self.buffer.as_ref().is_some_and(|b| b.is_empty()) {
            self.buffer = None;
        }
        let rules = Rules {
            header_bytes: route.limits.header_bytes,
            headers: route.limits.headers,
            client: &self.peer_text,
            trusted: trusts(&route.trusted, self.peer.ip()),
        };
        let mut begun = first || self.buffer.is_some();
        let limit = if begun { route.timeouts.request_head } else { self.idle_limit(&route) };
        self.watch.arm(self.core.coarse_now() + limit);
        self.watch.set_idle(!begun);
        loop {
            if let Some(buffer) = &mut self.buffer {
                self.head.clear();
                self.line.clear();
                match read_request(buffer.filled(), &rules, &mut self.head, &mut self.line) {
                    Ok(Some(request)) => {
                        self.watch.set_idle(false);
                        return Next::Request(request);
                    }
                    Ok(None) if buffer.is_full() => buffer.grow(route.limits.header_bytes.saturating_mul(2)),
                    Ok(None) => {}
                    Err(refusal) => return Next::Refused(refusal),
                }
            }
            match Self::more(&self.core, &self.watch, &mut self.stream, &mut self.buffer).await {
                Ok(()) if !begun => {
                    begun = true;
                    self.watch.set_idle(false);
                    self.watch.arm(self.core.coarse_now() + route.timeouts.request_head);
                }
                Ok(()) => {}
                Err(End::Expired) if self.buffer.is_some() => return Next::Refused(Refusal::HeadTimeout),
                Err(_) => return Next::Closed,
            }
        }
    }

    fn idle_limit(&self, route: &Route) -> Duration {
        if self.core.is_draining() { DRAIN_IDLE.min(route.timeouts.keep_alive) } else { route.timeouts.keep_alive }
    }

    /// Takes a buffer only once there is something to put into it.
    async fn more(
        core: &Rc<Core>,
        watch: &Watched,
        stream: &mut TcpStream,
        buffer: &mut Option<Lease>,
    ) -> Result<(), End> {
        if buffer.is_none() {
            poll_fn(|cx| {
                if watch.is_expired() {
                    return Poll::Ready(Err(End::Expired));
                }
                match stream.poll_read_ready(cx) {
                    Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
                    Poll::Ready(Err(e)) => Poll::Ready(Err(End::Failed(e))),
                    Poll::Pending => {
                        watch.park(cx);
                        Poll::Pending
                    }
                }
            })
            .await?;
        }
        let mut lease = buffer.take().unwrap_or_else(|| Lease::take(core));
        let filled = io::fill(watch, stream, &mut lease).await;
        if !lease.is_empty() {
            *buffer = Some(lease);
        }
        filled.map(|_| ())
    }

    /// Answers one request; false when the connection ends with it.
    async fn handle(&mut self, request: &Request) -> bool {
        let started = clock::now();
        let _busy = self.core.begin();
        if let Some(buffer) = &mut self.buffer {
            buffer.consume(request.len);
        }
        let Some(mut route) = self.balancer.route() else {
            self.refuse_unread(Refusal::Gone).await;
            return false;
        };
        let _place = Place::take(&route);
        if let Some(total) = route.timeouts.total {
            self.watch.arm_total(started + total);
        }
        self.out.clear();
        let done = loop {
            if let Some(done) = self.exchange(&route, request, started).await {
                break done;
            }
            self.out.clear();
            route = self.balancer.route().unwrap_or(route);
        };
        self.watch.answered();
        self.watch.disarm();
        self.account(&route, &done, started);
        if !done.keep && matches!(done.end, Ended::Whole | Ended::Kept) {
            self.linger().await;
        }
        done.keep
    }

    fn account(&mut self, route: &Route, done: &Done, started: Timestamp) {
        let table = &self.core.process.table;
        let slot = self.core.process.slot;
        match done.end {
            Ended::Whole if done.status < 500 => table.count(route.slot, slot, Count::Good),
            Ended::Kept => table.count(route.slot, slot, Count::Degraded),
            Ended::Whole | Ended::Broken => table.count(route.slot, slot, Count::Failed),
            Ended::Client => {}
        }
        let Some(log) = route.log else { return };
        let now = clock::now();
        let kept = route.fallback.as_ref().filter(|_| done.end == Ended::Kept).map(|f| format!("queue:{}", f.queue));
        let lane = done.lane.and_then(|i| route.lanes.get(i)).map(|l| l.instance.as_str());
        let instance = kept.as_deref().or(lane);
        let line = Line {
            client: &self.peer_text,
            request: &self.line,
            status: done.status,
            bytes: done.bytes,
            took: now.since(started),
            instance: instance.unwrap_or_default(),
            tries: done.tries,
        };
        self.core.log.borrow_mut().push(log, now, &line);
    }

    /// The answer to a request that was not understood: nothing after it can be trusted, so the connection ends.
    async fn refuse_unread(&mut self, refusal: Refusal) {
        let now = clock::now();
        self.out.clear();
        refusal.write(&mut self.out, false, 1, false);
        self.flush_out(Duration::from_secs(1)).await;
        if let Some(route) = self.balancer.route() {
            let bytes = self.out.len() as u64;
            let done = Done { status: refusal.status(), bytes, keep: false, lane: None, tries: 0, end: Ended::Whole };
            self.account(&route, &done, now);
        }
        self.linger().await;
    }

    /// Writes `out` to the client.
    pub(crate) async fn flush_out(&mut self, limit: Duration) -> bool {
        self.watch.arm(self.core.coarse_now() + limit);
        let mut written = 0;
        io::write_all(&self.watch, &mut self.stream, &self.out, &mut written).await.is_ok()
    }

    /// Closes so that the client can read the last answer: bytes of its that nobody read would reset the connection.
    async fn linger(&mut self) {
        if self.stream.shutdown().await.is_err() {
            return;
        }
        self.watch.arm(self.core.coarse_now() + LINGER);
        let mut lease = Lease::take(&self.core);
        let mut total = 0;
        while total < LINGER_BYTES_MAX {
            match io::fill(&self.watch, &mut self.stream, &mut lease).await {
                Ok(count) => total += count,
                Err(_) => return,
            }
            let count = lease.len();
            lease.consume(count);
        }
    }
}

/// A request counted at its balancer.
struct Place {
    common: std::sync::Arc<crate::core::Common>,
}

impl Place {
    fn take(route: &Route) -> Place {
        route.common.in_flight.fetch_add(1, Relaxed);
        Place { common: route.common.clone() }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.common.in_flight.fetch_sub(1, Relaxed);
    }
}
