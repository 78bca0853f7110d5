//! Probes find who is there and nobody else.

use std::time::{Duration, Instant};

use holdfast_vip::{MacAddr, Prober, VipError, VipSpec, echo, mac_of, probe_ip};

use crate::two_hosts::{
    ETH, HERE, HERE6, THERE, THERE6, TwoHosts, VIP, VIP6, both_vips, on_two_hosts, until, vip,
};

const COUNT: u32 = 3;
const WINDOW: Duration = Duration::from_millis(150);
/// A window that no test waits out.
const LONG: Duration = Duration::from_secs(20);

#[test]
fn an_address_that_nobody_has_is_free_after_the_window() {
    on_two_hosts(async |_hosts| {
        let prober = Prober::open(&both_vips()).await;
        let begun = Instant::now();
        let result = prober.probe(COUNT, WINDOW).await;
        assert!(result.is_free(), "{result:?}");
        assert!(begun.elapsed() >= WINDOW);
    });
}

#[test]
fn an_address_that_another_host_has_is_a_conflict_at_once() {
    on_two_hosts(async |hosts| {
        hosts.there.give(&[VIP, VIP6]).await;
        let other: MacAddr = hosts.there(|| mac_of(ETH).unwrap());
        for spec in both_vips() {
            let prober = Prober::open(std::slice::from_ref(&spec)).await;
            let begun = Instant::now();
            let result = prober.probe(COUNT, LONG).await;
            assert!(begun.elapsed() < LONG / 4, "{:?}", begun.elapsed());
            assert_eq!(result.conflicts.len(), 1, "{result:?}");
            assert_eq!((&result.conflicts[0].spec, result.conflicts[0].mac), (&spec, other));
        }
    });
}

#[test]
fn holding_the_address_oneself_is_no_conflict() {
    on_two_hosts(async |hosts| {
        hosts.here.give(&[VIP, VIP6]).await;
        let result = Prober::open(&both_vips()).await.probe(COUNT, WINDOW).await;
        assert!(result.is_free(), "{result:?}");
    });
}

#[test]
fn two_hosts_that_probe_at_once_hear_each_other() {
    on_two_hosts(async |hosts| {
        for spec in both_vips() {
            probe_each_other(&hosts, &spec).await;
        }
    });
}

/// First their probe must reach ours, then ours theirs. (Whoever hears the other first falls silent, so
/// one probe each does not tell.)
pub(crate) async fn probe_each_other(hosts: &TwoHosts, spec: &VipSpec) {
    let prober = Prober::open(std::slice::from_ref(spec)).await;
    let (here, other) = (mac_of(ETH).unwrap(), hosts.there(|| mac_of(ETH).unwrap()));
    let there = |window| {
        let theirs = spec.clone();
        hosts.meanwhile_there(async move || Prober::open(&[theirs]).await.probe(1, window).await)
    };

    let listening = prober.probe(1, LONG);
    let (result, asked) = tokio::join!(listening, async { there(WINDOW) });
    assert_eq!(result.conflicts.len(), 1, "their probe comes in: {result:?}");
    assert_eq!(result.conflicts[0].mac, other);
    asked.join().unwrap();

    let listening = there(LONG);
    while !listening.is_finished() {
        prober.probe(1, Duration::from_millis(5)).await;
    }
    assert_eq!(listening.join().unwrap().conflicts[0].mac, here, "ours goes out");
}

#[test]
fn what_was_said_before_the_probe_does_not_count() {
    on_two_hosts(async |hosts| {
        let prober = Prober::open(&both_vips()).await;
        hosts.there(|| {
            for spec in both_vips() {
                holdfast_vip::Announcer::open(&[]).announce(&spec).unwrap();
            }
        });
        let result = prober.probe(COUNT, WINDOW).await;
        assert!(result.is_free(), "{result:?}");
    });
}

#[test]
fn an_address_on_a_dead_link_is_not_called_free() {
    on_two_hosts(async |hosts| {
        let prober = Prober::open(&both_vips()).await;
        hosts.there.set_link(ETH, false).await;
        until("the carrier is gone", async || !holdfast_vip::link_up(ETH)).await;
        let result = prober.probe(COUNT, LONG).await;
        assert_eq!(result.unsent.len(), 2, "{result:?}");
        assert!(matches!(result.unsent[0].1, VipError::LinkDown { .. }));
        assert!(!probe_ip(ETH, THERE.parse().unwrap(), COUNT, LONG).await);
    });
}

#[test]
fn a_link_that_dies_under_the_probe_is_not_silence() {
    on_two_hosts(async |hosts| {
        let prober = Prober::open(&[vip(VIP)]).await;
        let cut = async {
            hosts.there.set_link(ETH, false).await;
        };
        let (result, ()) = tokio::join!(prober.probe(COUNT, WINDOW), cut);
        assert_eq!(result.unsent.len(), 1, "{result:?}");
    });
}

#[test]
fn a_neighbour_is_alive_when_it_answers_and_not_otherwise() {
    on_two_hosts(async |_hosts| {
        for alive in [THERE, THERE6, HERE, HERE6] {
            assert!(probe_ip(ETH, alive.parse().unwrap(), COUNT, LONG).await, "{alive}");
        }
        for dead in ["10.77.0.77", "fd77::77"] {
            assert!(!probe_ip(ETH, dead.parse().unwrap(), COUNT, WINDOW).await, "{dead}");
        }
    });
}

#[test]
fn an_echo_reaches_neighbours_and_whoever_lies_behind_them() {
    on_two_hosts(async |hosts| {
        // A router's far side: in no network of ours, reached by a route.
        const BEYOND: &str = "10.99.0.9";
        hosts.there.give(&["10.99.0.9/32"]).await;
        let route = ["route", "add", BEYOND, "via", THERE];
        assert!(std::process::Command::new("ip").args(route).status().unwrap().success());
        for alive in [THERE, THERE6, BEYOND] {
            assert!(echo(alive.parse().unwrap(), COUNT, LONG).await, "{alive}");
        }
        for dead in ["10.77.0.77", "fd77::77", "10.98.0.9"] {
            assert!(!echo(dead.parse().unwrap(), COUNT, WINDOW).await, "{dead}");
        }
        hosts.there.set_link(ETH, false).await;
        assert!(!echo(BEYOND.parse().unwrap(), COUNT, WINDOW).await);
    });
}

#[test]
fn an_interface_that_is_made_again_is_probed_again() {
    on_two_hosts(async |hosts| {
        let prober = Prober::open(&[vip(VIP)]).await;
        let index = hosts.here.index_of(ETH).await;
        hosts.here.netlink.link().del(index).execute().await.unwrap();
        let result = prober.probe(COUNT, LONG).await;
        assert!(matches!(result.unsent[0].1, VipError::NoSuchInterface { .. }), "{result:?}");
        hosts.lay_cable().await;
        hosts.there.give(&[VIP]).await;
        assert_eq!(prober.probe(COUNT, LONG).await.conflicts.len(), 1);
    });
}
