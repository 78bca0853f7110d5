//! What goes into a replica and what comes out of it: plain data.

use std::time::Duration;

use bytes::Bytes;
use holdfast_heartbeat::{Epoch, Lsn, Member};
use serde::Serialize;

use super::CatchUp;
use crate::log::{OpenOptions, RangeSum};
use crate::record::{MAX_RECORD, RecordKind};
use crate::set_aside::Archive;
use crate::stream::{Frame, Verdict};

/// What the log's operations do to: the index of the store.
pub trait StateMachine: Send {
    /// What an operation answers.
    type Outcome: Send + 'static;
    /// The end of the last applied record; zero when nothing was.
    fn applied(&self) -> Lsn;
    /// Applies committed records in order and answers one outcome each. The effects and `applied`
    /// advance atomically. Must be deterministic: no clock, no randomness, no configuration.
    fn apply(&mut self, batch: &[Committed<'_>]) -> Result<Vec<Self::Outcome>, ApplyError>;
    /// Takes in part of a checkpoint: the batch's records of that kind belong to it if they say that they
    /// are as of `as_of`; all others are to be passed over. Begins after a [`StateMachine::reset`], and
    /// `applied` stays zero until `last` is true: then it is `as_of`.
    fn restore(&mut self, as_of: Lsn, batch: &[Committed<'_>], last: bool) -> Result<(), ApplyError>;
    /// Forgets everything; the log will be applied again from its beginning. Must be durable when
    /// it returns: the log is cut next, and an old index must not come back over a new log.
    fn reset(&mut self) -> Result<(), ApplyError>;
}

/// The state machine cannot go on. The replica stops leading and following.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the index cannot be brought up to date: {0}")]
pub struct ApplyError(pub String);

/// A committed record on its way to the state machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed<'a> {
    /// Its beginning.
    pub lsn: Lsn,
    /// Its end.
    pub end: Lsn,
    /// The reign it was written in.
    pub epoch: Epoch,
    /// What it is.
    pub kind: RecordKind,
    /// Its payload; empty for what means nothing to the state machine, whose bytes stay in the log.
    pub payload: &'a [u8],
}

/// Names a connection; the caller never uses one twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ConnId(pub u64);

/// When a submitted record is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// As soon as it has its place in the log.
    Appended,
    /// When it is durable on the whole wait set and applied.
    Committed,
}

/// What happened. `R` is whatever identifies who waits for an answer.
#[derive(Debug)]
pub enum Input<R> {
    /// This member was elected: start to reign and wait for `members` (itself included).
    Lead {
        /// The reign; above every epoch in the log, and not below what was promised.
        epoch: Epoch,
        /// The in-sync set as recorded.
        members: Vec<Member>,
        /// The wall clock, in milliseconds since 1970, for people.
        wall_ms: u64,
    },
    /// Another member reigns: stop leading, and take a stream from exactly this one.
    Follow {
        /// Its reign.
        epoch: Epoch,
        /// Who.
        leader: Member,
    },
    /// Stop leading or following in this epoch or an earlier one.
    StandDown {
        /// The last epoch that is over.
        epoch: Epoch,
    },
    /// From now on take nothing from, and acknowledge nothing in, a lower epoch.
    Promise {
        /// The least epoch.
        epoch: Epoch,
    },
    /// Wait for these members from now on.
    WaitFor {
        /// The reign that wants it; another one's wish is ignored.
        epoch: Epoch,
        /// Comes back in `WaitReached`.
        version: u64,
        /// The wait set, this member included.
        members: Vec<Member>,
    },
    /// Send what a batch still holds back, and hold nothing back for the next two seconds: it is waited for.
    /// `Acknowledgement::Local` alone has such.
    SendNow,
    /// Write a record.
    Submit {
        /// Anything but an epoch start.
        kind: RecordKind,
        /// The payload, in pieces.
        payload: Vec<Bytes>,
        /// When to answer.
        wait: Wait,
        /// Whom to answer.
        reply: R,
    },
    /// Put the record at this position right: it was found to be damaged. Answered with where it is, or why
    /// it stays as it is.
    Heal {
        /// Where it begins.
        lsn: Lsn,
        /// Whom to answer.
        reply: R,
    },
    /// A range of this primary's log was summed: followers are to say whether they have the same.
    Compare {
        /// Its sum.
        sum: RangeSum,
    },
    /// The answer to `Output::Compare`.
    Found {
        /// As asked.
        conn: ConnId,
        /// Where the range begins.
        from: Lsn,
        /// What this member has there.
        verdict: Verdict,
    },
    /// Ask the primary what is committed; nothing happens without a stream from it.
    Ask {
        /// Comes back in `Told`.
        token: u64,
    },
    /// A connection stands, encrypted. Who opened it says Hello once it follows somebody.
    Connected {
        /// Its name.
        conn: ConnId,
        /// Whether this side opened it.
        initiated: bool,
    },
    /// A frame arrived.
    Frame {
        /// On which connection.
        conn: ConnId,
        /// What.
        frame: Frame,
    },
    /// A connection is gone.
    Disconnected {
        /// Which.
        conn: ConnId,
    },
}

/// What to do, or what to know. `Send` and `Close` of one connection are to be executed in order.
#[derive(Debug)]
pub enum Output<R, O> {
    /// Send a frame.
    Send {
        /// On which connection.
        conn: ConnId,
        /// What.
        frame: Frame,
    },
    /// Send what is queued, then close.
    Close {
        /// Which connection.
        conn: ConnId,
        /// Why, for the log.
        reason: String,
        /// The other side sent what does not fit here: nothing of it was taken. A change of primary can do that.
        refused: bool,
    },
    /// Answer a submit.
    Reply {
        /// Whom.
        reply: R,
        /// What.
        result: Result<Done<O>, SubmitError>,
    },
    /// The epoch's first record is durable on the whole wait set, and it and everything before it
    /// is applied.
    EpochStarted {
        /// The reign.
        epoch: Epoch,
        /// Where it begins.
        lsn: Lsn,
    },
    /// Every member of the wait set holds all that was committed when the waiting began.
    WaitReached {
        /// The reign.
        epoch: Epoch,
        /// As asked.
        version: u64,
    },
    /// What is known of a peer changed.
    PeerProgress {
        /// The peer.
        member: Member,
        /// Whether a stream to it stands.
        streaming: bool,
        /// What it made durable under this epoch.
        durable: Lsn,
    },
    /// A standby's own progress changed.
    Following {
        /// The reign it follows.
        epoch: Epoch,
        /// Durable here.
        durable: Lsn,
        /// Committed, as far as told and durable here.
        committed: Lsn,
    },
    /// A follower wants to know what is committed. To be answered with `Frame::Told`, if the lease of this
    /// reign is held when this is looked at: only then nobody else can have acknowledged more.
    Asked {
        /// On which connection.
        conn: ConnId,
        /// As asked.
        token: u64,
        /// The reign.
        epoch: Epoch,
        /// What is committed.
        committed: Lsn,
    },
    /// What was acknowledged by anybody before the question was asked lies below `committed`.
    Told {
        /// As asked.
        token: u64,
        /// The reign that is followed.
        epoch: Epoch,
        /// How far.
        committed: Lsn,
    },
    /// The primary told the sum of a range that is durable here. To be answered with `Input::Found`, from this member's
    /// own disk.
    Compare {
        /// Comes back in the answer.
        conn: ConnId,
        /// The primary's sum.
        sum: RangeSum,
    },
    /// A follower said what it has in a range.
    Compared {
        /// Who.
        member: Member,
        /// Where the range begins.
        from: Lsn,
        /// Whether it is the same.
        verdict: Verdict,
    },
    /// A divergent tail was archived and then cut.
    SetAside {
        /// The archive's name.
        archive: String,
        /// The first byte's position.
        from: Lsn,
        /// The position after the last byte.
        to: Lsn,
    },
    /// The copy of the log begins from nothing, after all that the primary does not share was archived.
    BegunAnew {
        /// Below here the primary has the same.
        shared: Lsn,
    },
    /// Damaged bytes were replaced by a peer's.
    Healed {
        /// The first byte's position.
        from: Lsn,
        /// The position after the last byte.
        to: Lsn,
    },
    /// The log cannot take more.
    LogFailed {
        /// The disk is full: space helps, and everything stored is intact. Else this replica is out
        /// of service until it is opened again.
        full: bool,
        /// What happened.
        error: String,
    },
}

/// How a submit succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done<O> {
    /// It has its place, and may yet vanish.
    Appended {
        /// Its beginning.
        lsn: Lsn,
        /// Its end.
        end: Lsn,
    },
    /// It is durable on the whole wait set and applied.
    Committed {
        /// Its beginning.
        lsn: Lsn,
        /// Its end.
        end: Lsn,
        /// What the state machine answered.
        outcome: O,
    },
}

/// Why a submit was not confirmed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Ask the primary.
    #[error("this member is not the primary{}", if *.maybe_stored { " any more; the write may or may not survive" } else { "; nothing was stored" })]
    NotPrimary {
        /// The record had its place in the log already: its fate is open.
        maybe_stored: bool,
    },
    /// Free some space.
    #[error("the disk is full; nothing was stored and earlier data is intact")]
    DiskFull,
    /// Try again later: too much waits for the in-sync set.
    #[error("too many writes wait for the in-sync set; nothing was stored")]
    Overloaded,
    /// The caller's payload or kind is not allowed.
    #[error("not a record that can be submitted: {0}")]
    Refused(String),
    /// The log or the index failed; the write may or may not survive.
    #[error("the log is out of service: {0}")]
    Failed(String),
}

