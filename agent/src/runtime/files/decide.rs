//! What is to be done about one path: pure.
//!
//! Three things are compared: what the log says, what lies on this disk, and what was last known here to be the same
//! in both. Only the third tells an edit of this host from a copy that is merely old.
//!
//! Invariant: a copy that is older than what the log says is never written to the log, and an edit of this host is
//! never written over before it was kept aside.

use holdfast_heartbeat::Lsn;

/// What this member does for its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stance {
    /// Another member is primary: the log is right.
    Follow {
        /// The log is applied up to here.
        applied: Lsn,
    },
    /// This member becomes primary. Where it was primary itself until now, what changed here since is right.
    TakeOver {
        /// What the log says from there on came from this host.
        own_since: Option<Lsn>,
    },
    /// This member is primary: its disk is right.
    Reign {
        /// What the log says from there on came from this host.
        since: Lsn,
    },
}

/// What the log says of the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Said {
    /// By which operation.
    pub id: Lsn,
    /// That it is gone.
    pub gone: bool,
    /// The disk has just that.
    pub same: bool,
}

/// What was last the same in the log and on this disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// The operation that said so.
    pub id: Lsn,
    /// The disk still has just that.
    pub same: bool,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing.
    Leave,
    /// Note that log and disk agree.
    Agree,
    /// Note nothing of the path any more.
    Forget,
    /// Write what is on the disk to the log.
    Capture,
    /// Write to the log that it is gone.
    CaptureGone,
    /// Put what the log has in its place, after what is there was kept `aside`.
    Place { aside: bool },
    /// Take it away, after it was kept `aside`.
    Remove { aside: bool },
}

/// Decides. `present`: something is at the path on this disk.
pub(super) fn decide(said: Option<Said>, known: Option<Known>, present: bool, stance: Stance) -> Step {
    let Some(said) = said else {
        return match stance {
            Stance::Reign { .. } if present => Step::Capture,
            _ if !present && known.is_some() => Step::Forget,
            _ => Step::Leave,
        };
    };
    if said.same {
        return Step::Agree;
    }
    let edited_here = known.is_some_and(|known| known.id == said.id);
    match stance {
        Stance::Reign { since } if edited_here || said.id >= since => {
            return if present { Step::Capture } else { Step::CaptureGone };
        }
        Stance::TakeOver { own_since: Some(since) } if edited_here || said.id >= since => return Step::Leave,
        // An index that is being built anew passes through what was said long ago.
        Stance::Follow { applied }
            if known.is_some_and(|known| known.id > said.id && applied <= known.id) =>
        {
            return Step::Leave;
        }
        _ => {}
    }
    let stale = known.is_some_and(|known| known.same && known.id <= said.id);
    let aside = present && !stale;
    if said.gone { Step::Remove { aside } } else { Step::Place { aside } }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOLLOW: Stance = Stance::Follow { applied: Lsn(1000) };
    const TAKE: Stance = Stance::TakeOver { own_since: None };
    const AGAIN: Stance = Stance::TakeOver { own_since: Some(Lsn(50)) };
    const REIGN: Stance = Stance::Reign { since: Lsn(50) };

    fn said(id: u64, same: bool) -> Option<Said> {
        Some(Said { id: Lsn(id), gone: false, same })
    }

    fn gone(id: u64, same: bool) -> Option<Said> {
        Some(Said { id: Lsn(id), gone: true, same })
    }

    fn known(id: u64, same: bool) -> Option<Known> {
        Some(Known { id: Lsn(id), same })
    }

    #[test]
    fn a_copy_that_is_merely_old_is_replaced_and_never_captured() {
        for stance in [FOLLOW, TAKE, AGAIN, REIGN] {
            assert_eq!(decide(said(40, false), known(30, true), true, stance), Step::Place { aside: false });
            assert_eq!(decide(gone(40, false), known(30, true), true, stance), Step::Remove { aside: false });
        }
        // Without a record nothing tells it from an edit: it is kept, and the log is right all the same.
        for stance in [FOLLOW, TAKE, AGAIN, REIGN] {
            assert_eq!(decide(said(40, false), None, true, stance), Step::Place { aside: true });
            assert_eq!(decide(gone(40, false), None, true, stance), Step::Remove { aside: true });
        }
    }

    #[test]
    fn an_edit_counts_on_the_primary_and_is_kept_aside_on_a_standby() {
        assert_eq!(decide(said(40, false), known(40, false), true, REIGN), Step::Capture);
        assert_eq!(decide(said(40, false), known(40, false), false, REIGN), Step::CaptureGone);
        assert_eq!(decide(gone(40, false), known(40, false), true, REIGN), Step::Capture);
        for stance in [FOLLOW, TAKE] {
            assert_eq!(decide(said(40, false), known(40, false), true, stance), Step::Place { aside: true });
            assert_eq!(
                decide(said(40, false), known(40, false), false, stance),
                Step::Place { aside: false }
            );
            assert_eq!(decide(gone(40, false), known(40, false), true, stance), Step::Remove { aside: true });
        }
    }

    #[test]
    fn a_primary_that_was_away_for_a_moment_keeps_its_edits() {
        assert_eq!(decide(said(40, false), known(40, false), true, AGAIN), Step::Leave);
        assert_eq!(decide(said(40, false), known(40, false), false, AGAIN), Step::Leave);
        // Captured, but the record of that was lost.
        assert_eq!(decide(said(60, false), known(40, false), true, AGAIN), Step::Leave);
        assert_eq!(decide(said(60, false), known(40, false), true, REIGN), Step::Capture);
        assert_eq!(decide(said(60, false), None, true, REIGN), Step::Capture);
    }

    #[test]
    fn a_log_that_says_nothing_deletes_nothing() {
        for stance in [FOLLOW, TAKE, AGAIN] {
            for record in [None, known(40, true), known(40, false)] {
                assert_eq!(decide(None, record, true, stance), Step::Leave);
            }
        }
        assert_eq!(decide(None, None, true, REIGN), Step::Capture);
        assert_eq!(decide(None, None, false, REIGN), Step::Leave);
        assert_eq!(decide(None, known(40, false), false, FOLLOW), Step::Forget);
    }

    #[test]
    fn an_index_that_is_being_built_anew_puts_nothing_old_in_place() {
        let behind = Stance::Follow { applied: Lsn(35) };
        assert_eq!(decide(said(30, false), known(40, true), true, behind), Step::Leave);
        // The log went back for good: what this host has is kept.
        assert_eq!(decide(said(30, false), known(40, true), true, FOLLOW), Step::Place { aside: true });
        assert_eq!(decide(said(30, false), known(40, true), true, TAKE), Step::Place { aside: true });
    }

    #[test]
    fn what_agrees_is_noted_whatever_was_known() {
        for stance in [FOLLOW, TAKE, AGAIN, REIGN] {
            for record in [None, known(40, false), known(90, false)] {
                assert_eq!(decide(said(40, true), record, true, stance), Step::Agree);
                assert_eq!(decide(gone(40, true), record, false, stance), Step::Agree);
            }
        }
    }
}
