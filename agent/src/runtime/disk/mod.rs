//! The durable-write probe: does the disk still take a small write within its bound?
//!
//! ```text
//!   disk-write n   writes and syncs a block, once a second, and may hang in the kernel for ever
//!   disk-watch     looks at how far the writers are, and never touches a disk
//! ```
//!
//! One writer for each file system below `store.data_dir` and `state_dir`: log and votes may lie on two. A block
//! of its own file is written over and over, so that no space is needed after the first time; a disk without
//! space is full, not bad (see `runtime::log_thread` for the reserve). The judgement is in `judge.rs`.

mod judge;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_config::show_duration;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use self::judge::{Bad, Ended, Judge, Progress};
use crate::node::event::Event;

/// Time between two writes.
const WRITE_EVERY: Duration = Duration::from_secs(1);
/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// What is written: a block, as file systems have them.
const BLOCK_BYTES: usize = 4096;
/// The file that is written. It holds a counter, and can be deleted while no agent runs.
const FILE_NAME: &str = "disk-probe";

/// The disk as `ha status` shows it: of several, the worst.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStatus {
    /// Small writes are durable in time.
    pub good: bool,
    /// Why not, in words; empty while it is good.
    pub detail: String,
    /// How long the last write took, or the one under way has taken so far.
    pub last_write_ms: u64,
}

/// What was judged last, for whoever shows it. The lock is held for a copy, never across I/O.
#[derive(Clone)]
pub struct DiskShown(Arc<Mutex<DiskStatus>>);

impl DiskShown {
    /// The newest judgement.
    pub fn read(&self) -> DiskStatus {
        self.0.lock().clone()
    }
}

/// Starts the threads. Says something when the judgement changes.
///
/// # Errors
/// Where a thread cannot be started. A directory that cannot be written is a bad disk, and no error.
pub fn spawn(
    dirs: &[PathBuf],
    bound: Duration,
    report: impl Fn(Event) + Send + 'static,
) -> io::Result<DiskShown> {
    let shown =
        DiskShown(Arc::new(Mutex::new(DiskStatus { good: true, detail: String::new(), last_write_ms: 0 })));
    let mut watched = Vec::new();
    for (n, dir) in on_different_disks(dirs).into_iter().enumerate() {
        let progress = Arc::new(Mutex::new(Progress::default()));
        watched.push(Watched {
            dir: dir.clone(),
            progress: progress.clone(),
            judge: Judge::new(bound, LOOK_EVERY),
        });
        std::thread::Builder::new()
            .name(format!("disk-write {n}"))
            .spawn(move || write_for_ever(&dir, &progress))?;
    }
    let told = shown.clone();
    std::thread::Builder::new()
        .name("disk-watch".into())
        .spawn(move || watch_for_ever(watched, bound, &told, &report))?;
    Ok(shown)
}

/// One directory of each file system, in the order given. One that cannot be looked at counts as another one.
fn on_different_disks(dirs: &[PathBuf]) -> Vec<PathBuf> {
    let device = |dir: &Path| std::fs::metadata(dir).map(|found| found.dev()).ok();
    let mut chosen: Vec<(PathBuf, Option<u64>)> = Vec::new();
    for dir in dirs {
        let its = device(dir);
        let known = chosen.iter().any(|(other, of)| other == dir || its.is_some() && *of == its);
        if !known {
            chosen.push((dir.clone(), its));
        }
    }
    chosen.into_iter().map(|(dir, _)| dir).collect()
}

fn write_for_ever(dir: &Path, progress: &Mutex<Progress>) {
    let mut file = None;
    for count in 1u64.. {
        let begun = Instant::now();
        progress.lock().begun = count;
        let outcome = match write_once(dir, &mut file, count) {
            Ok(()) => Ended::Durable,
            Err(error) => {
                // What a failed sync left behind is not asked about again.
                file = None;
                let no_space =
                    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
                if no_space { Ended::NoSpace } else { Ended::Failed(error.to_string()) }
            }
        };
        {
            let mut progress = progress.lock();
            progress.ended = count;
            progress.outcome = Some(outcome);
            progress.took = begun.elapsed();
        }
        std::thread::sleep(WRITE_EVERY.saturating_sub(begun.elapsed()).max(LOOK_EVERY * 3));
    }
}

fn write_once(dir: &Path, file: &mut Option<File>, count: u64) -> io::Result<()> {
    let open = || {
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits())
            .open(dir.join(FILE_NAME))
    };
    let file = match file {
        Some(file) => file,
        None => file.insert(open()?),
    };
    let mut block = [0; BLOCK_BYTES];
    block[..8].copy_from_slice(&count.to_le_bytes());
    file.write_all_at(&block, 0)?;
    file.sync_data()
}

