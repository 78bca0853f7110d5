//! Reading an archive: which whole records it holds, and where.
//!
//! [`ArchiveReader::open`] walks the headers once. What follows from record to record by position and chain is one run.
//! Where a record does not follow, another run begins at the next place that looks like a record of this very position;
//! what lies between is counted as unreadable. The records of the first run stand by right. Those of a later one are
//! behind damage: nothing ties them to the log but their own checksums and position, and the bytes of an object can hold
//! anything, so a reader says of each whether it is.
//!
//! Invariant: no payload leaves whose checksum was not verified.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use holdfast_heartbeat::Lsn;

use super::{Archive, Cause, bytes_of, manifest};
use crate::disk::{Disk, DiskFile};
use crate::log::{LogError, Record};
use crate::record::{HEADER_LEN, Header, RecordError};
use crate::segment::{SEGMENT_HEADER_LEN, SegmentHeader};

/// Bytes that are searched at a time for the next record.
const SEARCHED: usize = 1 << 20;

/// The beginning of every record.
const MAGIC: &[u8; 4] = b"HFRC";

/// Records that follow each other.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// The first one's position.
    lsn: Lsn,
    /// Where it lies in the file.
    offset: u64,
    /// Bytes of all of them.
    len: u64,
    /// Nothing between them and the archive's beginning is missing.
    by_right: bool,
}

/// An archive whose records can be read, by any thread.
#[derive(Clone)]
pub struct ArchiveReader {
    archive: Archive,
    file: Arc<dyn DiskFile>,
    runs: Vec<Run>,
    unreadable: u64,
}

impl std::fmt::Debug for ArchiveReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArchiveReader").field("archive", &self.archive).finish_non_exhaustive()
    }
}

/// Walks the file.
struct Walk<'a> {
    archive: &'a Archive,
    file: &'a dyn DiskFile,
    size: u64,
    at: u64,
    /// Of the record before: where the next one begins, and the chain that it continues.
    last: Option<(Lsn, u32)>,
    by_right: bool,
    runs: Vec<Run>,
    unreadable: u64,
}

impl Walk<'_> {
    /// The header of a record that can stand here, whole.
    fn header(&self) -> io::Result<Option<Header>> {
        let Ok(header) = Header::parse(&self.file.read_vec_at(HEADER_LEN, self.at)?) else { return Ok(None) };
        let inside = header.lsn >= self.archive.from && header.end() <= self.archive.to;
        let whole = self.at + header.record_len() <= self.size;
        // Only where the headers of segment files were kept too does it not lie where its position says.
        let ahead = (self.at + self.archive.from.0).checked_sub(header.lsn.0);
        let placed = match self.archive.cause {
            Cause::Divergent | Cause::Torn => ahead == Some(0),
            Cause::Damaged => ahead.is_some_and(|ahead| ahead % SEGMENT_HEADER_LEN == 0),
        };
        Ok((inside && whole && placed).then_some(header))
    }

    fn run(&mut self) -> io::Result<()> {
        while self.at < self.size {
            if let Some(header) = self.header()? {
                let follows = match self.last {
                    Some(last) => last == (header.lsn, header.chain),
                    None => header.lsn == self.archive.from,
                };
                self.by_right &= follows;
                match self.runs.last_mut() {
                    // A segment's header may stand between two records that follow each other: runs are without.
                    Some(run) if follows && run.offset + run.len == self.at => run.len += header.record_len(),
                    _ => self.runs.push(Run {
                        lsn: header.lsn,
                        offset: self.at,
                        len: header.record_len(),
                        by_right: self.by_right,
                    }),
                }
                self.last = Some((header.end(), header.chain_after()));
                self.at += header.record_len();
            } else if self.segment_header()? {
                self.at += SEGMENT_HEADER_LEN;
            } else {
                self.search()?;
            }
        }
        Ok(())
    }

    fn segment_header(&self) -> io::Result<bool> {
        let bytes = self.file.read_vec_at(SEGMENT_HEADER_LEN as usize, self.at)?;
        Ok(self.archive.cause == Cause::Damaged && SegmentHeader::parse(&bytes).is_ok())
    }

    /// Goes to the next place where a record can stand, or to the end.
    fn search(&mut self) -> io::Result<()> {
        let begun = self.at;
        self.at += 1;
        (self.last, self.by_right) = (None, false);
        while self.at < self.size {
            let bytes = self.file.read_vec_at(SEARCHED, self.at)?;
            if bytes.len() < MAGIC.len() {
                self.at = self.size;
                break;
            }
            let base = self.at;
            let found = bytes.windows(MAGIC.len()).enumerate().filter(|(_, four)| four == MAGIC);
            let mut stands = false;
            for (offset, _) in found {
                self.at = base + offset as u64;
                if self.header()?.is_some() {
                    stands = true;
                    break;
                }
            }
            if stands {
                break;
            }
            // The last bytes may be the beginning of one.
            self.at = base + (bytes.len() - MAGIC.len() + 1) as u64;
        }
        self.at = self.at.min(self.size);
        self.unreadable += self.at - begun;
        Ok(())
    }
}

