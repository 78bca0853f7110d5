//! Services and hooks: the order of rule R7 with them, their limits, and what a veto means.

use std::time::Duration;

use holdfast_heartbeat::Role;

use super::cluster::{Cluster, Deed, MS, Shape};
use crate::node::event::{Command, Event, Readiness};
use crate::node::settings::{Attendance, TwoNode};
use crate::node::transition::Cause;

const A: usize = 0;
const B: usize = 1;
const SECOND: Duration = Duration::from_secs(1);

fn attendance(may_veto: bool) -> Option<Attendance> {
    Some(Attendance { prepare: SECOND * 2, retire: SECOND * 2, may_veto })
}

/// A pair with a witness whose members have services and hooks.
fn cluster() -> Cluster {
    Cluster::started(Shape { attendance: attendance(true), ..Shape::default() })
}

fn vetoed() -> Option<(Duration, Readiness)> {
    Some((MS, Readiness::Vetoed { why: "hook \"x\" says no".into() }))
}

fn failed() -> Option<(Duration, Readiness)> {
    Some((MS, Readiness::Failed { why: "unit y did not start".into() }))
}

/// Where `deed` stands last among what host `i` did.
fn last(cluster: &Cluster, i: usize, deed: Deed) -> usize {
    let deeds = &cluster.hosts[i].deeds;
    deeds.iter().rposition(|done| *done == deed).unwrap_or_else(|| panic!("no {deed:?} in {deeds:?}"))
}

fn causes(cluster: &Cluster, i: usize) -> Vec<Cause> {
    cluster.hosts[i].transitions.iter().map(|transition| transition.cause).collect()
}

#[test]
fn without_hooks_and_services_the_steps_do_not_exist() {
    let mut cluster = Cluster::started(Shape::default());
    cluster.power_off(A);
    cluster.run_until(500 * MS, |c| c.primary() == Some(B));
    cluster.boot(A);
    cluster.run_until(5 * SECOND, |c| c.in_sync(B) == [A, B]);
    cluster.command(B, 1, Command::Failover { to: None });
    cluster.run_until(SECOND, |c| c.primary() == Some(A));
    for host in &cluster.hosts {
        assert!(!host.deeds.iter().any(|deed| matches!(deed, Deed::Prepares | Deed::Retires { .. })));
    }
}

#[test]
fn the_address_waits_for_services_and_pre_hooks_and_is_asked_for_after_them() {
    let mut cluster = cluster();
    cluster.hosts[B].prepares = Some((700 * MS, Readiness::Ready));
    cluster.hosts[B].deeds.clear();
    cluster.power_off(A);
    let outage = cluster.run_until(3 * SECOND, |c| c.primary() == Some(B));
    assert!(outage >= 700 * MS && outage < 1200 * MS, "{outage:?}");
    let [prepares, probes, claims] =
        [Deed::Prepares, Deed::Probes, Deed::Claims].map(|deed| last(&cluster, B, deed));
    assert!(prepares < probes && probes < claims, "{:?}", cluster.hosts[B].deeds);
    assert!(claims.abs_diff(last(&cluster, B, Deed::Serves)) <= 1, "{:?}", cluster.hosts[B].deeds);
}

#[test]
fn somebody_who_answers_on_the_address_after_the_hooks_is_found() {
    let mut cluster = cluster();
    cluster.hosts[B].prepares = Some((700 * MS, Readiness::Ready));
    cluster.power_off(A);
    // The probe beside the election finds nobody; whoever comes up while the hooks run is found all the same.
    cluster.run_until(SECOND, |c| c.hosts[B].deeds.contains(&Deed::Prepares));
    cluster.probe_answer.set(Some(A));
    cluster.run(2 * SECOND);
    assert_eq!(cluster.primary(), None);
    assert!(!cluster.answers_vip(B));
    cluster.probe_answer.set(None);
    cluster.run_until(SECOND, |c| c.primary() == Some(B));
}

#[test]
fn the_lease_is_renewed_while_the_hooks_run() {
    let mut cluster = cluster();
    cluster.hosts[B].prepares = Some((1900 * MS, Readiness::Ready));
    let reigns = causes(&cluster, B).len();
    cluster.power_off(A);
    cluster.run_until(4 * SECOND, |c| c.primary() == Some(B));
    // Six leases long, and one election.
    let of_b = &causes(&cluster, B)[reigns..];
    assert_eq!(of_b, [Cause::PrimarySilent, Cause::VotesWon, Cause::StepsDone]);
}

