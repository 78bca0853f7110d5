//! The table of connections of a real kernel.

use std::net::IpAddr;

use holdfast_vip::conntrack::flow::{ASSURED, CONFIRMED, ICMP, ICMPV6, SCTP, SEEN_REPLY, TCP, UDP};
use holdfast_vip::conntrack::{
    Detail, Events, Flow, Key, Listener, Notice, Order, Outcome, Sctp, State, Table, Tcp, Tuple, entries,
};

use crate::two_hosts::{PATIENCE, on_two_hosts};

const CLIENT: &str = "10.1.0.9";
const SERVER: &str = "10.2.0.7";
const FRONT: &str = "10.1.0.100";
const BACK: &str = "10.2.0.100";

fn tuple(from: &str, to: &str, detail: Detail) -> Tuple {
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    Tuple { source: address(from), destination: address(to), detail, zone: None }
}

fn ports(source: u16, destination: u16) -> Detail {
    Detail::Ports { source, destination }
}

fn flow(protocol: u8, original: Tuple, reply: Tuple) -> Flow {
    let state = match protocol {
        TCP => State::Tcp(Tcp { state: 3, scales: [7, 9], flags: [0x23, 0x23] }),
        SCTP => State::Sctp(Sctp { state: 4, tags: [0x1234_5678, 0x9abc_def0] }),
        _ => State::None,
    };
    Flow {
        key: Key { protocol, zone: 0, original },
        reply,
        status: SEEN_REPLY | ASSURED | CONFIRMED,
        mark: 0,
        timeout_seconds: Some(1000),
        state: Some(state),
    }
}

/// An untranslated TCP connection of the client's port.
fn tcp(port: u16) -> Flow {
    flow(TCP, tuple(CLIENT, SERVER, ports(port, 80)), tuple(SERVER, CLIENT, ports(80, port)))
}

fn all(table: &mut Table) -> Vec<Flow> {
    let mut found = Vec::new();
    table.dump(|flow| found.push(flow)).unwrap();
    found
}

fn carry_out(table: &mut Table, orders: &[Order]) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    table.carry_out(orders, |index, outcome| outcomes.push((index, outcome))).unwrap();
    outcomes.sort_by_key(|(index, _)| *index);
    assert!(outcomes.iter().map(|(index, _)| *index).eq(0..orders.len()), "each is told of once");
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

fn put(table: &mut Table, flow: Flow) -> Outcome {
    carry_out(table, &[Order::Put(flow)]).pop().unwrap()
}

/// Everything that is carried is as it was given; TCP is liberal beside that.
fn assert_same(found: &Flow, given: &Flow) {
    assert_eq!(found.key, given.key);
    assert_eq!(found.reply, given.reply);
    assert_eq!(found.mark, given.mark);
    assert_eq!(found.status & (SEEN_REPLY | ASSURED | CONFIRMED), given.status, "{:x}", found.status);
    let left = found.timeout_seconds.unwrap();
    assert!(left <= 1000 && left > 900, "{left}");
    match (found.state, given.state) {
        (Some(State::Tcp(found)), Some(State::Tcp(given))) => {
            assert_eq!((found.state, found.scales), (given.state, given.scales));
            assert!(found.flags.iter().all(|flags| flags & 0x08 != 0), "{:x?}", found.flags);
        }
        (found, given) => assert_eq!(found.unwrap_or(State::None), given.unwrap_or(State::None)),
    }
}

