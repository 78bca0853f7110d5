//! The packet: a bounded, versioned, authenticated envelope around a [`Message`].
//!
//! ```text
//! offset  size
//!      0     4  magic "HFHB"
//!      4     1  version of the payload
//!      5     1  newest version that the sender speaks
//!      6     2  length of the payload, big endian
//!      8     4  key id (first bytes of a hash of the key)
//!     12    32  HMAC-SHA256 over bytes 0..12 and the payload
//!     44     n  payload (postcard)
//! ```
//!
//! No byte of the payload reaches a parser before the tag was compared (rule R5).
//!
//! # Versions
//! Two releases understand each other while there is a version that both speak. Everybody begins in the oldest one and
//! says in each packet which one is its newest; from then on each side speaks to the other in the newest that both know.
//! Nothing is agreed on and nothing is remembered, so either side may be replaced by an older or a newer release at any
//! time.

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::message::Message;
use crate::version1;

/// The oldest version that this build speaks: all that is said to somebody who was not heard yet.
pub const OLDEST: u8 = 1;
/// The newest one.
pub const NEWEST: u8 = 2;
/// From this version on a record says who votes.
pub const SAYS_WHO_VOTES: u8 = 2;
/// Largest packet, in bytes: what IPv6 carries unfragmented over any link (an MTU of 1280, less 48 of headers).
pub const MAX_PACKET: usize = 1232;

const MAGIC: [u8; 4] = *b"HFHB";
const TAG_AT: usize = 12;
const HEADER: usize = TAG_AT + 32;

/// Why a packet was dropped. Every drop is counted under one of these names and changes nothing.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, thiserror::Error,
)]
pub enum Dropped {
    /// Shorter than a header.
    #[error("truncated")]
    Truncated,
    /// Longer than [`MAX_PACKET`], or than its header says.
    #[error("oversized")]
    Oversized,
    /// Does not begin as our packets do.
    #[error("bad_magic")]
    BadMagic,
    /// Speaks a version that this build does not.
    #[error("other_version")]
    OtherVersion,
    /// Signed with a key that is not configured.
    #[error("unknown_key")]
    UnknownKey,
    /// The tag does not match.
    #[error("bad_mac")]
    BadMac,
    /// Authentic, yet not a message: a defect of the peer.
    #[error("malformed")]
    Malformed,
    /// Bears our own name.
    #[error("from_self")]
    FromSelf,
    /// Bears a name that belongs to another configured peer, or comes from an unknown one.
    #[error("unknown_sender")]
    UnknownSender,
    /// Carries no echo of this life of ours: possibly a replay, or the peer has not heard us yet.
    #[error("unproven")]
    Unproven,
    /// Was seen before, or lies before the replay window.
    #[error("replayed")]
    Replayed,
    /// Echoes something that we sent too long ago.
    #[error("stale")]
    Stale,
}

impl Dropped {
    /// All reasons, for metrics that start at zero.
    pub const ALL: [Dropped; 12] = [
        Dropped::Truncated,
        Dropped::Oversized,
        Dropped::BadMagic,
        Dropped::OtherVersion,
        Dropped::UnknownKey,
        Dropped::BadMac,
        Dropped::Malformed,
        Dropped::FromSelf,
        Dropped::UnknownSender,
        Dropped::Unproven,
        Dropped::Replayed,
        Dropped::Stale,
    ];
}

/// The keys of a cluster: one signs, all verify, so that a key can be replaced member by member.
pub struct Keyring {
    keys: Vec<Key>,
}

struct Key {
    id: [u8; 4],
    /// Has taken the secret in already, which is half of the work for a short packet; wiped when dropped.
    mac: Hmac<Sha256>,
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keyring({} keys)", self.keys.len())
    }
}

fn keyed(secret: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(secret).expect("HMAC takes keys of any length")
}

