//! Archives of a real log, by the API of a member that follows, restored to a store that stands in for the primary.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Method, Request as HttpRequest, StatusCode, header};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use holdfast_heartbeat::{Epoch, Incarnation, Lsn, Member, NodeId};
use holdfast_replication::disk::FileDisk;
use holdfast_replication::set_aside::Cause;
use holdfast_replication::{Log, RecordKind};
use holdfast_store::apply::Outcome;
use holdfast_store::backend::{Backend, Held, NotServing, ReadError, ReadLog, WriteError};
use holdfast_store::bucket::Setting;
use holdfast_store::index::{Index, Lookup};
use holdfast_store::machine::{Entry, Machine};
use holdfast_store::object::{Encryption, Etag, Meta, Traits, UploadId};
use holdfast_store::op::{
    CompleteUpload, DeleteKey, Extent, Match, Op, PartRef, Precondition, PutObject, PutPart, Source,
};
use holdfast_store::s3::{self, Guests, Options, Serving, StandbyReads, Store};
use holdfast_store::seal::{Key, StoreKeys};
use http_body_util::BodyExt;
use md5::{Digest, Md5};
use serde_json::{Value, json};
use tokio::sync::watch;
use tower::ServiceExt;

use crate::api::{ApiOptions, router};
use crate::runtime::archives::{Archives, Setup};
use crate::runtime::audit::Audit;
use crate::runtime::handle::Handle;
use crate::runtime::history::History;
use crate::runtime::log_thread::{self, LogInput};

const SEGMENT: u64 = 16 << 20;
const KEYS: [u8; 32] = [3; 32];

/// The store of a primary, in memory.
struct Primary {
    state: Mutex<(BTreeMap<u64, Bytes>, u64, Machine)>,
    index: Index,
}

impl Primary {
    fn new() -> Arc<Primary> {
        let index = Index::in_memory();
        let machine = Machine::new(index.clone()).unwrap();
        Arc::new(Primary { state: Mutex::new((BTreeMap::new(), 0, machine)), index })
    }

    fn place(&self, payload: Bytes, is_op: bool) -> (Lsn, Lsn, Outcome) {
        let mut state = self.state.lock().unwrap();
        let (records, end, machine) = &mut *state;
        let lsn = *end;
        *end += 48 + payload.len() as u64;
        records.insert(lsn, payload.clone());
        let op = is_op.then_some(&payload[..]);
        let entry = Entry { lsn: Lsn(lsn), end: Lsn(*end), epoch: Epoch(9), op };
        let outcome = machine.apply_entries(std::iter::once(entry)).unwrap().pop().unwrap();
        (Lsn(lsn), Lsn(*end), outcome)
    }

    fn does(&self, op: &Op) {
        self.place(Bytes::from(op.encode(Bytes::new()).unwrap().concat()), true);
    }

    /// What is under a key now, if anything: its object, and its bytes where they lie in the clear.
    fn has(&self, bucket: &str, key: &str) -> Option<(holdfast_store::state::ObjectState, Vec<u8>)> {
        let view = self.index.view();
        let object = view.object(bucket, key).unwrap()?;
        let len: u64 = match &object.layout {
            holdfast_store::state::Layout::Parts(_) => object.size,
            layout => layout.stored_len(),
        };
        let extents = view.cut(&object, 0, len).unwrap().unwrap();
        let read = |extent: &Extent| self.read_slice(extent.lsn, extent.offset, extent.len).unwrap();
        let bytes = extents.iter().flat_map(|extent| read(extent).to_vec()).collect();
        Some((object, bytes))
    }

