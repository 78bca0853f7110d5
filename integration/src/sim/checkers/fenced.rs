//! Where fence devices are, nobody takes the address over from somebody who still believes that it is primary: whoever
//! was it before has let go, or its life has ended (rule R7).
//!
//! A promotion that has not come to its end does not count. Whoever is elected after it without having followed it is in
//! an in-sync set that it has not changed, and so it never served: its log waits for that member.

use holdfast_agent::node::effect::Effect;
use holdfast_heartbeat::{Epoch, Role};

use super::Checker;
use crate::sim::world::{Seen, World};

/// See the module's documentation.
pub(super) struct Fenced;

impl Checker for Fenced {
    fn rule(&self) -> &'static str {
        "fencing"
    }

    fn see(&mut self, world: &World, seen: &Seen<'_>) -> Result<(), String> {
        let Seen::Effect { host, effect: Effect::ClaimVip { epoch }, .. } = seen else { return Ok(()) };
        // An operator's word, or a disk that was lost with what it remembered, comes before what a device says.
        if !world.shape.fence || world.price_accepted || world.disks_lost {
            return Ok(());
        }
        for other in (0..world.hosts.len()).filter(|other| other != host) {
            let reigns = world.reign(other);
            let primary = world.hosts[other].life.as_ref().is_some_and(|life| {
                let view = life.node.view(world.clock(other));
                view.serving || matches!(view.role, Role::Primary | Role::HandingOver)
            });
            if primary && reigns > Epoch::ZERO && reigns < *epoch {
                return Err(format!(
                    "{} claims the address in epoch {epoch}, and {} lives and reigns in epoch {reigns}",
                    world.hosts[*host].name, world.hosts[other].name
                ));
            }
        }
        Ok(())
    }
}
