//! What happens to hosts in their lives: reboots, power cuts, signals, want of memory, mistakes.

use anyhow::{Result, ensure};
use holdfast_agent::lab::agent_api::Status;
use holdfast_agent::lab::settings::WITNESS;
use holdfast_integration::hosts::{Hosts, Image, NOW, Starved, promise_on_hosts};
use holdfast_integration::stage::LIMIT;

use crate::steps::Story;

#[test]
fn a_pair_lives_through_reboots_power_cuts_and_kills_with_no_person() {
    promise_on_hosts(Image::Bare, |hosts| {
        hosts.set_up(NOW, "pair-with-witness-{}.hcl", |_, text| text)?;
        for host in hosts.all() {
            let said = host.run("holdfast ha status | grep -E '^(gate|real time)'")?.stdout;
            ensure!(said.contains("SCHED_FIFO"), "{} goes behind other programs: {said}", host.name());
            println!("{}: {}", host.name(), said.trim().replace('\n', "; "));
        }
        let mut story = Story::begin(hosts)?;
        story.step("the standby reboots", |_, standby| hosts.host(standby)?.reboot())?;
        story.step("the primary reboots", |primary, _| hosts.host(primary)?.reboot())?;
        story.step("the witness reboots", |_, _| hosts.host(WITNESS)?.reboot())?;
        story.step("the primary is shut down", |primary, standby| {
            hosts.host(primary)?.shut_down()?;
            ensure!(hosts.cluster().wait_for_primary(LIMIT)? == standby, "{standby} did not take over");
            hosts.host(primary)?.boot()
        })?;
        story.step("the primary loses its power", |primary, standby| {
            hosts.host(primary)?.cut_power()?;
            ensure!(hosts.cluster().wait_for_primary(LIMIT)? == standby, "{standby} did not take over");
            hosts.host(primary)?.boot()
        })?;
        story.step("systemctl stop on the primary", |primary, standby| {
            let host = hosts.host(primary)?;
            host.run("systemctl stop holdfast")?;
            ensure!(hosts.cluster().wait_for_primary(LIMIT)? == standby, "{standby} did not take over");
            host.run("systemctl start holdfast").map(drop)
        })?;
        story.step("kill -9 of the main process of the primary", |primary, _| {
            let host = hosts.host(primary)?;
            let main = host.run("systemctl show --property MainPID --value holdfast")?.stdout;
            host.run(&format!("kill -9 {main}"))?;
            restarted(hosts, primary, main.trim())
        })?;
        story.step("the kernel kills the primary for want of memory", |primary, _| starve(hosts, primary))?;
        story.step("kill -9 of the main process of the witness", |_, _| {
            let host = hosts.host(WITNESS)?;
            let main = host.run("systemctl show --property MainPID --value holdfast-witness")?.stdout;
            host.run(&format!("kill -9 {main}")).map(drop)
        })?;
        story.step("a configuration that cannot be used", |primary, standby| {
            misconfigure(hosts, primary, standby)
        })?;
        story.end()
    });
}

/// Waits until systemd has started the unit of `name` again, whose main process was `main`.
fn restarted(hosts: &Hosts, name: &str, main: &str) -> Result<()> {
    hosts.wait(name, "the unit started again", |host| {
        let now = host.run("systemctl show --property MainPID,ActiveState holdfast")?.stdout;
        Ok(now.contains("ActiveState=active") && !now.contains(&format!("MainPID={main}\n")))
    })
}

/// Has the kernel kill every process of the unit at once, as it does with `memory.oom.group` where memory is at its
/// limit; systemd starts the unit again.
fn starve(hosts: &Hosts, name: &str) -> Result<()> {
    let host = hosts.host(name)?;
    let main = host.run("systemctl show --property MainPID --value holdfast")?.stdout;
    match host.group().starve("holdfast.service")? {
        Starved::ByKernel => println!("the kernel killed the group"),
        Starved::WithHelp => {
            println!("the kernel killed a process for want of memory, and the test the rest")
        }
        Starved::BySignal => println!("memory cannot be limited here: the test killed the group"),
    }
    restarted(hosts, name, main.trim())
}

