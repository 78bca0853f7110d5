//! Archives as people read them.

use holdfast_store::archive::{Change, ObjectChange, Origin, What};
use serde::Deserialize;

use super::paint::Paint;
use super::words::{bytes, grouped, printable, table};
use crate::runtime::archives::{Fate, Outcome, Progress, Shown, ShownChange, Standing, Summary, fate_words};
use crate::runtime::history::rfc3339;

/// An archive as a list has it. Every field may be missing: an agent of another version is better shown in part.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Entry {
    name: String,
    cause: String,
    from: u64,
    to: u64,
    records: u64,
    bytes: u64,
    reason: String,
    wall_ms: u64,
    content: Option<Content>,
    unreadable: Option<String>,
    restored_ms: Option<u64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Content {
    #[serde(flatten)]
    summary: Summary,
    first_objects: Vec<Shown>,
}

/// What the cause means for the data.
fn cause(word: &str) -> String {
    match word {
        "divergent" => {
            "written by a former primary; acknowledged only if a promotion was forced or a pair had split"
                .to_owned()
        }
        "torn" => "an unfinished write at the end of the log".to_owned(),
        "damaged" => "from a damaged place to the end of the log".to_owned(),
        other => printable(other),
    }
}

fn when(wall_ms: u64) -> String {
    if wall_ms == 0 { String::new() } else { rfc3339(wall_ms).replacen('T', " ", 1) }
}

/// All archives, with the line end; nothing where there is none.
pub(super) fn entries(archives: &[Entry], paint: Paint) -> String {
    archives.iter().map(|archive| entry(archive, paint)).collect()
}

/// As [`entries`], for a command of its own.
pub(super) fn list(archives: &[Entry], paint: Paint) -> String {
    if archives.is_empty() {
        return "nothing was set aside of this member's log\n".to_owned();
    }
    entries(archives, paint)
}

fn entry(archive: &Entry, paint: Paint) -> String {
    let mut out = format!(
        "  {} {}: {}, LSN {} to {}, {} records, {}{}\n",
        if archive.restored_ms.is_some() { paint.good("+") } else { paint.warn("!") },
        printable(&archive.name),
        cause(&archive.cause),
        grouped(archive.from),
        grouped(archive.to),
        archive.records,
        bytes(archive.bytes),
        if archive.reason.is_empty() { String::new() } else { format!("; {}", printable(&archive.reason)) },
    );
    let mut line = |text: String| out.push_str(&format!("      {text}\n"));
    if archive.wall_ms > 0 {
        line(format!("set aside {}", when(archive.wall_ms)));
    }
    if let Some(restored_ms) = archive.restored_ms {
        line(format!("restored {}", when(restored_ms)));
    }
    match (&archive.content, &archive.unreadable) {
        (Some(content), _) => {
            line(holds(&content.summary));
            for shown in &content.first_objects {
                line(format!("  {}", object(&shown.object, Some(shown.cluster), paint)));
            }
            let others = content.summary.objects.saturating_sub(content.first_objects.len() as u64);
            match (others, content.first_objects.len()) {
                (0, _) => {}
                (_, 0) => line("  their names need the API token".to_owned()),
                _ => line(format!(
                    "  and {} more: holdfast replication archives show {}",
                    grouped(others),
                    printable(&archive.name)
                )),
            }
        }
        (None, Some(why)) => line(format!("what it holds cannot be told: {}", printable(why))),
        (None, None) => {}
    }
    out
}

/// What an archive holds, in one line.
fn holds(sum: &Summary) -> String {
    let mut parts = vec![match sum.objects {
        0 => "no objects".to_owned(),
        count => format!("{} object(s), {}", grouped(count), bytes(sum.object_bytes)),
    }];
    let mut add = |count: u64, what: &str| {
        if count > 0 {
            parts.push(format!("{} {what}", grouped(count)));
        }
    };
    add(sum.incomplete, "of them not to be read in full");
    add(sum.deletions, "removal(s)");
    add(sum.other_changes, "other change(s)");
    add(sum.users, "change(s) of users");
    if sum.unreadable_bytes > 0 {
        parts.push(format!("{} that are no whole record", bytes(sum.unreadable_bytes)));
    }
    parts.join(", ")
}

fn standing(cluster: Standing, paint: Paint) -> String {
    match cluster {
        Standing::Same => paint.good("the cluster has it"),
        Standing::Other => paint.warn("the cluster has other content"),
        Standing::None => paint.warn("the cluster has none"),
        Standing::NoBucket => paint.warn("the cluster has not even the bucket"),
    }
}

fn object(object: &ObjectChange, cluster: Option<Standing>, paint: Paint) -> String {
    let mut out = format!("{}/{}", printable(&object.bucket), printable(&object.key));
    if let Some(size) = object.size {
        out.push_str(&format!(", {}", bytes(size)));
    }
    if let Some(cluster) = cluster {
        out.push_str(&format!(": {}", standing(cluster, paint)));
    }
    if let Some(condition) = &object.condition {
        out.push_str(&format!("; only under the condition {}", printable(condition)));
    }
    if let Some(missing) = &object.missing {
        out.push_str(&paint.bad(&format!("; not to be read in full: {}", printable(missing))));
    }
    out
}

/// The head of a full view.
pub(super) fn head(archive: &Entry, unreadable: Option<u64>) -> String {
    let mut out = format!(
        "{}: {}\nLSN {} to {}, {}{}\n",
        printable(&archive.name),
        cause(&archive.cause),
        grouped(archive.from),
        grouped(archive.to),
        bytes(archive.bytes),
        if archive.wall_ms > 0 { format!(", set aside {}", when(archive.wall_ms)) } else { String::new() },
    );
    if let Some(unreadable) = unreadable.filter(|unreadable| *unreadable > 0) {
        out.push_str(&format!("{} of it are no whole record and cannot be read\n", bytes(unreadable)));
    }
    out.push('\n');
    out
}

