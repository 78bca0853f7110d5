//! The candidate's side: when to stand, and what becomes of it.
//!
//! A campaign asks twice. The first question (`pre`) makes nothing durable anywhere, so a member that
//! was cut off and comes back cannot push the epoch up and topple a healthy primary (Ongaro, "Consensus:
//! Bridging Theory and Practice", section 9.6). Only with a majority willing does it promise itself the
//! new epoch and ask for real.

use std::collections::BTreeSet;
use std::time::Duration;

use holdfast_heartbeat::{
    Ballot, Epoch, InSyncRecord, Member, MemberKind, MemberState, Role, Time, Vote, planted,
};
use serde::{Deserialize, Serialize};

use super::effect::Effect;
use super::quorum::Quota;
use super::settings::TwoNode;
use super::transition::Cause;
use super::{Node, Phase};

/// How far an epoch that was won without a majority lies from those that a majority can win
/// meanwhile, so that the two can never be the same (rule R1).
const FORCED_STRIDE: u64 = 1 << 16;

/// The longest that a candidate waits for votes that are being written to disks.
const LONGEST_PATIENCE: Duration = Duration::from_secs(5);

/// A candidacy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Campaign {
    pub ballot: Ballot,
    pub votes: BTreeSet<usize>,
    /// Whether the own vote is durable (or, for a first question, simply given).
    pub own_vote: bool,
    /// The hard-state token of the own vote.
    pub token: Option<u64>,
    pub ask_at: Time,
    /// When the present question was first asked.
    pub began: Time,
    pub ends_at: Time,
    /// Won alone by the two-node policy or by force: without a majority.
    pub alone: bool,
    /// An operator, or the former primary, wants this member: a pause of the cluster does not end it.
    pub wanted: bool,
}

/// The primary's place is empty, as far as this member knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Vacancy {
    pub since: Time,
    pub cause: Cause,
    /// The former primary named this member: stand without waiting for a turn.
    pub named: bool,
    /// The former primary let go by itself, or is known to be dead: it cannot answer a probe any more.
    pub let_go: bool,
}

impl Vacancy {
    /// The operator's order that made this vacancy is over; the vacancy is not.
    pub(super) fn call_off_order(&mut self) {
        if self.cause == Cause::OperatorOrder {
            self.cause = Cause::NoPrimary;
            self.named = false;
        }
    }
}

/// The conflict probe that belongs to the present vacancy.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Probe {
    pub round: u64,
    pub started: Option<Time>,
    /// When it ended, and who answered.
    pub finished: Option<(Time, Option<String>)>,
    /// Whether the question could be put.
    pub asked: bool,
}

impl Node {
    /// Notes that the primary is gone, once.
    pub(super) fn vacate(&mut self, now: Time, cause: Cause, named: bool) {
        let let_go = matches!(cause, Cause::PrimaryResigned | Cause::PrimaryDied);
        self.leader = None;
        self.failed_campaigns = 0;
        self.vacancy = Some(Vacancy { since: now, cause, named, let_go });
        self.probe.started = None;
        self.probe.finished = None;
    }

    /// Looks whether a primary is missing, and whether this member should stand.
    pub(super) fn watch_leader(&mut self, now: Time, out: &mut Vec<Effect>) {
        if !matches!(self.phase, Phase::Waiting) {
            return;
        }
        if let Some((_, peer)) = self.leader {
            if self.peers[peer].reigns(now) {
                self.probe_ahead(now, peer, out);
                return;
            }
            let cause = if self.peers[peer].alive(now) { Cause::NoPrimary } else { Cause::PrimarySilent };
            let probe = self.probe.clone();
            self.vacate(now, cause, false);
            // A probe that was begun ahead of the silence belongs to this vacancy.
            self.probe = probe;
        } else if self.vacancy.is_none() {
            self.vacate(now, Cause::NoPrimary, false);
        }
        self.consider_standing(now, out);
    }

