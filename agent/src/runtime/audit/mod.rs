//! The audit trail: who asked this member for what, when, from where, and what came of it.
//!
//! ```text
//!   chain.rs  a line, its hash, and what a sequence of lines proves
//!   file.rs   the files: appended, synced, rotated, verified
//!   mod.rs    the thread that writes them, and the bound on what strangers may cause
//! ```
//!
//! Whoever has something to tell hands it over and goes on: the thread `audit` alone waits for the disk. A disk
//! that is full or does not answer costs a warning, and lines once too many wait; never an order, and never a
//! failover. What got lost is counted, and the next line that is written says how much it was. No line ever holds
//! a secret: tokens and keys are not handed over.

pub mod chain;
pub mod file;

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use self::chain::{Head, Record, Sealed, Verified, bounded};
use self::file::{SHOWN, Trail};
use super::address::now;
use super::history::wall_time;

/// Things that wait for the disk. A person gives orders by the minute.
const WAITING: usize = 1024;
/// A disk that refused is asked again after this time.
const AGAIN: Duration = Duration::from_secs(5);
/// Refused attempts that are written down in a minute; the others are counted.
const REFUSALS_PER_MINUTE: u32 = 20;
const MINUTE: Duration = Duration::from_secs(60);
/// How long an agent that ends waits for its last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

/// What was done or tried, as far as whoever tells it knows.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    /// See [`Record::by`].
    pub by: String,
    /// See [`Record::from`].
    pub from: Option<String>,
    /// See [`Record::claimed`].
    pub claimed: Option<String>,
    /// See [`Record::action`].
    pub action: String,
    /// See [`Record::detail`].
    pub detail: Option<String>,
    /// What came of it.
    pub outcome: Outcome,
    /// See [`Record::message`].
    pub message: Option<String>,
}

impl Entry {
    /// Something that the agent did by itself.
    pub fn of_agent(action: &str, detail: impl Into<String>) -> Entry {
        Entry {
            by: "the agent".to_owned(),
            action: action.to_owned(),
            detail: Some(detail.into()),
            ..Entry::default()
        }
    }
}

/// What came of something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// It was carried out.
    #[default]
    Done,
    /// The caller may not, or the member declined; nothing was changed.
    Refused,
    /// It was tried in vain.
    Failed,
    /// Nobody waited for the answer, or none came in time.
    Unknown,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Outcome::Done => "done",
            Outcome::Refused => "refused",
            Outcome::Failed => "failed",
            Outcome::Unknown => "unknown",
        }
    }
}

/// What the API shows of the trail.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Shown {
    /// The newest lines, oldest first.
    pub records: Vec<Sealed>,
    /// Where the chain stands.
    pub head: Head,
    /// Things that could not be written down since the agent started.
    pub lost: u64,
    /// What a check of all files said, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub verified: Option<Verified>,
}

/// The audit trail of this member. Cheap to clone.
#[derive(Clone)]
pub struct Audit(Arc<Inner>);

struct Inner {
    node: String,
    dir: Option<PathBuf>,
    epoch: AtomicU64,
    lost: AtomicU64,
    refusals: Mutex<Refusals>,
    shown: Mutex<(VecDeque<Sealed>, Head)>,
    /// Held by whoever writes or verifies the files.
    files: Mutex<Option<Trail>>,
    sender: Mutex<Option<SyncSender<Job>>>,
}

enum Job {
    Write(Box<Record>),
    End(Sender<()>),
}

/// Refused attempts of this minute.
struct Refusals {
    began: Instant,
    written: u32,
    unwritten: u64,
}

impl Refusals {
    /// Whether one more may be written down; gives how many of the minute before were not.
    fn admit(&mut self, at: Instant) -> (bool, u64) {
        let before = self.roll(at);
        let admitted = self.written < REFUSALS_PER_MINUTE;
        if admitted {
            self.written += 1;
        } else {
            self.unwritten += 1;
        }
        (admitted, before)
    }

    /// How many of a minute that is over were not written down.
    fn roll(&mut self, at: Instant) -> u64 {
        if at.saturating_duration_since(self.began) < MINUTE {
            return 0;
        }
        self.began = at;
        self.written = 0;
        std::mem::take(&mut self.unwritten)
    }
}

