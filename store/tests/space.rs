//! Space is won back while everything goes on, and nothing that anybody has goes with it.

use std::collections::BTreeMap;

use bytes::Bytes;
use holdfast_heartbeat::types::{Epoch, Incarnation, Lsn, Member, NodeId};
use holdfast_replication::RecordKind;
use holdfast_replication::log::OpenOptions;
use holdfast_replication::replica::{Done, Input, Output, Replica, ReplicaOptions, Wait};
use holdfast_replication::testing::{Dice, MemDisk};
use holdfast_store::apply::{Outcome, PART_MIN, Refusal};
use holdfast_store::bucket::Setting;
use holdfast_store::files::{FileKind, FileTraits, Owner};
use holdfast_store::index::{Index, Lookup, Tables};
use holdfast_store::machine::Machine;
use holdfast_store::object::{Etag, Traits, UploadId, VersionId};
use holdfast_store::op::*;
use holdfast_store::space::plan::{Means, choose, survey};
use holdfast_store::space::{Bounds, Step, Stopped, Thinning, Told};
use holdfast_store::state::{Layout, Version};

const SEGMENT: u64 = 64 * 1024;

type Engine = Replica<MemDisk, Machine, u64>;

/// One member over a disk in memory.
struct Host {
    disk: MemDisk,
    engine: Engine,
    index: Index,
    epoch: u64,
    replies: u64,
    wall_ms: u64,
}

fn open(disk: &MemDisk, index: &Index) -> Engine {
    let me = Member { id: NodeId::new("a").unwrap(), incarnation: Incarnation(1) };
    let log = OpenOptions { segment_size: SEGMENT, ..OpenOptions::default() };
    let options = ReplicaOptions { log, new_log_id: 7, ..Default::default() };
    Replica::open(disk.clone(), me, Machine::new(index.clone()).unwrap(), options).unwrap().0
}

impl Host {
    fn new() -> Host {
        let (disk, index) = (MemDisk::new(), Index::in_memory());
        let engine = open(&disk, &index);
        let mut host = Host { disk, engine, index, epoch: 0, replies: 0, wall_ms: 0 };
        host.lead();
        host.op(
            &Op::CreateBucket {
                bucket: "kept".into(),
                owner: String::new(),
                tenant: None,
                settings: vec![Setting::Versioning { enabled: true }],
                wall_ms: 1,
            },
            b"",
        );
        host.op(
            &Op::CreateBucket {
                bucket: "plain".into(),
                owner: String::new(),
                tenant: None,
                settings: vec![],
                wall_ms: 1,
            },
            b"",
        );
        host
    }

    fn lead(&mut self) {
        self.epoch += 1;
        let me = Member { id: NodeId::new("a").unwrap(), incarnation: Incarnation(1) };
        self.drive(vec![Input::Lead { epoch: Epoch(self.epoch), members: vec![me], wall_ms: 0 }]);
    }

    /// The process ends and comes back, with its index or without it.
    fn restart(&mut self, keep_index: bool) {
        self.disk = self.disk.kill();
        if !keep_index {
            self.index = Index::in_memory();
        }
        self.engine = open(&self.disk, &self.index);
        self.lead();
    }

    fn drive(&mut self, inputs: Vec<Input<u64>>) -> Vec<Output<u64, Outcome>> {
        let mut out = Vec::new();
        self.engine.ingest(inputs, &mut out);
        self.engine.flush(&mut out);
        while self.engine.wants_flush() {
            self.engine.flush(&mut out);
        }
        out
    }

    fn submit(&mut self, kind: RecordKind, payload: Vec<Bytes>, wait: Wait) -> Done<Outcome> {
        self.replies += 1;
        let reply = self.replies;
        for output in self.drive(vec![Input::Submit { kind, payload, wait, reply }]) {
            if let Output::Reply { reply: to, result } = output
                && to == reply
            {
                return result.unwrap();
            }
        }
        panic!("no answer");
    }

