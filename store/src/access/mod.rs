//! Who may do what: users, access lists, bucket policies, and the one decision that joins them.
//!
//! ```text
//!   root user                                                     -> yes
//!   the bucket's policy denies                                    -> no
//!   an anonymous or foreign request, and public access is blocked -> what is public does not count
//!   owner of the bucket (or of the object, for its access list)   -> yes
//!   the bucket's policy allows                                    -> yes
//!   the user's bucket access covers it                            -> yes
//!   an access list grants it, and access lists are not disabled   -> yes
//!   else                                                          -> no
//! ```
//!
//! Pure: it reads no index and no clock. The order is that of "How Amazon S3 authorizes a request" in the
//! Amazon S3 user guide, with the users' bucket access in the place of identity policies.

mod acl;
mod action;
mod policy;
mod user;

pub use self::acl::{Acl, Canned, Grant, Grantee, Permission};
pub use self::action::Action;
pub use self::policy::{BadPolicy, Context, Effect, Policy, Verdict};
pub use self::user::{AccessKey, BucketAccess, Reach, User};

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// The root user of the configuration.
    Root,
    /// A user of the store.
    User(std::sync::Arc<User>),
    /// Nobody said who.
    Anonymous,
}

impl Who {
    /// The id under which this one owns things: the user's name; empty for the root user; `None` for
    /// nobody.
    pub fn id(&self) -> Option<&str> {
        match self {
            Who::Root => Some(""),
            Who::User(user) => Some(&user.name),
            Who::Anonymous => None,
        }
    }

    /// The tenant that this one belongs to.
    pub fn tenant(&self) -> Option<&str> {
        match self {
            Who::User(user) => user.tenant.as_deref(),
            Who::Root | Who::Anonymous => None,
        }
    }
}

/// How far public access to a bucket is blocked, whatever policy and access lists say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PublicAccessBlock {
    /// Refuse access lists that make something public.
    pub block_acls: bool,
    /// Let no access list that makes something public count.
    pub ignore_acls: bool,
    /// Refuse policies that make the bucket public.
    pub block_policy: bool,
    /// Let a public policy count for the bucket's owner only.
    pub restrict_buckets: bool,
}

/// Who owns what is put into a bucket, and whether access lists count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Ownership {
    /// The bucket's owner; access lists are disabled.
    BucketOwnerEnforced,
    /// The bucket's owner, where the writer grants full control by `bucket-owner-full-control`.
    BucketOwnerPreferred,
    /// Who wrote it.
    #[default]
    ObjectWriter,
}

/// What is asked for, with all that the decision depends on.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// By whom.
    pub who: &'a Who,
    /// What.
    pub action: Action,
    /// In which bucket.
    pub bucket: &'a str,
    /// The bucket's owner.
    pub bucket_owner: &'a str,
    /// The bucket's tenant.
    pub bucket_tenant: Option<&'a str>,
    /// The bucket's policy.
    pub policy: Option<&'a Policy>,
    /// The bucket's access list; `None`: its owner's alone.
    pub bucket_acl: Option<&'a Acl>,
    /// How far public access is blocked.
    pub block: PublicAccessBlock,
    /// Whether access lists count.
    pub ownership: Ownership,
    /// Which key.
    pub key: Option<&'a str>,
    /// The object, where there is one: its owner and access list.
    pub object: Option<(&'a str, Option<&'a Acl>)>,
    /// What the policy's conditions look at.
    pub context: &'a Context,
}

/// Whether it is allowed.
pub fn allows(question: &Question<'_>) -> bool {
    let Question { who, action, .. } = question;
    if matches!(who, Who::Root) {
        return true;
    }
    let id = who.id();
    let owns_bucket = id == Some(question.bucket_owner);
    if let Some(policy) = question.policy {
        let public_counts = !question.block.restrict_buckets || owns_bucket || !policy.is_public();
        match policy.judge(who, action.name(), question.bucket, question.key, question.context) {
            // The owner can always look at, replace and remove the policy: nobody locks himself out.
            Verdict::Denied if owns_bucket && action.concerns_policy() => {}
            Verdict::Denied => return false,
            Verdict::Allowed if public_counts => return true,
            Verdict::Allowed | Verdict::Silent => {}
        }
    }
    // The owner of a bucket reigns over all of it but the objects that others own.
    let foreign_object = match question.object {
        Some((owner, _)) => {
            question.ownership != Ownership::BucketOwnerEnforced && owner != question.bucket_owner
        }
        None => false,
    };
    if owns_bucket && !(foreign_object && (action.reads_object() || action.is_acl_of_object())) {
        return true;
    }
    if let (Some(id), Some((owner, _))) = (id, question.object)
        && id == owner
        && question.ownership != Ownership::BucketOwnerEnforced
        && (action.reads_object() || action.is_acl_of_object())
    {
        return true;
    }
    if let Who::User(user) = who
        && user.reaches(question.bucket, question.bucket_tenant, *action)
    {
        return true;
    }
    if question.ownership == Ownership::BucketOwnerEnforced {
        return false;
    }
    let grants = |acl: Option<&Acl>, permission| {
        acl.is_some_and(|acl| acl.grants(id, permission, !question.block.ignore_acls))
    };
    match action.acl_permission() {
        Some(action::Asks::Bucket(permission)) => grants(question.bucket_acl, permission),
        Some(action::Asks::Object(permission)) => match question.object {
            Some((_, acl)) => grants(acl, permission),
            // Whether the key exists shows only to who may list the bucket; the answer comes later.
            None => grants(question.bucket_acl, Permission::Read),
        },
        None => false,
    }
}

#[cfg(test)]
mod tests;
