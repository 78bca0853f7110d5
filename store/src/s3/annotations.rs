//! Requests that show and change what comes with a stored version: tags, access list, retention, legal hold,
//! and its attributes.

use std::sync::Arc;

use bytes::Bytes;
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::acl::{self, asked_change};
use super::encryption::{customer_of, key_of};
use super::guard::scope;
use super::objects::{Sought, find, scope_name, show_checksums};
use super::traits::{retention, retention_mode_name, shown_tags, tags_of_object};
use super::{Answer, Store, buckets, timestamp, version_id, wall_ms};
use crate::access::Action;
use crate::checksum::ChecksumKind;
use crate::index::Lookup;
use crate::op::{Change, Op};
use crate::state::Layout;

/// The most parts of an answer, as S3 has it.
const PARTS_PAGE: usize = 1000;

async fn sought(store: &Arc<Store>, bucket: &str, key: &str, version: Option<&str>) -> S3Result<Sought> {
    store.serving()?;
    let (bucket, key, version) = (bucket.to_owned(), key.to_owned(), version.map(str::to_owned));
    store.ask(move |_, view| find(&view, &bucket, &key, version.as_deref())).await
}

async fn change(
    store: &Arc<Store>,
    (bucket, key, version): (&str, &str, Option<&str>),
    change: Change,
) -> S3Result<Option<String>> {
    store.serving()?;
    let op = Op::ChangeObject {
        bucket: bucket.to_owned(),
        key: key.to_owned(),
        version: version_id(version)?,
        change,
        wall_ms: wall_ms(),
    };
    store.commit(&op, Bytes::new()).await?;
    Ok(version.map(str::to_owned))
}

pub(super) async fn tags(
    store: &Arc<Store>,
    req: S3Request<GetObjectTaggingInput>,
) -> Answer<GetObjectTaggingOutput> {
    let input = req.input;
    let sought = sought(store, &input.bucket, &input.key, input.version_id.as_deref()).await?;
    let tag_set = shown_tags(&sought.object.traits.tags);
    Ok(S3Response::new(GetObjectTaggingOutput { tag_set, version_id: sought.shown_version() }))
}

pub(super) async fn set_tags(
    store: &Arc<Store>,
    req: S3Request<PutObjectTaggingInput>,
) -> Answer<PutObjectTaggingOutput> {
    let PutObjectTaggingInput { bucket, key, version_id, tagging, .. } = req.input;
    let tags = Change::Tags(tags_of_object(tagging.tag_set)?);
    let version_id = change(store, (&bucket, &key, version_id.as_deref()), tags).await?;
    Ok(S3Response::new(PutObjectTaggingOutput { version_id }))
}

pub(super) async fn remove_tags(
    store: &Arc<Store>,
    req: S3Request<DeleteObjectTaggingInput>,
) -> Answer<DeleteObjectTaggingOutput> {
    let DeleteObjectTaggingInput { bucket, key, version_id, .. } = req.input;
    let none = Change::Tags(Vec::new());
    let version_id = change(store, (&bucket, &key, version_id.as_deref()), none).await?;
    Ok(S3Response::new(DeleteObjectTaggingOutput { version_id }))
}

pub(super) async fn acl(store: &Arc<Store>, req: S3Request<GetObjectAclInput>) -> Answer<GetObjectAclOutput> {
    store.serving()?;
    let input = req.input;
    let (owner, grants) = store
        .ask(move |_, view| {
            let Sought { object, .. } = find(&view, &input.bucket, &input.key, input.version_id.as_deref())?;
            acl::shown(&view, object.traits.acl.as_ref(), &object.traits.owner)
        })
        .await?;
    Ok(S3Response::new(GetObjectAclOutput { grants: Some(grants), owner: Some(owner), ..Default::default() }))
}

