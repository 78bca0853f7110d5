//! Two heartbeat paths: what one dead cable costs.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use holdfast_agent::api::Cluster;
use holdfast_agent::lab::agent_api::{self, HistoryEntry, Status};
use holdfast_agent::lab::cluster as lab;
use holdfast_agent::lab::prober::Prober;
use holdfast_agent::lab::settings::{CABLE, ClusterSpec, LAN};
use holdfast_agent::lab::world::Plug;
use holdfast_integration::promise;
use holdfast_integration::stage::{LIMIT, ensure};

fn two_paths() -> ClusterSpec {
    ClusterSpec { cable: true, ..ClusterSpec::default() }
}

#[test]
fn a_dead_heartbeat_path_is_a_warning_and_never_a_failover() {
    promise(two_paths(), |cluster| {
        let primary = cluster.wait_in_sync(LIMIT)?;
        let before = changes(cluster, &primary)?;
        cluster.world().machine("a")?.plug(Some(CABLE), Plug::Pulled)?;
        cluster.wait_until("the dead path to be named", LIMIT, |all| {
            let named = |warning: &String| warning.contains("heartbeat path") && warning.contains("is dead");
            all.iter().filter(|status| status.kind == "data").all(|status| status.warnings.iter().any(named))
        })?;
        std::thread::sleep(cluster.spec().lease() * 5);
        let now = cluster.wait_in_sync(LIMIT)?;
        ensure(now == primary, || format!("{now} took over from {primary}"))?;
        let after = changes(cluster, &primary)?;
        ensure(after.len() == before.len(), || format!("something changed: {after:#?}"))?;
        cluster.world().machine("a")?.plug(Some(CABLE), Plug::In)?;
        cluster.wait_until("the path to come back", LIMIT, |all| {
            all.iter().all(|status| status.warnings.is_empty())
        })?;
        Ok(())
    });
}

#[test]
fn a_primary_whose_service_link_is_pulled_hands_over_by_the_other_path() {
    promise(two_paths(), |cluster| {
        let primary = cluster.wait_in_sync(LIMIT)?;
        let prober = Prober::start(&cluster.client()?, cluster.probe_target());
        prober.wait_served_after(std::time::Instant::now(), LIMIT)?;
        cluster.world().machine(&primary)?.plug(Some(LAN), Plug::Pulled)?;
        cluster.wait_until("the other to take over", LIMIT, |all| {
            all.iter().any(|status| status.is_primary() && status.node != primary)
        })?;
        let outage = prober.stop()?.outage();
        println!("outage {outage:?}");
        ensure(outage.is_some_and(|outage| outage < Duration::from_secs(5)), || format!("{outage:?}"))
    });
}

/// The changes of role of a member. What it notes besides, such as who votes, may come a moment after its reign began.
fn changes(cluster: &lab::Cluster, host: &str) -> Result<Vec<HistoryEntry>> {
    let mut history = cluster.history(host)?;
    history.retain(|entry| entry.cause != "note");
    Ok(history)
}

/// A path that works one way is named by both ends, shown to everybody, and changes nothing.
fn one_way(cluster: &lab::Cluster, path: &str, lost: impl Fn(&str, IpAddr) -> bool) -> Result<()> {
    let primary = cluster.wait_in_sync(LIMIT)?;
    let standby = cluster.other_than(&primary);
    let before = changes(cluster, &primary)?;
    cluster.world().deafen_where(&primary, standby, &lost)?;
    let named = |all: &[Status], host: &str, words: &[&str]| {
        let of_host = all.iter().filter(|status| status.node == host);
        let mut warnings = of_host.flat_map(|status| &status.warnings);
        warnings.any(|warning| words.iter().all(|word| warning.contains(word)))
    };
    let of_path = format!("heartbeat path {path} to");
    cluster.wait_until("both ends to name the direction", LIMIT, |all| {
        named(all, &primary, &[&of_path, &format!("one way: nothing from here arrives at {standby}")])
            && named(all, standby, &[&of_path, &format!("one way: nothing of {primary} arrives here")])
    })?;
    // Anybody can see who hears whom, the witness too.
    for host in [primary.as_str(), standby, "w"] {
        let shown = || -> Result<bool> {
            let seen: Cluster = agent_api::get(&cluster.netns(host)?, "/api/ha/cluster")?;
            let hears = |who: &str, whom: &str| {
                let member = seen.members.iter().find(|member| member.id == who)?;
                member.hears.iter().find(|hearing| hearing.member == whom).cloned()
            };
            let deaf = hears(standby, &primary).is_some_and(|hearing| hearing.not_by == [path]);
            Ok(deaf && hears(&primary, standby).is_some_and(|hearing| hearing.not_by.is_empty()))
        };
        let end = Instant::now() + LIMIT;
        while !shown()? {
            ensure(Instant::now() < end, || {
                format!("{host} does not show that {standby} is deaf by {path}")
            })?;
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let now = cluster.wait_in_sync(LIMIT)?;
    ensure(now == primary, || format!("{now} took over from {primary}"))?;
    let after = changes(cluster, &primary)?;
    ensure(after.len() == before.len(), || format!("something changed: {after:#?}"))?;
    cluster.world().mend()?;
    cluster.wait_until("the path to come back", LIMIT, |all| {
        all.iter().all(|status| status.warnings.is_empty())
    })?;
    Ok(())
}

#[test]
fn a_path_that_works_one_way_is_named_by_both_ends_and_never_a_failover() {
    promise(two_paths(), |cluster| one_way(cluster, "cable", |network, _| network == CABLE));
}

#[test]
fn heartbeats_over_ipv6_are_measured_in_both_directions_too() {
    let six = |host: &str| match host {
        "a" => (1, [2, 3]),
        "b" => (2, [1, 3]),
        _ => (3, [1, 2]),
    };
    let mut spec = ClusterSpec::default();
    for host in ["a", "b", "w"] {
        let (own, [one, two]) = six(host);
        let block = format!(
            "    heartbeat_path \"six\" {{\n      listen = \"fd77::{own}\"\n      peers  = [\"fd77::{one}\", \"fd77::{two}\"]\n    }}"
        );
        spec.extra_ha.insert(host.to_owned(), block);
    }
    promise(spec, |cluster| one_way(cluster, "six", |_, address| address.is_ipv6()));
}
