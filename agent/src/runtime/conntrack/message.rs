//! What two members say to each other about connections.
//!
//! ```text
//! standby                        primary
//!    | Begin ---------------------> |   tell me, up to so many
//!    | <--------------------- Batch |   what is there; the last of these says that nothing else is
//!    | <--------------------- Batch |   what changed
//!    | Taken ---------------------> |   it is in my kernel's table
//! ```
//!
//! Decoding never panics; what comes out is bounded here and judged by `Scope` where it is used. The
//! version is the standby's; whoever answers speaks that or a lower one, and says which. There is one so far.

use holdfast_vip::conntrack::{Flow, Key};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The newest version that is spoken here.
pub(super) const VERSION: u16 = 1;
/// Most changes in a batch. An entry takes at most some 130 bytes, and a message may have 2 MiB.
pub(super) const MOST_CHANGES: usize = 1024;

/// What a standby says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Request {
    /// First: tell me everything, and then what changes.
    Begin {
        /// The newest version that the standby understands.
        version: u16,
        /// How many connections it takes.
        most: u32,
    },
    /// This batch and those before it are in the kernel's table.
    Taken {
        /// The batch's number.
        number: u64,
    },
}

/// What a primary says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Batch {
    /// The version that it is written in.
    pub(super) version: u16,
    /// From 1 on.
    pub(super) number: u64,
    /// In order.
    pub(super) changes: Vec<Change>,
    /// Whether everything that is there has now been told on this connection.
    pub(super) whole: bool,
}

/// One connection.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Change {
    /// It is like this.
    Is(Flow),
    /// It is gone.
    Gone(Key),
}

/// Bytes that say nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer sent something about connections that this version does not understand")]
pub(super) struct NotUnderstood;

pub(super) fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    postcard::to_stdvec(message).expect("plain data always encodes")
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, NotUnderstood> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        _ => Err(NotUnderstood),
    }
}

pub(super) fn request(bytes: &[u8]) -> Result<Request, NotUnderstood> {
    decode(bytes)
}

pub(super) fn batch(bytes: &[u8]) -> Result<Batch, NotUnderstood> {
    let batch: Batch = decode(bytes)?;
    let good = batch.version == VERSION && batch.changes.len() <= MOST_CHANGES;
    if good { Ok(batch) } else { Err(NotUnderstood) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::conntrack::samples::tcp;

    #[test]
    fn a_batch_comes_back_and_no_part_of_it_does() {
        let changes = vec![Change::Is(tcp(1)), Change::Gone(tcp(2).key)];
        let said = Batch { version: VERSION, number: 7, changes, whole: true };
        let bytes = encode(&said);
        assert_eq!(batch(&bytes), Ok(said.clone()));
        for cut in 0..bytes.len() {
            assert_eq!(batch(&bytes[..cut]), Err(NotUnderstood));
        }
        assert_eq!(batch(&[&bytes[..], &[0]].concat()), Err(NotUnderstood));
        assert_eq!(batch(&encode(&Batch { version: 2, ..said.clone() })), Err(NotUnderstood));
        let too_many = Batch { changes: vec![Change::Gone(tcp(2).key); MOST_CHANGES + 1], ..said };
        assert_eq!(batch(&encode(&too_many)), Err(NotUnderstood));
        assert!(
            encode(&Batch { changes: vec![Change::Is(tcp(1)); MOST_CHANGES], ..too_many }).len() < 256 << 10
        );
    }

    #[test]
    fn a_length_without_content_costs_no_memory() {
        // Version 1, number 1, and a claim of 2^32 - 1 changes.
        assert_eq!(batch(&[1, 1, 0xff, 0xff, 0xff, 0xff, 0x0f]), Err(NotUnderstood));
        for tag in 0..=u8::MAX {
            let _ = (request(&[tag]), request(&[tag, 1, 1]), batch(&[tag, tag, 1, tag, tag]));
        }
    }
}
