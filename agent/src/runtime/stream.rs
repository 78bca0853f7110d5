//! The replication connections: TCP, Noise, frames. What the frames mean is the log's business.
//!
//! A standby connects to the primary that the core names, again and again until it is told otherwise;
//! every data member accepts. A connection is a reading and a writing task; both end together.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::Guard;
use holdfast_replication::replica::{ConnId, Input};
use holdfast_replication::stream::{
    Channel, ErrorCounts, Frame, NoiseSession, Opener, Pace, Sealer, StreamError, StreamErrorKind,
};
use nix::sys::socket::sockopt::{RcvBufForce, SndBufForce};
use nix::sys::socket::{SetSockOpt, setsockopt};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::address;
use super::core::Leader;
use super::log_thread::{LogInput, ToPeer};
use super::mailbox::Sender;
use super::peers::Peers;
use super::secrets::Secrets;

/// Connections from the address of one peer that stand at once: one, its successor, and what a cut left of others.
const MAX_OF_A_PEER: usize = 4;
/// Connections from all other addresses together: a peer behind another address may still prove who it is, and a
/// stranger takes no place from a peer.
const MAX_OF_STRANGERS: usize = 4;
/// A handshake takes two packets; one that takes longer is none.
pub const HANDSHAKE_WITHIN: Duration = Duration::from_secs(2);
/// A connection attempt.
pub const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// A connection over which nothing was acknowledged for this long is given up and made anew. Left to TCP it
/// would be silent for up to two minutes after a cut of the link has been mended.
pub const SILENCE: Duration = Duration::from_secs(2);
/// How often an idle connection is asked whether it still stands.
const KEEPALIVE: Duration = Duration::from_secs(1);
/// First wait after a failed attempt; doubles up to [`LONGEST_RETRY`].
pub const FIRST_RETRY: Duration = Duration::from_millis(5);
/// See [`FIRST_RETRY`].
pub const LONGEST_RETRY: Duration = Duration::from_secs(1);
/// Bytes of a handshake that are read at once, and at most.
const HANDSHAKE_READ: usize = 4096;
/// Bytes read at once.
const READ: usize = 256 << 10;
/// What may be on its way to the other side, in bytes, as the log's window allows it. The kernel's own limits are for
/// many connections to strangers, and would leave a long link empty most of the time: 4 MiB at 100 ms are 40 MB/s.
const ON_ITS_WAY: usize = 16 << 20;
/// Sealed bytes that are gathered before they are written.
const GATHER: usize = 1 << 20;

/// A connection beside the log's, with the handshake done: for what may be lost, and must not delay the log.
pub struct Aside {
    /// The connection, belonging to no runtime.
    pub stream: std::net::TcpStream,
    /// Encrypts what goes out.
    pub sealer: Sealer,
    /// Decrypts what comes in. Until the first message does, the other side has proved nothing.
    pub opener: Opener,
    /// Counts among the connections that may be accepted, until it is dropped.
    pub place: Option<OwnedSemaphorePermit>,
}

/// What went over this member's connections with the others.
#[derive(Debug, Default)]
pub struct StreamCounts {
    errors: Mutex<ErrorCounts>,
    frame_bytes: AtomicU64,
    wire_bytes: AtomicU64,
}

impl StreamCounts {
    /// Connections that were closed for what came over them, by reason.
    pub fn errors(&self) -> Vec<(&'static str, u64)> {
        self.errors.lock().iter().collect()
    }

    /// The log had a connection closed.
    fn closed(&self, refused: bool) {
        if refused {
            self.errors.lock().count(&StreamError(StreamErrorKind::Refused));
        }
    }

    /// Bytes of frames that were sent: of the log, for the most part.
    pub fn frame_bytes(&self) -> u64 {
        self.frame_bytes.load(Ordering::Relaxed)
    }

    /// What of it went over the wire, encrypted, and compressed where it was.
    pub fn wire_bytes(&self) -> u64 {
        self.wire_bytes.load(Ordering::Relaxed)
    }
}

/// The stream's two ends on this member.
#[derive(Clone)]
pub struct Streams {
    secrets: Secrets,
    /// Which of them this side opens its next connection with: the next one after a failed handshake.
    opening: Arc<AtomicU64>,
    log: Arc<Mutex<Sender<LogInput>>>,
    next: Arc<AtomicU64>,
    counts: Arc<StreamCounts>,
    /// Whether what goes out is compressed where the other side understands that.
    compression: bool,
    /// Who takes connections beside the log's; where nobody does, they are strangers.
    asides: Option<mpsc::Sender<Aside>>,
}

