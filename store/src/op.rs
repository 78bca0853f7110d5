//! The operations that change the store, and how they lie in the log.
//!
//! An operation record's payload is `[u32 LE length of head][head][inline object bytes]`, where the
//! head is one version byte followed by the postcard encoding of [`Op`]. A small object travels
//! inside its own operation record, so that it costs one record and one sync; a larger one is
//! written as data records of [`CHUNK_LEN`] while it arrives, and its operation names the extents.
//!
//! Nothing here decides whether an operation succeeds: that is [`crate::apply`]. Every value that
//! could differ between members (the time, the random upload id) is chosen by the primary and part
//! of the operation.

use bytes::Bytes;
use holdfast_heartbeat::types::{Epoch, Lsn};
use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};

use crate::access::{Acl, User};
use crate::bucket::Setting;
use crate::checksum::{Checksum, ChecksumPlan};
use crate::files::FileTraits;
use crate::object::{Encryption, Etag, Retention, Tag, Traits, UploadId, VersionId};

/// An object or part up to this many bytes travels inside its operation record.
pub const INLINE_MAX: usize = 256 * 1024;

/// The payload of each data record of a larger body, in bytes, save the last one.
pub const CHUNK_LEN: usize = 1024 * 1024;

/// Longest encoded head, in bytes. A head of the largest single upload (5 GiB in 5,120 extents)
/// takes about 60 KiB; this bound keeps head and inline bytes together below the log's record limit.
pub const HEAD_MAX: usize = 768 * 1024;

/// The version of the head's encoding. Version 1 was never released.
const HEAD_VERSION: u8 = 2;

/// The version of a head that tells of replicated files: the same encoding, marked so that a release that knows
/// none says what it lacks. Everything else keeps the version before, which such a release reads.
const FILES_VERSION: u8 = 3;

/// A run of object bytes inside one record of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Where the record begins.
    pub lsn: Lsn,
    /// First byte within the record's payload.
    pub offset: u32,
    /// Number of bytes.
    pub len: u32,
}

/// A condition on the entity tag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Match {
    /// `*`.
    Any,
    /// The text between the quotes.
    Etag(String),
}

/// What must hold of the object under the key at the moment of applying.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Precondition {
    /// It exists and matches.
    pub if_match: Option<Match>,
    /// It does not exist, or does not match.
    pub if_none_match: Option<Match>,
}

/// Where the bytes of an object or a part are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// Behind the head, in this very record.
    Inline,
    /// In data records.
    Extents {
        /// The epoch in which all of them were appended. Positions of an earlier reign may have been
        /// cut and written anew since, so an operation that commits in another epoch is refused.
        epoch: Epoch,
        /// In the order of the object's bytes.
        extents: Vec<Extent>,
    },
    /// In the extents of a stored object; they become shared.
    Object {
        /// Its bucket.
        bucket: String,
        /// Its key.
        key: String,
        /// Which version of that key; `None`: the current one.
        version: Option<VersionId>,
        /// Which object that is: a different one means that the source changed meanwhile.
        id: Lsn,
        /// First byte, as stored.
        start: u64,
        /// Number of bytes, as stored.
        len: u64,
    },
}

/// One part as the client lists it to complete an upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRef {
    /// 1 to 10,000.
    pub number: u16,
    /// The entity tag that the client was given for it. It stands for the bytes, and so for their checksum,
    /// which the endpoint compares: 10,000 parts must fit one operation.
    pub etag: String,
}

/// One key of a delete.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteKey {
    /// The key.
    pub key: String,
    /// This version, for good. `None`: the current one, which a bucket with versions keeps behind a
    /// delete marker.
    pub version: Option<VersionId>,
    /// Delete only what has this entity tag.
    pub if_match: Option<Match>,
    /// Delete only what was stored at this moment, in seconds since 1970.
    pub if_modified_s: Option<u64>,
    /// Delete only what has this many bytes.
    pub if_size: Option<u64>,
}