    fn op(&mut self, op: &Op, inline: &[u8]) -> Outcome {
        let payload = op.encode(Bytes::copy_from_slice(inline)).unwrap();
        match self.submit(RecordKind::Op, payload, Wait::Committed) {
            Done::Committed { outcome, .. } => outcome,
            Done::Appended { .. } => panic!("not committed"),
        }
    }

    fn data(&mut self, bytes: &[u8]) -> Extent {
        let payload = vec![Bytes::copy_from_slice(bytes)];
        match self.submit(RecordKind::Data, payload, Wait::Appended) {
            Done::Appended { lsn, .. } => Extent { lsn, offset: 0, len: bytes.len() as u32 },
            Done::Committed { .. } => panic!("committed"),
        }
    }

    fn put_as(&mut self, bucket: &str, key: &str, source: Source, bytes: &[u8]) -> Outcome {
        self.wall_ms += 1;
        let op = Op::PutObject(Box::new(PutObject {
            bucket: bucket.into(),
            key: key.into(),
            traits: Traits::default(),
            size: bytes.len() as u64,
            etag: Etag { md5: [3; 16], parts: 0 },
            checksums: vec![],
            source: source.clone(),
            precondition: Precondition::default(),
            wall_ms: self.wall_ms,
        }));
        self.op(&op, if source == Source::Inline { bytes } else { b"" })
    }

    /// Puts an object inline, or in pieces of at most `piece` bytes.
    fn put(&mut self, bucket: &str, key: &str, bytes: &[u8], piece: Option<usize>) {
        let source = match piece {
            None => Source::Inline,
            Some(piece) => Source::Extents {
                epoch: Epoch(self.epoch),
                extents: bytes.chunks(piece).map(|part| self.data(part)).collect(),
            },
        };
        assert!(matches!(self.put_as(bucket, key, source, bytes), Outcome::Stored(_)));
    }

    fn copy(&mut self, from: (&str, &str), to: (&str, &str), span: std::ops::Range<usize>, bytes: &[u8]) {
        let view = self.index.view();
        let id = view.object(from.0, from.1).unwrap().expect("it is there").id;
        let source = Source::Object {
            bucket: from.0.into(),
            key: from.1.into(),
            version: None,
            id,
            start: span.start as u64,
            len: span.len() as u64,
        };
        assert!(matches!(self.put_as(to.0, to.1, source, &bytes[span]), Outcome::Stored(_)));
    }

    fn delete(&mut self, bucket: &str, key: &str, version: Option<VersionId>) {
        let keys = vec![DeleteKey { key: key.into(), version, ..DeleteKey::default() }];
        let (bucket, owner) = (bucket.into(), String::new());
        self.op(&Op::DeleteObjects { bucket, owner, keys, bypass_governance: false, wall_ms: 9 }, b"");
    }

    /// The bytes of every version there is, by bucket, key and id.
    fn contents(&self) -> BTreeMap<(String, String, Lsn), Vec<u8>> {
        let (view, reader) = (self.index.view(), self.engine.reader());
        let mut all = BTreeMap::new();
        for table in [b"o", b"v"] {
            for entry in view.scan(table, Some(&[table[0] + 1])) {
                let (key, value) = entry.unwrap();
                let object = if table == b"o" {
                    postcard::from_bytes(&value).unwrap()
                } else {
                    match postcard::from_bytes(&value).unwrap() {
                        Version::Object(object) => *object,
                        Version::Marker(_) => continue,
                    }
                };
                let holder = holdfast_store::keys::holder(&key, || object.id).unwrap();
                let Holder::Version { bucket, key, id } = holder else { panic!() };
                let stored = match &object.layout {
                    Layout::Parts(upload) => {
                        view.parts(*upload).unwrap().iter().map(|(_, part)| part.layout.stored_len()).sum()
                    }
                    layout => layout.stored_len(),
                };
                let extents = view.cut(&object, 0, stored).unwrap().expect("as many as it says");
                let read = |e: &Extent| reader.read_slice(e.lsn, e.offset, e.len).unwrap().to_vec();
                all.insert((bucket, key, id), extents.iter().flat_map(read).collect());
            }
        }
        all
    }

