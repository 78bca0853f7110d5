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
use serde::{Deserialize, Serialize};

/// An object or part up to this many bytes travels inside its operation record.
pub const INLINE_MAX: usize = 256 * 1024;

/// The payload of each data record of a larger body, in bytes, save the last one.
pub const CHUNK_LEN: usize = 1024 * 1024;

/// Longest encoded head, in bytes. A head of the largest single upload (5 GiB in 5,120 extents)
/// takes about 60 KiB; this bound keeps head and inline bytes together below the log's record limit.
pub const HEAD_MAX: usize = 768 * 1024;

/// The only version of the head's encoding so far.
const HEAD_VERSION: u8 = 1;

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

/// Identifies a multipart upload: random, drawn by the primary that created it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UploadId(pub [u8; 16]);

impl UploadId {
    /// Reads the 32 hexadecimal digits that S3 clients see.
    pub fn parse(text: &str) -> Option<UploadId> {
        let mut id = [0; 16];
        hex::decode_to_slice(text, &mut id).ok()?;
        Some(UploadId(id))
    }
}

impl std::fmt::Display for UploadId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// The entity tag: the MD5 of the bytes, or for a multipart object the MD5 of its parts' MD5s with
/// the number of parts behind a dash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Etag {
    /// The digest.
    pub md5: [u8; 16],
    /// Number of parts; zero for an object that was put whole.
    pub parts: u32,
}

impl std::fmt::Display for Etag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.md5))?;
        if self.parts > 0 {
            write!(f, "-{}", self.parts)?;
        }
        Ok(())
    }
}

/// The additional checksums that S3 knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChecksumKind {
    /// CRC-32 (ISO-HDLC).
    Crc32,
    /// CRC-32C (Castagnoli).
    Crc32c,
    /// CRC-64/NVME.
    Crc64Nvme,
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
}

/// A checksum that the client sent and that was verified, kept to be shown again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksum {
    /// Which one.
    pub kind: ChecksumKind,
    /// Its value in base64, as S3 writes it.
    pub base64: String,
}

/// What a client stored beside the bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// `Content-Encoding`, without `aws-chunked`.
    pub content_encoding: Option<String>,
    /// `Content-Language`.
    pub content_language: Option<String>,
    /// `Content-Disposition`.
    pub content_disposition: Option<String>,
    /// `Cache-Control`.
    pub cache_control: Option<String>,
    /// `Expires`, in seconds since 1970.
    pub expires_s: Option<i64>,
    /// `x-amz-meta-*`, sorted by name.
    pub user: Vec<(String, String)>,
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
        /// Which object under that key: a different one means that the source changed meanwhile.
        id: Lsn,
        /// First byte.
        start: u64,
        /// Number of bytes.
        len: u64,
    },
}

/// One part as the client lists it to complete an upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRef {
    /// 1 to 10,000.
    pub number: u16,
    /// The entity tag that the client was given for it.
    pub etag: String,
}

/// One key of a delete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteKey {
    /// The key.
    pub key: String,
    /// Delete only what matches.
    pub if_match: Option<Match>,
}

/// A change of the store's state. `wall_ms` is the primary's wall clock in milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields repeat the vocabulary of the types above")]
pub enum Op {
    /// Makes a bucket.
    CreateBucket { bucket: String, wall_ms: u64 },
    /// Removes an empty bucket with its unfinished uploads.
    DeleteBucket { bucket: String },
    /// Stores an object; a copy is one whose source is another object.
    PutObject {
        bucket: String,
        key: String,
        meta: Meta,
        size: u64,
        etag: Etag,
        checksums: Vec<Checksum>,
        source: Source,
        precondition: Precondition,
        wall_ms: u64,
    },
    /// Removes objects; a key that does not exist counts as removed.
    DeleteObjects { bucket: String, keys: Vec<DeleteKey> },
    /// Begins a multipart upload.
    CreateUpload { bucket: String, key: String, upload: UploadId, meta: Meta, wall_ms: u64 },
    /// Stores, or stores anew, one part.
    PutPart {
        bucket: String,
        key: String,
        upload: UploadId,
        number: u16,
        size: u64,
        etag: Etag,
        checksums: Vec<Checksum>,
        source: Source,
        wall_ms: u64,
    },
    /// Makes an object of the listed parts and ends the upload.
    CompleteUpload {
        bucket: String,
        key: String,
        upload: UploadId,
        parts: Vec<PartRef>,
        precondition: Precondition,
        wall_ms: u64,
    },
    /// Ends the upload and forgets its parts.
    AbortUpload { bucket: String, key: String, upload: UploadId },
}

/// Why a payload is no operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadOp {
    /// The head does not fit a record: the caller asked for too much at once.
    #[error("the operation's description takes {0} bytes, more than {HEAD_MAX}")]
    TooLarge(usize),
    /// A newer release wrote it.
    #[error("operation encoding version {0} is unknown: a newer release wrote this log; upgrade this member")]
    UnknownVersion(u8),
    /// The bytes are not what any release wrote.
    #[error("the operation record is malformed: {0}")]
    Malformed(&'static str),
}

impl Op {
    /// The payload of the record that carries this operation and `inline` bytes, in pieces that the
    /// log writes one after the other.
    pub fn encode(&self, inline: Bytes) -> Result<Vec<Bytes>, BadOp> {
        let mut head = vec![0, 0, 0, 0, HEAD_VERSION];
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
        if *version != HEAD_VERSION {
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

    #[test]
    fn an_operation_survives_its_encoding() {
        let op = Op::CreateBucket { bucket: "photos".into(), wall_ms: 7 };
        let payload = op.encode(Bytes::from_static(b"inline")).unwrap().concat();
        let (back, at) = Op::decode(&payload).unwrap();
        assert_eq!(back, op);
        assert_eq!(&payload[at as usize..], b"inline");
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
            let payload = Op::CreateBucket { bucket: "a-bucket-with-a-long-name-to-be-cut".into(), wall_ms: 7 }
                .encode(Bytes::new()).unwrap().concat();
            prop_assert!(Op::decode(&payload[..payload.len() - cut.min(payload.len())]).is_err());
        }
    }
}
