//! Parts of the log go, on every member alike, and nothing that was committed goes with them.

mod cluster;

use cluster::{Cluster, SEGMENT, member, pair};
use holdfast_replication::moves::{MoveSource, encode_head, head_len};
use holdfast_replication::replica::{Input, Output, Wait};
use holdfast_replication::{Epoch, Lsn, RecordKind};

/// A pair with a few segments of operations; the segments' beginnings.
fn filled() -> (Cluster, Vec<Lsn>) {
    let mut c = pair();
    for n in 0..40u8 {
        c.submit(0, vec![n; 400]);
    }
    c.settle();
    let segments = c.nodes[0].replica.reader().segments();
    assert!(segments.len() > 4);
    (c, segments)
}

/// As [`filled`], with the second and third segment gone.
fn thinned() -> (Cluster, Vec<Lsn>) {
    let (mut c, segments) = filled();
    let checkpoint = c.checkpoint(0);
    c.retire(0, &[(segments[1], segments[3])], checkpoint);
    (c, segments)
}

fn machines_agree(c: &Cluster, a: usize, b: usize) {
    let (a, b) = (c.nodes[a].replica.machine(), c.nodes[b].replica.machine());
    assert_eq!(a.applied, b.applied);
    assert_eq!(a.entries, b.entries);
}

#[test]
fn both_members_give_up_the_same_and_read_the_rest() {
    let (mut c, segments) = thinned();
    assert_eq!(c.log_files(0), c.log_files(1));
    for n in [0, 1] {
        let log = c.nodes[n].replica.log();
        assert_eq!(log.holes().ranges(), [(segments[1], segments[3])]);
        assert!(log.bytes_kept() <= log.end().0 - 2 * (SEGMENT - 600));
        log.verify().unwrap();
        assert!(log.reader().read(segments[1]).unwrap_err().to_string().contains("goes on at"));
        log.reader().read(segments[3]).unwrap();
    }
    let reply = c.submit(0, b"after".to_vec());
    c.settle();
    assert!(c.confirmed(0, reply));
    machines_agree(&c, 0, 1);
}

#[test]
fn who_holds_on_reads_what_is_given_up_and_its_files_go_with_him() {
    let (mut c, segments) = filled();
    let reader = c.nodes[0].replica.reader();
    let (early, kept) = (reader.hold(), reader.read(segments[1]).unwrap());
    let checkpoint = c.checkpoint(0);
    c.retire(0, &[(segments[1], segments[2])], checkpoint);
    let late = reader.hold();
    assert_eq!(reader.read(segments[1]).unwrap(), kept);
    assert!(c.log_files(0).len() > c.log_files(1).len(), "the other member has no readers");
    c.submit(0, b"more".to_vec());
    c.settle();
    assert!(c.log_files(0).len() > c.log_files(1).len());
    drop(early);
    c.submit(0, b"and more".to_vec());
    c.settle();
    assert_eq!(c.log_files(0), c.log_files(1), "who came later needs nothing of it");
    assert!(reader.read(segments[1]).is_err());
    drop(late);
}

#[test]
fn an_index_that_is_lost_is_restored_from_the_checkpoint_and_what_came_after() {
    let (mut c, _) = thinned();
    let before = c.nodes[1].replica.machine().clone();
    c.reopen(1, c.nodes[1].disk.kill());
    assert_eq!(c.nodes[1].replica.machine().applied, Lsn::ZERO);
    c.settle();
    assert_eq!(c.nodes[1].replica.log().history(), c.nodes[0].replica.log().history());
    c.follow(1, 1, 0);
    c.connect(1, 0);
    c.settle();
    assert_eq!(c.nodes[1].replica.machine().entries, before.entries);
    machines_agree(&c, 0, 1);
    // Also as a primary, whose epoch start must come after all of it.
    c.cut(0, 1);
    c.reopen(1, c.nodes[1].disk.kill());
    c.lead(1, 2, &[1]);
    c.settle();
    assert!(c.nodes[1].events.iter().any(|e| matches!(e, Output::EpochStarted { .. })));
    assert_eq!(c.nodes[1].replica.machine().entries[..before.entries.len()], before.entries[..]);
}

#[test]
fn a_new_member_gets_what_is_there_and_goes_on_behind_the_rest() {
    let mut c = Cluster::new(3);
    c.lead(0, 1, &[0, 1]);
    c.follow(1, 1, 0);
    c.connect(1, 0);
    for n in 0..40u8 {
        c.submit(0, vec![n; 400]);
    }
    c.settle_only(&[0, 1]);
    let segments = c.nodes[0].replica.reader().segments();
    let checkpoint = c.checkpoint(0);
    // From the beginning, in the middle, and right before the checkpoint.
    c.retire(0, &[(segments[0], segments[1]), (segments[3], segments[4])], checkpoint);
    c.follow(2, 1, 0);
    c.connect(2, 0);
    c.settle();
    assert_eq!(c.log_files(2), c.log_files(0));
    machines_agree(&c, 0, 2);
    let log = c.nodes[2].replica.log();
    assert_eq!(log.verify().unwrap(), c.nodes[0].replica.log().verify().unwrap());
    // It stays so, and comes back from its disk alone.
    c.wait_for(0, 1, 1, &[0, 1, 2]);
    let reply = c.submit(0, b"to all three".to_vec());
    c.settle();
    assert!(c.confirmed(0, reply));
    c.reopen(2, c.nodes[2].disk.crash(5));
    c.lead(2, 2, &[2]);
    c.settle();
    let (old, new) = (c.nodes[0].replica.machine(), c.nodes[2].replica.machine());
    assert_eq!(new.entries[..old.entries.len()], old.entries[..]);
}

