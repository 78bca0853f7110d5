//! The promises of the core, one test each.

use std::time::Duration;

use holdfast_heartbeat::{Epoch, Incarnation, Message, Role, Time};

use super::cluster::{Cluster, MS, Shape, timers};
use crate::node::event::{Command, Event};
use crate::node::settings::TwoNode;
use crate::node::transition::Cause;

const A: usize = 0;
const B: usize = 1;
const W: usize = 2;

fn pair_with_witness() -> Cluster {
    Cluster::started(Shape::default())
}

fn pair(two_node: TwoNode) -> Cluster {
    Cluster::started(Shape { witness: false, two_node, ..Shape::default() })
}

#[test]
fn a_new_cluster_starts_with_its_preferred_member_and_both_in_sync() {
    let cluster = pair_with_witness();
    assert_eq!(cluster.epoch(W), cluster.epoch(A));
    assert_eq!(cluster.in_sync(W), vec![A, B]);
}

#[test]
fn power_off_of_the_primary_is_taken_over_within_detection_and_a_little() {
    let mut worst = Duration::ZERO;
    for phase in 0..10 {
        let mut cluster = pair_with_witness();
        cluster.run(MS * 7 * phase);
        cluster.power_off(A);
        let outage = cluster.run_until(500 * MS, |c| c.primary() == Some(B));
        worst = worst.max(outage);
        assert_eq!(cluster.in_sync(B), vec![B]);
    }
    assert!(worst < 340 * MS, "{worst:?}");
}

#[test]
fn a_buried_primary_is_taken_over_at_once() {
    let mut cluster = pair_with_witness();
    let epoch = cluster.epoch(A);
    cluster.kill(A);
    cluster.run(3 * MS);
    cluster.bury(A, epoch);
    let outage = cluster.run_until(100 * MS, |c| c.primary() == Some(B));
    assert!(outage < 40 * MS, "{outage:?}");
}

#[test]
fn a_paused_primary_finds_its_reign_over_when_it_wakes() {
    let mut cluster = pair_with_witness();
    cluster.pause(A);
    cluster.run_until(600 * MS, |c| c.primary() == Some(B));
    cluster.run(5000 * MS);
    cluster.resume(A);
    assert_eq!(cluster.role(A), Role::Standby, "{:#?}", cluster.story());
    assert!(cluster.hosts[A].serving.is_none());
    let said = cluster.hosts[A].transitions.last().map(|change| change.cause);
    assert_eq!(said, Some(Cause::StoodStill), "{:#?}", cluster.story());
    assert!(cluster.hosts[A].notes.iter().any(|note| note.contains("stood still for 5.")));
    let view = cluster.hosts[A].node.as_ref().expect("it runs").view(cluster.now);
    assert!(view.lateness.longest_lately(cluster.now) > 5000 * MS, "{:?}", view.lateness);
    cluster.run_until(2000 * MS, |c| c.in_sync(B) == vec![A, B]);
    assert_eq!(cluster.primary(), Some(B), "the incumbent stays");
}

#[test]
fn the_isolated_side_stops_within_its_lease_and_the_other_takes_over() {
    let mut cluster = pair_with_witness();
    cluster.isolate(A);
    let until_shut = cluster.run_until(400 * MS, |c| !c.answers_vip(A));
    assert!(until_shut <= 300 * MS, "{until_shut:?}");
    cluster.run_until(200 * MS, |c| c.primary() == Some(B));
    cluster.heal();
    cluster.run_until(3000 * MS, |c| c.in_sync(B) == vec![A, B]);
    assert_eq!(cluster.role(A), Role::Standby);
}

#[test]
fn an_isolated_standby_does_not_disturb_the_primary_when_it_returns() {
    let mut cluster = pair_with_witness();
    let epoch = cluster.epoch(A);
    cluster.isolate(B);
    cluster.run(20_000 * MS);
    assert_eq!(cluster.primary(), Some(A));
    assert_eq!(cluster.in_sync(A), vec![A], "{:#?}", cluster.story());
    cluster.heal();
    cluster.run_until(3000 * MS, |c| c.in_sync(A) == vec![A, B]);
    assert_eq!((cluster.primary(), cluster.epoch(A)), (Some(A), epoch), "no new epoch was needed");
}

