//! Reads the `store` block: where objects lie, how they are reached, and what they are encrypted with.
//!
//! Invariant: keys, tokens and secrets are [`Secret`]s from here on.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use crate::address;
use crate::model::{RootCredentials, StandbyReads, Store, Webhook};
use crate::quantity::show;
use crate::read::{either_secret, warn_short};
use crate::report::Notes;
use crate::secret::Secret;
use crate::secret_file;
use crate::section::Section;

/// Default size of a log segment: large enough that a rewrite of one is worth a sequential read.
pub(crate) const DEFAULT_SEGMENT_SIZE_BYTES: u64 = 64 << 20;

/// Smallest segment: below it, headers and file handles would outweigh the data.
pub(crate) const MIN_SEGMENT_SIZE_BYTES: u64 = 64 << 10;

/// Largest segment: space comes back a segment at a time.
pub(crate) const MAX_SEGMENT_SIZE_BYTES: u64 = 4 << 30;

/// Bytes read in a second to find damage, where the file says nothing: a terabyte in half a day, and little
/// enough beside clients on any disk.
pub(crate) const DEFAULT_SCRUB_RATE_BYTES: u64 = 24 << 20;

/// How often the log is read through, where the file says nothing: as RAID and ZFS are usually scrubbed, or oftener.
pub(crate) const DEFAULT_SCRUB_INTERVAL: Duration = Duration::from_secs(7 * 24 * 3600);

/// Shortest interval: below it, a disk would do little else.
pub(crate) const MIN_SCRUB_INTERVAL: Duration = Duration::from_secs(60);

/// Bytes written in a second to win space back where the file says nothing: what any disk has beside its
/// other work.
pub(crate) const DEFAULT_RECLAIM_RATE_BYTES: u64 = 64 << 20;

/// Slowest pace: below it, little would be won before it is needed.
pub(crate) const MIN_RECLAIM_RATE_BYTES: u64 = 1 << 20;

/// Fastest: as good as no bound.
pub(crate) const MAX_RECLAIM_RATE_BYTES: u64 = 64 << 30;

/// The share of garbage at which space is won back, in percent.
pub(crate) const DEFAULT_RECLAIM_GARBAGE_PERCENT: u8 = 50;

/// Default bound on S3 connections at a time.
pub(crate) const DEFAULT_MAX_CONNECTIONS: u32 = 1024;

/// Memory for bodies on their way in and out where the file says nothing: 256 large ones at a time.
pub(crate) const DEFAULT_REQUEST_MEMORY_BYTES: u64 = 512 << 20;

/// Least memory for bodies: four large ones.
pub(crate) const MIN_REQUEST_MEMORY_BYTES: u64 = 8 << 20;

/// Most memory for bodies.
pub(crate) const MAX_REQUEST_MEMORY_BYTES: u64 = 1 << 40;

/// How old what a standby shows may be, where the file says nothing.
pub(crate) const DEFAULT_STANDBY_STALENESS: Duration = Duration::from_secs(1);

/// The most: beyond it, nobody would call it bounded.
pub(crate) const MAX_STANDBY_STALENESS: Duration = Duration::from_secs(3600);

/// How long a small write may take where the file says nothing. A healthy disk answers within milliseconds, and
/// within two or three seconds while it collects garbage or a controller writes its cache out; clients give
/// up after half a minute or a minute. Five seconds lie well beyond the one and well within the other.
pub(crate) const DEFAULT_DISK_TIMEOUT: Duration = Duration::from_secs(5);

/// Shortest time limit of the disk: below it, ordinary bursts of writes would move the role.
pub(crate) const MIN_DISK_TIMEOUT: Duration = Duration::from_secs(1);

/// Longest: beyond it, no client is left that would profit.
pub(crate) const MAX_DISK_TIMEOUT: Duration = Duration::from_secs(600);

/// Shortest S3 secret key that draws no warning, in bytes.
pub(crate) const MIN_ROOT_SECRET_BYTES: usize = 8;

/// Names that the store takes: they travel in URLs and in signatures.
const MAX_ACCESS_KEY_BYTES: usize = 128;

/// Most keys in the file that objects are encrypted with: one that encrypts, and those of before.
const MAX_ENCRYPTION_KEYS: usize = 16;

/// Hexadecimal digits of such a key.
const KEY_DIGITS: usize = 64;

/// Most webhooks: each may hold events back.
const MAX_WEBHOOKS: usize = 16;

