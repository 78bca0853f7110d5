//! Reads the `ha` block: timers, policies and virtual addresses.
//!
//! Decides their defaults, and refuses timers that cannot work together. Never looks at peers: which
//! of the policies matter is checked once they are known. Invariant: the interval is at least
//! [`MIN_INTERVAL`], and lease and detection are each at least two intervals long.

use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use ipnet::IpNet;

use crate::model::{Failback, FailbackMode, GateChoice, Ha, TwoNode, VirtualIp};
use crate::quantity::show;
use crate::read::inactive;
use crate::read_hooks;
use crate::report::Notes;
use crate::section::{At, Section};

/// Time between heartbeats where the file says nothing.
pub(crate) const DEFAULT_INTERVAL: Duration = Duration::from_millis(100);

/// Heartbeats missed in a row where the file says nothing.
pub(crate) const DEFAULT_THRESHOLD: u32 = 3;

/// Shortest interval: below it, a busy host's scheduling delays look like failures.
pub(crate) const MIN_INTERVAL: Duration = Duration::from_millis(5);

/// Fewest missed heartbeats: one lost packet must not be a failure.
pub(crate) const MIN_THRESHOLD: u64 = 2;

/// Most missed heartbeats; whoever wants longer silence writes `failure_timeout`.
pub(crate) const MAX_THRESHOLD: u64 = 1000;

/// Port of heartbeats where the file says nothing.
pub(crate) const DEFAULT_HEARTBEAT_PORT: u16 = 9002;

/// Priority where the file says nothing.
pub(crate) const DEFAULT_PRIORITY: u32 = 100;

/// How long a stalled standby may delay writes where the file says nothing.
pub(crate) const DEFAULT_STANDBY_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the preferred member must be healthy before a failback where the file says nothing.
pub(crate) const DEFAULT_FAILBACK_DELAY: Duration = Duration::from_secs(5);

/// Most virtual addresses: each is probed and announced within one promotion.
pub(crate) const MAX_VIRTUAL_IPS: usize = 32;

/// Longest name of an interface, in bytes: the kernel's IFNAMSIZ without its ending zero.
const MAX_INTERFACE_BYTES: usize = 15;

/// The block as read, with the places that later checks point at, and the block itself for its
/// heartbeat paths, which need the peers.
pub(crate) struct HaRead<'t> {
    pub(crate) ha: Ha,
    pub(crate) section: Option<Section<'t>>,
    pub(crate) virtual_ip_places: Vec<Range<usize>>,
    pub(crate) two_node_place: Option<Range<usize>>,
}

pub(crate) fn ha<'t>(notes: &mut Notes, section: Option<Section<'t>>) -> HaRead<'t> {
    let Some(mut section) = section else {
        return HaRead { ha: absent(), section: None, virtual_ip_places: Vec::new(), two_node_place: None };
    };
    let mut ha = absent();
    ha.enabled = section.flag(notes, "enabled").is_none_or(|enabled| enabled.value);
    if let Some(priority) = section.integer(notes, "priority", 0..=u64::from(u32::MAX)) {
        ha.priority = priority.value as u32;
    }
    ha.failback = failback(notes, &mut section);
    timers(notes, &mut section, &mut ha);
    if let Some(port) = section.integer(notes, "heartbeat_port", 1..=u64::from(u16::MAX)) {
        ha.heartbeat_port = port.value as u16;
    }
    let two_node = two_node(notes, &mut section);
    if let Some(policy) = &two_node {
        ha.two_node = policy.value;
    }
    let fencing = [("required", true), ("preferred", false)];
    ha.fencing_required = section.choice(notes, "fencing", &fencing).is_none_or(|required| required.value);
    ha.gate = gate(notes, &mut section);
    ha.flight_recorder = section.flag(notes, "flight_recorder").is_none_or(|wanted| wanted.value);
    ha.realtime = section.flag(notes, "realtime").is_none_or(|wanted| wanted.value);
    monitors(notes, &mut section, &mut ha);
    inactive_keys(notes, &mut section);
    ha.hooks = read_hooks::hooks(notes, &mut section);
    let virtual_ip_places = virtual_ips(notes, &mut section, &mut ha);
    HaRead {
        ha,
        section: Some(section),
        virtual_ip_places,
        two_node_place: two_node.map(|policy| policy.span),
    }
}

