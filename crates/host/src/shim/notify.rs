//! The notify socket of the child (sd_notify protocol): readiness, status, watchdog.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix, SocketFlags, SocketType,
};

/// Messages handled in one wakeup.
const AT_ONCE: usize = 32;
/// Longest message; sd_notify has no limit of its own.
const BYTES_MAX: usize = 4096;
/// Longest status that is kept.
const STATUS_BYTES_MAX: usize = 256;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Ready,
    Status(String),
    Watchdog,
    Stopping,
}

/// An abstract socket: no path that a child of another user could not reach, no limit on the length of the data
/// directory. Anybody may send to it, so the sender's user is checked.
pub(crate) struct Notify {
    fd: OwnedFd,
    name: String,
}

impl Notify {
    pub(crate) fn open(instance: &str) -> io::Result<Notify> {
        let mut random = [0u8; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let short: String = instance.chars().take(40).collect();
        let name = format!("holdfast/{short}/{:016x}", u64::from_ne_bytes(random));
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        rustix::net::sockopt::set_socket_passcred(&fd, true)?;
        rustix::net::bind(&fd, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
        Ok(Notify { fd, name })
    }

    /// Value of NOTIFY_SOCKET.
    pub(crate) fn address(&self) -> String {
        format!("@{}", self.name)
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// What was told by processes of `uid`, root or this user.
    pub(crate) fn read(&self, uid: Option<u32>) -> Vec<Told> {
        let mut told = Vec::new();
        for _ in 0..AT_ONCE {
            match self.receive() {
                Ok((sender, text)) => {
                    if sender.is_some_and(|s| s == 0 || Some(s) == uid || s == rustix::process::geteuid().as_raw()) {
                        told.extend(text.lines().filter_map(parse));
                    }
                }
                Err(_) => break,
            }
        }
        told
    }

    fn receive(&self) -> io::Result<(Option<u32>, String)> {
        let mut bytes = [0u8; BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1), ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let got = rustix::net::recvmsg(&self.fd, &mut [io::IoSliceMut::new(&mut bytes)], &mut control, flags)?;
        let mut sender = None;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmCredentials(credentials) = message {
                sender = Some(credentials.uid.as_raw());
            }
        }
        Ok((sender, String::from_utf8_lossy(&bytes[..got.bytes.min(BYTES_MAX)]).into_owned()))
    }
}

fn parse(line: &str) -> Option<Told> {
    match line.split_once('=')? {
        ("READY", "1") => Some(Told::Ready),
        ("WATCHDOG", "1") => Some(Told::Watchdog),
        ("STOPPING", "1") => Some(Told::Stopping),
        ("STATUS", text) => {
            let end = (0..=STATUS_BYTES_MAX.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
            Some(Told::Status(text[..end].to_owned()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_protocol_knows_is_heard_and_the_rest_ignored() {
        let notify = Notify::open("web-1").unwrap();
        let address = SocketAddrUnix::new_abstract_name(&notify.address().as_bytes()[1..]).unwrap();
        let fd = rustix::net::socket(AddressFamily::UNIX, SocketType::DGRAM, None).unwrap();
        rustix::net::connect(&fd, &address).unwrap();
        for text in ["READY=1\nSTATUS=serving\nX=y", "MAINPID=3\nWATCHDOG=1", "READY=0"] {
            rustix::net::send(&fd, text.as_bytes(), rustix::net::SendFlags::empty()).unwrap();
        }
        assert_eq!(notify.read(None), [Told::Ready, Told::Status("serving".into()), Told::Watchdog]);
        assert!(notify.read(None).is_empty());
    }
}
