//! What the endpoint does when its member loses the right to serve, when the disk fills up, and when
//! the disk lies.

mod support;

use std::time::Duration;

use holdfast_store::backend::{NotServing, WriteError};
use holdfast_store::s3::Serving;
use support::Endpoint;
use support::sign::Call;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

fn elsewhere() -> Option<String> {
    Some("http://10.0.0.100:9000".into())
}

/// Everything that should happen happens within this; it bounds a failing test, not a passing one.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn failed_writes_say_what_they_mean() {
    let s3 = Endpoint::with_bucket().await;
    for (error, status, code) in [
        (WriteError::DiskFull, 507, "XHoldfastDiskFull"),
        (WriteError::Overloaded, 503, "SlowDown"),
        (WriteError::NotPrimary { redirect: None }, 503, "ServiceUnavailable"),
        (WriteError::NotPrimary { redirect: elsewhere() }, 307, "TemporaryRedirect"),
        (WriteError::Failed("a fuse blew".into()), 500, "InternalError"),
    ] {
        s3.toy.fail_writes(Some(error));
        for len in [3, 2 << 20] {
            let got = s3.send(Call::new("PUT", "/box/a%20k").body(vec![0; len])).await;
            assert_eq!(got.status, status, "{}", got.text());
            assert!(got.text().contains(&format!("<Code>{code}</Code>")), "{}", got.text());
            if status == 307 {
                assert_eq!(got.header("location"), Some("http://10.0.0.100:9000/box/a%20k"));
            }
            if status == 503 {
                assert_eq!(got.header("retry-after"), Some("1"));
            }
        }
        assert_eq!(s3.send(Call::new("HEAD", "/box")).await.status, 200, "reads go on");
    }
    s3.toy.fail_writes(None);
    assert_eq!(s3.send(Call::new("PUT", "/box/k").body("x")).await.status, 200);
}

#[tokio::test]
async fn without_the_lease_nothing_is_revealed() {
    let s3 = Endpoint::with_bucket().await;
    s3.send(Call::new("PUT", "/box/k").body("secret")).await;
    s3.toy.stop_serving(Some(NotServing { redirect: None, reason: "the lease lapsed".into() }));
    for (method, path) in
        [("GET", "/box/k"), ("HEAD", "/box"), ("GET", "/nobox"), ("PUT", "/box/n"), ("GET", "/")]
    {
        let got = s3.send(Call::new(method, path)).await;
        assert_eq!(got.status, 503, "{method} {path}");
        assert!(!got.text().contains("secret"));
    }
    s3.toy.stop_serving(Some(NotServing { redirect: elsewhere(), reason: "standby".into() }));
    let got = s3.send(Call::new("GET", "/box/k").query("partNumber", "1")).await;
    assert_eq!(got.status, 307);
    assert_eq!(got.header("location"), Some("http://10.0.0.100:9000/box/k?partNumber=1"));
}

#[tokio::test]
async fn a_lease_lost_during_the_write_is_no_confirmation() {
    let s3 = Endpoint::with_bucket().await;
    s3.toy.stop_serving_after_the_next_commit();
    let got = s3.send(Call::new("PUT", "/box/k").body("x")).await;
    assert_eq!(got.status, 503, "{}", got.text());
}

#[tokio::test]
async fn a_body_received_across_two_epochs_is_refused() {
    let s3 = Endpoint::with_bucket().await;
    let (go, held) = watch::channel(false);
    s3.toy.hold_commits(held);
    let addr = s3.addr;
    let put = tokio::spawn(async move {
        support::sign::send(addr, Call::new("PUT", "/box/k").body(vec![1; 1 << 20])).await
    });
    while s3.toy.appends() == 0 {
        tokio::task::yield_now().await;
    }
    s3.toy.begin_epoch(2);
    go.send(true).unwrap();
    let got = put.await.unwrap();
    assert_eq!(got.status, 503, "{}", got.text());
    assert_eq!(s3.send(Call::new("GET", "/box/k")).await.status, 404);
}

