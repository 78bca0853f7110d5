//! One data member's share of replication: owns the log, drives the state machine.
//!
//! Hand in what happened with [`Replica::ingest`], then call [`Replica::sync`] and [`Replica::settle`]; execute
//! what comes out of each before the next. `ingest` writes and sends but never waits for the disk, so that the
//! primary's disk and the standby's sync in parallel; `sync` is the one fdatasync for everything ingested before
//! it, and only after it is anything acknowledged; `settle` applies what is committed and answers whoever waits
//! for it. Go on while [`Replica::wants_flush`].
//!
//! It never decides who leads, who is in sync or when to give up a peer: it is told. It never
//! answers a submit before the record is durable on the whole wait set under the current epoch, and
//! never says so of its own disk under an epoch below what it promised.
//!
//! ```text
//!            Lead                    Follow
//! Leading <--------- Idle/Following ---------> Following
//!    |  StandDown, a higher Promise,  |
//!    +--> Idle <----------------------+          failed sync or index: Failed, for good
//! ```

mod age;
mod applying;
mod catch_up;
mod comparing;
mod following;
mod healing;
mod leading;
mod types;

use std::collections::BTreeMap;

use holdfast_heartbeat::{Epoch, Lsn, Member, Time};

pub use self::catch_up::CatchUp;
use self::catch_up::Watch;
use self::following::Following;
use self::healing::Healing;
use self::leading::Leading;
pub use self::types::{
    Acknowledgement, ApplyError, Backlog, Committed, ConnId, Damage, Done, Exposure, Input, Output,
    PeerStatus, ReplicaOptions, ReplicaRole, ReplicaStatus, StateMachine, SubmitError, Wait,
};
use crate::disk::Disk;
use crate::log::{Log, LogError, LogReader, Recovery};
use crate::set_aside::{self, Archive};
use crate::stream::{Frame, MAX_TEXT, RejectReason};

/// Most connections at a time: far more than any cluster has members.
const MAX_CONNS: usize = 64;

/// Epochs shown in a status.
const STATUS_HISTORY: usize = 32;

enum Role<R> {
    Idle,
    Leading(Box<Leading<R>>),
    Following(Following),
}

struct Conn {
    initiated: bool,
    /// The epoch that a Hello was sent for.
    greeted: Option<Epoch>,
}

type Out<R, M> = Vec<Output<R, <M as StateMachine>::Outcome>>;

/// See the module's documentation.
pub struct Replica<D: Disk, M: StateMachine, R> {
    me: Member,
    log: Log<D>,
    reader: LogReader,
    machine: M,
    options: ReplicaOptions,
    promised: Epoch,
    committed: Lsn,
    role: Role<R>,
    conns: BTreeMap<ConnId, Conn>,
    failure: Option<String>,
    damaged: Option<Damage>,
    archives: Vec<Archive>,
    /// How far the checkpoint has been read that the state machine begins with.
    restoring: Option<Lsn>,
    /// What is being fetched because it is damaged here.
    healing: Healing<R>,
    /// How often that was put right.
    healed: u64,
    /// The state machine waits for what is being fetched there.
    apply_waits: Option<Lsn>,
    /// Moves below here could not be made from this log's own copy.
    whole_below: Lsn,
    /// How far this member is while it lacks much.
    catching_up: Watch,
    now: Time,
    wall_ms: u64,
}

