//! One object of an archive as a new write.
//!
//! ```text
//!   what does the primary have under the key?
//!     the same bytes ----------------> nothing to do, however often it is asked for
//!     others, and not told to -------> kept
//!     none, or told to --------------> a put, or an upload of the very same parts, that fails where that has changed
//! ```
//!
//! The parts are those of the archived object, so that the restored one has its entity tag, by which the next attempt
//! knows it again.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::stream;
use holdfast_store::archive::Opened;
use holdfast_store::checksum::ChecksumScope;
use holdfast_store::object::{Encryption, RetentionMode};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::primary::{Answer, Broken, Call, Primary};

/// Pieces of a body that are read ahead of the connection: about 1 MiB each.
const AHEAD: usize = 2;

/// What became of an object that was to be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It was written, and acknowledged.
    Restored,
    /// The cluster has these bytes under this key already.
    AlreadyThere,
    /// The cluster has other bytes under this key, and they were left alone.
    Kept,
    /// Its bucket does not exist.
    NoBucket,
    /// Not all of it can be read.
    NotReadable,
    /// It stands behind a damaged place, and that was not asked for.
    BehindDamage,
    /// The archive has no such object.
    NotInArchive,
    /// The primary did not take it.
    Refused,
}

impl Fate {
    /// Whether the cluster has the object now.
    pub fn is_good(self) -> bool {
        matches!(self, Fate::Restored | Fate::AlreadyThere)
    }
}

/// How a restore goes about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Manner {
    pub(super) overwrite: bool,
    pub(super) create_buckets: bool,
    /// Whether the bucket keeps locks, as far as this member knows.
    pub(super) locks: bool,
}

/// What became of it, and why.
pub(super) type Done = (Fate, Option<String>);

/// What there is under the key.
enum There {
    Nothing,
    NoBucket,
    Object { etag: String },
}

/// Restores it.
pub(super) async fn restore(primary: &Primary, object: &Opened, manner: Manner) -> Done {
    let broken = Broken::default();
    match attempt(primary, object, manner, &broken).await {
        Ok(done) => done,
        Err(why) if broken.get().is_some() => (Fate::NotReadable, Some(why)),
        Err(why) => (Fate::Refused, Some(why)),
    }
}

async fn attempt(
    primary: &Primary,
    object: &Opened,
    manner: Manner,
    broken: &Broken,
) -> Result<Done, String> {
    let body = &object.body;
    let mut tags = vec![body.etag.to_string()];
    if !body.of_parts && body.etag.parts > 0 {
        // A copy of an object of parts: put whole, it gets the tag of its bytes.
        let reading = object.clone();
        match tokio::task::spawn_blocking(move || reading.digest(0)).await.map_err(|e| e.to_string())? {
            Ok(md5) => tags.push(hex::encode(md5)),
            Err(error) => return Ok((Fate::NotReadable, Some(error.to_string()))),
        }
    }
    let same = |etag: &str| tags.iter().any(|tag| tag == etag);
    let condition = match there(primary, &body.bucket, &body.key).await? {
        There::Object { etag } if same(&etag) => return Ok((Fate::AlreadyThere, None)),
        There::Object { etag } if !manner.overwrite => return Ok(kept(&etag)),
        There::Object { etag } => ("if-match", format!("\"{etag}\"")),
        There::NoBucket if !manner.create_buckets => return Ok((Fate::NoBucket, None)),
        There::NoBucket => {
            let made = primary.call(&Call::new(Method::PUT, &body.bucket, None)).await?;
            if !made.status.is_success() && made.status != StatusCode::CONFLICT {
                return Err(format!("the bucket could not be made: {}", made.refusal()));
            }
            ("if-none-match", "*".to_owned())
        }
        There::Nothing => ("if-none-match", "*".to_owned()),
    };
    let stored = if body.of_parts {
        upload(primary, object, manner, &condition, broken).await?
    } else {
        put(primary, object, manner, &condition, broken).await?
    };
    if stored.status.is_success() {
        return Ok((Fate::Restored, None));
    }
    // An answer that got lost may have said that it was stored: whoever asks again finds it there.
    let raced = [StatusCode::PRECONDITION_FAILED, StatusCode::CONFLICT, StatusCode::NOT_FOUND];
    if raced.contains(&stored.status)
        && let There::Object { etag } = there(primary, &body.bucket, &body.key).await?
    {
        return Ok(if same(&etag) { (Fate::Restored, None) } else { kept(&etag) });
    }
    Err(stored.refusal())
}

