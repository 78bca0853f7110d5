//! What the index holds: the values behind the keys of [`crate::keys`], in postcard.
//!
//! A listing reads only small values: the extents of a large object lie in chunks of their own, and the
//! parts of an object that was made of parts stay where the upload put them.

use holdfast_heartbeat::types::Lsn;
use serde::{Deserialize, Serialize};

use crate::checksum::{Checksum, ChecksumPlan};
use crate::files::FileTraits;
use crate::object::{Encryption, Etag, Traits, UploadId, VersionId};
use crate::op::Extent;

/// Extents that lie in the object's own value. Most objects are one inline extent; four chunks keep
/// anything up to 4 MiB to a single lookup.
pub const NEAR_EXTENTS: usize = 4;

/// Extents in one chunk: 4 GiB of object bytes in about 40 KiB of value.
pub const CHUNK_EXTENTS: usize = 4096;

/// Where the bytes of an object or a part are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layout {
    /// Here.
    Near(Vec<Extent>),
    /// In chunks under this id; the numbers are the stored bytes that each chunk covers.
    Chunked(Lsn, Vec<u64>),
    /// In the parts of this upload, all that are there.
    Parts(UploadId),
}

impl Layout {
    /// Bytes as stored, of an object or part that was put whole; zero for one of parts, each of which has
    /// its own.
    pub fn stored_len(&self) -> u64 {
        match self {
            Layout::Near(extents) => extents.iter().map(|extent| u64::from(extent.len)).sum(),
            Layout::Chunked(_, sizes) => sizes.iter().sum(),
            Layout::Parts(_) => 0,
        }
    }
}

/// An extent that several have, or that was moved while they did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shared {
    /// How many have it.
    pub holders: u32,
    /// Where it was moved to, for those who still have it here.
    pub moved_to: Option<Extent>,
    /// Whether it is such a place: then it is counted here even for one.
    pub moved_here: bool,
}

/// An object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectState {
    /// The LSN of the operation that made it: no two objects share one.
    pub id: Lsn,
    /// Whether its version is called `null`.
    pub null: bool,
    /// Its bytes, as clients see them.
    pub size: u64,
    /// When it was stored, in milliseconds since 1970.
    pub modified_ms: u64,
    /// Its entity tag.
    pub etag: Etag,
    /// What was stored with it.
    pub traits: Traits,
    /// Checksums that were verified when it was stored.
    pub checksums: Vec<Checksum>,
    /// The upload that made it: lets a repeated completion find that it already succeeded.
    pub upload: Option<UploadId>,
    /// Where its bytes are.
    pub layout: Layout,
}

impl ObjectState {
    /// The name of this version.
    pub fn version(&self) -> VersionId {
        if self.null { VersionId::Null } else { VersionId::At(self.id) }
    }
}

/// Says that the key was deleted, in a bucket that keeps versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteMarker {
    /// The LSN of the operation that made it.
    pub id: Lsn,
    /// Whether its version is called `null`.
    pub null: bool,
    /// When it was made, in milliseconds since 1970.
    pub modified_ms: u64,
    /// Who made it; empty for the root user.
    pub owner: String,
}

/// A version that is not the current object: a former one, or a delete marker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Version {
    /// A former object.
    Object(Box<ObjectState>),
    /// A delete marker, current or former.
    Marker(DeleteMarker),
}

impl Version {
    /// The LSN of the operation that made it.
    pub fn id(&self) -> Lsn {
        match self {
            Version::Object(object) => object.id,
            Version::Marker(marker) => marker.id,
        }
    }

    /// Its name.
    pub fn version(&self) -> VersionId {
        match self {
            Version::Object(object) => object.version(),
            Version::Marker(marker) if marker.null => VersionId::Null,
            Version::Marker(marker) => VersionId::At(marker.id),
        }
    }
}

/// A multipart upload under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadState {
    /// The key that the object will have.
    pub key: String,
    /// Its id.
    pub upload: UploadId,
    /// What the object will carry.
    pub traits: Traits,
    /// The checksum that it will have.
    pub checksum: Option<ChecksumPlan>,
    /// When it began, in milliseconds since 1970.
    pub initiated_ms: u64,
}

/// A part of an upload, or of the object that was made of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartState {
    /// Its bytes, as clients see them.
    pub size: u64,
    /// Its entity tag.
    pub etag: Etag,
    /// Checksums that were verified when it was stored.
    pub checksums: Vec<Checksum>,
    /// When it was stored, in milliseconds since 1970.
    pub modified_ms: u64,
    /// Where its bytes are: never in parts of its own.
    pub layout: Layout,
}

/// A file of the hosts, or that it is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileState {
    /// The LSN of the operation that says so.
    pub id: Lsn,
    /// What it is besides its bytes.
    pub traits: FileTraits,
    /// Bytes of its content.
    pub size: u64,
    /// SHA-256 of its content.
    pub sha256: [u8; 32],
    /// How the content is encrypted, where it is.
    pub encryption: Option<Encryption>,
    /// When it was noted, in milliseconds since 1970.
    pub noted_ms: u64,
    /// Where its content is.
    pub layout: Layout,
}

/// What happened, for those who asked to be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// What.
    pub kind: EventKind,
    /// In which bucket.
    pub bucket: String,
    /// To which key.
    pub key: String,
    /// To which version, in a bucket that keeps them.
    pub version: Option<VersionId>,
    /// Bytes of the object.
    pub size: u64,
    /// Its entity tag.
    pub etag: Option<Etag>,
    /// By whom; empty for the root user.
    pub by: String,
    /// When, in milliseconds since 1970.
    pub wall_ms: u64,
}

/// The kinds of events, with the names that the protocol gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are those of the protocol")]
pub enum EventKind {
    ObjectCreatedPut,
    ObjectCreatedCopy,
    ObjectCreatedCompleteMultipartUpload,
    ObjectRemovedDelete,
    ObjectRemovedDeleteMarkerCreated,
}

impl EventKind {
    /// As the protocol writes it, without `s3:`.
    pub fn name(self) -> &'static str {
        match self {
            EventKind::ObjectCreatedPut => "ObjectCreated:Put",
            EventKind::ObjectCreatedCopy => "ObjectCreated:Copy",
            EventKind::ObjectCreatedCompleteMultipartUpload => "ObjectCreated:CompleteMultipartUpload",
            EventKind::ObjectRemovedDelete => "ObjectRemoved:Delete",
            EventKind::ObjectRemovedDeleteMarkerCreated => "ObjectRemoved:DeleteMarkerCreated",
        }
    }
}
