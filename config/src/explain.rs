//! Says in plain words what a configuration amounts to: what `holdfast config check` prints.
//!
//! Decides nothing and promises nothing beyond the configuration: what the chosen policy cannot
//! protect against stands beside what it does. Invariant: no secret appears, only how many there are.

use std::fmt::Write;
use std::time::Duration;

use crate::Loaded;
use crate::hooks::{HookEvent, OnFailure};
use crate::model::{
    Ack, CheckKind, Config, FailbackMode, GateChoice, Mode, Peer, PeerKind, Route, Rule, StandbyReads,
    TwoNode,
};
use crate::quantity::{show, show_size};
use crate::read_virtual_ip::MAIN_TABLE;
use crate::timers::{Derived, GateInUse};

/// The explanation, over several lines, with a line end at its end.
pub fn explain(loaded: &Loaded) -> String {
    let config = &loaded.config;
    let mut out = String::new();
    member(&mut out, config);
    voters(&mut out, config);
    peers(&mut out, config);
    addresses(&mut out, config);
    connections(&mut out, config);
    timers(&mut out, config);
    failback(&mut out, config);
    followers_of_the_role(&mut out, config);
    store(&mut out, config);
    checks(&mut out, config);
    fences(&mut out, config);
    limits(&mut out, config);
    if loaded.warnings.is_empty() {
        line(&mut out, "\nNo warnings.");
    } else {
        line(&mut out, format!("\nWarnings ({})", loaded.warnings.len()));
        for warning in &loaded.warnings {
            line(&mut out, format!("  {warning}"));
        }
    }
    out
}

fn line(out: &mut String, text: impl AsRef<str>) {
    out.push_str(text.as_ref());
    out.push('\n');
}

fn member(out: &mut String, config: &Config) {
    let role = match config.mode {
        Mode::Primary => "data member, preferred as primary at bootstrap",
        Mode::Replica => "data member, starts as standby",
        Mode::Witness => "witness: votes and remembers, holds no data and no address",
    };
    line(out, format!("Member {}: {role}", config.node_id));
    if config.mode != Mode::Witness {
        line(out, format!("  priority          {} (lower is preferred)", config.ha.priority));
        line(out, format!("  replication       {}", config.listen));
    }
    for path in &config.heartbeat_paths {
        line(out, format!("  heartbeats        {} (path {})", path.listen, path.name));
    }
    line(out, format!("  state             {}", config.state_dir.display()));
    let token = if config.api.token.is_some() { "with a token" } else { "without a token" };
    line(out, format!("  API               {} ({token})", config.api.listen));
    let former = match config.keys.previous.len() {
        0 => "no former ones accepted".to_owned(),
        n => format!("{n} former accepted, for the time of a rotation"),
    };
    line(out, format!("  shared secret     set, {former}"));
    if config.compression && config.mode != Mode::Witness {
        line(out, "  stream            compressed (LZ4) towards members that understand it");
    }
    if let Some(rate) = config.catch_up_rate_bytes.filter(|_| config.mode != Mode::Witness) {
        let what = "to a member that lacks much, beyond what is written meanwhile";
        line(out, format!("  catching up       {}/s at most {what}", show_size(rate)));
    }
    if let Ack::Local { sync_interval, batch_size } = config.ack {
        let batches = if sync_interval.is_zero() {
            "records are sent as they come".to_owned()
        } else {
            format!("sent after {} or with {batch_size} records", show(sync_interval))
        };
        line(out, format!("  writes            acknowledged by the primary's own disk alone; {batches}"));
    }
    if !config.ha.flight_recorder {
        line(out, "  flight recorder   off: nothing can be replayed after a failover");
    }
    if !config.ha.realtime {
        line(out, "  real time         off: a busy host may be late with heartbeats, and fail over for it");
    }
    if let Some(watchdog) = &config.ha.watchdog {
        let after = watchdog.timeout.as_secs();
        let text = format!(
            "  watchdog          {}: restarts this host when the agent stands still for {after} s",
            watchdog.device.display()
        );
        line(out, text);
    }
    if !config.ha.enabled {
        line(out, "  failover          only by an operator");
    }
}

fn voters(out: &mut String, config: &Config) {
    let voters = config.voters();
    let quorum = config.quorum();
    let meaning = match voters {
        1 => "nobody else votes".to_owned(),
        2 => "one alone has no majority, so `two_node` decides".to_owned(),
        _ => format!("{} may be lost and the rest still decides", voters - quorum),
    };
    line(out, format!("\nVoters: {voters}, quorum {quorum}: {meaning}"));
}

