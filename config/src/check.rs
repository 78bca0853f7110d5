//! Checks what several keys say together.
//!
//! Decides which combinations cannot be meant (errors) and which work with a price (warnings). Never
//! changes the configuration. Invariant: a configuration that passes gives every member the same
//! picture of who votes, as far as one file can tell.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use crate::model::{Config, GateChoice, Mode, PeerKind, TwoNode};
use crate::read::Places;
use crate::read_sync_files;
use crate::report::Notes;

/// Runs every check.
pub(crate) fn whole(notes: &mut Notes, config: &Config, places: &Places) {
    members(notes, config, places);
    witness_has_neither_store_nor_address(notes, config, places);
    virtual_addresses(notes, config, places);
    policies(notes, config, places);
    tcp_listeners(notes, config, places);
    store_credentials(notes, config, places);
    witness_has_nothing_to_follow(notes, config, places);
    fencing(notes, config, places);
    read_sync_files::whole(notes, config, &places.sync_files);
}

fn members(notes: &mut Notes, config: &Config, places: &Places) {
    let data = config.data_peers().count();
    let witnesses = config.peers.len() - data;
    let is_witness = config.mode == Mode::Witness;
    if config.peers.is_empty() {
        match config.mode {
            Mode::Primary => notes.warn(
                &places.replication,
                "there are no peers: this member is on its own and nothing is replicated",
                "add `peer_addrs = [\"10.0.0.2:9001\"]`",
            ),
            Mode::Replica => notes.error(
                &places.mode,
                "a replica without any peer has nothing to follow",
                "add `peer_addrs = [\"10.0.0.1:9001\"]`, the addresses of the other data members",
            ),
            Mode::Witness => notes.error(
                &places.mode,
                "a witness without any peer has nobody to vote for",
                "add `peer_addrs = [\"10.0.0.1:9001\", \"10.0.0.2:9001\"]`, the addresses of the data members",
            ),
        }
        return;
    }
    if data == 0 && !is_witness {
        let message = "all peers are witnesses: no other member holds the data";
        notes.warn(&places.replication, message, "add the other data member to `peer_addrs`");
    }
    if data == 0 && is_witness {
        let message = "a witness whose peers are all witnesses has nobody to vote for";
        notes.error(&places.mode, message, "write the data members in `peer_addrs`");
    }
    if data == 1 && is_witness {
        let message = "a witness with a single data peer: there is nobody to take over";
        notes.warn(&places.mode, message, "write both data members in `peer_addrs`");
    }
    let voters = config.voters();
    if voters > 2 && voters.is_multiple_of(2) {
        let message = format!(
            "{voters} voters survive no more failures than {} would, and can split in halves",
            voters - 1
        );
        let mend =
            if witnesses > 0 { "remove a witness, or add one" } else { "add a witness in `witness_addrs`" };
        notes.warn(&places.replication, message, mend);
    }
}

fn witness_has_neither_store_nor_address(notes: &mut Notes, config: &Config, places: &Places) {
    if config.mode != Mode::Witness {
        return;
    }
    if let Some(place) = &places.store {
        let message = "a witness has no store";
        notes.error(place, message, "remove the `store` block, or write `mode = \"replica\"`");
    }
    for place in &places.virtual_ips {
        let message = "a witness never holds a virtual address";
        notes.error(place, message, "remove the `virtual_ip` block, or write `mode = \"replica\"`");
    }
    if let Some(place) = places.checks.first() {
        let message = "a witness never serves, so there is nothing to check";
        notes.error(place, message, "remove the `check` blocks, or write `mode = \"replica\"`");
    }
}

fn witness_has_nothing_to_follow(notes: &mut Notes, config: &Config, places: &Places) {
    let follows = config.services.len() + config.ha.hooks.len();
    if config.mode == Mode::Witness && follows > 0 {
        let message = "a witness is never primary: its hooks and services are neither run nor started";
        notes.warn(&places.mode, message, "move them to the data members");
    }
}

fn fencing(notes: &mut Notes, config: &Config, places: &Places) {
    let targets = config.fence_targets();
    if config.mode == Mode::Witness {
        if let Some(place) = places.fences.first() {
            let message = "a witness takes nothing over, and switches nobody off";
            notes.warn(place, message, "move the `fence` blocks to the data members");
        }
        return;
    }
    if let Some(place) = &places.two_node
        && config.ha.two_node == TwoNode::Fence
        && config.is_two_node()
        && targets.is_empty()
    {
        let message = "`two_node = \"fence\"`, and no `fence` block is for the other member: nobody could ever take over";
        let mend = "add one, with the other member's `node_id`:\nfence \"its-controller\" {\n  agent  = \"fence_ipmilan\"\n  member = \"b\"\n  params {\n    ip = \"10.0.0.12\"\n    username = \"holdfast\"\n    password_file = \"/etc/holdfast/ipmi-b\"\n  }\n}\nor write `two_node = \"probe\"`";
        notes.error(place, message, mend);
    }
    let data = config.data_peers().count();
    if let Some(place) = places.fences.first().filter(|_| targets.len() > data) {
        let message = format!(
            "the `fence` blocks are for {} other members ({}), and there are {data} other data members",
            targets.len(),
            targets.join(", ")
        );
        notes.warn(place, message, "write in `member` the `node_id` that `holdfast ha status` shows there");
    }
}

