//! The promises of the replica, with two or three of them joined in memory.

mod cluster;

use std::time::Duration;

use bytes::Bytes;
use cluster::{Cluster, Event, Toy, member, options, pair, pair_with};
use holdfast_heartbeat::Time;
use holdfast_replication::replica::{
    Acknowledgement, Backlog, ConnId, Done, Input, Output, Replica, ReplicaOptions, ReplicaRole, SubmitError,
    Wait,
};
use holdfast_replication::stream::{Frame, Hello, RejectReason};
use holdfast_replication::testing::MemDisk;
use holdfast_replication::{Epoch, Incarnation, Lsn, MAX_PAYLOAD, RecordKind};

fn has(c: &Cluster, n: usize, wanted: impl Fn(&Event) -> bool) -> bool {
    c.nodes[n].events.iter().any(wanted)
}

fn closed_because(c: &Cluster, n: usize, part: &str) -> bool {
    has(c, n, |e| matches!(e, Output::Close { reason, .. } if reason.contains(part)))
}

#[test]
fn an_epoch_starts_when_it_is_durable_on_the_whole_wait_set() {
    let mut c = Cluster::new(2);
    c.lead(0, 1, &[0, 1]);
    c.settle();
    assert!(!has(&c, 0, |e| matches!(e, Output::EpochStarted { .. })));
    c.follow(1, 1, 0);
    c.connect(1, 0);
    c.settle();
    assert!(has(&c, 0, |e| matches!(e, Output::EpochStarted { epoch: Epoch(1), lsn: Lsn::ZERO })));
    assert!(has(
        &c,
        0,
        |e| matches!(e, Output::PeerProgress { member, streaming: true, durable } if *member == self::member(1) && *durable > Lsn::ZERO)
    ));
    assert_eq!(c.log_files(0), c.log_files(1));
    assert_eq!(c.nodes[1].replica.status().role, ReplicaRole::Following);
}

#[test]
fn a_write_is_answered_only_after_both_disks_synced() {
    let mut c = pair();
    let write = c.submit(0, b"hello".to_vec());
    c.ingest(0);
    // The records are on their way before the primary's own sync.
    assert!(c.nodes[1].inbox.iter().any(|i| matches!(i, Input::Frame { frame: Frame::Append { .. }, .. })));
    c.flush(0);
    for _ in 0..3 {
        c.ingest(1);
        c.ingest(0);
        c.flush(0);
    }
    assert!(c.answer(0, write).is_none(), "the standby has not synced");
    c.flush(1);
    c.ingest(0);
    assert!(c.answer(0, write).is_none(), "answers come from flush");
    c.flush(0);
    assert!(c.confirmed(0, write));

    let write = c.submit(0, b"again".to_vec());
    c.ingest(0);
    c.settle_only(&[1]);
    c.ingest(0);
    assert!(c.answer(0, write).is_none(), "the primary has not synced");
    c.flush(0);
    assert!(c.confirmed(0, write));
    c.settle();
    assert_eq!(c.nodes[0].replica.machine().entries, c.nodes[1].replica.machine().entries);
}

#[test]
fn a_standby_whose_sync_fails_acknowledges_nothing_ever_after() {
    let mut c = pair();
    c.nodes[1].disk.fail_syncs(1);
    let write = c.submit(0, b"x".to_vec());
    c.settle();
    assert!(c.answer(0, write).is_none());
    assert!(has(&c, 1, |e| matches!(e, Output::LogFailed { full: false, .. })));
    c.connect(1, 0);
    c.settle();
    assert!(c.answer(0, write).is_none());
    assert_eq!(c.nodes[1].replica.status().role, ReplicaRole::Failed);
}

