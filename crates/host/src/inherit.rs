//! What a process got from the one that started it: listening sockets (sd_listen_fds) and a way to say that it is
//! ready (sd_notify).

use std::io;
use std::net::TcpListener;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::FdFlags;
use rustix::net::SocketType;
use rustix::net::sockopt::{socket_acceptconn, socket_type};

const FIRST: RawFd = 3;

/// More than any shim passes; a larger number in the environment is a mistake.
const COUNT_MAX: RawFd = 1024;

static TAKEN: AtomicBool = AtomicBool::new(false);

/// The listening TCP sockets of LISTEN_FDS in their order, non-blocking and close-on-exec; other descriptors are left
/// alone. Empty when there are none, when they are meant for another process, and at every call but the first.
pub fn listeners() -> io::Result<Vec<TcpListener>> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<RawFd>().ok();
    let meant = number("LISTEN_PID").is_none_or(|pid| pid as u32 == std::process::id());
    let count = number("LISTEN_FDS").unwrap_or(0);
    if !meant || count <= 0 || TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    if count > COUNT_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("LISTEN_FDS={count}")));
    }
    let mut all = Vec::new();
    for raw in FIRST..FIRST + count {
        // SAFETY: only asks what the number refers to; an unused one answers EBADF.
        let fd = unsafe { BorrowedFd::borrow_raw(raw) };
        let listens = socket_acceptconn(fd).unwrap_or(false) && socket_type(fd).is_ok_and(|t| t == SocketType::STREAM);
        if !listens {
            continue;
        }
        rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC)?;
        // SAFETY: an open descriptor that the protocol gives to this process; TAKEN makes this its only owner.
        let owned = unsafe { OwnedFd::from_raw_fd(raw) };
        all.push(crate::listen::from_fd(owned)?);
    }
    Ok(all)
}

/// Sends `state` (`READY=1`, `STATUS=…`) to NOTIFY_SOCKET; without one nothing happens.
pub fn notify(state: &str) -> io::Result<()> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let socket = UnixDatagram::unbound()?;
    let bytes = path.as_encoded_bytes();
    let address = match bytes.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&path)?,
    };
    socket.send_to_addr(state.as_bytes(), &address).map(|_| ())
}
