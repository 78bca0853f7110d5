//! Maintenance: a pause of the cluster, a drain of one member, and the end of both.
//!
//! A *pause* suspends automatic changes of primary everywhere. It is a register that each member keeps on
//! its disk and states with every heartbeat; whoever hears of a later order takes it over. A vote comes
//! with the voter's register, and a candidate that hears of a pause gives up, so a pause that a majority
//! knows binds everybody. It never touches the lease: a primary that loses its quorum stops as ever.
//!
//! A *drain* is this member's alone. It states it once it is durable; the primary then takes it out of the
//! in-sync set by the usual order of rule R3 (the record first, then the wait ends).
//!
//! Invariant: neither is said, or answered for, before it is on this disk.

use std::time::Duration;

use holdfast_heartbeat::message::MAX_SUSPENSION;
use holdfast_heartbeat::{MemberKind, Role, Suspension, Time};
use serde::{Deserialize, Serialize};

use super::effect::Effect;
use super::event::{Answer, Declined};
use super::handover::{ANSWER_WITHIN, Awaited, decline};
use super::transition::Cause;
use super::{Node, Phase};

/// How long an answer waits for everybody who is heard to take over a pause or its end.
const SPREAD_WITHIN: Duration = Duration::from_secs(2);
/// Orders of this kind that may wait for their answers at once.
const OPEN_ORDERS: usize = 16;

/// An order that was carried out here, and is answered when it is durable and known where it must be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Announced {
    id: u64,
    since: Time,
    /// The hard-state token that has it.
    token: u64,
    order: Order,
}

/// What was ordered.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Order {
    Pause,
    Resume {
        /// The cluster was paused.
        pause: bool,
        /// This member was drained.
        drain: bool,
    },
    Drain,
}

impl Node {
    /// Whether automatic changes of primary are suspended, as far as this member knows.
    pub(super) fn paused(&self) -> bool {
        self.hard.suspension.paused
    }

    /// Whether this member is taken out for maintenance. Its end counts only when it is durable, or a
    /// member that came back from a crash would find itself both elected and drained.
    pub(super) fn drained(&self) -> bool {
        self.hard.drained || self.durable.drained
    }

    pub(super) fn order_pause(
        &mut self,
        now: Time,
        id: u64,
        at_unix_ms: u64,
        out: &mut Vec<Effect>,
    ) -> Option<Answer> {
        if !self.paused() {
            self.suspend(true, at_unix_ms, out);
        }
        // Whoever pauses a paused cluster is told when everybody knows, too.
        self.announce(now, id, Order::Pause, out);
        None
    }

    pub(super) fn order_resume(
        &mut self,
        now: Time,
        id: u64,
        at_unix_ms: u64,
        out: &mut Vec<Effect>,
    ) -> Option<Answer> {
        if let Phase::Reigning(reign) = &self.phase
            && reign.handover.as_ref().is_some_and(|handover| handover.cause == Cause::Drained)
        {
            return Some(decline(
                "busy",
                "the switchover ahead of a drain is under way; try again when it is over".to_owned(),
            ));
        }
        let mut ended = false;
        if let Some(earlier) = self.awaited.take_if(|awaited| awaited.drains) {
            ended = true;
            let message = "the drain was called off by a later: holdfast ha resume".to_owned();
            out.push(Effect::Answer { id: earlier.id, answer: Err(Declined { code: "replaced", message }) });
        }
        let (pause, drain) = (self.paused(), self.drained());
        if !pause && !drain {
            return Some(Ok(match ended {
                true => format!("the drain of {} is called off; its role went on already", self.settings.me),
                false => format!(
                    "nothing to resume: as far as {} knows the cluster is not paused, and it is not drained itself",
                    self.settings.me
                ),
            }));
        }
        if drain {
            self.hard.drained = false;
            let message = format!("{} is drained no longer, by an operator's order", self.settings.me);
            out.push(Effect::Note { message });
        }
        match pause {
            true => self.suspend(false, at_unix_ms, out),
            false => self.persist(out),
        }
        self.announce(now, id, Order::Resume { pause, drain }, out);
        None
    }

