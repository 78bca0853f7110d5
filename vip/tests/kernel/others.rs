//! The gate on interfaces that carry no virtual address.

use std::net::SocketAddr;

use holdfast_vip::gate::OPEN;
use holdfast_vip::{Addresses, boottime_ns};

use crate::gate::{SHUT_AFTER, for_each_form, serve_tcp, tcp_talks};
use crate::two_hosts::{Asker, ETH, PATIENCE, VIP, both_vips, ip, serve_echo, until, vip};

const LONG: std::time::Duration = std::time::Duration::from_secs(60);

#[test]
fn no_answer_leaves_by_another_interface_either() {
    for_each_form(async |form, hosts| {
        hosts.lay_second_cable(&hosts.there, "10.78.0.1/24", "10.78.0.2/24").await;
        let service = serve_tcp("10.78.0.1:0").await;
        let gate = form.open(&both_vips(), &[service.port()]);
        Addresses::open(both_vips()).await.unwrap().claim(LONG).await.unwrap();
        let address = SocketAddr::new(vip(VIP).ip(), serve_echo(vip(VIP).ip()));
        // The other host looks for the address behind the second cable, and asks for its hardware address there.
        hosts.there(|| ip("route add 10.77.0.100/32 dev eth2 src 10.78.0.2"));
        let mut asker = hosts.there(|| Asker::new("10.78.0.2".parse().unwrap()));
        let own = holdfast_vip::mac_of("eth2").unwrap().octets();
        let found = async || hosts.there.neighbour(address.ip()).await == Some(own);

        assert!(!asker.ask(address, SHUT_AFTER).await, "shut at first");
        assert!(!found().await, "nor did it say where it is");
        gate.allow_address_until(OPEN).unwrap();
        until("the open gate lets it answer", async || asker.ask(address, SHUT_AFTER).await).await;
        assert!(found().await);
        gate.close().unwrap();
        assert!(!asker.ask(address, SHUT_AFTER).await, "shut again");

        assert!(!tcp_talks(&hosts, service, SHUT_AFTER).await, "{service}: shut");
        gate.allow_ports_until(OPEN).unwrap();
        assert!(tcp_talks(&hosts, service, PATIENCE).await, "{service}: open");
        gate.allow_ports_until(boottime_ns()).unwrap();
        assert!(!tcp_talks(&hosts, service, SHUT_AFTER).await, "{service}: past its deadline");

        gate.detach().unwrap();
        until("nothing is left", async || asker.ask(address, SHUT_AFTER).await).await;
        assert!(tcp_talks(&hosts, service, PATIENCE).await);
    });
}

#[test]
fn what_a_standby_forwards_for_its_containers_passes_its_shut_gate() {
    for_each_form(async |form, hosts| {
        let container = hosts.third();
        hosts.lay_second_cable(&container, "10.79.0.1/24", "10.79.0.2/24").await;
        hosts.on(&container, || ip("route add default via 10.79.0.1"));
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        // The peer holds the address, and serves.
        hosts.there.give(&[VIP]).await;
        hosts.there(|| ip("route add 10.79.0.0/24 via 10.77.0.1"));
        let port = hosts.there(|| serve_echo(vip(VIP).ip()));

        let _gate = form.open(&both_vips(), &[port]);
        let mut asker = hosts.on(&container, || Asker::new("10.79.0.2".parse().unwrap()));
        assert!(asker.ask(SocketAddr::new(vip(VIP).ip(), port), PATIENCE).await);
    });
}

#[test]
fn an_interface_that_appears_is_gated_and_is_no_damage() {
    for_each_form(async |form, hosts| {
        let gate = form.open(&both_vips(), &[]);
        gate.allow_address_until(OPEN).unwrap();
        assert_eq!(gate.check().unwrap().attached, [ETH]);
        hosts.lay_second_cable(&hosts.there, "10.78.0.1/24", "10.78.0.2/24").await;
        until("it is missed", async || gate.check().unwrap().ungated() == ["eth2"]).await;
        let health = gate.repair().unwrap();
        assert!(health.is_whole(), "{health:?}");
        assert_eq!(health.attached, [ETH, "eth2"]);
        assert_eq!(health.restored, 0, "nobody took anything away");

        ip("link del eth2");
        assert!(gate.repair().unwrap().is_whole(), "an interface that is gone is not missed");
        until("it is forgotten", async || gate.check().unwrap().attached == [ETH]).await;
    });
}

#[test]
fn the_port_of_a_bridge_is_asked_at_its_bridge() {
    for_each_form(async |form, hosts| {
        hosts.lay_second_cable(&hosts.there, "10.78.0.1/24", "10.78.0.2/24").await;
        ip("link add br0 type bridge stp_state 0 forward_delay 0");
        ip("link set eth2 master br0");
        let gate = form.open(&both_vips(), &[]);
        assert_eq!(gate.check().unwrap().attached, [ETH, "br0"]);
    });
}
