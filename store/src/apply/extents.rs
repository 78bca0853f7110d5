//! Which bytes an operation stands for, and where their places are noted.

use holdfast_heartbeat::planted;
use holdfast_heartbeat::types::Lsn;

use super::{Done, Place, Staged, refuse};
use crate::index::{IndexError, Lookup};
use crate::keys;
use crate::object::UploadId;
use crate::op::{Extent, Source};
use crate::seal;
use crate::state::{CHUNK_EXTENTS, Layout, NEAR_EXTENTS};

/// The extents that a source stands for. `size` is that of the bytes that the client sees.
pub(super) fn resolve(
    state: &Staged<'_>,
    place: Place,
    source: &Source,
    size: u64,
    sealed: bool,
) -> Done<Vec<Extent>> {
    let extents = match source {
        Source::Inline if place.inline_len == 0 => Vec::new(),
        Source::Inline => vec![Extent { lsn: place.lsn, offset: place.inline_at, len: place.inline_len }],
        Source::Extents { epoch, extents } => {
            if *epoch != place.epoch && !planted::is("extents-of-earlier-epoch") {
                refuse!(StaleEpoch);
            }
            extents.clone()
        }
        Source::Object { bucket, key, version, id, start, len } => {
            match state.object_version(bucket, key, *version)? {
                Some(object) if object.id == *id || planted::is("copy-of-changed-source") => {
                    match state.cut(&object, *start, *len)? {
                        Some(extents) => extents,
                        None => refuse!(Malformed),
                    }
                }
                _ => refuse!(SourceChanged),
            }
        }
    };
    let stored = if sealed { seal::sealed_len(size) } else { size };
    if extents.iter().map(|e| u64::from(e.len)).sum::<u64>() != stored {
        refuse!(Malformed);
    }
    Ok(Ok(extents))
}

/// What an object will consist of.
pub(super) enum Body {
    Extents(Vec<Extent>),
    Parts(UploadId),
}

/// Notes the places of an object's or part's bytes, under `id` where they are many.
pub(super) fn lay_out(state: &mut Staged<'_>, id: Lsn, body: Body) -> Layout {
    let extents = match body {
        Body::Parts(upload) => return Layout::Parts(upload),
        Body::Extents(extents) if extents.len() <= NEAR_EXTENTS => return Layout::Near(extents),
        Body::Extents(extents) => extents,
    };
    let mut sizes = Vec::new();
    for (number, chunk) in extents.chunks(CHUNK_EXTENTS).enumerate() {
        state.put(keys::extents(id, number as u32), &chunk);
        sizes.push(chunk.iter().map(|e| u64::from(e.len)).sum());
    }
    Layout::Chunked(id, sizes)
}

/// Forgets the places that were noted beside the object's or part's own value.
pub(super) fn forget(state: &mut Staged<'_>, layout: &Layout) -> Result<(), IndexError> {
    match layout {
        Layout::Near(_) => {}
        Layout::Chunked(id, sizes) => {
            for number in 0..sizes.len() {
                state.remove(keys::extents(*id, number as u32));
            }
        }
        Layout::Parts(upload) => super::uploads::forget_parts(state, *upload)?,
    }
    Ok(())
}
