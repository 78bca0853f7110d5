//! Either member is killed at random under load, again and again; nothing that was acknowledged is lost, the copies end
//! up the same, and nobody has to lend a hand.
//!
//! The bound of the promise is 200 kills: `HOLDFAST_KILLS=200 cargo test --workspace --test kills`. Without it, fewer.

use std::time::{Duration, Instant};

use holdfast_agent::lab::cluster::Fault;
use holdfast_agent::lab::ledger::{Load, LoadSpec};
use holdfast_agent::lab::settings::ClusterSpec;
use holdfast_agent::runtime::log_thread::wall_ms;
use holdfast_integration::measure::{all_the_same, all_there};
use holdfast_integration::promise;
use holdfast_integration::sim::chance::Chance;
use holdfast_integration::stage::LIMIT;
use holdfast_replication::testing::Dice;

/// Kills where HOLDFAST_KILLS says nothing.
const KILLS: u64 = 8;
/// Kills between two looks whether writes get through: in between, both members may be down.
const LOOK_EVERY: u64 = 10;

#[test]
fn killed_at_random_either_member_comes_back_by_itself_with_everything() {
    let kills =
        std::env::var("HOLDFAST_KILLS").map_or(KILLS, |text| text.parse().expect("a number of kills"));
    let seed = wall_ms();
    let spec = ClusterSpec { segment_size: Some("4MB".to_owned()), ..ClusterSpec::default() };
    promise(spec, |cluster| {
        let mut dice = Dice(seed);
        let (client, target) = (cluster.client()?, cluster.target("kills"));
        cluster.wait_in_sync(LIMIT)?;
        target.create_bucket(&client, LIMIT)?;
        let load = Load::start(&client, &target, LoadSpec { writers: 4, seed, ..LoadSpec::default() });
        let began = Instant::now();
        for kill in 1..=kills {
            let host = if dice.one_in(2) { "a" } else { "b" };
            // Its supervisor too: nothing of it lives on, as after `kill -9` of the whole service.
            cluster.inflict(host, Fault::KillAll)?;
            std::thread::sleep(Duration::from_millis(dice.up_to(400)));
            // What systemd does.
            cluster.inflict(host, Fault::Heal)?;
            if kill % LOOK_EVERY == 0 || kill == kills {
                load.wait_for_more(50, LIMIT)?;
            } else {
                std::thread::sleep(Duration::from_millis(dice.up_to(1500)));
            }
        }
        cluster.wait_in_sync(LIMIT)?;
        let ledger = load.stop()?;
        println!(
            "{kills} kills in {:.0} s (seed {seed}): {} acknowledged, {} ambiguous, longest gap {} ms",
            began.elapsed().as_secs_f64(),
            ledger.acknowledged.len(),
            ledger.ambiguous.len(),
            ledger.longest_gap().as_millis(),
        );
        all_there(cluster, &target, &ledger)?;
        println!("the same on both members, from disk to disk: {} bytes", all_the_same(cluster)?);
        // And on the other one alone.
        let primary = cluster.wait_in_sync(LIMIT)?;
        cluster.inflict(&primary, Fault::PowerOff)?;
        cluster.wait_for_primary(LIMIT)?;
        all_there(cluster, &target, &ledger)
    });
}
