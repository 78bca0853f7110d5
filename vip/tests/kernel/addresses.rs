//! Claiming, refreshing and releasing.

use std::time::Duration;

use holdfast_vip::{Addresses, VipError, VipEvent, Watch};
use netlink_packet_route::address::AddressFlags;

use crate::two_hosts::{
    Asker, ETH, HERE, HERE6, THERE, THERE6, VIP, VIP6, both_vips, on_two_hosts, serve_echo, until, vip,
};

#[test]
fn a_claim_stands_beside_the_own_address_and_changes_no_route() {
    on_two_hosts(async |hosts| {
        let addresses = Addresses::open(both_vips()).await.unwrap();
        addresses.claim(Duration::from_millis(300)).await.unwrap();
        for (spec, full) in both_vips().iter().zip([32, 128]) {
            let copies = hosts.here.copies(spec.ip()).await;
            assert_eq!(copies.len(), 1, "{copies:?}");
            let (prefix_len, flags, left_s) = copies[0];
            assert_eq!(prefix_len, full);
            assert!(flags.contains(AddressFlags::Noprefixroute));
            assert!(!flags.contains(AddressFlags::Tentative));
            assert!((1..=2).contains(&left_s), "{left_s} s");
        }
        assert!(addresses.observe().await.unwrap().iter().all(|state| state.present && state.link_up));

        addresses.refresh(Duration::from_secs(60)).await.unwrap();
        for spec in both_vips() {
            let copies = hosts.here.copies(spec.ip()).await;
            assert!((59..=60).contains(&copies[0].2), "{copies:?}");
        }

        addresses.release().await.unwrap();
        addresses.release().await.unwrap();
        assert!(addresses.observe().await.unwrap().iter().all(|state| !state.present && state.link_up));
        for own in [HERE, HERE6] {
            assert_eq!(hosts.here.copies(own.parse().unwrap()).await.len(), 1, "the own address stays");
        }
    });
}

#[test]
fn an_address_that_nobody_refreshes_expires() {
    on_two_hosts(async |_hosts| {
        let mut watch = Watch::open(both_vips(), &[]).await.unwrap();
        let addresses = Addresses::open(both_vips()).await.unwrap();
        let begun = std::time::Instant::now();
        addresses.claim(Duration::ZERO).await.unwrap();
        let mut lost = 0;
        while lost < 2 {
            let event = tokio::time::timeout(Duration::from_secs(10), watch.next()).await.unwrap().unwrap();
            lost += u32::from(matches!(event, VipEvent::AddressLost { .. }));
        }
        let lived = begun.elapsed();
        assert!(lived > Duration::from_millis(1900) && lived < Duration::from_secs(5), "{lived:?}");
    });
}

#[test]
fn without_an_own_address_the_vip_brings_the_subnet_with_it() {
    on_two_hosts(async |hosts| {
        for own in [HERE, HERE6] {
            hosts.here.take(own.parse().unwrap()).await;
        }
        let addresses = Addresses::open(both_vips()).await.unwrap();
        addresses.claim(Duration::from_secs(30)).await.unwrap();
        addresses.refresh(Duration::from_secs(30)).await.unwrap();
        for (spec, len) in both_vips().iter().zip([24, 64]) {
            let copies = hosts.here.copies(spec.ip()).await;
            assert_eq!(copies.len(), 1, "{copies:?}");
            assert_eq!(copies[0].0, len);
            assert!(!copies[0].1.contains(AddressFlags::Noprefixroute));
        }
        addresses.release().await.unwrap();
        for spec in both_vips() {
            assert!(hosts.here.copies(spec.ip()).await.is_empty());
        }
    });
}

#[test]
fn a_sweep_removes_what_an_earlier_life_or_a_hand_left() {
    on_two_hosts(async |hosts| {
        hosts.here.give(&[VIP, VIP6]).await;
        let addresses = Addresses::open(both_vips()).await.unwrap();
        assert_eq!(addresses.sweep().await.unwrap(), both_vips());
        assert_eq!(addresses.sweep().await.unwrap(), []);
    });
}

#[test]
fn a_copy_without_a_lifetime_does_not_outlive_a_claim() {
    on_two_hosts(async |hosts| {
        hosts.here.give(&[VIP, VIP6, "10.77.0.100/32"]).await;
        let addresses = Addresses::open(both_vips()).await.unwrap();
        addresses.claim(Duration::from_secs(30)).await.unwrap();
        for spec in both_vips() {
            let copies = hosts.here.copies(spec.ip()).await;
            assert_eq!(copies.len(), 1, "{copies:?}");
            assert!(copies[0].2 <= 30, "{copies:?}");
        }
    });
}