    /// Begins the conflict probe one heartbeat before the silence is complete, so that its answer is
    /// there when the votes are. A lost heartbeat costs three small frames.
    fn probe_ahead(&mut self, now: Time, peer: usize, out: &mut Vec<Effect>) {
        if self.settings.kind == MemberKind::Witness || self.is_two_node() {
            return;
        }
        let Some(heard) = self.peers[peer].detector.heard_at() else { return };
        let due = heard + self.settings.timers.detect.saturating_sub(self.settings.timers.probe_window);
        if now < due {
            self.probe.started = None;
            self.probe.finished = None;
        } else if self.probe.started.is_none() {
            self.start_probe(now, self.settings.timers.probe_window, out);
        }
    }

    pub(super) fn start_probe(&mut self, now: Time, window: Duration, out: &mut Vec<Effect>) {
        self.probe.round += 1;
        self.probe.started = Some(now);
        self.probe.finished = None;
        if self.settings.probe_vip {
            out.push(Effect::ProbeVip { round: self.probe.round, window });
        } else {
            self.probe.asked = true;
            self.probe.finished = Some((now, None));
        }
    }

    pub(super) fn probe_window(&self) -> Duration {
        if self.vacancy.as_ref().is_some_and(|vacancy| vacancy.let_go) {
            self.settings.timers.handover_probe_window
        } else {
            self.settings.timers.probe_window
        }
    }

    /// Whether the probe's answer is too old to say who answers for the address now.
    fn probe_is_stale(&self, now: Time) -> bool {
        self.probe.finished.as_ref().is_some_and(|(at, _)| now.since(*at) > self.settings.timers.detect)
    }

    /// The half of a pair that does not follow its silent primary at the first opportunity may be left behind:
    /// that one may go on alone, and fall silent later. From then on this half waits for both, as after a cold
    /// start. A primary that let go does not go on.
    fn fall_behind_if_held_up(&mut self, now: Time, vacancy: &Vacancy) {
        // Whoever must be off before the other one goes on alone is not left behind.
        if self.is_fencing_pair() {
            return;
        }
        let held_up = !self.fit() || self.paused() && !vacancy.named || !self.settings.automatic;
        if held_up
            && self.is_two_node()
            && !vacancy.let_go
            && !self.peers[0].alive(now)
            && !self.grant_blocks(now, &self.settings.me)
        {
            self.seen_in_sync = false;
        }
    }

