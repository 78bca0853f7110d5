//! Decides who the other members are and where each is reached, from the addresses as written.
//!
//! A data peer is given as `host:port`. Where the port is `heartbeat_port`, that is where it hears
//! heartbeats, and its replication port is taken to be our own; otherwise it is where it replicates,
//! and its heartbeats go to the same host at `heartbeat_port`. `primary_addr` is always a replication
//! address, and is merged by host with the rest. Names are never looked up: a heartbeat must not wait
//! for DNS. Invariant: no two peers share a host, and none of them is this member.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use crate::model::{HeartbeatPath, Peer, PeerKind};
use crate::report::Notes;
use crate::section::{At, Section};

/// Most members of one cluster, this one included: a heartbeat names the in-sync set in one unfragmented packet,
/// which has room for so many of the longest names.
pub const MAX_MEMBERS: usize = 9;

/// Most heartbeat paths, the main one included.
pub const MAX_PATHS: usize = 8;

/// The ports that stand in where an address names none.
#[derive(Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) replication: u16,
    pub(crate) heartbeat: u16,
}

/// The addresses of peers as written.
pub(crate) struct Written {
    pub(crate) peer: Option<At<String>>,
    pub(crate) peers: Option<At<Vec<At<String>>>>,
    pub(crate) primary: Option<At<String>>,
    pub(crate) witnesses: Option<At<Vec<At<String>>>>,
}

/// A peer under construction.
struct Draft {
    kind: PeerKind,
    host: IpAddr,
    span: Range<usize>,
    heartbeat: Option<SocketAddr>,
    replication: Option<SocketAddr>,
}

/// Reads `ip`, `ip:port` or `[ip]:port`, noting what is wrong with it.
pub(crate) fn endpoint(
    notes: &mut Notes,
    key: &str,
    text: &At<String>,
    default_port: Option<u16>,
) -> Option<At<SocketAddr>> {
    let span = &text.span;
    let written = text.value.trim();
    let (host, port) = match (written.parse::<SocketAddr>(), bare_host(written), default_port) {
        (Ok(address), ..) => (address.ip(), address.port()),
        (_, Some(host), Some(port)) => (host, port),
        (_, Some(host), None) => {
            let whole = SocketAddr::new(host, 9001);
            notes.error(span, format!("`{key}` has no port"), format!("write \"{whole}\""));
            return None;
        }
        (_, None, _) => {
            let (message, mend) = not_an_address(key, written);
            notes.error(span, message, mend);
            return None;
        }
    };
    let host = host.to_canonical();
    if port == 0 {
        let whole = SocketAddr::new(host, default_port.unwrap_or(9001));
        notes.error(
            span,
            format!("`{key}` has port 0, which no peer could find"),
            format!("write \"{whole}\""),
        );
        return None;
    }
    if !reachable(host) {
        let message = format!("`{key}` cannot be {host}: it is a multicast, broadcast or link-local address");
        notes.error(span, message, "write an address that every member can route to");
        return None;
    }
    Some(At { value: SocketAddr::new(host, port), span: span.clone() })
}

fn bare_host(text: &str) -> Option<IpAddr> {
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    inner.parse().ok()
}

/// Link-local addresses mean nothing without an interface, which no key here names.
fn reachable(host: IpAddr) -> bool {
    match host {
        IpAddr::V4(v4) => !v4.is_multicast() && !v4.is_broadcast(),
        IpAddr::V6(v6) => !v6.is_multicast() && !v6.is_unicast_link_local(),
    }
}

fn not_an_address(key: &str, written: &str) -> (String, String) {
    let example = "write an IP address and a port, such as \"10.0.0.2:9001\" or \"[fd00::2]:9001\"";
    let host = written.rsplit_once(':').map_or(written, |(host, _)| host);
    let is_name = host.contains(|c: char| c.is_ascii_alphabetic())
        && host.chars().all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '-');
    if is_name {
        let message = format!("`{key}` names the host {host:?}");
        return (message, format!("{example}: names are not looked up, heartbeats must not wait for DNS"));
    }
    (format!("`{key}` is not an address: {written:?}"), example.to_owned())
}

