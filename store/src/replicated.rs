//! Where the store meets the replicated log: its reader.
//!
//! The only module that knows the types of `holdfast-replication`.

use bytes::Bytes;
use holdfast_heartbeat::types::Lsn;
use holdfast_replication::{LogError, LogReader};

use crate::backend::{ReadError, ReadLog};

impl ReadLog for LogReader {
    fn read_slice(&self, lsn: Lsn, offset: u32, len: u32) -> Result<Bytes, ReadError> {
        LogReader::read_slice(self, lsn, offset, len).map_err(|error| match error {
            LogError::Io { .. } | LogError::Poisoned(_) => ReadError::Io(error.to_string()),
            // The index names only what was committed: whatever else is wrong, the bytes are not there.
            _ => ReadError::Damaged(error.to_string()),
        })
    }
}
