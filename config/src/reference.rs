//! Every key with its form, its default and what it does, for manual pages.
//!
//! Words only: nothing is decided here. Invariant (a test holds it): it has the keys of [`crate::vocabulary`], each
//! once, and no other.

use crate::fence::{DEFAULT_FENCE_DELAY, DEFAULT_FENCE_TIMEOUT, DEFAULT_MONITOR_INTERVAL};
use crate::hooks::{DEFAULT_HOOK_TIMEOUT, DEFAULT_UNIT_TIMEOUT};
use crate::quantity::{show, show_size};
use crate::read::{DEFAULT_BATCH_SIZE, DEFAULT_REPLICATION_PORT, DEFAULT_STATE_DIR};
use crate::sync_files::{
    DEFAULT_MAX_FILE_BYTES, DEFAULT_MAX_FILES, DEFAULT_RESCAN_INTERVAL, MOST_FILE_BYTES,
};
use crate::{read_check, read_ha, read_store, read_virtual_ip};

/// A block, or the top level of the file.
#[derive(Clone, Debug)]
pub struct Block {
    /// Where it stands: `replication.ha`; empty for the top level.
    pub path: &'static str,
    /// How it begins: `virtual_ip {`.
    pub head: &'static str,
    /// What it is for.
    pub text: &'static str,
    /// Its keys that are no blocks, in order.
    pub keys: Vec<Key>,
}

/// One key.
#[derive(Clone, Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What may be written: `duration`, `"auto" | "manual"`.
    pub form: &'static str,
    /// What holds without it; empty where it is needed, or where nothing does.
    pub default: String,
    /// What it does.
    pub text: &'static str,
}

fn key(name: &'static str, form: &'static str, default: impl ToString, text: &'static str) -> Key {
    Key { name, form, default: default.to_string(), text }
}

fn block(path: &'static str, head: &'static str, text: &'static str, keys: Vec<Key>) -> Block {
    Block { path, head, text, keys }
}

/// Where a secret stands directly or in a file.
const SECRET_FILE: &str = "The same in a file of its own, which only root can write and read. Relative paths start at \
    the configuration.";

/// The whole file, block by block.
pub fn reference() -> Vec<Block> {
    vec![
        replication(),
        ha(),
        virtual_ip(),
        route(),
        rule(),
        heartbeat_path(),
        hook(),
        conntrack_sync(),
        store(),
        webhook(),
        api(),
        check(),
        service(),
        fence(),
        sync_files(),
        block("backup", "backup {", "Accepted, and not active in this version.", Vec::new()),
    ]
}

fn replication() -> Block {
    let default_listen = format!("port {DEFAULT_REPLICATION_PORT}");
    block(
        "replication",
        "replication {",
        "This member, the others, and how the log goes from one to another.",
        vec![
            key(
                "mode",
                "\"primary\" | \"replica\" | \"witness\"",
                "",
                "What this member is: data members are \"primary\" or \"replica\", which only says who stands first in a \
                 new cluster; a witness votes and holds no data.",
            ),
            key(
                "node_id",
                "text",
                "the address in listen_addr",
                "Its name, unique in the cluster. It never changes.",
            ),
            key(
                "listen_addr",
                "\"ADDRESS[:PORT]\"",
                default_listen,
                "Its own address, where it takes the others' streams. Heartbeats come to the same address, at \
                 heartbeat_port.",
            ),
            key("peer_addrs", "[\"ADDRESS[:PORT]\", ...]", "", "The other data members."),
            key("peer_addr", "\"ADDRESS[:PORT]\"", "", "One of them."),
            key("primary_addr", "\"ADDRESS[:PORT]\"", "", "One of them, in the configuration of a replica."),
            key(
                "witness_addrs",
                "[\"ADDRESS[:PORT]\", ...]",
                "",
                "The witnesses; the port is that of heartbeats.",
            ),
            key(
                "secret_key",
                "text",
                "",
                "What the members know and nobody else: signs heartbeats, and encrypts streams. At least 12 bytes.",
            ),
            key("secret_key_file", "path", "", SECRET_FILE),
            key(
                "previous_secret_key_files",
                "[path, ...]",
                "",
                "Former secrets that are still believed, while a new one is brought to all members.",
            ),
            key("previous_secret_keys", "[text, ...]", "", "The same, written here."),
            key("state_dir", "path", DEFAULT_STATE_DIR, "Where votes and the in-sync record are kept."),
            key("compression", "true | false", "false", "Whether what goes over the streams is compressed."),
            key("encryption", "true", "true", "Streams are always encrypted; false is warned about."),
            key(
                "ack",
                "\"in_sync\" | \"local\"",
                "in_sync",
                "When a write is acknowledged: when it is durable on the whole in-sync set, or on the primary alone. \
                 With \"local\", what the standby lacks is lost with the primary.",
            ),
            key(
                "sync_interval",
                "duration",
                "0s",
                "With ack = \"local\" alone: how long a record waits for others to be sent with.",
            ),
            key(
                "batch_size",
                "number",
                DEFAULT_BATCH_SIZE,
                "With ack = \"local\" alone: so many records are sent without waiting longer.",
            ),
            key(
                "catch_up_rate",
                "size",
                "no bound",
                "Most bytes in a second that the primary sends to a member that is not in sync and lacks much.",
            ),
        ],
    )
}

