//! What a member must not forget: its promise, its vote, and the in-sync set.

use std::time::Duration;

use holdfast_heartbeat::{
    Epoch, InSyncRecord, MAX_EPOCH, MAX_SUSPENSION, Member, NodeId, Suspension, planted,
};
use serde::{Deserialize, Serialize};

/// Durable before anything that follows from it leaves the host (rules R1 and R3).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HardState {
    /// The highest epoch that this member promised.
    pub epoch: Epoch,
    /// To whom.
    pub voted_for: Option<Member>,
    /// The newest in-sync record that this member has.
    pub record: Option<InSyncRecord>,
    /// The longest lease that this member ever granted, in nanoseconds: after a restart it waits for
    /// as long before it votes, even if its own configuration has become shorter.
    pub lease_ns: u64,
    /// The newest order about automatic changes of primary that this member has heard of.
    #[serde(default)]
    pub suspension: Suspension,
    /// Taken out for maintenance, until an operator says otherwise.
    #[serde(default)]
    pub drained: bool,
    /// Who was primary before and has not let go, as far as this member knows: to be confirmed off before it takes
    /// over. Empty where nothing can be switched off from here.
    #[serde(default)]
    pub owed: Vec<NodeId>,
    /// Epoch and version of the newest in-sync record of this member alone that has taken effect. A half of a pair
    /// with fencing trusts no other one after a start: what was only written down may have been overtaken.
    #[serde(default)]
    pub alone_since: Option<(Epoch, u64)>,
    /// Epoch and version of the newest record with another voting set that was proposed here and has not taken effect,
    /// as far as this member knows: of two members that are left, each still needs the other.
    #[serde(default)]
    pub voters_proposed: Option<(Epoch, u64)>,
}

impl HardState {
    /// What in it no election, order or heartbeat could go on from, if anything: the bounds that
    /// [`holdfast_heartbeat::packet`] holds peers to. It was never written by a member that keeps them.
    pub fn beyond_bounds(&self) -> Option<&'static str> {
        if self.epoch > MAX_EPOCH {
            return Some("epoch");
        }
        if self.record.as_ref().is_some_and(|record| !record.within_bounds()) {
            return Some("in-sync record");
        }
        (self.suspension.version > MAX_SUSPENSION).then_some("count of pauses")
    }

    /// Whether this member voted in the election with which the cluster began: whatever it knows of records since is
    /// here, for a disk that was lost takes the vote along. Nobody asks for the first epoch but who sees every data
    /// member present and empty.
    pub fn saw_the_beginning(&self) -> bool {
        self.epoch == Epoch::ZERO.next() && self.voted_for.is_some()
    }

    /// The wait after a restart, given the configured one.
    pub fn restart_wait(&self, configured: Duration) -> Duration {
        if planted::is("longer-lease-forgotten") {
            return configured;
        }
        configured.max(Duration::from_nanos(self.lease_ns))
    }
}
