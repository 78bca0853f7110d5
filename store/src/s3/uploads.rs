//! Requests about multipart uploads.

use std::sync::Arc;

use bytes::Bytes;
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::conditions::{etag, precondition};
use super::copies::checksum_kind;
use super::encryption::{customer_of, key_of, show_encryption};
use super::guard::asker;
use super::objects::{scope_name, show_checksums};
use super::receive::{Expected, receive};
use super::traits::asks_of;
use super::{Answer, Store, answer, buckets, wall_ms, wellformed};
use crate::apply::{Outcome, PART_NUMBER_MAX};
use crate::checksum::{ChecksumKind, ChecksumPlan, ChecksumScope};
use crate::index::{Lookup, View};
use crate::object::{Etag, UploadId};
use crate::op::{Op, PartRef};
use crate::state::UploadState;

/// The id that a client sent; one of another form is of no upload.
pub(super) fn upload_id(text: &str) -> S3Result<UploadId> {
    UploadId::parse(text).ok_or_else(|| s3_error!(NoSuchUpload, "The upload does not exist"))
}

pub(super) fn must_exist(view: &View, bucket: &str, key: &str, id: UploadId) -> S3Result<UploadState> {
    buckets::find(view, bucket)?;
    view.upload(bucket, key, id)?.ok_or_else(|| s3_error!(NoSuchUpload, "The upload does not exist"))
}

pub(super) fn part_number(number: i32) -> S3Result<u16> {
    let number = u16::try_from(number).ok().filter(|n| (1..=PART_NUMBER_MAX).contains(n));
    number.ok_or_else(|| s3_error!(InvalidArgument, "A part's number is 1 to {PART_NUMBER_MAX}"))
}

/// The checksum that the object will have.
fn plan(algorithm: Option<&ChecksumAlgorithm>, of: Option<&ChecksumType>) -> S3Result<Option<ChecksumPlan>> {
    let Some(algorithm) = algorithm else {
        return match of {
            None => Ok(None),
            Some(_) => Err(s3_error!(InvalidRequest, "A checksum type comes with a checksum algorithm")),
        };
    };
    let kind = checksum_kind(algorithm.as_str())?;
    let scope = match of.map(ChecksumType::as_str) {
        None => kind.default_scope(),
        Some(ChecksumType::COMPOSITE) if kind.may_be_composite() => ChecksumScope::Composite,
        Some(ChecksumType::FULL_OBJECT) if kind.may_be_full_object() => ChecksumScope::FullObject,
        Some(other) => {
            let kind = kind.name();
            return Err(s3_error!(InvalidRequest, "The checksum {kind} cannot be {other}"));
        }
    };
    Ok(Some(ChecksumPlan { kind, scope }))
}

pub(super) async fn create(
    store: &Arc<Store>,
    req: S3Request<CreateMultipartUploadInput>,
) -> Answer<CreateMultipartUploadOutput> {
    store.serving()?;
    answer::refuse_unsupported(&req.headers)?;
    let who = asker(&req);
    let mut input = req.input;
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|_| answer::internal("the system gives no random bytes"))?;
    let upload = UploadId(id);
    let checksum = plan(input.checksum_algorithm.as_ref(), input.checksum_type.as_ref())?;
    let asks = asks_of!(who, req.headers, input);
    let bucket = input.bucket.clone();
    let (traits, _) =
        store.ask(move |store, view| asks.settle(store, &view, &buckets::find(&view, &bucket)?)).await?;
    let mut output = CreateMultipartUploadOutput {
        bucket: Some(input.bucket.clone()),
        key: Some(input.key.clone()),
        upload_id: Some(upload.to_string()),
        checksum_algorithm: input.checksum_algorithm,
        checksum_type: checksum.map(|plan| scope_name(plan.scope)),
        ..Default::default()
    };
    show_encryption!(output, &traits.encryption);
    let traits = Box::new(traits);
    let (bucket, key) = (input.bucket, input.key);
    let op = Op::CreateUpload { bucket, key, upload, traits, checksum, wall_ms: wall_ms() };
    store.commit(&op, Bytes::new()).await?;
    Ok(S3Response::new(output))
}