#[test]
fn a_primary_whose_sync_fails_answers_with_failure() {
    let mut c = pair();
    c.nodes[0].disk.fail_syncs(1);
    let write = c.submit(0, b"x".to_vec());
    c.settle();
    assert!(matches!(c.answer(0, write), Some(Output::Reply { result: Err(SubmitError::Failed(_)), .. })));
    let late = c.submit(0, b"y".to_vec());
    c.settle();
    assert!(matches!(c.answer(0, late), Some(Output::Reply { result: Err(SubmitError::Failed(_)), .. })));
    c.lead(0, 9, &[0]);
    c.settle();
    assert!(!has(&c, 0, |e| matches!(e, Output::EpochStarted { epoch: Epoch(9), .. })));
}

#[test]
fn many_writes_share_one_sync() {
    let mut c = pair();
    let (mine, theirs) = (c.nodes[0].disk.syncs(), c.nodes[1].disk.syncs());
    let writes: Vec<u64> = (0..20).map(|n| c.submit(0, vec![n; 10])).collect();
    c.settle();
    assert!(writes.iter().all(|w| c.confirmed(0, *w)));
    assert_eq!((c.nodes[0].disk.syncs(), c.nodes[1].disk.syncs()), (mine + 1, theirs + 1));
}

#[test]
fn outcomes_go_to_whom_they_belong() {
    let mut c = pair();
    let data = c.submit_as(0, RecordKind::Data, vec![1; 100], Wait::Appended);
    let ops: Vec<u64> = (0..3).map(|n| c.submit(0, vec![n])).collect();
    c.settle();
    assert!(matches!(c.answer(0, data), Some(Output::Reply { result: Ok(Done::Appended { .. }), .. })));
    for (n, op) in ops.into_iter().enumerate() {
        let Some(Output::Reply { result: Ok(Done::Committed { lsn, outcome, .. }), .. }) = c.answer(0, op)
        else {
            panic!("not committed")
        };
        // The epoch start and the data come first.
        assert_eq!(*outcome, n + 3);
        assert_eq!(c.nodes[1].replica.reader().read(*lsn).unwrap().payload[..], [n as u8]);
    }
    let entries = &c.nodes[1].replica.machine().entries;
    assert_eq!((entries[1].1, entries[1].2.len()), (RecordKind::Data, 0));
}

#[test]
fn a_former_primary_can_acknowledge_nothing() {
    let mut c = pair();
    c.tell(1, Input::Promise { epoch: Epoch(2) });
    c.settle_only(&[1]);
    let write = c.submit(0, b"late".to_vec());
    c.connect(1, 0);
    c.settle();
    assert!(c.answer(0, write).is_none());
    assert!(!c.nodes[1].replica.machine().entries.iter().any(|e| e.2 == b"late"));
    // Told of the higher epoch, it says so to whoever waits.
    c.tell(0, Input::Promise { epoch: Epoch(2) });
    c.settle();
    assert!(matches!(
        c.answer(0, write),
        Some(Output::Reply { result: Err(SubmitError::NotPrimary { maybe_stored: true }), .. })
    ));
}

#[test]
fn records_under_way_when_a_higher_epoch_is_promised_are_not_acknowledged() {
    let mut c = pair();
    let write = c.submit(0, b"under way".to_vec());
    c.ingest(0);
    c.tell(1, Input::Promise { epoch: Epoch(2) });
    // Written by the standby, and not synced when the promise comes.
    c.settle();
    assert!(c.answer(0, write).is_none());
}

#[test]
fn acknowledgements_of_another_epoch_count_for_nothing() {
    let mut c = pair();
    let write = c.submit(0, b"x".to_vec());
    c.ingest(0);
    c.flush(0);
    let end = c.nodes[0].replica.log().end();
    let conn = c.nodes[1]
        .inbox
        .iter()
        .find_map(|i| if let Input::Frame { conn, .. } = i { Some(*conn) } else { None })
        .unwrap();
    for epoch in [0, 2] {
        c.tell(0, Input::Frame { conn, frame: Frame::Ack { epoch: Epoch(epoch), durable: end } });
    }
    c.settle_only(&[0]);
    assert!(c.answer(0, write).is_none());
    c.tell(0, Input::Frame { conn, frame: Frame::Ack { epoch: Epoch(1), durable: end + 1 } });
    c.settle_only(&[0]);
    assert!(closed_because(&c, 0, "acknowledged LSN"));
    assert!(c.answer(0, write).is_none());
}

