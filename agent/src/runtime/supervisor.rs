//! The agent's parent: a small process that does nothing but wait for the agent to die, and then
//! clears its addresses and says so at once, so that nobody has to wait for silence.
//!
//! ```text
//!   supervisor ── stdin of the child is a socket pair ──> agent
//!       ▲                                                   │ one line for each change of reign
//!       └───────────────────────────────────────────────────┘
//! ```
//!
//! The order is that of giving up (rule R7): the process is gone (so nothing is served), the addresses
//! are taken off, then the notice goes out. Were the supervisor to die as well, the kernel's gate ends
//! the lease by itself; were it alone to die, the agent hands over and ends.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use holdfast_config::{Config, Loaded};
use holdfast_heartbeat::packet::OLDEST;
use holdfast_heartbeat::{BootNonce, Epoch, Member, Message, Notice};
use holdfast_vip::Addresses;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::peers::Peers;
use super::realtime::{Granted, Urgency};
use super::reload::Reload;
use super::secrets::Secrets;
use crate::anew::start_anew;

/// The notice is repeated after these times: it is short, and true for ever.
const NOTICE_TIMES: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(5), Duration::from_millis(20), Duration::from_millis(60)];
/// The wait before the agent is started again; doubles up to [`LONGEST_BACKOFF`].
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
/// See [`FIRST_BACKOFF`].
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);
/// A life this long makes the next restart prompt again.
const LONG_LIFE: Duration = Duration::from_secs(30);

/// With this status the agent ends in good order and wants to be started again at once: EX_TEMPFAIL of sysexits.h.
pub const START_AGAIN: u8 = 75;

/// What the agent leaves to its supervisor: what a notice of its death would have to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Testament {
    /// Who it is.
    pub member: Member,
    /// This life of it.
    pub boot: BootNonce,
    /// The epoch in which it reigns; zero while it does not.
    pub epoch: Epoch,
}

/// No core file of this process is written, and nobody but root looks into its memory: the keys are there, and what
/// clients stored. What a developer needs of a crash stands in the log and in the recording. See PR_SET_DUMPABLE(2const).
fn keep_secrets_in_memory() {
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        tracing::warn!(%error, "a core file of this agent would hold its secrets: set LimitCORE=0 for the service");
    }
}

/// The allocator takes address space a gigabyte at a time. Where it makes all of that usable at once, a process that locks
/// its memory has it resident. It is told by its environment alone, which it reads before anything else runs.
const NOT_AHEAD: &str = "MIMALLOC_ARENA_EAGER_COMMIT";

/// Starts this program anew, in the same process, where its allocator was told nothing; what it starts inherits that.
fn take_no_memory_ahead() {
    if std::env::var_os(NOT_AHEAD).is_some() {
        return;
    }
    let error = start_anew(std::env::args_os(), (NOT_AHEAD, OsStr::new("0")));
    tracing::warn!(%error, "the allocator could not be told to take no memory ahead: this agent and its supervisor may keep two gigabytes resident that they do not use");
}

/// Runs a member: as the supervisor, or, when `supervised`, as the agent under it.
pub fn run(config: &Path, supervised: bool) -> ExitCode {
    if !supervised {
        take_no_memory_ahead();
    }
    keep_secrets_in_memory();
    if supervised {
        return super::run(config);
    }
    let loaded = match Config::load(config) {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    match supervise(config, &loaded) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("holdfast: the agent cannot be supervised: {error}");
            ExitCode::FAILURE
        }
    }
}

