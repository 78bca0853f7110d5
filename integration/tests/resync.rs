//! A standby's log is copied anew from the primary under load: what it means is said first, how far it is can be seen,
//! whatever ends the agent, it goes on by itself, and nothing is lost.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use holdfast_agent::lab::agent_api::{self, Answer};
use holdfast_agent::lab::cluster::{Cluster, Fault};
use holdfast_agent::lab::ledger::{Load, LoadSpec};
use holdfast_agent::lab::settings::ClusterSpec;
use holdfast_integration::measure::{all_there, metric};
use holdfast_integration::promise;
use holdfast_integration::stage::{LIMIT, ensure, holdfast_binary};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
const RESYNC: &str = "/api/replication/resync";

fn get(cluster: &Cluster, host: &str, path: &str) -> Result<Value> {
    agent_api::get(&cluster.netns(host)?, path)
}

fn log_status(cluster: &Cluster, host: &str) -> Result<Value> {
    get(cluster, host, "/api/replication/status")
}

/// What the command line says on a host, and its exit status.
fn command(cluster: &Cluster, host: &str, args: &[&str]) -> Result<(i32, String)> {
    let binary = holdfast_binary()?.display().to_string();
    let argv: Vec<&str> = [binary.as_str(), "replication"].iter().chain(args).copied().collect();
    let output = cluster.world().machine(host)?.execute(&argv, LIMIT)?;
    Ok((output.status, format!("{}{}", output.stdout, output.stderr)))
}

/// Looks until `found` finds something.
fn until<T>(what: &str, limit: Duration, mut found: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Ok(Some(found)) = found() {
            return Ok(found);
        }
        ensure(Instant::now() < end, || format!("{what}: not within {limit:?}"))?;
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The bytes of a host's log, segment by segment.
fn segments(cluster: &Cluster, host: &str) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(cluster.dir().join(host).join("store/log"))? {
        let (path, name) = {
            let entry = entry?;
            (entry.path(), entry.file_name())
        };
        if path.extension().is_some_and(|extension| extension == "log") {
            found.insert(name.to_string_lossy().into_owned(), fs::read(path)?);
        }
    }
    Ok(found)
}

/// The old copies that lie on a host.
fn old_copies(cluster: &Cluster, host: &str) -> Result<Vec<PathBuf>> {
    let dir = cluster.dir().join(host).join("store/log");
    let entries = fs::read_dir(dir)?.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let old = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("before-resync-"))
    };
    Ok(entries.filter(old).collect())
}

/// A pair with a witness that catches up slowly enough to be watched.
fn spec() -> ClusterSpec {
    let slow = "catch_up_rate = \"8MB\"".to_owned();
    let extra = [("a".to_owned(), slow.clone()), ("b".to_owned(), slow)];
    ClusterSpec {
        extra_replication: extra.into(),
        segment_size: Some("4MB".to_owned()),
        ..ClusterSpec::default()
    }
}

