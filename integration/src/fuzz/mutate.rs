//! Inputs like those of a corpus, from a fixed seed: what the ordinary tests try besides the corpus itself.
//!
//! A small relative of libFuzzer's mutations, without its eyes: it sees no coverage, and says the same on every
//! machine.

use holdfast_replication::testing::Dice;

/// Numbers at the edges, as one, two, four or eight bytes.
const EDGES: [u64; 8] = [0, 1, 0x7f, 0x80, 0xff, 0x7fff_ffff, u64::MAX / 2, u64::MAX];

/// One input made of `corpus`, no longer than `max_len`.
pub fn mutated(dice: &mut Dice, corpus: &[Vec<u8>], max_len: usize) -> Vec<u8> {
    let mut bytes = pick(dice, corpus).clone();
    for _ in 0..=dice.below(4) {
        once(dice, corpus, &mut bytes);
    }
    bytes.truncate(max_len);
    bytes
}

fn pick<'a>(dice: &mut Dice, corpus: &'a [Vec<u8>]) -> &'a Vec<u8> {
    &corpus[dice.below(corpus.len() as u64) as usize]
}

fn place(dice: &mut Dice, len: usize) -> usize {
    dice.below(len as u64 + 1) as usize
}

fn once(dice: &mut Dice, corpus: &[Vec<u8>], bytes: &mut Vec<u8>) {
    let from = place(dice, bytes.len());
    let to = (from + place(dice, 16)).min(bytes.len());
    match dice.below(7) {
        0 if from < bytes.len() => bytes[from] ^= 1 << dice.below(8),
        1 if from < bytes.len() => bytes[from] = dice.roll() as u8,
        2 => drop(bytes.drain(from..to)),
        3 => {
            let piece = bytes[from..to].to_vec();
            let at = place(dice, bytes.len());
            bytes.splice(at..at, piece);
        }
        4 => {
            let edge = EDGES[dice.below(EDGES.len() as u64) as usize].to_le_bytes();
            let width = 1 << dice.below(4);
            let end = (from + width).min(bytes.len());
            bytes.splice(from..end, edge[..width].iter().copied());
        }
        5 => bytes.truncate(from),
        _ => {
            let other = pick(dice, corpus);
            let begin = place(dice, other.len());
            let end = (begin + place(dice, 64)).min(other.len());
            bytes.splice(from..to, other[begin..end].iter().copied());
        }
    }
}