pub(super) async fn set_acl(
    store: &Arc<Store>,
    req: S3Request<PutObjectAclInput>,
) -> Answer<PutObjectAclOutput> {
    store.serving()?;
    let mut input = req.input;
    let asked = asked_change!(input);
    let (bucket, key, version) = (input.bucket.clone(), input.key.clone(), input.version_id.clone());
    let list = store
        .ask(move |_, view| {
            let state = buckets::find(&view, &bucket)?;
            let Sought { object, .. } = find(&view, &bucket, &key, version.as_deref())?;
            let list = asked.read(&view, &object.traits.owner, &state.owner)?;
            acl::permit(&state, list.as_ref(), true)?;
            Ok(list)
        })
        .await?;
    change(store, (&input.bucket, &input.key, input.version_id.as_deref()), Change::Acl(list)).await?;
    Ok(S3Response::new(PutObjectAclOutput::default()))
}

/// Refuses a bucket that has no object lock.
async fn must_lock(store: &Arc<Store>, bucket: &str) -> S3Result<()> {
    store.serving()?;
    let bucket = bucket.to_owned();
    let state = store.ask(move |_, view| buckets::find(&view, &bucket)).await?;
    match state.object_lock {
        Some(_) => Ok(()),
        None => Err(s3_error!(InvalidRequest, "Object lock is not enabled for the bucket")),
    }
}

pub(super) async fn retention_of(
    store: &Arc<Store>,
    req: S3Request<GetObjectRetentionInput>,
) -> Answer<GetObjectRetentionOutput> {
    let input = req.input;
    must_lock(store, &input.bucket).await?;
    let sought = sought(store, &input.bucket, &input.key, input.version_id.as_deref()).await?;
    let held = sought.object.traits.lock.retention;
    let held =
        held.ok_or_else(|| s3_error!(NoSuchObjectLockConfiguration, "The version has no retention"))?;
    let retention = Some(ObjectLockRetention {
        mode: Some(ObjectLockRetentionMode::from_static(retention_mode_name(held.mode))),
        retain_until_date: Some(timestamp(held.until_ms)),
    });
    Ok(S3Response::new(GetObjectRetentionOutput { retention }))
}

pub(super) async fn set_retention(
    store: &Arc<Store>,
    req: S3Request<PutObjectRetentionInput>,
) -> Answer<PutObjectRetentionOutput> {
    let scope = scope(&req)?;
    let input = req.input;
    must_lock(store, &input.bucket).await?;
    let wanted = match input.retention {
        None | Some(ObjectLockRetention { mode: None, retain_until_date: None }) => None,
        Some(ObjectLockRetention { mode: Some(mode), retain_until_date: Some(until) }) => {
            Some(retention(mode.as_str(), &until)?)
        }
        Some(_) => return Err(s3_error!(MalformedXML, "A retention has a mode and a date")),
    };
    let bypass_governance = input.bypass_governance_retention == Some(true)
        && scope.may(Action::BypassGovernanceRetention, Some(&input.key), None);
    let wanted = Change::Retention { retention: wanted, bypass_governance };
    change(store, (&input.bucket, &input.key, input.version_id.as_deref()), wanted).await?;
    Ok(S3Response::new(PutObjectRetentionOutput::default()))
}

pub(super) async fn legal_hold(
    store: &Arc<Store>,
    req: S3Request<GetObjectLegalHoldInput>,
) -> Answer<GetObjectLegalHoldOutput> {
    let input = req.input;
    must_lock(store, &input.bucket).await?;
    let sought = sought(store, &input.bucket, &input.key, input.version_id.as_deref()).await?;
    let status = match sought.object.traits.lock.legal_hold {
        true => ObjectLockLegalHoldStatus::ON,
        false => ObjectLockLegalHoldStatus::OFF,
    };
    let legal_hold =
        Some(ObjectLockLegalHold { status: Some(ObjectLockLegalHoldStatus::from_static(status)) });
    Ok(S3Response::new(GetObjectLegalHoldOutput { legal_hold }))
}

