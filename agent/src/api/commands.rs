//! Requests that change something: parsed strictly, handed to the core, answered with its words.
//!
//! A body that does not say exactly what is meant is refused: a misspelt key must not turn "switch
//! automatic failback off" into "fail back now".

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use holdfast_heartbeat::NodeId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

use super::Api;
use super::error::ApiError;
use crate::node::event::Command;
use crate::runtime::inquiry::CheckReport;
use crate::runtime::log_thread::wall_ms;
use crate::runtime::recorder::Written;

/// The answer to a command that was carried out.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    message: String,
}

pub(super) type Body = Result<Bytes, BytesRejection>;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct FailoverBody {
    #[serde(deserialize_with = "stated")]
    to: Option<NodeId>,
}

/// Hands the role over: `{"to": NAME}`, or nothing for the best member.
pub(super) async fn failover(State(api): State<Api>, body: Body) -> Result<Json<Outcome>, ApiError> {
    let FailoverBody { to } = parse(body)?;
    carry_out(api, Command::Failover { to }).await
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PromoteBody {
    accept_data_loss: bool,
}

/// Takes the role here: `{"accept_data_loss": bool}`, or nothing for "only if nothing is lost".
pub(super) async fn promote(State(api): State<Api>, body: Body) -> Result<Json<Outcome>, ApiError> {
    let PromoteBody { accept_data_loss } = parse(body)?;
    carry_out(api, Command::Promote { accept_data_loss }).await
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct FailbackBody {
    #[serde(deserialize_with = "stated")]
    enabled: Option<bool>,
}

/// Nothing or `{}`: fail back now. `{"enabled": bool}`: switch automatic failback on or off.
pub(super) async fn failback(State(api): State<Api>, body: Body) -> Result<Json<Outcome>, ApiError> {
    let command = match parse(body)? {
        FailbackBody { enabled: None } => Command::Failback,
        FailbackBody { enabled: Some(enabled) } => Command::SetFailback { enabled },
    };
    carry_out(api, command).await
}

/// These orders have nothing to say beyond their path: a body with anything in it was meant otherwise.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct NothingMore {}

/// Looks into everything that a failover needs. Changes nothing; but it sends packets on the networks of the
/// virtual addresses, announcements among them, so it is asked for like a change.
pub(super) async fn check(State(api): State<Api>, body: Body) -> Result<Json<CheckReport>, ApiError> {
    let NothingMore {} = parse(body)?;
    let _turn = api.checks.try_acquire().map_err(|_| ApiError::Checking)?;
    let status = api.status().await?;
    match tokio::time::timeout(api.patience.command, api.handle.check(status)).await {
        Ok(Some(report)) => Ok(Json(report)),
        Ok(None) => Err(ApiError::Ending),
        Err(_) => Err(ApiError::CoreSilent { within: api.patience.command }),
    }
}

/// Suspends automatic changes of primary in the whole cluster.
pub(super) async fn pause(State(api): State<Api>, body: Body) -> Result<Json<Outcome>, ApiError> {
    let NothingMore {} = parse(body)?;
    carry_out(api, Command::Pause { at_unix_ms: wall_ms() }).await
}

/// Ends the pause of the cluster and the drain of this member.
pub(super) async fn resume(State(api): State<Api>, body: Body) -> Result<Json<Outcome>, ApiError> {
    let NothingMore {} = parse(body)?;
    carry_out(api, Command::Resume { at_unix_ms: wall_ms() }).await
}

/// Takes this member out for maintenance.
pub(super) async fn drain(State(api): State<Api>, body: Body) -> Result<Json<Outcome>, ApiError> {
    let NothingMore {} = parse(body)?;
    carry_out(api, Command::Drain).await
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct FenceConfirmedBody {
    #[serde(deserialize_with = "stated")]
    member: Option<NodeId>,
}

/// The operator has made sure that a member is off: `{"member": NAME}`.
pub(super) async fn fence_confirmed(State(api): State<Api>, body: Body) -> Result<Json<Outcome>, ApiError> {
    let FenceConfirmedBody { member } = parse(body)?;
    let Some(member) = member else {
        return Err(ApiError::BadRequest("say which member is off: {\"member\": NAME}".to_owned()));
    };
    carry_out(api, Command::FenceConfirmed { member }).await
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RecordBody {}

/// Writes down what the core was told lately; the answer names the file.
pub(super) async fn record(State(api): State<Api>, body: Body) -> Result<Json<Written>, ApiError> {
    let RecordBody {} = parse(body)?;
    let within = api.patience.command;
    match tokio::time::timeout(within, api.handle.record()).await {
        Ok(Some(written)) => Ok(Json(written?)),
        Ok(None) => Err(ApiError::Ending),
        Err(_) => Err(ApiError::OutcomeUnknown { within }),
    }
}

pub(super) async fn carry_out(api: Api, command: Command) -> Result<Json<Outcome>, ApiError> {
    // Before its outcome is known: an order that ends the agent leaves a trace too.
    tracing::info!(?command, "an operator's order came by the API");
    let within = api.patience.command;
    match tokio::time::timeout(within, api.handle.command(command)).await {
        Ok(answer) => Ok(Json(Outcome { message: answer? })),
        Err(_) => Err(ApiError::OutcomeUnknown { within }),
    }
}

/// The body as JSON whatever its content type says; an empty one means `{}`.
pub(super) fn parse<T: DeserializeOwned + Default>(body: Body) -> Result<T, ApiError> {
    let body = whole(body)?;
    if body.trim_ascii().is_empty() { Ok(T::default()) } else { shaped(&body) }
}

/// A body that must say something.
pub(super) fn stated_body<T: DeserializeOwned>(body: Body) -> Result<T, ApiError> {
    shaped(&whole(body)?)
}

fn whole(body: Body) -> Result<Bytes, ApiError> {
    body.map_err(|rejection| match rejection.into_response().status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::BodyTooLarge,
        _ => ApiError::BadRequest("the body of the request could not be read".to_owned()),
    })
}

fn shaped<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body)
        .map_err(|error| ApiError::BadRequest(format!("the body is not what is expected here: {error}")))
}

/// A key that is there has a value: `null` is a mistake and not an absence.
pub(super) fn stated<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}
