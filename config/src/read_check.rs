//! Reads the `check` blocks: what must hold on this host for it to serve well.
//!
//! Decides their defaults, and refuses a check that has nothing to look at, or two things. It never looks
//! whether what a check names exists: that is the check's own work. Invariant: a check's time limit lets
//! it be judged, so that a hung one is not waited for longer than [`MAX_TIMEOUT_INTERVALS`] of its turns.

use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use crate::model::{Check, CheckKind};
use crate::quantity::show;
use crate::report::{Notes, Problem};
use crate::section::{At, Section};

/// Time between two runs of a check where the file says nothing.
pub(crate) const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);
/// How long a run may take where the file says nothing.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);
/// Runs in a row that must pass before a failed check passes again, where the file says nothing.
pub(crate) const DEFAULT_RISE: u32 = 2;
/// Runs in a row that must fail before a check has failed, where the file says nothing.
pub(crate) const DEFAULT_FALL: u32 = 3;
/// Shortest interval: below it, checks would cost more than what they look after.
const MIN_INTERVAL: Duration = Duration::from_millis(100);
/// Longest interval: whoever looks more seldom does not decide a failover by it.
const MAX_INTERVAL: Duration = Duration::from_secs(3600);
/// Shortest time limit: starting a process takes some milliseconds on a busy host.
const MIN_TIMEOUT: Duration = Duration::from_millis(10);
/// A run may take this many intervals; the runs in between are left out.
const MAX_TIMEOUT_INTERVALS: u32 = 10;
/// Most runs in a row that may be asked for.
const MAX_RUNS: u64 = 100;
/// Greatest weight: with [`MAX_CHECKS`] of them a member still stands before one whose check has none.
const MAX_WEIGHT: u64 = 254;
/// Most checks: each is a task of its own, and all of them stand in `ha status`.
const MAX_CHECKS: usize = 32;
/// Longest name of a check, in bytes.
const MAX_NAME_BYTES: usize = 63;
/// Longest name of a process that can be looked for, in bytes: that of a file in Linux.
const MAX_PROCESS_BYTES: usize = 255;
/// Longest name of a systemd unit, in bytes.
const MAX_UNIT_BYTES: usize = 255;
/// Most words of a command.
const MAX_ARGUMENTS: usize = 64;
/// Statuses of an answer that pass where the file says nothing.
const DEFAULT_STATUS: RangeInclusive<u16> = 200..=399;

/// The keys of which a check has exactly one, with what each looks like.
const KINDS: [(&str, &str); 7] = [
    ("exec", "exec = [\"/usr/local/bin/check-it\", \"--quick\"]"),
    ("tcp", "tcp = \"127.0.0.1:5432\""),
    ("http", "http = \"http://127.0.0.1:8081/health\""),
    ("file", "file = \"/run/ready\""),
    ("process", "process = \"nginx\""),
    ("pidfile", "pidfile = \"/run/nginx.pid\""),
    ("unit", "unit = \"nginx.service\""),
];

/// Reads every `check` block, and where each stands.
pub(crate) fn checks(notes: &mut Notes, root: &mut Section<'_>) -> (Vec<Check>, Vec<Range<usize>>) {
    let mut checks = Vec::new();
    let mut places = Vec::new();
    for (name, section) in root.named_blocks(notes, "check") {
        let head = section.head.clone();
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if !(1..=MAX_NAME_BYTES).contains(&name.value.len()) || !name.value.chars().all(good) {
            let mend = format!("write 1 to {MAX_NAME_BYTES} characters of A-Z a-z 0-9 . _ -");
            notes.error(&name.span, format!("{:?} cannot be the name of a check", name.value), mend);
        }
        if let Some(check) = check(notes, name.value, section) {
            checks.push(check);
        }
        places.push(head);
    }
    if let Some(place) = places.get(MAX_CHECKS) {
        notes.error(place, format!("more than {MAX_CHECKS} checks"), "put several into one `exec` check");
    }
    (checks, places)
}

