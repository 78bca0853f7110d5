//! Protocols that are wrong on purpose. The check is worth something only because it finds each of them.

use super::properties::{INSIDE_THE_SET, KEEPS_ANSWERED, ONE_LEASE, ONE_PRIMARY, SERVES_ANSWERED};
use super::sizes::{LEASE, PAIR, SET, SET_CRASH, Size, VOTES};

/// One rule left out or turned round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mutation {
    /// A vote leaves before it is on the disk (R1).
    VoteBeforeDurable,
    /// A candidate counts its own vote before that is on its disk (R1).
    OwnVoteBeforeDurable,
    /// A voter helps a second candidate in the same epoch (R1).
    TwoVotesInAnEpoch,
    /// The halves of a pair may win the same number alone (R1).
    PairWithoutParity,
    /// The holder counts its lease from when the renewal came back, not from when it asked (R4).
    LeaseFromAnswer,
    /// A voter waits for the lease alone, one tick short of the margin for drifting clocks (R4).
    MarginTooShort,
    /// A voter votes at once after a restart, though it forgot whose lease it renewed (R4).
    NoWaitAfterRestart,
    /// A renewed lease keeps no voter from helping another candidate (R4).
    RenewalBlocksNobody,
    /// The former primary says that it let go while its gate is still open (R7).
    ResignsBeforeGateShuts,
    /// News of the death of an earlier life ends the lease of the present one (R4).
    NoticeOfAnEarlierLife,
    /// The log stops waiting for who is lost before a quorum has the record (R3).
    ShrinkBeforeRecord,
    /// The newcomer is recorded before the log waits for it (R3).
    GrowBeforeWaiting,
    /// The newcomer is recorded before it holds what was acknowledged without it (R3).
    AdmitBeforeCaughtUp,
    /// A record takes effect without a quorum (R3).
    RecordWithoutQuorum,
    /// A voter assents to a record that is not on its disk yet (R3).
    AssentBeforeDurable,
    /// A voter that promised a later epoch still takes a record of an earlier one, and is counted (R3).
    PromisedVoterAssents,
    /// A voter helps whoever asks, in the in-sync set or not (R3).
    VoteIgnoresRecord,
    /// A member stands, and is helped, on the record that it has itself, however old (R3).
    VoteOnTheCandidatesRecord,
    /// A write is answered when this disk has it (R2).
    AnswerWithoutStandby,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Mutation; 19] = [
        Mutation::VoteBeforeDurable,
        Mutation::OwnVoteBeforeDurable,
        Mutation::TwoVotesInAnEpoch,
        Mutation::PairWithoutParity,
        Mutation::LeaseFromAnswer,
        Mutation::MarginTooShort,
        Mutation::NoWaitAfterRestart,
        Mutation::RenewalBlocksNobody,
        Mutation::ResignsBeforeGateShuts,
        Mutation::NoticeOfAnEarlierLife,
        Mutation::ShrinkBeforeRecord,
        Mutation::GrowBeforeWaiting,
        Mutation::AdmitBeforeCaughtUp,
        Mutation::RecordWithoutQuorum,
        Mutation::AssentBeforeDurable,
        Mutation::PromisedVoterAssents,
        Mutation::VoteIgnoresRecord,
        Mutation::VoteOnTheCandidatesRecord,
        Mutation::AnswerWithoutStandby,
    ];

    /// The smallest of the checked sizes at which it shows.
    pub fn size(self) -> Size {
        match self {
            Mutation::VoteBeforeDurable | Mutation::OwnVoteBeforeDurable | Mutation::TwoVotesInAnEpoch => {
                VOTES
            }
            Mutation::PairWithoutParity => PAIR,
            Mutation::LeaseFromAnswer
            | Mutation::MarginTooShort
            | Mutation::NoWaitAfterRestart
            | Mutation::RenewalBlocksNobody
            | Mutation::ResignsBeforeGateShuts
            | Mutation::NoticeOfAnEarlierLife => LEASE,
            Mutation::ShrinkBeforeRecord
            | Mutation::GrowBeforeWaiting
            | Mutation::AdmitBeforeCaughtUp
            | Mutation::RecordWithoutQuorum
            | Mutation::PromisedVoterAssents
            | Mutation::VoteIgnoresRecord
            | Mutation::VoteOnTheCandidatesRecord
            | Mutation::AnswerWithoutStandby => SET,
            // A promise that is not on the disk yet is only ever lost in a crash.
            Mutation::AssentBeforeDurable => SET_CRASH,
        }
    }

    /// The properties that it breaks; the shortest way leads to one of them.
    pub fn breaks(self) -> &'static [&'static str] {
        match self.size().name {
            name if name == VOTES.name || name == PAIR.name => &[ONE_PRIMARY],
            name if name == LEASE.name => &[ONE_LEASE],
            _ => &[KEEPS_ANSWERED, SERVES_ANSWERED, INSIDE_THE_SET],
        }
    }
}
