//! Reading the log from any thread while one owner writes it.
//!
//! A reader sees what the writer appended, synced or not; whoever must not see uncommitted bytes
//! asks only for positions that a committed record named. Each answer was verified by checksum. A
//! reader never writes, and never waits for the writer's I/O.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytes::Bytes;
use holdfast_heartbeat::{Epoch, Lsn, planted};

use super::LogError;
use crate::disk::{Disk, DiskFile};
use crate::record::{HEADER_LEN, Header, MAX_RECORD, Position, RecordError, RecordKind};
use crate::segment::{SEGMENT_HEADER_LEN, SegmentHeader, file_name};

/// Most segment files kept open for reading. With segments of 64 MiB this spans 16 GiB of hot log.
const MAX_OPEN_FILES: usize = 256;

/// A record as read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its beginning.
    pub lsn: Lsn,
    /// Its end, where the next one begins.
    pub end: Lsn,
    /// What it is.
    pub kind: RecordKind,
    /// The reign it was written in.
    pub epoch: Epoch,
    /// Its payload, verified.
    pub payload: Bytes,
}

#[derive(Default)]
struct OpenFiles {
    files: HashMap<u64, (Arc<dyn DiskFile>, u64)>,
    uses: u64,
    /// Raised when files are removed, so that a handle opened before is not cached after.
    generation: u64,
}

/// What the writer shares with its readers.
pub(super) struct Shared {
    disk: Arc<dyn Disk>,
    log_id: AtomicU64,
    end: AtomicU64,
    durable: AtomicU64,
    bases: RwLock<Vec<Lsn>>,
    open: Mutex<OpenFiles>,
}

impl Shared {
    pub(super) fn new(disk: Arc<dyn Disk>) -> Shared {
        Shared {
            disk,
            log_id: AtomicU64::new(0),
            end: AtomicU64::new(0),
            durable: AtomicU64::new(0),
            bases: RwLock::new(Vec::new()),
            open: Mutex::new(OpenFiles::default()),
        }
    }

    pub(super) fn set_log_id(&self, log_id: u64) {
        self.log_id.store(log_id, Ordering::Release);
    }

    pub(super) fn set_end(&self, end: Lsn) {
        self.end.store(end.0, Ordering::Release);
    }

    pub(super) fn set_durable(&self, durable: Lsn) {
        self.durable.store(durable.0, Ordering::Release);
    }

    pub(super) fn add_segment(&self, base: Lsn) {
        let mut bases = self.bases.write().unwrap_or_else(PoisonError::into_inner);
        bases.push(base);
    }

    pub(super) fn set_segments(&self, all: Vec<Lsn>) {
        *self.bases.write().unwrap_or_else(PoisonError::into_inner) = all;
        self.forget_files();
    }

    pub(super) fn segments(&self) -> Vec<Lsn> {
        self.bases.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn segment_count(&self) -> usize {
        self.bases.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Forgets open files; called after some were removed.
    pub(super) fn forget_files(&self) {
        let mut open = self.open_files();
        open.files.clear();
        open.generation += 1;
    }

    fn open_files(&self) -> MutexGuard<'_, OpenFiles> {
        // The map is whole between its calls, so a panic elsewhere does not spoil it.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, base: Lsn) -> io::Result<Arc<dyn DiskFile>> {
        let generation = {
            let mut open = self.open_files();
            open.uses += 1;
            let uses = open.uses;
            if let Some((file, used)) = open.files.get_mut(&base.0) {
                *used = uses;
                return Ok(file.clone());
            }
            open.generation
        };
        let file = self.disk.open(&file_name(base))?;
        let mut open = self.open_files();
        if open.generation == generation {
            if open.files.len() >= MAX_OPEN_FILES {
                let oldest = open.files.iter().min_by_key(|(_, (_, used))| *used).map(|(base, _)| *base);
                oldest.and_then(|base| open.files.remove(&base));
            }
            let uses = open.uses;
            open.files.insert(base.0, (file.clone(), uses));
        }
        Ok(file)
    }
}

/// A handle for reading; clones share open files.
#[derive(Clone)]
pub struct LogReader {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for LogReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogReader").field("end", &self.end()).finish_non_exhaustive()
    }
}

