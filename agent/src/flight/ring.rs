//! The last minutes of a core, in memory.
//!
//! A piece is [`PIECE_BYTES`] of the state before its first event, and then events, each with the digest
//! of what the core did about it:
//!
//! ```text
//! piece   continues u8 | length u32 | crc u32 | state          the whole node, postcard
//! step    length u32 | crc u32 | (moment, event)               postcard
//!         digest u32 | crc u32                                 when the core is done
//! ```
//!
//! All numbers are little endian. The ring holds [`PIECES`] pieces and forgets the oldest. It allocates
//! and touches them at its beginning (and as much again later for each recording that is still being
//! written), encodes into fixed room, and never waits for anything, a page of memory included: it runs on
//! the core's thread, of which it takes less than a microsecond a step.

use std::collections::VecDeque;
use std::sync::Arc;

use holdfast_heartbeat::Time;

use super::digest::Digester;
use crate::node::Node;
use crate::node::effect::Effect;
use crate::node::event::Event;

/// Size of a piece: a good half minute of a pair and its witness on two paths at ten heartbeats a
/// second, so that little is forgotten at once, and the state, about a kilobyte, is a small part of it.
pub const PIECE_BYTES: usize = 256 * 1024;
/// Pieces that are kept: 4 MiB, which is ten minutes and more, and some five under a heavy load of writes.
pub const PIECES: usize = 16;
/// Before the payload of a state: whether it continues the piece before, length, checksum.
pub(super) const STATE_HEAD: usize = 9;
/// Before the payload of a step: length, checksum.
pub(super) const STEP_HEAD: usize = 8;
/// After the payload of a step: digest, checksum.
pub(super) const DIGEST: usize = 8;
/// Steps that pass unrecorded after one, or a state, was too large for a piece.
const BLIND_FOR: u32 = 1000;

/// Records a core. Call [`Recorder::before`] and [`Recorder::after`] around each `Node::handle`.
pub struct Recorder {
    full: VecDeque<Arc<Vec<u8>>>,
    /// Room for pieces that were not needed yet, [`PIECE_BYTES`] each.
    spare: Vec<Vec<u8>>,
    /// Always [`PIECE_BYTES`] long, of which `used` mean something.
    open: Vec<u8>,
    used: usize,
    /// The step at the end of the open piece has no digest yet.
    begun: bool,
    /// Steps were left out since the last recorded one.
    gap: bool,
    blind: u32,
    digester: Digester,
}

/// What a [`Recorder`] held at one moment. Cheap to hand to another thread.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// Oldest first.
    pub(super) pieces: Vec<Arc<Vec<u8>>>,
}

impl Recording {
    /// Nothing was recorded yet.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }
}

/// Room for a piece, of which every page is there. (The kernel gives zeroes only once they are touched.)
fn touched() -> Vec<u8> {
    vec![1; PIECE_BYTES]
}

impl Default for Recorder {
    fn default() -> Recorder {
        Recorder::new()
    }
}

impl Recorder {
    /// An empty recorder.
    pub fn new() -> Recorder {
        Recorder {
            full: VecDeque::with_capacity(PIECES),
            spare: (1..PIECES).map(|_| touched()).collect(),
            open: touched(),
            used: 0,
            begun: false,
            gap: true,
            blind: 0,
            digester: Digester::new(),
        }
    }

    /// Notes what `node`, as it is now, is about to be told.
    pub fn before(&mut self, node: &Node, now: Time, event: &Event) {
        assert!(!self.begun, "two steps at once");
        if self.blind > 0 {
            self.blind -= 1;
            return;
        }
        if self.used > 0 && self.begin_step(now, event) {
            return;
        }
        self.seal();
        if !self.begin_piece(node) || !self.begin_step(now, event) {
            // Larger than anything that is expected. The recording tells of the gap.
            self.used = 0;
            self.gap = true;
            self.blind = BLIND_FOR;
        }
    }

    /// Notes what came of it.
    pub fn after(&mut self, effects: &[Effect]) {
        if !self.begun {
            return;
        }
        let digest = self.digester.of(effects).to_le_bytes();
        self.open[self.used..self.used + 4].copy_from_slice(&digest);
        let crc = crc32c::crc32c(&digest).to_le_bytes();
        self.open[self.used + 4..self.used + DIGEST].copy_from_slice(&crc);
        self.used += DIGEST;
        self.begun = false;
    }

    /// Everything that is held, oldest first. A step that was begun and not finished is its end.
    pub fn recording(&self) -> Recording {
        let mut pieces: Vec<_> = self.full.iter().cloned().collect();
        if self.used > 0 {
            pieces.push(Arc::new(self.open[..self.used].to_vec()));
        }
        Recording { pieces }
    }

    fn seal(&mut self) {
        if self.used == 0 {
            return;
        }
        let mut next = self.spare.pop();
        if next.is_none() {
            // Somebody may still be writing it to a disk; then it is theirs.
            next = self.full.pop_front().and_then(|oldest| Arc::try_unwrap(oldest).ok());
        }
        let mut next = next.unwrap_or_default();
        next.resize(PIECE_BYTES, 0);
        let mut piece = std::mem::replace(&mut self.open, next);
        piece.truncate(self.used);
        self.full.push_back(Arc::new(piece));
        self.used = 0;
    }

    fn begin_piece(&mut self, node: &Node) -> bool {
        let Ok(state) = postcard::to_slice(node, &mut self.open[STATE_HEAD..]) else { return false };
        let (length, crc) = (state.len(), crc32c::crc32c(state));
        self.open[0] = u8::from(!self.gap);
        self.open[1..5].copy_from_slice(&(length as u32).to_le_bytes());
        self.open[5..STATE_HEAD].copy_from_slice(&crc.to_le_bytes());
        self.used = STATE_HEAD + length;
        self.gap = false;
        true
    }

    fn begin_step(&mut self, now: Time, event: &Event) -> bool {
        let (from, until) = (self.used + STEP_HEAD, PIECE_BYTES - DIGEST);
        if from >= until {
            return false;
        }
        let Ok(told) = postcard::to_slice(&(now, event), &mut self.open[from..until]) else { return false };
        let (length, crc) = (told.len(), crc32c::crc32c(told));
        self.open[self.used..self.used + 4].copy_from_slice(&(length as u32).to_le_bytes());
        self.open[self.used + 4..from].copy_from_slice(&crc.to_le_bytes());
        self.used = from + length;
        self.begun = true;
        true
    }
}
