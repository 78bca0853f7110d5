//! What one member asks another to look at, and what that one saw.
//!
//! An inquiry is not part of the protocol that elects: nothing that it says, and nothing that is answered,
//! changes any state. It exists for `holdfast ha check`, which wants proof from elsewhere: that an
//! announcement was heard on another host, that the address answers there, that two configurations agree.
//! A testimony counts only for the inquiry whose round it repeats, so a recorded one proves nothing.

use std::net::IpAddr;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use crate::message::BootNonce;
use crate::types::{Member, MemberKind};

/// Most virtual addresses that a testimony tells about: it must fit into one packet.
pub const MAX_ADDRESSES: usize = 6;
/// Most stations that are named for one address. Two are one too many already.
pub const MAX_STATIONS: usize = 3;
/// Longest text in a testimony, in bytes.
pub const MAX_LABEL: usize = 32;
/// Most keys that are named: one signs, and a rotation has few more.
pub const MAX_KEYS: usize = 4;

/// "What do you see?"
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inquiry {
    /// Who asks.
    pub from: Member,
    /// In which life of its process.
    pub boot: BootNonce,
    /// Which life of the receiver is asked: a packet that was recorded in an earlier one asks nobody.
    pub to_boot: BootNonce,
    /// Names the inquiry; grows within a life of the asker.
    pub round: u64,
    /// Whoever holds virtual addresses announces them once.
    pub announce: bool,
}

/// "This is what I see."
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Testimony {
    /// Who answers.
    pub from: Member,
    /// The life of the asker.
    pub to_boot: BootNonce,
    /// The inquiry that is answered.
    pub round: u64,
    /// What the members should agree on.
    pub facts: Facts,
    /// How long ago it announced its addresses for this inquiry, in microseconds; `None` where it did not.
    pub announced_us_ago: Option<u64>,
    /// One entry for each of its virtual addresses; at most [`MAX_ADDRESSES`].
    pub addresses: Vec<AddressTestimony>,
}

/// What is configured on a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The program's version.
    pub version: CompactString,
    /// Data member or witness.
    pub kind: MemberKind,
    /// Between two heartbeats.
    pub interval_ns: u64,
    /// Silence after which a member is held to be gone.
    pub detect_ns: u64,
    /// The lease.
    pub lease_ns: u64,
    /// Voting members.
    pub voters: u8,
    /// The policy of two members without a witness, as the configuration writes it.
    pub two_node: CompactString,
    /// Takes over by itself.
    pub enabled: bool,
    /// The kernel gate in use.
    pub gate: CompactString,
    /// The port of the S3 service, where there is one.
    pub service_port: Option<u16>,
    /// What tells its keys apart, the signing one first; at most [`MAX_KEYS`].
    pub keys: Vec<CompactString>,
}

/// What a member sees of one virtual address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressTestimony {
    /// The address.
    pub address: IpAddr,
    /// The prefix length of its network.
    pub prefix: u8,
    /// The hardware address of its interface there, if that exists.
    pub mac: Option<[u8; 6]>,
    /// The interface is up and has a carrier.
    pub up: bool,
    /// The member holds it.
    pub here: bool,
    /// The question who has it could be asked.
    pub asked: bool,
    /// Who answered, itself aside; at most [`MAX_STATIONS`].
    pub holders: Vec<[u8; 6]>,
    /// Who last said unasked, or in answer to anybody, that it has the address; the newest first, at most
    /// [`MAX_STATIONS`].
    pub claims: Vec<Claim>,
    /// Whether the S3 service took a connection at the address; `None` where there is none to try.
    pub service: Option<bool>,
}

/// A station that said that it has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Its hardware address.
    pub mac: [u8; 6],
    /// How long before the testimony was sent, in microseconds.
    pub us_ago: u64,
}

/// `text`, no longer than a testimony may have it.
pub fn label(text: &str) -> CompactString {
    let end = (0..=MAX_LABEL.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text[..end].into()
}

impl Testimony {
    pub(crate) fn within_bounds(&self) -> bool {
        let facts = &self.facts;
        let mut labels = [&facts.version, &facts.two_node, &facts.gate].into_iter().chain(&facts.keys);
        let short = |address: &AddressTestimony| {
            address.holders.len() <= MAX_STATIONS && address.claims.len() <= MAX_STATIONS
        };
        facts.keys.len() <= MAX_KEYS
            && labels.all(|text| text.len() <= MAX_LABEL)
            && self.addresses.len() <= MAX_ADDRESSES
            && self.addresses.iter().all(short)
    }
}
