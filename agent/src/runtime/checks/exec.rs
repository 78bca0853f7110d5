//! A program: exit status 0 passes. No shell, a fixed environment, a process group of its own.
//!
//! Invariant: when a run is over, in time or not, every process of its group was sent SIGKILL, and no new run
//! begins before the earlier one's process is really gone: a disk that hangs does not collect processes.

use std::cell::RefCell;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::time::timeout;

use super::{Apart, MAX_WORDS, Outcome};
use crate::runtime::programs::{PATH, Tail};

/// How long what was printed is waited for after the end: a process that left the group may keep a pipe open.
const LAST_WORDS: Duration = Duration::from_millis(100);

pub(super) struct Exec {
    check: String,
    argv: Vec<String>,
    /// The wait for the process of this run, or of an earlier one that could not be killed.
    ended: Apart,
}

/// Kills a process group when it goes out of scope.
struct Group(Pid);

impl Drop for Group {
    fn drop(&mut self) {
        let _ = killpg(self.0, Signal::SIGKILL);
    }
}

impl Exec {
    pub(super) fn new(check: &str, argv: Vec<String>) -> Exec {
        Exec { check: check.to_owned(), argv, ended: Apart::default() }
    }

    pub(super) async fn run(&mut self) -> Outcome {
        if self.ended.0.is_some() {
            // Was killed at its limit; gone as soon as the kernel lets go of it.
            self.ended.run(|| Outcome::passed("")).await;
        }
        let spawned = Command::new(&self.argv[0])
            .args(&self.argv[1..])
            .env_clear()
            .env("PATH", PATH)
            .env("LC_ALL", "C")
            .env("HOLDFAST_CHECK", &self.check)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => return Outcome::failed(format!("{} cannot be started: {error}", self.argv[0])),
        };
        let pid = Pid::from_raw(child.id().expect("it was not waited for yet") as i32);
        let group = Group(pid);
        let (out, err) = (RefCell::new(Tail::new(2 * MAX_WORDS)), RefCell::new(Tail::new(2 * MAX_WORDS)));
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let reading = async {
            tokio::join!(keep_end(stdout, &out), keep_end(stderr, &err));
        };
        tokio::pin!(reading);
        // Not reaped here: while its number is its own, the group can be killed without hitting another one.
        let ended =
            self.ended.run(move || match waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
                Ok(_) => Outcome::passed(""),
                Err(error) => Outcome::failed(error.to_string()),
            });
        tokio::pin!(ended);
        let mut all_read = false;
        loop {
            tokio::select! {
                _ = &mut ended => break,
                () = &mut reading, if !all_read => all_read = true,
            }
        }
        drop(group);
        let status = child.wait().await;
        if !all_read {
            let _ = timeout(LAST_WORDS, reading).await;
        }
        let (out, err) = (out.borrow().last_line(), err.borrow().last_line());
        match status {
            Ok(status) if status.success() => Outcome::passed(if out.is_empty() { err } else { out }),
            Ok(status) => {
                let said = if err.is_empty() { out } else { err };
                Outcome::failed(if said.is_empty() {
                    status.to_string()
                } else {
                    format!("{status}: {said}")
                })
            }
            Err(error) => Outcome::failed(error.to_string()),
        }
    }
}

/// Reads to the end, and keeps what may hold the last line.
async fn keep_end(pipe: Option<impl AsyncRead + Unpin>, end: &RefCell<Tail>) {
    let Some(mut pipe) = pipe else { return };
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = pipe.read(&mut buffer).await {
        end.borrow_mut().add(&buffer[..read]);
    }
}
