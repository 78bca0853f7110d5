//! A member without peers, whose log is kept in memory and in a file that the kernel can send from: everything is
//! committed at once, and every answer of the backend can be bent by the test.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

/// The agent's own way to a store.
#[path = "../../../agent/src/plain_http.rs"]
pub mod plain_http;
pub mod sign;

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use holdfast_heartbeat::types::{Epoch, Lsn};
use holdfast_store::apply::Outcome;
use holdfast_store::backend::{Backend, Damage, FileRange, Held, NotServing, ReadError, ReadLog, WriteError};
use holdfast_store::index::Index;
use holdfast_store::machine::{Entry, Machine};
use holdfast_store::s3::{Guests, Options, Serving, StandbyReads, Store, serve, service};
use tokio::sync::watch;

pub const ACCESS_KEY: &str = "admin";
/// What members seal requests with that they hand on.
pub const MEMBERS_KEY: [u8; 32] = [5; 32];

pub const SECRET_KEY: &str = "a-secret-for-tests";

/// Bytes of a record's header in the toy log.
const HEADER: u64 = 48;

struct State {
    records: BTreeMap<u64, Bytes>,
    /// The payloads, each where its record begins.
    file: Arc<File>,
    /// How often it was told where bytes lie in it.
    sent_from_file: usize,
    end: u64,
    machine: Machine,
    epoch: Epoch,
    appends: usize,
    commits: usize,
    fail: Option<WriteError>,
    not_serving: Option<NotServing>,
    stop_serving_after_commit: bool,
    damaged: HashSet<u64>,
    damages: Vec<Damage>,
    held: Option<watch::Receiver<bool>>,
}

/// The toy member.
pub struct Toy {
    state: Mutex<State>,
    pub index: Index,
}

impl Toy {
    pub fn new() -> Arc<Toy> {
        let index = Index::in_memory();
        let machine = Machine::new(index.clone()).unwrap();
        let state = State {
            records: BTreeMap::new(),
            file: Arc::new(tempfile::tempfile().unwrap()),
            sent_from_file: 0,
            end: 0,
            machine,
            epoch: Epoch(1),
            appends: 0,
            commits: 0,
            fail: None,
            not_serving: None,
            stop_serving_after_commit: false,
            damaged: HashSet::new(),
            damages: Vec::new(),
            held: None,
        };
        Arc::new(Toy { state: Mutex::new(state), index })
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap())
    }

    /// The payloads of all records.
    pub fn records(&self) -> Vec<Bytes> {
        self.with(|s| s.records.values().cloned().collect())
    }

    pub fn fail_writes(&self, error: Option<WriteError>) {
        self.with(|s| s.fail = error);
    }

    pub fn stop_serving(&self, no: Option<NotServing>) {
        self.with(|s| s.not_serving = no);
    }

    pub fn stop_serving_after_the_next_commit(&self) {
        self.with(|s| s.stop_serving_after_commit = true);
    }

    pub fn begin_epoch(&self, epoch: u64) {
        self.with(|s| s.epoch = Epoch(epoch));
    }

    pub fn commits(&self) -> usize {
        self.with(|s| s.commits)
    }

    pub fn appends(&self) -> usize {
        self.with(|s| s.appends)
    }

    pub fn sent_from_file(&self) -> usize {
        self.with(|s| s.sent_from_file)
    }

    /// Commits wait until the channel says true.
    pub fn hold_commits(&self, until: watch::Receiver<bool>) {
        self.with(|s| s.held = Some(until));
    }

    /// Damages the last record that was appended as plain data, counted from the end.
    pub fn damage_data(&self, from_the_end: usize) {
        self.with(|s| {
            let data: Vec<u64> =
                s.records.iter().filter(|(_, b)| b.len() >= 1 << 20).map(|(l, _)| *l).collect();
            s.damaged.insert(data[data.len() - 1 - from_the_end]);
        });
    }

    /// A record that changes nothing is applied.
    pub fn advance(&self) {
        self.with(|s| {
            let (lsn, end) = place(s, Bytes::new());
            s.machine.apply_entries(std::iter::once(Entry { lsn, end, epoch: s.epoch, op: None })).unwrap();
        });
    }

    pub fn damages(&self) -> Vec<Damage> {
        self.with(|s| s.damages.clone())
    }
}

fn place(state: &mut State, payload: Bytes) -> (Lsn, Lsn) {
    let lsn = state.end;
    state.end += HEADER + payload.len() as u64;
    state.file.write_all_at(&payload, lsn).unwrap();
    state.records.insert(lsn, payload);
    (Lsn(lsn), Lsn(state.end))
}

