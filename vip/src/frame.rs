//! The frames that announce an address and ask for one, and what received ones say: pure.
//!
//! Everything that comes from the network is parsed by length-checked views: a short or strange frame is
//! `None`, never a panic.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pnet::packet::Packet;
use pnet::packet::arp::{ArpHardwareTypes, ArpOperation, ArpOperations, ArpPacket, MutableArpPacket};
use pnet::packet::ethernet::{EtherTypes, EthernetPacket, MutableEthernetPacket};
use pnet::packet::icmpv6::ndp::{
    MutableNeighborAdvertPacket, MutableNeighborSolicitPacket, NdpOptionTypes, NeighborAdvertFlags,
    NeighborAdvertPacket, NeighborSolicitPacket,
};
use pnet::packet::icmpv6::{Icmpv6Packet, Icmpv6Type, Icmpv6Types, MutableIcmpv6Packet, checksum};
use pnet::packet::ip::IpNextHeaderProtocols;
use pnet::packet::ipv6::{Ipv6Packet, MutableIpv6Packet};
use pnet::util::MacAddr;

const ETHERNET_BYTES: usize = 14;
const ARP_BYTES: usize = 28;
const IPV6_BYTES: usize = 40;
/// A solicitation or advertisement up to the end of its target.
const ND_BYTES: usize = 24;
/// A link-layer address option: type, length in units of eight, six bytes of address.
const ND_OPTION_BYTES: usize = 8;
/// Neighbour discovery ignores packets that crossed a router (RFC 4861, 7.1).
const ND_HOP_LIMIT: u8 = 255;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// What a received ARP or neighbour-discovery frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// `mac` says that it has `ip`.
    Claims { ip: IpAddr, mac: MacAddr },
    /// `mac` asks whether anybody has `ip`, as one does before claiming it.
    Probes { ip: IpAddr, mac: MacAddr },
}

fn ethernet(
    destination: MacAddr,
    source: MacAddr,
    ethertype: pnet::packet::ethernet::EtherType,
    payload: &[u8],
) -> Vec<u8> {
    let mut frame = vec![0; ETHERNET_BYTES + payload.len()];
    let mut packet = MutableEthernetPacket::new(&mut frame).expect("the buffer has room for the header");
    packet.set_destination(destination);
    packet.set_source(source);
    packet.set_ethertype(ethertype);
    packet.set_payload(payload);
    frame
}

struct Arp {
    operation: ArpOperation,
    sender: (MacAddr, Ipv4Addr),
    target: (MacAddr, Ipv4Addr),
}

fn arp(fields: &Arp) -> Vec<u8> {
    let mut bytes = [0; ARP_BYTES];
    let mut packet = MutableArpPacket::new(&mut bytes).expect("the buffer has the size of an ARP packet");
    packet.set_hardware_type(ArpHardwareTypes::Ethernet);
    packet.set_protocol_type(EtherTypes::Ipv4);
    packet.set_hw_addr_len(6);
    packet.set_proto_addr_len(4);
    packet.set_operation(fields.operation);
    packet.set_sender_hw_addr(fields.sender.0);
    packet.set_sender_proto_addr(fields.sender.1);
    packet.set_target_hw_addr(fields.target.0);
    packet.set_target_proto_addr(fields.target.1);
    ethernet(MacAddr::broadcast(), fields.sender.0, EtherTypes::Arp, &bytes)
}

/// The multicast hardware address of an IPv6 group (RFC 2464, 7).
fn group_mac(group: Ipv6Addr) -> MacAddr {
    let [.., a, b, c, d] = group.octets();
    MacAddr::new(0x33, 0x33, a, b, c, d)
}

/// The group to which solicitations for `ip` go (RFC 4291, 2.7.1).
pub(crate) fn solicited_node(ip: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = ip.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from(b) << 8 | u16::from(c))
}

/// Wraps a neighbour-discovery message, whose checksum is still to be made, into a frame.
fn icmpv6(source: (MacAddr, Ipv6Addr), destination: Ipv6Addr, mut message: Vec<u8>) -> Vec<u8> {
    let sum = {
        let view = Icmpv6Packet::new(&message).expect("the message has an ICMPv6 header");
        checksum(&view, &source.1, &destination)
    };
    MutableIcmpv6Packet::new(&mut message).expect("the message has an ICMPv6 header").set_checksum(sum);

    let mut bytes = vec![0; IPV6_BYTES + message.len()];
    let mut packet = MutableIpv6Packet::new(&mut bytes).expect("the buffer has room for the header");
    packet.set_version(6);
    packet.set_payload_length(message.len() as u16);
    packet.set_next_header(IpNextHeaderProtocols::Icmpv6);
    packet.set_hop_limit(ND_HOP_LIMIT);
    packet.set_source(source.1);
    packet.set_destination(destination);
    packet.set_payload(&message);
    ethernet(group_mac(destination), source.0, EtherTypes::Ipv6, &bytes)
}

