//! What a host does for one request.
//!
//! It does what the production front (`holdfast_store::s3`) does with the log and the index, in the same
//! order: bodies above the inline limit go into data records first, every condition is judged when the
//! operation is applied, reads go from a view of the index to verified bytes of the log. It knows nothing
//! of time, threads and leases: who runs it checks the lease before [`Session::begin`] and again before an
//! answer leaves, and keeps the epoch of the beginning.
//!
//! Invariant: an answer is a [`super::call::Code`] only if no operation of this request is in the log.

use std::collections::VecDeque;

use bytes::Bytes;
use holdfast_heartbeat::types::{Epoch, Lsn};
use holdfast_replication::replica::SubmitError;
use holdfast_replication::testing::Dice;
use holdfast_store::apply::{Outcome, Refusal};
use holdfast_store::backend::{ReadError, ReadLog};
use holdfast_store::index::{Index, IndexError, Lookup, View};
use holdfast_store::listing::{Item, MAX_PAGE, Query, list};
use holdfast_store::object::{Etag, Traits, UploadId};
use holdfast_store::op::{
    CompleteUpload, DeleteKey, Extent, Match, Op, PartRef, Precondition, PutObject, PutPart, Source,
};
use holdfast_store::state::ObjectState;

use super::blob::Blob;
use super::call::{Answer, BUCKET, Call, Code, Condition, Doubt, Key, Listed};

/// A body up to this many bytes travels inside its operation. The production limit is larger; this one
/// lets small bodies, of which many can be written, take both ways.
pub const INLINE_MAX: u64 = 2048;

/// The bytes of each data record but the last.
pub const CHUNK_LEN: usize = 1024;

/// How often a copy is tried anew when its source changes under it, as in the production front.
const COPY_TRIES: u32 = 5;

/// What a session may look at.
pub struct Context<'a> {
    /// The host's index.
    pub index: &'a Index,
    /// The host's log.
    pub log: &'a dyn ReadLog,
    /// The host's wall clock, in milliseconds since 1970.
    pub wall_ms: u64,
    /// The reign under which the host serves.
    pub epoch: Epoch,
    /// Chance.
    pub dice: &'a mut Dice,
}

/// What to do next for a request.
#[derive(Debug)]
pub enum Step {
    /// Submit a data record and go on as soon as it is appended.
    Append(Vec<Bytes>),
    /// Submit an operation record and go on once it is committed.
    Commit(Vec<Bytes>),
    /// Answer the client. Nothing follows.
    Answer(Answer),
}

/// What the log said.
#[derive(Debug)]
pub enum Logged {
    /// The data record has its place.
    Appended {
        /// Its beginning.
        lsn: Lsn,
        /// Its end.
        end: Lsn,
    },
    /// The operation is committed and applied.
    Committed(Outcome),
    /// Neither.
    Refused(SubmitError),
}

/// What the log is asked for at the moment.
#[derive(Debug)]
enum Asked {
    Data,
    Operation,
    /// The operation that creates this upload.
    Upload(UploadId),
    Nothing,
}

/// One request on one host.
#[derive(Debug)]
pub struct Session {
    call: Call,
    epoch: Epoch,
    chunks: VecDeque<Bytes>,
    extents: Vec<Extent>,
    /// Whether there ever were any.
    has_extents: bool,
    asked: Asked,
    tries_left: u32,
}

/// Leaves with an answer when something of the index or log cannot be read.
enum Stop {
    Refused(Code),
}

impl From<IndexError> for Stop {
    fn from(_: IndexError) -> Stop {
        Stop::Refused(Code::Internal)
    }
}

impl From<ReadError> for Stop {
    fn from(_: ReadError) -> Stop {
        Stop::Refused(Code::Damaged)
    }
}

impl Session {
    /// Takes in a whole request.
    pub fn begin(call: Call, context: &mut Context<'_>) -> (Session, Step) {
        let mut session = Session {
            call,
            epoch: context.epoch,
            chunks: VecDeque::new(),
            extents: Vec::new(),
            has_extents: false,
            asked: Asked::Nothing,
            tries_left: COPY_TRIES,
        };
        let step = session.first(context).unwrap_or_else(|Stop::Refused(code)| refuse(code));
        (session, step)
    }

