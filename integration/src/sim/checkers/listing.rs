//! A listing is true: in its form, and for every key that it could have shown.
//!
//! The form: keys in ascending order, none twice, all with the prefix, behind the start and no more than
//! asked for; "more follows" only on a full page and where more may follow. The content: a page says of
//! each key in its range that it has a value or that it is absent, and each of these is a read of that key
//! at some moment of the listing; [`super::linearizable`] judges them with everything else that happened to
//! the key.

use super::clients::{Report, Violation};
use super::search::{Deed, Pattern, State};
use super::written::MayHold;
use crate::sim::s3::call::{Call, Key};
use crate::sim::s3::history::{Heard, History, Line, Recorded};

const NAME: &str = "listing";

/// All keys that were ever named, in the order of their names.
pub(super) struct Names {
    sorted: Vec<(String, Key)>,
}

impl Names {
    pub(super) fn of(history: &History) -> Names {
        let keys = history.keys().map(|(key, _)| key).filter(|key| *key != super::linearizable::THE_BUCKET);
        let mut sorted: Vec<(String, Key)> = keys.map(|key| (key.name(), key)).collect();
        sorted.sort();
        Names { sorted }
    }

    /// The keys that begin with `prefix` and are greater than `after`.
    fn range<'a>(&'a self, prefix: &'a str, after: &'a str) -> impl Iterator<Item = &'a (String, Key)> {
        let from = self.sorted.partition_point(|(name, _)| &name[..] < prefix || &name[..] <= after);
        self.sorted[from..].iter().take_while(move |(name, _)| name.starts_with(prefix))
    }
}

struct Page<'a> {
    prefix: &'a str,
    after: String,
    limit: usize,
    entries: &'a [Line],
    truncated: bool,
}

impl<'a> Page<'a> {
    fn of(op: &'a Recorded) -> Option<Page<'a>> {
        let Call::List { prefix, start_after, max_keys } = &op.call else { return None };
        let Heard::Listing { entries, truncated } = &op.heard else { return None };
        let after = start_after.map(Key::name).unwrap_or_default();
        Some(Page { prefix, after, limit: (*max_keys).into(), entries, truncated: *truncated })
    }

    /// What is wrong with its form.
    fn complaint(&self, names: &Names, held: &MayHold) -> Option<String> {
        let entries = self.entries;
        if let Some(pair) = entries.windows(2).find(|pair| pair[0].name >= pair[1].name) {
            return Some(format!("{} stands before {}", pair[0].name, pair[1].name));
        }
        let fits = |line: &&Line| line.name.starts_with(self.prefix) && line.name > self.after;
        if let Some(line) = entries.iter().find(|line| !fits(line)) {
            return Some(format!("{} was not asked for", line.name));
        }
        if entries.len() > self.limit {
            return Some(format!("{} keys are more than {}", entries.len(), self.limit));
        }
        if self.truncated {
            if entries.len() < self.limit {
                return Some("more is said to follow on a page that is not full".to_owned());
            }
            let last = entries.last().map_or(&self.after, |last| &last.name);
            if !names.range(self.prefix, last).any(|(_, key)| held.under(*key).next().is_some()) {
                return Some("more is said to follow where nothing was ever written".to_owned());
            }
        }
        None
    }
}

/// Checks the form of every listing.
pub(super) fn check(history: &History, names: &Names, held: &MayHold, report: &mut Report) {
    for id in history.listings() {
        let Some(page) = Page::of(history.op(*id)) else { continue };
        report.checked += 1;
        if let Some(text) = page.complaint(names, held) {
            let mut text = format!("{text}\n{}", history.line(*id));
            for line in page.entries {
                text += &format!("\n  {} {}", line.name, history.value(line.token));
            }
            report.violations.push(Violation { invariant: NAME, key: None, text });
        }
    }
}

/// What the listing says about each key of its range.
pub(super) fn observations(op: &Recorded, names: &Names, mut tell: impl FnMut(Key, Deed)) {
    let Some(page) = Page::of(op) else { return };
    let mut shown = page.entries.iter().peekable();
    let end = page.entries.last().filter(|_| page.truncated).map(|last| &last.name);
    if page.truncated && end.is_none() {
        return;
    }
    for (name, key) in names.range(page.prefix, &page.after) {
        if end.is_some_and(|end| name > end) {
            break;
        }
        while shown.next_if(|line| line.name < *name).is_some() {}
        let state = match shown.peek() {
            Some(line) if line.name == *name => State(line.token.0 + State::VALUES),
            _ => State::ABSENT,
        };
        tell(*key, Deed::See(Pattern::Is(state)));
    }
}