/// A day of lifecycle rules.
const DAY: Duration = Duration::from_secs(24 * 3600);

fn default_store_listen() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 9000)
}

/// The store of a file without such a block: below the state directory, and not reachable.
pub(crate) fn default(state_dir: &Path) -> Store {
    Store {
        data_dir: state_dir.join("store"),
        listen: default_store_listen(),
        root: None,
        virtual_host_domain: None,
        segment_size_bytes: DEFAULT_SEGMENT_SIZE_BYTES,
        scrub_rate_bytes: DEFAULT_SCRUB_RATE_BYTES,
        scrub_interval: Some(DEFAULT_SCRUB_INTERVAL),
        reclaim: true,
        reclaim_rate_bytes: DEFAULT_RECLAIM_RATE_BYTES,
        reclaim_garbage_percent: DEFAULT_RECLAIM_GARBAGE_PERCENT,
        max_connections: DEFAULT_MAX_CONNECTIONS,
        request_memory_bytes: DEFAULT_REQUEST_MEMORY_BYTES,
        standby_reads: StandbyReads::Off,
        standby_staleness: DEFAULT_STANDBY_STALENESS,
        disk_timeout: DEFAULT_DISK_TIMEOUT,
        encryption_keys: Vec::new(),
        webhooks: Vec::new(),
        lifecycle_day: DAY,
    }
}

/// Reads the `store` block, and where its `listen` stands. An empty `data_dir` stands for the one below
/// `state_dir`.
pub(crate) fn store(
    notes: &mut Notes,
    mut section: Section<'_>,
    dir: &Path,
) -> (Store, Option<Range<usize>>) {
    let data_dir = section.absolute_path(notes, "data_dir").map(|path| path.value).unwrap_or_default();
    let listen = section.text(notes, "listen");
    let listen = listen.and_then(|text| address::endpoint(notes, "listen", &text, Some(9000)));
    let root = read_root(notes, &mut section, dir);
    let domain = read_domain(notes, &mut section);
    let segment = section
        .size_bytes(notes, "segment_size", MIN_SEGMENT_SIZE_BYTES..=MAX_SEGMENT_SIZE_BYTES)
        .map_or(DEFAULT_SEGMENT_SIZE_BYTES, |size| size.value);
    let scrub_rate = section
        .size_bytes(notes, "scrub_rate", MIN_RECLAIM_RATE_BYTES..=MAX_RECLAIM_RATE_BYTES)
        .map_or(DEFAULT_SCRUB_RATE_BYTES, |rate| rate.value);
    let scrub_interval = read_scrub_interval(notes, &mut section);
    let reclaim = section.flag(notes, "reclaim").is_none_or(|given| given.value);
    let reclaim_rate = section
        .size_bytes(notes, "reclaim_rate", MIN_RECLAIM_RATE_BYTES..=MAX_RECLAIM_RATE_BYTES)
        .map_or(DEFAULT_RECLAIM_RATE_BYTES, |rate| rate.value);
    let reclaim_garbage = section
        .integer(notes, "reclaim_garbage_percent", 10..=90)
        .and_then(|percent| u8::try_from(percent.value).ok())
        .unwrap_or(DEFAULT_RECLAIM_GARBAGE_PERCENT);
    let connections = section
        .integer(notes, "max_connections", 1..=65_536)
        .and_then(|count| u32::try_from(count.value).ok())
        .unwrap_or(DEFAULT_MAX_CONNECTIONS);
    let request_memory = section
        .size_bytes(notes, "request_memory", MIN_REQUEST_MEMORY_BYTES..=MAX_REQUEST_MEMORY_BYTES)
        .map_or(DEFAULT_REQUEST_MEMORY_BYTES, |bytes| bytes.value);
    let (standby_reads, standby_staleness) = read_standby(notes, &mut section);
    let disk_timeout = read_disk_timeout(notes, &mut section);
    let encryption_keys = read_keys(notes, &mut section, dir);
    let webhooks = read_webhooks(notes, &mut section, dir);
    let lifecycle_day = read_day(notes, &mut section);
    section.close(notes);
    let place = listen.as_ref().map(|listen| listen.span.clone());
    let store = Store {
        data_dir,
        listen: listen.map_or_else(default_store_listen, |listen| listen.value),
        root,
        virtual_host_domain: domain,
        segment_size_bytes: segment,
        scrub_rate_bytes: scrub_rate,
        scrub_interval,
        reclaim,
        reclaim_rate_bytes: reclaim_rate,
        reclaim_garbage_percent: reclaim_garbage,
        max_connections: connections,
        request_memory_bytes: request_memory,
        standby_reads,
        standby_staleness,
        disk_timeout,
        encryption_keys,
        webhooks,
        lifecycle_day,
    };
    (store, place)
}

