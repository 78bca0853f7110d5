//! The flight recorder of a running agent: when a recording is written, where, and how many are kept.
//!
//! The core's thread only fills memory and hands it over; this module's own thread does everything that
//! touches a disk. A recording is written some time after a change of role that nobody planned, so that
//! the aftermath is in it, when the core panics, and when an operator asks. A disk that is full or does
//! not answer costs a warning and never a heartbeat.

use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::TrySendError;
use std::time::Duration;

use holdfast_heartbeat::{Epoch, NodeId, Role, Time};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::log_thread::wall_ms;
use super::mailbox::{Receiver, Sender, channel};
use crate::flight::{self, Origin, Recorder, Recording};
use crate::node::Node;
use crate::node::effect::Effect;
use crate::node::event::Event;
use crate::node::transition::{Cause, Transition};

/// From an unplanned change of role to the writing: long enough for a takeover and what follows it.
const AFTERMATH: Duration = Duration::from_secs(2);
/// Between two recordings that nobody asked for. It doubles with each, up to the longest, so that a
/// member that flaps all night neither fills a disk nor writes over the night's beginning.
const SPACING: Duration = Duration::from_secs(30);
const LONGEST_SPACING: Duration = Duration::from_secs(3600);
/// Recordings that are kept, at 4 MiB each at most.
const KEPT: usize = 8;
/// Free bytes without which nothing is recorded.
const ROOM: u64 = 32 << 20;
/// Recordings that wait for the disk.
const WAITING: usize = 1;
const SUFFIX: &str = ".flight";
/// A recording that is being written; one that was cut off is removed with the next.
const UNFINISHED: &str = ".unfinished";

/// A recording that was written.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Written {
    /// Where, on the agent's host.
    pub path: PathBuf,
    /// How large.
    pub bytes: u64,
    /// In words.
    pub message: String,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The configuration says so.
    #[error(
        "the flight recorder is off: `flight_recorder = false` in the `ha` block of this member's configuration"
    )]
    Off,
    /// The disk has not taken the one before yet.
    #[error("another recording is still being written; try again in a moment")]
    Busy,
    /// The disk refused.
    #[error("the recording cannot be written to {path}: {error}; nothing else is affected")]
    Io {
        /// The directory.
        path: String,
        /// What the system says.
        error: io::Error,
    },
}

/// Who waits for a recording.
pub type Reply = oneshot::Sender<Result<Written, RecordError>>;

struct Job {
    recording: Recording,
    why: String,
    epoch: Epoch,
    at: Time,
    wall_ms: u64,
    reply: Option<Reply>,
}

/// The core's side: records each step and decides when to write.
pub struct FlightRecorder {
    ring: Recorder,
    jobs: Sender<Job>,
    /// A recording is to be written at this moment, for this reason.
    due: Option<(Time, String)>,
    epoch: Epoch,
    last: Option<Time>,
    spacing: Duration,
    now: Time,
}

impl FlightRecorder {
    /// Before the core is told something.
    pub fn before(&mut self, node: &Node, now: Time, event: &Event) {
        self.now = now;
        self.ring.before(node, now, event);
    }

    /// After it.
    pub fn after(&mut self, effects: &[Effect]) {
        self.ring.after(effects);
        for effect in effects {
            if let Effect::Report(transition) = effect {
                self.heed(transition);
            }
        }
    }

    /// When the effects of a step are on their way: hands a recording to the disk's thread if it is time.
    pub fn hand_over_if_due(&mut self, node: &Node) {
        if self.due.as_ref().is_some_and(|(at, _)| self.now >= *at) {
            self.look_at(node, self.now);
            self.hand_over();
        }
    }

    /// An operator asks for a recording now.
    pub fn record_now(&mut self, node: &Node, now: Time, reply: Reply) {
        self.look_at(node, now);
        let job = self.job("an operator asked for it".to_owned(), Some(reply));
        if let Err(refused) = self.jobs.try_send(job, WAITING) {
            let (TrySendError::Full(job) | TrySendError::Disconnected(job)) = refused;
            if let Some(reply) = job.reply {
                let _ = reply.send(Err(RecordError::Busy));
            }
        }
    }

