//! The index: an ordered map from names to metadata and extents, derived from the log.
//!
//! It decides nothing. It holds what [`crate::apply`] made of the log up to its applied LSN, which
//! advances in the same atomic batch as what it describes. It is never synced to disk on the write
//! path: whatever a crash takes is replayed from the log, and an index that cannot be opened is
//! deleted and replayed from the beginning.
//!
//! Invariant: what a reader sees is the state after some whole operation, with exactly the
//! operations below its applied LSN in it. Everything lives in one tree (see [`crate::keys`]), so
//! this also holds for what the disk has after a power failure.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fjall::config::PartitioningPolicy;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable};
use holdfast_heartbeat::types::Lsn;
use parking_lot::RwLock;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::access::User;
use crate::backend::Held;
use crate::bucket::{BucketState, Document, Usage};
use crate::keys;
use crate::object::{UploadId, VersionId};
use crate::op::Extent;
use crate::state::{FileState, Layout, ObjectState, PartState, Shared, UploadState, Version};

/// The version of the layout; another one is rebuilt from the log.
const FORMAT: &[u8] = b"3";

/// The log that the index was made from. Not part of the digest: members learn it at different times.
const LOG_ID: &[u8] = b"mlog";

/// Blocks kept in memory. Small on purpose: the agent shares the host with the page cache, which
/// holds the same blocks.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;

/// Size at which the write buffer goes to disk; about twice this is resident under load.
const WRITE_BUFFER_BYTES: u64 = 8 * 1024 * 1024;

/// The smallest journal that the library accepts before it forces a flush.
const JOURNAL_BYTES: u64 = 64 * 1024 * 1024;

/// A key, and its new value or `None` to remove it.
pub type Change = (Vec<u8>, Option<Vec<u8>>);

/// A key with its value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// Why the index could not answer.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// Another process holds it.
    #[error("the index at {} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// The disk or the library failed; the log is unaffected.
    #[error("the index cannot be read or written: {0} (the log is unaffected)")]
    Storage(String),
    /// A value is not what any release wrote; the index must be rebuilt from the log.
    #[error("the index holds a malformed {what} at {key}: it must be rebuilt from the log")]
    Malformed {
        /// The kind of value.
        what: &'static str,
        /// Its key, escaped.
        key: String,
    },
}

/// A consistent, ordered view of keys and values.
pub trait Tables {
    /// The value of `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError>;

    /// Entries from `from` up to but without `to` (`None`: to the end), in ascending order of keys.
    fn scan<'a>(
        &'a self,
        from: &[u8],
        to: Option<&[u8]>,
    ) -> Box<dyn Iterator<Item = Result<Entry, IndexError>> + 'a>;
}

/// Decodes a value, naming its key when it is malformed.
pub fn decode<T: DeserializeOwned>(what: &'static str, key: &[u8], value: &[u8]) -> Result<T, IndexError> {
    postcard::from_bytes(value)
        .map_err(|_| IndexError::Malformed { what, key: key.escape_ascii().to_string() })
}

fn lookup<T: DeserializeOwned>(
    tables: &(impl Tables + ?Sized),
    what: &'static str,
    key: &[u8],
) -> Result<Option<T>, IndexError> {
    tables.get(key)?.map(|value| decode(what, key, &value)).transpose()
}

/// The typed questions that the store asks of any [`Tables`].
pub trait Lookup: Tables {
    /// The bucket of that name.
    fn bucket(&self, bucket: &str) -> Result<Option<BucketState>, IndexError> {
        lookup(self, "bucket", &keys::bucket(bucket))
    }

    /// One of the bucket's texts.
    fn document(&self, bucket: &str, document: Document) -> Result<Option<String>, IndexError> {
        let key = keys::document(bucket, document);
        let text = self.get(&key)?.map(String::from_utf8).transpose();
        text.map_err(|_| IndexError::Malformed { what: "document", key: key.escape_ascii().to_string() })
    }

