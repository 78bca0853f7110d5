//! What a former primary wrote alone, read back out of the archive of its log.

mod support;

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use holdfast_heartbeat::types::{Epoch, Lsn};
use holdfast_replication::disk::FileDisk;
use holdfast_replication::set_aside::{ArchiveReader, Cause};
use holdfast_replication::{Log, RecordKind};
use holdfast_store::apply::Outcome;
use holdfast_store::archive::{Archive, Change, Missing, ObjectChange, Opened, Origin, Own, What};
use holdfast_store::backend::{Backend, NotServing, WriteError};
use holdfast_store::index::{Index, Lookup};
use holdfast_store::machine::{Entry, Machine};
use holdfast_store::s3::{Guests, Serving, Store};
use holdfast_store::seal::{Key, StoreKeys};
use md5::{Digest, Md5};
use support::sign::{self, Call, Got};
use tokio::sync::watch;

const SEGMENT: u64 = 16 << 20;

struct State {
    log: Log<FileDisk>,
    machine: Machine,
    epoch: Epoch,
}

/// A member with a real log on a disk, that commits everything by itself.
struct Member {
    state: Mutex<State>,
    index: Index,
    _dir: tempfile::TempDir,
}

impl Member {
    fn new() -> Arc<Member> {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = Log::open(FileDisk::open(dir.path()).unwrap(), SEGMENT).unwrap();
        log.found(7, SEGMENT).unwrap();
        let index = Index::in_memory();
        let machine = Machine::new(index.clone()).unwrap();
        let member = Member { state: Mutex::new(State { log, machine, epoch: Epoch(0) }), index, _dir: dir };
        member.reign();
        Arc::new(member)
    }

    /// A reign begins.
    fn reign(&self) {
        let mut state = self.state.lock().unwrap();
        state.epoch = Epoch(state.epoch.0 + 1);
        let epoch = state.epoch;
        state.append(RecordKind::EpochStart, epoch, &[b"who".to_vec().into()]);
    }

    fn end(&self) -> Lsn {
        self.state.lock().unwrap().log.end()
    }

    /// The tail from there on is set aside and cut, as by a standby that follows another; then another reign begins.
    fn diverge(&self, from: Lsn) -> Archive {
        self.set_aside(from, Cause::Divergent, &mut |_| ())
    }

    fn set_aside(&self, from: Lsn, cause: Cause, change: &mut dyn FnMut(&mut Vec<u8>)) -> Archive {
        let mut state = self.state.lock().unwrap();
        let archive = state.log.set_aside(from, cause, "test", 1).unwrap();
        let path = state.log.disk().root().join(format!("set-aside/{}.log", archive.name));
        let mut bytes = std::fs::read(&path).unwrap();
        change(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        state.log.truncate_to(from, &archive).unwrap();
        state.machine.forget_all().unwrap();
        let reader = state.log.reader();
        let mut at = Lsn::ZERO;
        while at < state.log.end() {
            let record = reader.read(at).unwrap();
            let op = (record.kind == RecordKind::Op).then_some(&record.payload[..]);
            let entry = Entry { lsn: record.lsn, end: record.end, epoch: record.epoch, op };
            state.machine.apply_entries(std::iter::once(entry)).unwrap();
            at = record.end;
        }
        let reader = ArchiveReader::open(state.log.disk(), &archive.name).unwrap().unwrap();
        drop(state);
        self.reign();
        Archive::new(reader, from)
    }

    fn own(&self) -> Own {
        let log = self.state.lock().unwrap().log.reader();
        let held = Arc::new(log.hold());
        Own { view: self.index.view().holding(held), log }
    }
}

impl State {
    fn append(&mut self, kind: RecordKind, epoch: Epoch, payload: &[Bytes]) -> (Lsn, Lsn, Outcome) {
        let parts: Vec<&[u8]> = payload.iter().map(|part| &part[..]).collect();
        let (lsn, end) = self.log.append(kind, epoch, &parts).unwrap();
        self.log.sync().unwrap();
        let whole = payload.concat();
        let op = (kind == RecordKind::Op).then_some(&whole[..]);
        let entry = Entry { lsn, end, epoch, op };
        let mut outcomes = self.machine.apply_entries(std::iter::once(entry)).unwrap();
        (lsn, end, outcomes.pop().unwrap())
    }
}

impl Backend for Member {
    fn append(&self, data: Bytes) -> BoxFuture<'_, Result<(Lsn, Lsn), WriteError>> {
        let mut state = self.state.lock().unwrap();
        let epoch = state.epoch;
        let (lsn, end, _) = state.append(RecordKind::Data, epoch, &[data]);
        async move { Ok((lsn, end)) }.boxed()
    }