/// What a full check of the log found, when it found nothing wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Records checked.
    pub records: u64,
    /// Bytes checked.
    pub bytes: u64,
}

impl LogReader {
    pub(super) fn new(shared: Arc<Shared>) -> LogReader {
        LogReader { shared }
    }

    /// The log's identity, zero while it has none.
    pub fn log_id(&self) -> u64 {
        self.shared.log_id.load(Ordering::Acquire)
    }

    /// The end of the log.
    pub fn end(&self) -> Lsn {
        Lsn(self.shared.end.load(Ordering::Acquire))
    }

    /// Below here everything is on this disk.
    pub fn durable(&self) -> Lsn {
        Lsn(self.shared.durable.load(Ordering::Acquire))
    }

    /// The beginnings of the segments.
    pub fn segments(&self) -> Vec<Lsn> {
        self.shared.segments()
    }

    /// The segment that holds `lsn`, and where its records end.
    fn locate(&self, lsn: Lsn) -> Result<(Lsn, Lsn), LogError> {
        let end = self.end();
        if lsn >= end {
            return Err(LogError::OutOfRange { lsn, end });
        }
        let bases = self.shared.bases.read().unwrap_or_else(PoisonError::into_inner);
        let after = bases.partition_point(|base| *base <= lsn);
        let base =
            *after.checked_sub(1).and_then(|i| bases.get(i)).ok_or(LogError::OutOfRange { lsn, end })?;
        Ok((base, bases.get(after).copied().unwrap_or(end)))
    }

    fn read_raw(&self, lsn: Lsn, base: Lsn, buf: &mut [u8]) -> Result<usize, LogError> {
        let doing = "reading the log";
        let file = self.shared.file(base).map_err(|source| LogError::Io { doing, source })?;
        let offset = SEGMENT_HEADER_LEN + lsn.bytes_since(base);
        file.read_at(buf, offset).map_err(|source| LogError::Io { doing, source })
    }

    /// The header of the record that begins at `lsn`, verified; the payload is not read.
    pub fn header(&self, lsn: Lsn) -> Result<Header, LogError> {
        let (base, _) = self.locate(lsn)?;
        self.header_in(lsn, base)
    }

    fn header_in(&self, lsn: Lsn, base: Lsn) -> Result<Header, LogError> {
        let mut bytes = [0; HEADER_LEN];
        let got = self.read_raw(lsn, base, &mut bytes)?;
        let header = Header::parse(&bytes[..got]).map_err(|e| damaged(lsn, e))?;
        if header.lsn != lsn {
            return Err(damaged(lsn, RecordError::Nonsense));
        }
        Ok(header)
    }

    /// The record that begins at `lsn`, verified.
    pub fn read(&self, lsn: Lsn) -> Result<Record, LogError> {
        let (base, _) = self.locate(lsn)?;
        let header = self.header_in(lsn, base)?;
        self.read_payload(&header, base)
    }

    /// As [`LogReader::read`], but object bytes are left where they are and come back as nothing.
    pub fn read_for_apply(&self, lsn: Lsn) -> Result<Record, LogError> {
        let (base, _) = self.locate(lsn)?;
        let header = self.header_in(lsn, base)?;
        if header.kind != RecordKind::Data {
            return self.read_payload(&header, base);
        }
        let (end, kind, epoch) = (header.end(), header.kind, header.epoch);
        Ok(Record { lsn, end, kind, epoch, payload: Bytes::new() })
    }

    fn read_payload(&self, header: &Header, base: Lsn) -> Result<Record, LogError> {
        let lsn = header.lsn;
        let mut payload = vec![0; header.payload_len as usize];
        let got = self.read_raw(lsn + HEADER_LEN as u64, base, &mut payload)?;
        if !planted::is("read-not-verified") {
            header.check_payload(&payload[..got]).map_err(|e| damaged(lsn, e))?;
        }
        Ok(Record {
            lsn,
            end: header.end(),
            kind: header.kind,
            epoch: header.epoch,
            payload: Bytes::from(payload),
        })
    }

