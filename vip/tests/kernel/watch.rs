//! What the kernel tells, and how soon.

use std::time::Duration;

use holdfast_vip::{Addresses, VipEvent, Watch, boottime_ns};

use crate::two_hosts::{ETH, PATIENCE, VIP, both_vips, on_two_hosts, vip};

async fn next(watch: &mut Watch) -> VipEvent {
    tokio::time::timeout(PATIENCE, watch.next()).await.expect("an event in time").unwrap()
}

#[test]
fn an_address_that_another_program_deletes_is_noticed_and_restored() {
    on_two_hosts(async |hosts| {
        for spec in both_vips() {
            let mut watch = Watch::open(vec![spec.clone()], &[]).await.unwrap();
            let addresses = Addresses::open(vec![spec.clone()]).await.unwrap();
            addresses.claim(Duration::from_secs(30)).await.unwrap();
            assert!(matches!(next(&mut watch).await, VipEvent::AddressAppeared { .. }));
            addresses.refresh(Duration::from_secs(30)).await.unwrap();

            let deleted = boottime_ns();
            hosts.here.take(spec.ip()).await;
            let VipEvent::AddressLost { spec: lost, at } = next(&mut watch).await else {
                panic!("another event than the loss")
            };
            assert_eq!(lost, spec);
            let took = Duration::from_nanos(at - deleted);
            eprintln!("the loss of {spec} was noticed {took:?} after the deletion was begun");
            assert!(took < Duration::from_millis(50), "{took:?}");

            addresses.refresh(Duration::from_secs(30)).await.unwrap();
            assert!(matches!(next(&mut watch).await, VipEvent::AddressAppeared { .. }));
            assert!(addresses.observe().await.unwrap()[0].present);
        }
    });
}

#[test]
fn a_pulled_cable_is_noticed_and_so_is_its_return() {
    on_two_hosts(async |hosts| {
        let mut watch = Watch::open(vec![vip(VIP)], &["lo".to_owned()]).await.unwrap();
        hosts.there.set_link(ETH, false).await;
        assert_eq!(next(&mut watch).await, VipEvent::LinkDown { interface: ETH.into() });
        hosts.there.set_link(ETH, true).await;
        assert_eq!(next(&mut watch).await, VipEvent::LinkUp { interface: ETH.into() });
        hosts.here.set_link("lo", false).await;
        assert_eq!(next(&mut watch).await, VipEvent::LinkDown { interface: "lo".into() });
    });
}

#[test]
fn lost_notices_are_owned_up_to_and_leave_no_false_picture() {
    on_two_hosts(async |hosts| {
        let mut watch = Watch::open(vec![vip(VIP)], &[]).await.unwrap();
        let addresses = Addresses::open(vec![vip(VIP)]).await.unwrap();
        // More notices than the socket's buffer holds, while nobody reads; the last ones are lost.
        for _ in 0..3000 {
            hosts.here.give(&["10.99.0.1/32"]).await;
            hosts.here.take("10.99.0.1".parse().unwrap()).await;
        }
        addresses.claim(Duration::from_secs(30)).await.unwrap();
        while next(&mut watch).await != VipEvent::Overrun {}
        assert!(addresses.observe().await.unwrap()[0].present);

        addresses.release().await.unwrap();
        loop {
            if let VipEvent::AddressLost { spec, .. } = next(&mut watch).await {
                assert_eq!(spec, vip(VIP));
                break;
            }
        }
    });
}
