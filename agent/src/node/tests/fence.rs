//! Fencing: its place in rule R7, and the pair that goes on only when the other half is confirmed to be off.

use std::time::Duration;

use holdfast_heartbeat::{NodeId, Role};

use super::cluster::{Cluster, Deed, MS, Shape};
use crate::node::event::Command;
use crate::node::settings::TwoNode;
use crate::node::transition::Cause;

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;
const SECOND: Duration = Duration::from_secs(1);

/// Two data members and a witness; each data member can switch the other one off.
fn cluster() -> Cluster {
    Cluster::started(Shape { fencing: true, ..Shape::default() })
}

/// Two data members, nobody else, and `two_node = "fence"`. What they promise holds without exception.
fn pair() -> Cluster {
    let shape = Shape { witness: false, two_node: TwoNode::Fence, fencing: true, ..Shape::default() };
    let mut cluster = Cluster::started(shape);
    cluster.price_accepted = false;
    cluster
}

fn shots(cluster: &Cluster, i: usize) -> usize {
    cluster.hosts[i].deeds.iter().filter(|deed| **deed == Deed::Fences).count()
}

fn causes(cluster: &Cluster, i: usize) -> Vec<Cause> {
    cluster.hosts[i].transitions.iter().map(|transition| transition.cause).collect()
}

fn name(i: usize) -> NodeId {
    NodeId::new(char::from(b'a' + i as u8).to_string()).unwrap()
}

// ---- a majority --------------------------------------------------------------------------------------

#[test]
fn a_takeover_waits_until_the_vanished_primary_is_off() {
    let mut cluster = cluster();
    cluster.hosts[B].fences = Some((2 * SECOND, true));
    cluster.power_off(A);
    let outage = cluster.run_until(5 * SECOND, |c| c.primary() == Some(B));
    assert!(outage >= 2 * SECOND && outage < 3 * SECOND, "{outage:?}");
    let deeds = &cluster.hosts[B].deeds;
    let at = |deed: Deed| deeds.iter().position(|done| *done == deed).unwrap();
    assert!(at(Deed::Fences) < at(Deed::Claims) && at(Deed::Fences) < at(Deed::Serves), "{deeds:?}");
    assert_eq!(shots(&cluster, B), 1);
}

#[test]
fn nothing_is_written_down_by_a_reign_that_waits_for_a_device() {
    let mut cluster = cluster();
    cluster.hosts[B].fences = Some((2 * SECOND, true));
    let records = cluster.hosts[B].records.len();
    cluster.power_off(A);
    cluster.run_until(SECOND, |c| shots(c, B) == 1);
    cluster.run(SECOND);
    assert_eq!(cluster.hosts[B].records.len(), records, "no epoch-start record");
    assert_eq!(cluster.in_sync(B), [A, B], "no in-sync record");
    assert_eq!(cluster.role(B), Role::Promoting);
}

#[test]
fn a_planned_switchover_fences_nobody() {
    let mut cluster = cluster();
    cluster.command(A, 1, Command::Failover { to: None });
    cluster.run_until(3 * SECOND, |c| c.primary() == Some(B));
    cluster.run(2 * SECOND);
    assert_eq!((shots(&cluster, A), shots(&cluster, B)), (0, 0));
}

#[test]
fn whoever_is_buried_by_its_supervisor_is_not_fenced() {
    let mut cluster = cluster();
    let epoch = cluster.epoch(A);
    cluster.kill(A);
    cluster.bury(A, epoch);
    cluster.run_until(SECOND, |c| c.primary() == Some(B));
    assert_eq!(shots(&cluster, B), 0);
}

#[test]
fn a_frozen_primary_is_switched_off_before_another_one_serves() {
    let mut cluster = cluster();
    cluster.pause(A);
    cluster.run_until(5 * SECOND, |c| c.primary() == Some(B));
    assert_eq!(cluster.switched_off, [A]);
}

