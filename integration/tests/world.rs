//! The lab itself: its hosts, cables and bystanders do what the other tests take for granted.

use std::fs;
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use holdfast_agent::lab::cluster::Cluster;
use holdfast_agent::lab::settings::{ClusterSpec, LAN, VIP, lan_address};
use holdfast_agent::lab::twins::Twins;
use holdfast_agent::lab::world::Plug;
use holdfast_integration::promise;
use holdfast_integration::stage::{LIMIT, ensure, holdfast_binary};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Hosts without agents.
fn bare() -> ClusterSpec {
    let spec = ClusterSpec::default();
    ClusterSpec { idle: spec.members().iter().map(|&m| m.to_owned()).collect(), ..spec }
}

/// Whether a datagram from `from` reaches `to`. Repeats, as a cable that was just plugged in takes a moment.
fn reaches(cluster: &Cluster, from: &str, to: &str, patience: Duration) -> Result<bool> {
    let receiver = cluster.netns(to)?.run(|| UdpSocket::bind("0.0.0.0:0"))??;
    receiver.set_read_timeout(Some(Duration::from_millis(100)))?;
    let address = (lan_address(to), receiver.local_addr()?.port());
    let sender = cluster.netns(from)?.run(|| UdpSocket::bind("0.0.0.0:0"))??;
    let end = Instant::now() + patience;
    loop {
        // A sender without a carrier is told so; that is as good as a loss.
        let _ = sender.send_to(b"?", address);
        if receiver.recv(&mut [0; 8]).is_ok() {
            return Ok(true);
        }
        if Instant::now() > end {
            return Ok(false);
        }
    }
}

const SOON: Duration = Duration::from_millis(300);

#[test]
fn a_host_without_power_is_gone_but_for_its_disk() {
    promise(bare(), |cluster| {
        let machine = cluster.world().machine("a")?;
        let init = machine.init_pid()?;
        machine.start_process(&["sleep".to_owned(), "1000".to_owned()], &[], "sleep.log")?;
        fs::write(machine.dir().join("kept"), "kept")?;
        ensure(reaches(cluster, "b", "a", LIMIT)?, || "b does not reach a at first".to_owned())?;
        machine.power_off()?;
        ensure(!fs::exists(format!("/proc/{init}"))?, || "its first process lives".to_owned())?;
        ensure(machine.netns().is_err(), || "its network lives".to_owned())?;
        machine.boot()?;
        ensure(fs::read_to_string(machine.dir().join("kept"))? == "kept", || "its disk is gone".to_owned())?;
        ensure(reaches(cluster, "b", "a", LIMIT)?, || "b does not reach a again".to_owned())
    });
}

#[test]
fn a_pulled_cable_takes_the_carrier_and_a_deaf_port_does_not() {
    promise(bare(), |cluster| {
        let machine = cluster.world().machine("a")?;
        let carrier = || -> Result<String> {
            let output = machine.execute(&["cat", "/sys/class/net/eth0/carrier"], LIMIT)?;
            Ok(output.stdout.trim().to_owned())
        };
        for (plug, expected) in [(Plug::Pulled, "0"), (Plug::Deaf, "1"), (Plug::Island, "1")] {
            machine.plug(None, plug)?;
            ensure(!reaches(cluster, "b", "a", SOON)?, || format!("b reaches a while {plug:?}"))?;
            ensure(carrier()? == expected, || format!("{plug:?} does not leave the carrier {expected}"))?;
            machine.plug(None, Plug::In)?;
            ensure(reaches(cluster, "b", "a", LIMIT)?, || format!("b does not reach a after {plug:?}"))?;
        }
        Ok(())
    });
}

#[test]
fn a_one_way_loss_is_one_way() {
    promise(bare(), |cluster| {
        cluster.world().deafen("a", "b")?;
        ensure(!reaches(cluster, "a", "b", SOON)?, || "a reaches b".to_owned())?;
        ensure(reaches(cluster, "b", "a", LIMIT)?, || "b does not reach a".to_owned())?;
        ensure(reaches(cluster, "a", "w", LIMIT)?, || "a does not reach w".to_owned())?;
        cluster.world().mend()?;
        ensure(reaches(cluster, "a", "b", LIMIT)?, || "a does not reach b again".to_owned())
    });
}