    /// How much the bucket holds.
    fn usage(&self, bucket: &str) -> Result<Usage, IndexError> {
        Ok(lookup(self, "usage", &keys::usage(bucket))?.unwrap_or_default())
    }

    /// The user of that name.
    fn user(&self, name: &str) -> Result<Option<User>, IndexError> {
        lookup(self, "user", &keys::user(name))
    }

    /// The name of the user who has that access key.
    fn owner_of_access_key(&self, id: &str) -> Result<Option<String>, IndexError> {
        let key = keys::access_key(id);
        let name = self.get(&key)?.map(String::from_utf8).transpose();
        name.map_err(|_| IndexError::Malformed { what: "access key", key: key.escape_ascii().to_string() })
    }

    /// The current object under that key.
    fn object(&self, bucket: &str, key: &str) -> Result<Option<ObjectState>, IndexError> {
        lookup(self, "object", &keys::object(bucket, key.as_bytes()))
    }

    /// The former version that the operation at `id` made, or the delete marker.
    fn former(&self, bucket: &str, key: &str, id: Lsn) -> Result<Option<Version>, IndexError> {
        lookup(self, "version", &keys::version(bucket, key.as_bytes(), id))
    }

    /// The id of the former version that is called `null`.
    fn null_version(&self, bucket: &str, key: &str) -> Result<Option<Lsn>, IndexError> {
        let key = keys::null_version(bucket, key.as_bytes());
        let Some(value) = self.get(&key)? else { return Ok(None) };
        match <[u8; 8]>::try_from(value.as_slice()) {
            Ok(bytes) => Ok(Some(Lsn(u64::from_be_bytes(bytes)))),
            Err(_) => {
                Err(IndexError::Malformed { what: "null version", key: key.escape_ascii().to_string() })
            }
        }
    }

    /// The former version of that name, or the delete marker.
    fn former_named(
        &self,
        bucket: &str,
        key: &str,
        version: VersionId,
    ) -> Result<Option<Version>, IndexError> {
        let id = match version {
            VersionId::At(id) => Some(id),
            VersionId::Null => self.null_version(bucket, key)?,
        };
        let found = id.map(|id| self.former(bucket, key, id)).transpose()?.flatten();
        Ok(found.filter(|found| found.version() == version))
    }

    /// The newest version of a key that has no current object: a delete marker, if there is any.
    fn newest_former(&self, bucket: &str, key: &str) -> Result<Option<Version>, IndexError> {
        let of_key = keys::versions_of(bucket, key.as_bytes());
        let end = keys::after_prefix(&of_key);
        let newest = self.scan(&of_key, end.as_deref()).next().transpose()?;
        newest.map(|(key, value)| decode("version", &key, &value)).transpose()
    }

    /// The object of that version (`None`: the current one); none where that is a delete marker.
    fn object_version(
        &self,
        bucket: &str,
        key: &str,
        version: Option<VersionId>,
    ) -> Result<Option<ObjectState>, IndexError> {
        let current = self.object(bucket, key)?;
        let Some(version) = version else { return Ok(current) };
        if let Some(current) = current.filter(|current| current.version() == version) {
            return Ok(Some(current));
        }
        Ok(match self.former_named(bucket, key, version)? {
            Some(Version::Object(object)) => Some(*object),
            Some(Version::Marker(_)) | None => None,
        })
    }

    /// The upload, if it is under way for exactly this bucket and key.
    fn upload(&self, bucket: &str, key: &str, id: UploadId) -> Result<Option<UploadState>, IndexError> {
        lookup(self, "upload", &keys::upload(bucket, key, id))
    }

    /// One part of an upload.
    fn part(&self, id: UploadId, number: u16) -> Result<Option<PartState>, IndexError> {
        lookup(self, "part", &keys::part(id, number))
    }

    /// The end of the last applied record.
    fn applied(&self) -> Result<Lsn, IndexError> {
        match self.get(keys::APPLIED)? {
            None => Ok(Lsn::ZERO),
            Some(value) => match <[u8; 8]>::try_from(value.as_slice()) {
                Ok(bytes) => Ok(Lsn(u64::from_be_bytes(bytes))),
                Err(_) => Err(IndexError::Malformed { what: "applied LSN", key: "mapplied".into() }),
            },
        }
    }

