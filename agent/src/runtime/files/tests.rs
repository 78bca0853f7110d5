//! One host with a directory of its own, and a log of its own to which others seem to write.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::Mutex;

use futures::FutureExt;
use futures::future::BoxFuture;
use holdfast_heartbeat::{Incarnation, Member, NodeId};
use holdfast_replication::replica::{Replica, ReplicaOptions};
use holdfast_replication::testing::MemDisk;
use holdfast_store::apply::Outcome;
use holdfast_store::backend::{Backend, Held, NotServing, ReadError, ReadLog};
use holdfast_store::files::Owner;
use holdfast_store::index::Index;
use holdfast_store::machine::{Entry as Applied, Machine};
use holdfast_store::s3::Receiving;
use holdfast_store::seal::StoreKeys;
use tokio::sync::mpsc::UnboundedReceiver;

use super::place::{Stage, place_until};
use super::*;

/// A log without peers: everything is committed and applied at once.
struct Log {
    machine: Mutex<(Machine, u64, Epoch)>,
    records: Mutex<BTreeMap<u64, Bytes>>,
}

impl Log {
    fn add(&self, payload: Bytes, op: bool) -> (Lsn, Outcome) {
        let mut machine = self.machine.lock().unwrap();
        let (lsn, end) = (machine.1, machine.1 + 48 + payload.len() as u64);
        self.records.lock().unwrap().insert(lsn, payload.clone());
        machine.1 = end;
        let epoch = machine.2;
        let entry = Applied { lsn: Lsn(lsn), end: Lsn(end), epoch, op: op.then_some(&payload[..]) };
        let mut outcomes = machine.0.apply_entries(std::iter::once(entry)).unwrap();
        (Lsn(lsn), outcomes.pop().unwrap())
    }
}

impl Backend for Log {
    fn append(&self, data: Bytes) -> BoxFuture<'_, Result<(Lsn, Lsn), WriteError>> {
        let (lsn, _) = self.add(data, false);
        async move { Ok((lsn, lsn)) }.boxed()
    }

    fn commit(&self, payload: Vec<Bytes>) -> BoxFuture<'_, Result<Outcome, WriteError>> {
        let (_, outcome) = self.add(payload.concat().into(), true);
        async move { Ok(outcome) }.boxed()
    }

    fn serving(&self) -> Result<Epoch, NotServing> {
        Ok(self.machine.lock().unwrap().2)
    }
}

impl ReadLog for Log {
    fn read_slice(&self, lsn: Lsn, offset: u32, len: u32) -> Result<Bytes, ReadError> {
        let records = self.records.lock().unwrap();
        let record = records.get(&lsn.0).ok_or_else(|| ReadError::Damaged("no record".into()))?;
        Ok(record.slice(offset as usize..(offset + len) as usize))
    }

    fn hold(&self) -> Held {
        Arc::new(())
    }
}

struct Host {
    dir: tempfile::TempDir,
    /// The directory of the set.
    root: PathBuf,
    set: SyncFiles,
    log: Arc<Log>,
    files: Files,
    status: SharedStatus,
    runtime: tokio::runtime::Runtime,
    worker: Option<Worker>,
    hooks: Option<UnboundedReceiver<Placed>>,
    epoch: u64,
}

fn set_of(paths: Vec<PathBuf>) -> SyncFiles {
    SyncFiles {
        name: "app".into(),
        paths,
        exclude: Vec::new(),
        on_change: None,
        on_takeover: None,
        timeout: Duration::from_secs(5),
        veto: false,
        max_file_bytes: 1 << 20,
        max_files: 100,
        rescan_interval: Duration::from_secs(3600),
    }
}

