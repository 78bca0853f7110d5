//! Neighbours believe an announcement.

use holdfast_vip::{Announcer, VipError, mac_of};

use crate::two_hosts::{ETH, VIP, both_vips, on_two_hosts, until, vip};

const FORMER_HOLDER: [u8; 6] = [2, 0, 0, 0, 0, 0x99];

#[test]
fn a_neighbour_that_knew_another_holder_believes_the_announcement() {
    on_two_hosts(async |hosts| {
        let announcer = Announcer::open(&both_vips());
        let own = mac_of(ETH).unwrap().octets();
        for spec in both_vips() {
            hosts.there.know_neighbour(spec.ip(), FORMER_HOLDER).await;
            assert_eq!(hosts.there.neighbour(spec.ip()).await, Some(FORMER_HOLDER));
            assert!(announcer.announce(&spec).unwrap() > 0);
            until("the neighbour believes", async || hosts.there.neighbour(spec.ip()).await == Some(own))
                .await;
        }
    });
}

#[test]
fn nothing_is_announced_on_a_link_without_a_carrier_and_it_works_again_afterwards() {
    on_two_hosts(async |hosts| {
        let announcer = Announcer::open(&both_vips());
        hosts.there.set_link(ETH, false).await;
        until("the carrier is gone", async || !holdfast_vip::link_up(ETH)).await;
        assert!(matches!(announcer.announce(&vip(VIP)), Err(VipError::LinkDown { .. })));

        let index = hosts.here.index_of(ETH).await;
        hosts.here.netlink.link().del(index).execute().await.unwrap();
        assert!(matches!(announcer.announce(&vip(VIP)), Err(VipError::NoSuchInterface { .. })));
        hosts.lay_cable().await;
        assert_eq!(announcer.announce(&vip(VIP)).unwrap(), 2);
    });
}
