//! The heartbeat sockets: one per path, a thread each to receive, the core's own thread to send.
//!
//! A packet is authenticated on the receiving thread; what fails is counted there and goes no further
//! (rule R5). Which peer it belongs to is decided by the address that it came from, before anything else is done with
//! it: a stranger's packets cost no more than this look, but for a few a second that are authenticated to tell a wrong
//! key from a wrong address. A known address is never limited, since anybody can write it on a packet and would then
//! use up the share of whom it belongs to.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use holdfast_heartbeat::{Dropped, MAX_PACKET, Message};
use nix::sys::socket::MsgFlags;
use socket2::{Domain, Protocol, Socket, Type};

use super::peers::Peers;
use super::realtime::{Granted, Urgency};
use super::secrets::Secrets;

/// Room for packets that wait while the core is busy: some thousand, more than any burst.
const RECEIVE_BUFFER: usize = 1 << 20;

/// Packets of strangers that are authenticated in a second, on each path: enough to tell an operator what is wrong.
const STRANGERS_PER_SECOND: u32 = 20;

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

/// How many packets of strangers may still cost an authentication in this second.
struct Strangers {
    second_began: Instant,
    left: u32,
}

impl Strangers {
    fn new(now: Instant) -> Strangers {
        Strangers { second_began: now, left: STRANGERS_PER_SECOND }
    }

    /// Whether the next one may.
    fn admit(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.second_began) >= Duration::from_secs(1) {
            *self = Strangers::new(now);
        }
        let admitted = self.left > 0;
        self.left -= u32::from(admitted);
        admitted
    }
}

/// The sockets of all paths.
pub struct HeartbeatSockets {
    sockets: Vec<Socket>,
    peers: Peers,
}

impl HeartbeatSockets {
    /// Binds every path: `listen` says where.
    ///
    /// # Errors
    /// The address is not on this host, or its port is taken; says which.
    pub fn bind(listen: Vec<SocketAddr>, peers: Peers) -> io::Result<HeartbeatSockets> {
        let sockets = listen.into_iter().map(bind).collect::<io::Result<Vec<_>>>()?;
        Ok(HeartbeatSockets { sockets, peers })
    }

