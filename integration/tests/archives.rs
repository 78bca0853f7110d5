//! What a primary wrote that nobody acknowledged: set aside when it returns, and looked after by an operator.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use holdfast_agent::lab::agent_api;
use holdfast_agent::lab::cluster::{Cluster, Fault};
use holdfast_agent::lab::ledger::{Patience, Target};
use holdfast_agent::lab::settings::{ClusterSpec, LAN};
use holdfast_agent::lab::world::NetNs;
use holdfast_integration::measure::metric;
use holdfast_integration::promise;
use holdfast_integration::stage::{LIMIT, ensure, holdfast_binary};
use object_store::{ObjectMeta, ObjectStoreExt};
use serde_json::Value;

/// Long enough for the primary not to go on alone before it is cut off altogether.
const WAITS_FOR_STANDBY: &str = "    standby_timeout = 25";

const UNATTENDED: &str = "holdfast_set_aside_unattended_archives{cause=\"divergent\"}";

/// The program on a host: its exit status and what it said.
fn holdfast(cluster: &Cluster, host: &str, words: &[&str]) -> Result<(i32, String)> {
    let binary = holdfast_binary()?.display().to_string();
    let argv = [&[binary.as_str(), "replication"], words].concat();
    let done = cluster.world().machine(host)?.execute(&argv, LIMIT)?;
    let said = format!("{}{}", done.stdout, done.stderr);
    println!("{host}: holdfast replication {} -> {}\n{said}", words.join(" "), done.status);
    Ok((done.status, said))
}

/// As [`holdfast`], for what must be said with that status.
fn says(cluster: &Cluster, host: &str, words: &[&str], status: i32, expected: &[&str]) -> Result<String> {
    let (got, said) = holdfast(cluster, host, words)?;
    ensure(got == status, || format!("{words:?} ended with {got}, not {status}: {said}"))?;
    for part in expected {
        ensure(said.contains(part), || format!("{words:?} does not say {part:?}: {said}"))?;
    }
    Ok(said)
}

fn read(client: &NetNs, target: &Target, key: &str) -> Result<(Bytes, ObjectMeta)> {
    client.block_on(|| async {
        let got = target.client(Patience::ORDINARY)?.get(&key.into()).await?;
        let meta = got.meta.clone();
        anyhow::Ok((got.bytes().await?, meta))
    })?
}

/// Writes that the primary takes and nobody acknowledges.
fn in_vain(client: &NetNs, target: &Target, objects: &[(&str, Bytes)]) -> Result<()> {
    client.block_on(|| async {
        let s3 = target.client(Patience::NONE)?;
        let put = |(key, body): &(&str, Bytes)| {
            let (s3, key, body) = (s3.clone(), (*key).to_owned(), body.clone());
            async move { s3.put(&key.into(), body.into()).await.is_err() }
        };
        let refused = futures::future::join_all(objects.iter().map(put)).await;
        ensure(refused.iter().all(|refused| *refused), || "a write was acknowledged".to_owned())
    })?
}

