//! One request: choose an endpoint, try, and decide after each failure by the replay table.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use holdfast_host::clock;
use holdfast_policy::Timestamp;
use holdfast_policy::balance::{Act, Choice, Failure, Next, Signal, Tier, Why, fallback, hang, replay};

use crate::core::route::{Lane, RetryPlace, Route};
use crate::core::stats::Totals;
use crate::fault;
use crate::shared::Count;
use crate::wire::answer::Refusal;
use crate::wire::body::Body;
use crate::wire::buffer::Lease;
use crate::wire::head::request::{Method, Request};
use crate::wire::head::response::Asked;
use crate::wire::io;
use crate::wire::pump::{HOLD_BYTES_MAX, Pump};
use crate::wire::session::{Done, Ended, Session};
use crate::wire::upstream::{self, Answer, Failed, Upstream, Want};

mod keep;

/// The request's body: whole behind the head, or still on its way.
#[derive(Debug)]
pub(crate) enum Payload {
    Whole,
    Stream(Pump),
}

/// What the tries so far were.
#[derive(Debug, Default)]
struct Tries {
    count: u32,
    rests: u32,
    /// How many there were when it last rested.
    before_rest: u32,
    replays: u32,
    tried: Vec<usize>,
    fresh: bool,
    /// Moved or hedged already.
    moved: bool,
    /// How the latest try failed.
    failure: Option<Failure>,
    /// An instance may have acted on it.
    acted: bool,
    last: Option<(usize, Failure)>,
    /// The endpoint that the present try is at; a moved request ends elsewhere than it began.
    at: usize,
    /// Held while a budgeted retry runs.
    place: Option<RetryPlace>,
}

type Tried = Result<(Upstream, Answer), Failed>;

/// Why there is no endpoint for a request.
#[derive(Clone, Copy, Debug)]
enum Unchosen {
    Refused(Refusal),
    /// All that may be used were tried.
    Tried,
}

impl Unchosen {
    fn refusal(self, tries: &Tries) -> Refusal {
        match (self, tries.last) {
            (Unchosen::Refused(refusal), _) => refusal,
            (Unchosen::Tried, Some((_, Failure::TimedOut))) => Refusal::GatewayTimeout,
            (Unchosen::Tried, _) => Refusal::BadGateway,
        }
    }
}

impl Tries {
    /// A place in the retry budget. The one that is held is given up first, so that a request never counts twice.
    fn take_place(&mut self, route: &Route) -> bool {
        self.place = None;
        self.place = route.retry_place();
        self.place.is_some()
    }

    fn known(&self, request: &Request, payload: &Payload, casualty: bool) -> replay::Request {
        replay::Request {
            idempotent: request.idempotent,
            replayable: payload.is_replayable(),
            tries: self.count - self.before_rest,
            rests: self.rests,
            replays: self.replays,
            casualty,
        }
    }
}

impl Payload {
    fn is_replayable(&self) -> bool {
        match self {
            Payload::Whole => true,
            Payload::Stream(pump) => pump.is_replayable(),
        }
    }
}

impl Request {
    pub(crate) fn asked(&self, draining: bool) -> Asked {
        Asked {
            head_only: self.method == Method::Head,
            minor: self.minor,
            keep_alive: self.keep_alive && !draining,
            upgrade: self.upgrade,
        }
    }

    /// May be sent twice, and nothing but its head is needed for it.
    fn is_movable(&self) -> bool {
        self.idempotent && self.body == Body::Empty && !self.upgrade
    }
}

