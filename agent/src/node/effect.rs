//! What a node wants done. Effects carry no order among each other: whatever must come later waits
//! for the event that says that the earlier one is done.

use std::time::Duration;

use holdfast_heartbeat::{Epoch, Heartbeat, Member, NodeId, Time};
use serde::Serialize;

use super::event::Answer;
use super::hard_state::HardState;
use super::transition::Transition;

/// An order to the runtime.
#[derive(Clone, Debug, Serialize)]
pub enum Effect {
    /// Sign and send a heartbeat.
    Send {
        /// Index into the settings' peers.
        peer: usize,
        /// By which path.
        path: usize,
        /// In which version of the packet.
        version: u8,
        /// What to say.
        heartbeat: Box<Heartbeat>,
    },
    /// Make the hard state durable, then say `Persisted`. A later token includes the earlier ones.
    Persist {
        /// Counts up.
        token: u64,
        /// What to write.
        state: HardState,
    },
    /// The lease reaches to `until`: move the gate's deadline, refresh the addresses' lifetime.
    ExtendLease {
        /// The reign.
        epoch: Epoch,
        /// On this host's CLOCK_BOOTTIME.
        until: Time,
    },
    /// Shut the gate; nothing may be answered from this moment.
    EndLease,
    /// Ask the network whether anybody has the VIP; answered by `ProbeFinished`.
    ProbeVip {
        /// Names the probe.
        round: u64,
        /// How long to listen.
        window: Duration,
    },
    /// Put every VIP on its interface and announce it; answered by `VipClaimed`.
    ClaimVip {
        /// The reign.
        epoch: Epoch,
    },
    /// Take every VIP off; answered by `VipReleased`.
    ReleaseVip,
    /// The log begins a reign; answered by `EpochStarted`.
    Lead {
        /// The reign.
        epoch: Epoch,
        /// Whom to wait for, this member included.
        members: Vec<Member>,
    },
    /// The log follows a primary.
    Follow {
        /// Its reign.
        epoch: Epoch,
        /// The primary.
        leader: Member,
        /// Index into the settings' peers: where to connect to.
        peer: usize,
    },
    /// The log neither leads nor follows.
    StandDown {
        /// The highest promised epoch.
        epoch: Epoch,
    },
    /// The log refuses lower epochs from now on.
    Promise {
        /// The promised epoch.
        epoch: Epoch,
    },
    /// The log waits for these members before it acknowledges.
    WaitFor {
        /// The reign.
        epoch: Epoch,
        /// Names the change in `WaitReached`.
        version: u64,
        /// All of them, this member included.
        members: Vec<Member>,
    },
    /// Answer clients.
    Serve {
        /// The reign.
        epoch: Epoch,
    },
    /// Finish what is in flight within `drain`, refuse the rest; answered by `ServiceStopped`.
    StopServing {
        /// How long requests in flight may take.
        drain: Duration,
    },
    /// Log it, keep it in the history.
    Report(Transition),
    /// Something worth a line in the log and the history that is not a change of role.
    Note {
        /// In words.
        message: String,
    },
    /// The same, degraded: worth a person's attention.
    Warn {
        /// In words.
        message: String,
    },
    /// The result of a command.
    Answer {
        /// The command's id.
        id: u64,
        /// What became of it.
        answer: Answer,
    },
    /// The process may end.
    Exit,
    /// Switch a member off, and make sure that it is; answered by `FenceFinished`.
    Fence {
        /// Names the order in the answer.
        round: u64,
        /// Whom.
        member: NodeId,
    },
    /// That order is not wanted any more: what has not begun is left undone. Its answer is of no interest.
    CallOffFence {
        /// The round of the order.
        round: u64,
    },
    /// Run the pre-hooks and start the services of a reign; answered by `Prepared`.
    Prepare {
        /// The reign.
        epoch: Epoch,
        /// Names the order in the answer.
        round: u64,
    },
    /// Stop the services of a reign; answered by `Retired`.
    Retire {
        /// The reign.
        epoch: Epoch,
        /// Names the order in the answer.
        round: u64,
        /// The address is still here, and the hooks for leaving it are to be run first.
        planned: bool,
    },
}
