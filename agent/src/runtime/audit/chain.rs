//! A line of the audit trail, and what a sequence of lines proves. Bytes in, words out; no file is touched here.
//!
//! A line is a JSON object whose last member is `hash`: the SHA-256, in hexadecimal, of every byte of the line in
//! front of `,"hash":`. Among those bytes are the number of the line and, as `prev`, the hash of the line before.
//! So whoever changes, adds or takes out a line has to write every later one anew, and the newest hash, which
//! stands in the journal too, is another one then.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// `prev` of the very first line.
pub const ORIGIN: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// Longest line, in bytes: its texts are cut to a twentieth of it.
pub const MAX_LINE: usize = 16 * 1024;
/// Longest text in a line, in bytes.
pub const MAX_TEXT: usize = 512;

const BEFORE_HASH: &str = ",\"hash\":\"";
const AFTER_HASH: &str = "\"}";
const HASH_LEN: usize = 64;

/// One thing that was done, tried, or begun.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Counts the lines, from 1.
    pub seq: u64,
    /// Wall time, RFC 3339.
    pub at: String,
    /// Milliseconds since the host's start, by the clock that no one sets.
    pub uptime_ms: u64,
    /// The member.
    pub node: String,
    /// On what ground it was allowed, or who did it: a token, this host, a signal, the agent itself.
    pub by: String,
    /// The address it came from; for a caller on this host with the number of the user.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub from: Option<String>,
    /// Who the caller says to be. Nobody checked that.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub claimed: Option<String>,
    /// What, as a stable word: the last part of the API's path, or `start`, `stop`, `reload`, `role`, and so on.
    pub action: String,
    /// What exactly: the body of the order, the hash of the configuration.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub detail: Option<String>,
    /// `done`, `refused`, `failed`, or `unknown`.
    pub outcome: String,
    /// The answer in words.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub message: Option<String>,
    /// The epoch that this member had promised then.
    pub epoch: u64,
    /// The hash of the line before.
    pub prev: String,
}

/// A record with its hash, as it is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// What the line says.
    #[serde(flatten)]
    pub record: Record,
    /// The line's hash.
    pub hash: String,
}

/// Where a chain stands: what the next line must continue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The number of the last line.
    pub seq: u64,
    /// Its hash.
    pub hash: String,
}

impl Default for Head {
    fn default() -> Head {
        Head { seq: 0, hash: ORIGIN.to_owned() }
    }
}

fn hash(bytes: &str) -> String {
    hex::encode(Sha256::digest(bytes.as_bytes()))
}

/// The line of `record`, without a line end, and its hash.
///
/// # Errors
/// None that are known: all of it is plain data.
pub fn seal(record: &Record) -> serde_json::Result<(String, String)> {
    let mut line = serde_json::to_string(record)?;
    line.truncate(line.len() - 1);
    let hash = hash(&line);
    line.push_str(BEFORE_HASH);
    line.push_str(&hash);
    line.push_str(AFTER_HASH);
    Ok((line, hash))
}

/// What is wrong with one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLine {
    /// Not a line of a trail.
    #[error("is not a line of an audit trail")]
    Shape,
    /// Its bytes are not those that were hashed.
    #[error("was changed: its hash is another one")]
    Changed,
}

/// Reads one line without its line end, and checks its own hash.
pub fn open(line: &str) -> Result<Sealed, BadLine> {
    let shaped = || -> Option<(&str, &str)> {
        let rest = line.strip_suffix(AFTER_HASH).filter(|_| line.len() <= MAX_LINE)?;
        let (before, hash) = rest.split_at_checked(rest.len().checked_sub(HASH_LEN)?)?;
        Some((before.strip_suffix(BEFORE_HASH)?, hash))
    };
    let (before, stated) = shaped().ok_or(BadLine::Shape)?;
    if hash(before) != stated {
        return Err(BadLine::Changed);
    }
    let record = serde_json::from_str(&format!("{before}}}")).map_err(|_| BadLine::Shape)?;
    Ok(Sealed { record, hash: stated.to_owned() })
}

/// A text that fits into a line.
pub fn bounded(text: &str) -> String {
    let end = text.floor_char_boundary(MAX_TEXT);
    if end < text.len() { format!("{}…", &text[..end]) } else { text.to_owned() }
}

/// Something in the trail that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Which file.
    pub file: String,
    /// Which line of it, from 1.
    pub line: usize,
    /// What is wrong, in words that follow "line N".
    pub what: String,
}

/// Most faults that are listed.
pub const MAX_FAULTS: usize = 20;

/// What the files of a trail prove.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Whole and in its place: every line.
    pub intact: bool,
    /// Lines that were read.
    pub lines: u64,
    /// The number of the first one. Greater than 1 where older files were rotated away.
    pub first_seq: u64,
    /// Where the chain ends. Compare it with what the journal said last.
    pub head: Head,
    /// How many things are wrong.
    pub fault_count: u64,
    /// The first of them.
    pub faults: Vec<Fault>,
    /// The last line was never finished: a crash, not a change.
    pub torn: bool,
}

/// Walks the files of a trail, the oldest one first.
#[derive(Debug, Default)]
pub struct Walk {
    found: Verified,
    expected: Option<Head>,
}

