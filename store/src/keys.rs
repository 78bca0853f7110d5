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
//! | `b` bucket | [`crate::bucket::BucketState`] |
//! | `c` bucket 0 letter | one of the bucket's [`crate::bucket::Document`]s, as text |
//! | `g` bucket | [`crate::bucket::Usage`] |
//! | `o` bucket 0 key | the current object of the key, [`crate::state::ObjectState`] |
//! | `v` bucket 0 escaped-key inverted-id | every other [`crate::state::Version`] of the key, newest first |
//! | `n` bucket 0 key | the id of the version in `v` that is called `null`, 8 bytes |
//! | `x` id chunk | extents of a large object or part |
//! | `s` LSN offset | how many have the extent that begins there, where they are several: [`crate::state::Shared`] |
//! | `l` `live` | bytes of the log that somebody has, 8 bytes |
//! | `l` `floor` | data below here was given up before it became anybody's, 8 bytes |
//! | `u` bucket 0 escaped-key upload-id | [`crate::state::UploadState`] |
//! | `p` upload-id part-number | [`crate::state::PartState`] |
//! | `a` user | [`crate::access::User`] |
//! | `k` access-key | the user's name |
//! | `e` LSN number | [`crate::state::Event`] |
//! | `f` set 0 path | [`crate::state::FileState`], of the hosts' files: no bucket leads there |
//! | `l` `files` | the operation that last changed one of these, 8 bytes |
//!
//! A bucket's name has no zero byte, so the first one always ends it. Where something follows a key, the
//! key is escaped so that its end is certain and the order of keys stays: a zero byte becomes `00 ff`, and
//! `00 01` ends it.
//!
//! A key has a current object or none; where it has none but versions, the newest of them is a delete
//! marker. So a listing of objects never meets what was deleted, however much of it there is.

use holdfast_heartbeat::types::Lsn;

use crate::bucket::Document;
use crate::object::UploadId;
use crate::op::Holder;

/// The applied LSN.
pub const APPLIED: &[u8] = b"mapplied";
/// The layout's version.
pub const FORMAT: &[u8] = b"mformat";
/// The bytes of the log that somebody has.
pub const LIVE: &[u8] = b"llive";
/// Below here no data can become an object's any more.
pub const FLOOR: &[u8] = b"lfloor";
/// The LSN of the operation that last changed a replicated file.
pub const FILES_CHANGED: &[u8] = b"lfiles";
/// What is not part of the state, but of the index that holds it, begins with this.
pub const META: &[u8] = b"m";
/// The tables whose values name extents.
pub const HOLDERS: [u8; 5] = [b'f', b'o', b'p', b'v', b'x'];
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

/// An extent that several have.
pub fn shared(lsn: Lsn, offset: u32) -> Vec<u8> {
    joined(b's', &[&lsn.0.to_be_bytes(), &offset.to_be_bytes()])
}

/// The bucket that a key of the tables `o` and `v` names, or the set that one of `f` names, and what stands behind it.
fn bucket_of(key: &[u8]) -> Option<(&str, &[u8])> {
    let end = 1 + key.get(1..)?.iter().position(|byte| *byte == 0)?;
    Some((std::str::from_utf8(&key[1..end]).ok()?, &key[end + 1..]))
}

