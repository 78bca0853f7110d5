//! Requests about whole objects.

use std::collections::VecDeque;
use std::ops::Range as Bytewise;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::conditions::{Conditions, etag, precondition};
use super::receive::{BODY_MAX, Expected, receive};
use super::send::{Outgoing, read_now};
use super::{Answer, Store, answer, buckets, timestamp, wall_ms};
use crate::apply::{Outcome, Refusal};
use crate::index::{Lookup, View};
use crate::op::{ChecksumKind, DeleteKey, Extent, HEAD_MAX, Match, Meta, Op, Source};
use crate::state::ObjectState;

/// The most keys in one delete, as S3 has it.
const DELETE_MAX: usize = 1000;

/// The most bytes of user metadata, names and values together, as S3 has it.
const USER_META_MAX: usize = 2048;

/// How often a copy is tried anew when its source changes under it.
const COPY_TRIES: usize = 5;

/// What S3 shows for an object that was stored without a type.
const DEFAULT_TYPE: &str = "binary/octet-stream";

/// The object, or why there is none.
pub(super) fn find(view: &View, bucket: &str, key: &str) -> S3Result<ObjectState> {
    buckets::must_exist(view, bucket)?;
    view.object(bucket, key)?.ok_or_else(|| s3_error!(NoSuchKey, "The key does not exist"))
}

/// The metadata that a request carries, given the fields that the library parsed.
macro_rules! meta_of {
    ($input:expr) => {
        $crate::s3::objects::meta(
            $input.metadata.take(),
            $crate::op::Meta {
                content_type: $input.content_type.take(),
                content_encoding: $input.content_encoding.take(),
                content_language: $input.content_language.take(),
                content_disposition: $input.content_disposition.take(),
                cache_control: $input.cache_control.take(),
                expires_s: $input.expires.take().map(|t| time::OffsetDateTime::from(t).unix_timestamp()),
                user: Vec::new(),
            },
        )
    };
}
pub(super) use meta_of;

