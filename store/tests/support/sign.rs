//! Raw S3 requests with an AWS Signature Version 4 made here, so that a test can also make it wrong.

use std::net::SocketAddr;

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::macros::format_description;

use super::{ACCESS_KEY, SECRET_KEY};

/// One request.
pub struct Call {
    pub method: &'static str,
    pub path: String,
    pub query: Vec<(String, String)>,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
    pub host: Option<String>,
    pub access_key: String,
    pub secret: String,
    /// Sends no signature at all.
    pub anonymous: bool,
    /// Sends the body in signed chunks; the second one's signature is wrong where the flag says so.
    pub chunked: Option<bool>,
}

/// Its answer.
#[derive(Debug)]
pub struct Got {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: Result<Bytes, String>,
}

impl Got {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.body.as_ref().unwrap()).into_owned()
    }

    pub fn bytes(&self) -> &[u8] {
        self.body.as_ref().unwrap()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|v| v.to_str().unwrap())
    }
}

impl Call {
    pub fn new(method: &'static str, path: &str) -> Call {
        Call {
            method,
            path: path.into(),
            query: Vec::new(),
            headers: Vec::new(),
            body: Bytes::new(),
            host: None,
            access_key: ACCESS_KEY.into(),
            secret: SECRET_KEY.into(),
            anonymous: false,
            chunked: None,
        }
    }

    pub fn query(mut self, name: &str, value: &str) -> Call {
        self.query.push((name.into(), value.into()));
        self
    }

    pub fn header(mut self, name: &str, value: &str) -> Call {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn body(mut self, body: impl Into<Bytes>) -> Call {
        self.body = body.into();
        self
    }

    pub fn host(mut self, host: &str) -> Call {
        self.host = Some(host.into());
        self
    }

    /// Signs with these keys.
    pub fn by(mut self, access_key: &str, secret: &str) -> Call {
        self.access_key = access_key.into();
        self.secret = secret.into();
        self
    }

    pub fn anonymous(mut self) -> Call {
        self.anonymous = true;
        self
    }

    pub fn secret(mut self, secret: &str) -> Call {
        self.secret = secret.into();
        self
    }

    pub fn chunked(mut self, wrong: bool) -> Call {
        self.chunked = Some(wrong);
        self
    }

    pub fn uri(&self) -> String {
        let query: Vec<String> =
            self.query.iter().map(|(n, v)| format!("{}={}", encode(n), encode(v))).collect();
        let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
        format!("{}{query}", self.path)
    }

    /// All headers to send, signature included, and the body as it goes over the wire.
    pub fn signed(&self, addr: SocketAddr) -> (Vec<(String, String)>, Bytes) {
        let now = OffsetDateTime::now_utc();
        let stamp = now.format(format_description!("[year][month][day]T[hour][minute][second]Z")).unwrap();
        let date = &stamp[..8];
        let scope = format!("{date}/us-east-1/s3/aws4_request");
        let payload = match self.chunked {
            Some(_) => "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
            None => "UNSIGNED-PAYLOAD",
        };
        let mut headers: Vec<(String, String)> = self.headers.clone();
        headers.push(("host".into(), self.host.clone().unwrap_or_else(|| addr.to_string())));
        if !headers.iter().any(|(name, _)| name == "x-amz-content-sha256") {
            headers.push(("x-amz-content-sha256".into(), payload.into()));
        }
        headers.push(("x-amz-date".into(), stamp.clone()));
        if self.chunked.is_some() {
            if !headers.iter().any(|(name, _)| name == "x-amz-decoded-content-length") {
                headers.push(("x-amz-decoded-content-length".into(), self.body.len().to_string()));
            }
            headers.push(("content-encoding".into(), "aws-chunked".into()));
        }
        headers.sort();
        let payload = &headers.iter().find(|(n, _)| n == "x-amz-content-sha256").unwrap().1.clone();
        let names = headers.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>().join(";");
        let listed: String = headers.iter().map(|(n, v)| format!("{n}:{v}\n")).collect();
        let mut query: Vec<String> =
            self.query.iter().map(|(n, v)| format!("{}={}", encode(n), encode(v))).collect();
        query.sort();
        let canonical =
            format!("{}\n{}\n{}\n{listed}\n{names}\n{payload}", self.method, self.path, query.join("&"));
        let to_sign = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{}", sha256(canonical.as_bytes()));
        let key = ["us-east-1", "s3", "aws4_request"]
            .iter()
            .fold(mac(format!("AWS4{}", self.secret).as_bytes(), date), |key, part| mac(&key, part));
        let signature = hex::encode(mac(&key, &to_sign));
        headers.push((
            "authorization".into(),
            format!(
                "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
                self.access_key
            ),
        ));
        if self.anonymous {
            let mut headers = self.headers.clone();
            headers.push(("host".into(), self.host.clone().unwrap_or_else(|| addr.to_string())));
            return (headers, self.body.clone());
        }
        let Some(wrong) = self.chunked else { return (headers, self.body.clone()) };

        let mut wire = Vec::new();
        let mut previous = signature;
        let pieces: Vec<&[u8]> = self.body.chunks(64 * 1024).chain(std::iter::once(&[][..])).collect();
        for (number, piece) in pieces.into_iter().enumerate() {
            let to_sign = format!(
                "AWS4-HMAC-SHA256-PAYLOAD\n{stamp}\n{scope}\n{previous}\n{}\n{}",
                sha256(b""),
                sha256(piece)
            );
            previous = hex::encode(mac(&key, &to_sign));
            if wrong && number == 1 {
                previous = "0".repeat(64);
            }
            wire.extend_from_slice(format!("{:x};chunk-signature={previous}\r\n", piece.len()).as_bytes());
            wire.extend_from_slice(piece);
            wire.extend_from_slice(b"\r\n");
        }
        (headers, wire.into())
    }
}

/// Sends the request on a connection of its own.
pub async fn send(addr: SocketAddr, call: Call) -> Got {
    let (mut headers, wire) = call.signed(addr);
    if call.method == "PUT" && wire.is_empty() && !headers.iter().any(|(name, _)| name == "content-length") {
        // The library of this test leaves it out.
        headers.push(("content-length".into(), "0".into()));
    }
    let url = format!("http://{addr}{}", call.uri());
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let mut request = client.request(call.method.parse().unwrap(), url).body(wire);
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Got { status, headers, body: response.bytes().await.map_err(|e| e.to_string()) }
}

pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte.into());
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