    fn commit(&self, payload: Vec<Bytes>) -> BoxFuture<'_, Result<Outcome, WriteError>> {
        let mut state = self.state.lock().unwrap();
        let epoch = state.epoch;
        let (_, _, outcome) = state.append(RecordKind::Op, epoch, &payload);
        async move { Ok(outcome) }.boxed()
    }

    fn serving(&self) -> Result<Epoch, NotServing> {
        Ok(self.state.lock().unwrap().epoch)
    }
}

/// The member with its endpoint, and one bucket.
struct Host {
    member: Arc<Member>,
    addr: std::net::SocketAddr,
    keys: StoreKeys,
    _gate: (watch::Sender<Serving>, Guests),
}

impl Host {
    async fn start() -> Host {
        Host::with_keys(StoreKeys::default()).await
    }

    async fn with_keys(keys: StoreKeys) -> Host {
        let member = Member::new();
        let reader = member.state.lock().unwrap().log.reader();
        let log = Arc::new(reader);
        let store = Store::new(member.index.clone(), log, member.clone(), Arc::new(|_| ()));
        let (addr, gate, guests) = support::listen(Store { keys: keys.clone(), ..store }).await;
        let host = Host { member, addr, keys, _gate: (gate, guests) };
        host.done(Call::new("PUT", "/box")).await;
        host
    }

    async fn send(&self, call: Call) -> Got {
        sign::send(self.addr, call).await
    }

    async fn done(&self, call: Call) -> Got {
        let got = self.send(call).await;
        assert!((200..300).contains(&got.status), "{}: {}", got.status, got.text());
        got
    }

    async fn begin(&self, call: Call) -> String {
        let begun = self.done(call.query("uploads", "")).await.text();
        begun.split("<UploadId>").nth(1).unwrap().split('<').next().unwrap().to_owned()
    }

    async fn part(&self, path: &str, id: &str, number: &str, body: &[u8]) {
        let call = Call::new("PUT", path).query("partNumber", number).query("uploadId", id);
        self.done(call.body(body.to_vec())).await;
    }

    async fn complete(&self, path: &str, id: &str, parts: &[(u32, &[u8])]) -> Got {
        let part = |(number, body): &(u32, &[u8])| {
            let etag = hex::encode(Md5::digest(body));
            format!("<Part><PartNumber>{number}</PartNumber><ETag>\"{etag}\"</ETag></Part>")
        };
        let parts: String = parts.iter().map(part).collect();
        let body = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
        self.done(Call::new("POST", path).query("uploadId", id).body(body)).await
    }

    /// The bytes of an object of the archive, in whole and from the middle.
    fn bytes(&self, archive: &Archive, told: &ObjectChange) -> Result<Vec<u8>, Missing> {
        let opened = self.open(archive, told)?;
        let all = read(&opened, 0, opened.body.size);
        assert_eq!(told.etag, opened.body.etag.to_string());
        assert_eq!(told.size, Some(opened.body.size));
        let (start, len) = (opened.body.size / 3, opened.body.size / 2);
        assert!(read(&opened, start, len) == all[start as usize..(start + len) as usize]);
        assert!(opened.bytes(1, opened.body.size).is_none());
        for number in 0..opened.body.pieces.len() {
            opened.digest(number).unwrap();
        }
        Ok(all)
    }

    fn open(&self, archive: &Archive, told: &ObjectChange) -> Result<Opened, Missing> {
        let own = self.member.own();
        archive.find(told.id, Some(&own))?.open(archive, &own, &self.keys)
    }
}

fn read(opened: &Opened, start: u64, len: u64) -> Vec<u8> {
    opened.bytes(start, len).unwrap().flat_map(|bytes| bytes.unwrap().to_vec()).collect()
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 31 % 251) as u8).collect()
}

fn changes(archive: &Archive, own: &Own) -> Vec<Change> {
    let mut all = Vec::new();
    archive
        .changes(Some(own), &mut |change| {
            all.push(change);
            ControlFlow::Continue(())
        })
        .unwrap();
    all
}

fn objects(archive: &Archive, own: &Own) -> Vec<ObjectChange> {
    let object = |change: Change| match change.what {
        What::Object(object) => Some(*object),
        _ => None,
    };
    changes(archive, own).into_iter().filter_map(object).collect()
}

