//! What a heartbeat says.
//!
//! A heartbeat is a statement of the sender's whole state, never a change to it: a lost packet costs
//! nothing, a repeated one means nothing new, and a late one is older than what is known already.
//! The one exception is [`Notice`], the last word of a supervisor whose agent has died; it states a
//! fact that stays true for ever, so it too may be repeated.

use serde::{Deserialize, Serialize};

use crate::inquiry::{Inquiry, Testimony};
use crate::packet::NEWEST;
use crate::types::{Epoch, InSyncRecord, Incarnation, Lsn, Member, MemberKind, NodeId, Time};

/// Drawn at random at each start of an agent: it tells one life of the process from another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootNonce(pub u64);

/// Most bytes that an in-sync record may take in a packet ([`InSyncRecord::bytes`]): nine members with the longest
/// names, or three that are in sync among five that vote. A member keeps the record and states it in its own
/// heartbeats, so it takes none that would not fit there.
pub const MAX_RECORD_BYTES: usize = 9 * (1 + NodeId::MAX_LEN + LONGEST_VARINT);
/// The greatest epoch that is believed. Elections count in ones, so a greater one is a defect of the
/// peer, and taking it over would leave no room for the next election.
pub const MAX_EPOCH: Epoch = Epoch(1 << 56);
/// The greatest version of a [`Suspension`] that is believed: the next one must fit too.
pub const MAX_SUSPENSION: u64 = 1 << 56;
/// The greatest penalty that is believed: far more than all checks of a member can count.
pub const MAX_PENALTY: u32 = 1 << 20;
/// Most paths that a heartbeat reports on: one bit each in a [`Sight`].
pub const MAX_PATHS: usize = 8;
/// Most other members that a member says it hears.
pub const MAX_SIGHTS: usize = 8;
/// A 64-bit number in the encoding of the payload, in bytes.
pub(crate) const LONGEST_VARINT: usize = 10;

/// Everything that travels in a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// The regular statement of a living member.
    Heartbeat(Box<Heartbeat>),
    /// A supervisor says that its agent is gone.
    Notice(Notice),
    /// A member asks what another one sees of the network. Changes nothing anywhere.
    Inquiry(Inquiry),
    /// The answer.
    Testimony(Box<Testimony>),
}

impl Message {
    /// The newest version of the packet that the sender speaks.
    pub(crate) fn speaks(&self) -> u8 {
        match self {
            Message::Heartbeat(heartbeat) => heartbeat.speaks,
            // Which is the same in all of them.
            Message::Notice(_) | Message::Inquiry(_) | Message::Testimony(_) => NEWEST,
        }
    }

    /// The same without what is measured and shown, if it has any of that: nothing is decided by it.
    pub(crate) fn without_measurements(&self) -> Option<Message> {
        let Message::Heartbeat(heartbeat) = self else { return None };
        if heartbeat.paths.is_empty() && heartbeat.state.hears.is_empty() {
            return None;
        }
        let mut shorter = heartbeat.clone();
        shorter.paths.clear();
        shorter.state.hears.clear();
        Some(Message::Heartbeat(shorter))
    }

    /// Whether a receiver can take over what it says and go on from there.
    pub(crate) fn within_bounds(&self) -> bool {
        match self {
            Message::Heartbeat(heartbeat) => {
                heartbeat.paths.len() <= MAX_PATHS && heartbeat.state.within_bounds()
            }
            Message::Notice(notice) => notice.epoch <= MAX_EPOCH,
            Message::Inquiry(_) => true,
            Message::Testimony(testimony) => testimony.within_bounds(),
        }
    }
}

