//! What only somebody knows who sees every disk at once.

use holdfast_heartbeat::{InSyncRecord, Member};

use crate::sim::world::World;

/// More than half of the voters.
pub fn majority(world: &World) -> usize {
    world.hosts.len() / 2 + 1
}

/// The newest in-sync record that is on the disks of a majority; in a pair, where either decides alone, the
/// newest on any disk.
pub fn newest_record(world: &World) -> Option<&InSyncRecord> {
    let needed = if world.shape.is_pair() { 1 } else { majority(world) };
    let mut newest: Option<&InSyncRecord> = None;
    for record in records(world) {
        let holders = records(world).filter(|other| other.rank() >= record.rank());
        if holders.count() >= needed && newest.is_none_or(|known| known.rank() < record.rank()) {
            newest = Some(record);
        }
    }
    newest
}

/// The newest record that each host's disk has, or had before it was lost: whoever voted with a record that
/// is gone now has voted with it all the same.
fn records(world: &World) -> impl Iterator<Item = &InSyncRecord> {
    world.hosts.iter().filter_map(|host| match (&host.hard.record, &host.lost_record) {
        (Some(has), Some(had)) => Some(if has.rank() >= had.rank() { has } else { had }),
        (has, had) => has.as_ref().or(had.as_ref()),
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
    let newest = newest_record(world).map(InSyncRecord::rank);
    records(world).filter(move |record| newest.is_some_and(|rank| record.rank() >= rank))
}

/// The host on whose disks this very member is, if it is on any.
pub fn host_of(world: &World, member: &Member) -> Option<usize> {
    world.hosts.iter().position(|host| {
        host.name == member.id.as_str()
            && host.log_incarnation.or(host.state_incarnation) == Some(member.incarnation)
    })
}
