//! Who may ask this member to change something.
//!
//! With a token configured: whoever shows it. Without one: whoever is on this host, and is not a web
//! page that a browser on this host was lured to. A browser sends requests to loopback for any page,
//! so three more things are asked: the `Origin` is the API itself, the `Host` is a name of this very
//! host (a foreign name that resolves to loopback is DNS rebinding), and no proxy speaks for another.
//!
//! Whatever passes here and changes something is in the audit trail with its outcome, and so is who did not pass.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderName, Method, header};
use axum::middleware::Next;
use axum::response::Response;
use subtle::ConstantTimeEq;

use super::error::ApiError;
use super::{Api, ApiOptions, audit};

/// Headers by which a proxy says for whom it speaks.
const FORWARDED: [HeaderName; 3] =
    [header::FORWARDED, HeaderName::from_static("x-forwarded-for"), HeaderName::from_static("x-real-ip")];
const MEND: &str = "; run the command on the member's own host, or configure `api { token_file = \"FILE\" }` there and show the token";

/// Lets the request pass to its handler, or refuses it.
pub(super) async fn only_who_may(
    State(api): State<Api>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let caller = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
    let verdict = judge(&api.options, caller.map(|caller| caller.ip()), request.headers());
    if let Err(refusal) = verdict {
        audit::refused(&api, caller, &request, &refusal);
        return Err(refusal);
    }
    if request.method() == Method::GET {
        return Ok(next.run(request).await);
    }
    audit::watched(&api, caller, request, next).await
}

/// Whether a request may see what is not for everybody. Nothing is written down of one that may not.
pub(super) fn may(options: &ApiOptions, caller: Option<SocketAddr>, headers: &HeaderMap) -> bool {
    judge(options, caller.map(|caller| caller.ip()), headers).is_ok()
}

/// The rule, free of any I/O. `caller` is `None` where the address of the caller is not known.
fn judge(options: &ApiOptions, caller: Option<IpAddr>, headers: &HeaderMap) -> Result<(), ApiError> {
    if let Some(token) = &options.token {
        return if shows(headers, token) { Ok(()) } else { Err(ApiError::TokenWanted) };
    }
    let forbid = |why: &str| Err(ApiError::Forbidden(format!("{why}{MEND}")));
    if !caller.is_some_and(|ip| ip.to_canonical().is_loopback()) {
        return forbid("no token is configured, so changes are accepted from this host alone");
    }
    if FORWARDED.iter().any(|name| headers.contains_key(name)) {
        return forbid("no token is configured, and the request was forwarded by a proxy for somebody else");
    }
    let mut hosts = headers.get_all(header::HOST).iter().map(|value| value.to_str().unwrap_or_default());
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return forbid("no token is configured, and the request does not say to which host it goes");
    };
    if !names_this_host(host) {
        return forbid("no token is configured, and the Host header is not a name of this host");
    }
    let origins = headers.get_all(header::ORIGIN).iter();
    for origin in origins.map(|value| value.to_str().unwrap_or_default()) {
        let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        if !authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host)) {
            return forbid("no token is configured, and the request comes from a web page elsewhere");
        }
    }
    Ok(())
}

/// Whether the request bears the token. How long the comparison takes tells no more than the length.
fn shows(headers: &HeaderMap, token: &str) -> bool {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return false };
    let Some((scheme, shown)) = value.to_str().ok().and_then(|value| value.split_once(' ')) else {
        return false;
    };
    // An empty token would be shown by anybody.
    !token.is_empty()
        && scheme.eq_ignore_ascii_case("bearer")
        && bool::from(shown.trim().as_bytes().ct_eq(token.as_bytes()))
}

/// Whether a `Host` header names loopback. Another address of this host need not be considered: who
/// connects to it does not come from loopback.
fn names_this_host(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or("", |(name, _)| name),
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    match name.parse::<IpAddr>() {
        Ok(ip) => ip.to_canonical().is_loopback(),
        Err(_) => name.trim_end_matches('.').eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (HeaderName::from_static(k), v.parse().unwrap())).collect()
    }

    fn allowed(caller: &str, pairs: &[(&'static str, &'static str)]) -> bool {
        judge(&ApiOptions::default(), Some(caller.parse().unwrap()), &headers(pairs)).is_ok()
    }

    #[test]
    fn without_a_token_only_this_host_may() {
        let host = [("host", "127.0.0.1:8080")];
        assert!(allowed("127.0.0.1", &host));
        assert!(allowed("::1", &[("host", "[::1]:8080")]));
        assert!(allowed("::ffff:127.0.0.1", &host));
        assert!(!allowed("10.0.0.2", &host));
        assert!(!allowed("10.0.0.1", &host), "an address of this host can be routed to from elsewhere");
        assert!(judge(&ApiOptions::default(), None, &headers(&host)).is_err());
    }

    #[test]
    fn without_a_token_a_rebound_name_is_refused() {
        for good in ["localhost", "localhost:8080", "LOCALHOST.:1", "127.9.9.9", "[::1]"] {
            assert!(names_this_host(good), "{good}");
        }
        for bad in
            ["evil.example:8080", "", "127.0.0.1.evil.example", "localhost.evil", "10.0.0.2", "[::2]", "[::1"]
        {
            assert!(!names_this_host(bad), "{bad}");
        }
        assert!(!allowed("127.0.0.1", &[("host", "evil.example:8080")]));
        assert!(!allowed("127.0.0.1", &[]));
        let mut two = headers(&[("host", "localhost")]);
        two.append(header::HOST, "evil.example".parse().unwrap());
        assert!(judge(&ApiOptions::default(), Some("127.0.0.1".parse().unwrap()), &two).is_err());
    }

    #[test]
    fn without_a_token_a_foreign_page_and_a_proxy_are_refused() {
        let host = ("host", "localhost:8080");
        assert!(allowed("127.0.0.1", &[host, ("origin", "http://localhost:8080")]));
        for origin in ["https://evil.example", "null", "http://localhost:3000", "http://localhost:8080.evil"]
        {
            assert!(!allowed("127.0.0.1", &[host, ("origin", origin)]), "{origin}");
        }
        assert!(!allowed("127.0.0.1", &[host, ("x-forwarded-for", "10.9.9.9")]));
        assert!(!allowed("127.0.0.1", &[host, ("forwarded", "for=10.9.9.9")]));
    }

    #[test]
    fn with_a_token_nothing_else_counts() {
        let options = ApiOptions { token: Some("correct horse".into()), ..ApiOptions::default() };
        let far = Some("10.9.9.9".parse().unwrap());
        let near = Some("127.0.0.1".parse().unwrap());
        assert!(judge(&options, far, &headers(&[("authorization", "Bearer correct horse")])).is_ok());
        assert!(judge(&options, far, &headers(&[("authorization", "bearer correct horse")])).is_ok());
        for wrong in [
            "Bearer correct hors",
            "Bearer correct horse1",
            "Bearer",
            "Bearer ",
            "Basic correct horse",
            "correct horse",
        ] {
            assert!(judge(&options, near, &headers(&[("authorization", wrong)])).is_err(), "{wrong}");
        }
        assert!(judge(&options, near, &headers(&[("host", "localhost")])).is_err());
    }

    #[test]
    fn an_empty_token_is_never_shown() {
        let options = ApiOptions { token: Some(String::new()), ..ApiOptions::default() };
        let near = Some("127.0.0.1".parse().unwrap());
        assert!(judge(&options, near, &headers(&[("authorization", "Bearer ")])).is_err());
    }
}
