//! Reads the whole log in the background, at a bounded pace, so that what a disk loses is found while a peer still
//! has it; and has it put right from there.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use holdfast_heartbeat::Lsn;
use holdfast_replication::log::Walk;
use holdfast_replication::{LogError, LogReader};
use serde::{Deserialize, Serialize};

use super::healing::Healer;
use super::history::rfc3339;
use super::log_thread::wall_ms;
use super::sameness::Teller;

/// Bytes that are read in one go.
const PIECE: usize = 1024 * 1024;
/// How long it waits after an error that is not damage.
const REST: Duration = Duration::from_secs(60);
/// Damaged places that are listed.
const MOST_LISTED: usize = 16;
/// The file that remembers when the log was last read to its end.
const FILE: &str = "scrub.json";

/// How the log is read.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Bytes in a second, at most.
    pub bytes_per_second: u64,
    /// From the beginning of one pass to that of the next; `None`: only when asked.
    pub interval: Option<Duration>,
}

/// What is known of the log's soundness, for people and programs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ScrubStatus {
    /// A pass is under way.
    pub running: bool,
    /// How far it is, in percent of the log.
    pub percent: u64,
    /// Bytes that it has read.
    pub bytes: u64,
    /// Bytes in a second, at most.
    pub bytes_per_second: u64,
    /// How often a pass begins, in seconds; absent: only when asked.
    pub every_seconds: Option<u64>,
    /// When the log was last read from its beginning to its end: RFC 3339, in UTC. Across restarts.
    pub last_complete: Option<String>,
    /// The same in milliseconds since 1970.
    pub last_complete_ms: Option<u64>,
    /// Damaged places that were put right by this process.
    pub healed: u64,
    /// Damaged places that could not be put right in this pass or the one before, and why.
    pub unhealed: Vec<Unhealed>,
}

/// A damaged place that stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unhealed {
    /// Where the record begins.
    pub lsn: u64,
    /// What is wrong, and why it stays.
    pub detail: String,
}

#[derive(Default)]
struct Shared {
    status: ScrubStatus,
    asked: bool,
}

/// Where the figures stand, and where a pass can be asked for.
#[derive(Clone, Default)]
pub struct ScrubBoard {
    shared: Arc<(Mutex<Shared>, Condvar)>,
}

impl ScrubBoard {
    /// The figures.
    pub fn status(&self) -> ScrubStatus {
        self.lock().status.clone()
    }

    /// Asks for a pass now. A pass that is under way goes on.
    pub fn ask(&self) {
        self.lock().asked = true;
        self.shared.1.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a pass is asked for, `span` at most; says whether one is.
    fn wait(&self, span: Duration) -> bool {
        let waiting = self.shared.1.wait_timeout_while(self.lock(), span, |shared| !shared.asked);
        let (mut shared, _) = waiting.unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut shared.asked)
    }
}

/// One reading of the log from its beginning to its end.
struct Pass {
    /// Bytes that were read.
    bytes: u64,
    /// When the pace allows to read on.
    free_at: Instant,
    /// Where the walk broke off last.
    suspect: Option<Lsn>,
    /// Where healing last said that the place is sound.
    healed: Option<Lsn>,
    unhealed: Vec<Unhealed>,
}

impl Pass {
    fn new() -> Self {
        Self { bytes: 0, free_at: Instant::now(), suspect: None, healed: None, unhealed: Vec::new() }
    }
}

#[derive(Serialize, Deserialize)]
struct Remembered {
    last_complete_ms: u64,
}

/// See the module's documentation.
pub struct Scrubber {
    reader: LogReader,
    healer: Healer,
    teller: Teller,
    settings: Settings,
    file: PathBuf,
    board: ScrubBoard,
}

/// Starts the thread. `dir` is the data directory.
pub fn spawn(
    reader: LogReader,
    healer: Healer,
    teller: Teller,
    settings: Settings,
    dir: &Path,
    board: ScrubBoard,
) -> std::io::Result<()> {
    let scrubber = Scrubber { reader, healer, teller, settings, file: dir.join(FILE), board };
    std::thread::Builder::new().name("scrub".into()).spawn(move || scrubber.run())?;
    Ok(())
}

impl Scrubber {
    fn run(self) {
        let remembered = std::fs::read(&self.file).ok();
        let remembered = remembered.and_then(|bytes| serde_json::from_slice::<Remembered>(&bytes).ok());
        {
            let mut shared = self.board.lock();
            shared.status.bytes_per_second = self.settings.bytes_per_second;
            shared.status.every_seconds = self.settings.interval.map(|interval| interval.as_secs());
            if let Some(Remembered { last_complete_ms }) = remembered {
                shared.status.last_complete = Some(rfc3339(last_complete_ms));
                shared.status.last_complete_ms = Some(last_complete_ms);
            }
        }
        loop {
            // An hour at most, so that a clock that was set is noticed.
            let due = self.due_in().unwrap_or(Duration::from_secs(3600)).min(Duration::from_secs(3600));
            if !self.board.wait(due) && self.due_in() != Some(Duration::ZERO) {
                continue;
            }
            self.pass();
        }
    }

