//! What an administrator does to the store: users, their keys and access, buckets' quotas and owners.
//!
//! Every change is an operation in the log, so that the standby has the same users and keys. Secrets are
//! random, and given out once: in the answer to the request that made them.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::access::{AccessKey, BucketAccess, User};
use crate::apply::{Outcome, Refusal};
use crate::backend::{Backend, NotServing, WriteError};
use crate::bucket::{BucketState, Quota, Setting, Usage, Versioning};
use crate::index::{Index, IndexError, Lookup, Tables, decode};
use crate::keys;
use crate::op::Op;

/// Characters of a random access key id, in the manner of AWS.
const KEY_ID_LEN: usize = 20;

/// Bytes of chance in a secret key: 40 characters of base64.
const SECRET_LEN: usize = 30;

/// Names that mean something else where owners are shown.
const RESERVED: [&str; 3] = ["holdfast", "root", "anonymous"];

/// Why a request of an administrator was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The request cannot be meant so.
    #[error("{0}")]
    Invalid(String),
    /// The state does not let it happen.
    #[error("{0}")]
    Refused(Refusal),
    /// This member does not serve.
    #[error("{0}; users and buckets are changed on the primary: see holdfast ha status")]
    NotServing(NotServing),
    /// The write was not confirmed.
    #[error("{0}; whether it took effect is shown by a listing on the primary")]
    Write(WriteError),
    /// The index cannot be read.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// No chance to be had.
    #[error("the system gives no random bytes")]
    NoRandom,
}

/// A user to be made.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    /// 1 to 64 characters of `A-Z a-z 0-9 . _ @ -`.
    pub name: String,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// Shown as an owner's name; the name where it is left out.
    pub display_name: Option<String>,
    /// By which access lists may name it.
    pub email: Option<String>,
    /// Whose it is.
    pub tenant: Option<String>,
    /// Buckets that it reaches.
    #[serde(default)]
    pub bucket_access: Vec<BucketAccess>,
    /// Whether it may make buckets of its own.
    #[serde(default)]
    pub creates_buckets: bool,
    /// A key id to take over from elsewhere; random where it is left out.
    pub access_key: Option<String>,
    /// A secret to take over from elsewhere; random where it is left out.
    pub secret_key: Option<SecretText>,
}

/// A secret that no debug output shows.
#[derive(Clone, Deserialize)]
pub struct SecretText(pub String);

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(hidden)")
    }
}

/// What is to be different of a user; what is left out stays.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserChange {
    /// For people.
    pub description: Option<String>,
    /// Shown as an owner's name.
    pub display_name: Option<String>,
    /// By which access lists may name it; empty takes it away.
    pub email: Option<String>,
    /// Whose it is; empty: nobody's.
    pub tenant: Option<String>,
    /// Buckets that it reaches, all of them.
    pub bucket_access: Option<Vec<BucketAccess>>,
    /// Whether it may make buckets of its own.
    pub creates_buckets: Option<bool>,
    /// Whether its keys are taken.
    pub enabled: Option<bool>,
}

/// A user as it is shown: without secrets.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ShownUser {
    /// Its name.
    pub name: String,
    /// For people.
    pub description: String,
    /// Shown as an owner's name.
    pub display_name: String,
    /// By which access lists may name it.
    pub email: Option<String>,
    /// Whose it is.
    pub tenant: Option<String>,
    /// Whether its keys are taken.
    pub enabled: bool,
    /// Whether it may make buckets of its own.
    pub creates_buckets: bool,
    /// Buckets that it reaches.
    pub bucket_access: Vec<BucketAccess>,
    /// The ids of its keys.
    pub access_keys: Vec<String>,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
}

/// A user with a key that is shown this once.
#[derive(Clone, Serialize, Deserialize)]
pub struct MadeKey {
    /// The user.
    #[serde(flatten)]
    pub user: ShownUser,
    /// The key's id.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
}

