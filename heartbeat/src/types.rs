//! The vocabulary that every crate shares: who, when, where in the log, and under which reign.
//!
//! Nothing here decides anything. The types exist so that an epoch can never be passed where a
//! position is meant, and so that the same word is used on the wire, on disk, in logs and in the API.

use std::fmt;
use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use crate::message::{LONGEST_VARINT, MAX_EPOCH, MAX_RECORD_BYTES};

/// The generation of a primary's reign. Grows by each election; zero means "none yet".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// Before the first election.
    pub const ZERO: Epoch = Epoch(0);

    /// The epoch that follows.
    #[must_use]
    pub fn next(self) -> Epoch {
        Epoch(self.0.checked_add(1).expect("2^64 elections"))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A position in the log, in bytes since its beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The beginning of the log.
    pub const ZERO: Lsn = Lsn(0);

    /// Bytes from `earlier` to here, or zero where `earlier` is later.
    pub fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<u64> for Lsn {
    type Output = Lsn;
    fn add(self, bytes: u64) -> Lsn {
        Lsn(self.0 + bytes)
    }
}

impl AddAssign<u64> for Lsn {
    fn add_assign(&mut self, bytes: u64) {
        self.0 += bytes;
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a member, unique in its cluster: 1 to 63 characters of `[A-Za-z0-9._:-]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "CompactString", into = "CompactString")]
pub struct NodeId(CompactString);

/// Why a text cannot be the name of a member.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a node id has 1 to 63 characters of A-Z a-z 0-9 . _ : - (got {0:?})")]
pub struct BadNodeId(pub String);

impl NodeId {
    /// Longest name, in bytes: it bounds the heartbeat packet.
    pub const MAX_LEN: usize = 63;

    /// Checks `name` and makes it an identity.
    pub fn new(name: impl AsRef<str> + Into<CompactString>) -> Result<NodeId, BadNodeId> {
        let text = name.as_ref();
        let good = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b':' | b'-');
        if text.is_empty() || text.len() > Self::MAX_LEN || !text.bytes().all(good) {
            return Err(BadNodeId(text.into()));
        }
        Ok(NodeId(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<CompactString> for NodeId {
    type Error = BadNodeId;
    fn try_from(name: CompactString) -> Result<Self, BadNodeId> {
        NodeId::new(name)
    }
}

impl From<NodeId> for CompactString {
    fn from(id: NodeId) -> CompactString {
        id.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One life of a member's durable state: drawn at random when its state directory (or, for a data
/// member, its log) is made, and drawn anew when the log turns out to be damaged. A host that comes
/// back under its old name with an empty disk is thereby not the member that the in-sync set means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

/// A member with its incarnation: what the in-sync set names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Member {
    /// The member's name.
    pub id: NodeId,
    /// Which life of its state.
    pub incarnation: Incarnation,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}

/// What a member is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberKind {
    /// Has the log and the store, and votes.
    Data,
    /// Votes and remembers; has neither log nor store.
    Witness,
}

/// The in-sync set as decided: durable at a quorum before anybody relies on it (rule R3).
/// Records are ordered by `(epoch, version)`; the greatest that a quorum holds is the truth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InSyncRecord {
    /// The epoch of the primary that wrote it.
    pub epoch: Epoch,
    /// Counts the records of that epoch, from 1.
    pub version: u64,
    /// The data members that hold every acknowledged byte.
    pub members: Vec<Member>,
    /// Who votes, witnesses included, in no order. `None`: whoever is configured; nobody wrote it down yet.
    #[serde(default)]
    pub voters: Option<Vec<NodeId>>,
}

impl InSyncRecord {
    /// The order of records.
    pub fn rank(&self) -> (Epoch, u64) {
        (self.epoch, self.version)
    }

    /// Whether `member`, in this very incarnation, is in the set.
    pub fn contains(&self, member: &Member) -> bool {
        self.members.contains(member)
    }

    /// Whether the record says that there is no vote for `id`.
    pub fn leaves_out(&self, id: &NodeId) -> bool {
        self.voters.as_ref().is_some_and(|voters| !voters.contains(id))
    }

    /// What its names take in a packet, in bytes.
    pub fn bytes(&self) -> usize {
        let name = |id: &NodeId| 1 + id.as_str().len();
        let members = self.members.iter().map(|member| name(&member.id) + LONGEST_VARINT);
        members.chain(self.voters.iter().flatten().map(name)).sum()
    }

    /// Whether a member can keep it, state it and decide by it.
    pub fn within_bounds(&self) -> bool {
        let different = |voters: &Vec<NodeId>| {
            !voters.is_empty() && voters.iter().enumerate().all(|(at, id)| !voters[..at].contains(id))
        };
        self.epoch <= MAX_EPOCH
            && self.bytes() <= MAX_RECORD_BYTES
            && self.voters.as_ref().is_none_or(different)
    }
}

/// A moment on this host's CLOCK_BOOTTIME, in nanoseconds. It counts suspend, never jumps with the
/// wall clock, and means nothing on another host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(pub u64);

impl Time {
    /// The host's start.
    pub const ZERO: Time = Time(0);
    /// Later than any moment.
    pub const NEVER: Time = Time(u64::MAX);

    /// Time since `earlier`, or zero where `earlier` is later.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;
    fn add(self, d: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Time {
    type Output = Time;
    fn sub(self, d: Duration) -> Time {
        Time(self.0.saturating_sub(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}
