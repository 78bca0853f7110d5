//! The index is a function of the log, and only of the log.

use bytes::Bytes;
use holdfast_heartbeat::types::{Epoch, Lsn};
use holdfast_store::access::{AccessKey, User};
use holdfast_store::apply::{Outcome, PART_MIN, Refusal};
use holdfast_store::bucket::{Document, Quota, Setting};
use holdfast_store::index::{Index, Lookup, Tables};
use holdfast_store::machine::{Entry, Machine};
use holdfast_store::object::{Etag, Lock, Retention, RetentionMode, Traits, UploadId, VersionId};
use holdfast_store::op::*;
use proptest::prelude::*;
use proptest::strategy::ValueTree;

/// A log of operations under construction.
#[derive(Default)]
struct Log {
    records: Vec<(Lsn, Lsn, Epoch, Vec<u8>)>,
    end: u64,
}

impl Log {
    fn push(&mut self, epoch: u64, op: &Op, inline: &[u8]) {
        let payload = op.encode(Bytes::copy_from_slice(inline)).unwrap().concat();
        let lsn = Lsn(self.end);
        self.end += 48 + payload.len() as u64;
        self.records.push((lsn, Lsn(self.end), Epoch(epoch), payload));
    }

    /// Applies everything the machine lacks, in batches of `batch` records.
    fn replay(&self, machine: &mut Machine, batch: usize) -> Vec<Outcome> {
        let missing: Vec<_> = self.records.iter().filter(|r| r.0 >= machine.applied_lsn()).collect();
        let mut outcomes = Vec::new();
        for records in missing.chunks(batch) {
            let entries = records.iter().map(|r| Entry { lsn: r.0, end: r.1, epoch: r.2, op: Some(&r.3) });
            outcomes.extend(machine.apply_entries(entries).unwrap());
        }
        outcomes
    }
}

fn machine() -> (Index, Machine) {
    let index = Index::in_memory();
    let machine = Machine::new(index.clone()).unwrap();
    (index, machine)
}

fn create(bucket: &str, settings: Vec<Setting>) -> Op {
    Op::CreateBucket { bucket: bucket.into(), owner: String::new(), tenant: None, settings, wall_ms: 1 }
}

fn put(bucket: &str, key: &str, source: Source, size: u64, precondition: Precondition) -> Op {
    Op::PutObject(Box::new(PutObject {
        bucket: bucket.into(),
        key: key.into(),
        traits: Traits::default(),
        size,
        etag: Etag { md5: [size as u8; 16], parts: 0 },
        checksums: vec![],
        source,
        precondition,
        wall_ms: 5,
    }))
}

fn delete(bucket: &str, keys: Vec<DeleteKey>) -> Op {
    Op::DeleteObjects {
        bucket: bucket.into(),
        owner: String::new(),
        keys,
        bypass_governance: false,
        wall_ms: 6,
    }
}

fn put_part(bucket: &str, key: &str, upload: UploadId, number: u16, source: Source, size: u64) -> Op {
    Op::PutPart(Box::new(PutPart {
        bucket: bucket.into(),
        key: key.into(),
        upload,
        number,
        size,
        etag: Etag { md5: [3; 16], parts: 0 },
        checksums: vec![],
        source,
        wall_ms: 3,
    }))
}

fn complete(bucket: &str, key: &str, upload: UploadId, parts: std::ops::RangeInclusive<u16>) -> Op {
    let part = |number| PartRef { number, etag: "03".repeat(16) };
    Op::CompleteUpload(Box::new(CompleteUpload {
        bucket: bucket.into(),
        key: key.into(),
        upload,
        parts: parts.map(part).collect(),
        checksum: None,
        size: None,
        precondition: Precondition::default(),
        wall_ms: 4,
    }))
}

fn create_upload(bucket: &str, key: &str, upload: UploadId) -> Op {
    Op::CreateUpload {
        bucket: bucket.into(),
        key: key.into(),
        upload,
        traits: Box::default(),
        checksum: None,
        wall_ms: 2,
    }
}

fn bucket_op() -> impl Strategy<Value = String> {
    prop_oneof![Just("b1".to_owned()), Just("b2".to_owned())]
}

fn key_op() -> impl Strategy<Value = String> {
    prop_oneof![Just("a"), Just("a/b"), Just("a\0b"), Just("ä"), Just("z")].prop_map(str::to_owned)
}

