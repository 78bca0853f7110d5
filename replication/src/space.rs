//! Which parts of the log have gone to win back space, and what a replay begins with since.
//!
//! The log's addresses never change: what goes leaves a hole, always whole segments. A record in a hole
//! is needed by nobody: its bytes, where they were still of use, were moved to the tail, and what its
//! operations did is in a checkpoint of the state machine. Holes are decided by the primary and
//! are a record of the log themselves ([`Retirement`]), so that every replica has the same.

use holdfast_heartbeat::{Epoch, Lsn};
use serde::{Deserialize, Serialize};

/// Ranges of the log that are gone: in order, apart from each other, each from the beginning of a
/// segment to the beginning of one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Holes(Vec<(Lsn, Lsn)>);

impl Holes {
    /// The holes that these ranges make together; empty ones make none.
    pub fn new(ranges: impl IntoIterator<Item = (Lsn, Lsn)>) -> Holes {
        let mut sorted: Vec<_> = ranges.into_iter().filter(|(from, to)| from < to).collect();
        sorted.sort_unstable();
        let mut holes: Vec<(Lsn, Lsn)> = Vec::new();
        for (from, to) in sorted {
            match holes.last_mut() {
                Some(last) if from <= last.1 => last.1 = last.1.max(to),
                _ => holes.push((from, to)),
            }
        }
        Holes(holes)
    }

    /// The ranges.
    pub fn ranges(&self) -> &[(Lsn, Lsn)] {
        &self.0
    }

    /// Whether nothing is gone.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// These and those.
    pub fn and(&self, others: &Holes) -> Holes {
        Holes::new(self.0.iter().chain(&others.0).copied())
    }

    /// The hole that `lsn` lies in.
    pub fn at(&self, lsn: Lsn) -> Option<(Lsn, Lsn)> {
        let after = self.0.partition_point(|(from, _)| *from <= lsn);
        after.checked_sub(1).map(|i| self.0[i]).filter(|(_, to)| lsn < *to)
    }

    /// Whether a hole ends exactly there.
    pub fn ends_at(&self, lsn: Lsn) -> bool {
        self.0.iter().any(|(_, to)| *to == lsn)
    }

    /// Where the first hole at or after `lsn` begins.
    pub fn next(&self, lsn: Lsn) -> Option<Lsn> {
        self.0.get(self.0.partition_point(|(from, _)| *from < lsn)).map(|(from, _)| *from)
    }

    /// Where the last hole ends, zero where there is none.
    pub fn end(&self) -> Lsn {
        self.0.last().map_or(Lsn::ZERO, |(_, to)| *to)
    }

    /// Bytes that are gone.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|(from, to)| to.bytes_since(*from)).sum()
    }

    /// Bytes between `from` and `to` that are not gone.
    pub fn kept_between(&self, from: Lsn, to: Lsn) -> u64 {
        let gone = self.0.iter().map(|(begin, end)| (*end).min(to).bytes_since((*begin).max(from)));
        to.bytes_since(from) - gone.sum::<u64>()
    }

    /// Without what begins at `end` or later.
    pub(crate) fn before(&self, end: Lsn) -> Holes {
        Holes(self.0.iter().filter(|(from, _)| *from < end).copied().collect())
    }
}

/// The state machine's state as it was at `as_of`, in [`crate::RecordKind::Checkpoint`] records: what a
/// replay begins with. The records of other kinds between them come later than `as_of` and are replayed
/// after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// What the state machine had applied.
    pub as_of: Lsn,
    /// Where its first record begins.
    pub from: Lsn,
    /// Where its last record ends.
    pub to: Lsn,
}

/// The payload of a [`crate::RecordKind::Retire`] record. It replaces the one before: it names every
/// hole there is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retirement {
    /// The reign in which all this was found out; the record counts only in the same.
    pub epoch: Epoch,
    /// All that is gone from now on.
    pub holes: Holes,
    /// What a replay begins with. Everything that is gone lies before its `as_of`.
    pub checkpoint: Checkpoint,
}

impl Retirement {
    /// The record's payload.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("plain data always encodes")
    }

    /// Reads a payload. `None` if it is none, or makes no sense.
    pub fn decode(payload: &[u8]) -> Option<Retirement> {
        let retirement: Retirement = postcard::from_bytes(payload).ok()?;
        retirement.makes_sense().then_some(retirement)
    }

    fn makes_sense(&self) -> bool {
        let Checkpoint { as_of, from, to } = self.checkpoint;
        // Deserializing checks no order, and everything after this relies on it.
        Holes::new(self.holes.0.iter().copied()) == self.holes
            && self.holes.end() <= as_of
            && as_of <= from
            && from < to
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holes(ranges: &[(u64, u64)]) -> Holes {
        Holes::new(ranges.iter().map(|(from, to)| (Lsn(*from), Lsn(*to))))
    }

    #[test]
    fn ranges_that_touch_are_one_hole() {
        let all = holes(&[(30, 40), (0, 10), (10, 20), (35, 50), (60, 60)]);
        assert_eq!(all.ranges(), [(Lsn(0), Lsn(20)), (Lsn(30), Lsn(50))]);
        assert_eq!(all.bytes(), 40);
        assert_eq!((all.at(Lsn(19)), all.at(Lsn(20))), (Some((Lsn(0), Lsn(20))), None));
        assert_eq!(
            (all.next(Lsn(0)), all.next(Lsn(1)), all.next(Lsn(31))),
            (Some(Lsn(0)), Some(Lsn(30)), None)
        );
        assert_eq!(all.before(Lsn(30)), holes(&[(0, 20)]));
        assert_eq!(all.and(&holes(&[(20, 30)])), holes(&[(0, 50)]));
    }

    #[test]
    fn a_retirement_that_would_take_what_a_replay_needs_is_none() {
        let good = Retirement {
            epoch: Epoch(3),
            holes: holes(&[(0, 100)]),
            checkpoint: Checkpoint { as_of: Lsn(100), from: Lsn(120), to: Lsn(130) },
        };
        assert_eq!(Retirement::decode(&good.encode()), Some(good.clone()));
        let mut late = good.clone();
        late.checkpoint.as_of = Lsn(99);
        assert_eq!(Retirement::decode(&late.encode()), None);
        let mut unordered = good;
        unordered.holes.0.push((Lsn(5), Lsn(6)));
        assert_eq!(Retirement::decode(&unordered.encode()), None);
    }
}
