//! The thread that owns the log, and the backend through which the S3 service writes to it.
//!
//! It takes what has come in, lets the [`Replica`] write it and say what must be sent, sends that, and
//! only then syncs the disk: the standby writes and syncs at the same time as this member does. What
//! came in during a sync is one batch for the next (group commit).

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use holdfast_heartbeat::{Epoch, Lsn, Member};
use holdfast_replication::disk::FileDisk;
use holdfast_replication::log::OpenOptions;
use holdfast_replication::replica::{
    Acknowledgement, ConnId, Done, Input, Output, Replica, ReplicaOptions, ReplicaStatus, SubmitError, Wait,
};
use holdfast_replication::stream::{Frame, Verdict};
use holdfast_replication::{LogError, RecordKind};
use holdfast_store::apply::Outcome;
use holdfast_store::backend::{Backend, NotServing, WriteError};
use holdfast_store::machine::Machine;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Semaphore, oneshot};

use super::lease::Lease;
use super::log_times::{LogTimes, StandbyWait};
use super::mailbox::{Receiver, Sender};
use super::sameness::{self, Asked, SamenessBoard};
use super::{address, freshness};
use crate::node::event::Event;

/// Inputs that one sync may cover.
const BATCH: usize = 4096;
/// Bytes of object data that may be on their way to the log at once: bounds memory, not throughput.
const IN_FLIGHT_BYTES: usize = 64 << 20;
/// Space that is left free on the log's disk: the index needs some to record what was acknowledged, and
/// an index that runs out of it is out of service.
const RESERVE_BYTES: u64 = 256 << 20;
/// On a small disk the reserve is this share of it instead.
const RESERVE_SHARE: u64 = 16;
/// How often the free space is looked at.
const LOOK_AT_SPACE: Duration = Duration::from_millis(100);
/// How often an idle log says where it stands.
const IDLE: Duration = Duration::from_millis(500);

/// Who waits for the outcome of a write.
pub type Reply = oneshot::Sender<Result<Done<Outcome>, SubmitError>>;
/// The replica as this agent runs it.
pub type Engine = Replica<FileDisk, Machine, Reply>;

/// What reaches the log's thread.
pub enum LogInput {
    /// Something for the replica.
    Replica(Input<Reply>),
    /// A stream connection stands; frames for it go into `frames`.
    Connected {
        /// Its name.
        conn: ConnId,
        /// Opened by this side.
        initiated: bool,
        /// The way to its writing task.
        frames: UnboundedSender<ToPeer>,
    },
    /// To delete what was set aside under that name, for good; what it was.
    DeleteArchive {
        /// Which.
        name: String,
        /// Who waits for it.
        reply: oneshot::Sender<std::io::Result<Option<holdfast_replication::set_aside::Archive>>>,
    },
}

/// What a connection's writing task is given.
#[derive(Debug)]
pub enum ToPeer {
    /// Send this.
    Frame(Frame),
    /// Send what is queued and close.
    Close {
        /// What came over it did not fit the log.
        refused: bool,
    },
}

/// Why the log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The log itself.
    #[error("the log in {path} cannot be opened: {error}")]
    Log {
        /// The directory.
        path: String,
        /// Why.
        error: LogError,
    },
    /// The directory.
    #[error("{path}: {error}")]
    Io {
        /// The directory.
        path: String,
        /// Why.
        error: std::io::Error,
    },
}

/// When this member, as primary, sends what to the others.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sending {
    /// What a write waits for.
    pub acknowledgement: Acknowledgement,
    /// Most bytes in a second to a member that lacks much and that nobody waits for.
    pub catch_up_bytes_per_second: Option<u64>,
}

/// Opens the log in `dir`; with `cut_damage`, what is damaged and all that follows is set aside.
pub fn open(
    dir: &Path,
    me: Member,
    machine: Machine,
    segment_size: u64,
    sending: Sending,
    cut_damage: bool,
) -> Result<(Engine, holdfast_replication::log::Recovery), OpenError> {
    let shown = || dir.display().to_string();
    let disk = FileDisk::open(dir).map_err(|error| OpenError::Io { path: shown(), error })?;
    let log = OpenOptions { segment_size, cut_damage, verify_all: false, wall_ms: wall_ms() };
    let options = ReplicaOptions {
        log,
        acknowledgement: sending.acknowledgement,
        catch_up_bytes_per_second: sending.catch_up_bytes_per_second,
        ..ReplicaOptions::default()
    };
    Replica::open(disk, me, machine, options).map_err(|error| OpenError::Log { path: shown(), error })
}

