//! The S3 endpoint: requests in, operations and extents out.
//!
//! ```text
//!   serve -> Front -> (the library: signature, XML) -> guard -> endpoint -> objects, uploads, listings, ...
//!                                                                              |               |
//!                                                            receive -> Backend::commit   send <- index, log
//! ```
//!
//! The protocol (signatures, XML, routing) is the s3s library's; this module decides who may do what
//! ([`guard`]), turns requests into [`crate::op::Op`]s for the [`Backend`] and reads objects back. What it
//! does not offer it answers with `NotImplemented` rather than accept and forget.
//!
//! The library logs every answer above 399 as an error under its own target; a subscriber that wants
//! only what needs a person sets `s3s=off`, as this module logs what concerns the data itself.
//!
//! Invariant: nothing is answered that reveals or confirms state unless [`Backend::serving`] agreed
//! right before the answer's head was written; and no byte of a body leaves whose record's checksum
//! was not verified.

mod acl;
mod annotations;
mod answer;
mod buckets;
mod budget;
mod caretaker;
mod conditions;
mod copies;
mod cors;
mod edge;
mod encryption;
mod endpoint;
mod guard;
mod hand_on;
mod herald;
mod host;
mod lifecycle;
mod listings;
mod notifications;
mod objects;
mod passage;
mod patience;
mod receive;
mod send;
mod serve;
mod settings;
mod standby;
mod traits;
mod uploads;
mod wellformed;

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use holdfast_heartbeat::types::Epoch;
use s3s::auth::SecretKey;
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::dto::{Owner, Timestamp};
use s3s::service::S3ServiceBuilder;
use s3s::{S3Response, S3Result, s3_error};

pub use self::budget::{Budget, DEFAULT_BYTES, MIN_BYTES};
pub use self::caretaker::Caretaker;
use self::cors::Cors;
use self::endpoint::Endpoint;
use self::guard::{Guard, Keys};
pub use self::hand_on::{HandOn, SealKeys};
pub use self::herald::{Herald, Post};
pub use self::host::Hosts;
pub use self::lifecycle::Day;
pub(crate) use self::receive::Kept;
pub use self::receive::Receiving;
use self::serve::Desk;
pub use self::serve::{Front, Guests, MAX_CONNECTIONS, Serving, serve};
use self::standby::ReadOnly;
pub use self::standby::{Follow, StandbyCounts, StandbyReads};

use crate::apply::Outcome;
use crate::backend::{Backend, OnDamage, ReadLog};
use crate::index::{Index, Lookup, View};
use crate::object::VersionId;
use crate::op::Op;
use crate::seal::StoreKeys;

/// The largest XML body of a request: 1,000 deletions or 10,000 parts with room to spare.
const XML_MAX: usize = 4 * 1024 * 1024;

/// The largest file of an upload by form: the library holds it in memory.
const FORM_MAX: u64 = 16 * 1024 * 1024;

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
    /// What bytes at rest are encrypted with; with no key, they are not.
    pub keys: StoreKeys,
    /// The names of the webhooks that events can go to.
    pub webhooks: Vec<String>,
    /// How long a day of lifecycle rules is.
    pub day: Day,
    /// Bodies that are being received.
    pub receiving: Receiving,
    /// Memory for bodies.
    pub budget: Budget,
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
    /// What the member does while it is not the primary.
    pub standby: StandbyReads,
    /// The members' keys for requests that they hand on to each other; without, the primary sees those as coming
    /// from the member.
    pub seal_keys: Option<SealKeys>,
    /// What became of them.
    pub counts: Arc<StandbyCounts>,
}

/// Makes the service that [`serve`] runs.
pub fn service(store: Store, options: Options) -> Front {
    let reading = Store { backend: Arc::new(ReadOnly), ..store.clone() };
    let (primary, reader) = (desk(store, &options), desk(reading, &options));
    Front::new(primary, reader, options.standby, options.seal_keys, options.counts)
}

/// Everything behind one endpoint.
fn desk(store: Store, options: &Options) -> Desk {
    let (backend, index) = (Arc::clone(&store.backend), store.index.clone());
    let store = Arc::new(store);
    let hosts = Hosts::new(options.domains.clone());
    let mut config = S3Config::default();
    config.xml_max_body_size = XML_MAX;
    config.post_object_max_file_size = FORM_MAX;
    let endpoint = Endpoint { store: Arc::clone(&store), region: options.region.clone() };
    let mut builder = S3ServiceBuilder::new(endpoint);
    builder.set_auth(Keys {
        store: Arc::clone(&store),
        root_access_key: options.root_access_key.clone(),
        root_secret_key: SecretKey::from(options.root_secret_key.as_str()),
    });
    let root_access_key = options.root_access_key.clone();
    builder.set_access(Guard { store: Arc::clone(&store), root_access_key });
    builder.set_validation(edge::Names);
    builder.set_host(hosts.clone());
    builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config))));
    Desk { s3: builder.build(), cors: Arc::new(Cors::new(store, hosts)), backend, index }
}

impl Store {
    /// A store whose bytes lie in the clear, without webhooks, where a day is a day.
    pub fn new(index: Index, log: Arc<dyn ReadLog>, backend: Arc<dyn Backend>, on_damage: OnDamage) -> Store {
        Store {
            index,
            log,
            backend,
            on_damage,
            keys: StoreKeys::default(),
            webhooks: Vec::new(),
            day: Day::default(),
            receiving: Receiving::default(),
            budget: Budget::default(),
        }
    }

    /// The epoch under which this member serves, or the answer that sends the client away.
    fn serving(&self) -> S3Result<Epoch> {
        self.backend.serving().map_err(|no| answer::not_serving(&no))
    }

    /// Asks the index, on this very thread: the endpoint runs on threads that may wait for the disk, and a question
    /// is answered in less time than it takes to hand it to another thread.
    async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        question: impl FnOnce(&Store, View) -> S3Result<T> + Send + 'static,
    ) -> S3Result<T> {
        // Before the view, so that it covers what the view names.
        let held = self.log.hold();
        question(self, self.index.view().holding(held))
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
    let (seconds, ms) = ((wall_ms / 1000) as i64, (wall_ms % 1000) as i64);
    let time = time::OffsetDateTime::from_unix_timestamp(seconds);
    Timestamp::from(time.unwrap_or(time::OffsetDateTime::UNIX_EPOCH) + time::Duration::milliseconds(ms))
}

/// An owner as the protocol shows it.
fn owner_of(view: &View, id: &str) -> S3Result<Owner> {
    let shown = answer::shown_id(id).to_owned();
    let display_name = if id.is_empty() { None } else { view.user(id)?.map(|user| user.display_name) };
    Ok(Owner { display_name: Some(display_name.unwrap_or_else(|| shown.clone())), id: Some(shown) })
}

/// The version that a request names.
fn version_id(text: Option<&str>) -> S3Result<Option<VersionId>> {
    let read = |text| {
        VersionId::parse(text).ok_or_else(|| s3_error!(InvalidArgument, "Invalid version id specified"))
    };
    text.map(read).transpose()
}

type Answer<T> = S3Result<S3Response<T>>;