fn io_error(source: io::Error) -> LogError {
    LogError::Io { doing: "reading what was set aside", source }
}

impl ArchiveReader {
    /// Opens the archive of that name, reading the header of each of its records; `None` where there is none.
    pub fn open(disk: &dyn Disk, name: &str) -> io::Result<Option<ArchiveReader>> {
        let Some(archive) = manifest(disk, name)? else { return Ok(None) };
        let file = bytes_of(disk, name)?;
        let size = file.size()?.min(archive.bytes);
        let mut walk = Walk {
            archive: &archive,
            file: &*file,
            size,
            at: 0,
            last: None,
            by_right: true,
            runs: Vec::new(),
            unreadable: 0,
        };
        walk.run()?;
        let (runs, unreadable) = (walk.runs, walk.unreadable + archive.bytes.saturating_sub(size));
        Ok(Some(ArchiveReader { archive, file, runs, unreadable }))
    }

    /// Its manifest.
    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    /// Bytes that are no whole record.
    pub fn unreadable_bytes(&self) -> u64 {
        self.unreadable
    }

    fn run_of(&self, lsn: Lsn) -> Option<&Run> {
        self.runs.iter().find(|run| run.lsn <= lsn && lsn < run.lsn + run.len)
    }

    /// Whether the record at `lsn` stands behind damage.
    pub fn is_behind_damage(&self, lsn: Lsn) -> bool {
        self.run_of(lsn).is_none_or(|run| !run.by_right)
    }

    /// The headers of the records, in their order, each verified.
    pub fn headers(&self) -> impl Iterator<Item = Result<Header, LogError>> + '_ {
        self.headers_after(None)
    }

    /// The headers of the records behind the one that begins at `after`, without a look at those before.
    pub fn headers_after(&self, after: Option<Lsn>) -> impl Iterator<Item = Result<Header, LogError>> + '_ {
        let begin = after.and_then(|after| self.header(after).ok()).map(|header| header.end());
        let begin = begin.or(after.map(|after| after + 1)).unwrap_or(Lsn::ZERO);
        let first = self.runs.partition_point(|run| run.lsn + run.len <= begin);
        self.runs[first..].iter().flat_map(move |run| {
            let mut at = Some(run.lsn.max(begin));
            std::iter::from_fn(move || {
                let lsn = at.take().filter(|lsn| *lsn < run.lsn + run.len)?;
                let header = self.header_in(run, lsn);
                at = header.as_ref().ok().map(Header::end);
                Some(header)
            })
        })
    }

    fn header_in(&self, run: &Run, lsn: Lsn) -> Result<Header, LogError> {
        let offset = run.offset + lsn.bytes_since(run.lsn);
        let bytes = self.file.read_vec_at(HEADER_LEN, offset).map_err(io_error)?;
        match Header::parse(&bytes) {
            Ok(header) if header.lsn == lsn => Ok(header),
            Ok(_) => Err(damaged(lsn, RecordError::Nonsense)),
            Err(error) => Err(damaged(lsn, error)),
        }
    }

    /// The header of the record that begins at `lsn`.
    pub fn header(&self, lsn: Lsn) -> Result<Header, LogError> {
        match self.run_of(lsn) {
            Some(run) => self.header_in(run, lsn),
            None => Err(LogError::OutOfRange { lsn, end: self.archive.to }),
        }
    }

    /// The record that begins at `lsn`, verified.
    pub fn read(&self, lsn: Lsn) -> Result<Record, LogError> {
        let header = self.header(lsn)?;
        let Some(run) = self.run_of(lsn) else {
            return Err(LogError::OutOfRange { lsn, end: self.archive.to });
        };
        let offset = run.offset + lsn.bytes_since(run.lsn) + HEADER_LEN as u64;
        let payload = self.file.read_vec_at(header.payload_len as usize, offset).map_err(io_error)?;
        header.check_payload(&payload).map_err(|error| damaged(lsn, error))?;
        let (end, kind, epoch) = (header.end(), header.kind, header.epoch);
        Ok(Record { lsn, end, kind, epoch, payload: Bytes::from(payload) })
    }

    /// `len` bytes from `offset` within the payload of the record that begins at `lsn`; the whole record is verified.
    pub fn read_slice(&self, lsn: Lsn, offset: u32, len: u32) -> Result<Bytes, LogError> {
        let record = self.read(lsn)?;
        let (from, to) = (offset as usize, offset as usize + len as usize);
        if to > record.payload.len() {
            return Err(LogError::OutOfRange { lsn: lsn + (HEADER_LEN + to) as u64, end: record.end });
        }
        Ok(record.payload.slice(from..to))
    }
}

