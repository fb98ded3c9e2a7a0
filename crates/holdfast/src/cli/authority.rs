//! `holdfast cluster …`: the authority of a cluster, and the certificates of its machines.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Subcommand;
use holdfast_cluster::authority::{
    self, Authority, Error, Files, Identity, JoinToken, NODE_VALID, Request, Subject, TOKEN_VALID,
};
use holdfast_config::{Config, Environment};
use holdfast_host::clock;
use holdfast_policy::time::millis;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::simple::{own_name, say};
use super::{Common, check, duration, print_json, print_text};
use crate::agent::member::{Join, Joined, authority_failure, own_address};
use crate::api::{ClusterInfo, Done, RenewWish, Token, TokenWish};
use crate::failure::{Exit, Failure};

/// To connect, to agree on keys, and to be answered, each.
const STEP_TIME: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: usize = 64 << 10;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make the cluster's authority on this machine, once: it signs the certificates of all machines
    Init,
    /// Print a token with which one more machine may join
    Token {
        /// How long it is good, at most 7d
        #[arg(long, value_name = "DURATION")]
        valid: Option<String>,
        /// Only this machine may use it; it replaces the certificate that the machine has
        #[arg(long = "for", value_name = "NODE")]
        only: Option<String>,
    },
    /// Get this machine's certificate, with a token
    Join {
        /// As `holdfast cluster token` printed it
        #[arg(env = "HOLDFAST_JOIN_TOKEN", hide_env_values = true)]
        token: String,
        /// Where a machine that keeps the authority's key answers
        #[arg(long, value_name = "ADDRESS:PORT")]
        from: SocketAddr,
        /// Replace the certificate that is here
        #[arg(long)]
        replace: bool,
    },
    /// Renew a certificate now, also one that has expired
    Renew {
        /// This machine when left out
        #[arg(value_name = "NODE")]
        machine: Option<String>,
    },
}

impl Command {
    pub(super) fn is_remote(&self) -> bool {
        matches!(self, Command::Token { .. } | Command::Renew { .. })
    }
}

pub(super) async fn run(common: &Common, command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Init => init(common).await,
        Command::Token { valid, only } => token(common, valid.as_deref(), only).await,
        Command::Join { token, from, replace } => join(common, &token, from, replace).await,
        // Fields named `node` would be the common option.
        Command::Renew { machine } => {
            let wish = RenewWish { node: machine, who: own_name() };
            let done: Done = common.client()?.post("/v1/cluster/renew", &wish).await?;
            say(common, &done)
        }
    }
}

struct Here {
    config: Config,
    node: String,
    files: Files,
}

fn here(common: &Common) -> Result<Here, Failure> {
    let config = check::load(common)?.config;
    if config.cluster.is_none() {
        return Err(crate::agent::member::alone());
    }
    let layout = common.layout()?;
    layout.prepare()?;
    let node = layout.node.clone().unwrap_or_else(|| Environment::here().hostname);
    Ok(Here { config, node, files: Files::new(&layout.data_dir) })
}

/// The running agent, if there is one, takes up the new files by itself.
async fn init(common: &Common) -> Result<Exit, Failure> {
    let here = here(common)?;
    let failed = |e: Error| authority_failure(&e, "no authority was made");
    let known = common.client()?.get::<ClusterInfo>("/v1/cluster").await.ok().and_then(|info| info.authority);
    let present = here.files.authority().map_err(failed)?.map(|a| a.fingerprint.to_string());
    let joined = here.files.identity().map_err(failed)?.map(|i| i.fingerprint.to_string());
    if let Some(fingerprint) = present.or(joined).or(known) {
        return Err(failed(Error::Exists { fingerprint }));
    }
    let authority = make(&here).map_err(failed)?;
    if common.json {
        print_json(&serde_json::json!({ "node": here.node, "authority": authority.fingerprint.to_string() }))?;
    } else {
        print_text(&format!(
            "{} keeps the cluster's authority now\nfingerprint {}\n\
             keep a copy of {} in a safe place: without it no machine can join or renew\n\
             next: holdfast cluster token, for each other machine\n",
            here.node,
            authority.fingerprint,
            here.files.path("ca.key").display()
        ));
    }
    Ok(Exit::Ok)
}

fn make(here: &Here) -> Result<Authority, Error> {
    let cluster = here.config.cluster.as_ref();
    let name = cluster.map_or("", |c| &c.name);
    let valid = cluster.map_or(NODE_VALID, |c| c.certificate_valid);
    let address = here.config.nodes.get(&here.node).and_then(|machine| machine.address);
    let address = address.or_else(|| own_address(cluster?).ok());
    let subject = Subject { name: authority::dns_name(&here.node, name)?, addresses: address.into_iter().collect() };
    let authority = Authority::create(name, clock::wall_ms())?;
    let request = Request::new()?;
    let issued = authority.issue(&request.request_pem, &subject, clock::wall_ms(), valid)?;
    here.files.keep_authority(&authority)?;
    here.files.keep_joined(&authority.ca_pem, &issued.pem, &request.key_pem)?;
    Ok(authority)
}

