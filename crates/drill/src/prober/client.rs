//! The prober's connections: HTTP/1.1 GETs over a small keep-alive pool.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use holdfast_host::clock;
use holdfast_policy::Timestamp;

use super::{End, Plan, Record};

/// Idle connections kept for later requests.
const IDLE_MAX: usize = 64;

type Sender = SendRequest<Empty<Bytes>>;

pub(crate) struct Client {
    target: SocketAddr,
    host: String,
    path: String,
    limit: Duration,
    body_hash: Option<u64>,
    idle: Mutex<Vec<Sender>>,
}

/// 64-bit FNV-1a: tells a spoiled body from the right one, not a forged one.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    fnv1a_more(FNV_START, bytes)
}

const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

fn fnv1a_more(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

impl Client {
    pub(crate) fn new(plan: &Plan) -> Arc<Client> {
        Arc::new(Client {
            target: plan.target,
            host: plan.host.clone(),
            path: plan.path.clone(),
            limit: plan.limit,
            body_hash: plan.body_hash,
            idle: Mutex::new(Vec::new()),
        })
    }

    pub(crate) async fn ask(&self, intended: Timestamp, fresh: bool) -> Record {
        let mut sent = None;
        let end = tokio::time::timeout(self.limit, self.exchange(fresh, &mut sent)).await.unwrap_or(End::TimedOut);
        let done = clock::now();
        Record { intended, sent: sent.unwrap_or(done), done, end }
    }

    async fn exchange(&self, fresh: bool, sent: &mut Option<Timestamp>) -> End {
        if !fresh {
            while let Some(sender) = self.take_idle() {
                *sent = Some(clock::now());
                // A pooled connection found closed before a byte was written is not the service's failure.
                if let Some(end) = self.send(sender, false).await {
                    return end;
                }
            }
        }
        let Ok(sender) = self.connect().await else { return End::NotConnected };
        *sent = Some(clock::now());
        self.send(sender, fresh).await.unwrap_or(End::Lost)
    }

    fn take_idle(&self) -> Option<Sender> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|sender| !sender.is_closed());
        idle.pop()
    }

    fn give_back(&self, sender: Sender) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX && !sender.is_closed() {
            idle.push(sender);
        }
    }

    async fn connect(&self) -> Result<Sender, ()> {
        let stream = TcpStream::connect(self.target).await.map_err(|_| ())?;
        stream.set_nodelay(true).ok();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|_| ())?;
        tokio::spawn(async move {
            connection.await.ok();
        });
        Ok(sender)
    }

    /// `None` when the request never left.
    async fn send(&self, mut sender: Sender, close: bool) -> Option<End> {
        if sender.ready().await.is_err() {
            return None;
        }
        let mut request = Request::get(self.path.as_str()).header(header::HOST, self.host.as_str());
        if close {
            request = request.header(header::CONNECTION, "close");
        }
        let Ok(request) = request.body(Empty::new()) else { return Some(End::NotSent) };
        let response = match sender.try_send_request(request).await {
            Ok(response) => response,
            Err(mut e) => return e.take_message().is_none().then_some(End::Lost),
        };
        let status = response.status().as_u16();
        let Ok(hash) = read_body(response.into_body()).await else { return Some(End::Lost) };
        if !close {
            self.give_back(sender);
        }
        let wrong = status < 400 && self.body_hash.is_some_and(|expected| expected != hash);
        Some(if wrong { End::WrongBody } else { End::Status(status) })
    }
}

async fn read_body(mut body: Incoming) -> Result<u64, hyper::Error> {
    let mut hash = FNV_START;
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame?.data_ref() {
            hash = fnv1a_more(hash, data);
        }
    }
    Ok(hash)
}
