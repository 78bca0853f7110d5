//! What the API tells the audit trail, and what it shows of it.
//!
//! An order is written down with its outcome when its answer is known; where the caller goes away first, with the
//! outcome `unknown`. Headers are not written down but for the name that a caller gives itself: a token is one.

use std::net::{IpAddr, SocketAddr};

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::error::ApiError;
use super::{Api, MAX_ANSWER_BYTES, MAX_BODY_BYTES};
use crate::runtime::audit::{Audit, Entry, Outcome, Shown};

/// The header by which a caller says who it is. It is written down as a claim.
pub(crate) const ACTOR: &str = "x-holdfast-actor";
/// Longest name that a caller may give itself, in bytes.
const MAX_ACTOR: usize = 64;
/// Lines that are shown where the caller does not say.
const LIMIT: usize = 50;

/// An order that was let in: becomes a line when its outcome is known, or when nobody waits for it any more.
struct Watched {
    audit: Audit,
    entry: Option<Entry>,
}

impl Watched {
    fn end(mut self, outcome: Outcome, message: Option<String>) {
        if let Some(entry) = self.entry.take() {
            self.audit.tell(Entry { outcome, message, ..entry });
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(entry) = self.entry.take() {
            let message = Some("the caller went away before the answer".to_owned());
            self.audit.tell(Entry { outcome: Outcome::Unknown, message, ..entry });
        }
    }
}

/// Writes down that somebody may not.
pub(super) fn refused(api: &Api, caller: Option<SocketAddr>, request: &Request, why: &ApiError) {
    // No file is read on behalf of who is refused.
    let from = caller.map(|caller| caller.to_string());
    let entry = entry(request, from, "nobody that is known");
    tracing::warn!(caller = ?caller, path = request.uri().path(), reason = %why, "a request was refused");
    let message = Some(why.to_string());
    api.options.audit.tell_refused(Entry { outcome: Outcome::Refused, message, ..entry });
}

/// Has the order carried out and writes down what came of it.
pub(super) async fn watched(
    api: &Api,
    caller: Option<SocketAddr>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let by = match &api.options.token {
        Some(_) => "the API token (there is one)",
        None => "this host (no token is configured)",
    };
    let mut entry = entry(&request, None, by);
    entry.from = origin(caller).await;
    let mut watched = Watched { audit: api.options.audit.clone(), entry: Some(entry) };
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_BODY_BYTES).await else {
        watched.end(Outcome::Refused, Some("its body was too large, or broke off".to_owned()));
        return Err(ApiError::BodyTooLarge);
    };
    if let (Some(entry), false) = (&mut watched.entry, body.trim_ascii().is_empty()) {
        entry.detail = Some(without_secrets(body.trim_ascii()));
    }
    let response = next.run(Request::from_parts(parts, Body::from(body))).await;
    let (parts, body) = response.into_parts();
    let Ok(answer) = to_bytes(body, MAX_ANSWER_BYTES).await else {
        watched.end(outcome(parts.status), None);
        return Ok(parts.status.into_response());
    };
    watched.end(outcome(parts.status), words(&answer));
    Ok(Response::from_parts(parts, Body::from(answer)))
}

/// The body of an order, with what must not be written down taken out of it.
fn without_secrets(body: &[u8]) -> String {
    const SECRET: &str = "secret_key";
    let text = String::from_utf8_lossy(body).into_owned();
    if !text.contains(SECRET) {
        return text;
    }
    match serde_json::from_slice::<serde_json::Value>(body) {
        Ok(serde_json::Value::Object(mut fields)) if fields.contains_key(SECRET) => {
            fields.insert(SECRET.to_owned(), "(hidden)".into());
            serde_json::Value::Object(fields).to_string()
        }
        // Whatever it is, it is not an order that is carried out.
        _ => "(not shown: it names a secret)".to_owned(),
    }
}

fn outcome(status: StatusCode) -> Outcome {
    match status {
        status if status.is_success() => Outcome::Done,
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::REQUEST_TIMEOUT => Outcome::Unknown,
        status if status.is_client_error() => Outcome::Refused,
        _ => Outcome::Failed,
    }
}

/// What an answer says in words.
fn words(answer: &[u8]) -> Option<String> {
    let answer: serde_json::Value = serde_json::from_slice(answer).ok()?;
    let message = answer.pointer("/error/message").or_else(|| answer.get("message"))?.as_str()?;
    Some(match answer.pointer("/error/code").and_then(|code| code.as_str()) {
        Some(code) => format!("{code}: {message}"),
        None => message.to_owned(),
    })
}

fn entry(request: &Request, from: Option<String>, by: &str) -> Entry {
    let path = request.uri().path();
    let claimed = request.headers().get(ACTOR).and_then(|name| name.to_str().ok());
    let claimed = claimed.map(|name| name.chars().filter(|c| c.is_ascii_graphic()).take(MAX_ACTOR).collect());
    Entry { by: by.to_owned(), from, claimed, action: action(request.method(), path), ..Entry::default() }
}

