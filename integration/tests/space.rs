//! Space comes back on a running pair, under load and across the death of a primary, and costs nothing that was
//! acknowledged.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use holdfast_agent::lab::agent_api;
use holdfast_agent::lab::cluster::{Cluster, Fault};
use holdfast_agent::lab::ledger::{Load, LoadSpec, Patience, Target};
use holdfast_agent::lab::settings::ClusterSpec;
use holdfast_agent::lab::world::NetNs;
use holdfast_agent::runtime::space::SpaceStatus;
use holdfast_integration::measure::all_there;
use holdfast_integration::promise;
use holdfast_integration::stage::{LIMIT, ensure};
use object_store::ObjectStoreExt;

const MIB: u64 = 1 << 20;

fn space(cluster: &Cluster, host: &str) -> Result<SpaceStatus> {
    agent_api::get(&cluster.netns(host)?, "/api/store/space")
}

/// Bytes of the segment files that a host really has.
fn on_disk(cluster: &Cluster, host: &str) -> Result<u64> {
    fn below(dir: &Path) -> Result<u64> {
        let mut sum = 0;
        for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                sum += below(&path)?;
            } else if path.parent().is_some_and(|dir| dir.ends_with("log")) {
                // A segment may go while they are counted.
                sum += std::fs::metadata(&path).map_or(0, |file| file.len());
            }
        }
        Ok(sum)
    }
    below(&cluster.dir().join(host))
}

/// Asks again and again, as the agents' figures are taken every few seconds.
fn until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !holds()? {
        if begun.elapsed() > LIMIT {
            bail!("waited {LIMIT:?} for {what}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Writes one key over and over, `mib` in all.
fn garbage(client: &NetNs, target: &Target, mib: u64) -> Result<()> {
    client.block_on(|| async {
        let s3 = target.client(Patience::ORDINARY)?;
        for n in 0..mib {
            let content = Bytes::from(vec![n as u8; MIB as usize]);
            s3.put(&"overwritten".into(), content.into()).await?;
        }
        anyhow::Ok(())
    })?
}

#[test]
fn garbage_goes_on_both_members_and_a_new_primary_has_everything() {
    let spec = ClusterSpec { segment_size: Some("1MiB".into()), ..ClusterSpec::default() };
    promise(spec, |cluster| {
        let client = cluster.client()?;
        let target = cluster.target("thin");
        let primary = cluster.wait_in_sync(LIMIT)?;
        let standby = cluster.other_than(&primary);
        target.create_bucket(&client, LIMIT)?;
        let load = Load::start(&client, &target, LoadSpec { writers: 2, ..LoadSpec::default() });
        load.wait_for_more(200, LIMIT)?;
        garbage(&client, &target, 120)?;

        // By itself, and while the load goes on.
        until("the log of both to become small", || {
            Ok(on_disk(cluster, &primary)? < 60 * MIB && on_disk(cluster, standby)? < 60 * MIB)
        })?;
        until("the primary to say so", || Ok(space(cluster, &primary)?.completed > 0))?;
        let after = space(cluster, &primary)?;
        ensure(after.completed > 0 && after.won_bytes > 50 * MIB, || format!("{after:?}"))?;
        load.wait_for_more(50, LIMIT)?;

        // A standby that comes back finds what is there, and one that lost everything gets it.
        cluster.inflict(standby, Fault::PowerOff)?;
        garbage(&client, &target, 40)?;
        cluster.post(&primary, "/api/store/space/reclaim", Some(serde_json::json!({})))?;
        until("space to be won back without the standby", || {
            Ok(space(cluster, &primary)?.completed > after.completed)
        })?;
        cluster.inflict(standby, Fault::Heal)?;
        cluster.wait_in_sync(LIMIT)?;

        // The primary dies in the middle of it.
        garbage(&client, &target, 60)?;
        cluster.post(&primary, "/api/store/space/reclaim", Some(serde_json::json!({})))?;
        let before = space(cluster, &primary)?.completed;
        let begun = |now: SpaceStatus| now.running.is_some() || now.completed > before;
        until("it to begin", || Ok(begun(space(cluster, &primary)?)))?;
        cluster.inflict(&primary, Fault::PowerOff)?;
        let next = cluster.wait_for_primary(LIMIT)?;
        ensure(next == standby, || format!("{next} is primary"))?;
        load.wait_for_more(50, LIMIT)?;
        cluster.post(&next, "/api/store/space/reclaim", Some(serde_json::json!({})))?;
        until("the new primary to have won space back", || Ok(space(cluster, &next)?.completed > 0))?;
        cluster.inflict(&primary, Fault::Heal)?;
        cluster.wait_in_sync(LIMIT)?;
        let ledger = load.stop()?;
        all_there(cluster, &target, &ledger)?;
        cluster.switch_over(Duration::from_secs(30))?;
        all_there(cluster, &target, &ledger)
    });
}
