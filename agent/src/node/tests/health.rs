//! What failed checks and a stalled disk decide, and what they do not.

use std::time::Duration;

use holdfast_heartbeat::Role;

use super::cluster::{Cluster, MS, Shape};
use crate::node::event::{Command, Event, FailedCheck};
use crate::node::health::CHECKS_HOLD;
use crate::node::transition::Cause;

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;

/// A cluster whose primary may give way: it has reigned long enough.
fn settled(shape: Shape) -> Cluster {
    let mut cluster = Cluster::started(shape);
    cluster.run(CHECKS_HOLD);
    cluster
}

fn checks(cluster: &mut Cluster, i: usize, penalty: u32) {
    let failed = match penalty {
        0 => Vec::new(),
        _ => vec![FailedCheck { name: "web".into(), detail: "exit status 1".into() }],
    };
    cluster.feed(i, Event::ChecksJudged { penalty, failed });
}

fn disk(cluster: &mut Cluster, i: usize, good: bool) {
    cluster.stall_disk(i, !good);
    cluster.feed(i, Event::DiskJudged { good, detail: "a write has not been durable for 5s".into() });
}

fn causes(cluster: &Cluster, i: usize) -> Vec<Cause> {
    cluster.hosts[i].transitions.iter().map(|transition| transition.cause).collect()
}

fn notes(cluster: &Cluster, i: usize, text: &str) -> usize {
    cluster.hosts[i].notes.iter().filter(|note| note.contains(text)).count()
}

fn answer(cluster: &mut Cluster, i: usize, id: u64, command: Command) -> Result<String, &'static str> {
    cluster.command(i, id, command);
    cluster.run_until(2000 * MS, |c| c.hosts[i].answers.contains_key(&id));
    cluster.hosts[i].answers[&id].clone().map_err(|declined| declined.code)
}

#[test]
fn a_failed_check_moves_the_role_to_a_healthier_member_and_names_itself() {
    let mut cluster = settled(Shape::default());
    checks(&mut cluster, A, 20);
    let took = cluster.run_until(600 * MS, |c| c.primary() == Some(B));
    assert!(took < 450 * MS, "{took:?}: {:#?}", cluster.story());
    assert!(causes(&cluster, A).contains(&Cause::ChecksFailed));
    assert_eq!(cluster.in_sync(B), vec![A, B], "a member whose check fails still holds every byte");
    assert_eq!(notes(&cluster, A, "check \"web\" fails on a: exit status 1"), 1, "{:#?}", cluster.story());
    checks(&mut cluster, A, 0);
    assert_eq!(notes(&cluster, A, "check \"web\" passes again"), 1);
    cluster.run(20_000 * MS);
    assert_eq!(cluster.primary(), Some(B), "it does not go back by itself");
}

#[test]
fn a_young_reign_is_not_ended_by_checks() {
    let mut cluster = Cluster::started(Shape::default());
    let began = cluster.now;
    checks(&mut cluster, A, 20);
    cluster.run(CHECKS_HOLD - Duration::from_secs(2));
    assert_eq!(cluster.primary(), Some(A), "{:#?}", cluster.story());
    cluster.run_until(2500 * MS, |c| c.primary() == Some(B));
    // B has reigned for a moment only, and A is well again: the role does not fly back.
    checks(&mut cluster, A, 0);
    checks(&mut cluster, B, 20);
    cluster.run(CHECKS_HOLD - Duration::from_secs(1));
    assert_eq!(
        cluster.primary(),
        Some(B),
        "{:?} after the start: {:#?}",
        cluster.now.since(began),
        cluster.story()
    );
    cluster.run_until(2000 * MS, |c| c.primary() == Some(A));
}

