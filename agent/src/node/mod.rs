//! The core of a member: one synchronous state machine that decides everything about roles.
//!
//! [`Node::handle`] takes the moment and an event and appends effects; [`Node::deadline`] says when it
//! wants to be called at the latest. It has no clock, no I/O and no randomness, so a simulator can run
//! it as it is. It never knows of sockets, files, HTTP or S3.
//!
//! ```text
//!   voter.rs     whom to help, whose lease to renew, whom to follow
//!   campaign.rs  when to stand, and asking for votes
//!   reign.rs     the lease, the steps of taking over, the end of a reign
//!   in_sync.rs   the in-sync set of a reign
//!   handover.rs  switchover, failback, commands
//!   maintenance.rs  pause, resume, drain
//!   preference.rs  how much this member is preferred
//!   voting.rs    who votes, and how that changes
//!   lateness.rs  how late the core itself is
//!   attendants.rs   services and hooks that follow the role
//!   paths.rs     what is said of the heartbeat paths: who hears whom, and what is lost on the way
//!   fence.rs     who must be confirmed to be off before this member goes on
//!   health.rs    failed checks and a stalled disk: who is worse than whom
//!   transition.rs  every change of role there is, with its reason
//! ```
//!
//! The lease is looked at before anything else in every call: a process that was stopped and comes
//! back finds its reign over before it reads what waited in its queues.

mod attendants;
mod campaign;
pub mod effect;
pub mod event;
mod fence;
mod handover;
pub mod hard_state;
pub mod health;
mod in_sync;
pub mod lateness;
mod maintenance;
mod paths;
mod peer;
mod preference;
pub mod quorum;
mod reign;
pub mod settings;
#[cfg(test)]
mod tests;
pub mod transition;
pub mod view;
mod voter;
mod voting;

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_heartbeat::{
    Dropped, Epoch, Heartbeat, Lsn, MAX_PATHS, MAX_SIGHTS, MemberKind, MemberState, NodeId, Refusal,
    Resignation, Role, Time, Vote, packet::OLDEST, planted,
};
use serde::{Deserialize, Serialize};

use attendants::Attendants;
use campaign::{Campaign, Probe, Vacancy};
use effect::Effect;
use event::Event;
use fence::Fence;
use handover::Awaited;
pub use handover::role_name;
use hard_state::HardState;
use health::Health;
use lateness::Lateness;
use maintenance::Announced;
use peer::{Peer, reigning};
use reign::Reign;
use settings::Settings;
use transition::{Cause, Transition};
use voter::{Grant, PendingVote};

/// How long a member that shuts down waits for the others to go on without it.
const FAREWELL: Duration = Duration::from_millis(600);
/// A repeated warning is said again after this time.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// Where the own log stands.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct LogPosition {
    /// End of the log.
    pub end: Lsn,
    /// Durable up to here.
    pub durable: Lsn,
    /// Epoch of the last record.
    pub last_epoch: Epoch,
}

/// What this member does about the role.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Phase {
    Waiting,
    Campaigning(Campaign),
    Reigning(Box<Reign>),
}

impl Phase {
    fn reigns(&self) -> bool {
        matches!(self, Phase::Reigning(_))
    }
}

/// Why the kernel does not hold this host's lease.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct GateLost {
    detail: String,
    /// The configuration names the gate: without it this member does not serve.
    named: bool,
    /// The role was handed over for it. Whoever gets it back after that keeps it: the others have no better gate.
    made_way: bool,
}