fn peers(out: &mut String, config: &Config) {
    for peer in &config.peers {
        let kind = match peer.kind {
            PeerKind::Data => "data",
            PeerKind::Witness => "witness",
        };
        let mut text = format!("  {kind:<8}{}", peer.host);
        for (path, address) in config.heartbeat_paths.iter().zip(&peer.heartbeat) {
            let _ = write!(text, "  heartbeats {address} ({})", path.name);
        }
        if let Some(replication) = peer.replication {
            let _ = write!(text, "  replication {replication}");
        }
        line(out, text);
        for path in config.heartbeat_paths.iter().skip(peer.heartbeat.len()) {
            line(out, format!("          not on path {}", path.name));
        }
    }
}

fn addresses(out: &mut String, config: &Config) {
    if config.mode == Mode::Witness {
        return;
    }
    line(out, "\nVirtual addresses");
    if config.ha.virtual_ips.is_empty() {
        line(out, "  none: clients must find the primary themselves (`/primary` of the API says who it is)");
    }
    for vip in &config.ha.virtual_ips {
        let probe = if vip.arp_ping { "probed before" } else { "not probed before" };
        let announce = if vip.gratuitous_arp { "announced after" } else { "not announced after" };
        line(out, format!("  {} on {}, {probe} and {announce} it is claimed", vip.address, vip.interface));
        if vip.gratuitous_arp {
            let refresh = match vip.garp_refresh {
                Some(refresh) => format!("then every {}", show(refresh)),
                None => "then only when something happens".to_owned(),
            };
            let interval = vip.garp_interval.map_or(String::new(), |time| format!(", {} apart", show(time)));
            line(out, format!("    announced {} times{interval}, {refresh}", vip.garp_repeat));
        }
        for route in &vip.routes {
            line(out, format!("    {}", route_words(route)));
        }
        for rule in &vip.rules {
            line(out, format!("    {}", rule_words(rule)));
        }
    }
    line(
        out,
        match config.ha.gate {
            GateChoice::Auto => {
                "  gate auto: eBPF where the kernel permits it, else nftables, else only the address's lifetime"
            }
            GateChoice::Ebpf => "  gate ebpf: the agent does not start without it",
            GateChoice::Nftables => {
                "  gate nftables: the agent does not start without it; failover takes one lease longer than \
                 with eBPF, whose deadline is absolute"
            }
            GateChoice::None => "  gate none: only the address's lifetime stands behind the agent",
        },
    );
}

/// What becomes of connections that pass through.
fn connections(out: &mut String, config: &Config) {
    let Some(sync) = config.ha.conntrack_sync.as_ref().filter(|_| config.mode != Mode::Witness) else {
        return;
    };
    let over = match &sync.interface {
        Some(interface) => {
            format!("over {interface} where the primary is reached there, else as it is routed")
        }
        None => "as the routes say".to_owned(),
    };
    line(out, "\nConnections through this host (conntrack_sync)");
    line(
        out,
        format!(
            "  carried over to the standby as they change, up to {}; compared every {}; {over}",
            sync.max_entries,
            show(sync.sync_interval)
        ),
    );
}

fn without(required: bool) -> &'static str {
    if required { "the address is not claimed without it" } else { "the address is claimed all the same" }
}

fn route_words(route: &Route) -> String {
    let to = if route.to.prefix_len() == 0 { "default".to_owned() } else { route.to.to_string() };
    let mut words = format!("with it the route {to}");
    if let Some(via) = route.via {
        let _ = write!(words, " via {via}");
    }
    if route.table != MAIN_TABLE {
        let _ = write!(words, " table {}", route.table);
    }
    if let Some(source) = route.source {
        let _ = write!(words, " src {source}");
    }
    if let Some(metric) = route.metric {
        let _ = write!(words, " metric {metric}");
    }
    format!("{words}; if it cannot be added, {}", without(route.required))
}

fn rule_words(rule: &Rule) -> String {
    let mut words = format!("with it the rule {}:", rule.priority);
    if let Some(from) = rule.from {
        let _ = write!(words, " from {from}");
    }
    if let Some(to) = rule.to {
        let _ = write!(words, " to {to}");
    }
    format!("{words} table {}; if it cannot be added, {}", rule.table, without(rule.required))
}

