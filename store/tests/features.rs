//! What the endpoint offers beside storing and reading: versions, encryption, users, policies, rules, events.

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use holdfast_store::access::{BucketAccess, Reach};
use holdfast_store::admin::{Admin, BucketChange, MadeKey, NewUser, UserChange};
use holdfast_store::index::Tables;
use holdfast_store::s3::{Caretaker, Day, Herald, Post, Store};
use holdfast_store::seal::{Key, StoreKeys};
use md5::{Digest, Md5};
use support::sign::{Call, Got};
use support::{ACCESS_KEY, Endpoint};

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 7 % 251) as u8).collect()
}

fn admin(s3: &Endpoint) -> Admin {
    Admin::new(s3.toy.index.clone(), s3.toy.clone(), ACCESS_KEY.into())
}

async fn user(s3: &Endpoint, name: &str, access: &[(&str, Reach)]) -> MadeKey {
    let access = access.iter();
    let new = NewUser {
        name: name.into(),
        description: String::new(),
        display_name: None,
        email: None,
        tenant: None,
        bucket_access: access
            .map(|(bucket, permission)| BucketAccess { bucket: (*bucket).into(), permission: *permission })
            .collect(),
        creates_buckets: false,
        access_key: None,
        secret_key: None,
    };
    admin(s3).create_user(new, 0).await.unwrap()
}

fn code(got: &Got) -> String {
    let text = got.text();
    let code = text.split("<Code>").nth(1).and_then(|rest| rest.split('<').next());
    code.unwrap_or_default().to_owned()
}

async fn versioned() -> Endpoint {
    let s3 = Endpoint::with_bucket().await;
    let on = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    let set = s3.send(Call::new("PUT", "/box").query("versioning", "").body(on)).await;
    assert_eq!(set.status, 200, "{}", set.text());
    s3
}

#[tokio::test]
async fn former_versions_are_read_by_name_and_come_back_when_the_marker_goes() {
    let s3 = versioned().await;
    let put = |body: &'static str| s3.send(Call::new("PUT", "/box/k").body(body));
    let first = put("one").await.header("x-amz-version-id").unwrap().to_owned();
    let second = put("two").await.header("x-amz-version-id").unwrap().to_owned();
    let get = |version: Option<&str>| {
        let call = Call::new("GET", "/box/k");
        s3.send(match version {
            Some(version) => call.query("versionId", version),
            None => call,
        })
    };
    assert_eq!(get(None).await.text(), "two");
    assert_eq!(get(Some(&first)).await.text(), "one");
    let marker = s3.send(Call::new("DELETE", "/box/k")).await;
    assert_eq!(marker.header("x-amz-delete-marker"), Some("true"));
    let marker = marker.header("x-amz-version-id").unwrap().to_owned();
    let gone = get(None).await;
    assert_eq!((gone.status, gone.header("x-amz-delete-marker")), (404, Some("true")));
    assert_eq!(get(Some(&marker)).await.status, 405);
    assert_eq!(get(Some(&second)).await.text(), "two");
    assert!(!s3.send(Call::new("GET", "/box").query("list-type", "2")).await.text().contains("<Key>"));
    let listed = s3.send(Call::new("GET", "/box").query("versions", "")).await.text();
    assert_eq!(listed.matches("<Version>").count(), 2, "{listed}");
    assert_eq!(listed.matches("<DeleteMarker>").count(), 1, "{listed}");
    let full = s3.send(Call::new("DELETE", "/box")).await;
    assert_eq!(code(&full), "BucketNotEmpty");
    s3.send(Call::new("DELETE", "/box/k").query("versionId", &marker)).await;
    assert_eq!(get(None).await.text(), "two");
    for version in [first, second] {
        s3.send(Call::new("DELETE", "/box/k").query("versionId", &version)).await;
    }
    assert_eq!(s3.send(Call::new("DELETE", "/box")).await.status, 204);
}

fn customer(byte: u8) -> [(String, String); 3] {
    let key = [byte; 32];
    [
        ("x-amz-server-side-encryption-customer-algorithm".into(), "AES256".into()),
        ("x-amz-server-side-encryption-customer-key".into(), base64(&key)),
        ("x-amz-server-side-encryption-customer-key-md5".into(), base64(&Md5::digest(key))),
    ]
}

