//! `holdfast ha status` for a person at three in the morning: the verdict first, then where this member
//! stands, whom it hears, and last what is wrong with what to do about it.
//!
//! Pure: a snapshot in, text out. What to do is derived from the snapshot's facts, never from its words.

use super::paint::Paint;
use super::words::{self, duration, grouped, list, printable, table};
use crate::runtime::checks::CheckStatus;
use crate::runtime::secrets::describe;
use crate::runtime::status::{PeerStatus, Status};

/// The whole view, with its line end.
pub(crate) fn render(status: &Status, paint: Paint) -> String {
    let mut out = verdict(status, paint);
    if let Some(paused) = &status.paused {
        let by = paused.by.as_deref().map_or_else(String::new, |by| format!(", ordered on {by}"));
        let since = paused.since.replacen('T', " ", 1);
        let text = format!("PAUSED since {since}{by}: nobody takes over by itself.");
        out.push('\n');
        out.push_str(&paint.warn(&printable(&text)));
    }
    if status.drained {
        out.push('\n');
        out.push_str(&paint.warn("DRAINED: this member is taken out for maintenance."));
    }
    out.push_str("\n\n");
    out.push_str(&table(&member(status, paint), ""));
    if !status.peers.is_empty() {
        out.push('\n');
        out.push_str(&table(&peers(&status.peers, paint), ""));
    }
    if !status.checks.is_empty() {
        out.push('\n');
        out.push_str(&table(&checks(&status.checks, paint), ""));
    }
    if let Some(exposure) = &status.exposure {
        out.push_str(&format!("\nWhat this set-up cannot protect against: {}\n", printable(exposure)));
    }
    if !status.warnings.is_empty() {
        out.push_str("\nWarnings\n");
        for warning in &status.warnings {
            out.push_str(&format!("  {} {}\n", paint.warn("!"), printable(warning)));
        }
    }
    let advice = advice(status);
    if !advice.is_empty() {
        out.push_str("\nWhat to do\n");
        for step in advice {
            out.push_str(&format!("  > {}\n", printable(&step)));
        }
    }
    out
}

fn verdict(status: &Status, paint: Paint) -> String {
    let Some(primary) = &status.primary else {
        let mut text = paint.bad("NO PRIMARY: nobody serves, as far as this member knows.");
        if let Some(why) = &status.waiting_for {
            text.push_str(&format!("\nWaiting: {}", printable(why)));
        }
        return text;
    };
    let who = if *primary != status.node {
        format!("{primary} is primary in epoch {}", status.epoch)
    } else if status.serving {
        format!("{primary} (this host) is primary and serves, epoch {}", status.epoch)
    } else {
        format!(
            "{primary} (this host) is {} and does not serve now, epoch {}",
            spoken(&status.role),
            status.epoch
        )
    };
    let who = printable(&who);
    if status.healthy {
        paint.good(&format!("All is well: {who}."))
    } else {
        paint.warn(&format!("Needs attention: {who}."))
    }
}

