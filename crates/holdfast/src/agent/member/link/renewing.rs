//! Certificates are renewed at half their life, by any machine that keeps the authority's key.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::{Extension, Json};
use holdfast_cluster::authority::{self, Authority, Error, Issued, Request, Subject, Validity};
use holdfast_host::clock;
use holdfast_policy::backoff::Backoff;
use holdfast_policy::rng::Rng;
use http::Method;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::credentials::Shown;
use super::joining::{self, addresses, tell};
use super::server::{Caller, Site};
use super::{Credentials, Member};
use crate::agent::agent_event;
use crate::agent::core::Core;
use crate::failure::{Exit, Failure};

/// Files that a command wrote are in use this soon.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// There is half a life of time.
const AGAIN: Backoff = Backoff { base: Duration::from_secs(1), factor: 2.0, max: Duration::from_secs(60), jitter: 0.3 };
/// The authority signs within milliseconds, and asks the shared store before.
const ANSWER: Duration = Duration::from_secs(5);

/// `POST /v1/renew`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Renew {
    pub(crate) request_pem: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Renewed {
    pub(crate) node_pem: String,
}

/// A machine asks with the certificate that it has. One that has run out needs a person's word, which is good once.
pub(super) async fn renew(
    State(site): State<Arc<Site>>,
    Extension(caller): Extension<Caller>,
    Json(asked): Json<Renew>,
) -> Result<Json<Renewed>, Failure> {
    let (name, certificate) = caller.machine(&site.member.cluster.name)?;
    let credentials = site.member.credentials();
    let Some(authority) = &credentials.authority else { return Err(joining::elsewhere(&site.member)) };
    let renewed = async {
        let store = &*site.member.store;
        authority::may_renew(store, name, certificate).await?;
        let allowed = authority::take_renewal(store, name, clock::wall_ms()).await;
        let reason = match (certificate.validity(clock::wall_ms()), allowed) {
            (_, Ok(renewal)) => format!("renewed, as {} asked for", renewal.by),
            (Validity::Good, Err(Error::Renewal { .. })) => "renewed at half its life".to_owned(),
            (_, Err(error)) => return Err(error),
        };
        let subject = Subject {
            name: authority::dns_name(name, &site.member.cluster.name)?,
            addresses: addresses(&site, name, caller.addr),
        };
        let valid = site.member.cluster.certificate_valid;
        let issued = authority.issue(&asked.request_pem, &subject, clock::wall_ms(), valid)?;
        if issued.certificate.key != certificate.key {
            return Err(Error::Request { reason: "it is for another key".into() });
        }
        authority::keep_issued(store, name, &issued.certificate, &site.member.name.0).await?;
        Ok((issued, reason))
    };
    match renewed.await {
        Ok((issued, reason)) => {
            tell(&site, name, "renewed", &reason, &issued, caller.addr);
            Ok(Json(Renewed { node_pem: issued.pem }))
        }
        Err(error) => Err(joining::authority_failure(&error, &format!("the certificate of {name} is not renewed"))),
    }
}

pub(super) async fn run(member: Arc<Member>, core: Arc<Core>) {
    let mut rng = Rng::from_seed(clock::now().as_nanos());
    let mut failures = 0u32;
    let mut next = clock::now();
    let mut seen = member.watch_seen();
    let mut proclaimed = None;
    let mut known = (false, 0);
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            changed = seen.changed() => if changed.is_err() { return },
        }
        member.keeper.refresh();
        let credentials = member.credentials();
        if let Some(authority) = credentials.authority.as_ref().filter(|a| proclaimed != Some(a.fingerprint)) {
            match proclaim(&member, authority, &credentials).await {
                Ok(()) => proclaimed = Some(authority.fingerprint),
                Err(error) => tracing::debug!(%error, "the authority is not known to the others yet"),
            }
        }
        let asked = member.seen().view.renewals.contains(&*member.name.0);
        let now = clock::now();
        // A person's word, or other files: what failed before may go well now.
        if std::mem::replace(&mut known, (asked, credentials.number)) != (asked, credentials.number) {
            (failures, next) = (0, now);
        }
        if !is_due(&credentials, asked) || now < next {
            continue;
        }
        match one(&member, &core, &credentials).await {
            Ok(()) => {
                failures = 0;
                next = now;
                member.keeper.refresh();
            }
            Err(failure) => {
                failures = failures.saturating_add(1);
                next = now + AGAIN.delay(failures, &mut rng);
                tracing::debug!(%failure, failures, "this machine's certificate is not renewed yet");
            }
        }
    }
}