/// A whole object to be stored; a copy is one whose source is another object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutObject {
    /// Its bucket.
    pub bucket: String,
    /// Its key.
    pub key: String,
    /// What comes with it.
    pub traits: Traits,
    /// Bytes, as the client sees them.
    pub size: u64,
    /// Its entity tag.
    pub etag: Etag,
    /// Checksums that were verified.
    pub checksums: Vec<Checksum>,
    /// Its bytes.
    pub source: Source,
    /// What must hold.
    pub precondition: Precondition,
    /// The primary's wall clock.
    pub wall_ms: u64,
}

/// One part to be stored, or stored anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutPart {
    /// The bucket of the upload.
    pub bucket: String,
    /// The key that the object will have.
    pub key: String,
    /// The upload.
    pub upload: UploadId,
    /// 1 to 10,000.
    pub number: u16,
    /// Bytes, as the client sees them.
    pub size: u64,
    /// Its entity tag.
    pub etag: Etag,
    /// Checksums that were verified.
    pub checksums: Vec<Checksum>,
    /// Its bytes.
    pub source: Source,
    /// The primary's wall clock.
    pub wall_ms: u64,
}

/// The end of an upload: an object of the listed parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompleteUpload {
    /// The bucket of the upload.
    pub bucket: String,
    /// The key of the object.
    pub key: String,
    /// The upload.
    pub upload: UploadId,
    /// In ascending order of their numbers.
    pub parts: Vec<PartRef>,
    /// The checksum that the client says the object has, in base64.
    pub checksum: Option<String>,
    /// The size that the client says the object has, in bytes.
    pub size: Option<u64>,
    /// What must hold.
    pub precondition: Precondition,
    /// The primary's wall clock.
    pub wall_ms: u64,
}

impl CompleteUpload {
    /// The entity tag that an object of exactly the listed parts has; `None` where a listed one is no MD5.
    pub fn joined(&self) -> Option<Etag> {
        let mut md5 = Md5::new();
        for part in &self.parts {
            let mut digest = [0; 16];
            hex::decode_to_slice(&part.etag, &mut digest).ok()?;
            md5.update(digest);
        }
        Some(Etag { md5: md5.finalize().into(), parts: self.parts.len() as u32 })
    }
}

/// A file of the hosts, as it is from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutFile {
    /// The set that it belongs to.
    pub set: String,
    /// Where it is on the hosts, from `/` on.
    pub path: String,
    /// What it is besides its bytes.
    pub traits: FileTraits,
    /// Bytes of its content.
    pub size: u64,
    /// SHA-256 of its content.
    pub sha256: [u8; 32],
    /// How the content is encrypted, where it is.
    pub encryption: Option<Encryption>,
    /// Its content: inline or in extents.
    pub source: Source,
    /// The primary's wall clock.
    pub wall_ms: u64,
}

/// What can be changed of a stored version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Its tags, all of them.
    Tags(Vec<Tag>),
    /// Who else may use it; `None`: the owner alone.
    Acl(Option<Acl>),
    /// Until when it must not go; shorter than it was only where `bypass_governance` lets it.
    Retention {
        /// `None` takes it away.
        retention: Option<Retention>,
        /// Whether the requester may pass over governance.
        bypass_governance: bool,
    },
    /// Whether it must not go until this is taken back.
    LegalHold(bool),
}

/// Who has an extent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Holder {
    /// A version of a key, current or former.
    Version {
        /// Its bucket.
        bucket: String,
        /// Its key.
        key: String,
        /// The LSN of the operation that made it.
        id: Lsn,
    },
    /// A chunk of the extents of something large.
    Chunk {
        /// Of which list.
        id: Lsn,
        /// The how-manieth.
        number: u32,
    },
    /// A part.
    Part {
        /// Of which upload.
        upload: UploadId,
        /// Its number.
        number: u16,
    },
    /// A file of the hosts.
    File {
        /// Its set.
        set: String,
        /// Its path.
        path: String,
        /// The LSN of the operation that put it there.
        id: Lsn,
    },
}

/// Extents of one holder that are elsewhere from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relocation {
    /// Whose.
    pub holder: Holder,
    /// What was, and what is instead; `None` where it was shared and has been moved for another holder.
    pub extents: Vec<(Extent, Option<Extent>)>,
}

