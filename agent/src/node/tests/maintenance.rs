//! What pause, drain and resume promise.

use holdfast_heartbeat::{Role, Suspension};

use super::cluster::{Cluster, MS, Shape};
use crate::node::event::{Command, Event};
use crate::node::settings::TwoNode;
use crate::node::transition::Cause;

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;
const W: usize = 2;

const PAUSE: Command = Command::Pause { at_unix_ms: 1_790_000_000_000 };
const RESUME: Command = Command::Resume { at_unix_ms: 1_790_000_060_000 };

fn pair_with_witness() -> Cluster {
    Cluster::started(Shape::default())
}

fn three() -> Cluster {
    Cluster::started(Shape { data: 3, witness: false, ..Shape::default() })
}

/// Gives an order and returns the answer, which comes within `limit_ms`.
fn order(cluster: &mut Cluster, i: usize, id: u64, command: Command, limit_ms: u32) -> String {
    ordered(cluster, i, id, command, limit_ms).unwrap_or_else(|code| panic!("declined with {code}"))
}

fn ordered(
    cluster: &mut Cluster,
    i: usize,
    id: u64,
    command: Command,
    limit_ms: u32,
) -> Result<String, &'static str> {
    cluster.command(i, id, command);
    cluster.run_until(MS * limit_ms, |c| c.hosts[i].answers.contains_key(&id));
    cluster.hosts[i].answers[&id].clone().map_err(|declined| declined.code)
}

fn paused(cluster: &Cluster, i: usize) -> bool {
    cluster.hosts[i].node.as_ref().unwrap().view(cluster.now).suspension.paused
}

fn reboot(cluster: &mut Cluster, i: usize) {
    cluster.power_off(i);
    cluster.boot(i);
}

/// Writes through `i`; whether it was acknowledged within a moment.
fn acknowledges(cluster: &mut Cluster, i: usize) -> bool {
    let before = cluster.told.len();
    assert!(cluster.write(i), "{:#?}", cluster.story());
    cluster.run(40 * MS);
    cluster.told.len() > before
}

#[test]
fn a_paused_standby_does_not_take_over_until_it_is_resumed() {
    for shape in [Shape::default(), Shape { data: 3, witness: false, ..Shape::default() }] {
        let mut cluster = Cluster::started(shape);
        order(&mut cluster, A, 1, PAUSE, 50);
        cluster.power_off(A);
        cluster.run(30_000 * MS);
        assert_eq!(cluster.primary(), None);
        assert!(cluster.hosts[B].transitions.is_empty(), "it does not even stand: {:#?}", cluster.story());
        let view = cluster.hosts[B].node.as_ref().unwrap().view(cluster.now);
        assert!(view.waiting_for.is_some_and(|why| why.contains("paused") && why.contains("ha resume")));
        assert!(view.warnings.iter().any(|warning| warning.contains("paused (ordered on a)")));
        order(&mut cluster, B, 2, RESUME, 2500);
        cluster.run_until(400 * MS, |c| c.primary() == Some(B));
    }
}

#[test]
fn a_pair_without_witness_can_be_paused_too() {
    let mut cluster = Cluster::started(Shape { witness: false, ..Shape::default() });
    order(&mut cluster, B, 1, PAUSE, 50);
    cluster.power_off(A);
    cluster.run(10_000 * MS);
    assert_eq!(cluster.primary(), None);
    order(&mut cluster, B, 2, RESUME, 2500);
    // Nobody knows what the other half acknowledged alone while this one stood still.
    cluster.run(10_000 * MS);
    assert_eq!(cluster.primary(), None);
    cluster.boot(A);
    cluster.run_until(3000 * MS, |c| c.primary().is_some());
}

