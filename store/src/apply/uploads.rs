//! Multipart uploads: begun, filled part by part, completed or given up.

use holdfast_heartbeat::planted;
use md5::{Digest, Md5};

use super::extents::Body;
use super::objects::{check, store};
use super::{
    Done, OBJECT_MAX, Outcome, PART_MIN, PART_NUMBER_MAX, Place, Staged, Stored, extents, granted, refuse,
};
use crate::checksum::{Checksum, ChecksumPlan, combine};
use crate::index::{IndexError, Lookup, decode};
use crate::keys;
use crate::object::{Etag, Traits, UploadId};
use crate::op::{CompleteUpload, PutPart};
use crate::state::{EventKind, Layout, ObjectState, PartState, UploadState};

pub(super) fn create(
    state: &mut Staged<'_>,
    bucket: &str,
    key: &str,
    upload: UploadId,
    traits: &Traits,
    checksum: Option<ChecksumPlan>,
    wall_ms: u64,
) -> Done {
    if state.bucket(bucket)?.is_none() {
        refuse!(NoSuchBucket);
    }
    let begun =
        UploadState { key: key.to_owned(), upload, traits: traits.clone(), checksum, initiated_ms: wall_ms };
    state.put(keys::upload(bucket, key, upload), &begun);
    Ok(Ok(Outcome::UploadCreated))
}

pub(super) fn put_part(state: &mut Staged<'_>, place: Place, op: &PutPart) -> Done {
    if state.bucket(&op.bucket)?.is_none() {
        refuse!(NoSuchBucket);
    }
    let Some(begun) = state.upload(&op.bucket, &op.key, op.upload)? else { refuse!(NoSuchUpload) };
    if op.number == 0 || op.number > PART_NUMBER_MAX {
        refuse!(Malformed);
    }
    let sealed = begun.traits.encryption.is_some();
    let body = granted!(extents::resolve(state, place, &op.source, op.size, sealed)?);
    if let Some(before) = state.part(op.upload, op.number)? {
        extents::forget(state, &before.layout)?;
    }
    let part = PartState {
        size: op.size,
        etag: op.etag,
        checksums: op.checksums.clone(),
        modified_ms: op.wall_ms,
        layout: extents::lay_out(state, place.lsn, body)?,
    };
    state.put(keys::part(op.upload, op.number), &part);
    Ok(Ok(Outcome::Stored(Box::new(Stored {
        etag: part.etag,
        modified_ms: part.modified_ms,
        version: None,
        checksums: part.checksums,
    }))))
}

pub(super) fn complete(state: &mut Staged<'_>, place: Place, op: &CompleteUpload) -> Done {
    let Some(bucket) = state.bucket(&op.bucket)? else { refuse!(NoSuchBucket) };
    let before = state.object(&op.bucket, &op.key)?;
    let Some(begun) = state.upload(&op.bucket, &op.key, op.upload)? else {
        // A client that lost the answer, to a failover for instance, asks again for the same: it succeeded.
        return Ok(match before {
            Some(object) if object.upload == Some(op.upload) && op.joined() == Some(object.etag) => {
                Ok(Outcome::Stored(Box::new(Stored {
                    etag: object.etag,
                    modified_ms: object.modified_ms,
                    version: (!object.null).then(|| object.version()),
                    checksums: object.checksums,
                })))
            }
            _ => Err(super::Refusal::NoSuchUpload),
        });
    };
    granted!(check(before.as_ref(), &op.precondition));
    if op.parts.is_empty() {
        refuse!(Malformed);
    }
    let Joined { size, etag, checksums } = granted!(join(state, &begun, op)?);
    if size > OBJECT_MAX {
        refuse!(EntityTooLarge);
    }
    if op.size.is_some_and(|said| said != size) {
        refuse!(BadDigest);
    }
    if let Some(said) = &op.checksum
        && checksums.first().is_none_or(|checksum| checksum.base64 != *said)
    {
        refuse!(BadDigest);
    }
    let object = ObjectState {
        id: place.lsn,
        null: true,
        size,
        modified_ms: op.wall_ms,
        etag,
        traits: begun.traits.clone(),
        checksums,
        upload: Some(op.upload),
        layout: Layout::Near(Vec::new()),
    };
    let kind = EventKind::ObjectCreatedCompleteMultipartUpload;
    let stored = granted!(store(
        state,
        place,
        (&op.bucket, &bucket, &op.key),
        before,
        (object, Body::Parts(op.upload)),
        kind
    )?);
    if !planted::is("upload-outlives-completion") {
        state.remove(keys::upload(&op.bucket, &op.key, op.upload));
    }
    // Parts that the completion does not list are not of the object.
    for (key, value) in state.entries(&keys::parts(op.upload))? {
        let listed = |number: u16| op.parts.binary_search_by_key(&number, |part| part.number).is_ok();
        if !key.last_chunk::<2>().is_some_and(|number| listed(u16::from_be_bytes(*number))) {
            let part: PartState = decode("part", &key, &value)?;
            extents::forget(state, &part.layout)?;
            state.remove(key);
        }
    }
    Ok(Ok(stored))
}

