//! Files of the hosts that follow the primary: `sync_files` blocks.
//!
//! ```text
//!   primary   watch ─ something changed ─> tree: look ─> decide ─> the log     standby   the log ─> decide ─> place
//! ```
//!
//! | file | |
//! |---|---|
//! | `mod.rs` | the thread: when what is looked at, and what is done about it |
//! | `decide.rs` | what is to be done about one path: pure |
//! | `tree.rs` | the directories, looked at without following a link |
//! | `place.rs` | puts a file in its place, wholly or not at all |
//! | `record.rs` | what was last the same in the log and on this disk |
//! | `aside.rs` | keeps edits of this host before they are written over |
//! | `watch.rs` | inotify |
//! | `owners.rs` | users and groups by name |
//! | `hook.rs` | `on_change` |
//! | `board.rs` | what is shown |
//!
//! A thread of its own, which may wait for any disk; the core waits for nothing here. What must hold: nothing is
//! written but what this member's own configuration names, whatever the log says; this host's files go into the log
//! only while it is primary, and only after everything that the log had was put in place.

mod aside;
mod board;
mod decide;
mod hook;
mod owners;
mod place;
mod record;
#[cfg(test)]
mod tests;
mod tree;
mod watch;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use holdfast_config::SyncFiles;
use holdfast_heartbeat::{Epoch, Lsn};
use holdfast_replication::replica::{ReplicaRole, ReplicaStatus};
use holdfast_store::backend::WriteError;
use holdfast_store::files::{FileError, FileKind, FileTraits, Files};
use holdfast_store::index::IndexError;
use holdfast_store::state::FileState;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use self::aside::Aside;
pub use self::aside::Kept;
use self::board::MOST_NAMED;
pub use self::board::{Board, FilesStatus, Named, SetStatus};
use self::decide::{Known, Said, Stance, Step, decide};
pub use self::hook::told_of;
use self::hook::{Hooks, Placed};
use self::owners::Owners;
use self::place::Wanted;
use self::record::{Entry, Record, Reign};
use self::tree::{Found, Kind, Scan, Spot, Unread};
use self::watch::{Interest, Watcher, Word};
use super::address;
use super::core::Leader;
use super::hooks::environment::Place;
use super::log_thread::{SharedStatus, wall_ms};
use super::mailbox::{Receiver, Sender, channel};
use super::report::Report;

/// A change is looked at when nothing more was changed for so long: editors write in several steps.
const SETTLED_AFTER: Duration = Duration::from_millis(100);
/// And after so long in any case.
const SETTLED_AT_LAST: Duration = Duration::from_secs(1);
/// The log is looked at for news no more often.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often a standby looks whether its log is in the present reign.
const CAUGHT_UP_EVERY: Duration = Duration::from_millis(200);
/// After a look of some length, the next one waits for this many times as long.
const REST_OF_LOOK: u32 = 4;
/// How long the records of a reign may take to be applied here, at its beginning.
const APPLIED_WITHIN: Duration = Duration::from_secs(5);
/// A takeover waits for its files for so long.
pub const PLACED_WITHIN: Duration = Duration::from_secs(15);
/// A switchover waits for the last changes for so long.
pub const FLUSHED_WITHIN: Duration = Duration::from_secs(5);
/// One file may take so long to be on every member of the in-sync set.
const WRITTEN_WITHIN: Duration = Duration::from_secs(30);
/// How many files are on their way at once, and how many bytes of them.
const AT_ONCE: usize = 16;
const BYTES_AT_ONCE: u64 = 32 << 20;
/// The log says of so many paths of a set that they are gone; beyond, it says nothing of the oldest.
const MOST_GONE: usize = 4096;
/// The record is written down no more often while this member reigns: the log knows as much.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// What reaches the thread.
enum Order {
    /// The kernel tells of a change.
    Word(Word),
    /// Something was applied.
    Applied,
    /// Whom the log follows.
    Follow(Option<Epoch>),
    /// A reign of this member begins: everything of the log is to be in its place.
    TakeOver { epoch: Epoch, reply: oneshot::Sender<TakenOver> },
    /// This member is primary.
    Begin { epoch: Epoch },
    /// The last changes are to be in the log.
    Flush { reply: oneshot::Sender<()> },
    /// It is primary no more.
    End,
}

/// What a takeover did for one set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetTakenOver {
    /// Paths that were put in place for it, or taken away.
    pub placed: Vec<String>,
    /// What could not be, in words.
    pub failures: Vec<String>,
}

/// What a takeover did, by set in the order of the configuration.
pub type TakenOver = Vec<SetTakenOver>;

/// The way to the thread. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    orders: Sender<Order>,
    /// What is shown.
    pub board: Board,
}

impl Handle {
    /// Has everything of the log put in its place, in the reign `epoch`; `None` if that took too long.
    pub async fn take_over(&self, epoch: Epoch) -> Option<TakenOver> {
        let (reply, answer) = oneshot::channel();
        let _ = self.orders.send(Order::TakeOver { epoch, reply });
        tokio::time::timeout(PLACED_WITHIN, answer).await.ok()?.ok()
    }

    /// This member is primary: its files go into the log from now on.
    pub fn begin(&self, epoch: Epoch) {
        let _ = self.orders.send(Order::Begin { epoch });
    }

    /// Has the last changes written to the log; ends when they are, or took too long.
    pub async fn flush(&self) {
        let (reply, answer) = oneshot::channel();
        let _ = self.orders.send(Order::Flush { reply });
        let _ = tokio::time::timeout(FLUSHED_WITHIN, answer).await;
    }

    /// This member is primary no more.
    pub fn end(&self) {
        let _ = self.orders.send(Order::End);
    }
}

