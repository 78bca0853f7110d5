//! Random faults from one seed each: rules R1, R2 and the address at every event, liveness after the end
//! of all faults. `HOLDFAST_SEED=n` repeats one, `HOLDFAST_SEEDS=n` runs more.

use std::time::Duration;

use holdfast_heartbeat::Role;

use super::cluster::{Cluster, MS, Shape, Weather};
use crate::node::event::{Command, Event, FailedCheck};

const SEEDS: u64 = 150;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[test]
fn random_faults_lose_no_acknowledged_write_and_always_heal() {
    if let Some(seed) = number("HOLDFAST_SEED") {
        return one(seed, false);
    }
    let from = number("HOLDFAST_FROM").unwrap_or(1);
    for seed in from..from + number("HOLDFAST_SEEDS").unwrap_or(SEEDS) {
        one(seed, false);
    }
}

/// A pair that is never cut in two: then nothing may be lost either.
#[test]
fn a_pair_that_is_not_cut_loses_nothing_and_always_heals() {
    if let Some(seed) = number("HOLDFAST_SEED") {
        return one(seed, true);
    }
    let from = number("HOLDFAST_FROM").unwrap_or(1);
    for seed in from..from + number("HOLDFAST_SEEDS").unwrap_or(SEEDS / 3) {
        one(seed, true);
    }
}

fn one(seed: u64, pair: bool) {
    let outcome = std::panic::catch_unwind(|| run(seed, pair));
    if let Err(panic) = outcome {
        eprintln!(
            "repeat with: HOLDFAST_SEED={seed} cargo test {}",
            if pair { "a_pair_that" } else { "random_faults_lose" }
        );
        std::panic::resume_unwind(panic);
    }
}

/// What is said of a host's health, at random.
fn judged(dice: &mut Weather) -> Event {
    if dice.draw(3) == 0 {
        return Event::DiskJudged { good: dice.draw(2) == 0, detail: "the disk is slow".into() };
    }
    let penalty = [0, 0, 10, 20, 10_000][dice.draw(5) as usize];
    let failed = [FailedCheck { name: "web".into(), detail: "exit status 1".into() }];
    Event::ChecksJudged { penalty, failed: failed.into_iter().filter(|_| penalty > 0).collect() }
}

