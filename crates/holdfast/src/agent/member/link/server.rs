//! The side that is called: who is it, and what may it ask?

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Path, State};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use holdfast_cluster::authority::{Certificate, Validity, node_of};
use holdfast_host::clock;
use holdfast_policy::throttle::Throttle;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::credentials::Shown;
use super::{ANSWER, Hello, Member, gate, joining, plain, renewing};
use crate::agent::core::Core;
use crate::failure::{Exit, Failure};

/// Machines of a cluster that keep a connection open.
const MEMBERS_MAX: usize = 512;
/// Who has not shown a certificate; a flood of strangers leaves the members' connections alone.
const STRANGERS_MAX: usize = 128;
/// A handshake on a starved machine.
const HANDSHAKE: Duration = Duration::from_secs(3);
/// Without a certificate one comes to join, and that is one request.
const STRANGER_STAYS: Duration = Duration::from_secs(15);
/// A member asks every half second; one that says nothing for so long is gone.
const IDLE_MAX: Duration = Duration::from_secs(30);
const BIND_AGAIN: Duration = Duration::from_secs(1);
/// A request for a certificate is below 8 KiB.
const REQUEST_BYTES_MAX: usize = 32 << 10;

/// Who asks.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) addr: IpAddr,
    pub(super) certificate: Option<Certificate>,
}

impl Caller {
    /// Its name and certificate, whatever the dates say.
    pub(super) fn machine(&self, cluster: &str) -> Result<(&str, &Certificate), Failure> {
        let known = self.certificate.as_ref().and_then(|c| Some((node_of(&c.names, cluster)?, c)));
        known.ok_or_else(|| {
            Failure::new("HF0387", "only machines of this cluster are answered here, and they show a certificate")
                .hint("holdfast cluster join")
                .exit(Exit::Refused)
        })
    }

    fn member(&self, cluster: &str) -> Result<&str, Failure> {
        let (name, certificate) = self.machine(cluster)?;
        match certificate.validity(clock::wall_ms()) {
            Validity::Good => Ok(name),
            _ => Err(Failure::new("HF0382", format!("the certificate of {name} has expired, or is not valid yet"))
                .hint(format!("holdfast cluster renew {name}"))
                .exit(Exit::Refused)),
        }
    }
}

pub(super) struct Site {
    pub(super) member: Arc<Member>,
    pub(super) core: Arc<Core>,
    pub(super) throttle: Mutex<Throttle>,
}

type Asked<T> = Result<Json<T>, Failure>;

fn router(site: Arc<Site>) -> Router {
    let gate = axum::middleware::from_fn_with_state(site.clone(), gate::gate);
    let api = crate::agent::server::router(site.core.clone()).layer(gate);
    let link = Router::new()
        .route("/v1/hello", get(hello))
        .route("/v1/ask/{question}/{argument}", get(ask))
        .route("/v1/join", post(joining::join))
        .route("/v1/renew", post(renewing::renew))
        .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .with_state(site);
    link.merge(api)
}

async fn hello(State(site): State<Arc<Site>>, Extension(caller): Extension<Caller>) -> Asked<Hello> {
    caller.member(&site.member.cluster.name)?;
    Ok(Json(Hello {
        name: site.member.name.to_string(),
        boot: clock::boot_id().to_owned(),
        program: env!("CARGO_PKG_VERSION").into(),
        authority: site.member.credentials().authority.is_some(),
    }))
}

async fn ask(
    State(site): State<Arc<Site>>,
    Extension(caller): Extension<Caller>,
    Path((question, argument)): Path<(String, String)>,
) -> Result<String, Failure> {
    caller.member(&site.member.cluster.name)?;
    site.member
        .questions
        .answer(&question, &argument)
        .ok_or_else(|| Failure::new("HF0306", format!("{question} is not answered here")).exit(Exit::Usage))
}

pub(super) async fn run(member: Arc<Member>, core: Arc<Core>) {
    let wanted = SocketAddr::new(member.address, member.cluster.link_port);
    let mut told = false;
    let listener = loop {
        match TcpListener::bind(wanted).await {
            Ok(listener) => break listener,
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(code = "HF0385", address = %wanted, %error, "cannot listen for other agents yet");
                }
                member.set_deaf(Some(format!("cannot listen for other agents on {wanted}: {error}")));
                tokio::time::sleep(BIND_AGAIN).await;
            }
        }
    };
    member.set_deaf(None);
    *member.link.lock().unwrap_or_else(PoisonError::into_inner) = listener.local_addr().ok();
    let site = Arc::new(Site { member, core, throttle: Mutex::default() });
    let router = router(site.clone());
    let (members, strangers) = (Arc::new(Semaphore::new(MEMBERS_MAX)), Arc::new(Semaphore::new(STRANGERS_MAX)));
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            tokio::time::sleep(BIND_AGAIN).await;
            continue;
        };
        let Ok(place) = strangers.clone().try_acquire_owned() else { continue };
        let (site, router, members) = (site.clone(), router.clone(), members.clone());
        tokio::spawn(async move {
            let credentials = site.member.credentials();
            let Some(shown) = &credentials.shown else { return greet(stream, &site.member).await };
            let Some((stream, caller)) = shake(shown, stream, from.ip()).await else { return };
            let known = caller.machine(&site.member.cluster.name).is_ok();
            let serve = serve(stream, router.layer(Extension(caller)));
            if known {
                let Ok(_place) = members.try_acquire_owned() else { return };
                drop(place);
                serve.await;
            } else {
                let _ = timeout(STRANGER_STAYS, serve).await;
            }
        });
    }
}

async fn greet(mut stream: TcpStream, member: &Member) {
    let _ = timeout(ANSWER, plain::answer(&mut stream, &member.name.0, &member.questions)).await;
}

type Stream = tokio_rustls::server::TlsStream<TcpStream>;

async fn shake(shown: &Shown, stream: TcpStream, addr: IpAddr) -> Option<(Stream, Caller)> {
    let _ = stream.set_nodelay(true);
    let stream = timeout(HANDSHAKE, TlsAcceptor::from(shown.server.clone()).accept(stream)).await.ok()?;
    let stream = stream.inspect_err(|error| tracing::debug!(%addr, %error, "a caller is turned away")).ok()?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(|all| Certificate::read(all.first()?));
    Some((stream, Caller { addr, certificate }))
}

async fn serve(stream: Stream, router: Router) {
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(IDLE_MAX);
    let _ = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).await;
}
