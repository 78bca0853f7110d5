//! How an object's bytes leave: extent by extent, each verified before its first byte is sent.
//!
//! While the client takes one extent the next is read, on a blocking thread: about 2 MiB for each
//! request. A record that fails its checksum, or a member that may no longer serve, ends the
//! connection in the middle of the body: the client sees fewer bytes than announced, never wrong ones.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::{FutureExt, Stream};
use s3s::StdError;
use s3s::dto::StreamingBlob;
use s3s::stream::{ByteStream, RemainingLength};
use tokio::task::JoinHandle;

use super::Store;
use crate::backend::{Damage, ReadError};
use crate::op::Extent;

/// Reads one extent; to be called where waiting for the disk is allowed.
pub(super) fn read_now(store: &Store, extent: Extent) -> Result<Bytes, ReadError> {
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

/// The body of an answer.
pub(super) struct Outgoing {
    store: Arc<Store>,
    first: Option<Bytes>,
    todo: VecDeque<Extent>,
    reading: Option<JoinHandle<Result<Bytes, ReadError>>>,
    remaining: usize,
}

impl Outgoing {
    /// A body that begins with `first`, already read, and goes on with `rest`.
    pub(super) fn body(store: &Arc<Store>, first: Bytes, rest: VecDeque<Extent>) -> StreamingBlob {
        let remaining = first.len() + rest.iter().map(|e| e.len as usize).sum::<usize>();
        let first = (!first.is_empty()).then_some(first);
        let store = Arc::clone(store);
        StreamingBlob::new(Outgoing { store, first, todo: rest, reading: None, remaining })
    }

    fn read_ahead(&mut self) {
        if self.reading.is_none()
            && let Some(extent) = self.todo.pop_front()
        {
            let store = Arc::clone(&self.store);
            self.reading = Some(tokio::task::spawn_blocking(move || read_now(&store, extent)));
        }
    }
}

impl Stream for Outgoing {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.read_ahead();
        let bytes = match self.first.take() {
            Some(first) => Ok(first),
            None => {
                let Some(reading) = self.reading.as_mut() else { return Poll::Ready(None) };
                let read = ready!(reading.poll_unpin(cx));
                self.reading = None;
                match read {
                    Ok(Ok(bytes)) => Ok(bytes),
                    Ok(Err(error)) => Err(StdError::from(error)),
                    Err(error) => Err(StdError::from(error)),
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
                self.read_ahead();
            }
            Err(_) => self.todo.clear(),
        }
        Poll::Ready(Some(bytes))
    }
}

impl ByteStream for Outgoing {
    fn remaining_length(&self) -> RemainingLength {
        RemainingLength::new_exact(self.remaining)
    }
}