    /// A number that stands under one of the keys in [`crate::keys`]; zero where there is none.
    fn number(&self, key: &[u8]) -> Result<u64, IndexError> {
        match self.get(key)?.map(|value| <[u8; 8]>::try_from(value.as_slice())) {
            None => Ok(0),
            Some(Ok(bytes)) => Ok(u64::from_be_bytes(bytes)),
            Some(Err(_)) => {
                Err(IndexError::Malformed { what: "number", key: key.escape_ascii().to_string() })
            }
        }
    }

    /// Bytes of the log that objects and parts have; what several have counts once.
    fn live_bytes(&self) -> Result<u64, IndexError> {
        self.number(keys::LIVE)
    }

    /// Data below here that is nobody's will not become anybody's.
    fn floor(&self) -> Result<Lsn, IndexError> {
        self.number(keys::FLOOR).map(Lsn)
    }

    /// What the log says of a file of the hosts.
    fn file(&self, set: &str, path: &str) -> Result<Option<FileState>, IndexError> {
        lookup(self, "file", &keys::file(set, path))
    }

    /// What is noted of an extent that several have.
    fn shared(&self, extent: &Extent) -> Result<Option<Shared>, IndexError> {
        lookup(self, "shared extent", &keys::shared(extent.lsn, extent.offset))
    }

    /// The parts of an upload, or of the object that was made of it, in the order of their numbers.
    fn parts(&self, id: UploadId) -> Result<Vec<(u16, PartState)>, IndexError> {
        let prefix = keys::parts(id);
        let end = keys::after_prefix(&prefix);
        self.scan(&prefix, end.as_deref())
            .map(|entry| {
                let (key, value) = entry?;
                let number = key.last_chunk::<2>().map_or(0, |n| u16::from_be_bytes(*n));
                Ok((number, decode("part", &key, &value)?))
            })
            .collect()
    }

    /// The extents that hold bytes `start..start + len` of the object as stored, cut to exactly those
    /// bytes; `None` where it has not that many. Memory is proportional to `len`: about 24 bytes for each
    /// MiB.
    fn cut(&self, object: &ObjectState, start: u64, len: u64) -> Result<Option<Vec<Extent>>, IndexError> {
        self.cut_layout(&object.layout, start, len)
    }

    /// As [`Lookup::cut`], for any layout.
    fn cut_layout(&self, layout: &Layout, start: u64, len: u64) -> Result<Option<Vec<Extent>>, IndexError> {
        let mut cut = Vec::new();
        let mut wanted = Wanted { skip: start, take: len };
        match layout {
            Layout::Near(extents) => wanted.pick(extents, &mut cut),
            Layout::Chunked(id, sizes) => {
                for (chunk, size) in sizes.iter().enumerate() {
                    if wanted.take == 0 {
                        break;
                    }
                    if wanted.skips(*size) {
                        continue;
                    }
                    let key = keys::extents(*id, chunk as u32);
                    let extents: Vec<Extent> = lookup(self, "extent list", &key)?.ok_or_else(|| {
                        IndexError::Malformed { what: "extent list", key: key.escape_ascii().to_string() }
                    })?;
                    wanted.pick(&extents, &mut cut);
                }
            }
            Layout::Parts(upload) => {
                for (_, part) in self.parts(*upload)? {
                    if wanted.take == 0 {
                        break;
                    }
                    let stored = part.layout.stored_len();
                    if wanted.skips(stored) {
                        continue;
                    }
                    let here = (stored - wanted.skip).min(wanted.take);
                    let Some(extents) = self.cut_layout(&part.layout, wanted.skip, here)? else {
                        return Ok(None);
                    };
                    cut.extend(extents);
                    wanted.skip = 0;
                    wanted.take -= here;
                }
            }
        }
        Ok((wanted.take == 0).then_some(cut))
    }
}

