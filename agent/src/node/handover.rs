//! Planned changes of primary: switchover, failback, and a primary that lets go by itself.
//!
//! The order is that of giving up in rule R7: hooks and services leave, requests end, the successor holds
//! every byte, the gate shuts, the address goes, and only then is the resignation said. Until the gate shuts the switchover
//! can be called off and the primary serves on.

use std::time::Duration;

use holdfast_heartbeat::{Epoch, Member, MemberKind, NodeId, Resignation, Role, Time, Wish, planted};
use serde::{Deserialize, Serialize};

use super::effect::Effect;
use super::event::{Answer, Command, Declined};
use super::transition::Cause;
use super::{Node, Phase};

/// How long an operator's request waits for its outcome before the answer says "not yet".
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// A switchover in progress.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Handover {
    pub peer: usize,
    pub target: Member,
    pub cause: Cause,
    pub started: Time,
    /// When hooks and services had left; until then clients are served.
    pub retired: Option<Time>,
    /// Clients are told to go.
    pub stopping: bool,
    pub service_stopped: bool,
    /// The gate is shut and the address is being released: no way back.
    pub letting_go: bool,
    pub vip_released: bool,
    pub command: Option<u64>,
}

/// A command whose outcome is still awaited.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Awaited {
    pub id: u64,
    pub since: Time,
    /// What must happen: this member, or another one, becomes primary.
    pub here: bool,
    /// Once another one is primary, this member is drained.
    pub drains: bool,
}

impl Node {
    pub(super) fn carry_out(&mut self, now: Time, id: u64, command: Command, out: &mut Vec<Effect>) {
        let answer = match command {
            Command::Failover { to } => self.order_failover(now, id, to, out),
            Command::Failback => self.order_failback(now, id, out),
            Command::Promote { accept_data_loss } => self.order_promote(now, id, accept_data_loss, out),
            Command::SetFailback { enabled } => {
                self.failback_enabled = enabled;
                let state = if enabled { "on" } else { "off" };
                Some(Ok(format!(
                    "automatic failback to {} is {state} until the agent restarts",
                    self.settings.me
                )))
            }
            Command::SetPriority { priority } => Some(self.order_priority(priority, out)),
            Command::Pause { at_unix_ms } => self.order_pause(now, id, at_unix_ms, out),
            Command::Resume { at_unix_ms } => self.order_resume(now, id, at_unix_ms, out),
            Command::Drain => self.order_drain(now, id, out),
            Command::FenceConfirmed { member } => Some(self.order_fence_confirmed(now, &member, out)),
            Command::ChangeVoters { remove, add } => self.order_voters(now, id, remove, add, out),
        };
        if let Some(answer) = answer {
            out.push(Effect::Answer { id, answer });
        }
    }

    fn order_failover(
        &mut self,
        now: Time,
        id: u64,
        to: Option<NodeId>,
        out: &mut Vec<Effect>,
    ) -> Option<Answer> {
        let Phase::Reigning(reign) = &self.phase else { return Some(Err(self.not_primary("failover"))) };
        if reign.role != Role::Primary {
            return Some(decline(
                "busy",
                format!("{} is {}; try again when it is primary", self.settings.me, role_name(reign.role)),
            ));
        }
        if to.as_ref() == Some(&self.settings.me.id) {
            return Some(Ok(format!("{} is primary already", self.settings.me)));
        }
        let Some(peer) = self.best_successor(now, to.as_ref()) else {
            let drained = to.as_ref().is_some_and(|to| {
                let named =
                    |peer: &&super::peer::Peer| peer.member.as_ref().is_some_and(|member| member.id == *to);
                let state = self.peers.iter().find(named).and_then(|peer| peer.state.as_ref());
                state.is_some_and(|state| state.drained)
            });
            if let Some(to) = to.as_ref().filter(|_| drained) {
                return Some(decline(
                    "no_successor",
                    format!(
                        "{to} is drained, so nothing was changed and {} serves on. First, on {to}: holdfast ha resume",
                        self.settings.me
                    ),
                ));
            }
            let whom = to.map_or("no member".to_owned(), |to| format!("{to} is not a member that"));
            return Some(decline(
                "no_successor",
                format!(
                    "{whom} is in sync, following and fit, so nothing was changed and {} serves on. See: holdfast ha status",
                    self.settings.me
                ),
            ));
        };
        if to.is_none() && self.is_worse(peer) {
            return Some(self.decline_worse(peer));
        }
        self.begin_handover(now, Cause::OperatorOrder, Some(id), Some(peer), out);
        None
    }

