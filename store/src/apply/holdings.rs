//! Who has which bytes of the log: how many are live, and what becomes of those that are moved.
//!
//! Most extents have one holder, and nothing is noted of them. Where a copy shares them, their holders
//! are counted, so that the last one who goes takes them along; and where a shared extent is moved, the
//! place is noted for those who still have it at the old one, so that it is moved once.

use holdfast_heartbeat::types::Lsn;

use super::versions::{self, Found, Slot};
use super::{Done, Outcome, Staged};
use crate::bucket::Versioning;
use crate::index::{IndexError, Lookup, Tables, decode};
use crate::keys;
use crate::op::{Extent, Holder, Relocation};
use crate::state::{Layout, Shared, Version};

fn put_number(state: &mut Staged<'_>, key: &[u8], number: u64) {
    state.put_bytes(key.to_vec(), number.to_be_bytes().to_vec());
}

/// Counts bytes that somebody has now, and bytes that nobody has any more.
fn count(state: &mut Staged<'_>, came: u64, went: u64) -> Result<(), IndexError> {
    if came != went {
        let live = state.live_bytes()?;
        put_number(state, keys::LIVE, live.saturating_add(came).saturating_sub(went));
    }
    Ok(())
}

/// Somebody has these now; if they are `shared`, others had them before.
pub(super) fn take(state: &mut Staged<'_>, extents: &[Extent], shared: bool) -> Result<(), IndexError> {
    if !shared {
        return count(state, extents.iter().map(|extent| u64::from(extent.len)).sum(), 0);
    }
    for extent in extents {
        let mut noted = state.shared(extent)?.unwrap_or(Shared { holders: 1, ..Shared::default() });
        noted.holders += 1;
        state.put(keys::shared(extent.lsn, extent.offset), &noted);
    }
    Ok(())
}

/// Somebody has these no more.
pub(super) fn let_go(state: &mut Staged<'_>, extents: &[Extent]) -> Result<(), IndexError> {
    let mut freed = 0;
    for extent in extents {
        freed += let_one_go(state, extent)?;
    }
    count(state, 0, freed)
}

/// Returns the bytes that nobody has now.
fn let_one_go(state: &mut Staged<'_>, extent: &Extent) -> Result<u64, IndexError> {
    let key = keys::shared(extent.lsn, extent.offset);
    let Some(mut noted) = state.shared(extent)? else { return Ok(u64::from(extent.len)) };
    noted.holders = noted.holders.saturating_sub(1);
    if noted.holders == 0 {
        state.remove(key);
        return Ok(u64::from(extent.len));
    }
    if noted.holders == 1 && !noted.moved_here && noted.moved_to.is_none() {
        state.remove(key);
    } else {
        state.put(key, &noted);
    }
    Ok(0)
}

pub(super) fn raise_floor(state: &mut Staged<'_>, floor: Lsn) -> Done {
    if state.floor()? < floor {
        put_number(state, keys::FLOOR, floor.0);
    }
    Ok(Ok(Outcome::Changed))
}

pub(super) fn relocate(state: &mut Staged<'_>, relocations: &[Relocation]) -> Done {
    for relocation in relocations {
        match &relocation.holder {
            Holder::Version { bucket, key, id } => {
                let slot = Slot { bucket, versioning: Versioning::Off, key };
                let Some(mut found) = versions::made_at(state, slot, *id)? else { continue };
                let object = match &mut found {
                    Found::Current(object) | Found::Former(Version::Object(object)) => object,
                    Found::Former(Version::Marker(_)) => continue,
                };
                if let Layout::Near(extents) = &mut object.layout
                    && replace(state, extents, &relocation.extents)?
                {
                    versions::rewrite(state, slot, found);
                }
            }
            Holder::Chunk { id, number } => {
                let key = keys::extents(*id, *number);
                let Some(value) = state.get(&key)? else { continue };
                let mut extents: Vec<Extent> = decode("extent list", &key, &value)?;
                if replace(state, &mut extents, &relocation.extents)? {
                    state.put(key, &extents);
                }
            }
            Holder::File { set, path, id } => {
                let Some(mut file) = state.file(set, path)?.filter(|file| file.id == *id) else { continue };
                if let Layout::Near(extents) = &mut file.layout
                    && replace(state, extents, &relocation.extents)?
                {
                    state.put(keys::file(set, path), &file);
                }
            }
            Holder::Part { upload, number } => {
                let Some(mut part) = state.part(*upload, *number)? else { continue };
                if let Layout::Near(extents) = &mut part.layout
                    && replace(state, extents, &relocation.extents)?
                {
                    state.put(keys::part(*upload, *number), &part);
                }
            }
        }
    }
    Ok(Ok(Outcome::Changed))
}

/// Puts the new places for the old ones that are still there; says whether any was.
fn replace(
    state: &mut Staged<'_>,
    extents: &mut [Extent],
    moves: &[(Extent, Option<Extent>)],
) -> Result<bool, IndexError> {
    let mut changed = false;
    for (from, to) in moves {
        if to.is_some_and(|to| to.len != from.len) {
            continue;
        }
        let Some(at) = extents.iter().position(|extent| extent == from) else { continue };
        if let Some(to) = moved(state, from, *to)? {
            extents[at] = to;
            changed = true;
        }
    }
    Ok(changed)
}

/// Where the extent is from now on, for one who had it at `from`; `None` if it must be moved first.
fn moved(state: &mut Staged<'_>, from: &Extent, to: Option<Extent>) -> Result<Option<Extent>, IndexError> {
    let Some(mut noted) = state.shared(from)? else { return Ok(to) };
    let known = match noted.moved_to {
        Some(place) if place.len == from.len => state.shared(&place)?.map(|there| (place, there)),
        _ => None,
    };
    let mut came = 0;
    let (place, there) = match (known, to) {
        (Some((place, mut there)), _) => {
            there.holders += 1;
            (place, there)
        }
        (None, Some(to)) => {
            came = u64::from(to.len);
            noted.moved_to = Some(to);
            (to, Shared { holders: 1, moved_to: None, moved_here: true })
        }
        (None, None) => return Ok(None),
    };
    state.put(keys::shared(place.lsn, place.offset), &there);
    state.put(keys::shared(from.lsn, from.offset), &noted);
    let went = let_one_go(state, from)?;
    count(state, came, went)?;
    Ok(Some(place))
}