impl<T: Tables + ?Sized> Lookup for T {}

/// The bytes still to be skipped and taken while walking extents in order.
struct Wanted {
    skip: u64,
    take: u64,
}

impl Wanted {
    /// Whether all of the next `len` bytes are to be skipped; if so, they are.
    fn skips(&mut self, len: u64) -> bool {
        let all = self.skip >= len;
        if all {
            self.skip -= len;
        }
        all
    }

    fn pick(&mut self, extents: &[Extent], cut: &mut Vec<Extent>) {
        for extent in extents {
            let len = u64::from(extent.len);
            if self.skip >= len {
                self.skip -= len;
                continue;
            }
            let taken = (len - self.skip).min(self.take);
            if taken == 0 {
                return;
            }
            let piece =
                Extent { lsn: extent.lsn, offset: extent.offset + self.skip as u32, len: taken as u32 };
            cut.push(piece);
            self.skip = 0;
            self.take -= taken;
        }
    }
}

/// A consistent view that can be moved to another thread.
pub struct View {
    tables: Box<dyn Tables + Send>,
    held: Option<Held>,
}

impl View {
    /// The same view, with a hold on the log that is older than it: the extents that it names can be read.
    #[must_use]
    pub fn holding(self, held: Held) -> View {
        View { held: Some(held), ..self }
    }

    /// The hold, for somebody who reads longer than the view lives.
    pub fn held(&self) -> Option<Held> {
        self.held.clone()
    }
}

impl Tables for View {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        self.tables.get(key)
    }

    fn scan<'a>(
        &'a self,
        from: &[u8],
        to: Option<&[u8]>,
    ) -> Box<dyn Iterator<Item = Result<Entry, IndexError>> + 'a> {
        self.tables.scan(from, to)
    }
}

/// Where the index is kept.
enum Keep {
    Disk { db: Database, tree: Keyspace },
    Memory(RwLock<Arc<BTreeMap<Vec<u8>, Vec<u8>>>>),
}

/// How far the index is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The end of the last applied record.
    pub applied: Lsn,
    /// How often it began anew from nothing since it was opened: where this differs, what was applied meanwhile
    /// may have been less.
    pub resets: u64,
}

/// A shared handle of the index.
#[derive(Clone)]
pub struct Index {
    keep: Arc<Keep>,
    progress: Arc<watch::Sender<Progress>>,
}

impl Index {
    /// Opens the index in the directory `path`, or makes it. One that is damaged or of another
    /// format is deleted; the second value then says why, and the log must be replayed from zero
    /// (which [`Lookup::applied`] says too).
    pub fn open(path: &Path) -> Result<(Index, Option<String>), IndexError> {
        match Self::open_as_it_is(path) {
            Ok(index) => Ok((index, None)),
            Err(Unopened::Fatal(error)) => Err(error),
            Err(Unopened::Damaged(why)) => {
                std::fs::remove_dir_all(path).map_err(|e| IndexError::Storage(e.to_string()))?;
                match Self::open_as_it_is(path) {
                    Ok(index) => Ok((index, Some(why))),
                    Err(Unopened::Fatal(error)) => Err(error),
                    Err(Unopened::Damaged(why)) => Err(IndexError::Storage(why)),
                }
            }
        }
    }

    /// An index that lives and dies with the process: for tests and simulation.
    pub fn in_memory() -> Index {
        let mut map = BTreeMap::new();
        map.insert(keys::FORMAT.to_vec(), FORMAT.to_vec());
        Index::of(Keep::Memory(RwLock::new(Arc::new(map))))
    }

    /// The state as of now as an index of its own, for an index in memory: what a simulated disk kept of
    /// it. `None` for one on a disk.
    pub fn fork(&self) -> Option<Index> {
        match &*self.keep {
            Keep::Disk { .. } => None,
            Keep::Memory(map) => {
                let fork = Index::of(Keep::Memory(RwLock::new(map.read().clone())));
                fork.progress.send_replace(self.progress());
                Some(fork)
            }
        }
    }

