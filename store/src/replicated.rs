//! Where the store meets the replicated log: the machine that it drives, and its reader.
//!
//! It translates and decides nothing; beside it only [`crate::space`] knows the types of
//! `holdfast-replication`.

use std::sync::Arc;

use bytes::Bytes;
use holdfast_heartbeat::types::Lsn;
use holdfast_replication::replica::{ApplyError, Committed, StateMachine};
use holdfast_replication::{LogError, LogReader, RecordKind};

use crate::apply::Outcome;
use crate::backend::{FileRange, Held, ReadError, ReadLog};
use crate::checkpoint;
use crate::machine::{Entry, Machine};

impl StateMachine for Machine {
    type Outcome = Outcome;

    fn applied(&self) -> Lsn {
        self.applied_lsn()
    }

    fn apply(&mut self, batch: &[Committed<'_>]) -> Result<Vec<Outcome>, ApplyError> {
        let entries = batch.iter().map(|record| Entry {
            lsn: record.lsn,
            end: record.end,
            epoch: record.epoch,
            op: (record.kind == RecordKind::Op).then_some(record.payload),
        });
        self.apply_entries(entries).map_err(|e| ApplyError(e.to_string()))
    }

    fn restore(&mut self, as_of: Lsn, batch: &[Committed<'_>], last: bool) -> Result<(), ApplyError> {
        let mut entries = Vec::new();
        for record in batch.iter().filter(|record| record.kind == RecordKind::Checkpoint) {
            let (of, part) = checkpoint::decode(record.payload).ok_or_else(|| {
                ApplyError(format!("the checkpoint record at LSN {} is not of this release", record.lsn))
            })?;
            if of == as_of {
                entries.extend(part);
            }
        }
        self.restore_entries(as_of, entries, last).map_err(|e| ApplyError(e.to_string()))
    }

    fn reset(&mut self) -> Result<(), ApplyError> {
        self.forget_all().map_err(|e| ApplyError(e.to_string()))
    }
}

impl ReadLog for LogReader {
    fn hold(&self) -> Held {
        Arc::new(LogReader::hold(self))
    }

    fn read_slice(&self, lsn: Lsn, offset: u32, len: u32) -> Result<Bytes, ReadError> {
        LogReader::read_slice(self, lsn, offset, len).map_err(unread)
    }

    fn file_range(&self, lsn: Lsn, offset: u32, len: u32) -> Result<Option<FileRange>, ReadError> {
        let found = LogReader::file_range(self, lsn, offset, len).map_err(unread)?;
        Ok(found.map(|range| FileRange { file: range.file, offset: range.offset, len: range.len }))
    }
}

fn unread(error: LogError) -> ReadError {
    match error {
        LogError::Io { .. } | LogError::Poisoned(_) => ReadError::Io(error.to_string()),
        // The index names only what was committed: whatever else is wrong, the bytes are not there.
        _ => ReadError::Damaged(error.to_string()),
    }
}