/// A directory, its writer's progress, and what is thought of it.
struct Watched {
    dir: PathBuf,
    progress: Arc<Mutex<Progress>>,
    judge: Judge,
}

fn watch_for_ever(mut watched: Vec<Watched>, bound: Duration, shown: &DiskShown, report: &impl Fn(Event)) {
    let mut looked = Instant::now();
    let mut said = None;
    loop {
        std::thread::sleep(LOOK_EVERY);
        let since = looked.elapsed();
        looked = Instant::now();
        let mut slowest = Duration::ZERO;
        for disk in &mut watched {
            let progress = disk.progress.lock().clone();
            disk.judge.look(since, &progress);
            let under_way =
                if progress.ended < progress.begun { disk.judge.waited() } else { Duration::ZERO };
            slowest = slowest.max(under_way).max(progress.took);
        }
        let bad = watched.iter().find_map(|disk| Some((&disk.dir, disk.judge.bad()?)));
        let detail = bad.map_or(String::new(), |(dir, bad)| in_words(dir, bad, bound));
        *shown.0.lock() = DiskStatus {
            good: detail.is_empty(),
            detail: detail.clone(),
            last_write_ms: slowest.as_millis() as u64,
        };
        let bad_before = std::mem::replace(&mut said, bad.map(|(dir, bad)| (dir.clone(), bad.clone())));
        if bad_before.is_some() != said.is_some() {
            report(Event::DiskJudged { good: said.is_none(), detail });
        }
    }
}

fn in_words(dir: &Path, bad: &Bad, bound: Duration) -> String {
    match bad {
        Bad::Late => format!(
            "the disk of {} is stalled: a small write was not durable within {} (store.disk_timeout)",
            dir.display(),
            show_duration(bound)
        ),
        Bad::Failed(why) => format!("the disk of {} failed a small write: {why}", dir.display()),
    }
}

#[cfg(test)]
mod tests {
    use crate::runtime::mailbox::channel;

    use super::*;

    /// Longer than any machine takes, shorter than anybody waits.
    const SOON: Duration = Duration::from_secs(60);

    #[test]
    fn a_block_is_written_over_and_over_and_is_on_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = None;
        for count in [1, 2, 300] {
            write_once(dir.path(), &mut file, count).unwrap();
            let bytes = std::fs::read(dir.path().join(FILE_NAME)).unwrap();
            assert_eq!(bytes.len(), BLOCK_BYTES);
            assert_eq!(bytes[..8], count.to_le_bytes());
        }
    }

    #[test]
    fn a_directory_that_takes_no_write_is_a_bad_disk_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("gone");
        let (told, events) = channel();
        let shown =
            spawn(std::slice::from_ref(&gone), Duration::from_secs(5), move |event| drop(told.send(event)))
                .unwrap();
        let Ok(Event::DiskJudged { good: false, detail }) = events.recv_timeout(SOON) else {
            panic!("a bad disk was expected")
        };
        assert!(detail.contains("failed a small write: No such file"), "{detail}");
        assert!(!shown.read().good);
        // And recovers by itself, after several writes in time.
        std::fs::create_dir(&gone).unwrap();
        let Ok(Event::DiskJudged { good: true, .. }) = events.recv_timeout(SOON) else {
            panic!("a good disk was expected")
        };
    }

    /// A pipe without a reader stands for a disk that hangs: opening it for writing does not come back.
    #[test]
    fn a_write_that_hangs_in_the_kernel_is_noticed_by_somebody_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let (told, events) = channel();
        let bound = Duration::from_secs(1);
        let begun = Instant::now();
        spawn(&[dir.path().to_owned()], bound, move |event| drop(told.send(event))).unwrap();
        let Ok(Event::DiskJudged { good: false, detail }) = events.recv_timeout(SOON) else {
            panic!("a stalled disk was expected")
        };
        assert!(detail.contains("not durable within 1s"), "{detail}");
        assert!(begun.elapsed() >= bound, "and not before the bound");
    }

    #[test]
    fn directories_of_one_file_system_have_one_writer() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::create_dir(&a).unwrap();
        std::fs::create_dir(&b).unwrap();
        assert_eq!(on_different_disks(&[a.clone(), b]), std::slice::from_ref(&a));
        assert_eq!(on_different_disks(&[a.clone(), "/proc".into()]), [a, "/proc".into()]);
    }
}
