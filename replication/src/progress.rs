//! The primary's view of who holds what, and therefore what is committed.
//!
//! Committed is the least durable LSN over the wait set, and counts only acknowledgements given
//! under this epoch. It never goes back, and it does not move before the epoch start itself is
//! durable on the whole wait set: until then the members only agree on what earlier primaries wrote.

use std::collections::BTreeMap;

use holdfast_heartbeat::{Epoch, Lsn, Member, planted};

/// A grow or shrink that was asked for and not yet reported as reached.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reaching {
    version: u64,
    /// The new members must get here.
    target: Lsn,
}

/// Durable LSNs per member under one epoch.
#[derive(Clone, Debug)]
pub struct Progress {
    epoch: Epoch,
    epoch_start_end: Lsn,
    wait_set: Vec<Member>,
    durable: BTreeMap<Member, Lsn>,
    committed: Lsn,
    reaching: Option<Reaching>,
    /// Whose disk alone decides what is committed, where that was chosen; the wait set says then who joins and leaves.
    decides: Option<Member>,
}

impl Progress {
    /// A reign begins. `epoch_start_end` is the end of its first record, `committed` what was known
    /// to be committed before.
    pub fn new(epoch: Epoch, epoch_start_end: Lsn, committed: Lsn, wait_set: Vec<Member>) -> Progress {
        Progress {
            epoch,
            epoch_start_end,
            wait_set,
            durable: BTreeMap::new(),
            committed,
            reaching: None,
            decides: None,
        }
    }

    /// The same, and what is durable on `member` is committed, whoever else is waited for.
    pub fn decided_by(mut self, member: Member) -> Progress {
        self.decides = Some(member);
        self
    }

    /// The epoch that acknowledgements must carry.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The members that an acknowledgement waits for.
    pub fn wait_set(&self) -> &[Member] {
        &self.wait_set
    }

    /// What `member` has made durable under this epoch, as far as is known.
    pub fn durable_of(&self, member: &Member) -> Option<Lsn> {
        self.durable.get(member).copied()
    }

    /// `member` says, under `epoch`, that everything below `durable` is on its disk. Words of
    /// another epoch are ignored; returns whether anything was learned.
    pub fn acknowledge(&mut self, epoch: Epoch, member: &Member, durable: Lsn) -> bool {
        if epoch != self.epoch || self.durable.get(member).is_some_and(|old| *old >= durable) {
            return false;
        }
        self.durable.insert(member.clone(), durable);
        let silent = if planted::is("silent-member-not-waited-for") { durable } else { Lsn::ZERO };
        self.raise(silent);
        true
    }

    /// `silent`: what a member counts for that has said nothing.
    fn raise(&mut self, silent: Lsn) {
        let waited_for = match &self.decides {
            Some(member) => std::slice::from_ref(member),
            None => &self.wait_set[..],
        };
        let of = |member| self.durable.get(member).copied().unwrap_or(silent);
        let least = waited_for.iter().map(of).min().unwrap_or(Lsn::ZERO);
        if least >= self.epoch_start_end {
            self.committed = self.committed.max(least);
        }
    }

    /// Durable on the whole wait set.
    pub fn committed(&self) -> Lsn {
        self.committed
    }

    /// Waits for `members` from now on. Who joins must reach what may have been acknowledged
    /// without it: what is committed now and, since a new primary does not know exactly what its
    /// predecessor acknowledged, at least the epoch's own start.
    pub fn wait_for(&mut self, version: u64, members: Vec<Member>) {
        let target = self.committed.max(self.epoch_start_end);
        self.wait_set = members;
        self.reaching = Some(Reaching { version, target });
        self.raise(Lsn::ZERO);
    }