/// The cable between the halves is out in a pause; one goes on alone, and dies. What it acknowledged meanwhile is
/// on its disk alone, so the end of the pause must not make the other half primary.
#[test]
fn a_half_of_a_pair_that_stood_still_does_not_take_over_later() {
    let mut cluster = Cluster::started(Shape { witness: false, ..Shape::default() });
    order(&mut cluster, B, 1, PAUSE, 50);
    cluster.cut.extend([(A, B), (B, A)]);
    cluster.run_until(3000 * MS, |c| c.in_sync(A) == [A]);
    cluster.run(10_000 * MS);
    cluster.power_off(A);
    order(&mut cluster, B, 2, RESUME, 2500);
    cluster.run(10_000 * MS);
    assert_eq!(cluster.primary(), None, "{:#?}", cluster.story());
    cluster.cut.clear();
    cluster.boot(A);
    cluster.run_until(3000 * MS, |c| c.primary() == Some(A));
}

#[test]
fn a_buried_primary_is_not_taken_over_in_a_pause() {
    let mut cluster = pair_with_witness();
    order(&mut cluster, A, 1, PAUSE, 50);
    let epoch = cluster.epoch(A);
    cluster.kill(A);
    cluster.bury(A, epoch);
    cluster.run(5000 * MS);
    assert_eq!(cluster.primary(), None);
}

#[test]
fn a_pause_survives_restarts_of_everybody_and_a_restarted_primary_waits_for_a_word() {
    let mut cluster = pair_with_witness();
    order(&mut cluster, A, 1, PAUSE, 50);
    reboot(&mut cluster, B);
    cluster.run_until(3000 * MS, |c| c.in_sync(A) == [A, B]);
    assert!(paused(&cluster, B));
    assert_eq!(cluster.primary(), Some(A), "the primary serves on");
    reboot(&mut cluster, A);
    cluster.run(10_000 * MS);
    assert_eq!(cluster.primary(), None);
    for i in [A, B, W] {
        cluster.power_off(i);
    }
    for i in [A, B, W] {
        cluster.boot(i);
    }
    cluster.run(10_000 * MS);
    assert_eq!(cluster.primary(), None);
    assert!([A, B, W].iter().all(|i| paused(&cluster, *i)));
    order(&mut cluster, W, 2, RESUME, 100);
    cluster.run_until(1500 * MS, |c| c.primary().is_some());
    assert!(![A, B, W].iter().any(|i| paused(&cluster, *i)));
}

#[test]
fn a_pause_given_to_any_member_reaches_all_and_so_does_its_end() {
    let mut cluster = pair_with_witness();
    for (id, i) in [A, B, W].into_iter().enumerate() {
        let told = order(&mut cluster, i, 10 + id as u64, PAUSE, 50);
        assert!(!told.contains("Not heard"), "{told}");
        assert!([A, B, W].iter().all(|i| paused(&cluster, *i)), "known everywhere once it is answered");
        assert!([A, B, W].iter().all(|i| cluster.hosts[*i].disk.suspension.paused), "and on every disk");
        let ends = [B, W, A][id];
        let told = order(&mut cluster, ends, 20 + id as u64, RESUME, 50);
        assert!(told.contains("the pause of the cluster is ended"), "{told}");
        assert!(![A, B, W].iter().any(|i| paused(&cluster, *i)));
    }
    assert_eq!(cluster.primary(), Some(A));
    assert_eq!(
        cluster.hosts[A].transitions.len(),
        3,
        "candidate, promoting, primary: {:#?}",
        cluster.story()
    );
    assert!(cluster.hosts[W].notes.iter().any(|note| note.contains("paused by an operator on a")));
}

#[test]
fn who_was_away_learns_of_a_pause_before_it_can_do_harm() {
    let mut cluster = three();
    cluster.isolate(C);
    cluster.run(1000 * MS);
    let told = order(&mut cluster, A, 1, PAUSE, 2500);
    assert!(told.contains("told when back: c"), "{told}");
    assert!(!told.contains("Less than a majority"), "{told}");
    // C knows of no pause, the primary dies, and C could win with the vote of B.
    cluster.hosts[C].settings.priority = 1;
    cluster.power_off(A);
    cluster.heal();
    cluster.run(10_000 * MS);
    assert_eq!(cluster.primary(), None, "{:#?}", cluster.story());
    assert!(paused(&cluster, C));
}

