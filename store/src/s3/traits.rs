//! What a write says beside its bytes, from the fields that the library parsed to what is stored.

use s3s::dto::{Metadata, ObjectLockLegalHoldStatus, ObjectLockMode, Timestamp};
use s3s::{S3Result, s3_error};

use super::acl::{self, Asked};
use super::encryption::Wish;
use super::{Store, wall_ms};
use crate::access::{Canned, Ownership, Who};
use crate::bucket::BucketState;
use crate::index::View;
use crate::object::{Lock, Meta, Retention, RetentionMode, Tag, Traits};
use crate::seal::Key;

/// The most bytes of user metadata, names and values together, as S3 has it.
const USER_META_MAX: usize = 2048;

/// The most tags of an object, the longest key and the longest value in characters, as S3 has it.
const TAGS_MAX: (usize, usize, usize) = (10, 128, 256);

/// The most tags of a bucket, as S3 has it.
const BUCKET_TAGS_MAX: usize = 50;

/// What a write says beside its bytes.
pub(super) struct Asks {
    pub(super) who: Who,
    pub(super) meta: Meta,
    pub(super) tags: Vec<Tag>,
    pub(super) lock: Lock,
    pub(super) acl: Asked,
    pub(super) encryption: Wish,
}

/// The fields of a request that become [`Asks`].
macro_rules! asks_of {
    ($who:expr, $headers:expr, $input:expr) => {
        $crate::s3::traits::Asks {
            who: $who,
            meta: $crate::s3::traits::meta_of!($input)?,
            tags: $crate::s3::traits::tags_of_header($input.tagging.as_deref())?,
            lock: $crate::s3::traits::lock(
                $input.object_lock_mode.take(),
                $input.object_lock_retain_until_date.take(),
                $input.object_lock_legal_hold_status.take(),
            )?,
            // The library passes over this header of an object: it means something for a bucket only.
            acl: $crate::s3::acl::asked_acl!(
                $input,
                $headers.get("x-amz-grant-write").and_then(|v| v.to_str().ok()).map(str::to_owned)
            ),
            encryption: $crate::s3::encryption::wish_of!($input)?,
        }
    };
}
pub(super) use asks_of;

/// The metadata that a request carries, given the fields that the library parsed.
macro_rules! meta_of {
    ($input:expr) => {
        $crate::s3::traits::meta(
            $input.metadata.take(),
            $crate::object::Meta {
                content_type: $input.content_type.take(),
                content_encoding: $input.content_encoding.take(),
                content_language: $input.content_language.take(),
                content_disposition: $input.content_disposition.take(),
                cache_control: $input.cache_control.take(),
                expires_s: $input.expires.take().map(|t| time::OffsetDateTime::from(t).unix_timestamp()),
                website_redirect: $input.website_redirect_location.take(),
                user: Vec::new(),
            },
        )
    };
}
pub(super) use meta_of;

impl Asks {
    /// What is stored, and the key that the bytes are sealed with.
    pub(super) fn settle(
        self,
        store: &Store,
        view: &View,
        bucket: &BucketState,
    ) -> S3Result<(Traits, Option<Key>)> {
        let preferred = bucket.ownership == Some(Ownership::BucketOwnerPreferred)
            && self.acl.canned.as_deref().and_then(Canned::parse) == Some(Canned::BucketOwnerFullControl);
        let enforced = bucket.ownership == Some(Ownership::BucketOwnerEnforced);
        let owner = match self.who.id() {
            Some(id) if !preferred && !enforced => id.to_owned(),
            // What nobody signed for is the bucket owner's.
            _ => bucket.owner.clone(),
        };
        let asked = !self.acl.goes_without_saying();
        let list = self.acl.read(view, &owner, &bucket.owner)?;
        acl::permit(bucket, list.as_ref(), asked)?;
        let (key, encryption) = self.encryption.settle(store, bucket)?.unzip();
        let Asks { meta, tags, lock, .. } = self;
        Ok((Traits { owner, meta, tags, lock, acl: list.filter(|_| !enforced), encryption }, key))
    }
}

pub(super) fn meta(user: Option<Metadata>, mut meta: Meta) -> S3Result<Meta> {
    meta.user = user.unwrap_or_default().into_iter().collect();
    meta.user.sort();
    if meta.user.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > USER_META_MAX {
        return Err(s3_error!(MetadataTooLarge, "User metadata is limited to {USER_META_MAX} bytes"));
    }
    // The chunked framing is gone by now; the rest says how the object itself is encoded.
    meta.content_encoding = meta.content_encoding.and_then(|all| {
        let kept: Vec<_> = all.split(',').map(str::trim).filter(|e| *e != "aws-chunked").collect();
        (!kept.is_empty()).then(|| kept.join(", "))
    });
    Ok(meta)
}