impl Session {
    /// `None`: nobody is active at present; the request goes on by the snapshot that is then in force.
    pub(crate) async fn exchange(&mut self, route: &Route, request: &Request, started: Timestamp) -> Option<Done> {
        let mut payload = match self.payload(route, request).await {
            Ok(payload) => payload,
            Err(refusal) => return Some(self.refuse(route, request, refusal, &Tries::default()).await),
        };
        let mut tries = Tries::default();
        let mut now = started;
        loop {
            let index = match self.choose(route, &mut tries, now) {
                Ok(index) => index,
                Err(Unchosen::Tried | Unchosen::Refused(Refusal::NotReady { .. }))
                    if self.awaits_active(route, request, &tries, started) =>
                {
                    io::expire(&self.watch).await;
                    return None;
                }
                Err(Unchosen::Tried) if self.rests(route, request, &payload, &mut tries) => {
                    io::expire(&self.watch).await;
                    now = clock::now();
                    continue;
                }
                Err(unchosen) => {
                    let refusal = unchosen.refusal(&tries);
                    return Some(self.give_up(route, request, payload, refusal, &tries).await);
                }
            };
            tries.count += 1;
            tries.at = index;
            let lane = &route.lanes[index];
            lane.memory.stats.borrow_mut().totals.requests += 1;
            let tried = match self.core.fault(&route.name, lane) {
                // As if the endpoint had said it: what the file has retried is retried.
                Some(fault::Kind::Error(status)) => {
                    now = clock::now();
                    let status = self.fault_status(route, lane, status, now);
                    if route.retry_statuses.contains(&status)
                        && self.again(route, index, Failure::Status, request, &payload, &mut tries, false)
                    {
                        continue;
                    }
                    return Some(self.refuse(route, request, Refusal::Fault(status), &tries).await);
                }
                fault => self.attempt(route, index, request, &mut payload, &mut tries, fault).await,
            };
            now = clock::now();
            let index = tries.at;
            match tried {
                Ok((upstream, answer)) => {
                    self.core.process.table.answered(route.lanes[index].slot, now);
                    if self.answered(route, index, &upstream, &answer, request, &payload, &mut tries, now) {
                        self.out.clear();
                        continue;
                    }
                    return Some(self.relay(route, index, request, upstream, answer, payload, tries.count).await);
                }
                Err(failed) => {
                    self.out.clear();
                    if let Err(refusal) = self.failed(route, index, failed, request, &payload, &mut tries, now) {
                        return Some(self.give_up(route, request, payload, refusal, &tries).await);
                    }
                }
            }
        }
    }

    /// Reads a small body behind the head; larger ones flow.
    async fn payload(&mut self, route: &Route, request: &Request) -> Result<Payload, Refusal> {
        let limit = route.limits.body_bytes;
        let Body::Length(length) = request.body else {
            return Ok(match request.body {
                Body::Empty => Payload::Whole,
                body => Payload::Stream(Pump::holding(body, limit)),
            });
        };
        if length > limit {
            return Err(Refusal::BodyTooLarge);
        }
        if length > HOLD_BYTES_MAX as u64 {
            return Ok(Payload::Stream(Pump::holding(request.body, limit)));
        }
        let mut left = length as usize;
        let mut invited = !request.expects_continue;
        while left > 0 {
            if let Some(buffer) = self.buffer.as_mut().filter(|b| !b.is_empty()) {
                let count = left.min(buffer.len());
                self.head.extend_from_slice(&buffer.filled()[..count]);
                buffer.consume(count);
                left -= count;
                continue;
            }
            if !invited {
                invited = true;
                self.invite(route).await?;
            }
            self.watch.arm(self.core.coarse_now() + route.timeouts.idle);
            let buffer = self.buffer.get_or_insert_with(|| Lease::take(&self.core));
            match io::fill(&self.watch, &mut self.stream, buffer).await {
                Ok(_) => {}
                Err(io::End::Expired) => return Err(Refusal::HeadTimeout),
                Err(_) => return Err(Refusal::Malformed("the body ended early")),
            }
        }
        Ok(Payload::Whole)
    }

    /// `100 Continue` to the client.
    pub(crate) async fn invite(&mut self, route: &Route) -> Result<(), Refusal> {
        self.watch.arm(self.core.coarse_now() + route.timeouts.idle);
        let mut written = 0;
        io::write_all(&self.watch, &mut self.stream, b"HTTP/1.1 100 Continue\r\n\r\n", &mut written)
            .await
            .map_err(|_| Refusal::Malformed("the client went away"))
    }

    fn choose(&self, route: &Route, tries: &mut Tries, now: Timestamp) -> Result<usize, Unchosen> {
        let not_ready = |retry_after_s| Err(Unchosen::Refused(Refusal::NotReady { retry_after_s }));
        match route.pick(&self.core, &tries.tried, now) {
            Choice::Use { index, tier: Tier::LastResort } => {
                // All are out: the least bad gets a trickle, the rest an answer at once.
                if tries.take_place(route) { Ok(index) } else { not_ready(1) }
            }
            Choice::Use { index, .. } => Ok(index),
            Choice::None(Why::Tried) => match tries.last {
                // A pooled connection that the server had closed says nothing against the server.
                Some((index, Failure::NoAnswer { pooled: true })) if tries.count == 1 => Ok(index),
                _ => Err(Unchosen::Tried),
            },
            Choice::None(Why::Full) => Err(Unchosen::Refused(Refusal::Full)),
            Choice::None(Why::NotReady) => not_ready(route.retry_after_s()),
            Choice::None(Why::Empty) => not_ready(1),
        }
    }

