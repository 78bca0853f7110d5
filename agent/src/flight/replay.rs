//! The same core, told the same again.
//!
//! Each piece starts from its recorded state. After each step the digest of the effects must be the
//! recorded one, and where the next piece continues this one, its state must be the one that the steps
//! led to. The first difference ends the replay: what comes after it means nothing.

use std::panic::{AssertUnwindSafe, catch_unwind};

use holdfast_heartbeat::Time;

use super::digest::Digester;
use super::file::Flight;
use crate::node::Node;
use crate::node::effect::Effect;
use crate::node::event::Event;

/// One step, as it was replayed.
#[derive(Debug)]
pub struct Step<'a> {
    /// Counts the steps of the recording, from 0.
    pub number: usize,
    /// The first one of a piece that does not continue the one before: something is missing ahead of it.
    pub after_gap: bool,
    /// The moment.
    pub now: Time,
    /// What the core was told.
    pub event: &'a Event,
    /// What it did.
    pub effects: &'a [Effect],
    /// The core afterwards.
    pub node: &'a Node,
}

/// What became of a replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every step did what was recorded.
    Identical {
        /// How many there were.
        steps: usize,
    },
    /// Every step did what was recorded, and in the last one, which was not finished when it was
    /// recorded, the core panicked: the replay shows the defect that stopped the agent.
    Panicked {
        /// The number of the last step.
        step: usize,
        /// What the panic said.
        message: String,
    },
    /// The replay went another way.
    Diverged(Divergence),
}

/// The first difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Divergence {
    /// The effects of a step are others than those recorded. The step was shown before.
    Effects {
        /// The number of the step.
        step: usize,
        /// When, on the recorded host's clock.
        now: Time,
        /// The recorded digest.
        recorded: u32,
        /// The digest now.
        replayed: u32,
    },
    /// The effects were the same, the state that they led to is not.
    State {
        /// The number of the step ahead of which the states differ.
        step: usize,
        /// The first line that differs, as recorded.
        recorded: String,
        /// The same line now.
        replayed: String,
    },
    /// The core panicked in a step that was finished when it was recorded.
    Panicked {
        /// The number of the step.
        step: usize,
        /// When, on the recorded host's clock.
        now: Time,
        /// What the panic said.
        message: String,
    },
}

/// Replays `flight` and shows each step to `see`.
///
/// A panic of the core is caught and reported; the caller may want to silence the panic hook.
pub fn replay(flight: &Flight, mut see: impl FnMut(&Step)) -> Outcome {
    let mut digester = Digester::new();
    let mut effects = Vec::with_capacity(64);
    let mut number = 0;
    // The state that the piece before led to, if all of it was replayed.
    let mut reached: Option<Node> = None;
    for piece in &flight.pieces {
        let continues = piece.continues && reached.is_some();
        if let Some(reached) = reached.take().filter(|_| piece.continues)
            && postcard::to_allocvec(&reached).ok().as_ref() != Some(&piece.state)
        {
            let (recorded, replayed) = first_difference(&piece.node, &reached);
            return Outcome::Diverged(Divergence::State { step: number, recorded, replayed });
        }
        let mut node = piece.node.clone();
        let mut whole = piece.whole;
        for (at, step) in piece.steps.iter().enumerate() {
            let now = step.now;
            effects.clear();
            let handled =
                catch_unwind(AssertUnwindSafe(|| node.handle(now, step.event.clone(), &mut effects)));
            if let Err(panic) = handled {
                let message = words_of(&*panic);
                return match step.digest {
                    None if piece.whole => Outcome::Panicked { step: number, message },
                    _ => Outcome::Diverged(Divergence::Panicked { step: number, now, message }),
                };
            }
            let after_gap = at == 0 && !continues && number > 0;
            see(&Step { number, after_gap, now, event: &step.event, effects: &effects, node: &node });
            let replayed = digester.of(&effects);
            match step.digest {
                Some(recorded) if recorded != replayed => {
                    return Outcome::Diverged(Divergence::Effects { step: number, now, recorded, replayed });
                }
                Some(_) => {}
                None => whole = false,
            }
            number += 1;
        }
        reached = whole.then_some(node);
    }
    Outcome::Identical { steps: number }
}

fn first_difference(recorded: &Node, replayed: &Node) -> (String, String) {
    let (recorded, replayed) = (format!("{recorded:#?}"), format!("{replayed:#?}"));
    let mut recorded = recorded.lines().map(str::trim);
    let mut replayed = replayed.lines().map(str::trim);
    loop {
        match (recorded.next(), replayed.next()) {
            (None, None) => return Default::default(),
            (one, other) if one == other => {}
            (one, other) => return (one.unwrap_or_default().into(), other.unwrap_or_default().into()),
        }
    }
}

fn words_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words").to_owned()
}
