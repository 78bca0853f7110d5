//! What a real agent recorded of a failover, told again by the program that recorded it.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use holdfast_agent::lab::cluster::{Cluster, Fault};
use holdfast_agent::lab::settings::ClusterSpec;
use holdfast_integration::stage::{LIMIT, ensure, holdfast_binary, promise};

/// The recordings on the disk of `host`, the oldest first.
fn recordings(cluster: &Cluster, host: &str) -> Result<Vec<PathBuf>> {
    let dir = cluster.world().machine(host)?.dir().join("state/flight");
    let mut found = Vec::new();
    if dir.is_dir() {
        for entry in dir.read_dir()? {
            found.push(entry?.path());
        }
    }
    found.retain(|path| path.extension().is_some_and(|extension| extension == "flight"));
    found.sort();
    Ok(found)
}

fn replay(file: &std::path::Path, more: &[&str]) -> Result<(Option<i32>, String)> {
    let output = Command::new(holdfast_binary()?).args(["ha", "replay"]).arg(file).args(more).output()?;
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Ok((output.status.code(), text))
}

#[test]
fn the_standby_that_took_over_can_be_replayed_to_the_same_decisions() {
    promise(ClusterSpec::default(), |cluster| {
        let primary = cluster.wait_in_sync(LIMIT)?;
        let standby = cluster.other_than(&primary);
        ensure(recordings(cluster, standby)?.is_empty(), || "a start is nothing to be recorded".into())?;
        cluster.inflict(&primary, Fault::KillAll)?;
        cluster.wait_until("the standby takes over", LIMIT, |all| {
            all.iter().any(|status| status.node == standby && status.is_primary())
        })?;
        let begun = Instant::now();
        let file = loop {
            if let Some(file) = recordings(cluster, standby)?.pop() {
                break file;
            }
            if begun.elapsed() > LIMIT {
                bail!("{standby} wrote no recording");
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        let (code, text) = replay(&file, &[])?;
        ensure(code == Some(0), || format!("{code:?}\n{text}"))?;
        for part in [
            "Replayed identically",
            "this is the same program",
            "standby -> candidate",
            "promoting -> primary",
            &format!("{primary} is held to be gone"),
            "the virtual address is here",
        ] {
            ensure(text.contains(part), || format!("{part:?} is not in\n{text}"))?;
        }
        // The history has the same changes, in the same words.
        let history = cluster.history(standby)?;
        let changes: Vec<_> = history.iter().filter(|entry| !entry.to.is_empty()).collect();
        ensure(changes.len() >= 3, || format!("{history:?}"))?;
        for change in changes {
            ensure(text.contains(&change.reason), || format!("{:?} is not in\n{text}", change.reason))?;
        }
        ensure(history.iter().any(|entry| entry.reason.contains("holdfast ha replay")), || {
            format!("the history does not say where the recording is: {history:?}")
        })?;

        // The witness had nothing to write down by itself; asked, it tells its part.
        ensure(recordings(cluster, "w")?.is_empty(), || "the witness's role never changes".into())?;
        cluster.post("w", "/api/ha/recording", None)?;
        let file =
            recordings(cluster, "w")?.pop().context("an order is carried out before it is answered")?;
        let (code, text) = replay(&file, &["--json"])?;
        ensure(code == Some(0), || format!("{code:?}\n{text}"))?;
        let told: serde_json::Value = serde_json::from_str(&text)?;
        ensure(told["verdict"] == "identical" && told["recording"]["node"] == "w", || text.clone())
    });
}