fn with(call: Call, headers: &[(String, String)]) -> Call {
    headers.iter().fold(call, |call, (name, value)| call.header(name, value))
}

/// Whether any record holds these bytes as they are.
fn lies_in_the_clear(s3: &Endpoint, body: &[u8]) -> bool {
    s3.toy.records().iter().any(|record| record.windows(64).any(|window| window == &body[..64]))
}

#[tokio::test]
async fn what_a_customer_encrypts_needs_his_key_and_lies_nowhere_in_the_clear() {
    let s3 = Endpoint::with_bucket().await;
    for len in [1000, 300 << 10, (1 << 20) * 2 + 77] {
        let body = pattern(len);
        let put = s3.send(with(Call::new("PUT", "/box/k").body(body.clone()), &customer(1))).await;
        assert_eq!(put.status, 200, "{}", put.text());
        assert!(!lies_in_the_clear(&s3, &body), "{len} bytes");
        assert_eq!(s3.send(Call::new("GET", "/box/k")).await.status, 400);
        assert_eq!(s3.send(with(Call::new("GET", "/box/k"), &customer(2))).await.status, 400);
        let got = s3.send(with(Call::new("GET", "/box/k"), &customer(1))).await;
        assert!(got.bytes() == body, "{len} bytes");
        for (from, to) in [(0, 0), (5, 70_000), (65_535, 65_536), (len - 1, len - 1)] {
            if to >= len {
                continue;
            }
            let call = Call::new("GET", "/box/k").header("range", &format!("bytes={from}-{to}"));
            let got = s3.send(with(call, &customer(1))).await;
            assert_eq!(got.status, 206);
            assert!(got.bytes() == &body[from..=to], "{from}-{to} of {len}");
        }
    }
}

#[tokio::test]
async fn a_key_file_encrypts_everything_and_copies_and_parts_are_read_alike() {
    let s3 = Endpoint::start_with(|store| store.keys = StoreKeys::new(vec![Key::new([9; 32])])).await;
    s3.send(Call::new("PUT", "/box")).await;
    let body = pattern(700 << 10);
    let put = s3.send(Call::new("PUT", "/box/k").body(body.clone())).await;
    assert_eq!(put.header("x-amz-server-side-encryption"), Some("AES256"));
    assert!(s3.send(Call::new("GET", "/box/k")).await.bytes() == body);
    let copy = with(Call::new("PUT", "/box/copy").header("x-amz-copy-source", "/box/k"), &customer(3));
    assert_eq!(s3.send(copy).await.status, 200);
    assert!(s3.send(with(Call::new("GET", "/box/copy"), &customer(3))).await.bytes() == body);

    let begun = s3.send(Call::new("POST", "/box/big").query("uploads", "")).await.text();
    let id = begun.split("<UploadId>").nth(1).unwrap().split('<').next().unwrap().to_owned();
    let parts = [pattern(5 << 20), pattern((5 << 20) + 11), b"the end".to_vec()];
    let mut listed = String::new();
    for (number, part) in (1..).zip(&parts) {
        let call = Call::new("PUT", "/box/big").query("partNumber", &number.to_string());
        let put = s3.send(call.query("uploadId", &id).body(part.clone())).await;
        let etag = put.header("etag").unwrap().to_owned();
        listed += &format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>");
    }
    let body = format!("<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>");
    let done = s3.send(Call::new("POST", "/box/big").query("uploadId", &id).body(body)).await;
    assert_eq!(done.status, 200, "{}", done.text());
    let whole = parts.concat();
    assert!(s3.send(Call::new("GET", "/box/big")).await.bytes() == whole);
    let (from, to) = ((5 << 20) - 3, (10 << 20) + 12);
    let range = Call::new("GET", "/box/big").header("range", &format!("bytes={from}-{to}"));
    assert!(s3.send(range).await.bytes() == &whole[from..=to]);
    assert!(!lies_in_the_clear(&s3, &whole));
}

