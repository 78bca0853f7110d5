//! Writing to the primary by S3, as any client does, with the root user's keys: what this returns as stored was
//! acknowledged by the whole in-sync set.
//!
//! Bodies go with their MD5, which the primary compares before it stores anything.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::client::{HttpRequest, HttpRequestBody};

/// How long the primary may take to accept a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// A request over which nothing moved for this long is given up.
const SILENCE: Duration = Duration::from_secs(30);
/// Pause before a request that found no primary is sent again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// How often a request is sent, all in all: a failover is over long before.
const TRIES: usize = 40;
/// The longest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// What a body is made of, each time that it is sent.
pub(super) type MakeBody<'a> = dyn Fn() -> reqwest::Body + Send + Sync + 'a;

/// One request. `path` and `query` are as they are meant; they are encoded here.
pub(super) struct Call<'a> {
    method: Method,
    path: String,
    query: Vec<(&'static str, String)>,
    headers: HeaderMap,
    /// Headers of free text: they are not signed, since not everybody normalizes blanks alike.
    texts: HeaderMap,
    body: Option<(u64, &'a MakeBody<'a>)>,
    broken: Option<Broken>,
}

/// Why a body could not be read to its end, once that is known: sending it again is of no use then.
pub(super) type Broken = Arc<OnceLock<String>>;

impl<'a> Call<'a> {
    pub(super) fn new(method: Method, bucket: &str, key: Option<&str>) -> Call<'a> {
        let path = match key {
            Some(key) => format!("/{}/{}", encoded(bucket), encoded(key)),
            None => format!("/{}", encoded(bucket)),
        };
        let (headers, texts) = (HeaderMap::new(), HeaderMap::new());
        Call { method, path, query: Vec::new(), headers, texts, body: None, broken: None }
    }

    pub(super) fn query(mut self, name: &'static str, value: impl Into<String>) -> Call<'a> {
        self.query.push((name, value.into()));
        self
    }

    pub(super) fn header(mut self, name: &'static str, value: &str) -> Call<'a> {
        // Everything that comes here is made of letters and digits.
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(HeaderName::from_static(name), value);
        }
        self
    }

    pub(super) fn texts(mut self, texts: &HeaderMap) -> Call<'a> {
        self.texts = texts.clone();
        self
    }

    pub(super) fn unless(mut self, broken: &Broken) -> Call<'a> {
        self.broken = Some(Arc::clone(broken));
        self
    }

    pub(super) fn body(mut self, len: u64, make: &'a MakeBody<'a>) -> Call<'a> {
        self.body = Some((len, make));
        self
    }
}

/// All bytes but unreserved ones and slashes as percent and two digits.
fn encoded(text: &str) -> String {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    let one = |byte| if good(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(one).collect()
}

/// What the primary said.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The text of an element of the answer, which this very store wrote.
    pub(super) fn element(&self, name: &str) -> Option<String> {
        let text = std::str::from_utf8(&self.body).ok()?;
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        let (value, _) = rest.split_once(&format!("</{name}>"))?;
        Some(value.replace("&quot;", "\"").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    }

    /// The answer in words, for one that is no success.
    pub(super) fn refusal(&self) -> String {
        match (self.element("Code"), self.element("Message")) {
            (Some(code), Some(message)) => format!("{message} ({code})"),
            (Some(code), None) => code,
            _ => format!("the primary answered {}", self.status),
        }
    }
}

/// The way to the primary.
#[derive(Clone)]
pub(super) struct Primary {
    client: reqwest::Client,
    /// `http://host:port` of every place where it may be.
    places: Vec<String>,
    root: Arc<AwsCredential>,
}

impl Primary {
    /// `places` are tried one after the other; the first one is where it is as a rule.
    pub(super) fn new(places: Vec<String>, access_key: &str, secret_key: &str) -> reqwest::Result<Primary> {
        // No proxy of the environment, and nobody is followed: the signature is for the primary.
        let client =
            crate::plain_http::builder().connect_timeout(CONNECT_WITHIN).read_timeout(SILENCE).build()?;
        let root =
            AwsCredential { key_id: access_key.to_owned(), secret_key: secret_key.to_owned(), token: None };
        Ok(Primary { client, places, root: Arc::new(root) })
    }

    /// The primary's answer. A request that found none is sent again, elsewhere where there is elsewhere, so whoever
    /// asks must bear that it was carried out before.
    ///
    /// # Errors
    /// No primary answered, in words.
    pub(super) async fn call(&self, call: &Call<'_>) -> Result<Answer, String> {
        let mut why = "no place is known where the primary could be".to_owned();
        for attempt in 0..TRIES {
            let Some(place) = self.places.get(attempt % self.places.len().max(1)) else { break };
            match self.once(place, call).await {
                Ok(answer) if answer.status == StatusCode::SERVICE_UNAVAILABLE => why = answer.refusal(),
                Ok(answer) if answer.status.is_redirection() => {
                    why = format!("{place} is not the primary");
                }
                Ok(answer) => return Ok(answer),
                Err(error) => why = format!("{place}: {error}"),
            }
            if let Some(why) = call.broken.as_ref().and_then(|broken| broken.get()) {
                return Err(why.clone());
            }
            // Every place is asked before anybody waits.
            if (attempt + 1) % self.places.len().max(1) == 0 {
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
        Err(format!("the primary did not answer: {why}"))
    }

    async fn once(&self, place: &str, call: &Call<'_>) -> Result<Answer, String> {
        let query: Vec<String> = call
            .query
            .iter()
            .map(|(name, value)| format!("{name}={}", encoded(value).replace('/', "%2F")))
            .collect();
        let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
        let url = format!("{}{}{query}", place.trim_end_matches('/'), call.path);
        let mut signed: HttpRequest = http::Request::builder()
            .method(call.method.clone())
            .uri(&url)
            .body(HttpRequestBody::empty())
            .map_err(|error| error.to_string())?;
        *signed.headers_mut() = call.headers.clone();
        AwsAuthorizer::new(&self.root, "s3", "us-east-1")
            .with_sign_payload(false)
            .try_authorize(&mut signed, None)
            .map_err(|error| error.to_string())?;
        let mut headers = std::mem::take(signed.headers_mut());
        headers.extend(call.texts.clone());
        let mut request = self.client.request(call.method.clone(), &url).headers(headers);
        if let Some((len, make)) = call.body {
            request = request.header(http::header::CONTENT_LENGTH, len).body(make());
        } else if call.method != Method::GET && call.method != Method::HEAD {
            request = request.header(http::header::CONTENT_LENGTH, 0);
        }
        let mut answer = request.send().await.map_err(|error| said(&error))?;
        let (status, headers) = (answer.status(), std::mem::take(answer.headers_mut()));
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(|error| said(&error))? {
            if body.len() + piece.len() > MAX_ANSWER {
                return Err("the answer is longer than any of this store".to_owned());
            }
            body.extend_from_slice(&piece);
        }
        Ok(Answer { status, headers, body: Bytes::from(body) })
    }
}

/// The innermost cause: the others only say that there is one.
fn said(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
