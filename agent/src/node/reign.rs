//! A reign: the lease, the steps of taking over (rule R7), and its end.
//!
//! What must hold: nothing is served before a quorum has the in-sync record of this epoch, the log has
//! its epoch-start record committed, the lease is in force and nobody answers on the address; and from
//! the moment that the lease has lapsed nothing is served, whatever else is going on.

use std::time::Duration;

use holdfast_heartbeat::{Epoch, Member, MemberKind, NodeId, Resignation, Role, Time, planted};
use serde::{Deserialize, Serialize};

use super::attendants::{GRACE, Preparation};
use super::campaign::Campaign;
use super::effect::Effect;
use super::handover::Handover;
use super::in_sync::InSync;
use super::quorum::Quota;
use super::transition::Cause;
use super::voting::Reform;
use super::{Node, Phase};

/// A member that holds the lease and cannot finish taking over (its interface is missing, say) makes
/// way after this time, if there is somebody to make way for.
const PROMOTION_LIMIT: Duration = Duration::from_secs(5);

/// A reign, from the vote to its end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Reign {
    pub epoch: Epoch,
    /// An operator ordered it although a majority could not be heard, and answers for the others.
    pub answered_for: bool,
    /// Ordered whatever may be lost by it: nobody is waited for.
    pub forced: bool,
    /// Won without the vote of the other half of a pair.
    pub alone: bool,
    pub since: Time,
    /// `Promoting`, `Primary` or `HandingOver`.
    pub role: Role,
    /// Until when a majority stands behind this reign.
    pub lease_until: Option<Time>,
    /// Since when it writes things down: nobody before it needs to be switched off any more.
    pub opened: Option<Time>,
    pub in_sync: InSync,
    /// Who votes in it at first, as far as known when it was won.
    pub voters: Option<Vec<NodeId>>,
    /// A change of the voting set that is under way.
    pub reform: Option<Reform>,
    /// The log was told to begin.
    pub led: bool,
    pub log_started: bool,
    pub preparation: Preparation,
    /// Since when clients are answered.
    pub serving: bool,
    pub vip_claimed: bool,
    pub handover: Option<Handover>,
}

impl Node {
    pub(super) fn begin_reign(&mut self, now: Time, campaign: &Campaign, out: &mut Vec<Effect>) {
        let (epoch, alone, forced) = (campaign.ballot.epoch, campaign.alone, campaign.ballot.forced);
        let voters = self.newest_voters(&campaign.votes);
        let me = self.settings.me.clone();
        self.change_role(Role::Candidate, Cause::VotesWon, Role::Promoting, epoch, None, out);
        let other = self.other_half().filter(|id| alone && self.is_fencing_pair() && self.is_off(id));
        if let Some(other) = other {
            out.push(Effect::Note { message: format!("epoch {epoch} begins alone: {other} is off") });
        } else if alone {
            let message = format!(
                "epoch {epoch} began without a majority; if the other member still serves somewhere, what is written there meanwhile will be set aside when it comes back"
            );
            out.push(Effect::Warn { message });
        }
        if self.hard.drained {
            // Only an operator's order to this very member leads here.
            self.hard.drained = false;
            let message = format!("{me} is drained no longer: it was ordered to be primary");
            out.push(Effect::Note { message });
        }
        for peer in &mut self.peers {
            peer.lease_ack = None;
        }
        self.forced = false;
        self.grant = None;
        let preparation = self.preparation();
        // What an earlier reign of this member left behind goes before anything of this one comes.
        self.retire_now(now, out);
        self.phase = Phase::Reigning(Box::new(Reign {
            epoch,
            answered_for: alone && forced,
            forced,
            alone,
            since: now,
            role: Role::Promoting,
            lease_until: None,
            opened: None,
            in_sync: InSync::new(epoch, vec![me]),
            voters,
            reform: None,
            led: false,
            log_started: false,
            preparation,
            serving: false,
            vip_claimed: false,
            handover: None,
        }));
        out.push(Effect::Promise { epoch });
        self.following = None;
        if forced || self.unfenced_predecessor(now).is_none() {
            self.open_reign(now, out);
        }
        self.broadcast(now, true, out);
        self.progress_reign(now, out);
    }