impl Host {
    fn new() -> Host {
        Host::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut SyncFiles)) -> Host {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap().join("app");
        fs::create_dir(&root).unwrap();
        fs::create_dir(dir.path().join("state")).unwrap();
        let mut set = set_of(vec![root.clone()]);
        change(&mut set);
        let index = Index::in_memory();
        let machine = Machine::new(index.clone()).unwrap();
        let log = Arc::new(Log { machine: Mutex::new((machine, 0, Epoch(0))), records: Mutex::default() });
        let files = Files {
            index: index.clone(),
            log: log.clone(),
            backend: log.clone(),
            keys: StoreKeys::default(),
            receiving: Receiving::default(),
        };
        let me = Member { id: NodeId::new("a").unwrap(), incarnation: Incarnation(1) };
        let machine = Machine::new(Index::in_memory()).unwrap();
        let (replica, _) =
            Replica::<_, _, u64>::open(MemDisk::new(), me, machine, ReplicaOptions::default()).unwrap();
        let status: SharedStatus = Arc::new(Mutex::new(replica.status()));
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut host =
            Host { dir, root, set, log, files, status, runtime, worker: None, hooks: None, epoch: 0 };
        host.restart();
        host
    }

    /// The agent begins anew.
    fn restart(&mut self) {
        let (hooks, receiver) = tokio::sync::mpsc::unbounded_channel();
        let setup = Setup {
            sets: vec![self.set.clone()],
            files: self.files.clone(),
            status: self.status.clone(),
            state_dir: self.dir.path().join("state"),
            place: Place { node: "a".into(), vips: vec![], api: String::new() },
            program: PathBuf::new(),
            reports: channel().0,
        };
        let board = Board::new(std::iter::once(("app".to_owned(), vec![])));
        self.worker = Some(Worker::new(setup, board, None, hooks, self.runtime.handle().clone()));
        self.hooks = Some(receiver);
    }

    fn worker(&mut self) -> &mut Worker {
        self.worker.as_mut().unwrap()
    }

    /// Somebody begins to reign: the log has a record of that.
    fn new_reign(&mut self, role: ReplicaRole) -> Epoch {
        self.epoch += 1;
        let epoch = Epoch(self.epoch);
        self.log.machine.lock().unwrap().2 = epoch;
        let (lsn, _) = self.log.add(Bytes::new(), false);
        let mut status = self.status.lock().unwrap();
        status.history.push((epoch, lsn));
        (status.role, status.epoch) = (role, Some(epoch));
        epoch
    }

    fn reign(&mut self) -> SetTakenOver {
        let epoch = self.new_reign(ReplicaRole::Leading);
        self.worker().take(Order::Follow(None));
        let taken = self.worker().take_over(epoch).remove(0);
        self.worker().take(Order::Begin { epoch });
        self.look();
        taken
    }

    fn follow(&mut self) {
        let epoch = self.new_reign(ReplicaRole::Following);
        self.worker().take(Order::End);
        self.worker().take(Order::Follow(Some(epoch)));
        self.look();
    }

    /// Everything is looked at, as after a notice of the kernel or at the regular time.
    fn look(&mut self) {
        self.worker().take(Order::Word(Word::Overflowed));
        self.worker().memory[0].rest_until = None;
        self.worker().work();
        self.worker().save();
    }

    /// Another member writes to the log.
    fn say(&self, path: &str, kind: FileKind, mode: u32, content: &[u8]) {
        let me = |id| Owner { id, name: None };
        let (uid, gid) = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
        let traits = FileTraits { kind, mode, owner: me(uid), group: me(gid), modified_ns: 1_000_000_000 };
        let content = Bytes::copy_from_slice(content);
        self.runtime.block_on(self.files.put(Epoch(self.epoch), "app", path, traits, content, 7)).unwrap();
    }

    fn say_file(&self, name: &str, content: &str) {
        self.say(&self.path(name), FileKind::File, 0o640, content.as_bytes());
    }

    fn news(&mut self) {
        self.worker().take(Order::Applied);
        self.worker().work();
    }

    fn path(&self, name: &str) -> String {
        self.root.join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.root.join(name), content).unwrap();
    }

    fn content(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.root.join(name)).ok()
    }

    /// What the log says of a path: its content, or nothing where it is gone.
    fn logged(&self, name: &str) -> Option<String> {
        let path = self.path(name);
        let file =
            self.files.file("app", &path).unwrap().filter(|file| file.traits.kind != FileKind::Gone)?;
        Some(String::from_utf8(self.files.read("app", &path, file.id).unwrap().to_vec()).unwrap())
    }

    fn status(&self) -> SetStatus {
        let worker = self.worker.as_ref().unwrap();
        worker.show();
        worker.board.read().sets.remove(0)
    }
}