    /// How long until the next pass; `None` where none is to come.
    fn due_in(&self) -> Option<Duration> {
        let interval = self.settings.interval?;
        let Some(last) = self.board.lock().status.last_complete_ms else { return Some(Duration::ZERO) };
        let now = wall_ms();
        // A pass that lies in the future was noted by a clock that was wrong.
        let since = if now < last { interval } else { Duration::from_millis(now - last) };
        Some(interval.saturating_sub(since))
    }

    /// Reads everything once.
    fn pass(&self) {
        let begun = wall_ms();
        {
            let mut shared = self.board.lock();
            shared.status.running = true;
            (shared.status.percent, shared.status.bytes) = (0, 0);
        }
        self.teller.begin();
        let (mut pass, mut from) = (Pass::new(), Lsn::ZERO);
        while let Some(end) = self.segments_from(from, &mut pass) {
            from = end;
        }
        self.teller.end();
        let Pass { bytes, unhealed, .. } = pass;
        let mut shared = self.board.lock();
        shared.status.running = false;
        shared.status.percent = 100;
        let complete = rfc3339(begun);
        tracing::info!(
            bytes,
            healed = shared.status.healed,
            unhealed = unhealed.len(),
            "the log was read through"
        );
        shared.status.last_complete = Some(complete);
        shared.status.last_complete_ms = Some(begun);
        shared.status.unhealed = unhealed;
        drop(shared);
        let text = serde_json::to_vec(&Remembered { last_complete_ms: begun }).unwrap_or_default();
        if let Err(error) = std::fs::write(&self.file, text) {
            tracing::warn!(%error, file = %self.file.display(), "the time of the scrub cannot be remembered");
        }
    }

    /// Reads on until something is damaged, and has it put right. Where to go on; `None` at the end.
    fn segments_from(&self, from: Lsn, pass: &mut Pass) -> Option<Lsn> {
        let mut walk: Option<Walk> = None;
        loop {
            let next = match &walk {
                None => self.reader.walk_from(from),
                Some(walk) => self.reader.walk_on(walk, PIECE),
            };
            let before = walk.as_ref().map_or(from, Walk::lsn);
            match next {
                Ok(Some(next)) => {
                    if let Some(last) = walk.as_ref().filter(|last| last.segment() != next.segment()) {
                        self.teller.tell(last.sum());
                    }
                    self.spend(next.lsn().0.saturating_sub(before.0).min(4 * PIECE as u64), pass);
                    walk = Some(next);
                }
                Ok(None) => {
                    walk.iter().for_each(|last| self.teller.tell(last.sum()));
                    return None;
                }
                Err(LogError::Damaged { lsn, detail }) => return self.mend(lsn, &detail, from, pass),
                // It was given up meanwhile: its neighbours are looked up anew.
                Err(LogError::Gone { next, .. }) => return Some(next),
                Err(error) => {
                    tracing::warn!(%error, "the log cannot be read through; it is tried again");
                    std::thread::sleep(REST);
                    return Some(self.segment_of(before));
                }
            }
        }
    }

    fn segment_of(&self, lsn: Lsn) -> Lsn {
        let bases = self.reader.segments();
        let after = bases.partition_point(|base| *base <= lsn);
        after.checked_sub(1).map_or(Lsn::ZERO, |i| bases[i])
    }

    /// Has it put right, and goes on in the same segment; where that fails, with the next one.
    fn mend(&self, lsn: Lsn, detail: &str, from: Lsn, pass: &mut Pass) -> Option<Lsn> {
        let segment = self.segment_of(lsn);
        if pass.suspect.replace(lsn) != Some(lsn) {
            // The end of the log may have been cut and written anew under the walk: a second look tells.
            return Some(segment.max(from));
        }
        let healed = match pass.healed {
            Some(before) if before == lsn => Err("it was put right, and is damaged still".to_owned()),
            _ => self.healer.heal(lsn),
        };
        match healed {
            Ok(()) => {
                pass.healed = Some(lsn);
                self.board.lock().status.healed += 1;
                Some(segment.max(from))
            }
            Err(why) => {
                tracing::error!(%lsn, reason = detail, %why, "the log is damaged, and could not be healed");
                if pass.unhealed.len() < MOST_LISTED {
                    pass.unhealed.push(Unhealed { lsn: lsn.0, detail: format!("{detail}; {why}") });
                }
                self.board.lock().status.unhealed.clone_from(&pass.unhealed);
                Some(segment + 1)
            }
        }
    }

    /// Keeps to the pace, and shows how far it is.
    fn spend(&self, read: u64, pass: &mut Pass) {
        pass.bytes += read;
        let kept = self.reader.end().0.saturating_sub(self.reader.holes().bytes());
        {
            let mut shared = self.board.lock();
            shared.status.bytes = pass.bytes;
            shared.status.percent = (pass.bytes * 100).checked_div(kept).unwrap_or(100).min(99);
        }
        let now = Instant::now();
        pass.free_at = pass.free_at.max(now)
            + Duration::from_secs_f64(read as f64 / self.settings.bytes_per_second as f64);
        std::thread::sleep(pass.free_at.saturating_duration_since(now));
    }
}
