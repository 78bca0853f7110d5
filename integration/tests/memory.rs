//! What an agent and its supervisor keep resident, all of which is locked where the system permits it.

use anyhow::{Context, Result};
use holdfast_agent::lab::cluster::Cluster;
use holdfast_agent::lab::settings::ClusterSpec;
use holdfast_integration::promise;
use holdfast_integration::stage::{LIMIT, ensure};

/// Of its own, without the program: several times what it is, and far less than what an allocator takes ahead.
const MOST_KIB: u64 = 128 << 10;

/// Resident memory of a process on `host` that is not the program's own file, KiB.
fn resident(cluster: &Cluster, host: &str, pid: i32) -> Result<u64> {
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
            let status = cluster.status(host)?;
            let supervisor = status.supervisor_pid.context("a supervisor")?;
            for (name, pid) in [("agent", status.pid), ("supervisor", supervisor)] {
                let kib = resident(cluster, host, pid)?;
                println!("{host}, {name}: {kib} KiB");
                ensure(kib < MOST_KIB, || format!("the {name} of {host} keeps {} MiB resident", kib >> 10))?;
            }
        }
        Ok(())
    });
}
