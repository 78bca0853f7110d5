//! One number for everything that the core decided in a step.
//!
//! It stands in the recording instead of the effects, which would take most of the space: a replay makes
//! the effects anew and only needs to know whether they are the same.

use crate::node::effect::Effect;

/// Room for one encoded effect, in bytes: several times the largest heartbeat.
const EFFECT_BYTES: usize = 16 * 1024;

/// Computes digests; kept for its memory.
pub(super) struct Digester {
    scratch: Box<[u8]>,
}

impl Digester {
    pub(super) fn new() -> Digester {
        Digester { scratch: vec![0; EFFECT_BYTES].into_boxed_slice() }
    }

    /// CRC-32C over the encoded effects, in their order. The recording and its replay use this very
    /// function, so that an effect too large for the scratch space, which counts as its absence, counts
    /// so on both sides.
    pub(super) fn of(&mut self, effects: &[Effect]) -> u32 {
        let mut digest = effects.len() as u32;
        for effect in effects {
            digest = match postcard::to_slice(effect, &mut self.scratch) {
                Ok(bytes) => crc32c::crc32c_append(digest, bytes),
                Err(_) => crc32c::crc32c_append(digest, b"too large"),
            };
        }
        digest
    }
}
