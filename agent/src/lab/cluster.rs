//! A cluster of agents in a world: starts them, looks at them, breaks them and mends them.
//!
//! It never decides anything for the agents and has no way in but theirs: config files, signals, cables,
//! power and the API on each host's loopback.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use super::agent_api::{self, Answer, HistoryEntry, Status};
use super::ledger::Target;
use super::prober::ProbeTarget;
use super::settings::{ACCESS_KEY, CABLE, CLIENT, ClusterSpec, LAN, S3_PORT, SECRET_KEY};
use super::world::{NetNs, Plug, World, WorldSpec};

/// How often a wait looks again.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Time between two requests of the prober: it bounds how finely an outage is measured.
const PROBE_EVERY: Duration = Duration::from_millis(2);
/// How often a switchover is ordered again that was refused for want of a successor.
const ORDER_EVERY: Duration = Duration::from_millis(100);
/// The shortest lifetime of an address, which a lease of well below a second is rounded up to, with what the
/// kernel and the others add to it.
const LIFETIME_SLACK: Duration = Duration::from_secs(3);
/// Lines of each log that a failure shows.
const TAIL_LINES: usize = 25;

/// What can be done to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Cut its power: every process dies at once, nothing more leaves.
    PowerOff,
    /// Pull its cables: the carrier is lost.
    Cut,
    /// Pull the cable by which clients come; others stay plugged in.
    CutService,
    /// Lose all its packets at the switch, carrier intact.
    Deaf,
    /// Lose what it sends to the other members; what they send arrives.
    Unheard,
    /// Lose what the other members send to it; what it sends arrives.
    Unhearing,
    /// Stop every process on it (SIGSTOP), the supervisor too.
    Freeze,
    /// Stop the agent alone; its supervisor runs on.
    FreezeAgent,
    /// SIGKILL the agent; its supervisor lives.
    Kill,
    /// SIGKILL the agent and its supervisor.
    KillAll,
    /// Undo all of the above.
    Heal,
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(word: &str) -> Result<Fault, String> {
        FAULTS.iter().find(|(name, _)| *name == word).map(|(_, fault)| *fault).ok_or_else(|| {
            let names: Vec<&str> = FAULTS.iter().map(|(name, _)| *name).collect();
            format!("no fault is called {word:?}; there are {}", names.join(", "))
        })
    }
}

/// The words for the faults.
pub const FAULTS: [(&str, Fault); 11] = [
    ("power-off", Fault::PowerOff),
    ("cut", Fault::Cut),
    ("cut-service", Fault::CutService),
    ("deaf", Fault::Deaf),
    ("unheard", Fault::Unheard),
    ("unhearing", Fault::Unhearing),
    ("freeze", Fault::Freeze),
    ("freeze-agent", Fault::FreezeAgent),
    ("kill", Fault::Kill),
    ("kill-all", Fault::KillAll),
    ("heal", Fault::Heal),
];

/// A running cluster.
pub struct Cluster {
    spec: ClusterSpec,
    world: World,
    binary: PathBuf,
    dir: PathBuf,
    started: Mutex<BTreeSet<String>>,
}

impl Cluster {
    /// Builds the world in `dir` and starts the agents with `binary`. Does not wait for a primary.
    pub fn start(spec: ClusterSpec, dir: &Path, binary: &Path) -> Result<Cluster> {
        let mut networks = vec![LAN.to_owned()];
        if spec.cable || spec.hosts.is_some() {
            networks.push(CABLE.to_owned());
        }
        let hosts = spec.host_specs();
        let world =
            World::build(WorldSpec { dir: dir.to_owned(), binary: binary.to_owned(), networks, hosts })?;
        let cluster = Cluster {
            spec,
            world,
            binary: binary.to_owned(),
            dir: dir.to_owned(),
            started: Mutex::new(BTreeSet::new()),
        };
        for member in cluster.spec.members() {
            if !cluster.spec.idle.iter().any(|idle| idle == member) {
                cluster.start_agent(member)?;
            }
        }
        Ok(cluster)
    }

    /// The specification.
    pub fn spec(&self) -> &ClusterSpec {
        &self.spec
    }

    /// The hosts and networks.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Where the hosts keep their disks and logs.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn started(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.started.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the config file of `host` and starts its agent.
    pub fn start_agent(&self, host: &str) -> Result<()> {
        let machine = self.world.machine(host)?;
        let config = machine.dir().join("holdfast.hcl");
        if let Some(&size_bytes) = self.spec.small_disks.get(host) {
            machine.mount_small_disk(&machine.dir().join("store"), size_bytes)?;
        }
        machine.mount_var_lib()?;
        for dir in &self.spec.own_dirs {
            machine.mount_own_dir(dir)?;
        }
        write_private(&config, &self.spec.config_file(host, machine.dir()))
            .with_context(|| format!("write {}", config.display()))?;
        let argv = [self.binary.as_path(), Path::new("agent"), Path::new("--config"), &config];
        let argv: Vec<String> = argv.iter().map(|arg| arg.display().to_string()).collect();
        let env =
            [("HOLDFAST_LOG".to_owned(), self.spec.log.clone()), ("NO_COLOR".to_owned(), "1".to_owned())];
        machine.start_process(&argv, &env, "agent.log")?;
        self.started().insert(host.to_owned());
        Ok(())
    }

