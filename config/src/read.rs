//! Reads a whole file into a [`Config`], block by block.
//!
//! Decides the default of every key, and says for each key that this version accepts and does not act
//! on what happens instead. Checks that concern several keys are in [`crate::check`]. Invariant: a
//! `Config` comes out only where no error was noted.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hcl_edit::structure::Body;

use crate::address::{self, Ports, Written};
use crate::check;
use crate::model::{Ack, Api, Config, HeartbeatPath, Keys, Mode};
use crate::read_check;
use crate::read_fence;
use crate::read_ha;
use crate::read_hooks;
use crate::read_store;
use crate::read_sync_files;
use crate::report::Notes;
use crate::secret::Secret;
use crate::secret_file;
use crate::section::{At, Section};

/// Port of the replication stream where an address names none.
pub(crate) const DEFAULT_REPLICATION_PORT: u16 = 9001;

/// Where votes, epoch and log live unless the file says otherwise.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/holdfast";

/// Shortest shared key, in bytes: the log's stream takes none that is shorter, so such a pair would never be in sync.
pub const SHORTEST_SECRET_BYTES: usize = 8;

/// Shortest shared key that draws no warning, in bytes.
pub const MIN_SECRET_BYTES: usize = 12;

/// Most former keys: each is tried on every packet that the current key does not open.
pub(crate) const MAX_PREVIOUS_KEYS: usize = 4;

/// Records that go at once under `ack = "local"` where the file says nothing: as the guide's own example has it.
pub(crate) const DEFAULT_BATCH_SIZE: u32 = 1000;

/// Slowest pace of a member that catches up: below it, a terabyte takes a hundred days.
const MIN_CATCH_UP_RATE_BYTES: u64 = 100_000;

/// Fastest: as good as no bound.
const MAX_CATCH_UP_RATE_BYTES: u64 = 64 << 30;

/// What the text gave, with the places that later checks point at.
pub(crate) struct Places {
    pub(crate) replication: Range<usize>,
    pub(crate) mode: Range<usize>,
    pub(crate) listen: Range<usize>,
    pub(crate) store: Option<Range<usize>>,
    pub(crate) store_listen: Option<Range<usize>>,
    pub(crate) api_listen: Option<Range<usize>>,
    pub(crate) ha: Option<Range<usize>>,
    pub(crate) virtual_ips: Vec<Range<usize>>,
    pub(crate) two_node: Option<Range<usize>>,
    pub(crate) fences: Vec<Range<usize>>,
    pub(crate) checks: Vec<Range<usize>>,
    pub(crate) sync_files: read_sync_files::Places,
}

/// Reads the whole file. `dir` is where relative paths of secrets start.
pub(crate) fn file(notes: &mut Notes, body: &Body, dir: &Path) -> Option<Config> {
    let mut root = Section::root(body);
    let replication = root.block(notes, "replication");
    let store = root.block(notes, "store");
    let api = root.block(notes, "api");
    let services = read_hooks::services(notes, &mut root);
    let (checks, check_places) = read_check::checks(notes, &mut root);
    let (fences, fence_places) = read_fence::devices(notes, &mut root, dir);
    let (sync_files, sync_files_places) = read_sync_files::sets(notes, &mut root);
    inactive_blocks(notes, &mut root);
    let store_head = store.as_ref().map(|section| section.head.clone());
    let mut store_listen = None;
    let store_read = store.map(|section| {
        let (read, listen) = read_store::store(notes, section, dir);
        store_listen = listen;
        read
    });
    let mut api_listen = None;
    let api = match api {
        Some(section) => {
            let (read, listen) = read_api(notes, section, dir);
            api_listen = listen;
            read
        }
        None => Api { listen: default_api_listen(), token: None },
    };
    root.close(notes);
    let Some(replication) = replication else {
        if !notes.has_errors() {
            notes.error(
                &(0..0),
                "there is no `replication` block",
                "write `replication {` … `}` with at least `mode`, `listen_addr`, `peer_addrs` and `secret_key_file`",
            );
        }
        return None;
    };
    let (mut config, mut places) = read_replication(notes, replication, dir, api)?;
    places.store = store_head;
    places.store_listen = store_listen;
    places.api_listen = api_listen;
    config.services = services;
    places.checks = check_places;
    config.checks = checks;
    places.fences = fence_places;
    config.fences = fences;
    places.sync_files = sync_files_places;
    config.sync_files = sync_files;
    let wants_store = config.mode != Mode::Witness;
    config.store = match store_read {
        Some(mut store) => {
            if store.data_dir.as_os_str().is_empty() {
                store.data_dir = config.state_dir.join("store");
            }
            Some(store)
        }
        None if wants_store => Some(read_store::default(&config.state_dir)),
        None => None,
    };
    check::whole(notes, &config, &places);
    Some(config)
}

