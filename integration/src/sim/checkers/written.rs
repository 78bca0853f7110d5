//! Nobody reads what nobody wrote.
//!
//! Every value that a client is shown under a key, by entity tag, size or bytes, is one that some client
//! tried to write there, and began to write before. It holds whatever else was lost. A try that was refused
//! does not count: nothing of it may ever be seen.

use std::collections::BTreeMap;

use super::clients::{Report, Violation};
use crate::sim::s3::call::{Call, Key};
use crate::sim::s3::history::{Heard, History, OpId, Recorded, Token};

const NAME: &str = "written";

/// Which values a key may ever have had, and since when.
pub(super) struct MayHold {
    by_key: BTreeMap<Key, BTreeMap<Token, u32>>,
}

impl MayHold {
    pub(super) fn of(history: &History) -> MayHold {
        let mut held = MayHold { by_key: BTreeMap::new() };
        let mut copies: Vec<(Key, Key, u32)> = Vec::new();
        for (_, op) in history.ops() {
            if matches!(op.heard, Heard::Refused(_)) {
                continue;
            }
            match (&op.call, &op.heard) {
                (Call::Copy { from, to }, _) => copies.push((*from, *to, op.invoked.0)),
                (Call::Put { key, .. } | Call::Complete { key, .. }, _) => {
                    if let Some(token) = history.token_of(&op.call) {
                        held.add(*key, token, op.invoked.0);
                    }
                }
                _ => {}
            }
        }
        // What a copy brings along may itself have come by a copy: until nothing is new.
        loop {
            let mut news = false;
            for (from, to, since) in &copies {
                let source = held.by_key.get(from).cloned().unwrap_or_default();
                for (token, written) in source {
                    news |= held.add(*to, token, written.max(*since));
                }
            }
            if !news {
                return held;
            }
        }
    }

    fn add(&mut self, key: Key, token: Token, since: u32) -> bool {
        let known = self.by_key.entry(key).or_default().entry(token).or_insert(u32::MAX);
        let news = since < *known;
        *known = since.min(*known);
        news
    }

    /// The values that `key` may ever have had.
    pub(super) fn under(&self, key: Key) -> impl Iterator<Item = Token> {
        self.by_key.get(&key).into_iter().flatten().map(|(token, _)| *token)
    }

    /// Whether `key` may have had this value before that place in the order of events.
    fn had(&self, key: Key, token: Token, before: u32) -> bool {
        self.by_key.get(&key).and_then(|all| all.get(&token)).is_some_and(|since| *since < before)
    }
}

/// Checks every answer of the history.
pub(super) fn check(history: &History, held: &MayHold, report: &mut Report) {
    for (id, op) in history.ops() {
        let Some((end, _)) = op.completed else { continue };
        report.checked += 1;
        if let Some((key, text)) = complaint(history, held, op, end) {
            report.violations.push(violation(history, key, id, &text));
        }
    }
}

fn complaint(history: &History, held: &MayHold, op: &Recorded, end: u32) -> Option<(Option<Key>, String)> {
    let strange =
        |key: Key, token: Token| format!("nobody had written {} under {key} before", history.value(token));
    match (&op.call, &op.heard) {
        (Call::Get { key } | Call::Head { key }, Heard::Object { token, wrong }) => {
            let text = match wrong {
                Some(wrong) => Some(format!("{key} is not whole: {wrong}")),
                None => (!held.had(*key, *token, end)).then(|| strange(*key, *token)),
            };
            text.map(|text| (Some(*key), text))
        }
        (Call::Copy { from, .. }, Heard::Stored(token)) => {
            (!held.had(*from, *token, end)).then(|| (Some(*from), strange(*from, *token)))
        }
        (Call::Put { key, .. } | Call::Complete { key, .. }, Heard::Stored(token)) => {
            let wrong = history.token_of(&op.call) != Some(*token);
            wrong.then(|| (Some(*key), format!("{key} was stored with the entity tag of other bytes")))
        }
        (Call::UploadPart { key, blob, .. }, Heard::Stored(token)) => {
            let wrong = history.token(blob.etag()) != Some(*token);
            wrong.then(|| {
                (Some(*key), format!("a part of {key} was stored with the entity tag of other bytes"))
            })
        }
        (Call::List { .. }, Heard::Listing { entries, .. }) => entries.iter().find_map(|line| {
            let Some(key) = line.key else {
                return Some((None, format!("nobody ever wrote anything under {:?}", line.name)));
            };
            if !held.had(key, line.token, end) {
                return Some((Some(key), strange(key, line.token)));
            }
            let wrong = history.wrong_size(line.token, line.size)?;
            Some((Some(key), format!("{key} is listed with a wrong size: {wrong}")))
        }),
        _ => None,
    }
}

fn violation(history: &History, key: Option<Key>, id: OpId, text: &str) -> Violation {
    Violation { invariant: NAME, key, text: format!("{text}\n{}", history.line(id)) }
}
