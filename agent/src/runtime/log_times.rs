//! Where a write's time goes: to this disk, and to the wait for the standbys. Counted by the log's thread, read by
//! whoever shows it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use holdfast_heartbeat::Lsn;

/// Upper bounds of the buckets, in microseconds; the last bucket has none. From a disk with a battery to one that is
/// about to fail.
pub const BOUNDS_US: [u64; 14] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000,
];

/// Durations, counted.
#[derive(Debug, Default)]
pub struct Durations {
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Durations {
    /// Counts one.
    pub fn note(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.iter().position(|bound| us <= *bound).unwrap_or(BOUNDS_US.len());
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// All together, in microseconds.
    pub fn sum_us(&self) -> u64 {
        self.sum_us.load(Ordering::Relaxed)
    }

    /// Upper bound in microseconds (`None` for the last), and how many were within it and above the bound before.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<u64>, u64)> + '_ {
        let bounds = BOUNDS_US.iter().map(|bound| Some(*bound)).chain([None]);
        bounds.zip(self.buckets.iter().map(|count| count.load(Ordering::Relaxed)))
    }
}

/// What the log's thread counts.
#[derive(Debug, Default)]
pub struct LogTimes {
    /// From the call to the disk until it says that all that was written is durable.
    pub sync: Durations,
    /// On the primary: from then until every other member of the in-sync set says so too.
    pub standby_wait: Durations,
}

/// The wait for the standbys that goes on: one at a time, since the next batch is synced during it.
#[derive(Debug, Default)]
pub(super) struct StandbyWait {
    durable_here: Option<(Lsn, Instant)>,
}

impl StandbyWait {
    /// This member holds all below `durable`, and every member of the in-sync set all below `committed`.
    pub(super) fn stands(&mut self, durable: Lsn, committed: Lsn, times: &LogTimes) {
        match self.durable_here {
            Some((lsn, since)) if committed >= lsn => {
                times.standby_wait.note(since.elapsed());
                self.durable_here = None;
            }
            None if committed < durable => self.durable_here = Some((durable, Instant::now())),
            Some(_) | None => {}
        }
    }

    /// This member leads no more: nobody is waited for.
    pub(super) fn ends(&mut self) {
        self.durable_here = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_the_first_bucket_that_they_keep() {
        let durations = Durations::default();
        for us in [1, 100, 101, 2_500_000, 2_500_001] {
            durations.note(Duration::from_micros(us));
        }
        let full: Vec<_> = durations.buckets().filter(|(_, count)| *count > 0).collect();
        assert_eq!(full, [(Some(100), 2), (Some(250), 1), (Some(2_500_000), 1), (None, 1)]);
        assert_eq!(durations.sum_us(), 1 + 100 + 101 + 2_500_000 + 2_500_001);
    }

    #[test]
    fn a_wait_lasts_from_durable_here_until_durable_everywhere() {
        let (mut wait, times) = (StandbyWait::default(), LogTimes::default());
        let counted = || times.standby_wait.buckets().map(|(_, count)| count).sum::<u64>();
        wait.stands(Lsn(100), Lsn(100), &times);
        assert_eq!(counted(), 0, "nobody was waited for");
        wait.stands(Lsn(200), Lsn(100), &times);
        // More becomes durable here meanwhile: that is another wait.
        wait.stands(Lsn(300), Lsn(150), &times);
        assert_eq!(counted(), 0);
        wait.stands(Lsn(300), Lsn(200), &times);
        assert_eq!(counted(), 1);
        wait.stands(Lsn(400), Lsn(200), &times);
        wait.ends();
        wait.stands(Lsn(400), Lsn(400), &times);
        assert_eq!(counted(), 1);
    }
}
