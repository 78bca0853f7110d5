//! Versions against a model of them that is too simple to be wrong: a list for each key.

use bytes::Bytes;
use holdfast_heartbeat::types::{Epoch, Lsn};
use holdfast_store::bucket::Setting;
use holdfast_store::index::{Index, Lookup, Tables};
use holdfast_store::listing::{Query, VersionItem, VersionQuery, list, list_versions};
use holdfast_store::machine::{Entry, Machine};
use holdfast_store::object::{Etag, Traits, VersionId};
use holdfast_store::op::{DeleteKey, Op, Precondition, PutObject, Source};
use holdfast_store::state::Version;
use proptest::prelude::*;

const KEYS: [&str; 5] = ["a", "a/1", "a/2", "a\0", "b"];

#[derive(Clone, Debug)]
enum Step {
    Versioning(bool),
    Put(usize),
    Delete(usize),
    /// The n-th version of the key, from the newest.
    Remove(usize, usize),
    RemoveNull(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..KEYS.len();
    prop_oneof![
        1 => any::<bool>().prop_map(Step::Versioning),
        6 => key.clone().prop_map(Step::Put),
        3 => key.clone().prop_map(Step::Delete),
        4 => (key.clone(), 0usize..4).prop_map(|(key, n)| Step::Remove(key, n)),
        1 => key.prop_map(Step::RemoveNull),
    ]
}

/// A version in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Modelled {
    id: u64,
    null: bool,
    marker: bool,
}

impl Modelled {
    fn version(self) -> VersionId {
        if self.null { VersionId::Null } else { VersionId::At(Lsn(self.id)) }
    }
}

/// Newest first for each key.
#[derive(Default)]
struct Model {
    versioning: Option<bool>,
    keys: [Vec<Modelled>; KEYS.len()],
}

impl Model {
    fn push(&mut self, key: usize, id: u64, marker: bool) {
        let null = self.versioning != Some(true);
        if null {
            self.keys[key].retain(|version| !version.null);
        }
        if self.versioning.is_some() || !marker {
            self.keys[key].insert(0, Modelled { id, null, marker });
        }
    }
}

struct World {
    index: Index,
    machine: Machine,
    end: u64,
}

impl World {
    /// Applies an operation and says where it stands.
    fn apply(&mut self, op: &Op, inline: &'static [u8]) -> u64 {
        let payload = op.encode(Bytes::from_static(inline)).unwrap().concat();
        let lsn = self.end;
        self.end += 48 + payload.len() as u64;
        let entry = Entry { lsn: Lsn(lsn), end: Lsn(self.end), epoch: Epoch(1), op: Some(&payload) };
        self.machine.apply_entries(std::iter::once(entry)).unwrap();
        lsn
    }
}

fn delete(key: usize, version: Option<VersionId>) -> Op {
    Op::DeleteObjects {
        bucket: "bucket".into(),
        owner: String::new(),
        keys: vec![DeleteKey { key: KEYS[key].into(), version, ..DeleteKey::default() }],
        bypass_governance: false,
        wall_ms: 1,
    }
}

/// What a listing of versions must show.
fn expected(model: &Model) -> Vec<(String, VersionId, bool, bool)> {
    let mut keys: Vec<usize> = (0..KEYS.len()).collect();
    keys.sort_by_key(|key| KEYS[*key]);
    keys.into_iter()
        .flat_map(|key| {
            let versions = model.keys[key].iter().enumerate();
            versions.map(move |(at, v)| (KEYS[key].to_owned(), v.version(), v.marker, at == 0))
        })
        .collect()
}