    /// The same sockets, for another thread that sends.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn share(&self) -> io::Result<HeartbeatSockets> {
        let sockets = self.sockets.iter().map(Socket::try_clone).collect::<io::Result<Vec<_>>>()?;
        Ok(HeartbeatSockets { sockets, peers: self.peers.clone() })
    }

    /// Starts a receiving thread per path. `deliver` gets the peer, the path and the message.
    pub fn receive(
        &self,
        keys: &Secrets,
        counts: &Arc<DropCounts>,
        granted: &Granted,
        deliver: impl Fn(usize, usize, Message) + Clone + Send + 'static,
    ) -> io::Result<()> {
        for (path, socket) in self.sockets.iter().enumerate() {
            let socket = UdpSocket::from(socket.try_clone()?);
            let (keys, counts, deliver) = (keys.clone(), counts.clone(), deliver.clone());
            let granted = granted.clone();
            let peers = self.peers.clone();
            std::thread::Builder::new().name(format!("heartbeat {path}")).spawn(move || {
                granted.hurry(Urgency::Receiver);
                // One byte more than any packet, so that a longer one shows.
                let mut buffer = [0; MAX_PACKET + 1];
                let mut strangers = Strangers::new(Instant::now());
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
                    let peer = peers.at(path, from.ip());
                    if peer.is_none() && !strangers.admit(Instant::now()) {
                        counts.count(Dropped::UnknownSender);
                        continue;
                    }
                    match (keys.now().keyring.open(&buffer[..length]), peer) {
                        (Err(reason), _) => counts.count(reason),
                        (Ok(message), Some(peer)) => deliver(peer, path, message),
                        (Ok(_), None) => counts.count(Dropped::UnknownSender),
                    }
                }
            })?;
        }
        Ok(())
    }

    /// Sends without waiting, be the socket's buffer full or not. A packet that cannot leave is lost, as on any
    /// network.
    pub fn send(&self, peer: usize, path: usize, packet: &[u8]) {
        if let (Some(at), Some(socket)) = (self.peers.heartbeat(peer, path), self.sockets.get(path))
            && let Err(error) = socket.send_to_with_flags(packet, &at.into(), MsgFlags::MSG_DONTWAIT.bits())
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

fn bind(at: SocketAddr) -> io::Result<Socket> {
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
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use holdfast_heartbeat::packet::NEWEST;
    use holdfast_heartbeat::{BootNonce, Epoch, Incarnation, Keyring, Member, NodeId, Notice};

    use super::*;
    use crate::runtime::mailbox::channel;
    use crate::runtime::secrets::Current;

    #[test]
    fn strangers_cost_an_authentication_a_few_times_a_second() {
        let mut now = Instant::now();
        let mut strangers = Strangers::new(now);
        for _ in 0..3 {
            let admitted = (0..1000).filter(|_| strangers.admit(now)).count();
            assert_eq!(admitted, STRANGERS_PER_SECOND as usize);
            now += Duration::from_secs(1);
        }
    }

    /// The body is a message that would be delivered; without a true tag nobody looks at it, not even to find fault.
    #[test]
    fn a_body_without_a_true_tag_reaches_no_parser() {
        let any = |host: &str| SocketAddr::new(host.parse().expect("an address"), 0);
        let sockets = HeartbeatSockets::bind(
            vec![any("127.0.0.1")],
            Peers::on("127.0.0.4".parse().expect("an address")),
        )
        .expect("loopback is there");
        let here = sockets.sockets[0].local_addr().expect("bound").as_socket().expect("an IP address");
        let keys = Secrets::new(Current::new([b"the key of this cluster".as_slice()]));
        let counts = Arc::new(DropCounts::default());
        let (sender, delivered) = channel();
        let deliver = move |peer, path, message| drop(sender.send((peer, path, message)));
        sockets.receive(&keys, &counts, &Granted::ask(false), deliver).expect("a thread");
        let notice = Notice {
            member: Member { id: NodeId::new("b").expect("a name"), incarnation: Incarnation(1) },
            boot: BootNonce(1),
            epoch: Epoch(1),
        };
        let good = keys.now().keyring.seal(&Message::Notice(notice.clone()), NEWEST);
        let peer = UdpSocket::bind(any("127.0.0.4")).expect("loopback");
        let (mut bad_tag, mut bad_body) = (good.clone(), good.clone());
        bad_tag[20] ^= 1;
        // Behind a true tag this is malformed; behind a false one that must not be found out.
        *bad_body.last_mut().expect("a body") = 0xff;
        for packet in [&bad_tag, &bad_body] {
            peer.send_to(packet, here).expect("sent");
        }
        peer.send_to(&good, here).expect("sent");
        let first = delivered.recv_timeout(Duration::from_secs(10));
        assert_eq!(first, Ok((0, 0, Message::Notice(notice))), "what came before was not delivered");
        let of = |reason| counts.read().find(|(known, _)| *known == reason).map_or(0, |(_, count)| count);
        assert_eq!((of(Dropped::BadMac), of(Dropped::Malformed)), (2, 0));
    }

    #[test]
    fn a_flood_of_strangers_is_dropped_and_a_peer_is_heard_through_it() {
        let any = |host: &str| SocketAddr::new(host.parse().expect("an address"), 0);
        let sockets = HeartbeatSockets::bind(
            vec![any("127.0.0.1")],
            Peers::on("127.0.0.2".parse().expect("an address")),
        )
        .expect("loopback is there");
        let here = sockets.sockets[0].local_addr().expect("bound").as_socket().expect("an IP address");
        let keys = Secrets::new(Current::new([b"the key of this cluster".as_slice()]));
        let counts = Arc::new(DropCounts::default());
        let (sender, delivered) = channel();
        let deliver = move |peer, path, message| drop(sender.send((peer, path, message)));
        sockets.receive(&keys, &counts, &Granted::ask(false), deliver).expect("a thread");

        let notice = Notice {
            member: Member { id: NodeId::new("b").expect("a name"), incarnation: Incarnation(1) },
            boot: BootNonce(1),
            epoch: Epoch(1),
        };
        let message = Message::Notice(notice);
        let (peer, stranger) = (UdpSocket::bind(any("127.0.0.2")), UdpSocket::bind(any("127.0.0.3")));
        let (peer, stranger) = (peer.expect("loopback"), stranger.expect("loopback"));
        let forged = Keyring::new([b"another key".as_slice()]).seal(&message, NEWEST);
        let began = Instant::now();
        for _ in 0..10 {
            for _ in 0..200 {
                stranger.send_to(&forged, here).expect("sent");
            }
            peer.send_to(&keys.now().keyring.seal(&message, NEWEST), here).expect("sent");
            assert_eq!(delivered.recv_timeout(Duration::from_secs(10)), Ok((0, 0, message.clone())));
        }
        let allowed = u64::from(STRANGERS_PER_SECOND) * (began.elapsed().as_secs() + 1);
        let of = |reason| counts.read().find(|(known, _)| *known == reason).map_or(0, |(_, count)| count);
        let (tried, strangers) = (of(Dropped::UnknownKey), of(Dropped::UnknownSender));
        assert!((1..=allowed).contains(&tried), "{tried} packets of strangers were authenticated");
        assert_eq!(tried + strangers, 2000);
    }
}
