//! Everybody who has extents, as the index has them.

use holdfast_heartbeat::types::Lsn;

use crate::index::{Entry, IndexError, Tables, decode};
use crate::keys;
use crate::op::{Extent, Holder};
use crate::state::{FileState, Layout, ObjectState, PartState, Version};

/// An entry of the index that names extents.
pub(super) struct Held {
    /// Whose.
    pub(super) holder: Holder,
    /// Which, in the order of the bytes.
    pub(super) extents: Vec<Extent>,
}

fn near(layout: Layout) -> Vec<Extent> {
    match layout {
        Layout::Near(extents) => extents,
        // These lie in chunks and parts, which are holders of their own.
        Layout::Chunked(..) | Layout::Parts(_) => Vec::new(),
    }
}

/// What the entry holds; `None` for one that names no extents.
pub(super) fn held((key, value): &Entry) -> Result<Option<Held>, IndexError> {
    let (id, extents) = match key.first() {
        Some(b'o') => {
            let object: ObjectState = decode("object", key, value)?;
            (object.id, near(object.layout))
        }
        Some(b'f') => {
            let file: FileState = decode("file", key, value)?;
            (file.id, near(file.layout))
        }
        Some(b'v') => match decode("version", key, value)? {
            Version::Object(object) => (object.id, near(object.layout)),
            Version::Marker(_) => return Ok(None),
        },
        Some(b'p') => (Lsn::ZERO, near(decode::<PartState>("part", key, value)?.layout)),
        Some(b'x') => (Lsn::ZERO, decode("extent list", key, value)?),
        _ => return Ok(None),
    };
    let malformed = || IndexError::Malformed { what: "key", key: key.escape_ascii().to_string() };
    let holder = keys::holder(key, || id).ok_or_else(malformed)?;
    Ok((!extents.is_empty()).then_some(Held { holder, extents }))
}

/// Looks at every holder.
pub(super) fn for_each(tables: &dyn Tables, mut look: impl FnMut(Held)) -> Result<(), IndexError> {
    for table in keys::HOLDERS {
        for entry in tables.scan(&[table], Some(&[table + 1])) {
            if let Some(held) = held(&entry?)? {
                look(held);
            }
        }
    }
    Ok(())
}
