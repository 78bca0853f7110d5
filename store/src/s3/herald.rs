//! Tells webhooks what happened, on the member that serves.
//!
//! Events are noted with the change that caused them, so they survive the primary; they are delivered in the
//! order in which they happened, at least once, and forgotten by a record once every receiver took them. A
//! receiver that does not answer holds the ones behind it back, until there are [`PENDING_MAX`]: then the
//! oldest are given up, and the log says how many.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use holdfast_heartbeat::types::Lsn;
use s3s::S3Result;
use s3s::dto::NotificationConfiguration;
use serde_json::json;

use super::{Store, answer, notifications, settings};
use crate::bucket::Document;
use crate::index::{Tables, View, decode};
use crate::keys;
use crate::op::Op;
use crate::state::Event;

/// Events that wait for receivers that do not answer.
const PENDING_MAX: usize = 100_000;

/// Events that are looked at together, and forgotten by one record.
const BATCH: usize = 100;

/// How often to look for events.
const IDLE: Duration = Duration::from_millis(200);

/// The longest wait after a receiver did not take an event.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends the body of an event to a webhook of the configuration.
pub trait Post: Send + Sync + 'static {
    /// Resolves when the receiver took it; an error says why it did not.
    fn post(&self, webhook: &str, body: String) -> BoxFuture<'_, Result<(), String>>;
}

/// Tells webhooks what happened.
pub struct Herald {
    store: Arc<Store>,
    post: Arc<dyn Post>,
}

/// An event on its way.
struct Pending {
    lsn: Lsn,
    event: Event,
    receivers: Vec<String>,
}

impl Herald {
    /// For this store.
    pub fn new(store: Store, post: Arc<dyn Post>) -> Herald {
        Herald { store: Arc::new(store), post }
    }

    /// Runs until it is dropped.
    pub async fn run(self) {
        let mut wait = IDLE;
        loop {
            tokio::time::sleep(wait).await;
            if self.store.backend.serving().is_err() {
                wait = IDLE;
                continue;
            }
            // How many wait is counted only where one was not taken: else they are few.
            wait = match self.deliver(wait > IDLE).await {
                Ok(true) => IDLE,
                Ok(false) => (wait * 2).min(PATIENCE),
                Err(error) => {
                    tracing::warn!(reason = ?error, "events could not be read or forgotten; trying again");
                    PATIENCE
                }
            };
        }
    }

    /// Delivers a batch. False: a receiver did not take one.
    async fn deliver(&self, count: bool) -> S3Result<bool> {
        let (batch, surplus) = self.store.ask(move |_, view| pending(&view, count)).await?;
        if let Some((up_to, count)) = surplus {
            tracing::error!(count, "events are given up: a webhook has not taken any for too long");
            self.forget(up_to).await?;
        }
        let mut done = None;
        let mut all = true;
        'batch: for Pending { lsn, event, receivers } in batch {
            for webhook in receivers {
                if let Err(reason) = self.post.post(&webhook, body(lsn, &event)).await {
                    tracing::warn!(webhook, reason, "an event was not taken; it will be sent again");
                    all = false;
                    break 'batch;
                }
            }
            // Several events may share a record: it is done when the next record begins.
            done = Some(lsn);
        }
        if let Some(lsn) = done {
            self.forget(if all { lsn + 1 } else { lsn }).await?;
        }
        Ok(all)
    }

    async fn forget(&self, up_to: Lsn) -> S3Result<()> {
        let op = Op::EventsDelivered { up_to };
        let payload = op.encode(Bytes::new()).map_err(|e| answer::internal(&e.to_string()))?;
        self.store.backend.commit(payload).await.map_err(answer::write).map(drop)
    }
}

/// Events to be given up: those before a position, and how many they are.
type Surplus = (Lsn, usize);

/// The oldest events, and how many before which position are too many.
fn pending(view: &View, count_all: bool) -> S3Result<(Vec<Pending>, Option<Surplus>)> {
    let end = keys::after_prefix(keys::EVENTS);
    let mut batch: Vec<Pending> = Vec::new();
    let mut count = 0;
    let mut surplus = None;
    for entry in view.scan(keys::EVENTS, end.as_deref()) {
        let (key, value) = entry?;
        let lsn =
            key.get(1..9).and_then(|b| b.try_into().ok()).map_or(Lsn::ZERO, |b| Lsn(u64::from_be_bytes(b)));
        // A batch ends with a record, so that the record's events are forgotten together.
        if batch.len() < BATCH || batch.last().is_some_and(|last| last.lsn == lsn) {
            let event: Event = decode("event", &key, &value)?;
            let rules: Option<NotificationConfiguration> =
                settings::document(view, &event.bucket, Document::Notification)?;
            let receivers = rules.map_or_else(Vec::new, |rules| notifications::receivers(&rules, &event));
            batch.push(Pending { lsn, event, receivers });
        } else if !count_all {
            break;
        }
        count += 1;
        if count > PENDING_MAX {
            let half = batch.last().map_or(lsn, |last| last.lsn + 1);
            surplus = Some((half, batch.len()));
            break;
        }
    }
    Ok((batch, surplus))
}

/// The event as S3 writes it ("Event message structure" in the Amazon S3 user guide).
fn body(lsn: Lsn, event: &Event) -> String {
    let when = i128::from(event.wall_ms) * 1_000_000;
    let when =
        time::OffsetDateTime::from_unix_timestamp_nanos(when).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let when = when.format(&time::format_description::well_known::Rfc3339).unwrap_or_default();
    let by = answer::shown_id(&event.by);
    let key: String = form_urlencoded::byte_serialize(event.key.as_bytes()).collect();
    let mut object = json!({ "key": key, "sequencer": format!("{:016X}", lsn.0) });
    if let Some(etag) = event.etag {
        object["size"] = json!(event.size);
        object["eTag"] = json!(etag.to_string());
    }
    if let Some(version) = event.version {
        object["versionId"] = json!(version.to_string());
    }
    json!({
        "EventName": format!("s3:{}", event.kind.name()),
        "Key": format!("{}/{}", event.bucket, event.key),
        "Records": [{
            "eventVersion": "2.1",
            "eventSource": "holdfast:s3",
            "awsRegion": "",
            "eventTime": when,
            "eventName": event.kind.name(),
            "userIdentity": { "principalId": by },
            "s3": {
                "s3SchemaVersion": "1.0",
                "bucket": {
                    "name": event.bucket,
                    "arn": format!("arn:aws:s3:::{}", event.bucket),
                    "ownerIdentity": { "principalId": by },
                },
                "object": object,
            },
        }],
    })
    .to_string()
}
