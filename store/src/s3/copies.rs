//! Copies of objects and into parts.
//!
//! Where neither side is encrypted, a copy shares the bytes of its source and writes none. Else, and where
//! another checksum is asked for, the bytes pass through this member once more.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, header};
use md5::{Digest, Md5};
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::conditions::{Conditions, etag, precondition};
use super::encryption::{CustomerFields, key_of, show_encryption};
use super::guard::asker;
use super::objects::{Sought, find, scope_name, show_checksums};
use super::receive::{BODY_MAX, Expected, Received, receive};
use super::send::{Bytewise, Feed};
use super::traits::asks_of;
use super::uploads::{must_exist, part_number, upload_id};
use super::{Answer, Store, answer, buckets, timestamp, version_id, wall_ms};
use crate::apply::{Outcome, Refusal, Stored};
use crate::checksum::{Checksum, ChecksumKind, ChecksumScope};
use crate::index::View;
use crate::object::Etag;
use crate::op::{Op, PutObject, PutPart, Source};
use crate::seal::Key;

/// How often a copy is tried anew when its source changes under it.
const TRIES: usize = 5;

/// What a copy is made of.
struct From {
    bucket: String,
    key: String,
    version: Option<String>,
}

impl From {
    fn new(source: &CopySource) -> S3Result<From> {
        match source {
            CopySource::Bucket { bucket, key, version_id } => Ok(From {
                bucket: bucket.to_string(),
                key: key.to_string(),
                version: version_id.as_ref().map(ToString::to_string),
            }),
            _ => Err(s3_error!(NotImplemented, "Access points are not offered")),
        }
    }

    fn find(&self, view: &View) -> S3Result<Sought> {
        find(view, &self.bucket, &self.key, self.version.as_deref())
    }

    fn source(&self, sought: &Sought, start: u64, len: u64) -> S3Result<Source> {
        Ok(Source::Object {
            bucket: self.bucket.clone(),
            key: self.key.clone(),
            version: version_id(self.version.as_deref())?,
            id: sought.object.id,
            start,
            len,
        })
    }
}

/// The conditions on the source of a copy, and the key that opens it.
macro_rules! source_of {
    ($input:expr) => {{
        let customer = CustomerFields {
            algorithm: $input.copy_source_sse_customer_algorithm.as_deref(),
            key: $input.copy_source_sse_customer_key.as_deref(),
            md5: $input.copy_source_sse_customer_key_md5.as_deref(),
        };
        let conditions = Conditions {
            if_match: $input.copy_source_if_match.clone(),
            if_none_match: $input.copy_source_if_none_match.clone(),
            if_modified_since: $input.copy_source_if_modified_since.clone(),
            if_unmodified_since: $input.copy_source_if_unmodified_since.clone(),
        };
        (From::new(&$input.copy_source)?, conditions, customer.read()?)
    }};
}

/// Bytes `start..start + len` of an object as a body that can be received.
async fn stream(
    store: &Arc<Store>,
    sought: Sought,
    key: Option<Key>,
    start: u64,
    len: u64,
) -> S3Result<StreamingBlob> {
    let bytes =
        store.ask(move |_, view| Ok(Bytewise::of(&view, &sought.object, key.as_ref(), start, len)?)).await?;
    // Its share is that of where it goes: two shares for one request could wait for each other.
    let share = store.budget.share(1).await?;
    Ok(Feed::new(store, None, bytes.read(), share).body())
}

