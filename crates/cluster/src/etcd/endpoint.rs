//! One member: its idle connections, and whether it gave trouble lately.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout};
use tokio_rustls::rustls::ClientConfig;

use super::connection::{Call, Connection, Lines};
use super::failure::Failure;
use super::options::Address;

/// Kept open for the next request; an agent rarely has more under way.
const IDLE_MAX: usize = 4;

/// For so long others are asked first.
const TROUBLE: Duration = Duration::from_secs(5);

pub(super) struct Endpoint {
    pub address: Address,
    /// As it stands in messages.
    pub name: String,
    tls: Option<Arc<ClientConfig>>,
    connect_timeout: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    idle: Vec<Connection>,
    troubled_until: Option<Instant>,
}

impl Endpoint {
    pub(super) fn new(address: Address, tls: Option<Arc<ClientConfig>>, connect_timeout: Duration) -> Endpoint {
        let name = address.to_string();
        Endpoint { address, name, tls, connect_timeout, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_troubled(&self, now: Instant) -> bool {
        self.state().troubled_until.is_some_and(|until| now < until)
    }

    /// What is kept open to it is of no more use either.
    pub(super) fn troubled(&self) {
        let mut state = self.state();
        state.troubled_until = Some(Instant::now() + TROUBLE);
        state.idle.clear();
    }

    pub(super) fn well(&self) {
        self.state().troubled_until = None;
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut state = self.state();
        state.idle.retain(|c| !c.is_closed());
        state.idle.pop()
    }

    fn keep(&self, connection: Connection) {
        let mut state = self.state();
        if state.idle.len() < IDLE_MAX {
            state.idle.push(connection);
        }
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        match timeout(self.connect_timeout, Connection::open(&self.address, self.tls.clone())).await {
            Ok(opened) => opened,
            Err(_) => Err(Failure::NotSent(format!("no connection within {:?}", self.connect_timeout))),
        }
    }

    pub(super) async fn post(&self, call: &Call<'_>) -> Result<Bytes, Failure> {
        if let Some(mut connection) = self.take_idle() {
            match within(call.limit, connection.exchange(&self.address, call)).await? {
                Ok(body) => {
                    self.keep(connection);
                    return Ok(body);
                }
                // The member closed it meanwhile (it restarted): a new one is no second try.
                Err(e) if e.stale => {}
                Err(e) => return Err(e.failure),
            }
        }
        let mut connection = self.connect().await?;
        let body = within(call.limit, connection.exchange(&self.address, call)).await?.map_err(|e| e.failure)?;
        self.keep(connection);
        Ok(body)
    }

    /// On a connection of its own.
    pub(super) async fn stream(&self, call: &Call<'_>, line_bytes_max: usize) -> Result<Lines, Failure> {
        let connection = self.connect().await?;
        within(call.limit, connection.stream(&self.address, call, line_bytes_max)).await?
    }
}

async fn within<T>(limit: Duration, answer: impl Future<Output = T>) -> Result<T, Failure> {
    timeout(limit, answer).await.map_err(|_| Failure::Unknown(format!("no answer within {limit:?}")))
}
