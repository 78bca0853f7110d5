//! What an address can be on: a bridge, a macvlan, a VLAN, a bond. Each is claimed, answered from outside,
//! announced with the right hardware address, and gated.
//!
//! A kernel without one of them says so, and that part is skipped.

use std::process::Command;
use std::time::Duration;

use holdfast_vip::gate::{Gate, NftGate, OPEN, Ownership};
use holdfast_vip::{Addresses, Announcer, Prober, VipEvent, VipSpec, Watch, mac_of};

use crate::gate::{Form, for_each_form};
use crate::two_hosts::{Asker, ETH, PATIENCE, THERE, THERE6, TwoHosts, ip, on_two_hosts, serve_echo, until};

const FORMER_HOLDER: [u8; 6] = [2, 0, 0, 0, 0, 0x99];

/// Runs `ip` where the kernel may lack what it asks for.
fn can(words: &str) -> bool {
    let done = Command::new("ip").args(words.split(' ')).output().unwrap().status.success();
    if !done {
        eprintln!("skipped: this kernel cannot `ip {words}`");
    }
    done
}

fn on(interface: &str) -> Vec<VipSpec> {
    ["10.77.0.100/24", "fd77::64/64"].map(|address| VipSpec::new(address.parse().unwrap(), interface)).into()
}

/// `interface` reaches the other host at its two usual addresses.
async fn serves_on(form: Form, hosts: &TwoHosts, interface: &str) {
    let specs = on(interface);
    until("there is a carrier", async || holdfast_vip::link_up(interface)).await;
    let gate = form.open(&specs, &[]);
    let prober = Prober::open(&specs).await;
    until("nobody else has it", async || prober.probe(1, Duration::from_millis(50)).await.is_free()).await;
    let addresses = Addresses::open(specs.clone()).await.unwrap();
    addresses.claim(Duration::from_secs(60)).await.unwrap();
    let own = mac_of(interface).unwrap().octets();
    for (spec, from) in specs.iter().zip([THERE, THERE6]) {
        let at = (spec.ip(), serve_echo(spec.ip())).into();
        let mut asker = hosts.there(|| Asker::new(from.parse().unwrap()));
        assert!(!asker.ask(at, Duration::from_millis(100)).await, "{spec} is shut");
        gate.allow_address_until(OPEN).unwrap();
        hosts.there.know_neighbour(spec.ip(), FORMER_HOLDER).await;
        assert!(Announcer::open(&specs).announce(spec).unwrap() > 0);
        until("the neighbour believes", async || hosts.there.neighbour(spec.ip()).await == Some(own)).await;
        until("it answers", async || asker.ask(at, Duration::from_millis(500)).await).await;
        gate.close().unwrap();
        assert!(!asker.ask(at, Duration::from_millis(100)).await, "{spec} is shut");
    }
    addresses.release().await.unwrap();
    gate.detach().unwrap();
}

async fn move_addresses(to: &str) {
    for address in ["10.77.0.1/24", "fd77::1/64"] {
        ip(&format!("addr del {address} dev {ETH}"));
        ip(&format!("addr add {address} dev {to} nodad"));
    }
}

#[test]
fn a_bridge_carries_the_address() {
    for_each_form(async |form, hosts| {
        ip("link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0");
        ip("link set eth1 master br0");
        ip("link set br0 up");
        move_addresses("br0").await;
        serves_on(form, &hosts, "br0").await;
    });
}

#[test]
fn a_macvlan_carries_the_address() {
    for_each_form(async |form, hosts| {
        if can("link add mac0 link eth1 type macvlan mode bridge") {
            ip("link set mac0 up");
            move_addresses("mac0").await;
            serves_on(form, &hosts, "mac0").await;
        }
    });
}

#[test]
fn a_vlan_carries_the_address() {
    for_each_form(async |form, hosts| {
        if !can("link add link eth1 name eth1.5 type vlan id 5") {
            return;
        }
        ip("link set eth1.5 up");
        move_addresses("eth1.5").await;
        hosts.there(|| {
            ip("link add link eth1 name eth1.5 type vlan id 5");
            ip("link set eth1.5 up");
            for address in ["10.77.0.2/24", "fd77::2/64"] {
                ip(&format!("addr del {address} dev eth1"));
                ip(&format!("addr add {address} dev eth1.5 nodad"));
            }
        });
        let specs = on("eth1.5");
        let gate = form.open(&specs, &[]);
        let addresses = Addresses::open(specs.clone()).await.unwrap();
        addresses.claim(Duration::from_secs(60)).await.unwrap();
        let at = (specs[0].ip(), serve_echo(specs[0].ip())).into();
        let mut asker = hosts.there(|| Asker::new(THERE.parse().unwrap()));
        assert!(!asker.ask(at, Duration::from_millis(100)).await);
        gate.allow_address_until(OPEN).unwrap();
        until("it answers", async || asker.ask(at, Duration::from_millis(500)).await).await;
        gate.detach().unwrap();
    });
}

#[test]
fn a_bond_whose_active_port_changes_is_to_be_announced_anew() {
    on_two_hosts(async |hosts| {
        if !can("link add bond0 type bond mode active-backup miimon 10") {
            return;
        }
        // Both ports end on one bridge of the other host.
        ip("link add eth2 type veth peer name far2");
        let there = hosts.here.index_of("far2").await;
        hosts.hand_over(there).await;
        hosts.there(|| {
            ip("link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0");
            ip("link set eth1 master br0");
            ip("link set far2 master br0");
            ip("link set far2 up");
            ip("link set br0 up");
            for address in ["10.77.0.2/24", "fd77::2/64"] {
                ip(&format!("addr del {address} dev eth1"));
                ip(&format!("addr add {address} dev br0 nodad"));
            }
        });
        for port in ["eth1", "eth2"] {
            ip(&format!("link set {port} down"));
            ip(&format!("link set {port} master bond0"));
        }
        ip("link set bond0 up");
        move_addresses("bond0").await;
        until("there is a carrier", async || holdfast_vip::link_up("bond0")).await;
        let mut watch = Watch::open(on("bond0"), &[]).await.unwrap();
        let gate = NftGate::open_as(&on("bond0"), &[], Ownership::WherePossible).unwrap();
        gate.allow_address_until(OPEN).unwrap();
        hosts.there(|| ip("link set eth1 down"));
        loop {
            let event = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap().unwrap();
            if matches!(event, VipEvent::AnnounceAgain { .. }) {
                break;
            }
        }
        gate.detach().unwrap();
    });
}

#[test]
fn another_hardware_address_is_to_be_announced() {
    on_two_hosts(async |hosts| {
        let specs = on(ETH);
        let addresses = Addresses::open(specs.clone()).await.unwrap();
        addresses.claim(Duration::from_secs(60)).await.unwrap();
        let announcer = Announcer::open(&specs);
        let mut watch = Watch::open(specs.clone(), &[]).await.unwrap();
        ip("link set eth1 address 02:00:00:00:00:55");
        let event = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap().unwrap();
        assert!(matches!(event, VipEvent::AnnounceAgain { .. }), "{event:?}");
        for spec in &specs {
            hosts.there.know_neighbour(spec.ip(), FORMER_HOLDER).await;
            announcer.announce(spec).unwrap();
            until("the neighbour believes", async || {
                hosts.there.neighbour(spec.ip()).await == Some([2, 0, 0, 0, 0, 0x55])
            })
            .await;
        }
    });
}