pub(super) fn meta(user: Option<Metadata>, mut meta: Meta) -> S3Result<Meta> {
    meta.user = user.unwrap_or_default().into_iter().collect();
    meta.user.sort();
    if meta.user.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > USER_META_MAX {
        return Err(s3_error!(MetadataTooLarge, "User metadata is limited to {USER_META_MAX} bytes"));
    }
    // The chunked framing is gone by now; the rest says how the object itself is encoded.
    meta.content_encoding = meta.content_encoding.and_then(|all| {
        let kept: Vec<_> = all.split(',').map(str::trim).filter(|e| *e != "aws-chunked").collect();
        (!kept.is_empty()).then(|| kept.join(", "))
    });
    Ok(meta)
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

/// Fills what `GET` and `HEAD` answer alike.
macro_rules! describe {
    ($output:ty, $object:expr, $selected:expr, $with_checksums:expr) => {{
        let (object, selected): (&ObjectState, &Selected) = (&$object, &$selected);
        let meta = object.meta.clone();
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
        output.expires =
            meta.expires_s.map(|s| timestamp(u64::try_from(s).unwrap_or(0).saturating_mul(1000)));
        output.e_tag = Some(etag(object.etag));
        output.last_modified = Some(timestamp(object.modified_ms));
        output.metadata = (!meta.user.is_empty()).then(|| meta.user.into_iter().collect());
        if $with_checksums && selected.content_range.is_none() {
            show_checksums!(output, &object.checksums);
        }
        output
    }};
}

/// The bytes that a read asks for.
struct Selected {
    bytes: Bytewise<u64>,
    content_range: Option<String>,
    parts_count: Option<i32>,
}

impl Selected {
    fn new(object: &ObjectState, range: Option<Range>, part: Option<i32>) -> S3Result<Selected> {
        let unsatisfiable = || {
            let error = s3_error!(InvalidRange, "The range lies outside of the object");
            answer::with_headers(error, |headers| {
                if let Ok(value) = HeaderValue::from_str(&format!("bytes */{}", object.size)) {
                    headers.insert(header::CONTENT_RANGE, value);
                }
            })
        };
        let mut parts_count = None;
        let bytes = match (range, part) {
            (Some(_), Some(_)) => {
                return Err(s3_error!(InvalidRequest, "Range and partNumber exclude each other"));
            }
            (None, None) => {
                return Ok(Selected { bytes: 0..object.size, content_range: None, parts_count: None });
            }
            (Some(_), None) if object.size == 0 => return Err(unsatisfiable()),
            (Some(range), None) => range.check(object.size).map_err(|_| unsatisfiable())?,
            (None, Some(1)) if object.part_sizes.is_empty() => {
                return Ok(Selected { bytes: 0..object.size, content_range: None, parts_count: None });
            }
            (None, Some(number)) => {
                let at = usize::try_from(number).ok().and_then(|n| n.checked_sub(1));
                let len = at.and_then(|at| object.part_sizes.get(at)).ok_or_else(unsatisfiable)?;
                let start = object.part_sizes[..at.unwrap_or(0)].iter().sum::<u64>();
                parts_count = Some(object.part_sizes.len() as i32);
                start..start + len
            }
        };
        let last = bytes.end.saturating_sub(1);
        let content_range = Some(format!("bytes {}-{last}/{}", bytes.start, object.size));
        Ok(Selected { bytes, content_range, parts_count })
    }
}

fn wants_checksums(mode: Option<&ChecksumMode>) -> bool {
    mode.is_some_and(|mode| mode.as_str() == ChecksumMode::ENABLED)
}

pub(super) async fn put(store: &Arc<Store>, req: S3Request<PutObjectInput>) -> Answer<PutObjectOutput> {
    let epoch = store.serving()?;
    answer::refuse_unsupported(&req.headers)?;
    let mut input = req.input;
    let meta = meta_of!(input)?;
    let bucket = input.bucket.clone();
    store.ask(move |_, view| buckets::must_exist(&view, &bucket)).await?;
    let expected =
        Expected::new(input.content_length, input.content_md5, &req.headers, req.trailing_headers.as_ref());
    let body = receive(&store.backend, epoch, input.body, expected).await?;
    let op = Op::PutObject {
        bucket: input.bucket,
        key: input.key,
        meta,
        size: body.size,
        etag: crate::op::Etag { md5: body.md5, parts: 0 },
        checksums: body.checksums.clone(),
        source: body.source,
        precondition: precondition(input.if_match, input.if_none_match),
        wall_ms: wall_ms(),
    };
    match store.commit(&op, body.inline).await? {
        Outcome::Stored { etag: stored, .. } => {
            let mut output = PutObjectOutput { e_tag: Some(etag(stored)), ..Default::default() };
            show_checksums!(output, &body.checksums);
            Ok(S3Response::new(output))
        }
        _ => Err(answer::internal("the operation had another outcome")),
    }
}

pub(super) async fn get(store: &Arc<Store>, req: S3Request<GetObjectInput>) -> Answer<GetObjectOutput> {
    store.serving()?;
    let input = req.input;
    answer::refuse_version(input.version_id.as_deref())?;
    let with_checksums = wants_checksums(input.checksum_mode.as_ref());
    // Index, plan and the first bytes in one go: a small object then leaves in one write, and damage
    // in the first extent is still an honest error.
    let (mut output, first, rest) = store
        .ask(move |store, view| {
            let object = find(&view, &input.bucket, &input.key)?;
            let conditions = Conditions {
                if_match: input.if_match,
                if_none_match: input.if_none_match,
                if_modified_since: input.if_modified_since,
                if_unmodified_since: input.if_unmodified_since,
            };
            conditions.check_read(&object)?;
            let selected = Selected::new(&object, input.range, input.part_number)?;
            let len = selected.bytes.end - selected.bytes.start;
            let mut extents: VecDeque<Extent> = view.cut(&object, selected.bytes.start, len)?.into();
            let first = match extents.pop_front() {
                Some(extent) => read_now(store, extent).map_err(|e| answer::read(&e))?,
                None => Bytes::new(),
            };
            Ok((describe!(GetObjectOutput, object, selected, with_checksums), first, extents))
        })
        .await?;
    output.body = Some(Outgoing::body(store, first, rest));
    Ok(S3Response::new(output))
}

pub(super) async fn head(store: &Arc<Store>, req: S3Request<HeadObjectInput>) -> Answer<HeadObjectOutput> {
    store.serving()?;
    let input = req.input;
    answer::refuse_version(input.version_id.as_deref())?;
    let output = store
        .ask(move |_, view| {
            let object = find(&view, &input.bucket, &input.key)?;
            let conditions = Conditions {
                if_match: input.if_match,
                if_none_match: input.if_none_match,
                if_modified_since: input.if_modified_since,
                if_unmodified_since: input.if_unmodified_since,
            };
            conditions.check_read(&object)?;
            let selected = Selected::new(&object, input.range, input.part_number)?;
            let with_checksums = wants_checksums(input.checksum_mode.as_ref());
            Ok(describe!(HeadObjectOutput, object, selected, with_checksums))
        })
        .await?;
    Ok(S3Response::new(output))
}

fn delete_match(condition: Option<IfMatch>) -> Option<Match> {
    precondition(condition, None).if_match
}

pub(super) async fn delete(
    store: &Arc<Store>,
    req: S3Request<DeleteObjectInput>,
) -> Answer<DeleteObjectOutput> {
    store.serving()?;
    let input = req.input;
    answer::refuse_version(input.version_id.as_deref())?;
    if input.if_match_last_modified_time.is_some() || input.if_match_size.is_some() {
        return Err(s3_error!(NotImplemented, "Deletes can depend on the entity tag only"));
    }
    let key = DeleteKey { key: input.key, if_match: delete_match(input.if_match) };
    let op = Op::DeleteObjects { bucket: input.bucket, keys: vec![key] };
    match store.commit(&op, Bytes::new()).await? {
        Outcome::Deleted(answers) => match answers.into_iter().next() {
            Some(Err(refusal)) => Err(answer::refusal(refusal)),
            _ => Ok(S3Response::new(DeleteObjectOutput::default())),
        },
        _ => Err(answer::internal("the operation had another outcome")),
    }
}

pub(super) async fn delete_many(
    store: &Arc<Store>,
    req: S3Request<DeleteObjectsInput>,
) -> Answer<DeleteObjectsOutput> {
    store.serving()?;
    let Delete { objects, quiet } = req.input.delete;
    if objects.len() > DELETE_MAX {
        return Err(s3_error!(MalformedXML, "One request deletes at most {DELETE_MAX} keys"));
    }
    let mut keys = Vec::with_capacity(objects.len());
    let mut errors = Vec::new();
    for object in objects {
        let refused = if object.last_modified_time.is_some() || object.size.is_some() {
            Err(s3_error!(NotImplemented, "Deletes can depend on the entity tag only"))
        } else {
            answer::refuse_version(object.version_id.as_deref())
        };
        match refused {
            Ok(()) => {
                let if_match = object.e_tag.map(|etag| Match::Etag(etag.into_value()));
                keys.push(DeleteKey { key: object.key, if_match });
            }
            Err(error) => errors.push(one_error(object.key, &error)),
        }
    }
    let mut deleted = Vec::new();
    for keys in fitting(keys) {
        let names: Vec<String> = keys.iter().map(|k| k.key.clone()).collect();
        let op = Op::DeleteObjects { bucket: req.input.bucket.clone(), keys };
        let Outcome::Deleted(answers) = store.commit(&op, Bytes::new()).await? else {
            return Err(answer::internal("the operation had another outcome"));
        };
        for (key, answered) in names.into_iter().zip(answers) {
            match answered {
                Ok(()) if quiet == Some(true) => {}
                Ok(()) => deleted.push(DeletedObject { key: Some(key), ..Default::default() }),
                Err(refusal) => errors.push(one_error(key, &answer::refusal(refusal))),
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
        let cost = key.key.len() + 64 + if key.if_match.is_some() { 256 } else { 0 };
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

fn one_error(key: String, error: &s3s::S3Error) -> Error {
    Error {
        code: Some(error.code().as_str().to_owned()),
        key: Some(key),
        message: error.message().map(str::to_owned),
        version_id: None,
    }
}

/// Bucket and key of a copy's source.
pub(super) fn copy_source(source: &CopySource) -> S3Result<(String, String)> {
    match source {
        CopySource::Bucket { bucket, key, version_id } => {
            answer::refuse_version(version_id.as_deref())?;
            Ok((bucket.to_string(), key.to_string()))
        }
        _ => Err(s3_error!(NotImplemented, "Access points are not offered")),
    }
}

pub(super) async fn copy(store: &Arc<Store>, req: S3Request<CopyObjectInput>) -> Answer<CopyObjectOutput> {
    store.serving()?;
    answer::refuse_unsupported(&req.headers)?;
    let mut input = req.input;
    let (from_bucket, from_key) = copy_source(&input.copy_source)?;
    let replace = match input.metadata_directive.as_ref().map(MetadataDirective::as_str) {
        None | Some(MetadataDirective::COPY) => None,
        Some(MetadataDirective::REPLACE) => Some(meta_of!(input)?),
        Some(_) => return Err(s3_error!(InvalidArgument, "The metadata directive is COPY or REPLACE")),
    };
    if replace.is_none() && (&input.bucket, &input.key) == (&from_bucket, &from_key) {
        return Err(s3_error!(InvalidRequest, "A copy onto itself must replace the metadata"));
    }
    for _ in 0..COPY_TRIES {
        let conditions = Conditions {
            if_match: input.copy_source_if_match.clone(),
            if_none_match: input.copy_source_if_none_match.clone(),
            if_modified_since: input.copy_source_if_modified_since.clone(),
            if_unmodified_since: input.copy_source_if_unmodified_since.clone(),
        };
        let (bucket, key) = (from_bucket.clone(), from_key.clone());
        let source = store
            .ask(move |_, view| {
                let object = find(&view, &bucket, &key)?;
                conditions.check_source(&object)?;
                Ok(object)
            })
            .await?;
        if source.size > BODY_MAX {
            return Err(s3_error!(InvalidRequest, "One copy takes at most 5 GiB; copy it part by part"));
        }
        let op = Op::PutObject {
            bucket: input.bucket.clone(),
            key: input.key.clone(),
            meta: replace.clone().unwrap_or(source.meta),
            size: source.size,
            etag: source.etag,
            checksums: source.checksums.clone(),
            source: Source::Object {
                bucket: from_bucket.clone(),
                key: from_key.clone(),
                id: source.id,
                start: 0,
                len: source.size,
            },
            precondition: copy_precondition(&req.headers)?,
            wall_ms: wall_ms(),
        };
        let payload = op.encode(Bytes::new()).map_err(|e| s3_error!(InvalidRequest, "{e}"))?;
        match store.backend.commit(payload).await.map_err(answer::write)? {
            Outcome::Refused(Refusal::SourceChanged) => {}
            Outcome::Refused(refusal) => return Err(answer::refusal(refusal)),
            Outcome::Stored { etag: stored, modified_ms } => {
                let mut result = CopyObjectResult {
                    e_tag: Some(etag(stored)),
                    last_modified: Some(timestamp(modified_ms)),
                    ..Default::default()
                };
                show_checksums!(result, &source.checksums);
                let output = CopyObjectOutput { copy_object_result: Some(result), ..Default::default() };
                return Ok(S3Response::new(output));
            }
            _ => return Err(answer::internal("the operation had another outcome")),
        }
    }
    Err(answer::refusal(Refusal::SourceChanged))
}

/// The conditions on the target of a copy, which the library leaves in the headers.
fn copy_precondition(headers: &HeaderMap) -> S3Result<crate::op::Precondition> {
    let read = |name: header::HeaderName| {
        let value = headers.get(&name).map(|value| ETagCondition::parse_http_header(value.as_bytes()));
        value.transpose().map_err(|e| s3_error!(InvalidArgument, "{name}: {e}"))
    };
    Ok(precondition(read(header::IF_MATCH)?, read(header::IF_NONE_MATCH)?))
}