    /// An order that names nobody does not reach a worse member.
    fn decline_worse(&self, peer: usize) -> Answer {
        let name = self.peers[peer].name();
        decline(
            "worse_successor",
            format!(
                "more fails on {name} than on {} (see: holdfast ha status, on {name}), so nothing was changed. To hand over all the same: holdfast ha failover --to {name}",
                self.settings.me
            ),
        )
    }

    fn order_failback(&mut self, now: Time, id: u64, out: &mut Vec<Effect>) -> Option<Answer> {
        if !self.settings.failback.allowed {
            return Some(decline(
                "failback_disabled",
                "failback_mode is \"disabled\" here; use: holdfast ha failover --to NAME".to_owned(),
            ));
        }
        let Phase::Reigning(reign) = &self.phase else { return Some(Err(self.not_primary("failback"))) };
        if reign.role != Role::Primary {
            return Some(decline(
                "busy",
                "a change of role is under way; try again when it is over".to_owned(),
            ));
        }
        let preferred = self.best_successor(now, None).filter(|peer| {
            self.peers[*peer].state.as_ref().is_some_and(|state| state.priority < self.settings.priority)
        });
        match preferred {
            Some(peer) if self.is_worse(peer) => Some(self.decline_worse(peer)),
            Some(peer) => {
                self.begin_handover(now, Cause::OperatorOrder, Some(id), Some(peer), out);
                None
            }
            None => Some(decline(
                "no_successor",
                format!(
                    "no member that is preferred to {} is in sync and fit; nothing was changed",
                    self.settings.me
                ),
            )),
        }
    }

    fn order_promote(
        &mut self,
        now: Time,
        id: u64,
        accept_data_loss: bool,
        out: &mut Vec<Effect>,
    ) -> Option<Answer> {
        if self.ask_hooks_again() {
            self.await_outcome(Awaited { id, since: now, here: true, drains: false }, out);
            return None;
        }
        if self.waits_for_fence() && !accept_data_loss {
            return Some(decline(
                "not_fenced",
                format!(
                    "{} waits until whoever was primary before is confirmed to be off; see: holdfast ha status. If you made sure that it is off: holdfast ha fence-confirmed NAME; to take over without: holdfast ha promote --accept-data-loss",
                    self.settings.me
                ),
            ));
        }
        if self.waits_for_fence() {
            let message =
                "taking over although the former primary was not confirmed to be off, by an operator's order"
                    .to_owned();
            out.push(Effect::Warn { message });
            self.forget_owed(None, out);
            self.await_outcome(Awaited { id, since: now, here: true, drains: false }, out);
            return None;
        }
        if self.phase.reigns() {
            return Some(Ok(format!("{} is primary already", self.settings.me)));
        }
        if self.settings.kind == MemberKind::Witness {
            return Some(decline("witness", "a witness has no data and cannot be primary".to_owned()));
        }
        if !self.fit() {
            return Some(decline(
                "unfit",
                format!("{} cannot be primary now: {}", self.settings.me, self.unfit_because()),
            ));
        }
        if !self.has_vote() {
            return Some(decline(
                "no_vote",
                format!(
                    "{0} has no vote in this cluster: it was taken out of it, or is not a part of it yet. On the primary: holdfast ha members add {0}",
                    self.settings.me
                ),
            ));
        }
        let in_sync = match &self.hard.record {
            Some(record) => record.contains(&self.settings.me),
            None => self.everybody_is_empty(now),
        };
        let primary = self
            .leader
            .filter(|(_, peer)| self.peers[*peer].reigns(now))
            .map(|(_, peer)| self.peers[peer].name());
        if let Some(primary) = primary {
            if self.drained() {
                return Some(decline(
                    "drained",
                    format!(
                        "{primary} is primary and serves, and {} is drained. First: holdfast ha resume",
                        self.settings.me
                    ),
                ));
            }
            if !in_sync {
                return Some(decline(
                    "not_in_sync",
                    format!(
                        "{primary} is primary and serves, and {} does not hold every acknowledged byte yet; wait until it is in sync (holdfast replication status)",
                        self.settings.me
                    ),
                ));
            }
            // The primary hands over: nothing is lost and nobody is cut off.
            self.wish_until = Some(now + self.answer_within());
            self.await_outcome(Awaited { id, since: now, here: true, drains: false }, out);
            return None;
        }
        if !in_sync && !accept_data_loss {
            let record = self.hard.record.as_ref();
            let holders = record.map_or("nobody that this member knows of".to_owned(), |record| {
                record.members.iter().map(Member::to_string).collect::<Vec<_>>().join(", ")
            });
            let known = self
                .last_primary_durable
                .map_or("an unknown position".to_owned(), |lsn| format!("LSN {lsn}"));
            return Some(decline(
                "data_loss",
                format!(
                    "{} is not in the in-sync set (that is {{{holders}}}). Promoting it may lose every acknowledged write from LSN {} up to {known}. If the in-sync members cannot be brought back: holdfast ha promote --accept-data-loss",
                    self.settings.me, self.log.durable
                ),
            ));
        }
        let alone = !self.hears_majority(now);
        if alone && !accept_data_loss {
            return Some(decline(
                "no_quorum",
                format!(
                    "only a minority of the members can be heard, so nobody can tell whether another primary serves beyond the cut and what it has acknowledged. Make sure that the others are off, then: holdfast ha promote --accept-data-loss ({} has everything up to LSN {})",
                    self.settings.me, self.log.durable
                ),
            ));
        }
        self.forced = accept_data_loss && (!in_sync || alone);
        self.vacate(now, Cause::OperatorOrder, true);
        self.stand_after = now;
        self.await_outcome(Awaited { id, since: now, here: true, drains: false }, out);
        None
    }

