//! What a member must not forget: its promise, its vote, and the in-sync set.

use std::time::Duration;

use holdfast_heartbeat::{Epoch, InSyncRecord, Member, NodeId, Suspension, planted};
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
}

impl HardState {
    /// The wait after a restart, given the configured one.
    pub fn restart_wait(&self, configured: Duration) -> Duration {
        if planted::is("longer-lease-forgotten") {
            return configured;
        }
        configured.max(Duration::from_nanos(self.lease_ns))
    }
}