/// One statement, for one receiver, over one path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Who speaks.
    pub from: Member,
    /// Data member or witness.
    pub kind: MemberKind,
    /// Which life of the sender's process.
    pub boot: BootNonce,
    /// Counts this life's packets to this receiver, over all paths.
    pub seq: u64,
    /// The sender's own clock at sending; it comes back in an [`Echo`] and means nothing to others.
    pub sent_at: Time,
    /// Which of the configured paths carries this packet.
    pub path: u8,
    /// The newest packet that the sender has from the receiver: proof that this packet is fresh, and
    /// the sender's share in the receiver's lease. `None` until something was heard.
    pub echo: Option<Echo>,
    /// Asks for an answer at once instead of at the next tick.
    pub reply_wanted: bool,
    /// What was counted on each path between the two, in the sender's numbering; at most [`MAX_PATHS`].
    pub paths: Vec<PathReport>,
    /// The newest version of the packet that the sender speaks.
    pub speaks: u8,
    /// What the sender is and holds.
    pub state: MemberState,
}

/// What the sender counted on one path to the receiver, in this life of its own. Both numbers wrap; only
/// their growth means anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathReport {
    /// Packets that it sent by the path, this one included.
    pub sent: u32,
    /// Packets of the receiver that came by the path and were believed.
    pub received: u32,
}

/// Whom a member hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sight {
    /// The other member. Its name would be longer.
    pub member: Incarnation,
    /// Bit `i`: something of that member came by path `i` within the detection time. Zero: it is not heard.
    pub paths: u8,
}

/// Names a packet that arrived, with the receiver's own marks on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Echo {
    /// The boot nonce on the echoed packet: the challenge that a replayed packet cannot answer.
    pub boot: BootNonce,
    /// Its sequence number.
    pub seq: u64,
    /// Its `sent_at`, on the clock of the one who sent it.
    pub sent_at: Time,
    /// The path it came by.
    pub path: u8,
}

/// What a member acts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// A data member that follows, or waits for somebody to follow.
    Standby,
    /// A data member that asks for votes.
    Candidate,
    /// Elected, on its way through the steps of taking over (rule R7).
    Promoting,
    /// Serves and writes.
    Primary,
    /// Was primary and hands over to a successor of its choice.
    HandingOver,
    /// Votes and remembers.
    Witness,
}

/// A member's state as it states it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberState {
    /// What it acts as.
    pub role: Role,
    /// The highest epoch that it has promised, durably.
    pub epoch: Epoch,
    /// Configured preference; lower is more preferred.
    pub priority: u32,
    /// `mode = "primary"`: wishes to be the first primary of a new cluster.
    pub prefers_primary: bool,
    /// How long after the sending of an acknowledged heartbeat its address may still answer, in
    /// nanoseconds: its lease and what its gate cannot promise. A voter refuses others for at least this.
    pub lease_ns: u64,
    /// The reign of the *receiver* for which the echo in this packet counts as a renewal of its lease.
    pub grants: Option<Epoch>,
    /// The primary that it follows, if any.
    pub follows: Option<(Epoch, NodeId)>,
    /// Its request for votes, while it is a candidate.
    pub ballot: Option<Ballot>,
    /// Its answer to the receiver's ballot.
    pub vote: Option<Vote>,
    /// The newest in-sync record on its disk.
    pub record: Option<InSyncRecord>,
    /// The newest reign of its own that it has given up.
    pub resigned: Option<Resignation>,
    /// End of the durable log, and the epoch of its last record. Zero on a witness.
    pub durable: Lsn,
    /// See `durable`.
    pub last_epoch: Epoch,
    /// Has never been part of a cluster: no epoch, no record, an empty log.
    pub pristine: bool,
    /// Able and allowed to be primary as far as it knows itself.
    pub electable: bool,
    /// Asks the primary to hand over to it, and why.
    pub wants_primary: Option<Wish>,
    /// Is shutting down.
    pub leaving: bool,
    /// Is taken out for maintenance, durably: takes no role, and nobody's write waits for it.
    pub drained: bool,
    /// Whether automatic changes of primary are suspended, by the newest order on its disk.
    pub suspension: Suspension,
    /// In a pair without a witness: is writing down that it goes on alone, and may act upon that at any moment.
    pub going_on_alone: bool,
    /// What its failed checks count together; zero is healthy. At most [`MAX_PENALTY`].
    pub penalty: u32,
    /// Its disk does not take writes in time: it can neither acknowledge nor vote.
    pub disk_stalled: bool,
    /// The other members that it has ever heard, and by which paths it hears them now. For people; nothing is
    /// decided by it. At most [`MAX_SIGHTS`].
    pub hears: Vec<Sight>,
}

