//! Requests about buckets.

use std::sync::Arc;

use bytes::Bytes;
use s3s::dto::*;
use s3s::{S3ErrorCode, S3Request, S3Response, S3Result, s3_error};

use super::acl::{self, asked_acl};
use super::guard::asker;
use super::{Answer, Store, answer, owner_of, timestamp, wall_ms};
use crate::access::{Ownership, Who};
use crate::apply::{Outcome, Refusal};
use crate::bucket::{BucketState, Setting};
use crate::index::{Lookup, Tables, View, decode};
use crate::keys;
use crate::op::Op;

/// The most buckets in one answer, as S3 has it.
const PAGE: usize = 10_000;

/// The bucket, or why there is none.
pub(super) fn find(view: &View, bucket: &str) -> S3Result<BucketState> {
    view.bucket(bucket)?.ok_or_else(|| s3_error!(NoSuchBucket, "The bucket does not exist"))
}

/// Whether this one sees the bucket in a listing.
fn sees(who: &Who, name: &str, bucket: &BucketState) -> bool {
    match who {
        Who::Root => true,
        Who::User(user) => user.sees(name, &bucket.owner, bucket.tenant.as_deref()),
        Who::Anonymous => false,
    }
}

pub(super) async fn list(
    store: &Arc<Store>,
    region: &str,
    req: S3Request<ListBucketsInput>,
) -> Answer<ListBucketsOutput> {
    store.serving()?;
    let who = asker(&req);
    let ListBucketsInput { prefix, continuation_token, max_buckets, .. } = req.input;
    let limit = max_buckets.map_or(PAGE, |n| usize::try_from(n).unwrap_or(0).clamp(1, PAGE));
    let wanted = prefix.clone().unwrap_or_default();
    let (found, next, owner) = store
        .ask(move |_, view| {
            let owner = owner_of(&view, who.id().unwrap_or_default())?;
            let start = keys::bucket(&wanted);
            let from = match continuation_token {
                Some(after) => start.clone().max([keys::bucket(&after), vec![0]].concat()),
                None => start.clone(),
            };
            let end = keys::after_prefix(&start);
            let mut found: Vec<(String, BucketState)> = Vec::new();
            for entry in view.scan(&from, end.as_deref()) {
                let (key, value) = entry?;
                let name = String::from_utf8_lossy(&key[keys::BUCKETS.len()..]).into_owned();
                let state = decode("bucket", &key, &value)?;
                if !sees(&who, &name, &state) {
                    continue;
                }
                if found.len() == limit {
                    let last = found.last().map(|(name, _)| name.clone());
                    return Ok((found, last, owner));
                }
                found.push((name, state));
            }
            Ok((found, None, owner))
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
        owner: Some(owner),
        prefix,
    }))
}

pub(super) async fn create(
    store: &Arc<Store>,
    region: &str,
    req: S3Request<CreateBucketInput>,
) -> Answer<CreateBucketOutput> {
    store.serving()?;
    answer::refuse_unsupported(&req.headers)?;
    let who = asker(&req);
    let mut input = req.input;
    let bucket = input.bucket.clone();
    let place = input.create_bucket_configuration.take().and_then(|c| c.location_constraint);
    if place.as_ref().is_some_and(|place| place.as_str() != region && !place.as_str().is_empty()) {
        return Err(s3_error!(InvalidLocationConstraint, "The only region here is {region}"));
    }
    let owner = who.id().unwrap_or_default().to_owned();
    let tenant = who.tenant().map(str::to_owned);
    let mut settings = Vec::new();
    let ownership =
        input.object_ownership.as_ref().map(|o| super::settings::ownership(o.as_str())).transpose()?;
    if let Some(ownership) = ownership {
        settings.push(Setting::Ownership(Some(ownership)));
    }
    if input.object_lock_enabled_for_bucket == Some(true) {
        settings.push(Setting::Versioning { enabled: true });
        settings.push(Setting::ObjectLock(None));
    }
    let grant_write = input.grant_write.take();
    let asked = asked_acl!(input, grant_write);
    let (name, by) = (bucket.clone(), owner.clone());
    let locks = input.object_lock_enabled_for_bucket == Some(true);
    let (acl, is_there) = store
        .ask(move |_, view| {
            let has_acl = asked.canned.as_deref().is_some_and(|name| name != "private") || asked.grants_any();
            let acl = asked.read(&view, &by, &by)?;
            let state = BucketState { owner: by, ownership, ..BucketState::default() };
            acl::permit(&state, acl.as_ref(), has_acl)?;
            match view.bucket(&name)? {
                None => Ok((acl, false)),
                // Who makes a bucket that is his already has what he wants, if it is the same.
                Some(bucket)
                    if bucket.owner == state.owner
                        && bucket.acl == acl
                        && bucket.object_lock.is_some() == locks
                        && (ownership.is_none() || bucket.ownership == ownership) =>
                {
                    Ok((acl, true))
                }
                Some(_) => Err(exists()),
            }
        })
        .await?;
    if is_there {
        return Ok(S3Response::new(CreateBucketOutput { location: Some(format!("/{bucket}")) }));
    }
    if acl.is_some() && ownership != Some(Ownership::BucketOwnerEnforced) {
        settings.push(Setting::Acl(acl));
    }
    let (name, by) = (bucket.clone(), owner.clone());
    let op = Op::CreateBucket { bucket: name, owner, tenant, settings, wall_ms: wall_ms() };
    let payload = op.encode(Bytes::new()).map_err(|e| s3_error!(InvalidRequest, "{e}"))?;
    match store.backend.commit(payload).await.map_err(answer::write)? {
        Outcome::BucketCreated => {}
        Outcome::Refused(Refusal::BucketExists) => {
            let name = bucket.clone();
            let state = store.ask(move |_, view| find(&view, &name)).await?;
            return Err(if state.owner == by { answer::refusal(Refusal::BucketExists) } else { exists() });
        }
        Outcome::Refused(refusal) => return Err(answer::refusal(refusal)),
        _ => return Err(answer::internal("the operation had another outcome")),
    }
    Ok(S3Response::new(CreateBucketOutput { location: Some(format!("/{bucket}")) }))
}

fn exists() -> s3s::S3Error {
    let message =
        "The bucket exists, and is another one's or has other settings; names are the same for everybody";
    s3s::S3Error::with_message(S3ErrorCode::BucketAlreadyExists, message)
}

pub(super) async fn head(
    store: &Arc<Store>,
    region: &str,
    req: S3Request<HeadBucketInput>,
) -> Answer<HeadBucketOutput> {
    store.serving()?;
    store.ask(move |_, view| find(&view, &req.input.bucket)).await?;
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
    store.ask(move |_, view| find(&view, &req.input.bucket)).await?;
    // S3 shows its first region as an empty constraint, and clients rely on it.
    let constraint = (region != "us-east-1").then(|| BucketLocationConstraint::from(region.to_owned()));
    Ok(S3Response::new(GetBucketLocationOutput { location_constraint: constraint }))
}
