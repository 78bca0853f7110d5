//! What a fault costs the client, and what happens to data and address around it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use holdfast_agent::lab::agent_api;
use holdfast_agent::lab::cluster::{Cluster, Fault};
use holdfast_agent::lab::ledger::{Ledger, Load, LoadSpec, Target, read_back};
use holdfast_agent::lab::prober::Prober;
use holdfast_agent::lab::twins::{Evidence, Twins};
use holdfast_agent::runtime::log_thread::wall_ms;
use serde_json::{Value, json};

use crate::stage::{LIMIT, ensure};

/// How long the service must have been up, as the prober sees it, before and after a fault.
const STEADY: Duration = Duration::from_millis(300);

/// Breaks the primary by `fault` and returns the longest time for which the client was not served.
/// The cluster stays broken; see [`restore`].
pub fn outage_after(cluster: &Cluster, fault: Fault) -> Result<Duration> {
    let primary = cluster.wait_in_sync(LIMIT)?;
    let slack = cluster.gate_slack();
    let prober = Prober::start(&cluster.client()?, cluster.probe_target());
    prober.wait_served_after(Instant::now() + STEADY, LIMIT)?;
    cluster.inflict(&primary, fault)?;
    // A frozen or cut-off primary may still answer what was on its way: only what begins after the lease
    // tells that somebody else, or the same member anew, serves.
    let old_may_answer = match fault {
        Fault::PowerOff | Fault::Kill | Fault::KillAll | Fault::CutService => Duration::ZERO,
        _ => cluster.spec().lease() * 2 + slack,
    };
    let recovered = prober.wait_served_after(Instant::now() + old_may_answer, LIMIT)?;
    prober.wait_served_after(recovered + STEADY, LIMIT)?;
    prober.stop()?.outage().context("nothing was served at all")
}

/// Has the primary hand over and returns the longest time for which the client was not served.
pub fn outage_of_switchover(cluster: &Cluster) -> Result<Duration> {
    cluster.wait_in_sync(LIMIT)?;
    let prober = Prober::start(&cluster.client()?, cluster.probe_target());
    prober.wait_served_after(Instant::now() + STEADY, LIMIT)?;
    cluster.switch_over(LIMIT)?;
    prober.wait_served_after(Instant::now() + STEADY, LIMIT)?;
    prober.stop()?.outage().context("nothing was served at all")
}

/// Takes the virtual address off the primary as another program would, and returns the longest time for which
/// the client was not served.
pub fn outage_of_deletion(cluster: &Cluster) -> Result<Duration> {
    let primary = cluster.wait_in_sync(LIMIT)?;
    let prober = Prober::start(&cluster.client()?, cluster.probe_target());
    prober.wait_served_after(Instant::now() + STEADY, LIMIT)?;
    let vip = cluster.spec().vip;
    cluster.world().machine(&primary)?.take_address(IpAddr::V4(vip))?;
    prober.wait_served_after(Instant::now() + STEADY, LIMIT)?;
    let outage = prober.stop()?.outage().context("nothing was served at all")?;
    let now = cluster.wait_for_primary(LIMIT)?;
    ensure(now == primary, || format!("the role went from {primary} to {now}"))?;
    Ok(outage)
}

/// Mends every host, and waits until all data members are in sync.
pub fn restore(cluster: &Cluster) -> Result<()> {
    for member in cluster.spec().members() {
        cluster.inflict(member, Fault::Heal)?;
    }
    cluster.world().mend()?;
    cluster.wait_in_sync(LIMIT).map(drop)
}

