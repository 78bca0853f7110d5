//! Where fence devices are, nobody takes the address over from somebody who still believes that it is primary: whoever
//! was it before has let go, or its life has ended (rule R7).
//!
//! A promotion that has not come to its end does not count. Whoever is elected after it without having followed it is in
//! an in-sync set that it has not changed, and so it never served: its log waits for that member.
//!
//! And of a pair without a witness that is cut in two, the primary shoots first: its standby does so a head start later
//! than it heard of the primary, so that not both are switched off.

use holdfast_agent::node::effect::Effect;
use holdfast_heartbeat::{Epoch, Role};

use super::Checker;
use crate::sim::world::network::MS;
use crate::sim::world::shape::MOST_HOSTS;
use crate::sim::world::{Ns, Seen, World};

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Fenced {
    /// When each host last believed a primary's heartbeat.
    heard_primary: [Option<Ns>; MOST_HOSTS],
}

impl Checker for Fenced {
    fn rule(&self) -> &'static str {
        "fencing"
    }

    fn see(&mut self, world: &World, seen: &Seen<'_>) -> Result<(), String> {
        if !world.shape.fence {
            return Ok(());
        }
        match seen {
            Seen::Born { host } => self.heard_primary[*host] = None,
            Seen::Believed { host, role: Role::Primary | Role::HandingOver, .. } => {
                self.heard_primary[*host] = Some(world.now);
            }
            Seen::Effect { host, effect: Effect::Fence { member, .. }, .. } => {
                return self.shoots(world, *host, member.as_str());
            }
            Seen::Effect { host, effect: Effect::ClaimVip { epoch }, .. } => {
                return claims(world, *host, *epoch);
            }
            _ => {}
        }
        Ok(())
    }
}

impl Fenced {
    fn shoots(&self, world: &World, host: usize, member: &str) -> Result<(), String> {
        let is_primary = |host: usize| {
            let role = world.hosts[host].life.as_ref().map(|life| life.node.view(world.clock(host)).role);
            matches!(role, Some(Role::Primary | Role::HandingOver))
        };
        let standby_of_a_primary = (0..world.hosts.len()).any(is_primary) && !is_primary(host);
        if !world.shape.is_pair() || world.price_accepted || world.rate_outside || !standby_of_a_primary {
            return Ok(());
        }
        let head_start = world.hosts[host].config.fence_head_start().as_nanos() as Ns;
        match self.heard_primary[host].map(|at| world.now - at) {
            // Its clock may be fast, as far as clocks may.
            Some(since) if since < head_start / 100 * 99 => Err(format!(
                "{} has {member} switched off {} ms after it heard of it as primary; the head start is {} ms",
                world.hosts[host].name,
                since / MS,
                head_start / MS
            )),
            _ => Ok(()),
        }
    }
}

fn claims(world: &World, host: usize, epoch: Epoch) -> Result<(), String> {
    // An operator's word, or a disk that was lost with what it remembered, comes before what a device says.
    if world.price_accepted || world.disks_lost {
        return Ok(());
    }
    for other in (0..world.hosts.len()).filter(|other| *other != host) {
        let reigns = world.reign(other);
        let primary = world.hosts[other].life.as_ref().is_some_and(|life| {
            let view = life.node.view(world.clock(other));
            view.serving || matches!(view.role, Role::Primary | Role::HandingOver)
        });
        if primary && reigns > Epoch::ZERO && reigns < epoch {
            return Err(format!(
                "{} claims the address in epoch {epoch}, and {} lives and reigns in epoch {reigns}",
                world.hosts[host].name, world.hosts[other].name
            ));
        }
    }
    Ok(())
}
