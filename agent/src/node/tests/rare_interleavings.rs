//! Interleavings that once broke a rule, one test each.

use holdfast_heartbeat::{Epoch, Heartbeat, Role};

use super::cluster::{Cluster, MS, Shape, timers};
use crate::node::event::{Command, Event};
use crate::node::settings::TwoNode;

const A: usize = 0;
const B: usize = 1;
const W: usize = 2;

fn pair_with_witness() -> Cluster {
    Cluster::started(Shape::default())
}

/// a candidate that has just voted for another in the same epoch must not vote for itself in it.
#[test]
fn a_candidate_that_voted_for_another_does_not_vote_for_itself_in_that_epoch() {
    const C: usize = 2;
    fn granted_pre(heartbeat: &Heartbeat) -> bool {
        heartbeat.state.vote.is_some_and(|vote| vote.pre && vote.refusal.is_none())
    }
    fn real_question(heartbeat: &Heartbeat) -> bool {
        heartbeat.state.ballot.is_some_and(|ballot| !ballot.pre)
    }
    let mut both_asked = 0;
    for offset in 0..60 {
        let mut cluster = Cluster::started(Shape { data: 3, witness: false, ..Shape::default() });
        for i in 0..3 {
            cluster.power_off(i);
        }
        cluster.run(500 * MS);
        for i in 0..3 {
            cluster.boot(i);
        }
        // A can vote and cannot stand.
        cluster.feed(A, Event::LinksJudged { good: false, detail: "carrier".into() });
        // First, no answers arrive: B and C both go on asking.
        cluster.held_back = Some(|_, _, heartbeat| granted_pre(heartbeat));
        cluster.run(400 * MS + MS * 5 * offset);
        if cluster.role(B) != Role::Candidate || cluster.role(C) != Role::Candidate {
            continue;
        }
        both_asked += 1;
        // B is told that it may ask for real; its real question reaches C first, and A only later.
        cluster.held_back = Some(|from, to, heartbeat| {
            granted_pre(heartbeat) && to == C || real_question(heartbeat) && from == B && to == A
        });
        for _ in 0..40 {
            if cluster.hosts[C].disk.epoch > Epoch(1) {
                break;
            }
            cluster.run(MS / 4);
        }
        // C has promised B its vote. B is not heard for a moment; C is told that it may ask for real too.
        cluster.cut.extend([(B, A), (B, C)]);
        cluster.held_back = Some(|from, to, heartbeat| {
            granted_pre(heartbeat) && to == C && from == B || real_question(heartbeat) && from == B && to == A
        });
        cluster.run(20 * MS);
        cluster.held_back = None;
        cluster.heal();
        cluster.run(1000 * MS);
    }
    assert!(both_asked > 0);
}

/// a member that is being admitted while another leaves.
#[test]
fn a_member_that_joins_while_another_leaves_is_admitted() {
    const C: usize = 2;
    const C_NAME: &str = "c";
    let mut cluster = Cluster::started(Shape { data: 3, witness: false, ..Shape::default() });
    cluster.stream_cut.insert((A, C));
    cluster.run_until(3000 * MS, |c| c.in_sync(A) == vec![A, B]);
    for _ in 0..5 {
        assert!(cluster.write(A));
        cluster.run(5 * MS);
    }
    cluster.run(100 * MS);
    cluster.stream_delay = 150 * MS;
    cluster.stream_cut.clear();
    cluster.run(10 * MS);
    // C is waited for and on its way; B leaves in good order.
    cluster.run_until(500 * MS, |c| c.hosts[A].waits_for(C_NAME));
    cluster.feed(B, Event::TerminationRequested);
    cluster.run(2000 * MS);
    cluster.power_off(B);
    cluster.run(20_000 * MS);
    assert_eq!(cluster.primary(), Some(A));
    assert_eq!(cluster.in_sync(A), vec![A, C], "{:#?}", cluster.story());
}

/// a disk that takes its time delays an election, it does not prevent it.
#[test]
fn slow_disks_delay_an_election_and_do_not_prevent_it() {
    for delay in [30, 60, 90, 100, 120, 150, 300, 1000] {
        let mut cluster = pair_with_witness();
        cluster.disk_delay = MS * delay;
        cluster.run(2000 * MS);
        cluster.power_off(A);
        cluster.run(20_000 * MS);
        assert_eq!(cluster.primary(), Some(B), "{delay} ms");
    }
}

