//! `/metrics` on TCP, where the file asks for it. It gates nothing: what is kept up is kept up without it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use super::core::Core;
use super::server;
use crate::failure::Failure;

/// Between two tries to get an address that somebody else has.
const AGAIN: Duration = Duration::from_secs(1);

/// The address that is served, or that is waited for, and its task.
#[derive(Default)]
pub(super) struct MetricsPort {
    at: Mutex<Option<(SocketAddr, AbortHandle)>>,
}

impl MetricsPort {
    fn at(&self) -> Option<SocketAddr> {
        self.at.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(addr, _)| *addr)
    }

    /// Gets the address before a file is taken, so that a busy one refuses the file as a whole.
    pub(super) async fn open(&self, wanted: Option<SocketAddr>) -> Result<Option<TcpListener>, Failure> {
        let Some(addr) = wanted.filter(|addr| self.at() != Some(*addr)) else { return Ok(None) };
        match TcpListener::bind(addr).await {
            Ok(listener) => Ok(Some(listener)),
            // Our own: it is given up when the file is in force, and taken then.
            Err(_) if self.at().is_some_and(|own| own.port() == addr.port()) => Ok(None),
            Err(e) => Err(Failure::new("HF0314", format!("cannot serve metrics on {addr}"))
                .because(e)
                .hint("choose a free address for [node] metrics")),
        }
    }

    /// Serves there and nowhere else from now on; without a listener as soon as the address can be had.
    pub(super) fn serve(&self, wanted: Option<SocketAddr>, listener: Option<TcpListener>, core: &Arc<Core>) {
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        if at.as_ref().map(|(addr, _)| *addr) == wanted {
            return;
        }
        if let Some((_, task)) = at.take() {
            task.abort();
        }
        *at = wanted.map(|addr| (addr, tokio::spawn(serve(addr, listener, core.clone())).abort_handle()));
    }
}

async fn serve(addr: SocketAddr, mut listener: Option<TcpListener>, core: Arc<Core>) {
    let mut told = false;
    loop {
        let ready = match listener.take() {
            Some(listener) => Ok(listener),
            None => TcpListener::bind(addr).await,
        };
        match ready {
            Ok(listener) => {
                let router = Router::new().route("/metrics", get(server::metrics)).with_state(core.clone());
                if let Err(error) = axum::serve(listener, router).await {
                    tracing::error!(code = "HF0314", %error, "the metrics endpoint ended");
                }
            }
            Err(error) if !std::mem::replace(&mut told, true) => {
                tracing::error!(code = "HF0314", %addr, %error, "metrics are not served yet, and it is tried again");
            }
            Err(_) => {}
        }
        tokio::time::sleep(AGAIN).await;
    }
}
