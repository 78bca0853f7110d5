//! The flight recorder's format and its replay: what the core was told, kept so that the same core can
//! be told it again.
//!
//! ```text
//!   ring.rs    the last minutes in memory, in pieces of a fixed size
//!   digest.rs  one number for what the core decided in a step
//!   file.rs    a recording as a file, and back, as far as the file is whole
//!   replay.rs  the same core, told the same, compared step by step
//! ```
//!
//! The core has no clock, no I/O and no randomness, so its state and the events after it are the whole
//! story: a replay on another machine decides what the recorded member decided, step by step, or it is
//! not the same program. Each piece begins with the whole state, so that the oldest can be forgotten and
//! a damaged one passed over. Nothing here ever runs on a disk's time, decides anything for a living
//! member, or holds a secret: keys, tokens and the bytes of objects never reach the core.

mod digest;
mod file;
mod replay;
mod ring;
#[cfg(test)]
pub(crate) mod tests;

pub use file::{Damage, Flight, FlightError, MAX_FILE_BYTES, Origin, Piece, RecordedStep, read, write};
pub use replay::{Divergence, Outcome, Step, replay};
pub use ring::{PIECE_BYTES, PIECES, Recorder, Recording};
