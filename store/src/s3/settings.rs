//! Requests that show and change a bucket's settings.
//!
//! What only the endpoint reads is kept as the text that it was given as, once it was read and found good.

use std::sync::Arc;

use bytes::Bytes;
use s3s::dto::*;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};

use super::acl::{self, asked_change};
use super::traits::{retention_mode, retention_mode_name, shown_tags, tags_of_bucket};
use super::{Answer, Store, answer, buckets, cors, encryption, lifecycle, notifications};
use crate::access::{self, Ownership, PublicAccessBlock};
use crate::bucket::{BucketState, DefaultRetention, Document, Setting, Versioning};
use crate::index::{Lookup, View};
use crate::op::Op;

async fn set(store: &Arc<Store>, bucket: String, setting: Setting) -> S3Result<()> {
    store.commit(&Op::SetBucket { bucket, setting }, Bytes::new()).await.map(drop)
}

async fn state(store: &Arc<Store>, bucket: &str) -> S3Result<BucketState> {
    store.serving()?;
    let bucket = bucket.to_owned();
    store.ask(move |_, view| buckets::find(&view, &bucket)).await
}

/// One of the bucket's texts, or the error that says that it has none.
async fn text(store: &Arc<Store>, bucket: &str, document: Document) -> S3Result<String> {
    store.serving()?;
    let bucket = bucket.to_owned();
    store
        .ask(move |_, view| {
            buckets::find(&view, &bucket)?;
            view.document(&bucket, document)?.ok_or_else(|| absent(document))
        })
        .await
}

fn absent(document: Document) -> S3Error {
    match document {
        Document::Policy => s3_error!(NoSuchBucketPolicy, "The bucket has no policy"),
        Document::Cors => s3_error!(NoSuchCORSConfiguration, "The bucket has no CORS rules"),
        Document::Lifecycle => s3_error!(NoSuchLifecycleConfiguration, "The bucket has no lifecycle rules"),
        Document::Tagging => s3_error!(NoSuchTagSet, "The bucket has no tags"),
        Document::Encryption => {
            s3_error!(ServerSideEncryptionConfigurationNotFoundError, "The bucket has no default encryption")
        }
        Document::Notification => {
            answer::internal("a bucket without notifications has an empty list of them")
        }
    }
}

/// Writes a document of the protocol as XML.
pub(super) fn xml_of(document: &impl s3s::xml::SerializeContent) -> S3Result<String> {
    let mut bytes = Vec::new();
    let mut serializer = s3s::xml::Serializer::new(&mut bytes);
    let written = serializer.content("Document", document);
    written.map_err(|_| answer::internal("a document could not be written"))?;
    String::from_utf8(bytes).map_err(|_| answer::internal("a document is not text"))
}

/// Reads what [`xml_of`] wrote.
pub(super) fn of_xml<T>(text: &str) -> S3Result<T>
where
    T: for<'xml> s3s::xml::DeserializeContent<'xml>,
{
    let mut deserializer = s3s::xml::Deserializer::new(text.as_bytes());
    let read = deserializer.named_element("Document", T::deserialize_content);
    read.map_err(|error| {
        tracing::error!(%error, "a stored document cannot be read");
        answer::internal("a stored document cannot be read")
    })
}

/// A text of the bucket in `view`, read; `None` where it has none.
pub(super) fn document<T>(view: &View, bucket: &str, which: Document) -> S3Result<Option<T>>
where
    T: for<'xml> s3s::xml::DeserializeContent<'xml>,
{
    view.document(bucket, which)?.map(|text| of_xml(&text)).transpose()
}

pub(super) async fn versioning(
    store: &Arc<Store>,
    req: S3Request<GetBucketVersioningInput>,
) -> Answer<GetBucketVersioningOutput> {
    let status = match state(store, &req.input.bucket).await?.versioning {
        Versioning::Off => None,
        Versioning::Enabled => Some(BucketVersioningStatus::from_static(BucketVersioningStatus::ENABLED)),
        Versioning::Suspended => Some(BucketVersioningStatus::from_static(BucketVersioningStatus::SUSPENDED)),
    };
    Ok(S3Response::new(GetBucketVersioningOutput { mfa_delete: None, status }))
}

