//! What can happen to a node.

use holdfast_heartbeat::{Epoch, Heartbeat, Lsn, Member, NodeId, Notice};
use serde::{Deserialize, Serialize};

use super::settings::PeerSettings;

/// Something that happened. Past tense: it can no longer be refused.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Event {
    /// The deadline that the node named has come, or any other moment.
    Ticked,
    /// An authentic heartbeat came in from the address of `peer`, by `path`.
    HeartbeatReceived {
        /// Index into the settings' peers.
        peer: usize,
        /// The path it came by.
        path: usize,
        /// What it says.
        heartbeat: Box<Heartbeat>,
    },
    /// An authentic notice came in: a supervisor buries its agent.
    NoticeReceived(Notice),
    /// The hard state of this token, and every one before it, is on disk.
    Persisted {
        /// The token of the effect.
        token: u64,
    },
    /// The conflict probe of this round is over.
    ProbeFinished {
        /// The round of the effect.
        round: u64,
        /// Who answered, in words, if anybody did.
        conflict: Option<String>,
        /// Whether the question could be put at all; if not, silence says nothing.
        asked: bool,
    },
    /// Every VIP is on its interface and was announced once.
    VipClaimed {
        /// The reign.
        epoch: Epoch,
    },
    /// No VIP is on this host any more.
    VipReleased,
    /// No request is being served any more.
    ServiceStopped,
    /// The epoch-start record is committed, everything before it applied.
    EpochStarted {
        /// The reign.
        epoch: Epoch,
    },
    /// Each member that is waited for since `version` holds everything acknowledged so far.
    WaitReached {
        /// The reign.
        epoch: Epoch,
        /// The version of the effect.
        version: u64,
    },
    /// A follower's progress, seen by the primary's log.
    FollowerProgressed {
        /// Which.
        member: Member,
        /// Whether its stream is up.
        streaming: bool,
        /// What it acknowledged as durable.
        durable: Lsn,
    },
    /// The own log grew or became durable.
    LogAdvanced {
        /// End of the log.
        end: Lsn,
        /// Durable up to here.
        durable: Lsn,
        /// Epoch of the last record.
        last_epoch: Epoch,
    },
    /// The own log can no longer be written.
    LogFailed {
        /// Only for want of space: nothing is broken, reads go on.
        full: bool,
        /// In words.
        error: String,
    },
    /// There is space on the log's disk again.
    SpaceReturned,
    /// Own links (and gateways, where configured) were judged.
    LinksJudged {
        /// Whether this host could serve.
        good: bool,
        /// In words.
        detail: String,
    },
    /// The checks were judged, and something is otherwise than it was.
    ChecksJudged {
        /// What the failed ones count together.
        penalty: u32,
        /// Those that fail, in the order of the configuration.
        failed: Vec<FailedCheck>,
    },
    /// Whether a small write became durable in time was judged, and it is otherwise than it was.
    DiskJudged {
        /// In time.
        good: bool,
        /// In words.
        detail: String,
    },
    /// An operator, or the API, wants something.
    CommandGiven {
        /// Names the request in the answer.
        id: u64,
        /// What.
        command: Command,
    },
    /// The process is to end in good order.
    TerminationRequested,
    /// The configuration names other peers than before. Each keeps its place among them: who is gone has no paths
    /// any more, and who is new comes last, or in the place of one that was gone before.
    PeersConfigured(Vec<PeerSettings>),
    /// The kernel's gate was looked at.
    GateJudged {
        /// Why the kernel does not hold the lease any more; `None` where it does.
        lost: Option<String>,
        /// The configuration names this very gate: without it this member does not serve.
        named: bool,
    },
    /// Pre-hooks have run and services were started, each within its limit.
    Prepared {
        /// The reign.
        epoch: Epoch,
        /// The round of the order.
        round: u64,
        /// What became of them.
        outcome: Readiness,
    },
    /// What became of an order to switch a member off.
    FenceFinished {
        /// The round of the effect.
        round: u64,
        /// Every device of one level has switched it off and says so.
        confirmed: bool,
        /// Which devices, or why not, in words; never a secret.
        detail: String,
    },
    /// The services of a reign are stopped, or their limits are over.
    Retired {
        /// The round of the effect.
        round: u64,
    },
}

/// What became of the services and pre-hooks of a takeover. What failed and does not matter to the takeover
/// is `Ready`: the history has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Readiness {
    /// The takeover goes on.
    Ready,
    /// It should be another member's, where there is one.
    Failed {
        /// In words.
        why: String,
    },
    /// It must not go on here.
    Vetoed {
        /// In words.
        why: String,
    },
}

/// A check that fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedCheck {
    /// Its name.
    pub name: String,
    /// Why, in words.
    pub detail: String,
}

/// What an operator can ask of a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Hand the role over, to this member or the best one.
    Failover {
        /// To whom.
        to: Option<NodeId>,
    },
    /// Take the role here.
    Promote {
        /// R10: even if acknowledged data may be missing here.
        accept_data_loss: bool,
    },
    /// Hand the role to the most preferred member that is in sync.
    Failback,
    /// Switch automatic failback on or off until the next start.
    SetFailback {
        /// On or off.
        enabled: bool,
    },
    /// Suspend automatic changes of primary in the whole cluster.
    Pause {
        /// When, in milliseconds since 1970 by this host's wall clock: shown to people, never compared
        /// with a clock.
        at_unix_ms: u64,
    },
    /// End the pause of the cluster, and the drain of this member.
    Resume {
        /// As in `Pause`.
        at_unix_ms: u64,
    },
    /// Take this member out for maintenance.
    Drain,
    /// The operator has made sure that this member is off.
    FenceConfirmed {
        /// Which.
        member: NodeId,
    },
    /// Take the vote from one member, and give one to another: a dead one is replaced by one order.
    ChangeVoters {
        /// Whose vote goes.
        remove: Option<NodeId>,
        /// Who gets one.
        add: Option<NodeId>,
    },
    /// Set how much this member is preferred, until the next start.
    SetPriority {
        /// Lower is more preferred.
        priority: u32,
    },
}

/// What became of a command.
pub type Answer = Result<String, Declined>;

/// Why a command was not carried out, and what to do instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Declined {
    /// A stable word for programs.
    pub code: &'static str,
    /// For people.
    pub message: String,
}