#[test]
fn a_divergent_tail_is_set_aside_and_the_logs_become_equal() {
    let mut c = pair();
    let kept = c.submit(0, b"kept".to_vec());
    c.settle();
    assert!(c.confirmed(0, kept));
    let fork = c.nodes[0].replica.log().end();
    c.cut(0, 1);
    let lost = c.submit(0, b"nobody acknowledged this".to_vec());
    c.settle_only(&[0]);
    let tail = c.log_bytes(0)[fork.0 as usize..].to_vec();
    assert!(!tail.is_empty());

    c.lead(1, 2, &[1]);
    c.settle();
    let newer = c.submit(1, b"newer".to_vec());
    c.settle();
    assert!(c.confirmed(1, newer));
    c.follow(0, 2, 1);
    c.connect(0, 1);
    c.settle();
    assert!(matches!(
        c.answer(0, lost),
        Some(Output::Reply { result: Err(SubmitError::NotPrimary { maybe_stored: true }), .. })
    ));
    assert!(has(&c, 0, |e| matches!(e, Output::SetAside { from, .. } if *from == fork)));
    assert_eq!(c.archived(0), [tail]);
    assert_eq!(c.nodes[0].replica.status().set_aside.len(), 1);
    assert_eq!(c.log_files(0), c.log_files(1));
    assert_eq!(c.nodes[0].replica.machine().entries, c.nodes[1].replica.machine().entries);
    assert_eq!(c.nodes[0].replica.machine().resets, 0, "nothing uncommitted was applied");
}

#[test]
fn what_was_applied_and_then_cut_is_applied_anew() {
    // An operator promoted a member that lacked acknowledged writes.
    let mut c = pair();
    c.wait_for(0, 1, 1, &[0]);
    c.settle();
    c.cut(0, 1);
    let solo = c.submit(0, b"acknowledged alone".to_vec());
    c.settle();
    assert!(c.confirmed(0, solo));
    c.lead(1, 2, &[1]);
    c.follow(0, 2, 1);
    c.connect(0, 1);
    c.settle();
    assert_eq!(c.nodes[0].replica.machine().resets, 1);
    assert_eq!(c.log_files(0), c.log_files(1));
    assert_eq!(c.nodes[0].replica.machine().entries, c.nodes[1].replica.machine().entries);
    assert!(c.nodes[0].replica.status().set_aside[0].reason.contains("acknowledged writes are among"));
}

#[test]
fn a_grow_is_reached_when_the_new_member_caught_up() {
    let mut c = Cluster::new(2);
    c.lead(0, 1, &[0]);
    for n in 0..30 {
        c.submit(0, vec![n; 500]);
    }
    c.settle();
    assert!(has(&c, 0, |e| matches!(e, Output::EpochStarted { .. })));
    c.wait_for(0, 1, 7, &[0, 1]);
    let write = c.submit(0, b"waits for both".to_vec());
    c.settle();
    assert!(!has(&c, 0, |e| matches!(e, Output::WaitReached { .. })));
    assert!(c.answer(0, write).is_none());
    c.follow(1, 1, 0);
    c.connect(1, 0);
    c.settle();
    assert!(has(&c, 0, |e| matches!(e, Output::WaitReached { epoch: Epoch(1), version: 7 })));
    assert!(c.confirmed(0, write));
    assert_eq!(c.log_files(0), c.log_files(1));
}

#[test]
fn a_shrink_releases_waiting_writes() {
    let mut c = pair();
    c.cut(0, 1);
    let write = c.submit(0, b"x".to_vec());
    c.settle();
    assert!(c.answer(0, write).is_none());
    c.wait_for(0, 9, 1, &[0]);
    c.settle();
    assert!(c.answer(0, write).is_none(), "another epoch's wish");
    c.wait_for(0, 1, 2, &[0]);
    c.settle();
    assert!(c.confirmed(0, write));
    assert!(has(&c, 0, |e| matches!(e, Output::PeerProgress { streaming: false, .. })));
}

