//! Requests about whole objects: put, read, removed.

use std::ops::Range as Span;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, header};
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::budget::BODY_BYTES;
use super::conditions::{Conditions, etag, precondition};
use super::encryption::{customer_of, key_of, show_encryption};
use super::guard::{Scope, asker, scope};
use super::receive::{Expected, receive};
use super::send::{Bytewise, Feed};
use super::traits::{asks_of, milliseconds, retention_mode_name, tags_of_object};
use super::{
    Answer, Store, answer, buckets, edge, lifecycle, settings, timestamp, version_id, wall_ms, wellformed,
};
use crate::access::Action;
use crate::apply::{Deleted, Outcome};
use crate::bucket::{Document, Versioning};
use crate::checksum::{Checksum, ChecksumKind, ChecksumScope};
use crate::index::{Lookup, View};
use crate::object::{Traits, VersionId};
use crate::op::{DeleteKey, HEAD_MAX, Match, Op};
use crate::state::{DeleteMarker, Layout, ObjectState, Version};

/// The most keys in one delete, as S3 has it.
const DELETE_MAX: usize = 1000;

/// What S3 shows for an object that was stored without a type.
const DEFAULT_TYPE: &str = "binary/octet-stream";

/// An object that was asked for, with how its bucket names versions.
pub(super) struct Sought {
    pub(super) object: ObjectState,
    pub(super) versioning: Versioning,
}

impl Sought {
    /// The version to show: none where the bucket never kept any.
    pub(super) fn shown_version(&self) -> Option<String> {
        (self.versioning != Versioning::Off).then(|| self.object.version().to_string())
    }
}

/// The object of that version, or why there is none.
pub(super) fn find(view: &View, bucket: &str, key: &str, version: Option<&str>) -> S3Result<Sought> {
    let versioning = buckets::find(view, bucket)?.versioning;
    let found = |object| Ok(Sought { object, versioning });
    let Some(version) = version_id(version)? else {
        if let Some(object) = view.object(bucket, key)? {
            return found(object);
        }
        let newest = if versioning == Versioning::Off { None } else { view.newest_former(bucket, key)? };
        let error = s3_error!(NoSuchKey, "The key does not exist");
        return Err(match newest {
            Some(Version::Marker(marker)) => shows_marker(error, &marker),
            _ => error,
        });
    };
    if let Some(object) = view.object(bucket, key)?.filter(|object| object.version() == version) {
        return found(object);
    }
    match view.former_named(bucket, key, version)? {
        Some(Version::Object(object)) => found(*object),
        Some(Version::Marker(marker)) => {
            Err(shows_marker(s3_error!(MethodNotAllowed, "The version is a delete marker"), &marker))
        }
        None => Err(s3_error!(NoSuchVersion, "The version does not exist")),
    }
}

fn shows_marker(error: s3s::S3Error, marker: &DeleteMarker) -> s3s::S3Error {
    let version = Version::Marker(marker.clone()).version();
    answer::with_headers(error, |headers| {
        headers.insert("x-amz-delete-marker", HeaderValue::from_static("true"));
        if let Ok(version) = HeaderValue::from_str(&version.to_string()) {
            headers.insert("x-amz-version-id", version);
        }
    })
}

/// When the object ends by the bucket's lifecycle rules, as the protocol shows it.
fn expiration(view: &View, name: &str, key: &str, object: &ObjectState) -> S3Result<Option<String>> {
    if !buckets::find(view, name)?.documents.contains(&Document::Lifecycle) {
        return Ok(None);
    }
    let rules: Option<BucketLifecycleConfiguration> = settings::document(view, name, Document::Lifecycle)?;
    let subject = lifecycle::Subject { key, size: object.size, tags: &object.traits.tags };
    Ok(rules.and_then(|rules| {
        let (at_ms, rule) =
            lifecycle::expiry(&rules, lifecycle::Day::default(), &subject, object.modified_ms)?;
        Some(lifecycle::shown_expiry(at_ms, rule))
    }))
}

/// Fills the checksum fields of an answer.
macro_rules! show_checksums {
    ($output:expr, $checksums:expr) => {
        for checksum in $checksums {
            let field = match checksum.kind {
                ChecksumKind::Crc32 => &mut $output.checksum_crc32,
                ChecksumKind::Crc32c => &mut $output.checksum_crc32c,
                ChecksumKind::Crc64Nvme => &mut $output.checksum_crc64nvme,
                ChecksumKind::Sha1 => &mut $output.checksum_sha1,
                ChecksumKind::Sha256 => &mut $output.checksum_sha256,
            };
            *field = Some(checksum.base64.clone());
        }
    };
}
pub(super) use show_checksums;

