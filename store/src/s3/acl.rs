//! Access lists between the protocol and the store.

use s3s::dto::{self, AccessControlPolicy, Owner, Type};
use s3s::{S3Result, s3_error};

use super::owner_of;
use crate::access::{Acl, Canned, Grant, Grantee, Ownership, Permission, PublicAccessBlock};
use crate::bucket::BucketState;
use crate::index::{Lookup, Tables, View, decode};
use crate::keys;

/// What a request says about access, in one of three ways.
#[derive(Default)]
pub(super) struct Asked {
    /// By a name.
    pub(super) canned: Option<String>,
    /// By `x-amz-grant-*`.
    pub(super) grants: Vec<(Permission, String)>,
    /// By a document.
    pub(super) policy: Option<AccessControlPolicy>,
}

/// Gathers the fields of a request that say something about access.
macro_rules! asked_acl {
    ($input:expr, $write:expr) => {{
        use $crate::access::Permission;
        let grants = [
            (Permission::Read, $input.grant_read.take()),
            (Permission::Write, $write),
            (Permission::ReadAcp, $input.grant_read_acp.take()),
            (Permission::WriteAcp, $input.grant_write_acp.take()),
            (Permission::FullControl, $input.grant_full_control.take()),
        ];
        $crate::s3::acl::Asked {
            canned: $input.acl.take().map(|acl| acl.as_str().to_owned()),
            grants: grants.into_iter().filter_map(|(p, text)| text.map(|text| (p, text))).collect(),
            policy: None,
        }
    }};
}
pub(super) use asked_acl;

/// What a request that changes an access list says; it must say something.
macro_rules! asked_change {
    ($input:expr) => {{
        let grant_write = $input.grant_write.take();
        let mut asked = $crate::s3::acl::asked_acl!($input, grant_write);
        asked.policy = $input.access_control_policy.take();
        if asked.is_empty() {
            return Err(s3_error!(MissingSecurityHeader, "The request says nothing about access"));
        }
        asked
    }};
}
pub(super) use asked_change;

impl Asked {
    /// Whether it says what is the case anyway where access lists are disabled.
    pub(super) fn goes_without_saying(&self) -> bool {
        self.is_empty() || self.canned.as_deref() == Some("bucket-owner-full-control")
    }

    /// Whether it grants something by headers.
    pub(super) fn grants_any(&self) -> bool {
        !self.grants.is_empty()
    }

    /// Whether it says anything.
    pub(super) fn is_empty(&self) -> bool {
        self.canned.is_none() && self.grants.is_empty() && self.policy.is_none()
    }

    /// The list for something of `owner`, whose bucket is `bucket_owner`'s. `None`: the owner's alone.
    pub(super) fn read(self, view: &View, owner: &str, bucket_owner: &str) -> S3Result<Option<Acl>> {
        let ways = usize::from(self.canned.is_some())
            + usize::from(!self.grants.is_empty())
            + usize::from(self.policy.is_some());
        if ways > 1 {
            return Err(s3_error!(
                InvalidRequest,
                "Access is given by a name, by grants or by a list: by one of them"
            ));
        }
        if let Some(name) = self.canned {
            let canned = Canned::parse(&name)
                .ok_or_else(|| s3_error!(InvalidArgument, "There is no access list of the name {name}"))?;
            return Ok(canned.acl(owner, bucket_owner));
        }
        if let Some(policy) = self.policy {
            return of_document(view, policy, owner).map(Some);
        }
        if self.grants.is_empty() {
            return Ok(None);
        }
        let mut acl = Acl::default();
        for (permission, text) in self.grants {
            for grantee in text.split(',') {
                let (kind, value) = grantee.trim().split_once('=').ok_or_else(|| {
                    s3_error!(InvalidArgument, "A grantee is id=\"…\", uri=\"…\" or emailAddress=\"…\"")
                })?;
                let value = value.trim_matches('"');
                let grantee = match kind.trim() {
                    "id" => user(view, value)?,
                    "uri" => group(value)?,
                    "emailAddress" => by_email(view, value)?,
                    _ => return Err(s3_error!(InvalidArgument, "A grantee has no {kind}")),
                };
                acl.grants.push(Grant { grantee, permission });
            }
        }
        bounded(acl).map(Some)
    }
}

fn bounded(acl: Acl) -> S3Result<Acl> {
    if acl.grants.len() > Acl::GRANTS_MAX {
        return Err(s3_error!(MalformedACLError, "An access list has at most {} grants", Acl::GRANTS_MAX));
    }
    Ok(acl)
}

