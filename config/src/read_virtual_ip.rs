//! Reads the `virtual_ip` blocks: addresses, when they are announced, and the routes and rules that move with
//! them.
//!
//! Decides their defaults, and refuses what no kernel would take. Invariant: a route has one family, that of
//! its destination; a rule has one family, that of whatever it names.

use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use ipnet::IpNet;

use crate::model::{Route, Rule, VirtualIp};
use crate::read_ha::{bad_interface, is_interface};
use crate::report::Notes;
use crate::section::{At, Section};

/// Most virtual addresses: each is probed and announced within one promotion.
pub(crate) const MAX_VIRTUAL_IPS: usize = 256;

/// Most routes and rules of one address: each is a request to the kernel within one promotion.
pub(crate) const MAX_ROUTES: usize = 32;

/// Announcements in a row where the file says nothing.
pub(crate) const DEFAULT_REPEAT: u32 = 4;

/// Most announcements in a row.
const MAX_REPEAT: u64 = 100;

/// Shortest time between announcements: closer together they are one burst, which a switch drops as one.
const MIN_INTERVAL: Duration = Duration::from_millis(1);

/// Time between announcements ever after where the file says nothing.
pub(crate) const DEFAULT_REFRESH: Duration = Duration::from_secs(30);

/// Shortest time between them: announcements are broadcasts.
const MIN_REFRESH: Duration = Duration::from_secs(1);

/// The number of the routing table `main`.
pub(crate) const MAIN_TABLE: u32 = 254;

/// The table that the kernel keeps for itself.
const LOCAL_TABLE: u32 = 255;

/// Where rules stand where the file says nothing: before `main`, which is at 32766.
pub(crate) const DEFAULT_PRIORITY: u32 = 1000;

/// The addresses, and where each was written.
pub(crate) fn virtual_ips(
    notes: &mut Notes,
    section: &mut Section<'_>,
) -> (Vec<VirtualIp>, Vec<Range<usize>>) {
    let mut found: Vec<VirtualIp> = Vec::new();
    let mut places: Vec<Range<usize>> = Vec::new();
    for mut block in section.blocks(notes, "virtual_ip") {
        let head = block.head.clone();
        let written = block.text(notes, "address");
        if block.key_span("address").is_none() {
            let mend = "write `address = \"10.0.0.100/24\"`";
            notes.error(&head, "`virtual_ip` has no `address`", mend);
        }
        let interface = block.text(notes, "interface");
        if block.key_span("interface").is_none() {
            let mend = "write the interface that carries the address: `interface = \"eth1\"`";
            notes.error(&head, "`virtual_ip` has no `interface`", mend);
        }
        let arp_ping = block.flag(notes, "arp_ping").is_none_or(|flag| flag.value);
        let gratuitous_arp = block.flag(notes, "gratuitous_arp").is_none_or(|flag| flag.value);
        let repeat = block.integer(notes, "garp_repeat", 1..=MAX_REPEAT);
        let interval = at_least(notes, &mut block, "garp_interval", MIN_INTERVAL);
        let refresh = at_least(notes, &mut block, "garp_refresh", MIN_REFRESH);
        let address = written.as_ref().and_then(|written| host(notes, written));
        let ip = address.map(|address| address.addr());
        let routes: Vec<Route> = block
            .blocks(notes, "route")
            .into_iter()
            .filter_map(|route| read_route(notes, route, ip))
            .collect();
        let rules: Vec<Rule> =
            block.blocks(notes, "rule").into_iter().filter_map(|rule| read_rule(notes, rule, ip)).collect();
        block.close(notes);
        if routes.len() + rules.len() > MAX_ROUTES {
            let message = format!("more than {MAX_ROUTES} routes and rules of one virtual address");
            notes.error(&head, message, "remove some of them");
        }
        let interface = interface.and_then(|name| {
            let good = is_interface(&name.value);
            if !good {
                bad_interface(notes, &name);
            }
            good.then_some(name.value)
        });
        let (Some(written), Some(address)) = (written, address) else { continue };
        if found.iter().any(|other| other.address.addr() == address.addr()) {
            let message = format!("the virtual address {} is given twice", address.addr());
            notes.error(&written.span, message, "remove one of the two `virtual_ip` blocks");
            continue;
        }
        let Some(interface) = interface else { continue };
        found.push(VirtualIp {
            address,
            interface,
            arp_ping,
            gratuitous_arp,
            garp_repeat: repeat.map_or(DEFAULT_REPEAT, |repeat| repeat.value as u32),
            garp_interval: interval.flatten(),
            garp_refresh: refresh.unwrap_or(Some(DEFAULT_REFRESH)),
            routes,
            rules,
        });
        places.push(written.span);
    }
    if let Some(place) = places.get(MAX_VIRTUAL_IPS) {
        notes.error(place, format!("more than {MAX_VIRTUAL_IPS} virtual addresses"), "remove some of them");
    }
    (found, places)
}

