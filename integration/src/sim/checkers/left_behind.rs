//! A half of a pair without a witness that did not follow its silent primary at once does not follow it later: that
//! one may have acknowledged writes alone meanwhile. This is what is left of R3 in a pair that is cut in two, where
//! both halves may reign for a while.

use holdfast_agent::node::effect::Effect;
use holdfast_agent::node::transition::Cause;
use holdfast_heartbeat::{InSyncRecord, Role};

use super::{Checker, facts};
use crate::sim::world::shape::MOST_HOSTS;
use crate::sim::world::{Ns, Seen, World};

/// For how long a half may be kept from following by its own disk, beyond the time that it must wait, and still does
/// once nobody answers for the address.
const AT_ONCE: Ns = 10_000_000_000;

/// See the module's documentation.
#[derive(Default)]
pub(super) struct LeftBehind {
    /// Since when each half has gone on alone, as its disk says, until it went on with the other again.
    alone: [Option<Ns>; MOST_HOSTS],
    /// How long each half must wait, at most, by any timers that it has had: in silence, and for a lease.
    waits: [Ns; MOST_HOSTS],
    /// Whose operator accepted the price.
    forced: [bool; MOST_HOSTS],
}

impl Checker for LeftBehind {
    fn rule(&self) -> &'static str {
        "left behind"
    }

    fn see(&mut self, world: &World, seen: &Seen<'_>) -> Result<(), String> {
        if !world.shape.is_pair() {
            return Ok(());
        }
        match seen {
            Seen::Born { host } => {
                let derived = world.derived(*host);
                let wait = (derived.detect + derived.voter_wait + derived.gate_extra).as_nanos() as Ns;
                self.waits[*host] = self.waits[*host].max(wait);
                // Who lost its disk does not remember either.
                if world.hosts[*host].hard.record.is_none() {
                    self.alone[*host] = None;
                }
            }
            Seen::Persisted { host } => {
                let Some(record) = &world.hosts[*host].hard.record else { return Ok(()) };
                if record.members.len() > 1 {
                    self.alone[*host] = None;
                } else if world.reign(*host) == record.epoch && facts::took_effect(world, *host) {
                    self.alone[*host].get_or_insert(world.now);
                }
            }
            Seen::Effect { host, effect: Effect::Report(transition), .. } => match transition.to {
                Role::Candidate => self.forced[*host] = transition.cause == Cause::OperatorForced,
                Role::Promoting => return self.follows_at_once(world, *host),
                _ => {}
            },
            _ => {}
        }
        Ok(())
    }
}

impl LeftBehind {
    fn follows_at_once(&self, world: &World, h: usize) -> Result<(), String> {
        let Some(life) = world.hosts[h].life.as_ref() else { return Ok(()) };
        let sole = |record: &InSyncRecord| record.members == [life.member.clone()];
        // Both can be the last one if the power fails while one writes it down (docs/safety.md).
        if self.forced[h] || world.hosts[h].hard.record.as_ref().is_some_and(sole) {
            return Ok(());
        }
        let other = 1 - h;
        match self.alone[other] {
            Some(since) if world.now - since > AT_ONCE + self.waits[h].max(self.waits[other]) => {
                Err(format!(
                    "{} takes over by itself, and {} has gone on alone for {} s and is not back",
                    world.hosts[h].name,
                    world.hosts[other].name,
                    (world.now - since) / 1_000_000_000
                ))
            }
            _ => Ok(()),
        }
    }
}