/// Reads all peers. What is wrong with one does not keep the others from being read.
pub(crate) fn peers(
    notes: &mut Notes,
    written: &Written,
    own: Option<&At<SocketAddr>>,
    ports: Ports,
) -> Vec<Peer> {
    let mut drafts: Vec<Draft> = Vec::new();
    if let Some(text) = &written.peer {
        data_peer(notes, &mut drafts, "peer_addr", text, ports);
    }
    for text in written.peers.iter().flat_map(|list| &list.value) {
        data_peer(notes, &mut drafts, "peer_addrs", text, ports);
    }
    if let Some(text) = &written.primary {
        primary(notes, &mut drafts, text, ports);
    }
    for text in written.witnesses.iter().flat_map(|list| &list.value) {
        witness(notes, &mut drafts, text, ports);
    }
    if let Some(own) = own {
        for draft in &drafts {
            compare_with_own(notes, draft, own);
        }
    }
    if let Some(first_too_many) = drafts.get(MAX_MEMBERS - 1) {
        let message = format!("more than {MAX_MEMBERS} members");
        notes.error(&first_too_many.span, message, "split the members into clusters of their own");
    }
    drafts.into_iter().map(|draft| finished(draft, ports)).collect()
}

fn finished(draft: Draft, ports: Ports) -> Peer {
    let replication = match draft.kind {
        PeerKind::Witness => None,
        PeerKind::Data => Some(draft.replication.unwrap_or(SocketAddr::new(draft.host, ports.replication))),
    };
    let heartbeat = draft.heartbeat.unwrap_or(SocketAddr::new(draft.host, ports.heartbeat));
    Peer { kind: draft.kind, host: draft.host, heartbeat: vec![heartbeat], replication }
}

fn data_peer(notes: &mut Notes, drafts: &mut Vec<Draft>, key: &str, text: &At<String>, ports: Ports) {
    let Some(address) = endpoint(notes, key, text, Some(ports.replication)) else { return };
    let address = address.value;
    let is_heartbeat = address.port() == ports.heartbeat;
    let draft = Draft {
        kind: PeerKind::Data,
        host: address.ip(),
        span: text.span.clone(),
        heartbeat: is_heartbeat.then_some(address),
        replication: (!is_heartbeat).then_some(address),
    };
    add(notes, drafts, draft);
}

/// `primary_addr` completes a peer that is already there, or names one of its own.
fn primary(notes: &mut Notes, drafts: &mut Vec<Draft>, text: &At<String>, ports: Ports) {
    let Some(address) = endpoint(notes, "primary_addr", text, Some(ports.replication)) else { return };
    let address = address.value;
    match drafts.iter_mut().find(|draft| draft.host == address.ip()) {
        Some(draft) => match draft.replication {
            Some(other) if other != address => {
                let message =
                    format!("{} is given two replication addresses: {other} and {address}", draft.host);
                notes.error(&text.span, message, format!("write \"{other}\" here, or correct the other one"));
            }
            _ => draft.replication = Some(address),
        },
        None => add(
            notes,
            drafts,
            Draft {
                kind: PeerKind::Data,
                host: address.ip(),
                span: text.span.clone(),
                heartbeat: None,
                replication: Some(address),
            },
        ),
    }
}

fn witness(notes: &mut Notes, drafts: &mut Vec<Draft>, text: &At<String>, ports: Ports) {
    let Some(address) = endpoint(notes, "witness_addrs", text, Some(ports.heartbeat)) else { return };
    let draft = Draft {
        kind: PeerKind::Witness,
        host: address.value.ip(),
        span: text.span.clone(),
        heartbeat: Some(address.value),
        replication: None,
    };
    add(notes, drafts, draft);
}

fn add(notes: &mut Notes, drafts: &mut Vec<Draft>, draft: Draft) {
    if draft.host.is_unspecified() {
        let message = format!("a peer cannot have the address {}", draft.host);
        notes.error(&draft.span, message, "write the peer's own address, such as \"10.0.0.2:9001\"");
        return;
    }
    match drafts.iter().find(|other| other.host == draft.host) {
        None => drafts.push(draft),
        Some(other) if other.kind != draft.kind => {
            let message = format!("{} is given both as a data peer and as a witness", draft.host);
            notes.error(&draft.span, message, "remove one of the two: a member votes once");
        }
        Some(_) => {
            let message = format!("{} is given twice among the peers", draft.host);
            notes.error(&draft.span, message, "remove one of the two: each member has a host of its own");
        }
    }
}

fn compare_with_own(notes: &mut Notes, draft: &Draft, own: &At<SocketAddr>) {
    let own = own.value.ip();
    if draft.host == own {
        let message = format!("{own} is this member's own address (`listen_addr`), and is among the peers");
        notes.error(&draft.span, message, "remove it here: peers are the other members");
    } else if draft.host.is_ipv4() != own.is_ipv4() {
        let message = format!("{} cannot be reached from {own}: one is IPv4, the other IPv6", draft.host);
        notes.error(&draft.span, message, "write the peer's address of the same kind as `listen_addr`");
    }
}

