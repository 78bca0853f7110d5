//! Another program takes an address off, or changes it.

use std::time::{Duration, Instant};

use holdfast_vip::{RouteSpec, VipSpec};

use crate::two_hosts::{
    ETH, HERE6, PATIENCE, THERE, TwoHosts, VIP, VIP6, both_vips, on_two_hosts, until, vip,
};
use crate::{LIFETIME, Member, answered, ip, outage, try_ip};

/// What is promised, to a client on another host.
const PROMISED: Duration = Duration::from_millis(20);
/// A busy machine gets more room in an assertion.
const ROOM: Duration = Duration::from_secs(2);

/// The address is there once, with a lifetime of ours, and used.
async fn is_whole(hosts: &TwoHosts, spec: &VipSpec) -> bool {
    let copies = hosts.here.copies(spec.ip()).await;
    copies.len() == 1 && u64::from(copies[0].2) <= LIFETIME.as_secs()
}

/// Does `meddle` to a held address five times, with the client watching; prints the median of its outages.
async fn survives(hosts: &TwoHosts, spec: VipSpec, what: &str, meddle: impl Fn()) {
    let member = Member::begin(std::slice::from_ref(&spec));
    member.claim();
    let (mut asker, at) = answered(hosts, &spec).await;
    let mut outages = Vec::new();
    for times in 1..=5 {
        let begun = Instant::now();
        meddle();
        let done = Instant::now();
        let without = outage(&mut asker, at, done).await;
        // No longer than this, were it gone from the moment at which the command was begun.
        let most = begun.elapsed();
        until("it is whole again", async || is_whole(hosts, &spec).await && member.restored() >= times).await;
        outages.push((without, most));
    }
    outages.sort();
    let (median, longest) = (outages[2].0, outages[4].0);
    let most = outages.iter().map(|(_, most)| *most).max().unwrap_or_default();
    eprintln!(
        "{what}: {spec} answers another host {median:?} (median), {longest:?} (longest) after the command ended, \
         {most:?} (longest) after it began; {PROMISED:?} are promised"
    );
    assert!(median < ROOM, "{outages:?}");
    let said = member.said();
    assert!(said.contains(&spec.to_string()) && said.contains("KeepConfiguration"), "{said}");
    member.release();
    assert!(hosts.here.copies(spec.ip()).await.is_empty());
}

#[test]
fn an_address_that_is_deleted_answers_again_within_milliseconds() {
    on_two_hosts(async |hosts| {
        survives(&hosts, vip(VIP), "deleted", || ip("addr del 10.77.0.100/32 dev eth1")).await;
        survives(&hosts, vip(VIP6), "deleted", || ip("addr del fd77::64/128 dev eth1")).await;
    });
}

#[test]
fn a_lifetime_without_end_is_taken_back() {
    on_two_hosts(async |hosts| {
        for spec in both_vips() {
            let whole = ipnet::IpNet::from(spec.ip());
            let forever = format!("addr replace {whole} dev eth1 valid_lft forever preferred_lft forever");
            survives(&hosts, spec, "given a lifetime without end", || ip(&forever)).await;
        }
    });
}

#[test]
fn a_copy_with_another_prefix_is_taken_off() {
    on_two_hosts(async |hosts| {
        let copy = || ip("addr add 10.77.0.100/24 dev eth1");
        survives(&hosts, vip(VIP), "added once more as /24", copy).await;
        let turned = || {
            try_ip("addr del 10.77.0.100/32 dev eth1");
            try_ip("addr add 10.77.0.100/24 dev eth1");
        };
        survives(&hosts, vip(VIP), "turned into a /24", turned).await;
    });
}

#[test]
fn an_interface_that_is_flushed_has_the_address_again() {
    on_two_hosts(async |hosts| {
        let flush = || try_ip("addr flush dev eth1 scope global");
        survives(&hosts, vip(VIP), "flushed", flush).await;
    });
}

#[test]
fn an_address_under_duplicate_detection_is_used_again() {
    on_two_hosts(async |hosts| {
        let spec = vip(VIP6);
        std::fs::write("/proc/sys/net/ipv6/conf/eth1/accept_dad", "1").unwrap();
        let anew = || {
            try_ip("-6 addr del fd77::64/128 dev eth1");
            try_ip("-6 addr add fd77::64/128 dev eth1");
        };
        survives(&hosts, spec, "added anew with duplicate detection", anew).await;
    });
}

#[test]
fn a_link_that_was_set_down_has_both_addresses_again() {
    on_two_hosts(async |hosts| {
        let member = Member::begin(&both_vips());
        member.claim();
        let mut asked = Vec::new();
        for spec in both_vips() {
            asked.push(answered(&hosts, &spec).await);
        }
        for _ in 0..3 {
            ip("link set eth1 down");
            ip("link set eth1 up");
            let begun = Instant::now();
            // The own IPv6 address went with the link, and is the operator's to bring back.
            if hosts.here.copies(HERE6.parse().unwrap()).await.is_empty() {
                ip("-6 addr add fd77::1/64 dev eth1 nodad");
            }
            for (asker, at) in &mut asked {
                let without = outage(asker, *at, begun).await;
                eprintln!("link down and up: {at} answers another host again after {without:?}");
            }
        }
        for spec in both_vips() {
            until("it is whole again", async || is_whole(&hosts, &spec).await).await;
        }
        assert!(member.said().contains("fd77::64 on eth1 went away with its interface"));
        member.release();
    });
}

