//! What a checked configuration says, in types that cannot say anything else.
//!
//! Nothing here reads or checks. Invariant: a [`Config`] only comes from [`Config::parse`] or
//! [`Config::load`], so whoever holds one need not check again.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::fence::FenceDevice;
use crate::hooks::{Hook, Service};
use crate::secret::Secret;
use crate::sync_files::SyncFiles;

/// Everything one member needs to know, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The role that the operator prefers at bootstrap. Roles are elected.
    pub mode: Mode,
    /// This member's name: 1 to 63 characters of `[A-Za-z0-9._:-]`.
    pub node_id: String,
    /// Where replication listens (TCP). A witness listens for heartbeats only and leaves it alone.
    pub listen: SocketAddr,
    /// Where heartbeats are received (UDP), the main path first. At least one.
    pub heartbeat_paths: Vec<HeartbeatPath>,
    /// The other members: data members in the order of `peer_addr`, `peer_addrs`, `primary_addr`, then
    /// witnesses in the order of `witness_addrs`.
    pub peers: Vec<Peer>,
    /// The keys that all members share.
    pub keys: Keys,
    /// Whether what this member sends over the stream of the log is compressed, where the other side understands it.
    pub compression: bool,
    /// Where a write must be before it is acknowledged, in the reigns of this member.
    pub ack: Ack,
    /// The most bytes in a second that this member, as primary, sends to a member which lacks much and which nobody waits
    /// for, beyond what is written meanwhile. None: no bound.
    pub catch_up_rate_bytes: Option<u64>,
    /// Votes, epoch and the recorded in-sync set. Absolute.
    pub state_dir: PathBuf,
    /// Heartbeats, election and the virtual addresses.
    pub ha: Ha,
    /// Units that run where the primary is, in the order in which they are started.
    pub services: Vec<Service>,
    /// The object store; `None` on a witness and nowhere else.
    pub store: Option<Store>,
    /// The HTTP interface.
    pub api: Api,
    /// What must hold on this host for it to serve well, in the order of the file. None on a witness.
    pub checks: Vec<Check>,
    /// What can switch members off, in the order of the file.
    pub fences: Vec<FenceDevice>,
    /// Files that follow the primary, in the order of the file.
    pub sync_files: Vec<SyncFiles>,
}

impl Config {
    /// The number of voting members, this one included.
    pub fn voters(&self) -> usize {
        self.peers.len() + 1
    }

    /// More than half of the voters.
    pub fn quorum(&self) -> usize {
        self.voters() / 2 + 1
    }

    /// Whether `two_node` decides: two voters, who have no majority once one is lost.
    pub fn is_two_node(&self) -> bool {
        self.voters() == 2
    }

    /// Whom a device here can switch off, this member left out, each once, in the order of the file.
    pub fn fence_targets(&self) -> Vec<&str> {
        let mut targets: Vec<&str> = Vec::new();
        for target in self.fences.iter().flat_map(|device| &device.targets) {
            if target.member != self.node_id && !targets.contains(&target.member.as_str()) {
                targets.push(&target.member);
            }
        }
        targets
    }

    /// The devices for `member`, level by level.
    pub fn fence_levels(&self, member: &str) -> Vec<Vec<&FenceDevice>> {
        let of_level = |level: u8| -> Vec<&FenceDevice> {
            let fits = |device: &&FenceDevice| device.level == level && device.target(member).is_some();
            self.fences.iter().filter(fits).collect()
        };
        (1..=9).map(of_level).filter(|devices| !devices.is_empty()).collect()
    }

    /// The longest that it may take to switch `member` off: every device, one after the other.
    pub fn fence_limit(&self, member: &str) -> Duration {
        self.fences.iter().filter(|device| device.target(member).is_some()).map(FenceDevice::longest).sum()
    }

    /// How long the standby of a pair without a witness waits before it shoots.
    pub fn fence_head_start(&self) -> Duration {
        let used = |device: &&FenceDevice| device.targets.iter().any(|target| target.member != self.node_id);
        self.fences.iter().filter(used).map(|device| device.delay).max().unwrap_or_default()
    }

