//! Keys of API clients: who may ask an agent what, from elsewhere. `/key/NAME` in the shared store, never a secret.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::authority::{Error, Fingerprint, random_hex, same_digest};
use crate::records::codec;
use crate::{Guard, Op, Store, Txn};

pub const KEY: &str = "/key/";
const VERSION: &str = "hfk1";
/// 256 bits: it lives long.
const SECRET_BYTES: usize = 32;
const NAME_CHARS_MAX: usize = 64;

/// Each may what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Look.
    Read,
    /// Restart, scale, pause, drain: what the file allows.
    Operate,
    /// Apply files, stop everything, let machines join, make keys.
    Admin,
}

impl Role {
    /// What a request needs. A path that is not named here needs all.
    pub fn needed(looks_only: bool, path: &str) -> Role {
        match path {
            "/v1/keys" => Role::Admin,
            _ if looks_only => Role::Read,
            "/v1/restart" | "/v1/scale" | "/v1/pause" | "/v1/resume" | "/v1/node" | "/v1/switchover" => Role::Operate,
            _ => Role::Admin,
        }
    }
}

impl FromStr for Role {
    type Err = ();

    fn from_str(text: &str) -> Result<Role, ()> {
        match text {
            "read" => Ok(Role::Read),
            "operate" => Ok(Role::Operate),
            "admin" => Ok(Role::Admin),
            _ => Err(()),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Read => "read",
            Role::Operate => "operate",
            Role::Admin => "admin",
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    #[serde(default)]
    pub version: u32,
    pub role: Role,
    /// SHA-256 of the secret.
    pub digest: String,
    #[serde(default)]
    pub created_wall_ms: u64,
    #[serde(default)]
    pub by: String,
}

impl Record {
    pub fn knows(&self, key: &Key) -> bool {
        self.digest.parse().is_ok_and(|digest| same_digest(&digest, &Fingerprint::of(key.secret.as_bytes())))
    }
}

/// `hfk1.NAME.SECRET.FINGERPRINT`; the last is that of the cluster's authority, so that the secret goes to nobody else.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    pub name: String,
    secret: String,
    pub fingerprint: Fingerprint,
}

impl Key {
    pub fn new(name: &str, fingerprint: Fingerprint) -> Result<Key, Error> {
        if !is_name(name) {
            let reason = "only small letters, digits and `-` can";
            return Err(Error::Name { name: name.to_owned(), reason });
        }
        Ok(Key { name: name.to_owned(), secret: random_hex(SECRET_BYTES)?, fingerprint })
    }
}

fn is_name(name: &str) -> bool {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=NAME_CHARS_MAX).contains(&name.len()) && name.bytes().all(good)
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{VERSION}.{}.{}.{}", self.name, self.secret, self.fingerprint)
    }
}

/// Without the secret.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.name)
    }
}

impl FromStr for Key {
    type Err = ();

    fn from_str(text: &str) -> Result<Key, ()> {
        match text.trim().split('.').collect::<Vec<_>>()[..] {
            [VERSION, name, secret, fingerprint] if is_name(name) && secret.len() == 2 * SECRET_BYTES => {
                Ok(Key { name: name.to_owned(), secret: secret.to_owned(), fingerprint: fingerprint.parse()? })
            }
            _ => Err(()),
        }
    }
}

/// False when there is one of this name.
pub async fn add(store: &dyn Store, key: &Key, role: Role, by: &str, wall_ms: u64) -> Result<bool, Error> {
    let at = format!("{KEY}{}", key.name);
    let digest = Fingerprint::of(key.secret.as_bytes()).to_string();
    let record = Record { version: 1, role, digest, created_wall_ms: wall_ms, by: by.to_owned() };
    let put = Op::put(&at, codec::encode(&at, &record)?);
    Ok(store.txn(Txn::when([Guard::absent(&at)]).then([put])).await?.succeeded)
}

/// False when there was none.
pub async fn remove(store: &dyn Store, name: &str) -> Result<bool, Error> {
    let at = format!("{KEY}{name}");
    Ok(store.txn(Txn::when([Guard::present(&at)]).then([Op::delete(&at)])).await?.succeeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_known_by_its_secret_alone() {
        let key = Key::new("ci", Fingerprint::of(b"ca")).unwrap();
        let same: Key = key.to_string().parse().unwrap();
        assert_eq!(same, key);
        assert!(!format!("{key:?}").contains(&key.secret));
        let digest = Fingerprint::of(key.secret.as_bytes()).to_string();
        let record = Record { version: 1, role: Role::Read, digest, created_wall_ms: 0, by: String::new() };
        assert!(record.knows(&key));
        assert!(!record.knows(&Key::new("ci", key.fingerprint).unwrap()));
        for bad in ["", "hfk1", "hfk1.ci.00.00", "hfk2.ci.a.b", &key.to_string().replace("ci", "C I")] {
            assert!(bad.parse::<Key>().is_err(), "{bad}");
        }
        assert!(Key::new("no.dots", key.fingerprint).is_err() && Key::new("", key.fingerprint).is_err());
    }

    #[test]
    fn each_role_may_what_it_needs_and_unknown_paths_need_all() {
        let table = [
            (true, "/v1/status", Role::Read),
            (true, "/v1/why/web-1", Role::Read),
            (true, "/v1/keys", Role::Admin),
            (false, "/v1/restart", Role::Operate),
            (false, "/v1/node", Role::Operate),
            (false, "/v1/apply", Role::Admin),
            (false, "/v1/down", Role::Admin),
            (false, "/v1/keys", Role::Admin),
            (false, "/v1/cluster/token", Role::Admin),
            (false, "/v1/scale/", Role::Admin),
            (false, "/v1/status", Role::Admin),
        ];
        for (looks_only, path, needed) in table {
            assert_eq!(Role::needed(looks_only, path), needed, "{path}");
        }
        assert!(Role::Admin >= Role::Operate && Role::Operate >= Role::Read);
        for role in [Role::Read, Role::Operate, Role::Admin] {
            assert_eq!(role.to_string().parse(), Ok(role));
        }
    }
}
