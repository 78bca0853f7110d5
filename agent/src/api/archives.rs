//! Requests about what was set aside: shown, read, restored, deleted.
//!
//! Only who may give orders may read here: names and bytes of objects are not for everybody.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::IntoResponse;
use holdfast_heartbeat::Lsn;
use serde::{Deserialize, Serialize};

use super::Api;
use super::commands::stated_body;
use super::error::ApiError;
use crate::runtime::archives::{
    ArchiveError, Archives, Listed, MOST_BYTES, Order, PAGE, Page, Readable, Reported, Wanted,
};

type Body = Result<Bytes, BytesRejection>;

fn archives(api: &Api) -> Result<Archives, ApiError> {
    api.handle.archives().cloned().ok_or(ApiError::NoLog)
}

/// Looks on a thread that may wait for the disk.
async fn looked<T: Send + 'static>(
    api: &Api,
    look: impl FnOnce(Archives) -> Result<T, ArchiveError> + Send + 'static,
) -> Result<T, ApiError> {
    let archives = archives(api)?;
    let looked = tokio::task::spawn_blocking(move || look(archives)).await;
    Ok(looked.map_err(|_| ApiError::Ending)??)
}

fn asked<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, ApiError> {
    query.map(|Query(asked)| asked).map_err(|error| ApiError::BadRequest(error.body_text()))
}

/// All archives of this member.
pub(super) async fn list(State(api): State<Api>) -> Result<Json<Vec<Listed>>, ApiError> {
    Ok(Json(archives(&api)?.list().await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PageQuery {
    after: Option<u64>,
    limit: Option<usize>,
}

/// Some changes of an archive: those behind `after`, at most `limit`.
pub(super) async fn show(
    State(api): State<Api>,
    Path(name): Path<String>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Json<Page>, ApiError> {
    let PageQuery { after, limit } = asked(query)?;
    looked(&api, move |archives| archives.page(&name, after.map(Lsn), limit.unwrap_or(PAGE))).await.map(Json)
}

/// An object of an archive: what it is made of, to be read with its `id`.
pub(super) async fn object(
    State(api): State<Api>,
    Path(name): Path<String>,
    query: Result<Query<Wanted>, QueryRejection>,
) -> Result<Json<Readable>, ApiError> {
    let wanted = asked(query)?;
    looked(&api, move |archives| archives.find(&name, &wanted)).await.map(Json)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BytesQuery {
    #[serde(default)]
    start: u64,
    len: Option<u64>,
}

/// Bytes of an object of an archive.
pub(super) async fn bytes(
    State(api): State<Api>,
    Path((name, id)): Path<(String, u64)>,
    query: Result<Query<BytesQuery>, QueryRejection>,
) -> Result<impl IntoResponse, ApiError> {
    let BytesQuery { start, len } = asked(query)?;
    let len = len.unwrap_or(MOST_BYTES);
    looked(&api, move |archives| archives.bytes(&name, Lsn(id), start, len)).await
}

/// Begins to restore objects as new writes.
pub(super) async fn restore(
    State(api): State<Api>,
    Path(name): Path<String>,
    body: Body,
) -> Result<Json<Begun>, ApiError> {
    let order: Order = stated_body(body)?;
    let began_ms = looked(&api, {
        let (name, runtime) = (name.clone(), tokio::runtime::Handle::current());
        move |archives| {
            let _runtime = runtime.enter();
            archives.restore(&name, order)
        }
    })
    .await?
    .began_ms;
    let message = format!("objects of {name} are being restored by writes to the primary");
    Ok(Json(Begun { message, began_ms }))
}

/// A restore has begun.
#[derive(Debug, Serialize)]
pub(super) struct Begun {
    message: String,
    began_ms: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReportQuery {
    #[serde(default)]
    from: u64,
}

/// How far a restore is, and what became of the objects.
pub(super) async fn progress(
    State(api): State<Api>,
    Path(name): Path<String>,
    query: Result<Query<ReportQuery>, QueryRejection>,
) -> Result<Json<Reported>, ApiError> {
    let ReportQuery { from } = asked(query)?;
    looked(&api, move |archives| archives.progress(&name, from)).await.map(Json)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct DeleteBody {
    for_good: bool,
}

/// What was done, in words.
#[derive(Debug, Serialize)]
pub(super) struct Done {
    message: String,
}

/// Deletes an archive: `{"for_good": true}`.
pub(super) async fn delete(
    State(api): State<Api>,
    Path(name): Path<String>,
    body: Body,
) -> Result<Json<Done>, ApiError> {
    let DeleteBody { for_good } = stated_body(body)?;
    if !for_good {
        let why = "what only this archive has is lost for ever then: say so with {\"for_good\": true}";
        return Err(ApiError::BadRequest(why.to_owned()));
    }
    let deleted = archives(&api)?.delete(&name).await?;
    Ok(Json(Done {
        message: format!("the archive {name} is deleted; its {} bytes are given back", deleted.bytes),
    }))
}

#[cfg(test)]
mod tests;
