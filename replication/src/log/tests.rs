use proptest::prelude::*;

use super::*;
use crate::testing::{Dice, MemDisk};

const ID: u64 = 0xfeed;
const SEGMENT: u64 = 600;

fn fresh(disk: &MemDisk) -> Log<MemDisk> {
    let (mut log, _) = Log::open(disk.clone(), SEGMENT).unwrap();
    log.found(ID, SEGMENT).unwrap();
    log
}

fn reopen(disk: &MemDisk) -> Result<(Log<MemDisk>, Recovery), LogError> {
    Log::open(disk.clone(), SEGMENT)
}

fn start(log: &mut Log<MemDisk>, epoch: u64) -> Lsn {
    log.append(RecordKind::EpochStart, Epoch(epoch), &[b"who"]).unwrap().0
}

fn put(log: &mut Log<MemDisk>, epoch: u64, payload: &[u8]) -> Lsn {
    log.append(RecordKind::Op, Epoch(epoch), &[payload]).unwrap().0
}

/// A log of two epochs over several segments, all of it synced.
fn sample(disk: &MemDisk) -> (Log<MemDisk>, Vec<(Lsn, Vec<u8>)>) {
    let mut log = fresh(disk);
    let mut records = Vec::new();
    for epoch in [3, 5] {
        start(&mut log, epoch);
        for n in 0..12u8 {
            let payload = vec![n; 10 * n as usize];
            records.push((put(&mut log, epoch, &payload), payload));
        }
        log.sync().unwrap();
    }
    (log, records)
}

fn content(disk: &MemDisk) -> Vec<u8> {
    let files = disk.files();
    let segments = files.iter().filter(|(name, _)| crate::segment::base_of(name).is_some());
    segments.flat_map(|(_, bytes)| bytes[SEGMENT_HEADER_LEN as usize..].to_vec()).collect()
}

#[test]
fn what_was_appended_is_read_back_before_and_after_reopening() {
    let disk = MemDisk::new();
    let (log, records) = sample(&disk);
    assert!(log.segment_count() > 3);
    let (end, chain, history) = (log.end(), log.chain_at_end(), log.history().clone());
    for (lsn, payload) in &records {
        assert_eq!(&log.reader().read(*lsn).unwrap().payload[..], &payload[..]);
    }
    drop(log);
    let (log, recovery) = reopen(&disk.kill()).unwrap();
    assert_eq!((log.end(), log.durable(), log.chain_at_end()), (end, end, chain));
    assert_eq!(log.history(), &history);
    assert_eq!(history.starts().iter().map(|(e, _)| e.0).collect::<Vec<_>>(), [3, 5]);
    assert_eq!(recovery.mark, Some(end));
    for (lsn, payload) in &records {
        assert_eq!(&log.reader().read(*lsn).unwrap().payload[..], &payload[..]);
    }
    assert_eq!(log.verify().unwrap().records, 26);
    let (lsn, payload) = &records[11];
    assert_eq!(&log.reader().read_slice(*lsn, 5, 20).unwrap()[..], &payload[5..25]);
    assert!(matches!(log.reader().read_slice(*lsn, 100, 11), Err(LogError::OutOfRange { .. })));
    assert!(matches!(log.reader().read(end), Err(LogError::OutOfRange { .. })));
}