#[test]
fn nobody_hands_over_to_a_member_that_is_not_healthier() {
    for theirs in [20, 30] {
        let mut cluster = settled(Shape::default());
        checks(&mut cluster, B, theirs);
        cluster.run(200 * MS);
        checks(&mut cluster, A, 20);
        cluster.run(30_000 * MS);
        assert_eq!(cluster.primary(), Some(A), "{:#?}", cluster.story());
        assert_eq!(causes(&cluster, A), causes(&settled(Shape::default()), A), "not even tried");
        assert_eq!(notes(&cluster, A, "so a serves on"), 1, "said once: {:#?}", cluster.story());
        let view = cluster.hosts[A].node.as_ref().unwrap().view(cluster.now);
        let warned = |text: &str| view.warnings.iter().any(|warning| warning.contains(text));
        assert!(
            warned("check \"web\" fails: exit status 1") && warned("checks fail on b"),
            "{:?}",
            view.warnings
        );
        // As soon as the other one is better it has the role.
        checks(&mut cluster, B, 10);
        cluster.run_until(500 * MS, |c| c.primary() == Some(B));
    }
}

#[test]
fn an_order_reaches_a_worse_member_only_by_its_name() {
    let mut cluster = settled(Shape::default());
    checks(&mut cluster, B, 20);
    cluster.run(200 * MS);
    assert_eq!(answer(&mut cluster, A, 1, Command::Failover { to: None }), Err("worse_successor"));
    assert_eq!(cluster.primary(), Some(A));
    let to = Some(cluster.hosts[B].settings.me.id.clone());
    assert!(answer(&mut cluster, A, 2, Command::Failover { to }).is_ok());
    cluster.run_until(500 * MS, |c| c.primary() == Some(B));
    // The better one takes it back when the reign is old enough: the order was for that moment.
    cluster.run_until(CHECKS_HOLD + 1000 * MS, |c| c.primary() == Some(A));
}

#[test]
fn the_role_comes_back_to_a_preferred_member_only_when_it_is_well_for_the_delay() {
    let mut cluster = Cluster::started(Shape { failback: true, ..Shape::default() });
    cluster.power_off(A);
    cluster.run_until(1000 * MS, |c| c.primary() == Some(B));
    cluster.boot(A);
    checks(&mut cluster, A, 10_000);
    cluster.run_until(3000 * MS, |c| c.in_sync(B) == vec![A, B]);
    cluster.run(40_000 * MS);
    assert_eq!(cluster.primary(), Some(B), "{:#?}", cluster.story());
    checks(&mut cluster, A, 0);
    cluster.run(900 * MS);
    assert_eq!(cluster.primary(), Some(B), "the delay of 1 s counts from its recovery");
    cluster.run_until(1000 * MS, |c| c.primary() == Some(A));
}

#[test]
fn an_order_to_fail_back_does_not_reach_a_worse_member() {
    let mut cluster = settled(Shape::default());
    assert!(answer(&mut cluster, A, 1, Command::Failover { to: None }).is_ok());
    cluster.run_until(1000 * MS, |c| c.primary() == Some(B) && c.in_sync(B) == vec![A, B]);
    checks(&mut cluster, A, 1);
    cluster.run(200 * MS);
    assert_eq!(answer(&mut cluster, B, 2, Command::Failback), Err("worse_successor"));
    checks(&mut cluster, A, 0);
    cluster.run(200 * MS);
    assert!(answer(&mut cluster, B, 3, Command::Failback).is_ok());
}

fn three() -> Cluster {
    settled(Shape { data: 3, witness: false, ..Shape::default() })
}

#[test]
fn a_vacancy_is_left_to_the_healthier_member() {
    let mut cluster = three();
    checks(&mut cluster, B, 20);
    cluster.run(200 * MS);
    cluster.power_off(A);
    cluster.run_until(600 * MS, |c| c.primary() == Some(C));
    assert!(cluster.hosts[B].transitions.is_empty(), "it does not even stand: {:#?}", cluster.story());
}

