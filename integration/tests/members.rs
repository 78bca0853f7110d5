//! Three data members: any one is lost without a pause but its detection, and a dead host is replaced by a new one
//! while the cluster serves.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use holdfast_agent::lab::agent_api::{self, Answer, Status};
use holdfast_agent::lab::cluster::{Cluster, Fault};
use holdfast_agent::lab::ledger::{Load, LoadSpec, Patience};
use holdfast_agent::lab::settings::ClusterSpec;
use holdfast_integration::measure::all_there;
use holdfast_integration::promise;
use holdfast_integration::stage::{LIMIT, ensure, holdfast_binary, reload};
use serde_json::json;

/// Until the primary counts exactly `wanted` as in sync; the result is the primary.
fn wait_for_set(cluster: &Cluster, wanted: &[&str]) -> Result<String> {
    let whole = |status: &Status| {
        let mut in_sync = status.in_sync.clone();
        in_sync.sort_unstable();
        status.is_primary() && in_sync == wanted
    };
    let seen = cluster.wait_until(&format!("{wanted:?} in sync"), LIMIT, |all| all.iter().any(whole))?;
    Ok(seen.into_iter().find(whole).map(|status| status.node).unwrap_or_default())
}

#[test]
fn of_three_data_members_any_one_is_lost_and_the_next_preferred_takes_over() {
    let spec = ClusterSpec { data_members: 3, witness: false, ..ClusterSpec::default() };
    promise(spec, |cluster| {
        let (client, target) = (cluster.client()?, cluster.target("three"));
        ensure(cluster.wait_in_sync(LIMIT)? == "a", || "the most preferred one is primary".to_owned())?;
        target.create_bucket(&client, LIMIT)?;
        let load =
            Load::start(&client, &target, LoadSpec { patience: Patience::ORDINARY, ..LoadSpec::default() });
        load.wait_for_more(200, LIMIT)?;
        // A standby: writes wait until it is noticed, and go on with the other.
        cluster.inflict("d", Fault::PowerOff)?;
        load.wait_for_more(200, LIMIT)?;
        wait_for_set(cluster, &["a", "b"])?;
        cluster.inflict("d", Fault::Heal)?;
        wait_for_set(cluster, &["a", "b", "d"])?;
        let ledger = load.stop()?;
        println!("a standby lost: longest gap {:?} of {:?}", ledger.longest_gap(), ledger.duration);
        // Its detection, with room for a busy machine; what a failover costs is measured elsewhere.
        let limit = Duration::from_millis(1_500);
        ensure(ledger.longest_gap() < limit, || format!("a pause of {:?}", ledger.longest_gap()))?;
        all_there(cluster, &target, &ledger)?;
        let spec = LoadSpec { patience: Patience::ORDINARY, seed: 2, ..LoadSpec::default() };
        let load = Load::start(&client, &target, spec);
        load.wait_for_more(200, LIMIT)?;
        // The primary: of those two that have everything the preferred one follows.
        cluster.inflict("a", Fault::PowerOff)?;
        load.wait_for_more(200, LIMIT)?;
        let next = cluster.wait_for_primary(LIMIT)?;
        ensure(next == "b", || format!("{next} took over, and b is preferred"))?;
        wait_for_set(cluster, &["b", "d"])?;
        cluster.inflict("a", Fault::Heal)?;
        wait_for_set(cluster, &["a", "b", "d"])?;
        let ledger = load.stop()?;
        all_there(cluster, &target, &ledger)
    });
}

/// The configuration of `host` in a cluster of a, b and the witness, before anybody knew of d.
fn of_old(host: &str) -> (String, String) {
    (host.to_owned(), ClusterSpec::default().config_file(host, Path::new("{DIR}")))
}

/// What `holdfast ha members WORDS` says on `host`.
fn members(cluster: &Cluster, host: &str, words: &[&str]) -> Result<(bool, String)> {
    let binary = holdfast_binary()?.display().to_string();
    let argv = [&[binary.as_str(), "ha", "members"], words].concat();
    let done = cluster.world().machine(host)?.execute(&argv, LIMIT)?;
    let said = format!("{}{}", done.stdout, done.stderr);
    println!("{host}: holdfast ha members {} -> {}\n{said}", words.join(" "), done.status);
    Ok((done.status == 0, said))
}

/// The address of the dead host gives way to that of the new one.
fn name_the_new_one(cluster: &Cluster, host: &str) -> Result<()> {
    reload(cluster, host, |text| text.replace("10.77.0.2:9001", "10.77.0.4:9001"))?;
    cluster.wait_until(&format!("{host} to hear d"), LIMIT, |all| {
        all.iter().any(|s| s.node == host && s.peers.iter().any(|peer| peer.id == "d" && peer.alive))
    })?;
    Ok(())
}

