//! What one record looks like in bytes, and when a sequence of records is a log.
//!
//! A record is a header of [`HEADER_LEN`] bytes and its payload. The header carries a checksum of
//! the payload and, last, a checksum of itself; since it also carries the header checksum of the
//! record before it (`chain`), the header checksums form a rolling checksum over the whole log: two
//! logs that agree on (LSN, chain) hold the same bytes up to there. Parsing never panics and reads
//! nothing beyond what it was given.
//!
//! ```text
//!  0 magic u32      4 version u8   5 kind u8   6 zero u16   8 payload_len u32   12 chain u32
//! 16 epoch u64     24 lsn u64     32 committed u64         40 payload_crc u32  44 header_crc u32
//! ```

use holdfast_heartbeat::{Epoch, Lsn};
use serde::{Deserialize, Serialize};

/// Bytes of a record's header.
pub const HEADER_LEN: usize = 48;

/// Largest payload: one chunk of an object plus room for the operation that describes it.
pub const MAX_PAYLOAD: usize = 1024 * 1024 + 64 * 1024;

/// Largest record, header included.
pub const MAX_RECORD: usize = HEADER_LEN + MAX_PAYLOAD;

/// Bytes that the log itself puts in front of an epoch start's payload: see [`EpochLink`].
pub const EPOCH_LINK_LEN: usize = 16;

/// "HFRC", little-endian.
const MAGIC: u32 = 0x4352_4648;
const VERSION: u8 = 1;

/// What a record is to the log. The log looks into none but the epoch start and the retirement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordKind {
    /// A reign begins here.
    EpochStart = 1,
    /// Opaque bytes of an object.
    Data = 2,
    /// An opaque operation for the state machine.
    Op = 3,
    /// Bytes of earlier records once more, so that those records can go: a [`crate::moves::MovedBytes`].
    Move = 4,
    /// Opaque state of the state machine as it was at an earlier LSN: what a replay begins with once
    /// earlier records have gone.
    Checkpoint = 5,
    /// Segments go, and a replay begins with a checkpoint: a [`crate::space::Retirement`].
    Retire = 6,
}

impl RecordKind {
    fn from_byte(byte: u8) -> Option<RecordKind> {
        match byte {
            1 => Some(RecordKind::EpochStart),
            2 => Some(RecordKind::Data),
            3 => Some(RecordKind::Op),
            4 => Some(RecordKind::Move),
            5 => Some(RecordKind::Checkpoint),
            6 => Some(RecordKind::Retire),
            _ => None,
        }
    }
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The bytes end before the record does.
    #[error("the bytes end inside a record")]
    Short,
    /// No record begins here.
    #[error("no record begins here")]
    NotARecord,
    /// The header's checksum does not match.
    #[error("the header's checksum does not match")]
    HeaderChecksum,
    /// The payload's checksum does not match.
    #[error("the payload's checksum does not match")]
    PayloadChecksum,
    /// Written by a newer version of this software.
    #[error("record format {0} is not known to this version of the software")]
    UnknownVersion(u8),
    /// A header that is whole and yet makes no sense.
    #[error("the header is whole but makes no sense")]
    Nonsense,
}

/// A record's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it is.
    pub kind: RecordKind,
    /// Bytes of payload that follow.
    pub payload_len: u32,
    /// The chain of the log before this record.
    pub chain: u32,
    /// The reign it was written in.
    pub epoch: Epoch,
    /// Where it begins.
    pub lsn: Lsn,
    /// What its writer knew to be committed: bytes below were acknowledged by the whole in-sync
    /// set, so a hole there can only be damage, never a torn tail.
    pub committed: Lsn,
    /// CRC-32C of the payload.
    pub payload_crc: u32,
}

fn u32_at(bytes: &[u8; HEADER_LEN], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8; HEADER_LEN], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

impl Header {
    /// The header's bytes. The last four are also the chain of the log after this record.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut b = [0; HEADER_LEN];
        b[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        b[4] = VERSION;
        b[5] = self.kind as u8;
        b[8..12].copy_from_slice(&self.payload_len.to_le_bytes());
        b[12..16].copy_from_slice(&self.chain.to_le_bytes());
        b[16..24].copy_from_slice(&self.epoch.0.to_le_bytes());
        b[24..32].copy_from_slice(&self.lsn.0.to_le_bytes());
        b[32..40].copy_from_slice(&self.committed.0.to_le_bytes());
        b[40..44].copy_from_slice(&self.payload_crc.to_le_bytes());
        let crc = crc32c::crc32c(&b[..44]);
        b[44..48].copy_from_slice(&crc.to_le_bytes());
        b
    }