#[tokio::test]
async fn damage_never_leaves_as_data() {
    let s3 = Endpoint::with_bucket().await;
    let body: Vec<u8> = (0..4u32 << 20).map(|n| (n % 251) as u8).collect();
    s3.send(Call::new("PUT", "/box/k").body(body.clone())).await;
    s3.toy.damage_data(1);
    let got = s3.send(Call::new("GET", "/box/k")).await;
    assert_eq!(got.status, 200, "the head left before the damage was met");
    assert!(got.body.is_err(), "the body must break off");
    let damages = s3.toy.damages();
    assert_eq!(damages.len(), 1);
    assert_eq!(damages[0].extent.len, 1 << 20);
    let got = s3.send(Call::new("GET", "/box/k").header("range", "bytes=0-99")).await;
    assert_eq!(got.bytes(), &body[..100], "what is sound is served");
    let got = s3.send(Call::new("GET", "/box/k").header("range", "bytes=-1048577")).await;
    assert_eq!(got.status, 500, "met before the head left");
}

#[tokio::test]
async fn what_is_long_and_plain_is_sent_from_its_file() {
    let s3 = Endpoint::with_bucket().await;
    let body: Vec<u8> = (0..(3u32 << 20) + 200_000).map(|n| (n % 251) as u8).collect();
    s3.send(Call::new("PUT", "/box/k").body(body.clone())).await;
    let sent = |get: Call| async {
        let before = s3.toy.sent_from_file();
        let got = s3.send(get).await;
        assert!(got.status < 300, "{}", got.text());
        (got.bytes().to_vec(), s3.toy.sent_from_file() - before)
    };
    let get = || Call::new("GET", "/box/k");
    let (all, files) = sent(get()).await;
    assert!(all == body && files == 4, "{} bytes, {files} ranges", all.len());
    // From the middle of one record to the middle of the next; a few bytes; and the end, which is short.
    let (some, files) = sent(get().header("range", "bytes=500000-1400000")).await;
    assert!(some == body[500_000..=1_400_000] && files == 2, "{files} ranges");
    let (few, files) = sent(get().header("range", "bytes=1048570-1048580")).await;
    assert!(few == body[1_048_570..=1_048_580] && files == 0, "{files} ranges");
    let (none, files) = sent(Call::new("HEAD", "/box/k")).await;
    assert!(none.is_empty() && files <= 1);
    // A copy is made of the bytes themselves.
    let (_, files) = sent(Call::new("PUT", "/box/copy").header("x-amz-copy-source", "/box/k")).await;
    assert_eq!(files, 0);
    let (copy, _) = sent(Call::new("GET", "/box/copy")).await;
    assert!(copy == body);
}

async fn connect_idle(s3: &Endpoint) -> TcpStream {
    let mut stream = TcpStream::connect(s3.addr).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 403", "answered, and kept open");
    stream
}

async fn is_closed(mut stream: TcpStream) {
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "the client waits in silence");
}

#[tokio::test]
async fn no_closes_what_is_open_and_redirects_what_comes() {
    let s3 = Endpoint::with_bucket().await;
    let (_go, held) = watch::channel(false);
    let idle = connect_idle(&s3).await;
    s3.toy.hold_commits(held);
    let (headers, _) = Call::new("PUT", "/box/k").body("x").signed(s3.addr);
    let head: String = headers.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
    let mut busy = TcpStream::connect(s3.addr).await.unwrap();
    busy.write_all(format!("PUT /box/k HTTP/1.1\r\n{head}content-length: 1\r\n\r\nx").as_bytes())
        .await
        .unwrap();
    s3.gate.send(Serving::No { redirect: elsewhere() }).unwrap();
    is_closed(idle).await;
    is_closed(busy).await;
    for _ in 0..3 {
        let got = s3.send(Call::new("GET", "/box/k")).await;
        assert_eq!(got.status, 307);
        assert_eq!(got.header("location"), Some("http://10.0.0.100:9000/box/k"));
        assert_eq!(got.header("connection"), Some("close"));
    }
    s3.gate.send(Serving::No { redirect: None }).unwrap();
    assert_eq!(s3.send(Call::new("GET", "/box/k")).await.status, 503);
    s3.gate.send(Serving::Yes).unwrap();
    assert_eq!(s3.send(Call::new("HEAD", "/box")).await.status, 200);
}

