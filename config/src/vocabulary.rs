//! Knows which keys exist and where, so that a mistyped or misplaced one can be put right.
//!
//! Only messages come out of it: what a key means is decided where it is read. Invariant (a test
//! holds it): every key named here is accepted where this table says it belongs.

/// The keys of each section, attributes and blocks alike.
pub(crate) const SECTIONS: &[(&str, &[&str])] = &[
    ("", &["replication", "store", "api", "check", "service", "fence", "sync_files", "backup"]),
    (
        "replication",
        &[
            "mode",
            "node_id",
            "listen_addr",
            "peer_addr",
            "peer_addrs",
            "primary_addr",
            "witness_addrs",
            "secret_key",
            "secret_key_file",
            "previous_secret_keys",
            "previous_secret_key_files",
            "state_dir",
            "compression",
            "encryption",
            "sync_interval",
            "batch_size",
            "ack",
            "catch_up_rate",
            "ha",
        ],
    ),
    (
        "replication.ha",
        &[
            "enabled",
            "priority",
            "failback_mode",
            "failback_delay",
            "failback_window",
            "heartbeat_interval",
            "failure_threshold",
            "failure_timeout",
            "heartbeat_port",
            "lease",
            "two_node",
            "fencing",
            "standby_timeout",
            "monitor_links",
            "monitor_gateways",
            "conntrack_sync",
            "virtual_ip",
            "pre_failover_script",
            "post_failover_script",
            "pre_failover_veto",
            "hook_timeout",
            "hook",
            "heartbeat_path",
            "gate",
            "flight_recorder",
            "realtime",
            "watchdog",
            "watchdog_timeout",
        ],
    ),
    (
        "replication.ha.virtual_ip",
        &[
            "address",
            "interface",
            "arp_ping",
            "gratuitous_arp",
            "garp_repeat",
            "garp_interval",
            "garp_refresh",
            "route",
            "rule",
        ],
    ),
    ("replication.ha.virtual_ip.route", &["to", "via", "table", "metric", "src", "required"]),
    ("replication.ha.virtual_ip.rule", &["from", "to", "table", "priority", "required"]),
    ("replication.ha.hook", &["on", "exec", "timeout", "veto"]),
    ("replication.ha.heartbeat_path", &["listen", "peers"]),
    ("replication.ha.conntrack_sync", &["enabled", "interface", "sync_interval", "max_entries"]),
    (
        "store",
        &[
            "data_dir",
            "listen",
            "root_access_key",
            "root_secret_key",
            "root_secret_key_file",
            "virtual_host_domain",
            "segment_size",
            "scrub_rate",
            "scrub_interval",
            "reclaim",
            "reclaim_rate",
            "reclaim_garbage_percent",
            "max_connections",
            "request_memory",
            "standby_reads",
            "standby_staleness",
            "disk_timeout",
            "encryption_key_file",
            "lifecycle_day",
        ],
    ),
    ("store.webhook", &["url", "token", "token_file"]),
    (
        "check",
        &[
            "exec", "tcp", "http", "status", "file", "max_age", "process", "pidfile", "unit", "interval",
            "timeout", "rise", "fall", "weight",
        ],
    ),
    ("api", &["listen", "token", "token_file"]),
    (
        "fence",
        &[
            "agent",
            "member",
            "members",
            "plug",
            "plugs",
            "level",
            "delay",
            "timeout",
            "retries",
            "verify",
            "action",
            "monitor_interval",
            "params",
        ],
    ),
    (
        "sync_files",
        &[
            "paths",
            "exclude",
            "on_change",
            "on_takeover",
            "timeout",
            "veto",
            "max_file_size",
            "max_files",
            "rescan_interval",
        ],
    ),
    ("service", &["unit", "start_timeout", "stop_timeout", "on_failure"]),
];

/// Sections below this have such ordinary words (`to`, `table`, `priority`) that nobody who writes one of them
/// elsewhere means these.
const ORDINARY: &str = "replication.ha.virtual_ip.";

