//! What an agent keeps resident, all of which is locked where the system permits it.

use anyhow::{Context, Result};
use holdfast_agent::lab::cluster::Cluster;
use holdfast_agent::lab::settings::ClusterSpec;
use holdfast_integration::promise;
use holdfast_integration::stage::{LIMIT, ensure};

/// Of its own, without the program: several times what it is, and far less than what an allocator takes ahead.
const MOST_KIB: u64 = 128 << 10;

/// Resident memory of the agent on `host` that is not the program's own file, KiB.
fn resident(cluster: &Cluster, host: &str) -> Result<u64> {
    let pid = cluster.status(host)?.pid;
    let said = cluster.world().machine(host)?.execute(&["cat", &format!("/proc/{pid}/status")], LIMIT)?;
    let line = said.stdout.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kib.with_context(|| format!("no RssAnon of {pid} on {host}: {}", said.stdout))
}

#[test]
fn an_agent_locks_no_memory_that_it_does_not_use() {
    promise(ClusterSpec::default(), |cluster| {
        cluster.wait_in_sync(LIMIT)?;
        for host in cluster.spec().members() {
            let kib = resident(cluster, host)?;
            println!("{host}: {kib} KiB");
            ensure(kib < MOST_KIB, || format!("the agent of {host} keeps {} MiB resident", kib >> 10))?;
        }
        Ok(())
    });
}
