//! Nobody hands over by itself to a member that is worse: to a healthier one for failed checks, and for a
//! failback to one that is as healthy at least. What the other one was counts as it was when it last could be
//! heard, since nobody can know better.

use holdfast_agent::node::effect::Effect;
use holdfast_agent::node::transition::Cause;
use holdfast_heartbeat::Role;

use super::Checker;
use crate::sim::world::network::S;
use crate::sim::world::{Ns, Seen, World};

/// See the module's documentation.
#[derive(Default)]
pub(super) struct NoWorse;

impl Checker for NoWorse {
    fn rule(&self) -> &'static str {
        "no worse member"
    }

    fn see(&mut self, world: &World, seen: &Seen<'_>) -> Result<(), String> {
        let Seen::Effect { host, effect: Effect::Report(change), .. } = seen else { return Ok(()) };
        if change.to != Role::HandingOver
            || !matches!(change.cause, Cause::ChecksFailed | Cause::Late | Cause::Failback)
        {
            return Ok(());
        }
        let Some(life) = &world.hosts[*host].life else { return Ok(()) };
        let own = life.node.view(world.clock(*host)).penalty;
        let successor = world
            .hosts
            .iter()
            .find(|other| change.peer.as_ref().is_some_and(|peer| peer.as_str() == other.name));
        let Some(successor) = successor else { return Ok(()) };
        // A statement is believed while it is younger than both of these, and is heard for as long again.
        let derived = &world.hosts[*host].derived;
        let heard: Ns = 3 * derived.detect.max(derived.lease).as_nanos() as Ns + S;
        let best = successor.least_penalty_since(world.now.saturating_sub(heard));
        let fine = if change.cause == Cause::Failback { best <= own } else { best < own };
        match fine {
            true => Ok(()),
            false => Err(format!(
                "{} hands over to {} ({:?}), against which {best} counted at best lately, and {own} against itself",
                world.hosts[*host].name, successor.name, change.cause
            )),
        }
    }
}