    /// From here on the reign writes things down: its in-sync record, and its log.
    fn open_reign(&mut self, now: Time, out: &mut Vec<Effect>) {
        let me = self.settings.me.clone();
        let Phase::Reigning(reign) = &self.phase else { return };
        let (epoch, forced) = (reign.epoch, reign.forced);
        // The previous set minus whoever cannot follow now: each of them holds every acknowledged
        // byte, and nothing more is acknowledged before the new record is at a quorum.
        let mut members = vec![me.clone()];
        if let (Some(record), false) = (&self.hard.record, forced) {
            for member in record.members.iter().filter(|member| **member != me) {
                let stays = self.peers.iter().any(|peer| {
                    peer.member.as_ref() == Some(member)
                        && peer.alive(now)
                        && peer.state.as_ref().is_some_and(|state| !state.leaving && state.electable)
                });
                if stays {
                    members.push(member.clone());
                }
            }
        }
        for peer in &mut self.peers {
            peer.follower = super::peer::Follower::unheard(now);
        }
        let recorded = self.hard.record.is_some();
        let Phase::Reigning(reign) = &mut self.phase else { return };
        reign.opened = Some(now);
        reign.in_sync = InSync::new(epoch, members.clone());
        reign.led = recorded;
        let voters = reign.voters.clone();
        // In a new cluster the log begins only under a recorded set: one that had begun without would
        // belong to no set and could never be told from the remains of an older cluster.
        if recorded {
            out.push(Effect::Lead { epoch, members: members.clone() });
        }
        self.propose_record(now, members, voters, out);
    }

    /// The step of taking over between the lease and the log: whoever was primary before is off.
    fn progress_fencing(&mut self, now: Time, out: &mut Vec<Effect>) {
        let Phase::Reigning(reign) = &self.phase else { return };
        if reign.lease_until.is_none() {
            return;
        }
        let since = reign.since;
        match self.unfenced_predecessor(now) {
            Some(id) => self.want_off(now, id, since, out),
            None => {
                // Whoever had the address may have come back meanwhile: it is asked for once more.
                self.probe.started = None;
                self.probe.finished = None;
                self.open_reign(now, out);
                self.broadcast(now, true, out);
            }
        }
    }

    /// Ends the reign if its lease has lapsed. Called before anything else is looked at, so that what
    /// waited in a queue while this process was stopped cannot revive a reign that is over.
    pub(super) fn check_lease(&mut self, now: Time, cause: Cause, out: &mut Vec<Effect>) {
        let Phase::Reigning(reign) = &self.phase else { return };
        let limit = reign.lease_until.unwrap_or(reign.since + self.settings.timers.lease);
        if now >= limit {
            self.step_down(now, cause, None, out);
        }
    }

    /// The latest moment such that a quorum acknowledged what this member sent then or later.
    ///
    /// A pair goes on after the loss of either half (policy of `two_node`); its primary watches its own links
    /// instead, and its own clock: a pause longer than the lease ends the reign. Its lease too counts from what it
    /// said last: whoever heard that waits for as long from then on.
    pub(super) fn quorum_acknowledged(&self, now: Time) -> Option<Time> {
        let heard = |slot: usize| self.peers[slot].alive(now);
        let acks = |slot: usize| self.peers[slot].lease_ack;
        self.electorate().acknowledged(self.quota(), heard, self.said_at, acks)
    }

    /// Moves the lease forward to what a quorum acknowledged.
    fn renew_lease(&mut self, now: Time, out: &mut Vec<Effect>) {
        let sent = self.quorum_acknowledged(now);
        let lease = self.settings.timers.lease;
        let Phase::Reigning(reign) = &mut self.phase else { return };
        let Some(sent) = sent else { return };
        let until = sent + lease;
        if reign.lease_until.is_none_or(|held| held < until) {
            reign.lease_until = Some(until);
            if reign.serving {
                out.push(Effect::ExtendLease { epoch: reign.epoch, until });
            }
        }
    }

    /// How many voters must stand behind a reign, this one included: a majority, or, where an operator
    /// answers for those who cannot be heard, everybody who can.
    pub(super) fn quota(&self) -> Quota {
        match &self.phase {
            _ if self.is_two_node() => Quota::Count(1),
            Phase::Reigning(reign) if reign.answered_for => Quota::Heard,
            _ => Quota::Majority,
        }
    }

    /// Everything that a reign does by itself.
    pub(super) fn progress_reign(&mut self, now: Time, out: &mut Vec<Effect>) {
        self.check_lease(now, Cause::LeaseLapsed, out);
        if !self.phase.reigns() {
            return;
        }
        self.renew_lease(now, out);
        if self.end_if_unfit(now, out) {
            return;
        }
        if self.waits_for_fence() {
            self.progress_fencing(now, out);
        }
        if self.waits_for_fence() {
            return;
        }
        self.progress_in_sync(now, out);
        if let Phase::Reigning(reign) = &mut self.phase
            && !reign.led
            && reign.in_sync.recorded()
        {
            reign.led = true;
            out.push(Effect::Lead { epoch: reign.epoch, members: reign.in_sync.waiting.clone() });
        }
        self.progress_promotion(now, out);
        self.give_way_to_healthier(now, out);
        self.progress_handover(now, out);
        self.consider_wishes(now, out);
    }