/// A bucket as it is shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ShownBucket {
    /// Its name.
    pub name: String,
    /// Whose it is; `null`: the root user's.
    pub owner: Option<String>,
    /// The tenant whose it is.
    pub tenant: Option<String>,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// `off`, `enabled` or `suspended`.
    pub versioning: String,
    /// Whether object lock is enabled.
    pub object_lock: bool,
    /// Bytes of all versions together.
    pub used_bytes: u64,
    /// Versions that have bytes.
    pub objects: u64,
    /// The most bytes that it may hold.
    pub quota_bytes: Option<u64>,
    /// The most versions that it may hold.
    pub quota_objects: Option<u64>,
}

/// What is to be different of a bucket; what is left out stays. A quota of 0 takes it away.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BucketChange {
    /// The most bytes that it may hold.
    pub quota_bytes: Option<u64>,
    /// The most versions that it may hold.
    pub quota_objects: Option<u64>,
    /// Whose it is; empty: the root user's.
    pub owner: Option<String>,
}

impl From<User> for ShownUser {
    fn from(user: User) -> ShownUser {
        ShownUser {
            name: user.name,
            description: user.description,
            display_name: user.display_name,
            email: user.email,
            tenant: user.tenant,
            enabled: user.enabled,
            creates_buckets: user.creates_buckets,
            bucket_access: user.bucket_access,
            access_keys: user.keys.into_iter().map(|key| key.id).collect(),
            created_ms: user.created_ms,
        }
    }
}

/// The store, as an administrator reaches it. Reading works on every member that holds the log.
#[derive(Clone)]
pub struct Admin {
    index: Index,
    backend: Arc<dyn Backend>,
    root_access_key: String,
    /// Held while something is read, changed and written back.
    changing: Arc<tokio::sync::Mutex<()>>,
}

impl Admin {
    /// For this member's index and log.
    pub fn new(index: Index, backend: Arc<dyn Backend>, root_access_key: String) -> Admin {
        Admin { index, backend, root_access_key, changing: Arc::default() }
    }

    /// All users. Reads the index: to be called where waiting for the disk is allowed.
    pub fn users(&self) -> Result<Vec<ShownUser>, AdminError> {
        let view = self.index.view();
        let end = keys::after_prefix(keys::USERS);
        let mut users = Vec::new();
        for entry in view.scan(keys::USERS, end.as_deref()) {
            let (key, value) = entry?;
            users.push(decode::<User>("user", &key, &value)?.into());
        }
        Ok(users)
    }

    /// One user.
    pub fn user(&self, name: &str) -> Result<ShownUser, AdminError> {
        Ok(self.existing(name)?.into())
    }

    fn existing(&self, name: &str) -> Result<User, AdminError> {
        self.index.view().user(name)?.ok_or(AdminError::Refused(Refusal::NoSuchUser))
    }

    /// Makes a user with a key.
    pub async fn create_user(&self, new: NewUser, wall_ms: u64) -> Result<MadeKey, AdminError> {
        check_name("user", &new.name)?;
        if RESERVED.contains(&new.name.as_str()) {
            return Err(AdminError::Invalid(format!("{:?} cannot be the name of a user", new.name)));
        }
        if let Some(tenant) = &new.tenant {
            check_name("tenant", tenant)?;
        }
        check_access(&new.bucket_access)?;
        let key = AccessKey {
            id: match new.access_key {
                Some(id) => self.checked_key_id(id)?,
                None => random_key_id()?,
            },
            secret: match new.secret_key {
                Some(SecretText(secret)) if (8..=128).contains(&secret.len()) => secret,
                Some(_) => return Err(AdminError::Invalid("a secret key has 8 to 128 characters".into())),
                None => random_secret()?,
            },
        };
        let user = User {
            display_name: new.display_name.unwrap_or_else(|| new.name.clone()),
            name: new.name,
            description: new.description,
            email: new.email.filter(|email| !email.is_empty()),
            tenant: new.tenant,
            creates_buckets: new.creates_buckets,
            enabled: true,
            bucket_access: new.bucket_access,
            keys: vec![key.clone()],
            created_ms: wall_ms,
        };
        let shown = user.clone().into();
        self.commit(Op::PutUser { user: Box::new(user), exists: false }).await?;
        Ok(MadeKey { user: shown, access_key: key.id, secret_key: key.secret })
    }