pub(super) async fn set_versioning(
    store: &Arc<Store>,
    req: S3Request<PutBucketVersioningInput>,
) -> Answer<PutBucketVersioningOutput> {
    store.serving()?;
    let VersioningConfiguration { mfa_delete, status } = req.input.versioning_configuration;
    if mfa_delete.is_some_and(|mfa| mfa.as_str() == MFADelete::ENABLED) {
        return Err(s3_error!(NotImplemented, "Deletion by a second factor is not offered"));
    }
    let enabled = match status.as_ref().map(BucketVersioningStatus::as_str) {
        Some(BucketVersioningStatus::ENABLED) => true,
        Some(BucketVersioningStatus::SUSPENDED) => false,
        _ => return Err(s3_error!(MalformedXML, "Versioning is Enabled or Suspended")),
    };
    set(store, req.input.bucket, Setting::Versioning { enabled }).await?;
    Ok(S3Response::new(PutBucketVersioningOutput::default()))
}

pub(super) async fn acl(store: &Arc<Store>, req: S3Request<GetBucketAclInput>) -> Answer<GetBucketAclOutput> {
    store.serving()?;
    let (owner, grants) = store
        .ask(move |_, view| {
            let bucket = buckets::find(&view, &req.input.bucket)?;
            acl::shown(&view, bucket.acl.as_ref(), &bucket.owner)
        })
        .await?;
    Ok(S3Response::new(GetBucketAclOutput { grants: Some(grants), owner: Some(owner) }))
}

pub(super) async fn set_acl(
    store: &Arc<Store>,
    req: S3Request<PutBucketAclInput>,
) -> Answer<PutBucketAclOutput> {
    store.serving()?;
    let mut input = req.input;
    let asked = asked_change!(input);
    let bucket = input.bucket.clone();
    let list = store
        .ask(move |_, view| {
            let state = buckets::find(&view, &bucket)?;
            let list = asked.read(&view, &state.owner, &state.owner)?;
            acl::permit(&state, list.as_ref(), true)?;
            Ok(list)
        })
        .await?;
    set(store, input.bucket, Setting::Acl(list)).await?;
    Ok(S3Response::new(PutBucketAclOutput::default()))
}

pub(super) async fn policy(
    store: &Arc<Store>,
    req: S3Request<GetBucketPolicyInput>,
) -> Answer<GetBucketPolicyOutput> {
    let policy = text(store, &req.input.bucket, Document::Policy).await?;
    Ok(S3Response::new(GetBucketPolicyOutput { policy: Some(policy) }))
}

pub(super) async fn set_policy(
    store: &Arc<Store>,
    req: S3Request<PutBucketPolicyInput>,
) -> Answer<PutBucketPolicyOutput> {
    let PutBucketPolicyInput { bucket, policy, .. } = req.input;
    let read = access::Policy::parse(&policy, &bucket)
        .map_err(|e| S3Error::with_message(S3ErrorCode::MalformedPolicy, e.to_string()))?;
    if state(store, &bucket).await?.block.unwrap_or_default().block_policy && read.is_public() {
        return Err(s3_error!(AccessDenied, "The bucket blocks public policies"));
    }
    set(store, bucket, Setting::Document(Document::Policy, Some(policy))).await?;
    Ok(S3Response::new(PutBucketPolicyOutput::default()))
}