/// Limits and identity of a replica.
#[derive(Clone, Copy, Debug)]
pub struct ReplicaOptions {
    /// How to open the log.
    pub log: OpenOptions,
    /// The identity to give to the log if this member founds it; zero draws one at random.
    pub new_log_id: u64,
    /// Most bytes sent to one peer and not acknowledged.
    pub window_bytes: u64,
    /// Most submits waiting to be committed.
    pub max_pending: usize,
    /// Most bytes appended and not committed.
    pub max_uncommitted_bytes: u64,
    /// When whoever appends has to wait for what is committed.
    pub backlog: Backlog,
    /// What a write waits for in the reigns of this member.
    pub acknowledgement: Acknowledgement,
    /// Most bytes in a second that a peer is sent which nobody waits for and which lacks much, beyond what is written
    /// meanwhile.
    pub catch_up_bytes_per_second: Option<u64>,
}

/// Whose disk a write must be on before it counts as committed, and is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Acknowledgement {
    /// Those of the whole in-sync set (rule R2).
    #[default]
    InSync,
    /// The primary's own, by the operator's choice: what the others lack yet is lost with it, in a failover too. The
    /// records go out in batches.
    Local {
        /// A batch goes when its first record has waited for so long,
        interval: Duration,
        /// or when it has so many records.
        records: u32,
    },
}

