//! ARP (RFC 826, 5227) and neighbour discovery (RFC 4861) as bytes, Ethernet header included.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

const BROADCAST: Mac = Mac([0xff; 6]);
const NOBODY: Mac = Mac([0; 6]);
const ARP: [u8; 2] = [0x08, 0x06];
const IPV6: [u8; 2] = [0x86, 0xdd];
const REQUEST: u8 = 1;
const REPLY: u8 = 2;

const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Override: who knows another hardware address takes this one.
const OVERRIDE: u8 = 0x20;
/// All nodes of the link (RFC 4291).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Receivers drop what has been through a router.
const HOP_LIMIT: u8 = 255;

/// Somebody speaks for an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    pub from: Mac,
    pub address: IpAddr,
}

/// What tells the network that `address` is at `mac`: for IPv4 a request and a reply, because hosts differ in which they heed.
pub(super) fn announcements(mac: Mac, address: IpAddr) -> Vec<Vec<u8>> {
    match address {
        IpAddr::V4(ip) => {
            vec![arp(REQUEST, mac, ip, NOBODY, ip), arp(REPLY, mac, ip, BROADCAST, ip)]
        }
        IpAddr::V6(ip) => vec![advertisement(mac, ip)],
    }
}

/// Asks who has `address`, without saying that we have it.
pub(super) fn probe(mac: Mac, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(ip) => arp(REQUEST, mac, Ipv4Addr::UNSPECIFIED, NOBODY, ip),
        IpAddr::V6(ip) => solicitation(mac, ip),
    }
}

fn ethernet(to: Mac, from: Mac, kind: [u8; 2]) -> Vec<u8> {
    [&to.0[..], &from.0, &kind].concat()
}

fn arp(operation: u8, from: Mac, sender: Ipv4Addr, to: Mac, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = ethernet(BROADCAST, from, ARP);
    // Ethernet, IPv4, six and four bytes.
    frame.extend_from_slice(&[0, 1, 0x08, 0, 6, 4, 0, operation]);
    frame.extend_from_slice(&from.0);
    frame.extend_from_slice(&sender.octets());
    frame.extend_from_slice(&to.0);
    frame.extend_from_slice(&target.octets());
    frame
}

fn multicast_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    Mac([0x33, 0x33, a, b, c, d])
}

fn advertisement(mac: Mac, ip: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0];
    message.extend_from_slice(&ip.octets());
    // Target link-layer address, in units of eight bytes.
    message.extend_from_slice(&[2, 1]);
    message.extend_from_slice(&mac.0);
    packet(mac, ip, ALL_NODES, message)
}

fn solicitation(mac: Mac, ip: Ipv6Addr) -> Vec<u8> {
    let [.., a, b, c] = ip.octets();
    let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
    let mut message = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(&ip.octets());
    // From nobody, as in duplicate address detection: the answer goes to all nodes.
    packet(mac, Ipv6Addr::UNSPECIFIED, group, message)
}

fn packet(mac: Mac, from: Ipv6Addr, to: Ipv6Addr, mut message: Vec<u8>) -> Vec<u8> {
    let sum = checksum(from, to, &message).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    let mut frame = ethernet(multicast_mac(to), mac, IPV6);
    let length = (message.len() as u16).to_be_bytes();
    frame.extend_from_slice(&[0x60, 0, 0, 0, length[0], length[1], ICMPV6, HOP_LIMIT]);
    frame.extend_from_slice(&from.octets());
    frame.extend_from_slice(&to.octets());
    frame.extend_from_slice(&message);
    frame
}

/// RFC 4443, section 2.3.
fn checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let length = (message.len() as u32).to_be_bytes();
    let all = [&from.octets()[..], &to.octets(), &length, &[0, 0, 0, ICMPV6], message].concat();
    let mut sum: u32 = all.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Of Ethernet and IPv4, without the Ethernet header.
const ARP_BYTES: usize = 28;

/// Who says in this frame that it has an address; a probe says nothing.
pub(super) fn read(frame: &[u8]) -> Option<Heard> {
    let kind: [u8; 2] = frame.get(12..14)?.try_into().ok()?;
    let rest = &frame[14..];
    match kind {
        ARP => {
            // Cut short it says nothing.
            let whole = rest.get(..ARP_BYTES)?;
            if whole[..6] != [0, 1, 0x08, 0, 6, 4] {
                return None;
            }
            let sender: [u8; 4] = rest.get(14..18)?.try_into().ok()?;
            let from = Mac(rest.get(8..14)?.try_into().ok()?);
            (sender != [0; 4]).then(|| Heard { from, address: IpAddr::from(sender) })
        }
        IPV6 => {
            let is_advertisement =
                *rest.get(6)? == ICMPV6 && *rest.get(7)? == HOP_LIMIT && *rest.get(40)? == ADVERTISEMENT;
            let target: [u8; 16] = rest.get(48..64)?.try_into().ok()?;
            let from = Mac(frame.get(6..12)?.try_into().ok()?);
            is_advertisement.then(|| Heard { from, address: IpAddr::from(target) })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Mac = Mac([2, 0, 0, 0, 0, 1]);

    #[test]
    fn an_announcement_is_read_back_and_a_probe_claims_nothing() {
        for text in ["10.0.0.100", "fd00::100"] {
            let address: IpAddr = text.parse().unwrap();
            for frame in announcements(OURS, address) {
                assert_eq!(read(&frame), Some(Heard { from: OURS, address }), "{text}");
                (0..frame.len()).for_each(|cut| assert!(read(&frame[..cut]).is_none() || cut >= 42, "{cut} bytes"));
            }
            assert_eq!(read(&probe(OURS, address)), None);
        }
        assert_eq!(announcements(OURS, "10.0.0.1".parse().unwrap())[0].len(), 42);
    }

    #[test]
    fn the_checksum_of_a_packet_that_holds_its_checksum_is_zero() {
        let frame = announcements(OURS, "fd00::100".parse().unwrap()).remove(0);
        let (from, to): ([u8; 16], [u8; 16]) = (frame[22..38].try_into().unwrap(), frame[38..54].try_into().unwrap());
        assert_eq!(checksum(from.into(), to.into(), &frame[54..]), 0);
        assert_eq!(&frame[..6], [0x33, 0x33, 0, 0, 0, 1]);
        assert_eq!(OURS.to_string(), "02:00:00:00:00:01");
    }
}
