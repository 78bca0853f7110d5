//! The log of one data member: what is appended, what is durable, where it ends.
//!
//! One owner writes; any number of [`LogReader`]s read. The log checks that every record continues
//! the bytes before it (position, rolling checksum, epoch), rolls segment files by a rule that
//! depends on the records alone, and tells a torn tail from damage when it is opened. It never
//! decides what is committed, and never drops a byte that was not set aside first.
//!
//! Invariants: `durable <= end`; the files hold exactly the records in `0..end` once an operation
//! has returned, whether it succeeded or not, unless the log is poisoned; a poisoned log (a sync
//! failed, so nobody knows what is on the disk) never again says that anything is durable.

mod gaps;
mod map;
mod mark;
mod reader;
mod recovery;
mod scrub;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

use holdfast_heartbeat::{Epoch, Lsn, planted};

pub use self::gaps::Gap;
use self::map::Map;
use self::mark::{Mark, MarkFile};
use self::reader::Shared;
pub use self::reader::{FileRange, Hold, LogReader, Record, Verified};
pub use self::recovery::{OpenOptions, Recovery};
pub use self::scrub::{RangeSum, Walk};
use crate::disk::{Disk, DiskFile};
use crate::history::EpochHistory;
use crate::record::{HEADER_LEN, Header, MAX_PAYLOAD, Position, RecordError, RecordKind, SequenceError};
use crate::segment::{SEGMENT_HEADER_LEN, SegmentHeader, file_name, fits};
use crate::set_aside::{self, Archive, Cause, Request, Sink};

/// Bytes read at a time where a range is copied or scanned.
const COPY_CHUNK: usize = 1024 * 1024;

/// What the log cannot do, sorted by what is to be done about it.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Free some space and try again; the log is unchanged and goes on serving.
    #[error("the disk is full; nothing of this record was stored and everything before it is intact")]
    Full,
    /// Restart the process on a sound disk: after a failed sync nobody knows what is stored.
    #[error("the log is out of service since an I/O error: {0}")]
    Poisoned(String),
    /// A read failed; it may be tried again.
    #[error("{doing} failed: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Stored bytes changed. Heal from the peer; never cut silently.
    #[error("the log is damaged at LSN {lsn}: {detail}")]
    Damaged {
        /// The first bad position.
        lsn: Lsn,
        /// What is wrong there.
        detail: String,
    },
    /// Written by a newer version of this software: do not touch it with this one.
    #[error("the log was written by a newer version of this software: {0}")]
    TooNew(String),
    /// Whoever handed these bytes in made a mistake: not a record.
    #[error("not a record at LSN {lsn}: {error}")]
    NotARecord {
        /// Where it should have begun.
        lsn: Lsn,
        /// What is wrong with it.
        error: RecordError,
    },
    /// Whoever handed this record in made a mistake: it does not belong here.
    #[error(transparent)]
    OutOfSequence(#[from] SequenceError),
    /// The caller's payload exceeds [`MAX_PAYLOAD`].
    #[error("a payload of {0} bytes exceeds the limit of {MAX_PAYLOAD}")]
    TooLarge(usize),
    /// The caller asked for a position that the log does not have.
    #[error("LSN {lsn} is outside the log, which ends at {end}")]
    OutOfRange {
        /// The position.
        lsn: Lsn,
        /// The log's end.
        end: Lsn,
    },
    /// The bytes are gone: whoever still needs what was in them finds it at the tail, or in a checkpoint.
    #[error(
        "LSN {lsn} lies in a part of the log that was given up to win back space; the log goes on at {next}"
    )]
    Gone {
        /// The position.
        lsn: Lsn,
        /// Where the hole ends.
        next: Lsn,
    },
    /// The caller must give the log an identity first, and only once.
    #[error("the log has identity {0:016x} (0 is none), which does not allow this")]
    Identity(u64),
    /// The caller must set the tail aside before cutting it.
    #[error("the bytes from LSN {0} on were not set aside")]
    NotSetAside(Lsn),
}

impl LogError {
    /// Whether more space would help.
    pub fn is_full(&self) -> bool {
        matches!(self, LogError::Full)
    }
}

fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// After this many syncs in a row that found nothing committed ahead of this disk, the log no
/// longer counts as behind. Going behind costs a sync of its own, so the flag must not flap.
const CALM_SYNCS: u32 = 64;

/// The segment that is being written.
struct Active {
    base: Lsn,
    file: Arc<dyn DiskFile>,
}

/// The log. See the module's documentation.
pub struct Log<D: Disk> {
    disk: Arc<D>,
    shared: Arc<Shared>,
    log_id: u64,
    segment_size: u64,
    tail: Position,
    active: Option<Active>,
    durable: Lsn,
    /// The chain at `durable`.
    durable_chain: u32,
    committed: Lsn,
    history: EpochHistory,
    /// What is gone, and what a replay begins with since.
    map: Map,
    mark: MarkFile,
    /// See [`Mark::behind`].
    behind: bool,
    calm_syncs: u32,
    poisoned: Option<String>,
    /// Where records are put together, kept for its capacity.
    buffer: Vec<u8>,
}

impl<D: Disk> std::fmt::Debug for Log<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log")
            .field("tail", &self.tail)
            .field("durable", &self.durable)
            .finish_non_exhaustive()
    }
}

impl<D: Disk> Log<D> {
    /// Opens the log in `disk`, or an empty one without identity. `segment_size` (bytes of records
    /// per file) counts only when the log is founded; an existing one keeps its own.
    pub fn open(disk: D, segment_size: u64) -> Result<(Log<D>, Recovery), LogError> {
        Self::open_with(disk, OpenOptions { segment_size, ..OpenOptions::default() })
    }

    /// The log's identity, the same on all replicas; zero while it has none.
    pub fn log_id(&self) -> u64 {
        self.log_id
    }

    /// Bytes of records per segment file.
    pub fn segment_size(&self) -> u64 {
        self.segment_size
    }

    /// Where the next record will begin.
    pub fn end(&self) -> Lsn {
        self.tail.lsn
    }

    /// Below here everything is on this disk.
    pub fn durable(&self) -> Lsn {
        self.durable
    }

    /// The greatest LSN known to be committed: noted by the owner, or found in a record's header.
    pub fn known_committed(&self) -> Lsn {
        self.committed
    }

    /// The epoch of the last record, zero for an empty log.
    pub fn last_epoch(&self) -> Epoch {
        self.tail.epoch
    }

    /// The reigns in this log.
    pub fn history(&self) -> &EpochHistory {
        &self.history
    }

    /// The rolling checksum of all bytes.
    pub fn chain_at_end(&self) -> u32 {
        self.tail.chain
    }

    /// The rolling checksum of the bytes before `lsn`, which must stand between two records.
    pub fn chain_at(&self, lsn: Lsn) -> Result<u32, LogError> {
        if lsn == self.tail.lsn {
            return Ok(self.tail.chain);
        }
        self.reader().chain_before(lsn)
    }

    /// How many segment files there are.
    pub fn segment_count(&self) -> usize {
        self.shared.segment_count()
    }

    /// Why the log is out of service, if it is.
    pub fn poisoned(&self) -> Option<&str> {
        self.poisoned.as_deref()
    }

    /// A handle for reading from any thread.
    pub fn reader(&self) -> LogReader {
        LogReader::new(self.shared.clone())
    }

    /// The disk underneath.
    pub fn disk(&self) -> &D {
        &self.disk
    }

    /// The archives of what left this log.
    pub fn archives(&self) -> Result<Vec<Archive>, LogError> {
        set_aside::list(&*self.disk)
            .map_err(|source| LogError::Io { doing: "listing what was set aside", source })
    }

    /// Checks every byte; see [`LogReader::verify`].
    pub fn verify(&self) -> Result<Verified, LogError> {
        self.reader().verify()
    }

