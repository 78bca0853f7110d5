//! An exhaustive check of election, lease and in-sync set at small size.
//!
//! TODO-DOC
pub mod actions;
pub mod mutations;
pub mod properties;
pub mod state;

use actions::Action;
use mutations::Mutation;
use state::State;
use stateright::{Model, Property};

/// What is modelled, and how much of it.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// What the size is called.
    pub name: &'static str,
    /// All members; with two there is no witness and each may decide alone.
    pub members: usize,
    /// Data members; the others are witnesses.
    pub data: usize,
    /// The last epoch; the first reign is epoch 1.
    pub epochs: u8,
    /// Ticks of a lease; zero leaves time out: then no lease binds any voter.
    pub lease: u8,
    /// Crashes in all.
    pub crashes: u8,
    /// Whether logs, records and writes are part of it.
    pub in_sync: bool,
    /// Writes in all.
    pub writes: u8,
    /// Records in an epoch.
    pub versions: u8,
}

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
