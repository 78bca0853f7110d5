//! The current object of a key and its former versions: how one comes, goes, and takes the other's place.
//!
//! ```text
//!   put      versions off: the object before goes.  enabled: it becomes a former version.
//!            suspended: it becomes one unless it is itself called `null`; the version of that name goes.
//!   delete   the same, with a delete marker in the place of the object (none where versions are off)
//!   remove   one version goes for good; if it was the newest, the next one takes its place
//! ```
//!
//! Invariant: at most one version of a key is called `null`; where a key has versions and no current
//! object, the newest of them is a delete marker.

use holdfast_heartbeat::types::Lsn;

use super::{Staged, buckets, extents};
use crate::bucket::Versioning;
use crate::index::{IndexError, Lookup};
use crate::keys;
use crate::object::VersionId;
use crate::state::{DeleteMarker, ObjectState, Version};

/// A key of a bucket, with how the bucket keeps versions.
#[derive(Clone, Copy)]
pub(super) struct Slot<'a> {
    pub(super) bucket: &'a str,
    pub(super) versioning: Versioning,
    pub(super) key: &'a str,
}

/// Puts an object in the place of `before`.
pub(super) fn put(
    state: &mut Staged<'_>,
    slot: Slot<'_>,
    before: Option<ObjectState>,
    mut object: ObjectState,
) -> Result<(), IndexError> {
    make_room(state, slot, before)?;
    object.null = slot.versioning != Versioning::Enabled;
    buckets::count(state, slot.bucket, object.size, true)?;
    state.put(keys::object(slot.bucket, slot.key.as_bytes()), &object);
    Ok(())
}

/// Takes `before` out of sight. Returns the delete marker, in a bucket that keeps versions.
pub(super) fn delete(
    state: &mut Staged<'_>,
    slot: Slot<'_>,
    before: Option<ObjectState>,
    marker: impl FnOnce(bool) -> DeleteMarker,
) -> Result<Option<VersionId>, IndexError> {
    make_room(state, slot, before)?;
    state.remove(keys::object(slot.bucket, slot.key.as_bytes()));
    if slot.versioning == Versioning::Off {
        return Ok(None);
    }
    let marker = Version::Marker(marker(slot.versioning == Versioning::Suspended));
    let version = marker.version();
    file(state, slot, &marker);
    Ok(Some(version))
}

/// Does with what was there before what the bucket's versioning says.
fn make_room(state: &mut Staged<'_>, slot: Slot<'_>, before: Option<ObjectState>) -> Result<(), IndexError> {
    match (slot.versioning, before) {
        (Versioning::Off, None) | (Versioning::Enabled, None) => {}
        (Versioning::Off, Some(before)) => forget(state, slot.bucket, &before)?,
        (Versioning::Enabled, Some(before)) => file(state, slot, &Version::Object(Box::new(before))),
        (Versioning::Suspended, before) => {
            match before {
                Some(before) if before.null => forget(state, slot.bucket, &before)?,
                Some(before) => file(state, slot, &Version::Object(Box::new(before))),
                None => {}
            }
            if let Some(id) = state.null_version(slot.bucket, slot.key)? {
                take(state, slot, id)?;
            }
        }
    }
    Ok(())
}

/// Puts a version among the former ones.
fn file(state: &mut Staged<'_>, slot: Slot<'_>, version: &Version) {
    let key = slot.key.as_bytes();
    if version.version() == VersionId::Null {
        state.put_bytes(keys::null_version(slot.bucket, key), version.id().0.to_be_bytes().to_vec());
    }
    state.put(keys::version(slot.bucket, key, version.id()), version);
}

/// Takes a version out of the former ones, with its bytes.
fn take(state: &mut Staged<'_>, slot: Slot<'_>, id: Lsn) -> Result<(), IndexError> {
    if let Some(Version::Object(object)) = unfile(state, slot, id)? {
        forget(state, slot.bucket, &object)?;
    }
    Ok(())
}

/// Takes a version out of the former ones; its bytes stay.
fn unfile(state: &mut Staged<'_>, slot: Slot<'_>, id: Lsn) -> Result<Option<Version>, IndexError> {
    let key = slot.key.as_bytes();
    let found = state.former(slot.bucket, slot.key, id)?;
    if found.as_ref().is_some_and(|found| found.version() == VersionId::Null) {
        state.remove(keys::null_version(slot.bucket, key));
    }
    state.remove(keys::version(slot.bucket, key, id));
    Ok(found)
}

/// Removes one version for good. The version must exist.
pub(super) fn remove(state: &mut Staged<'_>, slot: Slot<'_>, found: &Found) -> Result<(), IndexError> {
    let had_current = match found {
        Found::Current(object) => {
            forget(state, slot.bucket, object)?;
            state.remove(keys::object(slot.bucket, slot.key.as_bytes()));
            false
        }
        Found::Former(version) => {
            take(state, slot, version.id())?;
            state.object(slot.bucket, slot.key)?.is_some()
        }
    };
    if had_current {
        return Ok(());
    }
    // The newest of those that are left is what the key stands for now.
    if let Some(Version::Object(object)) = state.newest_former(slot.bucket, slot.key)? {
        unfile(state, slot, object.id)?;
        state.put(keys::object(slot.bucket, slot.key.as_bytes()), &object);
    }
    Ok(())
}

/// Writes a changed version back to where it was found.
pub(super) fn rewrite(state: &mut Staged<'_>, slot: Slot<'_>, found: Found) {
    match found {
        Found::Current(object) => state.put(keys::object(slot.bucket, slot.key.as_bytes()), &object),
        Found::Former(version) => {
            state.put(keys::version(slot.bucket, slot.key.as_bytes(), version.id()), &version);
        }
    }
}

/// A version, and whether it is the current object.
pub(super) enum Found {
    Current(Box<ObjectState>),
    Former(Version),
}

/// The object that the operation at `id` made, wherever it is by now.
pub(super) fn made_at(state: &Staged<'_>, slot: Slot<'_>, id: Lsn) -> Result<Option<Found>, IndexError> {
    if let Some(current) = state.object(slot.bucket, slot.key)?
        && current.id == id
    {
        return Ok(Some(Found::Current(Box::new(current))));
    }
    Ok(state.former(slot.bucket, slot.key, id)?.map(Found::Former))
}

/// Looks a version up by its name.
pub(super) fn find(
    state: &Staged<'_>,
    slot: Slot<'_>,
    version: VersionId,
) -> Result<Option<Found>, IndexError> {
    if let Some(current) = state.object(slot.bucket, slot.key)?
        && current.version() == version
    {
        return Ok(Some(Found::Current(Box::new(current))));
    }
    Ok(state.former_named(slot.bucket, slot.key, version)?.map(Found::Former))
}

/// Forgets an object's bytes.
fn forget(state: &mut Staged<'_>, bucket: &str, object: &ObjectState) -> Result<(), IndexError> {
    buckets::count(state, bucket, object.size, false)?;
    extents::forget(state, &object.layout)
}
