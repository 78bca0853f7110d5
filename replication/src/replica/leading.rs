//! The primary's side: appends, streams, counts acknowledgements, answers.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use holdfast_heartbeat::{Epoch, Lsn, Member, Time};

use super::age::Ages;
use super::catch_up::{Allowance, UNLIMITED, Watch};
use super::comparing::Unsaid;
use super::{
    Acknowledgement, ConnId, Done, Exposure, Out, Output, PeerStatus, Replica, Role, StateMachine,
    SubmitError, Wait,
};
use crate::disk::Disk;
use crate::history::common_point;
use crate::log::{Log, LogError, LogReader};
use crate::moves::{self, MoveSource};
use crate::progress::Progress;
use crate::record::{EpochStartBody, MAX_RECORD, RecordKind};
use crate::stream::{Frame, Hello, MAX_HISTORY, RejectReason, Welcome};

/// Most bytes of records in one frame, unless a single record is larger.
pub(super) const MAX_RUN: usize = 1024 * 1024;

struct Pending<R> {
    lsn: Lsn,
    reply: R,
}

/// An append that is answered when less is on its way.
struct Held<R> {
    lsn: Lsn,
    end: Lsn,
    reply: R,
}

struct Peer {
    member: Member,
    /// Where the next Append begins.
    sent: Lsn,
    /// Acknowledged on this connection, or where the stream began.
    acked: Lsn,
    /// The committed LSN it was told last.
    told: Lsn,
    /// Moves below here go with their bytes.
    whole_below: Lsn,
    unsaid: Unsaid,
    /// What it may be sent while nobody waits for it.
    allowance: Allowance,
    /// It has to wait for more of that.
    held_back: bool,
}

/// A reign.
pub(super) struct Leading<R> {
    start: (Lsn, Lsn),
    started: bool,
    progress: Progress,
    pending: VecDeque<Pending<R>>,
    held: VecDeque<Held<R>>,
    peers: BTreeMap<ConnId, Peer>,
    reported: BTreeMap<Member, (bool, Lsn)>,
    ages: Ages,
    batch: Batch,
    /// How far those are that lack much.
    catching_up: BTreeMap<Member, Watch>,
}

/// What is held back until there is more to send with it: under [`Acknowledgement::Local`].
#[derive(Debug, Default)]
struct Batch {
    /// What lies below may be sent.
    sendable: Lsn,
    /// Since when more is there, and how many records.
    since: Option<Time>,
    records: u32,
    /// Until then nothing is held back.
    open_until: Time,
}

/// For so long nothing is held back after somebody waited: a handover follows within it, and what is written by the way
/// meanwhile must not keep it waiting.
const OPEN_FOR: Duration = Duration::from_secs(2);

impl Batch {
    fn grows(&mut self, now: Time) {
        self.since.get_or_insert(now);
        self.records += 1;
    }

    /// When it goes, where nothing else is added: at once where nothing is to be held back.
    fn due(&self, acknowledgement: Acknowledgement, now: Time) -> Option<Time> {
        match acknowledgement {
            Acknowledgement::Local { interval, records }
                if self.records < records && now >= self.open_until =>
            {
                self.since.map(|since| since + interval)
            }
            _ => Some(Time::ZERO),
        }
    }

    fn goes(&mut self, end: Lsn) {
        *self = Batch { sendable: end, open_until: self.open_until, ..Batch::default() };
    }
}

impl<R> Leading<R> {
    pub(super) fn epoch(&self) -> Epoch {
        self.progress.epoch()
    }

    pub(super) fn is_streaming(&self) -> bool {
        !self.peers.is_empty()
    }

    /// Whether that connection carries a stream of this reign.
    pub(super) fn streams(&self, conn: ConnId) -> bool {
        self.peers.contains_key(&conn)
    }

    /// A stream to a member that acknowledged what is at `lsn`.
    pub(super) fn who_has(&self, lsn: Lsn) -> Option<ConnId> {
        self.peers.iter().find(|(_, peer)| peer.acked > lsn).map(|(conn, _)| *conn)
    }

    /// Who is streamed to over `conn`.
    pub(super) fn member_of(&self, conn: ConnId) -> Option<&Member> {
        self.peers.get(&conn).map(|peer| &peer.member)
    }