#[test]
fn the_witness_alone_dying_changes_nothing() {
    let mut cluster = pair_with_witness();
    let before = cluster.hosts[A].transitions.len();
    cluster.power_off(W);
    cluster.run(10_000 * MS);
    assert_eq!(cluster.primary(), Some(A));
    assert_eq!(cluster.hosts[A].transitions.len(), before);
    assert_eq!(cluster.in_sync(A), vec![A, B]);
}

#[test]
fn witness_lost_and_then_the_standby_stops_the_primary() {
    let mut cluster = pair_with_witness();
    cluster.power_off(W);
    cluster.run(1000 * MS);
    cluster.power_off(B);
    cluster.run_until(400 * MS, |c| !c.answers_vip(A));
    cluster.run(5000 * MS);
    assert_eq!(cluster.primary(), None);
    cluster.boot(W);
    cluster.run_until(3000 * MS, |c| c.primary() == Some(A));
}

#[test]
fn a_member_outside_the_recorded_set_is_never_elected_whichever_boots_first() {
    // A goes on alone after B is lost; then everything goes dark.
    let mut cluster = pair_with_witness();
    cluster.power_off(B);
    cluster.run_until(1000 * MS, |c| c.in_sync(A) == vec![A]);
    cluster.run(500 * MS);
    cluster.power_off(A);
    cluster.power_off(W);
    cluster.run(1000 * MS);
    // The stale one and the witness come first.
    cluster.boot(B);
    cluster.boot(W);
    cluster.run(10_000 * MS);
    assert_eq!(cluster.primary(), None, "{:#?}", cluster.story());
    // The one that has everything comes back.
    cluster.boot(A);
    cluster.run_until(3000 * MS, |c| c.primary() == Some(A));
    cluster.run_until(3000 * MS, |c| c.in_sync(A) == vec![A, B]);
}

#[test]
fn the_provably_newest_starts_with_the_witness_alone() {
    let mut cluster = pair_with_witness();
    cluster.power_off(B);
    cluster.run_until(1000 * MS, |c| c.in_sync(A) == vec![A]);
    cluster.power_off(A);
    cluster.power_off(W);
    cluster.run(1000 * MS);
    cluster.boot(A);
    cluster.boot(W);
    cluster.run_until(3000 * MS, |c| c.primary() == Some(A));
}

#[test]
fn a_host_that_comes_back_with_an_empty_disk_is_not_the_member_that_was_in_sync() {
    let mut cluster = pair_with_witness();
    cluster.power_off(A);
    cluster.power_off(B);
    cluster.run(1000 * MS);
    let host = &mut cluster.hosts[A];
    host.disk = Default::default();
    host.log = Default::default();
    host.settings.me.incarnation = Incarnation(999);
    cluster.boot(A);
    cluster.run(10_000 * MS);
    assert_eq!(cluster.primary(), None, "{:#?}", cluster.story());
}

#[test]
fn an_empty_member_alone_does_not_start_a_new_cluster() {
    let mut cluster = Cluster::new(Shape::default());
    cluster.boot(A);
    cluster.boot(W);
    cluster.run(10_000 * MS);
    assert_eq!(cluster.primary(), None);
    cluster.boot(B);
    cluster.run_until(2000 * MS, |c| c.primary() == Some(A));
}

#[test]
fn a_planned_switchover_is_short_and_keeps_both_in_sync() {
    let mut cluster = pair_with_witness();
    cluster.command(A, 7, Command::Failover { to: None });
    cluster.run_until(300 * MS, |c| !c.serves(A));
    let pause = cluster.run_until(100 * MS, |c| c.primary() == Some(B));
    assert!(pause < 60 * MS, "{pause:?}");
    assert_eq!(cluster.in_sync(B), vec![A, B], "{:#?}", cluster.story());
    cluster.run(500 * MS);
    let answer = cluster.hosts[A].answers.get(&7).expect("answered");
    assert!(answer.as_ref().is_ok_and(|words| words.contains("b is primary")), "{answer:?}");
    cluster.run(10_000 * MS);
    assert_eq!(cluster.primary(), Some(B), "without failback it stays");
}

