//! Requests that list objects, uploads and parts.

use std::collections::HashMap;
use std::sync::Arc;

use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::conditions::etag;
use super::objects::{scope_name, show_checksums};
use super::uploads::{must_exist, upload_id};
use super::{Answer, Store, buckets, owner_of, timestamp, version_id};
use crate::checksum::ChecksumKind;
use crate::index::{Tables, View, decode};
use crate::keys;
use crate::listing::{
    Item, MAX_PAGE, Page, Query, VersionItem, VersionPage, VersionQuery, list, list_versions,
};
use crate::state::{PartState, UploadState, Version};

/// The owners that a page shows, by id.
type Owners = HashMap<String, Owner>;

fn owners<'a>(view: &View, ids: impl Iterator<Item = &'a str>) -> S3Result<Owners> {
    let mut owners = Owners::new();
    for id in ids {
        if !owners.contains_key(id) {
            owners.insert(id.to_owned(), owner_of(view, id)?);
        }
    }
    Ok(owners)
}

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
        name.filter(|name| !name.is_empty()).map(|name| self.write(name))
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
) -> S3Result<(Page, Owners)> {
    store
        .ask(move |_, view| {
            buckets::find(&view, &bucket)?;
            let query = Query {
                bucket: &bucket,
                prefix: prefix.as_deref().unwrap_or_default(),
                delimiter: delimiter.as_deref(),
                after: after.as_deref(),
                limit,
            };
            let page = list(&view, &query)?;
            let ids = page.items.iter().filter_map(|item| match item {
                Item::Object(_, object) => Some(object.traits.owner.as_str()),
                Item::CommonPrefix(_) => None,
            });
            let owners = owners(&view, ids)?;
            Ok((page, owners))
        })
        .await
}

