//! Liveness: when nothing is wrong any more, there is one primary that serves, everybody follows it, and no
//! person was needed.

use holdfast_heartbeat::{MemberKind, Role};

use crate::sim::world::World;
use crate::sim::world::network::S;

/// The host that is primary and answers on the address, if there is exactly one.
pub fn primary(world: &World) -> Option<usize> {
    let mut found = None;
    for (h, host) in world.hosts.iter().enumerate() {
        let Some(life) = host.life.as_ref() else { continue };
        let view = life.node.view(world.clock(h));
        if view.role == Role::Primary && host.answers_on_address(world.now) {
            if found.is_some() {
                return None;
            }
            found = Some(h);
        }
    }
    found
}

/// Whether the cluster is whole; if not, what is missing.
pub fn look(world: &World) -> Result<(), String> {
    let Some(primary) = primary(world) else {
        let waits = world.hosts.iter().enumerate().filter_map(|(h, host)| {
            let view = host.life.as_ref()?.node.view(world.clock(h));
            Some(format!(
                "{} is {:?} in epoch {}, waiting for {:?}",
                host.name, view.role, view.epoch, view.waiting_for
            ))
        });
        return Err(format!("there is no primary: {}", waits.collect::<Vec<_>>().join("; ")));
    };
    let view = world.hosts[primary].life.as_ref().expect("a primary lives").node.view(world.clock(primary));
    let record = view.record.ok_or("the primary has no record of the in-sync set")?;
    for (h, host) in world.hosts.iter().enumerate() {
        let Some(life) = host.life.as_ref() else { return Err(format!("{} does not run", host.name)) };
        let in_sync = record.contains(&life.member) || record.leaves_out(&life.member.id);
        if host.kind == MemberKind::Data && !in_sync {
            return Err(format!(
                "{} is primary, and {} is not in the in-sync set (epoch {}, version {})",
                world.hosts[primary].name, host.name, record.epoch, record.version
            ));
        }
        // The record lags behind a member that is being left out of it: a disk may hold the writing of it up.
        let streams = life.log.as_ref().is_some_and(|log| log.engine.status().streaming);
        if host.kind == MemberKind::Data && h != primary && !streams {
            return Err(format!(
                "{} is primary, and no log streams to {}",
                world.hosts[primary].name, host.name
            ));
        }
    }
    if world.now.saturating_sub(world.last_success()) > 25 * S {
        return Err(format!("{} is primary, and no client had success lately", world.hosts[primary].name));
    }
    Ok(())
}