#[test]
fn switchovers_there_and_back_are_both_short() {
    let mut cluster = pair_with_witness();
    for (id, from, to) in [(1, A, B), (2, B, A), (3, A, B)] {
        cluster.command(from, id, Command::Failover { to: None });
        let took = cluster.run_until(200 * MS, |c| c.primary() == Some(to));
        assert!(took < 70 * MS, "{took:?} for the {id}th: {:#?}", cluster.story());
        cluster.run(60 * MS);
    }
}

#[test]
fn a_standby_that_had_nothing_to_acknowledge_for_long_is_not_called_slow() {
    let mut cluster = pair_with_witness();
    cluster.run(5000 * MS);
    let before = cluster.hosts[A].notes.len();
    // The next write after a long silence is durable here first, there a little later.
    assert!(cluster.write(A));
    cluster.run(2000 * MS);
    assert_eq!(cluster.hosts[B].log.durable, cluster.hosts[A].log.durable);
    assert_eq!(cluster.hosts[A].notes.len(), before, "{:#?}", cluster.story());
    assert_eq!(cluster.in_sync(A), vec![A, B]);
}

#[test]
fn a_switchover_without_successor_is_refused_and_changes_nothing() {
    let mut cluster = pair_with_witness();
    cluster.power_off(B);
    cluster.run(2000 * MS);
    cluster.command(A, 7, Command::Failover { to: None });
    cluster.run(100 * MS);
    assert_eq!(cluster.hosts[A].answers[&7].as_ref().unwrap_err().code, "no_successor");
    assert_eq!(cluster.primary(), Some(A));
}

#[test]
fn a_standby_out_of_step_is_dropped_by_record_and_admitted_again() {
    let mut cluster = pair_with_witness();
    cluster.stream_cut.insert((A, B));
    cluster.run_until(2000 * MS, |c| c.in_sync(A) == vec![A]);
    assert_eq!(cluster.in_sync(W), vec![A], "the witness has the record");
    cluster.stream_cut.clear();
    cluster.run_until(2000 * MS, |c| c.in_sync(W) == vec![A, B]);
}

#[test]
fn failback_waits_for_its_delay_and_happens_once_in_its_window() {
    let mut cluster = Cluster::started(Shape { failback: true, ..Shape::default() });
    cluster.power_off(A);
    cluster.run_until(1000 * MS, |c| c.primary() == Some(B));
    cluster.boot(A);
    let took = cluster.run_until(5000 * MS, |c| c.primary() == Some(A));
    assert!(took > 1000 * MS, "{took:?}");
    cluster.run(1000 * MS);
    cluster.power_off(A);
    cluster.run_until(1000 * MS, |c| c.primary() == Some(B));
    cluster.boot(A);
    cluster.run(10_000 * MS);
    assert_eq!(cluster.primary(), Some(B), "the window of the last failback is not over");
    cluster.run(25_000 * MS);
    assert_eq!(cluster.primary(), Some(A));
}

#[test]
fn a_failed_log_hands_over_and_never_comes_back_by_itself() {
    let mut cluster = pair_with_witness();
    cluster.feed(A, Event::LogFailed { full: false, error: "fdatasync: I/O error".into() });
    cluster.run_until(1000 * MS, |c| c.primary() == Some(B));
    cluster.power_off(B);
    cluster.run(5000 * MS);
    assert_eq!(cluster.primary(), None, "{:#?}", cluster.story());
}

#[test]
fn a_full_disk_keeps_the_role() {
    let mut cluster = pair_with_witness();
    cluster.feed(A, Event::LogFailed { full: true, error: "no space".into() });
    cluster.run(3000 * MS);
    assert_eq!(cluster.primary(), Some(A));
}

#[test]
fn an_orderly_stop_hands_over_before_it_exits() {
    let mut cluster = pair_with_witness();
    cluster.feed(A, Event::TerminationRequested);
    cluster.run_until(1000 * MS, |c| c.primary() == Some(B));
    cluster.run_until(2000 * MS, |c| c.hosts[A].exited);
    assert_eq!(cluster.in_sync(B), vec![B], "{:#?}", cluster.story());
}

#[test]
fn an_orderly_stop_of_the_standby_shrinks_the_set_first() {
    let mut cluster = pair_with_witness();
    cluster.feed(B, Event::TerminationRequested);
    let took = cluster.run_until(1000 * MS, |c| c.hosts[B].exited);
    assert!(took < 200 * MS, "{took:?}");
    cluster.run(20 * MS);
    assert_eq!(cluster.in_sync(A), vec![A]);
}

