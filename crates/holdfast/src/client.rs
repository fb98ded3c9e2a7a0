//! The CLI's way to the agent: one HTTP/1 request per connection on the Unix socket.

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use holdfast_cluster::authority::pinned;
use holdfast_cluster::keys::Key;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::failure::{Exit, Failure};
use crate::layout::Layout;

/// Answers of the agent are a few KiB per instance; this is some thousand instances.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// An agent answers from memory. One that does not within this time is stuck.
const ANSWER_TIME: Duration = Duration::from_secs(10);

#[derive(Clone)]
pub(crate) struct Client {
    target: Target,
}

#[derive(Clone)]
enum Target {
    Socket(PathBuf),
    /// Host and port, and the key.
    Remote(String, Key),
}

impl Client {
    pub(crate) fn new(layout: &Layout) -> Self {
        Client { target: Target::Socket(layout.socket()) }
    }

    pub(crate) fn remote(url: &str, file: Option<&Path>) -> Result<Self, Failure> {
        let usage = |what: String, hint: &str| Failure::new("HF0389", what).hint(hint).exit(Exit::Usage);
        let authority = url.strip_prefix("https://").map(|rest| rest.trim_end_matches('/'));
        let good = authority.filter(|a| a.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()));
        let authority = good.ok_or_else(|| usage(format!("`{url}` is no address of an agent"), "https://HOST:PORT"))?;
        let hint = "holdfast key add NAME --role ROLE prints one; --key FILE names where it lies";
        let text = match file {
            Some(file) => std::fs::read_to_string(file).map_err(|e| usage(format!("{}: {e}", file.display()), hint))?,
            None => std::env::var("HOLDFAST_KEY").map_err(|_| usage("there is no key for --remote".into(), hint))?,
        };
        let key = text.parse().map_err(|()| usage("this is no key".into(), hint))?;
        Ok(Client { target: Target::Remote(authority.to_owned(), key) })
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.call(Method::GET, path, Bytes::new()).await
    }

    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        let body =
            serde_json::to_vec(body).map_err(|e| Failure::new("HF0306", "cannot encode the request").because(e))?;
        self.call(Method::POST, path, body.into()).await
    }

    /// Whether an agent answers at all.
    pub(crate) async fn alive(&self) -> bool {
        matches!(timeout(Duration::from_secs(1), self.get::<serde_json::Value>("/v1/ping")).await, Ok(Ok(_)))
    }

    async fn call<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, Failure> {
        let (status, body) = self.exchange(method, path, body).await?;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|e| {
                Failure::new("HF0306", format!("the agent's answer to {path} cannot be read")).because(e)
            });
        }
        Err(serde_json::from_slice::<Failure>(&body).unwrap_or_else(|_| {
            Failure::new("HF0306", format!("the agent answered {status} to {path}"))
                .because(String::from_utf8_lossy(&body))
        }))
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<(StatusCode, Bytes), Failure> {
        match timeout(ANSWER_TIME, self.try_exchange(method, path, body)).await {
            Ok(result) => result,
            Err(_) => Err(Failure::new(
                "HF0307",
                format!("the agent did not answer {path} within {}s", ANSWER_TIME.as_secs()),
            )
            .hint("its log tells more: holdfast logs _agent")
            .exit(Exit::Unhealthy)),
        }
    }

    async fn try_exchange(&self, method: Method, path: &str, body: Bytes) -> Result<(StatusCode, Bytes), Failure> {
        match &self.target {
            Target::Socket(socket) => {
                let stream = connect(socket).await.map_err(|e| nobody(&socket.display(), e))?;
                exchange(stream, None, method, path, body).await
            }
            Target::Remote(authority, key) => {
                let stream = connect_remote(authority, key).await?;
                exchange(stream, Some(key), method, path, body).await
            }
        }
    }
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    key: Option<&Key>,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<(StatusCode, Bytes), Failure> {
    let broken = |e: hyper::Error| {
        Failure::new("HF0306", "the connection to the agent broke")
            .because(e)
            .hint("holdfast status")
            .exit(Exit::Unhealthy)
    };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    tokio::spawn(connection);
    let mut builder =
        Request::builder().method(method).uri(path).header("host", "agent").header("content-type", "application/json");
    if let Some(key) = key {
        builder = builder.header("authorization", format!("Bearer {key}"));
    }
    let request =
        builder.body(Full::new(body)).map_err(|e| Failure::new("HF0306", "cannot build the request").because(e))?;
    let answer = sender.send_request(request).await.map_err(broken)?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX)
        .collect()
        .await
        .map_err(|e| Failure::new("HF0306", "the agent's answer broke off").because(e))?
        .to_bytes();
    Ok((status, body))
}

/// By the directory's descriptor: a socket address holds 108 bytes, a data directory may be deeper.
async fn connect(socket: &Path) -> std::io::Result<UnixStream> {
    let dir = holdfast_host::seqpacket::open_dir(socket.parent().unwrap_or(Path::new("/")))?;
    UnixStream::connect(format!("/proc/self/fd/{}/agent.sock", dir.as_raw_fd())).await
}

/// To any machine of the cluster whose authority the key names.
async fn connect_remote(authority: &str, key: &Key) -> Result<TlsStream<TcpStream>, Failure> {
    let config = pinned(key.fingerprint)
        .map_err(|e| Failure::new(e.code(), "TLS cannot be set up").because_of(&e).exit(Exit::Usage))?;
    let tcp = TcpStream::connect(authority).await.map_err(|e| nobody(&authority, e))?;
    let name = tcp.peer_addr().map(|addr| ServerName::from(addr.ip())).map_err(|e| nobody(&authority, e))?;
    TlsConnector::from(config).connect(name, tcp).await.map_err(|e| {
        Failure::new("HF0380", format!("{authority} is not of the cluster that the key is for"))
            .because(e)
            .hint("compare the address; the key was not sent")
            .exit(Exit::Refused)
    })
}

fn nobody(at: &dyn std::fmt::Display, error: std::io::Error) -> Failure {
    Failure::new("HF0303", format!("no agent answers on {at}"))
        .because(error)
        .hint("start it: holdfast up -d; or name its file or directory: -f FILE, --data-dir DIR")
        .exit(Exit::Unhealthy)
}
