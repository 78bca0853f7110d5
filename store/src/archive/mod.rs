//! What an archive of set-aside log bytes would have done to the store, and the bytes of the objects in it.
//!
//! ```text
//!   ArchiveReader -> Archive::changes: every operation in words      Archive::find: one object -> Body -> Bytewise
//!                                                                        |
//!        its bytes: records of the archive, or (an upload begun before the fork, a copy) of this member's own log
//! ```
//!
//! Nothing here changes the store, and nothing is guessed: conditions of a request are told and not judged, and an
//! object of which a byte is not to be had says so instead of being read in part. What refers to a position before the
//! archive is looked up in this member's own log and index, which are the same log up to the fork: what was moved since is
//! found where it is now, what has gone is said to be missing.
//!
//! Invariant: no byte leaves that is not the one that was written: each record's checksum is verified, and the bytes of an
//! object or a part are of the length that its operation says.

mod body;
mod change;

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;

use holdfast_heartbeat::types::{Epoch, Lsn};
use holdfast_replication::set_aside::ArchiveReader;
use holdfast_replication::{LogReader, RecordKind};

pub use self::body::{Body, Bytewise, Opened, Piece};
pub use self::change::{Change, DeletedKey, ObjectChange, Origin, What};
use self::change::{condition, deleted, setting_name};

use crate::checksum::{Checksum, ChecksumScope, combine};
use crate::files::FileKind;
use crate::index::{IndexError, Lookup, Tables, View, decode};
use crate::keys;
use crate::object::{Etag, Traits, UploadId};
use crate::op::{Change as OpChange, CompleteUpload, Extent, Op, PutObject, PutPart, Source};
use crate::seal::{StoreKeys, sealed_len};
use crate::state::{ObjectState, Version};

/// Copies of copies that are followed.
const MOST_COPIES: usize = 100;

/// Why an object of an archive cannot be had in full.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// Bytes, or what describes them, are not to be had.
    #[error("{0}")]
    Lost(String),
    /// The disk or the index failed.
    #[error("this member could not look: {0}")]
    Failed(String),
}

fn lost<T>(why: impl Into<String>) -> Result<T, Missing> {
    Err(Missing::Lost(why.into()))
}

impl From<IndexError> for Missing {
    fn from(error: IndexError) -> Missing {
        Missing::Failed(error.to_string())
    }
}

/// What this member has itself.
pub struct Own {
    /// Its index, with a hold on its log that is older.
    pub view: View,
    /// Its log.
    pub log: LogReader,
}

/// Where bytes were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// In the archive.
    Here(Extent),
    /// In this member's own log.
    There(Extent),
}

impl Found {
    fn extent(&self) -> Extent {
        match self {
            Found::Here(extent) | Found::There(extent) => *extent,
        }
    }

    fn with(&self, extent: Extent) -> Found {
        match self {
            Found::Here(_) => Found::Here(extent),
            Found::There(_) => Found::There(extent),
        }
    }
}

/// Bytes `start..start + len` of these; `None` where they have not that many.
fn cut(found: &[Found], start: u64, len: u64) -> Option<Vec<Found>> {
    let (mut skip, mut take, mut out) = (start, len, Vec::new());
    for place in found {
        let extent = place.extent();
        let here = u64::from(extent.len);
        if skip >= here {
            skip -= here;
            continue;
        }
        let taken = (here - skip).min(take);
        if taken == 0 {
            break;
        }
        out.push(place.with(Extent { offset: extent.offset + skip as u32, len: taken as u32, ..extent }));
        (skip, take) = (0, take - taken);
    }
    (take == 0).then_some(out)
}

/// The bytes that an operation of the archive names.
#[derive(Clone)]
struct Placed {
    lsn: Lsn,
    inline_at: u32,
    inline_len: u32,
    source: Source,
}

/// A part that the archive holds.
struct Part {
    size: u64,
    etag: Etag,
    checksums: Vec<Checksum>,
    placed: Placed,
}

/// An upload as the archive has it.
#[derive(Default)]
struct Upload {
    /// Where it began in the archive.
    begun: Option<(Traits, Option<crate::checksum::ChecksumPlan>)>,
    parts: BTreeMap<u16, Part>,
}