    pub(super) fn order_drain(&mut self, now: Time, id: u64, out: &mut Vec<Effect>) -> Option<Answer> {
        let me = self.settings.me.clone();
        if self.settings.kind == MemberKind::Witness {
            return Some(decline(
                "witness",
                format!(
                    "{me} is a witness: it has no role to hand over and nobody's write waits for it. While every data member is heard it can simply be stopped"
                ),
            ));
        }
        match &self.phase {
            Phase::Reigning(reign) if reign.role != Role::Primary => {
                Some(decline("busy", "a change of role is under way; try again when it is over".to_owned()))
            }
            Phase::Reigning(_) => {
                let Some(peer) = self.best_successor(now, None) else {
                    return Some(decline(
                        "no_successor",
                        format!(
                            "{me} is primary and no other member is in sync, following and fit, so nothing was changed and {me} serves on. See: holdfast ha status"
                        ),
                    ));
                };
                self.begin_handover(now, Cause::Drained, Some(id), Some(peer), out);
                None
            }
            Phase::Campaigning(campaign) if campaign.wanted => Some(decline(
                "busy",
                format!("{me} was asked to take over and is doing so; try again when that is over"),
            )),
            // The role is on its way already; should it come back, nothing has changed.
            Phase::Waiting if self.awaited.as_ref().is_some_and(|awaited| awaited.drains) => {
                self.await_outcome(Awaited { id, since: now, here: false, drains: true }, out);
                None
            }
            Phase::Campaigning(_) | Phase::Waiting => {
                self.withdraw_order(out);
                self.be_drained(id, now, out);
                None
            }
        }
    }

    /// An order to be primary that has led to nothing yet is over: this member is to be taken out.
    fn withdraw_order(&mut self, out: &mut Vec<Effect>) {
        self.forced = false;
        self.wish_until = None;
        if let Some(vacancy) = &mut self.vacancy {
            vacancy.call_off_order();
        }
        if let Some(earlier) = self.awaited.take_if(|awaited| awaited.here) {
            let message = "a later order took this member out for maintenance (drain)".to_owned();
            out.push(Effect::Answer { id: earlier.id, answer: Err(Declined { code: "replaced", message }) });
        }
    }

    /// This member, which is not primary, is drained from now on.
    pub(super) fn be_drained(&mut self, id: u64, since: Time, out: &mut Vec<Effect>) {
        if !self.hard.drained {
            self.hard.drained = true;
            let message = format!(
                "{} is drained by an operator's order: it takes no role until: holdfast ha resume",
                self.settings.me
            );
            out.push(Effect::Note { message });
            self.persist(out);
        }
        self.announce(since, id, Order::Drain, out);
    }

    /// Takes over what a peer states, if it is the later order.
    pub(super) fn heed_suspension(&mut self, stated: &Suspension, out: &mut Vec<Effect>) {
        if stated.rank() <= self.hard.suspension.rank() {
            return;
        }
        let changed = stated.paused != self.hard.suspension.paused;
        self.hard.suspension = stated.clone();
        self.persist(out);
        if changed {
            self.note_suspension(out);
        }
    }

    fn suspend(&mut self, paused: bool, at_unix_ms: u64, out: &mut Vec<Effect>) {
        self.hard.suspension = Suspension {
            version: (self.hard.suspension.version + 1).min(MAX_SUSPENSION),
            paused,
            by: Some(self.settings.me.id.clone()),
            since_unix_ms: at_unix_ms,
        };
        self.persist(out);
        self.note_suspension(out);
    }

    fn note_suspension(&self, out: &mut Vec<Effect>) {
        let by = self.paused_where();
        let message = match self.paused() {
            true => {
                format!(
                    "the cluster is paused by an operator on {by}: nobody takes over by itself until: holdfast ha resume"
                )
            }
            false => format!("the cluster is paused no longer, by an operator on {by}"),
        };
        out.push(Effect::Note { message });
    }

    /// The member on which the newest order was given.
    pub(super) fn paused_where(&self) -> String {
        self.hard.suspension.by.as_ref().map_or_else(|| "?".to_owned(), ToString::to_string)
    }

    fn announce(&mut self, since: Time, id: u64, order: Order, out: &mut Vec<Effect>) {
        if self.announced.len() == OPEN_ORDERS {
            let oldest = self.announced.remove(0);
            let message = "later orders took the place of this one; see: holdfast ha status".to_owned();
            out.push(Effect::Answer { id: oldest.id, answer: Err(Declined { code: "replaced", message }) });
        }
        self.announced.push(Announced { id, since, token: self.persist_token, order });
    }

