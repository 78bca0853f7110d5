//! What happened to this member and why, in words: kept over restarts, shown by `ha history`.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use holdfast_heartbeat::Epoch;
use serde::{Deserialize, Serialize};

use crate::node::role_name;
use crate::node::transition::Transition;

/// Entries that are kept in memory and shown.
const SHOWN: usize = 1000;
/// The file is begun anew, keeping the shown entries, when it has more than this.
const FILE_ENTRIES: usize = 10 * SHOWN;

/// One entry.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Wall time, RFC 3339, for people; nothing is decided by it.
    pub at: String,
    /// Milliseconds since the host's start, by the clock that decides.
    pub uptime_ms: u64,
    /// The role before; absent for a note.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub from: Option<String>,
    /// The role after; absent for a note.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub to: Option<String>,
    /// The epoch; absent for a note.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub epoch: Option<u64>,
    /// The cause as a stable word; `note`, `warning`, `hook` or `hook_failed` where no role changed.
    pub cause: String,
    /// The reason in words.
    pub reason: String,
    /// The other member concerned.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub peer: Option<String>,
    /// The end of what a hook said.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub output: Option<String>,
}

/// The history of this member.
#[derive(Clone)]
pub struct History(Arc<Mutex<Inner>>);

struct Inner {
    entries: VecDeque<Entry>,
    file: Option<File>,
}

impl History {
    /// Opens the history in `dir`. A line that cannot be read is passed over: the history informs, it
    /// decides nothing. Where the file cannot be written, the history lives in memory.
    pub fn open(dir: &Path) -> History {
        let path = dir.join("history.jsonl");
        let mut entries = VecDeque::new();
        let mut lines = 0;
        if let Ok(file) = File::open(&path) {
            for line in BufReader::new(file).lines().map_while(Result::ok) {
                lines += 1;
                if let Ok(entry) = serde_json::from_str(&line) {
                    entries.push_back(entry);
                }
                if entries.len() > SHOWN {
                    entries.pop_front();
                }
            }
        }
        let file = reopen(&path, &entries, lines > FILE_ENTRIES)
            .inspect_err(
                |error| tracing::warn!(%error, path = %path.display(), "the history is kept in memory only"),
            )
            .ok();
        History(Arc::new(Mutex::new(Inner { entries, file })))
    }

    /// Adds a change of role.
    pub fn add_transition(&self, uptime_ms: u64, transition: &Transition) {
        let cause = serde_json::to_value(transition.cause).ok().and_then(|v| v.as_str().map(str::to_owned));
        self.add(Entry {
            at: wall_time(),
            uptime_ms,
            from: Some(role_name(transition.from).to_owned()),
            to: Some(role_name(transition.to).to_owned()),
            epoch: Some(transition.epoch.0),
            cause: cause.unwrap_or_default(),
            reason: transition.reason.clone(),
            peer: transition.peer.as_ref().map(ToString::to_string),
            output: None,
        });
    }

    /// Adds something that is not a change of role; `cause` is `note` or `warning`.
    pub fn add_note(&self, uptime_ms: u64, cause: &str, reason: &str) {
        self.add(Entry {
            at: wall_time(),
            uptime_ms,
            from: None,
            to: None,
            epoch: None,
            cause: cause.to_owned(),
            reason: reason.to_owned(),
            peer: None,
            output: None,
        });
    }

    /// Adds how a hook ended, and the end of what it said.
    pub fn add_hook(&self, uptime_ms: u64, epoch: Epoch, failed: bool, reason: &str, output: &str) {
        self.add(Entry {
            at: wall_time(),
            uptime_ms,
            from: None,
            to: None,
            epoch: Some(epoch.0).filter(|epoch| *epoch > 0),
            cause: if failed { "hook_failed" } else { "hook" }.to_owned(),
            reason: reason.to_owned(),
            peer: None,
            output: Some(output.to_owned()).filter(|output| !output.is_empty()),
        });
    }

    fn add(&self, entry: Entry) {
        let mut inner = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let (Some(file), Ok(line)) = (&mut inner.file, serde_json::to_string(&entry)) {
            // Not synced: an entry lost in a power cut is worth less than a disk that stalls.
            let _ = writeln!(file, "{line}");
        }
        inner.entries.push_back(entry);
        if inner.entries.len() > SHOWN {
            inner.entries.pop_front();
        }
    }

    /// The newest entries, oldest first.
    pub fn entries(&self) -> Vec<Entry> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).entries.iter().cloned().collect()
    }
}

fn reopen(path: &Path, entries: &VecDeque<Entry>, shorten: bool) -> io::Result<File> {
    if shorten {
        let mut text = Vec::new();
        for entry in entries {
            serde_json::to_writer(&mut text, entry)?;
            text.push(b'\n');
        }
        let dir = path.parent().unwrap_or(Path::new("."));
        super::state_file::replace(dir, "history.jsonl", &text)?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

/// The wall clock in RFC 3339, UTC, milliseconds.
pub fn wall_time() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    rfc3339(since.as_millis() as u64)
}

/// Milliseconds since 1970 in RFC 3339, UTC.
pub fn rfc3339(ms: u64) -> String {
    let (days, second) = (ms / 86_400_000, ms / 1000 % 86_400);
    let (year, month, day) = civil(days as i64);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1000)
}

/// Days since 1970-01-01 as year, month, day (Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(20_778), (2026, 11, 21));
    }

    #[test]
    fn entries_survive_a_restart_and_a_torn_line() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::open(dir.path());
        history.add_note(5, "note", "first");
        history.add_note(6, "warning", "second");
        std::fs::OpenOptions::new()
            .append(true)
            .open(dir.path().join("history.jsonl"))
            .unwrap()
            .write_all(b"{\"at\":\"20")
            .unwrap();
        let again = History::open(dir.path());
        let reasons: Vec<_> = again.entries().into_iter().map(|entry| entry.reason).collect();
        assert_eq!(reasons, ["first", "second"]);
    }
}
