//! Calls to other agents: one connection to each is kept open.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use holdfast_cluster::authority::{self, Certificate, Validity};
use holdfast_host::clock;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{self, AlertDescription};

use super::Credentials;

/// An answer is a certificate or a few words.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Missed {
    Silent,
    /// Nobody listens there, or somebody else does.
    Refused(String),
}

pub(in super::super) struct Answer {
    pub(in super::super) status: StatusCode,
    pub(in super::super) body: Bytes,
    /// Its certificate is within its dates.
    pub(in super::super) trusted: bool,
}

struct Open {
    addr: SocketAddr,
    /// Of the credentials that it was opened with.
    number: u64,
    sender: SendRequest<Full<Bytes>>,
    certificate: Certificate,
    task: AbortHandle,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Default)]
pub(crate) struct Peers {
    open: Mutex<BTreeMap<String, Open>>,
}

impl Peers {
    pub(in super::super) async fn get(
        &self,
        credentials: &Credentials,
        cluster: &str,
        name: &str,
        addr: SocketAddr,
        path: &str,
    ) -> Result<Answer, Missed> {
        self.call(credentials, cluster, name, addr, Method::GET, path, Bytes::new()).await
    }

    /// Whoever answers has proved to be `name`. A caller that stops waiting closes the connection.
    #[expect(clippy::too_many_arguments, reason = "whom, with what, and what is asked")]
    pub(super) async fn call(
        &self,
        credentials: &Credentials,
        cluster: &str,
        name: &str,
        addr: SocketAddr,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Answer, Missed> {
        let request = || {
            let builder = Request::builder().method(method.clone()).uri(path).header("host", name);
            builder.header("content-type", "application/json").body(Full::new(body.clone()))
        };
        let bad = |e: http::Error| Missed::Refused(e.to_string());
        if let Some(mut kept) = self.take(name, addr, credentials.number) {
            // It may have been closed meanwhile, which says nothing.
            if let Ok(answer) = exchange(&mut kept, request().map_err(bad)?).await {
                self.keep(name, kept);
                return Ok(answer);
            }
        }
        let mut fresh = open(credentials, cluster, name, addr).await?;
        let answer = exchange(&mut fresh, request().map_err(bad)?).await?;
        self.keep(name, fresh);
        Ok(answer)
    }

    fn take(&self, name: &str, addr: SocketAddr, number: u64) -> Option<Open> {
        let kept = self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(name)?;
        // One whose certificate has run out may have another by now.
        let good = kept.certificate.validity(clock::wall_ms()) == Validity::Good;
        (good && kept.addr == addr && kept.number == number && !kept.sender.is_closed()).then_some(kept)
    }

    fn keep(&self, name: &str, open: Open) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), open);
    }

    /// Closes what leads to machines that are there no more.
    pub(in super::super) fn forget_others(&self, known: impl Fn(&str) -> bool) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, _| known(name));
    }
}

async fn open(credentials: &Credentials, cluster: &str, name: &str, addr: SocketAddr) -> Result<Open, Missed> {
    let Some(shown) = &credentials.shown else { return Err(Missed::Refused("this machine has no certificate".into())) };
    let dns = authority::dns_name(name, cluster).map_err(|e| Missed::Refused(e.to_string()))?;
    let dns = ServerName::try_from(dns).map_err(|e| Missed::Refused(e.to_string()))?;
    let tcp = TcpStream::connect(addr).await.map_err(|e| missed(&e))?;
    let _ = tcp.set_nodelay(true);
    let stream = TlsConnector::from(shown.client.clone()).connect(dns, tcp).await.map_err(|e| missed(&e))?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(|all| Certificate::read(all.first()?));
    let certificate = certificate.ok_or_else(|| Missed::Refused("its certificate cannot be read".into()))?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(&e))?;
    let task = tokio::spawn(async move { drop(connection.await) }).abort_handle();
    Ok(Open { addr, number: credentials.number, sender, certificate, task })
}

async fn exchange(open: &mut Open, request: Request<Full<Bytes>>) -> Result<Answer, Missed> {
    open.sender.ready().await.map_err(|e| broken(&e))?;
    let answer = open.sender.send_request(request).await.map_err(|e| broken(&e))?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|_| Missed::Silent)?.to_bytes();
    let trusted = open.certificate.validity(clock::wall_ms()) == Validity::Good;
    Ok(Answer { status, body, trusted })
}

/// The other side's verdict on our certificate comes with the first read.
fn broken(error: &hyper::Error) -> Missed {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return missed(error);
        }
        cause = error.source();
    }
    Missed::Silent
}

fn missed(error: &io::Error) -> Missed {
    if error.kind() == io::ErrorKind::ConnectionRefused {
        return Missed::Refused("no agent listens there".into());
    }
    match error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
        None => Missed::Silent,
        Some(rustls::Error::InvalidCertificate(why)) => {
            Missed::Refused(format!("its certificate is not this cluster's, or not for this name: {why}"))
        }
        Some(rustls::Error::AlertReceived(AlertDescription::UnknownCA | AlertDescription::DecryptError)) => {
            Missed::Refused("it does not accept this machine's certificate: another authority has signed it".into())
        }
        Some(other) => Missed::Refused(format!("it does not speak as an agent with a certificate does: {other}")),
    }
}
