//! Quorum arithmetic, apart from everything that uses it.

use holdfast_heartbeat::Time;

/// More than half of `voters`.
pub fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// The latest moment such that at least `needed` of the voters acknowledged something sent then or
/// later. `acks` has one entry for each voter but the asker, who always acknowledges itself;
/// `None` means "never acknowledged".
///
/// A lease counted from this moment is one that a majority stands behind (Gray and Cheriton,
/// "Leases", 1989: the holder counts from sending, the granter from receipt).
pub fn acknowledged_by(
    needed: usize,
    now: Time,
    acks: impl IntoIterator<Item = Option<Time>>,
) -> Option<Time> {
    if needed <= 1 {
        return Some(now);
    }
    let mut acks: Vec<Time> = acks.into_iter().flatten().collect();
    acks.sort_unstable_by(|a, b| b.cmp(a));
    acks.get(needed - 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn majority_is_more_than_half_for_every_size() {
        for voters in 1..20 {
            let m = majority(voters);
            assert!(2 * m > voters && 2 * (m - 1) <= voters, "{voters}");
            // Any two majorities share a member.
            assert!(2 * m > voters);
        }
    }

    #[test]
    fn a_lease_counts_from_what_a_majority_acknowledged() {
        let t = |n| Some(Time(n));
        let now = Time(100);
        assert_eq!(acknowledged_by(1, now, []), Some(now));
        assert_eq!(acknowledged_by(2, now, [t(40), None]), t(40), "peer or witness is enough of three");
        assert_eq!(acknowledged_by(2, now, [t(40), t(70)]), t(70), "the fresher of the two counts");
        assert_eq!(acknowledged_by(2, now, [None, None]), None);
        assert_eq!(acknowledged_by(3, now, [t(10), t(30), t(20), None]), t(20), "second freshest of five");
        assert_eq!(acknowledged_by(3, now, [t(10), None, None, None]), None);
    }
}
