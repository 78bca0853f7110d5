//! What each operation does to the index.
//!
//! [`apply`] is a function of the state, the operation, its epoch and its place in the log, and of
//! nothing else: no clock, no configuration, no environment, no randomness. It reads and writes
//! through a [`Staged`] state, so that a batch of records becomes one atomic change.
//!
//! Invariant: a refused operation changes nothing.

mod buckets;
mod events;
mod extents;
mod files;
mod holdings;
mod objects;
mod staged;
mod uploads;
mod users;
mod versions;

use holdfast_heartbeat::types::{Epoch, Lsn};

pub use self::staged::Staged;

use crate::checksum::Checksum;
use crate::index::IndexError;
use crate::object::{Etag, VersionId};
use crate::op::Op;

/// The largest object, in bytes (5 TiB, as S3 has it).
pub const OBJECT_MAX: u64 = 5 << 40;

/// The smallest part that is not the last one, in bytes (5 MiB, as S3 has it).
pub const PART_MIN: u64 = 5 << 20;

/// The greatest part number (10,000, as S3 has it).
pub const PART_NUMBER_MAX: u16 = 10_000;

/// What came of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The record was no operation.
    Nothing,
    /// The bucket exists now.
    BucketCreated,
    /// The bucket is gone.
    BucketDeleted,
    /// The setting, the user or the version is as it should be.
    Changed,
    /// The object or part is stored.
    Stored(Box<Stored>),
    /// One answer for each key, in order.
    Deleted(Vec<Result<Deleted, Refusal>>),
    /// The upload began.
    UploadCreated,
    /// The upload is gone.
    UploadAborted,
    /// Nothing changed.
    Refused(Refusal),
}

/// What was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its entity tag.
    pub etag: Etag,
    /// When, in milliseconds since 1970.
    pub modified_ms: u64,
    /// Its version, in a bucket that keeps them.
    pub version: Option<VersionId>,
    /// Its checksums.
    pub checksums: Vec<Checksum>,
}

/// What a deletion did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Deleted {
    /// The version that is gone, or the delete marker that was made.
    pub version: Option<VersionId>,
    /// Whether that is a delete marker.
    pub marker: bool,
}

/// Why an operation changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the message says it")]
pub enum Refusal {
    #[error("the bucket does not exist")]
    NoSuchBucket,
    #[error("the bucket already exists")]
    BucketExists,
    #[error("the bucket still holds objects, or former versions of them")]
    BucketNotEmpty,
    #[error("the key does not exist")]
    NoSuchKey,
    #[error("the version does not exist")]
    NoSuchVersion,
    #[error("the version is a delete marker")]
    IsDeleteMarker,
    #[error("a condition of the request does not hold")]
    PreconditionFailed,
    #[error("the upload does not exist; it may have been completed or aborted")]
    NoSuchUpload,
    #[error("a listed part does not exist or has another entity tag or checksum")]
    InvalidPart,
    #[error("the parts are not listed in ascending order")]
    InvalidPartOrder,
    #[error("a part other than the last one is smaller than 5 MiB")]
    EntityTooSmall,
    #[error("the object would be larger than 5 TiB")]
    EntityTooLarge,
    #[error("the parts do not have the checksum or the size that the request says")]
    BadDigest,
    #[error("the source of the copy changed meanwhile")]
    SourceChanged,
    #[error("the bytes were received under an earlier epoch; nothing was stored, send the request again")]
    StaleEpoch,
    #[error("the bytes were given up before the request was complete; nothing was stored, send it again")]
    GivenUp,
    #[error("the version is locked: its retention has not ended, or it is under a legal hold")]
    Locked,
    #[error("the bucket would hold more than its quota")]
    QuotaExceeded,
    #[error("object lock needs versions, and a bucket with object lock keeps them for ever")]
    LockNeedsVersions,
    #[error("the bucket has no object lock")]
    NoObjectLock,
    #[error("there is no such user")]
    NoSuchUser,
    #[error("there is already a user of that name")]
    UserExists,
    #[error("another user has that access key")]
    AccessKeyTaken,
    #[error("the user still owns buckets")]
    UserOwnsBuckets,
    #[error("the operation contradicts itself")]
    Malformed,
}

/// Why applying cannot go on. Both need the index to be rebuilt or the member to be upgraded; the
/// log is unaffected.
#[derive(Debug, thiserror::Error)]
pub enum ApplyFailed {
    /// The index cannot be read.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A committed operation cannot be understood.
    #[error("at LSN {lsn}: {error}")]
    BadOp {
        /// The record.
        lsn: Lsn,
        /// What is wrong with it.
        error: crate::op::BadOp,
    },
}

/// Where an operation stands in the log.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// The begin of its record.
    pub lsn: Lsn,
    /// The epoch in which it was appended.
    pub epoch: Epoch,
    /// Where in its payload the inline bytes begin.
    pub inline_at: u32,
    /// How many inline bytes there are.
    pub inline_len: u32,
}

/// Either what was done, or why nothing was; the outer error means that the index failed.
type Done<T = Outcome> = Result<Result<T, Refusal>, IndexError>;

/// Leaves the function with a refusal.
macro_rules! refuse {
    ($reason:ident) => {
        return Ok(Err($crate::apply::Refusal::$reason))
    };
}

/// The value, or the refusal handed on.
macro_rules! granted {
    ($done:expr) => {
        match $done {
            Ok(value) => value,
            Err(refusal) => return Ok(Err(refusal)),
        }
    };
}

use {granted, refuse};

/// Applies one operation.
pub fn apply(state: &mut Staged<'_>, place: Place, op: &Op) -> Result<Outcome, IndexError> {
    let done = match op {
        Op::CreateBucket { bucket, owner, tenant, settings, wall_ms } => {
            buckets::create(state, bucket, owner, tenant.as_deref(), settings, *wall_ms)?
        }
        Op::DeleteBucket { bucket } => buckets::delete(state, bucket)?,
        Op::SetBucket { bucket, setting } => buckets::set(state, bucket, setting)?,
        Op::PutObject(op) => objects::put(state, place, op)?,
        Op::DeleteObjects { bucket, owner, keys, bypass_governance, wall_ms } => {
            let by = objects::Deletion { owner, bypass_governance: *bypass_governance, wall_ms: *wall_ms };
            objects::delete(state, place, bucket, keys, by)?
        }
        Op::ChangeObject { bucket, key, version, change, wall_ms } => {
            objects::change(state, bucket, key, *version, change, *wall_ms)?
        }
        Op::CreateUpload { bucket, key, upload, traits, checksum, wall_ms } => {
            uploads::create(state, bucket, key, *upload, traits, *checksum, *wall_ms)?
        }
        Op::PutPart(op) => uploads::put_part(state, place, op)?,
        Op::CompleteUpload(op) => uploads::complete(state, place, op)?,
        Op::AbortUpload { bucket, key, upload } => uploads::abort(state, bucket, key, *upload)?,
        Op::PutUser { user, exists } => users::put(state, user, *exists)?,
        Op::DeleteUser { name } => users::delete(state, name)?,
        Op::EventsDelivered { up_to } => events::delivered(state, *up_to)?,
        Op::RaiseFloor { floor } => holdings::raise_floor(state, *floor)?,
        Op::PutFile(op) => files::put(state, place, op)?,
        Op::ForgetFiles { set, paths } => files::forget(state, place, set, paths)?,
        Op::Relocate { relocations } => holdings::relocate(state, relocations)?,
    };
    Ok(done.unwrap_or_else(Outcome::Refused))
}
