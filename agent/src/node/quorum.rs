//! Quorum arithmetic, apart from everything that uses it.

use holdfast_heartbeat::{Time, planted};

/// More than half of `voters`.
pub fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// A place in a voting set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seat {
    /// The asker's, who assents to what it asks.
    Own,
    /// Of the peer in this slot.
    Peer(usize),
    /// Of a voter that is not configured here or has not told its name yet.
    Unknown,
}

/// How many voters of a set decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quota {
    /// More than half.
    Majority,
    /// More than half, or everybody who can be heard where an operator answers for the others.
    Heard,
    /// So many.
    Count(usize),
}

/// Who decides: one voting set, or more while one takes the place of another. Then all must.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Electorate {
    sets: Vec<Vec<Seat>>,
}

impl Electorate {
    /// The voting set in force, and those that follow it.
    pub fn new(set: Vec<Seat>, next: impl IntoIterator<Item = Vec<Seat>>) -> Electorate {
        Electorate { sets: std::iter::once(set).chain(next).collect() }
    }

    /// Voters in the set that is to be, or else in the one in force.
    pub fn voters(&self) -> usize {
        self.sets.last().map_or(0, Vec::len)
    }

    /// Voters in the same set that are heard, the asker included. `heard` by slot.
    pub fn heard(&self, heard: impl Fn(usize) -> bool) -> usize {
        self.sets.last().map_or(0, |set| set.iter().filter(|seat| seat.is(&heard)).count())
    }

    /// Whether in each set enough voters assent. `heard` and `assents` by slot.
    pub fn carries(
        &self,
        quota: Quota,
        heard: impl Fn(usize) -> bool,
        assents: impl Fn(usize) -> bool,
    ) -> bool {
        self.sets.iter().all(|set| {
            let have = set.iter().filter(|seat| seat.is(&assents)).count();
            have >= needed(quota, set, &heard)
        })
    }

    /// The latest moment such that in each set enough voters acknowledged something sent then or later. `acks` by
    /// slot: the newest thing that the peer acknowledged, `None` if it never did. The asker has acknowledged what it
    /// `said` last, so who needs nobody else has the assent to that.
    ///
    /// A lease counted from this moment is one that a majority stands behind (Gray and Cheriton, "Leases", 1989: the
    /// holder counts from sending, the granter from receipt).
    pub fn acknowledged(
        &self,
        quota: Quota,
        heard: impl Fn(usize) -> bool,
        said: Time,
        acks: impl Fn(usize) -> Option<Time>,
    ) -> Option<Time> {
        let of_set = |set: &Vec<Seat>| {
            let own = set.contains(&Seat::Own);
            let others = needed(quota, set, &heard).saturating_sub(usize::from(own));
            if others == 0 {
                return Some(said);
            }
            let mut acks: Vec<Time> = set.iter().filter_map(|seat| seat.slot().and_then(&acks)).collect();
            acks.sort_unstable_by(|a, b| b.cmp(a));
            let last = if planted::is("lease-one-ack-short") { others.saturating_sub(2) } else { others - 1 };
            acks.get(last).copied()
        };
        // Each set must stand behind it: the earliest of their moments.
        self.sets.iter().map(of_set).reduce(|a, b| Some(a?.min(b?))).flatten()
    }
}

impl Seat {
    fn slot(&self) -> Option<usize> {
        match self {
            Seat::Peer(slot) => Some(*slot),
            Seat::Own | Seat::Unknown => None,
        }
    }

    /// Whether `of` holds for who has it; it always does for the asker.
    fn is(&self, of: impl Fn(usize) -> bool) -> bool {
        *self == Seat::Own || self.slot().is_some_and(of)
    }
}

fn needed(quota: Quota, set: &[Seat], heard: impl Fn(usize) -> bool) -> usize {
    match quota {
        Quota::Majority => majority(set.len()),
        Quota::Heard => majority(set.len()).min(set.iter().filter(|seat| seat.is(&heard)).count()),
        Quota::Count(count) => count,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn majority_is_more_than_half_for_every_size() {
        for voters in 1..20 {
            let m = majority(voters);
            assert!(2 * m > voters && 2 * (m - 1) <= voters, "{voters}");
        }
    }

    fn of(slots: &[usize]) -> Vec<Seat> {
        std::iter::once(Seat::Own).chain(slots.iter().map(|slot| Seat::Peer(*slot))).collect()
    }

    #[test]
    fn a_lease_counts_from_what_a_majority_acknowledged() {
        let t = |n| Some(Time(n));
        let said = Time(100);
        let of = |acks: &[Option<Time>]| {
            let everybody: Vec<usize> = (0..acks.len()).collect();
            let electorate = Electorate::new(of(&everybody), None);
            electorate.acknowledged(Quota::Majority, |_| true, said, |slot| acks[slot])
        };
        assert_eq!(of(&[]), Some(said));
        assert_eq!(of(&[t(40), None]), t(40), "peer or witness is enough of three");
        assert_eq!(of(&[t(40), t(70)]), t(70), "the fresher of the two counts");
        assert_eq!(of(&[None, None]), None);
        assert_eq!(of(&[t(10), t(30), t(20), None]), t(20), "second freshest of five");
        assert_eq!(of(&[t(10), None, None, None]), None);
    }

    /// Three members, of whom one is to be replaced: neither half of the exchange alone decides anything.
    #[test]
    fn while_one_set_takes_the_place_of_another_both_must_agree() {
        let (old, new) = (of(&[0, 1]), of(&[0, 2]));
        let both = Electorate::new(old, Some(new));
        let carried =
            |assents: &[usize]| both.carries(Quota::Majority, |_| true, |slot| assents.contains(&slot));
        assert!(!carried(&[1]), "a majority of the old set only");
        assert!(!carried(&[2]), "a majority of the new set only");
        assert!(carried(&[0]), "a member of both is enough for both");
        assert!(carried(&[1, 2]));
        let acks = |slot| (slot != 0).then_some(Time(slot as u64 * 10));
        let from = both.acknowledged(Quota::Majority, |_| true, Time(99), acks);
        assert_eq!(from, Some(Time(10)), "the older of the two assents");
        let one = |slot| (slot == 2).then_some(Time(20));
        assert_eq!(both.acknowledged(Quota::Majority, |_| true, Time(99), one), None);
    }

    #[test]
    fn whoever_is_unknown_counts_among_the_voters_and_never_assents() {
        let set = vec![Seat::Own, Seat::Peer(0), Seat::Unknown];
        let electorate = Electorate::new(set, None);
        assert_eq!((electorate.voters(), electorate.heard(|_| true)), (3, 2));
        assert!(electorate.carries(Quota::Majority, |_| true, |_| true));
        assert!(!electorate.carries(Quota::Majority, |_| true, |_| false));
        assert!(electorate.carries(Quota::Heard, |_| false, |_| false), "an operator answers for the silent");
        assert!(!electorate.carries(Quota::Count(3), |_| true, |_| true));
    }
}
