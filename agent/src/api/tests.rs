//! The router against a member that is made up: what callers get, and what they cannot do.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request as HttpRequest, StatusCode, header};
use holdfast_heartbeat::{Epoch, Incarnation, Loss, Lsn, Member, NodeId};
use holdfast_replication::replica::{PeerStatus as LogPeer, ReplicaRole, ReplicaStatus};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;
use crate::node::event::{Answer, Command, Declined};
use crate::runtime::address::VipStatus;
use crate::runtime::handle::Request;
use crate::runtime::history::History;
use crate::runtime::inquiry::{CheckReport, Finding};
use crate::runtime::recorder::{RecordError, Written};
use crate::runtime::status::{Counters, Hearing, LatenessStatus, PathStatus, PeerStatus, Status};

/// Every path that takes an order.
const CHANGES: [&str; 10] = [
    "/api/ha/check",
    "/api/ha/failover",
    "/api/ha/promote",
    "/api/ha/failback",
    "/api/ha/pause",
    "/api/ha/resume",
    "/api/ha/drain",
    "/api/ha/fence-confirmed",
    "/api/cluster/nodes/a/drain",
    "/api/cluster/nodes/a/resume",
];

fn id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

/// A healthy primary with one dead cable.
pub(crate) fn status() -> Status {
    let path = |name: &str, address: &str, alive: bool| PathStatus {
        name: name.into(),
        address: address.into(),
        alive,
        last_heard_ms: alive.then_some(34),
        reaches: Some(alive),
        lost_here: alive.then_some(Loss { sent: 600, lost: 3 }),
        lost_there: alive.then_some(Loss { sent: 600, lost: 0 }),
        rtt_longest_us: alive.then_some(950),
        rtt_us: alive.then_some(130),
        sent: 1000,
        received: 990,
        unproven: 0,
    };
    let peer = |id: &str, kind: &str, role: &str, paths| PeerStatus {
        id: id.into(),
        kind: kind.into(),
        alive: true,
        last_heard_ms: Some(34),
        role: Some(role.into()),
        epoch: Some(7),
        priority: (kind == "data").then_some(150),
        in_sync: kind == "data",
        drained: false,
        penalty: 0,
        disk_stalled: false,
        electable: kind == "data",
        vote: true,
        hears: vec![
            Hearing { member: "a".into(), by: vec!["main".into()], not_by: vec![] },
            Hearing { member: "b".into(), by: vec![], not_by: vec!["main".into()] },
        ]
        .into_iter()
        .filter(|hearing| hearing.member != id)
        .collect(),
        paths,
    };
    Status {
        node: "a".into(),
        kind: "data".into(),
        pid: 12,
        supervisor_pid: Some(11),
        version: "0.1.0".into(),
        role: "primary".into(),
        role_since_ms: 11_520_000,
        epoch: 7,
        primary: Some("a".into()),
        lease_remaining_ms: Some(212),
        serving: true,
        in_sync: vec!["a".into(), "b".into()],
        in_sync_here: true,
        solo: false,
        healthy: true,
        warnings: vec![],
        waiting_for: None,
        priority: 50,
        configured_priority: None,
        failback_mode: "auto".into(),
        failback_enabled: true,
        paused: None,
        drained: false,
        services: Vec::new(),
        links_failed: None,
        fences: Vec::new(),
        vote: true,
        votes: 3,
        quorum: 2,
        voters: Vec::new(),
        pair: false,
        penalty: 0,
        checks: Vec::new(),
        disk: None,
        vips: vec![VipStatus {
            address: "10.0.0.100/24".into(),
            interface: "eth1".into(),
            held: true,
            contested: 3,
            restored: 2,
        }],
        conntrack: None,
        files: None,
        endpoint: Some("http://10.0.0.100:9000".into()),
        gate: "ebpf".into(),
        gate_fallback: None,
        realtime: "SCHED_FIFO 20, memory locked".into(),
        keys: vec!["5d1f0c2a".into()],
        lateness: LatenessStatus {
            longest_us: 210,
            sum_us: 4_500,
            buckets: vec![(Some(50), 900), (Some(100), 90), (None, 10)],
        },
        policy: "majority of 3 members".into(),
        exposure: None,
        end_lsn: 4096,
        durable_lsn: 4096,
        committed_lsn: 4096,
        applied_lsn: 4096,
        peers: vec![
            peer(
                "b",
                "data",
                "standby",
                vec![path("main", "10.0.0.2:9002", true), path("cable", "10.78.0.2:9002", false)],
            ),
            peer("w", "witness", "witness", vec![path("main", "10.0.0.3:9002", true)]),
        ],
        counters: Counters { heartbeat_dropped: [("bad_mac".to_owned(), 2)].into() },
    }
}