#[tokio::test]
async fn a_user_reaches_what_it_was_given_and_no_more() {
    let s3 = Endpoint::with_bucket().await;
    s3.send(Call::new("PUT", "/other")).await;
    s3.send(Call::new("PUT", "/box/k").body("x")).await;
    let reader = user(&s3, "reader", &[("box", Reach::Read)]).await;
    let writer = user(&s3, "writer", &[("b*", Reach::Write)]).await;
    let by = |call: Call, made: &MadeKey| s3.send(call.by(&made.access_key, &made.secret_key));
    for (call, reads, writes) in [
        (Call::new("GET", "/box/k"), 200, 403),
        (Call::new("GET", "/box"), 200, 403),
        (Call::new("GET", "/other"), 403, 403),
        (Call::new("DELETE", "/box"), 403, 403),
        (Call::new("PUT", "/new"), 403, 403),
        (Call::new("GET", "/box").query("policy", ""), 403, 403),
    ] {
        let shown = format!("{} {}", call.method, call.path);
        let again = Call { query: call.query.clone(), ..Call::new(call.method, &call.path) };
        assert_eq!(by(call, &reader).await.status, reads, "the reader's {shown}");
        assert_eq!(by(again, &writer).await.status, writes, "the writer's {shown}");
    }
    assert_eq!(by(Call::new("PUT", "/box/k").body("y"), &reader).await.status, 403);
    assert_eq!(by(Call::new("PUT", "/box/k").body("y"), &writer).await.status, 200);
    let buckets = by(Call::new("GET", "/"), &reader).await.text();
    assert!(buckets.contains("<Name>box</Name>") && !buckets.contains("<Name>other</Name>"), "{buckets}");
    let delete = "<Delete><Object><Key>k</Key></Object></Delete>";
    let many = by(Call::new("POST", "/box").query("delete", "").body(delete), &reader).await;
    assert!(many.text().contains("AccessDenied"), "{}", many.text());

    // The secret works no longer once the key is disabled, removed, or its user is gone.
    let admin = admin(&s3);
    let disabled = UserChange { enabled: Some(false), ..UserChange::default() };
    admin.change_user("reader", disabled).await.unwrap();
    assert_eq!(by(Call::new("GET", "/box/k"), &reader).await.status, 403);
    let enabled = UserChange { enabled: Some(true), ..UserChange::default() };
    admin.change_user("reader", enabled).await.unwrap();
    let second = admin.create_key("reader").await.unwrap();
    assert!(admin.create_key("reader").await.is_err(), "two keys are enough to change one");
    assert_eq!(by(Call::new("GET", "/box/k"), &second).await.status, 200);
    admin.remove_key("reader", &reader.access_key).await.unwrap();
    assert_eq!(by(Call::new("GET", "/box/k"), &reader).await.status, 403);
    assert_eq!(by(Call::new("GET", "/box/k"), &second).await.status, 200);
    admin.delete_user("reader").await.unwrap();
    assert_eq!(by(Call::new("GET", "/box/k"), &second).await.status, 403);
    assert!(format!("{writer:?}", writer = writer.user).contains(&writer.access_key));
    assert!(!format!("{:?}", admin.users().unwrap()).contains(&writer.secret_key));
}

#[tokio::test]
async fn nobody_gets_in_without_a_signature_but_where_the_policy_says_so() {
    let s3 = Endpoint::with_bucket().await;
    s3.send(Call::new("PUT", "/box/open/k").body("x")).await;
    s3.send(Call::new("PUT", "/box/shut/k").body("x")).await;
    let get = |key: &str| s3.send(Call::new("GET", key).anonymous());
    assert_eq!(get("/box/open/k").await.status, 403);
    let policy = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*",
        "Action":"s3:GetObject","Resource":"arn:aws:s3:::box/open/*"}]}"#;
    let set = s3.send(Call::new("PUT", "/box").query("policy", "").body(policy)).await;
    assert_eq!(set.status, 204, "{}", set.text());
    assert_eq!(get("/box/open/k").await.text(), "x");
    assert_eq!(get("/box/shut/k").await.status, 403);
    assert_eq!(get("/box/open/none").await.status, 403, "what is not there does not show");
    assert_eq!(s3.send(Call::new("PUT", "/box/open/k").anonymous().body("y")).await.status, 403);
    for path in ["/", "/box", "/box?policy", "/box?acl"] {
        assert_eq!(s3.send(Call::new("GET", path).anonymous()).await.status, 403, "{path}");
    }
    let block = "<PublicAccessBlockConfiguration><RestrictPublicBuckets>true</RestrictPublicBuckets>\
        </PublicAccessBlockConfiguration>";
    s3.send(Call::new("PUT", "/box").query("publicAccessBlock", "").body(block)).await;
    assert_eq!(get("/box/open/k").await.status, 403);
}