    fn consider_standing(&mut self, now: Time, out: &mut Vec<Effect>) {
        let Some(vacancy) = self.vacancy.clone() else { return };
        self.fall_behind_if_held_up(now, &vacancy);
        let forced = self.forced;
        let ordered = forced || vacancy.cause == Cause::OperatorOrder;
        let wanted = ordered || vacancy.named;
        if self.settings.kind != MemberKind::Data
            || !self.fit()
            || !self.has_vote()
            || self.drained() && !ordered
            || self.paused() && !wanted
            || now < self.stand_after
            || now < self.votes_from
        {
            return;
        }
        if !self.settings.automatic && !forced && vacancy.cause != Cause::OperatorOrder {
            return;
        }
        let me = self.settings.me.clone();
        let mut cause = vacancy.cause;
        if forced {
            cause = Cause::OperatorForced;
        } else {
            match &self.hard.record {
                Some(record) if !record.contains(&me) && !super::voter::only_by_name(record, &me) => return,
                Some(_) => {}
                None if vacancy.cause == Cause::OperatorOrder && self.everybody_is_empty(now) => {}
                None if self.may_bootstrap(now) => cause = Cause::Bootstrap,
                None => return,
            }
            if !vacancy.named && now < vacancy.since + self.turn(now) {
                return;
            }
            if !wanted && self.leaves_it_to_healthier(now, &vacancy) {
                return;
            }
        }
        if self.grant_blocks(now, &me) {
            return;
        }
        let alone = self.needed_alone(now);
        if alone && !forced {
            if !self.may_stand_alone() {
                return;
            }
            if self.is_fencing_pair()
                && !self.other_half_has_let_go_or_is_off(&vacancy)
                && !planted::is("pair-stands-alone-unfenced")
            {
                let head_start =
                    self.settings.fencing.as_ref().map_or(Duration::ZERO, |fencing| fencing.head_start);
                if let Some(other) = self.other_half().filter(|_| !self.paused()) {
                    self.want_off(now, other, vacancy.since + head_start, out);
                }
                return;
            }
            // The probe is the only evidence that a pair has: it begins when the silence is complete, and
            // what it found out is soon of no use.
            let earlier = self.probe.started.is_none_or(|started| started < vacancy.since);
            if earlier || self.probe_is_stale(now) {
                return self.start_probe(now, self.probe_window(), out);
            }
            match &self.probe.finished {
                None => return,
                Some((_, Some(conflict))) => {
                    let message = format!(
                        "no heartbeat from {other}, but the virtual address still answers ({conflict}): not taking over, and {other} may go on alone. Repair the heartbeat path; if {other} is off for good: holdfast ha promote --accept-data-loss",
                        other = self.peers[0].name(),
                    );
                    // Its lease is over, so it lives, and acknowledges what this half does not get.
                    if !vacancy.let_go && !self.is_fencing_pair() {
                        self.seen_in_sync = false;
                    }
                    self.warn_once(now, message, out);
                    return self.start_probe(now, self.settings.timers.probe_window, out);
                }
                Some((_, None)) if !self.probe.asked => {
                    let message = "no heartbeat from the peer, and nobody could be asked about the virtual address: not taking over. Check this host's interface".to_owned();
                    self.warn_once(now, message, out);
                    return self.start_probe(now, self.settings.timers.probe_window, out);
                }
                Some((_, None)) => {}
            }
        } else if self.probe.started.is_none() {
            self.start_probe(now, self.probe_window(), out);
        }
        self.stand(now, cause, alone, wanted, out);
    }

    fn stand(&mut self, now: Time, cause: Cause, alone: bool, wanted: bool, out: &mut Vec<Effect>) {
        let forced = cause == Cause::OperatorForced;
        self.rounds += 1;
        // A record is as good a trace of an epoch as a promise: who reigned in it may have lost its disk,
        // and the promise with it.
        let seen = |epoch: Epoch, record: Option<&InSyncRecord>| {
            let record = record.filter(|_| !planted::is("epoch-of-record-forgotten"));
            epoch.max(record.map_or(Epoch::ZERO, |record| record.epoch))
        };
        let heard = self.peers.iter().filter_map(|peer| peer.state.as_ref());
        let heard = heard.map(|state| seen(state.epoch, state.record.as_ref()));
        let own = seen(self.hard.epoch, self.hard.record.as_ref());
        let highest = heard.max().unwrap_or(Epoch::ZERO).max(own);
        let epoch = self.epoch_after(highest, alone, forced);
        let ballot = Ballot { round: self.rounds, epoch, pre: true, forced };
        let window = self.settings.timers.interval.max(Duration::from_millis(50));
        // One failed attempt after another is one event: only the first of a series is told.
        if self.failed_campaigns == 0 {
            self.change_role(Role::Standby, cause, Role::Candidate, epoch, None, out);
        }
        self.phase = Phase::Campaigning(Campaign {
            ballot,
            votes: BTreeSet::new(),
            own_vote: true,
            token: None,
            ask_at: now,
            began: now,
            ends_at: now + window,
            alone,
            wanted,
        });
        self.progress_campaign(now, out);
    }