/// How far appends may run ahead of what is committed. Beyond it they are still written, and answered only when enough
/// of what came before them is committed: whoever sends bytes faster than the in-sync set takes them is slowed down,
/// and no queue grows.
#[derive(Clone, Copy, Debug)]
pub struct Backlog {
    /// So much may always be on its way, in bytes.
    pub free_bytes: u64,
    /// More only while nothing of it is older than this.
    pub patience: Duration,
    /// And never more than this, in bytes.
    pub most_bytes: u64,
}

impl Default for Backlog {
    fn default() -> Backlog {
        Backlog {
            // Within the timeout of a stalled standby at 4 MiB/s and more.
            free_bytes: 4 * 1024 * 1024,
            patience: Duration::from_millis(250),
            // Covers 10 Gbit/s at 50 ms.
            most_bytes: 64 * 1024 * 1024,
        }
    }
}

impl ReplicaOptions {
    /// A window below this could not hold any record and would stall the stream.
    pub const MIN_WINDOW: u64 = 2 * MAX_RECORD as u64;
}

impl Default for ReplicaOptions {
    fn default() -> ReplicaOptions {
        ReplicaOptions {
            log: OpenOptions::default(),
            new_log_id: 0,
            // What is on its way and what the other disk is busy with: 5 Gbit/s at 100 ms. Bounds what one slow peer
            // costs in memory.
            window_bytes: 64 * 1024 * 1024,
            max_pending: 64 * 1024,
            // What a peer that stalls may cost until it is dropped from the in-sync set.
            max_uncommitted_bytes: 256 * 1024 * 1024,
            backlog: Backlog::default(),
            acknowledgement: Acknowledgement::default(),
            catch_up_bytes_per_second: None,
        }
    }
}