/// The vote of a member that knows of the pause tells the candidate of it, whatever else was lost.
#[test]
fn a_candidate_that_is_told_of_a_pause_with_a_vote_gives_up() {
    let mut cluster = three();
    cluster.power_off(A);
    cluster.run(200 * MS);
    // From now on nothing but votes gets through to C, which is about to stand.
    cluster.held_back = Some(|_, to, heartbeat| to == C && heartbeat.state.vote.is_none());
    cluster.command(B, 1, PAUSE);
    cluster.run(50 * MS);
    assert!(paused(&cluster, B) && !paused(&cluster, C));
    cluster.run(1000 * MS);
    let causes: Vec<_> = cluster.hosts[C].transitions.iter().map(|t| (t.to, t.cause)).collect();
    assert_eq!(causes, [(Role::Candidate, Cause::PrimarySilent), (Role::Standby, Cause::Paused)]);
    assert!(paused(&cluster, C));
    assert_eq!(cluster.primary(), None);
}

#[test]
fn a_pause_that_a_minority_knows_says_so() {
    let mut cluster = pair_with_witness();
    cluster.isolate(B);
    cluster.run(1000 * MS);
    let told = order(&mut cluster, B, 1, PAUSE, 2500);
    assert!(told.contains("Less than a majority"), "{told}");
    cluster.heal();
    cluster.run(500 * MS);
    assert!(paused(&cluster, A) && paused(&cluster, W));
}

#[test]
fn orders_that_conflict_converge_and_the_later_one_holds() {
    let mut cluster = three();
    order(&mut cluster, A, 1, PAUSE, 50);
    // The same version from both sides of a cut: the pause that B repeats after its own resume is later.
    cluster.isolate(C);
    cluster.run(500 * MS);
    order(&mut cluster, A, 2, RESUME, 2500);
    order(&mut cluster, C, 3, RESUME, 2500);
    order(&mut cluster, C, 4, PAUSE, 2500);
    cluster.heal();
    cluster.run(1000 * MS);
    assert!([A, B, C].iter().all(|i| paused(&cluster, *i)));
    // Two orders of the same version: the pause wins on every member.
    order(&mut cluster, B, 5, RESUME, 50);
    let version = cluster.hosts[B].disk.suspension.version;
    let by = Some(cluster.hosts[C].settings.me.id.clone());
    cluster.isolate(C);
    cluster.run(500 * MS);
    order(&mut cluster, A, 6, PAUSE, 2500);
    order(&mut cluster, A, 7, RESUME, 2500);
    order(&mut cluster, C, 8, PAUSE, 2500);
    order(&mut cluster, C, 9, RESUME, 2500);
    assert_eq!(cluster.hosts[A].disk.suspension.version, version + 2);
    assert_eq!(cluster.hosts[C].disk.suspension.version, version + 2);
    cluster.heal();
    cluster.run(1000 * MS);
    let all = |cluster: &Cluster| -> Vec<Suspension> {
        [A, B, C].map(|i| cluster.hosts[i].disk.suspension.clone()).to_vec()
    };
    assert!(all(&cluster).iter().all(|suspension| *suspension == all(&cluster)[0] && !suspension.paused));
    assert_eq!(all(&cluster)[0].by, by, "a tie has one winner");
}

#[test]
fn in_a_pause_what_an_operator_orders_works() {
    let mut cluster = Cluster::started(Shape { failback: true, ..Shape::default() });
    order(&mut cluster, B, 1, PAUSE, 50);
    order(&mut cluster, A, 2, Command::Failover { to: None }, 500);
    cluster.run_until(100 * MS, |c| c.primary() == Some(B));
    cluster.run(60_000 * MS);
    assert_eq!(cluster.primary(), Some(B), "no failback by itself: {:#?}", cluster.story());
    assert_eq!(cluster.in_sync(B), [A, B], "the set is kept");
    order(&mut cluster, B, 3, Command::Failback, 500);
    cluster.run_until(100 * MS, |c| c.primary() == Some(A));
    cluster.run(2000 * MS);
    order(&mut cluster, B, 4, Command::Promote { accept_data_loss: false }, 1000);
    assert_eq!(cluster.primary(), Some(B));
    cluster.run(2000 * MS);
    cluster.power_off(B);
    cluster.run(2000 * MS);
    order(&mut cluster, A, 5, Command::Promote { accept_data_loss: false }, 1000);
    assert_eq!(cluster.primary(), Some(A), "{:#?}", cluster.story());
    assert!(paused(&cluster, A));
    order(&mut cluster, A, 6, RESUME, 2500);
}

