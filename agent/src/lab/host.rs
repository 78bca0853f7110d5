//! The first process of a host of the lab, and the few steps that put it into its namespaces.
//!
//! A host is a network, process, mount and host-name namespace. Its first process is process 1 there, so
//! that killing it ends everything in the host at once, as a power cut does. It carries out orders
//! (`wire`), collects the dead, and decides nothing.
//!
//! Every entry here must be reached while the program has a single thread: the kernel lets nobody else
//! change their user or process namespace.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, Subcommand};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use super::privilege;
use super::wire::{EVERYBODY, Fruit, MAX_OUTPUT_BYTES, Numbered, Order, Output, Report};
use super::world::bring_loopback_up;

/// A killed process ends when the kernel call that it is in does; a sync of a busy disk takes longest.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// Arguments of the hidden subcommand `lab-host`.
#[derive(Args, Debug)]
pub struct HostArgs {
    #[command(subcommand)]
    step: Step,
}

#[derive(Subcommand, Debug)]
enum Step {
    /// Make the namespaces of a host and start its first process.
    Boot {
        /// The host's name.
        #[arg(long)]
        name: String,
    },
    /// Be the first process of a host.
    Init,
    /// Run a command inside a host.
    Enter {
        /// The host's first process, as numbered outside.
        #[arg(long)]
        pid: u32,
        /// The command and its arguments.
        #[arg(last = true, required = true)]
        argv: Vec<OsString>,
    },
    /// Run a command as root of a user namespace of its own.
    AsRoot {
        /// The command and its arguments.
        #[arg(last = true, required = true)]
        argv: Vec<OsString>,
    },
}

/// Does one step. Must be called while the program has a single thread.
pub fn main(args: HostArgs) -> Result<ExitCode> {
    match args.step {
        Step::Boot { name } => boot(&name),
        Step::Init => init(),
        Step::Enter { pid, argv } => enter(pid, &argv),
        Step::AsRoot { argv } => privilege::become_root_of_user_namespace(&argv),
    }
}

fn boot(name: &str) -> Result<ExitCode> {
    unshare(
        CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWUTS,
    )
    .context("make the host's namespaces")?;
    nix::unistd::sethostname(name).context("name the host")?;
    // What the host mounts must not show outside.
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).context("make the mounts private")?;
    let mut init = Command::new("/proc/self/exe");
    init.arg0(format!("holdfast-lab-{name}")).args(["lab-host", "init"]);
    let mut child = init.spawn().context("start the host's first process")?;
    report(&Report::Booted { pid: child.id() })?;
    let status = child.wait().context("wait for the host's first process")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn init() -> Result<ExitCode> {
    if std::process::id() != 1 {
        bail!("`lab-host init` is the first process of a host of the lab, and of nothing else");
    }
    // A `/proc` of the host's own makes `ps` and the like tell the truth. Where the kernel refuses it (in
    // some containers) the outer one stays, and the lab works all the same.
    let hidden = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let _ = mount(Some("proc"), "/proc", Some("proc"), hidden, None::<&str>);
    let _ = mount(Some("sysfs"), "/sys", Some("sysfs"), hidden, None::<&str>);
    bring_loopback_up().context("bring loopback up")?;

    let household = Arc::new(Household::default());
    let reaper = household.clone();
    thread::spawn(move || reaper.collect_the_dead());
    report(&Report::Ready)?;
    for line in io::stdin().lock().lines() {
        let Ok(Numbered { id, order }) = serde_json::from_str(&line?) else {
            eprintln!("an order that nobody understands was dropped");
            continue;
        };
        let household = household.clone();
        let act = move || {
            let result = household.carry_out(order).map_err(|e| format!("{e:#}"));
            // The lab that no longer listens has ended, and this host ends with it.
            let _ = report(&Report::Done { id, result });
        };
        thread::spawn(act);
    }
    Ok(ExitCode::SUCCESS)
}

fn report(report: &Report) -> Result<()> {
    let mut line = serde_json::to_string(report)?;
    line.push('\n');
    let mut out = io::stdout().lock();
    out.write_all(line.as_bytes())?;
    out.flush().context("report to the lab")
}

