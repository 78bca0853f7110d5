//! `member.json` in the state directory: the promise, the vote and the in-sync set, on disk before
//! anything that follows from them is said.
//!
//! A file is replaced as a whole: written beside, synced, renamed, and the directory synced; a crash
//! leaves the old one or the new one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use holdfast_heartbeat::{Incarnation, NodeId};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::mailbox::{Sender, channel};
use crate::node::hard_state::HardState;

/// The newest format that this build knows: a record in it says who votes.
const FORMAT: u32 = 2;
/// As before that. It is written while nobody wrote down who votes, so that an older release can go on from it.
const WITHOUT_VOTERS: u32 = 1;
/// A process that was killed may still be ending when its successor starts.
const LOCK_WITHIN: Duration = Duration::from_secs(1);
/// The wait before a write that failed is tried again.
pub const RETRY_AFTER: Duration = Duration::from_millis(250);

/// What stands in the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StateFile {
    /// The format's version.
    pub format: u32,
    /// Whose state this is.
    pub node_id: NodeId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// What must not be forgotten.
    pub hard: HardState,
}

impl StateFile {
    /// Reads the file's `text`, which must be the state of `me`; `path` is for messages.
    ///
    /// # Errors
    /// Not a state, or not of this member, or not of this version.
    pub fn parse(path: &str, text: &str, me: &NodeId) -> Result<StateFile, StateError> {
        let damaged = |error: String| StateError::Damaged { path: path.to_owned(), error };
        let state: StateFile = serde_json::from_str(text).map_err(|error| damaged(error.to_string()))?;
        if state.format > FORMAT {
            return Err(StateError::LaterFormat { path: path.to_owned(), found: state.format });
        }
        if state.node_id != *me {
            let (found, wanted) = (state.node_id, me.clone());
            return Err(StateError::OtherMember { path: path.to_owned(), found, wanted });
        }
        if let Some(what) = state.hard.beyond_bounds() {
            return Err(damaged(format!("its {what} is greater than any that this software counts to")));
        }
        Ok(state)
    }

    /// The file's bytes.
    ///
    /// # Errors
    /// None that are known: all of it is plain data.
    pub fn encode(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec_pretty(self)
    }
}

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Belongs to another member.
    #[error(
        "{path} is the state of member {found}, and this one is {wanted}; a member keeps its name. \
         Set node_id = \"{found}\", or give this member a state_dir of its own"
    )]
    OtherMember {
        /// The file.
        path: String,
        /// Whose it is.
        found: NodeId,
        /// Whose it should be.
        wanted: NodeId,
    },
    /// Written by a later version.
    #[error("{path} has format {found} and this version knows {FORMAT}; install the version that wrote it")]
    LaterFormat {
        /// The file.
        path: String,
        /// Its format.
        found: u32,
    },
    /// Not readable as what it should be.
    #[error(
        "{path} is damaged ({error}); the votes of this member are lost. Move the file away to let the member \
         rejoin as a new one (holdfast ha reset), which is compared with the primary and brought up to date"
    )]
    Damaged {
        /// The file.
        path: String,
        /// What the parser says.
        error: String,
    },
    /// Another agent runs.
    #[error("{path} is in use by another agent; one member runs once. See: systemctl status holdfast")]
    InUse {
        /// The directory.
        path: String,
    },
    /// The disk refused.
    #[error("{path}: {error}")]
    Io {
        /// The file or directory.
        path: String,
        /// What the system says.
        error: io::Error,
    },
}

/// The place of the file.
#[derive(Clone, Debug)]
pub struct StateDir {
    dir: PathBuf,
    /// Held for as long as anybody may write here.
    _lock: Arc<Flock<File>>,
}

impl StateDir {
    /// Opens the directory, making it if need be.
    pub fn open(dir: &Path) -> Result<StateDir, StateError> {
        let failed = |error| StateError::Io { path: dir.display().to_string(), error };
        fs::create_dir_all(dir).map_err(failed)?;
        // Two agents with one state would vote twice.
        let file = File::create(dir.join("lock")).map_err(failed)?;
        let begun = Instant::now();
        let mut file = Some(file);
        let lock = loop {
            let open = file.take().expect("given back after each attempt");
            match Flock::lock(open, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => break lock,
                Err((open, _)) if begun.elapsed() < LOCK_WITHIN => {
                    file = Some(open);
                    std::thread::sleep(LOCK_WITHIN / 50);
                }
                Err(_) => return Err(StateError::InUse { path: dir.display().to_string() }),
            }
        };
        Ok(StateDir { dir: dir.to_owned(), _lock: Arc::new(lock) })
    }

