//! R7: whoever takes over has the vote, the record, the lease and its log complete before it serves or claims
//! the address, and its hooks and services ready where there are any; whoever gives up says so only when the
//! address is off its host, and lets nothing but a planned switchover stop them while the lease is held.

use holdfast_agent::node::effect::Effect;
use holdfast_heartbeat::Epoch;

use super::{Checker, facts};
use crate::sim::world::shape::MOST_HOSTS;
use crate::sim::world::{Seen, World};

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Order {
    /// The last reign in which each host claimed the address.
    claimed: [Epoch; MOST_HOSTS],
}

impl Checker for Order {
    fn rule(&self) -> &'static str {
        "R7"
    }

    fn see(&mut self, world: &World, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Effect { host, effect: Effect::ClaimVip { epoch }, .. } => {
                self.claimed[*host] = *epoch;
                let probed = world.hosts[*host].life.as_ref().and_then(|life| life.addresses.probed);
                if probed.is_some_and(|(_, answered)| answered) {
                    return Err(format!(
                        "{} claims the address, and its probe was answered",
                        world.hosts[*host].name
                    ));
                }
                ready(world, *host, *epoch)
            }
            Seen::Effect { host, effect: Effect::Retire { epoch, planned: false, .. }, .. } => {
                let life = world.hosts[*host].life.as_ref();
                if life.is_some_and(|life| life.lease.held(world.clock(*host)) == Some(*epoch)) {
                    let name = &world.hosts[*host].name;
                    return Err(format!(
                        "{name} stops its services before its lease of epoch {epoch} is over"
                    ));
                }
                Ok(())
            }
            Seen::Claimed { host, epoch } => ready(world, *host, *epoch),
            Seen::Effect { host, effect: Effect::Send { heartbeat, .. }, .. } => {
                let resigned = heartbeat.state.resigned.as_ref().map(|resigned| resigned.epoch);
                let there = world.hosts[*host].kernel.has_address(world.clock(*host));
                if there && resigned.is_some_and(|epoch| epoch >= self.claimed[*host]) {
                    return Err(format!(
                        "{} says that it gave up epoch {}, and the address is still on its interface",
                        world.hosts[*host].name,
                        resigned.unwrap_or_default()
                    ));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

fn ready(world: &World, h: usize, epoch: Epoch) -> Result<(), String> {
    let host = &world.hosts[h];
    let Some(life) = host.life.as_ref() else { return Ok(()) };
    let Some(log) = life.log.as_ref() else { return Err(format!("{} has no log and claims", host.name)) };
    let fail = |what: &str| Err(format!("{} claims the address in epoch {epoch} {what}", host.name));
    if life.lease.held(world.clock(h)) != Some(epoch) {
        return fail("without a lease for it");
    }
    if world.shape.has_hooks(h) && life.attendants.prepared != Some((epoch, false)) {
        return fail("although its pre-hooks did not agree");
    }
    if log.engine.log().last_epoch() != epoch {
        return fail("before its log has begun that epoch");
    }
    let starts = log.engine.log().history().starts();
    let Some((_, start)) = starts.iter().rev().find(|(begun, _)| *begun == epoch) else {
        return fail("and its log does not know where that began");
    };
    if log.engine.machine().applied_lsn() <= *start {
        return fail("before everything of before is applied");
    }
    let recorded = facts::newest_record(world).is_some_and(|record| record.epoch >= epoch);
    if !recorded && !world.price_accepted && !world.disks_lost {
        return fail("before a quorum has the in-sync record of it");
    }
    Ok(())
}
