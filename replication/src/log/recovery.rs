//! Opening a log after whatever happened: what is whole, what is torn, what is damaged.
//!
//! A torn tail is what a power cut leaves of records that were never synced, hence never
//! acknowledged: it is set aside and cut. Damage is a bad byte that was synced once. Three things
//! prove damage: the known-durable mark stands above the bad byte; a later record says that the bad
//! byte was committed when it was written (unless the mark says that this log was behind the others
//! then); or the bad byte is not in the last segment (a segment is
//! synced before the next one begins). Without such a proof whole records behind a bad one are what
//! a disk that writes out of order leaves of one unsynced batch, and belong to the torn tail.
//!
//! What no proof covers: the last batch before a power cut, if the mark was lost with the power and a
//! bit of the batch turned over besides. That looks like a torn tail and is taken for one; the other
//! members of the in-sync set have the batch.

use std::io;
use std::sync::Arc;

use holdfast_heartbeat::{Epoch, Lsn, planted};

use super::map::Map;
use super::mark::{Mark, MarkFile};
use super::reader::Shared;
use super::{Active, COPY_CHUNK, Log, LogError, gaps, mark, set_aside};
use crate::disk::{Disk, DiskFile};
use crate::history::EpochHistory;
use crate::record::{EpochLink, HEADER_LEN, Header, MAX_RECORD, Position, RecordError};
use crate::segment::{SEGMENT_HEADER_LEN, SegmentHeader, SegmentHeaderError, base_of, file_name};
use crate::set_aside::{Archive, Cause, Request, Sink};
use crate::space::Holes;

/// How to open a log.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// Bytes of records per segment file, for a log that is not founded yet.
    pub segment_size: u64,
    /// Set damaged bytes and all that follow aside and cut them, instead of failing. Only for a
    /// member that gives up its incarnation: it no longer holds what it acknowledged.
    pub cut_damage: bool,
    /// Check every byte of the log, not only its last segment and the other segments' headers.
    pub verify_all: bool,
    /// The wall clock for manifests, in milliseconds since 1970; zero if not known.
    pub wall_ms: u64,
}

impl Default for OpenOptions {
    fn default() -> OpenOptions {
        // 64 MiB: small enough to scan at every start and to move when thin, large enough that a
        // terabyte is 16,384 files.
        OpenOptions { segment_size: 64 * 1024 * 1024, cut_damage: false, verify_all: false, wall_ms: 0 }
    }
}

/// What opening found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Where the log ends now.
    pub end: Lsn,
    /// Segment files.
    pub segments: usize,
    /// What the known-durable mark said, if it could be read.
    pub mark: Option<Lsn>,
    /// Torn tails that were cut.
    pub torn: Vec<Archive>,
    /// Damaged parts that were cut, because the options allowed it.
    pub damage_cut: Vec<Archive>,
}

fn io_error(doing: &'static str) -> impl FnOnce(io::Error) -> LogError {
    move |source| LogError::Io { doing, source }
}

fn damage(lsn: Lsn, detail: impl Into<String>) -> LogError {
    LogError::Damaged { lsn, detail: detail.into() }
}

/// Feeds `sink` the bytes `from..to` of a file, as far as it has them.
pub(super) fn copy_range(file: &dyn DiskFile, from: u64, to: u64, sink: &mut Sink<'_>) -> io::Result<()> {
    let chunk = |left: u64| COPY_CHUNK.min(usize::try_from(left).unwrap_or(COPY_CHUNK));
    let mut buffer = vec![0; chunk(to.saturating_sub(from))];
    let mut at = from;
    while at < to {
        let want = chunk(to - at);
        let got = file.read_at(&mut buffer[..want], at)?;
        if got == 0 {
            break;
        }
        sink(&buffer[..got])?;
        at += got as u64;
    }
    Ok(())
}

type Cut = (Vec<Lsn>, Option<(Lsn, Arc<dyn DiskFile>)>);

