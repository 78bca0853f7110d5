//! What the index holds: the values behind the keys of [`crate::keys`], in postcard.
//!
//! Every value starts with its own small header so that a listing reads no extents: the extents of a
//! large object lie in chunks of their own.

use holdfast_heartbeat::types::Lsn;
use serde::{Deserialize, Serialize};

use crate::op::{Checksum, Etag, Extent, Meta, UploadId};

/// Extents that lie in the object's own value. Most objects are one inline extent; four chunks keep
/// anything up to 4 MiB to a single lookup.
pub const NEAR_EXTENTS: usize = 4;

/// Extents in one chunk: 4 GiB of object bytes in about 40 KiB of value.
pub const CHUNK_EXTENTS: usize = 4096;

/// A bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketState {
    /// When it was created, in milliseconds since 1970.
    pub created_ms: u64,
}

/// Where an object's extents are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layout {
    /// Here.
    Near(Vec<Extent>),
    /// In chunks under the object's id; the numbers are the object bytes that each chunk covers.
    Chunked(Vec<u64>),
}

/// An object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectState {
    /// The LSN of the operation that made it: no two objects share one.
    pub id: Lsn,
    /// Its bytes.
    pub size: u64,
    /// When it was stored, in milliseconds since 1970.
    pub modified_ms: u64,
    /// Its entity tag.
    pub etag: Etag,
    /// What the client stored with it.
    pub meta: Meta,
    /// Checksums that were verified when it was stored.
    pub checksums: Vec<Checksum>,
    /// The upload that made it: lets a repeated completion find that it already succeeded.
    pub upload: Option<UploadId>,
    /// The sizes of its parts, where it was made of parts.
    pub part_sizes: Vec<u64>,
    /// Where its bytes are.
    pub layout: Layout,
}

/// A multipart upload under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadState {
    /// The key that the object will have.
    pub key: String,
    /// Its id.
    pub upload: UploadId,
    /// What the object will carry.
    pub meta: Meta,
    /// When it began, in milliseconds since 1970.
    pub initiated_ms: u64,
}

/// A part of an upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartState {
    /// Its bytes.
    pub size: u64,
    /// Its entity tag.
    pub etag: Etag,
    /// Checksums that were verified when it was stored.
    pub checksums: Vec<Checksum>,
    /// When it was stored, in milliseconds since 1970.
    pub modified_ms: u64,
    /// Where its bytes are.
    pub extents: Vec<Extent>,
}
