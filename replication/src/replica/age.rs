//! How old what a follower lacks is: when the log was how long.

use std::collections::VecDeque;
use std::time::Duration;

use holdfast_heartbeat::{Lsn, Time};

/// Marks are this far apart at least.
const APART: Duration = Duration::from_millis(10);
/// Most marks. When there are so many, only those stay that are apart by this share of their age: of thirty years that
/// is some eight hundred.
const MOST: usize = 1024;
/// See [`MOST`].
const SHARE: u32 = 32;

/// When this process saw the log end where. Each mark: the log's end, and when it had come that far.
#[derive(Debug, Default)]
pub(super) struct Ages(VecDeque<(Lsn, Time)>);

impl Ages {
    /// The log ends at `end` now.
    pub(super) fn note(&mut self, end: Lsn, now: Time) {
        let news = self.0.back().is_none_or(|(last, at)| *last < end && now.since(*at) >= APART);
        if !news {
            return;
        }
        if self.0.len() >= MOST {
            let mut kept: Option<Time> = None;
            self.0.retain(|(_, at)| {
                let keep = kept.is_none_or(|kept| at.since(kept) >= now.since(*at) / SHARE);
                if keep {
                    kept = Some(*at);
                }
                keep
            });
        }
        self.0.push_back((end, now));
    }

    /// Nobody will be asked about who has everything below `lsn`.
    pub(super) fn forget_below(&mut self, lsn: Lsn) {
        while self.0.len() > 1 && self.0[0].0 <= lsn {
            self.0.pop_front();
        }
    }

    /// How long ago, at least, that was written which begins at `lsn`, in a log that ends behind it.
    pub(super) fn of(&self, lsn: Lsn, now: Time) -> Duration {
        let at = self.0.partition_point(|(end, _)| *end <= lsn);
        self.0.get(at).or(self.0.back()).map_or(Duration::ZERO, |(_, written)| now.since(*written))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Time {
        Time(ms * 1_000_000)
    }

    #[test]
    fn what_is_missing_is_as_old_as_its_first_byte() {
        let mut ages = Ages::default();
        assert_eq!(ages.of(Lsn(0), ms(5)), Duration::ZERO);
        for (end, at) in [(100, 0), (200, 1_000), (200, 1_500), (300, 2_000), (310, 2_003)] {
            ages.note(Lsn(end), ms(at));
        }
        let age = |lsn| ages.of(Lsn(lsn), ms(10_000)).as_millis();
        assert_eq!(
            [age(0), age(99), age(100), age(199), age(200), age(299)],
            [10_000, 10_000, 9_000, 9_000, 8_000, 8_000]
        );
        // Within a mark's width of the last one.
        assert_eq!(age(300), 8_000);
        ages.forget_below(Lsn(200));
        assert_eq!(ages.of(Lsn(250), ms(10_000)).as_millis(), 8_000);
        assert_eq!(ages.0.len(), 1);
    }

    #[test]
    fn a_follower_that_is_away_for_long_costs_no_memory_and_little_exactness() {
        let mut ages = Ages::default();
        for second in 0..200_000 {
            ages.note(Lsn(second + 1), ms(second * 1000));
        }
        assert!(ages.0.len() <= MOST);
        let now = ms(200_000_000);
        for lsn in [0, 1000, 100_000, 199_000, 199_990] {
            let (truth, said) = (200_000 - lsn, ages.of(Lsn(lsn), now).as_secs());
            assert!(said <= truth && truth - said <= truth / 16 + 1, "{said} s for {truth} s");
        }
    }
}
