//! How the index orders what it holds.
//!
//! One key space with a table letter in front: because everything lives in one ordered tree, the
//! tree reaches its files as a whole, and a crash can never leave one table newer than another or
//! than the applied LSN.
//!
//! | key | value |
//! |---|---|
//! | `m` `applied` | the end of the last applied record, 8 bytes |
//! | `m` `format` | the version of this layout |
//! | `b` bucket | [`crate::state::BucketState`] |
//! | `o` bucket 0 key | [`crate::state::ObjectState`] |
//! | `x` object-id chunk | extents of a large object |
//! | `u` bucket 0 key 0 upload-id | [`crate::state::UploadState`] |
//! | `p` upload-id part-number | [`crate::state::PartState`] |
//!
//! A bucket's name has no zero byte, so the first one always ends it; the upload id has a fixed
//! length, so a key with zero bytes in it stays unambiguous.

use holdfast_heartbeat::types::Lsn;

use crate::op::UploadId;

/// The applied LSN.
pub const APPLIED: &[u8] = b"mapplied";
/// The layout's version.
pub const FORMAT: &[u8] = b"mformat";
/// Every bucket begins with this.
pub const BUCKETS: &[u8] = b"b";

fn joined(table: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + parts.iter().map(|p| p.len()).sum::<usize>());
    key.push(table);
    for part in parts {
        key.extend_from_slice(part);
    }
    key
}

/// A bucket.
pub fn bucket(name: &str) -> Vec<u8> {
    joined(b'b', &[name.as_bytes()])
}

/// An object; with an empty key, what all objects of the bucket begin with.
pub fn object(bucket: &str, key: &[u8]) -> Vec<u8> {
    joined(b'o', &[bucket.as_bytes(), b"\0", key])
}

/// A chunk of a large object's extents.
pub fn extents(id: Lsn, chunk: u32) -> Vec<u8> {
    joined(b'x', &[&id.0.to_be_bytes(), &chunk.to_be_bytes()])
}

/// An upload.
pub fn upload(bucket: &str, key: &str, id: UploadId) -> Vec<u8> {
    joined(b'u', &[bucket.as_bytes(), b"\0", key.as_bytes(), b"\0", &id.0])
}

/// What all uploads of the bucket begin with.
pub fn uploads(bucket: &str) -> Vec<u8> {
    joined(b'u', &[bucket.as_bytes(), b"\0"])
}

/// A part.
pub fn part(id: UploadId, number: u16) -> Vec<u8> {
    joined(b'p', &[&id.0, &number.to_be_bytes()])
}

/// What all parts of the upload begin with.
pub fn parts(id: UploadId) -> Vec<u8> {
    joined(b'p', &[&id.0])
}

/// The first key after everything that begins with `prefix`; `None` when there can be none.
pub fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_with_the_prefix_lies_before_its_end() {
        assert_eq!(after_prefix(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(after_prefix(b"a\xff"), Some(b"b".to_vec()));
        assert_eq!(after_prefix(b"\xff\xff"), None);
        assert_eq!(after_prefix(b""), None);
    }
}
