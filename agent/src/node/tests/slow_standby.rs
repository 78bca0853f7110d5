//! A standby that is slow for long: it leaves the in-sync set, comes back by itself, and does not go in and out all the
//! time, since each time costs the clients the wait for it.

use std::time::Duration;

use super::cluster::{Cluster, MS, Shape};

const A: usize = 0;
const B: usize = 1;

const SECOND: Duration = Duration::from_secs(1);

/// Time passes with a write every 100 ms. Where it is `ill` the standby is quick until it is admitted, and stalls then:
/// whoever looks at it before finds that it has everything.
fn pass(cluster: &mut Cluster, span: Duration, ill: bool) {
    for _ in 0..span.as_millis() / 100 {
        let in_sync = cluster.in_sync(A).contains(&B);
        cluster.stream_delay = if ill && in_sync { 3 * SECOND / 2 } else { Duration::ZERO };
        cluster.write(A);
        cluster.run(100 * MS);
    }
}

fn departures(cluster: &Cluster) -> usize {
    cluster.hosts[A].notes.iter().filter(|note| note.contains("b leaves the in-sync set")).count()
}

#[test]
fn a_standby_that_is_slow_for_long_is_let_in_ever_more_rarely_and_comes_back_when_it_is_well() {
    let mut cluster = Cluster::started(Shape::default());
    pass(&mut cluster, 10 * SECOND, false);
    assert_eq!(departures(&cluster), 0);

    // The first times are forgiven at once.
    pass(&mut cluster, 60 * SECOND, true);
    let first = departures(&cluster);
    assert!((3..=9).contains(&first), "{first} times in the first minute");
    // From then on, however long it lasts: every half minute it is tried, and is out again.
    for minute in 1..10 {
        let before = departures(&cluster);
        pass(&mut cluster, 60 * SECOND, true);
        let more = departures(&cluster) - before;
        assert!((1..=2).contains(&more), "{more} times in minute {minute}: {:#?}", cluster.story());
    }

    // It is well: it comes back by itself, and stays.
    let before = departures(&cluster);
    let mut away = Duration::ZERO;
    while !cluster.in_sync(A).contains(&B) {
        pass(&mut cluster, SECOND, false);
        away += SECOND;
        assert!(away < 40 * SECOND, "it is not let in again: {:#?}", cluster.story());
    }
    pass(&mut cluster, 120 * SECOND, false);
    assert_eq!(departures(&cluster), before);

    // What was before is forgotten then: another stall is forgiven at once.
    while cluster.in_sync(A).contains(&B) {
        pass(&mut cluster, MS * 100, true);
    }
    pass(&mut cluster, 8 * SECOND, false);
    assert_eq!(departures(&cluster), before + 1);
    assert!(cluster.in_sync(A).contains(&B), "{:#?}", cluster.story());
}
