//! A standby's log is copied anew from the primary: because it is not trusted any more, because its disk was, or because it
//! belongs to another cluster.
//!
//! The agent ends in good order and starts again as a new member (rule R3) with an empty log; what was its log waits
//! beside it until the new copy is in sync, or for ever where it may hold anything that the primary does not (rule R8).
//! What follows is what happens to every new member, and goes on by itself after whatever ends the agent.
//!
//! [`judge`] says whether that may be done now and what it means, [`steps`] does it on the disk.

pub mod judge;
pub mod steps;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_replication::replica::ReplicaStatus;
use serde::{Deserialize, Serialize};

use self::judge::{Circumstances, Plan, Wishes};
use self::steps::{Fate, Found, Marker, Phase};
use super::history::rfc3339;
use super::identity::{self, Identity};
use super::log_thread::{room_and_reserve, wall_ms};
use super::state_file::{StateDir, StateError};
use super::status::Status;
use super::{address, handle::Handle};
use crate::node::event::Declined;

/// How often it is looked whether the new copy is in sync.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why a log is not copied anew.
#[derive(Debug, thiserror::Error)]
pub enum ResyncError {
    /// It may not be, now.
    #[error("{}", .0.message)]
    Declined(Declined),
    /// The order could not be written down.
    #[error("the order could not be written to the data directory: {0}. Nothing was changed")]
    Io(#[from] std::io::Error),
}

/// A copy that is begun anew, for people and programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// How far it is.
    pub phase: Phase,
    /// When it was ordered: RFC 3339, in UTC.
    pub ordered: String,
    /// Where the old copy is; absent once it was given up.
    pub old_copy: Option<PathBuf>,
    /// What becomes of it.
    pub fate: Fate,
}

/// A copy of the log that stays beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Its directory.
    pub path: PathBuf,
    /// Bytes.
    pub bytes: u64,
}

/// What there is to say of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResyncStatus {
    /// The one that is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub under_way: Option<Shown>,
    /// Old copies that nobody but an operator deletes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<Kept>,
}

#[derive(Default)]
struct Board {
    marker: Option<Marker>,
    copies: Vec<Kept>,
}

/// Gives orders, and shows what became of them. Cheap to clone.
#[derive(Clone)]
pub struct Resync {
    data_dir: Arc<Path>,
    board: Arc<Mutex<Board>>,
    /// The agent is to start again when it has ended.
    again: Arc<AtomicBool>,
    /// Ends the agent in good order.
    end: Arc<dyn Fn() + Send + Sync>,
    /// `catch_up_rate`, here.
    rate: Option<u64>,
}

/// Takes an order up at the start, before the log is opened. What is to be said of it in the history.
pub fn take_up(
    state: &StateDir,
    identity: &mut Identity,
    data_dir: &Path,
) -> Result<Option<String>, StateError> {
    let failed = |error| StateError::Io { path: data_dir.display().to_string(), error };
    let renew = |marker: &Marker| {
        let old = marker.old_path(data_dir);
        let why = match marker.fate {
            Fate::DeletedFirst => "an operator ordered its log to be copied anew".to_owned(),
            Fate::DeletedWhenInSync | Fate::Kept => {
                format!("an operator ordered its log to be copied anew; the old one is in {}", old.display())
            }
        };
        identity::renew(state, identity, data_dir, &why).map_err(TakeUpError::State)
    };
    match steps::at_start(data_dir, address::now(), renew) {
        Ok(Found::Nothing | Found::Begins(_)) => Ok(None),
        Ok(Found::GoesOn(_)) => {
            Ok(Some("this member's log is being copied anew, and goes on where it was".to_owned()))
        }
        Ok(Found::Void) => Ok(Some(
            "the order to copy this member's log anew came to nothing: the agent did not start again in time. Nothing was changed; where it is still wanted: holdfast replication resync"
                .to_owned(),
        )),
        Err(TakeUpError::State(error)) => Err(error),
        Err(TakeUpError::Io(error)) => Err(failed(error)),
    }
}

enum TakeUpError {
    State(StateError),
    Io(std::io::Error),
}

impl From<std::io::Error> for TakeUpError {
    fn from(error: std::io::Error) -> TakeUpError {
        TakeUpError::Io(error)
    }
}

impl Resync {
    /// For the log in `data_dir`. `end` ends the agent in good order.
    ///
    /// # Errors
    /// The data directory cannot be read.
    pub fn new(
        data_dir: &Path,
        rate: Option<u64>,
        end: impl Fn() + Send + Sync + 'static,
    ) -> std::io::Result<Resync> {
        let resync = Resync {
            data_dir: data_dir.into(),
            board: Arc::default(),
            again: Arc::default(),
            end: Arc::new(end),
            rate,
        };
        resync.read_anew()?;
        Ok(resync)
    }