/// What the thread is made of.
pub struct Setup {
    /// The `sync_files` blocks.
    pub sets: Vec<SyncFiles>,
    /// The log's files.
    pub files: Files,
    /// The log.
    pub status: SharedStatus,
    /// Where the record and the copies are kept.
    pub state_dir: PathBuf,
    /// What hooks are told of this member.
    pub place: Place,
    /// The holdfast binary, for hooks.
    pub program: PathBuf,
    /// Log lines and the history.
    pub reports: Sender<Report>,
}

/// Starts the thread. Whom the log follows comes from `leader`.
pub fn spawn(
    setup: Setup,
    runtime: &tokio::runtime::Handle,
    mut leader: tokio::sync::watch::Receiver<Leader>,
) -> std::io::Result<Handle> {
    let (orders, receiver) = channel();
    let shown = |set: &SyncFiles| {
        (set.name.clone(), set.paths.iter().map(|path| path.display().to_string()).collect())
    };
    let board = Board::new(setup.sets.iter().map(shown));
    let told = orders.clone();
    let watcher = match Watcher::start(move |word| drop(told.send(Order::Word(word)))) {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            tracing::warn!(%error, "the kernel does not tell of changes of files: they are found with each look at everything, see rescan_interval");
            None
        }
    };
    let mut applied = setup.files.index.watch();
    let told = orders.clone();
    runtime.spawn(async move {
        while applied.changed().await.is_ok() && told.send(Order::Applied).is_ok() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    });
    let told = orders.clone();
    runtime.spawn(async move {
        loop {
            let epoch = leader.borrow_and_update().map(|(epoch, _)| epoch);
            if told.send(Order::Follow(epoch)).is_err() || leader.changed().await.is_err() {
                return;
            }
        }
    });
    let hooks = Hooks {
        place: setup.place.clone(),
        sets: setup.sets.clone(),
        program: setup.program.clone(),
        board: board.clone(),
        reports: setup.reports.clone(),
    };
    let hooks = hooks.start(runtime);
    let mut worker = Worker::new(setup, board.clone(), watcher, hooks, runtime.clone());
    std::thread::Builder::new().name("files".into()).spawn(move || worker.run(&receiver))?;
    Ok(Handle { orders, board })
}

/// What this member is, for its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// There is no primary that is known.
    Idle,
    /// Another one is. `caught`: the log is applied beyond the beginning of its reign.
    Follow { epoch: Epoch, caught: bool },
    /// This one will be.
    Promoting { epoch: Epoch },
    /// This one is.
    Reign(Reign),
}

/// What is remembered of a set from look to look.
#[derive(Default)]
struct Memory {
    /// When it is to be looked at next, and since when a change waits for that.
    due: Option<Instant>,
    changed: Option<Instant>,
    /// When it was last looked at as a whole.
    looked: Option<Instant>,
    /// Not before this moment.
    rest_until: Option<Instant>,
    /// The directories of the paths, as they were when last something lay there in this reign.
    vouched: Vec<Option<(u64, u64)>>,
    failures: BTreeMap<String, String>,
    left_out: BTreeMap<String, String>,
    placed: u64,
    captured: u64,
    /// Paths that were changed here in the look under way.
    just_placed: Vec<String>,
}

/// Something to be written to the log.
struct Captured {
    path: String,
    traits: FileTraits,
    content: Bytes,
    print: Option<String>,
    outside: Option<tree::Outside>,
}

struct Worker {
    sets: Vec<Arc<SyncFiles>>,
    files: Files,
    status: SharedStatus,
    record: Record,
    asides: Vec<Aside>,
    memory: Vec<Memory>,
    mode: Mode,
    following: Option<Epoch>,
    /// The newest word of the log on files that was acted upon.
    heeded: Option<Lsn>,
    news: bool,
    saved: Instant,
    unsaved: Option<String>,
    watcher: Option<Watcher>,
    board: Board,
    hooks: UnboundedSender<Placed>,
    reports: Sender<Report>,
    runtime: tokio::runtime::Handle,
}

impl Worker {
    fn new(
        setup: Setup,
        board: Board,
        watcher: Option<Watcher>,
        hooks: UnboundedSender<Placed>,
        runtime: tokio::runtime::Handle,
    ) -> Worker {
        let (record, lost) = Record::open(&setup.state_dir);
        if let Some(why) = lost {
            tracing::warn!(
                why,
                "it is not known which files here are older than the log's: those that differ are kept aside and replaced"
            );
        }
        Worker {
            asides: setup.sets.iter().map(|set| Aside::open(&setup.state_dir, &set.name)).collect(),
            memory: setup.sets.iter().map(|_| Memory::default()).collect(),
            sets: setup.sets.into_iter().map(Arc::new).collect(),
            files: setup.files,
            status: setup.status,
            record,
            mode: Mode::Idle,
            following: None,
            heeded: None,
            news: true,
            saved: Instant::now(),
            unsaved: None,
            watcher,
            board,
            hooks,
            reports: setup.reports,
            runtime,
        }
    }