    /// The path of `name` in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// What was written last, or `None` in a new directory.
    pub fn read(&self, me: &NodeId) -> Result<Option<StateFile>, StateError> {
        let path = self.path("member.json");
        let shown = path.display().to_string();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StateError::Io { path: shown, error }),
        };
        StateFile::parse(&shown, &text, me).map(Some)
    }

    /// Replaces the file.
    pub fn write(&self, node_id: &NodeId, incarnation: Incarnation, hard: &HardState) -> io::Result<()> {
        let says = hard.record.as_ref().is_some_and(|record| record.voters.is_some());
        let format = if says || hard.voters_proposed.is_some() { FORMAT } else { WITHOUT_VOTERS };
        let state = StateFile { format, node_id: node_id.clone(), incarnation, hard: hard.clone() };
        replace(&self.dir, "member.json", &state.encode().map_err(io::Error::other)?)
    }

    /// Puts the file out of the way, durably, so that the member comes back as a new one; where it is kept.
    pub fn forget(&self) -> io::Result<PathBuf> {
        let ms = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis());
        let kept = self.path(&format!("member.json.reset-{ms}"));
        fs::rename(self.path("member.json"), &kept)?;
        File::open(&self.dir)?.sync_all()?;
        Ok(kept)
    }
}

/// Replaces the file `name` in `dir` by one with `bytes`, durably.
pub fn replace(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let beside = dir.join(format!("{name}.new"));
    let mut file = File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, dir.join(name))?;
    File::open(dir)?.sync_all()
}

/// A thread that writes the newest state it was given and says which one it was.
///
/// Several states that came while one was being written become one write. While writes fail nothing is
/// said to be written, so no vote is sent; each failure is reported.
pub fn spawn_writer(
    dir: StateDir,
    node_id: NodeId,
    incarnation: Incarnation,
    written: impl Fn(u64) + Send + 'static,
    failed: impl Fn(io::Error) + Send + 'static,
) -> io::Result<Sender<(u64, HardState)>> {
    let (sender, receiver) = channel::<(u64, HardState)>();
    std::thread::Builder::new().name("state".into()).spawn(move || {
        let mut waiting: Option<(u64, HardState)> = None;
        loop {
            // What could not be written is tried again until it can, or until something newer comes.
            let next = match &waiting {
                None => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(_) => receiver.recv_timeout(RETRY_AFTER),
            };
            match next {
                Ok(newer) => waiting = Some(newer),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            while let Ok(newer) = receiver.try_recv() {
                waiting = Some(newer);
            }
            let Some((token, state)) = &waiting else { continue };
            match dir.write(&node_id, incarnation, state) {
                Ok(()) => {
                    written(*token);
                    waiting = None;
                }
                Err(error) => failed(error),
            }
        }
    })?;
    Ok(sender)
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_heartbeat::Epoch;

    fn name(text: &str) -> NodeId {
        NodeId::new(text).unwrap()
    }

    #[test]
    fn what_was_written_is_read_back_and_belongs_to_its_member() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(&dir.path().join("deep/er")).unwrap();
        assert!(state.read(&name("a")).unwrap().is_none());
        let hard = HardState { epoch: Epoch(7), ..HardState::default() };
        state.write(&name("a"), Incarnation(3), &hard).unwrap();
        let read = state.read(&name("a")).unwrap().unwrap();
        assert_eq!((read.hard, read.incarnation), (hard, Incarnation(3)));
        let error = state.read(&name("b")).unwrap_err().to_string();
        assert!(error.contains("member a") && error.contains("node_id = \"a\""), "{error}");
    }

    #[test]
    fn one_state_has_one_agent() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateDir::open(dir.path()).unwrap();
        assert!(matches!(StateDir::open(dir.path()), Err(StateError::InUse { .. })));
        drop(first);
        StateDir::open(dir.path()).unwrap();
    }

    #[test]
    fn a_damaged_file_is_an_error_that_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        state.write(&name("a"), Incarnation(3), &HardState::default()).unwrap();
        let path = state.path("member.json");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, &text[..text.len() / 2]).unwrap();
        let error = state.read(&name("a")).unwrap_err().to_string();
        assert!(error.contains("damaged") && error.contains("Move the file away"), "{error}");
        // Such an epoch leaves no room for the next one, and a heartbeat with it would be dropped by everybody.
        fs::write(&path, text.replace("\"epoch\": 0", &format!("\"epoch\": {}", u64::MAX))).unwrap();
        let error = state.read(&name("a")).unwrap_err().to_string();
        assert!(error.contains("damaged") && error.contains("epoch"), "{error}");
        fs::write(&path, text.replace("\"format\": 1", "\"format\": 9")).unwrap();
        assert!(matches!(state.read(&name("a")).unwrap_err(), StateError::LaterFormat { found: 9, .. }));
    }

    #[test]
    fn the_writer_answers_for_the_newest_state_only_after_it_is_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let (done, written) = channel();
        let sender = spawn_writer(
            state.clone(),
            name("a"),
            Incarnation(1),
            move |token| done.send(token).unwrap(),
            |e| panic!("{e}"),
        )
        .unwrap();
        for token in 1..=20 {
            sender.send((token, HardState { epoch: Epoch(token), ..HardState::default() })).unwrap();
        }
        let mut last = 0;
        while last < 20 {
            last = written.recv().unwrap();
            assert!(state.read(&name("a")).unwrap().unwrap().hard.epoch >= Epoch(last));
        }
    }
}
