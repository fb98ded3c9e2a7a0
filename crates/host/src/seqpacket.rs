//! Unix sockets that keep message bounds and carry descriptors. Only processes of the same user are heard.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::unix::AsyncFd;

use crate::shim::protocol::{FDS_MAX, PACKET_BYTES_MAX};

/// Connections waiting to be accepted.
const BACKLOG: i32 = 64;

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// A message and the descriptors that came with it.
pub type Packet = (Vec<u8>, Vec<OwnedFd>);

fn socket() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, FLAGS, None)?)
}

/// The address of `path` by way of its open directory, so that its length does not matter. Keep the file open meanwhile.
fn address(path: &Path) -> io::Result<(SocketAddrUnix, File)> {
    let (dir, name) = match (path.parent(), path.file_name()) {
        (Some(dir), Some(name)) => (if dir.as_os_str().is_empty() { Path::new(".") } else { dir }, name),
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "a socket needs a file name")),
    };
    let dir = File::open(dir)?;
    let short = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
    Ok((SocketAddrUnix::new(&short)?, dir))
}

/// Accepts connections; the socket file has mode 0600.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
}

impl Listener {
    /// Replaces a socket file that a dead process left. The caller holds the lock that makes it the only listener.
    pub fn bind(path: &Path) -> io::Result<Listener> {
        let _ = std::fs::remove_file(path);
        let fd = socket()?;
        let (address, _dir) = address(path)?;
        // The directory is private too; the mode is for data directories that were made by hand.
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(0o600))?;
        rustix::net::bind(&fd, &address)?;
        rustix::net::listen(&fd, BACKLOG)?;
        Ok(Listener { fd })
    }

    /// `None` when nobody waits. Processes of other users (root excepted) are turned away.
    pub fn accept(&self) -> io::Result<Option<Connection>> {
        loop {
            match rustix::net::accept_with(&self.fd, FLAGS) {
                Ok(fd) => {
                    let connection = Connection { fd };
                    if connection.peer_is_trusted() {
                        return Ok(Some(connection));
                    }
                }
                Err(rustix::io::Errno::CONNABORTED | rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                Err(e) => return Err(e.into()),
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> i32 {
        self.fd.as_raw_fd()
    }
}

/// One end of a connection; never blocks.
#[derive(Debug)]
pub struct Connection {
    fd: OwnedFd,
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> i32 {
        self.fd.as_raw_fd()
    }
}

impl Connection {
    pub fn connect(path: &Path) -> io::Result<Connection> {
        let fd = socket()?;
        let (address, _dir) = address(path)?;
        rustix::net::connect(&fd, &address)?;
        Ok(Connection { fd })
    }

    pub fn pair() -> io::Result<(Connection, Connection)> {
        let (a, b) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, FLAGS, None)?;
        Ok((Connection { fd: a }, Connection { fd: b }))
    }

    fn peer_is_trusted(&self) -> bool {
        socket_peercred(&self.fd).is_ok_and(|peer| peer.uid == rustix::process::geteuid() || peer.uid.is_root())
    }

    /// Sends one packet whole; `WouldBlock` when the peer does not read.
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        if bytes.is_empty() || bytes.len() > PACKET_BYTES_MAX || fds.len() > FDS_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "packet too large or empty"));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        rustix::net::sendmsg(&self.fd, &[IoSlice::new(bytes)], &mut control, flags)?;
        Ok(())
    }

    /// The next packet; `None` when the peer is gone. `WouldBlock` when there is none yet.
    pub fn recv(&self) -> io::Result<Option<Packet>> {
        let mut bytes = vec![0u8; PACKET_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let got = rustix::net::recvmsg(&self.fd, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?;
        let fds = control
            .drain()
            .flat_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => fds.collect(),
                _ => Vec::new(),
            })
            .collect();
        if got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "packet larger than the protocol allows"));
        }
        if got.bytes == 0 {
            return Ok(None);
        }
        bytes.truncate(got.bytes);
        bytes.shrink_to_fit();
        Ok(Some((bytes, fds)))
    }

    pub fn send_json<T: Serialize>(&self, message: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send(&serde_json::to_vec(message)?, fds)
    }

    pub fn recv_json<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        match self.recv()? {
            Some((bytes, fds)) => Ok(Some((serde_json::from_slice(&bytes)?, fds))),
            None => Ok(None),
        }
    }
}

