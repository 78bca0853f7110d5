//! Who votes, and how a member is replaced while the cluster runs.

use std::time::Duration;

use holdfast_heartbeat::packet::{NEWEST, OLDEST};
use holdfast_heartbeat::{NodeId, Role};

use super::cluster::{Cluster, MS, Shape};
use crate::node::event::Command;
use crate::node::settings::TwoNode;

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;
const SPARE: usize = 3;

fn three() -> Cluster {
    Cluster::started(Shape { data: 3, witness: false, spare: true, ..Shape::default() })
}

fn id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn change(remove: Option<&str>, add: Option<&str>) -> Command {
    Command::ChangeVoters { remove: remove.map(id), add: add.map(id) }
}

/// What became of order `id` on host `i`.
fn answer(cluster: &mut Cluster, i: usize, id: u64) -> Result<String, (&'static str, String)> {
    cluster.run_until(Duration::from_secs(15), |cluster| cluster.hosts[i].answers.contains_key(&id));
    cluster.hosts[i].answers[&id].clone().map_err(|declined| (declined.code, declined.message))
}

fn refused(cluster: &mut Cluster, i: usize, id: u64) -> &'static str {
    answer(cluster, i, id).expect_err("not refused").0
}

/// The spare host takes the place of `gone` in everybody's configuration, and runs.
fn bring_spare(cluster: &mut Cluster, gone: usize) {
    let stay: Vec<usize> = (A..=C).filter(|i| *i != gone).collect();
    for i in &stay {
        let others: Vec<usize> = (A..=SPARE).filter(|j| j != i && *j != gone).collect();
        cluster.configure(*i, &others);
    }
    cluster.configure(SPARE, &stay);
    cluster.boot(SPARE);
    cluster.run(1000 * MS);
}

/// A cluster in which the spare host has taken the place and the vote of C, which is off.
fn replaced() -> Cluster {
    let mut cluster = three();
    cluster.power_off(C);
    cluster.run(2000 * MS);
    bring_spare(&mut cluster, C);
    cluster.command(A, 1, change(Some("c"), Some("spare")));
    answer(&mut cluster, A, 1).unwrap();
    cluster
}

#[test]
fn who_votes_is_written_down_once_everybody_was_heard() {
    let mut cluster = three();
    cluster.run(500 * MS);
    for i in A..=C {
        assert_eq!(cluster.voters(i), Some(vec!["a", "b", "c"]), "{:#?}", cluster.story());
    }
    let mut pair = Cluster::started(Shape { witness: false, ..Shape::default() });
    pair.run(500 * MS);
    assert_eq!(pair.voters(A), None, "a pair decides by its policy");
}

#[test]
fn a_dead_member_is_replaced_by_one_order_and_the_newcomer_may_be_primary() {
    let mut cluster = three();
    cluster.power_off(C);
    cluster.run(2000 * MS);
    assert_eq!(cluster.in_sync(A), [A, B]);
    // Nobody has heard of it yet.
    cluster.command(A, 1, change(Some("c"), Some("spare")));
    assert_eq!(refused(&mut cluster, A, 1), "not_heard");
    bring_spare(&mut cluster, C);
    assert_eq!(cluster.in_sync(A), [A, B], "without a vote it follows, and nobody waits for it");
    assert_eq!(cluster.voters(B), Some(vec!["a", "b", "c"]), "a configuration moves no vote");
    cluster.command(B, 2, change(Some("c"), Some("spare")));
    assert_eq!(refused(&mut cluster, B, 2), "not_primary");
    cluster.command(A, 3, change(Some("c"), Some("spare")));
    let said = answer(&mut cluster, A, 3).unwrap();
    assert!(said.contains("a, b and spare"), "{said}");
    cluster.run(2000 * MS);
    for i in [A, B, SPARE] {
        assert_eq!(cluster.voters(i), Some(vec!["a", "b", "spare"]), "{:#?}", cluster.story());
    }
    assert_eq!(cluster.in_sync(A), [A, B, SPARE]);
    // Any one of the three may be lost.
    cluster.power_off(B);
    cluster.run(2000 * MS);
    assert_eq!(cluster.primary(), Some(A));
    assert!(cluster.write(A));
    cluster.boot(B);
    cluster.run(3000 * MS);
    cluster.power_off(A);
    cluster.run(2000 * MS);
    assert!(cluster.primary().is_some(), "{:#?}", cluster.story());
    cluster.power_off(B);
    cluster.boot(A);
    cluster.run(4000 * MS);
    assert!(cluster.primary().is_some(), "the newcomer's vote counts: {:#?}", cluster.story());
}

