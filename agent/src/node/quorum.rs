//! Quorum arithmetic, apart from everything that uses it.

use holdfast_heartbeat::{Time, planted};

/// More than half of `voters`.
pub fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// The latest moment such that at least `needed` of the voters acknowledged something sent then or
/// later. `acks` has one entry for each voter but the asker, who always acknowledges itself;
/// `None` means "never acknowledged". Who needs nobody else has the assent to what it said last, at `said`.
///
/// A lease counted from this moment is one that a majority stands behind (Gray and Cheriton,
/// "Leases", 1989: the holder counts from sending, the granter from receipt).
pub fn acknowledged_by(
    needed: usize,
    said: Time,
    acks: impl IntoIterator<Item = Option<Time>>,
) -> Option<Time> {
    if needed <= 1 {
        return Some(said);
    }
    let mut acks: Vec<Time> = acks.into_iter().flatten().collect();
    acks.sort_unstable_by(|a, b| b.cmp(a));
    let last = if planted::is("lease-one-ack-short") { needed.saturating_sub(3) } else { needed - 2 };
    acks.get(last).copied()
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
        let said = Time(100);
        assert_eq!(acknowledged_by(1, said, []), Some(said));
        assert_eq!(acknowledged_by(2, said, [t(40), None]), t(40), "peer or witness is enough of three");
        assert_eq!(acknowledged_by(2, said, [t(40), t(70)]), t(70), "the fresher of the two counts");
        assert_eq!(acknowledged_by(2, said, [None, None]), None);
        assert_eq!(acknowledged_by(3, said, [t(10), t(30), t(20), None]), t(20), "second freshest of five");
        assert_eq!(acknowledged_by(3, said, [t(10), None, None, None]), None);
    }
}