#[test]
fn a_cold_start_with_slow_disks_has_an_end() {
    for delay in [30, 60, 90, 100, 120, 150, 300, 1000] {
        let mut cluster = Cluster::new(Shape::default());
        cluster.disk_delay = MS * delay;
        for i in 0..3 {
            cluster.boot(i);
        }
        cluster.run(20_000 * MS);
        assert_eq!(cluster.primary(), Some(A), "{delay} ms");
    }
}

/// forced promotion without a quorum.
#[test]
fn a_promotion_whose_price_was_accepted_serves_without_a_quorum() {
    let mut cluster = pair_with_witness();
    cluster.price_accepted = true;
    cluster.power_off(A);
    cluster.power_off(W);
    cluster.run(2000 * MS);
    cluster.command(B, 2, Command::Promote { accept_data_loss: true });
    cluster.run(3000 * MS);
    assert_eq!(cluster.primary(), Some(B), "{:#?}", cluster.story());
}

/// a full disk at the new primary.
#[test]
fn a_member_that_cannot_begin_its_reign_leaves_it_to_another() {
    const C: usize = 2;
    let mut cluster = Cluster::started(Shape { data: 3, witness: false, ..Shape::default() });
    cluster.hosts[B].log_full = true;
    cluster.power_off(A);
    cluster.run(10_000 * MS);
    assert_eq!(cluster.primary(), Some(C), "{:#?}", cluster.story());
}

/// own pause.
#[test]
fn a_standby_that_was_stopped_does_not_take_the_role_from_a_primary_that_lives() {
    let mut cluster = Cluster::new(Shape { witness: false, two_node: TwoNode::Probe, ..Shape::default() });
    for host in &mut cluster.hosts {
        host.settings.probe_vip = false;
    }
    cluster.boot(A);
    cluster.boot(B);
    cluster.run(1500 * MS);
    assert_eq!(cluster.in_sync(A), vec![A, B]);
    let epoch = cluster.epoch(A);
    cluster.price_accepted = false;
    cluster.pause(B);
    cluster.run(1000 * MS);
    assert!(cluster.write(A));
    cluster.run(100 * MS);
    assert_eq!(cluster.told.len(), 1);
    cluster.resume(B);
    cluster.run(3000 * MS);
    assert_eq!((cluster.primary(), cluster.epoch(A)), (Some(A), epoch), "{:#?}", cluster.story());
}

/// parity of epochs that halves of a pair win alone.
#[test]
fn halves_of_a_pair_that_never_met_in_this_life_reign_in_different_epochs() {
    let mut cluster =
        Cluster::started(Shape { witness: false, two_node: TwoNode::Probe, ..Shape::default() });
    cluster.isolate(A);
    cluster.run(3000 * MS);
    assert_eq!((cluster.role(A), cluster.role(B)), (Role::Primary, Role::Primary));
    // The power fails in both rooms, and the link is still cut when it comes back.
    cluster.power_off(A);
    cluster.power_off(B);
    cluster.run(1000 * MS);
    cluster.boot(A);
    cluster.run(2000 * MS);
    cluster.power_off(A);
    cluster.boot(A);
    cluster.boot(B);
    cluster.run(3000 * MS);
    assert_eq!((cluster.role(A), cluster.role(B)), (Role::Primary, Role::Primary));
    assert_ne!(cluster.epoch(A), cluster.epoch(B), "R1");
}

/// an operator's consent ends with the situation that it was given for.
#[test]
fn the_consent_to_lose_data_ends_when_a_primary_appears() {
    let mut cluster = pair_with_witness();
    cluster.power_off(B);
    cluster.run(1000 * MS);
    cluster.power_off(A);
    cluster.power_off(W);
    cluster.run(500 * MS);
    cluster.boot(B);
    cluster.boot(A);
    cluster.boot(W);
    cluster.stream_cut.insert((A, B));
    cluster.run(100 * MS);
    // Votes are not given yet; the operator of B does not know that A is on its way, and B's questions are late.
    cluster.command(B, 1, Command::Promote { accept_data_loss: true });
    cluster.held_back = Some(|from, _, heartbeat| from == B && heartbeat.state.ballot.is_some());
    cluster.run_until(3000 * MS, |c| c.primary() == Some(A));
    cluster.held_back = None;
    assert!(cluster.write(A));
    cluster.run(100 * MS);
    assert_eq!(cluster.told.len(), 1);
    cluster.power_off(A);
    cluster.run(4000 * MS);
    assert_eq!(cluster.primary(), None, "{:#?}", cluster.story());
}

