//! A disk that lies: what was flipped is noticed, set aside, and brought back from the primary.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use holdfast_agent::lab::agent_api;
use holdfast_agent::lab::cluster::{Cluster, Fault};
use holdfast_agent::lab::ledger::{Load, LoadSpec, Patience};
use holdfast_agent::lab::settings::ClusterSpec;
use holdfast_agent::runtime::scrub::ScrubStatus;
use holdfast_integration::measure::{all_there, no_twins};
use holdfast_integration::promise;
use holdfast_integration::stage::{LIMIT, ensure};
use object_store::ObjectStoreExt;

/// The segment files of a host's log, in order.
fn segments(cluster: &Cluster, host: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut dirs = vec![cluster.dir().join(host)];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() && path.file_name().is_none_or(|name| name != "set-aside") {
                dirs.push(path);
            } else if path.parent().is_some_and(|dir| dir.ends_with("log")) && path.extension().is_some() {
                found.push(path);
            }
        }
    }
    found.retain(|path| fs::metadata(path).is_ok_and(|file| file.len() > 4096));
    found.sort();
    Ok(found)
}

#[test]
fn a_flipped_bit_in_the_log_is_noticed_and_the_member_comes_back_whole() {
    promise(ClusterSpec::default(), |cluster| {
        let client = cluster.client()?;
        let target = cluster.target("flips");
        let primary = cluster.wait_in_sync(LIMIT)?;
        let standby = cluster.other_than(&primary);
        target.create_bucket(&client, LIMIT)?;
        let load = Load::start(&client, &target, LoadSpec::default());
        load.wait_for_more(300, LIMIT)?;
        cluster.inflict(standby, Fault::PowerOff)?;
        cluster.wait_until("the primary to go on alone", LIMIT, |all| {
            all.iter().any(|status| status.is_primary() && status.in_sync.len() == 1)
        })?;

        let files = segments(cluster, standby)?;
        let file = files.first().with_context(|| format!("{standby} has no segment in {files:?}"))?;
        let mut bytes = fs::read(file)?;
        // Halfway: long acknowledged, with whole records after it.
        let at = bytes.len() / 2;
        bytes[at] ^= 0x10;
        fs::write(file, &bytes)?;

        load.wait_for_more(100, LIMIT)?;
        cluster.inflict(standby, Fault::Heal)?;
        cluster.wait_in_sync(LIMIT)?;
        let history = cluster.history(standby)?;
        ensure(history.iter().any(|entry| entry.reason.contains("its log is damaged")), || {
            format!("{standby} does not say that its log was damaged: {history:#?}")
        })?;
        load.wait_for_more(50, LIMIT)?;
        let ledger = load.stop()?;

        // The healed copy has to stand alone.
        cluster.inflict(&primary, Fault::PowerOff)?;
        cluster.wait_for_primary(LIMIT)?;
        all_there(cluster, &target, &ledger)
    });
}

#[test]
fn a_write_torn_by_power_loss_is_cut_and_costs_nothing_acknowledged() {
    promise(ClusterSpec::default(), |cluster| {
        let client = cluster.client()?;
        let target = cluster.target("torn");
        let primary = cluster.wait_in_sync(LIMIT)?;
        let standby = cluster.other_than(&primary);
        target.create_bucket(&client, LIMIT)?;
        let load = Load::start(&client, &target, LoadSpec::default());
        load.wait_for_more(100, LIMIT)?;
        cluster.inflict(standby, Fault::PowerOff)?;
        cluster.wait_until("the primary to go on alone", LIMIT, |all| {
            all.iter().any(|status| status.is_primary() && status.in_sync.len() == 1)
        })?;
        // A record of which only the beginning reached the disk: copied from the file's own first one.
        let files = segments(cluster, standby)?;
        let file = files.last().with_context(|| format!("{standby} has no segment"))?;
        let mut bytes = fs::read(file)?;
        let torn = bytes[64..64 + 37].to_vec();
        bytes.extend(torn);
        fs::write(file, &bytes)?;
        cluster.inflict(standby, Fault::Heal)?;
        cluster.wait_in_sync(LIMIT)?;
        let history = cluster.history(standby)?;
        ensure(!history.iter().any(|entry| entry.reason.contains("damaged")), || {
            format!("a torn tail was taken for damage: {history:#?}")
        })?;
        let ledger = load.stop()?;
        cluster.inflict(&primary, Fault::PowerOff)?;
        all_there(cluster, &target, &ledger)
    });
}