/// The log's state, refreshed by its thread, read by whoever shows it.
pub type SharedStatus = Arc<Mutex<ReplicaStatus>>;

/// Whether new writes are refused for want of space; set by the log's thread, read by the backend.
pub type DiskFull = Arc<AtomicBool>;

/// Starts the thread.
pub fn spawn(
    engine: Engine,
    inputs: Receiver<LogInput>,
    (status, times, full): (SharedStatus, Arc<LogTimes>, DiskFull),
    (lease, answers): (Lease, freshness::Answers),
    (asked, sameness): (Asked, SamenessBoard),
    report: impl Fn(Event) + Send + 'static,
    note: impl Fn(String) + Send + 'static,
) -> std::io::Result<()> {
    std::thread::Builder::new().name("log".into()).spawn(move || {
        let log = LogThread {
            engine,
            conns: HashMap::new(),
            status,
            times,
            wait: StandbyWait::default(),
            lease,
            answers,
            asked,
            sameness,
            report,
            note,
            said: None,
            space: Space { full, looked: None },
        };
        log.run(&inputs);
    })?;
    Ok(())
}

struct LogThread<R, N> {
    engine: Engine,
    conns: HashMap<ConnId, UnboundedSender<ToPeer>>,
    status: SharedStatus,
    times: Arc<LogTimes>,
    wait: StandbyWait,
    lease: Lease,
    answers: freshness::Answers,
    asked: Asked,
    sameness: SamenessBoard,
    report: R,
    note: N,
    said: Option<(Lsn, Lsn, Epoch)>,
    space: Space,
}

/// Free bytes on the disk of `dir`, and all of them.
fn room(dir: &Path) -> Option<(u64, u64)> {
    let disk = nix::sys::statvfs::statvfs(dir).ok()?;
    Some((disk.blocks_available() * disk.fragment_size(), disk.blocks() * disk.fragment_size()))
}

/// Free bytes on the disk of `dir`.
pub fn free_bytes(dir: &Path) -> Option<u64> {
    room(dir).map(|(free, _)| free)
}

/// Free bytes on the disk of `dir`, and how many of them are kept in reserve.
pub fn room_and_reserve(dir: &Path) -> Option<(u64, u64)> {
    room(dir).map(|(free, total)| (free, RESERVE_BYTES.min(total / RESERVE_SHARE)))
}

/// Watches over the reserve.
struct Space {
    full: DiskFull,
    looked: Option<Instant>,
}

impl Space {
    /// Looks at the disk of `dir` if it is time to. Answers with what changed, in words.
    fn look(&mut self, dir: &Path) -> Option<(bool, String)> {
        if self.looked.is_some_and(|at| at.elapsed() < LOOK_AT_SPACE) {
            return None;
        }
        self.looked = Some(Instant::now());
        let (free, total) = room(dir)?;
        let reserve = RESERVE_BYTES.min(total / RESERVE_SHARE);
        let full = free < reserve;
        let changed = self.full.swap(full, Ordering::Relaxed) != full;
        changed.then(|| {
            let mib = |bytes: u64| bytes >> 20;
            (
                full,
                format!(
                    "{} MiB of {} are free on the disk of {}, and {} are kept in reserve",
                    mib(free),
                    mib(total),
                    dir.display(),
                    mib(reserve)
                ),
            )
        })
    }
}

