//! What happens between hosts: cables that are pulled, switches that swallow, directions that fail; and what a standby
//! that was away has in the end.

use std::time::Duration;

use anyhow::{Result, ensure};
use holdfast_agent::lab::cluster::Fault;
use holdfast_agent::lab::settings::WITNESS;
use holdfast_integration::hosts::{Hosts, Image, NOW, promise_on_hosts};
use holdfast_integration::measure::all_the_same;
use holdfast_integration::stage::LIMIT;

use crate::steps::Story;

#[test]
fn a_partition_costs_no_acknowledged_write_and_heals_with_no_person() {
    promise_on_hosts(Image::Bare, |hosts| {
        hosts.set_up(NOW, "pair-with-witness-{}.hcl", |_, text| text)?;
        let mut story = Story::begin(hosts)?;
        for (name, fault) in [
            ("the primary's cable is pulled", Fault::Cut),
            ("the switch swallows all packets of the primary", Fault::Deaf),
            ("what the primary sends is lost", Fault::Unheard),
            ("what is sent to the primary is lost", Fault::Unhearing),
        ] {
            story.step(name, |primary, standby| {
                let cluster = hosts.cluster();
                cluster.inflict(primary, fault)?;
                let moved = format!("{standby} takes over");
                cluster.wait_until(&moved, LIMIT, |all| {
                    all.iter()
                        .any(|s| s.node == standby && s.is_primary() && s.vips.iter().all(|vip| vip.held))
                })?;
                // By now the former primary has let go by itself, though nobody could tell it anything.
                gave_up(hosts, primary)?;
                cluster.world().mend()
            })?;
        }
        let pause = |hosts: &Hosts| std::thread::sleep(hosts.cluster().spec().lease() * 5);
        story.step("the standby's cable is pulled", |primary, standby| {
            hosts.cluster().inflict(standby, Fault::Cut)?;
            pause(hosts);
            ensure!(hosts.holders()? == [primary], "{primary} does not serve on");
            hosts.cluster().world().mend()
        })?;
        let gap = story
            .step("the witness's cable is pulled", |primary, _| {
                hosts.cluster().inflict(WITNESS, Fault::Cut)?;
                pause(hosts);
                ensure!(hosts.holders()? == [primary], "{primary} does not serve on");
                hosts.cluster().world().mend()
            })?
            .longest_gap();
        ensure!(gap < Duration::from_secs(1), "without the witness clients waited {gap:?}");
        story.end()
    });
}

fn gave_up(hosts: &Hosts, name: &str) -> Result<()> {
    hosts.wait(name, "the address taken off", |_| Ok(!hosts.holders()?.contains(&name)))?;
    let status = hosts.cluster().status(name)?;
    ensure!(!status.is_primary(), "{name} still calls itself primary");
    Ok(())
}

#[test]
fn a_standby_that_was_away_has_the_same_bytes_and_serves_them_alone() {
    promise_on_hosts(Image::Bare, |hosts| {
        hosts.set_up(NOW, "pair-with-witness-{}.hcl", |_, text| text)?;
        let mut story = Story::begin(hosts)?;
        story.step("a standby that is stopped for a while", |_, standby| {
            let host = hosts.host(standby)?;
            host.run("systemctl stop holdfast")?;
            std::thread::sleep(Duration::from_secs(2));
            host.run("systemctl start holdfast").map(drop)
        })?;
        story.step("a standby that lost its log", |_, standby| {
            let host = hosts.host(standby)?;
            host.run("systemctl stop holdfast && rm -r /var/lib/holdfast/store")?;
            host.run("systemctl start holdfast").map(drop)
        })?;
        let bytes = all_the_same(hosts.cluster())?;
        ensure!(bytes > 0, "nothing was compared");
        println!("{bytes} bytes are the same on both");
        // Each of them serves all of it without the other one.
        for _ in 0..2 {
            let primary = hosts.wait_well()?;
            let standby = hosts.cluster().other_than(&primary);
            hosts.host(&primary)?.cut_power()?;
            ensure!(hosts.cluster().wait_for_primary(LIMIT)? == standby, "{standby} did not take over");
            story.look()?;
            hosts.host(&primary)?.boot()?;
        }
        story.end()
    });
}
