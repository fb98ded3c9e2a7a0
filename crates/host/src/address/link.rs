//! A packet socket on one interface that hears and says only what concerns one address.

use std::io;
use std::mem::MaybeUninit;
use std::net::IpAddr;

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, SockFilter, Socket, Type};
use tokio::io::unix::AsyncFd;

use super::frame::{self, Heard, Mac};
use super::{Error, Interface};

/// The longest frame that is looked at; the rest of a longer one holds nothing of interest.
const FRAME_BYTES: usize = 128;

// Classic BPF, `man 4 bpf`.
const LOAD_WORD: u16 = 0x20;
const LOAD_BYTE: u16 = 0x30;
const JUMP_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

/// Offsets in an Ethernet frame.
const ARP_SENDER: u32 = 14 + 14;
const IPV6_NEXT: u32 = 14 + 6;
const ICMP_TYPE: u32 = 14 + 40;
const ICMP_TARGET: u32 = 14 + 40 + 8;

pub struct Link {
    socket: AsyncFd<Socket>,
    interface: String,
    mac: Mac,
    address: IpAddr,
}

impl Link {
    pub fn open(interface: &Interface, address: IpAddr) -> Result<Link, Error> {
        let mac = interface.mac.ok_or_else(|| Error::NoHardware { name: interface.name.clone(), address })?;
        let packet =
            |source| Error::Packet { what: "listen for announcements", interface: interface.name.clone(), source };
        let socket = open(interface.index, address).and_then(|socket| {
            // SAFETY: a Socket names the same open descriptor until it is dropped, and here that is after the registration.
            Ok(unsafe { AsyncFd::register(socket)? })
        });
        let socket = socket.map_err(packet)?;
        Ok(Link { socket, interface: interface.name.clone(), mac, address })
    }

    /// Tells the network that the address is here.
    pub fn announce(&self) -> Result<(), Error> {
        frame::announcements(self.mac, self.address).iter().try_for_each(|frame| self.send("announce", frame))
    }

    /// Asks who has the address; whoever it is is heard by [`Link::heard`].
    pub fn probe(&self) -> Result<(), Error> {
        self.send("probe", &frame::probe(self.mac, self.address))
    }

    fn send(&self, what: &'static str, frame: &[u8]) -> Result<(), Error> {
        let sent = self.socket.get_ref().send(frame);
        sent.map(drop).map_err(|source| Error::Packet { what, interface: self.interface.clone(), source })
    }

    /// The next host other than this one that says it has the address.
    pub async fn heard(&self) -> io::Result<Heard> {
        let mut buffer = [MaybeUninit::new(0); FRAME_BYTES];
        loop {
            let mut ready = self.socket.readable().await?;
            let read = match ready.try_io(|socket| socket.get_ref().recv(&mut buffer)) {
                Ok(Ok(read)) => read,
                // The interface went down, or came back.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::ENETDOWN) => continue,
                Ok(Err(error)) => return Err(error),
                Err(_) => continue,
            };
            let bytes: Vec<u8> = buffer[..read.min(FRAME_BYTES)]
                .iter()
                // SAFETY: the array was initialised when it was made, and the kernel writes bytes only.
                .map(|byte| unsafe { byte.assume_init() })
                .collect();
            if let Some(heard) = frame::read(&bytes).filter(|h| h.address == self.address && h.from != self.mac) {
                return Ok(heard);
            }
        }
    }
}

fn open(index: u32, address: IpAddr) -> io::Result<Socket> {
    // Nothing is received before the filter is in place and the socket bound.
    let kind = Type::RAW.nonblocking().cloexec();
    let socket = Socket::new(Domain::PACKET, kind, Some(Protocol::from(0)))?;
    socket.attach_filter(&filter(address))?;
    socket.bind(&link_address(index, address))?;
    Ok(socket)
}

fn link_address(index: u32, address: IpAddr) -> SockAddr {
    let protocol = if address.is_ipv4() { libc::ETH_P_ARP } else { libc::ETH_P_IPV6 } as u16;
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: the storage is zeroed, larger than and aligned for every address structure.
    let link = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    link.sll_family = libc::AF_PACKET as u16;
    link.sll_protocol = protocol.to_be();
    link.sll_ifindex = index as i32;
    let length = size_of::<libc::sockaddr_ll>() as u32;
    // SAFETY: the storage holds a sockaddr_ll of this length.
    unsafe { SockAddr::new(storage, length) }
}

/// Passes what says that somebody has the address: the machine's other traffic wakes nobody.
fn filter(address: IpAddr) -> Vec<SockFilter> {
    let load = |code, offset| SockFilter::new(code, 0, 0, offset);
    let must_be = |value, lines_left| SockFilter::new(JUMP_EQUAL, 0, lines_left, value);
    let (pass, drop) = (SockFilter::new(RETURN, 0, 0, FRAME_BYTES as u32), SockFilter::new(RETURN, 0, 0, 0));
    match address {
        IpAddr::V4(ip) => vec![load(LOAD_WORD, ARP_SENDER), must_be(ip.into(), 1), pass, drop],
        IpAddr::V6(ip) => {
            let octets = ip.octets();
            let last = u32::from_be_bytes([octets[12], octets[13], octets[14], octets[15]]);
            vec![
                load(LOAD_BYTE, IPV6_NEXT),
                must_be(58, 5),
                load(LOAD_BYTE, ICMP_TYPE),
                must_be(136, 3),
                load(LOAD_WORD, ICMP_TARGET + 12),
                must_be(last, 1),
                pass,
                drop,
            ]
        }
    }
}