#[test]
fn a_veto_leaves_the_role_to_another_member() {
    let mut cluster = cluster();
    cluster.hosts[B].prepares = vetoed();
    cluster.command(A, 1, Command::Failover { to: None });
    cluster.run_until(3 * SECOND, |c| causes(c, B).contains(&Cause::NotPrepared));
    cluster.run_until(3 * SECOND, |c| c.primary() == Some(A));
    assert!(!cluster.hosts[B].deeds.contains(&Deed::Claims), "{:#?}", cluster.story());
    assert!(cluster.hosts[B].notes.iter().any(|note| note.contains("hook \"x\" says no")));
    let answer = cluster.hosts[A].answers[&1].as_ref().expect_err("it did not happen");
    assert!(
        answer.code == "handover_failed" && answer.message.contains("a is primary in epoch"),
        "{answer:?}"
    );
    cluster.run_until(5 * SECOND, |c| c.in_sync(A) == [A, B]);
}

/// A pair with a witness of whose members `b` alone has services and hooks.
fn with_hooks_on_b(failback: bool) -> Cluster {
    let mut cluster = Cluster::new(Shape { failback, ..Shape::default() });
    cluster.hosts[B].settings.attendance = attendance(true);
    for i in 0..3 {
        cluster.boot(i);
    }
    cluster.run_until(3 * SECOND, |c| c.primary() == Some(A) && c.in_sync(A) == [A, B]);
    cluster
}

#[test]
fn a_switchover_is_not_said_to_be_done_before_the_hooks_of_the_other_host_let_it() {
    let mut cluster = with_hooks_on_b(false);
    cluster.hosts[B].prepares = Some((700 * MS, Readiness::Ready));
    cluster.command(A, 1, Command::Failover { to: None });
    cluster.run_until(3 * SECOND, |c| c.hosts[A].answers.contains_key(&1));
    assert_eq!(cluster.primary(), Some(B), "{:?}", cluster.hosts[A].answers);
    let answer = cluster.hosts[A].answers[&1].as_ref().expect("it happened");
    assert!(answer.starts_with("b is primary in epoch 2, "), "{answer}");
}

#[test]
fn a_switchover_that_the_hooks_of_the_other_host_veto_is_not_said_to_be_done() {
    let mut cluster = with_hooks_on_b(false);
    cluster.hosts[B].prepares = vetoed();
    cluster.command(A, 1, Command::Failover { to: None });
    cluster.run_until(3 * SECOND, |c| c.hosts[A].answers.contains_key(&1));
    assert_eq!(cluster.primary(), Some(A), "{:?}", cluster.hosts[A].answers);
    let answer = cluster.hosts[A].answers[&1].as_ref().expect_err("it did not happen");
    assert_eq!(answer.code, "handover_failed");
    for said in
        ["a is primary in epoch 3 again", "b took the role in epoch 2 and gave it up again", "pre-hook"]
    {
        assert!(answer.message.contains(said), "{answer:?}");
    }
}

#[test]
fn a_switchover_whose_hooks_take_longer_than_the_answer_may_says_who_is_at_it() {
    let mut cluster = with_hooks_on_b(false);
    let patient = Attendance { prepare: SECOND * 30, retire: SECOND, may_veto: true };
    cluster.power_off(B);
    cluster.hosts[B].settings.attendance = Some(patient);
    cluster.hosts[B].prepares = Some((20 * SECOND, Readiness::Ready));
    cluster.boot(B);
    cluster.run_until(5 * SECOND, |c| c.in_sync(A) == [A, B]);
    cluster.command(A, 1, Command::Failover { to: None });
    let took = cluster.run_until(30 * SECOND, |c| c.hosts[A].answers.contains_key(&1));
    assert!(took >= 10 * SECOND && took < 11 * SECOND, "{took:?}");
    let answer = cluster.hosts[A].answers[&1].as_ref().expect_err("it did not happen yet");
    assert_eq!(answer.code, "timed_out");
    assert!(answer.message.starts_with("b has taken the role in epoch 2 and is not primary"), "{answer:?}");
    cluster.run_until(30 * SECOND, |c| c.primary() == Some(B));
}