/// A time that is at least so long, or zero for none; `None` where nothing (good) is written.
fn at_least(
    notes: &mut Notes,
    block: &mut Section<'_>,
    key: &'static str,
    least: Duration,
) -> Option<Option<Duration>> {
    let given = block.duration(notes, key)?;
    if !given.value.is_zero() && given.value < least {
        let message = format!("`{key}` is too short");
        let mend = format!("write at least \"{}ms\", or 0 for none", least.as_millis());
        notes.error(&given.span, message, mend);
        return None;
    }
    Some(Some(given.value).filter(|value| !value.is_zero()))
}

/// `of` is the virtual address, where that could be read.
fn read_route(notes: &mut Notes, mut block: Section<'_>, of: Option<IpAddr>) -> Option<Route> {
    let head = block.head.clone();
    let to = block.text(notes, "to");
    if block.key_span("to").is_none() {
        notes.error(
            &head,
            "`route` has no `to`",
            "write the destination: `to = \"10.9.0.0/24\"`, or \"default\"",
        );
    }
    let via = block.text(notes, "via").and_then(|via| next_hop(notes, &via));
    let table = block.integer(notes, "table", 1..=u64::from(u32::MAX));
    let metric = block.integer(notes, "metric", 1..=u64::from(u32::MAX));
    let src = block.text(notes, "src");
    let required = block.flag(notes, "required").is_some_and(|flag| flag.value);
    block.close(notes);
    let table = routing_table(notes, table).unwrap_or(MAIN_TABLE);
    let (written, of) = (to?, of?);
    let family = via.as_ref().map_or(of, |via| via.value);
    let to = destination(notes, &written, family)?;
    if let Some(via) = &via
        && via.value.is_ipv4() != to.addr().is_ipv4()
    {
        let message =
            format!("the next hop {} and the destination {to} are of different families", via.value);
        notes.error(&via.span, message, "write both as IPv4, or both as IPv6");
        return None;
    }
    let source = match &src {
        Some(none) if none.value == "none" => None,
        Some(text) => match text.value.trim().parse::<IpAddr>() {
            Ok(ip) if ip.is_ipv4() == to.addr().is_ipv4() && !ip.is_unspecified() => Some(ip),
            _ => {
                let message = format!("{:?} cannot be the source on a route to {to}", text.value);
                let mend = "write an address of the same family that this host has, or \"none\"";
                notes.error(&text.span, message, mend);
                return None;
            }
        },
        None => Some(of).filter(|of| of.is_ipv4() == to.addr().is_ipv4()),
    };
    Some(Route {
        to,
        via: via.map(|via| via.value),
        table,
        metric: metric.map(|metric| metric.value as u32),
        source,
        required,
    })
}