fn upload_op() -> impl Strategy<Value = UploadId> {
    (0u8..3).prop_map(|n| UploadId([n; 16]))
}

fn condition() -> impl Strategy<Value = Precondition> {
    let one = || prop_oneof![Just(None), Just(Some(Match::Any)), Just(Some(Match::Etag("03".repeat(16))))];
    (one(), one()).prop_map(|(if_match, if_none_match)| Precondition { if_match, if_none_match })
}

fn source() -> impl Strategy<Value = (Source, u64, usize)> {
    let extent = |n: u64| Extent { lsn: Lsn(n * 1000), offset: 3, len: 7 };
    prop_oneof![
        (0usize..9).prop_map(|n| (Source::Inline, n as u64, n)),
        (1u64..9, 0u64..3).prop_map(move |(n, epoch)| {
            let extents = (0..n).map(extent).collect();
            (Source::Extents { epoch: Epoch(epoch), extents }, n * 7, 0)
        }),
        (bucket_op(), key_op(), 0u64..2000, 0u64..9).prop_map(|(bucket, key, id, len)| {
            (Source::Object { bucket, key, version: None, id: Lsn(id), start: 0, len }, len, 0)
        }),
        Just((Source::Inline, PART_MIN, 0)),
    ]
}

fn version_op() -> impl Strategy<Value = Option<VersionId>> {
    prop_oneof![
        3 => Just(None),
        1 => Just(Some(VersionId::Null)),
        2 => (0u64..4000).prop_map(|lsn| Some(VersionId::At(Lsn(lsn)))),
    ]
}