/// Whose extents the value behind that key names; for a current object, whose id stands in the value, `id`
/// is asked. `None` for a key of another table.
pub fn holder(key: &[u8], id: impl FnOnce() -> Lsn) -> Option<Holder> {
    match key.first()? {
        b'o' => {
            let (bucket, object) = bucket_of(key)?;
            let key = std::str::from_utf8(object).ok()?.to_owned();
            Some(Holder::Version { bucket: bucket.to_owned(), key, id: id() })
        }
        b'f' => {
            let (set, path) = bucket_of(key)?;
            let path = std::str::from_utf8(path).ok()?.to_owned();
            Some(Holder::File { set: set.to_owned(), path, id: id() })
        }
        b'v' => {
            let (bucket, _) = bucket_of(key)?;
            let (object, id) = parse_version(bucket, key)?;
            Some(Holder::Version { bucket: bucket.to_owned(), key: String::from_utf8(object).ok()?, id })
        }
        b'x' => Some(Holder::Chunk {
            id: Lsn(u64::from_be_bytes(*key[1..].first_chunk()?)),
            number: u32::from_be_bytes(key.get(9..)?.try_into().ok()?),
        }),
        b'p' => Some(Holder::Part {
            upload: UploadId(*key[1..].first_chunk()?),
            number: u16::from_be_bytes(key.get(17..)?.try_into().ok()?),
        }),
        _ => None,
    }
}

/// A key that something follows.
fn escaped(key: &[u8]) -> Vec<u8> {
    let mut out = escaped_prefix(key);
    out.extend_from_slice(&[0, 1]);
    out
}

/// What every escaped key begins with that begins with this.
fn escaped_prefix(key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(key.len() + 2);
    for &byte in key {
        out.push(byte);
        if byte == 0 {
            out.push(0xff);
        }
    }
    out
}

/// Reads an escaped key: the key, and what follows it. `None` if it is none.
fn unescaped(bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut key = Vec::with_capacity(bytes.len());
    let mut at = 0;
    loop {
        match (*bytes.get(at)?, bytes.get(at + 1)) {
            (0, Some(1)) => return Some((key, &bytes[at + 2..])),
            (0, Some(0xff)) => {
                key.push(0);
                at += 2;
            }
            (0, _) => return None,
            (byte, _) => {
                key.push(byte);
                at += 1;
            }
        }
    }
}

/// A text of a bucket.
pub fn document(bucket: &str, document: Document) -> Vec<u8> {
    joined(b'c', &[bucket.as_bytes(), b"\0", &[document.letter()]])
}

/// How much a bucket holds.
pub fn usage(bucket: &str) -> Vec<u8> {
    joined(b'g', &[bucket.as_bytes()])
}

/// What all versions in `v` begin with whose keys begin with this.
pub fn versions(bucket: &str, prefix: &[u8]) -> Vec<u8> {
    joined(b'v', &[bucket.as_bytes(), b"\0", &escaped_prefix(prefix)])
}

/// What all versions in `v` of exactly this key begin with.
pub fn versions_of(bucket: &str, key: &[u8]) -> Vec<u8> {
    joined(b'v', &[bucket.as_bytes(), b"\0", &escaped(key)])
}

/// A version in `v`.
pub fn version(bucket: &str, key: &[u8], id: Lsn) -> Vec<u8> {
    joined(b'v', &[bucket.as_bytes(), b"\0", &escaped(key), &(!id.0).to_be_bytes()])
}

/// The object's key and the id that a key of `v` in this bucket stands for.
pub fn parse_version(bucket: &str, key: &[u8]) -> Option<(Vec<u8>, Lsn)> {
    let (key, id) = unescaped(key.get(bucket.len() + 2..)?)?;
    Some((key, Lsn(!u64::from_be_bytes(id.try_into().ok()?))))
}

/// Which version in `v` is called `null`.
pub fn null_version(bucket: &str, key: &[u8]) -> Vec<u8> {
    joined(b'n', &[bucket.as_bytes(), b"\0", key])
}

/// An upload.
pub fn upload(bucket: &str, key: &str, id: UploadId) -> Vec<u8> {
    joined(b'u', &[bucket.as_bytes(), b"\0", &escaped(key.as_bytes()), &id.0])
}

/// What all uploads of the bucket begin with whose keys begin with this.
pub fn uploads(bucket: &str, prefix: &[u8]) -> Vec<u8> {
    joined(b'u', &[bucket.as_bytes(), b"\0", &escaped_prefix(prefix)])
}