    /// With keys, it encrypts all that it takes.
    async fn serve(self: &Arc<Primary>, keys: StoreKeys) -> (SocketAddr, watch::Sender<Serving>) {
        let store = Store::new(self.index.clone(), self.clone(), self.clone(), Arc::new(|_| ()));
        let store = Store { keys, ..store };
        let options = Options {
            standby: StandbyReads::Off,
            seal_keys: None,
            counts: Arc::default(),
            root_access_key: "admin".into(),
            root_secret_key: "a-secret-for-tests".into(),
            domains: vec![],
            region: "us-east-1".into(),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (gate, watched) = watch::channel(Serving::Yes);
        tokio::spawn(s3::serve(listener, s3::service(store, options), watched, Guests::default()));
        (at, gate)
    }
}

impl Backend for Primary {
    fn append(&self, data: Bytes) -> BoxFuture<'_, Result<(Lsn, Lsn), WriteError>> {
        let (lsn, end, _) = self.place(data, false);
        async move { Ok((lsn, end)) }.boxed()
    }

    fn commit(&self, payload: Vec<Bytes>) -> BoxFuture<'_, Result<Outcome, WriteError>> {
        let (_, _, outcome) = self.place(Bytes::from(payload.concat()), true);
        async move { Ok(outcome) }.boxed()
    }

    fn serving(&self) -> Result<Epoch, NotServing> {
        Ok(Epoch(9))
    }
}

impl ReadLog for Primary {
    fn hold(&self) -> Held {
        Arc::new(())
    }

    fn read_slice(&self, lsn: Lsn, offset: u32, len: u32) -> Result<Bytes, ReadError> {
        let state = self.state.lock().unwrap();
        Ok(state.0[&lsn.0].slice(offset as usize..(offset + len) as usize))
    }
}

/// A former primary's log, written record by record.
struct Tail {
    log: Log<FileDisk>,
}

const EPOCH: Epoch = Epoch(3);
const NOW: u64 = 1_700_000_000_000;

fn bucket(name: &str) -> Op {
    Op::CreateBucket {
        bucket: name.into(),
        owner: String::new(),
        tenant: None,
        settings: vec![],
        wall_ms: NOW,
    }
}

fn etag(body: &[u8]) -> Etag {
    Etag { md5: Md5::digest(body).into(), parts: 0 }
}

impl Tail {
    fn op(&mut self, op: &Op, inline: &[u8]) -> Lsn {
        let payload = op.encode(Bytes::copy_from_slice(inline)).unwrap().concat();
        self.log.append(RecordKind::Op, EPOCH, &[&payload]).unwrap().0
    }

    fn extents(&mut self, body: &[u8]) -> Source {
        let append = |chunk: &[u8]| {
            let lsn = self.log.append(RecordKind::Data, EPOCH, &[chunk]).unwrap().0;
            Extent { lsn, offset: 0, len: chunk.len() as u32 }
        };
        Source::Extents { epoch: EPOCH, extents: body.chunks(1 << 20).map(append).collect() }
    }

    fn put(&mut self, bucket: &str, key: &str, body: &[u8], traits: Traits) -> Lsn {
        self.put_sealed(bucket, key, body, body, traits)
    }

    fn put_sealed(&mut self, bucket: &str, key: &str, body: &[u8], stored: &[u8], traits: Traits) -> Lsn {
        let inline = stored.len() < 1000;
        let source = if inline { Source::Inline } else { self.extents(stored) };
        let op = Op::PutObject(Box::new(PutObject {
            bucket: bucket.into(),
            key: key.into(),
            traits,
            size: body.len() as u64,
            etag: etag(body),
            checksums: vec![],
            source,
            precondition: Precondition::default(),
            wall_ms: NOW,
        }));
        self.op(&op, if inline { stored } else { b"" })
    }

    fn upload(&mut self, bucket: &str, key: &str, parts: &[&[u8]]) {
        let upload = UploadId([5; 16]);
        let meta = Meta { content_type: Some("video/mp4".into()), ..Meta::default() };
        let traits = Box::new(Traits { meta, ..Traits::default() });
        let (bucket, key) = (bucket.to_owned(), key.to_owned());
        let begin = (bucket.clone(), key.clone());
        self.op(
            &Op::CreateUpload { bucket: begin.0, key: begin.1, upload, traits, checksum: None, wall_ms: NOW },
            b"",
        );
        let mut listed = Vec::new();
        for (at, body) in parts.iter().enumerate() {
            let number = 2 * at as u16 + 1;
            let source = self.extents(body);
            let part = PutPart {
                bucket: bucket.clone(),
                key: key.clone(),
                upload,
                number,
                size: body.len() as u64,
                etag: etag(body),
                checksums: vec![],
                source,
                wall_ms: NOW,
            };
            self.op(&Op::PutPart(Box::new(part)), b"");
            listed.push(PartRef { number, etag: etag(body).to_string() });
        }
        let precondition = Precondition { if_match: None, if_none_match: Some(Match::Any) };
        let complete = CompleteUpload {
            bucket,
            key,
            upload,
            parts: listed,
            checksum: None,
            size: None,
            precondition,
            wall_ms: NOW,
        };
        self.op(&Op::CompleteUpload(Box::new(complete)), b"");
    }
}