    /// Goes on after the log has done, or refused, what the last step asked for.
    pub fn go_on(&mut self, logged: Logged, context: &mut Context<'_>) -> Step {
        let step = match (std::mem::replace(&mut self.asked, Asked::Nothing), logged) {
            (Asked::Data, Logged::Appended { lsn, .. }) => {
                let len = self.chunks.pop_front().map_or(0, |chunk| chunk.len() as u32);
                self.extents.push(Extent { lsn, offset: 0, len });
                self.has_extents = true;
                self.store_body(context)
            }
            // Without its operation the body's bytes mean nothing: whatever becomes of them, the client
            // may rely on it that nothing was stored.
            (Asked::Data, Logged::Refused(error)) => Ok(refuse(before_the_operation(&error))),
            (Asked::Operation | Asked::Upload(_), Logged::Refused(error)) => Ok(refused(&error)),
            (Asked::Upload(upload), Logged::Committed(Outcome::UploadCreated)) => {
                Ok(Step::Answer(Answer::UploadCreated { upload }))
            }
            (Asked::Operation, Logged::Committed(Outcome::Refused(Refusal::SourceChanged)))
                if self.tries_left > 0 =>
            {
                self.copy(context)
            }
            (Asked::Operation | Asked::Upload(_), Logged::Committed(outcome)) => Ok(answered(outcome)),
            (asked, logged) => panic!("asked the log for {asked:?} and got {logged:?}"),
        };
        step.unwrap_or_else(|Stop::Refused(code)| refuse(code))
    }

    /// The epoch in which a body was received that has records of its own, if there is one.
    pub fn received_in(&self) -> Option<Epoch> {
        self.has_extents.then_some(self.epoch)
    }

    /// What was asked for.
    pub fn call(&self) -> &Call {
        &self.call
    }

    fn first(&mut self, context: &mut Context<'_>) -> Result<Step, Stop> {
        let bucket = BUCKET.to_owned();
        let wall_ms = context.wall_ms;
        match &self.call {
            Call::CreateBucket => {
                let (owner, tenant, settings) = (String::new(), None, Vec::new());
                self.commit(&Op::CreateBucket { bucket, owner, tenant, settings, wall_ms }, Bytes::new())
            }
            Call::Put { blob, .. } => {
                let body = blob.bytes();
                must_have_bucket(&context.index.view())?;
                self.receive(body, context)
            }
            Call::UploadPart { key, upload, blob, .. } => {
                let body = blob.bytes();
                let view = context.index.view();
                must_have_bucket(&view)?;
                if view.upload(BUCKET, &key.name(), *upload)?.is_none() {
                    return Err(Stop::Refused(Code::NoSuchUpload));
                }
                self.receive(body, context)
            }
            Call::Get { key } => {
                let view = context.index.view();
                let object = find(&view, *key)?;
                let mut body = Vec::with_capacity(object.size as usize);
                let extents = view.cut(&object, 0, object.size)?.ok_or(Stop::Refused(Code::Damaged))?;
                for extent in extents {
                    let bytes = context.log.read_slice(extent.lsn, extent.offset, extent.len)?;
                    if bytes.len() != extent.len as usize {
                        return Err(Stop::Refused(Code::Damaged));
                    }
                    body.extend_from_slice(&bytes);
                }
                Ok(Step::Answer(Answer::Object { etag: object.etag, body: Bytes::from(body) }))
            }
            Call::Head { key } => {
                let object = find(&context.index.view(), *key)?;
                Ok(Step::Answer(Answer::Described { etag: object.etag, size: object.size }))
            }
            Call::Delete { key, if_match } => {
                let if_match = if_match.map(|etag| Match::Etag(etag.to_string()));
                let keys = vec![DeleteKey { key: key.name(), if_match, ..DeleteKey::default() }];
                let (owner, bypass_governance) = (String::new(), false);
                let op = Op::DeleteObjects { bucket, owner, keys, bypass_governance, wall_ms };
                self.commit(&op, Bytes::new())
            }
            Call::List { prefix, start_after, max_keys } => {
                let view = context.index.view();
                must_have_bucket(&view)?;
                let after = start_after.map(Key::name);
                let limit = usize::from(*max_keys).min(MAX_PAGE);
                let query = Query { bucket: BUCKET, prefix, delimiter: None, after: after.as_deref(), limit };
                let page = list(&view, &query)?;
                let entries = page.items.into_iter().filter_map(|item| match item {
                    Item::Object(name, object) => Some(Listed { name, etag: object.etag, size: object.size }),
                    Item::CommonPrefix(_) => None,
                });
                let entries = entries.collect();
                Ok(Step::Answer(Answer::Listing { entries, truncated: page.truncated }))
            }
            Call::Copy { .. } => self.copy(context),
            Call::CreateUpload { key } => {
                let mut id = [0; 16];
                id[..8].copy_from_slice(&context.dice.roll().to_be_bytes());
                id[8..].copy_from_slice(&context.dice.roll().to_be_bytes());
                let upload = UploadId(id);
                let key = key.name();
                let traits = Box::default();
                let op = Op::CreateUpload { bucket, key, upload, traits, checksum: None, wall_ms };
                let step = self.commit(&op, Bytes::new());
                self.asked = Asked::Upload(upload);
                step
            }
            Call::Complete { key, upload, parts, condition } => {
                let parts = parts.iter();
                let parts =
                    parts.map(|(number, blob)| PartRef { number: *number, etag: blob.etag().to_string() });
                let op = Op::CompleteUpload(Box::new(CompleteUpload {
                    bucket,
                    key: key.name(),
                    upload: *upload,
                    parts: parts.collect(),
                    checksum: None,
                    size: None,
                    precondition: precondition(*condition),
                    wall_ms,
                }));
                self.commit(&op, Bytes::new())
            }
            Call::Abort { key, upload } => {
                let op = Op::AbortUpload { bucket, key: key.name(), upload: *upload };
                self.commit(&op, Bytes::new())
            }
        }
    }

