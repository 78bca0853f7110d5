//! Whether memory stays flat while a standby that lacks very much catches up.
//!
//! Objects are zeros, and what is sealed of both logs is made sparse behind the members' backs: they write, read, send,
//! check and sync every byte, and the disk need not hold them.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holdfast_agent::lab::cluster::Fault;
use holdfast_agent::lab::settings::ClusterSpec;
use holdfast_integration::measure::metric;
use holdfast_integration::stage::LIMIT;

use super::s3::load::{Work, run};
use super::s3::servers;
use super::usage::Usage;
use super::with_cluster;

/// Bytes of an object.
const OBJECT: usize = 16 << 20;
/// How long the filling, or the catching up, may take.
const WITHIN: Duration = Duration::from_secs(3600);
/// How often is looked at memory.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Lines of the table.
const PARTS: u64 = 10;

/// Measures with a standby that lacks `gib` GiB.
pub(super) fn all(binary: &Path, gib: u64) -> Result<()> {
    println!("a standby that lacks {gib} GiB");
    with_cluster(binary, ClusterSpec::default(), |cluster| {
        let primary = cluster.wait_in_sync(LIMIT)?;
        let standby = cluster.other_than(&primary);
        let (client, running) = (cluster.client()?, servers::holdfast(cluster)?);
        cluster.inflict(standby, Fault::PowerOff)?;
        cluster.wait_for_primary(LIMIT)?;
        let _digger =
            Digger::start([&primary, standby].map(|host| cluster.dir().join(host).join("store/log")).into())?;
        let count = (gib << 30) / OBJECT as u64;
        let began = Instant::now();
        let done = run(&client, &running.server, Work::FillZeros(OBJECT, count), 4, WITHIN)?;
        ensure!(done.requests == count, "only {} of {count} objects were stored", done.requests);
        println!("  written in {:.0} s", began.elapsed().as_secs_f64());

        let memory = |host: &str| -> Result<f64> {
            Ok(Usage::of(cluster.world().machine(host)?, cluster.agent_pid(host)?)?.rss_mib)
        };
        let wire = || metric(cluster, &primary, "holdfast_stream_wire_bytes_total");
        let (before, began) = (wire()?, Instant::now());
        cluster.inflict(standby, Fault::Heal)?;
        println!(
            "  {:>10} {:>8} {:>18} {:>18}",
            "sent, GiB", "after, s", "primary, MiB, most", "standby, MiB, most"
        );
        let (mut most, mut part) = ((0f64, 0f64), 1);
        while began.elapsed() < WITHIN {
            thread::sleep(LOOK_EVERY);
            most = (most.0.max(memory(&primary)?), most.1.max(memory(standby)?));
            let sent = wire()? - before;
            let in_sync = cluster.wait_in_sync(Duration::from_millis(20)).is_ok();
            if sent >= (gib << 30) / PARTS * part || in_sync {
                let (sent, took) = (sent as f64 / f64::from(1 << 30), began.elapsed().as_secs_f64());
                println!("  {sent:>10.1} {took:>8.0} {:>18.0} {:>18.0}", most.0, most.1);
                (most, part) = ((0.0, 0.0), part + 1);
            }
            if in_sync {
                return Ok(());
            }
        }
        anyhow::bail!("{standby} is not in sync after {} s", WITHIN.as_secs())
    })
}

/// Makes sparse what nobody writes to any more.
struct Digger {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Digger {
    fn start(dirs: Vec<PathBuf>) -> Result<Digger> {
        let there = Command::new("fallocate").arg("--version").stdout(Stdio::null()).status();
        ensure!(there.context("fallocate (util-linux)")?.success(), "fallocate does not run");
        let ends = Arc::new(AtomicBool::new(false));
        let until = ends.clone();
        let thread = thread::spawn(move || {
            let mut done = HashSet::new();
            while !until.load(Ordering::Relaxed) {
                dirs.iter().for_each(|dir| dig(dir, &mut done));
                thread::sleep(Duration::from_millis(200));
            }
        });
        Ok(Digger { ends, thread: Some(thread) })
    }
}

/// Digs all segments of `dir` but the newest two: those may still be written to.
fn dig(dir: &Path, done: &mut HashSet<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|of| of == "log"))
        .collect();
    files.sort();
    let sealed = files.len().saturating_sub(2);
    for file in &files[..sealed] {
        if !done.contains(file) {
            let dug = Command::new("fallocate").arg("--dig-holes").arg(file).stderr(Stdio::null()).status();
            if dug.is_ok_and(|status| status.success()) {
                done.insert(file.clone());
            }
        }
    }
}

impl Drop for Digger {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
