//! The table of role changes: {from, cause, to, reason in words}. The log line, the history entry and
//! the diagram in the documents all come from here; a change that is not in the table stops the agent.

use holdfast_heartbeat::{Epoch, NodeId, Role};
use serde::{Deserialize, Serialize};

/// Why a role changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// No primary was heard for the detection time.
    PrimarySilent,
    /// The primary's supervisor said that the agent died.
    PrimaryDied,
    /// The primary resigned in favour of this member, or of nobody in particular.
    PrimaryResigned,
    /// The first start of a new cluster.
    Bootstrap,
    /// The cluster has no primary and this member may be it.
    NoPrimary,
    /// An operator ordered it.
    OperatorOrder,
    /// An operator ordered it and accepted that acknowledged data may be lost.
    OperatorForced,
    /// A majority voted for this member.
    VotesWon,
    /// Every step of taking over is done.
    StepsDone,
    /// Another member is primary.
    OtherPrimary,
    /// Not enough votes in time.
    VotesMissing,
    /// No majority acknowledged a heartbeat for a whole lease.
    LeaseLapsed,
    /// This member stood still for so long that its lease ran out.
    StoodStill,
    /// A member promised a later epoch.
    Superseded,
    /// The role goes to a preferred member.
    Failback,
    /// The role was handed over.
    HandedOver,
    /// The successor did not get ready in time.
    HandoverFailed,
    /// The own log cannot be written or synced.
    DiskFailed,
    /// The own disk does not take writes in time.
    DiskStalled,
    /// The own links are down.
    LinksFailed,
    /// Late with heartbeats again and again, and a healthier member is in sync.
    Late,
    /// Checks fail here, and a healthier member is in sync.
    ChecksFailed,
    /// The process is ending.
    Terminating,
    /// A step of taking over failed.
    PromotionFailed,
    /// Gave its vote to another candidate.
    VotedForAnother,
    /// Automatic changes of primary are suspended in the cluster.
    Paused,
    /// An operator takes this member out for maintenance.
    Drained,
    /// The kernel's gate is gone and cannot be put back.
    GateLost,
    /// A pre-hook vetoed, or a service did not start.
    NotPrepared,
    /// The former primary could not be confirmed to be off.
    NotFenced,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The role before.
    pub from: Role,
    /// Why.
    pub cause: Cause,
    /// The role after.
    pub to: Role,
    /// For people.
    pub reason: &'static str,
}

const fn row(from: Role, cause: Cause, to: Role, reason: &'static str) -> Row {
    Row { from, cause, to, reason }
}

use Cause as C;
use Role as R;

