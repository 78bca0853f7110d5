//! How an object's bytes leave: extent by extent, each verified before its first byte is sent, and opened
//! where it is sealed.
//!
//! An extent is read when the one before was handed to the connection: about 2 MiB for each request. Long plain ones are
//! only looked at, and the kernel sends them from their file ([`super::passage`]). A record that fails its checksum, or a
//! member that may no longer serve, ends the connection in the middle of the body: the client sees fewer bytes than
//! announced, never wrong ones.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::Stream;
use s3s::StdError;
use s3s::dto::StreamingBlob;
use s3s::stream::{ByteStream, RemainingLength};

use super::Store;
use super::budget::Share;
use super::passage::LookAgain;
use crate::backend::{Damage, FileRange, Held, ReadError};
use crate::index::{IndexError, Lookup, View};
use crate::op::{CHUNK_LEN, Extent};
use crate::seal::{Key, Opener, SALT, SealedRange};
use crate::state::{Layout, ObjectState};

/// Shorter extents are read: the kernel has more to do for each than a copy of them costs.
const SENT_FROM_FILE: u32 = 128 * 1024;

/// What goes out next.
pub(super) enum Piece {
    /// These bytes.
    Bytes(Bytes),
    /// The bytes that lie there.
    File(Found),
}

/// An extent that was looked at.
pub(super) struct Found {
    extent: Extent,
    pub(super) range: FileRange,
    /// Keeps it readable.
    held: Option<Held>,
}

/// Reads one extent; to be called where waiting for the disk is allowed.
fn read_now(store: &Store, extent: Extent) -> Result<Bytes, ReadError> {
    let read = store.log.read_slice(extent.lsn, extent.offset, extent.len).and_then(|bytes| {
        if bytes.len() == extent.len as usize {
            Ok(bytes)
        } else {
            Err(ReadError::Damaged(format!("{} of {} bytes", bytes.len(), extent.len)))
        }
    });
    read.inspect_err(|error| tell(store, extent, error))
}

/// Looks at one extent, which is read where the kernel cannot send it; as [`read_now`].
fn look_now(store: &Store, extent: Extent) -> Result<Piece, ReadError> {
    if (SENT_FROM_FILE..=CHUNK_LEN as u32).contains(&extent.len) {
        let found = store.log.file_range(extent.lsn, extent.offset, extent.len);
        if let Some(range) = found.inspect_err(|error| tell(store, extent, error))? {
            return Ok(Piece::File(Found { extent, range, held: None }));
        }
    }
    read_now(store, extent).map(Piece::Bytes)
}

fn tell(store: &Store, extent: Extent, error: &ReadError) {
    tracing::error!(lsn = %extent.lsn, reason = %error, "an object could not be read back");
    (store.on_damage)(Damage { extent, error: error.clone() });
}

/// A run of extents that belong to one body, with what opens it.
struct Segment {
    sealed: Option<(Key, Vec<Extent>, SealedRange)>,
    opener: Option<Opener>,
    extents: VecDeque<Extent>,
}

/// The bytes of a read, still to be read.
pub(super) struct Bytewise {
    segments: VecDeque<Segment>,
    len: u64,
    /// Whether long extents may be left to the kernel.
    from_files: bool,
    /// Keeps the extents readable, given up meanwhile or not: since when.
    held: Option<(Instant, Held)>,
}

/// How long an answer keeps what was given up since it began. A client that takes longer asks for the rest.
const HELD_FOR: Duration = Duration::from_secs(3600);

impl Bytewise {
    /// Bytes `start..start + len` of the object, which must have them; `key` opens them where they are
    /// sealed.
    pub(super) fn of(
        view: &View,
        object: &ObjectState,
        key: Option<&Key>,
        start: u64,
        len: u64,
    ) -> Result<Bytewise, IndexError> {
        let mut segments = VecDeque::new();
        match (key, &object.layout) {
            (None, layout) => {
                let extents = whole(view.cut_layout(layout, start, len)?, object)?.into();
                segments.push_back(Segment { sealed: None, opener: None, extents });
            }
            (Some(key), Layout::Parts(upload)) => {
                let (mut skip, mut take) = (start, len);
                for (_, part) in view.parts(*upload)? {
                    if take == 0 {
                        break;
                    }
                    if skip >= part.size {
                        skip -= part.size;
                        continue;
                    }
                    let here = (part.size - skip).min(take);
                    segments.push_back(sealed(view, object, &part.layout, key, (skip, here, part.size))?);
                    skip = 0;
                    take -= here;
                }
            }
            (Some(key), layout) => {
                segments.push_back(sealed(view, object, layout, key, (start, len, object.size))?);
            }
        }
        let held = view.held().map(|held| (Instant::now(), held));
        Ok(Bytewise { segments, len, from_files: true, held })
    }

    /// All of it comes as bytes: for who does something with them.
    pub(super) fn read(self) -> Bytewise {
        Bytewise { from_files: false, ..self }
    }

    /// Reads what comes next, or looks at it; to be called where waiting for the disk is allowed.
    pub(super) fn next(&mut self, store: &Store) -> Option<Result<Piece, ReadError>> {
        self.held.take_if(|(since, _)| since.elapsed() > HELD_FOR);
        loop {
            let segment = self.segments.front_mut()?;
            match segment.next(store, self.from_files) {
                Some(Ok(Piece::Bytes(bytes))) if bytes.is_empty() => {}
                Some(Ok(Piece::File(found))) => {
                    let held = self.held.as_ref().map(|(_, held)| Arc::clone(held));
                    return Some(Ok(Piece::File(Found { held, ..found })));
                }
                Some(read) => return Some(read),
                None => drop(self.segments.pop_front()),
            }
        }
    }
}

