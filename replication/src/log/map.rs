//! The map of what is gone: the file `map`, there once anything is.
//!
//! It is durable before the first file that it lists goes, and replaced as a whole. A file that lies in a
//! hole is one whose removal a crash interrupted, and goes when the log is opened.

use std::io;

use holdfast_heartbeat::{Epoch, Lsn};
use serde::{Deserialize, Serialize};

use super::LogError;
use crate::disk::{Disk, read_all};
use crate::segment::{base_of, file_name};
use crate::space::{Checkpoint, Holes};

const NAME: &str = "map";
const DRAFT: &str = "map.draft";
const MAGIC: [u8; 8] = *b"HFMAP\0\0\x01";
/// Larger ones are not ours, in bytes: a million reigns and holes fit.
const MAX_LEN: u64 = 64 * 1024 * 1024;

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Map {
    pub(super) log_id: u64,
    pub(super) holes: Holes,
    /// What a replay begins with.
    pub(super) checkpoint: Checkpoint,
    /// The reigns that began before the last hole's end: the records that say so may be gone.
    pub(super) history: Vec<(Epoch, Lsn)>,
    /// All of the log is given up, and is being removed.
    pub(super) abandoned: bool,
}

impl Map {
    /// Reads the file; `None` where nothing is gone.
    pub(super) fn read(disk: &dyn Disk) -> Result<Option<Map>, LogError> {
        let doing = "reading the map of what is gone";
        let bytes = match disk.open(NAME) {
            Ok(file) => read_all(&*file, MAX_LEN).map_err(|source| LogError::Io { doing, source })?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(LogError::Io { doing, source }),
        };
        let map = bytes
            .strip_prefix(&MAGIC)
            .and_then(|rest| rest.split_last_chunk::<4>())
            .filter(|(_, crc)| crc32c::crc32c(&bytes[..bytes.len() - 4]) == u32::from_le_bytes(**crc))
            .and_then(|(body, _)| postcard::from_bytes(body).ok());
        map.map(Some).ok_or_else(|| LogError::Damaged {
            lsn: Lsn::ZERO,
            detail: "the map of what is gone cannot be read".into(),
        })
    }

    /// Replaces the file, durably.
    pub(super) fn write(&self, disk: &dyn Disk) -> io::Result<()> {
        let mut bytes = MAGIC.to_vec();
        bytes = postcard::to_extend(self, bytes).map_err(io::Error::other)?;
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        let file = disk.create(DRAFT)?;
        file.write_at(&bytes, 0)?;
        file.sync_data()?;
        disk.rename(DRAFT, NAME)?;
        disk.sync_dir("")
    }

    /// Removes the files that lie in holes, first ones first, or all if the log is given up. Returns how
    /// many there were.
    pub(super) fn sweep(&self, disk: &dyn Disk) -> io::Result<usize> {
        let mut gone = 0;
        for base in disk.list("")?.iter().filter_map(|name| base_of(name)) {
            if self.abandoned || self.holes.at(base).is_some() {
                disk.remove(&file_name(base))?;
                gone += 1;
            }
        }
        Ok(gone)
    }

    /// Removes the file itself, durably.
    pub(super) fn remove(disk: &dyn Disk) -> io::Result<()> {
        match disk.remove(NAME) {
            Ok(()) => disk.sync_dir(""),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        }
    }
}
