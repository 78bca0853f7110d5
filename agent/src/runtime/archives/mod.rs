//! What was set aside, for operators: told, read, restored as new writes, and deleted when they say so.
//!
//! ```text
//!   manifests (the log's thread) -> list: with a summary of each, made once by a thread of its own, and kept
//!   archive + own log + index ----> show, find, piece: read anew for each request, off the serving threads
//!                             \---> restore: one at a time, by S3 to the primary; what became of each object goes to
//!                                   NAME.report, and that it came to its end to NAME.restored
//!   the log's thread <------------- delete: it writes archives, so that nobody else deletes one
//! ```
//!
//! It never decides that an archive is of no use: one goes by [`Archives::delete`] alone.

mod primary;
mod restore;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, BufRead, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use holdfast_config::Config;
use holdfast_replication::set_aside::{self, Archive as Manifest, ArchiveReader, Cause};
use holdfast_replication::{LogReader, Lsn};
use holdfast_store::archive::{Archive, Body, Change, Missing, ObjectChange, Opened, Own, What};
use holdfast_store::index::{Index, Lookup, View};
use holdfast_store::seal::StoreKeys;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use tokio::sync::{oneshot, watch};

use self::primary::Primary;
pub use self::restore::Fate;
use super::log_thread::{LogInput, wall_ms};
use super::mailbox::Sender;

/// Objects of an archive that its summary names.
pub const FIRST: usize = 10;
/// Archives whose summaries are kept, the newest ones.
const MOST_SUMMARIES: usize = 64;
/// Changes in one page.
pub const PAGE: usize = 500;
/// Keys that one restore can tell apart; beyond that it has to be done bucket by bucket. About 64 bytes of memory each.
const MOST_KEYS: usize = 1_000_000;
/// Bytes of the report that are read at a time.
const REPORT_PAGE: u64 = 256 * 1024;
/// Most bytes of an object in one answer.
pub const MOST_BYTES: u64 = 8 << 20;
/// How long whoever lists archives waits for a summary that is being made.
const SUMMARY_WITHIN: Duration = Duration::from_millis(1500);

/// Why an archive was not shown, read, restored or deleted.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// There is none of that name.
    #[error("this member has no archive {0}; see: holdfast replication archives list")]
    Unknown(String),
    /// It has no such object.
    #[error(
        "the archive {archive} has no object {object}; see: holdfast replication archives show {archive}"
    )]
    NoObject {
        /// The archive.
        archive: String,
        /// Bucket, key, and version where one was given.
        object: String,
    },
    /// Not all of the object can be had.
    #[error("the object cannot be read in full: {0}. The archive is unchanged")]
    Missing(#[from] Missing),
    /// A restore is under way.
    #[error(
        "the archive {0} is being restored; see how far it is, or wait for its end: holdfast replication archives restore {0}"
    )]
    Busy(String),
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The store has no root user.
    #[error(
        "nothing can be restored from here: the configuration of this member has no `store {{ root_access_key }}` to write to the primary with"
    )]
    NoRoot,
    /// The disk failed.
    #[error("the archive cannot be read or deleted: {0}; nothing else was changed")]
    Io(#[from] io::Error),
    /// The agent ends.
    #[error("the agent is shutting down")]
    Ending,
}

/// What an archive holds, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Summary {
    /// Objects that were stored; one that was stored twice counts twice.
    pub objects: u64,
    /// Their bytes, as far as known.
    pub object_bytes: u64,
    /// Objects of which not every byte has its place.
    pub incomplete: u64,
    /// Keys that were removed.
    pub deletions: u64,
    /// Other changes: of buckets, of what comes with objects, of uploads that did not end in the archive.
    pub other_changes: u64,
    /// Users that were made, changed or removed.
    pub users: u64,
    /// Bytes that are no record that can be understood.
    pub unreadable_bytes: u64,
    /// The first objects.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub first: Vec<ObjectChange>,
}

/// Whether the cluster has an object of an archive, as far as this member's index shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It has these very bytes under this key.
    Same,
    /// It has others.
    Other,
    /// It has none.
    None,
    /// It has not even the bucket.
    NoBucket,
}

/// An object of an archive, and what the cluster has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// The object.
    #[serde(flatten)]
    pub object: ObjectChange,
    /// What there is under its key.
    pub cluster: Standing,
}

