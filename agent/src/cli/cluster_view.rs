//! `holdfast ha cluster`: all members in one table, and each heartbeat path below it.

use super::paint::Paint;
use super::status_view::spoken;
use super::words::{duration, grouped, list, printable, round_trip, table};
use crate::api::{Cluster, ClusterMember};

/// The whole view, with its line end.
pub(super) fn render(cluster: &Cluster, paint: Paint) -> String {
    let primary = match &cluster.primary {
        Some(primary) => format!("primary {}, epoch {}", printable(primary), cluster.epoch),
        None => paint.bad(&format!("NO PRIMARY, epoch {}", cluster.epoch)),
    };
    let mut out = format!(
        "{primary}; in sync: {}{}; {}\nas {} sees it\n\n",
        printable(&list(&cluster.in_sync)),
        if cluster.solo { paint.warn(" (solo)") } else { String::new() },
        printable(&cluster.policy),
        printable(&cluster.seen_by),
    );
    let mut rows = vec![
        ["MEMBER", "KIND", "ROLE", "PRIORITY", "EPOCH", "IN SYNC", "HEARD"]
            .map(|head| paint.dim(head))
            .to_vec(),
    ];
    rows.extend(cluster.members.iter().map(|member| row(member, paint)));
    out.push_str(&table(&rows, ""));
    let mut rows = vec![
        ["PATH", "TO", "ADDRESS", "STATE", "ROUND TRIP", "SENT", "RECEIVED", "UNHEARD"]
            .map(|head| paint.dim(head))
            .to_vec(),
    ];
    for member in &cluster.members {
        rows.extend(member.paths.iter().map(|path| {
            vec![
                printable(&path.name),
                printable(&member.id),
                printable(&path.address),
                if path.alive { "alive".to_owned() } else { paint.bad("DEAD") },
                path.rtt_us.map_or_else(|| "-".to_owned(), round_trip),
                grouped(path.sent),
                grouped(path.received),
                grouped(path.unproven),
            ]
        }));
    }
    if rows.len() > 1 {
        out.push('\n');
        out.push_str(&table(&rows, ""));
    }
    out
}

fn row(member: &ClusterMember, paint: Paint) -> Vec<String> {
    let unknown = || "?".to_owned();
    let heard = match (member.is_self, member.alive, member.last_heard_ms) {
        (true, _, _) => "this member".to_owned(),
        (_, true, Some(ms)) => format!("{} ago", duration(ms)),
        (_, true, None) => "yes".to_owned(),
        (_, false, Some(ms)) => paint.bad(&format!("SILENT for {}", duration(ms))),
        (_, false, None) => paint.bad("NEVER"),
    };
    let data = member.kind == "data";
    vec![
        printable(&member.id),
        member.kind.clone(),
        match (&member.role, member.alive) {
            (None, _) => unknown(),
            (Some(role), true) => spoken(role),
            (Some(role), false) => format!("was {}", spoken(role)),
        },
        if data {
            member.priority.map_or_else(unknown, |priority| priority.to_string())
        } else {
            "-".to_owned()
        },
        member.epoch.map_or_else(unknown, |epoch| epoch.to_string()),
        match (data, member.in_sync) {
            (true, false) if member.drained => paint.warn("no, drained"),
            (true, true) => "yes".to_owned(),
            (true, false) => paint.warn("no"),
            (false, _) => "-".to_owned(),
        },
        heard,
    ]
}