    /// Gives up when this host cannot do the work, preferably to somebody who can.
    fn end_if_unfit(&mut self, now: Time, out: &mut Vec<Effect>) -> bool {
        let Phase::Reigning(reign) = &self.phase else { return true };
        let (role, epoch) = (reign.role, reign.epoch);
        let later = self
            .peers
            .iter()
            .find(|peer| peer.alive(now) && peer.state.as_ref().is_some_and(|state| state.epoch > epoch))
            .filter(|_| !planted::is("renewal-after-another-promise"));
        if let Some(peer) = later {
            let name = peer.member.as_ref().map(|member| member.id.clone());
            self.step_down(now, Cause::Superseded, name, out);
            return true;
        }
        let any_gate = || self.gate_lost.as_ref().map(|_| Cause::GateLost);
        let Some(cause) = self.unfit_cause().or_else(any_gate) else { return false };
        // Nobody but this process ends the lease any more. Who named the gate does not want that. Where any gate
        // would do, somebody else may have one; if not, this member goes on.
        if let Some(lost) = self.gate_lost.as_ref().filter(|_| cause == Cause::GateLost) {
            let stays = lost.made_way || role != Role::Primary || self.paused();
            if role == Role::HandingOver || !lost.named && (stays || self.best_successor(now, None).is_none())
            {
                return false;
            }
            self.gate_lost.as_mut().expect("looked at above").made_way = true;
        }
        // In a pause links may well fail, and whoever stands behind the lease stands still: serve on. Only
        // the half of a pair that cannot hear the other does not know whether that one has heard of it.
        let bound = !self.is_two_node() || self.peers[0].alive(now);
        if cause == Cause::LinksFailed && self.paused() && bound {
            return false;
        }
        if role == Role::HandingOver && cause == Cause::Terminating {
            return false;
        }
        // What may come back is left alone in a pause, and where nobody is to take over by itself.
        if cause == Cause::DiskStalled && role == Role::Primary && (self.paused() || !self.settings.automatic)
        {
            return false;
        }
        // Nothing is under way to the disk, as far as is known: the hand-over need not wait for it.
        if cause == Cause::DiskStalled && role == Role::HandingOver && self.log.durable == self.log.end {
            return false;
        }
        if role == Role::Primary && self.best_successor(now, None).is_some() {
            self.begin_handover(now, cause, None, None, out);
            return false;
        }
        // A pair may live without its peer, a larger cluster may not be left without its primary for
        // a link that only one of several paths uses: while a quorum renews the lease, the best that
        // this host can do with bad links and no successor is to stay.
        if cause == Cause::LinksFailed && !self.is_two_node() {
            return false;
        }
        if cause == Cause::DiskStalled && role == Role::Primary {
            let message = format!(
                "no other member is in sync and fit, so {} keeps the role: it answers what it can without the disk, and acknowledges writes when they are durable",
                self.settings.me
            );
            self.say_serves_on(message, out);
            return false;
        }
        self.step_down(now, cause, None, out);
        true
    }

    /// The steps of taking over. Each waits for the event that says that the one before is done.
    fn progress_promotion(&mut self, now: Time, out: &mut Vec<Effect>) {
        let Phase::Reigning(reign) = &self.phase else { return };
        if reign.role != Role::Promoting {
            return;
        }
        let preparing =
            self.settings.attendance.map_or(Duration::ZERO, |attendance| attendance.prepare + GRACE);
        let refused = matches!(reign.preparation, Preparation::Refused(_));
        if !refused
            && now >= reign.opened.unwrap_or(reign.since) + PROMOTION_LIMIT + preparing
            && self.best_successor(now, None).is_some()
        {
            let within = (PROMOTION_LIMIT + preparing).as_secs();
            let why = format!(
                "{} did not take over: it held the lease and was not through after {within} s. The role is left to another member; see: holdfast ha history",
                self.settings.me
            );
            self.fail_order(why, out);
            return self.give_way(now, Cause::PromotionFailed, PROMOTION_LIMIT, out);
        }
        let Phase::Reigning(reign) = &self.phase else { return };
        let recorded = reign.in_sync.recorded() || planted::is("serves-before-recorded");
        let replayed = reign.log_started || planted::is("address-before-replay");
        let ready = reign.lease_until.is_some() && recorded && replayed;
        if !reign.serving {
            if !self.prepare(now, ready, out) {
                return;
            }
            match &self.probe.finished {
                None if self.probe.started.is_none() => {
                    return self.start_probe(now, self.probe_window(), out);
                }
                Some((at, Some(conflict))) if !planted::is("claims-over-an-answer") => {
                    // Before this reign began the former primary had a right to answer. Afterwards
                    // it is a conflict: ask until the address is free, never claim it over an answer.
                    let Phase::Reigning(reign) = &self.phase else { return };
                    if *at >= reign.since {
                        let message = format!(
                            "another host answers on the virtual address ({conflict}); not claiming it. If no other Holdfast member holds it, find that host and take the address off it"
                        );
                        self.warn_once(now, message, out);
                    }
                    return self.start_probe(now, self.settings.timers.probe_window, out);
                }
                None => return,
                Some(_) => {}
            }
            if !ready {
                return;
            }
            let Phase::Reigning(reign) = &mut self.phase else { return };
            reign.serving = true;
            let (epoch, until) = (reign.epoch, reign.lease_until.expect("checked above"));
            out.push(Effect::ExtendLease { epoch, until });
            out.push(Effect::Serve { epoch });
            out.push(Effect::ClaimVip { epoch });
        } else if reign.vip_claimed {
            let Phase::Reigning(reign) = &mut self.phase else { return };
            reign.role = Role::Primary;
            let epoch = reign.epoch;
            self.vacancy = None;
            self.attended();
            self.forget_owed(None, out);
            self.change_role(Role::Promoting, Cause::StepsDone, Role::Primary, epoch, None, out);
            self.answer_awaited_by_self(now, out);
            self.broadcast(now, true, out);
        }
    }

