//! One host: boots, is asked, is switched off. It decides nothing.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use holdfast_agent::lab::world::Machine;

use super::group::Group;
use super::image::Layers;

/// Longest that a boot, or an orderly end, may take on a busy machine.
const BOOT_LIMIT: Duration = Duration::from_secs(90);
/// Longest that one command on a host may take; an installation is the longest.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);
/// How often a wait looks again.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// systemd-nspawn ends with this status where the host asked for a reboot (EXIT_FORCE_RESTART).
const WANTS_REBOOT: i32 = 133;
/// Lines of journal or console that a failure shows.
const TAIL_LINES: usize = 60;

/// Runs in the machine of the lab, as its only process beside the first: mounts the disk and boots. Arguments: the
/// machine's directory, its name, the layers of the image, a device to share, and the host's control groups.
///
/// The lab's own /sys has no control groups in it, and lies over the one that has. /run is not shared with this machine,
/// where nspawn would leave something behind. What it writes in the end is its status.
const BOOT: &str = r#"
dir=$1 name=$2 layers=$3 bind=$4
shift 4
trap 'echo $? >"$dir/ended"' EXIT
set -e
umount --lazy /sys
mount -t tmpfs -o mode=755 tmpfs /run
mount -t overlay overlay -o "lowerdir=$layers,upperdir=$dir/disk,workdir=$dir/work" "$dir/root"
for group; do echo $$ >"$group/cgroup.procs"; done
SYSTEMD_NSPAWN_API_VFS_WRITABLE=network SYSTEMD_LOG_TARGET=console \
    systemd-nspawn --quiet --boot --directory="$dir/root" --machine="$name" --hostname="$name" \
    --register=no --keep-unit --network-namespace-path=/proc/self/ns/net \
    --capability=all --system-call-filter=bpf \
    ${bind:+--bind="$bind"} --link-journal=no --resolv-conf=off --timezone=off --console=pipe
"#;

/// A command as an operator at the host's own terminal runs it, and not as the test's environment would have it.
const AS_ROOT: [&str; 6] = [
    "env",
    "-i",
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME=/root",
    "LANG=C.UTF-8",
    "DEBIAN_FRONTEND=noninteractive",
];

/// What a command said.
#[derive(Clone, Debug)]
pub struct Said {
    /// Its exit status, or 128 plus the signal that ended it.
    pub status: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {}: {}{}", self.status, self.stdout, self.stderr)
    }
}

/// A machine with a systemd of its own, on or off.
pub struct Host {
    machine: Arc<Machine>,
    layers: Layers,
    /// A device that it shares with others, with its name on the host: `/dev/loop0:/dev/shared`.
    shared: String,
    group: Group,
    /// The first process of the system, as numbered in the lab's machine.
    first: Mutex<Option<i32>>,
}

impl Host {
    /// A host that is off, with an empty disk over `layers`.
    pub fn new(machine: Arc<Machine>, layers: Layers) -> Host {
        let group = Group::of(machine.name());
        Host { machine, layers, shared: String::new(), group, first: Mutex::new(None) }
    }

    /// The same with a device of this machine in it, by another name.
    pub fn sharing(mut self, device: &Path, name: &str) -> Host {
        self.shared = format!("{}:{name}", device.display());
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.machine.name()
    }

    /// Its cables and power switch.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Its control groups, as seen from outside.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// Whether a system runs on it.
    pub fn is_on(&self) -> bool {
        self.first().is_some()
    }

