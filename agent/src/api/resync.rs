//! Requests about copying this member's log anew: what it would mean, and that it is to be done.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Query, State};
use serde::Serialize;

use super::Api;
use super::commands::stated_body;
use super::error::ApiError;
use crate::runtime::resync::judge::{Plan, Wishes};
use crate::runtime::resync::{Resync, ResyncError};
use crate::runtime::sameness::SamenessBoard;
use crate::runtime::status::Status;

impl From<ResyncError> for ApiError {
    fn from(error: ResyncError) -> ApiError {
        match error {
            ResyncError::Declined(declined) => declined.into(),
            ResyncError::Io(_) => ApiError::NotOrdered(error.to_string()),
        }
    }
}

async fn looked<T: Send + 'static>(
    api: &Api,
    look: impl FnOnce(
        Resync,
        Status,
        holdfast_replication::replica::ReplicaStatus,
        bool,
    ) -> Result<T, ResyncError>
    + Send
    + 'static,
) -> Result<T, ApiError> {
    let resync = api.handle.resync().cloned().ok_or(ApiError::NoLog)?;
    let log = api.handle.replication().ok_or(ApiError::NoLog)?;
    let status = api.status().await?;
    let differs = api.handle.sameness().map(SamenessBoard::status).is_some_and(|sameness| sameness.differs());
    // The disk is looked at, and written to.
    let looked = tokio::task::spawn_blocking(move || look(resync, status, log, differs)).await;
    Ok(looked.map_err(|_| ApiError::Ending)??)
}

/// What it would mean: `?member=NAME&keep_old_copy=true&drop_old_copy_first=true`. Changes nothing.
pub(super) async fn plan(
    State(api): State<Api>,
    query: Result<Query<Wishes>, QueryRejection>,
) -> Result<Json<Plan>, ApiError> {
    let Query(wishes) = query.map_err(|error| ApiError::BadRequest(error.body_text()))?;
    let plan = looked(&api, move |resync, status, log, differs| {
        resync.plan(&status, &log, differs, &wishes).map_err(ResyncError::Declined)
    });
    plan.await.map(Json)
}

/// What was ordered.
#[derive(Debug, Serialize)]
pub(super) struct Ordered {
    message: String,
    plan: Plan,
}

