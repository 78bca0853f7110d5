//! Replicas show that they have the same bytes, each from its own disk; and a difference that no checksum shows is seen.

mod cluster;

use cluster::{Cluster, pair};
use holdfast_replication::log::{RangeSum, Walk};
use holdfast_replication::replica::{ConnId, Input, Output};
use holdfast_replication::stream::Verdict;
use holdfast_replication::{LogError, LogReader, Lsn};

/// The sums of everything that is durable, segment by segment, the last one as far as it goes.
fn sums(reader: &LogReader) -> Vec<RangeSum> {
    let mut sums = Vec::new();
    let mut walk: Option<Walk> = reader.walk_from(Lsn::ZERO).unwrap();
    while let Some(here) = walk {
        let next = reader.walk_on(&here, 700).unwrap();
        if next.as_ref().is_none_or(|next| next.segment() != here.segment()) {
            sums.push(here.sum());
        }
        walk = next;
    }
    sums
}

fn filled() -> Cluster {
    let mut c = pair();
    for n in 0..40u8 {
        c.submit(0, vec![n; 400]);
    }
    c.settle();
    c
}

/// What the standby was asked to look at.
fn asked(c: &Cluster) -> Vec<(ConnId, RangeSum)> {
    let asked = c.nodes[1].events.iter().filter_map(|event| match event {
        Output::Compare { conn, sum } => Some((*conn, *sum)),
        _ => None,
    });
    asked.collect()
}

#[test]
fn both_members_sum_the_same_bytes_however_they_are_read() {
    let c = filled();
    let (own, theirs) = (c.nodes[0].replica.reader(), c.nodes[1].replica.reader());
    let all = sums(&own);
    assert!(all.len() > 3, "several segments");
    assert_eq!(all.first().unwrap().from, Lsn::ZERO);
    assert!(all.windows(2).all(|two| two[0].to == two[1].from));
    assert_eq!(all.last().unwrap().to, c.nodes[0].replica.log().end());
    assert_eq!(all, sums(&theirs));
    for sum in &all {
        let mut read = 0;
        assert_eq!(theirs.sum_of((sum.from, sum.to), 1000, &mut |bytes| read += bytes).unwrap(), *sum);
        assert_eq!(read, sum.to.bytes_since(sum.from));
    }
    // No range that a segment and its records do not bound.
    let first = all[0];
    for range in [(first.from + 1, first.to), (first.from, Lsn(first.to.0 - 1)), (first.from, first.to + 1)] {
        let error = theirs.sum_of(range, 1000, &mut |_| {}).unwrap_err();
        assert!(matches!(error, LogError::OutOfRange { .. } | LogError::Damaged { .. }), "{error}");
    }
}

#[test]
fn a_standby_is_asked_about_what_it_has_acknowledged_and_its_word_comes_back() {
    let mut c = filled();
    let all = sums(&c.nodes[0].replica.reader());
    // One that lies beyond what the standby has waits for it.
    c.cut(0, 1);
    for n in 0..4u8 {
        c.submit(0, vec![n; 400]);
    }
    c.settle();
    c.connect(1, 0);
    c.settle();
    let later = *sums(&c.nodes[0].replica.reader()).last().unwrap();
    assert!(later.to > all.last().unwrap().to);
    for sum in all.iter().take(3).chain([&later]) {
        c.tell(0, Input::Compare { sum: *sum });
    }
    c.settle();
    let questions = asked(&c);
    assert_eq!(questions.iter().map(|(_, sum)| *sum).collect::<Vec<_>>(), [all[0], all[1], all[2], later]);
    for ((conn, sum), verdict) in questions.iter().zip([Verdict::Same, Verdict::Differs, Verdict::Unread]) {
        c.tell(1, Input::Found { conn: *conn, from: sum.from, verdict });
    }
    c.settle();
    let words: Vec<(Lsn, Verdict)> = c.nodes[0]
        .events
        .iter()
        .filter_map(|event| match event {
            Output::Compared { member, from, verdict } if *member == c.nodes[1].member => {
                Some((*from, *verdict))
            }
            _ => None,
        })
        .collect();
    let expected = [Verdict::Same, Verdict::Differs, Verdict::Unread];
    assert_eq!(words, all.iter().map(|sum| sum.from).zip(expected).collect::<Vec<_>>());
}

#[test]
fn who_does_not_lead_tells_no_sum_and_who_does_not_follow_takes_none() {
    let mut c = filled();
    let sum = sums(&c.nodes[0].replica.reader())[0];
    c.tell(1, Input::Compare { sum });
    c.settle();
    assert!(c.nodes.iter().all(|node| !node.events.iter().any(|e| matches!(e, Output::Compare { .. }))));
    let (conn, _) = c.conns().next().unwrap();
    c.tell(0, Input::Frame { conn, frame: holdfast_replication::stream::Frame::Compare { sum } });
    c.settle();
    let closed = |e: &cluster::Event| matches!(e, Output::Close { reason, refused: true, .. } if reason == "a sum out of place");
    assert!(c.nodes[0].events.iter().any(closed));
}
