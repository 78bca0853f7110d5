//! The shared secret is replaced in a running cluster.

use anyhow::Result;
use holdfast_agent::lab::cluster::Cluster;
use holdfast_agent::lab::ledger::{Load, LoadSpec, Patience, read_back};
use holdfast_agent::lab::settings::ClusterSpec;
use holdfast_integration::promise;
use holdfast_integration::stage::{self, LIMIT, ensure};

const NEW: &str = "another secret of the lab, good for nothing either";

/// Replaces the line of the secret in every member's file by `lines`, has each agent read it, and waits until
/// all of them have `count` keys.
fn reload(cluster: &Cluster, lines: impl Fn(&str) -> String, count: usize) -> Result<Vec<String>> {
    for host in cluster.spec().members() {
        stage::reload(cluster, host, |text| {
            let is_of_keys =
                |line: &str| line.contains("secret_key  =") || line.contains("previous_secret_keys");
            let old = text.lines().find(|line| is_of_keys(line)).expect("a secret in the file");
            let kept: Vec<&str> = text.lines().filter(|line| !is_of_keys(line) || *line == old).collect();
            kept.join("\n").replace(old, &lines(old))
        })?;
    }
    cluster.wait_until("the keys to be replaced", LIMIT, |all| {
        all.len() == cluster.spec().members().len()
            && all.iter().all(|status| status.keys.len() == count && status.keys == all[0].keys)
    })?;
    Ok(cluster.status("a")?.keys)
}

#[test]
fn the_shared_secret_is_replaced_without_a_restart_and_without_a_failed_write() {
    promise(ClusterSpec::default(), |cluster| {
        let (client, target) = (cluster.client()?, cluster.target("keys"));
        let primary = cluster.wait_in_sync(LIMIT)?;
        target.create_bucket(&client, LIMIT)?;
        let pids = |cluster: &Cluster| -> Result<Vec<i32>> {
            cluster.spec().members().iter().map(|host| cluster.agent_pid(host)).collect()
        };
        let changes = |cluster: &Cluster| -> Result<usize> {
            Ok(cluster.history(&primary)?.iter().filter(|entry| entry.from != entry.to).count())
        };
        let (agents, roles, old) = (pids(cluster)?, changes(cluster)?, cluster.status("a")?.keys);
        let spec = LoadSpec { patience: Patience::NONE, ..LoadSpec::default() };
        let load = Load::start(&client, &target, spec);

        let with_new = format!("  previous_secret_keys = [\"{NEW}\"]");
        let both = reload(cluster, |own| format!("{own}\n{with_new}"), 2)?;
        ensure(both[0] == old[0], || format!("{both:?} does not sign with {old:?}"))?;
        load.wait_for_more(100, LIMIT)?;

        let swapped = reload(
            cluster,
            |own| {
                let secret = own.split('"').nth(1).unwrap_or_default();
                format!("  secret_key  = \"{NEW}\"\n  previous_secret_keys = [\"{secret}\"]")
            },
            2,
        )?;
        ensure(swapped == [both[1].clone(), both[0].clone()], || format!("{swapped:?} after {both:?}"))?;
        load.wait_for_more(100, LIMIT)?;

        let last = reload(cluster, str::to_owned, 1)?;
        ensure(last == swapped[..1], || format!("{last:?} after {swapped:?}"))?;
        load.wait_for_more(100, LIMIT)?;

        let ledger = load.stop()?;
        ensure(ledger.ambiguous.is_empty(), || format!("{} writes failed", ledger.ambiguous.len()))?;
        ensure(pids(cluster)? == agents, || "an agent was restarted".to_owned())?;
        ensure(changes(cluster)? == roles, || format!("{:#?}", cluster.history(&primary)))?;
        let history = cluster.history(&primary)?;
        let said = history.iter().filter(|entry| entry.reason.contains("the shared keys were replaced"));
        ensure(said.count() == 3, || format!("{history:#?}"))?;
        // Whoever has to take over later is heard with the new key alone.
        let other = cluster.switch_over(LIMIT)?;
        ensure(other != primary, || format!("{primary} is primary still"))?;
        cluster.wait_in_sync(LIMIT)?;
        let read = read_back(&client, &target, &ledger, LIMIT)?;
        ensure(read.is_good(), || format!("{read}"))
    });
}
