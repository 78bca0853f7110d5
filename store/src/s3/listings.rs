//! Requests that list objects, uploads and parts.

use std::sync::Arc;

use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::conditions::etag;
use super::objects::show_checksums;
use super::uploads::{must_exist, upload_id};
use super::{Answer, Store, buckets, owner, timestamp};
use crate::index::{View, decode};
use crate::keys;
use crate::listing::{Item, MAX_PAGE, Page, Query, list};
use crate::op::ChecksumKind;
use crate::state::{PartState, UploadState};

/// How names are written into the answer.
#[derive(Clone, Copy)]
struct Names {
    url: bool,
}

impl Names {
    fn new(encoding: Option<&EncodingType>) -> S3Result<Names> {
        match encoding.map(EncodingType::as_str) {
            None => Ok(Names { url: false }),
            Some(EncodingType::URL) => Ok(Names { url: true }),
            Some(_) => Err(s3_error!(InvalidArgument, "The only encoding type is url")),
        }
    }

    /// Everything but RFC 3986's unreserved characters and the slash becomes `%XX`.
    fn write(self, name: &str) -> String {
        if !self.url {
            return name.to_owned();
        }
        let mut out = String::with_capacity(name.len());
        for &byte in name.as_bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
                out.push(char::from(byte));
            } else {
                out.push_str(&format!("%{byte:02X}"));
            }
        }
        out
    }

    fn write_opt(self, name: Option<&String>) -> Option<String> {
        name.map(|name| self.write(name))
    }
}

fn page_size(asked: Option<i32>) -> S3Result<usize> {
    let asked = asked.map_or(Ok(MAX_PAGE), usize::try_from);
    let asked = asked.map_err(|_| s3_error!(InvalidArgument, "The page size is negative"))?;
    Ok(asked.min(MAX_PAGE))
}

async fn page(
    store: &Arc<Store>,
    bucket: String,
    prefix: Option<String>,
    delimiter: Option<String>,
    after: Option<String>,
    limit: usize,
) -> S3Result<Page> {
    store
        .ask(move |_, view| {
            buckets::must_exist(&view, &bucket)?;
            let query = Query {
                bucket: &bucket,
                prefix: prefix.as_deref().unwrap_or_default(),
                delimiter: delimiter.as_deref(),
                after: after.as_deref(),
                limit,
            };
            Ok(list(&*view, &query)?)
        })
        .await
}

fn split(items: Vec<Item>, names: Names, with_owner: bool) -> (Vec<Object>, Vec<CommonPrefix>) {
    let mut objects = Vec::new();
    let mut prefixes = Vec::new();
    for item in items {
        match item {
            Item::CommonPrefix(prefix) => {
                prefixes.push(CommonPrefix { prefix: Some(names.write(&prefix)) });
            }
            Item::Object(key, state) => objects.push(Object {
                key: Some(names.write(&key)),
                e_tag: Some(etag(state.etag)),
                last_modified: Some(timestamp(state.modified_ms)),
                size: Some(state.size as i64),
                storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
                owner: with_owner.then(owner),
                ..Default::default()
            }),
        }
    }
    (objects, prefixes)
}

pub(super) async fn objects_v1(
    store: &Arc<Store>,
    req: S3Request<ListObjectsInput>,
) -> Answer<ListObjectsOutput> {
    store.serving()?;
    let ListObjectsInput { bucket, prefix, delimiter, marker, max_keys, encoding_type, .. } = req.input;
    let names = Names::new(encoding_type.as_ref())?;
    let limit = page_size(max_keys)?;
    let page = page(store, bucket.clone(), prefix.clone(), delimiter.clone(), marker.clone(), limit).await?;
    let last = page.items.last().map(|item| names.write(item.name()));
    let (objects, prefixes) = split(page.items, names, true);
    Ok(S3Response::new(ListObjectsOutput {
        name: Some(bucket),
        prefix: Some(names.write(&prefix.unwrap_or_default())),
        marker: Some(names.write(&marker.unwrap_or_default())),
        delimiter: names.write_opt(delimiter.as_ref()),
        max_keys: Some(limit as i32),
        is_truncated: Some(page.truncated),
        next_marker: last.filter(|_| page.truncated),
        contents: Some(objects),
        common_prefixes: Some(prefixes),
        encoding_type,
        ..Default::default()
    }))
}

