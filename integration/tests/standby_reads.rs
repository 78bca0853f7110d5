//! Reads of a standby: as new as the bound says, and nothing where that is not certain.

use anyhow::Result;
use bytes::Bytes;
use holdfast_agent::lab::cluster::{Cluster, Fault};
use holdfast_agent::lab::ledger::{Patience, Target};
use holdfast_agent::lab::settings::{ClusterSpec, S3_PORT, WITNESS, lan_address};
use holdfast_integration::measure::metric;
use holdfast_integration::promise;
use holdfast_integration::stage::{LIMIT, ensure};
use object_store::ObjectStoreExt;

fn with_store(line: &str) -> ClusterSpec {
    ClusterSpec { extra_store: line.to_owned(), ..ClusterSpec::default() }
}

/// The store by a host's own address.
fn by_host(cluster: &Cluster, host: &str, bucket: &str) -> Target {
    let endpoint = format!("http://{}:{S3_PORT}", lan_address(host));
    Target { endpoint, ..cluster.target(bucket) }
}

/// What a number that is counted up at the primary is at the standby, right after each write.
fn count(cluster: &Cluster, rounds: u64) -> Result<Vec<u64>> {
    let client = cluster.client()?;
    let target = cluster.target("counted");
    let primary = cluster.wait_in_sync(LIMIT)?;
    let there = by_host(cluster, cluster.other_than(&primary), "counted");
    target.create_bucket(&client, LIMIT)?;
    client.block_on(|| async {
        let (here, there) = (target.client(Patience::ORDINARY)?, there.client(Patience::ORDINARY)?);
        let mut seen = Vec::new();
        for n in 1..=rounds {
            here.put(&"number".into(), Bytes::from(n.to_string()).into()).await?;
            let got = there.get(&"number".into()).await?.bytes().await?;
            seen.push(std::str::from_utf8(&got)?.parse()?);
        }
        anyhow::Ok(seen)
    })?
}

const ANSWERED: &str = "holdfast_standby_requests_total{outcome=\"answered\"}";
const HANDED_ON: &str = "holdfast_standby_requests_total{outcome=\"handed_on\"}";

#[test]
fn a_standby_without_staleness_shows_every_write_that_was_acknowledged() {
    promise(with_store("standby_reads = \"bounded\"\n  standby_staleness = 0"), |cluster| {
        let seen = count(cluster, 300)?;
        ensure(seen.iter().copied().eq(1..=300), || format!("{seen:?}"))?;
        let primary = cluster.wait_in_sync(LIMIT)?;
        let standby = cluster.other_than(&primary);
        let answered = metric(cluster, standby, ANSWERED)?;
        // A disk that stands still for seconds may have one handed on.
        ensure(answered >= 250, || format!("the standby answered {answered} of 300 reads itself"))?;

        // What it cannot do itself, the primary does.
        let client = cluster.client()?;
        let there = by_host(cluster, standby, "counted");
        let body = Bytes::from(vec![3; 5 << 20]);
        let put = body.clone();
        let got = client.block_on(|| async {
            let s3 = there.client(Patience::ORDINARY)?;
            s3.put(&"through".into(), put.into()).await?;
            anyhow::Ok(s3.get(&"through".into()).await?.bytes().await?)
        })??;
        ensure(got == body, || "other bytes came back".into())?;
        let handed_on = metric(cluster, standby, HANDED_ON)?;
        ensure(handed_on > 0, || "the write was not handed on".into())?;

        // Without a primary nobody knows what was acknowledged last.
        cluster.inflict(WITNESS, Fault::PowerOff)?;
        cluster.inflict(&primary, Fault::PowerOff)?;
        let refused = client.block_on(|| async {
            let s3 = there.client(Patience::NONE)?;
            anyhow::Ok(s3.get(&"through".into()).await.map(drop))
        })??;
        ensure(refused.is_err(), || "it was answered without a primary".into())
    });
}

#[test]
fn a_standby_within_its_bound_answers_without_asking_each_time_and_moves_forward_only() {
    promise(with_store("standby_reads = \"bounded\"\n  standby_staleness = \"10s\""), |cluster| {
        let seen = count(cluster, 300)?;
        ensure(seen.is_sorted(), || format!("it went backwards: {seen:?}"))
    });
}

#[test]
fn a_standby_that_hands_on_is_as_good_as_the_primary() {
    promise(with_store("standby_reads = \"hand_on\""), |cluster| {
        let seen = count(cluster, 100)?;
        ensure(seen.iter().copied().eq(1..=100), || format!("{seen:?}"))
    });
}
