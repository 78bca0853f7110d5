//! Feeding committed records to the state machine, in order, once, in bounded steps.

use holdfast_heartbeat::planted;

use super::{Committed, Out, Replica, Role, StateMachine};
use crate::disk::Disk;
use crate::log::Record;

/// Most records in one batch: bounds the time of one atomic step of the index.
const BATCH_RECORDS: usize = 1024;

/// Most payload bytes in one batch, counted before the last record is added.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// Most batches per flush: a long replay must not hold up acknowledgements.
const BATCHES_PER_FLUSH: usize = 16;

impl<D: Disk, M: StateMachine, R> Replica<D, M, R> {
    pub(super) fn apply_committed(&mut self, out: &mut Out<R, M>) {
        for _ in 0..BATCHES_PER_FLUSH {
            match self.apply_batch(out) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => return self.fail(error, out),
            }
        }
    }

    /// Applies one batch; says whether there was anything to apply.
    fn apply_batch(&mut self, out: &mut Out<R, M>) -> Result<bool, String> {
        // What is not durable here may be told committed by a peer, but could still be lost here.
        let mut upto = self.committed.min(self.log.durable());
        if planted::is("answers-before-committed") {
            upto = self.log.durable();
        }
        let mut at = self.machine.applied();
        let mut records: Vec<Record> = Vec::new();
        let mut bytes = 0;
        while at < upto && records.len() < BATCH_RECORDS && bytes < BATCH_BYTES {
            let record = self.reader.read_for_apply(at).map_err(|error| {
                self.note_damage(&error);
                error.to_string()
            })?;
            if record.end > upto {
                break;
            }
            at = record.end;
            bytes += record.payload.len();
            records.push(record);
        }
        if records.is_empty() {
            return Ok(false);
        }
        let batch: Vec<Committed<'_>> = records
            .iter()
            .map(|r| Committed { lsn: r.lsn, end: r.end, epoch: r.epoch, kind: r.kind, payload: &r.payload })
            .collect();
        let outcomes = self.machine.apply(&batch).map_err(|e| e.to_string())?;
        assert_eq!(outcomes.len(), records.len(), "one outcome per record");
        assert_eq!(self.machine.applied(), at, "the batch and `applied` advance together");
        if let Role::Leading(leading) = &mut self.role {
            for (record, outcome) in records.iter().zip(outcomes) {
                leading.answer(record.lsn, record.end, outcome, out);
            }
        }
        Ok(true)
    }
}