    fn lock(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_anew(&self) -> std::io::Result<()> {
        let marker = steps::read(&self.data_dir)?;
        let copies = steps::old_copies(&self.data_dir);
        let copies = copies.into_iter().map(|(path, bytes)| Kept { path, bytes }).collect();
        *self.lock() = Board { marker, copies };
        Ok(())
    }

    /// Whether this agent is to start again when it has ended.
    pub fn starts_again(&self) -> bool {
        self.again.load(Ordering::SeqCst)
    }

    /// What there is to say.
    pub fn status(&self) -> ResyncStatus {
        let board = self.lock();
        let old = board.marker.as_ref().map(|marker| marker.old_path(&self.data_dir));
        let under_way = board.marker.as_ref().map(|marker| Shown {
            phase: marker.phase,
            ordered: rfc3339(marker.ordered_ms),
            old_copy: old.clone().filter(|path| path.exists()),
            fate: marker.fate,
        });
        let stays = |copy: &&Kept| Some(&copy.path) != old.as_ref() && copy.path.exists();
        ResyncStatus { under_way, kept: board.copies.iter().filter(stays).cloned().collect() }
    }

    /// Whether it may be done now, and what it means. Changes nothing.
    pub fn plan(
        &self,
        status: &Status,
        log: &ReplicaStatus,
        differs: bool,
        wishes: &Wishes,
    ) -> Result<Plan, Declined> {
        let board = self.lock();
        let now = Circumstances {
            status,
            log,
            differs,
            room: room_and_reserve(&steps::log_dir(&self.data_dir)),
            rate: self.rate,
            under_way: board.marker.as_ref(),
            data_dir: &self.data_dir,
        };
        judge::plan(&now, wishes)
    }

    /// Has it done: the agent ends, and starts again to begin.
    pub fn order(
        &self,
        status: &Status,
        log: &ReplicaStatus,
        differs: bool,
        wishes: &Wishes,
    ) -> Result<Plan, ResyncError> {
        let plan = self.plan(status, log, differs, wishes).map_err(ResyncError::Declined)?;
        let marker = Marker::new(address::now(), wall_ms(), plan.old_bytes, plan.old_copy);
        {
            let mut board = self.lock();
            // Two orders at once: the first one is carried out.
            if board.marker.is_some() {
                drop(board);
                return self.plan(status, log, differs, wishes).map_err(ResyncError::Declined);
            }
            steps::write(&self.data_dir, &marker)?;
            board.marker = Some(marker);
        }
        self.again.store(true, Ordering::SeqCst);
        (self.end)();
        Ok(plan)
    }

    /// Looks until the new copy is in sync, and deletes the old one then. `note` is told of it.
    pub async fn watch(self, handle: Handle, note: impl Fn(String)) {
        let marker = self.lock().marker.clone();
        if let Some(marker) = marker {
            let data_dir = self.data_dir.clone();
            let made = tokio::task::spawn_blocking(move || steps::make_room(&data_dir, &marker)).await;
            if let Ok(Err(error)) = made {
                tracing::warn!(%error, "the old copy of the log could not be deleted to make room for the new one");
            }
        }
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let Some(marker) = self.lock().marker.clone() else { return };
            match marker.phase {
                Phase::Ordered | Phase::Moving => continue,
                Phase::Copying => {
                    let whole = handle.replication().is_some_and(|log| log.replayable);
                    let counted = handle.status().await.is_some_and(|status| status.in_sync_here);
                    if !whole || !counted {
                        continue;
                    }
                }
                Phase::Dropping => {}
            }
            let resync = self.clone();
            let finished = tokio::task::spawn_blocking(move || {
                let finished = steps::finish(&resync.data_dir, &marker);
                resync.read_anew().and(finished).map(|()| marker)
            });
            match finished.await {
                Ok(Ok(marker)) => {
                    note(over(&self.data_dir, &marker));
                    return;
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the old copy of the log cannot be deleted yet; it is tried again");
                }
                Err(_) => return,
            }
        }
    }
}

fn over(data_dir: &Path, marker: &Marker) -> String {
    let what = match marker.fate {
        Fate::Kept => format!("the old copy stays in {}", marker.old_path(data_dir).display()),
        Fate::DeletedFirst | Fate::DeletedWhenInSync => "the old copy is deleted".to_owned(),
    };
    format!("this member's log was copied anew from the primary and is in sync: {what}")
}