    /// The network namespace of `host`.
    pub fn netns(&self, host: &str) -> Result<NetNs> {
        self.world.machine(host)?.netns()
    }

    /// What the agent on `host` says about itself.
    pub fn status(&self, host: &str) -> Result<Status> {
        let mut status: Status = agent_api::get(&self.netns(host)?, "/api/ha/status")
            .with_context(|| format!("ask the agent on {host} for its status"))?;
        status.node = host.to_owned();
        Ok(status)
    }

    /// What the agents say that answer; those that are off or silent are left out.
    pub fn statuses(&self) -> Vec<Status> {
        let members = self.spec.members();
        thread::scope(|scope| {
            let asked: Vec<_> =
                members.iter().map(|&host| scope.spawn(move || self.status(host).ok())).collect();
            asked.into_iter().filter_map(|thread| thread.join().ok().flatten()).collect()
        })
    }

    /// The history of the agent on `host`.
    pub fn history(&self, host: &str) -> Result<Vec<HistoryEntry>> {
        agent_api::get(&self.netns(host)?, "/api/ha/history")
    }

    /// Tells the agent on `host` to do something.
    pub fn post(&self, host: &str, path: &str, body: Option<serde_json::Value>) -> Result<String> {
        agent_api::post(&self.netns(host)?, path, body)
    }