#[tokio::test]
async fn objects_come_back_with_what_was_stored_with_them() {
    let host = Host::start().await;
    let fork = host.member.end();
    let (small, large) = (b"small".to_vec(), pattern((5 << 20) + 3));
    let put = Call::new("PUT", "/box/small")
        .header("content-type", "text/plain")
        .header("x-amz-meta-a", "b")
        .header("x-amz-tagging", "k=v")
        .header("if-none-match", "*");
    host.done(put.body(small.clone())).await;
    host.done(Call::new("PUT", "/box/large").body(large.clone())).await;
    host.done(Call::new("PUT", "/box/empty")).await;
    let archive = host.member.diverge(fork);
    assert_eq!(host.send(Call::new("GET", "/box/small")).await.status, 404, "it was cut");

    let own = host.member.own();
    let found = objects(&archive, &own);
    let keys: Vec<_> = found.iter().map(|object| object.key.as_str()).collect();
    assert_eq!(keys, ["small", "large", "empty"]);
    for (object, body) in found.iter().zip([&small, &large, &vec![]]) {
        assert_eq!((object.missing.as_deref(), object.origin), (None, Origin::Put));
        assert!(&host.bytes(&archive, object).unwrap() == body, "{}", object.key);
    }
    assert_eq!(found[0].content_type.as_deref(), Some("text/plain"));
    assert_eq!(found[0].metadata, [("a".to_owned(), "b".to_owned())]);
    assert_eq!(found[0].tags, [("k".to_owned(), "v".to_owned())]);
    assert_eq!(found[0].condition.as_deref(), Some("If-None-Match: *"));
    assert_eq!(found[1].condition, None);
}

#[tokio::test]
async fn every_kind_of_change_is_told_and_no_secret() {
    let host = Host::start().await;
    let admin = holdfast_store::admin::Admin::new(
        host.member.index.clone(),
        host.member.clone() as Arc<dyn Backend>,
        support::ACCESS_KEY.into(),
    );
    let fork = host.member.end();
    host.done(Call::new("PUT", "/new")).await;
    let versions = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    host.done(Call::new("PUT", "/new").query("versioning", "").body(versions)).await;
    host.done(Call::new("PUT", "/box/k").body("v")).await;
    let tags = "<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>";
    host.done(Call::new("PUT", "/box/k").query("tagging", "").body(tags)).await;
    host.done(Call::new("DELETE", "/box/k")).await;
    let id = host.begin(Call::new("POST", "/box/up")).await;
    host.part("/box/up", &id, "1", b"part").await;
    host.done(Call::new("DELETE", "/box/up").query("uploadId", &id)).await;
    host.done(Call::new("DELETE", "/new")).await;
    let new = serde_json::from_str(r#"{"name": "anna"}"#).unwrap();
    let made = admin.create_user(new, 5).await.unwrap();
    admin.delete_user("anna").await.unwrap();
    let archive = host.member.diverge(fork);

    let all = changes(&archive, &host.member.own());
    let told: Vec<String> = all
        .iter()
        .map(|change| serde_json::to_value(&change.what).unwrap()["change"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        told,
        [
            "bucket_created",
            "bucket_changed",
            "object",
            "object_changed",
            "deleted",
            "upload_begun",
            "part_stored",
            "upload_aborted",
            "bucket_deleted",
            "user_stored",
            "user_deleted",
        ]
    );
    let json = serde_json::to_string(&all).unwrap();
    let secret = serde_json::to_value(&made).unwrap()["secret_key"].as_str().unwrap().to_owned();
    assert!(json.contains("anna") && !json.contains(&secret), "{json}");
    let back: Vec<Change> = serde_json::from_str(&json).unwrap();
    assert_eq!(back, all);
}

#[tokio::test]
async fn an_upload_that_began_before_the_fork_is_put_together_with_what_this_member_has() {
    let host = Host::start().await;
    let (one, two) = (pattern(5 << 20), b"the end".to_vec());
    let id = host.begin(Call::new("POST", "/box/up").header("content-type", "video/mp4")).await;
    host.part("/box/up", &id, "1", &one).await;
    let fork = host.member.end();
    host.part("/box/up", &id, "2", &two).await;
    host.complete("/box/up", &id, &[(1, &one), (2, &two)]).await;
    let archive = host.member.diverge(fork);

    let found = objects(&archive, &host.member.own());
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].missing.as_deref(), found[0].origin), (None, Origin::Upload));
    assert_eq!(found[0].content_type.as_deref(), Some("video/mp4"));
    assert!(found[0].etag.ends_with("-2"), "{}", found[0].etag);
    let whole = [one.clone(), two.clone()].concat();
    assert!(host.bytes(&archive, &found[0]).unwrap() == whole);

    // The client went on at the new primary: what was an upload is an object there.
    host.part("/box/up", &id, "2", &two).await;
    host.complete("/box/up", &id, &[(1, &one), (2, &two)]).await;
    assert!(host.bytes(&archive, &found[0]).unwrap() == whole);

    // What has gone is said to have.
    host.done(Call::new("DELETE", "/box/up")).await;
    let found = objects(&archive, &host.member.own());
    let missing = found[0].missing.clone().unwrap();
    assert!(missing.contains("began before this archive"), "{missing}");
    assert!(matches!(host.open(&archive, &found[0]), Err(Missing::Lost(_))));
}