pub(super) async fn put_part(
    store: &Arc<Store>,
    req: S3Request<UploadPartInput>,
) -> Answer<UploadPartOutput> {
    let epoch = store.serving()?;
    answer::refuse_unsupported(&req.headers)?;
    let input = req.input;
    let number = part_number(input.part_number)?;
    wellformed::check_length(&req.headers)?;
    let upload = upload_id(&input.upload_id)?;
    let customer = customer_of!(input).read()?;
    let (bucket, key) = (input.bucket.clone(), input.key.clone());
    let (begun, seal) = store
        .ask(move |store, view| {
            let begun = must_exist(&view, &bucket, &key, upload)?;
            let seal = key_of(store, begun.traits.encryption.as_ref(), customer.as_ref())?;
            Ok((begun, seal))
        })
        .await?;
    let mut expected =
        Expected::new(input.content_length, input.content_md5, &req.headers, req.trailing_headers.as_ref())?;
    if let Some(plan) = begun.checksum {
        expected.must_have(plan.kind)?;
    }
    let body = receive(store, epoch, input.body, expected, seal.as_ref()).await?;
    let op = Op::PutPart(Box::new(crate::op::PutPart {
        bucket: input.bucket,
        key: input.key,
        upload,
        number,
        size: body.size,
        etag: Etag { md5: body.md5, parts: 0 },
        checksums: body.checksums,
        source: body.source,
        wall_ms: wall_ms(),
    }));
    match store.commit(&op, body.inline).await? {
        Outcome::Stored(stored) => {
            let mut output = UploadPartOutput { e_tag: Some(etag(stored.etag)), ..Default::default() };
            show_checksums!(output, &stored.checksums);
            show_encryption!(output, &begun.traits.encryption);
            Ok(S3Response::new(output))
        }
        _ => Err(answer::internal("the operation had another outcome")),
    }
}

/// The one checksum that a request or a listed part names.
macro_rules! said_checksum {
    ($from:expr) => {
        $from
            .checksum_crc32
            .clone()
            .or($from.checksum_crc32c.clone())
            .or($from.checksum_crc64nvme.clone())
            .or($from.checksum_sha1.clone())
            .or($from.checksum_sha256.clone())
    };
}

pub(super) async fn complete(
    store: &Arc<Store>,
    req: S3Request<CompleteMultipartUploadInput>,
) -> Answer<CompleteMultipartUploadOutput> {
    store.serving()?;
    let input = req.input;
    let upload = upload_id(&input.upload_id)?;
    let checksum = said_checksum!(input);
    let listed = input.multipart_upload.and_then(|m| m.parts).unwrap_or_default();
    if listed.is_empty() || listed.len() > usize::from(PART_NUMBER_MAX) {
        return Err(s3_error!(MalformedXML, "A completion lists 1 to {PART_NUMBER_MAX} parts"));
    }
    let mut parts = Vec::with_capacity(listed.len());
    let mut said = Vec::new();
    for part in listed {
        let number = part.part_number.ok_or_else(|| s3_error!(MalformedXML, "A part has no number"))?;
        let checksum = said_checksum!(part);
        let etag = part.e_tag.ok_or_else(|| s3_error!(InvalidPart, "A part has no entity tag"))?;
        let number = part_number(number)?;
        said.extend(checksum.map(|checksum| (number, checksum)));
        parts.push(PartRef { number, etag: etag.into_value() });
    }
    let (bucket, key) = (input.bucket.clone(), input.key.clone());
    let begun = store
        .ask(move |_, view| {
            let begun = view.upload(&bucket, &key, upload)?;
            for (number, said) in said {
                let part = view.part(upload, number)?;
                if part.is_some_and(|part| part.checksums.iter().all(|sum| sum.base64 != said)) {
                    return Err(answer::refusal(crate::apply::Refusal::InvalidPart));
                }
            }
            Ok(begun)
        })
        .await?;
    let op = Op::CompleteUpload(Box::new(crate::op::CompleteUpload {
        bucket: input.bucket.clone(),
        key: input.key.clone(),
        upload,
        parts,
        checksum,
        size: input.mpu_object_size.and_then(|size| u64::try_from(size).ok()),
        precondition: precondition(input.if_match, input.if_none_match),
        wall_ms: wall_ms(),
    }));
    match store.commit(&op, Bytes::new()).await? {
        Outcome::Stored(stored) => {
            let mut output = CompleteMultipartUploadOutput {
                location: Some(format!("/{}/{}", input.bucket, input.key)),
                bucket: Some(input.bucket),
                key: Some(input.key),
                e_tag: Some(etag(stored.etag)),
                version_id: stored.version.map(|version| version.to_string()),
                checksum_type: stored.checksums.first().map(|c| scope_name(c.scope)),
                ..Default::default()
            };
            show_checksums!(output, &stored.checksums);
            let encryption = begun.and_then(|begun| begun.traits.encryption);
            if matches!(encryption, Some(crate::object::Encryption::Store { .. })) {
                output.server_side_encryption =
                    Some(ServerSideEncryption::from_static(super::encryption::AES256));
            }
            Ok(S3Response::new(output))
        }
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
