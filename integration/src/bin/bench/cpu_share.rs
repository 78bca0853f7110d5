//! Processors divided by the kernel: each share is a control group with a quota, removed with it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Where the kernel's controller for processors is mounted, version 1 and version 2.
const VERSION_1: &str = "/sys/fs/cgroup/cpu";
const VERSION_2: &str = "/sys/fs/cgroup";
/// Short, so that a group that has used its part waits for the next one for less than a sync takes, in microseconds.
const PERIOD_US: u64 = 5_000;

/// A part of this machine's processors.
#[derive(Debug)]
pub(super) struct CpuShare {
    dir: PathBuf,
    parent: PathBuf,
}

impl CpuShare {
    /// A share of `processors`, which may be a fraction, for whom [`CpuShare::admit`] puts in.
    pub(super) fn new(name: &str, processors: f64) -> Result<CpuShare> {
        let version_1 = Path::new(VERSION_1).join("cpu.shares").exists();
        let parent = PathBuf::from(if version_1 { VERSION_1 } else { VERSION_2 });
        let dir = parent.join(format!("holdfast-{}-{name}", std::process::id()));
        fs::create_dir(&dir).with_context(|| {
            format!(
                "{}: a control group cannot be made; this needs root of the machine itself",
                dir.display()
            )
        })?;
        let share = CpuShare { dir, parent };
        let quota = (processors * PERIOD_US as f64) as u64;
        if version_1 {
            share.set("cpu.cfs_period_us", &PERIOD_US.to_string())?;
            share.set("cpu.cfs_quota_us", &quota.to_string())?;
            // Where the kernel divides real time too, a group has none of its own, and who needs it cannot enter.
            if share.dir.join("cpu.rt_runtime_us").exists() {
                share.set("cpu.rt_runtime_us", "150000")?;
            }
        } else {
            share.set("cpu.max", &format!("{quota} {PERIOD_US}"))?;
        }
        Ok(share)
    }

    /// Puts a process with all its threads into the share; `pid` as seen from here.
    pub(super) fn admit(&self, pid: u32) -> Result<()> {
        self.set("cgroup.procs", &pid.to_string())
    }

    fn set(&self, file: &str, value: &str) -> Result<()> {
        let path = self.dir.join(file);
        fs::write(&path, value).with_context(|| format!("write {value:?} to {}", path.display()))
    }
}

impl Drop for CpuShare {
    /// Whoever is left in it goes back to everybody's share.
    fn drop(&mut self) {
        let inside = fs::read_to_string(self.dir.join("cgroup.procs")).unwrap_or_default();
        for pid in inside.lines() {
            let _ = fs::write(self.parent.join("cgroup.procs"), pid);
        }
        let _ = fs::remove_dir(&self.dir);
    }
}

/// The processes in the same process namespace as `init`, as seen from here.
pub(super) fn processes_of(init: u32) -> Result<Vec<u32>> {
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/pid"));
    let wanted = namespace(init).with_context(|| format!("the namespace of process {init}"))?;
    let all = fs::read_dir("/proc").context("/proc")?.flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let found: Vec<u32> = pids.filter(|pid| namespace(*pid).is_ok_and(|of| of == wanted)).collect();
    if found.is_empty() {
        bail!("no process of {init} was found");
    }
    Ok(found)
}
