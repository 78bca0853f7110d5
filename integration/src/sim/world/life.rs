//! One life of an agent: the production core, log and store, and the state of the threads around them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use holdfast_agent::node::Node;
use holdfast_agent::node::effect::Effect;
use holdfast_agent::node::event::Event;
use holdfast_agent::node::hard_state::HardState;
use holdfast_agent::runtime::address::Order;
use holdfast_agent::runtime::core::Leader;
use holdfast_agent::runtime::lease::Lease;
use holdfast_agent::runtime::service::ServiceOrder;
use holdfast_heartbeat::{BootNonce, Epoch, Lsn, Member, Time};
use holdfast_replication::LogReader;
use holdfast_replication::replica::{ConnId, Input, Replica};
use holdfast_replication::testing::MemDisk;
use holdfast_store::index::Index;
use holdfast_store::machine::Machine;

use super::Ns;
use super::attendants::AttendantsThread;
use super::happening::Part;
use super::service::{RequestId, Underway};
use super::space::Reclaimer;

/// The replica as a simulated agent runs it.
pub type Engine = Replica<MemDisk, Machine, RequestId>;

/// One life of an agent.
pub struct Life {
    /// Names this life among all lives in the world.
    pub number: u64,
    /// What it calls itself.
    pub boot: BootNonce,
    /// When the last order reaches each part: none overtakes the one before.
    pub ordered: [Ns; Part::COUNT],
    /// Who it is.
    pub member: Member,
    /// When it began, on its host's clock.
    pub started: Time,
    /// The core.
    pub node: Node,
    /// Events on their way to the core.
    pub inbox: VecDeque<Event>,
    /// A turn of the core is in the queue of the world.
    pub core_called: bool,
    /// The next tick in the queue of the world.
    pub tick_at: Ns,
    /// Filled and emptied in each turn; kept for its memory.
    pub effects: Vec<Effect>,
    /// The lease as the threads see it.
    pub lease: Lease,
    /// The state file's writer.
    pub state: StateWriter,
    /// The log's thread; none on a witness.
    pub log: Option<LogThread>,
    /// The addresses' thread.
    pub addresses: AddressThread,
    /// The S3 service.
    pub service: Service,
    /// What wins space back.
    pub space: Reclaimer,
    /// Hooks and services.
    pub attendants: AttendantsThread,
    /// The newest order to a fence device that was called off.
    pub fence_called_off: u64,
    /// The stream to the primary.
    pub connector: Connector,
}

/// The thread that writes the state file.
#[derive(Default)]
pub struct StateWriter {
    /// Newest state that is to be written.
    pub waiting: Option<(u64, HardState)>,
    /// What is being written.
    pub writing: Option<HardState>,
}

/// The thread that owns the log.
pub struct LogThread {
    /// The replica.
    pub engine: Engine,
    /// Its index.
    pub index: Index,
    /// Reads the log.
    pub reader: Arc<LogReader>,
    /// What waits.
    pub inbox: VecDeque<Input<RequestId>>,
    /// A turn is in the queue of the world.
    pub called: bool,
    /// The disk is syncing.
    pub syncing: bool,
    /// Connections that the replica knows.
    pub conns: BTreeSet<ConnId>,
    /// What the core was told last.
    pub said: Option<(Lsn, Lsn, Epoch)>,
    /// New writes are refused for want of space.
    pub full: bool,
}

/// The thread that has the addresses.
#[derive(Default)]
pub struct AddressThread {
    /// Orders that wait for the one being carried out.
    pub queue: VecDeque<Order>,
    /// An order is being carried out.
    pub busy: bool,
    /// The address is wanted for this reign, and whether it was claimed.
    pub held: Option<(Epoch, bool)>,
    /// Changes with each order, so that what was begun under an earlier one ends.
    pub serial: u64,
    /// Who answered the probes that are under way.
    pub probes: BTreeMap<u64, Option<String>>,
    /// The newest probe that has ended, and whether anybody answered it.
    pub probed: Option<(u64, bool)>,
}

/// What the S3 service does with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Answers them.
    Yes,
    /// Refuses new ones.
    Draining,
    /// Sends them to the primary.
    No,
}

/// The S3 service and its control.
pub struct Service {
    /// What it does with requests.
    pub mode: Mode,
    /// Orders that wait for the one being carried out.
    pub queue: VecDeque<ServiceOrder>,
    /// An order is being carried out.
    pub busy: bool,
    /// Names the order that is being carried out.
    pub serial: u64,
    /// Until when a drain may last.
    pub drain_until: Ns,
    /// Writes that the log has and has not answered.
    pub in_flight: usize,
    /// Requests that are not answered yet.
    pub underway: BTreeMap<RequestId, Underway>,
    /// The epoch in which the body of a request was received whose operation the log has: for the checkers.
    pub received: BTreeMap<RequestId, Epoch>,
}

impl Default for Service {
    fn default() -> Service {
        Service {
            mode: Mode::No,
            queue: VecDeque::new(),
            busy: false,
            serial: 0,
            drain_until: 0,
            in_flight: 0,
            underway: BTreeMap::new(),
            received: BTreeMap::new(),
        }
    }
}

/// Keeps the stream to whomever the core names.
#[derive(Default)]
pub struct Connector {
    /// Whom: the reign, and the host.
    pub leader: Leader,
    /// Changes whenever the core names somebody.
    pub serial: u64,
    /// The connection that stands or is being made.
    pub conn: Option<ConnId>,
    /// When it was begun.
    pub begun: Ns,
    /// The wait before the next attempt.
    pub wait: Ns,
    /// Which of the keys the next attempt is made with.
    pub turn: usize,
}

impl Life {
    /// Where the log stands; zero on a witness.
    pub fn log_end(&self) -> Lsn {
        self.log.as_ref().map_or(Lsn::ZERO, |log| log.engine.log().end())
    }
}
