//! How long a client is not served. The medians of ten that are promised come from the bench; here each bound has
//! room for a machine that does other things besides: the hosts' disks are in memory, and what the machine was late by
//! itself in a round is forgiven.

use std::time::Duration;

use anyhow::Result;
use holdfast_agent::lab::cluster::{Cluster, Fault};
use holdfast_agent::lab::settings::ClusterSpec;
use holdfast_integration::measure::{
    median, outage_after, outage_of_deletion, outage_of_switchover, restore,
};
use holdfast_integration::metronome::Metronome;
use holdfast_integration::stage::{ensure, promise_in_time};

const ROUNDS: usize = 5;

fn median_at_most(cluster: &Cluster, fault: Fault, limit_ms: u64) -> Result<()> {
    median_of(cluster, &format!("{fault:?}"), limit_ms, |cluster| outage_after(cluster, fault), restore)
}

fn median_of(
    cluster: &Cluster,
    what: &str,
    limit_ms: u64,
    outage: impl Fn(&Cluster) -> Result<Duration>,
    mend: impl Fn(&Cluster) -> Result<()>,
) -> Result<()> {
    let round = || {
        let metronome = Metronome::start(cluster.dir())?;
        let seen = outage(cluster)?;
        // What the hosts do to their disks when they come back is no part of it.
        let late = metronome.stop()?;
        mend(cluster)?;
        Ok((seen, late))
    };
    let seen = (0..ROUNDS).map(|_| round()).collect::<Result<Vec<_>>>()?;
    println!("{what}, and what the machine was late by itself: {seen:?}");
    let middle = median(seen.iter().map(|(outage, late)| outage.saturating_sub(*late)).collect());
    let limit = Duration::from_millis(limit_ms) + cluster.gate_slack();
    ensure(middle <= limit, || {
        format!(
            "the median outage is {middle:?}, promised are {limit:?}; each with what the machine was late: {seen:?}"
        )
    })
}

#[test]
fn power_off_costs_at_most_400_ms_with_the_default_timers() {
    promise_in_time(ClusterSpec::default(), |cluster| median_at_most(cluster, Fault::PowerOff, 400));
}

#[test]
fn power_off_costs_at_most_100_ms_with_20_ms_heartbeats() {
    promise_in_time(ClusterSpec::with_timers(20, 3), |cluster| median_at_most(cluster, Fault::PowerOff, 100));
}

#[test]
fn a_killed_agent_under_its_supervisor_costs_at_most_60_ms() {
    promise_in_time(ClusterSpec::default(), |cluster| median_at_most(cluster, Fault::Kill, 60));
}

#[test]
fn an_agent_that_is_killed_with_its_supervisor_costs_at_most_500_ms() {
    promise_in_time(ClusterSpec::default(), |cluster| median_at_most(cluster, Fault::KillAll, 500));
}

#[test]
fn a_frozen_primary_costs_at_most_500_ms() {
    promise_in_time(ClusterSpec::default(), |cluster| median_at_most(cluster, Fault::Freeze, 500));
}

#[test]
fn a_primary_that_is_not_heard_costs_at_most_500_ms() {
    promise_in_time(ClusterSpec::default(), |cluster| median_at_most(cluster, Fault::Unheard, 500));
}

#[test]
fn a_primary_that_hears_nobody_costs_at_most_500_ms() {
    promise_in_time(ClusterSpec::default(), |cluster| median_at_most(cluster, Fault::Unhearing, 500));
}

#[test]
fn a_pulled_service_cable_costs_at_most_100_ms_where_a_second_path_lives() {
    let spec = ClusterSpec { cable: true, ..ClusterSpec::default() };
    promise_in_time(spec, |cluster| median_at_most(cluster, Fault::CutService, 100));
}

#[test]
fn a_switchover_costs_at_most_60_ms() {
    promise_in_time(ClusterSpec::default(), |cluster| {
        median_of(cluster, "switchover", 60, outage_of_switchover, |_| Ok(()))
    });
}

#[test]
fn an_address_that_another_program_took_off_is_back_within_20_ms() {
    promise_in_time(ClusterSpec::default(), |cluster| {
        median_of(cluster, "deletion", 20, outage_of_deletion, |_| Ok(()))
    });
}