fn supervise(path: &Path, loaded: &Loaded) -> std::io::Result<ExitCode> {
    let mourner = Mourner::new(&loaded.config)?;
    let granted = Granted::ask(loaded.config.ha.realtime);
    let stopping = Arc::new(AtomicBool::new(false));
    let child_pid = Arc::new(AtomicI32::new(0));
    let reload = {
        let reload = Reload {
            path: path.to_owned(),
            running: Arc::new(loaded.config.clone()),
            secrets: mourner.keys.clone(),
            peers: mourner.peers.clone(),
            core: None,
        };
        move || drop(reload.read_again())
    };
    forward_signals(&stopping, &child_pid, reload)?;
    let mut backoff = FIRST_BACKOFF;
    loop {
        let started = Instant::now();
        let (mut child, hearing) = start(path)?;
        child_pid.store(child.id() as i32, Ordering::SeqCst);
        if stopping.load(Ordering::SeqCst) {
            let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
        }
        let end = std::thread::scope(|scope| {
            // On a thread of its own, which starts no other: the agent must not inherit its urgency.
            let wait = || {
                granted.hurry(Urgency::Core);
                outlive(&mut child, &child_pid, hearing, &stopping, &mourner)
            };
            let mourning = std::thread::Builder::new().name("mourner".into()).spawn_scoped(scope, wait)?;
            mourning.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        if end.is_final || stopping.load(Ordering::SeqCst) {
            return Ok(end.code);
        }
        if end.at_once {
            continue;
        }
        backoff = if started.elapsed() > LONG_LIFE { FIRST_BACKOFF } else { backoff };
        std::thread::sleep(backoff);
        backoff = (backoff * 2).min(LONGEST_BACKOFF);
        if stopping.load(Ordering::SeqCst) {
            return Ok(end.code);
        }
    }
}

/// How a life of the agent ended.
struct End {
    code: ExitCode,
    /// Another one would end in the same way, or is not wanted.
    is_final: bool,
    /// Another one is wanted, and nothing failed.
    at_once: bool,
}

/// Waits for the agent to end, and buries it where it died.
fn outlive(
    child: &mut Child,
    child_pid: &AtomicI32,
    hearing: JoinHandle<Option<Testament>>,
    stopping: &AtomicBool,
    mourner: &Mourner,
) -> std::io::Result<End> {
    let status = child.wait()?;
    child_pid.store(0, Ordering::SeqCst);
    // The agent's end of the socket closed with it, so its last word is read to the end.
    let last = hearing.join().unwrap_or_default();
    let orderly = status.success() && (stopping.load(Ordering::SeqCst) || last.is_some());
    if orderly {
        return Ok(End { code: ExitCode::SUCCESS, is_final: true, at_once: false });
    }
    if status.code() == Some(START_AGAIN.into()) && last.is_some() {
        return Ok(End { code: ExitCode::SUCCESS, is_final: false, at_once: true });
    }
    let Some(last) = last else {
        // It never got as far as its first word: the reason is on the screen, and will not pass.
        return Ok(End { code: exit_code(status), is_final: true, at_once: false });
    };
    tracing::error!(node = %last.member, epoch = last.epoch.0, how = %describe(status), "the agent died; clearing its addresses and telling the others");
    mourner.bury(&last);
    Ok(End { code: exit_code(status), is_final: false, at_once: false })
}

fn start(path: &Path) -> std::io::Result<(Child, JoinHandle<Option<Testament>>)> {
    let (ours, theirs) = UnixStream::pair()?;
    let child = Command::new(own_program())
        .arg0(std::env::args_os().next().unwrap_or_else(|| "holdfast".into()))
        .args(["agent", "--supervised", "--config"])
        .arg(path)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()?;
    let hearing = std::thread::Builder::new().name("testament".into()).spawn(move || {
        BufReader::new(ours)
            .lines()
            .map_while(Result::ok)
            .filter_map(|line| serde_json::from_str(&line).ok())
            .last()
    })?;
    Ok((child, hearing))
}

/// The program of this process: by its path, so that the agent is called by its name. A package that is being installed,
/// or was while this host's member could not be restarted, has put another file there: the kernel still has this one,
/// and an agent is of the version of its supervisor.
fn own_program() -> PathBuf {
    let path = std::env::current_exe().ok().filter(|path| path.is_file());
    path.unwrap_or_else(|| PathBuf::from("/proc/self/exe"))
}

/// Passes the signals that end a service on to the agent, which hands over first, and the one to reload, which
/// both heed: the agent says what came of it.
fn forward_signals(
    stopping: &Arc<AtomicBool>,
    child: &Arc<AtomicI32>,
    reload: impl Fn() + Send + 'static,
) -> std::io::Result<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block()?;
    let (stopping, child) = (stopping.clone(), child.clone());
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        while let Ok(signal) = signals.wait() {
            let told = if signal == Signal::SIGHUP {
                reload();
                Signal::SIGHUP
            } else {
                stopping.store(true, Ordering::SeqCst);
                Signal::SIGTERM
            };
            let pid = child.load(Ordering::SeqCst);
            if pid != 0 {
                let _ = kill(Pid::from_raw(pid), told);
            }
        }
    })?;
    Ok(())
}