    /// Changes a user.
    pub async fn change_user(&self, name: &str, change: UserChange) -> Result<ShownUser, AdminError> {
        let _changing = self.changing.lock().await;
        let mut user = self.existing(name)?;
        let UserChange { description, display_name, email, tenant, bucket_access, creates_buckets, enabled } =
            change;
        if let Some(access) = bucket_access {
            check_access(&access)?;
            user.bucket_access = access;
        }
        if let Some(tenant) = tenant {
            if !tenant.is_empty() {
                check_name("tenant", &tenant)?;
            }
            user.tenant = Some(tenant).filter(|tenant| !tenant.is_empty());
        }
        if let Some(email) = email {
            user.email = Some(email).filter(|email| !email.is_empty());
        }
        user.description = description.unwrap_or(user.description);
        user.display_name = display_name.unwrap_or(user.display_name);
        user.creates_buckets = creates_buckets.unwrap_or(user.creates_buckets);
        user.enabled = enabled.unwrap_or(user.enabled);
        let shown = user.clone().into();
        self.commit(Op::PutUser { user: Box::new(user), exists: true }).await?;
        Ok(shown)
    }

    /// Makes another key for a user, beside the one there is.
    pub async fn create_key(&self, name: &str) -> Result<MadeKey, AdminError> {
        let _changing = self.changing.lock().await;
        let mut user = self.existing(name)?;
        if user.keys.len() >= User::KEYS_MAX {
            return Err(AdminError::Invalid(format!(
                "{name} has {} keys; remove one first: holdfast store users remove-key {name} ID",
                user.keys.len()
            )));
        }
        let key = AccessKey { id: random_key_id()?, secret: random_secret()? };
        user.keys.push(key.clone());
        let shown = user.clone().into();
        self.commit(Op::PutUser { user: Box::new(user), exists: true }).await?;
        Ok(MadeKey { user: shown, access_key: key.id, secret_key: key.secret })
    }

    /// Removes a key: what is signed with it is refused from then on.
    pub async fn remove_key(&self, name: &str, id: &str) -> Result<ShownUser, AdminError> {
        let _changing = self.changing.lock().await;
        let mut user = self.existing(name)?;
        let before = user.keys.len();
        user.keys.retain(|key| key.id != id);
        if user.keys.len() == before {
            return Err(AdminError::Invalid(format!("{name} has no key {id}")));
        }
        let shown = user.clone().into();
        self.commit(Op::PutUser { user: Box::new(user), exists: true }).await?;
        Ok(shown)
    }

    /// Removes a user.
    pub async fn delete_user(&self, name: &str) -> Result<(), AdminError> {
        self.commit(Op::DeleteUser { name: name.to_owned() }).await
    }

    /// All buckets. Reads the index: to be called where waiting for the disk is allowed.
    pub fn buckets(&self) -> Result<Vec<ShownBucket>, AdminError> {
        let view = self.index.view();
        let end = keys::after_prefix(keys::BUCKETS);
        let mut buckets = Vec::new();
        for entry in view.scan(keys::BUCKETS, end.as_deref()) {
            let (key, value) = entry?;
            let name = String::from_utf8_lossy(&key[keys::BUCKETS.len()..]).into_owned();
            let state: BucketState = decode("bucket", &key, &value)?;
            let usage = view.usage(&name)?;
            buckets.push(shown(name, state, usage));
        }
        Ok(buckets)
    }

    /// One bucket.
    pub fn bucket(&self, name: &str) -> Result<ShownBucket, AdminError> {
        let view = self.index.view();
        let state = view.bucket(name)?.ok_or(AdminError::Refused(Refusal::NoSuchBucket))?;
        let usage = view.usage(name)?;
        Ok(shown(name.to_owned(), state, usage))
    }

