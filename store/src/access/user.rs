//! Users: who they are, the keys they sign with, and the buckets that they reach.

use serde::{Deserialize, Serialize};

use super::action::{Action, Side};

/// How far a user's bucket access goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    /// List and read.
    Read,
    /// Store, tag and remove; nothing is shown.
    Write,
    /// Both.
    ReadWrite,
}

impl Reach {
    fn covers(self, side: Side) -> bool {
        match side {
            Side::Read => self != Reach::Write,
            Side::Write => self != Reach::Read,
            Side::Settings => false,
        }
    }
}

/// Access to a bucket, or to all whose names fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketAccess {
    /// A bucket's name; `*` at its end stands for any rest.
    pub bucket: String,
    /// How far it goes.
    pub permission: Reach,
}

/// A pair of keys that signs requests.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessKey {
    /// What is shown.
    pub id: String,
    /// What is not.
    pub secret: String,
}

impl std::fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A user of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Names it; also the id under which it owns buckets and objects.
    pub name: String,
    /// For people.
    pub description: String,
    /// Shown as the owner's name.
    pub display_name: String,
    /// By which access lists may name it.
    pub email: Option<String>,
    /// Whose it is: it reaches only buckets of its tenant, and the buckets it makes are its tenant's.
    pub tenant: Option<String>,
    /// Whether it may make buckets, which it then owns.
    pub creates_buckets: bool,
    /// Whether its keys are taken.
    pub enabled: bool,
    /// Buckets of others that it reaches.
    pub bucket_access: Vec<BucketAccess>,
    /// Its keys: two while one takes the place of the other.
    pub keys: Vec<AccessKey>,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
}

impl User {
    /// The most keys of one user: enough to change one without a gap.
    pub const KEYS_MAX: usize = 2;

    /// The most entries of bucket access.
    pub const ACCESS_MAX: usize = 1000;

    /// Whether its bucket access covers the action in that bucket.
    pub(super) fn reaches(&self, bucket: &str, tenant: Option<&str>, action: Action) -> bool {
        (self.tenant.is_none() || self.tenant.as_deref() == tenant)
            && self.bucket_access.iter().any(|access| {
                let named = match access.bucket.strip_suffix('*') {
                    Some(start) => bucket.starts_with(start),
                    None => bucket == access.bucket,
                };
                named && access.permission.covers(action.side())
            })
    }

    /// Whether it sees the bucket in a listing of buckets.
    pub fn sees(&self, bucket: &str, owner: &str, tenant: Option<&str>) -> bool {
        owner == self.name
            || self.reaches(bucket, tenant, Action::ListBucket)
            || self.reaches(bucket, tenant, Action::PutObject)
    }
}