    fn of(keep: Keep) -> Index {
        Index { keep: Arc::new(keep), progress: Arc::default() }
    }

    /// How far it is. A view that is taken after this has at least that much in it, unless the index begins anew
    /// meanwhile.
    pub fn progress(&self) -> Progress {
        *self.progress.borrow()
    }

    /// Tells of each step.
    pub fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    fn open_as_it_is(path: &Path) -> Result<Index, Unopened> {
        // The library asserts some properties of its files: damaged ones must not stop the agent.
        let opened = catch_unwind(AssertUnwindSafe(|| -> fjall::Result<(Database, Keyspace)> {
            let db = Database::builder(path)
                .cache_size(CACHE_BYTES)
                .max_journaling_size(JOURNAL_BYTES)
                .worker_threads(1)
                .open()?;
            // Below the first level a table's filter and its list of blocks are read in pieces as well: whole, they
            // are megabytes for each table, which a small cache would read again for each key.
            let in_pieces = || PartitioningPolicy::new([false, true]);
            let options = || {
                KeyspaceCreateOptions::default()
                    .max_memtable_size(WRITE_BUFFER_BYTES)
                    .index_block_partitioning_policy(in_pieces())
                    .filter_block_partitioning_policy(in_pieces())
            };
            let tree = db.keyspace("index", options)?;
            Ok((db, tree))
        }));
        let (db, tree) = match opened {
            Err(_) => return Err(Unopened::Damaged("the index's files contradict each other".into())),
            Ok(Err(error)) => return Err(Unopened::sort(path, error)),
            Ok(Ok(pair)) => pair,
        };
        let index = Index::of(Keep::Disk { db, tree });
        let view = index.view();
        let format = view.get(keys::FORMAT).map_err(|e| Unopened::Damaged(e.to_string()))?;
        match format.as_deref() {
            Some(FORMAT) => {}
            Some(other) => {
                let other = other.escape_ascii();
                return Err(Unopened::Damaged(format!("the index has format {other}, not 3")));
            }
            None if view.scan(b"", None).next().is_some() => {
                return Err(Unopened::Damaged("the index has no format".into()));
            }
            None => {
                index.write(vec![(keys::FORMAT.to_vec(), Some(FORMAT.to_vec()))]).map_err(Unopened::Fatal)?
            }
        }
        let applied = view.applied().map_err(|e| Unopened::Damaged(e.to_string()))?;
        index.progress.send_modify(|progress| progress.applied = applied);
        drop(view);
        Ok(index)
    }

    /// Remembers which log this index describes. An index of another log is emptied; the answer is
    /// then true and the log must be replayed from zero.
    pub fn bind_log(&self, log_id: u64) -> Result<bool, IndexError> {
        let mine = log_id.to_be_bytes().to_vec();
        let known = self.view().get(LOG_ID)?;
        if known.as_ref() == Some(&mine) {
            return Ok(false);
        }
        let foreign = known.is_some();
        if foreign {
            self.reset()?;
        }
        self.write(vec![(LOG_ID.to_vec(), Some(mine))])?;
        Ok(foreign)
    }

    /// The state as of now; later changes do not show in it.
    pub fn view(&self) -> View {
        let tables: Box<dyn Tables + Send> = match &*self.keep {
            Keep::Disk { db, tree } => Box::new(DiskView { snapshot: db.snapshot(), tree: tree.clone() }),
            Keep::Memory(map) => Box::new(MemoryView(map.read().clone())),
        };
        View { tables, held: None }
    }

    /// Makes all changes at once, or none. Not synced.
    pub fn write(&self, changes: Vec<Change>) -> Result<(), IndexError> {
        let applied = changes.iter().rev().find(|(key, _)| key == keys::APPLIED);
        let applied = applied.and_then(|(_, value)| <[u8; 8]>::try_from(value.as_deref()?).ok());
        self.write_all(changes)?;
        if let Some(applied) = applied {
            self.progress.send_modify(|progress| progress.applied = Lsn(u64::from_be_bytes(applied)));
        }
        Ok(())
    }