fn lost_gate(named: bool) -> Event {
    Event::GateJudged { lost: Some("nothing on eth1".into()), named }
}

#[test]
fn whoever_loses_the_gate_that_it_must_have_hands_over_and_is_not_elected_before_it_is_back() {
    let mut cluster = pair_with_witness();
    cluster.feed(A, lost_gate(true));
    cluster.run_until(1000 * MS, |c| c.primary() == Some(B));
    cluster.run(3000 * MS);
    assert_eq!(cluster.primary(), Some(B), "{:#?}", cluster.story());
    cluster.feed(A, Event::GateJudged { lost: None, named: true });
    cluster.run_until(2000 * MS, |c| c.in_sync(B) == vec![A, B]);
    cluster.power_off(B);
    cluster.run_until(3000 * MS, |c| c.primary() == Some(A));
}

#[test]
fn where_any_gate_would_do_a_lost_one_makes_way_once_and_costs_no_copy() {
    let mut cluster = pair_with_witness();
    cluster.feed(A, lost_gate(false));
    cluster.run_until(1000 * MS, |c| c.primary() == Some(B));
    cluster.run_until(2000 * MS, |c| c.in_sync(B) == vec![A, B]);
    // B loses its own too: A, which has made way already, keeps the role.
    cluster.feed(B, lost_gate(false));
    cluster.run_until(2000 * MS, |c| c.primary() == Some(A));
    cluster.run(3000 * MS);
    assert_eq!(cluster.primary(), Some(A), "{:#?}", cluster.story());
    assert_eq!(cluster.in_sync(A), vec![A, B]);
}

#[test]
fn without_a_successor_a_lost_gate_ends_the_reign_only_if_the_configuration_names_it() {
    for named in [true, false] {
        let mut cluster = pair_with_witness();
        cluster.power_off(B);
        cluster.run_until(2000 * MS, |c| c.in_sync(A) == vec![A]);
        cluster.feed(A, lost_gate(named));
        cluster.run(3000 * MS);
        assert_eq!(cluster.primary(), (!named).then_some(A), "{:#?}", cluster.story());
    }
}

#[test]
fn three_data_members_lose_any_one() {
    for victim in 0..3 {
        let mut cluster = Cluster::started(Shape { data: 3, witness: false, ..Shape::default() });
        cluster.power_off(victim);
        cluster.run(1500 * MS);
        let expected = if victim == A { B } else { A };
        assert_eq!(cluster.primary(), Some(expected), "{:#?}", cluster.story());
        let survivors: Vec<_> = (0..3).filter(|i| *i != victim).collect();
        assert_eq!(cluster.in_sync(expected), survivors);
        cluster.boot(victim);
        cluster.run_until(3000 * MS, |c| c.in_sync(expected) == vec![0, 1, 2]);
    }
}

#[test]
fn a_pair_without_witness_takes_over_after_silence_and_an_unanswered_probe() {
    let mut cluster = pair(TwoNode::Probe);
    cluster.power_off(A);
    let outage = cluster.run_until(1000 * MS, |c| c.primary() == Some(B));
    assert!(outage < 500 * MS, "{outage:?}");
}

#[test]
fn a_pair_does_not_take_over_while_the_address_answers() {
    let mut cluster = pair(TwoNode::Probe);
    cluster.cut.insert((A, B));
    cluster.cut.insert((B, A));
    cluster.probe_answer.set(Some(A));
    cluster.run(10_000 * MS);
    assert_eq!(cluster.primary(), Some(A));
    assert_eq!(cluster.role(B), Role::Standby);
}

#[test]
fn a_pair_survives_the_loss_of_its_standby_and_a_cold_start_waits_for_the_newest() {
    let mut cluster = pair(TwoNode::Probe);
    cluster.power_off(B);
    cluster.run(2000 * MS);
    assert_eq!((cluster.primary(), cluster.in_sync(A)), (Some(A), vec![A]));
    cluster.power_off(A);
    cluster.boot(B);
    cluster.run(10_000 * MS);
    assert_eq!(cluster.primary(), None, "the stale half waits");
    cluster.power_off(B);
    cluster.boot(A);
    cluster.run_until(2000 * MS, |c| c.primary() == Some(A));
}

