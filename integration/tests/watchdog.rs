//! The watchdog device: a named pipe in its place shows what a real agent writes to it, and when.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use holdfast_agent::lab::cluster::Fault;
use holdfast_agent::lab::settings::ClusterSpec;
use holdfast_integration::promise;
use holdfast_integration::stage::{LIMIT, ensure};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;

/// What stops the device.
const MAGIC: u8 = b'V';

fn pipe(path: &Path) -> Result<File> {
    nix::unistd::mkfifo(path, Mode::S_IRWXU)?;
    let nonblocking = nix::libc::O_NONBLOCK;
    OpenOptions::new().read(true).custom_flags(nonblocking).open(path).context("open the pipe")
}

/// Everything written until something is, which must not take longer than `limit`.
fn next(pipe: &mut File, limit: Duration) -> Result<Vec<u8>> {
    let end = Instant::now() + limit;
    let mut some = [0; 256];
    loop {
        // Nothing yet, or nobody has the other end open.
        if let Ok(n @ 1..) = pipe.read(&mut some) {
            return Ok(some[..n].to_vec());
        }
        if Instant::now() > end {
            bail!("no sign of life for {} s", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_device_is_fed_through_a_death_of_the_agent_and_stopped_by_an_orderly_end() {
    let dir = tempfile::Builder::new().prefix("holdfast-test-").tempdir().expect("a temporary directory");
    let path = dir.path().join("watchdog");
    let mut pipe = pipe(&path).expect("a named pipe");
    let mut spec = ClusterSpec::default();
    let setting = format!("    watchdog = {:?}\n    watchdog_timeout = \"10s\"", path.display().to_string());
    spec.extra_ha.insert("b".to_owned(), setting);
    promise(spec, move |cluster| {
        cluster.wait_in_sync(LIMIT)?;
        ensure(!next(&mut pipe, LIMIT)?.contains(&MAGIC), || "stopped while it runs".to_owned())?;
        cluster.inflict("b", Fault::Kill)?;
        cluster.wait_in_sync(LIMIT)?;
        // What was written before the death was read with it at the latest; this comes from the new life.
        next(&mut pipe, LIMIT)?;
        for _ in 0..2 {
            ensure(!next(&mut pipe, LIMIT)?.contains(&MAGIC), || "stopped by a death".to_owned())?;
        }
        let supervisor = cluster.status("b")?.supervisor_pid.context("a supervisor")?;
        cluster.world().machine("b")?.signal(supervisor, Signal::SIGTERM)?;
        let end = Instant::now() + LIMIT;
        while !next(&mut pipe, LIMIT)?.contains(&MAGIC) {
            ensure(Instant::now() < end, || "an orderly end does not stop it".to_owned())?;
        }
        Ok(())
    });
}