/// The log of a primary whose standby is 96 bytes behind.
pub(crate) fn leading() -> ReplicaStatus {
    let member = |id: &str| Member { id: NodeId::new(id).unwrap(), incarnation: Incarnation(1) };
    ReplicaStatus {
        role: ReplicaRole::Leading,
        epoch: Some(Epoch(7)),
        promised_epoch: Epoch(7),
        leader: Some(member("a")),
        log_id: Some("00000000000000ff".into()),
        end: Lsn(4192),
        durable: Lsn(4192),
        committed: Lsn(4096),
        applied: Lsn(4096),
        segments: 1,
        log_bytes: 1,
        healed: 0,
        checkpoint_bytes: 0,
        replayable: true,
        history: vec![(Epoch(7), Lsn(0))],
        peers: vec![LogPeer {
            member: member("b"),
            streaming: true,
            in_wait_set: true,
            durable: Some(Lsn(4096)),
            lag_bytes: 96,
            lag_ms: Some(1250),
            catch_up: None,
        }],
        exposure: None,
        streaming: true,
        catch_up: None,
        pending: 3,
        set_aside: vec![],
        damaged: None,
        failure: None,
    }
}

/// A log that follows, with 100 bytes received and not visible yet.
fn following(streaming: bool) -> ReplicaStatus {
    ReplicaStatus { role: ReplicaRole::Following, peers: vec![], streaming, applied: Lsn(4092), ..leading() }
}

/// What a made-up member does, and what it was told.
struct Fake {
    status: Option<Status>,
    log: Option<ReplicaStatus>,
    answer: Answer,
    given: Arc<Mutex<Vec<Command>>>,
    _dir: tempfile::TempDir,
    history: History,
}

impl Fake {
    fn new() -> Fake {
        let dir = tempfile::tempdir().unwrap();
        let history = History::open(dir.path());
        for note in ["first", "second", "third"] {
            history.add_note(1, "note", note);
        }
        Fake {
            status: Some(status()),
            log: Some(leading()),
            answer: Ok("b is primary in epoch 8".to_owned()),
            given: Arc::default(),
            _dir: dir,
            history,
        }
    }

    fn standby(log: Option<ReplicaStatus>) -> Fake {
        let status = Status { role: "standby".into(), serving: false, primary: Some("b".into()), ..status() };
        Fake { status: Some(status), log, ..Fake::new() }
    }

    fn witness() -> Fake {
        let status = Status { role: "witness".into(), serving: false, kind: "witness".into(), ..status() };
        Fake { status: Some(status), log: None, ..Fake::new() }
    }

    fn router(&self, options: ApiOptions) -> Router {
        let (status, answer, given) = (self.status.clone(), self.answer.clone(), self.given.clone());
        let log = self.log.clone();
        let recorder_on = log.is_some();
        let requests = move |request| {
            match (request, &status) {
                (_, None) => return false,
                (Request::Status(reply), Some(status)) => drop(reply.send(status.clone())),
                (Request::Record(reply), Some(_)) if !recorder_on => {
                    drop(reply.send(Err(RecordError::Off)));
                }
                (Request::Record(reply), Some(_)) => drop(reply.send(Ok(Written {
                    path: "/var/lib/holdfast/flight/x.flight".into(),
                    bytes: 5,
                    message: "recorded".into(),
                }))),
                (Request::Check(status, _, reply), Some(_)) => {
                    let finding = Finding::fail("announcement", "b heard nothing");
                    drop(reply.send(CheckReport::new(&status.node, status.healthy, vec![finding])));
                }
                (Request::Command(command, reply), Some(_)) => {
                    given.lock().unwrap().push(command);
                    drop(reply.send(answer.clone()));
                }
            }
            true
        };
        router(Handle::new(requests, move || log.clone(), self.history.clone()), options)
    }

    fn given(&self) -> Vec<Command> {
        self.given.lock().unwrap().clone()
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        let request = HttpRequest::get(path).body(Body::empty()).unwrap();
        send(self.router(ApiOptions::default()), request).await
    }

    /// A POST from this host, without a token configured.
    async fn post(&self, path: &str, body: &str) -> (StatusCode, Value) {
        send(self.router(ApiOptions::default()), from("127.0.0.1:5000", path, body)).await
    }
}

fn from(caller: &str, path: &str, body: &str) -> HttpRequest<Body> {
    HttpRequest::post(path)
        .header(header::HOST, "127.0.0.1:8080")
        .extension(ConnectInfo(caller.parse::<SocketAddr>().unwrap()))
        .body(Body::from(body.to_owned()))
        .unwrap()
}