    /// What the index is, applied LSN apart.
    fn state(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let view = self.index.view();
        view.scan(b"", None).map(Result::unwrap).filter(|(key, _)| key[0] != b'm').collect()
    }

    /// Bytes of distinct extents that the index names.
    fn live_now(&self) -> u64 {
        let view = self.index.view();
        let mut extents = BTreeMap::new();
        for table in [b"o", b"v", b"p", b"x"] {
            for entry in view.scan(table, Some(&[table[0] + 1])) {
                let (_, value) = entry.unwrap();
                let near = |layout| if let Layout::Near(extents) = layout { extents } else { vec![] };
                let found: Vec<Extent> = match table {
                    b"o" => near(
                        postcard::from_bytes::<holdfast_store::state::ObjectState>(&value).unwrap().layout,
                    ),
                    b"v" => match postcard::from_bytes(&value).unwrap() {
                        Version::Object(object) => near(object.layout),
                        Version::Marker(_) => vec![],
                    },
                    b"p" => {
                        near(postcard::from_bytes::<holdfast_store::state::PartState>(&value).unwrap().layout)
                    }
                    _ => postcard::from_bytes(&value).unwrap(),
                };
                extents.extend(found.into_iter().map(|e| ((e.lsn, e.offset), e.len)));
            }
        }
        extents.values().map(|len| u64::from(*len)).sum()
    }

    /// The segments that are not written any more.
    fn sealed(&self) -> Vec<(Lsn, Lsn)> {
        let (bases, holes) = (self.engine.reader().segments(), self.engine.log().holes().clone());
        let pairs =
            bases.windows(2).map(|two| (two[0], holes.next(two[0]).map_or(two[1], |h| h.min(two[1]))));
        pairs.collect()
    }

    fn plan(&self) -> Option<Thinning> {
        let found = survey(&self.index.view(), &self.sealed()).unwrap();
        let means = Means { checkpoint_bytes: self.index.size_bytes(), spare_bytes: u64::MAX };
        let chosen = choose(&found, means);
        let thinning =
            Thinning::begin(Epoch(self.epoch), &chosen, self.engine.log().holes(), Bounds::default());
        (!chosen.is_empty()).then_some(thinning)
    }

    /// Does the step; what it has to tell the next one.
    fn step(&mut self, step: Step) -> Option<Told> {
        Some(match step {
            Step::Look => Told::Nothing,
            Step::Append(kind, payload) => match self.submit(kind, payload, Wait::Appended) {
                Done::Appended { lsn, end } => Told::Appended { lsn, end },
                Done::Committed { .. } => panic!("committed"),
            },
            Step::Commit(kind, payload) => match self.submit(kind, payload, Wait::Committed) {
                Done::Committed { outcome, .. } => Told::Committed(outcome),
                Done::Appended { .. } => panic!("not committed"),
            },
            Step::Done => return None,
        })
    }

    /// Runs it to its end, with `between` after each step.
    fn thin(&mut self, mut thinning: Thinning, mut between: impl FnMut(&mut Host)) -> Result<(), Stopped> {
        let mut told = Told::Nothing;
        loop {
            let step = thinning.next(told, &self.index.clone(), &self.engine.reader())?;
            match self.step(step) {
                Some(answer) => told = answer,
                None => return Ok(()),
            }
            between(self);
        }
    }

    fn log_bytes(&self) -> u64 {
        self.engine.log().bytes_kept()
    }
}

fn bytes(dice: &mut Dice, len: usize) -> Vec<u8> {
    (0..len).map(|_| dice.roll() as u8).collect()
}

