//! What is announced elsewhere is learned here, and nothing else is.

use std::sync::Arc;
use std::time::Duration;

use holdfast_vip::{Announcer, Learner, MacAddr, Prober, VipError, boottime_ns, mac_of};

use crate::two_hosts::{ETH, VIP, VIP6, both_vips, on_two_hosts, until, vip};

const COUNT: u32 = 3;
const WINDOW: Duration = Duration::from_millis(150);

#[test]
fn an_announcement_is_learned_with_its_station_and_its_moment() {
    on_two_hosts(async |hosts| {
        let learner = Arc::new(Learner::new(both_vips()));
        let listening = tokio::spawn({
            let learner = learner.clone();
            async move { learner.listen(|| false).await }
        });
        // Nothing tells when the sockets are open: announce until it is heard.
        let other: MacAddr = hosts.there(|| mac_of(ETH).unwrap());
        for spec in both_vips() {
            until("the announcement is heard", async || {
                hosts.there(|| Announcer::open(&[]).announce(&spec).unwrap());
                !learner.learned(&spec).is_empty()
            })
            .await;
        }
        for spec in both_vips() {
            let before = boottime_ns();
            hosts.there(|| Announcer::open(&[]).announce(&spec).unwrap());
            until("the next one is heard", async || learner.learned(&spec)[0].at >= before).await;
            let learned = learner.learned(&spec);
            assert_eq!((learned.len(), learned[0].mac), (1, other), "{learned:?}");
        }
        // Claims of another address, questions, and what this host says itself.
        hosts.there(|| Announcer::open(&[]).announce(&vip("10.77.0.101/24")).unwrap());
        Announcer::open(&[]).announce(&vip(VIP)).unwrap();
        hosts
            .meanwhile_there(async || {
                Prober::default().holders(&both_vips(), COUNT, WINDOW).await;
            })
            .join()
            .unwrap();
        // Whatever came before this one has been looked at when it is heard.
        let before = boottime_ns();
        hosts.there(|| Announcer::open(&[]).announce(&vip(VIP)).unwrap());
        until("the last one is heard", async || learner.learned(&vip(VIP))[0].at >= before).await;
        assert!(learner.learned(&vip("10.77.0.101/24")).is_empty());
        let learned = learner.learned(&vip(VIP));
        assert_eq!((learned.len(), learned[0].mac), (1, other), "{learned:?}");
        listening.abort();
    });
}

#[test]
fn everybody_who_has_an_address_is_named() {
    on_two_hosts(async |hosts| {
        let prober = Prober::default();
        let nobody = prober.holders(&both_vips(), COUNT, WINDOW).await;
        assert!(nobody.iter().all(|found| found.as_ref().is_ok_and(Vec::is_empty)), "{nobody:?}");
        hosts.there.give(&[VIP, VIP6]).await;
        hosts.here.give(&[VIP]).await;
        let other: MacAddr = hosts.there(|| mac_of(ETH).unwrap());
        for found in prober.holders(&both_vips(), COUNT, WINDOW).await {
            assert_eq!(found.unwrap(), [other], "the other one, and not this host");
        }
        hosts.there.set_link(ETH, false).await;
        until("the carrier is gone", async || !holdfast_vip::link_up(ETH)).await;
        let unasked = prober.holders(&[vip(VIP)], COUNT, WINDOW).await;
        assert!(matches!(unasked[0], Err(VipError::LinkDown { .. })), "{unasked:?}");
    });
}
