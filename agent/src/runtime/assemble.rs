//! From the checked configuration to what each part of the runtime is started with.

use std::time::Duration;

use holdfast_config::timers::{Derived, GateInUse};
use holdfast_config::{
    Ack, Config, FailbackMode, GateChoice, Mode, Route, Rule, TwoNode as ConfiguredTwoNode, show_duration,
};
use holdfast_heartbeat::{BootNonce, Member, MemberKind, packet};
use holdfast_replication::replica::Acknowledgement;
use holdfast_vip::gate::{self, Ending, Gate};
use holdfast_vip::{Rounds, RouteSpec, RuleSpec, VipSpec};

use super::log_thread::Sending;
use super::peers::Peers;
use crate::node::settings::{Failback, Settings, Timers, TwoNode};
use crate::node::view::View;

/// The conflict probe's window when the former holder has said that it let go.
const HANDOVER_PROBE: Duration = Duration::from_millis(9);
/// How long requests in flight may take in a planned switchover. Half of the longest pause that is
/// promised; what takes longer is refused in a way that clients retry by themselves.
const DRAIN: Duration = Duration::from_millis(40);
/// How long a planned switchover may take before it is called off.
const HANDOVER: Duration = Duration::from_secs(1);
/// At most one automatic failback in this time, where the configuration does not say.
const FAILBACK_WINDOW: Duration = Duration::from_secs(60);

/// The virtual addresses.
pub fn vip_specs(config: &Config) -> Vec<VipSpec> {
    let vips = if config.mode == Mode::Witness { &[][..] } else { &config.ha.virtual_ips };
    vips.iter()
        .map(|vip| VipSpec {
            address: vip.address,
            interface: vip.interface.clone(),
            arp_ping: vip.arp_ping,
            gratuitous_arp: vip.gratuitous_arp,
            rounds: Rounds {
                repeat: vip.garp_repeat,
                interval: vip.garp_interval,
                refresh: vip.garp_refresh,
            },
            routes: vip.routes.iter().map(route_spec).collect(),
            rules: vip.rules.iter().map(rule_spec).collect(),
        })
        .collect()
}

fn route_spec(route: &Route) -> RouteSpec {
    RouteSpec {
        to: route.to,
        via: route.via,
        table: route.table,
        metric: route.metric,
        source: route.source,
        required: route.required,
    }
}

fn rule_spec(rule: &Rule) -> RuleSpec {
    RuleSpec {
        from: rule.from,
        to: rule.to,
        table: rule.table,
        priority: rule.priority,
        required: rule.required,
    }
}

/// Opens the kernel gate; also says why it is not the wanted one, if so. `begin` runs first on the gate's own
/// thread, where it has one.
///
/// # Errors
/// The configuration names a gate that this kernel or these privileges do not allow.
pub fn open_gate(
    config: &Config,
    specs: &[VipSpec],
    begin: impl FnOnce() + Send + 'static,
) -> anyhow::Result<(std::sync::Arc<dyn Gate>, Option<String>)> {
    let choice = match config.ha.gate {
        GateChoice::Auto => gate::GateChoice::Auto,
        GateChoice::Ebpf => gate::GateChoice::Ebpf,
        GateChoice::Nftables => gate::GateChoice::Nftables,
        GateChoice::None => gate::GateChoice::None,
    };
    let ports: Vec<u16> = config.store.iter().map(|store| store.listen.port()).collect();
    let (gate, fallback) = gate::open(choice, specs, &ports, begin);
    if gate.ending() == Ending::Lifetime && !specs.is_empty() {
        let why = fallback.as_deref().unwrap_or("for no known reason");
        match config.ha.gate {
            GateChoice::Ebpf => anyhow::bail!(
                "gate = \"ebpf\" cannot be had: {why}. Give the agent CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN on Linux 5.8 or later, or write gate = \"auto\" to take nftables instead"
            ),
            GateChoice::Nftables => anyhow::bail!(
                "gate = \"nftables\" cannot be had: {why}. Give the agent CAP_NET_ADMIN on Linux 5.16 or later (with nf_tables), or write gate = \"auto\""
            ),
            GateChoice::Auto | GateChoice::None => {}
        }
    }
    Ok((gate, fallback))
}

/// What the timers are with the gate in use.
pub fn derived(config: &Config, gate: &dyn Gate) -> Derived {
    let kind = match gate.ending() {
        _ if config.ha.virtual_ips.is_empty() => GateInUse::Ebpf,
        Ending::Absolute => GateInUse::Ebpf,
        Ending::Relative => GateInUse::Nftables,
        Ending::Lifetime => GateInUse::None,
    };
    Derived::new(&config.ha, kind)
}