impl Walk {
    /// Takes the next file; `last` is the one that is being written. Gives what each good line says to `each`.
    pub fn file(&mut self, name: &str, content: &[u8], last: bool, mut each: impl FnMut(Sealed)) {
        let (whole, torn) = match content.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => content.split_at(end),
            None => (&content[..0], content),
        };
        let torn = torn.strip_prefix(b"\n").unwrap_or(torn);
        let lines = whole.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let mut number = 0;
        for line in lines {
            number += 1;
            self.found.lines += 1;
            let opened = std::str::from_utf8(line).map_err(|_| BadLine::Shape).and_then(open);
            match opened {
                Ok(sealed) => {
                    if let Err(what) = self.follows(&sealed) {
                        self.fault(name, number, what);
                    }
                    if self.found.first_seq == 0 {
                        self.found.first_seq = sealed.record.seq;
                    }
                    let head = Head { seq: sealed.record.seq, hash: sealed.hash.clone() };
                    self.expected = Some(head);
                    each(sealed);
                }
                Err(bad) => self.fault(name, number, bad.to_string()),
            }
        }
        if !torn.is_empty() {
            if last {
                self.found.torn = true;
            } else {
                self.fault(name, number + 1, "is not finished, and others follow".to_owned());
            }
        }
    }

    fn follows(&self, sealed: &Sealed) -> Result<(), String> {
        let (seq, prev) = (sealed.record.seq, &sealed.record.prev);
        match &self.expected {
            // What was rotated away cannot be asked.
            None if (seq == 1) == (prev == ORIGIN) && seq > 0 => Ok(()),
            None => Err("claims to be the first one, and is not".to_owned()),
            Some(head) if *prev == head.hash && Some(seq) == head.seq.checked_add(1) => Ok(()),
            Some(head) => Err(format!(
                "(number {seq}) does not continue number {}: lines between them were changed, added or taken out",
                head.seq
            )),
        }
    }

    fn fault(&mut self, file: &str, line: usize, what: String) {
        self.found.fault_count += 1;
        if self.found.faults.len() < MAX_FAULTS {
            self.found.faults.push(Fault { file: file.to_owned(), line, what });
        }
    }

    /// What all of them prove.
    pub fn end(mut self) -> Verified {
        self.found.head = self.expected.unwrap_or_default();
        self.found.intact = self.found.fault_count == 0;
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trail(count: u64) -> Vec<String> {
        let mut head = Head::default();
        (1..=count)
            .map(|seq| {
                let record =
                    Record { seq, action: format!("a{seq}"), prev: head.hash.clone(), ..Record::default() };
                let (line, hash) = seal(&record).unwrap();
                head = Head { seq, hash };
                line
            })
            .collect()
    }

    fn walk(lines: &[String]) -> Verified {
        let mut walk = Walk::default();
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        walk.file("audit.jsonl", text.as_bytes(), true, |_| {});
        walk.end()
    }

    #[test]
    fn every_change_removal_and_addition_shows() {
        let good = trail(6);
        let verified = walk(&good);
        assert!(verified.intact && verified.lines == 6 && verified.head.seq == 6, "{verified:?}");
        for at in 0..good.len() {
            let mut changed = good.clone();
            changed[at] = changed[at].replace("\"a", "\"b");
            assert!(!walk(&changed).intact, "line {at} changed");
            if at + 1 < good.len() {
                let mut removed = good.clone();
                removed.remove(at);
                // The first lines may have been rotated away, and then the next one says so by its number.
                assert!(!walk(&removed).intact || walk(&removed).first_seq == 2, "line {at} removed");
                let mut swapped = good.clone();
                swapped.swap(at, at + 1);
                assert!(!walk(&swapped).intact, "line {at} swapped");
            }
            let mut doubled = good.clone();
            doubled.insert(at, good[at].clone());
            assert!(!walk(&doubled).intact, "line {at} doubled");
        }
        // Whoever hashes a changed line anew has to do so with every later one, and the head tells.
        let (forged, _) =
            seal(&Record { seq: 3, prev: walk(&good[..2]).head.hash, ..Record::default() }).unwrap();
        let mut sealed_anew = good.clone();
        sealed_anew[2] = forged;
        assert!(!walk(&sealed_anew).intact);
    }

    #[test]
    fn a_line_that_was_never_finished_is_no_change() {
        let good = trail(3);
        let whole = good.join("\n") + "\n";
        for cut in whole.len() - good[2].len()..whole.len() - 1 {
            let mut walk = Walk::default();
            walk.file("audit.jsonl", &whole.as_bytes()[..cut], true, |_| {});
            let verified = walk.end();
            assert!(verified.intact && verified.torn && verified.head.seq == 2, "{cut}: {verified:?}");
            let mut walk = Walk::default();
            walk.file("audit.1.jsonl", &whole.as_bytes()[..cut], false, |_| {});
            assert!(!walk.end().intact);
        }
    }

    #[test]
    fn any_bytes_are_read_without_a_panic() {
        for bytes in
            [&b"\xff\xfe\n"[..], b"\n\n", b"{}\n", b"\"}\n", b",\"hash\":\"\"}\n", "ü\"}\n".as_bytes()]
        {
            let mut walk = Walk::default();
            walk.file("audit.jsonl", bytes, true, |_| panic!("not a line"));
            walk.end();
        }
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(bounded("short"), "short");
        let long = bounded(&"ü".repeat(MAX_TEXT));
        assert!(long.ends_with('…') && long.len() <= MAX_TEXT + 3);
    }
}