#[test]
fn whoever_was_replaced_comes_back_and_decides_nothing() {
    let mut cluster = replaced();
    cluster.run(1000 * MS);
    // It knows nothing of it, and neither does the configuration of the others any more know it.
    cluster.boot(C);
    cluster.run(2000 * MS);
    assert_eq!((cluster.primary(), cluster.role(C)), (Some(A), Role::Standby), "{:#?}", cluster.story());
    // An operator names it again by mistake, and its half would have been a majority once.
    cluster.configure(B, &[A, C, SPARE]);
    cluster.isolate(A);
    cluster.cut.extend([(SPARE, B), (B, SPARE)]);
    cluster.run(5000 * MS);
    assert_eq!(cluster.primary(), None, "b and c are no majority of a, b and spare: {:#?}", cluster.story());
    cluster.command(C, 2, Command::Promote { accept_data_loss: true });
    cluster.run(3000 * MS);
    assert_eq!(cluster.primary(), None, "by force either: {:#?}", cluster.story());
}

/// The others' configurations were changed first, and then the network broke.
#[test]
fn a_changed_configuration_alone_makes_no_majority() {
    let mut cluster = three();
    cluster.run(500 * MS);
    cluster.configure(B, &[A, SPARE]);
    cluster.configure(SPARE, &[A, B]);
    cluster.boot(SPARE);
    for (one, other) in [(A, B), (A, SPARE), (C, B), (C, SPARE)] {
        cluster.cut.extend([(one, other), (other, one)]);
    }
    cluster.run(5000 * MS);
    assert_eq!(cluster.primary(), Some(A), "a and c go on: {:#?}", cluster.story());
    // With the new configuration at its start, too.
    cluster.power_off(B);
    cluster.boot(B);
    cluster.run(5000 * MS);
    assert_eq!(cluster.primary(), Some(A), "{:#?}", cluster.story());
    assert_eq!(cluster.role(B), Role::Standby);
}

/// The primary and the newcomer are a majority of the new set, and the others one of the old.
#[test]
fn until_both_sets_agree_the_primary_needs_both() {
    for together in [&[A, SPARE][..], &[A]] {
        let mut cluster = three();
        cluster.power_off(C);
        cluster.run(2000 * MS);
        bring_spare(&mut cluster, C);
        cluster.disk_delay = 3 * MS;
        cluster.command(A, 1, change(Some("c"), Some("spare")));
        // The order came, and in this moment the network broke.
        for one in together {
            for other in (A..=SPARE).filter(|other| !together.contains(other)) {
                cluster.cut.extend([(*one, other), (other, *one)]);
            }
        }
        cluster.boot(C);
        cluster.configure(B, &[A, C, SPARE]);
        cluster.run(5000 * MS);
        let primary = cluster.primary();
        assert!(primary.is_none_or(|primary| primary == B), "{primary:?}: {:#?}", cluster.story());
        // What was decided holds when the network is whole again.
        cluster.heal();
        cluster.run(5000 * MS);
        assert!(cluster.primary().is_some(), "{:#?}", cluster.story());
    }
}

/// Whoever missed the change asks for votes among those of before.
#[test]
fn who_missed_a_change_is_not_elected_by_those_of_before() {
    let mut cluster = replaced();
    cluster.run(2000 * MS);
    assert_eq!(cluster.in_sync(A), [A, B, SPARE]);
    // B hears nothing of what comes next: that it loses its vote.
    cluster.isolate(B);
    cluster.run(2000 * MS);
    cluster.command(A, 2, change(Some("b"), None));
    answer(&mut cluster, A, 2).unwrap();
    cluster.power_off(A);
    cluster.heal();
    cluster.run(5000 * MS);
    assert_eq!(cluster.primary(), None, "of a and spare each is needed: {:#?}", cluster.story());
    assert_eq!(cluster.voters(B), Some(vec!["a", "spare"]), "it has heard of it now: {:#?}", cluster.story());
}

/// It is cut off while a member is replaced, sooner than anybody noticed, and asks those on its side, of whom one had a
/// vote when it last heard.
#[test]
fn a_candidate_heeds_later_voters_that_one_of_its_own_knows() {
    let mut cluster = Cluster::started(Shape { data: 4, spare: true, ..Shape::default() });
    let (c, candidate, witness, spare) = (2, 3, 4, 5);
    for i in [A, B, c, candidate, witness] {
        let others: Vec<usize> = (A..=spare).filter(|j| *j != i).collect();
        cluster.configure(i, &others);
    }
    cluster.configure(spare, &[A, B, c, candidate, witness]);
    cluster.boot(spare);
    cluster.run(1500 * MS);
    assert_eq!(cluster.voters(candidate), Some(vec!["a", "b", "c", "d", "w"]), "{:#?}", cluster.story());
    cluster.isolate(candidate);
    cluster.command(A, 1, change(Some("c"), Some("spare")));
    cluster.run(60 * MS);
    assert_eq!(cluster.voters(witness), Some(vec!["a", "b", "d", "spare", "w"]), "{:#?}", cluster.story());
    assert_eq!(cluster.in_sync(A), [A, B, candidate, spare], "nobody missed it yet");
    // Now it hears those who were a majority with it, and of the new voters only one.
    cluster.cut.clear();
    for one in [A, B, spare] {
        for other in [c, candidate, witness] {
            cluster.cut.extend([(one, other), (other, one)]);
        }
    }
    cluster.run(5000 * MS);
    assert_eq!(cluster.primary(), Some(A), "{:#?}", cluster.story());
    assert_eq!(cluster.role(candidate), Role::Standby);
}