    fn commit(&mut self, op: &Op, inline: Bytes) -> Result<Step, Stop> {
        let payload = op.encode(inline).map_err(|_| Stop::Refused(Code::Invalid))?;
        self.asked = Asked::Operation;
        Ok(Step::Commit(payload))
    }

    fn receive(&mut self, mut body: Bytes, context: &mut Context<'_>) -> Result<Step, Stop> {
        if body.len() as u64 > INLINE_MAX {
            while !body.is_empty() {
                self.chunks.push_back(body.split_to(body.len().min(CHUNK_LEN)));
            }
        }
        self.store_body(context)
    }

    /// Appends the next chunk, or commits the operation that the body is for.
    fn store_body(&mut self, context: &mut Context<'_>) -> Result<Step, Stop> {
        if let Some(chunk) = self.chunks.front() {
            self.asked = Asked::Data;
            return Ok(Step::Append(vec![chunk.clone()]));
        }
        let (bucket, wall_ms) = (BUCKET.to_owned(), context.wall_ms);
        let place = |blob: Blob, extents: &mut Vec<Extent>, epoch: Epoch| {
            if extents.is_empty() {
                (Source::Inline, blob.bytes())
            } else {
                (Source::Extents { epoch, extents: std::mem::take(extents) }, Bytes::new())
            }
        };
        match &self.call {
            Call::Put { key, blob, condition } => {
                let (source, inline) = place(*blob, &mut self.extents, self.epoch);
                let op = Op::PutObject(Box::new(PutObject {
                    bucket,
                    key: key.name(),
                    traits: Traits::default(),
                    size: blob.len(),
                    etag: blob.etag(),
                    checksums: Vec::new(),
                    source,
                    precondition: precondition(*condition),
                    wall_ms,
                }));
                self.commit(&op, inline)
            }
            Call::UploadPart { key, upload, number, blob } => {
                let (source, inline) = place(*blob, &mut self.extents, self.epoch);
                let op = Op::PutPart(Box::new(PutPart {
                    bucket,
                    key: key.name(),
                    upload: *upload,
                    number: *number,
                    size: blob.len(),
                    etag: blob.etag(),
                    checksums: Vec::new(),
                    source,
                    wall_ms,
                }));
                self.commit(&op, inline)
            }
            call => panic!("a request without a body stores one: {call}"),
        }
    }

