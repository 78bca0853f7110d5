//! The one source of chance of a run.

use holdfast_replication::testing::Dice;

/// Draws from the dice. Spans are in nanoseconds.
pub trait Chance {
    /// A number from 0 up to and including `most`.
    fn up_to(&mut self, most: u64) -> u64;
    /// A number from `least` up to and including `most`.
    fn between(&mut self, least: u64, most: u64) -> u64;
    /// True once in `n` times; never for zero.
    fn one_in(&mut self, n: u64) -> bool;
    /// True `n` times in a million.
    fn per_million(&mut self, n: u64) -> bool;
    /// One of `choices`, which must not be empty.
    fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T;
}

impl Chance for Dice {
    fn up_to(&mut self, most: u64) -> u64 {
        if most == 0 { 0 } else { self.roll() % most.saturating_add(1).max(1) }
    }

    fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.up_to(most.saturating_sub(least))
    }

    fn one_in(&mut self, n: u64) -> bool {
        n > 0 && self.below(n) == 0
    }

    fn per_million(&mut self, n: u64) -> bool {
        n > 0 && self.below(1_000_000) < n
    }

    fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len() as u64) as usize]
    }
}
