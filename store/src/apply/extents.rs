//! Which bytes an operation stands for, and where their places are noted.

use holdfast_heartbeat::planted;
use holdfast_heartbeat::types::Lsn;

use super::{Done, Place, Staged, holdings, refuse};
use crate::index::{IndexError, Lookup, Tables, decode};
use crate::keys;
use crate::object::UploadId;
use crate::op::{Extent, Source};
use crate::seal;
use crate::state::{CHUNK_EXTENTS, Layout, NEAR_EXTENTS};

/// The body that a source stands for. `size` is that of the bytes that the client sees.
pub(super) fn resolve(
    state: &Staged<'_>,
    place: Place,
    source: &Source,
    size: u64,
    sealed: bool,
) -> Done<Body> {
    let extents = match source {
        Source::Inline if place.inline_len == 0 => Vec::new(),
        Source::Inline => vec![Extent { lsn: place.lsn, offset: place.inline_at, len: place.inline_len }],
        Source::Extents { epoch, extents } => {
            if *epoch != place.epoch && !planted::is("extents-of-earlier-epoch") {
                refuse!(StaleEpoch);
            }
            let floor = state.floor()?;
            if extents.iter().any(|extent| extent.lsn < floor) && !planted::is("given-up-bytes-taken") {
                refuse!(GivenUp);
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
    let shared = matches!(source, Source::Object { .. });
    Ok(Ok(Body::Extents { extents, shared }))
}

/// What an object will consist of.
pub(super) enum Body {
    /// Of these, which others have already if they are `shared`.
    Extents {
        extents: Vec<Extent>,
        shared: bool,
    },
    Parts(UploadId),
}

/// Notes the places of an object's or part's bytes, under `id` where they are many.
pub(super) fn lay_out(state: &mut Staged<'_>, id: Lsn, body: Body) -> Result<Layout, IndexError> {
    let extents = match body {
        Body::Parts(upload) => return Ok(Layout::Parts(upload)),
        Body::Extents { extents, shared } => {
            holdings::take(state, &extents, shared)?;
            extents
        }
    };
    if extents.len() <= NEAR_EXTENTS {
        return Ok(Layout::Near(extents));
    }
    let mut sizes = Vec::new();
    for (number, chunk) in extents.chunks(CHUNK_EXTENTS).enumerate() {
        state.put(keys::extents(id, number as u32), &chunk);
        sizes.push(chunk.iter().map(|e| u64::from(e.len)).sum());
    }
    Ok(Layout::Chunked(id, sizes))
}

/// Forgets the bytes of an object or part, and the places that were noted beside its own value.
pub(super) fn forget(state: &mut Staged<'_>, layout: &Layout) -> Result<(), IndexError> {
    match layout {
        Layout::Near(extents) => holdings::let_go(state, extents)?,
        Layout::Chunked(id, sizes) => {
            for number in 0..sizes.len() {
                let key = keys::extents(*id, number as u32);
                if let Some(value) = state.get(&key)? {
                    let extents: Vec<Extent> = decode("extent list", &key, &value)?;
                    holdings::let_go(state, &extents)?;
                }
                state.remove(key);
            }
        }
        Layout::Parts(upload) => super::uploads::forget_parts(state, *upload)?,
    }
    Ok(())
}
