//! rtnetlink: lists, adds and removes addresses, and hears when one goes. See `man 7 rtnetlink`.

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use tokio::io::unix::AsyncFd;

use super::{Assigned, Error, Interface, Prefixed};

/// The kernel answers at once unless somebody holds its network lock.
const ANSWER_TIME: Duration = Duration::from_secs(2);
/// A kernel fills at most 32 KiB for a listing.
const BUFFER_BYTES: usize = 64 * 1024;

const HEADER: usize = 16;
/// `struct ifaddrmsg` and `struct ifinfomsg`.
const ADDRESS_HEAD: usize = 8;
const LINK_HEAD: usize = 16;
const ATTRIBUTE_HEAD: usize = 4;

/// `IFA_PROTO` says who added an address (Linux 5.18); those below 4 are the kernel's own. `h`.
const IFA_PROTO: u16 = 11;
const HOLDFAST: u8 = 0x68;

const FOREVER: u32 = u32::MAX;

/// One request at a time.
pub struct Netlink {
    socket: OwnedFd,
}

fn socket(groups: u32, flags: SocketFlags) -> io::Result<OwnedFd> {
    // No protocol is number 0, NETLINK_ROUTE.
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

impl Netlink {
    pub fn open() -> Result<Netlink, Error> {
        let opened = socket(0, SocketFlags::CLOEXEC).and_then(|socket| {
            set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_TIME))?;
            Ok(Netlink { socket })
        });
        opened.map_err(|source| Error::Kernel { what: "talk to the kernel about addresses".into(), source })
    }

    pub fn interfaces(&self) -> Result<Vec<Interface>, Error> {
        let found = self.dump(libc::RTM_GETLINK, &[0; LINK_HEAD]);
        let messages = found.map_err(|source| Error::Kernel { what: "list interfaces".into(), source })?;
        Ok(messages.iter().filter(|m| m.kind == libc::RTM_NEWLINK).filter_map(|m| interface(&m.body)).collect())
    }

    pub fn addresses(&self) -> Result<Vec<Assigned>, Error> {
        let found = self.dump(libc::RTM_GETADDR, &[0; ADDRESS_HEAD]);
        let messages = found.map_err(|source| Error::Kernel { what: "list addresses".into(), source })?;
        Ok(messages.iter().filter(|m| m.kind == libc::RTM_NEWADDR).filter_map(|m| assigned(&m.body)).collect())
    }

    /// Adds the address, or gives it another lifetime; `None` is for ever. Not checked for duplicates by the kernel.
    pub fn put(&self, interface: &Interface, at: Prefixed, valid_for: Option<Duration>) -> Result<(), Error> {
        let seconds = valid_for.map_or(FOREVER, |d| u32::try_from(d.as_secs()).unwrap_or(FOREVER));
        let mut body = body(interface, at);
        // Outgoing connections shall not begin from an address that may move; IPv4 takes the first of a network anyway.
        let preferred = if at.address.is_ipv6() { 0 } else { seconds };
        let mut cache = Vec::with_capacity(16);
        for word in [preferred, seconds, 0, 0] {
            cache.extend_from_slice(&word.to_ne_bytes());
        }
        attribute(&mut body, libc::IFA_CACHEINFO, &cache);
        if at.address.is_ipv6() {
            attribute(&mut body, libc::IFA_FLAGS, &libc::IFA_F_NODAD.to_ne_bytes());
        }
        attribute(&mut body, IFA_PROTO, &[HOLDFAST]);
        let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        let done = self.request(libc::RTM_NEWADDR, flags as u16, &body);
        done.map_err(|source| Error::Kernel { what: format!("add {at} to {}", interface.name), source })
    }

    /// False when it was not there.
    pub fn remove(&self, interface: &Interface, at: Prefixed) -> Result<bool, Error> {
        match self.request(libc::RTM_DELADDR, 0, &body(interface, at)) {
            Ok(()) => Ok(true),
            Err(e) if matches!(e.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) => Ok(false),
            Err(source) => Err(Error::Kernel { what: format!("remove {at} from {}", interface.name), source }),
        }
    }

    fn send(&self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        let mut message = Vec::with_capacity(HEADER + body.len());
        let length = u32::try_from(HEADER + body.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        message.extend_from_slice(&length.to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&(flags | libc::NLM_F_REQUEST as u16).to_ne_bytes());
        message.extend_from_slice(&[0; 8]);
        message.extend_from_slice(body);
        rustix::net::sendto(&self.socket, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        Ok(())
    }

    fn request(&self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.send(kind, flags | libc::NLM_F_ACK as u16, body)?;
        self.until_done(|_| ())
    }

    fn dump(&self, kind: u16, head: &[u8]) -> io::Result<Vec<Message>> {
        self.send(kind, libc::NLM_F_DUMP as u16, head)?;
        let mut found = Vec::new();
        self.until_done(|message| found.push(message))?;
        Ok(found)
    }

    fn until_done(&self, mut take: impl FnMut(Message)) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let (read, _) = rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty())?;
            for message in messages(&buffer[..read]) {
                match i32::from(message.kind) {
                    libc::NLMSG_DONE => return Ok(()),
                    libc::NLMSG_ERROR => {
                        let number = message.body.first_chunk::<4>().map_or(0, |b| i32::from_ne_bytes(*b));
                        return if number == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-number)) };
                    }
                    _ => take(message),
                }
            }
        }
    }
}