/// An archive in a list.
#[derive(Clone, Debug, Serialize)]
pub struct Listed {
    /// Its manifest.
    #[serde(flatten)]
    pub archive: Manifest,
    /// What it holds; none while that is being found out, or where it cannot be.
    pub content: Option<Content>,
    /// Why what it holds cannot be told.
    pub unreadable: Option<String>,
    /// When all of it was restored, as far as that is possible, in milliseconds since 1970.
    pub restored_ms: Option<u64>,
}

/// What a listed archive holds.
#[derive(Clone, Debug, Serialize)]
pub struct Content {
    /// In numbers; `first` is empty here.
    #[serde(flatten)]
    pub summary: Summary,
    /// The first objects.
    pub first_objects: Vec<Shown>,
}

/// Part of what an archive holds.
#[derive(Clone, Debug, Serialize)]
pub struct Page {
    /// Its manifest.
    pub archive: Manifest,
    /// Bytes of it that are no whole record.
    pub unreadable_bytes: u64,
    /// Changes, in their order.
    pub changes: Vec<ShownChange>,
    /// Where to go on: `after` of the next request; none where this is the end.
    pub next: Option<Lsn>,
}

/// A change, and for an object what the cluster has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownChange {
    /// The change.
    #[serde(flatten)]
    pub change: Change,
    /// What there is under the key of an object.
    pub cluster: Option<Standing>,
}

/// An object that can be read piece by piece.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Readable {
    /// Names it within the archive.
    pub id: Lsn,
    /// Its bytes.
    pub size: u64,
    /// Its entity tag.
    pub etag: String,
    /// The size of each part that was stored by itself, and its MD5 where it is known.
    pub pieces: Vec<(u64, Option<String>)>,
}

/// Which object is meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Its bucket.
    pub bucket: String,
    /// Its key; empty: all of the bucket.
    pub key: String,
    /// Its version; none: the last that was stored.
    #[serde(default)]
    pub version: Option<String>,
}

/// What is to be restored, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Order {
    /// These; none: the last of each key, save what was removed afterwards.
    pub objects: Vec<Wanted>,
    /// Also over a key that exists with other content.
    pub overwrite: bool,
    /// Make buckets that do not exist.
    pub create_buckets: bool,
    /// Also what stands behind a damaged place of the archive.
    pub behind_damage: bool,
}

/// What became of one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Its bucket.
    pub bucket: String,
    /// Its key.
    pub key: String,
    /// Its version in the archive.
    pub version: Option<String>,
    /// Its bytes.
    pub bytes: Option<u64>,
    /// What became of it.
    pub fate: Fate,
    /// Why.
    pub why: Option<String>,
}

/// How far a restore is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// The archive.
    pub archive: String,
    /// It goes on.
    pub running: bool,
    /// Objects that it is about, once that is known.
    pub objects: Option<u64>,
    /// Of these done.
    pub done: u64,
    /// How many met which fate.
    pub fates: BTreeMap<Fate, u64>,
    /// Why it ended before its end.
    pub failure: Option<String>,
    /// When it began, in milliseconds since 1970.
    pub began_ms: u64,
}

/// Progress, and outcomes from some place of the report on.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Reported {
    /// How far it is.
    #[serde(flatten)]
    pub progress: Progress,
    /// What became of objects.
    pub outcomes: Vec<Outcome>,
    /// Where the next ones begin: `from` of the next request.
    pub next: u64,
}

/// What the archives of a member are looked into with.
pub struct Setup {
    /// The log; its disk has the archives.
    pub reader: LogReader,
    /// The index.
    pub index: Index,
    /// What opens objects that are encrypted at rest.
    pub keys: StoreKeys,
    /// The log's directory.
    pub dir: PathBuf,
    /// The manifests, as the log's thread has them.
    pub manifests: Box<dyn Fn() -> Vec<Manifest> + Send + Sync>,
    /// Writes to the history.
    pub note: Box<dyn Fn(String) + Send + Sync>,
    /// Where the primary may be, as `http://host:port`, and the root user's keys.
    pub primary: Option<(Vec<String>, String, String)>,
}

/// Where the primary's store is reached from this member: by the virtual address, or where there is none at the store's
/// port of each data member.
pub fn places(config: &Config, endpoint: Option<&str>) -> Vec<String> {
    if let Some(endpoint) = endpoint {
        return vec![endpoint.to_owned()];
    }
    let Some(store) = &config.store else { return Vec::new() };
    let own = match store.listen.ip() {
        ip if ip.is_unspecified() => config.listen.ip(),
        ip => ip,
    };
    let hosts = std::iter::once(own).chain(config.data_peers().map(|peer| peer.host));
    hosts.map(|host| format!("http://{}", std::net::SocketAddr::new(host, store.listen.port()))).collect()
}

