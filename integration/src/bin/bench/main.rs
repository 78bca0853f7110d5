//! Measures what a user would ask about, on this machine, in one run: outages, throughput, idle cost.
//!
//! Run it as `cargo build --release -p holdfast-agent && cargo run --release -p holdfast-integration --bin bench`.
//! Absolute figures are those of the machine, loader included; compare within one run only.

use std::fmt::Write as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use holdfast_agent::lab::cluster::{Cluster, Fault};
use holdfast_agent::lab::ledger::{Load, LoadSpec, Patience};
use holdfast_agent::lab::prober::Prober;
use holdfast_agent::lab::settings::ClusterSpec;
use holdfast_integration::measure::{median, outage_after, restore};
use holdfast_integration::stage::{LIMIT, holdfast_binary, wait_for_turn};

/// How long each throughput is measured.
const LOAD_FOR: Duration = Duration::from_secs(8);
/// How long the idle agents are watched.
const IDLE_FOR: Duration = Duration::from_secs(10);
/// The kernel's clock tick as `/proc/PID/stat` counts it: fixed at 100 for user space on Linux.
const TICKS_PER_SECOND: f64 = 100.0;

fn main() -> Result<()> {
    let rounds = std::env::args().nth(1).map_or(Ok(5), |n| n.parse()).context("the number of rounds")?;
    let _turn = wait_for_turn()?;
    let binary = holdfast_binary()?;
    println!("program: {}\n", binary.display());
    println!("outage as a client sees it, median of {rounds} (all rounds)");
    for (name, spec) in
        [("100 ms x 3", ClusterSpec::default()), ("20 ms x 3", ClusterSpec::with_timers(20, 3))]
    {
        with_cluster(&binary, spec, |cluster| outages(cluster, name, rounds))?;
    }
    println!("\nthroughput over {} s", LOAD_FOR.as_secs());
    with_cluster(&binary, ClusterSpec::default(), |cluster| {
        cluster.wait_in_sync(LIMIT)?;
        throughput(cluster, "replicated")
    })?;
    let solo = ClusterSpec { data_members: 1, ..ClusterSpec::default() };
    with_cluster(&binary, solo, |cluster| {
        cluster.wait_for_primary(LIMIT)?;
        throughput(cluster, "solo")
    })?;
    println!("\nidle agents over {} s", IDLE_FOR.as_secs());
    with_cluster(&binary, ClusterSpec::default(), idle)
}

fn with_cluster(binary: &Path, spec: ClusterSpec, body: impl FnOnce(&Cluster) -> Result<()>) -> Result<()> {
    let dir = tempfile::Builder::new().prefix("holdfast-bench-").tempdir()?;
    let cluster = Cluster::start(spec, dir.path(), binary)?;
    body(&cluster).inspect_err(|_| eprintln!("{}", cluster.log_tails()))
}

fn outages(cluster: &Cluster, timers: &str, rounds: usize) -> Result<()> {
    let faults = [
        ("power-off", Fault::PowerOff),
        ("cable pull", Fault::Cut),
        ("SIGKILL", Fault::Kill),
        ("SIGKILL with supervisor", Fault::KillAll),
        ("SIGSTOP", Fault::Freeze),
    ];
    for (name, fault) in faults {
        let mut seen = Vec::new();
        for _ in 0..rounds {
            seen.push(outage_after(cluster, fault)?);
            restore(cluster)?;
        }
        line(&format!("{timers} {name}"), seen);
    }
    let mut pauses = Vec::new();
    for _ in 0..rounds {
        cluster.wait_in_sync(LIMIT)?;
        let prober = Prober::start(&cluster.client()?, cluster.probe_target());
        prober.wait_served_after(Instant::now() + Duration::from_millis(200), LIMIT)?;
        cluster.switch_over(LIMIT)?;
        prober.wait_served_after(Instant::now() + Duration::from_millis(200), LIMIT)?;
        pauses.extend(prober.stop()?.outage());
    }
    line(&format!("{timers} switchover"), pauses);
    Ok(())
}

fn line(name: &str, seen: Vec<Duration>) {
    let all: Vec<String> = seen.iter().map(|d| d.as_millis().to_string()).collect();
    println!("  {name:<36} {:>6} ms   ({})", median(seen).as_millis(), all.join(" "));
}

fn throughput(cluster: &Cluster, name: &str) -> Result<()> {
    let client = cluster.client()?;
    let target = cluster.target("bench");
    target.create_bucket(&client, LIMIT)?;
    let patience = Patience { request: Duration::from_secs(60), ..Patience::ORDINARY };
    for (what, writers, size) in
        [("PUT 4 KiB, 32 clients", 32, 4 << 10), ("PUT 16 MiB, 4 clients", 4, 16 << 20)]
    {
        let spec = LoadSpec { writers, size, seed: size as u64, patience, threads: 2, ..LoadSpec::default() };
        let load = Load::start(&client, &target, spec);
        thread::sleep(LOAD_FOR);
        let ledger = load.stop()?;
        let seconds = ledger.duration.as_secs_f64();
        let count = ledger.acknowledged.len();
        let mut took: Vec<Duration> = ledger.acknowledged.iter().map(|a| a.took).collect();
        took.sort();
        let mut text = format!("  {name:<12} {what:<24}");
        write!(text, " {:>8.0} /s", count as f64 / seconds)?;
        write!(text, " {:>8.1} MB/s", (count * size) as f64 / seconds / 1e6)?;
        let at = |share: f64| took.get((took.len() as f64 * share) as usize).copied().unwrap_or_default();
        write!(text, "   p50 {:.1} ms  p99 {:.1} ms", millis(at(0.5)), millis(at(0.99)))?;
        println!("{text}   {} errors", ledger.ambiguous.len());
    }
    Ok(())
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn idle(cluster: &Cluster) -> Result<()> {
    cluster.wait_in_sync(LIMIT)?;
    let members = cluster.spec().members();
    let before: Vec<Usage> = members.iter().map(|m| usage(cluster, m)).collect::<Result<_>>()?;
    thread::sleep(IDLE_FOR);
    for (member, before) in members.iter().zip(before) {
        let after = usage(cluster, member)?;
        let cpu = (after.cpu_seconds - before.cpu_seconds) / IDLE_FOR.as_secs_f64() * 100.0;
        println!("  {member:<3} {:>6.1} MiB RSS {cpu:>6.2} % of one core", after.rss_mib);
    }
    Ok(())
}

/// What the agent and its supervisor on a host have used.
#[derive(Default)]
struct Usage {
    rss_mib: f64,
    cpu_seconds: f64,
}

fn usage(cluster: &Cluster, host: &str) -> Result<Usage> {
    let status = cluster.status(host)?;
    let machine = cluster.world().machine(host)?;
    let mut total = Usage::default();
    for pid in status.supervisor_pid.into_iter().chain([status.pid]) {
        // Read on the host itself, whose process ids these are; `cat` is the only program needed.
        let read = |file: &str| -> Result<String> {
            Ok(machine.execute(&["cat", &format!("/proc/{pid}/{file}")], LIMIT)?.stdout)
        };
        let stat = read("stat")?;
        // The name may contain spaces; the fields after it do not. They begin with field 3, the state.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
        let ticks = |n: usize| fields.get(n - 3).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
        total.cpu_seconds += (ticks(14) + ticks(15)) / TICKS_PER_SECOND;
        let rss = read("status")?;
        let kib = rss
            .lines()
            .find_map(|l| l.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<f64>().ok());
        total.rss_mib += kib.unwrap_or(0.0) / 1024.0;
    }
    Ok(total)
}
