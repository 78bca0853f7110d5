//! What only somebody knows who sees every disk at once.

use holdfast_heartbeat::{InSyncRecord, Member, NodeId};

use crate::sim::world::World;

/// Whether more than half of `voters` are hosts of which `holds` is true; of all hosts where nobody wrote down who votes.
pub fn majority(world: &World, voters: Option<&Vec<NodeId>>, holds: impl Fn(usize) -> bool) -> bool {
    let votes = |host: &str| voters.is_none_or(|voters| voters.iter().any(|voter| voter.as_str() == host));
    let voters = world.hosts.iter().enumerate().filter(|(_, host)| votes(&host.name));
    let (all, held) = voters.fold((0, 0), |(all, held), (h, _)| (all + 1, held + usize::from(holds(h))));
    2 * held > all
}

/// The newest in-sync record that is on the disks of a majority; in a pair, where either decides alone, the
/// newest on any disk.
pub fn newest_record(world: &World) -> Option<&InSyncRecord> {
    // In a pair either decides, and what a disk had is not forgotten.
    let mut newest = world.decided.as_ref().filter(|_| !world.shape.is_pair());
    for (_, record) in records(world) {
        let has = |h: usize| records(world).any(|(at, other)| at == h && other.rank() >= record.rank());
        let decided = world.shape.is_pair() || majority(world, record.voters.as_ref(), has);
        if decided && newest.is_none_or(|known| known.rank() < record.rank()) {
            newest = Some(record);
        }
    }
    newest
}

/// The newest record that each host's disk has, or had before it was lost: whoever voted with a record that
/// is gone now has voted with it all the same.
fn records(world: &World) -> impl Iterator<Item = (usize, &InSyncRecord)> {
    world.hosts.iter().enumerate().filter_map(|(h, host)| {
        let newest = match (&host.hard.record, &host.lost_record) {
            (Some(has), Some(had)) => Some(if has.rank() >= had.rank() { has } else { had }),
            (has, had) => has.as_ref().or(had.as_ref()),
        };
        Some((h, newest?))
    })
}

/// Whether the newest record on a host's disk has taken effect. A half of a pair with fence devices writes down that
/// it goes on alone while the other one still lives and may assent; before that one does, or is off, it is nothing.
pub fn took_effect(world: &World, h: usize) -> bool {
    let disk = &world.hosts[h].hard;
    let alone = disk.record.as_ref().is_some_and(|record| record.members.len() == 1);
    !(world.shape.is_pair() && world.shape.fence && alone)
        || disk.alone_since == disk.record.as_ref().map(InSyncRecord::rank)
}

/// Every record that may decide who is elected: the newest one that a quorum has, and any newer one.
pub fn deciding_records(world: &World) -> impl Iterator<Item = &InSyncRecord> {
    let decided = newest_record(world);
    let known = records(world).map(|(_, record)| record);
    known
        .filter(move |record| decided.is_some_and(|decided| record.rank() >= decided.rank()))
        // It may be on no disk any more, while the next one is not decided.
        .chain(decided)
}

/// The host on whose disks this very member is, if it is on any.
pub fn host_of(world: &World, member: &Member) -> Option<usize> {
    world.hosts.iter().position(|host| {
        host.name == member.id.as_str()
            && host.log_incarnation.or(host.state_incarnation) == Some(member.incarnation)
    })
}