    pub(super) fn begin_handover(
        &mut self,
        now: Time,
        cause: Cause,
        command: Option<u64>,
        peer: Option<usize>,
        out: &mut Vec<Effect>,
    ) {
        let Some(peer) = peer.or_else(|| self.best_successor(now, None)) else { return };
        let target = self.peers[peer].member.clone().expect("a successor is known");
        let Phase::Reigning(reign) = &mut self.phase else { return };
        reign.role = Role::HandingOver;
        reign.handover = Some(Handover {
            peer,
            target: target.clone(),
            cause,
            started: now,
            retired: self.settings.attendance.is_none().then_some(now),
            stopping: false,
            service_stopped: false,
            letting_go: false,
            vip_released: false,
            command,
        });
        let epoch = reign.epoch;
        self.stop_when_retired(out);
        self.change_role(Role::Primary, cause, Role::HandingOver, epoch, Some(target.id), out);
        self.retire(now, epoch, true, out);
    }

    /// Tells clients to go once nothing else has to leave before them.
    fn stop_when_retired(&mut self, out: &mut Vec<Effect>) {
        let Phase::Reigning(reign) = &mut self.phase else { return };
        if let Some(handover) = &mut reign.handover
            && handover.retired.is_some()
            && !handover.stopping
        {
            handover.stopping = true;
            // What waits for a stalled disk, or for an answer over a dead link, would not come to its end.
            let hopeless = self.health.stalled.is_some() || !self.links_good;
            let drain = if hopeless { Duration::ZERO } else { self.settings.timers.drain };
            out.push(Effect::StopServing { drain });
        }
    }