/// A member that follows, with an archive of what `write` wrote.
struct Rig {
    router: Router,
    audit: Audit,
    history: History,
    name: String,
    dir: tempfile::TempDir,
    primary: Arc<Primary>,
    gate: watch::Sender<Serving>,
    archives: Archives,
}

impl Rig {
    async fn new(write: impl FnOnce(&mut Tail)) -> Rig {
        Rig::with_keys(StoreKeys::default(), write).await
    }

    /// The primary has these keys.
    async fn with_keys(keys: StoreKeys, write: impl FnOnce(&mut Tail)) -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = Log::open(FileDisk::open(dir.path().join("log")).unwrap(), SEGMENT).unwrap();
        log.found(7, SEGMENT).unwrap();
        log.append(RecordKind::EpochStart, EPOCH, &[b"who"]).unwrap();
        let fork = log.end();
        let mut tail = Tail { log };
        write(&mut tail);
        let mut log = tail.log;
        log.sync().unwrap();
        let archive = log.set_aside(fork, Cause::Divergent, "for the test", NOW).unwrap();
        log.truncate_to(fork, &archive).unwrap();
        drop(log);
        let primary = Primary::new();
        primary.does(&bucket("box"));
        let (at, gate) = primary.serve(keys).await;
        Rig::open(dir, archive.name, primary, (at, gate)).await
    }

    /// The member begins to run.
    async fn open(
        dir: tempfile::TempDir,
        name: String,
        primary: Arc<Primary>,
        (at, gate): (SocketAddr, watch::Sender<Serving>),
    ) -> Rig {
        let index = Index::in_memory();
        let me = Member { id: NodeId::new("a").unwrap(), incarnation: Incarnation(1) };
        let machine = Machine::new(index.clone()).unwrap();
        let (mut engine, _) = log_thread::open(
            &dir.path().join("log"),
            me,
            machine,
            SEGMENT,
            log_thread::Sending::default(),
            false,
        )
        .unwrap();
        let (sender, receiver) = crate::runtime::mailbox::channel();
        let reader = engine.reader();
        let manifests = Arc::new(Mutex::new(engine.status().set_aside));
        let published = Arc::clone(&manifests);
        // What the log's thread does for archives.
        std::thread::spawn(move || {
            while let Ok(input) = receiver.recv() {
                if let LogInput::DeleteArchive { name, reply } = input {
                    let deleted = engine.delete_archive(&name);
                    *published.lock().unwrap() = engine.status().set_aside;
                    let _ = reply.send(deleted);
                }
            }
        });
        let history = History::open(dir.path());
        let noted = history.clone();
        let setup = Setup {
            reader,
            index: index.clone(),
            keys: StoreKeys::new(vec![Key::new(KEYS)]),
            dir: dir.path().join("log"),
            manifests: Box::new(move || manifests.lock().unwrap().clone()),
            note: Box::new(move |note| noted.add_note(1, "note", &note)),
            // Nobody is at the first place, as after a failover.
            primary: Some((
                vec!["http://127.0.0.1:1".into(), format!("http://{at}")],
                "admin".into(),
                "a-secret-for-tests".into(),
            )),
        };
        let archives = Archives::new(setup, sender).unwrap();
        let audit = Audit::default();
        let log = crate::api::tests::leading();
        let set_aside = archives.list().await.unwrap().into_iter().map(|listed| listed.archive).collect();
        let log = holdfast_replication::replica::ReplicaStatus { set_aside, ..log };
        let handle = Handle::new(|_| false, move || Some(log.clone()), history.clone())
            .with_archives(Some(archives.clone()));
        let router = router(handle, ApiOptions { token: None, audit: audit.clone() });
        Rig { router, audit, history, name, dir, primary, gate, archives }
    }

    async fn send(&self, method: Method, path: &str, body: &str) -> (StatusCode, Bytes) {
        self.send_from("127.0.0.1:5000", method, path, body).await
    }

    async fn send_from(&self, caller: &str, method: Method, path: &str, body: &str) -> (StatusCode, Bytes) {
        let request = HttpRequest::builder()
            .method(method)
            .uri(path.replace("NAME", &self.name))
            .header(header::HOST, "127.0.0.1:8080")
            .extension(ConnectInfo(caller.parse::<SocketAddr>().unwrap()))
            .body(Body::from(body.to_owned()))
            .unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        (status, response.into_body().collect().await.unwrap().to_bytes())
    }

    async fn get(&self, path: &str) -> Value {
        let (status, body) = self.send(Method::GET, path, "").await;
        assert_eq!(status, StatusCode::OK, "{path}: {body:?}");
        serde_json::from_slice(&body).unwrap()
    }

    /// Restores, waits for the end, and says what became of each.
    async fn restore(&self, order: Value) -> Vec<(String, String)> {
        let path = "/api/replication/archives/NAME/restore";
        let (status, body) = self.send(Method::POST, path, &order.to_string()).await;
        assert_eq!(status, StatusCode::OK, "{body:?}");
        let (mut from, mut all) = (0, Vec::new());
        loop {
            let reported = self.get(&format!("{path}?from={from}")).await;
            let outcomes = reported["outcomes"].as_array().unwrap();
            all.extend(outcomes.iter().map(|outcome| {
                let text = |name: &str| outcome[name].as_str().unwrap_or_default().to_owned();
                (format!("{}/{}", text("bucket"), text("key")), text("fate"))
            }));
            if reported["running"] == false && outcomes.is_empty() {
                assert_eq!(reported["failure"], Value::Null);
                assert_eq!(reported["done"].as_u64().unwrap() as usize, all.len());
                return all;
            }
            from = reported["next"].as_u64().unwrap();
            tokio::task::yield_now().await;
        }
    }

    fn files(&self) -> Vec<String> {
        let dir = std::fs::read_dir(self.dir.path().join("log/set-aside")).unwrap();
        let mut names: Vec<_> = dir.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn fates(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, fate)| ((*key).to_owned(), (*fate).to_owned())).collect()
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 31 % 251) as u8).collect()
}

