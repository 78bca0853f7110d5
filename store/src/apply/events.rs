//! Events for those who asked to be told: noted with the change itself, so that none is lost with a
//! primary, and forgotten once they have been delivered.

use holdfast_heartbeat::types::Lsn;

use super::objects::Deletion;
use super::{Done, Outcome, Place, Staged};
use crate::bucket::{BucketState, Document};
use crate::index::Tables;
use crate::keys;
use crate::object::VersionId;
use crate::state::{Event, EventKind, ObjectState};

type Where<'a> = (&'a str, &'a BucketState, &'a str);

/// Notes an event, where the bucket wants anybody to be told.
fn note(
    state: &mut Staged<'_>,
    place: Place,
    number: usize,
    bucket: &BucketState,
    event: impl FnOnce() -> Event,
) {
    if bucket.documents.contains(&Document::Notification) {
        state.put(keys::event(place.lsn, number as u32), &event());
    }
}

pub(super) fn stored(
    state: &mut Staged<'_>,
    place: Place,
    (name, bucket, key): Where<'_>,
    object: &ObjectState,
    version: Option<VersionId>,
    kind: EventKind,
) {
    note(state, place, 0, bucket, || Event {
        kind,
        bucket: name.to_owned(),
        key: key.to_owned(),
        version,
        size: object.size,
        etag: Some(object.etag),
        by: object.traits.owner.clone(),
        wall_ms: object.modified_ms,
    });
}

pub(super) fn removed(
    state: &mut Staged<'_>,
    place: Place,
    number: usize,
    (name, bucket, key): Where<'_>,
    version: Option<VersionId>,
    kind: EventKind,
    by: Deletion<'_>,
) {
    note(state, place, number, bucket, || Event {
        kind,
        bucket: name.to_owned(),
        key: key.to_owned(),
        version,
        size: 0,
        etag: None,
        by: by.owner.to_owned(),
        wall_ms: by.wall_ms,
    });
}

pub(super) fn delivered(state: &mut Staged<'_>, up_to: Lsn) -> Done {
    let end = keys::event(up_to, 0);
    let gone: Result<Vec<_>, _> =
        state.scan(keys::EVENTS, Some(&end)).map(|e| e.map(|(key, _)| key)).collect();
    for key in gone? {
        state.remove(key);
    }
    Ok(Ok(Outcome::Changed))
}
