//! Reads the `ha` block: timers and policies; its virtual addresses are read in [`read_virtual_ip`].
//!
//! Decides their defaults, and refuses timers that cannot work together. Never looks at peers: which
//! of the policies matter is checked once they are known. Invariant: the interval is at least
//! [`MIN_INTERVAL`], and lease and detection are each at least two intervals long.

use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use crate::model::{ConntrackSync, Failback, FailbackMode, GateChoice, Ha, TwoNode, WatchdogDevice};
use crate::quantity::show;
use crate::read_hooks;
use crate::read_virtual_ip;
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

/// After how long without a sign of life the watchdog restarts the host where the file says nothing.
pub(crate) const DEFAULT_WATCHDOG_TIMEOUT: Duration = Duration::from_secs(15);

/// What `watchdog_timeout` may be.
const WATCHDOG_TIMEOUTS: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(10)..=Duration::from_secs(600);

/// How often the table of connections is compared where the file says nothing: as in the guide's example.
pub(crate) const DEFAULT_CONNTRACK_INTERVAL: Duration = Duration::from_secs(5);

/// Shortest time between two comparisons: looking at a table of 100,000 entries takes a quarter of a second.
const MIN_CONNTRACK_INTERVAL: Duration = Duration::from_secs(1);

/// Most connections that are carried over where the file says nothing: as in the guide's example.
pub(crate) const DEFAULT_CONNTRACK_ENTRIES: u32 = 100_000;

/// Most connections that can be asked for: each takes some 300 bytes here and on the standby.
const MAX_CONNTRACK_ENTRIES: u64 = 4_000_000;

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
    ha.watchdog = watchdog(notes, &mut section, ha.heartbeat_interval);
    monitors(notes, &mut section, &mut ha);
    ha.conntrack_sync = conntrack_sync(notes, &mut section);
    ha.hooks = read_hooks::hooks(notes, &mut section);
    let (virtual_ips, virtual_ip_places) = read_virtual_ip::virtual_ips(notes, &mut section);
    ha.virtual_ips = virtual_ips;
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
        watchdog: None,
        conntrack_sync: None,
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

/// The device is fed by an agent that starts anew after a death, too: it must outlast the longest pause of the
/// supervisor before a restart, which is five seconds.
fn watchdog(notes: &mut Notes, section: &mut Section<'_>, interval: Duration) -> Option<WatchdogDevice> {
    let device = section.absolute_path(notes, "watchdog");
    let timeout = section.duration(notes, "watchdog_timeout");
    let Some(device) = device else {
        if let Some(timeout) = timeout {
            let mend = "write `watchdog = \"/dev/watchdog\"` beside it, or leave it out";
            notes.warn(&timeout.span, "`watchdog_timeout` without `watchdog` does nothing", mend);
        }
        return None;
    };
    let value = match timeout {
        None => DEFAULT_WATCHDOG_TIMEOUT,
        Some(timeout)
            if WATCHDOG_TIMEOUTS.contains(&timeout.value)
                && timeout.value.subsec_nanos() == 0
                && timeout.value >= interval * 4 =>
        {
            timeout.value
        }
        Some(timeout) => {
            let message = format!("`watchdog_timeout` {} is not possible", show(timeout.value));
            let (least, most) = (show(*WATCHDOG_TIMEOUTS.start()), show(*WATCHDOG_TIMEOUTS.end()));
            let mend = format!(
                "write whole seconds from \"{least}\" to \"{most}\", and at least four heartbeat intervals: an agent that died is started again within that time, and must find the host still there"
            );
            notes.error(&timeout.span, message, mend);
            return None;
        }
    };
    Some(WatchdogDevice { device: device.value, timeout: value })
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

/// The block; its presence switches it on unless it says otherwise.
fn conntrack_sync(notes: &mut Notes, section: &mut Section<'_>) -> Option<ConntrackSync> {
    let mut block = section.block(notes, "conntrack_sync")?;
    let enabled = block.flag(notes, "enabled").is_none_or(|enabled| enabled.value);
    let interface = block.text(notes, "interface").and_then(|interface| {
        let good = is_interface(&interface.value);
        if !good {
            bad_interface(notes, &interface);
        }
        good.then_some(interface.value)
    });
    let mut sync_interval = DEFAULT_CONNTRACK_INTERVAL;
    if let Some(written) = block.duration(notes, "sync_interval") {
        if written.value < MIN_CONNTRACK_INTERVAL {
            let message =
                format!("a `sync_interval` of {} compares the whole table too often", show(written.value));
            let mend = format!(
                "write at least \"{}\"; changes go to the standby at once in any case",
                show(MIN_CONNTRACK_INTERVAL)
            );
            notes.error(&written.span, message, mend);
        } else {
            sync_interval = written.value;
        }
    }
    let max_entries = block
        .integer(notes, "max_entries", 1..=MAX_CONNTRACK_ENTRIES)
        .map_or(DEFAULT_CONNTRACK_ENTRIES, |most| most.value as u32);
    block.close(notes);
    enabled.then_some(ConntrackSync { interface, sync_interval, max_entries })
}

pub(crate) fn is_interface(name: &str) -> bool {
    (1..=MAX_INTERFACE_BYTES).contains(&name.len())
        && name != "."
        && name != ".."
        && name.chars().all(|c| c.is_ascii_graphic() && c != '/' && c != ':')
}

pub(crate) fn bad_interface(notes: &mut Notes, name: &At<String>) {
    let message = format!("{:?} cannot be the name of an interface", name.value);
    notes.error(&name.span, message, "write it as `ip link` shows it, such as \"eth1\"");
}
