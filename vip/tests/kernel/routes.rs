//! Routes and rules stand while the address does, and nobody else's are touched.

use std::time::Duration;

use holdfast_vip::{Addresses, RouteSpec, Routes, RuleSpec, VipEvent, VipSpec, Watch};

use crate::two_hosts::{PATIENCE, THERE, THERE6, VIP, VIP6, ip, on_two_hosts, vip};

fn route(to: &str, via: &str, table: u32, source: &VipSpec) -> RouteSpec {
    RouteSpec {
        to: to.parse().unwrap(),
        via: Some(via.parse().unwrap()),
        table,
        metric: None,
        source: Some(source.ip()),
        required: false,
    }
}

/// An IPv4 and an IPv6 address, each with a route in `main`, a default route in a table of its own, and the
/// rule that leads there.
fn with_routes() -> Vec<VipSpec> {
    let (mut four, mut six) = (vip(VIP), vip(VIP6));
    four.routes = vec![route("10.9.0.0/24", THERE, 254, &four), route("0.0.0.0/0", THERE, 1000, &four)];
    six.routes = vec![route("fd09::/64", THERE6, 254, &six), route("::/0", THERE6, 100, &six)];
    let rule = |spec: &VipSpec, table| RuleSpec {
        from: Some(ipnet::IpNet::from(spec.ip())),
        to: None,
        table,
        priority: 900,
        required: false,
    };
    four.rules = vec![rule(&four, 1000)];
    six.rules = vec![rule(&six, 100)];
    vec![four, six]
}

fn ours() -> Vec<String> {
    let listed = ["-4 route", "-6 route"].map(|family| ip(&format!("{family} show table all proto 72")));
    let rules = ["-4 rule", "-6 rule"].map(|family| ip(&format!("{family} show")));
    let rules = rules.iter().flat_map(|text| text.lines()).filter(|line| line.contains("proto 72"));
    let mut ours: Vec<String> =
        listed.iter().flat_map(|text| text.lines()).chain(rules).map(|line| line.trim().to_owned()).collect();
    ours.sort();
    ours
}

async fn holding(specs: &[VipSpec]) -> (Addresses, Routes) {
    let addresses = Addresses::open(specs.to_vec()).await.unwrap();
    addresses.claim(Duration::from_secs(60)).await.unwrap();
    (addresses, Routes::open(specs.to_vec()).await.unwrap())
}

#[test]
fn routes_and_rules_come_after_the_address_and_go_before_it() {
    on_two_hosts(async |_hosts| {
        let specs = with_routes();
        let routes = Routes::open(specs.clone()).await.unwrap();
        // Before it there is no address from which to speak.
        assert_eq!(routes.ensure().await.missing.len(), 4);
        routes.remove().await.unwrap();
        assert!(ours().is_empty(), "{:?}", ours());

        let (addresses, routes) = holding(&specs).await;
        let ensured = routes.ensure().await;
        assert!(ensured.missing.is_empty(), "{ensured:?}");
        assert_eq!((ensured.added.len(), ours().len()), (6, 6), "{:?}", ours());
        assert!(ip("route get 10.9.0.7").contains("via 10.77.0.2 dev eth1 src 10.77.0.100"));
        assert!(ip("route get 192.0.2.1 from 10.77.0.100").contains("table 1000"));

        let again = routes.ensure().await;
        assert!(again.added.is_empty() && again.missing.is_empty(), "{again:?}");

        routes.remove().await.unwrap();
        assert!(ours().is_empty(), "{:?}", ours());
        routes.remove().await.unwrap();
        addresses.release().await.unwrap();
    });
}