/// An operation with its place.
struct Read {
    lsn: Lsn,
    op: Op,
    inline_at: u32,
    inline_len: u32,
}

impl Read {
    fn placed(&self, source: &Source) -> Placed {
        Placed {
            lsn: self.lsn,
            inline_at: self.inline_at,
            inline_len: self.inline_len,
            source: source.clone(),
        }
    }
}

/// An archive whose content is told. Cheap to clone.
#[derive(Clone)]
pub struct Archive {
    reader: Arc<ArchiveReader>,
    fork: Lsn,
}

impl Archive {
    /// The archive of that reader. Below `fork` this member's own log is the one that the archive continued: its first
    /// byte's position, or that of the first of several archives that were cut at once.
    pub fn new(reader: ArchiveReader, fork: Lsn) -> Archive {
        let fork = fork.min(reader.archive().from);
        Archive { reader: Arc::new(reader), fork }
    }

    /// Its records.
    pub fn reader(&self) -> &ArchiveReader {
        &self.reader
    }

    fn read(&self, lsn: Lsn) -> Result<Read, String> {
        let record = self.reader.read(lsn).map_err(|error| error.to_string())?;
        let (op, inline_at) = Op::decode(&record.payload).map_err(|error| error.to_string())?;
        let inline_len = record.payload.len() as u32 - inline_at;
        Ok(Read { lsn, op, inline_at, inline_len })
    }

    /// Tells every change that the archive's operations would have made, in their order, until `visit` has enough.
    /// Housekeeping (delivered events, moved bytes, checkpoints, reigns) is left out. Reads the whole archive, object
    /// bytes in records of their own aside.
    pub fn changes(
        &self,
        own: Option<&Own>,
        visit: &mut dyn FnMut(Change) -> ControlFlow<()>,
    ) -> Result<(), Missing> {
        self.changes_after(None, own, visit)
    }

