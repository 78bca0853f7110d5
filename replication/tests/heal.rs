//! What changes on a disk is noticed, fetched from a peer and put right; nothing else is taken for it.

mod cluster;

use cluster::{Cluster, pair};
use holdfast_replication::replica::{Input, Output, Wait};
use holdfast_replication::stream::Frame;
use holdfast_replication::{LogError, LogReader, Lsn, RecordKind};

/// A pair with a few segments; where each record is.
fn filled() -> (Cluster, Vec<Lsn>) {
    let mut c = pair();
    let replies: Vec<u64> = (0..40u8).map(|n| c.submit(0, vec![n; 400])).collect();
    c.settle();
    let places = replies.iter().map(|reply| c.place(0, *reply).0).collect();
    (c, places)
}

/// Walks over everything; the first damaged place.
fn scrub(reader: &LogReader) -> Option<Lsn> {
    let mut walk = match reader.walk_from(Lsn::ZERO) {
        Ok(first) => first,
        Err(LogError::Damaged { lsn, .. }) => return Some(lsn),
        Err(error) => panic!("{error}"),
    };
    while let Some(here) = walk {
        walk = match reader.walk_on(&here, 1000) {
            Ok(next) => next,
            Err(LogError::Damaged { lsn, .. }) => return Some(lsn),
            Err(error) => panic!("{error}"),
        };
    }
    None
}

#[test]
fn either_member_is_healed_by_the_other() {
    for (n, other) in [(0, 1), (1, 0)] {
        let (mut c, places) = filled();
        let whole = c.log_files(other);
        assert_eq!(scrub(&c.nodes[n].replica.reader()), None);
        // A payload, a header, and two records in a row.
        for (at, offset) in [(3, 100), (20, 10), (30, 60), (31, 60)] {
            c.flip(n, places[at], offset);
        }
        for _ in 0..4 {
            let Some(lsn) = scrub(&c.nodes[n].replica.reader()) else { break };
            c.heal(n, lsn).unwrap();
        }
        assert_eq!(c.log_files(n), whole);
        assert_eq!(scrub(&c.nodes[n].replica.reader()), None);
        assert!(c.nodes[n].replica.status().healed >= 3);
        let after = c.nodes[n].disk.crash(1);
        c.reopen(n, after);
        assert_eq!(c.log_files(n), whole, "what was healed is durable");
    }
}

#[test]
fn a_damaged_header_of_a_segment_is_made_anew() {
    let (mut c, _) = filled();
    let whole = c.log_files(0);
    for base in c.nodes[1].replica.reader().segments() {
        c.nodes[1].disk.flip_bit(&format!("{:016x}.log", base.0), 8 * 20);
        assert_eq!(scrub(&c.nodes[1].replica.reader()), Some(base));
        c.heal(1, base).unwrap();
        assert_eq!(scrub(&c.nodes[1].replica.reader()), None);
    }
    assert_eq!(c.log_files(1), whole);
}

#[test]
fn a_member_that_is_alone_says_so_and_keeps_what_it_has() {
    let (mut c, places) = filled();
    c.cut(0, 1);
    c.settle();
    c.flip(0, places[3], 100);
    let damaged = c.log_files(0);
    let error = c.heal(0, places[3]).unwrap_err();
    assert!(error.contains("no other member"), "{error}");
    assert_eq!(c.log_files(0), damaged);
}

#[test]
fn what_both_have_lost_stays_lost_and_is_said() {
    let (mut c, places) = filled();
    c.flip(0, places[3], 100);
    c.flip(1, places[3], 200);
    let error = c.heal(1, places[3]).unwrap_err();
    assert!(error.contains("cannot read it either"), "{error}");
    assert!(c.nodes[0].replica.status().damaged.is_some(), "who was asked has noticed");
}

#[test]
fn records_that_do_not_continue_the_log_are_not_taken() {
    let (mut c, places) = filled();
    c.flip(1, places[5], 100);
    let damaged = c.log_files(1);
    // Whole records, well made, and of another place.
    let other = c.nodes[0].replica.reader().read_run(places[6], 100).unwrap();
    c.tell(1, Input::Heal { lsn: places[5], reply: 900 });
    c.ingest(1);
    let Some((conn, _)) = c.conns().next() else { panic!() };
    c.nodes[0].inbox.clear();
    c.tell(1, Input::Frame { conn, frame: Frame::Fetched { lsn: places[5], bytes: other } });
    c.settle();
    let refused = c.answer(1, 900);
    assert!(matches!(refused, Some(Output::Reply { result: Err(_), .. })), "{refused:?}");
    assert_eq!(c.log_files(1), damaged);
    // Nobody asked for this.
    let bytes = c.nodes[0].replica.reader().read_run(places[5], 100).unwrap();
    c.tell(1, Input::Frame { conn, frame: Frame::Fetched { lsn: places[5], bytes } });
    c.settle();
    assert_eq!(c.log_files(1), damaged);
}

#[test]
fn a_break_of_the_stream_answers_who_waits() {
    let (mut c, places) = filled();
    c.flip(1, places[5], 100);
    c.tell(1, Input::Heal { lsn: places[5], reply: 900 });
    c.ingest(1);
    c.cut(0, 1);
    c.settle();
    assert!(matches!(c.answer(1, 900), Some(Output::Reply { result: Err(_), .. })));
    // Asked again on the next one.
    c.connect(1, 0);
    c.settle();
    c.heal(1, places[5]).unwrap();
    assert_eq!(c.log_files(0), c.log_files(1));
}

#[test]
fn an_index_that_is_made_anew_waits_for_what_is_damaged() {
    let (mut c, places) = filled();
    let before = c.nodes[1].replica.machine().entries.clone();
    c.flip(1, places[5], 100);
    let disk = c.nodes[1].disk.kill();
    c.reopen(1, disk);
    c.settle();
    assert_eq!(c.nodes[1].replica.failure(), None);
    assert!(c.nodes[1].replica.machine().applied <= places[5]);
    c.follow(1, 1, 0);
    c.connect(1, 0);
    c.settle();
    assert_eq!(c.nodes[1].replica.machine().entries, before);
    assert_eq!(c.nodes[1].replica.status().healed, 1);
    // Alone, a primary cannot go on.
    c.cut(0, 1);
    c.flip(1, places[5], 100);
    let disk = c.nodes[1].disk.kill();
    c.reopen(1, disk);
    c.lead(1, 2, &[1]);
    c.settle();
    assert!(c.nodes[1].replica.failure().is_some());
}

#[test]
fn a_move_is_made_from_bytes_that_were_healed() {
    let mut c = pair();
    let data = c.submit_as(0, RecordKind::Data, vec![7; 3000], Wait::Committed);
    c.settle();
    let (lsn, _) = c.place(0, data);
    c.flip(0, lsn, 500);
    assert!(c.nodes[0].replica.reader().read_slice(lsn, 0, 3000).is_err());
    c.heal(0, lsn).unwrap();
    assert_eq!(&c.nodes[0].replica.reader().read_slice(lsn, 0, 3000).unwrap()[..], &[7; 3000]);
}
