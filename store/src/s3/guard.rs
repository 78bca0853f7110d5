//! Who asks, and whether he may: every request passes here before its operation begins.
//!
//! The library has verified the signature with the secret that [`Keys`] gave it; [`Guard`] then names the
//! action that the request stands for, gathers what the decision depends on, and asks
//! [`crate::access::allows`]. What it found goes with the request as a [`Scope`].
//!
//! Two requests name keys only in their bodies: the deletion of many keys asks its scope key by key, and an
//! upload by form is judged when its form has been read.
//!
//! Invariant: an operation of the endpoint runs only with a scope that allows its action.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, Uri};
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::dto::{CopySource, PostObjectInput};
use s3s::path::S3Path;
use s3s::{S3Request, S3Result, s3_error};

use super::{Store, answer};
use crate::access::{Action, Context, Policy, Question, User, Who, allows};
use crate::bucket::{BucketState, Document};
use crate::index::{Lookup, View};
use crate::object::VersionId;
use crate::state::ObjectState;

/// The address that a request came from, set by whoever took its connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) IpAddr);

/// The root user's keys, and where the others' are.
pub(super) struct Keys {
    pub(super) store: Arc<Store>,
    pub(super) root_access_key: String,
    pub(super) root_secret_key: SecretKey,
}

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        if access_key == self.root_access_key {
            return Ok(self.root_secret_key.clone());
        }
        // What a member that does not serve knows of keys is not to be seen.
        self.store.serving()?;
        let id = access_key.to_owned();
        let user = self.store.ask(move |_, view| user_of(&view, &id)).await?;
        let secret = user.filter(|user| user.enabled).and_then(|user| {
            let key = user.keys.iter().find(|key| key.id == access_key)?;
            Some(SecretKey::from(key.secret.clone()))
        });
        secret.ok_or_else(|| s3_error!(InvalidAccessKeyId, "The access key id does not exist here"))
    }
}

fn user_of(view: &View, access_key: &str) -> S3Result<Option<User>> {
    match view.owner_of_access_key(access_key)? {
        Some(name) => Ok(view.user(&name)?),
        None => Ok(None),
    }
}

/// Who asks for what in which bucket, and all that decides whether he may.
#[derive(Clone)]
pub(super) struct Scope {
    pub(super) who: Who,
    bucket: String,
    state: Arc<BucketState>,
    policy: Option<Arc<Policy>>,
    context: Context,
}

impl Scope {
    /// Looks the bucket up.
    fn of(view: &View, who: Who, bucket: &str, context: Context) -> S3Result<Scope> {
        let no_bucket = || s3_error!(NoSuchBucket, "The bucket does not exist");
        let state = view.bucket(bucket)?.ok_or_else(no_bucket)?;
        let policy = if state.documents.contains(&Document::Policy) && who != Who::Root {
            let text = view.document(bucket, Document::Policy)?.unwrap_or_default();
            let policy = Policy::parse(&text, bucket).map_err(|e| {
                tracing::error!(bucket, reason = %e, "a stored policy cannot be read: everybody but root is refused");
                s3_error!(AccessDenied, "The bucket's policy cannot be read")
            })?;
            Some(Arc::new(policy))
        } else {
            None
        };
        Ok(Scope { who, bucket: bucket.to_owned(), state: Arc::new(state), policy, context })
    }

    /// Whether the action is allowed on the key, or on the bucket itself.
    pub(super) fn may(&self, action: Action, key: Option<&str>, object: Option<&ObjectState>) -> bool {
        if self.who == Who::Root {
            return true;
        }
        let mut context = Cow::Borrowed(&self.context);
        for (name, value) in object.iter().flat_map(|object| &object.traits.tags) {
            context.to_mut().add(&format!("s3:ExistingObjectTag/{name}"), value.clone());
        }
        allows(&Question {
            who: &self.who,
            action,
            bucket: &self.bucket,
            bucket_owner: &self.state.owner,
            bucket_tenant: self.state.tenant.as_deref(),
            policy: self.policy.as_deref(),
            bucket_acl: self.state.acl.as_ref(),
            block: self.state.block.unwrap_or_default(),
            ownership: self.state.ownership.unwrap_or_default(),
            key,
            object: object.map(|object| (object.traits.owner.as_str(), object.traits.acl.as_ref())),
            context: &context,
        })
    }