impl Default for Audit {
    /// One that is kept in memory alone.
    fn default() -> Audit {
        Audit::new(String::new(), None, None, VecDeque::new())
    }
}

impl Audit {
    fn new(node: String, dir: Option<PathBuf>, trail: Option<Trail>, shown: VecDeque<Sealed>) -> Audit {
        let head = trail.as_ref().map_or_else(Head::default, |trail| trail.head().clone());
        Audit(Arc::new(Inner {
            node,
            dir,
            epoch: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            refusals: Mutex::new(Refusals { began: Instant::now(), written: 0, unwritten: 0 }),
            shown: Mutex::new((shown, head)),
            files: Mutex::new(trail),
            sender: Mutex::new(None),
        }))
    }

    /// Opens the trail in `dir`, without a thread: each entry is written, and waited for, by whoever tells it.
    ///
    /// # Errors
    /// The trail cannot be read, or not be written.
    pub fn open(dir: &Path, node: &str) -> io::Result<Audit> {
        let (trail, shown, torn) = Trail::open(dir)?;
        let audit = Audit::new(node.to_owned(), Some(dir.to_owned()), Some(trail), shown);
        if torn > 0 {
            audit.tell(Entry::of_agent("torn", format!("{torn} bytes of an unfinished line were taken off")));
        }
        Ok(audit)
    }

