//! Requests about buckets.

use std::sync::Arc;

use bytes::Bytes;
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::{Answer, Store, answer, owner, timestamp, wall_ms};
use crate::index::{Lookup, View, decode};
use crate::keys;
use crate::op::Op;
use crate::state::BucketState;

/// The most buckets in one answer, as S3 has it.
const PAGE: usize = 10_000;

/// Refuses a bucket that does not exist.
pub(super) fn must_exist(view: &View, bucket: &str) -> S3Result<()> {
    match view.bucket(bucket)? {
        Some(_) => Ok(()),
        None => Err(s3_error!(NoSuchBucket, "The bucket does not exist")),
    }
}

pub(super) async fn list(
    store: &Arc<Store>,
    region: &str,
    req: S3Request<ListBucketsInput>,
) -> Answer<ListBucketsOutput> {
    store.serving()?;
    let ListBucketsInput { prefix, continuation_token, max_buckets, .. } = req.input;
    let limit = max_buckets.map_or(PAGE, |n| usize::try_from(n).unwrap_or(0).clamp(1, PAGE));
    let wanted = prefix.clone().unwrap_or_default();
    let (found, next) = store
        .ask(move |_, view| {
            let start = keys::bucket(&wanted);
            let from = match continuation_token {
                Some(after) => start.clone().max([keys::bucket(&after), vec![0]].concat()),
                None => start.clone(),
            };
            let end = keys::after_prefix(&start);
            let mut found: Vec<(String, BucketState)> = Vec::new();
            for entry in view.scan(&from, end.as_deref()) {
                let (key, value) = entry?;
                if found.len() == limit {
                    let last = found.last().map(|(name, _)| name.clone());
                    return Ok((found, last));
                }
                let name = String::from_utf8_lossy(&key[keys::BUCKETS.len()..]).into_owned();
                let state = decode("bucket", &key, &value)?;
                found.push((name, state));
            }
            Ok((found, None))
        })
        .await?;
    let buckets = found
        .into_iter()
        .map(|(name, state)| Bucket {
            name: Some(name),
            creation_date: Some(timestamp(state.created_ms)),
            bucket_region: Some(region.to_owned()),
        })
        .collect();
    Ok(S3Response::new(ListBucketsOutput {
        buckets: Some(buckets),
        continuation_token: next,
        owner: Some(owner()),
        prefix,
    }))
}

pub(super) async fn create(
    store: &Arc<Store>,
    req: S3Request<CreateBucketInput>,
) -> Answer<CreateBucketOutput> {
    store.serving()?;
    answer::refuse_unsupported(&req.headers)?;
    let bucket = req.input.bucket;
    let op = Op::CreateBucket { bucket: bucket.clone(), wall_ms: wall_ms() };
    store.commit(&op, Bytes::new()).await?;
    Ok(S3Response::new(CreateBucketOutput { location: Some(format!("/{bucket}")) }))
}

pub(super) async fn head(
    store: &Arc<Store>,
    region: &str,
    req: S3Request<HeadBucketInput>,
) -> Answer<HeadBucketOutput> {
    store.serving()?;
    store.ask(move |_, view| must_exist(&view, &req.input.bucket)).await?;
    Ok(S3Response::new(HeadBucketOutput { bucket_region: Some(region.to_owned()), ..Default::default() }))
}

pub(super) async fn delete(
    store: &Arc<Store>,
    req: S3Request<DeleteBucketInput>,
) -> Answer<DeleteBucketOutput> {
    store.serving()?;
    store.commit(&Op::DeleteBucket { bucket: req.input.bucket }, Bytes::new()).await?;
    Ok(S3Response::new(DeleteBucketOutput::default()))
}

pub(super) async fn location(
    store: &Arc<Store>,
    region: &str,
    req: S3Request<GetBucketLocationInput>,
) -> Answer<GetBucketLocationOutput> {
    store.serving()?;
    store.ask(move |_, view| must_exist(&view, &req.input.bucket)).await?;
    // S3 shows its first region as an empty constraint, and clients rely on it.
    let constraint = (region != "us-east-1").then(|| BucketLocationConstraint::from(region.to_owned()));
    Ok(S3Response::new(GetBucketLocationOutput { location_constraint: constraint }))
}

/// There are no versions: the answer is that they were never switched on.
pub(super) async fn versioning(
    store: &Arc<Store>,
    req: S3Request<GetBucketVersioningInput>,
) -> Answer<GetBucketVersioningOutput> {
    store.serving()?;
    store.ask(move |_, view| must_exist(&view, &req.input.bucket)).await?;
    Ok(S3Response::new(GetBucketVersioningOutput::default()))
}
