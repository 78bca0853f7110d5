//! What is wrong with a host besides its power and its cables: a check that fails, a disk that stalls.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use holdfast_agent::lab::agent_api;
use holdfast_agent::lab::cluster::Cluster;
use holdfast_agent::lab::ledger::{Load, LoadSpec};
use holdfast_agent::lab::settings::ClusterSpec;
use holdfast_agent::lab::twins::Twins;
use holdfast_agent::lab::world::Machine;
use holdfast_integration::measure::{all_there, no_twins};
use holdfast_integration::promise;
use holdfast_integration::stage::{LIMIT, ensure};

/// A check that passes while a file is there, told by a real program.
fn check_for(mark: &Path) -> String {
    format!(
        "check \"mark\" {{\n  exec     = [\"/usr/bin/stat\", \"{}\"]\n  interval = \"200ms\"\n  fall     = 2\n}}",
        mark.display()
    )
}

/// The reasons of the history of a host, the newest last.
fn reasons(cluster: &Cluster, host: &str) -> Result<String> {
    let history: serde_json::Value = agent_api::get(&cluster.netns(host)?, "/api/ha/history")?;
    Ok(history.to_string())
}

fn wait_for_primary(cluster: &Cluster, host: &str, limit: Duration) -> Result<()> {
    let there = |s: &agent_api::Status| s.node == host && s.is_primary() && s.vips.iter().all(|vip| vip.held);
    cluster.wait_until(&format!("{host} as primary"), limit, |all| all.iter().any(there)).map(drop)
}

#[test]
fn a_check_that_fails_moves_the_role_to_a_healthy_member_under_load() {
    let marks = tempfile::tempdir().expect("a temporary directory");
    let mut spec = ClusterSpec::default();
    for host in ["a", "b"] {
        let mark = marks.path().join(host);
        std::fs::write(&mark, "").expect("a mark");
        spec.extra.insert(host.to_owned(), check_for(&mark));
    }
    promise(spec, |cluster| {
        let client = cluster.client()?;
        let target = cluster.target("health");
        ensure(cluster.wait_in_sync(LIMIT)? == "a", || "a is preferred".into())?;
        target.create_bucket(&client, LIMIT)?;
        let twins = Twins::watch(cluster)?;
        let load = Load::start(&client, &target, LoadSpec::default());
        load.wait_for_more(50, LIMIT)?;
        std::fs::remove_file(marks.path().join("a"))?;
        wait_for_primary(cluster, "b", LIMIT)?;
        load.wait_for_more(50, LIMIT)?;
        let told = reasons(cluster, "a")?;
        ensure(told.contains("checks_failed"), || format!("the history of a does not say why: {told}"))?;
        ensure(told.contains("check \\\"mark\\\" fails on a") && told.contains("cannot stat"), || {
            format!("the history of a does not name the check and what it said: {told}")
        })?;
        let status: serde_json::Value = agent_api::get(&cluster.netns("a")?, "/api/ha/status")?;
        let check = &status["checks"][0];
        ensure(check["state"] == "failing" && check["name"] == "mark", || format!("status: {status}"))?;
        // The one that has the role now fails as well: nobody is healthier, and it stays.
        std::fs::remove_file(marks.path().join("b"))?;
        cluster.wait_until("b says that its check fails", LIMIT, |all| {
            all.iter().any(|s| s.node == "b" && s.warnings.iter().any(|w| w.contains("\"mark\" fails")))
        })?;
        // Well again, a has it back as soon as the reign of b is old enough.
        std::fs::write(marks.path().join("a"), "")?;
        wait_for_primary(cluster, "a", LIMIT)?;
        load.wait_for_more(50, LIMIT)?;
        let (ledger, evidence) = (load.stop()?, twins.stop()?);
        all_there(cluster, &target, &ledger)?;
        no_twins(cluster, &evidence)
    });
}

/// A file system of its own for the store of a host, which can be frozen: to whoever writes it is a disk that does
/// not answer. Thawed when it goes out of scope, or the host could never be switched off.
struct Disk<'c> {
    machine: &'c Machine,
    mount: String,
}

impl<'c> Disk<'c> {
    /// Mounts it; `None` where the system has no loop devices for us.
    fn new(machine: &'c Machine) -> Result<Option<Disk<'c>>> {
        let image = machine.dir().join("disk.img");
        std::fs::File::create(&image)?.set_len(256 << 20)?;
        let mount = machine.dir().join("store");
        std::fs::create_dir_all(&mount)?;
        let (image, mount) = (image.display().to_string(), mount.display().to_string());
        let steps: [&[&str]; 2] =
            [&["mkfs.ext4", "-q", "-F", &image], &["mount", "-o", "loop", &image, &mount]];
        for argv in steps {
            let done = machine.execute(argv, LIMIT)?;
            if done.status != 0 {
                println!("skipped: {}: {}", argv.join(" "), done.stderr.trim());
                return Ok(None);
            }
        }
        Ok(Some(Disk { machine, mount }))
    }

    fn freeze(&self) -> Result<()> {
        let done = self.machine.execute(&["fsfreeze", "-f", &self.mount], LIMIT)?;
        ensure(done.status == 0, || format!("fsfreeze: {}", done.stderr))
    }

    fn thaw(&self) -> Result<()> {
        self.machine.execute(&["fsfreeze", "-u", &self.mount], LIMIT).map(drop)
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = self.thaw();
    }
}

#[test]
fn a_data_disk_that_stalls_gives_the_role_away_and_loses_nothing() {
    let spec = ClusterSpec { idle: vec!["a".to_owned()], ..ClusterSpec::default() };
    promise(spec, |cluster| {
        let machine = cluster.world().machine("a")?;
        let Some(disk) = Disk::new(machine)? else { return Ok(()) };
        cluster.start_agent("a")?;
        let client = cluster.client()?;
        let target = cluster.target("stall");
        ensure(cluster.wait_in_sync(LIMIT)? == "a", || "a is preferred".into())?;
        target.create_bucket(&client, LIMIT)?;
        let twins = Twins::watch(cluster)?;
        let load = Load::start(&client, &target, LoadSpec::default());
        load.wait_for_more(50, LIMIT)?;
        let begun = Instant::now();
        disk.freeze().context("freeze the disk of a")?;
        wait_for_primary(cluster, "b", LIMIT)?;
        println!("b is primary {} ms after the disk of a stalled", begun.elapsed().as_millis());
        load.wait_for_more(50, LIMIT)?;
        let told = reasons(cluster, "a")?;
        ensure(told.contains("disk_stalled") && told.contains("store.disk_timeout"), || {
            format!("the history of a does not say why: {told}")
        })?;
        disk.thaw()?;
        // It catches up and counts again, by itself.
        ensure(cluster.wait_in_sync(LIMIT)? == "b", || "the role stays where it is".into())?;
        let (ledger, evidence) = (load.stop()?, twins.stop()?);
        all_there(cluster, &target, &ledger)?;
        no_twins(cluster, &evidence)
    });
}