#[test]
fn changes_new_files_renames_and_deletions_of_a_primary_are_in_the_log() {
    let mut host = Host::new();
    host.write("a", "one");
    fs::create_dir(host.root.join("d")).unwrap();
    host.write("d/b", "two");
    symlink("d/b", host.root.join("link")).unwrap();
    assert_eq!(host.reign(), SetTakenOver::default());
    assert_eq!((host.logged("a").as_deref(), host.logged("d/b").as_deref()), (Some("one"), Some("two")));
    let of_link = host.files.file("app", &host.path("link")).unwrap().unwrap();
    assert_eq!(of_link.traits.kind, FileKind::Link { target: "d/b".into() });
    assert_eq!(host.status().files, 5);

    // As editors do it: another file is renamed over it. And a burst of changes.
    for n in 0..20 {
        host.write("a.new", &format!("three {n}"));
        fs::rename(host.root.join("a.new"), host.root.join("a")).unwrap();
    }
    fs::set_permissions(host.root.join("d/b"), Permissions::from_mode(0o600)).unwrap();
    host.look();
    assert_eq!(host.logged("a").as_deref(), Some("three 19"));
    assert_eq!(host.files.file("app", &host.path("d/b")).unwrap().unwrap().traits.mode, 0o600);

    let captured = host.status().captured;
    host.look();
    assert_eq!(host.status().captured, captured, "what did not change is not written again");

    fs::rename(host.root.join("d"), host.root.join("e")).unwrap();
    fs::remove_file(host.root.join("a")).unwrap();
    host.look();
    assert_eq!((host.logged("a"), host.logged("d/b")), (None, None));
    assert_eq!(host.logged("e/b").as_deref(), Some("two"));
    let gone = host.files.file("app", &host.path("d")).unwrap().unwrap();
    assert_eq!(gone.traits.kind, FileKind::Gone);
}

#[test]
fn a_standby_has_what_the_log_says_with_its_mode_and_time() {
    let mut host = Host::new();
    host.follow();
    host.say(&host.path("d"), FileKind::Directory, 0o750, b"");
    host.say_file("d/f", "one");
    host.say(&host.path("l"), FileKind::Link { target: "d/f".into() }, 0, b"");
    host.news();
    assert_eq!(host.content("l").as_deref(), Some("one"));
    let metadata = fs::metadata(host.root.join("d/f")).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.mtime()), (0o640, 1));
    assert_eq!(fs::metadata(host.root.join("d")).unwrap().mode() & 0o7777, 0o750);
    let (set, mut placed) = host.hooks.as_mut().unwrap().try_recv().unwrap();
    placed.sort();
    assert_eq!((set, placed), (0, vec![host.path("d"), host.path("d/f"), host.path("l")]));

    host.say_file("d/f", "two");
    host.news();
    assert_eq!(host.content("d/f").as_deref(), Some("two"));
    for name in ["d/f", "l", "d"] {
        host.say(&host.path(name), FileKind::Gone, 0, b"");
    }
    host.news();
    assert_eq!(fs::read_dir(&host.root).unwrap().count(), 0);
    assert_eq!((host.status().behind, host.status().failed), (0, 0));
    // A file of this host alone is nobody's business.
    host.write("mine", "mine");
    host.look();
    assert_eq!((host.content("mine").as_deref(), host.logged("mine")), (Some("mine"), None));
}

#[test]
fn whatever_the_log_says_nothing_is_written_outside() {
    let mut host = Host::new();
    let outside = host.root.parent().unwrap().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("f"), "untouched").unwrap();
    symlink(&outside, host.root.join("way")).unwrap();
    fs::create_dir(host.root.join("full")).unwrap();
    host.write("full/x", "here");
    nix::unistd::mkfifo(&host.root.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    host.follow();
    let (root, out) = (host.root.display().to_string(), outside.display().to_string());
    for path in [
        format!("{root}/../outside/f"),
        format!("{root}/way/f"),
        format!("{root}/way/new"),
        format!("{root}//f"),
        format!("{root}/./f"),
        format!("{root}/a\nb"),
        format!("{root}/.holdfast-new-x"),
        format!("{root}x"),
        format!("{out}/f"),
        "relative".to_owned(),
        String::new(),
        "/".to_owned(),
        host.path("full"),
        host.path("pipe"),
        host.path("missing/below"),
    ] {
        host.say(&path, FileKind::File, 0o644, b"hostile");
    }
    for target in ["/etc/shadow", "../outside", "../../etc", "..", "/", "way/../../outside", ""] {
        host.say(&host.path("l"), FileKind::Link { target: target.into() }, 0, b"");
        host.news();
        assert!(fs::symlink_metadata(host.root.join("l")).is_err(), "{target:?}");
    }
    host.say(&host.path("suid"), FileKind::File, 0o6755, b"x");
    host.say(&host.path("sgid"), FileKind::Directory, 0o7755, b"");
    host.news();
    host.look();
    let mode = |name: &str| fs::metadata(host.root.join(name)).unwrap().mode() & 0o7777;
    assert_eq!((mode("suid"), mode("sgid")), (0o755, 0o1755));
    assert_eq!(fs::read_to_string(outside.join("f")).unwrap(), "untouched");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(host.content("full/x").as_deref(), Some("here"));
    let mut names: Vec<_> =
        fs::read_dir(&host.root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["full", "pipe", "sgid", "suid", "way"]);
    assert!(fs::symlink_metadata(host.root.join("pipe")).unwrap().file_type().is_fifo());
    let failures: Vec<String> = host.status().failures.into_iter().map(|failure| failure.path).collect();
    for name in ["full", "l", "missing/below", "pipe", "way/f", "way/new"] {
        assert!(failures.contains(&host.path(name)), "{name}: {failures:?}");
    }
    assert_eq!(failures.len(), 6);

    // Nor is anything removed there.
    host.say(&format!("{root}/way/f"), FileKind::Gone, 0, b"");
    host.say(&format!("{out}/f"), FileKind::Gone, 0, b"");
    host.news();
    host.look();
    assert_eq!(fs::read_to_string(outside.join("f")).unwrap(), "untouched");
}

