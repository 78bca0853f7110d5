//! Replicated files of real agents: each host has a directory of its own where the configuration names one.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use holdfast_agent::lab::cluster::{Cluster, Fault};
use holdfast_agent::lab::settings::ClusterSpec;
use holdfast_integration::promise;
use holdfast_integration::stage::{LIMIT, ensure, holdfast_binary, write_program};

/// A cluster whose data members replicate `at`, and tell in `dir` of what was run.
fn spec(dir: &Path, at: &Path) -> ClusterSpec {
    let program = dir.join("tell");
    let tell = format!(
        "#!/bin/sh\necho $HOLDFAST_EVENT $HOLDFAST_FILES_SET $HOLDFAST_FILES >> {}/$HOLDFAST_NODE\n",
        dir.display()
    );
    write_program(&program, &tell).unwrap();
    let mut spec = ClusterSpec { own_dirs: vec![at.to_owned()], ..ClusterSpec::default() };
    for host in ["a", "b"] {
        let program = program.display();
        let block = format!(
            "sync_files \"app\" {{\n  paths       = [\"{}\"]\n  exclude     = [\"*.tmp\"]\n  on_change   = \"{program}\"\n  on_takeover = \"{program}\"\n  rescan_interval = \"2s\"\n}}",
            at.display()
        );
        spec.extra.insert(host.to_owned(), block);
        spec.extra_ha.insert(
            host.to_owned(),
            format!("    hook \"tell\" {{\n      on = [\"primary\"]\n      exec = [\"{program}\"]\n    }}"),
        );
    }
    spec
}

/// A file in the host's own directory, as seen from here.
fn on(cluster: &Cluster, host: &str, at: &Path, name: &str) -> Result<PathBuf> {
    Ok(cluster.world().machine(host)?.own_dir(at).join(name))
}

fn has(cluster: &Cluster, host: &str, at: &Path, name: &str, content: &str) -> Result<()> {
    let path = on(cluster, host, at, name)?;
    let there = |_: &[_]| fs::read_to_string(&path).is_ok_and(|found| found == content);
    cluster.wait_until(&format!("{name} on {host}"), LIMIT, there).map(drop)
}