#[test]
fn an_interface_that_is_made_again_is_found_again() {
    on_two_hosts(async |hosts| {
        let addresses = Addresses::open(vec![vip(VIP)]).await.unwrap();
        addresses.claim(Duration::from_secs(30)).await.unwrap();
        let index = hosts.here.index_of(ETH).await;
        hosts.here.netlink.link().del(index).execute().await.unwrap();

        let claim = addresses.claim(Duration::from_secs(30)).await;
        assert!(matches!(claim, Err(VipError::NoSuchInterface { .. })), "{claim:?}");
        addresses.release().await.unwrap();
        assert!(!addresses.observe().await.unwrap()[0].link_up);

        hosts.lay_cable().await;
        addresses.claim(Duration::from_secs(30)).await.unwrap();
        assert!(addresses.observe().await.unwrap()[0].present);
    });
}

#[test]
fn the_host_does_not_speak_from_the_address_of_its_own_accord() {
    on_two_hosts(async |hosts| {
        Addresses::open(both_vips()).await.unwrap().claim(Duration::from_secs(30)).await.unwrap();
        // Destinations that have more bits in common with the virtual address than with the own one.
        for (destination, own) in [("10.77.0.101", HERE), ("fd77::65", HERE6)] {
            let any = if own.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
            let socket = std::net::UdpSocket::bind(any).unwrap();
            socket.connect((destination.parse::<std::net::IpAddr>().unwrap(), 9)).unwrap();
            assert_eq!(socket.local_addr().unwrap().ip().to_string(), own);
        }
        drop(hosts);
    });
}

#[test]
fn an_address_for_which_a_duplicate_was_found_is_put_to_use_again() {
    on_two_hosts(async |hosts| {
        let spec = vip(VIP6);
        hosts.there.give(&[VIP6]).await;
        // Another program adds it, with detection; the other host has it.
        std::fs::write("/proc/sys/net/ipv6/conf/eth1/accept_dad", "1").unwrap();
        let add = ["-6", "addr", "add", "fd77::64/128", "dev", ETH];
        assert!(std::process::Command::new("ip").args(add).status().unwrap().success());
        until("the duplicate is found", async || {
            let copies = hosts.here.copies(spec.ip()).await;
            copies.iter().any(|copy| copy.1.contains(AddressFlags::Dadfailed))
        })
        .await;
        let addresses = Addresses::open(vec![spec.clone()]).await.unwrap();
        addresses.claim(Duration::from_secs(30)).await.unwrap();
        let copies = hosts.here.copies(spec.ip()).await;
        assert_eq!(copies.len(), 1, "{copies:?}");
        assert!(!copies[0].1.intersects(AddressFlags::Dadfailed | AddressFlags::Tentative), "{copies:?}");
        assert!(copies[0].2 <= 30, "{copies:?}");
    });
}

#[test]
fn after_a_link_was_down_the_addresses_answer_again() {
    on_two_hosts(async |hosts| {
        let addresses = Addresses::open(both_vips()).await.unwrap();
        addresses.claim(Duration::from_secs(60)).await.unwrap();
        for spec in both_vips() {
            let at: std::net::SocketAddr = (spec.ip(), serve_echo(spec.ip())).into();
            let from = if spec.ip().is_ipv4() { THERE } else { THERE6 };
            let mut asker = hosts.there(|| Asker::new(from.parse().unwrap()));
            until("it answers", async || asker.ask(at, Duration::from_millis(500)).await).await;
            hosts.here.set_link(ETH, false).await;
            // Claimed while it is down, as the agent would at the loss of the address, and again once it is up.
            let _ = addresses.claim(Duration::from_secs(60)).await;
            hosts.here.set_link(ETH, true).await;
            until("the carrier is back", async || holdfast_vip::link_up(ETH)).await;
            // The kernel took the own IPv6 address too: that is the operator's to bring back.
            if hosts.here.copies(HERE6.parse().unwrap()).await.is_empty() {
                hosts.here.give(&["fd77::1/64"]).await;
            }
            addresses.claim(Duration::from_secs(60)).await.unwrap();
            until("it answers again", async || asker.ask(at, Duration::from_millis(500)).await).await;
        }
    });
}

#[test]
fn an_own_address_that_came_later_stays_when_the_virtual_one_goes() {
    on_two_hosts(async |hosts| {
        hosts.here.take(HERE.parse().unwrap()).await;
        let addresses = Addresses::open(vec![vip(VIP)]).await.unwrap();
        addresses.claim(Duration::from_secs(30)).await.unwrap();
        assert_eq!(hosts.here.copies(vip(VIP).ip()).await[0].0, 24, "it brings the subnet");
        hosts.here.give(&["10.77.0.1/24"]).await;
        addresses.release().await.unwrap();
        assert!(hosts.here.copies(vip(VIP).ip()).await.is_empty());
        assert_eq!(hosts.here.copies(HERE.parse().unwrap()).await.len(), 1);
    });
}