fn virtual_addresses(notes: &mut Notes, config: &Config, places: &Places) {
    for (virtual_ip, place) in config.ha.virtual_ips.iter().zip(&places.virtual_ips) {
        let address = virtual_ip.address.addr();
        if let Some(whose) = whose_address(config, address) {
            let message = format!("the virtual address {address} is {whose}");
            let mend = "write an address that no host has as its own: it moves between them";
            notes.error(place, message, mend);
        }
    }
}

/// Which host has `address` for its own, in words.
fn whose_address(config: &Config, address: IpAddr) -> Option<String> {
    if config.listen.ip() == address {
        return Some("this member's own (`listen_addr`)".to_owned());
    }
    if let Some(path) = config.heartbeat_paths.iter().find(|path| path.listen.ip() == address) {
        return Some(format!("this member's own on heartbeat path {:?}", path.name));
    }
    if config.ha.monitor_gateways.contains(&address) {
        return Some("a gateway in `monitor_gateways`".to_owned());
    }
    let of_peer = |peer: &&crate::model::Peer| {
        peer.host == address || peer.heartbeat.iter().any(|heartbeat| heartbeat.ip() == address)
    };
    config.peers.iter().find(of_peer).map(|peer| match peer.kind {
        PeerKind::Data => format!("the own address of peer {}", peer.host),
        PeerKind::Witness => format!("the own address of witness {}", peer.host),
    })
}

fn policies(notes: &mut Notes, config: &Config, places: &Places) {
    let ha = &config.ha;
    if !ha.enabled {
        let (place, message) = match &places.ha {
            Some(place) => (place, "`enabled = false`: nothing fails over by itself"),
            None => (&places.replication, "there is no `ha` block: nothing fails over by itself"),
        };
        notes.warn(place, message, "write `ha {` with `enabled = true` for automatic failover");
    }
    if let Some(place) = &places.two_node
        && !config.is_two_node()
    {
        let message = format!(
            "`two_node` is not used: {} voters decide by quorum, {}",
            config.voters(),
            config.quorum()
        );
        notes.warn(place, message, "remove the line");
    }
    if ha.gate == GateChoice::None
        && let Some(place) = places.virtual_ips.first()
    {
        let message = "`gate = \"none\"`: an agent that is killed or stopped keeps the address for up to its whole \
                       lifetime, and may answer until then";
        notes.warn(place, message, "write `gate = \"auto\"`");
    }
}

/// Two TCP listeners on one port: the second would fail at start, or, worse, after a takeover.
fn tcp_listeners(notes: &mut Notes, config: &Config, places: &Places) {
    let mut listeners: Vec<(&str, SocketAddr, &Range<usize>)> = Vec::new();
    if config.mode != Mode::Witness {
        listeners.push(("replication (`listen_addr`)", config.listen, &places.listen));
        if let Some(store) = &config.store {
            let place = places.store_listen.as_ref().or(places.store.as_ref()).unwrap_or(&places.replication);
            listeners.push(("the store (`store.listen`)", store.listen, place));
        }
    }
    let place = places.api_listen.as_ref().unwrap_or(&places.replication);
    listeners.push(("the API (`api.listen`)", config.api.listen, place));
    for (index, (what, address, place)) in listeners.iter().enumerate() {
        for (other_what, other, _) in &listeners[..index] {
            if overlap(*address, *other) {
                let message = format!("{what} and {other_what} both listen on port {}", address.port());
                notes.error(
                    place,
                    message,
                    "write another port for one of them: 9000 S3, 9001 replication, 8080 API",
                );
            }
        }
    }
}

fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port() && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

fn store_credentials(notes: &mut Notes, config: &Config, places: &Places) {
    let Some(store) = &config.store else { return };
    if store.root.is_some() {
        return;
    }
    let (place, mend) = match &places.store {
        Some(place) => (place, "add `root_access_key` and `root_secret_key_file`"),
        None => (
            &places.replication,
            "add a `store {` block with `root_access_key` and `root_secret_key_file` beside `replication`",
        ),
    };
    notes.warn(place, "the store has no credentials: its S3 listener stays off, replication works", mend);
}
