//! A log's files, changed at will: what opens is whole to the last checksum, and what does not open says why.
//!
//! An input begins with a byte of flags; then each change is the file's number, an offset (two bytes), a length
//! and that many bytes. So the engine needs not find 48 bytes of header by chance, and with the flags that put
//! checksums right it gets behind them.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use holdfast_replication::disk::Disk;
use holdfast_replication::log::{Log, LogError, OpenOptions};
use holdfast_replication::record::{self, HEADER_LEN, Position, RecordKind};
use holdfast_replication::segment::{SEGMENT_HEADER_LEN, base_of, file_name};
use holdfast_replication::testing::MemDisk;
use holdfast_replication::{Epoch, Lsn, MAX_PAYLOAD};

use super::Target;

/// The target.
pub const TARGET: Target = Target { name: "record", run, seeds, max_len: 512, memory_bytes: 32 << 20 };

const SEGMENT_SIZE: u64 = 400;
const SEGMENT_HEADER: usize = SEGMENT_HEADER_LEN as usize;
const MARK: &str = "durable";

/// Flags of an input.
const PUT_PAYLOADS_RIGHT: u8 = 1;
const PUT_HEADERS_RIGHT: u8 = 2;
const PUT_CHAINS_RIGHT: u8 = 4;
const WITHOUT_MARK: u8 = 8;
const CUT_DAMAGE: u8 = 16;
const VERIFY_ALL: u8 = 32;
/// In the number of a change: the file is cut at the offset, or it is a new segment of this name.
const CUT: u8 = 64;
const NEW: u8 = 128;

type Files = BTreeMap<String, Vec<u8>>;

/// A log of two reigns in three segments, as the real one writes it.
static GOOD: LazyLock<Files> = LazyLock::new(|| {
    let disk = MemDisk::new();
    let (mut log, _) = Log::open(disk.clone(), SEGMENT_SIZE).expect("an empty disk");
    log.found(0x0123_4567_89ab, SEGMENT_SIZE).expect("an empty log");
    for (epoch, texts) in [(Epoch(1), ["first", "second"]), (Epoch(3), ["third", "fourth"])] {
        log.append(RecordKind::EpochStart, epoch, &[b"leader"]).expect("room");
        for text in texts {
            log.append(RecordKind::Data, epoch, &[&[7; 60]]).expect("room");
            log.append(RecordKind::Op, epoch, &[text.as_bytes()]).expect("room");
            log.note_committed(log.end());
        }
        log.sync().expect("a sound disk");
    }
    drop(log);
    let files = disk.files();
    assert!(files.keys().filter(|name| base_of(name).is_some()).count() >= 2 && files.contains_key(MARK));
    files
});

fn run(input: &[u8]) -> bool {
    let Some((&flags, changes)) = input.split_first() else { return false };
    let mut files = GOOD.clone();
    change(&mut files, changes);
    if flags & WITHOUT_MARK != 0 {
        files.remove(MARK);
    }
    put_right(&mut files, flags);
    let options = OpenOptions {
        segment_size: SEGMENT_SIZE,
        cut_damage: flags & CUT_DAMAGE != 0,
        verify_all: flags & VERIFY_ALL != 0,
        wall_ms: 0,
    };
    let disk = disk_of(&files);
    match Log::open_with(disk.clone(), options) {
        Ok((log, recovery)) => {
            assert_eq!((recovery.end, log.durable()), (log.end(), log.end()));
            let left = disk.files();
            // Nothing is cut but what was set aside (rule R8).
            let archived = recovery.torn.len() + recovery.damage_cut.len();
            assert!(bytes_of(&left) >= bytes_of(&files) || archived > 0, "cut without an archive");
            if options.verify_all {
                assert_eq!(walked(&left), log.end(), "the log says that it ends elsewhere");
            }
            goes_on(log, disk, options);
            true
        }
        Err(LogError::Damaged { lsn, detail }) => {
            assert!(!options.cut_damage, "damage at {lsn} was to be cut: {detail}");
            false
        }
        Err(LogError::TooNew(_)) => false,
        Err(error) => panic!("an error that no file can cause: {error}"),
    }
}

/// What was opened opens again in the same way and takes the next reign.
fn goes_on(log: Log<MemDisk>, disk: MemDisk, options: OpenOptions) {
    let end = log.end();
    drop(log);
    let (mut log, again) = Log::open_with(disk, options).expect("what opened once opens again");
    assert_eq!(
        (again.end, again.torn.len(), again.damage_cut.len()),
        (end, 0, 0),
        "another log the second time"
    );
    if log.last_epoch() < Epoch(u64::MAX) && end < Lsn(u64::MAX / 4) && end > Lsn::ZERO {
        let (begin, _) = log.append(RecordKind::EpochStart, log.last_epoch().next(), &[]).expect("room");
        assert_eq!(begin, end);
        log.sync().expect("a sound disk");
    }
}