#[test]
fn a_full_disk_on_the_primary_refuses_the_write_and_serves_on() {
    let mut c = pair();
    let before = c.submit(0, b"before".to_vec());
    c.settle();
    let Some(Output::Reply { result: Ok(Done::Committed { lsn, .. }), .. }) = c.answer(0, before) else {
        panic!()
    };
    let (lsn, end) = (*lsn, c.nodes[0].replica.log().end());
    let disk = c.nodes[0].disk.clone();
    disk.set_capacity(Some(disk.used()));
    let refused = c.submit(0, vec![1; 300]);
    c.settle();
    assert!(matches!(c.answer(0, refused), Some(Output::Reply { result: Err(SubmitError::DiskFull), .. })));
    assert_eq!(c.nodes[0].replica.log().end(), end);
    assert_eq!(&c.nodes[0].replica.reader().read(lsn).unwrap().payload[..], b"before");
    disk.set_capacity(None);
    let after = c.submit(0, b"after".to_vec());
    c.settle();
    assert!(c.confirmed(0, after));
    assert_eq!(c.log_files(0), c.log_files(1));
}

#[test]
fn a_full_disk_on_the_standby_ends_the_stream_until_there_is_room() {
    let mut c = pair();
    let disk = c.nodes[1].disk.clone();
    disk.set_capacity(Some(disk.used() + 100));
    let write = c.submit(0, vec![1; 300]);
    c.settle();
    assert!(has(&c, 1, |e| matches!(e, Output::LogFailed { full: true, .. })));
    assert!(c.answer(0, write).is_none());
    disk.set_capacity(None);
    c.connect(1, 0);
    c.settle();
    assert!(c.confirmed(0, write));
    assert_eq!(c.log_files(0), c.log_files(1));
}

#[test]
fn a_member_with_another_log_is_refused_and_keeps_it() {
    let mut c = pair();
    let disk = MemDisk::new();
    let other = ReplicaOptions { new_log_id: 0xdef, ..options() };
    let mut replica = Replica::<_, _, u64>::open(disk.clone(), member(1), Toy::default(), other).unwrap().0;
    let mut out = Vec::new();
    replica.ingest([Input::Lead { epoch: Epoch(1), members: vec![member(1)], wall_ms: 0 }], &mut out);
    replica.flush(&mut out);
    drop(replica);
    c.reopen(1, disk);
    let before = c.log_files(1);
    c.follow(1, 1, 0);
    c.connect(1, 0);
    c.settle();
    assert!(closed_because(&c, 0, "nothing was changed"));
    assert!(closed_because(&c, 1, "ForeignLog"));
    assert_eq!(c.log_files(1), before);
}

#[test]
fn a_member_that_forgot_what_it_acknowledged_is_refused() {
    let mut c = pair();
    let write = c.submit(0, b"x".to_vec());
    c.settle();
    assert!(c.confirmed(0, write));
    // An empty disk under the old incarnation.
    c.reopen(1, MemDisk::new());
    c.follow(1, 1, 0);
    c.connect(1, 0);
    c.settle();
    assert!(closed_because(&c, 1, "LostAcknowledged"));
    // Under a new incarnation it is another member, and welcome.
    c.nodes[1].member.incarnation = Incarnation(2);
    c.reopen(1, MemDisk::new());
    c.follow(1, 1, 0);
    c.connect(1, 0);
    c.settle();
    assert_eq!(c.log_files(0), c.log_files(1));
    let waits = c.submit(0, b"y".to_vec());
    c.settle();
    assert!(c.answer(0, waits).is_none(), "the wait set means the old incarnation");
}