fn member(status: &Status, paint: Paint) -> Vec<Vec<String>> {
    // A witness has no address to guard, no log, and nobody prefers it.
    let data = status.kind == "data";
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |key: &str, value: String| rows.push(vec![key.to_owned(), value]);
    row(
        "this member",
        format!(
            "{} ({}), {} for {}{}",
            printable(&status.node),
            status.kind,
            spoken(&status.role),
            duration(status.role_since_ms),
            if data { priority(status) } else { String::new() }
        ),
    );
    if let Some(ms) = status.lease_remaining_ms {
        row("lease", if ms == 0 { paint.bad("lapsed") } else { format!("{} left", duration(ms)) });
    }
    let in_sync = printable(&list(&status.in_sync));
    row("in sync", if status.solo { paint.warn(&format!("{in_sync} (solo)")) } else { in_sync });
    for vip in &status.vips {
        let held = match (vip.held, status.role == "primary") {
            (true, _) => "held here".to_owned(),
            (false, true) => paint.bad("NOT held"),
            (false, false) => "not here".to_owned(),
        };
        row("virtual IP", format!("{} on {}: {held}", printable(&vip.address), printable(&vip.interface)));
    }
    for service in &status.services {
        let runs = matches!(service.state.as_str(), "active" | "reloading" | "refreshing");
        let state = match (service.wanted, runs, service.problem.is_some()) {
            (true, true, _) => "runs here".to_owned(),
            (false, false, false) => "not here".to_owned(),
            _ => paint.warn(&printable(&service.state)),
        };
        row("service", format!("{} ({}): {state}", printable(&service.name), printable(&service.unit)));
    }
    if let Some(conntrack) = &status.conntrack {
        let lag = conntrack.lag_ms.map_or_else(String::new, |ms| format!(", the last changes {ms} ms late"));
        let state = match (conntrack.state.as_str(), conntrack.askers) {
            ("", 0) => paint.warn("no standby is told of them"),
            ("", 1) => "told to a standby".to_owned(),
            ("", standbys) => format!("told to {standbys} standbys"),
            (state, _) => printable(state),
        };
        let entries = format!("{} of at most {}", grouped(conntrack.entries), grouped(conntrack.max_entries));
        row("connections", format!("{entries}, {state}{lag}"));
    }
    for device in &status.fences {
        let looked =
            device.looked_ms_ago.map_or_else(String::new, |ms| format!(", looked at {} ago", duration(ms)));
        let state = match device.state.as_str() {
            "silent" => paint.bad("DOES NOT ANSWER"),
            "switching" => paint.warn(&printable(device.last.as_deref().unwrap_or("switching"))),
            state => printable(state),
        };
        let last = device.last.as_deref().filter(|_| device.state != "switching");
        let last = last.map_or_else(String::new, |last| format!("; last order: {}", printable(last)));
        let members = printable(&list(&device.members));
        row("fence device", format!("{} for {members}: {state}{looked}{last}", printable(&device.name)));
    }
    if let Some(endpoint) = &status.endpoint {
        row("S3", printable(endpoint));
    }
    if data {
        let gate = printable(&status.gate);
        row(
            "gate",
            match &status.gate_fallback {
                Some(why) => format!("{} ({})", paint.warn(&gate), printable(why)),
                None => gate,
            },
        );
    }
    if !status.realtime.is_empty() {
        let late = status.lateness.longest_us as f64 / 1e3;
        row("real time", format!("{}; at most {late:.1} ms late lately", printable(&status.realtime)));
    }
    if !status.keys.is_empty() {
        row("keys", printable(&describe(&status.keys)));
    }
    if let Some(disk) = &status.disk {
        let good = format!("takes writes in time (the last within {})", duration(disk.last_write_ms));
        row("disk", if disk.good { good } else { paint.bad(&printable(&disk.detail)) });
    }
    row("policy", printable(&status.policy));
    if data {
        let switch = match (status.failback_mode.as_str(), status.failback_enabled) {
            ("auto", false) => paint.warn("auto, switched off until the agent restarts"),
            (mode, _) => printable(mode),
        };
        row("failback", switch);
        row(
            "log",
            format!(
                "end {}, durable {}, committed {}, applied {}",
                grouped(status.end_lsn),
                grouped(status.durable_lsn),
                grouped(status.committed_lsn),
                grouped(status.applied_lsn)
            ),
        );
    }
    row("version", printable(&status.version));
    rows
}

/// How much this member is preferred, and by what.
fn priority(status: &Status) -> String {
    match status.configured_priority {
        Some(configured) => {
            format!(", priority {} until the agent restarts (configured: {configured})", status.priority)
        }
        None => format!(", priority {}", status.priority),
    }
}

fn peers(peers: &[PeerStatus], paint: Paint) -> Vec<Vec<String>> {
    let mut rows = vec![
        ["PEER", "KIND", "ROLE", "EPOCH", "IN SYNC", "HEARD", "PATHS"].map(|head| paint.dim(head)).to_vec(),
    ];
    for peer in peers {
        let heard = match (peer.alive, peer.last_heard_ms) {
            (true, Some(ms)) => format!("{} ago", duration(ms)),
            (true, None) => "yes".to_owned(),
            (false, Some(ms)) => paint.bad(&format!("SILENT for {}", duration(ms))),
            (false, None) => paint.bad("NEVER"),
        };
        let in_sync = match (peer.kind.as_str(), peer.in_sync) {
            ("data", false) if peer.drained => paint.warn("no, drained"),
            ("data", true) => "yes".to_owned(),
            ("data", false) => paint.warn("no"),
            _ => "-".to_owned(),
        };
        rows.push(vec![
            printable(&peer.id),
            peer.kind.clone(),
            match (&peer.role, peer.alive) {
                (None, _) => "?".to_owned(),
                (Some(role), true) => spoken(role),
                // The last thing that was heard of it is not what it is now.
                (Some(role), false) => format!("was {}", spoken(role)),
            },
            peer.epoch.map_or_else(|| "?".to_owned(), |epoch| epoch.to_string()),
            in_sync,
            heard,
            paths(peer, paint),
        ]);
    }
    rows
}

fn checks(checks: &[CheckStatus], paint: Paint) -> Vec<Vec<String>> {
    let mut rows =
        vec![["CHECK", "STATE", "SINCE", "COUNTS", "LAST RUN"].map(|head| paint.dim(head)).to_vec()];
    for check in checks {
        rows.push(vec![
            printable(&check.name),
            match check.state.as_str() {
                "failing" => paint.bad("FAILING"),
                state => printable(state),
            },
            duration(check.since_ms),
            check.weight.map_or_else(|| "most".to_owned(), |weight| weight.to_string()),
            printable(&check.last),
        ]);
    }
    rows
}

