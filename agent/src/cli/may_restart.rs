//! `holdfast ha may-restart`: whether the member of this host can be restarted now with no more than one short
//! switchover. Packages ask before they restart one; so may a script of the operator's.
//!
//! It judges a snapshot, as a person would from `ha status`. What happens in the moment afterwards is judged by nobody:
//! it is advice against an outage. Data does not depend on it, whatever is restarted when.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, anyhow};
use holdfast_config::Config;
use serde_json::json;

use super::args::ApiArgs;
use super::client::{Client, shaped};
use super::words::{list, printable};
use super::{UNHEALTHY, say, say_json};
use crate::runtime::status::{PeerStatus, Status};

/// Asks the agent at `api`, or the one of the configuration `config` where it listens.
pub(super) fn run(api: ApiArgs, config: Option<&Path>) -> Result<ExitCode> {
    let as_json = api.json;
    let api = match config {
        Some(file) => {
            let listen = Config::load(file).map_err(|error| anyhow!("\n{error}"))?.config.api.listen;
            ApiArgs { api: format!("http://{listen}"), ..api }
        }
        None => api,
    };
    let status: Status = shaped(Client::new(&api)?.get("/api/ha/status")?)?;
    let obstacle = obstacle(&status);
    match &obstacle {
        reason if as_json => say_json(&json!({"may_restart": reason.is_none(), "reason": reason}))?,
        None => say(&format!("{} can be restarted.\n", printable(&status.node)))?,
        Some(reason) => say(&format!("{}\n", printable(reason)))?,
    }
    Ok(if obstacle.is_none() { ExitCode::SUCCESS } else { ExitCode::from(UNHEALTHY) })
}

/// Why a restart of this member would be an outage; none where it would not.
pub(super) fn obstacle(status: &Status) -> Option<String> {
    no_successor(status).or_else(|| no_quorum(status))
}

/// A primary hands over when it is told to end. It needs somebody to hand over to.
fn no_successor(status: &Status) -> Option<String> {
    let me = &status.node;
    if !["promoting", "primary", "handing_over"].contains(&status.role.as_str()) {
        return None;
    }
    let standbys: Vec<&PeerStatus> =
        status.peers.iter().filter(|peer| peer.kind == "data" && peer.vote).collect();
    if status.paused.is_some() {
        return Some(format!(
            "{me} is {}, and the cluster is paused: if the handover failed, nobody would serve. First: holdfast ha resume",
            status.role
        ));
    }
    let able = |peer: &&PeerStatus| {
        peer.alive && peer.in_sync && peer.electable && !peer.drained && !peer.disk_stalled
    };
    if standbys.is_empty() || standbys.iter().any(able) {
        return None;
    }
    let names: Vec<String> = standbys.iter().map(|peer| peer.id.clone()).collect();
    Some(format!(
        "{me} is {}, and no standby is in sync and able to take over ({}): clients would wait until {me} is back. `holdfast ha status` says what is missing",
        status.role,
        list(&names)
    ))
}

/// Whoever is primary needs a majority without this member while it is away.
fn no_quorum(status: &Status) -> Option<String> {
    let primary = status.primary.as_ref()?;
    if status.pair || !status.vote || status.votes < 3 {
        return None;
    }
    let left = status.peers.iter().filter(|peer| peer.vote && peer.alive).count();
    if left >= status.quorum {
        return None;
    }
    let missing: Vec<String> =
        status.peers.iter().filter(|peer| peer.vote && !peer.alive).map(|peer| peer.id.clone()).collect();
    Some(format!(
        "{} is not heard: without {} too, {left} of {} votes are left and {} must agree, so {primary} would stop serving. Bring the other one back first",
        list(&missing),
        status.node,
        status.votes,
        status.quorum
    ))
}