impl<D: Disk, M: StateMachine, R> Replica<D, M, R> {
    /// Opens the log and brings the state machine in line with it: one that is ahead of the log, or
    /// stands between two records of it, starts again from nothing.
    pub fn open(
        disk: D,
        me: Member,
        mut machine: M,
        options: ReplicaOptions,
    ) -> Result<(Replica<D, M, R>, Recovery), LogError> {
        let (log, recovery) = Log::open_with(disk, options.log)?;
        let reader = log.reader();
        let applied = machine.applied();
        let known = applied == log.end() || reader.header(applied).is_ok();
        // What came before the checkpoint may be gone, so that an older index cannot catch up.
        let outdated = applied < log.checkpoint().as_of;
        if applied > log.end() || (applied > Lsn::ZERO && !known) || outdated {
            tracing::warn!(lsn = %applied, "the index is not of this log; building it anew");
            machine.reset().map_err(|e| LogError::Poisoned(e.to_string()))?;
        }
        set_aside::finish_deletions(log.disk())
            .map_err(|source| LogError::Io { doing: "ending the deletion of an archive", source })?;
        let archives = log.archives()?;
        // The records may say less than was known: a batch carries what was committed before it. Only
        // committed records were ever applied, so what the state machine has of this log is committed.
        let committed = log.known_committed().max(machine.applied());
        let replica = Replica {
            me,
            reader,
            machine,
            options: ReplicaOptions {
                window_bytes: options.window_bytes.max(ReplicaOptions::MIN_WINDOW),
                ..options
            },
            promised: log.last_epoch(),
            committed,
            role: Role::Idle,
            conns: BTreeMap::new(),
            failure: None,
            damaged: None,
            archives,
            restoring: None,
            healing: Healing::new(),
            healed: 0,
            apply_waits: None,
            whole_below: Lsn::ZERO,
            catching_up: Watch::default(),
            now: Time::ZERO,
            wall_ms: options.log.wall_ms,
            log,
        };
        Ok((replica, recovery))
    }

    /// A handle for reading the log from any thread.
    pub fn reader(&self) -> LogReader {
        self.reader.clone()
    }

    /// The state machine.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// The log.
    pub fn log(&self) -> &Log<D> {
        &self.log
    }

    /// Deletes what was set aside under that name, for good; what it was, or `None` where there is none. Its bytes take
    /// space until [`set_aside::sweep`].
    pub fn delete_archive(&mut self, name: &str) -> std::io::Result<Option<Archive>> {
        let deleted = set_aside::delete(self.log.disk(), name)?;
        self.archives.retain(|archive| archive.name != name);
        Ok(deleted)
    }

    /// Whether the replica is out of service, and why.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// What time it is, on a clock that only goes forward and on the wall, in milliseconds since 1970. For people, and for
    /// how soon an append is answered: nothing else is decided by it.
    pub fn set_clock(&mut self, now: Time, wall_ms: u64) {
        (self.now, self.wall_ms) = (now, wall_ms);
    }

    /// Whether there is work to do without any input: unsynced bytes, or committed records that the last
    /// [`Replica::settle`] left for later so as not to hold up acknowledgements.
    pub fn wants_flush(&self) -> bool {
        let unsynced = self.log.durable() < self.log.end();
        let unapplied = self.has_to_apply();
        self.failure.is_none() && (unsynced || unapplied)
    }

    /// Takes in what happened. Writes to the log without syncing it.
    pub fn ingest(&mut self, inputs: impl IntoIterator<Item = Input<R>>, out: &mut Out<R, M>) {
        for input in inputs {
            match input {
                Input::Lead { epoch, members, wall_ms } => self.lead(epoch, members, wall_ms, out),
                Input::Follow { epoch, leader } => self.follow(epoch, leader, out),
                Input::StandDown { epoch } => {
                    if self.epoch().is_some_and(|current| current <= epoch) {
                        self.become_idle("standing down", out);
                    }
                }
                Input::Promise { epoch } => self.promise(epoch, out),
                Input::WaitFor { epoch, version, members } => self.wait_for(epoch, version, members),
                Input::SendNow => self.open_batch(),
                Input::Submit { kind, payload, wait, reply } => self.submit(kind, &payload, wait, reply, out),
                Input::Heal { lsn, reply } => self.heal(lsn, Some(reply), out),
                Input::Compare { sum } => self.compare(sum, out),
                Input::Found { conn, from, verdict } => self.found(conn, from, verdict, out),
                Input::Ask { token } => self.ask(token, out),
                Input::Connected { conn, initiated } => self.connected(conn, initiated, out),
                Input::Frame { conn, frame } => self.frame(conn, frame, out),
                Input::Disconnected { conn } => {
                    self.forget(conn);
                    self.give_up_healing(conn, out);
                }
            }
        }
        self.pump(out);
        self.report_peers(out);
    }

