//! Which keys of a bucket a listing shows, and where its next page begins.
//!
//! Pure over an ordered view. Keys that share a common prefix up to the delimiter are passed over by
//! one seek, however many there are, so that a page costs what it shows.
//!
//! Versions are listed from two tables side by side, the current objects and the former versions, each in
//! the order of keys.
//!
//! Invariant: a page shows only what is greater than `after`, in ascending byte order, and the next
//! page of the same listing begins exactly where this one ended.

use holdfast_heartbeat::planted;
use holdfast_heartbeat::types::Lsn;

use crate::index::{Entry, IndexError, Lookup, Tables, decode};
use crate::keys;
use crate::object::VersionId;
use crate::state::{ObjectState, Version};

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

/// What versions to list.
#[derive(Clone, Debug, Default)]
pub struct VersionQuery<'a> {
    /// The bucket.
    pub bucket: &'a str,
    /// Only keys that begin with this.
    pub prefix: &'a str,
    /// Keys are grouped up to and including its first occurrence behind the prefix.
    pub delimiter: Option<&'a str>,
    /// Only keys and groups greater than this, and of this key what `after_version` leaves.
    pub after: Option<&'a str>,
    /// Of the key `after`, only versions older than this one; `None`: none.
    pub after_version: Option<VersionId>,
    /// The most versions and groups together.
    pub limit: usize,
}

/// One line of a listing of versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VersionItem {
    /// A version, and whether it is what the key stands for.
    Version {
        /// The key.
        key: String,
        /// The version.
        version: Version,
        /// Whether it is the newest.
        is_latest: bool,
    },
    /// A group of keys that begin with this.
    CommonPrefix(String),
}

/// A page of a listing of versions.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct VersionPage {
    /// In ascending order of names, the versions of a key from the newest to the oldest.
    pub items: Vec<VersionItem>,
    /// Whether more follows; the next page is after the last item.
    pub truncated: bool,
}

/// Lists one page of versions.
pub fn list_versions(
    tables: &(impl Tables + ?Sized),
    query: &VersionQuery<'_>,
) -> Result<VersionPage, IndexError> {
    let mut page = VersionPage::default();
    if query.limit == 0 {
        return Ok(page);
    }
    let delimiter = query.delimiter.filter(|d| !d.is_empty());
    // Only keys from here on; of this key itself, only versions older than that.
    let mut from = query.prefix.as_bytes().to_vec();
    let mut older_than: Option<Lsn> = None;
    if let Some(after) = query.after.filter(|after| after.as_bytes() >= from.as_slice()) {
        let marker =
            query.after_version.map(|v| id_of(tables, query.bucket, after, v)).transpose()?.flatten();
        from = after.as_bytes().to_vec();
        match marker {
            Some(id) => older_than = Some(id),
            None => from.push(0),
        }
    }
    'seek: loop {
        let mut versions = Merged::new(tables, query.bucket, query.prefix, &from);
        let mut previous: Option<Vec<u8>> = None;
        while let Some((key, version)) = versions.next()? {
            let is_latest = previous.as_deref() != Some(&key);
            if is_latest {
                previous = Some(key.clone());
            }
            if older_than.is_some_and(|id| key == from && version.id() >= id) {
                continue;
            }
            let name = text(&key, &key)?;
            let group = delimiter.and_then(|d| {
                let at = name[query.prefix.len()..].find(d)?;
                Some(name[..query.prefix.len() + at + d.len()].to_owned())
            });
            let shown_before =
                group.as_deref().is_some_and(|group| query.after.is_some_and(|after| group <= after));
            if !shown_before && page.items.len() == query.limit {
                page.truncated = true;
                return Ok(page);
            }
            let Some(group) = group else {
                page.items.push(VersionItem::Version { key: name, version, is_latest });
                continue;
            };
            let next = keys::after_prefix(group.as_bytes());
            if !shown_before {
                page.items.push(VersionItem::CommonPrefix(group));
            }
            match next {
                Some(next) => from = next,
                None => return Ok(page),
            }
            older_than = None;
            continue 'seek;
        }
        return Ok(page);
    }
}

/// The LSN behind the name of a version.
fn id_of(
    tables: &(impl Tables + ?Sized),
    bucket: &str,
    key: &str,
    version: VersionId,
) -> Result<Option<Lsn>, IndexError> {
    match version {
        VersionId::At(id) => Ok(Some(id)),
        VersionId::Null => match tables.object(bucket, key)? {
            Some(object) if object.null => Ok(Some(object.id)),
            _ => tables.null_version(bucket, key),
        },
    }
}

type Entries<'a> = std::iter::Peekable<Box<dyn Iterator<Item = Result<Entry, IndexError>> + 'a>>;

/// The current objects and the former versions in one order.
struct Merged<'a> {
    bucket: &'a str,
    current: Entries<'a>,
    former: Entries<'a>,
}

impl<'a> Merged<'a> {
    fn new(tables: &'a (impl Tables + ?Sized), bucket: &'a str, prefix: &str, from: &[u8]) -> Merged<'a> {
        let scan = |all: Vec<u8>, from: Vec<u8>| {
            let end = keys::after_prefix(&all);
            tables.scan(&from.max(all), end.as_deref()).peekable()
        };
        let current = scan(keys::object(bucket, prefix.as_bytes()), keys::object(bucket, from));
        let former = scan(keys::versions(bucket, prefix.as_bytes()), keys::versions(bucket, from));
        Merged { bucket, current, former }
    }

    fn next(&mut self) -> Result<Option<(Vec<u8>, Version)>, IndexError> {
        let malformed =
            |key: &[u8]| IndexError::Malformed { what: "version", key: key.escape_ascii().to_string() };
        let current = match self.current.peek() {
            Some(Ok((key, _))) => Some(key[self.bucket.len() + 2..].to_vec()),
            Some(Err(_)) => return self.current.next().transpose().map(|_| None),
            None => None,
        };
        let former = match self.former.peek() {
            Some(Ok((key, _))) => {
                Some(keys::parse_version(self.bucket, key).ok_or_else(|| malformed(key))?.0)
            }
            Some(Err(_)) => return self.former.next().transpose().map(|_| None),
            None => None,
        };
        let take_current = match (&current, &former) {
            (Some(current), Some(former)) => current <= former,
            (Some(_), None) => true,
            (None, _) => false,
        };
        let (name, from) =
            if take_current { (current, &mut self.current) } else { (former, &mut self.former) };
        let Some((key, value)) = from.next().transpose()? else { return Ok(None) };
        let version = if take_current {
            Version::Object(Box::new(decode("object", &key, &value)?))
        } else {
            decode("version", &key, &value)?
        };
        Ok(name.map(|name| (name, version)))
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