pub(super) async fn policy_status(
    store: &Arc<Store>,
    req: S3Request<GetBucketPolicyStatusInput>,
) -> Answer<GetBucketPolicyStatusOutput> {
    store.serving()?;
    let bucket = req.input.bucket;
    let public = store
        .ask(move |_, view| {
            let state = buckets::find(&view, &bucket)?;
            let by_acl = state.acl.as_ref().is_some_and(access::Acl::is_public);
            let text = view.document(&bucket, Document::Policy)?;
            let policy = text.and_then(|text| access::Policy::parse(&text, &bucket).ok());
            Ok(by_acl || policy.is_some_and(|policy| policy.is_public()))
        })
        .await?;
    let policy_status = Some(PolicyStatus { is_public: Some(public) });
    Ok(S3Response::new(GetBucketPolicyStatusOutput { policy_status }))
}

/// A request that removes one of the bucket's texts.
macro_rules! removal {
    ($name:ident, $input:ty, $output:ty, $setting:expr) => {
        pub(super) async fn $name(store: &Arc<Store>, req: S3Request<$input>) -> Answer<$output> {
            store.serving()?;
            set(store, req.input.bucket, $setting).await?;
            Ok(S3Response::new(<$output>::default()))
        }
    };
}

removal!(
    remove_policy,
    DeleteBucketPolicyInput,
    DeleteBucketPolicyOutput,
    Setting::Document(Document::Policy, None)
);
removal!(remove_cors, DeleteBucketCorsInput, DeleteBucketCorsOutput, Setting::Document(Document::Cors, None));
removal!(
    remove_lifecycle,
    DeleteBucketLifecycleInput,
    DeleteBucketLifecycleOutput,
    Setting::Document(Document::Lifecycle, None)
);
removal!(
    remove_tags,
    DeleteBucketTaggingInput,
    DeleteBucketTaggingOutput,
    Setting::Document(Document::Tagging, None)
);
removal!(
    remove_encryption,
    DeleteBucketEncryptionInput,
    DeleteBucketEncryptionOutput,
    Setting::Document(Document::Encryption, None)
);
removal!(
    remove_ownership,
    DeleteBucketOwnershipControlsInput,
    DeleteBucketOwnershipControlsOutput,
    Setting::Ownership(None)
);
removal!(
    remove_public_access_block,
    DeletePublicAccessBlockInput,
    DeletePublicAccessBlockOutput,
    Setting::PublicAccessBlock(None)
);

pub(super) async fn cors(
    store: &Arc<Store>,
    req: S3Request<GetBucketCorsInput>,
) -> Answer<GetBucketCorsOutput> {
    let rules: CORSConfiguration = of_xml(&text(store, &req.input.bucket, Document::Cors).await?)?;
    Ok(S3Response::new(GetBucketCorsOutput { cors_rules: Some(rules.cors_rules) }))
}

pub(super) async fn set_cors(
    store: &Arc<Store>,
    req: S3Request<PutBucketCorsInput>,
) -> Answer<PutBucketCorsOutput> {
    store.serving()?;
    cors::check(&req.input.cors_configuration)?;
    let text = xml_of(&req.input.cors_configuration)?;
    set(store, req.input.bucket, Setting::Document(Document::Cors, Some(text))).await?;
    Ok(S3Response::new(PutBucketCorsOutput::default()))
}

pub(super) async fn lifecycle(
    store: &Arc<Store>,
    req: S3Request<GetBucketLifecycleConfigurationInput>,
) -> Answer<GetBucketLifecycleConfigurationOutput> {
    let read: BucketLifecycleConfiguration =
        of_xml(&text(store, &req.input.bucket, Document::Lifecycle).await?)?;
    Ok(S3Response::new(GetBucketLifecycleConfigurationOutput {
        rules: Some(read.rules),
        ..Default::default()
    }))
}

pub(super) async fn set_lifecycle(
    store: &Arc<Store>,
    req: S3Request<PutBucketLifecycleConfigurationInput>,
) -> Answer<PutBucketLifecycleConfigurationOutput> {
    store.serving()?;
    let mut rules = req
        .input
        .lifecycle_configuration
        .ok_or_else(|| s3_error!(MalformedXML, "There is no lifecycle configuration"))?;
    lifecycle::check(&mut rules)?;
    let text = xml_of(&rules)?;
    set(store, req.input.bucket, Setting::Document(Document::Lifecycle, Some(text))).await?;
    Ok(S3Response::new(PutBucketLifecycleConfigurationOutput::default()))
}

