//! The endpoint over the real log: one member that leads alone, its disk in memory and breakable.

mod support;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use holdfast_heartbeat::types::{Epoch, Incarnation, Lsn, Member, NodeId};
use holdfast_replication::RecordKind;
use holdfast_replication::replica::{Done, Input, Output, Replica, ReplicaOptions, SubmitError, Wait};
use holdfast_replication::testing::MemDisk;
use holdfast_store::apply::Outcome;
use holdfast_store::backend::{Backend, Damage, NotServing, WriteError};
use holdfast_store::index::{Index, Tables};
use holdfast_store::machine::Machine;
use holdfast_store::s3::{Serving, Store};
use support::sign::{Call, Got, send};
use tokio::sync::{oneshot, watch};

type Reply = oneshot::Sender<Result<Done<Outcome>, SubmitError>>;

struct Alone {
    replica: Mutex<Replica<MemDisk, Machine, Reply>>,
    epoch: Epoch,
}

impl Alone {
    fn drive(&self, inputs: Vec<Input<Reply>>) {
        let mut replica = self.replica.lock().unwrap();
        let mut out = Vec::new();
        replica.ingest(inputs, &mut out);
        replica.flush(&mut out);
        while replica.wants_flush() {
            replica.flush(&mut out);
        }
        for output in out {
            if let Output::Reply { reply, result } = output {
                let _ = reply.send(result);
            }
        }
    }

    async fn submit(
        &self,
        kind: RecordKind,
        payload: Vec<Bytes>,
        wait: Wait,
    ) -> Result<Done<Outcome>, WriteError> {
        let (reply, answer) = oneshot::channel();
        self.drive(vec![Input::Submit { kind, payload, wait, reply }]);
        let answer = answer.await.map_err(|_| WriteError::Failed("no answer".into()))?;
        answer.map_err(|error| match error {
            SubmitError::NotPrimary { .. } => WriteError::NotPrimary { redirect: None },
            SubmitError::DiskFull => WriteError::DiskFull,
            SubmitError::Overloaded => WriteError::Overloaded,
            SubmitError::Refused(why) | SubmitError::Failed(why) => WriteError::Failed(why),
        })
    }
}

impl Backend for Alone {
    fn append(&self, data: Bytes) -> BoxFuture<'_, Result<(Lsn, Lsn), WriteError>> {
        async move {
            match self.submit(RecordKind::Data, vec![data], Wait::Appended).await? {
                Done::Appended { lsn, end } | Done::Committed { lsn, end, .. } => Ok((lsn, end)),
            }
        }
        .boxed()
    }

    fn commit(&self, payload: Vec<Bytes>) -> BoxFuture<'_, Result<Outcome, WriteError>> {
        async move {
            match self.submit(RecordKind::Op, payload, Wait::Committed).await? {
                Done::Committed { outcome, .. } => Ok(outcome),
                Done::Appended { .. } => Err(WriteError::Failed("not committed".into())),
            }
        }
        .boxed()
    }

    fn serving(&self) -> Result<Epoch, NotServing> {
        Ok(self.epoch)
    }
}

struct Host {
    addr: SocketAddr,
    index: Index,
    damages: Arc<Mutex<Vec<Damage>>>,
    _gate: watch::Sender<Serving>,
}

impl Host {
    async fn boot(disk: MemDisk, epoch: u64) -> Host {
        let index = Index::in_memory();
        let machine = Machine::new(index.clone()).unwrap();
        let me = Member { id: NodeId::new("a").unwrap(), incarnation: Incarnation(1) };
        let options = ReplicaOptions { new_log_id: 7, ..Default::default() };
        let (replica, _) = Replica::open(disk, me.clone(), machine, options).unwrap();
        let log = replica.reader();
        let alone = Arc::new(Alone { replica: Mutex::new(replica), epoch: Epoch(epoch) });
        alone.drive(vec![Input::Lead { epoch: Epoch(epoch), members: vec![me], wall_ms: 0 }]);
        let damages = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&damages);
        let on_damage = Arc::new(move |damage| told.lock().unwrap().push(damage));
        let store = Store::new(index.clone(), Arc::new(log), alone, on_damage);
        let (addr, gate, _) = support::listen(store).await;
        Host { addr, index, damages, _gate: gate }
    }

    /// Everything in the index but how far it was applied.
    fn contents(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let view = self.index.view();
        view.scan(b"", None).map(Result::unwrap).filter(|(key, _)| key[0] != b'm').collect()
    }

    async fn send(&self, call: Call) -> Got {
        send(self.addr, call).await
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len as u64).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_the_power_failed_and_the_index_is_rebuilt() {
    let sizes = [0, 10, 300 << 10, (2 << 20) + 1];
    for seed in 0..8 {
        let disk = MemDisk::new();
        let host = Host::boot(disk.clone(), 1).await;
        assert_eq!(host.send(Call::new("PUT", "/box")).await.status, 200);
        for size in sizes {
            let put = host.send(Call::new("PUT", &format!("/box/{size}")).body(pattern(size))).await;
            assert_eq!(put.status, 200, "{}", put.text());
        }
        assert_eq!(host.send(Call::new("DELETE", "/box/10")).await.status, 204);
        let before = host.contents();

        let host = Host::boot(disk.crash(seed), 2).await;
        for size in sizes {
            let got = host.send(Call::new("GET", &format!("/box/{size}"))).await;
            let gone = size == 10;
            assert_eq!(got.status, if gone { 404 } else { 200 }, "seed {seed}, {size} bytes");
            assert!(gone || got.bytes() == pattern(size), "seed {seed}, {size} bytes");
        }
        assert_eq!(host.contents(), before, "seed {seed}");
    }
}

#[tokio::test]
async fn a_flipped_bit_is_reported_and_never_served() {
    let disk = MemDisk::new();
    let host = Host::boot(disk.clone(), 1).await;
    host.send(Call::new("PUT", "/box")).await;
    host.send(Call::new("PUT", "/box/k").body(pattern(3 << 20))).await;
    let (name, content) =
        disk.files().into_iter().max_by_key(|(_, content)| content.len()).expect("a segment file");
    disk.flip_bit(&name, content.len() as u64 / 2 * 8);
    let got = host.send(Call::new("GET", "/box/k")).await;
    assert!(got.status == 500 || got.body.is_err(), "{}", got.status);
    assert_eq!(host.damages.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_serves_what_it_has() {
    let disk = MemDisk::new();
    let host = Host::boot(disk.clone(), 1).await;
    host.send(Call::new("PUT", "/box")).await;
    host.send(Call::new("PUT", "/box/k").body("kept")).await;
    disk.set_capacity(Some(disk.used() + 1000));
    for size in [2000, 2 << 20] {
        let put = host.send(Call::new("PUT", "/box/k").body(pattern(size))).await;
        assert_eq!(put.status, 507, "{}", put.text());
    }
    assert_eq!(host.send(Call::new("GET", "/box/k")).await.text(), "kept");
    disk.set_capacity(None);
    assert_eq!(host.send(Call::new("PUT", "/box/k").body("new")).await.status, 200);
    assert_eq!(host.send(Call::new("GET", "/box/k")).await.text(), "new");
}
