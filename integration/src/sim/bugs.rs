//! The planted bugs, and the hunt that shows that the simulator notices each of them.
//!
//! Every place in the tree that asks [`holdfast_heartbeat::planted::is`] for a name has its line here, and
//! every line its place: a test holds the two against each other. A bug that no run notices would mean that
//! a kind of fault or a checker is missing, not that the bug is harmless.

#[cfg(feature = "planted-bugs")]
pub use self::hunting::{Caught, hunt};

/// A bug that can be switched on in a build with the feature `planted-bugs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bug {
    /// Its name, as the place asks for it.
    pub name: &'static str,
    /// The rules of the design that it breaks, or brings within reach of being broken.
    pub breaks: &'static str,
    /// What goes wrong, in one line.
    pub what: &'static str,
}

const fn bug(name: &'static str, breaks: &'static str, what: &'static str) -> Bug {
    Bug { name, breaks, what }
}

/// Every planted bug, by the part of the system that it is in.
pub const ALL: [Bug; COUNT] = [
    // Promises and votes.
    bug("vote-before-durable", "R1", "a vote leaves before it is on the voter's disk"),
    bug(
        "newest-write-reported",
        "R1",
        "the writer of the state file reports a later write than the one it has done",
    ),
    bug("second-vote-in-epoch", "R1", "a voter helps a second candidate in the same epoch"),
    bug("half-of-the-votes", "R1", "half of an even number of votes makes a primary"),
    bug("pair-shares-epochs", "R1", "both members of a pair, alone, take the same next epoch"),
    bug("forced-epoch-not-apart", "R1", "a forced promotion takes the epoch that a majority may be winning"),
    bug(
        "epoch-of-record-forgotten",
        "R1",
        "a candidate heeds promised epochs and not those of in-sync records",
    ),
    bug(
        "epoch-of-log-forgotten",
        "R1",
        "a restart trusts the state file where the log reaches into a later epoch",
    ),
    bug("restart-votes-at-once", "R4", "a voter does not wait one lease after its start"),
    bug(
        "longer-lease-forgotten",
        "R4",
        "the wait after a start is the configured lease, not the longest one granted",
    ),
    bug("hands-over-to-worse", "health", "a primary hands over to a member that is worse than itself"),
    // The lease.
    bug("drift-margin-left-out", "R4", "a voter waits exactly one lease, without the margin for drift"),
    bug(
        "own-lease-instead-of-stated",
        "R4",
        "a voter waits for its own lease and not for the one the holder stated",
    ),
    bug(
        "renewed-lease-forgotten",
        "R4",
        "a voter helps another candidate although it has just renewed a lease",
    ),
    bug(
        "renewal-after-another-promise",
        "R4",
        "a lease goes on being renewed by, and counted from, a voter that promised a later epoch",
    ),
    bug("lease-from-receipt", "R4", "the holder counts its lease from when the answer came"),
    bug("lease-from-any-heartbeat", "R4", "whatever heartbeat comes in renews the lease"),
    bug("lease-one-ack-short", "R4", "in clusters of four and more the lease needs one voter too few"),
    bug(
        "resignation-of-earlier-reign",
        "R4",
        "a resignation from an earlier reign ends the lease of the present one",
    ),
    bug(
        "notice-of-earlier-life",
        "R4, R5",
        "the notice of a death is believed of whatever life came after it",
    ),
    bug("answer-without-lease", "R2, R4", "the lease is not looked at when an answer leaves"),
    bug("claim-without-lease", "R4", "the lease is not looked at when the address is put on"),
    // Packets.
    bug("echo-of-any-life", "R5", "a packet is believed that was made for an earlier life of its receiver"),
    bug("echo-of-any-age", "R5", "a packet is believed however long it was held back"),
    bug("ended-life-believed", "R5", "a packet is believed of a life of its sender that has ended"),
    bug("packet-seen-twice", "R5", "a packet is believed as often as it comes"),
    // The kernel.
    bug("gate-without-deadline", "R6", "the gate is opened for good instead of until the end of the lease"),
    bug("gate-not-shut", "R6, R7", "the gate stays open until its deadline when a reign ends early"),
    bug("gate-open-after-reign", "R4, R7", "a reign ends and its lease is left to run out"),
    bug("address-kept-after-reign", "R7", "a reign ends and the address is not taken off"),
    bug("notice-before-sweep", "R7", "the supervisor tells of the death before it has taken the address off"),
    // The in-sync set.
    bug(
        "candidate-judged-by-its-own-record",
        "R3",
        "a voter looks for the candidate in the candidate's record alone",
    ),
    bug("vote-without-memory", "R3", "a member that may have forgotten the record votes all the same"),
    bug("incarnation-ignored", "R3", "a member with an emptied disk counts as the one that was recorded"),
    bug("emptied-log-keeps-its-name", "R3", "an agent whose log is gone starts as the member that it was"),
    bug(
        "damaged-log-keeps-its-name",
        "R3",
        "an agent that cuts damage out of its log starts as the member that it was",
    ),
    bug(
        "pair-trusts-old-record",
        "R3",
        "a member of a pair stands alone at a cold start on the record that it has",
    ),
    bug("solo-not-recorded", "R3", "a record of the set takes effect before a quorum has it"),
    bug("own-record-not-durable", "R3", "a record of the set counts here before it is on the own disk"),
    bug("record-below-promise-counts", "R3", "a record is taken and counted by who promised a later epoch"),
    bug(
        "waits-no-longer-before-recorded",
        "R3",
        "a member is not waited for from when its removal is proposed",
    ),
    bug("recorded-before-waited-for", "R3", "a newcomer is recorded first and waited for afterwards"),
    bug("any-wait-admits", "R3", "a newcomer is admitted when some earlier wait was reached"),
    bug("voters-change-at-once", "R3, R4", "a new voting set decides alone before the old one agreed to it"),
    bug("voters-of-the-configuration", "R1, R3", "whoever is configured votes, whatever was written down"),
    bug(
        "voters-replaced-in-one-step",
        "R1, R3",
        "a voter is replaced by another one in one step, which leaves two majorities without a common member",
    ),
    bug("reached-at-once", "R3", "a newcomer is admitted before it holds what was acknowledged"),
    // Taking over and handing over.
    bug("serves-before-recorded", "R3, R7", "a new primary serves before its in-sync set is recorded"),
    bug(
        "address-before-replay",
        "R7",
        "a new primary claims the address before its epoch start is committed",
    ),
    bug("claims-over-an-answer", "R7", "a new primary claims the address although the probe was answered"),
    bug("serves-over-a-veto", "R7", "a takeover goes on although a pre-hook vetoed it"),
    bug(
        "takes-over-before-fence-confirmed",
        "R7",
        "a new primary does not wait until its vanished predecessor is switched off",
    ),
    bug(
        "pair-primary-goes-on-alone-unfenced",
        "R2, R3",
        "the primary of a pair leaves the other half out before that one is confirmed to be off",
    ),
    bug(
        "pair-stands-alone-unfenced",
        "R2, R7",
        "the standby of a pair takes over before the other half is confirmed to be off",
    ),
    bug("resigns-before-release", "R7", "who steps down says so before the address is off"),
    bug("hands-over-before-release", "R7", "who hands over says so before the address is off"),
    bug(
        "follows-before-promise-durable",
        "R1, R2",
        "a standby acknowledges under an epoch that is not on its disk",
    ),
    // Replication.
    bug("acknowledged-before-synced", "R2", "a standby acknowledges what it has written and not synced"),
    bug("answers-before-committed", "R2", "a write is applied and answered when it is durable here"),
    bug("silent-member-not-waited-for", "R2", "a member that has acknowledged nothing yet is not waited for"),
    bug(
        "common-point-by-position",
        "R8, R9",
        "two logs are taken to agree as far as the shorter one reaches",
    ),
    bug("archive-left-empty", "R8", "a divergent tail is listed as set aside, and its bytes are not"),
    bug("index-kept-after-cut", "R9", "the index keeps what was applied from a tail that was cut"),
    // The disk.
    bug("sync-skipped", "R2", "the log says that bytes are durable without a sync"),
    bug("full-segment-not-synced", "R2", "a segment is left unsynced when the next one begins"),
    bug("damage-taken-for-torn", "R9", "damage below what was durable is cut as if it were a torn tail"),
    bug("read-not-verified", "R9", "the checksum of what is read is not looked at"),
    // The store.
    bug("any-etag-matches", "linearizability", "a condition on an entity tag holds for any object"),
    bug("batch-blind-to-itself", "linearizability", "operations applied in one batch do not see each other"),
    bug(
        "extents-of-earlier-epoch",
        "linearizability",
        "an object is made of bytes that were received in an earlier epoch",
    ),
    bug(
        "copy-of-changed-source",
        "linearizability",
        "a copy takes the bytes of whatever is at its source by then",
    ),
    bug(
        "upload-outlives-completion",
        "linearizability",
        "an upload can be completed again, long after its object was replaced",
    ),
    bug(
        "page-begins-with-last",
        "listing",
        "a page of a listing begins with the last entry of the one before",
    ),
    // Space.
    bug("gone-segments-not-noted", "R2", "segments are given up, and no map says that they are not damage"),
    bug(
        "stragglers-left-behind",
        "R2",
        "segments are given up although something was shared or filed away there meanwhile",
    ),
    // Reads of a standby.
    bug("freshness-without-the-lease", "fresh reads", "a former primary says what is committed"),
    bug("given-up-bytes-taken", "R2", "an object is made of bytes that were given up while it was received"),
];