    /// Makes durable what was ingested, then acknowledges it or counts it as one acknowledgement more.
    pub fn sync(&mut self, out: &mut Out<R, M>) {
        if self.failure.is_some() {
            return;
        }
        self.log.sweep();
        if self.log.durable() < self.log.end()
            && let Err(error) = self.log.sync()
        {
            return self.fail(error.to_string(), out);
        }
        match &self.role {
            Role::Idle => {}
            Role::Leading(_) => self.commit(out),
            Role::Following(_) => self.acknowledge(out),
        }
    }

    /// Applies what is committed, and answers whoever waits for it. What was acknowledged since the last sync may
    /// have committed more: a primary need not sync what came later first.
    pub fn settle(&mut self, out: &mut Out<R, M>) {
        if self.failure.is_some() {
            return;
        }
        if let Role::Leading(_) = &self.role {
            self.commit(out);
        }
        self.apply_committed(out);
        self.report_reached(out);
        self.report_following(out);
        self.report_peers(out);
    }

    /// Both [`Replica::sync`] and [`Replica::settle`].
    pub fn flush(&mut self, out: &mut Out<R, M>) {
        self.sync(out);
        self.settle(out);
    }

    /// Whether it leads an epoch now.
    pub fn leads(&self) -> bool {
        matches!(self.role, Role::Leading(_))
    }

    /// Durable on the whole in-sync set up to here, as far as this member knows.
    pub fn committed(&self) -> Lsn {
        self.committed
    }

    /// The replica at this moment.
    pub fn status(&self) -> ReplicaStatus {
        let (leader, streaming, pending) = match &self.role {
            Role::Idle => (None, false, 0),
            Role::Leading(l) => (Some(self.me.clone()), l.is_streaming(), l.pending()),
            Role::Following(f) => (Some(f.leader.clone()), f.upstream.is_some(), 0),
        };
        ReplicaStatus {
            role: match &self.role {
                _ if self.failure.is_some() => ReplicaRole::Failed,
                Role::Idle => ReplicaRole::Idle,
                Role::Leading(_) => ReplicaRole::Leading,
                Role::Following(_) => ReplicaRole::Following,
            },
            epoch: self.epoch(),
            promised_epoch: self.promised,
            leader,
            log_id: (self.log.log_id() != 0).then(|| format!("{:016x}", self.log.log_id())),
            end: self.log.end(),
            durable: self.log.durable(),
            committed: self.committed,
            applied: self.machine.applied(),
            segments: self.log.segment_count(),
            log_bytes: self.log.bytes_kept(),
            replayable: self.log.is_replayable(),
            checkpoint_bytes: self.log.checkpoint().to.bytes_since(self.log.checkpoint().from),
            history: self.log.history().latest(STATUS_HISTORY).starts().to_vec(),
            peers: self.peer_status(),
            exposure: self.exposure(),
            streaming,
            catch_up: match &self.role {
                Role::Following(_) => self.catching_up.status(self.now, None),
                Role::Idle | Role::Leading(_) => None,
            },
            pending,
            set_aside: self.archives.clone(),
            damaged: self.damaged.clone(),
            healed: self.healed,
            failure: self.failure.clone(),
        }
    }

    /// The epoch of the current role.
    fn epoch(&self) -> Option<Epoch> {
        match &self.role {
            Role::Idle => None,
            Role::Leading(l) => Some(l.epoch()),
            Role::Following(f) => Some(f.epoch),
        }
    }

    fn promise(&mut self, epoch: Epoch, out: &mut Out<R, M>) {
        self.promised = self.promised.max(epoch);
        if self.epoch().is_some_and(|current| current < self.promised) {
            self.become_idle("a higher epoch was promised", out);
        }
    }

    /// Ends the current role: waiting submits are answered, streams are closed. Connections that
    /// were never used stay.
    fn become_idle(&mut self, reason: &str, out: &mut Out<R, M>) {
        let used: Vec<ConnId> = match std::mem::replace(&mut self.role, Role::Idle) {
            Role::Idle => Vec::new(),
            Role::Leading(leading) => leading.end(|| SubmitError::NotPrimary { maybe_stored: true }, out),
            Role::Following(_) => {
                self.conns.iter().filter(|(_, c)| c.greeted.is_some()).map(|(conn, _)| *conn).collect()
            }
        };
        for conn in used {
            self.close(conn, reason, out);
        }
    }