/// Code of an agent that knows no authority.
const NO_AUTHORITY: &str = "HF0378";
/// Agents look for new certificates twice a second.
const AUTHORITY_SEEN: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

async fn token(common: &Common, valid: Option<&str>, node: Option<String>) -> Result<Exit, Failure> {
    let valid = valid.map_or(Ok(TOKEN_VALID), duration)?;
    let wish = TokenWish { valid_ms: millis(valid), node, who: own_name() };
    let token = ask_token(common, &wish).await?;
    if common.json {
        print_json(&token)?;
        return Ok(Exit::Ok);
    }
    // Only the token on stdout, so that a script can take it.
    print_text(&format!("{}\n", token.token));
    match token.from.first() {
        Some(from) => eprintln!("good once; on the new machine: holdfast cluster join TOKEN --from {from}"),
        None => eprintln!("good once; no machine that keeps the authority's key answers at present"),
    }
    Ok(Exit::Ok)
}

/// An agent whose authority was made just now finds it within a second.
async fn ask_token(common: &Common, wish: &TokenWish) -> Result<Token, Failure> {
    let (client, began) = (common.client()?, Instant::now());
    loop {
        match client.post("/v1/cluster/token", wish).await {
            Err(failure) if failure.code == NO_AUTHORITY && began.elapsed() < AUTHORITY_SEEN => {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            result => return result,
        }
    }
}

async fn join(common: &Common, token: &str, from: SocketAddr, replace: bool) -> Result<Exit, Failure> {
    let here = here(common)?;
    let failed = |e: Error| authority_failure(&e, "this machine did not join");
    let token: JoinToken = token.parse().map_err(failed)?;
    // What cannot be used may be replaced as well.
    if !replace && !matches!(here.files.identity(), Ok(None)) {
        return Err(Failure::new("HF0377", "this machine has a certificate already")
            .hint("to give it another one: --replace")
            .exit(Exit::Refused));
    }
    let request = Request::new().map_err(failed)?;
    let body = Join {
        id: token.id.clone(),
        secret: token.secret.clone(),
        node: here.node.clone(),
        request_pem: request.request_pem.clone(),
    };
    let joined = ask(&token, from, &body).await?;
    let identity = Identity::load(&joined.ca_pem, &joined.node_pem, &request.key_pem).map_err(failed)?;
    let own = here.config.cluster.as_ref().map_or("", |c| &c.name);
    if joined.cluster != own || identity.fingerprint != token.fingerprint {
        return Err(Failure::new(
            "HF0380",
            format!("the token is for the cluster `{}`, the file for `{own}`", joined.cluster),
        )
        .hint("the file must be that of the other machines")
        .exit(Exit::Refused));
    }
    here.files.keep_joined(&joined.ca_pem, &joined.node_pem, &request.key_pem).map_err(failed)?;
    let done =
        Done { message: format!("{} has its certificate; holdfast up -d starts it, if it does not run", here.node) };
    say(common, &done)
}

/// Over a connection that ends in the authority that the token names, or nowhere.
async fn ask(token: &JoinToken, from: SocketAddr, body: &Join) -> Result<Joined, Failure> {
    let silent = |e: &dyn std::fmt::Display| {
        Failure::new("HF0388", format!("{from} does not answer as an agent does"))
            .because(e)
            .hint("the address is that of a machine that keeps the authority's key: holdfast cluster token prints it")
            .exit(Exit::Unhealthy)
    };
    let late = |_| silent(&"no answer in time");
    let config = authority::pinned(token.fingerprint).map_err(|e| authority_failure(&e, "TLS cannot be set up"))?;
    let tcp = timeout(STEP_TIME, TcpStream::connect(from)).await.map_err(late)?.map_err(|e| silent(&e))?;
    let name = ServerName::IpAddress(from.ip().into());
    let stream = timeout(STEP_TIME, TlsConnector::from(config).connect(name, tcp)).await.map_err(late)?;
    let stream = stream.map_err(|e| match e.to_string().contains("invalid peer certificate") {
        true => authority_failure(&Error::Stranger, "this machine did not join").because(e),
        false => silent(&e),
    })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| silent(&e))?;
    tokio::spawn(connection);
    let text = serde_json::to_vec(body).map_err(|e| silent(&e))?;
    let request = http::Request::post("/v1/join")
        .header("host", "agent")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(text)))
        .map_err(|e| silent(&e))?;
    let answer = timeout(STEP_TIME, sender.send_request(request)).await.map_err(late)?.map_err(|e| silent(&e))?;
    let status = answer.status();
    let read = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect();
    let bytes = timeout(STEP_TIME, read).await.map_err(late)?.map_err(|e| silent(&e))?.to_bytes();
    if status.is_success() {
        return serde_json::from_slice(&bytes).map_err(|e| silent(&e));
    }
    Err(serde_json::from_slice(&bytes).unwrap_or_else(|_| silent(&status)))
}
