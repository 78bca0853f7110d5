//! Carries connections that pass through the primary over to the standby, so that they survive a failover of a pair
//! of routers, firewalls or address translators.
//!
//! ```text
//!   primary                                    standby
//!   kernel's table ─ events, comparisons ─> feed ═ Noise over TCP ═> shadow ─> kernel's table
//! ```
//!
//! | module | decides |
//! |---|---|
//! | `scope` | which connections another host can go on with |
//! | `feed` | what a standby is told, and when; pure |
//! | `shadow` | what a standby does to its table; pure |
//! | `message` | what is said |
//! | `serve`, `follow` | nothing: sockets around the two |
//! | `board` | what is shown |
//!
//! It follows the role, and takes no part in it: no election, lease or write waits for it, it has a thread and
//! connections of its own, and whatever becomes of it the log does not notice. A standby puts entries into its
//! kernel as it hears of them, so they are there before the address is (R7), and a takeover has nothing to do for
//! them. Nothing is stored.

mod board;
mod feed;
mod follow;
mod message;
#[cfg(test)]
mod samples;
mod scope;
mod serve;
mod shadow;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use holdfast_config::{Config, Mode};
use holdfast_vip::boottime_ns;
use holdfast_vip::conntrack::{Listener, Table, events_enabled, most_entries};
use tokio::sync::{mpsc, watch};

use self::board::Part;
pub use self::board::{Board, ConntrackStatus};
use self::scope::Scope;
use super::core::Leader;
use super::peers::Peers;
use super::stream::{Aside, Streams};

/// Standbys that may ask at once. A cluster has two; each costs a view of the table.
pub const MOST_ASKERS: usize = 4;
/// How often the kernel is asked again that did not let us at its table.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// What the configuration says about it.
#[derive(Clone, Debug)]
pub struct Setup {
    most: usize,
    interval: Duration,
    interface: Option<String>,
    /// Where each peer listens for it.
    peers: Peers,
    /// This member's own address.
    from: SocketAddr,
    vips: Vec<IpAddr>,
    members: Vec<IpAddr>,
}

impl Setup {
    /// `None` where the configuration wants nothing of it.
    pub fn new(config: &Config, peers: &Peers) -> Option<Setup> {
        let sync = config.ha.conntrack_sync.as_ref().filter(|_| config.mode != Mode::Witness)?;
        let heartbeats = config.peers.iter().flat_map(|peer| peer.heartbeat.iter().map(SocketAddr::ip));
        let own = config.heartbeat_paths.iter().map(|path| path.listen.ip()).chain([config.listen.ip()]);
        Some(Setup {
            most: sync.max_entries as usize,
            interval: sync.sync_interval,
            interface: sync.interface.clone(),
            peers: peers.clone(),
            from: config.listen,
            vips: config.ha.virtual_ips.iter().map(|vip| vip.address.addr()).collect(),
            members: config.peers.iter().map(|peer| peer.host).chain(heartbeats).chain(own).collect(),
        })
    }

    fn scope(&self) -> Scope {
        Scope::new(self.vips.iter().copied(), self.members.iter().copied())
    }

    /// A clock for timeouts, which counts suspend as the kernel's own timeouts do not: what was suspended is heard
    /// of anew.
    fn now_ms(&self) -> u64 {
        boottime_ns() / 1_000_000
    }
}

/// Starts the thread. `asked`: the connections of standbys that ask; `leader`: whom to ask.
///
/// # Errors
/// No thread can be had.
pub fn spawn(
    setup: Setup,
    streams: Streams,
    asked: mpsc::Receiver<Aside>,
    leader: watch::Receiver<Leader>,
) -> io::Result<Board> {
    let board = Board::new(setup.most as u64);
    let shown = board.clone();
    std::thread::Builder::new().name("conntrack".into()).spawn(move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                return board
                    .trouble(Part::Kernel, Some(format!("connections are not carried over: {error}")));
            }
        };
        runtime.block_on(run(Arc::new(setup), streams, asked, leader, board));
    })?;
    Ok(shown)
}

async fn run(
    setup: Arc<Setup>,
    streams: Streams,
    mut asked: mpsc::Receiver<Aside>,
    leader: watch::Receiver<Leader>,
    board: Board,
) {
    // Held as long as the thread lives.
    let _listener = loop {
        match Listener::open().and_then(|listener| Table::open()?.look().map(|()| listener)) {
            Ok(listener) => break listener,
            Err(error) => {
                tracing::warn!("{}", no_table(&error));
                board.trouble(Part::Kernel, Some(no_table(&error)));
                tokio::time::sleep(ASK_AGAIN).await;
            }
        }
    };
    board.trouble(Part::Kernel, None);
    if let Some(room) = most_entries().filter(|&room| room < setup.most as u64) {
        tracing::warn!(
            "conntrack_sync.max_entries is {}, and this kernel's table has room for {room} (net.netfilter.nf_conntrack_max)",
            setup.most
        );
    }
    if events_enabled() == Some(false) {
        tracing::warn!(
            "the kernel tells of no changes of connections (net.netfilter.nf_conntrack_events = 0): they are carried over with each comparison only"
        );
    }
    let answering = {
        let (setup, board) = (setup.clone(), board.clone());
        async move {
            while let Some(aside) = asked.recv().await {
                let (setup, board) = (setup.clone(), board.clone());
                tokio::spawn(async move {
                    if let Err(error) = serve::serve(aside, &setup, &board).await {
                        tracing::debug!(%error, "a standby that asked for connections is gone");
                    }
                });
            }
        }
    };
    tokio::join!(answering, follow::follow(&setup, &streams, leader, &board));
}

/// What it means that the kernel does not let us at its table.
fn no_table(error: &io::Error) -> String {
    format!(
        "connections through this host would end with a failover: the kernel does not let the agent at its table of connections: {error}. It takes CAP_NET_ADMIN, and `modprobe nf_conntrack_netlink` where that is a module"
    )
}

/// What came over a connection does not make sense.
fn understood(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
