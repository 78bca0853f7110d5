//! What must never happen, one file per invariant.
//!
//! The rules R1 to R9 of the design are watched while a run goes on: [`Checkers::see`] is told of everything
//! at the moment when it happens, and knows what no member knows: every disk, every clock, every packet. What
//! clients saw is judged after the run, from their history alone.

pub mod clients;
pub mod facts;
mod fenced;
mod fresh;
mod left_behind;
mod linearizable;
mod listing;
mod no_worse;
mod own_epoch;
mod r1_one_writer;
mod r2_acknowledged;
mod r3_in_sync;
mod r4_lease;
mod r5_authentic;
mod r6_kernel;
mod r7_order;
mod r8_set_aside;
pub mod r9_same_bytes;
mod readable;
mod search;
mod sound_log;
mod uploads;
pub mod whole;
mod written;

use super::world::shape::Shape;
use super::world::{Ns, Seen, World};

/// A rule that was broken.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which: `R1`, `linearizability`, ...
    pub rule: &'static str,
    /// When.
    pub at: Ns,
    /// What happened, in words.
    pub what: String,
}

/// Watches one invariant.
pub trait Checker {
    /// The rule's name in a report.
    fn rule(&self) -> &'static str;
    /// Looks at what happened; `Err` says in words how the rule was broken.
    fn see(&mut self, world: &World, seen: &Seen<'_>) -> Result<(), String>;
}

/// All that watch a run.
pub struct Checkers {
    all: Vec<Box<dyn Checker>>,
    violation: Option<Violation>,
}

impl Checkers {
    /// The checkers for clusters of this shape.
    pub fn new(_shape: &Shape) -> Checkers {
        let all: Vec<Box<dyn Checker>> = vec![
            Box::new(r1_one_writer::OneWriter::default()),
            Box::new(r2_acknowledged::Acknowledged::default()),
            Box::new(r3_in_sync::InSyncSet::default()),
            Box::new(r4_lease::Lease::default()),
            Box::new(r5_authentic::Authentic::default()),
            Box::new(r6_kernel::Kernel::default()),
            Box::new(r7_order::Order::default()),
            Box::new(r8_set_aside::SetAside::default()),
            Box::new(fenced::Fenced::default()),
            Box::new(left_behind::LeftBehind::default()),
            Box::new(own_epoch::OwnEpoch),
            Box::new(no_worse::NoWorse),
            Box::new(sound_log::SoundLog),
            Box::new(readable::Readable),
            Box::new(fresh::Fresh::default()),
        ];
        Checkers { all, violation: None }
    }

    /// Shows everybody what happened.
    pub fn see(&mut self, world: &World, seen: &Seen<'_>) {
        if self.violation.is_some() {
            return;
        }
        for checker in &mut self.all {
            if let Err(what) = checker.see(world, seen) {
                self.violation = Some(Violation { rule: checker.rule(), at: world.now, what });
                return;
            }
        }
    }

    /// The first rule that was broken.
    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }
}
