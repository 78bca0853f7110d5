//! The standby's side: introduces itself, cuts what diverges, writes what it is sent, acknowledges.

use bytes::Bytes;
use holdfast_heartbeat::{Epoch, Lsn, Member, planted};

use super::{ConnId, Out, Output, Replica, Role, StateMachine};
use crate::disk::Disk;
use crate::log::{Gap, LogError};
use crate::moves::{RebuildError, rebuilt};
use crate::set_aside::Cause;
use crate::stream::{Frame, Hello, MAX_HISTORY, Welcome};

/// Largest segment size taken over from a primary, in bytes: beyond it something is wrong.
const MAX_SEGMENT_SIZE: u64 = 1 << 40;

/// Why a stream ends whose records do not continue this log.
const MISFIT: &str = "the stream does not fit this log";

/// Following one primary in one epoch.
pub(super) struct Following {
    pub(super) epoch: Epoch,
    pub(super) leader: Member,
    /// The connection on which the primary said Welcome.
    pub(super) upstream: Option<ConnId>,
    /// What the primary said is committed; may be beyond what is here.
    told: Lsn,
    to_come: ToCome,
    /// What was acknowledged on this connection.
    acked: Option<Lsn>,
    reported: Option<(Lsn, Lsn)>,
}

/// What the primary said at the beginning of the stream of how much would come.
#[derive(Clone, Copy, Debug, Default)]
struct ToCome {
    bytes: u64,
    /// Up to here.
    upto: Lsn,
    /// How much of it, and of what was written since, has come.
    came: u64,
}

impl ToCome {
    /// At most so much is still to come to a log that ends at `end`, where `told` is committed.
    fn left(&self, end: Lsn, told: Lsn) -> u64 {
        let all = self.bytes.saturating_add(told.bytes_since(self.upto));
        all.saturating_sub(self.came).min(told.bytes_since(end))
    }
}

impl<D: Disk, M: StateMachine, R> Replica<D, M, R> {
    pub(super) fn follow(&mut self, epoch: Epoch, leader: Member, out: &mut Out<R, M>) {
        if self.failure.is_some() || epoch < self.promised || leader.id == self.me.id {
            return;
        }
        match &self.role {
            Role::Following(f) if f.epoch == epoch && f.leader == leader => return,
            // One primary per epoch (R1): this member leads it, or follows another one in it.
            Role::Leading(_) | Role::Following(_) if self.epoch() == Some(epoch) => {
                tracing::error!(%epoch, peer = %leader, node = %self.me, "two primaries claimed for one epoch");
                return;
            }
            _ => {}
        }
        self.become_idle("another member leads", out);
        self.promised = epoch;
        self.role = Role::Following(Following {
            epoch,
            leader,
            upstream: None,
            told: Lsn::ZERO,
            to_come: ToCome::default(),
            acked: None,
            reported: None,
        });
        self.say_hello(out);
    }

    /// Introduces this member on every connection that it opened and did not use yet. Whoever is
    /// not the primary will refuse.
    pub(super) fn say_hello(&mut self, out: &mut Out<R, M>) {
        let Role::Following(following) = &self.role else { return };
        for (conn, state) in &mut self.conns {
            if !state.initiated || state.greeted.is_some() {
                continue;
            }
            state.greeted = Some(following.epoch);
            let hello = Hello {
                member: self.me.clone(),
                promised_epoch: self.promised,
                log_id: self.log.log_id(),
                history: self.log.history().latest(MAX_HISTORY),
                end: self.log.end(),
                chain: self.log.chain_at_end(),
                whole_below: self.whole_below,
            };
            out.push(Output::Send { conn: *conn, frame: Frame::Hello(hello) });
        }
    }

    pub(super) fn welcome(&mut self, conn: ConnId, welcome: &Welcome, out: &mut Out<R, M>) {
        let greeted = self.conns.get(&conn).and_then(|c| c.greeted);
        let Role::Following(following) = &self.role else {
            return self.refuse(conn, "a welcome that nobody asked for", out);
        };
        if greeted != Some(following.epoch) || following.upstream == Some(conn) {
            return self.refuse(conn, "a welcome that nobody asked for", out);
        }
        if welcome.epoch != following.epoch || welcome.leader != following.leader {
            let reason = format!(
                "welcomed by {} in epoch {}, expected {} in epoch {}",
                welcome.leader, welcome.epoch, following.leader, following.epoch
            );
            return self.refuse(conn, reason, out);
        }
        if let Some(older) = following.upstream {
            // What came on it after the Hello would not fit what this stream begins with.
            self.close(older, "replaced by a newer connection", out);
        }
        match self.align(welcome, out) {
            Ok(()) => {
                let Role::Following(following) = &mut self.role else { return };
                following.upstream = Some(conn);
                following.acked = None;
                following.told = following.told.max(welcome.committed);
                following.to_come = ToCome { bytes: welcome.to_come, upto: welcome.committed, came: 0 };
                self.look_again();
                self.came(0);
            }
            Err(error) => {
                self.note_damage(&error);
                self.end_stream(conn, &error, "cannot follow", out);
            }
        }
    }

