//! Which error answer a client gets for which failure, in words that say what it means for the data.

use http::{HeaderMap, HeaderValue, StatusCode, header};
use s3s::{S3Error, S3ErrorCode, S3Result, StdError, s3_error};

use crate::apply::Refusal;
use crate::backend::{NotServing, ReadError, WriteError};
use crate::index::IndexError;

/// Seconds after which a client that was sent away may ask again: longer than an ordinary failover.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// Gives an error headers; they replace the library's own, so the content type is among them.
pub(super) fn with_headers(mut error: S3Error, fill: impl FnOnce(&mut HeaderMap)) -> S3Error {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    fill(&mut headers);
    error.set_headers(headers);
    error
}

/// An error whose code the library does not know.
pub(super) fn custom(code: &'static str, status: StatusCode, message: impl Into<String>) -> S3Error {
    let mut error = S3Error::with_message(S3ErrorCode::Custom(code.into()), message.into());
    error.set_status_code(status);
    error
}

/// Asks the client to come back.
pub(super) fn unavailable(reason: &str) -> S3Error {
    let error = S3Error::with_message(S3ErrorCode::ServiceUnavailable, reason.to_owned());
    with_headers(error, |headers| {
        headers.insert(header::RETRY_AFTER, RETRY_AFTER);
    })
}

/// Sends the client to where the primary is (the front adds path and query), or asks it to come back.
pub(super) fn not_serving(no: &NotServing) -> S3Error {
    let location = no.redirect.as_deref().and_then(|to| HeaderValue::from_str(to).ok());
    match location {
        None => unavailable(&no.reason),
        Some(location) => {
            let error = S3Error::with_message(S3ErrorCode::TemporaryRedirect, no.reason.clone());
            with_headers(error, |headers| {
                headers.insert(header::LOCATION, location);
                headers.insert(header::RETRY_AFTER, RETRY_AFTER);
            })
        }
    }
}

pub(super) fn write(error: WriteError) -> S3Error {
    match error {
        WriteError::NotPrimary { redirect } => {
            let reason = "This member is not the primary any more; whether the write survived is not known. \
                          Send it again";
            not_serving(&NotServing { redirect, reason: reason.into() })
        }
        WriteError::DiskFull => custom(
            "XHoldfastDiskFull",
            StatusCode::INSUFFICIENT_STORAGE,
            "The disk is full: nothing was stored, and everything stored earlier is intact",
        ),
        WriteError::Overloaded => {
            let error = s3_error!(SlowDown, "Too many writes are waiting; nothing was stored. Try again");
            with_headers(error, |headers| {
                headers.insert(header::RETRY_AFTER, RETRY_AFTER);
            })
        }
        WriteError::Failed(why) => internal(&why),
    }
}

pub(super) fn refusal(refusal: Refusal) -> S3Error {
    let code = match refusal {
        Refusal::NoSuchBucket => S3ErrorCode::NoSuchBucket,
        Refusal::BucketExists => S3ErrorCode::BucketAlreadyOwnedByYou,
        Refusal::BucketNotEmpty => S3ErrorCode::BucketNotEmpty,
        Refusal::NoSuchKey => S3ErrorCode::NoSuchKey,
        Refusal::NoSuchVersion => S3ErrorCode::NoSuchVersion,
        Refusal::IsDeleteMarker => S3ErrorCode::MethodNotAllowed,
        Refusal::PreconditionFailed => S3ErrorCode::PreconditionFailed,
        Refusal::NoSuchUpload => S3ErrorCode::NoSuchUpload,
        Refusal::InvalidPart => S3ErrorCode::InvalidPart,
        Refusal::InvalidPartOrder => S3ErrorCode::InvalidPartOrder,
        Refusal::EntityTooSmall => S3ErrorCode::EntityTooSmall,
        Refusal::EntityTooLarge => S3ErrorCode::EntityTooLarge,
        Refusal::BadDigest => S3ErrorCode::BadDigest,
        Refusal::Locked => S3ErrorCode::AccessDenied,
        Refusal::LockNeedsVersions => S3ErrorCode::InvalidBucketState,
        Refusal::NoObjectLock | Refusal::Malformed => S3ErrorCode::InvalidRequest,
        Refusal::QuotaExceeded => {
            return custom("QuotaExceeded", StatusCode::FORBIDDEN, refusal.to_string());
        }
        // These are answers of the administrative interface, and never of this one.
        Refusal::NoSuchUser | Refusal::UserExists | Refusal::AccessKeyTaken | Refusal::UserOwnsBuckets => {
            S3ErrorCode::InvalidRequest
        }
        Refusal::SourceChanged | Refusal::StaleEpoch | Refusal::GivenUp => {
            return unavailable(&refusal.to_string());
        }
    };
    S3Error::with_message(code, refusal.to_string())
}

/// What the root user is called where owners are shown.
pub(super) const ROOT_ID: &str = "holdfast";

/// An owner's id as clients see it.
pub(super) fn shown_id(id: &str) -> &str {
    if id.is_empty() { ROOT_ID } else { id }
}

/// An owner's id as it is stored, from what clients send.
pub(super) fn stored_id(id: &str) -> &str {
    if id == ROOT_ID { "" } else { id }
}

impl From<IndexError> for S3Error {
    fn from(error: IndexError) -> S3Error {
        tracing::error!(%error, "a request could not be answered from the index");
        internal("the index could not be read")
    }
}

pub(super) fn read(error: &ReadError) -> S3Error {
    internal(&match error {
        ReadError::Damaged(_) => "this member's copy of the object is damaged; it was reported".to_owned(),
        ReadError::Io(why) => format!("this member's disk failed: {why}"),
    })
}

pub(super) fn internal(why: &str) -> S3Error {
    S3Error::with_message(S3ErrorCode::InternalError, why.to_owned())
}

/// A body that did not arrive as announced. The library's stream errors have no public types, only
/// their names in the text.
pub(super) fn body(error: &StdError) -> S3Error {
    let text = error.to_string();
    if text.contains("Sha256Mismatch") {
        let message = "The body's SHA-256 is not the one that was signed; nothing was stored";
        custom("XAmzContentSHA256Mismatch", StatusCode::BAD_REQUEST, message)
    } else if text.contains("SignatureMismatch") {
        s3_error!(SignatureDoesNotMatch, "The signature of a chunk is wrong; nothing was stored")
    } else if text.contains("AwsChunkedStreamError") && !text.contains("Incomplete") {
        s3_error!(InvalidRequest, "The chunked body is malformed; nothing was stored")
    } else {
        s3_error!(IncompleteBody, "The body ended early; nothing was stored")
    }
}

/// Refuses what a write asks for beside the bytes and would not get: accepted and forgotten would be worse.
pub(super) fn refuse_unsupported(headers: &HeaderMap) -> S3Result<()> {
    if headers.contains_key("x-amz-write-offset-bytes") {
        return Err(s3_error!(NotImplemented, "Appending to objects is not offered; nothing was stored"));
    }
    if headers.get("x-amz-storage-class").is_some_and(|class| class != "STANDARD") {
        return Err(s3_error!(InvalidStorageClass, "The only storage class is STANDARD"));
    }
    Ok(())
}