/// A continuation token is the last name of the page before, in hexadecimal: opaque to clients, and
/// good on whichever member answers next.
fn token_of(name: &str) -> String {
    hex::encode(name)
}

fn name_of(token: &str) -> S3Result<String> {
    let bytes = hex::decode(token).ok();
    let name = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    name.ok_or_else(|| s3_error!(InvalidArgument, "The continuation token is none of ours"))
}

pub(super) async fn objects_v2(
    store: &Arc<Store>,
    req: S3Request<ListObjectsV2Input>,
) -> Answer<ListObjectsV2Output> {
    store.serving()?;
    let ListObjectsV2Input {
        bucket,
        prefix,
        delimiter,
        continuation_token,
        start_after,
        max_keys,
        encoding_type,
        fetch_owner,
        ..
    } = req.input;
    let names = Names::new(encoding_type.as_ref())?;
    let limit = page_size(max_keys)?;
    let after = match &continuation_token {
        Some(token) => Some(name_of(token)?),
        None => start_after.clone(),
    };
    let page = page(store, bucket.clone(), prefix.clone(), delimiter.clone(), after, limit).await?;
    let next = page.items.last().map(|item| token_of(item.name())).filter(|_| page.truncated);
    let count = page.items.len() as i32;
    let (objects, prefixes) = split(page.items, names, fetch_owner == Some(true));
    Ok(S3Response::new(ListObjectsV2Output {
        name: Some(bucket),
        prefix: Some(names.write(&prefix.unwrap_or_default())),
        delimiter: names.write_opt(delimiter.as_ref()),
        start_after: names.write_opt(start_after.as_ref()),
        max_keys: Some(limit as i32),
        key_count: Some(count),
        is_truncated: Some(page.truncated),
        continuation_token,
        next_continuation_token: next,
        contents: Some(objects),
        common_prefixes: Some(prefixes),
        encoding_type,
        ..Default::default()
    }))
}

/// The uploads of a bucket that come after the markers, ordered by key and then by id.
fn uploads_after(
    view: &View,
    bucket: &str,
    prefix: &str,
    after: Option<(&str, Option<&str>)>,
) -> S3Result<Vec<UploadState>> {
    let all = keys::uploads(bucket);
    let start = [&all[..], prefix.as_bytes()].concat();
    let end = keys::after_prefix(&start);
    let mut found = Vec::new();
    for entry in view.scan(&start, end.as_deref()) {
        let (key, value) = entry?;
        let upload: UploadState = decode("upload", &key, &value)?;
        let wanted = match after {
            None => true,
            Some((key_marker, None)) => upload.key.as_str() > key_marker,
            Some((key_marker, Some(id_marker))) => {
                (upload.key.as_str(), upload.upload.to_string().as_str()) > (key_marker, id_marker)
            }
        };
        if wanted {
            found.push(upload);
        }
    }
    found.sort_by(|a, b| (&a.key, a.upload).cmp(&(&b.key, b.upload)));
    Ok(found)
}