fn inactive_blocks(notes: &mut Notes, root: &mut Section<'_>) {
    if let Some(section) = root.block(notes, "backup") {
        inactive(notes, &section.head, "backup", "no backup is made");
    }
}

/// Warns about something that loads and does nothing yet.
pub(crate) fn inactive(notes: &mut Notes, span: &Range<usize>, what: &str, instead: &str) {
    notes.warn(span, format!("`{what}` is accepted, not active in this version: {instead}"), "");
}

fn read_replication(
    notes: &mut Notes,
    mut section: Section<'_>,
    dir: &Path,
    api: Api,
) -> Option<(Config, Places)> {
    let head = section.head.clone();
    let mode_words = [("primary", Mode::Primary), ("replica", Mode::Replica), ("witness", Mode::Witness)];
    let mode = section.choice(notes, "mode", &mode_words);
    if section.key_span("mode").is_none() {
        notes.error(&head, "`mode` is missing", "write `mode = \"primary\"`, \"replica\" or \"witness\"");
    }
    let listen = read_listen(notes, &mut section);
    let node_id = read_node_id(notes, &mut section, listen.as_ref());
    let keys = read_keys(notes, &mut section, dir);
    let state_dir = section
        .absolute_path(notes, "state_dir")
        .map_or_else(|| PathBuf::from(DEFAULT_STATE_DIR), |path| path.value);
    let compression = section.flag(notes, "compression").is_some_and(|written| written.value);
    refuse_no_encryption(notes, &mut section);
    let ack = read_ack(notes, &mut section);
    let catch_up_rate =
        section.size_bytes(notes, "catch_up_rate", MIN_CATCH_UP_RATE_BYTES..=MAX_CATCH_UP_RATE_BYTES);
    let written = Written {
        peer: section.text(notes, "peer_addr"),
        peers: section.texts(notes, "peer_addrs"),
        primary: section.text(notes, "primary_addr"),
        witnesses: section.texts(notes, "witness_addrs"),
    };
    let ha_section = section.block(notes, "ha");
    let ha_head = ha_section.as_ref().map(|ha| ha.head.clone());
    section.close(notes);

    let mut ha = read_ha::ha(notes, ha_section);
    let ports = Ports {
        replication: listen.as_ref().map_or(DEFAULT_REPLICATION_PORT, |own| own.value.port()),
        heartbeat: ha.ha.heartbeat_port,
    };
    let mut peers = address::peers(notes, &written, listen.as_ref(), ports);
    let own = listen.as_ref().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |own| own.value.ip());
    let main = HeartbeatPath { name: "main".to_owned(), listen: SocketAddr::new(own, ports.heartbeat) };
    let heartbeat_paths = match &mut ha.section {
        Some(section) => address::further_paths(notes, section, main, &mut peers, ports.heartbeat),
        None => vec![main],
    };
    if let Some(section) = ha.section {
        section.close(notes);
    }
    let (mode, listen) = (mode?, listen?);
    if !notes.has_errors() && (node_id.is_none() || keys.is_none()) {
        return None;
    }
    // An error is noted already where one of these is missing: the stand-in only lets the checks of
    // several keys run, so that one run shows all that is wrong, and never leaves this crate.
    let node_id = node_id.unwrap_or_default();
    let keys = keys.unwrap_or_else(|| Keys { signing: Secret::new(""), previous: Vec::new() });
    let places = Places {
        replication: head,
        mode: mode.span,
        listen: listen.span,
        store: None,
        store_listen: None,
        api_listen: None,
        ha: ha_head,
        virtual_ips: ha.virtual_ip_places,
        two_node: ha.two_node_place,
        fences: Vec::new(),
        checks: Vec::new(),
        sync_files: Vec::new(),
    };
    let config = Config {
        mode: mode.value,
        node_id,
        listen: listen.value,
        heartbeat_paths,
        peers,
        keys,
        compression,
        ack,
        catch_up_rate_bytes: catch_up_rate.map(|rate| rate.value),
        state_dir,
        ha: ha.ha,
        services: Vec::new(),
        store: None,
        api,
        checks: Vec::new(),
        fences: Vec::new(),
        sync_files: Vec::new(),
    };
    Some((config, places))
}

