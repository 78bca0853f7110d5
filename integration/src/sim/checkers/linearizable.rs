//! Every key behaves like one register, whatever hosts did meanwhile.
//!
//! All that clients heard about a key must have an explanation in which each request happened at one moment
//! between its sending and its answer: an acknowledged write is seen by whoever asks after it, until the
//! next one; a condition was judged on what was there; what was deleted stays deleted. A request without a
//! usable answer may have happened at any time since, or not at all.
//!
//! A copy is a write of the value that its answer names, and a read of that value at the source. A copy
//! without an answer may have written anything that its source may ever have had, which is more than it
//! could: no false alarm comes of it. A completed upload is a write of the joined value that happens once,
//! however often it is asked for; an upload that was acknowledged as aborted was not completed.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_store::object::UploadId;

use super::clients::{Report, Violation};
use super::listing::{Names, observations};
use super::search::{Deed, Operation, Pattern, State, Verdict, judge};
use super::written::MayHold;
use crate::sim::s3::call::{Call, Code, Condition, Key};
pub(super) use crate::sim::s3::history::THE_BUCKET;
use crate::sim::s3::history::{Heard, History, OpId, Recorded, Token};

const NAME: &str = "linearizable";

/// How many of the last operations before a violation are shown.
const SHOWN: usize = 12;

type Op = Operation<OpId>;

fn state(token: Token) -> State {
    State(token.0 + State::VALUES)
}

/// What happened to one key.
#[derive(Default)]
struct Register {
    ops: Vec<Op>,
}

struct Projection<'a> {
    history: &'a History,
    held: &'a MayHold,
    uploads: BTreeMap<UploadId, u32>,
    aborted: BTreeSet<UploadId>,
    registers: BTreeMap<Key, Register>,
    /// What was answered up to here is not looked at.
    forgotten: u32,
}

/// Checks every key; at most `budget` elementary steps for each.
pub(super) fn check(history: &History, names: &Names, held: &MayHold, budget: u64, report: &mut Report) {
    let mut projection = Projection {
        history,
        held,
        uploads: BTreeMap::new(),
        aborted: BTreeSet::new(),
        registers: BTreeMap::new(),
        forgotten: history.forgotten().map_or(0, |forgotten| forgotten.order),
    };
    for (_, op) in history.ops() {
        if let (Call::Abort { upload, .. }, Heard::Done) = (&op.call, &op.heard)
            && op.invoked.0 > projection.forgotten
        {
            projection.aborted.insert(*upload);
        }
    }
    for (id, op) in history.ops() {
        projection.take(id, op);
    }
    for id in history.listings() {
        let op = history.op(*id);
        observations(op, names, |key, deed| projection.add(key, *id, op, Some(deed), None));
    }
    projection.prove_the_bucket();
    projection.settle_values();
    for (key, register) in &projection.registers {
        report.checked += register.ops.len() as u64;
        let initial = projection.initial(*key, register);
        match judge(&register.ops, &initial, budget) {
            Verdict::Legal => {}
            Verdict::Undecided(why) => {
                report.undecided.push(format!("{key}: {why} ({} operations)", register.ops.len()));
            }
            Verdict::Illegal { at, states, open } => {
                let text = describe(history, *key, register, at, &states, &open);
                report.violations.push(Violation { invariant: NAME, key: Some(*key), text });
            }
        }
    }
}

