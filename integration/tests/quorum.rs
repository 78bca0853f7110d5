//! Who may serve, and who may be elected, when some cannot reach others.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use holdfast_agent::lab::cluster::{Cluster, Fault};
use holdfast_agent::lab::ledger::{Load, LoadSpec};
use holdfast_agent::lab::prober::Prober;
use holdfast_agent::lab::settings::{CLIENT, ClusterSpec, LAN, WITNESS};
use holdfast_agent::lab::twins::Twins;
use holdfast_agent::lab::world::Plug;
use holdfast_integration::measure::{all_there, no_twins, restore};
use holdfast_integration::promise;
use holdfast_integration::stage::{LIMIT, ensure};

/// What the clocks of the measurement and of the machine may add to a lease.
const SLACK: Duration = Duration::from_millis(10);

#[test]
fn the_isolated_side_stops_serving_within_its_lease() {
    promise(ClusterSpec::default(), |cluster| {
        let primary = cluster.wait_in_sync(LIMIT)?;
        let lease = cluster.spec().lease();
        let machine = cluster.world().machine(&primary)?;
        // A client that is cut off together with the primary, and can reach nobody else.
        let tap = cluster.world().island_tap(LAN, "10.77.0.210/24".parse()?)?;
        tap.pin(cluster.spec().vip.into(), machine.mac(LAN).context("the primary's cable")?)?;
        let prober = Prober::start(&tap.netns, cluster.probe_target());
        let moved = Instant::now();
        machine.plug(None, Plug::Island)?;
        thread::sleep(lease * 4 + cluster.gate_slack());
        let seen = prober.stop()?;
        let last = seen.served.iter().map(|s| s.began).max();
        let last = last.context("the isolated client was never served, so nothing is proved")?;
        println!("the isolated primary served for {} ms more", (last - moved).as_millis());
        ensure(last <= moved + lease + SLACK + cluster.gate_slack(), || {
            format!("it served {:?} after the cut, its lease is {lease:?}", last - moved)
        })?;
        let status = cluster.status(&primary)?;
        ensure(!status.is_primary(), || format!("the isolated side still calls itself {}", status.role))?;
        cluster.wait_until("the other side's primary", LIMIT, |all| {
            all.iter().any(|s| s.is_primary() && s.node != primary)
        })?;
        restore(cluster)
    });
}

#[test]
fn a_primary_that_only_hears_stops_serving_within_its_lease() {
    promise(ClusterSpec::default(), |cluster| {
        let primary = cluster.wait_in_sync(LIMIT)?;
        let client = cluster.client()?;
        let target = cluster.target("oneway");
        target.create_bucket(&client, LIMIT)?;
        let twins = Twins::watch(cluster)?;
        let load = Load::start(&client, &target, LoadSpec::default());
        load.wait_for_more(100, LIMIT)?;
        for member in cluster.spec().members().into_iter().filter(|m| *m != primary) {
            cluster.world().deafen(&primary, member)?;
        }
        let other = cluster.other_than(&primary);
        cluster.wait_until("a primary on the side that is heard", LIMIT, |all| {
            all.iter().any(|s| s.is_primary() && s.node == other)
        })?;
        load.wait_for_more(100, LIMIT)?;
        restore(cluster)?;
        let ledger = load.stop()?;
        no_twins(cluster, &twins.stop()?)?;
        all_there(cluster, &target, &ledger)
    });
}

#[test]
fn a_one_way_loss_between_the_pair_alone_loses_nothing() {
    promise(ClusterSpec::default(), |cluster| {
        let primary = cluster.wait_in_sync(LIMIT)?;
        let client = cluster.client()?;
        let target = cluster.target("oneway");
        target.create_bucket(&client, LIMIT)?;
        let twins = Twins::watch(cluster)?;
        let load = Load::start(&client, &target, LoadSpec::default());
        load.wait_for_more(100, LIMIT)?;
        cluster.world().deafen(&primary, cluster.other_than(&primary))?;
        thread::sleep(cluster.spec().lease() * 5);
        // Somebody serves: the witness decides who.
        load.wait_for_more(100, LIMIT)?;
        restore(cluster)?;
        let ledger = load.stop()?;
        no_twins(cluster, &twins.stop()?)?;
        all_there(cluster, &target, &ledger)
    });
}

