//! `holdfast replication status` and `stats`: the log, its streams, and what was set aside.

use serde::Deserialize;

use super::archives_view;
use super::paint::Paint;
use super::words::{bar, bytes, duration, grouped, printable, table};
use crate::api::ReplicationStats;
use crate::runtime::files::{FilesStatus, SetStatus};
use crate::runtime::resync::ResyncStatus;
use crate::runtime::resync::steps::Fate;
use crate::runtime::sameness::{Range, Sameness};

/// What the view looks at of `GET /api/replication/status`. Every field may be missing: an agent of
/// another version is better shown in part than not at all.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct LogStatus {
    role: String,
    epoch: Option<u64>,
    promised_epoch: u64,
    leader: Option<Member>,
    log_id: Option<String>,
    end: u64,
    durable: u64,
    committed: u64,
    applied: u64,
    segments: u64,
    history: Vec<(u64, u64)>,
    peers: Vec<Peer>,
    exposure: Option<Exposure>,
    sameness: Option<Sameness>,
    streaming: bool,
    catch_up: Option<CatchUp>,
    resync: ResyncStatus,
    pending: u64,
    set_aside: Vec<archives_view::Entry>,
    damaged: Option<Damage>,
    failure: Option<String>,
    files: Option<FilesStatus>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Member {
    id: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Peer {
    member: Member,
    streaming: bool,
    in_wait_set: bool,
    durable: Option<u64>,
    lag_bytes: u64,
    lag_ms: Option<u64>,
    catch_up: Option<CatchUp>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct CatchUp {
    received_bytes: u64,
    remaining_bytes: u64,
    percent: u64,
    bytes_per_second: u64,
    seconds_left: Option<u64>,
    limit_bytes_per_second: Option<u64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Exposure {
    bytes: u64,
    ms: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Damage {
    lsn: u64,
    detail: String,
}

/// The whole view, with its line end.
pub(super) fn status(log: &LogStatus, paint: Paint) -> String {
    let mut out = verdict(log, paint);
    out.push_str("\n\n");
    let positions =
        [("end", log.end), ("durable", log.durable), ("committed", log.committed), ("applied", log.applied)];
    let mut rows: Vec<Vec<String>> =
        positions.iter().map(|(key, lsn)| vec![(*key).to_owned(), grouped(*lsn)]).collect();
    let mut row = |key: &str, value: String| rows.push(vec![key.to_owned(), value]);
    row(
        "log",
        format!(
            "{}, {} segment file(s)",
            log.log_id.as_deref().map_or_else(|| "not founded yet".to_owned(), printable),
            log.segments
        ),
    );
    if let Some(exposure) = &log.exposure {
        let text = format!(
            "{}: acknowledged, and lost if this member is lost now (ack = \"local\")",
            amount(exposure.bytes, Some(exposure.ms))
        );
        row("exposure", if exposure.bytes == 0 { text } else { paint.warn(&text) });
    }
    row("waiting", format!("{} writes", grouped(log.pending)));
    let reigns: Vec<_> = log
        .history
        .iter()
        .rev()
        .take(3)
        .map(|(epoch, lsn)| format!("epoch {epoch} from {}", grouped(*lsn)))
        .collect();
    if !reigns.is_empty() {
        row("reigns", reigns.join(", "));
    }
    row("promised", format!("epoch {}", log.promised_epoch));
    out.push_str(&table(&rows, ""));
    if !log.peers.is_empty() {
        out.push('\n');
        out.push_str(&table(&peers(log, paint), ""));
    }
    out.push_str(&catching_up(log, paint));
    if let Some(sameness) = &log.sameness {
        out.push_str(&compared(log, sameness, paint));
    }
    if !log.set_aside.is_empty() {
        out.push_str("\nSet aside: cut from the log, kept as archives in its directory `set-aside`\n");
        out.push_str(&archives_view::entries(&log.set_aside, paint));
    }
    if let Some(files) = &log.files {
        out.push_str(&replicated_files(files, paint));
    }
    if let Some(damage) = &log.damaged {
        let what = format!(
            "the disk gave back other bytes than were written at LSN {}: {}",
            grouped(damage.lsn),
            printable(&damage.detail)
        );
        out.push_str(&format!("\n{}\n", paint.bad(&what)));
    }
    out
}

/// Who lacks much, and how far it is; and whose copy begins anew.
fn catching_up(log: &LogStatus, paint: Paint) -> String {
    let behind =
        log.peers.iter().filter_map(|peer| Some((printable(&peer.member.id), peer.catch_up.as_ref()?)));
    let own = log.catch_up.as_ref().map(|own| ("this member".to_owned(), own));
    let rows: Vec<Vec<String>> = behind.chain(own).map(|(who, it)| vec![who, progress(it)]).collect();
    let mut out = String::new();
    if !rows.is_empty() {
        out.push_str("\nCatching up\n");
        out.push_str(&table(&rows, "  "));
    }
    if let Some(resync) = &log.resync.under_way {
        let old = match (&resync.old_copy, resync.fate) {
            (Some(path), Fate::Kept) => {
                format!("the old copy stays in {}", printable(&path.display().to_string()))
            }
            (Some(path), _) => format!(
                "the old copy is in {} until the new one is in sync",
                printable(&path.display().to_string())
            ),
            (None, _) => "the old copy was given up".to_owned(),
        };
        let ordered = printable(&resync.ordered);
        out.push_str(&format!("\nThis member's log is copied anew, as ordered at {ordered}; {old}\n"));
    }
    for kept in &log.resync.kept {
        let path = printable(&kept.path.display().to_string());
        let what = format!("a former copy of this log, {}, is kept in {path}", bytes(kept.bytes));
        out.push_str(&format!("\n{}: delete it when nobody needs it any more\n", paint.warn(&what)));
    }
    out
}

fn progress(it: &CatchUp) -> String {
    let all = it.received_bytes.saturating_add(it.remaining_bytes);
    let left = match it.seconds_left {
        Some(seconds) => format!("about {} left", duration(seconds.saturating_mul(1000))),
        None => "nothing comes at the moment".to_owned(),
    };
    let limit = match it.limit_bytes_per_second {
        Some(limit) => format!(" (catch_up_rate {}/s, beyond what is written meanwhile)", bytes(limit)),
        None => String::new(),
    };
    let (received, all, pace) = (bytes(it.received_bytes), bytes(all), bytes(it.bytes_per_second));
    format!("{}, {received} of {all} at {pace}/s{limit}, {left}", bar(it.percent))
}

/// The sets, and whatever of them is not as it should be.
fn replicated_files(files: &FilesStatus, paint: Paint) -> String {
    let state = match files.state.as_str() {
        "reading" => "this host's are written to the log",
        "placing" => "the log's are put in their places here",
        _ => "nothing is done while no primary is known",
    };
    let mut out = format!("\nReplicated files: {state}\n");
    let head = ["SET", "FILES", "BYTES", "LAST CHANGE", "BEHIND", "FAILED", "LEFT OUT", "KEPT ASIDE"];
    let mut rows = vec![head.map(|head| paint.dim(head)).to_vec()];
    let count = |count: u64| if count == 0 { "0".to_owned() } else { paint.bad(&grouped(count)) };
    rows.extend(files.sets.iter().map(|set| {
        vec![
            printable(&set.name),
            grouped(set.files),
            bytes(set.bytes),
            set.last_change.as_deref().map_or_else(|| "never".to_owned(), printable),
            grouped(set.behind),
            count(set.failed),
            count(set.left_out),
            grouped(set.kept_aside),
        ]
    }));
    out.push_str(&table(&rows, ""));
    for set in &files.sets {
        out.push_str(&remarks(set, paint));
    }
    if !files.unnamed.is_empty() {
        let names: Vec<String> = files.unnamed.iter().map(|name| printable(name)).collect();
        out.push_str(&format!("  in the log, and not in this configuration: {}\n", names.join(", ")));
    }
    out
}

fn remarks(set: &SetStatus, paint: Paint) -> String {
    let mut out = String::new();
    let mut remark =
        |what: String| out.push_str(&format!("  {} {}: {what}\n", paint.warn("!"), printable(&set.name)));
    for failure in &set.failures {
        remark(format!("not replicated: {}: {}", printable(&failure.path), printable(&failure.why)));
    }
    for left_out in &set.left_out_paths {
        remark(format!("left out: {}: {}", printable(&left_out.path), printable(&left_out.why)));
    }
    for problem in set.problem.iter().chain(&set.hook) {
        remark(printable(problem));
    }
    for kept in &set.kept {
        let copy = printable(&kept.copy.display().to_string());
        out.push_str(&format!(
            "    kept aside {}: {} as {copy}\n",
            printable(&kept.kept),
            printable(&kept.path)
        ));
    }
    out
}

fn verdict(log: &LogStatus, paint: Paint) -> String {
    if let Some(failure) = &log.failure {
        return paint.bad(&format!(
            "OUT OF SERVICE: {}. This member cannot be primary until its agent was restarted.",
            printable(failure)
        ));
    }
    let epoch = log.epoch.map_or_else(String::new, |epoch| format!(" in epoch {epoch}"));
    let leader = log.leader.as_ref().map_or_else(|| "the primary".to_owned(), |leader| printable(&leader.id));
    match (log.role.as_str(), log.streaming) {
        ("leading", _) => paint.good(&format!("This member's log leads{epoch}.")),
        ("following", true) => paint.good(&format!("This member's log follows {leader}{epoch}.")),
        ("following", false) => {
            paint.warn(&format!("This member's log waits for a stream from {leader}{epoch}."))
        }
        _ => paint.warn("This member's log neither leads nor follows: no primary is known."),
    }
}

fn peers(log: &LogStatus, paint: Paint) -> Vec<Vec<String>> {
    let mut rows =
        vec![["STANDBY", "STREAM", "WAITED FOR", "DURABLE", "BEHIND"].map(|head| paint.dim(head)).to_vec()];
    rows.extend(log.peers.iter().map(|peer| {
        vec![
            printable(&peer.member.id),
            if peer.streaming { "up".to_owned() } else { paint.bad("DOWN") },
            if peer.in_wait_set { "yes".to_owned() } else { paint.warn("no") },
            peer.durable.map_or_else(|| "?".to_owned(), grouped),
            behind(peer),
        ]
    }));
    rows
}

/// What was found of the members' copies, from disk to disk.
fn compared(log: &LogStatus, sameness: &Sameness, paint: Paint) -> String {
    let mut out = String::new();
    let differs = |ranges: &[Range]| {
        let ranges: Vec<String> =
            ranges.iter().map(|range| format!("{} to {}", grouped(range.from), grouped(range.to))).collect();
        paint.bad(&format!(
            "OTHER BYTES at LSN {}, though both copies are sound by themselves",
            ranges.join(", ")
        ))
    };
    if log.role == "leading" && !log.peers.is_empty() {
        out.push_str("\nCompared with this member's log, segment by segment, from disk to disk\n");
        let mut rows = Vec::new();
        for peer in &log.peers {
            let name = printable(&peer.member.id);
            let found = sameness.peers.get(&peer.member.id);
            let mut said = Vec::new();
            if let Some(found) = found.filter(|found| !found.differing.is_empty()) {
                said.push(differs(&found.differing));
            }
            said.push(match found.and_then(|found| found.last_complete.as_deref()) {
                Some(at) => format!("all the same at {}", printable(at)),
                None => "not all of it yet: the next reading of the log does it (holdfast store scrub --now)"
                    .to_owned(),
            });
            if let Some(found) = found.filter(|found| found.unread > 0) {
                said.push(paint.warn(&format!("{} range(s) could not be read there", found.unread)));
            }
            rows.push(vec![name, said.join("; ")]);
        }
        out.push_str(&table(&rows, "  "));
    }
    if !sameness.differing.is_empty() {
        out.push_str(&format!("\nCompared with the primary's log: {}\n", differs(&sameness.differing)));
    }
    out
}

/// How much a standby lacks, and how old the oldest of it is.
fn behind(peer: &Peer) -> String {
    amount(peer.lag_bytes, peer.lag_ms)
}

fn amount(of: u64, ms: Option<u64>) -> String {
    match ms.filter(|_| of > 0) {
        Some(ms) => format!("{}, {}.{:03} s", bytes(of), ms / 1000, ms % 1000),
        None => bytes(of),
    }
}

/// The numbers, one a line.
pub(super) fn stats(stats: &ReplicationStats) -> String {
    let mut rows: Vec<Vec<String>> = [
        ("epoch", stats.epoch),
        ("end_lsn", stats.end_lsn),
        ("durable_lsn", stats.durable_lsn),
        ("committed_lsn", stats.committed_lsn),
        ("applied_lsn", stats.applied_lsn),
        ("apply_lag_bytes", stats.apply_lag_bytes),
        ("segments", stats.segments),
        ("pending", stats.pending),
        ("streaming_peers", stats.streaming_peers),
        ("set_aside", stats.set_aside),
        ("set_aside_bytes", stats.set_aside_bytes),
        ("damaged", stats.damaged),
    ]
    .iter()
    .map(|(name, value)| vec![(*name).to_owned(), value.to_string()])
    .collect();
    rows.extend(
        stats
            .lag_bytes
            .iter()
            .map(|(peer, lag)| vec![format!("lag_bytes[{}]", printable(peer)), lag.to_string()]),
    );
    let ages = stats.lag_ms.iter();
    rows.extend(ages.map(|(peer, lag)| vec![format!("lag_ms[{}]", printable(peer)), lag.to_string()]));
    table(&rows, "")
}