/// The core. See the module's documentation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Node {
    settings: Settings,
    peers: Vec<Peer>,
    phase: Phase,

    /// What is promised and recorded, and the newest version of it that is on disk.
    hard: HardState,
    durable: HardState,
    persist_token: u64,
    durable_token: u64,
    in_flight: Vec<(u64, HardState)>,

    // As a voter.
    votes_from: Time,
    grant: Option<Grant>,
    pending_votes: Vec<PendingVote>,
    /// Began without a record, was not there when the cluster began, and has not met a primary since: it may have
    /// forgotten a record, so that its vote proves nothing (rule R3).
    memoryless: bool,

    // As a follower and candidate.
    leader: Option<(Epoch, usize)>,
    following: Option<(Epoch, usize)>,
    vacancy: Option<Vacancy>,
    probe: Probe,
    rounds: u64,
    stand_after: Time,
    /// Campaigns in a row that found not enough votes.
    failed_campaigns: u32,
    /// How long votes are waited for.
    patience: Duration,
    forced: bool,
    last_refusal: Option<(String, Refusal)>,
    /// This life of the process has followed a primary whose recorded set had this member.
    seen_in_sync: bool,
    in_sync_since: Option<Time>,
    last_primary_durable: Option<Lsn>,

    // As a former primary.
    resigned: Option<Resignation>,
    resign_on_release: Option<Resignation>,
    releasing: bool,
    last_failback: Option<Time>,
    attendants: Attendants,
    fence: Fence,

    // The host.
    log: LogPosition,
    log_broken: bool,
    log_full: bool,
    links_good: bool,
    links_detail: String,
    gate_lost: Option<GateLost>,
    health: Health,
    terminating: bool,
    exit_at: Option<Time>,
    exited: bool,

    // Requests.
    failback_enabled: bool,
    wish_until: Option<Time>,
    awaited: Option<Awaited>,
    announced: Vec<Announced>,

    next_beat: Time,
    /// When everybody was last told this member's state.
    said_at: Time,
    role_since: Time,
    now: Time,
    /// An event was handled: from then on this member asks to be called.
    handled: bool,
    lateness: Lateness,
    dropped: BTreeMap<Dropped, u64>,
    warned: BTreeMap<String, Time>,
}

/// What is said of a member that was not called for so long.
fn stood_still_for(time: Duration) -> String {
    format!(
        "this member stood still for {:.1} s: it was stopped, its machine was frozen, or it got no processor time; it listens before it stands for anything",
        time.as_secs_f64()
    )
}

impl Node {
    /// A node that starts at `now` with what its disk remembers.
    pub fn new(settings: Settings, hard: HardState, log: LogPosition, now: Time) -> Node {
        // A log that reaches into an epoch is as good a promise as one in the state file.
        let in_log = if planted::is("epoch-of-log-forgotten") { Epoch::ZERO } else { log.last_epoch };
        let hard = HardState { epoch: hard.epoch.max(in_log), ..hard };
        let peers = settings
            .peers
            .iter()
            .enumerate()
            .map(|(slot, peer)| Peer::new(slot, peer.clone(), settings.timers.detect))
            .collect();
        let timers = &settings.timers;
        let wait = timers.voter_wait(hard.restart_wait(timers.stated_lease()));
        let votes_from = if planted::is("restart-votes-at-once") { now } else { now + wait };
        Node {
            peers,
            phase: Phase::Waiting,
            memoryless: hard.record.is_none() && !hard.saw_the_beginning(),
            durable: hard.clone(),
            hard,
            persist_token: 0,
            durable_token: 0,
            in_flight: Vec::new(),
            votes_from,
            grant: None,
            pending_votes: Vec::new(),
            leader: None,
            following: None,
            vacancy: None,
            probe: Probe::default(),
            rounds: 0,
            stand_after: Time::ZERO,
            failed_campaigns: 0,
            patience: settings.timers.interval.max(Duration::from_millis(100)),
            forced: false,
            last_refusal: None,
            seen_in_sync: false,
            in_sync_since: None,
            last_primary_durable: None,
            resigned: None,
            resign_on_release: None,
            releasing: false,
            last_failback: None,
            attendants: Attendants::default(),
            fence: Fence::new(now),
            log,
            log_broken: false,
            log_full: false,
            links_good: true,
            links_detail: String::new(),
            gate_lost: None,
            health: Health::default(),
            terminating: false,
            exit_at: None,
            exited: false,
            failback_enabled: true,
            wish_until: None,
            awaited: None,
            announced: Vec::new(),
            next_beat: now,
            said_at: now,
            role_since: now,
            now,
            handled: false,
            lateness: Lateness::default(),
            dropped: BTreeMap::new(),
            warned: BTreeMap::new(),
            settings,
        }
    }