fn ha() -> Block {
    let detect = read_ha::DEFAULT_INTERVAL * read_ha::DEFAULT_THRESHOLD;
    block(
        "replication.ha",
        "ha {",
        "Who is primary, and what moves with the role. Without the block nothing fails over by itself.",
        vec![
            key("enabled", "true | false", "true", "Whether this member may become primary by itself."),
            key("priority", "number", read_ha::DEFAULT_PRIORITY, "Its preference: the lower the more."),
            key(
                "failback_mode",
                "\"auto\" | \"manual\" | \"disabled\"",
                "manual",
                "Whether the preferred member takes the role back by itself, on order, or never.",
            ),
            key(
                "failback_delay",
                "duration",
                show(read_ha::DEFAULT_FAILBACK_DELAY),
                "How long it must have been healthy and in sync before.",
            ),
            key(
                "failback_window",
                "duration",
                "no bound",
                "It does so only within this time after it came back.",
            ),
            key(
                "heartbeat_interval",
                "duration",
                show(read_ha::DEFAULT_INTERVAL),
                "Time between two heartbeats.",
            ),
            key(
                "failure_threshold",
                "number",
                read_ha::DEFAULT_THRESHOLD,
                "So many missed in a row are a failure.",
            ),
            key("failure_timeout", "duration", "interval * threshold", "The same as a time, instead."),
            key("heartbeat_port", "port", read_ha::DEFAULT_HEARTBEAT_PORT, "Where heartbeats go, over UDP."),
            key(
                "lease",
                "duration",
                show(detect),
                "How long a primary serves after what a majority answered last. As long as the detection unless given.",
            ),
            key(
                "two_node",
                "\"probe\" | \"fence\" | \"manual\"",
                "probe",
                "What a pair without a witness does when one half is silent: take over after looking for it on the \
                 network, after switching it off, or on order.",
            ),
            key(
                "fencing",
                "\"required\" | \"preferred\"",
                "required",
                "Whether a takeover waits until the fence devices confirmed that the former primary is off.",
            ),
            key(
                "standby_timeout",
                "duration",
                show(read_ha::DEFAULT_STANDBY_TIMEOUT),
                "For so long a stalled standby may delay writes before it leaves the in-sync set.",
            ),
            key("monitor_links", "[interface, ...]", "", "Links that a primary needs."),
            key("monitor_gateways", "[address, ...]", "", "Gateways of which a primary needs one, at least."),
            key(
                "gate",
                "\"auto\" | \"ebpf\" | \"nftables\" | \"none\"",
                "auto",
                "What in the kernel stops the virtual address when the lease ends. A named one must be had.",
            ),
            key(
                "flight_recorder",
                "true | false",
                "true",
                "Whether the last minutes are written down when the role changes.",
            ),
            key(
                "realtime",
                "true | false",
                "true",
                "Whether heartbeats go before other programs, from locked memory.",
            ),
            key("watchdog", "path", "", "A watchdog device that restarts a host whose agent does not move."),
            key(
                "watchdog_timeout",
                "duration",
                show(read_ha::DEFAULT_WATCHDOG_TIMEOUT),
                "After how long. Whole seconds, from 10 to 600.",
            ),
            key("pre_failover_script", "path", "", "Run before this member takes over."),
            key("post_failover_script", "path", "", "Run when it is primary."),
            key(
                "pre_failover_veto",
                "true | false",
                "false",
                "Whether a failure of the first one ends the takeover.",
            ),
            key(
                "hook_timeout",
                "duration",
                show(DEFAULT_HOOK_TIMEOUT),
                "How long any of its programs may take.",
            ),
        ],
    )
}