#[test]
fn a_log_on_a_real_disk_survives_reopening_and_cutting() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Log::open(crate::disk::FileDisk::open(dir.path()).unwrap(), SEGMENT).unwrap().0;
    let mut log = open();
    log.found(ID, SEGMENT).unwrap();
    log.append(RecordKind::EpochStart, Epoch(1), &[b"who"]).unwrap();
    let places: Vec<Lsn> =
        (0..20).map(|n| log.append(RecordKind::Data, Epoch(1), &[&[n; 70], b"tail"]).unwrap().0).collect();
    log.sync().unwrap();
    let end = log.end();
    drop(log);
    let mut log = open();
    let reader = log.reader();
    assert_eq!(log.end(), end);
    assert_eq!(log.verify().unwrap().records, 21);
    // A reader's cached files stay good for what was not cut, on any thread.
    let (kept, cut) = (places[3], places[9]);
    let read = std::thread::spawn(move || reader.read(kept).unwrap().payload);
    assert_eq!(&read.join().unwrap()[..70], &[3; 70]);
    let archive = log.set_aside(cut, Cause::Divergent, "test", 1).unwrap();
    log.truncate_to(cut, &archive).unwrap();
    drop(log);
    let log = open();
    assert_eq!((log.end(), log.archives().unwrap()), (cut, vec![archive]));
    log.verify().unwrap();
}

#[test]
fn a_range_of_a_file_is_named_only_where_its_record_is_sound() {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir().unwrap();
    let disk = crate::disk::FileDisk::open(dir.path()).unwrap();
    let mut log = Log::open(disk, 4 << 20).unwrap().0;
    log.found(ID, 4 << 20).unwrap();
    log.append(RecordKind::EpochStart, Epoch(1), &[b"who"]).unwrap();
    let payload: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    let (lsn, _) = log.append(RecordKind::Data, Epoch(1), &[&payload]).unwrap();
    log.append(RecordKind::Op, Epoch(1), &[b"behind it"]).unwrap();
    let reader = log.reader();
    let range = reader.file_range(lsn, 7, 200_000).unwrap().expect("a real disk");
    let mut found = vec![0; range.len as usize];
    range.file.read_exact_at(&mut found, range.offset).unwrap();
    assert_eq!(found, payload[7..200_007]);
    assert!(matches!(reader.file_range(lsn, 100_000, 200_001), Err(LogError::OutOfRange { .. })));
    // Outside of the range, and in the record all the same.
    range.file.write_all_at(&[!payload[250_000]], range.offset - 7 + 250_000).unwrap();
    assert!(matches!(reader.file_range(lsn, 7, 200_000), Err(LogError::Damaged { .. })));
    let (log, records) = sample(&MemDisk::new());
    assert!(log.reader().file_range(records[3].0, 0, 5).unwrap().is_none(), "no file that a kernel knows");
}

#[test]
fn replicas_that_receive_the_same_bytes_in_other_pieces_have_the_same_files() {
    let (left, right) = (MemDisk::new(), MemDisk::new());
    let (from, _) = sample(&left);
    let mut to = fresh(&right);
    let mut at = Lsn::ZERO;
    for max in [1, 1000, 70, 5000].into_iter().cycle() {
        if at == from.end() {
            break;
        }
        let run = from.reader().read_run(at, max).unwrap();
        at = to.append_verbatim(at, &run).unwrap();
    }
    to.sync().unwrap();
    assert_eq!(left.files(), right.files());
}

#[test]
fn records_out_of_order_are_refused_and_change_nothing() {
    let disk = MemDisk::new();
    let (mut log, _) = sample(&disk);
    let files = disk.files();
    let end = log.end();
    let stale = log.append(RecordKind::Op, Epoch(4), &[b"x"]);
    assert!(matches!(stale, Err(LogError::OutOfSequence(SequenceError::Epoch { .. }))));
    assert!(log.append(RecordKind::EpochStart, Epoch(5), &[b"x"]).is_err());
    assert!(log.append(RecordKind::Op, Epoch(6), &[b"x"]).is_err());
    assert!(matches!(
        log.append(RecordKind::Op, Epoch(5), &[&vec![0; MAX_PAYLOAD + 1]]),
        Err(LogError::TooLarge(_))
    ));
    let old = log.reader().read_run(Lsn::ZERO, 100).unwrap();
    assert!(log.append_verbatim(Lsn::ZERO, &old).is_err());
    assert!(matches!(
        log.append_verbatim(end, &old),
        Err(LogError::OutOfSequence(SequenceError::Lsn { .. }))
    ));
    // The same position in a log of other bytes: only the chain tells.
    let other = MemDisk::new();
    let mut fork = fresh(&other);
    start(&mut fork, 3);
    while fork.end() < end {
        let room = end.bytes_since(fork.end()) as usize;
        let len = if room < 200 { room - HEADER_LEN } else { 60 };
        put(&mut fork, 3, &vec![9; len]);
    }
    assert_eq!(fork.end(), end);
    let next = start(&mut fork, 9);
    let run = fork.reader().read_run(next, 1000).unwrap();
    assert!(matches!(log.append_verbatim(end, &run), Err(LogError::OutOfSequence(SequenceError::Chain(_)))));
    assert_eq!((disk.files(), log.end()), (files, end));
}