    fn look_at(&mut self, node: &Node, now: Time) {
        self.now = now.max(self.now);
        self.epoch = self.epoch.max(node.view(self.now).epoch);
    }

    fn heed(&mut self, transition: &Transition) {
        self.epoch = self.epoch.max(transition.epoch);
        if !unplanned(transition) {
            return;
        }
        let quiet = self.last.is_none_or(|last| self.now.since(last) > LONGEST_SPACING);
        if quiet {
            self.spacing = SPACING;
        }
        let earliest = self.last.map_or(Time::ZERO, |last| last + self.spacing);
        let at = earliest.max(self.now + AFTERMATH);
        self.due.get_or_insert_with(|| (at, transition.reason.clone()));
    }

    fn hand_over(&mut self) {
        let Some((_, why)) = self.due.take() else { return };
        let job = self.job(why.clone(), None);
        match self.jobs.try_send(job, WAITING) {
            Ok(()) => {
                if self.last.is_some() {
                    self.spacing = (self.spacing * 2).min(LONGEST_SPACING);
                }
                self.last = Some(self.now);
            }
            // The disk is busy with the one before: later, then. What matters stays in memory for minutes.
            Err(_) => self.due = Some((self.now + AFTERMATH, why)),
        }
    }

    fn job(&self, why: String, reply: Option<Reply>) -> Job {
        Job {
            recording: self.ring.recording(),
            why,
            epoch: self.epoch,
            at: self.now,
            wall_ms: wall_ms(),
            reply,
        }
    }
}

impl Drop for FlightRecorder {
    /// The core ends. What is due is written now, and above all the step that it panicked in.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.due = Some((self.now, "the core panicked".to_owned()));
        }
        self.hand_over();
    }
}

/// A change of role that somebody may want to know more about than its reason.
fn unplanned(transition: &Transition) -> bool {
    let reigned = matches!(transition.from, Role::Promoting | Role::Primary | Role::HandingOver);
    match transition.cause {
        Cause::PrimarySilent
        | Cause::PrimaryDied
        | Cause::OperatorForced
        | Cause::LeaseLapsed
        | Cause::StoodStill
        | Cause::Superseded
        | Cause::HandoverFailed
        | Cause::PromotionFailed
        | Cause::NotPrepared
        | Cause::DiskFailed
        | Cause::DiskStalled
        | Cause::ChecksFailed
        | Cause::Late
        | Cause::LinksFailed
        | Cause::GateLost => true,
        Cause::OtherPrimary => reigned,
        _ => false,
    }
}

/// Starts the thread that writes. The receiver ends when everything is written after the recorder's end.
pub fn spawn(
    state_dir: &Path,
    node: NodeId,
    told: impl Fn(Result<String, String>) + Send + 'static,
) -> io::Result<(FlightRecorder, Receiver<()>)> {
    let (jobs, receiver) = channel::<Job>();
    let (alive, ended) = channel::<()>();
    let dir = state_dir.join("flight");
    std::thread::Builder::new().name("recorder".into()).spawn(move || {
        let _alive = alive;
        let build = std::sync::OnceLock::new();
        while let Ok(job) = receiver.recv() {
            let origin = Origin {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                build: *build.get_or_init(build_of_this_program),
                node: node.to_string(),
                why: job.why,
                wall_ms: job.wall_ms,
                at: job.at,
            };
            let written = write(&dir, &job.recording, &origin, job.epoch)
                .map_err(|error| RecordError::Io { path: dir.display().to_string(), error });
            match (job.reply, written) {
                (Some(reply), written) => drop(reply.send(written)),
                (None, Ok(written)) => told(Ok(written.message)),
                (None, Err(error)) => told(Err(error.to_string())),
            }
        }
    })?;
    let recorder = FlightRecorder {
        ring: Recorder::new(),
        jobs,
        due: None,
        epoch: Epoch::ZERO,
        last: None,
        spacing: SPACING,
        now: Time::ZERO,
    };
    Ok((recorder, ended))
}

