//! One host: its power switch, its cables, and how to run things in it.
//!
//! A host that is off has no process and no namespace; what is left of it is its directory, as of a real
//! one its disk. Power-off takes the switch's end of its cables down first, so that not even the farewell
//! of a dying socket leaves, and then kills process 1.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::super::wire::{EVERYBODY, Fruit, Numbered, Order, Output, Report};
use super::links::{self, Mac};
use super::netns::NetNs;
use super::{HostSpec, LinkSpec, Plug, Ports, bridge_of, island_of};

/// Longest that the start of a host may take on a busy machine.
const BOOT_LIMIT: Duration = Duration::from_secs(20);
/// How much longer than the command's own limit the report about it may take.
const REPORT_LIMIT: Duration = Duration::from_secs(10);

/// A host of the lab, on or off.
pub struct Machine {
    spec: HostSpec,
    number: u8,
    dir: PathBuf,
    binary: PathBuf,
    switch: NetNs,
    boots: AtomicU32,
    power: Mutex<Option<Arc<Running>>>,
}

struct Running {
    netns: NetNs,
    init_pid: u32,
    ports: Ports,
    wrapper: Mutex<Child>,
    orders: Mutex<ChildStdin>,
    awaited: Awaited,
    next_id: AtomicU64,
}

type Awaited = Arc<Mutex<HashMap<u64, Sender<Result<Fruit, String>>>>>;

impl Machine {
    pub(super) fn new(
        spec: HostSpec,
        number: u8,
        dir: PathBuf,
        binary: PathBuf,
        switch: NetNs,
    ) -> Result<Machine> {
        std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        let (boots, power) = (AtomicU32::new(0), Mutex::new(None));
        Ok(Machine { spec, number, dir, binary, switch, boots, power })
    }

    /// The host's name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The directory that survives power-off.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its cables.
    pub fn links(&self) -> &[LinkSpec] {
        &self.spec.links
    }

    /// Its first address on `network`.
    pub fn address(&self, network: &str) -> Option<IpAddr> {
        let link = self.spec.links.iter().find(|l| l.network == network)?;
        link.addresses.first().map(|a| a.addr())
    }

    /// The hardware address of its cable to `network`; it stays the same through reboots.
    pub fn mac(&self, network: &str) -> Option<Mac> {
        let index = self.spec.links.iter().position(|l| l.network == network)?;
        Some(self.mac_of_link(index))
    }

    fn mac_of_link(&self, index: usize) -> Mac {
        [0x02, 0x48, 0x46, 0, u8::try_from(index).unwrap_or(u8::MAX), self.number]
    }

