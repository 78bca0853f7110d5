//! The process between the agent and a hook (`holdfast hook-keeper`, hidden): runs one command and leaves
//! nothing of it behind at its limit.
//!
//! A process of its own, because what it needs belongs to a whole process: a session, and the adoption of
//! orphans (`PR_SET_CHILD_SUBREAPER`), by which a grandchild that left the hook's group and session is still
//! found. It never knows of epochs or roles.
//!
//! ```text
//!   agent ── stdin: what the hook is told, if anything; closed when the hook is to end, or by the agent's own death ──> keeper ──> hook
//!         <─ stdout: what the hook says on its stdout and stderr ────────────────────────────┘
//!         <─ stderr: one line of JSON, `Ended`, when it is over
//! ```
//!
//! What must hold: when the limit is over, or the agent is gone, every descendant that this user may signal
//! is killed before the keeper ends. A hook that ended by itself in time may leave a daemon behind.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use clap::Args;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, setsid};
use serde::{Deserialize, Serialize};

/// How long the processes of a hook have after SIGTERM.
pub const TERM_GRACE: Duration = Duration::from_millis(500);

/// How long the keeper goes on killing: a process that the kernel itself holds cannot be ended by anybody.
pub const KILL_FOR: Duration = Duration::from_secs(1);

/// How often it looks whether they are gone.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Most bytes that a program is told on its stdin.
const MAX_INPUT_BYTES: usize = 4 << 20;

/// Arguments of the keeper.
#[derive(Args, Debug)]
pub struct KeeperArgs {
    /// The hook's limit.
    #[arg(long)]
    pub limit_ms: u64,
    /// So many bytes of stdin are for the program; what follows them is for the keeper.
    #[arg(long, default_value_t = 0)]
    pub input_bytes: usize,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<OsString>,
}

/// How a hook ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ended {
    /// By itself, with this exit status.
    Exited(i32),
    /// By a signal that was not the keeper's.
    Signalled(String),
    /// The limit was over and it was killed, with all that it had started.
    LimitReached {
        /// Processes that were still there after all.
        survivors: usize,
    },
    /// It was not wanted any more and was killed in the same way.
    CalledOff {
        /// Processes that were still there after all.
        survivors: usize,
    },
    /// It could not be started.
    NotStarted(String),
}

/// What wakes the keeper.
enum Woken {
    Ended(WaitStatus),
    /// Nobody of the hook's descendants is left.
    Childless,
    CalledOff,
}

/// Runs the command that the arguments name and says on stderr how it ended.
pub fn main(args: &KeeperArgs) -> ExitCode {
    let ended = keep(args);
    let line = serde_json::to_string(&ended).expect("plain data");
    let _ = writeln!(std::io::stderr(), "{line}");
    ExitCode::SUCCESS
}

fn keep(args: &KeeperArgs) -> Ended {
    close_what_was_inherited();
    // A terminal's signals are not meant for hooks. Refused where it leads a session already.
    let _ = setsid();
    if let Err(error) = nix::sys::prctl::set_child_subreaper(true) {
        return Ended::NotStarted(format!("its orphans could not be adopted: {error}"));
    }
    let deadline = Instant::now() + Duration::from_millis(args.limit_ms);
    let mut input = vec![0; args.input_bytes.min(MAX_INPUT_BYTES)];
    if let Err(error) = std::io::stdin().lock().read_exact(&mut input) {
        return Ended::NotStarted(format!("what it should be told did not come: {error}"));
    }
    let hook = match start(&args.command, input) {
        Ok(hook) => hook,
        Err(error) => return Ended::NotStarted(error.to_string()),
    };
    let (sender, woken) = channel();
    watch_the_agent(sender.clone());
    reap(sender);
    loop {
        match woken.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Woken::Ended(WaitStatus::Exited(pid, status))) if pid == hook => return Ended::Exited(status),
            Ok(Woken::Ended(WaitStatus::Signaled(pid, signal, _))) if pid == hook => {
                return Ended::Signalled(signal.to_string());
            }
            Ok(Woken::Ended(_)) => {}
            Ok(Woken::CalledOff) => return Ended::CalledOff { survivors: end_all(hook, &woken) },
            Err(RecvTimeoutError::Timeout) => {
                return Ended::LimitReached { survivors: end_all(hook, &woken) };
            }
            Ok(Woken::Childless) | Err(RecvTimeoutError::Disconnected) => {
                return Ended::NotStarted("its end was missed".to_owned());
            }
        }
    }
}