/// other timers.
#[test]
fn a_voter_with_a_short_lease_waits_out_the_drift_of_a_long_one() {
    let mut cluster = Cluster::new(Shape::default());
    cluster.hosts[A].settings.timers = timers(1000);
    for i in [B, W] {
        cluster.hosts[i].settings.timers = timers(20);
        cluster.hosts[i].clock_ppm = 5000;
    }
    cluster.hosts[A].clock_ppm = -5000;
    for i in 0..3 {
        cluster.boot(i);
    }
    cluster.run(8000 * MS);
    assert_eq!(cluster.primary(), Some(A), "{:#?}", cluster.story());
    cluster.isolate(A);
    cluster.run(5000 * MS);
    assert_eq!(cluster.primary(), Some(B), "{:#?}", cluster.story());
}

/// a member that lost its disk has forgotten which set was recorded.
#[test]
fn the_vote_of_a_member_that_lost_its_disk_does_not_elect_one_outside_the_set() {
    const C: usize = 2;
    let mut cluster = Cluster::started(Shape { data: 3, witness: false, ..Shape::default() });
    // B and C go on without A and store something.
    cluster.power_off(A);
    cluster.run_until(3000 * MS, |c| c.primary() == Some(B));
    cluster.run(500 * MS);
    assert!(cluster.write(B));
    cluster.run(200 * MS);
    assert_eq!(cluster.told.len(), 1);
    // C fails for a while; the disk of B is replaced; A, which missed it all, comes back.
    cluster.power_off(C);
    cluster.wipe(B);
    cluster.boot(A);
    cluster.boot(B);
    cluster.run(5000 * MS);
    assert_eq!(cluster.primary(), None, "{:#?}", cluster.story());
    cluster.boot(C);
    cluster.run_until(5000 * MS, |c| c.primary() == Some(C));
}

/// whoever reigned lost its disk, and the voter is gone: only the record tells of that epoch.
#[test]
fn an_epoch_that_only_a_record_remembers_is_not_used_again() {
    let mut cluster = pair_with_witness();
    cluster.price_accepted = true;
    cluster.power_off(A);
    cluster.run_until(1000 * MS, |c| c.primary() == Some(B));
    let epoch = cluster.epoch(B);
    cluster.power_off(B);
    cluster.boot(A);
    cluster.run_until(1000 * MS, |c| c.hosts[A].disk.record.as_ref().is_some_and(|r| r.epoch == epoch));
    assert!(cluster.epoch(A) < epoch, "nobody asked for its promise");
    for i in [A, W] {
        cluster.power_off(i);
    }
    cluster.wipe(B);
    cluster.boot(A);
    cluster.boot(B);
    cluster.run(1000 * MS);
    cluster.command(A, 1, Command::Promote { accept_data_loss: true });
    cluster.run_until(2000 * MS, |c| c.primary() == Some(A));
    assert!(cluster.epoch(A) > epoch, "{:#?}", cluster.story());
}

/// a forced election that began with a majority must not be won without one in the next epoch.
#[test]
fn a_forced_election_that_loses_its_majority_on_the_way_does_not_take_a_common_epoch() {
    for offset in 0..40 {
        let mut cluster = pair_with_witness();
        cluster.price_accepted = true;
        // B cannot hear A and is dropped from the set; its operator forces it while W is still heard.
        cluster.cut.extend([(A, B), (B, A)]);
        cluster.run(2000 * MS);
        cluster.command(B, 1, Command::Promote { accept_data_loss: true });
        cluster.run(MS * 5 * offset);
        // Now B is cut off from W as well. A's agent restarts and is elected by W.
        cluster.cut.extend([(W, B), (B, W)]);
        cluster.power_off(A);
        cluster.run(1000 * MS);
        cluster.boot(A);
        cluster.run(3000 * MS);
        assert_eq!(cluster.role(A), Role::Primary, "{:#?}", cluster.story());
    }
}

