//! Bodies in flight: a request's that is still coming, an answer's, and both directions of an upgraded connection.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use holdfast_host::clock;
use holdfast_policy::balance::{Failure, Signal};
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;

use crate::core::route::Route;
use crate::core::sweep::Watch;
use crate::wire::answer::Refusal;
use crate::wire::body::Body;
use crate::wire::buffer::{Buffer, Lease};
use crate::wire::exchange::Payload;
use crate::wire::head::request::Request;
use crate::wire::head::response::Asked;
use crate::wire::io;
use crate::wire::pump::{Broken, Pump};
use crate::wire::session::{Done, Ended, Session};
use crate::wire::upstream::{Answer, Failed, Head, LARGE_BYTES, Upstream};

/// An endpoint that says nothing to `Expect` for so long gets the body anyway (RFC 9110 section 10.1.1).
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// What ended one step of sending a body.
enum Step {
    Answer(Answer),
    Failed(Failed),
    /// The endpoint wants the body.
    Invited,
    /// Nothing happened within the limit.
    Expired,
    Refused(Refusal),
}

impl Session {
    /// Sends a body as it comes while listening for the answer, which may come before the end of the body.
    pub(crate) async fn stream_request(
        &mut self,
        route: &Route,
        request: &Request,
        asked: Asked,
        mut upstream: Upstream,
        pump: &mut Pump,
    ) -> Result<(Upstream, Answer), Failed> {
        pump.restart();
        if !pump.held().is_empty() {
            upstream.send(&self.watch, route, pump.held()).await?;
        }
        let mut wait_for_invitation = request.expects_continue && pump.count == 0;
        let mut buffer = self.buffer.take().unwrap_or_else(|| Lease::take(&self.core));
        let result = loop {
            let limit = if wait_for_invitation { CONTINUE_WAIT } else { route.timeouts.idle };
            self.watch.arm(self.core.coarse_now() + limit);
            let step = self.step(route, asked, &mut upstream, pump, &mut buffer, wait_for_invitation).await;
            match step {
                Step::Answer(answer) => break Ok((upstream, answer)),
                Step::Failed(failed) => break Err(failed),
                Step::Refused(refusal) => break Err(Failed::Client(refusal)),
                Step::Expired if !wait_for_invitation => {
                    break Err(Failed::Try { failure: Failure::TimedOut, refused: false });
                }
                Step::Invited | Step::Expired => {
                    if wait_for_invitation && self.invite(route).await.is_err() {
                        break Err(Failed::Client(Refusal::Malformed("the client went away")));
                    }
                    wait_for_invitation = false;
                }
            }
        };
        self.buffer = Some(buffer);
        result
    }

    async fn step(
        &mut self,
        route: &Route,
        asked: Asked,
        upstream: &mut Upstream,
        pump: &mut Pump,
        buffer: &mut Buffer,
        hold: bool,
    ) -> Step {
        let (watch, core, client, out) = (&*self.watch, &*self.core, &mut self.stream, &mut self.out);
        let mut sending = !hold;
        let mut was_done = pump.is_done();
        poll_fn(|cx| {
            if sending && !pump.is_done() {
                let moved = pump.moved;
                match pump.poll(cx, buffer, client, &mut upstream.stream) {
                    Poll::Ready(Err(Broken::Sender)) => {
                        return Poll::Ready(Step::Refused(Refusal::Malformed("the body ended early")));
                    }
                    Poll::Ready(Err(Broken::Malformed)) => {
                        return Poll::Ready(Step::Refused(Refusal::Malformed("the body is not well chunked")));
                    }
                    Poll::Ready(Err(Broken::TooLarge)) => return Poll::Ready(Step::Refused(Refusal::BodyTooLarge)),
                    // It may have answered before it closed.
                    Poll::Ready(Err(Broken::Receiver)) => sending = false,
                    Poll::Ready(Ok(())) | Poll::Pending => {}
                }
                if pump.moved != moved {
                    watch.arm(core.coarse_now() + route.timeouts.idle);
                }
            }
            if pump.is_done() && !was_done {
                was_done = true;
                watch.arm(core.coarse_now() + route.timeouts.first_byte);
            }
            // A body that is still coming would be read as the next request.
            let asked = Asked { keep_alive: asked.keep_alive && pump.is_done(), ..asked };
            poll_answer(cx, watch, upstream, asked, out, hold)
        })
        .await
    }

