//! Planned changes of the primary.

use std::time::Duration;

use holdfast_agent::lab::agent_api::{self, Answer};
use holdfast_agent::lab::cluster::Fault;
use holdfast_agent::lab::ledger::{Load, LoadSpec, Patience};
use holdfast_agent::lab::prober::Prober;
use holdfast_agent::lab::settings::ClusterSpec;
use holdfast_agent::lab::twins::Twins;
use holdfast_integration::measure::{all_there, median, no_twins};
use holdfast_integration::promise;
use holdfast_integration::stage::{LIMIT, ensure};

#[test]
fn a_switchover_under_load_fails_no_request_and_pauses_at_most_100_ms() {
    promise(ClusterSpec::default(), |cluster| {
        let client = cluster.client()?;
        let target = cluster.target("switch");
        cluster.wait_in_sync(LIMIT)?;
        target.create_bucket(&client, LIMIT)?;
        let twins = Twins::watch(cluster)?;
        // The client repeats by itself what the protocol lets it repeat; anything else shows as a failure.
        let spec = LoadSpec { patience: Patience::ORDINARY, ..LoadSpec::default() };
        let load = Load::start(&client, &target, spec);
        let mut pauses = Vec::new();
        for _ in 0..5 {
            load.wait_for_more(50, LIMIT)?;
            let prober = Prober::start(&client, cluster.probe_target());
            load.wait_for_more(50, LIMIT)?;
            cluster.switch_over(LIMIT)?;
            load.wait_for_more(50, LIMIT)?;
            pauses.extend(prober.stop()?.outage());
            // The bystanders cannot tell an address that is back within a lease from one that never left.
            std::thread::sleep(cluster.spec().lease() * 2);
        }
        let (ledger, evidence) = (load.stop()?, twins.stop()?);
        println!("pauses {pauses:?}, longest gap of a write {:?}", ledger.longest_gap());
        ensure(ledger.ambiguous.is_empty(), || format!("requests failed: {:?}", ledger.reasons))?;
        all_there(cluster, &target, &ledger)?;
        no_twins(cluster, &evidence)?;
        let middle = median(pauses.clone());
        ensure(middle <= Duration::from_millis(100) + cluster.gate_slack(), || {
            format!("the median pause is {middle:?}: {pauses:?}")
        })
    });
}

#[test]
fn one_switchover_may_follow_another_at_once() {
    promise(ClusterSpec::default(), |cluster| {
        let client = cluster.client()?;
        let target = cluster.target("switch");
        cluster.wait_in_sync(LIMIT)?;
        target.create_bucket(&client, LIMIT)?;
        let spec = LoadSpec { patience: Patience::ORDINARY, ..LoadSpec::default() };
        let load = Load::start(&client, &target, spec);
        for _ in 0..6 {
            cluster.switch_over(LIMIT)?;
        }
        load.wait_for_more(50, LIMIT)?;
        let ledger = load.stop()?;
        ensure(ledger.ambiguous.is_empty(), || format!("requests failed: {:?}", ledger.reasons))?;
        all_there(cluster, &target, &ledger)
    })
}

#[test]
fn nobody_hands_over_to_a_member_that_has_just_started() {
    let mut spec = ClusterSpec::default();
    for host in ["a", "b"] {
        // What an address's lifetime adds makes a restarted member wait far longer than it takes to start.
        spec.extra_ha.insert(host.to_owned(), "    gate = \"none\"".to_owned());
    }
    promise(spec, |cluster| {
        let primary = cluster.wait_in_sync(LIMIT)?;
        let standby = cluster.other_than(&primary);
        cluster.inflict(standby, Fault::KillAll)?;
        cluster.inflict(standby, Fault::Heal)?;
        cluster
            .wait_until("the restart of the standby", LIMIT, |all| all.iter().any(|s| s.node == standby))?;
        let answer = agent_api::order(&cluster.netns(&primary)?, "/api/ha/failover", None)?;
        let refused = matches!(&answer, Answer::Declined { code, .. } if code == "no_successor");
        ensure(refused, || format!("ordered at once: {answer:?}"))?;

        let successor = cluster.switch_over(LIMIT)?;
        ensure(successor == standby, || format!("{successor} took over"))?;
        let causes: Vec<_> = cluster.history(&primary)?.into_iter().map(|entry| entry.cause).collect();
        ensure(!causes.iter().any(|cause| cause == "handover_failed"), || format!("{primary}: {causes:?}"))
    })
}

#[test]
fn the_preferred_member_gets_the_address_back_when_failback_is_automatic() {
    let mut spec = ClusterSpec { failback_mode: Some("auto".to_owned()), ..ClusterSpec::default() };
    for host in ["a", "b"] {
        spec.extra_ha.insert(host.to_owned(), "    failback_delay = 1".to_owned());
    }
    promise(spec, |cluster| {
        cluster.wait_in_sync(LIMIT)?;
        cluster.inflict("a", Fault::PowerOff)?;
        let second = cluster.wait_for_primary(LIMIT)?;
        ensure(second == "b", || format!("{second} took over"))?;
        cluster.inflict("a", Fault::Heal)?;
        cluster
            .wait_until("the failback", LIMIT, |all| all.iter().any(|s| s.is_primary() && s.node == "a"))?;
        Ok(())
    });
}

#[test]
fn a_returned_member_stays_standby_when_failback_is_manual() {
    promise(ClusterSpec::default(), |cluster| {
        let first = cluster.wait_in_sync(LIMIT)?;
        cluster.inflict(&first, Fault::PowerOff)?;
        let second = cluster.wait_for_primary(LIMIT)?;
        cluster.inflict(&first, Fault::Heal)?;
        cluster.wait_in_sync(LIMIT)?;
        std::thread::sleep(cluster.spec().lease() * 10);
        let primary = cluster.wait_for_primary(LIMIT)?;
        ensure(primary == second, || format!("{primary} took the address from {second}"))
    });
}
