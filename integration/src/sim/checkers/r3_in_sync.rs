//! R3: a data member outside the last recorded in-sync set is never elected automatically, at any cold start,
//! in any order of boots.

use holdfast_agent::node::effect::Effect;
use holdfast_heartbeat::Role;

use super::{Checker, facts};
use crate::sim::world::{Seen, World};

/// See the module's documentation.
#[derive(Default)]
pub struct InSyncSet;

impl Checker for InSyncSet {
    fn rule(&self) -> &'static str {
        "R3"
    }

    fn see(&mut self, world: &World, seen: &Seen<'_>) -> Result<(), String> {
        let Seen::Effect { host, effect: Effect::Report(transition), .. } = seen else { return Ok(()) };
        if transition.to != Role::Promoting || world.price_accepted {
            return Ok(());
        }
        let Some(life) = world.hosts[*host].life.as_ref() else { return Ok(()) };
        let mut deciding = facts::deciding_records(world).peekable();
        if deciding.peek().is_none() || deciding.any(|record| record.contains(&life.member)) {
            return Ok(());
        }
        let newest = facts::newest_record(world).expect("looked at above");
        let names: Vec<String> = newest.members.iter().map(ToString::to_string).collect();
        Err(format!(
            "{} was elected in epoch {}; the in-sync set that a quorum has is {{{}}} (epoch {}, version {})",
            life.member,
            transition.epoch,
            names.join(", "),
            newest.epoch,
            newest.version
        ))
    }
}
