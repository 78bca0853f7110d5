//! What the API shows: the snapshot of the core, cut to the question that was asked.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{ConnectInfo, Query, State};
use holdfast_replication::replica::ReplicaStatus;
use serde::{Deserialize, Serialize};

use super::Api;
use super::error::ApiError;
use super::guard;
use crate::runtime::files::FilesStatus;
use crate::runtime::history::Entry;
use crate::runtime::resync::{Resync, ResyncStatus};
use crate::runtime::sameness::{Sameness, SamenessBoard};
use crate::runtime::status::{Hearing, PathStatus, PeerStatus, Status};

/// Everything that the member tells about itself.
pub(super) async fn status(State(api): State<Api>) -> Result<Json<Status>, ApiError> {
    Ok(Json(api.status().await?))
}

/// The cluster as one member sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cluster {
    /// Who looks.
    pub seen_by: String,
    /// Who is primary, as far as it knows.
    pub primary: Option<String>,
    /// The highest epoch that it promised.
    pub epoch: u64,
    /// Nothing needs attention.
    pub healthy: bool,
    /// The data members that hold every acknowledged byte.
    pub in_sync: Vec<String>,
    /// Only one does.
    pub solo: bool,
    /// The quorum policy, in words.
    pub policy: String,
    /// Who has a vote; empty while nobody wrote it down: then whoever is configured.
    #[serde(default)]
    pub voters: Vec<String>,
    /// All members that are configured, the one that looks first.
    pub members: Vec<ClusterMember>,
}

/// Of a release that did not say: who is a member has a vote.
fn yes() -> bool {
    true
}

/// One member.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClusterMember {
    /// Its name, or its address until it was heard.
    pub id: String,
    /// `data` or `witness`.
    pub kind: String,
    /// It is the one that looks.
    pub is_self: bool,
    /// What it acts as, as far as known.
    pub role: Option<String>,
    /// The epoch that it promised, as far as known.
    pub epoch: Option<u64>,
    /// Its preference, as far as known; lower is more preferred.
    pub priority: Option<u32>,
    /// In the in-sync set.
    pub in_sync: bool,
    /// Taken out for maintenance.
    #[serde(default)]
    pub drained: bool,
    /// It has a vote.
    #[serde(default = "yes")]
    pub vote: bool,
    /// Heard lately.
    pub alive: bool,
    /// How long ago.
    pub last_heard_ms: Option<u64>,
    /// The heartbeat paths to it.
    pub paths: Vec<PathStatus>,
    /// Whom it hears, as it says.
    #[serde(default)]
    pub hears: Vec<Hearing>,
}

/// Whom a member hears by its own account.
fn own_hearings(status: &Status) -> Vec<Hearing> {
    let hearing = |peer: &PeerStatus| {
        let (by, not_by): (Vec<_>, Vec<_>) = peer.paths.iter().partition(|path| peer.alive && path.alive);
        let names = |paths: Vec<&PathStatus>| paths.into_iter().map(|path| path.name.clone()).collect();
        Hearing { member: peer.id.clone(), by: names(by), not_by: names(not_by) }
    };
    status.peers.iter().map(hearing).collect()
}

impl From<Status> for Cluster {
    fn from(status: Status) -> Cluster {
        let hears = own_hearings(&status);
        let mut members = vec![ClusterMember {
            hears,
            in_sync: status.in_sync.contains(&status.node),
            id: status.node.clone(),
            kind: status.kind,
            is_self: true,
            role: Some(status.role),
            epoch: Some(status.epoch),
            priority: Some(status.priority),
            drained: status.drained,
            vote: status.vote,
            alive: true,
            last_heard_ms: Some(0),
            paths: Vec::new(),
        }];
        members.extend(status.peers.into_iter().map(|peer| ClusterMember {
            id: peer.id,
            kind: peer.kind,
            is_self: false,
            role: peer.role,
            epoch: peer.epoch,
            priority: peer.priority,
            in_sync: peer.in_sync,
            drained: peer.drained,
            vote: peer.vote,
            alive: peer.alive,
            last_heard_ms: peer.last_heard_ms,
            paths: peer.paths,
            hears: peer.hears,
        }));
        Cluster {
            seen_by: status.node,
            primary: status.primary,
            epoch: status.epoch,
            healthy: status.healthy,
            in_sync: status.in_sync,
            solo: status.solo,
            policy: status.policy,
            voters: status.voters,
            members,
        }
    }
}