/// The processes that this host started, each with who waits for its end.
#[derive(Default)]
struct Household {
    awaited: Mutex<HashMap<i32, Sender<i32>>>,
    grown: Condvar,
}

impl Household {
    fn lock(&self) -> MutexGuard<'_, HashMap<i32, Sender<i32>>> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Process 1 inherits every orphan; without this they would stay as zombies.
    fn collect_the_dead(&self) {
        loop {
            let (pid, status) = match waitpid(None, None) {
                Ok(WaitStatus::Exited(pid, status)) => (pid, status),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32),
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(_) => {
                    let table = self.lock();
                    let pause = Duration::from_millis(50);
                    drop(self.grown.wait_timeout(table, pause).unwrap_or_else(PoisonError::into_inner));
                    continue;
                }
            };
            if let Some(waiting) = self.lock().remove(&pid.as_raw()) {
                let _ = waiting.send(status);
            }
        }
    }

    /// Starts `command`; the table is held meanwhile, so that even one that ends at once finds who waits.
    fn start(&self, command: &mut Command) -> Result<(std::process::Child, mpsc::Receiver<i32>)> {
        let (sender, receiver) = mpsc::channel();
        let mut table = self.lock();
        let child = command.spawn().with_context(|| format!("start {:?}", command.get_program()))?;
        let pid = i32::try_from(child.id()).context("process id")?;
        table.insert(pid, sender);
        self.grown.notify_all();
        Ok((child, receiver))
    }

    fn carry_out(&self, order: Order) -> Result<Fruit> {
        match order {
            Order::Execute { argv, timeout_ms } => {
                self.execute(&argv, Duration::from_millis(timeout_ms)).map(Fruit::Finished)
            }
            Order::Start { argv, env, log } => {
                let log = OpenOptions::new().create(true).append(true).open(&log)?;
                let mut command = command_of(&argv)?;
                command.envs(env).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
                let (child, _) = self.start(&mut command)?;
                Ok(Fruit::Started { pid: i32::try_from(child.id())? })
            }
            Order::Signal { pid, signal } => {
                let signal = Signal::try_from(signal).context("no such signal")?;
                match kill(Pid::from_raw(pid), signal) {
                    // Nobody is there to be signalled: for a fault that is as good as done.
                    Ok(()) | Err(Errno::ESRCH) => {}
                    Err(e) => return Err(anyhow!(e).context(format!("signal {signal} to {pid}"))),
                }
                if pid == EVERYBODY && signal == Signal::SIGKILL {
                    wait_until_alone()?;
                }
                Ok(Fruit::Nothing)
            }
            Order::MountSmallDisk { path, size_bytes } => {
                std::fs::create_dir_all(&path)?;
                let size = format!("size={size_bytes},mode=0700");
                mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), Some(size.as_str()))
                    .with_context(|| format!("mount a small disk at {}", path.display()))?;
                Ok(Fruit::Nothing)
            }
            Order::MountOwn { from, at } => {
                mount_own(&from, &at)
                    .with_context(|| format!("give the host a {} of its own", at.display()))?;
                Ok(Fruit::Nothing)
            }
            Order::MountVarLib { path } => {
                mount_var_lib(&path).context("give the host a /var/lib/holdfast of its own")?;
                Ok(Fruit::Nothing)
            }
        }
    }

    fn execute(&self, argv: &[String], limit: Duration) -> Result<Output> {
        let mut command = command_of(argv)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let (mut child, ended) = self.start(&mut command)?;
        let out = read_bounded(child.stdout.take());
        let err = read_bounded(child.stderr.take());
        let status = match ended.recv_timeout(limit) {
            Ok(status) => status,
            Err(RecvTimeoutError::Timeout) => {
                let group = Pid::from_raw(-i32::try_from(child.id())?);
                let _ = kill(group, Signal::SIGKILL);
                bail!("{:?} did not end within {} ms", argv.join(" "), limit.as_millis());
            }
            Err(RecvTimeoutError::Disconnected) => bail!("lost track of {:?}", argv.join(" ")),
        };
        let text = |thread: thread::JoinHandle<Vec<u8>>| {
            String::from_utf8_lossy(&thread.join().unwrap_or_default()).into_owned()
        };
        Ok(Output { status, stdout: text(out), stderr: text(err) })
    }
}