#[tokio::test]
async fn an_upload_of_the_archive_alone_is_put_together() {
    let host = Host::start().await;
    let fork = host.member.end();
    let (one, two) = (pattern(5 << 20), b"the end".to_vec());
    let begin = Call::new("POST", "/box/up").header("x-amz-checksum-algorithm", "CRC32C");
    let id = host.begin(begin).await;
    host.part("/box/up", &id, "3", b"replaced").await;
    host.part("/box/up", &id, "3", &two).await;
    host.part("/box/up", &id, "1", &one).await;
    host.part("/box/up", &id, "2", b"not listed").await;
    host.complete("/box/up", &id, &[(1, &one), (3, &two)]).await;
    let archive = host.member.diverge(fork);
    let found = objects(&archive, &host.member.own());
    assert!(host.bytes(&archive, &found[0]).unwrap() == [one, two].concat());
    let opened = host.open(&archive, &found[0]).unwrap();
    assert_eq!(opened.body.pieces.iter().map(|piece| piece.number).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(opened.body.checksums.len(), 1);

    // Whoever goes on somewhere is told the same.
    let own = host.member.own();
    let all = changes(&archive, &own);
    for (number, change) in all.iter().enumerate() {
        let mut behind = Vec::new();
        let mut visit = |change| {
            behind.push(change);
            ControlFlow::Continue(())
        };
        archive.changes_after(Some(change.lsn), Some(&own), &mut visit).unwrap();
        assert_eq!(behind, all[number + 1..]);
    }
}

#[tokio::test]
async fn copies_are_read_where_their_source_is_and_only_while_it_is_the_same() {
    let host = Host::start().await;
    let (before, after) = (pattern((2 << 20) + 1), pattern(300_000));
    host.done(Call::new("PUT", "/box/before").body(before.clone())).await;
    let fork = host.member.end();
    host.done(Call::new("PUT", "/box/after").body(after.clone())).await;
    let copy = |from: &str, to: &str| Call::new("PUT", to).header("x-amz-copy-source", from);
    host.done(copy("/box/before", "/box/a")).await;
    host.done(copy("/box/after", "/box/b")).await;
    host.done(copy("/box/b", "/box/c")).await;
    let id = host.begin(Call::new("POST", "/box/d")).await;
    let range = "bytes=1048570-1048580";
    let part = copy("/box/a", "/box/d").query("partNumber", "1").query("uploadId", &id);
    host.done(part.header("x-amz-copy-source-range", range)).await;
    host.complete("/box/d", &id, &[(1, &before[1048570..=1048580])]).await;
    host.done(copy("/box/d", "/box/e")).await;
    let archive = host.member.diverge(fork);

    let found = objects(&archive, &host.member.own());
    let wanted = [&after, &before, &after, &after, &before[1048570..=1048580].to_vec()];
    for (object, body) in found.iter().zip(wanted) {
        assert_eq!(object.missing, None, "{}", object.key);
        assert!(&host.bytes(&archive, object).unwrap() == body, "{}", object.key);
    }
    let last = found.last().unwrap();
    assert_eq!((last.key.as_str(), last.origin), ("e", Origin::Copy));
    assert!(host.bytes(&archive, last).unwrap() == before[1048570..=1048580]);
    assert!(last.etag.ends_with("-1"), "the tag of a copy is that of its source: {}", last.etag);
    assert_eq!(host.open(&archive, last).unwrap().body.pieces[0].md5, None);

    // Another object under the same name is not taken for the source.
    host.done(Call::new("PUT", "/box/before").body("another")).await;
    let found = objects(&archive, &host.member.own());
    let missing: Vec<_> = found.iter().filter(|o| o.missing.is_some()).map(|o| o.key.as_str()).collect();
    assert_eq!(missing, ["a", "d", "e"]);
}

#[tokio::test]
async fn what_was_encrypted_at_rest_opens_with_the_key_file_and_a_clients_own_does_not() {
    let keys = StoreKeys::new(vec![Key::new([3; 32])]);
    let mut host = Host::with_keys(keys).await;
    let fork = host.member.end();
    let body = pattern(2_500_000);
    let sealed = |path: &str| Call::new("PUT", path).header("x-amz-server-side-encryption", "AES256");
    host.done(sealed("/box/large").body(body.clone())).await;
    host.done(sealed("/box/small").body("small")).await;
    let (one, two) = (pattern(5 << 20), b"the end".to_vec());
    let id = host.begin(Call::new("POST", "/box/up").header("x-amz-server-side-encryption", "AES256")).await;
    host.part("/box/up", &id, "1", &one).await;
    host.part("/box/up", &id, "2", &two).await;
    host.complete("/box/up", &id, &[(1, &one), (2, &two)]).await;
    use base64::Engine as _;
    let shown = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let customers = Call::new("PUT", "/box/customer")
        .header("x-amz-server-side-encryption-customer-algorithm", "AES256")
        .header("x-amz-server-side-encryption-customer-key", &shown(&[9; 32]))
        .header("x-amz-server-side-encryption-customer-key-md5", &shown(&Md5::digest([9; 32])));
    host.done(customers.body("secret")).await;
    let archive = host.member.diverge(fork);

    let found = objects(&archive, &host.member.own());
    let wanted = [body, b"small".to_vec(), [one, two].concat()];
    for (object, body) in found.iter().zip(&wanted) {
        assert_eq!(object.encryption.as_deref(), Some("store"));
        assert!(&host.bytes(&archive, object).unwrap() == body, "{}", object.key);
    }
    assert_eq!(found[3].encryption.as_deref(), Some("customer"));
    let refused = host.open(&archive, &found[3]).err().unwrap().to_string();
    assert!(refused.contains("only its client has"), "{refused}");
    host.keys = StoreKeys::new(vec![Key::new([4; 32])]);
    let refused = host.open(&archive, &found[0]).err().unwrap().to_string();
    assert!(refused.contains("encryption_key_file"), "{refused}");
}

#[tokio::test]
async fn of_a_torn_end_what_is_whole_is_told_and_the_rest_counted() {
    let host = Host::start().await;
    let fork = host.member.end();
    host.done(Call::new("PUT", "/box/a").body("first")).await;
    let whole = host.member.end().bytes_since(fork);
    host.done(Call::new("PUT", "/box/b").body("second")).await;
    let archive = host.member.set_aside(fork, Cause::Torn, &mut |bytes| bytes.truncate(bytes.len() - 1));
    let found = objects(&archive, &host.member.own());
    assert_eq!(found.iter().map(|object| object.key.as_str()).collect::<Vec<_>>(), ["a"]);
    assert_eq!(host.bytes(&archive, &found[0]).unwrap(), b"first");
    let reader = archive.reader();
    assert_eq!(reader.unreadable_bytes(), reader.archive().bytes - whole);
}

#[tokio::test]
async fn behind_a_damaged_place_objects_are_found_and_said_to_be_and_a_damaged_body_is_refused() {
    let host = Host::start().await;
    let large = pattern(3 << 20);
    let fork = host.member.end();
    host.done(Call::new("PUT", "/box/a").body("first")).await;
    let second = host.member.end().bytes_since(fork) as usize;
    host.done(Call::new("PUT", "/box/large").body(large.clone())).await;
    host.done(Call::new("PUT", "/box/z").body("last")).await;
    let archive = host.member.set_aside(fork, Cause::Damaged, &mut |bytes| {
        // The header of the first record, and a byte of the large object.
        bytes[5] ^= 1;
        bytes[second + 1000] ^= 1;
    });
    let own = host.member.own();
    let all = changes(&archive, &own);
    assert!(all.iter().all(|change| change.behind_damage), "{all:?}");
    let found = objects(&archive, &own);
    assert_eq!(found.iter().map(|object| object.key.as_str()).collect::<Vec<_>>(), ["large", "z"]);
    assert_eq!(host.bytes(&archive, &found[1]).unwrap(), b"last");
    let opened = host.open(&archive, &found[0]).unwrap();
    assert!(opened.bytes(0, 3 << 20).unwrap().any(|bytes| bytes.is_err()));
    assert!(opened.digest(0).is_err());
    assert!(own.view.object("box", "a").unwrap().is_none());
}
