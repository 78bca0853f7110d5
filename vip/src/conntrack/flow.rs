//! One connection, as the kernel's table has it.
//!
//! Decides what of an entry is carried to another host: both directions' tuples (their difference is the address
//! translation), status, mark, zone, what is left of its timeout, and the state of TCP and SCTP. Not carried:
//! helpers and the connections that they expect, labels, security marks, counters; and of TCP the windows, for
//! which the entry is told to be liberal ([`TCP_BE_LIBERAL`]), as the windows of the other host are always late.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// `IPS_SEEN_REPLY`: both sides have spoken.
pub const SEEN_REPLY: u32 = 1 << 1;
/// `IPS_ASSURED`: not given up early when the table is full.
pub const ASSURED: u32 = 1 << 2;
/// `IPS_CONFIRMED`: in the table. An entry that is put in must say so.
pub const CONFIRMED: u32 = 1 << 3;
/// `IPS_SEQ_ADJUST`: a helper changed the length of what was said, and sequence numbers with it.
pub const SEQ_ADJUST: u32 = 1 << 6;
/// `IPS_DYING`.
pub const DYING: u32 = 1 << 9;
/// `IPS_OFFLOAD`: packets bypass the table, which tells neither timeout nor state of such a connection.
pub const OFFLOAD: u32 = 1 << 14;

/// `IP_CT_TCP_FLAG_BE_LIBERAL`: packets outside of the window are not invalid.
pub const TCP_BE_LIBERAL: u8 = 0x08;
/// `TCP_CONNTRACK_ESTABLISHED`.
pub const TCP_ESTABLISHED: u8 = 3;
/// The last of the states (`TCP_CONNTRACK_MAX` is one more than those a connection can be told to have).
pub const TCP_LAST_STATE: u8 = 9;
/// Largest window scale (RFC 7323 section 2.3).
pub const TCP_LARGEST_SCALE: u8 = 14;
/// `SCTP_CONNTRACK_HEARTBEAT_SENT`, the last of the states.
pub const SCTP_LAST_STATE: u8 = 8;

/// Seconds that an entry is put in for whose packets bypass the table: how long its owner may be silent before
/// the connection is looked at again.
pub const OFFLOADED_TIMEOUT_SECONDS: u32 = 300;
/// Longest timeout that is put in, in seconds. The kernel's own longest is five days.
pub const LONGEST_TIMEOUT_SECONDS: u32 = 30 * 24 * 3600;

/// ICMP's number.
pub const ICMP: u8 = 1;
/// TCP's number.
pub const TCP: u8 = 6;
/// UDP's number.
pub const UDP: u8 = 17;
/// GRE's number.
pub const GRE: u8 = 47;
/// The number of ICMP for IPv6.
pub const ICMPV6: u8 = 58;
/// SCTP's number.
pub const SCTP: u8 = 132;
/// UDP-Lite's number.
pub const UDP_LITE: u8 = 136;

/// One direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tuple {
    /// Who speaks.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// What tells connections between the same two apart.
    pub detail: Detail,
    /// The zone of this direction alone, where it has one.
    pub zone: Option<u16>,
}

/// What tells connections of one protocol between the same hosts apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Detail {
    /// Nothing (ESP, AH and whatever the kernel does not look into).
    None,
    /// Ports (of GRE: the keys of the two directions).
    Ports {
        /// The sender's.
        source: u16,
        /// The receiver's.
        destination: u16,
    },
    /// An ICMP question or answer.
    Icmp {
        /// Its identifier.
        id: u16,
        /// Its type.
        kind: u8,
        /// Its code.
        code: u8,
    },
}

/// What names a connection: its first packet, and the zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Key {
    /// The protocol's number.
    pub protocol: u8,
    /// The zone of both directions; zero for the usual one.
    pub zone: u16,
    /// As whoever began it sends.
    pub original: Tuple,
}

/// What the protocol itself remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Nothing.
    None,
    /// Of TCP.
    Tcp(Tcp),
    /// Of SCTP.
    Sctp(Sctp),
}

/// A TCP connection's state. Pairs: the original direction first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tcp {
    /// `enum tcp_conntrack`.
    pub state: u8,
    /// Window scales.
    pub scales: [u8; 2],
    /// `IP_CT_TCP_FLAG_*`.
    pub flags: [u8; 2],
}

/// An SCTP association's state. Pairs: the original direction first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sctp {
    /// `enum sctp_conntrack`.
    pub state: u8,
    /// Verification tags.
    pub tags: [u32; 2],
}

/// An entry of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// What names it.
    pub key: Key,
    /// As the answers come in: differs from the reverse of the original by the address translation.
    pub reply: Tuple,
    /// `IPS_*`.
    pub status: u32,
    /// The mark; zero for none.
    pub mark: u32,
    /// What is left of its timeout; `None` where the kernel did not say.
    pub timeout_seconds: Option<u32>,
    /// The protocol's state; `None` where the kernel did not say and there should be one.
    pub state: Option<State>,
}

