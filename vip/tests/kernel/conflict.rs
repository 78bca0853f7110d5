//! Whoever else claims an address of ours is heard, and nobody else.

use std::time::Duration;

use holdfast_vip::{Addresses, Announcer, Contest, MacAddr, Prober, Sentinel, Sign, mac_of};

use crate::two_hosts::{Asker, ETH, PATIENCE, THERE, THERE6, both_vips, on_two_hosts, serve_echo, until};

async fn next(sentinel: &mut Sentinel) -> Vec<Contest> {
    tokio::time::timeout(PATIENCE, sentinel.next()).await.expect("a contest in time")
}

#[test]
fn a_claim_from_another_station_is_heard_with_its_hardware_address() {
    on_two_hosts(async |hosts| {
        let _addresses = {
            let addresses = Addresses::open(both_vips()).await.unwrap();
            addresses.claim(Duration::from_secs(60)).await.unwrap();
            addresses
        };
        let mut sentinel = Sentinel::open(both_vips());
        let other: MacAddr = hosts.there(|| mac_of(ETH).unwrap());
        for spec in both_vips() {
            hosts.there(|| Announcer::open(&[]).announce(&spec)).unwrap();
            let heard = next(&mut sentinel).await;
            assert_eq!(heard.len(), 1, "{heard:?}");
            assert_eq!((&heard[0].spec, heard[0].mac, heard[0].sign), (&spec, other, Sign::Claims));
        }
    });
}

#[test]
fn a_probe_of_another_station_is_heard_as_such() {
    on_two_hosts(async |hosts| {
        let mut sentinel = Sentinel::open(both_vips());
        let other: MacAddr = hosts.there(|| mac_of(ETH).unwrap());
        for spec in both_vips() {
            let theirs = spec.clone();
            let probing = hosts.meanwhile_there(async move || {
                Prober::open(&[theirs]).await.probe(1, Duration::from_millis(20)).await
            });
            let heard = next(&mut sentinel).await;
            assert_eq!((&heard[0].spec, heard[0].mac, heard[0].sign), (&spec, other, Sign::Probes));
            probing.join().unwrap();
            sentinel.drain();
        }
    });
}

#[test]
fn clients_neighbours_and_ourselves_are_no_contest() {
    on_two_hosts(async |hosts| {
        let addresses = Addresses::open(both_vips()).await.unwrap();
        addresses.claim(Duration::from_secs(60)).await.unwrap();
        let mut sentinel = Sentinel::open(both_vips());
        for (spec, from) in both_vips().iter().zip([THERE, THERE6]) {
            // The client asks for the address, and is asked for its own.
            let port = serve_echo(spec.ip());
            let mut asker = hosts.there(|| Asker::new(from.parse().unwrap()));
            until("the address answers", async || {
                asker.ask((spec.ip(), port).into(), Duration::from_millis(500)).await
            })
            .await;
            Announcer::open(&[]).announce(spec).unwrap();
        }
        // What is heard first is what really is a contest.
        hosts.there(|| Announcer::open(&[]).announce(&both_vips()[0])).unwrap();
        let heard = next(&mut sentinel).await;
        assert_eq!(heard.len(), 1, "{heard:?}");
        assert_eq!(heard[0].sign, Sign::Claims);
    });
}

#[test]
fn an_interface_that_is_made_again_is_listened_to_again() {
    on_two_hosts(async |hosts| {
        let mut sentinel = Sentinel::open(both_vips());
        let index = hosts.here.index_of(ETH).await;
        hosts.here.netlink.link().del(index).execute().await.unwrap();
        sentinel.look_again();
        hosts.lay_cable().await;
        sentinel.look_again();
        hosts.there(|| Announcer::open(&[]).announce(&both_vips()[0])).unwrap();
        assert_eq!(next(&mut sentinel).await.len(), 1);
    });
}

#[test]
fn a_flood_of_claims_is_summed_up() {
    on_two_hosts(async |hosts| {
        let mut sentinel = Sentinel::open(both_vips());
        hosts.there(|| {
            let announcer = Announcer::open(&[]);
            for _ in 0..200 {
                announcer.announce(&both_vips()[0]).unwrap();
            }
        });
        let heard = next(&mut sentinel).await;
        assert_eq!(heard.len(), 1, "{heard:?}");
        assert!(heard[0].frames > 1, "{heard:?}");
    });
}