    /// The sums that each peer is still to be told, and what it acknowledged.
    pub(super) fn unsaid(&mut self) -> impl Iterator<Item = (ConnId, &mut Unsaid, Lsn)> {
        self.peers.iter_mut().map(|(conn, peer)| (*conn, &mut peer.unsaid, peer.acked))
    }

    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn forget(&mut self, conn: ConnId) {
        self.peers.remove(&conn);
    }

    /// Answers everybody who waits and returns the connections that were in use.
    pub(super) fn end<O>(self, error: impl Fn() -> SubmitError, out: &mut Vec<Output<R, O>>) -> Vec<ConnId> {
        let replies = self.pending.into_iter().map(|p| p.reply).chain(self.held.into_iter().map(|h| h.reply));
        out.extend(replies.map(|reply| Output::Reply { reply, result: Err(error()) }));
        self.peers.into_keys().collect()
    }

    /// A record was applied; whoever waits for it gets its outcome.
    pub(super) fn answer<O>(&mut self, lsn: Lsn, end: Lsn, outcome: O, out: &mut Vec<Output<R, O>>) {
        if self.pending.front().is_some_and(|p| p.lsn == lsn)
            && let Some(first) = self.pending.pop_front()
        {
            let result = Ok(Done::Committed { lsn, end, outcome });
            out.push(Output::Reply { reply: first.reply, result });
        }
    }
}

impl<D: Disk, M: StateMachine, R> Replica<D, M, R> {
    pub(super) fn lead(&mut self, epoch: Epoch, members: Vec<Member>, wall_ms: u64, out: &mut Out<R, M>) {
        if let Some(error) = &self.failure {
            out.push(Output::LogFailed { full: false, error: error.clone() });
            return;
        }
        if epoch < self.promised || epoch <= self.log.last_epoch() || !members.contains(&self.me) {
            tracing::error!(%epoch, promised = %self.promised, node = %self.me, "cannot lead: stale epoch or not a member");
            return;
        }
        if !self.log.is_replayable() {
            let (end, to) = (self.log.end(), self.log.checkpoint().to);
            let error = format!(
                "this member's copy of the log is not complete: it ends at LSN {end}, and cannot be read before LSN {to} has come from a primary"
            );
            out.push(Output::LogFailed { full: false, error });
            return;
        }
        self.become_idle("a new epoch begins here", out);
        self.look_again();
        self.promised = epoch;
        self.wall_ms = wall_ms;
        match self.start_epoch(epoch, wall_ms) {
            Ok(start) => {
                let mut progress = Progress::new(epoch, start.1, self.committed, members);
                if self.answers_alone() {
                    progress = progress.decided_by(self.me.clone());
                }
                self.role = Role::Leading(Box::new(Leading {
                    start,
                    started: false,
                    progress,
                    pending: VecDeque::new(),
                    held: VecDeque::new(),
                    peers: BTreeMap::new(),
                    reported: BTreeMap::new(),
                    ages: Ages::default(),
                    batch: Batch { sendable: start.1, ..Batch::default() },
                    catching_up: BTreeMap::new(),
                }));
            }
            Err(LogError::Full) => {
                out.push(Output::LogFailed { full: true, error: LogError::Full.to_string() });
            }
            Err(error) => self.fail(error.to_string(), out),
        }
    }

    fn start_epoch(&mut self, epoch: Epoch, wall_ms: u64) -> Result<(Lsn, Lsn), LogError> {
        if self.log.log_id() == 0 {
            let mut id = self.options.new_log_id;
            while id == 0 {
                let doing = "drawing an identity for the log";
                id = getrandom::u64()
                    .map_err(|e| LogError::Io { doing, source: std::io::Error::other(e.to_string()) })?;
            }
            self.log.found(id, self.log.segment_size())?;
        }
        let body = EpochStartBody { leader: self.me.clone(), wall_ms }.encode();
        self.log.note_committed(self.committed);
        self.log.append(RecordKind::EpochStart, epoch, &[&body])
    }

    pub(super) fn wait_for(&mut self, epoch: Epoch, version: u64, members: Vec<Member>) {
        let Role::Leading(leading) = &mut self.role else { return };
        if leading.epoch() != epoch {
            return;
        }
        if !members.contains(&self.me) {
            tracing::error!(%epoch, node = %self.me, "a wait set without the primary is ignored");
            return;
        }
        leading.progress.wait_for(version, members);
        // Who joins has to have what is committed now.
        self.send_now();
    }