fn check(notes: &mut Notes, name: String, mut section: Section<'_>) -> Option<Check> {
    let kind = kind(notes, &mut section);
    let interval = duration(notes, &mut section, "interval", DEFAULT_INTERVAL, MIN_INTERVAL, MAX_INTERVAL);
    let longest = interval.saturating_mul(MAX_TIMEOUT_INTERVALS);
    let timeout = duration(notes, &mut section, "timeout", DEFAULT_TIMEOUT, MIN_TIMEOUT, longest);
    let mut runs =
        |key, usual| section.integer(notes, key, 1..=MAX_RUNS).map_or(usual, |runs| runs.value as u32);
    let (rise, fall) = (runs("rise", DEFAULT_RISE), runs("fall", DEFAULT_FALL));
    let weight = section.integer(notes, "weight", 1..=MAX_WEIGHT).map(|weight| weight.value as u32);
    section.close(notes);
    Some(Check { name, kind: kind?, interval, timeout, rise, fall, weight })
}

fn duration(
    notes: &mut Notes,
    section: &mut Section<'_>,
    key: &'static str,
    usual: Duration,
    least: Duration,
    most: Duration,
) -> Duration {
    let Some(given) = section.duration(notes, key) else { return usual.min(most) };
    if (least..=most).contains(&given.value) {
        return given.value;
    }
    let message = format!("`{key}` {} cannot be used for a check", show(given.value));
    let mend = match key {
        "timeout" => format!(
            "write from \"{}\" to \"{}\", {MAX_TIMEOUT_INTERVALS} times the check's `interval`, or a longer `interval`",
            show(least),
            show(most)
        ),
        _ => format!("write from \"{}\" to \"{}\"", show(least), show(most)),
    };
    notes.error(&given.span, message, mend);
    usual
}

/// What the check looks at. Every key is read, so that all that is wrong is said in one run.
fn kind(notes: &mut Notes, section: &mut Section<'_>) -> Option<CheckKind> {
    let head = section.head.clone();
    let mut given: Vec<&str> = Vec::new();
    for (key, _) in KINDS {
        if let Some(span) = section.key_span(key) {
            if let Some(other) = given.first() {
                let message =
                    format!("a check has one thing to look at, and this one has `{other}` and `{key}`");
                notes.error(&span, message, "write a `check` block for each");
            }
            given.push(key);
        }
    }
    if given.is_empty() {
        let examples: Vec<&str> = KINDS.iter().map(|(_, example)| *example).collect();
        let mend = format!("add one of these lines:\n{}", examples.join("\n"));
        notes.error(&head, format!("{} has nothing to look at", section.called()), mend);
    }
    let exec = section.texts(notes, "exec").and_then(|argv| command(notes, argv));
    let tcp = section.text(notes, "tcp").and_then(|text| tcp(notes, &text));
    let status = status(notes, section);
    let http = section.text(notes, "http").and_then(|text| http(notes, &text, status.clone()));
    let max_age = max_age(notes, section);
    let file = section.absolute_path(notes, "file");
    let file = file.map(|path| CheckKind::File { path: path.value, max_age });
    let process = section.text(notes, "process").and_then(|text| process(notes, &text));
    let pidfile = section.absolute_path(notes, "pidfile").map(|path| CheckKind::Pidfile(path.value));
    let unit = section.text(notes, "unit").and_then(|text| unit(notes, &text));
    for (key, of) in [("status", "http"), ("max_age", "file")] {
        if let Some(span) = section.key_span(key)
            && !given.contains(&of)
        {
            let message = format!("`{key}` belongs to a check with `{of}`");
            notes.error(&span, message, "remove the line");
        }
    }
    exec.or(tcp).or(http).or(file).or(process).or(pidfile).or(unit)
}

fn command(notes: &mut Notes, argv: At<Vec<At<String>>>) -> Option<CheckKind> {
    const MEND: &str = "write the whole path of a program and its words: exec = [\"/usr/local/bin/check-it\", \"--quick\"]; \
                        there is no shell in between";
    let words = &argv.value;
    let Some(program) = words.first() else {
        notes.error(&argv.span, "`exec` is empty", MEND);
        return None;
    };
    if !program.value.starts_with('/') {
        notes.error(&program.span, "`exec` must begin with the absolute path of a program", MEND);
        return None;
    }
    if words.len() > MAX_ARGUMENTS || words.iter().any(|word| word.value.contains('\0')) {
        let message = format!("`exec` takes at most {MAX_ARGUMENTS} words, and no zero byte");
        notes.error(&argv.span, message, MEND);
        return None;
    }
    Some(CheckKind::Exec(argv.value.into_iter().map(|word| word.value).collect()))
}