#[derive(Default)]
struct Summaries {
    /// In the order in which they were made.
    made: Vec<(String, Result<Arc<Summary>, String>)>,
    making: HashSet<String>,
}

struct Inner {
    setup: Setup,
    primary: Option<Primary>,
    log: Mutex<Sender<LogInput>>,
    summaries: Mutex<Summaries>,
    /// Raised with each summary.
    summed: watch::Sender<u64>,
    /// One archive is read through at a time.
    reading: Mutex<()>,
    /// The archive that was looked into last: the headers of all of its records are read to open it.
    archive: Mutex<Option<(String, Archive)>>,
    /// The object that was read last. It keeps no part of the log from being given up.
    body: Mutex<Option<(String, Lsn, Body)>>,
    restore: Mutex<Progress>,
    /// When which archive was restored.
    restored: Mutex<HashMap<String, u64>>,
}

/// The archives of this member. Cheap to clone.
#[derive(Clone)]
pub struct Archives(Arc<Inner>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Everything behind these is whole between its calls, so a panic elsewhere does not spoil it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Archives {
    /// The archives of that log; ends the deletions that an earlier life of the agent began.
    pub fn new(setup: Setup, log: Sender<LogInput>) -> reqwest::Result<Archives> {
        let primary = match &setup.primary {
            Some((places, access_key, secret_key)) => {
                Some(Primary::new(places.clone(), access_key, secret_key)?)
            }
            None => None,
        };
        let archives = Archives(Arc::new(Inner {
            primary,
            log: Mutex::new(log),
            summaries: Mutex::default(),
            summed: watch::Sender::default(),
            reading: Mutex::default(),
            archive: Mutex::default(),
            body: Mutex::default(),
            restore: Mutex::default(),
            restored: Mutex::new(marks(&setup)),
            setup,
        }));
        archives.sweep();
        Ok(archives)
    }

    /// Gives back the space of deleted archives, in the background.
    fn sweep(&self) {
        let disk = self.0.setup.reader.disk();
        let swept = std::thread::Builder::new().name("archives".into()).spawn(move || {
            if let Err(error) = set_aside::sweep(&*disk) {
                tracing::warn!(%error, "the bytes of a deleted archive still take space; the next start removes them");
            }
        });
        if let Err(error) = swept {
            tracing::warn!(%error, "the bytes of a deleted archive still take space; the next start removes them");
        }
    }

    /// How many archives there are of each cause that nobody has restored, and their bytes.
    pub fn unattended(&self) -> BTreeMap<&'static str, (u64, u64)> {
        let restored = lock(&self.0.restored);
        let mut all: BTreeMap<_, _> =
            ["divergent", "torn", "damaged"].into_iter().map(|cause| (cause, (0, 0))).collect();
        for archive in (self.0.setup.manifests)() {
            if !restored.contains_key(&archive.name) {
                let (count, bytes) = all.entry(cause_name(archive.cause)).or_default();
                (*count, *bytes) = (*count + 1, *bytes + archive.bytes);
            }
        }
        all
    }

    fn manifest(&self, name: &str) -> Result<Manifest, ArchiveError> {
        let found = (self.0.setup.manifests)().into_iter().find(|archive| archive.name == name);
        found.ok_or_else(|| ArchiveError::Unknown(name.to_owned()))
    }

    fn open(&self, name: &str) -> Result<Archive, ArchiveError> {
        let manifest = self.manifest(name)?;
        if let Some((last, archive)) = &*lock(&self.0.archive)
            && last == name
        {
            return Ok(archive.clone());
        }
        // Archives that were made together are pieces of one tail.
        let together = (self.0.setup.manifests)().into_iter().filter(|other| {
            (other.cause, other.wall_ms, &other.reason)
                == (manifest.cause, manifest.wall_ms, &manifest.reason)
        });
        let fork = together.map(|other| other.from).min().unwrap_or(manifest.from);
        let reader = ArchiveReader::open(&*self.0.setup.reader.disk(), name)?;
        let reader = reader.ok_or_else(|| ArchiveError::Unknown(name.to_owned()))?;
        let archive = Archive::new(reader, fork);
        *lock(&self.0.archive) = Some((name.to_owned(), archive.clone()));
        Ok(archive)
    }

    fn own(&self) -> Own {
        // Before the view, so that it covers what the view names.
        let held = Arc::new(self.0.setup.reader.hold());
        Own { view: self.0.setup.index.view().holding(held), log: self.0.setup.reader.clone() }
    }

    /// All archives, with what each holds as far as that is known within a moment.
    pub async fn list(&self) -> Result<Vec<Listed>, ArchiveError> {
        let manifests = (self.0.setup.manifests)();
        let mut summed = self.0.summed.subscribe();
        self.sum_up(&manifests);
        let all_there = summed.wait_for(|_| lock(&self.0.summaries).making.is_empty());
        let _ = tokio::time::timeout(SUMMARY_WITHIN, all_there).await;
        let this = self.clone();
        let listed = move || manifests.into_iter().map(|archive| this.listed(archive)).collect();
        tokio::task::spawn_blocking(listed).await.map_err(|_| ArchiveError::Ending)
    }

    fn listed(&self, archive: Manifest) -> Listed {
        let made = &lock(&self.0.summaries).made;
        let summary = made.iter().find(|(name, _)| *name == archive.name).map(|(_, made)| made.clone());
        let restored_ms = lock(&self.0.restored).get(&archive.name).copied();
        let (content, unreadable) = match summary {
            None => (None, None),
            Some(Err(why)) => (None, Some(why)),
            Some(Ok(summary)) => {
                let view = self.0.setup.index.view();
                let shown = |object: &ObjectChange| Shown {
                    cluster: standing(&view, object),
                    object: object.clone(),
                };
                let first_objects = summary.first.iter().map(shown).collect();
                let summary = Summary { first: Vec::new(), ..(*summary).clone() };
                (Some(Content { summary, first_objects }), None)
            }
        };
        Listed { archive, content, unreadable, restored_ms }
    }

    /// Has the summaries made that there are not, one after the other, on a thread of its own.
    fn sum_up(&self, manifests: &[Manifest]) {
        let newest = manifests.iter().rev().take(MOST_SUMMARIES);
        let mut summaries = lock(&self.0.summaries);
        summaries.made.retain(|(made, _)| manifests.iter().any(|archive| archive.name == *made));
        let missing: Vec<String> = newest
            .map(|archive| archive.name.clone())
            .filter(|name| !summaries.making.contains(name))
            .filter(|name| summaries.made.iter().all(|(made, _)| made != name))
            .collect();
        if missing.is_empty() {
            return;
        }
        summaries.making.extend(missing.iter().cloned());
        drop(summaries);
        let (this, names) = (self.clone(), missing.clone());
        let spawned = std::thread::Builder::new().name("archives".into()).spawn(move || {
            for name in names {
                let made = {
                    let _reading = lock(&this.0.reading);
                    this.open(&name).and_then(|archive| Ok(summary(&archive, &this.own())?))
                };
                let mut summaries = lock(&this.0.summaries);
                summaries.making.remove(&name);
                summaries.made.push((name, made.map(Arc::new).map_err(|error| error.to_string())));
                let beyond = summaries.made.len().saturating_sub(MOST_SUMMARIES);
                summaries.made.drain(..beyond);
                drop(summaries);
                this.0.summed.send_modify(|count| *count += 1);
            }
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "what was set aside cannot be looked into");
            lock(&self.0.summaries).making.retain(|name| !missing.contains(name));
        }
    }

    /// Changes of the archive that stand behind `after`, at most `limit`. To be called where waiting for the disk is
    /// allowed.
    pub fn page(&self, name: &str, after: Option<Lsn>, limit: usize) -> Result<Page, ArchiveError> {
        let archive = self.open(name)?;
        let own = self.own();
        let (mut changes, mut next) = (Vec::new(), None);
        archive.changes_after(after, Some(&own), &mut |change| {
            if changes.len() == limit.clamp(1, PAGE) {
                next = changes.last().map(|last: &ShownChange| last.change.lsn);
                return ControlFlow::Break(());
            }
            let cluster = match &change.what {
                What::Object(object) => Some(standing(&own.view, object)),
                _ => None,
            };
            changes.push(ShownChange { change, cluster });
            ControlFlow::Continue(())
        })?;
        let reader = archive.reader();
        let (unreadable_bytes, archive) = (reader.unreadable_bytes(), reader.archive().clone());
        Ok(Page { archive, unreadable_bytes, changes, next })
    }

    /// The object that is meant, ready to be read. To be called where waiting for the disk is allowed.
    pub fn find(&self, name: &str, wanted: &Wanted) -> Result<Readable, ArchiveError> {
        let archive = self.open(name)?;
        let mut found = None;
        archive.changes(None, &mut |change| {
            if let What::Object(object) = change.what
                && (&object.bucket, &object.key) == (&wanted.bucket, &wanted.key)
                && wanted.version.as_ref().is_none_or(|version| *version == object.version)
            {
                found = Some(object.id);
            }
            ControlFlow::Continue(())
        })?;
        let id = found.ok_or_else(|| ArchiveError::NoObject {
            archive: name.to_owned(),
            object: match &wanted.version {
                Some(version) => format!("{}/{} of version {version}", wanted.bucket, wanted.key),
                None => format!("{}/{}", wanted.bucket, wanted.key),
            },
        })?;
        let opened = self.opened(&archive, id)?;
        let body = &opened.body;
        let pieces = body.pieces.iter().map(|piece| (piece.size, piece.md5.map(hex::encode))).collect();
        let readable = Readable { id, size: body.size, etag: body.etag.to_string(), pieces };
        *lock(&self.0.body) = Some((name.to_owned(), id, opened.body));
        Ok(readable)
    }

    fn opened(&self, archive: &Archive, id: Lsn) -> Result<Opened, ArchiveError> {
        let own = self.own();
        Ok(archive.find(id, Some(&own))?.open(archive, &own, &self.0.setup.keys)?)
    }

    /// Bytes of an object of the archive, [`MOST_BYTES`] at most. To be called where waiting for the disk is allowed.
    pub fn bytes(&self, name: &str, id: Lsn, start: u64, len: u64) -> Result<Bytes, ArchiveError> {
        let archive = self.open(name)?;
        let last = lock(&self.0.body).clone().filter(|(last, of, _)| (last.as_str(), *of) == (name, id));
        if let Some((_, _, body)) = last {
            let opened = body.open(&archive, &self.own(), &self.0.setup.keys)?;
            // Where what it says was moved meanwhile, it is looked up anew.
            if let Ok(bytes) = part_of(&opened, start, len) {
                return Ok(bytes);
            }
        }
        let opened = self.opened(&archive, id)?;
        *lock(&self.0.body) = Some((name.to_owned(), id, opened.body.clone()));
        part_of(&opened, start, len)
    }

    /// Begins to restore. One restore at a time: how far it is says [`Archives::progress`].
    pub fn restore(&self, name: &str, order: Order) -> Result<Progress, ArchiveError> {
        let primary = self.0.primary.clone().ok_or(ArchiveError::NoRoot)?;
        let archive = self.open(name)?;
        let mut progress = lock(&self.0.restore);
        if progress.running {
            return Err(ArchiveError::Busy(progress.archive.clone()));
        }
        let report = BufWriter::new(std::fs::File::create(self.path(name, "report"))?);
        *progress =
            Progress { archive: name.to_owned(), running: true, began_ms: wall_ms(), ..Progress::default() };
        let begun = progress.clone();
        drop(progress);
        let (this, name) = (self.clone(), name.to_owned());
        tokio::spawn(async move {
            let mut work = Work { this: this.clone(), archive, primary, order, report };
            let ended = work.run(&name).await;
            let mut progress = lock(&this.0.restore);
            progress.running = false;
            if let Err(error) = ended {
                tracing::warn!(archive = name, %error, "an archive could not be restored to its end");
                progress.failure = Some(error.to_string());
            }
            let fates: Vec<String> =
                progress.fates.iter().map(|(fate, count)| format!("{count} {}", fate_words(*fate))).collect();
            let failure = progress.failure.as_ref().map(|why| format!("; it ended early: {why}"));
            (this.0.setup.note)(format!(
                "objects of the archive {name} were restored on an operator's order: {}{}",
                if fates.is_empty() { "none".to_owned() } else { fates.join(", ") },
                failure.unwrap_or_default()
            ));
        });
        Ok(begun)
    }

    /// How far the restore of that archive is, and what became of the objects from `from` of the report on. Of the last
    /// restore of this life of the agent. To be called where waiting for the disk is allowed.
    pub fn progress(&self, name: &str, from: u64) -> Result<Reported, ArchiveError> {
        self.manifest(name)?;
        let progress = lock(&self.0.restore).clone();
        if progress.archive != name {
            return Ok(Reported {
                progress: Progress { archive: name.to_owned(), ..Progress::default() },
                ..Reported::default()
            });
        }
        let mut outcomes = Vec::new();
        let mut file = std::fs::File::open(self.path(name, "report"))?;
        file.seek(SeekFrom::Start(from))?;
        let mut lines = BufReader::new(file);
        let mut next = from;
        let mut line = String::new();
        while next - from < REPORT_PAGE && lines.read_line(&mut line)? > 0 && line.ends_with('\n') {
            next += line.len() as u64;
            outcomes.push(serde_json::from_str(&line).map_err(io::Error::other)?);
            line.clear();
        }
        Ok(Reported { progress, outcomes, next })
    }

    fn path(&self, name: &str, extension: &str) -> PathBuf {
        self.0.setup.dir.join(set_aside::DIR).join(format!("{name}.{extension}"))
    }

    /// Deletes the archive for good.
    pub async fn delete(&self, name: &str) -> Result<Manifest, ArchiveError> {
        self.manifest(name)?;
        {
            let progress = lock(&self.0.restore);
            if progress.running && progress.archive == name {
                return Err(ArchiveError::Busy(name.to_owned()));
            }
        }
        let (reply, answer) = oneshot::channel();
        let order = LogInput::DeleteArchive { name: name.to_owned(), reply };
        lock(&self.0.log).send(order).map_err(|_| ArchiveError::Ending)?;
        let deleted = answer.await.map_err(|_| ArchiveError::Ending)??;
        let deleted = deleted.ok_or_else(|| ArchiveError::Unknown(name.to_owned()))?;
        lock(&self.0.restored).remove(name);
        lock(&self.0.body).take_if(|(archive, _, _)| archive == name);
        lock(&self.0.archive).take_if(|(archive, _)| archive == name);
        lock(&self.0.summaries).made.retain(|(made, _)| made != name);
        self.sweep();
        (self.0.setup.note)(format!(
            "the archive {name} (LSN {} to {}, {} bytes) was deleted on an operator's order: what only it had is gone",
            deleted.from, deleted.to, deleted.bytes
        ));
        Ok(deleted)
    }
}