impl Keyring {
    /// Derives the heartbeat keys from the cluster's secrets; the first one signs.
    ///
    /// The stream derives its own from the same secret under another label, so neither protocol's
    /// packets can be passed off as the other's.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a [u8]>) -> Keyring {
        let keys = secrets
            .into_iter()
            .map(|secret| {
                let derived = keyed(secret).chain_update(b"holdfast heartbeat v1").finalize();
                let secret = Zeroizing::new(<[u8; 32]>::from(derived.into_bytes()));
                let mac = keyed(&*secret);
                let mut id = [0; 4];
                id.copy_from_slice(&mac.clone().chain_update(b"key id").finalize().into_bytes()[..4]);
                Key { id, mac }
            })
            .collect::<Vec<_>>();
        assert!(!keys.is_empty(), "a cluster has a secret");
        Keyring { keys }
    }

    /// What tells the keys apart in a packet, in hexadecimal, the signing one first. No secret.
    pub fn ids(&self) -> Vec<String> {
        self.keys.iter().map(|key| format!("{:08x}", u32::from_be_bytes(key.id))).collect()
    }

    /// Signs and encodes `message` in `version`, which lies between [`OLDEST`] and [`NEWEST`].
    ///
    /// What a heartbeat says for people alone is left out where names are so long that it does not fit.
    pub fn seal(&self, message: &Message, version: u8) -> Vec<u8> {
        let mut packet = [0; MAX_PACKET];
        let (header, room) = packet.split_at_mut(HEADER);
        let mut written = encode(message, version, room);
        if written.is_err()
            && let Some(shorter) = message.without_measurements()
        {
            written = encode(&shorter, version, room);
        }
        let payload = match written {
            Ok(length) => &room[..length],
            Err(error) => panic!("a heartbeat outgrew its bound of {MAX_PACKET} bytes: {error}"),
        };
        let key = &self.keys[0];
        header[..4].copy_from_slice(&MAGIC);
        (header[4], header[5]) = (version, message.speaks());
        header[6..8].copy_from_slice(&(payload.len() as u16).to_be_bytes());
        header[8..TAG_AT].copy_from_slice(&key.id);
        let tag = key.mac.clone().chain_update(&header[..TAG_AT]).chain_update(payload).finalize();
        header[TAG_AT..].copy_from_slice(&tag.into_bytes());
        let length = HEADER + payload.len();
        packet[..length].to_vec()
    }

    /// Checks and decodes a packet that came from the network.
    pub fn open(&self, packet: &[u8]) -> Result<Message, Dropped> {
        self.open_up_to(packet, NEWEST)
    }

    /// As [`Keyring::open`], for a release whose newest version is `newest`.
    pub fn open_up_to(&self, packet: &[u8], newest: u8) -> Result<Message, Dropped> {
        if packet.len() > MAX_PACKET {
            return Err(Dropped::Oversized);
        }
        if packet.len() < HEADER {
            return Err(Dropped::Truncated);
        }
        let (header, payload) = packet.split_at(HEADER);
        if header[..4] != MAGIC {
            return Err(Dropped::BadMagic);
        }
        let (version, speaks) = (header[4], header[5]);
        if !(OLDEST..=newest).contains(&version) || speaks < version {
            return Err(Dropped::OtherVersion);
        }
        let length = usize::from(u16::from_be_bytes([header[6], header[7]]));
        match payload.len().cmp(&length) {
            std::cmp::Ordering::Less => return Err(Dropped::Truncated),
            std::cmp::Ordering::Greater => return Err(Dropped::Oversized),
            std::cmp::Ordering::Equal => {}
        }
        let key = self.keys.iter().find(|key| key.id == header[8..TAG_AT]).ok_or(Dropped::UnknownKey)?;
        let mac = key.mac.clone().chain_update(&header[..TAG_AT]).chain_update(payload);
        mac.verify_slice(&header[TAG_AT..]).map_err(|_| Dropped::BadMac)?;
        let message = decode(payload, version, speaks, newest).filter(Message::within_bounds);
        message.ok_or(Dropped::Malformed)
    }
}

/// Writes the payload; its length in bytes.
fn encode(message: &Message, version: u8, room: &mut [u8]) -> postcard::Result<usize> {
    match version {
        1 => version1::encode(message, room),
        _ => postcard::to_slice(message, room).map(|payload| payload.len()),
    }
}

/// The message, if that is what the payload is.
fn decode(payload: &[u8], version: u8, speaks: u8, newest: u8) -> Option<Message> {
    if version == 1 {
        return version1::decode(payload, speaks, newest);
    }
    let (message, rest) = postcard::take_from_bytes::<Message>(payload).ok()?;
    (rest.is_empty() && message.speaks() == speaks).then_some(message)
}