#[test]
fn logs_that_differ_under_equal_epochs_and_positions_are_not_joined() {
    for wrong in [0, 1] {
        let mut c = pair();
        c.submit(0, b"x".to_vec());
        c.settle();
        let log = c.nodes[1].replica.log();
        let hello = Hello {
            member: member(2),
            promised_epoch: Epoch(1),
            log_id: log.log_id(),
            history: log.history().clone(),
            end: log.end(),
            chain: log.chain_at_end() ^ wrong,
            whole_below: Lsn::ZERO,
        };
        let conn = ConnId(99);
        c.tell(0, Input::Connected { conn, initiated: false });
        c.tell(0, Input::Frame { conn, frame: Frame::Hello(hello) });
        c.settle();
        assert_eq!(closed_because(&c, 0, "your log differs"), wrong == 1);
    }
}

#[test]
fn only_the_primary_of_the_epoch_is_believed() {
    let mut c = Cluster::new(3);
    c.lead(0, 1, &[0]);
    c.lead(2, 1, &[2]); // A second claim to the same epoch: what R1 forbids.
    c.follow(1, 1, 0);
    c.connect(1, 2);
    c.settle();
    assert!(closed_because(&c, 1, "welcomed by c"));
    assert!(c.log_files(1).is_empty());
    c.connect(0, 1);
    let conn = c.connect(1, 0);
    c.settle();
    assert_eq!(c.log_files(0), c.log_files(1));
    let lsn = c.nodes[1].replica.log().end();
    let frame = Frame::Append { epoch: Epoch(2), lsn, committed: lsn, bytes: Bytes::from_static(b"junk") };
    c.tell(1, Input::Frame { conn, frame });
    c.settle();
    assert!(closed_because(&c, 1, "records of epoch 2 out of place"));
    assert_eq!(c.log_files(0), c.log_files(1));
}

#[test]
fn a_damaged_stream_is_refused_and_nothing_of_it_is_kept() {
    let mut c = pair();
    let write = c.submit(0, b"precious".to_vec());
    c.ingest(0);
    for input in &mut c.nodes[1].inbox {
        if let Input::Frame { frame: Frame::Append { bytes, .. }, .. } = input {
            let mut bad = bytes.to_vec();
            *bad.last_mut().unwrap() ^= 1;
            *bytes = Bytes::from(bad);
        }
    }
    let before = c.log_files(1);
    c.settle();
    assert!(closed_because(&c, 1, "does not fit this log"));
    assert_eq!(c.log_files(1), before);
    c.connect(1, 0);
    c.settle();
    assert!(c.confirmed(0, write));
}

#[test]
fn who_is_asked_and_does_not_lead_says_so() {
    let mut c = Cluster::new(2);
    c.follow(1, 1, 0);
    c.connect(1, 0);
    c.settle();
    assert!(closed_because(&c, 1, &format!("{:?}", RejectReason::NotLeading)));
    let write = c.submit(0, b"x".to_vec());
    c.settle();
    assert!(matches!(
        c.answer(0, write),
        Some(Output::Reply { result: Err(SubmitError::NotPrimary { maybe_stored: false }), .. })
    ));
}

#[test]
fn a_silent_peer_is_sent_no_more_than_its_window() {
    let window = 3 * 1024 * 1024;
    let mut c = pair_with(ReplicaOptions { window_bytes: window, ..options() });
    let start = c.nodes[0].replica.log().end();
    let size = MAX_PAYLOAD;
    let writes: Vec<u64> = (0..8).map(|_| c.submit(0, vec![7; size])).collect();
    c.settle_only(&[0]);
    let sent: usize = c.nodes[1]
        .inbox
        .iter()
        .map(
            |i| if let Input::Frame { frame: Frame::Append { bytes, .. }, .. } = i { bytes.len() } else { 0 },
        )
        .sum();
    assert!(sent as u64 <= window && sent > size, "{sent}");
    assert!(c.nodes[0].replica.log().end().bytes_since(start) > window);
    c.settle();
    assert!(writes.iter().all(|w| c.confirmed(0, *w)));
    assert_eq!(c.log_files(0), c.log_files(1));
}