fn virtual_ip() -> Block {
    block(
        "replication.ha.virtual_ip",
        "virtual_ip {",
        "An address that the primary has. The block may come several times.",
        vec![
            key("address", "\"ADDRESS/PREFIX\"", "", "The address."),
            key("interface", "name", "", "Where."),
            key(
                "arp_ping",
                "true | false",
                "true",
                "Whether it is asked for on the network before it is taken.",
            ),
            key("gratuitous_arp", "true | false", "true", "Whether it is announced."),
            key(
                "garp_repeat",
                "number",
                read_virtual_ip::DEFAULT_REPEAT,
                "How often it is announced when it is taken.",
            ),
            key(
                "garp_interval",
                "duration",
                "",
                "Time between two of these announcements; growing where it is not given.",
            ),
            key(
                "garp_refresh",
                "duration",
                show(read_virtual_ip::DEFAULT_REFRESH),
                "How often it is announced while it is held; 0 for not.",
            ),
        ],
    )
}

fn route() -> Block {
    block(
        "replication.ha.virtual_ip.route",
        "route {",
        "A route that comes and goes with the address.",
        vec![
            key("to", "\"default\" | \"ADDRESS/PREFIX\"", "", "Where it leads."),
            key("via", "address", "", "The gateway."),
            key("table", "number", read_virtual_ip::MAIN_TABLE, "The routing table."),
            key("metric", "number", "", "Its metric."),
            key("src", "address", "", "The source that packets take."),
            key("required", "true | false", "false", "Whether a member that cannot set it does not serve."),
        ],
    )
}

fn rule() -> Block {
    block(
        "replication.ha.virtual_ip.rule",
        "rule {",
        "A routing rule that comes and goes with the address.",
        vec![
            key("from", "\"ADDRESS[/PREFIX]\"", "", "Packets from here,"),
            key("to", "\"ADDRESS[/PREFIX]\"", "", "or to there,"),
            key("table", "number", "", "look into this table."),
            key("priority", "number", read_virtual_ip::DEFAULT_PRIORITY, "Its place among the rules."),
            key("required", "true | false", "false", "As for a route."),
        ],
    )
}

fn heartbeat_path() -> Block {
    block(
        "replication.ha.heartbeat_path",
        "heartbeat_path \"NAME\" {",
        "A further network on which members hear each other. They count as silent when they are on every path.",
        vec![
            key("listen", "\"ADDRESS[:PORT]\"", "", "This member's address there."),
            key(
                "peers",
                "[\"ADDRESS[:PORT]\", ...]",
                "",
                "The others', data members first, in the order of their keys above.",
            ),
        ],
    )
}

fn hook() -> Block {
    block(
        "replication.ha.hook",
        "hook \"NAME\" {",
        "A program that is run when the role changes.",
        vec![
            key(
                "on",
                "[event, ...]",
                "",
                "When: \"pre_primary\", \"primary\", \"pre_standby\", \"standby\", \"fault\", \"stop\".",
            ),
            key(
                "exec",
                "[program, word, ...]",
                "",
                "What, without a shell. Only root may be able to write it.",
            ),
            key("timeout", "duration", "hook_timeout", "How long it may take."),
            key("veto", "true | false", "false", "Whether its failure ends a takeover."),
        ],
    )
}

fn conntrack_sync() -> Block {
    block(
        "replication.ha.conntrack_sync",
        "conntrack_sync {",
        "Connections that pass through the primary go on through the standby.",
        vec![
            key("enabled", "true | false", "true", "Whether they do."),
            key("interface", "name", "that of the stream", "Where the members exchange them."),
            key(
                "sync_interval",
                "duration",
                show(read_ha::DEFAULT_CONNTRACK_INTERVAL),
                "How often all are compared.",
            ),
            key("max_entries", "number", read_ha::DEFAULT_CONNTRACK_ENTRIES, "Most of them."),
        ],
    )
}