impl<R: Fn(Event), N: Fn(String)> LogThread<R, N> {
    fn run(mut self, inputs: &Receiver<LogInput>) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut out = Vec::new();
        loop {
            if !self.engine.wants_flush() {
                let held_back = self.engine.sends_at().map(|at| at.since(address::now()));
                match inputs.recv_timeout(held_back.map_or(IDLE, |wait| wait.min(IDLE))) {
                    Ok(input) => batch.extend(self.translate(input)),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
            while batch.len() < BATCH {
                match inputs.try_recv() {
                    Ok(input) => batch.extend(self.translate(input)),
                    Err(_) => break,
                }
            }
            self.engine.set_clock(address::now(), wall_ms());
            self.engine.ingest(batch.drain(..), &mut out);
            self.dispatch(&mut out);
            if self.engine.leads() {
                self.settle(&mut out);
            }
            self.sync(&mut out);
            self.settle(&mut out);
            self.publish();
            match self.space.look(self.engine.log().disk().root()) {
                Some((true, error)) => (self.report)(Event::LogFailed { full: true, error }),
                Some((false, words)) => {
                    (self.report)(Event::SpaceReturned);
                    (self.note)(format!("{words}: writes are taken again"));
                }
                None => {}
            }
        }
    }

    /// Makes durable what was written, and takes the time where there was something.
    fn sync(&mut self, out: &mut Vec<Output<Reply, Outcome>>) {
        let unsynced = |engine: &Engine| engine.log().durable() < engine.log().end();
        let (had_work, began) = (unsynced(&self.engine), Instant::now());
        self.engine.sync(out);
        if had_work && !unsynced(&self.engine) {
            self.times.sync.note(began.elapsed());
        }
        self.dispatch(out);
    }

    /// Carries out what is committed, and takes the time for which the standbys were waited for.
    fn settle(&mut self, out: &mut Vec<Output<Reply, Outcome>>) {
        self.engine.settle(out);
        match self.engine.leads() {
            true => self.wait.stands(self.engine.log().durable(), self.engine.committed(), &self.times),
            false => self.wait.ends(),
        }
        // Whoever is answered finds what came of it.
        if !out.is_empty() {
            self.publish();
        }
        self.dispatch(out);
    }

    /// Keeps the way to each connection; a connection that is gone already is not told of twice.
    fn translate(&mut self, input: LogInput) -> Option<Input<Reply>> {
        match input {
            LogInput::Connected { conn, initiated, frames } => {
                self.conns.insert(conn, frames);
                Some(Input::Connected { conn, initiated })
            }
            LogInput::Replica(Input::Disconnected { conn }) => {
                self.conns.remove(&conn)?;
                Some(Input::Disconnected { conn })
            }
            LogInput::Replica(input) => Some(input),
            LogInput::DeleteArchive { name, reply } => {
                let deleted = self.engine.delete_archive(&name);
                self.publish();
                let _ = reply.send(deleted);
                None
            }
        }
    }

    fn dispatch(&mut self, out: &mut Vec<Output<Reply, Outcome>>) {
        for output in out.drain(..) {
            match output {
                Output::Send { conn, frame } => {
                    if let Some(frames) = self.conns.get(&conn) {
                        let _ = frames.send(ToPeer::Frame(frame));
                    }
                }
                Output::Close { conn, reason, refused } => {
                    tracing::debug!(reason, refused, conn = conn.0, "replication stream closed");
                    if let Some(frames) = self.conns.remove(&conn) {
                        let _ = frames.send(ToPeer::Close { refused });
                    }
                }
                Output::Reply { reply, result } => drop(reply.send(result)),
                Output::EpochStarted { epoch, .. } => {
                    self.publish();
                    (self.report)(Event::EpochStarted { epoch });
                }
                Output::WaitReached { epoch, version } => {
                    (self.report)(Event::WaitReached { epoch, version })
                }
                Output::PeerProgress { member, streaming, durable } => {
                    (self.report)(Event::FollowerProgressed { member, streaming, durable });
                }
                Output::Following { .. } => {}
                Output::Asked { conn, token, epoch, committed } => {
                    let held = self.lease.held(address::now());
                    if let (Some(frame), Some(frames)) =
                        (freshness::word(held, token, epoch, committed), self.conns.get(&conn))
                    {
                        let _ = frames.send(ToPeer::Frame(frame));
                    }
                }
                Output::Told { token, committed, .. } => self.answers.told(token, committed),
                Output::Compare { conn, sum } => {
                    if !self.asked.look(conn, sum)
                        && let Some(frames) = self.conns.get(&conn)
                    {
                        let frame = Frame::Compared { from: sum.from, verdict: Verdict::Unread };
                        let _ = frames.send(ToPeer::Frame(frame));
                    }
                }
                Output::Compared { member, from, verdict } => {
                    if let Some(range) = self.sameness.answered(&member, from, verdict) {
                        (self.note)(sameness::differs(from, Lsn(range.to), member.id.as_str()));
                    }
                }
                Output::SetAside { archive, from, to } => (self.note)(format!(
                    "a divergent tail, LSN {from} to {to}, was set aside as {archive} before following the primary. The in-sync set never acknowledged it; only after a forced promotion, in a pair that split, or under ack = \"local\" may it hold acknowledged writes"
                )),
                Output::Healed { from, to } => (self.note)(format!(
                    "LSN {from} to {to} of the log had changed on this disk and was put right from the peer: look at the disk"
                )),
                Output::BegunAnew { shared } => (self.note)(format!(
                    "this member's copy of the log begins anew: the primary shares it up to LSN {shared} only, and what is needed to read it lies beyond. Everything is copied from the primary"
                )),
                Output::LogFailed { full, error } => (self.report)(Event::LogFailed { full, error }),
            }
        }
    }

    fn publish(&mut self) {
        let log = self.engine.log();
        let position = (log.end(), log.durable(), log.last_epoch());
        if self.said != Some(position) {
            self.said = Some(position);
            let (end, durable, last_epoch) = position;
            (self.report)(Event::LogAdvanced { end, durable, last_epoch });
        }
        *self.status.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = self.engine.status();
    }
}

/// The S3 service's way to the log and to the lease.
pub struct LogBackend {
    log: Mutex<Sender<LogInput>>,
    lease: Lease,
    /// Shared with the service's control, which waits for it to be whole in a switchover.
    in_flight: Arc<Semaphore>,
    full: DiskFull,
    redirect: Option<String>,
}

impl LogBackend {
    /// A backend that submits to `log` while `lease` is held; `redirect` is where clients find the
    /// primary.
    pub fn new(log: Sender<LogInput>, lease: Lease, full: DiskFull, redirect: Option<String>) -> LogBackend {
        LogBackend {
            log: Mutex::new(log),
            lease,
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT_BYTES)),
            full,
            redirect,
        }
    }

    /// Resolves when no write is under way.
    pub async fn idle(&self) {
        let _ = self.in_flight.acquire_many(IN_FLIGHT_BYTES as u32).await;
    }

    /// Has the standby sent what is held back for it: somebody waits for it to have everything.
    pub fn send_now(&self) {
        let log = self.log.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let _ = log.send(LogInput::Replica(Input::SendNow));
    }

    async fn submit(
        &self,
        kind: RecordKind,
        payload: Vec<Bytes>,
        wait: Wait,
    ) -> Result<Done<Outcome>, WriteError> {
        if self.full.load(Ordering::Relaxed) {
            return Err(WriteError::DiskFull);
        }
        self.keep_house(kind, payload, wait).await
    }

    /// Writes a record that is not a client's: also from the reserve, since it is what wins space back.
    pub(super) async fn keep_house(
        &self,
        kind: RecordKind,
        payload: Vec<Bytes>,
        wait: Wait,
    ) -> Result<Done<Outcome>, WriteError> {
        let bytes: usize = payload.iter().map(Bytes::len).sum();
        let weight = bytes.clamp(1, IN_FLIGHT_BYTES) as u32;
        let _place = self.in_flight.acquire_many(weight).await.map_err(|_| WriteError::Overloaded)?;
        let (reply, answer) = oneshot::channel();
        let sent = {
            let log = self.log.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            log.send(LogInput::Replica(Input::Submit { kind, payload, wait, reply }))
        };
        if sent.is_err() {
            return Err(WriteError::Failed("the log's thread has ended".to_owned()));
        }
        match answer.await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(SubmitError::NotPrimary { .. })) => {
                Err(WriteError::NotPrimary { redirect: self.redirect.clone() })
            }
            Ok(Err(SubmitError::DiskFull)) => Err(WriteError::DiskFull),
            Ok(Err(SubmitError::Overloaded)) => Err(WriteError::Overloaded),
            Ok(Err(error)) => Err(WriteError::Failed(error.to_string())),
            Err(_) => Err(WriteError::Failed("the log's thread has ended".to_owned())),
        }
    }
}

impl Backend for LogBackend {
    fn append(&self, data: Bytes) -> BoxFuture<'_, Result<(Lsn, Lsn), WriteError>> {
        Box::pin(async move {
            match self.submit(RecordKind::Data, vec![data], Wait::Appended).await? {
                Done::Appended { lsn, end } | Done::Committed { lsn, end, .. } => Ok((lsn, end)),
            }
        })
    }

    fn commit(&self, payload: Vec<Bytes>) -> BoxFuture<'_, Result<Outcome, WriteError>> {
        Box::pin(async move {
            match self.submit(RecordKind::Op, payload, Wait::Committed).await? {
                Done::Committed { outcome, .. } => Ok(outcome),
                Done::Appended { .. } => Err(WriteError::Failed("the log answered too early".to_owned())),
            }
        })
    }

    fn serving(&self) -> Result<Epoch, NotServing> {
        self.lease.held(address::now()).ok_or_else(|| NotServing {
            redirect: self.redirect.clone(),
            reason: "this member is not the primary".to_owned(),
        })
    }
}

/// The wall clock in milliseconds since 1970, for people.
pub fn wall_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