/// the process dies between the first record of the log and the first record of the in-sync set.
#[test]
fn a_new_cluster_whose_first_primary_dies_at_any_effect_starts_after_all() {
    for effects in 0..60 {
        let mut cluster = Cluster::new(Shape::default());
        for i in 0..3 {
            cluster.boot(i);
        }
        cluster.run_until(2000 * MS, |c| c.role(A) == Role::Candidate);
        cluster.hosts[A].dies_after = Some(effects);
        cluster.run(50 * MS);
        if cluster.hosts[A].node.is_some() {
            cluster.power_off(A);
        }
        cluster.run(500 * MS);
        cluster.boot(A);
        cluster.run(5000 * MS);
        assert!(cluster.primary().is_some(), "after {effects} effects: {:#?}", cluster.story());
    }
}

/// a switchover whose address cannot be released.
#[test]
fn a_switchover_whose_address_does_not_go_away_ends_with_the_lease() {
    let mut cluster = pair_with_witness();
    cluster.hosts[A].release_hangs = true;
    cluster.command(A, 1, Command::Failover { to: None });
    // Where it is released after all the role may come back to A; what counts is that somebody serves.
    cluster.run_until(5000 * MS, |c| c.hosts[A].serving.is_none());
    cluster.run_until(10_000 * MS, |c| c.primary().is_some());
}

/// In a pair nobody acknowledges a lease, so it must count from what the other half may have heard: counted
/// from the holder's own present, it outlived the other half's patience by up to one heartbeat.
#[test]
fn the_address_of_a_dead_half_is_silent_before_the_other_half_claims_it_unprobed() {
    for offset in 0..40 {
        let mut cluster = Cluster::new(Shape { witness: false, ..Shape::default() });
        for i in [A, B] {
            cluster.hosts[i].settings.probe_vip = false;
            cluster.boot(i);
            // What B says comes to A between two heartbeats of A's own.
            cluster.run(MS * 5 * (offset % 20));
        }
        cluster.run(1500 * MS + MS * 7 * offset);
        assert_eq!(cluster.primary(), Some(A));
        cluster.kill(A);
        cluster.run_until(1000 * MS, |cluster| {
            assert!(!cluster.answers_vip(A) || !cluster.answers_vip(B), "{:#?}", cluster.story());
            cluster.answers_vip(B)
        });
    }
}

/// The former primary of a pair that was stopped for a while has heard nobody, which says nothing: the other
/// half may have taken over, gone on alone, and been stopped in turn.
#[test]
fn a_half_of_a_pair_that_slept_does_not_go_on_alone_from_what_it_knew() {
    let mut cluster = Cluster::started(Shape { witness: false, ..Shape::default() });
    // It has followed in this life, and so knows that it was in sync then.
    cluster.command(A, 1, Command::Failover { to: None });
    cluster.run_until(1000 * MS, |cluster| cluster.primary() == Some(B));
    cluster.run(500 * MS);
    cluster.command(B, 2, Command::Failover { to: None });
    cluster.run_until(1000 * MS, |cluster| cluster.primary() == Some(A));
    cluster.run(500 * MS);
    cluster.pause(A);
    cluster.run_until(3000 * MS, |cluster| cluster.primary() == Some(B));
    assert!(cluster.write(B));
    cluster.run(50 * MS);
    cluster.pause(B);
    cluster.run(1000 * MS);
    cluster.resume(A);
    for _ in 0..50 {
        cluster.run(100 * MS);
        assert_ne!(cluster.role(A), Role::Promoting, "{:#?}", cluster.story());
        assert_ne!(cluster.primary(), Some(A), "{:#?}", cluster.story());
    }
    cluster.resume(B);
    cluster.run_until(5000 * MS, |cluster| cluster.primary() == Some(B) && cluster.in_sync(B) == [A, B]);
}

/// Likewise the standby: its primary went on alone while it was stopped, and left.
#[test]
fn a_standby_of_a_pair_that_slept_through_solo_waits_for_who_was_solo() {
    let mut cluster = Cluster::started(Shape { witness: false, ..Shape::default() });
    cluster.pause(B);
    cluster.run_until(3000 * MS, |cluster| cluster.in_sync(A) == [A]);
    assert!(cluster.write(A));
    cluster.run(50 * MS);
    cluster.power_off(A);
    cluster.resume(B);
    for _ in 0..50 {
        cluster.run(100 * MS);
        assert_eq!(cluster.primary(), None, "{:#?}", cluster.story());
    }
    cluster.boot(A);
    cluster.run_until(5000 * MS, |cluster| cluster.primary() == Some(A) && cluster.in_sync(A) == [A, B]);
}

