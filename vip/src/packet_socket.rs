//! Packet sockets, bound to one interface and one EtherType: never promiscuous, never a frame of
//! somebody else's protocol. The filter is in place before the first frame can arrive.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv6Addr};
use std::task::{Context, Poll, ready};

use socket2::{Domain, SockFilter, Socket, Type};
use tokio::io::unix::AsyncFd;

use crate::gate::sys::{packet_address, readable};

/// EtherType of ARP.
const ETHERTYPE_ARP: u16 = 0x0806;
/// EtherType of IPv6.
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// "No protocol": a socket that only sends.
const ETHERTYPE_NONE: u16 = 0;

/// Longest frame worth reading: ARP and neighbour discovery are far shorter than a plain Ethernet frame.
pub(crate) const FRAME_BYTES: usize = 1518;
/// Most stale frames to throw away before a probe; the socket's buffer holds fewer.
const MOST_STALE: usize = 4096;

/// Most addresses whose claims one socket hears: the jumps of its filter reach no further.
const MOST_CLAIMED: usize = 64;

/// What a listening socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Protocol {
    /// ARP.
    Arp,
    /// IPv6 neighbour solicitations and advertisements.
    NeighbourDiscovery,
}

fn raw_socket() -> io::Result<Socket> {
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A socket that sends whole frames from interface `index` and receives none.
pub(crate) fn sender(index: u32) -> io::Result<Socket> {
    let socket = raw_socket()?;
    socket.bind(&packet_address(index, ETHERTYPE_NONE)?)?;
    Ok(socket)
}

/// Lets neighbour solicitations and advertisements pass and nothing else. Offsets are from the
/// beginning of the frame.
fn neighbour_discovery_filter() -> [SockFilter; 7] {
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_EQ: u16 = 0x15;
    const JUMP_GE: u16 = 0x35;
    const JUMP_GT: u16 = 0x25;
    const RETURN: u16 = 0x06;
    [
        SockFilter::new(LOAD_BYTE, 0, 0, 14 + 6),
        SockFilter::new(JUMP_EQ, 0, 4, 58),
        SockFilter::new(LOAD_BYTE, 0, 0, 14 + 40),
        SockFilter::new(JUMP_GE, 0, 2, 135),
        SockFilter::new(JUMP_GT, 1, 0, 136),
        SockFilter::new(RETURN, 0, 0, FRAME_BYTES as u32),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

/// Lets through nothing but claims of some addresses: ARP whose sender has one of them, advertisements
/// whose target has. `words` are the addresses in ARP's sender field, or the last 32 bits of the targets. So a
/// busy network costs a listener nothing.
fn announcements_filter(protocol: Protocol, words: &[u32]) -> Vec<SockFilter> {
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_WORD: u16 = 0x20;
    const JUMP_EQ: u16 = 0x15;
    const RETURN: u16 = 0x06;
    /// The sender's protocol address in an ARP frame; the end of the target in an advertisement.
    const ARP_SENDER: u32 = 14 + 14;
    const TARGET_END: u32 = 14 + 40 + 20;
    let count = words.len() as u8;
    let mut program = Vec::new();
    match protocol {
        Protocol::Arp => program.push(SockFilter::new(LOAD_WORD, 0, 0, ARP_SENDER)),
        Protocol::NeighbourDiscovery => program.extend([
            SockFilter::new(LOAD_BYTE, 0, 0, 14 + 6),
            SockFilter::new(JUMP_EQ, 0, 3 + count, 58),
            SockFilter::new(LOAD_BYTE, 0, 0, 14 + 40),
            SockFilter::new(JUMP_EQ, 0, 1 + count, 136),
            SockFilter::new(LOAD_WORD, 0, 0, TARGET_END),
        ]),
    }
    for (at, word) in words.iter().enumerate() {
        program.push(SockFilter::new(JUMP_EQ, count - at as u8, 0, *word));
    }
    program.push(SockFilter::new(RETURN, 0, 0, 0));
    program.push(SockFilter::new(RETURN, 0, 0, FRAME_BYTES as u32));
    program
}

/// Lets pass what claims one of `ips`, or probes for it, and nothing else: other stations' ordinary questions
/// for our addresses, of which there are many, wake nobody. For IPv6 the last four bytes of an address
/// decide; whoever reads looks at all of it. Frames for other stations, and those of VLANs that have no
/// interface here, are no business of ours. Offsets are from the beginning of the frame.
pub(crate) fn claims_filter(protocol: Protocol, ips: &[IpAddr]) -> Vec<SockFilter> {
    const LOAD_WORD: u16 = 0x20;
    const LOAD_BYTE: u16 = 0x30;
    const JUMP: u16 = 0x05;
    const JUMP_EQ: u16 = 0x15;
    const RETURN: u16 = 0x06;
    /// `SKF_AD_OFF + SKF_AD_PKTTYPE`, and `PACKET_OTHERHOST`.
    const PACKET_TYPE: u32 = 0xffff_f000 + 4;
    const FOR_ANOTHER_STATION: u32 = 3;
    let mut filter = vec![
        SockFilter::new(LOAD_WORD, 0, 0, PACKET_TYPE),
        SockFilter::new(JUMP_EQ, 0, 1, FOR_ANOTHER_STATION),
        SockFilter::new(RETURN, 0, 0, 0),
    ];
    match protocol {
        // The sender's address; or, where there is none, the target's: a probe (RFC 5227).
        Protocol::Arp => filter.extend([
            SockFilter::new(LOAD_WORD, 0, 0, 14 + 14),
            SockFilter::new(JUMP_EQ, 0, 1, 0),
            SockFilter::new(LOAD_WORD, 0, 0, 14 + 24),
        ]),
        // An advertisement's target, a solicitation's source; or, where that ends in zeros as the unspecified
        // address does, its target.
        Protocol::NeighbourDiscovery => filter.extend([
            SockFilter::new(LOAD_BYTE, 0, 0, 14 + 6),
            SockFilter::new(JUMP_EQ, 1, 0, 58),
            SockFilter::new(RETURN, 0, 0, 0),
            SockFilter::new(LOAD_BYTE, 0, 0, 14 + 40),
            SockFilter::new(JUMP_EQ, 5, 0, 136),
            SockFilter::new(JUMP_EQ, 1, 0, 135),
            SockFilter::new(RETURN, 0, 0, 0),
            SockFilter::new(LOAD_WORD, 0, 0, 14 + 8 + 12),
            SockFilter::new(JUMP_EQ, 1, 0, 0),
            SockFilter::new(JUMP, 0, 0, 1),
            SockFilter::new(LOAD_WORD, 0, 0, 14 + 40 + 8 + 12),
        ]),
    }
    for ip in ips {
        let last = match ip {
            IpAddr::V4(v4) => u32::from(*v4),
            IpAddr::V6(v6) => u128::from(*v6) as u32,
        };
        filter.push(SockFilter::new(JUMP_EQ, 0, 1, last));
        filter.push(SockFilter::new(RETURN, 0, 0, FRAME_BYTES as u32));
    }
    filter.push(SockFilter::new(RETURN, 0, 0, 0));
    filter
}

/// A socket that sends and receives frames of one protocol on one interface.
pub(crate) struct Listener {
    /// The interface that it is bound to.
    pub(crate) index: u32,
    socket: AsyncFd<Socket>,
    /// Joined to the solicited-node groups, so that the interface and any snooping switch let through
    /// the solicitations of others for our addresses.
    groups: Option<Socket>,
    joined: Vec<Ipv6Addr>,
}

impl Listener {
    pub(crate) fn open(index: u32, protocol: Protocol) -> io::Result<Listener> {
        match protocol {
            Protocol::Arp => Listener::open_filtered(index, protocol, &[]),
            Protocol::NeighbourDiscovery => {
                Listener::open_filtered(index, protocol, &neighbour_discovery_filter())
            }
        }
    }

    /// With a filter of the caller's, unless it is empty.
    pub(crate) fn open_filtered(
        index: u32,
        protocol: Protocol,
        filter: &[SockFilter],
    ) -> io::Result<Listener> {
        let socket = raw_socket()?;
        if !filter.is_empty() {
            socket.attach_filter(filter)?;
        }
        let ethertype = match protocol {
            Protocol::Arp => ETHERTYPE_ARP,
            Protocol::NeighbourDiscovery => ETHERTYPE_IPV6,
        };
        socket.bind(&packet_address(index, ethertype)?)?;
        Ok(Listener { index, socket: readable(socket)?, groups: None, joined: Vec::new() })
    }

    /// One that hears claims of `addresses` and nothing else. Addresses of the other family are left out.
    pub(crate) fn of_claims(index: u32, protocol: Protocol, addresses: &[IpAddr]) -> io::Result<Listener> {
        let word = |ip: &IpAddr| match (protocol, ip) {
            (Protocol::Arp, IpAddr::V4(ip)) => Some(u32::from(*ip)),
            (Protocol::NeighbourDiscovery, IpAddr::V6(ip)) => Some(u128::from(*ip) as u32),
            _ => None,
        };
        let words: Vec<u32> = addresses.iter().filter_map(word).take(MOST_CLAIMED).collect();
        Listener::open_filtered(index, protocol, &announcements_filter(protocol, &words))
    }

    /// Joins a group, as far as the interface has IPv6; without it the probes of others go unheard, but
    /// answers to ours do not.
    pub(crate) fn join(&mut self, group: Ipv6Addr) {
        if self.joined.contains(&group) {
            return;
        }
        let joined = match &self.groups {
            Some(socket) => socket.join_multicast_v6(&group, self.index),
            None => Socket::new(Domain::IPV6, Type::DGRAM, None).and_then(|socket| {
                socket.join_multicast_v6(&group, self.index)?;
                self.groups = Some(socket);
                Ok(())
            }),
        };
        match joined {
            Ok(()) => self.joined.push(group),
            Err(error) => tracing::debug!(%group, %error, "a solicited-node group was not joined"),
        }
    }

    pub(crate) fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.socket.get_ref().send(frame).map(drop)
    }

    /// Throws away what arrived while nobody listened.
    pub(crate) fn drain(&self) {
        let mut buffer = [0; FRAME_BYTES];
        for _ in 0..MOST_STALE {
            match self.socket.get_ref().read(&mut buffer) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                // A pending error of the link: reported once, and told apart later by the link's state.
                Err(_) => {}
            }
        }
    }

    /// A frame that is here already; `None` if there is none.
    pub(crate) fn take(&self, buffer: &mut [u8]) -> Option<usize> {
        self.socket.get_ref().read(buffer).ok()
    }

    pub(crate) fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.socket.poll_read_ready(cx))?;
            if let Ok(result) = guard.try_io(|inner| inner.get_ref().read(buffer)) {
                return Poll::Ready(result);
            }
        }
    }
}
