//! What the agent tells the plane: everything from the file that concerns it. Secrets are references.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
pub use crate::flow::declared::{Call, Each, Given, Made, Step, Work, Workflow};
use crate::queue::Spec;

/// Where the agent leaves it, in the directory of the instance; read at start.
pub const FILE: &str = "tasks.json";

/// Stored: a field is added with a default, never changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Definition {
    /// Where SQS is spoken; for what clients are told when the plane has its sockets from its shim.
    pub listen: Option<SocketAddr>,
    pub region: String,
    pub account: String,
    /// For caches.
    pub memory_bytes: u64,
    /// Where everything is kept instead of in a file; read at start.
    pub database: Option<Database>,
    /// None: any signature is accepted.
    pub keys: Vec<Key>,
    pub queues: BTreeMap<String, Declared>,
    pub workers: BTreeMap<String, Worker>,
    pub workflows: BTreeMap<String, Workflow>,
    /// Slots of each pool, over all runs.
    pub pools: BTreeMap<String, u32>,
    /// Where the ready instances of services answer that workers or steps ask.
    pub targets: BTreeMap<String, Vec<SocketAddr>>,
}

/// `[tasks] postgres`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Database {
    pub url: String,
    #[serde(default)]
    pub password: Option<Secret>,
    /// Who signs the server's certificate; `None` is whom the machine trusts.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    pub schema: String,
}

/// `[worker.NAME]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    pub queue: String,
    pub how: How,
    pub min: u32,
    pub max: u32,
    pub backlog: u32,
    pub age_ms: u64,
    /// Visibility while it works; renewed at a third of it.
    pub lease_ms: u64,
    /// An attempt is ended after it.
    pub timeout_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    Command(Program),
    Http {
        service: String,
        path: String,
        timeout_ms: u64,
    },
    /// Messages are requests that a balancer kept; each is made again as it was.
    Replay {
        service: String,
        timeout_ms: u64,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Program {
    pub argv: Vec<String>,
    pub env: BTreeMap<String, EnvValue>,
    pub workdir: Option<PathBuf>,
    pub user: Option<String>,
    /// The body in `HOLDFAST_MESSAGE` instead of on standard input.
    pub body_in_env: bool,
    pub done: Vec<i32>,
    pub dead: Vec<i32>,
}

/// References are resolved by the shim when it starts the program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EnvValue {
    Plain(String),
    File(PathBuf),
    Env(String),
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Declared {
    pub spec: Spec,
    pub tags: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Key {
    pub name: String,
    pub id: String,
    pub secret: Secret,
    /// Names of queues it may use, `*` at the end stands for anything; empty is all.
    #[serde(default)]
    pub queues: Vec<String>,
    pub send: bool,
    pub receive: bool,
    pub manage: bool,
}

/// Resolved by the plane when it takes the definition up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Secret {
    File(PathBuf),
    Env(String),
}

impl Secret {
    pub(crate) fn read(&self) -> Result<String> {
        let (what, read) = match self {
            Secret::File(path) => (format!("read the secret in {}", path.display()), std::fs::read_to_string(path)),
            Secret::Env(name) => {
                (format!("read the secret in the variable {name}"), std::env::var(name).map_err(std::io::Error::other))
            }
        };
        read.map(|text| text.trim_end_matches(['\r', '\n']).to_owned()).map_err(|source| Error::System { what, source })
    }
}

impl Definition {
    /// What would only fail when it runs: workflows that cannot, time zones that are not known here.
    pub fn check(&self) -> Result<()> {
        crate::flow::check(self)
    }

    pub fn load(dir: &std::path::Path) -> Result<Option<Definition>> {
        let path = dir.join(FILE);
        let failed = |source| Error::System { what: format!("read {}", path.display()), source };
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| failed(std::io::Error::other(e))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(failed(e)),
        }
    }

    /// On the disk before it is acted on, so that the next process goes by it without an agent.
    pub fn save(&self, dir: &std::path::Path) -> Result<()> {
        let path = dir.join(FILE);
        let failed = |source| Error::System { what: format!("write {}", path.display()), source };
        let bytes = serde_json::to_vec_pretty(self).map_err(|e| failed(std::io::Error::other(e)))?;
        holdfast_host::files::write_atomic(&path, &bytes).map_err(|e| failed(std::io::Error::other(e)))
    }
}
