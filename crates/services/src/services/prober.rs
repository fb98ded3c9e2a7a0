//! Performs probes on a thread of its own, so that a busy agent does not make instances look slow.
//!
//! It watches its own punctuality: a miss during which this thread was held up says nothing about the instance.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_config::Check;
use holdfast_host::{clock, process};
use holdfast_policy::Timestamp;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use super::command;
use crate::supervisor::{Event, Outcome, Probe};

/// Period of the thread's own heartbeat.
const BEAT: Duration = Duration::from_millis(20);
/// Heartbeats remembered: longer than any sensible timeout.
const BEATS_KEPT: usize = 1024;
/// A miss is void when this thread was held up for more than this share of the timeout, or for `LAG_MIN`.
const LAG_SHARE: u32 = 5;
const LAG_MIN: Duration = Duration::from_millis(40);
/// How long a silent instance is looked at to tell busy from idle.
const BUSY_LOOK: Duration = Duration::from_millis(50);
/// Of an answer's body no more than this is read.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Probes waiting for this thread; one in flight of each kind bounds them in practice.
const QUEUE: usize = 16 * 1024;

#[derive(Clone)]
pub(crate) struct Prober {
    queue: mpsc::Sender<Probe>,
}

impl Prober {
    /// The thread ends when the last `Prober` and the queue are gone.
    pub(crate) fn start(results: mpsc::Sender<Event>) -> std::io::Result<Prober> {
        let (queue, probes) = mpsc::channel(QUEUE);
        std::thread::Builder::new().name("prober".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => LocalSet::new().block_on(&runtime, serve(probes, results)),
                Err(error) => tracing::error!(%error, "no runtime for probes: no instance will become ready"),
            }
        })?;
        Ok(Prober { queue })
    }

    /// A full queue drops the probe; the Supervisor notices that no answer comes.
    pub(crate) fn probe(&self, probe: Probe) {
        if self.queue.try_send(probe).is_err() {
            tracing::warn!("the queue of probes is full");
        }
    }
}

/// When this thread was last held up.
#[derive(Default)]
struct Punctuality {
    lags: RefCell<VecDeque<(Timestamp, Duration)>>,
}

impl Punctuality {
    fn record(&self, now: Timestamp, lag: Duration) {
        let mut lags = self.lags.borrow_mut();
        if lags.len() == BEATS_KEPT {
            lags.pop_front();
        }
        lags.push_back((now, lag));
    }

    fn worst_since(&self, since: Timestamp) -> Duration {
        let lags = self.lags.borrow();
        lags.iter().rev().take_while(|(at, _)| *at >= since).map(|(_, lag)| *lag).max().unwrap_or_default()
    }
}

async fn serve(mut probes: mpsc::Receiver<Probe>, results: mpsc::Sender<Event>) {
    let punctuality = Rc::new(Punctuality::default());
    let beat = tokio::task::spawn_local(beat(punctuality.clone()));
    while let Some(probe) = probes.recv().await {
        let (results, punctuality) = (results.clone(), punctuality.clone());
        tokio::task::spawn_local(async move {
            let began = clock::now();
            let outcome = perform(&probe, began, &punctuality).await;
            let took = clock::now().since(began);
            let Probe { instance, incarnation, kind, at: sent, .. } = probe;
            // The agent is going away when nobody takes the result.
            let _ = results.send(Event::Probe { instance, incarnation, kind, sent, outcome, took }).await;
        });
    }
    beat.abort();
}

async fn beat(punctuality: Rc<Punctuality>) {
    loop {
        let began = clock::now();
        tokio::time::sleep(BEAT).await;
        let now = clock::now();
        punctuality.record(now, now.since(began).saturating_sub(BEAT));
    }
}

async fn perform(probe: &Probe, began: Timestamp, punctuality: &Punctuality) -> Outcome {
    let outcome = match tokio::time::timeout(probe.timeout, ask(probe)).await {
        Ok(outcome) => outcome,
        Err(_) => Outcome::Timeout { busy: is_busy(probe).await },
    };
    if matches!(outcome, Outcome::Pass | Outcome::Refused(_)) {
        return outcome;
    }
    // One beat may be under way and not be counted yet.
    tokio::time::sleep(BEAT).await;
    let allowed = (probe.timeout / LAG_SHARE).max(LAG_MIN);
    if punctuality.worst_since(began) > allowed { Outcome::Late } else { outcome }
}