/// Reads `x-amz-tagging`.
pub(super) fn tags_of_header(text: Option<&str>) -> S3Result<Vec<Tag>> {
    let pairs = form_urlencoded::parse(text.unwrap_or_default().as_bytes());
    checked_tags(pairs.into_owned().collect(), TAGS_MAX.0)
}

fn tags_of_document(tags: Vec<s3s::dto::Tag>, most: usize) -> S3Result<Vec<Tag>> {
    let whole = |tag: s3s::dto::Tag| {
        let key = tag.key.ok_or_else(|| s3_error!(MalformedXML, "A tag has no key"))?;
        Ok((key, tag.value.unwrap_or_default()))
    };
    checked_tags(tags.into_iter().map(whole).collect::<S3Result<_>>()?, most)
}

/// Reads a document of an object's tags.
pub(super) fn tags_of_object(tags: Vec<s3s::dto::Tag>) -> S3Result<Vec<Tag>> {
    tags_of_document(tags, TAGS_MAX.0)
}

/// Reads a document of a bucket's tags.
pub(super) fn tags_of_bucket(tags: Vec<s3s::dto::Tag>) -> S3Result<Vec<Tag>> {
    tags_of_document(tags, BUCKET_TAGS_MAX)
}

fn checked_tags(tags: Vec<Tag>, most: usize) -> S3Result<Vec<Tag>> {
    let (_, key_max, value_max) = TAGS_MAX;
    if tags.len() > most {
        return Err(s3_error!(InvalidTag, "There may be at most {most} tags"));
    }
    for (at, (key, value)) in tags.iter().enumerate() {
        if key.is_empty() || key.chars().count() > key_max || value.chars().count() > value_max {
            return Err(s3_error!(
                InvalidTag,
                "A tag's key has 1 to {key_max} characters and its value at most {value_max}"
            ));
        }
        if tags[..at].iter().any(|(other, _)| other == key) {
            return Err(s3_error!(InvalidTag, "The tag {key} is there twice"));
        }
    }
    let mut tags = tags;
    tags.sort();
    Ok(tags)
}

/// Tags as the protocol shows them.
pub(super) fn shown_tags(tags: &[Tag]) -> Vec<s3s::dto::Tag> {
    let one = |(key, value): &Tag| s3s::dto::Tag { key: Some(key.clone()), value: Some(value.clone()) };
    tags.iter().map(one).collect()
}

pub(super) fn milliseconds(time: &Timestamp) -> u64 {
    let nanos = time::OffsetDateTime::from(time.clone()).unix_timestamp_nanos();
    u64::try_from(nanos / 1_000_000).unwrap_or(0)
}

pub(super) fn retention_mode(text: &str) -> S3Result<RetentionMode> {
    match text {
        ObjectLockMode::GOVERNANCE => Ok(RetentionMode::Governance),
        ObjectLockMode::COMPLIANCE => Ok(RetentionMode::Compliance),
        _ => Err(s3_error!(MalformedXML, "A retention is GOVERNANCE or COMPLIANCE")),
    }
}

pub(super) fn retention_mode_name(mode: RetentionMode) -> &'static str {
    match mode {
        RetentionMode::Governance => ObjectLockMode::GOVERNANCE,
        RetentionMode::Compliance => ObjectLockMode::COMPLIANCE,
    }
}

/// A retention; its end must lie ahead.
pub(super) fn retention(mode: &str, until: &Timestamp) -> S3Result<Retention> {
    let retention = Retention { mode: retention_mode(mode)?, until_ms: milliseconds(until) };
    if retention.until_ms <= wall_ms() {
        return Err(s3_error!(InvalidArgument, "A retention ends in the future"));
    }
    Ok(retention)
}

pub(super) fn lock(
    mode: Option<ObjectLockMode>,
    until: Option<Timestamp>,
    legal_hold: Option<ObjectLockLegalHoldStatus>,
) -> S3Result<Lock> {
    let retention = match (mode, until) {
        (None, None) => None,
        (Some(mode), Some(until)) => {
            retention_mode(mode.as_str())
                .map_err(|_| s3_error!(InvalidArgument, "A retention is GOVERNANCE or COMPLIANCE"))?;
            Some(retention(mode.as_str(), &until)?)
        }
        _ => return Err(s3_error!(InvalidArgument, "A retention has a mode and a date")),
    };
    let legal_hold = match legal_hold.as_ref().map(ObjectLockLegalHoldStatus::as_str) {
        None | Some(ObjectLockLegalHoldStatus::OFF) => false,
        Some(ObjectLockLegalHoldStatus::ON) => true,
        Some(_) => return Err(s3_error!(InvalidArgument, "A legal hold is ON or OFF")),
    };
    Ok(Lock { retention, legal_hold })
}