#[test]
fn a_promotion_that_was_given_up_does_not_come_true_later() {
    let mut cluster = pair_with_witness();
    order(&mut cluster, A, 1, PAUSE, 50);
    for i in [A, B, W] {
        cluster.power_off(i);
    }
    cluster.boot(B);
    cluster.run(1000 * MS);
    let promote = Command::Promote { accept_data_loss: false };
    assert_eq!(ordered(&mut cluster, B, 2, promote.clone(), 11_000), Err("no_quorum"));
    cluster.boot(W);
    cluster.cut.insert((W, B));
    cluster.run(1000 * MS);
    cluster.cut.clear();
    cluster.held_back = Some(|_, _, heartbeat| heartbeat.state.vote.is_some());
    cluster.run(1000 * MS);
    assert_eq!(ordered(&mut cluster, B, 3, promote, 11_000), Err("timed_out"), "{:#?}", cluster.story());
    cluster.held_back = None;
    cluster.run(10_000 * MS);
    assert_eq!(cluster.primary(), None, "{:#?}", cluster.story());
}

#[test]
fn a_promotion_that_waits_for_a_disk_does_not_come_true_after_it_was_given_up() {
    let mut cluster =
        Cluster::started(Shape { witness: false, two_node: TwoNode::Manual, ..Shape::default() });
    cluster.power_off(A);
    cluster.run(1000 * MS);
    cluster.disk_delay = 30_000 * MS;
    let promote = Command::Promote { accept_data_loss: true };
    assert_eq!(ordered(&mut cluster, B, 1, promote, 11_000), Err("timed_out"));
    cluster.run(60_000 * MS);
    assert_eq!(cluster.primary(), None, "{:#?}", cluster.story());
}

/// Nobody stands by itself in a pause: whoever was made primary by order and cannot be one names another.
#[test]
fn in_a_pause_a_promotion_that_gets_nowhere_is_handed_back() {
    let mut cluster = pair_with_witness();
    order(&mut cluster, A, 1, PAUSE, 50);
    cluster.hosts[B].no_interface = true;
    cluster.command(A, 2, Command::Failover { to: None });
    cluster.run_until(1000 * MS, |c| c.role(B) == Role::Promoting);
    cluster.run_until(8000 * MS, |c| c.primary() == Some(A));
}

#[test]
fn safety_is_not_paused() {
    let mut cluster = pair_with_witness();
    order(&mut cluster, A, 1, PAUSE, 50);
    cluster.isolate(A);
    let until_shut = cluster.run_until(400 * MS, |c| !c.answers_vip(A));
    assert!(until_shut <= 300 * MS, "{until_shut:?}");
    cluster.heal();
    cluster.run(5000 * MS);
    assert_eq!(cluster.primary(), None);
}

#[test]
fn the_set_shrinks_and_grows_in_a_pause() {
    let mut cluster = pair_with_witness();
    order(&mut cluster, W, 1, PAUSE, 50);
    cluster.power_off(B);
    cluster.run_until(1000 * MS, |c| c.in_sync(A) == [A]);
    assert!(acknowledges(&mut cluster, A));
    cluster.boot(B);
    cluster.run_until(3000 * MS, |c| c.in_sync(A) == [A, B]);
}