#[test]
fn a_pair_gets_a_witness_and_has_a_majority_from_then_on() {
    let mut cluster = Cluster::new(Shape { two_node: TwoNode::Probe, ..Shape::default() });
    // At first nobody's configuration names the witness.
    cluster.configure(A, &[B]);
    cluster.configure(B, &[A]);
    cluster.boot(A);
    cluster.boot(B);
    cluster.run(2000 * MS);
    assert_eq!((cluster.primary(), cluster.voters(A)), (Some(A), None), "{:#?}", cluster.story());
    let witness = 2;
    cluster.boot(witness);
    cluster.configure(A, &[B, witness]);
    cluster.run(1000 * MS);
    cluster.command(A, 1, change(None, Some("w")));
    assert_eq!(refused(&mut cluster, A, 1), "not_heard", "b does not hear it yet");
    cluster.configure(B, &[A, witness]);
    cluster.run(1000 * MS);
    cluster.command(A, 2, change(None, Some("w")));
    answer(&mut cluster, A, 2).unwrap();
    cluster.run(500 * MS);
    assert_eq!(cluster.voters(B), Some(vec!["a", "b", "w"]));
    // Cut off from both, neither half goes on alone.
    cluster.isolate(B);
    cluster.run(3000 * MS);
    assert_eq!(cluster.primary(), Some(A));
    cluster.heal();
    cluster.run(3000 * MS);
    cluster.isolate(A);
    cluster.run(3000 * MS);
    assert_eq!(cluster.primary(), Some(B), "{:#?}", cluster.story());
}

/// Without its other half a pair has no majority, and would lose its primary over the change.
#[test]
fn half_a_pair_gets_no_witness() {
    let mut cluster = Cluster::new(Shape::default());
    cluster.configure(A, &[B]);
    cluster.configure(B, &[A]);
    cluster.boot(A);
    cluster.boot(B);
    cluster.run(2000 * MS);
    cluster.power_off(B);
    cluster.boot(2);
    cluster.configure(A, &[B, 2]);
    cluster.run(2000 * MS);
    cluster.command(A, 1, change(None, Some("w")));
    assert_eq!(refused(&mut cluster, A, 1), "no_quorum");
    assert_eq!(cluster.primary(), Some(A));
}

/// The third may decide with the other half until that one has the record too.
#[test]
fn whoever_proposed_a_pair_is_none_before_the_other_half_agreed() {
    let mut cluster = Cluster::started(Shape::default());
    let witness = 2;
    cluster.run(500 * MS);
    assert_eq!(cluster.voters(A), Some(vec!["a", "b", "w"]));
    cluster.command(A, 1, change(Some("w"), None));
    cluster.cut.extend([(A, B), (B, A), (A, witness), (witness, A)]);
    cluster.run(50 * MS);
    assert_eq!(cluster.voters(A), Some(vec!["a", "b"]), "written down, and known to nobody else");
    cluster.power_off(A);
    // Its configuration names the other half alone, from its start on.
    cluster.configure(A, &[B]);
    cluster.boot(A);
    cluster.run(5000 * MS);
    assert_eq!(cluster.primary(), Some(B), "{:#?}", cluster.story());
    assert_eq!(cluster.role(A), Role::Standby, "it needs the other half");
}

#[test]
fn an_older_release_votes_as_configured_until_it_is_upgraded() {
    let mut cluster = Cluster::new(Shape { data: 3, witness: false, spare: true, ..Shape::default() });
    cluster.hosts[B].settings.speaks = OLDEST;
    for i in A..=C {
        cluster.boot(i);
    }
    cluster.run(2000 * MS);
    assert_eq!((cluster.primary(), cluster.in_sync(A)), (Some(A), vec![A, B, C]), "{:#?}", cluster.story());
    assert_eq!(cluster.voters(A), None, "it could not keep it");
    cluster.command(A, 1, change(Some("c"), None));
    assert_eq!(refused(&mut cluster, A, 1), "older_release");
    // The older one is primary for a while.
    cluster.command(A, 2, Command::Failover { to: Some(id("b")) });
    answer(&mut cluster, A, 2).unwrap();
    cluster.run(1000 * MS);
    assert_eq!(cluster.primary(), Some(B));
    // It is upgraded, and from then on everybody can keep who votes.
    cluster.kill(B);
    cluster.hosts[B].settings.speaks = NEWEST;
    cluster.boot(B);
    cluster.run(3000 * MS);
    assert_eq!(cluster.voters(B), Some(vec!["a", "b", "c"]), "{:#?}", cluster.story());
    // And back to the older release: its packets are understood, and who votes is not forgotten.
    cluster.kill(C);
    cluster.hosts[C].settings.speaks = OLDEST;
    cluster.boot(C);
    cluster.run(3000 * MS);
    assert_eq!(cluster.voters(A), Some(vec!["a", "b", "c"]));
    assert_eq!(cluster.in_sync(A), [A, B, C], "{:#?}", cluster.story());
}