/// What a replica is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaRole {
    /// Neither leading nor following.
    Idle,
    /// Writing and streaming.
    Leading,
    /// Taking a stream, or waiting for one.
    Following,
    /// Out of service.
    Failed,
}

/// What the primary knows of a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerStatus {
    /// Who.
    pub member: Member,
    /// Whether a stream to it stands.
    pub streaming: bool,
    /// Whether acknowledgements wait for it.
    pub in_wait_set: bool,
    /// What it made durable under this epoch, if it said so.
    pub durable: Option<Lsn>,
    /// How far it is behind the end of the log.
    pub lag_bytes: u64,
    /// How long ago the oldest of that was written, at least, in milliseconds; not known of who said nothing yet.
    pub lag_ms: Option<u64>,
    /// How far it is while it lacks much.
    pub catch_up: Option<CatchUp>,
}

/// A replica at one moment, for people and for the API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReplicaStatus {
    /// What it does.
    pub role: ReplicaRole,
    /// In which epoch, if it leads or follows.
    pub epoch: Option<Epoch>,
    /// The least epoch that it takes anything from.
    pub promised_epoch: Epoch,
    /// The primary, as far as known.
    pub leader: Option<Member>,
    /// The log's identity in hexadecimal, none before it was founded.
    pub log_id: Option<String>,
    /// Where the log ends.
    pub end: Lsn,
    /// Durable here.
    pub durable: Lsn,
    /// Committed, as far as known here.
    pub committed: Lsn,
    /// In the state machine.
    pub applied: Lsn,
    /// Segment files.
    pub segments: usize,
    /// Bytes of records in them: less than `end` once space was won back.
    pub log_bytes: u64,
    /// Bytes of the log that the last checkpoint takes, with what was written meanwhile.
    pub checkpoint_bytes: u64,
    /// Whether the log holds all that a replay needs; not so while a new member's copy is under way.
    pub replayable: bool,
    /// The last reigns in the log and where they began.
    pub history: Vec<(Epoch, Lsn)>,
    /// On a primary, the peers.
    pub peers: Vec<PeerStatus>,
    /// On a primary whose writes wait for nobody else: what is lost if it is lost now.
    pub exposure: Option<Exposure>,
    /// On a standby, whether the stream stands.
    pub streaming: bool,
    /// On a standby that lacks much, how far it is.
    pub catch_up: Option<CatchUp>,
    /// Submits waiting to be committed.
    pub pending: usize,
    /// What was set aside.
    pub set_aside: Vec<Archive>,
    /// The first damaged place noticed while reading.
    pub damaged: Option<Damage>,
    /// How often damage was put right from a peer since the agent began.
    pub healed: u64,
    /// Why the replica is out of service, if it is.
    pub failure: Option<String>,
}

/// What was acknowledged and is on no other member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Exposure {
    /// How much, in bytes of the log.
    pub bytes: u64,
    /// How long ago the oldest of it was written, in milliseconds.
    pub ms: u64,
}

/// A damaged place in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// Where.
    pub lsn: Lsn,
    /// What is wrong.
    pub detail: String,
}
