//! The S3 endpoint: requests in, operations and extents out.
//!
//! The protocol (signatures, XML, routing) is the s3s library's; this module says which operations
//! exist, turns them into [`crate::op::Op`]s for the [`Backend`] and reads objects back. What it does
//! not offer (versions, access lists, tags, encryption, locks) it answers with `NotImplemented`
//! rather than accept and forget.
//!
//! The library logs every answer above 399 as an error under its own target; a subscriber that wants
//! only what needs a person sets `s3s=off`, as this module logs what concerns the data itself.
//!
//! Invariant: nothing is answered that reveals or confirms state unless [`Backend::serving`] agreed
//! right before the answer's head was written; and no byte of a body leaves whose record's checksum
//! was not verified.

mod answer;
mod buckets;
mod conditions;
mod host;
mod listings;
mod objects;
mod receive;
mod send;
mod serve;
mod uploads;

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use holdfast_heartbeat::types::Epoch;
use s3s::auth::{S3Auth, SecretKey};
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::dto::*;
use s3s::service::S3ServiceBuilder;
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};

pub use self::host::Hosts;
pub use self::serve::{Front, Guests, MAX_CONNECTIONS, Serving, serve};

use crate::apply::Outcome;
use crate::backend::{Backend, OnDamage, ReadLog};
use crate::index::{Index, View};
use crate::op::Op;

/// The largest XML body of a request: 1,000 deletions or 10,000 parts with room to spare.
const XML_MAX: usize = 4 * 1024 * 1024;

/// The owner of everything: there is one account.
const OWNER: &str = "holdfast";

/// What the endpoint works on.
#[derive(Clone)]
pub struct Store {
    /// The index that the replicated state machine keeps.
    pub index: Index,
    /// Reads extents back.
    pub log: Arc<dyn ReadLog>,
    /// The member.
    pub backend: Arc<dyn Backend>,
    /// Told of bytes that the disk did not give back as they were written.
    pub on_damage: OnDamage,
}

/// How the endpoint presents itself.
#[derive(Clone)]
pub struct Options {
    /// The access key of the root user.
    pub root_access_key: String,
    /// Its secret.
    pub root_secret_key: String,
    /// Domains under which `bucket.domain` names a bucket; with none, buckets are in the path only.
    pub domains: Vec<String>,
    /// The region that `GetBucketLocation` shows. `us-east-1` is what clients assume.
    pub region: String,
}

/// Makes the service that [`serve`] runs.
pub fn service(store: Store, options: Options) -> Front {
    let backend = Arc::clone(&store.backend);
    let auth =
        RootKey { access_key: options.root_access_key, secret_key: SecretKey::from(options.root_secret_key) };
    let mut config = S3Config::default();
    config.xml_max_body_size = XML_MAX;
    // Form uploads are not offered, and the library would hold their files in memory.
    config.post_object_max_file_size = 1;
    let mut builder = S3ServiceBuilder::new(Endpoint { store: Arc::new(store), region: options.region });
    builder.set_auth(auth);
    builder.set_host(Hosts::new(options.domains));
    builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config))));
    Front::new(builder.build(), backend)
}

struct RootKey {
    access_key: String,
    secret_key: SecretKey,
}

#[async_trait::async_trait]
impl S3Auth for RootKey {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        if access_key != self.access_key {
            return Err(s3_error!(InvalidAccessKeyId, "The access key id does not exist here"));
        }
        Ok(self.secret_key.clone())
    }
}

impl Store {
    /// The epoch under which this member serves, or the answer that sends the client away.
    fn serving(&self) -> S3Result<Epoch> {
        self.backend.serving().map_err(|no| answer::not_serving(&no))
    }

    /// Asks the index on a thread that may wait for the disk.
    async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        question: impl FnOnce(&Store, View) -> S3Result<T> + Send + 'static,
    ) -> S3Result<T> {
        let store = Arc::clone(self);
        let answered = tokio::task::spawn_blocking(move || question(&store, store.index.view())).await;
        answered.map_err(|_| answer::internal("a read of the index stopped"))?
    }

    /// Commits one operation. A refusal becomes an error.
    async fn commit(&self, op: &Op, inline: Bytes) -> S3Result<Outcome> {
        let payload = op.encode(inline).map_err(|e| s3_error!(InvalidRequest, "{e}"))?;
        match self.backend.commit(payload).await.map_err(answer::write)? {
            Outcome::Refused(refusal) => Err(answer::refusal(refusal)),
            outcome => Ok(outcome),
        }
    }
}