#[tokio::test]
async fn a_quota_holds() {
    let s3 = Endpoint::with_bucket().await;
    let change = BucketChange { quota_bytes: Some(10), ..BucketChange::default() };
    let shown = admin(&s3).change_bucket("box", change).await.unwrap();
    assert_eq!(shown.quota_bytes, Some(10));
    assert_eq!(s3.send(Call::new("PUT", "/box/a").body("12345678")).await.status, 200);
    let over = s3.send(Call::new("PUT", "/box/b").body("123")).await;
    assert_eq!((over.status, code(&over)), (403, "QuotaExceeded".into()));
    assert_eq!(s3.send(Call::new("PUT", "/box/b").body("12")).await.status, 200);
    assert_eq!(admin(&s3).bucket("box").unwrap().used_bytes, 10);
}

#[tokio::test]
async fn a_page_of_another_origin_may_what_the_rules_say() {
    let s3 = Endpoint::with_bucket().await;
    s3.send(Call::new("PUT", "/box/k").body("x")).await;
    let rules = "<CORSConfiguration><CORSRule><AllowedOrigin>https://*.good</AllowedOrigin>\
        <AllowedMethod>GET</AllowedMethod><AllowedHeader>x-*</AllowedHeader><ExposeHeader>etag</ExposeHeader>\
        </CORSRule></CORSConfiguration>";
    let set = s3.send(Call::new("PUT", "/box").query("cors", "").body(rules)).await;
    assert_eq!(set.status, 200, "{}", set.text());
    let preflight = |origin: &str, method: &str, header: &str| {
        let call = Call::new("OPTIONS", "/box/k").anonymous().header("origin", origin);
        s3.send(
            call.header("access-control-request-method", method)
                .header("access-control-request-headers", header),
        )
    };
    let yes = preflight("https://very.good", "GET", "x-amz-date").await;
    assert_eq!(yes.header("access-control-allow-origin"), Some("https://very.good"));
    assert_eq!(preflight("https://very.good", "PUT", "x-amz-date").await.status, 403);
    assert_eq!(preflight("https://very.good", "GET", "cookie").await.status, 403);
    assert_eq!(preflight("https://bad", "GET", "x-amz-date").await.status, 403);
    let got = s3.send(Call::new("GET", "/box/k").header("origin", "https://very.good")).await;
    assert_eq!(got.header("access-control-expose-headers"), Some("etag"));
    assert_eq!(got.text(), "x");
}

#[tokio::test]
async fn an_answer_can_be_found_again_by_its_id() {
    let s3 = Endpoint::with_bucket().await;
    let missing = s3.send(Call::new("GET", "/box/none")).await;
    let id = missing.header("x-amz-request-id").unwrap().to_owned();
    assert!(missing.text().contains(&format!("<RequestId>{id}</RequestId>")), "{}", missing.text());
    assert!(missing.text().contains("<Resource>/box/none</Resource>"), "{}", missing.text());
    let next = s3.send(Call::new("HEAD", "/box")).await;
    assert_ne!(next.header("x-amz-request-id").unwrap(), id);
}

/// The store behind an endpoint, for what runs beside it.
fn store_of(s3: &Endpoint, day: Duration, webhooks: &[&str]) -> Store {
    let mut store = Store::new(s3.toy.index.clone(), s3.toy.clone(), s3.toy.clone(), Arc::new(drop));
    store.day = Day(day);
    store.webhooks = webhooks.iter().map(ToString::to_string).collect();
    store
}