fn timers(out: &mut String, config: &Config) {
    let derived = Derived::expected(&config.ha);
    line(out, "\nTimers");
    let lease_from = if config.ha.lease_given.is_some() {
        "as written"
    } else if config.ha.failure_timeout.is_some() {
        "derived: failure_timeout"
    } else {
        "derived: interval x threshold"
    };
    let detect_from = if config.ha.failure_timeout.is_some() {
        "failure_timeout".to_owned()
    } else {
        format!("{} x {}", show(derived.interval), derived.threshold)
    };
    let mut row = |name: &str, value: String, why: &str| {
        line(out, format!("  {name:<18}{value:<12}{why}"));
    };
    row("interval", show(derived.interval), "between two heartbeats");
    row("detect", show(derived.detect), &format!("silence that counts as a failure ({detect_from})"));
    row(
        "lease",
        show(derived.lease),
        &format!("how long a primary serves without a majority ({lease_from})"),
    );
    row("drift margin", show(derived.drift_margin), "lease / 100 + 1ms, for clocks of different rates");
    row("voter wait", show(derived.voter_wait), "how long a voter refuses others after renewing a lease");
    row(
        "restart wait",
        show(derived.restart_wait),
        "how long a voter refuses everybody after its own restart",
    );
    row(
        "probe window",
        show(derived.probe_window),
        "for another holder of the address to answer, beside the promotion",
    );
    row("standby timeout", show(config.ha.standby_timeout), "how long a stalled standby may delay writes");
    if config.mode == Mode::Witness {
        return;
    }
    outage(out, "Outage after the loss of the primary", &derived);
    if config.ha.gate == GateChoice::Auto && !config.ha.virtual_ips.is_empty() {
        for (gate, where_it_is) in
            [(GateInUse::Nftables, "only the nftables gate"), (GateInUse::None, "no gate")]
        {
            let lesser = Derived::new(&config.ha, gate);
            line(
                out,
                format!(
                    "  where the kernel permits {where_it_is}: typical {}, worst {}",
                    show(lesser.typical_outage()),
                    show(lesser.worst_outage())
                ),
            );
        }
    }
}

fn outage(out: &mut String, title: &str, derived: &Derived) {
    line(out, format!("\n{title}"));
    line(out, format!("  {:<18}{:<12}{:<12}", "", "typical", "worst").trim_end());
    for part in &derived.outage {
        line(
            out,
            format!("  {:<18}{:<12}{:<12}{}", part.name, show(part.typical), show(part.worst), part.why),
        );
    }
    let (typical, worst) = (show(derived.typical_outage()), show(derived.worst_outage()));
    line(
        out,
        format!(
            "  {:<18}{typical:<12}{worst:<12}log replay left out: it depends on the standby's lag",
            "sum"
        ),
    );
}

fn failback(out: &mut String, config: &Config) {
    if config.mode == Mode::Witness {
        return;
    }
    let failback = &config.ha.failback;
    let text = match failback.mode {
        FailbackMode::Auto => {
            let window = match failback.window {
                Some(window) => format!("at most once in {}", show(window)),
                None => "as often as it comes to that".to_owned(),
            };
            format!(
                "auto: to the more preferred member once it is healthy and in sync for {}, {window}",
                show(failback.delay)
            )
        }
        FailbackMode::Manual => "manual: the role stays where it is until `holdfast ha failback`".to_owned(),
        FailbackMode::Disabled => "disabled: the role stays where it is".to_owned(),
    };
    line(out, format!("\nFailback {text}"));
}

/// What follows the primary from host to host besides the log.
fn replicated_files(out: &mut String, config: &Config) {
    if config.mode == Mode::Witness || config.sync_files.is_empty() {
        return;
    }
    line(out, "\nReplicated files (the primary's are carried to the standby)");
    for set in &config.sync_files {
        let paths: Vec<String> = set.paths.iter().map(|path| path.display().to_string()).collect();
        line(out, format!("  {:<16} {}", set.name, paths.join(", ")));
        let (most, size) = (set.max_files, show_size(set.max_file_bytes));
        line(out, format!("  {:<16} at most {most} files of {size} each; the rest is left out", ""));
        if let Some(command) = &set.on_change {
            line(out, format!("  {:<16} after a change on a standby: {}", "", command[0]));
        }
    }
}