    pub(super) fn progress_handover(&mut self, now: Time, out: &mut Vec<Effect>) {
        let limit = self.settings.timers.handover;
        self.stop_when_retired(out);
        let Phase::Reigning(reign) = &self.phase else { return };
        let Some(handover) = &reign.handover else { return };
        let held = self.held_by(&self.peers[handover.peer]);
        let Phase::Reigning(reign) = &mut self.phase else { return };
        let Some(handover) = &mut reign.handover else { return };
        let late = |retired: Option<Time>, limit: Duration| retired.is_some_and(|at| now >= at + limit);
        if !handover.letting_go {
            let holds_all = self.log.durable == self.log.end && held >= self.log.end;
            if handover.service_stopped && holds_all && reign.in_sync.holds(&handover.target) {
                handover.letting_go = true;
                reign.serving = false;
                out.push(Effect::EndLease);
                out.push(Effect::ReleaseVip);
                self.releasing = true;
            } else if !reign.in_sync.holds(&handover.target) {
                return self.call_off_handover(now, out);
            } else if !self.links_good && late(handover.retired, self.settings.timers.promotion_patience()) {
                return self.let_go_without_the_rest(now, out);
            } else if late(handover.retired, limit) {
                return self.call_off_handover(now, out);
            }
        }
        let Phase::Reigning(reign) = &mut self.phase else { return };
        if let Some(handover) = &reign.handover
            && !handover.vip_released
            && !(handover.letting_go && planted::is("hands-over-before-release"))
        {
            // The gate is shut, so nobody is served here: the lease must not be renewed for ever.
            if handover.letting_go && late(handover.retired, limit * 2) {
                self.step_down(now, Cause::HandoverFailed, None, out);
            }
            return;
        }
        if reign.handover.is_none() {
            return;
        }
        let handover = reign.handover.take().expect("looked at above");
        let epoch = reign.epoch;
        self.take_back_removal(out);
        self.drop_reform(out);
        self.phase = Phase::Waiting;
        self.seen_in_sync = false;
        out.push(Effect::StandDown { epoch: self.hard.epoch });
        self.change_role(
            Role::HandingOver,
            Cause::HandedOver,
            Role::Standby,
            epoch,
            Some(handover.target.id.clone()),
            out,
        );
        self.resigned = Some(Resignation { epoch, successor: Some(handover.target.id.clone()) });
        self.vacate(now, Cause::PrimaryResigned, false);
        let until = now + self.settings.timers.detect;
        self.grant = Some(super::voter::Grant { holder: handover.target, epoch, until });
        self.stand_after = now + self.settings.timers.detect * 2;
        if handover.cause == Cause::Failback {
            self.last_failback = Some(now);
        }
        if let Some(id) = handover.command {
            let drains = handover.cause == Cause::Drained;
            self.await_outcome(Awaited { id, since: handover.started, here: false, drains }, out);
        }
        self.broadcast(now, true, out);
    }

    /// The rest of the log may have to go out by the very link that failed. Nothing of it was acknowledged, and
    /// the successor, which is in sync, holds what was: it need not wait for more.
    fn let_go_without_the_rest(&mut self, now: Time, out: &mut Vec<Effect>) {
        let Phase::Reigning(reign) = &mut self.phase else { return };
        let Some(handover) = &mut reign.handover else { return };
        let (successor, since) = (handover.target.id.clone(), handover.started);
        let (command, drains) = (handover.command.take(), handover.cause == Cause::Drained);
        self.step_down(now, Cause::LinksFailed, Some(successor.clone()), out);
        if let Some(resigned) = &mut self.resign_on_release {
            resigned.successor = Some(successor);
        }
        if let Some(id) = command {
            self.await_outcome(Awaited { id, since, here: false, drains }, out);
        }
    }

    fn call_off_handover(&mut self, now: Time, out: &mut Vec<Effect>) {
        let final_ones = [Cause::DiskFailed, Cause::Terminating, Cause::DiskStalled];
        if let Some(cause) = self.unfit_cause().filter(|cause| final_ones.contains(cause)) {
            return self.step_down(now, cause, None, out);
        }
        let Phase::Reigning(reign) = &mut self.phase else { return };
        let handover = reign.handover.take().expect("only called during a switchover");
        reign.role = Role::Primary;
        let epoch = reign.epoch;
        out.push(Effect::Serve { epoch });
        self.change_role(
            Role::HandingOver,
            Cause::HandoverFailed,
            Role::Primary,
            epoch,
            Some(handover.target.id.clone()),
            out,
        );
        self.decline_handover(handover, Cause::HandoverFailed, out);
    }

    pub(super) fn decline_handover(&mut self, handover: Handover, cause: Cause, out: &mut Vec<Effect>) {
        if let Some(id) = handover.command {
            let message = format!(
                "the switchover to {} did not happen ({cause:?}): it did not hold every byte in time. Nothing was lost; see: holdfast ha history",
                handover.target
            );
            out.push(Effect::Answer { id, answer: Err(Declined { code: "handover_failed", message }) });
        }
    }

    /// Followers may wish for the role; the primary grants it when they can have it.
    pub(super) fn consider_wishes(&mut self, now: Time, out: &mut Vec<Effect>) {
        let Phase::Reigning(reign) = &self.phase else { return };
        if reign.role != Role::Primary {
            return;
        }
        let wish = self.peers.iter().find_map(|peer| {
            let (member, state) = (peer.member.as_ref()?, peer.state.as_ref()?);
            let wish = state.wants_primary?;
            peer.alive(now).then(|| (member.id.clone(), wish))
        });
        let Some((id, wish)) = wish else { return };
        if wish == Wish::Failback {
            if self.paused() {
                return;
            }
            let recently = self.last_failback.is_some_and(|at| now.since(at) < self.settings.failback.window);
            if recently || !self.settings.failback.allowed {
                return;
            }
        }
        let Some(peer) = self.best_successor(now, Some(&id)) else { return };
        if wish == Wish::Failback && self.is_worse(peer) {
            return;
        }
        let cause = if wish == Wish::Failback { Cause::Failback } else { Cause::OperatorOrder };
        self.begin_handover(now, cause, None, Some(peer), out);
    }