    pub(super) fn submit(
        &mut self,
        kind: RecordKind,
        payload: &[Bytes],
        wait: Wait,
        reply: R,
        out: &mut Out<R, M>,
    ) {
        match (self.try_submit(kind, payload, out), wait) {
            (Ok((lsn, end)), Wait::Appended) => {
                let Role::Leading(leading) = &mut self.role else { unreachable!("only a primary appends") };
                leading.held.push_back(Held { lsn, end, reply });
                self.let_go(out);
            }
            (Ok((lsn, _)), Wait::Committed) => {
                let Role::Leading(leading) = &mut self.role else { unreachable!("only a primary appends") };
                leading.pending.push_back(Pending { lsn, reply });
            }
            (Err(error), _) => out.push(Output::Reply { reply, result: Err(error) }),
        }
    }

    fn try_submit(
        &mut self,
        kind: RecordKind,
        payload: &[Bytes],
        out: &mut Out<R, M>,
    ) -> Result<(Lsn, Lsn), SubmitError> {
        if let Some(error) = &self.failure {
            return Err(SubmitError::Failed(error.clone()));
        }
        let Role::Leading(leading) = &mut self.role else {
            return Err(SubmitError::NotPrimary { maybe_stored: false });
        };
        if kind == RecordKind::EpochStart {
            return Err(SubmitError::Refused("epoch starts are the log's own".into()));
        }
        let uncommitted = self.log.end().bytes_since(self.committed.max(leading.start.0));
        if leading.pending.len() >= self.options.max_pending
            || uncommitted >= self.options.max_uncommitted_bytes
        {
            return Err(SubmitError::Overloaded);
        }
        let epoch = leading.epoch();
        let parts: Vec<&[u8]> = payload.iter().map(|part| &part[..]).collect();
        match self.log.append(kind, epoch, &parts) {
            Ok(place) => {
                leading.batch.grows(self.now);
                Ok(place)
            }
            Err(LogError::Full) => Err(SubmitError::DiskFull),
            Err(error @ LogError::TooLarge(_)) => Err(SubmitError::Refused(error.to_string())),
            Err(error) => {
                let text = error.to_string();
                self.fail(text.clone(), out);
                Err(SubmitError::Failed(text))
            }
        }
    }

    /// Answers the appends that wait for nothing any more, in their order.
    pub(super) fn let_go(&mut self, out: &mut Out<R, M>) {
        let backlog = self.options.backlog;
        let Role::Leading(leading) = &mut self.role else { return };
        let committed = self.committed.max(leading.start.0);
        let allowed = if leading.ages.of(committed, self.now) > backlog.patience {
            backlog.free_bytes
        } else {
            backlog.most_bytes
        };
        while let Some(first) = leading.held.front()
            && first.end.bytes_since(committed) <= allowed
            && let Some(Held { lsn, end, reply }) = leading.held.pop_front()
        {
            out.push(Output::Reply { reply, result: Ok(Done::Appended { lsn, end }) });
        }
    }

    /// A follower introduces itself.
    pub(super) fn hello(&mut self, conn: ConnId, hello: &Hello, out: &mut Out<R, M>) {
        let common = match self.judge_hello(hello) {
            Ok(common) => common,
            Err((reason, text)) => return self.reject(conn, reason, text, out),
        };
        let Role::Leading(leading) = &mut self.role else { unreachable!("judged above") };
        let older: Vec<ConnId> = leading
            .peers
            .iter()
            .filter(|(other, peer)| peer.member.id == hello.member.id && **other != conn)
            .map(|(other, _)| *other)
            .collect();
        let member = hello.member.clone();
        let welcome = Welcome {
            epoch: leading.epoch(),
            leader: self.me.clone(),
            log_id: self.log.log_id(),
            segment_size: self.log.segment_size(),
            truncate_to: common,
            committed: self.committed,
            to_come: self.log.holes().kept_between(common, self.committed),
        };
        tracing::info!(peer = %member, epoch = %leading.epoch(), lsn = %common, "a standby joins the stream");
        leading.peers.insert(
            conn,
            Peer {
                member,
                sent: common,
                acked: common,
                told: self.committed,
                whole_below: hello.whole_below,
                unsaid: Unsaid::default(),
                allowance: Allowance::new(self.now, self.log.end()),
                held_back: false,
            },
        );
        out.push(Output::Send { conn, frame: Frame::Welcome(welcome) });
        for other in older {
            self.close(other, "replaced by a newer connection of the same member", out);
        }
    }

