//! Users, buckets and space in words and columns.

use holdfast_store::admin::{MadeKey, ShownBucket, ShownUser};

use super::words::bytes;
use crate::runtime::scrub::ScrubStatus;
use crate::runtime::space::SpaceStatus;

/// Columns, each as wide as its widest cell.
fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let cells = |row: &[String]| row.iter().map(|cell| cell.chars().count()).collect::<Vec<_>>();
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.len()).collect();
    for row in rows {
        for (width, len) in widths.iter_mut().zip(cells(row)) {
            *width = (*width).max(len);
        }
    }
    let line = |row: &[String]| {
        let padded = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    let head: Vec<String> = head.iter().map(ToString::to_string).collect();
    std::iter::once(line(&head)).chain(rows.iter().map(|row| line(row))).collect()
}

fn or_dash(text: Option<&str>) -> String {
    text.filter(|text| !text.is_empty()).unwrap_or("-").to_owned()
}

pub(super) fn users(users: &[ShownUser]) -> String {
    if users.is_empty() {
        return "There are no users but root: holdfast store users create NAME --access BUCKET:readwrite\n"
            .into();
    }
    let rows: Vec<Vec<String>> = users
        .iter()
        .map(|user| {
            let access = user.bucket_access.iter().map(|access| {
                let permission = serde_json::to_value(access.permission).unwrap_or_default();
                format!("{}:{}", access.bucket, permission.as_str().unwrap_or_default())
            });
            let mut access: Vec<String> = access.collect();
            if user.creates_buckets {
                access.push("its own buckets".into());
            }
            vec![
                user.name.clone(),
                if user.enabled { "yes" } else { "no" }.into(),
                or_dash(user.tenant.as_deref()),
                or_dash(Some(&user.access_keys.join(", "))),
                or_dash(Some(&access.join(", "))),
                or_dash(Some(&user.description)),
            ]
        })
        .collect();
    table(&["NAME", "ENABLED", "TENANT", "ACCESS KEYS", "REACHES", "DESCRIPTION"], &rows)
}

/// How sound the log is.
pub(super) fn scrub(scrub: &ScrubStatus) -> String {
    let row = |name: &str, value: String| format!("{name:<12}{value}\n");
    let rate = bytes(scrub.bytes_per_second);
    let now = match (scrub.running, scrub.every_seconds) {
        (true, _) => {
            format!("under way: {} %, {} read, at {rate}/s at most", scrub.percent, bytes(scrub.bytes))
        }
        (false, Some(every)) => format!("waits: every {} h, at {rate}/s at most", every.div_ceil(3600)),
        (false, None) => format!("only when asked (--now), at {rate}/s at most"),
    };
    let mut out = row("Scrub", now);
    out += &row("Complete", scrub.last_complete.clone().unwrap_or_else(|| "never yet".into()));
    out += &row("Healed", format!("{} damaged places since this agent began", scrub.healed));
    if scrub.unhealed.is_empty() {
        out += &row("Damage", "none that is known".into());
    }
    for place in &scrub.unhealed {
        out += &row("Damage", format!("at LSN {}: {}", place.lsn, place.detail));
    }
    out
}

/// What space the store takes.
pub(super) fn space(space: &SpaceStatus) -> String {
    let row = |name: &str, value: String| format!("{name:<12}{value}\n");
    let mut out = row("Log", bytes(space.log_bytes));
    out += &row("Live", format!("{}, what objects and parts have of it", bytes(space.live_bytes)));
    out += &row("Index", bytes(space.index_bytes));
    out += &row("Garbage", format!("{} % of the log", space.garbage_percent));
    out += &row("Free", format!("{} on this disk", bytes(space.free_bytes)));
    let rate = bytes(space.bytes_per_second);
    out += &row(
        "Won back",
        if space.automatic {
            format!("by the primary, from {} % of garbage on, at {rate}/s at most", space.begins_at_percent)
        } else {
            format!("only when asked (`holdfast store reclaim`), at {rate}/s at most")
        },
    );
    match (&space.running, &space.last) {
        (Some(now), _) => {
            out += &row(
                "Under way",
                format!(
                    "{} segments with {} will go; {} moved, {} of the state written down",
                    now.segments,
                    bytes(now.segment_bytes),
                    bytes(now.moved_bytes),
                    bytes(now.checkpoint_bytes)
                ),
            );
        }
        (None, Some(last)) => {
            let seconds = last.took_ms as f64 / 1e3;
            out += &row(
                "Last time",
                format!("{}: {}; {} won in {seconds:.1} s", last.ended, last.outcome, bytes(last.won_bytes)),
            );
        }
        (None, None) => out += &row("Last time", "not since this agent began".into()),
    }
    out
}

pub(super) fn made_key(made: &MadeKey) -> String {
    format!(
        "User        {}\nAccess key  {}\nSecret key  {}\n\nThe secret key is not shown again. Keep it where the client reads it.\n",
        made.user.name, made.access_key, made.secret_key
    )
}

pub(super) fn buckets(buckets: &[ShownBucket]) -> String {
    if buckets.is_empty() {
        return "There are no buckets.\n".into();
    }
    let of = |limit: Option<u64>| limit.map_or("-".to_owned(), |limit| limit.to_string());
    let rows: Vec<Vec<String>> = buckets
        .iter()
        .map(|bucket| {
            let lock = if bucket.object_lock { ", locked" } else { "" };
            vec![
                bucket.name.clone(),
                bucket.owner.clone().unwrap_or_else(|| "root".into()),
                or_dash(bucket.tenant.as_deref()),
                format!("{}{lock}", bucket.versioning),
                bucket.objects.to_string(),
                of(bucket.quota_objects),
                bucket.used_bytes.to_string(),
                of(bucket.quota_bytes),
            ]
        })
        .collect();
    table(&["NAME", "OWNER", "TENANT", "VERSIONS", "OBJECTS", "QUOTA", "BYTES", "QUOTA"], &rows)
}
