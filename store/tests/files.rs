//! Replicated files in the store: what is put is read back, and nothing of S3 leads there.

mod support;

use std::sync::Arc;

use bytes::Bytes;
use holdfast_heartbeat::types::{Epoch, Lsn};
use holdfast_store::admin::Admin;
use holdfast_store::apply::Refusal;
use holdfast_store::backend::WriteError;
use holdfast_store::files::{FileError, FileKind, FileTraits, Files, Owner};
use holdfast_store::index::{Index, Lookup, Tables};
use holdfast_store::machine::{Entry, Machine};
use holdfast_store::s3::Receiving;
use holdfast_store::seal::{Key, StoreKeys};
use support::sign::Call;
use support::{ACCESS_KEY, Endpoint, Toy};

fn files(toy: &Arc<Toy>, keys: StoreKeys) -> Files {
    let (index, receiving) = (toy.index.clone(), Receiving::default());
    Files { index, log: toy.clone(), backend: toy.clone(), keys, receiving }
}

fn traits(kind: FileKind) -> FileTraits {
    let owner = Owner { id: 0, name: Some("root".into()) };
    FileTraits { kind, mode: 0o640, owner: owner.clone(), group: owner, modified_ns: 7 }
}

fn pattern(len: usize) -> Bytes {
    (0..len).map(|n| (n * 7 % 251) as u8).collect()
}

async fn put(files: &Files, path: &str, content: Bytes) -> Lsn {
    files.put(Epoch(1), "dhcp", path, traits(FileKind::File), content, 5).await.unwrap()
}

#[tokio::test]
async fn a_file_of_any_size_is_read_back_and_its_newest_state_counts() {
    for keys in [StoreKeys::default(), StoreKeys::new(vec![Key::new([9; 32])])] {
        let toy = Toy::new();
        let files = files(&toy, keys.clone());
        assert_eq!(files.changed_at().unwrap(), Lsn::ZERO);
        for len in [0, 1, 200_000, 256 << 10, (3 << 20) + 5] {
            let path = format!("/etc/app/{len}");
            let id = put(&files, &path, pattern(len)).await;
            assert_eq!(files.read("dhcp", &path, id).unwrap(), pattern(len), "{len} bytes");
            assert_eq!(files.changed_at().unwrap(), id);
            let in_the_clear = toy.records().concat().windows(64).any(|w| w == &pattern(64)[..]);
            assert!(len < 64 || in_the_clear == keys.is_empty(), "{len} bytes");
        }
        let live = 1 + 200_000 + (256 << 10) + (3 << 20) + 5;
        assert!(toy.index.view().live_bytes().unwrap() >= live);
        let old = files.file("dhcp", "/etc/app/1").unwrap().unwrap().id;
        let new = put(&files, "/etc/app/1", Bytes::from_static(b"ab")).await;
        assert!(matches!(files.read("dhcp", "/etc/app/1", old), Err(FileError::Changed)));
        assert_eq!(files.read("dhcp", "/etc/app/1", new).unwrap(), "ab");
        let gone = FileTraits::gone();
        files.put(Epoch(1), "dhcp", "/etc/app/1", gone, Bytes::new(), 6).await.unwrap();
        let state = files.file("dhcp", "/etc/app/1").unwrap().unwrap();
        assert_eq!((state.traits.kind, state.size), (FileKind::Gone, 0));
        assert_eq!(files.sets().unwrap(), [("dhcp".to_owned(), 4)]);
        let all: Vec<String> = files.of_set("dhcp").unwrap().into_iter().map(|(path, _)| path).collect();
        files.forget("dhcp", all).await.unwrap();
        assert!(files.of_set("dhcp").unwrap().is_empty() && files.sets().unwrap().is_empty());
        assert_eq!(toy.index.view().live_bytes().unwrap(), 0);
    }
}

#[tokio::test]
async fn a_set_is_not_taken_for_one_whose_name_begins_alike() {
    let toy = Toy::new();
    let files = files(&toy, StoreKeys::default());
    for set in ["dns", "dns-zones", "dn"] {
        files.put(Epoch(1), set, "/x", traits(FileKind::Directory), Bytes::new(), 5).await.unwrap();
    }
    assert_eq!(files.of_set("dns").unwrap().len(), 1);
    assert!(files.of_set("d").unwrap().is_empty());
    let crooked = files.put(Epoch(1), "d\0ns", "/x", traits(FileKind::File), Bytes::new(), 5).await;
    assert!(matches!(crooked, Err(FileError::Refused(Refusal::Malformed))), "{crooked:?}");
}

