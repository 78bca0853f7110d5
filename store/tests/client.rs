//! A client that other programs use, over the transport that the agent gives it.

mod support;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::signer::Signer;
use object_store::{
    Attribute, Attributes, Error, GetOptions, MultipartUpload, ObjectStore, ObjectStoreExt, PutMode,
    PutMultipartOptions, PutOptions, UpdateVersion,
};
use support::Endpoint;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn pattern(len: usize) -> Bytes {
    (0..len as u64).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect::<Vec<_>>().into()
}

#[tokio::test]
async fn objects_are_put_read_copied_listed_and_deleted() {
    let s3 = Endpoint::with_bucket().await;
    let client = s3.client();
    for (name, len) in [("dir/small", 9), ("dir/large", 3 << 20), ("other", 0)] {
        client.put(&Path::from(name), pattern(len).into()).await.unwrap();
        let got = client.get(&Path::from(name)).await.unwrap();
        assert_eq!(got.meta.size, len as u64);
        assert!(got.bytes().await.unwrap() == pattern(len));
    }
    let range = client.get_range(&Path::from("dir/large"), 1048570..1048590).await.unwrap();
    assert_eq!(range, pattern(3 << 20).slice(1048570..1048590));
    client.copy(&Path::from("dir/large"), &Path::from("copied")).await.unwrap();
    let listed = client.list_with_delimiter(None).await.unwrap();
    let names: Vec<String> = listed.objects.iter().map(|o| o.location.to_string()).collect();
    assert_eq!(names, ["copied", "other"]);
    assert_eq!(listed.common_prefixes, [Path::from("dir")]);

    let all = client.list(None).map_ok(|m| m.location).boxed();
    let deleted: Vec<Path> = client.delete_stream(all).try_collect().await.unwrap();
    assert_eq!(deleted.len(), 4);
    assert_eq!(client.list(None).count().await, 0);
    assert!(matches!(client.head(&Path::from("other")).await, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn more_than_one_page_is_listed_whole() {
    let s3 = Endpoint::with_bucket().await;
    let client = s3.client();
    let names: Vec<Path> = (0..1100).map(|n| Path::from(format!("k/{n:05}"))).collect();
    let puts = names.iter().map(|name| client.put(name, Bytes::new().into()));
    futures::stream::iter(puts).buffer_unordered(16).try_collect::<Vec<_>>().await.unwrap();
    let listed: Vec<Path> = client.list(None).map_ok(|m| m.location).try_collect().await.unwrap();
    assert_eq!(listed, names);
}

#[tokio::test]
async fn conditional_writes_and_attributes_work() {
    let s3 = Endpoint::with_bucket().await;
    let client = s3.client();
    let path = Path::from("k");
    let mut attributes = Attributes::new();
    attributes.insert(Attribute::ContentType, "text/x-test".into());
    attributes.insert(Attribute::Metadata("colour".into()), "blue".into());
    let create = PutOptions { mode: PutMode::Create, attributes, ..Default::default() };
    let made = client.put_opts(&path, "one".into(), create.clone()).await.unwrap();
    let again = client.put_opts(&path, "two".into(), create).await;
    assert!(matches!(again, Err(Error::AlreadyExists { .. })), "{again:?}");
    let got = client.get(&path).await.unwrap();
    assert_eq!(got.attributes.get(&Attribute::ContentType).unwrap().as_ref(), "text/x-test");
    assert_eq!(got.attributes.get(&Attribute::Metadata("colour".into())).unwrap().as_ref(), "blue");

    let update = |e_tag: Option<String>| PutMode::Update(UpdateVersion { e_tag, version: None });
    let wrong = client.put_opts(&path, "x".into(), update(Some("\"no\"".into())).into()).await;
    assert!(matches!(wrong, Err(Error::Precondition { .. })), "{wrong:?}");
    client.put_opts(&path, "three".into(), update(made.e_tag.clone()).into()).await.unwrap();
    let old = GetOptions { if_match: made.e_tag, ..Default::default() };
    assert!(matches!(client.get_opts(&path, old).await, Err(Error::Precondition { .. })));
}

#[tokio::test]
async fn a_multipart_upload_is_completed() {
    let s3 = Endpoint::with_bucket().await;
    let client = s3.client();
    let path = Path::from("big");
    let parts = [pattern(5 << 20), pattern((5 << 20) + 1), pattern(3)];
    let mut upload = client.put_multipart_opts(&path, PutMultipartOptions::default()).await.unwrap();
    for part in &parts {
        upload.put_part(part.clone().into()).await.unwrap();
    }
    upload.complete().await.unwrap();
    let got = client.get(&path).await.unwrap().bytes().await.unwrap();
    assert!(got == parts.concat());
}

#[tokio::test]
async fn a_presigned_link_works_without_keys_and_not_when_changed() {
    let s3 = Endpoint::with_bucket().await;
    let client = s3.client();
    let path = Path::from("a link");
    let hour = std::time::Duration::from_secs(3600);
    let put = client.signed_url(http::Method::PUT, &path, hour).await.unwrap();
    let done = reqwest::Client::new().put(put.clone()).body("by link").send().await.unwrap();
    assert_eq!(done.status(), 200, "{}", done.text().await.unwrap());
    let get = client.signed_url(http::Method::GET, &path, hour).await.unwrap();
    assert_eq!(reqwest::get(get.clone()).await.unwrap().text().await.unwrap(), "by link");
    let changed = get.as_str().replace("a%20link", "another");
    assert_eq!(reqwest::get(changed).await.unwrap().status(), 403);
    assert_eq!(reqwest::get(put).await.unwrap().status(), 403, "a link to put does not read");
}

/// A server that answers each connection's first request with the next of these, and with nothing where one is empty.
/// Ends when all are said, with what it was asked.
async fn server(answers: Vec<String>) -> (std::net::SocketAddr, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let mut asked = String::new();
        for answer in answers {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(connection.read_u8().await.unwrap());
            }
            connection.write_all(answer.as_bytes()).await.unwrap();
            asked += &String::from_utf8(request).unwrap();
        }
        asked
    });
    (addr, serving)
}

#[tokio::test]
async fn a_request_whose_connection_breaks_is_sent_again() {
    let whole = "HTTP/1.1 200 OK\r\netag: \"1\"\r\nlast-modified: Sat, 21 Nov 2026 03:14:15 GMT\r\n\
                 content-length: 5\r\n\r\nwhole";
    let (addr, serving) = server(vec![String::new(), whole.to_owned()]).await;
    let got = support::client(addr).get(&Path::from("x")).await.unwrap();
    assert_eq!(got.bytes().await.unwrap(), "whole");
    assert_eq!(serving.await.unwrap().matches("GET /box/x HTTP/1.1").count(), 2);
}

#[tokio::test]
async fn nobody_is_followed() {
    let s3 = Endpoint::with_bucket().await;
    s3.client().put(&Path::from("x"), pattern(5).into()).await.unwrap();
    let elsewhere = format!(
        "HTTP/1.1 307 Temporary Redirect\r\nlocation: http://{}/box/x\r\ncontent-length: 0\r\n\r\n",
        s3.addr
    );
    let (addr, serving) = server(vec![elsewhere]).await;
    let error = support::client(addr).get(&Path::from("x")).await.unwrap_err();
    assert!(format!("{error:?}").contains("307"), "{error:?}");
    assert_eq!(serving.await.unwrap().matches("GET /box/x HTTP/1.1").count(), 1);
}