impl Streams {
    /// Streams that speak with the first of `secrets`, understand the others too, and hand what they get
    /// to `log`.
    pub fn new(secrets: Secrets, log: Sender<LogInput>) -> Streams {
        Streams {
            secrets,
            opening: Arc::default(),
            log: Arc::new(Mutex::new(log)),
            next: Arc::new(AtomicU64::new(1)),
            counts: Arc::default(),
            compression: false,
            asides: None,
        }
    }

    /// The same, and what goes over them is counted there.
    pub fn counted_in(mut self, counts: Arc<StreamCounts>) -> Streams {
        self.counts = counts;
        self
    }

    /// The same, and what goes out is compressed where the other side understands that.
    pub fn compressing(mut self, compression: bool) -> Streams {
        self.compression = compression;
        self
    }

    /// The same, and whoever opens a connection beside the log's is sent to `asides`.
    pub fn with_asides(mut self, asides: mpsc::Sender<Aside>) -> Streams {
        self.asides = Some(asides);
        self
    }

    /// These secrets, for connections that this side opens beside the log's: that one of them fails does not
    /// change what the log's next one begins with.
    pub fn opening_asides(&self) -> Streams {
        Streams { opening: Arc::default(), asides: None, ..self.clone() }
    }

    /// Opens a connection beside the log's, over `interface` where one is named.
    ///
    /// # Errors
    /// Nobody answers at `at`, or it closes the connection: it is of another version, has another secret, or
    /// wants no such connection.
    pub async fn open_aside(
        &self,
        at: SocketAddr,
        from: SocketAddr,
        interface: Option<&str>,
    ) -> io::Result<(TcpStream, Sealer, Opener)> {
        let mut stream = connect(at, from, interface).await?;
        stream.set_nodelay(true)?;
        give_up_when_silent(&stream)?;
        let mut early = Vec::new();
        let shaken = self.shake_first(&mut stream, Channel::Aside, &mut early);
        let (sealer, opener) = self.in_time(shaken).await?;
        Ok((stream, sealer, opener))
    }