#[test]
fn a_torn_tail_is_set_aside_and_cut() {
    let disk = MemDisk::new();
    let (mut log, _) = sample(&disk);
    let end = log.end();
    put(&mut log, 5, b"never synced");
    let name = disk.files().keys().rfind(|n| crate::segment::base_of(n).is_some()).unwrap().clone();
    let file = disk.open(&name).unwrap();
    file.truncate(file.size().unwrap() - 3).unwrap();
    let (mut log, recovery) = reopen(&disk.kill()).unwrap();
    assert_eq!(log.end(), end);
    assert_eq!(recovery.torn.len(), 1);
    assert_eq!(recovery.torn[0].from, end);
    assert_eq!(log.archives().unwrap(), recovery.torn);
    put(&mut log, 5, b"goes on");
    log.sync().unwrap();
    log.verify().unwrap();
}

#[test]
fn a_lost_write_with_a_whole_one_behind_it_is_torn_unless_it_was_committed() {
    for committed in [false, true] {
        let disk = MemDisk::new();
        let mut log = fresh(&disk);
        start(&mut log, 1);
        let hole = put(&mut log, 1, b"first");
        if committed {
            log.note_committed(log.end());
        }
        put(&mut log, 1, b"second");
        // As after a power cut: no mark, one write lost and the next one kept.
        disk.flip_bit("0000000000000000.log", (SEGMENT_HEADER_LEN + hole.0) * 8);
        disk.remove("durable").ok();
        match reopen(&disk.kill()) {
            Ok((log, recovery)) => {
                assert!(!committed);
                assert_eq!(log.end(), hole);
                assert_eq!(recovery.torn.len(), 1);
            }
            Err(LogError::Damaged { lsn, .. }) => assert!(committed && lsn == hole),
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn on_a_log_that_was_behind_a_word_of_commitment_proves_no_damage_here() {
    for calm in [false, true] {
        let mut from = fresh(&MemDisk::new());
        start(&mut from, 1);
        let first = put(&mut from, 1, b"committed by others");
        from.note_committed(from.end());
        put(&mut from, 1, b"says so");
        let disk = MemDisk::new();
        let mut log = fresh(&disk);
        let run = from.reader().read_run(Lsn::ZERO, 10_000).unwrap();
        log.append_verbatim(Lsn::ZERO, &run).unwrap();
        let mut hole = first;
        if calm {
            // It caught up long ago: what is committed is durable here first.
            for _ in 0..=CALM_SYNCS {
                put(&mut log, 1, b"");
                log.sync().unwrap();
            }
            hole = put(&mut log, 1, b"lost");
            log.note_committed(log.end());
            put(&mut log, 1, b"says so");
        }
        let base = *log.reader().segments().iter().rfind(|b| **b <= hole).unwrap();
        // Both records of interest must be in the last segment.
        assert_eq!(log.reader().segments().last(), Some(&base));
        drop(log);
        disk.flip_bit(&file_name(base), (SEGMENT_HEADER_LEN + hole.bytes_since(base)) * 8);
        match reopen(&disk.kill()) {
            Ok((log, recovery)) => {
                assert!(!calm);
                assert_eq!((log.end(), recovery.torn.len()), (hole, 1));
            }
            Err(LogError::Damaged { lsn, .. }) => assert!(calm && lsn == hole),
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn what_was_synced_while_behind_is_known_to_have_been_durable() {
    for (seed, syncs) in (0..20).flat_map(|seed| [(seed, 1), (seed, 5), (seed, CALM_SYNCS + 1)]) {
        let mut from = fresh(&MemDisk::new());
        start(&mut from, 1);
        put(&mut from, 1, b"committed by others");
        from.note_committed(from.end());
        put(&mut from, 1, b"says so");
        let disk = MemDisk::new();
        let mut log = fresh(&disk);
        let run = from.reader().read_run(Lsn::ZERO, 10_000).unwrap();
        log.append_verbatim(Lsn::ZERO, &run).unwrap();
        let mut hole = Lsn::ZERO;
        for _ in 0..syncs {
            hole = put(&mut log, 1, b"acknowledged");
            log.sync().unwrap();
        }
        if syncs > CALM_SYNCS {
            // Not behind any more, which is to be known as well.
            log.note_committed(log.end());
            put(&mut log, 1, b"says so");
            log.sync().unwrap();
        }
        let base = *log.reader().segments().last().unwrap();
        assert!(base <= hole, "the record of interest must be in the last segment");
        drop(log);
        disk.flip_bit(&file_name(base), (SEGMENT_HEADER_LEN + hole.bytes_since(base)) * 8);
        let opened = reopen(&disk.crash(seed));
        assert!(
            matches!(opened, Err(LogError::Damaged { lsn, .. }) if lsn == hole),
            "seed {seed}, {syncs} syncs: {:?}",
            opened.map(|(log, _)| log.end())
        );
    }
}

#[test]
fn what_a_killed_process_left_unsynced_is_durable_before_it_counts() {
    for seed in 0..20 {
        let disk = MemDisk::new();
        let (mut log, _) = sample(&disk);
        put(&mut log, 5, b"written, not synced");
        drop(log);
        let disk = disk.kill();
        let durable = reopen(&disk).unwrap().0.durable();
        let (log, _) = reopen(&disk.crash(seed)).unwrap();
        assert!(log.end() >= durable, "seed {seed}");
    }
}

/// A log whose last segment has a header and nothing else that is whole, and whose mark went with the power.
fn ends_with_a_torn_segment() -> (MemDisk, String, String) {
    let disk = MemDisk::new();
    drop(sample(&disk));
    disk.remove("durable").unwrap();
    let names: Vec<String> =
        disk.files().into_keys().filter(|name| crate::segment::base_of(name).is_some()).collect();
    let [.., before, last] = &names[..] else { panic!() };
    disk.flip_bit(last, 8 * (SEGMENT_HEADER_LEN + 1));
    (disk, before.clone(), last.clone())
}

#[test]
fn a_segment_that_holds_no_record_goes_and_the_log_goes_on_from_the_records_before_it() {
    let (disk, before, last) = ends_with_a_torn_segment();
    let (mut log, recovery) = reopen(&disk).unwrap();
    assert!(recovery.torn.len() == 1 && !disk.files().contains_key(&last));
    assert_eq!(log.end(), crate::segment::base_of(&last).unwrap());
    start(&mut log, 9);
    log.sync().unwrap();
    drop(log);
    let (log, _) = reopen(&disk).unwrap();
    log.verify().unwrap();
    // What stands before the segment that went was synced, so a bad byte in it is no torn tail.
    let (disk, ..) = ends_with_a_torn_segment();
    disk.flip_bit(&before, 8 * (SEGMENT_HEADER_LEN + 1));
    assert!(matches!(reopen(&disk), Err(LogError::Damaged { .. })));
}

#[test]
fn a_whole_header_that_continues_other_bytes_is_not_taken_for_the_end_of_the_log() {
    let (disk, _, last) = ends_with_a_torn_segment();
    let file = disk.open(&last).unwrap();
    let mut header = SegmentHeader::parse(&disk.files()[&last][..SEGMENT_HEADER_LEN as usize]).unwrap();
    header.at.chain ^= 1;
    file.write_at(&header.encode(), 0).unwrap();
    assert!(matches!(reopen(&disk), Err(LogError::Damaged { .. })));
}

#[test]
fn lost_segments_are_damage_not_an_empty_log() {
    let disk = MemDisk::new();
    let (_, _) = sample(&disk);
    for name in disk.files().keys().filter(|n| crate::segment::base_of(n).is_some()) {
        disk.remove(name).unwrap();
        assert!(matches!(reopen(&disk), Err(LogError::Damaged { .. })), "{name}");
    }
}

#[test]
fn a_full_disk_leaves_the_log_as_it_was() {
    let disk = MemDisk::new();
    let (mut log, _) = sample(&disk);
    let (end, files) = (log.end(), disk.files());
    for room in [0, 10, 60, 100, 200] {
        disk.set_capacity(Some(disk.used() + room));
        assert!(log.append(RecordKind::Op, Epoch(5), &[&[7; 400]]).unwrap_err().is_full());
        assert_eq!(log.end(), end);
        assert_eq!(disk.files(), files, "room {room}");
    }
    disk.set_capacity(None);
    put(&mut log, 5, &[7; 400]);
    log.sync().unwrap();
    log.verify().unwrap();
}

#[test]
fn after_a_failed_sync_nothing_is_durable_any_more() {
    let disk = MemDisk::new();
    let (mut log, _) = sample(&disk);
    let durable = log.durable();
    put(&mut log, 5, b"x");
    disk.fail_syncs(1);
    assert!(matches!(log.sync(), Err(LogError::Poisoned(_))));
    assert!(matches!(log.sync(), Err(LogError::Poisoned(_))));
    assert!(matches!(log.append(RecordKind::Op, Epoch(5), &[b"y"]), Err(LogError::Poisoned(_))));
    assert_eq!(log.durable(), durable);
}

#[test]
fn a_tail_is_cut_only_when_it_was_set_aside() {
    let disk = MemDisk::new();
    let (mut log, records) = sample(&disk);
    let (cut, end) = (records[5].0, log.end());
    let tail = content(&disk)[cut.0 as usize..].to_vec();
    let late = log.set_aside(records[6].0, Cause::Divergent, "test", 1).unwrap();
    assert!(matches!(log.truncate_to(cut, &late), Err(LogError::NotSetAside(_))));
    let archive = log.set_aside(cut, Cause::Divergent, "test", 1).unwrap();
    assert_eq!((archive.epochs.clone(), archive.records, archive.to), (vec![Epoch(3), Epoch(5)], 20, end));
    assert_eq!(disk.files()[&format!("set-aside/{}.log", archive.name)], tail);
    log.truncate_to(cut, &archive).unwrap();
    assert_eq!((log.end(), log.durable(), log.last_epoch()), (cut, cut, Epoch(3)));
    assert!(log.reader().read(records[6].0).is_err());
    put(&mut log, 3, b"other bytes");
    start(&mut log, 9);
    log.sync().unwrap();
    log.verify().unwrap();
    let (log, _) = reopen(&disk.crash(3)).unwrap();
    assert_eq!(log.history().starts().iter().map(|(e, _)| e.0).collect::<Vec<_>>(), [3, 9]);
    log.verify().unwrap();
}

#[test]
fn killed_at_any_step_of_a_cut_the_log_opens_and_no_byte_is_lost() {
    let mut finished = false;
    for steps in 0.. {
        if finished {
            break;
        }
        for seed in 0..8 {
            let disk = MemDisk::new();
            let (mut log, records) = sample(&disk);
            let cut = records[5].0;
            let before = content(&disk);
            disk.stop_after(Some(steps));
            let archive = log.set_aside(cut, Cause::Divergent, "test", 1);
            finished = archive.and_then(|archive| log.truncate_to(cut, &archive)).is_ok();
            let disk = disk.crash(seed);
            let (log, _) = reopen(&disk).unwrap();
            log.verify().unwrap();
            let now = content(&disk);
            assert!(now.len() as u64 >= cut.0);
            assert_eq!(now, before[..now.len()]);
            if now.len() < before.len() {
                let archives = log.archives().unwrap();
                let archive = archives.iter().find(|a| a.cause == Cause::Divergent).unwrap();
                assert_eq!(
                    disk.files()[&format!("set-aside/{}.log", archive.name)],
                    before[cut.0 as usize..]
                );
            }
        }
    }
}

#[test]
fn damage_is_cut_when_the_member_gives_its_incarnation_up() {
    let disk = MemDisk::new();
    let (log, records) = sample(&disk);
    let (bad, id) = (records[4].0, log.log_id());
    let base = *log.reader().segments().iter().rfind(|b| **b <= bad).unwrap();
    disk.flip_bit(&file_name(base), (SEGMENT_HEADER_LEN + bad.bytes_since(base) + 60) * 8);
    drop(log);
    let options = OpenOptions { cut_damage: true, verify_all: true, ..OpenOptions::default() };
    let (log, recovery) = Log::open_with(disk.kill(), options).unwrap();
    assert_eq!((log.end(), log.log_id()), (bad, id));
    assert_eq!(recovery.damage_cut.len(), 1);
    log.verify().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_bit_flip_anywhere_in_acknowledged_bytes_is_detected(at in any::<u64>()) {
        let disk = MemDisk::new();
        let (log, _) = sample(&disk);
        drop(log);
        let files: Vec<(String, u64)> = disk
            .files()
            .into_iter()
            .filter(|(name, _)| crate::segment::base_of(name).is_some())
            .map(|(name, bytes)| (name, bytes.len() as u64 * 8))
            .collect();
        let mut bit = at % files.iter().map(|(_, bits)| bits).sum::<u64>();
        for (name, bits) in &files {
            if bit < *bits {
                disk.flip_bit(name, bit);
                break;
            }
            bit -= bits;
        }
        let found = reopen(&disk.kill()).and_then(|(log, _)| log.verify());
        prop_assert!(matches!(found, Err(LogError::Damaged { .. })), "{found:?}");
    }

    #[test]
    fn after_a_crash_at_any_point_all_that_was_synced_is_there(seed in any::<u64>()) {
        let mut dice = Dice(seed);
        let mut disk = MemDisk::new();
        let mut log = fresh(&disk);
        let mut epoch = 0;
        // All bytes ever appended to the log as it is now, and how many of them must survive.
        let (mut model, mut owed) = (Vec::new(), 0);
        for _ in 0..dice.below(60) {
            match dice.below(12) {
                0 => {
                    epoch += 1 + dice.below(3);
                    start(&mut log, epoch);
                }
                1..=6 if epoch > 0 => {
                    let payload = vec![dice.roll() as u8; dice.below(700) as usize];
                    put(&mut log, epoch, &payload);
                }
                7 | 8 => {
                    log.sync().unwrap();
                    owed = log.end().0;
                }
                9 => log.note_committed(log.durable()),
                10 => {
                    model = content(&disk);
                    disk = disk.crash(dice.roll());
                    let (opened, recovery) = reopen(&disk).unwrap();
                    log = opened;
                    let end = log.end().0 as usize;
                    prop_assert!(end as u64 >= owed, "lost {owed} > {end}: {recovery:?}");
                    prop_assert_eq!(&content(&disk), &model[..end]);
                    log.verify().unwrap();
                    owed = log.end().0;
                    epoch = log.last_epoch().0;
                    if log.log_id() == 0 {
                        log.found(ID, SEGMENT).unwrap();
                    }
                }
                _ => {}
            }
        }
        let _ = model;
    }
}