/// Has it done: `{"member": NAME}`. The name must be there: an order that reached the wrong host costs hours.
pub(super) async fn order(
    State(api): State<Api>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Ordered>, ApiError> {
    let wishes: Wishes = stated_body(body)?;
    if wishes.member.is_none() {
        let why = "say whose log is to be copied anew: {\"member\": NAME}. GET shows what it would mean";
        return Err(ApiError::BadRequest(why.to_owned()));
    }
    let plan =
        looked(&api, move |resync, status, log, differs| resync.order(&status, &log, differs, &wishes))
            .await?;
    let message = format!(
        "{} starts again now, and copies its log anew from {}. It shows how far it is: holdfast replication status",
        plan.member, plan.primary
    );
    Ok(Json(Ordered { message, plan }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::http::StatusCode;
    use axum::http::header;
    use holdfast_replication::replica::{ReplicaRole, ReplicaStatus};
    use serde_json::Value;
    use tower::ServiceExt;

    use super::*;
    use crate::api::tests::{leading, status};
    use crate::api::{ApiOptions, router};
    use crate::runtime::audit::Audit;
    use crate::runtime::handle::{Handle, Request};
    use crate::runtime::history::History;

    struct Standby {
        dir: tempfile::TempDir,
        ended: Arc<AtomicUsize>,
        audit: Audit,
        router: axum::Router,
    }

    impl Standby {
        /// `b`, which follows `a`, or `a`, which leads.
        fn new(leads: bool) -> Standby {
            let dir = tempfile::tempdir().unwrap();
            let ended = Arc::new(AtomicUsize::new(0));
            let ends = ended.clone();
            let end = move || {
                ends.fetch_add(1, Ordering::SeqCst);
            };
            let resync = Resync::new(dir.path(), Some(1 << 20), end).unwrap();
            let mut seen = status();
            let log = ReplicaStatus {
                role: if leads { ReplicaRole::Leading } else { ReplicaRole::Following },
                log_bytes: 5 << 20,
                ..leading()
            };
            if !leads {
                (seen.node, seen.role) = ("b".into(), "standby".into());
                (seen.peers[0].id, seen.peers[0].role) = ("a".into(), Some("primary".into()));
            }
            let requests = move |request| {
                if let Request::Status(reply) = request {
                    let _ = reply.send(seen.clone());
                }
                true
            };
            let history = History::open(std::path::Path::new("/nonexistent"));
            let handle = Handle::new(requests, move || Some(log.clone()), history).with_resync(Some(resync));
            let audit = Audit::default();
            let router = router(handle, ApiOptions { audit: audit.clone(), ..ApiOptions::default() });
            Standby { dir, ended, audit, router }
        }

        async fn ask(&self, method: &str, query: &str, body: &str) -> (StatusCode, Value) {
            let request = axum::http::Request::builder()
                .method(method)
                .uri(format!("/api/replication/resync{query}"))
                .header(header::HOST, "127.0.0.1:8080")
                .extension(axum::extract::ConnectInfo("127.0.0.1:5".parse::<std::net::SocketAddr>().unwrap()))
                .body(axum::body::Body::from(body.to_owned()))
                .unwrap();
            let answer = self.router.clone().oneshot(request).await.unwrap();
            let status = answer.status();
            let body = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
            (status, serde_json::from_slice(&body).unwrap())
        }

        fn untouched(&self) -> bool {
            self.ended.load(Ordering::SeqCst) == 0
                && std::fs::read_dir(self.dir.path()).unwrap().next().is_none()
        }
    }

    #[tokio::test]
    async fn what_it_means_is_said_and_only_an_order_that_names_the_member_is_carried_out_once() {
        let standby = Standby::new(false);
        let (code, plan) = standby.ask("GET", "", "").await;
        assert_eq!(code, StatusCode::OK, "{plan}");
        assert_eq!((&plan["member"], &plan["primary"]), (&"b".into(), &"a".into()));
        assert_eq!((plan["transfer_bytes"].as_u64(), plan["seconds"].as_u64()), (Some(5 << 20), Some(5)));
        assert_eq!(plan["old_copy"], "deleted_when_in_sync");
        for wrong in ["", "{}", r#"{"member": "b", "keep": true}"#] {
            assert_eq!(standby.ask("POST", "", wrong).await.0, StatusCode::BAD_REQUEST, "{wrong}");
        }
        let (code, body) = standby.ask("POST", "", r#"{"member": "a"}"#).await;
        assert_eq!((code, &body["error"]["code"]), (StatusCode::CONFLICT, &"other_member".into()));
        assert!(standby.untouched());

        let (code, body) = standby.ask("POST", "", r#"{"member": "b", "keep_old_copy": true}"#).await;
        assert_eq!(code, StatusCode::OK, "{body}");
        assert_eq!(body["plan"]["old_copy"], "kept");
        assert_eq!(standby.ended.load(Ordering::SeqCst), 1);
        assert!(standby.dir.path().join("resync.json").exists());
        let (code, body) = standby.ask("POST", "", r#"{"member": "b"}"#).await;
        assert_eq!((code, &body["error"]["code"]), (StatusCode::CONFLICT, &"resync_under_way".into()));
        assert_eq!(standby.ended.load(Ordering::SeqCst), 1);
        let trail = standby.audit.shown(usize::MAX).records;
        let told: Vec<_> =
            trail.iter().map(|entry| (&*entry.record.action, &*entry.record.outcome)).collect();
        assert_eq!(told[3..], [("resync", "refused"), ("resync", "done"), ("resync", "refused")]);
    }

    #[tokio::test]
    async fn a_primary_is_never_copied_anew() {
        let primary = Standby::new(true);
        for (method, body) in [("GET", ""), ("POST", r#"{"member": "a"}"#)] {
            let (code, body) = primary.ask(method, "", body).await;
            assert_eq!((code, &body["error"]["code"]), (StatusCode::CONFLICT, &"is_primary".into()));
        }
        assert!(primary.untouched());
    }
}