fn read_scrub_interval(notes: &mut Notes, section: &mut Section<'_>) -> Option<Duration> {
    let Some(given) = section.duration(notes, "scrub_interval") else { return Some(DEFAULT_SCRUB_INTERVAL) };
    if given.value.is_zero() {
        return None;
    }
    if given.value < MIN_SCRUB_INTERVAL {
        let message = format!("`scrub_interval` {} leaves the disk no rest", show(given.value));
        let mend = format!(
            "write \"{}\" or more (\"168h\" is usual), or 0 to read the log through only when asked",
            show(MIN_SCRUB_INTERVAL)
        );
        notes.error(&given.span, message, mend);
        return Some(DEFAULT_SCRUB_INTERVAL);
    }
    Some(given.value)
}

fn read_disk_timeout(notes: &mut Notes, section: &mut Section<'_>) -> Duration {
    let Some(given) = section.duration(notes, "disk_timeout") else { return DEFAULT_DISK_TIMEOUT };
    if (MIN_DISK_TIMEOUT..=MAX_DISK_TIMEOUT).contains(&given.value) {
        return given.value;
    }
    let message = format!("`disk_timeout` {} cannot tell a stalled disk from a busy one", show(given.value));
    let mend = format!(
        "write from \"{}\" to \"{}\"; \"{}\" is usual",
        show(MIN_DISK_TIMEOUT),
        show(MAX_DISK_TIMEOUT),
        show(DEFAULT_DISK_TIMEOUT)
    );
    notes.error(&given.span, message, mend);
    DEFAULT_DISK_TIMEOUT
}

fn read_standby(notes: &mut Notes, section: &mut Section<'_>) -> (StandbyReads, Duration) {
    let choices =
        [("off", StandbyReads::Off), ("bounded", StandbyReads::Bounded), ("hand_on", StandbyReads::HandOn)];
    let reads =
        section.choice(notes, "standby_reads", &choices).map_or(StandbyReads::Off, |given| given.value);
    let Some(given) = section.duration(notes, "standby_staleness") else {
        return (reads, DEFAULT_STANDBY_STALENESS);
    };
    if given.value > MAX_STANDBY_STALENESS {
        let message = format!("`standby_staleness` {} is no bound any more", show(given.value));
        let mend = format!(
            "write from \"0s\" (as new as at the primary) to \"{}\"; \"{}\" is usual",
            show(MAX_STANDBY_STALENESS),
            show(DEFAULT_STANDBY_STALENESS)
        );
        notes.error(&given.span, message, mend);
    } else if reads != StandbyReads::Bounded {
        let message =
            "`standby_staleness` is not used: it bounds what a standby shows that answers reads itself";
        notes.warn(&given.span, message, "add `standby_reads = \"bounded\"`, or leave it out");
    }
    (reads, given.value)
}

fn read_root(notes: &mut Notes, section: &mut Section<'_>, dir: &Path) -> Option<RootCredentials> {
    let access = section.text(notes, "root_access_key");
    let secret = either_secret(notes, section, dir, "root_secret_key", "root_secret_key_file");
    let has_access = section.key_span("root_access_key");
    let has_secret = section.key_span("root_secret_key").or_else(|| section.key_span("root_secret_key_file"));
    match (has_access, has_secret) {
        (Some(place), None) => {
            let mend = "add `root_secret_key_file = \"/etc/holdfast/root-secret\"`, or `root_secret_key`";
            notes.error(&place, "`root_access_key` is given without its secret", mend);
        }
        (None, Some(place)) => {
            let mend = "add `root_access_key = \"admin\"`";
            notes.error(&place, "the root secret is given without `root_access_key`", mend);
        }
        _ => {}
    }
    let (access, secret) = (access?, secret?);
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if access.value.is_empty() || access.value.len() > MAX_ACCESS_KEY_BYTES || !access.value.chars().all(good)
    {
        let mend = "write 1 to 128 characters of A-Z a-z 0-9 . _ -, such as \"admin\"";
        notes.error(&access.span, "`root_access_key` cannot be used in a request", mend);
        return None;
    }
    warn_short(notes, "the root secret", &secret, MIN_ROOT_SECRET_BYTES);
    Some(RootCredentials { access_key: access.value, secret_key: secret.value })
}