pub(super) async fn object(store: &Arc<Store>, req: S3Request<CopyObjectInput>) -> Answer<CopyObjectOutput> {
    let epoch = store.serving()?;
    answer::refuse_unsupported(&req.headers)?;
    let who = asker(&req);
    let mut input = req.input;
    let (from, _, source_customer) = source_of!(input);
    let replace = match input.metadata_directive.as_ref().map(MetadataDirective::as_str) {
        None | Some(MetadataDirective::COPY) => false,
        Some(MetadataDirective::REPLACE) => true,
        Some(_) => return Err(s3_error!(InvalidArgument, "The metadata directive is COPY or REPLACE")),
    };
    let replace_tags = match input.tagging_directive.as_ref().map(TaggingDirective::as_str) {
        None | Some(TaggingDirective::COPY) => false,
        Some(TaggingDirective::REPLACE) => true,
        Some(_) => return Err(s3_error!(InvalidArgument, "The tagging directive is COPY or REPLACE")),
    };
    let wanted = input.checksum_algorithm.as_ref().map(|kind| checksum_kind(kind.as_str())).transpose()?;
    let onto_itself = (&input.bucket, &input.key) == (&from.bucket, &from.key) && from.version.is_none();
    let changes = replace
        || replace_tags
        || input.server_side_encryption.is_some()
        || input.sse_customer_algorithm.is_some()
        || input.website_redirect_location.is_some();
    if onto_itself && !changes {
        return Err(s3_error!(
            InvalidRequest,
            "A copy onto itself must replace the metadata, the tags or the encryption"
        ));
    }
    let target = input.bucket.clone();
    let precondition = copy_precondition(&req.headers)?;
    let from = Arc::new(from);
    let mut asks = Some(asks_of!(who, req.headers, input));
    let mut traits_and_key = None;
    for _ in 0..TRIES {
        let (_, conditions, _) = source_of!(input);
        let (looked_at, target, asks, customer) =
            (Arc::clone(&from), target.clone(), asks.take(), source_customer.clone());
        let (sought, source_key, settled) = store
            .ask(move |store, view| {
                let sought = looked_at.find(&view)?;
                conditions.check_source(&sought.object)?;
                let key = key_of(store, sought.object.traits.encryption.as_ref(), customer.as_ref())?;
                let bucket = buckets::find(&view, &target)?;
                let settled = asks.map(|asks| asks.settle(store, &view, &bucket)).transpose()?;
                Ok((sought, key, settled))
            })
            .await?;
        traits_and_key = settled.or(traits_and_key);
        let Some((traits, key)) = &traits_and_key else {
            return Err(answer::internal("what the copy carries is lost"));
        };
        let source = &sought.object;
        if source.size > BODY_MAX {
            return Err(s3_error!(InvalidRequest, "One copy takes at most 5 GiB; copy it part by part"));
        }
        let mut traits = traits.clone();
        if !replace {
            let redirect = traits.meta.website_redirect.take();
            traits.meta = source.traits.meta.clone();
            traits.meta.website_redirect = redirect;
        }
        if !replace_tags {
            traits.tags.clone_from(&source.traits.tags);
        }
        let other_checksum = wanted.is_some_and(|kind| {
            !source.checksums.iter().any(|c| c.kind == kind && c.scope == ChecksumScope::FullObject)
        });
        let mut output =
            CopyObjectOutput { copy_source_version_id: sought.shown_version(), ..Default::default() };
        show_encryption!(output, &traits.encryption);
        let (received, tag, checksums) = if source_key.is_some() || key.is_some() || other_checksum {
            let (size, old) = (source.size, source.clone());
            let body = stream(store, sought, source_key, 0, size).await?;
            let expected = Expected::copied(size, wanted.or(old.checksums.first().map(|c| c.kind)));
            let received = receive(store, epoch, Some(body), expected, key.as_ref()).await?;
            let (tag, sums) = (Etag { md5: received.md5, parts: 0 }, received.checksums.clone());
            (received, tag, sums)
        } else {
            let shared = Received {
                source: from.source(&sought, 0, source.size)?,
                inline: Bytes::new(),
                size: source.size,
                md5: source.etag.md5,
                checksums: Vec::new(),
                _kept: None,
            };
            (shared, source.etag, source.checksums.clone())
        };
        let op = Op::PutObject(Box::new(PutObject {
            bucket: input.bucket.clone(),
            key: input.key.clone(),
            traits,
            size: received.size,
            etag: tag,
            checksums,
            source: received.source,
            precondition: precondition.clone(),
            wall_ms: wall_ms(),
        }));
        let payload = op.encode(received.inline).map_err(|e| s3_error!(InvalidRequest, "{e}"))?;
        match store.backend.commit(payload).await.map_err(answer::write)? {
            Outcome::Refused(Refusal::SourceChanged) => {}
            Outcome::Refused(refusal) => return Err(answer::refusal(refusal)),
            Outcome::Stored(stored) => {
                let Stored { etag: stored, modified_ms, version, checksums } = *stored;
                let mut result = CopyObjectResult {
                    e_tag: Some(etag(stored)),
                    last_modified: Some(timestamp(modified_ms)),
                    checksum_type: checksums.first().map(|c| scope_name(c.scope)),
                    ..Default::default()
                };
                show_checksums!(result, &checksums);
                output.copy_object_result = Some(result);
                output.version_id = version.map(|version| version.to_string());
                return Ok(S3Response::new(output));
            }
            _ => return Err(answer::internal("the operation had another outcome")),
        }
    }
    Err(answer::refusal(Refusal::SourceChanged))
}

pub(super) fn checksum_kind(name: &str) -> S3Result<ChecksumKind> {
    ChecksumKind::parse(name)
        .ok_or_else(|| s3_error!(InvalidRequest, "There is no checksum algorithm {name}"))
}