/// Of what a checksum is, as the protocol shows it.
pub(super) fn scope_name(scope: ChecksumScope) -> ChecksumType {
    ChecksumType::from_static(match scope {
        ChecksumScope::FullObject => ChecksumType::FULL_OBJECT,
        ChecksumScope::Composite => ChecksumType::COMPOSITE,
    })
}

/// Fills what `GET` and `HEAD` answer alike.
macro_rules! describe {
    ($output:ty, $sought:expr, $selected:expr, $with_checksums:expr) => {{
        let (sought, selected): (&Sought, &Selected) = (&$sought, &$selected);
        let object = &sought.object;
        let Traits { meta, lock, .. } = object.traits.clone();
        let mut output = <$output>::default();
        output.accept_ranges = Some("bytes".into());
        output.content_length = Some((selected.bytes.end - selected.bytes.start) as i64);
        output.content_range = selected.content_range.clone();
        output.parts_count = selected.parts_count;
        output.content_type = Some(meta.content_type.unwrap_or_else(|| DEFAULT_TYPE.into()));
        output.content_encoding = meta.content_encoding;
        output.content_language = meta.content_language;
        output.content_disposition = meta.content_disposition;
        output.cache_control = meta.cache_control;
        output.website_redirect_location = meta.website_redirect;
        output.expires =
            meta.expires_s.map(|s| timestamp(u64::try_from(s).unwrap_or(0).saturating_mul(1000)));
        output.e_tag = Some(etag(object.etag));
        output.last_modified = Some(timestamp(object.modified_ms));
        // The protocol gives every object without metadata an empty set of it.
        output.metadata = Some(meta.user.into_iter().collect());
        output.version_id = sought.shown_version();
        if let Some(retention) = lock.retention {
            output.object_lock_mode = Some(ObjectLockMode::from_static(retention_mode_name(retention.mode)));
            output.object_lock_retain_until_date = Some(timestamp(retention.until_ms));
        }
        if lock.legal_hold {
            output.object_lock_legal_hold_status =
                Some(ObjectLockLegalHoldStatus::from_static(ObjectLockLegalHoldStatus::ON));
        }
        show_encryption!(output, &object.traits.encryption);
        if $with_checksums && (selected.whole || selected.checksums.is_some()) {
            show_checksums!(output, selected.checksums.as_ref().unwrap_or(&object.checksums));
            output.checksum_type = object.checksums.first().map(|c| scope_name(c.scope));
        }
        output
    }};
}

/// The bytes that a read asks for.
struct Selected {
    bytes: Span<u64>,
    whole: bool,
    content_range: Option<String>,
    parts_count: Option<i32>,
    /// Of the part, where one was asked for.
    checksums: Option<Vec<Checksum>>,
}

impl Selected {
    fn whole(object: &ObjectState) -> Selected {
        let bytes = 0..object.size;
        Selected { bytes, whole: true, content_range: None, parts_count: None, checksums: None }
    }

    fn new(view: &View, object: &ObjectState, range: Option<Range>, part: Option<i32>) -> S3Result<Selected> {
        let unsatisfiable = || {
            let error = s3_error!(InvalidRange, "The range lies outside of the object");
            answer::with_headers(error, |headers| {
                if let Ok(value) = HeaderValue::from_str(&format!("bytes */{}", object.size)) {
                    headers.insert(header::CONTENT_RANGE, value);
                }
            })
        };
        let all = 0..object.size;
        let (mut parts_count, mut checksums) = (None, None);
        let bytes = match (range, part) {
            (Some(_), Some(_)) => {
                return Err(s3_error!(InvalidRequest, "Range and partNumber exclude each other"));
            }
            (None, None) => {
                return Ok(Selected::whole(object));
            }
            (Some(_), None) if object.size == 0 => return Err(unsatisfiable()),
            (Some(range), None) => range.check(object.size).map_err(|_| unsatisfiable())?,
            (None, Some(number)) => {
                let no_part = || s3_error!(InvalidPart, "The object has no part of that number");
                match object.layout {
                    Layout::Parts(upload) => {
                        let parts = view.parts(upload)?;
                        parts_count = Some(parts.len() as i32);
                        // The n-th part, whatever its number was: clients count from 1 to the parts' count.
                        let at = usize::try_from(number).ok().and_then(|n| n.checked_sub(1));
                        let at = at.filter(|at| *at < parts.len()).ok_or_else(no_part)?;
                        let start = parts[..at].iter().map(|(_, part)| part.size).sum::<u64>();
                        checksums = Some(parts[at].1.checksums.clone());
                        start..start + parts[at].1.size
                    }
                    _ if number == 1 => all.clone(),
                    _ => return Err(no_part()),
                }
            }
        };
        if parts_count.is_none() && part.is_some() {
            return Ok(Selected::whole(object));
        }
        let last = bytes.end.saturating_sub(1);
        let content_range = Some(format!("bytes {}-{last}/{}", bytes.start, object.size));
        Ok(Selected { whole: bytes == all, bytes, content_range, parts_count, checksums })
    }
}

