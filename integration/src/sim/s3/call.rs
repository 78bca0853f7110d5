//! What clients ask for, and what they are answered.
//!
//! Plain data in the shape of S3, small enough to be sent around and remembered by the hundred thousand.
//! An answer says exactly as much as a client may conclude: a [`Code`] means that nothing was changed, a
//! [`Doubt`] that nobody knows.

use std::fmt;

use bytes::Bytes;
use holdfast_store::object::{Etag, UploadId};

use super::blob::Blob;

/// The only bucket.
pub const BUCKET: &str = "simulated";

/// The directories among which the keys are spread.
pub const DIRECTORIES: [&str; 4] = ["a/", "b/", "b/c/", "d/"];

/// A key of an object, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub u32);

impl Key {
    /// The key as S3 has it.
    pub fn name(self) -> String {
        self.to_string()
    }

    /// The key of that name.
    pub fn parse(name: &str) -> Option<Key> {
        let (_, digits) = name.rsplit_once('/')?;
        let key = Key(digits.parse().ok()?);
        (key.name() == name).then_some(key)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:05}", DIRECTORIES[self.0 as usize % DIRECTORIES.len()], self.0)
    }
}

/// What must hold of the object for a write to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    Always,
    /// There is none (`If-None-Match: *`).
    Absent,
    /// It has this entity tag (`If-Match`).
    Is(Etag),
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields repeat the vocabulary of S3 and of the types above")]
pub enum Call {
    /// Make the bucket.
    CreateBucket,
    /// Store an object.
    Put { key: Key, blob: Blob, condition: Condition },
    /// Read an object.
    Get { key: Key },
    /// Ask for its entity tag and size.
    Head { key: Key },
    /// Remove an object, whatever it is or only if it has this entity tag.
    Delete { key: Key, if_match: Option<Etag> },
    /// List the keys that begin with a prefix and are greater than a key.
    List { prefix: &'static str, start_after: Option<Key>, max_keys: u16 },
    /// Store what is under one key under another.
    Copy { from: Key, to: Key },
    /// Begin a multipart upload.
    CreateUpload { key: Key },
    /// Store a part.
    UploadPart { key: Key, upload: UploadId, number: u16, blob: Blob },
    /// Make an object of parts.
    Complete { key: Key, upload: UploadId, parts: Vec<(u16, Blob)>, condition: Condition },
    /// Forget an upload.
    Abort { key: Key, upload: UploadId },
}

impl Call {
    /// The key that it is about; for a copy, the one that is written.
    pub fn key(&self) -> Option<Key> {
        match self {
            Call::CreateBucket | Call::List { .. } => None,
            Call::Put { key, .. }
            | Call::Get { key }
            | Call::Head { key }
            | Call::Delete { key, .. }
            | Call::Copy { to: key, .. }
            | Call::CreateUpload { key }
            | Call::UploadPart { key, .. }
            | Call::Complete { key, .. }
            | Call::Abort { key, .. } => Some(*key),
        }
    }

    /// Whether it changes nothing.
    pub fn is_read(&self) -> bool {
        matches!(self, Call::Get { .. } | Call::Head { .. } | Call::List { .. })
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Call::CreateBucket => write!(f, "create the bucket"),
            Call::Put { key, blob, condition } => write!(f, "put {key} {blob}{condition}"),
            Call::Get { key } => write!(f, "get {key}"),
            Call::Head { key } => write!(f, "head {key}"),
            Call::Delete { key, if_match: None } => write!(f, "delete {key}"),
            Call::Delete { key, if_match: Some(etag) } => write!(f, "delete {key} if {}", Short(etag)),
            Call::List { prefix, start_after, max_keys } => {
                write!(f, "list {prefix:?}")?;
                if let Some(after) = start_after {
                    write!(f, " after {after}")?;
                }
                write!(f, " at most {max_keys}")
            }
            Call::Copy { from, to } => write!(f, "copy {from} to {to}"),
            Call::CreateUpload { key } => write!(f, "create upload {key}"),
            Call::UploadPart { key, upload, number, blob } => {
                write!(f, "upload part {key} {} {number} {blob}", brief(*upload))
            }
            Call::Complete { key, upload, parts, condition } => {
                write!(f, "complete {key} {}", brief(*upload))?;
                parts.iter().try_for_each(|(number, blob)| write!(f, " {number}:{blob}"))?;
                condition.fmt(f)
            }
            Call::Abort { key, upload } => write!(f, "abort {key} {}", brief(*upload)),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Condition::Always => Ok(()),
            Condition::Absent => write!(f, " if absent"),
            Condition::Is(etag) => write!(f, " if {}", Short(etag)),
        }
    }
}