use std::os::unix::fs::FileTypeExt;

#[test]
fn an_edit_of_a_standby_is_kept_aside_before_it_is_replaced() {
    let mut host = Host::new();
    host.write("f", "was here before");
    host.follow();
    host.say_file("f", "one");
    host.news();
    assert_eq!(host.content("f").as_deref(), Some("one"));
    host.write("f", "edited");
    host.look();
    assert_eq!(host.content("f").as_deref(), Some("one"));
    host.say_file("f", "two");
    host.news();
    host.say(&host.path("f"), FileKind::Gone, 0, b"");
    host.news();
    assert_eq!(host.content("f"), None);
    let status = host.status();
    assert_eq!(status.kept_aside, 2, "what merely was old is not kept");
    let kept: Vec<_> = status.kept.iter().map(|kept| fs::read_to_string(&kept.copy).unwrap()).collect();
    assert_eq!(kept, ["edited", "was here before"]);
    assert_eq!(fs::metadata(&status.kept[0].copy).unwrap().mode() & 0o777, 0o600);
    host.restart();
    assert_eq!(host.status().kept_aside, 2);
}

#[test]
fn a_primary_that_comes_back_as_such_keeps_what_was_edited_meanwhile() {
    let mut host = Host::new();
    for name in ["f", "g", "h"] {
        host.write(name, "one");
    }
    host.reign();
    host.restart();
    host.write("f", "edited while the agent was down");
    fs::remove_file(host.root.join("g")).unwrap();
    host.write("new", "new");
    let taken = host.reign();
    assert_eq!(taken, SetTakenOver::default());
    assert_eq!(host.logged("f").as_deref(), Some("edited while the agent was down"));
    assert_eq!((host.logged("g"), host.logged("new").as_deref()), (None, Some("new")));
    assert_eq!(host.status().kept_aside, 0);

    // The record was not written down after the last changes.
    let record = host.dir.path().join("state/files.json");
    let before = fs::read(&record).unwrap();
    host.write("f", "captured");
    host.look();
    host.restart();
    fs::write(&record, before).unwrap();
    host.restart();
    host.write("f", "and edited");
    host.reign();
    assert_eq!((host.logged("f").as_deref(), host.status().kept_aside), (Some("and edited"), 0));
}

#[test]
fn after_a_reboot_the_log_is_right_since_the_disk_may_have_lost_something() {
    let mut host = Host::new();
    host.write("f", "one");
    host.reign();
    let record = host.dir.path().join("state/files.json");
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let text = fs::read_to_string(&record).unwrap().replace(boot.trim(), "another-life");
    assert!(text.contains("another-life"));
    fs::write(&record, text).unwrap();
    host.write("f", "");
    host.restart();
    assert_eq!(host.reign().placed, [host.path("f")]);
    assert_eq!((host.content("f").as_deref(), host.logged("f").as_deref()), (Some("one"), Some("one")));
    assert_eq!(host.status().kept_aside, 1);
}