    /// Where the stream to this follower may begin.
    fn judge_hello(&mut self, hello: &Hello) -> Result<Lsn, (RejectReason, String)> {
        let Role::Leading(leading) = &self.role else {
            return Err((RejectReason::NotLeading, "this member is not the primary".into()));
        };
        if hello.promised_epoch > leading.epoch() {
            let text = format!("you promised epoch {}, this is {}", hello.promised_epoch, leading.epoch());
            return Err((RejectReason::StaleEpoch, text));
        }
        let fresh = hello.log_id == 0;
        if hello.member.id == self.me.id || (fresh && hello.end > Lsn::ZERO) {
            return Err((RejectReason::BadHello, "no member introduces itself like this".into()));
        }
        if !fresh && hello.log_id != self.log.log_id() {
            let text = format!(
                "your log is {:016x}, this cluster's is {:016x}; nothing was changed",
                hello.log_id,
                self.log.log_id()
            );
            return Err((RejectReason::ForeignLog, text));
        }
        let common = common_point(self.log.history(), self.log.end(), &hello.history, hello.end);
        let acknowledged = leading.progress.durable_of(&hello.member);
        if let Some(durable) = acknowledged.filter(|durable| *durable > common) {
            let text = format!("you acknowledged LSN {durable} in this epoch and now share {common}");
            return Err((RejectReason::LostAcknowledged, text));
        }
        // Where this log gave up what stood there the epochs alone must do.
        let gone = self.log.holes().at(common).is_some();
        if common == hello.end && !fresh && !gone {
            let chain = self.log.chain_at(common).map_err(|error| {
                self.note_damage(&error);
                (RejectReason::LogFailed, format!("cannot read the log at LSN {common}"))
            })?;
            if chain != hello.chain {
                let text = format!("your log differs from this one somewhere below LSN {common}");
                return Err((RejectReason::Diverged, text));
            }
        }
        Ok(common)
    }

    pub(super) fn ack(&mut self, conn: ConnId, epoch: Epoch, durable: Lsn, out: &mut Out<R, M>) {
        let Role::Leading(leading) = &mut self.role else { return };
        let Some(peer) = leading.peers.get_mut(&conn).filter(|_| epoch == leading.progress.epoch()) else {
            return;
        };
        if durable > peer.sent {
            let reason = format!("acknowledged LSN {durable}, sent was {}", peer.sent);
            return self.refuse(conn, reason, out);
        }
        let before = peer.acked;
        peer.acked = before.max(durable);
        let holes = self.log.holes();
        let (came, lacks) =
            (holes.kept_between(before, peer.acked), holes.kept_between(peer.acked, self.log.end()));
        match leading.catching_up.get_mut(&peer.member) {
            Some(watch) => watch.note(came, lacks, self.now),
            None => leading.catching_up.entry(peer.member.clone()).or_default().note(0, lacks, self.now),
        }
        while let Some(sum) = peer.unsaid.next_below(peer.acked) {
            out.push(Output::Send { conn, frame: Frame::Compare { sum } });
        }
        leading.progress.acknowledge(epoch, &peer.member, durable);
    }

    /// A follower wants to know what is committed. Before the reign's first record is committed, more may have
    /// been acknowledged by the reign before than this member knows.
    pub(super) fn asked(&mut self, conn: ConnId, token: u64, out: &mut Out<R, M>) {
        let Role::Leading(leading) = &self.role else { return };
        if leading.started && leading.streams(conn) {
            let (epoch, committed) = (leading.progress.epoch(), self.committed);
            out.push(Output::Asked { conn, token, epoch, committed });
        }
    }

    /// Whether writes wait for this member's own disk alone.
    pub(super) fn answers_alone(&self) -> bool {
        self.options.acknowledgement != Acknowledgement::InSync
    }

    /// When what is held back is to be sent: [`Replica::ingest`] sends it then, with or without other inputs.
    pub fn sends_at(&self) -> Option<Time> {
        let Role::Leading(leading) = &self.role else { return None };
        let rate = self.options.catch_up_bytes_per_second.unwrap_or_default();
        let limited = leading.peers.values().filter(|peer| peer.held_back);
        limited.map(|peer| peer.allowance.due(rate)).chain(self.batch_goes_at()).min()
    }

