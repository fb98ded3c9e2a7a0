//! One HTTP/1.1 connection to a member, and what is sent over it.

use std::mem::MaybeUninit;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use socket2::{SockRef, Socket, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{self, AlertDescription, ClientConfig};

use super::failure::Failure;
use super::options::Address;

/// An answer; a list of everything that a small cluster coordinates is far below.
pub(super) const ANSWER_BYTES_MAX: usize = 64 << 20;

/// What an error may say.
const ERROR_BYTES_MAX: usize = 64 << 10;

/// A machine that vanished is noticed by the kernel after some 15 s, also on a watch that sends nothing.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(5);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(3);
const KEEPALIVE_PROBES: u32 = 3;

/// The task of a closed connection ends at once.
const ENDING_MAX: Duration = Duration::from_millis(200);

/// Dropping it closes the connection, whatever is under way.
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// Ends with the connection, and says why if for a reason.
    task: JoinHandle<Option<Failure>>,
    /// The same one, to look at.
    socket: Socket,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(super) struct Call<'a> {
    pub path: &'a str,
    pub body: Bytes,
    pub token: Option<&'a str>,
    /// The member gives up after this time as well.
    pub limit: Duration,
    /// A stream of a member that has lost its leader ends instead of staying silent.
    pub needs_leader: bool,
}

impl Call<'_> {
    fn request(&self, address: &Address) -> Result<http::Request<Full<Bytes>>, Failure> {
        let mut builder = http::Request::post(self.path)
            .header(http::header::HOST, address.authority())
            .header(http::header::CONTENT_TYPE, "application/json");
        if let Some(token) = self.token {
            builder = builder.header(http::header::AUTHORIZATION, token);
        }
        if self.needs_leader {
            builder = builder.header("Grpc-Metadata-hasleader", "true");
        } else {
            builder = builder.header("Grpc-Timeout", format!("{}m", self.limit.as_millis().max(1)));
        }
        builder.body(Full::new(self.body.clone())).map_err(|e| Failure::NotSent(e.to_string()))
    }
}

/// A failure, and whether the connection had been closed before anything was sent over it.
pub(super) struct SendFailure {
    pub failure: Failure,
    pub stale: bool,
}

impl Connection {
    pub(super) async fn open(address: &Address, tls: Option<Arc<ClientConfig>>) -> Result<Connection, Failure> {
        let not_sent = |e: std::io::Error| Failure::NotSent(e.to_string());
        let tcp = TcpStream::connect((address.host.as_str(), address.port)).await.map_err(not_sent)?;
        tcp.set_nodelay(true).map_err(not_sent)?;
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE_AFTER)
            .with_interval(KEEPALIVE_EVERY)
            .with_retries(KEEPALIVE_PROBES);
        SockRef::from(&tcp).set_tcp_keepalive(&keepalive).map_err(not_sent)?;
        let socket = SockRef::from(&tcp).try_clone().map_err(not_sent)?;
        let Some(config) = tls else { return Connection::over(tcp, socket).await };
        let name = ServerName::try_from(address.host.clone()).map_err(|e| Failure::Tls(e.to_string()))?;
        let stream = TlsConnector::from(config).connect(name, tcp).await.map_err(|e| match tls_error(&e) {
            Some(error) => Failure::Tls(error.to_string()),
            None => Failure::NotSent(e.to_string()),
        })?;
        Connection::over(stream, socket).await
    }

    async fn over<S>(stream: S, socket: Socket) -> Result<Connection, Failure>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| Failure::NotSent(e.to_string()))?;
        let task = tokio::spawn(async move { connection.await.err().map(|error| broken(&error)) });
        Ok(Connection { sender, task, socket })
    }

    /// Also when its task has not run since: a write over it would have an unknown outcome for nothing.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
            || match self.socket.peek(&mut [MaybeUninit::uninit()]) {
                Ok(bytes) => bytes == 0,
                Err(e) => e.kind() != std::io::ErrorKind::WouldBlock,
            }
    }

    /// Sends, and reads the head of the answer.
    async fn send(&mut self, address: &Address, call: &Call<'_>) -> Result<http::Response<Incoming>, SendFailure> {
        let request = call.request(address).map_err(|failure| SendFailure { failure, stale: false })?;
        let unsent = match self.sender.ready().await {
            Err(e) => e.to_string(),
            Ok(()) => match self.sender.try_send_request(request).await {
                Ok(answer) => return Ok(answer),
                Err(mut e) => match e.take_message() {
                    Some(_) => e.error().to_string(),
                    None => return Err(SendFailure { failure: broken(e.error()), stale: false }),
                },
            },
        };
        Err(SendFailure { failure: self.why_closed(unsent).await, stale: true })
    }

    /// A member that does not accept our certificate may say so before the request is written.
    async fn why_closed(&mut self, unsent: String) -> Failure {
        match timeout(ENDING_MAX, &mut self.task).await {
            Ok(Ok(Some(Failure::Tls(reason)))) => Failure::Tls(reason),
            _ => Failure::NotSent(unsent),
        }
    }

    /// One request, one answer.
    pub(super) async fn exchange(&mut self, address: &Address, call: &Call<'_>) -> Result<Bytes, SendFailure> {
        let answer = self.send(address, call).await?;
        let status = answer.status();
        let most = if status == http::StatusCode::OK { ANSWER_BYTES_MAX } else { ERROR_BYTES_MAX };
        let body = collect(answer.into_body(), most).await.map_err(|failure| SendFailure { failure, stale: false })?;
        match status {
            http::StatusCode::OK => Ok(body),
            other => Err(SendFailure { failure: Failure::from_body(other.as_u16(), &body), stale: false }),
        }
    }

    /// One request, answered by a stream of lines.
    pub(super) async fn stream(
        mut self,
        address: &Address,
        call: &Call<'_>,
        line_bytes_max: usize,
    ) -> Result<Lines, Failure> {
        let answer = self.send(address, call).await.map_err(|e| e.failure)?;
        let status = answer.status();
        if status == http::StatusCode::OK {
            let body = answer.into_body();
            return Ok(Lines { body, buffer: BytesMut::new(), scanned: 0, line_bytes_max, _connection: self });
        }
        let body = collect(answer.into_body(), ERROR_BYTES_MAX).await?;
        Err(Failure::from_body(status.as_u16(), &body))
    }
}

