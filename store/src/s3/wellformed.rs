//! What must be right about a request before anything looks further into it, with the answers that S3 gives where it
//! is not. The protocol's library refuses most of it too, under codes of its own.
//!
//! It reads heads only, and judges no signature.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, Method, Request, header};
use s3s::{S3Result, s3_error};

use super::XML_MAX;
use super::answer::custom;

/// The longest life of a presigned URL, in seconds, as S3 has it.
const PRESIGNED_MAX_S: i64 = 7 * 24 * 3600;

const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const DIGEST: HeaderName = HeaderName::from_static("x-amz-content-sha256");
const DECODED_LENGTH: HeaderName = HeaderName::from_static("x-amz-decoded-content-length");

/// What belongs to a presigned URL.
const PRESIGNED: [&str; 6] = [
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Signature",
    "X-Amz-Date",
    "X-Amz-SignedHeaders",
    "X-Amz-Expires",
];

/// Subresources whose bodies are documents.
const DOCUMENTS: [&str; 15] = [
    "acl",
    "cors",
    "delete",
    "encryption",
    "legal-hold",
    "lifecycle",
    "notification",
    "object-lock",
    "ownershipControls",
    "policy",
    "publicAccessBlock",
    "retention",
    "tagging",
    "uploadId",
    "versioning",
];

/// Refuses what is malformed.
pub(super) fn check<B>(req: &Request<B>) -> S3Result<()> {
    if !matches!(
        *req.method(),
        Method::GET | Method::HEAD | Method::PUT | Method::POST | Method::DELETE | Method::OPTIONS
    ) {
        return Err(s3_error!(MethodNotAllowed, "The specified method is not allowed against this resource"));
    }
    if !escapes_are_whole(req.uri().path()) {
        return Err(s3_error!(InvalidURI, "Couldn't parse the specified URI"));
    }
    let query: Vec<(Cow<'_, str>, Cow<'_, str>)> =
        form_urlencoded::parse(req.uri().query().unwrap_or_default().as_bytes()).collect();
    let has = |name: &str| query.iter().any(|(known, _)| known == name);
    if has("Signature") {
        return Err(old_signature());
    }
    if let Some((_, seconds)) = query.iter().find(|(name, _)| name == "X-Amz-Expires") {
        check_expiry(seconds)?;
    }
    if has("X-Amz-Algorithm") || has("X-Amz-Credential") || has("X-Amz-Signature") {
        check_presigned(&query)?;
    } else if let Some(value) = req.headers().get(header::AUTHORIZATION) {
        check_authorization(value.to_str().unwrap_or_default())?;
        check_date(req.headers())?;
        check_digest(req.headers())?;
    }
    check_document(req, &query)
}

fn old_signature() -> s3s::S3Error {
    // It covers too little of the request and, in a header, is good for ever.
    s3_error!(InvalidRequest, "Signature Version 2 is not offered; use AWS4-HMAC-SHA256")
}

fn escapes_are_whole(path: &str) -> bool {
    let mut rest = path.as_bytes();
    while let Some(at) = rest.iter().position(|&byte| byte == b'%') {
        match rest.get(at + 1..at + 3) {
            Some(digits) if digits.iter().all(u8::is_ascii_hexdigit) => rest = &rest[at + 3..],
            _ => return false,
        }
    }
    true
}

fn check_authorization(text: &str) -> S3Result<()> {
    let malformed = |why: &str| {
        Err(s3_error!(AuthorizationHeaderMalformed, "The authorization header is malformed; {}", why))
    };
    let Some((scheme, fields)) = text.split_once(' ') else {
        return Err(s3_error!(
            InvalidArgument,
            "Authorization header is invalid: a scheme and a space are required"
        ));
    };
    match scheme {
        "AWS" => return Err(old_signature()),
        "AWS4-HMAC-SHA256" => {}
        _ => return Err(s3_error!(InvalidArgument, "Unsupported Authorization Type")),
    }
    let field =
        |name: &str| fields.split(',').find_map(|field| field.trim().strip_prefix(name)?.strip_prefix('='));
    let (Some(credential), Some(_), Some(_)) =
        (field("Credential"), field("SignedHeaders"), field("Signature"))
    else {
        return malformed("it needs Credential, SignedHeaders and Signature");
    };
    check_credential(credential).or_else(|why| malformed(&why))
}

/// `KEY/YYYYMMDD/REGION/SERVICE/aws4_request`
fn check_credential(credential: &str) -> Result<(), String> {
    let parts: Vec<&str> = credential.split('/').collect();
    let formed = match parts[..] {
        [key, date, _, service, end] => {
            let is_date = date.len() == 8 && date.bytes().all(|byte| byte.is_ascii_digit());
            (!key.is_empty() && is_date).then_some((service, end))
        }
        _ => None,
    };
    let Some((service, end)) = formed else {
        return Err(
            "the Credential is mal-formed; expecting \"<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request\""
                .into(),
        );
    };
    if service != "s3" {
        return Err(format!("incorrect service {service:?}. This endpoint belongs to \"s3\""));
    }
    if end != "aws4_request" {
        return Err(format!("incorrect terminal {end:?}. This endpoint uses \"aws4_request\""));
    }
    Ok(())
}

