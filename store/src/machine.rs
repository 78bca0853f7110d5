//! The state machine that the replicated log drives: committed records become one atomic change of
//! the index.
//!
//! It decides nothing about what is committed, and never touches the log. Invariant: the index and
//! its applied LSN advance together, and a batch is applied wholly or not at all.

use holdfast_heartbeat::types::{Epoch, Lsn};

use crate::apply::{ApplyFailed, Outcome, Place, Staged, apply};
use crate::index::{Change, Entry as IndexEntry, Index, IndexError, Lookup};
use crate::keys;
use crate::op::Op;

/// A committed record as the store sees it.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// Where the record begins.
    pub lsn: Lsn,
    /// Where it ends.
    pub end: Lsn,
    /// The epoch in which it was appended.
    pub epoch: Epoch,
    /// The payload of an operation record; `None` for every other kind.
    pub op: Option<&'a [u8]>,
}

/// Applies committed records to the index.
pub struct Machine {
    index: Index,
    applied: Lsn,
}

impl Machine {
    /// A machine that goes on where the index ended.
    pub fn new(index: Index) -> Result<Machine, IndexError> {
        let applied = index.view().applied()?;
        Ok(Machine { index, applied })
    }

    /// The end of the last applied record.
    pub fn applied_lsn(&self) -> Lsn {
        self.applied
    }

    /// Applies a batch: one outcome for each entry, in order. On an error nothing of it was applied.
    pub fn apply_entries<'a>(
        &mut self,
        batch: impl Iterator<Item = Entry<'a>>,
    ) -> Result<Vec<Outcome>, ApplyFailed> {
        let view = self.index.view();
        let mut state = Staged::over(&view);
        let mut outcomes = Vec::new();
        let mut end = self.applied;
        for entry in batch {
            end = entry.end;
            let Some(payload) = entry.op else {
                outcomes.push(Outcome::Nothing);
                continue;
            };
            let (op, inline_at) =
                Op::decode(payload).map_err(|error| ApplyFailed::BadOp { lsn: entry.lsn, error })?;
            let inline_len = payload.len() as u32 - inline_at;
            let place = Place { lsn: entry.lsn, epoch: entry.epoch, inline_at, inline_len };
            outcomes.push(apply(&mut state, place, &op)?);
        }
        if outcomes.is_empty() {
            return Ok(outcomes);
        }
        state.set_applied(end);
        let changes = state.into_changes();
        drop(view);
        self.index.write(changes)?;
        self.applied = end;
        Ok(outcomes)
    }

    /// Takes in entries of a checkpoint as of `as_of`; with the `last` of them the machine stands there.
    pub fn restore_entries(
        &mut self,
        as_of: Lsn,
        entries: Vec<IndexEntry>,
        last: bool,
    ) -> Result<(), IndexError> {
        let mut changes: Vec<Change> = entries.into_iter().map(|(key, value)| (key, Some(value))).collect();
        if last {
            changes.push((keys::APPLIED.to_vec(), Some(as_of.0.to_be_bytes().to_vec())));
        }
        self.index.write(changes)?;
        if last {
            self.applied = as_of;
        }
        Ok(())
    }

    /// Forgets everything; the log will be replayed from its beginning.
    pub fn forget_all(&mut self) -> Result<(), IndexError> {
        self.index.reset()?;
        self.applied = Lsn::ZERO;
        Ok(())
    }
}