/// Each path with its round trip, if one was measured, or that it is dead.
pub(super) fn paths(peer: &PeerStatus, paint: Paint) -> String {
    let path = |path: &crate::runtime::status::PathStatus| {
        let name = printable(&path.name);
        match (path.alive, path.reaches.filter(|_| peer.alive), path.rtt_us) {
            (true, Some(false), _) => paint.bad(&format!("{name} ONE WAY (to here)")),
            (false, Some(true), _) => paint.bad(&format!("{name} ONE WAY (from here)")),
            (true, _, Some(us)) => format!("{name} {}", words::round_trip(us)),
            (true, _, None) => name,
            (false, _, _) => paint.bad(&format!("{name} DEAD")),
        }
    };
    peer.paths.iter().map(path).collect::<Vec<_>>().join(", ")
}

/// A role as people say it.
pub(super) fn spoken(role: &str) -> String {
    printable(&role.replace('_', " "))
}

/// The next steps, the most urgent first.
fn advice(status: &Status) -> Vec<String> {
    let mut steps = Vec::new();
    if status.paused.is_some() {
        steps.push(match status.primary {
            Some(_) => "when the work is done, on any member: `holdfast ha resume`".to_owned(),
            None => "to let the members elect a primary, on any member: `holdfast ha resume`; to choose one, on a member that `in sync` lists: `holdfast ha promote`".to_owned(),
        });
    }
    if status.drained {
        steps.push("when the work on this host is done, here: `holdfast ha resume`".to_owned());
    }
    for peer in status.peers.iter().filter(|peer| peer.drained) {
        steps.push(format!("when the work on {0} is done, on {0}: `holdfast ha resume`", peer.id));
    }
    for peer in status.peers.iter().filter(|peer| !peer.alive) {
        if peer.paths.iter().any(|path| path.unproven > path.received) {
            steps.push(format!(
                "{}: its heartbeats arrive, ours do not; look for a firewall or route that stops UDP from here to {}",
                peer.id,
                addresses(peer)
            ));
        } else {
            steps.push(format!(
                "{}: is the host up, and its agent (`systemctl status holdfast` there)? Heartbeats are UDP to {}",
                peer.id,
                addresses(peer)
            ));
        }
    }
    for peer in status.peers.iter().filter(|peer| peer.alive) {
        for path in peer.paths.iter().filter(|path| !path.alive || path.reaches == Some(false)) {
            steps.push(format!(
                "path {} to {}: check the cable, the switch and the address {}; the other paths carry on meanwhile",
                path.name, peer.id, path.address
            ));
        }
    }
    for check in status.checks.iter().filter(|check| check.state == "failing") {
        steps.push(format!(
            "check {}: mend what it looks at on this host; it last said: {}",
            check.name, check.last
        ));
    }
    for peer in status.peers.iter().filter(|peer| peer.alive && peer.penalty > 0) {
        steps.push(format!("{0}: which check fails, says `holdfast ha status` on {0}", peer.id));
    }
    for device in status.fences.iter().filter(|device| device.state == "silent") {
        steps.push(format!(
            "fence device {}: mend it before it is needed; is its controller reached from here, with the user and password of the configuration? Run {} by hand",
            device.name, device.agent
        ));
    }
    if status.disk.as_ref().is_some_and(|disk| !disk.good) {
        steps.push("look for the disk's errors in the kernel's log: `journalctl -k`".to_owned());
    }
    // Whoever is out for maintenance is known to be missing.
    let out = status.drained || status.peers.iter().any(|peer| peer.drained);
    if status.solo && status.primary.is_some() && !out {
        let whom = status.primary.as_deref().unwrap_or_default();
        steps.push(format!(
            "a standby has to catch up before {whom} can fail over; its progress: `holdfast replication status` on {whom}"
        ));
    }
    let unheld = status.vips.iter().filter(|vip| !vip.held && status.role == "primary" && status.serving);
    for vip in unheld {
        steps.push(format!(
            "{} is not on {}; `holdfast ha history` says what the claim ran into",
            vip.address, vip.interface
        ));
    }
    if status.primary.is_none() && status.kind == "data" {
        steps.push("what led here: `holdfast ha history`, on each member".to_owned());
    }
    let dropped = |reason: &str| status.counters.heartbeat_dropped.get(reason).copied().unwrap_or(0);
    if dropped("unknown_key") + dropped("bad_mac") > 0 && status.peers.iter().any(|peer| !peer.alive) {
        steps.push(
            "heartbeats signed with another key arrive: compare `secret_key` on the members".to_owned(),
        );
    }
    steps
}

fn addresses(peer: &PeerStatus) -> String {
    let addresses: Vec<_> = peer.paths.iter().map(|path| path.address.clone()).collect();
    list(&addresses)
}