#[test]
fn a_standby_is_copied_anew_under_load_and_a_kill_in_the_middle_costs_what_was_under_way() {
    promise(spec(), |cluster| {
        let (client, target) = (cluster.client()?, cluster.target("resync"));
        let primary = cluster.wait_in_sync(LIMIT)?;
        let standby = cluster.other_than(&primary);
        target.create_bucket(&client, LIMIT)?;
        let large = LoadSpec { writers: 4, size: MIB as usize, seed: 7, ..LoadSpec::default() };
        let load = Load::start(&client, &target, large);
        load.wait_for_more(72, LIMIT * 2)?;
        let stored = load.stop()?;
        let load = Load::start(&client, &target, LoadSpec { writers: 2, ..LoadSpec::default() });

        // What it means is said first, and nothing is changed.
        let plan = get(cluster, standby, RESYNC)?;
        let bytes = plan["transfer_bytes"].as_u64().unwrap_or_default();
        ensure(bytes > 72 * MIB, || format!("{plan}"))?;
        let (code, said) = command(cluster, standby, &["resync"])?;
        println!("{said}");
        ensure(code == 0 && said.contains("MiB: all of") && said.contains("Nothing was changed"), || {
            said.clone()
        })?;
        ensure(said.contains(&format!("{primary} alone holds every acknowledged byte meanwhile")), || {
            said.clone()
        })?;
        let (code, said) = command(cluster, &primary, &["resync", "--yes"])?;
        ensure(code == 1 && said.contains("refused (is_primary)"), || said)?;
        let (code, said) = command(cluster, standby, &["resync", &primary, "--yes"])?;
        ensure(code == 1 && said.contains("refused (other_member)"), || said)?;
        ensure(cluster.wait_in_sync(LIMIT)? == primary, || "the role has changed".to_owned())?;
        let life = cluster.agent_pid(standby)?;

        let began = Instant::now();
        let end = |status: &Value| status["end"].as_u64().unwrap_or_default();
        let end_before = end(&log_status(cluster, &primary)?);
        let (code, said) = command(cluster, standby, &["resync", standby, "--yes"])?;
        ensure(code == 0 && said.contains("starts again now"), || said)?;
        // Both sides show how far it is.
        let shown = |status: &Value| status["percent"].as_u64().filter(|percent| (10..60).contains(percent));
        let had = until("progress on the standby", LIMIT, || {
            let status = log_status(cluster, standby)?;
            Ok(shown(&status["catch_up"]).and(status["durable"].as_u64()))
        })?;
        ensure(cluster.agent_pid(standby)? != life, || "the agent did not start again".to_owned())?;
        let mut seen = Value::Null;
        let peer = until("progress on the primary", LIMIT, || {
            let status = log_status(cluster, &primary)?;
            let peers = status["peers"].as_array().into_iter().flatten();
            let catching_up = peers.map(|peer| &peer["catch_up"]).find(|of| of["percent"].is_u64());
            seen = status.clone();
            Ok(catching_up.filter(|of| of["percent"].as_u64().is_some_and(|percent| percent < 95)).cloned())
        })?;
        println!("the primary: {seen}");
        // What is written meanwhile comes on top of the rate; all of it may have been in the time that is shown.
        let number = |key: &str| peer[key].as_u64().unwrap_or_default();
        let on_top = (end(&seen) - end_before) * 1000 / number("running_ms").max(1);
        let pace = number("bytes_per_second");
        ensure(pace > 4_000_000 && pace < 14_000_000 + on_top, || format!("{on_top} on top: {peer}"))?;
        ensure(peer["limit_bytes_per_second"] == 8_000_000, || format!("{peer}"))?;
        let left = metric(cluster, &primary, "holdfast_catch_up_remaining_bytes")?;
        ensure(left > 16 * MIB, || format!("{left} bytes are left"))?;
        let (_, said) = command(cluster, standby, &["status"])?;
        println!("{said}");
        ensure(said.contains("Catching up") && said.contains("is copied anew"), || said)?;
        let (code, said) = command(cluster, standby, &["resync", "--yes"])?;
        ensure(code == 1 && said.contains("resync_under_way"), || said)?;
        ensure(old_copies(cluster, standby)?.len() == 1, || "the old copy is gone".to_owned())?;
        load.wait_for_more(50, LIMIT)?;

        // Killed in the middle, it goes on by itself where it was.
        cluster.inflict(standby, Fault::KillAll)?;
        load.wait_for_more(50, LIMIT)?;
        cluster.inflict(standby, Fault::Heal)?;
        let after =
            until("the standby's log", LIMIT, || Ok(log_status(cluster, standby)?["durable"].as_u64()))?;
        ensure(after >= had, || format!("{had} bytes were there, and {after} are left"))?;
        cluster.wait_in_sync(LIMIT * 2)?;
        println!("in sync again after {:?}", began.elapsed());
        until("the old copy to go", LIMIT, || {
            let over = log_status(cluster, standby)?["resync"]["under_way"].is_null();
            Ok((over && old_copies(cluster, standby)?.is_empty()).then_some(()))
        })?;
        let history = cluster.history(standby)?;
        for words in
            ["an operator ordered its log to be copied anew", "copied anew from the primary and is in sync"]
        {
            ensure(history.iter().any(|entry| entry.reason.contains(words)), || {
                format!("{words}: {history:#?}")
            })?;
        }

        // The copies are the same, and each of them stands alone.
        load.wait_for_more(50, LIMIT)?;
        let ledger = load.stop()?;
        until("the standby to have everything", LIMIT, || {
            let durable = |host| Ok::<_, anyhow::Error>(log_status(cluster, host)?["durable"].as_u64());
            Ok((durable(standby)? == durable(&primary)?).then_some(()))
        })?;
        let (ours, theirs) = (segments(cluster, &primary)?, segments(cluster, standby)?);
        ensure(ours.len() > 15 && ours == theirs, || {
            format!("{:?} and {:?}", ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>())
        })?;
        cluster.inflict(&primary, Fault::PowerOff)?;
        cluster.wait_for_primary(LIMIT)?;
        all_there(cluster, &target, &stored)?;
        all_there(cluster, &target, &ledger)
    });
}

#[test]
fn an_old_copy_is_kept_where_that_was_ordered_and_a_pair_does_it_too() {
    let spec = ClusterSpec { witness: false, ..ClusterSpec::default() };
    promise(spec, |cluster| {
        let (client, target) = (cluster.client()?, cluster.target("kept"));
        let primary = cluster.wait_in_sync(LIMIT)?;
        let standby = cluster.other_than(&primary);
        target.create_bucket(&client, LIMIT)?;
        let load = Load::start(&client, &target, LoadSpec { writers: 2, ..LoadSpec::default() });
        load.wait_for_more(100, LIMIT)?;
        let order = json!({"member": standby, "keep_old_copy": true});
        match agent_api::order(&cluster.netns(standby)?, RESYNC, Some(order))? {
            Answer::Done(_) => {}
            Answer::Declined { text, .. } => anyhow::bail!("refused: {text}"),
        }
        load.wait_for_more(100, LIMIT)?;
        let kept = until("the copy that is kept", LIMIT, || {
            let resync = log_status(cluster, standby)?["resync"].clone();
            let kept = resync["kept"].get(0).cloned();
            Ok(kept.filter(|_| resync["under_way"].is_null()))
        })?;
        ensure(cluster.wait_in_sync(LIMIT)? == primary, || "the role has changed".to_owned())?;
        let path = kept["path"].as_str().context("a path")?.to_owned();
        ensure(PathBuf::from(&path).join("0000000000000000.log").exists(), || path.clone())?;
        ensure(kept["bytes"].as_u64() > Some(100 * 4096), || kept.to_string())?;
        let (_, said) = command(cluster, standby, &["status"])?;
        ensure(said.contains(&path) && said.contains("delete it when nobody needs it"), || said)?;
        let ledger = load.stop()?;
        cluster.inflict(&primary, Fault::PowerOff)?;
        cluster.wait_for_primary(LIMIT)?;
        all_there(cluster, &target, &ledger)
    });
}
