//! Requests about the store: its users, their keys and access, and its buckets.
//!
//! Only who may change something may read here too: access keys and names are not for everybody. Secrets are in the
//! answer to the request that made them, and nowhere else.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use holdfast_store::admin::{
    Admin, AdminError, BucketChange, MadeKey, NewUser, ShownBucket, ShownUser, UserChange,
};
use holdfast_store::backend::NotServing;
use serde::{Deserialize, Serialize};

use super::Api;
use super::commands::stated_body;
use super::error::ApiError;
use crate::runtime::log_thread::wall_ms;
use crate::runtime::scrub::ScrubStatus;
use crate::runtime::space::SpaceStatus;

type Body = Result<Bytes, BytesRejection>;

fn store(api: &Api) -> Result<Admin, ApiError> {
    api.handle.store().cloned().ok_or(ApiError::NoStore)
}

/// Asks the index on a thread that may wait for the disk.
async fn asked<T: Send + 'static>(
    api: &Api,
    question: impl FnOnce(Admin) -> Result<T, AdminError> + Send + 'static,
) -> Result<Json<T>, ApiError> {
    let admin = store(api)?;
    let answered = tokio::task::spawn_blocking(move || question(admin)).await;
    Ok(Json(answered.map_err(|_| ApiError::Ending)??))
}

/// How sound the log is, as far as it was read through.
pub(super) async fn scrub(State(api): State<Api>) -> Result<Json<ScrubStatus>, ApiError> {
    Ok(Json(api.handle.scrub().ok_or(ApiError::NoStore)?.status()))
}

/// Begins to read the log through now.
pub(super) async fn start_scrub(State(api): State<Api>) -> Result<Json<Done>, ApiError> {
    api.handle.scrub().ok_or(ApiError::NoStore)?.ask();
    let message = "the log of this member is being read through; `holdfast store scrub` shows how far it is";
    Ok(Json(Done { message: message.to_owned() }))
}

/// What space the store takes.
pub(super) async fn space(State(api): State<Api>) -> Result<Json<SpaceStatus>, ApiError> {
    Ok(Json(api.handle.space().ok_or(ApiError::NoStore)?.status()))
}

/// Asks that what can be won of the space is won now, whatever the share of garbage.
pub(super) async fn reclaim(State(api): State<Api>) -> Result<Json<Done>, ApiError> {
    let board = api.handle.space().ok_or(ApiError::NoStore)?;
    if !api.status().await?.serving {
        let reason = "this member is not the primary: ask there, since what it gives up every member does";
        let not_serving = NotServing { redirect: None, reason: reason.to_owned() };
        return Err(ApiError::Store(AdminError::NotServing(not_serving)));
    }
    board.ask();
    let message = "space is being won back; `holdfast store space` shows how far it is";
    Ok(Json(Done { message: message.to_owned() }))
}

/// All users.
pub(super) async fn users(State(api): State<Api>) -> Result<Json<Vec<ShownUser>>, ApiError> {
    asked(&api, |admin| admin.users()).await
}

/// One user.
pub(super) async fn user(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<Json<ShownUser>, ApiError> {
    asked(&api, move |admin| admin.user(&name)).await
}

/// Makes a user; its secret is in the answer.
pub(super) async fn create_user(State(api): State<Api>, body: Body) -> Result<Json<MadeKey>, ApiError> {
    let new: NewUser = stated_body(body)?;
    Ok(Json(store(&api)?.create_user(new, wall_ms()).await?))
}

/// Changes a user.
pub(super) async fn change_user(
    State(api): State<Api>,
    Path(name): Path<String>,
    body: Body,
) -> Result<Json<ShownUser>, ApiError> {
    let change: UserChange = stated_body(body)?;
    Ok(Json(store(&api)?.change_user(&name, change).await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AccessBody {
    bucket_access: Vec<holdfast_store::access::BucketAccess>,
}

/// Replaces a user's bucket access: `{"bucket_access": [{"bucket", "permission"}]}`.
pub(super) async fn set_access(
    State(api): State<Api>,
    Path(name): Path<String>,
    body: Body,
) -> Result<Json<ShownUser>, ApiError> {
    let AccessBody { bucket_access } = stated_body(body)?;
    let change = UserChange { bucket_access: Some(bucket_access), ..UserChange::default() };
    Ok(Json(store(&api)?.change_user(&name, change).await?))
}

/// What was done, in words.
#[derive(Debug, Serialize)]
pub(super) struct Done {
    message: String,
}

/// Removes a user.
pub(super) async fn delete_user(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<Json<Done>, ApiError> {
    store(&api)?.delete_user(&name).await?;
    Ok(Json(Done { message: format!("{name} is removed; what it stored stays") }))
}

/// Makes another key for a user; its secret is in the answer.
pub(super) async fn create_key(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<Json<MadeKey>, ApiError> {
    Ok(Json(store(&api)?.create_key(&name).await?))
}

/// Removes a key of a user.
pub(super) async fn remove_key(
    State(api): State<Api>,
    Path((name, id)): Path<(String, String)>,
) -> Result<Json<ShownUser>, ApiError> {
    Ok(Json(store(&api)?.remove_key(&name, &id).await?))
}

/// All buckets, with what they hold.
pub(super) async fn buckets(State(api): State<Api>) -> Result<Json<Vec<ShownBucket>>, ApiError> {
    asked(&api, |admin| admin.buckets()).await
}

/// One bucket.
pub(super) async fn bucket(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<Json<ShownBucket>, ApiError> {
    asked(&api, move |admin| admin.bucket(&name)).await
}

/// Changes a bucket's quota or owner.
pub(super) async fn change_bucket(
    State(api): State<Api>,
    Path(name): Path<String>,
    body: Body,
) -> Result<Json<ShownBucket>, ApiError> {
    let change: BucketChange = stated_body(body)?;
    Ok(Json(store(&api)?.change_bucket(&name, change).await?))
}
