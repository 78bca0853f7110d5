//! Feeding committed records to the state machine, in order, once, in bounded steps: where earlier ones
//! are gone, behind the checkpoint that stands for them.

use holdfast_heartbeat::{Epoch, Lsn, planted};

use super::{ApplyError, Committed, Out, Replica, Role, StateMachine};
use crate::disk::Disk;
use crate::log::{LogError, Record};
use crate::record::RecordKind;
use crate::space::Retirement;

/// Most records in one batch: bounds the time of one atomic step of the index.
const BATCH_RECORDS: usize = 1024;

/// Most payload bytes in one batch, counted before the last record is added.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// Most batches per flush: a long replay must not hold up acknowledgements.
const BATCHES_PER_FLUSH: usize = 16;

/// Why a batch was not applied.
enum Trouble {
    /// What is next cannot be read from the disk.
    Unreadable(LogError),
    Other(String),
}

impl From<ApplyError> for Trouble {
    fn from(error: ApplyError) -> Trouble {
        Trouble::Other(error.to_string())
    }
}

impl<D: Disk, M: StateMachine, R> Replica<D, M, R> {
    pub(super) fn apply_committed(&mut self, out: &mut Out<R, M>) {
        for _ in 0..BATCHES_PER_FLUSH {
            match self.apply_batch(out) {
                Ok(true) => {}
                Ok(false) => break,
                Err(Trouble::Unreadable(error)) => return self.heal_for_apply(error, out),
                Err(Trouble::Other(error)) => return self.fail(error, out),
            }
        }
    }

    /// Whether committed records wait to be applied, and can be.
    pub(super) fn has_to_apply(&self) -> bool {
        let (applied, upto) = (self.machine.applied(), self.applicable());
        self.apply_waits.is_none()
            && applied < upto
            && (applied >= self.log.checkpoint().as_of || self.log.checkpoint().to <= upto)
    }

    /// How far records may be applied: what is not durable here may be told committed by a peer, but could
    /// still be lost here.
    fn applicable(&self) -> Lsn {
        if planted::is("answers-before-committed") {
            return self.log.durable();
        }
        self.committed.min(self.log.durable())
    }

    /// Records from `at` on, as many as one batch takes, all of them before `upto`.
    fn read_batch(&self, mut at: Lsn, upto: Lsn, restoring: bool) -> Result<Vec<Record>, Trouble> {
        let mut records: Vec<Record> = Vec::new();
        let mut bytes = 0;
        while at < upto && records.len() < BATCH_RECORDS && bytes < BATCH_BYTES {
            let record = self.reader.read_for_apply(at, restoring).map_err(Trouble::Unreadable)?;
            if record.end > upto {
                break;
            }
            at = record.end;
            bytes += record.payload.len();
            let retires = record.kind == RecordKind::Retire;
            records.push(record);
            if retires {
                break;
            }
        }
        Ok(records)
    }

    /// Applies one batch; says whether there was anything to apply.
    fn apply_batch(&mut self, out: &mut Out<R, M>) -> Result<bool, Trouble> {
        if !self.has_to_apply() {
            return Ok(false);
        }
        let applied = self.machine.applied();
        if applied < self.log.checkpoint().as_of {
            return self.restore_batch();
        }
        let records = self.read_batch(applied, self.applicable(), false)?;
        let Some(last) = records.last() else { return Ok(false) };
        let at = last.end;
        if last.kind == RecordKind::Retire {
            let (epoch, payload) = (last.epoch, last.payload.clone());
            self.retire(epoch, &payload).map_err(Trouble::Other)?;
        }
        let outcomes = self.machine.apply(&committed(&records))?;
        assert_eq!(outcomes.len(), records.len(), "one outcome per record");
        assert_eq!(self.machine.applied(), at, "the batch and `applied` advance together");
        if let Role::Leading(leading) = &mut self.role {
            for (record, outcome) in records.iter().zip(outcomes) {
                leading.answer(record.lsn, record.end, outcome, out);
            }
        }
        Ok(true)
    }

    /// Takes in part of the checkpoint that the state machine begins with.
    fn restore_batch(&mut self) -> Result<bool, Trouble> {
        let checkpoint = self.log.checkpoint();
        let from = match self.restoring {
            Some(at) if at >= checkpoint.from => at,
            _ => {
                self.machine.reset()?;
                checkpoint.from
            }
        };
        let records = self.read_batch(from, checkpoint.to, true)?;
        let at = records.last().map_or(checkpoint.to, |last| last.end);
        let last = at >= checkpoint.to;
        self.machine.restore(checkpoint.as_of, &committed(&records), last)?;
        self.restoring = (!last).then_some(at);
        if last {
            assert_eq!(self.machine.applied(), checkpoint.as_of, "a restored checkpoint is applied");
        }
        Ok(true)
    }

    /// Gives up what the record says. A disk that is full keeps it: the next one names it again.
    fn retire(&mut self, epoch: Epoch, payload: &[u8]) -> Result<(), String> {
        let Some(retirement) = Retirement::decode(payload) else {
            return Err("a retirement in the log makes no sense".into());
        };
        if retirement.epoch != epoch {
            return Ok(());
        }
        match self.log.retire(&retirement) {
            Ok(bytes) => {
                tracing::info!(node = %self.me, bytes, "space of the log was won back");
                Ok(())
            }
            Err(LogError::Full) => {
                tracing::warn!(node = %self.me, "the disk is full: what the log gave up stays for now");
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        }
    }
}

fn committed(records: &[Record]) -> Vec<Committed<'_>> {
    records
        .iter()
        .map(|r| Committed { lsn: r.lsn, end: r.end, epoch: r.epoch, kind: r.kind, payload: &r.payload })
        .collect()
}