pub(super) async fn uploads(
    store: &Arc<Store>,
    req: S3Request<ListMultipartUploadsInput>,
) -> Answer<ListMultipartUploadsOutput> {
    store.serving()?;
    let ListMultipartUploadsInput {
        bucket,
        prefix,
        delimiter,
        key_marker,
        upload_id_marker,
        max_uploads,
        encoding_type,
        ..
    } = req.input;
    let names = Names::new(encoding_type.as_ref())?;
    let limit = page_size(max_uploads)?;
    let (name, wanted) = (bucket.clone(), prefix.clone().unwrap_or_default());
    let (marker, id_marker) = (key_marker.clone(), upload_id_marker.clone());
    let found = store
        .ask(move |_, view| {
            buckets::must_exist(&view, &name)?;
            let after = marker.as_deref().filter(|m| !m.is_empty());
            let id_marker = id_marker.as_deref().filter(|m| !m.is_empty());
            uploads_after(&view, &name, &wanted, after.map(|key| (key, id_marker)))
        })
        .await?;

    let prefix_len = prefix.as_ref().map_or(0, String::len);
    let group_of = |key: &str| {
        let delimiter = delimiter.as_deref().filter(|d| !d.is_empty())?;
        let at = key.get(prefix_len..)?.find(delimiter)?;
        Some(key[..prefix_len + at + delimiter.len()].to_owned())
    };
    let mut listed = Vec::new();
    let mut groups: Vec<String> = Vec::new();
    let mut next = (None, None);
    let mut truncated = false;
    for upload in found {
        let group = group_of(&upload.key);
        // A group that is not greater than the marker was shown on an earlier page.
        if group.is_some() && (group.as_ref() == groups.last() || group <= key_marker) {
            continue;
        }
        if listed.len() + groups.len() == limit {
            truncated = limit > 0;
            break;
        }
        match group {
            Some(group) => {
                next = (Some(group.clone()), None);
                groups.push(group);
            }
            None => {
                next = (Some(upload.key.clone()), Some(upload.upload.to_string()));
                listed.push(MultipartUpload {
                    key: Some(names.write(&upload.key)),
                    upload_id: Some(upload.upload.to_string()),
                    initiated: Some(timestamp(upload.initiated_ms)),
                    owner: Some(owner()),
                    initiator: Some(initiator()),
                    storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
                    ..Default::default()
                });
            }
        }
    }
    if !truncated {
        next = (None, None);
    }
    Ok(S3Response::new(ListMultipartUploadsOutput {
        bucket: Some(bucket),
        prefix: names.write_opt(prefix.as_ref()),
        delimiter: names.write_opt(delimiter.as_ref()),
        key_marker: names.write_opt(key_marker.as_ref()),
        upload_id_marker,
        next_key_marker: names.write_opt(next.0.as_ref()),
        next_upload_id_marker: next.1,
        max_uploads: Some(limit as i32),
        is_truncated: Some(truncated),
        uploads: Some(listed),
        common_prefixes: Some(groups.iter().map(|g| CommonPrefix { prefix: Some(names.write(g)) }).collect()),
        encoding_type,
        ..Default::default()
    }))
}

fn initiator() -> Initiator {
    let Owner { display_name, id } = owner();
    Initiator { display_name, id }
}

pub(super) async fn parts(store: &Arc<Store>, req: S3Request<ListPartsInput>) -> Answer<ListPartsOutput> {
    store.serving()?;
    let input = req.input;
    let id = upload_id(&input.upload_id)?;
    let limit = page_size(input.max_parts)?;
    let marker = input.part_number_marker.unwrap_or(0);
    let after = u16::try_from(marker.max(0)).unwrap_or(u16::MAX);
    let (bucket, key) = (input.bucket.clone(), input.key.clone());
    let (mut found, truncated) = store
        .ask(move |_, view| {
            must_exist(&view, &bucket, &key, id)?;
            let from = [keys::part(id, after), vec![0]].concat();
            let prefix = keys::parts(id);
            let end = keys::after_prefix(&prefix);
            let mut found: Vec<(u16, PartState)> = Vec::new();
            for entry in view.scan(&from, end.as_deref()) {
                let (key, value) = entry?;
                if found.len() == limit {
                    return Ok((found, limit > 0));
                }
                let number = key.last_chunk::<2>().map_or(0, |n| u16::from_be_bytes(*n));
                let part = decode("part", &key, &value)?;
                found.push((number, part));
            }
            Ok((found, false))
        })
        .await?;
    let next = found.last().map(|(number, _)| i32::from(*number)).filter(|_| truncated);
    let parts = found
        .drain(..)
        .map(|(number, state)| {
            let mut part = Part {
                part_number: Some(i32::from(number)),
                e_tag: Some(etag(state.etag)),
                last_modified: Some(timestamp(state.modified_ms)),
                size: Some(state.size as i64),
                ..Default::default()
            };
            show_checksums!(part, &state.checksums);
            part
        })
        .collect();
    Ok(S3Response::new(ListPartsOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(input.upload_id),
        part_number_marker: Some(marker),
        next_part_number_marker: next,
        max_parts: Some(limit as i32),
        is_truncated: Some(truncated),
        parts: Some(parts),
        owner: Some(owner()),
        initiator: Some(initiator()),
        storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
        ..Default::default()
    }))
}
