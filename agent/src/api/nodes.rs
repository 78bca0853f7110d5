//! The members one by one: what is shown of each, and what can be asked of it.
//!
//! A member's drain and its preference are its own to state, in heartbeats that nobody else can sign. So they are ordered
//! on its own host, where its token and its audit trail are; an order for another member is refused and names that host.
//! Who votes is the primary's to change, whichever member it is about.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use holdfast_heartbeat::NodeId;
use serde::Deserialize;
use serde_json::Value;

use super::commands::{Body, NothingMore, Outcome, carry_out, parse, stated};
use super::error::ApiError;
use super::{Api, Cluster, ClusterMember};
use crate::node::event::{Command, Declined};
use crate::runtime::log_thread::wall_ms;

/// What other keys of an order about a member would mean, and where that is said instead.
const ELSEWHERE: &[(&[&str], &str)] = &[
    (
        &["endpoint", "address", "addr", "host", "url"],
        "where a member is reached is not said here: put its address into peer_addrs (a witness: witness_addrs) of every member's configuration and reload them (systemctl reload holdfast)",
    ),
    (
        &["role", "mode"],
        "roles are elected, and whether a member is a witness is `mode` in its own configuration",
    ),
    (
        &["token", "node_token", "cluster_token", "secret"],
        "members know each other by the shared secret of their configurations (secret_key_file)",
    ),
    (
        &["priority"],
        "a preference is a member's own: `priority` in its configuration, or on its host: holdfast ha members edit NAME --priority N",
    ),
    (
        &["name", "node_id"],
        "the name of a member never changes: its votes and its log are under it. Replace it by one of another name: holdfast ha members replace OLD NEW",
    ),
];