async fn send(router: Router, request: HttpRequest<Body>) -> (StatusCode, Value) {
    let response = router.oneshot(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

fn code(body: &Value) -> &str {
    assert!(body["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{body}");
    body["error"]["code"].as_str().unwrap()
}

#[tokio::test]
async fn reading_shows_the_snapshot() {
    let fake = Fake::new();
    let (code, body) = fake.get("/api/ha/status").await;
    assert_eq!(
        (code, &body["role"], &body["in_sync"]),
        (StatusCode::OK, &json!("primary"), &json!(["a", "b"]))
    );
    let (code, body) = fake.get("/api/ha/cluster").await;
    assert_eq!(code, StatusCode::OK);
    let ids: Vec<_> = body["members"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["a", "b", "w"]);
    assert_eq!(body["members"][0]["is_self"], true);
    assert_eq!(body["members"][1]["paths"][1]["alive"], false);
    let (code, body) = fake.get("/api/replication/status").await;
    assert_eq!((code, &body["role"], &body["end"]), (StatusCode::OK, &json!("leading"), &json!(4192)));
    let (code, body) = fake.get("/api/replication/stats").await;
    assert_eq!((code, &body["lag_bytes"]), (StatusCode::OK, &json!({"b": 96})));
}

#[tokio::test]
async fn the_history_is_cut_to_the_newest() {
    let fake = Fake::new();
    let reasons = |body: Value| -> Vec<String> {
        body.as_array().unwrap().iter().map(|e| e["reason"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(reasons(fake.get("/api/ha/history").await.1), ["first", "second", "third"]);
    assert_eq!(reasons(fake.get("/api/ha/history?limit=2").await.1), ["second", "third"]);
    assert_eq!(reasons(fake.get("/api/ha/history?limit=99").await.1).len(), 3);
    let (status, body) = fake.get("/api/ha/history?limit=many").await;
    assert_eq!((status, code(&body)), (StatusCode::BAD_REQUEST, "bad_request"));
}

#[tokio::test]
async fn a_witness_says_that_it_has_no_log() {
    let fake = Fake::witness();
    for path in ["/api/replication/status", "/api/replication/stats"] {
        let (status, body) = fake.get(path).await;
        assert_eq!((status, code(&body)), (StatusCode::NOT_FOUND, "no_log"));
        assert_eq!(body["error"]["message"], "a witness has no log");
    }
}

#[tokio::test]
async fn a_recording_is_written_on_order_and_its_place_told() {
    let (status, body) = Fake::new().post("/api/ha/recording", "").await;
    assert_eq!((status, &body["bytes"]), (StatusCode::OK, &json!(5)));
    assert_eq!(body["path"], "/var/lib/holdfast/flight/x.flight");
    let (status, body) = Fake::new().post("/api/ha/recording", r#"{"to":"/etc/passwd"}"#).await;
    assert_eq!((status, code(&body)), (StatusCode::BAD_REQUEST, "bad_request"));
    let (status, body) = Fake::witness().post("/api/ha/recording", "").await;
    assert_eq!((status, code(&body)), (StatusCode::CONFLICT, "recorder_off"));
    let request = from("192.0.2.7:5000", "/api/ha/recording", "");
    let (status, _) = send(Fake::new().router(ApiOptions::default()), request).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "from this host alone where there is no token");
}

#[tokio::test]
async fn metrics_are_served_as_text_under_both_names() {
    for path in ["/metrics", "/api/ha/metrics"] {
        let request = HttpRequest::get(path).body(Body::empty()).unwrap();
        let response = Fake::new().router(ApiOptions::default()).oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert!(
            response.headers()[header::CONTENT_TYPE]
                .to_str()
                .unwrap()
                .starts_with("application/openmetrics-text")
        );
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!(body.ends_with(b"# EOF\n"));
        let text = String::from_utf8(body.to_vec()).unwrap();
        for line in [
            "holdfast_core_lateness_seconds_sum 0.0045",
            "holdfast_core_lateness_seconds_count 1000",
            "holdfast_core_lateness_seconds_bucket{le=\"0.0001\"} 990",
            "holdfast_core_lateness_seconds_bucket{le=\"+Inf\"} 1000",
            "holdfast_core_lateness_longest_seconds 0.00021",
        ] {
            assert!(text.lines().any(|seen| seen == line), "{line}\n{text}");
        }
    }
}

#[tokio::test]
async fn load_balancers_are_told_by_the_status_code() {
    let ok = StatusCode::OK;
    let no = StatusCode::SERVICE_UNAVAILABLE;
    let waiting = Status { serving: false, ..status() };
    let handing_over = Status { role: "handing_over".into(), ..status() };
    let promoting = Fake { status: Some(waiting), ..Fake::new() };
    let leaving = Fake { status: Some(handing_over), ..Fake::new() };
    for (fake, primary, standby, read_only, close) in [
        (Fake::new(), ok, no, ok, ok),
        (promoting, no, no, no, no),
        (leaving, no, no, no, no),
        (Fake::standby(Some(following(true))), no, ok, ok, no),
        (Fake::standby(Some(following(false))), no, ok, no, no),
        (Fake::witness(), no, no, no, no),
    ] {
        let (code, body) = fake.get("/health").await;
        assert_eq!(code, ok, "the core answers: {body}");
        assert_eq!(fake.get("/primary").await.0, primary, "{body}");
        assert_eq!(fake.get("/standby").await.0, standby, "{body}");
        assert_eq!(fake.get("/read-only").await.0, read_only, "{body}");
        assert_eq!(fake.get("/read-only?lag=99").await.0, close, "{body}");
    }
    let fake = Fake::standby(Some(following(true)));
    assert_eq!(fake.get("/read-only?lag=100").await.0, ok);
    assert_eq!(fake.get("/read-only?lag=near").await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_core_that_is_gone_answers_503() {
    let fake = Fake { status: None, ..Fake::new() };
    for path in ["/api/ha/status", "/api/ha/cluster", "/metrics", "/health", "/primary"] {
        let (status, body) = fake.get(path).await;
        assert_eq!((status, code(&body)), (StatusCode::SERVICE_UNAVAILABLE, "ending"), "{path}");
    }
    let (status, body) = fake.post("/api/ha/failover", "").await;
    assert_eq!((status, code(&body)), (StatusCode::SERVICE_UNAVAILABLE, "ending"));
}

#[tokio::test]
async fn a_core_that_is_stuck_is_told_from_one_that_is_well() {
    let fake = Fake::new();
    let kept = Mutex::new(Vec::new());
    let stuck = Handle::new(
        move |request| {
            kept.lock().unwrap().push(request);
            true
        },
        || None,
        fake.history.clone(),
    );
    let moment = Duration::from_millis(20);
    let router = router_with(stuck, ApiOptions::default(), Patience { status: moment, command: moment });
    let request = HttpRequest::get("/health").body(Body::empty()).unwrap();
    let (status, body) = send(router.clone(), request).await;
    assert_eq!((status, code(&body)), (StatusCode::SERVICE_UNAVAILABLE, "core_silent"));
    let (status, body) = send(router, from("127.0.0.1:5000", "/api/ha/failover", "")).await;
    assert_eq!((status, code(&body)), (StatusCode::SERVICE_UNAVAILABLE, "outcome_unknown"));
}

#[tokio::test]
async fn orders_reach_the_core_as_they_were_meant() {
    let fake = Fake::new();
    for (path, body) in [
        ("/api/ha/failover", ""),
        ("/api/ha/failover", "{}"),
        ("/api/ha/failover", r#"{"to":"b"}"#),
        ("/api/ha/promote", ""),
        ("/api/ha/promote", r#"{"accept_data_loss":true}"#),
        ("/api/ha/failback", ""),
        ("/api/ha/failback", " {}\n"),
        ("/api/ha/failback", r#"{"enabled":true}"#),
        ("/api/ha/failback", r#"{"enabled":false}"#),
        ("/api/ha/drain", ""),
        ("/api/cluster/nodes", r#"{"add":"c"}"#),
        ("/api/cluster/nodes", r#"{"remove":"b","add":"c"}"#),
        ("/api/cluster/nodes", r#"{"name":"c"}"#),
        ("/api/cluster/nodes/a/drain", ""),
        ("/api/cluster/nodes/a/drain", r#"{"graceful": true, "timeout_secs": 300}"#),
    ] {
        let (status, answer) = fake.post(path, body).await;
        assert_eq!(
            (status, &answer["message"]),
            (StatusCode::OK, &json!("b is primary in epoch 8")),
            "{path} {body}"
        );
    }
    assert_eq!(
        fake.given(),
        [
            Command::Failover { to: None },
            Command::Failover { to: None },
            Command::Failover { to: Some(NodeId::new("b").unwrap()) },
            Command::Promote { accept_data_loss: false },
            Command::Promote { accept_data_loss: true },
            Command::Failback,
            Command::Failback,
            Command::SetFailback { enabled: true },
            Command::SetFailback { enabled: false },
            Command::Drain,
            Command::ChangeVoters { remove: None, add: Some(NodeId::new("c").unwrap()) },
            Command::ChangeVoters {
                remove: Some(NodeId::new("b").unwrap()),
                add: Some(NodeId::new("c").unwrap())
            },
            Command::ChangeVoters { remove: None, add: Some(id("c")) },
            Command::Drain,
            Command::Drain,
        ]
    );
}

#[tokio::test]
async fn a_pause_and_its_end_say_when_they_were_ordered() {
    let fake = Fake::new();
    let now = || std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
    let before = now();
    for path in ["/api/ha/pause", "/api/cluster/nodes/a/resume"] {
        assert_eq!(fake.post(path, "{}").await.0, StatusCode::OK, "{path}");
    }
    let given = fake.given();
    let [Command::Pause { at_unix_ms: paused }, Command::Resume { at_unix_ms: resumed }] = given[..] else {
        panic!("{given:?}")
    };
    assert!(before <= paused && paused <= resumed && resumed <= now());
}

#[tokio::test]
async fn an_order_that_is_not_understood_is_refused() {
    let fake = Fake::new();
    for (path, body) in [
        ("/api/ha/failover", "{"),
        ("/api/ha/failover", "[]x"),
        ("/api/ha/failover", r#"{"to":""}"#),
        ("/api/ha/failover", r#"{"to":null}"#),
        ("/api/ha/failover", r#"{"To":"b"}"#),
        ("/api/ha/promote", r#"{"accept_data_loss":"yes"}"#),
        ("/api/ha/failback", r#"{"enable":false}"#),
        ("/api/ha/failback", r#"{"enabled":null}"#),
        ("/api/ha/failback", "\u{0}"),
        ("/api/ha/pause", r#"{"on":true}"#),
        ("/api/ha/resume", "now"),
        ("/api/ha/drain", r#"{"node":"b"}"#),
        ("/api/cluster/nodes", "{}"),
        ("/api/cluster/nodes", r#"{"add":"b","remove":"b"}"#),
        ("/api/cluster/nodes", r#"{"replace":"b"}"#),
        ("/api/cluster/nodes", r#"{"name":null}"#),
        ("/api/cluster/nodes", r#"{"name":"c","add":"c"}"#),
        ("/api/cluster/nodes", r#"{"name":"c","remove":"b"}"#),
        ("/api/cluster/nodes/a/drain", r#"{"graceful": false}"#),
        ("/api/cluster/nodes/a/drain", r#"{"graceful": null}"#),
        ("/api/cluster/nodes/a/drain", r#"{"gracefull": true}"#),
        ("/api/cluster/nodes/a/drain", r#"{"timeout_secs": "long"}"#),
        ("/api/cluster/nodes/a/resume", r#"{"graceful": true}"#),
    ] {
        let (status, answer) = fake.post(path, body).await;
        assert_eq!((status, code(&answer)), (StatusCode::BAD_REQUEST, "bad_request"), "{path} {body}");
    }
    let (status, answer) = fake.post("/api/ha/failover", &" ".repeat(MAX_BODY_BYTES + 1)).await;
    assert_eq!((status, code(&answer)), (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"));
    assert_eq!(fake.given(), []);
}

/// An order about a member, by a program on this host.
fn about(method: &str, path: &str, body: &str) -> HttpRequest<Body> {
    let mut request = from("127.0.0.1:5000", path, body);
    *request.method_mut() = method.parse().unwrap();
    request
}

#[tokio::test]
async fn one_member_is_shown_as_in_the_list() {
    let fake = Fake::new();
    let (_, all) = fake.get("/api/cluster/nodes").await;
    let members = all["members"].as_array().unwrap();
    assert_eq!(members.len(), 3);
    for member in members {
        let (status, one) = fake.get(&format!("/api/cluster/nodes/{}", member["id"].as_str().unwrap())).await;
        assert_eq!((status, &one), (StatusCode::OK, member));
    }
    for unknown in ["c", "a%2Fb", "A", "10.0.0.2:9002"] {
        let (status, body) = fake.get(&format!("/api/cluster/nodes/{unknown}")).await;
        assert_eq!((status, code(&body)), (StatusCode::NOT_FOUND, "no_such_member"), "{unknown}");
        assert!(
            body["error"]["message"].as_str().unwrap().ends_with("those that a knows: a, b, w"),
            "{body}"
        );
    }
    let votes = Status { voters: ["a", "b", "old"].map(String::from).to_vec(), ..status() };
    let (status, body) = Fake { status: Some(votes), ..Fake::new() }.get("/api/cluster/nodes/old").await;
    assert_eq!((status, code(&body)), (StatusCode::NOT_FOUND, "no_such_member"));
    assert!(body["error"]["message"].as_str().unwrap().starts_with("old has a vote"), "{body}");
}

#[tokio::test]
async fn a_member_is_removed_under_its_name() {
    let votes = Status { voters: ["a", "b", "old"].map(String::from).to_vec(), ..status() };
    let fake = Fake { status: Some(votes), ..Fake::new() };
    for name in ["b", "old"] {
        let request = about("DELETE", &format!("/api/cluster/nodes/{name}"), "");
        let (status, body) = send(fake.router(ApiOptions::default()), request).await;
        assert_eq!((status, &body["message"]), (StatusCode::OK, &json!("b is primary in epoch 8")));
    }
    let remove = |name| Command::ChangeVoters { remove: Some(id(name)), add: None };
    assert_eq!(fake.given(), [remove("b"), remove("old")]);
    let request = about("DELETE", "/api/cluster/nodes/c", "");
    let (status, body) = send(fake.router(ApiOptions::default()), request).await;
    assert_eq!((status, code(&body)), (StatusCode::NOT_FOUND, "no_such_member"));
    assert_eq!(fake.given().len(), 2);
}

#[tokio::test]
async fn a_preference_is_changed_on_the_member_that_has_it() {
    let fake = Fake::new();
    for (method, priority) in [("PUT", 10), ("PATCH", 0), ("PATCH", u32::MAX)] {
        let body = json!({"priority": priority}).to_string();
        let request = about(method, "/api/cluster/nodes/a", &body);
        assert_eq!(send(fake.router(ApiOptions::default()), request).await.0, StatusCode::OK, "{method}");
    }
    let set = |priority| Command::SetPriority { priority };
    assert_eq!(fake.given(), [set(10), set(0), set(u32::MAX)]);
    for (body, says) in [
        ("", "say what to change: {\"priority\": N}"),
        (r#"{"priority": null}"#, "u32"),
        (r#"{"priority": -1}"#, "u32"),
        (r#"{"priority": 4294967296}"#, "u32"),
        (r#"{"priority": "10"}"#, "u32"),
        (r#"{"name": "c"}"#, "never changes: its votes and its log are under it. Replace it"),
        (r#"{"priority": 10, "name": "a"}"#, "nothing was changed"),
        (r#"{"region": "eu"}"#, "\"region\": nothing is known of it here"),
    ] {
        let request = about("PUT", "/api/cluster/nodes/a", body);
        let (status, answer) = send(fake.router(ApiOptions::default()), request).await;
        assert_eq!((status, code(&answer)), (StatusCode::BAD_REQUEST, "bad_request"), "{body}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(says), "{body}: {answer}");
    }
    assert_eq!(fake.given().len(), 3);
}

#[tokio::test]
async fn what_is_another_members_own_is_refused_and_names_its_host() {
    let fake = Fake::new();
    for (method, path, body, says) in [
        ("POST", "/api/cluster/nodes/b/drain", "", "the host of b, or ask its API: holdfast ha drain"),
        ("POST", "/api/cluster/nodes/w/resume", "", "the host of w, or ask its API: holdfast ha resume"),
        ("PATCH", "/api/cluster/nodes/b", r#"{"priority": 7}"#, "holdfast ha members edit b --priority 7"),
    ] {
        let (status, answer) = send(fake.router(ApiOptions::default()), about(method, path, body)).await;
        assert_eq!((status, code(&answer)), (StatusCode::CONFLICT, "other_member"), "{path}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(says), "{path}: {answer}");
        let unknown = path.replace("/b", "/c").replace("/w", "/c");
        let (status, answer) = send(fake.router(ApiOptions::default()), about(method, &unknown, body)).await;
        assert_eq!((status, code(&answer)), (StatusCode::NOT_FOUND, "no_such_member"), "{unknown}");
    }
    assert_eq!(fake.given(), []);
}

#[tokio::test]
async fn what_a_new_member_is_does_not_come_with_the_order_that_adds_it() {
    let fake = Fake::new();
    for (body, says) in [
        (r#"{"endpoint":"http://c:9000","name":"c","role":"replica"}"#, "peer_addrs"),
        (r#"{"endpoint":"http://c:9000","name":"c","role":"replica"}"#, "roles are elected"),
        (r#"{"name":"c","node_token":"eyJ"}"#, "secret_key_file"),
        (r#"{"name":"c","priority":100}"#, "holdfast ha members edit NAME --priority N"),
    ] {
        let (status, answer) = fake.post("/api/cluster/nodes", body).await;
        assert_eq!((status, code(&answer)), (StatusCode::BAD_REQUEST, "bad_request"), "{body}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(says), "{body}: {answer}");
    }
    assert_eq!(fake.given(), []);
}

#[tokio::test]
async fn changes_of_a_member_are_guarded_and_in_the_audit_trail() {
    let fake = Fake::new();
    let audit = Audit::default();
    let options = || ApiOptions { audit: audit.clone(), ..ApiOptions::default() };
    let orders = [
        ("PUT", "/api/cluster/nodes/a", r#"{"priority": 10}"#),
        ("PATCH", "/api/cluster/nodes/a", r#"{"priority": 10}"#),
        ("DELETE", "/api/cluster/nodes/b", ""),
        ("POST", "/api/cluster/nodes/a/drain", ""),
    ];
    for (method, path, body) in orders {
        let mut far = from("10.9.9.9:5000", path, body);
        *far.method_mut() = method.parse().unwrap();
        assert_eq!(send(fake.router(options()), far).await.0, StatusCode::FORBIDDEN, "{method} {path}");
    }
    assert_eq!(fake.given(), []);
    for (method, path, body) in orders {
        assert_eq!(send(fake.router(options()), about(method, path, body)).await.0, StatusCode::OK);
    }
    let reading = HttpRequest::get("/api/cluster/nodes/a").body(Body::empty()).unwrap();
    assert_eq!(send(fake.router(options()), reading).await.0, StatusCode::OK, "reading is for everybody");
    let told: Vec<_> = told(&audit).into_iter().map(|(action, outcome, ..)| (action, outcome)).collect();
    let expected = ["put a", "patch a", "delete b", "drain a"].map(|action| format!("member {action}"));
    let expected: Vec<_> = ["refused", "done"]
        .into_iter()
        .flat_map(|outcome| expected.iter().map(move |action| (action.clone(), outcome.to_owned())))
        .collect();
    assert_eq!(told, expected);
}

#[tokio::test]
async fn what_the_core_declines_is_409_with_its_word() {
    let declined = Declined { code: "data_loss", message: "it may lose writes".to_owned() };
    let fake = Fake { answer: Err(declined), ..Fake::new() };
    let (status, body) = fake.post("/api/ha/promote", "{}").await;
    assert_eq!((status, code(&body)), (StatusCode::CONFLICT, "data_loss"));
    assert_eq!(body["error"]["message"], "it may lose writes");
}

#[tokio::test]
async fn without_a_token_only_this_host_changes_anything() {
    let fake = Fake::new();
    for path in CHANGES {
        let (status, body) = send(fake.router(ApiOptions::default()), from("10.0.0.9:5000", path, "")).await;
        assert_eq!((status, code(&body)), (StatusCode::FORBIDDEN, "forbidden"));
        assert!(body["error"]["message"].as_str().unwrap().contains("token_file"), "names the mend: {body}");
        let nobody = HttpRequest::post(path).header(header::HOST, "localhost").body(Body::empty()).unwrap();
        assert_eq!(send(fake.router(ApiOptions::default()), nobody).await.0, StatusCode::FORBIDDEN);
        let mut page = from("127.0.0.1:5000", path, "");
        page.headers_mut().insert(header::ORIGIN, "http://evil.example".parse().unwrap());
        assert_eq!(send(fake.router(ApiOptions::default()), page).await.0, StatusCode::FORBIDDEN);
        let mut rebound = from("127.0.0.1:5000", path, "");
        rebound.headers_mut().insert(header::HOST, "evil.example:8080".parse().unwrap());
        assert_eq!(send(fake.router(ApiOptions::default()), rebound).await.0, StatusCode::FORBIDDEN);
    }
    assert_eq!(fake.given(), []);
}

#[tokio::test]
async fn a_check_answers_with_its_findings_and_takes_no_words() {
    let fake = Fake::new();
    let (status, body) = fake.post("/api/ha/check", "{}").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(body["healthy"], false, "a failure is not healthy, whatever the status says");
    assert_eq!(
        body["findings"],
        json!([{"name": "announcement", "outcome": "fail", "seen": "b heard nothing"}])
    );
    let (status, body) = fake.post("/api/ha/check", r#"{"quick":true}"#).await;
    assert_eq!((status, code(&body)), (StatusCode::BAD_REQUEST, "bad_request"));
    assert_eq!(fake.given(), []);
}

#[tokio::test]
async fn with_a_token_everybody_must_show_it() {
    let fake = Fake::new();
    let options = ApiOptions { token: Some("swordfish-swordfish".into()), ..ApiOptions::default() };
    for caller in ["127.0.0.1:5000", "10.0.0.9:5000"] {
        for shown in [None, Some("Bearer swordfish"), Some("Basic swordfish-swordfish")] {
            let mut request = from(caller, "/api/ha/failover", "");
            if let Some(shown) = shown {
                request.headers_mut().insert(header::AUTHORIZATION, shown.parse().unwrap());
            }
            let (status, body) = send(fake.router(options.clone()), request).await;
            assert_eq!((status, code(&body)), (StatusCode::UNAUTHORIZED, "token_wanted"));
        }
    }
    assert_eq!(fake.given(), []);
    let mut request = from("10.0.0.9:5000", "/api/ha/failover", "");
    request.headers_mut().insert(header::AUTHORIZATION, "Bearer swordfish-swordfish".parse().unwrap());
    assert_eq!(send(fake.router(options.clone()), request).await.0, StatusCode::OK);
    assert_eq!(fake.given().len(), 1);
    let reading = HttpRequest::get("/api/ha/status").body(Body::empty()).unwrap();
    assert_eq!(send(fake.router(options.clone()), reading).await.0, StatusCode::OK, "reading needs no token");
    assert!(!format!("{options:?}").contains("swordfish"));
}

#[tokio::test]
async fn what_does_not_exist_is_said_in_json() {
    let fake = Fake::new();
    for path in ["/", "/api", "/api/ha/statuses", "/api/ha/status/", "/../etc/passwd"] {
        let (status, body) = fake.get(path).await;
        assert_eq!((status, code(&body)), (StatusCode::NOT_FOUND, "unknown_path"), "{path}");
    }
    for path in CHANGES {
        let (status, body) = fake.get(path).await;
        assert_eq!((status, code(&body)), (StatusCode::METHOD_NOT_ALLOWED, "wrong_method"), "{path}");
    }
    let (status, body) = fake.post("/api/ha/status", "").await;
    assert_eq!((status, code(&body)), (StatusCode::METHOD_NOT_ALLOWED, "wrong_method"));
    for path in [
        "/api/ha/events",
        "/api/replication/rules",
        "/api/replication/rules/1",
        "/api/cluster/config",
        "/api/cluster/nodes/a/metadata",
        "/api/cluster/nodes/a/drain/now",
    ] {
        for (status, body) in [fake.get(path).await, fake.post(path, "{}").await] {
            assert_eq!((status, code(&body)), (StatusCode::NOT_IMPLEMENTED, "not_in_this_version"), "{path}");
        }
    }
}

#[tokio::test]
async fn a_real_connection_tells_the_guard_where_it_comes_from() {
    let fake = Fake::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(serve(listener, fake.router(ApiOptions::default())));
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client.post(format!("http://{address}/api/ha/failback")).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    let answer = client
        .post(format!("http://{address}/api/ha/failback"))
        .header("origin", "http://evil.example")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status().as_u16(), 403);
    assert_eq!(fake.given(), [Command::Failback]);
    server.abort();
}

/// What the trail says of each entry: action, outcome, who, and the words.
fn told(audit: &Audit) -> Vec<(String, String, String, String)> {
    let entry = |sealed: crate::runtime::audit::chain::Sealed| {
        let record = sealed.record;
        (record.action, record.outcome, record.by, record.message.unwrap_or_default())
    };
    audit.shown(usize::MAX).records.into_iter().map(entry).collect()
}

#[tokio::test]
async fn every_order_is_in_the_audit_trail_with_its_outcome() {
    let audit = Audit::default();
    let options = ApiOptions { audit: audit.clone(), ..ApiOptions::default() };
    let fake = Fake::new();
    let mut order = from("127.0.0.1:5000", "/api/ha/promote", r#"{"accept_data_loss": true}"#);
    order.headers_mut().insert("x-holdfast-actor", "alice".parse().unwrap());
    assert_eq!(send(fake.router(options.clone()), order).await.0, StatusCode::OK);
    let misspelt = from("127.0.0.1:5000", "/api/ha/promote", r#"{"acept_data_loss": true}"#);
    assert_eq!(send(fake.router(options.clone()), misspelt).await.0, StatusCode::BAD_REQUEST);
    let far = from("10.9.9.9:5000", "/api/ha/drain", "");
    assert_eq!(send(fake.router(options.clone()), far).await.0, StatusCode::FORBIDDEN);
    let huge = from("127.0.0.1:5000", "/api/ha/drain", &" ".repeat(MAX_BODY_BYTES + 1));
    assert_eq!(send(fake.router(options), huge).await.0, StatusCode::PAYLOAD_TOO_LARGE);

    let told = told(&audit);
    let outcomes: Vec<_> =
        told.iter().map(|(action, outcome, ..)| (action.as_str(), outcome.as_str())).collect();
    let expected = [("promote", "done"), ("promote", "refused"), ("drain", "refused"), ("drain", "refused")];
    assert_eq!(outcomes, expected, "{told:#?}");
    assert!(told[0].2.contains("this host") && told[1].3.starts_with("bad_request: "), "{told:#?}");
    assert!(told[2].2.contains("nobody") && told[2].3.contains("token_file"), "{told:#?}");
    let records = audit.shown(usize::MAX).records;
    let first = &records[0].record;
    assert_eq!(first.claimed.as_deref(), Some("alice"));
    assert_eq!(first.detail.as_deref(), Some(r#"{"accept_data_loss": true}"#));
    assert_eq!(records[2].record.from.as_deref(), Some("10.9.9.9:5000"));
}

#[tokio::test]
async fn the_audit_trail_is_read_with_the_token_and_never_holds_one() {
    const TOKEN: &str = "swordfish-swordfish";
    let dir = tempfile::tempdir().unwrap();
    let audit = Audit::open(dir.path(), "a").unwrap();
    let options = ApiOptions { token: Some(TOKEN.into()), audit: audit.clone() };
    let fake = Fake::new();
    let read = |token: &str| {
        HttpRequest::get("/api/ha/audit?verify=true")
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .body(Body::empty())
            .unwrap()
    };
    for wrong in ["", "swordfish-swordfisH"] {
        assert_eq!(send(fake.router(options.clone()), read(wrong)).await.0, StatusCode::UNAUTHORIZED);
    }
    let mut order = from("10.9.9.9:5000", "/api/ha/pause", "");
    order.headers_mut().insert(header::AUTHORIZATION, format!("Bearer {TOKEN}").parse().unwrap());
    assert_eq!(send(fake.router(options.clone()), order).await.0, StatusCode::OK);
    let (status, body) = send(fake.router(options), read(TOKEN)).await;
    assert_eq!(status, StatusCode::OK);
    let records = body["records"].as_array().unwrap();
    assert_eq!(records.len(), 3, "reading is no order: {body}");
    assert_eq!((&records[1]["outcome"], &records[2]["outcome"]), (&json!("refused"), &json!("done")));
    assert_eq!((&body["verified"]["intact"], &body["verified"]["lines"]), (&json!(true), &json!(3)));
    assert_eq!(body["verified"]["head"], body["head"]);
    let on_disk = std::fs::read_to_string(dir.path().join("audit.jsonl")).unwrap();
    assert!(!on_disk.contains("swordfish") && !body.to_string().contains("swordfish"), "{on_disk}");
}

#[tokio::test]
async fn an_order_whose_caller_goes_away_is_in_the_audit_trail() {
    let audit = Audit::default();
    // A core that never answers.
    let stuck = Handle::new(
        |request| {
            std::mem::forget(request);
            true
        },
        || None,
        History::open(std::path::Path::new("/nonexistent")),
    );
    let router = router(stuck, ApiOptions { audit: audit.clone(), ..ApiOptions::default() });
    let order = router.oneshot(from("127.0.0.1:5000", "/api/ha/pause", ""));
    assert!(tokio::time::timeout(Duration::from_millis(200), order).await.is_err());
    let told = told(&audit);
    assert_eq!((told[0].0.as_str(), told[0].1.as_str()), ("pause", "unknown"), "{told:#?}");
}