    /// Parses the header at the beginning of `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<Header, RecordError> {
        let b: &[u8; HEADER_LEN] =
            bytes.get(..HEADER_LEN).and_then(|b| b.try_into().ok()).ok_or(RecordError::Short)?;
        if u32_at(b, 0) != MAGIC {
            return Err(RecordError::NotARecord);
        }
        if crc32c::crc32c(&b[..44]) != u32_at(b, 44) {
            return Err(RecordError::HeaderChecksum);
        }
        if b[4] != VERSION {
            return Err(RecordError::UnknownVersion(b[4]));
        }
        let kind = RecordKind::from_byte(b[5]).ok_or(RecordError::Nonsense)?;
        let header = Header {
            kind,
            payload_len: u32_at(b, 8),
            chain: u32_at(b, 12),
            epoch: Epoch(u64_at(b, 16)),
            lsn: Lsn(u64_at(b, 24)),
            committed: Lsn(u64_at(b, 32)),
            payload_crc: u32_at(b, 40),
        };
        let bounded = header.payload_len as usize <= MAX_PAYLOAD && header.lsn.0 < u64::MAX / 2;
        if !bounded || header.committed > header.lsn || b[6] != 0 || b[7] != 0 {
            return Err(RecordError::Nonsense);
        }
        Ok(header)
    }

    /// The chain of the log after this record.
    pub(crate) fn chain_after(&self) -> u32 {
        u32_at(&self.encode(), 44)
    }

    /// Bytes of the whole record.
    pub fn record_len(&self) -> u64 {
        HEADER_LEN as u64 + u64::from(self.payload_len)
    }

    /// Where the next record begins.
    pub fn end(&self) -> Lsn {
        self.lsn + self.record_len()
    }

    /// Checks the payload against the header.
    pub fn check_payload(&self, payload: &[u8]) -> Result<(), RecordError> {
        if payload.len() != self.payload_len as usize {
            return Err(RecordError::Short);
        }
        self.check_sum(crc32c::crc32c(payload))
    }

    /// Checks the CRC32C of a payload of the right length.
    pub(crate) fn check_sum(&self, sum: u32) -> Result<(), RecordError> {
        if sum == self.payload_crc { Ok(()) } else { Err(RecordError::PayloadChecksum) }
    }
}

/// Parses and checks the whole record at the beginning of `bytes`.
pub fn parse(bytes: &[u8]) -> Result<(Header, &[u8]), RecordError> {
    let header = Header::parse(bytes)?;
    let payload = bytes.get(HEADER_LEN..header.record_len() as usize).ok_or(RecordError::Short)?;
    header.check_payload(payload)?;
    Ok((header, payload))
}

/// What the log puts in front of an epoch start's payload: where the reign before began. Walking
/// these links back gives the epoch history without reading the records between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochLink {
    /// The epoch before, zero if this is the first.
    pub epoch: Epoch,
    /// Where it began, zero if this is the first.
    pub start: Lsn,
}

impl EpochLink {
    /// The link's bytes.
    pub fn encode(&self) -> [u8; EPOCH_LINK_LEN] {
        let mut b = [0; EPOCH_LINK_LEN];
        b[..8].copy_from_slice(&self.epoch.0.to_le_bytes());
        b[8..].copy_from_slice(&self.start.0.to_le_bytes());
        b
    }

    /// Reads the link at the beginning of an epoch start's payload.
    pub fn parse(payload: &[u8]) -> Option<EpochLink> {
        let epoch = payload.get(..8)?.try_into().ok()?;
        let start = payload.get(8..16)?.try_into().ok()?;
        Some(EpochLink { epoch: Epoch(u64::from_le_bytes(epoch)), start: Lsn(u64::from_le_bytes(start)) })
    }
}

/// What the log puts behind the link: who reigns, since when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochStartBody {
    /// The primary of the epoch.
    pub leader: holdfast_heartbeat::Member,
    /// Its wall clock when it began, in milliseconds since 1970; for people only.
    pub wall_ms: u64,
}