#[test]
fn a_member_that_missed_what_is_gone_since_gives_up_the_same_and_starts_its_index_anew() {
    let mut c = pair();
    for n in 0..12u8 {
        c.submit(0, vec![n; 400]);
    }
    c.settle();
    c.cut(0, 1);
    c.wait_for(0, 1, 1, &[0]);
    for n in 0..40u8 {
        c.submit(0, vec![n; 400]);
    }
    c.settle();
    let segments = c.nodes[0].replica.reader().segments();
    let behind = c.nodes[1].replica.log().end();
    let at = segments.partition_point(|base| *base <= behind);
    assert!(at >= 2, "it ends in the middle of a segment that is not the first");
    let checkpoint = c.checkpoint(0);
    c.retire(0, &[(segments[at - 1], segments[at + 2])], checkpoint);
    c.follow(1, 1, 0);
    c.connect(1, 0);
    c.settle();
    assert_eq!(c.log_files(1), c.log_files(0));
    assert!(c.nodes[1].replica.machine().resets > 0);
    machines_agree(&c, 0, 1);
    assert!(c.archived(1).is_empty(), "nothing of it was divergent");
}

#[test]
fn a_copy_that_is_not_complete_leads_nobody() {
    let mut c = Cluster::new(2);
    c.lead(0, 1, &[0]);
    for n in 0..40u8 {
        c.submit(0, vec![n; 400]);
    }
    c.settle();
    let segments = c.nodes[0].replica.reader().segments();
    let checkpoint = c.checkpoint(0);
    c.retire(0, &[(segments[0], segments[3])], checkpoint);
    c.follow(1, 1, 0);
    c.connect(1, 0);
    // Hello, Welcome, and of what follows only the gap.
    c.ingest(1);
    c.ingest(0);
    c.ingest_some(1, 2);
    c.nodes[1].inbox.clear();
    c.cut(0, 1);
    c.flush(1);
    assert_eq!(c.nodes[1].replica.log().end(), segments[3]);
    assert!(!c.nodes[1].replica.wants_flush(), "it waits for the checkpoint");
    c.lead(1, 2, &[1]);
    c.ingest(1);
    let refused = c.nodes[1].events.iter().any(
        |e| matches!(e, Output::LogFailed { full: false, error } if error.contains("copy of the log is not complete")),
    );
    assert!(refused, "{:?}", c.nodes[1].events);
    // A restart does not change that, and the copy goes on from where it was.
    c.reopen(1, c.nodes[1].disk.kill());
    assert!(!c.nodes[1].replica.status().replayable);
    c.follow(1, 1, 0);
    c.connect(1, 0);
    c.settle();
    assert_eq!(c.log_files(1), c.log_files(0));
    machines_agree(&c, 0, 1);
}

/// A move of these sources, as the primary submits it.
fn move_of(c: &Cluster, sources: &[MoveSource]) -> Vec<u8> {
    let reader = c.nodes[0].replica.reader();
    let mut payload = encode_head(sources).to_vec();
    for source in sources {
        payload.extend_from_slice(&reader.read_slice(source.lsn, source.offset, source.len).unwrap());
    }
    payload
}

#[test]
fn moved_bytes_do_not_cross_the_wire_and_come_out_the_same() {
    let mut c = pair();
    let replies: Vec<u64> =
        (0..8u8).map(|n| c.submit_as(0, RecordKind::Data, vec![n; 3000], Wait::Appended)).collect();
    c.settle();
    let sources: Vec<MoveSource> = replies
        .iter()
        .map(|reply| MoveSource { lsn: c.place(0, *reply).0, offset: 1000, len: 2000 })
        .collect();
    let before = c.sent.clone();
    let payload = move_of(&c, &sources);
    c.submit(0, b"before".to_vec());
    let moved = c.submit_as(0, RecordKind::Move, payload, Wait::Committed);
    c.submit(0, b"after".to_vec());
    c.settle();
    assert_eq!(c.log_files(0), c.log_files(1));
    let crossed: usize = c.sent.iter().filter(|((to, _), _)| *to == 1).map(|(_, bytes)| bytes).sum();
    let earlier: usize = before.iter().filter(|((to, _), _)| *to == 1).map(|(_, bytes)| bytes).sum();
    assert!(c.sent[&(1, true)] > 0 && crossed - earlier < 1000, "{crossed} after {earlier}");
    let (lsn, _) = c.place(0, moved);
    let read = c.nodes[1].replica.reader().read_slice(lsn, head_len(8) as u32 + 2000, 2000).unwrap();
    assert_eq!(&read[..], &[1; 2000]);
}

