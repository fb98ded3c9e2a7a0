//! What people ask about certificates, and what they are told of them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_cluster::authority::{self, JoinToken, Offer, RENEWAL_VALID, Validity};
use holdfast_cluster::keys::{self, Key, Role};
use holdfast_cluster::members::Registration;
use holdfast_host::clock;
use holdfast_policy::time::millis;

use super::{Member, authority_failure};
use crate::api::{ClusterInfo, Done, KeyInfo, KeyWish, RenewWish, Token, TokenWish};
use crate::failure::{Exit, Failure};

/// A token that lies about is a door.
const TOKEN_VALID_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

fn set(place: &Mutex<Option<String>>, value: Option<String>) {
    *place.lock().unwrap_or_else(PoisonError::into_inner) = value;
}

fn get(place: &Mutex<Option<String>>) -> Option<String> {
    place.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

impl Member {
    pub(super) fn set_deaf(&self, why: Option<String>) {
        set(&self.deaf, why);
    }

    pub(super) fn set_rival(&self, why: Option<String>) {
        set(&self.rival, why);
    }

    fn own_link(&self) -> Option<SocketAddr> {
        *self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn info(&self) -> ClusterInfo {
        let credentials = self.credentials();
        let certificate = credentials.shown.as_ref().map(|shown| &shown.identity.certificate);
        ClusterInfo {
            name: self.cluster.name.clone(),
            authority: self.seen().view.authority.clone(),
            keeps_key: credentials.authority.is_some(),
            not_after_wall_ms: certificate.map(|c| c.not_after_wall_ms),
            serial: certificate.map(|c| c.serial.clone()),
            link: self.own_link(),
        }
    }

    pub(crate) async fn join_token(&self, wish: &TokenWish) -> Result<Token, Failure> {
        let credentials = self.credentials();
        let Some(shown) = &credentials.shown else {
            return Err(Failure::new("HF0378", "this machine has no certificate, so it cannot vouch for the cluster")
                .hint("holdfast cluster init, once for the whole cluster; on other machines: holdfast cluster join")
                .exit(Exit::Refused));
        };
        let valid = Duration::from_millis(wish.valid_ms);
        if valid.is_zero() || valid > TOKEN_VALID_MAX {
            return Err(Failure::new("HF0702", "a token is valid for at most 7 days").exit(Exit::Usage));
        }
        let failed = |e| authority_failure(&e, "no token was made");
        let token = JoinToken::new(shown.identity.fingerprint).map_err(failed)?;
        let expires_wall_ms = clock::wall_ms().saturating_add(wish.valid_ms);
        let digest = String::new();
        let offer = Offer { version: 1, digest, expires_wall_ms, node: wish.node.clone(), by: wish.who.clone() };
        authority::offer(&*self.store, &token, offer).await.map_err(failed)?;
        let seen = self.seen();
        let keeps = |n: &&Arc<Registration>| n.authority && n.name != *self.name.0;
        let own = credentials.authority.as_ref().and_then(|_| self.own_link());
        let from = own.into_iter().chain(seen.view.nodes.values().filter(keeps).filter_map(|n| n.link)).collect();
        Ok(Token { token: token.to_string(), from, expires_wall_ms })
    }

    /// A person's word, good once: the machine renews as soon as it hears it, also when its certificate has run out.
    pub(crate) async fn ask_renewal(&self, wish: &RenewWish) -> Result<Done, Failure> {
        let name = wish.node.as_deref().unwrap_or(&self.name.0);
        self.known(name)?;
        let until = clock::wall_ms().saturating_add(millis(RENEWAL_VALID));
        let allowed = authority::allow_renewal(&*self.store, name, until, &wish.who).await;
        allowed.map_err(|e| authority_failure(&e, "the renewal is not asked for"))?;
        Ok(Done { message: format!("{name} renews its certificate as soon as it hears of it; see holdfast node list") })
    }

    pub(crate) fn keys(&self) -> Vec<KeyInfo> {
        let seen = self.seen();
        let one = |(name, record): (&String, &keys::Record)| KeyInfo {
            name: name.clone(),
            role: record.role.to_string(),
            created_wall_ms: record.created_wall_ms,
            by: record.by.clone(),
        };
        seen.view.keys.iter().map(one).collect()
    }

    pub(crate) async fn change_key(&self, wish: &KeyWish) -> Result<Done, Failure> {
        let failed = |e: authority::Error| authority_failure(&e, "the key was not changed");
        let usage = |what: String| Err(Failure::new("HF0389", what).hint("holdfast key list").exit(Exit::Usage));
        let Some(role) = &wish.role else {
            return match keys::remove(&*self.store, &wish.name).await.map_err(failed)? {
                true => Ok(Done { message: format!("the key {} is good no more", wish.name) }),
                false => usage(format!("there is no key {}", wish.name)),
            };
        };
        let Ok(role) = role.parse::<Role>() else { return usage(format!("`{role}` is none of read, operate, admin")) };
        let credentials = self.credentials();
        let Some(shown) = &credentials.shown else {
            return Err(Failure::new("HF0378", "keys are for TLS, and this machine has no certificate")
                .hint("holdfast cluster init")
                .exit(Exit::Refused));
        };
        let key = Key::new(&wish.name, shown.identity.fingerprint).map_err(failed)?;
        match keys::add(&*self.store, &key, role, &wish.who, clock::wall_ms()).await.map_err(failed)? {
            true => Ok(Done { message: key.to_string() }),
            false => usage(format!("there is a key {} already", wish.name)),
        }
    }

    /// Code, message and hint of what is wrong with the links.
    pub(crate) fn link_warnings(&self) -> Vec<(&'static str, String, String)> {
        let credentials = self.credentials();
        let mut all = Vec::new();
        if let Some(why) = get(&self.deaf) {
            all.push(("HF0385", why, "give the address or the port free, or change [cluster] link".to_owned()));
        }
        if let Some(why) = get(&self.rival) {
            let hint = "remove tls/ca.key and tls/ca.pem here, then join the cluster's own: holdfast cluster join";
            all.push(("HF0377", why, hint.to_owned()));
        }
        if let Some(why) = &credentials.trouble {
            all.push(("HF0376", why.clone(), format!("holdfast cluster token --for {0}; join again", self.name)));
        }
        match credentials.validity() {
            None if credentials.trouble.is_none() => {
                let (message, hint) = match self.seen().view.authority {
                    None => (
                        "the agents of this cluster do not prove to each other who they are",
                        "holdfast cluster init, then a token for each other machine",
                    ),
                    Some(_) => (
                        "this machine has no certificate of the cluster's authority",
                        "holdfast cluster token on a member, holdfast cluster join here",
                    ),
                };
                all.push(("HF0375", message.to_owned(), hint.to_owned()));
            }
            Some(Validity::Expired) => {
                let message =
                    "this machine's certificate has expired: what runs goes on, and its word counts for nothing";
                all.push(("HF0382", message.to_owned(), "holdfast cluster renew".to_owned()));
            }
            Some(Validity::NotYet) => {
                let message = "this machine's certificate is not valid yet: is its clock right?";
                all.push(("HF0382", message.to_owned(), "date; then holdfast cluster renew".to_owned()));
            }
            _ => {}
        }
        all
    }
}