#[test]
fn a_device_that_fails_is_tried_again_and_its_failure_is_said() {
    let mut cluster = cluster();
    cluster.hosts[B].fences = Some((100 * MS, false));
    cluster.power_off(A);
    cluster.run(40 * SECOND);
    assert_eq!(cluster.primary(), None);
    // After 0, 5, 15 and 35 s.
    assert_eq!(shots(&cluster, B), 4, "{:#?}", cluster.story());
    let view = cluster.hosts[B].node.as_ref().unwrap().view(cluster.now);
    assert!(view.warnings.iter().any(|warning| warning.contains("the device does not answer")), "{view:?}");
    cluster.hosts[B].fences = Some((100 * MS, true));
    cluster.run_until(61 * SECOND, |c| c.primary() == Some(B));
}

#[test]
fn a_device_that_hangs_is_given_up_within_its_limit() {
    let mut cluster = cluster();
    cluster.hosts[B].fences = None;
    cluster.power_off(A);
    cluster.run_until(30 * SECOND, |c| {
        c.hosts[B].notes.iter().any(|note| note.contains("nothing was heard of the devices"))
    });
    cluster.hosts[B].fences = Some((100 * MS, true));
    cluster.run_until(10 * SECOND, |c| c.primary() == Some(B));
}

#[test]
fn whoever_comes_back_and_follows_need_not_be_switched_off() {
    let mut cluster = cluster();
    cluster.hosts[B].fences = Some((100 * MS, false));
    cluster.isolate(A);
    cluster.run(2 * SECOND);
    assert_eq!(cluster.role(B), Role::Promoting);
    cluster.heal();
    cluster.run_until(3 * SECOND, |c| c.primary() == Some(B));
    assert!(cluster.switched_off.is_empty());
}

#[test]
fn an_order_that_is_not_wanted_any_more_is_called_off() {
    let mut cluster = cluster();
    cluster.hosts[B].fences = Some((3 * SECOND, true));
    cluster.isolate(A);
    cluster.run_until(2 * SECOND, |c| shots(c, B) == 1);
    cluster.heal();
    cluster.run_until(3 * SECOND, |c| c.primary() == Some(B));
    assert!(cluster.hosts[B].deeds.contains(&Deed::CallsOffFence));
    cluster.run(5 * SECOND);
    assert!(cluster.switched_off.is_empty() && cluster.role(A) == Role::Standby, "{:#?}", cluster.story());
}

#[test]
fn who_cannot_switch_it_off_leaves_the_role_to_somebody_who_can() {
    let mut cluster = Cluster::started(Shape { data: 3, witness: false, fencing: true, ..Shape::default() });
    cluster.hosts[B].fences = Some((100 * MS, false));
    cluster.power_off(A);
    cluster.run_until(10 * SECOND, |c| c.primary() == Some(C));
    assert!(causes(&cluster, B).contains(&Cause::NotFenced), "{:#?}", cluster.story());
    assert_eq!(cluster.switched_off, [A]);
}

#[test]
fn what_is_owed_survives_a_restart_of_whoever_owes_it() {
    let mut cluster = cluster();
    cluster.hosts[B].fences = Some((100 * MS, false));
    cluster.power_off(A);
    cluster.run(2 * SECOND);
    cluster.power_off(B);
    cluster.boot(B);
    cluster.hosts[B].fences = Some((100 * MS, true));
    // It has not heard a in this life, which may be booting: it waits a while.
    cluster.run(20 * SECOND);
    assert_eq!((cluster.primary(), cluster.switched_off.len()), (None, 0), "{:#?}", cluster.story());
    cluster.run_until(15 * SECOND, |c| c.primary() == Some(B));
    assert_eq!(cluster.switched_off, [A]);
}

#[test]
fn an_operator_can_vouch_for_what_no_device_confirms() {
    let mut cluster = cluster();
    cluster.hosts[B].fences = Some((100 * MS, false));
    cluster.power_off(A);
    cluster.run(2 * SECOND);
    cluster.command(B, 1, Command::Promote { accept_data_loss: false });
    assert_eq!(cluster.hosts[B].answers[&1].as_ref().unwrap_err().code, "not_fenced");
    cluster.command(B, 2, Command::FenceConfirmed { member: NodeId::new("w").unwrap() });
    assert_eq!(cluster.hosts[B].answers[&2].as_ref().unwrap_err().code, "heard");
    cluster.command(B, 3, Command::FenceConfirmed { member: name(A) });
    assert!(cluster.hosts[B].answers[&3].is_ok(), "{:?}", cluster.hosts[B].answers);
    cluster.run_until(SECOND, |c| c.primary() == Some(B));
}