    /// Takes an event in and appends what is to be done about it.
    pub fn handle(&mut self, now: Time, event: Event, out: &mut Vec<Effect>) {
        // The clock of one host never runs backwards; a caller's rounding must not seem to.
        let now = now.max(self.now);
        let due = self.deadline();
        let late = now.since(due);
        if now >= due {
            self.lateness.note(now, late, self.late_limit());
        }
        // Whoever slept has heard nobody, which says nothing about the others: it listens first.
        // What it knew of the in-sync set is of no use either: the other half of a pair may have gone on
        // alone meanwhile, and left again.
        let stood_still = now.since(self.now);
        let asleep = stood_still > self.settings.timers.detect;
        if asleep {
            self.stand_after = self.stand_after.max(now + self.settings.timers.detect);
            self.seen_in_sync = false;
        }
        self.now = now;
        let cause = if late > self.late_limit() { Cause::StoodStill } else { Cause::LeaseLapsed };
        self.check_lease(now, cause, out);
        // Whoever voted may have gone on without this member since it was last heard: the votes that wait in the
        // queues are of that time.
        let silent = now.since(self.said_at) > self.settings.timers.detect * 3 / 4;
        if silent && matches!(self.phase, Phase::Campaigning(_)) {
            self.end_campaign(Cause::StoodStill, None, out);
        }
        if asleep && self.handled {
            out.push(Effect::Warn { message: stood_still_for(stood_still) });
        }
        self.handled = true;
        self.note_lateness(now, out);
        match event {
            Event::Ticked => {}
            Event::HeartbeatReceived { peer, path, heartbeat } => {
                self.take_heartbeat(now, peer, path, &heartbeat, out)
            }
            Event::NoticeReceived(notice) => self.heed_notice(now, &notice, out),
            Event::Persisted { token } => self.note_persisted(now, token, out),
            Event::ProbeFinished { round, conflict, asked } => {
                if round == self.probe.round {
                    self.probe.asked = asked;
                    self.probe.finished = Some((now, conflict));
                }
            }
            Event::VipClaimed { epoch } => {
                if let Phase::Reigning(reign) = &mut self.phase
                    && reign.epoch == epoch
                {
                    reign.vip_claimed = true;
                }
            }
            Event::VipReleased => self.note_released(now, out),
            Event::ServiceStopped => {
                if let Phase::Reigning(reign) = &mut self.phase
                    && let Some(handover) = &mut reign.handover
                {
                    handover.service_stopped = true;
                }
            }
            Event::EpochStarted { epoch } => {
                if let Phase::Reigning(reign) = &mut self.phase
                    && reign.epoch == epoch
                {
                    reign.log_started = true;
                }
            }
            Event::WaitReached { epoch, version } => self.admit_joined(now, epoch, version, out),
            Event::FollowerProgressed { member, streaming, durable } => {
                self.note_follower(now, &member, streaming, durable)
            }
            Event::LogAdvanced { end, durable, last_epoch } => {
                for peer in &mut self.peers {
                    peer.follower.owes(now, self.log.durable, durable);
                }
                self.log = LogPosition { end, durable, last_epoch };
            }
            Event::LogFailed { full, error } => {
                self.log_full = full;
                if full && matches!(&self.phase, Phase::Reigning(reign) if !reign.log_started) {
                    // The reign cannot even be begun here. It ends before whoever cannot follow a log
                    // that does not run is dropped from the set; somebody with more room may have it.
                    self.step_down(now, Cause::PromotionFailed, None, out);
                    self.stand_after = now + self.settings.timers.detect * 10;
                }
                let consequence = if full {
                    "writes are refused until there is space; what was acknowledged is intact"
                } else {
                    self.log_broken = true;
                    "this member will not acknowledge anything any more and gives up the role; restart it after the disk is repaired"
                };
                self.warn_once(now, format!("the log cannot be written: {error}; {consequence}"), out);
            }
            Event::SpaceReturned => self.log_full = false,
            Event::LinksJudged { good, detail } => {
                self.links_good = good;
                self.links_detail = detail;
            }
            Event::GateJudged { lost, named } => {
                let made_way = self.gate_lost.as_ref().is_some_and(|lost| lost.made_way);
                self.gate_lost = lost.map(|detail| GateLost { detail, named, made_way });
            }
            Event::ChecksJudged { penalty, failed } => self.note_checks(now, penalty, failed, out),
            Event::DiskJudged { good, detail } => self.note_disk(good, detail, out),
            Event::CommandGiven { id, command } => self.carry_out(now, id, command, out),
            Event::PeersConfigured(peers) => self.take_peers(now, peers, out),
            Event::TerminationRequested => {
                self.terminating = true;
                self.exit_at.get_or_insert(now + self.settings.timers.handover + FAREWELL);
            }
            Event::Prepared { epoch, round, outcome } => self.note_prepared(now, epoch, round, outcome, out),
            Event::Retired { round } => self.note_retired(now, round),
            Event::FenceFinished { round, confirmed, detail } => {
                self.note_fenced(now, round, confirmed, detail, out)
            }
        }
        self.progress(now, out);
    }

