//! What clients saw: judged after a run, from their history alone.
//!
//! [`check`] runs the checkers that judge what clients were told: linearizable, listing, uploads, written.
//! Each one is sound: what it reports cannot have come about in a store that keeps its promises. What a checker
//! had to leave open is counted and reported, never passed over.

#[cfg(test)]
mod tests;

use holdfast_heartbeat::types::Epoch;
use holdfast_replication::testing::Dice;
use holdfast_store::backend::ReadLog;
use holdfast_store::index::Index;

use super::{linearizable, listing, readable, uploads, written};
use crate::sim::s3::call::{Answer, Call, Key};
use crate::sim::s3::history::{ClientId, History, THE_BUCKET};
use crate::sim::s3::session::{Context, Session, Step};

/// The elementary steps that the search for an explanation may take for each key. Ordinary keys need a
/// few for each operation.
const BUDGET: u64 = 5_000_000;

/// Keys that an inspector asks for on one page.
const INSPECTED: u16 = 1000;

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which promise: the name of the checker.
    pub invariant: &'static str,
    /// The key that it is about.
    pub key: Option<Key>,
    /// What happened, in lines.
    pub text: String,
}

/// What the checkers found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What was wrong.
    pub violations: Vec<Violation>,
    /// What could not be decided, and why.
    pub undecided: Vec<String>,
    /// How many things were checked.
    pub checked: u64,
}

/// Checks everything that clients were told.
pub fn check(history: &History) -> Report {
    check_within(history, BUDGET)
}

/// As [`check`], with another bound on the steps that each key may take.
pub fn check_within(history: &History, budget: u64) -> Report {
    let mut report = Report::default();
    let held = written::MayHold::of(history);
    let names = listing::Names::of(history);
    written::check(history, &held, &mut report);
    listing::check(history, &names, &held, &mut report);
    uploads::check(history, &mut report);
    linearizable::check(history, &names, &held, budget, &mut report);
    report
}

/// Reads everything from a replica after the end of a run, as a last client would: lists all keys, and gets
/// every key that was ever named. To be called when that replica has applied everything that was committed;
/// what was lost then shows in [`check`] as a read that nothing explains. Returns the keys of which something is
/// there that cannot be read.
pub fn final_reads(history: &mut History, index: &Index, log: &dyn ReadLog, at: u64) -> Vec<Key> {
    let mut dice = Dice(0);
    let mut ask = |history: &mut History, call: Call| {
        let op = history.invoked(ClientId::INSPECTOR, call.clone(), at);
        let mut context = Context { index, log, wall_ms: 0, epoch: Epoch::ZERO, dice: &mut dice };
        let (_, step) = Session::begin(call, &mut context);
        let Step::Answer(answer) = step else { panic!("a read needs nothing of the log") };
        history.completed(op, &answer, at);
        answer
    };
    let mut start_after = None;
    loop {
        let page = ask(history, Call::List { prefix: "", start_after, max_keys: INSPECTED });
        let Answer::Listing { entries, truncated: true } = page else { break };
        // A name that is no key is reported as such; there is no going on from it.
        start_after = entries.last().and_then(|last| Key::parse(&last.name));
        if start_after.is_none() {
            break;
        }
    }
    let keys: Vec<Key> = history.keys().map(|(key, _)| key).filter(|key| *key != THE_BUCKET).collect();
    keys.into_iter().filter(|key| readable::is_damage(&ask(history, Call::Get { key: *key }))).collect()
}
