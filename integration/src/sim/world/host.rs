//! A host: what survives its agent, what survives its power, and the agent while it lives.

use std::collections::VecDeque;
use std::sync::Arc;

use holdfast_agent::node::hard_state::HardState;
use holdfast_config::Config;
use holdfast_config::timers::Derived;
use holdfast_heartbeat::{InSyncRecord, Incarnation, Keyring, MemberKind};
use holdfast_replication::testing::MemDisk;
use holdfast_store::index::Index;

use super::Ns;
use super::attendants::Conduct;
use super::clock::Clock;
use super::fencing::Devices;
use super::happening::{Happening, Part};
use super::kernel::Kernel;
use super::life::Life;

/// One machine.
pub struct Host {
    /// Its name, which is its member's.
    pub name: String,
    /// Data member or witness.
    pub kind: MemberKind,
    /// Whether the power is on.
    pub up: bool,
    /// Its clocks, since the power came on.
    pub clock: Clock,
    /// Its kernel, since the power came on.
    pub kernel: Kernel,
    /// The agent, while there is one.
    pub life: Option<Life>,
    /// The agent is stopped (SIGSTOP, a frozen virtual machine), or the machine sleeps.
    pub frozen: bool,
    /// What waits for the agent to go on.
    pub deferred: VecDeque<(Part, Happening)>,
    /// Until when each part of the agent gets no processor time.
    pub stalled: [Ns; Part::COUNT],
    /// What the state directory holds.
    pub hard: HardState,
    /// The newest record on a disk that was lost: for the checkers alone.
    pub lost_record: Option<InSyncRecord>,
    /// The incarnation beside the votes, if there is a state directory.
    pub state_incarnation: Option<Incarnation>,
    /// The incarnation beside the log, if there is a data directory.
    pub log_incarnation: Option<Incarnation>,
    /// The disk of the log.
    pub disk: MemDisk,
    /// That disk was made to fail, to lie, to be full, or to end in the middle of something.
    pub disk_harmed: bool,
    /// The index, as the last life left it, and as it was on the disk some time before.
    pub index: Option<Index>,
    /// What a power cut would leave of the index.
    pub index_on_disk: Option<Index>,
    /// What the operator wrote.
    pub config: Arc<Config>,
    /// The timers that the running agent derived from its configuration.
    pub derived: Derived,
    /// The keys in that configuration.
    pub keys: Arc<Keyring>,
    /// The newest version of the heartbeat that its release speaks.
    pub speaks: u8,
    /// A sync of this host's disks takes this long at least.
    pub sync_delay: Ns,
    /// And at most this much longer.
    pub sync_jitter: Ns,
    /// No sync ends before.
    pub disk_stalled_until: Ns,
    /// Names the stall that is being judged.
    pub stall: u64,
    /// Why the disk is judged to be bad, if it is.
    pub disk_bad: Option<String>,
    /// What its failed checks count, and since when, the newest last.
    pub penalties: Vec<(Ns, u32)>,
    /// The state directory's disk refuses writes.
    pub state_disk_fails: bool,
    /// How its hooks and services behave, where it has any.
    pub conduct: Conduct,
    /// How the fence devices behave that it uses, where it has any.
    pub devices: Devices,
    /// The service interface lost its carrier.
    pub link_down: bool,
    /// An operator or systemd starts the agent again.
    pub wanted: bool,
    /// The agent dies before it carries out this many more effects.
    pub dies_after: Option<u64>,
    /// How many lives of the agent there have been.
    pub lives: u64,
}

impl Host {
    /// Whether the agent runs and gets processor time.
    pub fn acts(&self) -> bool {
        self.up && self.life.is_some() && !self.frozen
    }

    /// What its failed checks count.
    pub fn penalty(&self) -> u32 {
        self.penalties.last().map_or(0, |(_, penalty)| *penalty)
    }

    /// The least that its failed checks have counted at any moment from `since` on.
    pub fn least_penalty_since(&self, since: Ns) -> u32 {
        let until_then = self.penalties.iter().rfind(|(at, _)| *at <= since);
        let before = until_then.map_or(0, |(_, penalty)| *penalty);
        let later = self.penalties.iter().filter(|(at, _)| *at > since).map(|(_, penalty)| *penalty);
        later.fold(before, u32::min)
    }

    /// Whether the kernel answers for the address on the wire at `now`.
    pub fn answers_on_address(&self, now: Ns) -> bool {
        self.up && !self.link_down && self.kernel.answers_on_address(self.clock.at(now))
    }
}