    /// The epoch to stand for. What a majority wins is the next one. What is won without a majority
    /// must differ from whatever the other side may win at the same time: two members of a pair take
    /// alternate numbers, a forced one jumps by a distance that depends on its name.
    fn epoch_after(&self, highest: Epoch, alone: bool, forced: bool) -> Epoch {
        let next = highest.next();
        let apart = !planted::is("forced-epoch-not-apart");
        // A forced one with a majority too: whoever knew of the newest epoch may have lost its disk, or be the one
        // that is off.
        if apart && (forced || alone && self.peers.iter().all(|peer| peer.member.is_none())) {
            // The incarnation too: a member that lost its disk does not know which epoch it once forced.
            let me = &self.settings.me;
            let name = me.id.as_str().bytes().chain(me.incarnation.0.to_le_bytes());
            let spread = name.fold(0u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)))
                % FORCED_STRIDE;
            // In whole strides of its own: two names never meet, however far apart their epochs were.
            let block = FORCED_STRIDE * FORCED_STRIDE;
            return Epoch((highest.0 / block + 1) * block + spread * FORCED_STRIDE);
        }
        if alone && self.is_two_node() && !planted::is("pair-shares-epochs") {
            let mine_is_even = self.peers[0].member.as_ref().is_none_or(|peer| self.settings.me.id < peer.id);
            return if next.0.is_multiple_of(2) == mine_is_even { next } else { next.next() };
        }
        next
    }

    /// Whether the in-sync record says that somebody has reigned in `epoch` or a later one. Who asked before it
    /// came to know that asks for too little.
    pub(super) fn has_record_of(&self, epoch: Epoch) -> bool {
        let record = self.hard.record.as_ref().filter(|_| !planted::is("epoch-of-record-forgotten"));
        record.is_some_and(|record| record.epoch >= epoch)
    }

    /// Asks, counts, and goes on to the next step of a campaign.
    pub(super) fn progress_campaign(&mut self, now: Time, out: &mut Vec<Effect>) {
        let Phase::Campaigning(campaign) = &self.phase else { return };
        let mut campaign = campaign.clone();
        let barred = if let Some(cause) = self.unfit_cause() {
            Some(cause)
        } else if self.drained() && !campaign.wanted {
            Some(Cause::Drained)
        } else if self.paused() && !campaign.wanted {
            Some(Cause::Paused)
        } else {
            None
        };
        if let Some(cause) = barred {
            return self.end_campaign(cause, None, out);
        }
        if campaign.token.is_some_and(|token| token <= self.durable_token) {
            if !campaign.own_vote {
                // The voters' disks may take as long as this one did.
                campaign.ends_at = campaign.ends_at.max(now + now.since(campaign.began) + self.patience);
            }
            campaign.own_vote = true;
        }
        let won = campaign.own_vote && self.is_elected(now, &campaign);
        if won && campaign.alone && !campaign.ballot.forced && !self.needed_alone(now) {
            // The other half was heard after all: it has a voice again.
            return self.end_campaign(Cause::VotesMissing, None, out);
        }
        if won && campaign.alone && !campaign.ballot.forced && self.is_fencing_pair() {
            let vacancy = self.vacancy.clone();
            let evident = vacancy.is_some_and(|vacancy| self.other_half_has_let_go_or_is_off(&vacancy));
            if !evident && !planted::is("pair-stands-alone-unfenced") {
                return self.end_campaign(Cause::VotesMissing, None, out);
            }
        }
        if won && campaign.alone && !campaign.ballot.forced {
            // Where the own disk took long, nobody knows any more who answers for the address: ask again.
            match &self.probe.finished {
                Some((_, Some(_))) => return self.end_campaign(Cause::VotesMissing, None, out),
                Some((_, None)) if self.probe.asked && !self.probe_is_stale(now) => {}
                None if self.probe.started.is_some() => return,
                _ => return self.start_probe(now, self.probe_window(), out),
            }
        }
        if won && campaign.ballot.pre {
            // What was true when the question was asked must be true of the own vote too.
            let me = &self.settings.me;
            let outside = self
                .hard
                .record
                .as_ref()
                .is_some_and(|record| !record.contains(me) && !super::voter::only_by_name(record, me));
            if campaign.ballot.epoch <= self.hard.epoch
                || self.has_record_of(campaign.ballot.epoch)
                || outside && !campaign.ballot.forced
                || self.grant_blocks(now, me)
            {
                self.end_campaign(Cause::VotesMissing, None, out);
                self.stand_after = now + self.settings.timers.retry() * 2;
                return;
            }
            self.hard.epoch = campaign.ballot.epoch;
            self.hard.voted_for = Some(self.settings.me.clone());
            self.persist(out);
            campaign.ballot.pre = false;
            campaign.votes.clear();
            campaign.own_vote = false;
            campaign.token = Some(self.persist_token);
            campaign.ask_at = now;
            campaign.began = now;
            campaign.ends_at = now + self.patience;
        } else if won {
            self.phase = Phase::Campaigning(campaign.clone());
            return self.begin_reign(now, &campaign, out);
        } else if now >= campaign.ends_at && campaign.own_vote {
            if !campaign.ballot.pre {
                // A voter whose disk is slower than this was will answer within the next one's time.
                self.patience = (self.patience * 2).min(LONGEST_PATIENCE);
            }
            if self.failed_campaigns == 0 {
                self.end_campaign(Cause::VotesMissing, None, out);
            }
            self.phase = Phase::Waiting;
            // Another candidate of equal patience must not collide for ever: wait by rank. And where
            // nobody is to be reached, ask ever less often; whoever comes back resets it.
            let pause = self.settings.timers.retry()
                * (2 + self.rank(now) as u32)
                * (1 << self.failed_campaigns.min(8));
            self.stand_after = now + pause.min(self.settings.timers.detect * 2);
            self.failed_campaigns += 1;
            return;
        }
        let ask = now >= campaign.ask_at;
        if ask {
            campaign.ask_at = now + self.settings.timers.retry();
        }
        self.phase = Phase::Campaigning(campaign);
        if ask {
            self.broadcast(now, true, out);
        }
    }

    /// An answer to the present ballot.
    pub(super) fn count_vote(&mut self, now: Time, peer: usize, vote: Vote, out: &mut Vec<Effect>) {
        let Phase::Campaigning(campaign) = &mut self.phase else { return };
        let ballot = campaign.ballot;
        if (vote.round, vote.epoch, vote.pre) != (ballot.round, ballot.epoch, ballot.pre) {
            return;
        }
        if vote.refusal.is_none() {
            campaign.votes.insert(peer);
            self.progress_campaign(now, out);
        } else {
            self.last_refusal = vote.refusal.map(|refusal| (self.peers[peer].name(), refusal));
        }
    }

    pub(super) fn end_campaign(
        &mut self,
        cause: Cause,
        peer: Option<holdfast_heartbeat::NodeId>,
        out: &mut Vec<Effect>,
    ) {
        let epoch = self.hard.epoch;
        self.phase = Phase::Waiting;
        self.change_role(Role::Candidate, cause, Role::Standby, epoch, peer, out);
    }

    /// Whether the votes make a primary, with the own one.
    fn is_elected(&self, now: Time, campaign: &Campaign) -> bool {
        let quota = match campaign.alone {
            // Everyone who can be heard must agree that no lease is in force; the silent are not asked.
            // Only an epoch that no majority can win may be won so.
            true if campaign.ballot.forced => Quota::Heard,
            true => Quota::Count(1),
            false if planted::is("half-of-the-votes") => Quota::Count(self.voters().div_ceil(2)),
            false => Quota::Majority,
        };
        let heard = |slot: usize| self.peers[slot].alive(now);
        self.electorate_of(&campaign.votes).carries(quota, heard, |slot| campaign.votes.contains(&slot))
    }

    /// Whether a decision now is taken without a majority: a forced one, or by the policy of a pair
    /// whose other half cannot be heard or has let go.
    pub(super) fn needed_alone(&self, now: Time) -> bool {
        let here = |peer: &super::peer::Peer| peer.alive(now) && !self.has_left(peer);
        (self.forced || self.is_two_node()) && !self.carried(now, Quota::Majority, here)
    }

    fn has_left(&self, peer: &super::peer::Peer) -> bool {
        // A vote is durable before it is sent: whose disk takes no writes gives none.
        self.is_two_node() && peer.state.as_ref().is_some_and(|state| state.leaving || state.disk_stalled)
    }

    /// Policies `probe` and `fence`: a member that this life of its process has seen to be in sync may follow a
    /// silent primary; after a cold start only the one that was last alone may.
    pub(super) fn may_stand_alone(&self) -> bool {
        let sole =
            self.hard.record.as_ref().is_some_and(|record| record.members == [self.settings.me.clone()]);
        let let_go = self.vacancy.as_ref().is_some_and(|vacancy| vacancy.let_go);
        match self.settings.two_node {
            TwoNode::Probe => sole || self.seen_in_sync || planted::is("pair-trusts-old-record"),
            // A record that was written down and has not taken effect proves nothing after a start.
            TwoNode::Fence => {
                let took_effect = self.hard.alone_since.is_some()
                    && self.hard.alone_since == self.hard.record.as_ref().map(InSyncRecord::rank);
                sole && took_effect || self.seen_in_sync || planted::is("pair-trusts-old-record")
            }
            TwoNode::Manual => sole || let_go && self.seen_in_sync,
        }
    }

    /// Under `two_node = "fence"`: whether the other half is known not to go on, so that this one may alone.
    fn other_half_has_let_go_or_is_off(&self, vacancy: &Vacancy) -> bool {
        vacancy.let_go || self.other_half().is_some_and(|id| self.is_off(&id))
    }

    /// A new cluster begins only with every data member present and empty: an empty disk that finds
    /// itself alone must not take the place of the data that a missing member has.
    fn may_bootstrap(&self, now: Time) -> bool {
        let first = |prefers: bool, priority: u32, id: &str| (!prefers, priority, id.to_owned());
        let settings = &self.settings;
        let mine = first(settings.prefers_primary, settings.priority, settings.me.id.as_str());
        let comes_first = |peer: &super::peer::Peer| {
            peer.state
                .as_ref()
                .is_some_and(|state| mine < first(state.prefers_primary, state.priority, &peer.name()))
        };
        let stands = |peer: &&super::peer::Peer| {
            let data = peer.settings.kind == MemberKind::Data && peer.configured();
            data && peer.state.as_ref().is_none_or(|state| !state.drained)
        };
        let mut others = self.peers.iter().filter(stands);
        self.everybody_is_empty(now) && others.all(comes_first)
    }

    /// Every data member is here and has never been part of a cluster; no witness remembers one.
    pub(super) fn everybody_is_empty(&self, now: Time) -> bool {
        self.is_pristine()
            && self.peers.iter().filter(|peer| peer.configured()).all(|peer| match peer.settings.kind {
                MemberKind::Data => {
                    peer.alive(now) && peer.state.as_ref().is_some_and(|state| state.pristine)
                }
                MemberKind::Witness => peer.state.as_ref().is_none_or(|state| state.record.is_none()),
            })
    }

    /// How many living members come before this one.
    pub(super) fn rank(&self, now: Time) -> usize {
        let mine = (self.health.penalty, self.settings.priority, &self.settings.me.id);
        self.rivals(now).filter(|(member, state)| (state.penalty, state.priority, &member.id) < mine).count()
    }

    /// The other members that are heard and may stand for a vacancy, with what they say of themselves.
    pub(super) fn rivals(&self, now: Time) -> impl Iterator<Item = (&Member, &MemberState)> {
        self.peers
            .iter()
            .filter(move |peer| peer.settings.kind == MemberKind::Data && peer.alive(now))
            .filter_map(|peer| peer.member.as_ref().zip(peer.state.as_ref()))
            .filter(|(member, state)| {
                state.electable
                    && !state.leaving
                    && self.hard.record.as_ref().is_some_and(|record| record.contains(member))
            })
    }

    fn turn(&self, now: Time) -> Duration {
        (self.settings.timers.interval / 2).max(Duration::from_millis(20)) * self.rank(now) as u32
    }
}