async fn collect(mut body: Incoming, most: usize) -> Result<Bytes, Failure> {
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|e| broken(&e))?.into_data() else { continue };
        if all.len() + data.len() > most {
            return Err(Failure::Garbage(format!("an answer of more than {most} bytes")));
        }
        all.extend_from_slice(&data);
    }
    Ok(all.freeze())
}

/// After something may have been sent.
fn broken(error: &hyper::Error) -> Failure {
    let mut reason = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(tls) = inner.downcast_ref::<std::io::Error>().and_then(tls_error) {
            // With TLS 1.3 a member refuses our certificate after it has said that all is well, and reads nothing.
            if matches!(tls, rustls::Error::AlertReceived(alert) if is_about_certificates(*alert)) {
                return Failure::Tls(format!("our certificate is not accepted: {tls}"));
            }
        }
        reason = format!("{reason}: {inner}");
        cause = inner.source();
    }
    match error.is_parse() {
        true => Failure::Garbage(reason),
        false => Failure::Unknown(reason),
    }
}

fn tls_error(error: &std::io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref::<rustls::Error>()
}

fn is_about_certificates(alert: AlertDescription) -> bool {
    use AlertDescription as A;
    matches!(
        alert,
        A::BadCertificate
            | A::UnsupportedCertificate
            | A::CertificateRevoked
            | A::CertificateExpired
            | A::CertificateUnknown
            | A::CertificateRequired
            | A::UnknownCA
    )
}

/// The lines of a stream. Dropping it closes its connection.
pub(super) struct Lines {
    body: Incoming,
    buffer: BytesMut,
    /// No line ends before.
    scanned: usize,
    line_bytes_max: usize,
    _connection: Connection,
}

impl Lines {
    /// Safe to cancel. `None` at the end; an unfinished line is not a line.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            if let Some(at) = memchr(&self.buffer[self.scanned..]) {
                let line = self.buffer.split_to(self.scanned + at + 1).freeze();
                self.scanned = 0;
                return Ok(Some(line.slice(..line.len() - 1)));
            }
            self.scanned = self.buffer.len();
            if self.scanned > self.line_bytes_max {
                return Err(Failure::Garbage(format!("a message of more than {} bytes", self.line_bytes_max)));
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            if let Ok(data) = frame.map_err(|e| broken(&e))?.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }
}

fn memchr(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|b| *b == b'\n')
}