    /// Brings the log to where the primary's stream begins (rule R8: set aside, then cut).
    fn align(&mut self, welcome: &Welcome, out: &mut Out<R, M>) -> Result<(), LogError> {
        let end = self.log.end();
        if self.log.log_id() == 0 {
            if welcome.segment_size > MAX_SEGMENT_SIZE {
                return Err(LogError::Identity(0));
            }
            self.log.found(welcome.log_id, welcome.segment_size)?;
        } else if self.log.log_id() != welcome.log_id || self.log.segment_size() != welcome.segment_size {
            return Err(LogError::Identity(self.log.log_id()));
        }
        let cut = welcome.truncate_to;
        if cut > end {
            return Err(LogError::OutOfRange { lsn: cut, end });
        }
        if cut == end {
            return Ok(());
        }
        if cut < self.log.checkpoint().to {
            return self.begin_anew(cut, out);
        }
        // Refuses a place that is not between two records before anything is written.
        self.log.chain_at(cut)?;
        let lost = self.committed > cut;
        let reason = format!(
            "{} leads epoch {} and shares this log up to LSN {cut}{}",
            welcome.leader,
            welcome.epoch,
            if lost { "; acknowledged writes are among these bytes" } else { "" }
        );
        let archive = self.log.set_aside(cut, Cause::Divergent, &reason, self.wall_ms)?;
        if self.machine.applied() > cut && !planted::is("index-kept-after-cut") {
            self.forget_applied()?;
        }
        self.log.truncate_to(cut, &archive)?;
        self.committed = self.committed.min(cut);
        tracing::warn!(node = %self.me, from = %cut, to = %end, reason = %reason, "divergent tail set aside");
        out.push(Output::SetAside { archive: archive.name.clone(), from: cut, to: end });
        if self.archives.iter().all(|a| a.name != archive.name) {
            self.archives.push(archive);
        }
        Ok(())
    }

    /// The log did not take what came: the stream ends, and with a log that is out of service everything.
    fn end_stream(&mut self, conn: ConnId, error: &LogError, otherwise: &str, out: &mut Out<R, M>) {
        match error {
            LogError::Full => {
                out.push(Output::LogFailed { full: true, error: error.to_string() });
                self.close(conn, error.to_string(), out);
            }
            LogError::Poisoned(_) => self.fail(error.to_string(), out),
            _ => self.refuse(conn, format!("{otherwise}: {error}"), out),
        }
    }

    fn forget_applied(&mut self) -> Result<(), LogError> {
        self.restoring = None;
        self.machine.reset().map_err(|e| LogError::Poisoned(e.to_string()))
    }

    /// What a replay needs is beyond what the primary shares with this log, while what it stands for is
    /// gone here: nothing that stayed could be read. All of what is not shared is set aside, and the copy
    /// begins anew.
    fn begin_anew(&mut self, cut: Lsn, out: &mut Out<R, M>) -> Result<(), LogError> {
        let reason = format!(
            "the primary shares this log up to LSN {cut} only, and what a replay needs of it lies beyond"
        );
        for piece in self.log.pieces_from(cut) {
            let archive = self.log.set_piece_aside(piece, Cause::Divergent, &reason, self.wall_ms)?;
            out.push(Output::SetAside { archive: archive.name.clone(), from: piece.0, to: piece.1 });
            if self.archives.iter().all(|a| a.name != archive.name) {
                self.archives.push(archive);
            }
        }
        self.forget_applied()?;
        tracing::warn!(node = %self.me, lsn = %cut, "the copy of the log begins anew");
        self.log.abandon()?;
        self.committed = Lsn::ZERO;
        out.push(Output::BegunAnew { shared: cut });
        Err(LogError::Gone { lsn: cut, next: Lsn::ZERO })
    }

    /// A record whose bytes are here already.
    pub(super) fn append_move(
        &mut self,
        conn: ConnId,
        epoch: Epoch,
        committed: Lsn,
        short: &Bytes,
        out: &mut Out<R, M>,
    ) {
        if !self.is_upstream(conn, epoch) {
            return self.refuse(conn, format!("a move of epoch {epoch} out of place"), out);
        }
        let lsn = self.log.end();
        match rebuilt(short, &self.reader) {
            Ok(record) => self.append(conn, epoch, lsn, committed, &record, out),
            Err(error @ RebuildError::NotAMove) => self.refuse(conn, error.to_string(), out),
            Err(error @ RebuildError::Sources(_)) => {
                // The next stream brings it whole.
                self.whole_below = lsn + 1;
                self.close(conn, error.to_string(), out);
            }
        }
    }

