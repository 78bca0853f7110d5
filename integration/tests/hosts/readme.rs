//! From bare Debian to a pair that serves, by the commands of the README, as they are printed there.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use holdfast_agent::lab::settings::{VIP, WITNESS};
use holdfast_integration::hosts::{Hosts, Image, NOW, PATIENCE, promise_on_hosts};

use crate::steps::Story;

const README: &str = include_str!("../../../README.md");
/// The section with the commands.
const SECTION: &str = "\n## Set up a pair with a witness\n";
/// Most commands on one host.
const AT_MOST: usize = 5;
/// Where what `holdfast init` prints goes, since nobody is there to read it.
const PRINTED: &str = "/root/printed";

#[test]
fn the_commands_of_the_readme_make_bare_hosts_a_pair_that_serves() {
    promise_on_hosts(Image::Bare, |hosts| {
        let [first, second, third] = commands()?;
        for (host, commands) in [("a", &first), ("b", &second), (WITNESS, &third)] {
            ensure!(commands.len() <= AT_MOST, "{} commands on {host}: {commands:?}", commands.len());
            hosts.put_package(host, NOW)?;
        }
        let began = Instant::now();
        let failed = AtomicBool::new(false);
        let run = |host: &'static str, commands: &[String]| -> Result<()> {
            let done = commands.iter().try_for_each(|command| carry_out(hosts, host, command, &failed));
            failed.fetch_or(done.is_err(), Ordering::SeqCst);
            done
        };
        std::thread::scope(|scope| -> Result<()> {
            let running = [("a", &first), ("b", &second), (WITNESS, &third)]
                .map(|(host, all)| scope.spawn(move || run(host, all)));
            running.into_iter().try_for_each(|thread| thread.join().expect("no panic in a command"))
        })?;
        println!("from bare hosts to a pair in {:.1} s", began.elapsed().as_secs_f32());
        hosts.wait_well()?;
        let secret = hosts.host("a")?.read("/etc/holdfast/root-secret")?;
        let mut story = Story::begin_with(hosts, secret.trim())?;
        // What was enabled comes back by itself.
        story.step("a reboot of all three, one after the other", |primary, standby| {
            for host in [WITNESS, standby, primary] {
                hosts.host(host)?.reboot()?;
                hosts.wait_well()?;
            }
            Ok(())
        })?;
        story.end()
    });
}

/// The commands for host one, host two and the witness.
fn commands() -> Result<[Vec<String>; 3]> {
    let section = README.split_once(SECTION).context("the README's section")?.1;
    let section = section.split("\n## ").next().unwrap_or_default();
    let mut blocks = section.split("```console\n").skip(1).map(|rest| {
        let block = rest.split("```").next().unwrap_or_default();
        block.lines().filter_map(|line| line.strip_prefix("# ")).map(str::to_owned).collect::<Vec<_>>()
    });
    let mut next = || blocks.next().filter(|block| !block.is_empty()).context("a block of commands");
    Ok([next()?, next()?, next()?])
}

/// Runs one command as root, in the directory of the package. Only what differs here differs: the network of the lab, and
/// the token, which is copied from what `holdfast init` printed for this host.
fn carry_out(hosts: &Hosts, name: &str, command: &str, failed: &AtomicBool) -> Result<()> {
    let host = hosts.host(name)?;
    let mut line = command.replace("10.0.0.100", &VIP.to_string());
    if line.contains("TOKEN") {
        line = line.replace("TOKEN", &token(hosts, if name == WITNESS { 1 } else { 0 }, failed)?);
    }
    let said = host.try_run(&format!("cd /root && {line} >>{PRINTED} 2>&1"))?;
    ensure!(
        said.status == 0,
        "on {name}, `{command}` ended with status {}:\n{}",
        said.status,
        host.read(PRINTED).unwrap_or_default()
    );
    Ok(())
}

/// The token of the join line that stands at `place` among those that host one printed.
fn token(hosts: &Hosts, place: usize, failed: &AtomicBool) -> Result<String> {
    const JOIN: &str = "holdfast join ";
    let (first, end) = (hosts.host("a")?, Instant::now() + PATIENCE);
    loop {
        let printed = first.read(PRINTED).unwrap_or_default();
        let mut tokens =
            printed.lines().filter_map(|line| line.split_once(JOIN)?.1.split_whitespace().next());
        if let Some(token) = tokens.nth(place) {
            return Ok(token.to_owned());
        }
        ensure!(!failed.load(Ordering::SeqCst), "another host failed");
        ensure!(Instant::now() < end, "host one printed no join line:\n{printed}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}
