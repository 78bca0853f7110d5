//! R3: a data member outside the last recorded in-sync set is never elected automatically, at any cold start,
//! in any order of boots.

use holdfast_agent::node::effect::Effect;
use holdfast_agent::node::hard_state::HardState;
use holdfast_heartbeat::{Epoch, InSyncRecord, Role};

use super::{Checker, facts};
use crate::sim::world::shape::MOST_HOSTS;
use crate::sim::world::{Seen, World};

/// See the module's documentation.
#[derive(Default)]
pub(super) struct InSyncSet {
    /// The newest record in a pair that its primary knows to be written: there one disk is enough, and what
    /// a dying member was writing was never acted upon.
    written: Option<InSyncRecord>,
    /// What each host wanted to remember last, in this life.
    remembered: [(Epoch, Option<Rank>); MOST_HOSTS],
}

type Rank = (Epoch, u64);

impl Checker for InSyncSet {
    fn rule(&self) -> &'static str {
        "R3"
    }

    fn see(&mut self, world: &World, seen: &Seen<'_>) -> Result<(), String> {
        if let Seen::Persisted { host } = seen
            && let Some(record) = &world.hosts[*host].hard.record
            && world.reign(*host) == record.epoch
            && facts::took_effect(world, *host)
            && self.written.as_ref().is_none_or(|written| written.rank() < record.rank())
        {
            self.written = Some(record.clone());
        }
        match seen {
            Seen::Born { host } => {
                let disk = &world.hosts[*host].hard;
                self.remembered[*host] = (disk.epoch, disk.record.as_ref().map(InSyncRecord::rank));
            }
            Seen::Effect { host, effect: Effect::Persist { state, .. }, .. } => {
                return self.adopts_in_time(world, *host, state);
            }
            _ => {}
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

impl InSyncSet {
    /// Who promised an epoch voted on what it knew then: it does not help to record anything of an earlier one
    /// any more.
    fn adopts_in_time(&mut self, world: &World, h: usize, state: &HardState) -> Result<(), String> {
        let rank = state.record.as_ref().map(InSyncRecord::rank);
        let (promised, known) = std::mem::replace(&mut self.remembered[h], (state.epoch, rank));
        match rank {
            Some((epoch, version)) if rank > known && epoch < promised => Err(format!(
                "{} takes version {version} of epoch {epoch} for the in-sync set after it promised epoch {promised}",
                world.hosts[h].name
            )),
            _ => Ok(()),
        }
    }
}