    /// As [`Scope::may`], for a key that is to be removed: a policy may look at the tags of what is there.
    pub(super) fn may_remove(
        &self,
        view: &View,
        key: &str,
        version: Option<VersionId>,
        bypass: bool,
    ) -> S3Result<bool> {
        let there = match &self.policy {
            Some(_) => view.object_version(&self.bucket, key, version)?,
            None => None,
        };
        let action = if version.is_some() { Action::DeleteObjectVersion } else { Action::DeleteObject };
        let may = |action| self.may(action, Some(key), there.as_ref());
        Ok(may(action) && (!bypass || may(Action::BypassGovernanceRetention)))
    }

    /// Whether it may show that the key does not exist: to who may list it.
    pub(super) fn may_learn_of(&self, key: &str) -> bool {
        let mut scope = self.clone();
        scope.context.add("s3:prefix", key);
        scope.may(Action::ListBucket, None, None)
    }

    /// Refuses what is not allowed.
    pub(super) fn demand(
        &self,
        action: Action,
        key: Option<&str>,
        object: Option<&ObjectState>,
    ) -> S3Result<()> {
        if self.may(action, key, object) { Ok(()) } else { Err(denied()) }
    }
}

pub(super) fn denied() -> s3s::S3Error {
    s3_error!(AccessDenied, "Access denied")
}

/// Judges every request.
pub(super) struct Guard {
    pub(super) store: Arc<Store>,
    pub(super) root_access_key: String,
}

/// The asker of a request, where the guard let it pass.
pub(super) fn asker<T>(req: &S3Request<T>) -> Who {
    req.extensions.get::<Who>().cloned().unwrap_or(Who::Anonymous)
}

/// The scope of a request on a bucket, where the guard made one.
pub(super) fn scope<T>(req: &S3Request<T>) -> S3Result<Scope> {
    req.extensions.get::<Scope>().cloned().ok_or_else(denied)
}

/// The values of the request that policies look at.
fn context(who: &Who, headers: &HeaderMap, uri: &Uri, peer: Option<Peer>) -> Context {
    let mut context = Context::default();
    if let Some(Peer(address)) = peer {
        context.add("aws:SourceIp", address.to_canonical().to_string());
    }
    context.add("aws:SecureTransport", "false");
    context.add("aws:PrincipalType", if *who == Who::Anonymous { "Anonymous" } else { "User" });
    if let Some(id) = who.id() {
        context.add("aws:username", id);
        context.add("aws:userid", id);
    }
    let now = time::OffsetDateTime::now_utc();
    context.add("aws:EpochTime", now.unix_timestamp().to_string());
    context.add("aws:CurrentTime", now.unix_timestamp().to_string());
    for (name, value) in headers {
        let Ok(value) = value.to_str() else { continue };
        match name.as_str() {
            "referer" => context.add("aws:Referer", value),
            "user-agent" => context.add("aws:UserAgent", value),
            "if-match" | "if-none-match" => context.add(&format!("s3:{name}"), value),
            "x-amz-copy-source" => {
                // Policies write the source with a slash in front or without; the one without is kept.
                let value = percent_encoding::percent_decode_str(value).decode_utf8_lossy();
                context.add("s3:x-amz-copy-source", value.trim_start_matches('/'));
            }
            "x-amz-tagging" => {
                for (key, value) in form_urlencoded::parse(value.as_bytes()) {
                    context.add(&format!("s3:RequestObjectTag/{key}"), value);
                    context.add("s3:RequestObjectTagKeys", key);
                }
            }
            "x-amz-object-lock-mode" => context.add("s3:object-lock-mode", value),
            "x-amz-object-lock-legal-hold" => context.add("s3:object-lock-legal-hold", value),
            "x-amz-object-lock-retain-until-date" => {
                context.add("s3:object-lock-retain-until-date", value);
            }
            "authorization" => {
                context.add("s3:authType", "REST-HEADER");
                context.add("s3:signatureversion", "AWS4-HMAC-SHA256");
            }
            name if name.starts_with("x-amz-") => context.add(&format!("s3:{name}"), value),
            _ => {}
        }
    }
    for (name, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
        match &*name {
            "prefix" | "delimiter" | "max-keys" => context.add(&format!("s3:{name}"), value),
            "versionId" => context.add("s3:VersionId", value),
            "X-Amz-Signature" => {
                context.add("s3:authType", "REST-QUERY-STRING");
                context.add("s3:signatureversion", "AWS4-HMAC-SHA256");
            }
            _ => {}
        }
    }
    context
}