#[test]
fn a_dead_host_is_replaced_by_a_new_one_while_the_cluster_serves() {
    let three = ClusterSpec { data_members: 3, ..ClusterSpec::default() };
    let new = three.config_file("d", Path::new("{DIR}"));
    let new = new.replace("\"10.77.0.1:9001\", \"10.77.0.2:9001\"", "\"10.77.0.1:9001\"");
    let mut verbatim: std::collections::BTreeMap<_, _> = ["a", "b", "w"].map(of_old).into();
    verbatim.insert("d".to_owned(), new);
    let spec = ClusterSpec { idle: vec!["d".to_owned()], verbatim, ..three };
    promise(spec, |cluster| {
        let (client, target) = (cluster.client()?, cluster.target("members"));
        wait_for_set(cluster, &["a", "b"])?;
        let written = |all: &[Status]| all.iter().all(|s| s.voters == ["a", "b", "w"]);
        cluster.wait_until("who votes to be written down", LIMIT, written)?;
        target.create_bucket(&client, LIMIT)?;
        let pids = |cluster: &Cluster| -> Result<Vec<i32>> {
            ["a", "w"].iter().map(|host| cluster.agent_pid(host)).collect()
        };
        let agents = pids(cluster)?;
        let load =
            Load::start(&client, &target, LoadSpec { patience: Patience::ORDINARY, ..LoadSpec::default() });
        load.wait_for_more(200, LIMIT)?;
        cluster.inflict("b", Fault::PowerOff)?;
        wait_for_set(cluster, &["a"])?;

        // The new host is there; nobody knows it yet.
        cluster.start_agent("d")?;
        let (done, said) = members(cluster, "a", &["replace", "b", "d"])?;
        ensure(!done && said.contains("d is not heard here"), || said)?;
        name_the_new_one(cluster, "a")?;
        let (done, said) = members(cluster, "a", &["replace", "b", "d"])?;
        ensure(!done && said.contains("d is not heard by w yet"), || said)?;
        name_the_new_one(cluster, "w")?;
        // It follows, and has no vote: a configuration gives none.
        let follows = |all: &[Status]| all.iter().any(|s| s.node == "d" && s.primary.as_deref() == Some("a"));
        cluster.wait_until("d to follow", LIMIT, follows)?;
        ensure(cluster.status("a")?.voters == ["a", "b", "w"], || {
            "the configuration moved a vote".to_owned()
        })?;
        let (_, shown) = members(cluster, "a", &[])?;
        ensure(shown.contains("NOT CONFIGURED HERE"), || shown)?;
        let (done, said) = members(cluster, "w", &["replace", "b", "d"])?;
        ensure(!done && said.contains("a is primary"), || said)?;

        let (done, said) = members(cluster, "a", &["replace", "b", "d"])?;
        ensure(done && said.contains("a, d and w"), || said)?;
        wait_for_set(cluster, &["a", "d"])?;
        let same = |all: &[Status]| {
            all.len() == 3 && all.iter().all(|s| s.voters == ["a", "d", "w"] && s.warnings.is_empty())
        };
        cluster.wait_until("everybody to know who votes", LIMIT, same)?;
        ensure(pids(cluster)? == agents, || "an agent was restarted".to_owned())?;
        load.wait_for_more(200, LIMIT)?;

        // The dead one comes back with what it knew: it has no say, and the new one takes over.
        cluster.inflict("b", Fault::Heal)?;
        cluster.inflict("a", Fault::PowerOff)?;
        load.wait_for_more(200, LIMIT)?;
        let next = cluster.wait_for_primary(LIMIT)?;
        ensure(next == "d", || format!("{next} took over"))?;
        let answer = agent_api::order(
            &cluster.netns("b")?,
            "/api/ha/promote",
            Some(json!({"accept_data_loss": true})),
        )?;
        ensure(!matches!(answer, Answer::Done(_)), || "b is primary by force".to_owned())?;
        ensure(cluster.wait_for_primary(LIMIT)? == "d", || "d is primary no more".to_owned())?;
        let ledger = load.stop()?;
        println!("longest gap {:?} of {:?}", ledger.longest_gap(), ledger.duration);
        all_there(cluster, &target, &ledger)
    });
}

#[test]
fn another_preference_moves_the_role_where_failback_is_automatic_and_ends_with_the_agent() {
    let mut spec = ClusterSpec { failback_mode: Some("auto".to_owned()), ..ClusterSpec::default() };
    for host in ["a", "b"] {
        spec.extra_ha.insert(host.to_owned(), "    failback_delay = \"1s\"".to_owned());
    }
    promise(spec, |cluster| {
        ensure(cluster.wait_in_sync(LIMIT)? == "a", || "the preferred one is primary".to_owned())?;
        let (done, said) = members(cluster, "a", &["edit", "b", "--priority", "10"])?;
        ensure(!done && said.contains("refused (other_member)"), || said)?;
        let (done, said) = members(cluster, "b", &["edit", "b", "--priority", "10"])?;
        ensure(done && said.contains("preferred to a, which is primary"), || said)?;
        let primary = |cluster: &Cluster, wanted: &'static str| {
            let is = |all: &[Status]| all.iter().any(|s| s.node == wanted && s.is_primary());
            cluster.wait_until(&format!("{wanted} to be primary"), LIMIT, is)
        };
        primary(cluster, "b")?;
        let (done, said) = members(cluster, "a", &["show", "b"])?;
        ensure(done && said.contains(" 10 "), || said)?;
        // The agent's next life has what is configured.
        cluster.inflict("b", Fault::PowerOff)?;
        primary(cluster, "a")?;
        cluster.inflict("b", Fault::Heal)?;
        wait_for_set(cluster, &["a", "b"])?;
        let (done, said) = members(cluster, "b", &["show", "b"])?;
        ensure(done && said.contains(" 100 "), || said)
    });
}
