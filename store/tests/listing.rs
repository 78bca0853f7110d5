//! Listings against a model that is too slow to be wrong.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use holdfast_heartbeat::types::{Epoch, Lsn};
use holdfast_store::index::Index;
use holdfast_store::listing::{Item, Query, list};
use holdfast_store::machine::{Entry, Machine};
use holdfast_store::object::{Etag, Traits};
use holdfast_store::op::{Op, Precondition, PutObject, Source};
use proptest::prelude::*;

fn fill(index: &Index, keys: &BTreeSet<String>) {
    let mut machine = Machine::new(index.clone()).unwrap();
    // A neighbour on each side must never show.
    let mut ops: Vec<Op> = ["aa", "bb", "bbb", "cc"]
        .iter()
        .map(|bucket| Op::CreateBucket {
            bucket: (*bucket).into(),
            owner: String::new(),
            tenant: None,
            settings: vec![],
            wall_ms: 0,
        })
        .collect();
    let put = |bucket: &str, key: &str| {
        Op::PutObject(Box::new(PutObject {
            bucket: bucket.into(),
            key: key.into(),
            traits: Traits::default(),
            size: 0,
            etag: Etag { md5: [0; 16], parts: 0 },
            checksums: vec![],
            source: Source::Inline,
            precondition: Precondition::default(),
            wall_ms: 0,
        }))
    };
    for bucket in ["aa", "bbb", "cc"] {
        ops.push(put(bucket, "a/intruder"));
    }
    ops.extend(keys.iter().map(|key| put("bb", key)));
    let mut end = 0;
    for op in ops {
        let payload = op.encode(Bytes::new()).unwrap().concat();
        let lsn = end;
        end += payload.len() as u64;
        let entry = Entry { lsn: Lsn(lsn), end: Lsn(end), epoch: Epoch(1), op: Some(&payload) };
        machine.apply_entries(std::iter::once(entry)).unwrap();
    }
}

/// All names of the whole listing with whether each is a group, by going through every key.
fn model(
    keys: &BTreeSet<String>,
    prefix: &str,
    delimiter: Option<&str>,
    after: Option<&str>,
) -> Vec<(String, bool)> {
    let mut names = BTreeMap::new();
    for key in keys.iter().filter(|key| key.starts_with(prefix)) {
        let group = delimiter.and_then(|d| {
            key[prefix.len()..].find(d).map(|at| key[..prefix.len() + at + d.len()].to_owned())
        });
        match group {
            Some(group) => names.insert(group, true),
            None => names.insert(key.clone(), false),
        };
    }
    names.into_iter().filter(|(name, _)| after.is_none_or(|after| name.as_str() > after)).collect()
}

fn name() -> impl Strategy<Value = String> {
    "[ab/\0é\u{10ffff}]{1,6}"
}

fn check(
    index: &Index,
    keys: &BTreeSet<String>,
    prefix: &str,
    delimiter: Option<&str>,
    after: Option<&str>,
    limit: usize,
) -> Result<(), TestCaseError> {
    let expected = model(keys, prefix, delimiter, after);
    let mut got = Vec::new();
    let mut after = after.map(str::to_owned);
    loop {
        let query = Query { bucket: "bb", prefix, delimiter, after: after.as_deref(), limit };
        let page = list(&index.view(), &query).unwrap();
        prop_assert!(page.items.len() <= limit);
        got.extend(page.items.iter().map(|i| (i.name().to_owned(), matches!(i, Item::CommonPrefix(_)))));
        if !page.truncated {
            break;
        }
        prop_assert_eq!(page.items.len(), limit);
        after = page.items.last().map(|i| i.name().to_owned());
    }
    prop_assert_eq!(got, expected);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_page_together_is_the_model(
        keys in proptest::collection::btree_set(name(), 0..40),
        prefix in prop_oneof![Just(String::new()), "[ab/]{1,2}"],
        delimiter in prop_oneof![Just(None), Just(Some("/".to_owned())), "[ab/]{1,2}".prop_map(Some)],
        after in proptest::option::of(name()),
        limit in 1usize..7,
    ) {
        let index = Index::in_memory();
        fill(&index, &keys);
        check(&index, &keys, &prefix, delimiter.as_deref(), after.as_deref(), limit)?;
    }
}

#[test]
fn the_index_on_disk_lists_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (index, _) = Index::open(&dir.path().join("index")).unwrap();
    let keys: BTreeSet<String> = (0..500).map(|n| format!("{}/{}", n % 7, n)).collect();
    fill(&index, &keys);
    for limit in [1, 3, 1000] {
        check(&index, &keys, "", Some("/"), None, limit).unwrap();
        check(&index, &keys, "3/", None, Some("3/2"), limit).unwrap();
    }
}