    /// Gives an empty log its identity and its segment size, durably: drawn by the first primary,
    /// or taken over from it by a member that joins.
    pub fn found(&mut self, log_id: u64, segment_size: u64) -> Result<(), LogError> {
        self.usable()?;
        if self.log_id != 0 || log_id == 0 || segment_size == 0 {
            return Err(LogError::Identity(self.log_id));
        }
        self.log_id = log_id;
        self.segment_size = segment_size;
        self.tail = Position::origin(log_id);
        self.durable_chain = self.tail.chain;
        if let Err(error) = self.create_segment() {
            self.log_id = 0;
            return Err(error);
        }
        self.shared.set_log_id(log_id);
        Ok(())
    }

    /// Notes what is committed; records appended later say so, which lets recovery tell a torn tail
    /// from damage.
    pub fn note_committed(&mut self, committed: Lsn) {
        self.committed = self.committed.max(committed.min(self.tail.lsn));
    }

    /// Appends one record whose payload is `parts` in a row (behind the link, for an epoch start)
    /// and returns where it begins and ends. It is durable only after [`Log::sync`].
    pub fn append(
        &mut self,
        kind: RecordKind,
        epoch: Epoch,
        parts: &[&[u8]],
    ) -> Result<(Lsn, Lsn), LogError> {
        self.usable()?;
        let mut record = std::mem::take(&mut self.buffer);
        let result = self.append_in(&mut record, kind, epoch, parts);
        self.buffer = record;
        result
    }

    fn append_in(
        &mut self,
        record: &mut Vec<u8>,
        kind: RecordKind,
        epoch: Epoch,
        parts: &[&[u8]],
    ) -> Result<(Lsn, Lsn), LogError> {
        record.clear();
        record.resize(HEADER_LEN, 0);
        if kind == RecordKind::EpochStart {
            record.extend_from_slice(&self.tail.link().encode());
        }
        let len = record.len() - HEADER_LEN + parts.iter().map(|p| p.len()).sum::<usize>();
        if len > MAX_PAYLOAD {
            return Err(LogError::TooLarge(len));
        }
        for part in parts {
            record.extend_from_slice(part);
        }
        let payload = &record[HEADER_LEN..];
        let header = Header {
            kind,
            payload_len: u32::try_from(len).expect("bounded above"),
            chain: self.tail.chain,
            epoch,
            lsn: self.tail.lsn,
            committed: self.committed,
            payload_crc: crc32c::crc32c(payload),
        };
        let next = self.tail.follow(&header, payload)?;
        record[..HEADER_LEN].copy_from_slice(&header.encode());
        self.write_run(record, &[next])?;
        Ok((header.lsn, next.lsn))
    }

    /// Appends whole records as another replica wrote them. All are checked before any is written;
    /// if the disk fills up on the way, the log ends after the last one that was.
    pub fn append_verbatim(&mut self, lsn: Lsn, bytes: &[u8]) -> Result<Lsn, LogError> {
        self.append_verbatim_of(lsn, bytes, Epoch(u64::MAX))
    }

    /// As [`Log::append_verbatim`], for a sender that reigns in `epoch` and cannot hold later ones.
    pub(crate) fn append_verbatim_of(
        &mut self,
        lsn: Lsn,
        bytes: &[u8],
        epoch: Epoch,
    ) -> Result<Lsn, LogError> {
        self.usable()?;
        if lsn != self.tail.lsn {
            return Err(SequenceError::Lsn { expected: self.tail.lsn, found: lsn }.into());
        }
        let (mut rest, mut at, mut committed) = (bytes, self.tail, Lsn::ZERO);
        let mut ends = Vec::new();
        while !rest.is_empty() {
            let (header, payload) =
                crate::record::parse(rest).map_err(|error| LogError::NotARecord { lsn: at.lsn, error })?;
            if header.epoch > epoch {
                let (lsn, current, found) = (at.lsn, epoch, header.epoch);
                return Err(SequenceError::Epoch { lsn, current, found }.into());
            }
            at = at.follow(&header, payload)?;
            committed = committed.max(header.committed);
            ends.push(at);
            rest = &rest[header.record_len() as usize..];
        }
        if committed > self.durable {
            self.fall_behind()?;
        }
        self.write_run(bytes, &ends)?;
        self.note_committed(committed);
        Ok(self.tail.lsn)
    }

