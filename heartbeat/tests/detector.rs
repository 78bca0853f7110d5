//! Silence is counted over all paths, judged path by path, and never by anything that was not believed.

use std::time::Duration;

use holdfast_heartbeat::{Detector, PathReport, Time};
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
        detector.unproven(ms(1000), 0);
        detector.sent(0);
        detector.round_trip(ms(1000), 0, Duration::from_micros(100));
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
    detector.round_trip(ms(1000), 1, DETECT);
    detector.unproven(ms(1000), 1);
    detector.sent(1);
    assert!(!detector.alive(ms(1)));
    assert_eq!(detector.paths().len(), 1);
}

#[test]
fn the_round_trip_is_smoothed_by_an_eighth() {
    let mut detector = Detector::new(DETECT, 2);
    let rtt = |detector: &Detector| detector.paths()[0].rtt.unwrap().as_micros();
    detector.round_trip(ms(1000), 0, Duration::from_micros(800));
    assert_eq!(rtt(&detector), 800, "the first sample stands as it is");
    detector.round_trip(ms(1000), 0, Duration::from_micros(1600));
    assert_eq!(rtt(&detector), 900);
    detector.round_trip(ms(1000), 0, Duration::from_micros(100));
    assert_eq!(rtt(&detector), 800);
    assert_eq!(detector.paths()[1].rtt, None, "each path has its own");
}

#[test]
fn a_steady_round_trip_is_reached() {
    let mut detector = Detector::new(DETECT, 1);
    detector.round_trip(ms(1000), 0, Duration::from_millis(50));
    for _ in 0..200 {
        detector.round_trip(ms(1000), 0, Duration::from_micros(120));
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
            detector.round_trip(ms(1000), 0, Duration::from_nanos(*sample));
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

#[test]
fn a_one_way_cut_of_one_path_is_known_on_both_sides() {
    // Of path 1, what `here` sends is lost from 2 s on; path 0 works both ways.
    let (mut here, mut there) = (Detector::new(DETECT, 2), Detector::new(DETECT, 2));
    for beat in 0..50 {
        let now = ms(beat * 100);
        for path in 0..2 {
            there.sent(path);
            here.heard(now, path);
            here.sent(path);
            if path == 0 || beat < 20 {
                there.heard(now, path);
            }
        }
        let (ours, theirs): (Vec<_>, Vec<_>) = (here.reports().collect(), there.reports().collect());
        here.reported(now, &theirs);
        there.reported(now, &ours);
    }
    let carries = |detector: &Detector| -> Vec<_> {
        let paths = detector.paths().iter();
        paths.map(|path| (path.inbound.carries(DETECT), path.outbound.carries(DETECT))).collect()
    };
    assert_eq!(carries(&here), [(Some(true), Some(true)), (Some(true), Some(false))]);
    assert_eq!(carries(&there), [(Some(true), Some(true)), (Some(false), Some(true))]);
    assert!(!there.paths()[1].alive(ms(4900), DETECT), "and by silence as well");
    here.begun_anew();
    assert_eq!(here.paths()[1].outbound.carries(DETECT), None, "another life counts from zero");
}

#[test]
fn paths_that_are_numbered_otherwise_are_matched_by_what_came() {
    let mut here = Detector::new(DETECT, 2);
    here.numbered(0, 1);
    here.numbered(1, 0);
    for beat in 0..10u32 {
        for path in 0..2 {
            here.sent(path);
            here.heard(ms(u64::from(beat) * 100), path);
        }
        // Of what goes by our path 0, which they call 1, nothing arrives.
        let reports =
            [PathReport { sent: beat + 1, received: beat + 1 }, PathReport { sent: beat + 1, received: 0 }];
        here.reported(ms(u64::from(beat) * 100), &reports);
    }
    let outbound: Vec<_> = here.paths().iter().map(|path| path.outbound.carries(DETECT)).collect();
    assert_eq!(outbound, [Some(false), Some(true)]);
}

#[test]
fn the_longest_round_trip_is_forgotten_after_two_minutes_at_most() {
    let mut detector = Detector::new(DETECT, 1);
    let longest = |detector: &Detector, at| detector.paths()[0].longest_round_trip(ms(at));
    assert_eq!(longest(&detector, 0), None);
    detector.round_trip(ms(60_000), 0, Duration::from_millis(7));
    detector.round_trip(ms(90_000), 0, Duration::from_millis(2));
    assert_eq!(longest(&detector, 119_000), Some(Duration::from_millis(7)));
    detector.round_trip(ms(125_000), 0, Duration::from_millis(1));
    assert_eq!(longest(&detector, 130_000), Some(Duration::from_millis(7)));
    assert_eq!(longest(&detector, 190_000), Some(Duration::from_millis(1)));
    assert_eq!(longest(&detector, 300_000), None);
}