#[test]
fn a_primary_whose_links_fail_in_a_pause_serves_on_while_it_is_heard() {
    let mut cluster = pair_with_witness();
    order(&mut cluster, A, 1, PAUSE, 50);
    cluster.feed(A, Event::LinksJudged { good: false, detail: "no carrier".into() });
    cluster.run(5000 * MS);
    assert_eq!(cluster.primary(), Some(A));
    order(&mut cluster, B, 2, RESUME, 50);
    cluster.run_until(500 * MS, |c| c.primary() == Some(B));
}

#[test]
fn a_primary_with_failed_links_can_be_stopped() {
    for pause in [false, true] {
        let mut cluster = pair_with_witness();
        if pause {
            order(&mut cluster, A, 1, PAUSE, 50);
        }
        cluster.power_off(B);
        cluster.run_until(1000 * MS, |c| c.in_sync(A) == [A]);
        cluster.feed(A, Event::LinksJudged { good: false, detail: "no carrier".into() });
        cluster.run(100 * MS);
        assert_eq!(cluster.primary(), Some(A), "nobody could take over");
        cluster.feed(A, Event::TerminationRequested);
        cluster.run_until(2000 * MS, |c| c.hosts[A].exited);
    }
}

#[test]
fn an_orderly_stop_in_a_pause_hands_over() {
    let mut cluster = pair_with_witness();
    order(&mut cluster, A, 1, PAUSE, 50);
    cluster.feed(A, Event::TerminationRequested);
    cluster.run_until(500 * MS, |c| c.primary() == Some(B));
    cluster.run_until(2000 * MS, |c| c.hosts[A].exited);
    assert!(paused(&cluster, B));
}

#[test]
fn a_new_cluster_does_not_start_by_itself_in_a_pause() {
    let mut cluster = Cluster::new(Shape::default());
    for i in [A, B, W] {
        cluster.boot(i);
    }
    cluster.command(B, 1, PAUSE);
    cluster.run(5000 * MS);
    assert_eq!(cluster.primary(), None, "{:#?}", cluster.story());
    order(&mut cluster, B, 2, RESUME, 100);
    cluster.run_until(1500 * MS, |c| c.primary() == Some(A));
}

#[test]
fn a_drained_primary_hands_over_first_and_then_nobody_waits_for_it() {
    let mut cluster = pair_with_witness();
    let told = order(&mut cluster, A, 1, Command::Drain, 500);
    assert!(told.contains("b is primary and waits for it no longer"), "{told}");
    assert_eq!(cluster.primary(), Some(B));
    assert_eq!(cluster.in_sync(B), [B]);
    assert!(cluster.hosts[A].transitions.iter().any(|t| t.cause == Cause::Drained));
    cluster.run_until(100 * MS, |c| !c.hosts[B].waits_for("a"));
    // It does not follow any more, and no write is held up for a moment.
    cluster.stream_cut.insert((A, B));
    assert!(acknowledges(&mut cluster, B));
    cluster.stream_cut.clear();
    cluster.run(2000 * MS);
    assert_eq!(cluster.in_sync(B), [B], "it follows again and is not let in");
    assert_eq!(cluster.hosts[A].records, cluster.hosts[B].records, "it follows the log all the while");
    let told = order(&mut cluster, A, 2, RESUME, 50);
    assert!(told.contains("the drain of a") && !told.contains("pause"), "{told}");
    cluster.run_until(3000 * MS, |c| c.in_sync(B) == [A, B]);
    assert_eq!(cluster.primary(), Some(B));
}

#[test]
fn a_drain_without_successor_is_refused_and_changes_nothing() {
    let mut cluster = pair_with_witness();
    cluster.power_off(B);
    cluster.run_until(1000 * MS, |c| c.in_sync(A) == [A]);
    assert_eq!(ordered(&mut cluster, A, 1, Command::Drain, 50), Err("no_successor"));
    cluster.run(1000 * MS);
    assert_eq!(cluster.primary(), Some(A));
    assert!(!cluster.hosts[A].disk.drained);
    assert_eq!(ordered(&mut cluster, W, 2, Command::Drain, 50), Err("witness"));
}

