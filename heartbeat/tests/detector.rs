//! Silence is counted over all paths, judged path by path, and never by anything that was not believed.

use std::time::Duration;

use holdfast_heartbeat::{Detector, Time};
use proptest::prelude::*;

const DETECT: Duration = Duration::from_millis(300);
const INSTANT: Duration = Duration::from_nanos(1);

fn ms(ms: u64) -> Time {
    Time(ms * 1_000_000)
}

#[test]
fn a_peer_that_was_never_heard_is_not_alive_and_has_no_deadline() {
    let detector = Detector::new(DETECT, 2);
    assert!(!detector.alive(Time::ZERO));
    assert_eq!(detector.heard_at(), None);
    assert_eq!(detector.silent_at(ms(5)), None);
}

#[test]
fn a_peer_is_silent_after_the_detection_time_and_not_before() {
    let mut detector = Detector::new(DETECT, 1);
    detector.heard(ms(1000), 0);
    assert!(detector.alive(ms(1300)), "at the very limit it lives");
    assert!(!detector.alive(ms(1300) + INSTANT));
}

#[test]
fn the_deadline_is_the_first_moment_of_silence() {
    let mut detector = Detector::new(DETECT, 1);
    detector.heard(ms(1000), 0);
    let deadline = detector.silent_at(ms(1000)).unwrap();
    assert!(detector.alive(deadline - INSTANT) && !detector.alive(deadline));
    assert_eq!(detector.silent_at(deadline - INSTANT), Some(deadline));
    assert_eq!(detector.silent_at(deadline), None, "a deadline that is over does not wake anybody again");
}

#[test]
fn one_path_is_enough_to_live() {
    let mut detector = Detector::new(DETECT, 3);
    detector.heard(ms(1000), 0);
    detector.heard(ms(1200), 2);
    let now = ms(1400);
    assert!(detector.alive(now));
    let alive: Vec<_> = detector.paths().iter().map(|path| path.alive(now, DETECT)).collect();
    assert_eq!(alive, [false, false, true], "the dead ones are named");
    assert_eq!(detector.heard_at(), Some(ms(1200)));
}

#[test]
fn what_was_not_believed_keeps_nobody_alive() {
    let mut detector = Detector::new(DETECT, 1);
    detector.heard(ms(1000), 0);
    for _ in 0..100 {
        detector.unproven(0);
        detector.sent(0);
        detector.round_trip(0, Duration::from_micros(100));
    }
    assert!(!detector.alive(ms(1301)));
    let path = &detector.paths()[0];
    assert_eq!((path.received, path.sent, path.unproven), (1, 100, 100));
}

#[test]
fn a_path_that_does_not_exist_is_passed_over() {
    let mut detector = Detector::new(DETECT, 1);
    detector.heard(ms(1), 1);
    detector.heard(ms(1), usize::MAX);
    detector.round_trip(1, DETECT);
    detector.unproven(1);
    detector.sent(1);
    assert!(!detector.alive(ms(1)));
    assert_eq!(detector.paths().len(), 1);
}

#[test]
fn the_round_trip_is_smoothed_by_an_eighth() {
    let mut detector = Detector::new(DETECT, 2);
    let rtt = |detector: &Detector| detector.paths()[0].rtt.unwrap().as_micros();
    detector.round_trip(0, Duration::from_micros(800));
    assert_eq!(rtt(&detector), 800, "the first sample stands as it is");
    detector.round_trip(0, Duration::from_micros(1600));
    assert_eq!(rtt(&detector), 900);
    detector.round_trip(0, Duration::from_micros(100));
    assert_eq!(rtt(&detector), 800);
    assert_eq!(detector.paths()[1].rtt, None, "each path has its own");
}

#[test]
fn a_steady_round_trip_is_reached() {
    let mut detector = Detector::new(DETECT, 1);
    detector.round_trip(0, Duration::from_millis(50));
    for _ in 0..200 {
        detector.round_trip(0, Duration::from_micros(120));
    }
    let rtt = detector.paths()[0].rtt.unwrap();
    assert!(rtt.abs_diff(Duration::from_micros(120)) < Duration::from_micros(1), "{rtt:?}");
}

proptest! {
    /// The smoothed value never leaves the range of the samples (but for rounding below 8 ns).
    #[test]
    fn the_round_trip_stays_within_its_samples(samples in prop::collection::vec(0u64..10_000_000_000, 1..50)) {
        let mut detector = Detector::new(DETECT, 1);
        for sample in &samples {
            detector.round_trip(0, Duration::from_nanos(*sample));
        }
        let rtt = detector.paths()[0].rtt.unwrap().as_nanos() as u64;
        let (least, most) = (*samples.iter().min().unwrap(), *samples.iter().max().unwrap());
        prop_assert!(rtt + 8 >= least && rtt <= most + 8, "{} not in {}..{}", rtt, least, most);
    }

    /// Living on any path and having a deadline are one and the same.
    #[test]
    fn alive_means_that_silence_is_still_to_come(
        heard in prop::collection::vec((0u64..2_000, 0usize..3), 0..20), now in 0u64..3_000,
    ) {
        let mut detector = Detector::new(DETECT, 3);
        let mut last = 0;
        for (at, path) in heard {
            // Time does not run backwards.
            last = last.max(at);
            detector.heard(ms(last), path);
        }
        let now = ms(now.max(last));
        prop_assert_eq!(detector.alive(now), detector.silent_at(now).is_some());
        prop_assert_eq!(detector.alive(now), detector.paths().iter().any(|path| path.alive(now, DETECT)));
    }
}