    fn first(&self) -> Option<i32> {
        *self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_first(&self, pid: Option<i32>) {
        *self.first.lock().unwrap_or_else(PoisonError::into_inner) = pid;
    }

    fn path(&self, name: &str) -> PathBuf {
        self.machine.dir().join(name)
    }

    /// Switches it on and waits until systemd has started everything that it starts at boot. Nothing happens where it
    /// is on.
    pub fn boot(&self) -> Result<()> {
        if self.is_on() {
            return Ok(());
        }
        for dir in ["disk", "work", "root"] {
            fs::create_dir_all(self.path(dir))?;
        }
        let _ = fs::remove_file(self.path("ended"));
        // A lab's machine that an orderly end left behind without power has to be switched off first.
        self.machine.power_off()?;
        self.plug_in()?;
        let groups = self.group.make()?;
        let dir = self.machine.dir().display().to_string();
        let mut argv = ["sh", "-c", BOOT, "sh", &dir, self.name(), &self.layers.0, &self.shared]
            .map(str::to_owned)
            .to_vec();
        argv.extend(groups.iter().map(|group| group.display().to_string()));
        let shell = self.machine.start_process(&argv, &[], "console.log")?;
        let find =
            format!("pgrep -x 'systemd|init' --parent \"$(pgrep -x systemd-nspawn --parent {shell})\"");
        let end = Instant::now() + BOOT_LIMIT;
        let first = loop {
            let found = self.machine.execute(&["sh", "-c", &find], COMMAND_LIMIT)?;
            if let Ok(pid) = found.stdout.trim().parse() {
                break pid;
            }
            self.check(end, "the first process")?;
        };
        self.set_first(Some(first));
        loop {
            let said = self.try_run("systemctl is-system-running --wait")?;
            // One failed unit is the test's business.
            if ["running", "degraded"].contains(&said.stdout.trim()) {
                return Ok(());
            }
            self.check(end, &format!("the boot ({})", said.stdout.trim()))?;
        }
    }

    /// Switches the lab's machine on. One at a time: until it is plugged in, a cable has the same name for each.
    fn plug_in(&self) -> Result<()> {
        static ONE: Mutex<()> = Mutex::new(());
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        self.machine.boot()
    }

    fn check(&self, end: Instant, what: &str) -> Result<()> {
        if let Some(status) = self.ended() {
            bail!("systemd-nspawn of {} ended with status {status}:\n{}", self.name(), self.console());
        }
        ensure!(Instant::now() < end, "{what} of {} took more than {} s", self.name(), BOOT_LIMIT.as_secs());
        std::thread::sleep(LOOK_EVERY);
        Ok(())
    }

    fn ended(&self) -> Option<i32> {
        fs::read_to_string(self.path("ended")).ok()?.trim().parse().ok()
    }

    /// Cuts its power: every process is gone at once, and the kernel's state with the network namespace.
    pub fn cut_power(&self) -> Result<()> {
        self.set_first(None);
        self.machine.power_off()?;
        self.group.remove();
        Ok(())
    }

    /// Shuts it down in good order, as `systemctl poweroff` does.
    pub fn shut_down(&self) -> Result<()> {
        self.end_by("systemctl poweroff", 0)
    }

    /// Reboots it in good order. The kernel's state goes with it, as it does with a real one.
    pub fn reboot(&self) -> Result<()> {
        self.end_by("systemctl reboot", WANTS_REBOOT)?;
        self.boot()
    }

    fn end_by(&self, command: &str, wanted: i32) -> Result<()> {
        // The command may be ended by what it begins.
        let _ = self.try_run(command);
        let end = Instant::now() + BOOT_LIMIT;
        let status = loop {
            if let Some(status) = self.ended() {
                break status;
            }
            ensure!(Instant::now() < end, "{command} on {} did not end it", self.name());
            std::thread::sleep(LOOK_EVERY);
        };
        self.cut_power()?;
        ensure!(status == wanted, "after {command}, {} ended with status {status}", self.name());
        Ok(())
    }

    /// Runs a line of shell on it; anything but success is an error.
    pub fn run(&self, command: &str) -> Result<Said> {
        let said = self.try_run(command)?;
        ensure!(said.status == 0, "on {}, `{command}` ended with {said}", self.name());
        Ok(said)
    }

    /// Runs a line of shell on it, whatever comes of it.
    pub fn try_run(&self, command: &str) -> Result<Said> {
        let first = self.first().with_context(|| format!("the host {} is off", self.name()))?.to_string();
        let mut argv = vec!["nsenter", "--target", &first, "--all", "--"];
        argv.extend(AS_ROOT);
        argv.extend(["bash", "-c", command]);
        let output = self.machine.execute(&argv, COMMAND_LIMIT)?;
        Ok(Said { status: output.status, stdout: output.stdout, stderr: output.stderr })
    }

    /// Where a path of its disk is, as seen from outside while it is on.
    fn seen(&self, path: &str) -> Result<PathBuf> {
        let root = format!("/proc/{}/root{}/root", self.machine.init_pid()?, self.machine.dir().display());
        Ok(Path::new(&root).join(path.trim_start_matches('/')))
    }

    /// The text of a file.
    pub fn read(&self, path: &str) -> Result<String> {
        fs::read_to_string(self.seen(path)?).with_context(|| format!("read {path} on {}", self.name()))
    }

    /// Writes a file, readable by its owner alone.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        fs::write(self.seen(path)?, text).with_context(|| format!("write {path} on {}", self.name()))?;
        self.run(&format!("chmod 600 {path}")).map(drop)
    }

    /// The bytes of a file.
    pub fn bytes(&self, path: &str) -> Result<Vec<u8>> {
        fs::read(self.seen(path)?).with_context(|| format!("read {path} on {}", self.name()))
    }

    /// Writes bytes into a file that is there, and leaves its owner and mode.
    pub fn write_bytes(&self, path: &str, bytes: &[u8]) -> Result<()> {
        fs::write(self.seen(path)?, bytes).with_context(|| format!("write {path} on {}", self.name()))
    }

    /// Copies a file of this machine into a directory of the host; the result is its path there.
    pub fn copy_in(&self, file: &Path, to: &str) -> Result<String> {
        let name = file.file_name().and_then(|name| name.to_str()).context("a file with a name")?;
        let there = format!("{to}/{name}");
        fs::copy(file, self.seen(&there)?).with_context(|| format!("copy {name} onto {}", self.name()))?;
        Ok(there)
    }

    /// The end of its journal.
    pub fn journal(&self) -> String {
        // Without the host's own small talk at boot.
        let units = "-u 'holdfast*' -u haproxy -u 'postgresql*'";
        let said = self.try_run(&format!("journalctl --no-pager -o short-precise -n {TAIL_LINES} {units}"));
        said.map_or_else(|error| format!("{error:#}"), |said| said.stdout)
    }

    /// What its units said since they were started for the last time, or were to be.
    pub fn journal_of(&self, unit: &str) -> Result<String> {
        Ok(self.run(&format!("journalctl --no-pager -o cat -b -u {unit}"))?.stdout)
    }

    /// The end of what it wrote to its console.
    pub fn console(&self) -> String {
        let text = fs::read(self.path("console.log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // What is off already is what is wanted.
        let _ = self.cut_power();
    }
}