async fn ask(probe: &Probe) -> Outcome {
    match (&probe.check, probe.addr) {
        (Check::Http { path, status }, Some(addr)) => match http(addr, path).await {
            Ok(code) if status.contains(&code) => Outcome::Pass,
            Ok(code) => Outcome::Refused(i32::from(code)),
            Err(()) => Outcome::ConnectError,
        },
        (Check::Tcp, Some(addr)) => match TcpStream::connect(addr).await {
            Ok(_) => Outcome::Pass,
            Err(_) => Outcome::ConnectError,
        },
        (Check::Command(argv), _) => command::run(argv, probe).await,
        // Without a port there is nothing to ask; configuration refuses it.
        (Check::Http { .. } | Check::Tcp | Check::Notify, _) => Outcome::Late,
    }
}

/// One GET on a connection of its own. Why it failed does not matter: silence is silence.
async fn http(addr: SocketAddr, path: &str) -> Result<u16, ()> {
    let stream = TcpStream::connect(addr).await.map_err(drop)?;
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(drop)?;
    let connection = tokio::task::spawn_local(connection);
    let request = http::Request::get(path)
        .header(http::header::HOST, addr.to_string())
        .header(http::header::USER_AGENT, "holdfast-probe")
        .header(http::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(drop)?;
    let answer = sender.send_request(request).await.map_err(drop);
    let code = answer.as_ref().map(|a| a.status().as_u16()).map_err(drop);
    if let Ok(answer) = answer {
        // Reading the rest keeps the server from seeing a reset; its end does not decide.
        let _ = tokio::time::timeout(BEAT, drain(answer.into_body())).await;
    }
    connection.abort();
    code
}

async fn drain(mut body: hyper::body::Incoming) {
    let mut read = 0;
    while let Some(Ok(frame)) = body.frame().await {
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > BODY_BYTES_MAX {
            break;
        }
    }
}

/// Whether the instance's process used CPU or was runnable just now.
async fn is_busy(probe: &Probe) -> bool {
    let look = || probe.pid.and_then(|pid| process::stat(i32::try_from(pid).ok()?));
    let Some(before) = look() else { return false };
    if matches!(before.state, 'T' | 't') {
        return false;
    }
    tokio::time::sleep(BUSY_LOOK).await;
    look().is_some_and(|after| after.cpu_ticks > before.cpu_ticks || after.state == 'R')
}

#[cfg(test)]
mod tests {
    use holdfast_policy::{Incarnation, InstanceId};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::supervisor::ProbeKind;

    async fn outcome(check: Check, addr: Option<SocketAddr>) -> Outcome {
        let (results, mut events) = mpsc::channel(8);
        let prober = Prober::start(results).unwrap();
        prober.probe(Probe {
            instance: InstanceId::new("web", 1),
            incarnation: Incarnation::default(),
            kind: ProbeKind::Ready,
            check,
            addr,
            timeout: Duration::from_secs(2),
            at: clock::now(),
            pid: Some(std::process::id()),
            definition: super::super::tests::definition("web"),
            port: None,
        });
        let event = tokio::time::timeout(Duration::from_secs(10), events.recv()).await.unwrap();
        let Some(Event::Probe { outcome, .. }) = event else { panic!("{event:?}") };
        outcome
    }

    async fn server(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        addr
    }

    #[tokio::test]
    async fn an_answer_is_judged_by_its_status() {
        let http = || Check::Http { path: "/".into(), status: 200..=399 };
        let ok = server("HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(outcome(http(), Some(ok)).await, Outcome::Pass);
        let no = server("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(outcome(http(), Some(no)).await, Outcome::Refused(503));
        let rude = server("").await;
        assert!(!matches!(outcome(http(), Some(rude)).await, Outcome::Pass | Outcome::Refused(_)));
        assert_eq!(outcome(Check::Tcp, Some(ok)).await, Outcome::Pass);
    }

    #[tokio::test]
    async fn nobody_there_is_a_connect_error() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let outcome = outcome(Check::Tcp, Some(free)).await;
        assert!(matches!(outcome, Outcome::ConnectError | Outcome::Late), "{outcome:?}");
    }
}
