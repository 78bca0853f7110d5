//! The heartbeat sockets: one per path, a thread each to receive, the core's own thread to send.
//!
//! A packet is authenticated on the receiving thread; what fails is counted there and goes no further
//! (rule R5). Which peer it belongs to is decided by the address that it came from.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use holdfast_heartbeat::{Dropped, Keyring, MAX_PACKET, Message};
use socket2::{Domain, Protocol, Socket, Type};

/// Room for packets that wait while the core is busy: some thousand, more than any burst.
const RECEIVE_BUFFER: usize = 1 << 20;

/// Heartbeats that were dropped before they reached the core, by reason.
#[derive(Debug, Default)]
pub struct DropCounts([AtomicU64; Dropped::ALL.len()]);

impl DropCounts {
    fn count(&self, reason: Dropped) {
        let at = Dropped::ALL.iter().position(|known| *known == reason).expect("ALL has every reason");
        self.0[at].fetch_add(1, Ordering::Relaxed);
    }

    /// Reason and count.
    pub fn read(&self) -> impl Iterator<Item = (Dropped, u64)> + '_ {
        Dropped::ALL.iter().zip(&self.0).map(|(reason, count)| (*reason, count.load(Ordering::Relaxed)))
    }
}

/// Who is reached where.
#[derive(Clone, Debug)]
pub struct Routes {
    /// Where this member listens, by path.
    pub listen: Vec<SocketAddr>,
    /// Where each peer is reached, by path.
    pub peers: Vec<Vec<SocketAddr>>,
}

impl Routes {
    fn peer_at(&self, path: usize, from: IpAddr) -> Option<usize> {
        self.peers.iter().position(|paths| paths.get(path).is_some_and(|at| at.ip() == from))
    }
}

/// The sockets of all paths.
pub struct HeartbeatSockets {
    sockets: Vec<UdpSocket>,
    routes: Routes,
}

impl HeartbeatSockets {
    /// Binds every path.
    ///
    /// # Errors
    /// The address is not on this host, or its port is taken; says which.
    pub fn bind(routes: Routes) -> io::Result<HeartbeatSockets> {
        let sockets = routes.listen.iter().map(|at| bind(*at)).collect::<io::Result<Vec<_>>>()?;
        Ok(HeartbeatSockets { sockets, routes })
    }

    /// Starts a receiving thread per path. `deliver` gets the peer, the path and the message.
    pub fn receive(
        &self,
        keys: &Arc<Keyring>,
        counts: &Arc<DropCounts>,
        deliver: impl Fn(usize, usize, Message) + Clone + Send + 'static,
    ) -> io::Result<()> {
        for (path, socket) in self.sockets.iter().enumerate() {
            let socket = socket.try_clone()?;
            let (keys, counts, deliver) = (keys.clone(), counts.clone(), deliver.clone());
            let routes = self.routes.clone();
            std::thread::Builder::new().name(format!("heartbeat {path}")).spawn(move || {
                // One byte more than any packet, so that a longer one shows.
                let mut buffer = [0; MAX_PACKET + 1];
                loop {
                    let (length, from) = match socket.recv_from(&mut buffer) {
                        Ok(received) => received,
                        // An ICMP error for a packet that we sent: the peer is down. Not ours to judge.
                        Err(error) if transient(&error) => continue,
                        Err(error) => {
                            tracing::error!(%error, path, "the heartbeat socket failed; trying again");
                            std::thread::sleep(Duration::from_millis(100));
                            continue;
                        }
                    };
                    match keys.open(&buffer[..length]) {
                        Err(reason) => counts.count(reason),
                        Ok(message) => match routes.peer_at(path, from.ip()) {
                            Some(peer) => deliver(peer, path, message),
                            None => counts.count(Dropped::UnknownSender),
                        },
                    }
                }
            })?;
        }
        Ok(())
    }

    /// Sends without waiting. A packet that cannot leave is lost, as on any network.
    pub fn send(&self, peer: usize, path: usize, packet: &[u8]) {
        let at = self.routes.peers.get(peer).and_then(|paths| paths.get(path));
        if let (Some(at), Some(socket)) = (at, self.sockets.get(path))
            && let Err(error) = socket.send_to(packet, at)
        {
            tracing::trace!(%error, %at, "a heartbeat could not be sent");
        }
    }
}

fn transient(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        error.kind(),
        K::ConnectionRefused
            | K::ConnectionReset
            | K::HostUnreachable
            | K::NetworkUnreachable
            | K::NetworkDown
            | K::Interrupted
            | K::WouldBlock
    )
}

fn bind(at: SocketAddr) -> io::Result<UdpSocket> {
    let named = |error: io::Error| {
        io::Error::new(
            error.kind(),
            format!(
                "heartbeats cannot be received on {at}: {error}. Check that the address is on this host (ip addr) and that no other agent runs"
            ),
        )
    };
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM, Some(Protocol::UDP)).map_err(named)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER).map_err(named)?;
    // Expedited forwarding: heartbeats before bulk, where switches look at it (RFC 3246).
    if at.is_ipv4() {
        socket.set_tos_v4(0xb8).map_err(named)?;
    }
    socket.bind(&at.into()).map_err(named)?;
    Ok(socket.into())
}
