//! Heartbeat packets as they are on the wire, taken and sent again by somebody who should not.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use holdfast_agent::lab::world::{Mac, NetNs, Tap};
use pnet::datalink::{self, Channel, Config, NetworkInterface};
use pnet::packet::ethernet::{EtherTypes, EthernetPacket, MutableEthernetPacket};
use pnet::packet::ip::IpNextHeaderProtocols;
use pnet::packet::ipv4::{self, Ipv4Packet, MutableIpv4Packet};
use pnet::packet::udp::{MutableUdpPacket, UdpPacket};
use pnet::packet::{MutablePacket, Packet};
use pnet::util::MacAddr;

/// The heartbeat port.
pub const PORT: u16 = 9002;

/// A datagram with the addresses that it bears.
#[derive(Clone, Debug)]
pub struct Datagram {
    /// Its source.
    pub from: (Ipv4Addr, u16),
    /// Its destination.
    pub to: (Ipv4Addr, u16),
    /// What it carries.
    pub payload: Vec<u8>,
}

/// Takes `count` heartbeats from `sender` as they arrive at the host whose namespace is `at`.
pub fn capture(at: &NetNs, sender: Ipv4Addr, count: usize, limit: Duration) -> Result<Vec<Datagram>> {
    at.run(|| {
        let interface = eth0()?;
        let timeout = Some(Duration::from_millis(50));
        let config = Config { read_timeout: timeout, promiscuous: false, ..Config::default() };
        let Channel::Ethernet(_, mut receiver) = datalink::channel(&interface, config)? else {
            bail!("eth0 is no Ethernet");
        };
        let (mut taken, end) = (Vec::new(), Instant::now() + limit);
        while taken.len() < count {
            if Instant::now() > end {
                bail!("only {} of {count} heartbeats came from {sender}", taken.len());
            }
            // An error is the end of the waiting time.
            let Ok(frame) = receiver.next() else { continue };
            taken.extend(parse(frame).filter(|d| d.from.0 == sender && d.to.1 == PORT));
        }
        Ok(taken)
    })?
}

fn parse(frame: &[u8]) -> Option<Datagram> {
    let ethernet = EthernetPacket::new(frame)?;
    if ethernet.get_ethertype() != EtherTypes::Ipv4 {
        return None;
    }
    let ip = Ipv4Packet::new(ethernet.payload())?;
    if ip.get_next_level_protocol() != IpNextHeaderProtocols::Udp {
        return None;
    }
    let udp = UdpPacket::new(ip.payload())?;
    let length = usize::from(udp.get_length()).checked_sub(UdpPacket::minimum_packet_size())?;
    Some(Datagram {
        from: (ip.get_source(), udp.get_source()),
        to: (ip.get_destination(), udp.get_destination()),
        payload: udp.payload().get(..length)?.to_vec(),
    })
}

/// Sends `datagrams` from `tap` to the hardware address `to`, under the addresses that they bear.
pub fn send(tap: &Tap, to: Mac, datagrams: &[Datagram]) -> Result<()> {
    let source = MacAddr::from(tap.mac);
    tap.netns.run(|| {
        let config = Config { promiscuous: false, ..Config::default() };
        let Channel::Ethernet(mut sender, _) = datalink::channel(&eth0()?, config)? else {
            bail!("eth0 is no Ethernet");
        };
        for datagram in datagrams {
            let frame = build(datagram, source, MacAddr::from(to)).context("too large for a frame")?;
            sender.send_to(&frame, None).context("the send buffer is full")??;
        }
        Ok(())
    })?
}

fn eth0() -> Result<NetworkInterface> {
    datalink::interfaces().into_iter().find(|i| i.name == "eth0").ok_or_else(|| anyhow!("there is no eth0"))
}

fn build(datagram: &Datagram, source: MacAddr, destination: MacAddr) -> Option<Vec<u8>> {
    let udp_length = UdpPacket::minimum_packet_size() + datagram.payload.len();
    let ip_length = Ipv4Packet::minimum_packet_size() + udp_length;
    let mut frame = vec![0; EthernetPacket::minimum_packet_size() + ip_length];
    let mut ethernet = MutableEthernetPacket::new(&mut frame)?;
    ethernet.set_source(source);
    ethernet.set_destination(destination);
    ethernet.set_ethertype(EtherTypes::Ipv4);
    let mut ip = MutableIpv4Packet::new(ethernet.payload_mut())?;
    ip.set_version(4);
    ip.set_header_length(5);
    ip.set_total_length(u16::try_from(ip_length).ok()?);
    ip.set_ttl(64);
    ip.set_next_level_protocol(IpNextHeaderProtocols::Udp);
    ip.set_source(datagram.from.0);
    ip.set_destination(datagram.to.0);
    let checksum = ipv4::checksum(&ip.to_immutable());
    ip.set_checksum(checksum);
    let mut udp = MutableUdpPacket::new(ip.payload_mut())?;
    udp.set_source(datagram.from.1);
    udp.set_destination(datagram.to.1);
    udp.set_length(u16::try_from(udp_length).ok()?);
    // A checksum of zero means "none" for UDP over IPv4.
    udp.set_payload(&datagram.payload);
    Some(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_is_what_is_parsed() {
        let (from, to) = ((Ipv4Addr::new(10, 77, 0, 3), 9002), (Ipv4Addr::new(10, 77, 0, 1), PORT));
        let datagram = Datagram { from, to, payload: vec![1, 2, 3] };
        let frame = build(&datagram, MacAddr::broadcast(), MacAddr::broadcast()).unwrap();
        let parsed = parse(&frame).unwrap();
        assert_eq!((parsed.from, parsed.to, parsed.payload), (from, to, vec![1, 2, 3]));
        assert!(parse(&frame[..30]).is_none());
    }
}