/// Every change of role that exists.
pub const TABLE: &[Row] = &[
    row(
        R::Standby,
        C::PrimarySilent,
        R::Candidate,
        "the primary was silent on every path for the detection time; asking for votes",
    ),
    row(
        R::Standby,
        C::PrimaryDied,
        R::Candidate,
        "the primary's supervisor reported that its agent died; asking for votes at once",
    ),
    row(R::Standby, C::PrimaryResigned, R::Candidate, "the primary resigned; asking for votes at once"),
    row(
        R::Standby,
        C::Bootstrap,
        R::Candidate,
        "every data member of this new cluster is present and empty; standing as its first primary",
    ),
    row(
        R::Standby,
        C::NoPrimary,
        R::Candidate,
        "the cluster has no primary and this member holds every acknowledged byte; asking for votes",
    ),
    row(R::Standby, C::OperatorOrder, R::Candidate, "an operator ordered this member to take over"),
    row(
        R::Standby,
        C::OperatorForced,
        R::Candidate,
        "an operator ordered this member to take over and accepted that acknowledged data may be lost",
    ),
    row(R::Candidate, C::VotesWon, R::Promoting, "a quorum voted for this member; taking over"),
    row(R::Candidate, C::OtherPrimary, R::Standby, "another member is primary"),
    row(
        R::Candidate,
        C::VotesMissing,
        R::Standby,
        "not enough members voted for this member in time; it will ask again",
    ),
    row(R::Candidate, C::VotedForAnother, R::Standby, "this member voted for another candidate"),
    row(
        R::Candidate,
        C::Paused,
        R::Standby,
        "automatic changes of primary are paused in this cluster; not standing without an operator's order",
    ),
    row(
        R::Candidate,
        C::StoodStill,
        R::Standby,
        "this host stood still while it asked for votes; those that it got are of no use any more",
    ),
    row(R::Candidate, C::Drained, R::Standby, "an operator takes this member out for maintenance"),
    row(R::Candidate, C::LinksFailed, R::Standby, "this host's own links are down"),
    row(R::Candidate, C::GateLost, R::Standby, "the kernel's gate on this host is lost"),
    row(R::Candidate, C::DiskFailed, R::Standby, "this member's log cannot be written"),
    row(R::Candidate, C::DiskStalled, R::Standby, "this member's disk does not take writes in time"),
    row(R::Candidate, C::Terminating, R::Standby, "the agent is shutting down"),
    row(
        R::Promoting,
        C::StepsDone,
        R::Primary,
        "the lease is held, the log is complete, no conflict was found, the virtual address is here; serving",
    ),
    row(R::Promoting, C::LeaseLapsed, R::Standby, "no quorum stood behind the lease while taking over"),
    row(
        R::Promoting,
        C::StoodStill,
        R::Standby,
        "this host stood still while taking over, and the lease ran out",
    ),
    row(
        R::Promoting,
        C::Superseded,
        R::Standby,
        "a member promised a later epoch while this one was taking over",
    ),
    row(R::Promoting, C::OtherPrimary, R::Standby, "another member is primary in a later epoch"),
    row(R::Promoting, C::PromotionFailed, R::Standby, "a step of taking over failed"),
    row(
        R::Promoting,
        C::NotPrepared,
        R::Standby,
        "a pre-hook vetoed the takeover, or a service did not start; leaving the role to another member",
    ),
    row(
        R::Promoting,
        C::NotFenced,
        R::Standby,
        "the former primary could not be confirmed to be off; leaving the role to another member",
    ),
    row(R::Promoting, C::DiskFailed, R::Standby, "this member's log failed while taking over"),
    row(
        R::Promoting,
        C::DiskStalled,
        R::Standby,
        "this member's disk does not take writes in time; not taking over",
    ),
    row(R::Promoting, C::LinksFailed, R::Standby, "this host's own links failed while taking over"),
    row(R::Promoting, C::GateLost, R::Standby, "the kernel's gate was lost while taking over"),
    row(R::Promoting, C::Terminating, R::Standby, "the agent is shutting down"),
    row(
        R::Primary,
        C::LeaseLapsed,
        R::Standby,
        "no quorum acknowledged a heartbeat for a whole lease; stopped serving so that no second primary can be met",
    ),
    row(
        R::Primary,
        C::StoodStill,
        R::Standby,
        "this host stood still (stopped, frozen, or starved of processor time) until its lease ran out; it serves nothing before it is elected again",
    ),
    row(R::Primary, C::Superseded, R::Standby, "a member promised a later epoch; this reign is over"),
    row(R::Primary, C::OtherPrimary, R::Standby, "another member is primary in a later epoch"),
    row(R::Primary, C::OperatorOrder, R::HandingOver, "an operator ordered a switchover"),
    row(
        R::Primary,
        C::Drained,
        R::HandingOver,
        "an operator takes this member out for maintenance; handing over first",
    ),
    row(
        R::Primary,
        C::Failback,
        R::HandingOver,
        "a more preferred member is in sync and takes the role back",
    ),
    row(
        R::Primary,
        C::DiskFailed,
        R::HandingOver,
        "this member's log cannot be written; handing over to a member whose log can",
    ),
    row(
        R::Primary,
        C::DiskFailed,
        R::Standby,
        "this member's log cannot be written and nobody can take over",
    ),
    row(
        R::Primary,
        C::DiskStalled,
        R::HandingOver,
        "this member's disk does not take writes in time; handing over to a member whose disk does",
    ),
    row(
        R::Primary,
        C::Late,
        R::HandingOver,
        "this member was late with its heartbeats again and again; handing over to one that is on time",
    ),
    row(
        R::Primary,
        C::ChecksFailed,
        R::HandingOver,
        "checks fail on this member; handing over to a healthier one that is in sync",
    ),
    row(
        R::Primary,
        C::LinksFailed,
        R::HandingOver,
        "this host's own links are down; handing over to a member that can be reached",
    ),
    row(R::Primary, C::LinksFailed, R::Standby, "this host's own links are down"),
    row(
        R::Primary,
        C::GateLost,
        R::HandingOver,
        "the kernel's gate is lost and would not end this lease; handing over to a member that has one",
    ),
    row(
        R::Primary,
        C::GateLost,
        R::Standby,
        "the kernel's gate that the configuration names is lost, and nobody can take over",
    ),
    row(R::Primary, C::Terminating, R::HandingOver, "the agent is shutting down; handing over"),
    row(R::Primary, C::Terminating, R::Standby, "the agent is shutting down and nobody can take over"),
    row(
        R::HandingOver,
        C::HandedOver,
        R::Standby,
        "the successor holds every byte, the address is released; resigned in its favour",
    ),
    row(
        R::HandingOver,
        C::HandoverFailed,
        R::Primary,
        "the successor did not get ready in time; the switchover is called off and this member serves on",
    ),
    row(
        R::HandingOver,
        C::HandoverFailed,
        R::Standby,
        "the address could not be released in time during the switchover; the others go on when the lease is over",
    ),
    row(
        R::HandingOver,
        C::LeaseLapsed,
        R::Standby,
        "no quorum acknowledged a heartbeat for a whole lease during the switchover",
    ),
    row(
        R::HandingOver,
        C::StoodStill,
        R::Standby,
        "this host stood still during the switchover, and the lease ran out",
    ),
    row(R::HandingOver, C::Superseded, R::Standby, "a member promised a later epoch during the switchover"),
    row(R::HandingOver, C::OtherPrimary, R::Standby, "another member is primary in a later epoch"),
    row(R::HandingOver, C::DiskFailed, R::Standby, "this member's log failed during the switchover"),
    row(
        R::HandingOver,
        C::DiskStalled,
        R::Standby,
        "this member's disk takes no write while it hands over; the others go on at once",
    ),
    row(R::HandingOver, C::LinksFailed, R::Standby, "this host's own links failed during the switchover"),
    row(
        R::HandingOver,
        C::Terminating,
        R::Standby,
        "the agent is shutting down and the successor did not get ready in time",
    ),
];