/// What runs with the role, in the order of taking over and of giving up.
fn followers_of_the_role(out: &mut String, config: &Config) {
    let (hooks, services) = (&config.ha.hooks, &config.services);
    replicated_files(out, config);
    let takeovers: Vec<_> =
        config.sync_files.iter().filter_map(|set| Some((set, set.on_takeover.as_ref()?))).collect();
    if config.mode == Mode::Witness || hooks.is_empty() && services.is_empty() && takeovers.is_empty() {
        return;
    }
    let on = |event: HookEvent| hooks.iter().filter(move |hook| hook.on.contains(&event));
    let run = |out: &mut String, event: HookEvent| {
        for hook in on(event) {
            let veto = if hook.veto && event == HookEvent::PrePrimary { ", may veto" } else { "" };
            // Arguments may be what others should not see.
            let more = if hook.command.len() > 1 { " …" } else { "" };
            let (limit, program) = (show(hook.timeout), &hook.command[0]);
            line(out, format!("    hook {:<20} at most {limit}{veto}: {program}{more}", hook.name));
        }
    };
    line(out, "\nWith the role (hooks are killed at their limit)");
    line(out, "  taking over, the log complete and the address not here yet");
    run(out, HookEvent::PrePrimary);
    for (set, command) in &takeovers {
        let veto = if set.veto { ", may veto" } else { "" };
        let more = if command.len() > 1 { " …" } else { "" };
        let (limit, program) = (show(set.timeout), &command[0]);
        line(out, format!("    files {:<19} at most {limit}{veto}: {program}{more}", set.name));
    }
    for service in services {
        let failure = match service.on_failure {
            OnFailure::Ignore => "goes on without it",
            OnFailure::GiveUp => "leaves the role to another member if it fails",
        };
        let limit = show(service.start_timeout);
        line(out, format!("    start {:<19} at most {limit}: {}, {failure}", service.name, service.unit));
    }
    line(out, "  primary, with the address");
    run(out, HookEvent::Primary);
    line(out, "  handing over in a planned switchover, still with the address");
    run(out, HookEvent::PreStandby);
    line(out, "  giving up (after an unplanned loss the address goes first)");
    for service in services.iter().rev() {
        let limit = show(service.stop_timeout);
        line(out, format!("    stop {:<20} at most {limit}: {}", service.name, service.unit));
    }
    run(out, HookEvent::Fault);
    run(out, HookEvent::Standby);
    if on(HookEvent::Stop).next().is_some() {
        line(out, "  the agent ends");
        run(out, HookEvent::Stop);
    }
    let preparing: Duration = on(HookEvent::PrePrimary)
        .map(|hook| hook.timeout)
        .chain(services.iter().map(|service| service.start_timeout))
        .chain(takeovers.iter().map(|(set, _)| set.timeout))
        .sum();
    if !preparing.is_zero() {
        line(out, format!("  a takeover waits for them {} at most", show(preparing)));
    }
}

fn store(out: &mut String, config: &Config) {
    let Some(store) = &config.store else { return };
    let s3 = match (&store.root, &store.virtual_host_domain) {
        (None, _) => "S3 listener off: no credentials".to_owned(),
        (Some(root), None) => format!("S3 on {} as {:?}", store.listen, root.access_key),
        (Some(root), Some(domain)) => {
            format!("S3 on {} as {:?}, buckets also as hosts below {domain}", store.listen, root.access_key)
        }
    };
    line(out, format!("\nStore {s3}"));
    line(
        out,
        format!(
            "  data              {} (segments of {}, at most {} connections and {} for their bodies)",
            store.data_dir.display(),
            show_size(store.segment_size_bytes),
            store.max_connections,
            show_size(store.request_memory_bytes)
        ),
    );
    let space = if store.reclaim {
        format!(
            "won back from {} % of garbage on, at {}/s at most",
            store.reclaim_garbage_percent,
            show_size(store.reclaim_rate_bytes)
        )
    } else {
        "not won back: what is deleted stays on the disk until `holdfast store reclaim`".to_owned()
    };
    let scrub = match store.scrub_interval {
        Some(interval) => format!("the log is read through every {}", show(interval)),
        None => "the log is read through only when asked".to_owned(),
    };
    line(out, format!("  scrub             {scrub}, at {}/s at most", show_size(store.scrub_rate_bytes)));
    line(out, format!("  space             {space}"));
    let standby = match store.standby_reads {
        StandbyReads::Off => "sends clients on to the primary".to_owned(),
        StandbyReads::HandOn => "hands requests on to the primary".to_owned(),
        StandbyReads::Bounded if store.standby_staleness.is_zero() => {
            "answers reads, as new as at the primary; hands on the rest".to_owned()
        }
        StandbyReads::Bounded => {
            format!("answers reads, at most {} old; hands on the rest", show(store.standby_staleness))
        }
    };
    line(out, format!("  as standby        {standby}"));
    match store.encryption_keys.len() {
        0 => line(
            out,
            "  at rest           in the clear: `encryption_key_file` encrypts what is stored from then on",
        ),
        1 => line(
            out,
            "  at rest           AES-256-GCM with the key of `encryption_key_file`: without it nothing can be read",
        ),
        n => line(
            out,
            format!(
                "  at rest           AES-256-GCM with the first of {n} keys; the others only open what is there"
            ),
        ),
    }
    for webhook in &store.webhooks {
        line(
            out,
            format!("  events            to {} as arn:holdfast:sqs::{}:webhook", webhook.url, webhook.name),
        );
    }
}

