//! What attends the role besides the log and the address: services and hooks, in the order of rule R7.
//!
//! Taking over, they are made ready between the epoch-start record and the conflict probe, which is asked
//! anew afterwards. Giving up in good order, they leave before the gate shuts, while the lease is renewed
//! as ever; after any other end of a reign the gate shuts and the address goes first, and they follow.
//!
//! What must hold: neither a hook nor a service ever delays the end of a lease, and neither can hold up a
//! takeover, a switchover or the end of the process for longer than its configured limit and a little.

use std::time::Duration;

use holdfast_heartbeat::{Epoch, Role, Time, planted};
use serde::{Deserialize, Serialize};

use super::effect::Effect;
use super::event::Readiness;
use super::transition::Cause;
use super::{FAREWELL, Node, Phase};

/// What the runtime may need beyond the limits, to kill what exceeds them and to say so. Whoever has not
/// answered by then is held to be broken.
pub(super) const GRACE: Duration = Duration::from_secs(3);

/// How long a member whose services or pre-hooks failed does not stand by itself, or, where it can leave the
/// role to nobody, does not ask them again; doubles with each failure in a row, up to [`LONGEST_RETREAT`].
const RETREAT: Duration = Duration::from_secs(5);
/// See [`RETREAT`].
const LONGEST_RETREAT: Duration = Duration::from_secs(60);

/// How far a promotion is with its services and pre-hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Preparation {
    /// The steps before it are not done.
    Due,
    /// Under way since then.
    Since(Time),
    /// Vetoed, and there is nobody yet to leave the role to: asked again then.
    Refused(Time),
    /// Ready, or there is nothing to make ready.
    Done,
}

/// What this node has under way about its services and hooks.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Attendants {
    /// Counts the orders to retire.
    round: u64,
    /// Counts the orders to prepare. A reign may give several: the answer to an earlier one says nothing about
    /// what the hooks say now.
    asked: u64,
    /// The newest order to retire, until it is answered.
    retiring: Option<(u64, Time)>,
    /// A reign has ended; its services and hooks follow when the address is off this host.
    after_release: Option<(Epoch, Time)>,
    /// Promotions in a row that were given up for their sake.
    failures: u32,
    /// This member does not ask for the role before this moment.
    pub retreat_until: Time,
}

impl Attendants {
    /// Whether something that belongs to a past reign is still under way.
    pub(super) fn busy(&self) -> bool {
        self.retiring.is_some() || self.after_release.is_some()
    }

    /// The newest order, if it is not answered.
    pub(super) fn round(&self) -> Option<u64> {
        self.retiring.map(|(round, _)| round)
    }
}

impl Node {
    /// How far a promotion that begins is: done where nothing is configured.
    pub(super) fn preparation(&self) -> Preparation {
        if self.settings.attendance.is_some() { Preparation::Due } else { Preparation::Done }
    }

    /// How long services and hooks may take in one change of primary, on this member.
    pub(super) fn attendance_limit(&self) -> Duration {
        self.settings
            .attendance
            .as_ref()
            .map_or(Duration::ZERO, |attendance| attendance.prepare + attendance.retire + GRACE * 2)
    }

    /// The step of taking over: whether services and pre-hooks are ready. Begins it when `ready` says that
    /// every earlier step is done.
    pub(super) fn prepare(&mut self, now: Time, ready: bool, out: &mut Vec<Effect>) -> bool {
        let Some(attendance) = &self.settings.attendance else { return true };
        let (limit, may_veto) = (attendance.prepare + GRACE, attendance.may_veto);
        let has_heir = self.best_successor(now, None).is_some();
        let Phase::Reigning(reign) = &mut self.phase else { return false };
        match reign.preparation {
            Preparation::Done => true,
            Preparation::Due if ready => {
                reign.preparation = Preparation::Since(now);
                self.attendants.asked += 1;
                out.push(Effect::Prepare { epoch: reign.epoch, round: self.attendants.asked });
                false
            }
            Preparation::Since(since) if now >= since + limit => {
                let why = "nothing was heard of the services and pre-hooks within their limits".to_owned();
                let outcome = match may_veto {
                    true => Readiness::Vetoed { why },
                    false => Readiness::Failed { why },
                };
                let epoch = reign.epoch;
                self.note_prepared(now, epoch, self.attendants.asked, outcome, out);
                false
            }
            // Whoever else comes back follows this reign meanwhile, until it is in sync and can have the role.
            Preparation::Refused(_) if has_heir => {
                let pause = self.attendants.retreat_until.since(now);
                self.give_way(now, Cause::NotPrepared, pause, out);
                false
            }
            Preparation::Refused(until) if now >= until => {
                reign.preparation = Preparation::Due;
                false
            }
            Preparation::Due | Preparation::Since(_) | Preparation::Refused(_) => false,
        }
    }