#[test]
fn a_manual_pair_waits_for_its_operator() {
    let mut cluster = pair(TwoNode::Manual);
    cluster.power_off(A);
    cluster.run(10_000 * MS);
    assert_eq!(cluster.primary(), None);
    cluster.command(B, 1, Command::Promote { accept_data_loss: false });
    cluster.run(200 * MS);
    assert_eq!(cluster.hosts[B].answers[&1].as_ref().unwrap_err().code, "no_quorum");
    cluster.command(B, 2, Command::Promote { accept_data_loss: true });
    cluster.run_until(1000 * MS, |c| c.primary() == Some(B));
}

#[test]
fn a_paused_half_of_a_pair_steps_down_and_the_halves_agree_again() {
    let mut cluster = pair(TwoNode::Probe);
    cluster.pause(A);
    cluster.run_until(1000 * MS, |c| c.primary() == Some(B));
    cluster.resume(A);
    cluster.run_until(3000 * MS, |c| c.in_sync(B) == vec![A, B]);
    assert_eq!(cluster.primary(), Some(B));
}

#[test]
fn promote_outside_the_set_names_its_price() {
    let mut cluster = pair_with_witness();
    cluster.power_off(B);
    cluster.run(2000 * MS);
    cluster.power_off(A);
    cluster.boot(B);
    cluster.run(2000 * MS);
    cluster.command(B, 1, Command::Promote { accept_data_loss: false });
    cluster.run(10 * MS);
    let refused = cluster.hosts[B].answers[&1].as_ref().unwrap_err();
    assert_eq!(refused.code, "data_loss");
    assert!(
        refused.message.contains("LSN") && refused.message.contains("--accept-data-loss"),
        "{}",
        refused.message
    );
    cluster.command(B, 2, Command::Promote { accept_data_loss: true });
    cluster.run_until(2000 * MS, |c| c.primary() == Some(B));
    assert!(cluster.hosts[B].answers[&2].is_ok());
}

#[test]
fn promote_on_an_in_sync_standby_is_a_switchover() {
    let mut cluster = pair_with_witness();
    cluster.command(B, 3, Command::Promote { accept_data_loss: false });
    cluster.run_until(1000 * MS, |c| c.primary() == Some(B));
    cluster.run(10 * MS);
    assert!(cluster.hosts[B].answers[&3].is_ok());
}

#[test]
fn a_restarted_voter_waits_one_lease() {
    // The witness renews A's lease, restarts, and A is cut off: B must not win before A's gate shuts.
    for at in 0..30 {
        let mut cluster = pair_with_witness();
        cluster.run(MS * 10 * at);
        cluster.power_off(W);
        cluster.run(5 * MS);
        cluster.boot(W);
        cluster.isolate(A);
        cluster.run(3000 * MS);
        assert_eq!(cluster.primary(), Some(B));
    }
}

#[test]
fn replayed_packets_change_nothing() {
    let mut cluster = pair_with_witness();
    cluster.record_packets = true;
    cluster.run(1000 * MS);
    cluster.record_packets = false;
    let recorded = std::mem::take(&mut cluster.packets);
    cluster.command(A, 1, Command::Failover { to: None });
    cluster.run(2000 * MS);
    let before = (cluster.primary(), cluster.epoch(B), cluster.in_sync(B));
    assert_eq!(before.0, Some(B));
    for round in 0..3 {
        for (from, to, bytes) in &recorded {
            if let Message::Heartbeat(heartbeat) = cluster.open(bytes) {
                cluster.deliver(*to, *from, 0, heartbeat);
            }
        }
        cluster.run(400 * MS);
        assert_eq!((cluster.primary(), cluster.epoch(B), cluster.in_sync(B)), before, "round {round}");
    }
    let dropped = cluster.hosts[B].node.as_ref().unwrap().view(cluster.now).dropped;
    assert!(dropped.iter().any(|(_, count)| *count > 0), "{dropped:?}");
}

