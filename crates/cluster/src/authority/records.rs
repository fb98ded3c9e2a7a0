//! What the authority keeps in the shared store: never a secret.
//!
//! | key | what |
//! |---|---|
//! | `/authority` | fingerprint of the cluster's one authority |
//! | `/join/ID` | [`Offer`]: a token that was not used yet |
//! | `/issued/NODE` | [`IssuedTo`]: the key that this machine's newest certificate is for |
//! | `/renewal/NODE` | [`Renewal`]: a certificate that has run out may be renewed once |

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::token::{JoinToken, is_same};
use super::{Certificate, Error, Fingerprint, Result};
use crate::records::codec;
use crate::{Guard, Op, Store, Txn};

pub const AUTHORITY: &str = "/authority";
pub const JOIN: &str = "/join/";
pub const ISSUED: &str = "/issued/";
pub const RENEWAL: &str = "/renewal/";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    #[serde(default)]
    pub version: u32,
    /// SHA-256 of the secret.
    pub digest: String,
    pub expires_wall_ms: u64,
    /// Only this machine may use it, and it may replace the certificate that it has.
    #[serde(default)]
    pub node: Option<String>,
    #[serde(default)]
    pub by: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedTo {
    #[serde(default)]
    pub version: u32,
    /// SHA-256 of the public key.
    pub key: String,
    pub serial: String,
    pub not_after_wall_ms: u64,
    /// The machine that issued it.
    #[serde(default)]
    pub by: String,
}

impl IssuedTo {
    fn new(certificate: &Certificate, by: &str) -> IssuedTo {
        IssuedTo {
            version: 1,
            key: certificate.key.to_string(),
            serial: certificate.serial.clone(),
            not_after_wall_ms: certificate.not_after_wall_ms,
            by: by.to_owned(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewal {
    #[serde(default)]
    pub version: u32,
    pub until_wall_ms: u64,
    #[serde(default)]
    pub by: String,
}

async fn read<T: DeserializeOwned>(store: &dyn Store, key: &str) -> Result<Option<(T, u64)>> {
    let Some(kv) = store.get(key.to_owned()).await? else { return Ok(None) };
    Ok(Some((codec::decode(key, &kv.value)?, kv.mod_revision)))
}

async fn write<T: Serialize>(store: &dyn Store, key: &str, record: &T) -> Result<()> {
    store.txn(Txn::always([Op::put(key, codec::encode(key, record)?)])).await?;
    Ok(())
}

/// The one authority of the cluster; an error when there is another.
pub async fn proclaim(store: &dyn Store, fingerprint: Fingerprint) -> Result<()> {
    let put = Op::put(AUTHORITY, fingerprint.to_string());
    if store.txn(Txn::when([Guard::absent(AUTHORITY)]).then([put])).await?.succeeded {
        return Ok(());
    }
    let known = store.get(AUTHORITY.to_owned()).await?.map(|kv| String::from_utf8_lossy(&kv.value).into_owned());
    match known {
        Some(known) if known != fingerprint.to_string() => Err(Error::Exists { fingerprint: known }),
        _ => Ok(()),
    }
}

pub async fn offer(store: &dyn Store, token: &JoinToken, offer: Offer) -> Result<()> {
    let record = Offer { version: 1, digest: JoinToken::digest(&token.secret).to_string(), ..offer };
    write(store, &format!("{JOIN}{}", token.id), &record).await
}

/// Uses a token up. What is wrong with it is told only to who knows its secret.
pub async fn redeem(store: &dyn Store, id: &str, secret: &str, node: &str, wall_ms: u64) -> Result<Offer> {
    let refused = |reason| Err(Error::Token { reason });
    let unknown = "it is not known, or was used";
    let key = format!("{JOIN}{id}");
    let found = if id.bytes().all(|b| b.is_ascii_hexdigit()) { read::<Offer>(store, &key).await? } else { None };
    let Some((offer, revision)) = found else { return refused(unknown) };
    let right = offer.digest.parse().is_ok_and(|digest| is_same(&digest, &JoinToken::digest(secret)));
    if !right {
        return refused(unknown);
    }
    if wall_ms >= offer.expires_wall_ms {
        store.txn(Txn::when([Guard::unchanged(&key, revision)]).then([Op::delete(&key)])).await?;
        return refused("it has expired");
    }
    if offer.node.as_deref().is_some_and(|only| only != node) {
        return refused("it is for another machine");
    }
    let used = Txn::when([Guard::unchanged(&key, revision)]).then([Op::delete(&key)]);
    match store.txn(used).await?.succeeded {
        true => Ok(offer),
        false => refused(unknown),
    }
}

pub async fn issued(store: &dyn Store, node: &str) -> Result<Option<IssuedTo>> {
    Ok(read(store, &format!("{ISSUED}{node}")).await?.map(|(record, _)| record))
}

pub async fn keep_issued(store: &dyn Store, node: &str, certificate: &Certificate, by: &str) -> Result<()> {
    write(store, &format!("{ISSUED}{node}"), &IssuedTo::new(certificate, by)).await
}

/// A name for a new key. Without `replace` only one that nobody has a valid certificate for.
pub async fn claim(
    store: &dyn Store,
    node: &str,
    certificate: &Certificate,
    by: &str,
    replace: bool,
    wall_ms: u64,
) -> Result<()> {
    let taken = || Err(Error::Taken { node: node.to_owned() });
    let key = format!("{ISSUED}{node}");
    let known = read::<IssuedTo>(store, &key).await?;
    let another = |known: &IssuedTo| known.key != certificate.key.to_string() && known.not_after_wall_ms > wall_ms;
    if !replace && known.as_ref().is_some_and(|(known, _)| another(known)) {
        return taken();
    }
    let unchanged = Guard::unchanged(&key, known.map_or(0, |(_, revision)| revision));
    let put = Op::put(&key, codec::encode(&key, &IssuedTo::new(certificate, by))?);
    if store.txn(Txn::when([unchanged]).then([put])).await?.succeeded { Ok(()) } else { taken() }
}

/// A machine that was removed, or whose name another key has now, is not renewed.
pub async fn may_renew(store: &dyn Store, node: &str, certificate: &Certificate) -> Result<()> {
    let refused = |reason| Err(Error::Renewal { node: node.to_owned(), reason });
    match issued(store, node).await? {
        None => refused("it is not of this cluster any more"),
        Some(known) if known.key != certificate.key.to_string() => refused("another key has its name now"),
        Some(_) => Ok(()),
    }
}

pub async fn allow_renewal(store: &dyn Store, node: &str, until_wall_ms: u64, by: &str) -> Result<()> {
    write(store, &format!("{RENEWAL}{node}"), &Renewal { version: 1, until_wall_ms, by: by.to_owned() }).await
}

/// For a certificate that has run out: uses the permission up.
pub async fn take_renewal(store: &dyn Store, node: &str, wall_ms: u64) -> Result<Renewal> {
    let refused = Error::Renewal { node: node.to_owned(), reason: "its certificate has expired" };
    let key = format!("{RENEWAL}{node}");
    let Some((renewal, revision)) = read::<Renewal>(store, &key).await? else { return Err(refused) };
    let used = Txn::when([Guard::unchanged(&key, revision)]).then([Op::delete(&key)]);
    let good = store.txn(used).await?.succeeded && wall_ms < renewal.until_wall_ms;
    if good { Ok(renewal) } else { Err(refused) }
}