/// A change of the store's state. `wall_ms` is the primary's wall clock in milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields repeat the vocabulary of the types above")]
pub enum Op {
    /// Makes a bucket.
    CreateBucket {
        bucket: String,
        owner: String,
        tenant: Option<String>,
        settings: Vec<Setting>,
        wall_ms: u64,
    },
    /// Removes an empty bucket with its unfinished uploads.
    DeleteBucket { bucket: String },
    /// Changes a bucket's settings.
    SetBucket { bucket: String, setting: Setting },
    /// Stores an object.
    PutObject(Box<PutObject>),
    /// Removes objects; a key that does not exist counts as removed.
    DeleteObjects {
        bucket: String,
        owner: String,
        keys: Vec<DeleteKey>,
        bypass_governance: bool,
        wall_ms: u64,
    },
    /// Changes what comes with a version.
    ChangeObject { bucket: String, key: String, version: Option<VersionId>, change: Change, wall_ms: u64 },
    /// Begins a multipart upload.
    CreateUpload {
        bucket: String,
        key: String,
        upload: UploadId,
        traits: Box<Traits>,
        checksum: Option<ChecksumPlan>,
        wall_ms: u64,
    },
    /// Stores, or stores anew, one part.
    PutPart(Box<PutPart>),
    /// Makes an object of the listed parts and ends the upload.
    CompleteUpload(Box<CompleteUpload>),
    /// Ends the upload and forgets its parts.
    AbortUpload { bucket: String, key: String, upload: UploadId },
    /// Makes a user, or changes one.
    PutUser { user: Box<User>, exists: bool },
    /// Removes a user. What it owns stays, and is the root user's.
    DeleteUser { name: String },
    /// Notes that the events up to here have reached their receivers.
    EventsDelivered { up_to: Lsn },
    /// Notes that data below here which is nobody's yet will not become anybody's: it may go.
    RaiseFloor { floor: Lsn },
    /// Notes where bytes are that were moved. A holder that has gone, or has other bytes by now, is passed
    /// over.
    Relocate { relocations: Vec<Relocation> },
    /// Notes what a file of the hosts is from now on, or that it is gone.
    PutFile(Box<PutFile>),
    /// Says nothing any more of these files: neither that they are there, nor that they are gone.
    ForgetFiles { set: String, paths: Vec<String> },
}

/// Why a payload is no operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadOp {
    /// The head does not fit a record: the caller asked for too much at once.
    #[error("the operation's description takes {0} bytes, more than {HEAD_MAX}")]
    TooLarge(usize),
    /// A newer release wrote it.
    #[error(
        "operation encoding version {0} is unknown: another release wrote this log; run that one, or a newer one, on this member"
    )]
    UnknownVersion(u8),
    /// The bytes are not what any release wrote.
    #[error("the operation record is malformed: {0}")]
    Malformed(&'static str),
}

impl Op {
    /// The payload of the record that carries this operation and `inline` bytes, in pieces that the
    /// log writes one after the other.
    pub fn encode(&self, inline: Bytes) -> Result<Vec<Bytes>, BadOp> {
        let mut head = vec![0, 0, 0, 0, self.version()];
        head = postcard::to_extend(self, head).map_err(|_| BadOp::Malformed("cannot be encoded"))?;
        let head_len = head.len() - 4;
        if head_len > HEAD_MAX {
            return Err(BadOp::TooLarge(head_len));
        }
        head[..4].copy_from_slice(&(head_len as u32).to_le_bytes());
        let mut payload = vec![Bytes::from(head)];
        if !inline.is_empty() {
            payload.push(inline);
        }
        Ok(payload)
    }

    /// The version of its head: the least one whose readers know all of it.
    fn version(&self) -> u8 {
        let of_file = |relocation: &Relocation| matches!(relocation.holder, Holder::File { .. });
        match self {
            Op::PutFile(_) | Op::ForgetFiles { .. } => FILES_VERSION,
            Op::Relocate { relocations } if relocations.iter().any(of_file) => FILES_VERSION,
            _ => HEAD_VERSION,
        }
    }