/// Bytes of an object, at most as many as one answer has.
fn part_of(opened: &Opened, start: u64, len: u64) -> Result<Bytes, ArchiveError> {
    let beyond = || ArchiveError::Invalid(format!("the object has {} bytes", opened.body.size));
    let left = opened.body.size.checked_sub(start).ok_or_else(beyond)?;
    let reading = opened.bytes(start, len.min(left).min(MOST_BYTES)).ok_or_else(beyond)?;
    let mut all = Vec::new();
    for bytes in reading {
        all.extend_from_slice(&bytes.map_err(|error| Missing::Lost(error.to_string()))?);
    }
    Ok(Bytes::from(all))
}

/// When which archive was restored.
fn marks(setup: &Setup) -> HashMap<String, u64> {
    let mark = |archive: Manifest| {
        let path = setup.dir.join(set_aside::DIR).join(format!("{}.restored", archive.name));
        Some((archive.name, std::fs::read_to_string(path).ok()?.trim().parse().ok()?))
    };
    (setup.manifests)().into_iter().filter_map(mark).collect()
}

/// The cause, as manifests spell it.
pub fn cause_name(cause: Cause) -> &'static str {
    match cause {
        Cause::Divergent => "divergent",
        Cause::Torn => "torn",
        Cause::Damaged => "damaged",
    }
}

