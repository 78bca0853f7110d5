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
use super::spoken::{quoted, this_command, this_program};

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

/// Names the directory under which labs are, or, for whoever talks to one, that of a single lab.
const LAB_DIR: &str = "HOLDFAST_LAB_DIR";

/// The directory under which this user's labs are.
fn base() -> PathBuf {
    let named = std::env::var_os(LAB_DIR).map(PathBuf::from);
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
        bail!("{} belongs to somebody else; set {LAB_DIR} to a directory of yours", dir.display());
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
    connect_in(&base(), this_command)
}

/// Connects to the lab in `dir`, or to the only one under it. `command` is what a person types to come here.
fn connect_in(dir: &Path, command: impl Fn() -> String) -> Result<UnixStream> {
    if let Ok(stream) = UnixStream::connect(dir.join(CONTROL)) {
        return Ok(stream);
    }
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let connected = |path: PathBuf| Some((UnixStream::connect(path.join(CONTROL)).ok()?, path));
    let mut found: Vec<(UnixStream, PathBuf)> = entries.filter_map(connected).collect();
    if found.len() > 1 {
        found.sort_by(|(_, a), (_, b)| a.cmp(b));
        let mut text = "several labs are up. Say which one is meant:".to_owned();
        for (_, path) in &found {
            text.push_str(&format!("\n  {LAB_DIR}={} {}", quoted(&path.to_string_lossy()), command()));
        }
        bail!(text);
    }
    let only = found.pop();
    let (stream, _) = only.with_context(|| {
        format!(
            "no lab is up. Start one in another terminal with `{} lab up` (as the same user)",
            this_program()
        )
    })?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn among_several_labs_the_error_names_the_command_for_each() {
        let base = tempfile::tempdir().unwrap();
        let command = || "holdfast lab fault a heal".to_owned();
        let refused = connect_in(base.path(), command).unwrap_err().to_string();
        assert!(refused.starts_with("no lab is up."), "{refused}");

        let lab = |name: &str| {
            let dir = base.path().join(name);
            fs::create_dir(&dir).unwrap();
            (UnixListener::bind(dir.join(CONTROL)).unwrap(), dir)
        };
        let (_first, first_dir) = lab("11");
        connect_in(base.path(), command).unwrap();
        let (_second, second_dir) = lab("12");
        let refused = connect_in(base.path(), command).unwrap_err().to_string();
        for dir in [first_dir, second_dir] {
            let line = format!("\n  HOLDFAST_LAB_DIR={} holdfast lab fault a heal", dir.display());
            assert!(refused.contains(&line), "{refused}");
            connect_in(&dir, command).unwrap();
        }
    }

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
