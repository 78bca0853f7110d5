//! Heartbeats for the tests: a plain one, and the largest that a member can send.

// Each test binary uses only a part of this.
#![allow(dead_code)]

use holdfast_heartbeat::packet::NEWEST;
use holdfast_heartbeat::*;

/// A name, 63 characters long.
pub(crate) fn long_name(at: usize) -> NodeId {
    NodeId::new(format!("{at:_>63}")).unwrap()
}

/// A member of that name.
pub(crate) fn member(name: &str) -> Member {
    Member { id: NodeId::new(name).unwrap(), incarnation: Incarnation(7) }
}

/// An echo of a packet of the life `boot`, sent at `sent_at`.
pub(crate) fn echo(boot: u64, sent_at: Time) -> Echo {
    Echo { boot: BootNonce(boot), seq: 1, sent_at, path: 0 }
}

/// A standby's plain heartbeat.
pub(crate) fn plain() -> Heartbeat {
    Heartbeat {
        from: member("b"),
        kind: MemberKind::Data,
        boot: BootNonce(20),
        seq: 1,
        sent_at: Time(5),
        path: 0,
        echo: None,
        reply_wanted: false,
        paths: Vec::new(),
        speaks: NEWEST,
        state: MemberState {
            role: Role::Standby,
            epoch: Epoch(3),
            priority: 100,
            prefers_primary: false,
            lease_ns: 300_000_000,
            grants: None,
            follows: None,
            ballot: None,
            vote: None,
            record: None,
            resigned: None,
            durable: Lsn(0),
            last_epoch: Epoch(0),
            pristine: false,
            electable: true,
            wants_primary: None,
            leaving: false,
            drained: false,
            suspension: Suspension::default(),
            going_on_alone: false,
            penalty: 0,
            disk_stalled: false,
            hears: Vec::new(),
        },
    }
}

/// The heartbeat with every option set and every number as long as it gets, and `members` of the
/// longest names in its record.
pub(crate) fn largest(members: usize) -> Heartbeat {
    let long_member = |at| Member { id: long_name(at), incarnation: Incarnation(u64::MAX) };
    Heartbeat {
        from: long_member(0),
        kind: MemberKind::Witness,
        boot: BootNonce(u64::MAX),
        seq: u64::MAX,
        sent_at: Time::NEVER,
        path: u8::MAX,
        echo: Some(Echo { boot: BootNonce(u64::MAX), seq: u64::MAX, sent_at: Time::NEVER, path: u8::MAX }),
        reply_wanted: true,
        paths: vec![PathReport { sent: u32::MAX, received: u32::MAX }; MAX_PATHS],
        speaks: u8::MAX,
        state: MemberState {
            role: Role::Witness,
            epoch: MAX_EPOCH,
            priority: u32::MAX,
            prefers_primary: true,
            lease_ns: u64::MAX,
            grants: Some(MAX_EPOCH),
            follows: Some((MAX_EPOCH, long_name(1))),
            ballot: Some(Ballot { round: u64::MAX, epoch: MAX_EPOCH, pre: true, forced: true }),
            vote: Some(Vote {
                round: u64::MAX,
                epoch: MAX_EPOCH,
                pre: true,
                refusal: Some(Refusal::NotAVoter),
            }),
            record: Some(InSyncRecord {
                epoch: MAX_EPOCH,
                version: u64::MAX,
                members: (0..members).map(long_member).collect(),
                voters: None,
            }),
            resigned: Some(Resignation { epoch: MAX_EPOCH, successor: Some(long_name(2)) }),
            durable: Lsn(u64::MAX),
            last_epoch: MAX_EPOCH,
            pristine: true,
            electable: true,
            wants_primary: Some(Wish::Operator),
            leaving: true,
            drained: true,
            suspension: Suspension {
                version: MAX_SUSPENSION,
                paused: true,
                by: Some(long_name(3)),
                since_unix_ms: u64::MAX,
            },
            going_on_alone: true,
            penalty: MAX_PENALTY,
            disk_stalled: true,
            hears: vec![Sight { member: Incarnation(u64::MAX), paths: u8::MAX }; MAX_SIGHTS],
        },
    }
}