/// What became of an object, in words.
pub fn fate_words(fate: Fate) -> &'static str {
    match fate {
        Fate::Restored => "restored",
        Fate::AlreadyThere => "already there",
        Fate::Kept => "left alone, since the cluster has other content",
        Fate::NoBucket => "not restored, since the bucket does not exist",
        Fate::NotReadable => "not to be read in full",
        Fate::BehindDamage => "left out, since a damaged place lies before it",
        Fate::NotInArchive => "not in the archive",
        Fate::Refused => "not taken by the primary",
    }
}

fn standing(view: &View, object: &ObjectChange) -> Standing {
    match view.object(&object.bucket, &object.key) {
        Ok(Some(there)) if there.etag.to_string() == object.etag && object.size == Some(there.size) => {
            Standing::Same
        }
        Ok(Some(_)) => Standing::Other,
        Ok(None) | Err(_) => match view.bucket(&object.bucket) {
            Ok(None) => Standing::NoBucket,
            Ok(Some(_)) | Err(_) => Standing::None,
        },
    }
}

fn summary(archive: &Archive, own: &Own) -> Result<Summary, Missing> {
    let mut sum = Summary { unreadable_bytes: archive.reader().unreadable_bytes(), ..Summary::default() };
    archive.changes(Some(own), &mut |change| {
        match change.what {
            What::Object(object) => {
                sum.objects += 1;
                sum.object_bytes += object.size.unwrap_or(0);
                sum.incomplete += u64::from(object.missing.is_some());
                if sum.first.len() < FIRST {
                    sum.first.push(*object);
                }
            }
            What::Deleted { keys, .. } => sum.deletions += keys.len() as u64,
            What::UserStored { .. } | What::UserDeleted { .. } => sum.users += 1,
            What::Unreadable { bytes, .. } => sum.unreadable_bytes += bytes,
            _ => sum.other_changes += 1,
        }
        ControlFlow::Continue(())
    })?;
    Ok(sum)
}