/// What an operation of the library asks for.
enum Asks {
    /// Nothing of a bucket.
    Nothing,
    /// An action on the bucket.
    Bucket(Action),
    /// An action on an object that is there.
    Object(Action),
    /// An action on a key, whatever is there.
    Key(Action),
    /// Judged later, key by key.
    Later,
    /// Something that is not offered.
    Unknown,
}

fn asks(operation: &str, versioned: bool) -> Asks {
    use Asks::{Bucket, Key, Later, Nothing, Object, Unknown};
    let either = |current, version| if versioned { version } else { current };
    match operation {
        "ListBuckets" | "CreateBucket" => Nothing,
        "DeleteObjects" | "PostObject" => Later,
        "HeadBucket" | "ListObjects" | "ListObjectsV2" => Bucket(Action::ListBucket),
        "ListObjectVersions" => Bucket(Action::ListBucketVersions),
        "ListMultipartUploads" => Bucket(Action::ListBucketMultipartUploads),
        "DeleteBucket" => Bucket(Action::DeleteBucket),
        "GetBucketLocation" => Bucket(Action::GetBucketLocation),
        "GetBucketAcl" => Bucket(Action::GetBucketAcl),
        "PutBucketAcl" => Bucket(Action::PutBucketAcl),
        "GetBucketPolicy" => Bucket(Action::GetBucketPolicy),
        "PutBucketPolicy" => Bucket(Action::PutBucketPolicy),
        "DeleteBucketPolicy" => Bucket(Action::DeleteBucketPolicy),
        "GetBucketPolicyStatus" => Bucket(Action::GetBucketPolicyStatus),
        "GetBucketVersioning" => Bucket(Action::GetBucketVersioning),
        "PutBucketVersioning" => Bucket(Action::PutBucketVersioning),
        "GetBucketTagging" => Bucket(Action::GetBucketTagging),
        "PutBucketTagging" | "DeleteBucketTagging" => Bucket(Action::PutBucketTagging),
        "GetBucketCors" => Bucket(Action::GetBucketCORS),
        "PutBucketCors" | "DeleteBucketCors" => Bucket(Action::PutBucketCORS),
        "GetBucketLifecycleConfiguration" => Bucket(Action::GetLifecycleConfiguration),
        "PutBucketLifecycleConfiguration" | "DeleteBucketLifecycle" => {
            Bucket(Action::PutLifecycleConfiguration)
        }
        "GetBucketNotificationConfiguration" => Bucket(Action::GetBucketNotification),
        "PutBucketNotificationConfiguration" => Bucket(Action::PutBucketNotification),
        "GetBucketOwnershipControls" => Bucket(Action::GetBucketOwnershipControls),
        "PutBucketOwnershipControls" | "DeleteBucketOwnershipControls" => {
            Bucket(Action::PutBucketOwnershipControls)
        }
        "GetPublicAccessBlock" => Bucket(Action::GetBucketPublicAccessBlock),
        "PutPublicAccessBlock" | "DeletePublicAccessBlock" => Bucket(Action::PutBucketPublicAccessBlock),
        "GetBucketEncryption" => Bucket(Action::GetEncryptionConfiguration),
        "PutBucketEncryption" | "DeleteBucketEncryption" => Bucket(Action::PutEncryptionConfiguration),
        "GetObjectLockConfiguration" => Bucket(Action::GetBucketObjectLockConfiguration),
        "PutObjectLockConfiguration" => Bucket(Action::PutBucketObjectLockConfiguration),
        "GetObject" | "HeadObject" => Object(either(Action::GetObject, Action::GetObjectVersion)),
        "GetObjectAttributes" => {
            Object(either(Action::GetObjectAttributes, Action::GetObjectVersionAttributes))
        }
        "GetObjectAcl" => Object(either(Action::GetObjectAcl, Action::GetObjectVersionAcl)),
        "PutObjectAcl" => Object(either(Action::PutObjectAcl, Action::PutObjectVersionAcl)),
        "GetObjectTagging" => Object(either(Action::GetObjectTagging, Action::GetObjectVersionTagging)),
        "PutObjectTagging" => Object(either(Action::PutObjectTagging, Action::PutObjectVersionTagging)),
        "DeleteObjectTagging" => {
            Object(either(Action::DeleteObjectTagging, Action::DeleteObjectVersionTagging))
        }
        "GetObjectRetention" => Object(Action::GetObjectRetention),
        "PutObjectRetention" => Object(Action::PutObjectRetention),
        "GetObjectLegalHold" => Object(Action::GetObjectLegalHold),
        "PutObjectLegalHold" => Object(Action::PutObjectLegalHold),
        "PutObject"
        | "CopyObject"
        | "CreateMultipartUpload"
        | "UploadPart"
        | "UploadPartCopy"
        | "CompleteMultipartUpload" => Key(Action::PutObject),
        "DeleteObject" => Key(either(Action::DeleteObject, Action::DeleteObjectVersion)),
        "AbortMultipartUpload" => Key(Action::AbortMultipartUpload),
        "ListParts" => Key(Action::ListMultipartUploadParts),
        _ => Unknown,
    }
}