fn write(dir: &Path, recording: &Recording, origin: &Origin, epoch: Epoch) -> io::Result<Written> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    for old in names(dir, UNFINISHED)? {
        fs::remove_file(dir.join(old))?;
    }
    // No colons: the name is an argument of scp and friends.
    let when = super::history::rfc3339(origin.wall_ms).replace(':', "-");
    let name = format!("{when}-epoch-{epoch}{SUFFIX}");
    let (path, beside) = (dir.join(&name), dir.join(format!("{name}{UNFINISHED}")));
    // Votes and in-sync records are written beside: the last of the room is theirs.
    let disk = nix::sys::statvfs::statvfs(dir)?;
    if disk.blocks_available() * disk.fragment_size() < ROOM {
        return Err(io::Error::new(
            io::ErrorKind::StorageFull,
            format!("less than {} MiB are free, and those are kept for the votes", ROOM >> 20),
        ));
    }
    let bytes = save(&beside, recording, origin).inspect_err(|_| drop(fs::remove_file(&beside)))?;
    fs::rename(&beside, &path)?;
    // The names begin with the wall time: their order is that of the writing, unless the clock was set back.
    let mut all = names(dir, SUFFIX)?;
    all.sort_by_key(|other| (*other <= name, other.clone()));
    let surplus = all.len().saturating_sub(KEPT);
    for old in all.into_iter().take(surplus).filter(|old| *old != name) {
        fs::remove_file(dir.join(old))?;
    }
    let message = format!(
        "the last minutes of this member are recorded ({}); see: holdfast ha replay {}",
        origin.why,
        path.display()
    );
    Ok(Written { path, bytes, message })
}

/// Writes one file. Returns its length in bytes.
fn save(path: &Path, recording: &Recording, origin: &Origin) -> io::Result<u64> {
    let file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path)?;
    let mut out = BufWriter::new(file);
    flight::write(recording, origin, &mut out)?;
    out.flush()?;
    Ok(out.get_ref().metadata()?.len())
}

fn names(dir: &Path, suffix: &str) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        if let Ok(name) = entry?.file_name().into_string()
            && name.ends_with(suffix)
        {
            found.push(name);
        }
    }
    Ok(found)
}