/// Objects to restore: where their operations begin, and which stand behind damage.
type Plan = Vec<(Lsn, bool)>;

/// A restore under way.
struct Work {
    this: Archives,
    archive: Archive,
    primary: Primary,
    order: Order,
    report: BufWriter<std::fs::File>,
}

impl Work {
    async fn run(&mut self, name: &str) -> Result<(), ArchiveError> {
        let (archive, order) = (self.archive.clone(), self.order.clone());
        let planning = tokio::task::spawn_blocking(move || plan(&archive, &order));
        let (plan, absent) = planning.await.map_err(|_| ArchiveError::Ending)??;
        lock(&self.this.0.restore).objects = Some((plan.len() + absent.len()) as u64);
        for wanted in absent {
            let Wanted { bucket, key, version } = wanted;
            let fate = Fate::NotInArchive;
            self.tell(Outcome { bucket, key, version, bytes: None, fate, why: None })?;
        }
        for (id, behind_damage) in plan {
            let outcome = self.one(id, behind_damage).await?;
            self.tell(outcome)?;
        }
        if self.order.objects.is_empty() {
            let now = wall_ms();
            mark(&self.this.path(name, "restored"), now)?;
            lock(&self.this.0.restored).insert(name.to_owned(), now);
        }
        Ok(())
    }

