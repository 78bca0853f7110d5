//! The rules of the in-sync set (R3), as pure functions over its records.
//!
//! The set names the data members that hold every acknowledged byte; whoever is in the greatest
//! record that a quorum holds may be elected without losing one. That sentence stays true through a
//! change only in one order per direction:
//!
//! * **Shrink: record first, then stop waiting.** While the record is on its way the primary still
//!   waits for the member, so nothing is acknowledged that it lacks. Were the primary to stop
//!   waiting first and die before the record is at a quorum, the member could be elected on the old
//!   record without writes that were acknowledged meanwhile.
//! * **Grow: wait first, then record.** The record may name the member only when it holds all that
//!   was acknowledged and every acknowledgement from now on waits for it. Were it recorded first, it
//!   could be elected before it had caught up.
//!
//! A change that does both at once has no safe order and is refused.

use holdfast_heartbeat::{Epoch, InSyncRecord, Member, NodeId};

/// Most data members in one set.
pub const MAX_MEMBERS: usize = 16;

/// In which order a change of the set is safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeOrder {
    /// A shrink: have the record durable at a quorum, then stop waiting.
    RecordThenStopWaiting,
    /// A grow: wait for the new members until they reached what is committed, then record.
    WaitThenRecord,
    /// The same members: only the record's rank changes.
    RecordOnly,
}

/// Why a change of the in-sync set is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InSyncError {
    /// Nobody would hold the data.
    #[error("an in-sync set needs a member")]
    Empty,
    /// More than [`MAX_MEMBERS`].
    #[error("an in-sync set has at most {MAX_MEMBERS} members")]
    TooMany,
    /// A name twice, be it in two incarnations.
    #[error("{0} is named twice")]
    Twice(NodeId),
    /// A record's epoch or version is zero, or the epoch goes back.
    #[error("epoch {epoch} version {version} is no rank for the next record")]
    Rank {
        /// The epoch asked for.
        epoch: Epoch,
        /// The version that would result.
        version: u64,
    },
    /// The change removes a member that is not there.
    #[error("{0} is not in the set")]
    NotIn(Member),
    /// The change adds a member that is there.
    #[error("{0} is in the set already")]
    AlreadyIn(Member),
    /// Members leave and come in one step; do it in two.
    #[error("the set cannot grow and shrink in one step")]
    Mixed,
    /// Two records of equal rank name different members: rule R1 was broken.
    #[error("two records of epoch {0} version {1} contradict each other")]
    Contradiction(Epoch, u64),
}

/// Checks a record by itself.
pub fn validate(record: &InSyncRecord) -> Result<(), InSyncError> {
    if record.members.is_empty() {
        return Err(InSyncError::Empty);
    }
    if record.members.len() > MAX_MEMBERS {
        return Err(InSyncError::TooMany);
    }
    if record.epoch == Epoch::ZERO || record.version == 0 {
        return Err(InSyncError::Rank { epoch: record.epoch, version: record.version });
    }
    for (i, member) in record.members.iter().enumerate() {
        if record.members[..i].iter().any(|m| m.id == member.id) {
            return Err(InSyncError::Twice(member.id.clone()));
        }
    }
    Ok(())
}

/// The greatest record, which is the truth if the records come from a quorum.
pub fn newest<'a>(
    records: impl IntoIterator<Item = &'a InSyncRecord>,
) -> Result<Option<&'a InSyncRecord>, InSyncError> {
    let mut best: Option<&InSyncRecord> = None;
    for record in records {
        match best {
            Some(b) if b.rank() == record.rank() => {
                let same =
                    b.members.len() == record.members.len() && b.members.iter().all(|m| record.contains(m));
                if !same {
                    return Err(InSyncError::Contradiction(b.epoch, b.version));
                }
            }
            Some(b) if b.rank() > record.rank() => {}
            _ => best = Some(record),
        }
    }
    Ok(best)
}

/// Whether `member`, in this very incarnation, may be elected on `record` without asking a person.
/// An incarnation drawn anew means an empty or damaged log: not the member that the record means.
pub fn may_elect(record: &InSyncRecord, member: &Member) -> bool {
    record.contains(member)
}

/// The record that follows `current` when the primary of `epoch` gives up waiting for `leaving`.
/// Stop waiting for them only when it is durable at a quorum.
pub fn next_after_shrink(
    current: &InSyncRecord,
    epoch: Epoch,
    leaving: &[Member],
) -> Result<InSyncRecord, InSyncError> {
    for member in leaving {
        if !current.contains(member) {
            return Err(InSyncError::NotIn(member.clone()));
        }
    }
    let members = current.members.iter().filter(|m| !leaving.contains(m)).cloned().collect();
    successor(current, epoch, members)
}