    /// Notes durably that records may say more to be committed than is durable here.
    fn fall_behind(&mut self) -> Result<(), LogError> {
        self.calm_syncs = 0;
        if self.behind {
            return Ok(());
        }
        self.behind = true;
        let mark = self.mark_at(self.durable, self.durable_chain);
        match self.mark.write_through(&*self.disk, mark) {
            Ok(()) => Ok(()),
            Err(error) if is_full(&error) => {
                self.behind = false;
                Err(LogError::Full)
            }
            Err(error) => Err(self.poison(error.to_string())),
        }
    }

    fn mark_at(&self, durable: Lsn, chain: u32) -> Mark {
        Mark { log_id: self.log_id, durable, chain, behind: self.behind }
    }

    /// Writes checked records; `ends` are the positions after each.
    fn write_run(&mut self, bytes: &[u8], ends: &[Position]) -> Result<(), LogError> {
        if self.log_id == 0 {
            return Err(LogError::Identity(0));
        }
        let (mut rest, mut ends) = (bytes, ends);
        while let Some(first) = ends.first() {
            let used = self.make_room(first.lsn.bytes_since(self.tail.lsn))?;
            let (from, mut count) = (self.tail.lsn, 0);
            let mut upto = from;
            while let Some(end) = ends.get(count) {
                if !fits(self.segment_size, used + upto.bytes_since(from), end.lsn.bytes_since(upto)) {
                    break;
                }
                upto = end.lsn;
                count += 1;
            }
            let (now, later) = rest.split_at(upto.bytes_since(from) as usize);
            self.write_at_tail(now, used)?;
            for end in &ends[..count] {
                if end.epoch_start >= from && end.epoch > self.history.last_epoch() {
                    self.history.push(end.epoch, end.epoch_start);
                }
            }
            self.tail = ends[count - 1];
            self.shared.set_end(self.tail.lsn);
            (rest, ends) = (later, &ends[count..]);
        }
        Ok(())
    }

    fn write_at_tail(&mut self, bytes: &[u8], used: u64) -> Result<(), LogError> {
        let active = self.active.as_ref().expect("make_room made one");
        let Err(error) = active.file.write_at(bytes, SEGMENT_HEADER_LEN + used) else { return Ok(()) };
        // Part of the bytes may be there: take them away, so that the file ends where the log does.
        if let Err(cut) = active.file.truncate(SEGMENT_HEADER_LEN + used) {
            return Err(self.poison(format!("{error}; then {cut}")));
        }
        if used == 0 && active.base > Lsn::ZERO && !self.shared.holes().ends_at(active.base) {
            self.drop_empty_segment()?;
        }
        if is_full(&error) { Err(LogError::Full) } else { Err(self.poison(error.to_string())) }
    }

    /// Makes sure that the active segment takes a record of `len` bytes; returns the bytes it holds.
    fn make_room(&mut self, len: u64) -> Result<u64, LogError> {
        let Some(active) = &self.active else {
            self.create_segment()?;
            return Ok(0);
        };
        let used = self.tail.lsn.bytes_since(active.base);
        if fits(self.segment_size, used, len) {
            return Ok(used);
        }
        // Only the last segment may ever have a torn end, so this one is finished first.
        if !planted::is("full-segment-not-synced")
            && let Err(error) = active.file.sync_data()
        {
            return Err(self.poison(error.to_string()));
        }
        self.create_segment()?;
        Ok(0)
    }

    /// Begins a segment at the tail, with its name and header durable before any record.
    fn create_segment(&mut self) -> Result<(), LogError> {
        let (base, file) = (self.tail.lsn, self.create_segment_file()?);
        self.shared.add_segment(base);
        self.active = Some(Active { base, file });
        Ok(())
    }

