//! Another program that uses nf_tables on the same host: it has a table of its own, flushes, and meddles.
//! What `nft` would send is encoded here, so that the tests need no `nft`.

use holdfast_vip::gate::{Gate, NftGate, OPEN, Ownership};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

use crate::gate::{Form, served};
use crate::two_hosts::{PATIENCE, both_vips, on_two_hosts, until};

const FAMILY_UNSPECIFIED: u8 = 0;
const FAMILY_INET: u8 = 1;
const FAMILY_NETDEV: u8 = 5;
const NEW_TABLE: u16 = 0;
const GET_TABLE: u16 = 1;
const DELETE_TABLE: u16 = 2;
const DELETE_RULE: u16 = 8;
const NAME: u16 = 1;
const FLAGS: u16 = 2;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE: u16 = 0x400;

fn message(kind: u16, flags: u16, family: u8, resource: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = vec![family, 0];
    body.extend(resource.to_be_bytes());
    for (kind, value) in attributes {
        body.extend((4 + value.len() as u16).to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(*value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    let mut bytes = (16 + body.len() as u32).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((flags | REQUEST).to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(body);
    bytes
}

/// Sends one order in a batch of its own; the kernel's error number, or zero.
fn order(kind: u16, flags: u16, family: u8, attributes: &[(u16, &[u8])]) -> i32 {
    const SUBSYSTEM: u16 = 10;
    let batch = [
        message(0x10, 0, FAMILY_UNSPECIFIED, SUBSYSTEM, &[]),
        message(SUBSYSTEM << 8 | kind, flags | ACK, family, 0, attributes),
        message(0x11, 0, FAMILY_UNSPECIFIED, SUBSYSTEM, &[]),
    ];
    answer(&batch.concat())
}

fn answer(request: &[u8]) -> i32 {
    let mut socket = Socket::new(NETLINK_NETFILTER).unwrap();
    socket.bind_auto().unwrap();
    socket.send_to(request, &SocketAddr::new(0, 0), 0).unwrap();
    let (answer, _) = socket.recv_from_full().unwrap();
    match u16::from_ne_bytes([answer[4], answer[5]]) {
        2 => -i32::from_ne_bytes(answer[16..20].try_into().unwrap()),
        _ => 0,
    }
}

fn name(table: &str) -> Vec<u8> {
    [table.as_bytes(), &[0]].concat()
}

/// `nft flush ruleset`
fn flush_ruleset() -> i32 {
    order(DELETE_TABLE, 0, FAMILY_UNSPECIFIED, &[])
}

/// `nft add table inet NAME`
fn add_table(table: &str) {
    assert_eq!(order(NEW_TABLE, CREATE, FAMILY_INET, &[(NAME, &name(table))]), 0);
}

fn has_table(family: u8, table: &str) -> bool {
    answer(&message(10 << 8 | GET_TABLE, 0, family, 0, &[(NAME, &name(table))])) == 0
}

#[test]
fn the_operators_tables_are_left_alone() {
    on_two_hosts(async |_hosts| {
        add_table("operator");
        // One that merely looks like ours.
        add_table("holdfast_gate/eth1");
        for form in [Ownership::WherePossible, Ownership::Never] {
            let gate = NftGate::open_as(&both_vips(), &[9000], form).unwrap();
            gate.allow_address_until(OPEN).unwrap();
            gate.close().unwrap();
            gate.repair().unwrap();
            assert!(has_table(FAMILY_NETDEV, gate.table()));
            gate.detach().unwrap();
            assert!(!has_table(FAMILY_NETDEV, gate.table()));
        }
        for table in ["operator", "holdfast_gate/eth1"] {
            assert!(has_table(FAMILY_INET, table), "{table}");
        }
    });
}

#[test]
fn a_flush_of_the_ruleset_does_not_touch_a_table_that_is_owned() {
    on_two_hosts(async |hosts| {
        let (_addresses, [(mut asker, vip), _]) = served(&hosts).await;
        add_table("operator");
        let gate = NftGate::open(&both_vips(), &[]).unwrap();
        assert_eq!(flush_ruleset(), 0);
        assert!(!has_table(FAMILY_INET, "operator"), "the flush is one");
        assert!(gate.check().unwrap().is_whole());
        assert!(!asker.ask(vip, std::time::Duration::from_millis(50)).await);
        let refused = order(DELETE_TABLE, 0, FAMILY_NETDEV, &[(NAME, &name(gate.table()))]);
        assert_eq!(refused, libc::EPERM);
        gate.allow_address_until(OPEN).unwrap();
        gate.settle(PATIENCE).unwrap();
        assert!(asker.ask(vip, PATIENCE).await);
        assert_eq!(gate.check().unwrap().restored, 0);
    });
}

#[test]
fn a_table_that_is_not_owned_is_put_back_by_itself() {
    on_two_hosts(async |hosts| {
        let (_addresses, [(mut asker, vip), _]) = served(&hosts).await;
        let gate = NftGate::open_as(&both_vips(), &[], Ownership::Never).unwrap();
        let table = name(gate.table());
        let dormant = 1u32.to_be_bytes();
        // Deleted with everything; put to sleep; emptied of its rules.
        let meddling: [&dyn Fn() -> i32; 3] = [
            &flush_ruleset,
            &|| order(NEW_TABLE, 0, FAMILY_NETDEV, &[(NAME, &table), (FLAGS, &dormant)]),
            &|| order(DELETE_RULE, 0, FAMILY_NETDEV, &[(NAME, &table)]),
        ];
        for (times, meddle) in (1..).zip(meddling) {
            assert_eq!(meddle(), 0);
            until("the gate is put back", async || gate.check().unwrap().restored == times).await;
            assert!(gate.check().unwrap().is_whole());
            assert!(!asker.ask(vip, std::time::Duration::from_millis(50)).await, "shut, as it was");
        }
        gate.allow_address_until(OPEN).unwrap();
        gate.settle(PATIENCE).unwrap();
        assert!(asker.ask(vip, PATIENCE).await);
        assert_eq!(flush_ruleset(), 0);
        until("the gate is put back", async || gate.check().unwrap().restored == 4).await;
        gate.settle(PATIENCE).unwrap();
        assert!(asker.ask(vip, PATIENCE).await, "open, as it was");
        gate.close().unwrap();
        gate.settle(PATIENCE).unwrap();
        assert!(!asker.ask(vip, std::time::Duration::from_millis(50)).await);
    });
}

#[test]
fn a_living_agents_gate_is_not_taken_away_by_a_second_one() {
    on_two_hosts(async |_hosts| {
        let gate = Form::Nft.open(&both_vips(), &[]);
        let refusal = NftGate::open(&both_vips(), &[]).unwrap_err();
        assert_eq!(refusal.kind(), std::io::ErrorKind::PermissionDenied, "{refusal}");
        assert!(gate.check().unwrap().is_whole());
        drop(gate);
        // What a dead one left is taken over.
        NftGate::open(&both_vips(), &[]).unwrap().detach().unwrap();
    });
}
