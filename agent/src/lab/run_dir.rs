//! Where a lab keeps its hosts' disks and logs, and how a later one finds or removes it.
//!
//! Each lab has a directory of its own under one of the user's. It holds a lock on it for as long as it
//! lives, however it ends; a directory that nobody has locked is a leftover, and is removed at the next start.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::unistd::geteuid;

use super::privilege::outer_uid;

const LOCK: &str = "lock";
const CONTROL: &str = "control";

/// The directory of one lab.
pub(super) struct RunDir {
    path: PathBuf,
    keep: bool,
    _lock: File,
}

impl RunDir {
    /// Removes what earlier labs of this user left and makes a directory for this one.
    pub(super) fn create() -> Result<RunDir> {
        RunDir::create_in(&base())
    }

    fn create_in(base: &Path) -> Result<RunDir> {
        make_private(base)?;
        for entry in fs::read_dir(base)?.flatten() {
            remove_leftover(&entry.path());
        }
        let path = base.join(std::process::id().to_string());
        make_private(&path)?;
        let lock = File::create(path.join(LOCK))?;
        lock.try_lock().with_context(|| format!("lock {}", path.display()))?;
        Ok(RunDir { path, keep: false, _lock: lock })
    }

    /// The directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the running lab listens for `lab exec` and `lab fault`.
    pub(super) fn control(&self) -> PathBuf {
        self.path.join(CONTROL)
    }

    /// Leaves the directory behind for somebody to read the logs, until the next lab starts.
    pub(super) fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if !self.keep {
            // Whatever cannot be removed now is a leftover for the next start.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// The directory under which this user's labs are.
fn base() -> PathBuf {
    let named = std::env::var_os("HOLDFAST_LAB_DIR").map(PathBuf::from);
    named.unwrap_or_else(|| std::env::temp_dir().join(format!("holdfast-lab-{}", outer_uid())))
}

/// Makes `dir` for this user alone. In a directory that all may write to, somebody else might have been first.
fn make_private(dir: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            return Err(e).with_context(|| format!("make {}", dir.display()));
        }
        _ => {}
    }
    let found = fs::symlink_metadata(dir)?;
    if !found.is_dir() || found.uid() != geteuid().as_raw() {
        bail!("{} belongs to somebody else; set HOLDFAST_LAB_DIR to a directory of yours", dir.display());
    }
    Ok(())
}

fn remove_leftover(path: &Path) {
    // Only what looks like a lab's directory is touched.
    let numbered = path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.parse::<u32>().is_ok());
    let Ok(lock) = File::open(path.join(LOCK)) else { return };
    if numbered && !matches!(lock.try_lock(), Err(TryLockError::WouldBlock)) {
        let _ = fs::remove_dir_all(path);
    }
}

/// Connects to the lab that is up.
pub(super) fn connect() -> Result<UnixStream> {
    let base = base();
    let entries = fs::read_dir(&base).into_iter().flatten().flatten();
    let mut found = entries.filter_map(|entry| UnixStream::connect(entry.path().join(CONTROL)).ok());
    let first = found
        .next()
        .context("no lab is up. Start one in another terminal with `holdfast lab up` (as the same user)")?;
    if found.next().is_some() {
        bail!("several labs are up; give each a directory of its own with HOLDFAST_LAB_DIR");
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leftover_is_removed_and_a_living_lab_is_not() {
        let base = std::env::temp_dir().join(format!("holdfast-run-dir-test-{}", std::process::id()));
        make_private(&base).unwrap();
        let (dead, alive, foreign) = (base.join("1"), base.join("2"), base.join("notes"));
        for dir in [&dead, &alive, &foreign] {
            fs::create_dir(dir).unwrap();
            File::create(dir.join(LOCK)).unwrap();
        }
        let lock = File::open(alive.join(LOCK)).unwrap();
        lock.try_lock().unwrap();
        let own = RunDir::create_in(&base).unwrap();
        assert!(!dead.exists() && alive.exists() && foreign.exists() && own.path().exists());
        let path = own.path().to_owned();
        drop(own);
        assert!(!path.exists());
        fs::remove_dir_all(base).unwrap();
    }
}