    /// Passes the answer on, and finishes the request's body if it is still coming.
    #[allow(clippy::too_many_arguments)]
    pub(crate) async fn relay(
        &mut self,
        route: &Route,
        index: usize,
        request: &Request,
        mut upstream: Upstream,
        answer: Answer,
        payload: Payload,
        tries: u32,
    ) -> Done {
        let response = answer.response;
        let mut done =
            Done { status: response.status, bytes: 0, keep: answer.keep, lane: Some(index), tries, end: Ended::Whole };
        if response.status == 101 {
            done.keep = false;
            self.tunnel(route, &mut upstream, &mut done).await;
            return done;
        }
        let mut down = Pump::new(response.body);
        let plain = matches!(response.body, Body::Chunked(_)) && request.minor == 0;
        if plain {
            down = down.without_framing();
        }
        if down.prime(&mut upstream.buffer, &mut self.out).is_err() {
            return self.broken(route, index, done, response.body, plain);
        }
        if !self.flush_out(route.timeouts.idle).await {
            done.keep = false;
            done.end = Ended::Client;
            return done;
        }
        let mut up = match payload {
            Payload::Stream(pump) if !pump.is_done() => Some(pump),
            _ => None,
        };
        if !down.is_done() {
            if matches!(response.body, Body::Length(n) if n > LARGE_BYTES as u64) {
                upstream.buffer.grow(LARGE_BYTES);
            }
            let broken = self.finish(route, &mut upstream, &mut down, up.as_mut()).await.err();
            done.bytes = down.count;
            match broken {
                None => {}
                Some(Broken::Receiver) => {
                    done.keep = false;
                    done.end = Ended::Client;
                    return done;
                }
                Some(_) => return self.broken(route, index, done, response.body, plain),
            }
        }
        done.bytes = down.count;
        if up.is_some_and(|pump| !pump.is_done()) {
            // The rest of the body would be read as the next request.
            done.keep = false;
            return done;
        }
        upstream.release(route, &route.lanes[index], &response, self.core.coarse_now());
        done
    }

    async fn finish(
        &mut self,
        route: &Route,
        upstream: &mut Upstream,
        down: &mut Pump,
        mut up: Option<&mut Pump>,
    ) -> Result<(), Broken> {
        let (watch, core, client) = (&*self.watch, &*self.core, &mut self.stream);
        let buffer = &mut self.buffer;
        watch.arm(core.coarse_now() + route.timeouts.idle);
        poll_fn(|cx| {
            let before = down.moved + up.as_ref().map_or(0, |p| p.moved);
            if let (Some(pump), Some(buffer)) = (up.as_mut(), buffer.as_mut())
                && !pump.is_done()
                && let Poll::Ready(Err(broken)) = pump.poll(cx, buffer, client, &mut upstream.stream)
            {
                up = None;
                if broken == Broken::Sender {
                    return Poll::Ready(Err(Broken::Receiver));
                }
            }
            let polled = down.poll(cx, &mut upstream.buffer, &mut upstream.stream, client);
            if down.moved + up.as_ref().map_or(0, |p| p.moved) != before {
                watch.arm(core.coarse_now() + route.timeouts.idle);
            }
            match polled {
                Poll::Pending if watch.is_expired() => Poll::Ready(Err(Broken::Sender)),
                Poll::Pending => {
                    watch.park(cx);
                    Poll::Pending
                }
                ready => ready,
            }
        })
        .await
    }

