//! Performs probes on a thread of its own, so that a busy agent does not make instances look slow.
//!
//! It watches its own punctuality: a miss during which this thread was held up says nothing about the instance.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use holdfast_config::Check;
use holdfast_host::{clock, process};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use super::{command, get};
use crate::supervisor::{Event, Outcome, Probe};

/// How often a probe that waits looks whether this thread keeps its own times.
const BEAT: Duration = Duration::from_millis(20);
/// A miss is void when this thread was held up for more than this share of the timeout, or for `LAG_MIN`.
const LAG_SHARE: u32 = 5;
const LAG_MIN: Duration = Duration::from_millis(40);
/// After this share of its limit a probe is asked once more: a lost packet is sent again after 200 ms at the earliest and a lost
/// SYN after 1 s, which is the limit of a probe or more. At 1 % loss three quick probes in a row are lost every 20 minutes.
const HEDGE_SHARE: u32 = 2;
/// How long a silent instance is looked at to tell busy from idle.
const BUSY_LOOK: Duration = Duration::from_millis(50);
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

async fn serve(mut probes: mpsc::Receiver<Probe>, results: mpsc::Sender<Event>) {
    while let Some(probe) = probes.recv().await {
        let results = results.clone();
        tokio::task::spawn_local(async move {
            let began = clock::now();
            let outcome = perform(&probe).await;
            let took = clock::now().since(began);
            let Probe { instance, incarnation, kind, at: sent, .. } = probe;
            // The agent is going away when nobody takes the result.
            let _ = results.send(Event::Probe { instance, incarnation, kind, sent, outcome, took }).await;
        });
    }
}

async fn perform(probe: &Probe) -> Outcome {
    let (outcome, held_up) = watched(probe.timeout, ask(probe)).await;
    if let Some(outcome @ (Outcome::Pass | Outcome::Refused(_))) = outcome {
        return outcome;
    }
    let allowed = (probe.timeout / LAG_SHARE).max(LAG_MIN);
    match outcome {
        _ if held_up > allowed => Outcome::Late,
        Some(outcome) => outcome,
        None => Outcome::Timeout { busy: is_busy(probe).await },
    }
}

/// What `work` gives within `limit`, and by how much this thread was late at worst meanwhile.
async fn watched<T>(limit: Duration, work: impl Future<Output = T>) -> (Option<T>, Duration) {
    let mut work = pin!(work);
    let end = clock::now() + limit;
    let mut held_up = Duration::ZERO;
    loop {
        let began = clock::now();
        let beat = BEAT.min(began.until(end));
        let done = tokio::select! {
            biased;
            done = &mut work => Some(done),
            () = tokio::time::sleep(beat) => None,
        };
        let now = clock::now();
        held_up = held_up.max(now.since(began).saturating_sub(beat));
        if done.is_some() || now >= end {
            return (done, held_up);
        }
    }
}

async fn ask(probe: &Probe) -> Outcome {
    match (&probe.check, probe.addr) {
        (Check::Http { path, status }, Some(addr)) => {
            let get = || async {
                match get::status(addr, path).await {
                    Some(code) if status.contains(&code) => Outcome::Pass,
                    Some(code) => Outcome::Refused(i32::from(code)),
                    None => Outcome::ConnectError,
                }
            };
            hedged(probe.timeout / HEDGE_SHARE, get).await
        }
        (Check::Tcp, Some(addr)) => {
            let connect = || async {
                match TcpStream::connect(addr).await {
                    Ok(_) => Outcome::Pass,
                    Err(_) => Outcome::ConnectError,
                }
            };
            hedged(probe.timeout / HEDGE_SHARE, connect).await
        }
        (Check::Command(argv), _) => command::run(argv, probe).await,
        // Without a port there is nothing to ask; configuration refuses it.
        (Check::Http { .. } | Check::Tcp | Check::Notify, _) => Outcome::Late,
    }
}

/// Asks once more, on a connection of its own, when there is no answer after this time; either answer counts. It ends with the
/// limit of the caller.
async fn hedged<F: Future<Output = Outcome>>(after: Duration, ask: impl Fn() -> F) -> Outcome {
    let mut first = pin!(ask());
    if let Ok(outcome) = tokio::time::timeout(after, &mut first).await {
        return outcome;
    }
    let mut second = pin!(ask());
    let answered = |outcome| matches!(outcome, Outcome::Pass | Outcome::Refused(_));
    tokio::select! {
        outcome = &mut first => if answered(outcome) { outcome } else { second.await },
        outcome = &mut second => if answered(outcome) { outcome } else { first.await },
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
    use std::net::SocketAddr;

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

    /// What becomes of a request whose packets were lost.
    #[tokio::test]
    async fn silence_is_asked_once_more() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let served = tokio::spawn(async move {
            let lost = listener.accept().await.unwrap();
            let (mut second, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = second.read(&mut request).await;
            second.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            drop(lost);
        });
        assert_eq!(outcome(Check::Http { path: "/".into(), status: 200..=399 }, Some(addr)).await, Outcome::Pass);
        served.await.unwrap();
    }

    #[tokio::test]
    async fn nobody_there_is_a_connect_error() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let outcome = outcome(Check::Tcp, Some(free)).await;
        assert!(matches!(outcome, Outcome::ConnectError | Outcome::Late), "{outcome:?}");
    }

    /// As a machine does that has no time for it.
    fn hold_thread(time: Duration) {
        std::thread::sleep(time);
    }

    #[tokio::test]
    async fn a_thread_that_is_held_up_knows_it() {
        let idle = watched(Duration::from_millis(60), std::future::pending::<()>()).await;
        assert_eq!(idle.0, None);
        let held = watched(Duration::from_millis(100), async {
            tokio::task::yield_now().await;
            hold_thread(Duration::from_millis(80));
            std::future::pending::<()>().await;
        });
        assert!(held.await.1 >= Duration::from_millis(50));
        // Until it was held up it was not late.
        assert_eq!(watched(Duration::from_secs(5), async { 7 }).await.0, Some(7));
    }
}
