//! Requests about multipart uploads.

use std::sync::Arc;

use bytes::Bytes;
use md5::{Digest, Md5};
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::conditions::{Conditions, etag, precondition};
use super::objects::{copy_source, find, meta_of, show_checksums};
use super::receive::{BODY_MAX, Expected, receive};
use super::send::read_now;
use super::{Answer, Store, answer, buckets, timestamp, wall_ms};
use crate::apply::{Outcome, PART_NUMBER_MAX};
use crate::index::{Lookup, View};
use crate::op::{ChecksumKind, Etag, Op, PartRef, Source, UploadId};
use crate::state::UploadState;

/// The id that a client sent; one of another form is of no upload.
pub(super) fn upload_id(text: &str) -> S3Result<UploadId> {
    UploadId::parse(text).ok_or_else(|| s3_error!(NoSuchUpload, "The upload does not exist"))
}

pub(super) fn must_exist(view: &View, bucket: &str, key: &str, id: UploadId) -> S3Result<UploadState> {
    buckets::must_exist(view, bucket)?;
    view.upload(bucket, key, id)?.ok_or_else(|| s3_error!(NoSuchUpload, "The upload does not exist"))
}

fn part_number(number: i32) -> S3Result<u16> {
    let number = u16::try_from(number).ok().filter(|n| (1..=PART_NUMBER_MAX).contains(n));
    number.ok_or_else(|| s3_error!(InvalidArgument, "A part's number is 1 to {PART_NUMBER_MAX}"))
}

pub(super) async fn create(
    store: &Arc<Store>,
    req: S3Request<CreateMultipartUploadInput>,
) -> Answer<CreateMultipartUploadOutput> {
    store.serving()?;
    answer::refuse_unsupported(&req.headers)?;
    let mut input = req.input;
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|_| answer::internal("the system gives no random bytes"))?;
    let upload = UploadId(id);
    let op = Op::CreateUpload {
        bucket: input.bucket.clone(),
        key: input.key.clone(),
        upload,
        meta: meta_of!(input)?,
        wall_ms: wall_ms(),
    };
    store.commit(&op, Bytes::new()).await?;
    Ok(S3Response::new(CreateMultipartUploadOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(upload.to_string()),
        checksum_algorithm: input.checksum_algorithm,
        ..Default::default()
    }))
}

pub(super) async fn put_part(
    store: &Arc<Store>,
    req: S3Request<UploadPartInput>,
) -> Answer<UploadPartOutput> {
    let epoch = store.serving()?;
    answer::refuse_unsupported(&req.headers)?;
    let input = req.input;
    let upload = upload_id(&input.upload_id)?;
    let number = part_number(input.part_number)?;
    let (bucket, key) = (input.bucket.clone(), input.key.clone());
    store.ask(move |_, view| must_exist(&view, &bucket, &key, upload)).await?;
    let expected =
        Expected::new(input.content_length, input.content_md5, &req.headers, req.trailing_headers.as_ref());
    let body = receive(&store.backend, epoch, input.body, expected).await?;
    let op = Op::PutPart {
        bucket: input.bucket,
        key: input.key,
        upload,
        number,
        size: body.size,
        etag: Etag { md5: body.md5, parts: 0 },
        checksums: body.checksums.clone(),
        source: body.source,
        wall_ms: wall_ms(),
    };
    match store.commit(&op, body.inline).await? {
        Outcome::Stored { etag: stored, .. } => {
            let mut output = UploadPartOutput { e_tag: Some(etag(stored)), ..Default::default() };
            show_checksums!(output, &body.checksums);
            Ok(S3Response::new(output))
        }
        _ => Err(answer::internal("the operation had another outcome")),
    }
}

/// `bytes=first-last`, both given, as the copy of a part demands.
fn copy_range(text: &str, size: u64) -> S3Result<(u64, u64)> {
    let bad =
        || s3_error!(InvalidArgument, "The range of a copied part is bytes=first-last within the source");
    match Range::parse(text).map_err(|_| bad())? {
        Range::Int { first, last: Some(last) } if last < size => Ok((first, last - first + 1)),
        _ => Err(bad()),
    }
}