#[test]
fn a_drain_whose_successor_fails_is_refused_and_the_role_comes_back() {
    let mut cluster = pair_with_witness();
    cluster.command(A, 1, Command::Drain);
    cluster.run_until(200 * MS, |c| c.role(A) == Role::Standby);
    cluster.power_off(B);
    cluster.run_until(12_000 * MS, |c| c.hosts[A].answers.contains_key(&1));
    let code = cluster.hosts[A].answers[&1].clone().map_err(|declined| declined.code);
    assert!(matches!(code, Err("handover_failed")), "{code:?}");
    assert_eq!(cluster.primary(), Some(A), "{:#?}", cluster.story());
    assert!(!cluster.hosts[A].disk.drained);
}

#[test]
fn writes_do_not_wait_for_a_drained_standby_and_the_record_comes_first() {
    let mut cluster = pair_with_witness();
    cluster.command(B, 1, Command::Drain);
    // Whenever the primary has stopped to wait, a quorum has the record without B (rule R3).
    for _ in 0..200 {
        cluster.run(MS / 4);
        if !cluster.hosts[A].waits_for("b") {
            let name = |cluster: &Cluster, i: usize| {
                let record = cluster.hosts[i].disk.record.as_ref().unwrap();
                usize::from(!record.members.iter().any(|member| member.id.as_str() == "b"))
            };
            assert!([A, B, W].iter().map(|i| name(&cluster, *i)).sum::<usize>() >= 2);
        }
    }
    assert!(!cluster.hosts[A].waits_for("b"));
    assert!(cluster.hosts[B].answers[&1].is_ok());
    cluster.stream_cut.insert((A, B));
    assert!(acknowledges(&mut cluster, A));
    // Its reboot is not felt.
    cluster.power_off(B);
    assert!(acknowledges(&mut cluster, A));
}

#[test]
fn a_drain_survives_the_reboot_of_the_maintenance() {
    let mut cluster = pair_with_witness();
    order(&mut cluster, B, 1, Command::Drain, 500);
    assert!(cluster.hosts[B].disk.drained);
    reboot(&mut cluster, B);
    cluster.run(5000 * MS);
    assert_eq!(cluster.in_sync(A), [A]);
    let view = cluster.hosts[B].node.as_ref().unwrap().view(cluster.now);
    assert!(view.drained && view.warnings.iter().any(|warning| warning.contains("drained")));
    order(&mut cluster, B, 2, RESUME, 50);
    cluster.run_until(3000 * MS, |c| c.in_sync(A) == [A, B]);
    reboot(&mut cluster, B);
    assert!(!cluster.hosts[B].disk.drained, "its end survives as well");
}

#[test]
fn a_drained_member_is_never_elected_nor_a_target_of_a_switchover() {
    let mut cluster = three();
    order(&mut cluster, B, 1, Command::Drain, 500);
    let failover = Command::Failover { to: Some(cluster.hosts[B].settings.me.id.clone()) };
    assert_eq!(ordered(&mut cluster, A, 2, failover, 50), Err("no_successor"));
    let said = &cluster.hosts[A].answers[&2].as_ref().unwrap_err().message;
    assert!(said.contains("b is drained") && said.contains("on b: holdfast ha resume"), "{said}");
    cluster.power_off(A);
    cluster.run_until(500 * MS, |c| c.primary() == Some(C));
    cluster.power_off(C);
    cluster.run(20_000 * MS);
    cluster.boot(A);
    // A is back; C, which alone was in sync, is not.
    cluster.run(20_000 * MS);
    assert_eq!(cluster.primary(), None, "{:#?}", cluster.story());
    assert!(cluster.hosts[B].transitions.is_empty());
}

#[test]
fn a_drained_member_of_the_recorded_set_waits_for_its_operator_as_well() {
    let mut cluster = pair_with_witness();
    for i in [A, W] {
        cluster.power_off(i);
    }
    let told = order(&mut cluster, B, 1, Command::Drain, 500);
    assert!(told.contains("There is no primary now"), "{told}");
    cluster.boot(W);
    cluster.run(10_000 * MS);
    assert_eq!(cluster.in_sync(B), [A, B], "nobody could take it out");
    assert!(cluster.hosts[B].transitions.is_empty(), "{:#?}", cluster.story());
    order(&mut cluster, B, 2, Command::Promote { accept_data_loss: false }, 2000);
    assert_eq!(cluster.primary(), Some(B));
}