fn change(files: &mut Files, mut changes: &[u8]) {
    let names: Vec<String> = files.keys().cloned().collect();
    while let [number, low, high, length, rest @ ..] = changes {
        let offset = usize::from(u16::from_le_bytes([*low, *high]) % 2048);
        let (bytes, after) = rest.split_at(usize::from(*length).min(rest.len()));
        changes = after;
        if number & NEW != 0 {
            let Some((base, content)) = bytes.split_first_chunk::<8>() else { continue };
            files.insert(file_name(Lsn(u64::from_le_bytes(*base))), content.to_vec());
            continue;
        }
        let Some(file) = files.get_mut(&names[usize::from(number & 63) % names.len()]) else { continue };
        if number & CUT != 0 {
            file.truncate(offset);
            continue;
        }
        if file.len() < offset + bytes.len() {
            file.resize(offset + bytes.len(), 0);
        }
        file[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}

/// Puts right what the flags say, in each segment, as far as its records' lengths make sense.
fn put_right(files: &mut Files, flags: u8) {
    if flags & PUT_HEADERS_RIGHT == 0 {
        return;
    }
    for (name, file) in files.iter_mut() {
        if base_of(name).is_none() || file.len() < SEGMENT_HEADER {
            continue;
        }
        let (head, records) = file.split_at_mut(SEGMENT_HEADER);
        seal(head, SEGMENT_HEADER - 4);
        let mut chain: [u8; 4] = head[56..60].try_into().expect("four bytes");
        let mut at = 0;
        while let Some(header) = records.get_mut(at..at + HEADER_LEN) {
            let length = u32::from_le_bytes(header[8..12].try_into().expect("four bytes")) as usize;
            let Some(payload) = records.get(at + HEADER_LEN..(at + HEADER_LEN).saturating_add(length)) else {
                break;
            };
            let payload_crc = crc32c::crc32c(payload).to_le_bytes();
            let header = &mut records[at..at + HEADER_LEN];
            if flags & PUT_PAYLOADS_RIGHT != 0 {
                header[40..44].copy_from_slice(&payload_crc);
            }
            if flags & PUT_CHAINS_RIGHT != 0 {
                header[12..16].copy_from_slice(&chain);
            }
            seal(header, HEADER_LEN - 4);
            chain = header[44..48].try_into().expect("four bytes");
            at += HEADER_LEN + length;
        }
    }
    if let Some(mark) = files.get_mut(MARK).filter(|mark| mark.len() >= 40) {
        seal(&mut mark[..40], 36);
    }
}

/// Writes the checksum of what stands before it at `at`.
fn seal(bytes: &mut [u8], at: usize) {
    let crc = crc32c::crc32c(&bytes[..at]).to_le_bytes();
    bytes[at..at + 4].copy_from_slice(&crc);
}

fn disk_of(files: &Files) -> MemDisk {
    let disk = MemDisk::new();
    for (name, bytes) in files {
        let file = disk.create(name).expect("a sound disk");
        file.write_at(bytes, 0).and_then(|()| file.sync_data()).expect("a sound disk");
    }
    disk.sync_dir("").expect("a sound disk");
    disk
}

/// Bytes of records in the segments.
fn bytes_of(files: &Files) -> usize {
    files
        .iter()
        .filter(|(name, _)| base_of(name).is_some())
        .map(|(_, file)| file.len().saturating_sub(SEGMENT_HEADER))
        .sum()
}

/// Walks all segments from the first byte of the log on, checking each checksum by hand; gives where it ends.
fn walked(files: &Files) -> Lsn {
    let mut at: Option<Position> = None;
    for (name, file) in files.iter().filter(|(name, _)| base_of(name).is_some()) {
        let log_id = u64::from_le_bytes(file[16..24].try_into().expect("eight bytes"));
        let mut position = at.unwrap_or_else(|| Position::origin(log_id));
        assert_eq!(base_of(name), Some(position.lsn), "a hole between two segments");
        let mut rest = &file[SEGMENT_HEADER..];
        while !rest.is_empty() {
            let stored = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().expect("four bytes"));
            assert_eq!(crc32c::crc32c(&rest[..HEADER_LEN - 4]), stored(HEADER_LEN - 4), "a bad header");
            let length = stored(8) as usize;
            assert!(length <= MAX_PAYLOAD);
            let payload = &rest[HEADER_LEN..HEADER_LEN + length];
            assert_eq!(crc32c::crc32c(payload), stored(40), "a bad payload");
            let (header, payload) = record::parse(rest).expect("a record whose checksums are right");
            position = position.follow(&header, payload).expect("a record in its place");
            rest = &rest[HEADER_LEN + length..];
        }
        at = Some(position);
    }
    at.map_or(Lsn::ZERO, |position| position.lsn)
}

fn seeds() -> Vec<Vec<u8>> {
    let right = PUT_PAYLOADS_RIGHT | PUT_HEADERS_RIGHT | PUT_CHAINS_RIGHT;
    let record =
        &GOOD.iter().rfind(|(name, _)| base_of(name).is_some()).expect("segments").1[SEGMENT_HEADER..];
    let one = &record[..record.len().min(200)];
    let change = |number: u8, offset: u16, bytes: &[u8]| {
        let length = u8::try_from(bytes.len()).expect("small");
        [&[number], &offset.to_le_bytes()[..], &[length], bytes].concat()
    };
    let mut seeds = Vec::new();
    for flags in
        [0, VERIFY_ALL, CUT_DAMAGE | VERIFY_ALL, WITHOUT_MARK, WITHOUT_MARK | VERIFY_ALL, right | VERIFY_ALL]
    {
        seeds.push(vec![flags]);
        for number in 0..4 {
            seeds.push([vec![flags], change(number, 70, &[1])].concat());
            seeds.push([vec![flags], change(number | CUT, 100, &[])].concat());
        }
        seeds.push([vec![flags], change(2, 300, one), change(1, 64 + 24, &[9; 8])].concat());
        seeds.push([vec![flags], change(NEW, 0, &[&[0, 4, 0, 0, 0, 0, 0, 0], one].concat())].concat());
        seeds.push([vec![flags], change(NEW, 0, &[0xff; 90])].concat());
    }
    seeds
}