#[test]
fn an_order_to_be_primary_that_is_vetoed_says_why_and_is_over() {
    let mut cluster = with_hooks_on_b(false);
    cluster.hosts[B].prepares = vetoed();
    cluster.command(B, 1, Command::Promote { accept_data_loss: false });
    cluster.run_until(3 * SECOND, |c| c.hosts[B].answers.contains_key(&1));
    let answer = cluster.hosts[B].answers[&1].as_ref().expect_err("it was vetoed");
    assert_eq!(answer.code, "takeover_failed");
    assert!(answer.message.contains("hook \"x\" says no"), "{answer:?}");
    // Whoever was told so does not see it happen later, nor the role go to and fro.
    cluster.hosts[B].prepares = Some((MS, Readiness::Ready));
    cluster.run_until(3 * SECOND, |c| c.primary() == Some(A));
    cluster.run(30 * SECOND);
    assert_eq!(cluster.primary(), Some(A), "{:#?}", cluster.story());
    assert_eq!(cluster.epoch(A).0, 3, "{:#?}", cluster.story());
}

#[test]
fn an_order_to_be_primary_that_is_vetoed_where_there_is_nobody_else_says_why() {
    let mut cluster = with_hooks_on_b(false);
    cluster.hosts[B].prepares = vetoed();
    cluster.power_off(A);
    cluster.run(7 * SECOND);
    cluster.command(B, 1, Command::Promote { accept_data_loss: false });
    cluster.run_until(SECOND, |c| c.hosts[B].answers.contains_key(&1));
    let answer = cluster.hosts[B].answers[&1].as_ref().expect_err("it was vetoed");
    for said in ["hook \"x\" says no", "nobody else can take over yet; it is tried again in"] {
        assert!(answer.message.contains(said), "{answer:?}");
    }
}

#[test]
fn the_role_that_a_veto_brings_to_a_third_member_is_not_where_the_order_sent_it() {
    let mut cluster = Cluster::new(Shape { data: 3, witness: false, ..Shape::default() });
    cluster.hosts[B].settings.attendance = attendance(true);
    for i in 0..3 {
        cluster.boot(i);
    }
    cluster.run_until(3 * SECOND, |c| c.primary() == Some(A) && c.in_sync(A) == [A, B, 2]);
    cluster.hosts[B].prepares = vetoed();
    // Whoever let go waits a while: the third member is first.
    cluster.command(A, 1, Command::Failover { to: Some(cluster.hosts[B].settings.me.id.clone()) });
    cluster.run_until(5 * SECOND, |c| c.hosts[A].answers.contains_key(&1));
    let answer = cluster.hosts[A].answers[&1].as_ref().expect_err("b is not primary");
    assert_eq!(answer.code, "handover_failed");
    let third = cluster.primary() == Some(2);
    let said = if third {
        "c is primary in epoch 3, and not its successor"
    } else {
        "a is primary in epoch 3 again"
    };
    assert!(answer.message.contains(said) && third, "{answer:?} {:#?}", cluster.story());
}

#[test]
fn a_member_that_vetoes_and_is_alone_asks_again_less_and_less_often() {
    let mut cluster = cluster();
    cluster.hosts[B].prepares = vetoed();
    cluster.hosts[B].deeds.clear();
    cluster.power_off(A);
    cluster.run(64 * SECOND);
    assert_eq!(cluster.primary(), None, "a veto holds, whoever is missing");
    let tries = cluster.hosts[B].deeds.iter().filter(|deed| **deed == Deed::Prepares).count();
    // After 0, 5, 15 and 35 s.
    assert_eq!(tries, 4, "{:#?}", cluster.story());
    cluster.hosts[B].prepares = Some((MS, Readiness::Ready));
    cluster.run_until(61 * SECOND, |c| c.primary() == Some(B));
}

#[test]
fn an_operator_has_the_hooks_asked_again_at_once() {
    let mut cluster = cluster();
    cluster.hosts[B].prepares = vetoed();
    cluster.power_off(A);
    cluster.run(20 * SECOND);
    cluster.hosts[B].prepares = Some((MS, Readiness::Ready));
    cluster.command(B, 1, Command::Promote { accept_data_loss: false });
    cluster.run_until(SECOND, |c| c.primary() == Some(B));
    assert!(cluster.hosts[B].answers[&1].is_ok(), "{:?}", cluster.hosts[B].answers);
}

#[test]
fn whoever_comes_back_gets_the_role_that_a_veto_keeps_from_the_only_member() {
    let mut cluster = cluster();
    cluster.hosts[B].prepares = vetoed();
    cluster.power_off(A);
    cluster.run(20 * SECOND);
    assert_eq!(cluster.in_sync(B), [B]);
    cluster.boot(A);
    cluster.run_until(5 * SECOND, |c| c.primary() == Some(A));
    assert!(causes(&cluster, B).contains(&Cause::NotPrepared), "{:#?}", cluster.story());
}

