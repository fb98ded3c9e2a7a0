//! The prober's connections: HTTP/1.1 GETs over a small keep-alive pool.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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

/// Kept-alive connections that take turns: enough for the kernel to spread them over every balancer process.
const POOL: usize = 8;
/// More of them when requests are slow, up to this many kept.
const POOL_MAX: usize = 64;

type Sender = SendRequest<Empty<Bytes>>;

pub(crate) struct Client {
    target: SocketAddr,
    host: String,
    path: String,
    limit: Duration,
    body_hash: Option<u64>,
    pool: Mutex<Pool>,
}

#[derive(Default)]
struct Pool {
    idle: VecDeque<Pooled>,
    /// Each pooled connection, idle or under way, holds a clone: their number is the count.
    open: Arc<()>,
}

struct Pooled {
    sender: Sender,
    open: Arc<()>,
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
            pool: Mutex::default(),
        })
    }

    pub(crate) async fn ask(&self, intended: Timestamp, fresh: bool) -> Record {
        let mut sent = None;
        let end = tokio::time::timeout(self.limit, self.exchange(fresh, &mut sent)).await.unwrap_or(End::TimedOut);
        let done = clock::now();
        Record { intended, sent: sent.unwrap_or(done), done, end }
    }

    async fn exchange(&self, fresh: bool, sent: &mut Option<Timestamp>) -> End {
        if fresh {
            let Ok(sender) = self.connect().await else { return End::NotConnected };
            *sent = Some(clock::now());
            return self.send(sender, true).await.map_or(End::Lost, |(end, _)| end);
        }
        while let Some(Pooled { sender, open }) = self.take_idle() {
            *sent = Some(clock::now());
            // A pooled connection found closed before a byte was written is not the service's failure.
            if let Some((end, sender)) = self.send(sender, false).await {
                self.give_back(sender, open);
                return end;
            }
        }
        let open = Arc::clone(&self.pool().open);
        let Ok(sender) = self.connect().await else { return End::NotConnected };
        *sent = Some(clock::now());
        let Some((end, sender)) = self.send(sender, false).await else { return End::Lost };
        self.give_back(sender, open);
        end
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one that has been idle longest; `None` while there are too few or all are under way.
    fn take_idle(&self) -> Option<Pooled> {
        let mut pool = self.pool();
        pool.idle.retain(|pooled| !pooled.sender.is_closed());
        if Arc::strong_count(&pool.open) <= POOL {
            return None;
        }
        pool.idle.pop_front()
    }

    fn give_back(&self, sender: Option<Sender>, open: Arc<()>) {
        let mut pool = self.pool();
        if let Some(sender) = sender
            && pool.idle.len() < POOL_MAX
        {
            pool.idle.push_back(Pooled { sender, open });
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

    /// How it ended, and the connection if it may be used again; `None` when the request never left.
    async fn send(&self, mut sender: Sender, close: bool) -> Option<(End, Option<Sender>)> {
        if sender.ready().await.is_err() {
            return None;
        }
        let mut request = Request::get(self.path.as_str()).header(header::HOST, self.host.as_str());
        if close {
            request = request.header(header::CONNECTION, "close");
        }
        let Ok(request) = request.body(Empty::new()) else { return Some((End::NotSent, None)) };
        let response = match sender.try_send_request(request).await {
            Ok(response) => response,
            Err(mut e) => return e.take_message().is_none().then_some((End::Lost, None)),
        };
        let status = response.status().as_u16();
        let Ok(hash) = read_body(response.into_body()).await else { return Some((End::Lost, None)) };
        let wrong = status < 400 && self.body_hash.is_some_and(|expected| expected != hash);
        Some((if wrong { End::WrongBody } else { End::Status(status) }, Some(sender)))
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