/// An entity tag by its first digits: enough to tell those of one run apart.
pub struct Short<'a>(pub &'a Etag);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0.md5;
        write!(f, "{:08x}", u32::from_be_bytes([a, b, c, d]))?;
        if self.0.parts > 0 {
            write!(f, "-{}", self.0.parts)?;
        }
        Ok(())
    }
}

fn brief(upload: UploadId) -> String {
    upload.to_string()[..8].to_owned()
}

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The name, as it came.
    pub name: String,
    /// The entity tag.
    pub etag: Etag,
    /// Bytes.
    pub size: u64,
}

/// Why a request changed nothing: certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "they are the codes of S3")]
pub enum Code {
    NoSuchBucket,
    BucketExists,
    NoSuchKey,
    PreconditionFailed,
    NoSuchUpload,
    InvalidPart,
    EntityTooSmall,
    /// Too much waits (503).
    SlowDown,
    /// 507.
    DiskFull,
    /// Sent away before anything was written (503 or 307).
    NotPrimary,
    /// Something changed under the request (503).
    Unavailable,
    /// This copy of the object cannot be read (500).
    Damaged,
    /// The index cannot be read, or something that should never happen (500).
    Internal,
    /// The request makes no sense (400).
    Invalid,
}

impl Code {
    /// Whether a client library asks again by itself.
    pub fn is_retried(self) -> bool {
        matches!(
            self,
            Code::SlowDown
                | Code::DiskFull
                | Code::NotPrimary
                | Code::Unavailable
                | Code::Damaged
                | Code::Internal
        )
    }
}

/// Why nobody knows what came of a request: it may take effect at any later time, or never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// The member stopped being primary, with the record in its log.
    NotPrimary,
    /// The log failed.
    Failed,
    /// The client stopped waiting.
    TimedOut,
    /// The connection broke.
    ConnectionLost,
}

/// An answer, as the client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields repeat the vocabulary of S3")]
pub enum Answer {
    /// The bucket exists now.
    BucketCreated,
    /// Object, copy, part, or completed upload.
    Stored { etag: Etag },
    /// An object with its bytes.
    Object { etag: Etag, body: Bytes },
    /// An object without.
    Described { etag: Etag, size: u64 },
    /// There is none any more.
    Deleted,
    /// A page.
    Listing { entries: Vec<Listed>, truncated: bool },
    /// The upload began.
    UploadCreated { upload: UploadId },
    /// The upload is forgotten.
    UploadAborted,
    /// Nothing was changed.
    Refused(Code),
    /// Nobody knows.
    Unknown(Doubt),
}

impl Answer {
    /// Whether the client was told that it got what it asked for.
    pub fn is_success(&self) -> bool {
        !matches!(self, Answer::Refused(_) | Answer::Unknown(_))
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::BucketCreated => write!(f, "created"),
            Answer::Stored { etag } => write!(f, "stored {}", Short(etag)),
            Answer::Object { etag, body } => match Blob::parse(body) {
                Ok(blobs) => {
                    write!(f, "is {}", Short(etag))?;
                    blobs.iter().try_for_each(|blob| write!(f, " {blob}"))
                }
                Err(torn) => write!(f, "is {} but of {} bytes {torn}", Short(etag), body.len()),
            },
            Answer::Described { etag, size } => write!(f, "is {} ({size} B)", Short(etag)),
            Answer::Deleted => write!(f, "deleted"),
            Answer::Listing { entries, truncated } => {
                write!(f, "{} keys", entries.len())?;
                entries.iter().try_for_each(|e| write!(f, " {}={}", e.name, Short(&e.etag)))?;
                if *truncated { write!(f, " and more") } else { Ok(()) }
            }
            Answer::UploadCreated { upload } => write!(f, "upload {}", brief(*upload)),
            Answer::UploadAborted => write!(f, "aborted"),
            Answer::Refused(code) => write!(f, "refused: {code:?}"),
            Answer::Unknown(doubt) => write!(f, "unknown: {doubt:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_known_by_its_name() {
        for key in [Key(0), Key(5), Key(99_999), Key(123_456)] {
            assert_eq!(Key::parse(&key.name()), Some(key));
        }
        assert_eq!(Key::parse("a/1"), None);
        assert_eq!(Key::parse("b/00000"), None);
    }
}