/// What the headers of a write ask for beside the write.
fn also_asks(headers: &HeaderMap) -> impl Iterator<Item = Action> {
    let has = |name: &str| headers.contains_key(name);
    let acl = headers.get("x-amz-acl").is_some_and(|acl| acl != "private")
        || headers.keys().any(|name| name.as_str().starts_with("x-amz-grant-"));
    [
        acl.then_some(Action::PutObjectAcl),
        has("x-amz-tagging").then_some(Action::PutObjectTagging),
        has("x-amz-object-lock-mode").then_some(Action::PutObjectRetention),
        has("x-amz-object-lock-legal-hold").then_some(Action::PutObjectLegalHold),
    ]
    .into_iter()
    .flatten()
}

/// The source of a copy.
struct CopyFrom {
    bucket: String,
    key: String,
    version: Option<String>,
}

fn copy_from(headers: &HeaderMap) -> Option<CopyFrom> {
    let source = CopySource::parse(headers.get("x-amz-copy-source")?.to_str().ok()?).ok()?;
    match source {
        CopySource::Bucket { bucket, key, version_id } => {
            Some(CopyFrom { bucket: bucket.into(), key: key.into(), version: version_id.map(Into::into) })
        }
        _ => None,
    }
}

/// The object that a request means, as far as its access list and tags matter.
fn object(view: &View, bucket: &str, key: &str, version: Option<&str>) -> S3Result<Option<ObjectState>> {
    match version.map(VersionId::parse) {
        // A name that was never given out is of no version.
        Some(None) => Ok(None),
        version => Ok(view.object_version(bucket, key, version.flatten())?),
    }
}

impl Guard {
    async fn who(&self, access_key: Option<&str>) -> S3Result<Who> {
        let Some(access_key) = access_key else { return Ok(Who::Anonymous) };
        if access_key == self.root_access_key {
            return Ok(Who::Root);
        }
        let id = access_key.to_owned();
        match self.store.ask(move |_, view| user_of(&view, &id)).await? {
            Some(user) => Ok(Who::User(Arc::new(user))),
            None => Err(denied()),
        }
    }
}

