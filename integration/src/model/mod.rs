//! An exhaustive check of election, lease and in-sync set at small size.
//!
//! The simulator draws some orders of events; here every one is looked at, for clusters so small that there is an end
//! to them. What is checked is not the code but its rules, restated: a few hundred lines that can be laid beside
//! `agent/src/node`.
//!
//! ```text
//!   voter.rs     Vote, Persist, Grant, HeedPrimary, AdoptRecord, HeedResignation, HeedNotice
//!   campaign.rs  Stand, Win
//!   reign.rs     Win (its beginning), Renew, StepDown, and Tick, by which a lease lapses
//!   in_sync.rs   Confirm, Shrink, BeginToWait, CallOff, Admit
//!   handover.rs  HandOver
//!   quorum.rs    the counting in Win, Confirm and Renew
//!   replication  Follow, Append, Answer: the log as a set of writes, with each epoch's own first record
//! ```
//!
//! *What any step may do.* A member takes any step that the safety rules allow, whenever it likes: silence
//! before standing, turns, back-off, probes and the first question of a campaign only ever take steps away, so they
//! are left out, and what holds here holds with them. Packets are lost, late, doubled and reordered at will: a
//! statement stays sayable for ever. Promises and records reach the disk by a step of their own, and a crash in between
//! forgets them. A log that led goes on after its node gave up, until something tells it. An old packet is
//! believed however old it is: the replay window is not needed for any property here.
//!
//! *Time* is counted down in ticks of each host's own clock. No clock is ever more than a tick ahead of another, so over one lease
//! two of them differ by two ticks at most, which is what the margin has to cover, and exactly what it covers.
//! A process that is stopped is one that takes no step while its clock goes on.
//!
//! *What is left out.* Orders of an operator that accept data loss; two-node policies other than the numbering of epochs; new
//! incarnations and damaged logs; the beginning of a cluster; the delay between a packet's arrival and the
//! renewal that answers it; a log's bytes (a divergent tail is a write that the primary lacks); liveness, which
//! is the simulator's.
//!
//! A size bounds epochs, crashes, writes and records. [`sizes::SIZES`] end within a minute together; [`sizes::LARGE`] take
//! longer and are for `cargo run --release -p holdfast-integration --bin model`.

pub mod actions;
pub mod mutations;
pub mod properties;
pub mod sizes;
pub mod state;

use std::time::{Duration, Instant};

use actions::Action;
use mutations::Mutation;
use sizes::Size;
use state::State;
use stateright::{Checker, HasDiscoveries, Model, Property};

/// The protocol, or a broken variant of it, at one size.
#[derive(Clone, Copy, Debug)]
pub struct Protocol {
    /// How large.
    pub size: Size,
    /// What is broken.
    pub mutation: Option<Mutation>,
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.first()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.possible(state, actions);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        Some(self.after(last, action))
    }

    fn properties(&self) -> Vec<Property<Protocol>> {
        properties::all(self)
    }
}

/// The counted result of one check.
#[derive(Debug)]
pub struct Verdict {
    /// Steps that were looked at.
    pub steps: usize,
    /// Different states.
    pub states: usize,
    /// The longest of the shortest ways to a state.
    pub depth: usize,
    /// How long it took.
    pub took: Duration,
    /// Properties that failed, each with the steps that lead there.
    pub broken: Vec<(&'static str, Vec<Action>)>,
    /// What should happen in some state and happens in none.
    pub unreached: Vec<&'static str>,
}

impl Protocol {
    /// Looks at every reachable state, or at as many as it takes to find a broken property.
    pub fn verify(self, threads: usize) -> Verdict {
        let began = Instant::now();
        let checker =
            self.checker().threads(threads).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        let mut verdict = Verdict {
            steps: checker.state_count(),
            states: checker.unique_state_count(),
            depth: checker.max_depth(),
            took: began.elapsed(),
            broken: Vec::new(),
            unreached: Vec::new(),
        };
        for property in self.properties() {
            let found = checker.discovery(property.name);
            match (property.expectation, found) {
                (stateright::Expectation::Sometimes, None) => verdict.unreached.push(property.name),
                (stateright::Expectation::Always, Some(path)) => {
                    verdict.broken.push((property.name, path.into_actions()));
                }
                _ => {}
            }
        }
        verdict
    }
}
