//! Remembers over the agent's own death which hook was running.
//!
//! Decides that a hook is run at most once for a change of role: one that an agent's death cut short is
//! never run again by the next life, which says so instead. The note is not synced: after a power cut the
//! processes are gone as well, and no life before this one can have left anything half done in memory.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The file in the state directory.
const FILE: &str = "hook-running.json";

/// A hook that is running.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Its name.
    pub hook: String,
    /// On which event.
    pub event: String,
    /// In which epoch.
    pub epoch: u64,
    /// Since when, by the wall clock, for people.
    pub since: String,
}

/// The note of the running hook.
pub struct Journal {
    path: PathBuf,
}

impl Journal {
    /// The journal in `state_dir`, and what an earlier life left in it, which is forgotten thereby.
    pub fn open(state_dir: &Path) -> (Journal, Option<Running>) {
        let journal = Journal { path: state_dir.join(FILE) };
        let left = std::fs::read(&journal.path).ok();
        let left = left.and_then(|text| serde_json::from_slice(&text).ok());
        journal.over();
        (journal, left)
    }

    /// A hook begins.
    pub fn begins(&self, running: &Running) {
        let text = serde_json::to_vec(running).expect("plain data");
        if let Err(error) = std::fs::write(&self.path, text) {
            tracing::warn!(%error, path = %self.path.display(), "a running hook cannot be noted; if the agent dies now, its next life will not say so");
        }
    }

    /// It is over.
    pub fn over(&self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_that_was_cut_short_is_reported_once() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, left) = Journal::open(dir.path());
        assert_eq!(left, None);
        let running =
            Running { hook: "x".into(), event: "primary".into(), epoch: 7, since: "2026-01-01".into() };
        journal.begins(&running);
        let (journal, left) = Journal::open(dir.path());
        assert_eq!(left, Some(running.clone()));
        journal.begins(&running);
        journal.over();
        assert_eq!(Journal::open(dir.path()).1, None);
    }

    #[test]
    fn a_torn_note_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), b"{\"hook\":").unwrap();
        assert_eq!(Journal::open(dir.path()).1, None);
    }
}
