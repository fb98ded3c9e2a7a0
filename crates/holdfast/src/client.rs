//! The CLI's way to the agent: one HTTP/1 request per connection on the Unix socket.

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::failure::{Exit, Failure};
use crate::layout::Layout;

/// Answers of the agent are a few KiB per instance; this is some thousand instances.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// An agent answers from memory. One that does not within this time is stuck.
const ANSWER_TIME: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub(crate) struct Client {
    socket: PathBuf,
}

impl Client {
    pub(crate) fn new(layout: &Layout) -> Self {
        Client { socket: layout.socket() }
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
        let stream = self.connect().await.map_err(|e| self.nobody(e))?;
        let broken = |e: hyper::Error| {
            Failure::new("HF0306", "the connection to the agent broke")
                .because(e)
                .hint("holdfast status")
                .exit(Exit::Unhealthy)
        };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "agent")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|e| Failure::new("HF0306", "cannot build the request").because(e))?;
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
    async fn connect(&self) -> std::io::Result<UnixStream> {
        let dir = holdfast_host::seqpacket::open_dir(self.socket.parent().unwrap_or(Path::new("/")))?;
        UnixStream::connect(format!("/proc/self/fd/{}/agent.sock", dir.as_raw_fd())).await
    }

    fn nobody(&self, error: std::io::Error) -> Failure {
        Failure::new("HF0303", format!("no agent answers on {}", self.socket.display()))
            .because(error)
            .hint("start it: holdfast up -d; or name its file or directory: -f FILE, --data-dir DIR")
            .exit(Exit::Unhealthy)
    }
}