fn read_listen(notes: &mut Notes, section: &mut Section<'_>) -> Option<At<SocketAddr>> {
    let Some(text) = section.text(notes, "listen_addr") else {
        if section.key_span("listen_addr").is_none() {
            let mend = "write this member's own address: `listen_addr = \"10.0.0.1:9001\"`";
            notes.error(&section.head, "`listen_addr` is missing", mend);
        }
        return None;
    };
    address::endpoint(notes, "listen_addr", &text, Some(DEFAULT_REPLICATION_PORT))
}

fn read_node_id(
    notes: &mut Notes,
    section: &mut Section<'_>,
    listen: Option<&At<SocketAddr>>,
) -> Option<String> {
    /// Longest name, in bytes: it travels in every heartbeat.
    const MAX_LEN: usize = 63;
    if let Some(text) = section.text(notes, "node_id") {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '-');
        if (1..=MAX_LEN).contains(&text.value.len()) && text.value.chars().all(good) {
            return Some(text.value);
        }
        let mend = "write 1 to 63 characters of A-Z a-z 0-9 . _ : -, such as `node_id = \"node1\"`";
        notes.error(&text.span, format!("{:?} cannot be the name of a member", text.value), mend);
        return None;
    }
    if section.key_span("node_id").is_some() {
        return None;
    }
    let listen = listen?;
    if listen.value.ip().is_unspecified() {
        let message = format!("`listen_addr` {} gives this member no name of its own", listen.value.ip());
        let mend = "write this host's own address there, or add `node_id = \"…\"`, unique in the cluster";
        notes.error(&listen.span, message, mend);
        return None;
    }
    Some(listen.value.ip().to_string())
}

fn read_keys(notes: &mut Notes, section: &mut Section<'_>, dir: &Path) -> Option<Keys> {
    let head = section.head.clone();
    let signing = either_secret(notes, section, dir, "secret_key", "secret_key_file");
    if signing.is_none()
        && section.key_span("secret_key").is_none()
        && section.key_span("secret_key_file").is_none()
    {
        notes.error(
            &head,
            "there is no shared secret: members could not tell each other from strangers",
            "write `secret_key_file = \"/etc/holdfast/secret\"` (a file that only the agent's user can read, the \
             same on every member),\nor `secret_key = \"…\"` in this block; `head -c 32 /dev/urandom | base64` makes a good one",
        );
    }
    if let Some(key) = &signing {
        if (1..SHORTEST_SECRET_BYTES).contains(&key.value.len_bytes()) {
            refuse_short(notes, "the shared secret", key);
        } else {
            warn_short(notes, "the shared secret", key, MIN_SECRET_BYTES);
        }
    }
    let mut previous: Vec<At<Secret>> = Vec::new();
    if let Some(list) = section.texts(notes, "previous_secret_keys") {
        if let Some(first) = list.value.first() {
            notes.secret_within.get_or_insert(first.span.clone());
        }
        previous.extend(list.value.into_iter().map(|text| text.map(Secret::new)));
    }
    if let Some(list) = section.texts(notes, "previous_secret_key_files") {
        for path in &list.value {
            previous.extend(secret_file::read(notes, "previous_secret_key_files", path, dir));
        }
    }
    if let Some(extra) = previous.get(MAX_PREVIOUS_KEYS) {
        let message = format!("more than {MAX_PREVIOUS_KEYS} former secrets");
        notes.error(&extra.span, message, "remove those that no member uses any more");
    }
    for former in &previous {
        if former.value.len_bytes() == 0 {
            notes.error(&former.span, "a former secret is empty", "remove it: everybody knows it");
        } else if former.value.len_bytes() < SHORTEST_SECRET_BYTES {
            refuse_short(notes, "a former secret", former);
        } else if signing.as_ref().is_some_and(|key| key.value.expose() == former.value.expose()) {
            notes.warn(&former.span, "a former secret is the current one", "remove it, the rotation is over");
        }
    }
    let signing = signing?.value;
    Some(Keys { signing, previous: previous.into_iter().map(|key| key.value).collect() })
}

