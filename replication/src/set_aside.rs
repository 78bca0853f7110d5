//! Archives of bytes that are about to leave the log (rule R8).
//!
//! An archive is `set-aside/<name>.log` with the bytes verbatim and, written last, the manifest
//! `set-aside/<name>.json`. Both are durable before [`write`] returns, and only then may anyone cut.
//! Whoever is killed on the way leaves the log uncut and an archive without manifest, which the next
//! attempt overwrites; an archive with a manifest is never changed.
//!
//! An archive goes only by [`delete`], for an operator who said so: the manifest takes another name first, durably, and
//! the bytes after it. Whatever dies on the way leaves an archive that is whole or one that is not listed, and
//! [`finish_deletions`] ends what was begun.
//!
//! ```text
//!   NAME.log           the bytes                            NAME.json      the manifest
//!   NAME.deleting      the manifest of one that goes        NAME.deleted   its bytes, of no use any more
//!   NAME.<else>        notes of whoever looks after it: they go with it
//! ```

mod reading;

use std::io;
use std::sync::Arc;

use holdfast_heartbeat::{Epoch, Lsn};
use serde::{Deserialize, Serialize};

pub use self::reading::ArchiveReader;
use crate::disk::{Disk, DiskFile, read_all};

/// The directory of archives.
pub const DIR: &str = "set-aside";

/// Manifests larger than this are not ours, in bytes.
const MAX_MANIFEST: u64 = 1024 * 1024;

/// Archives of equal name and different content that one range may have.
const MAX_VARIANTS: u32 = 1000;

/// Why bytes left the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A former primary wrote them and nobody acknowledged; whole records.
    Divergent,
    /// The end of the log after a power cut; raw bytes.
    Torn,
    /// From a damaged place to the end, cut because the caller asked for it; raw bytes.
    Damaged,
}

/// What an archive holds: the content of its manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archive {
    /// The archive's name, without extension.
    pub name: String,
    /// Why.
    pub cause: Cause,
    /// The first byte's position.
    pub from: Lsn,
    /// The position after the last byte.
    pub to: Lsn,
    /// The epochs that wrote them, as far as is known.
    pub epochs: Vec<Epoch>,
    /// How many whole records, as far as is known.
    pub records: u64,
    /// Bytes in the archive.
    pub bytes: u64,
    /// CRC-32C of those bytes.
    pub crc: u32,
    /// Why, in words.
    pub reason: String,
    /// The wall clock, in milliseconds since 1970; zero where it was not known.
    pub wall_ms: u64,
}

/// What to set aside. `records` and `epochs` are for people.
#[derive(Clone, Debug)]
pub struct Request {
    /// Why.
    pub cause: Cause,
    /// The epoch for the name: that of the first byte.
    pub epoch: Epoch,
    /// The first byte's position.
    pub from: Lsn,
    /// The position after the last byte.
    pub to: Lsn,
    /// The epochs that wrote them.
    pub epochs: Vec<Epoch>,
    /// How many whole records.
    pub records: u64,
    /// Why, in words.
    pub reason: String,
    /// The wall clock, in milliseconds since 1970; zero where it is not known.
    pub wall_ms: u64,
}

/// Where an archive's bytes go, piece by piece.
pub type Sink<'a> = dyn FnMut(&[u8]) -> io::Result<()> + 'a;