/// How many there are.
pub const COUNT: usize = 77;

/// The bug of this name.
pub fn named(name: &str) -> Option<Bug> {
    ALL.into_iter().find(|bug| bug.name == name)
}

#[cfg(feature = "planted-bugs")]
mod hunting {
    use holdfast_heartbeat::planted;

    use super::Bug;
    use crate::sim::run::run_seed;

    /// A run that noticed a bug.
    #[derive(Clone, Debug)]
    pub struct Caught {
        /// The seed of the run.
        pub seed: u64,
        /// How many runs it took, this one included.
        pub nth: u64,
        /// The rule that was found broken.
        pub rule: &'static str,
        /// What was found, in words.
        pub what: String,
    }

    /// Runs seeds from `from_seed` on with the bug switched on, at most `most_seeds` of them, until a run
    /// notices it. A run that finds the same rule broken without the bug has noticed something else, and
    /// does not count.
    pub fn hunt(bug: Bug, from_seed: u64, most_seeds: u64) -> Option<Caught> {
        for nth in 1..=most_seeds {
            let seed = from_seed + nth - 1;
            planted::switch_on(bug.name);
            let verdict = run_seed(seed, None);
            planted::switch_on("");
            let Some(found) = verdict.violation else { continue };
            if run_seed(seed, None).violation.is_none_or(|without| without.rule != found.rule) {
                return Some(Caught { seed, nth, rule: found.rule, what: found.what });
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// The names that the files below `folder` ask for, as written: one string literal in each call.
    fn asked_below(folder: &Path, names: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).expect("the source tree is readable") {
            let path = entry.expect("the source tree is readable").path();
            if path.is_dir() {
                asked_below(&path, names);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source file is text");
                let mut calls = text.split(concat!("planted::", "is(\""));
                calls.next();
                names.extend(calls.filter_map(|rest| rest.split_once('"')).map(|(name, _)| name.to_owned()));
            }
        }
    }

    #[test]
    fn every_bug_has_its_place_and_every_place_its_bug() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a crate lies in the workspace");
        let mut asked = BTreeSet::new();
        for part in ["heartbeat", "replication", "store", "vip", "config", "agent", "integration"] {
            asked_below(&root.join(part).join("src"), &mut asked);
        }
        let listed: BTreeSet<String> = ALL.iter().map(|bug| bug.name.to_owned()).collect();
        assert_eq!(listed.len(), ALL.len(), "a name stands twice in the list");
        assert_eq!(
            listed.difference(&asked).collect::<Vec<_>>(),
            Vec::<&String>::new(),
            "listed, and asked for nowhere"
        );
        assert_eq!(
            asked.difference(&listed).collect::<Vec<_>>(),
            Vec::<&String>::new(),
            "asked for, and not listed"
        );
    }

    #[test]
    fn an_ordinary_build_has_no_planted_bugs() {
        assert_eq!(holdfast_heartbeat::planted::COMPILED_IN, cfg!(feature = "planted-bugs"));
        if !cfg!(feature = "planted-bugs") {
            assert!(ALL.iter().all(|bug| !holdfast_heartbeat::planted::is(bug.name)));
        }
    }
}
