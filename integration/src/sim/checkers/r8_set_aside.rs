//! R8: nothing is discarded silently: what a log loses was set aside as a readable archive before, and is
//! listed in the status.

use holdfast_heartbeat::{Incarnation, Lsn};

use super::Checker;
use crate::sim::world::shape::MOST_HOSTS;
use crate::sim::world::{Seen, World};

/// See the module's documentation.
#[derive(Default)]
pub(super) struct SetAside {
    /// The end of each host's log, and what of it was synced, for this incarnation.
    known: [Option<(Option<Incarnation>, Lsn, Lsn)>; MOST_HOSTS],
    /// What was set aside since.
    covered: [Option<(Lsn, Lsn)>; MOST_HOSTS],
}

impl Checker for SetAside {
    fn rule(&self) -> &'static str {
        "R8"
    }

    fn see(&mut self, world: &World, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::SetAside { host, archive, from, to } => {
                self.covered[*host] = Some((*from, *to));
                is_readable(world, *host, archive, *from, *to)
            }
            Seen::Born { host } => self.look(world, *host, true),
            Seen::Flushed { host } => self.look(world, *host, false),
            _ => Ok(()),
        }
    }
}

impl SetAside {
    fn look(&mut self, world: &World, h: usize, born: bool) -> Result<(), String> {
        let host = &world.hosts[h];
        let Some(log) = host.life.as_ref().and_then(|life| life.log.as_ref()) else { return Ok(()) };
        let (end, durable) = (log.engine.log().end(), log.engine.log().durable());
        let before = self.known[h].replace((host.log_incarnation, end, durable));
        let covered = self.covered[h].take();
        let Some((incarnation, old_end, old_durable)) = before else { return Ok(()) };
        if incarnation != host.log_incarnation {
            return Ok(());
        }
        // A crash may cost what was not synced; while an agent runs, not even that may go unsaid.
        let kept = if born { old_durable } else { old_end };
        let mut aside = covered.is_some_and(|(from, to)| from <= end && to >= kept);
        if born {
            // It may have died between the cut and the word of it; the archive is listed all the same. And
            // after a power cut a flipped bit in the last, unmarked bytes looks like a torn write.
            aside |=
                log.engine.status().set_aside.iter().any(|archive| archive.from <= end && archive.to >= kept);
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