    async fn one(&self, id: Lsn, behind_damage: bool) -> Result<Outcome, ArchiveError> {
        let (this, archive) = (self.this.clone(), self.archive.clone());
        let opening = tokio::task::spawn_blocking(move || {
            let own = this.own();
            let found = archive.find(id, Some(&own));
            let locks = |bucket: &str| {
                own.view.bucket(bucket).ok().flatten().is_some_and(|b| b.object_lock.is_some())
            };
            match found {
                Ok(body) => {
                    let (place, locks) = (Place::of(&body), locks(&body.bucket));
                    (place, body.open(&archive, &own, &this.0.setup.keys).map(|opened| (opened, locks)))
                }
                Err(error) => (Place::in_words(&archive, id), Err(error)),
            }
        });
        let (place, opened) = opening.await.map_err(|_| ArchiveError::Ending)?;
        let (fate, why) = match opened {
            _ if behind_damage && !self.order.behind_damage => (Fate::BehindDamage, None),
            Err(error) => (Fate::NotReadable, Some(error.to_string())),
            Ok((opened, locks)) => {
                let Order { overwrite, create_buckets, .. } = self.order;
                let manner = restore::Manner { overwrite, create_buckets, locks };
                restore::restore(&self.primary, &opened, manner).await
            }
        };
        let Place { bucket, key, version, bytes } = place;
        Ok(Outcome { bucket, key, version: Some(version), bytes, fate, why })
    }

    fn tell(&mut self, outcome: Outcome) -> io::Result<()> {
        let line = serde_json::to_string(&outcome).map_err(io::Error::other)?;
        writeln!(self.report, "{line}")?;
        self.report.flush()?;
        let mut progress = lock(&self.this.0.restore);
        progress.done += 1;
        *progress.fates.entry(outcome.fate).or_default() += 1;
        Ok(())
    }
}

/// Which object it is.
struct Place {
    bucket: String,
    key: String,
    version: String,
    bytes: Option<u64>,
}

