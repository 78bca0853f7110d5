//! The state in the log: what a replay begins with once the operations before it have gone.
//!
//! A checkpoint is every entry of the index as it was at one LSN, in the order of keys, over as many
//! records as it takes. A record's payload is one version byte and the postcard encoding of the LSN and
//! the entries. What belongs to the index and not to the state (the applied LSN, the format) is left out.

use bytes::Bytes;
use holdfast_heartbeat::types::Lsn;

use crate::index::Entry;

const VERSION: u8 = 1;

/// A record's payload.
pub fn encode(as_of: Lsn, entries: &[Entry]) -> Bytes {
    // Encoding into a vector can only fail for types that have no length, of which there are none.
    let payload = postcard::to_extend(&(as_of, entries), vec![VERSION]).expect("entries are encodable");
    Bytes::from(payload)
}

/// Reads a payload: what it is as of, and its entries. `None` if it is not what this release writes.
pub fn decode(payload: &[u8]) -> Option<(Lsn, Vec<Entry>)> {
    let body = payload.strip_prefix(&[VERSION])?;
    match postcard::take_from_bytes(body) {
        Ok((read, [])) => Some(read),
        _ => None,
    }
}