fn store() -> Block {
    block(
        "store",
        "store {",
        "The S3 store, and the log that it is kept in.",
        vec![
            key("data_dir", "path", "state_dir/store", "Where the log is."),
            key(
                "listen",
                "\"ADDRESS[:PORT]\"",
                "",
                "Where S3 is served; port 9000. Without it there is no endpoint.",
            ),
            key("root_access_key", "text", "", "The access key of the user that may do everything."),
            key("root_secret_key", "text", "", "Its secret, the same on all members."),
            key("root_secret_key_file", "path", "", SECRET_FILE),
            key("virtual_host_domain", "domain", "", "Buckets are addressed as BUCKET.DOMAIN, too."),
            key(
                "segment_size",
                "size",
                show_size(read_store::DEFAULT_SEGMENT_SIZE_BYTES),
                "Size of a file of the log.",
            ),
            key(
                "scrub_rate",
                "size",
                show_size(read_store::DEFAULT_SCRUB_RATE_BYTES),
                "Bytes in a second at which the log is read through.",
            ),
            key(
                "scrub_interval",
                "duration",
                show(read_store::DEFAULT_SCRUB_INTERVAL),
                "How often; 0 for never.",
            ),
            key("reclaim", "true | false", "true", "Whether the space of what was deleted is won back."),
            key(
                "reclaim_rate",
                "size",
                show_size(read_store::DEFAULT_RECLAIM_RATE_BYTES),
                "Bytes in a second at which it is.",
            ),
            key(
                "reclaim_garbage_percent",
                "number",
                read_store::DEFAULT_RECLAIM_GARBAGE_PERCENT,
                "From how much garbage on, 10 to 90.",
            ),
            key(
                "max_connections",
                "number",
                read_store::DEFAULT_MAX_CONNECTIONS,
                "Most connections of clients at once.",
            ),
            key(
                "request_memory",
                "size",
                show_size(read_store::DEFAULT_REQUEST_MEMORY_BYTES),
                "Memory that requests under way may take together.",
            ),
            key(
                "standby_reads",
                "\"off\" | \"bounded\" | \"hand_on\"",
                "off",
                "What a standby does with requests: nothing, answer reads that are fresh enough, or hand all to the primary.",
            ),
            key(
                "standby_staleness",
                "duration",
                show(read_store::DEFAULT_STANDBY_STALENESS),
                "How old its answers may be.",
            ),
            key(
                "disk_timeout",
                "duration",
                show(read_store::DEFAULT_DISK_TIMEOUT),
                "After how long without a durable write a disk counts as stalled.",
            ),
            key(
                "encryption_key_file",
                "path",
                "",
                "Keys for encryption at rest, one in a line; the first encrypts, all decrypt.",
            ),
            key("lifecycle_day", "duration", "24h", "How long a day of lifecycle rules is; for trials."),
        ],
    )
}

fn webhook() -> Block {
    block(
        "store.webhook",
        "webhook \"NAME\" {",
        "Where events of buckets may be posted.",
        vec![
            key("url", "\"http://...\"", "", "Where."),
            key("token", "text", "", "Sent as a bearer's."),
            key("token_file", "path", "", SECRET_FILE),
        ],
    )
}

fn api() -> Block {
    block(
        "api",
        "api {",
        "What the commands of holdfast(1), monitors and balancers ask.",
        vec![
            key("listen", "\"ADDRESS[:PORT]\"", "127.0.0.1:8080", "Where it answers."),
            key(
                "token",
                "text",
                "",
                "Needed by whoever wants to change something; anybody on this host can without one.",
            ),
            key("token_file", "path", "", SECRET_FILE),
        ],
    )
}

fn check() -> Block {
    block(
        "check",
        "check \"NAME\" {",
        "Something that must be well on this host. It has exactly one of exec, tcp, http, file, process, pidfile and unit.",
        vec![
            key("exec", "[program, word, ...]", "", "Well if the program ends with 0."),
            key("tcp", "\"ADDRESS:PORT\"", "", "Well if it takes a connection."),
            key("http", "\"http://...\"", "", "Well if it answers with a status that is meant."),
            key("status", "\"CODE[..CODE]\"", "200..399", "Which, for http."),
            key("file", "path", "", "Well if the file is there."),
            key("max_age", "duration", "", "and not older than this."),
            key("process", "name", "", "Well if a process of that name runs."),
            key("pidfile", "path", "", "Well if the process that it names runs."),
            key("unit", "name", "", "Well if the unit of systemd is active."),
            key("interval", "duration", show(read_check::DEFAULT_INTERVAL), "How often."),
            key("timeout", "duration", show(read_check::DEFAULT_TIMEOUT), "How long it may take."),
            key("rise", "number", read_check::DEFAULT_RISE, "So many good runs in a row, and it is well."),
            key("fall", "number", read_check::DEFAULT_FALL, "So many bad ones, and it is not."),
            key(
                "weight",
                "number",
                "more than all",
                "What a failure counts, 1 to 254: the role goes to the member whose failures count least.",
            ),
        ],
    )
}

