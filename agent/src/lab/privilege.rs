//! How the lab gets the right to make namespaces: as root it has it; else a user namespace gives it.
//!
//! In a user namespace the lab is root over its own namespaces and nobody outside them. One thing falls
//! back there, because the kernel grants it to the real root only: the eBPF gate.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

/// Set in the environment of a program that was restarted in a user namespace, to the outer user id.
const OUTER_UID: &str = "HOLDFAST_LAB_OUTER_UID";

/// What the lab may do here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Root of the machine (or of a container with the rights that the lab needs).
    Root,
    /// Root of a user namespace that was made for the lab.
    UserNamespace,
    /// Neither: a user namespace has to be entered first.
    Unprivileged,
}

/// Finds out what the lab may do, by trying: an id of 0 alone proves little in a container.
pub fn standing() -> Standing {
    if std::env::var_os(OUTER_UID).is_some() {
        return Standing::UserNamespace;
    }
    let allowed = std::thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).is_ok());
    if geteuid().is_root() && allowed.join().unwrap_or(false) {
        Standing::Root
    } else {
        Standing::Unprivileged
    }
}

/// The user id of whoever started the lab, outside of any user namespace made for it.
pub fn outer_uid() -> u32 {
    let told = std::env::var(OUTER_UID).ok().and_then(|uid| uid.parse().ok());
    told.unwrap_or_else(|| geteuid().as_raw())
}

/// Replaces this program by itself, with the same arguments, as root of a user namespace.
/// Returns only when that failed.
pub fn restart_as_root() -> anyhow::Error {
    let mut command = Command::new("/proc/self/exe");
    command.args(["lab-host", "as-root", "--"]);
    command.arg("/proc/self/exe").args(std::env::args_os().skip(1));
    anyhow!(command.exec()).context("restart inside a user namespace")
}

/// The body of `lab-host as-root`: needs a program with a single thread.
pub(super) fn become_root_of_user_namespace(argv: &[OsString]) -> Result<ExitCode> {
    let (program, args) = argv.split_first().context("an empty command")?;
    let (uid, gid) = (geteuid(), getegid());
    if let Err(errno) = unshare(CloneFlags::CLONE_NEWUSER) {
        bail!("{}", advice(errno));
    }
    let map = |path: &str, text: String| {
        fs::write(path, text).map_err(|e| anyhow!("{path}: {e}. {}", advice(nix::errno::Errno::EPERM)))
    };
    map("/proc/self/setgroups", "deny".to_owned())?;
    map("/proc/self/uid_map", format!("0 {uid} 1"))?;
    map("/proc/self/gid_map", format!("0 {gid} 1"))?;
    let mut command = Command::new(program);
    command.args(args).env(OUTER_UID, uid.to_string());
    Err(anyhow!(command.exec()).context("start the program inside the user namespace"))
}

fn advice(errno: nix::errno::Errno) -> String {
    let mut text = format!("This system does not let user {} make a user namespace ({errno}).", geteuid());
    for (path, closed, mend) in [
        ("/proc/sys/user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=10000"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    ] {
        if fs::read_to_string(path).is_ok_and(|value| value.trim() == closed) {
            text.push_str(&format!(" {path} is {closed}: `sudo {mend}` allows it."));
        }
    }
    text.push_str(" Or run the lab as root: `sudo holdfast lab demo`.");
    text
}