    /// Leaves a promotion that does not come to its end to another member, and stands no more for `pause`.
    pub(super) fn give_way(&mut self, now: Time, cause: Cause, pause: Duration, out: &mut Vec<Effect>) {
        // In a pause nobody stands without being named.
        let best = self.best_successor(now, None).filter(|_| self.paused());
        let successor =
            best.and_then(|best| self.peers[best].member.as_ref()).map(|member| member.id.clone());
        self.step_down(now, cause, None, out);
        if let Some(resigned) = &mut self.resign_on_release {
            resigned.successor = successor;
        }
        self.stand_after = now + pause;
    }

    /// Ends the reign now: the gate shuts first, everything else follows.
    pub(super) fn step_down(&mut self, now: Time, cause: Cause, peer: Option<NodeId>, out: &mut Vec<Effect>) {
        self.take_back_removal(out);
        self.drop_reform(out);
        let Phase::Reigning(reign) = std::mem::replace(&mut self.phase, Phase::Waiting) else { return };
        if !planted::is("gate-open-after-reign") {
            out.push(Effect::EndLease);
        }
        out.push(Effect::StopServing { drain: Duration::ZERO });
        if !planted::is("address-kept-after-reign") {
            out.push(Effect::ReleaseVip);
        }
        out.push(Effect::StandDown { epoch: self.hard.epoch });
        self.releasing = true;
        // Others may go on as soon as the address is off this host.
        let resigned = Some(Resignation { epoch: reign.epoch, successor: None });
        if planted::is("resigns-before-release") {
            self.resigned = resigned;
        } else {
            self.resign_on_release = resigned;
        }
        self.change_role(reign.role, cause, Role::Standby, reign.epoch, peer, out);
        if reign.handover.is_none() {
            self.retire_after_release(now, reign.epoch);
        }
        if let Some(handover) = reign.handover {
            self.decline_handover(handover, cause, out);
        }
        // The other half of a pair may take over at once, and fall silent again.
        self.seen_in_sync = false;
        self.vacate(now, Cause::NoPrimary, false);
        // Never sooner than whoever slept may stand (see `Node::handle`).
        self.stand_after = self.stand_after.max(now + self.settings.timers.retry() * 4);
    }

    /// The best member to hand over to: in sync, following, fit, the healthiest, most preferred.
    pub(super) fn best_successor(&self, now: Time, wanted: Option<&NodeId>) -> Option<usize> {
        let Phase::Reigning(reign) = &self.phase else { return None };
        let fit = |&(_, peer): &(usize, &super::peer::Peer)| {
            let (Some(member), Some(state)) = (&peer.member, &peer.state) else { return false };
            peer.settings.kind == MemberKind::Data
                && peer.alive(now)
                && peer.follower.streaming
                && state.electable
                && !state.leaving
                && state
                    .follows
                    .as_ref()
                    .is_some_and(|(epoch, id)| *epoch == reign.epoch && *id == self.settings.me.id)
                && reign.in_sync.holds(member)
                && wanted.is_none_or(|id| *id == member.id)
        };
        let best = self.peers.iter().enumerate().filter(fit).min_by_key(|(_, peer)| {
            let state = peer.state.as_ref().expect("a fit peer has a state");
            (state.penalty, state.priority, peer.member.as_ref().map(|member| member.id.clone()))
        })?;
        Some(best.0)
    }

    /// The member of that name, if it is known.
    pub(super) fn member_named(&self, id: &NodeId) -> Option<Member> {
        if *id == self.settings.me.id {
            return Some(self.settings.me.clone());
        }
        self.peers.iter().filter_map(|peer| peer.member.clone()).find(|member| member.id == *id)
    }
}
