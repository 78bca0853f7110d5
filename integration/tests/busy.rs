//! A host that is busy is not a host that failed: both processors saturated, the disk stalling for seconds,
//! memory so short that every page which can go has gone.
//!
//! `HOLDFAST_BUSY_SECONDS` says for how long (20 where it is not set; 600 is the figure of the documents).

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use holdfast_agent::lab::cluster::Cluster;
use holdfast_agent::lab::ledger::{Load, LoadSpec, Patience, read_back};
use holdfast_agent::lab::privilege::{Standing, standing};
use holdfast_agent::lab::settings::ClusterSpec;
use holdfast_agent::runtime::status::Status;
use holdfast_integration::pressure::{BusyProcessors, LoopDisk, TightMemory};
use holdfast_integration::stage::{LIMIT, ensure, holdfast_binary, wait_for_turn};

const MIB: u64 = 1 << 20;
/// Agents, supervisors, hosts and this test use some 120 MiB.
const MEMORY: u64 = 256 * MIB;
/// How long the disk stands still at a time: less than a disk may before it is held to have failed.
const FROZEN: Duration = Duration::from_secs(3);
/// How long it works in between.
const THAWED: Duration = Duration::from_secs(2);

#[test]
fn a_busy_host_does_not_fail_over() {
    if standing() != Standing::Root {
        println!("skipped: needs root, for a disk that can be frozen and a memory cgroup");
        return;
    }
    let _turn = wait_for_turn().expect("a lock file in the directory for temporary files");
    let seconds = std::env::var("HOLDFAST_BUSY_SECONDS").map_or(20, |text| text.parse().expect("seconds"));
    if let Err(error) = stays_primary(Duration::from_secs(seconds)) {
        panic!("{error:#}");
    }
}

fn stays_primary(time: Duration) -> Result<()> {
    let dir = tempfile::Builder::new().prefix("holdfast-busy-").tempdir()?;
    let large = dir.path().join("large");
    fs::File::create(&large)?.set_len(2 * MEMORY)?;
    let mut memory = TightMemory::enter(MEMORY)?;
    let here = dir.path().join("hosts");
    fs::create_dir(&here)?;
    let disk = LoopDisk::mount(&dir.path().join("disk"), &here, 512)
        .inspect_err(|error| println!("no loop device on this machine: the disk does not stall ({error:#})"))
        .ok();
    let cluster = Cluster::start(ClusterSpec::default(), &here, &holdfast_binary()?)?;
    let outcome = under_pressure(&cluster, disk.as_ref(), memory.as_mut(), &large, time);
    if outcome.is_err() {
        eprintln!("{}", cluster.log_tails());
    }
    outcome
}

fn under_pressure(
    cluster: &Cluster,
    disk: Option<&LoopDisk>,
    memory: Option<&mut TightMemory>,
    large: &std::path::Path,
    time: Duration,
) -> Result<()> {
    let client = cluster.client()?;
    let target = cluster.target("busy");
    let primary = cluster.wait_in_sync(LIMIT)?;
    target.create_bucket(&client, LIMIT)?;
    let members = cluster.spec().members();
    let changes = || -> Result<Vec<_>> {
        members
            .iter()
            .map(|host| Ok(cluster.history(host)?.into_iter().filter(|e| e.from != e.to).count()))
            .collect()
    };
    let before = changes()?;
    let statuses = || -> Result<Vec<Status>> {
        let status =
            |host: &&str| holdfast_agent::lab::agent_api::get(&cluster.netns(host)?, "/api/ha/status");
        members.iter().map(status).collect()
    };
    let at_first = statuses()?;

    match memory {
        Some(memory) => memory.squeeze(large)?,
        None => println!("no memory cgroup on this machine: memory is not made tight"),
    }
    let processors = BusyProcessors::start();
    let patience = Patience { request: Duration::from_secs(60), ..Patience::ORDINARY };
    let load = Load::start(&client, &target, LoadSpec { writers: 4, patience, ..LoadSpec::default() });
    let stalls = disk.map(|disk| disk.stall_now_and_then(FROZEN, THAWED));
    let began = Instant::now();
    // The pressure is the event that is waited for.
    std::thread::sleep(time);
    let stalled = stalls.as_ref().map(|stalls| stalls.count());
    drop(stalls);
    let at_last = statuses()?;
    drop(processors);
    let ledger = load.stop()?;

    for (first, last) in at_first.iter().zip(&at_last) {
        let counts = first.lateness.buckets.iter().zip(&last.lateness.buckets);
        let late: Vec<String> = counts
            .filter(|((_, before), (_, after))| after > before)
            .map(|((bound, before), (_, after))| match bound {
                Some(us) => format!("{} <= {} ms", after - before, *us as f64 / 1e3),
                None => format!("{} later", after - before),
            })
            .collect();
        println!("{}: {}; late: {}", last.node, last.realtime, late.join(", "));
    }
    println!(
        "{:.0} s, {} stalls of the disk, {} writes acknowledged",
        began.elapsed().as_secs_f64(),
        stalled.unwrap_or(0),
        ledger.acknowledged.len()
    );
    ensure(stalled != Some(0), || "the disk never stalled".to_owned())?;
    ensure(!ledger.acknowledged.is_empty(), || "nothing was written between the stalls".to_owned())?;
    let after = changes()?;
    ensure(after == before, || {
        let history = members.iter().map(|host| (host, cluster.history(host)));
        format!("roles changed: {:#?}", history.collect::<Vec<_>>())
    })?;
    ensure(cluster.wait_in_sync(LIMIT)? == primary, || "another member is primary".to_owned())?;
    let read = read_back(&client, &target, &ledger, LIMIT).context("read everything back")?;
    ensure(read.is_good(), || format!("{read:?}"))
}