fn damaged(lsn: Lsn, error: RecordError) -> LogError {
    LogError::Damaged { lsn, detail: error.to_string() }
}

#[cfg(test)]
mod tests {
    use holdfast_heartbeat::Epoch;

    use super::super::{Request, write};
    use super::*;
    use crate::record::RecordKind;
    use crate::testing::MemDisk;

    const FROM: u64 = 1000;

    /// Records with these payloads, one after the other from [`FROM`] on.
    fn records(payloads: &[&[u8]]) -> Vec<u8> {
        let (mut bytes, mut chain) = (Vec::new(), 7);
        for payload in payloads {
            let header = Header {
                kind: RecordKind::Op,
                payload_len: payload.len() as u32,
                chain,
                epoch: Epoch(3),
                lsn: Lsn(FROM + bytes.len() as u64),
                committed: Lsn(900),
                payload_crc: crc32c::crc32c(payload),
            };
            chain = header.chain_after();
            bytes.extend_from_slice(&header.encode());
            bytes.extend_from_slice(payload);
        }
        bytes
    }

    fn opened(cause: Cause, bytes: &[u8]) -> ArchiveReader {
        let disk = MemDisk::new();
        let request = Request {
            cause,
            epoch: Epoch(3),
            from: Lsn(FROM),
            to: Lsn(FROM + bytes.len() as u64),
            epochs: vec![],
            records: 0,
            reason: String::new(),
            wall_ms: 0,
        };
        let archive = write(&disk, &request, &mut |sink| sink(bytes)).unwrap();
        ArchiveReader::open(&disk, &archive.name).unwrap().unwrap()
    }

    /// Payloads in their order, and whether each stands behind damage.
    fn found(reader: &ArchiveReader) -> Vec<(Vec<u8>, bool)> {
        let headers: Vec<_> = reader.headers().map(Result::unwrap).collect();
        let each = headers.iter().map(|header| {
            let record = reader.read(header.lsn).unwrap();
            (record.payload.to_vec(), reader.is_behind_damage(header.lsn))
        });
        each.collect()
    }

