//! Carries out lifecycle rules, on the member that serves.
//!
//! It walks the versions of each bucket that has rules, page by page with a rest between pages, and commits
//! removals like any client. Each removal names the version that was looked at: what was stored anew in the
//! meantime stays. A walk that a change of primary interrupts begins anew there; nothing is remembered.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use s3s::S3Result;
use s3s::dto::BucketLifecycleConfiguration;

use super::lifecycle::{self, Day, Subject};
use super::{Store, answer, settings, wall_ms};
use crate::apply::Outcome;
use crate::bucket::{BucketState, Document};
use crate::index::{Tables, View, decode};
use crate::keys;
use crate::listing::{MAX_PAGE, VersionItem, VersionQuery, list_versions};
use crate::object::{UploadId, VersionId};
use crate::op::{DeleteKey, Match, Op};
use crate::state::{UploadState, Version};

/// Rest between two pages: clients come first.
const REST: Duration = Duration::from_millis(20);

/// Walks per day of the rules.
const WALKS_PER_DAY: u32 = 24;

/// The shortest time between two walks, where a day is shortened.
const WALK_MIN: Duration = Duration::from_secs(1);

/// Carries out lifecycle rules.
pub struct Caretaker {
    store: Arc<Store>,
}

/// Where a walk through a bucket's versions stands.
#[derive(Default)]
struct Walk {
    after: Option<(String, VersionId)>,
    /// The key that the last version was of.
    key: String,
    /// When that version was stored, which is when the next older one stopped being current.
    since_ms: u64,
    /// How many former versions of the key were seen.
    former: usize,
    /// A delete marker that is current, until another version of its key is seen.
    lone_marker: Option<(String, VersionId, u64)>,
}

impl Caretaker {
    /// For this store.
    pub fn new(store: Store) -> Caretaker {
        Caretaker { store: Arc::new(store) }
    }

    /// Runs until it is dropped.
    pub async fn run(self) {
        let Day(day) = self.store.day;
        loop {
            tokio::time::sleep((day / WALKS_PER_DAY).max(WALK_MIN)).await;
            if self.store.backend.serving().is_ok()
                && let Err(error) = self.walk().await
            {
                tracing::warn!(reason = ?error, "lifecycle rules could not be carried out; they will be later");
            }
        }
    }

    async fn walk(&self) -> S3Result<()> {
        let buckets = self
            .store
            .ask(|_, view| {
                let end = keys::after_prefix(keys::BUCKETS);
                let mut with_rules = Vec::new();
                for entry in view.scan(keys::BUCKETS, end.as_deref()) {
                    let (key, value) = entry?;
                    let state: BucketState = decode("bucket", &key, &value)?;
                    if state.documents.contains(&Document::Lifecycle) {
                        with_rules.push(String::from_utf8_lossy(&key[keys::BUCKETS.len()..]).into_owned());
                    }
                }
                Ok(with_rules)
            })
            .await?;
        for bucket in buckets {
            self.versions(&bucket).await?;
            self.uploads(&bucket).await?;
        }
        Ok(())
    }

    async fn versions(&self, bucket: &str) -> S3Result<()> {
        let mut walk = Walk::default();
        loop {
            let name = bucket.to_owned();
            let (ended, next) = self.store.ask(move |store, view| page(store, &view, &name, walk)).await?;
            if !ended.is_empty() {
                let op = Op::DeleteObjects {
                    bucket: bucket.to_owned(),
                    owner: String::new(),
                    keys: ended,
                    bypass_governance: false,
                    wall_ms: wall_ms(),
                };
                self.commit(&op).await?;
            }
            match next {
                Some(next) => walk = next,
                None => return Ok(()),
            }
            tokio::time::sleep(REST).await;
        }
    }

    async fn uploads(&self, bucket: &str) -> S3Result<()> {
        let name = bucket.to_owned();
        let ended: Vec<(String, UploadId)> = self
            .store
            .ask(move |store, view| {
                let Some(rules) = rules(&view, &name)? else { return Ok(Vec::new()) };
                let all = keys::uploads(&name, b"");
                let end = keys::after_prefix(&all);
                let mut ended = Vec::new();
                for entry in view.scan(&all, end.as_deref()) {
                    let (key, value) = entry?;
                    let upload: UploadState = decode("upload", &key, &value)?;
                    if lifecycle::upload_ends(&rules, store.day, &upload.key, upload.initiated_ms, wall_ms())
                    {
                        ended.push((upload.key, upload.upload));
                    }
                    if ended.len() == MAX_PAGE {
                        break;
                    }
                }
                Ok(ended)
            })
            .await?;
        for (key, upload) in ended {
            self.commit(&Op::AbortUpload { bucket: bucket.to_owned(), key, upload }).await?;
        }
        Ok(())
    }

