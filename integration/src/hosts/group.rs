//! The control groups of a host, from outside: systemd needs a tree of its own, and nobody else removes it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Where the kernel shows them.
const ROOT: &str = "/sys/fs/cgroup";
/// With the process id of the test behind it, so that what a killed test left is known.
const PREFIX: &str = "holdfast-hosts-";
/// Below the group that nspawn is started in, it puts the system here.
const PAYLOAD: &str = "payload";
/// What a starving unit has, bytes.
const MORSEL: &str = "524288";
/// Longest that it lives on that.
const HUNGER: Duration = Duration::from_secs(20);

/// The groups of one host, one for each hierarchy that systemd manages.
pub struct Group {
    dirs: Vec<PathBuf>,
}

impl Group {
    /// Those of the host `name`. Makes nothing yet.
    pub fn of(name: &str) -> Group {
        let name = format!("{PREFIX}{}-{name}", std::process::id());
        Group { dirs: hierarchies().into_iter().map(|root| root.join(&name)).collect() }
    }

    /// Makes them, and removes those of tests that are gone.
    pub(super) fn make(&self) -> Result<&[PathBuf]> {
        for root in hierarchies() {
            for entry in fs::read_dir(&root).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                let pid =
                    name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
                if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
                    remove_tree(&entry.path());
                }
            }
        }
        for dir in &self.dirs {
            fs::create_dir_all(dir).with_context(|| format!("make the control group {}", dir.display()))?;
        }
        Ok(&self.dirs)
    }

    pub(super) fn remove(&self) {
        for dir in &self.dirs {
            remove_tree(dir);
        }
    }

    /// Where the group of a unit is in the hierarchy by which systemd tracks processes.
    pub fn of_unit(&self, unit: &str) -> Option<PathBuf> {
        let below = format!("{PAYLOAD}/system.slice/{unit}");
        self.dirs.iter().map(|dir| dir.join(&below)).find(|dir| dir.join("cgroup.procs").exists())
    }

    /// The processes of a unit, as numbered outside.
    pub fn processes_of(&self, unit: &str) -> Result<Vec<i32>> {
        let dir = self.of_unit(unit).with_context(|| format!("{unit} has no control group"))?;
        let text = fs::read_to_string(dir.join("cgroup.procs"))?;
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }
}

/// How a unit was starved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Starved {
    /// Its group had less memory than it needed, and the kernel killed all of it at once.
    ByKernel,
    /// The kernel of this machine cannot kill a group: it killed a process for want of memory, and in that moment the
    /// others got the same signal from here.
    WithHelp,
    /// Nobody may limit memory here: all of its processes got that signal from here at once.
    BySignal,
}

impl Group {
    /// Leaves the processes of a unit next to no memory, until all of them were killed for want of it.
    pub fn starve(&self, unit: &str) -> Result<Starved> {
        let dir = self.of_unit(unit).with_context(|| format!("{unit} has no control group"))?;
        if dir.join("memory.oom.group").exists() {
            fs::write(dir.join("memory.oom.group"), "1")?;
            // The kernel takes back what it can, and then kills. The group goes with its last process.
            fs::write(dir.join("memory.max"), MORSEL)?;
            return Ok(Starved::ByKernel);
        }
        let hierarchy = Path::new(ROOT).join("memory");
        if !hierarchy.join("memory.limit_in_bytes").exists() {
            self.kill_all(unit);
            return Ok(Starved::BySignal);
        }
        let memory = hierarchy.join(format!("{PREFIX}{}-starved", std::process::id()));
        fs::create_dir_all(&memory).with_context(|| format!("make {}", memory.display()))?;
        fs::write(memory.join("memory.limit_in_bytes"), MORSEL)?;
        for pid in self.processes_of(unit)? {
            fs::write(memory.join("cgroup.procs"), pid.to_string())?;
        }
        let end = Instant::now() + HUNGER;
        let killed = || -> Result<bool> {
            let said = fs::read_to_string(memory.join("memory.oom_control"))?;
            Ok(said.lines().any(|line| line.strip_prefix("oom_kill ").is_some_and(|count| count != "0")))
        };
        while !killed()? {
            ensure!(Instant::now() < end, "the kernel killed nobody within {} s", HUNGER.as_secs());
            std::thread::sleep(Duration::from_millis(1));
        }
        self.kill_all(unit);
        while fs::remove_dir(&memory).is_err() {
            ensure!(Instant::now() < end, "{} is not empty: somebody was not killed", memory.display());
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(Starved::WithHelp)
    }

    fn kill_all(&self, unit: &str) {
        // None left is what is wanted.
        for pid in self.processes_of(unit).unwrap_or_default() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// The hierarchies that systemd puts processes into: one where there is only the new kind, else the named one of the
/// old kind and, beside it, the new one without controllers.
fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new(ROOT);
    if root.join("cgroup.controllers").exists() {
        return vec![root.to_owned()];
    }
    ["systemd", "unified"].iter().map(|name| root.join(name)).filter(|dir| dir.is_dir()).collect()
}

/// Groups are removed from below, and only when nobody is in them.
fn remove_tree(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let _ = fs::remove_dir(dir);
}
