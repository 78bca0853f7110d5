//! The index is a function of the log, and only of the log.

use bytes::Bytes;
use holdfast_heartbeat::types::{Epoch, Lsn};
use holdfast_store::apply::{Outcome, PART_MIN, Refusal};
use holdfast_store::index::{Index, Lookup};
use holdfast_store::machine::{Entry, Machine};
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

fn put(bucket: &str, key: &str, source: Source, size: u64, precondition: Precondition) -> Op {
    Op::PutObject {
        bucket: bucket.into(),
        key: key.into(),
        meta: Meta::default(),
        size,
        etag: Etag { md5: [size as u8; 16], parts: 0 },
        checksums: vec![],
        source,
        precondition,
        wall_ms: 5,
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
            (Source::Object { bucket, key, id: Lsn(id), start: 0, len }, len, 0)
        }),
        Just((Source::Inline, PART_MIN, 0)),
    ]
}

fn op() -> impl Strategy<Value = (Op, usize)> {
    prop_oneof![
        2 => bucket_op().prop_map(|bucket| (Op::CreateBucket { bucket, wall_ms: 1 }, 0)),
        1 => bucket_op().prop_map(|bucket| (Op::DeleteBucket { bucket }, 0)),
        6 => (bucket_op(), key_op(), source(), condition())
            .prop_map(|(b, k, (s, size, inline), c)| (put(&b, &k, s, size, c), inline)),
        2 => (bucket_op(), proptest::collection::vec(key_op(), 0..3)).prop_map(|(bucket, keys)| {
            let keys = keys.into_iter().map(|key| DeleteKey { key, if_match: None }).collect();
            (Op::DeleteObjects { bucket, keys }, 0)
        }),
        3 => (bucket_op(), key_op(), upload_op()).prop_map(|(bucket, key, upload)| {
            (Op::CreateUpload { bucket, key, upload, meta: Meta::default(), wall_ms: 2 }, 0)
        }),
        4 => (bucket_op(), key_op(), upload_op(), 0u16..4, source()).prop_map(|(bucket, key, upload, number, s)| {
            let (source, size, inline) = s;
            let etag = Etag { md5: [3; 16], parts: 0 };
            (Op::PutPart { bucket, key, upload, number, size, etag, checksums: vec![], source, wall_ms: 3 }, inline)
        }),
        2 => (bucket_op(), key_op(), upload_op(), 1u16..3).prop_map(|(bucket, key, upload, n)| {
            let parts = (1..=n).map(|number| PartRef { number, etag: "03".repeat(16) }).collect();
            let precondition = Precondition::default();
            (Op::CompleteUpload { bucket, key, upload, parts, precondition, wall_ms: 4 }, 0)
        }),
        1 => (bucket_op(), key_op(), upload_op())
            .prop_map(|(bucket, key, upload)| (Op::AbortUpload { bucket, key, upload }, 0)),
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
    log.push(2, &Op::CreateBucket { bucket: "b1".into(), wall_ms: 1 }, b"");
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
    let (bucket, key) = ("b1".to_owned(), "a".to_owned());
    let complete = Op::CompleteUpload {
        bucket: bucket.clone(),
        key: key.clone(),
        upload,
        parts: vec![PartRef { number: 1, etag: "03".repeat(16) }],
        precondition: Precondition::default(),
        wall_ms: 4,
    };
    log.push(1, &Op::CreateBucket { bucket: bucket.clone(), wall_ms: 1 }, b"");
    log.push(
        1,
        &Op::CreateUpload {
            bucket: bucket.clone(),
            key: key.clone(),
            upload,
            meta: Meta::default(),
            wall_ms: 1,
        },
        b"",
    );
    log.push(
        1,
        &Op::PutPart {
            bucket,
            key,
            upload,
            number: 1,
            size: 2,
            etag: Etag { md5: [3; 16], parts: 0 },
            checksums: vec![],
            source: Source::Inline,
            wall_ms: 3,
        },
        b"xy",
    );
    log.push(1, &complete, b"");
    log.push(1, &complete, b"");
    let (_, mut machine) = machine();
    let outcomes = log.replay(&mut machine, 2);
    assert!(matches!(outcomes[3], Outcome::Stored { .. }), "{:?}", outcomes[3]);
    assert_eq!(outcomes[3], outcomes[4]);
}

#[test]
fn many_extents_are_found_again_wherever_the_read_begins() {
    let mut log = Log::default();
    log.push(1, &Op::CreateBucket { bucket: "b1".into(), wall_ms: 1 }, b"");
    let count = 9000;
    let extents = (0..count).map(|n| Extent { lsn: Lsn(n * 100), offset: 1, len: 10 }).collect();
    let source = Source::Extents { epoch: Epoch(1), extents };
    log.push(1, &put("b1", "a", source, count * 10, Precondition::default()), b"");
    let (index, mut machine) = machine();
    log.replay(&mut machine, 1);
    let view = index.view();
    let object = view.object("b1", "a").unwrap().unwrap();
    for start in [0, 5, 10, 40_955, 40_960, 81_919, 89_999] {
        let cut = view.cut(&object, start, 1).unwrap();
        let expected = Extent { lsn: Lsn(start / 10 * 100), offset: 1 + (start % 10) as u32, len: 1 };
        assert_eq!(cut, vec![expected], "byte {start}");
    }
    assert_eq!(view.cut(&object, 0, count * 10).unwrap().len() as u64, count);
    assert!(view.cut(&object, 1, count * 10).is_err());

    log.push(
        1,
        &Op::DeleteObjects { bucket: "b1".into(), keys: vec![DeleteKey { key: "a".into(), if_match: None }] },
        b"",
    );
    log.push(1, &Op::DeleteBucket { bucket: "b1".into() }, b"");
    assert_eq!(log.replay(&mut machine, 9)[1], Outcome::BucketDeleted);

    let left: usize = index.view().scan(b"x", Some(b"y")).count();
    assert_eq!(left, 0, "the extent lists are gone with their object");
}