/// Breaks the configuration of the standby and restarts it; the primary serves on, and once the file is mended the unit
/// comes back by itself.
fn misconfigure(hosts: &Hosts, primary: &str, standby: &str) -> Result<()> {
    const CONFIG: &str = "/etc/holdfast/holdfast.hcl";
    let host = hosts.host(standby)?;
    let good = host.read(CONFIG)?;
    host.write(CONFIG, &good.replace("priority = ", "prioritty = "))?;
    let said = host.try_run("systemctl restart holdfast")?;
    ensure!(said.status != 0, "a unit with a mistake in its configuration started");
    let journal = host.journal_of("holdfast")?;
    ensure!(journal.contains("prioritty"), "the journal does not name the mistake:\n{journal}");
    ensure!(hosts.holders()? == [primary], "the primary does not serve on");
    host.write(CONFIG, &good)
}

#[test]
fn a_cold_boot_in_any_order_ends_as_the_rules_say_with_no_person() {
    promise_on_hosts(Image::Bare, |hosts| {
        hosts.set_up(NOW, "pair-with-witness-{}.hcl", |_, text| text)?;
        let mut story = Story::begin(hosts)?;
        let cluster = hosts.cluster();
        story.step("all at once", |_, _| {
            lose_all_power(hosts)?;
            hosts.boot_all()
        })?;
        story.step("the former primary first", |primary, standby| {
            lose_all_power(hosts)?;
            alone_serves(hosts, primary)?;
            hosts.host(standby)?.boot()
        })?;
        story.step("the former standby first", |primary, standby| {
            lose_all_power(hosts)?;
            alone_serves(hosts, standby)?;
            hosts.host(primary)?.boot()
        })?;
        story.step("the witness last", |_, _| {
            lose_all_power(hosts)?;
            hosts.host("a")?.boot()?;
            hosts.host("b")?.boot()?;
            // Two of three votes, both in the in-sync set: nobody waits for the witness.
            cluster.wait_for_primary(LIMIT)?;
            hosts.host(WITNESS)?.boot()
        })?;
        story.step("one alone, which missed writes", |primary, standby| {
            hosts.host(standby)?.cut_power()?;
            let left_out = |s: &Status| s.is_primary() && s.in_sync == [primary];
            cluster
                .wait_until("the primary alone in the in-sync set", LIMIT, |all| all.iter().any(left_out))?;
            hosts.host(primary)?.cut_power()?;
            hosts.host(WITNESS)?.cut_power()?;
            hosts.host(standby)?.boot()?;
            hosts.host(WITNESS)?.boot()?;
            // Never elected, however long it waits; it says why, and the address is nowhere.
            let says = |s: &Status| s.node == standby && s.waiting_for.is_some() && s.voters.len() == 3;
            cluster
                .wait_until("the one left out says what it waits for", LIMIT, |all| all.iter().any(says))?;
            std::thread::sleep(cluster.spec().lease() * 10);
            let status = cluster.status(standby)?;
            println!("{standby} alone: {}", status.waiting_for.clone().unwrap_or_default());
            ensure!(status.role == "standby" || status.role == "candidate", "{standby} is {}", status.role);
            ensure!(hosts.holders()?.is_empty(), "the address is on {:?}", hosts.holders()?);
            hosts.host(primary)?.boot()
        })?;
        story.end()
    });
}

fn lose_all_power(hosts: &Hosts) -> Result<()> {
    hosts.all().iter().try_for_each(|host| host.cut_power())
}

/// Boots `name` and the witness alone: it holds every acknowledged byte, and serves.
fn alone_serves(hosts: &Hosts, name: &str) -> Result<()> {
    hosts.host(name)?.boot()?;
    hosts.host(WITNESS)?.boot()?;
    let primary = hosts.cluster().wait_for_primary(LIMIT)?;
    ensure!(primary == name, "{primary} serves, and not {name}");
    Ok(())
}