fn kept(etag: &str) -> Done {
    (Fate::Kept, Some(format!("the cluster's has the entity tag {etag}")))
}

async fn there(primary: &Primary, bucket: &str, key: &str) -> Result<There, String> {
    let object = primary.call(&Call::new(Method::HEAD, bucket, Some(key))).await?;
    match object.status {
        StatusCode::NOT_FOUND => {}
        status if status.is_success() => {
            let etag = object.header("etag").unwrap_or_default().trim_matches('"').to_owned();
            return Ok(There::Object { etag });
        }
        // What a client encrypted shows nothing without its key; but it is there.
        StatusCode::BAD_REQUEST => {
            return Ok(There::Object { etag: "of an object that its client encrypted".to_owned() });
        }
        status => return Err(format!("the primary does not say what it has: {status}")),
    }
    let bucket = primary.call(&Call::new(Method::HEAD, bucket, None)).await?;
    Ok(if bucket.status.is_success() { There::Nothing } else { There::NoBucket })
}

/// A piece as a body that can be sent, again too.
fn body_of(object: &Arc<Opened>, number: usize, broken: &Broken) -> reqwest::Body {
    let (sender, receiver) = mpsc::channel(AHEAD);
    let (object, broken) = (Arc::clone(object), Arc::clone(broken));
    tokio::task::spawn_blocking(move || {
        for bytes in object.piece(number).into_iter().flatten() {
            let failed = bytes.as_ref().err().map(ToString::to_string);
            let failed = failed.map(|why| broken.set(why)).is_some();
            // Nobody listens any more where the request has ended.
            if sender.blocking_send(bytes).is_err() || failed {
                return;
            }
        }
    });
    let next =
        |mut receiver: mpsc::Receiver<_>| async { receiver.recv().await.map(|bytes| (bytes, receiver)) };
    reqwest::Body::wrap_stream(stream::unfold(receiver, next))
}