    /// Answers the orders that are done, or that have waited long enough.
    pub(super) fn answer_announced(&mut self, now: Time, out: &mut Vec<Effect>) {
        if self.announced.is_empty() {
            return;
        }
        for announced in std::mem::take(&mut self.announced) {
            let outcome = if announced.token > self.durable_token {
                // Nothing is said before it is on the disk.
                let late = now.since(announced.since) >= ANSWER_WITHIN;
                late.then(|| {
                    decline(
                        "timed_out",
                        "the order could not be written to the state directory in time; see: holdfast ha status"
                            .to_owned(),
                    )
                })
            } else {
                match announced.order {
                    Order::Pause => self.pause_outcome(now, &announced),
                    Order::Resume { pause, drain } => self.resume_outcome(now, &announced, pause, drain),
                    Order::Drain => self.drain_outcome(now, &announced),
                }
            };
            match outcome {
                Some(answer) => out.push(Effect::Answer { id: announced.id, answer }),
                None => self.announced.push(announced),
            }
        }
    }

    /// Whether `peer` is heard and states an order at least as late as this member's.
    fn is_aware(&self, now: Time, peer: &super::peer::Peer) -> bool {
        let mine = self.hard.suspension.rank();
        peer.alive(now) && peer.state.as_ref().is_some_and(|state| state.suspension.rank() >= mine)
    }

    /// Everybody else who does not state an order at least as late as this member's, by name; and whether
    /// one of them is heard and might still take it over within the time for that.
    fn unaware(&self, now: Time, since: Time) -> (Vec<String>, bool) {
        let unaware = |peer: &&super::peer::Peer| peer.configured() && !self.is_aware(now, peer);
        let names = self.peers.iter().filter(unaware).map(super::peer::Peer::name).collect();
        let awaited = now.since(since) < SPREAD_WITHIN
            && self.peers.iter().any(|peer| peer.alive(now) && unaware(&peer));
        (names, awaited)
    }

    fn pause_outcome(&self, now: Time, announced: &Announced) -> Option<Answer> {
        if !self.paused() {
            return Some(decline(
                "replaced",
                "a later order ended the pause; see: holdfast ha status".into(),
            ));
        }
        let (unaware, awaited) = self.unaware(now, announced.since);
        if awaited {
            return None;
        }
        let mut message =
            "the cluster is paused: nobody becomes primary by itself until: holdfast ha resume. \
                           The primary serves on while it has its quorum; failover, failback and promote work"
                .to_owned();
        if !unaware.is_empty() {
            message.push_str(&format!(". Not heard from, and told when back: {}", unaware.join(", ")));
        }
        if !self.carried(now, super::quorum::Quota::Majority, |peer| self.is_aware(now, peer)) {
            message.push_str(
                ". Less than a majority knows of the pause: beyond the cut a member may still take over",
            );
        }
        Some(Ok(message))
    }

    fn resume_outcome(&self, now: Time, announced: &Announced, pause: bool, drain: bool) -> Option<Answer> {
        let mut ended = Vec::new();
        if pause {
            let (unaware, awaited) = self.unaware(now, announced.since);
            if awaited {
                return None;
            }
            let told = match unaware.is_empty() {
                true => String::new(),
                false => format!(" (not heard from, and told when back: {})", unaware.join(", ")),
            };
            ended.push(format!("the pause of the cluster is ended{told}"));
        }
        if drain {
            ended.push(format!(
                "the drain of {} is ended: it joins the in-sync set when it has caught up",
                self.settings.me
            ));
        } else if self.drained() {
            ended.push(format!("{} is drained again by a later order", self.settings.me));
        }
        Some(Ok(ended.join("; ")))
    }

    fn drain_outcome(&self, now: Time, announced: &Announced) -> Option<Answer> {
        let me = &self.settings.me;
        if !self.hard.drained {
            return Some(decline("replaced", format!("a later order ended the drain of {me}")));
        }
        let counted = self.durable.record.as_ref().is_some_and(|record| record.contains(me));
        let primary = self.leader.filter(|(_, peer)| self.peers[*peer].reigns(now));
        let Some((_, primary)) = primary else {
            return Some(Ok(format!(
                "{me} is drained and takes no role until: holdfast ha resume. There is no primary now; the next one will not wait for it"
            )));
        };
        let primary = self.peers[primary].name();
        if !counted {
            return Some(Ok(format!(
                "{me} is drained: {primary} is primary and waits for it no longer. It may be stopped; when the work is done: holdfast ha resume"
            )));
        }
        (now.since(announced.since) >= ANSWER_WITHIN).then(|| {
            decline(
                "timed_out",
                format!(
                    "{me} is drained, but {primary} has not taken it out of the in-sync set after {} s; see: holdfast ha status on {primary}",
                    ANSWER_WITHIN.as_secs()
                ),
            )
        })
    }
}