fn meta() -> Traits {
    let meta = Meta {
        content_type: Some("text/plain".into()),
        cache_control: Some("no-cache,  two  blanks".into()),
        expires_s: Some(1_800_000_000),
        user: vec![("who".into(), "Jürgen".into())],
        ..Meta::default()
    };
    Traits { meta, tags: vec![("k k".into(), "v/ü".into())], ..Traits::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_is_listed_shown_and_read() {
    let large = pattern(3_000_000);
    let rig = Rig::new(|tail| {
        tail.put("box", "small", b"small", meta());
        tail.put("box", "a b/ü", &large, Traits::default());
        tail.op(&Op::SetBucket { bucket: "box".into(), setting: Setting::Versioning { enabled: true } }, b"");
    })
    .await;
    let listed = rig.get("/api/replication/archives").await;
    let one = &listed[0];
    assert_eq!((&one["cause"], &one["content"]["objects"]), (&json!("divergent"), &json!(2)));
    assert_eq!(one["content"]["other_changes"], 1);
    assert_eq!(one["content"]["first_objects"][0]["key"], "small");
    assert_eq!(one["content"]["first_objects"][0]["cluster"], "no_bucket", "this member has applied nothing");

    let first = rig.get("/api/replication/archives/NAME?limit=1").await;
    assert_eq!(first["changes"].as_array().unwrap().len(), 1);
    assert_eq!(first["changes"][0]["content_type"], "text/plain");
    let rest = rig.get(&format!("/api/replication/archives/NAME?after={}", first["next"])).await;
    assert_eq!(rest["changes"].as_array().unwrap().len(), 2);
    assert_eq!((&rest["changes"][1]["change"], &rest["next"]), (&json!("bucket_changed"), &Value::Null));

    let object = rig.get("/api/replication/archives/NAME/object?bucket=box&key=a%20b/%C3%BC").await;
    assert_eq!(object["pieces"], json!([[3_000_000, hex::encode(Md5::digest(&large))]]));
    let at = format!("/api/replication/archives/NAME/objects/{}", object["id"]);
    let (_, whole) = rig.send(Method::GET, &at, "").await;
    assert!(whole == large);
    let (_, part) = rig.send(Method::GET, &format!("{at}?start=1048570&len=20"), "").await;
    assert!(part == large[1_048_570..1_048_590]);
    let (status, _) = rig.send(Method::GET, &format!("{at}?start=3000001"), "").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    for path in ["NAME/object?bucket=box&key=none", "nothing", "..%2Fx"] {
        let (status, body) = rig.send(Method::GET, &format!("/api/replication/archives/{path}"), "").await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}: {body:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_objects_are_for_those_who_may_give_orders() {
    let rig = Rig::new(|tail| _ = tail.put("box", "secret-plan", b"x", Traits::default())).await;
    let status = rig.get("/api/replication/status").await;
    assert_eq!(status["set_aside"][0]["content"]["first_objects"][0]["key"], "secret-plan");
    let (code, body) = rig.send_from("10.9.9.9:1", Method::GET, "/api/replication/status", "").await;
    let (code, body) = (code, String::from_utf8(body.to_vec()).unwrap());
    assert_eq!(code, StatusCode::OK);
    assert!(body.contains("\"objects\":1") && !body.contains("secret-plan"), "{body}");
    for path in ["", "/NAME", "/NAME/restore", "/NAME/object?bucket=box&key=secret-plan", "/NAME/objects/64"]
    {
        let path = format!("/api/replication/archives{path}");
        let (code, _) = rig.send_from("10.9.9.9:1", Method::GET, &path, "").await;
        assert_eq!(code, StatusCode::FORBIDDEN, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_restored_is_a_write_to_the_primary_and_doing_it_twice_does_no_harm() {
    let (large, part) = (pattern(3_000_000), pattern(5 << 20));
    let rig = Rig::new(|tail| {
        tail.put("box", "small", b"of an earlier moment", Traits::default());
        tail.put("box", "small", b"small", meta());
        tail.put("box", "large", &large, Traits::default());
        tail.put("box", "empty", b"", Traits::default());
        tail.put("box", "removed", b"removed", Traits::default());
        let keys = vec![DeleteKey { key: "removed".into(), ..DeleteKey::default() }];
        let (bucket, owner) = ("box".into(), String::new());
        tail.op(&Op::DeleteObjects { bucket, owner, keys, bypass_governance: false, wall_ms: NOW }, b"");
        tail.upload("box", "of parts", &[&part, b"the end"]);
    })
    .await;
    let done = rig.restore(json!({})).await;
    let all = ["box/small", "box/large", "box/empty", "box/of parts"];
    assert_eq!(done, fates(&all.map(|key| (key, "restored"))));
    let (object, bytes) = rig.primary.has("box", "small").unwrap();
    assert_eq!(bytes, b"small");
    let Traits { meta: stored, tags, .. } = object.traits;
    assert_eq!((stored, tags), (meta().meta, meta().tags));
    assert!(rig.primary.has("box", "large").unwrap().1 == large);
    assert!(rig.primary.has("box", "empty").unwrap().1.is_empty());
    let (object, bytes) = rig.primary.has("box", "of parts").unwrap();
    assert!(bytes == [&part[..], b"the end"].concat());
    assert_eq!((object.etag.parts, object.traits.meta.content_type.as_deref()), (2, Some("video/mp4")));
    assert!(rig.primary.has("box", "removed").is_none());

    let records = rig.primary.state.lock().unwrap().0.len();
    let done = rig.restore(json!({"overwrite": true})).await;
    assert_eq!(done, fates(&all.map(|key| (key, "already_there"))));
    assert_eq!(rig.primary.state.lock().unwrap().0.len(), records, "something was written");

    let named = json!({"objects": [{"bucket": "box", "key": "removed"}, {"bucket": "box", "key": "none"}]});
    let done = rig.restore(named).await;
    assert_eq!(done, fates(&[("box/none", "not_in_archive"), ("box/removed", "restored")]));
    assert_eq!(rig.primary.has("box", "removed").unwrap().1, b"removed");
    let noted = rig.history.entries().last().unwrap().reason.clone();
    assert!(noted.contains("1 restored") && noted.contains("1 not in the archive"), "{noted}");
    assert_eq!(rig.audit.shown(1).records[0].record.action, format!("archive restore {}", rig.name));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_with_other_content_is_left_alone_unless_told_otherwise() {
    let rig = Rig::new(|tail| {
        tail.put("box", "k", b"one", Traits::default());
        tail.put("box", "k", b"two", Traits::default());
        tail.upload("box", "parts", &[b"parts"]);
        tail.put("gone", "k", b"three", Traits::default());
    })
    .await;
    for key in ["k", "parts"] {
        rig.primary.does(&Op::PutObject(Box::new(PutObject {
            bucket: "box".into(),
            key: key.into(),
            traits: Traits::default(),
            size: 0,
            etag: etag(b""),
            checksums: vec![],
            source: Source::Inline,
            precondition: Precondition::default(),
            wall_ms: NOW,
        })));
    }
    let done = rig.restore(json!({})).await;
    assert_eq!(done, fates(&[("box/k", "kept"), ("box/parts", "kept"), ("gone/k", "no_bucket")]));
    assert!(rig.primary.has("box", "k").unwrap().1.is_empty());

    let page = rig.get("/api/replication/archives/NAME").await;
    let version = page["changes"][0]["version"].clone();
    let named = json!({"objects": [{"bucket": "box", "key": "k", "version": version}], "overwrite": true});
    assert_eq!(rig.restore(named).await, fates(&[("box/k", "restored")]));
    assert_eq!(rig.primary.has("box", "k").unwrap().1, b"one");

    let done = rig.restore(json!({"overwrite": true, "create_buckets": true})).await;
    assert_eq!(done, fates(&[("box/k", "restored"), ("box/parts", "restored"), ("gone/k", "restored")]));
    assert_eq!(rig.primary.has("box", "k").unwrap().1, b"two");
    assert_eq!(rig.primary.has("gone", "k").unwrap().1, b"three");
    let done = rig.restore(json!({"objects": [{"bucket": "gone", "key": ""}]})).await;
    assert_eq!(done, fates(&[("gone/k", "already_there")]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_encrypted_is_encrypted_again_and_what_only_a_client_opens_is_said_to_be() {
    let keys = StoreKeys::new(vec![Key::new(KEYS)]);
    let (key, encryption) = keys.new_object().unwrap().unwrap();
    let rig = Rig::with_keys(keys.clone(), |tail| {
        let mut sealer = holdfast_store::seal::Sealer::new(&key).unwrap();
        let mut sealed = bytes::BytesMut::new();
        sealer.update(b"plain", &mut sealed);
        sealer.finish(&mut sealed);
        let traits = Traits { encryption: Some(encryption), ..Traits::default() };
        tail.put_sealed("box", "sealed", b"plain", &sealed, traits);
        let customer = Encryption::Customer { md5: [1; 16], wrapped: vec![0; 60] };
        let traits = Traits { encryption: Some(customer), ..Traits::default() };
        tail.put_sealed("box", "customer", b"plain", &sealed, traits);
    })
    .await;
    let done = rig.restore(json!({})).await;
    assert_eq!(done, fates(&[("box/sealed", "restored"), ("box/customer", "not_readable")]));
    let (object, bytes) = rig.primary.has("box", "sealed").unwrap();
    assert!(matches!(object.traits.encryption, Some(Encryption::Store { .. })));
    assert!(!bytes.windows(5).any(|five| five == b"plain"));
    assert_eq!(object.etag, etag(b"plain"));
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_bytes_are_not_restored() {
    let large = pattern(3_000_000);
    let rig = Rig::new(|tail| {
        tail.put("box", "large", &large, Traits::default());
        tail.put("box", "k", b"sound", Traits::default());
    })
    .await;
    let path = rig.dir.path().join(format!("log/set-aside/{}.log", rig.name));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[1_500_000] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let done = rig.restore(json!({})).await;
    assert_eq!(done, fates(&[("box/large", "not_readable"), ("box/k", "restored")]));
    assert!(rig.primary.has("box", "large").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_goes_when_it_is_said_so_with_what_was_noted_of_it_and_nothing_else_does_it() {
    let rig = Rig::new(|tail| _ = tail.put("box", "k", b"v", Traits::default())).await;
    assert_eq!(rig.archives.unattended()["divergent"].0, 1);
    rig.restore(json!({})).await;
    assert_eq!(rig.archives.unattended()["divergent"], (0, 0));
    assert!(rig.get("/api/replication/archives").await[0]["restored_ms"].as_u64().unwrap() > 0);
    assert_eq!(rig.files().len(), 4, "{:?}", rig.files());
    for body in ["", "{}", r#"{"for_good": false}"#, r#"{"yes": true}"#] {
        let (status, _) = rig.send(Method::DELETE, "/api/replication/archives/NAME", body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
    }
    // The agent begins anew: the mark is still there.
    let Rig { dir, name, primary, gate, router, archives, .. } = rig;
    drop((router, archives));
    let at = ([127, 0, 0, 1], 1).into();
    loop {
        // Until the first life has let go of the directory.
        match FileDisk::open(dir.path().join("log")) {
            Ok(_) => break,
            Err(_) => tokio::task::yield_now().await,
        }
    }
    let rig = Rig::open(dir, name, primary, (at, gate)).await;
    assert_eq!(rig.archives.unattended()["divergent"], (0, 0));

    let body = r#"{"for_good": true}"#;
    let (status, said) = rig.send(Method::DELETE, "/api/replication/archives/NAME", body).await;
    assert_eq!(status, StatusCode::OK, "{said:?}");
    assert_eq!(rig.get("/api/replication/archives").await, json!([]));
    let (status, _) = rig.send(Method::DELETE, "/api/replication/archives/NAME", body).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(rig.history.entries().last().unwrap().reason.contains("was deleted on an operator's order"));
    let told = rig.audit.shown(2).records;
    assert_eq!(told[0].record.action, format!("archive delete {}", rig.name));
    while !rig.files().is_empty() {
        tokio::task::yield_now().await;
    }
    drop(rig.gate);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_primary_a_restore_ends_and_says_so_and_one_at_a_time_runs() {
    let rig = Rig::new(|tail| _ = tail.put("box", "k", b"v", Traits::default())).await;
    rig.gate.send_replace(Serving::No { redirect: None });
    let path = "/api/replication/archives/NAME/restore";
    let (status, _) = rig.send(Method::POST, path, "{}").await;
    assert_eq!(status, StatusCode::OK);
    let (status, body) = rig.send(Method::POST, path, "{}").await;
    assert_eq!(status, StatusCode::CONFLICT, "{body:?}");
    let (status, body) =
        rig.send(Method::DELETE, "/api/replication/archives/NAME", r#"{"for_good": true}"#).await;
    assert_eq!(status, StatusCode::CONFLICT, "{body:?}");
    // The primary is back, and the restore finds it.
    rig.gate.send_replace(Serving::Yes);
    while rig.get(path).await["running"] == true {
        tokio::task::yield_now().await;
    }
    assert_eq!(rig.get(path).await["fates"], json!({"restored": 1}));
    assert_eq!(rig.primary.has("box", "k").unwrap().1, b"v");
}