/// Whether a text is a host, as an address (IPv6 in brackets) or a name, and a port.
fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let host_good = match host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.len() <= 253 && host.chars().all(name),
    };
    host_good && port.parse::<u16>().is_ok_and(|port| port > 0)
}

fn tcp(notes: &mut Notes, text: &At<String>) -> Option<CheckKind> {
    if is_host_and_port(&text.value) {
        return Some(CheckKind::Tcp(text.value.clone()));
    }
    let message = format!("{:?} is not a host with a port", text.value);
    notes.error(&text.span, message, "write it like \"127.0.0.1:5432\" or \"[::1]:5432\"");
    None
}

fn http(notes: &mut Notes, text: &At<String>, status: RangeInclusive<u16>) -> Option<CheckKind> {
    let url = &text.value;
    if url.starts_with("https://") {
        notes.error(
            &text.span,
            "`http` checks speak plain http",
            "write an http:// URL of this host, or exec = [\"/usr/bin/curl\", \"-fsS\", \"https://…\"]",
        );
        return None;
    }
    let rest = url.strip_prefix("http://").unwrap_or_default();
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = if authority.rsplit_once(':').is_some() && !authority.ends_with(']') {
        is_host_and_port(authority)
    } else {
        is_host_and_port(&format!("{authority}:80"))
    };
    // A password in the URL would stand in `ha status`.
    if host && url.len() <= 2048 && url.chars().all(|c| c.is_ascii_graphic()) {
        return Some(CheckKind::Http { url: url.clone(), status });
    }
    // A name or a password may stand before an `@`: what was written is not said again.
    let mend = "write a plain URL without a name or a password: \"http://127.0.0.1:8081/health\"";
    let (span, message) = (text.span.clone(), "`http` is not a URL that can be asked for".to_owned());
    let hide = url.contains('@').then(|| span.clone());
    notes.error_hiding(Problem { span, message, mend: mend.to_owned(), hide });
    None
}

fn status(notes: &mut Notes, section: &mut Section<'_>) -> RangeInclusive<u16> {
    let Some(text) = section.text(notes, "status") else { return DEFAULT_STATUS };
    let (low, high) = text.value.split_once("..").unwrap_or((&text.value, &text.value));
    if let (Ok(low), Ok(high)) = (low.trim().parse::<u16>(), high.trim().parse::<u16>())
        && (100..=599).contains(&low)
        && (low..=599).contains(&high)
    {
        return low..=high;
    }
    let message = format!("{:?} is not a status of an answer", text.value);
    notes.error(&text.span, message, "write one, or a range with both ends: \"200\" or \"200..399\"");
    DEFAULT_STATUS
}

fn max_age(notes: &mut Notes, section: &mut Section<'_>) -> Option<Duration> {
    let given = section.duration(notes, "max_age")?;
    if given.value.is_zero() {
        notes.error(&given.span, "no file can be younger than `max_age` 0s", "write \"5m\", say");
        return None;
    }
    Some(given.value)
}

fn process(notes: &mut Notes, text: &At<String>) -> Option<CheckKind> {
    let name = &text.value;
    if (1..=MAX_PROCESS_BYTES).contains(&name.len()) && !name.contains(['/', '\0', '\n']) {
        return Some(CheckKind::Process(name.clone()));
    }
    let mend = "write the name of its program without its folder, such as \"nginx\"";
    notes.error(&text.span, format!("{name:?} is not the name of a process"), mend);
    None
}

fn unit(notes: &mut Notes, text: &At<String>) -> Option<CheckKind> {
    let name = &text.value;
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '-' | '_' | '.' | '@' | '\\');
    let typed = name.rsplit_once('.').is_some_and(|(front, kind)| !front.is_empty() && !kind.is_empty());
    if name.len() <= MAX_UNIT_BYTES && typed && !name.starts_with('-') && name.chars().all(good) {
        return Some(CheckKind::Unit(name.clone()));
    }
    let mend = "write its whole name, such as \"nginx.service\"";
    notes.error(&text.span, format!("{name:?} is not the name of a systemd unit"), mend);
    None
}
