//! What is said of this host beyond its log and its links: checks that fail, heartbeats that are late, and a
//! disk that stalls.
//!
//! A *penalty* is the sum of what the failed checks and the lateness count; zero is healthy. It decides only between members
//! that may be primary by every other rule, and each says its own with every heartbeat. Invariants: whoever could
//! serve on hands over by itself to nobody of a greater penalty; a penalty alone never ends a reign without a
//! successor, and never keeps a member from standing whom nobody healthier forestalls.
//!
//! A *stalled disk* (one that does not take a small write in time) is another matter: such a member neither
//! acknowledges nor votes in time, so it stands in nobody's way and hands over to whoever can serve. With
//! nobody to hand over to it keeps the role: it acknowledges nothing before the write is durable, so nothing
//! is risked, what can be read without the disk is still answered, and it goes on when the disk does.

use std::time::Duration;

use holdfast_heartbeat::{MAX_PENALTY, Role, Time, planted};
use serde::{Deserialize, Serialize};

use super::campaign::Vacancy;
use super::effect::Effect;
use super::event::FailedCheck;
use super::transition::Cause;
use super::{Node, Phase};

/// A reign lasts at least this long before failed checks end it: a service that a takeover started gets time
/// to come up, and two members whose checks come and go do not pass the role to and fro. It counts anew
/// after a hand-over that was called off.
pub const CHECKS_HOLD: Duration = Duration::from_secs(10);

/// For how many detection times a member with failed checks leaves a vacancy to a healthier one that it
/// hears: several elections long. Afterwards it stands all the same: somebody must serve.
const DEFERENCE: u32 = 3;

/// What it counts to be late again and again: more than any single check with a weight, which is at most 254,
/// and less than one without, which a service cannot do without.
const LATE_PENALTY: u32 = 300;

/// What is known of this host's health.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Health {
    /// What the failed checks and the own lateness count together.
    pub penalty: u32,
    /// The share of the failed checks.
    of_checks: u32,
    /// Late with heartbeats again and again.
    late: bool,
    pub failed: Vec<FailedCheck>,
    /// When the penalty changed.
    changed_at: Option<Time>,
    /// Why the disk is held to be stalled, in words, while it is.
    pub stalled: Option<String>,
    /// It was said that this member serves on for want of a better one.
    said_serves_on: bool,
}

impl Node {
    /// The checks were judged anew.
    pub(super) fn note_checks(
        &mut self,
        now: Time,
        penalty: u32,
        failed: Vec<FailedCheck>,
        out: &mut Vec<Effect>,
    ) {
        let penalty = penalty.min(MAX_PENALTY);
        let known = |checks: &[FailedCheck], name: &str| checks.iter().any(|check| check.name == name);
        for check in failed.iter().filter(|check| !known(&self.health.failed, &check.name)) {
            let message = format!("check {:?} fails on {}: {}", check.name, self.settings.me, check.detail);
            out.push(Effect::Warn { message });
        }
        for check in self.health.failed.iter().filter(|check| !known(&failed, &check.name)) {
            let message = format!("check {:?} passes again on {}", check.name, self.settings.me);
            out.push(Effect::Note { message });
        }
        self.health.of_checks = penalty;
        self.health.failed = failed;
        self.add_up(now);
    }

    /// The own lateness was noted anew.
    pub(super) fn note_lateness(&mut self, now: Time, out: &mut Vec<Effect>) {
        let late = self.lateness.is_grave(now);
        if late == self.health.late {
            return;
        }
        self.health.late = late;
        self.add_up(now);
        let me = &self.settings.me;
        out.push(match late {
            true => Effect::Warn {
                message: format!(
                    "{me} was late with its heartbeats by more than {} ms again and again, so the others may soon take it for dead: its host is overloaded, or is stopped for moments. The line \"real time\" of holdfast ha status says what it lacks",
                    self.late_limit().as_millis()
                ),
            },
            false => Effect::Note { message: format!("{me} has been on time with its heartbeats for a minute") },
        });
    }