#[test]
fn a_drained_member_that_is_left_alone_is_promoted_by_order_and_names_its_price() {
    let mut cluster = pair_with_witness();
    order(&mut cluster, B, 1, Command::Drain, 500);
    let refused = ordered(&mut cluster, B, 2, Command::Promote { accept_data_loss: false }, 50);
    assert_eq!(refused, Err("drained"), "while a primary serves");
    assert!(acknowledges(&mut cluster, A));
    cluster.power_off(A);
    cluster.run(10_000 * MS);
    assert_eq!(cluster.primary(), None);
    let refused = ordered(&mut cluster, B, 3, Command::Promote { accept_data_loss: false }, 50);
    assert_eq!(refused, Err("data_loss"));
    cluster.price_accepted = true;
    order(&mut cluster, B, 4, Command::Promote { accept_data_loss: true }, 2000);
    assert_eq!(cluster.primary(), Some(B), "{:#?}", cluster.story());
    cluster.run(100 * MS);
    assert!(!cluster.hosts[B].disk.drained, "who was made primary is not out for maintenance");
    assert!(acknowledges(&mut cluster, B));
}

#[test]
fn a_drained_half_of_a_pair_waits_for_its_operator() {
    for two_node in [TwoNode::Probe, TwoNode::Manual] {
        let mut cluster = Cluster::started(Shape { witness: false, two_node, ..Shape::default() });
        order(&mut cluster, B, 1, Command::Drain, 500);
        reboot(&mut cluster, A);
        cluster.run_until(2000 * MS, |c| c.primary() == Some(A));
        cluster.power_off(A);
        cluster.run(10_000 * MS);
        assert_eq!(cluster.primary(), None);
    }
}

#[test]
fn one_resume_ends_both_and_says_what_it_ended() {
    let mut cluster = pair_with_witness();
    let told = order(&mut cluster, B, 1, RESUME, 50);
    assert!(told.contains("nothing to resume"), "{told}");
    order(&mut cluster, A, 2, PAUSE, 50);
    order(&mut cluster, B, 3, Command::Drain, 500);
    let told = order(&mut cluster, B, 4, RESUME, 50);
    assert!(told.contains("the pause of the cluster") && told.contains("the drain of b"), "{told}");
    assert!(!paused(&cluster, A));
    cluster.run_until(3000 * MS, |c| c.in_sync(A) == [A, B]);
}

#[test]
fn an_order_is_not_answered_before_it_is_durable() {
    for command in [PAUSE, Command::Drain] {
        let mut cluster = pair_with_witness();
        cluster.disk_delay = MS * 300;
        cluster.command(B, 1, command.clone());
        cluster.run(250 * MS);
        assert!(cluster.hosts[B].answers.is_empty());
        let seen = cluster.hosts[A].node.as_ref().unwrap().view(cluster.now);
        let said = seen.suspension.paused || seen.peers.iter().any(|peer| peer.drained);
        assert!(!said, "and not said either");
        cluster.run_until(2500 * MS, |c| !c.hosts[B].answers.is_empty());
        let disk = &cluster.hosts[B].disk;
        assert!(disk.drained || disk.suspension.paused, "{command:?}");
    }
}

#[test]
fn whoever_orders_too_much_at_once_is_answered_too() {
    let mut cluster = pair_with_witness();
    cluster.isolate(B);
    cluster.run(10 * MS);
    for id in 0..100 {
        cluster.command(B, id, PAUSE);
    }
    assert!(cluster.hosts[B].answers.len() >= 80, "what waits has a bound");
    cluster.run(3000 * MS);
    assert_eq!(cluster.hosts[B].answers.len(), 100);
}