#[async_trait::async_trait]
impl S3Access for Guard {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        self.store.serving()?;
        let who = self.who(cx.credentials().map(|c| c.access_key.as_str())).await?;
        cx.extensions_mut().insert(who.clone());
        let peer = cx.extensions_mut().get::<Peer>().copied();
        let query = cx.uri().query().unwrap_or_default();
        let version = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "versionId");
        let version = version.map(|(_, value)| value.into_owned());
        let operation = cx.s3_op().name();
        let asks = asks(operation, version.is_some());
        let reads = matches!(operation, "GetObject" | "HeadObject");
        let (bucket, key) = match cx.s3_path() {
            S3Path::Root => (None, None),
            S3Path::Bucket { bucket } => (Some(bucket.to_string()), None),
            S3Path::Object { bucket, key } => (Some(bucket.to_string()), Some(key.to_string())),
        };
        if let Asks::Unknown = asks {
            // Nothing runs that nobody has judged.
            return Err(s3_error!(NotImplemented, "{operation} is not offered"));
        }
        if let Asks::Nothing = asks {
            let may_create = match &who {
                Who::Root => true,
                Who::User(user) => user.creates_buckets || operation != "CreateBucket",
                Who::Anonymous => !matches!(operation, "CreateBucket" | "ListBuckets"),
            };
            return if may_create { Ok(()) } else { Err(denied()) };
        }
        let Some(bucket) = bucket else { return Ok(()) };
        // Root may do everything: nobody looks at it.
        let context = match who {
            Who::Root => Context::default(),
            _ => context(&who, cx.headers(), cx.uri(), peer),
        };
        let expected_owner = header(cx.headers(), "x-amz-expected-bucket-owner");
        let expected_source_owner = header(cx.headers(), "x-amz-source-expected-bucket-owner");
        let also: Vec<Action> = match operation {
            "PutObject" | "CopyObject" | "CreateMultipartUpload" => also_asks(cx.headers()).collect(),
            _ => Vec::new(),
        };
        let bypass = cx.headers().contains_key("x-amz-bypass-governance-retention");
        let from = match operation {
            "CopyObject" | "UploadPartCopy" => copy_from(cx.headers()),
            _ => None,
        };
        let scope = self
            .store
            .ask(move |_, view| {
                let scope = Scope::of(&view, who.clone(), &bucket, context.clone())?;
                if expected_owner.is_some_and(|expected| expected != answer::shown_id(&scope.state.owner)) {
                    return Err(denied());
                }
                let key = key.as_deref();
                match asks {
                    Asks::Nothing | Asks::Later | Asks::Unknown => {}
                    Asks::Bucket(action) => scope.demand(action, None, None)?,
                    Asks::Key(action) => {
                        // What is there decides only over policies that look at its tags.
                        let there = match (key, &scope.policy) {
                            (Some(key), Some(_)) => object(&view, &bucket, key, version.as_deref())?,
                            _ => None,
                        };
                        scope.demand(action, key, there.as_ref())?;
                    }
                    Asks::Object(action) => {
                        let there = match key {
                            Some(key) if scope.who != Who::Root => {
                                object(&view, &bucket, key, version.as_deref())?
                            }
                            _ => None,
                        };
                        // That a key does not exist may be learned by who may list it. Only reads of the object
                        // itself: they judge once more what they find.
                        let absent = reads && there.is_none() && scope.who != Who::Root;
                        if !(absent && key.is_some_and(|key| scope.may_learn_of(key))) {
                            scope.demand(action, key, there.as_ref())?;
                        }
                        if bypass && !scope.may(Action::BypassGovernanceRetention, key, there.as_ref()) {
                            return Err(denied());
                        }
                    }
                }
                for action in also {
                    // Who may write an object may say who else may use it, unless a policy forbids it.
                    match action {
                        Action::PutObjectAcl if scope.denies(action, key) => return Err(denied()),
                        Action::PutObjectAcl => {}
                        action => scope.demand(action, key, None)?,
                    }
                }
                if let Some(CopyFrom { bucket, key, version }) = from {
                    let source = Scope::of(&view, who, &bucket, context)?;
                    if expected_source_owner.is_some_and(|e| e != answer::shown_id(&source.state.owner)) {
                        return Err(denied());
                    }
                    let there = object(&view, &bucket, &key, version.as_deref())?;
                    let action = if version.is_some() { Action::GetObjectVersion } else { Action::GetObject };
                    source.demand(action, Some(&key), there.as_ref())?;
                }
                Ok(scope)
            })
            .await?;
        cx.extensions_mut().insert(scope);
        Ok(())
    }

    async fn post_object(&self, req: &mut S3Request<PostObjectInput>) -> S3Result<()> {
        let scope = scope(req)?;
        let input = &req.input;
        let also = [
            Some(Action::PutObject),
            input.tagging.is_some().then_some(Action::PutObjectTagging),
            input.object_lock_mode.is_some().then_some(Action::PutObjectRetention),
            input.object_lock_legal_hold_status.is_some().then_some(Action::PutObjectLegalHold),
        ];
        for action in also.into_iter().flatten() {
            scope.demand(action, Some(&input.key), None)?;
        }
        if input.acl.is_some() && scope.denies(Action::PutObjectAcl, Some(&input.key)) {
            return Err(denied());
        }
        Ok(())
    }
}

impl Scope {
    /// Whether the policy denies the action outright.
    fn denies(&self, action: Action, key: Option<&str>) -> bool {
        use crate::access::Verdict;
        let policy = self.policy.as_ref().filter(|_| self.who != Who::Root);
        policy.is_some_and(|policy| {
            policy.judge(&self.who, action.name(), &self.bucket, key, &self.context) == Verdict::Denied
        })
    }
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}
