//! What a member tells about itself: one snapshot for `ha status`, the API, the metrics and the console.

use holdfast_heartbeat::Loss;
use serde::{Deserialize, Serialize};

/// A member's state at one moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Its name.
    pub node: String,
    /// `data` or `witness`.
    pub kind: String,
    /// The process.
    pub pid: u32,
    /// Its supervisor, where there is one.
    pub supervisor_pid: Option<u32>,
    /// The program's version.
    pub version: String,
    /// `standby`, `candidate`, `promoting`, `primary`, `handing_over` or `witness`.
    pub role: String,
    /// For how long.
    pub role_since_ms: u64,
    /// The highest epoch that it promised.
    pub epoch: u64,
    /// Who is primary, as far as it knows.
    pub primary: Option<String>,
    /// How long the own lease still lasts, while it reigns.
    pub lease_remaining_ms: Option<u64>,
    /// Whether it answers S3 clients now.
    pub serving: bool,
    /// The data members that hold every acknowledged byte.
    pub in_sync: Vec<String>,
    /// This member does, with the log that it has now.
    #[serde(default)]
    pub in_sync_here: bool,
    /// Only one does.
    pub solo: bool,
    /// Nothing needs attention: a primary is known, the in-sync set is whole, everybody is heard.
    pub healthy: bool,
    /// What is not as it should be, in words.
    pub warnings: Vec<String>,
    /// Why there is no primary, in words, and what to do.
    pub waiting_for: Option<String>,
    /// Its preference; lower is more preferred.
    pub priority: u32,
    /// The configured one, to which it returns with the next start, where an order has set another.
    #[serde(default)]
    pub configured_priority: Option<u32>,
    /// `auto`, `manual` or `disabled`.
    pub failback_mode: String,
    /// Whether automatic failback is switched on at the moment.
    pub failback_enabled: bool,
    /// Automatic changes of primary are suspended in the cluster: since when, and by whose order.
    #[serde(default)]
    pub paused: Option<Paused>,
    /// This member is taken out for maintenance.
    #[serde(default)]
    pub drained: bool,
    /// Why this host's links, or the gateways behind them, are not good, while they are not.
    #[serde(default)]
    pub links_failed: Option<String>,
    /// What the failed checks count together; zero is healthy.
    #[serde(default)]
    pub penalty: u32,
    /// The checks of the configuration, in its order.
    #[serde(default)]
    pub checks: Vec<super::checks::CheckStatus>,
    /// Whether small writes are durable in time; absent on a witness.
    #[serde(default)]
    pub disk: Option<super::disk::DiskStatus>,
    /// The virtual addresses.
    pub vips: Vec<super::address::VipStatus>,
    /// The units that follow the role.
    #[serde(default)]
    pub services: Vec<super::hooks::UnitStatus>,
    /// Connections through this host; absent where the configuration does not want them carried over.
    #[serde(default)]
    pub conntrack: Option<super::conntrack::ConntrackStatus>,
    /// The replicated files; absent where none are configured.
    #[serde(default)]
    pub files: Option<super::files::FilesStatus>,
    /// The fence devices of this member.
    #[serde(default)]
    pub fences: Vec<super::fence::board::FenceStatus>,
    /// Where S3 clients go: the virtual address and port.
    pub endpoint: Option<String>,
    /// The kernel gate in use.
    pub gate: String,
    /// Why it is not the best or the named one, if so.
    pub gate_fallback: Option<String>,
    /// Whether the heartbeat path goes before other programs and stays in memory, or why not.
    #[serde(default)]
    pub realtime: String,
    /// How late the core is.
    #[serde(default)]
    pub lateness: LatenessStatus,
    /// Identifiers of the shared keys, the signing one first: the same on every member, but in a rotation.
    #[serde(default)]
    pub keys: Vec<String>,
    /// Whether this member has a vote.
    #[serde(default = "yes")]
    pub vote: bool,
    /// How many members have one.
    #[serde(default)]
    pub votes: usize,
    /// How many of them decide.
    #[serde(default)]
    pub quorum: usize,
    /// Who has a vote; empty while nobody wrote it down: then whoever is configured.
    #[serde(default)]
    pub voters: Vec<String>,
    /// Two data members and nobody else: `two_node` decides.
    #[serde(default)]
    pub pair: bool,
    /// The quorum policy, in words.
    pub policy: String,
    /// What the policy cannot protect against, in words.
    pub exposure: Option<String>,
    /// End of the own log.
    pub end_lsn: u64,
    /// Durable here up to this position.
    pub durable_lsn: u64,
    /// Durable on the whole in-sync set up to this position.
    pub committed_lsn: u64,
    /// Visible in the index up to this position.
    pub applied_lsn: u64,
    /// The other members.
    pub peers: Vec<PeerStatus>,
    /// Dropped heartbeats, by reason.
    pub counters: Counters,
}