impl MemberState {
    fn within_bounds(&self) -> bool {
        let epochs = [
            Some(self.epoch),
            Some(self.last_epoch),
            self.grants,
            self.follows.as_ref().map(|(epoch, _)| *epoch),
            self.ballot.map(|ballot| ballot.epoch),
            self.vote.map(|vote| vote.epoch),
            self.record.as_ref().map(|record| record.epoch),
            self.resigned.as_ref().map(|resigned| resigned.epoch),
        ];
        epochs.into_iter().flatten().all(|epoch| epoch <= MAX_EPOCH)
            && self.record.as_ref().is_none_or(InSyncRecord::within_bounds)
            && self.suspension.version <= MAX_SUSPENSION
            && self.penalty <= MAX_PENALTY
            && self.hears.len() <= MAX_SIGHTS
    }
}

/// Whether automatic changes of primary are suspended in the whole cluster: a register that every
/// member keeps on its disk and states with every heartbeat. Of two, the one of the higher
/// [`rank`](Suspension::rank) holds, so members that were told different things come to agree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspension {
    /// Counts the orders. Zero: none was ever given.
    pub version: u64,
    /// Suspended.
    pub paused: bool,
    /// Where the order was given.
    pub by: Option<NodeId>,
    /// When, in milliseconds since 1970 by that host's wall clock. For people only.
    pub since_unix_ms: u64,
}

impl Suspension {
    /// A total order: the later order wins; of two that were given at the same time, the pause.
    pub fn rank(&self) -> (u64, bool, u64, Option<&NodeId>) {
        (self.version, self.paused, self.since_unix_ms, self.by.as_ref())
    }
}

/// Why a standby wishes to be primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// It is preferred, in sync, and its failback delay has passed.
    Failback,
    /// Its operator asked for it.
    Operator,
}

/// A candidate's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ballot {
    /// Distinguishes this candidate's attempts.
    pub round: u64,
    /// The epoch it would reign in.
    pub epoch: Epoch,
    /// Only a question: nothing becomes durable on either side.
    pub pre: bool,
    /// An operator ordered this promotion and accepted its price (rule R10): the in-sync set is not
    /// asked. Leases and promised epochs are.
    pub forced: bool,
}

/// A voter's answer to one ballot of the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    /// The ballot's round.
    pub round: u64,
    /// The ballot's epoch.
    pub epoch: Epoch,
    /// The ballot's kind.
    pub pre: bool,
    /// `None`: granted. Otherwise why not.
    pub refusal: Option<Refusal>,
}

/// Why a voter refuses a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The voter has promised this or a later epoch to another.
    EpochPromised,
    /// The lease that the voter granted to another has not lapsed yet.
    LeaseHeld,
    /// The voter started less than one lease ago and may have granted one before.
    JustStarted,
    /// The last recorded in-sync set does not have the candidate (rule R3).
    NotInSync,
    /// A new cluster starts only with every data member present and empty.
    NotBootstrapped,
    /// The voter is itself primary.
    IsPrimary,
    /// The candidate has no vote: it was taken out of the cluster, or is not a part of it yet.
    NotAVoter,
}

/// A reign that its holder gave up by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resignation {
    /// The reign.
    pub epoch: Epoch,
    /// Who should follow at once; others wait a while.
    pub successor: Option<NodeId>,
}

/// "The agent `member`, in its life `boot`, has died; whatever lease it held is over, its addresses
/// are cleared." Sent by the supervisor that waited for the process. True for ever, hence safe to
/// repeat; bound to one life and one epoch, hence useless against a later one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// The member that died.
    pub member: Member,
    /// Which life of its process.
    pub boot: BootNonce,
    /// The epoch it reigned in (zero: it was not primary).
    pub epoch: Epoch,
}