#[test]
fn too_much_uncommitted_is_refused_not_queued() {
    let overloaded = |c: &Cluster, reply| {
        matches!(c.answer(0, reply), Some(Output::Reply { result: Err(SubmitError::Overloaded), .. }))
    };
    let mut c = pair_with(ReplicaOptions { max_pending: 2, ..options() });
    c.cut(0, 1);
    let writes: Vec<u64> = (0..3).map(|_| c.submit(0, vec![1; 10])).collect();
    c.settle();
    assert!(c.answer(0, writes[1]).is_none() && overloaded(&c, writes[2]));
    c.connect(1, 0);
    c.settle();
    let retried = c.submit(0, vec![1; 10]);
    c.settle();
    assert!(c.confirmed(0, writes[1]) && c.confirmed(0, retried));

    let mut c = pair_with(ReplicaOptions { max_uncommitted_bytes: 5000, ..options() });
    c.cut(0, 1);
    let data: Vec<u64> =
        (0..3).map(|_| c.submit_as(0, RecordKind::Data, vec![1; 4000], Wait::Appended)).collect();
    c.settle();
    assert!(c.confirmed(0, data[1]) && overloaded(&c, data[2]));
}

/// Which of `appends` were told their places, which were told that they have none, and which wait.
fn told(c: &Cluster, appends: &[u64]) -> String {
    let word = |append| match c.answer(0, append) {
        None => '.',
        Some(Output::Reply { result: Ok(Done::Appended { .. }), .. }) => 'a',
        Some(_) => 'x',
    };
    appends.iter().map(|append| word(*append)).collect()
}

#[test]
fn who_appends_faster_than_the_standby_takes_it_waits_and_is_refused_nothing() {
    let backlog = Backlog { free_bytes: 5000, patience: Duration::from_millis(250), most_bytes: 13_000 };
    let mut c = pair_with(ReplicaOptions { backlog, ..options() });
    let at = |c: &mut Cluster, ms: u64| c.nodes[0].replica.set_clock(Time(ms * 1_000_000), ms);
    let append = |c: &mut Cluster, n: usize| -> Vec<u64> {
        (0..n).map(|_| c.submit_as(0, RecordKind::Data, vec![1; 2000], Wait::Appended)).collect()
    };
    at(&mut c, 1000);
    let first = append(&mut c, 8);
    c.settle_only(&[0]);
    assert_eq!(told(&c, &first), "aaaaaa..", "more than the most is under way");
    c.settle();
    assert_eq!(told(&c, &first), "aaaaaaaa");

    // The standby stands still: what is under way grows old, and less of it is allowed.
    c.cut(0, 1);
    at(&mut c, 1020);
    let second = append(&mut c, 1);
    c.settle_only(&[0]);
    at(&mut c, 1300);
    let third = append(&mut c, 3);
    c.settle_only(&[0]);
    assert_eq!((told(&c, &second), told(&c, &third)), ("a".into(), "a..".into()));
    c.connect(1, 0);
    c.settle();
    assert_eq!(told(&c, &third), "aaa");

    // Whoever is not waited for any more delays nobody.
    c.cut(0, 1);
    let fourth = append(&mut c, 8);
    c.settle_only(&[0]);
    assert_eq!(told(&c, &fourth), "aaaaaa..");
    let me = c.nodes[0].member.clone();
    c.tell(0, Input::WaitFor { epoch: Epoch(1), version: 2, members: vec![me] });
    c.settle_only(&[0]);
    assert_eq!(told(&c, &fourth), "aaaaaaaa");

    // And a reign that ends leaves nobody waiting.
    let both = vec![c.nodes[0].member.clone(), c.nodes[1].member.clone()];
    c.tell(0, Input::WaitFor { epoch: Epoch(1), version: 3, members: both });
    let fifth = append(&mut c, 8);
    c.settle_only(&[0]);
    assert_eq!(told(&c, &fifth), "aaaaaa..");
    c.tell(0, Input::StandDown { epoch: Epoch(1) });
    c.settle_only(&[0]);
    assert_eq!(told(&c, &fifth), "aaaaaaxx");
}