#[test]
fn a_member_with_failed_checks_takes_over_where_nobody_else_does() {
    // The last data member: at once.
    let mut cluster = settled(Shape::default());
    checks(&mut cluster, B, 10_000);
    cluster.run(200 * MS);
    cluster.power_off(A);
    let took = cluster.run_until(600 * MS, |c| c.primary() == Some(B));
    assert!(took < 400 * MS, "{took:?}");
    // A healthier one is heard and does not stand: after a while.
    let mut cluster = Cluster::new(Shape { data: 3, witness: false, ..Shape::default() });
    cluster.hosts[C].settings.automatic = false;
    for i in [A, B, C] {
        cluster.boot(i);
    }
    cluster.run(2000 * MS);
    checks(&mut cluster, B, 20);
    cluster.run(200 * MS);
    cluster.power_off(A);
    let took = cluster.run_until(3000 * MS, |c| c.primary() == Some(B));
    assert!(took > 900 * MS, "it waits for the healthier one first: {took:?}");
}

#[test]
fn the_healthiest_follower_is_the_successor() {
    let mut cluster = three();
    checks(&mut cluster, B, 5);
    checks(&mut cluster, A, 20);
    cluster.run_until(600 * MS, |c| c.primary() == Some(C));
}

#[test]
fn what_fails_on_both_at_once_moves_nothing() {
    for first in [A, B] {
        let mut cluster = settled(Shape::default());
        checks(&mut cluster, first, 20);
        cluster.run(50 * MS);
        checks(&mut cluster, A + B - first, 20);
        cluster.run(30_000 * MS);
        assert_eq!(cluster.primary(), Some(A), "{:#?}", cluster.story());
        assert!(!causes(&cluster, A).contains(&Cause::ChecksFailed));
    }
}

#[test]
fn in_a_pause_checks_move_nothing() {
    let mut cluster = settled(Shape::default());
    assert!(answer(&mut cluster, B, 1, Command::Pause { at_unix_ms: 1 }).is_ok());
    checks(&mut cluster, A, 20);
    cluster.run(20_000 * MS);
    assert_eq!(cluster.primary(), Some(A));
    assert!(answer(&mut cluster, B, 2, Command::Resume { at_unix_ms: 2 }).is_ok());
    cluster.run_until(500 * MS, |c| c.primary() == Some(B));
}

#[test]
fn a_stalled_disk_gives_the_role_away_at_once() {
    for shape in [
        Shape::default(),
        Shape { data: 3, witness: false, ..Shape::default() },
        // The other half of a pair needs no vote of a member that cannot write one.
        Shape { witness: false, ..Shape::default() },
    ] {
        let pair = shape.data == 2 && !shape.witness;
        let mut cluster = Cluster::started(shape);
        disk(&mut cluster, A, false);
        let took = cluster.run_until(1000 * MS, |c| c.primary() == Some(B));
        assert!(took < 200 * MS, "pair {pair}: {took:?}: {:#?}", cluster.story());
        assert!(causes(&cluster, A).contains(&Cause::DiskStalled));
        assert!(cluster.write(B), "{:#?}", cluster.story());
        cluster.run(3000 * MS);
        assert_eq!((cluster.primary(), cluster.role(A)), (Some(B), Role::Standby), "{:#?}", cluster.story());
        assert!(!cluster.in_sync(B).contains(&A), "nobody's write waits for it");
        disk(&mut cluster, A, true);
        cluster.run_until(5000 * MS, |c| c.in_sync(B).contains(&A));
        assert_eq!(notes(&cluster, A, "the disk of a answers in time again"), 1);
    }
}

/// Found by freezing a real file system: the log's thread hangs with the disk, and hears no acknowledgement.
#[test]
fn a_primary_whose_log_hangs_does_not_take_its_follower_for_a_slow_one() {
    let mut cluster = Cluster::started(Shape::default());
    cluster.hosts[A].log_hangs = true;
    assert!(cluster.write(A));
    cluster.run(4000 * MS);
    assert_eq!(
        cluster.in_sync(A),
        vec![A, B],
        "b says itself that it holds everything: {:#?}",
        cluster.story()
    );
    disk(&mut cluster, A, false);
    let took = cluster.run_until(500 * MS, |c| c.primary() == Some(B));
    assert!(took < 200 * MS, "{took:?}: {:#?}", cluster.story());
}