#[test]
fn every_kind_of_connection_comes_out_as_it_was_put_in() {
    on_two_hosts(async |_| {
        let icmp = |id, kind| Detail::Icmp { id, kind, code: 0 };
        let both = ["fd01::9", "fd02::7"];
        let given = vec![
            tcp(1000),
            Flow { mark: 0x42, key: Key { zone: 7, ..tcp(1001).key }, ..tcp(1001) },
            // Source, destination, and both translated; a port with its address, and alone.
            flow(TCP, tuple(CLIENT, SERVER, ports(1002, 80)), tuple(SERVER, BACK, ports(80, 61000))),
            flow(TCP, tuple(CLIENT, SERVER, ports(1003, 80)), tuple(SERVER, CLIENT, ports(80, 61001))),
            flow(TCP, tuple(CLIENT, FRONT, ports(1004, 8000)), tuple(SERVER, CLIENT, ports(80, 1004))),
            flow(TCP, tuple(CLIENT, FRONT, ports(1005, 8000)), tuple(SERVER, BACK, ports(80, 1005))),
            flow(UDP, tuple(CLIENT, SERVER, ports(1000, 53)), tuple(SERVER, BACK, ports(53, 1000))),
            flow(ICMP, tuple(CLIENT, SERVER, icmp(5, 8)), tuple(SERVER, CLIENT, icmp(5, 0))),
            flow(ICMP, tuple(CLIENT, SERVER, icmp(6, 8)), tuple(SERVER, BACK, icmp(77, 0))),
            flow(SCTP, tuple(CLIENT, SERVER, ports(1000, 2905)), tuple(SERVER, CLIENT, ports(2905, 1000))),
            // ESP.
            flow(50, tuple(CLIENT, SERVER, Detail::None), tuple(SERVER, CLIENT, Detail::None)),
            flow(TCP, tuple(both[0], both[1], ports(1, 80)), tuple(both[1], both[0], ports(80, 1))),
            flow(TCP, tuple(both[0], both[1], ports(2, 80)), tuple(both[1], "fd02::100", ports(80, 2))),
            flow(ICMPV6, tuple(both[0], both[1], icmp(9, 128)), tuple(both[1], both[0], icmp(9, 129))),
        ];
        let mut table = Table::open().unwrap();
        let orders: Vec<Order> = given.iter().map(|flow| Order::Put(*flow)).collect();
        for (outcome, given) in carry_out(&mut table, &orders).iter().zip(&given) {
            assert!(matches!(outcome, Outcome::Created), "{outcome:?}: {given:?}");
        }
        let mut found = all(&mut table);
        assert_eq!(found.len(), given.len());
        for flow in &given {
            assert!(flow.is_sound() && flow.is_established(), "{flow:?}");
            let at = found.iter().position(|found| found.key == flow.key).expect("every key is there");
            let mut found = found.swap_remove(at);
            assert!(found.complete(None));
            assert_same(&found, flow);
        }
    });
}

#[test]
fn an_entry_is_changed_where_it_is_and_only_added_where_it_is_not() {
    on_two_hosts(async |_| {
        let mut table = Table::open().unwrap();
        let translated = flow(TCP, tuple(CLIENT, SERVER, ports(1, 80)), tuple(SERVER, BACK, ports(80, 1)));
        assert!(matches!(put(&mut table, translated), Outcome::Created));
        let closing = State::Tcp(Tcp { state: 7, scales: [7, 9], flags: [0x23, 0x23] });
        let changed = Flow { state: Some(closing), mark: 3, ..translated };
        assert!(matches!(put(&mut table, changed), Outcome::Changed));
        assert_same(&all(&mut table)[0], &changed);
        let added = carry_out(&mut table, &[Order::Add(translated), Order::Add(tcp(2))]);
        assert!(matches!(added[..], [Outcome::Done, Outcome::Created]), "{added:?}");
        let found = all(&mut table);
        assert_same(found.iter().find(|flow| flow.key == changed.key).unwrap(), &changed);
        assert_eq!(found.len(), 2);

        // Another connection of the same name, whose status goes back.
        let younger = Flow { status: SEEN_REPLY | CONFIRMED, ..translated };
        let outcome = put(&mut table, younger);
        assert!(matches!(outcome, Outcome::Created), "{outcome:?}");
        // And one that would get the answers of another.
        let rival = flow(TCP, tuple("10.1.0.8", SERVER, ports(9, 80)), tuple(SERVER, BACK, ports(80, 1)));
        let outcome = put(&mut table, rival);
        assert!(matches!(outcome, Outcome::Created), "{outcome:?}");
        let found = all(&mut table);
        assert_eq!(found.len(), 2);
        assert!(found.iter().any(|flow| flow.key == rival.key && flow.reply == rival.reply));
        assert!(!found.iter().any(|flow| flow.key == translated.key));
    });
}