fn read_rule(notes: &mut Notes, mut block: Section<'_>, of: Option<IpAddr>) -> Option<Rule> {
    let head = block.head.clone();
    let from = block.text(notes, "from");
    let to = block.text(notes, "to");
    let table = block.integer(notes, "table", 1..=u64::from(u32::MAX));
    if block.key_span("table").is_none() {
        notes.error(
            &head,
            "`rule` has no `table`",
            "write the routing table in which to look: `table = 100`",
        );
    }
    let priority = block.integer(notes, "priority", 1..=32_765);
    let required = block.flag(notes, "required").is_some_and(|flag| flag.value);
    block.close(notes);
    let table = routing_table(notes, table)?;
    let of = of?;
    let to = match &to {
        Some(text) => Some(destination(notes, text, of)?),
        None => None,
    };
    let family = to.map_or(of, |to| to.addr());
    let from = match &from {
        Some(all) if all.value == "all" => None,
        Some(text) => {
            let from = destination(notes, text, family)?;
            if from.addr().is_ipv4() != family.is_ipv4() {
                let message = format!("the source {from} and the destination are of different families");
                notes.error(&text.span, message, "write both as IPv4, or both as IPv6");
                return None;
            }
            Some(from)
        }
        None => Some(IpNet::from(of)).filter(|_| of.is_ipv4() == family.is_ipv4()),
    };
    if from.is_none() && to.is_none() {
        notes.error(&head, "`rule` would send all packets of this host elsewhere", "write `from`, or `to`");
        return None;
    }
    let priority = priority.map_or(DEFAULT_PRIORITY, |priority| priority.value as u32);
    Some(Rule { from, to, table, priority, required })
}

fn routing_table(notes: &mut Notes, table: Option<At<u64>>) -> Option<u32> {
    let table = table?;
    if table.value == u64::from(LOCAL_TABLE) {
        let message = "table 255 is the kernel's own";
        notes.error(&table.span, message, "write another number: 254 is `main`, 1 to 252 are free");
        return None;
    }
    Some(table.value as u32)
}

fn next_hop(notes: &mut Notes, written: &At<String>) -> Option<At<IpAddr>> {
    match written.value.trim().parse::<IpAddr>() {
        Ok(ip) if !ip.is_unspecified() && !ip.is_multicast() => {
            Some(At { value: ip, span: written.span.clone() })
        }
        _ => {
            let message = format!("{:?} is not the address of a next hop", written.value);
            notes.error(&written.span, message, "write an IP address, such as \"10.0.0.254\"");
            None
        }
    }
}

/// A network, an address alone, or `default` in the family of `like`.
fn destination(notes: &mut Notes, written: &At<String>, like: IpAddr) -> Option<IpNet> {
    let text = written.value.trim();
    if text == "default" {
        let unspecified = if like.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
        return IpNet::new(unspecified, 0).ok();
    }
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    match network {
        Ok(network) if network.trunc() == network => Some(network),
        Ok(network) => {
            let message = format!("{network} has bits beyond its prefix");
            notes.error(&written.span, message, format!("write \"{}\"", network.trunc()));
            None
        }
        Err(_) => {
            let message = format!("{text:?} is neither a network nor an address");
            notes.error(&written.span, message, "write it like \"10.9.0.0/24\", \"10.9.0.1\" or \"default\"");
            None
        }
    }
}

/// An address that a host can have, with the prefix of its network.
fn host(notes: &mut Notes, written: &At<String>) -> Option<IpNet> {
    let text = written.value.trim();
    let Ok(network) = text.parse::<IpNet>() else {
        let message = format!("{text:?} is not an address with the prefix of its network");
        let mend = match text.parse::<IpAddr>() {
            Ok(address) if address.is_ipv4() => {
                format!("write \"{address}/24\", with the prefix that the network has")
            }
            Ok(address) => format!("write \"{address}/64\", with the prefix that the network has"),
            Err(_) => "write it like \"10.0.0.100/24\" or \"fd00::100/64\"".to_owned(),
        };
        notes.error(&written.span, message, mend);
        return None;
    };
    let address = network.addr();
    let unusable = address.is_unspecified()
        || address.is_multicast()
        || address.is_loopback()
        || match network {
            // The first and the last address of an IPv4 network (but for /31 and /32) are no host's.
            IpNet::V4(v4) => {
                v4.prefix_len() == 0
                    || (v4.prefix_len() < 31 && (v4.addr() == v4.network() || v4.addr() == v4.broadcast()))
            }
            IpNet::V6(v6) => v6.prefix_len() == 0,
        };
    if unusable {
        let message = format!("{network} cannot be the address of a host");
        notes.error(&written.span, message, "write the address that clients use, such as \"10.0.0.100/24\"");
        return None;
    }
    Some(network)
}