fn checks(out: &mut String, config: &Config) {
    if config.mode == Mode::Witness {
        return;
    }
    line(out, "\nChecks: a primary hands over to a member that is in sync and has less against it");
    if let Some(store) = &config.store {
        let what = format!("disk: a write that is not durable within {}", show(store.disk_timeout));
        line(out, format!("  {what}, here or below `state_dir`, ends the role"));
    }
    for check in &config.checks {
        let counts = match check.weight {
            None => "counts more than all weights".to_owned(),
            Some(weight) => format!("counts {weight}"),
        };
        line(
            out,
            format!(
                "  {}: {}, every {} within {}, down after {}, up after {}, {counts}",
                check.name,
                looks_at(&check.kind),
                show(check.interval),
                show(check.timeout),
                check.fall,
                check.rise
            ),
        );
    }
    if config.checks.is_empty() {
        line(out, "  no `check` blocks: beyond disk and links, a member that is heard counts as healthy");
    }
}

fn looks_at(kind: &CheckKind) -> String {
    match kind {
        CheckKind::Exec(argv) => format!("{} exits with 0", argv[0]),
        CheckKind::Tcp(address) => format!("{address} takes a connection"),
        CheckKind::Http { url, status } => format!("{url} answers {} to {}", status.start(), status.end()),
        CheckKind::File { path, max_age: None } => format!("{} exists", path.display()),
        CheckKind::File { path, max_age: Some(age) } => {
            format!("{} is not older than {}", path.display(), show(*age))
        }
        CheckKind::Process(name) => format!("a process {name:?} runs"),
        CheckKind::Pidfile(path) => format!("the process of {} runs", path.display()),
        CheckKind::Unit(unit) => format!("systemd unit {unit} is active"),
    }
}

/// Who can be switched off by what, and how much longer a takeover takes for it.
fn fences(out: &mut String, config: &Config) {
    let targets = config.fence_targets();
    if config.mode == Mode::Witness || targets.is_empty() {
        return;
    }
    line(
        out,
        "\nFencing: a primary that vanished without letting go is switched off before another one serves",
    );
    for member in &targets {
        for level in config.fence_levels(member) {
            for device in level {
                let plug = device.target(member).and_then(|target| target.plug.as_ref());
                let plug = plug.map_or_else(String::new, |plug| format!(", plug {plug:?}"));
                let then = match (device.verify, device.reboot) {
                    (true, false) => "off, then asked whether it is",
                    (true, true) => "off, then asked whether it is, then on again",
                    (false, false) => "off, and believed",
                    (false, true) => "off, and believed, then on again",
                };
                line(
                    out,
                    format!(
                        "  {member} by {} (level {}): {}{plug}: {then}; each run at most {}, {} tries, looked at every {}",
                        device.name,
                        device.level,
                        device.agent.display(),
                        show(device.timeout),
                        device.retries + 1,
                        show(device.monitor_interval)
                    ),
                );
            }
        }
    }
    let longest = targets.iter().map(|member| config.fence_limit(member)).max().unwrap_or_default();
    let pair = config.is_two_node() && config.ha.two_node == TwoNode::Fence;
    let head_start = if pair { config.fence_head_start() } else { Duration::ZERO };
    if !head_start.is_zero() {
        line(
            out,
            format!(
                "  a standby waits {} before it shoots, so that the primary is the first",
                show(head_start)
            ),
        );
    }
    line(
        out,
        format!(
            "  added to the outage: what the device takes, {} at most for each time that everything is tried",
            show(longest + head_start)
        ),
    );
    let failed = match (config.ha.fencing_required || pair, pair) {
        (true, true) => {
            "  if none works: nobody takes over and nothing is acknowledged alone; it is tried again, and `holdfast ha fence-confirmed` says it instead"
        }
        (true, false) => {
            "  if none works: another member is let try, and it is tried again; `holdfast ha fence-confirmed` says it instead"
        }
        (false, _) => "  if none works: the takeover goes on all the same (`fencing = \"preferred\"`)",
    };
    line(out, failed);
}

