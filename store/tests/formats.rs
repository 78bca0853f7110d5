//! A log that an earlier release wrote is opened by this one, and says the same.
//!
//! `fixtures/log-VERSION/` holds the log of a small store as that release wrote it, and `said.txt` what was in it. A
//! release whose format differs adds a directory (`HOLDFAST_BLESS=1 cargo test -p holdfast-store --test formats`), and
//! never changes one.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use holdfast_heartbeat::types::{Epoch, Lsn};
use holdfast_replication::disk::FileDisk;
use holdfast_replication::log::{Log, OpenOptions};
use holdfast_replication::record::EpochStartBody;
use holdfast_replication::{Incarnation, Member, NodeId, RecordKind};
use holdfast_store::access::{AccessKey, User};
use holdfast_store::bucket::Setting;
use holdfast_store::files::{FileKind, FileTraits};
use holdfast_store::index::{Index, Lookup, Tables};
use holdfast_store::machine::{Entry, Machine};
use holdfast_store::object::{Etag, Traits, UploadId};
use holdfast_store::op::*;
use holdfast_store::state::{Layout, ObjectState, Version};
use md5::{Digest, Md5};

/// What this release writes.
const NEWEST: &str = "log-1";
const SEGMENT: u64 = 32 * 1024;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// Writes a log with something of everything.
fn write(dir: &Path) {
    let (mut log, _) = Log::open(FileDisk::open(dir).unwrap(), SEGMENT).unwrap();
    log.found(0x5eed, SEGMENT).unwrap();
    let leader = Member { id: NodeId::new("a").unwrap(), incarnation: Incarnation(9) };
    let mut epoch = Epoch(0);
    let mut append = |kind, parts: &[&[u8]]| {
        if kind == RecordKind::EpochStart {
            epoch = Epoch(epoch.0 + 3);
        }
        log.append(kind, epoch, parts).unwrap()
    };
    let begins = EpochStartBody { leader, wall_ms: 1_790_000_000_000 }.encode();
    append(RecordKind::EpochStart, &[&begins]);
    let op = |op: Op, inline: &[u8]| op.encode(Bytes::copy_from_slice(inline)).unwrap().concat();
    let create = |bucket: &str, settings| Op::CreateBucket {
        bucket: bucket.into(),
        owner: String::new(),
        tenant: None,
        settings,
        wall_ms: 1,
    };
    let put = |bucket: &str, key: &str, content: &[u8], source| {
        Op::PutObject(Box::new(PutObject {
            bucket: bucket.into(),
            key: key.into(),
            traits: Traits::default(),
            size: content.len() as u64,
            etag: Etag { md5: Md5::digest(content).into(), parts: 0 },
            checksums: vec![],
            source,
            precondition: Precondition::default(),
            wall_ms: 5,
        }))
    };
    append(RecordKind::Op, &[&op(create("plain", vec![]), b"")]);
    append(RecordKind::Op, &[&op(create("kept", vec![Setting::Versioning { enabled: true }]), b"")]);
    for (bucket, key, content) in [
        ("plain", "a/small", "small"),
        ("kept", "versions", "first"),
        ("kept", "versions", "second"),
        ("kept", "gone", "under a marker"),
        ("plain", "removed", "nobody sees it"),
    ] {
        let inline = content.as_bytes();
        append(RecordKind::Op, &[&op(put(bucket, key, inline, Source::Inline), inline)]);
    }
    // Bytes in records of their own, over several segments, in a later reign.
    append(RecordKind::EpochStart, &[&begins]);
    let large: Vec<u8> = (0..60_000u32).map(|n| ((n * n) >> 3) as u8).collect();
    let mut extents = Vec::new();
    for chunk in large.chunks(9_000) {
        let (lsn, _) = append(RecordKind::Data, &[chunk]);
        extents.push(Extent { lsn, offset: 0, len: chunk.len() as u32 });
    }
    let stored = Source::Extents { epoch: Epoch(6), extents: extents.clone() };
    append(RecordKind::Op, &[&op(put("plain", "large", &large, stored), b"")]);
    for (bucket, key) in [("kept", "gone"), ("plain", "removed")] {
        let keys = vec![DeleteKey {
            key: key.into(),
            version: None,
            if_match: None,
            if_modified_s: None,
            if_size: None,
        }];
        let owner = String::new();
        let delete =
            Op::DeleteObjects { bucket: bucket.into(), owner, keys, bypass_governance: false, wall_ms: 6 };
        append(RecordKind::Op, &[&op(delete, b"")]);
    }
    let (bucket, key, upload) = ("plain".to_owned(), "of parts".to_owned(), UploadId([4; 16]));
    let begin = Op::CreateUpload {
        bucket: bucket.clone(),
        key: key.clone(),
        upload,
        traits: Box::default(),
        checksum: None,
        wall_ms: 2,
    };
    append(RecordKind::Op, &[&op(begin, b"")]);
    let part = PutPart {
        bucket: bucket.clone(),
        key: key.clone(),
        upload,
        number: 1,
        size: 4,
        etag: Etag { md5: Md5::digest(b"part").into(), parts: 0 },
        checksums: vec![],
        source: Source::Inline,
        wall_ms: 3,
    };
    append(RecordKind::Op, &[&op(Op::PutPart(Box::new(part)), b"part")]);
    let complete = CompleteUpload {
        bucket,
        key,
        upload,
        parts: vec![PartRef { number: 1, etag: hex::encode(Md5::digest(b"part")) }],
        checksum: None,
        size: None,
        precondition: Precondition::default(),
        wall_ms: 4,
    };
    append(RecordKind::Op, &[&op(Op::CompleteUpload(Box::new(complete)), b"")]);
    let user = User {
        name: "alice".into(),
        description: String::new(),
        display_name: "Alice".into(),
        email: None,
        tenant: None,
        creates_buckets: true,
        enabled: true,
        bucket_access: vec![],
        keys: vec![AccessKey { id: "an-id".into(), secret: "no secret of anybody".into() }],
        created_ms: 7,
    };
    append(RecordKind::Op, &[&op(Op::PutUser { user: Box::new(user), exists: false }, b"")]);
    let file = PutFile {
        set: "etc".into(),
        path: "/etc/example".into(),
        traits: FileTraits { kind: FileKind::File, mode: 0o640, ..FileTraits::gone() },
        size: 4,
        sha256: [8; 32],
        encryption: None,
        source: Source::Inline,
        wall_ms: 8,
    };
    append(RecordKind::Op, &[&op(Op::PutFile(Box::new(file)), b"file")]);
    log.sync().unwrap();
}