    /// Whether it is on.
    pub fn is_on(&self) -> bool {
        self.lock().is_some()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<Running>>> {
        self.power.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> Result<Arc<Running>> {
        self.lock().clone().ok_or_else(|| anyhow!("the host {} is off", self.name()))
    }

    /// Its network namespace, for as long as it is on.
    pub fn netns(&self) -> Result<NetNs> {
        Ok(self.running()?.netns.clone())
    }

    /// The id of its first process, as numbered outside.
    pub fn init_pid(&self) -> Result<u32> {
        Ok(self.running()?.init_pid)
    }

    /// Switches it on and plugs its cables in. Nothing runs on it yet but process 1.
    pub fn boot(&self) -> Result<()> {
        let mut power = self.lock();
        if power.is_some() {
            return Ok(());
        }
        let context = || format!("boot the host {} (its log is {})", self.name(), self.log().display());
        let running = self.start().with_context(context)?;
        *power = Some(Arc::new(running));
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.dir.join("host.log")
    }

    fn start(&self) -> Result<Running> {
        let log = OpenOptions::new().create(true).append(true).open(self.log())?;
        let mut command = Command::new(&self.binary);
        command.args(["lab-host", "boot", "--name", self.name()]);
        // Its own process group: an interrupt from the terminal is for the lab, which then ends its hosts.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut wrapper = command.spawn().with_context(|| format!("start {}", self.binary.display()))?;
        let orders = wrapper.stdin.take().context("the host's standard input")?;
        let reports = wrapper.stdout.take().context("the host's standard output")?;
        let awaited = Awaited::default();
        let (booted, progress) = mpsc::channel();
        let waiting = awaited.clone();
        thread::spawn(move || listen(BufReader::new(reports), &booted, &waiting));
        let (mut pid, mut ready) = (None, false);
        while pid.is_none() || !ready {
            match progress.recv_timeout(BOOT_LIMIT).context("it did not come up")? {
                Report::Booted { pid: init } => pid = Some(init),
                Report::Ready => ready = true,
                Report::Done { .. } => {}
            }
        }
        let init_pid = pid.context("the host's first process")?;
        let netns = NetNs::of_process(init_pid)?;
        let ports = self.plug_in(&netns)?;
        Ok(Running {
            netns,
            init_pid,
            ports,
            wrapper: Mutex::new(wrapper),
            orders: Mutex::new(orders),
            awaited,
            next_id: AtomicU64::new(1),
        })
    }

    fn plug_in(&self, netns: &NetNs) -> Result<Ports> {
        // The kernel forgets the ports of an earlier life in its own time; their names are not used again.
        let life = self.boots.fetch_add(1, Ordering::Relaxed);
        let mut ports = Ports::new();
        for (index, link) in self.spec.links.iter().enumerate() {
            let port = format!("{}-{index}-{life}", self.name());
            let (far, bridge) = (format!("x{index}"), bridge_of(&link.network));
            let (cable, peer, to) = (port.clone(), far.clone(), netns.clone());
            self.switch
                .rtnl(|handle| async move { links::add_cable(&handle, &cable, &bridge, &peer, &to).await })?;
            let mac = self.mac_of_link(index);
            netns.rtnl(|handle| async move {
                links::settle(&handle, &far, &link.interface, mac, &link.addresses).await
            })?;
            ports.insert(link.network.clone(), port);
        }
        Ok(ports)
    }

    /// Cuts its power: nothing leaves any more, then every process in it dies at once.
    pub fn power_off(&self) -> Result<()> {
        let Some(running) = self.lock().take() else { return Ok(()) };
        let ports: Vec<String> = running.ports.values().cloned().collect();
        let init = Pid::from_raw(i32::try_from(running.init_pid)?);
        let dark = self.switch.rtnl(|handle| async move {
            for port in &ports {
                links::set_up(&handle, port, false).await?;
            }
            kill(init, Signal::SIGKILL).context("kill the host's first process")?;
            for port in &ports {
                links::remove(&handle, port).await?;
            }
            Ok(())
        });
        let mut wrapper = running.wrapper.lock().unwrap_or_else(PoisonError::into_inner);
        if dark.is_err() {
            // Whatever failed: the host must not stay on.
            let _ = kill(init, Signal::SIGKILL);
        }
        wrapper.wait().context("wait for the host's end")?;
        dark
    }

    /// Plugs its cables (all, or that to `network`) in or out.
    pub fn plug(&self, network: Option<&str>, plug: Plug) -> Result<()> {
        let running = self.running()?;
        let wanted = |name: &str| network.is_none_or(|n| n == name);
        let chosen: Vec<(String, String)> =
            running.ports.iter().filter(|(n, _)| wanted(n)).map(|(n, p)| (n.clone(), p.clone())).collect();
        if chosen.is_empty() {
            bail!("the host {} has no cable to {}", self.name(), network.unwrap_or("any network"));
        }
        self.switch.rtnl(|handle| async move {
            for (network, port) in chosen {
                match plug {
                    Plug::In => {
                        links::plug(&handle, &port, Some(&bridge_of(&network))).await?;
                        links::pass_floods(&handle, &port, true).await?;
                        links::set_up(&handle, &port, true).await?;
                    }
                    Plug::Muffled => links::pass_floods(&handle, &port, false).await?,
                    Plug::Pulled => links::set_up(&handle, &port, false).await?,
                    Plug::Deaf => links::plug(&handle, &port, None).await?,
                    Plug::Island => links::plug(&handle, &port, Some(&island_of(&network))).await?,
                }
            }
            Ok(())
        })
    }

    /// Takes `address` off whichever of its interfaces has it, as `ip address del` would.
    pub fn take_address(&self, address: IpAddr) -> Result<()> {
        self.netns()?.rtnl(|handle| async move { links::take_address(&handle, address).await })
    }

    /// Runs a command on it to its end.
    pub fn execute(&self, argv: &[&str], limit: Duration) -> Result<Output> {
        let argv = argv.iter().map(|&a| a.to_owned()).collect();
        let timeout_ms = u64::try_from(limit.as_millis())?;
        match self.order(Order::Execute { argv, timeout_ms }, limit + REPORT_LIMIT)? {
            Fruit::Finished(output) => Ok(output),
            other => bail!("the host {} answered {other:?}", self.name()),
        }
    }

    /// Starts a command on it that keeps running; `log` is a file name in its directory.
    /// The result is the process id on the host.
    pub fn start_process(&self, argv: &[String], env: &[(String, String)], log: &str) -> Result<i32> {
        let order = Order::Start { argv: argv.to_vec(), env: env.to_vec(), log: self.dir.join(log) };
        match self.order(order, REPORT_LIMIT)? {
            Fruit::Started { pid } => Ok(pid),
            other => bail!("the host {} answered {other:?}", self.name()),
        }
    }

    /// Sends a signal to a process by its id on the host.
    pub fn signal(&self, pid: i32, signal: Signal) -> Result<()> {
        self.order(Order::Signal { pid, signal: signal as i32 }, REPORT_LIMIT).map(drop)
    }

    /// Sends a signal to every process on the host (but the first, which is not part of the story).
    pub fn signal_everybody(&self, signal: Signal) -> Result<()> {
        self.signal(EVERYBODY, signal)
    }

    /// Mounts an empty disk of limited size on the host, gone with its power.
    pub fn mount_small_disk(&self, path: &Path, size_bytes: u64) -> Result<()> {
        self.order(Order::MountSmallDisk { path: path.to_owned(), size_bytes }, REPORT_LIMIT).map(drop)
    }

    /// Gives the host a `/var/lib/holdfast` of its own, kept in its directory.
    pub fn mount_var_lib(&self) -> Result<()> {
        self.order(Order::MountVarLib { path: self.dir.join("var-lib-holdfast") }, REPORT_LIMIT).map(drop)
    }

    /// Gives the host a directory of its own at `at`, where all hosts have the same one otherwise. It is kept in the
    /// host's directory, at [`Machine::own_dir`].
    pub fn mount_own_dir(&self, at: &Path) -> Result<()> {
        let order = Order::MountOwn { from: self.own_dir(at), at: at.to_owned() };
        self.order(order, REPORT_LIMIT).map(drop)
    }

    /// Where the host's own directory for `at` is, as seen from outside.
    pub fn own_dir(&self, at: &Path) -> PathBuf {
        self.dir.join("own").join(at.strip_prefix("/").unwrap_or(at))
    }

    fn order(&self, order: Order, limit: Duration) -> Result<Fruit> {
        let running = self.running()?;
        let id = running.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = mpsc::channel();
        let awaited = || running.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        awaited().insert(id, sender);
        let mut line = serde_json::to_string(&Numbered { id, order })?;
        line.push('\n');
        let sent = {
            let mut orders = running.orders.lock().unwrap_or_else(PoisonError::into_inner);
            orders.write_all(line.as_bytes()).and_then(|()| orders.flush())
        };
        let answer = sent.map_err(anyhow::Error::from).and_then(|()| Ok(receiver.recv_timeout(limit)?));
        awaited().remove(&id);
        let answer = answer.with_context(|| format!("the host {} does not answer", self.name()))?;
        answer.map_err(|reason| anyhow!("{}: {reason}", self.name()))
    }
}

/// Hands each report to who waits for it, until the host has ended.
fn listen(reports: impl BufRead, booted: &Sender<Report>, awaited: &Awaited) {
    for line in reports.lines() {
        let Ok(line) = line else { break };
        match serde_json::from_str(&line) {
            Ok(Report::Done { id, result }) => {
                let waiting = awaited.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                if let Some(waiting) = waiting {
                    let _ = waiting.send(result);
                }
            }
            Ok(progress) => {
                let _ = booted.send(progress);
            }
            Err(_) => {}
        }
    }
    // Whoever still waits is told by the end of the channel.
    awaited.lock().unwrap_or_else(PoisonError::into_inner).clear();
}
