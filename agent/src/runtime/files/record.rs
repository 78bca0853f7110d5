//! What was last the same in the log and on this disk, kept across restarts: with it an edit of this host is told
//! from a copy that is merely old.
//!
//! It may be lost, or older than what was done: then more is kept aside than need be, and nothing is lost.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use holdfast_heartbeat::{Epoch, Lsn};
use serde::{Deserialize, Serialize};

use super::tree::Outside;

/// The version of the file's form.
const VERSION: u32 = 1;

/// Of one path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// The operation of the log with which the disk agreed.
    pub id: Lsn,
    /// What lay there then; absent where nothing did.
    pub print: Option<String>,
    /// What it looked like from outside, where that is enough to know it again.
    pub outside: Option<Outside>,
}

/// The reign of this member in which its disk was right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reign {
    /// Its epoch.
    pub epoch: Epoch,
    /// What the log says from there on came from this host: where the first of its reigns in a row began.
    pub since: Lsn,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Written {
    version: u32,
    /// In which life of the host that was.
    boot: String,
    reign: Option<Reign>,
    sets: BTreeMap<String, BTreeMap<String, Entry>>,
}

/// Names the life of this host since it was switched on.
fn boot() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

/// The record, and where it is kept.
pub(super) struct Record {
    path: PathBuf,
    written: Written,
    changed: bool,
}

impl Record {
    /// Reads the record in `dir`. One that cannot be read counts as lost; why is the second value.
    pub(super) fn open(dir: &Path) -> (Record, Option<String>) {
        let path = dir.join("files.json");
        let read = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice::<Written>(&bytes)
                .map_err(|error| error.to_string())
                .and_then(|read| match read.version {
                    VERSION => Ok(read),
                    other => Err(format!("it has the form {other}, which this release does not know")),
                }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Written::default()),
            Err(error) => Err(error.to_string()),
        };
        let (mut written, why) = match read {
            Ok(written) => (written, None),
            Err(why) => (Written::default(), Some(format!("{}: {why}", path.display()))),
        };
        let boot = boot();
        if std::mem::replace(&mut written.boot, boot.clone()) != boot || boot.is_empty() {
            // What services had written may have been lost with the host's memory: the log has it, and is right.
            written.reign = None;
        }
        (Record { path, written, changed: false }, why)
    }

    pub(super) fn reign(&self) -> Option<Reign> {
        self.written.reign
    }

    pub(super) fn set_reign(&mut self, reign: Option<Reign>) {
        self.changed |= self.written.reign != reign;
        self.written.reign = reign;
    }

    pub(super) fn entry(&self, set: &str, path: &str) -> Option<&Entry> {
        self.written.sets.get(set)?.get(path)
    }

    pub(super) fn paths(&self, set: &str) -> Vec<String> {
        self.written.sets.get(set).map(|entries| entries.keys().cloned().collect()).unwrap_or_default()
    }

    pub(super) fn set(&mut self, set: &str, path: &str, entry: Option<Entry>) {
        if self.entry(set, path) == entry.as_ref() {
            return;
        }
        self.changed = true;
        let entries = self.written.sets.entry(set.to_owned()).or_default();
        match entry {
            Some(entry) => drop(entries.insert(path.to_owned(), entry)),
            None => drop(entries.remove(path)),
        }
    }

    /// Whether it says something else than was written down.
    pub(super) fn is_changed(&self) -> bool {
        self.changed
    }

    /// Writes it down if it changed: durable when this returns.
    pub(super) fn save(&mut self) -> io::Result<()> {
        if !self.changed {
            return Ok(());
        }
        self.written.version = VERSION;
        let temporary = self.path.with_extension("json.new");
        let mut file =
            File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(&serde_json::to_vec(&self.written).map_err(io::Error::other)?)?;
        file.sync_all()?;
        std::fs::rename(&temporary, &self.path)?;
        if let Some(dir) = self.path.parent() {
            File::open(dir)?.sync_all()?;
        }
        self.changed = false;
        Ok(())
    }
}