#[test]
fn a_stalled_disk_keeps_the_role_where_nobody_else_can_have_it() {
    let mut cluster = Cluster::started(Shape::default());
    cluster.power_off(B);
    cluster.run_until(2000 * MS, |c| c.in_sync(A) == vec![A]);
    disk(&mut cluster, A, false);
    cluster.run(10_000 * MS);
    assert_eq!(cluster.primary(), Some(A), "what can be read is still answered: {:#?}", cluster.story());
    assert_eq!(notes(&cluster, A, "so a keeps the role"), 1, "said once");
    disk(&mut cluster, A, true);
    cluster.run(1000 * MS);
    assert_eq!(cluster.primary(), Some(A));
}

#[test]
fn a_member_with_a_stalled_disk_does_not_stand() {
    let mut cluster = Cluster::started(Shape::default());
    disk(&mut cluster, B, false);
    cluster.run(200 * MS);
    cluster.power_off(A);
    cluster.run(5000 * MS);
    assert_eq!(cluster.primary(), None);
    assert!(cluster.hosts[B].transitions.is_empty(), "{:#?}", cluster.story());
    disk(&mut cluster, B, true);
    cluster.run_until(1000 * MS, |c| c.primary() == Some(B));
}

/// Holds the core of `i` up when it wants to send a heartbeat, for so long: too short for the others to notice.
fn hold_up(cluster: &mut Cluster, i: usize, late: Duration, times: usize) {
    for _ in 0..times {
        let due = cluster.hosts[i].node.as_ref().expect("it runs").deadline();
        cluster.pause(i);
        cluster.run(due.since(cluster.now) + late);
        cluster.resume(i);
        cluster.run(1000 * MS);
    }
}

#[test]
fn a_primary_that_is_late_again_and_again_makes_way_for_one_that_is_not() {
    let mut cluster = Cluster::started(Shape::default());
    cluster.run(12_000 * MS);
    hold_up(&mut cluster, A, 90 * MS, 2);
    cluster.run(2000 * MS);
    assert_eq!(cluster.primary(), Some(A), "twice may happen: {:#?}", cluster.story());
    hold_up(&mut cluster, A, 90 * MS, 1);
    cluster.run_until(2000 * MS, |cluster| cluster.primary() == Some(B));
    let causes: Vec<_> = cluster.hosts[A].transitions.iter().map(|change| change.cause).collect();
    assert!(causes.contains(&Cause::Late), "{:#?}", cluster.story());
    assert!(cluster.hosts[A].notes.iter().any(|note| note.contains("late with its heartbeats")));
    cluster.run(70_000 * MS);
    assert!(cluster.hosts[A].notes.iter().any(|note| note.contains("on time")), "{:#?}", cluster.story());
    assert_eq!(cluster.primary(), Some(B), "the incumbent stays");
}

#[test]
fn a_primary_whose_lease_runs_out_for_its_lateness_says_so_and_leaves_the_role_in_the_end() {
    let mut cluster = Cluster::started(Shape::default());
    cluster.run(12_000 * MS);
    hold_up(&mut cluster, A, 210 * MS, 1);
    let causes: Vec<_> = cluster.hosts[A].transitions.iter().map(|change| change.cause).collect();
    assert!(causes.contains(&Cause::StoodStill), "{:#?}", cluster.story());
    for _ in 0..2 {
        if cluster.primary() == Some(A) {
            hold_up(&mut cluster, A, 210 * MS, 1);
        }
    }
    cluster.run_until(5000 * MS, |cluster| cluster.primary() == Some(B));
}

#[test]
fn where_everybody_is_late_the_role_stays() {
    let mut cluster = Cluster::started(Shape::default());
    cluster.run(12_000 * MS);
    hold_up(&mut cluster, B, 90 * MS, 3);
    hold_up(&mut cluster, A, 90 * MS, 3);
    cluster.run(3000 * MS);
    assert_eq!(cluster.primary(), Some(A), "{:#?}", cluster.story());
    let warned = |note: &String| note.contains("late with its heartbeats");
    assert!(cluster.hosts[A].notes.iter().any(warned) && cluster.hosts[B].notes.iter().any(warned));
}
