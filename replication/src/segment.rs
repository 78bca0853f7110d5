//! Segment files: their names and their header.
//!
//! The log is cut into files named by the LSN of their first byte. A file begins with a header that
//! is not part of the log's address space; the byte at LSN `l` stands at offset
//! `SEGMENT_HEADER_LEN + (l - base)`. A record never crosses files, and [`fits`] alone decides where
//! a file ends, so that equal logs are equal files.

use holdfast_heartbeat::{Epoch, Lsn};

use crate::record::Position;

/// Bytes in front of a segment's first record.
pub const SEGMENT_HEADER_LEN: u64 = 64;

/// Beyond this no segment begins: half of what an LSN can say, so that its length can be added without an overflow.
pub const LAST_BASE: Lsn = Lsn(u64::MAX / 2);

const MAGIC: [u8; 8] = *b"HOLDFAST";
const VERSION: u32 = 1;

/// A segment file's header: where it stands, and all that the records before it must be known for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) log_id: u64,
    pub(crate) segment_size: u64,
    pub(crate) at: Position,
}

/// Why bytes are not a segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SegmentHeaderError {
    #[error("the segment's header is damaged")]
    Damaged,
    #[error("segment format {0} is not known to this version of the software")]
    UnknownVersion(u32),
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER_LEN as usize] {
        let mut b = [0; SEGMENT_HEADER_LEN as usize];
        b[0..8].copy_from_slice(&MAGIC);
        b[8..12].copy_from_slice(&VERSION.to_le_bytes());
        b[16..24].copy_from_slice(&self.log_id.to_le_bytes());
        b[24..32].copy_from_slice(&self.segment_size.to_le_bytes());
        b[32..40].copy_from_slice(&self.at.lsn.0.to_le_bytes());
        b[40..48].copy_from_slice(&self.at.epoch.0.to_le_bytes());
        b[48..56].copy_from_slice(&self.at.epoch_start.0.to_le_bytes());
        b[56..60].copy_from_slice(&self.at.chain.to_le_bytes());
        let crc = crc32c::crc32c(&b[..60]);
        b[60..64].copy_from_slice(&crc.to_le_bytes());
        b
    }

    pub(crate) fn parse(b: &[u8]) -> Result<SegmentHeader, SegmentHeaderError> {
        let b: &[u8; SEGMENT_HEADER_LEN as usize] = b.try_into().map_err(|_| SegmentHeaderError::Damaged)?;
        let u32_at = |at: usize| u32::from_le_bytes(b[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(b[at..at + 8].try_into().expect("eight bytes"));
        if b[0..8] != MAGIC || crc32c::crc32c(&b[..60]) != u32_at(60) {
            return Err(SegmentHeaderError::Damaged);
        }
        if u32_at(8) != VERSION {
            return Err(SegmentHeaderError::UnknownVersion(u32_at(8)));
        }
        let at = Position {
            lsn: Lsn(u64_at(32)),
            epoch: Epoch(u64_at(40)),
            epoch_start: Lsn(u64_at(48)),
            chain: u32_at(56),
        };
        let (log_id, segment_size) = (u64_at(16), u64_at(24));
        // The reign that a segment continues began before it; the first segment continues none.
        let continues = if at.lsn == Lsn::ZERO {
            at.epoch == Epoch::ZERO && at.epoch_start == Lsn::ZERO
        } else {
            at.epoch > Epoch::ZERO && at.epoch_start < at.lsn
        };
        if log_id == 0 || segment_size == 0 || at.lsn > LAST_BASE || !continues {
            return Err(SegmentHeaderError::Damaged);
        }
        Ok(SegmentHeader { log_id, segment_size, at })
    }
}

/// Whether a record of `record_len` bytes belongs into the segment that holds `used` bytes of
/// records. A record larger than a whole segment has one to itself.
pub fn fits(segment_size: u64, used: u64, record_len: u64) -> bool {
    used == 0 || used + record_len <= segment_size
}

/// The file that begins at `base`.
pub fn file_name(base: Lsn) -> String {
    format!("{:016x}.log", base.0)
}

/// The base in a file's name, if it is a segment's. No segment begins beyond [`LAST_BASE`], whatever its file is
/// called, so positions in it can be computed with.
pub fn base_of(name: &str) -> Option<Lsn> {
    let hex = name.strip_suffix(".log").filter(|h| h.len() == 16)?;
    let base = u64::from_str_radix(hex, 16).ok().map(Lsn).filter(|base| *base <= LAST_BASE)?;
    (file_name(base) == name).then_some(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_like_positions() {
        assert_eq!(base_of(&file_name(Lsn(0x1234))), Some(Lsn(0x1234)));
        assert!(file_name(Lsn(9)) < file_name(Lsn(10)));
        for bad in
            ["durable", "0.log", "+000000000000001.log", "000000000000000G.log", "000000000000000A.log"]
        {
            assert_eq!(base_of(bad), None, "{bad}");
        }
        assert_eq!(base_of(&file_name(LAST_BASE)), Some(LAST_BASE));
        assert_eq!(base_of(&file_name(LAST_BASE + 1)), None, "a position in it could not be computed with");
    }

    #[test]
    fn a_header_whose_reign_began_behind_it_is_damaged() {
        let good = Position { lsn: Lsn(4), chain: 3, epoch: Epoch(2), epoch_start: Lsn(1) };
        let parsed = |at| SegmentHeader::parse(&SegmentHeader { log_id: 5, segment_size: 6, at }.encode());
        assert!(parsed(good).is_ok() && parsed(Position::origin(5)).is_ok());
        for bad in [
            Position { epoch_start: Lsn(4), ..good },
            Position { epoch_start: Lsn(1 << 40), ..good },
            Position { epoch: Epoch::ZERO, ..good },
            Position { lsn: Lsn::ZERO, ..good },
        ] {
            assert_eq!(parsed(bad), Err(SegmentHeaderError::Damaged), "{bad:?}");
        }
    }

    #[test]
    fn every_bit_flip_in_a_header_is_detected() {
        let at = Position { lsn: Lsn(4), chain: 3, epoch: Epoch(2), epoch_start: Lsn(1) };
        let header = SegmentHeader { log_id: 5, segment_size: 6, at };
        let bytes = header.encode();
        assert_eq!(SegmentHeader::parse(&bytes), Ok(header));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::parse(&bad).is_err(), "bit {bit}");
        }
    }
}
