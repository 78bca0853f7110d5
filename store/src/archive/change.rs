//! A change that an archive holds, in words.

use holdfast_heartbeat::types::{Epoch, Lsn};
use serde::{Deserialize, Serialize};

use crate::bucket::{Document, Setting};
use crate::object::{Encryption, Tag, Traits, VersionId};
use crate::op::{DeleteKey, Match, Precondition};

/// One operation of an archive, as what it would have done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Where its record begins.
    pub lsn: Lsn,
    /// The reign in which it was written.
    pub epoch: Epoch,
    /// The wall clock of its primary, in milliseconds since 1970, where it carries that.
    pub wall_ms: Option<u64>,
    /// It was found behind a damaged place: nothing but its own checksum says that it is of the log.
    #[serde(default)]
    pub behind_damage: bool,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What an operation would have done. Users are named; nothing of their keys is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
#[allow(missing_docs, reason = "the fields repeat the vocabulary of the operations")]
pub enum What {
    /// An object was stored.
    Object(Box<ObjectChange>),
    /// Objects were removed.
    Deleted { bucket: String, keys: Vec<DeletedKey> },
    /// What comes with an object was changed.
    ObjectChanged { bucket: String, key: String, version: Option<String>, changed: String },
    /// A bucket was made; the owner is empty for the root user.
    BucketCreated { bucket: String, owner: String },
    /// A bucket was removed.
    BucketDeleted { bucket: String },
    /// A bucket's settings were changed.
    BucketChanged { bucket: String, setting: String },
    /// A multipart upload began.
    UploadBegun { bucket: String, key: String, upload: String },
    /// A part of one was stored.
    PartStored { bucket: String, key: String, upload: String, number: u16, size: u64 },
    /// One was given up.
    UploadAborted { bucket: String, key: String, upload: String },
    /// A user was made, or changed where there was one.
    UserStored { user: String, existed: bool },
    /// A user was removed.
    UserDeleted { user: String },
    /// A file of the hosts changed, or went (`size` is `None` then): of the blocks `sync_files`.
    FileStored { set: String, path: String, size: Option<u64> },
    /// The record cannot be understood.
    Unreadable { bytes: u64, why: String },
}

/// How an object came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Put whole.
    Put,
    /// Copied.
    Copy,
    /// Made of the parts of an upload.
    Upload,
}

/// An object of an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectChange {
    /// Names it within the archive: where the operation that stores it begins.
    pub id: Lsn,
    /// Its bucket.
    pub bucket: String,
    /// Its key.
    pub key: String,
    /// The version that it would have had in a bucket that keeps them.
    pub version: String,
    /// Its bytes, where they are known.
    pub size: Option<u64>,
    /// Its entity tag; empty where it is not known.
    pub etag: String,
    /// How it came to be.
    pub origin: Origin,
    /// Who stored it; empty for the root user.
    pub owner: String,
    /// Its `Content-Type`.
    pub content_type: Option<String>,
    /// Its `x-amz-meta-*`.
    pub metadata: Vec<(String, String)>,
    /// Its tags.
    pub tags: Vec<Tag>,
    /// `store` or `customer`: whose key encrypts it.
    pub encryption: Option<String>,
    /// Under which condition it was to be stored. Whether that held is not known.
    pub condition: Option<String>,
    /// Why not all of it can be read; none where every byte has its place.
    pub missing: Option<String>,
}

impl ObjectChange {
    pub(super) fn new(id: Lsn, bucket: &str, key: &str, traits: &Traits, origin: Origin) -> ObjectChange {
        ObjectChange {
            id,
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            version: VersionId::At(id).to_string(),
            size: None,
            etag: String::new(),
            origin,
            owner: traits.owner.clone(),
            content_type: traits.meta.content_type.clone(),
            metadata: traits.meta.user.clone(),
            tags: traits.tags.clone(),
            encryption: traits.encryption.as_ref().map(|encryption| {
                match encryption {
                    Encryption::Store { .. } => "store",
                    Encryption::Customer { .. } => "customer",
                }
                .to_owned()
            }),
            condition: None,
            missing: None,
        }
    }
}

/// A key that was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedKey {
    /// The key.
    pub key: String,
    /// This version of it; none: the current one.
    pub version: Option<String>,
}

pub(super) fn deleted(key: &DeleteKey) -> DeletedKey {
    DeletedKey { key: key.key.clone(), version: key.version.map(|version| version.to_string()) }
}

pub(super) fn condition(condition: &Precondition) -> Option<String> {
    let shown = |name: &str, wanted: &Option<Match>| {
        wanted.as_ref().map(|wanted| match wanted {
            Match::Any => format!("{name}: *"),
            Match::Etag(etag) => format!("{name}: \"{etag}\""),
        })
    };
    let all: Vec<String> =
        [shown("If-Match", &condition.if_match), shown("If-None-Match", &condition.if_none_match)]
            .into_iter()
            .flatten()
            .collect();
    (!all.is_empty()).then(|| all.join(", "))
}

pub(super) fn setting_name(setting: &Setting) -> String {
    match setting {
        Setting::Acl(_) => "access list",
        Setting::Ownership(_) => "object ownership",
        Setting::Versioning { enabled: true } => "versions on",
        Setting::Versioning { enabled: false } => "versions suspended",
        Setting::ObjectLock(_) => "object lock",
        Setting::PublicAccessBlock(_) => "public access block",
        Setting::Quota(_) => "quota",
        Setting::Owner { .. } => "owner",
        Setting::Document(document, _) => match document {
            Document::Policy => "policy",
            Document::Cors => "CORS rules",
            Document::Lifecycle => "lifecycle rules",
            Document::Tagging => "tags",
            Document::Notification => "notifications",
            Document::Encryption => "encryption",
        },
    }
    .to_owned()
}