    fn run(&mut self, orders: &Receiver<Order>) {
        self.show();
        loop {
            match orders.recv_timeout(self.wait()) {
                Ok(order) => self.take(order),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            while let Ok(order) = orders.try_recv() {
                self.take(order);
            }
            self.work();
        }
    }

    /// How long nothing is to be done by itself.
    fn wait(&self) -> Duration {
        let now = Instant::now();
        let look = |number: usize| match self.mode {
            Mode::Follow { caught: true, .. } | Mode::Reign(_) => self.due(number),
            _ => None,
        };
        let next = (0..self.sets.len()).filter_map(look).min();
        // The log's status may come after what was applied, and nothing more need be applied for long.
        let catching_up =
            matches!(self.mode, Mode::Follow { caught: false, .. }).then(|| now + CAUGHT_UP_EVERY);
        let save = self.record.is_changed().then(|| self.saved + SAVE_EVERY);
        next.into_iter()
            .chain(catching_up)
            .chain(save)
            .min()
            .map_or(Duration::from_secs(3600), |at| at.saturating_duration_since(now))
    }

    /// When a set is to be looked at as a whole.
    fn due(&self, number: usize) -> Option<Instant> {
        let memory = &self.memory[number];
        let now = Instant::now();
        let regular = memory.looked.map_or(now, |looked| looked + self.sets[number].rescan_interval);
        let due = memory.due.map_or(regular, |due| due.min(regular));
        Some(memory.rest_until.map_or(due, |rest| due.max(rest)))
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Word(Word::Changed(number)) => {
                let now = Instant::now();
                let memory = &mut self.memory[number];
                let since = *memory.changed.get_or_insert(now);
                memory.due = Some((now + SETTLED_AFTER).min(since + SETTLED_AT_LAST));
            }
            Order::Word(Word::Overflowed) => {
                self.board.change(|status| status.overflows += 1);
                self.look_at_all();
            }
            Order::Applied => self.news = true,
            Order::Follow(epoch) => {
                self.following = epoch;
                if epoch.is_some() || matches!(self.mode, Mode::Follow { .. }) {
                    self.fall_back();
                }
            }
            Order::TakeOver { epoch, reply } => drop(reply.send(self.take_over(epoch))),
            Order::Begin { epoch } => self.begin(epoch),
            Order::Flush { reply } => {
                if matches!(self.mode, Mode::Reign(_)) {
                    self.look_at_all();
                    for memory in &mut self.memory {
                        memory.rest_until = None;
                    }
                    self.work();
                    self.save();
                }
                let _ = reply.send(());
            }
            Order::End => {
                if matches!(self.mode, Mode::Reign(_) | Mode::Promoting { .. }) {
                    self.fall_back();
                }
            }
        }
    }

    /// What this member is while it does not reign.
    fn fall_back(&mut self) {
        if let (Mode::Follow { epoch, .. }, Some(following)) = (self.mode, self.following)
            && epoch == following
        {
            return;
        }
        self.mode = match self.following {
            Some(epoch) => Mode::Follow { epoch, caught: false },
            None => Mode::Idle,
        };
        if self.following.is_some() {
            // From now on somebody else's files are right.
            self.record.set_reign(None);
        }
        self.save();
        for (number, memory) in self.memory.iter_mut().enumerate() {
            memory.left_out.clear();
            memory.vouched.clear();
            if let Some(watcher) = &self.watcher {
                watcher.keep_only(number, &HashSet::new());
            }
        }
        self.look_at_all();
        self.show();
    }

    fn look_at_all(&mut self) {
        let now = Instant::now();
        for memory in &mut self.memory {
            memory.due = Some(now);
        }
        self.news = true;
    }

    fn log(&self) -> ReplicaStatus {
        super::read_status(&self.status)
    }

