//! A client of SQS as small as a prober needs: JSON 1.0 over connections that are kept and used in turn.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use holdfast_host::clock;
use holdfast_sqs::Signer;
use http::{Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::End;

const POOL: usize = 64;
/// Ten messages of a prober are far less.
const ANSWER_BYTES_MAX: usize = 1 << 20;

type Sender = SendRequest<Full<Bytes>>;

pub(super) struct Sqs {
    pub(super) listen: SocketAddr,
    pub(super) account: String,
    pub(super) signer: Option<Arc<Signer>>,
    idle: Mutex<VecDeque<Sender>>,
}

impl Sqs {
    pub(super) fn new(listen: SocketAddr, account: String, signer: Option<Arc<Signer>>) -> Sqs {
        Sqs { listen, account, signer, idle: Mutex::default() }
    }

    pub(super) fn url(&self, queue: &str) -> String {
        format!("http://{}/{}/{queue}", self.listen, self.account)
    }

    /// The answer with status 200, or how else it ended.
    pub(super) async fn ask(&self, action: &str, body: &Value) -> Result<Value, End> {
        let body = body.to_string();
        loop {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let is_fresh = idle.is_none();
            let mut sender = match idle {
                Some(sender) => sender,
                None => self.connect().await.ok_or(End::NotConnected)?,
            };
            if sender.ready().await.is_err() {
                match is_fresh {
                    true => return Err(End::NotConnected),
                    false => continue,
                }
            }
            let request = self.request(action, &body).ok_or(End::NotSent)?;
            let response = match sender.try_send_request(request).await {
                Ok(response) => response,
                // A kept connection that was found closed before a byte was written is nobody's failure.
                Err(mut e) => match e.take_message() {
                    Some(_) if !is_fresh => continue,
                    _ => return Err(End::Lost),
                },
            };
            let status = response.status().as_u16();
            let read = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            let text = read.map_err(|_| End::Lost)?.to_bytes();
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < POOL {
                idle.push_back(sender);
            }
            return match status {
                200 if text.is_empty() => Ok(Value::Null),
                200 => serde_json::from_slice(&text).map_err(|_| End::WrongBody),
                status => Err(End::Refused(status)),
            };
        }
    }

    async fn connect(&self) -> Option<Sender> {
        let stream = TcpStream::connect(self.listen).await.ok()?;
        stream.set_nodelay(true).ok();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(async move {
            connection.await.ok();
        });
        Some(sender)
    }

    fn request(&self, action: &str, body: &str) -> Option<Request<Full<Bytes>>> {
        let request = Request::post("/")
            .header(header::HOST, self.listen.to_string())
            .header(header::CONTENT_TYPE, "application/x-amz-json-1.0")
            .header("x-amz-target", format!("AmazonSQS.{action}"))
            .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
            .ok()?;
        let (mut head, full) = request.into_parts();
        if let Some(signer) = &self.signer {
            signer.sign(&mut head, body.as_bytes(), clock::wall_ms() / 1000);
        }
        Some(Request::from_parts(head, full))
    }
}
