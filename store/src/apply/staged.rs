//! Changes laid over a view of the index, so that a batch of records becomes one atomic change.

use std::collections::BTreeMap;

use holdfast_heartbeat::planted;
use holdfast_heartbeat::types::Lsn;
use serde::Serialize;

use crate::index::{Change, Entry, IndexError, Tables, range};
use crate::keys;

/// Changes laid over a view of the index, not yet written.
pub struct Staged<'a> {
    base: &'a (dyn Tables + 'a),
    changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl<'a> Staged<'a> {
    /// No changes yet.
    pub fn over(base: &'a (dyn Tables + 'a)) -> Staged<'a> {
        Staged { base, changes: BTreeMap::new() }
    }

    /// The changes, in the order of keys.
    pub fn into_changes(self) -> Vec<Change> {
        self.changes.into_iter().collect()
    }

    /// Notes that everything up to `end` is applied.
    pub fn set_applied(&mut self, end: Lsn) {
        self.changes.insert(keys::APPLIED.to_vec(), Some(end.0.to_be_bytes().to_vec()));
    }

    pub(super) fn put_bytes(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.changes.insert(key, Some(value));
    }

    pub(super) fn put(&mut self, key: Vec<u8>, value: &impl Serialize) {
        // Encoding into a vector can only fail for types that have no length, of which there are none.
        let value = postcard::to_stdvec(value).expect("index values are encodable");
        self.put_bytes(key, value);
    }

    pub(super) fn remove(&mut self, key: Vec<u8>) {
        self.changes.insert(key, None);
    }

    /// All entries that begin with `prefix`, changes included.
    pub(super) fn entries(&self, prefix: &[u8]) -> Result<Vec<Entry>, IndexError> {
        let end = keys::after_prefix(prefix);
        self.scan(prefix, end.as_deref()).collect()
    }
}

impl Tables for Staged<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        match self.changes.get(key).filter(|_| !planted::is("batch-blind-to-itself")) {
            Some(change) => Ok(change.clone()),
            None => self.base.get(key),
        }
    }

    fn scan<'a>(
        &'a self,
        from: &[u8],
        to: Option<&[u8]>,
    ) -> Box<dyn Iterator<Item = Result<Entry, IndexError>> + 'a> {
        let Some(range) = range(from, to) else { return Box::new(std::iter::empty()) };
        let mut changed = self.changes.range(range).peekable();
        let mut stored = self.base.scan(from, to).peekable();
        Box::new(std::iter::from_fn(move || {
            loop {
                let take_change = match (stored.peek(), changed.peek()) {
                    (_, None) => false,
                    (None, Some(_)) => true,
                    (Some(Err(_)), _) => false,
                    (Some(Ok((stored_key, _))), Some((changed_key, _))) => {
                        if stored_key == *changed_key {
                            stored.next();
                            continue;
                        }
                        stored_key > *changed_key
                    }
                };
                if !take_change {
                    return stored.next();
                }
                if let Some((key, Some(value))) = changed.next() {
                    return Some(Ok((key.clone(), value.clone())));
                }
            }
        }))
    }
}
