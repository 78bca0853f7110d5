//! What each operation does to the index.
//!
//! [`apply`] is a function of the state, the operation, its epoch and its place in the log, and of
//! nothing else: no clock, no configuration, no environment, no randomness. It reads and writes
//! through a [`Staged`] state, so that a batch of records becomes one atomic change.
//!
//! Invariant: a refused operation changes nothing.

use std::collections::BTreeMap;

use holdfast_heartbeat::planted;
use holdfast_heartbeat::types::{Epoch, Lsn};
use md5::{Digest, Md5};
use serde::Serialize;

use crate::index::{Change, Entry, IndexError, Lookup, Tables, decode};
use crate::keys;
use crate::op::{DeleteKey, Etag, Extent, Match, Op, PartRef, Precondition, Source, UploadId};
use crate::state::{BucketState, CHUNK_EXTENTS, Layout, NEAR_EXTENTS, ObjectState, PartState, UploadState};

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
    /// The object or part is stored.
    Stored {
        /// Its entity tag.
        etag: Etag,
        /// When, in milliseconds since 1970.
        modified_ms: u64,
    },
    /// One answer for each key, in order.
    Deleted(Vec<Result<(), Refusal>>),
    /// The upload began.
    UploadCreated,
    /// The upload is gone.
    UploadAborted,
    /// Nothing changed.
    Refused(Refusal),
}

/// Why an operation changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the message says it")]
pub enum Refusal {
    #[error("the bucket does not exist")]
    NoSuchBucket,
    #[error("the bucket already exists")]
    BucketExists,
    #[error("the bucket still holds objects")]
    BucketNotEmpty,
    #[error("the key does not exist")]
    NoSuchKey,
    #[error("a condition of the request does not hold")]
    PreconditionFailed,
    #[error("the upload does not exist; it may have been completed or aborted")]
    NoSuchUpload,
    #[error("a listed part does not exist or has another entity tag")]
    InvalidPart,
    #[error("the parts are not listed in ascending order")]
    InvalidPartOrder,
    #[error("a part other than the last one is smaller than 5 MiB")]
    EntityTooSmall,
    #[error("the object would be larger than 5 TiB")]
    EntityTooLarge,
    #[error("the source of the copy changed meanwhile")]
    SourceChanged,
    #[error("the bytes were received under an earlier epoch; nothing was stored, send the request again")]
    StaleEpoch,
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

/// Changes laid over a view of the index, not yet written.
pub struct Staged<'a> {
    base: &'a (dyn Tables + 'a),
    changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl<'a> Staged<'a> {
    /// No changes yet.
    pub fn over(base: &'a (dyn Tables + 'a)) -> Staged<'a> {
        Staged { base, changes: BTreeMap::new() }
    }

    /// The changes, in the order of keys.
    pub fn into_changes(self) -> Vec<Change> {
        self.changes.into_iter().collect()
    }

    /// Notes that everything up to `end` is applied.
    pub fn set_applied(&mut self, end: Lsn) {
        self.changes.insert(keys::APPLIED.to_vec(), Some(end.0.to_be_bytes().to_vec()));
    }

    fn put(&mut self, key: Vec<u8>, value: &impl Serialize) {
        // Encoding into a vector can only fail for types that have no length, of which there are none.
        let value = postcard::to_stdvec(value).expect("index values are encodable");
        self.changes.insert(key, Some(value));
    }

    fn remove(&mut self, key: Vec<u8>) {
        self.changes.insert(key, None);
    }

    /// All entries that begin with `prefix`, changes included.
    fn entries(&self, prefix: &[u8]) -> Result<Vec<Entry>, IndexError> {
        let end = keys::after_prefix(prefix);
        self.scan(prefix, end.as_deref()).collect()
    }
}

