//! Runs [`Thinning`] on the primary: looks whether enough of the log is garbage, and writes at a bounded pace
//! what it takes to give that up.
//!
//! Every other write goes on meanwhile: what is written here waits in the same queue, a record at a time. A
//! member that stops to be primary leaves it where it is; the next one begins anew.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_heartbeat::{Epoch, Lsn};
use holdfast_replication::RecordKind;
use holdfast_replication::replica::{Done, Wait};
use holdfast_store::backend::{ReadLog, WriteError};
use holdfast_store::index::{Index, IndexError, Lookup};
use holdfast_store::s3::Receiving;
use holdfast_store::space::plan::{self, Means};
use holdfast_store::space::{Bounds, Progress, Step, Stopped, Thinning, Told};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::address;
use super::healing::HealingReader;
use super::lease::Lease;
use super::log_thread::{LogBackend, SharedStatus, free_bytes, wall_ms};

/// How often the log is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long it waits after it could not go on.
const REST: Duration = Duration::from_secs(300);
/// How long it waits before it offers a record again that was refused for want of room.
const OFFER_AGAIN: Duration = Duration::from_millis(100);
/// How many times as long as a commit took it waits before it goes on.
const REST_OF_COMMIT: u32 = 2;
/// How long at most.
const LONGEST_REST: Duration = Duration::from_secs(1);
/// How often it offers one.
const OFFERS: u32 = 300;
/// After a look that found nothing worth giving up the log must have grown by this share of itself.
const GROWN_BY: u64 = 16;

/// How space is won back.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Whether it is done without being asked.
    pub automatic: bool,
    /// Bytes written for it in a second, at most.
    pub bytes_per_second: u64,
    /// The share of garbage at which it begins.
    pub garbage: f64,
}

/// What space the store takes, for people and programs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SpaceStatus {
    /// Bytes of the log on this disk.
    pub log_bytes: u64,
    /// Bytes in it that objects and parts have.
    pub live_bytes: u64,
    /// Bytes of the index.
    pub index_bytes: u64,
    /// What could go, in percent of the log: what is neither live nor needed to build the index anew.
    pub garbage_percent: u64,
    /// Free on this disk.
    pub free_bytes: u64,
    /// Whether space is won back without being asked, on the primary.
    pub automatic: bool,
    /// From which share of garbage on, in percent.
    pub begins_at_percent: u64,
    /// Bytes written for it in a second, at most.
    pub bytes_per_second: u64,
    /// What is under way on this member.
    pub running: Option<Running>,
    /// What came of the last time on this member.
    pub last: Option<Last>,
    /// How often it was done by this process.
    pub completed: u64,
    /// Bytes that this process won back.
    pub won_bytes: u64,
}

/// Space that is being won back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Segments that will go.
    pub segments: usize,
    /// Their bytes.
    pub segment_bytes: u64,
    /// Live bytes that were moved so far.
    pub moved_bytes: u64,
    /// Bytes of the checkpoint so far.
    pub checkpoint_bytes: u64,
}

/// A time that is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Last {
    /// When it ended: RFC 3339, in UTC.
    pub ended: String,
    /// How long it took.
    pub took_ms: u64,
    /// What came of it, in words.
    pub outcome: String,
    /// Bytes that the log is smaller by.
    pub won_bytes: u64,
}

/// Where the figures stand, and where it can be asked for.
#[derive(Clone, Default)]
pub struct SpaceBoard {
    status: Arc<Mutex<SpaceStatus>>,
    asked: Arc<Notify>,
}

impl SpaceBoard {
    /// The figures as of the last look.
    pub fn status(&self) -> SpaceStatus {
        self.lock().clone()
    }

