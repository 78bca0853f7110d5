//! Bad input: each request here gets the answer that AWS gives, and leaves nothing half-done in the log.
//!
//! The codes are those of the "List of error codes" of the S3 API reference and of what AWS was seen to answer in
//! ceph/s3-tests and in the tests of its own clients. Where a row differs from them, it says why.

mod support;

use std::time::Duration;

use bytes::Bytes;
use support::Endpoint;
use support::sign::{Call, Got, sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A request, and the status and code that it gets.
struct Row {
    what: &'static str,
    call: Call,
    wire: Wire,
    status: u16,
    code: &'static str,
}

/// What is done to a signed request on its way.
#[derive(Default)]
struct Wire {
    /// Headers that are put in or replaced after signing.
    set: Vec<(&'static str, String)>,
    /// Headers that are left out.
    without: Vec<&'static str>,
    /// Another body.
    body: Option<Bytes>,
    /// The connection is half closed after so many bytes of the body.
    cut: Option<usize>,
}

fn row(what: &'static str, call: Call, status: u16, code: &'static str) -> Row {
    Row { what, call, wire: Wire::default(), status, code }
}

/// An object that is put with a header, which S3 refuses as a bad request.
fn header(what: &'static str, name: &str, value: &str, code: &'static str) -> Row {
    row(what, put("/box/k").header(name, value), 400, code)
}

impl Row {
    fn set(mut self, name: &'static str, value: impl Into<String>) -> Row {
        self.wire.set.push((name, value.into()));
        self
    }

    fn without(mut self, name: &'static str) -> Row {
        self.wire.without.push(name);
        self
    }

    fn wire_body(mut self, body: impl Into<Bytes>) -> Row {
        self.wire.body = Some(body.into());
        self
    }

    fn cut(mut self, after: usize) -> Row {
        self.wire.cut = Some(after);
        self
    }
}

fn put(path: &str) -> Call {
    Call::new("PUT", path).body("five!")
}

fn get(path: &str) -> Call {
    Call::new("GET", path)
}

/// Sends a row over a bare connection: no library repairs anything on the way.
async fn send(s3: &Endpoint, row: &Row) -> Got {
    let (mut headers, mut body) = row.call.signed(s3.addr);
    if let Some(other) = &row.wire.body {
        body = other.clone();
    }
    let named = |headers: &[(String, String)], name: &str| headers.iter().any(|(n, _)| n == name);
    if !named(&headers, "content-length") {
        headers.push(("content-length".into(), body.len().to_string()));
    }
    headers.retain(|(name, _)| !row.wire.without.contains(&name.as_str()));
    for (name, value) in &row.wire.set {
        headers.retain(|(known, _)| known != name);
        headers.push(((*name).into(), value.clone()));
    }
    let mut head = format!("{} {} HTTP/1.1\r\n", row.call.method, row.call.uri()).into_bytes();
    for (name, value) in &headers {
        head.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    head.extend_from_slice(b"\r\n");
    let mut stream = TcpStream::connect(s3.addr).await.unwrap();
    stream.write_all(&head).await.unwrap();
    let sent = &body[..row.wire.cut.unwrap_or(body.len())];
    // The answer may be there, and the connection closed, before everything was sent.
    let _ = stream.write_all(sent).await;
    if row.wire.cut.is_some() {
        let _ = stream.shutdown().await;
    }
    read(&mut stream, row.call.method).await
}

/// The answer on a bare connection.
async fn read(stream: &mut TcpStream, method: &str) -> Got {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let head = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        if let Some(end) = head {
            let text = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let mut lines = text.split("\r\n");
            let status: u16 = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
            let headers: http::HeaderMap = lines
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap()))
                .collect();
            let length = headers.get("content-length").and_then(|l| l.to_str().ok()?.parse::<usize>().ok());
            let body = &bytes[end + 4..];
            if method == "HEAD" || length.is_some_and(|length| body.len() >= length) || status == 100 {
                return Got { status, headers, body: Ok(Bytes::copy_from_slice(body)) };
            }
        }
        let read =
            tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await.expect("no answer").unwrap_or(0);
        if read == 0 {
            // Closed without an answer.
            return Got { status: 0, headers: http::HeaderMap::new(), body: Ok(Bytes::from(bytes)) };
        }
        bytes.extend_from_slice(&buffer[..read]);
    }
}