impl Tables for Staged<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        match self.changes.get(key).filter(|_| !planted::is("batch-blind-to-itself")) {
            Some(change) => Ok(change.clone()),
            None => self.base.get(key),
        }
    }

    fn scan<'a>(
        &'a self,
        from: &[u8],
        to: Option<&[u8]>,
    ) -> Box<dyn Iterator<Item = Result<Entry, IndexError>> + 'a> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        if to.is_some_and(|to| from >= to) {
            return Box::new(std::iter::empty());
        }
        let range = (Included(from.to_vec()), to.map_or(Unbounded, |to| Excluded(to.to_vec())));
        let mut changed = self.changes.range(range).peekable();
        let mut stored = self.base.scan(from, to).peekable();
        Box::new(std::iter::from_fn(move || {
            loop {
                let take_change = match (stored.peek(), changed.peek()) {
                    (_, None) => false,
                    (None, Some(_)) => true,
                    (Some(Err(_)), _) => false,
                    (Some(Ok((stored_key, _))), Some((changed_key, _))) => {
                        if stored_key == *changed_key {
                            stored.next();
                            continue;
                        }
                        stored_key > *changed_key
                    }
                };
                if !take_change {
                    return stored.next();
                }
                if let Some((key, Some(value))) = changed.next() {
                    return Some(Ok((key.clone(), value.clone())));
                }
            }
        }))
    }
}

/// Applies one operation.
pub fn apply(state: &mut Staged<'_>, place: Place, op: &Op) -> Result<Outcome, IndexError> {
    let done = match op {
        Op::CreateBucket { bucket, wall_ms } => create_bucket(state, bucket, *wall_ms)?,
        Op::DeleteBucket { bucket } => delete_bucket(state, bucket)?,
        Op::PutObject { bucket, key, meta, size, etag, checksums, source, precondition, wall_ms } => {
            put_object(state, place, bucket, key, source, precondition, |id| ObjectState {
                id,
                size: *size,
                modified_ms: *wall_ms,
                etag: *etag,
                meta: meta.clone(),
                checksums: checksums.clone(),
                upload: None,
                part_sizes: Vec::new(),
                layout: Layout::Near(Vec::new()),
            })?
        }
        Op::DeleteObjects { bucket, keys } => delete_objects(state, bucket, keys)?,
        Op::CreateUpload { bucket, key, upload, meta, wall_ms } => {
            if state.bucket(bucket)?.is_none() {
                Err(Refusal::NoSuchBucket)
            } else {
                let begun = UploadState {
                    key: key.clone(),
                    upload: *upload,
                    meta: meta.clone(),
                    initiated_ms: *wall_ms,
                };
                state.put(keys::upload(bucket, key, *upload), &begun);
                Ok(Outcome::UploadCreated)
            }
        }
        Op::PutPart { bucket, key, upload, number, size, etag, checksums, source, wall_ms } => {
            put_part(state, place, (bucket, key, *upload), *number, source, |extents| PartState {
                size: *size,
                etag: *etag,
                checksums: checksums.clone(),
                modified_ms: *wall_ms,
                extents,
            })?
        }
        Op::CompleteUpload { bucket, key, upload, parts, precondition, wall_ms } => {
            complete(state, place.lsn, (bucket, key, *upload), parts, precondition, *wall_ms)?
        }
        Op::AbortUpload { bucket, key, upload } => abort(state, bucket, key, *upload)?,
    };
    Ok(done.unwrap_or_else(Outcome::Refused))
}

/// Either what was done, or why nothing was; the outer error means that the index failed.
type Done<T = Outcome> = Result<Result<T, Refusal>, IndexError>;