fn wants_checksums(mode: Option<&ChecksumMode>) -> bool {
    mode.is_some_and(|mode| mode.as_str() == ChecksumMode::ENABLED)
}

pub(super) async fn put(store: &Arc<Store>, req: S3Request<PutObjectInput>) -> Answer<PutObjectOutput> {
    let epoch = store.serving()?;
    answer::refuse_unsupported(&req.headers)?;
    wellformed::check_length(&req.headers)?;
    let who = asker(&req);
    let mut input = req.input;
    // Here ends what the library makes of an upload by form, too.
    input.tagging = tags_of_form(input.tagging)?;
    let asks = asks_of!(who, req.headers, input);
    let bucket = input.bucket.clone();
    let (traits, key, ends) = store
        .ask(move |store, view| {
            let state = buckets::find(&view, &bucket)?;
            let (traits, key) = asks.settle(store, &view, &state)?;
            Ok((traits, key, state.documents.contains(&Document::Lifecycle)))
        })
        .await?;
    let (bucket, name) = (input.bucket.clone(), input.key.clone());
    let expected =
        Expected::new(input.content_length, input.content_md5, &req.headers, req.trailing_headers.as_ref())?;
    let body = receive(store, epoch, input.body, expected, key.as_ref()).await?;
    let mut output = PutObjectOutput::default();
    show_encryption!(output, &traits.encryption);
    let op = Op::PutObject(Box::new(crate::op::PutObject {
        bucket: input.bucket,
        key: input.key,
        traits,
        size: body.size,
        etag: crate::object::Etag { md5: body.md5, parts: 0 },
        checksums: body.checksums,
        source: body.source,
        precondition: precondition(input.if_match, input.if_none_match),
        wall_ms: wall_ms(),
    }));
    match store.commit(&op, body.inline).await? {
        Outcome::Stored(stored) => {
            output.e_tag = Some(etag(stored.etag));
            output.version_id = stored.version.map(|version| version.to_string());
            output.checksum_type = stored.checksums.first().map(|c| scope_name(c.scope));
            show_checksums!(output, &stored.checksums);
            if ends {
                output.expiration = store
                    .ask(move |_, view| match view.object(&bucket, &name)? {
                        Some(object) => expiration(&view, &bucket, &name, &object),
                        None => Ok(None),
                    })
                    .await?;
            }
            Ok(S3Response::new(output))
        }
        _ => Err(answer::internal("the operation had another outcome")),
    }
}

/// Where an upload by form gives its tags as a document, they become what the header of a `PUT` would be.
fn tags_of_form(text: Option<String>) -> S3Result<Option<String>> {
    let Some(document) = text.as_deref().filter(|text| text.trim_start().starts_with('<')) else {
        return Ok(text);
    };
    let mut header = form_urlencoded::Serializer::new(String::new());
    for (key, value) in tags_of_object(edge::tagging(document)?.tag_set)? {
        header.append_pair(&key, &value);
    }
    Ok(Some(header.finish()))
}

pub(super) async fn get(store: &Arc<Store>, req: S3Request<GetObjectInput>) -> Answer<GetObjectOutput> {
    store.serving()?;
    if req.headers.contains_key("x-amz-server-side-encryption") {
        return Err(s3_error!(InvalidArgument, "x-amz-server-side-encryption is not for reads"));
    }
    let who = scope(&req)?;
    let input = req.input;
    let with_checksums = wants_checksums(input.checksum_mode.as_ref());
    let share = store.budget.share(BODY_BYTES).await?;
    // Index, plan and the first bytes in one go: a small object then leaves in one write, and damage
    // in the first extent is still an honest error.
    let (mut output, first, rest) = store
        .ask(move |store, view| {
            let sought = find_for(&who, &view, &input.bucket, &input.key, input.version_id.as_deref())?;
            let object = &sought.object;
            let customer = customer_of!(input).read()?;
            let key = key_of(store, object.traits.encryption.as_ref(), customer.as_ref())?;
            let conditions = Conditions {
                if_match: input.if_match,
                if_none_match: input.if_none_match,
                if_modified_since: input.if_modified_since,
                if_unmodified_since: input.if_unmodified_since,
            };
            conditions.check_read(object)?;
            let selected = Selected::new(&view, object, input.range, input.part_number)?;
            let len = selected.bytes.end - selected.bytes.start;
            let mut bytes = Bytewise::of(&view, object, key.as_ref(), selected.bytes.start, len)?;
            let first = bytes.next(store).transpose().map_err(|e| answer::read(&e))?;
            let mut output = describe!(GetObjectOutput, sought, selected, with_checksums);
            let tags = sought.object.traits.tags.len() as i32;
            output.tag_count = (tags > 0).then_some(tags);
            output.expiration = expiration(&view, &input.bucket, &input.key, &sought.object)?;
            Ok((output, first, bytes))
        })
        .await?;
    let feed = Feed::new(store, first, rest, share);
    output.body = Some(feed.body());
    let mut response = S3Response::new(output);
    response.extensions.insert(feed);
    Ok(response)
}

