//! What the agents use when nothing happens.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use holdfast_agent::lab::cluster::Cluster;
use holdfast_integration::stage::LIMIT;

/// How long the idle agents are watched.
pub(super) const IDLE_FOR: Duration = Duration::from_secs(10);
/// The kernel's clock tick as `/proc/PID/stat` counts it: fixed at 100 for user space on Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// Prints what each agent of `cluster` uses.
pub(super) fn idle(cluster: &Cluster) -> Result<()> {
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