#[test]
fn an_old_copy_is_never_captured_over_a_newer_one() {
    let mut host = Host::new();
    for name in ["f", "g"] {
        host.write(name, "one");
    }
    host.reign();
    host.worker().save();
    host.restart();
    // Another one reigns while this host is off, and this host edits one of the files.
    host.new_reign(ReplicaRole::Following);
    host.say_file("f", "newer");
    host.say_file("g", "newer");
    host.write("g", "edited");
    let mut taken = host.reign();
    taken.placed.sort();
    assert_eq!(taken, SetTakenOver { placed: vec![host.path("f"), host.path("g")], failures: vec![] });
    for name in ["f", "g"] {
        assert_eq!(host.content(name).as_deref(), Some("newer"));
        assert_eq!(host.logged(name).as_deref(), Some("newer"));
    }
    assert_eq!(host.status().kept_aside, 1);

    // Without the record, all that differs is kept, and the log is right.
    host.follow();
    host.say_file("f", "newest");
    fs::remove_file(host.dir.path().join("state/files.json")).unwrap();
    host.restart();
    host.reign();
    assert_eq!((host.content("f").as_deref(), host.logged("f").as_deref()), (Some("newest"), Some("newest")));
}

#[test]
fn what_could_not_be_placed_is_not_captured_instead() {
    let mut host = Host::new();
    host.follow();
    host.say_file("f", "one");
    host.news();
    host.say(&host.path("f"), FileKind::File, 0o644, &vec![b'x'; 2 << 20]);
    let taken = host.reign();
    assert_eq!(taken.placed, Vec::<String>::new());
    assert!(taken.failures[0].contains("max_file_size of this member"), "{taken:?}");
    host.look();
    assert_eq!(host.logged("f").map(|content| content.len()), Some(2 << 20));
    assert_eq!((host.content("f").as_deref(), host.status().failed), (Some("one"), 1));
}

#[test]
fn a_directory_that_is_empty_all_at_once_is_not_taken_for_a_deletion() {
    let mut host = Host::new();
    host.write("f", "one");
    host.write("g", "two");
    host.reign();
    // As if a file system were not mounted: another directory, and empty.
    fs::rename(&host.root, host.root.with_extension("away")).unwrap();
    for _ in 0..2 {
        host.look();
        assert_eq!((host.logged("f").as_deref(), host.logged("g").as_deref()), (Some("one"), Some("two")));
        assert!(host.status().problem.unwrap().contains("not taken for a deletion"));
        let _ = fs::create_dir(&host.root);
    }
    host.restart();
    host.reign();
    assert_eq!(host.logged("f").as_deref(), Some("one"));
    fs::remove_dir(&host.root).unwrap();
    fs::rename(host.root.with_extension("away"), &host.root).unwrap();
    host.look();
    assert_eq!(host.status().problem, None);
    // The same directory, emptied under the eyes of the agent.
    fs::remove_file(host.root.join("f")).unwrap();
    fs::remove_file(host.root.join("g")).unwrap();
    host.look();
    assert_eq!((host.logged("f"), host.logged("g")), (None, None));
}

