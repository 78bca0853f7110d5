//! What the agents use when nothing happens.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use holdfast_agent::lab::cluster::Cluster;
use holdfast_integration::stage::LIMIT;

use super::usage::Usage;

/// How long the idle agents are watched.
pub(super) const IDLE_FOR: Duration = Duration::from_secs(10);

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
fn usage(cluster: &Cluster, host: &str) -> Result<Usage> {
    let status = cluster.status(host)?;
    let machine = cluster.world().machine(host)?;
    let mut total = Usage::default();
    for pid in status.supervisor_pid.into_iter().chain([status.pid]) {
        total = total.and(Usage::of(machine, pid)?);
    }
    Ok(total)
}