/// Finds the object; that a key does not exist shows only to who may list the bucket. What is found is judged
/// once more: it may have come since the request was.
fn find_for(who: &Scope, view: &View, bucket: &str, key: &str, version: Option<&str>) -> S3Result<Sought> {
    let sought = find(view, bucket, key, version);
    let action = if version.is_some() { Action::GetObjectVersion } else { Action::GetObject };
    let may = match &sought {
        Ok(sought) => who.may(action, Some(key), Some(&sought.object)),
        Err(_) => who.may_learn_of(key),
    };
    if may { sought } else { Err(super::guard::denied()) }
}

pub(super) async fn head(store: &Arc<Store>, req: S3Request<HeadObjectInput>) -> Answer<HeadObjectOutput> {
    store.serving()?;
    if req.headers.contains_key("x-amz-server-side-encryption") {
        return Err(s3_error!(InvalidArgument, "x-amz-server-side-encryption is not for reads"));
    }
    let who = scope(&req)?;
    let input = req.input;
    let (output, tags) = store
        .ask(move |store, view| {
            let sought = find_for(&who, &view, &input.bucket, &input.key, input.version_id.as_deref())?;
            let customer = customer_of!(input).read()?;
            key_of(store, sought.object.traits.encryption.as_ref(), customer.as_ref())?;
            let conditions = Conditions {
                if_match: input.if_match,
                if_none_match: input.if_none_match,
                if_modified_since: input.if_modified_since,
                if_unmodified_since: input.if_unmodified_since,
            };
            conditions.check_read(&sought.object)?;
            let selected = Selected::new(&view, &sought.object, input.range, input.part_number)?;
            let with_checksums = wants_checksums(input.checksum_mode.as_ref());
            let mut output = describe!(HeadObjectOutput, sought, selected, with_checksums);
            output.expiration = expiration(&view, &input.bucket, &input.key, &sought.object)?;
            Ok((output, sought.object.traits.tags.len()))
        })
        .await?;
    let mut answer = S3Response::new(output);
    if tags > 0 {
        // The library knows this header of a GET only.
        answer.headers.insert("x-amz-tagging-count", HeaderValue::from(tags));
    }
    Ok(answer)
}

fn delete_match(condition: Option<IfMatch>) -> Option<Match> {
    precondition(condition, None).if_match
}

fn seconds(time: &Timestamp) -> u64 {
    milliseconds(time) / 1000
}

/// Who deletes: what he makes is a delete marker that is his.
fn owner_of_marker<T>(req: &S3Request<T>) -> String {
    asker(req).id().unwrap_or_default().to_owned()
}

fn bypass_governance(headers: &http::HeaderMap) -> bool {
    let value = headers.get("x-amz-bypass-governance-retention");
    value.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"))
}

pub(super) async fn delete(
    store: &Arc<Store>,
    req: S3Request<DeleteObjectInput>,
) -> Answer<DeleteObjectOutput> {
    store.serving()?;
    let owner = owner_of_marker(&req);
    let bypass_governance = bypass_governance(&req.headers);
    let scope = scope(&req)?;
    let input = req.input;
    if bypass_governance && !scope.may(Action::BypassGovernanceRetention, Some(&input.key), None) {
        return Err(super::guard::denied());
    }
    let key = DeleteKey {
        key: input.key,
        version: version_id(input.version_id.as_deref())?,
        if_match: delete_match(input.if_match),
        if_modified_s: input.if_match_last_modified_time.as_ref().map(seconds),
        if_size: input.if_match_size.map(|size| u64::try_from(size).unwrap_or(u64::MAX)),
    };
    let keys = vec![key];
    let op = Op::DeleteObjects { bucket: input.bucket, owner, keys, bypass_governance, wall_ms: wall_ms() };
    match store.commit(&op, Bytes::new()).await? {
        Outcome::Deleted(answers) => match answers.into_iter().next() {
            Some(Err(refusal)) => Err(answer::refusal(refusal)),
            Some(Ok(Deleted { version, marker })) => Ok(S3Response::new(DeleteObjectOutput {
                delete_marker: marker.then_some(true),
                version_id: version.map(|version| version.to_string()),
                ..Default::default()
            })),
            None => Ok(S3Response::new(DeleteObjectOutput::default())),
        },
        _ => Err(answer::internal("the operation had another outcome")),
    }
}