#[test]
fn islanders_reach_each_other_and_nobody_else() {
    promise(bare(), |cluster| {
        cluster.world().partition(&["a", "w"])?;
        ensure(reaches(cluster, "a", "w", LIMIT)?, || "the islanders are apart".to_owned())?;
        ensure(!reaches(cluster, "a", "b", SOON)?, || "the island is none".to_owned())?;
        ensure(reaches(cluster, "b", "c", LIMIT)?, || "the mainland is apart".to_owned())?;
        cluster.world().mend()?;
        ensure(reaches(cluster, "a", "b", LIMIT)?, || "the island stays one".to_owned())
    });
}

#[test]
fn two_hosts_that_claim_one_address_are_seen() {
    let mut spec = bare();
    let mut hosts = spec.host_specs();
    for host in hosts.iter_mut().filter(|h| h.name == "a" || h.name == "b") {
        host.links[0].addresses.push(format!("{VIP}/32").parse().expect("an address"));
    }
    spec.hosts = Some(hosts);
    promise(spec, |cluster| {
        let twins = Twins::watch(cluster)?;
        thread::sleep(Duration::from_millis(500));
        let found = twins.stop()?.twin_claims(cluster.spec().lease());
        ensure(!found.is_empty(), || "two hosts answered and nobody noticed".to_owned())
    });
}

#[test]
fn a_hosts_mounts_and_state_directory_are_its_own() {
    promise(bare(), |cluster| {
        let existed = fs::exists("/var/lib/holdfast/.lab")?;
        for host in ["a", "b"] {
            let machine = cluster.world().machine(host)?;
            machine.mount_var_lib()?;
            let mark = format!("echo {host} > /var/lib/holdfast/who");
            machine.execute(&["sh", "-c", &mark], LIMIT)?;
        }
        for host in ["a", "b"] {
            let machine = cluster.world().machine(host)?;
            let who = machine.execute(&["cat", "/var/lib/holdfast/who"], LIMIT)?.stdout;
            ensure(who.trim() == host, || format!("{host} reads {who:?}"))?;
        }
        ensure(fs::exists("/var/lib/holdfast/.lab")? == existed, || {
            "the machine's own was touched".to_owned()
        })
    });
}

/// The processes that have `mark` in their environment.
fn marked(mark: &str) -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let has_mark = |pid: &i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        String::from_utf8_lossy(&environment).contains(mark)
    };
    pids.filter(has_mark).collect()
}

#[test]
fn everything_ends_with_the_lab_even_by_sigkill() {
    promise(bare(), |_| {
        let dir = tempfile::tempdir()?;
        let mark = format!("HOLDFAST_LAB_DIR={}", dir.path().join("lab").display());
        let mut lab = Command::new(holdfast_binary()?)
            .args(["lab", "up"])
            .env("HOLDFAST_LAB_DIR", dir.path().join("lab"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start the lab")?;
        let wait = |what: &str, done: &dyn Fn(usize) -> bool| -> Result<()> {
            let end = Instant::now() + LIMIT;
            while !done(marked(&mark).len()) {
                ensure(Instant::now() < end, || format!("{what}: {} processes", marked(&mark).len()))?;
                thread::sleep(Duration::from_millis(20));
            }
            Ok(())
        };
        // The lab, and two processes for each of its four hosts, and the agents.
        let up = wait("the hosts to start", &|count| count >= 9);
        kill(Pid::from_raw(i32::try_from(lab.id())?), Signal::SIGKILL)?;
        lab.wait()?;
        up?;
        wait("the hosts to end", &|count| count == 0)
    });
}

#[test]
fn a_tap_sees_what_is_on_its_network() {
    promise(bare(), |cluster| {
        let tap = cluster.world().tap(LAN, "10.77.0.230/24".parse()?)?;
        let receiver = cluster.netns("a")?.run(|| UdpSocket::bind("0.0.0.0:0"))??;
        receiver.set_read_timeout(Some(LIMIT))?;
        let address = (lan_address("a"), receiver.local_addr()?.port());
        tap.netns.run(|| UdpSocket::bind("0.0.0.0:0").and_then(|s| s.send_to(b"hello", address)))??;
        let (length, from) = receiver.recv_from(&mut [0; 8])?;
        ensure(length == 5 && from.ip().to_string() == "10.77.0.230", || format!("{from} sent {length}"))
    });
}