#[test]
fn what_is_too_large_or_too_much_or_of_no_kind_is_left_out_and_named() {
    let mut host = Host::with(|set| set.max_files = 6);
    host.write("big", &"x".repeat((1 << 20) + 1));
    host.write("good", "one");
    symlink("/etc/passwd", host.root.join("out")).unwrap();
    nix::unistd::mkfifo(&host.root.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    host.reign();
    assert_eq!(host.logged("good").as_deref(), Some("one"));
    let left_out: Vec<String> = host.status().left_out_paths.into_iter().map(|left| left.path).collect();
    assert_eq!(left_out, [host.path("big"), host.path("out"), host.path("pipe")]);
    for n in 0..5 {
        host.write(&format!("a{n}"), "more");
    }
    host.look();
    assert!(host.status().left_out_paths.iter().any(|left| left.why.contains("max_files")));
    assert_eq!(host.logged("good").as_deref(), Some("one"), "what was not looked at is not gone");
    let files = host.files.of_set("app").unwrap();
    assert!(files.len() as u64 <= 7, "{}", files.len());
}

#[test]
fn one_file_may_be_a_set_of_its_own() {
    let mut host = Host::with(|set| set.paths = vec![set.paths[0].join("only")]);
    host.write("only", "one");
    host.write("other", "not mine");
    host.reign();
    assert_eq!((host.logged("only").as_deref(), host.logged("other")), (Some("one"), None));
    host.write("only.new", "two");
    fs::rename(host.root.join("only.new"), host.root.join("only")).unwrap();
    host.look();
    assert_eq!(host.logged("only").as_deref(), Some("two"));
    fs::remove_file(host.root.join("only")).unwrap();
    host.look();
    assert_eq!(host.logged("only"), None);
    host.follow();
    host.say_file("only", "three");
    host.say_file("other", "hostile");
    host.news();
    assert_eq!(
        (host.content("only").as_deref(), host.content("other").as_deref()),
        (Some("three"), Some("not mine"))
    );
}

#[test]
fn nothing_is_done_while_no_primary_is_known_or_its_log_is_not_applied() {
    let mut host = Host::new();
    host.write("f", "one");
    host.look();
    assert_eq!(host.logged("f"), None);
    // A reign of which the log here has nothing yet.
    host.epoch = 1;
    host.say_file("f", "two");
    host.worker().take(Order::Follow(Some(Epoch(9))));
    host.look();
    assert_eq!(host.content("f").as_deref(), Some("one"));
    // The status comes after what was applied: it is looked for without another word.
    assert!(host.worker().wait() <= CAUGHT_UP_EVERY);
    host.epoch = 8;
    host.new_reign(ReplicaRole::Following);
    host.say_file("f", "two");
    host.worker().work();
    assert_eq!(host.content("f").as_deref(), Some("two"));
    assert!(host.worker().wait() > CAUGHT_UP_EVERY);
    // And a reign of this member that is over before it began.
    let taken = host.worker().take_over(Epoch(12));
    assert_eq!(taken[0].failures.len(), 1);
    host.look();
    assert_eq!((host.content("f").as_deref(), host.logged("f").as_deref()), (Some("two"), Some("two")));
}

#[test]
fn a_crash_at_any_step_leaves_the_old_file_or_the_new_one() {
    let host = Host::new();
    let stages = [Stage::Created, Stage::Written, Stage::Dressed, Stage::Renamed, Stage::Done];
    let (uid, gid) = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
    for stage in stages {
        host.write("f", "old");
        let wanted =
            Wanted { kind: Kind::File, mode: 0o600, uid, gid, modified_ns: 0, content: b"new and longer" };
        let placed = place_until(&host.set, &host.path("f"), &wanted, stage);
        assert_eq!(placed.is_ok(), stage == Stage::Done);
        let whole = if stage < Stage::Renamed { "old" } else { "new and longer" };
        assert_eq!(host.content("f").as_deref(), Some(whole), "{stage:?}");
        // What it left is cleared away at the next look, and was never taken for a file of the set.
        let scan = tree::scan(&host.set, &mut |_| {});
        assert_eq!(scan.found.len(), 2, "{stage:?}");
        assert_eq!(fs::read_dir(&host.root).unwrap().count(), 1, "{stage:?}");
    }
}

#[test]
fn the_kernel_tells_of_changes_in_directories_that_came_later_too() {
    let host = Host::new();
    let (told, words) = channel();
    let watcher = Watcher::start(move |word| drop(told.send(word))).unwrap();
    watcher.add(&host.root, 3, Interest::All).unwrap();
    let heard = || match words.recv_timeout(Duration::from_secs(10)) {
        Ok(Word::Changed(set)) => set,
        _ => panic!("nothing was told"),
    };
    host.write("f", "one");
    assert_eq!(heard(), 3);
    let number = watcher.add(host.root.parent().unwrap(), 5, Interest::Name("wanted".into())).unwrap();
    watcher.keep_only(3, &HashSet::new());
    while words.try_recv().is_ok() {}
    host.write("f", "two");
    fs::write(host.root.with_file_name("unwanted"), "x").unwrap();
    fs::write(host.root.with_file_name("wanted"), "x").unwrap();
    assert_eq!(heard(), 5);
    watcher.keep_only(5, &HashSet::from([number]));
    assert!(words.try_iter().all(|word| matches!(word, Word::Changed(5))));
}

#[test]
fn a_link_stays_only_where_it_cannot_lead_out() {
    let set = set_of(vec!["/etc/app".into(), "/srv/x".into()]);
    let stays = |target: &str| tree::link_stays(&set, "/etc/app/a/l", target);
    for target in ["b", "b/c", "../b", "../a/b", "/etc/app/b", "/srv/x", "/srv/x/y", ".."] {
        assert!(stays(target), "{target}");
    }
    for target in [
        "",
        "/",
        "../..",
        "../../b",
        "../../app/b",
        "b/../c",
        "./b",
        "/etc",
        "/etc/app/../x",
        "/etc/shadow",
        "b/",
        "../",
    ] {
        assert!(!stays(target), "{target}");
    }
}