/// The wall clock in milliseconds since 1970: part of operations, never of decisions.
fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn timestamp(wall_ms: u64) -> Timestamp {
    let nanos = i128::from(wall_ms) * 1_000_000;
    let time = time::OffsetDateTime::from_unix_timestamp_nanos(nanos);
    Timestamp::from(time.unwrap_or(time::OffsetDateTime::UNIX_EPOCH))
}

fn owner() -> Owner {
    Owner { display_name: Some(OWNER.into()), id: Some(OWNER.into()) }
}

struct Endpoint {
    store: Arc<Store>,
    region: String,
}

type Answer<T> = S3Result<S3Response<T>>;

#[async_trait::async_trait]
impl S3 for Endpoint {
    async fn list_buckets(&self, req: S3Request<ListBucketsInput>) -> Answer<ListBucketsOutput> {
        buckets::list(&self.store, &self.region, req).await
    }

    async fn create_bucket(&self, req: S3Request<CreateBucketInput>) -> Answer<CreateBucketOutput> {
        buckets::create(&self.store, req).await
    }

    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> Answer<HeadBucketOutput> {
        buckets::head(&self.store, &self.region, req).await
    }

    async fn delete_bucket(&self, req: S3Request<DeleteBucketInput>) -> Answer<DeleteBucketOutput> {
        buckets::delete(&self.store, req).await
    }

    async fn get_bucket_location(
        &self,
        req: S3Request<GetBucketLocationInput>,
    ) -> Answer<GetBucketLocationOutput> {
        buckets::location(&self.store, &self.region, req).await
    }

    async fn get_bucket_versioning(
        &self,
        req: S3Request<GetBucketVersioningInput>,
    ) -> Answer<GetBucketVersioningOutput> {
        buckets::versioning(&self.store, req).await
    }

    async fn put_object(&self, req: S3Request<PutObjectInput>) -> Answer<PutObjectOutput> {
        objects::put(&self.store, req).await
    }

    /// The library would take a form for a plain `PUT`.
    async fn post_object(&self, _: S3Request<PostObjectInput>) -> Answer<PostObjectOutput> {
        Err(s3_error!(NotImplemented, "Uploads by form are not offered"))
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> Answer<GetObjectOutput> {
        objects::get(&self.store, req).await
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> Answer<HeadObjectOutput> {
        objects::head(&self.store, req).await
    }

    async fn delete_object(&self, req: S3Request<DeleteObjectInput>) -> Answer<DeleteObjectOutput> {
        objects::delete(&self.store, req).await
    }

    async fn delete_objects(&self, req: S3Request<DeleteObjectsInput>) -> Answer<DeleteObjectsOutput> {
        objects::delete_many(&self.store, req).await
    }

    async fn copy_object(&self, req: S3Request<CopyObjectInput>) -> Answer<CopyObjectOutput> {
        objects::copy(&self.store, req).await
    }

    async fn list_objects(&self, req: S3Request<ListObjectsInput>) -> Answer<ListObjectsOutput> {
        listings::objects_v1(&self.store, req).await
    }

    async fn list_objects_v2(&self, req: S3Request<ListObjectsV2Input>) -> Answer<ListObjectsV2Output> {
        listings::objects_v2(&self.store, req).await
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> Answer<CreateMultipartUploadOutput> {
        uploads::create(&self.store, req).await
    }

    async fn upload_part(&self, req: S3Request<UploadPartInput>) -> Answer<UploadPartOutput> {
        uploads::put_part(&self.store, req).await
    }

    async fn upload_part_copy(&self, req: S3Request<UploadPartCopyInput>) -> Answer<UploadPartCopyOutput> {
        uploads::copy_part(&self.store, req).await
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> Answer<CompleteMultipartUploadOutput> {
        uploads::complete(&self.store, req).await
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> Answer<AbortMultipartUploadOutput> {
        uploads::abort(&self.store, req).await
    }

    async fn list_multipart_uploads(
        &self,
        req: S3Request<ListMultipartUploadsInput>,
    ) -> Answer<ListMultipartUploadsOutput> {
        listings::uploads(&self.store, req).await
    }

    async fn list_parts(&self, req: S3Request<ListPartsInput>) -> Answer<ListPartsOutput> {
        listings::parts(&self.store, req).await
    }
}