#[test]
fn one_entry_is_deleted_and_never_more() {
    on_two_hosts(async |_| {
        let mut table = Table::open().unwrap();
        let orders: Vec<Order> = (1..=300).map(|port| Order::Put(tcp(port))).collect();
        assert!(carry_out(&mut table, &orders).iter().all(|outcome| matches!(outcome, Outcome::Created)));
        let gone = carry_out(&mut table, &[Order::Delete(tcp(7).key), Order::Delete(tcp(999).key)]);
        assert!(matches!(gone[..], [Outcome::Done, Outcome::Done]), "{gone:?}");
        let found = all(&mut table);
        assert_eq!(found.len(), 299);
        assert!(!found.iter().any(|flow| flow.key == tcp(7).key));
        assert_eq!(entries(), Some(299));
    });
}

#[test]
fn a_refusal_names_its_order_and_stops_no_other() {
    on_two_hosts(async |_| {
        let mut table = Table::open().unwrap();
        let bad = State::Tcp(Tcp { state: 200, scales: [0; 2], flags: [0; 2] });
        let orders =
            [Order::Put(tcp(1)), Order::Put(Flow { state: Some(bad), ..tcp(2) }), Order::Put(tcp(3))];
        let outcomes = carry_out(&mut table, &orders);
        assert!(
            matches!(outcomes[..], [Outcome::Created, Outcome::Refused(_), Outcome::Created]),
            "{outcomes:?}"
        );
        assert_eq!(all(&mut table).len(), 2);
    });
}

#[test]
fn changes_are_told_as_they_happen() {
    on_two_hosts(async |_| {
        // Without it the kernel would tell nothing of a connection that began before somebody asked.
        let _listener = Listener::open().unwrap();
        let mut table = Table::open().unwrap();
        put(&mut table, tcp(1));
        let mut events = Events::open().unwrap();
        put(&mut table, tcp(2));
        put(&mut table, Flow { mark: 9, ..tcp(1) });
        carry_out(&mut table, &[Order::Delete(tcp(1).key), Order::Delete(tcp(2).key)]);
        let mut told = Vec::new();
        let gone = |told: &[Notice]| told.iter().filter(|notice| matches!(notice, Notice::Gone(_))).count();
        while gone(&told) < 2 {
            let next = events.next(16, |notice| told.push(notice));
            tokio::time::timeout(PATIENCE, next).await.expect("four changes are told").unwrap();
        }
        let changed = |key: Key, mark: u32| {
            told.iter()
                .any(|notice| matches!(notice, Notice::Changed(flow) if flow.key == key && flow.mark == mark))
        };
        assert!(changed(tcp(2).key, 0), "a new one: {told:?}");
        assert!(changed(tcp(1).key, 9), "one that changed: {told:?}");
        assert!(told.contains(&Notice::Gone(tcp(1).key)) && told.contains(&Notice::Gone(tcp(2).key)));
    });
}

#[test]
fn lost_notices_are_noticed_and_the_next_ones_heard() {
    on_two_hosts(async |_| {
        let mut events = Events::open().unwrap();
        let mut table = Table::open().unwrap();
        let mut told = Vec::new();
        // More than the buffer holds, whatever the kernel allowed it to be.
        for _ in 0..40 {
            let (there, gone): (Vec<_>, Vec<_>) =
                (1..=1000).map(|port| (Order::Put(tcp(port)), Order::Delete(tcp(port).key))).unzip();
            carry_out(&mut table, &there);
            carry_out(&mut table, &gone);
        }
        while !told.contains(&Notice::Overrun) {
            let next = events.next(64, |notice| told.push(notice));
            tokio::time::timeout(PATIENCE, next).await.expect("the loss is told").unwrap();
        }
        told.clear();
        put(&mut table, tcp(5000));
        while !told.iter().any(|notice| matches!(notice, Notice::Changed(flow) if flow.key == tcp(5000).key))
        {
            let next = events.next(64, |notice| told.push(notice));
            tokio::time::timeout(PATIENCE, next).await.expect("the next change is told").unwrap();
        }
    });
}