#[test]
fn an_interface_that_is_made_anew_has_the_address_again() {
    on_two_hosts(async |hosts| {
        let member = Member::begin(&[vip(VIP)]);
        member.claim();
        let (mut asker, at) = answered(&hosts, &vip(VIP)).await;
        let index = hosts.here.index_of(ETH).await;
        hosts.here.netlink.link().del(index).execute().await.unwrap();
        hosts.lay_cable().await;
        hosts.here.give(&["10.77.0.1/24"]).await;
        hosts.there.give(&["10.77.0.2/24"]).await;
        let without = outage(&mut asker, at, Instant::now()).await;
        eprintln!("interface made anew: {at} answers another host again after {without:?}");
        assert!(is_whole(&hosts, &vip(VIP)).await);
        assert!(member.said().contains("went away with its interface"));
        member.release();
    });
}

#[test]
fn a_program_that_does_not_give_up_is_called_a_fight_and_does_not_fill_the_history() {
    on_two_hosts(async |hosts| {
        let member = Member::begin(&[vip(VIP)]);
        member.claim();
        for times in 1..=12 {
            ip("addr del 10.77.0.100/32 dev eth1");
            until("it is back", async || member.restored() >= times && is_whole(&hosts, &vip(VIP)).await)
                .await;
            // Each is an incident of its own.
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        for _ in 0..3 {
            let said = member.said();
            assert!(said.contains("was taken off by another program; put back after"), "{said}");
        }
        let said = member.said();
        assert!(said.starts_with("warning: another program on this host fights for 10.77.0.100"), "{said}");
        assert!(member.sayings.try_recv().is_err(), "nothing more is said");
        assert!(member.board.warnings()[0].contains("fights for"), "{:?}", member.board.warnings());
        member.release();
    });
}

#[test]
fn a_route_comes_with_the_address_is_put_back_and_goes_before_it() {
    on_two_hosts(async |hosts| {
        let mut spec = vip(VIP);
        spec.routes.push(RouteSpec {
            to: "10.9.0.0/24".parse().unwrap(),
            via: Some(THERE.parse().unwrap()),
            table: 254,
            metric: None,
            source: Some(spec.ip()),
            required: false,
        });
        let stands = || {
            let words = ["route", "show", "proto", "72"];
            let shown = std::process::Command::new("ip").args(words).output().unwrap();
            String::from_utf8(shown.stdout).unwrap().contains("10.9.0.0/24 via 10.77.0.2")
        };
        let member = Member::begin(std::slice::from_ref(&spec));
        assert!(!stands());
        member.claim();
        assert!(stands());
        let begun = Instant::now();
        ip("route del 10.9.0.0/24");
        until("the route is back", async || stands()).await;
        eprintln!("a removed route stands again after {:?}", begun.elapsed());
        let said = member.said();
        assert!(
            said.contains("route 10.9.0.0/24 via 10.77.0.2 of 10.77.0.100 on eth1 was removed"),
            "{said}"
        );
        // It went with the address.
        ip("addr del 10.77.0.100/32 dev eth1");
        until("both are back", async || stands() && is_whole(&hosts, &spec).await).await;
        member.release();
        assert!(!stands());
    });
}

#[test]
fn a_route_that_cannot_be_added_is_a_warning_or_where_required_no_claim() {
    on_two_hosts(async |_hosts| {
        let mut spec = vip(VIP);
        spec.routes.push(RouteSpec {
            to: "10.9.0.0/24".parse().unwrap(),
            // Nobody's network.
            via: Some("10.99.0.1".parse().unwrap()),
            table: 254,
            metric: None,
            source: Some(spec.ip()),
            required: false,
        });
        let member = Member::begin(std::slice::from_ref(&spec));
        member.claim();
        let said = member.said();
        assert!(said.starts_with("warning: the route 10.9.0.0/24 via 10.99.0.1 of"), "{said}");
        assert!(member.board.warnings()[0].contains("is missing"), "{:?}", member.board.warnings());
        assert!(member.board.addresses()[0].held);
        // As soon as it can be, it is.
        ip("addr add 10.99.0.2/24 dev eth1");
        let stands = || member.board.warnings().is_empty();
        until("the route stands", async || stands()).await;
        assert!(member.said().contains("stand again"));
        member.release();
        drop(member);
        ip("addr del 10.99.0.2/24 dev eth1");

        spec.routes[0].required = true;
        let member = Member::begin(&[spec]);
        member.lease.extend(holdfast_heartbeat::Epoch(1), crate::soon());
        let claim = holdfast_agent::runtime::address::Order::Claim(holdfast_heartbeat::Epoch(1));
        member.orders.send(claim).unwrap();
        assert!(member.said().contains("10.99.0.1"));
        assert!(member.said().contains("cannot be claimed"));
        assert!(member.events.try_recv().is_err(), "it is not claimed");
        ip("addr add 10.99.0.2/24 dev eth1");
        member.events.recv_timeout(PATIENCE).expect("it is claimed now");
        member.release();
    });
}

#[test]
fn a_claim_is_announced_at_once() {
    on_two_hosts(async |_hosts| {
        for count in [1, 20, 200] {
            let specs: Vec<VipSpec> = (0..count).map(|n| vip(&format!("10.77.0.{}/24", 20 + n))).collect();
            let member = Member::begin(&specs);
            let mut times = Vec::new();
            for _ in 0..5 {
                times.push(member.claim());
                member.release();
            }
            times.sort();
            eprintln!("{count} addresses: from the order to the announcement {:?} (median)", times[2]);
        }
    });
}
