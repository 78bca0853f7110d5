//! Version 1 of the payload: what is said to peers of whom nobody knows yet that they speak a later one.
//!
//! It is as version 2, but for the voting set in a record and a way to refuse a vote. Those follow behind the message
//! ([`Supplement`]): a release that speaks no later version ignores what is there, and any other one must know the whole
//! of a record, however it comes, or it would take it for one that says less.

use serde::{Deserialize, Serialize};

use crate::inquiry::{Inquiry, Testimony};
use crate::message::{
    Ballot, BootNonce, Echo, Heartbeat, MemberState, Message, Notice, PathReport, Refusal, Resignation, Role,
    Sight, Suspension, Vote, Wish,
};
use crate::packet::SAYS_WHO_VOTES;
use crate::types::{Epoch, InSyncRecord, Lsn, Member, MemberKind, NodeId, Time};

/// What follows behind the message for those who know it.
#[derive(Serialize, Deserialize)]
struct Supplement {
    voters: Option<Vec<NodeId>>,
    refusal: Option<Refusal>,
}

/// Writes the payload; its length in bytes.
pub(crate) fn encode(message: &Message, room: &mut [u8]) -> postcard::Result<usize> {
    let length = postcard::to_slice(&MessageV1::from(message), room)?.len();
    let Message::Heartbeat(heartbeat) = message else { return Ok(length) };
    if heartbeat.speaks < SAYS_WHO_VOTES {
        return Ok(length);
    }
    let state = &heartbeat.state;
    let supplement = Supplement {
        voters: state.record.as_ref().and_then(|record| record.voters.clone()),
        refusal: state.vote.and_then(|vote| vote.refusal),
    };
    Ok(length + postcard::to_slice(&supplement, &mut room[length..])?.len())
}

/// The message, if that is what the payload begins with. `speaks` stood in the packet's header; `newest` is what the
/// reader knows.
pub(crate) fn decode(payload: &[u8], speaks: u8, newest: u8) -> Option<Message> {
    let (message, rest) = postcard::take_from_bytes::<MessageV1>(payload).ok()?;
    let mut message = message.into_message(speaks);
    let Message::Heartbeat(heartbeat) = &mut message else { return rest.is_empty().then_some(message) };
    if speaks.min(newest) >= SAYS_WHO_VOTES {
        // A later release may have more to say behind it.
        let (supplement, _) = postcard::take_from_bytes::<Supplement>(rest).ok()?;
        if let Some(record) = &mut heartbeat.state.record {
            record.voters = supplement.voters;
        }
        if let Some(vote) = &mut heartbeat.state.vote {
            vote.refusal = supplement.refusal;
        }
    }
    Some(message)
}

#[derive(Serialize, Deserialize)]
enum MessageV1 {
    Heartbeat(Box<HeartbeatV1>),
    Notice(Notice),
    Inquiry(Inquiry),
    Testimony(Box<Testimony>),
}

#[derive(Serialize, Deserialize)]
struct HeartbeatV1 {
    from: Member,
    kind: MemberKind,
    boot: BootNonce,
    seq: u64,
    sent_at: Time,
    path: u8,
    echo: Option<Echo>,
    reply_wanted: bool,
    paths: Vec<PathReport>,
    state: StateV1,
}

#[derive(Serialize, Deserialize)]
struct StateV1 {
    role: Role,
    epoch: Epoch,
    priority: u32,
    prefers_primary: bool,
    lease_ns: u64,
    grants: Option<Epoch>,
    follows: Option<(Epoch, NodeId)>,
    ballot: Option<Ballot>,
    vote: Option<Vote>,
    record: Option<RecordV1>,
    resigned: Option<Resignation>,
    durable: Lsn,
    last_epoch: Epoch,
    pristine: bool,
    electable: bool,
    wants_primary: Option<Wish>,
    leaving: bool,
    drained: bool,
    suspension: Suspension,
    going_on_alone: bool,
    penalty: u32,
    disk_stalled: bool,
    hears: Vec<Sight>,
}

#[derive(Serialize, Deserialize)]
struct RecordV1 {
    epoch: Epoch,
    version: u64,
    members: Vec<Member>,
}