    /// This member's own wish, as it goes out with every heartbeat.
    pub(super) fn own_wish(&self, now: Time) -> Option<Wish> {
        if !matches!(self.phase, Phase::Waiting) || !self.electable() || self.terminating {
            return None;
        }
        let (_, leader) = self.leader?;
        if self.wish_until.is_some_and(|until| now < until) {
            return Some(Wish::Operator);
        }
        let state = self.peers[leader].state.as_ref()?;
        let since = self.in_sync_since?;
        let due = self.settings.failback.automatic
            && self.failback_enabled
            && !self.paused()
            && self.settings.priority < state.priority
            && now >= self.attendants.retreat_until
            && self.health.penalty <= state.penalty
            && now.since(since.max(self.health_since())) >= self.settings.failback.delay;
        due.then_some(Wish::Failback)
    }

    /// Keeps a command until its outcome is known. One at a time: an earlier one hears that a later one
    /// has taken its place.
    pub(super) fn await_outcome(&mut self, awaited: Awaited, out: &mut Vec<Effect>) {
        if let Some(earlier) = self.awaited.replace(awaited) {
            let message = "a later order took the place of this one; see: holdfast ha history".to_owned();
            out.push(Effect::Answer { id: earlier.id, answer: Err(Declined { code: "replaced", message }) });
        }
    }

    /// Answers the command that waited for another member to become primary.
    pub(super) fn answer_awaited(
        &mut self,
        now: Time,
        primary: &Member,
        role: Role,
        epoch: Epoch,
        out: &mut Vec<Effect>,
    ) {
        // Until the successor is through, the role may still have to come back: its pre-hooks may veto the takeover,
        // its services or its address may not come up. What is configured there is not known here.
        if role != Role::Primary {
            return;
        }
        let Some(awaited) = self.awaited.take_if(|awaited| !awaited.here) else { return };
        if awaited.drains {
            return self.be_drained(awaited.id, awaited.since, out);
        }
        let is_primary = format!("{primary} is primary in epoch {epoch}");
        let answer = match self.heir().is_none_or(|(_, heir)| *heir == primary.id) {
            true => Ok(format!("{is_primary}, {} ms after the order", now.since(awaited.since).as_millis())),
            false => decline(
                "handover_failed",
                format!("{is_primary}, and not its successor by the order. {}", self.fate_of_heir(now)),
            ),
        };
        out.push(Effect::Answer { id: awaited.id, answer });
    }

    /// To whom this member last handed the role over, and the epoch that it gave up for it.
    fn heir(&self) -> Option<(Epoch, &NodeId)> {
        let resigned = self.resign_on_release.as_ref().or(self.resigned.as_ref())?;
        Some((resigned.epoch, resigned.successor.as_ref()?))
    }

    /// What is known here of a successor that was not heard to be primary, in sentences.
    fn fate_of_heir(&self, now: Time) -> String {
        let Some((handed, heir)) = self.heir() else {
            return "Its successor did not take over. Nothing was lost; see there: holdfast ha history"
                .to_owned();
        };
        let peer =
            self.peers.iter().find(|peer| peer.member.as_ref().is_some_and(|member| member.id == *heir));
        let gave_up =
            peer.and_then(|peer| peer.state.as_ref()?.resigned.as_ref()).map(|resigned| resigned.epoch);
        match gave_up.filter(|epoch| *epoch > handed) {
            Some(epoch) => format!(
                "{heir} took the role in epoch {epoch} and gave it up again: a pre-hook vetoed it, or a service or the address did not come up there. Nothing was lost; the reason, on {heir}: holdfast ha history"
            ),
            None if peer.is_some_and(|peer| peer.alive(now)) => {
                format!(
                    "{heir} did not take over. Nothing was lost; what it did, on {heir}: holdfast ha history"
                )
            }
            None => format!("{heir} is not heard any more. Nothing was lost; see: holdfast ha status"),
        }
    }