    /// When [`Node::handle`] must be called at the latest, with [`Event::Ticked`] if nothing else.
    pub fn deadline(&self) -> Time {
        let mut at = self.next_beat;
        let mut sooner = |t: Time| {
            if t > self.now {
                at = at.min(t);
            }
        };
        sooner(self.votes_from);
        sooner(self.stand_after);
        if let Some(grant) = &self.grant {
            sooner(grant.until);
        }
        let detect = self.settings.timers.detect;
        for peer in &self.peers {
            if let Some(silent) = peer.detector.silent_at(self.now) {
                sooner(silent);
                sooner(silent - self.settings.timers.probe_window);
            }
        }
        match &self.phase {
            Phase::Waiting => {
                if let Some(vacancy) = &self.vacancy {
                    sooner(vacancy.since + self.settings.timers.retry() * 4);
                    sooner(vacancy.since + detect);
                }
            }
            Phase::Campaigning(campaign) => {
                sooner(campaign.ask_at);
                sooner(campaign.ends_at);
            }
            Phase::Reigning(reign) => {
                sooner(reign.lease_until.unwrap_or(reign.since + self.settings.timers.lease));
                if let Some(opened) = reign.opened.filter(|_| reign.role == Role::Promoting) {
                    sooner(opened + self.settings.timers.promotion_patience() + Duration::from_nanos(1));
                }
                if let Some(retired) = reign.handover.as_ref().and_then(|handover| handover.retired) {
                    sooner(retired + self.settings.timers.promotion_patience());
                    sooner(retired + self.settings.timers.handover);
                }
            }
        }
        sooner(self.fence.deadline());
        if let Some(exit) = self.exit_at {
            sooner(exit);
        }
        at.max(self.now + Duration::from_micros(200))
    }

    fn take_heartbeat(
        &mut self,
        now: Time,
        peer: usize,
        path: usize,
        heartbeat: &Heartbeat,
        out: &mut Vec<Effect>,
    ) {
        if let Err(reason) = self.identify(now, peer, heartbeat) {
            return self.drop_packet(reason);
        }
        // That a later epoch was won is true for ever, however late the packet that says so: the one
        // fact that is believed without proof of freshness. It ends a reign and can begin none.
        if let Phase::Reigning(reign) = &self.phase
            && heartbeat.state.epoch > reign.epoch
            && reigning(heartbeat.state.role)
        {
            self.step_down(now, Cause::OtherPrimary, Some(heartbeat.from.id.clone()), out);
        }
        self.heed_packet_of_the_dead(now, peer, heartbeat, out);
        let max_age = self.settings.timers.detect.max(self.settings.timers.lease);
        let was_alive = self.peers[peer].alive(now);
        let newest = match self.peers[peer].admit(now, self.settings.boot, max_age, path, heartbeat) {
            Ok(newest) => newest,
            Err(reason) => return self.drop_packet(reason),
        };
        self.note_alive(&heartbeat.from.id);
        // Ahead of a vote that comes with it: whoever votes and knows of a pause says so in one breath.
        self.heed_suspension(&heartbeat.state.suspension, out);
        if !was_alive && self.failed_campaigns > 0 {
            self.failed_campaigns = 0;
            self.stand_after = self.stand_after.min(now);
        }
        self.peers[peer].member = Some(heartbeat.from.clone());
        self.peers[peer].speaks = heartbeat.speaks;
        if let (Phase::Reigning(reign), Some(echo)) = (&self.phase, &heartbeat.echo)
            && (heartbeat.state.grants == Some(reign.epoch) || planted::is("lease-from-any-heartbeat"))
            && echo.sent_at >= reign.since
        {
            let ack = &mut self.peers[peer].lease_ack;
            let from = if planted::is("lease-from-receipt") { now } else { echo.sent_at };
            *ack = Some(ack.map_or(from, |known| known.max(from)));
        }
        if let Some(vote) = heartbeat.state.vote {
            self.count_vote(now, peer, vote, out);
        }
        if !newest {
            return;
        }
        let state = &heartbeat.state;
        if let Some(resigned) = &state.resigned {
            self.heed_resignation(now, peer, resigned, out);
        }
        if reigning(state.role) {
            self.heed_primary(now, peer, heartbeat, out);
            self.last_primary_durable = Some(state.durable);
        }
        self.adopt_record(state.record.as_ref(), out);
        if let Some(ballot) = state.ballot {
            self.consider_ballot(now, peer, heartbeat, ballot, out);
        } else if heartbeat.reply_wanted {
            self.send_to(now, peer, path, false, None, out);
        }
    }