/// What the core is told.
pub fn settings(config: &Config, me: Member, boot: BootNonce, derived: &Derived) -> Settings {
    let failback = &config.ha.failback;
    Settings {
        me,
        kind: kind(config),
        boot,
        priority: config.ha.priority,
        prefers_primary: config.mode == Mode::Primary,
        peers: Peers::of(config).settings(),
        path_names: config.heartbeat_paths.iter().map(|path| path.name.clone()).collect(),
        timers: Timers {
            interval: derived.interval,
            detect: derived.detect,
            lease: derived.lease,
            drift_margin: derived.drift_margin,
            gate_excess: derived.gate_extra,
            probe_window: derived.probe_window,
            handover_probe_window: HANDOVER_PROBE.min(derived.probe_window),
            // What is held back on purpose is no delay of the standby's.
            standby_timeout: config.ha.standby_timeout + config.ack.held_back(),
            drain: DRAIN,
            handover: HANDOVER,
        },
        two_node: match config.ha.two_node {
            ConfiguredTwoNode::Probe => TwoNode::Probe,
            ConfiguredTwoNode::Fence => TwoNode::Fence,
            ConfiguredTwoNode::Manual => TwoNode::Manual,
        },
        failback: Failback {
            automatic: failback.mode == FailbackMode::Auto,
            allowed: failback.mode != FailbackMode::Disabled,
            delay: failback.delay,
            window: failback.window.unwrap_or(FAILBACK_WINDOW),
        },
        answers_alone: matches!(config.ack, Ack::Local { .. }),
        automatic: config.ha.enabled,
        attendance: super::hooks::attendance(config),
        fencing: super::fence::fencing(config),
        speaks: packet::NEWEST,
        probe_vip: config.ha.virtual_ips.iter().any(|vip| vip.arp_ping) && config.mode != Mode::Witness,
    }
}

/// Data member or witness.
pub fn kind(config: &Config) -> MemberKind {
    if config.mode == Mode::Witness { MemberKind::Witness } else { MemberKind::Data }
}

/// When the log is sent where.
pub fn sending(config: &Config) -> Sending {
    let acknowledgement = match config.ack {
        Ack::InSync => Acknowledgement::InSync,
        Ack::Local { sync_interval, batch_size } => {
            Acknowledgement::Local { interval: sync_interval, records: batch_size }
        }
    };
    Sending { acknowledgement, catch_up_bytes_per_second: config.catch_up_rate_bytes }
}

/// Where clients find the primary: the first virtual address with the service's port.
pub fn endpoint(config: &Config) -> Option<String> {
    // Without credentials there is no S3 service to go to.
    let (vip, store) =
        (config.ha.virtual_ips.first()?, config.store.as_ref().filter(|store| store.root.is_some())?);
    let at = std::net::SocketAddr::new(vip.address.addr(), store.listen.port());
    Some(format!("http://{at}"))
}

/// The quorum policy in words, and what it cannot protect against.
pub fn policy(config: &Config, view: &View) -> (String, Option<String>) {
    let (name, exposure) = quorum_policy(config, view);
    let alone = matches!(config.ack, Ack::Local { .. }).then(|| {
        let within = (config.ha.standby_timeout + config.ack.held_back()) * 2 + config.ha.lease();
        format!(
            "writes are acknowledged before the standby has them (ack = \"local\"): what it lacks is lost with the primary, \
             and a standby takes over by itself while that is no more than about {}",
            show_duration(within)
        )
    });
    let both = [exposure.map(str::to_owned), alone];
    let exposures: Vec<String> = both.into_iter().flatten().collect();
    (name, (!exposures.is_empty()).then(|| exposures.join("; ")))
}

fn quorum_policy(config: &Config, view: &View) -> (String, Option<&'static str>) {
    if view.pair {
        let exposure = match config.ha.two_node {
            ConfiguredTwoNode::Probe => {
                "if every heartbeat path and the network of the virtual address are cut at once, both members serve; \
                 what the losing side acknowledged meanwhile is set aside when they meet again. A witness rules this out"
            }
            ConfiguredTwoNode::Fence => {
                "while no fence device can be reached, nobody takes over and the primary acknowledges no write alone"
            }
            ConfiguredTwoNode::Manual => {
                "nobody takes over by itself: an operator must, with holdfast ha promote"
            }
        };
        let name = match config.ha.two_node {
            ConfiguredTwoNode::Probe => "probe",
            ConfiguredTwoNode::Fence => "fence",
            ConfiguredTwoNode::Manual => "manual",
        };
        return (format!("two members without a witness, two_node = \"{name}\""), Some(exposure));
    }
    (format!("{} of {} members decide", view.quorum, view.voters), None)
}
