//! The thread of the virtual addresses against a real kernel and real neighbours: whatever another program does
//! to an address, it is back within milliseconds, and said.
//!
//! The other host of each test asks the address over and over; what it measures is what a client would see.

// Another crate's tests use the rest of it.
#[allow(dead_code)]
#[path = "../../../vip/tests/kernel/two_hosts.rs"]
mod two_hosts;

mod meddling;
mod rivals;

use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use holdfast_agent::node::event::Event;
use holdfast_agent::runtime::address::{self, Board, Order, Saying, Setup};
use holdfast_agent::runtime::lease::Lease;
use holdfast_heartbeat::{Epoch, Time};
use holdfast_vip::VipSpec;
use holdfast_vip::gate::{Gate, NftGate, Ownership};
use tokio::sync::mpsc::UnboundedSender;

use crate::two_hosts::{Asker, PATIENCE, THERE, THERE6, TwoHosts, serve_echo, until};

/// The lifetime that the addresses are given.
const LIFETIME: Duration = Duration::from_secs(30);

/// Runs `ip` on this host.
fn ip(words: &str) {
    let output = Command::new("ip").args(words.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs `ip` on this host, where the agent may be faster than it: it does not find what it wants to change, or
/// finds again what it took away.
fn try_ip(words: &str) {
    Command::new("ip").args(words.split(' ')).output().unwrap();
}

/// A deadline beyond every test.
fn soon() -> Time {
    Time(holdfast_vip::boottime_ns() + 3_600_000_000_000)
}

/// A member's addresses, held.
struct Member {
    orders: UnboundedSender<Order>,
    events: Receiver<Event>,
    sayings: Receiver<Saying>,
    board: Board,
    lease: Lease,
    gate: Arc<dyn Gate>,
}

impl Member {
    fn begin(specs: &[VipSpec]) -> Member {
        let gate: Arc<dyn Gate> = Arc::new(NftGate::open_as(specs, &[], Ownership::WherePossible).unwrap());
        let lease = Lease::new(gate.clone());
        let board = Board::new(specs);
        let setup = Setup {
            specs: specs.to_vec(),
            lease: lease.clone(),
            lifetime: LIFETIME,
            board: board.clone(),
            gate_is_named: false,
        };
        let ((reported, events), (said, sayings)) = (channel(), channel());
        let report = move |event| drop(reported.send(event));
        let orders = address::spawn(setup, report, move |saying| drop(said.send(saying))).unwrap();
        Member { orders, events, sayings, board, lease, gate }
    }

    /// As the core does it: the lease, then the order. Returns how long it took until it was announced.
    fn claim(&self) -> Duration {
        self.lease.extend(Epoch(1), soon());
        let begun = Instant::now();
        self.orders.send(Order::Claim(Epoch(1))).unwrap();
        let event = self.events.recv_timeout(PATIENCE).unwrap();
        assert!(matches!(event, Event::VipClaimed { .. }), "{event:?}");
        begun.elapsed()
    }

    fn release(&self) {
        self.lease.end();
        self.orders.send(Order::Release).unwrap();
        let event = self.events.recv_timeout(PATIENCE).unwrap();
        assert!(matches!(event, Event::VipReleased), "{event:?}");
    }

    /// The next thing said, in words.
    fn said(&self) -> String {
        match self.sayings.recv_timeout(PATIENCE).expect("something is said") {
            Saying::Note(words) => words,
            Saying::Warning(words) => format!("warning: {words}"),
        }
    }

    fn restored(&self) -> u64 {
        self.board.addresses().iter().map(|address| address.restored).sum()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.gate.detach();
    }
}

/// The address answers the other host; returns where, and who asks.
async fn answered(hosts: &TwoHosts, spec: &VipSpec) -> (Asker, std::net::SocketAddr) {
    let from = if spec.ip().is_ipv4() { THERE } else { THERE6 };
    let mut asker = hosts.there(|| Asker::new(from.parse().unwrap()));
    // The socket stays when its address is taken off.
    let at = (spec.ip(), serve_echo(spec.ip())).into();
    until("the address answers", async || asker.ask(at, Duration::from_millis(200)).await).await;
    (asker, at)
}

/// How long a client was without answer: it asks anew after each millisecond.
async fn outage(asker: &mut Asker, at: std::net::SocketAddr, begun: Instant) -> Duration {
    while !asker.ask(at, Duration::from_millis(1)).await {
        assert!(begun.elapsed() < PATIENCE, "no answer from {at} for {PATIENCE:?}");
    }
    begun.elapsed()
}