/// One thing that clients do; with `ranges` they copy parts of objects, too.
fn busy(host: &mut Host, dice: &mut Dice, ranges: bool) {
    let bucket = ["plain", "kept"][dice.below(2) as usize];
    let key = format!("key-{}", dice.below(12));
    let current = host.index.view().object(bucket, &key).unwrap();
    match dice.below(9) {
        0..=2 => {
            let len = dice.below(3000) as usize;
            let content = bytes(dice, len);
            host.put(bucket, &key, &content, None);
        }
        3 | 4 => {
            let len = 1 + dice.below(20_000) as usize;
            let content = bytes(dice, len);
            host.put(bucket, &key, &content, Some(1 + dice.below(4000) as usize));
        }
        5 => {
            let Some(object) = current else { return };
            let contents = host.contents();
            let content = &contents[&(bucket.to_owned(), key.clone(), object.id)];
            let from = dice.below(content.len() as u64 / 2 + 1) as usize;
            let span = if !ranges || dice.below(2) == 0 { 0..content.len() } else { from..content.len() };
            let to = format!("key-{}", dice.below(12));
            let other = ["plain", "kept"][dice.below(2) as usize];
            host.copy((bucket, &key), (other, &to), span, content);
        }
        6 => host.delete(bucket, &key, None),
        7 => {
            let versions: Vec<_> = host.contents().into_keys().filter(|(b, _, _)| b == "kept").collect();
            if versions.is_empty() {
                return;
            }
            let (b, k, id) = &versions[dice.below(versions.len() as u64) as usize];
            host.delete(b, k, Some(VersionId::At(*id)));
        }
        _ => upload(host, dice, bucket, &key),
    }
}

fn upload(host: &mut Host, dice: &mut Dice, bucket: &str, key: &str) {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&dice.roll().to_le_bytes());
    let upload = UploadId(id);
    let traits = Box::default();
    let (b, k) = (bucket.to_owned(), key.to_owned());
    host.op(&Op::CreateUpload { bucket: b, key: k, upload, traits, checksum: None, wall_ms: 1 }, b"");
    let len = dice.below(5000) as usize;
    let content = bytes(dice, len);
    let op = Op::PutPart(Box::new(PutPart {
        bucket: bucket.into(),
        key: key.into(),
        upload,
        number: 1,
        size: content.len() as u64,
        etag: Etag { md5: [3; 16], parts: 0 },
        checksums: vec![],
        source: Source::Inline,
        wall_ms: 2,
    }));
    host.op(&op, &content);
    assert!(content.len() as u64 <= PART_MIN);
    if dice.below(3) > 0 {
        let op = Op::CompleteUpload(Box::new(CompleteUpload {
            bucket: bucket.into(),
            key: key.into(),
            upload,
            parts: vec![PartRef { number: 1, etag: "03".repeat(16) }],
            checksum: None,
            size: None,
            precondition: Precondition::default(),
            wall_ms: 3,
        }));
        host.op(&op, b"");
    }
}