#[test]
fn a_service_that_does_not_start_gives_the_role_up_only_to_somebody() {
    let mut cluster = cluster();
    cluster.hosts[B].prepares = failed();
    cluster.command(A, 1, Command::Failover { to: None });
    cluster.run_until(3 * SECOND, |c| causes(c, B).contains(&Cause::NotPrepared));
    cluster.run_until(3 * SECOND, |c| c.primary() == Some(A));
    cluster.run_until(5 * SECOND, |c| c.in_sync(A) == [A, B]);
    cluster.run(10 * SECOND);
    cluster.power_off(A);
    cluster.run_until(SECOND, |c| c.primary() == Some(B));
    assert!(cluster.hosts[B].notes.iter().any(|note| note.contains("there is nobody to leave the role to")));
}

#[test]
fn a_runner_that_never_answers_holds_nothing_up_for_ever() {
    for may_veto in [false, true] {
        let mut cluster = Cluster::started(Shape { attendance: attendance(may_veto), ..Shape::default() });
        cluster.hosts[B].prepares = None;
        cluster.power_off(A);
        cluster.run(7 * SECOND);
        // Without the word of a hook that may veto there is no takeover.
        assert_eq!(cluster.primary(), if may_veto { None } else { Some(B) }, "{:#?}", cluster.story());
    }
}

#[test]
fn a_planned_switchover_lets_services_leave_before_the_address_and_serves_meanwhile() {
    let mut cluster = cluster();
    cluster.hosts[A].retires = Some(800 * MS);
    cluster.hosts[A].deeds.clear();
    cluster.command(A, 1, Command::Failover { to: None });
    cluster.run(700 * MS);
    assert!(cluster.serves(A), "{:#?}", cluster.story());
    assert_eq!(cluster.role(A), Role::HandingOver);
    let pause = cluster.run_until(SECOND, |c| c.primary() == Some(B));
    assert!(pause < 300 * MS, "{pause:?}");
    let wanted = [Deed::Retires { planned: true }, Deed::StopsServing, Deed::ShutsGate, Deed::Releases];
    assert_eq!(cluster.hosts[A].deeds, wanted);
    cluster.run_until(SECOND, |c| c.hosts[A].answers.contains_key(&1));
    assert!(cluster.hosts[A].answers[&1].is_ok(), "{:?}", cluster.hosts[A].answers);
}

#[test]
fn services_that_do_not_leave_hold_up_a_switchover_for_their_limit_only() {
    let mut cluster = cluster();
    cluster.hosts[A].retires = None;
    cluster.command(A, 1, Command::Failover { to: None });
    let took = cluster.run_until(6 * SECOND, |c| c.primary() == Some(B));
    assert!(took > 4 * SECOND, "{took:?}");
    cluster.run_until(SECOND, |c| c.hosts[A].answers.contains_key(&1));
    assert!(cluster.hosts[A].answers[&1].is_ok(), "{:?}", cluster.hosts[A].answers);
}

#[test]
fn after_an_unplanned_loss_the_gate_shuts_first_and_hooks_follow_the_address() {
    let mut cluster = cluster();
    cluster.hosts[A].retires = None;
    cluster.hosts[A].deeds.clear();
    cluster.isolate(A);
    let until_shut = cluster.run_until(400 * MS, |c| !c.answers_vip(A));
    assert!(until_shut <= 300 * MS, "{until_shut:?}");
    cluster.run_until(100 * MS, |c| c.hosts[A].deeds.contains(&Deed::Retires { planned: false }));
    let wanted = [Deed::ShutsGate, Deed::StopsServing, Deed::Releases, Deed::Retires { planned: false }];
    assert_eq!(cluster.hosts[A].deeds, wanted);
    // However long they take: the other member does not wait for them.
    cluster.run_until(300 * MS, |c| c.primary() == Some(B));
}

#[test]
fn services_stop_even_if_the_address_cannot_be_taken_off() {
    let mut cluster = cluster();
    cluster.hosts[A].release_hangs = true;
    cluster.hosts[A].deeds.clear();
    cluster.isolate(A);
    cluster.run(700 * MS);
    assert!(cluster.hosts[A].deeds.contains(&Deed::Retires { planned: false }), "{:#?}", cluster.story());
}

