//! How the agent and drills talk to a plane: `plane.sock` in its directory, SEQPACKET, one JSON message a packet.
//!
//! Large things travel as sealed memory (memfd), sockets as descriptors. Each request gets one reply with its id.

use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_host::memfd;
use holdfast_host::seqpacket::AsyncConnection;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::fault::Fault;
use crate::snapshot::Snapshot;
use crate::stats::Stats;

pub(crate) mod server;

pub const VERSION: u32 = 1;

const FILE: &str = "plane.sock";

/// A plane answers within milliseconds; one that does not is hung, and nobody waits for it.
const REPLY_MAX: Duration = Duration::from_secs(5);

/// Sockets in one packet; the protocol below allows 64.
const SOCKETS_MAX: usize = 32;

pub fn socket_path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Asked {
    pub(crate) version: u32,
    pub(crate) id: u64,
    pub(crate) what: What,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum What {
    /// The snapshot comes as a sealed memfd.
    Snapshot,
    /// Listening sockets come as descriptors, in the order of their index at each address.
    Listeners,
    Fault(Fault),
    ClearFault {
        id: String,
    },
    /// The answer comes as a sealed memfd.
    Stats,
    Drain,
    Ping,
}

impl What {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            What::Snapshot => "the snapshot",
            What::Listeners => "the listening sockets",
            What::Fault(_) => "the fault",
            What::ClearFault { .. } => "clearing the fault",
            What::Stats => "statistics",
            What::Drain => "to drain",
            What::Ping => "a ping",
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) version: u32,
    pub(crate) id: u64,
    pub(crate) reply: Reply,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reply {
    Done,
    Applied(Applied),
    Refused { code: String, because: String },
}

/// How a snapshot was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// On disk before this was said; false on a full disk, where it counts nevertheless.
    pub persisted: bool,
    /// Addresses without a listening socket: send them with [`Client::listeners`].
    #[serde(default)]
    pub missing: Vec<std::net::SocketAddr>,
}

/// A connection to one plane. Requests go one after the other.
#[derive(Debug)]
pub struct Client {
    connection: AsyncConnection,
    path: PathBuf,
    next: u64,
}

impl Client {
    /// `dir` is the plane's directory.
    pub async fn connect(dir: &Path) -> Result<Client, Error> {
        let path = socket_path(dir);
        match AsyncConnection::connect(&path).await {
            Ok(connection) => Ok(Client { connection, path, next: 1 }),
            Err(source) => Err(Error::Control { operation: "connect to", path, source }),
        }
    }

    pub async fn snapshot(&mut self, snapshot: &Snapshot) -> Result<Applied, Error> {
        let fd = memfd::create("holdfast-snapshot", &snapshot.to_bytes()).map_err(|e| self.failed("write to", e))?;
        match self.ask(What::Snapshot, &[fd.as_fd()]).await?.0 {
            Reply::Applied(applied) => Ok(applied),
            _ => Err(self.failed("understand", io::ErrorKind::InvalidData.into())),
        }
    }

    /// Sockets for new listen addresses, of each address in the order of their index.
    pub async fn listeners(&mut self, sockets: &[TcpListener]) -> Result<(), Error> {
        for part in sockets.chunks(SOCKETS_MAX) {
            let fds: Vec<_> = part.iter().map(AsFd::as_fd).collect();
            self.ask(What::Listeners, &fds).await?;
        }
        Ok(())
    }

    /// Sets a fault; the same id again replaces it.
    pub async fn fault(&mut self, fault: Fault) -> Result<(), Error> {
        self.ask(What::Fault(fault), &[]).await.map(|_| ())
    }

    /// Not finding it is success.
    pub async fn clear_fault(&mut self, id: &str) -> Result<(), Error> {
        self.ask(What::ClearFault { id: id.into() }, &[]).await.map(|_| ())
    }

    pub async fn stats(&mut self) -> Result<Stats, Error> {
        let (_, fds) = self.ask(What::Stats, &[]).await?;
        let parse = |fd| {
            let bytes = memfd::read(fd, crate::snapshot::SIZE_BYTES_MAX)?;
            serde_json::from_slice(&bytes).map_err(io::Error::from)
        };
        let fd = fds.into_iter().next().ok_or(io::Error::from(io::ErrorKind::UnexpectedEof));
        fd.and_then(parse).map_err(|e| self.failed("read", e))
    }

    /// Stops accepting, finishes what is in flight and exits; the reply comes at once.
    pub async fn drain(&mut self) -> Result<(), Error> {
        self.ask(What::Drain, &[]).await.map(|_| ())
    }

    pub async fn ping(&mut self) -> Result<(), Error> {
        self.ask(What::Ping, &[]).await.map(|_| ())
    }

    async fn ask(
        &mut self,
        what: What,
        fds: &[std::os::fd::BorrowedFd<'_>],
    ) -> Result<(Reply, Vec<std::os::fd::OwnedFd>), Error> {
        let name = what.name();
        let id = self.next;
        self.next += 1;
        let asked = Asked { version: VERSION, id, what };
        let exchange = async {
            self.connection.send_json(&asked, fds).await?;
            loop {
                let told: Option<(Told, _)> = self.connection.recv_json().await?;
                match told {
                    Some((told, fds)) if told.id == id => return Ok((told.reply, fds)),
                    // The late reply to a request that was given up.
                    Some(_) => {}
                    None => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                }
            }
        };
        let result = tokio::time::timeout(REPLY_MAX, exchange).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()));
        match result.map_err(|e| self.failed("talk to", e))? {
            (Reply::Refused { code, because }, _) => Err(Error::Refused { request: name, because, code }),
            answer => Ok(answer),
        }
    }

    fn failed(&self, operation: &'static str, source: io::Error) -> Error {
        Error::Control { operation, path: self.path.clone(), source }
    }
}
