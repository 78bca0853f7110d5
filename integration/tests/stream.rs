//! The stream of the log between real agents: what goes over it, and that nothing is lost on the way.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use holdfast_agent::lab::agent_api;
use holdfast_agent::lab::cluster::{Cluster, Fault};
use holdfast_agent::lab::ledger::{Load, LoadSpec, Patience, Target, read_back};
use holdfast_agent::lab::settings::ClusterSpec;
use holdfast_agent::lab::world::NetNs;
use holdfast_agent::runtime::log_thread::wall_ms;
use holdfast_integration::measure::{all_there, metric};
use holdfast_integration::promise;
use holdfast_integration::stage::{LIMIT, ensure};
use object_store::ObjectStoreExt;

const MIB: usize = 1 << 20;

/// What a member sent to the others so far: bytes of frames, and of them on the wire.
fn sent(cluster: &Cluster, host: &str) -> Result<(f64, f64)> {
    let bytes = |name| Ok::<_, anyhow::Error>(metric(cluster, host, name)? as f64);
    Ok((bytes("holdfast_stream_sent_bytes_total")?, bytes("holdfast_stream_wire_bytes_total")?))
}

/// Writes objects of text, `mib` in all.
fn text(client: &NetNs, target: &Target, mib: usize) -> Result<()> {
    let line = b"192.0.2.7 - - [21/Nov/2026:03:14:15 +0000] \"GET /photos/cat.jpg HTTP/1.1\" 200 31415\n";
    let content: Bytes = line.iter().copied().cycle().take(MIB).collect::<Vec<u8>>().into();
    client.block_on(|| async {
        let s3 = target.client(Patience::ORDINARY)?;
        for n in 0..mib {
            s3.put(&format!("text-{n}").into(), content.clone().into()).await?;
        }
        anyhow::Ok(())
    })?
}

/// The share of what `host` sends while text is written that goes over the wire.
fn share(cluster: &Cluster, host: &str, client: &NetNs, target: &Target) -> Result<f64> {
    let before = sent(cluster, host)?;
    text(client, target, 16)?;
    let after = sent(cluster, host)?;
    let (frames, wire) = (after.0 - before.0, after.1 - before.1);
    ensure(frames > 16.0 * MIB as f64, || format!("only {frames} bytes were sent"))?;
    println!("{host}: {frames} bytes of frames, {wire} on the wire");
    Ok(wire / frames)
}

#[test]
fn one_member_compresses_and_the_other_need_not() {
    let extra = [("a".to_owned(), "compression = true".to_owned())];
    let spec = ClusterSpec { extra_replication: extra.into(), ..ClusterSpec::default() };
    promise(spec, |cluster| {
        let (client, target) = (cluster.client()?, cluster.target("stream"));
        let primary = cluster.wait_in_sync(LIMIT)?;
        ensure(primary == "a", || format!("{primary} is primary, which does not compress"))?;
        target.create_bucket(&client, LIMIT)?;
        let compressed = share(cluster, "a", &client, &target)?;
        ensure(compressed < 0.2, || format!("{compressed} of it went over the wire"))?;
        // What cannot be made smaller is not made larger either.
        let load = Load::start(&client, &target, LoadSpec { writers: 2, ..LoadSpec::default() });
        load.wait_for_more(100, LIMIT)?;
        cluster.switch_over(LIMIT)?;
        let plain = share(cluster, "b", &client, &target)?;
        ensure((1.0..1.1).contains(&plain), || format!("{plain} of it went over the wire"))?;
        let ledger = load.stop()?;
        all_there(cluster, &target, &ledger)
    });
}

/// What `holdfast replication status` says on a host, as JSON.
fn log_status(cluster: &Cluster, host: &str) -> Result<serde_json::Value> {
    agent_api::get(&cluster.netns(host)?, "/api/replication/status")
}