    /// Whether the sender may speak from this peer's address under this name.
    fn identify(&self, now: Time, peer: usize, heartbeat: &Heartbeat) -> Result<(), Dropped> {
        let from = &heartbeat.from;
        if from.id == self.settings.me.id {
            return Err(Dropped::FromSelf);
        }
        let slot = self.peers.get(peer).filter(|slot| slot.configured());
        let Some(slot) = slot else { return Err(Dropped::UnknownSender) };
        let other_name = slot.member.as_ref().is_some_and(|known| known.id != from.id) && slot.alive(now);
        let taken = self.peers.iter().enumerate().any(|(at, other)| {
            at != peer && other.member.as_ref().is_some_and(|known| known.id == from.id) && other.alive(now)
        });
        if other_name || taken || heartbeat.kind != slot.settings.kind {
            return Err(Dropped::UnknownSender);
        }
        Ok(())
    }

    fn drop_packet(&mut self, reason: Dropped) {
        *self.dropped.entry(reason).or_default() += 1;
    }

    fn note_persisted(&mut self, now: Time, token: u64, out: &mut Vec<Effect>) {
        if token <= self.durable_token {
            return;
        }
        self.durable_token = token;
        while let Some((written, _)) = self.in_flight.first()
            && *written <= token
        {
            let (_, state) = self.in_flight.remove(0);
            self.durable = state;
        }
        self.release_votes(now, out);
        match &self.phase {
            // A new record, or a promise to a primary, is news: say it now, not at the next beat.
            Phase::Reigning(_) | Phase::Waiting => self.broadcast(now, self.phase.reigns(), out),
            Phase::Campaigning(_) => self.progress_campaign(now, out),
        }
    }

    fn note_released(&mut self, now: Time, out: &mut Vec<Effect>) {
        self.releasing = false;
        if let Phase::Reigning(reign) = &mut self.phase
            && let Some(handover) = &mut reign.handover
            && handover.letting_go
        {
            handover.vip_released = true;
        }
        if let Some(resigned) = self.resign_on_release.take() {
            self.resigned = Some(resigned);
            self.broadcast(now, false, out);
        }
        self.retire_now(now, out);
    }

    fn note_follower(
        &mut self,
        now: Time,
        member: &holdfast_heartbeat::Member,
        streaming: bool,
        durable: Lsn,
    ) {
        let Some(peer) = self.peers.iter_mut().find(|peer| peer.member.as_ref() == Some(member)) else {
            return;
        };
        let follower = &mut peer.follower;
        // A stream that comes up is no progress: one that ends and comes up again, for want of space on the
        // other side say, would hold up writes for ever.
        follower.acknowledged(now, durable, self.log.durable, self.settings.answers_alone);
        if follower.streaming && !streaming {
            follower.lost_at = now;
        }
        follower.streaming = streaming;
    }

    /// Whatever follows from the present state, whichever event led to it.
    fn progress(&mut self, now: Time, out: &mut Vec<Effect>) {
        self.progress_campaign(now, out);
        self.progress_reign(now, out);
        self.watch_leader(now, out);
        self.follow_leader(now, out);
        self.watch_attendants(now, out);
        self.watch_fence(now, out);
        self.expire_awaited(now, out);
        self.answer_announced(now, out);
        self.consider_exit(now, out);
        if now >= self.next_beat {
            self.broadcast(now, !matches!(self.phase, Phase::Waiting), out);
            self.next_beat = now + self.settings.timers.interval;
        }
    }