pub(super) async fn tags(
    store: &Arc<Store>,
    req: S3Request<GetBucketTaggingInput>,
) -> Answer<GetBucketTaggingOutput> {
    let tagging: Tagging = of_xml(&text(store, &req.input.bucket, Document::Tagging).await?)?;
    Ok(S3Response::new(GetBucketTaggingOutput { tag_set: tagging.tag_set }))
}

pub(super) async fn set_tags(
    store: &Arc<Store>,
    req: S3Request<PutBucketTaggingInput>,
) -> Answer<PutBucketTaggingOutput> {
    store.serving()?;
    let tags = tags_of_bucket(req.input.tagging.tag_set)?;
    let text = xml_of(&Tagging { tag_set: shown_tags(&tags) })?;
    set(store, req.input.bucket, Setting::Document(Document::Tagging, Some(text))).await?;
    Ok(S3Response::new(PutBucketTaggingOutput::default()))
}

pub(super) async fn encryption(
    store: &Arc<Store>,
    req: S3Request<GetBucketEncryptionInput>,
) -> Answer<GetBucketEncryptionOutput> {
    let read: ServerSideEncryptionConfiguration =
        of_xml(&text(store, &req.input.bucket, Document::Encryption).await?)?;
    Ok(S3Response::new(GetBucketEncryptionOutput { server_side_encryption_configuration: Some(read) }))
}

pub(super) async fn set_encryption(
    store: &Arc<Store>,
    req: S3Request<PutBucketEncryptionInput>,
) -> Answer<PutBucketEncryptionOutput> {
    store.serving()?;
    let wanted = req.input.server_side_encryption_configuration;
    let malformed = || s3_error!(MalformedXML, "The default encryption is one rule");
    let [rule] = wanted.rules.as_slice() else { return Err(malformed()) };
    let default = rule.apply_server_side_encryption_by_default.as_ref().ok_or_else(malformed)?;
    match default.sse_algorithm.as_str() {
        encryption::AES256 if default.kms_master_key_id.is_some() => {
            return Err(s3_error!(InvalidArgument, "A key of a key service does not go with AES256"));
        }
        encryption::AES256 => {}
        "aws:kms" | "aws:kms:dsse" => {
            return Err(s3_error!(NotImplemented, "Keys of a key service are not offered"));
        }
        _ => return Err(s3_error!(MalformedXML, "The encryption is AES256")),
    }
    if store.keys.is_empty() {
        return Err(encryption::no_key_file());
    }
    let text = xml_of(&wanted)?;
    set(store, req.input.bucket, Setting::Document(Document::Encryption, Some(text))).await?;
    Ok(S3Response::new(PutBucketEncryptionOutput::default()))
}

pub(super) async fn notifications(
    store: &Arc<Store>,
    req: S3Request<GetBucketNotificationConfigurationInput>,
) -> Answer<GetBucketNotificationConfigurationOutput> {
    store.serving()?;
    let bucket = req.input.bucket;
    let read: Option<NotificationConfiguration> = store
        .ask(move |_, view| {
            buckets::find(&view, &bucket)?;
            document(&view, &bucket, Document::Notification)
        })
        .await?;
    let NotificationConfiguration { queue_configurations, topic_configurations, .. } =
        read.unwrap_or_default();
    Ok(S3Response::new(GetBucketNotificationConfigurationOutput {
        queue_configurations,
        topic_configurations,
        ..Default::default()
    }))
}