pub(super) async fn delete_many(
    store: &Arc<Store>,
    req: S3Request<DeleteObjectsInput>,
) -> Answer<DeleteObjectsOutput> {
    store.serving()?;
    let owner = owner_of_marker(&req);
    let bypass_governance = bypass_governance(&req.headers);
    let scope = scope(&req)?;
    let Delete { objects, quiet } = req.input.delete;
    if objects.len() > DELETE_MAX || objects.is_empty() {
        return Err(s3_error!(MalformedXML, "One request deletes 1 to {DELETE_MAX} keys"));
    }
    let (keys, mut errors) = store
        .ask(move |_, view| {
            let mut keys = Vec::with_capacity(objects.len());
            let mut errors = Vec::new();
            for object in objects {
                let judged = version_id(object.version_id.as_deref()).and_then(|version| {
                    let may = scope.may_remove(&view, &object.key, version, bypass_governance)?;
                    if may { Ok(version) } else { Err(super::guard::denied()) }
                });
                match judged {
                    Ok(version) => keys.push(DeleteKey {
                        key: object.key,
                        version,
                        if_match: object.e_tag.map(|etag| match etag.into_value() {
                            any if any == "*" => Match::Any,
                            etag => Match::Etag(etag),
                        }),
                        if_modified_s: object.last_modified_time.as_ref().map(seconds),
                        if_size: object.size.map(|size| u64::try_from(size).unwrap_or(u64::MAX)),
                    }),
                    Err(error) => errors.push(one_error(object.key, object.version_id, &error)),
                }
            }
            Ok((keys, errors))
        })
        .await?;
    let mut deleted = Vec::new();
    for keys in fitting(keys) {
        let names: Vec<(String, Option<VersionId>)> =
            keys.iter().map(|k| (k.key.clone(), k.version)).collect();
        let (bucket, owner) = (req.input.bucket.clone(), owner.clone());
        let op = Op::DeleteObjects { bucket, owner, keys, bypass_governance, wall_ms: wall_ms() };
        let Outcome::Deleted(answers) = store.commit(&op, Bytes::new()).await? else {
            return Err(answer::internal("the operation had another outcome"));
        };
        for ((key, asked), answered) in names.into_iter().zip(answers) {
            let asked = asked.map(|version| version.to_string());
            match answered {
                Ok(_) if quiet == Some(true) => {}
                Ok(done) => {
                    let version = done.version.map(|version| version.to_string());
                    deleted.push(DeletedObject {
                        key: Some(key),
                        delete_marker: done.marker.then_some(true),
                        delete_marker_version_id: version.filter(|_| done.marker),
                        version_id: asked,
                    });
                }
                // To remove what is not there is to succeed, unless a condition says what must be there.
                Err(refusal) => errors.push(one_error(key, asked, &answer::refusal(refusal))),
            }
        }
    }
    Ok(S3Response::new(DeleteObjectsOutput {
        deleted: Some(deleted),
        errors: (!errors.is_empty()).then_some(errors),
        ..Default::default()
    }))
}

/// Splits the keys of a delete so that each operation fits its record. There is always one, so that
/// even an empty request finds out that its bucket does not exist.
fn fitting(keys: Vec<DeleteKey>) -> Vec<Vec<DeleteKey>> {
    let mut batches = vec![Vec::new()];
    let mut len = 0;
    for key in keys {
        // The key, its condition's text and their framing.
        let cost = key.key.len() + 96 + if key.if_match.is_some() { 256 } else { 0 };
        if len + cost > HEAD_MAX {
            batches.push(Vec::new());
            len = 0;
        }
        len += cost;
        if let Some(batch) = batches.last_mut() {
            batch.push(key);
        }
    }
    batches
}

fn one_error(key: String, version_id: Option<String>, error: &s3s::S3Error) -> Error {
    Error {
        code: Some(error.code().as_str().to_owned()),
        key: Some(key),
        message: error.message().map(str::to_owned),
        version_id,
    }
}