    /// Tells the log whom to follow, once the promise to that primary is on disk.
    fn follow_leader(&mut self, now: Time, out: &mut Vec<Effect>) {
        if self.settings.kind == MemberKind::Witness || !matches!(self.phase, Phase::Waiting) {
            self.in_sync_since = None;
            return;
        }
        let Some((epoch, peer)) = self.leader else {
            self.in_sync_since = None;
            return;
        };
        let recorded =
            self.durable.record.as_ref().is_some_and(|r| r.epoch == epoch && r.contains(&self.settings.me));
        // The other half of a pair says so before it goes on alone.
        let left_out = self.peers[peer].state.as_ref().is_none_or(|state| {
            let counted = state.record.as_ref().is_some_and(|record| record.contains(&self.settings.me));
            state.going_on_alone || !counted
        });
        if self.is_two_node() && left_out {
            self.seen_in_sync = false;
            self.in_sync_since = None;
        } else if recorded && self.peers[peer].alive(now) {
            self.seen_in_sync = true;
            self.in_sync_since.get_or_insert(now);
        } else {
            self.in_sync_since = None;
        }
        let on_disk = self.durable.epoch == epoch || planted::is("follows-before-promise-durable");
        if on_disk && self.hard.epoch == epoch && self.following != Some((epoch, peer)) {
            self.following = Some((epoch, peer));
            let leader = self.peers[peer].member.clone().expect("a leader was heard");
            out.push(Effect::Promise { epoch });
            out.push(Effect::Follow { epoch, leader, peer });
        }
    }

    fn consider_exit(&mut self, now: Time, out: &mut Vec<Effect>) {
        if !self.terminating || self.exited || self.phase.reigns() || self.releasing {
            return;
        }
        if self.attendants.busy() {
            return;
        }
        let primary = self.leader.filter(|(_, peer)| self.peers[*peer].reigns(now));
        let missed = self.settings.kind == MemberKind::Data
            && primary.is_some()
            && self.hard.record.as_ref().is_some_and(|record| record.contains(&self.settings.me));
        // Another member can only go on at once if this one stays to vote; it leaves when there is a
        // primary that no longer counts on it, when nobody is there to wait for, or when time is up.
        let nobody = !self.peers.iter().any(|peer| peer.alive(now));
        let done = nobody || primary.is_some() && !missed || self.settings.kind == MemberKind::Witness;
        if done || self.exit_at.is_some_and(|at| now >= at) {
            self.exited = true;
            self.broadcast(now, false, out);
            out.push(Effect::Exit);
        }
    }

    /// Says this member's state to everybody, over every path.
    fn broadcast(&mut self, now: Time, reply_wanted: bool, out: &mut Vec<Effect>) {
        self.said_at = now;
        for peer in 0..self.peers.len() {
            for path in 0..self.peers[peer].settings.paths {
                self.send_to(now, peer, path, reply_wanted, None, out);
            }
        }
    }

    fn send_to(
        &mut self,
        now: Time,
        peer: usize,
        path: usize,
        reply_wanted: bool,
        vote: Option<Vote>,
        out: &mut Vec<Effect>,
    ) {
        let grants = self.grant_for(now, peer);
        let state = self.own_state(now, grants, vote);
        let slot = &mut self.peers[peer];
        let echo = slot.echo_for_next(now);
        let seq = slot.next_seq(now, path, reply_wanted);
        let heartbeat = Box::new(Heartbeat {
            from: self.settings.me.clone(),
            kind: self.settings.kind,
            boot: self.settings.boot,
            seq,
            sent_at: now,
            path: path as u8,
            echo,
            reply_wanted,
            paths: slot.detector.reports().take(MAX_PATHS).collect(),
            speaks: self.settings.speaks,
            state,
        });
        // Who is not heard may have been replaced by an older release.
        let theirs = if slot.alive(now) { slot.speaks } else { OLDEST };
        out.push(Effect::Send { peer, path, version: theirs.min(self.settings.speaks), heartbeat });
    }

