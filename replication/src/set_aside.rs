//! Archives of bytes that are about to leave the log (rule R8).
//!
//! An archive is `set-aside/<name>.log` with the bytes verbatim and, written last, the manifest
//! `set-aside/<name>.json`. Both are durable before [`write`] returns, and only then may anyone cut.
//! Whoever is killed on the way leaves the log uncut and an archive without manifest, which the next
//! attempt overwrites; an archive with a manifest is never changed.

use std::io;

use holdfast_heartbeat::{Epoch, Lsn};
use serde::{Deserialize, Serialize};

use crate::disk::{Disk, read_all};

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
}
