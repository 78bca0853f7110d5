//! What a bucket is besides its objects, and the settings that can be changed.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::access::{Acl, Ownership, PublicAccessBlock};
use crate::object::{Retention, RetentionMode};

/// Whether former versions are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Versioning {
    /// Never were.
    #[default]
    Off,
    /// They are.
    Enabled,
    /// They were, and those that exist stay.
    Suspended,
}

/// The retention that a version gets when it comes without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefaultRetention {
    /// How strictly it binds.
    pub mode: RetentionMode,
    /// For how many days.
    pub days: u32,
    /// Whether it was given in years of 365 days, as which it is shown again.
    pub in_years: bool,
}

impl DefaultRetention {
    /// Days in a year of a retention.
    pub const YEAR: u32 = 365;

    /// The retention of a version that was stored at `wall_ms`.
    pub fn from(&self, wall_ms: u64) -> Retention {
        let ms = u64::from(self.days).saturating_mul(24 * 3600 * 1000);
        Retention { mode: self.mode, until_ms: wall_ms.saturating_add(ms) }
    }
}

/// Object lock, where it is enabled. It can not be disabled again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectLock {
    /// What versions get that come without a retention.
    pub default: Option<DefaultRetention>,
}

/// How much a bucket may hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// Bytes of all versions together.
    pub bytes: Option<u64>,
    /// Versions, each object being one at least.
    pub objects: Option<u64>,
}

/// How much a bucket holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Bytes of all versions together.
    pub bytes: u64,
    /// Versions that have bytes: not the delete markers.
    pub objects: u64,
}

/// A setting that is kept as the text that it was given as, because only the endpoint reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Document {
    /// The bucket's policy, JSON.
    Policy,
    /// CORS rules, XML.
    Cors,
    /// Lifecycle rules, XML.
    Lifecycle,
    /// Tags, XML.
    Tagging,
    /// Where events go, XML.
    Notification,
    /// How objects are encrypted that do not say, XML.
    Encryption,
}

impl Document {
    /// The byte that stands for it in a key of the index.
    pub fn letter(self) -> u8 {
        match self {
            Document::Policy => b'p',
            Document::Cors => b'c',
            Document::Lifecycle => b'l',
            Document::Tagging => b't',
            Document::Notification => b'n',
            Document::Encryption => b'e',
        }
    }
}

/// A change of a bucket's settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Setting {
    /// Who else may use it; `None`: the owner alone.
    Acl(Option<Acl>),
    /// Who owns what is put into it; `None`: as if it had never been said.
    Ownership(Option<Ownership>),
    /// Keep versions from now on, or no longer.
    Versioning {
        /// Whether to.
        enabled: bool,
    },
    /// Object lock and its default; enabling it needs versions.
    ObjectLock(Option<DefaultRetention>),
    /// How far public access is blocked.
    PublicAccessBlock(Option<PublicAccessBlock>),
    /// How much it may hold. What it holds already stays.
    Quota(Option<Quota>),
    /// Another owner.
    Owner {
        /// The user's name; empty for the root user.
        owner: String,
        /// The tenant whose it is.
        tenant: Option<String>,
    },
    /// A text; `None` removes it.
    Document(Document, Option<String>),
}

/// A bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketState {
    /// When it was created, in milliseconds since 1970.
    pub created_ms: u64,
    /// Whose it is: a user's name; empty for the root user.
    pub owner: String,
    /// The tenant whose it is.
    pub tenant: Option<String>,
    /// Who else may use it; `None`: the owner alone.
    pub acl: Option<Acl>,
    /// Who owns what is put into it, where that was said.
    pub ownership: Option<Ownership>,
    /// Whether former versions are kept.
    pub versioning: Versioning,
    /// Object lock, where it is enabled.
    pub object_lock: Option<ObjectLock>,
    /// How far public access is blocked, where that was said.
    pub block: Option<PublicAccessBlock>,
    /// How much it may hold.
    pub quota: Option<Quota>,
    /// Which texts exist, so that a request looks for no others.
    pub documents: BTreeSet<Document>,
}
