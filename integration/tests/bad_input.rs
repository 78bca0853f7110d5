//! What the network or the disk does wrong is counted or refused, and changes nothing.

use std::net::{IpAddr, Ipv4Addr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use holdfast_agent::lab::agent_api::Status;
use holdfast_agent::lab::cluster::Cluster;
use holdfast_agent::lab::ledger::{Load, LoadSpec};
use holdfast_agent::lab::prober::Prober;
use holdfast_agent::lab::settings::{ClusterSpec, LAN, WITNESS, lan_address};
use holdfast_integration::measure::all_there;
use holdfast_integration::packets::{Datagram, capture, send};
use holdfast_integration::promise;
use holdfast_integration::stage::{LIMIT, ensure};

/// Copies of each bad packet.
const COPIES: usize = 20;

fn v4(host: &str) -> Result<Ipv4Addr> {
    match lan_address(host) {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(_) => bail!("an IPv6 address"),
    }
}

/// Sends what `spoil` makes of real heartbeats of the witness to both data members, and checks that each
/// counts them under one of `reasons` and that nothing else happens.
fn counted_and_ignored(cluster: &Cluster, reasons: &[&str], spoil: impl Fn(&mut Vec<u8>)) -> Result<()> {
    let primary = cluster.wait_in_sync(LIMIT)?;
    let before = cluster.status(&primary)?;
    let tap = cluster.world().tap(LAN, "10.77.0.220/24".parse()?)?;
    let prober = Prober::start(&cluster.client()?, cluster.probe_target());
    prober.wait_served_after(Instant::now(), LIMIT)?;
    for &member in cluster.spec().data() {
        let counted = |s: &Status| -> u64 {
            reasons.iter().map(|reason| s.counter("heartbeat_dropped", Some(reason))).sum()
        };
        let machine = cluster.world().machine(member)?;
        let taken = capture(&machine.netns()?, v4(WITNESS)?, COPIES, LIMIT)?;
        let at_first = counted(&cluster.status(member)?);
        let spoilt: Vec<Datagram> = taken
            .into_iter()
            .map(|mut datagram| {
                spoil(&mut datagram.payload);
                datagram
            })
            .collect();
        send(&tap, machine.mac(LAN).context("the member's cable")?, &spoilt)?;
        let end = Instant::now() + LIMIT;
        loop {
            let status = cluster.status(member)?;
            let more = counted(&status) - at_first;
            if more >= COPIES as u64 {
                break;
            }
            ensure(Instant::now() < end, || {
                format!("{member} counted {more} of {COPIES} as {reasons:?}: {:?}", status.counters)
            })?;
            thread::sleep(Duration::from_millis(20));
        }
    }
    thread::sleep(cluster.spec().lease() * 2);
    let after = cluster.status(&primary)?;
    ensure(after.is_primary() && after.epoch == before.epoch, || {
        format!("{primary} was primary of epoch {}, now {} of {}", before.epoch, after.role, after.epoch)
    })?;
    ensure(after.in_sync == before.in_sync, || format!("the in-sync set became {:?}", after.in_sync))?;
    let outage = prober.stop()?.outage().unwrap_or_default();
    ensure(outage < cluster.spec().lease(), || format!("clients were not served for {outage:?}"))
}

#[test]
fn heartbeats_with_a_wrong_tag_are_counted_and_change_nothing() {
    promise(ClusterSpec::default(), |cluster| {
        counted_and_ignored(cluster, &["bad_mac"], |packet| packet[20] ^= 0x01)
    });
}

#[test]
fn heartbeats_under_an_unknown_key_are_counted_and_change_nothing() {
    promise(ClusterSpec::default(), |cluster| {
        counted_and_ignored(cluster, &["unknown_key"], |packet| packet[8] ^= 0xff)
    });
}

#[test]
fn changed_heartbeats_are_counted_and_change_nothing() {
    promise(ClusterSpec::default(), |cluster| {
        counted_and_ignored(cluster, &["bad_mac"], |packet| {
            if let Some(last) = packet.last_mut() {
                *last ^= 0xff;
            }
        })
    });
}

#[test]
fn replayed_heartbeats_are_counted_and_change_nothing() {
    promise(ClusterSpec::default(), |cluster| {
        counted_and_ignored(cluster, &["replayed", "stale", "unproven"], |_| {})
    });
}

#[test]
fn truncated_heartbeats_are_counted_and_change_nothing() {
    promise(ClusterSpec::default(), |cluster| {
        counted_and_ignored(cluster, &["truncated"], |packet| packet.truncate(20))
    });
}

#[test]
fn oversized_heartbeats_are_counted_and_change_nothing() {
    promise(ClusterSpec::default(), |cluster| {
        counted_and_ignored(cluster, &["oversized"], |packet| packet.resize(1400, 0))
    });
}

#[test]
fn heartbeats_of_another_version_are_counted_and_change_nothing() {
    promise(ClusterSpec::default(), |cluster| {
        counted_and_ignored(cluster, &["other_version"], |packet| packet[4] = 0x7f)
    });
}

#[test]
fn a_full_disk_refuses_writes_with_a_clear_error_and_loses_nothing() {
    const DISK_BYTES: u64 = 64 << 20;
    let spec = ClusterSpec {
        segment_size: Some("4MiB".to_owned()),
        small_disks: [("a".to_owned(), DISK_BYTES), ("b".to_owned(), DISK_BYTES)].into(),
        ..ClusterSpec::default()
    };
    promise(spec, |cluster| {
        cluster.wait_in_sync(LIMIT)?;
        let client = cluster.client()?;
        let target = cluster.target("full");
        target.create_bucket(&client, LIMIT)?;
        let spec = LoadSpec { writers: 2, size: 1 << 20, ..LoadSpec::default() };
        let load = Load::start(&client, &target, spec);
        let end = Instant::now() + LIMIT * 2;
        loop {
            let refused = load.reasons();
            if refused.keys().any(|reason| reason.contains("507") || reason.contains("DiskFull")) {
                break;
            }
            ensure(Instant::now() < end, || {
                format!("{} objects of 1 MiB fit on 64 MiB; errors: {refused:?}", load.acknowledged())
            })?;
            thread::sleep(Duration::from_millis(20));
        }
        let ledger = load.stop()?;
        println!("{} acknowledged, then {:?}", ledger.acknowledged.len(), ledger.reasons);
        all_there(cluster, &target, &ledger)
    });
}
