//! Which reigns wrote which part of a log, and where two logs part.
//!
//! One primary writes an epoch (rule R1), and an epoch's first record stands at one place. So two
//! logs that both hold the start of an epoch at the same LSN hold the same bytes up to it, and on
//! from there until the shorter one's share of that epoch ends. Nothing here reads a log.

use holdfast_heartbeat::{Epoch, Lsn, planted};
use serde::{Deserialize, Serialize};

/// The starts of the epochs in a log, in order: both the epochs and the LSNs grow strictly.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EpochHistory(Vec<(Epoch, Lsn)>);

/// A list of epoch starts that is not in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the epoch history is not in order")]
pub struct BadHistory;

impl EpochHistory {
    /// Checks the order of `starts`.
    pub fn new(starts: Vec<(Epoch, Lsn)>) -> Result<EpochHistory, BadHistory> {
        let ordered = starts.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 < w[1].1);
        if !ordered || starts.first().is_some_and(|(epoch, _)| *epoch == Epoch::ZERO) {
            return Err(BadHistory);
        }
        Ok(EpochHistory(starts))
    }

    /// The epochs with their starts.
    pub fn starts(&self) -> &[(Epoch, Lsn)] {
        &self.0
    }

    /// The last epoch, zero for an empty log.
    pub fn last_epoch(&self) -> Epoch {
        self.0.last().map_or(Epoch::ZERO, |(epoch, _)| *epoch)
    }

    /// The epoch that the byte at `lsn` belongs to, given that the log reaches that far.
    pub fn epoch_at(&self, lsn: Lsn) -> Option<Epoch> {
        let after = self.0.partition_point(|(_, start)| *start <= lsn);
        after.checked_sub(1).map(|i| self.0[i].0)
    }

    /// The epochs that have bytes in `from..to`.
    pub fn epochs_in(&self, from: Lsn, to: Lsn) -> Vec<Epoch> {
        let first = self.0.partition_point(|(_, start)| *start <= from).saturating_sub(1);
        self.0[first..].iter().take_while(|(_, start)| *start < to).map(|(epoch, _)| *epoch).collect()
    }

    /// Only the last `count` entries: bounds what is sent.
    pub fn latest(&self, count: usize) -> EpochHistory {
        EpochHistory(self.0[self.0.len().saturating_sub(count)..].to_vec())
    }

    pub(crate) fn push(&mut self, epoch: Epoch, start: Lsn) {
        assert!(self.0.last().is_none_or(|(e, s)| *e < epoch && *s < start), "epochs grow");
        self.0.push((epoch, start));
    }

    pub(crate) fn cut(&mut self, end: Lsn) {
        self.0.retain(|(_, start)| *start < end);
    }

    /// Where the share of epoch number `index` ends in a log that ends at `end`.
    fn share_end(&self, index: usize, end: Lsn) -> Lsn {
        self.0.get(index + 1).map_or(end, |(_, start)| *start)
    }
}

/// The highest LSN up to which both logs are sure to hold the same bytes. Zero if they share no epoch.
pub fn common_point(mine: &EpochHistory, my_end: Lsn, theirs: &EpochHistory, their_end: Lsn) -> Lsn {
    if planted::is("common-point-by-position") {
        return my_end.min(their_end);
    }
    let (mut i, mut j) = (mine.0.len(), theirs.0.len());
    while i > 0 && j > 0 {
        match mine.0[i - 1].cmp(&theirs.0[j - 1]) {
            std::cmp::Ordering::Equal => {
                return mine.share_end(i - 1, my_end).min(theirs.share_end(j - 1, their_end));
            }
            std::cmp::Ordering::Greater => i -= 1,
            std::cmp::Ordering::Less => j -= 1,
        }
    }
    Lsn::ZERO
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn history(starts: &[(u64, u64)]) -> EpochHistory {
        EpochHistory::new(starts.iter().map(|(e, l)| (Epoch(*e), Lsn(*l))).collect()).unwrap()
    }

    #[test]
    fn logs_part_where_the_shorter_share_of_the_last_shared_epoch_ends() {
        let a = history(&[(1, 0), (2, 100)]);
        let b = history(&[(1, 0), (3, 80)]);
        assert_eq!(common_point(&a, Lsn(150), &b, Lsn(200)), Lsn(80));
        assert_eq!(common_point(&a, Lsn(150), &a, Lsn(120)), Lsn(120));
        assert_eq!(common_point(&a, Lsn(150), &history(&[]), Lsn(0)), Lsn(0));
        assert_eq!(common_point(&a, Lsn(150), &history(&[(7, 0)]), Lsn(9)), Lsn(0));
    }

    #[test]
    fn epochs_of_a_range_are_named() {
        let a = history(&[(1, 0), (4, 100), (6, 200)]);
        assert_eq!(a.epochs_in(Lsn(50), Lsn(100)), [Epoch(1)]);
        assert_eq!(a.epochs_in(Lsn(100), Lsn(201)), [Epoch(4), Epoch(6)]);
        assert_eq!(a.epoch_at(Lsn(199)), Some(Epoch(4)));
    }

    /// A log as one (epoch, number) per unit of LSN: a model that shows every byte.
    fn model_history(log: &[(u64, u64)]) -> EpochHistory {
        let mut starts: Vec<(Epoch, Lsn)> = Vec::new();
        for (at, (epoch, _)) in log.iter().enumerate() {
            if starts.last().is_none_or(|(e, _)| e.0 != *epoch) {
                starts.push((Epoch(*epoch), Lsn(at as u64)));
            }
        }
        EpochHistory::new(starts).unwrap()
    }

    proptest! {
        /// Random reigns over three logs: each epoch one member writes, others copy some prefix of
        /// its log (cutting what differs). Then the common point is exactly the common prefix.
        #[test]
        fn common_point_is_the_length_of_the_common_prefix(
            reigns in proptest::collection::vec((0usize..3, 1u64..6, 0usize..3, 0u64..40), 1..12)
        ) {
            let mut logs: [Vec<(u64, u64)>; 3] = Default::default();
            for (epoch, (writer, count, copier, upto)) in reigns.into_iter().enumerate() {
                let epoch = epoch as u64 + 1;
                for n in 0..count {
                    logs[writer].push((epoch, n));
                }
                if copier != writer {
                    // What a standby does: cut to the common point, then copy on from there.
                    let common = logs[writer].iter().zip(&logs[copier]).take_while(|(a, b)| a == b).count();
                    let to = logs[writer].len().min(common + upto as usize);
                    logs[copier].truncate(common);
                    let new = logs[writer][common..to].to_vec();
                    logs[copier].extend(new);
                }
                for a in 0..3 {
                    for b in 0..3 {
                        let same = logs[a].iter().zip(&logs[b]).take_while(|(x, y)| x == y).count() as u64;
                        let (ha, hb) = (model_history(&logs[a]), model_history(&logs[b]));
                        let (ea, eb) = (Lsn(logs[a].len() as u64), Lsn(logs[b].len() as u64));
                        prop_assert_eq!(common_point(&ha, ea, &hb, eb), Lsn(same));
                    }
                }
            }
        }
    }
}