    /// Commits; that something is locked, gone or changed is no failure.
    async fn commit(&self, op: &Op) -> S3Result<()> {
        let payload = op.encode(Bytes::new()).map_err(|e| answer::internal(&e.to_string()))?;
        match self.store.backend.commit(payload).await.map_err(answer::write)? {
            Outcome::Deleted(answers) => {
                let removed = answers.iter().filter(|answer| answer.is_ok()).count();
                tracing::info!(removed, "lifecycle rules removed what had come to its end");
            }
            outcome => tracing::debug!(?outcome, "a lifecycle rule was carried out"),
        }
        Ok(())
    }
}

fn rules(view: &View, bucket: &str) -> S3Result<Option<BucketLifecycleConfiguration>> {
    settings::document(view, bucket, Document::Lifecycle)
}

/// What has come to its end on the next page, and where to go on.
fn page(
    store: &Store,
    view: &View,
    bucket: &str,
    mut walk: Walk,
) -> S3Result<(Vec<DeleteKey>, Option<Walk>)> {
    let mut ended = Vec::new();
    let Some(rules) = rules(view, bucket)? else { return Ok((ended, None)) };
    let now_ms = wall_ms();
    let query = VersionQuery {
        bucket,
        after: walk.after.as_ref().map(|(key, _)| key.as_str()),
        after_version: walk.after.as_ref().map(|(_, version)| *version),
        limit: MAX_PAGE,
        ..VersionQuery::default()
    };
    let page = list_versions(view, &query)?;
    for item in page.items {
        let VersionItem::Version { key, version, is_latest } = item else { continue };
        if walk.key != key {
            end_marker(store, &rules, &mut walk, &mut ended);
            walk.key.clone_from(&key);
            walk.former = 0;
        } else {
            walk.lone_marker = None;
        }
        let id = version.version();
        let (subject, modified_ms) = match &version {
            Version::Object(object) => {
                (Subject { key: &key, size: object.size, tags: &object.traits.tags }, object.modified_ms)
            }
            Version::Marker(marker) => (Subject { key: &key, size: 0, tags: &[] }, marker.modified_ms),
        };
        match &version {
            Version::Object(object) if is_latest => {
                let due = lifecycle::expiry(&rules, store.day, &subject, modified_ms);
                if due.is_some_and(|(at, _)| at <= now_ms) {
                    ended.push(DeleteKey {
                        key: key.clone(),
                        version: None,
                        if_match: Some(Match::Etag(object.etag.to_string())),
                        if_modified_s: Some(object.modified_ms / 1000),
                        if_size: Some(object.size),
                    });
                }
            }
            Version::Marker(_) if is_latest => walk.lone_marker = Some((key.clone(), id, modified_ms)),
            Version::Object(_) | Version::Marker(_) => {
                if lifecycle::former_ends(&rules, store.day, &subject, walk.since_ms, walk.former, now_ms) {
                    ended.push(DeleteKey { key: key.clone(), version: Some(id), ..DeleteKey::default() });
                }
                walk.former += 1;
            }
        }
        walk.since_ms = modified_ms;
        walk.after = Some((key, id));
    }
    if page.truncated {
        return Ok((ended, Some(walk)));
    }
    end_marker(store, &rules, &mut walk, &mut ended);
    Ok((ended, None))
}

/// Ends a delete marker that is all that is left of its key.
fn end_marker(
    store: &Store,
    rules: &BucketLifecycleConfiguration,
    walk: &mut Walk,
    ended: &mut Vec<DeleteKey>,
) {
    if let Some((key, version, since_ms)) = walk.lone_marker.take()
        && lifecycle::marker_ends(rules, store.day, &key, since_ms, wall_ms())
    {
        ended.push(DeleteKey { key, version: Some(version), ..DeleteKey::default() });
    }
}
