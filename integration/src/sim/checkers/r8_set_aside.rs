//! R8: nothing is discarded silently: what a log loses was set aside as a readable archive before, and is
//! listed in the status.

use holdfast_heartbeat::{Incarnation, Lsn, MemberKind};
use holdfast_replication::space::Holes;

use super::Checker;
use crate::sim::world::host::Host;
use crate::sim::world::shape::MOST_HOSTS;
use crate::sim::world::{Seen, World};

/// A host's log when it was looked at.
struct Known {
    incarnation: Option<Incarnation>,
    end: Lsn,
    durable: Lsn,
    gone: Holes,
}

/// See the module's documentation.
#[derive(Default)]
pub(super) struct SetAside {
    known: [Option<Known>; MOST_HOSTS],
    /// What was set aside since.
    covered: [Option<(Lsn, Lsn)>; MOST_HOSTS],
    /// Below here the primary has what a copy had that begins anew.
    shared: [Option<Lsn>; MOST_HOSTS],
}

impl Checker for SetAside {
    fn rule(&self) -> &'static str {
        "R8"
    }

    fn see(&mut self, world: &World, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::SetAside { host, archive, from, to } => {
                // A log with holes is set aside piece by piece.
                let covered = self.covered[*host].get_or_insert((*from, *to));
                *covered = (covered.0.min(*from), covered.1.max(*to));
                is_readable(world, *host, archive, *from, *to)
            }
            Seen::BegunAnew { host, shared } => {
                self.shared[*host] = Some(*shared);
                self.is_elsewhere(world, *host, *shared)
            }
            Seen::Born { host } => self.look(world, *host, true),
            Seen::Flushed { host } => self.look(world, *host, false),
            _ => Ok(()),
        }
    }
}

impl SetAside {
    /// What a copy gives up without an archive another member must have.
    fn is_elsewhere(&self, world: &World, h: usize, shared: Lsn) -> Result<(), String> {
        if somebody_has(world, h, shared) {
            return Ok(());
        }
        Err(format!("the log of {} begins anew, and nobody else has LSN {shared}", world.hosts[h].name))
    }

    fn look(&mut self, world: &World, h: usize, born: bool) -> Result<(), String> {
        let host = &world.hosts[h];
        let Some(log) = host.life.as_ref().and_then(|life| life.log.as_ref()) else { return Ok(()) };
        let end = log.engine.log().end();
        let before = self.known[h].replace(Known {
            incarnation: host.log_incarnation,
            end,
            durable: log.engine.log().durable(),
            gone: log.engine.log().holes().clone(),
        });
        let (covered, shared) = (self.covered[h].take(), self.shared[h].take());
        let Some(Known { gone, .. }) = &before else { return Ok(()) };
        let before = before.as_ref().filter(|before| before.incarnation == host.log_incarnation);
        let Some(before) = before else { return Ok(()) };
        // A crash may cost what was not synced; while an agent runs, not even that may go unsaid.
        let kept = if born { before.durable } else { before.end };
        // What was gone before can be neither lost nor set aside.
        let behind = |lsn: Lsn| gone.at(lsn).map_or(lsn, |(_, to)| to);
        let reach = behind(end.max(shared.unwrap_or_default()));
        let mut aside = covered.is_some_and(|(from, to)| from <= reach && to >= kept);
        if born {
            // It may have died between the cut and the word of it; the archive is listed all the same. And
            // after a power cut a flipped bit in the last, unmarked bytes looks like a torn write.
            let archives = log.engine.status().set_aside;
            aside |= archives.iter().any(|archive| archive.from <= end && archive.to >= kept);
            let before_hole = |lsn: Lsn| {
                let hole = gone.ranges().iter().find(|(_, to)| *to == lsn);
                hole.map_or(lsn, |(from, _)| *from)
            };
            // A copy that begins anew gave up what the primary has besides.
            let anew = end == Lsn::ZERO;
            aside |=
                anew && archives.iter().any(|a| a.to >= kept && somebody_has(world, h, before_hole(a.from)));
        }
        if end < kept && !aside {
            return Err(format!(
                "the log of {} ended at LSN {kept} and ends at {end} now; nothing of it was set aside (covered {covered:?}, archives {:?})",
                host.name,
                log.engine.status().set_aside.iter().map(|a| (a.from, a.to)).collect::<Vec<_>>()
            ));
        }
        Ok(())
    }
}

/// Whether another data member has the log up to there; one that is off may.
fn somebody_has(world: &World, h: usize, lsn: Lsn) -> bool {
    let has = |other: &Host| match other.life.as_ref() {
        Some(life) => life.log.as_ref().is_some_and(|log| log.engine.log().end() >= lsn),
        None => other.kind == MemberKind::Data,
    };
    world.hosts.iter().enumerate().any(|(other, host)| other != h && has(host))
}

fn is_readable(world: &World, h: usize, archive: &str, from: Lsn, to: Lsn) -> Result<(), String> {
    let host = &world.hosts[h];
    let Some(log) = host.life.as_ref().and_then(|life| life.log.as_ref()) else { return Ok(()) };
    let listed = log.engine.status().set_aside.iter().any(|known| known.name == archive);
    if !listed {
        return Err(format!("{} set LSN {from} to {to} aside as {archive} and does not list it", host.name));
    }
    let bytes: u64 = host
        .disk
        .files()
        .iter()
        .filter(|(name, _)| name.contains(archive))
        .map(|(_, b)| b.len() as u64)
        .sum();
    if bytes < to.bytes_since(from) {
        return Err(format!(
            "{} set LSN {from} to {to} aside as {archive}, which has {bytes} bytes on its disk",
            host.name
        ));
    }
    Ok(())
}