/// Sends every row, and looks at the log after each.
async fn all(rows: Vec<Row>) {
    let s3 = Endpoint::with_bucket().await;
    assert_eq!(s3.send(put("/box/there")).await.status, 200);
    let mut wrong = Vec::new();
    for row in rows {
        let before = s3.toy.commits();
        let got = send(&s3, &row).await;
        let text = got.text();
        let said = row.code.is_empty() || text.contains(&format!("<Code>{}</Code>", row.code));
        if got.status != row.status || !said {
            wrong.push(format!(
                "{}: {} {} wanted, got {} {}",
                row.what,
                row.status,
                row.code,
                got.status,
                text.chars().take(300).collect::<String>()
            ));
        }
        if s3.toy.commits() != before {
            wrong.push(format!("{}: the log holds something of it", row.what));
        }
    }
    let listing = s3.send(get("/box")).await.text();
    assert!(listing.matches("<Key>").count() == 1 && listing.contains("<Key>there</Key>"), "{listing}");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

const AUTH: &str = "authorization";

#[tokio::test]
async fn signatures() {
    let credential = |scope: &str| {
        format!(
            "AWS4-HMAC-SHA256 Credential=admin/{scope}, SignedHeaders=host;x-amz-date, Signature={}",
            "0".repeat(64)
        )
    };
    let today = time::OffsetDateTime::now_utc();
    let day = format!("{:04}{:02}{:02}", today.year(), u8::from(today.month()), today.day());
    let good = format!("{day}/us-east-1/s3/aws4_request");
    all(vec![
        row("another secret", put("/box/k").secret("wrong"), 403, "SignatureDoesNotMatch"),
        row("an unknown key", put("/box/k").by("nobody", "x"), 403, "InvalidAccessKeyId"),
        row("no signature", put("/box/k").anonymous(), 403, "AccessDenied"),
        row(
            "a header changed on the way",
            put("/box/k").header("x-amz-meta-a", "1"),
            403,
            "SignatureDoesNotMatch",
        )
        .set("x-amz-meta-a", "2"),
        row("a host changed on the way", put("/box/k"), 403, "SignatureDoesNotMatch")
            .set("host", "127.0.0.1:1"),
        row(
            "a signed header left out",
            put("/box/k").header("x-amz-meta-a", "1"),
            403,
            "SignatureDoesNotMatch",
        )
        .without("x-amz-meta-a"),
        row("an empty authorization", put("/box/k"), 400, "InvalidArgument").set(AUTH, ""),
        row("another scheme", put("/box/k"), 400, "InvalidArgument").set(AUTH, "Bearer x"),
        row("no credential", put("/box/k"), 400, "AuthorizationHeaderMalformed")
            .set(AUTH, "AWS4-HMAC-SHA256 SignedHeaders=host, Signature=0"),
        row("a scope that ends early", put("/box/k"), 400, "AuthorizationHeaderMalformed")
            .set(AUTH, credential(&day)),
        row("another service", put("/box/k"), 400, "AuthorizationHeaderMalformed")
            .set(AUTH, credential(&good.replace("/s3/", "/ec2/"))),
        row("a date that is none", put("/box/k"), 403, "AccessDenied").set("x-amz-date", "yesterday"),
        row("no date", put("/box/k"), 403, "AccessDenied").without("x-amz-date"),
        row("an old date", put("/box/k"), 403, "RequestTimeTooSkewed")
            .set("x-amz-date", "20200101T000000Z")
            .set(AUTH, credential("20200101/us-east-1/s3/aws4_request")),
        row("no digest", put("/box/k"), 400, "InvalidRequest").without("x-amz-content-sha256"),
        row(
            "a presigned URL without its date",
            get("/box/there").anonymous().query("X-Amz-Signature", "00"),
            400,
            "AuthorizationQueryParametersError",
        ),
        row("version 2", put("/box/k"), 400, "InvalidRequest").set(AUTH, "AWS admin:c2lnbmF0dXJl"),
        header("a digest that is none", "x-amz-content-sha256", "zz", "InvalidArgument"),
    ])
    .await;
}

#[tokio::test]
async fn bodies_and_their_sizes() {
    let wrong_sha = sha256(b"other");
    let chunked = || put("/box/k").chunked(false);
    all(vec![
        header(
            "another body than was signed",
            "x-amz-content-sha256",
            &wrong_sha,
            "XAmzContentSHA256Mismatch",
        ),
        header("a wrong MD5", "content-md5", "AAAAAAAAAAAAAAAAAAAAAA==", "BadDigest"),
        header("an MD5 that is none", "content-md5", "five!", "InvalidDigest"),
        header("an MD5 that is short", "content-md5", "AAAA", "InvalidDigest"),
        header("a wrong CRC32", "x-amz-checksum-crc32", "AAAAAA==", "BadDigest"),
        header("a CRC32 that is none", "x-amz-checksum-crc32", "A", "BadDigest"),
        header(
            "a wrong SHA-256",
            "x-amz-checksum-sha256",
            "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            "BadDigest",
        ),
        header("an unknown checksum", "x-amz-sdk-checksum-algorithm", "CRC99", "InvalidRequest"),
        row(
            "two checksums",
            put("/box/k")
                .header("x-amz-checksum-crc32", "AAAAAA==")
                .header("x-amz-checksum-crc32c", "AAAAAA=="),
            400,
            "InvalidRequest",
        ),
        row("a body that ends early", put("/box/k"), 400, "IncompleteBody").cut(2),
        row("no length", put("/box/k"), 411, "MissingContentLength").without("content-length").wire_body(""),
        row("a length that is none", put("/box/k"), 400, "").set("content-length", "many"),
        row("a length below zero", put("/box/k"), 400, "").set("content-length", "-5"),
        row("more than 5 GiB at once", put("/box/k"), 400, "EntityTooLarge")
            .set("content-length", "5368709121")
            .cut(5),
        row("chunks whose lengths are none", chunked(), 400, "InvalidRequest")
            .wire_body("zz;chunk-signature=0\r\n\r\n"),
        row("chunks without signatures", chunked(), 400, "InvalidRequest")
            .wire_body("5\r\nfive!\r\n0\r\n\r\n"),
        row("chunks that end early", chunked(), 400, "IncompleteBody").wire_body("5;chunk-signature=0"),
        row(
            "a chunk with a wrong signature",
            put("/box/k").body(vec![1; 100_000]).chunked(true),
            403,
            "SignatureDoesNotMatch",
        ),
        row(
            "another length than announced",
            chunked().header("x-amz-decoded-content-length", "9"),
            400,
            "IncompleteBody",
        ),
        row("no announced length", chunked(), 411, "MissingContentLength")
            .without("x-amz-decoded-content-length"),
    ])
    .await;
}

#[tokio::test]
async fn names() {
    let long = format!("/box/{}", "k".repeat(1025));
    all(vec![
        row("a bucket in capitals", Call::new("PUT", "/Bad"), 400, "InvalidBucketName"),
        row("a short bucket", Call::new("PUT", "/ab"), 400, "InvalidBucketName"),
        row("a long bucket", Call::new("PUT", &format!("/{}", "b".repeat(64))), 400, "InvalidBucketName"),
        row("a bucket like an address", Call::new("PUT", "/192.168.1.1"), 400, "InvalidBucketName"),
        row("a bucket with two dots", Call::new("PUT", "/a..b"), 400, "InvalidBucketName"),
        row("a bucket with an underscore", Call::new("PUT", "/a_b"), 400, "InvalidBucketName"),
        row("a bucket that ends with a dash", Call::new("PUT", "/ab-"), 400, "InvalidBucketName"),
        row("a key of 1,025 bytes", put(&long), 400, "KeyTooLongError"),
        row("a key that is no UTF-8", put("/box/%ff%fe"), 400, "InvalidURI"),
        row("a key with half an escape", put("/box/%4"), 400, "InvalidURI"),
        row("a bucket that is not there", put("/none/k"), 404, "NoSuchBucket"),
        row("a key that is not there", get("/box/none"), 404, "NoSuchKey"),
        row("a version that is none", get("/box/there").query("versionId", "zz"), 400, "InvalidArgument"),
        row(
            "a version that is not there",
            get("/box/there").query("versionId", "00000000000000aa"),
            404,
            "NoSuchVersion",
        ),
        header("metadata beyond 2 KiB", "x-amz-meta-a", &"v".repeat(2100), "MetadataTooLarge"),
        header("a tag without a name", "x-amz-tagging", "=v", "InvalidTag"),
        header("eleven tags", "x-amz-tagging", "a=&b=&c=&d=&e=&f=&g=&h=&i=&j=&k=", "InvalidTag"),
        header("an access list that is none", "x-amz-acl", "everybody", "InvalidArgument"),
        header("a storage class that is none", "x-amz-storage-class", "COLD", "InvalidStorageClass"),
        header("an encryption that is none", "x-amz-server-side-encryption", "ROT13", "InvalidArgument"),
        row(
            "a customer key that is short",
            put("/box/k")
                .header("x-amz-server-side-encryption-customer-algorithm", "AES256")
                .header("x-amz-server-side-encryption-customer-key", "AAAA")
                .header("x-amz-server-side-encryption-customer-key-md5", "AAAA"),
            400,
            "InvalidArgument",
        ),
        header("a lock without an end", "x-amz-object-lock-mode", "GOVERNANCE", "InvalidArgument"),
        row(
            "a copy of nothing",
            Call::new("PUT", "/box/k").header("x-amz-copy-source", "box/none"),
            404,
            "NoSuchKey",
        ),
        row(
            "a copy of nonsense",
            Call::new("PUT", "/box/k").header("x-amz-copy-source", "%%%"),
            400,
            "InvalidArgument",
        ),
        row("an operation that is not offered", get("/box").query("analytics", ""), 501, "NotImplemented"),
        row("a method that is none", Call::new("PATCH", "/box/there"), 405, "MethodNotAllowed"),
    ])
    .await;
}

#[tokio::test]
async fn documents() {
    let xml =
        |query: &'static str, body: &str| Call::new("PUT", "/box").query(query, "").body(body.to_owned());
    let delete = |body: String| Call::new("POST", "/box").query("delete", "").body(body);
    let many: String = (0..1001).map(|i| format!("<Object><Key>k{i}</Key></Object>")).collect();
    all(vec![
        row("no XML", xml("versioning", "{}"), 400, "MalformedXML"),
        row("XML that ends early", xml("versioning", "<VersioningConfiguration><Status>Ena"), 400, "MalformedXML"),
        row("another root", xml("versioning", "<Other/>"), 400, "MalformedXML"),
        row("a word that is none", xml("versioning", "<VersioningConfiguration><Status>Maybe</Status></VersioningConfiguration>"), 400, "MalformedXML"),
        row("an empty document", xml("tagging", ""), 400, "MissingRequestBodyError"),
        row("entities that multiply", xml("tagging", "<!DOCTYPE t [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]><Tagging><TagSet><Tag><Key>&b;</Key><Value>v</Value></Tag></TagSet></Tagging>"), 400, "MalformedXML"),
        row("tags that are the same", xml("tagging", "<Tagging><TagSet><Tag><Key>a</Key><Value>1</Value></Tag><Tag><Key>a</Key><Value>2</Value></Tag></TagSet></Tagging>"), 400, "InvalidTag"),
        row("a lifecycle without rules", xml("lifecycle", "<LifecycleConfiguration/>"), 400, "MalformedXML"),
        row("a policy that is no JSON", xml("policy", "<x/>"), 400, "MalformedPolicy"),
        row("a policy without statements", xml("policy", "{}"), 400, "MalformedPolicy"),
        row("CORS with a method that is none", xml("cors", "<CORSConfiguration><CORSRule><AllowedMethod>FETCH</AllowedMethod><AllowedOrigin>*</AllowedOrigin></CORSRule></CORSConfiguration>"), 400, "InvalidRequest"),
        row("more than 1,000 deletions", delete(format!("<Delete>{many}</Delete>")), 400, "MalformedXML"),
        row("deletions of nothing", delete("<Delete></Delete>".into()), 400, "MalformedXML"),
        row("a document that is too large", delete("x".repeat(5 << 20)), 400, "MaxMessageLengthExceeded"),
        row("an upload that is not there", Call::new("POST", "/box/k").query("uploadId", "none")
            .body("<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>x</ETag></Part></CompleteMultipartUpload>"), 404, "NoSuchUpload"),
        row("a part number of zero", put("/box/k").query("partNumber", "0").query("uploadId", "none"), 400, "InvalidArgument"),
        row("a part number of 10,001", put("/box/k").query("partNumber", "10001").query("uploadId", "none"), 400, "InvalidArgument"),
        row("a part number that is none", put("/box/k").query("partNumber", "one").query("uploadId", "none"), 400, "InvalidArgument"),
        row("a page of less than nothing", get("/box").query("max-keys", "-1"), 400, "InvalidArgument"),
        row("a page of nonsense", get("/box").query("max-keys", "ten"), 400, "InvalidArgument"),
        row("a token of nonsense", get("/box").query("list-type", "2").query("continuation-token", "%%"), 400, "InvalidArgument"),
        row("an encoding that is none", get("/box").query("encoding-type", "rot13"), 400, "InvalidArgument"),
        row("an ACL document that is none", xml("acl", "<x>"), 400, "MalformedACLError"),
    ])
    .await;
}

#[tokio::test]
async fn ranges() {
    let s3 = Endpoint::with_bucket().await;
    assert_eq!(s3.send(put("/box/there")).await.status, 200);
    // What lies outside is refused. AWS ignores what is no range, and several ranges; the library that reads requests
    // here refuses them, so that a client learns that it does not get what it asked for.
    for (range, status) in [
        ("bytes=1-2", 206),
        ("bytes=-2", 206),
        ("bytes=3-", 206),
        ("bytes=0-99", 206),
        ("bytes=5-", 416),
        ("bytes=9-12", 416),
        ("bytes=-0", 416),
        ("bytes=2-1", 400),
        ("bytes=a-b", 400),
        ("bytes=", 400),
        ("lines=1-2", 400),
        ("bytes=0-0,2-2", 400),
        ("bytes=99999999999999999999-", 400),
    ] {
        let got = send(&s3, &row("", get("/box/there").header("range", range), status, "")).await;
        assert_eq!(got.status, status, "{range}: {}", got.text());
        if status == 416 {
            assert!(got.text().contains("<Code>InvalidRange</Code>"), "{}", got.text());
        }
    }
}

#[tokio::test]
async fn what_is_no_http() {
    let s3 = Endpoint::with_bucket().await;
    let many = (0..200).map(|i| format!("x-h{i}: v\r\n")).collect::<String>();
    let long = "v".repeat(1 << 20);
    for (what, bytes, statuses) in [
        ("nonsense", "nonsense\r\n\r\n".to_owned(), &[400, 0][..]),
        ("a TLS greeting", "\u{16}\u{3}\u{1}\r\n\r\n".to_owned(), &[400, 0][..]),
        ("two hundred headers", format!("GET / HTTP/1.1\r\nhost: x\r\n{many}\r\n"), &[431, 400][..]),
        ("a header of 1 MiB", format!("GET / HTTP/1.1\r\nhost: x\r\nh: {long}\r\n\r\n"), &[431, 400, 0][..]),
        ("a target of 1 MiB", format!("GET /{long} HTTP/1.1\r\nhost: x\r\n\r\n"), &[414, 431, 400, 0][..]),
        (
            "two lengths",
            "PUT /box/k HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab".to_owned(),
            &[400][..],
        ),
        (
            "a length and chunks",
            "PUT /box/k HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
            &[400, 403][..],
        ),
    ] {
        let mut stream = TcpStream::connect(s3.addr).await.unwrap();
        let _ = stream.write_all(bytes.as_bytes()).await;
        let got = read(&mut stream, "GET").await;
        assert!(statuses.contains(&got.status), "{what}: {} {}", got.status, got.text());
        assert_eq!(s3.send(Call::new("HEAD", "/box")).await.status, 200, "{what}: others are served on");
    }
    assert_eq!(s3.toy.commits(), 1, "the bucket alone");
}