    /// Whether to wait for a member of a redundant service that takes over, for which the watch is armed.
    fn awaits_active(&self, route: &Route, request: &Request, tries: &Tries, started: Timestamp) -> bool {
        let sent = tries.last.is_some_and(|(_, f)| !matches!(f, Failure::NotConnected | Failure::Unsent));
        let movable = request.body == Body::Empty && !request.upgrade && (request.idempotent || !sent);
        if !route.redundant || !movable {
            return false;
        }
        let now = clock::now();
        let rng = &mut self.core.rng.borrow_mut();
        let wait = replay::await_active(&route.replay, now.since(started), route.idle_for(now), rng);
        let Some(wait) = wait else { return false };
        self.watch.answered();
        self.watch.arm(now + wait);
        true
    }

    /// Nobody is left to try: whether to wait, for which the watch is armed, and then try all once more.
    fn rests(&self, route: &Route, request: &Request, payload: &Payload, tries: &mut Tries) -> bool {
        let Some((index, failure)) = tries.last else { return false };
        let now = clock::now();
        let failing_for = now.since(self.core.process.table.ejection(route.lanes[index].slot).failing_since);
        let known = tries.known(request, payload, false);
        let rest = replay::rest(&route.replay, failure, known, failing_for, &mut self.core.rng.borrow_mut());
        let Some(rest) = rest else { return false };
        if !tries.take_place(route) {
            return false;
        }
        tries.tried.clear();
        (tries.rests, tries.before_rest) = (tries.rests + 1, tries.count);
        self.watch.answered();
        self.watch.arm(now + rest);
        true
    }

    /// A drill's fault in place of an answer.
    fn fault_status(&self, route: &Route, lane: &Lane, status: u16, now: Timestamp) -> u16 {
        let status = status.clamp(400, 599);
        if (502..=504).contains(&status) {
            self.core.report(route, lane, Signal::Gateway, now);
        }
        status
    }

    async fn attempt(
        &mut self,
        route: &Route,
        index: usize,
        request: &Request,
        payload: &mut Payload,
        tries: &mut Tries,
        fault: Option<fault::Kind>,
    ) -> Tried {
        let lane = &route.lanes[index];
        if fault == Some(fault::Kind::Reset) {
            return Err(Failed::Try { failure: Failure::NoAnswer { pooled: false }, refused: false });
        }
        // A kept connection may be closed for being idle, which would be an answer of a kind.
        let fresh = tries.fresh || fault == Some(fault::Kind::NoAnswer);
        let want = Want { fresh, careful: !request.idempotent };
        let mut upstream = upstream::open(&self.core, &self.watch, route, lane, want).await?;
        self.watch.wait_for(lane.slot, upstream.sent_at);
        match fault {
            None | Some(fault::Kind::Error(_) | fault::Kind::Reset) => {
                upstream.send(&self.watch, route, &self.head).await?
            }
            Some(kind) => self.suffer(kind, route, payload, &mut upstream).await?,
        }
        let asked = request.asked(self.core.is_draining());
        match payload {
            Payload::Stream(pump) => self.stream_request(route, request, asked, upstream, pump).await,
            Payload::Whole => self.await_answer(route, index, request, asked, upstream, tries).await,
        }
    }

    /// A drill's fault between the request and its answer. The request counts as waiting at the endpoint all the while, so that
    /// what watches for slow and silent endpoints sees what it would see of a real one.
    async fn suffer(
        &self,
        kind: fault::Kind,
        route: &Route,
        payload: &Payload,
        upstream: &mut Upstream,
    ) -> Result<(), Failed> {
        let limit = route.timeouts.first_byte;
        match (kind, payload) {
            (fault::Kind::LatencyMs(ms), _) => {
                upstream.send(&self.watch, route, &self.head).await?;
                self.watch.arm(clock::now() + Duration::from_millis(ms).min(limit));
                io::expire(&self.watch).await;
                self.watch.arm(clock::now() + limit);
                Ok(())
            }
            // Nothing was sent, so nothing will come.
            (_, Payload::Whole) => {
                self.watch.arm(clock::now() + limit);
                Ok(())
            }
            (_, Payload::Stream(_)) => {
                self.watch.arm(clock::now() + limit);
                io::expire(&self.watch).await;
                Err(Failed::Try { failure: Failure::TimedOut, refused: false })
            }
        }
    }