    /// The runtime says what became of the services and pre-hooks of a promotion.
    pub(super) fn note_prepared(
        &mut self,
        now: Time,
        epoch: Epoch,
        round: u64,
        outcome: Readiness,
        out: &mut Vec<Effect>,
    ) {
        let Phase::Reigning(reign) = &self.phase else { return };
        let awaited = reign.epoch == epoch
            && round == self.attendants.asked
            && reign.role == Role::Promoting
            && matches!(reign.preparation, Preparation::Since(_));
        if !awaited {
            return;
        }
        match outcome {
            Readiness::Ready => {}
            Readiness::Failed { why } if self.best_successor(now, None).is_none() => {
                let message = format!(
                    "taking over without what should run here ({why}): there is nobody to leave the role to"
                );
                out.push(Effect::Warn { message });
            }
            Readiness::Vetoed { .. } if planted::is("serves-over-a-veto") => {}
            Readiness::Failed { why } | Readiness::Vetoed { why } => {
                let retreat = RETREAT * 2_u32.pow(self.attendants.failures.min(8));
                let retreat = retreat.min(LONGEST_RETREAT);
                self.attendants.failures += 1;
                self.attendants.retreat_until = now + retreat;
                let alone = self.best_successor(now, None).is_none();
                let consequence = match alone {
                    true => "nobody else can take over yet; it is tried again in",
                    false => "the role is left to another member, and this one does not stand by itself for",
                };
                let message = format!("not taking over: {why}; {consequence} {} s", retreat.as_secs());
                let me = &self.settings.me;
                self.fail_order(format!("{me} is {message}. See: holdfast ha history"), out);
                out.push(Effect::Warn { message });
                if !alone {
                    return self.give_way(now, Cause::NotPrepared, retreat, out);
                }
                if let Phase::Reigning(reign) = &mut self.phase {
                    reign.preparation = Preparation::Refused(self.attendants.retreat_until);
                }
                return;
            }
        }
        let Phase::Reigning(reign) = &mut self.phase else { return };
        reign.preparation = Preparation::Done;
        // Whoever had the address may have come back meanwhile: it is asked for once more.
        self.probe.started = None;
        self.probe.finished = None;
    }

    /// An operator orders the takeover that was vetoed: the pre-hooks are asked at once. Says whether there is
    /// one.
    pub(super) fn ask_hooks_again(&mut self) -> bool {
        match &mut self.phase {
            Phase::Reigning(reign) if matches!(reign.preparation, Preparation::Refused(_)) => {
                reign.preparation = Preparation::Due;
                true
            }
            _ => false,
        }
    }

    /// A promotion came to its end: earlier failures are forgotten.
    pub(super) fn attended(&mut self) {
        self.attendants.failures = 0;
        self.attendants.retreat_until = Time::ZERO;
    }

    /// Orders hooks and services to leave; `planned`: while the address is still here.
    pub(super) fn retire(&mut self, now: Time, epoch: Epoch, planned: bool, out: &mut Vec<Effect>) {
        if self.settings.attendance.is_none() {
            return;
        }
        self.attendants.round += 1;
        let round = self.attendants.round;
        self.attendants.retiring = Some((round, now));
        out.push(Effect::Retire { epoch, round, planned });
    }

    /// A reign ended otherwise than by a switchover that has ordered it already.
    pub(super) fn retire_after_release(&mut self, now: Time, epoch: Epoch) {
        if self.settings.attendance.is_some() {
            self.attendants.after_release = Some((epoch, now));
        }
    }

    /// The address is off this host, or no longer matters: what belongs to the ended reign follows.
    pub(super) fn retire_now(&mut self, now: Time, out: &mut Vec<Effect>) {
        if let Some((epoch, _)) = self.attendants.after_release.take() {
            self.retire(now, epoch, false, out);
        }
    }

    /// The runtime says that hooks and services of that order are done.
    pub(super) fn note_retired(&mut self, now: Time, round: u64) {
        if self.attendants.round() != Some(round) {
            return;
        }
        self.attendants.retiring = None;
        if let Phase::Reigning(reign) = &mut self.phase
            && let Some(handover) = &mut reign.handover
        {
            handover.retired.get_or_insert(now);
            // Only now the others can begin to go on without this member.
            let limit = self.settings.timers.handover;
            self.exit_at = self.exit_at.map(|at| at.max(now + limit + FAREWELL));
        }
    }

    /// What is overdue is not waited for any longer.
    pub(super) fn watch_attendants(&mut self, now: Time, out: &mut Vec<Effect>) {
        let Some(attendance) = &self.settings.attendance else { return };
        let limit = attendance.retire + GRACE;
        // Behind a shut gate an address that cannot be taken off serves nobody; the others go on when the
        // lease is over, and must not meet a service that still runs here.
        let lease = self.settings.timers.lease;
        if self.attendants.after_release.is_some_and(|(_, since)| now >= since + lease) {
            self.retire_now(now, out);
        }
        if let Some((round, _)) = self.attendants.retiring.filter(|(_, since)| now >= *since + limit) {
            let message =
                "nothing was heard of the services and hooks that should leave, within their limits; going on without them. Look at: systemctl status, and at the processes of the hooks"
                    .to_owned();
            out.push(Effect::Warn { message });
            self.note_retired(now, round);
        }
    }
}
