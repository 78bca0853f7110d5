//! HTTP clients for what is asked of others: plain HTTP, of exactly whom one was told to ask. Nothing here speaks TLS, and
//! the program has no library for it.

use std::error::Error;
use std::io;

use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse,
    HttpResponseBody, HttpService,
};
use reqwest::redirect::Policy;

/// A client that goes through no proxy and follows no redirect.
pub(crate) fn builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder().no_proxy().redirect(Policy::none())
}

/// What the S3 client asks through. The one that its library would bring has TLS in it, and does not compile without.
///
/// Limits of time are those of the client that this is made from; what the library's [`ClientOptions`] say is not read.
#[derive(Clone, Debug)]
pub(crate) struct PlainHttp(reqwest::Client);

impl PlainHttp {
    /// Asks through a client of [`builder`].
    pub(crate) fn new(client: reqwest::Client) -> PlainHttp {
        PlainHttp(client)
    }
}

impl HttpConnector for PlainHttp {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait::async_trait]
impl HttpService for PlainHttp {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let request = reqwest::Request::try_from(request.map(body_of)).map_err(failed)?;
        let answer: http::Response<reqwest::Body> = self.0.execute(request).await.map_err(failed)?.into();
        Ok(answer.map(|body| HttpResponseBody::new(http_body_util::BodyExt::map_err(body, failed))))
    }
}

/// What lies in one piece is kept in one: it can be sent again over another connection.
fn body_of(body: HttpRequestBody) -> reqwest::Body {
    match body.as_bytes() {
        Some(bytes) => bytes.clone().into(),
        None => reqwest::Body::wrap(body),
    }
}

/// The error with its kind, by which the library decides whether a request is repeated. Without the URL, which may bear a
/// signature.
fn failed(error: reqwest::Error) -> HttpError {
    let kind = if error.is_timeout() {
        HttpErrorKind::Timeout
    } else if error.is_connect() {
        HttpErrorKind::Connect
    } else if error.is_decode() {
        HttpErrorKind::Decode
    } else {
        std::iter::successors(error.source(), |&cause| cause.source())
            .find_map(kind_of_cause)
            .unwrap_or(HttpErrorKind::Unknown)
    };
    HttpError::new(kind, error.without_url())
}

fn kind_of_cause(cause: &(dyn Error + 'static)) -> Option<HttpErrorKind> {
    if let Some(error) = cause.downcast_ref::<hyper::Error>() {
        if error.is_timeout() {
            return Some(HttpErrorKind::Timeout);
        }
        let ended = error.is_closed() || error.is_incomplete_message() || error.is_body_write_aborted();
        return ended.then_some(HttpErrorKind::Request);
    }
    match cause.downcast_ref::<io::Error>()?.kind() {
        io::ErrorKind::TimedOut => Some(HttpErrorKind::Timeout),
        io::ErrorKind::ConnectionAborted
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof => Some(HttpErrorKind::Interrupted),
        _ => None,
    }
}