/// What all uploads of exactly this key begin with.
pub fn uploads_of(bucket: &str, key: &[u8]) -> Vec<u8> {
    joined(b'u', &[bucket.as_bytes(), b"\0", &escaped(key)])
}

/// A user.
pub fn user(name: &str) -> Vec<u8> {
    joined(b'a', &[name.as_bytes()])
}

/// Every user begins with this.
pub const USERS: &[u8] = b"a";

/// Whose access key that is.
pub fn access_key(id: &str) -> Vec<u8> {
    joined(b'k', &[id.as_bytes()])
}

/// An event; those of one operation are numbered.
pub fn event(lsn: Lsn, number: u32) -> Vec<u8> {
    joined(b'e', &[&lsn.0.to_be_bytes(), &number.to_be_bytes()])
}

/// Every event begins with this.
pub const EVENTS: &[u8] = b"e";

/// A replicated file; with an empty path, what all files of the set begin with.
pub fn file(set: &str, path: &str) -> Vec<u8> {
    joined(b'f', &[set.as_bytes(), b"\0", path.as_bytes()])
}

/// The set and the path that a key of `f` names.
pub fn parse_file(key: &[u8]) -> Option<(&str, &str)> {
    let (set, path) = bucket_of(key)?;
    Some((set, std::str::from_utf8(path).ok()?))
}

/// Every replicated file begins with this.
pub const FILES: &[u8] = b"f";

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
    fn versions_lie_in_the_order_of_keys_and_the_newest_first() {
        let mut all = Vec::new();
        for key in [&b"a"[..], b"a\0", b"a\0\0", b"a\0\xff", b"a\x01", b"ab", b"b"] {
            for id in [u64::MAX / 2, 70_000, 3, 0] {
                all.push((key, Lsn(id), version("bucket", key, Lsn(id))));
            }
        }
        assert!(all.windows(2).all(|pair| pair[0].2 < pair[1].2));
        for (key, id, encoded) in &all {
            assert_eq!(parse_version("bucket", encoded), Some((key.to_vec(), *id)));
            assert!(encoded.starts_with(&versions_of("bucket", key)));
        }
        let of_a = versions_of("bucket", b"a");
        assert_eq!(all.iter().filter(|(_, _, encoded)| encoded.starts_with(&of_a)).count(), 4);
        let beginning_with_a_zero = versions("bucket", b"a\0");
        let found = all.iter().filter(|(_, _, encoded)| encoded.starts_with(&beginning_with_a_zero));
        assert_eq!(found.count(), 12);
    }

    #[test]
    fn every_key_of_a_holder_is_read_back() {
        let (bucket, name) = ("bucket".to_owned(), "a\0b/c".to_owned());
        let made_at = |id| Some(Holder::Version { bucket: bucket.clone(), key: name.clone(), id });
        let read = |key: &[u8]| holder(key, || Lsn(5));
        assert_eq!(read(&object("bucket", name.as_bytes())), made_at(Lsn(5)));
        assert_eq!(read(&version("bucket", name.as_bytes(), Lsn(7))), made_at(Lsn(7)));
        assert_eq!(read(&extents(Lsn(9), 3)), Some(Holder::Chunk { id: Lsn(9), number: 3 }));
        let upload = UploadId([5; 16]);
        assert_eq!(read(&part(upload, 10_000)), Some(Holder::Part { upload, number: 10_000 }));
        let file = Holder::File { set: "dhcp".into(), path: "/etc/dhcp".into(), id: Lsn(5) };
        assert_eq!(read(&super::file("dhcp", "/etc/dhcp")), Some(file));
        assert_eq!(read(&user("me")), None);
    }

    #[test]
    fn what_begins_with_the_prefix_lies_before_its_end() {
        assert_eq!(after_prefix(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(after_prefix(b"a\xff"), Some(b"b".to_vec()));
        assert_eq!(after_prefix(b"\xff\xff"), None);
        assert_eq!(after_prefix(b""), None);
    }
}