/// A secret that may stand in the file or in a file of its own, and not in both.
pub(crate) fn either_secret(
    notes: &mut Notes,
    section: &mut Section<'_>,
    dir: &Path,
    key: &'static str,
    file_key: &'static str,
) -> Option<At<Secret>> {
    let direct = section.secret(notes, key);
    let file = section.text(notes, file_key);
    if let (Some(direct), Some(_)) = (&direct, &file) {
        let message = format!("`{key}` and `{file_key}` are both given");
        notes.error(&direct.span, message, format!("keep `{file_key}` and remove this line"));
        return None;
    }
    if let Some(path) = file {
        return secret_file::read(notes, file_key, &path, dir);
    }
    let direct = direct?;
    notes.secret_within.get_or_insert(direct.span.clone());
    if direct.value.len_bytes() == 0 {
        notes.error(
            &direct.span,
            format!("`{key}` is empty"),
            format!("write a secret, or use `{file_key}`"),
        );
        return None;
    }
    Some(direct)
}

fn refuse_short(notes: &mut Notes, what: &str, secret: &At<Secret>) {
    let message =
        format!("{what} is shorter than {SHORTEST_SECRET_BYTES} bytes, and no stream would open with it");
    notes.error(&secret.span, message, "use a longer one: `head -c 32 /dev/urandom | base64`");
}

pub(crate) fn warn_short(notes: &mut Notes, what: &str, secret: &At<Secret>, least: usize) {
    if secret.value.len_bytes() < least {
        let message = format!("{what} is shorter than {least} bytes and may be guessed");
        notes.warn(&secret.span, message, "use a longer one: `head -c 32 /dev/urandom | base64`");
    }
}

fn refuse_no_encryption(notes: &mut Notes, section: &mut Section<'_>) {
    if let Some(encryption) = section.flag(notes, "encryption")
        && !encryption.value
    {
        let message = "`encryption = false` has no effect: the stream is always encrypted";
        notes.warn(&encryption.span, message, "remove the line");
    }
}

fn read_ack(notes: &mut Notes, section: &mut Section<'_>) -> Ack {
    let interval = section.duration(notes, "sync_interval");
    let batch = section.integer(notes, "batch_size", 1..=u64::from(u32::MAX));
    let local = section.choice(notes, "ack", &[("in_sync", false), ("local", true)]);
    let Some(local) = local.filter(|local| local.value) else {
        let spans = [
            ("sync_interval", interval.as_ref().map(|at| &at.span)),
            ("batch_size", batch.as_ref().map(|at| &at.span)),
        ];
        for (key, span) in spans {
            if let Some(span) = span {
                let message = format!(
                    "`{key}` has no effect: every write is sent at once, and is on the whole in-sync set before it is acknowledged"
                );
                let mend = "remove the line; with `ack = \"local\"` beside it, writes would not wait for the standby, and what it lacks would be lost with the primary";
                notes.warn(span, message, mend);
            }
        }
        return Ack::InSync;
    };
    let sync_interval = interval.map_or(Duration::ZERO, |interval| interval.value);
    let batch_size = batch.map_or(DEFAULT_BATCH_SIZE, |batch| u32::try_from(batch.value).unwrap_or(u32::MAX));
    let message = "under `ack = \"local\"` a write is acknowledged before the standby has it: what the standby lacks is lost with the primary, in every failover";
    notes.warn(
        &local.span,
        message,
        "leave it out to lose nothing; `ha status` shows how much that would be",
    );
    Ack::Local { sync_interval, batch_size }
}

fn default_api_listen() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080)
}

fn read_api(notes: &mut Notes, mut section: Section<'_>, dir: &Path) -> (Api, Option<Range<usize>>) {
    let listen = section.text(notes, "listen");
    let listen = listen.and_then(|text| address::endpoint(notes, "listen", &text, Some(8080)));
    let token = either_secret(notes, &mut section, dir, "token", "token_file");
    if let Some(token) = &token {
        warn_short(notes, "the API token", token, MIN_SECRET_BYTES);
    }
    let has_token = section.key_span("token").or_else(|| section.key_span("token_file")).is_some();
    if let Some(listen) = &listen
        && !listen.value.ip().is_loopback()
        && !has_token
    {
        let message = format!("the API can be reached from other hosts at {} and has no token", listen.value);
        notes.warn(
            &listen.span,
            message,
            "add `token_file = \"/etc/holdfast/token\"`, or listen on 127.0.0.1",
        );
    }
    section.close(notes);
    let place = listen.as_ref().map(|listen| listen.span.clone());
    let api = Api {
        listen: listen.map_or_else(default_api_listen, |listen| listen.value),
        token: token.map(|token| token.value),
    };
    (api, place)
}
