//! What a node is told once, at its start. What an order or a reload changes of it holds until the next.

use std::time::Duration;

use holdfast_heartbeat::{BootNonce, Member, MemberKind, NodeId, planted};
use serde::{Deserialize, Serialize};

/// The node's fixed knowledge of itself and its cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// Who this is.
    pub me: Member,
    /// Data member or witness.
    pub kind: MemberKind,
    /// This life of the process.
    pub boot: BootNonce,
    /// Lower is more preferred; an order may set another one.
    pub priority: u32,
    /// `mode = "primary"`: stands first in a new cluster.
    pub prefers_primary: bool,
    /// The other voters, in the order of the configuration.
    pub peers: Vec<PeerSettings>,
    /// How the operator calls the heartbeat paths, in the order of the configuration; for messages.
    pub path_names: Vec<String>,
    /// Durations.
    pub timers: Timers,
    /// What two data members without a witness do after a loss.
    pub two_node: TwoNode,
    /// Whether and when this member takes the role back.
    pub failback: Failback,
    /// `ha.enabled`: takes the role by itself; otherwise only on an operator's order.
    pub automatic: bool,
    /// Whether writes are acknowledged before the standby has them (`ack = "local"`): it leaves the in-sync set when what
    /// it lacks is too old, however fast it takes the rest.
    #[serde(default)]
    pub answers_alone: bool,
    /// Whether the VIP must be probed before it is claimed.
    pub probe_vip: bool,
    /// What hooks and services may take; `None` where there are none, and the steps with them.
    pub attendance: Option<Attendance>,
    /// What can be switched off from here; `None` where there are no devices, and the steps with them.
    #[serde(default)]
    pub fencing: Option<Fencing>,
    /// The newest version of the heartbeat that this member speaks; the newest that there is, but where an older
    /// release is played.
    pub speaks: u8,
}

/// The fence devices of this member, as far as the core must know them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fencing {
    /// Whom they can switch off; never this member.
    pub targets: Vec<NodeId>,
    /// The longest that one order may take, with every level, every try and the looks whether it worked.
    pub limit: Duration,
    /// A takeover waits until the former primary is confirmed to be off; otherwise it goes on after one failed order.
    pub required: bool,
    /// How long the standby of a pair waits before it shoots, so that its primary shoots first.
    pub head_start: Duration,
}

/// The limits of what is started and stopped with the role.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Attendance {
    /// All pre-hooks and all starts of services together.
    pub prepare: Duration,
    /// All stops of services and all hooks before the address goes together.
    pub retire: Duration,
    /// A pre-hook may veto: without its word there is no takeover.
    pub may_veto: bool,
}

/// One other member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerSettings {
    /// How the operator wrote it; used in messages until its name is known.
    pub label: String,
    /// Data member or witness.
    pub kind: MemberKind,
    /// Over how many paths it is reached; none: it was taken out of the configuration while the agent ran.
    pub paths: usize,
    /// Came into the configuration while the agent ran: it has no vote before a record gives it one.
    #[serde(default)]
    pub added: bool,
}

/// The node's durations. See `holdfast config check` for their derivation.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Timers {
    /// Between heartbeats.
    pub interval: Duration,
    /// Silence after which a peer counts as silent.
    pub detect: Duration,
    /// How long a lease lasts from the sending of the heartbeat that a majority acknowledged.
    pub lease: Duration,
    /// What a voter adds to a lease for the drift between two clocks' rates.
    pub drift_margin: Duration,
    /// How long the kernel may hold the address beyond the lease, with the gate in use (rule R6).
    pub gate_excess: Duration,
    /// Window of the conflict probe when the former holder may still be there.
    pub probe_window: Duration,
    /// Window of the conflict probe when the former holder said that it has let go.
    pub handover_probe_window: Duration,
    /// How long a standby may hold back writes before it is dropped from the in-sync set.
    pub standby_timeout: Duration,
    /// How long requests in flight may take to finish in a planned switchover.
    pub drain: Duration,
    /// How long a planned switchover may take before it is called off.
    pub handover: Duration,
}

impl Timers {
    /// What this member states as its lease: how long after a heartbeat's sending its address may still
    /// answer, with the gate that it uses.
    pub fn stated_lease(&self) -> Duration {
        self.lease + self.gate_excess
    }

    /// How long a voter waits, after it renewed the lease of a holder that stated `lease`, or after its
    /// own start, before it helps another.
    pub fn voter_wait(&self, lease: Duration) -> Duration {
        // The margin is for the drift during the longer of the two leases.
        let longest = self.lease.max(lease);
        if planted::is("drift-margin-left-out") {
            return longest;
        }
        longest + self.drift_margin.max(longest / 100 + Duration::from_millis(1))
    }

    /// How soon a refused candidate asks again: often enough not to be seen in an outage.
    pub fn retry(&self) -> Duration {
        (self.interval / 20).max(Duration::from_millis(1))
    }

    /// How long a member of the previous in-sync set may take to follow a new primary before the
    /// promotion goes on without it.
    pub fn promotion_patience(&self) -> Duration {
        (self.interval / 2).max(Duration::from_millis(40))
    }
}

/// Policy of two data members without a witness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TwoNode {
    /// Take over when every path is silent, own links are good and the VIP does not answer.
    Probe,
    /// Take over when a device confirmed that the other half is off.
    Fence,
    /// Only an operator decides.
    Manual,
}

/// How the role comes back to a preferred member.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Failback {
    /// Whether this member asks for the role by itself.
    pub automatic: bool,
    /// Whether `ha failback` may be used at all.
    pub allowed: bool,
    /// How long this member must have been in the in-sync set first.
    pub delay: Duration,
    /// At most one automatic failback in this time.
    pub window: Duration,
}