/// The agent marks what it opens; whoever started the agent may have left it more. Called while nothing but the
/// three standard descriptors is in use here.
fn close_what_was_inherited() {
    let Ok(open) = std::fs::read_dir("/proc/self/fd") else { return };
    let open: Vec<i32> = open
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 2)
        .collect();
    for fd in open {
        let _ = nix::unistd::close(fd);
    }
}

fn start(command: &[OsString], input: Vec<u8>) -> std::io::Result<Pid> {
    let stdout = || -> std::io::Result<Stdio> { Ok(std::io::stdout().as_fd().try_clone_to_owned()?.into()) };
    let stdin = if input.is_empty() { Stdio::null() } else { Stdio::piped() };
    let mut child = Command::new(&command[0])
        .args(&command[1..])
        .stdin(stdin)
        .stdout(stdout()?)
        .stderr(stdout()?)
        .process_group(0)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read it must not hold the keeper up.
        std::thread::spawn(move || drop(stdin.write_all(&input)));
    }
    Ok(Pid::from_raw(child.id() as i32))
}

/// The agent never writes: the read ends when it lets go or dies.
fn watch_the_agent(sender: Sender<Woken>) {
    std::thread::spawn(move || {
        let _ = std::io::stdin().lock().read(&mut [0]);
        let _ = sender.send(Woken::CalledOff);
    });
}

/// Takes in the end of the hook, and of every orphan of it.
fn reap(sender: Sender<Woken>) {
    std::thread::spawn(move || {
        loop {
            match waitpid(None, None) {
                Ok(status) => drop(sender.send(Woken::Ended(status))),
                Err(Errno::EINTR) => {}
                Err(_) => {
                    let _ = sender.send(Woken::Childless);
                    return;
                }
            }
        }
    });
}

/// Ends the hook's group and whoever has left it; says how many are still there.
fn end_all(hook: Pid, woken: &Receiver<Woken>) -> usize {
    let begin = Instant::now();
    let mut told: BTreeSet<i32> = BTreeSet::new();
    loop {
        let signal = if begin.elapsed() < TERM_GRACE { Signal::SIGTERM } else { Signal::SIGKILL };
        let descendants = descendants();
        for pid in &descendants {
            // Once is enough for SIGTERM: a handler may be at work.
            if told.insert(*pid) || signal == Signal::SIGKILL {
                let _ = kill(Pid::from_raw(*pid), signal);
            }
        }
        if signal == Signal::SIGKILL {
            let _ = killpg(hook, signal);
        }
        loop {
            match woken.recv_timeout(LOOK_EVERY) {
                Ok(Woken::Childless) => return 0,
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return descendants.len(),
            }
        }
        if begin.elapsed() > TERM_GRACE + KILL_FOR {
            return descendants.len();
        }
    }
}

/// Everybody below this process who has not ended, as the kernel's table of processes has it.
fn descendants() -> Vec<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        if let Some(parent) = parent_of_the_living(&stat) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut next = vec![std::process::id() as i32];
    while let Some(parent) = next.pop() {
        let of_it = children.remove(&parent).unwrap_or_default();
        found.extend(&of_it);
        next.extend(of_it);
    }
    found
}

/// The parent in a line of `/proc/PID/stat` (proc(5)); `None` for a process that has ended. The name stands in
/// brackets and may hold anything.
fn parent_of_the_living(stat: &str) -> Option<i32> {
    let (_, after) = stat.rsplit_once(')')?;
    let mut fields = after.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    (state != "Z" && state != "X").then_some(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_may_have_any_name() {
        assert_eq!(parent_of_the_living("12 (a) b) R 7 12 12 0"), Some(7));
        assert_eq!(parent_of_the_living("12 (x) Z 7 12"), None);
        assert_eq!(parent_of_the_living("12 (x"), None);
    }
}
