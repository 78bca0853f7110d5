//! The endpoint over HTTP, with requests made by hand: what clients rely on and what must be refused.

mod support;

use base64::Engine as _;
use holdfast_store::index::Tables;
use md5::{Digest, Md5};
use support::Endpoint;
use support::sign::Call;

fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn md5(bytes: &[u8]) -> Vec<u8> {
    Md5::digest(bytes).to_vec()
}

/// Bytes that differ from each other everywhere.
fn pattern(len: usize) -> Vec<u8> {
    (0..len as u64).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

#[tokio::test]
async fn an_object_comes_back_with_everything_that_was_stored_with_it() {
    let s3 = Endpoint::with_bucket().await;
    let put = Call::new("PUT", "/box/a%20key/%C3%A4")
        .header("content-type", "text/plain; charset=utf-8")
        .header("cache-control", "no-store")
        .header("content-disposition", "attachment")
        .header("content-language", "de")
        .header("x-amz-meta-colour", "blue")
        .body("hello");
    let put = s3.send(put).await;
    assert_eq!(put.status, 200, "{}", put.text());
    let etag = format!("\"{}\"", hex::encode(md5(b"hello")));
    assert_eq!(put.header("etag"), Some(etag.as_str()));
    for method in ["GET", "HEAD"] {
        let got = s3.send(Call::new(method, "/box/a%20key/%C3%A4")).await;
        assert_eq!(got.status, 200);
        assert_eq!(got.header("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(got.header("cache-control"), Some("no-store"));
        assert_eq!(got.header("content-disposition"), Some("attachment"));
        assert_eq!(got.header("content-language"), Some("de"));
        assert_eq!(got.header("x-amz-meta-colour"), Some("blue"));
        assert_eq!(got.header("content-length"), Some("5"));
        assert_eq!(got.header("etag"), Some(etag.as_str()));
        assert!(got.header("last-modified").is_some());
        assert_eq!(got.bytes(), if method == "GET" { &b"hello"[..] } else { b"" });
    }
}

#[tokio::test]
async fn a_small_object_is_one_record_and_a_large_one_is_chunks_and_a_record() {
    let s3 = Endpoint::with_bucket().await;
    let commits = s3.toy.commits();
    for (len, appends) in
        [(0, 0), (1, 0), (256 << 10, 0), ((256 << 10) + 1, 1), (2 << 20, 2), ((2 << 20) + 7, 3)]
    {
        let before = s3.toy.appends();
        let body = pattern(len);
        assert_eq!(s3.send(Call::new("PUT", "/box/k").body(body.clone())).await.status, 200);
        assert_eq!(s3.toy.appends() - before, appends, "{len} bytes");
        let got = s3.send(Call::new("GET", "/box/k")).await;
        assert_eq!(got.bytes().len(), len);
        assert!(got.bytes() == body, "{len} bytes");
        assert_eq!(got.header("content-length"), Some(len.to_string().as_str()));
    }
    assert_eq!(s3.toy.commits() - commits, 6);
}

#[tokio::test]
async fn a_range_is_cut_out_wherever_the_chunks_end() {
    let s3 = Endpoint::with_bucket().await;
    let body = pattern((3 << 20) + 100);
    s3.send(Call::new("PUT", "/box/k").body(body.clone())).await;
    let size = body.len();
    let mib = 1 << 20;
    for (range, from, to) in [
        ("bytes=0-0".to_owned(), 0, 1),
        (format!("bytes={}-{}", mib - 1, mib), mib - 1, mib + 1),
        (format!("bytes={}-", 3 * mib), 3 * mib, size),
        ("bytes=-50".to_owned(), size - 50, size),
        (format!("bytes=5-{}", size * 2), 5, size),
    ] {
        let got = s3.send(Call::new("GET", "/box/k").header("range", &range)).await;
        assert_eq!(got.status, 206, "{range}");
        assert!(got.bytes() == &body[from..to], "{range}");
        assert_eq!(got.header("content-range"), Some(format!("bytes {from}-{}/{size}", to - 1).as_str()));
    }
    let got = s3.send(Call::new("GET", "/box/k").header("range", &format!("bytes={size}-"))).await;
    assert_eq!(got.status, 416);
    assert!(got.text().contains("InvalidRange"));
    assert_eq!(got.header("content-range"), Some(format!("bytes */{size}").as_str()));
}

#[tokio::test]
async fn conditions_of_reads_are_judged() {
    let s3 = Endpoint::with_bucket().await;
    s3.send(Call::new("PUT", "/box/k").body("x")).await;
    let etag = format!("\"{}\"", hex::encode(md5(b"x")));
    let past = "Sat, 29 Oct 1994 19:43:31 GMT";
    let future = "Fri, 29 Oct 2094 19:43:31 GMT";
    for (name, value, status) in [
        ("if-match", etag.as_str(), 200),
        ("if-match", "\"other\"", 412),
        ("if-none-match", etag.as_str(), 304),
        ("if-none-match", "\"other\"", 200),
        ("if-modified-since", past, 200),
        ("if-modified-since", future, 304),
        ("if-unmodified-since", past, 412),
        ("if-unmodified-since", future, 200),
    ] {
        for method in ["GET", "HEAD"] {
            let got = s3.send(Call::new(method, "/box/k").header(name, value)).await;
            assert_eq!(got.status, status, "{method} {name}: {value}");
            if status == 304 {
                assert_eq!(got.header("etag"), Some(etag.as_str()));
                assert_eq!(got.bytes(), b"");
            }
        }
    }
}

#[tokio::test]
async fn a_conditional_put_is_judged_when_it_is_applied() {
    let s3 = Endpoint::with_bucket().await;
    let create = || Call::new("PUT", "/box/k").header("if-none-match", "*");
    assert_eq!(s3.send(create().body("one")).await.status, 200);
    let again = s3.send(create().body("two")).await;
    assert_eq!(again.status, 412);
    assert!(again.text().contains("PreconditionFailed"));
    let replace = |etag: &str| Call::new("PUT", "/box/k").header("if-match", etag).body("three");
    assert_eq!(s3.send(replace("\"other\"")).await.status, 412);
    let etag = format!("\"{}\"", hex::encode(md5(b"one")));
    assert_eq!(s3.send(replace(&etag)).await.status, 200);
    assert_eq!(s3.send(Call::new("GET", "/box/k")).await.text(), "three");
    assert_eq!(s3.send(Call::new("PUT", "/box/none").header("if-match", &etag)).await.status, 404);
}

#[tokio::test]
async fn a_body_that_is_not_the_announced_one_stores_nothing() {
    let s3 = Endpoint::with_bucket().await;
    let wrong_md5 = base64(&md5(b"other"));
    let small = b"small".to_vec();
    let large = pattern(700 << 10);
    for body in [small, large] {
        for (name, value, code) in [
            ("content-md5", wrong_md5.as_str(), "BadDigest"),
            ("content-md5", "nonsense", "InvalidDigest"),
            ("x-amz-checksum-crc32", "AAAAAA==", "BadDigest"),
            ("x-amz-checksum-crc32c", "AAAAAA==", "BadDigest"),
            ("x-amz-checksum-crc64nvme", "AAAAAAAAAAA=", "BadDigest"),
            ("x-amz-checksum-sha1", "AAAAAAAAAAAAAAAAAAAAAAAAAAA=", "BadDigest"),
            ("x-amz-checksum-sha256", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "BadDigest"),
            ("x-amz-content-sha256", &support::sign::sha256(b"other"), "XAmzContentSHA256Mismatch"),
        ] {
            let commits = s3.toy.commits();
            let got = s3.send(Call::new("PUT", "/box/k").header(name, value).body(body.clone())).await;
            assert_eq!(got.status, 400, "{name}: {}", got.text());
            assert!(got.text().contains(&format!("<Code>{code}</Code>")), "{name}: {}", got.text());
            assert_eq!(s3.toy.commits(), commits, "{name}");
            assert_eq!(s3.send(Call::new("GET", "/box/k")).await.status, 404, "{name}");
        }
    }
}

#[tokio::test]
async fn right_digests_are_accepted_and_shown_again() {
    let s3 = Endpoint::with_bucket().await;
    let body = pattern(1 << 20);
    let sha256 = base64(&hex::decode(support::sign::sha256(&body)).unwrap());
    let put = Call::new("PUT", "/box/k")
        .header("content-md5", &base64(&md5(&body)))
        .header("x-amz-checksum-sha256", &sha256)
        .header("x-amz-content-sha256", &support::sign::sha256(&body))
        .body(body);
    let put = s3.send(put).await;
    assert_eq!(put.status, 200, "{}", put.text());
    assert_eq!(put.header("x-amz-checksum-sha256"), Some(sha256.as_str()));
    let head = s3.send(Call::new("HEAD", "/box/k").header("x-amz-checksum-mode", "ENABLED")).await;
    assert_eq!(head.header("x-amz-checksum-sha256"), Some(sha256.as_str()));
    let head = s3.send(Call::new("HEAD", "/box/k")).await;
    assert_eq!(head.header("x-amz-checksum-sha256"), None);
}

#[tokio::test]
async fn a_signed_chunked_body_is_unwrapped_and_a_wrong_chunk_stores_nothing() {
    let s3 = Endpoint::with_bucket().await;
    for len in [10, 200 << 10, 3 << 20] {
        let body = pattern(len);
        let put = s3.send(Call::new("PUT", "/box/k").body(body.clone()).chunked(false)).await;
        assert_eq!(put.status, 200, "{}", put.text());
        let got = s3.send(Call::new("GET", "/box/k")).await;
        assert!(got.bytes() == body, "{len}");
        assert_eq!(got.header("content-encoding"), None);
    }
    let commits = s3.toy.commits();
    let got = s3.send(Call::new("PUT", "/box/wrong").body(pattern(200 << 10)).chunked(true)).await;
    assert_eq!(got.status, 403, "{}", got.text());
    assert!(got.text().contains("SignatureDoesNotMatch"));
    assert_eq!(s3.toy.commits(), commits);
}

#[tokio::test]
async fn a_checksum_behind_the_body_is_compared() {
    let s3 = Endpoint::with_bucket().await;
    let body = pattern(400 << 10);
    let right = base64(&s3s::crypto::Crc32::checksum_u32(&body).to_be_bytes());
    let put = |key: &str, trailer: &str| {
        let mut wire = Vec::new();
        for piece in body.chunks(64 << 10).chain(std::iter::once(&[][..])) {
            wire.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            wire.extend_from_slice(piece);
            if !piece.is_empty() {
                wire.extend_from_slice(b"\r\n");
            }
        }
        wire.extend_from_slice(format!("{trailer}\r\n").as_bytes());
        Call::new("PUT", key)
            .header("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER")
            .header("x-amz-decoded-content-length", &body.len().to_string())
            .header("content-encoding", "aws-chunked")
            .header("x-amz-trailer", "x-amz-checksum-crc32")
            .body(wire)
    };
    let got = s3.send(put("/box/k", &format!("x-amz-checksum-crc32:{right}\r\n"))).await;
    assert_eq!(got.status, 200, "{}", got.text());
    let got = s3.send(Call::new("GET", "/box/k").header("x-amz-checksum-mode", "ENABLED")).await;
    assert_eq!(got.header("x-amz-checksum-crc32"), Some(right.as_str()));
    assert!(got.bytes() == body);
    let commits = s3.toy.commits();
    for trailer in ["x-amz-checksum-crc32:AAAAAA==\r\n", "x-amz-checksum-sha1:AAAA\r\n", ""] {
        let got = s3.send(put("/box/wrong", trailer)).await;
        assert_eq!(got.status, 400, "{trailer:?}: {}", got.text());
    }
    assert_eq!(s3.toy.commits(), commits);
}

#[tokio::test]
async fn who_has_no_key_is_refused() {
    let s3 = Endpoint::with_bucket().await;
    let got = s3.send(Call::new("PUT", "/box/k").secret("guessed").body("x")).await;
    assert_eq!(got.status, 403);
    assert!(got.text().contains("SignatureDoesNotMatch"), "{}", got.text());
    for url in ["/", "/box", "/box/k"] {
        let got = reqwest::get(format!("http://{}{url}", s3.addr)).await.unwrap();
        assert_eq!(got.status(), 403, "{url}");
    }
    for (url, header) in
        [("/box/k", "AWS admin:c2lnbmF0dXJl"), ("/box/k?Signature=x&AWSAccessKeyId=admin", "")]
    {
        let old =
            reqwest::Client::new().get(format!("http://{}{url}", s3.addr)).header("authorization", header);
        let old = old.send().await.unwrap();
        assert_eq!(old.status(), 400);
        assert!(old.text().await.unwrap().contains("Version 2"));
    }
    let form = reqwest::Client::new()
        .post(format!("http://{}/box", s3.addr))
        .header("content-type", "multipart/form-data; boundary=x")
        .body(
            "--x\r\nContent-Disposition: form-data; name=\"key\"\r\n\r\nk\r\n\
             --x\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nevil bytes\r\n--x--\r\n",
        )
        .send()
        .await
        .unwrap();
    assert!(form.status().is_client_error(), "{}", form.status());
    assert_eq!(s3.toy.commits(), 1, "only the bucket");
}

#[tokio::test]
async fn a_body_that_ends_early_leaves_nothing() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let s3 = Endpoint::with_bucket().await;
    let commits = s3.toy.commits();
    for (announced, sent) in [(1000, 10), (3 << 20, (2 << 20) + 5)] {
        let call = Call::new("PUT", "/box/k").body(pattern(announced));
        let (headers, wire) = call.signed(s3.addr);
        let mut stream = tokio::net::TcpStream::connect(s3.addr).await.unwrap();
        let head: String = headers.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
        let head = format!("PUT /box/k HTTP/1.1\r\n{head}content-length: {announced}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&wire[..sent]).await.unwrap();
        stream.shutdown().await.unwrap();
        // The server has looked at everything once it closes its side.
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
    }
    assert_eq!(s3.toy.commits(), commits);
    assert_eq!(s3.send(Call::new("GET", "/box/k")).await.status, 404);
}

#[tokio::test]
async fn buckets_are_made_once_and_deleted_empty() {
    let s3 = Endpoint::with_bucket().await;
    let again = s3.send(Call::new("PUT", "/box")).await;
    assert_eq!(again.status, 200, "who makes his own bucket again has what he wants");
    let otherwise = s3.send(Call::new("PUT", "/box").header("x-amz-acl", "public-read")).await;
    assert_eq!(otherwise.status, 409);
    assert!(otherwise.text().contains("<Code>BucketAlreadyExists</Code>"));
    assert_eq!(s3.send(Call::new("PUT", "/No_Good")).await.status, 400);
    assert_eq!(s3.send(Call::new("HEAD", "/box")).await.status, 200);
    assert_eq!(s3.send(Call::new("HEAD", "/other")).await.status, 404);
    s3.send(Call::new("PUT", "/another")).await;
    let list = s3.send(Call::new("GET", "/")).await.text();
    assert!(list.contains("<Name>another</Name>") && list.contains("<Name>box</Name>"), "{list}");
    let location = s3.send(Call::new("GET", "/box").query("location", "")).await;
    assert_eq!(location.status, 200);
    assert!(location.text().contains("LocationConstraint"), "{}", location.text());

    s3.send(Call::new("PUT", "/box/k").body("x")).await;
    let full = s3.send(Call::new("DELETE", "/box")).await;
    assert_eq!(full.status, 409);
    assert!(full.text().contains("BucketNotEmpty"));
    assert_eq!(s3.send(Call::new("DELETE", "/box/k")).await.status, 204);
    assert_eq!(s3.send(Call::new("DELETE", "/box/k")).await.status, 204, "deleting is idempotent");
    assert_eq!(s3.send(Call::new("DELETE", "/box")).await.status, 204);
    assert_eq!(s3.send(Call::new("DELETE", "/box")).await.status, 404);
    let got = s3.send(Call::new("PUT", "/box/k").body("x")).await;
    assert!(got.text().contains("NoSuchBucket"), "{}", got.text());
}

#[tokio::test]
async fn listings_page_group_and_encode() {
    let s3 = Endpoint::with_bucket().await;
    for key in ["a", "b%20c", "d/1", "d/2", "e"] {
        s3.send(Call::new("PUT", &format!("/box/{key}")).body("x")).await;
    }
    let names = |xml: &str, tag: &str| -> Vec<String> {
        let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
        xml.split(&open).skip(1).map(|rest| rest.split(&close).next().unwrap().to_owned()).collect()
    };
    let all = Call::new("GET", "/box")
        .query("list-type", "2")
        .query("delimiter", "/")
        .query("encoding-type", "url");
    let all = s3.send(all).await.text();
    assert_eq!(names(&all, "Key"), ["a", "b%20c", "e"]);
    assert!(all.contains("<CommonPrefixes><Prefix>d/</Prefix></CommonPrefixes>"), "{all}");
    assert_eq!(names(&all, "KeyCount"), ["4"]);
    assert_eq!(names(&all, "IsTruncated"), ["false"]);

    let mut token: Option<String> = None;
    let mut seen = Vec::new();
    for _ in 0..10 {
        let mut call = Call::new("GET", "/box").query("list-type", "2").query("max-keys", "2");
        if let Some(token) = &token {
            call = call.query("continuation-token", token);
        }
        let page = s3.send(call).await.text();
        seen.extend(names(&page, "Key"));
        token = names(&page, "NextContinuationToken").pop();
        if token.is_none() {
            break;
        }
    }
    assert_eq!(seen, ["a", "b c", "d/1", "d/2", "e"]);

    let v1 = Call::new("GET", "/box").query("delimiter", "/").query("max-keys", "3");
    let v1 = s3.send(v1).await.text();
    assert_eq!(names(&v1, "NextMarker"), ["d/"]);
    let v1 = Call::new("GET", "/box").query("delimiter", "/").query("marker", "d/");
    assert_eq!(names(&s3.send(v1).await.text(), "Key"), ["e"]);
    let after = Call::new("GET", "/box").query("list-type", "2").query("start-after", "d/1");
    assert_eq!(names(&s3.send(after).await.text(), "Key"), ["d/2", "e"]);
    let none = Call::new("GET", "/box").query("list-type", "2").query("max-keys", "0");
    assert_eq!(names(&s3.send(none).await.text(), "IsTruncated"), ["false"]);
    let bad = Call::new("GET", "/box").query("list-type", "2").query("continuation-token", "zz");
    assert_eq!(s3.send(bad).await.status, 400);
    assert_eq!(s3.send(Call::new("GET", "/nobox").query("list-type", "2")).await.status, 404);
}

#[tokio::test]
async fn many_keys_are_deleted_by_one_request() {
    let s3 = Endpoint::with_bucket().await;
    for key in ["a", "b"] {
        s3.send(Call::new("PUT", &format!("/box/{key}")).body("x")).await;
    }
    let delete = |body: &str| {
        let body = format!("<Delete>{body}</Delete>");
        Call::new("POST", "/box")
            .query("delete", "")
            .header("content-md5", &base64(&md5(body.as_bytes())))
            .body(body)
    };
    let got = s3.send(delete("<Object><Key>a</Key></Object><Object><Key>gone</Key></Object>")).await;
    assert_eq!(got.status, 200, "{}", got.text());
    assert!(got.text().contains("<Key>a</Key>") && got.text().contains("<Key>gone</Key>"), "{}", got.text());
    assert_eq!(s3.send(Call::new("GET", "/box/a")).await.status, 404);
    assert_eq!(s3.send(Call::new("GET", "/box/b")).await.status, 200);
    let quiet = s3.send(delete("<Quiet>true</Quiet><Object><Key>b</Key></Object>")).await;
    assert!(!quiet.text().contains("<Key>"), "{}", quiet.text());
    assert_eq!(s3.send(Call::new("GET", "/box/b")).await.status, 404);

    let long: String = (0..1000).map(|n| format!("<Object><Key>{n:01000}</Key></Object>")).collect();
    let got = s3.send(delete(&long)).await;
    assert_eq!(got.status, 200, "a full request of long keys is split over records");
}

#[tokio::test]
async fn a_multipart_object_is_its_parts_in_order() {
    let s3 = Endpoint::with_bucket().await;
    let begun = Call::new("POST", "/box/big")
        .query("uploads", "")
        .header("content-type", "video/mp4")
        .header("x-amz-meta-a", "b");
    let begun = s3.send(begun).await.text();
    let id = begun.split("<UploadId>").nth(1).unwrap().split('<').next().unwrap().to_owned();
    let part = |number: &str, body: Vec<u8>| {
        Call::new("PUT", "/box/big").query("partNumber", number).query("uploadId", &id).body(body)
    };
    let bodies = [pattern((5 << 20) + 3), pattern(5 << 20), b"the end".to_vec()];
    // Out of order, and one of them twice: the last wins.
    s3.send(part("7", b"replaced".to_vec())).await;
    for (number, body) in [("7", 2), ("1", 0), ("3", 1)] {
        let put = s3.send(part(number, bodies[body].clone())).await;
        assert_eq!(put.status, 200, "{}", put.text());
    }
    assert_eq!(s3.send(part("0", vec![])).await.status, 400);
    assert_eq!(s3.send(part("10001", vec![])).await.status, 400);
    let listed =
        s3.send(Call::new("GET", "/box/big").query("uploadId", &id).query("max-parts", "2")).await.text();
    assert!(listed.contains("<NextPartNumberMarker>3</NextPartNumberMarker>"), "{listed}");
    let uploads = s3.send(Call::new("GET", "/box").query("uploads", "")).await.text();
    assert!(uploads.contains(&id), "{uploads}");
    assert_eq!(s3.send(Call::new("GET", "/box/big")).await.status, 404, "not before it is complete");

    let etags: Vec<String> = bodies.iter().map(|b| hex::encode(md5(b))).collect();
    let complete = |parts: &[(u32, &str)]| {
        let parts: String = parts
            .iter()
            .map(|(n, e)| format!("<Part><PartNumber>{n}</PartNumber><ETag>\"{e}\"</ETag></Part>"))
            .collect();
        Call::new("POST", "/box/big")
            .query("uploadId", &id)
            .body(format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>"))
    };
    let all = [(1, etags[0].as_str()), (3, &etags[1]), (7, &etags[2])];
    for (parts, code) in [
        (vec![(1, etags[1].as_str())], "InvalidPart"),
        (vec![(2, etags[1].as_str())], "InvalidPart"),
        (vec![all[1], all[0]], "InvalidPartOrder"),
        (vec![all[2], (8, "x")], "EntityTooSmall"),
    ] {
        let got = s3.send(complete(&parts)).await;
        assert!(got.text().contains(&format!("<Code>{code}</Code>")), "{code}: {}", got.text());
    }
    let done = s3.send(complete(&all)).await;
    assert_eq!(done.status, 200, "{}", done.text());
    let digests = bodies.iter().flat_map(|b| md5(b)).collect::<Vec<_>>();
    let etag = format!("\"{}-3\"", hex::encode(md5(&digests)));
    let got = s3.send(Call::new("GET", "/box/big")).await;
    assert!(got.bytes() == bodies.concat());
    assert_eq!(got.header("etag"), Some(etag.as_str()));
    assert_eq!(got.header("content-type"), Some("video/mp4"));
    assert_eq!(got.header("x-amz-meta-a"), Some("b"));
    let second = s3.send(Call::new("GET", "/box/big").query("partNumber", "2")).await;
    assert_eq!(second.status, 206);
    assert!(second.bytes() == bodies[1]);
    assert_eq!(second.header("x-amz-mp-parts-count"), Some("3"));

    assert_eq!(s3.send(complete(&all)).await.status, 200, "a client that lost the answer asks again");
    assert_eq!(s3.send(part("1", vec![])).await.status, 404);
    let uploads = s3.send(Call::new("GET", "/box").query("uploads", "")).await.text();
    assert!(!uploads.contains(&id));
    let parts = || s3.toy.index.view().scan(b"p", Some(b"q")).count();
    assert_eq!(parts(), 3, "the object is its parts");
    assert_eq!(s3.send(Call::new("DELETE", "/box/big")).await.status, 204);
    assert_eq!(parts(), 0, "no part is left behind");
}

#[tokio::test]
async fn an_aborted_upload_is_gone_with_its_parts() {
    let s3 = Endpoint::with_bucket().await;
    let begun = s3.send(Call::new("POST", "/box/big").query("uploads", "")).await.text();
    let id = begun.split("<UploadId>").nth(1).unwrap().split('<').next().unwrap().to_owned();
    let part = || Call::new("PUT", "/box/big").query("partNumber", "1").query("uploadId", &id).body("x");
    assert_eq!(s3.send(part()).await.status, 200);
    let abort = || Call::new("DELETE", "/box/big").query("uploadId", &id);
    assert_eq!(s3.send(abort()).await.status, 204);
    assert_eq!(s3.send(abort()).await.status, 404);
    assert_eq!(s3.send(part()).await.status, 404);
    assert_eq!(s3.toy.index.view().scan(b"p", Some(b"q")).count(), 0);
}

#[tokio::test]
async fn a_copy_shares_the_bytes_and_writes_none() {
    let s3 = Endpoint::with_bucket().await;
    let body = pattern((6 << 20) + 1);
    s3.send(Call::new("PUT", "/box/from").header("x-amz-meta-a", "b").body(body.clone())).await;
    let appends = s3.toy.appends();
    let copy = |to: &str| Call::new("PUT", to).header("x-amz-copy-source", "/box/from");
    let got = s3.send(copy("/box/to")).await;
    assert_eq!(got.status, 200, "{}", got.text());
    assert!(got.text().contains("CopyObjectResult"), "{}", got.text());
    let replaced =
        s3.send(copy("/box/new").header("x-amz-metadata-directive", "REPLACE").header("x-amz-meta-c", "d"));
    assert_eq!(replaced.await.status, 200);
    assert_eq!(s3.send(copy("/box/from")).await.status, 400, "onto itself without a change");
    assert_eq!(s3.send(copy("/box/x").header("x-amz-copy-source-if-match", "\"other\"")).await.status, 412);
    assert_eq!(s3.send(copy("/box/to").header("if-none-match", "*")).await.status, 412);
    s3.send(Call::new("DELETE", "/box/from")).await;
    let to = s3.send(Call::new("GET", "/box/to")).await;
    assert!(to.bytes() == body);
    assert_eq!(to.header("x-amz-meta-a"), Some("b"));
    let new = s3.send(Call::new("HEAD", "/box/new")).await;
    assert_eq!((new.header("x-amz-meta-a"), new.header("x-amz-meta-c")), (None, Some("d")));
    assert_eq!(s3.send(copy("/box/x")).await.status, 404);

    let begun = s3.send(Call::new("POST", "/box/big").query("uploads", "")).await.text();
    let id = begun.split("<UploadId>").nth(1).unwrap().split('<').next().unwrap().to_owned();
    let part = Call::new("PUT", "/box/big")
        .query("partNumber", "1")
        .query("uploadId", &id)
        .header("x-amz-copy-source", "/box/to")
        .header("x-amz-copy-source-range", "bytes=1048570-1048580");
    let part = s3.send(part).await;
    assert_eq!(part.status, 200, "{}", part.text());
    let etag = hex::encode(md5(&body[1048570..=1048580]));
    assert!(part.text().contains(&etag), "{}", part.text());
    assert_eq!(s3.toy.appends(), appends);
}

#[tokio::test]
async fn what_is_not_offered_says_so() {
    let s3 = Endpoint::with_bucket().await;
    for (name, value) in [
        ("x-amz-server-side-encryption", "aws:kms"),
        // There is no key file.
        ("x-amz-server-side-encryption", "AES256"),
        ("x-amz-write-offset-bytes", "0"),
    ] {
        let got = s3.send(Call::new("PUT", "/box/k").header(name, value).body("x")).await;
        assert_eq!(got.status, 501, "{name}: {value}");
    }
    for query in ["website", "logging", "replication", "accelerate", "requestPayment", "metrics"] {
        let got = s3.send(Call::new("GET", "/box").query(query, "")).await;
        assert_eq!(got.status, 501, "{query}: {}", got.text());
    }
    s3.send(Call::new("PUT", "/box/k").body("x")).await;
    assert_eq!(s3.send(Call::new("GET", "/box/k").query("versionId", "3")).await.status, 400);
    assert_eq!(s3.send(Call::new("GET", "/box/k").query("versionId", "0000000000000003")).await.status, 404);
    assert_eq!(s3.send(Call::new("GET", "/box/k").query("versionId", "null")).await.status, 200);
}

#[tokio::test]
async fn a_bucket_may_be_in_the_host_but_an_address_never_is_one() {
    let s3 = Endpoint::with_bucket().await;
    s3.send(Call::new("PUT", "/box/k").body("x")).await;
    let got = s3.send(Call::new("GET", "/k").host("box.s3.test")).await;
    assert_eq!(got.text(), "x");
    for host in ["10.0.0.100", "10.0.0.100:9000", "storage", "s3.test", "[fd00::1]:9000"] {
        let got = s3.send(Call::new("GET", "/box/k").host(host)).await;
        assert_eq!(got.text(), "x", "{host}");
    }
}
