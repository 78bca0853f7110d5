//! Buckets and their settings.

use super::{Done, Outcome, Staged, granted, refuse, uploads};
use crate::bucket::{BucketState, ObjectLock, Setting, Usage, Versioning};
use crate::index::{IndexError, Lookup, Tables, decode};
use crate::keys;
use crate::state::UploadState;

pub(super) fn create(
    state: &mut Staged<'_>,
    name: &str,
    owner: &str,
    tenant: Option<&str>,
    settings: &[Setting],
    wall_ms: u64,
) -> Done {
    if state.bucket(name)?.is_some() {
        refuse!(BucketExists);
    }
    let mut bucket = BucketState {
        created_ms: wall_ms,
        owner: owner.to_owned(),
        tenant: tenant.map(str::to_owned),
        ..BucketState::default()
    };
    let mut texts = Vec::new();
    for setting in settings {
        granted!(change(&mut bucket, setting, &mut texts));
    }
    write(state, name, &bucket, texts);
    Ok(Ok(Outcome::BucketCreated))
}

pub(super) fn set(state: &mut Staged<'_>, name: &str, setting: &Setting) -> Done {
    let Some(mut bucket) = state.bucket(name)? else { refuse!(NoSuchBucket) };
    let mut texts = Vec::new();
    granted!(change(&mut bucket, setting, &mut texts));
    write(state, name, &bucket, texts);
    Ok(Ok(Outcome::Changed))
}

/// Texts to write or remove beside the bucket itself.
type Texts<'a> = Vec<(crate::bucket::Document, Option<&'a String>)>;

fn write(state: &mut Staged<'_>, name: &str, bucket: &BucketState, texts: Texts<'_>) {
    for (document, text) in texts {
        let key = keys::document(name, document);
        match text {
            Some(text) => state.put_bytes(key, text.clone().into_bytes()),
            None => state.remove(key),
        }
    }
    state.put(keys::bucket(name), bucket);
}

fn change<'a>(
    bucket: &mut BucketState,
    setting: &'a Setting,
    texts: &mut Texts<'a>,
) -> Result<(), super::Refusal> {
    match setting {
        Setting::Acl(acl) => bucket.acl = acl.clone(),
        Setting::Ownership(ownership) => bucket.ownership = *ownership,
        Setting::Versioning { enabled: true } => bucket.versioning = Versioning::Enabled,
        Setting::Versioning { enabled: false } => {
            if bucket.object_lock.is_some() {
                return Err(super::Refusal::LockNeedsVersions);
            }
            bucket.versioning = Versioning::Suspended;
        }
        Setting::ObjectLock(default) => {
            if bucket.versioning != Versioning::Enabled {
                return Err(super::Refusal::LockNeedsVersions);
            }
            bucket.object_lock = Some(ObjectLock { default: *default });
        }
        Setting::PublicAccessBlock(block) => bucket.block = *block,
        Setting::Quota(quota) => bucket.quota = *quota,
        Setting::Owner { owner, tenant } => {
            bucket.owner.clone_from(owner);
            bucket.tenant.clone_from(tenant);
        }
        Setting::Document(document, text) => {
            match text {
                Some(_) => bucket.documents.insert(*document),
                None => bucket.documents.remove(document),
            };
            texts.push((*document, text.as_ref()));
        }
    }
    Ok(())
}

pub(super) fn delete(state: &mut Staged<'_>, name: &str) -> Done {
    let Some(bucket) = state.bucket(name)? else { refuse!(NoSuchBucket) };
    if begins(state, &keys::object(name, b""))? || begins(state, &keys::versions(name, b""))? {
        refuse!(BucketNotEmpty);
    }
    for (key, value) in state.entries(&keys::uploads(name, b""))? {
        let upload: UploadState = decode("upload", &key, &value)?;
        uploads::forget(state, key, upload.upload)?;
    }
    for document in &bucket.documents {
        state.remove(keys::document(name, *document));
    }
    state.remove(keys::usage(name));
    state.remove(keys::bucket(name));
    Ok(Ok(Outcome::BucketDeleted))
}

/// Whether there is anything that begins so.
fn begins(state: &Staged<'_>, prefix: &[u8]) -> Result<bool, IndexError> {
    let end = keys::after_prefix(prefix);
    Ok(state.scan(prefix, end.as_deref()).next().transpose()?.is_some())
}

/// Whether the bucket may hold this instead of what it gives up.
pub(super) fn has_room(
    state: &Staged<'_>,
    name: &str,
    bucket: &BucketState,
    comes: Usage,
    goes: Usage,
) -> Result<bool, IndexError> {
    let Some(quota) = bucket.quota else { return Ok(true) };
    let now = state.usage(name)?;
    let after = |now: u64, comes: u64, goes: u64| now.saturating_sub(goes).saturating_add(comes);
    let fits =
        |after: u64, now: u64, limit: Option<u64>| limit.is_none_or(|limit| after <= limit || after <= now);
    Ok(fits(after(now.bytes, comes.bytes, goes.bytes), now.bytes, quota.bytes)
        && fits(after(now.objects, comes.objects, goes.objects), now.objects, quota.objects))
}

/// Counts a version that came or went.
pub(super) fn count(state: &mut Staged<'_>, name: &str, bytes: u64, came: bool) -> Result<(), IndexError> {
    let mut usage = state.usage(name)?;
    if came {
        usage.bytes = usage.bytes.saturating_add(bytes);
        usage.objects = usage.objects.saturating_add(1);
    } else {
        usage.bytes = usage.bytes.saturating_sub(bytes);
        usage.objects = usage.objects.saturating_sub(1);
    }
    state.put(keys::usage(name), &usage);
    Ok(())
}
