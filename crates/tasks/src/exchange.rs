//! One request over a connection of its own, which goes when its caller does: a call that is cut off leaves nothing behind.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

pub(crate) type Broken = Box<dyn std::error::Error + Send + Sync>;

pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: AbortHandle,
}

impl Connection {
    /// Nothing is sent yet.
    pub(crate) async fn open(stream: TcpStream) -> hyper::Result<Connection> {
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        Ok(Connection { sender, driver: tokio::spawn(connection).abort_handle() })
    }

    /// The status, and the body if all of it came and it is not longer than `body_bytes_max`.
    pub(crate) async fn ask(
        mut self,
        request: Request<Full<Bytes>>,
        body_bytes_max: usize,
    ) -> hyper::Result<(StatusCode, Result<Bytes, Broken>)> {
        let answer = self.sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), body_bytes_max).collect().await;
        Ok((status, body.map(|body| body.to_bytes())))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