fn split(items: Vec<Item>, names: Names, owners: Option<&Owners>) -> (Vec<Object>, Vec<CommonPrefix>) {
    let mut objects = Vec::with_capacity(items.len());
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
                owner: owners.and_then(|owners| owners.get(&state.traits.owner).cloned()),
                checksum_algorithm: state
                    .checksums
                    .first()
                    .map(|c| vec![ChecksumAlgorithm::from_static(c.kind.name())]),
                checksum_type: state.checksums.first().map(|c| scope_name(c.scope)),
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
    let (page, owners) =
        page(store, bucket.clone(), prefix.clone(), delimiter.clone(), marker.clone(), limit).await?;
    let last = page.items.last().map(|item| names.write(item.name()));
    let (objects, prefixes) = split(page.items, names, Some(&owners));
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
    let (page, owners) = page(store, bucket.clone(), prefix.clone(), delimiter.clone(), after, limit).await?;
    let next = page.items.last().map(|item| token_of(item.name())).filter(|_| page.truncated);
    let count = page.items.len() as i32;
    let (objects, prefixes) = split(page.items, names, (fetch_owner == Some(true)).then_some(&owners));
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

pub(super) async fn versions(
    store: &Arc<Store>,
    req: S3Request<ListObjectVersionsInput>,
) -> Answer<ListObjectVersionsOutput> {
    store.serving()?;
    let ListObjectVersionsInput {
        bucket,
        prefix,
        delimiter,
        key_marker,
        version_id_marker,
        max_keys,
        encoding_type,
        ..
    } = req.input;
    let names = Names::new(encoding_type.as_ref())?;
    let limit = page_size(max_keys)?;
    let after = key_marker.clone().filter(|marker| !marker.is_empty());
    let after_version = version_id(version_id_marker.as_deref().filter(|marker| !marker.is_empty()))?;
    if after_version.is_some() && after.is_none() {
        return Err(s3_error!(
            InvalidArgument,
            "A version-id marker cannot be specified without a key marker."
        ));
    }
    let (name, wanted, group) = (bucket.clone(), prefix.clone().unwrap_or_default(), delimiter.clone());
    let (page, owners): (VersionPage, Owners) = store
        .ask(move |_, view| {
            buckets::find(&view, &name)?;
            let query = VersionQuery {
                bucket: &name,
                prefix: &wanted,
                delimiter: group.as_deref(),
                after: after.as_deref(),
                after_version,
                limit,
            };
            let page = list_versions(&view, &query)?;
            let ids = page.items.iter().filter_map(|item| match item {
                VersionItem::Version { version: Version::Object(object), .. } => {
                    Some(object.traits.owner.as_str())
                }
                VersionItem::Version { version: Version::Marker(marker), .. } => Some(marker.owner.as_str()),
                VersionItem::CommonPrefix(_) => None,
            });
            let owners = owners(&view, ids)?;
            Ok((page, owners))
        })
        .await?;
    let next = match page.items.last().filter(|_| page.truncated) {
        None => (None, None),
        Some(VersionItem::CommonPrefix(group)) => (Some(group.clone()), None),
        Some(VersionItem::Version { key, version, .. }) => {
            (Some(key.clone()), Some(version.version().to_string()))
        }
    };
    let mut versions = Vec::new();
    let mut markers = Vec::new();
    let mut groups = Vec::new();
    for item in page.items {
        match item {
            VersionItem::CommonPrefix(group) => {
                groups.push(CommonPrefix { prefix: Some(names.write(&group)) })
            }
            VersionItem::Version { key, version, is_latest } => {
                let version_id = Some(version.version().to_string());
                let (key, is_latest) = (Some(names.write(&key)), Some(is_latest));
                match version {
                    Version::Object(object) => versions.push(ObjectVersion {
                        key,
                        version_id,
                        is_latest,
                        e_tag: Some(etag(object.etag)),
                        last_modified: Some(timestamp(object.modified_ms)),
                        size: Some(object.size as i64),
                        owner: owners.get(&object.traits.owner).cloned(),
                        storage_class: Some(ObjectVersionStorageClass::from_static("STANDARD")),
                        checksum_algorithm: object
                            .checksums
                            .first()
                            .map(|c| vec![ChecksumAlgorithm::from_static(c.kind.name())]),
                        checksum_type: object.checksums.first().map(|c| scope_name(c.scope)),
                        ..Default::default()
                    }),
                    Version::Marker(marker) => markers.push(DeleteMarkerEntry {
                        key,
                        version_id,
                        is_latest,
                        last_modified: Some(timestamp(marker.modified_ms)),
                        owner: owners.get(&marker.owner).cloned(),
                    }),
                }
            }
        }
    }
    Ok(S3Response::new(ListObjectVersionsOutput {
        name: Some(bucket),
        prefix: Some(names.write(&prefix.unwrap_or_default())),
        delimiter: names.write_opt(delimiter.as_ref()),
        key_marker: Some(names.write(&key_marker.unwrap_or_default())),
        version_id_marker: Some(version_id_marker.unwrap_or_default()),
        next_key_marker: names.write_opt(next.0.as_ref()),
        next_version_id_marker: next.1,
        max_keys: Some(limit as i32),
        is_truncated: Some(page.truncated),
        versions: Some(versions),
        delete_markers: Some(markers),
        common_prefixes: Some(groups),
        encoding_type,
        ..Default::default()
    }))
}

/// At most `limit` uploads and groups of a bucket that come after the markers, ordered by key and then by
/// id; with whether more follows. Groups are passed over by one seek.
fn uploads_after(
    view: &View,
    bucket: &str,
    (prefix, delimiter): (&str, Option<&str>),
    after: Option<(&str, Option<&str>)>,
    limit: usize,
) -> S3Result<(Vec<Upload>, bool)> {
    let all = keys::uploads(bucket, prefix.as_bytes());
    let end = keys::after_prefix(&all);
    let mut from = all;
    if let Some((key, id)) = after {
        let of_key = keys::uploads_of(bucket, key.as_bytes());
        let next = match id.and_then(crate::object::UploadId::parse) {
            Some(id) => [keys::upload(bucket, key, id), vec![0]].concat(),
            None => keys::after_prefix(&of_key).unwrap_or(of_key),
        };
        from = from.max(next);
    }
    let mut found = Vec::new();
    'seek: loop {
        for entry in view.scan(&from, end.as_deref()) {
            let (key, value) = entry?;
            let upload: UploadState = decode("upload", &key, &value)?;
            let group = delimiter.filter(|d| !d.is_empty()).and_then(|delimiter| {
                let at = upload.key.get(prefix.len()..)?.find(delimiter)?;
                Some(upload.key[..prefix.len() + at + delimiter.len()].to_owned())
            });
            let shown_before = group.as_deref().is_some_and(|g| after.is_some_and(|(after, _)| g <= after));
            if !shown_before && found.len() == limit {
                return Ok((found, true));
            }
            let Some(group) = group else {
                found.push(Upload::One(Box::new(upload)));
                continue;
            };
            let next = keys::after_prefix(&keys::uploads(bucket, group.as_bytes()));
            if !shown_before {
                found.push(Upload::Group(group));
            }
            match next {
                Some(next) => from = next,
                None => return Ok((found, false)),
            }
            continue 'seek;
        }
        return Ok((found, false));
    }
}

