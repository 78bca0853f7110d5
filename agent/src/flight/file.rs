//! A recording as a file.
//!
//! ```text
//! file   magic "HFFLIGHT" | format u32 | length u32 | crc u32 | origin | pieces
//! piece  length u32 | crc u32 | bytes (see ring.rs)
//! ```
//!
//! Reading takes what is whole: of a damaged piece the steps before the damage, and every piece after it,
//! since each begins with the whole state. It never takes a byte on trust that a checksum covers.

use std::io::{self, Write};

use holdfast_heartbeat::Time;
use serde::{Deserialize, Serialize};

use super::ring::{DIGEST, PIECE_BYTES, PIECES, Recording, STATE_HEAD, STEP_HEAD};
use crate::node::Node;
use crate::node::event::Event;

const MAGIC: [u8; 8] = *b"HFFLIGHT";
/// The format that this build writes and reads.
const FORMAT: u32 = 2;
/// Longest origin, in bytes: some names and a reason.
const MAX_ORIGIN_BYTES: usize = 64 * 1024;
/// Largest file, in bytes: a full ring, and what stands around it.
pub const MAX_FILE_BYTES: usize = PIECES * (PIECE_BYTES + 8) + MAX_ORIGIN_BYTES + 20;

/// Where a recording comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The version of the program.
    pub version: String,
    /// CRC-32C of the program's file: tells two builds of one version apart. Zero where it is not known.
    pub build: u32,
    /// The member's name.
    pub node: String,
    /// Why it was written, in words.
    pub why: String,
    /// The wall clock when it was taken, in milliseconds since 1970; for people.
    pub wall_ms: u64,
    /// The clock that decides, at the same moment.
    pub at: Time,
}

impl Origin {
    /// The wall clock at `time`, in milliseconds since 1970, if it was not set meanwhile.
    pub fn wall_ms_at(&self, time: Time) -> u64 {
        self.wall_ms
            .saturating_add(time.since(self.at).as_millis() as u64)
            .saturating_sub(self.at.since(time).as_millis() as u64)
    }
}

/// A recording that was read.
#[derive(Debug)]
pub struct Flight {
    /// Where it comes from.
    pub origin: Origin,
    /// What could be read, oldest first.
    pub pieces: Vec<Piece>,
    /// What could not.
    pub damage: Vec<Damage>,
}

/// A stretch that begins with a known state.
#[derive(Debug)]
pub struct Piece {
    /// The state here is the one that the piece before leads to.
    pub continues: bool,
    /// The state, encoded.
    pub state: Vec<u8>,
    /// The core in that state.
    pub node: Node,
    /// What it was told then.
    pub steps: Vec<RecordedStep>,
    /// Nothing of it is missing.
    pub whole: bool,
}

/// One call of the core.
#[derive(Debug)]
pub struct RecordedStep {
    /// The moment.
    pub now: Time,
    /// What it was told.
    pub event: Event,
    /// The digest of what it did. `None`: the piece ends inside this step.
    pub digest: Option<u32>,
}

/// A place from which nothing could be read up to the next piece.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// Offset in the file, in bytes.
    pub offset: usize,
    /// In words.
    pub what: &'static str,
}

/// Why a file cannot be replayed at all.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FlightError {
    /// Something else.
    #[error("this is no recording of a Holdfast agent")]
    NotARecording,
    /// Written by a version with another format.
    #[error(
        "this recording has format {found} and this program reads {FORMAT}; replay it with the version that wrote it"
    )]
    OtherFormat {
        /// Its format.
        found: u32,
    },
    /// Whole, but its states mean something else to this build.
    #[error(
        "this recording was written by holdfast {version} (build {build:08x}), whose core this program does not know; replay it with that one"
    )]
    OtherCore {
        /// The version that wrote it.
        version: String,
        /// The build.
        build: u32,
    },
    /// Nothing in it is whole.
    #[error("the recording is damaged from its beginning; nothing of it can be replayed")]
    Damaged,
}

/// Writes `recording` to `out`.
pub fn write(recording: &Recording, origin: &Origin, out: &mut impl Write) -> io::Result<()> {
    let origin = postcard::to_allocvec(origin).map_err(io::Error::other)?;
    if origin.len() > MAX_ORIGIN_BYTES {
        return Err(io::Error::other("the reason of a recording is longer than a recording may say"));
    }
    out.write_all(&MAGIC)?;
    out.write_all(&FORMAT.to_le_bytes())?;
    write_framed(&origin, out)?;
    for piece in &recording.pieces {
        write_framed(piece, out)?;
    }
    Ok(())
}

