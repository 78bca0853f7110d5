//! Hooks and services of an agent: what `runtime::hooks` answers, in the world's time and with its own chance,
//! so that a world without them is the same as ever.

use holdfast_agent::node::event::{Event, Readiness};
use holdfast_heartbeat::Epoch;

use super::happening::{Happening, Part};
use super::network::MS;
use super::{Ns, World};
use crate::sim::chance::Chance;

/// How the hooks of a host behave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Conduct {
    /// They end well, in a millisecond.
    #[default]
    Good,
    /// They take their time, fail, veto, and now and then are never heard of again.
    Troubled,
    /// Each takeover is vetoed.
    Vetoes,
}

/// The thread that runs hooks: one thing after the other.
#[derive(Default)]
pub struct AttendantsThread {
    /// When it is done with what it was told.
    pub free_at: Ns,
    /// The reign whose pre-hooks ended last, and whether they vetoed it.
    pub prepared: Option<(Epoch, bool)>,
}

/// The longest that troubled hooks take: beyond their limit, and what killing takes.
const LONGEST: Ns = 2_600 * MS;

impl World {
    pub(super) fn run_pre_hooks(&mut self, h: usize, epoch: Epoch, round: u64) {
        self.tell_story(h, format!("runs the pre-hooks of epoch {epoch}"));
        let dice = &mut self.attendants_dice;
        let (after, outcome) = match self.hosts[h].conduct {
            Conduct::Good => (MS, Readiness::Ready),
            Conduct::Vetoes => (MS, Readiness::Vetoed { why: "hook simulated vetoes it".to_owned() }),
            Conduct::Troubled => {
                if dice.one_in(30) {
                    return;
                }
                let after = if dice.one_in(2) { dice.up_to(5 * MS) } else { dice.up_to(LONGEST) };
                let outcome = match dice.up_to(9) {
                    0 => Readiness::Failed { why: "a simulated service did not start".to_owned() },
                    1 => Readiness::Vetoed { why: "a simulated hook vetoes it".to_owned() },
                    _ => Readiness::Ready,
                };
                (after, outcome)
            }
        };
        self.attended_in(h, after, Event::Prepared { epoch, round, outcome });
    }

    pub(super) fn let_services_leave(&mut self, h: usize, round: u64, planned: bool) {
        let when = if planned { "before the address" } else { "after the address" };
        self.tell_story(h, format!("hooks and services leave, {when}"));
        let dice = &mut self.attendants_dice;
        let after = match self.hosts[h].conduct {
            Conduct::Good | Conduct::Vetoes => MS,
            Conduct::Troubled if dice.one_in(30) => return,
            Conduct::Troubled if dice.one_in(2) => dice.up_to(5 * MS),
            Conduct::Troubled => dice.up_to(LONGEST),
        };
        self.attended_in(h, after, Event::Retired { round });
    }

    fn attended_in(&mut self, h: usize, after: Ns, event: Event) {
        let now = self.now;
        let Some(life) = self.hosts[h].life.as_mut() else { return };
        let at = life.attendants.free_at.max(now) + after;
        life.attendants.free_at = at;
        self.schedule(h, at - now, Part::Control, Happening::Attended { event: Box::new(event) });
    }

    pub(super) fn attended(&mut self, h: usize, event: Event) {
        let Some(life) = self.hosts[h].life.as_mut() else { return };
        if let Event::Prepared { epoch, outcome, .. } = &event {
            life.attendants.prepared = Some((*epoch, matches!(outcome, Readiness::Vetoed { .. })));
        }
        self.tell_core(h, event);
    }
}