/// Who is in the cluster and how it is reached.
pub(super) async fn cluster(State(api): State<Api>) -> Result<Json<Cluster>, ApiError> {
    Ok(Json(api.status().await?.into()))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HistoryQuery {
    /// Most entries; the newest are shown.
    limit: Option<usize>,
}

/// What happened, oldest first.
pub(super) async fn history(
    State(api): State<Api>,
    query: Result<Query<HistoryQuery>, QueryRejection>,
) -> Result<Json<Vec<Entry>>, ApiError> {
    let Query(HistoryQuery { limit }) = query.map_err(|_| {
        ApiError::BadRequest("write the limit as a number, such as /api/ha/history?limit=20".to_owned())
    })?;
    let mut entries = api.handle.history();
    if let Some(limit) = limit {
        entries.drain(..entries.len().saturating_sub(limit));
    }
    Ok(Json(entries))
}

/// The log, what is known of the others' copies of it, and what follows it.
#[derive(Clone, Debug, Serialize)]
struct ReplicationStatus {
    /// The log's state.
    #[serde(flatten)]
    log: ReplicaStatus,
    /// What was compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    sameness: Option<Sameness>,
    /// The replicated files; absent where none are configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<FilesStatus>,
    /// The copy that is begun anew, and copies that are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    resync: Option<ResyncStatus>,
}

/// The log's state, whether the members have the same, the state of the replicated files, and what each archive holds.
/// Names of buckets and keys are for those who may give orders.
pub(super) async fn replication_status(
    State(api): State<Api>,
    request: axum::extract::Request,
) -> Result<Json<serde_json::Value>, ApiError> {
    let caller = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
    let may = guard::may(&api.options, caller, request.headers());
    drop(request);
    let log = api.handle.replication().ok_or(ApiError::NoLog)?;
    let any = !log.set_aside.is_empty();
    let sameness = api.handle.sameness().map(SamenessBoard::status);
    let resync = api.handle.resync().map(Resync::status);
    let status = ReplicationStatus { log, sameness, files: api.handle.files(), resync };
    let mut shown = serde_json::to_value(status).map_err(|_| ApiError::Ending)?;
    if let Some(archives) = api.handle.archives().filter(|_| any) {
        let mut listed = archives.list().await?;
        for content in listed.iter_mut().filter(|_| !may).filter_map(|archive| archive.content.as_mut()) {
            content.first_objects.clear();
        }
        shown["set_aside"] = serde_json::to_value(listed).map_err(|_| ApiError::Ending)?;
    }
    Ok(Json(shown))
}

/// The numbers of replication, for programs that draw curves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicationStats {
    /// The epoch in which the log leads or follows; zero while it does neither.
    pub epoch: u64,
    /// End of the log.
    pub end_lsn: u64,
    /// Durable here.
    pub durable_lsn: u64,
    /// Committed, as far as known here.
    pub committed_lsn: u64,
    /// Visible in the index.
    pub applied_lsn: u64,
    /// Committed and not yet visible, in bytes.
    pub apply_lag_bytes: u64,
    /// Segment files.
    pub segments: u64,
    /// Writes that wait to be committed.
    pub pending: u64,
    /// On a primary: standbys whose stream stands.
    pub streaming_peers: u64,
    /// On a primary: how far each peer is behind the end of the log, in bytes.
    pub lag_bytes: BTreeMap<String, u64>,
    /// On a primary: how long ago the oldest of that was written, in milliseconds.
    #[serde(default)]
    pub lag_ms: BTreeMap<String, u64>,
    /// Archives of what was set aside.
    pub set_aside: u64,
    /// Their size, in bytes.
    pub set_aside_bytes: u64,
    /// Damaged places noticed (1 while the first one is not healed).
    pub damaged: u64,
}

impl From<ReplicaStatus> for ReplicationStats {
    fn from(log: ReplicaStatus) -> ReplicationStats {
        ReplicationStats {
            epoch: log.epoch.unwrap_or_default().0,
            end_lsn: log.end.0,
            durable_lsn: log.durable.0,
            committed_lsn: log.committed.0,
            applied_lsn: log.applied.0,
            apply_lag_bytes: log.committed.bytes_since(log.applied),
            segments: log.segments as u64,
            pending: log.pending as u64,
            streaming_peers: log.peers.iter().filter(|peer| peer.streaming).count() as u64,
            lag_bytes: log.peers.iter().map(|peer| (peer.member.to_string(), peer.lag_bytes)).collect(),
            lag_ms: log
                .peers
                .iter()
                .filter_map(|peer| Some((peer.member.to_string(), peer.lag_ms?)))
                .collect(),
            set_aside: log.set_aside.len() as u64,
            set_aside_bytes: log.set_aside.iter().map(|archive| archive.bytes).sum(),
            damaged: u64::from(log.damaged.is_some()),
        }
    }
}

/// The numbers alone.
pub(super) async fn replication_stats(State(api): State<Api>) -> Result<Json<ReplicationStats>, ApiError> {
    api.handle.replication().map(|log| Json(log.into())).ok_or(ApiError::NoLog)
}