fn exit_code(status: ExitStatus) -> ExitCode {
    ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1).max(1))
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => {
            Signal::try_from(signal).map_or(format!("signal {signal}"), |signal| signal.to_string())
        }
        (None, None) => "unknown".to_owned(),
    }
}

/// How the addresses of a dead agent are taken off.
enum Clearing {
    /// There are none.
    Nothing,
    /// By netlink.
    Addresses(Addresses),
    /// Netlink cannot be used: their lifetime and the gate end them.
    Impossible,
}

/// Everything that a burial needs, made ready beforehand: it must not depend on memory or descriptors
/// that may be scarce in the very moment that killed the agent.
struct Mourner {
    runtime: tokio::runtime::Runtime,
    addresses: Clearing,
    keys: Secrets,
    peers: Peers,
    /// One for each heartbeat path.
    ways: Vec<UdpSocket>,
}

impl Mourner {
    fn new(config: &Config) -> std::io::Result<Mourner> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let specs = super::assemble::vip_specs(config);
        let addresses = match specs.is_empty() {
            true => Clearing::Nothing,
            false => match runtime.block_on(Addresses::open(specs)) {
                Ok(addresses) => Clearing::Addresses(addresses),
                Err(error) => {
                    tracing::warn!(%error, "the supervisor cannot clear the addresses; if the agent dies, the others wait for its lease to end");
                    Clearing::Impossible
                }
            },
        };
        let keys = Secrets::of(config);
        let mut ways = Vec::new();
        for own in &config.heartbeat_paths {
            let socket = UdpSocket::bind((own.listen.ip(), 0)).map_err(|error| {
                std::io::Error::new(
                    error.kind(),
                    format!("{} is not an address of this host: {error}", own.listen.ip()),
                )
            })?;
            ways.push(socket);
        }
        Ok(Mourner { runtime, addresses, keys, peers: Peers::of(config), ways })
    }

    fn bury(&self, last: &Testament) {
        let cleared = match &self.addresses {
            Clearing::Nothing => true,
            Clearing::Impossible => false,
            Clearing::Addresses(addresses) => self
                .runtime
                .block_on(addresses.release())
                .inspect_err(|error| tracing::error!(%error, "the addresses could not be cleared"))
                .is_ok(),
        };
        // The gate shuts within the lease; until then nobody may be told that the address is free.
        if !cleared && last.epoch != Epoch::ZERO {
            return;
        }
        let notice = Notice { member: last.member.clone(), boot: last.boot, epoch: last.epoch };
        let packet = self.keys.now().keyring.seal(&Message::Notice(notice), OLDEST);
        let begin = Instant::now();
        for after in NOTICE_TIMES {
            std::thread::sleep(after.saturating_sub(begin.elapsed()));
            for (path, socket) in self.ways.iter().enumerate() {
                for slot in 0..self.peers.now().len() {
                    if let Some(at) = self.peers.heartbeat(slot, path) {
                        let _ = socket.send_to(&packet, at);
                    }
                }
            }
        }
    }
}

/// The agent's side: the socket to its supervisor, if it has one.
pub fn channel() -> Option<UnixStream> {
    let stdin = std::io::stdin().as_fd().try_clone_to_owned().ok()?;
    let stream = UnixStream::from(stdin);
    stream.peer_addr().ok().map(|_| stream)
}
