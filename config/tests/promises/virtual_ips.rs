//! Virtual addresses with what moves with them.

use std::time::Duration;

use holdfast_config::{Route, Rule, explain};

use crate::{load, refuse, with};

const LINE: &str = "      interface = \"eth1\"";

/// The good file with lines added to its `virtual_ip` block.
fn adding(lines: &str) -> String {
    with(LINE, &format!("{LINE}\n{lines}"))
}

fn route(line: &str) -> Route {
    let text = adding(&format!("      route {{\n{}\n      }}", line.replace("; ", "\n")));
    load(&text).config.ha.virtual_ips[0].routes[0].clone()
}

fn rule(line: &str) -> Rule {
    let text = adding(&format!("      rule {{\n{}\n      }}", line.replace("; ", "\n")));
    load(&text).config.ha.virtual_ips[0].rules[0].clone()
}

#[track_caller]
fn refused(lines: &str, message: &str, mend: &str) {
    let rendered = refuse(&adding(&lines.replace("; ", "\n"))).to_string();
    assert!(rendered.contains(message), "{message:?} is missing:\n{rendered}");
    assert!(rendered.contains(mend), "{mend:?} is missing:\n{rendered}");
}

#[test]
fn announcements_have_defaults_and_can_be_set() {
    let vip = load(&adding("")).config.ha.virtual_ips[0].clone();
    assert_eq!((vip.garp_repeat, vip.garp_interval), (4, None));
    assert_eq!(vip.garp_refresh, Some(Duration::from_secs(30)));
    assert!(vip.routes.is_empty() && vip.rules.is_empty());
    let set = "      garp_repeat = 2\n      garp_interval = \"20ms\"\n      garp_refresh = 0";
    let loaded = load(&adding(set));
    let vip = &loaded.config.ha.virtual_ips[0];
    assert_eq!((vip.garp_repeat, vip.garp_interval), (2, Some(Duration::from_millis(20))));
    assert_eq!(vip.garp_refresh, None);
    let said = explain(&loaded);
    assert!(said.contains("announced 2 times, 20ms apart, then only when something happens"), "{said}");
}

#[test]
fn announcements_that_cannot_be_meant_are_refused() {
    refused("garp_repeat = 0", "`garp_repeat` is out of range", "from 1 to 100");
    refused("garp_refresh = \"10ms\"", "`garp_refresh` is too short", "or 0 for none");
    refused("garp_repeats = 3", "unknown key `garp_repeats`", "did you mean `garp_repeat`");
}

#[test]
fn a_route_speaks_from_the_address_unless_told_otherwise() {
    let plain = route("to = \"10.9.0.0/24\"; via = \"10.0.0.254\"");
    assert_eq!(plain.to.to_string(), "10.9.0.0/24");
    assert_eq!((plain.table, plain.metric, plain.required), (254, None, false));
    assert_eq!(plain.source.unwrap().to_string(), "10.0.0.100");
    let other = route("to = \"10.9.0.7\"; src = \"10.0.0.1\"; table = 100; metric = 5; required = true");
    assert_eq!((other.to.to_string(), other.table, other.metric), ("10.9.0.7/32".into(), 100, Some(5)));
    assert_eq!(other.source.unwrap().to_string(), "10.0.0.1");
    assert!(other.required && other.via.is_none());
    assert_eq!(route("to = \"default\"; via = \"10.0.0.254\"; src = \"none\"").source, None);
    assert_eq!(route("to = \"default\"; via = \"10.0.0.254\"").to.to_string(), "0.0.0.0/0");
    // Of the other family: the address cannot be its source.
    let six = route("to = \"default\"; via = \"fd00::fe\"");
    assert_eq!((six.to.to_string(), six.source), ("::/0".into(), None));
}

#[test]
fn a_rule_is_about_the_address_unless_told_otherwise() {
    let plain = rule("table = 100");
    assert_eq!(plain.from.unwrap().to_string(), "10.0.0.100/32");
    assert_eq!((plain.to, plain.table, plain.priority, plain.required), (None, 100, 1000, false));
    let other =
        rule("from = \"10.1.0.0/16\"; to = \"10.2.0.0/16\"; table = 7; priority = 9; required = true");
    assert_eq!(other.from.unwrap().to_string(), "10.1.0.0/16");
    assert_eq!((other.to.unwrap().to_string(), other.priority), ("10.2.0.0/16".into(), 9));
    assert!(other.required);
    assert_eq!(rule("from = \"all\"; to = \"10.2.0.0/16\"; table = 7").from, None);
}

#[test]
fn routes_and_rules_that_no_kernel_would_take_are_refused() {
    refused("route {; via = \"10.0.0.254\"; }", "`route` has no `to`", "to = ");
    refused("route {; to = \"10.9.0.1/24\"; }", "has bits beyond its prefix", "write \"10.9.0.0/24\"");
    refused("route {; to = \"nowhere\"; }", "neither a network nor an address", "\"default\"");
    refused(
        "route {; to = \"10.9.0.0/24\"; via = \"router\"; }",
        "not the address of a next hop",
        "10.0.0.254",
    );
    let mixed = "route {; to = \"10.9.0.0/24\"; via = \"fd00::fe\"; }";
    refused(mixed, "are of different families", "both as IPv4");
    refused("route {; to = \"10.9.0.0/24\"; src = \"fd00::1\"; }", "cannot be the source", "\"none\"");
    refused("route {; to = \"10.9.0.0/24\"; table = 255; }", "the kernel's own", "another number");
    refused("route {; too = \"10.9.0.0/24\"; }", "unknown key `too`", "did you mean `to`");
    refused("rule {; }", "`rule` has no `table`", "table = 100");
    refused("rule {; table = 7; from = \"all\"; }", "all packets of this host", "write `from`");
    refused("rule {; table = 7; priority = 0; }", "`priority` is out of range", "from 1 to 32765");
    let many = "route {; to = \"10.9.0.0/24\"; }; ".repeat(33);
    refused(&many, "more than 32 routes and rules", "remove some");
}

#[test]
fn the_explanation_names_what_moves_and_what_happens_without_it() {
    let said = explain(&load(&adding(
        "      route {\n        to = \"10.9.0.0/24\"\n        via = \"10.0.0.254\"\n      }\n      rule {\n        table = 100\n        required = true\n      }",
    )));
    for words in [
        "announced 4 times, then every 30s",
        "with it the route 10.9.0.0/24 via 10.0.0.254 src 10.0.0.100; if it cannot be added, the address is claimed all the same",
        "with it the rule 1000: from 10.0.0.100/32 table 100; if it cannot be added, the address is not claimed without it",
    ] {
        assert!(said.contains(words), "{words:?} is missing:\n{said}");
    }
}

#[test]
fn two_hundred_and_fifty_six_addresses_are_the_limit() {
    let block = |n: usize| {
        format!(
            "    virtual_ip {{\n      address = \"10.1.{}.{}/16\"\n      interface = \"eth1\"\n    }}\n",
            n / 200,
            1 + n % 200
        )
    };
    let text = |count: usize| {
        with("    virtual_ip {", &format!("{}    virtual_ip {{", (1..count).map(block).collect::<String>()))
    };
    assert_eq!(load(&text(256)).config.ha.virtual_ips.len(), 256);
    let refusal = refuse(&text(257)).to_string();
    assert!(refusal.contains("more than 256 virtual addresses"), "{refusal}");
}