#[tokio::test]
async fn large_content_of_an_earlier_reign_is_refused_and_failures_are_told() {
    let toy = Toy::new();
    let files = files(&toy, StoreKeys::default());
    toy.begin_epoch(2);
    let late = files.put(Epoch(1), "dhcp", "/x", traits(FileKind::File), pattern(1 << 20), 5).await;
    assert!(matches!(late, Err(FileError::Refused(Refusal::StaleEpoch))), "{late:?}");
    assert!(files.file("dhcp", "/x").unwrap().is_none());
    toy.fail_writes(Some(WriteError::DiskFull));
    let full = files.put(Epoch(2), "dhcp", "/x", traits(FileKind::File), pattern(9), 5).await;
    assert!(matches!(full, Err(FileError::Write(WriteError::DiskFull))), "{full:?}");
}

#[tokio::test]
async fn an_index_that_is_made_anew_from_the_log_has_the_same_files() {
    let toy = Toy::new();
    let files = files(&toy, StoreKeys::default());
    for n in 0..20 {
        put(&files, &format!("/etc/app/{}", n % 7), pattern(n * 100)).await;
    }
    files.forget("dhcp", vec!["/etc/app/3".into()]).await.unwrap();
    let again = Index::in_memory();
    let mut machine = Machine::new(again.clone()).unwrap();
    let mut lsn = 0;
    for record in toy.records() {
        let end = lsn + 48 + record.len() as u64;
        let entry = Entry { lsn: Lsn(lsn), end: Lsn(end), epoch: Epoch(1), op: Some(&record) };
        machine.apply_entries(std::iter::once(entry)).unwrap();
        lsn = end;
    }
    let everything = |index: &Index| -> Vec<_> { index.view().scan(b"", None).map(Result::unwrap).collect() };
    assert_eq!(everything(&again), everything(&toy.index));
    assert_eq!(Files { index: again, ..files.clone() }.of_set("dhcp").unwrap().len(), 6);
}

#[tokio::test]
async fn no_request_of_s3_leads_to_them() {
    let s3 = Endpoint::with_bucket().await;
    let files = files(&s3.toy, StoreKeys::default());
    put(&files, "/etc/app/secret", Bytes::from_static(b"a key")).await;
    s3.send(Call::new("PUT", "/box/mine").body("mine")).await;
    let before = s3.toy.index.view().usage("box").unwrap();

    let listed = s3.send(Call::new("GET", "/")).await.text();
    assert_eq!(listed.matches("<Bucket>").count(), 1, "{listed}");
    let admin = Admin::new(s3.toy.index.clone(), s3.toy.clone(), ACCESS_KEY.into());
    assert_eq!(admin.buckets().unwrap().len(), 1);
    assert!(admin.bucket("dhcp").is_err());
    for method in ["GET", "HEAD", "DELETE"] {
        for path in ["/dhcp", "/dhcp/%2Fetc%2Fapp%2Fsecret", "/dhcp//etc/app/secret", "/dhcp/etc/app/secret"]
        {
            let status = s3.send(Call::new(method, path)).await.status;
            assert!((400..500).contains(&status), "{method} {path}: {status}");
        }
    }
    let copy = Call::new("PUT", "/box/stolen").header("x-amz-copy-source", "/dhcp//etc/app/secret");
    assert!((400..500).contains(&s3.send(copy).await.status));
    // A bucket of the set's name is another thing, and so is what is in it.
    assert_eq!(s3.send(Call::new("PUT", "/dhcp")).await.status, 200);
    s3.send(Call::new("PUT", "/dhcp//etc/app/secret").body("other")).await;
    s3.send(Call::new("DELETE", "/dhcp//etc/app/secret")).await;
    assert_eq!(s3.send(Call::new("DELETE", "/dhcp")).await.status, 204);
    assert_eq!(s3.toy.index.view().usage("box").unwrap(), before);
    let id = files.file("dhcp", "/etc/app/secret").unwrap().unwrap().id;
    assert_eq!(files.read("dhcp", "/etc/app/secret", id).unwrap(), "a key");
}