#[test]
fn a_process_that_ends_waits_for_its_services_to_leave_within_their_limit() {
    for (retires, least) in [(Some(SECOND), SECOND), (None, 5 * SECOND)] {
        let mut cluster = cluster();
        cluster.power_off(B);
        cluster.run(2 * SECOND);
        cluster.hosts[A].retires = retires;
        cluster.feed(A, Event::TerminationRequested);
        cluster.run(100 * MS);
        assert!(!cluster.answers_vip(A), "the address does not wait");
        let took = cluster.run_until(8 * SECOND, |c| c.hosts[A].exited) + 100 * MS;
        assert!(took >= least && took < least + 2 * SECOND, "{took:?}");
    }
}

#[test]
fn a_switchover_that_is_called_off_can_be_ordered_again() {
    let mut cluster = cluster();
    cluster.hosts[A].retires = Some(500 * MS);
    cluster.command(A, 1, Command::Failover { to: None });
    cluster.run(100 * MS);
    cluster.power_off(B);
    cluster.run_until(3 * SECOND, |c| c.primary() == Some(A) && c.role(A) == Role::Primary);
    assert!(causes(&cluster, A).contains(&Cause::HandoverFailed));
    cluster.boot(B);
    cluster.run_until(5 * SECOND, |c| c.in_sync(A) == [A, B]);
    cluster.run(SECOND);
    cluster.command(A, 2, Command::Failover { to: None });
    // The answer to the first order to leave must not be taken for one to the second.
    let took = cluster.run_until(3 * SECOND, |c| c.primary() == Some(B));
    assert!(took >= 500 * MS, "{took:?}");
}

#[test]
fn an_answer_of_an_earlier_order_to_leave_is_not_taken_for_the_newest() {
    let mut cluster = cluster();
    cluster.hosts[A].retires = None;
    cluster.command(A, 1, Command::Failover { to: None });
    cluster.run(50 * MS);
    let stale = Event::Retired { round: 0 };
    cluster.feed(A, stale);
    cluster.run(500 * MS);
    assert!(cluster.serves(A), "{:#?}", cluster.story());
}

#[test]
fn automatic_failback_does_not_bring_the_role_to_a_member_that_retreats() {
    let mut cluster =
        Cluster::started(Shape { failback: true, attendance: attendance(true), ..Shape::default() });
    cluster.command(A, 1, Command::Failover { to: None });
    cluster.run_until(3 * SECOND, |c| c.primary() == Some(B));
    cluster.hosts[A].prepares = vetoed();
    cluster.run(120 * SECOND);
    let tries = causes(&cluster, A).iter().filter(|cause| **cause == Cause::NotPrepared).count();
    assert!((1..=4).contains(&tries), "{tries}: {:#?}", cluster.story());
    assert_eq!(cluster.primary(), Some(B));
}

#[test]
fn a_pair_without_a_witness_takes_over_with_hooks_and_obeys_a_veto() {
    let shape = || Shape {
        witness: false,
        two_node: TwoNode::Probe,
        attendance: attendance(true),
        ..Shape::default()
    };
    let mut cluster = Cluster::started(shape());
    cluster.hosts[B].prepares = Some((SECOND, Readiness::Ready));
    cluster.power_off(A);
    cluster.run_until(3 * SECOND, |c| c.primary() == Some(B));

    let mut cluster = Cluster::started(shape());
    cluster.hosts[B].prepares = vetoed();
    cluster.power_off(A);
    cluster.run(20 * SECOND);
    assert_eq!(cluster.primary(), None);
    cluster.boot(A);
    cluster.run_until(10 * SECOND, |c| c.primary() == Some(A));
}

#[test]
fn the_answer_to_an_earlier_question_does_not_count() {
    let mut cluster = cluster();
    cluster.hosts[B].prepares = None;
    cluster.power_off(A);
    // Asked, not heard of within the limit, asked again.
    let asked = |c: &Cluster| c.hosts[B].deeds.iter().filter(|deed| **deed == Deed::Prepares).count();
    cluster.run_until(60 * SECOND, |c| asked(c) == 2);
    let epoch = cluster.epoch(B);
    let ready = |round| Event::Prepared { epoch, round, outcome: Readiness::Ready };
    cluster.feed(B, ready(1));
    cluster.run(SECOND);
    assert_eq!(cluster.primary(), None, "the hooks may veto it by now: {:#?}", cluster.story());
    cluster.feed(B, ready(2));
    cluster.run_until(SECOND, |c| c.primary() == Some(B));
}
