//! The rules of election, lease and in-sync set, looked at in every order of events at small size.
//! Larger sizes: `cargo run --release -p holdfast-integration --bin model`.

use holdfast_integration::model::Protocol;
use holdfast_integration::model::mutations::Mutation;
use holdfast_integration::model::sizes::{LEASE, PAIR, SET, SET_CRASH, SET_OF_THREE, SIZES, Size, VOTES};

/// Every state of `size` keeps the rules, and what should be possible is.
fn holds(size: Size) {
    let verdict = Protocol { size, mutation: None }.verify(1);
    println!(
        "{}: {} states, {} steps, depth {}, {} ms",
        size.name,
        verdict.states,
        verdict.steps,
        verdict.depth,
        verdict.took.as_millis()
    );
    assert!(verdict.broken.is_empty(), "{}: {:#?}", size.name, verdict.broken);
    assert!(verdict.unreached.is_empty(), "{}: never happens: {:?}", size.name, verdict.unreached);
}

#[test]
fn votes_make_one_primary_in_an_epoch() {
    holds(VOTES);
}

#[test]
fn the_halves_of_a_pair_never_win_the_same_epoch() {
    holds(PAIR);
}

#[test]
fn leases_exclude_each_other_on_drifting_clocks() {
    holds(LEASE);
}

#[test]
fn an_elected_primary_holds_every_acknowledged_write() {
    holds(SET);
}

#[test]
fn a_crash_takes_no_acknowledged_write_along() {
    holds(SET_CRASH);
}

#[test]
fn three_data_members_lose_no_acknowledged_write() {
    holds(SET_OF_THREE);
}

#[test]
fn every_size_of_the_quick_check_is_looked_at() {
    let names = [VOTES, PAIR, LEASE, SET, SET_CRASH, SET_OF_THREE].map(|size| size.name);
    assert_eq!(SIZES.map(|size| size.name), names);
}

#[test]
fn each_broken_protocol_is_found_out() {
    for mutation in Mutation::ALL {
        let verdict = Protocol { size: mutation.size(), mutation: Some(mutation) }.verify(1);
        let Some((name, way)) = verdict.broken.first() else {
            panic!("{mutation:?} breaks nothing in {} states", verdict.states);
        };
        assert!(mutation.breaks().contains(name), "{mutation:?} breaks another rule: {name}");
        println!("{mutation:?}: {} states, {name}, in {} steps", verdict.states, way.len());
    }
}
