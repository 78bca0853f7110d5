//! Another station claims an address that this member holds.

use std::time::Duration;

use holdfast_vip::{Announcer, Prober, mac_of};

use crate::two_hosts::{ETH, PATIENCE, VIP, both_vips, on_two_hosts, until, vip};
use crate::{Member, answered};

#[test]
fn a_contested_address_is_announced_again_at_once_and_reported() {
    on_two_hosts(async |hosts| {
        let member = Member::begin(&both_vips());
        member.claim();
        let (own, other) = (mac_of(ETH).unwrap(), hosts.there(|| mac_of(ETH).unwrap()));
        for (spec, nth) in both_vips().into_iter().zip(0..) {
            let (mut asker, at) = answered(&hosts, &spec).await;
            // A third station that was told wrong is told right: `there` listens as one.
            let listening = spec.clone();
            let heard = hosts.meanwhile_there(async move || {
                // Whoever claims an address is heard by a sentinel; here it hears the holder's defence.
                let mut sentinel = holdfast_vip::Sentinel::open(vec![listening.clone()]);
                Announcer::open(&[]).announce(&listening).unwrap();
                let begun = std::time::Instant::now();
                let contests = tokio::time::timeout(PATIENCE, sentinel.next()).await.expect("a defence");
                (contests, begun.elapsed())
            });
            let (contests, took) = tokio::task::spawn_blocking(|| heard.join().unwrap()).await.unwrap();
            assert_eq!((&contests[0].spec, contests[0].mac), (&spec, own), "{contests:?}");
            eprintln!("{spec}: announced again {took:?} after another station claimed it");
            let said = member.said();
            assert!(said.starts_with(&format!("warning: {other} says that it has {spec}")), "{said}");
            let warnings = member.board.warnings();
            assert_eq!(warnings.len(), 1, "{warnings:?}");
            assert!(warnings[0].contains(&other.to_string()), "{warnings:?}");
            assert!(member.board.addresses()[nth].contested > 0);
            // It serves on: nobody proved anything.
            assert!(asker.ask(at, PATIENCE).await);
            assert!(member.board.addresses().iter().all(|address| address.held));
        }
        assert!(member.events.try_recv().is_err(), "the core hears nothing of it");
        member.release();
        assert!(member.board.warnings().is_empty());
    });
}

#[test]
fn claims_while_the_address_is_not_held_are_nobodys_business() {
    on_two_hosts(async |hosts| {
        let member = Member::begin(&[vip(VIP)]);
        hosts.there(|| Announcer::open(&[]).announce(&vip(VIP))).unwrap();
        member.claim();
        member.release();
        hosts.there(|| Announcer::open(&[]).announce(&vip(VIP))).unwrap();
        member.claim();
        assert_eq!(member.board.addresses()[0].contested, 0);
        assert!(member.sayings.try_recv().is_err());
        member.release();
    });
}

#[test]
fn a_peer_that_probes_is_noted_and_no_warning() {
    on_two_hosts(async |hosts| {
        let member = Member::begin(&[vip(VIP)]);
        member.claim();
        let probing = hosts.meanwhile_there(async || {
            Prober::open(&[vip(VIP)]).await.probe(3, Duration::from_millis(100)).await
        });
        let found = tokio::task::spawn_blocking(|| probing.join().unwrap()).await.unwrap();
        assert_eq!(found.conflicts.len(), 1, "the holder answers: {found:?}");
        assert!(member.said().contains("asked whether anybody has 10.77.0.100 on eth1"));
        assert!(member.board.warnings().is_empty());
        member.release();
    });
}

#[test]
fn another_hardware_address_is_announced_at_once() {
    on_two_hosts(async |hosts| {
        let member = Member::begin(&[vip(VIP)]);
        member.claim();
        let _ = answered(&hosts, &vip(VIP)).await;
        let begun = std::time::Instant::now();
        crate::ip("link set eth1 address 02:00:00:00:00:55");
        until("the neighbour knows", async || {
            hosts.there.neighbour(vip(VIP).ip()).await == Some([2, 0, 0, 0, 0, 0x55])
        })
        .await;
        eprintln!("another hardware address: the neighbour knows after {:?}", begun.elapsed());
        member.release();
    });
}
