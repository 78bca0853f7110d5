//! Rules for pages of other origins: which of them a browser may let use a bucket.
//!
//! The rules protect a browser's user, not the store: a request that no rule permits is served like any
//! other, only without the headers that let a page read the answer. Preflights are answered here, before
//! anything else looks at the request: they carry no signature.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use s3s::dto::{CORSConfiguration, CORSRule};
use s3s::host::S3Host as _;
use s3s::{Body, S3Result, s3_error};

use super::host::Hosts;
use super::{Store, settings};
use crate::bucket::Document;
use crate::index::Lookup;

/// The most rules of a bucket, as S3 has it.
const RULES_MAX: usize = 100;

/// Refuses rules that could not be kept.
pub(super) fn check(configuration: &CORSConfiguration) -> S3Result<()> {
    let rules = &configuration.cors_rules;
    if rules.is_empty() || rules.len() > RULES_MAX {
        return Err(s3_error!(MalformedXML, "A bucket has 1 to {RULES_MAX} CORS rules"));
    }
    for rule in rules {
        const METHODS: [&str; 5] = ["GET", "PUT", "POST", "DELETE", "HEAD"];
        if let Some(other) = rule.allowed_methods.iter().find(|m| !METHODS.contains(&m.as_str())) {
            return Err(s3_error!(InvalidRequest, "Found unsupported HTTP method in CORS config: {other}"));
        }
        let headers = rule.allowed_headers.iter().flatten();
        if rule.allowed_origins.iter().chain(headers).any(|pattern| pattern.matches('*').count() > 1) {
            return Err(s3_error!(InvalidRequest, "An origin or header has one * at most"));
        }
    }
    Ok(())
}

fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, end)) => {
            text.len() >= start.len() + end.len() && text.starts_with(start) && text.ends_with(end)
        }
    }
}

/// The first rule that permits this, if there is one.
fn permits<'a>(
    rules: &'a [CORSRule],
    origin: &str,
    method: &str,
    headers: &[String],
) -> Option<&'a CORSRule> {
    rules.iter().find(|rule| {
        let allowed: Vec<String> = rule.allowed_headers.iter().flatten().map(|h| h.to_lowercase()).collect();
        rule.allowed_origins.iter().any(|pattern| fits(pattern, origin))
            && rule.allowed_methods.iter().any(|allowed| allowed.as_str() == method)
            && headers.iter().all(|header| allowed.iter().any(|pattern| fits(pattern, header)))
    })
}

/// The headers that let a page of some origin read an answer.
#[derive(Clone, Debug)]
pub(super) struct Permission {
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Permission {
    fn new(rule: &CORSRule, origin: &str, method: &str) -> Permission {
        let any = rule.allowed_origins.iter().any(|pattern| pattern == "*");
        let mut headers = Vec::new();
        let mut set = |name: HeaderName, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.push((name, value));
            }
        };
        set(header::ACCESS_CONTROL_ALLOW_ORIGIN, if any { "*" } else { origin });
        set(header::ACCESS_CONTROL_ALLOW_METHODS, method);
        if !any {
            set(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, "true");
            set(header::VARY, "Origin, Access-Control-Request-Headers, Access-Control-Request-Method");
        }
        if let Some(exposed) = rule.expose_headers.as_ref().filter(|exposed| !exposed.is_empty()) {
            set(header::ACCESS_CONTROL_EXPOSE_HEADERS, &exposed.join(", "));
        }
        if let Some(seconds) = rule.max_age_seconds {
            set(header::ACCESS_CONTROL_MAX_AGE, &seconds.to_string());
        }
        Permission { headers }
    }

    /// Adds them to an answer.
    pub(super) fn mark(self, headers: &mut HeaderMap) {
        for (name, value) in self.headers {
            headers.insert(name, value);
        }
    }
}

/// What became of a request.
pub(super) enum Begun {
    /// It was a preflight, and this is its answer.
    Answered(Response<Body>),
    /// It goes on; its answer carries this.
    Goes(Option<Permission>),
}

/// Looks the rules of a request's bucket up.
pub(super) struct Cors {
    store: Arc<Store>,
    hosts: Hosts,
}

impl Cors {
    pub(super) fn new(store: Arc<Store>, hosts: Hosts) -> Cors {
        Cors { store, hosts }
    }

    /// Answers a preflight, or finds what the answer of a page's request carries.
    pub(super) async fn begin<B>(&self, req: &Request<B>) -> S3Result<Begun> {
        let preflight = req.method() == Method::OPTIONS;
        let text =
            |name: HeaderName| req.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let Some(origin) = text(header::ORIGIN) else {
            return if preflight {
                Err(s3_error!(InvalidRequest, "Insufficient information. Origin request header needed."))
            } else {
                Ok(Begun::Goes(None))
            };
        };
        let asked = text(header::ACCESS_CONTROL_REQUEST_METHOD);
        let method = match (&asked, preflight) {
            (Some(asked), _) => asked.clone(),
            (None, true) => {
                return Err(s3_error!(InvalidRequest, "Invalid Access-Control-Request-Method: null"));
            }
            (None, false) => req.method().as_str().to_owned(),
        };
        let headers: Vec<String> = text(header::ACCESS_CONTROL_REQUEST_HEADERS)
            .unwrap_or_default()
            .split(',')
            .map(|name| name.trim().to_lowercase())
            .filter(|name| !name.is_empty())
            .collect();
        let permission = match self.bucket(req) {
            None => None,
            Some(bucket) => self.permission(bucket, origin, method, headers).await?,
        };
        if !preflight {
            return Ok(Begun::Goes(permission));
        }
        let permission = permission
            .ok_or_else(|| s3_error!(AccessDenied, "CORSResponse: This CORS request is not allowed."))?;
        let mut answer = Response::new(Body::empty());
        *answer.status_mut() = StatusCode::OK;
        if let Some(asked) = req.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
            answer.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
        }
        permission.mark(answer.headers_mut());
        Ok(Begun::Answered(answer))
    }

    fn bucket<B>(&self, req: &Request<B>) -> Option<String> {
        let host = req.headers().get(header::HOST).and_then(|v| v.to_str().ok()).unwrap_or_default();
        if let Ok(host) = self.hosts.parse_host_header(host)
            && let Some(bucket) = host.bucket()
        {
            return Some(bucket.to_owned());
        }
        let bucket = req.uri().path().trim_start_matches('/').split('/').next().unwrap_or_default();
        (!bucket.is_empty()).then(|| bucket.to_owned())
    }

    async fn permission(
        &self,
        bucket: String,
        origin: String,
        method: String,
        headers: Vec<String>,
    ) -> S3Result<Option<Permission>> {
        let rules = self
            .store
            .ask(move |_, view| match view.bucket(&bucket)? {
                Some(state) if state.documents.contains(&Document::Cors) => {
                    settings::document::<CORSConfiguration>(&view, &bucket, Document::Cors)
                }
                _ => Ok(None),
            })
            .await?;
        Ok(rules.and_then(|rules| {
            let rule = permits(&rules.cors_rules, &origin, &method, &headers)?;
            Some(Permission::new(rule, &origin, &method))
        }))
    }
}