/// The middle of `values`.
pub fn median(mut values: Vec<Duration>) -> Duration {
    values.sort();
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Writes under load while the primary is broken by `fault` and mended again; then checks that every
/// acknowledged object is there, and that no two hosts answered on the address at once.
pub fn survives(cluster: &Cluster, fault: Fault) -> Result<()> {
    let client = cluster.client()?;
    let target = cluster.target("promises");
    let primary = cluster.wait_in_sync(LIMIT)?;
    target.create_bucket(&client, LIMIT)?;
    let twins = Twins::watch(cluster)?;
    let slack = cluster.gate_slack();
    let load = Load::start(&client, &target, LoadSpec::default());
    load.wait_for_more(200, LIMIT)?;
    cluster.inflict(&primary, fault)?;
    // Longer than any lease: acknowledgements that come now are those of whoever is primary now.
    std::thread::sleep(cluster.spec().lease() * 3 + slack);
    load.wait_for_more(200, LIMIT)?;
    // The dangerous moment of a stop or a cut is its end, when a former primary wakes up.
    cluster.inflict(&primary, Fault::Heal)?;
    load.wait_for_more(100, LIMIT)?;
    cluster.wait_in_sync(LIMIT)?;
    load.wait_for_more(100, LIMIT)?;
    let ledger = load.stop()?;
    let evidence = twins.stop()?;
    println!(
        "{fault:?}: {} acknowledged, {} ambiguous, longest gap {} ms, {} ARP answers, {} services",
        ledger.acknowledged.len(),
        ledger.ambiguous.len(),
        ledger.longest_gap().as_millis(),
        evidence.claims.len(),
        evidence.services.len(),
    );
    all_there(cluster, &target, &ledger)?;
    no_twins(cluster, &evidence)?;
    // What was acknowledged must be on the other member too, not only on the one that answers now.
    let now = cluster.wait_in_sync(LIMIT)?;
    cluster.inflict(&now, Fault::PowerOff)?;
    all_there(cluster, &target, &ledger)?;
    restore(cluster)
}

/// Checks that everything in `ledger` that was acknowledged can be read back.
pub fn all_there(cluster: &Cluster, target: &Target, ledger: &Ledger) -> Result<()> {
    let verdict = read_back(&cluster.client()?, target, ledger, LIMIT)?;
    ensure(verdict.is_good(), || verdict.to_string())?;
    ensure(verdict.checked > 0, || "nothing was acknowledged, so nothing is proved".to_owned())
}

/// Checks that no two hosts answered for the virtual address at once.
pub fn no_twins(cluster: &Cluster, evidence: &Evidence) -> Result<()> {
    ensure(!evidence.services.is_empty() && !evidence.claims.is_empty(), || {
        "the bystanders saw nobody answer, so nothing is proved".to_owned()
    })?;
    // A return of the address within this time cannot be a new reign.
    let window = cluster.spec().lease();
    let (served, claimed) = (evidence.twin_services(window), evidence.twin_claims(window));
    ensure(served.is_empty(), || format!("two hosts served on the address at once: {served:?}"))?;
    ensure(claimed.is_empty(), || format!("two hosts claimed the address at once: {claimed:?}"))
}

/// A number of a member's metrics: that of the first series whose line begins with `name`.
pub fn metric(cluster: &Cluster, host: &str, name: &str) -> Result<u64> {
    let text = agent_api::text(&cluster.netns(host)?, "/metrics")?;
    let line = text.lines().find(|line| line.starts_with(name)).with_context(|| format!("no {name}"))?;
    Ok(line.rsplit(' ').next().unwrap_or_default().parse()?)
}

/// Reads the primary's log through, and with it the standby's; both have to be the same, all of it.
pub fn all_the_same(cluster: &Cluster) -> Result<u64> {
    let primary = cluster.wait_in_sync(LIMIT)?;
    let standby = cluster.other_than(&primary);
    let began = wall_ms();
    cluster.post(&primary, "/api/store/scrub/start", Some(json!({})))?;
    let end = Instant::now() + LIMIT * 10;
    loop {
        let status: Value = agent_api::get(&cluster.netns(&primary)?, "/api/replication/status")?;
        let found = &status["sameness"]["peers"][standby];
        if found["last_complete_ms"].as_u64().is_some_and(|at| at >= began) {
            return found["same_bytes"].as_u64().context("no number of bytes");
        }
        ensure(Instant::now() < end && found["differing"].as_array().is_none_or(Vec::is_empty), || {
            format!("{standby} does not have what {primary} has: {found}")
        })?;
        std::thread::sleep(Duration::from_millis(50));
    }
}
