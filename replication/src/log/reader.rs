//! Reading the log from any thread while one owner writes it.
//!
//! A reader sees what the writer appended, synced or not; whoever must not see uncommitted bytes
//! asks only for positions that a committed record named. Each answer was verified by checksum. A
//! reader never writes, and never waits for the writer's I/O.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytes::Bytes;
use holdfast_heartbeat::{Epoch, Lsn, planted};

use super::LogError;
use crate::disk::{Disk, DiskFile};
use crate::record::{HEADER_LEN, Header, MAX_PAYLOAD, MAX_RECORD, Position, RecordError, RecordKind};
use crate::segment::{SEGMENT_HEADER_LEN, SegmentHeader, file_name};
use crate::space::Holes;

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

/// Bytes of a payload as they lie in a file.
#[derive(Clone, Debug)]
pub struct FileRange {
    /// The file, which is there as long as this lives, whether its name is gone or not.
    pub file: Arc<File>,
    /// Where they begin.
    pub offset: u64,
    /// How many they are.
    pub len: u32,
}

/// Bytes that are looked at at once where nobody keeps them: they stay in the processor's own cache.
const LOOKED_AT: usize = 128 * 1024;

thread_local! {
    /// Where they are looked at.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

#[derive(Default)]
struct OpenFiles {
    files: HashMap<u64, (Arc<dyn DiskFile>, u64)>,
    uses: u64,
    /// Raised when files are removed, so that a handle opened before is not cached after.
    generation: u64,
}

/// A segment that is gone and may still be read by those who held on before.
struct Gone {
    base: Lsn,
    end: Lsn,
    /// Nobody who held on later needs it.
    generation: u64,
}

/// Which segments there are.
#[derive(Default)]
struct Segments {
    bases: Vec<Lsn>,
    holes: Holes,
    gone: Vec<Gone>,
    /// How many hold on, by the generation in which they began to.
    holds: BTreeMap<u64, usize>,
    /// Raised each time that segments go.
    generation: u64,
    /// Gone, and asked for by nobody any more: their files can be removed.
    let_go: Vec<Lsn>,
}

impl Segments {
    /// Where the records of segment number `i` end, in a log that ends at `end`.
    fn end_of(&self, i: usize, end: Lsn) -> Lsn {
        let next = self.bases.get(i + 1).copied().unwrap_or(end);
        self.holes.next(self.bases[i]).map_or(next, |hole| hole.min(next))
    }

    /// Lets go of what nobody can ask for any more.
    fn forget_gone(&mut self) {
        let oldest = self.holds.first_key_value().map_or(u64::MAX, |(generation, _)| *generation);
        let let_go = &mut self.let_go;
        self.gone.retain(|gone| {
            let held = gone.generation >= oldest;
            if !held {
                let_go.push(gone.base);
            }
            held
        });
    }
}

/// What the writer shares with its readers.
pub(super) struct Shared {
    disk: Arc<dyn Disk>,
    log_id: AtomicU64,
    end: AtomicU64,
    durable: AtomicU64,
    segments: RwLock<Segments>,
    open: Mutex<OpenFiles>,
}

impl Shared {
    pub(super) fn new(disk: Arc<dyn Disk>) -> Shared {
        Shared {
            disk,
            log_id: AtomicU64::new(0),
            end: AtomicU64::new(0),
            durable: AtomicU64::new(0),
            segments: RwLock::new(Segments::default()),
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

    fn map(&self) -> std::sync::RwLockReadGuard<'_, Segments> {
        // The map is whole between its calls, so a panic elsewhere does not spoil it.
        self.segments.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn map_mut(&self) -> std::sync::RwLockWriteGuard<'_, Segments> {
        self.segments.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add_segment(&self, base: Lsn) {
        self.map_mut().bases.push(base);
    }

    pub(super) fn set_segments(&self, all: Vec<Lsn>) {
        self.map_mut().bases = all;
        self.forget_files();
    }

    /// The segments whose files can be removed now; each is named once.
    pub(super) fn take_let_go(&self) -> Vec<Lsn> {
        if self.map().let_go.is_empty() {
            return Vec::new();
        }
        std::mem::take(&mut self.map_mut().let_go)
    }

    pub(super) fn set_holes(&self, holes: Holes) {
        self.map_mut().holes = holes;
    }

    pub(super) fn segments(&self) -> Vec<Lsn> {
        self.map().bases.clone()
    }

    pub(super) fn holes(&self) -> Holes {
        self.map().holes.clone()
    }

    pub(super) fn segment_count(&self) -> usize {
        self.map().bases.len()
    }

    /// Takes the segments out of sight that lie in these holes, the only ones from now on. Whoever
    /// holds on still reads what was there: their files stay until [`Shared::take_let_go`] names them.
    pub(super) fn retire(&self, holes: Holes) {
        let mut map = self.map_mut();
        let end = Lsn(self.end.load(Ordering::Acquire));
        let generation = map.generation;
        map.generation += 1;
        let all = map.bases.iter().enumerate().map(|(i, base)| (*base, map.end_of(i, end)));
        let going = all.filter(|(base, _)| holes.at(*base).is_some());
        let going: Vec<Gone> = going.map(|(base, end)| Gone { base, end, generation }).collect();
        map.gone.extend(going);
        map.bases.retain(|base| holes.at(*base).is_none());
        map.holes = holes;
        map.forget_gone();
        drop(map);
        self.forget_files();
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

/// As long as this lives, what could be read when it was made can be read, gone since or not.
pub struct Hold {
    shared: Arc<Shared>,
    generation: u64,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut map = self.shared.map_mut();
        if let Some(count) = map.holds.get_mut(&self.generation) {
            *count -= 1;
            if *count == 0 {
                map.holds.remove(&self.generation);
                map.forget_gone();
            }
        }
    }
}

impl std::fmt::Debug for Hold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hold").field("generation", &self.generation).finish_non_exhaustive()
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

/// What one read brings in where nobody says how long a record is: most operations are shorter.
const USUAL_PAYLOAD: usize = 1024;

fn parse_header(lsn: Lsn, bytes: &[u8]) -> Result<Header, LogError> {
    let header = Header::parse(&bytes[..bytes.len().min(HEADER_LEN)]).map_err(|e| damaged(lsn, e))?;
    if header.lsn != lsn {
        return Err(damaged(lsn, RecordError::Nonsense));
    }
    Ok(header)
}

/// The record of that header, where the payload is its.
fn record_of(header: &Header, payload: Bytes) -> Result<Record, LogError> {
    let lsn = header.lsn;
    if !planted::is("read-not-verified") {
        header.check_payload(&payload).map_err(|e| damaged(lsn, e))?;
    }
    Ok(Record { lsn, end: header.end(), kind: header.kind, epoch: header.epoch, payload })
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

    /// The disk underneath, for what lies beside the segments.
    pub fn disk(&self) -> Arc<dyn Disk> {
        self.shared.disk.clone()
    }

    /// The beginnings of the segments.
    pub fn segments(&self) -> Vec<Lsn> {
        self.shared.segments()
    }

    /// What is gone.
    pub fn holes(&self) -> Holes {
        self.shared.holes()
    }

    /// The hole that `lsn` lies in, if it is gone.
    pub fn hole_at(&self, lsn: Lsn) -> Option<(Lsn, Lsn)> {
        self.shared.map().holes.at(lsn)
    }

    /// Keeps readable what is readable now, on this disk too: for as long as a reader needs it.
    pub fn hold(&self) -> Hold {
        let mut map = self.shared.map_mut();
        let generation = map.generation;
        *map.holds.entry(generation).or_default() += 1;
        drop(map);
        Hold { shared: self.shared.clone(), generation }
    }

    /// The segment that holds `lsn`, and where its records end.
    pub(super) fn locate(&self, lsn: Lsn) -> Result<(Lsn, Lsn), LogError> {
        let end = self.end();
        if lsn >= end {
            return Err(LogError::OutOfRange { lsn, end });
        }
        let map = self.shared.map();
        if let Some((_, next)) = map.holes.at(lsn) {
            let gone = map.gone.iter().find(|gone| gone.base <= lsn && lsn < gone.end);
            return gone.map(|gone| (gone.base, gone.end)).ok_or(LogError::Gone { lsn, next });
        }
        let after = map.bases.partition_point(|base| *base <= lsn);
        let i = after.checked_sub(1).ok_or(LogError::OutOfRange { lsn, end })?;
        Ok((map.bases[i], map.end_of(i, end)))
    }

    /// The `len` bytes from `lsn` on, which lie in the segment at `base`; fewer only at the file's end.
    fn read_vec(&self, lsn: Lsn, base: Lsn, len: usize) -> Result<Vec<u8>, LogError> {
        let offset = SEGMENT_HEADER_LEN + lsn.bytes_since(base);
        self.shared.file(base).and_then(|file| file.read_vec_at(len, offset)).map_err(reading)
    }

    /// The header of the record that begins at `lsn`, verified; the payload is not read.
    pub fn header(&self, lsn: Lsn) -> Result<Header, LogError> {
        let (base, _) = self.locate(lsn)?;
        self.header_in(lsn, base)
    }

    fn header_in(&self, lsn: Lsn, base: Lsn) -> Result<Header, LogError> {
        parse_header(lsn, &self.read_vec(lsn, base, HEADER_LEN)?)
    }

    /// The record that begins at `lsn`, verified.
    pub fn read(&self, lsn: Lsn) -> Result<Record, LogError> {
        self.read_guessing(lsn, USUAL_PAYLOAD)
    }

    /// The record that begins at `lsn`, verified. A payload of `guess` bytes or less takes one read.
    fn read_guessing(&self, lsn: Lsn, guess: usize) -> Result<Record, LogError> {
        let (base, end) = self.locate(lsn)?;
        let there = usize::try_from(end.bytes_since(lsn)).unwrap_or(usize::MAX);
        let bytes = self.read_vec(lsn, base, (HEADER_LEN + guess).min(there))?;
        let header = parse_header(lsn, &bytes)?;
        let whole = header.record_len() as usize;
        if bytes.len() < whole {
            return self.read_payload(&header, base);
        }
        record_of(&header, Bytes::from(bytes).slice(HEADER_LEN..HEADER_LEN + header.payload_len as usize))
    }

    /// As [`LogReader::read`], but what means nothing to the state machine is left where it is and comes
    /// back as nothing: the bytes of objects, and checkpoints; or, where a checkpoint is restored, all but
    /// that.
    pub fn read_for_apply(&self, lsn: Lsn, restoring: bool) -> Result<Record, LogError> {
        let (base, _) = self.locate(lsn)?;
        let header = self.header_in(lsn, base)?;
        let wanted = match header.kind {
            RecordKind::EpochStart | RecordKind::Op | RecordKind::Retire => !restoring,
            RecordKind::Checkpoint => restoring,
            RecordKind::Data | RecordKind::Move => false,
        };
        if wanted {
            return self.read_payload(&header, base);
        }
        let (end, kind, epoch) = (header.end(), header.kind, header.epoch);
        Ok(Record { lsn, end, kind, epoch, payload: Bytes::new() })
    }

    fn read_payload(&self, header: &Header, base: Lsn) -> Result<Record, LogError> {
        let lsn = header.lsn;
        let payload = self.read_vec(lsn + HEADER_LEN as u64, base, header.payload_len as usize)?;
        record_of(header, Bytes::from(payload))
    }

    /// `len` bytes from `offset` within the payload of the record that begins at `lsn`. The whole
    /// record is read and verified: a checksum is not to be had for less.
    pub fn read_slice(&self, lsn: Lsn, offset: u32, len: u32) -> Result<Bytes, LogError> {
        let guess = offset.saturating_add(len).min(MAX_PAYLOAD as u32) as usize;
        let record = self.read_guessing(lsn, guess)?;
        let to = u64::from(offset) + u64::from(len);
        if to > record.payload.len() as u64 {
            return Err(LogError::OutOfRange { lsn: lsn + HEADER_LEN as u64 + to, end: record.end });
        }
        Ok(record.payload.slice(offset as usize..to as usize))
    }

    /// Where those bytes lie in a file, verified as [`LogReader::read_slice`] does: for the kernel to send them. `None`
    /// where the disk is not the kernel's.
    pub fn file_range(&self, lsn: Lsn, offset: u32, len: u32) -> Result<Option<FileRange>, LogError> {
        let (base, _) = self.locate(lsn)?;
        let file = self.shared.file(base).map_err(reading)?;
        let Some(whole) = file.kernel_file() else { return Ok(None) };
        let header = self.header_in(lsn, base)?;
        let payload = lsn + HEADER_LEN as u64;
        let (payload_len, to) = (u64::from(header.payload_len), u64::from(offset) + u64::from(len));
        if to > payload_len {
            return Err(LogError::OutOfRange { lsn: payload + to, end: header.end() });
        }
        let begins = SEGMENT_HEADER_LEN + payload.bytes_since(base);
        let sum = SCRATCH.with_borrow_mut(|scratch| {
            scratch.resize(LOOKED_AT, 0);
            let (mut sum, mut done) = (0, 0);
            while done < payload_len {
                let piece = &mut scratch[..LOOKED_AT.min((payload_len - done) as usize)];
                if file.read_at(piece, begins + done).map_err(reading)? < piece.len() {
                    return Err(damaged(lsn, RecordError::Short));
                }
                sum = crc32c::crc32c_append(sum, piece);
                done += piece.len() as u64;
            }
            Ok(sum)
        })?;
        header.check_sum(sum).map_err(|e| damaged(lsn, e))?;
        Ok(Some(FileRange { file: whole, offset: begins + u64::from(offset), len }))
    }

    /// Whole records from `lsn` on, verbatim and verified, of one segment: as many as fit in `max`
    /// bytes, and one at least.
    pub fn read_run(&self, lsn: Lsn, max: usize) -> Result<Bytes, LogError> {
        let (base, end) = self.locate(lsn)?;
        let want = usize::try_from(end.bytes_since(lsn)).unwrap_or(usize::MAX).min(max.max(HEADER_LEN));
        let mut bytes = self.read_vec(lsn, base, want)?;
        let mut whole = 0;
        while whole < bytes.len() {
            let at = lsn + whole as u64;
            match crate::record::parse(&bytes[whole..]) {
                Ok((header, _)) if header.lsn == at => whole += header.record_len() as usize,
                Ok(_) => return Err(damaged(at, RecordError::Nonsense)),
                Err(RecordError::Short) if bytes.len() == want => break,
                Err(e) => return Err(damaged(at, e)),
            }
        }
        if whole == 0 {
            // The first record alone is larger than `max`.
            let len = self.header_in(lsn, base)?.record_len() as usize;
            bytes = self.read_vec(lsn, base, len)?;
            let (header, _) = crate::record::parse(&bytes).map_err(|e| damaged(lsn, e))?;
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

    /// Checks every byte that is there, up to where the log ended when the call began: checksums,
    /// chain, order of epochs, and the segments' own headers. Writes nothing.
    pub fn verify(&self) -> Result<Verified, LogError> {
        let end = self.end();
        let mut verified = Verified::default();
        let mut at = Position::origin(self.log_id());
        let mut last_base = None;
        while at.lsn < end {
            if let Some((_, next)) = self.hole_at(at.lsn) {
                if next >= end {
                    break;
                }
                at = self.segment_header(next)?.at;
            }
            let (base, _) = self.locate(at.lsn)?;
            if last_base != Some(base) {
                let header = self.segment_header(base)?;
                if header.at != at || header.log_id != self.log_id() {
                    return Err(misplaced(base));
                }
                last_base = Some(base);
            }
            let run = self.read_run(at.lsn, 4 * MAX_RECORD)?;
            let records;
            (at, records) = follow_run(at, &run)?;
            verified.records += records;
            verified.bytes += run.len() as u64;
        }
        Ok(verified)
    }

    /// The header of the segment that begins at `base`: where the log stands there.
    pub(crate) fn segment_header(&self, base: Lsn) -> Result<SegmentHeader, LogError> {
        let doing = "reading a segment's header";
        let file = self.shared.file(base).map_err(|source| LogError::Io { doing, source })?;
        let mut bytes = [0; SEGMENT_HEADER_LEN as usize];
        let got = file.read_at(&mut bytes, 0).map_err(|source| LogError::Io { doing, source })?;
        SegmentHeader::parse(&bytes[..got])
            .map_err(|e| LogError::Damaged { lsn: base, detail: e.to_string() })
    }
}

/// Checks that whole records follow each other from `at` on; where they end, and how many they are.
pub(super) fn follow_run(mut at: Position, run: &[u8]) -> Result<(Position, u64), LogError> {
    let (mut rest, mut records) = (run, 0);
    while !rest.is_empty() {
        let (header, payload) = crate::record::parse(rest).map_err(|e| damaged(at.lsn, e))?;
        at = at
            .follow(&header, payload)
            .map_err(|e| LogError::Damaged { lsn: at.lsn, detail: e.to_string() })?;
        rest = &rest[header.record_len() as usize..];
        records += 1;
    }
    Ok((at, records))
}

/// The header of the segment at `base` is whole, and that of another place.
pub(super) fn misplaced(base: Lsn) -> LogError {
    let detail = "the segment's header does not continue the segment before".into();
    LogError::Damaged { lsn: base, detail }
}

fn reading(source: io::Error) -> LogError {
    LogError::Io { doing: "reading the log", source }
}

pub(super) fn damaged(lsn: Lsn, error: RecordError) -> LogError {
    LogError::Damaged { lsn, detail: error.to_string() }
}
