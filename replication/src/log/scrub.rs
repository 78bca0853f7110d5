//! Checking what lies on the disk, piece by piece, and putting right what changed there.
//!
//! A replacement is taken only if it continues the bytes before it: the rolling checksum is followed from
//! the segment's beginning, so whoever sends other bytes than were written is found out.

use holdfast_heartbeat::{Epoch, Lsn};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::reader::{damaged, follow_run, misplaced};
use super::{Log, LogError, LogReader, is_full};
use crate::disk::Disk;
use crate::record::{HEADER_LEN, Position};
use crate::segment::{SEGMENT_HEADER_LEN, SegmentHeader, file_name};

/// The SHA-256 of a range of the log, whole records, verbatim. Replicas have the same bytes (rule R9), so they have the
/// same sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RangeSum {
    /// Where the first record begins.
    pub from: Lsn,
    /// Where the last one ends.
    pub to: Lsn,
    /// The hash of the bytes between.
    pub sha256: [u8; 32],
}

/// How far a check has come.
#[derive(Clone, Debug)]
pub struct Walk {
    at: Position,
    /// Where the summing began: with the segment.
    from: Lsn,
    bytes: Sha256,
}

impl Walk {
    fn begin(at: Position) -> Walk {
        Walk { at, from: at.lsn, bytes: Sha256::new() }
    }

    /// Everything before was as it was written.
    pub fn lsn(&self) -> Lsn {
        self.at.lsn
    }

    /// Where the segment begins that it is in.
    pub fn segment(&self) -> Lsn {
        self.from
    }

    /// The sum of what was read of this segment.
    pub fn sum(&self) -> RangeSum {
        RangeSum { from: self.from, to: self.at.lsn, sha256: self.bytes.clone().finalize().into() }
    }
}

impl LogReader {
    /// A check that begins with the first segment that does not begin before `from`; `None` behind the
    /// last one.
    pub fn walk_from(&self, from: Lsn) -> Result<Option<Walk>, LogError> {
        let bases = self.segments();
        let Some(base) = bases.get(bases.partition_point(|base| *base < from)) else { return Ok(None) };
        self.segment_header(*base).map(|header| Some(Walk::begin(header.at)))
    }

    /// Checks about `max` bytes more: checksums, their order, the chain, and the segments' own headers. The
    /// answer is `None` at the end of what is durable. Each segment is summed for itself: with the first step behind it
    /// the sum begins anew.
    pub fn walk_on(&self, walk: &Walk, max: usize) -> Result<Option<Walk>, LogError> {
        let at = walk.at;
        if let Some((_, next)) = self.hole_at(at.lsn) {
            return self.walk_from(next);
        }
        if at.lsn >= self.durable() {
            return Ok(None);
        }
        let begins = self.segments().binary_search(&at.lsn).is_ok();
        if begins && self.segment_header(at.lsn)?.at != at {
            return Err(misplaced(at.lsn));
        }
        let run = self.read_run(at.lsn, max)?;
        let mut next = if begins { Walk::begin(at) } else { walk.clone() };
        (next.at, _) = follow_run(at, &run)?;
        next.bytes.update(&run);
        Ok(Some(next))
    }

    /// The sum of the records from `from`, where a segment begins, to `to`, where a record of it ends or the segment does.
    /// Reads about `max` bytes at a time, and has `pace` told of each piece.
    pub fn sum_of(
        &self,
        (from, to): (Lsn, Lsn),
        max: usize,
        pace: &mut dyn FnMut(u64),
    ) -> Result<RangeSum, LogError> {
        let outside = || LogError::OutOfRange { lsn: to, end: self.durable() };
        let mut walk = self.walk_from(from)?.filter(|walk| walk.lsn() == from).ok_or_else(outside)?;
        while walk.lsn() < to {
            let left = usize::try_from(to.bytes_since(walk.lsn())).unwrap_or(usize::MAX);
            let next = self.walk_on(&walk, max.min(left))?.ok_or_else(outside)?;
            if next.from != from || next.lsn() > to {
                return Err(outside());
            }
            pace(next.lsn().bytes_since(walk.lsn()));
            walk = next;
        }
        Ok(walk.sum())
    }

