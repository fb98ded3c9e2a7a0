//! How to reach an etcd cluster.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::{Error, Result};

/// A member that is alive accepts within this time, also on a starved machine.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// etcd itself answers a write after its disk did; above two seconds a lease of ten would be in danger.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// A watch that hears nothing for so long asks its member whether it is still well.
pub const WATCH_SILENCE_MAX: Duration = Duration::from_secs(10);

/// More than etcd recommends for one cluster (seven).
pub const ENDPOINTS_MAX: usize = 16;

/// Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// For whoever sends it; never for a log.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// An etcd user; without TLS the password crosses the network in the clear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    pub user: String,
    pub password: Secret,
}

/// PEM files, read once when the store is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Who may sign a member's certificate; without it, whom the system trusts.
    pub ca: Option<PathBuf>,
    /// Our own certificate (with its chain) and its key, for members that ask for one.
    pub client: Option<(PathBuf, PathBuf)>,
}

#[derive(Clone, Debug)]
pub struct Options {
    /// `http://HOST:PORT` or `https://HOST:PORT`, one for each member; all of one scheme are not required.
    pub endpoints: Vec<String>,
    pub tls: Tls,
    pub login: Option<Login>,
    /// Put before every key that is sent and taken off every key that is answered, e.g. `/holdfast/shop/`. Empty, or
    /// with a slash at its end, so that `shop` does not also see what belongs to `shop2`.
    pub key_prefix: String,
    pub connect_timeout: Duration,
    /// For one try at one member; what may be repeated is tried for twice as long altogether.
    pub request_timeout: Duration,
    pub watch_silence_max: Duration,
    /// Events waiting in one watch.
    pub watch_queue_max: usize,
    /// A watcher that takes nothing for so long is given up.
    pub watch_stall_max: Duration,
    /// Of the jitter of retries.
    pub seed: u64,
}

impl Options {
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Options {
        Options {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            tls: Tls::default(),
            login: None,
            key_prefix: String::new(),
            connect_timeout: CONNECT_TIMEOUT,
            request_timeout: REQUEST_TIMEOUT,
            watch_silence_max: WATCH_SILENCE_MAX,
            watch_queue_max: 256,
            watch_stall_max: Duration::from_secs(10),
            seed: u64::from(std::process::id()),
        }
    }

    pub(super) fn parsed(&self) -> Result<Vec<Address>> {
        if self.endpoints.is_empty() || self.endpoints.len() > ENDPOINTS_MAX {
            let reason = format!("{} endpoints were given; 1 to {ENDPOINTS_MAX} are possible", self.endpoints.len());
            return Err(Error::Setup { what: "endpoints".into(), reason });
        }
        if !self.key_prefix.is_empty() && !self.key_prefix.ends_with('/') {
            let reason = format!("{:?} does not end with a slash", self.key_prefix);
            return Err(Error::Setup { what: "key prefix".into(), reason });
        }
        self.endpoints.iter().map(|text| Address::parse(text)).collect()
    }
}

/// One endpoint, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub tls: bool,
    /// Without the brackets of an IPv6 address.
    pub host: String,
    pub port: u16,
}

impl Address {
    fn parse(text: &str) -> Result<Address> {
        let bad = |reason: &str| Error::Setup { what: "endpoint".into(), reason: reason.to_owned() };
        let uri: http::Uri = text.parse().map_err(|_| bad("it is not an address like https://etcd1:2379"))?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(bad("it must begin with http:// or https://")),
        };
        let authority = uri.authority().ok_or_else(|| bad("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(bad("a user belongs into its own setting, not into the address"));
        }
        if uri.path() != "/" || uri.query().is_some() {
            return Err(bad("nothing may follow the port"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().ok_or_else(|| bad("it names no port (etcd's own is 2379)"))?;
        Ok(Address { tls, host, port })
    }

    /// For the `Host` header.
    pub(super) fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_taken_apart_or_refused() {
        let good = [
            ("http://127.0.0.1:2379", "127.0.0.1", 2379, false),
            ("https://etcd1.example:2379/", "etcd1.example", 2379, true),
            ("https://[::1]:12379", "::1", 12379, true),
        ];
        for (text, host, port, tls) in good {
            assert_eq!(Address::parse(text).unwrap(), Address { tls, host: host.into(), port }, "{text}");
        }
        let bad = [
            "",
            "etcd1:2379",
            "ftp://a:1",
            "http://a",
            "http://a:99999",
            "http://u:p@a:1",
            "http://a:1/v3",
            "http:// a:1",
        ];
        for text in bad {
            let error = Address::parse(text).unwrap_err();
            assert_eq!(error.code(), "HF0425", "{text}");
            assert!(!error.to_string().contains("u:p"), "a password may be in it: {error}");
        }
        let prefixed = Options { key_prefix: "/shop".into(), ..Options::new(["http://a:1"]) };
        assert_eq!(prefixed.parsed().unwrap_err().code(), "HF0425");
        assert!(Options::new(Vec::<String>::new()).parsed().is_err());
        assert!(Options::new(vec!["http://a:1"; ENDPOINTS_MAX + 1]).parsed().is_err());
    }

    #[test]
    fn a_password_is_never_printed() {
        let mut options = Options::new(["http://a:1"]);
        options.login = Some(Login { user: "ann".into(), password: Secret::new("hunter2") });
        assert!(!format!("{options:?}").contains("hunter2"));
    }
}