impl From<&Message> for MessageV1 {
    fn from(message: &Message) -> MessageV1 {
        match message {
            Message::Heartbeat(heartbeat) => MessageV1::Heartbeat(Box::new(heartbeat.as_ref().into())),
            Message::Notice(notice) => MessageV1::Notice(notice.clone()),
            Message::Inquiry(inquiry) => MessageV1::Inquiry(inquiry.clone()),
            Message::Testimony(testimony) => MessageV1::Testimony(testimony.clone()),
        }
    }
}

impl From<&Heartbeat> for HeartbeatV1 {
    fn from(heartbeat: &Heartbeat) -> HeartbeatV1 {
        let Heartbeat { from, kind, boot, seq, sent_at, path, echo, reply_wanted, paths, speaks: _, state } =
            heartbeat;
        HeartbeatV1 {
            from: from.clone(),
            kind: *kind,
            boot: *boot,
            seq: *seq,
            sent_at: *sent_at,
            path: *path,
            echo: *echo,
            reply_wanted: *reply_wanted,
            paths: paths.clone(),
            state: state.into(),
        }
    }
}

impl From<&MemberState> for StateV1 {
    fn from(state: &MemberState) -> StateV1 {
        let record = state.record.as_ref().map(|record| {
            let InSyncRecord { epoch, version, members, voters: _ } = record;
            RecordV1 { epoch: *epoch, version: *version, members: members.clone() }
        });
        StateV1 {
            role: state.role,
            epoch: state.epoch,
            priority: state.priority,
            prefers_primary: state.prefers_primary,
            lease_ns: state.lease_ns,
            grants: state.grants,
            follows: state.follows.clone(),
            ballot: state.ballot,
            vote: state.vote.map(known_vote),
            record,
            resigned: state.resigned.clone(),
            durable: state.durable,
            last_epoch: state.last_epoch,
            pristine: state.pristine,
            electable: state.electable,
            wants_primary: state.wants_primary,
            leaving: state.leaving,
            drained: state.drained,
            suspension: state.suspension.clone(),
            going_on_alone: state.going_on_alone,
            penalty: state.penalty,
            disk_stalled: state.disk_stalled,
            hears: state.hears.clone(),
        }
    }
}

/// A refusal in words that version 1 has.
fn known_vote(vote: Vote) -> Vote {
    let refusal = vote.refusal.map(|refusal| match refusal {
        Refusal::NotAVoter => Refusal::NotInSync,
        known => known,
    });
    Vote { refusal, ..vote }
}

impl MessageV1 {
    /// The message as this build knows it; `speaks` stood in the packet's header.
    fn into_message(self, speaks: u8) -> Message {
        match self {
            MessageV1::Heartbeat(heartbeat) => Message::Heartbeat(Box::new(heartbeat.into_heartbeat(speaks))),
            MessageV1::Notice(notice) => Message::Notice(notice),
            MessageV1::Inquiry(inquiry) => Message::Inquiry(inquiry),
            MessageV1::Testimony(testimony) => Message::Testimony(testimony),
        }
    }
}

impl HeartbeatV1 {
    fn into_heartbeat(self, speaks: u8) -> Heartbeat {
        let HeartbeatV1 { from, kind, boot, seq, sent_at, path, echo, reply_wanted, paths, state } = self;
        let state = state.into_state();
        Heartbeat { from, kind, boot, seq, sent_at, path, echo, reply_wanted, paths, speaks, state }
    }
}

impl StateV1 {
    fn into_state(self) -> MemberState {
        let record = self.record.map(|record| {
            let RecordV1 { epoch, version, members } = record;
            InSyncRecord { epoch, version, members, voters: None }
        });
        MemberState {
            role: self.role,
            epoch: self.epoch,
            priority: self.priority,
            prefers_primary: self.prefers_primary,
            lease_ns: self.lease_ns,
            grants: self.grants,
            follows: self.follows,
            ballot: self.ballot,
            vote: self.vote,
            record,
            resigned: self.resigned,
            durable: self.durable,
            last_epoch: self.last_epoch,
            pristine: self.pristine,
            electable: self.electable,
            wants_primary: self.wants_primary,
            leaving: self.leaving,
            drained: self.drained,
            suspension: self.suspension,
            going_on_alone: self.going_on_alone,
            penalty: self.penalty,
            disk_stalled: self.disk_stalled,
            hears: self.hears,
        }
    }
}