/// Whoever lost its disk does not know which epoch it once took by force, and may be promoted by force again.
#[test]
fn a_member_that_lost_its_disk_does_not_force_the_same_epoch_twice() {
    let mut forced = Vec::new();
    let mut cluster = Cluster::started(Shape::default());
    cluster.price_accepted = true;
    cluster.power_off(B);
    cluster.power_off(W);
    for id in 1..=2 {
        cluster.wipe(A);
        cluster.boot(A);
        cluster.run(1000 * MS);
        cluster.command(A, id, Command::Promote { accept_data_loss: true });
        cluster.run_until(2000 * MS, |cluster| cluster.primary() == Some(A));
        forced.push(cluster.epoch(A));
    }
    assert_ne!(forced[0], forced[1]);
}

/// A candidate hears of a later epoch, from a record and not from a promise, between its question and its vote;
/// or the voter does.
#[test]
fn a_candidate_that_hears_of_a_later_epoch_does_not_stand_for_an_earlier_one() {
    fn granted_pre(_: usize, to: usize, heartbeat: &Heartbeat) -> bool {
        to == A && heartbeat.state.vote.is_some_and(|vote| vote.pre && vote.refusal.is_none())
    }
    for (learns, offset) in (0..60).flat_map(|offset| [(A, offset), (W, offset)]) {
        let mut cluster = pair_with_witness();
        cluster.price_accepted = true;
        // B is cut off, is promoted by force, and is the only one that knows of its epoch.
        cluster.cut.extend([(A, B), (B, A), (W, B), (B, W)]);
        cluster.run(1000 * MS);
        cluster.command(B, 1, Command::Promote { accept_data_loss: true });
        let knows = |c: &Cluster, i: usize| c.hosts[i].disk.record.as_ref().map(|record| record.epoch);
        cluster.run_until(2000 * MS, |c| knows(c, B) > Some(Epoch(1)));
        cluster.power_off(A);
        cluster.power_off(B);
        cluster.boot(B);
        cluster.feed(B, Event::LinksJudged { good: false, detail: "carrier".into() });
        cluster.run(1000 * MS);
        // A has asked W; only then one of them hears from B.
        cluster.boot(A);
        cluster.command(A, 2, Command::Promote { accept_data_loss: true });
        cluster.held_back = Some(granted_pre);
        cluster.run_until(2000 * MS, |c| c.role(A) == Role::Candidate);
        cluster.cut.retain(|(from, to)| *from != learns && *to != learns);
        cluster.run(MS * 3 * offset);
        cluster.held_back = None;
        let mut before = (cluster.hosts[A].disk.epoch, knows(&cluster, A));
        for _ in 0..2000 {
            cluster.run(MS / 4);
            let epoch = cluster.hosts[A].disk.epoch;
            assert!(epoch == before.0 || Some(epoch) > before.1, "{:#?}", cluster.story());
            before = (epoch, knows(&cluster, A));
        }
    }
}

/// What one member sends is sent on by somebody from the address of another one, which is dead.
#[test]
fn a_packet_that_is_sent_on_from_another_address_makes_nobody_seem_alive() {
    const C: usize = 2;
    let mut cluster = Cluster::started(Shape { data: 3, witness: false, ..Shape::default() });
    cluster.power_off(A);
    cluster.run_until(2000 * MS, |cluster| cluster.primary() == Some(B));
    cluster.power_off(C);
    cluster.boot(C);
    // C has not heard B yet, and takes whoever comes first from A's address for A.
    cluster.cut.insert((B, C));
    cluster.sent_on = Some((B, C, A));
    for _ in 0..100 {
        cluster.run(10 * MS);
        let peers = cluster.hosts[C].node.as_ref().map(|node| node.view(cluster.now).peers);
        assert!(peers.is_some_and(|peers| !peers[0].alive), "{:#?}", cluster.story());
    }
    cluster.cut.clear();
    cluster.run_until(2000 * MS, |cluster| cluster.in_sync(B) == [B, C]);
}

/// A half of a pair is about to go on alone, and its disk is slow; the other half comes back, hears it, and is
/// alone the next moment. Nobody can tell whether that disk has it by then: the other half waits.
#[test]
fn a_half_of_a_pair_that_is_being_left_out_does_not_go_on_alone() {
    for offset in 0..35 {
        let mut cluster = Cluster::started(Shape { witness: false, ..Shape::default() });
        cluster.power_off(B);
        cluster.disk_delay = 800 * MS;
        cluster.run(350 * MS);
        cluster.disk_delay = MS;
        cluster.boot(B);
        cluster.run(MS * 20 * offset);
        if cluster.hosts[A].disk.record.as_ref().is_some_and(|record| record.version > 3) {
            break;
        }
        cluster.power_off(A);
        for _ in 0..200 {
            cluster.run(10 * MS);
            assert_ne!(cluster.primary(), Some(B), "{:#?}", cluster.story());
        }
        cluster.boot(A);
        cluster.run_until(5000 * MS, |cluster| cluster.primary().is_some());
    }
}

