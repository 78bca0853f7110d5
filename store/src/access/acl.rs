//! Access lists: who else may use a bucket or an object.

use serde::{Deserialize, Serialize};

/// What a grant allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are those of the protocol")]
pub enum Permission {
    FullControl,
    Read,
    Write,
    ReadAcp,
    WriteAcp,
}

impl Permission {
    /// As the protocol writes it.
    pub fn name(self) -> &'static str {
        match self {
            Permission::FullControl => "FULL_CONTROL",
            Permission::Read => "READ",
            Permission::Write => "WRITE",
            Permission::ReadAcp => "READ_ACP",
            Permission::WriteAcp => "WRITE_ACP",
        }
    }

    /// Reads the protocol's name.
    pub fn parse(name: &str) -> Option<Permission> {
        use Permission::{FullControl, Read, ReadAcp, Write, WriteAcp};
        [FullControl, Read, Write, ReadAcp, WriteAcp].into_iter().find(|p| p.name() == name)
    }
}

/// To whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Grantee {
    /// One user, by id.
    User(String),
    /// Everybody, anonymous requests included.
    AllUsers,
    /// Every user.
    AuthenticatedUsers,
}

impl Grantee {
    /// The group's URI.
    pub fn uri(&self) -> Option<&'static str> {
        match self {
            Grantee::User(_) => None,
            Grantee::AllUsers => Some("http://acs.amazonaws.com/groups/global/AllUsers"),
            Grantee::AuthenticatedUsers => Some("http://acs.amazonaws.com/groups/global/AuthenticatedUsers"),
        }
    }

    /// The group of that URI.
    pub fn group(uri: &str) -> Option<Grantee> {
        [Grantee::AllUsers, Grantee::AuthenticatedUsers].into_iter().find(|group| group.uri() == Some(uri))
    }

    fn is_public(&self) -> bool {
        !matches!(self, Grantee::User(_))
    }

    fn covers(&self, id: Option<&str>) -> bool {
        match self {
            Grantee::User(user) => id == Some(user),
            Grantee::AllUsers => true,
            Grantee::AuthenticatedUsers => id.is_some(),
        }
    }
}

/// One line of an access list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// To whom.
    pub grantee: Grantee,
    /// What.
    pub permission: Permission,
}

/// An access list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acl {
    /// In the order in which they were given.
    pub grants: Vec<Grant>,
}

impl Acl {
    /// The most grants of one list, as S3 has it.
    pub const GRANTS_MAX: usize = 100;

    /// The list of an owner alone.
    pub fn private(owner: &str) -> Acl {
        let grantee = Grantee::User(owner.to_owned());
        Acl { grants: vec![Grant { grantee, permission: Permission::FullControl }] }
    }

    /// Whether it grants `permission` to this one (`None`: anonymous); grants to groups count only with
    /// `public`.
    pub fn grants(&self, id: Option<&str>, permission: Permission, public: bool) -> bool {
        self.grants.iter().any(|grant| {
            (grant.permission == permission || grant.permission == Permission::FullControl)
                && grant.grantee.covers(id)
                && (public || !grant.grantee.is_public())
        })
    }

    /// Whether it grants anything to a group.
    pub fn is_public(&self) -> bool {
        self.grants.iter().any(|grant| grant.grantee.is_public())
    }
}

/// The lists that have a name in the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the protocol")]
pub enum Canned {
    Private,
    PublicRead,
    PublicReadWrite,
    AuthenticatedRead,
    BucketOwnerRead,
    BucketOwnerFullControl,
}

impl Canned {
    /// Reads the protocol's name.
    pub fn parse(name: &str) -> Option<Canned> {
        Some(match name {
            "private" => Canned::Private,
            "public-read" => Canned::PublicRead,
            "public-read-write" => Canned::PublicReadWrite,
            "authenticated-read" => Canned::AuthenticatedRead,
            "bucket-owner-read" => Canned::BucketOwnerRead,
            "bucket-owner-full-control" => Canned::BucketOwnerFullControl,
            _ => return None,
        })
    }

    /// The list for something of `owner` in a bucket of `bucket_owner`; `None` for the owner's alone.
    pub fn acl(self, owner: &str, bucket_owner: &str) -> Option<Acl> {
        let to = |grantee, permission| Grant { grantee, permission };
        let bucket_owner = |permission| {
            let other = bucket_owner != owner;
            other.then(|| to(Grantee::User(bucket_owner.to_owned()), permission)).into_iter().collect()
        };
        let more: Vec<Grant> = match self {
            Canned::Private => return None,
            Canned::PublicRead => vec![to(Grantee::AllUsers, Permission::Read)],
            Canned::PublicReadWrite => {
                vec![to(Grantee::AllUsers, Permission::Read), to(Grantee::AllUsers, Permission::Write)]
            }
            Canned::AuthenticatedRead => vec![to(Grantee::AuthenticatedUsers, Permission::Read)],
            Canned::BucketOwnerRead => bucket_owner(Permission::Read),
            Canned::BucketOwnerFullControl => bucket_owner(Permission::FullControl),
        };
        let mut acl = Acl::private(owner);
        acl.grants.extend(more);
        Some(acl)
    }
}