fn of_document(view: &View, policy: AccessControlPolicy, owner: &str) -> S3Result<Acl> {
    let said = policy.owner.and_then(|owner| owner.id);
    if said.is_some_and(|said| said != super::answer::shown_id(owner)) {
        return Err(s3_error!(AccessDenied, "An access list does not change the owner"));
    }
    let malformed = || s3_error!(MalformedACLError, "A grant has a grantee and a permission");
    let mut acl = Acl::default();
    for grant in policy.grants.unwrap_or_default() {
        let grantee = grant.grantee.ok_or_else(malformed)?;
        let permission = grant.permission.ok_or_else(malformed)?;
        let permission = Permission::parse(permission.as_str()).ok_or_else(malformed)?;
        let grantee = match grantee.type_.as_str() {
            Type::CANONICAL_USER => user(view, &grantee.id.ok_or_else(malformed)?)?,
            Type::GROUP => group(&grantee.uri.ok_or_else(malformed)?)?,
            Type::AMAZON_CUSTOMER_BY_EMAIL => by_email(view, &grantee.email_address.ok_or_else(malformed)?)?,
            _ => return Err(malformed()),
        };
        acl.grants.push(Grant { grantee, permission });
    }
    bounded(acl)
}

fn user(view: &View, id: &str) -> S3Result<Grantee> {
    let id = super::answer::stored_id(id);
    if id.is_empty() || view.user(id)?.is_some() {
        return Ok(Grantee::User(id.to_owned()));
    }
    Err(s3_error!(InvalidArgument, "There is no user {id}"))
}

fn group(uri: &str) -> S3Result<Grantee> {
    Grantee::group(uri).ok_or_else(|| s3_error!(InvalidArgument, "There is no group {uri}"))
}

fn by_email(view: &View, email: &str) -> S3Result<Grantee> {
    let end = keys::after_prefix(keys::USERS);
    for entry in view.scan(keys::USERS, end.as_deref()) {
        let (key, value) = entry?;
        let user: crate::access::User = decode("user", &key, &value)?;
        if user.email.as_deref() == Some(email) {
            return Ok(Grantee::User(user.name));
        }
    }
    Err(s3_error!(UnresolvableGrantByEmailAddress, "No user has that address"))
}

/// Refuses an access list that the bucket does not take. `asked`: the request says more than goes without
/// saying.
pub(super) fn permit(bucket: &BucketState, acl: Option<&Acl>, asked: bool) -> S3Result<()> {
    if asked && bucket.ownership == Some(Ownership::BucketOwnerEnforced) {
        return Err(s3_error!(AccessControlListNotSupported, "The bucket does not allow access lists"));
    }
    let block = bucket.block.unwrap_or_default();
    if block.block_acls && acl.is_some_and(Acl::is_public) {
        return Err(s3_error!(AccessDenied, "The bucket blocks public access lists"));
    }
    Ok(())
}

/// The list as the protocol shows it.
pub(super) fn shown(view: &View, acl: Option<&Acl>, owner: &str) -> S3Result<(Owner, Vec<dto::Grant>)> {
    let private = Acl::private(owner);
    let acl = acl.unwrap_or(&private);
    let mut grants = Vec::new();
    // Groups come first: what the whole world may do is what a reader looks for.
    let (groups, users): (Vec<_>, Vec<_>) =
        acl.grants.iter().partition(|grant| !matches!(grant.grantee, Grantee::User(_)));
    for grant in groups.into_iter().chain(users) {
        let grantee = match &grant.grantee {
            Grantee::User(id) => {
                let Owner { display_name, id } = owner_of(view, id)?;
                dto::Grantee {
                    display_name,
                    id,
                    email_address: None,
                    type_: Type::from_static(Type::CANONICAL_USER),
                    uri: None,
                }
            }
            group => dto::Grantee {
                display_name: None,
                id: None,
                email_address: None,
                type_: Type::from_static(Type::GROUP),
                uri: group.uri().map(str::to_owned),
            },
        };
        let permission = dto::Permission::from_static(grant.permission.name());
        grants.push(dto::Grant { grantee: Some(grantee), permission: Some(permission) });
    }
    Ok((owner_of(view, owner)?, grants))
}

/// How far public access is blocked, as the protocol shows it.
pub(super) fn shown_block(block: PublicAccessBlock) -> dto::PublicAccessBlockConfiguration {
    dto::PublicAccessBlockConfiguration {
        block_public_acls: Some(block.block_acls),
        ignore_public_acls: Some(block.ignore_acls),
        block_public_policy: Some(block.block_policy),
        restrict_public_buckets: Some(block.restrict_buckets),
    }
}
