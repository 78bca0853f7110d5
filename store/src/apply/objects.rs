//! Objects: put, deleted, changed.

use holdfast_heartbeat::planted;

use super::extents::Body;
use super::versions::{self, Found, Slot};
use super::{
    Deleted, Done, Outcome, Place, Refusal, Staged, Stored, buckets, events, extents, granted, refuse,
};
use crate::bucket::{BucketState, Usage, Versioning};
use crate::index::Lookup;
use crate::object::{Lock, RetentionMode, VersionId};
use crate::op::{Change, DeleteKey, Match, Precondition, PutObject, Source};
use crate::state::{DeleteMarker, EventKind, Layout, ObjectState, Version};

fn matches(object: Option<&ObjectState>, wanted: &Match) -> bool {
    match (object, wanted) {
        (None, _) => false,
        (Some(_), Match::Any) => true,
        (Some(object), Match::Etag(etag)) => {
            object.etag.to_string() == *etag || planted::is("any-etag-matches")
        }
    }
}

/// Whether the conditions hold of the current object.
pub(super) fn check(object: Option<&ObjectState>, precondition: &Precondition) -> Result<(), Refusal> {
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

pub(super) fn put(state: &mut Staged<'_>, place: Place, op: &PutObject) -> Done {
    let Some(bucket) = state.bucket(&op.bucket)? else { refuse!(NoSuchBucket) };
    let before = state.object(&op.bucket, &op.key)?;
    granted!(check(before.as_ref(), &op.precondition));
    let body = granted!(extents::resolve(state, place, &op.source, op.size, op.traits.encryption.is_some())?);
    let object = ObjectState {
        id: place.lsn,
        null: true,
        size: op.size,
        modified_ms: op.wall_ms,
        etag: op.etag,
        traits: op.traits.clone(),
        checksums: op.checksums.clone(),
        upload: None,
        layout: Layout::Near(Vec::new()),
    };
    let kind = match op.source {
        Source::Object { .. } => EventKind::ObjectCreatedCopy,
        Source::Inline | Source::Extents { .. } => EventKind::ObjectCreatedPut,
    };
    store(state, place, (&op.bucket, &bucket, &op.key), before, (object, body), kind)
}

/// Puts a new object, of that body, in the place of `before`, if the bucket lets it.
pub(super) fn store(
    state: &mut Staged<'_>,
    place: Place,
    (name, bucket, key): (&str, &BucketState, &str),
    before: Option<ObjectState>,
    (mut object, body): (ObjectState, Body),
    kind: EventKind,
) -> Done {
    let lock = &mut object.traits.lock;
    if *lock != Lock::default() && bucket.object_lock.is_none() {
        refuse!(NoObjectLock);
    }
    if let Some(default) = bucket.object_lock.and_then(|lock| lock.default)
        && lock.retention.is_none()
    {
        lock.retention = Some(default.from(object.modified_ms));
    }
    let goes = match &before {
        Some(before) if bucket.versioning != Versioning::Enabled && before.null => {
            Usage { bytes: before.size, objects: 1 }
        }
        _ => Usage::default(),
    };
    let comes = Usage { bytes: object.size, objects: 1 };
    if !buckets::has_room(state, name, bucket, comes, goes)? {
        refuse!(QuotaExceeded);
    }
    let version = (bucket.versioning == Versioning::Enabled).then_some(VersionId::At(object.id));
    let stored = Stored {
        etag: object.etag,
        modified_ms: object.modified_ms,
        version,
        checksums: object.checksums.clone(),
    };
    object.layout = extents::lay_out(state, object.id, body)?;
    events::stored(state, place, (name, bucket, key), &object, version, kind);
    versions::put(state, Slot { bucket: name, versioning: bucket.versioning, key }, before, object)?;
    Ok(Ok(Outcome::Stored(Box::new(stored))))
}

/// Who deletes, when, and how far he may go.
#[derive(Clone, Copy)]
pub(super) struct Deletion<'a> {
    pub(super) owner: &'a str,
    pub(super) bypass_governance: bool,
    pub(super) wall_ms: u64,
}

pub(super) fn delete(
    state: &mut Staged<'_>,
    place: Place,
    name: &str,
    keys: &[DeleteKey],
    by: Deletion<'_>,
) -> Done {
    let Some(bucket) = state.bucket(name)? else { refuse!(NoSuchBucket) };
    let mut answers = Vec::with_capacity(keys.len());
    for (number, deletion) in keys.iter().enumerate() {
        let slot = Slot { bucket: name, versioning: bucket.versioning, key: &deletion.key };
        let answer = match deletion.version {
            None => delete_current(state, place, slot, deletion, by)?,
            Some(version) => delete_version(state, slot, version, deletion, by)?,
        };
        if let Ok(deleted) = &answer {
            let kind = if deletion.version.is_none() && deleted.marker {
                EventKind::ObjectRemovedDeleteMarkerCreated
            } else {
                EventKind::ObjectRemovedDelete
            };
            events::removed(state, place, number, (name, &bucket, &deletion.key), deleted.version, kind, by);
        }
        answers.push(answer);
    }
    Ok(Ok(Outcome::Deleted(answers)))
}