/// The record that follows `current` when the primary of `epoch` takes `joining` in. Write it only
/// when `WaitReached` said that each of them holds all that is committed, and go on waiting for them.
pub fn next_after_grow(
    current: &InSyncRecord,
    epoch: Epoch,
    joining: &[Member],
) -> Result<InSyncRecord, InSyncError> {
    let mut members = current.members.clone();
    for member in joining {
        if members.contains(member) {
            return Err(InSyncError::AlreadyIn(member.clone()));
        }
        members.push(member.clone());
    }
    successor(current, epoch, members)
}

fn successor(
    current: &InSyncRecord,
    epoch: Epoch,
    members: Vec<Member>,
) -> Result<InSyncRecord, InSyncError> {
    let version = if epoch == current.epoch { current.version.saturating_add(1) } else { 1 };
    if epoch < current.epoch {
        return Err(InSyncError::Rank { epoch, version });
    }
    let record = InSyncRecord { epoch, version, members };
    validate(&record)?;
    Ok(record)
}

/// The order in which a change from `old` members to `new` members is safe.
pub fn change_order(old: &[Member], new: &[Member]) -> Result<ChangeOrder, InSyncError> {
    let joins = new.iter().any(|m| !old.contains(m));
    let leaves = old.iter().any(|m| !new.contains(m));
    match (joins, leaves) {
        (false, false) => Ok(ChangeOrder::RecordOnly),
        (true, false) => Ok(ChangeOrder::WaitThenRecord),
        (false, true) => Ok(ChangeOrder::RecordThenStopWaiting),
        (true, true) => Err(InSyncError::Mixed),
    }
}

#[cfg(test)]
mod tests {
    use holdfast_heartbeat::Incarnation;

    use super::*;

    fn member(id: &str, life: u64) -> Member {
        Member { id: NodeId::new(id).unwrap(), incarnation: Incarnation(life) }
    }

    fn record(epoch: u64, version: u64, members: &[Member]) -> InSyncRecord {
        InSyncRecord { epoch: Epoch(epoch), version, members: members.to_vec() }
    }

    #[test]
    fn a_shrink_keeps_the_rest_and_outranks() {
        let now = record(3, 2, &[member("a", 1), member("b", 1)]);
        let next = next_after_shrink(&now, Epoch(3), &[member("b", 1)]).unwrap();
        assert_eq!(next, record(3, 3, &[member("a", 1)]));
        assert!(next.rank() > now.rank());
        assert!(!may_elect(&next, &member("b", 1)));
        assert_eq!(next_after_shrink(&next, Epoch(3), &[member("a", 1)]), Err(InSyncError::Empty));
        assert!(matches!(next_after_shrink(&next, Epoch(3), &[member("b", 1)]), Err(InSyncError::NotIn(_))));
        assert!(matches!(
            next_after_shrink(&now, Epoch(2), &[member("b", 1)]),
            Err(InSyncError::Rank { .. })
        ));
    }

    #[test]
    fn a_new_incarnation_is_not_the_member_that_was_recorded() {
        let now = record(3, 2, &[member("a", 1), member("b", 1)]);
        assert!(may_elect(&now, &member("b", 1)));
        assert!(!may_elect(&now, &member("b", 2)));
        let grown = next_after_grow(&now, Epoch(4), &[member("b", 2)]);
        assert!(matches!(grown, Err(InSyncError::Twice(_))), "the old life must be shrunk away first");
        let without = next_after_shrink(&now, Epoch(4), &[member("b", 1)]).unwrap();
        assert_eq!(without.rank(), (Epoch(4), 1));
        assert!(next_after_grow(&without, Epoch(4), &[member("b", 2)]).is_ok());
    }

    #[test]
    fn the_order_of_a_change_follows_from_its_direction() {
        let (a, b, c) = (member("a", 1), member("b", 1), member("c", 1));
        let order = |old: &[&Member], new: &[&Member]| {
            let own = |s: &[&Member]| s.iter().map(|m| (*m).clone()).collect::<Vec<_>>();
            change_order(&own(old), &own(new))
        };
        assert_eq!(order(&[&a, &b], &[&a]), Ok(ChangeOrder::RecordThenStopWaiting));
        assert_eq!(order(&[&a], &[&b, &a]), Ok(ChangeOrder::WaitThenRecord));
        assert_eq!(order(&[&a, &b], &[&b, &a]), Ok(ChangeOrder::RecordOnly));
        assert_eq!(order(&[&a, &b], &[&a, &c]), Err(InSyncError::Mixed));
    }

    #[test]
    fn the_newest_record_wins_and_contradictions_show() {
        let (old, new) = (record(3, 9, &[member("a", 1)]), record(4, 1, &[member("b", 1)]));
        assert_eq!(newest([&old, &new, &old]), Ok(Some(&new)));
        assert_eq!(newest([]), Ok(None));
        let other = record(4, 1, &[member("a", 1)]);
        assert_eq!(newest([&new, &other]), Err(InSyncError::Contradiction(Epoch(4), 1)));
    }
}