/// The one other place where exactly this key belongs. Words that several sections know give none.
pub(crate) fn elsewhere(key: &str, here: &str) -> Option<String> {
    let others = SECTIONS.iter().filter(|(path, _)| *path != here && !path.starts_with(ORDINARY));
    let mut places = others.filter(|(_, keys)| keys.contains(&key));
    let (path, _) = places.next()?;
    if places.next().is_some() {
        return None;
    }
    Some(place(path))
}

/// A similar key of another section.
pub(crate) fn nearest_elsewhere(key: &str, here: &str) -> Option<(&'static str, String)> {
    let others = SECTIONS.iter().filter(|(path, _)| *path != here && !path.starts_with(ORDINARY));
    let all = others.flat_map(|&(path, keys)| keys.iter().map(move |&known| (known, path)));
    let close = all.filter_map(|(known, path)| Some((close_enough(key, known)?, known, path)));
    close.min_by_key(|&(distance, ..)| distance).map(|(_, known, path)| (known, place(path)))
}

/// The candidate that `word` is most likely a slip for.
pub(crate) fn nearest<'k>(word: &str, candidates: &[&'k str]) -> Option<&'k str> {
    let close = candidates.iter().filter_map(|&known| Some((close_enough(word, known)?, known)));
    close.min_by_key(|&(distance, _)| distance).map(|(_, known)| known)
}

fn place(path: &str) -> String {
    if path.is_empty() { "the top level of the file".to_owned() } else { format!("block `{path}`") }
}

/// Distance, where the words are alike enough that the one was probably meant for the other.
fn close_enough(word: &str, known: &str) -> Option<usize> {
    /// Longer words than any key cannot be a slip, and would cost quadratic time.
    const MAX_WORD: usize = 64;
    if word.len() > MAX_WORD {
        return None;
    }
    let word = word.to_ascii_lowercase().replace('-', "_");
    let distance = edits(&word, known);
    (distance <= (known.len() / 3).clamp(1, 3)).then_some(distance)
}

/// Insertions, deletions, substitutions and swaps of neighbours that turn one word into the other.
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let changed = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + changed);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_strangers_are_not() {
        let known = ["heartbeat_interval", "priority", "mode"];
        assert_eq!(nearest("heartbeat_intervall", &known), Some("heartbeat_interval"));
        assert_eq!(nearest("heartbeat-interval", &known), Some("heartbeat_interval"));
        assert_eq!(nearest("prioirty", &known), Some("priority"));
        assert_eq!(nearest("mdoe", &known), Some("mode"));
        assert_eq!(nearest("colour", &known), None);
        assert_eq!(nearest(&"x".repeat(10_000), &known), None);
    }

    #[test]
    fn a_misplaced_key_is_sent_where_it_belongs() {
        assert_eq!(elsewhere("priority", "replication").unwrap(), "block `replication.ha`");
        // `listen` means three things; naming one of them would mislead.
        assert_eq!(elsewhere("listen", "replication"), None);
    }

    #[test]
    fn every_key_of_the_table_is_accepted_where_it_belongs() {
        // The file has every key but those that exclude another one; that it loads is tested elsewhere.
        const EVERY_KEY: &str = include_str!("../tests/fixtures/every_key.hcl");
        let loaded = crate::Config::parse("every_key.hcl", EVERY_KEY);
        assert!(loaded.is_ok(), "{}", loaded.unwrap_err());
        let words: Vec<&str> = EVERY_KEY.split_whitespace().collect();
        // These name files, which are not beside this one.
        let excluded = ["secret_key_file", "root_secret_key_file", "token_file", "encryption_key_file"];
        for key in SECTIONS.iter().flat_map(|(_, keys)| *keys) {
            assert!(words.contains(key) || excluded.contains(key), "{key} is not in the file");
        }
    }
}
