//! Another preference while the agent runs: the others hear of it, and it decides whose turn it is.

use std::time::Duration;

use super::cluster::{Cluster, MS, Shape};
use crate::node::event::{Answer, Command};
use crate::node::transition::Cause;

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;
const W: usize = 2;
const SECOND: Duration = Duration::from_secs(1);

fn set(cluster: &mut Cluster, i: usize, priority: u32) -> Answer {
    cluster.command(i, 77, Command::SetPriority { priority });
    let answer = cluster.hosts[i].answers.remove(&77).expect("it is answered at once");
    // The others know it with the next heartbeat.
    cluster.run(100 * MS + MS);
    for (j, host) in cluster.hosts.iter().enumerate().filter(|(j, _)| *j != i) {
        let Some(node) = host.node.as_ref().filter(|_| answer.is_ok()) else { continue };
        let name = cluster.hosts[i].settings.me.id.as_str();
        let view = node.view(cluster.now);
        let seen = view.peers.iter().find(|peer| peer.name == name).and_then(|peer| peer.priority);
        assert_eq!(seen, Some(priority), "as host {j} sees it");
    }
    answer
}

fn own(cluster: &Cluster, i: usize) -> u32 {
    cluster.hosts[i].node.as_ref().expect("it runs").view(cluster.now).priority
}

fn reason(cluster: &Cluster, i: usize) -> Cause {
    let transitions = &cluster.hosts[i].transitions;
    let ended = transitions.iter().rev().find(|t| t.to == holdfast_heartbeat::Role::HandingOver);
    ended.expect("it handed over").cause
}

#[test]
fn a_member_that_becomes_preferred_takes_the_role_by_itself_where_failback_is_automatic() {
    let mut cluster = Cluster::started(Shape { failback: true, ..Shape::default() });
    let answer = set(&mut cluster, B, 10).expect("it is changed");
    for said in
        ["priority of b is 10 (before: 100)", "until its agent restarts", "priority = 10", "preferred to a"]
    {
        assert!(answer.contains(said), "{answer}");
    }
    assert!(cluster.hosts[B].notes.iter().any(|note| note.contains("is 10 until its agent restarts")));
    cluster.run_until(3 * SECOND, |c| c.primary() == Some(B));
    assert_eq!(reason(&cluster, A), Cause::Failback);
    // And stays: a is not preferred any more, whatever its configuration says.
    cluster.run(60 * SECOND);
    assert_eq!(cluster.primary(), Some(B), "{:#?}", cluster.story());
}

#[test]
fn a_primary_that_becomes_less_preferred_hands_the_role_over_where_failback_is_automatic() {
    let mut cluster = Cluster::started(Shape { failback: true, ..Shape::default() });
    let answer = set(&mut cluster, A, 900).expect("it is changed");
    assert!(answer.contains("Preferred to it: b;"), "{answer}");
    cluster.run_until(3 * SECOND, |c| c.primary() == Some(B));
    assert_eq!(reason(&cluster, A), Cause::Failback);
}

#[test]
fn without_automatic_failback_the_role_stays_and_goes_by_order() {
    let mut cluster = Cluster::started(Shape::default());
    cluster.command(A, 1, Command::Failback);
    assert_eq!(cluster.hosts[A].answers[&1].as_ref().unwrap_err().code, "no_successor");
    let answer = set(&mut cluster, B, 10).expect("it is changed");
    assert!(!answer.contains("by itself"), "{answer}");
    cluster.run(10 * SECOND);
    assert_eq!(cluster.primary(), Some(A), "{:#?}", cluster.story());
    cluster.command(A, 2, Command::Failback);
    cluster.run_until(SECOND, |c| c.primary() == Some(B));
}

#[test]
fn elections_and_switchovers_go_by_the_new_preference() {
    let three = || {
        let mut cluster = Cluster::started(Shape { data: 3, witness: false, ..Shape::default() });
        set(&mut cluster, C, 10).expect("it is changed");
        cluster
    };
    let mut cluster = three();
    cluster.power_off(A);
    cluster.run_until(SECOND, |c| c.primary().is_some());
    assert_eq!(cluster.primary(), Some(C), "{:#?}", cluster.story());
    let mut cluster = three();
    cluster.command(A, 1, Command::Failover { to: None });
    cluster.run_until(SECOND, |c| c.hosts[A].answers.contains_key(&1));
    assert_eq!(cluster.primary(), Some(C), "{:#?}", cluster.story());
}

#[test]
fn a_restart_brings_the_configured_preference_back() {
    let mut cluster = Cluster::started(Shape::default());
    set(&mut cluster, B, 10).expect("it is changed");
    assert_eq!(own(&cluster, B), 10);
    cluster.power_off(B);
    cluster.run(SECOND);
    cluster.boot(B);
    cluster.run_until(5 * SECOND, |c| c.in_sync(A) == [A, B]);
    assert_eq!(own(&cluster, B), 100);
}

#[test]
fn the_same_preference_again_changes_nothing() {
    let mut cluster = Cluster::started(Shape::default());
    let notes = cluster.hosts[B].notes.len();
    assert_eq!(set(&mut cluster, B, 100).unwrap(), "the priority of b is 100 already; nothing was changed");
    assert_eq!(cluster.hosts[B].notes.len(), notes);
}

#[test]
fn a_witness_has_no_preference() {
    let mut cluster = Cluster::started(Shape::default());
    assert_eq!(set(&mut cluster, W, 10).unwrap_err().code, "witness");
}
