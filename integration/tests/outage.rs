//! How long a client is not served.

use std::time::Duration;

use anyhow::Result;
use holdfast_agent::lab::cluster::{Cluster, Fault};
use holdfast_agent::lab::settings::ClusterSpec;
use holdfast_integration::measure::{median, outage_after, restore};
use holdfast_integration::promise;
use holdfast_integration::stage::ensure;

const ROUNDS: usize = 5;

fn median_at_most(cluster: &Cluster, fault: Fault, limit_ms: u64) -> Result<()> {
    let mut seen = Vec::new();
    for _ in 0..ROUNDS {
        seen.push(outage_after(cluster, fault)?);
        restore(cluster)?;
    }
    println!("{fault:?}: {seen:?}");
    let middle = median(seen.clone());
    let limit = Duration::from_millis(limit_ms) + cluster.gate_slack();
    ensure(middle <= limit, || format!("the median outage is {middle:?}, promised are {limit:?}: {seen:?}"))
}

#[test]
fn power_off_costs_at_most_400_ms_with_the_default_timers() {
    promise(ClusterSpec::default(), |cluster| median_at_most(cluster, Fault::PowerOff, 400));
}

#[test]
fn power_off_costs_at_most_100_ms_with_20_ms_heartbeats() {
    promise(ClusterSpec::with_timers(20, 3), |cluster| median_at_most(cluster, Fault::PowerOff, 100));
}

#[test]
fn a_killed_agent_under_its_supervisor_costs_at_most_60_ms() {
    promise(ClusterSpec::default(), |cluster| median_at_most(cluster, Fault::Kill, 60));
}
