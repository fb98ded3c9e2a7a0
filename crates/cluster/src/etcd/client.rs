//! Which member is asked, how often, and who we say we are.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use holdfast_policy::backoff::Backoff;
use holdfast_policy::rng::Rng;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::connection::{Call, Lines};
use super::endpoint::Endpoint;
use super::failure::Failure;
use super::options::{Address, Login, Options};
use super::tls;
use super::wire::Streamed;
use crate::{Error, Result};

/// Between rounds through all members, none of which did it.
const BETWEEN_ROUNDS: Backoff =
    Backoff { base: Duration::from_millis(50), factor: 2.0, max: Duration::from_millis(500), jitter: 0.3 };

/// A renewal that is not answered for so long is sent to another member as well: a short lease stands no second one that waits
/// for its limit at a member that is stopped, cut off, or has a slow disk.
const ELSEWHERE_AFTER: Duration = Duration::from_millis(500);

/// Of one request; more means that a member forgets tokens as fast as it gives them.
const LOGINS_MAX: u32 = 2;

/// Whether a request may reach etcd twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Reads, and what has the same effect however often it is done.
    Yes,
    /// Only when it is certain that nothing was done.
    No,
}

/// A failure and where it happened.
#[derive(Debug)]
pub(super) struct Failed {
    pub failure: Failure,
    pub endpoint: String,
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Error {
        failed.failure.into_error(&failed.endpoint)
    }
}

pub(super) struct Client {
    endpoints: Vec<Endpoint>,
    /// Who answered last.
    current: AtomicUsize,
    login: Option<Login>,
    session: tokio::sync::Mutex<Session>,
    pub request_timeout: Duration,
    rng: Mutex<Rng>,
}

/// Held while logging in, so that many requests log in once.
#[derive(Default)]
struct Session {
    token: Option<Arc<str>>,
    /// The cluster has no users although we have a password.
    auth_is_off: bool,
}

#[derive(Deserialize)]
struct Authenticated {
    token: String,
}

impl Client {
    pub(super) fn new(options: &Options) -> Result<Client> {
        let addresses = options.parsed()?;
        let tls = match addresses.iter().any(|a| a.tls) {
            true => Some(tls::config(&options.tls)?),
            false => None,
        };
        let endpoint = |address: Address| {
            let tls = tls.clone().filter(|_| address.tls);
            Endpoint::new(address, tls, options.connect_timeout)
        };
        Ok(Client {
            endpoints: addresses.into_iter().map(endpoint).collect(),
            current: AtomicUsize::new(0),
            login: options.login.clone(),
            session: tokio::sync::Mutex::default(),
            request_timeout: options.request_timeout,
            rng: Mutex::new(Rng::from_seed(options.seed)),
        })
    }

    pub(super) fn len(&self) -> usize {
        self.endpoints.len()
    }

    pub(super) fn name(&self, index: usize) -> &str {
        &self.endpoints[index].name
    }