/// The bytes are not written anew, but they are read once: the part's entity tag is their MD5.
pub(super) async fn copy_part(
    store: &Arc<Store>,
    req: S3Request<UploadPartCopyInput>,
) -> Answer<UploadPartCopyOutput> {
    store.serving()?;
    answer::refuse_unsupported(&req.headers)?;
    let input = req.input;
    let upload = upload_id(&input.upload_id)?;
    let number = part_number(input.part_number)?;
    let (from_bucket, from_key) = copy_source(&input.copy_source)?;
    let conditions = Conditions {
        if_match: input.copy_source_if_match,
        if_none_match: input.copy_source_if_none_match,
        if_modified_since: input.copy_source_if_modified_since,
        if_unmodified_since: input.copy_source_if_unmodified_since,
    };
    let (bucket, key, range) = (input.bucket.clone(), input.key.clone(), input.copy_source_range);
    let (size, md5, source) = store
        .ask(move |store, view| {
            must_exist(&view, &bucket, &key, upload)?;
            let object = find(&view, &from_bucket, &from_key)?;
            conditions.check_source(&object)?;
            let (start, len) = match range {
                Some(range) => copy_range(&range, object.size)?,
                None => (0, object.size),
            };
            if len > BODY_MAX {
                return Err(s3_error!(InvalidRequest, "A part has at most 5 GiB"));
            }
            let mut md5 = Md5::new();
            for extent in view.cut(&object, start, len)? {
                md5.update(read_now(store, extent).map_err(|e| answer::read(&e))?);
            }
            let source = Source::Object { bucket: from_bucket, key: from_key, id: object.id, start, len };
            Ok((len, md5.finalize().into(), source))
        })
        .await?;
    let op = Op::PutPart {
        bucket: input.bucket,
        key: input.key,
        upload,
        number,
        size,
        etag: Etag { md5, parts: 0 },
        checksums: Vec::new(),
        source,
        wall_ms: wall_ms(),
    };
    match store.commit(&op, Bytes::new()).await? {
        Outcome::Stored { etag: stored, modified_ms } => {
            let result = CopyPartResult {
                e_tag: Some(etag(stored)),
                last_modified: Some(timestamp(modified_ms)),
                ..Default::default()
            };
            Ok(S3Response::new(UploadPartCopyOutput { copy_part_result: Some(result), ..Default::default() }))
        }
        _ => Err(answer::internal("the operation had another outcome")),
    }
}

pub(super) async fn complete(
    store: &Arc<Store>,
    req: S3Request<CompleteMultipartUploadInput>,
) -> Answer<CompleteMultipartUploadOutput> {
    store.serving()?;
    let input = req.input;
    let upload = upload_id(&input.upload_id)?;
    let listed = input.multipart_upload.and_then(|m| m.parts).unwrap_or_default();
    if listed.is_empty() || listed.len() > usize::from(PART_NUMBER_MAX) {
        return Err(s3_error!(MalformedXML, "A completion lists 1 to {PART_NUMBER_MAX} parts"));
    }
    let mut parts = Vec::with_capacity(listed.len());
    for part in listed {
        let number = part.part_number.ok_or_else(|| s3_error!(MalformedXML, "A part has no number"))?;
        let etag = part.e_tag.ok_or_else(|| s3_error!(InvalidPart, "A part has no entity tag"))?;
        parts.push(PartRef { number: part_number(number)?, etag: etag.into_value() });
    }
    let op = Op::CompleteUpload {
        bucket: input.bucket.clone(),
        key: input.key.clone(),
        upload,
        parts,
        precondition: precondition(input.if_match, input.if_none_match),
        wall_ms: wall_ms(),
    };
    match store.commit(&op, Bytes::new()).await? {
        Outcome::Stored { etag: stored, .. } => Ok(S3Response::new(CompleteMultipartUploadOutput {
            location: Some(format!("/{}/{}", input.bucket, input.key)),
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: Some(etag(stored)),
            ..Default::default()
        })),
        _ => Err(answer::internal("the operation had another outcome")),
    }
}

pub(super) async fn abort(
    store: &Arc<Store>,
    req: S3Request<AbortMultipartUploadInput>,
) -> Answer<AbortMultipartUploadOutput> {
    store.serving()?;
    let input = req.input;
    let upload = upload_id(&input.upload_id)?;
    store.commit(&Op::AbortUpload { bucket: input.bucket, key: input.key, upload }, Bytes::new()).await?;
    Ok(S3Response::new(AbortMultipartUploadOutput::default()))
}