    #[test]
    fn every_record_is_read_back() {
        let bytes = records(&[b"one", b"", b"three"]);
        for cause in [Cause::Divergent, Cause::Torn, Cause::Damaged] {
            let reader = opened(cause, &bytes);
            let all = [(b"one".to_vec(), false), (vec![], false), (b"three".to_vec(), false)];
            assert_eq!(found(&reader), all);
            assert_eq!(reader.unreadable_bytes(), 0);
            assert_eq!(&reader.read_slice(Lsn(FROM), 1, 2).unwrap()[..], b"ne");
            assert!(reader.read_slice(Lsn(FROM), 1, 3).is_err());
            assert!(reader.read(Lsn(FROM + 1)).is_err(), "no record begins there");
            assert!(reader.read(Lsn(FROM - 1)).is_err());
            let headers: Vec<_> = reader.headers().map(|header| header.unwrap().lsn).collect();
            for (number, lsn) in headers.iter().enumerate() {
                let behind: Vec<_> =
                    reader.headers_after(Some(*lsn)).map(|header| header.unwrap().lsn).collect();
                assert_eq!(behind, headers[number + 1..]);
            }
        }
    }

    #[test]
    fn of_a_torn_end_the_whole_records_are_read_and_the_other_bytes_counted() {
        let bytes = records(&[b"one", b"two"]);
        for cut in 1..HEADER_LEN + 3 {
            let reader = opened(Cause::Torn, &bytes[..bytes.len() - cut]);
            assert_eq!(found(&reader), [(b"one".to_vec(), false)]);
            assert_eq!(reader.unreadable_bytes() as usize, HEADER_LEN + 3 - cut);
        }
        let reader = opened(Cause::Torn, &[0; 5000]);
        assert_eq!((found(&reader), reader.unreadable_bytes()), (vec![], 5000));
    }

    #[test]
    fn what_is_found_behind_a_damaged_header_is_said_to_be() {
        let mut bytes = records(&[b"one", b"two", b"three"]);
        let second = HEADER_LEN + 3;
        bytes[second + 20] ^= 1;
        let reader = opened(Cause::Damaged, &bytes);
        assert_eq!(found(&reader), [(b"one".to_vec(), false), (b"three".to_vec(), true)]);
        assert_eq!(reader.unreadable_bytes() as usize, HEADER_LEN + 3);
    }

    #[test]
    fn a_damaged_payload_is_refused_and_those_behind_it_stand_by_right() {
        let mut bytes = records(&[b"one", b"two"]);
        bytes[HEADER_LEN] ^= 1;
        let reader = opened(Cause::Damaged, &bytes);
        assert!(reader.read(Lsn(FROM)).is_err());
        let second = Lsn(FROM + HEADER_LEN as u64 + 3);
        assert_eq!(&reader.read(second).unwrap().payload[..], b"two");
        assert!(!reader.is_behind_damage(second));
    }

    #[test]
    fn records_inside_the_bytes_of_an_object_are_not_taken_for_records_of_the_log() {
        // As if somebody had stored a log in the store: positions that are not those of the place.
        let inner = records(&[b"inner"]);
        let mut bytes = records(&[&inner, b"two"]);
        bytes[20] ^= 1;
        let reader = opened(Cause::Damaged, &bytes);
        assert_eq!(found(&reader), [(b"two".to_vec(), true)]);
    }

    #[test]
    fn headers_of_segment_files_between_records_are_passed_over() {
        let all = records(&[b"one", b"two"]);
        let (one, two) = all.split_at(HEADER_LEN + 3);
        let header = SegmentHeader {
            log_id: 5,
            segment_size: 1 << 20,
            at: crate::record::Position {
                lsn: Lsn(FROM + one.len() as u64),
                chain: 1,
                epoch: Epoch(3),
                epoch_start: Lsn(1),
            },
        };
        let disk = MemDisk::new();
        let bytes = [one, &header.encode(), two].concat();
        let request = Request {
            cause: Cause::Damaged,
            epoch: Epoch::ZERO,
            from: Lsn(FROM),
            to: Lsn(FROM + all.len() as u64),
            epochs: vec![],
            records: 0,
            reason: String::new(),
            wall_ms: 0,
        };
        let archive = write(&disk, &request, &mut |sink| sink(&bytes)).unwrap();
        let reader = ArchiveReader::open(&disk, &archive.name).unwrap().unwrap();
        assert_eq!(found(&reader), [(b"one".to_vec(), false), (b"two".to_vec(), false)]);
        assert_eq!(reader.unreadable_bytes(), 0);
    }
}