/// The row for a change, if there is one.
pub fn find(from: Role, cause: Cause, to: Role) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.from == from && row.cause == cause && row.to == to)
}

/// A change of role that took place.
#[derive(Clone, Debug, Serialize)]
pub struct Transition {
    /// The role before.
    pub from: Role,
    /// The role after.
    pub to: Role,
    /// Why, as a stable word.
    pub cause: Cause,
    /// Why, for people.
    pub reason: String,
    /// The epoch that the change belongs to.
    pub epoch: Epoch,
    /// The other member concerned, where there is one.
    pub peer: Option<NodeId>,
}

/// The diagram of the table, in Mermaid's state notation, for the documents.
pub fn diagram() -> String {
    let mut text = String::from("stateDiagram-v2\n");
    for row in TABLE {
        let name = |role: Role| format!("{role:?}");
        text.push_str(&format!("    {} --> {}: {:?}\n", name(row.from), name(row.to), row.cause));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_change_stands_in_the_table_twice() {
        for (i, a) in TABLE.iter().enumerate() {
            for b in &TABLE[i + 1..] {
                assert!((a.from, a.cause, a.to) != (b.from, b.cause, b.to), "{a:?}");
            }
        }
    }

    #[test]
    fn every_role_that_serves_can_lose_its_lease() {
        for role in [R::Promoting, R::Primary, R::HandingOver] {
            assert!(find(role, C::LeaseLapsed, R::Standby).is_some());
            assert!(find(role, C::StoodStill, R::Standby).is_some());
            assert!(find(role, C::OtherPrimary, R::Standby).is_some());
        }
    }

    #[test]
    fn nobody_becomes_primary_but_through_promotion() {
        for row in TABLE.iter().filter(|row| row.to == R::Primary) {
            assert!(matches!(row.from, R::Promoting | R::HandingOver), "{row:?}");
        }
        for row in TABLE.iter().filter(|row| row.to == R::Promoting) {
            assert_eq!((row.from, row.cause), (R::Candidate, C::VotesWon));
        }
    }
}
