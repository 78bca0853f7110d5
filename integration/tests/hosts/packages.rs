//! The package in its life on a host: upgraded under load, put back, removed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_agent::lab::agent_api::Status;
use holdfast_agent::lab::settings::WITNESS;
use holdfast_integration::hosts::{DROP_INS, Host, Hosts, Image, NOW, PREVIOUS, promise_on_hosts, unit_of};
use holdfast_integration::stage::LIMIT;

use crate::steps::Story;

#[test]
fn an_upgrade_loses_nothing_and_switches_over_at_most_twice() {
    promise_on_hosts(Image::Bare, |hosts| {
        hosts.set_up(PREVIOUS, "pair-with-witness-{}.hcl", |_, text| text)?;
        let mut story = Story::begin(hosts)?;
        let epoch = hosts.cluster().status("a")?.epoch;
        let gap = story
            .step(
                "an upgrade of all, one after the other, as docs/installation.md has it",
                |primary, standby| {
                    upgraded(hosts, WITNESS, NOW)?;
                    upgraded(hosts, standby, NOW)?;
                    hosts.wait_well()?;
                    hosts.host(primary)?.run("holdfast ha failover")?;
                    hosts.wait_well()?;
                    upgraded(hosts, primary, NOW)
                },
            )?
            .longest_gap();
        let switchovers = hosts.cluster().status("a")?.epoch - epoch;
        ensure!(switchovers <= 2, "one switchover was ordered, and {switchovers} happened");
        ensure!(gap < Duration::from_secs(2), "clients waited {gap:?}");

        story.step(
            "another version on the primary first, which hands over by itself",
            |primary, standby| {
                upgraded(hosts, primary, PREVIOUS)?;
                ensure!(hosts.wait_well()? == standby, "{standby} did not take over");
                Ok(())
            },
        )?;
        story.step("a primary whose standby is off", |primary, standby| {
            alone_goes_on(hosts, primary, standby)
        })?;
        story.step("an agent that dies between unpacking and restart", |primary, _| {
            dies_half_upgraded(hosts, primary)
        })?;
        story.end()
    });
}

/// Installs a version over another one, and sees that the unit was started again with it.
fn upgraded(hosts: &Hosts, name: &str, version: &str) -> Result<()> {
    let before = main_process(hosts.host(name)?, unit_of(name))?;
    let said = hosts.install(name, version)?;
    ensure!(!said.stdout.contains("NOT restarted"), "{name} was not restarted: {said}");
    let after = main_process(hosts.host(name)?, unit_of(name))?;
    ensure!(before != after, "{name} runs the program of before");
    Ok(())
}

fn main_process(host: &Host, unit: &str) -> Result<String> {
    Ok(host.run(&format!("systemctl show --property MainPID --value {unit}"))?.stdout.trim().to_owned())
}

/// A primary that nobody could replace is upgraded on disk alone: it serves on, and the package says what to do.
fn alone_goes_on(hosts: &Hosts, primary: &str, standby: &str) -> Result<()> {
    let host = hosts.host(primary)?;
    let before = main_process(host, "holdfast")?;
    hosts.host(standby)?.cut_power()?;
    let solo = |s: &Status| s.is_primary() && s.solo;
    hosts.cluster().wait_until("the primary alone", LIMIT, |all| all.iter().any(solo))?;
    let said = hosts.install(primary, PREVIOUS)?;
    for part in ["NOT restarted", "no standby is in sync", "systemctl restart holdfast"] {
        ensure!(said.stdout.contains(part), "the package does not say {part:?}: {said}");
    }
    ensure!(main_process(host, "holdfast")? == before, "{primary} was restarted");
    hosts.host(standby)?.boot()?;
    hosts.wait_well()?;
    host.run("holdfast ha may-restart")?;
    host.run("systemctl restart holdfast").map(drop)
}

/// The file of the program is another one, and the supervisor is the old one: it starts the agent that it knows.
fn dies_half_upgraded(hosts: &Hosts, primary: &str) -> Result<()> {
    let host = hosts.host(primary)?;
    let file = hosts.put_package(primary, NOW)?;
    host.run(&format!("dpkg --unpack {file}"))?;
    let supervisor = main_process(host, "holdfast")?;
    let replaced = host.run(&format!("readlink /proc/{supervisor}/exe"))?.stdout;
    ensure!(replaced.contains("(deleted)"), "the program was not replaced: {replaced}");
    let agent = hosts.cluster().agent_pid(primary)?;
    host.run(&format!("kill -9 {agent}"))?;
    hosts.wait_well()?;
    ensure!(main_process(host, "holdfast")? == supervisor, "the supervisor ended");
    ensure!(hosts.cluster().agent_pid(primary)? != agent, "the agent was not killed");
    host.run("dpkg --configure holdfast")?;
    ensure!(main_process(host, "holdfast")? != supervisor, "the new program does not run");
    Ok(())
}

