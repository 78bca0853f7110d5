//! What it takes to bring a standby back: all of the log for a new one, what it missed for one that was away. The first
//! is also the stream alone, with nobody writing: beside it stand what one core encrypts and what the disk takes.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use holdfast_agent::lab::cluster::{Cluster, Fault};
use holdfast_agent::lab::settings::ClusterSpec;
use holdfast_heartbeat::{Epoch, Lsn};
use holdfast_integration::measure::metric;
use holdfast_integration::stage::LIMIT;
use holdfast_replication::stream::{Frame, NoiseSession};

use super::s3::load::{Work, run};
use super::s3::{raw, servers};
use super::usage::Usage;
use super::with_cluster;

const MIB: u64 = 1 << 20;
/// Bytes of an object of the filling.
const OBJECT: usize = 16 << 20;
/// How long the filling, or the catching up, may take.
const WITHIN: Duration = Duration::from_secs(1800);
/// How often is looked whether the standby has everything.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long the encryption is measured.
const ENCRYPT_FOR: Duration = Duration::from_secs(2);

/// Measures with `gib` GiB in the log.
pub(super) fn all(binary: &Path, gib: u64) -> Result<()> {
    println!("bringing a standby back, with {gib} GiB in the log");
    raw::print()?;
    println!("  {:<42} {:>15.0} MB/s", "one core encrypts (frames of 1 MiB)", encrypting()?);
    with_cluster(binary, ClusterSpec::default(), |cluster| {
        let primary = cluster.wait_in_sync(LIMIT)?;
        let standby = cluster.other_than(&primary);
        let (client, running) = (cluster.client()?, servers::holdfast(cluster)?);
        let fill = |size: usize, count: u64| -> Result<()> {
            let done = run(&client, &running.server, Work::Fill(size, count), 4, WITHIN)?;
            ensure!(done.requests == count, "only {} of {count} objects were stored", done.requests);
            Ok(())
        };
        let objects = (gib << 30) / OBJECT as u64;
        fill(OBJECT, objects)?;
        cluster.wait_in_sync(LIMIT)?;
        let end = || metric(cluster, &primary, "holdfast_log_end_lsn");

        // What it missed: a hundredth.
        let had = end()?;
        cluster.inflict(standby, Fault::PowerOff)?;
        cluster.wait_for_primary(LIMIT)?;
        // Of another size, so under other names.
        fill(OBJECT - 1, (objects / 100).max(1))?;
        let lacked = end()? - had;
        let missed = catch_up(cluster, &primary, standby, || Ok(()))?;
        let log = end()?;
        println!(
            "  missed {:.2} % of the log: {:>8.1} MiB over the wire, {:.3} % of the log, {:.2} s to be in sync ({:.0} MB/s)",
            lacked as f64 / log as f64 * 100.0,
            missed.wire as f64 / MIB as f64,
            missed.wire as f64 / log as f64 * 100.0,
            missed.took.as_secs_f64(),
            missed.wire as f64 / missed.took.as_secs_f64() / 1e6,
        );

        // Everything: a new disk.
        cluster.inflict(standby, Fault::PowerOff)?;
        cluster.wait_for_primary(LIMIT)?;
        forget_disk(cluster, standby)?;
        let before = usage(cluster, &primary)?;
        let whole = catch_up(cluster, &primary, standby, || Ok(()))?;
        let (sends, takes) = (usage(cluster, &primary)?, usage(cluster, standby)?);
        println!(
            "  a new member: {:>8.1} MiB over the wire, {:.1} s to be in sync: {:.0} MB/s",
            whole.wire as f64 / MIB as f64,
            whole.took.as_secs_f64(),
            whole.wire as f64 / whole.took.as_secs_f64() / 1e6,
        );
        let per_byte = |seconds: f64| seconds * 1e9 / whole.wire as f64;
        println!(
            "  processor time: {:.2} ns a byte to send, {:.2} to take; most memory: {:.0} MiB (before {:.0}) and {:.0} MiB",
            per_byte(sends.cpu_seconds - before.cpu_seconds),
            per_byte(takes.cpu_seconds),
            sends.peak_mib,
            before.peak_mib,
            takes.peak_mib,
        );
        Ok(())
    })
}

fn usage(cluster: &Cluster, host: &str) -> Result<Usage> {
    Usage::of(cluster.world().machine(host)?, cluster.agent_pid(host)?)
}

/// What it took.
pub(super) struct CaughtUp {
    /// What went over the wire, in bytes.
    pub wire: u64,
    pub took: Duration,
}

/// Gives a host that is off a new disk.
pub(super) fn forget_disk(cluster: &Cluster, host: &str) -> Result<()> {
    let disk = cluster.dir().join(host);
    for part in ["store", "state"] {
        let dir = disk.join(part);
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())?;
        }
    }
    Ok(())
}

/// Starts the standby, does what is to be done `then`, and waits until it is in sync.
pub(super) fn catch_up(
    cluster: &Cluster,
    primary: &str,
    standby: &str,
    then: impl FnOnce() -> Result<()>,
) -> Result<CaughtUp> {
    let wire = || metric(cluster, primary, "holdfast_stream_wire_bytes_total");
    let before = wire()?;
    let began = Instant::now();
    cluster.inflict(standby, Fault::Heal)?;
    then()?;
    while began.elapsed() < WITHIN {
        if cluster.wait_in_sync(LOOK_EVERY).is_ok() {
            let took = began.elapsed();
            return Ok(CaughtUp { wire: wire()? - before, took });
        }
        thread::sleep(LOOK_EVERY);
    }
    anyhow::bail!("{standby} is not in sync after {} s", WITHIN.as_secs())
}

/// Megabytes of frames in a second that one core seals.
fn encrypting() -> Result<f64> {
    let secret = b"a secret of a bench, for nobody";
    let (mut near, mut far) = (NoiseSession::initiator(secret)?, NoiseSession::responder(secret)?);
    let (mut to_far, mut to_near, mut frames) = (Vec::new(), Vec::new(), Vec::new());
    near.start(&mut to_far)?;
    far.feed(&to_far, &mut to_near, &mut frames)?;
    let mut rest = Vec::new();
    near.feed(&to_near, &mut rest, &mut frames)?;
    let (mut sealer, _) = near.into_halves()?;
    let bytes = Bytes::from(vec![7u8; MIB as usize]);
    let (mut sealed, mut out, began) = (0u64, Vec::new(), Instant::now());
    while began.elapsed() < ENCRYPT_FOR {
        let frame =
            Frame::Append { epoch: Epoch(1), lsn: Lsn(sealed), committed: Lsn(0), bytes: bytes.clone() };
        out.clear();
        sealer.seal(&frame, &mut out)?;
        sealed += MIB;
    }
    Ok(sealed as f64 / began.elapsed().as_secs_f64() / 1e6)
}