/// A line of a listing of uploads.
enum Upload {
    One(Box<UploadState>),
    Group(String),
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
    let (name, wanted, group) = (bucket.clone(), prefix.clone().unwrap_or_default(), delimiter.clone());
    let (marker, id_marker) = (key_marker.clone(), upload_id_marker.clone());
    let (found, truncated, owners) = store
        .ask(move |_, view| {
            buckets::find(&view, &name)?;
            let after = marker.as_deref().filter(|m| !m.is_empty());
            let id_marker = id_marker.as_deref().filter(|m| !m.is_empty());
            let after = after.map(|key| (key, id_marker));
            let (found, more) = uploads_after(&view, &name, (&wanted, group.as_deref()), after, limit)?;
            let ids = found.iter().filter_map(|upload| match upload {
                Upload::One(upload) => Some(upload.traits.owner.as_str()),
                Upload::Group(_) => None,
            });
            let owners = owners(&view, ids)?;
            Ok((found, more && limit > 0, owners))
        })
        .await?;
    let next = match found.last().filter(|_| truncated) {
        None => (None, None),
        Some(Upload::Group(group)) => (Some(group.clone()), None),
        Some(Upload::One(upload)) => (Some(upload.key.clone()), Some(upload.upload.to_string())),
    };
    let mut listed = Vec::new();
    let mut groups = Vec::new();
    for upload in found {
        match upload {
            Upload::Group(group) => groups.push(CommonPrefix { prefix: Some(names.write(&group)) }),
            Upload::One(upload) => {
                let owner = owners.get(&upload.traits.owner).cloned();
                let initiator =
                    owner.clone().map(|Owner { display_name, id }| Initiator { display_name, id });
                listed.push(MultipartUpload {
                    key: Some(names.write(&upload.key)),
                    upload_id: Some(upload.upload.to_string()),
                    initiated: Some(timestamp(upload.initiated_ms)),
                    storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
                    owner,
                    initiator,
                    checksum_algorithm: upload
                        .checksum
                        .map(|p| ChecksumAlgorithm::from_static(p.kind.name())),
                    checksum_type: upload.checksum.map(|p| scope_name(p.scope)),
                });
            }
        }
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
        common_prefixes: Some(groups),
        encoding_type,
        ..Default::default()
    }))
}

pub(super) async fn parts(store: &Arc<Store>, req: S3Request<ListPartsInput>) -> Answer<ListPartsOutput> {
    store.serving()?;
    let input = req.input;
    let id = upload_id(&input.upload_id)?;
    let limit = page_size(input.max_parts)?;
    let marker = input.part_number_marker.unwrap_or(0);
    let after = u16::try_from(marker.max(0)).unwrap_or(u16::MAX);
    let (bucket, key) = (input.bucket.clone(), input.key.clone());
    let (mut found, truncated, begun, owner) = store
        .ask(move |_, view| {
            let begun = must_exist(&view, &bucket, &key, id)?;
            let owner = owner_of(&view, &begun.traits.owner)?;
            let from = [keys::part(id, after), vec![0]].concat();
            let prefix = keys::parts(id);
            let end = keys::after_prefix(&prefix);
            let mut found: Vec<(u16, PartState)> = Vec::new();
            for entry in view.scan(&from, end.as_deref()) {
                let (key, value) = entry?;
                if found.len() == limit {
                    return Ok((found, limit > 0, begun, owner));
                }
                let number = key.last_chunk::<2>().map_or(0, |n| u16::from_be_bytes(*n));
                let part = decode("part", &key, &value)?;
                found.push((number, part));
            }
            Ok((found, false, begun, owner))
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
        initiator: Some(Initiator { display_name: owner.display_name.clone(), id: owner.id.clone() }),
        owner: Some(owner),
        checksum_algorithm: begun.checksum.map(|p| ChecksumAlgorithm::from_static(p.kind.name())),
        checksum_type: begun.checksum.map(|p| scope_name(p.scope)),
        storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
        ..Default::default()
    }))
}