fn write_framed(bytes: &[u8], out: &mut impl Write) -> io::Result<()> {
    out.write_all(&(bytes.len() as u32).to_le_bytes())?;
    out.write_all(&crc32c::crc32c(bytes).to_le_bytes())?;
    out.write_all(bytes)
}

/// Reads a file, as far as it is whole.
///
/// # Errors
///
/// Where not even one state can be read.
pub fn read(bytes: &[u8]) -> Result<Flight, FlightError> {
    let mut rest = Cursor { bytes, at: 0 };
    if rest.take(MAGIC.len()) != Some(&MAGIC) {
        return Err(FlightError::NotARecording);
    }
    match rest.number() {
        Some(FORMAT) => {}
        Some(found) => return Err(FlightError::OtherFormat { found }),
        None => return Err(FlightError::Damaged),
    }
    let origin = rest.framed(MAX_ORIGIN_BYTES).filter(|frame| frame.whole).ok_or(FlightError::Damaged)?;
    let origin: Origin = postcard::from_bytes(origin.bytes).map_err(|_| FlightError::Damaged)?;
    let mut flight = Flight { origin, pieces: Vec::new(), damage: Vec::new() };
    let (mut unknown_core, mut dropped) = (false, false);
    while rest.at < bytes.len() {
        let begin = rest.at;
        let Some(frame) = rest.framed(PIECE_BYTES) else {
            flight.damage.push(Damage { offset: begin, what: "the length of a piece makes no sense" });
            break;
        };
        match piece(frame.bytes) {
            Ok((mut piece, end)) => {
                piece.continues &= !dropped;
                dropped = false;
                if !frame.whole {
                    piece.whole = false;
                    let what = "the piece is damaged or cut off from here on";
                    flight.damage.push(Damage { offset: frame.offset + end, what });
                }
                flight.pieces.push(piece);
            }
            Err(error) => {
                dropped = true;
                unknown_core |= frame.whole && error == Unreadable::State;
                let what = "the state at the beginning of the piece is damaged";
                flight.damage.push(Damage { offset: begin, what });
            }
        }
    }
    if flight.pieces.is_empty() {
        let Origin { version, build, .. } = flight.origin;
        return Err(if unknown_core {
            FlightError::OtherCore { version, build }
        } else {
            FlightError::Damaged
        });
    }
    Ok(flight)
}

#[derive(PartialEq, Eq)]
enum Unreadable {
    /// Whole, but not a state of this build's core.
    State,
    Bytes,
}

/// The steps of a piece up to the first that is not whole, and where that one begins.
fn piece(bytes: &[u8]) -> Result<(Piece, usize), Unreadable> {
    let mut rest = Cursor { bytes, at: 0 };
    let continues = rest.take(1).ok_or(Unreadable::Bytes)? == [1];
    let frame = rest.framed(PIECE_BYTES).filter(|frame| frame.whole).ok_or(Unreadable::Bytes)?;
    debug_assert_eq!(frame.offset, STATE_HEAD);
    let node = postcard::from_bytes(frame.bytes).map_err(|_| Unreadable::State)?;
    let mut piece = Piece { continues, state: frame.bytes.to_vec(), node, steps: Vec::new(), whole: true };
    loop {
        let begin = rest.at;
        let Some(frame) = rest.framed(PIECE_BYTES).filter(|frame| frame.whole) else {
            return Ok((piece, begin));
        };
        debug_assert_eq!(frame.offset, begin + STEP_HEAD);
        let Ok((now, event)) = postcard::from_bytes(frame.bytes) else { return Ok((piece, begin)) };
        let digest = rest.take(DIGEST).and_then(|bytes| {
            let (digest, crc) = bytes.split_at(4);
            (crc32c::crc32c(digest).to_le_bytes() == crc)
                .then(|| u32::from_le_bytes(digest.try_into().expect("four bytes")))
        });
        piece.steps.push(RecordedStep { now, event, digest });
        if digest.is_none() {
            return Ok((piece, rest.at));
        }
    }
}

struct Frame<'a> {
    /// Where its bytes begin.
    offset: usize,
    bytes: &'a [u8],
    /// As long as it says, and with the right checksum.
    whole: bool,
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(taken)
    }

    fn number(&mut self) -> Option<u32> {
        self.take(4).map(|bytes| u32::from_le_bytes(bytes.try_into().expect("four bytes")))
    }

    /// A length, a checksum, and as many bytes, or as many as there are.
    fn framed(&mut self, most: usize) -> Option<Frame<'a>> {
        let (length, crc) = (self.number()? as usize, self.number()?);
        if length > most {
            return None;
        }
        let offset = self.at;
        let there = length.min(self.bytes.len() - offset);
        let bytes = self.take(there)?;
        Some(Frame { offset, bytes, whole: there == length && crc32c::crc32c(bytes) == crc })
    }
}