#[test]
fn an_older_version_refuses_what_a_newer_one_wrote_and_changes_nothing() {
    promise_on_hosts(Image::Bare, |hosts| {
        hosts.set_up(NOW, "pair-with-witness-{}.hcl", |_, text| text)?;
        let mut story = Story::begin(hosts)?;
        story.step("a state of a newer format on the standby", |_, standby| {
            let host = hosts.host(standby)?;
            host.run("systemctl stop holdfast")?;
            let good = host.read(STATE)?;
            let newer = good.replacen("\"format\": ", "\"format\": 9", 1);
            ensure!(newer != good, "the state has no format: {good}");
            host.write(STATE, &newer)?;
            refused(host, &format!("{STATE} has format 9"), "install the version that wrote it")?;
            ensure!(host.read(STATE)? == newer, "the state was changed");
            host.write(STATE, &good)?;
            host.run("systemctl start holdfast").map(drop)
        })?;
        story.step("a segment of a newer format on the standby", |_, standby| {
            let host = hosts.host(standby)?;
            host.run("systemctl stop holdfast")?;
            let listed = host
                .run("find /var/lib/holdfast -type f | xargs grep -la ^HOLDFAST | sort | tail -n 1")?
                .stdout;
            let segment = listed.trim();
            let good = host.bytes(segment)?;
            host.write_bytes(segment, &of_next_format(&good)?)?;
            let before = host.run(SUMS)?.stdout;
            refused(host, "written by a newer version of this software", "segment format")?;
            ensure!(host.run(SUMS)?.stdout == before, "the log was changed");
            host.write_bytes(segment, &good)?;
            host.run("systemctl start holdfast").map(drop)
        })?;
        story.end()?;
        purged(hosts)
    });
}

const STATE: &str = "/var/lib/holdfast/member.json";
/// What may not change.
const SUMS: &str = "find /var/lib/holdfast/store -type f -not -path '*/index/*' | sort | xargs sha256sum";

/// The unit does not come up, and the journal says why.
fn refused(host: &Host, why: &str, what_next: &str) -> Result<()> {
    let said = host.try_run("systemctl start holdfast")?;
    ensure!(said.status != 0, "the unit started");
    let journal = host.journal_of("holdfast")?;
    ensure!(
        journal.contains(why) && journal.contains(what_next),
        "the journal does not say {why:?}:\n{journal}"
    );
    println!("{}", journal.lines().find(|line| line.contains(why)).unwrap_or_default());
    host.run("systemctl stop holdfast").map(drop)
}

/// The segment, as a later release might write it: its header has the next version, and is whole.
fn of_next_format(segment: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = segment.to_vec();
    let header = bytes.get_mut(..64).context("a segment with a header")?;
    header[8] += 1;
    let crc = crc32c::crc32c(&header[..60]);
    header[60..].copy_from_slice(&crc.to_le_bytes());
    Ok(bytes)
}

/// Purges the package everywhere and looks what is left: the data, and nothing else.
fn purged(hosts: &Hosts) -> Result<()> {
    for host in hosts.all().iter().rev() {
        host.run(&format!("rm -rf {DROP_INS}"))?;
        let said = host.run("apt-get purge -q -y holdfast")?;
        ensure!(said.stdout.contains("was kept"), "the package does not say what it kept: {said}");
        let left = host.run(
            "find / -xdev \\( -path /proc -o -path /sys -o -path /run -o -path /var/log -o -path /root \\) -prune \
             -o -iname '*holdfast*' -print",
        )?;
        let data = if host.name() == WITNESS { "/var/lib/holdfast-witness\n" } else { "/var/lib/holdfast\n" };
        ensure!(left.stdout == data, "on {}, a purge leaves {}", host.name(), left.stdout);
        ensure!(host.try_run("pgrep -a holdfast")?.status != 0, "a process of holdfast runs on");
    }
    ensure!(hosts.holders()?.is_empty(), "the address is on {:?}", hosts.holders()?);
    Ok(())
}
