//! A new machine with a token gets its certificate here, where the authority's key is kept.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError};

use axum::extract::State;
use axum::{Extension, Json};
use holdfast_cluster::authority::{self, Authority, Error, Issued, Subject};
use holdfast_host::clock;
use serde::{Deserialize, Serialize};

use super::Member;
use super::server::{Caller, Site};
use crate::agent::agent_event;
use crate::failure::{Exit, Failure};

/// `POST /v1/join`.
#[derive(Serialize, Deserialize)]
pub(crate) struct Join {
    pub(crate) id: String,
    pub(crate) secret: String,
    pub(crate) node: String,
    pub(crate) request_pem: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Joined {
    pub(crate) cluster: String,
    pub(crate) ca_pem: String,
    pub(crate) node_pem: String,
}

pub(super) async fn join(
    State(site): State<Arc<Site>>,
    Extension(caller): Extension<Caller>,
    Json(request): Json<Join>,
) -> Result<Json<Joined>, Failure> {
    let may_try = site.throttle.lock().unwrap_or_else(PoisonError::into_inner).may_try(clock::now(), caller.addr);
    if !may_try {
        return Err(Failure::new("HF0383", "too many tokens were wrong; wait a minute").exit(Exit::Refused));
    }
    let credentials = site.member.credentials();
    let Some(authority) = &credentials.authority else { return Err(elsewhere(&site.member)) };
    match admit(&site, authority, &request, caller.addr).await {
        Ok((issued, by)) => {
            tell(
                &site,
                &request.node,
                "certified",
                &format!("joined with token {} of {by}", request.id),
                &issued,
                caller.addr,
            );
            let cluster = site.member.cluster.name.clone();
            Ok(Json(Joined { cluster, ca_pem: authority.ca_pem.clone(), node_pem: issued.pem }))
        }
        Err(error) => {
            site.throttle.lock().unwrap_or_else(PoisonError::into_inner).failed(clock::now(), caller.addr);
            let event = agent_event(&site.core, "cluster/authority");
            let event = event.change("", "refused", format!("a machine may not join: {error}"));
            site.core.journal.append(event.with("from", caller.addr).with("stage", "neutral"));
            Err(authority_failure(&error, "this machine may not join"))
        }
    }
}

async fn admit(site: &Site, authority: &Authority, request: &Join, from: IpAddr) -> Result<(Issued, String), Error> {
    let (member, wall_ms) = (&site.member, clock::wall_ms());
    let name = authority::dns_name(&request.node, &member.cluster.name)?;
    let offer = authority::redeem(&*member.store, &request.id, &request.secret, &request.node, wall_ms).await?;
    let subject = Subject { name, addresses: addresses(site, &request.node, from) };
    let issued = authority.issue(&request.request_pem, &subject, wall_ms, member.cluster.certificate_valid)?;
    let replace = offer.node.is_some();
    let by = member.name.to_string();
    authority::claim(&*member.store, &request.node, &issued.certificate, &by, replace, wall_ms).await?;
    Ok((issued, offer.by))
}

/// Where it calls from and what the file says: nobody gets a certificate for an address of its own choice.
pub(super) fn addresses(site: &Site, node: &str, from: IpAddr) -> Vec<IpAddr> {
    let in_force = site.core.in_force();
    let named = in_force.and_then(|f| f.config.nodes.get(node).and_then(|machine| machine.address));
    let mut all: Vec<IpAddr> = named.into_iter().chain([from]).collect();
    all.dedup();
    all
}

/// Every certificate that is given out is in the journal.
pub(super) fn tell(site: &Site, node: &str, what: &'static str, reason: &str, issued: &Issued, from: IpAddr) {
    tracing::info!(node, what, reason, serial = issued.certificate.serial, "certificate");
    let event = agent_event(&site.core, &format!("node/{node}")).change("", what, reason.to_owned());
    let event = event.with("serial", &issued.certificate.serial).with("from", from);
    let event = event.with("not_after_wall_ms", issued.certificate.not_after_wall_ms).with("stage", "neutral");
    site.core.journal.append(event);
}

pub(super) fn elsewhere(member: &Member) -> Failure {
    let others: Vec<String> = member.authorities().iter().map(|(name, addr)| format!("{name} ({addr})")).collect();
    let hint = match others.is_empty() {
        true => "no machine that runs keeps it; start the one where `cluster init` was run".to_owned(),
        false => format!("ask one that does: {}", others.join(", ")),
    };
    Failure::new("HF0378", "this machine does not keep the authority's key").hint(hint).exit(Exit::Refused)
}

pub(crate) fn authority_failure(error: &Error, what: &str) -> Failure {
    let failure = Failure::new(error.code(), what).because_of(error).exit(Exit::Refused);
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