#[test]
fn under_local_acknowledgement_the_exposure_is_shown_a_switchover_loses_nothing_and_a_loss_is_kept() {
    // Held back for longer than anything here takes.
    let local = "ack = \"local\"\n  sync_interval = 300\n  batch_size = 1000000".to_owned();
    let extra = [("a".to_owned(), local.clone()), ("b".to_owned(), local)];
    let spec = ClusterSpec { extra_replication: extra.into(), ..ClusterSpec::default() };
    promise(spec, |cluster| {
        let (client, target) = (cluster.client()?, cluster.target("local"));
        let exposed = |host: &str| -> Result<u64> {
            let status = log_status(cluster, host)?;
            status["exposure"]["bytes"].as_u64().with_context(|| format!("no exposure: {status}"))
        };
        let write = |seed: u64| {
            let load = Load::start(&client, &target, LoadSpec { writers: 2, seed, ..LoadSpec::default() });
            load.wait_for_more(100, LIMIT)?;
            load.stop()
        };
        let primary = cluster.wait_in_sync(LIMIT)?;
        target.create_bucket(&client, LIMIT)?;
        let kept = write(1)?;
        let written = kept.acknowledged.len() as u64 * 4096;
        let bytes = exposed(&primary)?;
        ensure(bytes > written, || format!("{bytes} bytes are exposed of {written}"))?;
        ensure(metric(cluster, &primary, "holdfast_replication_exposure_bytes")? == bytes, || {
            "the metrics say something else".to_owned()
        })?;

        let second = cluster.switch_over(LIMIT)?;
        ensure(second != primary, || format!("{primary} did not hand over"))?;
        all_there(cluster, &target, &kept)?;

        // What is exposed is lost with the primary, and comes back with it as an archive.
        cluster.wait_in_sync(LIMIT)?;
        let gone = write(2)?;
        ensure(exposed(&second)? > 0, || "nothing is exposed".to_owned())?;
        cluster.inflict(&second, Fault::PowerOff)?;
        let third = cluster.wait_for_primary(LIMIT)?;
        ensure(third == primary, || format!("{third} took over from {second}"))?;
        all_there(cluster, &target, &kept)?;
        let verdict = read_back(&client, &target, &gone, LIMIT)?;
        let all_lost = verdict.lost.len() == gone.acknowledged.len() && verdict.corrupt.is_empty();
        ensure(all_lost, || format!("it was to be lost as a whole: {verdict}"))?;
        cluster.inflict(&second, Fault::Heal)?;
        cluster.wait_in_sync(LIMIT)?;
        let status = log_status(cluster, &second)?;
        let reason = status["set_aside"][0]["reason"].as_str().unwrap_or_default();
        ensure(reason.contains("acknowledged writes are among these bytes"), || format!("{status}"))
    });
}

#[test]
fn the_members_show_that_they_have_the_same_bytes() {
    let spec = ClusterSpec { segment_size: Some("4MB".to_owned()), ..ClusterSpec::default() };
    promise(spec, |cluster| {
        let (client, target) = (cluster.client()?, cluster.target("same"));
        let primary = cluster.wait_in_sync(LIMIT)?;
        target.create_bucket(&client, LIMIT)?;
        text(&client, &target, 24)?;
        let standby = cluster.other_than(&primary);
        let read_through = |host: &str, done: &dyn Fn() -> Result<bool>| {
            cluster.post(host, "/api/store/scrub/start", Some(serde_json::json!({})))?;
            let end = Instant::now() + LIMIT;
            while !done()? {
                let late = || format!("{host}: {:?}", log_status(cluster, host));
                ensure(Instant::now() < end, late)?;
                std::thread::sleep(Duration::from_millis(20));
            }
            anyhow::Ok(())
        };
        let began = wall_ms();
        let since =
            |value: &serde_json::Value| value["last_complete_ms"].as_u64().is_some_and(|at| at >= began);
        let found = || Ok(log_status(cluster, &primary)?["sameness"]["peers"][standby].clone());
        read_through(&primary, &|| found().map(|found| since(&found)))?;
        let found = found()?;
        let bytes = found["same_bytes"].as_u64().unwrap_or_default();
        ensure(bytes > 24 * MIB as u64, || format!("only {bytes} bytes were compared"))?;
        ensure(found["differing"].as_array().is_some_and(Vec::is_empty), || found.to_string())?;
        // Whoever follows has nobody to compare with.
        let scrub = || agent_api::get(&cluster.netns(standby)?, "/api/store/scrub");
        read_through(standby, &|| scrub().map(|scrub| since(&scrub)))?;
        let peers = log_status(cluster, standby)?["sameness"]["peers"].clone();
        ensure(peers.as_object().is_some_and(serde_json::Map::is_empty), || peers.to_string())
    });
}