async fn put(
    primary: &Primary,
    object: &Opened,
    manner: Manner,
    (name, value): &(&'static str, String),
    broken: &Broken,
) -> Result<Answer, String> {
    let (texts, body) = (texts(object)?, &object.body);
    let shared = Arc::new(object.clone());
    let make = move || body_of(&shared, 0, broken);
    let call = Call::new(Method::PUT, &body.bucket, Some(&body.key)).texts(&texts).header(name, value);
    let mut call = carried(call, object, manner).body(body.size, &make).unless(broken);
    if let Some(md5) = body.pieces.first().and_then(|piece| piece.md5) {
        call = call.header("content-md5", &STANDARD.encode(md5));
    }
    if let Some(sum) = body.checksums.first().filter(|sum| sum.scope == ChecksumScope::FullObject) {
        call = call.header(sum.kind.header(), &sum.base64);
    }
    primary.call(&call).await
}

async fn upload(
    primary: &Primary,
    object: &Opened,
    manner: Manner,
    (name, value): &(&'static str, String),
    broken: &Broken,
) -> Result<Answer, String> {
    let (texts, body) = (texts(object)?, &object.body);
    let at = |method| Call::new(method, &body.bucket, Some(&body.key));
    let mut begin = carried(at(Method::POST).query("uploads", "").texts(&texts), object, manner);
    if let Some(plan) = body.plan {
        let scope = match plan.scope {
            ChecksumScope::FullObject => "FULL_OBJECT",
            ChecksumScope::Composite => "COMPOSITE",
        };
        begin =
            begin.header("x-amz-checksum-algorithm", plan.kind.name()).header("x-amz-checksum-type", scope);
    }
    let begun = primary.call(&begin).await?;
    let Some(id) = begun.element("UploadId").filter(|_| begun.status.is_success()) else {
        return Ok(begun);
    };
    let sent = parts(primary, object, &id, (name, value), broken).await;
    if !sent.as_ref().is_ok_and(|answer| answer.status.is_success()) {
        // Else its parts would take space for ever. One that cannot be reached has to be told by somebody later.
        let _ = primary.call(&at(Method::DELETE).query("uploadId", id)).await;
    }
    sent
}

async fn parts(
    primary: &Primary,
    object: &Opened,
    id: &str,
    (name, value): (&'static str, &str),
    broken: &Broken,
) -> Result<Answer, String> {
    let body = &object.body;
    let at = |method| Call::new(method, &body.bucket, Some(&body.key)).query("uploadId", id);
    let shared = Arc::new(object.clone());
    let mut listed = String::new();
    for (place, piece) in body.pieces.iter().enumerate() {
        let make = || body_of(&shared, place, broken);
        let number = piece.number.to_string();
        let mut call = at(Method::PUT).query("partNumber", &number).body(piece.size, &make).unless(broken);
        let md5 = piece.md5.map(hex::encode).unwrap_or_default();
        if let Some(md5) = piece.md5 {
            call = call.header("content-md5", &STANDARD.encode(md5));
        }
        if let Some(sum) = body.plan.and_then(|plan| piece.checksums.iter().find(|sum| sum.kind == plan.kind))
        {
            call = call.header(sum.kind.header(), &sum.base64);
        }
        let stored = primary.call(&call).await?;
        if !stored.status.is_success() {
            return Err(format!("part {number} was not taken: {}", stored.refusal()));
        }
        listed.push_str(&format!(
            "<Part><PartNumber>{number}</PartNumber><ETag>&quot;{md5}&quot;</ETag></Part>"
        ));
    }
    let document = format!("<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>");
    let len = document.len() as u64;
    let make = move || reqwest::Body::from(document.clone());
    primary.call(&at(Method::POST).header(name, value).body(len, &make)).await
}

/// What an object carries that is not free text.
fn carried<'a>(mut call: Call<'a>, object: &Opened, manner: Manner) -> Call<'a> {
    let traits = &object.body.traits;
    if matches!(traits.encryption, Some(Encryption::Store { .. })) {
        call = call.header("x-amz-server-side-encryption", "AES256");
    }
    if manner.locks {
        if let Some(retention) = traits.lock.retention {
            let mode = match retention.mode {
                RetentionMode::Governance => "GOVERNANCE",
                RetentionMode::Compliance => "COMPLIANCE",
            };
            let until = crate::runtime::history::rfc3339(retention.until_ms);
            call = call
                .header("x-amz-object-lock-mode", mode)
                .header("x-amz-object-lock-retain-until-date", &until);
        }
        if traits.lock.legal_hold {
            call = call.header("x-amz-object-lock-legal-hold", "ON");
        }
    }
    call
}

/// The headers that clients gave, as they were.
fn texts(object: &Opened) -> Result<HeaderMap, String> {
    let (meta, mut headers) = (&object.body.traits.meta, HeaderMap::new());
    let mut add = |name: HeaderName, value: &str| match HeaderValue::from_bytes(value.as_bytes()) {
        Ok(value) => {
            headers.append(name, value);
            Ok(())
        }
        Err(_) => Err(format!("its {name} has characters that no request can carry")),
    };
    let given = [
        (header::CONTENT_TYPE, &meta.content_type),
        (header::CONTENT_ENCODING, &meta.content_encoding),
        (header::CONTENT_LANGUAGE, &meta.content_language),
        (header::CONTENT_DISPOSITION, &meta.content_disposition),
        (header::CACHE_CONTROL, &meta.cache_control),
        (HeaderName::from_static("x-amz-website-redirect-location"), &meta.website_redirect),
    ];
    for (name, value) in given {
        if let Some(value) = value {
            add(name, value)?;
        }
    }
    if let Some(expires) = meta.expires_s {
        add(header::EXPIRES, &super::http_date(expires))?;
    }
    for (name, value) in &meta.user {
        let name = HeaderName::from_bytes(format!("x-amz-meta-{name}").as_bytes())
            .map_err(|_| format!("its metadata {name:?} is no name that a request can carry"))?;
        add(name, value)?;
    }
    if !object.body.traits.tags.is_empty() {
        let mut tags = form_urlencoded::Serializer::new(String::new());
        for (key, value) in &object.body.traits.tags {
            tags.append_pair(key, value);
        }
        add(HeaderName::from_static("x-amz-tagging"), &tags.finish())?;
    }
    Ok(headers)
}