    /// Waits for the answer; when the agent says that the endpoint hangs, the request goes on to another one, at once or
    /// beside the first try, as soon as there is one.
    async fn await_answer(
        &mut self,
        route: &Route,
        index: usize,
        request: &Request,
        asked: Asked,
        mut first: Upstream,
        tries: &mut Tries,
    ) -> Tried {
        let movable = request.is_movable() && route.replay.enabled && !tries.moved;
        loop {
            let verdict = match first.answer(&self.watch, asked, movable, &mut self.out).await {
                Ok(answer) => return Ok((first, answer)),
                Err(Failed::Hung(verdict)) => verdict,
                Err(failed) => return Err(failed),
            };
            let act = hang::act(verdict, movable, tries.moved);
            let Some(other) = self.elsewhere(route, index, &tries.tried) else { continue };
            if act == Act::Hedge {
                tries.place = route.retry_place();
                if tries.place.is_none() {
                    continue;
                }
            }
            tries.moved = true;
            tries.count += 1;
            tries.tried.push(index);
            self.core.process.table.count(route.slot, self.core.process.slot, Count::Retried);
            let lane = &route.lanes[other];
            tracing::debug!(from = %route.lanes[index].instance, to = %lane.instance, ?verdict, ?act, "waiting request moves");
            lane.memory.stats.borrow_mut().totals.requests += 1;
            let totals = |note: fn(&mut Totals)| note(&mut route.lanes[index].memory.stats.borrow_mut().totals);
            if act == Act::Hedge {
                totals(|t| t.hedges += 1);
                return self.race(route, other, asked, first, tries).await;
            }
            totals(|t| t.moves += 1);
            drop(first);
            tries.at = other;
            self.watch.answered();
            let (upstream, answer, out) = second(self, route, lane, asked).await?;
            self.out = out;
            return Ok((upstream, answer));
        }
    }

    /// Another endpoint that is known to be in order; when all hang, the evidence is void and nothing moves.
    fn elsewhere(&self, route: &Route, index: usize, tried: &[usize]) -> Option<usize> {
        let now = clock::now();
        let mut tried = tried.to_vec();
        tried.push(index);
        match route.pick(&self.core, &tried, now) {
            Choice::Use { index, tier: Tier::Ready | Tier::Suspect } => {
                self.core.process.table.verdict(route.lanes[index].slot, now).usable().then_some(index)
            }
            _ => None,
        }
    }

    /// Both tries are open; the answer that comes first wins.
    async fn race(
        &mut self,
        route: &Route,
        other: usize,
        asked: Asked,
        mut first: Upstream,
        tries: &mut Tries,
    ) -> Tried {
        let lane = &route.lanes[other];
        let mut out = Vec::new();
        let (one, two) = {
            let mut first_try = std::pin::pin!(first.answer(&self.watch, asked, false, &mut out));
            let mut second_try = std::pin::pin!(second(self, route, lane, asked));
            let (mut first_failed, mut second_failed) = (None, None);
            poll_fn(|cx| {
                if first_failed.is_none() {
                    match first_try.as_mut().poll(cx) {
                        Poll::Ready(Ok(answer)) => return Poll::Ready((Some(Ok(answer)), None)),
                        Poll::Ready(Err(failed)) => first_failed = Some(failed),
                        Poll::Pending => {}
                    }
                }
                if second_failed.is_none() {
                    match second_try.as_mut().poll(cx) {
                        Poll::Ready(Ok(won)) => return Poll::Ready((None, Some(won))),
                        Poll::Ready(Err(failed)) => second_failed = Some(failed),
                        Poll::Pending => {}
                    }
                }
                match (first_failed, second_failed) {
                    (Some(failed), Some(_)) => Poll::Ready((Some(Err(failed)), None)),
                    _ => Poll::Pending,
                }
            })
            .await
        };
        if let Some((upstream, answer, out)) = two {
            self.out = out;
            tries.at = other;
            return Ok((upstream, answer));
        }
        self.out = out;
        match one {
            Some(Ok(answer)) => Ok((first, answer)),
            Some(Err(failed)) => Err(failed),
            None => Err(Failed::NotHttp),
        }
    }

    /// Takes note of an answer; true when it is retried instead of passed on.
    #[allow(clippy::too_many_arguments)]
    fn answered(
        &self,
        route: &Route,
        index: usize,
        upstream: &Upstream,
        answer: &Answer,
        request: &Request,
        payload: &Payload,
        tries: &mut Tries,
        now: Timestamp,
    ) -> bool {
        let lane = &route.lanes[index];
        let status = answer.response.status;
        let gateway = (502..=504).contains(&status);
        let took = now.since(upstream.sent_at);
        let mut ewma = lane.memory.ewma.get();
        if gateway {
            ewma.fail(now)
        } else {
            ewma.observe(now, took)
        }
        lane.memory.ewma.set(ewma);
        let mut stats = lane.memory.stats.borrow_mut();
        stats.observe(now, took);
        stats.totals.gateway_errors += u64::from(gateway);
        drop(stats);
        self.core.report(route, lane, if gateway { Signal::Gateway } else { Signal::Success }, now);
        route.retry_statuses.contains(&status)
            && self.again(route, index, Failure::Status, request, payload, tries, false)
    }

