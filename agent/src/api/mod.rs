//! The HTTP interface of a member: what it shows, and what it takes from an operator.
//!
//! This module decides who may ask for a change ([`guard`]) and how an answer is spelled. It never
//! decides anything about the cluster: a reading request gets a snapshot, a changing one becomes a
//! [`Command`](crate::node::event::Command) and its answer is the core's.
//!
//! Invariants: every answer but the metrics is JSON, errors are `{"error":{"code","message"}}`; nothing
//! waits without a bound; nothing that a caller sends can change state unless the guard let it pass.

mod archives;
mod audit;
mod commands;
mod error;
mod guard;
mod health;
mod metrics;
mod nodes;
mod reading;
mod resync;
mod serve;
mod store;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{MethodRouter, any, delete, get, post, put};

pub(crate) use audit::ACTOR;
pub use reading::{Cluster, ClusterMember, ReplicationStats};
pub use serve::serve;

use crate::runtime::audit::Audit;
use crate::runtime::handle::Handle;
use crate::runtime::status::Status;
use error::ApiError;

/// Largest body of a request, in bytes. The largest that means anything has less than a hundred.
pub const MAX_BODY_BYTES: usize = 64 * 1024;
/// Largest answer to an order, in bytes, for the audit trail to read its words.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// How long the core may take.
const PATIENCE: Patience = Patience { status: Duration::from_secs(2), command: Duration::from_secs(15) };
/// How many checks may be under way. Each sends packets.
const CHECKS_AT_A_TIME: usize = 2;
/// Bounds a whole request, its body included, so that a trickling caller holds nothing for ever.
const REQUEST_WITHIN: Duration = Duration::from_secs(20);

/// Who may ask for changes.
#[derive(Clone, Default)]
pub struct ApiOptions {
    /// What a caller that changes state must show. Without one, only callers on this host may.
    pub token: Option<String>,
    /// Where it is written down who asked for what.
    pub audit: Audit,
}

impl std::fmt::Debug for ApiOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let token = self.token.as_ref().map(|_| "(hidden)");
        f.debug_struct("ApiOptions").field("token", &token).finish_non_exhaustive()
    }
}

/// How long the core may take before the caller is told that it is not well.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// To show its state.
    status: Duration,
    /// To carry out a command. It answers each within ten seconds by its own clock.
    command: Duration,
}

/// What every request handler can reach.
#[derive(Clone)]
struct Api {
    handle: Handle,
    patience: Patience,
    options: Arc<ApiOptions>,
    checks: Arc<tokio::sync::Semaphore>,
}

impl Api {
    /// The member's state now, or why it cannot be had.
    async fn status(&self) -> Result<Status, ApiError> {
        match tokio::time::timeout(self.patience.status, self.handle.status()).await {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err(ApiError::Ending),
            Err(_) => Err(ApiError::CoreSilent { within: self.patience.status }),
        }
    }
}

/// All routes, on top of a running member.
///
/// The router wants to know each caller's address as `ConnectInfo<SocketAddr>`, which [`serve()`]
/// provides. Without it no change is accepted but with the token.
pub fn router(handle: Handle, options: ApiOptions) -> Router {
    router_with(handle, options, PATIENCE)
}

fn router_with(handle: Handle, options: ApiOptions, patience: Patience) -> Router {
    let api = Api {
        handle,
        patience,
        options: Arc::new(options),
        checks: Arc::new(tokio::sync::Semaphore::new(CHECKS_AT_A_TIME)),
    };
    // On the handlers and not on the whole router, so that an unknown path stays unknown to everybody.
    let guarded =
        |route: MethodRouter<Api>| route.route_layer(from_fn_with_state(api.clone(), guard::only_who_may));
    Router::new()
        .route("/api/ha/status", get(reading::status))
        .route("/api/ha/cluster", get(reading::cluster))
        .route("/api/ha/history", get(reading::history))
        .route("/api/ha/audit", guarded(get(audit::show)))
        .route("/api/ha/metrics", get(metrics::metrics))
        .route("/metrics", get(metrics::metrics))
        .route("/api/ha/check", guarded(post(commands::check)))
        .route("/api/ha/failover", guarded(post(commands::failover)))
        .route("/api/ha/promote", guarded(post(commands::promote)))
        .route("/api/ha/recording", guarded(post(commands::record)))
        .route("/api/ha/failback", guarded(post(commands::failback)))
        .route("/api/ha/pause", guarded(post(commands::pause)))
        .route("/api/ha/resume", guarded(post(commands::resume)))
        .route("/api/ha/drain", guarded(post(commands::drain)))
        .route("/api/ha/fence-confirmed", guarded(post(commands::fence_confirmed)))
        .route("/api/replication/status", get(reading::replication_status))
        .route("/api/replication/stats", get(reading::replication_stats))
        .route("/api/replication/archives", guarded(get(archives::list)))
        .route("/api/replication/archives/{name}", guarded(get(archives::show).delete(archives::delete)))
        .route("/api/replication/archives/{name}/object", guarded(get(archives::object)))
        .route("/api/replication/archives/{name}/objects/{id}", guarded(get(archives::bytes)))
        .route(
            "/api/replication/archives/{name}/restore",
            guarded(get(archives::progress).post(archives::restore)),
        )
        .route("/api/replication/resync", get(resync::plan).merge(guarded(post(resync::order))))
        .route("/api/store/scrub", get(store::scrub))
        .route("/api/store/scrub/start", guarded(post(store::start_scrub)))
        .route("/api/store/space", get(store::space))
        .route("/api/store/space/reclaim", guarded(post(store::reclaim)))
        .route("/api/store/users", guarded(get(store::users).post(store::create_user)))
        .route(
            "/api/store/users/{name}",
            guarded(get(store::user).patch(store::change_user).delete(store::delete_user)),
        )
        .route("/api/store/users/{name}/buckets", guarded(put(store::set_access)))
        .route("/api/store/users/{name}/keys", guarded(post(store::create_key)))
        .route("/api/store/users/{name}/keys/{id}", guarded(delete(store::remove_key)))
        .route("/api/store/buckets", guarded(get(store::buckets)))
        .route("/api/store/buckets/{name}", guarded(get(store::bucket).patch(store::change_bucket)))
        .route("/health", get(health::health))
        .route("/primary", get(health::primary))
        .route("/standby", get(health::standby))
        .route("/read-only", get(health::read_only))
        .route("/api/ha/events", any(not_in_this_version))
        .route("/api/replication/rules", any(not_in_this_version))
        .route("/api/replication/rules/{*rest}", any(not_in_this_version))
        .route("/api/cluster/nodes", get(reading::cluster).merge(guarded(post(nodes::change_voters))))
        .route(
            "/api/cluster/nodes/{id}",
            get(nodes::show).merge(guarded(put(nodes::edit).patch(nodes::edit).delete(nodes::remove))),
        )
        .route("/api/cluster/nodes/{id}/drain", guarded(post(nodes::drain)))
        .route("/api/cluster/nodes/{id}/resume", guarded(post(nodes::resume)))
        .route("/api/cluster/{*rest}", any(not_in_this_version))
        .method_not_allowed_fallback(async || ApiError::WrongMethod)
        .fallback(async || ApiError::UnknownPath)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(from_fn(serve::within_bounds))
        .with_state(api)
}

async fn not_in_this_version() -> ApiError {
    ApiError::NotInThisVersion
}
