//! R6: the kernel holds the lease too: whatever became of the agent, the address answers no longer than the
//! lease and what the gate cannot promise; and it never answers in two places.

use holdfast_agent::node::effect::Effect;
use holdfast_heartbeat::Time;

use super::Checker;
use crate::sim::world::kernel::GateKind;
use crate::sim::world::shape::MOST_HOSTS;
use crate::sim::world::{Seen, World};

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Kernel {
    /// Until when each host's lease was last extended, on its own clock.
    until: [Time; MOST_HOSTS],
}

impl Checker for Kernel {
    fn rule(&self) -> &'static str {
        "R6"
    }

    fn see(&mut self, world: &World, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Effect { host, effect: Effect::ExtendLease { until, .. }, .. } => {
                self.until[*host] = *until
            }
            // The lease is over at once; a gate with a deadline shuts in the same moment.
            Seen::Effect { host, at, effect: Effect::EndLease }
                if world.shape.gates[*host] != GateKind::LifetimeOnly =>
            {
                self.until[*host] = self.until[*host].min(*at);
            }
            Seen::Stepped { .. } | Seen::Claimed { .. } | Seen::Answering { .. } => return self.look(world),
            // The clock of a host that lost its power begins anew, and its kernel holds nothing.
            Seen::Dead { host } if !world.hosts[*host].up => self.until[*host] = Time::ZERO,
            _ => {}
        }
        Ok(())
    }
}

impl Kernel {
    fn look(&self, world: &World) -> Result<(), String> {
        let mut answering: Option<usize> = None;
        for (h, host) in world.hosts.iter().enumerate() {
            if !host.answers_on_address(world.now) {
                continue;
            }
            let excess = world.derived(h).gate_extra;
            if world.clock(h) >= self.until[h] + excess {
                return Err(format!(
                    "{} answers on the address {:?} after the end of its lease (gate: {:?}, at most {excess:?} late)",
                    host.name,
                    world.clock(h).since(self.until[h]),
                    world.shape.gates[h],
                ));
            }
            if world.price_accepted || world.rate_outside {
                continue;
            }
            if let Some(other) = answering.replace(h) {
                return Err(format!(
                    "{} and {} both answer on the address",
                    world.hosts[other].name, host.name
                ));
            }
        }
        Ok(())
    }
}