pub(super) async fn set_notifications(
    store: &Arc<Store>,
    req: S3Request<PutBucketNotificationConfigurationInput>,
) -> Answer<PutBucketNotificationConfigurationOutput> {
    store.serving()?;
    let wanted = req.input.notification_configuration;
    notifications::check(&wanted, &store.webhooks)?;
    let some = wanted.queue_configurations.as_ref().is_some_and(|q| !q.is_empty())
        || wanted.topic_configurations.as_ref().is_some_and(|t| !t.is_empty());
    let text = if some { Some(xml_of(&wanted)?) } else { None };
    set(store, req.input.bucket, Setting::Document(Document::Notification, text)).await?;
    Ok(S3Response::new(PutBucketNotificationConfigurationOutput::default()))
}

pub(super) fn ownership(text: &str) -> S3Result<Ownership> {
    match text {
        ObjectOwnership::BUCKET_OWNER_ENFORCED => Ok(Ownership::BucketOwnerEnforced),
        ObjectOwnership::BUCKET_OWNER_PREFERRED => Ok(Ownership::BucketOwnerPreferred),
        ObjectOwnership::OBJECT_WRITER => Ok(Ownership::ObjectWriter),
        _ => Err(s3_error!(
            InvalidArgument,
            "The ownership is BucketOwnerEnforced, BucketOwnerPreferred or ObjectWriter"
        )),
    }
}

pub(super) async fn ownership_controls(
    store: &Arc<Store>,
    req: S3Request<GetBucketOwnershipControlsInput>,
) -> Answer<GetBucketOwnershipControlsOutput> {
    let name = match state(store, &req.input.bucket).await?.ownership {
        None => {
            return Err(s3_error!(OwnershipControlsNotFoundError, "The bucket has no ownership controls"));
        }
        Some(Ownership::BucketOwnerEnforced) => ObjectOwnership::BUCKET_OWNER_ENFORCED,
        Some(Ownership::BucketOwnerPreferred) => ObjectOwnership::BUCKET_OWNER_PREFERRED,
        Some(Ownership::ObjectWriter) => ObjectOwnership::OBJECT_WRITER,
    };
    let rules = vec![OwnershipControlsRule { object_ownership: ObjectOwnership::from_static(name) }];
    Ok(S3Response::new(GetBucketOwnershipControlsOutput {
        ownership_controls: Some(OwnershipControls { rules }),
    }))
}

pub(super) async fn set_ownership_controls(
    store: &Arc<Store>,
    req: S3Request<PutBucketOwnershipControlsInput>,
) -> Answer<PutBucketOwnershipControlsOutput> {
    let [rule] = req.input.ownership_controls.rules.as_slice() else {
        return Err(s3_error!(MalformedXML, "Ownership controls are one rule"));
    };
    let ownership = ownership(rule.object_ownership.as_str())?;
    let bucket = state(store, &req.input.bucket).await?;
    let open = bucket.acl.as_ref().is_some_and(|acl| *acl != access::Acl::private(&bucket.owner));
    if ownership == Ownership::BucketOwnerEnforced && open {
        let code = S3ErrorCode::Custom("InvalidBucketAclWithObjectOwnership".into());
        let message = "The bucket's access list lets others in: reset it before access lists are disabled";
        let mut error = S3Error::with_message(code, message);
        error.set_status_code(http::StatusCode::BAD_REQUEST);
        return Err(error);
    }
    set(store, req.input.bucket, Setting::Ownership(Some(ownership))).await?;
    Ok(S3Response::new(PutBucketOwnershipControlsOutput::default()))
}

pub(super) async fn public_access_block(
    store: &Arc<Store>,
    req: S3Request<GetPublicAccessBlockInput>,
) -> Answer<GetPublicAccessBlockOutput> {
    let block = state(store, &req.input.bucket).await?.block;
    let block = block.ok_or_else(|| {
        let code = S3ErrorCode::Custom("NoSuchPublicAccessBlockConfiguration".into());
        let mut error = S3Error::with_message(code, "The bucket blocks no public access");
        error.set_status_code(http::StatusCode::NOT_FOUND);
        error
    })?;
    let shown = Some(acl::shown_block(block));
    Ok(S3Response::new(GetPublicAccessBlockOutput { public_access_block_configuration: shown }))
}

