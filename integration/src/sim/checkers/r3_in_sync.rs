//! R3: a data member outside the last recorded in-sync set is never elected automatically, at any cold start,
//! in any order of boots.

use holdfast_agent::node::effect::Effect;
use holdfast_heartbeat::{InSyncRecord, Role};

use super::{Checker, facts};
use crate::sim::world::{Seen, World};

/// See the module's documentation.
#[derive(Default)]
pub(super) struct InSyncSet {
    /// The newest record in a pair that its primary knows to be written: there one disk is enough, and what
    /// a dying member was writing was never acted upon.
    written: Option<InSyncRecord>,
}

impl Checker for InSyncSet {
    fn rule(&self) -> &'static str {
        "R3"
    }

    fn see(&mut self, world: &World, seen: &Seen<'_>) -> Result<(), String> {
        if let Seen::Persisted { host } = seen
            && let Some(record) = &world.hosts[*host].hard.record
            && self.written.as_ref().is_none_or(|written| written.rank() < record.rank())
        {
            self.written = Some(record.clone());
        }
        let Seen::Effect { host, effect: Effect::Report(transition), .. } = seen else { return Ok(()) };
        if transition.to != Role::Promoting || world.price_accepted {
            return Ok(());
        }
        let Some(life) = world.hosts[*host].life.as_ref() else { return Ok(()) };
        if world.shape.is_pair() && self.written.as_ref().is_none_or(|record| record.contains(&life.member)) {
            return Ok(());
        }
        let mut deciding = facts::deciding_records(world).peekable();
        if deciding.peek().is_none() || deciding.any(|record| record.contains(&life.member)) {
            return Ok(());
        }
        let newest = facts::newest_record(world).expect("looked at above");
        // Whoever was held up and counts its votes when a later epoch has begun gets neither record nor
        // lease any more.
        if newest.epoch > transition.epoch {
            return Ok(());
        }
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