/// Reads the `heartbeat_path` blocks, and gives each peer its address on each of them.
///
/// A path lists the data peers, then the witnesses it reaches, in the order of [`peers`]. Paths that
/// reach more peers come first in the result, so that each peer's addresses line up with the paths.
pub(crate) fn further_paths(
    notes: &mut Notes,
    ha: &mut Section<'_>,
    main: HeartbeatPath,
    peers: &mut [Peer],
    port: u16,
) -> Vec<HeartbeatPath> {
    let mut drafts: Vec<(HeartbeatPath, Vec<SocketAddr>)> = Vec::new();
    for (label, mut section) in ha.named_blocks(notes, "heartbeat_path") {
        let head = section.head.clone();
        let listen = section.text(notes, "listen");
        let targets = section.texts(notes, "peers");
        let has_listen = section.key_span("listen").is_some();
        let has_targets = section.key_span("peers").is_some();
        section.close(notes);
        if label.value == main.name || label.value.is_empty() {
            let message = format!("a heartbeat path cannot be called {:?}", label.value);
            notes.error(&head, message, "write another name: \"main\" is the path of `listen_addr`");
        }
        if !has_listen {
            let message = format!("heartbeat path {:?} has no `listen`", label.value);
            notes.error(&head, message, "write this member's address on that path: `listen = \"10.1.0.1\"`");
        }
        if !has_targets {
            let message = format!("heartbeat path {:?} has no `peers`", label.value);
            notes.error(&head, message, "write the peers' addresses on that path: `peers = [\"10.1.0.2\"]`");
        }
        let (Some(listen), Some(targets)) = (listen, targets) else { continue };
        let Some(listen) = endpoint(notes, "listen", &listen, Some(port)) else { continue };
        if listen.value.ip().is_unspecified() {
            let message = "a heartbeat path needs an address of its own to send from";
            notes.error(&listen.span, message, "write this member's address on that path");
            continue;
        }
        let clash =
            listen.value == main.listen || drafts.iter().any(|(other, _)| other.listen == listen.value);
        if clash {
            let message = format!("two heartbeat paths listen on {}", listen.value);
            notes.error(
                &listen.span,
                message,
                "write an address on another network: a path is worth having where it fails alone",
            );
            continue;
        }
        if listen.value.ip() == main.listen.ip() {
            let message = format!(
                "heartbeat path {:?} has the address of the main path and fails together with it",
                label.value
            );
            notes.warn(&listen.span, message, "use an address on another network");
        }
        let Some(targets) = path_targets(notes, &label.value, &targets, &listen.value, peers, port) else {
            continue;
        };
        drafts.push((HeartbeatPath { name: label.value, listen: listen.value }, targets));
    }
    if drafts.len() + 1 > MAX_PATHS {
        let span = ha.head.clone();
        notes.error(
            &span,
            format!("more than {MAX_PATHS} heartbeat paths"),
            "remove the ones that matter least",
        );
    }
    drafts.sort_by_key(|(_, targets)| std::cmp::Reverse(targets.len()));
    let mut paths = vec![main];
    for (path, targets) in drafts {
        for (peer, target) in peers.iter_mut().zip(targets) {
            peer.heartbeat.push(target);
        }
        paths.push(path);
    }
    paths
}

fn path_targets(
    notes: &mut Notes,
    name: &str,
    written: &At<Vec<At<String>>>,
    listen: &SocketAddr,
    peers: &[Peer],
    port: u16,
) -> Option<Vec<SocketAddr>> {
    let data = peers.iter().filter(|peer| peer.kind == PeerKind::Data).count();
    let count = written.value.len();
    if count < data.max(1) || count > peers.len() {
        let message = format!("heartbeat path {name:?} names {count} peers, and there are {}", peers.len());
        let order = peers.iter().map(|peer| peer.host.to_string()).collect::<Vec<_>>().join(", ");
        let mend = format!(
            "write their addresses on this path in this order: {order}; witnesses at the end may be left out"
        );
        notes.error(&written.span, message, mend);
        return None;
    }
    let mut targets: Vec<SocketAddr> = Vec::with_capacity(count);
    for text in &written.value {
        let target = endpoint(notes, "peers", text, Some(port))?.value;
        if target.ip().is_unspecified() || target.ip() == listen.ip() {
            notes.error(
                &text.span,
                format!("{} is not the address of a peer", target.ip()),
                "write the peer's address on this path",
            );
            return None;
        }
        if target.is_ipv4() != listen.is_ipv4() {
            let message = format!(
                "{} cannot be reached from {}: one is IPv4, the other IPv6",
                target.ip(),
                listen.ip()
            );
            notes.error(&text.span, message, "write the peer's address of the same kind as `listen`");
            return None;
        }
        if targets.contains(&target) {
            notes.error(
                &text.span,
                format!("{target} is given twice on one path"),
                "write each peer's own address",
            );
            return None;
        }
        targets.push(target);
    }
    Some(targets)
}