/// Asks until it is so; the test's own time limit ends it otherwise.
async fn until(what: impl AsyncFn() -> bool) {
    tokio::time::timeout(Duration::from_secs(30), async {
        while !what().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("it never came to pass");
}

#[tokio::test]
async fn rules_end_what_has_come_to_its_end_and_nothing_else() {
    let s3 = versioned().await;
    let rules = "<LifecycleConfiguration>\
        <Rule><ID>old</ID><Filter><Prefix>tmp/</Prefix></Filter><Status>Enabled</Status>\
        <Expiration><Days>1</Days></Expiration>\
        <NoncurrentVersionExpiration><NoncurrentDays>1</NoncurrentDays></NoncurrentVersionExpiration>\
        <AbortIncompleteMultipartUpload><DaysAfterInitiation>1</DaysAfterInitiation>\
        </AbortIncompleteMultipartUpload></Rule></LifecycleConfiguration>";
    let set = s3.send(Call::new("PUT", "/box").query("lifecycle", "").body(rules)).await;
    assert_eq!(set.status, 200, "{}", set.text());
    for key in ["/box/tmp/a", "/box/tmp/a", "/box/kept"] {
        s3.send(Call::new("PUT", key).body("x")).await;
    }
    s3.send(Call::new("POST", "/box/tmp/u").query("uploads", "")).await;
    let head = s3.send(Call::new("HEAD", "/box/tmp/a")).await;
    assert!(head.header("x-amz-expiration").unwrap().contains("rule-id=\"old\""), "{head:?}");
    let care = tokio::spawn(Caretaker::new(store_of(&s3, Duration::from_secs(1), &[])).run());
    until(async || {
        let text = s3.send(Call::new("GET", "/box").query("versions", "")).await.text();
        text.matches("<Key>").count() == 1
    })
    .await;
    until(async || !s3.send(Call::new("GET", "/box").query("uploads", "")).await.text().contains("<Upload>"))
        .await;
    assert_eq!(s3.send(Call::new("GET", "/box/kept")).await.text(), "x");
    care.abort();
}

/// A receiver that takes every other event.
#[derive(Default)]
struct Fickle {
    heard: Mutex<Vec<(String, String)>>,
    calls: Mutex<usize>,
}

impl Post for Fickle {
    fn post(&self, webhook: &str, body: String) -> BoxFuture<'_, Result<(), String>> {
        let webhook = webhook.to_owned();
        async move {
            let mut calls = self.calls.lock().unwrap();
            *calls += 1;
            if *calls % 2 == 1 {
                return Err("not now".into());
            }
            let event: serde_json::Value = serde_json::from_str(&body).unwrap();
            let name = event["EventName"].as_str().unwrap().to_owned();
            self.heard.lock().unwrap().push((webhook, format!("{name} {}", event["Key"].as_str().unwrap())));
            Ok(())
        }
        .boxed()
    }
}

#[tokio::test]
async fn events_reach_their_webhook_in_order_though_it_fails_at_first() {
    let s3 = Endpoint::start_with(|store| store.webhooks = vec!["hook".into()]).await;
    s3.send(Call::new("PUT", "/box")).await;
    let rules = |arn: &str| {
        format!(
            "<NotificationConfiguration><QueueConfiguration><Queue>{arn}</Queue><Event>s3:ObjectCreated:*</Event>\
            <Event>s3:ObjectRemoved:*</Event><Filter><S3Key><FilterRule><Name>suffix</Name><Value>.jpg</Value>\
            </FilterRule></S3Key></Filter></QueueConfiguration></NotificationConfiguration>"
        )
    };
    let set = |arn: &str| s3.send(Call::new("PUT", "/box").query("notification", "").body(rules(arn)));
    assert_eq!(code(&set("arn:holdfast:sqs::nobody:webhook").await), "InvalidArgument");
    assert_eq!(set("arn:holdfast:sqs::hook:webhook").await.status, 200);
    s3.send(Call::new("PUT", "/box/a.jpg").body("x")).await;
    s3.send(Call::new("PUT", "/box/a.txt").body("x")).await;
    s3.send(Call::new("DELETE", "/box/a.jpg")).await;
    let receiver = Arc::new(Fickle::default());
    let store = store_of(&s3, Day::default().0, &["hook"]);
    let herald = tokio::spawn(Herald::new(store, receiver.clone()).run());
    until(async || s3.toy.index.view().scan(b"e", Some(b"f")).next().is_none()).await;
    herald.abort();
    let heard = receiver.heard.lock().unwrap().clone();
    let hook = |text: &str| ("hook".to_owned(), text.to_owned());
    assert_eq!(heard, [hook("s3:ObjectCreated:Put box/a.jpg"), hook("s3:ObjectRemoved:Delete box/a.jpg")]);
}

#[tokio::test]
async fn a_presigned_url_is_good_for_a_week_at_most() {
    let s3 = Endpoint::with_bucket().await;
    for expires in ["604801", "-1", "soon"] {
        let got = s3.send(Call::new("GET", "/box/k").query("X-Amz-Expires", expires)).await;
        assert_eq!((got.status, code(&got)), (403, "AccessDenied".into()), "{expires}");
    }
}

#[tokio::test]
async fn a_connection_ends_where_the_answer_came_instead_of_the_invitation_to_send_the_body() {
    let s3 = Endpoint::with_bucket().await;
    let put = |body: &'static str| Call::new("PUT", "/box/k").header("expect", "100-continue").body(body);
    let empty = s3.send(put("")).await;
    assert_eq!((empty.status, empty.header("connection")), (200, Some("close")));
    let refused = s3.send(put("x").header("if-none-match", "*")).await;
    assert_eq!((refused.status, refused.header("connection")), (412, Some("close")));
    let stored = s3.send(put("x")).await;
    assert_eq!((stored.status, stored.header("connection")), (200, None));
}

#[tokio::test]
async fn who_may_list_learns_that_a_key_is_missing_and_reads_nothing_by_it() {
    let s3 = Endpoint::with_bucket().await;
    s3.send(Call::new("PUT", "/box/public/k").body("x")).await;
    let policy = r#"{"Statement":{"Effect":"Allow","Principal":"*","Action":"s3:ListBucket",
        "Resource":"arn:aws:s3:::box","Condition":{"StringLike":{"s3:prefix":"public/*"}}}}"#;
    assert_eq!(s3.send(Call::new("PUT", "/box").query("policy", "").body(policy)).await.status, 204);
    let head = |key: &str| s3.send(Call::new("HEAD", key).anonymous());
    assert_eq!(head("/box/public/none").await.status, 404);
    assert_eq!(head("/box/private/none").await.status, 403);
    assert_eq!(head("/box/public/k").await.status, 403);
    let tags = Call::new("GET", "/box/public/none").query("tagging", "");
    assert_eq!(s3.send(tags.anonymous()).await.status, 403);
}