    fn copy(&mut self, context: &mut Context<'_>) -> Result<Step, Stop> {
        let Call::Copy { from, to } = self.call else { panic!("only a copy has a source: {}", self.call) };
        self.tries_left = self.tries_left.saturating_sub(1);
        let source = find(&context.index.view(), from)?;
        let op = Op::PutObject(Box::new(PutObject {
            bucket: BUCKET.to_owned(),
            key: to.name(),
            traits: source.traits,
            size: source.size,
            etag: source.etag,
            checksums: source.checksums,
            source: Source::Object {
                bucket: BUCKET.to_owned(),
                key: from.name(),
                version: None,
                id: source.id,
                start: 0,
                len: source.size,
            },
            precondition: Precondition::default(),
            wall_ms: context.wall_ms,
        }));
        self.commit(&op, Bytes::new())
    }
}

fn refuse(code: Code) -> Step {
    Step::Answer(Answer::Refused(code))
}

fn must_have_bucket(view: &View) -> Result<(), Stop> {
    view.bucket(BUCKET)?.map(drop).ok_or(Stop::Refused(Code::NoSuchBucket))
}

fn find(view: &View, key: Key) -> Result<ObjectState, Stop> {
    must_have_bucket(view)?;
    view.object(BUCKET, &key.name())?.ok_or(Stop::Refused(Code::NoSuchKey))
}

fn precondition(condition: Condition) -> Precondition {
    match condition {
        Condition::Always => Precondition::default(),
        Condition::Absent => Precondition { if_none_match: Some(Match::Any), ..Precondition::default() },
        Condition::Is(etag) => {
            Precondition { if_match: Some(Match::Etag(etag.to_string())), ..Precondition::default() }
        }
    }
}

fn before_the_operation(error: &SubmitError) -> Code {
    match error {
        SubmitError::NotPrimary { .. } => Code::NotPrimary,
        SubmitError::DiskFull => Code::DiskFull,
        SubmitError::Overloaded => Code::SlowDown,
        SubmitError::Refused(_) => Code::Invalid,
        SubmitError::Failed(_) => Code::Internal,
    }
}

fn refused(error: &SubmitError) -> Step {
    match error {
        SubmitError::NotPrimary { maybe_stored: true } => Step::Answer(Answer::Unknown(Doubt::NotPrimary)),
        SubmitError::Failed(_) => Step::Answer(Answer::Unknown(Doubt::Failed)),
        error => refuse(before_the_operation(error)),
    }
}

fn answered(outcome: Outcome) -> Step {
    let refusal = match outcome {
        Outcome::BucketCreated => return Step::Answer(Answer::BucketCreated),
        Outcome::Stored(stored) => return Step::Answer(Answer::Stored { etag: stored.etag }),
        Outcome::UploadAborted => return Step::Answer(Answer::UploadAborted),
        Outcome::Deleted(answers) => match answers.into_iter().next() {
            Some(Err(refusal)) => refusal,
            _ => return Step::Answer(Answer::Deleted),
        },
        Outcome::Refused(refusal) => refusal,
        Outcome::Nothing | Outcome::BucketDeleted | Outcome::Changed | Outcome::UploadCreated => {
            return refuse(Code::Internal);
        }
    };
    refuse(match refusal {
        Refusal::NoSuchBucket => Code::NoSuchBucket,
        Refusal::BucketExists => Code::BucketExists,
        Refusal::NoSuchKey => Code::NoSuchKey,
        Refusal::PreconditionFailed => Code::PreconditionFailed,
        Refusal::NoSuchUpload => Code::NoSuchUpload,
        Refusal::InvalidPart => Code::InvalidPart,
        Refusal::EntityTooSmall => Code::EntityTooSmall,
        Refusal::SourceChanged | Refusal::StaleEpoch | Refusal::GivenUp => Code::Unavailable,
        // None of these calls asks for anything that could be refused so.
        _ => Code::Invalid,
    })
}

/// The entity tag that an object has if this call makes it; a copy's depends on its source.
pub fn etag_of(call: &Call) -> Option<Etag> {
    match call {
        Call::Put { blob, .. } => Some(blob.etag()),
        Call::Complete { parts, .. } => Some(Blob::joined_etag(parts.iter().map(|(_, blob)| *blob))),
        _ => None,
    }
}
