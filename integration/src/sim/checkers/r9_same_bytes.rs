//! R9: replicas are byte-identical up to the committed LSN where both have the bytes, and the same log makes
//! the same index, from its beginning or from a checkpoint.

use holdfast_heartbeat::{Lsn, MemberKind};
use holdfast_replication::Record;
use holdfast_replication::replica::{Committed, StateMachine};
use holdfast_store::index::Index;
use holdfast_store::machine::Machine;

use crate::sim::world::World;
use crate::sim::world::life::LogThread;

/// Compares all running data members with each other. `damaged`: a host whose disk was made to lie; what
/// it has is only compared as far as it can be read.
pub fn compare(world: &World, damaged: Option<usize>) -> Result<(), String> {
    let logs: Vec<_> = world
        .hosts
        .iter()
        .enumerate()
        .filter(|(_, host)| host.kind == MemberKind::Data)
        .filter_map(|(h, host)| Some((h, host.life.as_ref()?.log.as_ref()?)))
        .collect();
    for (h, log) in logs.iter().filter(|_| damaged.is_none()) {
        rebuild(log).map_err(|what| format!("{}: {what}", world.hosts[*h].name))?;
    }
    let Some(((first, reference), others)) = logs.split_first() else { return Ok(()) };
    for (h, log) in &logs {
        let status = log.engine.status();
        if status.applied > status.committed {
            return Err(format!(
                "the index of {} has what is in the log before LSN {}, of which {} is committed",
                world.hosts[*h].name, status.applied, status.committed
            ));
        }
    }
    for (h, log) in others {
        let names = (&world.hosts[*first].name, &world.hosts[*h].name);
        let (a, b) = (reference.engine.status(), log.engine.status());
        let common = a.committed.min(b.committed);
        let mut at = Lsn::ZERO;
        while at < common {
            let gone = [&reference.reader, &log.reader].into_iter().filter_map(|reader| reader.hole_at(at));
            if let Some(next) = gone.map(|(_, to)| to).max() {
                at = next;
                continue;
            }
            let read = |reader: &holdfast_replication::LogReader| reader.read_run(at, 64 << 10);
            match (read(&reference.reader), read(&log.reader)) {
                (Ok(mine), Ok(theirs)) => {
                    let len = mine.len().min(theirs.len()).min(common.bytes_since(at) as usize);
                    if mine[..len] != theirs[..len] {
                        return Err(format!("the logs of {} and {} differ after LSN {at}", names.0, names.1));
                    }
                    at += len as u64;
                }
                _ if damaged == Some(*h) || damaged == Some(*first) => break,
                (mine, theirs) => {
                    let error = mine.err().or(theirs.err()).map(|error| error.to_string());
                    return Err(format!("the logs of {} and {} at LSN {at}: {error:?}", names.0, names.1));
                }
            }
        }
        if a.applied == b.applied && damaged.is_none() {
            let digest = |index: &holdfast_store::index::Index| {
                index.digest().expect("an index in memory is readable")
            };
            if digest(&reference.index) != digest(&log.index) {
                return Err(format!(
                    "the indexes of {} and {} differ at LSN {}",
                    names.0, names.1, a.applied
                ));
            }
        }
    }
    Ok(())
}

/// Makes the index once more from the log alone, and compares.
fn rebuild(log: &LogThread) -> Result<(), String> {
    let (applied, checkpoint) = (log.engine.status().applied, log.engine.log().checkpoint());
    if applied < checkpoint.as_of || log.reader.log_id() == 0 {
        // A copy that is under way, or none.
        return Ok(());
    }
    let index = Index::in_memory();
    let mut machine = Machine::new(index.clone()).map_err(|e| e.to_string())?;
    for (from, to, restoring) in [(checkpoint.from, checkpoint.to, true), (checkpoint.as_of, applied, false)]
    {
        let mut at = from;
        while at < to {
            let record = log.reader.read_for_apply(at, restoring).map_err(|e| e.to_string())?;
            let Record { lsn, end, kind, epoch, payload } = &record;
            let batch = [Committed { lsn: *lsn, end: *end, epoch: *epoch, kind: *kind, payload }];
            if restoring {
                machine.restore(checkpoint.as_of, &batch, *end == to).map_err(|e| e.to_string())?;
            } else {
                machine.apply(&batch).map_err(|e| e.to_string())?;
            }
            at = *end;
        }
    }
    let digest = |index: &Index| index.digest().expect("an index in memory is readable");
    if digest(&index) != digest(&log.index) {
        return Err(format!("the index as of LSN {applied} is not what its log makes, {checkpoint:?}"));
    }
    Ok(())
}
