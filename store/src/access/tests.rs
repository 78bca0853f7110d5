use std::sync::Arc;

use super::*;

pub(super) fn user(name: &str) -> User {
    User {
        name: name.into(),
        description: String::new(),
        display_name: name.into(),
        email: None,
        tenant: None,
        creates_buckets: false,
        enabled: true,
        bucket_access: vec![],
        keys: vec![],
        created_ms: 0,
    }
}

fn who(user: User) -> Who {
    Who::User(Arc::new(user))
}

/// Asks about the key `k` in the bucket `b` of `ann`, the object being of `owner`.
struct Case<'a> {
    policy: Option<Policy>,
    bucket_acl: Option<Acl>,
    object: Option<(&'a str, Option<Acl>)>,
    block: PublicAccessBlock,
    ownership: Ownership,
    tenant: Option<&'a str>,
}

impl Default for Case<'_> {
    fn default() -> Self {
        Case {
            policy: None,
            bucket_acl: None,
            object: Some(("ann", None)),
            block: PublicAccessBlock::default(),
            ownership: Ownership::default(),
            tenant: None,
        }
    }
}

impl Case<'_> {
    fn allows(&self, who: &Who, action: Action) -> bool {
        allows(&Question {
            who,
            action,
            bucket: "b",
            bucket_owner: "ann",
            bucket_tenant: self.tenant,
            policy: self.policy.as_ref(),
            bucket_acl: self.bucket_acl.as_ref(),
            block: self.block,
            ownership: self.ownership,
            key: Some("k"),
            object: self.object.as_ref().map(|(owner, acl)| (*owner, acl.as_ref())),
            context: &Context::default(),
        })
    }
}

fn policy(effect: &str, action: &str) -> Option<Policy> {
    let text = format!(
        r#"{{"Statement":{{"Effect":"{effect}","Principal":"*","Action":"{action}","Resource":["arn:aws:s3:::b","arn:aws:s3:::b/*"]}}}}"#
    );
    Some(Policy::parse(&text, "b").unwrap())
}

#[test]
fn without_any_grant_only_the_owner_and_root_may() {
    let case = Case::default();
    assert!(case.allows(&Who::Root, Action::PutObject));
    assert!(case.allows(&who(user("ann")), Action::PutObject));
    assert!(!case.allows(&who(user("bob")), Action::GetObject));
    assert!(!case.allows(&Who::Anonymous, Action::GetObject));
}

#[test]
fn bucket_access_reaches_as_far_as_it_says() {
    let mut reader = user("bob");
    reader.bucket_access = vec![BucketAccess { bucket: "b".into(), permission: Reach::Read }];
    let mut writer = user("carl");
    writer.bucket_access = vec![BucketAccess { bucket: "*".into(), permission: Reach::Write }];
    let case = Case::default();
    for (action, reads, writes) in [
        (Action::GetObject, true, false),
        (Action::ListBucket, true, false),
        (Action::PutObject, false, true),
        (Action::DeleteObject, false, true),
        (Action::PutBucketPolicy, false, false),
        (Action::DeleteBucket, false, false),
    ] {
        assert_eq!(case.allows(&who(reader.clone()), action), reads, "{action:?}");
        assert_eq!(case.allows(&who(writer.clone()), action), writes, "{action:?}");
    }
}

#[test]
fn a_tenants_user_reaches_no_other_tenants_bucket() {
    let mut reader = user("bob");
    reader.tenant = Some("red".into());
    reader.bucket_access = vec![BucketAccess { bucket: "*".into(), permission: Reach::ReadWrite }];
    let who = who(reader);
    for (tenant, allowed) in [(Some("red"), true), (Some("blue"), false), (None, false)] {
        assert_eq!(Case { tenant, ..Case::default() }.allows(&who, Action::GetObject), allowed, "{tenant:?}");
    }
}

#[test]
fn a_denying_policy_binds_the_owner_but_does_not_lock_him_out() {
    let case = Case { policy: policy("Deny", "s3:*"), ..Case::default() };
    assert!(!case.allows(&who(user("ann")), Action::GetObject));
    assert!(case.allows(&who(user("ann")), Action::DeleteBucketPolicy));
    assert!(case.allows(&Who::Root, Action::GetObject));
}

#[test]
fn blocked_public_access_takes_public_policies_and_lists_their_force() {
    let open = Case { policy: policy("Allow", "s3:GetObject"), ..Case::default() };
    assert!(open.allows(&Who::Anonymous, Action::GetObject));
    let block = PublicAccessBlock { restrict_buckets: true, ..PublicAccessBlock::default() };
    let restricted = Case { block, ..open };
    assert!(!restricted.allows(&Who::Anonymous, Action::GetObject));
    let acl = Canned::PublicRead.acl("ann", "ann");
    let listed = Case { object: Some(("ann", acl)), ..Case::default() };
    assert!(listed.allows(&Who::Anonymous, Action::GetObject));
    assert!(!listed.allows(&Who::Anonymous, Action::PutObjectAcl));
    let block = PublicAccessBlock { ignore_acls: true, ..PublicAccessBlock::default() };
    assert!(!Case { block, ..listed }.allows(&Who::Anonymous, Action::GetObject));
}

#[test]
fn enforced_ownership_disables_access_lists() {
    let acl = Canned::PublicReadWrite.acl("ann", "ann");
    let case = Case { bucket_acl: acl.clone(), object: Some(("bob", acl)), ..Case::default() };
    assert!(case.allows(&Who::Anonymous, Action::PutObject));
    assert!(case.allows(&who(user("bob")), Action::GetObject));
    assert!(
        !Case { object: Some(("bob", None)), ..Case::default() }.allows(&who(user("ann")), Action::GetObject)
    );
    let enforced = Case { ownership: Ownership::BucketOwnerEnforced, ..case };
    assert!(!enforced.allows(&Who::Anonymous, Action::PutObject));
    assert!(!enforced.allows(&who(user("bob")), Action::GetObject));
    assert!(enforced.allows(&who(user("ann")), Action::GetObject));
}
