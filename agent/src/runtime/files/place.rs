//! Puts a file in its place, or takes it away: wholly or not at all, and nowhere but where the set says.
//!
//! A file is written beside its place under a name of the agent's own, synced, given its owner and mode, and renamed
//! over what was there; then the directory is synced. Whatever stops this leaves the old file or the new one. No
//! link is followed, nothing but files, directories and links is replaced, and no directory that holds anything is
//! removed.

use std::ffi::OsString;
use std::fs::{File, FileTimes, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, fchown};
use std::path::Path;
use std::time::{Duration, SystemTime};

use holdfast_config::{SyncFiles, TEMPORARY_PREFIX};
use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, renameat, symlinkat, unlinkat};

use super::tree::{DIRECTORY_BITS, FILE_BITS, Found, Kind, Spot, link_stays};

/// What is to be at a path.
pub(super) struct Wanted<'w> {
    pub kind: Kind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub modified_ns: i64,
    pub content: &'w [u8],
}

/// Where a test stops a placing, as a crash would.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    Created,
    Written,
    Dressed,
    Renamed,
    Done,
}

fn refused(why: impl Into<String>) -> io::Error {
    io::Error::other(why.into())
}

/// Puts it there; what is there now.
///
/// # Errors
/// In words. What was at the path is still there, unless the last sync failed.
pub(super) fn place(set: &SyncFiles, path: &str, wanted: &Wanted<'_>) -> io::Result<Found> {
    place_until(set, path, wanted, Stage::Done)
}

/// As [`place`], given up after `last`.
pub(super) fn place_until(
    set: &SyncFiles,
    path: &str,
    wanted: &Wanted<'_>,
    last: Stage,
) -> io::Result<Found> {
    let spot = reach(set, path)?;
    let there = spot.look()?;
    match there.as_ref().map(|found| &found.kind) {
        Some(Kind::Other) => return Err(refused("a device, a pipe or a socket is in its place")),
        Some(Kind::Directory) if wanted.kind == Kind::Directory => dress_directory(&spot, wanted)?,
        there => {
            if there == Some(&Kind::Directory) {
                let removed = unlinkat(&spot.dir, &spot.name, AtFlags::REMOVEDIR);
                removed.map_err(|_| refused("a directory that is not empty is in its place"))?;
            } else if there.is_some() && wanted.kind == Kind::Directory {
                unlinkat(&spot.dir, &spot.name, AtFlags::empty())?;
            }
            make(set, path, &spot, wanted, last)?;
        }
    }
    if last < Stage::Done {
        return Err(refused("stopped"));
    }
    spot.dir.sync_all()?;
    spot.look()?.ok_or_else(|| refused("it went away at once"))
}

/// Makes it under another name and renames it.
fn make(set: &SyncFiles, path: &str, spot: &Spot, wanted: &Wanted<'_>, last: Stage) -> io::Result<()> {
    let mut chance = [0; 8];
    getrandom::fill(&mut chance).map_err(|_| refused("the system gives no random bytes"))?;
    let temporary = OsString::from(format!("{TEMPORARY_PREFIX}{}", hex::encode(chance)));
    let made = match &wanted.kind {
        Kind::File => make_file(&spot.dir, &temporary, wanted, last),
        Kind::Directory => make_directory(&spot.dir, &temporary, wanted),
        Kind::Link(target) if link_stays(set, path, target) => {
            symlinkat(target.as_str(), &spot.dir, &temporary).map_err(io::Error::from)
        }
        Kind::Link(_) => Err(refused("it is a link that leads out of the paths of the set")),
        Kind::Other => Err(refused("it is neither a file, nor a directory, nor a link")),
    };
    if last < Stage::Renamed {
        return Err(refused("stopped"));
    }
    let moved =
        made.and_then(|()| renameat(&spot.dir, &temporary, &spot.dir, &spot.name).map_err(io::Error::from));
    if moved.is_err() {
        let flags = if wanted.kind == Kind::Directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        let _ = unlinkat(&spot.dir, &temporary, flags);
    }
    moved
}

fn make_file(dir: &File, name: &OsString, wanted: &Wanted<'_>, last: Stage) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(dir, name, flags, Mode::RUSR | Mode::WUSR)?);
    if last == Stage::Created {
        return Ok(());
    }
    file.write_all(wanted.content)?;
    if last == Stage::Written {
        return Ok(());
    }
    dress(&file, wanted, FILE_BITS)?;
    let since = Duration::from_nanos(u64::try_from(wanted.modified_ns).unwrap_or(0));
    // When it was changed is for people; a file system that keeps no such time is none the worse.
    let _ = file.set_times(FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + since));
    if last == Stage::Dressed {
        return Ok(());
    }
    file.sync_all()
}

fn make_directory(dir: &File, name: &OsString, wanted: &Wanted<'_>) -> io::Result<()> {
    mkdirat(dir, name, Mode::RWXU)?;
    dress_directory(&Spot { dir: dir.try_clone()?, name: name.clone() }, wanted)
}

fn dress_directory(spot: &Spot, wanted: &Wanted<'_>) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = File::from(openat(&spot.dir, &spot.name, flags, Mode::empty())?);
    dress(&opened, wanted, DIRECTORY_BITS)?;
    opened.sync_all()
}

/// Owner first: a change of owner takes bits of the mode away.
fn dress(file: &File, wanted: &Wanted<'_>, bits: u32) -> io::Result<()> {
    fchown(file, Some(wanted.uid), Some(wanted.gid)).map_err(|error| {
        let (uid, gid) = (wanted.uid, wanted.gid);
        io::Error::new(error.kind(), format!("it cannot be given to user {uid} and group {gid}: {error}"))
    })?;
    file.set_permissions(Permissions::from_mode(wanted.mode & bits))
}

/// Takes away what is at the path; nothing there is well, too.
pub(super) fn remove(set: &SyncFiles, path: &str) -> io::Result<()> {
    let spot = match reach(set, path) {
        Ok(spot) => spot,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    match spot.look()?.map(|found| found.kind) {
        None => return Ok(()),
        Some(Kind::Other) => return Err(refused("a device, a pipe or a socket is in its place")),
        Some(Kind::Directory) => unlinkat(&spot.dir, &spot.name, AtFlags::REMOVEDIR)
            .map_err(|_| refused("the directory holds something that is only here, or is in use"))?,
        Some(Kind::File | Kind::Link(_)) => unlinkat(&spot.dir, &spot.name, AtFlags::empty())?,
    }
    spot.dir.sync_all()
}

/// The place, if the set names it.
fn reach(set: &SyncFiles, path: &str) -> io::Result<Spot> {
    if !set.names(path) {
        return Err(refused("the configuration of this member does not name it"));
    }
    Spot::of(Path::new(path))
}