/// Waits until the host's log has, durably, that many bytes that nobody acknowledged.
fn tail_of(cluster: &Cluster, host: &str, at_least: u64) -> Result<()> {
    let end = Instant::now() + LIMIT;
    loop {
        let status: Value = agent_api::get(&cluster.netns(host)?, "/api/replication/status")?;
        let number = |name: &str| status[name].as_u64().with_context(|| format!("{name} of {status}"));
        if number("durable")? >= number("committed")? + at_least {
            return Ok(());
        }
        ensure(Instant::now() < end, || format!("{host} wrote nothing that is not acknowledged: {status}"))?;
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_divergent_tail_is_listed_read_restored_and_deleted() {
    let mut spec = ClusterSpec { cable: true, ..ClusterSpec::default() };
    for host in ["a", "b"] {
        spec.extra_ha.insert(host.to_owned(), WAITS_FOR_STANDBY.to_owned());
    }
    promise(spec, |cluster| {
        let (client, target) = (cluster.client()?, cluster.target("box"));
        let former = cluster.wait_in_sync(LIMIT)?;
        let other = cluster.other_than(&former);
        target.create_bucket(&client, LIMIT)?;
        client.block_on(|| async {
            target.client(Patience::ORDINARY)?.put(&"kept".into(), Bytes::from("before").into()).await?;
            anyhow::Ok(())
        })??;

        // Heartbeats pass by the cable, the log does not: the primary reigns on and acknowledges nothing.
        cluster.world().deafen_where(&former, other, |network, _| network == LAN)?;
        let large: Bytes = (0..3_000_000_u32).map(|n| (n * 31 % 251) as u8).collect::<Vec<u8>>().into();
        let tail =
            [("small", Bytes::from("of the tail")), ("large", large.clone()), ("kept", Bytes::from("after"))];
        in_vain(&client, &target, &tail)?;
        tail_of(cluster, &former, large.len() as u64)?;
        cluster.inflict(&former, Fault::Cut)?;
        cluster.wait_until("the other's reign", LIMIT, |all| {
            all.iter().any(|s| s.is_primary() && s.node == other)
        })?;
        cluster.inflict(&former, Fault::Heal)?;
        cluster.wait_in_sync(LIMIT)?;
        ensure(metric(cluster, &former, UNATTENDED)? == 1, || "nothing was set aside".to_owned())?;
        ensure(metric(cluster, other, UNATTENDED)? == 0, || format!("{other} has an archive, too"))?;

        // What is there.
        let listed = says(cluster, &former, &["archives", "list", "--json"], 0, &["\"divergent\""])?;
        let listed: Value = serde_json::from_str(&listed)?;
        let name = listed[0]["name"].as_str().context("a name")?.to_owned();
        let holds = ["box/small", "the cluster has none", "box/kept", "the cluster has other content"];
        says(cluster, &former, &["archives", "list"], 0, &holds)?;
        says(cluster, &former, &["status"], 0, &holds)?;
        says(cluster, &former, &["archives", "show", &name], 0, &["stored", "box/large", "2.9 MiB"])?;
        says(cluster, other, &["archives", "list"], 0, &["nothing was set aside"])?;

        // One object to a file.
        let file = cluster.world().machine(&former)?.dir().join("large");
        let output = file.display().to_string();
        says(
            cluster,
            &former,
            &["archives", "get", &name, "box/large", "--output", &output],
            0,
            &["3000000"],
        )?;
        ensure(std::fs::read(&file)? == large, || "other bytes were written".to_owned())?;
        says(
            cluster,
            &former,
            &["archives", "get", &name, "box/none", "--output", "/tmp/x"],
            1,
            &["no object"],
        )?;

        // All that the cluster lacks, as new writes; what it has is left alone.
        let words = ["archives", "restore", &name];
        says(cluster, &former, &words, 1, &["box/small (11 B): restored", "box/large", "left alone"])?;
        ensure(read(&client, &target, "small")?.0 == "of the tail", || "small is another".to_owned())?;
        ensure(read(&client, &target, "large")?.0 == large, || "large is another".to_owned())?;
        ensure(read(&client, &target, "kept")?.0 == "before", || "what was acknowledged is gone".to_owned())?;
        ensure(metric(cluster, &former, UNATTENDED)? == 0, || "nobody looked after it".to_owned())?;

        // Again: nothing changes.
        let before = read(&client, &target, "small")?.1;
        let again = says(cluster, &former, &words, 1, &["2 already there"])?;
        ensure(!again.contains("restored"), || format!("something was written: {again}"))?;
        let after = read(&client, &target, "small")?.1;
        ensure(before == after, || format!("{before:?} became {after:?}"))?;

        // Over what is there, when told so, also after another change of primary: this member writes to itself.
        cluster.switch_over(LIMIT)?;
        cluster.wait_in_sync(LIMIT)?;
        let words = ["archives", "restore", &name, "box/kept", "--overwrite"];
        says(cluster, &former, &words, 0, &["box/kept (5 B): restored"])?;
        ensure(read(&client, &target, "kept")?.0 == "after", || "it was not replaced".to_owned())?;

        // Gone only when that is said, and written down.
        says(cluster, &former, &["archives", "delete", &name], 1, &["was not deleted", "all 3"])?;
        says(cluster, &former, &["archives", "delete", &name, "--yes"], 0, &["is deleted"])?;
        says(cluster, &former, &["archives", "list"], 0, &["nothing was set aside"])?;
        let (_, status) = holdfast(cluster, &former, &["status"])?;
        ensure(!status.contains(&name), || format!("it is still listed: {status}"))?;
        let history = cluster.history(&former)?;
        let told = |words: &str| history.iter().any(|e| e.reason.contains(&name) && e.reason.contains(words));
        ensure(told("restored on an operator's order"), || format!("{history:#?}"))?;
        ensure(told("deleted on an operator's order"), || format!("{history:#?}"))
    });
}