fn service() -> Block {
    block(
        "service",
        "service \"NAME\" {",
        "A unit of systemd that runs where the primary is.",
        vec![
            key("unit", "name", "", "Which. Only Holdfast starts it: disable it."),
            key("start_timeout", "duration", show(DEFAULT_UNIT_TIMEOUT), "How long it may take to start."),
            key("stop_timeout", "duration", show(DEFAULT_UNIT_TIMEOUT), "How long it may take to stop."),
            key(
                "on_failure",
                "\"ignore\" | \"give_up\"",
                "ignore",
                "Whether a unit that does not start gives the takeover up.",
            ),
        ],
    )
}

fn fence() -> Block {
    block(
        "fence",
        "fence \"NAME\" {",
        "A device that switches other members off, by an agent of the package fence-agents.",
        vec![
            key("agent", "program", "", "Its name, such as \"fence_ipmilan\", or a whole path."),
            key("member", "name", "", "Whom it switches,"),
            key("members", "[name, ...]", "", "or all of them."),
            key("plug", "text", "", "What the device calls it."),
            key("plugs", "[text, ...]", "", "The same for members, in their order."),
            key("level", "number", 1, "Lower ones are tried first; devices of one level all have to work."),
            key(
                "delay",
                "duration",
                show(DEFAULT_FENCE_DELAY),
                "How long the less preferred half of a cut pair waits.",
            ),
            key("timeout", "duration", show(DEFAULT_FENCE_TIMEOUT), "How long one try may take."),
            key("retries", "number", 1, "How often it is tried again."),
            key(
                "verify",
                "true | false",
                "where it can",
                "Whether the device is asked afterwards whether the member is off.",
            ),
            key("action", "\"off\" | \"reboot\"", "off", "What it does."),
            key(
                "monitor_interval",
                "duration",
                show(DEFAULT_MONITOR_INTERVAL),
                "How often the device is looked at.",
            ),
            key(
                "params",
                "block",
                "",
                "What the agent is told besides: ip, username, password_file and so on.",
            ),
        ],
    )
}

fn sync_files() -> Block {
    let largest = format!("{}, {} at most", show_size(DEFAULT_MAX_FILE_BYTES), show_size(MOST_FILE_BYTES));
    block(
        "sync_files",
        "sync_files \"NAME\" {",
        "Files of the primary that the standbys get through the log.",
        vec![
            key("paths", "[path, ...]", "", "Files, and directories with all that is below them."),
            key("exclude", "[pattern, ...]", "", "What is left out, by name or, with a slash, by path."),
            key("on_change", "[program, word, ...]", "", "Run on a standby after files were placed."),
            key("on_takeover", "[program, word, ...]", "", "Run by a new primary before services start."),
            key("timeout", "duration", show(DEFAULT_HOOK_TIMEOUT), "How long either may take."),
            key("veto", "true | false", "false", "Whether a file that cannot be placed gives a takeover up."),
            key("max_file_size", "size", largest, "Larger ones are left out and named."),
            key("max_files", "number", DEFAULT_MAX_FILES, "More are left out and named."),
            key(
                "rescan_interval",
                "duration",
                show(DEFAULT_RESCAN_INTERVAL),
                "How often everything is looked through.",
            ),
        ],
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::vocabulary::SECTIONS;

    #[test]
    fn it_has_every_key_once_and_no_other() {
        let blocks = reference();
        let is_block = |path: &str, name: &str| {
            let whole = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
            blocks.iter().any(|block| block.path == whole)
        };
        for (path, keys) in SECTIONS {
            let wanted: BTreeSet<&str> = keys.iter().copied().filter(|name| !is_block(path, name)).collect();
            let described = blocks.iter().find(|block| block.path == *path);
            let names: Vec<&str> =
                described.iter().flat_map(|block| &block.keys).map(|key| key.name).collect();
            assert_eq!(names.iter().copied().collect::<BTreeSet<_>>(), wanted, "in `{path}`");
            assert_eq!(names.len(), wanted.len(), "a key of `{path}` stands twice");
        }
        for block in &blocks {
            assert!(
                block.path == "backup" || SECTIONS.iter().any(|(path, _)| *path == block.path),
                "{}",
                block.path
            );
            assert!(!block.text.is_empty() && block.keys.iter().all(|key| !key.text.is_empty()));
        }
    }
}