#[test]
fn an_operator_can_take_over_without() {
    let mut cluster = cluster();
    cluster.hosts[B].fences = Some((100 * MS, false));
    cluster.power_off(A);
    cluster.run(2 * SECOND);
    cluster.command(B, 1, Command::Promote { accept_data_loss: true });
    cluster.run_until(SECOND, |c| c.primary() == Some(B));
}

#[test]
fn a_preferred_device_that_fails_does_not_hold_a_takeover_up() {
    let mut cluster = Cluster::new(Shape { fencing: true, ..Shape::default() });
    cluster.hosts[B].settings.fencing.as_mut().unwrap().required = false;
    for i in 0..3 {
        cluster.boot(i);
    }
    cluster.run_until(3 * SECOND, |c| c.primary() == Some(A) && c.in_sync(A) == [A, B]);
    cluster.hosts[B].fences = Some((SECOND, false));
    cluster.power_off(A);
    let outage = cluster.run_until(5 * SECOND, |c| c.primary() == Some(B));
    assert!(outage >= SECOND, "{outage:?}");
}

#[test]
fn a_device_that_switches_something_else_is_found_out() {
    let mut cluster = cluster();
    cluster.hosts[B].fences_another = true;
    cluster.pause(A);
    cluster.run_until(5 * SECOND, |c| c.primary() == Some(B));
    cluster.resume(A);
    cluster.run(2 * SECOND);
    assert!(
        cluster.hosts[B].notes.iter().any(|note| note.contains("switches something else")),
        "{:#?}",
        cluster.story()
    );
    cluster.run_until(10 * SECOND, |c| c.in_sync(B) == [A, B]);
}

// ---- a pair without a witness ------------------------------------------------------------------------

#[test]
fn the_standby_of_a_pair_takes_over_once_the_primary_is_off() {
    let mut cluster = pair();
    assert!(cluster.write(A));
    cluster.run(100 * MS);
    cluster.power_off(A);
    let outage = cluster.run_until(10 * SECOND, |c| c.primary() == Some(B));
    // Silence, the head start, and the device.
    assert!(outage > 4 * SECOND && outage < 5 * SECOND, "{outage:?}");
    assert_eq!(cluster.switched_off, [A]);
    assert!(cluster.write(B));
    cluster.run(100 * MS);
    assert_eq!(cluster.told.len(), 2);
}

#[test]
fn a_pair_that_is_cut_in_two_keeps_its_primary_and_switches_the_standby_off() {
    let mut cluster = pair();
    cluster.isolate(A);
    cluster.run(500 * MS);
    assert!(cluster.write(A), "the write is taken");
    cluster.run(500 * MS);
    assert!(cluster.told.is_empty(), "and not answered before the standby is off");
    cluster.run_until(5 * SECOND, |c| c.in_sync(A) == [A]);
    cluster.run(100 * MS);
    assert_eq!((cluster.told.len(), cluster.switched_off.clone()), (1, vec![B]));
    cluster.heal();
    cluster.boot(B);
    cluster.run_until(5 * SECOND, |c| c.in_sync(A) == [A, B]);
}

#[test]
fn a_primary_that_cannot_switch_the_standby_off_acknowledges_nothing_alone() {
    let mut cluster = pair();
    cluster.hosts[A].fences = Some((100 * MS, false));
    cluster.isolate(A);
    cluster.run(500 * MS);
    cluster.write(A);
    cluster.run_until(10 * SECOND, |c| c.primary() == Some(B) && c.switched_off == [A]);
    assert!(cluster.told.is_empty());
}

