//! Fencing by real agents of hosts that are really switched off: a takeover waits for it, a pair that is cut in two
//! keeps one half, a device that fails is said, and no password shows anywhere.

mod ipmi;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use holdfast_agent::lab::cluster::{Cluster, Fault, write_private};
use holdfast_agent::lab::ledger::{Load, LoadSpec, read_back};
use holdfast_agent::lab::settings::ClusterSpec;
use holdfast_integration::promise;
use holdfast_integration::stage::{LIMIT, ensure, write_program};

/// What a controller wants to hear. It must show nowhere.
const PASSWORD: &str = "hunter2-of-the-controllers";

/// The agent beside this file, which speaks the interface of `fence-agents`.
const AGENT: &str = include_str!("fence_lab");

/// How often the controllers look for an order.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The management controllers of all hosts: a directory, and somebody who does what stands in it.
struct Controllers {
    dir: tempfile::TempDir,
    ended: AtomicBool,
}

impl Controllers {
    fn new() -> Controllers {
        let controllers = Controllers { dir: tempfile::tempdir().unwrap(), ended: AtomicBool::new(false) };
        write_program(&controllers.agent(), AGENT).unwrap();
        std::fs::write(controllers.path("password"), PASSWORD).unwrap();
        write_private(&controllers.path("for-holdfast"), &format!("{PASSWORD}\n")).unwrap();
        controllers
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn agent(&self) -> PathBuf {
        self.path("fence_lab")
    }

    /// A block for the configuration of a member that can switch `target` off. Each run may take `timeout` seconds.
    fn block(&self, target: &str, timeout: u32) -> String {
        format!(
            "fence \"power-{target}\" {{\n  agent = \"{}\"\n  member = \"{target}\"\n  plug = \"{target}\"\n  timeout = {timeout}\n  retries = 0\n  monitor_interval = 5\n  params {{\n    dir = \"{}\"\n    password_file = \"{}\"\n  }}\n}}\n",
            self.agent().display(),
            self.dir.path().display(),
            self.path("for-holdfast").display()
        )
    }

    /// Runs `body` while orders are carried out.
    fn at_work(&self, cluster: &Cluster, body: impl FnOnce() -> Result<()>) -> Result<()> {
        std::thread::scope(|scope| {
            let working = scope.spawn(|| {
                while !self.ended.load(Ordering::Relaxed) {
                    self.carry_out(cluster)?;
                    std::thread::sleep(LOOK_EVERY);
                }
                anyhow::Ok(())
            });
            let outcome = body();
            self.ended.store(true, Ordering::Relaxed);
            working.join().expect("the controllers do not panic")?;
            outcome
        })
    }

    fn carry_out(&self, cluster: &Cluster) -> Result<()> {
        for host in cluster.spec().data() {
            let order = self.path(&format!("order-{host}"));
            let Ok(wanted) = std::fs::read_to_string(&order) else { continue };
            std::fs::remove_file(&order)?;
            if wanted.trim() == "0" {
                cluster.inflict(host, Fault::PowerOff)?;
            }
            std::fs::write(self.path(&format!("power-{host}")), wanted)?;
        }
        Ok(())
    }

    fn is_off(&self, host: &str) -> bool {
        std::fs::read_to_string(self.path(&format!("power-{host}"))).is_ok_and(|power| power.trim() == "0")
    }
}

/// The password stands in no log, no history and no status.
fn nothing_shows_the_password(cluster: &Cluster, hosts: &[&str]) -> Result<()> {
    for host in hosts {
        let machine = cluster.world().machine(host)?;
        for name in ["agent.log", "state/history.jsonl"] {
            let text = std::fs::read_to_string(machine.dir().join(name)).unwrap_or_default();
            ensure(!text.contains(&PASSWORD[..ipmi::LONGEST_PASSWORD]), || {
                format!("{name} of {host} shows the password")
            })?;
        }
    }
    Ok(())
}

fn reasons(cluster: &Cluster, host: &str) -> Vec<String> {
    let entries = cluster.history(host).unwrap_or_default();
    entries.into_iter().map(|entry| format!("{} {}", entry.to, entry.reason)).collect()
}

#[test]
fn a_frozen_primary_is_switched_off_before_another_member_takes_over() {
    let controllers = Controllers::new();
    let mut spec = ClusterSpec::default();
    spec.extra.insert("b".to_owned(), controllers.block("a", 20));
    promise(spec, |cluster| {
        controllers.at_work(cluster, || {
            cluster.wait_in_sync(LIMIT)?;
            let first = cluster.wait_for_primary(LIMIT)?;
            ensure(first == "a", || format!("{first} is primary"))?;
            cluster.inflict("a", Fault::Freeze)?;
            cluster.wait_until("b to take over", LIMIT, |all| {
                all.iter().any(|status| status.node == "b" && status.is_primary())
            })?;
            ensure(controllers.is_off("a"), || "a was not switched off".to_owned())?;
            let told = reasons(cluster, "b");
            let confirmed = told.iter().position(|reason| reason.contains("a is confirmed to be off"));
            let primary = told.iter().position(|reason| reason.starts_with("primary "));
            ensure(confirmed.is_some() && confirmed < primary, || format!("{told:#?}"))?;
            nothing_shows_the_password(cluster, &["b"])?;
            cluster.inflict("a", Fault::Heal)?;
            cluster.wait_in_sync(LIMIT)?;
            Ok(())
        })
    });
}

#[test]
fn a_device_that_fails_is_said_beforehand_and_an_operator_can_vouch_instead() {
    let controllers = Controllers::new();
    let mut spec = ClusterSpec::default();
    spec.extra.insert("b".to_owned(), controllers.block("a", 2));
    std::fs::write(controllers.path("broken"), "").unwrap();
    promise(spec, |cluster| {
        controllers.at_work(cluster, || {
            cluster.wait_in_sync(LIMIT)?;
            // Before it is needed.
            cluster.wait_until("the warning", LIMIT, |all| {
                let of_b = all.iter().filter(|status| status.node == "b");
                of_b.flat_map(|status| &status.warnings)
                    .any(|warning| warning.contains("power-a does not answer"))
            })?;
            cluster.inflict("a", Fault::PowerOff)?;
            cluster.wait_until("the failure", LIMIT, |_| {
                reasons(cluster, "b")
                    .iter()
                    .any(|reason| reason.contains("a could not be confirmed to be off"))
            })?;
            let status = cluster.status("b")?;
            ensure(status.role == "promoting", || format!("b is {}", status.role))?;
            nothing_shows_the_password(cluster, &["b"])?;
            let told = reasons(cluster, "b").join("\n");
            ensure(told.contains("login with the password *** was refused"), || told.clone())?;
            cluster.post("b", "/api/ha/fence-confirmed", Some(serde_json::json!({"member": "a"})))?;
            let second = cluster.wait_for_primary(LIMIT)?;
            ensure(second == "b", || format!("{second} took over"))
        })
    });
}

#[test]
fn a_pair_that_is_cut_in_two_keeps_its_primary_and_every_acknowledged_write() {
    let controllers = Controllers::new();
    let mut spec =
        ClusterSpec { witness: false, two_node: Some("fence".to_owned()), ..ClusterSpec::default() };
    for (member, target) in [("a", "b"), ("b", "a")] {
        spec.extra.insert(member.to_owned(), controllers.block(target, 20));
    }
    promise(spec, |cluster| {
        controllers.at_work(cluster, || {
            let first = cluster.wait_in_sync(LIMIT)?;
            ensure(first == "a", || format!("{first} is primary"))?;
            let (client, target) = (cluster.client()?, cluster.target("fenced"));
            target.create_bucket(&client, LIMIT)?;
            let load = Load::start(&client, &target, LoadSpec::default());
            load.wait_for_more(10, LIMIT)?;
            cluster.inflict("b", Fault::Deaf)?;
            cluster.wait_until("a to go on alone", LIMIT, |all| {
                all.iter().any(|status| status.is_primary() && status.in_sync == ["a"])
            })?;
            ensure(controllers.is_off("b") && !controllers.is_off("a"), || {
                "b was not switched off".to_owned()
            })?;
            load.wait_for_more(10, LIMIT)?;
            cluster.inflict("b", Fault::Heal)?;
            cluster.wait_in_sync(LIMIT)?;
            // And the other way round: now the primary vanishes.
            cluster.inflict("a", Fault::PowerOff)?;
            let second = cluster.wait_for_primary(LIMIT)?;
            ensure(second == "b", || format!("{second} took over"))?;
            load.wait_for_more(10, LIMIT)?;
            let verdict = read_back(&client, &target, &load.stop()?, LIMIT)?;
            ensure(verdict.is_good(), || format!("{verdict:?}"))
        })
    });
}

/// `fence_ipmilan` of Debian's `fence-agents`, and a controller that speaks IPMI.
#[test]
fn the_real_agent_for_ipmi_switches_a_host_off() {
    if !ipmi::is_installed() {
        return;
    }
    let controllers = Controllers::new();
    let controller = ipmi::Controller::of(&controllers, "a", &PASSWORD[..ipmi::LONGEST_PASSWORD]);
    let mut spec = ClusterSpec::default();
    spec.extra.insert("b".to_owned(), controller.block("a"));
    // Its agent looks at the device when it starts.
    spec.idle.push("b".to_owned());
    promise(spec, |cluster| {
        controller.start(cluster.world().machine("b")?)?;
        cluster.start_agent("b")?;
        controllers.at_work(cluster, || {
            cluster.wait_in_sync(LIMIT)?;
            cluster.inflict("a", Fault::Freeze)?;
            cluster.wait_until("b to take over", LIMIT, |all| {
                all.iter().any(|status| status.node == "b" && status.is_primary())
            })?;
            ensure(controllers.is_off("a"), || "a was not switched off".to_owned())?;
            let told = reasons(cluster, "b").join("\n");
            ensure(told.contains("a is confirmed to be off: ipmi-a switched it off"), || told.clone())?;
            nothing_shows_the_password(cluster, &["b"])
        })
    });
}