    /// When the batch is to be sent.
    fn batch_goes_at(&self) -> Option<Time> {
        match &self.role {
            Role::Leading(leading) if leading.batch.sendable < self.log.end() => {
                leading.batch.due(self.options.acknowledgement, self.now)
            }
            _ => None,
        }
    }

    /// Lets go of what is held back.
    pub(super) fn send_now(&mut self) {
        if let Role::Leading(leading) = &mut self.role {
            leading.batch.goes(self.log.end());
        }
    }

    /// Somebody waits for the standby to have everything: nothing is held back for a while.
    pub(super) fn open_batch(&mut self) {
        if let Role::Leading(leading) = &mut self.role {
            leading.batch.open_until = self.now + OPEN_FOR;
        }
        self.send_now();
    }

    /// Sends each peer what its window allows.
    pub(super) fn pump(&mut self, out: &mut Out<R, M>) {
        if self.batch_goes_at().is_some_and(|due| due <= self.now) {
            self.send_now();
        }
        let Role::Leading(leading) = &mut self.role else { return };
        let (epoch, end, committed) = (leading.progress.epoch(), leading.batch.sendable, self.committed);
        let mut broken = Vec::new();
        for (conn, peer) in &mut leading.peers {
            // Whoever is waited for, or about to be, is never held back.
            let rate = self.options.catch_up_bytes_per_second;
            let rate = rate.filter(|_| !leading.progress.wait_set().contains(&peer.member));
            if let Some(rate) = rate {
                peer.allowance.grow(rate, self.now, self.log.end());
            }
            peer.held_back = false;
            while peer.sent < end {
                let mut most = MAX_RUN;
                if let Some(rate) = rate
                    && self.log.holes().kept_between(peer.sent, end) > UNLIMITED
                {
                    let Some(run) = peer.allowance.run(rate, MAX_RUN) else {
                        peer.held_back = true;
                        break;
                    };
                    most = run;
                }
                let in_flight = peer.sent.bytes_since(peer.acked);
                // Any run fits that is allowed to begin: the window holds two records at least.
                if in_flight + MAX_RECORD as u64 > self.options.window_bytes {
                    break;
                }
                match next_frames(&self.log, &self.reader, peer, (epoch, committed), most) {
                    Ok((frames, sent)) => {
                        if rate.is_some() {
                            peer.allowance.spend(self.log.holes().kept_between(peer.sent, sent));
                        }
                        peer.sent = sent;
                        peer.told = committed;
                        out.extend(frames.into_iter().map(|frame| Output::Send { conn: *conn, frame }));
                    }
                    Err(error) => {
                        broken.push((*conn, error));
                        break;
                    }
                }
            }
        }
        for (conn, error) in broken {
            self.note_damage(&error);
            self.close(conn, format!("cannot read the log: {error}"), out);
        }
    }

    /// After the own sync: advances what is committed.
    pub(super) fn commit(&mut self, out: &mut Out<R, M>) {
        let (durable, alone) = (self.log.durable(), self.answers_alone());
        let Role::Leading(leading) = &mut self.role else { return };
        let epoch = leading.progress.epoch();
        leading.progress.acknowledge(epoch, &self.me, durable);
        self.committed = self.committed.max(leading.progress.committed());
        self.log.note_committed(self.committed);
        for (conn, peer) in &mut leading.peers {
            // What it has not got is told with it.
            let worth = if alone { self.committed.min(peer.acked) } else { self.committed };
            if peer.told < worth {
                peer.told = worth;
                let frame = Frame::Committed { epoch, lsn: worth };
                out.push(Output::Send { conn: *conn, frame });
            }
        }
        self.let_go(out);
    }

    pub(super) fn report_reached(&mut self, out: &mut Out<R, M>) {
        let applied = self.machine.applied();
        let Role::Leading(leading) = &mut self.role else { return };
        let epoch = leading.progress.epoch();
        if !leading.started && self.committed >= leading.start.1 && applied >= leading.start.1 {
            leading.started = true;
            out.push(Output::EpochStarted { epoch, lsn: leading.start.0 });
        }
        if let Some(version) = leading.progress.take_reached() {
            out.push(Output::WaitReached { epoch, version });
        }
    }

