//! Logged moves: bytes of old records written once more at the tail, so that the old ones can go.
//!
//! A move's payload is `[u32 LE count][count sources][bytes]`, a source being `[lsn u64][offset u32][len
//! u32]`, and the bytes those of the sources in a row. In the log it is a record like any other; on its
//! way to a standby the bytes are left out, because the standby has them: [`rebuilt`] makes the record
//! from the standby's own copy, and the checksum in its header tells whether it came out the same.

use bytes::Bytes;
use holdfast_heartbeat::Lsn;

use crate::log::{LogError, LogReader};
use crate::record::{HEADER_LEN, Header, MAX_PAYLOAD, RecordKind};

/// Bytes of one source in a move's head.
const SOURCE_LEN: usize = 16;

/// Most sources of one move.
pub const MAX_SOURCES: usize = 2048;

/// Where moved bytes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoveSource {
    /// Where the record begins.
    pub lsn: Lsn,
    /// First byte within its payload.
    pub offset: u32,
    /// Number of bytes.
    pub len: u32,
}

/// Bytes in front of the moved bytes, in a move of `sources` sources.
pub fn head_len(sources: usize) -> usize {
    4 + sources * SOURCE_LEN
}

/// The head of a move's payload; the sources' bytes follow it.
pub fn encode_head(sources: &[MoveSource]) -> Bytes {
    let mut head = Vec::with_capacity(head_len(sources.len()));
    head.extend_from_slice(&u32::try_from(sources.len()).expect("bounded by MAX_SOURCES").to_le_bytes());
    for source in sources {
        head.extend_from_slice(&source.lsn.0.to_le_bytes());
        head.extend_from_slice(&source.offset.to_le_bytes());
        head.extend_from_slice(&source.len.to_le_bytes());
    }
    Bytes::from(head)
}

/// Reads the head at the beginning of a move's payload. `None` if it is none.
pub fn decode_head(payload: &[u8]) -> Option<Vec<MoveSource>> {
    let count = u32::from_le_bytes(*payload.first_chunk::<4>()?) as usize;
    if count > MAX_SOURCES {
        return None;
    }
    let sources = payload.get(4..head_len(count))?;
    let read = |raw: &[u8]| {
        Some(MoveSource {
            lsn: Lsn(u64::from_le_bytes(raw.get(..8)?.try_into().ok()?)),
            offset: u32::from_le_bytes(raw.get(8..12)?.try_into().ok()?),
            len: u32::from_le_bytes(raw.get(12..16)?.try_into().ok()?),
        })
    };
    sources.chunks_exact(SOURCE_LEN).map(read).collect()
}

/// The header and the head of a move: what a standby needs to make it itself.
pub(crate) fn short(record: &Bytes, sources: &[MoveSource]) -> Bytes {
    record.slice(..HEADER_LEN + head_len(sources.len()))
}

/// A run of whole records with the moves in it apart, each with its sources.
pub(crate) fn apart(run: &Bytes) -> Vec<(Bytes, Option<Vec<MoveSource>>)> {
    let (mut pieces, mut begin, mut at) = (Vec::new(), 0, 0);
    while let Ok(header) = Header::parse(&run[at..]) {
        let end = (at + header.record_len() as usize).min(run.len());
        let sources = (header.kind == RecordKind::Move).then(|| decode_head(&run[at + HEADER_LEN..end]));
        if let Some(sources) = sources.flatten() {
            if begin < at {
                pieces.push((run.slice(begin..at), None));
            }
            pieces.push((run.slice(at..end), Some(sources)));
            begin = end;
        }
        at = end;
    }
    if begin < run.len() {
        pieces.push((run.slice(begin..), None));
    }
    pieces
}

/// Why a move could not be made here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RebuildError {
    /// Not what [`short`] makes: whoever sent it made a mistake.
    #[error("not a move without its bytes")]
    NotAMove,
    /// The sources are not here, or not as they were: the whole record must be sent.
    #[error("the bytes to move are not here as they were: {0}")]
    Sources(String),
}

/// Makes the record again from what [`short`] left of it and this log's own copy of the bytes.
pub(crate) fn rebuilt(short: &[u8], reader: &LogReader) -> Result<Bytes, RebuildError> {
    let header = Header::parse(short).map_err(|_| RebuildError::NotAMove)?;
    let head = &short[HEADER_LEN..];
    let sources = decode_head(head).ok_or(RebuildError::NotAMove)?;
    let moved: u64 = sources.iter().map(|source| u64::from(source.len)).sum();
    let whole = head.len() as u64 + moved;
    if header.kind != RecordKind::Move
        || head.len() != head_len(sources.len())
        || whole != u64::from(header.payload_len)
        || whole > MAX_PAYLOAD as u64
    {
        return Err(RebuildError::NotAMove);
    }
    let mut record = Vec::with_capacity(header.record_len() as usize);
    record.extend_from_slice(short);
    for source in &sources {
        let bytes = reader
            .read_slice(source.lsn, source.offset, source.len)
            .map_err(|error: LogError| RebuildError::Sources(error.to_string()))?;
        record.extend_from_slice(&bytes);
    }
    let same = header.check_payload(&record[HEADER_LEN..]);
    same.map_err(|_| RebuildError::Sources("they are other bytes".into()))?;
    Ok(Bytes::from(record))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_head_comes_back_and_garbage_never_panics(
            sources in proptest::collection::vec((any::<u64>(), any::<u32>(), any::<u32>()), 0..20),
            garbage in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let sources: Vec<_> =
                sources.into_iter().map(|(lsn, offset, len)| MoveSource { lsn: Lsn(lsn), offset, len }).collect();
            let mut payload = encode_head(&sources).to_vec();
            payload.extend_from_slice(b"bytes");
            prop_assert_eq!(decode_head(&payload), Some(sources));
            let _ = decode_head(&garbage);
        }
    }
}