    /// The version of the wait set asked for last, once, when every member in it has reached what
    /// was committed when the waiting began.
    pub fn take_reached(&mut self) -> Option<u64> {
        let target = self.reaching.as_ref()?.target;
        let there = self.wait_set.iter().all(|m| self.durable_of(m).is_some_and(|d| d >= target))
            || planted::is("reached-at-once");
        if there { self.reaching.take().map(|r| r.version) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_heartbeat::{Incarnation, NodeId};

    use super::*;

    fn member(id: &str) -> Member {
        Member { id: NodeId::new(id).unwrap(), incarnation: Incarnation(1) }
    }

    fn pair() -> Progress {
        Progress::new(Epoch(5), Lsn(110), Lsn(60), vec![member("a"), member("b")])
    }

    #[test]
    fn committed_is_the_least_of_the_wait_set_and_never_goes_back() {
        let mut p = pair();
        p.acknowledge(Epoch(5), &member("a"), Lsn(200));
        assert_eq!(p.committed(), Lsn(60));
        p.acknowledge(Epoch(5), &member("b"), Lsn(109));
        assert_eq!(p.committed(), Lsn(60), "not before the epoch start is everywhere");
        p.acknowledge(Epoch(5), &member("b"), Lsn(150));
        assert_eq!(p.committed(), Lsn(150));
        assert!(!p.acknowledge(Epoch(5), &member("b"), Lsn(120)));
        assert_eq!(p.committed(), Lsn(150));
    }

    #[test]
    fn words_of_another_epoch_count_for_nothing() {
        let mut p = pair();
        p.acknowledge(Epoch(5), &member("a"), Lsn(200));
        assert!(!p.acknowledge(Epoch(4), &member("b"), Lsn(200)));
        assert!(!p.acknowledge(Epoch(6), &member("b"), Lsn(200)));
        assert_eq!(p.committed(), Lsn(60));
    }

    #[test]
    fn a_shrink_releases_what_waited() {
        let mut p = pair();
        p.acknowledge(Epoch(5), &member("a"), Lsn(200));
        p.wait_for(2, vec![member("a")]);
        assert_eq!(p.committed(), Lsn(200));
        assert_eq!(p.take_reached(), Some(2));
        assert_eq!(p.take_reached(), None);
    }

    #[test]
    fn where_one_disk_decides_the_others_are_not_waited_for_but_must_catch_up_to_join() {
        let mut p = Progress::new(Epoch(5), Lsn(110), Lsn(60), vec![member("a")]).decided_by(member("a"));
        p.wait_for(2, vec![member("a"), member("b")]);
        p.acknowledge(Epoch(5), &member("a"), Lsn(100));
        assert_eq!(p.committed(), Lsn(60), "not before the epoch start");
        p.acknowledge(Epoch(5), &member("a"), Lsn(200));
        assert_eq!((p.committed(), p.take_reached()), (Lsn(200), None));
        p.acknowledge(Epoch(5), &member("b"), Lsn(110));
        assert_eq!((p.committed(), p.take_reached()), (Lsn(200), Some(2)));
        p.acknowledge(Epoch(5), &member("b"), Lsn(300));
        assert_eq!(p.committed(), Lsn(200));
    }

    #[test]
    fn a_grow_is_reached_when_the_new_member_holds_what_was_committed() {
        let mut p = Progress::new(Epoch(5), Lsn(110), Lsn(60), vec![member("a")]);
        p.acknowledge(Epoch(5), &member("a"), Lsn(200));
        p.wait_for(3, vec![member("a"), member("b")]);
        p.acknowledge(Epoch(5), &member("a"), Lsn(300));
        assert_eq!(p.committed(), Lsn(200), "from now on b is waited for");
        p.acknowledge(Epoch(5), &member("b"), Lsn(199));
        assert_eq!(p.take_reached(), None);
        p.acknowledge(Epoch(5), &member("b"), Lsn(200));
        assert_eq!(p.take_reached(), Some(3));
        p.acknowledge(Epoch(5), &member("b"), Lsn(300));
        assert_eq!(p.committed(), Lsn(300));
    }

    #[test]
    fn a_grow_before_the_first_commit_must_reach_the_epoch_start() {
        let mut p = Progress::new(Epoch(5), Lsn(110), Lsn(60), vec![member("a")]);
        p.wait_for(1, vec![member("a"), member("b")]);
        p.acknowledge(Epoch(5), &member("b"), Lsn(70));
        p.acknowledge(Epoch(5), &member("a"), Lsn(110));
        assert_eq!(p.take_reached(), None);
        p.acknowledge(Epoch(5), &member("b"), Lsn(110));
        assert_eq!(p.take_reached(), Some(1));
    }
}