    /// Asks that what can be won is won now.
    pub fn ask(&self) {
        self.asked.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, SpaceStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module's documentation.
pub struct Reclaimer {
    /// The store's index.
    pub index: Index,
    /// The log.
    pub reader: HealingReader,
    /// Where it is written.
    pub log: Arc<LogBackend>,
    /// The log's own figures.
    pub status: SharedStatus,
    /// Bodies that are being received.
    pub receiving: Receiving,
    /// Whether this member is primary.
    pub lease: Lease,
    /// How.
    pub settings: Settings,
    /// The disk of the log.
    pub dir: PathBuf,
    /// The size of a segment.
    pub segment_bytes: u64,
    /// Where the figures go.
    pub board: SpaceBoard,
}

/// Why it ended before its end.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("this member is not the primary any more")]
    NotPrimary,
    #[error(transparent)]
    Stopped(#[from] Stopped),
    #[error("the log does not take it: {0}")]
    Write(WriteError),
    #[error("a thread stopped")]
    Thread,
}

impl From<IndexError> for Ended {
    fn from(error: IndexError) -> Ended {
        Ended::Stopped(Stopped::Index(error))
    }
}

/// Keeps to a pace: each byte takes its time, and a pause is not made up for.
struct Pace {
    per_second: u64,
    free_at: Instant,
}

impl Pace {
    async fn spend(&mut self, bytes: u64) {
        let now = Instant::now();
        let span = Duration::from_secs_f64(bytes as f64 / self.per_second as f64);
        self.free_at = self.free_at.max(now) + span;
        tokio::time::sleep_until(self.free_at.into()).await;
    }
}

impl Reclaimer {
    /// Runs for ever.
    pub async fn run(self) {
        let this = Arc::new(self);
        let (mut rest_until, mut grown_to) = (None::<Instant>, 0);
        loop {
            let asked = tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => false,
                () = this.board.asked.notified() => true,
            };
            let Ok(due) = this.look() else { continue };
            let Some(epoch) = this.lease.held(address::now()) else { continue };
            let resting = rest_until.is_some_and(|until| Instant::now() < until);
            let log_bytes = this.board.lock().log_bytes;
            let begins = this.settings.automatic && due && !resting && log_bytes >= grown_to;
            if !asked && !begins {
                continue;
            }
            let begun = Instant::now();
            let outcome = this.reclaim(epoch, asked).await;
            rest_until = outcome.is_err().then(|| Instant::now() + REST);
            grown_to = if matches!(outcome, Ok(None)) { log_bytes + log_bytes / GROWN_BY } else { 0 };
            this.settle(log_bytes, begun, outcome);
        }
    }

    /// Takes the figures; says whether there is so much garbage that it is worth looking closer.
    fn look(&self) -> Result<bool, IndexError> {
        let log_bytes = self.status.lock().unwrap_or_else(PoisonError::into_inner).log_bytes;
        let (live, index) = (self.index.view().live_bytes()?, self.index.size_bytes());
        let checkpoint = self.checkpoint_bytes();
        let garbage = log_bytes.saturating_sub(live + checkpoint);
        let mut board = self.board.lock();
        board.log_bytes = log_bytes;
        board.live_bytes = live;
        board.index_bytes = index;
        board.garbage_percent = (garbage * 100).checked_div(log_bytes).unwrap_or(0);
        board.free_bytes = free_bytes(&self.dir).unwrap_or(0);
        board.automatic = self.settings.automatic;
        board.begins_at_percent = (self.settings.garbage * 100.0).round() as u64;
        board.bytes_per_second = self.settings.bytes_per_second;
        Ok(plan::is_due(log_bytes, live, checkpoint, self.segment_bytes, self.settings.garbage))
    }

    /// What a checkpoint takes, about: the index, which is compressed, or what the last one took.
    fn checkpoint_bytes(&self) -> u64 {
        let last = self.status.lock().unwrap_or_else(PoisonError::into_inner).checkpoint_bytes;
        self.index.size_bytes().max(last)
    }

    /// The segments that are worth giving up; none if nothing is.
    fn plan(&self, epoch: Epoch) -> Result<Option<Thinning>, IndexError> {
        let view = self.index.view();
        let applied = view.applied()?;
        let (bases, holes) = (self.reader.reader.segments(), self.reader.reader.holes());
        let untouched = self.receiving.first().unwrap_or(Lsn(u64::MAX)).min(applied);
        let ends = bases.windows(2).map(|two| holes.next(two[0]).map_or(two[1], |hole| hole.min(two[1])));
        let sealed: Vec<_> = bases.iter().copied().zip(ends).filter(|(_, end)| *end <= untouched).collect();
        let found = plan::survey(&view, &sealed)?;
        let means = Means {
            checkpoint_bytes: self.checkpoint_bytes(),
            spare_bytes: free_bytes(&self.dir).unwrap_or(0) / 2,
        };
        let chosen = plan::choose(&found, means);
        Ok((!chosen.is_empty()).then(|| Thinning::begin(epoch, &chosen, &holes, Bounds::default())))
    }

    /// Gives up what is worth it; `None` if nothing is.
    async fn reclaim(self: &Arc<Self>, epoch: Epoch, asked: bool) -> Result<Option<Progress>, Ended> {
        let this = Arc::clone(self);
        let planned =
            tokio::task::spawn_blocking(move || this.plan(epoch)).await.map_err(|_| Ended::Thread)??;
        let Some(mut thinning) = planned else { return Ok(None) };
        tracing::info!(
            asked,
            segments = thinning.progress().segments,
            bytes = thinning.progress().segment_bytes,
            "winning space back"
        );
        let mut pace = Pace { per_second: self.settings.bytes_per_second.max(1), free_at: Instant::now() };
        let (mut told, mut rest_until) = (Told::Nothing, Instant::now());
        loop {
            let this = Arc::clone(self);
            let stepping = move || {
                let step = thinning.next(told, &this.index, &this.reader as &dyn ReadLog);
                (thinning, step)
            };
            let (after, step) = tokio::task::spawn_blocking(stepping).await.map_err(|_| Ended::Thread)?;
            thinning = after;
            let Progress { segments, segment_bytes, moved_bytes, checkpoint_bytes } = thinning.progress();
            self.board.lock().running =
                Some(Running { segments, segment_bytes, moved_bytes, checkpoint_bytes });
            if self.lease.held(address::now()) != Some(epoch) {
                return Err(Ended::NotPrimary);
            }
            told = match step? {
                Step::Look => Told::Nothing,
                Step::Append(kind, payload) => {
                    tokio::time::sleep_until(rest_until.into()).await;
                    pace.spend(payload.iter().map(|part| part.len() as u64).sum()).await;
                    self.write(kind, payload, Wait::Appended).await?
                }
                Step::Commit(kind, payload) => {
                    tokio::time::sleep_until(rest_until.into()).await;
                    let begun = Instant::now();
                    let told = self.write(kind, payload, Wait::Committed).await?;
                    // Small objects weigh little and are as much work as large ones, for the thread that all wait for.
                    rest_until = Instant::now() + (begun.elapsed() * REST_OF_COMMIT).min(LONGEST_REST);
                    told
                }
                Step::Done => return Ok(Some(thinning.progress())),
            };
        }
    }

    async fn write(&self, kind: RecordKind, payload: Vec<Bytes>, wait: Wait) -> Result<Told, Ended> {
        for _ in 0..OFFERS {
            match self.log.keep_house(kind, payload.clone(), wait).await {
                Ok(Done::Appended { lsn, end }) => return Ok(Told::Appended { lsn, end }),
                Ok(Done::Committed { outcome, .. }) => return Ok(Told::Committed(outcome)),
                Err(WriteError::Overloaded) => tokio::time::sleep(OFFER_AGAIN).await,
                Err(WriteError::NotPrimary { .. }) => return Err(Ended::NotPrimary),
                Err(error) => return Err(Ended::Write(error)),
            }
        }
        Err(Ended::Write(WriteError::Overloaded))
    }

    /// Notes what came of it.
    fn settle(&self, before: u64, begun: Instant, outcome: Result<Option<Progress>, Ended>) {
        // What the log holds now shows with its next status.
        let after = self.status.lock().unwrap_or_else(PoisonError::into_inner).log_bytes;
        let done = matches!(outcome, Ok(Some(_)));
        let won_bytes = if done { before.saturating_sub(after) } else { 0 };
        let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let outcome = match outcome {
            Ok(Some(progress)) => {
                tracing::info!(won_bytes, took_ms, moved_bytes = progress.moved_bytes, "space was won back");
                format!("{} segments were given up", progress.segments)
            }
            Ok(None) => "nothing was worth giving up".to_owned(),
            Err(Ended::NotPrimary) => format!("not ended: {}", Ended::NotPrimary),
            Err(error) => {
                tracing::warn!(%error, "space could not be won back; it will be tried again");
                format!("not ended: {error}")
            }
        };
        let ended = super::history::rfc3339(wall_ms());
        let mut board = self.board.lock();
        board.running = None;
        board.log_bytes = after;
        board.completed += u64::from(done);
        board.won_bytes += won_bytes;
        board.last = Some(Last { ended, took_ms, outcome, won_bytes });
    }
}
