//! R2: a write is answered only when its record is durable on each member of the in-sync set, under the
//! current epoch.

use std::collections::BTreeMap;

use holdfast_heartbeat::{Lsn, MemberKind};

use super::{Checker, facts};
use crate::sim::world::service::RequestId;
use crate::sim::world::shape::MOST_HOSTS;
use crate::sim::world::{Seen, World};

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Acknowledged {
    /// Where the last record of a request ends, and in whose log.
    committed: BTreeMap<RequestId, Lsn>,
    /// What each host's log had on its disk when that was last looked at.
    durable: [Lsn; MOST_HOSTS],
    /// The end of the last record that any client heard to be stored.
    told: Lsn,
}

impl Checker for Acknowledged {
    fn rule(&self) -> &'static str {
        "R2"
    }

    fn see(&mut self, world: &World, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Born { host } | Seen::Flushed { host } => {
                if let Some(log) = world.hosts[*host].life.as_ref().and_then(|life| life.log.as_ref()) {
                    self.durable[*host] = log.engine.log().durable();
                }
            }
            Seen::Committed { request, end, .. } => {
                self.committed.insert(*request, *end);
            }
            Seen::Answering { host, request, answer, .. } => {
                let Some(end) = self.committed.remove(request) else { return Ok(()) };
                let told = answer.is_success();
                if told {
                    self.told = self.told.max(end);
                }
                if told && !world.price_accepted {
                    return self.held_by_all(world, *host, end);
                }
            }
            Seen::SetAside { host, from, .. } if *from < self.told && !world.shape.is_pair() => {
                // A member that was taken out of the set may hold other bytes there, and only such a one.
                let member = world.hosts[*host].life.as_ref().map(|life| &life.member);
                let counts = facts::newest_record(world)
                    .is_some_and(|record| member.is_some_and(|m| record.contains(m)));
                if counts && !world.price_accepted {
                    return Err(format!(
                        "{} cuts its log at LSN {from}, and LSN {} was acknowledged",
                        world.hosts[*host].name, self.told
                    ));
                }
            }
            // A record that takes effect names nobody who lacks a byte that was acknowledged before.
            Seen::Persisted { .. } if !world.price_accepted => {
                for member in facts::newest_record(world).iter().flat_map(|record| &record.members) {
                    let Some(h) = facts::host_of(world, member) else { continue };
                    if self.on_disk(world, h) < self.told {
                        return Err(format!(
                            "{member} is in the recorded in-sync set with {} on its disk, and LSN {} was acknowledged",
                            self.on_disk(world, h),
                            self.told
                        ));
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl Acknowledged {
    fn on_disk(&self, world: &World, h: usize) -> Lsn {
        let log = world.hosts[h].life.as_ref().and_then(|life| life.log.as_ref());
        log.map_or(self.durable[h], |log| log.engine.log().durable())
    }

    fn held_by_all(&self, world: &World, primary: usize, end: Lsn) -> Result<(), String> {
        let name = &world.hosts[primary].name;
        let epoch = world.reign(primary);
        let chain = |h: usize| {
            let log = world.hosts[h].life.as_ref()?.log.as_ref()?;
            log.engine.log().chain_at(end).ok()
        };
        for record in facts::deciding_records(world) {
            if record.epoch > epoch {
                return Err(format!(
                    "{name} acknowledges LSN {end} in epoch {epoch}, and a record of epoch {} decides",
                    record.epoch
                ));
            }
            for member in &record.members {
                // Whoever lost its disk is not the member that the record means.
                let Some(h) = facts::host_of(world, member) else { continue };
                if h == primary || world.hosts[h].kind == MemberKind::Witness {
                    continue;
                }
                let held = match world.hosts[h].life.as_ref().and_then(|life| life.log.as_ref()) {
                    Some(log) => log.engine.log().durable(),
                    None => self.durable[h],
                };
                if held < end {
                    return Err(format!(
                        "{name} acknowledges LSN {end} in epoch {epoch}; {member} is in the in-sync set and has {held} on its disk"
                    ));
                }
                if let (Some(mine), Some(theirs)) = (chain(primary), chain(h))
                    && mine != theirs
                {
                    return Err(format!("{name} acknowledges LSN {end}; {member} has other bytes before it"));
                }
            }
        }
        Ok(())
    }
}