    /// Waits until what was there before the reign is applied here; where the reign begins.
    fn reign_begins(&self, epoch: Epoch) -> Option<(Lsn, Option<Epoch>)> {
        let until = Instant::now() + APPLIED_WITHIN;
        loop {
            let log = self.log();
            if log.role != ReplicaRole::Leading || log.epoch != Some(epoch) {
                return None;
            }
            let at = log.history.iter().position(|(of, _)| *of == epoch)?;
            let begin = log.history[at].1;
            if self.files.index.progress().applied > begin {
                return Some((begin, at.checked_sub(1).map(|before| log.history[before].0)));
            }
            if Instant::now() >= until {
                return None;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Puts everything of the log in its place. After it, what is here is right.
    fn take_over(&mut self, epoch: Epoch) -> TakenOver {
        let failed = |why: &str| SetTakenOver { placed: Vec::new(), failures: vec![why.to_owned()] };
        self.mode = Mode::Promoting { epoch };
        let Some((begin, before)) = self.reign_begins(epoch) else {
            self.fall_back();
            return self
                .sets
                .iter()
                .map(|_| failed("the reign is over, or its log is not applied here"))
                .collect();
        };
        let own = self.record.reign().filter(|reign| Some(reign.epoch) == before || reign.epoch == epoch);
        let own_since = own.map(|reign| reign.since);
        let mut taken = TakenOver::new();
        for number in 0..self.sets.len() {
            self.memory[number].vouched.clear();
            taken.push(match self.reconcile(number, Stance::TakeOver { own_since }, true) {
                Ok(placed) => {
                    if self.sets[number].on_takeover.is_none() && !placed.is_empty() {
                        let _ = self.hooks.send((number, placed.clone()));
                    }
                    let failures = &self.memory[number].failures;
                    let failures = failures.iter().map(|(path, why)| format!("{path}: {why}")).collect();
                    SetTakenOver { placed, failures }
                }
                Err(error) => failed(&error.to_string()),
            });
        }
        self.record.set_reign(Some(Reign { epoch, since: own_since.unwrap_or(begin) }));
        self.save();
        self.show();
        taken
    }

    fn begin(&mut self, epoch: Epoch) {
        match self.mode {
            Mode::Promoting { epoch: of } if of == epoch => {}
            // Called again after a switchover that was called off.
            Mode::Reign(reign) if reign.epoch == epoch => return,
            _ => return,
        }
        let Some(reign) = self.record.reign().filter(|reign| reign.epoch == epoch) else { return };
        self.mode = Mode::Reign(reign);
        for memory in &mut self.memory {
            memory.rest_until = None;
        }
        self.look_at_all();
        self.show();
    }

    fn work(&mut self) {
        let now = Instant::now();
        match self.mode {
            Mode::Idle | Mode::Promoting { .. } => {}
            Mode::Follow { epoch, caught } => self.follow(epoch, caught, now),
            Mode::Reign(reign) => {
                for number in 0..self.sets.len() {
                    if self.due(number).is_some_and(|due| due <= now) {
                        self.look(number, Stance::Reign { since: reign.since }, true);
                    }
                }
            }
        }
        if self.record.is_changed() && self.saved.elapsed() >= SAVE_EVERY {
            self.save();
        }
    }

    fn follow(&mut self, epoch: Epoch, caught: bool, now: Instant) {
        let applied = self.files.index.progress().applied;
        if !caught {
            // Until the reign's beginning is applied, the log may still be one that is cut or built anew.
            let begins = self.log().history.last().copied();
            if begins.is_none_or(|(of, begin)| of != epoch || applied <= begin) {
                return;
            }
            self.mode = Mode::Follow { epoch, caught: true };
        }
        let stance = Stance::Follow { applied };
        let mut newer = false;
        if std::mem::take(&mut self.news) {
            match self.files.changed_at() {
                Ok(at) => newer = self.heeded.replace(at) != Some(at),
                Err(error) => tracing::warn!(%error, "the log's files cannot be listed"),
            }
        }
        for number in 0..self.sets.len() {
            let whole = !caught || self.due(number).is_some_and(|due| due <= now);
            if whole || newer {
                self.look(number, stance, whole);
            }
        }
    }

    /// Looks at a set and does what follows.
    fn look(&mut self, number: usize, stance: Stance, whole: bool) {
        let begun = Instant::now();
        match self.reconcile(number, stance, whole) {
            Ok(placed) if !placed.is_empty() => drop(self.hooks.send((number, placed))),
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(set = self.sets[number].name, %error, "the log's files cannot be read");
                self.board.of_set(number, |status| status.problem = Some(error.to_string()));
            }
        }
        self.memory[number].rest_until = Some(Instant::now() + begun.elapsed() * REST_OF_LOOK);
        self.show();
    }

    /// Compares a set's files with the log, `whole` or only those of which the log has news, and does what is to be
    /// done; the paths that were changed here.
    fn reconcile(&mut self, number: usize, stance: Stance, whole: bool) -> Result<Vec<String>, IndexError> {
        let set = Arc::clone(&self.sets[number]);
        let reigns = matches!(stance, Stance::Reign { .. });
        if whole {
            let memory = &mut self.memory[number];
            (memory.due, memory.changed, memory.looked) = (None, None, Some(Instant::now()));
        }
        let scan = whole.then(|| self.scan(number, &set, reigns));
        // The log is asked after the disk: what this host wrote to it in between is known.
        let logged: BTreeMap<String, FileState> =
            self.files.of_set(&set.name)?.into_iter().filter(|(path, _)| set.names(path)).collect();
        let scan = scan.unwrap_or_else(|| self.look_at_news(&set, &logged));
        let mut pass = Pass::new(number, set, stance, whole, &scan, &logged);
        let before = std::mem::take(&mut self.memory[number].failures);
        let paths: BTreeSet<&str> = match whole {
            true => {
                let known = self.record.paths(&pass.set.name);
                pass.known_paths = known.into_iter().filter(|path| pass.set.names(path)).collect();
                let known = pass.known_paths.iter();
                scan.found.keys().chain(logged.keys()).chain(known).map(String::as_str).collect()
            }
            false => {
                let news = |(path, file): &(&String, &FileState)| {
                    self.record.entry(&pass.set.name, path).is_none_or(|entry| entry.id != file.id)
                };
                logged.iter().filter(news).map(|(path, _)| path.as_str()).collect()
            }
        };
        let paths: Vec<String> = paths.into_iter().map(str::to_owned).collect();
        for path in &paths {
            self.consider(&mut pass, path);
            if pass.lost {
                break;
            }
        }
        self.write(&mut pass);
        self.write_gone(&mut pass);
        while let Some((path, id, aside)) = pass.removals.pop() {
            self.take_away(&mut pass, &path, id, aside);
        }
        if reigns && whole && !pass.lost {
            self.forget_old(&pass, &logged);
        }
        self.settle(pass, &scan, before, &logged);
        Ok(std::mem::take(&mut self.memory[number].just_placed))
    }

    /// Looks through the set's directories; where this member reigns, with the kernel's word on changes from then on.
    fn scan(&mut self, number: usize, set: &SyncFiles, reigns: bool) -> Scan {
        let Some(watcher) = self.watcher.as_ref().filter(|_| reigns) else {
            return tree::scan(set, &mut |_| {});
        };
        let (mut numbers, mut refused) = (HashSet::new(), None);
        let scan = tree::scan(set, &mut |directory| {
            let parents = set.paths.iter().filter(|root| root.parent() == Some(directory));
            let mut interests: Vec<Interest> =
                parents.filter_map(|root| Some(Interest::Name(root.file_name()?.to_owned()))).collect();
            if directory.to_str().is_some_and(|directory| set.names(directory)) {
                interests.push(Interest::All);
            }
            for interest in interests {
                match watcher.add(directory, number, interest) {
                    Ok(number) => drop(numbers.insert(number)),
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(error) => refused = Some(format!("{}: {error}", directory.display())),
                }
            }
        });
        watcher.keep_only(number, &numbers);
        let problem = refused.map(|why| {
            let every = set.rescan_interval.as_secs();
            format!("the kernel does not tell of all changes ({why}): they are found every {every} s; see fs.inotify.max_user_watches")
        });
        self.board.of_set(number, |status| status.problem = problem);
        scan
    }

    /// Looks at those paths alone of which the log has news.
    fn look_at_news(&self, set: &SyncFiles, logged: &BTreeMap<String, FileState>) -> Scan {
        let mut scan = Scan::default();
        for (path, file) in logged {
            if self.record.entry(&set.name, path).is_some_and(|entry| entry.id == file.id) {
                continue;
            }
            match Spot::of(Path::new(path)).and_then(|spot| spot.look()) {
                Ok(Some(found)) => drop(scan.found.insert(path.clone(), found)),
                Ok(None) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => scan.unknown.push((path.clone(), error.to_string())),
            }
        }
        scan
    }

    /// Decides about one path, and does it or notes it for later.
    fn consider(&mut self, pass: &mut Pass<'_>, path: &str) {
        if pass.is_unknown(path) {
            return;
        }
        let found = pass.scan.found.get(path);
        let file = pass.logged.get(path);
        let entry = self.record.entry(&pass.set.name, path).cloned();
        let mut content = None;
        let print = match found {
            None => None,
            Some(found) => match entry.as_ref().filter(|entry| entry.outside == Some(found.outside)) {
                Some(entry) => entry.print.clone(),
                None => match self.print_of(pass, path, found, &mut content) {
                    Ok(print) => print,
                    Err(()) => return,
                },
            },
        };
        let said = file.map(|file| {
            let gone = file.traits.kind == FileKind::Gone;
            let same = match gone {
                true => found.is_none(),
                false => print.is_some() && print == Some(pass.print_of_log(file)),
            };
            Said { id: file.id, gone, same }
        });
        let known = entry.as_ref().map(|entry| {
            let same = match &entry.print {
                None => found.is_none(),
                Some(before) => print.as_ref() == Some(before),
            };
            Known { id: entry.id, same }
        });
        let agreed = |id| {
            let outside = found.map(|found| found.outside).filter(tree::Outside::would_show_a_change);
            Entry { id, print: print.clone(), outside }
        };
        match (decide(said, known, found.is_some(), pass.stance), file) {
            (Step::Leave, _) => {}
            (Step::Forget, _) => self.record.set(&pass.set.name, path, None),
            (Step::Agree, Some(file)) => self.record.set(&pass.set.name, path, Some(agreed(file.id))),
            (Step::Capture, _) => {
                if let Some(found) = found {
                    self.capture(pass, path, found, content);
                }
            }
            (Step::CaptureGone, _) => pass.gone.push(path.to_owned()),
            (Step::Place { aside }, Some(file)) => self.put_in_place(pass, path, file, aside),
            (Step::Remove { aside }, Some(file)) => pass.removals.push((path.to_owned(), file.id, aside)),
            (Step::Agree | Step::Place { .. } | Step::Remove { .. }, None) => {}
        }
    }

    /// What tells the file at the path from another; `Err` where it is to be looked at again. `Ok(None)`: it cannot
    /// be the log's.
    fn print_of(
        &mut self,
        pass: &mut Pass<'_>,
        path: &str,
        found: &Found,
        content: &mut Option<(Found, Vec<u8>)>,
    ) -> Result<Option<String>, ()> {
        if found.kind != Kind::File {
            return Ok((found.kind != Kind::Other).then(|| found.print(None)));
        }
        match tree::read(Path::new(path), pass.set.max_file_bytes) {
            Ok((read, bytes)) => {
                let print = read.print(Some(&Sha256::digest(&bytes).into()));
                *content = Some((read, bytes));
                Ok(Some(print))
            }
            Err(Unread::TooLarge) => Ok(None),
            Err(Unread::Changing) => {
                pass.again = true;
                Err(())
            }
            Err(Unread::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => {
                pass.again = true;
                Err(())
            }
            Err(error) => {
                self.memory[pass.number].failures.insert(path.to_owned(), error.to_string());
                Err(())
            }
        }
    }

    /// Takes what lies at the path for the log, unless it is left out.
    fn capture(&mut self, pass: &mut Pass<'_>, path: &str, found: &Found, content: Option<(Found, Vec<u8>)>) {
        let mut leave_out = |why: &str| drop(pass.left_out.insert(path.to_owned(), why.to_owned()));
        let kind = match &found.kind {
            Kind::Other => {
                return leave_out("it is neither a file, nor a directory, nor a link that is text");
            }
            Kind::Link(target) if !tree::link_stays(&pass.set, path, target) => {
                return leave_out("it is a link that leads out of the paths of the set");
            }
            Kind::File if found.size > pass.set.max_file_bytes => {
                return leave_out("it is larger than max_file_size");
            }
            Kind::Link(target) => FileKind::Link { target: target.clone() },
            Kind::Directory => FileKind::Directory,
            Kind::File => FileKind::File,
        };
        let (found, bytes) = match (content, &found.kind) {
            (Some(read), _) => read,
            (None, Kind::File) => match tree::read(Path::new(path), pass.set.max_file_bytes) {
                Ok(read) => read,
                Err(Unread::TooLarge) => return leave_out("it is larger than max_file_size"),
                Err(_) => return pass.again = true,
            },
            (None, _) => (found.clone(), Vec::new()),
        };
        let is_file = found.kind == Kind::File;
        let sha256: [u8; 32] = Sha256::digest(&bytes).into();
        pass.bytes += bytes.len() as u64;
        pass.captures.push(Captured {
            path: path.to_owned(),
            print: Some(found.print(is_file.then_some(&sha256))),
            outside: Some(found.outside).filter(tree::Outside::would_show_a_change),
            traits: FileTraits {
                kind,
                mode: found.mode,
                owner: pass.owners.user(found.uid),
                group: pass.owners.group(found.gid),
                modified_ns: if is_file { found.modified_ns } else { 0 },
            },
            content: bytes.into(),
        });
        if is_file && !found.outside.would_show_a_change() {
            // It may change once more within this tick of the clock.
            pass.again = true;
        }
        if pass.captures.len() >= AT_ONCE * 2 || pass.bytes >= BYTES_AT_ONCE {
            self.write(pass);
        }
    }

    /// Writes what was taken to the log.
    fn write(&mut self, pass: &mut Pass<'_>) {
        let captures = std::mem::take(&mut pass.captures);
        pass.bytes = 0;
        let Mode::Reign(Reign { epoch, .. }) = self.mode else { return };
        if captures.is_empty() || pass.lost {
            return;
        }
        let (files, set) = (&self.files, &pass.set.name);
        let write = |captured: Captured| async move {
            let Captured { path, traits, content, print, outside } = captured;
            let put = files.put(epoch, set, &path, traits, content, wall_ms());
            let put = match tokio::time::timeout(WRITTEN_WITHIN, put).await {
                Ok(put) => put.map_err(Some),
                Err(_) => Err(None),
            };
            (path, put, print, outside)
        };
        let writing = futures::stream::iter(captures).map(write).buffered(AT_ONCE).collect::<Vec<_>>();
        let written = self.runtime.block_on(writing);
        for (path, put, print, outside) in written {
            match put {
                Ok(id) => {
                    tracing::debug!(set = pass.set.name, path, "a change was written to the log");
                    self.record.set(&pass.set.name, &path, Some(Entry { id, print, outside }));
                    self.memory[pass.number].captured += 1;
                }
                Err(Some(FileError::Write(WriteError::NotPrimary { .. }))) => pass.lost = true,
                Err(error) => {
                    let why = error.map_or_else(
                        || format!("not every member in sync had it within {} s", WRITTEN_WITHIN.as_secs()),
                        |error| error.to_string(),
                    );
                    self.memory[pass.number].failures.insert(path, why);
                    pass.again = true;
                }
            }
        }
    }

    /// Writes to the log what is gone, unless it rather looks as if a file system were not mounted.
    fn write_gone(&mut self, pass: &mut Pass<'_>) {
        let gone = std::mem::take(&mut pass.gone);
        if !matches!(pass.stance, Stance::Reign { .. }) || !pass.whole {
            return;
        }
        let set = Arc::clone(&pass.set);
        for (at, root) in set.paths.iter().enumerate() {
            let root_text = root.to_string_lossy();
            let tracked = |path: &str| set.root_of(path) == Some(root.as_path());
            let is_directory =
                pass.scan.found.get(&*root_text).is_some_and(|found| found.kind == Kind::Directory);
            let something =
                pass.scan.found.keys().any(|path| tracked(path) && !(is_directory && **path == *root_text));
            let now = pass.scan.roots.get(at).copied().flatten();
            let vouched = &mut self.memory[pass.number].vouched;
            vouched.resize(set.paths.len(), None);
            let same = now.is_some() && vouched[at] == now;
            if something {
                vouched[at] = now;
            }
            let of_root: Vec<String> = gone.iter().filter(|path| tracked(path)).cloned().collect();
            if of_root.is_empty() || pass.scan.cut_short {
                continue;
            }
            if !something && !same {
                pass.held = Some(format!(
                    "{} is empty or missing here, and the log has {} of it: that is not taken for a deletion, since a file system that is not mounted looks the same. Mount it; if it was meant, put any file there",
                    root.display(),
                    of_root.len()
                ));
                continue;
            }
            for path in of_root {
                let traits = FileTraits::gone();
                pass.captures.push(Captured {
                    path,
                    traits,
                    content: Bytes::new(),
                    print: None,
                    outside: None,
                });
                if pass.captures.len() >= AT_ONCE * 2 {
                    self.write(pass);
                }
            }
        }
        self.write(pass);
    }

    /// What was said to be gone long ago is not said for ever.
    fn forget_old(&mut self, pass: &Pass<'_>, logged: &BTreeMap<String, FileState>) {
        let mut gone: Vec<(Lsn, &String)> = logged
            .iter()
            .filter(|(_, file)| file.traits.kind == FileKind::Gone)
            .map(|(path, file)| (file.id, path))
            .collect();
        if gone.len() <= MOST_GONE {
            return;
        }
        gone.sort_unstable();
        let oldest = gone[..gone.len() - MOST_GONE / 2].iter().map(|(_, path)| (*path).clone()).collect();
        if let Err(error) = self.runtime.block_on(self.files.forget(&pass.set.name, oldest)) {
            tracing::debug!(%error, "files that are gone long since are still noted");
        }
    }

    /// Puts what the log has at the path.
    fn put_in_place(&mut self, pass: &mut Pass<'_>, path: &str, file: &FileState, aside: bool) {
        let outcome = if file.size > pass.set.max_file_bytes {
            Err("it is larger than max_file_size of this member".to_owned())
        } else if pass.beyond(path) {
            Err("it is beyond max_files of this member".to_owned())
        } else {
            self.try_to_place(pass, path, file, aside)
        };
        match outcome {
            Ok(found) => {
                let print = pass.print_of_log(file);
                let outside = Some(found.outside).filter(tree::Outside::would_show_a_change);
                self.record.set(
                    &pass.set.name,
                    path,
                    Some(Entry { id: file.id, print: Some(print), outside }),
                );
                self.placed(pass, path);
            }
            Err(why) => drop(self.memory[pass.number].failures.insert(path.to_owned(), why)),
        }
    }

    fn try_to_place(
        &mut self,
        pass: &mut Pass<'_>,
        path: &str,
        file: &FileState,
        aside: bool,
    ) -> Result<Found, String> {
        let kind = match &file.traits.kind {
            FileKind::File => Kind::File,
            FileKind::Directory => Kind::Directory,
            FileKind::Link { target } => Kind::Link(target.clone()),
            FileKind::Gone => return Err("it is gone".to_owned()),
        };
        let content = match kind {
            Kind::File => {
                self.files.read(&pass.set.name, path, file.id).map_err(|error| error.to_string())?
            }
            _ => Bytes::new(),
        };
        self.keep_aside(pass, path, aside)?;
        let wanted = Wanted {
            kind,
            mode: file.traits.mode,
            uid: pass.owners.uid(&file.traits.owner),
            gid: pass.owners.gid(&file.traits.group),
            modified_ns: file.traits.modified_ns,
            content: &content,
        };
        place::place(&pass.set, path, &wanted).map_err(|error| error.to_string())
    }

    fn keep_aside(&mut self, pass: &mut Pass<'_>, path: &str, aside: bool) -> Result<(), String> {
        if !aside {
            return Ok(());
        }
        match self.asides[pass.number].keep(path) {
            Ok(kept) => pass.kept.extend(kept),
            Err(error) => {
                return Err(format!("what is there was edited here and cannot be kept aside: {error}"));
            }
        }
        Ok(())
    }

    fn take_away(&mut self, pass: &mut Pass<'_>, path: &str, id: Lsn, aside: bool) {
        let kept = self.keep_aside(pass, path, aside);
        let removed = kept.and_then(|()| place::remove(&pass.set, path).map_err(|error| error.to_string()));
        match removed {
            Ok(()) => {
                self.record.set(&pass.set.name, path, Some(Entry { id, print: None, outside: None }));
                self.placed(pass, path);
            }
            Err(why) => drop(self.memory[pass.number].failures.insert(path.to_owned(), why)),
        }
    }

    fn placed(&mut self, pass: &Pass<'_>, path: &str) {
        tracing::debug!(set = pass.set.name, path, "a change of the log was put in place");
        let memory = &mut self.memory[pass.number];
        memory.placed += 1;
        memory.just_placed.push(path.to_owned());
    }

    /// Notes what came of a look.
    fn settle(
        &mut self,
        pass: Pass<'_>,
        scan: &Scan,
        before: BTreeMap<String, String>,
        logged: &BTreeMap<String, FileState>,
    ) {
        let number = pass.number;
        if let Some(first) = pass.kept.first() {
            let message = format!(
                "sync_files {}: {} file(s) of this host differed from the log and were replaced; they are kept aside, first {} as {}",
                pass.set.name,
                pass.kept.len(),
                first.path,
                first.copy.display()
            );
            let _ = self.reports.send(Report::Warning { at: address::now(), message });
        }
        let reigns = matches!(pass.stance, Stance::Reign { .. });
        if !reigns {
            self.board.of_set(number, |status| status.problem = None);
        }
        let memory = &mut self.memory[number];
        for (path, why) in &scan.unknown {
            if !reigns && logged.contains_key(path) {
                memory.failures.insert(path.clone(), why.clone());
            }
        }
        if !pass.whole {
            // Nothing new is known of the others.
            let visited = |path: &String| scan.found.contains_key(path) || memory.failures.contains_key(path);
            let others: Vec<_> = before.iter().filter(|(path, _)| !visited(path)).collect();
            let still = others.into_iter().filter(|(path, _)| {
                let agreed = self.record.entry(&pass.set.name, path).map(|entry| entry.id);
                logged.get(*path).is_some_and(|file| agreed != Some(file.id))
            });
            let still: Vec<_> = still.map(|(path, why)| (path.clone(), why.clone())).collect();
            memory.failures.extend(still);
        }
        for (path, why) in
            memory.failures.iter().filter(|(path, why)| before.get(*path) != Some(why)).take(MOST_NAMED)
        {
            tracing::warn!(set = pass.set.name, path, why, "a file is not replicated");
        }
        if pass.whole && reigns {
            let unknown = scan.unknown.iter().cloned();
            let mut left_out: BTreeMap<String, String> = unknown.chain(pass.left_out).collect();
            if scan.cut_short {
                let why =
                    format!("it has more than max_files ({}): those beyond are left out", pass.set.max_files);
                left_out.insert(pass.set.name.clone(), why);
            }
            for (path, why) in
                left_out.iter().filter(|(path, why)| memory.left_out.get(*path) != Some(why)).take(MOST_NAMED)
            {
                tracing::warn!(set = pass.set.name, path, why, "a file is left out");
            }
            memory.left_out = left_out;
            self.board.of_set(number, |status| {
                if pass.held.is_some()
                    || status.problem.as_ref().is_some_and(|said| said.contains("not taken for a deletion"))
                {
                    status.problem.clone_from(&pass.held);
                }
            });
        }
        if pass.again {
            let now = Instant::now();
            let since = *memory.changed.get_or_insert(now);
            memory.due = Some((now + SETTLED_AFTER).max(since + SETTLED_AFTER));
        }
    }

    fn save(&mut self) {
        self.saved = Instant::now();
        let outcome = self.record.save().err().map(|error| error.to_string());
        if outcome.is_some() && outcome != self.unsaved {
            tracing::warn!(
                error = outcome,
                "the record of replicated files cannot be written: after a restart more is kept aside than need be"
            );
        }
        self.unsaved = outcome;
    }

    /// Brings the board up to date.
    fn show(&self) {
        let state = match self.mode {
            Mode::Idle => "waiting",
            Mode::Follow { .. } | Mode::Promoting { .. } => "placing",
            Mode::Reign(_) => "reading",
        };
        let named: Vec<&str> = self.sets.iter().map(|set| set.name.as_str()).collect();
        let unnamed = self.files.sets().unwrap_or_default();
        let unnamed =
            unnamed.into_iter().map(|(set, _)| set).filter(|set| !named.contains(&set.as_str())).collect();
        self.board.change(|status| {
            status.state = state.to_owned();
            status.unnamed = unnamed;
        });
        for (number, set) in self.sets.iter().enumerate() {
            let Ok(logged) = self.files.of_set(&set.name) else { continue };
            let (memory, (kept_aside, kept)) = (&self.memory[number], self.asides[number].shown(5));
            let ours = logged.iter().filter(|(path, _)| set.names(path));
            let differs = |(path, file): &&(String, FileState)| {
                self.record.entry(&set.name, path).is_none_or(|entry| entry.id != file.id)
            };
            let behind = ours.clone().filter(differs).count() as u64;
            let there = ours.filter(|(_, file)| file.traits.kind != FileKind::Gone);
            let (files, bytes) =
                there.fold((0, 0), |(files, bytes), (_, file)| (files + 1, bytes + file.size));
            let last_change_ms = logged.iter().map(|(_, file)| file.noted_ms).max();
            let some = |named: &BTreeMap<String, String>| {
                let some = named.iter().take(MOST_NAMED);
                some.map(|(path, why)| Named { path: path.clone(), why: why.clone() }).collect()
            };
            self.board.of_set(number, |status| {
                status.files = files;
                status.bytes = bytes;
                status.last_change = last_change_ms.map(super::history::rfc3339);
                status.last_change_ms = last_change_ms;
                status.behind = behind;
                status.failed = memory.failures.len() as u64;
                status.failures = some(&memory.failures);
                status.left_out = memory.left_out.len() as u64;
                status.left_out_paths = some(&memory.left_out);
                (status.kept_aside, status.kept) = (kept_aside, kept);
                status.placed = memory.placed;
                status.captured = memory.captured;
            });
        }
    }
}

/// One comparison of a set with the log.
struct Pass<'p> {
    number: usize,
    set: Arc<SyncFiles>,
    stance: Stance,
    whole: bool,
    scan: &'p Scan,
    logged: &'p BTreeMap<String, FileState>,
    owners: Owners,
    known_paths: Vec<String>,
    captures: Vec<Captured>,
    bytes: u64,
    gone: Vec<String>,
    removals: Vec<(String, Lsn, bool)>,
    left_out: BTreeMap<String, String>,
    kept: Vec<Kept>,
    held: Option<String>,
    /// Something was being changed: it is to be looked at once more.
    again: bool,
    /// This member is primary no more.
    lost: bool,
}

impl<'p> Pass<'p> {
    fn new(
        number: usize,
        set: Arc<SyncFiles>,
        stance: Stance,
        whole: bool,
        scan: &'p Scan,
        logged: &'p BTreeMap<String, FileState>,
    ) -> Pass<'p> {
        Pass {
            number,
            set,
            stance,
            whole,
            scan,
            logged,
            owners: Owners::default(),
            known_paths: Vec::new(),
            captures: Vec::new(),
            bytes: 0,
            gone: Vec::new(),
            removals: Vec::new(),
            left_out: BTreeMap::new(),
            kept: Vec::new(),
            held: None,
            again: false,
            lost: false,
        }
    }

    /// Nothing is known of it, or of a directory that it lies in.
    fn is_unknown(&self, path: &str) -> bool {
        let below = |other: &str| Path::new(path).starts_with(other);
        let cut = self.scan.cut_short && !self.scan.found.contains_key(path);
        cut || self.scan.unknown.iter().any(|(other, _)| below(other))
    }

    /// More is there than this member takes, and this is of what comes last.
    fn beyond(&self, path: &str) -> bool {
        let there = |(_, file): &(&String, &FileState)| file.traits.kind != FileKind::Gone;
        if self.logged.len() as u64 <= self.set.max_files {
            return false;
        }
        let before = self.logged.range(..path.to_owned()).filter(there).count() as u64;
        before >= self.set.max_files
    }

    /// What lies on this disk when the log's file is in its place.
    fn print_of_log(&mut self, file: &FileState) -> String {
        let (uid, gid) = (self.owners.uid(&file.traits.owner), self.owners.gid(&file.traits.group));
        let mode = file.traits.mode;
        match &file.traits.kind {
            FileKind::File => {
                tree::print(&Kind::File, mode & tree::FILE_BITS, (uid, gid), "", Some(&file.sha256))
            }
            FileKind::Directory => {
                tree::print(&Kind::Directory, mode & tree::DIRECTORY_BITS, (uid, gid), "", None)
            }
            FileKind::Link { target } => {
                tree::print(&Kind::Link(target.clone()), 0, (uid, gid), target, None)
            }
            FileKind::Gone => String::new(),
        }
    }
}

/// Whether this host could do what the blocks ask, for `ha check`: of each set, what is in the way.
pub fn look_for_obstacles(sets: &[SyncFiles]) -> Vec<(String, Vec<String>)> {
    let obstacle = |path: &Path| -> Option<String> {
        let spot = match Spot::of(path) {
            Ok(spot) => spot,
            Err(error) => return Some(error.to_string()),
        };
        let into = match spot.look() {
            Ok(Some(found)) if found.kind == Kind::Directory => tree::open_directory(path).ok()?,
            Ok(Some(Found { kind: Kind::Link(_), .. })) => {
                return Some(format!("{} is a symbolic link, and links are not followed", path.display()));
            }
            Ok(_) => spot.dir,
            Err(error) => return Some(error.to_string()),
        };
        let may = rustix::fs::accessat(
            &into,
            ".",
            rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK,
            rustix::fs::AtFlags::EACCESS,
        );
        may.err()
            .map(|error| format!("{} cannot be written: {}", path.display(), std::io::Error::from(error)))
    };
    sets.iter()
        .map(|set| (set.name.clone(), set.paths.iter().filter_map(|path| obstacle(path)).collect()))
        .collect()
}