    /// Looks at the agents until `done` is content, or fails after `limit` with what was seen last.
    pub fn wait_until(
        &self,
        what: &str,
        limit: Duration,
        mut done: impl FnMut(&[Status]) -> bool,
    ) -> Result<Vec<Status>> {
        let end = Instant::now() + limit;
        loop {
            let seen = self.statuses();
            if done(&seen) {
                return Ok(seen);
            }
            if Instant::now() > end {
                bail!("{what}: not within {} s\n{}", limit.as_secs(), self.picture(&seen));
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Waits for a primary that answers clients on the virtual address; the result is its host.
    pub fn wait_for_primary(&self, limit: Duration) -> Result<String> {
        let seen = self.wait_until("a primary that holds the address", limit, |all| {
            all.iter().any(|s| s.is_primary() && s.vips.iter().all(|vip| vip.held))
        })?;
        Ok(seen.into_iter().find(Status::is_primary).map(|s| s.node).unwrap_or_default())
    }

    /// Waits until the primary counts every data member as in sync; the result is the primary.
    pub fn wait_in_sync(&self, limit: Duration) -> Result<String> {
        let wanted = self.spec.data_members;
        let whole = |s: &Status| s.is_primary() && s.in_sync.len() == wanted;
        let seen = self.wait_until("every data member in sync", limit, |all| all.iter().any(whole))?;
        Ok(seen.into_iter().find(whole).map(|s| s.node).unwrap_or_default())
    }

    /// Has the primary hand over, and waits until another member holds the address; the result is that member.
    /// A member that has just started may not stand yet, and the primary refuses to hand over to it: that
    /// refusal is waited out. A switchover that was begun and failed is an error.
    pub fn switch_over(&self, limit: Duration) -> Result<String> {
        let end = Instant::now() + limit;
        let from = self.wait_in_sync(limit)?;
        loop {
            match agent_api::order(&self.netns(&from)?, "/api/ha/failover", None)? {
                Answer::Done(_) => break,
                Answer::Declined { code, .. } if code == "no_successor" && Instant::now() < end => {
                    thread::sleep(ORDER_EVERY);
                }
                Answer::Declined { text, .. } => bail!("{from} refused to hand over: {text}"),
            }
        }
        let moved = |s: &Status| s.is_primary() && s.node != from && s.vips.iter().all(|vip| vip.held);
        let seen = self.wait_until("the switchover", limit, |all| all.iter().any(moved))?;
        Ok(seen.into_iter().find(moved).map(|s| s.node).unwrap_or_default())
    }

    /// What the kernel gate in use cannot promise: that of nftables may end one lease late, and without any
    /// the address is left to its lifetime, which the kernel counts in whole seconds.
    pub fn gate_slack(&self) -> Duration {
        let of = |status: &Status| match status.gate.as_str() {
            gate if gate.contains("BPF") => Duration::ZERO,
            gate if gate.starts_with("nftables") => self.spec.lease(),
            _ => LIFETIME_SLACK,
        };
        self.statuses().iter().filter(|s| s.kind == "data").map(of).max().unwrap_or_default()
    }

    /// Another data member than `host`.
    pub fn other_than(&self, host: &str) -> &'static str {
        let found = self.spec.data().iter().find(|&&d| d != host);
        found.copied().unwrap_or(self.spec.data()[0])
    }

    /// Does `fault` to `host`.
    pub fn inflict(&self, host: &str, fault: Fault) -> Result<()> {
        let machine = self.world.machine(host)?;
        match fault {
            Fault::PowerOff => {
                self.started().remove(host);
                machine.power_off()
            }
            Fault::Cut => machine.plug(None, Plug::Pulled),
            Fault::CutService => machine.plug(Some(LAN), Plug::Pulled),
            Fault::Deaf => machine.plug(None, Plug::Deaf),
            Fault::Unheard => self.other_members(host).try_for_each(|other| self.world.deafen(host, other)),
            Fault::Unhearing => self.other_members(host).try_for_each(|other| self.world.deafen(other, host)),
            Fault::Freeze => machine.signal_everybody(Signal::SIGSTOP),
            Fault::FreezeAgent => machine.signal(self.agent_pid(host)?, Signal::SIGSTOP),
            Fault::Kill => machine.signal(self.agent_pid(host)?, Signal::SIGKILL),
            Fault::KillAll => {
                self.started().remove(host);
                machine.signal_everybody(Signal::SIGKILL)
            }
            Fault::Heal => self.heal(host),
        }
    }

    fn other_members(&self, host: &str) -> impl Iterator<Item = &'static str> {
        self.spec.members().into_iter().filter(move |other| *other != host)
    }

    /// The agent's process id. Worth asking before the clock of a measurement starts.
    pub fn agent_pid(&self, host: &str) -> Result<i32> {
        let pid = self.status(host)?.pid;
        if pid <= 1 {
            bail!("the agent on {host} does not tell its process id");
        }
        Ok(pid)
    }

    fn heal(&self, host: &str) -> Result<()> {
        let machine = self.world.machine(host)?;
        machine.boot()?;
        machine.signal_everybody(Signal::SIGCONT)?;
        machine.plug(None, Plug::In)?;
        self.world.hear(host)?;
        let missing = self.spec.members().contains(&host) && !self.started().contains(host);
        if missing { self.start_agent(host) } else { Ok(()) }
    }

    /// Where S3 clients go, and with which keys.
    pub fn target(&self, bucket: &str) -> Target {
        Target {
            endpoint: format!("http://{}:{S3_PORT}", self.spec.vip),
            bucket: bucket.to_owned(),
            access_key: ACCESS_KEY.to_owned(),
            secret_key: SECRET_KEY.to_owned(),
        }
    }

    /// Where the prober asks.
    pub fn probe_target(&self) -> ProbeTarget {
        ProbeTarget { address: (self.spec.vip, S3_PORT).into(), every: PROBE_EVERY }
    }

    /// The client's namespace.
    pub fn client(&self) -> Result<NetNs> {
        self.netns(CLIENT)
    }

    fn picture(&self, seen: &[Status]) -> String {
        let mut text = String::new();
        for member in self.spec.members() {
            let _ = match seen.iter().find(|s| s.node == member) {
                Some(s) => writeln!(
                    text,
                    "  {member}: {} epoch {} primary {} in sync [{}] lease {} ms {}",
                    s.role,
                    s.epoch,
                    s.primary.as_deref().unwrap_or("none"),
                    s.in_sync.join(" "),
                    s.lease_remaining_ms.unwrap_or(0),
                    s.warnings.iter().chain(&s.waiting_for).cloned().collect::<Vec<_>>().join("; ")
                ),
                None => writeln!(text, "  {member}: does not answer"),
            };
        }
        text
    }

    /// The ends of all logs, for a failure's report.
    pub fn log_tails(&self) -> String {
        let mut text = self.picture(&self.statuses());
        for machine in self.world.machines() {
            for name in ["host.log", "agent.log"] {
                let path = machine.dir().join(name);
                let Ok(log) = std::fs::read(&path) else { continue };
                let log = String::from_utf8_lossy(&log);
                let lines: Vec<&str> = log.lines().collect();
                if lines.is_empty() {
                    continue;
                }
                let _ = writeln!(text, "--- {} (the last of {} lines)", path.display(), lines.len());
                for line in &lines[lines.len().saturating_sub(TAIL_LINES)..] {
                    let _ = writeln!(text, "  {line}");
                }
            }
        }
        text
    }
}

/// Writes a file that only its owner can read: there is a secret in it.
pub fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_found_by_its_word() {
        for (word, fault) in FAULTS {
            assert_eq!(word.parse(), Ok(fault));
        }
        assert!("explode".parse::<Fault>().unwrap_err().contains("power-off"));
    }
}