/// All versions, in pages of that size.
fn listed(index: &Index, page_size: usize) -> Vec<(String, VersionId, bool, bool)> {
    let view = index.view();
    let mut all = Vec::new();
    let mut after: Option<(String, VersionId)> = None;
    loop {
        let query = VersionQuery {
            bucket: "bucket",
            after: after.as_ref().map(|(key, _)| key.as_str()),
            after_version: after.as_ref().map(|(_, version)| *version),
            limit: page_size,
            ..VersionQuery::default()
        };
        let page = list_versions(&view, &query).unwrap();
        for item in page.items {
            let VersionItem::Version { key, version, is_latest } = item else { panic!("a group") };
            after = Some((key.clone(), version.version()));
            all.push((key, version.version(), matches!(version, Version::Marker(_)), is_latest));
        }
        if !page.truncated {
            return all;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn versions_are_as_the_model_has_them(steps in proptest::collection::vec(step(), 1..60), page in 1usize..7) {
        let index = Index::in_memory();
        let mut world = World { machine: Machine::new(index.clone()).unwrap(), index, end: 0 };
        let mut model = Model::default();
        let (owner, tenant, settings) = (String::new(), None, vec![]);
        world.apply(&Op::CreateBucket { bucket: "bucket".into(), owner, tenant, settings, wall_ms: 1 }, b"");
        for step in steps {
            match step {
                Step::Versioning(enabled) => {
                    let setting = Setting::Versioning { enabled };
                    world.apply(&Op::SetBucket { bucket: "bucket".into(), setting }, b"");
                    model.versioning = Some(enabled);
                }
                Step::Put(key) => {
                    let op = Op::PutObject(Box::new(PutObject {
                        bucket: "bucket".into(),
                        key: KEYS[key].into(),
                        traits: Traits::default(),
                        size: 3,
                        etag: Etag { md5: [1; 16], parts: 0 },
                        checksums: vec![],
                        source: Source::Inline,
                        precondition: Precondition::default(),
                        wall_ms: 1,
                    }));
                    let id = world.apply(&op, b"abc");
                    model.push(key, id, false);
                }
                Step::Delete(key) => {
                    let id = world.apply(&delete(key, None), b"");
                    model.push(key, id, true);
                }
                Step::Remove(key, n) => {
                    if let Some(version) = model.keys[key].get(n).copied() {
                        world.apply(&delete(key, Some(version.version())), b"");
                        model.keys[key].remove(n);
                    }
                }
                Step::RemoveNull(key) => {
                    world.apply(&delete(key, Some(VersionId::Null)), b"");
                    model.keys[key].retain(|version| !version.null);
                }
            }
            let view = world.index.view();
            for (at, key) in KEYS.iter().enumerate() {
                let current = view.object("bucket", key).unwrap().map(|object| object.version());
                let newest = model.keys[at].first().filter(|newest| !newest.marker);
                prop_assert_eq!(current, newest.map(|newest| newest.version()), "{:?}", key);
            }
            let objects = model.keys.iter().flatten().filter(|version| !version.marker).count() as u64;
            let usage = view.usage("bucket").unwrap();
            prop_assert_eq!((usage.objects, usage.bytes), (objects, objects * 3));
        }
        prop_assert_eq!(listed(&world.index, page), expected(&model));
        let view = world.index.view();
        let query = Query { bucket: "bucket", limit: 1000, ..Query::default() };
        let names: Vec<String> = list(&view, &query).unwrap().items.iter().map(|i| i.name().to_owned()).collect();
        let mut present: Vec<&str> = (0..KEYS.len())
            .filter(|key| model.keys[*key].first().is_some_and(|newest| !newest.marker))
            .map(|key| KEYS[key])
            .collect();
        present.sort_unstable();
        prop_assert_eq!(names, present);
        // Once every version is removed, nothing is left but the bucket.
        for (key, version, _, _) in listed(&world.index, 100) {
            let at = KEYS.iter().position(|k| *k == key).unwrap();
            world.apply(&delete(at, Some(version)), b"");
        }
        for table in ["o", "v", "n", "x", "p"] {
            let end = [table.as_bytes()[0] + 1];
            prop_assert_eq!(world.index.view().scan(table.as_bytes(), Some(&end)).count(), 0, "table {}", table);
        }
    }

    #[test]
    fn groups_of_versions_are_shown_once(page in 1usize..4) {
        let index = Index::in_memory();
        let mut world = World { machine: Machine::new(index.clone()).unwrap(), index, end: 0 };
        let settings = vec![Setting::Versioning { enabled: true }];
        let (owner, tenant) = (String::new(), None);
        world.apply(&Op::CreateBucket { bucket: "bucket".into(), owner, tenant, settings, wall_ms: 1 }, b"");
        for key in [0, 1, 1, 2, 4] {
            world.apply(&delete(key, None), b"");
        }
        let view = world.index.view();
        let mut names = Vec::new();
        let mut after: Option<(String, Option<VersionId>)> = None;
        loop {
            let query = VersionQuery {
                bucket: "bucket",
                delimiter: Some("/"),
                after: after.as_ref().map(|(key, _)| key.as_str()),
                after_version: after.as_ref().and_then(|(_, version)| *version),
                limit: page,
                ..VersionQuery::default()
            };
            let shown = list_versions(&view, &query).unwrap();
            for item in shown.items {
                let (name, version) = match item {
                    VersionItem::Version { key, version, .. } => (key, Some(version.version())),
                    VersionItem::CommonPrefix(group) => (group, None),
                };
                names.push(name.clone());
                after = Some((name, version));
            }
            if !shown.truncated {
                break;
            }
        }
        prop_assert_eq!(names, ["a", "a/", "b"]);
    }
}