/// Leaves the function with a refusal.
macro_rules! refuse {
    ($reason:ident) => {
        return Ok(Err(Refusal::$reason))
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

fn create_bucket(state: &mut Staged<'_>, bucket: &str, wall_ms: u64) -> Done {
    if state.bucket(bucket)?.is_some() {
        refuse!(BucketExists);
    }
    state.put(keys::bucket(bucket), &BucketState { created_ms: wall_ms });
    Ok(Ok(Outcome::BucketCreated))
}

fn delete_bucket(state: &mut Staged<'_>, bucket: &str) -> Done {
    if state.bucket(bucket)?.is_none() {
        refuse!(NoSuchBucket);
    }
    let objects = keys::object(bucket, b"");
    let end = keys::after_prefix(&objects);
    if state.scan(&objects, end.as_deref()).next().transpose()?.is_some() {
        refuse!(BucketNotEmpty);
    }
    for (key, value) in state.entries(&keys::uploads(bucket))? {
        let upload: UploadState = decode("upload", &key, &value)?;
        forget_upload(state, key, upload.upload)?;
    }
    state.remove(keys::bucket(bucket));
    Ok(Ok(Outcome::BucketDeleted))
}

fn matches(object: Option<&ObjectState>, wanted: &Match) -> bool {
    match (object, wanted) {
        (None, _) => false,
        (Some(_), Match::Any) => true,
        (Some(object), Match::Etag(etag)) => {
            object.etag.to_string() == *etag || planted::is("any-etag-matches")
        }
    }
}

fn check(object: Option<&ObjectState>, precondition: &Precondition) -> Result<(), Refusal> {
    if let Some(wanted) = &precondition.if_match {
        if object.is_none() {
            return Err(Refusal::NoSuchKey);
        }
        if !matches(object, wanted) {
            return Err(Refusal::PreconditionFailed);
        }
    }
    match &precondition.if_none_match {
        Some(unwanted) if matches(object, unwanted) => Err(Refusal::PreconditionFailed),
        _ => Ok(()),
    }
}

/// The extents that a source stands for.
fn resolve(state: &Staged<'_>, place: Place, source: &Source, size: u64) -> Done<Vec<Extent>> {
    let extents = match source {
        Source::Inline if place.inline_len == 0 => Vec::new(),
        Source::Inline => vec![Extent { lsn: place.lsn, offset: place.inline_at, len: place.inline_len }],
        Source::Extents { epoch, extents } => {
            if *epoch != place.epoch && !planted::is("extents-of-earlier-epoch") {
                refuse!(StaleEpoch);
            }
            extents.clone()
        }
        Source::Object { bucket, key, id, start, len } => match state.object(bucket, key)? {
            Some(object) if object.id == *id || planted::is("copy-of-changed-source") => {
                if start.checked_add(*len).is_none_or(|end| end > object.size) {
                    refuse!(Malformed);
                }
                state.cut(&object, *start, *len)?
            }
            _ => refuse!(SourceChanged),
        },
    };
    if extents.iter().map(|e| u64::from(e.len)).sum::<u64>() != size {
        refuse!(Malformed);
    }
    Ok(Ok(extents))
}

fn put_object(
    state: &mut Staged<'_>,
    place: Place,
    bucket: &str,
    key: &str,
    source: &Source,
    precondition: &Precondition,
    object: impl FnOnce(Lsn) -> ObjectState,
) -> Done {
    if state.bucket(bucket)?.is_none() {
        refuse!(NoSuchBucket);
    }
    let before = state.object(bucket, key)?;
    granted!(check(before.as_ref(), precondition));
    let object = object(place.lsn);
    let extents = granted!(resolve(state, place, source, object.size)?);
    let stored = Outcome::Stored { etag: object.etag, modified_ms: object.modified_ms };
    store(state, bucket, key, before.as_ref(), object, extents);
    Ok(Ok(stored))
}

/// Puts the object in the place of `before`.
fn store(
    state: &mut Staged<'_>,
    bucket: &str,
    key: &str,
    before: Option<&ObjectState>,
    mut object: ObjectState,
    extents: Vec<Extent>,
) {
    if let Some(before) = before {
        forget_extents(state, before);
    }
    object.layout = if extents.len() <= NEAR_EXTENTS {
        Layout::Near(extents)
    } else {
        let mut sizes = Vec::new();
        for (number, chunk) in extents.chunks(CHUNK_EXTENTS).enumerate() {
            state.put(keys::extents(object.id, number as u32), &chunk);
            sizes.push(chunk.iter().map(|e| u64::from(e.len)).sum());
        }
        Layout::Chunked(sizes)
    };
    state.put(keys::object(bucket, key.as_bytes()), &object);
}

fn forget_extents(state: &mut Staged<'_>, object: &ObjectState) {
    if let Layout::Chunked(sizes) = &object.layout {
        for number in 0..sizes.len() {
            state.remove(keys::extents(object.id, number as u32));
        }
    }
}

fn delete_objects(state: &mut Staged<'_>, bucket: &str, deletions: &[DeleteKey]) -> Done {
    if state.bucket(bucket)?.is_none() {
        refuse!(NoSuchBucket);
    }
    let mut answers = Vec::with_capacity(deletions.len());
    for DeleteKey { key, if_match } in deletions {
        let object = state.object(bucket, key)?;
        let condition = Precondition { if_match: if_match.clone(), if_none_match: None };
        let answer = check(object.as_ref(), &condition);
        if let (Ok(()), Some(object)) = (answer, &object) {
            forget_extents(state, object);
            state.remove(keys::object(bucket, key.as_bytes()));
        }
        answers.push(answer);
    }
    Ok(Ok(Outcome::Deleted(answers)))
}

fn put_part(
    state: &mut Staged<'_>,
    place: Place,
    (bucket, key, upload): (&str, &str, UploadId),
    number: u16,
    source: &Source,
    part: impl FnOnce(Vec<Extent>) -> PartState,
) -> Done {
    if state.bucket(bucket)?.is_none() {
        refuse!(NoSuchBucket);
    }
    if state.upload(bucket, key, upload)?.is_none() {
        refuse!(NoSuchUpload);
    }
    if number == 0 || number > PART_NUMBER_MAX {
        refuse!(Malformed);
    }
    let mut part = part(Vec::new());
    part.extents = granted!(resolve(state, place, source, part.size)?);
    let stored = Outcome::Stored { etag: part.etag, modified_ms: part.modified_ms };
    state.put(keys::part(upload, number), &part);
    Ok(Ok(stored))
}

fn complete(
    state: &mut Staged<'_>,
    lsn: Lsn,
    (bucket, key, upload): (&str, &str, UploadId),
    listed: &[PartRef],
    precondition: &Precondition,
    wall_ms: u64,
) -> Done {
    if state.bucket(bucket)?.is_none() {
        refuse!(NoSuchBucket);
    }
    let before = state.object(bucket, key)?;
    let Some(begun) = state.upload(bucket, key, upload)? else {
        // A client that lost the answer, to a failover for instance, asks again: it succeeded.
        return Ok(match before {
            Some(object) if object.upload == Some(upload) => {
                Ok(Outcome::Stored { etag: object.etag, modified_ms: object.modified_ms })
            }
            _ => Err(Refusal::NoSuchUpload),
        });
    };
    granted!(check(before.as_ref(), precondition));
    if listed.is_empty() {
        refuse!(Malformed);
    }
    let mut md5 = Md5::new();
    let mut extents = Vec::new();
    let mut part_sizes = Vec::with_capacity(listed.len());
    let mut previous = 0;
    for (at, wanted) in listed.iter().enumerate() {
        if wanted.number <= previous {
            refuse!(InvalidPartOrder);
        }
        previous = wanted.number;
        let part = match state.part(upload, wanted.number)? {
            Some(part) if part.etag.to_string() == wanted.etag => part,
            _ => refuse!(InvalidPart),
        };
        if part.size < PART_MIN && at + 1 < listed.len() {
            refuse!(EntityTooSmall);
        }
        md5.update(part.etag.md5);
        part_sizes.push(part.size);
        extents.extend(part.extents);
    }
    let size = part_sizes.iter().sum();
    if size > OBJECT_MAX {
        refuse!(EntityTooLarge);
    }
    let etag = Etag { md5: md5.finalize().into(), parts: listed.len() as u32 };
    let object = ObjectState {
        id: lsn,
        size,
        modified_ms: wall_ms,
        etag,
        meta: begun.meta,
        checksums: Vec::new(),
        upload: Some(upload),
        part_sizes,
        layout: Layout::Near(Vec::new()),
    };
    store(state, bucket, key, before.as_ref(), object, extents);
    if !planted::is("upload-outlives-completion") {
        forget_upload(state, keys::upload(bucket, key, upload), upload)?;
    }
    Ok(Ok(Outcome::Stored { etag, modified_ms: wall_ms }))
}

fn abort(state: &mut Staged<'_>, bucket: &str, key: &str, upload: UploadId) -> Done {
    if state.bucket(bucket)?.is_none() {
        refuse!(NoSuchBucket);
    }
    if state.upload(bucket, key, upload)?.is_none() {
        refuse!(NoSuchUpload);
    }
    forget_upload(state, keys::upload(bucket, key, upload), upload)?;
    Ok(Ok(Outcome::UploadAborted))
}

fn forget_upload(state: &mut Staged<'_>, key: Vec<u8>, upload: UploadId) -> Result<(), IndexError> {
    for (part, _) in state.entries(&keys::parts(upload))? {
        state.remove(part);
    }
    state.remove(key);
    Ok(())
}