    /// Out of service, for good.
    fn fail(&mut self, error: String, out: &mut Out<R, M>) {
        tracing::error!(%error, node = %self.me, "replication is out of service");
        if let Role::Leading(leading) = std::mem::replace(&mut self.role, Role::Idle) {
            leading.end(|| SubmitError::Failed(error.clone()), out);
        }
        for conn in self.conns.keys().copied().collect::<Vec<_>>() {
            self.close(conn, "the log failed", out);
        }
        self.failure = Some(error.clone());
        out.push(Output::LogFailed { full: false, error });
    }

    /// Notes damage that was met while reading old bytes; the log itself goes on.
    fn note_damage(&mut self, error: &LogError) {
        if let LogError::Damaged { lsn, detail } = error {
            tracing::error!(%lsn, reason = %detail, node = %self.me, "the log is damaged");
            self.damaged.get_or_insert(Damage { lsn: *lsn, detail: detail.clone() });
        }
    }

    fn connected(&mut self, conn: ConnId, initiated: bool, out: &mut Out<R, M>) {
        if self.failure.is_some() || self.conns.len() >= MAX_CONNS {
            let reason = if self.failure.is_some() { "the log failed" } else { "too many connections" };
            out.push(Output::Close { conn, reason: reason.into(), refused: false });
            return;
        }
        self.conns.insert(conn, Conn { initiated, greeted: None });
        self.say_hello(out);
    }

    /// Drops what belongs to a connection that is gone.
    fn forget(&mut self, conn: ConnId) {
        self.conns.remove(&conn);
        match &mut self.role {
            Role::Idle => {}
            Role::Leading(leading) => leading.forget(conn),
            Role::Following(following) => {
                if following.upstream == Some(conn) {
                    following.upstream = None;
                }
            }
        }
    }

    fn close(&mut self, conn: ConnId, reason: impl Into<String>, out: &mut Out<R, M>) {
        self.end(conn, reason.into(), false, out);
    }

    /// Ends a connection over which came what does not fit here.
    fn refuse(&mut self, conn: ConnId, reason: impl Into<String>, out: &mut Out<R, M>) {
        self.end(conn, reason.into(), true, out);
    }

    fn end(&mut self, conn: ConnId, reason: String, refused: bool, out: &mut Out<R, M>) {
        self.forget(conn);
        self.give_up_healing(conn, out);
        out.push(Output::Close { conn, reason, refused });
    }

    fn reject(&mut self, conn: ConnId, reason: RejectReason, text: String, out: &mut Out<R, M>) {
        debug_assert!(text.len() <= MAX_TEXT, "our own texts are short");
        let frame = Frame::Reject { reason, text: text.clone() };
        out.push(Output::Send { conn, frame });
        self.close(conn, text, out);
    }

    fn frame(&mut self, conn: ConnId, frame: Frame, out: &mut Out<R, M>) {
        if !self.conns.contains_key(&conn) {
            // It was closed while this frame was under way.
            return;
        }
        match frame {
            Frame::Hello(hello) => self.hello(conn, &hello, out),
            Frame::Ack { epoch, durable } => self.ack(conn, epoch, durable, out),
            Frame::Welcome(welcome) => self.welcome(conn, &welcome, out),
            Frame::Append { epoch, lsn, committed, bytes } => {
                self.append(conn, epoch, lsn, committed, &bytes, out);
            }
            Frame::Move { epoch, committed, record } => {
                self.append_move(conn, epoch, committed, &record, out)
            }
            Frame::Fetch { lsn } => self.fetch(conn, lsn, out),
            Frame::Fetched { lsn, bytes } => self.fetched(conn, lsn, &bytes, out),
            Frame::Skip { epoch, gap } => self.skip(conn, epoch, &gap, out),
            Frame::Committed { epoch, lsn } => self.told_committed(conn, epoch, lsn, out),
            Frame::Compare { sum } => self.told_sum(conn, sum, out),
            Frame::Compared { from, verdict } => self.compared(conn, from, verdict, out),
            Frame::Ask { token } => self.asked(conn, token, out),
            Frame::Told { token, epoch, committed } => self.told(conn, token, epoch, committed, out),
            Frame::Reject { reason, text } => {
                self.close(conn, format!("refused by the peer ({reason:?}): {text}"), out);
            }
        }
    }
}