    /// Changes a bucket.
    pub async fn change_bucket(&self, name: &str, change: BucketChange) -> Result<ShownBucket, AdminError> {
        let _changing = self.changing.lock().await;
        let before = self.index.view().bucket(name)?.ok_or(AdminError::Refused(Refusal::NoSuchBucket))?;
        let bucket = name.to_owned();
        if change.quota_bytes.is_some() || change.quota_objects.is_some() {
            let mut quota = before.quota.unwrap_or_default();
            let limit = |given: Option<u64>, before| match given {
                None => before,
                Some(0) => None,
                Some(limit) => Some(limit),
            };
            quota.bytes = limit(change.quota_bytes, quota.bytes);
            quota.objects = limit(change.quota_objects, quota.objects);
            let quota = Some(quota).filter(|quota| *quota != Quota::default());
            self.commit(Op::SetBucket { bucket: bucket.clone(), setting: Setting::Quota(quota) }).await?;
        }
        if let Some(owner) = change.owner {
            let tenant = if owner.is_empty() { None } else { self.existing(&owner)?.tenant };
            self.commit(Op::SetBucket { bucket, setting: Setting::Owner { owner, tenant } }).await?;
        }
        self.bucket(name)
    }

    async fn commit(&self, op: Op) -> Result<(), AdminError> {
        self.backend.serving().map_err(AdminError::NotServing)?;
        let payload = op.encode(Bytes::new()).map_err(|e| AdminError::Invalid(e.to_string()))?;
        match self.backend.commit(payload).await.map_err(AdminError::Write)? {
            Outcome::Refused(refusal) => Err(AdminError::Refused(refusal)),
            _ => Ok(()),
        }
    }

    fn checked_key_id(&self, id: String) -> Result<String, AdminError> {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if !(3..=128).contains(&id.len()) || !id.chars().all(good) {
            return Err(AdminError::Invalid(
                "an access key has 3 to 128 characters of A-Z a-z 0-9 . _ -".into(),
            ));
        }
        if id == self.root_access_key {
            return Err(AdminError::Invalid("that access key is the root user's".into()));
        }
        Ok(id)
    }
}

fn shown(name: String, state: BucketState, usage: Usage) -> ShownBucket {
    let versioning = match state.versioning {
        Versioning::Off => "off",
        Versioning::Enabled => "enabled",
        Versioning::Suspended => "suspended",
    };
    let quota = state.quota.unwrap_or_default();
    ShownBucket {
        name,
        owner: Some(state.owner).filter(|owner| !owner.is_empty()),
        tenant: state.tenant,
        created_ms: state.created_ms,
        versioning: versioning.to_owned(),
        object_lock: state.object_lock.is_some(),
        used_bytes: usage.bytes,
        objects: usage.objects,
        quota_bytes: quota.bytes,
        quota_objects: quota.objects,
    }
}

fn check_name(what: &str, name: &str) -> Result<(), AdminError> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '@' | '-');
    if (1..=64).contains(&name.len()) && name.chars().all(good) {
        return Ok(());
    }
    Err(AdminError::Invalid(format!("the name of a {what} has 1 to 64 characters of A-Z a-z 0-9 . _ @ -")))
}

fn check_access(access: &[BucketAccess]) -> Result<(), AdminError> {
    if access.len() > User::ACCESS_MAX {
        return Err(AdminError::Invalid(format!(
            "a user reaches at most {} buckets by name",
            User::ACCESS_MAX
        )));
    }
    for BucketAccess { bucket, .. } in access {
        let name = bucket.strip_suffix('*').unwrap_or(bucket);
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-');
        if bucket.is_empty() || bucket.len() > 64 || !name.chars().all(good) {
            return Err(AdminError::Invalid(format!(
                "{bucket:?} is not the name of a bucket; * at its end stands for any rest"
            )));
        }
    }
    Ok(())
}

fn random<const N: usize>() -> Result<[u8; N], AdminError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| AdminError::NoRandom)?;
    Ok(bytes)
}

fn random_key_id() -> Result<String, AdminError> {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let bytes: [u8; KEY_ID_LEN] = random()?;
    let mut id: String = bytes.iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)])).collect();
    id.replace_range(..2, "HF");
    Ok(id)
}

fn random_secret() -> Result<String, AdminError> {
    use base64::Engine as _;
    let bytes: [u8; SECRET_LEN] = random()?;
    Ok(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes))
}
