//! How an object's bytes leave: extent by extent, each verified before its first byte is sent, and opened
//! where it is sealed.
//!
//! An extent is read when the one before was handed to the connection: about 2 MiB for each request. A record that fails its checksum, or a member that may no longer serve, ends the
//! connection in the middle of the body: the client sees fewer bytes than announced, never wrong ones.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::Stream;
use s3s::StdError;
use s3s::dto::StreamingBlob;
use s3s::stream::{ByteStream, RemainingLength};

use super::Store;
use super::budget::Share;
use crate::backend::{Damage, Held, ReadError};
use crate::index::{IndexError, Lookup, View};
use crate::op::Extent;
use crate::seal::{Key, Opener, SALT, SealedRange};
use crate::state::{Layout, ObjectState};

/// Reads one extent; to be called where waiting for the disk is allowed.
fn read_now(store: &Store, extent: Extent) -> Result<Bytes, ReadError> {
    let read = store.log.read_slice(extent.lsn, extent.offset, extent.len).and_then(|bytes| {
        if bytes.len() == extent.len as usize {
            Ok(bytes)
        } else {
            Err(ReadError::Damaged(format!("{} of {} bytes", bytes.len(), extent.len)))
        }
    });
    read.inspect_err(|error| {
        tracing::error!(lsn = %extent.lsn, reason = %error, "an object could not be read back");
        (store.on_damage)(Damage { extent, error: error.clone() });
    })
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
        Ok(Bytewise { segments, len, held })
    }

    /// Reads what comes next; to be called where waiting for the disk is allowed.
    pub(super) fn next(&mut self, store: &Store) -> Option<Result<Bytes, ReadError>> {
        self.held.take_if(|(since, _)| since.elapsed() > HELD_FOR);
        loop {
            let segment = self.segments.front_mut()?;
            match segment.next(store) {
                Some(Ok(bytes)) if bytes.is_empty() => {}
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
    fn next(&mut self, store: &Store) -> Option<Result<Bytes, ReadError>> {
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
        let read = read_now(store, extent);
        let (Ok(bytes), Some(opener)) = (&read, &mut self.opener) else { return Some(read) };
        let opened = opener.update(bytes, self.extents.is_empty());
        Some(opened.map_err(|error| {
            tracing::error!(lsn = %extent.lsn, reason = %error, "an object could not be decrypted");
            ReadError::Damaged(error.to_string())
        }))
    }
}

/// The body of an answer.
pub(super) struct Outgoing {
    store: Arc<Store>,
    first: Option<Bytes>,
    todo: Option<Bytewise>,
    remaining: usize,
    /// Memory for what is read and not sent.
    _share: Share,
}

impl Outgoing {
    /// A body that begins with `first`, already read, and goes on with `rest`.
    pub(super) fn body(store: &Arc<Store>, first: Bytes, rest: Bytewise, mut share: Share) -> StreamingBlob {
        share.shrink(rest.len);
        let remaining = usize::try_from(rest.len).unwrap_or(usize::MAX);
        let more = remaining > first.len();
        let first = (!first.is_empty()).then_some(first);
        let store = Arc::clone(store);
        let todo = more.then_some(rest);
        StreamingBlob::new(Outgoing { store, first, todo, remaining, _share: share })
    }
}

impl Stream for Outgoing {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let bytes = match self.first.take() {
            Some(first) => Ok(first),
            None => {
                let Outgoing { store, todo, .. } = &mut *self;
                // On this very thread, which may wait for the disk: what it has read is still in its caches when it
                // sends it.
                match todo.as_mut().and_then(|todo| todo.next(store)) {
                    None => return Poll::Ready(None),
                    Some(read) => read.map_err(StdError::from),
                }
            }
        };
        let bytes = bytes.and_then(|bytes| match self.store.backend.serving() {
            Ok(_) => Ok(bytes),
            Err(no) => Err(StdError::from(no)),
        });
        match &bytes {
            Ok(bytes) => {
                self.remaining -= bytes.len();
                if self.remaining == 0 {
                    self.todo = None;
                }
            }
            Err(_) => self.todo = None,
        }
        Poll::Ready(Some(bytes))
    }
}

impl ByteStream for Outgoing {
    fn remaining_length(&self) -> RemainingLength {
        RemainingLength::new_exact(self.remaining)
    }
}