    /// This member was ordered to be primary and cannot be: the order is over, and nothing comes of it later.
    pub(super) fn fail_order(&mut self, why: String, out: &mut Vec<Effect>) {
        if let Some(awaited) = self.awaited.take_if(|awaited| awaited.here) {
            self.wish_until = None;
            out.push(Effect::Answer { id: awaited.id, answer: decline("takeover_failed", why) });
        }
    }

    /// Answers the command that waited for this member to become primary.
    pub(super) fn answer_awaited_by_self(&mut self, now: Time, out: &mut Vec<Effect>) {
        self.wish_until = None;
        if let Some(awaited) = self.awaited.take() {
            let primary = format!("{} is primary in epoch {}", self.settings.me, self.hard.epoch);
            let answer = match (awaited.drains, awaited.here) {
                (false, true) => Ok(primary),
                (false, false) => {
                    decline("handover_failed", format!("{primary} again. {}", self.fate_of_heir(now)))
                }
                (true, _) => decline(
                    "handover_failed",
                    format!("{primary} again, and not drained. {}", self.fate_of_heir(now)),
                ),
            };
            out.push(Effect::Answer { id: awaited.id, answer });
        }
    }

    /// Answers a command that has waited too long.
    pub(super) fn expire_awaited(&mut self, now: Time, out: &mut Vec<Effect>) {
        let within = self.answer_within();
        if let Some(awaited) = self.awaited.take_if(|awaited| now.since(awaited.since) >= within) {
            self.forced = false;
            // Whoever is told that it did not happen must not see it happen later.
            if let Some(vacancy) = self.vacancy.as_mut().filter(|_| awaited.here) {
                vacancy.call_off_order();
            }
            let ordered = matches!(&self.phase, Phase::Campaigning(campaign) if campaign.wanted);
            if ordered && awaited.here {
                self.end_campaign(Cause::VotesMissing, None, out);
            }
            let why = self.last_refusal.as_ref().map_or(String::new(), |(who, why)| {
                format!(" ({who} refused its vote: {})", super::view::in_words(*why))
            });
            let within = within.as_secs();
            let promoting =
                self.leader.map(|(epoch, peer)| (epoch, &self.peers[peer])).filter(|(_, peer)| {
                    !awaited.here
                        && peer.reigns(now)
                        && peer.state.as_ref().is_some_and(|state| state.role == Role::Promoting)
                });
            let message = match promoting {
                Some((epoch, peer)) => format!(
                    "{0} has taken the role in epoch {epoch} and is not primary after {within} s: it waits for its pre-hooks and services, or for its address. It may still become primary, or give the role up again; see: holdfast ha status, on {0}",
                    peer.name()
                ),
                None => format!("no new primary after {within} s{why}; see: holdfast ha status"),
            };
            out.push(Effect::Answer { id: awaited.id, answer: Err(Declined { code: "timed_out", message }) });
        }
    }

    /// How long a request waits for its outcome, with what hooks and services may take. Those of the other
    /// member are not known here: alike, as a rule.
    fn answer_within(&self) -> Duration {
        ANSWER_WITHIN + self.attendance_limit()
    }

    fn not_primary(&self, command: &str) -> Declined {
        let message = match self.leader {
            Some((_, peer)) => {
                format!("{} is primary; run it there, or here: holdfast ha promote", self.peers[peer].name())
            }
            None => format!(
                "there is no primary now, so {command} has nothing to hand over. See: holdfast ha status"
            ),
        };
        Declined { code: "not_primary", message }
    }

    pub(super) fn unfit_because(&self) -> &str {
        if self.log_broken {
            "its log cannot be written"
        } else if let Some(detail) = &self.health.stalled {
            detail
        } else if !self.links_good {
            &self.links_detail
        } else if let Some(lost) = &self.gate_lost {
            &lost.detail
        } else {
            "it is shutting down"
        }
    }
}

pub(super) fn decline(code: &'static str, message: String) -> Answer {
    Err(Declined { code, message })
}

/// A role as the API spells it.
pub fn role_name(role: Role) -> &'static str {
    match role {
        Role::Standby => "standby",
        Role::Candidate => "candidate",
        Role::Promoting => "promoting",
        Role::Primary => "primary",
        Role::HandingOver => "handing_over",
        Role::Witness => "witness",
    }
}