#[test]
fn under_local_acknowledgement_nobody_is_waited_for_and_records_go_in_batches() {
    let acknowledgement = Acknowledgement::Local { interval: Duration::from_secs(1), records: 3 };
    let mut c = Cluster::with(2, ReplicaOptions { acknowledgement, ..options() });
    let at = |c: &mut Cluster, ms: u64| c.nodes[0].replica.set_clock(Time(ms * 1_000_000), ms);
    at(&mut c, 10_000);
    c.lead(0, 1, &[0, 1]);
    c.settle();
    assert!(
        has(&c, 0, |e| matches!(e, Output::EpochStarted { .. })),
        "a standby that is away holds nothing up"
    );
    c.follow(1, 1, 0);
    c.connect(1, 0);
    c.settle();
    let ends = |c: &Cluster| (c.nodes[0].replica.log().end(), c.nodes[1].replica.log().end());
    assert_eq!(ends(&c).0, ends(&c).1, "catching up waits for no batch");

    // By time.
    let began = ends(&c).0;
    let first = c.submit(0, b"first".to_vec());
    c.settle();
    assert!(c.confirmed(0, first));
    assert_eq!(ends(&c).1, began);
    assert_eq!(c.nodes[0].replica.sends_at(), Some(Time(11_000_000_000)));
    at(&mut c, 10_999);
    c.settle();
    assert_eq!(ends(&c).1, began);
    at(&mut c, 11_000);
    c.settle();
    assert_eq!((ends(&c).1, c.nodes[0].replica.sends_at()), (ends(&c).0, None));
    assert_eq!(c.nodes[1].replica.status().committed, ends(&c).0, "what it has it may apply");

    // By number.
    let more: Vec<u64> = (0..3).map(|n| c.submit(0, vec![n; 10])).collect();
    c.settle();
    assert!(more.iter().all(|write| c.confirmed(0, *write)));
    assert_eq!(ends(&c).0, ends(&c).1);

    // Because somebody waits for it.
    c.submit(0, b"last".to_vec());
    c.settle();
    assert_ne!(ends(&c).0, ends(&c).1);
    c.tell(0, Input::SendNow);
    c.settle();
    assert_eq!(ends(&c).0, ends(&c).1);

    // Nor does what is written by the way keep that one waiting; later it is as before.
    at(&mut c, 12_900);
    c.submit(0, b"by the way".to_vec());
    c.settle();
    assert_eq!(ends(&c).0, ends(&c).1);
    at(&mut c, 13_000);
    c.submit(0, b"held back again".to_vec());
    c.settle();
    assert_ne!(ends(&c).0, ends(&c).1);
    c.tell(0, Input::SendNow);
    c.settle();
    at(&mut c, 15_000);

    // What was never sent is lost with the primary, is set aside when that comes back, and is nowhere applied then.
    let lost = c.submit(0, b"lost".to_vec());
    c.settle_only(&[0]);
    assert!(c.confirmed(0, lost));
    c.cut(0, 1);
    c.lead(1, 2, &[1]);
    c.settle_only(&[1]);
    c.tell(0, Input::StandDown { epoch: Epoch(1) });
    c.follow(0, 2, 1);
    c.connect(0, 1);
    c.settle();
    let [archive] = &c.nodes[0].replica.status().set_aside[..] else { panic!("one archive") };
    assert!(archive.reason.contains("acknowledged writes are among these bytes"), "{}", archive.reason);
    let holds = |n: usize| c.nodes[n].replica.machine().entries.iter().any(|e| e.2 == b"lost");
    assert!(!holds(0) && !holds(1));
    assert_eq!(ends(&c).0, ends(&c).1);
}