/// A [`Connection`] under tokio.
#[derive(Debug)]
pub struct AsyncConnection {
    inner: AsyncFd<Connection>,
}

impl AsyncConnection {
    /// Must be called within a tokio runtime.
    pub fn new(connection: Connection) -> io::Result<AsyncConnection> {
        // SAFETY: `Connection` owns its descriptor, keeps it open as long as it lives and always returns the same one.
        Ok(AsyncConnection { inner: unsafe { AsyncFd::register(connection)? } })
    }

    pub async fn connect(path: &Path) -> io::Result<AsyncConnection> {
        AsyncConnection::new(Connection::connect(path)?)
    }

    /// Cancel-safe: a packet is sent whole or not at all.
    pub async fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        loop {
            let mut guard = self.inner.writable().await?;
            if let Ok(result) = guard.try_io(|inner| inner.get_ref().send(bytes, fds)) {
                return result;
            }
        }
    }

    /// Cancel-safe: a packet is received whole or not at all.
    pub async fn recv(&self) -> io::Result<Option<Packet>> {
        loop {
            let mut guard = self.inner.readable().await?;
            if let Ok(result) = guard.try_io(|inner| inner.get_ref().recv()) {
                return result;
            }
        }
    }

    pub async fn send_json<T: Serialize>(&self, message: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send(&serde_json::to_vec(message)?, fds).await
    }

    pub async fn recv_json<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        match self.recv().await? {
            Some((bytes, fds)) => Ok(Some((serde_json::from_slice(&bytes)?, fds))),
            None => Ok(None),
        }
    }
}

/// A [`Listener`] under tokio.
#[derive(Debug)]
pub struct AsyncListener {
    inner: AsyncFd<Listener>,
}

impl AsyncListener {
    pub fn bind(path: &Path) -> io::Result<AsyncListener> {
        // SAFETY: `Listener` owns its descriptor, keeps it open as long as it lives and always returns the same one.
        Ok(AsyncListener { inner: unsafe { AsyncFd::register(Listener::bind(path)?)? } })
    }

    pub async fn accept(&self) -> io::Result<AsyncConnection> {
        loop {
            let mut guard = self.inner.readable().await?;
            match self.inner.get_ref().accept()? {
                Some(connection) => return AsyncConnection::new(connection),
                None => guard.clear_ready(),
            }
        }
    }
}

/// Opens a directory for use with `*at` calls.
pub fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn packets_keep_their_bounds_and_carry_descriptors_over_a_long_path() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("d".repeat(120)).join("e".repeat(120));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("ctl.sock");
        let listener = AsyncListener::bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let client = AsyncConnection::connect(&path).await.unwrap();
        let server = listener.accept().await.unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"inside").unwrap();
        client.send(b"first", &[]).await.unwrap();
        client.send(b"second", &[file.as_fd(), file.as_fd()]).await.unwrap();
        assert_eq!(server.recv().await.unwrap().unwrap().0, b"first");
        let (bytes, mut fds) = server.recv().await.unwrap().unwrap();
        assert_eq!((bytes.as_slice(), fds.len()), (b"second".as_slice(), 2));
        let mut passed = File::from(fds.remove(0));
        passed.rewind().unwrap();
        let mut text = String::new();
        passed.read_to_string(&mut text).unwrap();
        assert_eq!(text, "inside");
        drop(client);
        assert!(server.recv().await.unwrap().is_none());
    }

    #[test]
    fn a_peer_that_does_not_read_blocks_nobody() {
        let (a, _b) = Connection::pair().unwrap();
        let error = (0..100_000).find_map(|_| a.send(&[7; 4096], &[]).err()).unwrap();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
