//! Listening sockets that several processes accept from, and who stands in the way of one.

use std::fs;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::linux::fs::MetadataExt;

use socket2::{Domain, Protocol, Socket, Type};

/// Connections waiting to be accepted, per socket; the kernel cuts it to `net.core.somaxconn` (4096 by default).
pub const BACKLOG: i32 = 4096;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on {addr}: {}", taken_by(holder))]
    Busy { addr: SocketAddr, holder: Option<Holder> },
    #[error("cannot listen on {addr}: {source}")]
    Listen { addr: SocketAddr, source: io::Error },
}

fn taken_by(holder: &Option<Holder>) -> String {
    holder.as_ref().map_or("another process already listens there".into(), |h| {
        format!("process {} ({}) already listens there", h.pid, h.name)
    })
}

impl Error {
    pub fn code(&self) -> &'static str {
        match self {
            Error::Busy { .. } => "HF0206",
            Error::Listen { .. } => "HF0219",
        }
    }

    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Busy { addr, holder: None } => Some(format!("find it with: ss -ltnp 'sport = :{}'", addr.port())),
            Error::Busy { holder: Some(h), .. } => Some(format!("stop process {} or choose another port", h.pid)),
            Error::Listen { source, addr } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some(format!("port {} needs root or CAP_NET_BIND_SERVICE", addr.port()))
            }
            Error::Listen { source, addr } if source.kind() == io::ErrorKind::AddrNotAvailable => {
                Some(format!("{} is no address of this machine (see: ip addr)", addr.ip()))
            }
            Error::Listen { .. } => None,
        }
    }
}

/// The process that has a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pub pid: i32,
    pub name: String,
}

/// `count` sockets on the same address with SO_REUSEPORT, non-blocking and close-on-exec; thread `i` of every process
/// accepts from socket `i`. With port 0 the kernel chooses one port for all. An address on which anybody listens is
/// refused, even if that one set SO_REUSEPORT too.
pub fn bind(addr: SocketAddr, count: usize) -> Result<Vec<TcpListener>, Error> {
    bind_as(addr, count, Presence::Now)
}

/// The same for an address that may come to this machine later, and go again: `IP_FREEBIND`.
pub fn bind_early(addr: SocketAddr, count: usize) -> Result<Vec<TcpListener>, Error> {
    bind_as(addr, count, Presence::Sometimes)
}

/// Whether an address must be one of this machine.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Presence {
    Now,
    Sometimes,
}

fn bind_as(addr: SocketAddr, count: usize, presence: Presence) -> Result<Vec<TcpListener>, Error> {
    if addr.port() != 0 {
        open(addr, false, presence).map_err(|source| explain(addr, source))?;
    }
    let mut sockets: Vec<TcpListener> = Vec::with_capacity(count);
    let mut addr = addr;
    for _ in 0..count {
        let socket = open(addr, true, presence).map_err(|source| explain(addr, source))?;
        socket.listen(BACKLOG).map_err(|source| explain(addr, source))?;
        let listener: TcpListener = socket.into();
        addr = listener.local_addr().map_err(|source| Error::Listen { addr, source })?;
        sockets.push(listener);
    }
    Ok(sockets)
}

/// Whether a program that binds `addr` now would succeed.
pub fn port_is_free(addr: SocketAddr) -> bool {
    open(addr, false, Presence::Now).and_then(|socket| socket.listen(1)).is_ok()
}

fn open(addr: SocketAddr, share: bool, presence: Presence) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(addr.ip() != Ipv6Addr::UNSPECIFIED)?;
    }
    if share {
        socket.set_reuse_port(true)?;
    }
    match (presence, addr.is_ipv6()) {
        (Presence::Now, _) => {}
        (Presence::Sometimes, false) => socket.set_freebind_v4(true)?,
        (Presence::Sometimes, true) => socket.set_freebind_v6(true)?,
    }
    socket.bind(&addr.into())?;
    Ok(socket)
}

/// A listening socket that came over a control connection.
pub fn from_fd(fd: OwnedFd) -> io::Result<TcpListener> {
    let listener = TcpListener::from(fd);
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn explain(addr: SocketAddr, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::AddrInUse => Error::Busy { addr, holder: holder(addr.port()) },
        _ => Error::Listen { addr, source },
    }
}

/// Who listens on `port`, as far as this user may see: the socket's inode from `/proc/net`, its owner from `/proc/PID/fd`.
pub fn holder(port: u16) -> Option<Holder> {
    let inodes: Vec<u64> =
        ["/proc/net/tcp", "/proc/net/tcp6"].iter().flat_map(|table| listening(table, port)).collect();
    if inodes.is_empty() {
        return None;
    }
    let pids = fs::read_dir("/proc").ok()?.flatten().filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    pids.into_iter().find(|pid| owns(*pid, &inodes)).map(|pid| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Holder { pid, name: name.trim().to_owned() }
    })
}

fn listening(table: &str, port: u16) -> Vec<u64> {
    const LISTEN: &str = "0A";
    let text = fs::read_to_string(table).unwrap_or_default();
    let of_line = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let local = u16::from_str_radix(fields.get(1)?.rsplit_once(':')?.1, 16).ok()?;
        (local == port && *fields.get(3)? == LISTEN).then(|| fields.get(9)?.parse().ok()).flatten()
    };
    text.lines().skip(1).filter_map(of_line).collect()
}

fn owns(pid: i32, inodes: &[u64]) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    entries.flatten().any(|e| {
        fs::read_link(e.path()).is_ok_and(|target| target.to_str().is_some_and(|t| t.starts_with("socket:")))
            && fs::metadata(e.path()).is_ok_and(|m| inodes.contains(&m.st_ino()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_share_a_port_and_a_busy_one_is_named() {
        let sockets = bind("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        let addr = sockets[0].local_addr().unwrap();
        assert!(sockets.iter().all(|s| s.local_addr().unwrap() == addr));
        assert!(!port_is_free(addr));
        let error = bind(addr, 2).unwrap_err();
        assert_eq!(error.code(), "HF0206");
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        drop(sockets);
        assert!(port_is_free(addr));
        assert_eq!(bind(addr, 1).unwrap().len(), 1);
    }

    #[test]
    fn a_foreign_address_says_so() {
        let error = bind("192.0.2.1:1".parse().unwrap(), 1).unwrap_err();
        assert_eq!(error.code(), "HF0219");
        assert!(error.hint().unwrap().contains("192.0.2.1"), "{error}");
        for later in ["192.0.2.1:0", "[2001:db8::1]:0"] {
            assert_eq!(bind_early(later.parse().unwrap(), 2).unwrap().len(), 2, "an address that comes later");
        }
    }
}