impl Backend for Toy {
    fn append(&self, data: Bytes) -> BoxFuture<'_, Result<(Lsn, Lsn), WriteError>> {
        let appended = self.with(|s| match &s.fail {
            Some(error) => Err(error.clone()),
            None => {
                s.appends += 1;
                Ok(place(s, data))
            }
        });
        async { appended }.boxed()
    }

    fn commit(&self, payload: Vec<Bytes>) -> BoxFuture<'_, Result<Outcome, WriteError>> {
        async move {
            let held = self.with(|s| s.held.clone());
            if let Some(mut held) = held {
                held.wait_for(|go| *go).await.unwrap();
            }
            self.with(|s| {
                if let Some(error) = &s.fail {
                    return Err(error.clone());
                }
                s.commits += 1;
                let payload = Bytes::from(payload.concat());
                let (lsn, end) = place(s, payload.clone());
                let entry = Entry { lsn, end, epoch: s.epoch, op: Some(&payload) };
                let mut outcomes = s.machine.apply_entries(std::iter::once(entry)).unwrap();
                if s.stop_serving_after_commit {
                    s.not_serving = Some(NotServing { redirect: None, reason: "the lease lapsed".into() });
                }
                Ok(outcomes.pop().unwrap())
            })
        }
        .boxed()
    }

    fn serving(&self) -> Result<Epoch, NotServing> {
        self.with(|s| s.not_serving.clone().map_or(Ok(s.epoch), Err))
    }
}

impl ReadLog for Toy {
    fn hold(&self) -> Held {
        Arc::new(())
    }

    fn read_slice(&self, lsn: Lsn, offset: u32, len: u32) -> Result<Bytes, ReadError> {
        self.with(|s| {
            if s.damaged.contains(&lsn.0) {
                return Err(ReadError::Damaged("a flipped bit".into()));
            }
            let record = s.records.get(&lsn.0).ok_or_else(|| ReadError::Damaged("no record".into()))?;
            Ok(record.slice(offset as usize..(offset + len) as usize))
        })
    }

    fn file_range(&self, lsn: Lsn, offset: u32, len: u32) -> Result<Option<FileRange>, ReadError> {
        self.read_slice(lsn, offset, len)?;
        Ok(self.with(|s| {
            s.sent_from_file += 1;
            Some(FileRange { file: s.file.clone(), offset: lsn.0 + u64::from(offset), len })
        }))
    }
}

/// A running endpoint over a [`Toy`].
pub struct Endpoint {
    pub toy: Arc<Toy>,
    pub addr: SocketAddr,
    pub gate: watch::Sender<Serving>,
    pub guests: Guests,
}

impl Endpoint {
    pub async fn start() -> Endpoint {
        Endpoint::start_with(|_| {}).await
    }

    /// An endpoint whose store is changed before it starts.
    pub async fn start_with(change: impl FnOnce(&mut Store)) -> Endpoint {
        Endpoint::start_as(StandbyReads::Off, change).await
    }

    /// An endpoint that does this while its member is not the primary.
    pub async fn start_as(standby: StandbyReads, change: impl FnOnce(&mut Store)) -> Endpoint {
        let toy = Toy::new();
        let told = Arc::clone(&toy);
        let on_damage = Arc::new(move |damage| told.with(|s| s.damages.push(damage)));
        let mut store = Store::new(toy.index.clone(), toy.clone(), toy.clone(), on_damage);
        change(&mut store);
        let (addr, gate, guests) = listen_as(store, standby).await;
        Endpoint { toy, addr, gate, guests }
    }

    /// An endpoint with one bucket, `box`.
    pub async fn with_bucket() -> Endpoint {
        let endpoint = Endpoint::start().await;
        let made = endpoint.send(sign::Call::new("PUT", "/box")).await;
        assert_eq!(made.status, 200, "{}", made.text());
        endpoint
    }

    pub async fn send(&self, call: sign::Call) -> sign::Got {
        sign::send(self.addr, call).await
    }

    /// The client that most Rust programs use.
    pub fn client(&self) -> object_store::aws::AmazonS3 {
        client(self.addr)
    }
}

/// The client that most Rust programs use, for a store there.
pub fn client(addr: SocketAddr) -> object_store::aws::AmazonS3 {
    let http = plain_http::builder().timeout(Duration::from_secs(30)).build().unwrap();
    object_store::aws::AmazonS3Builder::new()
        .with_endpoint(format!("http://{addr}"))
        .with_http_connector(plain_http::PlainHttp::new(http))
        .with_bucket_name("box")
        .with_region("us-east-1")
        .with_access_key_id(ACCESS_KEY)
        .with_secret_access_key(SECRET_KEY)
        .with_conditional_put(object_store::aws::S3ConditionalPut::ETagMatch)
        .build()
        .unwrap()
}

/// Runs an endpoint over any store, on a port of its own.
pub async fn listen(store: Store) -> (SocketAddr, watch::Sender<Serving>, Guests) {
    listen_as(store, StandbyReads::Off).await
}

async fn listen_as(store: Store, standby: StandbyReads) -> (SocketAddr, watch::Sender<Serving>, Guests) {
    let options = Options {
        standby,
        seal_keys: Some(Arc::new(|| vec![MEMBERS_KEY])),
        counts: Arc::default(),
        root_access_key: ACCESS_KEY.into(),
        root_secret_key: SECRET_KEY.into(),
        domains: vec!["s3.test".into()],
        region: "us-east-1".into(),
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (gate, watched) = watch::channel(Serving::Yes);
    let guests = Guests::default();
    tokio::spawn(serve(listener, service(store, options), watched, guests.clone()));
    (addr, gate, guests)
}