/// What the parts are together.
struct Joined {
    size: u64,
    etag: Etag,
    checksums: Vec<Checksum>,
}

fn join(state: &Staged<'_>, begun: &UploadState, op: &CompleteUpload) -> Done<Joined> {
    let mut md5 = Md5::new();
    let mut size: u64 = 0;
    let mut previous = 0;
    let mut sums = Vec::new();
    for (at, wanted) in op.parts.iter().enumerate() {
        if wanted.number <= previous {
            refuse!(InvalidPartOrder);
        }
        previous = wanted.number;
        let part = match state.part(op.upload, wanted.number)? {
            Some(part) if part.etag.to_string() == wanted.etag => part,
            _ => refuse!(InvalidPart),
        };
        if part.size < PART_MIN && at + 1 < op.parts.len() {
            refuse!(EntityTooSmall);
        }
        let sum = match begun.checksum {
            Some(plan) => part.checksums.iter().find(|checksum| checksum.kind == plan.kind),
            None => part.checksums.first(),
        };
        if let Some(sum) = sum {
            sums.push((sum.base64.clone(), part.size));
        }
        md5.update(part.etag.md5);
        size = size.saturating_add(part.size);
    }
    let etag = Etag { md5: md5.finalize().into(), parts: op.parts.len() as u32 };
    let checksum = match begun.checksum {
        Some(plan) if sums.len() == op.parts.len() => {
            combine(plan, sums.iter().map(|(base64, len)| (base64.as_str(), *len)))
        }
        _ => None,
    };
    Ok(Ok(Joined { size, etag, checksums: checksum.into_iter().collect() }))
}

pub(super) fn abort(state: &mut Staged<'_>, bucket: &str, key: &str, upload: UploadId) -> Done {
    if state.bucket(bucket)?.is_none() {
        refuse!(NoSuchBucket);
    }
    if state.upload(bucket, key, upload)?.is_none() {
        refuse!(NoSuchUpload);
    }
    forget(state, keys::upload(bucket, key, upload), upload)?;
    Ok(Ok(Outcome::UploadAborted))
}

/// Forgets the upload under that key of the index, with its parts.
pub(super) fn forget(state: &mut Staged<'_>, key: Vec<u8>, upload: UploadId) -> Result<(), IndexError> {
    forget_parts(state, upload)?;
    state.remove(key);
    Ok(())
}

/// Forgets the parts of an upload, or of the object that was made of it.
pub(super) fn forget_parts(state: &mut Staged<'_>, upload: UploadId) -> Result<(), IndexError> {
    for (key, value) in state.entries(&keys::parts(upload))? {
        let part: PartState = decode("part", &key, &value)?;
        extents::forget(state, &part.layout)?;
        state.remove(key);
    }
    Ok(())
}