    fn write_all(&self, changes: Vec<Change>) -> Result<(), IndexError> {
        match &*self.keep {
            Keep::Disk { db, tree } => {
                let mut batch = db.batch();
                for (key, value) in changes {
                    match value {
                        Some(value) => batch.insert(tree, key, value),
                        None => batch.remove(tree, key),
                    }
                }
                batch.commit().map_err(storage)
            }
            Keep::Memory(map) => {
                let mut map = map.write();
                let map = Arc::make_mut(&mut map);
                for (key, value) in changes {
                    match value {
                        Some(value) => map.insert(key, value),
                        None => map.remove(&key),
                    };
                }
                Ok(())
            }
        }
    }

    /// Forgets everything, at once; the applied LSN is zero afterwards. Durable when it returns: an
    /// index from before must not come back over a log that was cut since.
    pub fn reset(&self) -> Result<(), IndexError> {
        // First, so that whoever looks after having read notices.
        self.progress.send_modify(|progress| {
            *progress = Progress { applied: Lsn::ZERO, resets: progress.resets + 1 };
        });
        match &*self.keep {
            Keep::Disk { tree, .. } => tree.clear().map_err(storage)?,
            Keep::Memory(map) => *map.write() = Arc::default(),
        }
        self.write(vec![(keys::FORMAT.to_vec(), Some(FORMAT.to_vec()))])?;
        match &*self.keep {
            Keep::Disk { db, .. } => db.persist(PersistMode::SyncAll).map_err(storage),
            Keep::Memory(_) => Ok(()),
        }
    }

    /// About how many bytes it takes.
    pub fn size_bytes(&self) -> u64 {
        match &*self.keep {
            Keep::Disk { tree, .. } => tree.disk_space(),
            Keep::Memory(map) => map.read().iter().map(|(key, value)| (key.len() + value.len()) as u64).sum(),
        }
    }

    /// A digest of all keys and values: equal on two members that applied the same log.
    /// Reads the whole index.
    pub fn digest(&self) -> Result<[u8; 32], IndexError> {
        let view = self.view();
        let mut hash = Sha256::new();
        for entry in view.scan(b"", None) {
            let (key, value) = entry?;
            if key == LOG_ID {
                continue;
            }
            for piece in [key, value] {
                hash.update((piece.len() as u64).to_le_bytes());
                hash.update(piece);
            }
        }
        Ok(hash.finalize().into())
    }
}

/// Why the index did not open.
enum Unopened {
    Damaged(String),
    Fatal(IndexError),
}

impl Unopened {
    /// A lock, a full disk and missing rights are not mended by deleting the index.
    fn sort(path: &Path, error: fjall::Error) -> Unopened {
        use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem, StorageFull};
        match &error {
            fjall::Error::Locked => Unopened::Fatal(IndexError::InUse(path.to_owned())),
            fjall::Error::Io(e)
                if matches!(e.kind(), PermissionDenied | StorageFull | ReadOnlyFilesystem) =>
            {
                Unopened::Fatal(storage(error))
            }
            _ => Unopened::Damaged(error.to_string()),
        }
    }
}

fn storage(error: fjall::Error) -> IndexError {
    IndexError::Storage(error.to_string())
}

/// From where to where an ordered map is read.
type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// The bounds of a scan; `None` where nothing lies between them, which the ordered maps do not take.
pub(crate) fn range(from: &[u8], to: Option<&[u8]>) -> Option<Bounds> {
    let empty = to.is_some_and(|to| from >= to);
    let end = to.map_or(Bound::Unbounded, |to| Bound::Excluded(to.to_vec()));
    (!empty).then(|| (Bound::Included(from.to_vec()), end))
}

struct DiskView {
    snapshot: fjall::Snapshot,
    tree: Keyspace,
}

