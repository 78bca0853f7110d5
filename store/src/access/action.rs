//! What can be asked for, by the names that policies use, and which permission of an access list or of a
//! user's bucket access covers it.

use super::acl::Permission;

/// On whose access list an action looks, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asks {
    Bucket(Permission),
    Object(Permission),
}

/// Which half of a user's bucket access covers an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Read,
    Write,
    /// Neither: the bucket's owner and its policy decide.
    Settings,
}

macro_rules! actions {
    ($($name:ident $side:ident $asks:expr;)*) => {
        /// An action, by the name that it has in policies (`s3:` in front).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "the names are those of the protocol")]
        pub enum Action { $($name),* }

        impl Action {
            /// All of them.
            pub const ALL: &[Action] = &[$(Action::$name),*];

            /// As policies name it.
            pub fn name(self) -> &'static str {
                match self { $(Action::$name => concat!("s3:", stringify!($name))),* }
            }

            pub(super) fn side(self) -> Side {
                match self { $(Action::$name => Side::$side),* }
            }

            pub(super) fn acl_permission(self) -> Option<Asks> {
                match self { $(Action::$name => $asks),* }
            }
        }
    };
}

use Asks::{Bucket, Object};
use Permission::{Read as R, ReadAcp as RA, Write as W, WriteAcp as WA};

actions! {
    ListAllMyBuckets Settings None;
    CreateBucket Settings None;
    DeleteBucket Settings None;
    ListBucket Read Some(Bucket(R));
    ListBucketVersions Read Some(Bucket(R));
    ListBucketMultipartUploads Read Some(Bucket(R));
    GetBucketLocation Read None;
    GetBucketAcl Settings Some(Bucket(RA));
    PutBucketAcl Settings Some(Bucket(WA));
    GetBucketPolicy Settings None;
    PutBucketPolicy Settings None;
    DeleteBucketPolicy Settings None;
    GetBucketPolicyStatus Settings None;
    GetBucketVersioning Settings None;
    PutBucketVersioning Settings None;
    GetBucketTagging Settings None;
    PutBucketTagging Settings None;
    GetBucketCORS Settings None;
    PutBucketCORS Settings None;
    GetLifecycleConfiguration Settings None;
    PutLifecycleConfiguration Settings None;
    GetBucketNotification Settings None;
    PutBucketNotification Settings None;
    GetBucketOwnershipControls Settings None;
    PutBucketOwnershipControls Settings None;
    GetBucketPublicAccessBlock Settings None;
    PutBucketPublicAccessBlock Settings None;
    GetEncryptionConfiguration Settings None;
    PutEncryptionConfiguration Settings None;
    GetBucketObjectLockConfiguration Settings None;
    PutBucketObjectLockConfiguration Settings None;
    GetObject Read Some(Object(R));
    GetObjectVersion Read Some(Object(R));
    GetObjectAttributes Read Some(Object(R));
    GetObjectVersionAttributes Read Some(Object(R));
    PutObject Write Some(Bucket(W));
    DeleteObject Write Some(Bucket(W));
    DeleteObjectVersion Write Some(Bucket(W));
    AbortMultipartUpload Write Some(Bucket(W));
    ListMultipartUploadParts Read Some(Bucket(W));
    GetObjectAcl Settings Some(Object(RA));
    GetObjectVersionAcl Settings Some(Object(RA));
    PutObjectAcl Settings Some(Object(WA));
    PutObjectVersionAcl Settings Some(Object(WA));
    GetObjectTagging Read Some(Object(R));
    GetObjectVersionTagging Read Some(Object(R));
    PutObjectTagging Write Some(Bucket(W));
    PutObjectVersionTagging Write Some(Bucket(W));
    DeleteObjectTagging Write Some(Bucket(W));
    DeleteObjectVersionTagging Write Some(Bucket(W));
    GetObjectRetention Read None;
    PutObjectRetention Settings None;
    GetObjectLegalHold Read None;
    PutObjectLegalHold Settings None;
    BypassGovernanceRetention Settings None;
}

impl Action {
    /// Whether it shows or changes the bucket's policy.
    pub(super) fn concerns_policy(self) -> bool {
        matches!(self, Action::GetBucketPolicy | Action::PutBucketPolicy | Action::DeleteBucketPolicy)
    }

    /// Whether it shows an object.
    pub(super) fn reads_object(self) -> bool {
        matches!(self.acl_permission(), Some(Object(Permission::Read)))
    }

    /// Whether it shows or changes an object's access list.
    pub(super) fn is_acl_of_object(self) -> bool {
        matches!(self.acl_permission(), Some(Object(Permission::ReadAcp | Permission::WriteAcp)))
    }
}
