//! Makes a host busy in the ways that make keepers of addresses late: processors, memory, disk.
//!
//! Each kind of pressure ends with its guard, whatever became of the test. The disk is a real file system
//! on a loop device, frozen as `fsfreeze` freezes it: nothing that is written to it ends before it thaws.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Threads that never sleep: two for each processor.
pub struct BusyProcessors {
    end: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl BusyProcessors {
    /// Begins.
    pub fn start() -> BusyProcessors {
        let end = Arc::new(AtomicBool::new(false));
        let spin = |end: Arc<AtomicBool>| {
            move || {
                let mut n = 0u64;
                while !end.load(Ordering::Relaxed) {
                    n = std::hint::black_box(n.wrapping_mul(31) + 1);
                }
            }
        };
        let threads = thread::available_parallelism().map_or(2, usize::from) * 2;
        BusyProcessors { threads: (0..threads).map(|_| thread::spawn(spin(end.clone()))).collect(), end }
    }
}

impl Drop for BusyProcessors {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A file system of its own that can be frozen.
pub struct LoopDisk {
    mounted_at: PathBuf,
}

impl LoopDisk {
    /// Makes one of `megabytes` in `image` and mounts it on the empty directory `at`. Needs root.
    pub fn mount(image: &Path, at: &Path, megabytes: u64) -> Result<LoopDisk> {
        fs::File::create(image)?.set_len(megabytes << 20)?;
        run(Command::new("mkfs.ext4").arg("-q").arg(image))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(image).arg(at))?;
        Ok(LoopDisk { mounted_at: at.to_owned() })
    }

    /// Freezes and thaws it again and again until the guard is dropped.
    pub fn stall_now_and_then(&self, frozen: Duration, thawed: Duration) -> Stalls<'_> {
        let (end, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let (told, counted, at) = (end.clone(), count.clone(), self.mounted_at.clone());
        let thread = thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                if let Err(error) = run(Command::new("fsfreeze").arg("-f").arg(&at)) {
                    eprintln!("the disk does not freeze: {error:#}");
                    return;
                }
                thread::park_timeout(frozen);
                while let Err(error) = run(Command::new("fsfreeze").arg("-u").arg(&at)) {
                    eprintln!("the disk does not thaw: {error:#}; trying again");
                    thread::sleep(Duration::from_millis(100));
                }
                counted.fetch_add(1, Ordering::Relaxed);
                thread::park_timeout(thawed);
            }
        });
        Stalls { end, count, thread: Some(thread), _disk: self }
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        // Lazily: whoever still has a file open there is about to end.
        if let Err(error) = run(Command::new("umount").arg("-l").arg(&self.mounted_at)) {
            eprintln!("{} stays mounted: {error:#}", self.mounted_at.display());
        }
    }
}

/// A disk that stalls now and then; thawed when this is dropped.
pub struct Stalls<'d> {
    end: Arc<AtomicBool>,
    count: Arc<AtomicU32>,
    thread: Option<JoinHandle<()>>,
    _disk: &'d LoopDisk,
}

impl Stalls<'_> {
    /// How often it stalled and thawed.
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }
}

impl Drop for Stalls<'_> {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

/// A memory cgroup of this process and its children to come.
pub struct TightMemory {
    group: PathBuf,
    home: PathBuf,
    reader: Option<Child>,
}

impl TightMemory {
    /// Moves this process into a group that may use `limit_bytes`, page cache included; none where this
    /// machine has no memory cgroup that could be used.
    pub fn enter(limit_bytes: u64) -> Result<Option<TightMemory>> {
        let (root, limit) =
            match [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")]
                .into_iter()
                .find(|(root, _)| Path::new(root).join("cgroup.procs").is_file())
            {
                Some((root, limit)) => (PathBuf::from(root), limit),
                None => return Ok(None),
            };
        if limit == "memory.max" {
            // Where nobody has done it already; refused where this is not the root group.
            let _ = fs::write(root.join("cgroup.subtree_control"), "+memory");
        }
        let group = root.join(format!("holdfast-busy-{}", std::process::id()));
        fs::create_dir(&group).with_context(|| format!("make {}", group.display()))?;
        let memory = TightMemory { group, home: root, reader: None };
        if !memory.group.join(limit).is_file() {
            return Ok(None);
        }
        fs::write(memory.group.join(limit), limit_bytes.to_string())?;
        fs::write(memory.group.join("cgroup.procs"), std::process::id().to_string())?;
        Ok(Some(memory))
    }

    /// Reads `file`, which should be larger than the limit, again and again: every page that can go has to.
    pub fn squeeze(&mut self, file: &Path) -> Result<()> {
        let read = "while :; do cat \"$0\" > /dev/null; done";
        let mut command = Command::new("sh");
        command.args(["-c", read]).arg(file).stdin(Stdio::null());
        self.reader = Some(command.spawn().context("start the reader")?);
        Ok(())
    }
}

impl Drop for TightMemory {
    fn drop(&mut self) {
        if let Some(mut reader) = self.reader.take() {
            let _ = reader.kill();
            let _ = reader.wait();
        }
        let _ = fs::write(self.home.join("cgroup.procs"), std::process::id().to_string());
        // The reader's last child may take a moment to go.
        for _ in 0..50 {
            if fs::remove_dir(&self.group).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        eprintln!("{} stays", self.group.display());
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