    pub(super) fn delay(&self, backoff: &Backoff, n: u32) -> Duration {
        backoff.delay(n, &mut self.rng.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From the one that answered last; those that gave trouble lately come last.
    fn order(&self) -> Vec<usize> {
        let (now, current, count) = (Instant::now(), self.current.load(Ordering::Relaxed), self.endpoints.len());
        let mut order: Vec<usize> = (0..count).map(|n| (current + n) % count).collect();
        order.sort_by_key(|index| self.endpoints[*index].is_troubled(now));
        order
    }

    /// For a stream.
    pub(super) fn best(&self) -> usize {
        self.order()[0]
    }

    pub(super) fn troubled(&self, index: usize) {
        self.endpoints[index].troubled();
    }

    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        path: &str,
        request: &Value,
        repeat: Repeat,
    ) -> std::result::Result<T, Failed> {
        self.call_for(path, request, repeat, read).await
    }

    /// `read` makes of a body what is wanted; what it refuses counts as garbage.
    pub(super) async fn call_for<T>(
        &self,
        path: &str,
        request: &Value,
        repeat: Repeat,
        read: fn(&[u8]) -> std::result::Result<T, Failure>,
    ) -> std::result::Result<T, Failed> {
        self.rounds(path, request, repeat, 0, read).await
    }

    /// As [`Self::call_for`], at two members at once when the first does not answer soon; for what has the same effect twice.
    pub(super) async fn call_both<T>(
        &self,
        path: &str,
        request: &Value,
        read: fn(&[u8]) -> std::result::Result<T, Failure>,
    ) -> std::result::Result<T, Failed> {
        let mut first = pin!(self.rounds(path, request, Repeat::Yes, 0, read));
        if self.len() < 2 {
            return first.await;
        }
        if let Ok(answer) = timeout(ELSEWHERE_AFTER, &mut first).await {
            return answer;
        }
        let mut second = pin!(self.rounds(path, request, Repeat::Yes, 1, read));
        let is_said = |answer: &std::result::Result<T, Failed>| match answer {
            Ok(_) => true,
            Err(failed) => matches!(failed.failure, Failure::Refused { .. }),
        };
        tokio::select! {
            answer = &mut first => if is_said(&answer) { answer } else { second.await },
            answer = &mut second => if is_said(&answer) { answer } else { first.await },
        }
    }

    /// `skip`: with so many members less that would be asked first.
    async fn rounds<T>(
        &self,
        path: &str,
        request: &Value,
        repeat: Repeat,
        skip: usize,
        read: fn(&[u8]) -> std::result::Result<T, Failure>,
    ) -> std::result::Result<T, Failed> {
        let body = Bytes::from(request.to_string());
        let tries = if repeat == Repeat::Yes { 2 } else { 1 };
        let deadline = Instant::now() + self.request_timeout * tries;
        let mut round = 0;
        loop {
            let mut order = self.order();
            let skipped = skip % order.len();
            order.rotate_left(skipped);
            let failed = match self.round(&order, path, &body, repeat, deadline, read).await {
                Ok(answer) => return Ok(answer),
                Err(Round::Over(failed)) => return Err(failed),
                Err(Round::Again(failed)) => failed,
            };
            let pause = self.delay(&BETWEEN_ROUNDS, round);
            if Instant::now() + pause >= deadline {
                return Err(failed);
            }
            tokio::time::sleep(pause).await;
            round += 1;
        }
    }

    /// Every member once, until one of them answers.
    async fn round<T>(
        &self,
        order: &[usize],
        path: &str,
        body: &Bytes,
        repeat: Repeat,
        deadline: Instant,
        read: fn(&[u8]) -> std::result::Result<T, Failure>,
    ) -> std::result::Result<T, Round> {
        let mut last = None;
        let mut only_tls = true;
        for index in order.iter().copied() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let failure = match self.at(index, path, body, self.request_timeout.min(left), read).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let over = match &failure {
                Failure::Refused { .. } | Failure::LoggedOut(_) => true,
                other => repeat == Repeat::No && !other.nothing_done(),
            };
            only_tls &= matches!(failure, Failure::Tls(_));
            let failed = Failed { failure, endpoint: self.name(index).to_owned() };
            if over {
                return Err(Round::Over(failed));
            }
            tracing::debug!(
                endpoint = failed.endpoint,
                path,
                reason = failed.failure.reason(),
                "etcd: trying elsewhere"
            );
            last = Some(failed);
        }
        match last {
            // Certificates do not mend themselves within seconds.
            Some(failed) if only_tls => Err(Round::Over(failed)),
            Some(failed) => Err(Round::Again(failed)),
            None => Err(Round::Over(Failed {
                failure: Failure::NotSent("no time is left".into()),
                endpoint: self.name(self.best()).to_owned(),
            })),
        }
    }

    /// One member, logging in as often as is useful; remembers how it did.
    pub(super) async fn at<T>(
        &self,
        index: usize,
        path: &str,
        body: &Bytes,
        limit: Duration,
        read: fn(&[u8]) -> std::result::Result<T, Failure>,
    ) -> std::result::Result<T, Failure> {
        let endpoint = &self.endpoints[index];
        let mut logins = 0;
        let answer = loop {
            let answer = self.once(index, path, body, limit, read).await;
            match answer {
                Err(Failure::LoggedOut(_)) if self.login.is_some() && logins < LOGINS_MAX => logins += 1,
                answer => break answer,
            }
        };
        match &answer {
            Ok(_) => {
                endpoint.well();
                self.current.store(index, Ordering::Relaxed);
            }
            Err(Failure::Refused { .. } | Failure::LoggedOut(_)) => endpoint.well(),
            Err(_) => endpoint.troubled(),
        }
        answer
    }

