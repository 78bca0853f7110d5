//! A member that lacks much: how far it is can be seen on both sides, and what it is sent is bounded for as long as
//! nobody waits for it.

mod cluster;

use std::time::Duration;

use cluster::{Cluster, options};
use holdfast_heartbeat::Time;
use holdfast_replication::log::OpenOptions;
use holdfast_replication::replica::{CatchUp, Output, ReplicaOptions};
use holdfast_replication::{Epoch, Lsn};

const MIB: u64 = 1 << 20;
/// What the tests allow, in bytes a second.
const RATE: u64 = 4 * MIB;

struct Slow {
    c: Cluster,
    now: Duration,
}

impl Slow {
    /// `a` leads alone and has written `mib`; `b` follows, and nobody waits for it.
    fn new(mib: u64, rate: Option<u64>) -> Slow {
        let log = OpenOptions { segment_size: 2 * MIB, ..OpenOptions::default() };
        let c = Cluster::with(2, ReplicaOptions { log, catch_up_bytes_per_second: rate, ..options() });
        let mut slow = Slow { c, now: Duration::from_secs(100) };
        slow.wait(Duration::ZERO);
        slow.c.lead(0, 1, &[0]);
        slow.write(mib);
        slow.c.follow(1, 1, 0);
        slow.c.connect(1, 0);
        slow.c.settle();
        slow
    }

    fn write(&mut self, mib: u64) {
        for n in 0..4 * mib {
            self.c.submit(0, vec![n as u8; 256 << 10]);
            self.c.settle();
        }
    }

    /// Time passes.
    fn wait(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            for node in &mut self.c.nodes {
                let now = Time(self.now.as_nanos() as u64);
                node.replica.set_clock(now, 1);
            }
            self.c.settle();
            let now = Time(self.now.as_nanos() as u64);
            let due = self.c.nodes[0].replica.sends_at().map(|due| due.since(now));
            if self.now >= end {
                return;
            }
            // As the log's thread does: when it is due, and now and then.
            let step = due.unwrap_or(Duration::from_millis(500)).max(Duration::from_micros(1));
            self.now = (self.now + step.min(Duration::from_millis(500))).min(end);
        }
    }

    fn ends(&self) -> (u64, u64) {
        let end = |n: usize| self.c.nodes[n].replica.log().end().0;
        (end(0), end(1))
    }

    /// How far `b` is, as `a` says and as `b` does.
    fn shown(&self) -> (Option<CatchUp>, Option<CatchUp>) {
        let (a, b) = (self.c.nodes[0].replica.status(), self.c.nodes[1].replica.status());
        (a.peers.first().and_then(|peer| peer.catch_up.clone()), b.catch_up)
    }
}

#[test]
fn a_member_far_behind_is_sent_no_more_than_allowed_and_both_sides_say_how_far_it_is() {
    let mut slow = Slow::new(60, Some(RATE));
    let (all, had) = slow.ends();
    slow.wait(Duration::from_secs(5));
    let came = slow.ends().1 - had;
    assert!((19 * MIB..21 * MIB).contains(&came), "{came} bytes came in 5 s");
    let (primary, standby) = slow.shown();
    let (primary, standby) = (primary.unwrap(), standby.unwrap());
    assert_eq!(primary.limit_bytes_per_second, Some(RATE));
    for shown in [&primary, &standby] {
        assert!(shown.received_bytes.abs_diff(slow.ends().1) <= 2 * MIB, "{shown:?}");
        assert_eq!(shown.remaining_bytes, all - slow.ends().1, "{shown:?}");
        assert!((33..36).contains(&shown.percent), "{shown:?}");
        assert!(shown.bytes_per_second.abs_diff(RATE) < RATE / 8, "{shown:?}");
        assert!(shown.seconds_left.is_some_and(|left| (8..=12).contains(&left)), "{shown:?}");
    }
    // The last of it is not held back.
    slow.wait(Duration::from_secs(7));
    assert_eq!(slow.ends(), (all, all));
    assert_eq!(slow.shown(), (None, None));
}

#[test]
fn however_much_is_written_a_member_catches_up_in_the_end() {
    let mut slow = Slow::new(40, Some(RATE));
    for _ in 0..8 {
        // Twice as much as is allowed.
        slow.write(8);
        slow.wait(Duration::from_secs(1));
    }
    let (end, has) = slow.ends();
    assert!(end - has <= MIB, "{} bytes are missing still", end - has);
}

#[test]
fn a_member_that_is_waited_for_is_never_held_back() {
    let mut slow = Slow::new(60, Some(RATE));
    let before = slow.ends();
    assert!(before.1 < before.0 - 50 * MIB);
    slow.c.wait_for(0, 1, 7, &[0, 1]);
    slow.c.settle();
    assert_eq!(slow.ends(), (before.0, before.0));
    let reached = |event: &_| matches!(event, Output::WaitReached { version: 7, epoch: Epoch(1) });
    assert!(slow.c.nodes[0].events.iter().any(reached));
}

#[test]
fn nothing_is_held_back_where_nothing_is_said() {
    let slow = Slow::new(60, None);
    assert_eq!(slow.ends().0, slow.ends().1);
    assert_eq!(slow.shown(), (None, None));
}

#[test]
fn a_copy_that_was_interrupted_goes_on_where_it_was() {
    let mut slow = Slow::new(60, Some(RATE));
    slow.wait(Duration::from_secs(5));
    let had = slow.ends().1;
    slow.c.cut(0, 1);
    let disk = slow.c.nodes[1].disk.crash(3);
    slow.c.reopen(1, disk);
    let kept = slow.ends().1;
    assert!(kept > 0 && had - kept <= 2 * MIB, "{kept} of {had} bytes are left");
    let before: usize = slow.c.sent.values().sum();
    slow.c.follow(1, 1, 0);
    slow.c.connect(1, 0);
    slow.wait(Duration::from_secs(30));
    assert_eq!(slow.ends().0, slow.ends().1);
    assert_eq!(slow.c.log_bytes(0), slow.c.log_bytes(1));
    let sent = slow.c.sent.values().sum::<usize>() - before;
    let missed = slow.ends().0 - kept;
    assert!((sent as u64) < missed + missed / 10, "{sent} bytes were sent for {missed} that were missing");
    assert!(slow.c.nodes[1].replica.log().durable() > Lsn(0));
}