    /// The other data members.
    pub fn data_peers(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().filter(|peer| peer.kind == PeerKind::Data)
    }
}

/// Where a write must be before it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// On the disks of the whole in-sync set.
    InSync,
    /// On the primary's disk. What the others lack yet is lost with the primary.
    Local {
        /// How long a record may wait for others to be sent with.
        sync_interval: Duration,
        /// How many records go at once at the latest.
        batch_size: u32,
    },
}

impl Ack {
    /// How long a record may be held back before it is sent.
    pub fn held_back(self) -> Duration {
        match self {
            Ack::InSync => Duration::ZERO,
            Ack::Local { sync_interval, .. } => sync_interval,
        }
    }
}

/// The role that a member prefers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A data member that starts as primary where nothing is decided yet.
    Primary,
    /// A data member that starts as standby.
    Replica,
    /// A member that only votes.
    Witness,
}

/// What another member is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerKind {
    /// Has the log and the store, and votes.
    Data,
    /// Votes and remembers.
    Witness,
}

/// Another member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// What it is for.
    pub kind: PeerKind,
    /// The address of its host; no two peers share one.
    pub host: IpAddr,
    /// Where it hears heartbeats: entry `i` belongs to `Config::heartbeat_paths[i]`. At least the main
    /// one. Shorter than the paths where the later ones do not reach this peer.
    pub heartbeat: Vec<SocketAddr>,
    /// Where it listens for replication (TCP); `None` for a witness.
    pub replication: Option<SocketAddr>,
}

/// One way on which heartbeats travel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeartbeatPath {
    /// `main`, or the label of the `heartbeat_path` block.
    pub name: String,
    /// Where this member listens (UDP).
    pub listen: SocketAddr,
}

/// The shared keys.
#[derive(Clone, Debug)]
pub struct Keys {
    /// Signs what is sent, and is accepted.
    pub signing: Secret,
    /// Still accepted, never used to sign: for the time of a rotation.
    pub previous: Vec<Secret>,
}

/// Heartbeats, election and the virtual addresses.
#[derive(Clone, Debug)]
pub struct Ha {
    /// Whether anything fails over by itself.
    pub enabled: bool,
    /// Lower is preferred.
    pub priority: u32,
    /// How the preferred member gets its role back.
    pub failback: Failback,
    /// Time between two heartbeats.
    pub heartbeat_interval: Duration,
    /// Heartbeats missed in a row before a member is held to be gone; at least 2.
    pub failure_threshold: u32,
    /// Silence after which a member is held to be gone; where given, it takes the threshold's place.
    pub failure_timeout: Option<Duration>,
    /// UDP port of the heartbeats, on every member.
    pub heartbeat_port: u16,
    /// The lease as written; where it is `None`, [`Ha::lease`] derives it.
    pub lease_given: Option<Duration>,
    /// What two voters do when one falls silent.
    pub two_node: TwoNode,
    /// Whether a takeover waits until the vanished primary is confirmed to be off, where a device is for it.
    pub fencing_required: bool,
    /// How long a stalled standby may delay writes before the in-sync set shrinks.
    pub standby_timeout: Duration,
    /// Interfaces whose carrier tells whether this member is the one that is cut off.
    pub monitor_links: Vec<String>,
    /// Gateways whose answer tells the same.
    pub monitor_gateways: Vec<IpAddr>,
    /// The addresses that follow the primary.
    pub virtual_ips: Vec<VirtualIp>,
    /// Which kernel gate holds the lease on the addresses.
    pub gate: GateChoice,
    /// Whether the agent keeps what its core was told, and writes it down after an unplanned change of role.
    pub flight_recorder: bool,
    /// Whether the heartbeat path asks to go before other programs and to stay in memory.
    pub realtime: bool,
    /// Programs that are run at changes of role, in this order.
    pub hooks: Vec<Hook>,
    /// The device that restarts this host when the agent's core stands still.
    pub watchdog: Option<WatchdogDevice>,
    /// Carries connections that pass through this host over to the standby; `None`: they end with a failover.
    pub conntrack_sync: Option<ConntrackSync>,
}