#[tokio::test]
async fn many_deletions_are_judged_by_the_tags_of_what_is_there() {
    let s3 = Endpoint::with_bucket().await;
    for (key, tag) in [("kept", "keep=yes"), ("free", "keep=no")] {
        s3.send(Call::new("PUT", &format!("/box/{key}")).header("x-amz-tagging", tag).body("x")).await;
    }
    let policy = r#"{"Statement":[{"Effect":"Allow","Principal":"*","Action":"s3:DeleteObject","Resource":"arn:aws:s3:::box/*"},
        {"Effect":"Deny","Principal":"*","Action":"s3:DeleteObject","Resource":"arn:aws:s3:::box/*",
         "Condition":{"StringEquals":{"s3:ExistingObjectTag/keep":"yes"}}}]}"#;
    assert_eq!(s3.send(Call::new("PUT", "/box").query("policy", "").body(policy)).await.status, 204);
    let delete = "<Delete><Object><Key>kept</Key></Object><Object><Key>free</Key></Object></Delete>";
    let done = s3.send(Call::new("POST", "/box").query("delete", "").anonymous().body(delete)).await.text();
    assert!(done.contains("<Deleted><Key>free</Key></Deleted>"), "{done}");
    assert_eq!(s3.send(Call::new("GET", "/box/kept")).await.text(), "x");
    assert_eq!(s3.send(Call::new("DELETE", "/box/kept").anonymous()).await.status, 403);
}