    /// Opens the trail in `dir` and starts the thread that writes it. Where it cannot be written, it lives in
    /// memory and in the journal.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn spawn(dir: &Path, node: &str) -> io::Result<Audit> {
        let audit = Audit::open(dir, node).unwrap_or_else(|error| {
            tracing::warn!(%error, path = %dir.display(), "the audit trail is kept in memory and in the journal only");
            Audit::new(node.to_owned(), Some(dir.to_owned()), None, VecDeque::new())
        });
        let (sender, jobs) = sync_channel(WAITING);
        *audit.0.sender.lock() = Some(sender);
        let writer = audit.clone();
        std::thread::Builder::new().name("audit".into()).spawn(move || writer.write_until_told(&jobs))?;
        Ok(audit)
    }

    /// Notes the epoch that the following entries are of.
    pub fn note_epoch(&self, epoch: u64) {
        self.0.epoch.fetch_max(epoch, Ordering::Relaxed);
    }

    /// Hands an entry over. Never waits for the disk where there is a thread.
    pub fn tell(&self, entry: Entry) {
        let record = Box::new(self.record(entry));
        let sender = self.0.sender.lock().clone();
        match sender.map(|sender| sender.try_send(Job::Write(record.clone()))) {
            None => {
                if self.write((*record).clone()).and_then(|()| self.sync()).is_err() {
                    self.lose(&record);
                }
            }
            Some(Ok(())) => {}
            Some(Err(TrySendError::Full(_) | TrySendError::Disconnected(_))) => self.lose(&record),
        }
    }

    /// Hands over an attempt of somebody who may not: within a bound, so that nobody can fill the disk.
    pub fn tell_refused(&self, entry: Entry) {
        let (admitted, before) = self.0.refusals.lock().admit(Instant::now());
        self.tell_unwritten(before);
        if admitted {
            self.tell(entry);
        }
    }

    fn tell_unwritten(&self, count: u64) {
        if count > 0 {
            let message = format!("{count} more attempts were refused in that minute");
            let entry = Entry {
                outcome: Outcome::Refused,
                message: Some(message),
                ..Entry::of_agent("refusals", "")
            };
            self.tell(Entry { detail: None, ..entry });
        }
    }

    /// The newest `limit` lines.
    pub fn shown(&self, limit: usize) -> Shown {
        let shown = self.0.shown.lock();
        let skip = shown.0.len().saturating_sub(limit);
        let records = shown.0.iter().skip(skip).cloned().collect();
        let lost = self.0.lost.load(Ordering::Relaxed);
        Shown { records, head: shown.1.clone(), lost, verified: None }
    }

    /// Checks every line of every file. Takes as long as reading them does.
    ///
    /// # Errors
    /// The files cannot be read.
    pub fn verify(&self) -> io::Result<Verified> {
        let dir = self.0.dir.as_ref().ok_or_else(|| io::Error::other("this trail is in memory alone"))?;
        // Nothing is rotated meanwhile.
        let _files = self.0.files.lock();
        file::verify(dir)
    }

    /// Whether the agent before this one said that it ends. Also where there was none.
    pub fn last_ended_in_order(&self) -> bool {
        let shown = self.0.shown.lock();
        let mut ends = shown.0.iter().rev().map(|sealed| sealed.record.action.as_str());
        ends.find(|action| ["start", "stop"].contains(action)).is_none_or(|last| last == "stop")
    }

    /// Waits, for a second at most, until all that was told is written. What is told later is written by
    /// whoever tells it.
    pub fn close(&self) {
        let Some(sender) = self.0.sender.lock().take() else { return };
        let (done, ended) = channel();
        if sender.try_send(Job::End(done)).is_ok() {
            let _ = ended.recv_timeout(LAST_LINES);
        }
    }

    fn record(&self, entry: Entry) -> Record {
        Record {
            seq: 0,
            at: wall_time(),
            uptime_ms: now().0 / 1_000_000,
            node: self.0.node.clone(),
            by: bounded(&entry.by),
            from: entry.from.as_deref().map(bounded),
            claimed: entry.claimed.as_deref().map(bounded),
            action: bounded(&entry.action),
            detail: entry.detail.as_deref().map(bounded),
            outcome: entry.outcome.word().to_owned(),
            message: entry.message.as_deref().map(bounded),
            epoch: self.0.epoch.load(Ordering::Relaxed),
            prev: String::new(),
        }
    }

    fn write_until_told(&self, jobs: &Receiver<Job>) {
        let mut waiting: VecDeque<Record> = VecDeque::new();
        let mut warned = false;
        loop {
            let mut end = None;
            match jobs.recv_timeout(if waiting.is_empty() { MINUTE } else { AGAIN }) {
                Ok(Job::Write(record)) => waiting.push_back(*record),
                Ok(Job::End(done)) => end = Some(done),
                Err(RecvTimeoutError::Timeout) => {
                    let before = self.0.refusals.lock().roll(Instant::now());
                    self.tell_unwritten(before);
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
            // Many lines, one sync.
            while end.is_none() {
                match jobs.try_recv() {
                    Ok(Job::Write(record)) => waiting.push_back(*record),
                    Ok(Job::End(done)) => end = Some(done),
                    Err(_) => break,
                }
            }
            while let Some(record) = waiting.front() {
                match self.write(record.clone()) {
                    Ok(()) => {
                        waiting.pop_front();
                        warned = false;
                    }
                    Err(error) => {
                        if !std::mem::replace(&mut warned, true) {
                            tracing::warn!(target: "audit", %error, "the audit trail cannot be written; it is tried again, and nothing else waits for it");
                        }
                        break;
                    }
                }
            }
            while waiting.len() > WAITING {
                if let Some(record) = waiting.pop_front() {
                    self.lose(&record);
                }
            }
            if let Err(error) = self.sync() {
                tracing::warn!(target: "audit", %error, "the audit trail cannot be synced");
            }
            if let Some(done) = end {
                let _ = done.send(());
                return;
            }
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.0.files.lock().as_ref().map_or(Ok(()), Trail::sync)
    }

    /// Appends one, shows it and tells the journal of it; also how many before it were lost.
    fn write(&self, mut record: Record) -> io::Result<()> {
        let lost = self.0.lost.load(Ordering::Relaxed);
        if lost > 0 && record.action != "lost" && !self.said_lost(lost) {
            let of_lost =
                Entry::of_agent("lost", format!("{lost} entries since the start could not be written down"));
            self.write(self.record(of_lost))?;
        }
        let sealed = match &mut *self.0.files.lock() {
            Some(trail) => trail.append(record)?,
            None => {
                let shown = self.0.shown.lock();
                record.seq = shown.1.seq + 1;
                record.prev.clone_from(&shown.1.hash);
                let (_, hash) = chain::seal(&record).map_err(io::Error::other)?;
                Sealed { record, hash }
            }
        };
        journal(&sealed);
        let mut shown = self.0.shown.lock();
        shown.1 = Head { seq: sealed.record.seq, hash: sealed.hash.clone() };
        shown.0.push_back(sealed);
        if shown.0.len() > SHOWN {
            shown.0.pop_front();
        }
        Ok(())
    }

    /// Whether the trail says already that so many were lost.
    fn said_lost(&self, lost: u64) -> bool {
        let said = format!("{lost} entries");
        let of_lost = |sealed: &&Sealed| sealed.record.action == "lost";
        let shown = self.0.shown.lock();
        let last = shown.0.iter().rev().find(of_lost).and_then(|sealed| sealed.record.detail.as_deref());
        last.is_some_and(|detail| detail.starts_with(&said))
    }

    fn lose(&self, record: &Record) {
        self.0.lost.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(target: "audit", action = record.action, by = record.by, outcome = record.outcome, "not in the audit trail, whose disk does not keep up");
    }
}

/// The same in the journal, which other hosts may keep too: with the number and the hash, by which the files can be
/// held to it.
fn journal(sealed: &Sealed) {
    let Record { seq, by, from, claimed, action, detail, outcome, message, epoch, .. } = &sealed.record;
    let hash = &sealed.hash;
    let [from, claimed, detail, message] =
        [from, claimed, detail, message].map(|text| text.as_deref().unwrap_or_default());
    tracing::info!(target: "audit", seq, by, from, claimed, action, detail, outcome, message, epoch, hash, "audit");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(action: &str) -> Entry {
        Entry { by: "a test".into(), action: action.into(), ..Entry::default() }
    }

    #[test]
    fn what_is_told_is_on_disk_when_the_trail_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::spawn(dir.path(), "a").unwrap();
        audit.note_epoch(7);
        for n in 0..100 {
            audit.tell(entry(&format!("order {n}")));
        }
        audit.close();
        audit.tell(entry("too late"));
        let verified = file::verify(dir.path()).unwrap();
        assert!(verified.intact && verified.lines >= 100, "{verified:?}");
        let again = Audit::open(dir.path(), "a").unwrap().shown(usize::MAX);
        assert_eq!(
            (again.records[99].record.action.as_str(), again.records[99].record.epoch),
            ("order 99", 7)
        );
        assert_eq!(again.lost, 0);
    }

    #[test]
    fn refused_attempts_are_bounded_and_their_number_is_kept() {
        let mut refusals = Refusals { began: Instant::now(), written: 0, unwritten: 0 };
        let begin = refusals.began;
        let written = (0..1000).filter(|_| refusals.admit(begin).0).count();
        assert_eq!(written, REFUSALS_PER_MINUTE as usize);
        assert_eq!(refusals.admit(begin + MINUTE), (true, 1000 - u64::from(REFUSALS_PER_MINUTE)));
        let audit = Audit::default();
        for _ in 0..1000 {
            audit.tell_refused(entry("promote"));
        }
        assert_eq!(audit.shown(usize::MAX).records.len(), REFUSALS_PER_MINUTE as usize);
    }

    #[test]
    fn a_disk_that_refuses_costs_no_order_and_the_trail_goes_on_when_it_takes_again() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        std::fs::create_dir(&state).unwrap();
        let audit = Audit::open(&state, "a").unwrap();
        audit.tell(entry("before"));
        // A file that takes no byte stands for a disk that is full.
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let kept = audit.0.files.lock().as_mut().map(|trail| trail.exchange_file(full));
        audit.tell(entry("during"));
        assert_eq!(audit.shown(9).records.len(), 1, "it was told, and nobody waited");
        audit.0.files.lock().as_mut().unwrap().exchange_file(kept.unwrap());
        audit.tell(entry("after"));
        let verified = audit.verify().unwrap();
        assert!(verified.intact && verified.lines == 3, "{verified:?}");
        let actions: Vec<_> = audit.shown(9).records.into_iter().map(|sealed| sealed.record.action).collect();
        assert_eq!(actions, ["before", "lost", "after"], "how much is missing is written down");
    }
}