/// A half of a pair ends its reign while it writes down that it goes on alone, and never does.
#[test]
fn a_half_of_a_pair_takes_back_what_it_never_acted_upon() {
    let mut cluster = Cluster::started(Shape { witness: false, ..Shape::default() });
    cluster.disk_delay = 300 * MS;
    cluster.power_off(B);
    cluster.run(350 * MS);
    cluster.feed(A, Event::LogFailed { full: false, error: "input/output error".into() });
    cluster.run(3000 * MS);
    let record = cluster.hosts[A].disk.record.clone().expect("a reigned");
    assert_eq!((record.members.len(), record.version > 3), (2, true), "{record:?}");
}

/// The halves of a pair do not hear each other, but the address answers: the other one lives, and may acknowledge
/// writes alone. When it falls silent later, nobody else has them.
#[test]
fn a_half_of_a_pair_that_got_an_answer_does_not_take_over_later() {
    let mut cluster = Cluster::started(Shape { witness: false, ..Shape::default() });
    cluster.cut.extend([(A, B), (B, A)]);
    cluster.probe_answer.set(Some(A));
    cluster.run(3000 * MS);
    assert_eq!((cluster.primary(), cluster.in_sync(A)), (Some(A), vec![A]));
    cluster.power_off(A);
    cluster.probe_answer.set(None);
    cluster.run(10_000 * MS);
    assert_eq!(cluster.primary(), None, "{:#?}", cluster.story());
    cluster.cut.clear();
    cluster.boot(A);
    cluster.run_until(3000 * MS, |cluster| cluster.primary() == Some(A));
}

/// The own links are bad when the other half falls silent. Once they are good again, it may have acknowledged
/// writes alone.
#[test]
fn a_half_of_a_pair_whose_links_were_bad_does_not_take_over_later() {
    let mut cluster = Cluster::started(Shape { witness: false, ..Shape::default() });
    let judged = |good: bool| Event::LinksJudged { good, detail: "carrier".into() };
    cluster.feed(B, judged(false));
    cluster.cut.extend([(A, B), (B, A)]);
    cluster.run(3000 * MS);
    assert_eq!((cluster.primary(), cluster.in_sync(A)), (Some(A), vec![A]));
    cluster.power_off(A);
    cluster.feed(B, judged(true));
    cluster.run(10_000 * MS);
    assert_eq!(cluster.primary(), None, "{:#?}", cluster.story());
}

/// The disk of the remaining half takes its vote only after minutes. By then the other one may be back.
#[test]
fn a_half_of_a_pair_asks_again_when_its_disk_was_slow() {
    let mut cluster = Cluster::started(Shape { witness: false, ..Shape::default() });
    cluster.power_off(A);
    cluster.disk_delay = 5000 * MS;
    cluster.run(4000 * MS);
    cluster.probe_answer.set(Some(A));
    cluster.run(10_000 * MS);
    assert_eq!(cluster.primary(), None, "{:#?}", cluster.story());
    assert_ne!(cluster.role(B), Role::Promoting, "{:#?}", cluster.story());
}

/// A half of a pair leaves out the other one, which it hears but whose stream is cut, and dies at the moment when it
/// learns that this is on its disk: before its next heartbeat is due.
#[test]
fn a_half_of_a_pair_says_at_once_that_it_leaves_the_other_out() {
    let mut seen = 0;
    for offset in 0..40 {
        let mut cluster = Cluster::started(Shape { witness: false, ..Shape::default() });
        cluster.run(3 * offset * MS);
        cluster.weather.seed = 0x9e37_79b9 * (1 + u64::from(offset));
        cluster.weather.disk_jitter = MS;
        cluster.disk_delay = 10 * MS;
        cluster.stream_cut.extend([(A, B), (B, A)]);
        let left_out = |note: &String| note.contains("leaves the in-sync set");
        // What comes from the log, and not from the clock of the heartbeats, shows that B is too late.
        while !cluster.hosts[A].notes.iter().any(left_out) {
            cluster.write(A);
            cluster.run(MS / 2);
        }
        let epoch = cluster.epoch(A);
        cluster.kill(A);
        // A write that is under way when a process dies may happen all the same.
        if cluster.hosts[A].disk.record.as_ref().is_none_or(|record| record.members.len() > 1) {
            continue;
        }
        seen += 1;
        cluster.bury(A, epoch);
        for _ in 0..200 {
            cluster.run(10 * MS);
            assert_ne!(cluster.primary(), Some(B), "{:#?}", cluster.story());
        }
    }
    assert!(seen > 0, "no such moment was met");
}

