//! Hooks of real agents: their order and environment at an unplanned and at a planned change of primary, and
//! what becomes of one that hangs.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use holdfast_agent::lab::agent_api::{self, Answer, HistoryEntry};
use holdfast_agent::lab::cluster::{Cluster, Fault};
use holdfast_agent::lab::settings::ClusterSpec;
use holdfast_integration::promise;
use holdfast_integration::stage::{LIMIT, ensure, write_program};

/// A script that all hosts see.
fn script(dir: &Path, name: &str, body: &str) -> String {
    let path = dir.join(name);
    let body = body.replace("$DIR", dir.to_str().unwrap());
    write_program(&path, &format!("#!/bin/sh\n{body}\n")).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The lines that the hooks of `host` wrote.
fn written(dir: &Path, host: &str) -> Vec<String> {
    let text = std::fs::read_to_string(dir.join(host)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Waits until the history of `host` says that `count` hooks were run, and gives their entries.
fn hooks_of(cluster: &Cluster, host: &str, count: usize) -> Result<Vec<HistoryEntry>> {
    let of_hooks = || -> Vec<HistoryEntry> {
        let entries = cluster.history(host).unwrap_or_default();
        entries.into_iter().filter(|entry| entry.cause.starts_with("hook")).collect()
    };
    cluster.wait_until("the hooks", LIMIT, |_| of_hooks().len() >= count)?;
    Ok(of_hooks())
}

#[test]
fn hooks_are_run_in_order_with_the_address_and_history_has_what_they_said() {
    let dir = tempfile::tempdir().unwrap();
    // Whether the address is on the host at that moment is seen by the hook itself.
    let body = "ip -o -4 addr show | grep -q 10.77.0.100 && vip=here || vip=away\n\
        echo $HOLDFAST_EVENT $HOLDFAST_FROM $HOLDFAST_TO $HOLDFAST_CAUSE $HOLDFAST_EPOCH $vip $HOLDFAST_VIPS >> $DIR/$HOLDFAST_NODE\n\
        echo $HOLDFAST_NODE says $HOLDFAST_EVENT";
    let tell = script(dir.path(), "tell", body);
    let mut spec = ClusterSpec::default();
    for host in ["a", "b"] {
        let lines = format!(
            "    pre_failover_script = \"{tell}\"\n    pre_failover_veto = true\n    post_failover_script = [\"{tell}\"]\n    hook \"leave\" {{\n      on = [\"pre_standby\", \"standby\"]\n      exec = [\"{tell}\"]\n    }}"
        );
        spec.extra_ha.insert(host.to_owned(), lines);
    }
    promise(spec, |cluster| {
        cluster.wait_in_sync(LIMIT)?;
        hooks_of(cluster, "a", 2)?;
        let vips = "10.77.0.100/24";
        ensure(
            written(dir.path(), "a")
                == [
                    format!("pre_primary standby primary bootstrap 1 away {vips}"),
                    format!("primary standby primary bootstrap 1 here {vips}"),
                ],
            || format!("{:?}", written(dir.path(), "a")),
        )?;

        cluster.inflict("a", Fault::PowerOff)?;
        let second = cluster.wait_for_primary(LIMIT)?;
        ensure(second == "b", || format!("{second} took over"))?;
        hooks_of(cluster, "b", 2)?;
        let epoch = cluster.status("b")?.epoch;
        ensure(
            written(dir.path(), "b")
                == [
                    format!("pre_primary standby primary primary_silent {epoch} away {vips}"),
                    format!("primary standby primary primary_silent {epoch} here {vips}"),
                ],
            || format!("{:?}", written(dir.path(), "b")),
        )?;

        cluster.inflict("a", Fault::Heal)?;
        cluster.wait_in_sync(LIMIT)?;
        let successor = cluster.switch_over(LIMIT)?;
        ensure(successor == "a", || format!("{successor} took over"))?;
        let entries = hooks_of(cluster, "b", 4)?;
        ensure(
            written(dir.path(), "b")[2..]
                == [
                    format!("pre_standby primary standby operator_order {epoch} here {vips}"),
                    format!("standby primary standby handed_over {epoch} away {vips}"),
                ],
            || format!("{:?}", written(dir.path(), "b")),
        )?;
        let told: Vec<_> = entries.iter().map(|entry| entry.output.as_str()).collect();
        ensure(
            told == ["b says pre_primary", "b says primary", "b says pre_standby", "b says standby"],
            || format!("{entries:?}"),
        )?;
        ensure(entries[2].reason.starts_with("hook leave (pre_standby) ended well after "), || {
            format!("{:?}", entries[2])
        })
    });
}

#[test]
fn a_hook_that_hangs_is_killed_with_its_grandchildren_and_the_takeover_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let body = "setsid sh -c 'trap \"\" TERM; while :; do echo x >> $DIR/alive; sleep 0.05; done' &\n\
        echo about to hang; sleep 1000";
    let hang = script(dir.path(), "hang", body);
    let mut spec = ClusterSpec::default();
    let lines = format!("    pre_failover_script = \"{hang}\"\n    hook_timeout = \"1s\"");
    spec.extra_ha.insert("b".to_owned(), lines);
    promise(spec, |cluster| {
        cluster.wait_in_sync(LIMIT)?;
        cluster.inflict("a", Fault::PowerOff)?;
        let second = cluster.wait_for_primary(LIMIT)?;
        ensure(second == "b", || format!("{second} took over"))?;
        let size = || std::fs::metadata(dir.path().join("alive")).map_or(0, |metadata| metadata.len());
        let before = size();
        ensure(before > 0, || "the grandchild never lived".to_owned())?;
        std::thread::sleep(Duration::from_millis(500));
        ensure(size() == before, || "the grandchild lives".to_owned())?;
        let entries = hooks_of(cluster, "b", 1)?;
        let killed = "hook pre_failover_script (pre_primary) was killed with all that it had started: it took longer than 1 s";
        ensure(entries[0].reason == killed && entries[0].cause == "hook_failed", || format!("{entries:?}"))?;
        ensure(entries[0].output == "about to hang", || format!("{entries:?}"))
    });
}

#[test]
fn a_veto_keeps_the_role_where_it_was_and_no_address_moves() {
    let dir = tempfile::tempdir().unwrap();
    let refuse = script(dir.path(), "refuse", "echo the volume is not mounted; exit 7");
    let mut spec = ClusterSpec::default();
    let lines = format!("    pre_failover_script = \"{refuse}\"\n    pre_failover_veto = true");
    spec.extra_ha.insert("b".to_owned(), lines);
    promise(spec, |cluster| {
        cluster.wait_in_sync(LIMIT)?;
        let order = serde_json::json!({"to": "b"});
        // a has no hooks and knows nothing of those of b: it must not say that b is primary before b does.
        let answer = agent_api::order(&cluster.netns("a")?, "/api/ha/failover", Some(order))?;
        let refused = |answer: &Answer| match answer {
            Answer::Declined { code, text } => {
                code == "handover_failed" && text.contains("a is primary in epoch 3 again")
            }
            Answer::Done(_) => false,
        };
        ensure(refused(&answer), || format!("{answer:?}"))?;
        cluster.wait_until("the veto", LIMIT, |_| {
            let history = cluster.history("b").unwrap_or_default();
            history.iter().any(|entry| entry.cause == "not_prepared")
        })?;
        let primary = cluster.wait_for_primary(LIMIT)?;
        ensure(primary == "a", || format!("{primary} is primary"))?;
        let history = cluster.history("b")?;
        let said =
            history.iter().find(|entry| entry.cause == "hook_failed").map(|entry| entry.output.clone());
        ensure(said.as_deref() == Some("the volume is not mounted"), || format!("{history:?}"))?;
        ensure(!history.iter().any(|entry| entry.to == "primary"), || format!("{history:?}"))
    });
}
