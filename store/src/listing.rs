//! Which keys of a bucket a listing shows, and where its next page begins.
//!
//! Pure over an ordered view. Keys that share a common prefix up to the delimiter are passed over by
//! one seek, however many there are, so that a page costs what it shows.
//!
//! Invariant: a page shows only what is greater than `after`, in ascending byte order, and the next
//! page of the same listing begins exactly where this one ended.

use holdfast_heartbeat::planted;

use crate::index::{IndexError, Tables, decode};
use crate::keys;
use crate::state::ObjectState;

/// The most entries on one page, whatever the client asks for.
pub const MAX_PAGE: usize = 1000;

/// What to list.
#[derive(Clone, Debug, Default)]
pub struct Query<'a> {
    /// The bucket.
    pub bucket: &'a str,
    /// Only keys that begin with this.
    pub prefix: &'a str,
    /// Keys are grouped up to and including its first occurrence behind the prefix.
    pub delimiter: Option<&'a str>,
    /// Only keys and groups greater than this.
    pub after: Option<&'a str>,
    /// The most keys and groups together.
    pub limit: usize,
}

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// An object.
    Object(String, Box<ObjectState>),
    /// A group of keys that begin with this.
    CommonPrefix(String),
}

impl Item {
    /// The key, or the common prefix.
    pub fn name(&self) -> &str {
        match self {
            Item::Object(key, _) => key,
            Item::CommonPrefix(prefix) => prefix,
        }
    }
}

/// A page of a listing.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Page {
    /// In ascending order of names.
    pub items: Vec<Item>,
    /// Whether more follows; the next page is after the last item's name.
    pub truncated: bool,
}

/// Lists one page.
pub fn list(tables: &(impl Tables + ?Sized), query: &Query<'_>) -> Result<Page, IndexError> {
    let mut page = Page::default();
    if query.limit == 0 {
        return Ok(page);
    }
    let base = keys::object(query.bucket, b"").len();
    let prefix = keys::object(query.bucket, query.prefix.as_bytes());
    let end = keys::after_prefix(&prefix);
    let mut from = prefix.clone();
    if let Some(after) = query.after {
        let mut next = keys::object(query.bucket, after.as_bytes());
        if !planted::is("page-begins-with-last") {
            next.push(0);
        }
        from = from.max(next);
    }
    let delimiter = query.delimiter.filter(|d| !d.is_empty()).map(str::as_bytes);
    'seek: loop {
        for entry in tables.scan(&from, end.as_deref()) {
            let (key, value) = entry?;
            let group = delimiter.and_then(|d| find(&key[prefix.len()..], d)).map(|at| {
                let len = delimiter.map_or(0, <[u8]>::len);
                &key[..prefix.len() + at + len]
            });
            if let Some(group) = group {
                // A group that is not greater than `after` was shown on an earlier page.
                let shown_before = query.after.is_some_and(|after| &group[base..] <= after.as_bytes());
                if !shown_before {
                    if page.items.len() == query.limit {
                        page.truncated = true;
                        return Ok(page);
                    }
                    page.items.push(Item::CommonPrefix(text(&group[base..], &key)?));
                }
                match keys::after_prefix(group) {
                    Some(next) => from = next,
                    None => return Ok(page),
                }
                continue 'seek;
            }
            if page.items.len() == query.limit {
                page.truncated = true;
                return Ok(page);
            }
            let object = decode("object", &key, &value)?;
            page.items.push(Item::Object(text(&key[base..], &key)?, Box::new(object)));
        }
        return Ok(page);
    }
}

fn text(bytes: &[u8], key: &[u8]) -> Result<String, IndexError> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(IndexError::Malformed { what: "key", key: key.escape_ascii().to_string() }),
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