/// The primary loses its disk and comes back with the member that was off in its reign; the one that voted for it is
/// off now. Two of three do not know of its epoch any more, and a promotion by force must not use it again.
#[test]
fn a_forced_promotion_does_not_use_an_epoch_again_that_only_an_absent_member_knows() {
    const C: usize = 2;
    let mut cluster = Cluster::started(Shape { data: 3, witness: false, ..Shape::default() });
    let first = cluster.epoch(A);
    for i in [A, B, C] {
        cluster.power_off(i);
    }
    cluster.boot(A);
    cluster.boot(B);
    // B votes and does not stand.
    cluster.feed(B, Event::LinksJudged { good: false, detail: "carrier".into() });
    cluster.run_until(5000 * MS, |cluster| cluster.primary() == Some(A));
    let reigned = cluster.epoch(A);
    assert!(reigned > first);
    cluster.power_off(A);
    cluster.power_off(B);
    cluster.wipe(A);
    cluster.boot(C);
    cluster.boot(A);
    cluster.run(2000 * MS);
    cluster.command(A, 1, Command::Promote { accept_data_loss: true });
    cluster.run_until(5000 * MS, |cluster| cluster.primary() == Some(A));
    assert_ne!(cluster.epoch(A), reigned, "{:#?}", cluster.story());
}

/// a candidate of a pair that stood still while the half that had voted for it went on alone.
#[test]
fn a_candidate_that_stood_still_is_not_elected_by_a_vote_of_before() {
    let mut went_on = 0;
    for offset in 0..10 {
        let mut cluster = Cluster::started(Shape { witness: false, ..Shape::default() });
        cluster.run(1000 * MS);
        // A lets go, and B cannot take over at first. A stands again, B votes for it; A's own vote is slow to
        // reach its disk.
        cluster.command(A, 1, Command::Failover { to: None });
        cluster.run_until(500 * MS, |c| c.role(A) == Role::Standby);
        cluster.feed(B, Event::LinksJudged { good: false, detail: "carrier".into() });
        cluster.stall_disk(A, true);
        cluster.run_until(3000 * MS, |c| c.role(A) == Role::Candidate);
        cluster.run(10 * MS + MS * 7 * offset);
        cluster.pause(A);
        cluster.stall_disk(A, false);
        cluster.feed(B, Event::LinksJudged { good: true, detail: String::new() });
        cluster.run(1300 * MS);
        if cluster.primary() != Some(B) {
            continue;
        }
        went_on += 1;
        cluster.pause(B);
        let before = cluster.hosts[A].transitions.len();
        cluster.resume(A);
        let after = &cluster.hosts[A].transitions[before..];
        assert!(after.iter().all(|change| change.to != Role::Promoting), "{:#?}", cluster.story());
    }
    assert!(went_on > 0);
}

/// what a vote of the beginning proves.
#[test]
fn a_half_that_died_at_the_very_beginning_still_has_a_vote() {
    let mut cluster = Cluster::new(Shape { witness: false, two_node: TwoNode::Probe, ..Shape::default() });
    cluster.boot(A);
    cluster.boot(B);
    cluster.run_until(3000 * MS, |c| c.hosts[B].disk.voted_for.is_some());
    assert_eq!(cluster.hosts[B].disk.record, None, "before it has heard of a record");
    cluster.power_off(B);
    cluster.run_until(5000 * MS, |c| c.primary() == Some(A));
    assert!(cluster.write(A));
    cluster.run(100 * MS);
    // The other one is on its way up when the one that wrote alone returns, so that one is not alone any more.
    cluster.power_off(A);
    cluster.boot(B);
    cluster.boot(A);
    cluster.run_until(20_000 * MS, |c| c.primary() == Some(A) && c.in_sync(A) == [A, B]);
}