#[test]
fn where_no_device_works_a_cut_pair_waits_and_loses_nothing() {
    let mut cluster = pair();
    for i in [A, B] {
        cluster.hosts[i].fences = Some((100 * MS, false));
    }
    cluster.isolate(A);
    cluster.run(500 * MS);
    cluster.write(A);
    cluster.run(60 * SECOND);
    assert_eq!(cluster.role(B), Role::Standby, "{:#?}", cluster.story());
    assert!(cluster.told.is_empty());
    let view = cluster.hosts[B].node.as_ref().unwrap().view(cluster.now);
    let waiting = view.waiting_for.unwrap();
    assert!(waiting.contains("once a is confirmed to be off"), "{waiting}");
    cluster.heal();
    cluster.run_until(5 * SECOND, |c| c.told.len() == 1);
    assert_eq!(cluster.primary(), Some(A));
}

#[test]
fn whoever_was_switched_off_comes_back_as_a_follower_and_shoots_nobody() {
    let mut cluster = pair();
    cluster.power_off(A);
    cluster.run_until(10 * SECOND, |c| c.primary() == Some(B));
    cluster.cut.extend([(A, B), (B, A)]);
    cluster.boot(A);
    cluster.run(120 * SECOND);
    assert_eq!((cluster.role(A), shots(&cluster, A)), (Role::Standby, 0), "{:#?}", cluster.story());
    cluster.heal();
    cluster.run_until(5 * SECOND, |c| c.in_sync(B) == [A, B]);
}

#[test]
fn an_orderly_stop_of_either_half_fences_nobody() {
    for leaves in [A, B] {
        let mut cluster = pair();
        cluster.feed(leaves, crate::node::event::Event::TerminationRequested);
        cluster.run_until(5 * SECOND, |c| c.hosts[leaves].exited);
        cluster.power_off(leaves);
        let stays = 1 - leaves;
        cluster.run_until(5 * SECOND, |c| c.primary() == Some(stays));
        assert!(cluster.write(stays));
        cluster.run_until(5 * SECOND, |c| !c.told.is_empty());
        assert_eq!(shots(&cluster, stays), 0, "{:#?}", cluster.story());
    }
}

#[test]
fn a_buried_half_of_a_pair_is_not_fenced() {
    for dies in [A, B] {
        let mut cluster = pair();
        let epoch = cluster.epoch(dies);
        cluster.kill(dies);
        cluster.bury(dies, epoch);
        let stays = 1 - dies;
        cluster.run_until(5 * SECOND, |c| c.primary() == Some(stays) && c.in_sync(stays) == [stays]);
        assert_eq!(shots(&cluster, stays), 0, "{:#?}", cluster.story());
    }
}

#[test]
fn a_paused_pair_shoots_nobody() {
    let mut cluster = pair();
    cluster.command(A, 1, Command::Pause { at_unix_ms: 0 });
    cluster.run(SECOND);
    cluster.isolate(A);
    cluster.run(30 * SECOND);
    assert!(cluster.switched_off.is_empty(), "{:#?}", cluster.story());
    cluster.heal();
    cluster.run_until(5 * SECOND, |c| c.in_sync(A) == [A, B]);
}

#[test]
fn a_record_of_going_on_alone_that_never_took_effect_proves_nothing_after_a_start() {
    let mut cluster = pair();
    // b lives and does not follow; it does not hear that a goes on alone, and a dies with that on its disk alone.
    cluster.held_back = Some(|from, _, heartbeat| from == A && heartbeat.state.going_on_alone);
    cluster.stream_cut.insert((A, B));
    cluster.run_until(5 * SECOND, |c| c.hosts[A].node.as_ref().unwrap().removing_other_half());
    cluster.isolate(A);
    cluster.run(2 * MS);
    assert_eq!(cluster.hosts[A].disk.record.as_ref().unwrap().members.len(), 1, "{:#?}", cluster.story());
    cluster.power_off(A);
    cluster.run_until(10 * SECOND, |c| c.primary() == Some(B));
    assert!(cluster.write(B));
    cluster.run(100 * MS);
    cluster.power_off(B);
    cluster.boot(A);
    cluster.run(120 * SECOND);
    assert_eq!(cluster.role(A), Role::Standby, "{:#?}", cluster.story());
}