impl Projection<'_> {
    /// Adds what an operation did if it is certain that it did, or what it may do if that is not.
    fn add(&mut self, key: Key, id: OpId, op: &Recorded, certain: Option<Deed>, possible: Option<Deed>) {
        let begun = op.invoked.0;
        let end = op.completed.map(|(order, _)| order);
        let before = begun <= self.forgotten;
        let operation = match (certain, possible) {
            (Some(Deed::See(_)), _) if before => return,
            // It was acknowledged, and then its loss was accepted; or it was still under way when the
            // loss was accepted, and may have been acknowledged by the member that lost it.
            (Some(_), _) if end.is_some_and(|end| end <= self.forgotten) => return,
            (Some(deed), _) if before => Op { of: id, begun, ended: None, deed },
            (Some(deed), _) => Op { of: id, begun, ended: end, deed },
            (None, Some(deed)) => Op { of: id, begun, ended: None, deed },
            (None, None) => return,
        };
        self.registers.entry(key).or_default().ops.push(operation);
    }

    /// What an operation says about the keys that it names.
    fn take(&mut self, id: OpId, op: &Recorded) {
        let see = |pattern| Some(Deed::See(pattern));
        let absent = || see(Pattern::Is(State::ABSENT));
        if op.heard == Heard::Refused(Code::NoSuchBucket) {
            return self.add(THE_BUCKET, id, op, absent(), None);
        }
        // A condition that was refused was judged on the object as it was.
        let refused = |condition: Condition, code: Code| match (condition, code) {
            (Condition::Absent, Code::PreconditionFailed) => see(Pattern::Present),
            (Condition::Is(etag), Code::PreconditionFailed) => {
                let token = self.history.token(etag)?;
                see(Pattern::PresentBut(state(token)))
            }
            (Condition::Is(_), Code::NoSuchKey) => absent(),
            _ => None,
        };
        let only_if = |condition: Condition| match condition {
            Condition::Always => None,
            Condition::Absent => Some(Pattern::Is(State::ABSENT)),
            Condition::Is(etag) => self.history.token(etag).map(|token| Pattern::Is(state(token))),
        };
        match &op.call {
            Call::CreateBucket => {
                let deed = Deed::Write { to: State::OTHER, only_if: Some(Pattern::Is(State::ABSENT)) };
                match op.heard {
                    Heard::Done => self.add(THE_BUCKET, id, op, Some(deed), None),
                    Heard::Nothing(_) => self.add(THE_BUCKET, id, op, None, Some(deed)),
                    Heard::Refused(Code::BucketExists) => {
                        self.add(THE_BUCKET, id, op, see(Pattern::Present), None);
                    }
                    _ => {}
                }
            }
            Call::Put { key, condition, .. } => {
                let Some(token) = self.history.token_of(&op.call) else { return };
                let deed = Deed::Write { to: state(token), only_if: only_if(*condition) };
                match op.heard {
                    Heard::Stored(_) => self.add(*key, id, op, Some(deed), None),
                    Heard::Nothing(_) => self.add(*key, id, op, None, Some(deed)),
                    Heard::Refused(code) => {
                        let seen = refused(*condition, code);
                        self.add(*key, id, op, seen, None);
                    }
                    _ => {}
                }
            }
            Call::Delete { key, if_match } => {
                let condition = if_match.map_or(Condition::Always, Condition::Is);
                let deed = Deed::Write { to: State::ABSENT, only_if: only_if(condition) };
                match op.heard {
                    Heard::Done => self.add(*key, id, op, Some(deed), None),
                    Heard::Nothing(_) => self.add(*key, id, op, None, Some(deed)),
                    Heard::Refused(code) => {
                        let seen = refused(condition, code);
                        self.add(*key, id, op, seen, None);
                    }
                    _ => {}
                }
            }
            Call::Complete { key, upload, condition, .. } => {
                let Some(token) = self.history.token_of(&op.call) else { return };
                let (only_if, seen) = (only_if(*condition), |code| refused(*condition, code));
                let seen = if let Heard::Refused(code) = op.heard { seen(code) } else { None };
                let next = self.uploads.len() as u32;
                let number = *self.uploads.entry(*upload).or_insert(next);
                let deed = Deed::WriteOnce { to: state(token), only_if, number };
                match op.heard {
                    Heard::Stored(_) => self.add(*key, id, op, Some(deed), None),
                    Heard::Nothing(_) if !self.aborted.contains(upload) => {
                        self.add(*key, id, op, None, Some(deed));
                    }
                    Heard::Refused(_) => self.add(*key, id, op, seen, None),
                    _ => {}
                }
            }
            Call::Copy { from, to } => match op.heard {
                Heard::Stored(token) => {
                    let deed = Deed::Write { to: state(token), only_if: None };
                    self.add(*to, id, op, Some(deed), None);
                    self.add(*from, id, op, see(Pattern::Is(state(token))), None);
                }
                // Which values matter is known when everything that was seen is.
                Heard::Nothing(_) => self.add(*to, id, op, None, Some(Deed::WriteOneOf(Vec::new()))),
                Heard::Refused(Code::NoSuchKey) => self.add(*from, id, op, absent(), None),
                _ => {}
            },
            Call::Get { key } | Call::Head { key } => match op.heard {
                Heard::Object { token, .. } => {
                    self.add(*key, id, op, see(Pattern::Is(state(token))), None);
                }
                Heard::Refused(Code::NoSuchKey) => self.add(*key, id, op, absent(), None),
                _ => {}
            },
            Call::List { .. } | Call::CreateUpload { .. } | Call::UploadPart { .. } | Call::Abort { .. } => {}
        }
    }

    /// If anybody was told that there is no bucket, notes the first answer that proves that there was one.
    fn prove_the_bucket(&mut self) {
        let denies = |op: &Op| op.deed == Deed::See(Pattern::Is(State::ABSENT));
        if !self.registers.get(&THE_BUCKET).is_some_and(|bucket| bucket.ops.iter().any(denies)) {
            return;
        }
        let proves = |op: &Recorded| {
            let told = matches!(op.heard, Heard::Stored(_) | Heard::Object { .. } | Heard::Listing { .. });
            told && op.invoked.0 > self.forgotten
        };
        let first = self.history.ops().filter(|(_, op)| proves(op)).min_by_key(|(_, op)| op.completed);
        if let Some((id, op)) = first {
            self.add(THE_BUCKET, id, op, Some(Deed::See(Pattern::Present)), None);
        }
    }

    /// Gives copies without an answer the values that they may have written, and lets one state stand for
    /// all values that no answer and no condition names: nobody can tell these from one another.
    fn settle_values(&mut self) {
        for register in self.registers.values_mut() {
            let depended = depended(&register.ops);
            let named = |state: State| {
                if state == State::ABSENT || depended.contains(&state) { state } else { State::OTHER }
            };
            for op in &mut register.ops {
                match &mut op.deed {
                    Deed::See(_) => {}
                    Deed::Write { to, .. } | Deed::WriteOnce { to, .. } => *to = named(*to),
                    Deed::WriteOneOf(states) => {
                        let Call::Copy { from, .. } = self.history.op(op.of).call else { continue };
                        *states = self.held.under(from).map(|token| named(state(token))).collect();
                        states.push(State::OTHER);
                        states.sort();
                        states.dedup();
                    }
                }
            }
        }
    }

    /// The states that a key may have had at the beginning of what is looked at.
    fn initial(&self, key: Key, register: &Register) -> Vec<State> {
        match self.history.forgotten().map(|forgotten| &forgotten.surviving) {
            None => vec![State::ABSENT],
            Some(_) if key == THE_BUCKET => vec![State::ABSENT, State::OTHER],
            Some(Some(surviving)) => {
                let depended = depended(&register.ops);
                let named = |token: &Token| {
                    if depended.contains(&state(*token)) { state(*token) } else { State::OTHER }
                };
                vec![surviving.get(&key).map_or(State::ABSENT, named)]
            }
            Some(None) => {
                let depended = depended(&register.ops);
                let values = self.held.under(key).map(state).filter(|state| depended.contains(state));
                [State::ABSENT, State::OTHER].into_iter().chain(values).collect()
            }
        }
    }
}