impl EpochStartBody {
    /// The body's bytes.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("a member and a number always encode")
    }

    /// Reads the body out of an epoch start's whole payload.
    pub fn parse(payload: &[u8]) -> Option<EpochStartBody> {
        postcard::from_bytes(payload.get(EPOCH_LINK_LEN..)?).ok()
    }
}

/// Why a record that is whole does not belong where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SequenceError {
    /// It says that it begins elsewhere.
    #[error("the record begins at LSN {found}, the log continues at {expected}")]
    Lsn {
        /// Where the log continues.
        expected: Lsn,
        /// Where the record begins.
        found: Lsn,
    },
    /// It continues other bytes than these.
    #[error("the record at LSN {0} continues other bytes than this log holds")]
    Chain(Lsn),
    /// Its epoch is not the log's, or an epoch start does not raise it.
    #[error("the record at LSN {lsn} is of epoch {found}, the log is in epoch {current}")]
    Epoch {
        /// The record's position.
        lsn: Lsn,
        /// The log's epoch.
        current: Epoch,
        /// The record's epoch.
        found: Epoch,
    },
    /// An epoch start that does not name the epoch before it.
    #[error("the epoch start at LSN {0} does not link to the epoch before it")]
    Link(Lsn),
}

/// A point between two records: all that must be known to check the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Bytes before it.
    pub lsn: Lsn,
    /// The rolling checksum of those bytes.
    pub chain: u32,
    /// The epoch of the last record, zero at the beginning.
    pub epoch: Epoch,
    /// Where that epoch began.
    pub epoch_start: Lsn,
}

impl Position {
    /// The beginning of the log `log_id`: logs of different origin differ in chain from the start.
    pub fn origin(log_id: u64) -> Position {
        Position { chain: crc32c::crc32c(&log_id.to_le_bytes()), ..Position::default() }
    }

    /// The link that an epoch start written here carries.
    pub fn link(&self) -> EpochLink {
        EpochLink { epoch: self.epoch, start: self.epoch_start }
    }

    /// Checks that the record stands here by right, and gives the position after it.
    pub fn follow(&self, header: &Header, payload: &[u8]) -> Result<Position, SequenceError> {
        if header.lsn != self.lsn {
            return Err(SequenceError::Lsn { expected: self.lsn, found: header.lsn });
        }
        if header.chain != self.chain {
            return Err(SequenceError::Chain(self.lsn));
        }
        let starts = header.kind == RecordKind::EpochStart;
        let in_order = if starts {
            header.epoch > self.epoch
        } else {
            header.epoch == self.epoch && self.epoch > Epoch::ZERO
        };
        if !in_order {
            let (lsn, current, found) = (self.lsn, self.epoch, header.epoch);
            return Err(SequenceError::Epoch { lsn, current, found });
        }
        if starts && EpochLink::parse(payload) != Some(self.link()) {
            return Err(SequenceError::Link(self.lsn));
        }
        Ok(Position {
            lsn: header.end(),
            chain: header.chain_after(),
            epoch: header.epoch,
            epoch_start: if starts { header.lsn } else { self.epoch_start },
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(payload: &[u8]) -> Vec<u8> {
        let header = Header {
            kind: RecordKind::Op,
            payload_len: payload.len() as u32,
            chain: 7,
            epoch: Epoch(3),
            lsn: Lsn(1000),
            committed: Lsn(900),
            payload_crc: crc32c::crc32c(payload),
        };
        let mut bytes = header.encode().to_vec();
        bytes.extend_from_slice(payload);
        bytes
    }

    proptest! {
        #[test]
        fn parsing_garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn every_bit_flip_is_detected(payload in proptest::collection::vec(any::<u8>(), 0..200), at in any::<usize>()) {
            let mut bytes = record(&payload);
            let (header, got) = parse(&bytes).unwrap();
            prop_assert_eq!(got, &payload[..]);
            prop_assert_eq!(header.end(), Lsn(1000 + bytes.len() as u64));
            let bit = at % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(parse(&bytes).is_err());
        }

        #[test]
        fn every_truncation_is_detected(payload in proptest::collection::vec(any::<u8>(), 0..200), at in any::<usize>()) {
            let bytes = record(&payload);
            prop_assert_eq!(parse(&bytes[..at % bytes.len()]), Err(RecordError::Short));
        }
    }
}