impl Place {
    fn of(body: &Body) -> Place {
        let version = holdfast_store::object::VersionId::At(body.id).to_string();
        Place { bucket: body.bucket.clone(), key: body.key.clone(), version, bytes: Some(body.size) }
    }

    /// Of one that is not to be had: its operation names it all the same.
    fn in_words(archive: &Archive, id: Lsn) -> Place {
        let version = holdfast_store::object::VersionId::At(id).to_string();
        let mut place = Place { bucket: String::new(), key: String::new(), version, bytes: None };
        let _ = archive.changes(None, &mut |change| match change.what {
            What::Object(object) if object.id == id => {
                (place.bucket, place.key, place.bytes) = (object.bucket, object.key, object.size);
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        });
        place
    }
}

/// Written whole or not at all, and durable.
fn mark(path: &Path, now: u64) -> io::Result<()> {
    let draft = path.with_extension("restored-draft");
    let mut file = std::fs::File::create(&draft)?;
    write!(file, "{now}")?;
    file.sync_all()?;
    std::fs::rename(&draft, path)?;
    match path.parent() {
        Some(dir) => std::fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

/// Half of a digest of both: what a restore tells keys apart by.
fn key_digest(bucket: &str, key: &str) -> [u8; 16] {
    let mut hash = Sha256::new();
    hash.update((bucket.len() as u64).to_le_bytes());
    hash.update(bucket);
    hash.update(key);
    let digest: [u8; 32] = hash.finalize().into();
    std::array::from_fn(|at| digest[at])
}

/// What an order means: of each key the last object, in the order in which they were stored, and what is not there.
fn plan(archive: &Archive, order: &Order) -> Result<(Plan, Vec<Wanted>), ArchiveError> {
    let all = order.objects.is_empty();
    let buckets: HashSet<&str> = order
        .objects
        .iter()
        .filter(|wanted| wanted.key.is_empty())
        .map(|wanted| wanted.bucket.as_str())
        .collect();
    let named: HashMap<(&str, &str), &Wanted> = order
        .objects
        .iter()
        .filter(|wanted| !wanted.key.is_empty())
        .map(|wanted| ((wanted.bucket.as_str(), wanted.key.as_str()), wanted))
        .collect();
    let mut last: HashMap<[u8; 16], (Lsn, bool)> = HashMap::new();
    let mut met: HashSet<[u8; 16]> = HashSet::new();
    let mut too_many = false;
    archive.changes(None, &mut |change| {
        match change.what {
            What::Object(object) => {
                let (bucket, key) = (object.bucket.as_str(), object.key.as_str());
                let digest = key_digest(bucket, key);
                let by_name = named.get(&(bucket, key));
                let version = by_name.and_then(|wanted| wanted.version.as_ref());
                if by_name.is_some() && version.is_none_or(|version| *version == object.version) {
                    met.insert(digest);
                    last.insert(digest, (object.id, change.behind_damage));
                } else if by_name.is_none() && (all || buckets.contains(bucket)) {
                    last.insert(digest, (object.id, change.behind_damage));
                }
            }
            What::Deleted { bucket, keys } => {
                for removed in keys {
                    // Who names a key wants it although it was removed.
                    if !named.contains_key(&(bucket.as_str(), removed.key.as_str())) {
                        let digest = key_digest(&bucket, &removed.key);
                        let that = |(id, _): &(Lsn, bool)| {
                            let version = holdfast_store::object::VersionId::At(*id).to_string();
                            removed.version.as_ref().is_none_or(|removed| *removed == version)
                        };
                        if last.get(&digest).is_some_and(that) {
                            last.remove(&digest);
                        }
                    }
                }
            }
            _ => {}
        }
        too_many = last.len() > MOST_KEYS;
        if too_many { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    if too_many {
        return Err(ArchiveError::Invalid(format!(
            "these are more than {MOST_KEYS} keys: restore them bucket by bucket (BUCKET/), or by name"
        )));
    }
    let mut plan: Plan = last.into_values().collect();
    plan.sort_unstable();
    let absent = order
        .objects
        .iter()
        .filter(|wanted| !wanted.key.is_empty() && !met.contains(&key_digest(&wanted.bucket, &wanted.key)));
    Ok((plan, absent.cloned().collect()))
}

/// As HTTP wants it.
fn http_date(seconds: i64) -> String {
    let format = time::macros::format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let time = OffsetDateTime::from_unix_timestamp(seconds).ok();
    time.and_then(|time| time.format(&format).ok()).unwrap_or_default()
}
