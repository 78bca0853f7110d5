//! A request that is handed on to the primary, and its answer back.
//!
//! The request goes as it came, signature and `Host` included; one header is added that says for whom, sealed with a
//! key that only the members have. The primary then judges the client's address, not that of the member between, and
//! no request is handed on twice.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri, header};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use s3s::{Body, S3Error};
use sha2::Sha256;

use super::guard::Peer;
use super::{answer, edge, wall_ms};

/// Says for whom a request is handed on: address, wall clock in milliseconds, seal.
pub(super) const FOR: HeaderName = HeaderName::from_static("x-holdfast-for");

/// How long such a seal is good: clocks of two hosts differ, and a request waits for its turn.
const GOOD_FOR_MS: u64 = 5 * 60 * 1000;
/// How long the primary may take to accept a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// A connection over which nothing was acknowledged for this long is given up.
const SILENCE: Duration = Duration::from_secs(5);
/// An idle connection to the primary is kept this long.
const IDLE: Duration = Duration::from_secs(20);

/// Headers of one connection, which mean nothing on the next (RFC 9110 section 7.6.1), and the wish for a `100`
/// which has been fulfilled by the time the body is read.
const OF_ONE_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::EXPECT,
];

/// The keys that members share for this purpose: the first one seals, all of them open.
pub type SealKeys = Arc<dyn Fn() -> Vec<[u8; 32]> + Send + Sync>;

/// Hands requests on. Cheap to clone.
#[derive(Clone)]
pub struct HandOn {
    client: Client<HttpConnector, Body>,
    keys: SealKeys,
}

impl HandOn {
    /// With the members' keys.
    pub fn new(keys: SealKeys) -> HandOn {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_WITHIN));
        connector.set_keepalive(Some(SILENCE));
        connector.set_tcp_user_timeout(Some(SILENCE));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(connector);
        HandOn { client, keys }
    }

    /// The primary's answer to `req`. `to`: `http://host:port`.
    pub(super) async fn answer(
        &self,
        mut req: Request<Incoming>,
        to: &str,
    ) -> Result<Response<Body>, S3Error> {
        let uri: Uri = format!("{}{}", to.trim_end_matches('/'), edge::target(&req))
            .parse()
            .map_err(|_| answer::unavailable("The primary's address cannot be used; nothing was stored"))?;
        let peer = req.extensions().get::<Peer>().copied();
        let seal = peer.and_then(|Peer(address)| self.seal(address, &req));
        *req.uri_mut() = uri;
        for name in &OF_ONE_HOP {
            req.headers_mut().remove(name);
        }
        req.headers_mut().remove(&FOR);
        if let Some(seal) = seal {
            req.headers_mut().insert(FOR, seal);
        }
        let mut answer = self.client.request(req.map(Body::from)).await.map_err(|error| {
            tracing::debug!(%error, to, "a request could not be handed on");
            let reason = if error.is_connect() {
                "The primary cannot be reached from this member; nothing was stored. Try again"
            } else {
                "The primary did not answer; whether a write that was on its way survived is not known. Send it again"
            };
            answer::unavailable(reason)
        })?;
        for name in &OF_ONE_HOP {
            answer.headers_mut().remove(name);
        }
        Ok(answer.map(Body::from))
    }

    fn seal<B>(&self, address: IpAddr, req: &Request<B>) -> Option<HeaderValue> {
        let key = (self.keys)().into_iter().next()?;
        let claim = format!("{} {}", address.to_canonical(), wall_ms());
        let seal = hex::encode(mac(&key, &claim, req).finalize().into_bytes());
        HeaderValue::from_str(&format!("{claim} {seal}")).ok()
    }
}

fn mac<B>(key: &[u8; 32], claim: &str, req: &Request<B>) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length will do");
    let signature = req.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
    for piece in [claim.as_bytes(), req.method().as_str().as_bytes(), edge::target(req).as_bytes(), signature]
    {
        mac.update(&(piece.len() as u64).to_le_bytes());
        mac.update(piece);
    }
    mac
}

/// Whether the request was handed on already, by whomever.
pub(super) fn was_handed_on(headers: &HeaderMap) -> bool {
    headers.contains_key(&FOR)
}

/// Takes the header off a request that has it; where it is a member's, the client's address becomes the one that
/// the request came from.
pub(super) fn unseal<B>(req: &mut Request<B>, keys: Option<&SealKeys>) {
    let Some(value) = req.headers_mut().remove(&FOR) else { return };
    let Some(claimed) = keys.and_then(|keys| claimed(&value, req, &keys())) else { return };
    req.extensions_mut().insert(Peer(claimed));
}

fn claimed<B>(value: &HeaderValue, req: &Request<B>, keys: &[[u8; 32]]) -> Option<IpAddr> {
    let (claim, seal) = value.to_str().ok()?.rsplit_once(' ')?;
    let (address, at) = claim.split_once(' ')?;
    let (address, at) = (address.parse().ok()?, at.parse::<u64>().ok()?);
    let seal = hex::decode(seal).ok()?;
    let genuine = keys.iter().any(|key| mac(key, claim, req).verify_slice(&seal).is_ok());
    (genuine && at.abs_diff(wall_ms()) <= GOOD_FOR_MS).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = [7; 32];

    fn handed_on(by: [u8; 32]) -> Request<()> {
        let hand_on = HandOn::new(Arc::new(move || vec![by]));
        let mut req =
            Request::get("/bucket/key?versionId=3").header("authorization", "AWS4").body(()).unwrap();
        let seal = hand_on.seal("192.0.2.9".parse().unwrap(), &req).unwrap();
        req.headers_mut().insert(FOR, seal);
        req.extensions_mut().insert(Peer("10.0.0.2".parse().unwrap()));
        req
    }

    fn judged(mut req: Request<()>, keys: Option<[u8; 32]>) -> String {
        let keys: Option<SealKeys> = keys.map(|key| Arc::new(move || vec![[1; 32], key]) as SealKeys);
        unseal(&mut req, keys.as_ref());
        assert!(!was_handed_on(req.headers()));
        req.extensions().get::<Peer>().unwrap().0.to_string()
    }

    #[tokio::test]
    async fn the_address_of_a_client_is_believed_from_a_member_only_and_for_this_request_only() {
        assert_eq!(judged(handed_on(KEY), Some(KEY)), "192.0.2.9");
        assert_eq!(judged(handed_on(KEY), None), "10.0.0.2");
        assert_eq!(judged(handed_on([8; 32]), Some(KEY)), "10.0.0.2");
        let mut other = handed_on(KEY);
        *other.uri_mut() = "/bucket/other".parse().unwrap();
        assert_eq!(judged(other, Some(KEY)), "10.0.0.2");
        let mut late = handed_on(KEY);
        let text = late.headers()[FOR].to_str().unwrap().to_owned();
        let parts: Vec<&str> = text.split(' ').collect();
        let moved = format!("{} {} {}", parts[0], parts[1].parse::<u64>().unwrap() + 1, parts[2]);
        late.headers_mut().insert(FOR, HeaderValue::from_str(&moved).unwrap());
        assert_eq!(judged(late, Some(KEY)), "10.0.0.2");
        for nonsense in ["", "a", "1.2.3.4", "1.2.3.4 5", "1.2.3.4 5 zz"] {
            let mut req = handed_on(KEY);
            req.headers_mut().insert(FOR, HeaderValue::from_static(nonsense));
            assert_eq!(judged(req, Some(KEY)), "10.0.0.2");
        }
    }
}