/// A watchdog device of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchdogDevice {
    /// Its absolute path.
    pub device: PathBuf,
    /// After how long without a sign of life it restarts the host; whole seconds.
    pub timeout: Duration,
}

/// How the kernel's table of connections is carried over to the standby.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConntrackSync {
    /// The interface over which the other data members are asked for it; `None` leaves it to the routes.
    pub interface: Option<String>,
    /// How often the whole table is compared with what the standby was told. Changes go at once.
    pub sync_interval: Duration,
    /// Most connections that are carried over.
    pub max_entries: u32,
}

impl Ha {
    /// Silence after which a member is held to be gone.
    pub fn detect(&self) -> Duration {
        self.failure_timeout.unwrap_or_else(|| self.heartbeat_interval.saturating_mul(self.failure_threshold))
    }

    /// The lease: as written, or as long as it takes to notice a failure.
    pub fn lease(&self) -> Duration {
        self.lease_given.unwrap_or_else(|| self.detect())
    }
}

/// How the preferred member gets its role back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failback {
    /// Who starts it.
    pub mode: FailbackMode,
    /// How long the preferred member must have been healthy and in sync before.
    pub delay: Duration,
    /// At most one automatic failback within this time; `None` for no limit.
    pub window: Option<Duration>,
}

/// Who starts a failback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailbackMode {
    /// The agent.
    Auto,
    /// An operator.
    Manual,
    /// Nobody.
    Disabled,
}

/// What two voters do when one falls silent, since neither has a majority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TwoNode {
    /// Take over when all paths are silent, the own network is good and the address does not answer.
    Probe,
    /// Take over when a fence device confirmed that the other one is off.
    Fence,
    /// Wait for an operator.
    Manual,
}

/// Which kernel gate is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateChoice {
    /// eBPF where the kernel permits it, else nftables, else none.
    Auto,
    /// eBPF, and refuse to start without.
    Ebpf,
    /// nftables, and refuse to start without.
    Nftables,
    /// None: only the lifetime of the address stands behind the agent.
    None,
}

/// An address that follows the primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualIp {
    /// The address itself and the prefix of its network.
    pub address: IpNet,
    /// The interface that carries it.
    pub interface: String,
    /// Ask the network for another holder before claiming.
    pub arp_ping: bool,
    /// Announce it after claiming.
    pub gratuitous_arp: bool,
    /// Announcements in a row after claiming; at least 1.
    pub garp_repeat: u32,
    /// Time between them; `None`: soon at first, then wider.
    pub garp_interval: Option<Duration>,
    /// Time between the announcements ever after; `None` for none.
    pub garp_refresh: Option<Duration>,
    /// Routes that come with the address and go with it, in the order of the file.
    pub routes: Vec<Route>,
    /// Policy rules that come with the address and go with it, in the order of the file.
    pub rules: Vec<Rule>,
}

/// A route that is there as long as its virtual address is, by the same interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The destination, without bits beyond its prefix; of length 0 for the default route.
    pub to: IpNet,
    /// The next hop; `None`: on the link. Of the destination's family.
    pub via: Option<IpAddr>,
    /// The routing table's number.
    pub table: u32,
    /// The metric; `None` for the kernel's.
    pub metric: Option<u32>,
    /// The address from which this host speaks on it. Of the destination's family.
    pub source: Option<IpAddr>,
    /// The address does not count as claimed without it.
    pub required: bool,
}

/// A policy rule that is there as long as its virtual address is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Packets from here; without bits beyond its prefix.
    pub from: Option<IpNet>,
    /// Packets to here; without bits beyond its prefix.
    pub to: Option<IpNet>,
    /// The routing table in which they look.
    pub table: u32,
    /// The smallest is asked first.
    pub priority: u32,
    /// The address does not count as claimed without it.
    pub required: bool,
}