    pub(super) fn report_peers(&mut self, out: &mut Out<R, M>) {
        let Role::Leading(leading) = &mut self.role else { return };
        let mut now: BTreeMap<Member, (bool, Lsn)> = leading
            .reported
            .keys()
            .map(|m| (m.clone(), (false, leading.progress.durable_of(m).unwrap_or_default())))
            .collect();
        for peer in leading.peers.values() {
            let durable = leading.progress.durable_of(&peer.member).unwrap_or_default();
            now.insert(peer.member.clone(), (true, durable));
        }
        for (member, (streaming, durable)) in &now {
            if leading.reported.get(member) != Some(&(*streaming, *durable)) {
                let (member, streaming, durable) = (member.clone(), *streaming, *durable);
                out.push(Output::PeerProgress { member, streaming, durable });
            }
        }
        let least = now.values().map(|(_, durable)| *durable).min();
        leading.ages.note(self.log.end(), self.now);
        leading.ages.forget_below(least.unwrap_or(self.log.end()));
        leading.reported = now;
    }

    pub(super) fn peer_status(&self) -> Vec<PeerStatus> {
        let Role::Leading(leading) = &self.role else { return Vec::new() };
        let mut members: Vec<&Member> = leading.progress.wait_set().iter().collect();
        members.extend(leading.peers.values().map(|p| &p.member));
        members.extend(leading.reported.keys());
        members.sort();
        members.dedup();
        let status = |member: &Member| {
            let durable = leading.progress.durable_of(member);
            let streaming = leading.peers.values().any(|p| p.member == *member);
            PeerStatus {
                member: member.clone(),
                streaming,
                in_wait_set: leading.progress.wait_set().contains(member),
                durable,
                lag_bytes: self.log.end().bytes_since(durable.unwrap_or_default()),
                lag_ms: durable.map(|durable| self.lag_ms(leading, durable)),
                catch_up: leading.catching_up.get(member).filter(|_| streaming).and_then(|watch| {
                    let rate = self.options.catch_up_bytes_per_second;
                    let limit = rate.filter(|_| !leading.progress.wait_set().contains(member));
                    watch.status(self.now, limit)
                }),
            }
        };
        members.into_iter().filter(|m| **m != self.me).map(status).collect()
    }

    /// What is acknowledged and on no other member's disk, where writes wait for nobody else.
    pub(super) fn exposure(&self) -> Option<Exposure> {
        let Role::Leading(leading) = &self.role else { return None };
        if !self.answers_alone() {
            return None;
        }
        let others = leading.reported.keys().filter(|member| **member != self.me);
        let elsewhere =
            others.filter_map(|member| leading.progress.durable_of(member)).max().unwrap_or_default();
        let bytes = self.committed.bytes_since(elsewhere.max(leading.start.0));
        let ms = if bytes == 0 { 0 } else { self.lag_ms(leading, elsewhere) };
        Some(Exposure { bytes, ms })
    }

    fn lag_ms(&self, leading: &Leading<R>, durable: Lsn) -> u64 {
        if durable >= self.log.end() {
            return 0;
        }
        u64::try_from(leading.ages.of(durable, self.now).as_millis()).unwrap_or(u64::MAX)
    }
}

/// What a peer is sent next, and what it has then.
fn next_frames<D: Disk>(
    log: &Log<D>,
    reader: &LogReader,
    peer: &Peer,
    (epoch, committed): (Epoch, Lsn),
    most: usize,
) -> Result<(Vec<Frame>, Lsn), LogError> {
    let mut lsn = peer.sent;
    if let Some(hole) = reader.hole_at(lsn) {
        let mut gap = log.gap(hole)?;
        gap.history = gap.history.latest(MAX_HISTORY);
        return Ok((vec![Frame::Skip { epoch, gap }], hole.1));
    }
    let run = reader.read_run(lsn, most)?;
    let mut frames = Vec::new();
    for (bytes, sources) in moves::apart(&run) {
        // Without what the peer has: what is gone here is gone there, or never was.
        let there = |sources: &[MoveSource]| {
            lsn >= peer.whole_below && sources.iter().all(|source| reader.hole_at(source.lsn).is_none())
        };
        let short = sources.filter(|sources| there(sources)).map(|sources| moves::short(&bytes, &sources));
        let end = lsn + bytes.len() as u64;
        frames.push(match short {
            Some(record) => Frame::Move { epoch, committed, record },
            None => Frame::Append { epoch, lsn, committed, bytes },
        });
        lsn = end;
    }
    Ok((frames, lsn))
}
