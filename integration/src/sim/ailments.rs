//! What is judged about hosts while a run goes on: checks that fail, and disks that stall long enough to be noticed.
//!
//! Drawn from dice of their own, and in one run of three: what every other run draws stays as it was before there
//! were any, so that the seeds that once found something find it still.

use holdfast_replication::testing::Dice;

use super::chance::Chance;
use super::world::network::{MS, S};
use super::world::{Ns, World};

/// Penalties that a host may have: healthy, some weights, and a check without a weight.
const PENALTIES: [u32; 5] = [10, 10, 20, 30, 10_000];
/// A stall is judged after this time: shorter than the default, to have more of them.
const BOUND: Ns = S;

/// Tells these dice from the plan's. With this one none of the seeds in `seeds.txt` has ailments.
const SALT: u64 = 0x7379_6d70_746f_6d73;

/// The ailments of a run and how far they have come.
pub struct Ailments {
    dice: Dice,
    on: bool,
    interval: Ns,
    next: Ns,
    /// When the checks of a host pass again.
    endings: Vec<(Ns, usize)>,
}

impl Ailments {
    /// Those of the run of this seed, which begin at `from`.
    pub fn new(seed: u64, interval_ms: u64, from: Ns) -> Ailments {
        let mut dice = Dice(seed ^ SALT);
        let on = dice.one_in(3);
        let interval = interval_ms * MS;
        let next = from + interval * dice.up_to(100);
        Ailments { dice, on, interval, next, endings: Vec::new() }
    }

    /// When something happens next.
    pub fn next(&self) -> Ns {
        let ending = self.endings.iter().map(|(at, _)| *at).min().unwrap_or(Ns::MAX);
        if self.on { self.next.min(ending) } else { Ns::MAX }
    }

    /// Lets happen what is due.
    pub fn act(&mut self, world: &mut World) {
        if !self.on {
            return;
        }
        let now = world.now;
        let (due, later): (Vec<_>, Vec<_>) = self.endings.drain(..).partition(|(at, _)| *at <= now);
        self.endings = later;
        for (_, h) in due {
            world.set_penalty(h, 0);
        }
        if now >= self.next {
            self.next = now + self.interval * self.dice.between(5, 150);
            self.strike(world);
        }
    }

    fn strike(&mut self, world: &mut World) {
        let h = self.dice.below(world.shape.data as u64) as usize;
        if self.dice.one_in(3) {
            let span = self.dice.between(BOUND / 2, 10 * BOUND);
            return world.stall_disk(h, span, BOUND);
        }
        let penalty = *self.dice.pick(&PENALTIES);
        // Now and then what fails is something that all of them need.
        let everybody = self.dice.one_in(3);
        for h in (0..world.shape.data).filter(|other| everybody || *other == h) {
            world.set_penalty(h, penalty);
            let span = self.interval * self.dice.between(2, 400);
            self.endings.push((world.now + span, h));
        }
    }

    /// Ends everything.
    pub fn lift(&mut self, world: &mut World) {
        self.endings.clear();
        self.on = false;
        for h in 0..world.shape.data {
            world.set_penalty(h, 0);
            world.judge_disk(h, true);
        }
    }
}