impl Tables for DiskView {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        let value = self.snapshot.get(&self.tree, key).map_err(storage)?;
        Ok(value.map(|v| v.to_vec()))
    }

    fn scan<'a>(
        &'a self,
        from: &[u8],
        to: Option<&[u8]>,
    ) -> Box<dyn Iterator<Item = Result<Entry, IndexError>> + 'a> {
        let Some(range) = range(from, to) else { return Box::new(std::iter::empty()) };
        Box::new(self.snapshot.range(&self.tree, range).map(|guard| {
            let (key, value) = guard.into_inner().map_err(storage)?;
            Ok((key.to_vec(), value.to_vec()))
        }))
    }
}

struct MemoryView(Arc<BTreeMap<Vec<u8>, Vec<u8>>>);

impl Tables for MemoryView {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        Ok(self.0.get(key).cloned())
    }

    fn scan<'a>(
        &'a self,
        from: &[u8],
        to: Option<&[u8]>,
    ) -> Box<dyn Iterator<Item = Result<Entry, IndexError>> + 'a> {
        let Some(range) = range(from, to) else { return Box::new(std::iter::empty()) };
        Box::new(self.0.range(range).map(|(key, value)| Ok((key.clone(), value.clone()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(index: &Index) {
        let applied = (keys::APPLIED.to_vec(), Some(7u64.to_be_bytes().to_vec()));
        index.write(vec![(b"bx".to_vec(), Some(b"v".to_vec())), applied]).unwrap();
    }

    #[test]
    fn what_was_written_is_there_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let (index, rebuilt) = Index::open(&path).unwrap();
        assert_eq!(rebuilt, None);
        fill(&index);
        let digest = index.digest().unwrap();
        drop(index);
        let (index, rebuilt) = Index::open(&path).unwrap();
        assert_eq!(rebuilt, None);
        assert_eq!(index.view().applied().unwrap(), Lsn(7));
        assert_eq!(index.digest().unwrap(), digest);
    }

    #[test]
    fn a_damaged_index_is_deleted_and_starts_from_zero() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let (index, _) = Index::open(&path).unwrap();
        fill(&index);
        drop(index);
        for entry in std::fs::read_dir(&path).unwrap() {
            let entry = entry.unwrap().path();
            if entry.is_file() {
                std::fs::write(entry, b"nonsense").unwrap();
            }
        }
        let (index, rebuilt) = Index::open(&path).unwrap();
        assert!(rebuilt.is_some());
        assert_eq!(index.view().applied().unwrap(), Lsn::ZERO);
        fill(&index);
    }

    #[test]
    fn reset_forgets_everything_but_the_format() {
        let dir = tempfile::tempdir().unwrap();
        let (index, _) = Index::open(&dir.path().join("index")).unwrap();
        fill(&index);
        index.reset().unwrap();
        assert_eq!(index.view().applied().unwrap(), Lsn::ZERO);
        assert_eq!(index.digest().unwrap(), Index::in_memory().digest().unwrap());
        fill(&index);
        index.reset().unwrap();
        drop(index);
        let (index, rebuilt) = Index::open(&dir.path().join("index")).unwrap();
        assert_eq!(rebuilt, None);
        assert_eq!(index.digest().unwrap(), Index::in_memory().digest().unwrap(), "after reopening");
    }

    #[test]
    fn an_index_of_another_log_is_emptied() {
        let index = Index::in_memory();
        assert!(!index.bind_log(1).unwrap());
        fill(&index);
        assert!(!index.bind_log(1).unwrap());
        assert_eq!(index.view().applied().unwrap(), Lsn(7));
        assert!(index.bind_log(2).unwrap());
        assert_eq!(index.view().applied().unwrap(), Lsn::ZERO);
    }

    #[test]
    fn a_view_does_not_see_later_changes() {
        let index = Index::in_memory();
        let view = index.view();
        fill(&index);
        assert_eq!(view.get(b"bx").unwrap(), None);
        assert_eq!(index.view().get(b"bx").unwrap(), Some(b"v".to_vec()));
    }
}
