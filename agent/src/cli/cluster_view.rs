//! `holdfast ha cluster`: all members in one table, each heartbeat path below it, and who hears whom.

use holdfast_heartbeat::Loss;

use super::paint::Paint;
use super::status_view::spoken;
use super::words::{duration, grouped, list, printable, round_trip, table};
use crate::api::{Cluster, ClusterMember};

/// What is said of each member.
const HEAD: [&str; 7] = ["MEMBER", "KIND", "ROLE", "PRIORITY", "EPOCH", "IN SYNC", "HEARD"];

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
    let mut rows = vec![HEAD.map(|head| paint.dim(head)).to_vec()];
    rows.extend(cluster.members.iter().map(|member| row(member, paint)));
    out.push_str(&table(&rows, ""));
    let rows = paths(&cluster.members, paint);
    if rows.len() > 1 {
        out.push('\n');
        out.push_str(&table(&rows, ""));
        out.push('\n');
        out.push_str(&table(&matrix(cluster, paint), ""));
    }
    out
}

/// `holdfast ha members show`: one member, and its heartbeat paths.
pub(super) fn member(member: &ClusterMember, paint: Paint) -> String {
    let with_vote = |mut cells: Vec<String>, vote: String| {
        cells.insert(2, vote);
        cells
    };
    let vote = if member.vote { "yes".to_owned() } else { paint.warn("no") };
    let head = HEAD.map(|head| paint.dim(head)).to_vec();
    let mut out = table(&[with_vote(head, paint.dim("VOTE")), with_vote(row(member, paint), vote)], "");
    let rows = paths(std::slice::from_ref(member), paint);
    if rows.len() > 1 {
        out.push('\n');
        out.push_str(&table(&rows, ""));
    }
    out
}

/// The heartbeat paths to each, below their head.
fn paths(members: &[ClusterMember], paint: Paint) -> Vec<Vec<String>> {
    let mut rows = vec![
        [
            "PATH",
            "TO",
            "ADDRESS",
            "STATE",
            "ROUND TRIP",
            "LONGEST",
            "LOST IN",
            "LOST OUT",
            "SENT",
            "RECEIVED",
        ]
        .map(|head| paint.dim(head))
        .to_vec(),
    ];
    for member in members {
        rows.extend(member.paths.iter().map(|path| {
            vec![
                printable(&path.name),
                printable(&member.id),
                printable(&path.address),
                match (path.alive, path.reaches.filter(|_| member.alive)) {
                    (true, Some(false)) => paint.bad("ONE WAY (to here)"),
                    (false, Some(true)) => paint.bad("ONE WAY (from here)"),
                    (true, _) => "alive".to_owned(),
                    (false, _) => paint.bad("DEAD"),
                },
                path.rtt_us.map_or_else(|| "-".to_owned(), round_trip),
                path.rtt_longest_us.map_or_else(|| "-".to_owned(), round_trip),
                lost(path.lost_here, path.alive),
                lost(path.lost_there, path.reaches != Some(false)),
                grouped(path.sent),
                grouped(path.received),
            ]
        }));
    }
    rows
}

/// `holdfast ha members`: who has a vote, and who is here without one.
pub(super) fn members(cluster: &Cluster, paint: Paint) -> String {
    let mut rows = vec![["MEMBER", "KIND", "VOTE", "IN SYNC", "HEARD"].map(|head| paint.dim(head)).to_vec()];
    let heard = |member: &ClusterMember| row(member, paint).pop().unwrap_or_default();
    rows.extend(cluster.members.iter().map(|member| {
        vec![
            printable(&member.id),
            member.kind.clone(),
            if member.vote { "yes".to_owned() } else { paint.warn("no") },
            match (member.kind == "data", member.in_sync) {
                (true, true) => "yes".to_owned(),
                (true, false) => paint.warn("no"),
                (false, _) => "-".to_owned(),
            },
            heard(member),
        ]
    }));
    // Whose vote counts although the configuration names them no more, or whose name was not heard yet.
    let shown = |id: &&String| !cluster.members.iter().any(|member| member.id == **id);
    rows.extend(cluster.voters.iter().filter(shown).map(|id| {
        vec![
            printable(id),
            "?".to_owned(),
            "yes".to_owned(),
            "-".to_owned(),
            paint.bad("NOT CONFIGURED HERE"),
        ]
    }));
    format!("{}\n\n{}", printable(&cluster.policy), table(&rows, ""))
}

/// What was lost in one direction in the last minute.
fn lost(loss: Option<Loss>, carries: bool) -> String {
    match loss.filter(|_| carries) {
        Some(loss) => format!("{:.1} %", loss.percent()),
        None => "-".to_owned(),
    }
}

/// Who hears whom: a row for each member that hears, a column for each that is heard.
fn matrix(cluster: &Cluster, paint: Paint) -> Vec<Vec<String>> {
    let mut head = vec![paint.dim("HEARS")];
    head.extend(cluster.members.iter().map(|member| paint.dim(&printable(&member.id))));
    let mut rows = vec![head];
    for member in &cluster.members {
        let mut row = vec![printable(&member.id)];
        for other in &cluster.members {
            let hearing = member.hears.iter().find(|hearing| hearing.member == other.id);
            row.push(match hearing {
                _ if member.id == other.id => "-".to_owned(),
                // What a silent member said last is not what is now.
                None => "?".to_owned(),
                Some(_) if !member.alive => "?".to_owned(),
                Some(hearing) if hearing.by.is_empty() => paint.bad("NO"),
                Some(hearing) if hearing.not_by.is_empty() => printable(&hearing.by.join(" ")),
                Some(hearing) => paint.warn(&printable(&format!(
                    "{}, not {}",
                    hearing.by.join(" "),
                    hearing.not_by.join(" ")
                ))),
            });
        }
        rows.push(row);
    }
    rows
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