#[test]
fn a_payload_beyond_the_limit_is_refused() {
    let mut c = pair();
    let large = c.submit(0, vec![0; MAX_PAYLOAD + 1]);
    c.settle();
    assert!(matches!(c.answer(0, large), Some(Output::Reply { result: Err(SubmitError::Refused(_)), .. })));
    let largest = c.submit(0, vec![0; MAX_PAYLOAD]);
    c.settle();
    assert!(c.confirmed(0, largest));
}

#[test]
fn after_a_restart_only_what_is_known_committed_is_applied() {
    let mut c = pair();
    let first = c.submit(0, b"committed".to_vec());
    c.settle();
    assert!(c.confirmed(0, first));
    c.cut(0, 1);
    c.submit(0, b"not committed".to_vec());
    c.settle_only(&[0]);
    let disk = c.nodes[0].disk.kill();
    c.reopen(0, disk);
    c.settle_only(&[0]);
    let entries =
        |c: &Cluster| c.nodes[0].replica.machine().entries.iter().map(|e| e.2.clone()).collect::<Vec<_>>();
    assert!(!entries(&c).contains(&b"not committed".to_vec()));
    // Elected again, it commits what it has together with its epoch's start.
    c.lead(0, 2, &[0, 1]);
    c.follow(1, 2, 0);
    c.connect(1, 0);
    c.settle();
    assert!(has(&c, 0, |e| matches!(e, Output::EpochStarted { epoch: Epoch(2), .. })));
    assert!(entries(&c).contains(&b"committed".to_vec()) && entries(&c).contains(&b"not committed".to_vec()));
    assert_eq!(c.log_files(0), c.log_files(1));
}

#[test]
fn after_a_restart_what_the_index_has_is_known_committed() {
    let mut c = pair();
    let write = c.submit(0, b"written".to_vec());
    c.settle();
    assert!(c.confirmed(0, write));
    let applied = c.nodes[1].replica.status().applied;
    assert_eq!(applied, c.nodes[1].replica.log().end());
    // Its agent dies; its index is still there, with everything that was applied.
    let index = c.nodes[1].replica.machine().clone();
    let disk = c.nodes[1].disk.kill();
    let (replica, _) = Replica::<_, _, u64>::open(disk, c.nodes[1].member.clone(), index, options()).unwrap();
    let status = replica.status();
    assert_eq!((status.applied, status.committed), (applied, applied));
}

#[test]
fn stale_orders_change_nothing() {
    let mut c = pair();
    c.follow(1, 3, 0);
    c.settle();
    c.follow(1, 2, 0);
    c.lead(1, 2, &[1]);
    c.tell(1, Input::StandDown { epoch: Epoch(2) });
    c.settle();
    let status = c.nodes[1].replica.status();
    assert_eq!((status.role, status.epoch), (ReplicaRole::Following, Some(Epoch(3))));
    c.tell(1, Input::StandDown { epoch: Epoch(3) });
    c.settle();
    assert_eq!(c.nodes[1].replica.status().role, ReplicaRole::Idle);
    assert!(serde_json::to_string(&c.nodes[0].replica.status()).unwrap().contains("\"leading\""));
}

#[test]
fn a_new_primary_says_what_is_committed_once_its_first_record_is() {
    let mut c = Cluster::new(3);
    c.lead(0, 1, &[0]);
    c.follow(1, 1, 0);
    c.connect(1, 0);
    c.settle();
    c.cut(0, 1);
    // What the former primary acknowledged is here, and whether it was is not known before the first record.
    c.lead(1, 2, &[0, 1]);
    c.follow(2, 2, 1);
    c.connect(2, 1);
    c.settle();
    c.tell(2, Input::Ask { token: 7 });
    c.settle();
    let asked = |e: &Event| matches!(e, Output::Asked { token: 7, epoch: Epoch(2), .. });
    assert!(!has(&c, 1, asked));
    c.wait_for(1, 2, 1, &[1, 2]);
    c.settle();
    assert!(!has(&c, 1, asked), "the question is not kept");
    c.tell(2, Input::Ask { token: 7 });
    c.settle();
    assert!(has(&c, 1, asked));
}