/// The lines that were told on `host`.
fn told(dir: &Path, host: &str) -> Vec<String> {
    fs::read_to_string(dir.join(host)).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn files_of(cluster: &Cluster, host: &str) -> Result<serde_json::Value> {
    let program = holdfast_binary()?;
    let argv = [program.to_str().context("a path in UTF-8")?, "replication", "status", "--json"];
    let output = cluster.world().machine(host)?.execute(&argv, LIMIT)?;
    let status: serde_json::Value =
        serde_json::from_str(&output.stdout).with_context(|| output.stderr.clone())?;
    Ok(status["files"].clone())
}

#[test]
fn files_follow_the_primary_with_owner_and_mode_and_flow_on_from_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().canonicalize().unwrap().join("app");
    fs::create_dir(&at).unwrap();
    let spec = spec(dir.path(), &at);
    let at = &at;
    promise(spec, |cluster| {
        cluster.wait_in_sync(LIMIT)?;
        ensure(cluster.wait_for_primary(LIMIT)? == "a", || "a is not primary".to_owned())?;
        let conf = on(cluster, "a", at, "conf")?;
        fs::write(&conf, "one")?;
        fs::set_permissions(&conf, Permissions::from_mode(0o640))?;
        let (uid, gid) = if nix::unistd::getuid().is_root() { (1234, 2345) } else { (0, 0) };
        // Without root there is no other user in the namespace.
        let owned = chown(&conf, Some(uid), Some(gid)).is_ok();
        fs::create_dir(on(cluster, "a", at, "zones")?)?;
        fs::write(on(cluster, "a", at, "zones/example")?, vec![b'z'; 700_000])?;
        fs::write(on(cluster, "a", at, "left.tmp")?, "left out")?;
        has(cluster, "b", at, "conf", "one")?;
        has(cluster, "b", at, "zones/example", &"z".repeat(700_000))?;
        let there = on(cluster, "b", at, "conf")?;
        cluster.wait_until("owner and mode", LIMIT, |_| {
            fs::metadata(&there).is_ok_and(|found| {
                found.mode() & 0o7777 == 0o640 && (!owned || (found.uid(), found.gid()) == (uid, gid))
            })
        })?;
        ensure(!on(cluster, "b", at, "left.tmp")?.exists(), || "an excluded file was replicated".to_owned())?;
        let changed = format!("files_changed app {}", at.display());
        cluster.wait_until("on_change", LIMIT, |_| {
            told(dir.path(), "b").iter().any(|line| line.starts_with(&changed))
        })?;
        ensure(told(dir.path(), "a")[0] == "takeover app", || format!("{:?}", told(dir.path(), "a")))?;
        cluster.wait_until("the record of it", LIMIT, |_| {
            files_of(cluster, "b")
                .is_ok_and(|files| files["sets"][0]["files"] == 4 && files["sets"][0]["behind"] == 0)
        })?;

        // The primary dies; what is edited on its disk meanwhile is not what counts.
        fs::write(&conf, "two")?;
        has(cluster, "b", at, "conf", "two")?;
        cluster.inflict("a", Fault::PowerOff)?;
        fs::write(&conf, "edited on a host that is off")?;
        ensure(cluster.wait_for_primary(LIMIT)? == "b", || "b is not primary".to_owned())?;
        cluster.wait_until("the hooks", LIMIT, |_| {
            told(dir.path(), "b").iter().any(|line| line.starts_with("primary"))
        })?;
        let lines = told(dir.path(), "b");
        let of = |event: &str| lines.iter().position(|line| line.starts_with(event));
        ensure(of("takeover app").is_some() && of("takeover app") < of("primary"), || format!("{lines:?}"))?;

        fs::write(on(cluster, "b", at, "lease")?, "from b")?;
        fs::remove_file(on(cluster, "b", at, "zones/example")?)?;
        cluster.inflict("a", Fault::Heal)?;
        has(cluster, "a", at, "lease", "from b")?;
        has(cluster, "a", at, "conf", "two")?;
        let gone = on(cluster, "a", at, "zones/example")?;
        cluster.wait_until("the deletion", LIMIT, |_| !gone.exists())?;
        let files = files_of(cluster, "a")?;
        // A host that lost its power may keep more than it need.
        let kept = files["sets"][0]["kept"].as_array().context("a list")?;
        let of_conf =
            kept.iter().find(|kept| kept["path"].as_str().is_some_and(|path| path.ends_with("/conf")));
        let copy =
            of_conf.and_then(|kept| kept["copy"].as_str()).with_context(|| files.to_string())?.to_owned();
        ensure(fs::read_to_string(&copy)? == "edited on a host that is off", || copy.clone())?;

        // What was written right before a switchover is with the next primary when it takes over.
        cluster.wait_in_sync(LIMIT)?;
        fs::write(on(cluster, "b", at, "last")?, "at the last moment")?;
        let successor = cluster.switch_over(LIMIT)?;
        ensure(successor == "a", || format!("{successor} took over"))?;
        let last = on(cluster, "a", at, "last")?;
        ensure(fs::read_to_string(&last).is_ok_and(|found| found == "at the last moment"), || {
            format!("{:?}", fs::read_to_string(&last))
        })?;
        fs::write(on(cluster, "a", at, "lease")?, "from a again")?;
        has(cluster, "b", at, "lease", "from a again")
    });
}

#[test]
fn an_agent_that_is_killed_and_a_link_in_the_way_lose_nothing_and_write_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().canonicalize().unwrap().join("app");
    fs::create_dir(&at).unwrap();
    let spec = spec(dir.path(), &at);
    let at = &at;
    promise(spec, |cluster| {
        cluster.wait_in_sync(LIMIT)?;
        ensure(cluster.wait_for_primary(LIMIT)? == "a", || "a is not primary".to_owned())?;
        // On the standby, a directory of the set is a link that leads elsewhere.
        let outside = cluster.world().machine("b")?.dir().join("outside");
        fs::create_dir(&outside)?;
        std::os::unix::fs::symlink(&outside, on(cluster, "b", at, "sub")?)?;
        fs::create_dir(on(cluster, "a", at, "sub")?)?;
        fs::write(on(cluster, "a", at, "sub/f")?, "one")?;
        fs::write(on(cluster, "a", at, "g")?, "one")?;
        has(cluster, "b", at, "g", "one")?;
        has(cluster, "b", at, "sub/f", "one")?;
        ensure(fs::read_dir(&outside)?.count() == 0, || "something was written through the link".to_owned())?;
        ensure(!fs::symlink_metadata(on(cluster, "b", at, "sub")?)?.is_symlink(), || {
            "the link is there".to_owned()
        })?;

        // Killed and started again: whoever is primary then, the newest content of the primary's disk wins.
        cluster.inflict("a", Fault::Kill)?;
        let primary = cluster.wait_for_primary(LIMIT)?;
        let other = if primary == "a" { "b" } else { "a" };
        cluster.wait_in_sync(LIMIT)?;
        fs::write(on(cluster, &primary, at, "g")?, "after the restart")?;
        has(cluster, other, at, "g", "after the restart")
    });
}