/// CRC-32C of the running program's file: two builds of one version need not decide the same. Zero where
/// it cannot be read.
pub fn build_of_this_program() -> u32 {
    let sum = || -> io::Result<u32> {
        // By the inode that runs: an upgrade may have put another file under the name.
        let mut file = fs::File::open("/proc/self/exe")?;
        let (mut crc, mut block) = (0, vec![0; 1 << 16]);
        loop {
            match file.read(&mut block)? {
                0 => return Ok(crc),
                n => crc = crc32c::crc32c_append(crc, &block[..n]),
            }
        }
    };
    sum().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flight::tests::newborn;

    fn transition(from: Role, cause: Cause, to: Role) -> Transition {
        Transition { from, to, cause, reason: format!("{cause:?}"), epoch: Epoch(3), peer: None }
    }

    fn spawned(dir: &Path) -> (FlightRecorder, Receiver<()>, Receiver<Result<String, String>>) {
        let (tell, told) = channel();
        let (recorder, ended) =
            spawn(dir, NodeId::new("a").unwrap(), move |outcome| drop(tell.send(outcome))).unwrap();
        (recorder, ended, told)
    }

    /// The effects of a step, without the step.
    fn at(recorder: &mut FlightRecorder, now: Duration, effects: &[Effect]) {
        recorder.now = Time::ZERO + now;
        recorder.after(effects);
        recorder.hand_over_if_due(&newborn());
    }

    const LAPSED: (Role, Cause, Role) = (Role::Primary, Cause::LeaseLapsed, Role::Standby);

    fn report((from, cause, to): (Role, Cause, Role)) -> [Effect; 1] {
        [Effect::Report(transition(from, cause, to))]
    }

    #[test]
    fn an_unplanned_change_is_written_after_its_aftermath_and_a_planned_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (mut recorder, ended, told) = spawned(dir.path());
        let second = Duration::from_secs(1);
        at(&mut recorder, second, &report((Role::Primary, Cause::OperatorOrder, Role::HandingOver)));
        assert!(recorder.due.is_none());
        at(&mut recorder, 10 * second, &report(LAPSED));
        at(&mut recorder, 11 * second, &[]);
        assert!(recorder.due.is_some(), "the aftermath is not over");
        at(&mut recorder, 12 * second, &[]);
        assert!(recorder.due.is_none());
        let message = told.recv().unwrap().unwrap();
        assert!(message.contains("LeaseLapsed") && message.contains("-epoch-3.flight"), "{message}");
        drop(recorder);
        ended.recv().unwrap_err();
        assert!(told.recv().is_err(), "one change, one recording");
    }

    #[test]
    fn a_member_that_flaps_writes_ever_more_seldom() {
        let dir = tempfile::tempdir().unwrap();
        let (mut recorder, _ended, told) = spawned(dir.path());
        let mut written = 0;
        for second in 0..3600 {
            at(&mut recorder, Duration::from_secs(1000 + second), &report(LAPSED));
            if recorder.last == Some(recorder.now) {
                told.recv().unwrap().unwrap();
                written += 1;
            }
        }
        assert!((6..=10).contains(&written), "{written}");
        // After a quiet hour the next one is as good as the first.
        at(&mut recorder, Duration::from_secs(20_000), &report(LAPSED));
        at(&mut recorder, Duration::from_secs(20_002), &[]);
        told.recv().unwrap().unwrap();
    }

    #[test]
    fn the_newest_are_kept_and_nothing_unfinished() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("flight");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join(format!("x{SUFFIX}{UNFINISHED}")), "cut off").unwrap();
        fs::write(dir.join("notes.txt"), "somebody's").unwrap();
        let mut paths = Vec::new();
        for n in 0..KEPT as u64 + 3 {
            let origin = Origin {
                version: String::new(),
                build: 0,
                node: "a".into(),
                why: "test".into(),
                wall_ms: 1_700_000_000_000 + n,
                at: Time(n),
            };
            paths.push(write(&dir, &Recording::default(), &origin, Epoch(n)).unwrap().path);
        }
        let mut left: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        left.sort();
        let mut expected = paths.split_off(3);
        expected.push(dir.join("notes.txt"));
        assert_eq!(left, expected);
    }

    #[test]
    fn a_disk_that_refuses_costs_a_warning() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("flight"), "no directory").unwrap();
        let (mut recorder, _ended, told) = spawned(dir.path());
        let (reply, answer) = oneshot::channel();
        recorder.record_now(&newborn(), Time(5), reply);
        let error = answer.blocking_recv().unwrap().unwrap_err();
        assert!(matches!(error, RecordError::Io { .. }), "{error}");
        at(&mut recorder, Duration::from_secs(1), &report(LAPSED));
        at(&mut recorder, Duration::from_secs(3), &[]);
        let warning = told.recv().unwrap().unwrap_err();
        assert!(warning.contains("nothing else is affected"), "{warning}");
    }

    #[test]
    fn a_core_that_panics_leaves_its_recording_behind() {
        let dir = tempfile::tempdir().unwrap();
        let (recorder, ended, told) = spawned(dir.path());
        let core = std::thread::spawn(move || {
            let _recorder = recorder;
            panic!("as expected by the test");
        });
        core.join().unwrap_err();
        ended.recv().unwrap_err();
        assert!(told.recv().unwrap().unwrap().contains("the core panicked"));
    }
}