/// The object store.
#[derive(Clone, Debug)]
pub struct Store {
    /// Where the log and the index live. Absolute.
    pub data_dir: PathBuf,
    /// Where S3 listens (TCP), once there are credentials.
    pub listen: SocketAddr,
    /// The first user; `None` keeps the S3 listener off.
    pub root: Option<RootCredentials>,
    /// Domain for virtual-host style requests.
    pub virtual_host_domain: Option<String>,
    /// Size of a log segment.
    pub segment_size_bytes: u64,
    /// Bytes of the log that are read in a second to find damage, at most.
    pub scrub_rate_bytes: u64,
    /// How often the log is read through; `None`: only when asked.
    pub scrub_interval: Option<Duration>,
    /// Whether space is won back without being asked.
    pub reclaim: bool,
    /// Bytes written for it in a second, at most.
    pub reclaim_rate_bytes: u64,
    /// The share of garbage at which it begins, in percent of the log.
    pub reclaim_garbage_percent: u8,
    /// Most connections at a time.
    pub max_connections: u32,
    /// Memory for the bodies of requests and answers together.
    pub request_memory_bytes: u64,
    /// What the member does with requests while it is not the primary.
    pub standby_reads: StandbyReads,
    /// How old what a standby shows may be when a request comes.
    pub standby_staleness: Duration,
    /// How long a small write may take to be on the disk before the disk counts as stalled.
    pub disk_timeout: Duration,
    /// What objects at rest are encrypted with, 64 hexadecimal digits each; the first one encrypts. With none,
    /// they are not.
    pub encryption_keys: Vec<Secret>,
    /// Where events may go.
    pub webhooks: Vec<Webhook>,
    /// How long a day of lifecycle rules is.
    pub lifecycle_day: Duration,
}

/// What a member does with S3 requests while it is not the primary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StandbyReads {
    /// It sends clients on to the primary (307).
    #[default]
    Off,
    /// It hands requests on to the primary, and the answers back.
    HandOn,
    /// It answers reads itself where what it has is new enough, and hands on everything else.
    Bounded,
}

/// A place that events of buckets may be sent to.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// Its name in the rules of buckets: `arn:holdfast:sqs::NAME:webhook`.
    pub name: String,
    /// `http://host:port/path`.
    pub url: String,
    /// Sent as `Authorization: Bearer`.
    pub token: Option<Secret>,
}

/// The first user of the store.
#[derive(Clone, Debug)]
pub struct RootCredentials {
    /// Its name; no secret.
    pub access_key: String,
    /// Its key.
    pub secret_key: Secret,
}

/// The HTTP interface.
#[derive(Clone, Debug)]
pub struct Api {
    /// Where it listens (TCP).
    pub listen: SocketAddr,
    /// What a caller that changes state must show.
    pub token: Option<Secret>,
}

/// Something that must hold on this host for it to serve well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Its name: 1 to 63 characters of `[A-Za-z0-9._-]`, unique.
    pub name: String,
    /// What it looks at.
    pub kind: CheckKind,
    /// Time from the beginning of one run to that of the next.
    pub interval: Duration,
    /// How long a run may take; what takes longer has failed.
    pub timeout: Duration,
    /// Runs in a row that must pass before it passes again; at least 1.
    pub rise: u32,
    /// Runs in a row that must fail before it has failed; at least 1.
    pub fall: u32,
    /// What its failure counts against this member; `None`: more than all weights together.
    pub weight: Option<u32>,
}

/// What a check looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckKind {
    /// A program (absolute path) and its words, run without a shell: exit status 0 passes.
    Exec(Vec<String>),
    /// A host and port to which a connection is made.
    Tcp(String),
    /// A GET of an `http://` URL.
    Http {
        /// The URL, without a name or password.
        url: String,
        /// The statuses that pass.
        status: std::ops::RangeInclusive<u16>,
    },
    /// Something exists at this absolute path.
    File {
        /// Where.
        path: PathBuf,
        /// And was modified no longer ago than this.
        max_age: Option<Duration>,
    },
    /// A process whose program has this name runs.
    Process(String),
    /// The process whose number stands in this file runs.
    Pidfile(PathBuf),
    /// This systemd unit is active.
    Unit(String),
}