    /// The answer broke off: the client must see that it is not whole.
    fn broken(&mut self, route: &Route, index: usize, mut done: Done, body: Body, plain: bool) -> Done {
        if body == Body::Close || plain {
            let _ = self.stream.set_zero_linger();
        }
        let lane = &route.lanes[index];
        lane.memory.stats.borrow_mut().totals.transport_failures += 1;
        self.core.report(route, lane, Signal::Transport, clock::now());
        done.keep = false;
        done.end = Ended::Broken;
        done
    }

    /// Both directions until both ended or nothing moves.
    async fn tunnel(&mut self, route: &Route, upstream: &mut Upstream, done: &mut Done) {
        let rest = upstream.buffer.len();
        self.out.extend_from_slice(upstream.buffer.filled());
        upstream.buffer.consume(rest);
        if !self.flush_out(route.timeouts.idle).await {
            done.end = Ended::Client;
            return;
        }
        let mut buffer = self.buffer.take().unwrap_or_else(|| Lease::take(&self.core));
        let (watch, core, client) = (&*self.watch, &*self.core, &mut self.stream);
        let (mut up, mut down) = (Way::new(), Way::new());
        watch.disarm();
        watch.arm(core.coarse_now() + route.timeouts.idle);
        poll_fn(|cx| {
            let before = up.pump.moved + down.pump.moved;
            let sent = up.poll(cx, &mut buffer, client, &mut upstream.stream);
            let received = down.poll(cx, &mut upstream.buffer, &mut upstream.stream, client);
            if up.pump.moved + down.pump.moved != before {
                watch.arm(core.coarse_now() + route.timeouts.idle);
            }
            match (sent, received) {
                (Poll::Ready(true), Poll::Ready(true)) | (Poll::Ready(false), _) | (_, Poll::Ready(false)) => {
                    Poll::Ready(())
                }
                _ if watch.is_expired() => Poll::Ready(()),
                _ => {
                    watch.park(cx);
                    Poll::Pending
                }
            }
        })
        .await;
        done.bytes = down.pump.count;
    }
}

fn poll_answer(
    cx: &mut Context<'_>,
    watch: &Watch,
    upstream: &mut Upstream,
    asked: Asked,
    out: &mut Vec<u8>,
    hold: bool,
) -> Poll<Step> {
    loop {
        while !upstream.buffer.is_empty() {
            match upstream.head(asked, out) {
                Err(failed) => return Poll::Ready(Step::Failed(failed)),
                Ok(Head::Partial | Head::Held) => break,
                Ok(Head::Final(answer)) => {
                    watch.answered();
                    return Poll::Ready(Step::Answer(answer));
                }
                Ok(Head::Interim(response)) if response.status == 100 && hold => return Poll::Ready(Step::Invited),
                Ok(Head::Interim(_)) => {}
            }
        }
        match ready!(io::poll_fill(cx, watch, &mut upstream.stream, &mut upstream.buffer)) {
            Ok(_) => {}
            Err(io::End::Expired) => return Poll::Ready(Step::Expired),
            Err(_) => {
                let failure = Failure::NoAnswer { pooled: upstream.pooled };
                return Poll::Ready(Step::Failed(Failed::Try { failure, refused: false }));
            }
        }
    }
}

/// One direction of a tunnel; its end is passed on as a half-close.
struct Way {
    pump: Pump,
    closed: bool,
}

impl Way {
    fn new() -> Way {
        Way { pump: Pump::new(Body::Close), closed: false }
    }

    /// Ready(true) when this direction ended in good order, Ready(false) when it broke.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut Buffer,
        from: &mut TcpStream,
        to: &mut TcpStream,
    ) -> Poll<bool> {
        if !self.pump.is_done() {
            match ready!(self.pump.poll(cx, buffer, from, to)) {
                Ok(()) => {}
                Err(_) => return Poll::Ready(false),
            }
        }
        if !self.closed {
            self.closed = ready!(Pin::new(to).poll_shutdown(cx)).is_ok();
        }
        Poll::Ready(self.closed)
    }
}