/// What holds where there is no `ha` block: nothing fails over by itself.
fn absent() -> Ha {
    Ha {
        enabled: false,
        priority: DEFAULT_PRIORITY,
        failback: Failback { mode: FailbackMode::Manual, delay: DEFAULT_FAILBACK_DELAY, window: None },
        heartbeat_interval: DEFAULT_INTERVAL,
        failure_threshold: DEFAULT_THRESHOLD,
        failure_timeout: None,
        heartbeat_port: DEFAULT_HEARTBEAT_PORT,
        lease_given: None,
        two_node: TwoNode::Probe,
        fencing_required: true,
        standby_timeout: DEFAULT_STANDBY_TIMEOUT,
        monitor_links: Vec::new(),
        monitor_gateways: Vec::new(),
        virtual_ips: Vec::new(),
        gate: GateChoice::Auto,
        flight_recorder: true,
        realtime: true,
        hooks: Vec::new(),
    }
}

fn failback(notes: &mut Notes, section: &mut Section<'_>) -> Failback {
    let modes = [
        ("auto", FailbackMode::Auto),
        ("manual", FailbackMode::Manual),
        ("disabled", FailbackMode::Disabled),
    ];
    Failback {
        mode: section.choice(notes, "failback_mode", &modes).map_or(FailbackMode::Manual, |mode| mode.value),
        delay: section.duration(notes, "failback_delay").map_or(DEFAULT_FAILBACK_DELAY, |delay| delay.value),
        window: section
            .duration(notes, "failback_window")
            .map(|window| window.value)
            .filter(|window| !window.is_zero()),
    }
}

fn timers(notes: &mut Notes, section: &mut Section<'_>, ha: &mut Ha) {
    let interval = section.duration(notes, "heartbeat_interval");
    let threshold = section.integer(notes, "failure_threshold", 1..=MAX_THRESHOLD);
    let timeout = section.duration(notes, "failure_timeout");
    let lease = section.duration(notes, "lease");
    let standby = section.duration(notes, "standby_timeout");
    if let Some(interval) = interval {
        if interval.value < MIN_INTERVAL {
            let message = format!("`heartbeat_interval` {} is too short", show(interval.value));
            let mend = format!(
                "write at least \"{}\": below it, ordinary scheduling delays look like failures",
                show(MIN_INTERVAL)
            );
            notes.error(&interval.span, message, mend);
        } else {
            ha.heartbeat_interval = interval.value;
        }
    }
    if let Some(threshold) = &threshold {
        if threshold.value < MIN_THRESHOLD {
            let message = format!("`failure_threshold` {} makes one lost packet a failure", threshold.value);
            notes.error(&threshold.span, message, format!("write {MIN_THRESHOLD} or more; 3 is usual"));
        } else {
            ha.failure_threshold = threshold.value as u32;
        }
    }
    let two_intervals = ha.heartbeat_interval.saturating_mul(2);
    let long_enough = |notes: &mut Notes, key: &str, given: Option<&At<Duration>>| {
        let given = given?;
        if given.value >= two_intervals {
            return Some(given.value);
        }
        let message = format!(
            "`{key}` {} is shorter than two heartbeat intervals of {}",
            show(given.value),
            show(ha.heartbeat_interval)
        );
        let mend = format!("write at least \"{}\", or a shorter `heartbeat_interval`", show(two_intervals));
        notes.error(&given.span, message, mend);
        None
    };
    let timeout_value = long_enough(notes, "failure_timeout", timeout.as_ref());
    let lease_value = long_enough(notes, "lease", lease.as_ref());
    let counted = ha.heartbeat_interval.saturating_mul(ha.failure_threshold);
    if let (Some(threshold), Some(timeout)) = (&threshold, timeout_value)
        && timeout != counted
    {
        let message = format!(
            "`failure_threshold` {} ({}) gives way to `failure_timeout` {}",
            threshold.value,
            show(counted),
            show(timeout)
        );
        notes.warn(&threshold.span, message, "keep the one that is meant");
    }
    ha.failure_timeout = timeout_value;
    ha.lease_given = lease_value;
    if let Some(standby) = standby {
        if standby.value < ha.heartbeat_interval {
            let message =
                format!("`standby_timeout` {} is shorter than one heartbeat interval", show(standby.value));
            let mend = format!("write at least \"{}\"; \"1s\" is usual", show(ha.heartbeat_interval));
            notes.error(&standby.span, message, mend);
        } else {
            ha.standby_timeout = standby.value;
        }
    }
}