    fn own_state(&self, now: Time, grants: Option<Epoch>, vote: Option<Vote>) -> MemberState {
        let ballot = match &self.phase {
            Phase::Campaigning(campaign) => Some(campaign.ballot),
            _ => None,
        };
        let follows = match (&self.phase, self.following) {
            (Phase::Waiting, Some((epoch, peer))) => {
                self.peers[peer].member.as_ref().map(|member| (epoch, member.id.clone()))
            }
            _ => None,
        };
        MemberState {
            role: self.role(),
            epoch: self.durable.epoch,
            priority: self.settings.priority,
            prefers_primary: self.settings.prefers_primary,
            lease_ns: u64::try_from(self.settings.timers.stated_lease().as_nanos()).unwrap_or(u64::MAX),
            grants,
            follows,
            ballot,
            vote,
            record: self.durable.record.clone(),
            resigned: self.resigned.clone(),
            durable: self.log.durable,
            last_epoch: self.log.last_epoch,
            pristine: self.is_pristine(),
            // Who may not vote yet could not stand if the role were handed to it.
            electable: self.electable() && self.settings.kind == MemberKind::Data && now >= self.votes_from,
            wants_primary: self.own_wish(now),
            leaving: self.terminating,
            drained: self.durable.drained,
            suspension: self.durable.suspension.clone(),
            going_on_alone: self.removing_other_half(),
            penalty: self.health.penalty,
            disk_stalled: self.disk_stalled(),
            hears: self.peers.iter().filter_map(|peer| peer.sight(now)).take(MAX_SIGHTS).collect(),
        }
    }

    fn persist(&mut self, out: &mut Vec<Effect>) {
        let lease = u64::try_from(self.settings.timers.stated_lease().as_nanos()).unwrap_or(u64::MAX);
        self.hard.lease_ns = self.hard.lease_ns.max(lease);
        self.persist_token += 1;
        self.in_flight.push((self.persist_token, self.hard.clone()));
        out.push(Effect::Persist { token: self.persist_token, state: self.hard.clone() });
    }

    /// Every change of role passes here, and must stand in the table.
    fn change_role(
        &mut self,
        from: Role,
        cause: Cause,
        to: Role,
        epoch: Epoch,
        peer: Option<NodeId>,
        out: &mut Vec<Effect>,
    ) {
        let row = transition::find(from, cause, to);
        let row =
            row.unwrap_or_else(|| panic!("the table of transitions has no {from:?} --{cause:?}--> {to:?}"));
        self.role_since = self.now;
        out.push(Effect::Report(Transition { from, to, cause, reason: row.reason.to_owned(), epoch, peer }));
    }

    fn warn_once(&mut self, now: Time, message: String, out: &mut Vec<Effect>) {
        self.warned.retain(|_, at| now.since(*at) < WARN_EVERY);
        if !self.warned.contains_key(&message) {
            self.warned.insert(message.clone(), now);
            out.push(Effect::Warn { message });
        }
    }

    fn role(&self) -> Role {
        match &self.phase {
            Phase::Waiting if self.settings.kind == MemberKind::Witness => Role::Witness,
            Phase::Waiting => Role::Standby,
            Phase::Campaigning(_) => Role::Candidate,
            Phase::Reigning(reign) => reign.role,
        }
    }

    fn voters(&self) -> usize {
        self.electorate().voters()
    }

    /// Voters that can be heard, this one included.
    fn heard(&self, now: Time) -> usize {
        self.electorate().heard(|slot| self.peers[slot].alive(now))
    }

    fn is_pristine(&self) -> bool {
        self.hard.record.is_none() && self.log.end == Lsn::ZERO
    }

    /// Whether this host could do a primary's work.
    fn fit(&self) -> bool {
        self.unfit_cause().is_none()
    }

    /// Whether the gate that this member must have is lost.
    fn bars_without_gate(&self) -> bool {
        self.gate_lost.as_ref().is_some_and(|lost| lost.named)
    }

    /// Why this host could not do a primary's work, if it could not.
    fn unfit_cause(&self) -> Option<Cause> {
        if self.log_broken {
            Some(Cause::DiskFailed)
        } else if self.terminating {
            Some(Cause::Terminating)
        } else if self.bars_without_gate() {
            Some(Cause::GateLost)
        } else if self.disk_stalled() {
            Some(Cause::DiskStalled)
        } else if !self.links_good {
            Some(Cause::LinksFailed)
        } else {
            None
        }
    }

    /// Whether this member may be made primary without an order that names it.
    fn electable(&self) -> bool {
        self.fit() && !self.drained()
    }
}