fn setting() -> impl Strategy<Value = Setting> {
    prop_oneof![
        any::<bool>().prop_map(|enabled| Setting::Versioning { enabled }),
        Just(Setting::Document(Document::Notification, Some("rules".into()))),
        Just(Setting::Document(Document::Notification, None)),
        (0u64..60).prop_map(|n| Setting::Quota(Some(Quota { bytes: Some(n), objects: Some(n / 4) }))),
        Just(Setting::Quota(None)),
        Just(Setting::ObjectLock(None)),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    let retention = |until_ms| Retention { mode: RetentionMode::Governance, until_ms };
    prop_oneof![
        Just(Change::Tags(vec![("a".into(), "b".into())])),
        Just(Change::Acl(None)),
        any::<bool>().prop_map(Change::LegalHold),
        (0u64..9, any::<bool>()).prop_map(move |(until_ms, bypass_governance)| {
            Change::Retention { retention: Some(retention(until_ms)), bypass_governance }
        }),
    ]
}

fn user() -> impl Strategy<Value = User> {
    (0u8..3, 0u8..3).prop_map(|(name, key)| User {
        name: format!("user-{name}"),
        description: String::new(),
        display_name: String::new(),
        email: None,
        tenant: None,
        creates_buckets: false,
        enabled: true,
        bucket_access: vec![],
        keys: vec![AccessKey { id: format!("key-{key}"), secret: "secret".into() }],
        created_ms: 0,
    })
}

fn op() -> impl Strategy<Value = (Op, usize)> {
    let key_and_version = || (key_op(), version_op());
    prop_oneof![
        2 => bucket_op().prop_map(|bucket| (create(&bucket, vec![]), 0)),
        1 => bucket_op().prop_map(|bucket| (Op::DeleteBucket { bucket }, 0)),
        2 => (bucket_op(), setting()).prop_map(|(bucket, setting)| (Op::SetBucket { bucket, setting }, 0)),
        6 => (bucket_op(), key_op(), source(), condition())
            .prop_map(|(b, k, (s, size, inline), c)| (put(&b, &k, s, size, c), inline)),
        4 => (bucket_op(), proptest::collection::vec(key_and_version(), 0..3)).prop_map(|(bucket, keys)| {
            let one = |(key, version)| DeleteKey { key, version, ..DeleteKey::default() };
            (delete(&bucket, keys.into_iter().map(one).collect()), 0)
        }),
        2 => (bucket_op(), key_op(), version_op(), change()).prop_map(|(bucket, key, version, change)| {
            (Op::ChangeObject { bucket, key, version, change, wall_ms: 4 }, 0)
        }),
        3 => (bucket_op(), key_op(), upload_op()).prop_map(|(b, k, upload)| (create_upload(&b, &k, upload), 0)),
        4 => (bucket_op(), key_op(), upload_op(), 0u16..4, source())
            .prop_map(|(b, k, upload, n, (s, size, inline))| (put_part(&b, &k, upload, n, s, size), inline)),
        2 => (bucket_op(), key_op(), upload_op(), 1u16..3)
            .prop_map(|(b, k, upload, n)| (complete(&b, &k, upload, 1..=n), 0)),
        1 => (bucket_op(), key_op(), upload_op())
            .prop_map(|(bucket, key, upload)| (Op::AbortUpload { bucket, key, upload }, 0)),
        1 => (user(), any::<bool>()).prop_map(|(user, exists)| (Op::PutUser { user: Box::new(user), exists }, 0)),
        1 => user().prop_map(|user| (Op::DeleteUser { name: user.name }, 0)),
        1 => (0u64..4000).prop_map(|lsn| (Op::EventsDelivered { up_to: Lsn(lsn) }, 0)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// One member applies record by record, another in batches with a restart in between.
    #[test]
    fn the_same_log_gives_the_same_index(
        ops in proptest::collection::vec((op(), 1u64..3), 1..60),
        batch in 1usize..20,
        stop in 0usize..60,
    ) {
        let mut log = Log::default();
        for ((op, inline), epoch) in &ops {
            log.push(*epoch, op, &vec![7; *inline]);
        }
        let (one, mut machine_one) = machine();
        let outcomes = log.replay(&mut machine_one, 1);

        let (two, mut machine_two) = machine();
        let first = Log { records: log.records[..stop.min(log.records.len())].to_vec(), end: 0 };
        let mut again = first.replay(&mut machine_two, batch);
        let mut machine_two = Machine::new(two.clone()).unwrap();
        again.extend(log.replay(&mut machine_two, batch));

        prop_assert_eq!(outcomes, again);
        prop_assert_eq!(one.digest().unwrap(), two.digest().unwrap());
        prop_assert_eq!(two.view().applied().unwrap(), Lsn(log.end));
    }
}

#[test]
fn the_index_on_disk_is_the_index_in_memory() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let dir = tempfile::tempdir().unwrap();
    for case in 0..5 {
        let ops = proptest::collection::vec(op(), 200).new_tree(&mut runner).unwrap().current();
        let mut log = Log::default();
        for (op, inline) in &ops {
            log.push(1, op, &vec![7; *inline]);
        }
        let (memory, mut machine_one) = machine();
        let outcomes = log.replay(&mut machine_one, 7);
        let (disk, _) = Index::open(&dir.path().join(case.to_string())).unwrap();
        let mut machine_two = Machine::new(disk.clone()).unwrap();
        assert_eq!(log.replay(&mut machine_two, 3), outcomes);
        assert_eq!(disk.digest().unwrap(), memory.digest().unwrap());
        machine_two.forget_all().unwrap();
        assert_eq!(log.replay(&mut machine_two, 50), outcomes, "after a rebuild");
        assert_eq!(disk.digest().unwrap(), memory.digest().unwrap(), "after a rebuild");
    }
}

#[test]
fn bytes_received_under_an_earlier_epoch_are_refused() {
    let mut log = Log::default();
    log.push(2, &create("b1", vec![]), b"");
    let extents = vec![Extent { lsn: Lsn(4), offset: 0, len: 7 }];
    let stale = Source::Extents { epoch: Epoch(1), extents };
    log.push(2, &put("b1", "a", stale, 7, Precondition::default()), b"");
    let (index, mut machine) = machine();
    let outcomes = log.replay(&mut machine, 10);
    assert_eq!(outcomes[1], Outcome::Refused(Refusal::StaleEpoch));
    assert_eq!(index.view().object("b1", "a").unwrap(), None);
}

#[test]
fn a_repeated_completion_succeeds_with_the_same_answer() {
    let mut log = Log::default();
    let upload = UploadId([1; 16]);
    log.push(1, &create("b1", vec![]), b"");
    log.push(1, &create_upload("b1", "a", upload), b"");
    log.push(1, &put_part("b1", "a", upload, 1, Source::Inline, 2), b"xy");
    log.push(1, &complete("b1", "a", upload, 1..=1), b"");
    log.push(1, &complete("b1", "a", upload, 1..=1), b"");
    let (_, mut machine) = machine();
    let outcomes = log.replay(&mut machine, 2);
    assert!(matches!(outcomes[3], Outcome::Stored(_)), "{:?}", outcomes[3]);
    assert_eq!(outcomes[3], outcomes[4]);
    // Asking for something else is not asking again.
    log.push(1, &complete("b1", "a", upload, 1..=2), b"");
    assert_eq!(log.replay(&mut machine, 1), [Outcome::Refused(Refusal::NoSuchUpload)]);
}

#[test]
fn parts_that_are_not_listed_are_gone_and_the_others_are_read_in_order() {
    let mut log = Log::default();
    let upload = UploadId([1; 16]);
    log.push(1, &create("b1", vec![]), b"");
    log.push(1, &create_upload("b1", "a", upload), b"");
    let extents =
        |n: u64| (0..6).map(|i| Extent { lsn: Lsn(n * 100 + i), offset: 0, len: 1 << 20 }).collect();
    for number in [1u16, 2, 3] {
        let source = Source::Extents { epoch: Epoch(1), extents: extents(number.into()) };
        log.push(1, &put_part("b1", "a", upload, number, source, 6 << 20), b"");
    }
    log.push(1, &complete("b1", "a", upload, 1..=2), b"");
    let (index, mut machine) = machine();
    assert!(matches!(log.replay(&mut machine, 3)[5], Outcome::Stored(_)));
    let view = index.view();
    let object = view.object("b1", "a").unwrap().unwrap();
    assert_eq!(object.size, 12 << 20);
    let cut = view.cut(&object, (6 << 20) - 1, 2).unwrap().unwrap();
    let ends = [
        Extent { lsn: Lsn(105), offset: (1 << 20) - 1, len: 1 },
        Extent { lsn: Lsn(200), offset: 0, len: 1 },
    ];
    assert_eq!(cut, ends);
    assert_eq!(view.parts(upload).unwrap().len(), 2);
    log.push(1, &delete("b1", vec![DeleteKey { key: "a".into(), ..DeleteKey::default() }]), b"");
    log.replay(&mut machine, 1);
    for table in ["p", "u", "x"] {
        let end = [table.as_bytes()[0] + 1];
        assert_eq!(index.view().scan(table.as_bytes(), Some(&end)).count(), 0, "table {table} is empty");
    }
}

#[test]
fn many_extents_are_found_again_wherever_the_read_begins() {
    let mut log = Log::default();
    log.push(1, &create("b1", vec![]), b"");
    let count = 9000;
    let extents = (0..count).map(|n| Extent { lsn: Lsn(n * 100), offset: 1, len: 10 }).collect();
    let source = Source::Extents { epoch: Epoch(1), extents };
    log.push(1, &put("b1", "a", source, count * 10, Precondition::default()), b"");
    let (index, mut machine) = machine();
    log.replay(&mut machine, 1);
    let view = index.view();
    let object = view.object("b1", "a").unwrap().unwrap();
    for start in [0, 5, 10, 40_955, 40_960, 81_919, 89_999] {
        let cut = view.cut(&object, start, 1).unwrap().unwrap();
        let expected = Extent { lsn: Lsn(start / 10 * 100), offset: 1 + (start % 10) as u32, len: 1 };
        assert_eq!(cut, vec![expected], "byte {start}");
    }
    assert_eq!(view.cut(&object, 0, count * 10).unwrap().unwrap().len() as u64, count);
    assert_eq!(view.cut(&object, 1, count * 10).unwrap(), None);

    log.push(1, &delete("b1", vec![DeleteKey { key: "a".into(), ..DeleteKey::default() }]), b"");
    log.push(1, &Op::DeleteBucket { bucket: "b1".into() }, b"");
    assert_eq!(log.replay(&mut machine, 9)[1], Outcome::BucketDeleted);

    let left: usize = index.view().scan(b"x", Some(b"y")).count();
    assert_eq!(left, 0, "the extent lists are gone with their object");
}

#[test]
fn a_refused_object_leaves_nothing_behind() {
    let mut log = Log::default();
    let quota = Setting::Quota(Some(Quota { bytes: Some(50), objects: None }));
    log.push(1, &create("b1", vec![quota]), b"");
    let (index, mut machine) = machine();
    log.replay(&mut machine, 1);
    let before = index.digest().unwrap();
    let extents = (0..9).map(|n| Extent { lsn: Lsn(n), offset: 1, len: 10 }).collect();
    let source = Source::Extents { epoch: Epoch(1), extents };
    log.push(1, &put("b1", "a", source, 90, Precondition::default()), b"");
    assert_eq!(log.replay(&mut machine, 1), [Outcome::Refused(Refusal::QuotaExceeded)]);
    let mut without_position = Log::default();
    without_position.push(1, &create("other", vec![]), b"");
    assert_ne!(index.digest().unwrap(), before, "the position moved on");
    assert_eq!(index.view().scan(b"x", Some(b"y")).count(), 0);
    assert_eq!(index.view().usage("b1").unwrap(), holdfast_store::bucket::Usage::default());
}

#[test]
fn a_quota_counts_what_goes_and_lets_what_shrinks() {
    let mut log = Log::default();
    let quota = |bytes| Setting::Quota(Some(Quota { bytes: Some(bytes), objects: None }));
    log.push(1, &create("b1", vec![quota(10)]), b"");
    log.push(1, &put("b1", "a", Source::Inline, 8, Precondition::default()), &[1; 8]);
    log.push(1, &put("b1", "a", Source::Inline, 10, Precondition::default()), &[1; 10]);
    log.push(1, &put("b1", "b", Source::Inline, 1, Precondition::default()), &[1; 1]);
    log.push(1, &Op::SetBucket { bucket: "b1".into(), setting: quota(2) }, b"");
    log.push(1, &put("b1", "a", Source::Inline, 5, Precondition::default()), &[1; 5]);
    log.push(1, &put("b1", "a", Source::Inline, 6, Precondition::default()), &[1; 6]);
    let (_, mut machine) = machine();
    let outcomes = log.replay(&mut machine, 3);
    let refused: Vec<usize> =
        (0..outcomes.len()).filter(|at| outcomes[*at] == Outcome::Refused(Refusal::QuotaExceeded)).collect();
    assert_eq!(refused, [3, 6]);
}

#[test]
fn a_locked_version_does_not_go_before_its_time() {
    let mut log = Log::default();
    let settings = vec![Setting::Versioning { enabled: true }, Setting::ObjectLock(None)];
    log.push(1, &create("b1", settings), b"");
    let retention = Some(Retention { mode: RetentionMode::Compliance, until_ms: 7 });
    let Op::PutObject(mut object) = put("b1", "a", Source::Inline, 1, Precondition::default()) else {
        panic!()
    };
    object.traits.lock = Lock { retention, legal_hold: false };
    log.push(1, &Op::PutObject(object), b"x");
    let (index, mut machine) = machine();
    log.replay(&mut machine, 2);
    let version = index.view().object("b1", "a").unwrap().unwrap().version();
    let remove = |wall_ms| Op::DeleteObjects {
        bucket: "b1".into(),
        owner: String::new(),
        keys: vec![DeleteKey { key: "a".into(), version: Some(version), ..DeleteKey::default() }],
        bypass_governance: true,
        wall_ms,
    };
    log.push(1, &remove(6), b"");
    log.push(1, &remove(7), b"");
    let outcomes = log.replay(&mut machine, 1);
    assert_eq!(outcomes[0], Outcome::Deleted(vec![Err(Refusal::Locked)]));
    assert!(matches!(&outcomes[1], Outcome::Deleted(done) if done[0].is_ok()));
    log.push(1, &Op::SetBucket { bucket: "b1".into(), setting: Setting::Versioning { enabled: false } }, b"");
    assert_eq!(log.replay(&mut machine, 1), [Outcome::Refused(Refusal::LockNeedsVersions)]);
}

#[test]
fn an_access_key_is_one_users_only() {
    let user = |name: &str, key: &str| User {
        name: name.into(),
        description: String::new(),
        display_name: String::new(),
        email: None,
        tenant: None,
        creates_buckets: false,
        enabled: true,
        bucket_access: vec![],
        keys: vec![AccessKey { id: key.into(), secret: "secret".into() }],
        created_ms: 0,
    };
    let put = |name, key, exists| Op::PutUser { user: Box::new(user(name, key)), exists };
    let mut log = Log::default();
    log.push(1, &put("ann", "k1", false), b"");
    log.push(1, &put("bob", "k1", false), b"");
    log.push(1, &put("ann", "k2", true), b"");
    log.push(1, &put("bob", "k1", false), b"");
    let (index, mut machine) = machine();
    let outcomes = log.replay(&mut machine, 9);
    assert_eq!(outcomes[1], Outcome::Refused(Refusal::AccessKeyTaken));
    assert_eq!(outcomes[3], Outcome::Changed);
    assert_eq!(index.view().owner_of_access_key("k1").unwrap().as_deref(), Some("bob"));
    assert_eq!(index.view().owner_of_access_key("k2").unwrap().as_deref(), Some("ann"));
}