fn link_option(kind: pnet::packet::icmpv6::ndp::NdpOptionType, mac: MacAddr) -> [u8; ND_OPTION_BYTES] {
    let MacAddr(a, b, c, d, e, f) = mac;
    [kind.0, 1, a, b, c, d, e, f]
}

/// The frames of one announcement that `mac` has `ip`.
///
/// IPv4: a gratuitous request and a gratuitous reply. Some neighbours only heed one of them. The
/// reply's target hardware address is our own: with broadcast there, Linux takes the entry as freshly
/// confirmed and ignores it within its lock time. IPv6: an unsolicited advertisement with the override
/// flag (RFC 4861, 7.2.6).
pub(crate) fn announcement(ip: IpAddr, mac: MacAddr) -> Vec<Vec<u8>> {
    match ip {
        IpAddr::V4(ip) => vec![
            arp(&Arp { operation: ArpOperations::Request, sender: (mac, ip), target: (MacAddr::zero(), ip) }),
            arp(&Arp { operation: ArpOperations::Reply, sender: (mac, ip), target: (mac, ip) }),
        ],
        IpAddr::V6(ip) => {
            let mut message = vec![0; ND_BYTES + ND_OPTION_BYTES];
            let mut packet =
                MutableNeighborAdvertPacket::new(&mut message).expect("the buffer has room for the header");
            packet.set_icmpv6_type(Icmpv6Types::NeighborAdvert);
            packet.set_flags(NeighborAdvertFlags::Override);
            packet.set_target_addr(ip);
            message[ND_BYTES..].copy_from_slice(&link_option(NdpOptionTypes::TargetLLAddr, mac));
            vec![icmpv6((mac, ip), ALL_NODES, message)]
        }
    }
}

/// The question who has `ip`. Without an own address (`None`) it is a probe that teaches nobody
/// anything: sender 0.0.0.0 (RFC 5227), or a solicitation from the unspecified address (RFC 4862).
pub(crate) fn question(ip: IpAddr, mac: MacAddr, own: Option<IpAddr>) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => {
            let own = match own {
                Some(IpAddr::V4(own)) => own,
                _ => Ipv4Addr::UNSPECIFIED,
            };
            arp(&Arp { operation: ArpOperations::Request, sender: (mac, own), target: (MacAddr::zero(), ip) })
        }
        IpAddr::V6(ip) => {
            let own = match own {
                Some(IpAddr::V6(own)) => own,
                _ => Ipv6Addr::UNSPECIFIED,
            };
            // A solicitation from the unspecified address must not carry the option.
            let option_bytes = if own.is_unspecified() { 0 } else { ND_OPTION_BYTES };
            let mut message = vec![0; ND_BYTES + option_bytes];
            let mut packet =
                MutableNeighborSolicitPacket::new(&mut message).expect("the buffer has room for the header");
            packet.set_icmpv6_type(Icmpv6Types::NeighborSolicit);
            packet.set_target_addr(ip);
            if option_bytes > 0 {
                message[ND_BYTES..].copy_from_slice(&link_option(NdpOptionTypes::SourceLLAddr, mac));
            }
            icmpv6((mac, own), solicited_node(ip), message)
        }
    }
}

/// What `frame` says about anybody's address, if it is ARP or neighbour discovery.
pub(crate) fn heard(frame: &[u8]) -> Option<Heard> {
    let ethernet = EthernetPacket::new(frame)?;
    match ethernet.get_ethertype() {
        EtherTypes::Arp => heard_arp(ethernet.payload()),
        EtherTypes::Ipv6 => heard_nd(ethernet.get_source(), ethernet.payload()),
        _ => None,
    }
}

fn heard_arp(payload: &[u8]) -> Option<Heard> {
    let arp = ArpPacket::new(payload)?;
    let ethernet_ipv4 = arp.get_hardware_type() == ArpHardwareTypes::Ethernet
        && arp.get_protocol_type() == EtherTypes::Ipv4
        && arp.get_hw_addr_len() == 6
        && arp.get_proto_addr_len() == 4;
    if !ethernet_ipv4 {
        return None;
    }
    let mac = arp.get_sender_hw_addr();
    let sender = arp.get_sender_proto_addr();
    if !sender.is_unspecified() {
        return Some(Heard::Claims { ip: sender.into(), mac });
    }
    let target = arp.get_target_proto_addr().into();
    (arp.get_operation() == ArpOperations::Request).then_some(Heard::Probes { ip: target, mac })
}

