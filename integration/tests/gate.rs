//! The kernel gate under real agents, when others meddle with it, and what is left of it after everything died.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use holdfast_agent::lab::cluster::{Cluster, Fault};
use holdfast_agent::lab::privilege::{Standing, standing};
use holdfast_agent::lab::prober::Prober;
use holdfast_agent::lab::settings::ClusterSpec;
use holdfast_integration::promise;
use holdfast_integration::stage::{LIMIT, ensure, holdfast_binary};
use holdfast_vip::gate::remove_stale;

/// Waits until the history of `host` has an entry with these words.
fn until_told(cluster: &Cluster, host: &str, words: &str) -> Result<()> {
    let begun = Instant::now();
    loop {
        let history = cluster.history(host)?;
        if history.iter().any(|entry| entry.reason.contains(words)) {
            return Ok(());
        }
        ensure(begun.elapsed() < LIMIT, || format!("{host} never said {words:?}: {history:#?}"))?;
        thread::sleep(Duration::from_millis(20));
    }
}

/// What `holdfast sweep` says on `host`.
fn sweep(cluster: &Cluster, host: &str) -> Result<String> {
    let machine = cluster.world().machine(host)?;
    let (binary, config) = (holdfast_binary()?, machine.dir().join("holdfast.hcl"));
    let argv = [&binary.display().to_string(), "sweep", "--config", &config.display().to_string()];
    let output = machine.execute(&argv, LIMIT)?;
    Ok(format!("{}{}", output.stdout, output.stderr))
}

#[test]
fn a_gate_that_another_program_detaches_is_put_back_and_clients_do_not_notice() {
    if standing() != Standing::Root {
        return eprintln!("skipped: needs root");
    }
    promise(ClusterSpec::default(), |cluster| {
        let primary = cluster.wait_in_sync(LIMIT)?;
        let client = cluster.client()?;
        let prober = Prober::start(&client, cluster.probe_target());
        cluster.netns(&primary)?.run(remove_stale)??;
        until_told(cluster, &primary, "it was put back")?;
        let longest = prober.stop()?.outage().unwrap_or_default();
        ensure(longest < cluster.spec().lease(), || format!("clients waited {longest:?}"))?;
        ensure(cluster.status(&primary)?.is_primary(), || "the role moved".to_owned())
    });
}

#[test]
fn a_sweep_leaves_nothing_of_a_dead_agent_and_refuses_while_one_lives() {
    for gate in ["auto", "nftables"] {
        let mut spec = ClusterSpec::default();
        for host in ["a", "b"] {
            spec.extra_ha.insert(host.to_owned(), format!("    gate = {gate:?}"));
        }
        promise(spec, move |cluster| {
            let primary = cluster.wait_in_sync(LIMIT)?;
            let refused = sweep(cluster, &primary)?;
            ensure(refused.contains("nothing was changed"), || format!("while it lives: {refused}"))?;
            ensure(cluster.status(&primary)?.is_primary(), || "the sweep touched a living agent".to_owned())?;
            cluster.inflict(&primary, Fault::KillAll)?;
            let swept = sweep(cluster, &primary)?;
            ensure(swept.contains("No address and no gate"), || swept.clone())?;
            let again = sweep(cluster, &primary)?;
            ensure(!again.contains("Took"), || format!("the first sweep left something: {again}"))
        });
    }
}