#[tokio::test]
async fn a_client_on_the_address_itself_is_not_sent_in_a_circle() {
    let s3 = Endpoint::with_bucket().await;
    let here = || Some(format!("http://{}", s3.addr));
    s3.gate.send(Serving::No { redirect: here() }).unwrap();
    let got = s3.send(Call::new("GET", "/box/k")).await;
    assert_eq!((got.status, got.header("location")), (503, None));
    s3.gate.send(Serving::Yes).unwrap();
    s3.toy.stop_serving(Some(NotServing { redirect: here(), reason: "the lease lapsed".into() }));
    let got = s3.send(Call::new("PUT", "/box/k").body("x")).await;
    assert_eq!((got.status, got.header("connection")), (503, Some("close")));
}

#[tokio::test]
async fn draining_finishes_what_began_and_turns_away_what_comes() {
    let s3 = Endpoint::with_bucket().await;
    let (go, held) = watch::channel(false);
    s3.toy.hold_commits(held.clone());
    let addr = s3.addr;
    let put =
        tokio::spawn(async move { support::sign::send(addr, Call::new("PUT", "/box/k").body("x")).await });
    // The commit waits on the channel: one receiver is ours, one is kept, the third is its own.
    while go.receiver_count() < 3 {
        tokio::task::yield_now().await;
    }
    s3.gate.send(Serving::Draining).unwrap();
    let got = s3.send(Call::new("GET", "/box/k")).await;
    assert_eq!(got.status, 503);
    assert_eq!(got.header("connection"), Some("close"));
    go.send(true).unwrap();
    assert_eq!(put.await.unwrap().status, 200);
}

#[tokio::test]
async fn draining_lasts_until_who_is_busy_was_sent_away() {
    let s3 = Endpoint::with_bucket().await;
    let quiet = connect_idle(&s3).await;
    // What makes a connection quiet is time, and nothing else.
    tokio::time::sleep(Duration::from_millis(60)).await;
    let mut busy = connect_idle(&s3).await;
    s3.gate.send(Serving::Draining).unwrap();
    is_closed(quiet).await;
    let left = tokio::time::timeout(Duration::from_millis(100), s3.guests.gone()).await;
    assert!(left.is_err(), "who asked a moment ago hears why it has to go");
    busy.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut rest = String::new();
    busy.read_to_string(&mut rest).await.unwrap();
    assert!(rest.contains("HTTP/1.1 503") && rest.contains("connection: close"), "{rest}");
    tokio::time::timeout(PATIENCE, s3.guests.gone()).await.expect("nobody is left");
    // It was not handed over after all.
    s3.gate.send(Serving::Yes).unwrap();
    let again = connect_idle(&s3).await;
    s3.gate.send(Serving::No { redirect: None }).unwrap();
    tokio::time::timeout(PATIENCE, s3.guests.gone()).await.expect("nobody is left");
    is_closed(again).await;
}

/// Its head went out long ago; its body has not.
#[tokio::test]
async fn draining_lets_a_slow_download_go_on() {
    let s3 = Endpoint::with_bucket().await;
    let size = 24 << 20;
    assert_eq!(s3.send(Call::new("PUT", "/box/large").body(vec![7; size])).await.status, 200);
    let (headers, _) = Call::new("GET", "/box/large").signed(s3.addr);
    let head: String = headers.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
    let mut slow = TcpStream::connect(s3.addr).await.unwrap();
    slow.write_all(format!("GET /box/large HTTP/1.1\r\n{head}\r\n").as_bytes()).await.unwrap();
    let mut first = [0; 12];
    slow.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    tokio::time::sleep(Duration::from_millis(60)).await;
    s3.gate.send(Serving::Draining).unwrap();
    let left = tokio::time::timeout(Duration::from_millis(60), s3.guests.gone()).await;
    assert!(left.is_err(), "it is not over");
    let mut got = 0;
    let mut chunk = vec![0; 1 << 20];
    while got < size {
        let read = tokio::time::timeout(PATIENCE, slow.read(&mut chunk)).await.expect("more of it").unwrap();
        assert_ne!(read, 0, "cut off after {got} bytes");
        got += read;
    }
}

#[tokio::test]
async fn dropping_the_gate_closes_everything() {
    let s3 = Endpoint::with_bucket().await;
    let idle = connect_idle(&s3).await;
    let addr = s3.addr;
    drop(s3);
    is_closed(idle).await;
    tokio::time::timeout(PATIENCE, async {
        while TcpStream::connect(addr).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the listener is closed");
}