#[test]
fn the_witness_alone_can_die_and_nothing_changes() {
    promise(ClusterSpec::default(), |cluster| {
        let primary = cluster.wait_in_sync(LIMIT)?;
        let before = cluster.status(&primary)?;
        let client = cluster.client()?;
        let target = cluster.target("witness");
        target.create_bucket(&client, LIMIT)?;
        let prober = Prober::start(&client, cluster.probe_target());
        let load = Load::start(&client, &target, LoadSpec::default());
        load.wait_for_more(50, LIMIT)?;
        cluster.inflict(WITNESS, Fault::PowerOff)?;
        thread::sleep(cluster.spec().lease() * 10);
        load.wait_for_more(50, LIMIT)?;
        cluster.inflict(WITNESS, Fault::Heal)?;
        thread::sleep(cluster.spec().lease() * 10);
        let (ledger, seen) = (load.stop()?, prober.stop()?);
        let after = cluster.status(&primary)?;
        ensure(after.is_primary() && after.epoch == before.epoch, || {
            format!(
                "{primary} was primary of epoch {}, now it is {} of {}",
                before.epoch, after.role, after.epoch
            )
        })?;
        ensure(ledger.ambiguous.is_empty(), || format!("writes failed: {:?}", ledger.reasons))?;
        let outage = seen.outage().unwrap_or_default();
        ensure(outage < cluster.spec().lease(), || format!("clients were not served for {outage:?}"))?;
        all_there(cluster, &target, &ledger)
    });
}

/// Leaves the primary alone in the in-sync set with writes that only it has, then switches it off too.
/// Returns (the member with everything, the stale one, what was acknowledged).
fn leave_one_behind(
    cluster: &Cluster,
) -> Result<(String, &'static str, holdfast_agent::lab::ledger::Ledger)> {
    let primary = cluster.wait_in_sync(LIMIT)?;
    let stale = cluster.other_than(&primary);
    let client = cluster.client()?;
    let target = cluster.target("behind");
    target.create_bucket(&client, LIMIT)?;
    cluster.inflict(stale, Fault::PowerOff)?;
    let alone = |s: &holdfast_agent::lab::agent_api::Status| s.is_primary() && s.in_sync.len() == 1;
    cluster.wait_until("the primary to go on alone", LIMIT, |all| all.iter().any(alone))?;
    let load = Load::start(&client, &target, LoadSpec::default());
    load.wait_for_more(200, LIMIT)?;
    let ledger = load.stop()?;
    cluster.inflict(&primary, Fault::PowerOff)?;
    Ok((primary, stale, ledger))
}

#[test]
fn a_member_outside_the_in_sync_set_is_not_elected_even_if_it_boots_first() {
    promise(ClusterSpec::default(), |cluster| {
        let (whole, stale, ledger) = leave_one_behind(cluster)?;
        cluster.inflict(stale, Fault::Heal)?;
        // Long enough for many elections, each of which it must not win.
        let end = Instant::now() + cluster.spec().lease() * 15;
        let mut looked = 0;
        while Instant::now() < end {
            if let Ok(status) = cluster.status(stale) {
                looked += 1;
                ensure(!status.is_primary(), || format!("{stale} lacks writes and became primary"))?;
            }
            thread::sleep(Duration::from_millis(20));
        }
        ensure(looked > 10, || "its agent hardly ever answered, so nothing is proved".to_owned())?;
        cluster.inflict(&whole, Fault::Heal)?;
        cluster.wait_in_sync(LIMIT)?;
        all_there(cluster, &cluster.target("behind"), &ledger)
    });
}

#[test]
fn the_member_with_everything_is_elected_if_it_boots_first() {
    promise(ClusterSpec::default(), |cluster| {
        let (whole, stale, ledger) = leave_one_behind(cluster)?;
        cluster.inflict(&whole, Fault::Heal)?;
        let primary = cluster.wait_for_primary(LIMIT)?;
        ensure(primary == whole, || format!("{primary} became primary, {whole} has everything"))?;
        all_there(cluster, &cluster.target("behind"), &ledger)?;
        cluster.inflict(stale, Fault::Heal)?;
        cluster.wait_in_sync(LIMIT).map(drop)
    });
}

#[test]
fn acknowledgements_hold_when_the_clients_own_cable_is_pulled() {
    promise(ClusterSpec::default(), |cluster| {
        cluster.wait_in_sync(LIMIT)?;
        let client = cluster.client()?;
        let target = cluster.target("client");
        target.create_bucket(&client, LIMIT)?;
        let load = Load::start(&client, &target, LoadSpec::default());
        load.wait_for_more(100, LIMIT)?;
        cluster.world().plug(CLIENT, None, Plug::Pulled)?;
        thread::sleep(cluster.spec().lease() * 2);
        cluster.world().plug(CLIENT, None, Plug::In)?;
        load.wait_for_more(100, LIMIT)?;
        let ledger = load.stop()?;
        all_there(cluster, &target, &ledger)
    });
}