fn run(seed: u64, pair: bool) {
    let mut dice = Weather {
        seed: (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        lost: 0,
        doubled: 0,
        delay: Duration::ZERO,
        jitter: Duration::ZERO,
        disk_jitter: Duration::ZERO,
    };
    // Health is drawn apart, so that the other faults of a seed stay what they were.
    let mut health = dice.clone();
    health.seed = health.seed.rotate_left(32) | 1;
    let data = if pair { 2 } else { [2, 2, 2, 3, 3, 4][dice.draw(6) as usize] };
    let witness = !pair && (data != 3 || dice.draw(3) == 0);
    let mut cluster = Cluster::new(Shape { data, witness, failback: dice.draw(4) == 0, ..Shape::default() });
    let n = cluster.hosts.len();
    let interval = Duration::from_millis(100);
    let drift = [0, 4000][dice.draw(2) as usize];
    for i in 0..n {
        cluster.hosts[i].clock_ppm = [-drift, 0, drift][dice.draw(3) as usize];
        cluster.boot(i);
    }
    cluster.run(interval * 20);
    // Of a disk that is lost with others that hold the same nothing is expected but safety.
    let mut wipes = u64::from(!pair && dice.draw(4) == 0);
    let mut wiped = false;
    // Half of the clusters are under maintenance as well.
    let kinds = [26, 32][dice.draw(2) as usize];
    let mut forces = u64::from(!pair && dice.draw(5) == 0);
    cluster.weather.seed = dice.draw(u64::MAX) | 1;
    cluster.weather.lost = [0, 20, 100, 250][dice.draw(4) as usize];
    cluster.weather.doubled = [0, 50][dice.draw(2) as usize];
    cluster.weather.jitter = [Duration::ZERO, MS, 10 * MS, 60 * MS][dice.draw(4) as usize];
    cluster.weather.disk_jitter = [MS, 10 * MS, 40 * MS, 150 * MS][dice.draw(4) as usize];
    if pair {
        cluster.weather.lost = 0;
    }
    let steps = 40 + dice.draw(40);
    for _ in 0..steps {
        let i = dice.draw(n as u64) as usize;
        let j = dice.draw(n as u64) as usize;
        let running = cluster.hosts[i].node.is_some();
        // In half of the clusters checks come and go, and disks stall and recover, at one step in six.
        if seed.is_multiple_of(2) && running && health.draw(6) == 0 {
            let event = judged(&mut health);
            cluster.feed(i, event);
        }
        match dice.draw(kinds) {
            0 if running => cluster.power_off(i),
            1 if running => {
                let epoch = cluster.epoch(i);
                cluster.kill(i);
                if dice.draw(2) == 0 {
                    cluster.run(MS * dice.draw(5) as u32);
                    cluster.bury(i, epoch);
                }
            }
            2..=4 if !running => cluster.boot(i),
            5 if running => cluster.hosts[i].dies_after = Some(dice.draw(40)),
            6 => cluster.pause(i),
            7 | 8 if cluster.hosts[i].paused => cluster.resume(i),
            9 if !pair => cluster.isolate(i),
            10 | 11 if !pair => drop(cluster.cut.insert((i, j))),
            12 | 13 => cluster.heal(),
            14 | 15 => cluster.command(i, dice.draw(1 << 40), Command::Failover { to: None }),
            16 => cluster.command(i, dice.draw(1 << 40), Command::Promote { accept_data_loss: false }),
            17 => drop(cluster.stream_cut.insert((i, j))),
            18 => cluster.stream_cut.clear(),
            19 => {
                let good = dice.draw(3) > 0;
                cluster.feed(i, Event::LinksJudged { good, detail: "carrier".into() });
            }
            20 if running && dice.draw(3) == 0 => cluster.feed(i, Event::TerminationRequested),
            21 => cluster.hosts[i].log_full = dice.draw(3) == 0,
            22 => cluster.stream_delay = [Duration::ZERO, 20 * MS, 150 * MS][dice.draw(3) as usize],
            23 if wipes > 0 => {
                wipes -= 1;
                wiped = true;
                cluster.wipe(i);
            }
            24 if forces > 0 => {
                forces -= 1;
                cluster.price_accepted = true;
                cluster.command(i, dice.draw(1 << 40), Command::Promote { accept_data_loss: true });
            }
            26 => cluster.command(i, dice.draw(1 << 40), Command::Pause { at_unix_ms: dice.draw(1 << 40) }),
            27..=29 => {
                cluster.command(i, dice.draw(1 << 40), Command::Resume { at_unix_ms: dice.draw(1 << 40) })
            }
            30 | 31 => cluster.command(i, dice.draw(1 << 40), Command::Drain),
            25 => {
                for host in 0..n {
                    if cluster.hosts[host].node.is_some() {
                        cluster.power_off(host);
                    }
                }
                for host in 0..n {
                    if dice.draw(4) > 0 {
                        cluster.boot(host);
                    }
                }
            }
            _ => {}
        }
        for _ in 0..dice.draw(6) {
            cluster.run(MS * dice.draw(80) as u32);
            for host in 0..data {
                cluster.write(host);
            }
            for host in 0..n {
                if cluster.hosts[host].exited {
                    cluster.power_off(host);
                    cluster.hosts[host].exited = false;
                }
            }
        }
    }
    cluster.heal();
    cluster.stream_cut.clear();
    cluster.weather.lost = 0;
    cluster.weather.jitter = Duration::ZERO;
    cluster.weather.disk_jitter = MS;
    cluster.stream_delay = Duration::ZERO;
    for i in 0..n {
        cluster.hosts[i].dies_after = None;
        cluster.hosts[i].log_full = false;
        if cluster.hosts[i].exited {
            cluster.power_off(i);
        }
        if cluster.hosts[i].node.is_none() {
            cluster.boot(i);
        }
        if cluster.hosts[i].paused {
            cluster.resume(i);
        }
        cluster.feed(i, Event::LinksJudged { good: true, detail: String::new() });
        cluster.feed(i, Event::ChecksJudged { penalty: 0, failed: Vec::new() });
        cluster.feed(i, Event::DiskJudged { good: true, detail: String::new() });
    }
    cluster.run(interval * 50);
    for i in 0..n {
        if cluster.hosts[i].exited {
            cluster.power_off(i);
            cluster.boot(i);
        }
        // What was ordered holds until it is taken back, here for everybody.
        cluster.command(i, dice.draw(1 << 40), Command::Resume { at_unix_ms: 0 });
    }
    cluster.run(interval * 450);
    let primary = cluster.primary();
    if primary.is_none() && wiped {
        return;
    }
    assert!(primary.is_some(), "seed {seed} does not heal: {:#?}", cluster.story());
    let all: Vec<_> = (0..data).collect();
    assert_eq!(cluster.in_sync(primary.unwrap()), all, "seed {seed}: {:#?}", cluster.story());
    assert!(cluster.hosts.iter().all(
        |host| host.serving.is_none() || host.settings.me == cluster.hosts[primary.unwrap()].settings.me
    ));
    assert_eq!(cluster.role(primary.unwrap()), Role::Primary);
}