    /// Where the log stands at `lsn`, by the headers of the records before it in its segment.
    fn position_by_headers(&self, base: Lsn, lsn: Lsn) -> Result<Position, LogError> {
        let mut at = self.segment_header(base)?.at;
        while at.lsn < lsn {
            let header = self.header(at.lsn)?;
            if header.chain != at.chain {
                let detail = "the record continues other bytes than come before it".into();
                return Err(LogError::Damaged { lsn: at.lsn, detail });
            }
            let epoch_start = if header.epoch == at.epoch { at.epoch_start } else { header.lsn };
            at =
                Position { lsn: header.end(), chain: header.chain_after(), epoch: header.epoch, epoch_start };
        }
        if at.lsn == lsn { Ok(at) } else { Err(damaged(lsn, crate::record::RecordError::NotARecord)) }
    }
}

impl<D: Disk> Log<D> {
    /// Whether the record at `lsn`, and the header of the segment that it begins, are as they were written.
    pub fn is_sound_at(&self, lsn: Lsn) -> bool {
        let reader = self.reader();
        let begins = reader.segments().binary_search(&lsn).is_ok();
        (!begins || reader.segment_header(lsn).is_ok()) && reader.read(lsn).is_ok()
    }

    /// Writes a segment's header anew where the one on the disk is damaged: all that it says is also said
    /// elsewhere.
    pub fn mend_segment_header(&mut self, base: Lsn) -> Result<(), LogError> {
        self.usable()?;
        let reader = self.reader();
        if reader.segments().binary_search(&base).is_err() || reader.segment_header(base).is_ok() {
            return Ok(());
        }
        let chain = if base == self.tail.lsn { self.tail.chain } else { reader.header(base)?.chain };
        let before = self.history.starts().iter().rev().find(|(_, start)| *start < base);
        let (epoch, epoch_start) = before.copied().unwrap_or((Epoch::ZERO, Lsn::ZERO));
        let at = Position { lsn: base, chain, epoch, epoch_start };
        let header = SegmentHeader { log_id: self.log_id, segment_size: self.segment_size, at };
        self.overwrite(base, 0, &header.encode())
    }

    /// Puts whole records, as another replica has them, in the place of what changed on this disk from
    /// `lsn` on. Returns where they end.
    pub fn replace(&mut self, lsn: Lsn, bytes: &[u8]) -> Result<Lsn, LogError> {
        self.usable()?;
        let reader = self.reader();
        let (base, end) = reader.locate(lsn)?;
        let mut at = reader.position_by_headers(base, lsn)?;
        let (mut rest, mut whole) = (bytes, 0);
        while rest.len() >= HEADER_LEN {
            let (header, payload) =
                crate::record::parse(rest).map_err(|error| LogError::NotARecord { lsn: at.lsn, error })?;
            let next = at.follow(&header, payload)?;
            if next.lsn > end || next.lsn > self.durable {
                break;
            }
            at = next;
            whole += header.record_len() as usize;
            rest = &rest[header.record_len() as usize..];
        }
        if whole == 0 {
            let error = crate::record::RecordError::Short;
            return Err(LogError::NotARecord { lsn, error });
        }
        self.overwrite(base, SEGMENT_HEADER_LEN + lsn.bytes_since(base), &bytes[..whole])?;
        Ok(at.lsn)
    }

    fn overwrite(&mut self, base: Lsn, offset: u64, bytes: &[u8]) -> Result<(), LogError> {
        let doing = "writing what was healed";
        let written = self.disk.open(&file_name(base)).and_then(|file| {
            file.write_at(bytes, offset)?;
            file.sync_data()
        });
        match written {
            Ok(()) => Ok(()),
            Err(error) if is_full(&error) => Err(LogError::Full),
            Err(source) => Err(LogError::Io { doing, source }),
        }
    }
}