#[test]
fn a_primary_cut_off_with_unacknowledged_writes_sets_them_aside_when_it_returns() {
    promise(ClusterSpec::default(), |cluster| {
        let client = cluster.client()?;
        let target = cluster.target("tail");
        let primary = cluster.wait_in_sync(LIMIT)?;
        let standby = cluster.other_than(&primary);
        target.create_bucket(&client, LIMIT)?;
        let twins = holdfast_agent::lab::twins::Twins::watch(cluster)?;
        let load = Load::start(&client, &target, LoadSpec { size: 256 << 10, ..LoadSpec::default() });
        load.wait_for_more(50, LIMIT)?;
        // Everybody hears the primary no more, while its clients still write to it.
        cluster.inflict(&primary, Fault::Cut)?;
        cluster.wait_until("the other to take over", LIMIT, |all| {
            all.iter().any(|status| status.is_primary() && status.node == standby)
        })?;
        load.wait_for_more(50, LIMIT)?;
        cluster.inflict(&primary, Fault::Heal)?;
        cluster.wait_in_sync(LIMIT)?;
        let (ledger, evidence) = (load.stop()?, twins.stop()?);
        all_there(cluster, &target, &ledger)?;
        no_twins(cluster, &evidence)?;
        // The logs are the same again, byte for byte.
        let read = |host: &str| -> Result<Vec<u8>> {
            let mut all = Vec::new();
            for file in segments(cluster, host)? {
                all.extend(fs::read(file)?);
            }
            Ok(all)
        };
        let (a, b) = (read(&primary)?, read(standby)?);
        ensure(a == b, || format!("the logs differ: {} and {} bytes", a.len(), b.len()))
    });
}

/// Turns over a bit in the middle of where `pattern` lies in the log of a running host.
fn flip(cluster: &Cluster, host: &str, pattern: &[u8]) -> Result<()> {
    for path in segments(cluster, host)? {
        let bytes = fs::read(&path)?;
        let finder = bytes.windows(pattern.len()).position(|window| window == pattern);
        let Some(at) = finder else { continue };
        let file = fs::OpenOptions::new().write(true).open(&path)?;
        file.write_all_at(&[bytes[at] ^ 0x10], at as u64)?;
        return Ok(());
    }
    anyhow::bail!("{host} has no such bytes")
}

#[test]
fn what_rots_is_healed_by_reads_and_by_the_scrub_and_clients_notice_nothing() {
    promise(ClusterSpec::default(), |cluster| {
        let client = cluster.client()?;
        let target = cluster.target("rot");
        let primary = cluster.wait_in_sync(LIMIT)?;
        let standby = cluster.other_than(&primary);
        target.create_bucket(&client, LIMIT)?;
        let s3 = target.client(Patience::NONE)?;
        let pattern = b"these bytes will not be what they were";
        let mut content = vec![7; 3 << 20];
        content[1 << 20..][..pattern.len()].copy_from_slice(pattern);
        let content = Bytes::from(content);
        let (put, read) = (content.clone(), content.clone());
        client.block_on(|| async { s3.put(&"object".into(), put.into()).await })??;

        // A read hits it.
        flip(cluster, &primary, pattern)?;
        let got = client.block_on(|| async { s3.get(&"object".into()).await?.bytes().await })??;
        ensure(got == read, || "other bytes came back than were stored".into())?;
        let history = cluster.history(&primary)?;
        ensure(history.iter().any(|entry| entry.reason.contains("was put right from the peer")), || {
            format!("{primary} does not say that it healed anything: {history:#?}")
        })?;

        // Nobody reads on a standby but the scrub; and the primary's would find nothing more.
        flip(cluster, standby, pattern)?;
        for (host, healed) in [(standby, 1), (&*primary, 0)] {
            let status = || agent_api::get::<ScrubStatus>(&cluster.netns(host)?, "/api/store/scrub");
            let before = status()?;
            cluster.post(host, "/api/store/scrub/start", Some(serde_json::json!({})))?;
            let begun = Instant::now();
            let complete = loop {
                let now = status()?;
                if !now.running && now.last_complete_ms > before.last_complete_ms {
                    break now;
                }
                ensure(begun.elapsed() < LIMIT, || format!("{host} is still at it: {now:?}"))?;
                std::thread::sleep(Duration::from_millis(20));
            };
            ensure(complete.healed == healed && complete.unhealed.is_empty(), || format!("{complete:?}"))?;
        }
        // The standby's copy stands alone.
        cluster.inflict(&primary, Fault::PowerOff)?;
        cluster.wait_for_primary(LIMIT)?;
        let s3 = target.client(Patience::ORDINARY)?;
        let got = client.block_on(|| async { s3.get(&"object".into()).await?.bytes().await })??;
        ensure(got == content, || "the standby has other bytes".into())
    });
}