/// Writes an archive of the bytes that `pieces` feeds to the sink it is given, and makes it durable.
/// `pieces` runs twice, to know the content before deciding on a name and then to copy it.
pub fn write(
    disk: &dyn Disk,
    request: &Request,
    pieces: &mut dyn FnMut(&mut Sink<'_>) -> io::Result<()>,
) -> io::Result<Archive> {
    let kind = match request.cause {
        Cause::Divergent => "",
        Cause::Torn => "torn-",
        Cause::Damaged => "damaged-",
    };
    let (mut bytes, mut crc) = (0, 0);
    pieces(&mut |piece| {
        bytes += piece.len() as u64;
        crc = crc32c::crc32c_append(crc, piece);
        Ok(())
    })?;
    for variant in 1..=MAX_VARIANTS {
        let suffix = if variant == 1 { String::new() } else { format!("-{variant}") };
        let name = format!("{kind}{}-{}-{}{suffix}", request.epoch, request.from, request.to);
        if let Some(old) = manifest(disk, &name)? {
            if old.bytes == bytes && old.crc == crc {
                return Ok(old);
            }
            continue;
        }
        let archive = Archive {
            name: name.clone(),
            cause: request.cause,
            from: request.from,
            to: request.to,
            epochs: request.epochs.clone(),
            records: request.records,
            bytes,
            crc,
            reason: request.reason.clone(),
            wall_ms: request.wall_ms,
        };
        // Else it would take these bytes with it.
        finish_deletion(disk, &name)?;
        let file = disk.create(&format!("{DIR}/{name}.log"))?;
        let mut at = 0;
        pieces(&mut |piece| {
            file.write_at(piece, at)?;
            at += piece.len() as u64;
            Ok(())
        })?;
        file.sync_data()?;
        let json = serde_json::to_vec_pretty(&archive).map_err(io::Error::other)?;
        // Under another name until it is whole: a torn manifest must not look like none or like one.
        let draft = format!("{DIR}/{name}.draft");
        let file = disk.create(&draft)?;
        file.write_at(&json, 0)?;
        file.sync_data()?;
        disk.rename(&draft, &format!("{DIR}/{name}.json"))?;
        disk.sync_dir(DIR)?;
        return Ok(archive);
    }
    Err(io::Error::other("too many archives of the same range"))
}

fn manifest(disk: &dyn Disk, name: &str) -> io::Result<Option<Archive>> {
    match disk.open(&format!("{DIR}/{name}.json")) {
        Ok(file) => {
            let bytes = read_all(&*file, MAX_MANIFEST)?;
            Ok(serde_json::from_slice(&bytes).ok())
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// The complete archives, by name.
pub fn list(disk: &dyn Disk) -> io::Result<Vec<Archive>> {
    let mut archives = Vec::new();
    for file in disk.list(DIR)? {
        if let Some(name) = file.strip_suffix(".json") {
            archives.extend(manifest(disk, name)?);
        }
    }
    Ok(archives)
}

/// The bytes of the archive of that name.
fn bytes_of(disk: &dyn Disk, name: &str) -> io::Result<Arc<dyn DiskFile>> {
    disk.open(&format!("{DIR}/{name}.log"))
}

fn remove_if_there(disk: &dyn Disk, name: &str) -> io::Result<()> {
    match disk.remove(name) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Deletes the archive of that name for good; what it was, or `None` where there is none. When this returns it will not
/// come back; its bytes take space until [`sweep`]. To be called by whoever writes archives, and by nobody at the same time.
pub fn delete(disk: &dyn Disk, name: &str) -> io::Result<Option<Archive>> {
    let Some(archive) = manifest(disk, name)? else { return Ok(None) };
    disk.rename(&format!("{DIR}/{name}.json"), &format!("{DIR}/{name}.deleting"))?;
    disk.sync_dir(DIR)?;
    finish_deletion(disk, name)?;
    Ok(Some(archive))
}

/// Ends the deletion of the archive of that name, if one was begun.
fn finish_deletion(disk: &dyn Disk, name: &str) -> io::Result<()> {
    let begun = format!("{name}.deleting");
    let files = disk.list(DIR)?;
    if !files.contains(&begun) {
        return Ok(());
    }
    let (bytes, gone) = (format!("{name}.log"), format!("{name}.deleted"));
    for file in files {
        let at = format!("{DIR}/{file}");
        if file == bytes {
            disk.rename(&at, &format!("{DIR}/{gone}"))?;
        } else if file != begun && file != gone && file.strip_prefix(name).is_some_and(|r| r.starts_with('.'))
        {
            remove_if_there(disk, &at)?;
        }
    }
    disk.sync_dir(DIR)?;
    remove_if_there(disk, &format!("{DIR}/{begun}"))?;
    disk.sync_dir(DIR)
}

/// Ends all deletions that were begun. To be called where [`delete`] may be.
pub fn finish_deletions(disk: &dyn Disk) -> io::Result<()> {
    for file in disk.list(DIR)? {
        if let Some(name) = file.strip_suffix(".deleting") {
            finish_deletion(disk, name)?;
        }
    }
    Ok(())
}

/// Bytes by which a file shrinks at a time while it goes: a file system may take long to let go of a large one at once.
const SWEPT_AT_ONCE: u64 = 256 << 20;

/// Gives back the space of what was deleted. May run at the same time as anything else.
pub fn sweep(disk: &dyn Disk) -> io::Result<()> {
    let mut files = disk.list(DIR)?;
    files.retain(|file| file.ends_with(".deleted"));
    for file in &files {
        let at = format!("{DIR}/{file}");
        let bytes = match disk.open(&at) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        let mut left = bytes.size()?;
        while left > SWEPT_AT_ONCE {
            left -= SWEPT_AT_ONCE;
            bytes.truncate(left)?;
        }
        remove_if_there(disk, &at)?;
    }
    if files.is_empty() { Ok(()) } else { disk.sync_dir(DIR) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::MemDisk;

    fn request() -> Request {
        Request {
            cause: Cause::Divergent,
            epoch: Epoch(4),
            from: Lsn(100),
            to: Lsn(105),
            epochs: vec![Epoch(4)],
            records: 1,
            reason: "for the test".into(),
            wall_ms: 9,
        }
    }

    fn put(disk: &MemDisk, content: &[u8]) -> io::Result<Archive> {
        write(disk, &request(), &mut |sink| {
            let (a, b) = content.split_at(2);
            sink(a)?;
            sink(b)
        })
    }

    #[test]
    fn an_archive_is_listed_with_its_bytes_and_never_replaced() {
        let disk = MemDisk::new();
        let first = put(&disk, b"hello").unwrap();
        assert_eq!(put(&disk, b"hello").unwrap(), first);
        let second = put(&disk, b"world").unwrap();
        assert_ne!(first.name, second.name);
        let after = disk.crash(1);
        assert_eq!(list(&after).unwrap().len(), 2);
        assert_eq!(after.files()["set-aside/4-100-105.log"], b"hello");
    }

    #[test]
    fn killed_at_any_step_the_next_attempt_completes() {
        for steps in 0..8 {
            for seed in 0..20 {
                let disk = MemDisk::new();
                disk.stop_after(Some(steps));
                let first = put(&disk, b"hello");
                let disk = disk.crash(seed);
                if first.is_ok() {
                    assert_eq!(list(&disk).unwrap().len(), 1);
                }
                put(&disk, b"hello").unwrap();
                let disk = disk.crash(seed + 1);
                let archives = list(&disk).unwrap();
                assert_eq!(archives.len(), 1);
                assert_eq!(disk.files()[&format!("{DIR}/{}.log", archives[0].name)], b"hello");
            }
        }
    }

    #[test]
    fn a_deletion_that_dies_at_any_step_leaves_an_archive_that_is_whole_or_none_and_is_ended_later() {
        for steps in 0..16 {
            for seed in 0..20 {
                let disk = MemDisk::new();
                put(&disk, b"hello").unwrap();
                let other = put(&disk, b"world").unwrap();
                disk.create("set-aside/4-100-105.restored").unwrap();
                disk.sync_dir(DIR).unwrap();
                disk.stop_after(Some(steps));
                let deleted = delete(&disk, "4-100-105");
                let disk = disk.crash(seed);
                let names: Vec<_> = list(&disk).unwrap().into_iter().map(|archive| archive.name).collect();
                if names.len() == 2 {
                    assert!(deleted.is_err(), "it came back");
                    assert_eq!(disk.files()["set-aside/4-100-105.log"], b"hello");
                    continue;
                }
                assert_eq!(names, [other.name.as_str()]);
                // Equal bytes that are set aside now are not taken for those that go, and stay.
                let again = seed % 2 == 0;
                if again {
                    put(&disk, b"hello").unwrap();
                }
                finish_deletions(&disk).unwrap();
                sweep(&disk).unwrap();
                let disk = disk.crash(seed);
                let files = disk.files();
                let left: Vec<_> =
                    files.keys().filter(|name| name.starts_with("set-aside/4-100-105.")).collect();
                if again {
                    assert_eq!(
                        left,
                        ["set-aside/4-100-105.json", "set-aside/4-100-105.log"],
                        "{steps} {seed}"
                    );
                    assert_eq!(files["set-aside/4-100-105.log"], b"hello");
                } else {
                    assert!(left.is_empty(), "{left:?}");
                }
                assert_eq!(files[&format!("set-aside/{}.log", other.name)], b"world");
            }
        }
    }

    #[test]
    fn what_does_not_exist_is_not_deleted() {
        let disk = MemDisk::new();
        assert_eq!(delete(&disk, "4-100-105").unwrap(), None);
        put(&disk, b"hello").unwrap();
        assert!(delete(&disk, "4-100-105").unwrap().is_some());
        assert_eq!(delete(&disk, "4-100-105").unwrap(), None);
        sweep(&disk).unwrap();
        assert!(disk.files().keys().all(|name| !name.starts_with(DIR)), "{:?}", disk.files().keys());
    }
}