    /// Reads a payload: the operation, and where within the payload the inline bytes begin.
    pub fn decode(payload: &[u8]) -> Result<(Op, u32), BadOp> {
        let (len, rest) =
            payload.split_first_chunk::<4>().ok_or(BadOp::Malformed("shorter than its length"))?;
        let len = u32::from_le_bytes(*len) as usize;
        if len > HEAD_MAX {
            return Err(BadOp::Malformed("the head is longer than any release writes"));
        }
        let head = rest.get(..len).ok_or(BadOp::Malformed("cut short"))?;
        let (version, body) = head.split_first().ok_or(BadOp::Malformed("without a version"))?;
        if !(HEAD_VERSION..=FILES_VERSION).contains(version) {
            return Err(BadOp::UnknownVersion(*version));
        }
        let (op, rest) = postcard::take_from_bytes(body).map_err(|_| BadOp::Malformed("not decodable"))?;
        if !rest.is_empty() {
            return Err(BadOp::Malformed("followed by excess bytes"));
        }
        Ok((op, 4 + len as u32))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn create(bucket: &str) -> Op {
        Op::CreateBucket {
            bucket: bucket.into(),
            owner: String::new(),
            tenant: None,
            settings: vec![],
            wall_ms: 7,
        }
    }

    #[test]
    fn an_operation_survives_its_encoding() {
        let op = create("photos");
        let payload = op.encode(Bytes::from_static(b"inline")).unwrap().concat();
        let (back, at) = Op::decode(&payload).unwrap();
        assert_eq!(back, op);
        assert_eq!(&payload[at as usize..], b"inline");
    }

    #[test]
    fn only_what_tells_of_files_has_the_newer_version() {
        let version = |op: &Op| op.encode(Bytes::new()).unwrap().concat()[4];
        let holder = |holder| Op::Relocate { relocations: vec![Relocation { holder, extents: vec![] }] };
        assert_eq!(version(&create("b")), HEAD_VERSION);
        assert_eq!(version(&holder(Holder::Chunk { id: Lsn(1), number: 0 })), HEAD_VERSION);
        let forget = Op::ForgetFiles { set: "dhcp".into(), paths: vec!["/etc/dhcp".into()] };
        let moved = holder(Holder::File { set: "dhcp".into(), path: "/etc/dhcp/x".into(), id: Lsn(7) });
        for op in [forget, moved] {
            assert_eq!(version(&op), FILES_VERSION);
            assert_eq!(Op::decode(&op.encode(Bytes::new()).unwrap().concat()).unwrap().0, op);
        }
    }

    #[test]
    fn the_completion_of_the_largest_upload_fits_one_record() {
        let part = |number| PartRef { number, etag: "f".repeat(32) };
        let op = Op::CompleteUpload(Box::new(CompleteUpload {
            bucket: "b".repeat(63),
            key: "k".repeat(1024),
            upload: UploadId([0; 16]),
            parts: (1..=10_000).map(part).collect(),
            checksum: Some("c".repeat(50)),
            size: Some(u64::MAX),
            precondition: Precondition::default(),
            wall_ms: u64::MAX,
        }));
        assert!(op.encode(Bytes::new()).is_ok());
    }

    #[test]
    fn a_newer_version_is_named() {
        let mut payload = Op::DeleteBucket { bucket: "b".into() }.encode(Bytes::new()).unwrap().concat();
        payload[4] = 9;
        assert_eq!(Op::decode(&payload), Err(BadOp::UnknownVersion(9)));
    }

    proptest! {
        #[test]
        fn garbage_is_an_error_and_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Op::decode(&bytes);
        }

        #[test]
        fn a_truncated_operation_is_an_error(cut in 1usize..40) {
            let payload = create("a-bucket-with-a-long-name-to-be-cut").encode(Bytes::new()).unwrap().concat();
            prop_assert!(Op::decode(&payload[..payload.len() - cut.min(payload.len())]).is_err());
        }
    }
}