/// Waits for the end of all who were killed: one that is still ending holds its files and ports, and whoever
/// is started next would be refused them.
fn wait_until_alone() -> Result<()> {
    let end = Instant::now() + KILL_LIMIT;
    while kill(Pid::from_raw(EVERYBODY), None) != Err(Errno::ESRCH) {
        if Instant::now() > end {
            bail!("a killed process did not end within {} ms", KILL_LIMIT.as_millis());
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Where an agent keeps its state unless told otherwise.
const VAR_LIB: &str = "/var/lib/holdfast";

/// Lays `path` over the default directory of the agents, which all hosts would share else. An empty file
/// system over the parent makes the place for it without touching the machine's own.
fn mount_var_lib(path: &Path) -> Result<()> {
    if Path::new(VAR_LIB).join(".lab").exists() {
        return Ok(());
    }
    std::fs::create_dir_all(path)?;
    mount(Some("tmpfs"), "/var/lib", Some("tmpfs"), MsFlags::empty(), Some("size=64k,mode=0755"))?;
    std::fs::create_dir_all(VAR_LIB)?;
    mount(Some(path), VAR_LIB, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    File::create(Path::new(VAR_LIB).join(".lab"))?;
    Ok(())
}

/// Lays `from` over `at`, which must be there; once is enough in a life of the host.
fn mount_own(from: &Path, at: &Path) -> Result<()> {
    std::fs::create_dir_all(from)?;
    let identity = |path: &Path| std::fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()));
    if identity(from)? != identity(at)? {
        mount(Some(from), at, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    }
    Ok(())
}

fn command_of(argv: &[impl AsRef<OsStr>]) -> Result<Command> {
    let (program, args) = argv.split_first().context("an empty command")?;
    let mut command = Command::new(program.as_ref());
    if program.as_ref() == "/proc/self/exe" {
        command.arg0("holdfast");
    }
    command.args(args);
    Ok(command)
}

fn read_bounded(from: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut from) = from {
            let _ = from.by_ref().take(MAX_OUTPUT_BYTES as u64).read_to_end(&mut bytes);
            // The rest is read and dropped: a full pipe would stop the command.
            let _ = io::copy(&mut from, &mut io::sink());
        }
        bytes
    })
}

fn enter(pid: u32, argv: &[OsString]) -> Result<ExitCode> {
    let mut command = command_of(argv)?;
    let open = |kind: &str| {
        let path = format!("/proc/{pid}/ns/{kind}");
        File::open(&path).with_context(|| format!("open {path} (is the lab still up?)"))
    };
    // All are opened first: after the first steps the outer /proc may be out of reach.
    let spaces = [
        ("user", CloneFlags::CLONE_NEWUSER),
        ("mnt", CloneFlags::CLONE_NEWNS),
        ("uts", CloneFlags::CLONE_NEWUTS),
        ("net", CloneFlags::CLONE_NEWNET),
        ("pid", CloneFlags::CLONE_NEWPID),
    ];
    let own = std::fs::read_link("/proc/self/ns/user")?;
    let mut files = Vec::new();
    for (kind, flag) in spaces {
        let same =
            kind == "user" && std::fs::read_link(format!("/proc/{pid}/ns/user")).is_ok_and(|n| n == own);
        if !same {
            files.push((kind, open(kind)?, flag));
        }
    }
    let here = std::env::current_dir().ok();
    for (kind, file, flag) in &files {
        setns(file, *flag).with_context(|| format!("enter the host's {kind} namespace"))?;
    }
    if let Some(here) = here.filter(|dir| Path::new(dir).is_dir()) {
        command.current_dir(here);
    }
    let status = command.status().with_context(|| format!("run {:?}", command.get_program()))?;
    let code = status.code().unwrap_or(1);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}