/// The states that some answer or condition names.
fn depended(ops: &[Op]) -> BTreeSet<State> {
    let mut states = BTreeSet::new();
    let mut note = |pattern: &Pattern| match pattern {
        Pattern::Is(state) | Pattern::PresentBut(state) => drop(states.insert(*state)),
        Pattern::Present => {}
    };
    for op in ops {
        match &op.deed {
            Deed::See(pattern) => note(pattern),
            Deed::Write { only_if, .. } => only_if.iter().for_each(&mut note),
            Deed::WriteOnce { to, only_if, .. } => {
                only_if.iter().for_each(&mut note);
                note(&Pattern::Is(*to));
            }
            Deed::WriteOneOf(_) => {}
        }
    }
    states
}

/// The violation for a person: what could not be explained, what the key could have held, and what
/// happened shortly before or was still under way.
fn describe(
    history: &History,
    key: Key,
    register: &Register,
    at: usize,
    states: &[State],
    open: &[usize],
) -> String {
    let name = |state: &State| match *state {
        State::ABSENT => "nothing".to_owned(),
        State::OTHER => "something".to_owned(),
        State(number) => history.value(Token(number - State::VALUES)),
    };
    let what = if key == THE_BUCKET { "the bucket".to_owned() } else { key.to_string() };
    let states: Vec<String> = states.iter().map(name).collect();
    let bad = &register.ops[at];
    let end = bad.ended.unwrap_or(u32::MAX);
    let says = match &bad.deed {
        Deed::See(Pattern::Is(state)) => format!("says that {what} holds {}", name(state)),
        Deed::See(Pattern::Present) => format!("says that {what} holds something"),
        Deed::See(Pattern::PresentBut(state)) => {
            format!("says that {what} holds something but {}", name(state))
        }
        _ => format!("says that its condition on {what} held"),
    };
    let mut text = format!("an answer {says}; it could only hold {}", states.join(" or "));
    let mut shown: Vec<&Op> = register.ops.iter().filter(|op| op.ended.is_some_and(|e| e < end)).collect();
    shown.sort_by_key(|op| op.ended);
    let skipped = shown.len().saturating_sub(SHOWN);
    let mut shown: Vec<&Op> = shown.split_off(skipped);
    shown.extend(open.iter().map(|i| &register.ops[*i]));
    shown.push(bad);
    shown.sort_by_key(|op| (op.begun, op.of));
    if skipped > 0 {
        text += &format!("\n  ... {skipped} earlier operations");
    }
    for op in shown {
        let mark = if std::ptr::eq(op, bad) { '>' } else { ' ' };
        text += &format!("\n{mark} {}", history.line(op.of));
    }
    text
}