impl Flow {
    /// Takes what the kernel did not say from what was known before. Whether everything is known then.
    pub fn complete(&mut self, before: Option<&Flow>) -> bool {
        if self.timeout_seconds.is_none() && self.status & OFFLOAD != 0 {
            self.timeout_seconds = Some(OFFLOADED_TIMEOUT_SECONDS);
        }
        self.timeout_seconds = self.timeout_seconds.or(before.and_then(|before| before.timeout_seconds));
        self.state = self.state.or(before.and_then(|before| before.state));
        if self.state.is_none() {
            self.state = match self.key.protocol {
                TCP if self.status & OFFLOAD != 0 => {
                    Some(State::Tcp(Tcp { state: TCP_ESTABLISHED, scales: [0; 2], flags: [0; 2] }))
                }
                TCP | SCTP => None,
                _ => Some(State::None),
            };
        }
        self.timeout_seconds.is_some() && self.state.is_some()
    }

    /// Whether both sides have spoken and the connection is past its beginning: what a host that takes over could
    /// not find out again by itself.
    pub fn is_established(&self) -> bool {
        let begun = match self.state {
            Some(State::Tcp(tcp)) => tcp.state >= TCP_ESTABLISHED,
            _ => true,
        };
        self.status & SEEN_REPLY != 0 && self.status & DYING == 0 && begun
    }

    /// Whether an entry can be put in elsewhere that treats the connection as this one does. What a helper has
    /// changed the length of cannot: the sequence numbers' shifts are not carried.
    pub fn is_portable(&self) -> bool {
        self.status & SEQ_ADJUST == 0
    }

    /// Whether something that came from another host makes sense as an entry.
    pub fn is_sound(&self) -> bool {
        let Key { protocol, original, .. } = &self.key;
        let v4 = original.source.is_ipv4();
        let families = [original.destination, self.reply.source, self.reply.destination];
        let fits = |detail: &Detail| match (*protocol, detail) {
            (ICMP, Detail::Icmp { .. }) => v4,
            (ICMPV6, Detail::Icmp { .. }) => !v4,
            (TCP | UDP | UDP_LITE | SCTP | GRE, Detail::Ports { .. }) => true,
            (ICMP | ICMPV6 | TCP | UDP | UDP_LITE | SCTP | GRE, _) => false,
            (_, detail) => *detail == Detail::None,
        };
        let state = match (&self.state, *protocol) {
            (Some(State::Tcp(tcp)), TCP) => {
                tcp.state <= TCP_LAST_STATE && tcp.scales.iter().all(|&scale| scale <= TCP_LARGEST_SCALE)
            }
            (Some(State::Sctp(sctp)), SCTP) => sctp.state <= SCTP_LAST_STATE,
            (Some(State::None), protocol) => protocol != TCP && protocol != SCTP,
            _ => false,
        };
        families.iter().all(|address| address.is_ipv4() == v4)
            && fits(&original.detail)
            && fits(&self.reply.detail)
            && state
            && self.timeout_seconds.is_some_and(|seconds| seconds <= LONGEST_TIMEOUT_SECONDS)
    }

    /// Every address that packets of it bear.
    pub fn addresses(&self) -> [IpAddr; 4] {
        let Key { original, .. } = self.key;
        [original.source, original.destination, self.reply.source, self.reply.destination]
    }

    /// Whether the two differ in nothing but how long they have left.
    pub fn is_like(&self, other: &Flow) -> bool {
        Flow { timeout_seconds: other.timeout_seconds, ..*self } == *other
    }

    /// The answers' tuple as it would be without address translation.
    pub(super) fn untranslated_reply(&self) -> Tuple {
        let original = &self.key.original;
        let detail = match (original.detail, self.reply.detail) {
            (Detail::Ports { source, destination }, _) => {
                Detail::Ports { source: destination, destination: source }
            }
            (Detail::Icmp { id, .. }, Detail::Icmp { kind, code, .. }) => Detail::Icmp { id, kind, code },
            (detail, _) => detail,
        };
        Tuple { source: original.destination, destination: original.source, detail, zone: self.reply.zone }
    }

    /// What the source is translated to, where it is: the address, and the port or identifier.
    pub(super) fn source_translation(&self) -> Option<(IpAddr, Option<u16>)> {
        let plain = self.untranslated_reply();
        let number = |tuple: &Tuple| match tuple.detail {
            Detail::None => None,
            Detail::Ports { destination, .. } => Some(destination),
            Detail::Icmp { id, .. } => Some(id),
        };
        let (to, here) = (number(&self.reply), number(&plain));
        (self.reply.destination != plain.destination || to != here).then_some((self.reply.destination, to))
    }

    /// What the destination is translated to, where it is.
    pub(super) fn destination_translation(&self) -> Option<(IpAddr, Option<u16>)> {
        let plain = self.untranslated_reply();
        let number = |tuple: &Tuple| match tuple.detail {
            Detail::Ports { source, .. } => Some(source),
            // An identifier belongs to who asks.
            Detail::None | Detail::Icmp { .. } => None,
        };
        let (to, here) = (number(&self.reply), number(&plain));
        (self.reply.source != plain.source || to != here).then_some((self.reply.source, to))
    }
}
