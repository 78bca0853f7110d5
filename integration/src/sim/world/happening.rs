//! Everything that can lie in the future of the world.

use std::rc::Rc;

use bytes::Bytes;
use holdfast_agent::node::hard_state::HardState;
use holdfast_agent::runtime::address::Order;
use holdfast_agent::runtime::service::ServiceOrder;
use holdfast_replication::replica::ConnId;

use super::service::{RequestId, Route};
use crate::sim::s3::call::{Answer, Call};
use crate::sim::s3::session::Logged;

/// The threads of an agent; each may be held up by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Receives heartbeats.
    Sockets,
    /// The node.
    Core,
    /// Writes votes.
    State,
    /// Owns the log.
    Log,
    /// Has the addresses.
    Addresses,
    /// Answers clients.
    Service,
    /// Begins and ends the service.
    Control,
    /// Keeps the stream to the primary.
    Stream,
}

impl Part {
    /// How many there are.
    pub const COUNT: usize = 8;
}

/// Something that will happen to an agent's part, if that agent still lives then.
#[derive(Debug)]
#[allow(missing_docs, reason = "the fields repeat the vocabulary of the parts")]
pub enum Happening {
    /// A packet has reached the socket: from whose address, by which path.
    Packet { from: usize, path: usize, bytes: Rc<[u8]> },
    /// The core looks into its inbox.
    CoreTurn,
    /// The node's deadline.
    CoreTick,
    /// The state file is written.
    StateWritten { token: u64, state: Box<HardState> },
    /// The write of the state file is tried again.
    StateRetry,
    /// The log looks into its inbox.
    LogTurn,
    /// The log's disk has synced.
    LogSynced,
    /// The addresses' thread does the next thing in its queue.
    AddressOrder(Order),
    /// The kernel has carried out a claim of this reign, or a refresh.
    AddressAct { serial: u64 },
    /// The next question of a probe goes out.
    ProbeAgain { round: u64, left: u32, pause: std::time::Duration },
    /// A probe's window is over.
    ProbeOver { round: u64, conflict: Option<String>, asked: bool },
    /// The service's control gets an order.
    ServiceOrder(ServiceOrder),
    /// A drain is over, or given up.
    Drained { serial: u64 },
    /// The last words were said.
    Stopped { serial: u64 },
    /// Hooks and services are done with an order.
    Attended { event: Box<holdfast_agent::node::event::Event> },
    /// A request reached the service.
    Request { request: RequestId, route: Route, call: Box<Call> },
    /// The next bytes of a request's body have come.
    Body { request: RequestId, payload: Vec<Bytes> },
    /// The log has answered for a request.
    Logged { request: RequestId, logged: Logged },
    /// The answer of a request is about to leave.
    Leave { request: RequestId, answer: Box<Answer> },
    /// It is time to look whether space can be won back.
    LookForGarbage,
    /// It is time for a standby to ask how far the primary is.
    AskHowFar,
    /// What wins space back goes on.
    GoOnThinning,
    /// The connector tries to reach the primary.
    Connect { serial: u64 },
    /// A handshake is over on the side that opened the connection.
    Shaken { serial: u64, conn: ConnId },
    /// Frames of a connection have come in.
    Stretch { conn: ConnId, bytes: Bytes },
    /// A connection has ended.
    Ended { conn: ConnId },
}