/// What the chosen policy protects against, and what it cannot.
fn limits(out: &mut String, config: &Config) {
    line(out, "\nWhat this protects against, and what it cannot");
    let mut say = |text: &str| line(out, format!("  - {text}"));
    let voters = config.voters();
    if voters == 1 {
        say(
            "Nothing: this member is alone. Its loss stops the service, and the loss of its disk loses the data.",
        );
        return;
    }
    if config.is_two_node() {
        match config.ha.two_node {
            TwoNode::Probe => probe_limits(config, &mut say),
            TwoNode::Fence => {
                say(
                    "Two voters, policy fence: neither has a majority alone, so whoever goes on alone first has the other \
                     one switched off, and waits until a device says that it is. A cut cable leaves one of them.",
                );
                say(
                    "Not protected: the service itself, while no device can be reached. The standby does not take over, \
                     and the primary acknowledges no write, until one answers or an operator says `holdfast ha \
                     fence-confirmed`.",
                );
                say(
                    "Whoever was switched off waits for the other one when it is on again: both must be there before \
                     either can lose the other anew.",
                );
            }
            TwoNode::Manual => {
                say(
                    "Two voters, policy manual: no member takes over by itself, so no partition makes two primaries.",
                );
                say(
                    "Not protected: the service itself. After the loss of the primary the standby waits for an \
                     operator, who must know that the other one is gone: `holdfast ha promote`.",
                );
                say("A witness on any third machine (`witness_addrs`) would make this automatic and safe.");
            }
        }
    } else {
        let survive = voters - config.quorum();
        match survive {
            1 => say("Any one failure of a member or of its network is survived: the other voters decide."),
            n => say(&format!(
                "Any {n} failures of members or of their networks are survived: the others decide."
            )),
        }
        say(&format!(
            "Loss of {} voters at once stops the service until one of them is back, rather than risk two primaries.",
            survive + 1
        ));
    }
    match config.peers.iter().filter(|peer| is_data(peer)).count() + usize::from(config.mode != Mode::Witness)
    {
        0 => {}
        1 => say("Only one member holds the data: its disk is the only copy."),
        _ => {
            say("While a standby is out of the in-sync set, new writes are on the primary's disk alone. \
                 If that is lost as well, they are lost, and no other member takes over by itself.");
        }
    }
    say("Whoever knows the shared secret can act as a member.");
}

fn is_data(peer: &Peer) -> bool {
    peer.kind == PeerKind::Data
}

fn probe_limits(config: &Config, say: &mut impl FnMut(&str)) {
    say(
        "Two voters, policy probe: neither has a majority alone, so the survivor takes over when every heartbeat \
         path is silent, its own links and gateways are good and nobody answers for the virtual address.",
    );
    say(
        "Not protected: a partition in which both lose the heartbeats and the address's own network is split as \
         well. Then both serve, each to the clients on its side.",
    );
    say(
        "After that, the divergence is found by epochs: one side's writes win, and what was acknowledged on the \
         losing side is set aside in an archive, never dropped in silence, but no longer in the store.",
    );
    if config.ha.monitor_gateways.is_empty() {
        say(
            "No `monitor_gateways`: a member that is cut off beyond its own switch cannot tell. Name the gateway.",
        );
    }
    if config.ha.monitor_links.is_empty() {
        say("No `monitor_links`: only the interfaces of the virtual addresses are watched.");
    }
    if config.heartbeat_paths.len() == 1 {
        say(
            "One heartbeat path only: a second cable (`heartbeat_path`) makes that partition far less likely.",
        );
    }
    say("A witness on any third machine (`witness_addrs`) rules it out.");
}