fn heard_nd(sender: MacAddr, payload: &[u8]) -> Option<Heard> {
    let ip = Ipv6Packet::new(payload)?;
    if ip.get_next_header() != IpNextHeaderProtocols::Icmpv6 || ip.get_hop_limit() != ND_HOP_LIMIT {
        return None;
    }
    let message = ip.payload();
    let view = Icmpv6Packet::new(message)?;
    if view.get_checksum() != checksum(&view, &ip.get_source(), &ip.get_destination()) {
        return None;
    }
    const ADVERT: Icmpv6Type = Icmpv6Types::NeighborAdvert;
    const SOLICIT: Icmpv6Type = Icmpv6Types::NeighborSolicit;
    match view.get_icmpv6_type() {
        ADVERT => {
            let target = NeighborAdvertPacket::new(message)?.get_target_addr();
            let option = message.get(ND_BYTES..).and_then(|options| link_address(options, 2));
            Some(Heard::Claims { ip: target.into(), mac: option.unwrap_or(sender) })
        }
        SOLICIT => {
            let target = NeighborSolicitPacket::new(message)?.get_target_addr();
            if ip.get_source().is_unspecified() {
                Some(Heard::Probes { ip: target.into(), mac: sender })
            } else {
                Some(Heard::Claims { ip: ip.get_source().into(), mac: sender })
            }
        }
        _ => None,
    }
}

/// The link-layer address in the option of `kind`, if there is one.
fn link_address(mut options: &[u8], kind: u8) -> Option<MacAddr> {
    while let [this, units, ..] = *options {
        let bytes = usize::from(units) * 8;
        if bytes == 0 || bytes > options.len() {
            return None;
        }
        if this == kind {
            let mac: [u8; 6] = options.get(2..8)?.try_into().ok()?;
            return Some(mac.into());
        }
        options = &options[bytes..];
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAC: MacAddr = MacAddr(2, 0, 0, 0, 0, 7);

    #[test]
    fn a_gratuitous_request_has_the_bytes_of_rfc_5227() {
        let frames = announcement("10.0.0.100".parse().unwrap(), MAC);
        #[rustfmt::skip]
        let expected = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 7, 0x08, 0x06,
            0, 1, 0x08, 0, 6, 4, 0, 1,
            2, 0, 0, 0, 0, 7, 10, 0, 0, 100,
            0, 0, 0, 0, 0, 0, 10, 0, 0, 100,
        ];
        assert_eq!(frames[0], expected);
        assert_eq!(frames[1][20..22], [0, 2], "a reply");
        assert_eq!(frames[1][32..38], [2, 0, 0, 0, 0, 7], "the target is our own hardware address");
    }

    #[test]
    fn announcements_are_heard_as_claims() {
        for ip in ["10.0.0.100", "2001:db8::64"] {
            let ip: IpAddr = ip.parse().unwrap();
            for frame in announcement(ip, MAC) {
                assert_eq!(heard(&frame), Some(Heard::Claims { ip, mac: MAC }));
            }
        }
    }

    #[test]
    fn probes_claim_nothing() {
        for ip in ["10.0.0.100", "2001:db8::64"] {
            let ip: IpAddr = ip.parse().unwrap();
            assert_eq!(heard(&question(ip, MAC, None)), Some(Heard::Probes { ip, mac: MAC }));
        }
    }

    #[test]
    fn questions_from_an_own_address_claim_that_address_only() {
        for (ip, own) in [("10.0.0.100", "10.0.0.1"), ("fe80::1", "fe80::2")] {
            let (ip, own): (IpAddr, IpAddr) = (ip.parse().unwrap(), own.parse().unwrap());
            assert_eq!(heard(&question(ip, MAC, Some(own))), Some(Heard::Claims { ip: own, mac: MAC }));
        }
    }

    #[test]
    fn a_solicitation_goes_to_the_solicited_node_group() {
        let frame = question("2001:db8::1:2345".parse().unwrap(), MAC, None);
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0x01, 0x23, 0x45]);
        assert_eq!(
            solicited_node("2001:db8::1:2345".parse().unwrap()),
            "ff02::1:ff01:2345".parse::<Ipv6Addr>().unwrap()
        );
    }

    #[test]
    fn an_advertisement_with_a_wrong_checksum_is_not_heard() {
        let mut frame = announcement("2001:db8::64".parse().unwrap(), MAC).remove(0);
        *frame.last_mut().unwrap() ^= 1;
        assert_eq!(heard(&frame), None);
    }

    proptest! {
        #[test]
        fn no_frame_can_panic_the_parser(mut frame in proptest::collection::vec(any::<u8>(), 0..120), kind in 0..3) {
            if frame.len() > 60 && kind < 2 {
                let ethertype: [u8; 2] = if kind == 0 { [0x08, 0x06] } else { [0x86, 0xdd] };
                frame[12..14].copy_from_slice(&ethertype);
                frame[20] = 58;
                frame[21] = 255;
            }
            let _ = heard(&frame);
            let _ = link_address(&frame, 2);
        }

        #[test]
        fn no_shortened_frame_can_panic_the_parser(cut in 0usize..90) {
            for ip in ["10.0.0.100", "2001:db8::64"] {
                for frame in announcement(ip.parse().unwrap(), MAC) {
                    let _ = heard(&frame[..cut.min(frame.len())]);
                }
            }
        }
    }
}