    /// Accepts until the process ends. `peers`: where the other members are.
    pub async fn accept(self, listener: TcpListener, peers: Peers) {
        let places = Places::new(peers);
        loop {
            match listener.accept().await {
                Ok((stream, from)) => {
                    let Some(place) = places.take(from.ip()) else {
                        tracing::debug!(%from, "a replication connection was closed: too many of its kind");
                        continue;
                    };
                    let streams = self.clone();
                    tokio::spawn(async move {
                        if let Err(error) = streams.converse(stream, Some(place)).await {
                            tracing::debug!(%error, %from, "replication connection ended");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a replication connection could not be accepted");
                    tokio::time::sleep(FIRST_RETRY * 10).await;
                }
            }
        }
    }

    /// Keeps a connection to whomever `leader` names, at the address that `peers` has for it;
    /// `from`: this member's own address, so that the primary sees who it is.
    pub async fn follow(self, mut leader: watch::Receiver<Leader>, peers: Peers, from: SocketAddr) {
        loop {
            let named = *leader.borrow_and_update();
            let at = named.and_then(|(_, peer)| peers.replication(peer));
            let Some(at) = at else {
                if leader.changed().await.is_err() {
                    return;
                }
                continue;
            };
            tokio::select! {
                () = self.keep_connected(at, from) => {}
                changed = leader.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn keep_connected(&self, at: SocketAddr, from: SocketAddr) {
        let mut wait = FIRST_RETRY;
        loop {
            match connect(at, from, None).await {
                Ok(stream) => {
                    let begun = tokio::time::Instant::now();
                    let ended = self.converse(stream, None).await;
                    tracing::debug!(?ended, %at, "the stream from the primary ended; connecting again");
                    // A primary that closes at once is none yet, or no more: ask it ever less often.
                    if begun.elapsed() > LONGEST_RETRY {
                        wait = FIRST_RETRY;
                    }
                }
                Err(error) => tracing::debug!(%error, %at, "the primary's log cannot be reached yet"),
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST_RETRY);
        }
    }

    /// `place`: where the other side opened the connection.
    async fn converse(&self, stream: TcpStream, place: Option<OwnedSemaphorePermit>) -> io::Result<()> {
        let initiated = place.is_none();
        stream.set_nodelay(true)?;
        give_up_when_silent(&stream)?;
        make_room(&stream, SndBufForce);
        let mut stream = stream;
        let mut early = Vec::new();
        let shaken = self.shake(&mut stream, initiated, &mut early);
        let (channel, mut sealer, opener) = self.in_time(shaken).await?;
        if channel == Channel::Aside {
            let aside = Aside { stream: stream.into_std()?, sealer, opener, place };
            // Too many at once, or nobody any more: it is closed, and its owner tries again.
            if let Some(asides) = &self.asides {
                let _ = asides.try_send(aside);
            }
            return Ok(());
        }

        if self.compression {
            sealer.compress();
        }
        tracing::debug!(agreed = %sealer.agreed(), initiated, "a replication connection is open");
        let conn = ConnId(self.next.fetch_add(1, Ordering::Relaxed));
        let (frames, outgoing) = mpsc::unbounded_channel();
        let mut guard = Registered { streams: self, conn, frames: Some(frames), initiated, announced: false };
        // The side that opened the connection knows by now that the other has the secret. The side
        // that accepted knows it with the first frame, and lets the log know of nobody before that.
        if initiated {
            guard.announce();
        }
        let (reader, writer) = stream.into_split();
        let sending = send(writer, sealer, outgoing, &self.counts);
        let receiving = self.receive(reader, opener, early, &mut guard);
        tokio::select! {
            sent = sending => sent,
            received = receiving => received,
        }
    }

    /// A handshake that does not take too long.
    async fn in_time<T>(&self, shaken: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let slow = |_| self.count(StreamError(StreamErrorKind::Slow));
        tokio::time::timeout(HANDSHAKE_WITHIN, shaken).await.map_err(slow)?
    }

    async fn shake(
        &self,
        stream: &mut TcpStream,
        initiator: bool,
        early: &mut Vec<Frame>,
    ) -> io::Result<(Channel, Sealer, Opener)> {
        if initiator {
            let (sealer, opener) = self.shake_first(stream, Channel::Log, early).await?;
            Ok((Channel::Log, sealer, opener))
        } else {
            self.shake_second(stream, early).await
        }
    }

    async fn shake_first(
        &self,
        stream: &mut TcpStream,
        channel: Channel,
        early: &mut Vec<Frame>,
    ) -> io::Result<(Sealer, Opener)> {
        let outcome = self.open_session(stream, channel, early).await;
        if outcome.is_err() {
            self.opening.fetch_add(1, Ordering::Relaxed);
        }
        outcome
    }

    async fn open_session(
        &self,
        stream: &mut TcpStream,
        channel: Channel,
        early: &mut Vec<Frame>,
    ) -> io::Result<(Sealer, Opener)> {
        let mut session = {
            let secrets = self.secrets.now();
            let turn = self.opening.load(Ordering::Relaxed) as usize % secrets.plain.len();
            NoiseSession::initiator_of(channel, &secrets.plain[turn]).map_err(|error| self.count(error))?
        };
        let mut out = Vec::new();
        session.start(&mut out).map_err(|error| self.count(error))?;
        stream.write_all(&out).await?;
        let mut buffer = vec![0; HANDSHAKE_READ];
        while !session.is_open() {
            let read = read_some(stream, &mut buffer).await?;
            out.clear();
            session.feed(&buffer[..read], &mut out, early).map_err(|error| self.count(error))?;
            stream.write_all(&out).await?;
        }
        session.into_halves().map_err(|error| self.count(error))
    }

    /// The other side's first message shows which of the secrets it speaks with, and what about.
    async fn shake_second(
        &self,
        stream: &mut TcpStream,
        early: &mut Vec<Frame>,
    ) -> io::Result<(Channel, Sealer, Opener)> {
        let channels = [Some(Channel::Log), self.asides.as_ref().map(|_| Channel::Aside)];
        let mut heard = Vec::new();
        let mut buffer = vec![0; HANDSHAKE_READ];
        let secrets = Guard::into_inner(self.secrets.now());
        loop {
            let read = stream.read(&mut buffer).await?;
            if read == 0 {
                return Err(match heard.is_empty() {
                    true => io::ErrorKind::UnexpectedEof.into(),
                    false => self.count(StreamError(StreamErrorKind::Truncated)),
                });
            }
            heard.extend_from_slice(&buffer[..read]);
            let mut last = None;
            for channel in channels.into_iter().flatten() {
                for secret in &secrets.plain {
                    let mut session =
                        NoiseSession::responder_of(channel, secret).map_err(|error| self.count(error))?;
                    let mut out = Vec::new();
                    match session.feed(&heard, &mut out, early) {
                        Ok(()) if session.is_open() => {
                            stream.write_all(&out).await?;
                            let (sealer, opener) =
                                session.into_halves().map_err(|error| self.count(error))?;
                            return Ok((channel, sealer, opener));
                        }
                        // Not whole yet, whichever it is.
                        Ok(()) => last = None,
                        Err(error) if error.0 == StreamErrorKind::Version => {
                            // It has the secret: it is told what this side speaks.
                            stream.write_all(&out).await?;
                            return Err(self.count(error));
                        }
                        Err(error) => last = Some(error),
                    }
                }
            }
            if let Some(error) = last {
                return Err(self.count(error));
            }
            if heard.len() > HANDSHAKE_READ {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "an endless handshake"));
            }
        }
    }

    async fn receive(
        &self,
        mut reader: tokio::net::tcp::OwnedReadHalf,
        mut opener: Opener,
        early: Vec<Frame>,
        guard: &mut Registered<'_>,
    ) -> io::Result<()> {
        let mut buffer = vec![0; READ];
        let mut frames = early;
        // The side that opened the connection knows already that the other one has the secret.
        let mut pace = if guard.initiated { Pace::proved() } else { Pace::unproved(address::now()) };
        pace.received(address::now(), 0, frames.len(), opener.has_part());
        loop {
            for frame in frames.drain(..) {
                guard.announce();
                if self.log.lock().send(LogInput::Replica(Input::Frame { conn: guard.conn, frame })).is_err()
                {
                    return Ok(());
                }
            }
            let reading = reader.read(&mut buffer);
            let read = match pace.due() {
                None => reading.await?,
                Some(due) => tokio::time::timeout(due.since(address::now()), reading)
                    .await
                    .map_err(|_| self.count(StreamError(StreamErrorKind::Slow)))??,
            };
            if read == 0 {
                return match opener.has_part() {
                    true => Err(self.count(StreamError(StreamErrorKind::Truncated))),
                    false => Ok(()),
                };
            }
            opener.feed(&buffer[..read], &mut frames).map_err(|error| self.count(error))?;
            pace.received(address::now(), read, frames.len(), opener.has_part());
        }
    }

    fn count(&self, error: StreamError) -> io::Error {
        // As often as a member tries: said once, and counted each time.
        if self.counts.errors.lock().count(&error) == 1 && error.0 == StreamErrorKind::Version {
            tracing::warn!(
                "{error}; until then no stream stands between the two, and writes wait for it no longer than standby_timeout"
            );
        }
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

/// How many connections may stand, by whose address they come from.
struct Places {
    peers: Peers,
    of_peers: Mutex<HashMap<IpAddr, Arc<Semaphore>>>,
    strangers: Arc<Semaphore>,
}

impl Places {
    fn new(peers: Peers) -> Places {
        Places { peers, of_peers: Mutex::default(), strangers: Arc::new(Semaphore::new(MAX_OF_STRANGERS)) }
    }

    /// A place for one from `ip`, if there is one.
    fn take(&self, ip: IpAddr) -> Option<OwnedSemaphorePermit> {
        let ip = ip.to_canonical();
        let places = match self.peers.has_data_member_on(ip) {
            true => {
                let mut known = self.of_peers.lock();
                known.entry(ip).or_insert_with(|| Arc::new(Semaphore::new(MAX_OF_A_PEER))).clone()
            }
            false => self.strangers.clone(),
        };
        places.try_acquire_owned().ok()
    }
}

/// Tells the log of the connection's end however it comes about.
struct Registered<'a> {
    streams: &'a Streams,
    conn: ConnId,
    frames: Option<mpsc::UnboundedSender<ToPeer>>,
    initiated: bool,
    announced: bool,
}

impl Registered<'_> {
    fn announce(&mut self) {
        if let Some(frames) = self.frames.take() {
            self.announced = true;
            let connected = LogInput::Connected { conn: self.conn, initiated: self.initiated, frames };
            let _ = self.streams.log.lock().send(connected);
        }
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        if self.announced {
            let _ = self.streams.log.lock().send(LogInput::Replica(Input::Disconnected { conn: self.conn }));
        }
    }
}

async fn send(
    mut writer: tokio::net::tcp::OwnedWriteHalf,
    mut sealer: Sealer,
    mut outgoing: mpsc::UnboundedReceiver<ToPeer>,
    counts: &StreamCounts,
) -> io::Result<()> {
    let seal = |sealer: &mut Sealer, frame: &Frame, bytes: &mut Vec<u8>| {
        let had = bytes.len();
        let plain = sealer.seal(frame, bytes).map_err(io::Error::other)?;
        counts.frame_bytes.fetch_add(plain as u64, Ordering::Relaxed);
        counts.wire_bytes.fetch_add((bytes.len() - had) as u64, Ordering::Relaxed);
        io::Result::Ok(())
    };
    let mut bytes = Vec::new();
    let mut closing = false;
    while !closing {
        match outgoing.recv().await {
            Some(ToPeer::Frame(frame)) => seal(&mut sealer, &frame, &mut bytes)?,
            Some(ToPeer::Close { refused }) => {
                counts.closed(refused);
                break;
            }
            // The log has not heard of this connection yet, or has forgotten it.
            None => std::future::pending().await,
        }
        while bytes.len() < GATHER {
            match outgoing.try_recv() {
                Ok(ToPeer::Frame(frame)) => seal(&mut sealer, &frame, &mut bytes)?,
                Ok(ToPeer::Close { refused }) => {
                    counts.closed(refused);
                    closing = true;
                    break;
                }
                Err(_) => break,
            }
        }
        writer.write_all(&bytes).await?;
        bytes.clear();
    }
    writer.shutdown().await
}

async fn read_some(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    match stream.read(buffer).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        read => Ok(read),
    }
}

/// Lets a connection have much on its way, where this process may: `direction` is what it is about to be used for.
/// Otherwise the kernel's limits hold.
fn make_room(socket: &impl AsFd, direction: impl SetSockOpt<Val = usize>) {
    if let Err(error) = setsockopt(socket, direction, &ON_ITS_WAY) {
        tracing::debug!(%error, "the stream goes with the kernel's own buffers");
    }
}

/// Lets the kernel end a connection whose other side is silent, be it idle or not.
fn give_up_when_silent(stream: &TcpStream) -> io::Result<()> {
    let socket = socket2::SockRef::from(stream);
    let keepalive =
        socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE).with_retries(2);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(SILENCE))
}

async fn connect(at: SocketAddr, from: SocketAddr, interface: Option<&str>) -> io::Result<TcpStream> {
    let socket = if at.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(interface) = interface {
        // The kernel chooses the address that belongs to the interface.
        socket.bind_device(Some(interface.as_bytes()))?;
    } else if at.is_ipv4() == from.is_ipv4() {
        socket.bind(SocketAddr::new(from.ip(), 0))?;
    }
    // Before it is connected: how far its window can open is said in the first packet.
    make_room(&socket, RcvBufForce);
    tokio::time::timeout(CONNECT_WITHIN, socket.connect(at))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    use holdfast_replication::stream::{Features, MAX_FRAME, Offer};

    use crate::runtime::secrets::Current;

    const OLD: &[u8] = b"the secret that is going";
    const NEW: &[u8] = b"the secret that is coming";

    /// Whether a handshake between these two sides comes about within `tries` connections.
    async fn meet(opens: &[&[u8]], accepts: &[&[u8]], tries: usize) -> bool {
        let (log, _kept) = crate::runtime::mailbox::channel();
        let with = |secrets: &[&[u8]]| Secrets::new(Current::new(secrets.iter().copied()));
        let opens = Streams::new(with(opens), log.clone());
        let accepts = Streams::new(with(accepts), log);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        for _ in 0..tries {
            let (near, far) = tokio::join!(TcpStream::connect(at), listener.accept());
            let (mut near, mut far) = (near.unwrap(), far.unwrap().0);
            let first = async {
                let shaken = opens.shake(&mut near, true, &mut Vec::new()).await;
                drop(near);
                shaken.is_ok()
            };
            let second = async {
                let shaken = accepts.shake(&mut far, false, &mut Vec::new()).await;
                drop(far);
                shaken.is_ok()
            };
            if tokio::join!(first, second) == (true, true) {
                return true;
            }
        }
        false
    }

    #[tokio::test]
    async fn a_secret_is_replaced_member_by_member_without_losing_the_stream() {
        assert!(meet(&[OLD], &[OLD], 1).await);
        assert!(meet(&[OLD], &[NEW, OLD], 1).await, "the side that knows both understands the old one");
        assert!(meet(&[NEW, OLD], &[OLD], 2).await, "the side that knows both falls back to the old one");
        assert!(meet(&[NEW, OLD], &[NEW], 1).await);
        assert!(!meet(&[NEW], &[OLD], 4).await, "a wrong secret stays wrong");
    }

    #[tokio::test]
    async fn a_release_that_is_too_far_away_learns_it_and_is_counted() {
        let (log, logged) = crate::runtime::mailbox::channel();
        let counts = Arc::new(StreamCounts::default());
        let streams = Streams::new(Secrets::new(Current::new([OLD, NEW])), log).counted_in(counts.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let accepting = tokio::spawn(streams.accept(listener, Peers::of_slots(Vec::new())));
        let offer = Offer { versions: 200..=201, features: Features::NONE };
        let mut later = NoiseSession::initiator(NEW).unwrap().offering(offer);
        let mut out = Vec::new();
        later.start(&mut out).unwrap();
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(&out).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(HANDSHAKE_WITHIN * 10, stream.read_to_end(&mut answer)).await;
        read.expect("it is closed").unwrap();
        let error = later.feed(&answer, &mut Vec::new(), &mut Vec::new()).unwrap_err();
        assert_eq!(error.0, StreamErrorKind::Version);
        assert!(counts.errors().contains(&("version", 1)), "{:?}", counts.errors());
        assert!(logged.try_recv().is_err(), "the log heard of it");
        accepting.abort();
    }

    #[tokio::test]
    async fn strangers_wait_for_nothing_take_no_place_of_a_peer_and_reach_no_log() {
        let (log, logged) = crate::runtime::mailbox::channel();
        let streams = Streams::new(Secrets::new(Current::new([NEW])), log);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let peer: IpAddr = "127.0.0.2".parse().unwrap();
        let accepting = tokio::spawn(streams.clone().accept(listener, Peers::on(peer)));
        let come = async |ip: &str| {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(SocketAddr::new(ip.parse().unwrap(), 0)).unwrap();
            socket.connect(at).await.unwrap()
        };
        // One byte of a handshake each, and never the rest.
        let mut strangers = Vec::new();
        for _ in 0..4 * MAX_OF_STRANGERS {
            let mut stranger = come("127.0.0.3").await;
            let _ = stranger.write_all(&[0]).await;
            strangers.push(stranger);
        }
        let mut near = come("127.0.0.2").await;
        let of_peer = Streams::new(Secrets::new(Current::new([NEW])), crate::runtime::mailbox::channel().0);
        of_peer.shake(&mut near, true, &mut Vec::new()).await.expect("a peer gets through");
        // What makes no handshake is not waited for: an announced length that is another one, and any other bytes.
        for wrong in [[0xff, 0xff].as_slice(), b"GET / HTTP/1.1\r\n\r\n", &[0, 48, 9, 9]] {
            let mut other = come("127.0.0.2").await;
            let _ = other.write_all(wrong).await;
            if wrong[..2] == [0, 48] {
                continue;
            }
            let end = tokio::time::timeout(HANDSHAKE_WITHIN * 10, other.read(&mut [0; 64])).await;
            assert!(matches!(end.expect("it is closed"), Ok(0) | Err(_)), "a stranger got an answer");
        }
        for mut stranger in strangers {
            let end = tokio::time::timeout(HANDSHAKE_WITHIN * 10, stranger.read(&mut [0; 64])).await;
            assert!(matches!(end.expect("it is closed"), Ok(0) | Err(_)), "a stranger got an answer");
        }
        assert!(logged.try_recv().is_err(), "the log heard of somebody who proved nothing");
        accepting.abort();
    }

    /// Between two bytes of who drips.
    const APART: Duration = Duration::from_millis(300);

    /// An attacker's end of a connection.
    struct Attacker {
        stream: TcpStream,
        /// Once the handshake is done.
        sealer: Option<Sealer>,
        /// All that was sent, for whoever wants to say it again.
        said: Vec<u8>,
    }

    impl Attacker {
        async fn stranger(at: SocketAddr) -> Attacker {
            let stream = TcpStream::connect(at).await.unwrap();
            Attacker { stream, sealer: None, said: Vec::new() }
        }

        /// Somebody who knows the secret.
        async fn proved(at: SocketAddr) -> Attacker {
            let mut attacker = Attacker::stranger(at).await;
            let mut session = NoiseSession::initiator(NEW).unwrap();
            let (mut out, mut buffer) = (Vec::new(), [0; 1024]);
            session.start(&mut out).unwrap();
            attacker.send(&out).await;
            while !session.is_open() {
                let read = attacker.stream.read(&mut buffer).await.unwrap();
                session.feed(&buffer[..read], &mut Vec::new(), &mut Vec::new()).unwrap();
            }
            attacker.sealer = Some(session.into_halves().unwrap().0);
            attacker
        }

        async fn send(&mut self, bytes: &[u8]) {
            self.said.extend_from_slice(bytes);
            // The other side may have closed it already: that is what is looked at.
            let _ = self.stream.write_all(bytes).await;
        }

        /// The wire's bytes of `count` frames.
        fn frames(&mut self, count: u64) -> Vec<Vec<u8>> {
            let sealer = self.sealer.as_mut().expect("a session");
            let sealed = |token| {
                let mut wire = Vec::new();
                sealer.seal(&Frame::Ask { token }, &mut wire).unwrap();
                wire
            };
            (0..count).map(sealed).collect()
        }

        /// One byte now and then, until the other side has enough of it.
        async fn drip(&mut self, bytes: &[u8]) {
            for byte in bytes {
                let mut answer = [0; 64];
                let closed = self.stream.read(&mut answer);
                if matches!(tokio::time::timeout(APART, closed).await, Ok(Ok(0) | Err(_))) {
                    return;
                }
                self.send(&[*byte]).await;
            }
        }
    }

    /// What a member makes of an attack: the reasons that it counted, and how many frames its log was given. It must have
    /// closed the connection, or the attacker did.
    async fn suffers(proved: bool, attack: impl AsyncFnOnce(&mut Attacker)) -> (Vec<&'static str>, usize) {
        let (log, logged) = crate::runtime::mailbox::channel();
        let counts = Arc::new(StreamCounts::default());
        let streams = Streams::new(Secrets::new(Current::new([NEW])), log).counted_in(counts.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let accepting = tokio::spawn(streams.accept(listener, Peers::of_slots(Vec::new())));
        let mut attacker = match proved {
            true => Attacker::proved(at).await,
            false => Attacker::stranger(at).await,
        };
        attack(&mut attacker).await;
        let ended = async {
            while !matches!(attacker.stream.read(&mut [0; 64]).await, Ok(0) | Err(_)) {}
            // It is counted before it is closed, and closed before the log hears of it.
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        tokio::time::timeout(Duration::from_secs(20), ended).await.expect("the connection is closed");
        accepting.abort();
        let reasons = counts.errors().into_iter().filter(|(_, count)| *count > 0).map(|(reason, _)| reason);
        let frames =
            logged.try_iter().filter(|input| matches!(input, LogInput::Replica(Input::Frame { .. })));
        (reasons.collect(), frames.count())
    }

    /// A message that follows the protocol, of whom the log does not take it.
    #[tokio::test]
    async fn what_the_log_refuses_is_closed_and_counted() {
        let (log, logged) = crate::runtime::mailbox::channel();
        let counts = Arc::new(StreamCounts::default());
        let streams = Streams::new(Secrets::new(Current::new([NEW])), log).counted_in(counts.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let accepting = tokio::spawn(streams.accept(listener, Peers::of_slots(Vec::new())));
        let refusing = std::thread::spawn(move || {
            let mut way = None;
            for input in logged {
                match input {
                    LogInput::Connected { frames, .. } => way = Some(frames),
                    LogInput::Replica(Input::Frame { .. }) => {
                        let way = way.take().expect("it was connected first");
                        return way.send(ToPeer::Close { refused: true }).unwrap();
                    }
                    _ => {}
                }
            }
        });
        let mut peer = Attacker::proved(at).await;
        let frame = peer.frames(1).concat();
        peer.send(&frame).await;
        while !matches!(peer.stream.read(&mut [0; 64]).await, Ok(0) | Err(_)) {}
        refusing.join().unwrap();
        accepting.abort();
        let counted: Vec<_> = counts.errors().into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [("refused", 1)]);
    }

    #[tokio::test]
    async fn what_does_not_belong_on_the_stream_is_closed_counted_and_reaches_no_log() {
        let handshake = |secret: &[u8]| {
            let (mut session, mut out) = (NoiseSession::initiator(secret).unwrap(), Vec::new());
            session.start(&mut out).unwrap();
            out
        };
        let (wrong, cut, dripped) = (handshake(OLD), handshake(NEW), handshake(NEW));
        let recorded = std::cell::RefCell::new(Vec::new());
        let honest = suffers(true, async |peer| {
            let frames = peer.frames(2).concat();
            peer.send(&frames).await;
            recorded.replace(peer.said.clone());
            // What is sent is read before the end is.
            let _ = peer.stream.shutdown().await;
        });
        assert_eq!(honest.await, (vec![], 2), "an honest peer");
        let recorded = recorded.into_inner();

        let wrong_secret = suffers(false, async |peer| peer.send(&wrong).await);
        let replayed = suffers(false, async |peer| peer.send(&recorded).await);
        let cut_handshake = suffers(false, async |peer| {
            peer.send(&cut[..cut.len() / 2]).await;
            let _ = peer.stream.shutdown().await;
        });
        let truncated = suffers(true, async |peer| {
            let frames = peer.frames(2).concat();
            peer.send(&frames[..frames.len() - 1]).await;
            let _ = peer.stream.shutdown().await;
        });
        let flipped = suffers(true, async |peer| {
            let mut frames = peer.frames(3);
            *frames[1].last_mut().unwrap() ^= 4;
            peer.send(&frames.concat()).await;
        });
        let swapped = suffers(true, async |peer| {
            let mut frames = peer.frames(2);
            frames.swap(0, 1);
            peer.send(&frames.concat()).await;
        });
        let repeated = suffers(true, async |peer| {
            let frames = peer.frames(1);
            peer.send(&[frames.clone(), frames].concat().concat()).await;
        });
        let oversized = suffers(true, async |peer| {
            let (mut wire, head) = (Vec::new(), (MAX_FRAME as u32 + 1).to_be_bytes());
            peer.sealer.as_mut().unwrap().seal_message(&head, &mut wire);
            peer.send(&wire).await;
        });
        let impossible = suffers(true, async |peer| peer.send(&[0, 3, 1, 1, 1]).await);
        let no_frame = suffers(true, async |peer| {
            let mut wire = Vec::new();
            peer.sealer.as_mut().unwrap().seal_bytes(&[0xee; 40], &mut wire).unwrap();
            peer.send(&wire).await;
        });
        let slow_handshake = suffers(false, async |peer| peer.drip(&dripped).await);
        let slow_stranger = suffers(true, async |peer| {
            let frames = peer.frames(1).concat();
            peer.drip(&frames).await;
        });
        let slow_member = suffers(true, async |peer| {
            let frames = peer.frames(2);
            peer.send(&frames[0]).await;
            peer.drip(&frames[1]).await;
        });
        let strangers =
            async { tokio::join!(wrong_secret, replayed, cut_handshake, slow_handshake, slow_stranger) };
        let members = async {
            tokio::join!(truncated, flipped, swapped, repeated, oversized, impossible, no_frame, slow_member)
        };
        let (strangers, members) = tokio::join!(strangers, members);
        let none = |reason| (vec![reason], 0);
        assert_eq!(
            strangers,
            (none("handshake"), none("decrypt"), none("truncated"), none("slow"), none("slow"))
        );
        // What came in one piece with a wrong frame may go with it, and nothing behind it comes through.
        let came = |suffered: (Vec<&'static str>, usize)| (suffered.0.concat(), suffered.1 <= 1);
        let (truncated, flipped, swapped, repeated, oversized, impossible, no_frame, slow) = members;
        assert_eq!(
            [came(flipped), came(repeated)],
            [("decrypt".to_owned(), true), ("decrypt".to_owned(), true)]
        );
        assert_eq!(
            [truncated, swapped, oversized, impossible, no_frame, slow],
            [
                (vec!["truncated"], 1),
                none("decrypt"),
                none("too_large"),
                none("length"),
                none("bad_frame"),
                (vec!["slow"], 1)
            ]
        );
    }
}
