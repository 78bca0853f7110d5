//! What the protocol's library leaves to its caller at the edge of a request.
//!
//! Each answer gets an id by which it can be found again; an error names it, and the resource, in its body. The few
//! places where the library's writing differs from what
//! clients expect are set right here, and nowhere else.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use s3s::dto::Tagging;
use s3s::validation::{AwsNameValidation, NameValidation};
use s3s::{Body, S3Result, s3_error};

/// The longest error or document that is looked into, in bytes: larger ones are no errors.
const REWRITTEN_MAX: u64 = 64 * 1024;

/// The header that carries a request's id.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-amz-request-id");

/// Which names buckets may have: those of S3, in which a dot and a dash are no neighbours, so that each part is
/// the name of a host.
pub(super) struct Names;

impl NameValidation for Names {
    fn validate_bucket_name(&self, name: &str) -> bool {
        AwsNameValidation::new().validate_bucket_name(name) && !name.contains(".-") && !name.contains("-.")
    }
}

/// A number for each request of this process, behind one that differs between processes.
pub(super) struct Ids {
    process: u64,
    next: AtomicU64,
}

impl Default for Ids {
    fn default() -> Ids {
        let mut bytes = [0; 8];
        // Without chance, ids repeat after a restart: they are for finding a request, and no secret.
        let _ = getrandom::fill(&mut bytes);
        Ids { process: u64::from_le_bytes(bytes), next: AtomicU64::new(0) }
    }
}

impl Ids {
    pub(super) fn next(&self) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        format!("{:016X}", self.process.wrapping_add(number.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
    }
}

/// Path and query of a request.
pub(super) fn target<B>(req: &Request<B>) -> &str {
    req.uri().path_and_query().map_or("/", |target| target.as_str())
}

/// What of a request its answer will need.
pub(super) struct Asked {
    path: String,
    attributes: bool,
    acl: bool,
    form: bool,
    /// It waits for `100 Continue` before it sends its body.
    expects: bool,
    /// It has no body to wait for.
    empty: bool,
}

impl Asked {
    pub(super) fn of<B>(req: &Request<B>) -> Asked {
        let query = req.uri().query().unwrap_or_default();
        let kind = req.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
        let has = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
        Asked {
            path: req.uri().path().to_owned(),
            attributes: has("attributes"),
            acl: has("acl"),
            form: kind.starts_with(b"multipart/form-data"),
            expects: req.headers().contains_key(header::EXPECT),
            empty: req.headers().get(header::CONTENT_LENGTH).is_none_or(|len| len == "0"),
        }
    }

    /// Closes the connection where the answer may have come instead of `100 Continue`: clients of the botocore
    /// family take its first line for that of the next request on the connection, too, and a failure could be
    /// read as a success.
    pub(super) fn close_if_unread(&self, answer: &mut Response<Body>) {
        let is_error = answer.status().is_client_error() || answer.status().is_server_error();
        if self.expects && (is_error || self.empty) {
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

/// Reads the tags of a form: a document like that of `PutObjectTagging`.
pub(super) fn tagging(text: &str) -> S3Result<Tagging> {
    let mut deserializer = s3s::xml::Deserializer::new(text.as_bytes());
    let read = s3s::xml::Deserialize::deserialize(&mut deserializer);
    read.map_err(|_| s3_error!(MalformedXML, "The tags of the form are no document of tags"))
}

/// Completes an answer.
pub(super) async fn finish(mut answer: Response<Body>, asked: &Asked, id: &str) -> Response<Body> {
    if let Ok(id) = HeaderValue::from_str(id) {
        answer.headers_mut().insert(REQUEST_ID, id);
    }
    let is_error = answer.status().is_client_error() || answer.status().is_server_error();
    asked.close_if_unread(&mut answer);
    let is_xml = answer.headers().get(header::CONTENT_TYPE).is_some_and(|t| t == "application/xml");
    if !is_xml || !(is_error || asked.attributes) {
        return answer;
    }
    let size = hyper::body::Body::size_hint(answer.body()).upper();
    if size.is_none_or(|size| size > REWRITTEN_MAX) {
        return answer;
    }
    let (mut parts, body) = answer.into_parts();
    let Ok(body) = body.collect().await else { return Response::from_parts(parts, Body::empty()) };
    let body = body.to_bytes();
    let text = String::from_utf8_lossy(&body);
    let mut text = if is_error {
        // A form that its policy does not permit is refused, not malformed.
        if asked.form
            && text.contains("<Code>InvalidPolicyDocument</Code>")
            && (text.contains("Policy condition") || text.contains("does not match bucket in URL"))
        {
            parts.status = StatusCode::FORBIDDEN;
        }
        let text = with_id(&text, &asked.path, id);
        if asked.acl {
            text.replace("<Code>MalformedXML</Code>", "<Code>MalformedACLError</Code>")
        } else {
            text
        }
    } else {
        // The library writes every entity tag in quotes; here alone they are not wanted.
        let bare = text.replace("<ETag>&quot;", "<ETag>").replace("&quot;</ETag>", "</ETag>");
        bare.replace("<ETag>\"", "<ETag>").replace("\"</ETag>", "</ETag>")
    };
    if parts.status == StatusCode::FORBIDDEN {
        text = text.replace("<Code>InvalidPolicyDocument</Code>", "<Code>AccessDenied</Code>");
    }
    if parts.headers.contains_key(header::CONTENT_LENGTH) {
        parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(text.len()));
    }
    Response::from_parts(parts, Body::from(Bytes::from(text)))
}

/// The body of an error with the resource and the request's id in it.
fn with_id(text: &str, path: &str, id: &str) -> String {
    let escaped = path.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let more = format!("<Resource>{escaped}</Resource><RequestId>{id}</RequestId></Error>");
    match text.strip_suffix("</Error>") {
        Some(start) if !text.contains("<RequestId>") => format!("{start}{more}"),
        _ => text.to_owned(),
    }
}