#[test]
fn nothing_that_anybody_has_is_lost_whatever_goes_on_meanwhile() {
    let (mut thinned, mut won) = (0, 0);
    for seed in 0..60 {
        // What is live is exact, save for the ends of ranges that several have.
        let (mut dice, ranges) = (Dice(seed), seed % 2 == 1);
        let mut host = Host::new();
        for _ in 0..120 {
            busy(&mut host, &mut dice, ranges);
        }
        for round in 0..3 {
            let Some(thinning) = host.plan() else { continue };
            let (before, log_bytes) = (host.contents(), host.log_bytes());
            let quiet = round == 0;
            let give_up_at = (dice.below(4) == 0).then(|| dice.below(30));
            let mut steps = 0;
            let mut thinning = thinning;
            let mut told = Told::Nothing;
            let done = loop {
                if give_up_at == Some(steps) {
                    break false;
                }
                steps += 1;
                let step = thinning.next(told, &host.index.clone(), &host.engine.reader()).unwrap();
                let Some(answer) = host.step(step) else { break true };
                told = answer;
                if !quiet && dice.below(3) == 0 {
                    busy(&mut host, &mut dice, ranges);
                }
            };
            if quiet {
                assert_eq!(host.contents(), before, "seed {seed}");
            }
            if !ranges {
                let live = host.index.view().live_bytes().unwrap();
                assert_eq!(live, host.live_now(), "seed {seed} round {round}");
            }
            host.engine.log().verify().unwrap();
            if done {
                thinned += 1;
                won += log_bytes.saturating_sub(host.log_bytes());
            }
            let (state, contents) = (host.state(), host.contents());
            host.restart(dice.below(2) == 0);
            assert_eq!(host.state(), state, "seed {seed} round {round}");
            assert_eq!(host.contents(), contents, "seed {seed} round {round}");
            for _ in 0..40 {
                busy(&mut host, &mut dice, ranges);
            }
        }
    }
    assert!(thinned > 60 && won > 1_000_000, "{thinned} times, {won} bytes");
}

#[test]
fn a_store_that_is_rewritten_over_and_over_stays_small() {
    let mut host = Host::new();
    let mut dice = Dice(1);
    let mut most = 0;
    for n in 0..600u64 {
        let content = bytes(&mut dice, 4000);
        host.put("plain", &format!("key-{}", n % 20), &content, None);
        if n % 25 == 24
            && let Some(thinning) = host.plan()
        {
            host.thin(thinning, |_| {}).unwrap();
        }
        most = most.max(host.log_bytes());
    }
    assert!(most < 10 * SEGMENT, "{most} bytes for 80,000 that are live");
    assert!(host.engine.log().end().0 > 2_000_000);
}

#[test]
fn what_several_have_is_moved_once() {
    let mut host = Host::new();
    let mut dice = Dice(2);
    let content = bytes(&mut dice, 40_000);
    host.put("plain", "original", &content, Some(20_000));
    for n in 0..5 {
        host.copy(("plain", "original"), ("plain", &format!("copy-{n}")), 0..40_000, &content);
    }
    assert_eq!(host.index.view().live_bytes().unwrap(), 40_000);
    for n in 0..60 {
        let garbage = bytes(&mut dice, 4000);
        host.put("plain", "garbage", &garbage, None);
        assert!(n < 60);
    }
    // The first segment holds the object and more garbage than that is worth.
    let first = host.sealed()[0];
    let thinning = Thinning::begin(Epoch(host.epoch), &[first], host.engine.log().holes(), Bounds::default());
    host.thin(thinning, |_| {}).unwrap();
    assert_eq!(host.live_now(), host.index.view().live_bytes().unwrap());
    assert_eq!(host.live_now(), 44_000);
    host.delete("plain", "original", None);
    for n in 0..4 {
        host.delete("plain", &format!("copy-{n}"), None);
    }
    assert_eq!(host.index.view().live_bytes().unwrap(), 44_000, "one copy still has it");
    let left = host.contents();
    let (_, last) = left.iter().find(|((_, key, _), _)| key == "copy-4").unwrap();
    assert_eq!(last, &content);
    host.delete("plain", "copy-4", None);
    assert_eq!(host.index.view().live_bytes().unwrap(), 4000);
}

#[test]
fn data_that_was_given_up_before_its_object_came_is_refused() {
    let mut host = Host::new();
    let mut dice = Dice(3);
    let content = bytes(&mut dice, 5000);
    let early = host.data(&content);
    for _ in 0..60 {
        let garbage = bytes(&mut dice, 4000);
        host.put("plain", "garbage", &garbage, None);
    }
    let first = host.sealed()[0];
    let mut thinning =
        Thinning::begin(Epoch(host.epoch), &[first], host.engine.log().holes(), Bounds::default());
    let step = thinning.next(Told::Nothing, &host.index.clone(), &host.engine.reader()).unwrap();
    host.step(step);
    let source = Source::Extents { epoch: Epoch(host.epoch), extents: vec![early] };
    let outcome = host.put_as("plain", "late", source, &content);
    assert_eq!(outcome, Outcome::Refused(Refusal::GivenUp));
}

