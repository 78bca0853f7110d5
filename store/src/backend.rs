//! What the store needs of the member it runs in: a log to append to, the right to serve, and a way
//! to read records back.
//!
//! The agent implements [`Backend`]; nothing here knows of roles, leases or peers beyond what these
//! answers say.

use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use holdfast_heartbeat::types::{Epoch, Lsn};

use crate::apply::Outcome;
use crate::op::Extent;

/// The member behind the S3 endpoint.
pub trait Backend: Send + Sync + 'static {
    /// Appends object bytes as one data record. Resolves to the record's begin and end as soon as it
    /// is appended: before it is durable anywhere.
    fn append(&self, data: Bytes) -> BoxFuture<'_, Result<(Lsn, Lsn), WriteError>>;

    /// Appends an operation record, given in pieces. Resolves once the record, and so everything
    /// before it, is durable on the whole in-sync set and applied to this member's index.
    fn commit(&self, payload: Vec<Bytes>) -> BoxFuture<'_, Result<Outcome, WriteError>>;

    /// Whether this member may reveal or confirm state at this very moment, and the epoch in which it
    /// does. Asked at the start of every request and again right before every answer, so it must be
    /// cheap and must never block. For a primary, two equal answers mean that it reigned without a
    /// break in between.
    fn serving(&self) -> Result<Epoch, NotServing>;
}

/// Why a write was not confirmed. `NotPrimary` and `Failed` leave its fate open; after any other it was
/// not stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// This member does not lead (any more). The write may or may not survive at the next primary.
    #[error("this member is not the primary")]
    NotPrimary {
        /// `http://host:port` of the address to ask instead.
        redirect: Option<String>,
    },
    /// The disk is full; nothing was stored and earlier data is intact.
    #[error("the disk is full")]
    DiskFull,
    /// Too many writes are waiting.
    #[error("too many writes are waiting")]
    Overloaded,
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// Why this member may not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct NotServing {
    /// `http://host:port` of the address to ask instead, where it is known.
    pub redirect: Option<String>,
    /// In words, for the client's message.
    pub reason: String,
}

/// Reads bytes of records back. Called on blocking threads only.
pub trait ReadLog: Send + Sync + 'static {
    /// Bytes `offset..offset + len` of the payload of the record at `lsn`, with the record's
    /// checksum verified.
    fn read_slice(&self, lsn: Lsn, offset: u32, len: u32) -> Result<Bytes, ReadError>;

    /// Where those bytes lie in a file, verified alike: for the kernel to send them without a copy here. `None` where
    /// they can only be read.
    fn file_range(&self, lsn: Lsn, offset: u32, len: u32) -> Result<Option<FileRange>, ReadError> {
        let _ = (lsn, offset, len);
        Ok(None)
    }

    /// Keeps what can be read now readable for as long as the answer lives, even if it is given up
    /// meanwhile.
    fn hold(&self) -> Held;
}

/// Verified bytes that lie in a file.
#[derive(Clone, Debug)]
pub struct FileRange {
    /// The file.
    pub file: Arc<File>,
    /// Where they begin.
    pub offset: u64,
    /// How many they are.
    pub len: u32,
}

/// See [`ReadLog::hold`].
pub type Held = Arc<dyn Send + Sync>;

/// Why a record could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The disk holds other bytes than were written.
    #[error("the log is damaged: {0}")]
    Damaged(String),
    /// The read itself failed.
    #[error("the log cannot be read: {0}")]
    Io(String),
}

/// An extent that a reader needed and did not get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Which bytes.
    pub extent: Extent,
    /// Why not.
    pub error: ReadError,
}

/// Told of every damage found while reading, on the thread that found it: to be quick.
pub type OnDamage = Arc<dyn Fn(Damage) + Send + Sync>;