    /// As [`Archive::changes`], of the operations behind the one at `after` alone.
    pub fn changes_after(
        &self,
        after: Option<Lsn>,
        own: Option<&Own>,
        visit: &mut dyn FnMut(Change) -> ControlFlow<()>,
    ) -> Result<(), Missing> {
        // What came before is looked up where it is needed, if it was passed over.
        let mut uploads = after.is_none().then(HashMap::new);
        for header in self.reader.headers_after(after) {
            let header = header.map_err(|error| Missing::Failed(error.to_string()))?;
            if header.kind != RecordKind::Op {
                continue;
            }
            let (what, wall_ms) = match self.read(header.lsn) {
                Err(why) => (Some(What::Unreadable { bytes: header.record_len(), why }), None),
                Ok(read) => {
                    let wall_ms = wall_ms(&read.op);
                    (self.told(&read, own, &mut uploads), wall_ms)
                }
            };
            let Some(what) = what else { continue };
            let behind_damage = self.reader.is_behind_damage(header.lsn);
            let change = Change { lsn: header.lsn, epoch: header.epoch, wall_ms, behind_damage, what };
            if visit(change).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// The change in words; none for housekeeping.
    fn told(
        &self,
        read: &Read,
        own: Option<&Own>,
        uploads: &mut Option<HashMap<UploadId, Upload>>,
    ) -> Option<What> {
        Some(match &read.op {
            Op::CreateBucket { bucket, owner, .. } => {
                What::BucketCreated { bucket: bucket.clone(), owner: owner.clone() }
            }
            Op::DeleteBucket { bucket } => What::BucketDeleted { bucket: bucket.clone() },
            Op::SetBucket { bucket, setting } => {
                What::BucketChanged { bucket: bucket.clone(), setting: setting_name(setting) }
            }
            Op::PutObject(op) => {
                let origin = match op.source {
                    Source::Object { .. } => Origin::Copy,
                    Source::Inline | Source::Extents { .. } => Origin::Put,
                };
                let mut told = ObjectChange::new(read.lsn, &op.bucket, &op.key, &op.traits, origin);
                (told.size, told.etag) = (Some(op.size), op.etag.to_string());
                told.condition = condition(&op.precondition);
                told.missing = self.put(read, op, own).err().map(|why| why.to_string());
                What::Object(Box::new(told))
            }
            Op::DeleteObjects { bucket, keys, .. } => {
                What::Deleted { bucket: bucket.clone(), keys: keys.iter().map(deleted).collect() }
            }
            Op::ChangeObject { bucket, key, version, change, .. } => What::ObjectChanged {
                bucket: bucket.clone(),
                key: key.clone(),
                version: version.map(|version| version.to_string()),
                changed: match change {
                    OpChange::Tags(_) => "tags",
                    OpChange::Acl(_) => "access list",
                    OpChange::Retention { .. } => "retention",
                    OpChange::LegalHold(_) => "legal hold",
                }
                .to_owned(),
            },
            Op::CreateUpload { bucket, key, upload, traits, checksum, .. } => {
                if let Some(uploads) = uploads {
                    uploads.entry(*upload).or_default().begun = Some(((**traits).clone(), *checksum));
                }
                What::UploadBegun { bucket: bucket.clone(), key: key.clone(), upload: upload.to_string() }
            }
            Op::PutPart(op) => {
                if let Some(uploads) = uploads {
                    uploads.entry(op.upload).or_default().store(read, op);
                }
                What::PartStored {
                    bucket: op.bucket.clone(),
                    key: op.key.clone(),
                    upload: op.upload.to_string(),
                    number: op.number,
                    size: op.size,
                }
            }
            Op::CompleteUpload(op) => {
                let upload = match uploads {
                    Some(uploads) => uploads.remove(&op.upload).unwrap_or_default(),
                    None => self.gather(read.lsn, op.upload).unwrap_or_default(),
                };
                let whole = self.complete(read.lsn, op, &upload, own);
                let nothing = Traits::default();
                let traits = match (&whole, &upload.begun) {
                    (Ok(body), _) => &body.traits,
                    (Err(_), Some((traits, _))) => traits,
                    (Err(_), None) => &nothing,
                };
                let mut told = ObjectChange::new(read.lsn, &op.bucket, &op.key, traits, Origin::Upload);
                told.condition = condition(&op.precondition);
                told.etag = op.joined().map_or_else(String::new, |etag| etag.to_string());
                match whole {
                    Ok(body) => told.size = Some(body.size),
                    Err(why) => (told.size, told.missing) = (op.size, Some(why.to_string())),
                }
                What::Object(Box::new(told))
            }
            Op::AbortUpload { bucket, key, upload } => {
                if let Some(uploads) = uploads {
                    uploads.remove(upload);
                }
                What::UploadAborted { bucket: bucket.clone(), key: key.clone(), upload: upload.to_string() }
            }
            // Who it is, and nothing of its keys.
            Op::PutUser { user, exists } => What::UserStored { user: user.name.clone(), existed: *exists },
            Op::DeleteUser { name } => What::UserDeleted { user: name.clone() },
            Op::PutFile(op) => {
                let size = (op.traits.kind != FileKind::Gone).then_some(op.size);
                What::FileStored { set: op.set.clone(), path: op.path.clone(), size }
            }
            Op::EventsDelivered { .. }
            | Op::RaiseFloor { .. }
            | Op::Relocate { .. }
            | Op::ForgetFiles { .. } => return None,
        })
    }

    /// The object that the operation at `id` stores: which bytes it is made of, and what comes with it.
    pub fn find(&self, id: Lsn, own: Option<&Own>) -> Result<Body, Missing> {
        let read = self.read(id).map_err(Missing::Lost)?;
        self.object(&read, own, 0)
    }

    fn object(&self, read: &Read, own: Option<&Own>, copies: usize) -> Result<Body, Missing> {
        match &read.op {
            Op::PutObject(op) => self.put_after(read, op, own, copies),
            Op::CompleteUpload(op) => {
                let upload = self.gather(read.lsn, op.upload)?;
                self.complete_after(read.lsn, op, &upload, own, copies)
            }
            _ => lost(format!("what is at LSN {} stores no object", read.lsn)),
        }
    }

    /// What the archive holds of an upload before `end`.
    fn gather(&self, end: Lsn, wanted: UploadId) -> Result<Upload, Missing> {
        let mut upload = Upload::default();
        for header in self.reader.headers() {
            let header = header.map_err(|error| Missing::Failed(error.to_string()))?;
            if header.lsn >= end {
                break;
            }
            if header.kind != RecordKind::Op {
                continue;
            }
            let Ok(read) = self.read(header.lsn) else { continue };
            match &read.op {
                Op::CreateUpload { upload: id, traits, checksum, .. } if *id == wanted => {
                    upload.begun = Some(((**traits).clone(), *checksum));
                }
                Op::PutPart(op) if op.upload == wanted => upload.store(&read, op),
                _ => {}
            }
        }
        Ok(upload)
    }

    fn put(&self, read: &Read, op: &PutObject, own: Option<&Own>) -> Result<Body, Missing> {
        self.put_after(read, op, own, 0)
    }

    fn put_after(
        &self,
        read: &Read,
        op: &PutObject,
        own: Option<&Own>,
        copies: usize,
    ) -> Result<Body, Missing> {
        let sealed = op.traits.encryption.is_some();
        let found = self.resolve(&read.placed(&op.source), op.size, sealed, own, copies)?;
        // The tag of a copy of an object of parts is not the digest of these bytes.
        let md5 = (op.etag.parts == 0).then_some(op.etag.md5);
        let piece = Piece { number: 0, size: op.size, md5, checksums: op.checksums.clone(), found };
        Ok(Body {
            id: read.lsn,
            bucket: op.bucket.clone(),
            key: op.key.clone(),
            traits: op.traits.clone(),
            size: op.size,
            etag: op.etag,
            checksums: op.checksums.clone(),
            modified_ms: op.wall_ms,
            of_parts: false,
            plan: None,
            pieces: vec![piece],
        })
    }

    fn complete(
        &self,
        lsn: Lsn,
        op: &CompleteUpload,
        upload: &Upload,
        own: Option<&Own>,
    ) -> Result<Body, Missing> {
        self.complete_after(lsn, op, upload, own, 0)
    }

    fn complete_after(
        &self,
        lsn: Lsn,
        op: &CompleteUpload,
        upload: &Upload,
        own: Option<&Own>,
        copies: usize,
    ) -> Result<Body, Missing> {
        let (traits, plan) = match (&upload.begun, own) {
            (Some(begun), _) => begun.clone(),
            (None, Some(own)) => match own_upload(own, op)? {
                Some(begun) => begun,
                None => {
                    return lost(
                        "the upload began before this archive, and this member no longer has what it began with",
                    );
                }
            },
            (None, None) => return lost("the upload began before this archive"),
        };
        let Some(etag) = op.joined() else { return lost("its list of parts is not what any release writes") };
        let mut pieces = Vec::with_capacity(op.parts.len());
        for listed in &op.parts {
            let sealed = traits.encryption.is_some();
            let here = upload.parts.get(&listed.number).filter(|part| part.etag.to_string() == listed.etag);
            let piece = match (here, own) {
                (Some(part), _) => {
                    let found = self.resolve(&part.placed, part.size, sealed, own, copies)?;
                    let md5 = Some(part.etag.md5);
                    Piece {
                        number: listed.number,
                        size: part.size,
                        md5,
                        checksums: part.checksums.clone(),
                        found,
                    }
                }
                (None, Some(own)) => own_part(own, op.upload, listed.number, &listed.etag, sealed)?,
                (None, None) => return lost(format!("part {} is not in this archive", listed.number)),
            };
            pieces.push(piece);
        }
        let checksums = plan.and_then(|plan| {
            let of = |piece: &Piece| {
                let sum = piece.checksums.iter().find(|sum| sum.kind == plan.kind)?;
                Some((sum.base64.clone(), piece.size))
            };
            let sums: Option<Vec<_>> = pieces.iter().map(of).collect();
            combine(plan, sums?.iter().map(|(base64, len)| (base64.as_str(), *len)))
        });
        Ok(Body {
            id: lsn,
            bucket: op.bucket.clone(),
            key: op.key.clone(),
            traits,
            size: pieces.iter().map(|piece| piece.size).sum(),
            etag,
            checksums: checksums.into_iter().collect(),
            modified_ms: op.wall_ms,
            of_parts: true,
            plan,
            pieces,
        })
    }

    /// Where the bytes are.
    fn resolve(
        &self,
        placed: &Placed,
        size: u64,
        sealed: bool,
        own: Option<&Own>,
        copies: usize,
    ) -> Result<Vec<Found>, Missing> {
        let found = match &placed.source {
            Source::Inline if placed.inline_len == 0 => Vec::new(),
            Source::Inline => {
                let (offset, len) = (placed.inline_at, placed.inline_len);
                vec![Found::Here(Extent { lsn: placed.lsn, offset, len })]
            }
            Source::Extents { epoch, extents } => {
                extents.iter().map(|extent| self.locate(*epoch, *extent, own)).collect::<Result<_, _>>()?
            }
            Source::Object { bucket, key, id, start, len, .. } => {
                let all = self.copied((bucket, key, *id), placed.lsn, own, copies)?;
                match cut(&all, *start, *len) {
                    Some(found) => found,
                    None => return lost(format!("it copies more of {bucket}/{key} than there is")),
                }
            }
        };
        let stored = if sealed { sealed_len(size) } else { size };
        let there: u64 = found.iter().map(|place| u64::from(place.extent().len)).sum();
        if there != stored {
            return lost(format!("{there} of {stored} bytes are named by its operation"));
        }
        Ok(found)
    }

    /// A data record of that epoch, in the archive or before the fork.
    fn locate(&self, epoch: Epoch, extent: Extent, own: Option<&Own>) -> Result<Found, Missing> {
        let covers = |header: &holdfast_replication::record::Header| {
            let inside = u64::from(extent.offset) + u64::from(extent.len) <= u64::from(header.payload_len);
            header.epoch == epoch && header.kind == RecordKind::Data && inside
        };
        if let Ok(header) = self.reader.header(extent.lsn)
            && covers(&header)
        {
            return Ok(Found::Here(extent));
        }
        if extent.lsn < self.fork
            && let Some(own) = own
            && let Ok(header) = own.log.header(extent.lsn)
            && covers(&header)
        {
            return Ok(Found::There(extent));
        }
        let whose =
            if extent.lsn < self.fork { "this member's log no longer has" } else { "the archive lacks" };
        lost(format!("{whose} its bytes at LSN {}", extent.lsn))
    }

    /// All of the stored bytes of the object that the operation at `id` made.
    fn copied(
        &self,
        (bucket, key, id): (&str, &str, Lsn),
        copy: Lsn,
        own: Option<&Own>,
        copies: usize,
    ) -> Result<Vec<Found>, Missing> {
        if id >= self.reader.archive().from {
            if id >= copy || copies >= MOST_COPIES {
                return lost(format!("it is a copy of a copy, {copies} times, of {bucket}/{key}"));
            }
            let read = self.read(id).map_err(|why| {
                Missing::Lost(format!(
                    "it is a copy of {bucket}/{key}, of LSN {id}, which cannot be read: {why}"
                ))
            })?;
            let body = self.object(&read, own, copies + 1)?;
            return Ok(body.pieces.into_iter().flat_map(|piece| piece.found).collect());
        }
        let gone = || {
            format!(
                "it is a copy of {bucket}/{key} as it was at LSN {id}, which this member does not have any more"
            )
        };
        let (Some(own), true) = (own, id < self.fork) else { return lost(gone()) };
        let Some(object) = own_object(own, bucket, key, id)? else { return lost(gone()) };
        own_extents(own, &object)
    }
}

impl Upload {
    fn store(&mut self, read: &Read, op: &PutPart) {
        let part = Part {
            size: op.size,
            etag: op.etag,
            checksums: op.checksums.clone(),
            placed: read.placed(&op.source),
        };
        self.parts.insert(op.number, part);
    }
}

fn wall_ms(op: &Op) -> Option<u64> {
    match op {
        Op::CreateBucket { wall_ms, .. }
        | Op::DeleteObjects { wall_ms, .. }
        | Op::ChangeObject { wall_ms, .. }
        | Op::CreateUpload { wall_ms, .. } => Some(*wall_ms),
        Op::PutObject(op) => Some(op.wall_ms),
        Op::PutPart(op) => Some(op.wall_ms),
        Op::PutFile(op) => Some(op.wall_ms),
        Op::CompleteUpload(op) => Some(op.wall_ms),
        _ => None,
    }
}

/// What an upload that began before the fork carries: it is under way, or an object was made of it since.
fn own_upload(
    own: &Own,
    op: &CompleteUpload,
) -> Result<Option<(Traits, Option<crate::checksum::ChecksumPlan>)>, Missing> {
    if let Some(upload) = own.view.upload(&op.bucket, &op.key, op.upload)? {
        return Ok(Some((upload.traits, upload.checksum)));
    }
    let made =
        versions(own, &op.bucket, &op.key)?.into_iter().find(|object| object.upload == Some(op.upload));
    Ok(made.map(|object| {
        let plan = object.checksums.first().map(|sum| {
            let scope = if object.checksums.len() == 1 { sum.scope } else { ChecksumScope::FullObject };
            crate::checksum::ChecksumPlan { kind: sum.kind, scope }
        });
        (object.traits, plan)
    }))
}

/// All objects under a key, the current one first.
fn versions(own: &Own, bucket: &str, key: &str) -> Result<Vec<ObjectState>, IndexError> {
    let mut all: Vec<_> = own.view.object(bucket, key)?.into_iter().collect();
    let of_key = keys::versions_of(bucket, key.as_bytes());
    let end = keys::after_prefix(&of_key);
    for entry in own.view.scan(&of_key, end.as_deref()) {
        let (key, value) = entry?;
        if let Version::Object(object) = decode("version", &key, &value)? {
            all.push(*object);
        }
    }
    Ok(all)
}

/// The object that the operation at `id` made, if this member still has it.
fn own_object(own: &Own, bucket: &str, key: &str, id: Lsn) -> Result<Option<ObjectState>, IndexError> {
    if let Some(object) = own.view.object(bucket, key)?.filter(|object| object.id == id) {
        return Ok(Some(object));
    }
    Ok(match own.view.former(bucket, key, id)? {
        Some(Version::Object(object)) => Some(*object),
        Some(Version::Marker(_)) | None => None,
    })
}

/// All of an own object's stored bytes.
fn own_extents(own: &Own, object: &ObjectState) -> Result<Vec<Found>, Missing> {
    let layouts = match &object.layout {
        crate::state::Layout::Parts(upload) => {
            own.view.parts(*upload)?.into_iter().map(|(_, part)| part.layout).collect()
        }
        layout => vec![layout.clone()],
    };
    let mut found = Vec::new();
    for layout in layouts {
        match own.view.cut_layout(&layout, 0, layout.stored_len())? {
            Some(extents) => found.extend(extents.into_iter().map(Found::There)),
            None => return lost("this member's index does not have all of what it copies"),
        }
    }
    Ok(found)
}

/// A part that was stored before the fork.
fn own_part(own: &Own, upload: UploadId, number: u16, etag: &str, sealed: bool) -> Result<Piece, Missing> {
    let part = own.view.part(upload, number)?.filter(|part| part.etag.to_string() == etag);
    let Some(part) = part else {
        return lost(format!(
            "part {number} was stored before this archive, and this member does not have it any more"
        ));
    };
    let stored = part.layout.stored_len();
    let extents = own.view.cut_layout(&part.layout, 0, stored)?;
    let Some(extents) = extents.filter(|_| stored == if sealed { sealed_len(part.size) } else { part.size })
    else {
        return lost(format!("this member's index does not have all of part {number}"));
    };
    Ok(Piece {
        number,
        size: part.size,
        md5: Some(part.etag.md5),
        checksums: part.checksums,
        found: extents.into_iter().map(Found::There).collect(),
    })
}

impl Body {
    /// The same, with what opens it where it is encrypted.
    pub fn open(self, archive: &Archive, own: &Own, keys: &StoreKeys) -> Result<Opened, Missing> {
        Opened::new(self, archive, own, keys)
    }
}