#[test]
fn a_member_whose_copy_of_the_bytes_is_damaged_is_sent_them() {
    let mut c = pair();
    let data = c.submit_as(0, RecordKind::Data, vec![7; 3000], Wait::Committed);
    c.settle();
    let (lsn, _) = c.place(0, data);
    let payload = move_of(&c, &[MoveSource { lsn, offset: 0, len: 3000 }]);
    let name = format!("{:016x}.log", c.nodes[1].replica.reader().segments().last().unwrap().0);
    c.nodes[1]
        .disk
        .flip_bit(&name, 8 * (64 + lsn.0 + 500 - c.nodes[1].replica.reader().segments().last().unwrap().0));
    let moved = c.submit_as(0, RecordKind::Move, payload, Wait::Committed);
    c.settle();
    assert!(!c.confirmed(0, moved));
    assert!(!c.connected(0, 1));
    c.connect(1, 0);
    c.settle();
    assert!(c.confirmed(0, moved));
    let (at, _) = c.place(0, moved);
    let read = c.nodes[1].replica.reader().read_slice(at, head_len(1) as u32, 3000).unwrap();
    assert_eq!(&read[..], &[7; 3000]);
}

#[test]
fn a_retirement_of_an_earlier_reign_is_not_carried_out() {
    let (mut c, segments) = filled();
    let checkpoint = c.checkpoint(0);
    let retirement = holdfast_replication::space::Retirement {
        epoch: Epoch(1),
        holes: holdfast_replication::space::Holes::new([(segments[1], segments[2])]),
        checkpoint,
    };
    c.lead(0, 2, &[0, 1]);
    c.follow(1, 2, 0);
    c.settle();
    c.connect(1, 0);
    let reply = c.submit_as(0, RecordKind::Retire, retirement.encode(), Wait::Committed);
    c.settle();
    c.place(0, reply);
    assert!(c.nodes[0].replica.log().holes().is_empty() && c.nodes[1].replica.log().holes().is_empty());
}

#[test]
fn a_member_that_gave_up_what_its_new_primary_never_did_begins_its_copy_anew() {
    // b did not see a's last reign: it leads by an operator's force from what it has.
    let mut c = pair();
    for n in 0..40u8 {
        c.submit(0, vec![n; 400]);
    }
    c.settle();
    c.cut(0, 1);
    c.wait_for(0, 1, 1, &[0]);
    let segments = c.nodes[0].replica.reader().segments();
    let checkpoint = c.checkpoint(0);
    c.retire(0, &[(segments[1], segments[3])], checkpoint);
    c.lead(1, 2, &[1]);
    c.submit(1, b"of another reign".to_vec());
    c.settle();
    c.follow(0, 2, 1);
    c.connect(0, 1);
    c.settle();
    assert!(c.nodes[0].events.iter().any(|e| matches!(e, Output::SetAside { .. })));
    assert!(!c.archived(0).is_empty());
    c.connect(0, 1);
    c.settle();
    assert_eq!(c.log_files(0), c.log_files(1));
    machines_agree(&c, 0, 1);
}

/// Cut off at any step of giving up, the member comes back with everything that matters.
#[test]
fn killed_at_any_step_a_member_comes_back_whole() {
    let mut complete = 0;
    for steps in 0..14 {
        for seed in 0..12 {
            let (mut c, segments) = filled();
            let checkpoint = c.checkpoint(0);
            c.nodes[0].disk.stop_after(None);
            let before = c.nodes[0].replica.machine().clone();
            let retirement = holdfast_replication::space::Retirement {
                epoch: Epoch(1),
                holes: holdfast_replication::space::Holes::new([
                    (segments[0], segments[1]),
                    (segments[2], segments[4]),
                ]),
                checkpoint,
            };
            c.submit_as(0, RecordKind::Retire, retirement.encode(), Wait::Committed);
            c.ingest(0);
            c.flush(0);
            c.ingest(1);
            c.flush(1);
            c.nodes[0].disk.stop_after(Some(steps));
            c.ingest(0);
            let mut out = Vec::new();
            c.nodes[0].replica.flush(&mut out);
            let power = seed % 2 == 0;
            let disk = if power { c.nodes[0].disk.crash(seed) } else { c.nodes[0].disk.kill() };
            c.reopen(0, disk);
            let log = c.nodes[0].replica.log();
            log.verify().unwrap();
            complete += usize::from(!log.holes().is_empty());
            c.tell(0, Input::Lead { epoch: Epoch(2), members: vec![member(0)], wall_ms: 1 });
            c.settle_only(&[0]);
            let now = c.nodes[0].replica.machine();
            assert_eq!(now.entries[..before.entries.len()], before.entries[..], "{steps} steps, seed {seed}");
            // What was interrupted is done by now, whether by the crash's cleaning or by the record.
            assert_eq!(c.nodes[0].replica.log().holes().ranges().len(), 2);
            assert_eq!(c.nodes[0].replica.reader().segments()[0], segments[1]);
        }
    }
    assert!(complete > 20, "{complete}");
}