    fn create_segment_file(&mut self) -> Result<Arc<dyn DiskFile>, LogError> {
        let base = self.tail.lsn;
        let header = SegmentHeader { log_id: self.log_id, segment_size: self.segment_size, at: self.tail };
        let name = file_name(base);
        let written = self.disk.create(&name).and_then(|file| {
            file.write_at(&header.encode(), 0)?;
            Ok(file)
        });
        let file = match written {
            Ok(file) => file,
            Err(error) => {
                let removed = self.disk.remove(&name);
                let gone = removed.is_ok() || self.disk.open(&name).is_err();
                return Err(if is_full(&error) && gone {
                    LogError::Full
                } else {
                    self.poison(error.to_string())
                });
            }
        };
        if let Err(error) = file.sync_data().and_then(|()| self.disk.sync_dir("")) {
            return Err(self.poison(error.to_string()));
        }
        Ok(file)
    }

    /// Takes back a roll whose first record could not be written: a smaller record may still belong
    /// into the segment before, and replicas' files must not differ.
    fn drop_empty_segment(&mut self) -> Result<(), LogError> {
        let mut bases = self.shared.segments();
        let gone = bases.pop().expect("the active segment is listed");
        let before = *bases.last().expect("no hole ends here, so there is one");
        let reopened = self
            .disk
            .remove(&file_name(gone))
            .and_then(|()| self.disk.sync_dir(""))
            .and_then(|()| self.disk.open(&file_name(before)));
        match reopened {
            Ok(file) => {
                self.shared.set_segments(bases);
                self.active = Some(Active { base: before, file });
                Ok(())
            }
            Err(error) => Err(self.poison(error.to_string())),
        }
    }

    /// Makes everything appended so far durable and returns the end of it.
    pub fn sync(&mut self) -> Result<Lsn, LogError> {
        self.usable()?;
        if self.durable < self.tail.lsn {
            let active = self.active.as_ref().expect("records are in a segment");
            if !planted::is("sync-skipped")
                && let Err(error) = active.file.sync_data()
            {
                return Err(self.poison(error.to_string()));
            }
            self.durable = self.tail.lsn;
            self.durable_chain = self.tail.chain;
            self.shared.set_durable(self.durable);
            self.calm_syncs = self.calm_syncs.saturating_add(1);
            if self.behind {
                self.behind = self.calm_syncs < CALM_SYNCS;
                self.keep_mark()?;
            } else {
                self.write_mark();
            }
        }
        Ok(self.durable)
    }

    /// While a log is behind nothing but the mark proves that a byte was durable once, and what is durable is
    /// acknowledged: so the mark goes first. That it is no longer behind is kept in the same way, since what
    /// comes after is written without.
    fn keep_mark(&mut self) -> Result<(), LogError> {
        let mark = self.mark_at(self.durable, self.durable_chain);
        match self.mark.write_through(&*self.disk, mark) {
            Ok(()) => Ok(()),
            Err(error) if is_full(&error) => {
                self.behind = true;
                Ok(())
            }
            Err(error) => Err(self.poison(error.to_string())),
        }
    }

    fn write_mark(&mut self) {
        let mark = self.mark_at(self.durable, self.durable_chain);
        if let Err(error) = self.mark.write(&*self.disk, mark) {
            // The old mark is still a lower bound, so nothing depends on this.
            tracing::warn!(%error, lsn = %self.durable, "the known-durable mark was not written");
        }
    }

    /// Archives everything from `from` (a record's beginning) to the end, where nothing is gone from it;
    /// see [`set_aside`].
    pub fn set_aside(
        &self,
        from: Lsn,
        cause: Cause,
        reason: &str,
        wall_ms: u64,
    ) -> Result<Archive, LogError> {
        self.set_piece_aside((from, self.tail.lsn), cause, reason, wall_ms)
    }