pub(super) async fn set_public_access_block(
    store: &Arc<Store>,
    req: S3Request<PutPublicAccessBlockInput>,
) -> Answer<PutPublicAccessBlockOutput> {
    store.serving()?;
    let wanted = req.input.public_access_block_configuration;
    let block = PublicAccessBlock {
        block_acls: wanted.block_public_acls.unwrap_or(false),
        ignore_acls: wanted.ignore_public_acls.unwrap_or(false),
        block_policy: wanted.block_public_policy.unwrap_or(false),
        restrict_buckets: wanted.restrict_public_buckets.unwrap_or(false),
    };
    set(store, req.input.bucket, Setting::PublicAccessBlock(Some(block))).await?;
    Ok(S3Response::new(PutPublicAccessBlockOutput::default()))
}

pub(super) async fn object_lock(
    store: &Arc<Store>,
    req: S3Request<GetObjectLockConfigurationInput>,
) -> Answer<GetObjectLockConfigurationOutput> {
    let lock = state(store, &req.input.bucket).await?.object_lock;
    let lock = lock.ok_or_else(|| {
        s3_error!(ObjectLockConfigurationNotFoundError, "Object lock is not enabled for the bucket")
    })?;
    let rule = lock.default.map(|default| {
        let (days, years) = if default.in_years {
            (None, Some((default.days / DefaultRetention::YEAR) as i32))
        } else {
            (Some(default.days as i32), None)
        };
        let mode = Some(ObjectLockRetentionMode::from_static(retention_mode_name(default.mode)));
        ObjectLockRule { default_retention: Some(s3s::dto::DefaultRetention { days, mode, years }) }
    });
    let object_lock_enabled = Some(ObjectLockEnabled::from_static(ObjectLockEnabled::ENABLED));
    let shown = Some(ObjectLockConfiguration { object_lock_enabled, rule });
    Ok(S3Response::new(GetObjectLockConfigurationOutput { object_lock_configuration: shown }))
}

pub(super) async fn set_object_lock(
    store: &Arc<Store>,
    req: S3Request<PutObjectLockConfigurationInput>,
) -> Answer<PutObjectLockConfigurationOutput> {
    store.serving()?;
    let malformed = || s3_error!(MalformedXML, "The configuration of object lock is incomplete");
    let wanted = req.input.object_lock_configuration.ok_or_else(malformed)?;
    if wanted.object_lock_enabled.as_ref().is_none_or(|e| e.as_str() != ObjectLockEnabled::ENABLED) {
        return Err(malformed());
    }
    let default = match wanted.rule {
        None => None,
        Some(rule) => {
            let rule = rule.default_retention.ok_or_else(malformed)?;
            let mode = retention_mode(rule.mode.as_ref().ok_or_else(malformed)?.as_str())?;
            let (number, in_years) = match (rule.days, rule.years) {
                (Some(days), None) => (days, false),
                (None, Some(years)) => (years, true),
                _ => return Err(malformed()),
            };
            let period = || {
                let code = S3ErrorCode::Custom("InvalidRetentionPeriod".into());
                let mut error =
                    S3Error::with_message(code, "A retention lasts a day at least and 36,500 days at most");
                error.set_status_code(http::StatusCode::BAD_REQUEST);
                error
            };
            let days = u32::try_from(number).ok().filter(|n| *n > 0).ok_or_else(period)?;
            let days = days.checked_mul(if in_years { DefaultRetention::YEAR } else { 1 });
            let days = days.filter(|days| *days <= 36_500).ok_or_else(period)?;
            Some(DefaultRetention { mode, days, in_years })
        }
    };
    set(store, req.input.bucket, Setting::ObjectLock(default)).await?;
    Ok(S3Response::new(PutObjectLockConfigurationOutput::default()))
}