/// `YYYYMMDDTHHMMSSZ`
fn is_stamp(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() == 16
        && bytes.iter().enumerate().all(|(at, byte)| match at {
            8 => *byte == b'T',
            15 => *byte == b'Z',
            _ => byte.is_ascii_digit(),
        })
}

fn check_date(headers: &HeaderMap) -> S3Result<()> {
    let stamp = headers.get(DATE).map(|value| value.to_str().unwrap_or_default());
    if stamp.map_or(headers.contains_key(header::DATE), is_stamp) {
        return Ok(());
    }
    Err(s3_error!(AccessDenied, "AWS authentication requires a valid Date or x-amz-date header"))
}

fn check_digest(headers: &HeaderMap) -> S3Result<()> {
    let Some(digest) = headers.get(DIGEST) else {
        return Err(s3_error!(
            InvalidRequest,
            "Missing required header for this request: x-amz-content-sha256"
        ));
    };
    let digest = digest.to_str().unwrap_or_default();
    let is_digest = digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
    if digest.starts_with("STREAMING-") {
        return if headers.contains_key(DECODED_LENGTH) { Ok(()) } else { Err(no_length()) };
    }
    if is_digest || digest == "UNSIGNED-PAYLOAD" {
        return Ok(());
    }
    Err(s3_error!(
        InvalidArgument,
        "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, one of STREAMING-..., or a valid sha256 value"
    ))
}

fn check_presigned(query: &[(Cow<'_, str>, Cow<'_, str>)]) -> S3Result<()> {
    let wrong =
        |why: String| Err(custom("AuthorizationQueryParametersError", http::StatusCode::BAD_REQUEST, why));
    let value = |name: &str| query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_ref());
    if let Some(missing) = PRESIGNED.into_iter().find(|name| value(name).is_none()) {
        return wrong(format!("Query-string authentication version 4 requires the {missing} parameter"));
    }
    if value("X-Amz-Algorithm") != Some("AWS4-HMAC-SHA256") {
        return wrong("X-Amz-Algorithm only supports \"AWS4-HMAC-SHA256\"".into());
    }
    if let Err(why) = check_credential(value("X-Amz-Credential").unwrap_or_default()) {
        return wrong(format!("Error parsing the X-Amz-Credential parameter; {why}"));
    }
    if !is_stamp(value("X-Amz-Date").unwrap_or_default()) {
        return wrong("X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\"".into());
    }
    Ok(())
}

fn check_expiry(seconds: &str) -> S3Result<()> {
    match seconds.parse::<i64>() {
        Ok(seconds) if (0..=PRESIGNED_MAX_S).contains(&seconds) => Ok(()),
        _ => Err(s3_error!(AccessDenied, "X-Amz-Expires is from 0 to 604800 seconds")),
    }
}

fn check_document<B>(req: &Request<B>, query: &[(Cow<'_, str>, Cow<'_, str>)]) -> S3Result<()> {
    if !matches!(*req.method(), Method::PUT | Method::POST) {
        return Ok(());
    }
    let length = req.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let is_document = query.iter().any(|(name, _)| DOCUMENTS.contains(&name.as_ref()))
        && !query.iter().any(|(name, _)| name == "partNumber");
    if is_document && length.is_some_and(|length| length > XML_MAX as u64) {
        return Err(s3_error!(MaxMessageLengthExceeded, "Your request was too big; nothing was changed"));
    }
    Ok(())
}

fn no_length() -> s3s::S3Error {
    s3_error!(MissingContentLength, "You must provide the Content-Length HTTP header")
}

/// Refuses an object whose length nobody tells: an empty one would be stored in its place.
pub(super) fn check_length(headers: &HeaderMap) -> S3Result<()> {
    let told =
        headers.contains_key(header::CONTENT_LENGTH) || headers.contains_key(header::TRANSFER_ENCODING);
    if told { Ok(()) } else { Err(no_length()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_an_escape_is_none() {
        for (path, whole) in [("/a%20b", true), ("/", true), ("/%", false), ("/%4", false), ("/%zz", false)] {
            assert_eq!(escapes_are_whole(path), whole, "{path}");
        }
    }

    #[test]
    fn what_aws_clients_send_is_well_formed() {
        let now = "AWS4-HMAC-SHA256 Credential=AKID/20261122/eu-west-1/s3/aws4_request, SignedHeaders=host, Signature=ab";
        assert!(check_authorization(now).is_ok());
        assert!(check_authorization(&now.replace(", ", ",")).is_ok());
        assert!(is_stamp("20261122T145200Z") && !is_stamp("2026-11-22") && !is_stamp(""));
    }
}