    /// How late a heartbeat may be. At three heartbeats to the detection time, and a lease as long, the lease may
    /// run out at a third of it: what was acknowledged last was sent up to two intervals before.
    pub(super) fn late_limit(&self) -> Duration {
        self.settings.timers.detect / 4
    }

    fn add_up(&mut self, now: Time) {
        let late = if self.health.late { LATE_PENALTY } else { 0 };
        let penalty = self.health.of_checks.saturating_add(late).min(MAX_PENALTY);
        if penalty != self.health.penalty {
            self.health.changed_at = Some(now);
            self.health.said_serves_on = false;
        }
        self.health.penalty = penalty;
    }

    /// The disk was judged anew.
    pub(super) fn note_disk(&mut self, good: bool, detail: String, out: &mut Vec<Effect>) {
        match (good, self.health.stalled.is_some()) {
            (false, false) => {
                let message = format!(
                    "{detail}; {} takes no role until the disk answers in time again, and nothing is acknowledged that is not durable",
                    self.settings.me
                );
                out.push(Effect::Warn { message });
            }
            (true, true) => {
                let message = format!("the disk of {} answers in time again", self.settings.me);
                out.push(Effect::Note { message });
            }
            _ => {}
        }
        if good != self.health.stalled.is_none() {
            self.health.said_serves_on = false;
        }
        self.health.stalled = (!good).then_some(detail);
    }

    /// Whether the disk does not take writes in time.
    pub(super) fn disk_stalled(&self) -> bool {
        self.health.stalled.is_some()
    }

    /// Since when the own penalty is what it is.
    pub(super) fn health_since(&self) -> Time {
        self.health.changed_at.unwrap_or(Time::ZERO)
    }

    /// What `peer` says its failed checks count; a peer that was not heard says nothing.
    pub(super) fn penalty_of(&self, peer: usize) -> u32 {
        self.peers[peer].state.as_ref().map_or(0, |state| state.penalty)
    }

    /// Whether the role would come to a worse member if `peer` had it.
    pub(super) fn is_worse(&self, peer: usize) -> bool {
        self.penalty_of(peer) > self.health.penalty && !planted::is("hands-over-to-worse")
    }

    /// A primary with failed checks hands over to a member in sync that is healthier, and only to such a one.
    pub(super) fn give_way_to_healthier(&mut self, now: Time, out: &mut Vec<Effect>) {
        let Phase::Reigning(reign) = &self.phase else { return };
        if self.health.penalty == 0
            || reign.role != Role::Primary
            || self.paused()
            || !self.settings.automatic
            || now.since(self.role_since) < CHECKS_HOLD
            // What fails here may fail everywhere: the others get the time to say so.
            || now.since(self.health_since()) < self.settings.timers.detect
        {
            return;
        }
        let best = self.best_successor(now, None);
        let worth_it =
            |peer: &usize| self.penalty_of(*peer) < self.health.penalty || planted::is("hands-over-to-worse");
        match best.filter(worth_it) {
            Some(peer) => {
                let cause = if self.health.of_checks > 0 { Cause::ChecksFailed } else { Cause::Late };
                self.begin_handover(now, cause, None, Some(peer), out);
            }
            None => {
                let mut checks: Vec<_> = self.health.failed.iter().map(|check| check.name.as_str()).collect();
                if self.health.late {
                    checks.push("punctual heartbeats");
                }
                let message = format!(
                    "failing on {}: {}; no healthier member is in sync, so {} serves on",
                    self.settings.me,
                    checks.join(", "),
                    self.settings.me
                );
                self.say_serves_on(message, out);
            }
        }
    }

    /// Says once for each change of health that the role stays here for want of a better member.
    pub(super) fn say_serves_on(&mut self, message: String, out: &mut Vec<Effect>) {
        if !std::mem::replace(&mut self.health.said_serves_on, true) {
            out.push(Effect::Warn { message });
        }
    }

    /// Whether this member leaves the vacancy to a healthier one for now.
    pub(super) fn leaves_it_to_healthier(&self, now: Time, vacancy: &Vacancy) -> bool {
        now < vacancy.since + self.settings.timers.detect * DEFERENCE
            && self.rivals(now).any(|(_, state)| state.penalty < self.health.penalty)
    }
}