    /// `len` bytes from `offset` within the payload of the record that begins at `lsn`. The whole
    /// record is read and verified: a checksum is not to be had for less.
    pub fn read_slice(&self, lsn: Lsn, offset: u32, len: u32) -> Result<Bytes, LogError> {
        let record = self.read(lsn)?;
        let to = u64::from(offset) + u64::from(len);
        if to > record.payload.len() as u64 {
            return Err(LogError::OutOfRange { lsn: lsn + HEADER_LEN as u64 + to, end: record.end });
        }
        Ok(record.payload.slice(offset as usize..to as usize))
    }

    /// Whole records from `lsn` on, verbatim and verified, of one segment: as many as fit in `max`
    /// bytes, and one at least.
    pub fn read_run(&self, lsn: Lsn, max: usize) -> Result<Bytes, LogError> {
        let (base, end) = self.locate(lsn)?;
        let want = usize::try_from(end.bytes_since(lsn)).unwrap_or(usize::MAX).min(max.max(HEADER_LEN));
        let mut bytes = vec![0; want];
        let got = self.read_raw(lsn, base, &mut bytes)?;
        let mut whole = 0;
        while whole < got {
            let at = lsn + whole as u64;
            match crate::record::parse(&bytes[whole..got]) {
                Ok((header, _)) if header.lsn == at => whole += header.record_len() as usize,
                Ok(_) => return Err(damaged(at, RecordError::Nonsense)),
                Err(RecordError::Short) if got == want => break,
                Err(e) => return Err(damaged(at, e)),
            }
        }
        if whole == 0 {
            // The first record alone is larger than `max`.
            let len = self.header_in(lsn, base)?.record_len() as usize;
            bytes.resize(len, 0);
            let got = self.read_raw(lsn, base, &mut bytes)?;
            let (header, _) = crate::record::parse(&bytes[..got]).map_err(|e| damaged(lsn, e))?;
            whole = header.record_len() as usize;
        }
        bytes.truncate(whole);
        Ok(Bytes::from(bytes))
    }

    /// The chain of the bytes before `lsn`, which must be a record's beginning (not the log's end:
    /// the writer knows that one).
    pub(crate) fn chain_before(&self, lsn: Lsn) -> Result<u32, LogError> {
        Ok(self.header(lsn)?.chain)
    }

    /// Checks every byte from the beginning to where the log ended when the call began: checksums,
    /// chain, order of epochs, and the segments' own headers. Writes nothing.
    pub fn verify(&self) -> Result<Verified, LogError> {
        let end = self.end();
        let mut verified = Verified::default();
        let mut at = Position::origin(self.log_id());
        let mut last_base = None;
        while at.lsn < end {
            let (base, _) = self.locate(at.lsn)?;
            if last_base != Some(base) {
                self.verify_segment_header(base, &at)?;
                last_base = Some(base);
            }
            let run = self.read_run(at.lsn, 4 * MAX_RECORD)?;
            let mut rest = &run[..];
            while !rest.is_empty() {
                let (header, payload) = crate::record::parse(rest).map_err(|e| damaged(at.lsn, e))?;
                at = at
                    .follow(&header, payload)
                    .map_err(|e| LogError::Damaged { lsn: at.lsn, detail: e.to_string() })?;
                rest = &rest[header.record_len() as usize..];
                verified.records += 1;
            }
            verified.bytes += run.len() as u64;
        }
        Ok(verified)
    }

    fn verify_segment_header(&self, base: Lsn, at: &Position) -> Result<(), LogError> {
        let doing = "reading a segment's header";
        let file = self.shared.file(base).map_err(|source| LogError::Io { doing, source })?;
        let mut bytes = [0; SEGMENT_HEADER_LEN as usize];
        let got = file.read_at(&mut bytes, 0).map_err(|source| LogError::Io { doing, source })?;
        let header = SegmentHeader::parse(&bytes[..got])
            .map_err(|e| LogError::Damaged { lsn: base, detail: e.to_string() })?;
        if header.at != *at || header.log_id != self.log_id() {
            let detail = "the segment's header does not continue the segment before".into();
            return Err(LogError::Damaged { lsn: base, detail });
        }
        Ok(())
    }
}

pub(super) fn damaged(lsn: Lsn, error: RecordError) -> LogError {
    LogError::Damaged { lsn, detail: error.to_string() }
}