    /// As [`Log::set_aside`], for one of [`Log::pieces_from`].
    pub(crate) fn set_piece_aside(
        &self,
        (from, to): (Lsn, Lsn),
        cause: Cause,
        reason: &str,
        wall_ms: u64,
    ) -> Result<Archive, LogError> {
        if from > to {
            return Err(LogError::OutOfRange { lsn: from, end: self.tail.lsn });
        }
        let reader = self.reader();
        let (mut records, mut at) = (0, from);
        while at < to {
            // A damaged record ends the count but not the copy: all bytes are kept.
            let Ok(header) = reader.header(at) else { break };
            records += 1;
            at = header.end();
        }
        let request = Request {
            cause,
            epoch: self.history.epoch_at(from).unwrap_or(self.tail.epoch),
            from,
            to,
            epochs: self.history.epochs_in(from, to),
            records,
            reason: reason.to_owned(),
            wall_ms,
        };
        let segments = self.shared.segments();
        let mut copy = |sink: &mut Sink<'_>| -> io::Result<()> {
            for (i, base) in segments.iter().enumerate() {
                let end = segments.get(i + 1).copied().unwrap_or(to).min(to);
                if end <= from || *base >= to || planted::is("archive-left-empty") {
                    continue;
                }
                let file = self.disk.open(&file_name(*base))?;
                let (start, stop) = (from.max(*base).bytes_since(*base), end.bytes_since(*base));
                recovery::copy_range(&*file, SEGMENT_HEADER_LEN + start, SEGMENT_HEADER_LEN + stop, sink)?;
            }
            Ok(())
        };
        set_aside::write(&*self.disk, &request, &mut copy).map_err(|source| {
            if is_full(&source) {
                LogError::Full
            } else {
                LogError::Io { doing: "setting the tail aside", source }
            }
        })
    }

    /// Cuts the log at `lsn`, a record's beginning, durably. `archive` proves that the tail was set
    /// aside.
    pub fn truncate_to(&mut self, lsn: Lsn, archive: &Archive) -> Result<(), LogError> {
        self.usable()?;
        if lsn >= self.tail.lsn {
            let end = self.tail.lsn;
            return if lsn == end { Ok(()) } else { Err(LogError::OutOfRange { lsn, end }) };
        }
        if archive.from > lsn || archive.to < self.tail.lsn {
            return Err(LogError::NotSetAside(lsn));
        }
        if lsn < self.map.checkpoint.to {
            // What a replay needs would be cut while what it stands for is gone already.
            return Err(LogError::Gone { lsn, next: self.map.checkpoint.to });
        }
        let at = self.position_at(lsn)?;
        if lsn <= self.durable {
            let mark = self.mark_at(lsn, at.chain);
            if let Err(error) = self.mark.write_through(&*self.disk, mark) {
                return Err(self.poison(error.to_string()));
            }
        }
        // From here on readers find nothing beyond the cut.
        self.shared.set_end(lsn);
        self.durable = self.durable.min(lsn);
        self.shared.set_durable(self.durable);
        let result = recovery::cut_files(&*self.disk, &self.shared.segments(), lsn, &self.map.holes);
        match result {
            Ok((bases, active)) => {
                self.shared.set_segments(bases);
                self.active = active.map(|(base, file)| Active { base, file });
            }
            Err(error) => return Err(self.poison(error.to_string())),
        }
        self.tail = at;
        self.history.cut(lsn);
        self.committed = self.committed.min(lsn);
        // Cutting synced the file, so what remains is durable.
        self.durable = lsn;
        self.durable_chain = at.chain;
        self.shared.set_durable(lsn);
        self.write_mark();
        Ok(())
    }

    fn position_at(&self, lsn: Lsn) -> Result<Position, LogError> {
        if lsn == Lsn::ZERO {
            return Ok(Position::origin(self.log_id));
        }
        let chain = self.chain_at(lsn)?;
        let (epoch, epoch_start) = self
            .history
            .starts()
            .iter()
            .rev()
            .find(|(_, start)| *start < lsn)
            .copied()
            .unwrap_or((Epoch::ZERO, Lsn::ZERO));
        Ok(Position { lsn, chain, epoch, epoch_start })
    }

    fn usable(&self) -> Result<(), LogError> {
        match &self.poisoned {
            None => Ok(()),
            Some(why) => Err(LogError::Poisoned(why.clone())),
        }
    }

    fn poison(&mut self, why: String) -> LogError {
        tracing::error!(error = %why, lsn = %self.tail.lsn, "the log is out of service");
        self.poisoned.get_or_insert(why.clone());
        LogError::Poisoned(why)
    }
}
