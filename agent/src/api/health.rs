//! Answers for load balancers and supervisors: the status code says it all, the body says why.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use super::Api;
use super::error::ApiError;
use crate::runtime::status::Status;

/// 200 whenever the core answers, whatever its role.
pub(super) async fn health(State(api): State<Api>) -> Result<Response, ApiError> {
    let status = api.status().await?;
    Ok(verdict(&status, true, "the agent runs and its core answers"))
}

/// 200 on the primary while it serves. One that hands over does not count: new requests go elsewhere.
pub(super) async fn primary(State(api): State<Api>) -> Result<Response, ApiError> {
    let status = api.status().await?;
    let good = serves(&status);
    let why =
        if good { "this member is primary and serves" } else { "this member does not serve as primary" };
    Ok(verdict(&status, good, why))
}

/// 200 on a standby.
pub(super) async fn standby(State(api): State<Api>) -> Result<Response, ApiError> {
    let status = api.status().await?;
    let good = status.role == "standby";
    let why = if good { "this member is a standby" } else { "this member is no standby" };
    Ok(verdict(&status, good, why))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Freshness {
    /// Most bytes of the log that may be missing in what a reader sees.
    lag: Option<u64>,
}

/// 200 where reads are answered from data that is not older than `lag` bytes: on the serving primary,
/// and on a standby that follows. A standby without a stream cannot know how old it is.
pub(super) async fn read_only(
    State(api): State<Api>,
    query: Result<Query<Freshness>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(Freshness { lag }) = query.map_err(|_| {
        ApiError::BadRequest("write the limit in bytes, such as /read-only?lag=1048576".to_owned())
    })?;
    let status = api.status().await?;
    if serves(&status) {
        return Ok(verdict(&status, true, "this member is primary and serves"));
    }
    let log = api.handle.replication().filter(|_| status.role == "standby");
    let (good, why) = match log {
        None => (false, "this member has nothing to read from".to_owned()),
        Some(log) if !log.streaming => (false, "this standby follows nobody at the moment".to_owned()),
        Some(log) => {
            let behind = log.end.max(log.committed).bytes_since(log.applied);
            let good = lag.is_none_or(|limit| behind <= limit);
            (good, format!("this standby is {behind} bytes behind what it has received"))
        }
    };
    Ok(verdict(&status, good, &why))
}

fn serves(status: &Status) -> bool {
    status.role == "primary" && status.serving
}

fn verdict(status: &Status, good: bool, why: &str) -> Response {
    let code = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "ok": good,
        "why": why,
        "node": status.node,
        "role": status.role,
        "serving": status.serving,
        "primary": status.primary,
        "healthy": status.healthy,
    });
    (code, Json(body)).into_response()
}
