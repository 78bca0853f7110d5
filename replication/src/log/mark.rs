//! The known-durable mark: the file `durable`, overwritten after each sync of the log.
//!
//! It is written and not synced, so after a power cut it may be old or gone; after anything less it
//! is exact. What it says is a lower bound in either case: bytes below it were once synced, so a bad
//! one among them is damage, while a bad one above may be the torn tail of a write that nobody
//! acknowledged.
//!
//! It also says whether this log was `behind`: whether it was sent bytes that the rest of the
//! in-sync set had committed before they were durable here. Then a record's word that earlier bytes
//! were committed does not prove that they were ever durable on this disk. That flag is made durable
//! before the first such record is written. Until it is taken back the mark is all that proves anything,
//! so it is synced after each sync of the log, and so is its taking back.

use std::io;
use std::sync::Arc;

use holdfast_heartbeat::Lsn;

use crate::disk::{Disk, DiskFile, read_all};

const NAME: &str = "durable";
const LEN: usize = 40;
const MAGIC: u64 = u64::from_le_bytes(*b"HFDURABL");

/// What the mark says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) log_id: u64,
    pub(super) durable: Lsn,
    /// The chain at `durable`.
    pub(super) chain: u32,
    /// Whether bytes may have been committed elsewhere before they were durable here.
    pub(super) behind: bool,
}

impl Mark {
    fn encode(&self) -> [u8; LEN] {
        let mut b = [0; LEN];
        b[0..8].copy_from_slice(&MAGIC.to_le_bytes());
        b[8..16].copy_from_slice(&self.log_id.to_le_bytes());
        b[16..24].copy_from_slice(&self.durable.0.to_le_bytes());
        b[24..28].copy_from_slice(&self.chain.to_le_bytes());
        b[28] = u8::from(self.behind);
        let crc = crc32c::crc32c(&b[..36]);
        b[36..40].copy_from_slice(&crc.to_le_bytes());
        b
    }

    fn parse(b: &[u8]) -> Option<Mark> {
        let b: &[u8; LEN] = b.try_into().ok()?;
        let u64_at = |at: usize| u64::from_le_bytes(b[at..at + 8].try_into().expect("eight bytes"));
        let u32_at = |at: usize| u32::from_le_bytes(b[at..at + 4].try_into().expect("four bytes"));
        if u64_at(0) != MAGIC || crc32c::crc32c(&b[..36]) != u32_at(36) {
            return None;
        }
        let (durable, chain, behind) = (Lsn(u64_at(16)), u32_at(24), b[28] != 0);
        Some(Mark { log_id: u64_at(8), durable, chain, behind })
    }
}

/// The mark's file, created when first written.
#[derive(Default)]
pub(super) struct MarkFile(Option<Arc<dyn DiskFile>>);

impl MarkFile {
    /// Opens the file and reads what it says; a mark that is torn or missing says nothing.
    pub(super) fn open(disk: &dyn Disk) -> io::Result<(MarkFile, Option<Mark>)> {
        match disk.open(NAME) {
            Ok(file) => {
                let mark = Mark::parse(&read_all(&*file, LEN as u64 + 1)?);
                Ok((MarkFile(Some(file)), mark))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok((MarkFile(None), None)),
            Err(e) => Err(e),
        }
    }

    /// Overwrites the mark, without syncing it.
    pub(super) fn write(&mut self, disk: &dyn Disk, mark: Mark) -> io::Result<()> {
        if self.0.is_none() {
            self.0 = Some(disk.create(NAME)?);
        }
        let file = self.0.as_ref().expect("made above");
        file.write_at(&mark.encode(), 0)
    }

    /// Overwrites the mark and makes it durable: before the log is cut, since a mark above the log's end would
    /// be taken for damage, before the log falls behind, and as long as it is behind.
    pub(super) fn write_through(&mut self, disk: &dyn Disk, mark: Mark) -> io::Result<()> {
        self.write(disk, mark)?;
        self.0.as_ref().expect("written above").sync_data()?;
        disk.sync_dir("")
    }
}

/// Removes the mark, durably: nothing is claimed then.
pub(super) fn remove(disk: &dyn Disk) -> io::Result<()> {
    match disk.remove(NAME) {
        Ok(()) => disk.sync_dir(""),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}