/// Everything that the log in `dir` says, for people.
fn said(dir: &Path) -> String {
    let options = OpenOptions { segment_size: SEGMENT, verify_all: true, ..OpenOptions::default() };
    let (log, recovery) = Log::open_with(FileDisk::open(dir).unwrap(), options).unwrap();
    assert!(recovery.torn.is_empty(), "{recovery:?}");
    let (index, reader) = (Index::in_memory(), log.reader());
    let mut machine = Machine::new(index.clone()).unwrap();
    let mut out = format!("log {:x}, end {}, {:?}\n", log.log_id(), log.end(), log.history().starts());
    let mut at = Lsn::ZERO;
    while at < log.end() {
        let record = reader.read(at).unwrap();
        let op = (record.kind == RecordKind::Op).then_some(&record.payload[..]);
        let entry = Entry { lsn: record.lsn, end: record.end, epoch: record.epoch, op };
        machine.apply_entries(std::iter::once(entry)).unwrap();
        writeln!(out, "{at} {:?} of epoch {}", record.kind, record.epoch).unwrap();
        at = record.end;
    }
    let view = index.view();
    let bytes = |object: &ObjectState| {
        let stored = match &object.layout {
            Layout::Parts(upload) => {
                view.parts(*upload).unwrap().iter().map(|(_, part)| part.layout.stored_len()).sum()
            }
            layout => layout.stored_len(),
        };
        let extents = view.cut(object, 0, stored).unwrap().expect("as many as it says");
        let read = |e: &Extent| reader.read_slice(e.lsn, e.offset, e.len).unwrap().to_vec();
        extents.iter().flat_map(read).collect::<Vec<u8>>()
    };
    for table in [b"o", b"v"] {
        for entry in view.scan(table, Some(&[table[0] + 1])) {
            let (key, value) = entry.unwrap();
            let version = match table {
                b"o" => Version::Object(Box::new(postcard::from_bytes(&value).unwrap())),
                _ => postcard::from_bytes(&value).unwrap(),
            };
            let Version::Object(object) = version else {
                writeln!(out, "{}: a delete marker", key.escape_ascii()).unwrap();
                continue;
            };
            let content = bytes(&object);
            assert_eq!(content.len() as u64, object.size);
            let md5 = hex::encode(Md5::digest(&content));
            let (etag, version) = (&object.etag, object.version());
            writeln!(out, "{}: {version}, {} bytes, etag {etag}, md5 {md5}", key.escape_ascii(), object.size)
                .unwrap();
        }
    }
    for entry in view.scan(b"f", Some(b"g")) {
        writeln!(out, "{}: a file of the hosts", entry.unwrap().0.escape_ascii()).unwrap();
    }
    let alice = view.user("alice").unwrap().unwrap();
    writeln!(out, "user {} with key {}", alice.display_name, alice.keys[0].id).unwrap();
    out
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let there = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&there).unwrap();
            copy(&entry.path(), &there);
        } else {
            fs::copy(entry.path(), &there).unwrap();
        }
    }
}

#[test]
fn the_log_of_each_release_is_read_as_it_was_written() {
    let newest = fixtures().join(NEWEST);
    if std::env::var_os("HOLDFAST_BLESS").is_some() && !newest.exists() {
        fs::create_dir_all(newest.join("log")).unwrap();
        write(&newest.join("log"));
        fs::write(newest.join("said.txt"), said(&newest.join("log"))).unwrap();
    }
    let mut releases = 0;
    for release in fs::read_dir(fixtures()).unwrap() {
        let release = release.unwrap().path();
        // Opening a log may write to it.
        let dir = tempfile::tempdir().unwrap();
        copy(&release.join("log"), dir.path());
        let expected = fs::read_to_string(release.join("said.txt")).unwrap();
        assert_eq!(said(dir.path()), expected, "{}", release.display());
        releases += 1;
    }
    assert!(releases > 0, "no fixture, so nothing is proved");
}

#[test]
fn what_this_release_writes_is_what_its_fixture_holds() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path());
    let fixture = fixtures().join(NEWEST).join("log");
    let mut segments = 0;
    for entry in fs::read_dir(&fixture).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        if name.to_string_lossy().ends_with(".log") {
            segments += 1;
            let same = fs::read(entry.path()).unwrap() == fs::read(dir.path().join(&name)).unwrap();
            assert!(
                same,
                "{name:?} is written otherwise than {NEWEST} has it: a new format needs a new version"
            );
        }
    }
    assert!(segments > 1, "several segments");
}