fn is_due(credentials: &Credentials, asked: bool) -> bool {
    let Some(shown) = &credentials.shown else { return false };
    let (certificate, now) = (&shown.identity.certificate, clock::wall_ms());
    match certificate.validity(now) {
        // The authority may renew its own.
        Validity::Expired => asked || credentials.authority.is_some(),
        Validity::Good => asked || now >= certificate.half_life_wall_ms(),
        // A clock that was set back: what is there may be right.
        Validity::NotYet => asked,
    }
}

async fn one(member: &Member, core: &Core, credentials: &Credentials) -> Result<(), Failure> {
    let Some(shown) = &credentials.shown else { return Ok(()) };
    let key_pem = &shown.identity.key_pem;
    let request = Request::again(key_pem).map_err(|e| joining::authority_failure(&e, "no request can be made"))?;
    let node_pem = match &credentials.authority {
        Some(authority) => own(member, core, authority, shown, &request).await?,
        None => ask(member, credentials, &request).await?,
    };
    let kept = member.keeper.files.keep_renewed(&node_pem, &shown.identity);
    kept.map_err(|e| joining::authority_failure(&e, "the new certificate cannot be kept"))?;
    tracing::info!("this machine's certificate is renewed");
    Ok(())
}

async fn own(
    member: &Member,
    core: &Core,
    authority: &Authority,
    shown: &Shown,
    request: &Request,
) -> Result<String, Failure> {
    let name = member.name.to_string();
    let made = || -> Result<Issued, Error> {
        let subject = Subject {
            name: authority::dns_name(&name, &member.cluster.name)?,
            addresses: shown.identity.certificate.addresses.clone(),
        };
        authority.issue(&request.request_pem, &subject, clock::wall_ms(), member.cluster.certificate_valid)
    };
    let issued = made().map_err(|e| joining::authority_failure(&e, "no certificate can be made"))?;
    // Without the store it is renewed all the same: nobody else could.
    let recorded = async {
        authority::keep_issued(&*member.store, &name, &issued.certificate, &name).await?;
        match authority::take_renewal(&*member.store, &name, clock::wall_ms()).await {
            Ok(_) | Err(Error::Renewal { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    };
    if let Err(error) = timeout(ANSWER, recorded).await.unwrap_or(Ok(())) {
        tracing::debug!(%error, "a renewed certificate is not recorded yet");
    }
    let event = agent_event(core, &format!("node/{name}")).change("", "renewed", "by its own authority".to_owned());
    core.journal.append(event.with("serial", &issued.certificate.serial).with("stage", "neutral"));
    Ok(issued.pem)
}

/// Of the machines that keep the key the first one that answers.
async fn ask(member: &Member, credentials: &Credentials, request: &Request) -> Result<String, Failure> {
    let body = serde_json::to_vec(&Renew { request_pem: request.request_pem.clone() })
        .map_err(|e| Failure::new("HF0306", "cannot encode the request").because(e))?;
    let cluster = &member.cluster.name;
    let mut last = Failure::new("HF0386", "no machine that keeps the authority's key answers").exit(Exit::Unhealthy);
    for (name, addr) in member.authorities() {
        let call = member.peers.call(credentials, cluster, &name, addr, Method::POST, "/v1/renew", body.clone().into());
        match timeout(ANSWER, call).await {
            Ok(Ok(answer)) if answer.status.is_success() && answer.trusted => {
                let renewed: Renewed = serde_json::from_slice(&answer.body)
                    .map_err(|e| Failure::new("HF0306", format!("the answer of {name} cannot be read")).because(e))?;
                return Ok(renewed.node_pem);
            }
            Ok(Ok(answer)) => last = serde_json::from_slice(&answer.body).unwrap_or(last),
            Ok(Err(missed)) => last = last.because(format!("{name}: {missed:?}")),
            Err(_) => last = last.because(format!("{name} does not answer")),
        }
    }
    Err(last)
}

/// One authority for all, and its own machine's certificate is known as every other.
async fn proclaim(member: &Member, authority: &Authority, credentials: &Credentials) -> Result<(), Error> {
    let store = &*member.store;
    let proclaimed = authority::proclaim(store, authority.fingerprint).await;
    if let Err(error @ Error::Exists { .. }) = &proclaimed {
        member.set_rival(Some(error.to_string()));
    }
    proclaimed?;
    member.set_rival(None);
    if let Some(shown) = &credentials.shown {
        authority::keep_issued(store, &member.name.0, &shown.identity.certificate, &member.name.0).await?;
    }
    Ok(())
}
