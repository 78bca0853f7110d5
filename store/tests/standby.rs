//! What the endpoint of a standby does: answers what it may, hands on the rest, and never shows less than it must.

mod support;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use holdfast_heartbeat::types::Lsn;
use holdfast_store::s3::{Follow, HandOn, Serving, StandbyReads};
use support::sign::Call;
use support::{Endpoint, MEMBERS_KEY};
use tokio::sync::watch;

fn hand_on() -> HandOn {
    HandOn::new(Arc::new(|| vec![MEMBERS_KEY]))
}

/// Says what the test wants it to say.
struct Told(watch::Receiver<Option<Lsn>>);

impl Follow for Told {
    fn fresh(&self) -> BoxFuture<'_, Option<Lsn>> {
        let told = *self.0.borrow();
        Box::pin(async move { told })
    }
}

/// A standby that answers reads, without a primary to hand anything on to, and what it is told.
async fn bounded() -> (Endpoint, watch::Sender<Option<Lsn>>) {
    let (tell, told) = watch::channel(Some(Lsn::ZERO));
    let s3 = Endpoint::start_as(StandbyReads::Bounded(Arc::new(Told(told)), hand_on()), |_| {}).await;
    for (method, path) in [("PUT", "/box"), ("PUT", "/box/k")] {
        assert_eq!(s3.send(Call::new(method, path).body("")).await.status, 200);
    }
    s3.gate.send_replace(Serving::No { redirect: None });
    (s3, tell)
}

fn lsn(got: &support::sign::Got) -> u64 {
    got.header("x-holdfast-lsn").expect("every answer says how far it reaches").parse().unwrap()
}

#[tokio::test]
async fn a_standby_hands_on_what_comes_and_what_comes_back() {
    let primary = Endpoint::with_bucket().await;
    let standby = Endpoint::start_as(StandbyReads::HandOn(hand_on()), |_| {}).await;
    let redirect = Some(format!("http://{}", primary.addr));
    standby.gate.send_replace(Serving::No { redirect });
    let body: Vec<u8> = (0..3 << 20).map(|i| (i % 251) as u8).collect();
    let put = standby.send(Call::new("PUT", "/box/a%20key").body(body.clone())).await;
    assert_eq!(put.status, 200, "{}", put.text());
    for s3 in [&primary, &standby] {
        let got = s3.send(Call::new("GET", "/box/a%20key")).await;
        assert_eq!((got.status, got.bytes() == body), (200, true));
        let part = s3.send(Call::new("GET", "/box/a%20key").header("range", "bytes=5-9")).await;
        assert_eq!((part.status, part.bytes()), (206, &body[5..10]));
        let none = s3.send(Call::new("GET", "/box/other")).await;
        assert!(none.status == 404 && none.text().contains("NoSuchKey"), "{}", none.text());
    }
    assert!(lsn(&put) > 0);
    assert_eq!(standby.toy.commits(), 0, "nothing was written at the standby");
}

#[tokio::test]
async fn without_a_primary_to_reach_a_client_is_told_to_come_back() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let standby = Endpoint::start_as(StandbyReads::HandOn(hand_on()), |_| {}).await;
    for redirect in [Some(format!("http://{gone}")), None] {
        standby.gate.send_replace(Serving::No { redirect });
        let got = standby.send(Call::new("GET", "/box/k")).await;
        assert_eq!((got.status, got.header("retry-after")), (503, Some("1")), "{}", got.text());
    }
}

#[tokio::test]
async fn no_request_is_handed_on_twice() {
    let standby = Endpoint::start_as(StandbyReads::HandOn(hand_on()), |_| {}).await;
    // To itself: as a member that has the address already and does not serve yet.
    standby.gate.send_replace(Serving::No { redirect: Some(format!("http://{}", standby.addr)) });
    let got = standby.send(Call::new("GET", "/box/k")).await;
    assert_eq!(got.status, 503, "{}", got.text());
}

#[tokio::test]
async fn a_standby_answers_reads_when_it_is_as_far_as_it_must_be_and_nothing_else() {
    let (s3, tell) = bounded().await;
    let here = s3.toy.index.progress().applied;
    tell.send_replace(Some(here));
    let got = s3.send(Call::new("GET", "/box/k")).await;
    assert_eq!((got.status, lsn(&got)), (200, here.0), "{}", got.text());
    assert_eq!(s3.send(Call::new("GET", "/box").query("list-type", "2")).await.status, 200);
    assert_eq!(s3.send(Call::new("HEAD", "/box/none")).await.status, 404);
    let refused = s3.send(Call::new("GET", "/box/k").secret("wrong")).await;
    assert_eq!(refused.status, 403, "{}", refused.text());
    for method in ["PUT", "DELETE"] {
        assert_eq!(s3.send(Call::new(method, "/box/k").body("")).await.status, 503, "{method}");
    }
    tell.send_replace(Some(Lsn(here.0 + 1)));
    assert_eq!(s3.send(Call::new("GET", "/box/k")).await.status, 503, "it is behind");
    tell.send_replace(None);
    assert_eq!(s3.send(Call::new("GET", "/box/k")).await.status, 503, "nobody knows");
}

#[tokio::test]
async fn a_read_waits_for_what_its_client_has_seen() {
    let (s3, _tell) = bounded().await;
    let here = s3.toy.index.progress().applied;
    // The next write, which the client was told of elsewhere.
    let next = Lsn(here.0 + 1);
    let seen = |lsn: Lsn| Call::new("GET", "/box/k").header("x-holdfast-lsn", &lsn.0.to_string());
    assert_eq!(s3.send(seen(here)).await.status, 200);
    assert_eq!(s3.send(seen(next)).await.status, 503);
    let (got, ()) = tokio::join!(s3.send(seen(next)), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        s3.toy.advance();
    });
    assert_eq!(got.status, 200, "{}", got.text());
    assert!(lsn(&got) >= next.0);
}

#[tokio::test]
async fn an_index_that_begins_anew_shows_nothing() {
    let (s3, _tell) = bounded().await;
    assert_eq!(s3.send(Call::new("GET", "/box/k")).await.status, 200);
    let here = s3.toy.index.progress().applied;
    s3.toy.index.reset().unwrap();
    let seen = Call::new("GET", "/box/k").header("x-holdfast-lsn", &here.0.to_string());
    assert_eq!(s3.send(seen).await.status, 503);
}
