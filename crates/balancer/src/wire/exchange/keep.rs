//! Store and forward: a request that no instance can answer becomes a message, and its client gets 202.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use holdfast_host::clock;
use holdfast_policy::balance::Failure;
use holdfast_policy::balance::fallback::{self, Lack, Unanswered};

use super::{Payload, Tries};
use crate::core::route::Route;
use crate::snapshot::Fallback;
use crate::wire::answer::{Refusal, write_kept};
use crate::wire::body::Body;
use crate::wire::buffer::Lease;
use crate::wire::head::request::Request;
use crate::wire::pump::Pump;
use crate::wire::queue::{self, Unkept};
use crate::wire::session::{Done, Ended, Session};
use crate::wire::{io, kept};

/// For what is still to come of a body: 512 KiB over a slow line.
const BODY_TIME_MAX: Duration = Duration::from_secs(10);

/// A queue that has not confirmed a message by then has not taken it, as far as the client is told.
const CONFIRM_TIME_MAX: Duration = Duration::from_secs(2);

impl Session {
    /// The last answer to a request: 202 when a queue has it, else the refusal.
    pub(super) async fn give_up(
        &mut self,
        route: &Route,
        request: &Request,
        payload: Payload,
        refusal: Refusal,
        tries: &Tries,
    ) -> Done {
        let may = lack(refusal, tries.failure).is_some_and(|lack| may_keep(lack, request, &payload, tries));
        let Some(fallback) = route.fallback.as_ref().filter(|_| may) else {
            return self.refuse(route, request, refusal, tries).await;
        };
        // Nothing waits at an endpoint any more.
        self.watch.answered();
        // In a box of its own: connections that never need it stay small.
        match Box::pin(self.keep(route, fallback, request, payload)).await {
            Ok(id) => self.confirm(route, request, &id, tries).await,
            Err(refusal) => self.refuse(route, request, refusal, tries).await,
        }
    }

    /// The id of the message that the queue has confirmed.
    async fn keep(
        &mut self,
        route: &Route,
        fallback: &Fallback,
        request: &Request,
        payload: Payload,
    ) -> Result<String, Refusal> {
        let process = self.core.process.clone();
        let (_reading, rest) = match payload {
            Payload::Whole => (None, Vec::new()),
            Payload::Stream(pump) => {
                let Ok(place) = process.keeping.reading.try_acquire() else { return Err(Refusal::NotKept) };
                (Some(place), self.rest(route, request, pump).await?)
            }
        };
        self.watch.arm(clock::now() + CONFIRM_TIME_MAX);
        let unique = self.core.rng.borrow_mut().next_u64();
        let head = &self.head;
        let storing = async {
            let _place = process.keeping.storing.acquire().await.map_err(|_| Unkept::Late)?;
            let message = kept::message(head, &rest, fallback, unique).ok_or(Unkept::NotText)?;
            queue::send(fallback, &message).await
        };
        let stored = io::within(&self.watch, storing).await.unwrap_or(Err(Unkept::Late));
        note(route, fallback, stored.as_ref().err());
        stored.map_err(|_| Refusal::NotKept)
    }

    /// All of a body that was not read before its endpoint was to get it.
    async fn rest(&mut self, route: &Route, request: &Request, mut pump: Pump) -> Result<Vec<u8>, Refusal> {
        if request.expects_continue && pump.count == 0 {
            self.invite(route).await?;
        }
        self.watch.arm(clock::now() + BODY_TIME_MAX);
        let buffer = self.buffer.get_or_insert_with(|| Lease::take(&self.core));
        let mut bytes = pump.gathered(buffer);
        while !pump.body.is_done() {
            if buffer.is_empty() {
                match io::fill(&self.watch, &mut self.stream, buffer).await {
                    Ok(_) => {}
                    Err(io::End::Expired) => return Err(Refusal::HeadTimeout),
                    Err(_) => return Err(Refusal::Malformed("the body ended early")),
                }
            }
            let taken = pump.body.take(buffer.filled(), Some(&mut bytes));
            let count = taken.map_err(|_| Refusal::Malformed("the body is not well framed"))?;
            buffer.consume(count);
        }
        Ok(bytes)
    }

    async fn confirm(&mut self, route: &Route, request: &Request, id: &str, tries: &Tries) -> Done {
        self.out.clear();
        let keep = request.keep_alive && !self.core.is_draining();
        write_kept(&mut self.out, id, keep, request.minor);
        let sent = self.flush_out(route.timeouts.idle).await;
        Done {
            status: 202,
            bytes: self.out.len() as u64,
            keep: keep && sent,
            lane: None,
            tries: tries.count,
            end: if sent { Ended::Kept } else { Ended::Client },
        }
    }
}

/// Why nobody answered; `None` for a refusal that says something else.
fn lack(refusal: Refusal, failure: Option<Failure>) -> Option<Lack> {
    match refusal {
        Refusal::NotReady { .. } => Some(Lack::NotReady),
        Refusal::Full => Some(Lack::Full),
        Refusal::BadGateway | Refusal::GatewayTimeout => failure.map(Lack::Failed),
        _ => None,
    }
}

fn may_keep(lack: Lack, request: &Request, payload: &Payload, tries: &Tries) -> bool {
    fallback::may_keep(&Unanswered {
        lack,
        safe: request.safe,
        idempotent: request.idempotent,
        acted: tries.acted,
        upgrade: request.upgrade,
        body_bytes: match request.body {
            Body::Empty => Some(0),
            Body::Length(length) => Some(length),
            Body::Chunked(_) | Body::Close => None,
        },
        replayable: payload.is_replayable(),
    })
}

/// Told once when it begins to fail and once when it works again, not for each request.
fn note(route: &Route, fallback: &Fallback, failed: Option<&Unkept>) {
    if failed.is_some_and(Unkept::is_of_the_request) {
        return;
    }
    let before = route.common.unkept.swap(failed.is_some(), Relaxed);
    match failed {
        Some(error) if !before => tracing::warn!(
            balancer = route.name,
            queue = fallback.queue,
            %error,
            "requests are not kept: their clients get 503"
        ),
        None if before => tracing::info!(balancer = route.name, queue = fallback.queue, "requests are kept again"),
        _ => {}
    }
}