/// Cuts the segment files at `lsn`, last one first so that each step leaves a log without holes.
/// Returns the segments that remain and the last of them. A segment without records goes too,
/// unless it is the first, or the first behind a hole.
pub(super) fn cut_files(disk: &dyn Disk, bases: &[Lsn], lsn: Lsn, holes: &Holes) -> io::Result<Cut> {
    let first = |base: Lsn| base == Lsn::ZERO || holes.ends_at(base);
    let mut left = bases.to_vec();
    while let Some(base) = left.last().copied().filter(|b| *b >= lsn && !(*b == lsn && first(*b))) {
        disk.remove(&file_name(base))?;
        disk.sync_dir("")?;
        left.pop();
    }
    let Some(base) = left.last().copied() else { return Ok((left, None)) };
    let file = disk.open(&file_name(base))?;
    file.truncate(SEGMENT_HEADER_LEN + lsn.bytes_since(base))?;
    file.sync_data()?;
    Ok((left, Some((base, file))))
}

/// Reads a file front to back, record by record, with few system calls.
struct Scan<'a> {
    file: &'a dyn DiskFile,
    len: u64,
    buffer: Vec<u8>,
    buffer_at: u64,
}

impl<'a> Scan<'a> {
    fn new(file: &'a dyn DiskFile) -> io::Result<Scan<'a>> {
        Ok(Scan { file, len: file.size()?, buffer: Vec::new(), buffer_at: 0 })
    }

    /// The bytes from `offset` on: at least `want`, or up to the end of the file.
    fn bytes(&mut self, offset: u64, want: usize) -> io::Result<&[u8]> {
        let have = self.buffer_at..self.buffer_at + self.buffer.len() as u64;
        let end = (offset + want as u64).min(self.len);
        if offset < have.start || end > have.end {
            let fill = (4 * MAX_RECORD).max(want);
            let fill = fill.min(usize::try_from(self.len.saturating_sub(offset)).unwrap_or(fill));
            self.buffer.resize(fill, 0);
            let got = self.file.read_at(&mut self.buffer, offset)?;
            self.buffer.truncate(got);
            self.buffer_at = offset;
        }
        let from = (offset - self.buffer_at) as usize;
        Ok(self.buffer.get(from..).unwrap_or(&[]))
    }
}

/// What the last segment holds.
struct LastSegment {
    at: Position,
    committed: Lsn,
    starts: Vec<(Epoch, Lsn)>,
    /// Whether bytes follow that are not part of the log.
    torn: bool,
}

/// Walks the last segment and judges where it ends.
fn scan_last(
    file: &dyn DiskFile,
    header: &SegmentHeader,
    mark: Option<&Mark>,
) -> Result<LastSegment, LogError> {
    let reading = || io_error("reading the last segment");
    let base = header.at.lsn;
    let mut scan = Scan::new(file).map_err(reading())?;
    let mut found = LastSegment { at: header.at, committed: Lsn::ZERO, starts: Vec::new(), torn: false };
    let mut why = String::from("the bytes end");
    loop {
        let at = found.at;
        if mark.is_some_and(|m| m.durable == at.lsn && m.chain != at.chain) {
            return Err(damage(at.lsn, "the known-durable mark names other bytes than these"));
        }
        let offset = SEGMENT_HEADER_LEN + at.lsn.bytes_since(base);
        if offset >= scan.len {
            break;
        }
        let bytes = scan.bytes(offset, MAX_RECORD).map_err(reading())?;
        let followed = match crate::record::parse(bytes) {
            Ok((header, payload)) => {
                at.follow(&header, payload).map(|next| (header, next)).map_err(|e| e.to_string())
            }
            Err(RecordError::UnknownVersion(v)) => {
                return Err(LogError::TooNew(format!("record format {v}")));
            }
            Err(e) => Err(e.to_string()),
        };
        match followed {
            Ok((header, next)) => {
                if next.epoch_start == header.lsn && next.epoch != at.epoch {
                    found.starts.push((next.epoch, next.epoch_start));
                }
                found.committed = found.committed.max(header.committed);
                found.at = next;
            }
            Err(e) => {
                found.torn = true;
                why = e;
                break;
            }
        }
    }
    let end = found.at.lsn;
    if let Some(mark) = mark.filter(|m| m.durable > end && !planted::is("damage-taken-for-torn")) {
        return Err(damage(end, format!("{why}, but bytes up to {} were once durable", mark.durable)));
    }
    if found.torn && !mark.is_some_and(|m| m.behind) {
        judge_tail(&mut scan, base, end, &why)?;
    }
    Ok(found)
}

/// Walks the segment before one that holds no record and goes: what is then the end of the log is taken from its
/// records, and not from a header alone. A segment is synced before the next one begins, so all of it was durable.
fn scan_sealed(disk: &dyn Disk, base: Lsn, next: &Position) -> Result<LastSegment, LogError> {
    let file = disk.open(&file_name(base)).map_err(io_error("opening a segment"))?;
    let header = read_header(&*file, base)?;
    let mark = Mark { log_id: header.log_id, durable: next.lsn, chain: next.chain, behind: false };
    scan_last(&*file, &header, Some(&mark))
}

/// Looks behind a bad record for one that proves the bad bytes to have been committed.
fn judge_tail(scan: &mut Scan<'_>, base: Lsn, end: Lsn, why: &str) -> Result<(), LogError> {
    let mut lsn = end;
    loop {
        let offset = SEGMENT_HEADER_LEN + lsn.bytes_since(base);
        if offset + HEADER_LEN as u64 > scan.len {
            return Ok(());
        }
        let bytes = scan.bytes(offset, HEADER_LEN).map_err(io_error("reading the last segment"))?;
        if let Ok(header) = Header::parse(bytes)
            && header.lsn == lsn
            && header.committed > end
            && !planted::is("damage-taken-for-torn")
        {
            return Err(damage(end, format!("{why}, but the record at {lsn} says it was committed")));
        }
        lsn += 1;
    }
}

impl<D: Disk> Log<D> {
    /// Opens the log in `disk`; see [`OpenOptions`].
    pub fn open_with(disk: D, options: OpenOptions) -> Result<(Log<D>, Recovery), LogError> {
        let disk = Arc::new(disk);
        let mut damage_cut = Vec::new();
        loop {
            let opened = open_once(&disk, &options).and_then(|opened| {
                if options.verify_all {
                    opened.0.verify()?;
                }
                Ok(opened)
            });
            match opened {
                Ok((log, mut recovery)) => {
                    recovery.damage_cut = damage_cut;
                    return Ok((log, recovery));
                }
                Err(LogError::Damaged { lsn, detail }) if options.cut_damage => {
                    // Each round removes bytes, so this ends.
                    tracing::warn!(%lsn, reason = %detail, "setting damaged log aside");
                    damage_cut.extend(cut_damage(&*disk, lsn, &detail, options.wall_ms)?);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

fn segment_bases(disk: &dyn Disk) -> Result<Vec<Lsn>, LogError> {
    let names = disk.list("").map_err(io_error("listing the segments"))?;
    Ok(names.iter().filter_map(|name| base_of(name)).collect())
}

fn open_once<D: Disk>(disk: &Arc<D>, options: &OpenOptions) -> Result<(Log<D>, Recovery), LogError> {
    let mut recovery = Recovery::default();
    let mut map = finish_going(&**disk)?;
    let (mark_file, mark) = MarkFile::open(&**disk).map_err(io_error("reading the known-durable mark"))?;
    recovery.mark = mark.map(|m| m.durable);
    let known_durable = mark.map_or(Lsn::ZERO, |m| m.durable);
    let mut bases = segment_bases(&**disk)?;

    // The last segment may be one that a crash kept from being born: no header, hence no record.
    if let Some(base) = bases.last().copied() {
        let file = disk.open(&file_name(base)).map_err(io_error("opening a segment"))?;
        let unborn = file.size().map_err(io_error("reading a segment"))? <= SEGMENT_HEADER_LEN
            && read_header(&*file, base).is_err()
            && known_durable <= base;
        // So is one behind a gap that nothing speaks of: going on there was about to begin.
        let astray = bases.iter().rev().nth(1).is_some_and(|before| {
            let sealed = disk.open(&file_name(*before)).and_then(|file| file.size());
            let end = sealed.map(|len| *before + len.saturating_sub(SEGMENT_HEADER_LEN));
            map.holes.end() < base && end.is_ok_and(|end| end < base)
        }) && file.size().map_err(io_error("reading a segment"))? == SEGMENT_HEADER_LEN;
        if unborn || astray {
            let remove = disk.remove(&file_name(base)).and_then(|()| disk.sync_dir(""));
            remove.map_err(io_error("removing an unborn segment"))?;
            bases.pop();
        }
    }
    let shared = Arc::new(Shared::new(disk.clone()));
    let mut log = Log {
        disk: disk.clone(),
        shared,
        log_id: 0,
        segment_size: options.segment_size,
        tail: Position::default(),
        active: None,
        durable: Lsn::ZERO,
        durable_chain: 0,
        committed: Lsn::ZERO,
        history: EpochHistory::default(),
        map: Map::default(),
        mark: mark_file,
        behind: mark.is_some_and(|m| m.behind),
        calm_syncs: 0,
        poisoned: None,
        buffer: Vec::new(),
    };
    if bases.is_empty() {
        if known_durable > Lsn::ZERO {
            return Err(damage(Lsn::ZERO, "the segments are gone, but bytes were once durable"));
        }
        return Ok((log, recovery));
    }

    // A hole at the end is one behind which nothing was written yet.
    let last = bases.last().copied().expect("there is one");
    map.holes = map.holes.before(last);
    let header = check_sealed(&**disk, &bases, &map.holes)?;
    if map.log_id != 0 && map.log_id != header.log_id {
        return Err(damage(Lsn::ZERO, "the map of what is gone is that of another log"));
    }
    let base = header.at.lsn;
    let mark = mark.filter(|m| m.log_id == header.log_id);
    let mut file = disk.open(&file_name(base)).map_err(io_error("opening a segment"))?;
    let mut found = scan_last(&*file, &header, mark.as_ref())?;
    let end = found.at.lsn;
    let before = bases.iter().rev().nth(1).filter(|_| !map.holes.ends_at(base));
    if let (true, Some(before)) = (end == base, before) {
        found = LastSegment { torn: found.torn, ..scan_sealed(&**disk, *before, &found.at)? };
    }
    if found.torn {
        let archive = archive_raw(&**disk, &bases, end, Cause::Torn, "torn by a crash", options.wall_ms)?;
        recovery.torn.push(archive);
    }
    if found.torn || (end == base && before.is_some()) {
        let (left, last) = cut_files(&**disk, &bases, end, &map.holes)
            .map_err(io_error("cutting the torn end of the log"))?;
        bases = left;
        if let Some((_, last)) = last {
            file = last;
        }
    }
    // What was found may be in the page cache only: it counts as durable after this sync.
    file.sync_data().and_then(|()| disk.sync_dir("")).map_err(io_error("syncing the log"))?;

    log.log_id = header.log_id;
    log.segment_size = header.segment_size;
    log.tail = found.at;
    log.committed = found.committed;
    log.active = bases.last().map(|base| Active { base: *base, file });
    log.durable = end;
    log.durable_chain = found.at.chain;
    log.shared.set_log_id(header.log_id);
    log.shared.set_segments(bases.clone());
    log.shared.set_holes(map.holes.clone());
    log.map = map;
    log.shared.set_end(end);
    log.shared.set_durable(end);
    log.history = walk_history(&log)?;
    if log.committed == Lsn::ZERO && end > Lsn::ZERO {
        log.committed = last_known_committed(&log)?;
    }
    if !log.map.holes.is_empty() && log.is_replayable() {
        // Nothing goes before what it goes for is committed.
        log.committed = log.committed.max(log.map.checkpoint.to);
    }
    log.write_mark();
    recovery.end = end;
    recovery.segments = bases.len();
    Ok((log, recovery))
}

fn read_header(file: &dyn DiskFile, base: Lsn) -> Result<SegmentHeader, LogError> {
    let mut bytes = [0; SEGMENT_HEADER_LEN as usize];
    let got = file.read_at(&mut bytes, 0).map_err(io_error("reading a segment's header"))?;
    match SegmentHeader::parse(&bytes[..got]) {
        Ok(header) if header.at.lsn == base => Ok(header),
        Ok(header) => Err(damage(base, format!("the segment's header is that of LSN {}", header.at.lsn))),
        Err(SegmentHeaderError::UnknownVersion(v)) => Err(LogError::TooNew(format!("segment format {v}"))),
        Err(e) => Err(damage(base, e.to_string())),
    }
}

/// Reads the map of what is gone and ends what a crash interrupted.
fn finish_going(disk: &dyn Disk) -> Result<Map, LogError> {
    let doing = "removing what was given up";
    let Some(map) = Map::read(disk)? else { return Ok(Map::default()) };
    if map.abandoned {
        gaps::finish_abandoning(disk, &map).map_err(io_error(doing))?;
        return Ok(Map::default());
    }
    if map.sweep(disk).map_err(io_error(doing))? > 0 {
        disk.sync_dir("").map_err(io_error(doing))?;
    }
    Ok(map)
}

/// Checks that the segments follow each other without a gap, save those that are known, and belong
/// together; returns the last one's header. The records of sealed segments are left to [`Log::verify`] and to their readers.
fn check_sealed(disk: &dyn Disk, bases: &[Lsn], holes: &Holes) -> Result<SegmentHeader, LogError> {
    let mut before: Option<SegmentHeader> = None;
    for (i, base) in bases.iter().enumerate() {
        if i == 0 && *base != Lsn::ZERO && holes.at(Lsn::ZERO).is_none_or(|(_, to)| to != *base) {
            return Err(damage(Lsn::ZERO, "the first segment is missing"));
        }
        let file = disk.open(&file_name(*base)).map_err(io_error("opening a segment"))?;
        let header = read_header(&*file, *base)?;
        if let Some(before) = before
            && (before.log_id != header.log_id
                || before.segment_size != header.segment_size
                || before.at.epoch > header.at.epoch)
        {
            return Err(damage(*base, "the segment is not of the same log as the one before"));
        }
        if let Some(next) = bases.get(i + 1) {
            let len = file.size().map_err(io_error("reading a segment"))?;
            let end = holes.next(*base).map_or(*next, |hole| hole.min(*next));
            let gone = holes.at(end).map_or(end, |(_, to)| to);
            if gone != *next {
                return Err(damage(gone, "a segment is missing"));
            }
            let want = SEGMENT_HEADER_LEN + end.bytes_since(*base);
            if len != want {
                let lsn = *base + len.min(want).saturating_sub(SEGMENT_HEADER_LEN);
                return Err(damage(lsn, format!("the segment has {len} bytes instead of {want}")));
            }
        }
        before = Some(header);
    }
    Ok(before.expect("called with a segment at least"))
}

/// Follows the links from the last epoch start to the first.
fn walk_history<D: Disk>(log: &Log<D>) -> Result<EpochHistory, LogError> {
    let reader = log.reader();
    let (mut epoch, mut start) = (log.tail.epoch, log.tail.epoch_start);
    let mut starts = Vec::new();
    while epoch > Epoch::ZERO && start >= log.map.holes.end() {
        let record = reader.read(start)?;
        let link = EpochLink::parse(&record.payload).filter(|link| {
            record.epoch == epoch && link.epoch < epoch && (link.start < start || link.epoch == Epoch::ZERO)
        });
        let link = link.ok_or_else(|| damage(start, format!("epoch {epoch} does not start here")))?;
        starts.push((epoch, start));
        (epoch, start) = (link.epoch, link.start);
    }
    // Older ones may have gone with their records, and stand in the map.
    let older = log.map.history.iter().rev().filter(|(_, at)| *at < log.map.holes.end());
    starts.extend(older.copied());
    if starts.iter().all(|(known, at)| (*known, *at) != (epoch, start)) && epoch > Epoch::ZERO {
        return Err(damage(start, format!("the map of what is gone does not know epoch {epoch}")));
    }
    starts.reverse();
    EpochHistory::new(starts).map_err(|e| damage(Lsn::ZERO, e.to_string()))
}

/// What the start of the last epoch says to be committed, for a last segment that says nothing.
fn last_known_committed<D: Disk>(log: &Log<D>) -> Result<Lsn, LogError> {
    if log.map.holes.at(log.tail.epoch_start).is_some() {
        return Ok(Lsn::ZERO);
    }
    Ok(log.reader().header(log.tail.epoch_start)?.committed)
}

/// Copies raw bytes from `from` to the end of all files into an archive.
fn archive_raw(
    disk: &dyn Disk,
    bases: &[Lsn],
    from: Lsn,
    cause: Cause,
    reason: &str,
    wall_ms: u64,
) -> Result<Archive, LogError> {
    let doing = "setting the end of the log aside";
    let mut files = Vec::new();
    let mut to = from;
    for (i, base) in bases.iter().enumerate() {
        if bases.get(i + 1).is_some_and(|next| *next <= from) {
            continue;
        }
        let file = disk.open(&file_name(*base)).map_err(io_error(doing))?;
        let len = file.size().map_err(io_error(doing))?;
        let start = SEGMENT_HEADER_LEN + from.bytes_since(*base);
        // A file whose header may be what is damaged is kept whole, header included.
        let start = if *base >= from && cause == Cause::Damaged { 0 } else { start };
        to = to.max(*base + len.saturating_sub(SEGMENT_HEADER_LEN));
        files.push((file, start.min(len), len));
    }
    let request = Request {
        cause,
        epoch: Epoch::ZERO,
        from,
        to,
        epochs: Vec::new(),
        records: 0,
        reason: reason.to_owned(),
        wall_ms,
    };
    let mut copy = |sink: &mut Sink<'_>| -> io::Result<()> {
        files.iter().try_for_each(|(file, from, to)| copy_range(&**file, *from, *to, sink))
    };
    set_aside::write(disk, &request, &mut copy).map_err(io_error(doing))
}

/// Sets everything from the damaged place on aside and cuts it.
fn cut_damage(disk: &dyn Disk, lsn: Lsn, detail: &str, wall_ms: u64) -> Result<Option<Archive>, LogError> {
    let doing = "cutting the damaged end of the log";
    let bases = segment_bases(disk)?;
    let archive = if bases.is_empty() {
        None
    } else {
        // Before the end of the checkpoint nothing that remained could be replayed: all of it is kept.
        let checkpoint = Map::read(disk).ok().flatten().map_or(Lsn::ZERO, |map| map.checkpoint.to);
        let from = if lsn < checkpoint { Lsn::ZERO } else { lsn };
        Some(archive_raw(disk, &bases, from, Cause::Damaged, detail, wall_ms)?)
    };
    let map = Map::read(disk).ok().flatten().unwrap_or_default();
    if lsn < map.checkpoint.to {
        // What is left could not be replayed: it is of use as an archive only.
        let given_up = Map { abandoned: true, ..map };
        given_up.write(disk).map_err(io_error(doing))?;
        gaps::finish_abandoning(disk, &given_up).map_err(io_error(doing))?;
        return Ok(archive);
    }
    // The mark would contradict the cut; without it nothing is claimed.
    mark::remove(disk).map_err(io_error(doing))?;
    let (left, first) = cut_files(disk, &bases, lsn, &map.holes).map_err(io_error(doing))?;
    if lsn == Lsn::ZERO && first.is_some() {
        // The very first header may be bad: begin from nothing.
        for base in left {
            disk.remove(&file_name(base)).map_err(io_error(doing))?;
        }
        disk.sync_dir("").map_err(io_error(doing))?;
    }
    Ok(archive)
}