fn read_domain(notes: &mut Notes, section: &mut Section<'_>) -> Option<String> {
    let domain = section.text(notes, "virtual_host_domain")?;
    let good = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if domain.value.len() <= 253
        && domain.value.split('.').all(good)
        && domain.value.parse::<IpAddr>().is_err()
    {
        return Some(domain.value.to_ascii_lowercase());
    }
    let mend = "write a domain name without scheme and port, such as \"s3.example.com\"";
    notes.error(&domain.span, format!("{:?} is not a domain name", domain.value), mend);
    None
}

/// The keys of `encryption_key_file`, the one that encrypts first.
fn read_keys(notes: &mut Notes, section: &mut Section<'_>, dir: &Path) -> Vec<Secret> {
    let Some(path) = section.text(notes, "encryption_key_file") else { return Vec::new() };
    let Some(file) = secret_file::read(notes, "encryption_key_file", &path, dir) else { return Vec::new() };
    let lines = file.value.expose().lines().map(str::trim);
    let keys: Vec<Secret> =
        lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(Secret::new).collect();
    let good = |key: &Secret| {
        key.len_bytes() == KEY_DIGITS && key.expose().bytes().all(|digit| digit.is_ascii_hexdigit())
    };
    if let Some(at) = keys.iter().position(|key| !good(key)) {
        let message = format!("`encryption_key_file`: key {} is not {KEY_DIGITS} hexadecimal digits", at + 1);
        notes.error(&path.span, message, "write one key on each line, made by `openssl rand -hex 32`");
        return Vec::new();
    }
    if keys.is_empty() || keys.len() > MAX_ENCRYPTION_KEYS {
        let message = format!("`encryption_key_file` holds {} keys", keys.len());
        let mend = format!("write 1 to {MAX_ENCRYPTION_KEYS} lines of {KEY_DIGITS} hexadecimal digits");
        notes.error(&path.span, message, mend);
        return Vec::new();
    }
    keys
}

/// `webhook "name" { url = "http://..." }`: where events may go.
fn read_webhooks(notes: &mut Notes, section: &mut Section<'_>, dir: &Path) -> Vec<Webhook> {
    let mut webhooks = Vec::new();
    for (name, mut section) in section.named_blocks(notes, "webhook") {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if !(1..=63).contains(&name.value.len()) || !name.value.chars().all(good) {
            let message = format!("{:?} cannot be the name of a webhook", name.value);
            notes.error(&name.span, message, "write 1 to 63 characters of A-Z a-z 0-9 . _ -");
        }
        let head = section.head.clone();
        let url = section.text(notes, "url");
        let token = either_secret(notes, &mut section, dir, "token", "token_file");
        section.close(notes);
        match url {
            None => {
                notes.error(&head, "a webhook has no `url`", "write `url = \"http://10.0.0.9:8000/events\"`")
            }
            Some(url) if !is_http(&url.value) => {
                let message = format!("{:?} is not an address that events can be sent to", url.value);
                notes.error(&url.span, message, "write `url = \"http://HOST:PORT/PATH\"`");
            }
            Some(url) => {
                let token = token.map(|token| token.value);
                webhooks.push(Webhook { name: name.value, url: url.value, token });
            }
        }
        if webhooks.len() > MAX_WEBHOOKS {
            notes.error(&head, format!("more than {MAX_WEBHOOKS} webhooks"), "remove some of them");
        }
    }
    webhooks
}

fn is_http(url: &str) -> bool {
    let rest = url.strip_prefix("http://");
    let good = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '<' | '>' | '@');
    rest.is_some_and(|rest| {
        rest.chars().all(good) && rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[')
    })
}

/// How long a day of lifecycle rules is: shorter only to try rules out.
fn read_day(notes: &mut Notes, section: &mut Section<'_>) -> Duration {
    let Some(given) = section.duration(notes, "lifecycle_day") else { return DAY };
    if given.value < Duration::from_secs(1) || given.value > DAY {
        let message = format!("`lifecycle_day` {} is not a day", show(given.value));
        notes.error(&given.span, message, "leave it out, or write from \"1s\" to \"24h\" to try rules out");
        return DAY;
    }
    if given.value < DAY {
        let message = format!("lifecycle rules count {} as a day: objects end early", show(given.value));
        notes.warn(&given.span, message, "remove `lifecycle_day` once the rules are tried out");
    }
    given.value
}