#[test]
fn replayed_packets_do_not_keep_a_dead_primary_alive() {
    let mut cluster = pair_with_witness();
    cluster.record_packets = true;
    cluster.run(300 * MS);
    cluster.record_packets = false;
    let recorded = std::mem::take(&mut cluster.packets);
    cluster.power_off(A);
    let start = cluster.now;
    while cluster.primary() != Some(B) {
        for (from, to, bytes) in recorded.iter().filter(|(from, _, _)| *from == A) {
            if let Message::Heartbeat(heartbeat) = cluster.open(bytes) {
                cluster.deliver(*to, *from, 0, heartbeat);
            }
        }
        cluster.run(10 * MS);
        assert!(cluster.now.since(start) < 400 * MS, "{:#?}", cluster.story());
    }
}

#[test]
fn a_one_way_cut_in_either_direction_ends_in_one_primary() {
    for (from, to) in [(A, B), (B, A), (A, W), (W, A), (B, W), (W, B)] {
        let mut cluster = pair_with_witness();
        cluster.cut.insert((from, to));
        cluster.run(5000 * MS);
        let primary = cluster.primary();
        assert!(primary.is_some(), "{from}->{to}: {:#?}", cluster.story());
        cluster.heal();
        cluster.run(4000 * MS);
        assert_eq!(cluster.in_sync(cluster.primary().unwrap()), vec![A, B], "{from}->{to}");
    }
}

/// Packets to the primary stop a little earlier from one member than from the other, as they do where they come at
/// different moments. Its own still arrive: a record without B would shut out the only one that can take over.
#[test]
fn a_primary_that_hears_nobody_does_not_shut_out_the_member_that_takes_over() {
    for (first, then) in [(B, W), (W, B)] {
        for apart in (0..=100).step_by(4) {
            for phase in 0..5 {
                let mut cluster = pair_with_witness();
                cluster.run(MS * 23 * phase);
                cluster.cut.insert((first, A));
                cluster.run(MS * apart);
                cluster.cut.insert((then, A));
                let start = cluster.now;
                while cluster.primary() != Some(B) {
                    cluster.run(10 * MS);
                    let passed = cluster.now.since(start);
                    let case = format!("{first} and {apart} ms later {then}, phase {phase}");
                    assert!(passed < 700 * MS, "{case}: {:#?}", cluster.story());
                }
            }
        }
    }
}

#[test]
fn a_member_that_cannot_claim_the_address_makes_way_for_one_that_can() {
    let mut cluster = pair_with_witness();
    cluster.hosts[B].no_interface = true;
    cluster.command(A, 1, Command::Failover { to: None });
    cluster.run_until(1000 * MS, |c| c.role(B) == Role::Promoting);
    cluster.run_until(8000 * MS, |c| c.primary() == Some(A));
}

#[test]
fn an_order_that_is_replaced_by_a_later_one_is_answered() {
    let mut cluster = pair_with_witness();
    cluster.stream_cut.insert((A, B));
    cluster.command(B, 1, Command::Promote { accept_data_loss: false });
    cluster.command(B, 2, Command::Promote { accept_data_loss: false });
    assert_eq!(cluster.hosts[B].answers[&1].as_ref().unwrap_err().code, "replaced");
    cluster.run(11_000 * MS);
    assert_eq!(cluster.hosts[B].answers.len(), 2, "every order is answered");
}

#[test]
fn without_automatic_failover_only_an_operator_makes_a_primary() {
    let mut cluster = Cluster::new(Shape::default());
    for i in 0..3 {
        cluster.hosts[i].settings.automatic = false;
        cluster.boot(i);
    }
    cluster.run(5000 * MS);
    assert_eq!(cluster.primary(), None);
    cluster.command(A, 1, Command::Promote { accept_data_loss: false });
    cluster.run_until(2000 * MS, |c| c.primary() == Some(A));
    cluster.run_until(2000 * MS, |c| c.in_sync(A) == vec![A, B]);
    cluster.power_off(A);
    cluster.run(5000 * MS);
    assert_eq!(cluster.primary(), None);
    cluster.command(B, 2, Command::Promote { accept_data_loss: false });
    cluster.run_until(2000 * MS, |c| c.primary() == Some(B));
}

#[test]
fn a_member_that_reaches_nobody_does_not_flood_its_history() {
    let mut cluster = pair_with_witness();
    cluster.isolate(B);
    let before = cluster.hosts[B].transitions.len();
    cluster.run(60_000 * MS);
    let told = cluster.hosts[B].transitions.len() - before;
    assert!(told <= 4, "{told} changes of role were told: {:#?}", cluster.story());
    cluster.heal();
    cluster.run_until(2000 * MS, |c| c.in_sync(A) == vec![A, B]);
}

