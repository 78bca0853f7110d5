//! How much is written, by how many clients.

use std::fmt::Write as _;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use holdfast_agent::lab::cluster::Cluster;
use holdfast_agent::lab::ledger::{Load, LoadSpec, Patience};
use holdfast_integration::stage::LIMIT;

/// How long each throughput is measured.
pub(super) const LOAD_FOR: Duration = Duration::from_secs(8);

/// Prints the throughput of `cluster`, which `name` describes.
pub(super) fn throughput(cluster: &Cluster, name: &str) -> Result<()> {
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