/// Refuses what is not taken here, and says where it is said instead.
fn nothing_else(rest: &BTreeMap<String, Value>, wanted: &str) -> Result<(), ApiError> {
    let mut said = Vec::new();
    for key in rest.keys() {
        let words = ELSEWHERE.iter().find(|(keys, _)| keys.contains(&key.as_str())).map(|(_, words)| *words);
        let words = words.unwrap_or("nothing is known of it here");
        said.push(format!("{key:?}: {words}"));
    }
    match said.is_empty() {
        true => Ok(()),
        false => Err(ApiError::BadRequest(format!(
            "nothing was changed. {}. Expected here: {wanted}",
            said.join(". ")
        ))),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NodesBody {
    #[serde(deserialize_with = "stated")]
    add: Option<NodeId>,
    /// The same as `add`, where nothing else is said.
    #[serde(deserialize_with = "stated")]
    name: Option<NodeId>,
    #[serde(deserialize_with = "stated")]
    remove: Option<NodeId>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

/// Gives a vote to one member, takes that of another: `{"add": NAME, "remove": NAME}`, or one of them; `{"name": NAME}`
/// adds too.
pub(super) async fn change_voters(State(api): State<Api>, body: Body) -> Result<Json<Outcome>, ApiError> {
    let NodesBody { add, name, remove, rest } = parse(body)?;
    nothing_else(&rest, "{\"add\": NAME, \"remove\": NAME}, or one of them")?;
    if name.is_some() && (add.is_some() || remove.is_some()) {
        return Err(ApiError::BadRequest(
            "\"name\" stands alone and adds that member. To replace one: {\"add\": NAME, \"remove\": NAME}"
                .to_owned(),
        ));
    }
    let add = add.or(name);
    if add.is_none() && remove.is_none() {
        return Err(ApiError::BadRequest(
            "say who gets a vote and whose is taken: {\"add\": NAME, \"remove\": NAME}, or one of them"
                .to_owned(),
        ));
    }
    if add == remove {
        return Err(ApiError::BadRequest("the same member cannot be added and removed".to_owned()));
    }
    carry_out(api, Command::ChangeVoters { remove, add }).await
}

/// The members and the voters that this one knows.
async fn known(api: &Api) -> Result<Cluster, ApiError> {
    Ok(api.status().await?.into())
}

fn unknown(cluster: &Cluster, id: &str) -> ApiError {
    let names: Vec<_> = cluster.members.iter().map(|member| member.id.as_str()).collect();
    let has_vote = cluster.voters.iter().any(|voter| voter == id);
    ApiError::NoSuchMember(match has_vote {
        true => format!(
            "{id} has a vote, and the configuration of {} names no such member: nothing else is known of it here",
            cluster.seen_by
        ),
        false => {
            format!("there is no member {id:?}; those that {} knows: {}", cluster.seen_by, names.join(", "))
        }
    })
}

/// One member, as this one sees it.
pub(super) async fn show(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<Json<ClusterMember>, ApiError> {
    let mut cluster = known(&api).await?;
    match cluster.members.iter().position(|member| member.id == id) {
        Some(at) => Ok(Json(cluster.members.swap_remove(at))),
        None => Err(unknown(&cluster, &id)),
    }
}

/// Takes the vote of a member that is gone for good.
pub(super) async fn remove(
    State(api): State<Api>,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<Outcome>, ApiError> {
    let NothingMore {} = parse(body)?;
    let cluster = known(&api).await?;
    let member = cluster.members.iter().any(|member| member.id == id);
    let name = NodeId::new(&id).ok().filter(|_| member || cluster.voters.contains(&id));
    let remove = name.ok_or_else(|| unknown(&cluster, &id))?;
    carry_out(api, Command::ChangeVoters { remove: Some(remove), add: None }).await
}

/// Lets pass what is about this very member; of another one says with `command` what to do there.
async fn only_this_member(api: &Api, id: &str, what: &str, command: &str) -> Result<(), ApiError> {
    let cluster = known(api).await?;
    if cluster.seen_by == id {
        return Ok(());
    }
    if !cluster.members.iter().any(|member| member.id == id) {
        return Err(unknown(&cluster, id));
    }
    Err(ApiError::Declined(Declined {
        code: "other_member",
        message: format!(
            "this is {}, and {what} of {id} is its own to order; nothing was changed. Run it on the host of {id}, or ask its API: {command}",
            cluster.seen_by
        ),
    }))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct DrainBody {
    #[serde(deserialize_with = "stated")]
    graceful: Option<bool>,
    /// A drain has limits of its own, which the configuration sets: whatever is said here is taken and changes none.
    #[serde(rename = "timeout_secs", deserialize_with = "stated")]
    _timeout_secs: Option<u32>,
}

/// Takes this member out for maintenance.
pub(super) async fn drain(
    State(api): State<Api>,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<Outcome>, ApiError> {
    let DrainBody { graceful, .. } = parse(body)?;
    if graceful == Some(false) {
        return Err(ApiError::BadRequest(
            "a drain is always graceful: the role is handed over and writes stop waiting for the member before it is said to be drained. To stop a member at once: systemctl stop holdfast, on its host"
                .to_owned(),
        ));
    }
    only_this_member(&api, &id, "the drain", "holdfast ha drain").await?;
    carry_out(api, Command::Drain).await
}

/// Ends the drain of this member, and a pause of the cluster.
pub(super) async fn resume(
    State(api): State<Api>,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<Outcome>, ApiError> {
    let NothingMore {} = parse(body)?;
    only_this_member(&api, &id, "the end of a drain", "holdfast ha resume").await?;
    carry_out(api, Command::Resume { at_unix_ms: wall_ms() }).await
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct EditBody {
    #[serde(deserialize_with = "stated")]
    priority: Option<u32>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

/// Changes the preference of this member: `{"priority": N}`.
pub(super) async fn edit(
    State(api): State<Api>,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<Outcome>, ApiError> {
    const WANTED: &str = "{\"priority\": N}, the lower the more preferred";
    let EditBody { priority, rest } = parse(body)?;
    nothing_else(&rest, WANTED)?;
    let Some(priority) = priority else {
        return Err(ApiError::BadRequest(format!("say what to change: {WANTED}")));
    };
    let command = format!("holdfast ha members edit {id} --priority {priority}");
    only_this_member(&api, &id, "the preference", &command).await?;
    carry_out(api, Command::SetPriority { priority }).await
}