#[test]
fn files_of_the_hosts_move_with_everything_else() {
    let mut host = Host::new();
    let mut dice = Dice(6);
    let mut expected = BTreeMap::new();
    for n in 0..8 {
        let len = 1 + dice.below(9000) as usize;
        let content = bytes(&mut dice, len);
        let pieces = (n % 2 == 0).then(|| content.chunks(700).map(|part| host.data(part)).collect());
        let inline: &[u8] = if pieces.is_some() { b"" } else { &content };
        let source = match pieces {
            Some(extents) => Source::Extents { epoch: Epoch(host.epoch), extents },
            None => Source::Inline,
        };
        let (owner, path) = (Owner::default(), format!("/etc/app/{n}"));
        let traits = FileTraits {
            kind: FileKind::File,
            mode: 0o600,
            owner: owner.clone(),
            group: owner,
            modified_ns: 1,
        };
        let (set, size) = ("app".to_owned(), content.len() as u64);
        let op = PutFile {
            set,
            path: path.clone(),
            traits,
            size,
            sha256: [1; 32],
            encryption: None,
            source,
            wall_ms: 3,
        };
        assert_eq!(host.op(&Op::PutFile(Box::new(op)), inline), Outcome::Changed);
        expected.insert(path, content);
        let garbage = bytes(&mut dice, 30_000);
        host.put("plain", "garbage", &garbage, None);
    }
    let contents = |host: &Host| -> BTreeMap<String, Vec<u8>> {
        let (view, reader) = (host.index.view(), host.engine.reader());
        let read = |path: &String| {
            let file = view.file("app", path).unwrap().expect("it is there");
            let extents = view.cut_layout(&file.layout, 0, file.size).unwrap().expect("all of it");
            extents.iter().flat_map(|e| reader.read_slice(e.lsn, e.offset, e.len).unwrap().to_vec()).collect()
        };
        expected.keys().map(|path| (path.clone(), read(path))).collect()
    };
    let places = |host: &Host| host.index.view().file("app", "/etc/app/1").unwrap().unwrap().layout;
    let before = places(&host);
    let first = host.sealed()[0];
    let thinning = Thinning::begin(Epoch(host.epoch), &[first], host.engine.log().holes(), Bounds::default());
    host.thin(thinning, |_| {}).unwrap();
    assert!(!host.engine.log().holes().is_empty());
    assert_ne!(places(&host), before);
    assert!(contents(&host) == expected);
    let state = host.state();
    host.restart(false);
    assert_eq!(host.state(), state);
    assert!(contents(&host) == expected);
}

#[test]
fn bytes_that_cannot_be_read_keep_their_segment() {
    let mut host = Host::new();
    let mut dice = Dice(4);
    let content = bytes(&mut dice, 5000);
    host.put("plain", "mine", &content, Some(5000));
    for _ in 0..60 {
        let garbage = bytes(&mut dice, 4000);
        host.put("plain", "garbage", &garbage, None);
    }
    let view = host.index.view();
    let object = view.object("plain", "mine").unwrap().unwrap();
    let extent = view.cut(&object, 0, 5000).unwrap().unwrap()[0];
    let first = host.sealed()[0];
    let name = format!("{:016x}.log", first.0.0);
    host.disk.flip_bit(&name, 8 * (64 + extent.lsn.0 - first.0.0 + 48 + 100));
    let thinning = Thinning::begin(Epoch(host.epoch), &[first], host.engine.log().holes(), Bounds::default());
    assert!(matches!(host.thin(thinning, |_| {}), Err(Stopped::Unreadable { .. })));
    assert!(host.engine.log().holes().is_empty());
}
