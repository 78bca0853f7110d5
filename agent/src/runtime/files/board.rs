//! What `replication status`, `ha status` and the metrics show of the replicated files.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::aside::Kept;

/// Most paths that are named in one list.
pub(super) const MOST_NAMED: usize = 20;

/// A path with which something is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// Which.
    pub path: String,
    /// Why.
    pub why: String,
}

/// The files of one `sync_files` block.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SetStatus {
    /// The block's label.
    pub name: String,
    /// The paths of this member's configuration.
    pub paths: Vec<String>,
    /// Files, directories and links of it that the log has.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// When the log was last told of a change of it.
    pub last_change: Option<String>,
    /// The same, in milliseconds since 1970.
    pub last_change_ms: Option<u64>,
    /// Paths at which this disk does not have what the log has.
    pub behind: u64,
    /// Paths that could not be placed, or written to the log.
    pub failed: u64,
    /// The first of them.
    pub failures: Vec<Named>,
    /// Paths of this host that are not written to the log.
    pub left_out: u64,
    /// The first of them.
    pub left_out_paths: Vec<Named>,
    /// Copies of files that were edited here and written over.
    pub kept_aside: u64,
    /// The newest of them.
    pub kept: Vec<Kept>,
    /// Changes placed here since the agent began.
    pub placed: u64,
    /// Changes of this host written to the log since the agent began.
    pub captured: u64,
    /// What the last run of a hook that failed said; absent where the last one went well.
    pub hook: Option<String>,
    /// What else is not as it should be, in words.
    pub problem: Option<String>,
}

/// The replicated files of this member.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FilesStatus {
    /// `reading` while this member's files are written to the log, `placing` while the log's are put in place here,
    /// `waiting` while there is no primary.
    pub state: String,
    /// The blocks, in the order of the configuration.
    pub sets: Vec<SetStatus>,
    /// Sets that the log has and this configuration does not name.
    pub unnamed: Vec<String>,
    /// Times that the kernel had more changes to tell than there was room: each was followed by a look at everything.
    pub overflows: u64,
}

impl FilesStatus {
    /// What needs a person's attention.
    pub fn warnings(&self) -> Vec<String> {
        let mut out = Vec::new();
        for set in &self.sets {
            let name = &set.name;
            if let Some(first) = set.failures.first() {
                out.push(format!(
                    "sync_files {name}: {} of {} paths cannot be replicated here, first {}: {}",
                    set.failed,
                    set.files.max(set.failed),
                    first.path,
                    first.why
                ));
            }
            if let Some(first) = set.left_out_paths.first() {
                out.push(format!(
                    "sync_files {name}: {} path(s) are left out and would be missing after a failover, first {}: {}",
                    set.left_out, first.path, first.why
                ));
            }
            out.extend(set.hook.iter().map(|said| format!("sync_files {name}: {said}")));
            out.extend(set.problem.iter().map(|problem| format!("sync_files {name}: {problem}")));
        }
        out
    }
}

/// Shared by who does the work and who shows it. Clones are the same board.
#[derive(Clone, Default)]
pub struct Board(Arc<Mutex<FilesStatus>>);

impl Board {
    pub(super) fn new(names: impl Iterator<Item = (String, Vec<String>)>) -> Board {
        let sets = names.map(|(name, paths)| SetStatus { name, paths, ..SetStatus::default() }).collect();
        let status = FilesStatus { state: "waiting".to_owned(), sets, ..FilesStatus::default() };
        Board(Arc::new(Mutex::new(status)))
    }

    /// As it is now.
    pub fn read(&self) -> FilesStatus {
        self.0.lock().clone()
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut FilesStatus)) {
        change(&mut self.0.lock());
    }

    pub(super) fn of_set(&self, set: usize, change: impl FnOnce(&mut SetStatus)) {
        if let Some(status) = self.0.lock().sets.get_mut(set) {
            change(status);
        }
    }
}