#[test]
fn an_address_conflict_keeps_the_address_unclaimed() {
    let mut cluster = pair_with_witness();
    cluster.probe_answer.set(Some(9));
    cluster.power_off(A);
    cluster.run(2000 * MS);
    assert!(!cluster.hosts[B].vip);
    assert!(
        cluster.hosts[B].notes.iter().any(|note| note.contains("another host answers")),
        "{:#?}",
        cluster.story()
    );
    cluster.probe_answer.set(None);
    cluster.run_until(1000 * MS, |c| c.primary() == Some(B));
}

#[test]
fn random_faults_never_make_two_hosts_answer_and_always_heal() {
    for seed in 1..=120u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut draw = move |n: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % n
        };
        let data = 2 + (seed % 2) as usize;
        let mut cluster = Cluster::started(Shape { data, witness: data == 2, ..Shape::default() });
        let n = cluster.hosts.len();
        for _ in 0..40 {
            let i = draw(n as u64) as usize;
            let j = draw(n as u64) as usize;
            match draw(10) {
                0 if cluster.hosts[i].node.is_some() => cluster.power_off(i),
                1 | 2 if cluster.hosts[i].node.is_none() => cluster.boot(i),
                3 => cluster.pause(i),
                4 if cluster.hosts[i].paused => cluster.resume(i),
                5 => cluster.isolate(i),
                6 => {
                    cluster.cut.insert((i, j));
                }
                7 => cluster.heal(),
                8 => cluster.command(i, draw(1 << 40), Command::Failover { to: None }),
                9 => {
                    cluster.stream_cut.insert((i, j));
                }
                _ => {}
            }
            cluster.run(MS * draw(400) as u32);
        }
        cluster.heal();
        cluster.stream_cut.clear();
        for i in 0..n {
            if cluster.hosts[i].node.is_none() {
                cluster.boot(i);
            }
            if cluster.hosts[i].paused {
                cluster.resume(i);
            }
        }
        cluster.run(45_000 * MS);
        let primary = cluster.primary();
        assert!(primary.is_some(), "seed {seed} does not heal: {:#?}", cluster.story());
        assert_eq!(
            cluster.in_sync(primary.unwrap()),
            (0..data).collect::<Vec<_>>(),
            "seed {seed}: {:#?}",
            cluster.story()
        );
    }
}

#[test]
fn short_timers_take_over_in_less_than_a_tenth_of_a_second() {
    let mut cluster = Cluster::new(Shape::default());
    for host in &mut cluster.hosts {
        host.settings.timers = timers(20);
    }
    for i in 0..3 {
        cluster.boot(i);
    }
    cluster.run(1500 * MS);
    assert_eq!(cluster.in_sync(A), vec![A, B], "{:#?}", cluster.story());
    cluster.power_off(A);
    let outage = cluster.run_until(100 * MS, |c| c.primary() == Some(B));
    assert!(outage < 85 * MS, "{outage:?}");
}

#[test]
fn the_epoch_never_goes_back_and_time_never_stands_still() {
    let cluster = pair_with_witness();
    assert!(cluster.epoch(A) > Epoch::ZERO);
    let node = cluster.hosts[A].node.as_ref().unwrap();
    assert!(node.deadline() > cluster.now - 100 * MS && node.deadline() < Time::NEVER);
}

/// The log goes out by the link that failed, and does not get through: what was acknowledged is on the other side.
#[test]
fn a_primary_whose_service_link_failed_lets_go_though_its_log_does_not_get_out() {
    for witness in [true, false] {
        let mut cluster = Cluster::started(Shape { witness, ..Shape::default() });
        cluster.run(1000 * MS);
        assert!(cluster.write(A));
        cluster.run(50 * MS);
        let told = cluster.told.len();
        assert!(told > 0);
        cluster.stream_delay = 60_000 * MS;
        assert!(cluster.write(A));
        cluster.feed(A, Event::LinksJudged { good: false, detail: "no carrier on eth0".into() });
        let took = cluster.run_until(300 * MS, |c| c.primary() == Some(B));
        assert!(took <= 150 * MS, "{took:?}");
        assert_eq!(cluster.told.len(), told, "nobody was told that the rest is stored");
    }
}