    /// Takes note of a failed try. `Ok` means once more.
    #[allow(clippy::too_many_arguments)]
    fn failed(
        &self,
        route: &Route,
        index: usize,
        failed: Failed,
        request: &Request,
        payload: &Payload,
        tries: &mut Tries,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let lane = &route.lanes[index];
        let (failure, refused) = match failed {
            Failed::Try { failure, refused } => (failure, refused),
            // It answered, though not in HTTP: nothing says that the request had no effect.
            Failed::NotHttp => (Failure::Started, false),
            Failed::Hung(_) => (Failure::TimedOut, false),
            Failed::Client(refusal) => return Err(refusal),
        };
        let casualty = self.take_note(route, lane, failure, refused, now);
        if self.again(route, index, failure, request, payload, tries, casualty) {
            return Ok(());
        }
        Err(if failure == Failure::TimedOut { Refusal::GatewayTimeout } else { Refusal::BadGateway })
    }

    /// Reports the failure; true when the request was sent before the first sign of it.
    fn take_note(&self, route: &Route, lane: &Lane, failure: Failure, refused: bool, now: Timestamp) -> bool {
        let mut stats = lane.memory.stats.borrow_mut();
        match failure {
            Failure::NotConnected => stats.totals.connect_failures += 1,
            Failure::TimedOut => stats.totals.timeouts += 1,
            _ => stats.totals.transport_failures += 1,
        }
        drop(stats);
        let before = self.core.process.table.ejection(lane.slot);
        let casualty = before.failures == 0 || self.watch.waiting_since().is_some_and(|t| t <= before.failing_since);
        // A server may close a kept-alive connection whenever it likes.
        if !matches!(failure, Failure::NoAnswer { pooled: true } | Failure::Unsent) {
            let mut ewma = lane.memory.ewma.get();
            ewma.fail(now);
            lane.memory.ewma.set(ewma);
            self.core.report(route, lane, if refused { Signal::Refused } else { Signal::Transport }, now);
        }
        casualty
    }

    #[allow(clippy::too_many_arguments)]
    fn again(
        &self,
        route: &Route,
        index: usize,
        failure: Failure,
        request: &Request,
        payload: &Payload,
        tries: &mut Tries,
        casualty: bool,
    ) -> bool {
        let known = tries.known(request, payload, casualty);
        tries.place = None;
        tries.failure = Some(failure);
        tries.acted |= fallback::may_have_acted(failure);
        let next = replay::decide(&route.replay, failure, known);
        let Next::Again { fresh, budgeted } = next else { return false };
        if budgeted && !tries.take_place(route) {
            return false;
        }
        tries.fresh |= fresh;
        tries.replays += u32::from(fresh);
        tries.tried.push(index);
        tries.last = Some((index, failure));
        route.lanes[index].memory.stats.borrow_mut().totals.retries += 1;
        self.core.process.table.count(route.slot, self.core.process.slot, Count::Retried);
        tracing::debug!(instance = %route.lanes[index].instance, ?failure, fresh, budgeted, "tried again");
        true
    }

    async fn refuse(&mut self, route: &Route, request: &Request, refusal: Refusal, tries: &Tries) -> Done {
        self.out.clear();
        // A body that was not read would be taken for the next request.
        let keep = request.keep_alive && request.body == Body::Empty && !self.core.is_draining();
        refusal.write(&mut self.out, keep, request.minor, request.method == Method::Head);
        let sent = self.flush_out(route.timeouts.idle).await;
        Done {
            status: refusal.status(),
            bytes: self.out.len() as u64,
            keep: keep && sent,
            lane: tries.last.map(|(index, _)| index),
            tries: tries.count,
            end: if sent { Ended::Whole } else { Ended::Client },
        }
    }
}

/// Opens, sends and waits on a watch of its own, beside another try.
async fn second(
    session: &Session,
    route: &Route,
    lane: &Lane,
    asked: Asked,
) -> Result<(Upstream, Answer, Vec<u8>), Failed> {
    let watch = session.core.sweep.watch();
    let want = Want { fresh: false, careful: false };
    let mut out = Vec::new();
    let mut upstream = upstream::open(&session.core, &watch, route, lane, want).await?;
    watch.wait_for(lane.slot, upstream.sent_at);
    upstream.send(&watch, route, &session.head).await?;
    let answer = upstream.answer(&watch, asked, false, &mut out).await?;
    Ok((upstream, answer, out))
}
