//! Gets a cluster ready for a test, takes turns with other tests, and reports what broke.

use std::any::type_name;
use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use holdfast_agent::lab::cluster::Cluster;
use holdfast_agent::lab::privilege::{Standing, outer_uid, standing};
use holdfast_agent::lab::settings::ClusterSpec;
use nix::sys::signal::Signal;
use nix::sys::statfs::{TMPFS_MAGIC, statfs};

/// Limit for what the cluster should do in seconds on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(30);

/// What the hosts of a cluster may write in a test, with much room, bytes.
const MEMORY_NEEDED: u64 = 1 << 30;

/// Runs `body` on a fresh cluster of `spec` and panics with the hosts' logs if it fails.
///
/// Without root the test starts itself again as root of a user namespace. It is skipped, with a line that
/// says so, only where the system allows neither.
pub fn promise<F>(spec: ClusterSpec, body: F)
where
    F: FnOnce(&Cluster) -> Result<()>,
{
    promise_in(&std::env::temp_dir(), spec, body);
}

/// As [`promise`], with the hosts' disks in memory: for a bound in milliseconds, which is about the protocol. What a
/// durable write adds to it is the disk's, may be anything on a machine that others use too, and is what the bench
/// measures.
pub fn promise_in_time<F>(spec: ClusterSpec, body: F)
where
    F: FnOnce(&Cluster) -> Result<()>,
{
    promise_in(&memory_dir(), spec, body);
}

fn promise_in<F>(base: &Path, spec: ClusterSpec, body: F)
where
    F: FnOnce(&Cluster) -> Result<()>,
{
    let binary = match holdfast_binary() {
        Ok(binary) => binary,
        Err(e) => panic!("{e:#}"),
    };
    if standing() == Standing::Unprivileged {
        return again_as_root(&binary, test_name::<F>());
    }
    let _turn = wait_for_turn().expect("a lock file in the directory for temporary files");
    let dir =
        tempfile::Builder::new().prefix("holdfast-test-").tempdir_in(base).expect("a temporary directory");
    let cluster = match Cluster::start(spec, dir.path(), &binary) {
        Ok(cluster) => cluster,
        Err(e) => panic!("the cluster did not start: {e:#}; logs are in {}", dir.keep().display()),
    };
    let Some(failure) = failure_of(|| body(&cluster)) else { return };
    let tails = cluster.log_tails();
    drop(cluster);
    panic!("{failure}\n\n{tails}\nall logs are in {}", dir.keep().display());
}

/// Why `body` failed, be it with an error or a panic; `None` where it did not.
pub(crate) fn failure_of(body: impl FnOnce() -> Result<()>) -> Option<String> {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => None,
        Ok(Err(e)) => Some(format!("{e:#}")),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Some(text.unwrap_or_default())
        }
    }
}

/// The program under test: that of the same build profile as this test.
pub fn holdfast_binary() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("HOLDFAST_BINARY") {
        return Ok(named.into());
    }
    let own = std::env::current_exe().context("find the running test")?;
    let dirs = own.ancestors().skip(1).take(2);
    let mut candidates = dirs.map(|dir| dir.join("holdfast"));
    candidates.find(|path| path.is_file()).ok_or_else(|| {
        let release = if own.components().any(|c| c.as_os_str() == "release") { " --release" } else { "" };
        anyhow!(
            "there is no program to test beside {}: run `cargo build{release} -p holdfast-agent`",
            own.display()
        )
    })
}

/// A directory whose files lie in memory, where this machine has one with room; else that for temporary files.
fn memory_dir() -> PathBuf {
    let shm = Path::new("/dev/shm");
    let has_room = statfs(shm).is_ok_and(|fs| {
        fs.filesystem_type() == TMPFS_MAGIC && fs.blocks_available() * fs.block_size() as u64 >= MEMORY_NEEDED
    });
    if has_room { shm.to_owned() } else { std::env::temp_dir() }
}

/// The name of the test that the closure type `F` stands in.
fn test_name<F>() -> &'static str {
    let path = type_name::<F>();
    let path = path.split("::{{closure}}").next().unwrap_or(path);
    // The harness knows tests without the name of their binary.
    path.split_once("::").map_or(path, |(_, name)| name)
}

fn again_as_root(binary: &PathBuf, test: &str) {
    let as_root = |argv: &[&str]| {
        let mut command = Command::new(binary);
        command.args(["lab-host", "as-root", "--"]).args(argv);
        command
    };
    match as_root(&["/proc/self/exe", "lab-host", "--help"]).output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let why = String::from_utf8_lossy(&output.stderr);
            return println!("skipped: needs root or user namespaces. {}", why.trim());
        }
        Err(e) => panic!("{}: {e}", binary.display()),
    }
    let own = std::env::current_exe().expect("find the running test");
    let own = own.to_str().expect("a path in UTF-8");
    let status = as_root(&[own, "--exact", test, "--nocapture"]).status().expect("start the test again");
    assert!(status.success(), "{test} failed as root of a user namespace");
}

/// Waits until no other test on this machine has a cluster.
pub fn wait_for_turn() -> Result<File> {
    // Another user's lock file could not be opened; users that test at once have to agree among themselves.
    let path = std::env::temp_dir().join(format!("holdfast-namespace-tests-{}.lock", outer_uid()));
    let file = File::options().create(true).append(true).open(&path);
    let file = file.with_context(|| format!("open {}", path.display()))?;
    file.lock().context("wait for the other tests")?;
    Ok(file)
}

/// Writes a script, or another text that can be run.
pub fn write_program(path: &Path, text: &str) -> std::io::Result<()> {
    std::fs::write(path, text)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o755))
}

/// Has the agent on `host` read its configuration anew after `change`; the result is the text of before.
pub fn reload(cluster: &Cluster, host: &str, change: impl Fn(&str) -> String) -> Result<String> {
    let machine = cluster.world().machine(host)?;
    let path = machine.dir().join("holdfast.hcl");
    let text = std::fs::read_to_string(&path)?;
    std::fs::write(&path, change(&text))?;
    let supervisor = cluster.status(host)?.supervisor_pid.context("a supervisor")?;
    machine.signal(supervisor, Signal::SIGHUP)?;
    Ok(text)
}

/// Fails with `message` unless `condition` holds.
pub fn ensure(condition: bool, message: impl FnOnce() -> String) -> Result<()> {
    if condition { Ok(()) } else { bail!("{}", message()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_is_known_by_its_closure() {
        fn name_of<F: FnOnce()>(_: F) -> &'static str {
            test_name::<F>()
        }
        assert_eq!(name_of(|| {}), "stage::tests::the_test_is_known_by_its_closure");
    }
}