pub(super) async fn set_legal_hold(
    store: &Arc<Store>,
    req: S3Request<PutObjectLegalHoldInput>,
) -> Answer<PutObjectLegalHoldOutput> {
    let input = req.input;
    must_lock(store, &input.bucket).await?;
    let status = input.legal_hold.and_then(|hold| hold.status);
    let held = match status.as_ref().map(ObjectLockLegalHoldStatus::as_str) {
        Some(ObjectLockLegalHoldStatus::ON) => true,
        Some(ObjectLockLegalHoldStatus::OFF) => false,
        _ => return Err(s3_error!(MalformedXML, "A legal hold is ON or OFF")),
    };
    let hold = Change::LegalHold(held);
    change(store, (&input.bucket, &input.key, input.version_id.as_deref()), hold).await?;
    Ok(S3Response::new(PutObjectLegalHoldOutput::default()))
}

pub(super) async fn attributes(
    store: &Arc<Store>,
    req: S3Request<GetObjectAttributesInput>,
) -> Answer<GetObjectAttributesOutput> {
    store.serving()?;
    let input = req.input;
    let wanted: Vec<String> = input
        .object_attributes
        .iter()
        .flat_map(|list| list.as_str().split(','))
        .map(|name| name.trim().to_owned())
        .collect();
    const KNOWN: [&str; 5] = ["ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"];
    if wanted.is_empty() || !wanted.iter().all(|name| KNOWN.contains(&name.as_str())) {
        return Err(s3_error!(InvalidArgument, "The attributes are {}", KNOWN.join(", ")));
    }
    let has = move |name: &str| wanted.iter().any(|wanted| wanted == name);
    let output = store
        .ask(move |store, view| {
            let sought = find(&view, &input.bucket, &input.key, input.version_id.as_deref())?;
            let object = &sought.object;
            let customer = customer_of!(input).read()?;
            key_of(store, object.traits.encryption.as_ref(), customer.as_ref())?;
            let mut output = GetObjectAttributesOutput {
                last_modified: Some(timestamp(object.modified_ms)),
                version_id: sought.shown_version(),
                ..Default::default()
            };
            if has("ETag") {
                // Without quotes here, and only here.
                output.e_tag = Some(ETag::Strong(object.etag.to_string()));
            }
            if has("ObjectSize") {
                output.object_size = Some(object.size as i64);
            }
            if has("StorageClass") {
                output.storage_class = Some(StorageClass::from_static(StorageClass::STANDARD));
            }
            if has("Checksum") && !object.checksums.is_empty() {
                let mut checksum = Checksum {
                    checksum_type: object.checksums.first().map(|c| scope_name(c.scope)),
                    ..Default::default()
                };
                show_checksums!(checksum, &object.checksums);
                output.checksum = Some(checksum);
            }
            if has("ObjectParts")
                && let Layout::Parts(upload) = object.layout
            {
                let marker = input.part_number_marker.unwrap_or(0);
                let limit =
                    input.max_parts.map_or(PARTS_PAGE, |n| usize::try_from(n).unwrap_or(0).min(PARTS_PAGE));
                let all = view.parts(upload)?;
                let total = all.len();
                let mut rest = all.into_iter().filter(|(number, _)| i32::from(*number) > marker).peekable();
                let mut shown = Vec::new();
                while shown.len() < limit
                    && let Some((number, state)) = rest.next()
                {
                    let mut part = ObjectPart {
                        part_number: Some(i32::from(number)),
                        size: Some(state.size as i64),
                        ..Default::default()
                    };
                    show_checksums!(part, &state.checksums);
                    shown.push(part);
                }
                output.object_parts = Some(GetObjectAttributesParts {
                    is_truncated: Some(rest.peek().is_some()),
                    max_parts: Some(limit as i32),
                    next_part_number_marker: shown.last().and_then(|part| part.part_number).or(Some(marker)),
                    part_number_marker: Some(marker),
                    // Without checksums there is nothing to say of a part but its place.
                    parts: Some(shown),
                    total_parts_count: Some(total as i32),
                });
            }
            Ok(output)
        })
        .await?;
    Ok(S3Response::new(output))
}
