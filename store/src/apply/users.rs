//! Users and whose access keys are whose.

use super::{Done, Outcome, Staged, refuse};
use crate::access::User;
use crate::bucket::BucketState;
use crate::index::{Lookup, Tables, decode};
use crate::keys;

pub(super) fn put(state: &mut Staged<'_>, user: &User, exists: bool) -> Done {
    let before = state.user(&user.name)?;
    match (&before, exists) {
        (Some(_), false) => refuse!(UserExists),
        (None, true) => refuse!(NoSuchUser),
        _ => {}
    }
    for key in &user.keys {
        if state.owner_of_access_key(&key.id)?.is_some_and(|name| name != user.name) {
            refuse!(AccessKeyTaken);
        }
    }
    for key in before.iter().flat_map(|before| &before.keys) {
        state.remove(keys::access_key(&key.id));
    }
    for key in &user.keys {
        state.put_bytes(keys::access_key(&key.id), user.name.clone().into_bytes());
    }
    state.put(keys::user(&user.name), user);
    Ok(Ok(Outcome::Changed))
}

pub(super) fn delete(state: &mut Staged<'_>, name: &str) -> Done {
    let Some(user) = state.user(name)? else { refuse!(NoSuchUser) };
    let end = keys::after_prefix(keys::BUCKETS);
    for entry in state.scan(keys::BUCKETS, end.as_deref()) {
        let (key, value) = entry?;
        let bucket: BucketState = decode("bucket", &key, &value)?;
        if bucket.owner == name {
            refuse!(UserOwnsBuckets);
        }
    }
    for key in &user.keys {
        state.remove(keys::access_key(&key.id));
    }
    state.remove(keys::user(name));
    Ok(Ok(Outcome::Changed))
}
