//! How late the core is: the time between the moment at which it asked to be called and the call.
//!
//! A core that is late sends its heartbeats late, which the others cannot tell from a failure. Nothing here
//! decides; [`Lateness::is_grave`] says when a member is late so often that the role is better elsewhere.

use std::collections::VecDeque;
use std::time::Duration;

use holdfast_heartbeat::Time;
use serde::{Deserialize, Serialize};

/// Upper bounds of the buckets in which calls are counted, in microseconds; the last bucket has none.
pub const BOUNDS_US: [u64; 13] =
    [50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000];

/// So many times within [`GRAVE_WITHIN`] is no accident.
const GRAVE_TIMES: usize = 3;
/// See [`GRAVE_TIMES`].
const GRAVE_WITHIN: Duration = Duration::from_secs(60);
/// The longest lateness is remembered for one to two of these.
const RECENTLY: Duration = Duration::from_secs(60);

/// What is known of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lateness {
    /// Calls, by the first bound of [`BOUNDS_US`] that they kept; the last bucket has the rest.
    pub buckets: [u64; BOUNDS_US.len() + 1],
    /// Of all calls together.
    pub sum: Duration,
    /// Of this period and of the one before.
    longest: [Duration; 2],
    period_began: Time,
    /// When the core was late by more than it may, the newest last.
    grave: VecDeque<Time>,
}

impl Lateness {
    /// Counts a call at `now`, which came `late`; more than `limit` puts the next heartbeat in danger.
    pub(super) fn note(&mut self, now: Time, late: Duration, limit: Duration) {
        let us = u64::try_from(late.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.iter().position(|bound| us <= *bound).unwrap_or(BOUNDS_US.len());
        self.buckets[bucket] += 1;
        self.sum += late;
        self.turn(now);
        self.longest[0] = self.longest[0].max(late);
        if late > limit {
            if self.grave.len() == GRAVE_TIMES {
                self.grave.pop_front();
            }
            self.grave.push_back(now);
        }
    }

    fn turn(&mut self, now: Time) {
        let passed = now.since(self.period_began);
        if passed >= RECENTLY {
            let before = if passed < RECENTLY * 2 { self.longest[0] } else { Duration::ZERO };
            self.longest = [Duration::ZERO, before];
            self.period_began = now;
        }
    }

    /// The longest of the last minute or two.
    pub fn longest_lately(&self, now: Time) -> Duration {
        let mut seen = self.clone();
        seen.turn(now);
        seen.longest[0].max(seen.longest[1])
    }

    /// Whether it was late by more than it may, several times within a minute.
    pub fn is_grave(&self, now: Time) -> bool {
        self.grave.len() == GRAVE_TIMES
            && self.grave.front().is_some_and(|first| now.since(*first) <= GRAVE_WITHIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn at(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn calls_are_counted_by_how_late_they_were() {
        let mut lateness = Lateness::default();
        for late in [Duration::ZERO, MS / 20, MS, MS * 2000] {
            lateness.note(at(1), late, MS * 150);
        }
        assert_eq!((lateness.buckets[0], lateness.buckets[4], lateness.buckets[13]), (2, 1, 1));
        assert_eq!(lateness.buckets.iter().sum::<u64>(), 4);
        assert_eq!(lateness.sum, MS / 20 + MS * 2001);
    }

    #[test]
    fn the_longest_is_forgotten_after_two_minutes_at_most() {
        let mut lateness = Lateness::default();
        lateness.note(at(100), MS * 7, MS * 150);
        lateness.note(at(159), MS, MS * 150);
        assert_eq!(lateness.longest_lately(at(161)), MS * 7);
        lateness.note(at(161), MS * 2, MS * 150);
        assert_eq!(lateness.longest_lately(at(200)), MS * 7);
        assert_eq!(lateness.longest_lately(at(221)), MS * 2);
        assert_eq!(lateness.longest_lately(at(1000)), Duration::ZERO);
    }

    #[test]
    fn to_be_late_is_grave_when_it_happens_again_and_again() {
        let mut lateness = Lateness::default();
        for second in [10, 100, 110] {
            lateness.note(at(second), MS * 151, MS * 150);
            assert!(!lateness.is_grave(at(second)), "one in each minute may happen: {second}");
        }
        lateness.note(at(111), MS * 150, MS * 150);
        assert!(!lateness.is_grave(at(111)), "what is allowed does not count");
        lateness.note(at(160), MS * 151, MS * 150);
        assert!(lateness.is_grave(at(160)));
        assert!(!lateness.is_grave(at(161)), "it passes");
    }
}