/// Whether the conditions of a deletion hold.
fn check_deletion(object: Option<&ObjectState>, deletion: &DeleteKey) -> Result<(), Refusal> {
    check(object, &Precondition { if_match: deletion.if_match.clone(), if_none_match: None })?;
    let Some(object) = object else {
        let conditional = deletion.if_modified_s.is_some() || deletion.if_size.is_some();
        return if conditional { Err(Refusal::NoSuchKey) } else { Ok(()) };
    };
    let modified = deletion.if_modified_s.is_none_or(|wanted| wanted == object.modified_ms / 1000);
    let size = deletion.if_size.is_none_or(|wanted| wanted == object.size);
    if modified && size { Ok(()) } else { Err(Refusal::PreconditionFailed) }
}

fn delete_current(
    state: &mut Staged<'_>,
    place: Place,
    slot: Slot<'_>,
    deletion: &DeleteKey,
    by: Deletion<'_>,
) -> Done<Deleted> {
    let current = state.object(slot.bucket, slot.key)?;
    granted!(check_deletion(current.as_ref(), deletion));
    // Where the version that is called `null` would be lost, its lock counts.
    if slot.versioning != Versioning::Enabled
        && let Some(current) = &current
        && current.null
        && !current.traits.lock.lets_go(by.wall_ms, by.bypass_governance)
    {
        refuse!(Locked);
    }
    let marker =
        |null| DeleteMarker { id: place.lsn, null, modified_ms: by.wall_ms, owner: by.owner.to_owned() };
    let version = versions::delete(state, slot, current, marker)?;
    Ok(Ok(Deleted { version, marker: version.is_some() }))
}

fn delete_version(
    state: &mut Staged<'_>,
    slot: Slot<'_>,
    version: VersionId,
    deletion: &DeleteKey,
    by: Deletion<'_>,
) -> Done<Deleted> {
    let Some(found) = versions::find(state, slot, version)? else {
        // A version that is not there counts as removed.
        granted!(check_deletion(None, deletion));
        return Ok(Ok(Deleted { version: Some(version), marker: false }));
    };
    let (object, marker) = match &found {
        Found::Current(object) => (Some(&**object), false),
        Found::Former(Version::Object(object)) => (Some(&**object), false),
        Found::Former(Version::Marker(_)) => (None, true),
    };
    if !marker {
        granted!(check_deletion(object, deletion));
    }
    if object.is_some_and(|object| !object.traits.lock.lets_go(by.wall_ms, by.bypass_governance)) {
        refuse!(Locked);
    }
    versions::remove(state, slot, &found)?;
    Ok(Ok(Deleted { version: Some(version), marker }))
}

pub(super) fn change(
    state: &mut Staged<'_>,
    name: &str,
    key: &str,
    version: Option<VersionId>,
    change: &Change,
    wall_ms: u64,
) -> Done {
    let Some(bucket) = state.bucket(name)? else { refuse!(NoSuchBucket) };
    let slot = Slot { bucket: name, versioning: bucket.versioning, key };
    let found = match version {
        None => state.object(name, key)?.map(|object| Found::Current(Box::new(object))),
        Some(version) => versions::find(state, slot, version)?,
    };
    let mut found = match found {
        Some(found) => found,
        None if version.is_none() => refuse!(NoSuchKey),
        None => refuse!(NoSuchVersion),
    };
    let object = match &mut found {
        Found::Current(object) => object,
        Found::Former(Version::Object(object)) => object,
        Found::Former(Version::Marker(_)) => refuse!(IsDeleteMarker),
    };
    let lock = &mut object.traits.lock;
    match change {
        Change::Tags(tags) => object.traits.tags.clone_from(tags),
        Change::Acl(acl) => object.traits.acl.clone_from(acl),
        Change::Retention { .. } | Change::LegalHold(_) if bucket.object_lock.is_none() => {
            refuse!(NoObjectLock)
        }
        Change::LegalHold(held) => lock.legal_hold = *held,
        Change::Retention { retention, bypass_governance } => {
            if let Some(now) = lock.retention.filter(|now| wall_ms < now.until_ms) {
                let longer = retention.is_some_and(|new| new.until_ms >= now.until_ms);
                let same = retention.is_some_and(|new| new.mode == now.mode);
                let extends = longer && same;
                let may = now.mode == RetentionMode::Governance && *bypass_governance;
                if !extends && !may {
                    refuse!(Locked);
                }
            }
            lock.retention = *retention;
        }
    }
    versions::rewrite(state, slot, found);
    Ok(Ok(Outcome::Changed))
}
