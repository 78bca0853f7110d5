//! What must hold in every state, and what must happen in some.

use stateright::Property;

use super::Protocol;
use super::state::{EPOCHS, Phase, State, has};

/// R1.
pub const ONE_PRIMARY: &str = "at most one member is ever primary in an epoch";
/// R4.
pub const ONE_LEASE: &str = "no two members hold a lease at once";
/// R2 and R3.
pub const KEEPS_ANSWERED: &str = "the newest primary holds every acknowledged write";
/// R2 and R3, for whoever answers.
pub const SERVES_ANSWERED: &str = "whoever serves holds every acknowledged write";
/// R3.
pub const INSIDE_THE_SET: &str = "nobody is elected outside the last recorded set";

/// The properties that are looked at for the size of `protocol`.
pub(super) fn all(protocol: &Protocol) -> Vec<Property<Protocol>> {
    let size = &protocol.size;
    let mut properties = vec![Property::always(ONE_PRIMARY, one_primary)];
    if size.members == 2 {
        // A pair without a witness promises no more than this: see the policy of `two_node`.
        properties.push(Property::sometimes("both halves reign, in epochs of their own", both_reign));
        return properties;
    }
    properties.push(Property::sometimes("a failover happens", failover));
    if size.lease > 0 {
        properties.push(Property::always(ONE_LEASE, one_lease));
        properties.push(Property::sometimes("a lease is renewed", |_, state: &State| {
            state.members[0].holds_lease() && state.members[0].promise.epoch == 1
        }));
    }
    properties.push(Property::sometimes("a handover is completed", handover));
    if size.in_sync {
        properties.push(Property::always(KEEPS_ANSWERED, keeps_answered));
        properties.push(Property::always(SERVES_ANSWERED, serves_answered));
        properties.push(Property::always(INSIDE_THE_SET, inside_the_set));
        properties.push(Property::sometimes("a write is acknowledged in solo", solo));
        if size.versions > 1 && size.epochs > 1 {
            properties.push(Property::sometimes("a standby is readmitted", readmission));
        }
    }
    properties
}

fn one_primary(_: &Protocol, state: &State) -> bool {
    state.eras.iter().all(|era| era.leaders.count_ones() <= 1)
}

fn one_lease(_: &Protocol, state: &State) -> bool {
    state.members.iter().filter(|member| member.holds_lease()).count() <= 1
}

fn keeps_answered(_: &Protocol, state: &State) -> bool {
    state.newest_reign().is_none_or(|(epoch, _)| state.answered & !state.eras[usize::from(epoch)].log == 0)
}

fn serves_answered(protocol: &Protocol, state: &State) -> bool {
    (0..protocol.size.data).filter(|at| protocol.serving(state, *at)).all(|at| {
        // Where leases are not part of the model, a primary that was superseded does not know it yet; with
        // leases that cannot be, which the sizes that have both show.
        let epoch = state.members[at].promise.epoch;
        let superseded = state.newest_reign().is_some_and(|(newest, _)| newest > epoch);
        protocol.size.lease == 0 && superseded || state.answered & !state.eras[usize::from(epoch)].log == 0
    })
}

/// A record counts from when a quorum has it, and one that is newer than that may count: whoever it adds was
/// waited for before it was written.
fn inside_the_set(_: &Protocol, state: &State) -> bool {
    (1..EPOCHS).all(|epoch| {
        let Some(leader) = state.eras[epoch].leader() else { return true };
        let before = state.eras[..epoch].iter().rev().find(|era| era.confirmed != 0);
        before.is_none_or(|era| has(era.confirmed | era.proposed, leader))
    })
}

fn failover(protocol: &Protocol, state: &State) -> bool {
    (0..protocol.size.data).any(|at| state.members[at].promise.epoch > 1 && protocol.serving(state, at))
}

fn handover(protocol: &Protocol, state: &State) -> bool {
    (1..EPOCHS - 1).any(|epoch| {
        let said = state.eras[epoch].resigned;
        let heir = usize::from(said).checked_sub(2);
        heir.is_some_and(|heir| {
            protocol.serving(state, heir)
                && usize::from(state.members[heir].promise.epoch) == epoch + 1
                && has(state.eras[epoch + 1].leaders, heir)
        })
    })
}

fn solo(protocol: &Protocol, state: &State) -> bool {
    (0..protocol.size.data).any(|at| {
        let member = &state.members[at];
        let alone = matches!(member.phase, Phase::Reigning) && member.log.waits_for.count_ones() == 1;
        let here = state.answered & state.writes_of(member.promise.epoch) & member.log.holds;
        let others = (0..protocol.size.data).filter(|m| *m != at);
        alone && others.into_iter().all(|m| here & !state.members[m].log.holds != 0)
    })
}

/// A later version of a record that has every data member again can only be the end of a growth.
fn readmission(protocol: &Protocol, state: &State) -> bool {
    (0..protocol.size.data).any(|at| {
        let member = &state.members[at];
        matches!(member.phase, Phase::Reigning)
            && member.reign.confirmed > 1
            && member.pending().is_none()
            && usize::from(member.promise.record.members.count_ones() as u16) == protocol.size.data
    })
}

fn both_reign(_: &Protocol, state: &State) -> bool {
    state.members[..2].iter().all(|member| matches!(member.phase, Phase::Reigning))
}