/// Changes, one a line.
pub(super) fn changes(changes: &[ShownChange], paint: Paint) -> String {
    let rows: Vec<Vec<String>> = changes.iter().map(|shown| row(shown, paint)).collect();
    table(&rows, "")
}

fn row(shown: &ShownChange, paint: Paint) -> Vec<String> {
    let Change { lsn, wall_ms, behind_damage, what, .. } = &shown.change;
    let (word, mut text) = match what {
        What::Object(told) => {
            let word = match told.origin {
                Origin::Put => "stored",
                Origin::Copy => "copied",
                Origin::Upload => "uploaded",
            };
            let version = format!(" (version {})", told.version);
            (word, format!("{}{}", object(told, shown.cluster, paint), paint.dim(&version)))
        }
        What::Deleted { bucket, keys } => {
            let key = |key: &holdfast_store::archive::DeletedKey| match &key.version {
                Some(version) => format!("{bucket}/{} of version {version}", key.key),
                None => format!("{bucket}/{}", key.key),
            };
            ("removed", printable(&keys.iter().map(key).collect::<Vec<_>>().join(", ")))
        }
        What::ObjectChanged { bucket, key, changed, .. } => {
            ("changed", printable(&format!("{bucket}/{key}: {changed}")))
        }
        What::BucketCreated { bucket, owner } => {
            let owner = if owner.is_empty() { "root" } else { owner };
            ("bucket made", printable(&format!("{bucket}, of {owner}")))
        }
        What::BucketDeleted { bucket } => ("bucket removed", printable(bucket)),
        What::BucketChanged { bucket, setting } => {
            ("bucket changed", printable(&format!("{bucket}: {setting}")))
        }
        What::UploadBegun { bucket, key, upload } => {
            ("upload begun", printable(&format!("{bucket}/{key}, {upload}")))
        }
        What::PartStored { bucket, key, upload, number, size } => {
            ("part stored", printable(&format!("{bucket}/{key}, {upload}: part {number}, {}", bytes(*size))))
        }
        What::UploadAborted { bucket, key, upload } => {
            ("upload given up", printable(&format!("{bucket}/{key}, {upload}")))
        }
        What::UserStored { user, existed: false } => ("user made", printable(user)),
        What::UserStored { user, existed: true } => ("user changed", printable(user)),
        What::FileStored { set, path, size: Some(size) } => {
            ("host's file", format!("{} of {}, {}", printable(path), printable(set), bytes(*size)))
        }
        What::FileStored { set, path, size: None } => {
            ("host's file removed", format!("{} of {}", printable(path), printable(set)))
        }
        What::UserDeleted { user } => ("user removed", printable(user)),
        What::Unreadable { bytes: len, why } => {
            ("unreadable", paint.bad(&printable(&format!("{}: {why}", bytes(*len)))))
        }
    };
    if *behind_damage {
        text.push_str(&paint.warn("; behind a damaged place"));
    }
    vec![grouped(lsn.0), paint.dim(&wall_ms.map(when).unwrap_or_default()), word.to_owned(), text]
}

/// What became of objects, one a line.
pub(super) fn outcomes(outcomes: &[Outcome], paint: Paint) -> String {
    let line = |outcome: &Outcome| {
        let size = outcome.bytes.map(|size| format!(" ({})", bytes(size))).unwrap_or_default();
        let key = if outcome.key.is_empty() { "?".to_owned() } else { printable(&outcome.key) };
        let why = outcome.why.as_ref().map(|why| format!(": {}", printable(why))).unwrap_or_default();
        let said = format!("{}{why}", fate_words(outcome.fate));
        let said = match outcome.fate {
            Fate::Restored => paint.good(&said),
            Fate::AlreadyThere => said,
            Fate::Refused | Fate::NotReadable => paint.bad(&said),
            _ => paint.warn(&said),
        };
        format!("{}/{key}{size}: {said}\n", printable(&outcome.bucket))
    };
    outcomes.iter().map(line).collect()
}

/// The end of a restore.
pub(super) fn sum(progress: &Progress) -> String {
    let fates: Vec<String> = progress
        .fates
        .iter()
        .map(|(fate, count)| format!("{} {}", grouped(*count), fate_words(*fate)))
        .collect();
    match fates.is_empty() {
        true => "there was nothing to restore\n".to_owned(),
        false => format!("{} object(s): {}\n", grouped(progress.done), fates.join("; ")),
    }
}

/// Why an archive is not deleted just so.
pub(super) fn would_be_lost(name: &str, changes: &[ShownChange]) -> String {
    let objects = changes.iter().filter(|shown| matches!(shown.change.what, What::Object(_)));
    let only_here: Vec<_> = objects.clone().filter(|shown| shown.cluster != Some(Standing::Same)).collect();
    let lost = match (objects.count(), only_here.len()) {
        (0, _) => "it holds no object that can be read".to_owned(),
        (all, 0) => format!("the cluster has all {} of its objects as they are there", grouped(all as u64)),
        (all, lost) => format!(
            "{} of its {} objects are not in the cluster as they are there, and would be lost for ever",
            grouped(lost as u64),
            grouped(all as u64)
        ),
    };
    format!(
        "the archive {name} was not deleted: {lost}. See: holdfast replication archives show {name}. To delete it for good: holdfast replication archives delete {name} --yes"
    )
}