fn two_node(notes: &mut Notes, section: &mut Section<'_>) -> Option<At<TwoNode>> {
    let words = [("probe", TwoNode::Probe), ("fence", TwoNode::Fence), ("manual", TwoNode::Manual)];
    section.choice(notes, "two_node", &words)
}

fn gate(notes: &mut Notes, section: &mut Section<'_>) -> GateChoice {
    let words = [
        ("auto", GateChoice::Auto),
        ("ebpf", GateChoice::Ebpf),
        ("nftables", GateChoice::Nftables),
        ("none", GateChoice::None),
    ];
    section.choice(notes, "gate", &words).map_or(GateChoice::Auto, |gate| gate.value)
}

fn monitors(notes: &mut Notes, section: &mut Section<'_>, ha: &mut Ha) {
    if let Some(links) = section.texts(notes, "monitor_links") {
        for link in &links.value {
            if is_interface(&link.value) {
                ha.monitor_links.push(link.value.clone());
            } else {
                bad_interface(notes, link);
            }
        }
    }
    if let Some(gateways) = section.texts(notes, "monitor_gateways") {
        for gateway in &gateways.value {
            match gateway.value.trim().parse::<IpAddr>() {
                Ok(address) if !address.is_unspecified() && !address.is_multicast() => {
                    ha.monitor_gateways.push(address.to_canonical());
                }
                _ => {
                    let message = format!("{:?} is not the address of a gateway", gateway.value);
                    notes.error(
                        &gateway.span,
                        message,
                        "write an IP address without port, such as \"192.168.1.1\"",
                    );
                }
            }
        }
    }
}

fn inactive_keys(notes: &mut Notes, section: &mut Section<'_>) {
    if let Some(mut conntrack) = section.block(notes, "conntrack_sync") {
        let enabled = conntrack.flag(notes, "enabled").is_none_or(|enabled| enabled.value);
        if let Some(interface) = conntrack.text(notes, "interface")
            && !is_interface(&interface.value)
        {
            bad_interface(notes, &interface);
        }
        conntrack.duration(notes, "sync_interval");
        conntrack.integer(notes, "max_entries", 1..=u64::from(u32::MAX));
        if enabled {
            let instead = "connections through this host are not carried over, clients open them again";
            inactive(notes, &conntrack.head.clone(), "conntrack_sync", instead);
        }
        conntrack.close(notes);
    }
}

fn virtual_ips(notes: &mut Notes, section: &mut Section<'_>, ha: &mut Ha) -> Vec<Range<usize>> {
    let mut places: Vec<Range<usize>> = Vec::new();
    for mut block in section.blocks(notes, "virtual_ip") {
        let head = block.head.clone();
        let address = block.text(notes, "address");
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
        block.close(notes);
        let interface = interface.and_then(|name| {
            let good = is_interface(&name.value);
            if !good {
                bad_interface(notes, &name);
            }
            good.then_some(name.value)
        });
        let Some(written) = address else { continue };
        let Some(address) = cidr(notes, &written) else { continue };
        if ha.virtual_ips.iter().any(|other| other.address.addr() == address.addr()) {
            let message = format!("the virtual address {} is given twice", address.addr());
            notes.error(&written.span, message, "remove one of the two `virtual_ip` blocks");
            continue;
        }
        let Some(interface) = interface else { continue };
        ha.virtual_ips.push(VirtualIp { address, interface, arp_ping, gratuitous_arp });
        places.push(written.span);
    }
    if let Some(place) = places.get(MAX_VIRTUAL_IPS) {
        notes.error(place, format!("more than {MAX_VIRTUAL_IPS} virtual addresses"), "remove some of them");
    }
    places
}

/// An address that a host can have, with the prefix of its network.
fn cidr(notes: &mut Notes, written: &At<String>) -> Option<IpNet> {
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

fn is_interface(name: &str) -> bool {
    (1..=MAX_INTERFACE_BYTES).contains(&name.len())
        && name != "."
        && name != ".."
        && name.chars().all(|c| c.is_ascii_graphic() && c != '/' && c != ':')
}

fn bad_interface(notes: &mut Notes, name: &At<String>) {
    let message = format!("{:?} cannot be the name of an interface", name.value);
    notes.error(&name.span, message, "write it as `ip link` shows it, such as \"eth1\"");
}
