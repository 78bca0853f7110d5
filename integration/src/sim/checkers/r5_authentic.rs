//! R5: nothing unauthenticated, and nothing old, shortens a lease, raises suspicion, or makes a silent member
//! seem alive.

use holdfast_agent::node::effect::Effect;

use super::Checker;
use crate::sim::world::shape::MOST_HOSTS;
use crate::sim::world::{Ns, Seen, World};

/// A view of a node is dear: it is looked at once in so many steps.
const LOOK_ONE_IN: u64 = 32;

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Authentic {
    /// When each host last sent something to each other one: what it really sent.
    sent: [[Option<Ns>; MOST_HOSTS]; MOST_HOSTS],
    steps: u64,
}

impl Checker for Authentic {
    fn rule(&self) -> &'static str {
        "R5"
    }

    fn see(&mut self, world: &World, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Effect { host, effect: Effect::Send { peer, .. }, .. } => {
                self.sent[*host][world.host_of_peer(*host, *peer)] = Some(world.now);
            }
            Seen::Stepped { host } => {
                self.steps += 1;
                if self.steps.is_multiple_of(LOOK_ONE_IN) {
                    return self.look(world, *host);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl Authentic {
    fn look(&self, world: &World, h: usize) -> Result<(), String> {
        let host = &world.hosts[h];
        let Some(life) = host.life.as_ref() else { return Ok(()) };
        let derived = world.derived(h);
        // Heard within the detection time, and made with knowledge that was no older than that or a lease.
        let longest = derived.detect + derived.detect.max(derived.lease);
        let longest = 2 * longest.as_nanos() as Ns;
        let view = life.node.view(world.clock(h));
        for (peer, seen) in view.peers.iter().enumerate() {
            let other = world.host_of_peer(h, peer);
            let silent = self.sent[other][h].is_none_or(|at| world.now - at > longest);
            if seen.alive && silent {
                return Err(format!(
                    "{} takes {} for alive, which sent it nothing for {} ms",
                    host.name,
                    world.hosts[other].name,
                    self.sent[other][h].map_or(world.now, |at| world.now - at) / 1_000_000
                ));
            }
        }
        Ok(())
    }
}