    /// What comes next is gone at the primary: this log goes on behind it.
    pub(super) fn skip(&mut self, conn: ConnId, epoch: Epoch, gap: &Gap, out: &mut Out<R, M>) {
        if !self.is_upstream(conn, epoch) {
            return self.refuse(conn, format!("a gap of epoch {epoch} out of place"), out);
        }
        // The index cannot follow; and an old one must not come back over the log as it will be.
        let skipped = self.forget_applied().and_then(|()| self.log.skip(gap));
        match skipped {
            Ok(()) => {
                let (from, to) = gap.hole;
                tracing::info!(node = %self.me, %from, %to, "the primary gave up what comes next; going on behind it");
                self.came(0);
            }
            Err(error) => self.end_stream(conn, &error, MISFIT, out),
        }
    }

    pub(super) fn append(
        &mut self,
        conn: ConnId,
        epoch: Epoch,
        lsn: Lsn,
        committed: Lsn,
        bytes: &Bytes,
        out: &mut Out<R, M>,
    ) {
        if !self.is_upstream(conn, epoch) {
            return self.refuse(conn, format!("records of epoch {epoch} out of place"), out);
        }
        match self.log.append_verbatim_of(lsn, bytes, epoch) {
            Ok(end) => {
                self.came(end.bytes_since(lsn));
                if planted::is("acknowledged-before-synced") {
                    out.push(Output::Send { conn, frame: Frame::Ack { epoch, durable: end } });
                }
                self.told_committed(conn, epoch, committed, out);
            }
            Err(error) => self.end_stream(conn, &error, MISFIT, out),
        }
    }

    /// So many bytes came on the stream.
    fn came(&mut self, bytes: u64) {
        let (end, now) = (self.log.end(), self.now);
        let Role::Following(following) = &mut self.role else { return };
        following.to_come.came = following.to_come.came.saturating_add(bytes);
        let left = following.to_come.left(end, following.told);
        self.catching_up.note(bytes, left, now);
    }

    fn is_upstream(&self, conn: ConnId, epoch: Epoch) -> bool {
        matches!(&self.role, Role::Following(f) if f.upstream == Some(conn) && f.epoch == epoch)
    }

    pub(super) fn told_committed(&mut self, conn: ConnId, epoch: Epoch, lsn: Lsn, out: &mut Out<R, M>) {
        if !self.is_upstream(conn, epoch) {
            return self.refuse(conn, format!("a word of epoch {epoch} out of place"), out);
        }
        let Role::Following(following) = &mut self.role else { return };
        following.told = following.told.max(lsn);
    }

    /// Asks the primary what is committed.
    pub(super) fn ask(&mut self, token: u64, out: &mut Out<R, M>) {
        if let Role::Following(Following { upstream: Some(conn), .. }) = &self.role {
            out.push(Output::Send { conn: *conn, frame: Frame::Ask { token } });
        }
    }

    /// The answer.
    pub(super) fn told(&mut self, conn: ConnId, token: u64, epoch: Epoch, lsn: Lsn, out: &mut Out<R, M>) {
        self.told_committed(conn, epoch, lsn, out);
        if self.is_upstream(conn, epoch) {
            out.push(Output::Told { token, epoch, committed: lsn });
        }
    }

    /// After the sync: tells the primary, under the epoch that is followed.
    pub(super) fn acknowledge(&mut self, out: &mut Out<R, M>) {
        let durable = self.log.durable();
        let Role::Following(following) = &mut self.role else { return };
        assert!(following.epoch >= self.promised, "a lower epoch is never acknowledged");
        let Some(conn) = following.upstream else { return };
        if following.acked != Some(durable) {
            following.acked = Some(durable);
            out.push(Output::Send { conn, frame: Frame::Ack { epoch: following.epoch, durable } });
        }
        // Only bytes that came on this very stream, or were found to match it, are judged by it.
        self.committed = self.committed.max(following.told.min(durable));
        self.log.note_committed(self.committed);
    }

    pub(super) fn report_following(&mut self, out: &mut Out<R, M>) {
        let now = (self.log.durable(), self.committed);
        let Role::Following(following) = &mut self.role else { return };
        if following.upstream.is_some() && following.reported != Some(now) {
            following.reported = Some(now);
            let (durable, committed) = now;
            out.push(Output::Following { epoch: following.epoch, durable, committed });
        }
    }
}