fn whole(cut: Option<Vec<Extent>>, object: &ObjectState) -> Result<Vec<Extent>, IndexError> {
    cut.ok_or_else(|| IndexError::Malformed { what: "object", key: format!("object {}", object.id) })
}

fn sealed(
    view: &View,
    object: &ObjectState,
    layout: &Layout,
    key: &Key,
    (start, len, size): (u64, u64, u64),
) -> Result<Segment, IndexError> {
    if len == 0 {
        return Ok(Segment { sealed: None, opener: None, extents: VecDeque::new() });
    }
    let range = SealedRange::new(start, len, size);
    let salt = whole(view.cut_layout(layout, 0, SALT)?, object)?;
    let extents = whole(view.cut_layout(layout, range.start, range.len)?, object)?.into();
    Ok(Segment { sealed: Some((key.clone(), salt, range)), opener: None, extents })
}

impl Segment {
    fn next(&mut self, store: &Store, from_files: bool) -> Option<Result<Piece, ReadError>> {
        if let Some((key, at, range)) = self.sealed.take() {
            let mut salt = Vec::new();
            for extent in at {
                match read_now(store, extent) {
                    Ok(bytes) => salt.extend_from_slice(&bytes),
                    Err(error) => return Some(Err(error)),
                }
            }
            self.opener = Some(Opener::new(&key, &salt, range));
        }
        let extent = self.extents.pop_front()?;
        let Some(opener) = &mut self.opener else {
            let read =
                if from_files { look_now(store, extent) } else { read_now(store, extent).map(Piece::Bytes) };
            return Some(read);
        };
        let opened = read_now(store, extent).and_then(|bytes| {
            opener.update(&bytes, self.extents.is_empty()).map_err(|error| {
                tracing::error!(lsn = %extent.lsn, reason = %error, "an object could not be decrypted");
                ReadError::Damaged(error.to_string())
            })
        });
        Some(opened.map(Piece::Bytes))
    }
}

/// What an answer still sends. Clones share it: whoever asks for the next piece gets it.
#[derive(Clone)]
pub(super) struct Feed(Arc<Mutex<Feeding>>);

struct Feeding {
    store: Arc<Store>,
    first: Option<Piece>,
    todo: Option<Bytewise>,
    remaining: usize,
    /// Memory for what is read and not sent.
    _share: Share,
}

impl Feed {
    /// Begins with `first`, already read, and goes on with `rest`.
    pub(super) fn new(store: &Arc<Store>, first: Option<Piece>, rest: Bytewise, mut share: Share) -> Feed {
        share.shrink(rest.len);
        let remaining = usize::try_from(rest.len).unwrap_or(usize::MAX);
        let store = Arc::clone(store);
        Feed(Arc::new(Mutex::new(Feeding { store, first, todo: Some(rest), remaining, _share: share })))
    }

    /// As the body of an answer.
    pub(super) fn body(&self) -> StreamingBlob {
        StreamingBlob::new(Outgoing(self.clone()))
    }

    /// What comes next, if this member may still serve; nothing after an error. On the very thread that sends it, which
    /// may wait for the disk: what was read is still in its caches then.
    pub(super) fn next(&self) -> Option<Result<Piece, StdError>> {
        self.feeding().next()
    }

    /// What looks once more whether that is sound.
    pub(super) fn look_again(&self, found: &Found) -> LookAgain {
        let store = Arc::clone(&self.feeding().store);
        let (extent, held) = (found.extent, found.held.clone());
        Box::new(move || {
            let _held = &held;
            look_now(&store, extent).map(drop).map_err(io::Error::other)
        })
    }

    /// Bytes that were not handed out.
    pub(super) fn remaining(&self) -> usize {
        self.feeding().remaining
    }

    fn feeding(&self) -> MutexGuard<'_, Feeding> {
        // After a panic it may have handed out less than it counts, which ends the connection.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Feeding {
    fn next(&mut self) -> Option<Result<Piece, StdError>> {
        let piece = match self.first.take() {
            Some(first) => Ok(first),
            None => self.todo.as_mut()?.next(&self.store)?.map_err(StdError::from),
        };
        let piece = piece.and_then(|piece| match self.store.backend.serving() {
            Ok(_) => Ok(piece),
            Err(no) => Err(StdError::from(no)),
        });
        match &piece {
            Ok(Piece::Bytes(bytes)) => self.remaining -= bytes.len(),
            Ok(Piece::File(found)) => self.remaining -= found.range.len as usize,
            Err(_) => self.todo = None,
        }
        if self.remaining == 0 {
            self.todo = None;
        }
        Some(piece)
    }
}

/// The body of an answer, as bytes.
struct Outgoing(Feed);

impl Stream for Outgoing {
    type Item = Result<Bytes, StdError>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut feeding = self.0.feeding();
        Poll::Ready(feeding.next().map(|piece| match piece? {
            Piece::Bytes(bytes) => Ok(bytes),
            Piece::File(found) => Ok(read_now(&feeding.store, found.extent)?),
        }))
    }
}

impl ByteStream for Outgoing {
    fn remaining_length(&self) -> RemainingLength {
        RemainingLength::new_exact(self.0.remaining())
    }
}
