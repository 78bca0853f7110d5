//! Files of the hosts.

use super::{Done, Outcome, Place, Staged, extents, granted, refuse};
use crate::index::Lookup;
use crate::keys;
use crate::op::{PutFile, Source};
use crate::state::FileState;

pub(super) fn put(state: &mut Staged<'_>, place: Place, op: &PutFile) -> Done {
    // A zero byte would end the set's name early, and no path has one; what clients stored is none of the hosts' files.
    if op.set.contains('\0') || op.path.contains('\0') || matches!(op.source, Source::Object { .. }) {
        refuse!(Malformed);
    }
    let body = granted!(extents::resolve(state, place, &op.source, op.size, op.encryption.is_some())?);
    if let Some(before) = state.file(&op.set, &op.path)? {
        extents::forget(state, &before.layout)?;
    }
    let file = FileState {
        id: place.lsn,
        traits: op.traits.clone(),
        size: op.size,
        sha256: op.sha256,
        encryption: op.encryption.clone(),
        noted_ms: op.wall_ms,
        layout: extents::lay_out(state, place.lsn, body)?,
    };
    state.put(keys::file(&op.set, &op.path), &file);
    changed(state, place);
    Ok(Ok(Outcome::Changed))
}

pub(super) fn forget(state: &mut Staged<'_>, place: Place, set: &str, paths: &[String]) -> Done {
    for path in paths {
        if let Some(before) = state.file(set, path)? {
            extents::forget(state, &before.layout)?;
            state.remove(keys::file(set, path));
        }
    }
    changed(state, place);
    Ok(Ok(Outcome::Changed))
}

fn changed(state: &mut Staged<'_>, place: Place) {
    state.put_bytes(keys::FILES_CHANGED.to_vec(), place.lsn.0.to_be_bytes().to_vec());
}