/// What is asked for, in few words.
fn action(method: &Method, path: &str) -> String {
    let method = method.as_str().to_lowercase();
    let about = |what: &str, rest: &str| match rest.split_once('/') {
        Some((name, order)) => format!("{what} {order} {name}"),
        None => format!("{what} {method} {rest}"),
    };
    if let Some(rest) = path.strip_prefix("/api/store/") {
        format!("store {method} {rest}")
    } else if let Some(rest) = path.strip_prefix("/api/replication/archives/") {
        about("archive", rest)
    } else if let Some(rest) = path.strip_prefix("/api/cluster/nodes/") {
        about("member", rest)
    } else {
        path.rsplit('/').next().unwrap_or(path).to_owned()
    }
}

/// Where a caller is, and for one on this host which user it is.
async fn origin(caller: Option<SocketAddr>) -> Option<String> {
    let caller = caller?;
    if !caller.ip().to_canonical().is_loopback() {
        return Some(caller.to_string());
    }
    let user = tokio::task::spawn_blocking(move || user_of(caller)).await.ok().flatten();
    Some(user.map_or_else(|| caller.to_string(), |user| format!("{caller}, uid {user}")))
}

/// The user whose socket on this host is bound to `caller`, by the kernel's own list.
fn user_of(caller: SocketAddr) -> Option<u32> {
    let (list, wanted) = match caller {
        SocketAddr::V4(at) => ("/proc/net/tcp", address_v4(at.ip().octets(), at.port())),
        SocketAddr::V6(at) => match at.ip().to_canonical() {
            // A caller by IPv4 on a listener for both: its own socket is one of IPv4.
            IpAddr::V4(ip) => ("/proc/net/tcp", address_v4(ip.octets(), at.port())),
            IpAddr::V6(ip) => ("/proc/net/tcp6", address_v6(ip.octets(), at.port())),
        },
    };
    user_in(&std::fs::read_to_string(list).ok()?, &wanted)
}

/// As the kernel prints it: words of four bytes as this machine's numbers, then the port.
fn address_v4(octets: [u8; 4], port: u16) -> String {
    format!("{:08X}:{port:04X}", u32::from_ne_bytes(octets))
}

fn address_v6(octets: [u8; 16], port: u16) -> String {
    let (words, _) = octets.as_chunks::<4>();
    let words: String = words.iter().map(|word| format!("{:08X}", u32::from_ne_bytes(*word))).collect();
    format!("{words}:{port:04X}")
}

/// The owner of the established connections from `local`, where they all have the same one.
fn user_in(list: &str, local: &str) -> Option<u32> {
    const ESTABLISHED: &str = "01";
    let mut users = list.lines().skip(1).filter_map(|line| {
        let mut columns = line.split_ascii_whitespace().skip(1);
        let (here, _there, state) = (columns.next()?, columns.next()?, columns.next()?);
        // Behind the state stand queues, timers and retransmissions.
        if here == local && state == ESTABLISHED { columns.nth(3)?.parse().ok() } else { None }
    });
    let first = users.next()?;
    users.all(|user: u32| user == first).then_some(first)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditQuery {
    limit: Option<usize>,
    #[serde(default)]
    verify: bool,
}

/// The newest lines, and on demand what a check of all of them says.
pub(super) async fn show(
    State(api): State<Api>,
    query: Result<Query<AuditQuery>, QueryRejection>,
) -> Result<Json<Shown>, ApiError> {
    let Query(AuditQuery { limit, verify }) = query
        .map_err(|error| ApiError::BadRequest(format!("this takes `limit=N` and `verify=true`: {error}")))?;
    let mut shown = api.options.audit.shown(limit.unwrap_or(LIMIT));
    if verify {
        let audit = api.options.audit.clone();
        let verified = tokio::task::spawn_blocking(move || audit.verify()).await;
        let verified = verified.map_err(std::io::Error::other).and_then(|verified| verified);
        shown.verified = Some(verified.map_err(ApiError::TrailUnreadable)?);
    }
    Ok(Json(shown))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_behind_a_connection_on_this_host_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let _far = listener.accept().unwrap();
        assert_eq!(user_of(near.local_addr().unwrap()), Some(nix::unistd::getuid().as_raw()));
        assert_eq!(user_of("127.0.0.1:1".parse().unwrap()), None);
        let v6 = address_v6(std::net::Ipv6Addr::LOCALHOST.octets(), 8080);
        if cfg!(target_endian = "little") {
            assert_eq!(v6, "00000000000000000000000001000000:1F90");
        }
    }

    #[test]
    fn two_users_on_one_address_are_nobody() {
        let line = |user: &str| {
            format!(
                "   0: 0100007F:1F90 0100007F:0050 01 00000000:00000000 00:00000000 00000000 {user} 0 1 1\n"
            )
        };
        let list =
            |users: &[&str]| format!("  sl ...\n{}", users.iter().map(|user| line(user)).collect::<String>());
        assert_eq!(user_in(&list(&["1000"]), "0100007F:1F90"), Some(1000));
        assert_eq!(user_in(&list(&["1000", "1000"]), "0100007F:1F90"), Some(1000));
        assert_eq!(user_in(&list(&["1000", "0"]), "0100007F:1F90"), None);
        assert_eq!(user_in(&list(&["1000"]), "0100007F:1F91"), None);
        assert_eq!(user_in("", "0100007F:1F90"), None);
    }
}