#[test]
fn an_operators_routes_and_rules_are_never_touched() {
    on_two_hosts(async |_hosts| {
        let specs = with_routes();
        let (_addresses, routes) = holding(&specs).await;
        // One in the place of ours, one that merely looks like it, and rules.
        ip("route add 10.9.0.0/24 via 10.77.0.2 proto static");
        ip("route add 10.9.1.0/24 via 10.77.0.2 proto 73");
        ip("rule add from 10.77.0.100 table 77 priority 901");
        let theirs = ["10.9.0.0/24 via 10.77.0.2 dev eth1 proto static", "10.9.1.0/24"];

        let ensured = routes.ensure().await;
        assert_eq!(ensured.missing.len(), 1, "{ensured:?}");
        let words = ensured.missing[0].error.to_string();
        assert!(ensured.missing[0].what.contains("10.9.0.0/24"), "{ensured:?}");
        assert!(words.contains("left alone") && words.contains("`metric`"), "{words}");
        routes.remove().await.unwrap();
        routes.sweep().await.unwrap();
        let left = ip("route show");
        assert!(theirs.iter().all(|route| left.contains(route)), "{left}");
        assert!(ip("rule show").contains("901:"));

        // With a metric of its own ours stands beside it.
        let mut specs = specs;
        specs[0].routes[0].metric = Some(50);
        let routes = Routes::open(specs).await.unwrap();
        assert!(routes.ensure().await.missing.is_empty());
        routes.remove().await.unwrap();
        assert!(ip("route show").contains(theirs[0]));
    });
}

#[test]
fn a_sweep_finds_what_an_earlier_life_with_another_configuration_left() {
    on_two_hosts(async |_hosts| {
        let specs = with_routes();
        let (addresses, routes) = holding(&specs).await;
        assert!(routes.ensure().await.missing.is_empty());
        drop(routes);

        // The next life knows of the addresses only; another agent has routes on another interface.
        ip("link add other type veth peer name far");
        ip("link set other up");
        ip("link set far up");
        ip("addr add 10.88.0.1/24 dev other");
        ip("route add 10.9.0.0/24 via 10.88.0.2 dev other metric 9 proto 72");
        ip("rule add from 10.88.0.100 table 88 priority 902 protocol 72");
        let routes = Routes::open(vec![vip(VIP), vip(VIP6)]).await.unwrap();
        let swept = routes.sweep().await.unwrap();
        assert_eq!(swept.len(), 6, "{swept:?}");
        assert!(swept.contains(&"route 10.9.0.0/24 via 10.77.0.2".to_owned()), "{swept:?}");
        assert_eq!(ours().len(), 2, "{:?}", ours());
        assert!(routes.sweep().await.unwrap().is_empty());
        addresses.release().await.unwrap();
    });
}

#[test]
fn a_route_that_another_program_removes_or_replaces_is_noticed() {
    on_two_hosts(async |_hosts| {
        let specs = with_routes();
        let (_addresses, routes) = holding(&specs).await;
        assert!(routes.ensure().await.missing.is_empty());
        let mut watch = Watch::open(specs, &[]).await.unwrap();
        for (meddle, what) in [
            ("route del 10.9.0.0/24", "route 10.9.0.0/24"),
            ("route del default table 1000", "route default"),
            ("-6 route del fd09::/64", "route fd09::/64"),
            ("rule del priority 900", "rule 900"),
            ("-6 rule del priority 900", "rule 900"),
        ] {
            ip(meddle);
            let event = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap().unwrap();
            let VipEvent::RouteLost { what: lost, .. } = &event else { panic!("{event:?}") };
            assert!(lost.starts_with(what), "{lost}");
            let ensured = routes.ensure().await;
            assert_eq!((ensured.added.len(), ensured.missing.len()), (1, 0), "{meddle}: {ensured:?}");
        }
        ip("route replace 10.9.0.0/24 dev eth1 proto static");
        let event = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap().unwrap();
        assert!(matches!(event, VipEvent::RouteLost { .. }), "{event:?}");
        assert_eq!(routes.ensure().await.missing.len(), 1, "it is the other program's now");
    });
}

#[test]
fn the_kernel_takes_a_route_of_main_with_the_address_from_which_it_speaks() {
    on_two_hosts(async |hosts| {
        let specs = with_routes();
        let (addresses, routes) = holding(&specs).await;
        assert!(routes.ensure().await.missing.is_empty());
        hosts.here.take(specs[0].ip()).await;
        assert!(ip("-4 route show proto 72").is_empty());
        // Which is why routes are ensured whenever an address was put back.
        addresses.claim(Duration::from_secs(60)).await.unwrap();
        assert_eq!(routes.ensure().await.added.len(), 1);
        assert_eq!(ours().len(), 6, "{:?}", ours());
    });
}