/// The conditions on the target of a copy, which the library leaves in the headers.
fn copy_precondition(headers: &HeaderMap) -> S3Result<crate::op::Precondition> {
    let read = |name: header::HeaderName| {
        let value = headers.get(&name).map(|value| ETagCondition::parse_http_header(value.as_bytes()));
        value.transpose().map_err(|e| s3_error!(InvalidArgument, "{name}: {e}"))
    };
    Ok(precondition(read(header::IF_MATCH)?, read(header::IF_NONE_MATCH)?))
}

/// `bytes=first-last`, both given, as the copy of a part demands.
fn copy_range(text: &str, size: u64) -> S3Result<(u64, u64)> {
    let bad =
        || s3_error!(InvalidArgument, "The range of a copied part is bytes=first-last within the source");
    match Range::parse(text).map_err(|_| bad())? {
        Range::Int { first, last: Some(last) } if last < size => Ok((first, last - first + 1)),
        Range::Int { .. } => Err(s3_error!(InvalidRange, "The range lies outside of the source")),
        Range::Suffix { .. } => Err(bad()),
    }
}

/// What the bytes of a part are, when they are shared and so only read.
async fn digest(body: StreamingBlob, kind: Option<ChecksumKind>) -> S3Result<([u8; 16], Vec<Checksum>)> {
    let mut body = body;
    let mut md5 = Md5::new();
    let mut extra = Expected::copied(0, kind).hasher();
    while let Some(bytes) = body.next().await {
        let bytes = bytes.map_err(|e| answer::internal(&e.to_string()))?;
        (md5, extra) = tokio::task::spawn_blocking(move || {
            md5.update(&bytes);
            extra.update(&bytes);
            (md5, extra)
        })
        .await
        .map_err(|_| answer::internal("hashing stopped"))?;
    }
    Ok((md5.finalize().into(), super::receive::computed(kind, extra)))
}

pub(super) async fn part(
    store: &Arc<Store>,
    req: S3Request<UploadPartCopyInput>,
) -> Answer<UploadPartCopyOutput> {
    let epoch = store.serving()?;
    answer::refuse_unsupported(&req.headers)?;
    let input = req.input;
    let number = part_number(input.part_number)?;
    let upload = upload_id(&input.upload_id)?;
    let (from, conditions, source_customer) = source_of!(input);
    let customer = super::encryption::customer_of!(input).read()?;
    let (bucket, key, range) = (input.bucket.clone(), input.key.clone(), input.copy_source_range.clone());
    let from = Arc::new(from);
    let looked_at = Arc::clone(&from);
    let (sought, source_key, begun, target_key, (start, len)) = store
        .ask(move |store, view| {
            let begun = must_exist(&view, &bucket, &key, upload)?;
            let sought = looked_at.find(&view)?;
            let object = &sought.object;
            conditions.check_source(object)?;
            let source_key = key_of(store, object.traits.encryption.as_ref(), source_customer.as_ref())?;
            let target_key = key_of(store, begun.traits.encryption.as_ref(), customer.as_ref())?;
            let span = match range {
                Some(range) => copy_range(&range, object.size)?,
                None => (0, object.size),
            };
            Ok((sought, source_key, begun, target_key, span))
        })
        .await?;
    if len > BODY_MAX {
        return Err(s3_error!(InvalidRequest, "A part has at most 5 GiB"));
    }
    let mut output =
        UploadPartCopyOutput { copy_source_version_id: sought.shown_version(), ..Default::default() };
    show_encryption!(output, &begun.traits.encryption);
    let kind = begun.checksum.map(|plan| plan.kind);
    let received = if source_key.is_some() || target_key.is_some() {
        let body = stream(store, sought, source_key, start, len).await?;
        let expected = Expected::copied(len, kind);
        receive(store, epoch, Some(body), expected, target_key.as_ref()).await?
    } else {
        // The bytes are not written anew, but they are read once: the part's entity tag is their MD5.
        let source = from.source(&sought, start, len)?;
        let body = stream(store, sought, None, start, len).await?;
        let (md5, checksums) = digest(body, kind).await?;
        Received { source, inline: Bytes::new(), size: len, md5, checksums, _kept: None }
    };
    let op = Op::PutPart(Box::new(PutPart {
        bucket: input.bucket,
        key: input.key,
        upload,
        number,
        size: received.size,
        etag: Etag { md5: received.md5, parts: 0 },
        checksums: received.checksums,
        source: received.source,
        wall_ms: wall_ms(),
    }));
    match store.commit(&op, received.inline).await? {
        Outcome::Stored(stored) => {
            let mut result = CopyPartResult {
                e_tag: Some(etag(stored.etag)),
                last_modified: Some(timestamp(stored.modified_ms)),
                ..Default::default()
            };
            show_checksums!(result, &stored.checksums);
            output.copy_part_result = Some(result);
            Ok(S3Response::new(output))
        }
        _ => Err(answer::internal("the operation had another outcome")),
    }
}