/// Of a release that did not say: who is a member has a vote.
fn yes() -> bool {
    true
}

/// A pause of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paused {
    /// When it was ordered, by that host's clock: RFC 3339, in UTC.
    pub since: String,
    /// The member on which it was ordered.
    pub by: Option<String>,
}

/// Another member.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its name, or its address until it was heard.
    pub id: String,
    /// `data` or `witness`.
    pub kind: String,
    /// Heard lately.
    pub alive: bool,
    /// How long ago.
    pub last_heard_ms: Option<u64>,
    /// What it says it acts as.
    pub role: Option<String>,
    /// The epoch that it says it promised.
    pub epoch: Option<u64>,
    /// Its preference.
    pub priority: Option<u32>,
    /// In the in-sync set.
    pub in_sync: bool,
    /// Taken out for maintenance.
    #[serde(default)]
    pub drained: bool,
    /// What it says its failed checks count together; zero is healthy.
    #[serde(default)]
    pub penalty: u32,
    /// It says that its disk does not take writes in time.
    #[serde(default)]
    pub disk_stalled: bool,
    /// It says that it is able and allowed to be primary.
    #[serde(default)]
    pub electable: bool,
    /// It has a vote.
    #[serde(default = "yes")]
    pub vote: bool,
    /// Whom it says it hears.
    #[serde(default)]
    pub hears: Vec<Hearing>,
    /// The heartbeat paths to it.
    pub paths: Vec<PathStatus>,
}

/// That a member hears another one, or does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hearing {
    /// The other one.
    pub member: String,
    /// The paths by which it is heard; none: it is not.
    pub by: Vec<String>,
    /// The paths by which it is not.
    pub not_by: Vec<String>,
}

/// A heartbeat path.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PathStatus {
    /// Its name in the configuration.
    pub name: String,
    /// The peer's address on it.
    pub address: String,
    /// Carried something lately.
    pub alive: bool,
    /// How long ago the last believed heartbeat came by it.
    #[serde(default)]
    pub last_heard_ms: Option<u64>,
    /// Ours arrive there, as the peer says; absent while it does not say.
    #[serde(default)]
    pub reaches: Option<bool>,
    /// What of the peer's was lost on the way here in the last minute.
    #[serde(default)]
    pub lost_here: Option<Loss>,
    /// What of ours was lost on the way there in the last minute.
    #[serde(default)]
    pub lost_there: Option<Loss>,
    /// Smoothed round trip.
    pub rtt_us: Option<u64>,
    /// The longest round trip of the last minute or two.
    #[serde(default)]
    pub rtt_longest_us: Option<u64>,
    /// Heartbeats sent.
    pub sent: u64,
    /// Heartbeats received and believed.
    pub received: u64,
    /// Heartbeats received from a peer that does not hear us.
    pub unproven: u64,
}

/// How late the core is called after the moment at which it asked to be: heartbeats leave that much late.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LatenessStatus {
    /// The longest of the last minute or two.
    pub longest_us: u64,
    /// Of all calls together.
    pub sum_us: u64,
    /// Calls: upper bound in microseconds (absent for the last) and how many kept it and none below.
    pub buckets: Vec<(Option<u64>, u64)>,
}

/// Counters that only grow.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Dropped heartbeats by reason.
    pub heartbeat_dropped: std::collections::BTreeMap<String, u64>,
}