    async fn once<T>(
        &self,
        index: usize,
        path: &str,
        body: &Bytes,
        limit: Duration,
        read: fn(&[u8]) -> std::result::Result<T, Failure>,
    ) -> std::result::Result<T, Failure> {
        let token = self.token_within(index, limit).await?;
        let call = Call { path, body: body.clone(), token: token.as_deref(), limit, needs_leader: false };
        let answer = self.endpoints[index].post(&call).await.and_then(|body| read(&body));
        if let Err(Failure::LoggedOut(_)) = &answer {
            self.forget(token.as_deref()).await;
        }
        answer
    }

    pub(super) async fn stream(
        &self,
        index: usize,
        path: &str,
        request: &Value,
        line_bytes_max: usize,
    ) -> std::result::Result<Lines, Failure> {
        let token = self.token_within(index, self.request_timeout).await?;
        let body = Bytes::from(request.to_string());
        let call = Call { path, body, token: token.as_deref(), limit: self.request_timeout, needs_leader: true };
        self.endpoints[index].stream(&call, line_bytes_max).await
    }

    /// Many may wait for one log-in at a member that does not answer: none of them longer than for the request itself.
    async fn token_within(&self, index: usize, limit: Duration) -> std::result::Result<Option<Arc<str>>, Failure> {
        let late = |_| Failure::NotSent(format!("not logged in within {limit:?}"));
        timeout(limit, self.token(index)).await.map_err(late)?
    }

    /// What shows who we are; asked for when there is none yet.
    async fn token(&self, index: usize) -> std::result::Result<Option<Arc<str>>, Failure> {
        let Some(login) = &self.login else { return Ok(None) };
        let mut session = self.session.lock().await;
        if session.token.is_some() || session.auth_is_off {
            return Ok(session.token.clone());
        }
        let body = Bytes::from(json!({"name": login.user, "password": login.password.expose()}).to_string());
        let path = "/v3/auth/authenticate";
        let call = Call { path, body, token: None, limit: self.request_timeout, needs_leader: false };
        let answer = self.endpoints[index].post(&call).await.and_then(|body| read::<Authenticated>(&body));
        match answer {
            Ok(Authenticated { token }) => session.token = Some(token.into()),
            Err(failure) if failure.is_auth_off() => {
                tracing::warn!(user = login.user, "etcd has no authentication, although a user is configured");
                session.auth_is_off = true;
            }
            Err(failure @ (Failure::Refused { .. } | Failure::Tls(_))) => return Err(failure),
            // Whatever became of the log-in: the request itself was not sent.
            Err(failure) => return Err(Failure::NotSent(format!("logging in: {}", failure.reason()))),
        }
        Ok(session.token.clone())
    }

    /// Unless another request has logged in meanwhile.
    async fn forget(&self, token: Option<&str>) {
        let mut session = self.session.lock().await;
        if session.token.as_deref() == token {
            *session = Session::default();
        }
    }

    /// For a stream, which does not know its token any more.
    pub(super) async fn forget_held(&self) {
        *self.session.lock().await = Session::default();
    }
}

/// What a round without an answer means.
enum Round {
    Over(Failed),
    Again(Failed),
}

pub(super) fn read<T: DeserializeOwned>(body: &[u8]) -> std::result::Result<T, Failure> {
    serde_json::from_slice(body).map_err(|e| Failure::Garbage(e.to_string()))
}

/// The only message of a stream.
pub(super) fn read_streamed<T: DeserializeOwned>(body: &[u8]) -> std::result::Result<T, Failure> {
    let streamed: Streamed<T> = read(body)?;
    match (streamed.result, streamed.error) {
        (_, Some(_)) => Err(Failure::from_json(200, &read(body)?)),
        (Some(result), None) => Ok(result),
        (None, None) => Err(Failure::Garbage("a message with neither result nor error".into())),
    }
}