struct Message {
    kind: u16,
    body: Vec<u8>,
}

fn messages(mut bytes: &[u8]) -> Vec<Message> {
    let mut found = Vec::new();
    while let (Some(length), Some(kind)) = (word(bytes, 0), half(bytes, 4)) {
        let length = length as usize;
        let Some(body) = bytes.get(HEADER..length) else { break };
        found.push(Message { kind, body: body.to_vec() });
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Kind and value of each attribute.
fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while let (Some(length), Some(kind)) = (half(bytes, 0), half(bytes, 2)) {
        let length = usize::from(length);
        let Some(value) = bytes.get(ATTRIBUTE_HEAD..length) else { break };
        found.push((kind, value));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = (ATTRIBUTE_HEAD + value.len()) as u16;
    body.extend_from_slice(&length.to_ne_bytes());
    body.extend_from_slice(&kind.to_ne_bytes());
    body.extend_from_slice(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn body(interface: &Interface, at: Prefixed) -> Vec<u8> {
    let (family, octets) = match at.address {
        IpAddr::V4(a) => (libc::AF_INET, a.octets().to_vec()),
        IpAddr::V6(a) => (libc::AF_INET6, a.octets().to_vec()),
    };
    let mut body = vec![family as u8, at.prefix, 0, libc::RT_SCOPE_UNIVERSE];
    body.extend_from_slice(&interface.index.to_ne_bytes());
    attribute(&mut body, libc::IFA_LOCAL, &octets);
    attribute(&mut body, libc::IFA_ADDRESS, &octets);
    body
}

fn interface(body: &[u8]) -> Option<Interface> {
    let mut found = Interface {
        index: word(body, 4)?,
        name: String::new(),
        mac: None,
        loopback: word(body, 8)? & libc::IFF_LOOPBACK as u32 != 0,
    };
    for (kind, value) in attributes(body.get(LINK_HEAD..)?) {
        match kind {
            libc::IFLA_IFNAME => found.name = String::from_utf8_lossy(value).trim_end_matches('\0').to_owned(),
            libc::IFLA_ADDRESS if !found.loopback => found.mac = value.try_into().ok().map(super::Mac),
            _ => {}
        }
    }
    Some(found)
}

fn assigned(body: &[u8]) -> Option<Assigned> {
    let (family, prefix) = (i32::from(*body.first()?), *body.get(1)?);
    let mut found = Assigned {
        interface: word(body, 4)?,
        at: Prefixed { address: IpAddr::V6(Ipv6Addr::UNSPECIFIED), prefix },
        valid_for: None,
        ours: false,
    };
    let mut local = None;
    let mut address = None;
    for (kind, value) in attributes(body.get(ADDRESS_HEAD..)?) {
        match kind {
            libc::IFA_LOCAL => local = ip(family, value),
            libc::IFA_ADDRESS => address = ip(family, value),
            libc::IFA_CACHEINFO => {
                let valid = word(value, 4)?;
                found.valid_for = (valid != FOREVER).then(|| Duration::from_secs(valid.into()));
            }
            IFA_PROTO => found.ours = value.first() == Some(&HOLDFAST),
            _ => {}
        }
    }
    // On a point-to-point link `IFA_ADDRESS` is the other end.
    found.at.address = local.or(address)?;
    Some(found)
}

fn ip(family: i32, value: &[u8]) -> Option<IpAddr> {
    match family {
        libc::AF_INET => Some(IpAddr::from(<[u8; 4]>::try_from(value).ok()?)),
        libc::AF_INET6 => Some(IpAddr::from(<[u8; 16]>::try_from(value).ok()?)),
        _ => None,
    }
}

/// Says that addresses of this machine changed; which ones is asked anew, because messages get lost under load.
pub struct Watch {
    socket: AsyncFd<OwnedFd>,
}

impl Watch {
    pub fn open() -> Result<Watch, Error> {
        let groups = (libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR | libc::RTMGRP_LINK) as u32;
        let opened = socket(groups, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).and_then(|socket| {
            // SAFETY: an OwnedFd names the same open descriptor until it is dropped, and here that is after the registration.
            Ok(unsafe { AsyncFd::register(socket)? })
        });
        let socket = opened.map_err(|source| Error::Kernel { what: "watch addresses".into(), source })?;
        Ok(Watch { socket })
    }

    /// Resolves after one change or many.
    pub async fn changed(&self) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let mut ready = self.socket.readable().await?;
            let mut heard = false;
            loop {
                match rustix::net::recv(self.socket.get_ref().as_fd(), &mut buffer[..], RecvFlags::empty()) {
                    Ok(_) | Err(rustix::io::Errno::NOBUFS) => heard = true,
                    Err(rustix::io::Errno::AGAIN) => break,
                    Err(error) => return Err(error.into()),
                }
            }
            ready.clear_ready();
            if heard {
                return Ok(());
            }
        }
    }
}
